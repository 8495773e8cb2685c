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

// TestLateBackendNeverComes: what waits is told in the end, and only once.
func TestLateBackendNeverComes(t *testing.T) {
	b := source.ObjectRef{Kind: "Backend", Namespace: "ns", Name: "b"}
	rec := &record{ref: source.ObjectRef{Kind: "Route", Namespace: "ns", Name: "r"}, object: &v1alpha1.Route{
		Spec: v1alpha1.RouteSpec{Rules: []v1alpha1.RouteRule{{Backends: []v1alpha1.RouteBackend{{Name: "b"}}}}}}}
	l := late{map[source.ObjectRef]time.Time{}}
	there := false
	has := func(ref source.ObjectRef) bool { return ref == b && there }
	begin := time.Unix(1000, 0)
	deadline := func(at time.Time) time.Duration {
		d := l.deadline([]*record{rec}, has, at)
		if d.IsZero() {
			return 0
		}
		return d.Sub(begin)
	}
	note := func(after time.Duration, gone ...source.ObjectRef) {
		var changed []*record
		if len(gone) == 0 {
			changed = []*record{rec}
		}
		l.note(changed, []*record{rec}, gone, has, begin.Add(after), time.Second)
	}
	for _, step := range []struct {
		what string
		do   func()
		at   time.Duration // when the deadline is asked for
		want time.Duration
	}{
		{"nothing is waited for", func() {}, 0, 0},
		{"the Route changes", func() { note(0) }, 0, time.Second},
		{"it changes again while it waits", func() { note(500 * time.Millisecond) }, 500 * time.Millisecond, time.Second},
		{"the time is over", func() {}, 2 * time.Second, 0},
		{"it changes again", func() { note(3 * time.Second) }, 3 * time.Second, 0},
		{"the Backend comes", func() { there = true; note(4 * time.Second) }, 4 * time.Second, 0},
		{"the Backend goes", func() { there = false; note(5*time.Second, b) }, 5 * time.Second, 6 * time.Second},
		{"it comes in time", func() { there = true }, 5500 * time.Millisecond, 0},
	} {
		step.do()
		if got := deadline(begin.Add(step.at)); got != step.want {
			t.Errorf("%s: the deadline is %v, want %v", step.what, got, step.want)
		}
	}
}
