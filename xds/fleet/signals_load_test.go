package fleet

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/load"
	"github.com/weir-dev/weir/xds/load/weigh"
	"github.com/weir-dev/weir/xds/serve"
)

// inference is a server with metrics and health.
type inference struct {
	at              netip.AddrPort
	scrapes, checks atomic.Int64
	usage           atomic.Int64 // of the cache, in percent
}

func newInference(t *testing.T) *inference {
	t.Helper()
	s := &inference{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.at = l.Addr().(*net.TCPAddr).AddrPort()
	mux := http.NewServeMux()
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		s.scrapes.Add(1)
		fmt.Fprintf(w, "# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc{engine=\"0\",model_name=\"m\"} %g\n"+
			"# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{engine=\"0\",model_name=\"m\"} 1\n", float64(s.usage.Load())/100)
	})
	mux.HandleFunc("/health", func(http.ResponseWriter, *http.Request) { s.checks.Add(1) })
	server := &http.Server{Handler: mux}
	go server.Serve(l) //nolint:errcheck // it ends with the test
	t.Cleanup(func() { server.Close() })
	return s
}

// poolsOf is one pool of these servers.
func poolsOf(servers []*inference) map[string]*compile.Pool {
	spec := &v1alpha1.LoadPolicySpec{Weights: v1alpha1.WeightRules{KVCache: &v1alpha1.PercentRule{Enter: 90, Leave: 80, FactorPercent: 50}}}
	every := v1alpha1.Duration{Duration: 100 * time.Millisecond}
	p := &compile.Pool{
		Backend: "a/x", Policy: "a/policy", Cluster: "x", EDS: true, Weigh: weigh.FromAPI(spec), Pick: pick.FromAPI("a/x", spec), Tick: 100 * time.Millisecond,
		Metrics: []v1alpha1.MetricsSource{{Type: v1alpha1.MetricsVLLM, Interval: &every}}, Health: &v1alpha1.HealthCheck{Interval: &every}, Host: "x.example",
	}
	for _, s := range servers {
		p.Endpoints = append(p.Endpoints, compile.PoolEndpoint{Key: s.at.String(), Host: s.at.Addr().String(), Port: uint32(s.at.Port()), Weight: 1})
	}
	return map[string]*compile.Pool{p.Backend: p}
}

// wire is a rig on TCP, with the system's clock.
type wire struct {
	t  *testing.T
	ca *authority
}

// plane is a control plane that reads endpoints.
type plane struct {
	address string
	reg     *prometheus.Registry
	reader  *load.Reader
	stop    func()
}

// plane starts one at an address, which shares the work with peers.
func (w *wire) plane(l net.Listener, pools map[string]*compile.Pool, peers []string) *plane {
	w.t.Helper()
	p := &plane{address: l.Addr().String(), reg: prometheus.NewRegistry()}
	log := slog.New(slog.DiscardHandler)
	server, err := NewServer(ServerOptions{TLS: w.ca.issue(w.t, w.t.TempDir(), controlName, time.Hour), Log: log, Registry: p.reg})
	if err != nil {
		w.t.Fatal(err)
	}
	p.reader = load.NewReader(load.ReaderOptions{Board: server.Signals(), Registry: p.reg, Log: log}, uint64(time.Now().UnixNano()))
	p.reader.Use(pools)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { p.reader.Run(ctx) })
	running.Go(func() {
		if err := server.Serve(ctx, l); err != nil {
			w.t.Errorf("Serve: %v", err)
		}
	})
	if peers != nil {
		running.Go(func() {
			WatchPeers(ctx, PeersOptions{Addresses: peers, Self: func(a string) bool { return a == p.address }, Log: log}, func(r Replicas) {
				p.reader.Own(r.Owns)
				server.Signals().Replicas(r)
			})
		})
	}
	p.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	w.t.Cleanup(p.stop)
	return p
}

// steerer is a gateway as far as steering goes.
type steerer struct {
	*load.Controller
	reg *prometheus.Registry
}

func (w *wire) steerer(pools map[string]*compile.Pool, addresses ...string) *steerer {
	w.t.Helper()
	log := slog.New(slog.DiscardHandler)
	client, err := NewClient(ClientOptions{
		Addresses: addresses, ServerName: controlName, TLS: w.ca.issue(w.t, w.t.TempDir(), "gateway.svc", time.Hour), Node: Node{ID: "a/gateway"}, Log: log,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	s := &steerer{reg: prometheus.NewRegistry()}
	breakers := breaker.New(breaker.Options{})
	s.Controller = load.New(load.Options{
		Picker: pick.NewSet(pick.Options{Breakers: breakers}), Breakers: breakers, Steer: func(*serve.Overlay) {}, Signals: client, Registry: s.reg, Log: log,
	})
	s.Use(load.SteeringOf(&compile.Version{Pools: pools}))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	running.Go(func() { client.Signals(ctx, s.Take) })
	w.t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return s
}

// sum adds up the series of a metric that have these label values, "value" each.
func sum(t *testing.T, reg *prometheus.Registry, name string, labels ...string) (out float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var has []string
			for _, l := range m.GetLabel() {
				has = append(has, l.GetValue())
			}
			if !slices.ContainsFunc(labels, func(l string) bool { return !slices.Contains(has, l) }) {
				out += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return out
}

// read says whether a gateway knows something of all endpoints, shared or not, from after a time.
func (s *steerer) read(shared bool, since time.Time) bool {
	for _, p := range s.State().Pools {
		for _, e := range p.Endpoints {
			if len(e.Sources) != 1 || e.Sources[0].Shared != shared || e.CheckShared != shared || !e.Sources[0].ReadAt.After(since) || !e.Checked.After(since) {
				return false
			}
		}
	}
	return true
}

// await waits until something is so.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for !so() {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-deadline:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	var l net.Listener
	await(t, "the address "+address+" is free", func() bool {
		var err error
		l, err = net.Listen("tcp", address)
		return err == nil
	})
	return l
}

// Twenty gateways, and each endpoint is read by one: the control plane. While that is away they read for themselves, and no more when it is back.
func TestEndpointsAreReadOnce(t *testing.T) {
	servers := []*inference{newInference(t), newInference(t)}
	pools := poolsOf(servers)
	w := &wire{t, newAuthority(t)}
	control := w.plane(listen(t, "127.0.0.1:0"), pools, nil)
	var gateways []*steerer
	for range 20 {
		gateways = append(gateways, w.steerer(pools, control.address))
	}
	everybody := func(shared bool) {
		t.Helper()
		since := time.Now()
		await(t, fmt.Sprintf("all gateways have readings, shared: %v", shared), func() bool {
			return !slices.ContainsFunc(gateways, func(g *steerer) bool { return !g.read(shared, since) })
		})
	}
	own := func() (n float64) {
		for _, g := range gateways {
			n += sum(t, g.reg, "weir_backend_signal_sources", "own")
		}
		return n
	}
	everybody(true)
	await(t, "nobody reads for himself", func() bool { return own() == 0 })
	// All that the servers are asked, the control plane asks.
	counts := func() (asked, gatewaysAsked float64) {
		for _, s := range servers {
			asked += float64(s.scrapes.Load() + s.checks.Load())
		}
		for _, g := range gateways {
			gatewaysAsked += sum(t, g.reg, "weir_scrapes_total") + sum(t, g.reg, "weir_health_checks_total")
		}
		return asked, gatewaysAsked
	}
	asked, byGateways := counts()
	everybody(true)
	everybody(true)
	askedLater, byGatewaysLater := counts()
	if own() == 0 && byGatewaysLater != byGateways {
		t.Errorf("gateways have asked %v times", byGatewaysLater-byGateways)
	}
	if askedLater <= asked {
		t.Error("nothing was asked")
	}

	// A signal that crosses a line reaches the weights of all.
	servers[0].usage.Store(99)
	await(t, "all gateways have the weights", func() bool {
		return !slices.ContainsFunc(gateways, func(g *steerer) bool {
			for _, e := range g.State().Pools[0].Endpoints {
				if want := map[bool]uint32{true: 500, false: 1000}[e.Key == servers[0].at.String()]; e.Weight != want {
					return true
				}
			}
			return false
		})
	})

	control.stop()
	everybody(false)
	w.plane(listen(t, control.address), pools, nil)
	everybody(true)
	await(t, "nobody reads for himself", func() bool { return own() == 0 })
	everybody(true)
}

// Two replicas share the endpoints, a gateway that knows one of them gets the signals of both, and each takes over from the other.
func TestReplicasShareEndpoints(t *testing.T) {
	var servers []*inference
	for range 16 {
		servers = append(servers, newInference(t))
	}
	pools := poolsOf(servers)
	w := &wire{t, newAuthority(t)}
	la, lb := listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")
	peers := []string{la.Addr().String(), lb.Addr().String()}
	a, b := w.plane(la, pools, peers), w.plane(lb, pools, peers)
	reads := func(p *plane) float64 { return sum(t, p.reg, "weir_fleet_signal_sources") }
	g := w.steerer(pools, a.address, b.address)
	shared := func() {
		t.Helper()
		since := time.Now()
		await(t, "all signals are shared", func() bool { return g.read(true, since) && sum(t, g.reg, "weir_backend_signal_sources", "own") == 0 })
	}
	split := func() bool { return reads(a)+reads(b) == 2*float64(len(servers)) && reads(a) > 0 && reads(b) > 0 }
	await(t, "they share the endpoints", split)
	shared()
	a.stop()
	await(t, "the other has taken over", func() bool { return reads(b) == 2*float64(len(servers)) })
	shared()
	a = w.plane(listen(t, a.address), pools, peers)
	await(t, "they share the endpoints again", split)
	shared()
}
