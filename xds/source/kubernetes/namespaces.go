package kubernetes

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
)

var namespacesResource = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}

// namespaces knows the labels of Namespaces, as far as LLMGateways select Routes by them. Where none does, nobody asks for Namespaces.
type namespaces struct {
	lists   *lookups[map[string]string]
	watched []string // the namespaces that are read; none means all
	// keys are the labels that some LLMGateway has asked for. They stay: the last good generation of one that is refused asks still.
	keys map[string]bool

	known   map[string]map[string]string
	version uint64 // of what known was made of
}

func readLabels(u *unstructured.Unstructured, _ map[string]string, _ bool) map[string]string {
	return u.GetLabels()
}

// want asks for the labels that the gateways select by.
func (n *namespaces) want(gateways []*record) {
	for _, rec := range gateways {
		g, ok := rec.object.(*v1alpha1.LLMGateway)
		if !ok {
			continue
		}
		for i := range g.Spec.AllowedRoutes {
			for _, key := range g.Spec.AllowedRoutes[i].SelectedLabels() {
				if !n.keys[key] {
					n.keys[key], n.known = true, nil
				}
			}
		}
	}
	if len(n.keys) == 0 {
		return
	}
	n.lists.begin()
	for _, key := range n.lookups() {
		n.lists.want(key)
	}
	n.lists.end()
}

// lookups are the lists of Namespaces: one of all, or one for each that is read.
func (n *namespaces) lookups() []lookupKey {
	if len(n.watched) == 0 {
		return []lookupKey{{resource: namespacesResource}}
	}
	out := make([]lookupKey, 0, len(n.watched))
	for _, name := range n.watched {
		out = append(out, lookupKey{resource: namespacesResource, fields: byName(name)})
	}
	return out
}

// labels are those of the namespaces of the Routes, by the labels that are asked for; nil where nobody asks. stale says that other Routes are
// there than at the last call.
func (n *namespaces) labels(routes []*record, stale bool) map[string]map[string]string {
	if len(n.keys) == 0 {
		return nil
	}
	version := uint64(0)
	for _, l := range n.lists.lists {
		version += l.state().version
	}
	if n.known != nil && !stale && version == n.version {
		return n.known
	}
	out := map[string]map[string]string{}
	for _, rec := range routes { // in the order of their namespaces
		name := rec.ref.Namespace
		if _, done := out[name]; done {
			continue
		}
		if all, found := n.read(name); found {
			some := map[string]string{}
			for key := range n.keys {
				if value, has := all[key]; has {
					some[key] = value
				}
			}
			out[name] = some
		}
	}
	n.known, n.version = out, version
	return out
}

// read returns the labels of a Namespace, where they have been read.
func (n *namespaces) read(name string) (labels map[string]string, found bool) {
	for _, l := range n.lists.lists {
		if labels, found = l.get(types.NamespacedName{Name: name}); found {
			return labels, true
		}
	}
	return nil, false
}

// problems tells the gateways that select by labels which Namespaces cannot be read.
func (n *namespaces) problems(gateways []*record) []source.Problem {
	var why []string
	for _, key := range n.lookups() {
		l := n.lists.lists[key]
		if l == nil {
			continue // nobody asks
		}
		state := l.state()
		switch {
		case state.synced || state.failure == nil && !state.missing:
		case state.forbidden():
			what := "namespaces"
			if key.fields != "" {
				what += " with resourceNames [" + key.named() + "]"
			}
			why = append(why, "give Weir's ServiceAccount the verbs list and watch on "+what+", by a ClusterRole")
		default:
			why = append(why, state.cause())
		}
	}
	if len(why) == 0 {
		return nil
	}
	slices.Sort(why)
	var out []source.Problem
	for _, rec := range gateways {
		g, ok := rec.object.(*v1alpha1.LLMGateway)
		if !ok {
			continue
		}
		for i := range g.Spec.AllowedRoutes {
			if len(g.Spec.AllowedRoutes[i].SelectedLabels()) > 0 {
				out = append(out, source.Problem{Object: rec.ref, Field: fmt.Sprintf("spec.allowedRoutes[%d].namespaces.selector", i),
					Severity: source.Warning, Reason: source.ReasonRefNotFound,
					Message: "the labels of Namespaces cannot be read, so the entry selects none: " + strings.Join(slices.Compact(why), "; ")})
			}
		}
	}
	return out
}

func sameLabels(a, b map[string]string) bool { return maps.Equal(a, b) }
