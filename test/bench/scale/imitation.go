package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protopath"
	"google.golang.org/protobuf/reflect/protorange"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/weir-dev/weir/envoy"
	_ "github.com/weir-dev/weir/xds/compile" // knows every message that Weir sends to Envoy
)

// imitation speaks delta ADS as Envoy does: all clusters and listeners first, all scopes of routes once there is a listener, endpoints and secrets by
// name once a cluster or a listener needs them. It takes everything at once and serves nothing.
type imitation struct {
	meter *meter
	conn  *grpc.ClientConn
	admin *http.Server
	stop  context.CancelFunc

	reading sync.WaitGroup
	err     atomic.Pointer[error] // why it has ended; nil while it runs

	needs  map[want][]want // what a cluster or a listener needs
	users  map[want]int    // how many need it
	scoped bool            // scopes were asked for
}

// want is a resource by its name.
type want struct{ typeURL, name string }

// imitate begins at the sockets of a directory that it shares with weir.
func imitate(ctx context.Context, dir string, m *meter) (*imitation, error) {
	e := &imitation{meter: m, needs: map[want][]want{}, users: map[want]int{}}
	admin, err := net.Listen("unix", filepath.Join(dir, envoy.AdminSocketName))
	if err != nil {
		return nil, err
	}
	e.admin = &http.Server{Handler: adminOfImitation()}
	go func() { _ = e.admin.Serve(admin) }() // it ends by Close
	e.conn, err = grpc.NewClient("unix:"+filepath.Join(dir, envoy.ExtProcSocketName), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)))
	if err != nil {
		return nil, errors.Join(err, e.admin.Close())
	}
	ctx, e.stop = context.WithCancel(ctx)
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(e.conn).DeltaAggregatedResources(ctx, grpc.WaitForReady(true))
	if err != nil {
		e.stop()
		return nil, errors.Join(err, e.conn.Close(), e.admin.Close())
	}
	e.reading.Go(func() {
		if err := e.converse(stream); ctx.Err() == nil {
			e.err.Store(&err)
		}
	})
	return e, nil
}

// adminOfImitation answers what Weir asks Envoy's admin interface.
func adminOfImitation() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "LIVE") })
	mux.HandleFunc("/stats", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"stats": [{"name": "cluster_manager.warming_clusters", "value": 0}, {"name": "listener_manager.total_listeners_warming", "value": 0}]}`)
	})
	return mux
}

func (e *imitation) close() {
	e.stop()
	e.reading.Wait()
	_ = errors.Join(e.conn.Close(), e.admin.Close()) // nobody uses them
}

// failed is why it has ended.
func (e *imitation) failed() error {
	if err := e.err.Load(); err != nil {
		return *err
	}
	return nil
}

type adsClient = discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient

func (e *imitation) converse(stream adsClient) error {
	send := func(r *discoveryv3.DeltaDiscoveryRequest) error {
		r.Node = &corev3.Node{Id: "weir"}
		e.meter.request(0, r)
		if err := stream.Send(r); err != nil && !errors.Is(err, io.EOF) { // EOF: Recv tells why
			return err
		}
		return nil
	}
	for _, typeURL := range []string{resourcev3.ClusterType, resourcev3.ListenerType} {
		if err := send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL}); err != nil {
			return err
		}
	}
	for {
		r, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("the imitation of Envoy has lost its stream: %w", err)
		}
		e.meter.response(0, r, 0)
		if err := send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()}); err != nil {
			return err
		}
		asks, err := e.taken(r)
		for i := 0; err == nil && i < len(asks); i++ {
			err = send(asks[i])
		}
		if err != nil {
			return err
		}
	}
}

// taken notes what a response brings, and returns what is to be asked for now, or no longer.
func (e *imitation) taken(r *discoveryv3.DeltaDiscoveryResponse) (asks []*discoveryv3.DeltaDiscoveryRequest, err error) {
	typeURL := r.GetTypeUrl()
	if typeURL != resourcev3.ClusterType && typeURL != resourcev3.ListenerType {
		return nil, nil
	}
	by := map[string]*discoveryv3.DeltaDiscoveryRequest{}
	ask := func(w want) *discoveryv3.DeltaDiscoveryRequest {
		if by[w.typeURL] == nil {
			by[w.typeURL] = &discoveryv3.DeltaDiscoveryRequest{TypeUrl: w.typeURL}
			asks = append(asks, by[w.typeURL])
		}
		return by[w.typeURL]
	}
	if typeURL == resourcev3.ListenerType && len(r.GetResources()) > 0 && !e.scoped {
		e.scoped = true
		ask(want{typeURL: resourcev3.ScopedRouteType})
	}
	for _, res := range r.GetResources() {
		needs, err := needsOf(res)
		if err != nil {
			return nil, err
		}
		for _, w := range needs {
			if e.users[w]++; e.users[w] == 1 {
				ask(w).ResourceNamesSubscribe = append(ask(w).ResourceNamesSubscribe, w.name)
			}
		}
		e.replace(typeURL, res.GetName(), needs, ask)
	}
	for _, name := range r.GetRemovedResources() {
		e.replace(typeURL, name, nil, ask)
	}
	return asks, nil
}

// replace takes note of what something needs now, and lets go of what it alone has needed before.
func (e *imitation) replace(typeURL, name string, needs []want, ask func(want) *discoveryv3.DeltaDiscoveryRequest) {
	by := want{typeURL, name}
	for _, w := range e.needs[by] {
		if e.users[w]--; e.users[w] == 0 {
			delete(e.users, w)
			ask(w).ResourceNamesUnsubscribe = append(ask(w).ResourceNamesUnsubscribe, w.name)
		}
	}
	if e.needs[by] = needs; needs == nil {
		delete(e.needs, by)
	}
}

// needsOf is what a cluster or a listener needs besides itself: endpoints, and secrets wherever in it they are named.
func needsOf(res *discoveryv3.Resource) (out []want, err error) {
	var m proto.Message
	if m, err = res.GetResource().UnmarshalNew(); err != nil {
		return nil, fmt.Errorf("the resource %s cannot be read: %w", res.GetName(), err)
	}
	switch m := m.(type) {
	case *clusterv3.Cluster:
		if m.GetType() == clusterv3.Cluster_EDS {
			out = append(out, want{resourcev3.EndpointType, m.GetName()})
		}
	case *listenerv3.Listener:
	default:
		return nil, fmt.Errorf("the resource %s is a %s", res.GetName(), m.ProtoReflect().Descriptor().FullName())
	}
	err = protorange.Range(m.ProtoReflect(), func(p protopath.Values) error {
		if v, ok := p.Index(-1).Value.Interface().(protoreflect.Message); ok {
			if s, ok := v.Interface().(*tlsv3.SdsSecretConfig); ok && s.GetSdsConfig() != nil {
				out = append(out, want{resourcev3.SecretType, s.GetName()})
			}
		}
		return nil
	})
	return out, err
}
