package load

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/load/lrs"
	"github.com/weir-dev/weir/xds/load/signal"
)

// series is how many series of a metric have the labels, given as name and value in turn; of a histogram, its observations.
func (r *rig) series(name string, labels ...string) (n int) {
	r.t.Helper()
	r.each(name, labels, func(m *dto.Metric) { n += 1 + max(0, int(m.GetHistogram().GetSampleCount())-1) })
	return n
}

// counter is the sum of a metric's series with these labels.
func (r *rig) counter(name string, labels ...string) (sum float64) {
	r.t.Helper()
	r.each(name, labels, func(m *dto.Metric) { sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() })
	return sum
}

func (r *rig) each(name string, labels []string, f func(*dto.Metric)) {
	r.t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			have := map[string]string{}
			for _, l := range m.GetLabel() {
				have[l.GetName()] = l.GetValue()
			}
			same := true
			for i := 0; i+1 < len(labels); i += 2 {
				same = same && have[labels[i]] == labels[i+1]
			}
			if same {
				f(m)
			}
		}
	}
}

// picks is the picker's account of a pool.
func (r *rig) picks(backend string) []pick.EndpointState {
	r.t.Helper()
	for _, p := range r.picker.Snapshot(r.now()) {
		if p.Pool == backend {
			return p.Endpoints
		}
	}
	r.t.Fatalf("the picker does not have %s", backend)
	return nil
}

// busyRig is a gateway in which much is going on.
func busyRig(t *testing.T) *rig {
	r := newRig(t)
	gpus := with(poolOf("default/gpus", a1, a2, a3, "[fd00::1]:8000"), func(p *compile.Pool) {
		p.Metrics = []v1alpha1.MetricsSource{vllm, dcgm, {Type: v1alpha1.MetricsORCA}}
		p.Weigh.WarmUp = 20 * time.Second
	})
	api := named(with(poolOf("default/api", "api.example"), func(p *compile.Pool) { p.Metrics, p.Health = nil, nil }))
	r.Use(steeringOf(map[string]compile.SteeredRoute{
		"default/chat#1": routeOf(to(gpus.Backend, 3, 0), to(api.Backend, 1, 0)),
		"default/chat#2": routeOf(to(gpus.Backend, 1, 0), to("default/plain", 1, 1)),
	}, gpus, api))
	r.tick(r.now())
	r.Steered(1, r.now(), "")
	for range 2 {
		r.read(r.reading(gpus, 0, 0, func(s *signal.Sample) {
			queueAt(620 * ms)(s)
			s.Waiting, s.Running, s.KVCache = 12, 31, 0.875
			s.Has = s.Has.With(signal.Waiting).With(signal.Running).With(signal.KVCache)
		}))
		r.read(r.reading(gpus, 0, 1, gpuAt(0.91)))
		r.checked(r.check(gpus, 1, false))
	}
	broken := r.reading(gpus, 2, 1, gpuAt(0))
	broken.Err, broken.Fault = errBroken{}, "unreachable"
	r.read(broken)
	r.checked(r.check(gpus, 2, true))
	r.fails(gpus, "[fd00::1]:8000")
	for i, key := range []string{a1, a3} {
		for range 5 {
			r.Observe(&usage.Record{Backend: gpus.Backend, Endpoint: key, Status: 200, FirstToken: time.Duration(i+1) * 200 * ms})
		}
	}
	r.Report(lrs.Report{Stream: 1, Cluster: gpus.Cluster, Endpoint: a1, InFlight: 7, Successes: 90, Errors: 10})
	r.Report(lrs.Report{Stream: 2, Cluster: gpus.Cluster, Endpoint: a1, InFlight: 1})
	r.signals(api, "198.51.100.7:443", "200\nx-ratelimit-limit-tokens: 1000\nx-ratelimit-remaining-tokens: 70")
	r.signals(gpus, a3, "200\nendpoint-load-metrics: TEXT named_metrics.num_requests_waiting=2")
	for range 3 {
		if _, refused := r.picker.TryPick(&pick.Request{Pool: gpus.Backend, Tokens: 100}, r.now()); refused != nil {
			t.Fatal(refused)
		}
	}
	r.Wake()
	r.step(250 * ms)
	return r
}

// TestState describes a gateway in which much is going on.
func TestState(t *testing.T) {
	r := busyRig(t)
	r.elapsed.Store(int64(time.Second))
	golden(t, "state.txt", describe(r.State(), r.now()))
}

// describe writes a state down, times as ages.
func describe(s State, now time.Time) string {
	var b strings.Builder
	age := func(at time.Time) string {
		if at.IsZero() {
			return "never"
		}
		return now.Sub(at).Round(10 * ms).String()
	}
	fmt.Fprintf(&b, "overlay %d, applied %d, refused %q\n", s.Serial, s.Applied, s.Refused)
	for _, p := range s.Pools {
		fmt.Fprintf(&b, "\npool %s by %s, picked %v: share %.3f, usable %v, %d requests picked\n", p.Backend, p.Policy, p.Picked, p.Share, p.Usable, p.Picks.Picked)
		for _, e := range p.Endpoints {
			fmt.Fprintf(&b, "  %s base %d weight %d published %d %s\n    %s\n", e.Key, e.Base, e.Weight, e.Published, e.Status, e.Why())
			fmt.Fprintf(&b, "    checks failed %d, %s ago, %q; TTFT %s of %d; errors %.2f, %d of %d; in flight %d, picked %d; blocked %s\n",
				e.Failed, age(e.Checked), e.CheckErr, e.TTFT, e.TTFTCount, e.ErrorRate, e.Failures, e.Requests, e.InFlight, e.Picks.Requests, age(e.BlockedUntil))
			for _, src := range e.Sources {
				fmt.Fprintf(&b, "    %s %s ago %q: waiting %v running %v KV %v queue %v GPU %v headroom %v\n", src.Kind, age(src.ReadAt), src.Err,
					src.Sample.Waiting, src.Sample.Running, src.Sample.KVCache, src.Sample.QueueDelay, src.Sample.GPUUtilization, src.Sample.Headroom)
			}
		}
	}
	for _, route := range s.Routes {
		fmt.Fprintf(&b, "\nroute %s: %v %v\n", route.Key, route.Members, route.Weights)
	}
	return b.String()
}

// TestStateIsACopy: nobody who looks at a state can change what Envoy is told.
func TestStateIsACopy(t *testing.T) {
	r := busyRig(t)
	s := r.State()
	for i := range s.Routes {
		clear(s.Routes[i].Weights)
		clear(s.Routes[i].Members)
	}
	if w := r.last().Weights["default/chat#1"]; w[0] == 0 || slices.Contains(r.State().Routes[0].Members, "") {
		t.Errorf("the route has %v", w)
	}
}

// TestMetrics describes the same gateway as series.
func TestMetrics(t *testing.T) {
	r := busyRig(t)
	if problems, err := testutil.GatherAndLint(r.registry); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			value := m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			fmt.Fprintf(&b, "%s{%s} %.4g\n", family.GetName(), strings.Join(labels, ","), value)
		}
	}
	golden(t, "metrics.txt", b.String())
}

// TestSeriesGo: endpoints and Backends that are gone leave no series behind.
func TestSeriesGo(t *testing.T) {
	r := busyRig(t)
	r.Use(steeringOf(nil, poolOf("default/new", "10.9.9.9:80")))
	r.step(time.Second)
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if b := labels["backend"]; b != "" && b != "default/new" {
				t.Errorf("%s still has %v", family.GetName(), slices.Sorted(maps.Values(labels)))
			}
		}
	}
}

// TestStoriesAreToldToWhoAsks: a state costs no more when there is much to say of every weight.
func TestStoriesAreToldToWhoAsks(t *testing.T) {
	r := newRig(t)
	p := poolOf("default/pool", keysOf(50)...)
	r.Use(steeringOf(nil, p))
	read := func(queue time.Duration) float64 {
		for i := range p.Endpoints {
			for range 2 {
				r.read(r.reading(p, i, 0, queueAt(queue)))
			}
		}
		r.Wake()
		r.tick(r.now())
		return testing.AllocsPerRun(10, func() { r.State() })
	}
	quiet, busy := read(0), read(time.Second)
	if e := r.endpoint(p.Backend, p.Endpoints[0].Key); !strings.HasPrefix(e.Why(), "queue 1 s") {
		t.Fatalf("it says %q", e.Why())
	}
	if busy > quiet+5 { // fifty stories are hundreds
		t.Errorf("a state takes %v allocations with nothing to say, and %v with a rule that applies to all", quiet, busy)
	}
}
