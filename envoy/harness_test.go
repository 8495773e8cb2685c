package envoy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
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

	"github.com/weir-dev/weir/test/freeport"
)

// patience bounds every wait of these tests. It is never the measure of anything.
const patience = time.Minute

// realEnvoy is the Envoy that the tests run: what Ensure finds, or downloads the first time.
func realEnvoy(t *testing.T) Binary {
	t.Helper()
	bin, err := sharedEnvoy()
	if err != nil {
		t.Fatalf("these tests need a real Envoy: %v", err)
	}
	return bin
}

var sharedEnvoy = sync.OnceValues(func() (Binary, error) {
	return Ensure(context.Background(), FindOptions{Progress: os.Stderr})
})

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if pollUntil(ctx, cond) != nil {
		t.Fatalf("waited in vain: %s", what)
	}
}

// fixture is a supervised Envoy with a real ADS server, one listener and one backend that streams.
type fixture struct {
	t       *testing.T
	sup     *Supervisor
	address string // of the listener
	admin   *Admin
	dir     *RuntimeDir
	events  *eventLog
	logs    *syncBuffer
	backend *streamBackend
}

// newFixture prepares everything; edit may change the options. It does not start Envoy.
func newFixture(t *testing.T, edit func(*SupervisorOptions)) *fixture {
	t.Helper()
	bin := realEnvoy(t)
	f := &fixture{t: t, events: newEventLog(), logs: &syncBuffer{}, backend: newStreamBackend(t)}
	// Not t.TempDir: its path can exceed what a unix socket allows.
	dir, err := NewRuntimeDir(RuntimeDirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	f.dir = dir
	adminSocket, xdsSocket := f.socket(AdminSocketName), f.socket(XDSSocketName)
	f.address = freeAddress(t)
	serveADS(t, xdsSocket, f.address, f.backend.Listener.Addr().String())
	boot, err := Bootstrap(BootstrapOptions{AdminSocket: adminSocket, XDSSocket: xdsSocket, NodeID: "test-node"})
	if err != nil {
		t.Fatal(err)
	}
	opts := SupervisorOptions{
		Binary: bin.Path, Bootstrap: boot, RuntimeDir: dir.Path(), AdminSocket: adminSocket,
		Concurrency: 1, Listen: []string{f.address}, OnEvent: f.events.add,
		Logger: slog.New(slog.NewTextHandler(f.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if edit != nil {
		edit(&opts)
	}
	if f.sup, err = NewSupervisor(opts); err != nil {
		t.Fatal(err)
	}
	f.admin = f.sup.Admin()
	t.Cleanup(func() {
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		f.sup.Stop(gone)
		if t.Failed() {
			t.Logf("events: %v\nlog:\n%s", f.events.all(), f.logs.String())
		}
		noLeaks(t)
	})
	return f
}

func (f *fixture) socket(name string) string {
	f.t.Helper()
	s, err := f.dir.Socket(name)
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

// startReady starts Envoy and waits until it serves.
func (f *fixture) startReady() {
	f.t.Helper()
	ctx := testContext(f.t)
	if err := f.sup.Start(ctx); err != nil {
		f.t.Fatalf("Start: %v", err)
	}
	if err := f.sup.WaitReady(ctx); err != nil {
		f.t.Fatalf("WaitReady: %v", err)
	}
	// The event comes from another goroutine that asks for itself.
	eventually(f.t, "the event Ready", func() bool { return strings.HasSuffix(f.events.kinds(), "Ready") })
}

func (f *fixture) url(path string) string { return "http://" + f.address + path }

// openStream sends a request whose answer the backend holds open, and returns when its first bytes
// are through.
func (f *fixture) openStream() *http.Response {
	f.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(f.url("/stream"))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { resp.Body.Close() })
	first := make([]byte, len(streamFirst))
	if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != streamFirst {
		f.t.Fatalf("the stream began with %q, %v", first, err)
	}
	return resp
}

// refused tells whether the listener no longer accepts.
func (f *fixture) refused() bool {
	c, err := net.Dial("tcp", f.address)
	if err != nil {
		return true
	}
	c.Close()
	return false
}

const (
	streamFirst = "the first half "
	streamLast  = "and the last"
)

// streamBackend answers "ok", and under /stream in two halves with a wait for release between them.
type streamBackend struct {
	*httptest.Server
	release     chan struct{}
	releaseOnce sync.Once
}

func newStreamBackend(t *testing.T) *streamBackend {
	b := &streamBackend{release: make(chan struct{})}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/stream" {
			io.WriteString(w, "ok")
			return
		}
		io.WriteString(w, streamFirst)
		w.(http.Flusher).Flush()
		select {
		case <-b.release:
			io.WriteString(w, streamLast)
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(func() { b.finish(); b.Close() })
	return b
}

func (b *streamBackend) finish() { b.releaseOnce.Do(func() { close(b.release) }) }

// serveADS serves one listener, with its route inline, and one cluster over delta ADS.
func serveADS(t *testing.T, socket, listen, backend string) {
	t.Helper()
	snapshot, err := cachev3.NewSnapshot("1", map[resourcev3.Type][]types.Resource{
		resourcev3.ListenerType: {testListener(t, listen)},
		resourcev3.ClusterType: {&clusterv3.Cluster{
			Name: "backend", ConnectTimeout: durationpb.New(patience),
			ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
			LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: "backend", Endpoints: []*endpointv3.LocalityLbEndpoints{{
				LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
					Endpoint: &endpointv3.Endpoint{Address: socketAddress(t, backend)},
				}}},
			}}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	cache := cachev3.NewSnapshotCache(true, cachev3.IDHash{}, nil)
	if err := cache.SetSnapshot(t.Context(), "test-node", snapshot); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(srv, serverv3.NewServer(context.WithoutCancel(t.Context()), cache, nil))
	go srv.Serve(l)
	t.Cleanup(srv.Stop)
}

func testListener(t *testing.T, address string) *listenerv3.Listener {
	return &listenerv3.Listener{
		Name: "test", Address: socketAddress(t, address),
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			Name: "hcm", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: mustAny(t, &hcmv3.HttpConnectionManager{
				StatPrefix: "gateway",
				RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
					VirtualHosts: []*routev3.VirtualHost{{Name: "all", Domains: []string{"*"}, Routes: []*routev3.Route{{
						Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
						Action: &routev3.Route_Route{Route: &routev3.RouteAction{
							ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: "backend"}, Timeout: durationpb.New(0),
						}},
					}}}},
				}},
				HttpFilters: []*hcmv3.HttpFilter{{
					Name: "router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: mustAny(t, &routerv3.Router{})},
				}},
			})},
		}}}},
	}
}

func mustAny(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func socketAddress(t *testing.T, address string) *corev3.Address {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: a.IP.String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(a.Port)},
	}}}
}

// staticBootstrap is a bootstrap without xDS, with one listener on address.
func staticBootstrap(t *testing.T, adminSocket, address string) []byte {
	t.Helper()
	var doc map[string]any
	boot, err := Bootstrap(BootstrapOptions{AdminSocket: adminSocket, XDSSocket: "/nowhere"})
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(boot, &doc); err != nil {
		t.Fatal(err)
	}
	delete(doc, "dynamic_resources")
	delete(doc, "cluster_manager") // its load reports go to a cluster that is not there
	host, port, _ := net.SplitHostPort(address)
	doc["static_resources"] = map[string]any{"listeners": []any{map[string]any{
		"name": "static", "enable_reuse_port": false,
		"address": map[string]any{"socket_address": map[string]any{"address": host, "port_value": json.Number(port)}},
		"filter_chains": []any{map[string]any{"filters": []any{map[string]any{
			"name":         "echo",
			"typed_config": map[string]any{"@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"},
		}}}},
	}}}
	out, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// freeAddress returns an address on which nothing listens, and that no other test gets.
func freeAddress(t *testing.T) string {
	t.Helper()
	return freeport.Addr(t)
}

// eventLog keeps events and lets a test wait for them.
type eventLog struct {
	mu     sync.Mutex
	events []Event
}

func newEventLog() *eventLog { return &eventLog{} }

func (l *eventLog) add(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

func (l *eventLog) all() []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Event(nil), l.events...)
}

// kinds are the events' types in order: "Started Ready Exited".
func (l *eventLog) kinds() string {
	var kinds []string
	for _, e := range l.all() {
		kinds = append(kinds, strings.TrimPrefix(fmt.Sprintf("%T", e), "envoy."))
	}
	return strings.Join(kinds, " ")
}

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// processGone tells whether no such process runs; a zombie that its new parent has not reaped does
// not count as running.
func processGone(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "stat"))
	if err != nil {
		return true
	}
	// The state is the field behind the command name in parentheses (proc_pid_stat(5)).
	_, after, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(after, "Z")
}

// noLeaks fails the test if goroutines of this package's own code outlive it.
func noLeaks(t *testing.T) {
	t.Helper()
	var stacks string
	running := func() bool {
		buf := make([]byte, 1<<20)
		stacks = string(buf[:runtime.Stack(buf, true)])
		for _, mark := range []string{"envoy.startChild", "envoy.forwardLogs", "envoy.(*Supervisor)", "envoy.watchReady", "envoy.(*Admin)"} {
			if strings.Contains(stacks, mark) {
				return true
			}
		}
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if pollUntil(ctx, func() bool { return !running() }) != nil {
		t.Errorf("goroutines are left behind:\n%s", stacks)
	}
}
