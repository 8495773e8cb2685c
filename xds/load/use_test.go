package load

import (
	"testing"
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/load/lrs"
	"github.com/weir-dev/weir/xds/load/signal"
	"github.com/weir-dev/weir/xds/load/weigh"
)

const a1, a2, a3 = "10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"

// busyGPU puts the rule of the GPU on an endpoint.
func (r *rig) busyGPU(p *compile.Pool, i int) {
	for range 2 {
		r.read(r.reading(p, i, 0, gpuAt(0.95)))
	}
	r.tick(r.now())
}

// TestUseAgain changes the endpoints of a pool: those that stay keep what is known of them.
func TestUseAgain(t *testing.T) {
	r := newRig(t)
	p := poolOf("default/pool", a1, a2)
	p.Weigh.WarmUp = 10 * time.Second
	r.Use(steeringOf(nil, p))
	r.wantWeights(p.Backend, map[string]uint32{a1: 1000, a2: 1000}) // a pool that starts has no warm-up
	r.busyGPU(p, 0)
	for range 5 {
		r.Observe(&usage.Record{Backend: p.Backend, Endpoint: a1, Status: 200, FirstToken: 300 * ms})
	}
	r.checked(r.check(p, 0, false))
	r.Report(lrs.Report{Stream: 1, Cluster: p.Cluster, Endpoint: a1, InFlight: 4, Successes: 20})
	r.wantWeights(p.Backend, map[string]uint32{a1: 700, a2: 1000})

	next := poolOf("default/pool", a3, a1)
	next.Weigh = p.Weigh
	next.Endpoints[1].Weight = 3
	r.Use(steeringOf(nil, next))
	// The one that is new in a pool that runs warms up. A weight that somebody has changed counts at once.
	r.wantWeights(p.Backend, map[string]uint32{a3: 100, a1: 2100})
	state := r.backend(p.Backend)
	if len(state.Endpoints) != 2 || state.Endpoints[0].Key != a3 {
		t.Fatalf("its endpoints are %+v", state.Endpoints)
	}
	if e := state.Endpoints[1]; e.TTFTCount != 5 || e.Requests != 20 || e.InFlight != 4 || e.Failed != 1 || e.Sources[0].Sample.GPUUtilization != 0.95 {
		t.Errorf("what was known of %s is gone: %+v", a1, e)
	}
	if picks := r.picker.Snapshot(r.now())[0].Endpoints; len(picks) != 2 || picks[0].Key != a3 || picks[1].Key != a1 {
		t.Errorf("the picker has %+v", picks)
	}
	r.tick(r.now())
	if got := weightsOf(r.last().Endpoints[p.Cluster]); len(got) != 2 || got[a1] != 2100 || got[a3] != 100 {
		t.Errorf("Envoy is told %v", got)
	}
	// One that went and comes back is a new one.
	r.Use(steeringOf(nil, p))
	if e := r.endpoint(p.Backend, a2); e.Status != weigh.WarmingUp || e.Failed != 0 {
		t.Errorf("got %+v", e)
	}
}

// TestSourcesAreReplaced: what a source has said holds as long as it is the same source.
func TestSourcesAreReplaced(t *testing.T) {
	otherPort := vllm
	otherPort.Port = 9000
	otherPath := vllm
	otherPath.Path = "/metrics/all"
	slower := vllm
	slower.Interval = &v1alpha1.Duration{Duration: 5 * time.Second}
	orca := v1alpha1.MetricsSource{Type: v1alpha1.MetricsORCA}
	for _, c := range []struct {
		name  string
		next  []v1alpha1.MetricsSource
		keeps []bool // by source: it has what was said before
	}{
		{"the same", []v1alpha1.MetricsSource{vllm, dcgm}, []bool{true, true}},
		{"another interval", []v1alpha1.MetricsSource{slower, dcgm}, []bool{true, true}},
		{"another order", []v1alpha1.MetricsSource{dcgm, vllm}, []bool{true, true}},
		{"one less", []v1alpha1.MetricsSource{dcgm}, []bool{true}},
		{"one more", []v1alpha1.MetricsSource{vllm, otherPort, dcgm}, []bool{true, false, true}},
		{"another port", []v1alpha1.MetricsSource{otherPort, dcgm}, []bool{false, true}},
		{"another path", []v1alpha1.MetricsSource{vllm, otherPath}, []bool{true, false}},
		{"twice the same", []v1alpha1.MetricsSource{vllm, vllm}, []bool{true, false}},
		{"reports of answers", []v1alpha1.MetricsSource{orca, vllm}, []bool{true}}, // which have a source anyway
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			p := with(poolOf("default/pool", a1), func(p *compile.Pool) { p.Metrics = []v1alpha1.MetricsSource{vllm, dcgm} })
			r.Use(steeringOf(nil, p))
			r.read(r.reading(p, 0, 0, queueAt(100*ms)))
			r.read(r.reading(p, 0, 1, gpuAt(0.5)))
			late := r.reading(p, 0, 0, queueAt(time.Minute)) // under way while the sources change
			next := with(poolOf("default/pool", a1), func(p *compile.Pool) { p.Metrics = c.next })
			r.Use(steeringOf(nil, next))
			sources := r.endpoint(p.Backend, a1).Sources
			if len(sources) != len(c.keeps) {
				t.Fatalf("there are %d sources: %+v", len(sources), sources)
			}
			for i, keeps := range c.keeps {
				if got := sources[i].Sample.Has != 0 && !sources[i].ReadAt.IsZero(); got != keeps {
					t.Errorf("source %d, %s: it has what was said before: %v", i, sources[i].Kind, got)
				}
			}
			r.read(late)
			same := c.next[0].Type == vllm.Type && c.next[0].Port == 0
			for i, s := range r.endpoint(p.Backend, a1).Sources {
				if took := s.Sample.QueueDelay == time.Minute; took != (i == 0 && same) {
					t.Errorf("source %d, %s: it has taken what another read: %v", i, s.Kind, took)
				}
			}
		})
	}
}

// TestCheckIsReplaced: another question begins to count anew, and answers to the old one do not count.
func TestCheckIsReplaced(t *testing.T) {
	r := newRig(t)
	p := poolOf("default/pool", a1, a2)
	r.Use(steeringOf(nil, p))
	r.checked(r.check(p, 0, false))
	late := r.check(p, 0, false)
	next := with(poolOf("default/pool", a1, a2), func(p *compile.Pool) { p.Health = &v1alpha1.HealthCheck{Path: "/ready"} })
	r.Use(steeringOf(nil, next))
	r.checked(late)
	if e := r.endpoint(p.Backend, a1); e.Failed != 0 || !e.Checked.IsZero() || e.CheckErr != "" {
		t.Errorf("got %+v", e)
	}
	r.checked(r.check(next, 0, false))
	r.step(time.Second)
	r.wantWeights(p.Backend, map[string]uint32{a1: 1000})
	r.checked(r.check(next, 0, false))
	r.step(time.Second)
	r.wantWeights(p.Backend, map[string]uint32{a1: 0})
	// Who was found ill stays so until the new question has been answered.
	r.Use(steeringOf(nil, p))
	r.wantWeights(p.Backend, map[string]uint32{a1: 0})
	for range 2 {
		r.checked(r.check(p, 0, true))
	}
	r.step(time.Second)
	r.wantWeights(p.Backend, map[string]uint32{a1: 1000})
	// Without a question nobody is ill.
	for range 2 {
		r.checked(r.check(p, 0, false))
	}
	r.step(time.Second)
	r.wantWeights(p.Backend, map[string]uint32{a1: 0})
	late = r.check(p, 0, false)
	r.Use(steeringOf(nil, with(poolOf("default/pool", a1, a2), func(p *compile.Pool) { p.Health = nil })))
	r.checked(late)
	r.wantWeights(p.Backend, map[string]uint32{a1: 1000})
	if e := r.endpoint(p.Backend, a1); e.CheckErr != "" || e.Failed != 0 {
		t.Errorf("got %+v", e)
	}
}

// TestPoolGoes has everything arrive that was on its way to a pool that is gone.
func TestPoolGoes(t *testing.T) {
	r := newRig(t)
	p, other := poolOf("default/pool", a1), poolOf("default/other", a2)
	r.Use(steeringOf(nil, p, other))
	r.read(r.reading(p, 0, 0, gpuAt(0.5)))
	gone := (*r.pools.Load())[p.Backend]
	reading, check := r.reading(p, 0, 0, gpuAt(0.99)), r.check(p, 0, false)
	r.Use(steeringOf(nil, other))
	r.read(reading)
	r.checked(check)
	r.Observe(&usage.Record{Backend: p.Backend, Endpoint: a1, Status: 200, FirstToken: ms})
	r.Report(lrs.Report{Stream: 1, Cluster: p.Cluster, Endpoint: a1, InFlight: 1})
	if r.took(gone, &reading) {
		t.Error("a pool that is gone was read")
	}
	r.step(time.Second)
	if state := r.State(); len(state.Pools) != 1 || state.Pools[0].Backend != other.Backend {
		t.Errorf("the pools are %+v", state.Pools)
	}
	if picks := r.picker.Snapshot(r.now()); len(picks) != 1 || picks[0].Pool != other.Backend {
		t.Errorf("the picker has %+v", picks)
	}
	if share, usable := r.Share(p.Backend); share != 1 || !usable {
		t.Errorf("nobody steers it, and its share is %v, %v", share, usable)
	}
	if _, ok := r.last().Endpoints[p.Cluster]; ok {
		t.Error("Envoy is told of it")
	}
	if n := r.series("weir_scrapes_total", "backend", p.Backend) + r.series("weir_health_checks_total", "backend", p.Backend); n != 0 {
		t.Errorf("it has %d series still", n)
	}
}

// TestUnknownEndpoint: addresses that nobody configured say nothing.
func TestUnknownEndpoint(t *testing.T) {
	r := newRig(t)
	p := poolOf("default/pool", a1)
	r.Use(steeringOf(nil, p))
	before := r.endpoint(p.Backend, a1)
	r.Observe(&usage.Record{Backend: p.Backend, Endpoint: a2, Status: 200, FirstToken: ms, Signals: map[string]string{
		p.Backend + " " + a2: "429\nretry-after: 7", "default/nobody " + a1: "429\nretry-after: 7", "no key": "200",
	}})
	r.Observe(&usage.Record{Backend: "default/nobody", Endpoint: a1, Status: 200, FirstToken: ms})
	r.Observe(&usage.Record{Status: 503})
	r.Report(lrs.Report{Stream: 1, Cluster: p.Cluster, Endpoint: a2, InFlight: 1, Errors: 100})
	r.Report(lrs.Report{Stream: 1, Cluster: "nobody", Endpoint: a1, InFlight: 1})
	strange := r.reading(p, 0, 0, gpuAt(1))
	target := *strange.Target
	target.Endpoint = a2
	strange.Target = &target
	r.read(strange)
	target.Endpoint, target.Source = a1, 7
	r.read(strange)
	check := r.check(p, 0, false)
	check.Check.Endpoint = a2
	r.checked(check)
	r.step(time.Second)
	after := r.endpoint(p.Backend, a1)
	if after.Why() != before.Why() || after.TTFTCount != 0 || after.InFlight != 0 || after.Failed != 0 || after.Requests != 0 {
		t.Errorf("got %+v", after)
	}
}

// TestEnvoyResolves has a pool of names: nobody knows whose address a record names, so all of the pool have a part in it.
func TestEnvoyResolves(t *testing.T) {
	r := newRig(t)
	two := named(poolOf("default/two", "one.example", "two.example"))
	one := named(poolOf("default/one", "api.example"))
	r.Use(steeringOf(map[string]compile.SteeredRoute{"r": routeOf(to(two.Backend, 1, 0), to(one.Backend, 1, 0))}, two, one))
	r.tick(r.now())
	if n := len(r.last().Endpoints); n != 0 {
		t.Errorf("Envoy is told of the endpoints of %d clusters that it resolves by itself", n)
	}
	if picks := r.picker.Snapshot(r.now()); len(picks) != 1 || picks[0].Pool != one.Backend {
		t.Errorf("only one of them is picked from, and the picker has %+v", picks)
	}
	for _, p := range []*compile.Pool{two, one} {
		for i, address := range []string{"198.51.100.1:443", "198.51.100.2:443"} {
			r.Observe(&usage.Record{Backend: p.Backend, Endpoint: address, Status: 200, FirstToken: 400 * ms})
			r.Report(lrs.Report{Stream: 1, Cluster: p.Cluster, Endpoint: address, InFlight: uint64(i + 1), Successes: 3, Errors: 3})
		}
		r.step(time.Second)
		for _, e := range r.backend(p.Backend).Endpoints {
			if e.TTFTCount != 2 || e.TTFT != 400*ms || e.InFlight != 3 || e.Requests != 12 || e.ErrorRate != 0.5 {
				t.Errorf("%s of %s: %+v", e.Key, p.Backend, e)
			}
			if e.Weight != 500 {
				t.Errorf("half of the requests to %s fail, and it has %d: %s", e.Key, e.Weight, e.Why())
			}
		}
		if share, usable := r.Share(p.Backend); share != 0.5 || !usable {
			t.Errorf("%s: %v, %v", p.Backend, share, usable)
		}
		r.Observe(&usage.Record{Backend: p.Backend, Endpoint: "198.51.100.1:443", Status: 429, Signals: map[string]string{p.Backend + " 198.51.100.1:443": "429\nretry-after: 7"}})
		r.step(ms)
		if share, usable := r.Share(p.Backend); share != 0 || !usable {
			t.Errorf("%s wants to be left alone: %v, %v", p.Backend, share, usable)
		}
	}
	// It keeps what it knows, and when all become addresses each begins anew by itself.
	r.Use(steeringOf(nil, named(poolOf("default/two", "two.example", "three.example"))))
	for _, e := range r.backend(two.Backend).Endpoints {
		if e.TTFTCount != 2 {
			t.Errorf("%s: %+v", e.Key, e)
		}
	}
	r.Use(steeringOf(nil, poolOf("default/two", a1, a2)))
	r.Observe(&usage.Record{Backend: two.Backend, Endpoint: a1, Status: 200, FirstToken: 400 * ms})
	if x, y := r.endpoint(two.Backend, a1), r.endpoint(two.Backend, a2); x.TTFTCount != 1 || y.TTFTCount != 0 {
		t.Errorf("got %+v and %+v", x, y)
	}
}

// TestComputedBeforeUse: what was computed of a pool before Use must not reach the picker after it.
func TestPickerHasWhatUseSays(t *testing.T) {
	r := newRig(t)
	p := poolOf("default/pool", a1, a2)
	r.Use(steeringOf(nil, p))
	r.Use(steeringOf(nil, named(poolOf("default/pool", "one.example", "two.example"))))
	r.step(time.Second)
	if picks := r.picker.Snapshot(r.now()); len(picks) != 0 {
		t.Errorf("nothing is picked from the pool any more, and the picker has %+v", picks)
	}
	next := with(poolOf("default/pool", a1), func(p *compile.Pool) { p.Pick = &pick.Policy{Mode: pick.Weights} })
	r.Use(steeringOf(nil, next))
	if picks := r.picker.Snapshot(r.now()); len(picks) != 1 || len(picks[0].Endpoints) != 1 || r.backend(p.Backend).Picked {
		t.Errorf("the picker has %+v", picks)
	}
}

// TestManySamples: of what comes between two computations the newest are kept.
func TestManySamples(t *testing.T) {
	r := newRig(t)
	p := poolOf("default/pool", a1)
	r.Use(steeringOf(nil, p))
	for i := range 100 {
		r.read(r.reading(p, 0, 0, func(s *signal.Sample) { s.Waiting, s.Has = float64(i), s.Has.With(signal.Waiting) }))
	}
	src := &(*r.pools.Load())[p.Backend].endpoints[0].sources[0]
	if s := *src.samples; len(s) != 8 || s[7].Waiting != 99 || s[0].Waiting != 92 {
		t.Errorf("it has %+v", s)
	}
	r.tick(r.now().Add(time.Second))
	if s := *src.samples; len(s) != 1 || s[0].Waiting != 99 {
		t.Errorf("it has %+v", s)
	}
}
