package load

import (
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/load/lrs"
	"github.com/weir-dev/weir/xds/load/weigh"
)

// TestIsolationAndReturn: two failed checks in a row isolate, two passed ones bring back, with a warm-up.
func TestIsolationAndReturn(t *testing.T) {
	r := newRig(t)
	p := poolOf("default/pool", a1, a2)
	p.Weigh.WarmUp = 10 * time.Second
	r.Use(steeringOf(nil, p))
	r.step(ms)
	for range 10 {
		r.Observe(&usage.Record{Backend: p.Backend, Endpoint: a1, Status: 200, FirstToken: 9 * time.Second})
		r.Report(lrs.Report{Stream: 1, Cluster: p.Cluster, Endpoint: a1, Errors: 1})
	}
	for _, ok := range []bool{false, true, false} { // not in a row
		r.checked(r.check(p, 0, ok))
	}
	r.step(ms)
	if e := r.endpoint(p.Backend, a1); e.Status == weigh.Isolated || e.Failed != 1 || e.CheckErr == "" {
		t.Errorf("got %+v", e)
	}
	before := r.sent()
	r.checked(r.check(p, 0, false))
	r.tick(r.now()) // at once
	if e := r.endpoint(p.Backend, a1); e.Status != weigh.Isolated || e.Weight != 0 || e.Published != 0 || e.Why() != "2 health checks failed in a row -> 0" {
		t.Errorf("got %+v", e)
	}
	if r.sent() != before+1 {
		t.Errorf("Envoy was told %d times", r.sent()-before)
	}
	if got := weightsOf(r.last().Endpoints[p.Cluster]); got[a1] != 0 || got[a2] != 1000 {
		t.Errorf("Envoy is told %v", got)
	}
	for _, request := range []string{a2, a2, a2} {
		got, refused := r.picker.TryPick(&pick.Request{Pool: p.Backend, Tokens: 10}, r.now())
		if refused != nil || len(got.Endpoints) == 0 || got.Endpoints[0] != request {
			t.Fatalf("the picker gives %+v, %+v", got, refused)
		}
		got.Drop()
	}
	if n := r.counter("weir_endpoint_isolations_total", "backend", p.Backend); n != 1 {
		t.Errorf("%v isolations are counted", n)
	}
	r.checked(r.check(p, 0, true))
	r.step(time.Second)
	r.wantWeights(p.Backend, map[string]uint32{a1: 0})
	r.checked(r.check(p, 0, true))
	r.tick(r.now())
	// What it was like before says nothing any more.
	if e := r.endpoint(p.Backend, a1); e.Status != weigh.WarmingUp || e.TTFTCount != 0 || e.ErrorRate >= 0 || e.Requests != 10 {
		t.Errorf("got %+v", e)
	}
	last := uint32(0)
	for range 44 {
		w := r.endpoint(p.Backend, a1).Weight
		if w < last {
			t.Errorf("its weight goes back from %d to %d", last, w)
		}
		last = w
		r.step(250 * ms)
	}
	r.wantWeights(p.Backend, map[string]uint32{a1: 1000, a2: 1000})
}

// TestNobodyIsWell has the rule's other Backend serve.
func TestNobodyIsWell(t *testing.T) {
	r := newRig(t)
	p, other := poolOf("default/pool", a1, a2), poolOf("default/other", a3)
	r.Use(steeringOf(map[string]compile.SteeredRoute{"r": routeOf(to(p.Backend, 1, 0), to(other.Backend, 1, 1))}, p, other))
	for i := range p.Endpoints {
		for range 2 {
			r.checked(r.check(p, i, false))
		}
	}
	r.tick(r.now())
	if share, usable := r.Share(p.Backend); share != 0 || usable {
		t.Errorf("its share is %v, %v", share, usable)
	}
	if w := r.last().Weights["r"]; w[0] != 0 || w[1] != 1000 {
		t.Errorf("the route has %v", w)
	}
	// Where the policy believes in panic, they are used.
	panics := poolOf("default/pool", a1, a2)
	panics.Weigh.Panic = 0.5
	r.Use(steeringOf(map[string]compile.SteeredRoute{"r": routeOf(to(p.Backend, 1, 0), to(other.Backend, 1, 1))}, panics, other))
	r.tick(r.now())
	if share, usable := r.Share(p.Backend); share != 1 || !usable {
		t.Errorf("its share is %v, %v", share, usable)
	}
	if w := r.last().Weights["r"]; w[0] != 1000 || w[1] != 0 {
		t.Errorf("the route has %v", w)
	}
	for _, e := range r.picks(p.Backend) {
		if e.Isolated {
			t.Errorf("the picker may not use %s", e.Key)
		}
	}
}

// TestHalfOpen: a pool of which nothing is left but endpoints to be tried is asked by Weir, and not by Envoy alone.
func TestHalfOpen(t *testing.T) {
	r := newRig(t)
	p, other := poolOf("default/pool", a1), poolOf("default/other", a3)
	routes := map[string]compile.SteeredRoute{"r": routeOf(to(p.Backend, 1, 0), to(other.Backend, 1, 1))}
	r.Use(steeringOf(routes, p, other))
	r.fails(p, a1)
	r.tick(r.now())
	if share, usable := r.Share(p.Backend); share != 0 || usable {
		t.Errorf("while the breaker is open its share is %v, %v", share, usable)
	}
	r.step(p.Breaker.OpenFor + ms)
	share, usable := r.Share(p.Backend)
	if share <= 0 || share > 1 || !usable {
		t.Errorf("while the breaker is half open its share is %v, %v", share, usable)
	}
	if w := r.last().Weights["r"]; w[0] != 0 || w[1] != 1000 {
		t.Errorf("Envoy would send requests where it knows nobody: %v", w)
	}
	if e := r.endpoint(p.Backend, a1); e.Status != weigh.Isolated || e.Published != 0 {
		t.Errorf("got %+v", e)
	}
	for range p.Breaker.HalfOpenRequests {
		got, refused := r.picker.TryPick(&pick.Request{Pool: p.Backend, Tokens: 10}, r.now())
		if refused != nil {
			t.Fatalf("a try is refused: %+v", refused)
		}
		got.Done(pick.Ending{At: r.now(), Attempts: 1, Endpoint: a1, OK: true, TTFT: ms})
	}
	r.tick(r.now())
	if share, usable := r.Share(p.Backend); share != 1 || !usable || r.breakers.State(p.Breaker, a1, r.now()) != breaker.Closed {
		t.Errorf("after the tries its share is %v, %v", share, usable)
	}
	if w := r.last().Weights["r"]; w[0] != 1000 || w[1] != 0 {
		t.Errorf("the route has %v", w)
	}
}

// TestHalfOpenInPart: the tries are a small part of what the pool can take.
func TestHalfOpenInPart(t *testing.T) {
	r := newRig(t)
	p := poolOf("default/pool", a1, a2)
	p.Weigh.WarmUp, p.Weigh.WarmUpFrom = 10*time.Second, 0.1
	r.Use(steeringOf(nil, p))
	r.fails(p, a1)
	r.step(p.Breaker.OpenFor + ms)
	if share, _ := r.Share(p.Backend); share != 0.55 {
		t.Errorf("one of two serves and the other is tried at a tenth, and the share is %v", share)
	}
}

// TestEnvoyTries: where Envoy picks, it tries half-open endpoints by a small weight.
func TestEnvoyTries(t *testing.T) {
	r := newRig(t)
	p := poolOf("default/pool", a1)
	p.Weigh.TryHalfOpen, p.Pick.Mode = true, pick.Weights
	r.Use(steeringOf(nil, p))
	r.fails(p, a1)
	r.step(p.Breaker.OpenFor + ms)
	if got := weightsOf(r.last().Endpoints[p.Cluster]); got[a1] != 50 {
		t.Errorf("Envoy is told %v", got)
	}
	if share, usable := r.Share(p.Backend); share != 0.05 || !usable {
		t.Errorf("its share is %v, %v", share, usable)
	}
}
