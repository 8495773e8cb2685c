package key_test

import (
	"strings"
	"testing"

	"github.com/weir-dev/weir/extproc/cache/key"
)

// prompts of the sizes that docs/cache.md tells times of, beside the envelope of a request with a tool.
func prompts() map[string]string {
	line := "A line of a prompt that somebody has written, and its \\\"end\\\".\\n"
	make := func(size int) string {
		return `{"model":"gpt-4o-mini","temperature":0,"max_tokens":300,"stream":true,"messages":[{"role":"system","content":"You are terse."},{"role":"user","content":"` +
			strings.Repeat(line, size/len(line)) + `"}],"tools":[{"type":"function","function":{"name":"weather","description":"Weather of a city","parameters":{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}}]}`
	}
	return map[string]string{"0.5KB": make(256), "100KB": make(100 << 10)}
}

func BenchmarkOf(b *testing.B) {
	s := catalog(b)
	for name, body := range prompts() {
		b.Run(name, func(b *testing.B) {
			in := chat(b, s, "openai", body)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := key.Of(in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestAllocations: what a key costs does not grow with the prompt.
func TestAllocations(t *testing.T) {
	s := catalog(t)
	for name, body := range prompts() {
		in := chat(t, s, "openai", body)
		n := testing.AllocsPerRun(20, func() {
			if _, _, err := key.Of(in); err != nil {
				t.Fatal(err)
			}
		})
		if n > 4 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
