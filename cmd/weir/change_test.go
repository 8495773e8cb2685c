package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/envoy"
	"github.com/weir-dev/weir/xds/accept"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/serve"
	"github.com/weir-dev/weir/xds/source"
)

// tenth is how many Routes there are to a Backend.
const tenth = 10

// many are so many Routes, each with two Backends of a tenth as many, half of which have a URL and a credential, and half endpoints that were found.
func many(tb testing.TB, routes int) *source.Objects {
	objs := source.NewObjects()
	add := func(o source.Object) {
		if err := objs.Add(o); err != nil {
			tb.Fatal(err)
		}
	}
	add(&v1alpha1.LLMGateway{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "gateway"}, Spec: v1alpha1.LLMGatewaySpec{
		Listeners: []v1alpha1.Listener{{Name: "http", Address: "127.0.0.1", Port: 8080}},
		Limits:    v1alpha1.GatewayLimits{MaxRequestBytes: resource.MustParse("32Mi")},
	}})
	add(&v1alpha1.Consumer{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "app"}, Spec: v1alpha1.ConsumerSpec{Tenant: "app"}})
	for i := range routes / tenth {
		name := fmt.Sprintf("backend-%d", i)
		b := &v1alpha1.Backend{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: name, Generation: 1}, Spec: v1alpha1.BackendSpec{Dialect: "openai"}}
		if i%2 == 0 {
			ref := v1alpha1.SecretRef{Name: v1alpha1.ObjectName(name), Key: "token"}
			b.Spec.URL, b.Spec.Credential = fmt.Sprintf("http://127.0.0.1:%d/v1", 20000+i), &v1alpha1.BackendCredential{SecretRef: ref}
			objs.Secrets[source.SecretKeyOf("team", ref)] = source.NewSecret(fmt.Sprintf("sk-%048d", i))
		} else {
			b.Spec.Service, b.Spec.BasePath = &v1alpha1.ServiceBackend{Name: v1alpha1.ObjectName(name)}, "/v1"
			objs.Endpoints[source.RefOf(b)] = []v1alpha1.Endpoint{{Address: fmt.Sprintf("10.0.%d.%d", i/250, i%250), Port: 8000}}
		}
		add(b)
	}
	for i := range routes {
		add(manyRoute(i, routes/tenth, 1))
	}
	objs.Sort()
	return objs
}

func manyRoute(i, backends int, generation int64) *v1alpha1.Route {
	nth := func(n int) v1alpha1.ObjectName { return v1alpha1.ObjectName(fmt.Sprintf("backend-%d", (i+n)%backends)) }
	return &v1alpha1.Route{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: fmt.Sprintf("route-%05d", i), Generation: generation},
		Spec: v1alpha1.RouteSpec{Rules: []v1alpha1.RouteRule{{
			Matches:  []v1alpha1.RouteMatch{{Models: []v1alpha1.ModelName{v1alpha1.ModelName(fmt.Sprintf("model-%d", i))}}},
			Backends: []v1alpha1.RouteBackend{{Name: nth(0), Weight: new(int32(generation%90 + 1))}, {Name: nth(1), Weight: new(int32(1))}, {Name: nth(2), Priority: 1}},
		}}},
	}
}

// fed is an origin that hands on what it is given.
type fed struct{ source.Source }

func (fed) Health() source.Health { return source.Health{Connected: true} }
func (fed) String() string        { return "a test" }
func (fed) Watch(ctx context.Context, _ func(*source.Objects, []source.Problem)) {
	<-ctx.Done()
}

// changing is a gateway with its Envoy, which takes everything at once.
type changing struct {
	tb       testing.TB
	g        *gateway
	objs     *source.Objects
	backends int
	next     int64

	mu     sync.Mutex
	served *sync.Cond
	is     serve.State
}

func newChanging(tb testing.TB, routes int) *changing {
	c := &changing{tb: tb, objs: many(tb, routes), backends: routes / tenth, next: 1}
	c.served = sync.NewCond(&c.mu)
	dir := tb.TempDir()
	folder := filepath.Join(dir, "objects")
	if err := os.CopyFS(folder, os.DirFS("../../deploy/local")); err != nil {
		tb.Fatal(err)
	}
	o := gatewayOptions{dir: folder, admin: "127.0.0.1:0", stateDir: filepath.Join(dir, "state"), accessLog: accessOff}
	o.logLevel, o.logFormat = "error", "text"
	g, _, err := newGateway(o, nil, dir, io.Discard)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(g.close)
	g.log = slog.New(slog.DiscardHandler)
	g.compiler, g.keeper, g.verdicts = compile.NewCompiler(), accept.NewKeeper(), make(chan any, maxVerdicts)
	g.envoy.Store(envoy.NewAdmin(adminOfEnvoy(tb, dir)))
	g.noEnvoy = func() string { return "" }
	g.origin = origin{Source: fed{}, told: func(s serve.State) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.is = s
		c.served.Broadcast()
	}}
	if err := g.count(tb.Context(), nil); err != nil {
		tb.Fatal(err)
	}
	g.inBackground(tb.Context())
	socket := filepath.Join(dir, "extproc.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		tb.Fatal(err)
	}
	if g.relayDoor, err = net.Listen("unix", g.relayed.relay); err != nil {
		tb.Fatal(err)
	}
	if err := g.start(&config{objs: source.NewObjects()}, l, serve.Presence{}); err != nil {
		tb.Fatal(err)
	}
	c.g = g
	c.connect(socket)
	c.reload()
	return c
}

// adminOfEnvoy answers on a socket what Weir asks Envoy's admin interface, and returns where.
func adminOfEnvoy(tb testing.TB, dir string) string {
	path := filepath.Join(dir, "admin.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		tb.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"stats": [{"name": "cluster_manager.warming_clusters", "value": 0}, {"name": "listener_manager.total_listeners_warming", "value": 0}]}`)
	})}
	go func() { _ = s.Serve(l) }() // Close ends it
	tb.Cleanup(func() { s.Close() })
	return path
}

// change changes one Route, and returns when it is served.
func (c *changing) change() {
	i := int(c.next*7) % len(c.objs.Routes)
	c.next++
	c.objs = c.objs.With([]source.Object{c.objs.Routes[i]}, []source.Object{manyRoute(i, c.backends, c.next)})
	c.reload()
}

func (c *changing) reload() {
	c.g.reload(c.objs, nil)
	want := c.g.version.Load().ID
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.is.Serving != want {
		c.served.Wait()
	}
}

// connect plays Envoy.
func (c *changing) connect(socket string) {
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)))
	if err != nil {
		c.tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		c.tb.Fatal(err)
	}
	done := make(chan struct{})
	c.tb.Cleanup(func() {
		cancel()
		<-done
		conn.Close()
	})
	send := func(r *discoveryv3.DeltaDiscoveryRequest) { _ = stream.Send(r) } // Recv tells of an end
	send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resourcev3.ClusterType})
	send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resourcev3.ListenerType})
	go func() {
		defer close(done)
		scoped := false
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()})
			if r.GetTypeUrl() == resourcev3.ClusterType {
				asks := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: resourcev3.EndpointType}
				for _, res := range r.GetResources() {
					var m clusterv3.Cluster
					if err := res.GetResource().UnmarshalTo(&m); err == nil && m.GetType() == clusterv3.Cluster_EDS {
						asks.ResourceNamesSubscribe = append(asks.ResourceNamesSubscribe, m.GetName())
					}
				}
				send(asks)
			}
			if r.GetTypeUrl() == resourcev3.ListenerType && !scoped {
				scoped = true
				send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resourcev3.ScopedRouteType})
			}
		}
	}()
}

// BenchmarkChange is one Route of many that changes, from the objects until Envoy, which is in the same process, has taken it and requests are decided by it.
func BenchmarkChange(b *testing.B) {
	for _, n := range []int{100, 1_000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			c := newChanging(b, n)
			for range 20 {
				c.change()
			}
			runtime.GC()
			b.ReportAllocs()
			before := cpuTime(b)
			b.ResetTimer()
			for range b.N {
				c.change()
			}
			b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N)/1e6, "cpu-ms/op")
		})
	}
}

// TestChangeOfOneRoute: what a change of one Route allocates, from the objects until requests are decided by it, does not hang on how many others there
// are: only some lists of pointers grow.
func TestChangeOfOneRoute(t *testing.T) {
	few, many := allocatedPerChange(t, 500), allocatedPerChange(t, 2_000)
	t.Logf("a change takes %d allocations, %d bytes, of 500 Routes; %d, %d of 2,000", few.count, few.bytes, many.count, many.bytes)
	if many.count > few.count*11/10 {
		t.Errorf("a change takes %d allocations of 500 Routes, and %d of 2,000", few.count, many.count)
	}
	if many.bytes > few.bytes*14/10 {
		t.Errorf("a change takes %d bytes of 500 Routes, and %d of 2,000", few.bytes, many.bytes)
	}
}

type allocated struct{ count, bytes uint64 }

// allocatedPerChange takes the least of several turns: the process does other things too.
func allocatedPerChange(t *testing.T, routes int) (least allocated) {
	c := newChanging(t, routes)
	for range 3 {
		c.change()
	}
	for turn := range 3 {
		const changes = 4
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range changes {
			c.change()
		}
		runtime.ReadMemStats(&after)
		is := allocated{(after.Mallocs - before.Mallocs) / changes, (after.TotalAlloc - before.TotalAlloc) / changes}
		if turn == 0 || is.count < least.count {
			least.count = is.count
		}
		if turn == 0 || is.bytes < least.bytes {
			least.bytes = is.bytes
		}
	}
	return least
}

func cpuTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
