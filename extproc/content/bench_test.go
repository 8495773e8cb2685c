package content

import (
	"fmt"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
)

// BenchmarkChunk reads one delta of a stream that nobody else reads.
func BenchmarkChunk(b *testing.B) {
	chunk := []byte(`data: {"id":"c","choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}` + "\n\n")
	c := New(rule(1<<20, `sk-\w{20}`), dialect(b, "openai"), canon.OpChat, "m", NewMemory(plenty))
	c.Tap(true)
	b.ReportAllocs()
	for b.Loop() {
		c.Chunk(chunk, false)
		c.Work()
	}
}

// BenchmarkSettle reads a prompt, redacts it and makes its attribute.
func BenchmarkSettle(b *testing.B) {
	for _, expressions := range []int{0, 3} {
		for _, size := range []int{1 << 10, 16 << 10, 256 << 10} {
			b.Run(fmt.Sprintf("%dKiB/%d expressions", size>>10, expressions), func(b *testing.B) {
				body := []byte(chat(strings.Repeat("a word and another, ", size/20)))
				r := rule(16<<10, []string{`sk-[A-Za-z0-9_-]{20,}`, `\b\d{4}([ -]?\d{4}){3}\b`, `[\w.+-]+@[\w-]+\.[\w.]+`}[:expressions]...)
				d, m := dialect(b, "openai"), NewMemory(plenty)
				b.ReportAllocs()
				b.SetBytes(int64(size))
				for b.Loop() {
					c := New(r, d, canon.OpChat, "m", m)
					c.Request(body, nil)
					c.Settle()
					c.Close()
				}
			})
		}
	}
}
