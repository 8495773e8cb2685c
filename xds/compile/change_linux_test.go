package compile

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
)

// BenchmarkChange makes what follows from one changed object among n routes over a tenth as many backends, each with a limit. The time of the
// processor is told as well: it is the same on a machine that others use.
func BenchmarkChange(b *testing.B) {
	for _, c := range []struct {
		what   string
		change func(o *source.Objects, i int)
	}{
		{"Nothing", func(*source.Objects, int) {}},
		{"Route", func(o *source.Objects, i int) {
			r := o.Routes[i%len(o.Routes)].DeepCopy()
			r.Spec.Rules[0].Matches[0].Models[0] = v1alpha1.ModelName(fmt.Sprintf("other-%d", i))
			o.Routes[i%len(o.Routes)] = r
		}},
		{"Backend", func(o *source.Objects, i int) {
			r := o.Backends[i%len(o.Backends)].DeepCopy()
			r.Spec.Connections.MaxRequests = int32(1000 + i)
			o.Backends[i%len(o.Backends)] = r
		}},
		{"Endpoints", func(o *source.Objects, i int) {
			ref := source.RefOf(o.Backends[0])
			o.Endpoints = map[source.ObjectRef][]v1alpha1.Endpoint{ref: {{Address: "10.0.0.1", Port: 80}, {Address: fmt.Sprintf("10.1.%d.%d", i/250%250, 1+i%250), Port: 80}}}
		}},
		{"APIKey", func(o *source.Objects, i int) {
			k := o.APIKeys[0].DeepCopy()
			k.Spec.Prefix = fmt.Sprintf("p%d", i)
			o.APIKeys[0] = k
		}},
		{"LimitPolicy", func(o *source.Objects, i int) {
			p := o.LimitPolicies[i%len(o.LimitPolicies)].DeepCopy()
			p.Spec.Limits[0].Limit.Set(int64(i + 1))
			o.LimitPolicies[i%len(o.LimitPolicies)] = p
		}},
	} {
		b.Run(c.what, func(b *testing.B) {
			for _, n := range []int{100, 1_000, 10_000} {
				b.Run(fmt.Sprint(n), func(b *testing.B) {
					objs, opts := manyObjects(b, n, n/10), options(b)
					discovered := objs.Backends[0]
					discovered.Spec.URL, discovered.Spec.Selector = "", &v1alpha1.PodSelector{}
					objs.Endpoints[source.RefOf(discovered)] = []v1alpha1.Endpoint{{Address: "10.0.0.1", Port: 80}}
					limited := load(b, "apiVersion: weir.dev/v1alpha1\nkind: LimitPolicy\nmetadata: {name: p}\nspec: {targetRefs: [{kind: Route, name: r0}], limits: [{name: rpm, unit: Requests, limit: 1, window: 1m}]}\n").LimitPolicies[0]
					for i := range n {
						p := limited.DeepCopy()
						p.Name, p.Spec.TargetRefs[0].Name = fmt.Sprintf("p%d", i), fmt.Sprintf("r%d", i)
						objs.LimitPolicies = append(objs.LimitPolicies, p)
					}
					k := NewCompiler()
					compiled := func() {
						if v, problems := k.Compile(objs, opts); v == nil || len(problems) > 0 {
							b.Fatalf("refused: %v", problems)
						}
					}
					compiled()
					i := 0
					b.ReportAllocs()
					began := processorTime(b)
					for b.Loop() {
						next := *objs
						next.Routes, next.Backends, next.APIKeys = slices.Clone(objs.Routes), slices.Clone(objs.Backends), slices.Clone(objs.APIKeys)
						next.LimitPolicies = slices.Clone(objs.LimitPolicies)
						c.change(&next, i)
						objs = &next
						compiled()
						i++
					}
					b.ReportMetric(float64((processorTime(b)-began).Microseconds())/float64(b.N), "cpu-µs/op")
				})
			}
		})
	}
}

// processorTime is how long the process has had a processor.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
