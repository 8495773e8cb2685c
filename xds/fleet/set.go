package fleet

import (
	"maps"
	"slices"
	"strings"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/weir-dev/weir/xds/source"
)

// set is what a client has received. It is immutable.
type set struct {
	items    []*item // sorted by name
	objs     *source.Objects
	problems []source.Problem

	session *session // that brought it; nil for one of the cache file
	nonce   string
	digest  string
}

// versions are what the client has, for a server that it connects to.
func (s *set) versions() map[string]string {
	if s == nil {
		return nil
	}
	out := make(map[string]string, len(s.items))
	for _, it := range s.items {
		out[it.name] = it.version
	}
	return out
}

// with returns the set after a response. Items that have not changed, and what they hold, are the same pointers; where none has, the objects are the
// same pointer.
func (s *set) with(r *discoveryv3.DeltaDiscoveryResponse) *set {
	var old []*item
	if s != nil {
		old = s.items
	}
	had := func(name string) (*item, bool) {
		i, ok := slices.BinarySearchFunc(old, name, func(it *item, name string) int { return strings.Compare(it.name, name) })
		if !ok {
			return nil, false
		}
		return old[i], true
	}
	changes := map[string]*item{} // nil: removed
	for _, name := range r.GetRemovedResources() {
		if _, ok := had(name); ok {
			changes[name] = nil
		}
	}
	for _, m := range r.GetResources() {
		res := resource{name: m.GetName(), version: m.GetVersion(), body: m.GetResource().GetValue()}
		if it, ok := had(res.name); ok && it.version == res.version {
			delete(changes, res.name)
			continue
		}
		changes[res.name] = decode(res)
	}
	next := &set{items: old, nonce: r.GetNonce(), digest: r.GetSystemVersionInfo()}
	if s != nil && len(changes) == 0 {
		next.objs, next.problems = s.objs, s.problems
		return next
	}
	next.items = merge(old, changes)
	if s == nil {
		next.objs, next.problems = assemble(next.items)
		return next
	}
	was := make([]*item, 0, len(changes))
	for name := range changes {
		if it, ok := had(name); ok {
			was = append(was, it)
		}
	}
	next.objs, next.problems = s.objs, s.problems
	next.change(was, changes)
	return next
}

func merge(old []*item, changes map[string]*item) []*item {
	names := slices.Sorted(maps.Keys(changes))
	out := make([]*item, 0, len(old)+len(names))
	for _, name := range names {
		i, found := slices.BinarySearchFunc(old, name, func(it *item, name string) int { return strings.Compare(it.name, name) })
		out = append(out, old[:i]...)
		if found {
			i++
		}
		old = old[i:]
		if it := changes[name]; it != nil {
			out = append(out, it)
		}
	}
	return append(out, old...)
}

// assemble puts together what items hold.
func assemble(items []*item) (*source.Objects, []source.Problem) {
	s := set{items: items, objs: source.NewObjects()}
	changes := make(map[string]*item, len(items))
	for _, it := range items {
		changes[it.name] = it
	}
	s.change(nil, changes)
	return s.objs, s.problems
}

// change replaces what was held by items that have changed or gone by what is, by name; nil is an item that is gone. All items are those of the set then.
// What it costs grows with them, and with the number of objects by copies of pointers.
func (s *set) change(was []*item, is map[string]*item) {
	values, endpoints, labels := edited(s.objs.Secrets), edited(s.objs.Endpoints), edited(s.objs.Namespaces)
	var gone, fresh []source.Object
	problems := false
	for _, it := range was {
		problems = problems || len(it.problems) > 0
		switch {
		case it.obj != nil:
			gone = append(gone, it.obj)
		case it.value != nil:
			values.drop(it.value.key)
		case it.endpoints != nil:
			endpoints.drop(it.backend)
		case it.labels != nil:
			labels.drop(it.namespace)
		}
	}
	for _, it := range is {
		switch {
		case it == nil:
			continue
		case it.obj != nil:
			fresh = append(fresh, it.obj)
		case it.value != nil:
			values.put(it.value.key, it.value.secret)
		case it.endpoints != nil:
			endpoints.put(it.backend, it.endpoints)
		case it.labels != nil:
			labels.put(it.namespace, it.labels)
		}
		problems = problems || len(it.problems) > 0
	}
	s.objs = s.objs.With(gone, fresh)
	s.objs.Secrets, s.objs.Endpoints, s.objs.Namespaces = values.m, endpoints.m, labels.m
	if len(labels.m) == 0 {
		s.objs.Namespaces = nil
	}
	if problems {
		s.problems = nil
		for _, it := range s.items {
			s.problems = append(s.problems, it.problems...)
		}
		source.SortProblems(s.problems)
	}
}

// editing is a map that is copied before the first change.
type editing[K comparable, V any] struct {
	m   map[K]V
	own bool
}

func edited[K comparable, V any](m map[K]V) editing[K, V] { return editing[K, V]{m: m} }

func (e *editing[K, V]) put(k K, v V) {
	e.copy()
	e.m[k] = v
}

func (e *editing[K, V]) drop(k K) {
	e.copy()
	delete(e.m, k)
}

func (e *editing[K, V]) copy() {
	switch {
	case e.own:
	case e.m == nil:
		e.m = map[K]V{}
	default:
		e.m = maps.Clone(e.m)
	}
	e.own = true
}
