package serve

import (
	"context"
	"errors"
	"reflect"
	"sync"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// cache is what the server serves from: what Envoy is to have at the moment, and who waits for what is not as they have it. The
// versions of resources are given to it, so that it marshals none but those that it sends; and it looks at no type of which
// nothing has changed.
type cache struct {
	mu      sync.Mutex
	now     *offer                     // nil before the first
	waiting map[string]map[*watch]bool // by type
}

// offer is resources by type and name, and how responses of each type are labelled. It is not changed.
type offer struct {
	state
	marked map[string]map[string]string // versions by which it is told what a client has not been sent
	labels map[string]label
}

// watch is one client that waits for a response of a type.
type watch struct {
	request *cachev3.DeltaRequest
	client  cachev3.Subscription
	to      chan cachev3.DeltaResponse // has room: there is one watch of each type, and one response to it
}

func newCache() *cache { return &cache{waiting: map[string]map[*watch]bool{}} }

// set serves this from now on.
func (c *cache) set(o *offer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.now
	c.now = o
	for _, typeURL := range kinds {
		if before != nil && same(before.marked[typeURL], o.marked[typeURL]) {
			continue
		}
		for w := range c.waiting[typeURL] {
			if r := o.respond(w); r != nil {
				delete(c.waiting[typeURL], w)
				w.to <- r
			}
		}
	}
}

// same says whether two maps are one. Maps of which nothing changes are handed on.
func same[V any](a, b map[string]V) bool {
	return reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(b).UnsafePointer()
}

// CreateDeltaWatch answers a request, at once or when there is something to answer.
func (c *cache) CreateDeltaWatch(r *cachev3.DeltaRequest, client cachev3.Subscription, to chan cachev3.DeltaResponse) (func(), error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := &watch{r, client, to}
	if c.now != nil {
		if response := c.now.respond(w); response != nil {
			to <- response
			return func() {}, nil
		}
	}
	typeURL := r.GetTypeUrl()
	if c.waiting[typeURL] == nil {
		c.waiting[typeURL] = map[*watch]bool{}
	}
	c.waiting[typeURL][w] = true
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.waiting[typeURL], w)
	}, nil
}

// CreateWatch refuses what is not delta xDS.
func (c *cache) CreateWatch(*cachev3.Request, cachev3.Subscription, chan cachev3.Response) (func(), error) {
	return nil, errors.New("only delta xDS is served here")
}

// Fetch refuses what is not delta xDS.
func (c *cache) Fetch(context.Context, *cachev3.Request) (cachev3.Response, error) {
	return nil, errors.New("only delta xDS is served here")
}

// respond is the response to a client that waits; nil where it has everything. A client that asks for everything is answered
// in any case when it comes: until then it is not ready.
func (o *offer) respond(w *watch) cachev3.DeltaResponse {
	typeURL := w.request.GetTypeUrl()
	versions, has := o.marked[typeURL], w.client.ReturnedResources()
	r := &response{request: w.request, offer: o}
	if w.client.IsWildcard() {
		for name, version := range versions {
			if had, ok := has[name]; !ok || had != version {
				r.changed = append(r.changed, name)
			}
		}
		for name := range has {
			if _, still := versions[name]; !still {
				r.removed = append(r.removed, name)
			}
		}
		if len(r.changed)+len(r.removed) == 0 && w.request.GetResponseNonce() != "" {
			return nil
		}
		r.returned = copied(versions) // the server writes into it
		return r
	}
	r.returned = make(map[string]string, len(w.client.SubscribedResources()))
	for name := range w.client.SubscribedResources() {
		had, ok := has[name]
		version, there := versions[name]
		switch {
		case there:
			r.returned[name] = version
			if had != version {
				r.changed = append(r.changed, name)
			}
		case ok:
			r.removed = append(r.removed, name)
		}
	}
	if len(r.changed)+len(r.removed) > 0 {
		return r
	}
	return nil
}

// response is what a client gets: what has changed since it was sent something, by name.
type response struct {
	request          *cachev3.DeltaRequest
	offer            *offer
	changed, removed []string
	returned         map[string]string // versions of what the client has then
}

// GetDeltaDiscoveryResponse marshals the response. The server calls it once.
func (r *response) GetDeltaDiscoveryResponse() (*discoveryv3.DeltaDiscoveryResponse, error) {
	typeURL := r.request.GetTypeUrl()
	out := &discoveryv3.DeltaDiscoveryResponse{
		TypeUrl: typeURL, SystemVersionInfo: r.GetResponseVersion(), RemovedResources: r.removed,
		Resources: make([]*discoveryv3.Resource, 0, len(r.changed)),
	}
	for _, name := range r.changed {
		b, err := cachev3.MarshalResource(r.offer.resources[typeURL][name])
		if err != nil {
			return nil, err
		}
		out.Resources = append(out.Resources, &discoveryv3.Resource{
			Name: name, Version: r.offer.hashes[typeURL][name], Resource: &anypb.Any{TypeUrl: typeURL, Value: b},
		})
	}
	return out, nil
}

// GetDeltaRequest is the request that is answered.
func (r *response) GetDeltaRequest() *discoveryv3.DeltaDiscoveryRequest { return r.request }

// GetSystemVersion is the response's label.
func (r *response) GetSystemVersion() (string, error) { return r.GetResponseVersion(), nil }

// GetResponseVersion is the response's label.
func (r *response) GetResponseVersion() string {
	return r.offer.labels[r.request.GetTypeUrl()].String()
}

// GetNextVersionMap is the versions that the client has when it has taken the response.
func (r *response) GetNextVersionMap() map[string]string { return r.returned }

// GetReturnedResources is the same.
func (r *response) GetReturnedResources() map[string]string { return r.returned }

// GetContext is none of anybody's.
func (r *response) GetContext() context.Context { return context.Background() }
