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
	next.objs, next.problems = assemble(next.items)
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
	objs := source.NewObjects()
	var problems []source.Problem
	for _, it := range items {
		switch {
		case it.obj != nil:
			if err := objs.Add(it.obj); err != nil {
				problems = append(problems, source.Problem{Object: source.RefOf(it.obj), Message: err.Error()})
			}
		case it.value != nil:
			objs.Secrets[it.value.key] = it.value.secret
		case it.endpoints != nil:
			objs.Endpoints[it.backend] = it.endpoints
		}
		problems = append(problems, it.problems...)
	}
	objs.Sort()
	source.SortProblems(problems)
	return objs, problems
}
