package accept

import (
	"reflect"
	"slices"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
)

// reference is a place where an object points to a value.
type reference struct {
	key source.SecretKey
	// keep says that the value that was accepted may be used where it cannot be read any more.
	keep bool
}

// references are those of an object. Finding them takes reflection, so that they are remembered while the object is.
func (k *Keeper) references(o source.Object) []reference {
	if refs, ok := k.refs[o]; ok {
		return refs
	}
	var out []reference
	for _, r := range source.References(o) {
		if r.File != nil {
			out = append(out, reference{key: source.FileKeyOf(*r.File)})
			continue
		}
		out = append(out, reference{source.SecretKeyOf(o.GetNamespace(), *r.Ref), keeps(o, r.Ref)})
	}
	k.refs[o] = out
	return out
}

// keeps says whether a value may outlive its being read: a Secret vanishes for a moment when a certificate is issued anew, and that must not
// take down what uses it. What lets callers in may not: deleting a Secret must end what it permits. And a value of another namespace may
// not, since the consent to use it may have ended.
func keeps(o source.Object, ref *v1alpha1.SecretRef) bool {
	switch o.(type) {
	case *v1alpha1.APIKey, *v1alpha1.JWTIssuer:
		return false
	}
	return ref.Namespace == "" || string(ref.Namespace) == o.GetNamespace()
}

// build puts together what stands for the objects, and what that refers to: in the order of the reading, or in another one.
func (r *round) build(order func(a, b source.Object) int) *source.Objects {
	if len(r.refused) == 0 && len(r.values) == 0 && order == nil {
		return r.objs
	}
	objects := make([]source.Object, 0, len(r.current))
	for _, o := range r.objs.All() {
		if at := r.standing(source.RefOf(o)); at != nil {
			objects = append(objects, at)
		}
	}
	for ref, kept := range r.refused { // those that the source has left out
		if kept == Older && r.current[ref] == nil {
			objects = append(objects, r.last(ref))
		}
	}
	out := source.NewObjects()
	out.Origins, out.Namespaces = r.objs.Origins, r.objs.Namespaces
	for _, o := range objects {
		if err := out.Add(o); err != nil {
			panic("accept: " + err.Error()) // it was in Objects before
		}
		r.addValues(out, o)
	}
	for ref, endpoints := range r.objs.Endpoints {
		if b, ok := r.standing(ref).(*v1alpha1.Backend); ok && discovers(b) {
			out.Endpoints[ref] = endpoints
		}
	}
	out.Sort()
	if order != nil {
		sortBy(out, order)
	}
	return out
}

// addValues adds the values that an object refers to, as far as there are any: of one that is refused also those that it was accepted with.
func (r *round) addValues(out *source.Objects, o source.Object) {
	older := r.refused[source.RefOf(o)] == Older
	for _, ref := range r.keeper.references(o) {
		value, ok := r.objs.Secrets[ref.key]
		if stands, other := r.values[ref.key]; ok && other {
			value = stands
		}
		if !ok && older && ref.keep {
			value, ok = r.keeper.last.Secrets[ref.key]
		}
		if ok {
			out.Secrets[ref.key] = value
		}
	}
}

// discovers says whether a Backend's endpoints are found by the source.
func discovers(b *v1alpha1.Backend) bool {
	return b.Spec.Service != nil || b.Spec.Selector != nil || b.Spec.InferencePool != nil
}

// sameDiscovery says whether the endpoints that were found for one generation of an object are those of the other. Those that were found for an
// older generation are not kept: an address may belong to somebody else by now.
func sameDiscovery(was, now source.Object) bool {
	a, ok := was.(*v1alpha1.Backend)
	if !ok || !discovers(a) {
		return true
	}
	b := now.(*v1alpha1.Backend)
	return reflect.DeepEqual(a.Spec.Service, b.Spec.Service) && reflect.DeepEqual(a.Spec.Selector, b.Spec.Selector) &&
		reflect.DeepEqual(a.Spec.InferencePool, b.Spec.InferencePool)
}

func sortBy(o *source.Objects, order func(a, b source.Object) int) {
	sortKind(o.Gateways, order)
	sortKind(o.Backends, order)
	sortKind(o.Routes, order)
	sortKind(o.Consumers, order)
	sortKind(o.APIKeys, order)
	sortKind(o.JWTIssuers, order)
	sortKind(o.LimitPolicies, order)
	sortKind(o.Budgets, order)
	sortKind(o.LoadPolicies, order)
	sortKind(o.CachePolicies, order)
	sortKind(o.SessionPolicies, order)
	sortKind(o.ReferenceGrants, order)
}

func sortKind[T source.Object](objects []T, order func(a, b source.Object) int) {
	slices.SortFunc(objects, func(a, b T) int { return order(a, b) })
}
