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
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
)

// verdict is what a fake Envoy does with a response.
type verdict struct {
	refuse string // why; "" accepts
	hold   bool   // neither, until release
}

// fakeEnvoy speaks delta ADS as Envoy does: wildcard clusters and listeners first, the route configuration
// once a listener names it, endpoints once a cluster does. What it refuses it does not apply.
type fakeEnvoy struct {
	t     *testing.T
	conn  *grpc.ClientConn
	judge func(*discoveryv3.DeltaDiscoveryResponse) verdict // nil accepts everything

	mu       sync.Mutex
	have     map[string]map[string]*discoveryv3.Resource // by type and name; survives a lost stream
	held     []*discoveryv3.DeltaDiscoveryResponse
	got      []string // "Cluster +2 -1", in order
	stream   discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	asked    map[string]bool // types and endpoints that were subscribed to in this stream
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
	e.stream, e.hangUp, e.finished, e.asked, e.held = stream, cancel, make(chan struct{}), map[string]bool{}, nil
	e.subscribe(resourcev3.ClusterType, "")
	e.subscribe(resourcev3.ListenerType, "")
	if len(e.have[resourcev3.ListenerType]) > 0 {
		e.subscribe(resourcev3.RouteType, "weir")
	}
	e.mu.Unlock()
	go e.receive(stream, e.finished)
	synctest.Wait()
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
	synctest.Wait()
}

// answer needs the lock.
func (e *fakeEnvoy) answer(r *discoveryv3.DeltaDiscoveryResponse, refuse string) {
	req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()}
	if refuse != "" {
		req.ErrorDetail = &status.Status{Code: 3, Message: refuse}
		_ = e.stream.Send(req) // the stream may be gone
		return
	}
	have := e.have[r.GetTypeUrl()]
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
	case resourcev3.ListenerType:
		if len(have) > 0 {
			e.subscribe(resourcev3.RouteType, "weir")
		} else if e.asked[resourcev3.RouteType+"weir"] {
			delete(e.asked, resourcev3.RouteType+"weir")
			delete(e.have, resourcev3.RouteType)
			_ = e.stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resourcev3.RouteType, ResourceNamesUnsubscribe: []string{"weir"}})
		}
	case resourcev3.ClusterType:
		for _, res := range r.GetResources() {
			c := &clusterv3.Cluster{}
			if res.GetResource().UnmarshalTo(c) == nil && c.GetType() == clusterv3.Cluster_EDS {
				e.subscribe(resourcev3.EndpointType, c.GetName())
			}
		}
	}
}

// subscribe needs the lock. The name "" is the wildcard.
func (e *fakeEnvoy) subscribe(typeURL, name string) {
	first := !e.asked[typeURL]
	if !first && (name == "" || e.asked[typeURL+name]) {
		return
	}
	e.asked[typeURL], e.asked[typeURL+name] = true, true
	req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL, Node: &corev3.Node{Id: "some-envoy"}}
	if name != "" {
		req.ResourceNamesSubscribe = []string{name}
	}
	if first && len(e.have[typeURL]) > 0 {
		req.InitialResourceVersions = map[string]string{}
		for n, r := range e.have[typeURL] {
			req.InitialResourceVersions[n] = r.GetVersion()
		}
	}
	_ = e.stream.Send(req)
}

// names lists what Envoy has of a type, sorted; of the route configuration the keys of its entries.
func (e *fakeEnvoy) names(typeURL string) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []string
	for name, r := range e.have[typeURL] {
		if typeURL != resourcev3.RouteType {
			out = append(out, name)
			continue
		}
		rc := &routev3.RouteConfiguration{}
		if err := r.GetResource().UnmarshalTo(rc); err != nil {
			e.t.Errorf("route configuration: %v", err)
		}
		for key := range rc.GetVirtualHosts()[0].GetMatcher().GetMatcherTree().GetExactMatchMap().GetMap() {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out
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
