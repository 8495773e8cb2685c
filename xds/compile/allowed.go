package compile

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/xds/source"
)

// Whose Routes a gateway takes (LLMGateway.spec.allowedRoutes).
//
// What all gateways let in from one namespace is an answer of its own: Routes are made anew where that of their namespace is another one, so an
// entry for one tenant, or a label of one Namespace, costs the Routes of that tenant.

// gatewayDoor is whose Routes an LLMGateway takes.
type gatewayDoor struct {
	gateway source.ObjectRef
	entries []doorEntry // none: everything
	implied bool        // the entry is the installation's (Options.AllowedRoutes), and not the gateway's
}

type doorEntry struct {
	from     v1alpha1.FromNamespaces
	selector labels.Selector // of from Selector
	named    bool            // it asks for no label but the namespace's name, so that it can be judged without knowing labels
	terms    *v1alpha1.AllowedRoutes
}

// admission is what one gateway lets in from one namespace.
type admission struct {
	gateway source.ObjectRef
	implied bool
	unknown bool         // some entry selects namespaces by labels, and those of this one are not known
	all     bool         // everything
	terms   []routeTerms // that a match has to fit one of; none: no Route of the namespace is taken
}

// routeTerms are what an entry asks of a match, with the namespace's name filled in.
type routeTerms struct {
	paths  []string
	models []string
	labels map[string]string
}

// admissions are those of one namespace by all gateways.
type admissions struct {
	cell
	is []admission
}

// doors finds out whose Routes gateways take, where that may have changed.
func (c *compiler) doors() {
	if c.run == 1 || c.gateways.changed == c.run {
		c.doorsNow, c.doorProblems = nil, nil
		for _, g := range c.objs.Gateways {
			c.doorsNow = append(c.doorsNow, c.doorOf(g))
		}
		// Whatever the order of the gateways is, Routes are as they were.
		slices.SortStableFunc(c.doorsNow, func(a, b gatewayDoor) int {
			return cmp.Or(strings.Compare(a.gateway.Namespace, b.gateway.Namespace), strings.Compare(a.gateway.Name, b.gateway.Name))
		})
		for namespace, at := range c.admitted {
			c.settleAdmissions(namespace, at)
		}
	} else {
		for namespace, at := range c.admitted {
			if labels := c.namespaces.cells[namespace]; labels != nil && labels.changed == c.run {
				c.settleAdmissions(namespace, at)
			}
		}
	}
	c.problems = append(c.problems, c.doorProblems...)
}

func (c *compiler) doorOf(g *v1alpha1.LLMGateway) gatewayDoor {
	d := gatewayDoor{gateway: source.RefOf(g)}
	if len(g.Spec.AllowedRoutes) == 0 {
		if c.opts.AllowedRoutes == v1alpha1.NamespacesFromSame {
			d.implied = true
			d.entries = []doorEntry{{from: v1alpha1.NamespacesFromSame, terms: &v1alpha1.AllowedRoutes{}}}
		}
		return d
	}
	wrong := func(field, format string, args ...any) {
		c.doorProblems = append(c.doorProblems, c.objs.Problem(d.gateway, field, source.Error, format, args...))
	}
	for i := range g.Spec.AllowedRoutes {
		a := &g.Spec.AllowedRoutes[i]
		field := fmt.Sprintf("spec.allowedRoutes[%d]", i)
		e := doorEntry{from: a.Namespaces.From, terms: a}
		if e.from == v1alpha1.NamespacesFromSelector {
			var err error
			if e.selector, err = metav1.LabelSelectorAsSelector(a.Namespaces.Selector); err != nil {
				wrong(field+".namespaces.selector", "not a selector of labels: %v", err)
				continue
			}
			e.named = len(a.SelectedLabels()) == 0
		}
		for j, model := range a.Models {
			if _, err := identity.NewPatterns([]string{filled(string(model), "n")}); err != nil {
				wrong(fmt.Sprintf("%s.models[%d]", field, j), "%v", err)
			}
		}
		d.entries = append(d.entries, e)
	}
	return d
}

// filled puts the name of a namespace in its place.
func filled(text, namespace string) string {
	return strings.ReplaceAll(text, "{namespace}", namespace)
}

// admissionsOf answers what the gateways let in from a namespace.
func (c *compiler) admissionsOf(namespace string) []admission {
	at := c.admitted[namespace]
	if at == nil {
		at = &admissions{}
		c.admitted[namespace] = at
		at.is = c.judgeNamespace(namespace)
	}
	c.asks(&at.cell)
	return at.is
}

func (c *compiler) settleAdmissions(namespace string, at *admissions) {
	if is := c.judgeNamespace(namespace); !reflect.DeepEqual(at.is, is) {
		at.is = is
		c.stir(&at.cell)
	}
}

// judgeNamespace says what the gateways let in from a namespace; nil where each takes everything.
func (c *compiler) judgeNamespace(namespace string) []admission {
	known, read := map[string]string(nil), false
	if at := c.namespaces.at(namespace); at.there {
		known, read = at.value, true
	}
	out, all := make([]admission, 0, len(c.doorsNow)), true
	for i := range c.doorsNow {
		a := c.doorsNow[i].admission(namespace, known, read)
		all = all && a.all
		out = append(out, a)
	}
	if all {
		return nil
	}
	return out
}

func (d *gatewayDoor) admission(namespace string, known map[string]string, read bool) admission {
	a := admission{gateway: d.gateway, implied: d.implied, all: len(d.entries) == 0}
	for i := range d.entries {
		e := &d.entries[i]
		switch e.from {
		case v1alpha1.NamespacesFromAll:
		case v1alpha1.NamespacesFromSelector:
			if !read && !e.named {
				a.unknown = true
				continue
			}
			set := labels.Set{}
			maps.Copy(set, known)
			set[v1alpha1.NamespaceNameLabel] = namespace
			if !e.selector.Matches(set) {
				continue
			}
		default:
			if namespace != d.gateway.Namespace {
				continue
			}
		}
		t := routeTerms{}
		for _, p := range e.terms.PathPrefixes {
			t.paths = append(t.paths, filled(p, namespace))
		}
		for _, m := range e.terms.Models {
			t.models = append(t.models, filled(string(m), namespace))
		}
		for k, v := range e.terms.ConsumerLabels {
			if t.labels == nil {
				t.labels = map[string]string{}
			}
			t.labels[k] = filled(string(v), namespace)
		}
		if a.all = t.free(); a.all {
			return admission{gateway: d.gateway, implied: d.implied, all: true}
		}
		a.terms = append(a.terms, t)
	}
	return a
}

// free says that the terms ask nothing of a match.
func (t *routeTerms) free() bool { return len(t.paths)+len(t.models)+len(t.labels) == 0 }

// fit says whether a match fits the terms: "" or the field of it that does not.
func (t *routeTerms) fit(m *v1alpha1.RouteMatch) (field string) {
	if len(t.paths) > 0 && (m.Path == nil || !slices.ContainsFunc(t.paths, func(prefix string) bool { return below(m.Path.Value, prefix) })) {
		return ".path"
	}
	if len(t.models) > 0 {
		patterns, err := identity.NewPatterns(t.models)
		// A "*" of a match is within a pattern where that has one in its place: nothing else takes in a "*".
		if err != nil || len(m.Models) == 0 || slices.ContainsFunc(m.Models, func(name v1alpha1.ModelName) bool { return !patterns.Match(string(name)) }) {
			return ".models"
		}
	}
	for k, v := range t.labels {
		if got, ok := m.ConsumerLabels[k]; !ok || got != v {
			return ".consumerLabels"
		}
	}
	return ""
}

// below says whether everything that a path matches, exactly or with what is below it, is the prefix or below it.
func below(path, prefix string) bool {
	prefix = strings.TrimSuffix(prefix, "/")
	rest, ok := strings.CutPrefix(path, prefix)
	return ok && (rest == "" || rest[0] == '/')
}

// String is "a path below /team-a and models such as team-a-*".
func (t *routeTerms) String() string {
	var parts []string
	if len(t.paths) > 0 {
		parts = append(parts, "a path below "+strings.Join(t.paths, " or "))
	}
	if len(t.models) > 0 {
		parts = append(parts, "models within "+strings.Join(t.models, ", "))
	}
	if len(t.labels) > 0 {
		var pairs []string
		for _, k := range slices.Sorted(maps.Keys(t.labels)) {
			pairs = append(pairs, k+"="+t.labels[k])
		}
		parts = append(parts, "consumerLabels "+strings.Join(pairs, ", "))
	}
	return strings.Join(parts, " and ")
}

// takes says which gateways take a Route: all of them (nil), or those. ok is false where none does, and a Problem says what would have to change.
func (c *compiler) takes(ref source.ObjectRef, r *v1alpha1.Route) (gateways []string, ok bool) {
	from := c.admissionsOf(ref.Namespace)
	if len(from) == 0 {
		return nil, true
	}
	field, refusals := "", []string(nil)
	for i := range from {
		a := &from[i]
		at, why := a.refusal(r)
		if why == "" {
			gateways = append(gateways, a.gateway.Namespace+"/"+a.gateway.Name)
			continue
		}
		refusals = append(refusals, why)
		if field == "" {
			field = at
		}
	}
	switch {
	case len(refusals) == 0:
		return nil, true
	case len(gateways) > 0:
		return gateways, true
	}
	if more := len(refusals) - toldGateways; more > 0 {
		refusals = append(refusals[:toldGateways], fmt.Sprintf("and %d more LLMGateways neither", more))
	}
	c.refusef(ref, field, source.ReasonNotAllowed, "%s", strings.Join(refusals, "; "))
	return nil, false
}

// toldGateways is of how many gateways is said why they do not take a Route.
const toldGateways = 3

// refusal says why a gateway does not take a Route, and which field of the Route is the matter; "" where it takes it.
func (a *admission) refusal(r *v1alpha1.Route) (field, why string) {
	if a.all {
		return "", ""
	}
	switch {
	case len(a.terms) > 0:
	case a.implied:
		return "", fmt.Sprintf("%s takes Routes of its own namespace only, because it has no spec.allowedRoutes and this installation runs with --allowed-routes=Same: "+
			"give it an entry there for the namespace %s", a.gateway, r.Namespace)
	case a.unknown:
		return "", fmt.Sprintf("%s selects namespaces by their labels (spec.allowedRoutes), and those of the namespace %s are not known here", a.gateway, r.Namespace)
	default:
		return "", fmt.Sprintf("no entry of spec.allowedRoutes of %s is for Routes of the namespace %s", a.gateway, r.Namespace)
	}
	anything := []v1alpha1.RouteMatch{{}}
	for i := range r.Spec.Rules {
		matches := r.Spec.Rules[i].Matches
		if len(matches) == 0 {
			matches = anything
		}
		for j := range matches {
			at := ""
			for k := range a.terms {
				misfit := a.terms[k].fit(&matches[j])
				if misfit == "" {
					at = ""
					break
				}
				if at == "" {
					at = misfit
				}
			}
			if at == "" {
				continue
			}
			field = fmt.Sprintf("spec.rules[%d].matches", i)
			if len(r.Spec.Rules[i].Matches) > 0 {
				field += fmt.Sprintf("[%d]%s", j, at)
			}
			allowed := make([]string, 0, len(a.terms))
			for k := range a.terms {
				allowed = append(allowed, a.terms[k].String())
			}
			return field, fmt.Sprintf("%s takes from the namespace %s only matches with %s (its spec.allowedRoutes)", a.gateway, r.Namespace, strings.Join(allowed, ", or with "))
		}
	}
	return "", ""
}
