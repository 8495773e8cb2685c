package session

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// BenchmarkTurn is a request in a conversation that has 100 turns of about 1 KB of English each, and keeps no more; sealed, in memory.
func BenchmarkTurn(b *testing.B) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		b.Fatal(err)
	}
	var all strings.Builder
	for _, p := range pages {
		text, err := os.ReadFile(p)
		if err != nil {
			b.Fatal(err)
		}
		all.Write(text)
	}
	text := strings.ToValidUTF8(all.String(), "")
	if len(text) < 110<<10 {
		b.Fatalf("the pages have only %d bytes", len(text))
	}
	p := policyOf(with(b), encrypted(mustKey(b, 1)))
	r := newRig(b, nil, p)
	for i := range 100 {
		said := strings.ToValidUTF8(text[i<<10:(i+1)<<10], "")
		r.say(p, ana, said[:200], said[200:])
	}
	blob, _, _ := r.memory.Get(context.Background(), ana.Ref())
	b.ReportAllocs()
	for b.Loop() {
		r.say(p, ana, "And what does that mean for me?", "Nothing that you would have to do.")
	}
	b.ReportMetric(float64(len(blob)), "stored-bytes")
}
