package kubernetes

import (
	"fmt"
	"slices"
	"strings"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
)

// endpoints finds the servers of Backends that do not write them down.
type endpoints struct {
	services *lookups[serviceInfo]
	slices   *lookups[sliceInfo]
	pods     *lookups[podInfo]
	pools    *lookups[poolInfo]

	known map[source.ObjectRef]resolved
}

// resolved is what was found for a Backend, and what it was found from.
type resolved struct {
	backend  *v1alpha1.Backend
	from     []seen
	servers  []v1alpha1.Endpoint
	found    bool // servers is an answer, if an empty one
	problems []source.Problem
}

// seen is a list at a moment.
type seen struct {
	key   lookupKey
	state state
}

// resolve returns the servers of the Backends, and what is wrong. What has not changed is not worked out again.
func (e *endpoints) resolve(backends map[source.ObjectRef]*record) (map[source.ObjectRef][]v1alpha1.Endpoint, []source.Problem) {
	e.services.begin()
	e.slices.begin()
	e.pods.begin()
	e.pools.begin()
	next := make(map[source.ObjectRef]resolved, len(backends))
	out := make(map[source.ObjectRef][]v1alpha1.Endpoint, len(backends))
	var problems []source.Problem
	for ref, rec := range backends {
		b, ok := rec.discovered()
		if !ok {
			continue
		}
		r := e.backend(ref, b)
		next[ref] = r
		if r.found {
			out[ref] = r.servers
		}
		problems = append(problems, r.problems...)
	}
	e.services.end()
	e.slices.end()
	e.pods.end()
	e.pools.end()
	e.known = next
	return out, problems
}

func (e *endpoints) backend(ref source.ObjectRef, b *v1alpha1.Backend) resolved {
	f := finder{endpoints: e, ref: ref, out: resolved{backend: b}}
	switch {
	case b.Spec.Service != nil:
		f.service(b.Spec.Service)
	case b.Spec.Selector != nil:
		f.selector(b.Spec.Selector)
	default:
		f.pool(string(b.Spec.InferencePool.Name))
	}
	// The same pointer for the same servers, so that whoever compares can do it quickly.
	if old, ok := e.known[ref]; ok && slices.Equal(old.servers, f.out.servers) {
		f.out.servers = old.servers
	}
	return f.out
}

// finder finds the servers of one Backend.
type finder struct {
	*endpoints
	ref source.ObjectRef
	out resolved
}

// cached takes over what was found before, if it was from the same lists in the same state.
func (f *finder) cached() bool {
	old, ok := f.known[f.ref]
	if !ok || old.backend != f.out.backend || !slices.EqualFunc(old.from, f.out.from, seen.equal) {
		return false
	}
	f.out = old
	return true
}

func (s seen) equal(o seen) bool {
	a, b := s.state, o.state
	return s.key == o.key && a.version == b.version && a.synced == b.synced && a.missing == b.missing && (a.failure == nil) == (b.failure == nil) &&
		(a.failure == nil || a.cause() == b.cause())
}

func look[T any](f *finder, l *lookups[T], key lookupKey) *lookup[T] {
	found := l.want(key)
	f.out.from = append(f.out.from, seen{key, found.state()})
	return found
}

// warn says that there is an answer, but not a useful one.
func (f *finder) warn(field, format string, args ...any) {
	f.out.problems = append(f.out.problems, source.Problem{Object: f.ref, Field: field, Severity: source.Warning, Reason: source.ReasonRefNotFound,
		Message: fmt.Sprintf(format, args...)})
}

// answered says whether the list s was read; if not, why.
func (f *finder) answered(s state, field, what, resources string) bool {
	p := source.Problem{Object: f.ref, Field: field, Reason: source.ReasonRefNotFound}
	right := fmt.Sprintf("give Weir's ServiceAccount the verbs list and watch on %s in namespace %s", resources, f.ref.Namespace)
	switch {
	case s.synced && s.forbidden():
		p.Severity, p.Message = source.Warning, fmt.Sprintf("Weir may not read %s any more, and goes on with what it read: %s", what, right)
	case s.synced:
		return true
	case s.forbidden():
		p.Message = fmt.Sprintf("Weir may not read %s: %s", what, right)
	case s.failure != nil:
		p.Message = fmt.Sprintf("%s cannot be read now: %s", what, s.cause())
	default:
		p.Message = fmt.Sprintf("%s could not be read yet: the API server has not answered", what)
	}
	f.out.problems = append(f.out.problems, p)
	return s.synced
}

func (f *finder) service(s *v1alpha1.ServiceBackend) {
	const field = "spec.service"
	name := string(s.Name)
	service := look(f, f.services, lookupKey{resource: servicesResource, namespace: f.ref.Namespace, fields: byName(name)})
	parts := look(f, f.slices, lookupKey{resource: slicesResource, namespace: f.ref.Namespace, labels: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: name}).String()})
	if f.cached() {
		return
	}
	if !f.answered(f.out.from[0].state, field+".name", "the Service "+name, "services") ||
		!f.answered(f.out.from[1].state, field+".name", "the EndpointSlices of the Service "+name, "endpointslices.discovery.k8s.io") {
		return
	}
	f.out.found = true
	found := service.values()
	if len(found) == 0 {
		f.warn(field+".name", "there is no Service %s in namespace %s, so there is no server", name, f.ref.Namespace)
		return
	}
	if found[0].external {
		f.warn(field+".name", "the Service %s is of type ExternalName and has no endpoints: write its name into spec.url", name)
		return
	}
	port, ok := found[0].port(s.Port)
	if !ok {
		f.warn(field+".port", "the Service %s has no TCP port %s; it has %s", name, s.Port.String(), strings.Join(found[0].portNames(), ", "))
		return
	}
	var servers []server
	for _, part := range parts.values() {
		number, ok := part.ports[port.name]
		if !ok {
			continue
		}
		if number == 0 { // any port: the Service's word counts
			if number = port.target; number == 0 {
				number = port.port
			}
		}
		for _, one := range part.servers {
			one.port, one.otherFamily = number, part.family != found[0].family
			servers = append(servers, one)
		}
	}
	f.out.servers = usable(servers)
}

func (f *finder) selector(s *v1alpha1.PodSelector) {
	const field = "spec.selector"
	selector, err := metav1.LabelSelectorAsSelector(&s.LabelSelector)
	if err != nil {
		f.out.problems = append(f.out.problems, source.Problem{Object: f.ref, Field: field, Reason: source.ReasonInvalid, Message: err.Error()})
		return
	}
	f.podsOf(field, selector.String(), s.Port)
}

func (f *finder) podsOf(field, selector string, port intstr.IntOrString) {
	pods := look(f, f.pods, lookupKey{resource: podsResource, namespace: f.ref.Namespace, labels: selector})
	if f.cached() {
		return
	}
	if !f.answered(f.out.from[len(f.out.from)-1].state, field, "the Pods with "+selector, "pods") {
		return
	}
	f.out.found = true
	var servers []server
	lacking := ""
	for _, p := range pods.values() {
		number := p.port(port)
		if number == 0 && p.ready {
			lacking = max(lacking, p.id) // any of them, but always the same one
		}
		servers = append(servers, server{id: p.id, address: p.address, port: number, ready: p.ready && !p.ending, serving: p.ready && p.ending})
	}
	f.out.servers = usable(servers)
	if lacking != "" {
		f.warn(field+".port", "no container of Pod %s has a TCP port named %s: Pods without it are not asked", lacking, port.String())
	}
}

func (f *finder) pool(name string) {
	const field = "spec.inferencePool.name"
	var chosen *poolInfo
	known, refused := false, -1 // index in from
	for _, resource := range poolsResources {
		list := look(f, f.pools, lookupKey{resource: resource, namespace: f.ref.Namespace, fields: byName(name)})
		state := f.out.from[len(f.out.from)-1].state
		if found := list.values(); len(found) > 0 && chosen == nil {
			chosen = &found[0]
		}
		known = known || state.synced && !state.missing
		if !state.synced && !state.missing && refused < 0 {
			refused = len(f.out.from) - 1
		}
	}
	if chosen != nil && chosen.selector != "" && chosen.port != 0 {
		f.podsOf(field, chosen.selector, intstr.FromInt32(chosen.port))
		return
	}
	if f.cached() {
		return
	}
	if chosen == nil && refused >= 0 {
		f.answered(f.out.from[refused].state, field, "the InferencePool "+name, f.out.from[refused].key.resource.GroupResource().String())
		return
	}
	f.out.found = true
	switch {
	case chosen != nil:
		f.warn(field, "the InferencePool %s has no selector or no target port, so there is no server", name)
	case known:
		f.warn(field, "there is no InferencePool %s in namespace %s, so there is no server", name, f.ref.Namespace)
	default:
		f.warn(field, "the cluster has no kind InferencePool: install the Gateway API Inference Extension, or name the servers by a Service or a selector")
	}
}
