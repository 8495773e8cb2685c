package lrs

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/weir-dev/weir/envoy"
	"github.com/weir-dev/weir/test/freeport"
)

// patience bounds every wait on Envoy. It is never the measure of anything.
const patience = 30 * time.Second

const poolCluster = "pool"

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// node is a server of the pool: it answers with status, or holds requests until released.
type node struct {
	*httptest.Server
	release func()
	got     atomic.Uint64
}

func newNode(t *testing.T, status int, hold bool) *node {
	gate := make(chan struct{})
	n := &node{release: sync.OnceFunc(func() { close(gate) })}
	n.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.got.Add(1)
		w.WriteHeader(status)
		if hold {
			w.(http.Flusher).Flush()
			<-gate
		}
	}))
	t.Cleanup(func() { n.release(); n.Close() })
	return n
}

func (n *node) key() string { return n.Listener.Addr().String() }

// gateway is a real Envoy before nodes, which reports to a Server.
type gateway struct {
	t      *testing.T
	url    string
	server *Server
	serve  func() (stop func()) // what Envoy asks
	stop   func()

	mu      sync.Mutex
	reports []Report
}

func newGateway(t *testing.T, nodes ...*node) *gateway {
	t.Helper()
	bin, err := envoy.Ensure(context.Background(), envoy.FindOptions{})
	must(t, err)
	base, err := os.MkdirTemp("", "weir-lrs-") // the path of a socket must be short
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	dir, err := envoy.NewRuntimeDir(envoy.RuntimeDirOptions{Base: base})
	must(t, err)
	t.Cleanup(func() { _ = dir.Close() })
	xds, err := dir.Socket(envoy.XDSSocketName)
	must(t, err)
	admin, err := dir.Socket(envoy.AdminSocketName)
	must(t, err)
	listen := freeport.Addr(t)

	g := &gateway{t: t, url: "http://" + listen}
	g.server = New(Options{Interval: 50 * time.Millisecond, Sink: func(r Report) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.reports = append(g.reports, r)
	}})
	g.serve = func() (stop func()) { return g.serveXDS(xds, listen, nodes) }
	g.stop = g.serve()
	t.Cleanup(func() { g.stop() })
	boot, err := envoy.Bootstrap(envoy.BootstrapOptions{AdminSocket: admin, XDSSocket: xds, NodeID: "gateway-7"})
	must(t, err)
	sup, err := envoy.NewSupervisor(envoy.SupervisorOptions{
		Binary: bin.Path, Bootstrap: boot, RuntimeDir: dir.Path(), AdminSocket: admin, Concurrency: 2, Listen: []string{listen},
		LogLevel: slog.LevelWarn, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, sup.Start(ctx))
	t.Cleanup(func() {
		stop, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = sup.Stop(stop)
	})
	must(t, sup.WaitReady(ctx))
	return g
}

// serveXDS serves ADS and load reports on one socket, as Weir does, until it is stopped.
func (g *gateway) serveXDS(socket, listen string, nodes []*node) (stop func()) {
	g.t.Helper()
	eds := &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}, ResourceApiVersion: corev3.ApiVersion_V3,
	}
	group := &endpointv3.LocalityLbEndpoints{} // without a locality, as Weir's are
	for _, n := range nodes {
		group.LbEndpoints = append(group.LbEndpoints, &endpointv3.LbEndpoint{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: tcp(g.t, n.key())}},
		})
	}
	snapshot, err := cachev3.NewSnapshot("1", map[resourcev3.Type][]types.Resource{
		resourcev3.ListenerType: {listener(g.t, listen)},
		resourcev3.ClusterType: {&clusterv3.Cluster{
			Name: poolCluster, ConnectTimeout: durationpb.New(patience),
			ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
			EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{EdsConfig: eds},
		}},
		resourcev3.EndpointType: {&endpointv3.ClusterLoadAssignment{ClusterName: poolCluster, Endpoints: []*endpointv3.LocalityLbEndpoints{group}}},
	})
	must(g.t, err)
	cache := cachev3.NewSnapshotCache(true, cachev3.IDHash{}, nil)
	must(g.t, cache.SetSnapshot(g.t.Context(), "gateway-7", snapshot))
	l, err := net.Listen("unix", socket)
	must(g.t, err)
	srv := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(srv, serverv3.NewServer(context.WithoutCancel(g.t.Context()), cache, nil))
	g.server.Register(srv)
	go func() { _ = srv.Serve(l) }()
	return srv.Stop
}

func tcp(t *testing.T, address string) *corev3.Address {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", address)
	must(t, err)
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: a.IP.String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(a.Port)},
	}}}
}

func listener(t *testing.T, address string) *listenerv3.Listener {
	pack := func(m proto.Message) *anypb.Any {
		a, err := anypb.New(m)
		must(t, err)
		return a
	}
	hcm := &hcmv3.HttpConnectionManager{
		StatPrefix: "gateway",
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
			VirtualHosts: []*routev3.VirtualHost{{Name: "all", Domains: []string{"*"}, Routes: []*routev3.Route{{
				Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
				Action: &routev3.Route_Route{Route: &routev3.RouteAction{
					ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: poolCluster}, Timeout: durationpb.New(0),
				}},
			}}}},
		}},
		HttpFilters: []*hcmv3.HttpFilter{{Name: "router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(&routerv3.Router{})}}},
	}
	return &listenerv3.Listener{
		Name: "test", Address: tcp(t, address),
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			Name: "hcm", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(hcm)},
		}}}},
	}
}

// send sends n requests and returns when their headers are back. Bodies end by themselves, or when their node lets go.
func (g *gateway) send(n int) {
	g.t.Helper()
	for range n {
		resp, err := http.Get(g.url)
		must(g.t, err)
		g.t.Cleanup(func() { _ = resp.Body.Close() })
		go func() { _, _ = io.Copy(io.Discard, resp.Body) }()
	}
}

// total sums up the reports of an endpoint; in flight is what the last one says.
func (g *gateway) total(endpoint string) (sum Report, reports int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.reports {
		if r.Endpoint != endpoint {
			continue
		}
		reports++
		r.Requests += sum.Requests
		r.Successes += sum.Successes
		r.Errors += sum.Errors
		sum = r
	}
	return sum, reports
}

func (g *gateway) waitFor(what string, cond func() bool) {
	g.t.Helper()
	deadline := time.Now().Add(patience)
	for !cond() {
		if time.Now().After(deadline) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.t.Fatalf("waited in vain: %s; the last reports: %+v", what, g.reports[max(0, len(g.reports)-10):])
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestEnvoyReportsEndpoints shows that per-endpoint figures of an EDS cluster arrive, and what they say about requests that
// succeed, that fail and that go on for many intervals.
func TestEnvoyReportsEndpoints(t *testing.T) {
	good, bad, busy := newNode(t, 200, false), newNode(t, 503, false), newNode(t, 200, true)
	g := newGateway(t, good, bad, busy)
	g.server.Set([]string{poolCluster, "a-cluster-that-does-not-exist"})

	g.waitFor("the first report", func() bool { g.send(3); _, n := g.total(good.key()); return n > 0 })
	for busy.got.Load() < 3 {
		g.send(1)
	}
	g.waitFor("requests in flight", func() bool { r, _ := g.total(busy.key()); return r.InFlight == busy.got.Load() })
	held, n := g.total(busy.key())
	if held.Node != "gateway-7" || held.Cluster != poolCluster || held.Interval <= 0 || held.Stream == 0 {
		t.Errorf("the report is not complete: %+v", held)
	}
	g.waitFor("more reports of an endpoint that gets no new requests", func() bool { _, m := g.total(busy.key()); return m > n+3 })
	if now, _ := g.total(busy.key()); now.InFlight != held.InFlight {
		t.Errorf("%d requests in flight, then %d without any beginning or ending", held.InFlight, now.InFlight)
	}
	g.waitFor("successes", func() bool { r, _ := g.total(good.key()); return r.Successes > 0 && r.Requests > 0 && r.InFlight == 0 })
	g.waitFor("errors", func() bool { r, _ := g.total(bad.key()); return r.Errors > 0 && r.InFlight == 0 })
	if r, _ := g.total(good.key()); r.Errors != 0 {
		t.Errorf("errors of an endpoint without any: %+v", r)
	}
	if r, _ := g.total(bad.key()); r.Successes != 0 {
		t.Errorf("successes of an endpoint without any: %+v", r)
	}
	// What began before Envoy was asked for reports may be missing from the first; from then on nothing is.
	begun := func() (sum uint64) {
		for _, n := range []*node{good, bad, busy} {
			r, _ := g.total(n.key())
			sum += r.Requests
		}
		return sum
	}
	sent := begun()
	g.send(12)
	g.waitFor("twelve more requests", func() bool { return begun() == sent+12 })
	busy.release()
	g.waitFor("the end of what was in flight", func() bool { r, _ := g.total(busy.key()); return r.InFlight == 0 && r.Successes > 0 })
}

// TestEnvoyFollowsSet shows that Envoy stops when nothing is asked for, and begins again at once.
func TestEnvoyFollowsSet(t *testing.T) {
	good := newNode(t, 200, false)
	g := newGateway(t, good)
	g.server.Set([]string{poolCluster})
	g.waitFor("a report", func() bool { g.send(1); _, n := g.total(good.key()); return n > 0 })
	g.server.Set(nil)
	// A report may be under way. Then 20 intervals' worth of requests go by without one.
	g.waitFor("silence", func() bool {
		_, before := g.total(good.key())
		for range 20 {
			g.send(1)
			time.Sleep(g.server.opts.Interval)
		}
		_, after := g.total(good.key())
		return before == after
	})
	_, n := g.total(good.key())
	g.server.Set([]string{poolCluster})
	g.waitFor("a report again", func() bool { g.send(1); _, m := g.total(good.key()); return m > n })
}

// TestEnvoyConnectsAgain shows that reports go on after the control plane was restarted, and that meanwhile nothing counts as in
// flight. Envoy waits for some seconds before it connects again.
func TestEnvoyConnectsAgain(t *testing.T) {
	busy := newNode(t, 200, true)
	g := newGateway(t, busy)
	g.server.Set([]string{poolCluster})
	g.send(1)
	g.waitFor("requests in flight", func() bool { r, _ := g.total(busy.key()); return r.InFlight == 1 })
	before, _ := g.total(busy.key())
	g.stop()
	g.waitFor("the end of the stream", func() bool { r, _ := g.total(busy.key()); return r.InFlight == 0 })
	g.stop = g.serve()
	g.waitFor("requests in flight", func() bool { r, _ := g.total(busy.key()); return r.InFlight == 1 })
	if after, _ := g.total(busy.key()); after.Stream == before.Stream || after.Node != before.Node {
		t.Errorf("%+v, then %+v; want another stream of the same Envoy", before, after)
	}
}
