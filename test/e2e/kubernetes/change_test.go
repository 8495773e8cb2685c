package kubernetes

import (
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/e2e/harness"
)

// TestChangesUnderLoad deletes, makes again and renames Routes and Backends while requests of other Routes, and of these, keep coming.
func TestChangesUnderLoad(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	up, other := newSim(t, "gpt-4o"), newSim(t, "gpt-4o")
	r.secret("key-up", map[string]string{"value": "upstream-secret"})
	r.secret("key-other", map[string]string{"value": "other-secret"})
	moving := route("moving", "moving", "{name: up, model: gpt-4o}")
	objects := r.apply(basics(), backend("up", up), backend("other", other), route("steady", "steady", "{name: up, model: gpt-4o}"), moving,
		route("pair", "pair", "{name: up, model: gpt-4o}, {name: other, model: gpt-4o, priority: 1}"))
	g := r.serve("weir-0", harness.Options{})
	r.awaitProgrammed(objects)

	// What a Route that is being deleted answers beside 200.
	var also atomic.Int64
	l := startLoad(t, g.URL, 4, ask{model: "steady"}, ask{model: "steady", stream: true}, ask{model: "pair"}, ask{model: "moving", also: &also})
	answers := func(what string, a ask, status int, backend string) time.Duration {
		t.Helper()
		return eventually(t, what, func() (bool, string) {
			got := a.once(t, g.URL)
			return got.status == status && (backend == "" || got.backend == backend), fmt.Sprintf("%d from %q: %s", got.status, got.backend, got.body)
		})
	}
	ref := func(kind, name string) string { return kind + " " + name }
	var took []time.Duration

	t.Run("a Route is deleted and made again", func(t *testing.T) {
		for range 3 {
			before := r.status(r.object("Route", "moving"))
			also.Store(http.StatusNotFound)
			r.delete("Route", "moving")
			took = append(took, answers("the Route is gone", ask{model: "moving"}, http.StatusNotFound, ""))
			again := r.apply(moving)
			took = append(took, answers("the Route is back", ask{model: "moving"}, http.StatusOK, ""))
			r.awaitProgrammed(again)
			if after := r.status(r.object("Route", "moving")); after.uid == before.uid || after.generation != 1 {
				t.Errorf("%s is the same object as before: %s", ref("Route", "moving"), after.String())
			}
			also.Store(0)
			l.more(40)
		}
	})
	t.Run("a Route is deleted and made again at once", func(t *testing.T) {
		also.Store(http.StatusNotFound) // whether a reading falls between the two is a matter of luck
		for range 5 {
			r.delete("Route", "moving")
			r.apply(moving)
		}
		r.awaitProgrammed([]*object{r.object("Route", "moving")})
		answers("the Route is back", ask{model: "moving"}, http.StatusOK, "")
		also.Store(0)
		l.more(40)
	})
	t.Run("a Route is renamed", func(t *testing.T) {
		// The new one first, which is the same as far as requests go: of two Routes that say the same the older is asked.
		r.apply(route("moved", "moving", "{name: other, model: gpt-4o}"))
		l.more(40)
		r.delete("Route", "moving")
		took = append(took, answers("the new Route serves", ask{model: "moving"}, http.StatusOK, r.ns+"/other"))
		r.awaitProgrammed([]*object{r.object("Route", "moved")})
		l.more(40)
	})
	t.Run("a Backend is renamed", func(t *testing.T) {
		old := "other"
		for _, name := range []string{"renamed-once", "renamed-twice", "renamed"} {
			// At one go, as `kubectl apply --prune` does: each kind is watched by itself, so that any of these may be seen first.
			r.secret("key-"+name, map[string]string{"value": "other-secret"})
			r.apply(backend(name, other))
			r.apply(route("moved", "moving", "{name: "+name+", model: gpt-4o}"), route("pair", "pair", "{name: up, model: gpt-4o}, {name: "+name+", model: gpt-4o, priority: 1}"))
			r.delete("Backend", old)
			old = name
			took = append(took, answers("the new Backend serves", ask{model: "moving"}, http.StatusOK, r.ns+"/"+name))
		}
		r.awaitProgrammed([]*object{r.object("Route", "moved"), r.object("Backend", "renamed")})
		l.more(40)
	})
	t.Run("a Backend is deleted that a Route has beside another", func(t *testing.T) {
		also.Store(http.StatusServiceUnavailable)
		r.delete("Backend", "renamed")
		took = append(took, answers("the Route has no Backend left", ask{model: "moving"}, http.StatusServiceUnavailable, ""))
		r.awaitCondition(r.object("Route", "moved"), "ResolvedRefs", "RefNotFound", "spec.rules[0].backends[0].name")
		r.awaitCondition(r.object("Route", "pair"), "ResolvedRefs", "RefNotFound", "spec.rules[0].backends[1].name")
		r.apply(backend("renamed", other))
		took = append(took, answers("the Backend is back", ask{model: "moving"}, http.StatusOK, r.ns+"/renamed"))
		r.awaitProgrammed([]*object{r.object("Route", "moved"), r.object("Route", "pair"), r.object("Backend", "renamed")})
		also.Store(0)
		l.more(40)
	})
	l.mustHaveServed()
	slices.Sort(took)
	t.Logf("%d changes: from the call to the API server to the first answer that obeys: %v in the middle, %v at worst", len(took), took[len(took)/2], took[len(took)-1])
}
