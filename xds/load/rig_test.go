package load

import (
	"bytes"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/load/probe"
	"github.com/weir-dev/weir/xds/load/scrape"
	"github.com/weir-dev/weir/xds/load/signal"
	"github.com/weir-dev/weir/xds/load/weigh"
	"github.com/weir-dev/weir/xds/serve"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const ms = time.Millisecond

// rig is a Controller with a clock of its own, whose work is done when a test says so.
type rig struct {
	*Controller
	t        testing.TB
	elapsed  atomic.Int64 // since t0
	registry *prometheus.Registry
	picker   *pick.Set
	breakers *breaker.Set

	mu       sync.Mutex
	overlays []*serve.Overlay
	logged   bytes.Buffer // not to be read while the Controller runs
}

func newRig(t testing.TB, change ...func(*Options)) *rig {
	r := &rig{t: t, registry: prometheus.NewRegistry()}
	r.breakers = breaker.New(breaker.Options{Now: r.now, OnChange: func(breaker.Change) { r.Wake() }})
	r.picker = pick.NewSet(pick.Options{Breakers: r.breakers, Now: r.now})
	opts := Options{
		Picker: r.picker, Breakers: r.breakers, Registry: r.registry, Log: slog.New(slog.NewTextHandler(&r.logged, nil)), Now: r.now,
		Steer: func(o *serve.Overlay) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.overlays = append(r.overlays, o)
		},
	}
	for _, f := range change {
		f(&opts)
	}
	r.Controller = New(opts)
	return r
}

func (r *rig) now() time.Time { return t0.Add(time.Duration(r.elapsed.Load())) }

// step lets time pass, and computes what its time has come for.
func (r *rig) step(d time.Duration) {
	r.elapsed.Add(int64(d))
	r.tick(r.now())
}

// sent is how many overlays there were.
func (r *rig) sent() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.overlays)
}

// last is the last overlay.
func (r *rig) last() *serve.Overlay {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.overlays) == 0 {
		r.t.Fatal("Envoy was told nothing")
	}
	return r.overlays[len(r.overlays)-1]
}

// endpoint is the state of one endpoint.
func (r *rig) endpoint(backend, key string) EndpointState {
	r.t.Helper()
	for _, e := range r.backend(backend).Endpoints {
		if e.Key == key {
			return e
		}
	}
	r.t.Fatalf("%s has no endpoint %s", backend, key)
	return EndpointState{}
}

func (r *rig) backend(id string) PoolState {
	r.t.Helper()
	for _, p := range r.State().Pools {
		if p.Backend == id {
			return p
		}
	}
	r.t.Fatalf("there is no pool %s", id)
	return PoolState{}
}

// wantWeights checks the weights of a pool's endpoints, by their keys.
func (r *rig) wantWeights(backend string, want map[string]uint32) {
	r.t.Helper()
	for key, w := range want {
		if e := r.endpoint(backend, key); e.Weight != w {
			r.t.Errorf("%s of %s has the weight %d, want %d: %s", key, backend, e.Weight, w, e.Why())
		}
	}
}

// vllm and dcgm are sources of metrics.
var (
	vllm = v1alpha1.MetricsSource{Type: v1alpha1.MetricsVLLM}
	dcgm = v1alpha1.MetricsSource{Type: v1alpha1.MetricsDCGM}
)

// poolOf is a pool with health checks and vLLM's metrics, and a breaker. Endpoints are written as keys.
func poolOf(id string, keys ...string) *compile.Pool {
	spec := &v1alpha1.LoadPolicySpec{Weights: v1alpha1.WeightRules{
		GPUUtilization: &v1alpha1.PercentRule{Enter: 85, Leave: 75, FactorPercent: 70},
		KVCache:        &v1alpha1.PercentRule{Enter: 95, Leave: 85, FactorPercent: 50},
		QueueDelay: &v1alpha1.DelayRule{
			Enter: v1alpha1.Duration{Duration: 500 * ms}, Leave: v1alpha1.Duration{Duration: 300 * ms}, FactorPercent: 50,
		},
		Headroom: &v1alpha1.HeadroomRule{Enter: 10, Leave: 20, FactorPercent: 50},
		Latency:  &v1alpha1.LatencyRule{},
	}}
	p := &compile.Pool{
		Backend: id, Policy: "default/policy", Cluster: "cluster of " + id, EDS: true, Weigh: weigh.FromAPI(spec), Pick: pick.FromAPI(id, spec),
		Tick: 250 * ms, PublishPercent: 5, Health: &v1alpha1.HealthCheck{}, Metrics: []v1alpha1.MetricsSource{vllm}, Host: "servers.example",
	}
	p.Weigh.WarmUp = 0
	p.Breaker = p.Pick.Breaker
	for _, k := range keys {
		p.Endpoints = append(p.Endpoints, serverOf(k))
	}
	return p
}

func serverOf(key string) compile.PoolEndpoint {
	e := compile.PoolEndpoint{Key: key, Weight: 1}
	if a, err := netip.ParseAddrPort(key); err == nil {
		e.Host, e.Port = a.Addr().String(), uint32(a.Port())
	} else {
		e.Host, e.Port = key, 443
		e.Key = key + ":443"
	}
	return e
}

// named makes a pool one that Envoy resolves by itself.
func named(p *compile.Pool) *compile.Pool {
	p.EDS = false
	if len(p.Endpoints) > 1 {
		p.Pick = nil
	}
	return p
}

// with changes a pool.
func with(p *compile.Pool, change func(*compile.Pool)) *compile.Pool {
	change(p)
	return p
}

// steeringOf is a version of these pools.
func steeringOf(routes map[string]compile.SteeredRoute, pools ...*compile.Pool) *Steering {
	v := &compile.Version{Pools: map[string]*compile.Pool{}, Steered: routes, Endpoints: map[string]*endpointv3.ClusterLoadAssignment{}}
	for _, p := range pools {
		v.Pools[p.Backend] = p
		if p.EDS {
			v.Endpoints[p.Cluster] = templateOf(p)
		}
	}
	return SteeringOf(v)
}

func templateOf(p *compile.Pool) *endpointv3.ClusterLoadAssignment {
	group := &endpointv3.LocalityLbEndpoints{}
	for _, e := range p.Endpoints {
		group.LbEndpoints = append(group.LbEndpoints, &endpointv3.LbEndpoint{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: &corev3.Address{
				Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
					Address: e.Host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: e.Port},
				}},
			}}},
			LoadBalancingWeight: wrapperspb.UInt32(e.Weight),
		})
	}
	return &endpointv3.ClusterLoadAssignment{ClusterName: p.Cluster, Endpoints: []*endpointv3.LocalityLbEndpoints{group}}
}

// routeOf is a route to Backends, each written as its ID, its weight and its priority.
func routeOf(members ...compile.SteeredMember) compile.SteeredRoute {
	return compile.SteeredRoute{Members: members}
}

func to(backend string, weight uint32, priority int32) compile.SteeredMember {
	return compile.SteeredMember{Backend: backend, Weight: weight, Priority: priority}
}

// reading is what a source of an endpoint says. Each comes a nanosecond after the one before, so that none is taken for another.
func (r *rig) reading(p *compile.Pool, i, source int, change func(*signal.Sample)) scrape.Reading {
	r.t.Helper()
	url, kind := page(p, &p.Endpoints[i], &p.Metrics[source])
	s := signal.Sample{At: r.now()}
	r.elapsed.Add(1)
	change(&s)
	return scrape.Reading{
		Target: &scrape.Target{Pool: p.Backend, Endpoint: p.Endpoints[i].Key, Source: source, URL: url, Engine: kind},
		Sample: s, Took: ms, Bytes: 1000,
	}
}

func gpuAt(v float64) func(*signal.Sample) {
	return func(s *signal.Sample) { s.GPUUtilization, s.Has = v, s.Has.With(signal.GPUUtilization) }
}

func queueAt(d time.Duration) func(*signal.Sample) {
	return func(s *signal.Sample) { s.QueueDelay, s.Has = d, s.Has.With(signal.QueueDelay) }
}

// check is the result of a health check.
func (r *rig) check(p *compile.Pool, i int, ok bool) probe.Result {
	out := probe.Result{Check: &probe.Check{Pool: p.Backend, Endpoint: p.Endpoints[i].Key, URL: question(p, &p.Endpoints[i])}, OK: ok, At: r.now()}
	if !ok {
		out.Err, out.Fault = "answered with status 503", "status"
	}
	return out
}

// fails opens the breaker of an endpoint.
func (r *rig) fails(p *compile.Pool, key string) {
	r.t.Helper()
	for range p.Breaker.MinRequests {
		pass, refused := r.breakers.Allow(p.Breaker, key, r.now())
		if refused != nil {
			r.t.Fatal("the breaker is open already")
		}
		pass.Done(false, r.now())
	}
}

// golden compares with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; read the difference after: go test ./xds/load -update\ngot:\n%s", path, got)
	}
}

// keysOf are n addresses.
func keysOf(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("10.0.%d.%d:8000", i/250, i%250+1)
	}
	return out
}
