package fleet

import (
	"container/list"
	"sync"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"
)

const (
	// maxDeletions is how many names of deleted resources a view remembers for clients that have not been told. A client that is further behind starts over.
	maxDeletions = 20_000
	// keepFrame is the size in bytes up to which a response is kept while it may be of use; a larger one goes when nobody is being sent it.
	keepFrame = 256 << 10
)

// generation is a set as it is in one view.
type generation struct {
	number uint64
	// digest of all objects of the server at the last set that left the view as it is.
	digest string
}

// view is what clients of one scope are to have. It remembers of each resource in which set it changed last, in the order of these changes: what a client
// lacks is at the front of two lists, whatever its last set was. It belongs to the server's mutex.
type view struct {
	scope     Scope
	entries   map[string]*entry
	live      *list.List // of *entry, that changed last in front
	deleted   *list.List // of *entry, that was deleted last in front
	current   *generation
	forgotten uint64        // deletions up to this set have been forgotten
	changed   chan struct{} // closed when there is another set
	frames    map[frameKey]*frame
	clients   map[*serverClient]bool
}

type entry struct {
	name   string
	res    *resource // nil once it is deleted
	number uint64    // of the set in which it changed last
	seen   uint64    // number of the last update that had it
	place  *list.Element
}

func newView(scope Scope) *view {
	return &view{
		scope: scope, entries: map[string]*entry{}, live: list.New(), deleted: list.New(), current: &generation{},
		changed: make(chan struct{}), frames: map[frameKey]*frame{}, clients: map[*serverClient]bool{},
	}
}

// follow makes set number what clients are to have, which is the one after the set that they are to have now. It says whether anything has changed.
func (v *view) follow(set *encoded, number uint64) bool {
	if !v.scope.all() && len(set.fresh)+len(set.gone) > 0 {
		// What is wanted hangs on what else is there.
		return v.update(v.scope.of(set), number, set.digest)
	}
	changed := false
	for _, name := range set.gone {
		if e := v.entries[name]; e != nil && e.res != nil {
			v.drop(e, number)
			changed = true
		}
	}
	for _, r := range set.fresh {
		changed = v.put(r, number) || changed
	}
	return v.settle(changed, number, set.digest)
}

// update makes resources what clients are to have, as set number. It says whether anything has changed.
func (v *view) update(resources []*resource, number uint64, digest string) bool {
	changed := false
	for _, r := range resources {
		changed = v.put(r, number) || changed
	}
	if v.live.Len() > len(resources) {
		for place := v.live.Front(); place != nil; {
			e := place.Value.(*entry)
			place = place.Next()
			if e.seen != number {
				v.drop(e, number)
				changed = true
			}
		}
	}
	return v.settle(changed, number, digest)
}

// put makes a resource part of set number, and says whether that is a change.
func (v *view) put(r *resource, number uint64) bool {
	e := v.entries[r.name]
	switch {
	case e == nil:
		e = &entry{name: r.name}
		v.entries[r.name] = e
		e.place = v.live.PushFront(e)
	case e.res == nil:
		v.deleted.Remove(e.place)
		e.place = v.live.PushFront(e)
	case e.res.version != r.version:
		v.live.MoveToFront(e.place)
	default:
		e.seen = number
		return false
	}
	e.res, e.number, e.seen = r, number, number
	return true
}

// drop takes a resource out with set number.
func (v *view) drop(e *entry, number uint64) {
	v.live.Remove(e.place)
	e.res, e.number = nil, number
	e.place = v.deleted.PushFront(e)
}

// settle completes set number, and says whether it is another one than before.
func (v *view) settle(changed bool, number uint64, digest string) bool {
	if !changed && v.current.number != 0 {
		v.current.digest = digest
		return false
	}
	v.current = &generation{number: number, digest: digest}
	v.frames = map[frameKey]*frame{}
	v.forget()
	close(v.changed)
	v.changed = make(chan struct{})
	return true
}

// forget drops deletions that every client has been told, and the oldest of too many.
func (v *view) forget() {
	told := v.current.number
	for c := range v.clients {
		told = min(told, c.base)
	}
	for place := v.deleted.Back(); place != nil; place = v.deleted.Back() {
		e := place.Value.(*entry)
		if e.number > told && v.deleted.Len() <= maxDeletions {
			return
		}
		v.forgotten = max(v.forgotten, e.number)
		v.deleted.Remove(place)
		delete(v.entries, e.name)
	}
}

// frameKey is equal for clients that need the same response for the current set.
type frameKey struct {
	base uint64
	gzip bool
}

// frame is one response, encoded once for all who need it.
type frame struct {
	key     frameKey
	of      *generation
	digest  string
	size    int // bytes of its resources
	senders int // clients that are being sent it

	once      sync.Once
	resources []*resource
	removed   []string
	message   grpc.PreparedMsg
	err       error
}

// since returns the response for a client that was sent set base; 0 is none.
func (v *view) since(base uint64, gzip bool) *frame {
	key := frameKey{base, gzip}
	f := v.frames[key]
	if f == nil {
		f = &frame{key: key, of: v.current, digest: v.current.digest}
		for place := v.live.Front(); place != nil; place = place.Next() {
			e := place.Value.(*entry)
			if e.number <= base {
				break
			}
			f.resources = append(f.resources, e.res)
			f.size += len(e.res.body)
		}
		for place := v.deleted.Front(); place != nil && base > 0; place = place.Next() {
			e := place.Value.(*entry)
			if e.number <= base {
				break
			}
			f.removed = append(f.removed, e.name)
		}
		v.frames[key] = f
	}
	f.senders++
	return f
}

// against returns the response for a client that came with resources of these versions.
func (v *view) against(has map[string]string) *frame {
	f := &frame{of: v.current, digest: v.current.digest, senders: 1}
	for name, e := range v.entries {
		version, ok := has[name]
		switch {
		case e.res == nil && ok:
			f.removed = append(f.removed, name)
		case e.res != nil && (!ok || version != e.res.version):
			f.resources = append(f.resources, e.res)
			f.size += len(e.res.body)
		}
	}
	for name := range has {
		if v.entries[name] == nil {
			f.removed = append(f.removed, name)
		}
	}
	return f
}

// sent gives a response back.
func (v *view) sent(f *frame) {
	f.senders--
	if f.senders == 0 && f.size > keepFrame && v.frames[f.key] == f {
		delete(v.frames, f.key)
	}
}

// prepare encodes the response, with the codec and compression of the stream, for every stream that has the same.
func (f *frame) prepare(stream grpc.ServerStream) (*grpc.PreparedMsg, error) {
	f.once.Do(func() {
		response := &discoveryv3.DeltaDiscoveryResponse{
			TypeUrl: TypeURL, Nonce: formatNumber(f.of.number), SystemVersionInfo: f.digest, RemovedResources: f.removed,
			Resources: make([]*discoveryv3.Resource, 0, len(f.resources)),
		}
		for _, r := range f.resources {
			response.Resources = append(response.Resources, r.message())
		}
		f.err = f.message.Encode(stream, response)
		f.resources, f.removed = nil, nil
	})
	return &f.message, f.err
}

func (r *resource) message() *discoveryv3.Resource {
	return &discoveryv3.Resource{Name: r.name, Version: r.version, Resource: &anypb.Any{TypeUrl: TypeURL, Value: r.body}}
}
