package load

import (
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/xds/compile"
)

// TestPublishedOnlyWhenWorthIt: while nothing changes Envoy is told nothing.
func TestPublishedOnlyWhenWorthIt(t *testing.T) {
	r := newRig(t)
	p, other := poolOf("default/pool", a1, a2), poolOf("default/other", a3)
	r.Use(steeringOf(map[string]compile.SteeredRoute{"r": routeOf(to(p.Backend, 1, 0), to(other.Backend, 1, 0))}, p, other))
	r.tick(r.now())
	if r.sent() != 1 || r.last().Serial != 1 {
		t.Fatalf("Envoy was told %d times", r.sent())
	}
	first := r.last()
	for i := range 100 {
		r.read(r.reading(p, i%2, 0, queueAt(time.Duration(i)*ms)))
		r.checked(r.check(p, i%2, true))
		r.step(250 * ms)
	}
	if r.sent() != 1 {
		t.Fatalf("nothing has changed, and Envoy was told %d times", r.sent())
	}
	for range 2 {
		r.read(r.reading(p, 0, 0, queueAt(time.Second)))
	}
	r.tick(r.now())
	if r.sent() != 2 || r.last().Serial != 2 {
		t.Fatalf("Envoy was told %d times", r.sent())
	}
	if w := r.last().Weights["r"]; !slices.Equal(w, []uint32{750, 1000}) {
		t.Errorf("the route has %v", w)
	}
	// What has not changed is the same message, which costs nothing.
	if r.last().Endpoints[other.Cluster] != first.Endpoints[other.Cluster] || r.last().Endpoints[p.Cluster] == first.Endpoints[p.Cluster] {
		t.Error("the one that has changed must be another message, and the other the same")
	}
	if got := weightsOf(first.Endpoints[p.Cluster]); got[a1] != 1000 {
		t.Errorf("what was told before has changed: %v", got)
	}
}

// TestNewWeightsOfARoute: what somebody changes in a Route counts, however little it is.
func TestNewWeightsOfARoute(t *testing.T) {
	r := newRig(t)
	p, other := poolOf("default/pool", a1), poolOf("default/other", a2)
	for _, weight := range []uint32{100, 101, 102} {
		r.Use(steeringOf(map[string]compile.SteeredRoute{"r": routeOf(to(p.Backend, weight, 0), to(other.Backend, 100, 0))}, p, other))
		r.tick(r.now())
		if w := r.last().Weights["r"]; !slices.Equal(w, []uint32{weight * 1000, 100_000}) {
			t.Errorf("the route has %v", w)
		}
	}
	// A route that is gone is not spoken of, and neither is one that gives nobody anything.
	r.Use(steeringOf(map[string]compile.SteeredRoute{"s": routeOf(to(p.Backend, 0, 0), to(other.Backend, 0, 0))}, p, other))
	r.tick(r.now())
	if n := len(r.last().Weights); n != 0 {
		t.Errorf("%d routes are spoken of", n)
	}
	if routes := r.State().Routes; len(routes) != 1 || routes[0].Key != "s" || len(routes[0].Weights) != 0 {
		t.Errorf("the routes are %+v", routes)
	}
}

func TestSteered(t *testing.T) {
	r := newRig(t)
	p := with(poolOf("default/pool", a1, a2), func(p *compile.Pool) { p.Weigh.StaleAfter = time.Hour })
	r.Use(steeringOf(nil, p))
	r.tick(r.now())
	worse := func(i int) {
		t.Helper()
		before := r.sent()
		for range 2 {
			r.read(r.reading(p, i, 0, queueAt(time.Second)))
		}
		r.tick(r.now())
		if r.sent() != before+1 {
			t.Fatalf("Envoy was told %d times", r.sent()-before)
		}
	}
	worse(0)
	r.Steered(2, r.now().Add(30*ms), "") // and with it the first
	if s := r.State(); s.Serial != 2 || s.Applied != 2 || s.Refused != "" || len(r.published.sent) != 0 {
		t.Errorf("got %+v, and %d are open", s, len(r.published.sent))
	}
	if n := r.series("weir_steering_apply_duration_seconds"); n != 2 {
		t.Errorf("%d of 2 were measured", n)
	}
	worse(1)
	refused := r.now()
	r.Steered(3, refused, "EDS: no")
	if s := r.State(); s.Applied != 2 || s.Refused != "EDS: no" || len(r.published.sent) != 0 {
		t.Errorf("got %+v", s)
	}
	if n := testutil.ToFloat64(r.metrics.refused); n != 1 {
		t.Errorf("%v refusals are counted", n)
	}
	r.step(againAfter - time.Second)
	if r.sent() != 3 {
		t.Error("it is told again too soon")
	}
	r.step(time.Second)
	r.step(time.Second)
	if r.sent() != 4 {
		t.Errorf("what was refused is told %d times more", r.sent()-3)
	}
	r.Steered(4, r.now(), "")
	if s := r.State(); s.Applied != 4 || s.Refused != "" {
		t.Errorf("got %+v", s)
	}
	r.Steered(3, r.now(), "") // late
	if s := r.State(); s.Applied != 4 {
		t.Errorf("got %+v", s)
	}
}

// TestNobodyAnswers: while there is no Envoy, what is open stays bounded.
func TestNobodyAnswers(t *testing.T) {
	r := newRig(t)
	p := poolOf("default/pool", a1, a2)
	r.Use(steeringOf(nil, p))
	for i := range 2 * maxUnanswered {
		for range 2 {
			r.checked(r.check(p, 0, i%2 == 0))
		}
		r.step(ms)
	}
	if r.sent() < 3*maxUnanswered/2 || len(r.published.sent) != maxUnanswered {
		t.Errorf("%d were sent, %d are remembered", r.sent(), len(r.published.sent))
	}
	r.Steered(r.last().Serial, r.now(), "")
	if len(r.published.sent) != 0 {
		t.Errorf("%d are remembered", len(r.published.sent))
	}
}

// TestSharesDriftOnceASecond: what the Backends of a rule get follows latency, and that is never still.
func TestSharesDriftOnceASecond(t *testing.T) {
	r := newRig(t)
	p := with(named(poolOf("default/pool", "a.example")), func(p *compile.Pool) { p.Weigh.AcrossBackends, p.Tick = true, 50*ms })
	other := with(named(poolOf("default/other", "b.example")), func(p *compile.Pool) { p.Weigh.AcrossBackends, p.Tick = true, 50*ms })
	r.Use(steeringOf(map[string]compile.SteeredRoute{"r": routeOf(to(p.Backend, 1, 0), to(other.Backend, 1, 0))}, p, other))
	r.tick(r.now())
	before := r.sent()
	const seconds = 10
	for i := range seconds * 20 {
		for range 5 {
			r.Observe(&usage.Record{Backend: p.Backend, Status: 200, FirstToken: time.Duration(200+200*(i/20%2)) * ms})
			r.Observe(&usage.Record{Backend: other.Backend, Status: 200, FirstToken: 300 * ms})
		}
		r.step(50 * ms)
	}
	if n := r.sent() - before; n < seconds/2 || n > seconds+1 {
		t.Errorf("in %d s Envoy was told %d times", seconds, n)
	}
	// Who cannot take anything gets nothing at once.
	r.step(100 * ms)
	before = r.sent()
	r.signals(p, "192.0.2.1:443", "429\nretry-after: 5")
	r.step(ms)
	if w := r.last().Weights["r"]; r.sent() != before+1 || w[0] != 0 {
		t.Errorf("Envoy was told %d times, the route has %v", r.sent()-before, w)
	}
}
