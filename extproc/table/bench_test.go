package table

import (
	"fmt"
	"testing"
)

// benchTable has n rules: each names a model of its own, and one in a hundred has a pattern.
func benchTable(tb testing.TB, n int) *Table {
	names, list := make([]string, n), make([]Match, n)
	for i := range n {
		names[i] = fmt.Sprintf("default/rule-%d", i)
		list[i] = Match{Models: []string{fmt.Sprintf("model-%d", i)}, RouteOrder: names[i]}
		if i%100 == 0 {
			list[i].Models = []string{fmt.Sprintf("family-%d-*", i)}
		}
	}
	return built(tb, names, list)
}

// BenchmarkFind finds among 10,000 rules: one that names the model, one by the last pattern, none.
func BenchmarkFind(b *testing.B) {
	tbl := benchTable(b, 10_000)
	for _, model := range []string{"model-9999", "family-0-x", "no-such-model"} {
		r := request(func(r *Request) { r.Model = model })
		b.Run(model, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				tbl.Find(r)
			}
		})
	}
}

// TestFindAllocatesNothing: it is on every request's path.
func TestFindAllocatesNothing(t *testing.T) {
	tbl := benchTable(t, 1000)
	for _, model := range []string{"model-999", "family-0-x", "no-such-model"} {
		r := request(func(r *Request) { r.Model = model })
		if n := testing.AllocsPerRun(100, func() { tbl.Find(r) }); n != 0 {
			t.Errorf("%s: %v allocations", model, n)
		}
	}
}
