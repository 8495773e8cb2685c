package fleet

import (
	"encoding/json"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
)

// Scope is the part of the objects that a client wants. The zero value is everything.
type Scope struct {
	// Namespaces whose objects are wanted; none means all. Backends of other namespaces come with the Routes that name them.
	Namespaces []string
	// Gateways that are wanted, in whatever namespace; none means all of Namespaces. Policies that are only for other gateways stay away.
	Gateways []types.NamespacedName
}

// normal is the scope in the one way to write it.
func (s Scope) normal() Scope {
	s.Namespaces = slices.Compact(slices.Sorted(slices.Values(s.Namespaces)))
	s.Gateways = slices.Compact(slices.SortedFunc(slices.Values(s.Gateways), func(a, b types.NamespacedName) int {
		return strings.Compare(a.String(), b.String())
	}))
	return s
}

// key is equal for equal scopes that are normal.
func (s Scope) key() string {
	if s.all() {
		return ""
	}
	gateways := make([]string, 0, len(s.Gateways))
	for _, g := range s.Gateways {
		gateways = append(gateways, g.String())
	}
	key, err := json.Marshal([][]string{s.Namespaces, gateways})
	if err != nil {
		panic("strings cannot be written as JSON: " + err.Error())
	}
	return string(key)
}

func (s Scope) all() bool { return len(s.Namespaces) == 0 && len(s.Gateways) == 0 }

// hasNamespace says whether everything in a namespace is wanted.
func (s Scope) hasNamespace(namespace string) bool {
	return len(s.Namespaces) == 0 || slices.Contains(s.Namespaces, namespace)
}

func (s Scope) hasGateway(namespace, name string) bool {
	if len(s.Gateways) == 0 {
		return s.hasNamespace(namespace)
	}
	return slices.Contains(s.Gateways, types.NamespacedName{Namespace: namespace, Name: name})
}

// of picks what belongs to the scope: the objects, then what they refer to, and what is known of both.
func (s Scope) of(e *encoded) []*resource {
	if s.all() {
		return e.all()
	}
	in := make(map[source.ObjectRef]bool, len(e.objects))
	for ref, o := range e.objects {
		if !s.wants(ref, o.obj) {
			continue
		}
		in[ref] = true
		for _, backend := range o.backends {
			if _, exists := e.objects[backend]; exists {
				in[backend] = true
			}
		}
	}
	for ref, o := range e.objects {
		if p, ok := o.obj.(*v1alpha1.LoadPolicy); ok && !in[ref] && steersOnly(p, in) {
			in[ref] = true
		}
	}

	out := make([]*resource, 0, len(in))
	values := map[string]bool{}
	for ref := range in {
		o := e.objects[ref]
		out = append(out, o.res)
		for _, name := range o.values {
			if v := e.values[name]; v != nil && !values[name] {
				values[name] = true
				out = append(out, v.res)
			}
		}
		if found := e.endpoints[ref]; found != nil {
			out = append(out, found.res)
		}
	}
	for namespace, l := range e.labels {
		if s.hasNamespace(namespace) {
			out = append(out, l.res)
		}
	}
	for ref, p := range e.problems {
		if _, exists := e.objects[ref]; in[ref] || !exists && (ref.Namespace == "" || s.hasNamespace(ref.Namespace)) {
			out = append(out, p.res)
		}
	}
	return out
}

// wants says whether an object is wanted for itself.
func (s Scope) wants(ref source.ObjectRef, obj source.Object) bool {
	switch obj := obj.(type) {
	case *v1alpha1.LLMGateway:
		return s.hasGateway(ref.Namespace, ref.Name)
	case *v1alpha1.ReferenceGrant:
		return s.hasNamespace(ref.Namespace) || slices.ContainsFunc(obj.Spec.From, func(f v1alpha1.ReferenceGrantFrom) bool {
			return s.hasNamespace(string(f.Namespace)) || slices.ContainsFunc(s.Gateways, func(g types.NamespacedName) bool { return g.Namespace == string(f.Namespace) })
		})
	case *v1alpha1.LimitPolicy:
		return s.hasNamespace(ref.Namespace) && s.wantsTarget(ref.Namespace, obj.Spec.TargetRefs)
	case *v1alpha1.Budget:
		return s.hasNamespace(ref.Namespace) && s.wantsTarget(ref.Namespace, obj.Spec.TargetRefs)
	case *v1alpha1.CachePolicy:
		return s.hasNamespace(ref.Namespace) && s.wantsTarget(ref.Namespace, obj.Spec.TargetRefs)
	case *v1alpha1.SessionPolicy:
		return s.hasNamespace(ref.Namespace) && s.wantsTarget(ref.Namespace, obj.Spec.TargetRefs)
	case *v1alpha1.LoadPolicy:
		return s.hasNamespace(ref.Namespace) && (len(obj.Spec.TargetRefs) == 0 || slices.ContainsFunc(obj.Spec.TargetRefs, func(t v1alpha1.LoadPolicyTarget) bool {
			return t.Kind != v1alpha1.LoadTargetGateway || s.hasGateway(ref.Namespace, string(t.Name))
		}))
	}
	return s.hasNamespace(ref.Namespace)
}

func (s Scope) wantsTarget(namespace string, targets []v1alpha1.PolicyTarget) bool {
	return len(targets) == 0 || slices.ContainsFunc(targets, func(t v1alpha1.PolicyTarget) bool {
		return t.Kind != v1alpha1.TargetGateway || s.hasGateway(namespace, t.Name)
	})
}

// steersOnly says whether a policy is for Backends that are all wanted, and nothing else.
func steersOnly(p *v1alpha1.LoadPolicy, in map[source.ObjectRef]bool) bool {
	for _, t := range p.Spec.TargetRefs {
		if t.Kind != v1alpha1.LoadTargetBackend || !in[source.ObjectRef{Kind: "Backend", Namespace: p.Namespace, Name: string(t.Name)}] {
			return false
		}
	}
	return len(p.Spec.TargetRefs) > 0
}

// backendsOf are the Backends that an object names.
func backendsOf(obj source.Object) []source.ObjectRef {
	route, ok := obj.(*v1alpha1.Route)
	if !ok {
		return nil
	}
	var out []source.ObjectRef
	for _, rule := range route.Spec.Rules {
		for _, b := range rule.Backends {
			ref := source.ObjectRef{Kind: "Backend", Namespace: route.Namespace, Name: string(b.Name)}
			if b.Namespace != "" {
				ref.Namespace = string(b.Namespace)
			}
			out = append(out, ref)
		}
	}
	return out
}
