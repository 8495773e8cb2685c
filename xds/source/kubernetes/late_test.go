package kubernetes

import (
	"fmt"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/test/kubetest"
	"github.com/weir-dev/weir/xds/source"
)

func routeTo(name, backend string) string {
	return fmt.Sprintf("---\napiVersion: weir.dev/v1alpha1\nkind: Route\nmetadata: {name: %s}\nspec: {rules: [{backends: [{name: %s}]}]}\n", name, backend)
}

// TestLateBackend: no reading has a Route without its Backend only because one was seen before the other.
func TestLateBackend(t *testing.T) {
	c := kubetest.Shared(t)
	ns := c.Namespace(t)
	const url = "url: 'https://api.example.com/v1'"
	apply(t, c, ns, backend("a", url)+routeTo("r", "a"))
	opts := quick(c.Config, ns)
	opts.LateWait = patience // longer than the test
	opts.LookupWait = patience
	opts.Debounce = time.Nanosecond // each change by itself
	w := follow(t, opts)
	whole := func(r snapshot) string {
		for _, route := range r.objects.Routes {
			name := string(route.Spec.Rules[0].Backends[0].Name)
			if !slices.ContainsFunc(r.objects.Backends, func(b *v1alpha1.Backend) bool { return b.Name == name }) {
				return "without " + name
			}
		}
		return r.names()
	}
	w.await("Backend/a Route/r", whole)
	// The worst order that two lists can be seen in.
	apply(t, c, ns, routeTo("r", "b"))
	apply(t, c, ns, backend("b", url))
	if err := c.Client.Delete(t.Context(), &v1alpha1.Backend{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "b"}}); err != nil {
		t.Fatal(err)
	}
	apply(t, c, ns, backend("b", url))
	if err := c.Client.Delete(t.Context(), &v1alpha1.Backend{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "a"}}); err != nil {
		t.Fatal(err)
	}
	w.await("Backend/b Route/r", whole)
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, r := range w.calls {
		if got := whole(r); got == "without a" || got == "without b" {
			t.Errorf("reading %d is %s", i, got)
		}
	}
}

// TestLateBackendHoldsNothingElse: what waits for a Backend is its Route, and no other change.
func TestLateBackendHoldsNothingElse(t *testing.T) {
	c := kubetest.Shared(t)
	ns := c.Namespace(t)
	apply(t, c, ns, backend("a", "url: 'https://api.example.com/v1'")+routeTo("r", "a"))
	opts := quick(c.Config, ns)
	opts.LateWait = time.Hour
	w := follow(t, opts)
	w.await("Backend/a Route/r", snapshot.names)
	apply(t, c, ns, routeTo("lost", "nowhere")+routeTo("r", "nowhere"))
	apply(t, c, ns, consumer("c", "t"))
	r := w.await("Backend/a Consumer/c Route/r", snapshot.names)
	if got := r.objects.Routes[0].Spec.Rules[0].Backends[0].Name; got != "a" {
		t.Errorf("the Route leads to %s", got)
	}
	apply(t, c, ns, backend("nowhere", "url: 'https://api.example.com/v1'"))
	w.await("Backend/a Backend/nowhere Consumer/c Route/lost Route/r", snapshot.names)
}

// TestLateBackendNeverComes: what waits is told in the end, and only once.
func TestLateBackendNeverComes(t *testing.T) {
	b := source.ObjectRef{Kind: "Backend", Namespace: "ns", Name: "b"}
	to := func(name string, generation int64) *record {
		return &record{ref: source.ObjectRef{Kind: "Route", Namespace: "ns", Name: "r"}, object: &v1alpha1.Route{
			ObjectMeta: metav1.ObjectMeta{Generation: generation},
			Spec:       v1alpha1.RouteSpec{Rules: []v1alpha1.RouteRule{{Backends: []v1alpha1.RouteBackend{{Name: v1alpha1.ObjectName(name)}}}}}}}
	}
	first, second, third := to("b", 1), to("b", 2), to("b", 3)
	l := newLate()
	routes, backends := &collection{}, &collection{}
	begin := time.Unix(1000, 0)
	type changes = map[source.ObjectRef]*record
	for _, step := range []struct {
		what            string
		after           time.Duration
		routes, backend changes
		want            string // generation of the Route and number of Backends, and how long to wait
	}{
		{"nothing is waited for", 0, nil, nil, "0 0 0s"},
		{"a Route comes", 0, changes{first.ref: first}, nil, "0 0 1s"},
		{"it changes while it waits", 500 * time.Millisecond, changes{first.ref: second}, nil, "0 0 500ms"},
		{"nothing happens", 600 * time.Millisecond, nil, nil, "0 0 400ms"},
		{"the time is over", time.Second, nil, nil, "2 0 0s"},
		{"it changes again", 2 * time.Second, changes{first.ref: third}, nil, "3 0 0s"},
		{"the Backend comes", 3 * time.Second, nil, changes{b: {ref: b}}, "3 1 0s"},
		{"the Backend goes", 4 * time.Second, nil, changes{b: nil}, "3 1 1s"},
		{"it comes in time", 4500 * time.Millisecond, nil, changes{b: {ref: b}}, "3 1 0s"},
		{"it goes again", 5 * time.Second, nil, changes{b: nil}, "3 1 1s"},
		{"it does not come", 6 * time.Second, nil, nil, "3 0 0s"},
		{"the Route goes", 7 * time.Second, changes{first.ref: nil}, nil, "0 0 0s"},
		{"it comes again, and nobody waits", 8 * time.Second, changes{first.ref: first}, nil, "1 0 0s"},
		{"a Backend with its Route", 9 * time.Second, nil, changes{b: {ref: b}}, "1 1 0s"},
		{"both go", 10 * time.Second, changes{first.ref: nil}, changes{b: nil}, "0 0 0s"},
		{"a Route waits", 11 * time.Second, changes{first.ref: first}, nil, "0 0 1s"},
		{"and goes", 11500 * time.Millisecond, changes{first.ref: nil}, nil, "0 0 0s"},
	} {
		if step.routes == nil {
			step.routes = changes{}
		}
		if step.backend == nil {
			step.backend = changes{}
		}
		l.sift(step.routes, step.backend, routes, backends, begin.Add(step.after), time.Second)
		routes.apply(step.routes)
		backends.apply(step.backend)
		generation := int64(0)
		for _, rec := range routes.records {
			generation = rec.object.GetGeneration()
		}
		if got := fmt.Sprint(generation, len(backends.records), l.next(begin.Add(step.after))); got != step.want {
			t.Errorf("%s: got %s, want %s", step.what, got, step.want)
		}
	}
}
