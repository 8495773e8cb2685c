package kubernetes

import (
	"context"
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/weir-dev/weir/xds/source"
)

const benchRoute = `{apiVersion: weir.dev/v1alpha1, kind: Route, metadata: {name: r%05d, namespace: ns, uid: u-1, generation: %d}, spec: {rules: [
 {name: fast, matches: [{models: [fast-*], headers: [{name: x-team, value: red}]}], backends: [{name: a, weight: 3}, {name: b}]}, {backends: [{name: a}, {name: b, priority: 1}]}]}}`

// BenchmarkRead is what one Route that has changed costs to validate and decode.
func BenchmarkRead(b *testing.B) {
	r := newReader(b)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		u := object(b, fmt.Sprintf(benchRoute, 0, 1))
		b.StartTimer()
		if rec := r.read(u, nil, false); rec.object == nil || rec.problems != nil {
			b.Fatal(rec.problems)
		}
	}
}

// BenchmarkOneChange is what it costs to hand on the change of one Route among many.
func BenchmarkOneChange(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s, err := New(Options{Config: &rest.Config{Host: "http://127.0.0.1:1"}})
			if err != nil {
				b.Fatal(err)
			}
			calls := 0
			w := newWatcher(s, func(*source.Objects, []source.Problem) { calls++ })
			ctx, cancel := context.WithCancel(b.Context())
			cancel() // nothing runs
			w.ctx = ctx
			w.startKinds()
			read := newReader(b)
			all, one := make([]any, n), &kept[*record]{}
			for i := range all {
				k := &kept[*record]{value: read.read(object(b, fmt.Sprintf(benchRoute, i, 1)), nil, false)}
				k.Namespace, k.Name = "ns", fmt.Sprintf("r%05d", i)
				all[i] = k
			}
			*one = *all[n/2].(*kept[*record])
			for kind, feeds := range w.feeds {
				list := []any{}
				if kind == "Route" {
					list = all
				}
				if err := feeds[0].Replace(list, "1"); err != nil {
					b.Fatal(err)
				}
			}
			w.settle(time.Unix(1, 0))
			routes := w.feeds["Route"][0]
			key := types.NamespacedName{Namespace: one.Namespace, Name: one.Name}
			old, _ := routes.get(key)
			variants := []*record{old, read.read(object(b, fmt.Sprintf(benchRoute, n/2, 2)), nil, false)}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				one.value = variants[i%2]
				if err := routes.Update(one); err != nil {
					b.Fatal(err)
				}
				w.settle(time.Unix(1, 0))
			}
			if calls != i+1 {
				b.Errorf("%d calls for %d changes", calls, i)
			}
		})
	}
}
