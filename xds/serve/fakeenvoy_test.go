package serve

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"

	"github.com/weir-dev/weir/xds/compile"
)

// verdict is what a fake Envoy does with a response.
type verdict struct {
	refuse string // why; "" accepts
	hold   bool   // neither, until release
}

// fakeEnvoy speaks delta ADS as Envoy does: wildcard clusters and listeners first, all scopes of routes
// once there is a listener, endpoints and secrets once a cluster or a listener does. What it refuses it does not apply.
// Scopes are forgotten with the last listener, and not asked for again when there is another one.
type fakeEnvoy struct {
	t     *testing.T
	conn  *grpc.ClientConn
	judge func(*discoveryv3.DeltaDiscoveryResponse) verdict // nil accepts everything

	mu       sync.Mutex
	have     map[string]map[string]*discoveryv3.Resource // by type and name; survives a lost stream
	held     []*discoveryv3.DeltaDiscoveryResponse
	got      []string // "Cluster +2 -1", in order
	stream   discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	asked    map[string]map[string]bool // by type, the names that were subscribed to in this stream
	hangUp   context.CancelFunc
	finished chan struct{}
}

// restart forgets everything, as a new process does.
func (e *fakeEnvoy) restart() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.have = map[string]map[string]*discoveryv3.Resource{}
}

// connect opens a stream and says what it has already.
func (e *fakeEnvoy) connect() {
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(e.conn).DeltaAggregatedResources(ctx)
	if err != nil {
		e.t.Fatalf("open a stream: %v", err)
	}
	e.mu.Lock()
	e.stream, e.hangUp, e.finished, e.asked, e.held = stream, cancel, make(chan struct{}), map[string]map[string]bool{}, nil
	e.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resourcev3.ClusterType})
	e.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resourcev3.ListenerType})
	e.subscribe()
	e.mu.Unlock()
	go e.receive(stream, e.finished)
	settle()
}

func (e *fakeEnvoy) disconnect() {
	e.mu.Lock()
	cancel, finished := e.hangUp, e.finished
	e.hangUp = nil
	e.mu.Unlock()
	if cancel == nil {
		return
	}
	cancel()
	<-finished
	synctest.Wait()
}

func (e *fakeEnvoy) receive(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient, finished chan struct{}) {
	defer close(finished)
	for {
		r, err := stream.Recv()
		if err != nil {
			return
		}
		e.mu.Lock()
		e.got = append(e.got, fmt.Sprintf("%s +%d -%d", shortType(r.GetTypeUrl()), len(r.GetResources()), len(r.GetRemovedResources())))
		v := verdict{}
		if e.judge != nil {
			v = e.judge(r)
		}
		if v.hold {
			e.held = append(e.held, r)
		} else {
			e.answer(r, v.refuse)
		}
		e.mu.Unlock()
	}
}

// release answers what was held of a type ("" for all), in the order in which it came.
func (e *fakeEnvoy) release(typeURL, refuse string) {
	e.mu.Lock()
	var rest []*discoveryv3.DeltaDiscoveryResponse
	for _, r := range e.held {
		if typeURL != "" && r.GetTypeUrl() != typeURL {
			rest = append(rest, r)
			continue
		}
		e.answer(r, refuse)
	}
	e.held = rest
	e.mu.Unlock()
	settle()
}

// answer needs the lock.
func (e *fakeEnvoy) answer(r *discoveryv3.DeltaDiscoveryResponse, refuse string) {
	req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()}
	if refuse != "" {
		req.ErrorDetail = &status.Status{Code: 3, Message: refuse}
		_ = e.stream.Send(req) // the stream may be gone
		return
	}
	if r.GetTypeUrl() == resourcev3.ScopedRouteType && len(e.have[resourcev3.ListenerType]) == 0 {
		_ = e.stream.Send(req) // nobody uses it
		return
	}
	have, kept := e.have[r.GetTypeUrl()], false
	for name := range have {
		kept = kept || !slices.Contains(r.GetRemovedResources(), name)
	}
	if r.GetTypeUrl() == resourcev3.ListenerType && !kept {
		delete(e.have, resourcev3.ScopedRouteType) // without a word, where no listener was in use
	}
	if have == nil {
		have = map[string]*discoveryv3.Resource{}
		e.have[r.GetTypeUrl()] = have
	}
	for _, res := range r.GetResources() {
		have[res.GetName()] = res
	}
	for _, name := range r.GetRemovedResources() {
		delete(have, name)
	}
	_ = e.stream.Send(req)
	switch r.GetTypeUrl() {
	case resourcev3.ListenerType, resourcev3.ClusterType:
		e.subscribe()
	}
}

// needs lists what clusters and listeners need, by type. It needs the lock.
func (e *fakeEnvoy) needs() map[string][]string {
	out := map[string][]string{}
	for name, res := range e.have[resourcev3.ClusterType] {
		c := &clusterv3.Cluster{}
		if res.GetResource().UnmarshalTo(c) == nil && c.GetType() == clusterv3.Cluster_EDS {
			out[resourcev3.EndpointType] = append(out[resourcev3.EndpointType], name)
		}
	}
	for _, res := range e.have[resourcev3.ListenerType] {
		l := &listenerv3.Listener{}
		if err := res.GetResource().UnmarshalTo(l); err != nil {
			e.t.Errorf("listener: %v", err)
		}
		for _, chain := range l.GetFilterChains() {
			conf := &tlsv3.DownstreamTlsContext{}
			if err := chain.GetTransportSocket().GetTypedConfig().UnmarshalTo(conf); err != nil {
				e.t.Errorf("listener: %v", err)
			}
			for _, sds := range conf.GetCommonTlsContext().GetTlsCertificateSdsSecretConfigs() {
				out[resourcev3.SecretType] = append(out[resourcev3.SecretType], sds.GetName())
			}
		}
	}
	return out
}

// subscribe asks for what is needed and has not been asked for, and no longer for what is not needed. It needs the lock.
func (e *fakeEnvoy) subscribe() {
	needs := e.needs()
	if len(e.have[resourcev3.ListenerType]) > 0 && e.asked[resourcev3.ScopedRouteType] == nil {
		e.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resourcev3.ScopedRouteType})
	}
	for _, typeURL := range []string{resourcev3.EndpointType, resourcev3.SecretType} {
		asked := e.asked[typeURL]
		req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL}
		for _, name := range needs[typeURL] {
			if !asked[name] {
				req.ResourceNamesSubscribe = append(req.ResourceNamesSubscribe, name)
			}
		}
		for name := range asked {
			if !slices.Contains(needs[typeURL], name) {
				req.ResourceNamesUnsubscribe = append(req.ResourceNamesUnsubscribe, name)
				delete(asked, name)
				delete(e.have[typeURL], name)
			}
		}
		if len(req.GetResourceNamesSubscribe())+len(req.GetResourceNamesUnsubscribe()) > 0 {
			e.ask(req)
		}
	}
}

// ask sends a request that answers nothing, the first of a type with what Envoy has. It needs the lock.
func (e *fakeEnvoy) ask(req *discoveryv3.DeltaDiscoveryRequest) {
	req.Node = &corev3.Node{Id: "some-envoy"}
	asked := e.asked[req.GetTypeUrl()]
	if asked == nil {
		asked = map[string]bool{}
		e.asked[req.GetTypeUrl()] = asked
		if have := e.have[req.GetTypeUrl()]; len(have) > 0 {
			req.InitialResourceVersions = map[string]string{}
			for name, r := range have {
				req.InitialResourceVersions[name] = r.GetVersion()
			}
		}
	}
	for _, name := range req.GetResourceNamesSubscribe() {
		asked[name] = true
	}
	_ = e.stream.Send(req)
}

// warming counts the clusters and listeners that lack something, as the admin interface does.
func (e *fakeEnvoy) warming(context.Context) (n int, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for typeURL, names := range e.needs() {
		for _, name := range names {
			if e.have[typeURL][name] == nil {
				n++
			}
		}
	}
	return n, nil
}

// names lists what Envoy has of a type, sorted; of scopes the keys of their entries.
func (e *fakeEnvoy) names(typeURL string) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if typeURL == resourcev3.ScopedRouteType {
		return keys(e.entries())
	}
	return keys(e.have[typeURL])
}

// entries are those of all scopes, by key. It needs the lock.
func (e *fakeEnvoy) entries() map[string]*routev3.Route {
	out := map[string]*routev3.Route{}
	for name, res := range e.have[resourcev3.ScopedRouteType] {
		scope := &routev3.ScopedRouteConfiguration{}
		if err := res.GetResource().UnmarshalTo(scope); err != nil || scope.GetName() != name {
			e.t.Errorf("scope %s, which calls itself %s: %v", name, scope.GetName(), err)
			continue
		}
		for key, entry := range scope.GetRouteConfiguration().GetVirtualHosts()[0].GetMatcher().GetMatcherTree().GetExactMatchMap().GetMap() {
			r := &routev3.Route{}
			if err := entry.GetAction().GetTypedConfig().UnmarshalTo(r); err != nil || compile.ScopeOf(key) != name {
				e.t.Errorf("entry %s of the scope %s: %v", key, name, err)
			}
			out[key] = r
		}
	}
	return out
}

// secret returns a secret that Envoy has, nil where it has none.
func (e *fakeEnvoy) secret(name string) *tlsv3.Secret {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.have[resourcev3.SecretType][name]
	if r == nil {
		return nil
	}
	s := &tlsv3.Secret{}
	if err := r.GetResource().UnmarshalTo(s); err != nil {
		e.t.Errorf("secret: %v", err)
	}
	return s
}

// received tells what came since the last call.
func (e *fakeEnvoy) received() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := strings.Join(e.got, ", ")
	e.got = nil
	return s
}

// judgeBy sets how responses are judged from now on.
func (e *fakeEnvoy) judgeBy(f func(*discoveryv3.DeltaDiscoveryResponse) verdict) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.judge = f
}

// holding holds the types that are named, all when none is.
func holding(types ...string) func(*discoveryv3.DeltaDiscoveryResponse) verdict {
	return func(r *discoveryv3.DeltaDiscoveryResponse) verdict {
		return verdict{hold: len(types) == 0 || slices.Contains(types, r.GetTypeUrl())}
	}
}

// refusing refuses responses that carry the resource name.
func refusing(name, why string) func(*discoveryv3.DeltaDiscoveryResponse) verdict {
	return func(r *discoveryv3.DeltaDiscoveryResponse) verdict {
		for _, res := range r.GetResources() {
			if res.GetName() == name {
				return verdict{refuse: why}
			}
		}
		return verdict{}
	}
}

// refusingOf refuses what responses of a type bring.
func refusingOf(typeURL, why string) func(*discoveryv3.DeltaDiscoveryResponse) verdict {
	return func(r *discoveryv3.DeltaDiscoveryResponse) verdict {
		if r.GetTypeUrl() == typeURL && len(r.GetResources()) > 0 {
			return verdict{refuse: why}
		}
		return verdict{}
	}
}

// openStream is what ends one stream.
type openStream struct {
	hangUp   context.CancelFunc
	finished chan struct{}
}

func (e *fakeEnvoy) snapshotOfStream() *openStream {
	e.mu.Lock()
	defer e.mu.Unlock()
	return &openStream{e.hangUp, e.finished}
}
