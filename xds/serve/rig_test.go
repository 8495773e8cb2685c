package serve

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/internal/cow"
	"github.com/weir-dev/weir/test/bubble"
	"github.com/weir-dev/weir/xds/compile"
)

// rig is a Publisher with a fake Envoy before it, in a bubble of synctest: its clock moves only when everything
// stands still, so a test waits for nothing.
type rig struct {
	t *testing.T
	*Publisher
	envoy *fakeEnvoy

	mu        sync.Mutex
	published map[string]*compile.Version
	activated []string
	steerings []string // what Steered was told: "1 taken", "2 refused: why"
}

// inRig runs test with a Publisher that runs and an Envoy that has not connected.
func inRig(t *testing.T, opts Options, test func(t *testing.T, r *rig)) {
	t.Helper()
	inIdleRig(t, opts, func(t *testing.T, r *rig) {
		defer r.run()()
		test(t, r)
	})
}

// run has the Publisher run until stop is called.
func (r *rig) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// inIdleRig is inRig with a Publisher that does not run: its events wait.
func inIdleRig(t *testing.T, opts Options, test func(t *testing.T, r *rig)) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		r := &rig{t: t, published: map[string]*compile.Version{}}
		if opts.Warming == nil {
			opts.Warming = func(ctx context.Context) (int, error) { return r.envoy.warming(ctx) }
		}
		opts.NodeID, opts.Activate, opts.Steered, opts.Log = "weir", r.activate, r.steered, slog.New(slog.DiscardHandler)
		r.Publisher = NewPublisher(opts)

		lis := bufconn.Listen(1 << 20)
		server := grpc.NewServer()
		r.Register(server)
		go func() { _ = server.Serve(lis) }() // Stop ends it
		conn, err := grpc.NewClient("passthrough:///weir", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
		if err != nil {
			t.Fatal(err)
		}
		r.envoy = &fakeEnvoy{t: t, conn: conn}
		r.envoy.restart()
		defer func() {
			r.envoy.disconnect()
			conn.Close()
			server.Stop()
			synctest.Wait()
		}()
		test(t, r)
	})
}

// activate holds the invariant of the package: when ext_proc begins to decide from a version, Envoy has
// everything that its decisions can name.
func (r *rig) activate(going *compile.Version) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.published[going.ID]
	if v == nil {
		r.t.Errorf("version %q was never published", going.ID)
		return
	}
	if n := len(r.activated); n > 0 && r.activated[n-1] == going.ID {
		r.t.Errorf("version %q was activated twice in a row", going.ID)
	}
	r.activated = append(r.activated, going.ID)
	r.covers("clusters", r.envoy.names(resourcev3.ClusterType), slices.Sorted(v.Clusters.Names()))
	r.covers("listeners", r.envoy.names(resourcev3.ListenerType), keys(v.Listeners))
	r.covers("routes", r.envoy.names(resourcev3.ScopedRouteType), slices.Sorted(v.Routes.Names()))
	r.covers("endpoints", r.envoy.names(resourcev3.EndpointType), keys(v.Endpoints))
	for name, want := range v.Secrets {
		if got := r.envoy.secret(name); !proto.Equal(got, want) {
			r.t.Errorf("version %q was activated while Envoy had the secret %v, want %v", going.ID, got, want)
		}
	}
}

func (r *rig) covers(what string, have, want []string) {
	for _, name := range want {
		if !slices.Contains(have, name) {
			r.t.Errorf("version %q was activated while Envoy had the %s %q: %q is missing", r.activated[len(r.activated)-1], what, have, name)
		}
	}
}

// settle lets everything happen that needs no more than another look at what is warming.
func settle() { pass(2 * warmPoll) }

// publish publishes, and settles.
func (r *rig) publish(versions ...*compile.Version) {
	for _, v := range versions {
		r.mu.Lock()
		r.published[v.ID] = v
		r.mu.Unlock()
		r.Publish(v)
	}
	settle()
}

// expect compares what has been activated since the last call.
func (r *rig) expect(want ...string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.activated, want) {
		r.t.Fatalf("activated %q, want %q", r.activated, want)
	}
	r.activated = nil
}

func (r *rig) expectNames(typeURL string, want ...string) {
	r.t.Helper()
	if got := r.envoy.names(typeURL); !slices.Equal(got, want) {
		r.t.Errorf("Envoy has the %ss %q, want %q", shortType(typeURL), got, want)
	}
}

// pass lets time pass, and then everything happen that is due.
func pass(d time.Duration) {
	time.Sleep(d) // of the bubble's clock
	synctest.Wait()
}

func keys[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// content is what a test Version holds: names of clusters and routes, and a word that the listener "door" is made from.
type content struct {
	clusters []string
	routes   []string
	door     string
	secrets  map[string]string // values by name; the door needs them all
	retain   time.Duration
	pool     []string // addresses of each cluster's endpoints
	shares   []uint32 // weights of each route's clusters "x0", "x1", ...
}

func version(id string, c content) *compile.Version {
	v := &compile.Version{
		ID: id, Table: &table.Table{Version: id}, Retain: c.retain, MaxBody: 1 << 20,
		Listeners: map[string]*listenerv3.Listener{"door": {Name: "door", StatPrefix: c.door}},
		Endpoints: map[string]*endpointv3.ClusterLoadAssignment{}, Secrets: map[string]*tlsv3.Secret{},
	}
	door := &tlsv3.DownstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{}}
	for _, name := range keys(c.secrets) {
		v.Secrets[name] = &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_GenericSecret{GenericSecret: &tlsv3.GenericSecret{
			Secret: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: c.secrets[name]}},
		}}}
		door.CommonTlsContext.TlsCertificateSdsSecretConfigs = append(door.CommonTlsContext.TlsCertificateSdsSecretConfigs, &tlsv3.SdsSecretConfig{Name: name})
	}
	packed, err := anypb.New(door)
	if err != nil {
		panic(err) // of a message made here
	}
	v.Listeners["door"].FilterChains = []*listenerv3.FilterChain{{TransportSocket: &corev3.TransportSocket{
		Name: "tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: packed},
	}}}
	var clusters cow.Edit[*clusterv3.Cluster]
	for _, name := range c.clusters {
		clusters.Set(name, &clusterv3.Cluster{
			Name: name, ConnectTimeout: durationpb.New(time.Second),
			ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		})
		v.Endpoints[name] = endpoints(name, c.pool...)
	}
	var routes cow.Edit[*routev3.Route]
	for _, key := range c.routes {
		routes.Set(key, route(key, c.shares))
	}
	v.Clusters, v.Routes = clusters.Map(), routes.Map()
	return v
}

// one is a version in which everything is named after a letter.
func one(id string) *compile.Version {
	return version(id, content{clusters: []string{"cluster-" + id}, routes: []string{"route-" + id}, door: id, secrets: map[string]string{"certificate": id}, retain: time.Minute})
}
