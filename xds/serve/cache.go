package serve

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"sync"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weir-dev/weir/internal/cow"
)

// cache is what the server serves from: what Envoy is to have at the moment, and who waits for what is not as they have it. The
// versions of resources are given to it, so that it marshals none but those that it sends; and it looks at no type of which
// nothing has changed, nor, of a client that it knows, at what has not.
type cache struct {
	mu      sync.Mutex
	now     *offer                     // nil before the first
	waiting map[string]map[*watch]bool // by type
	clients map[string][]*client       // by type, those that were answered last at the end
	marks   uint64                     // that were given away
}

// maxClients is of how many clients it is known what they have of a type, those that wait apart: there is one Envoy, or two while one takes over from the
// other, and streams that are not known to have ended. Another one has to connect again.
const maxClients = 4

// client is what the client of one stream has been sent of one type. The server is given a mark in its place, so that only who holds the lock of the
// cache reads and writes it.
type client struct {
	mark     string // "" before the first response
	has      map[string]string
	known    bool // has is what is in versions, as far as the client asks for it: what it lacks is what has changed since
	versions cow.Map[string]
	wildcard bool // it asked for everything then
	waits    bool
}

// marked is the name under which a mark is in what the server takes for the versions that a client has. No resource is without a name.
const marked = ""

// offer is resources by type and name, and how responses of each type are labelled. It is not changed.
type offer struct {
	state
	marked map[string]cow.Map[string] // versions by which it is told what a client has not been sent
	labels map[string]label
}

// watch is one client that waits for a response of a type.
type watch struct {
	request *cachev3.DeltaRequest
	asks    cachev3.Subscription
	client  *client
	to      chan cachev3.DeltaResponse // has room: there is one watch of each type, and one response to it
}

func newCache() *cache {
	return &cache{waiting: map[string]map[*watch]bool{}, clients: map[string][]*client{}}
}

// set serves this from now on.
func (c *cache) set(o *offer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.now
	c.now = o
	for _, typeURL := range kinds {
		if before != nil && before.marked[typeURL].Is(o.marked[typeURL]) {
			continue
		}
		for w := range c.waiting[typeURL] {
			if r := c.respond(w); r != nil {
				c.end(w)
				w.to <- r
			}
		}
	}
}

// CreateDeltaWatch answers a request, at once or when there is something to answer.
func (c *cache) CreateDeltaWatch(r *cachev3.DeltaRequest, asks cachev3.Subscription, to chan cachev3.DeltaResponse) (func(), error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	typeURL := r.GetTypeUrl()
	is, err := c.clientOf(typeURL, asks.ReturnedResources())
	if err != nil {
		return nil, err
	}
	is.forget(r.GetResourceNamesUnsubscribe(), asks.IsWildcard())
	w := &watch{r, asks, is, to}
	if c.now != nil {
		if response := c.respond(w); response != nil {
			to <- response
			return func() {}, nil
		}
	}
	if c.waiting[typeURL] == nil {
		c.waiting[typeURL] = map[*watch]bool{}
	}
	c.waiting[typeURL][w], is.waits = true, true
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.end(w)
	}, nil
}

// end has a client wait no longer.
func (c *cache) end(w *watch) {
	if waiting := c.waiting[w.request.GetTypeUrl()]; waiting[w] {
		delete(waiting, w)
		w.client.waits = false
	}
}

// CreateWatch refuses what is not delta xDS.
func (c *cache) CreateWatch(*cachev3.Request, cachev3.Subscription, chan cachev3.Response) (func(), error) {
	return nil, errors.New("only delta xDS is served here")
}

// Fetch refuses what is not delta xDS.
func (c *cache) Fetch(context.Context, *cachev3.Request) (cachev3.Response, error) {
	return nil, errors.New("only delta xDS is served here")
}

// clientOf finds a client by the mark in what the server keeps of it: one that has not been answered has what it says that it has.
func (c *cache) clientOf(typeURL string, kept map[string]string) (*client, error) {
	mark, answered := kept[marked]
	if !answered {
		return &client{has: maps.Clone(kept)}, nil
	}
	for _, is := range c.clients[typeURL] {
		if is.mark == mark {
			return is, nil
		}
	}
	return nil, status.Error(codes.OutOfRange, "what this client was sent is not known any more: it has to connect again and say what it has")
}

// answered gives a client that is answered a mark, and forgets the one that was not for the longest time.
func (c *cache) answered(typeURL string, is *client) map[string]string {
	if is.mark == "" {
		c.marks++
		is.mark = strconv.FormatUint(c.marks, 10)
	}
	list := slices.DeleteFunc(c.clients[typeURL], func(other *client) bool { return other == is })
	list = append(list, is)
	left := len(list) - maxClients
	c.clients[typeURL] = slices.DeleteFunc(list, func(other *client) bool {
		if left <= 0 || other.waits || other == is {
			return false
		}
		left--
		return true
	})
	return map[string]string{marked: is.mark}
}

// forget notes what a client asks for no longer. One that asks for everything keeps nothing of it, and is sent it again, or told that it is gone.
func (is *client) forget(names []string, wildcard bool) {
	for _, name := range names {
		if wildcard {
			is.set(name, "")
		} else {
			delete(is.has, name)
		}
	}
}

func (is *client) set(name, version string) {
	if is.has == nil {
		is.has = map[string]string{}
	}
	is.has[name] = version
}

// respond is the response to a client that waits; nil where it has everything. A client that asks for everything is answered
// in any case when it comes: until then it is not ready. The lock is held.
func (c *cache) respond(w *watch) cachev3.DeltaResponse {
	typeURL, is := w.request.GetTypeUrl(), w.client
	r := &response{request: w.request, offer: c.now}
	r.compare(w, c.now.marked[typeURL])
	if len(r.changed)+len(r.removed) > 0 || is.wildcard && w.request.GetResponseNonce() == "" {
		r.returned = c.answered(typeURL, is)
		return r
	}
	return nil
}

// compare finds out what a client lacks, and takes it for what the client has. Of one that has what was served once, that is what has changed since, and
// what it asks for, or for no longer, only now.
func (r *response) compare(w *watch, now cow.Map[string]) {
	is, wildcard, asked := w.client, w.asks.IsWildcard(), w.asks.SubscribedResources()
	look := func(name string) {
		had, ok := is.has[name]
		if _, asks := asked[name]; !asks && !wildcard {
			delete(is.has, name)
			return
		}
		version, there := now.Lookup(name)
		switch {
		case there && (!ok || had != version):
			is.set(name, version)
			r.changed = append(r.changed, name)
		case !there && ok:
			delete(is.has, name)
			r.removed = append(r.removed, name)
		}
	}
	if is.known && is.wildcard == wildcard {
		for name := range cow.Diff(is.versions, now) {
			look(name)
		}
		for _, name := range w.request.GetResourceNamesSubscribe() {
			look(name)
		}
		for _, name := range w.request.GetResourceNamesUnsubscribe() {
			look(name)
		}
	} else {
		for name := range is.has {
			look(name)
		}
		if wildcard {
			for name := range now.Names() {
				look(name)
			}
		} else {
			for name := range asked {
				look(name)
			}
		}
	}
	is.known, is.versions, is.wildcard = true, now, wildcard
}

// response is what a client gets: what has changed since it was sent something, by name.
type response struct {
	request          *cachev3.DeltaRequest
	offer            *offer
	changed, removed []string
	returned         map[string]string // that the server keeps of the client
}

// GetDeltaDiscoveryResponse marshals the response. The server calls it once.
func (r *response) GetDeltaDiscoveryResponse() (*discoveryv3.DeltaDiscoveryResponse, error) {
	typeURL := r.request.GetTypeUrl()
	out := &discoveryv3.DeltaDiscoveryResponse{
		TypeUrl: typeURL, SystemVersionInfo: r.GetResponseVersion(), RemovedResources: r.removed,
		Resources: make([]*discoveryv3.Resource, 0, len(r.changed)),
	}
	for _, name := range r.changed {
		b, err := cachev3.MarshalResource(r.offer.resources[typeURL].Get(name))
		if err != nil {
			return nil, err
		}
		out.Resources = append(out.Resources, &discoveryv3.Resource{
			Name: name, Version: r.offer.hashes[typeURL].Get(name), Resource: &anypb.Any{TypeUrl: typeURL, Value: b},
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

// GetNextVersionMap is what the server keeps of the client in place of the versions that it has then: a mark.
func (r *response) GetNextVersionMap() map[string]string { return r.returned }

// GetReturnedResources is the same.
func (r *response) GetReturnedResources() map[string]string { return r.returned }

// GetContext is none of anybody's.
func (r *response) GetContext() context.Context { return context.Background() }
