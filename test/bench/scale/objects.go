package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
)

const (
	// system is the namespace of Weir's Leases and of its LLMGateway.
	system = "weir-system"
	// share is how many backends a tenant has in his namespace. Of routes he has ten times as many.
	share = 10
	// creators is how many objects are made at once.
	creators = 16
	// secretKey is the key of each Secret that the credential is at.
	secretKey = "token"
)

// objects says what there is in the cluster. Backend b is in the namespace of the tenant b%tenants; half of them are found by a Service, the others
// have a URL and a Secret each. Route i is for the model "model-i" and has three backends of its own namespace: two by weight, and one to fall back on.
type objects struct{ routes, tenants int }

func objectsOf(routes int) objects { return objects{routes, max(1, routes/(10*share))} }

func (o objects) backends() int { return share * o.tenants }

func (o objects) namespace(i int) string { return fmt.Sprintf("team-%d", i%o.tenants) }
func (o objects) byService(b int) bool   { return b/o.tenants%2 == 0 }

func backendName(b int) string { return fmt.Sprintf("backend-%d", b) }
func routeName(i int) string   { return fmt.Sprintf("route-%d", i) }

func meta(ns, name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: ns, Name: name} }

// nth is the backend of a route's namespace that comes n after its first.
func (o objects) nth(i, n int) v1alpha1.ObjectName {
	return v1alpha1.ObjectName(backendName((i + n*o.tenants) % o.backends()))
}

func (o objects) route(i int) *v1alpha1.Route {
	return &v1alpha1.Route{ObjectMeta: meta(o.namespace(i), routeName(i)), Spec: v1alpha1.RouteSpec{Rules: []v1alpha1.RouteRule{{
		Matches: []v1alpha1.RouteMatch{{Models: []v1alpha1.ModelName{v1alpha1.ModelName(fmt.Sprintf("model-%d", i))}}},
		Backends: []v1alpha1.RouteBackend{
			{Name: o.nth(i, 0), Weight: new(int32(9))}, {Name: o.nth(i, 1), Weight: new(int32(1))}, {Name: o.nth(i, 2), Priority: 1},
		},
	}}}}
}

// backend is a Backend and what it points to.
func (o objects) backend(b int) []client.Object {
	ns, name := o.namespace(b), backendName(b)
	backend := &v1alpha1.Backend{ObjectMeta: meta(ns, name), Spec: v1alpha1.BackendSpec{Dialect: "openai"}}
	if !o.byService(b) {
		backend.Spec.URL = fmt.Sprintf("http://127.0.0.1:%d/v1", 20000+b%10000)
		backend.Spec.Credential = &v1alpha1.BackendCredential{SecretRef: v1alpha1.SecretRef{Name: v1alpha1.ObjectName(name), Key: secretKey}}
		return []client.Object{o.secret(b, 0), backend}
	}
	backend.Spec.Service = &v1alpha1.ServiceBackend{Name: v1alpha1.ObjectName(name), Port: intstr.FromInt32(8000)}
	backend.Spec.BasePath = "/v1"
	service := &corev1.Service{ObjectMeta: meta(ns, name), Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Ports: []corev1.ServicePort{{Name: "http", Port: 8000}}}}
	return []client.Object{service, o.slice(b, 0), backend}
}

// secret is that of a backend, in one of its generations.
func (o objects) secret(b, generation int) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: meta(o.namespace(b), backendName(b)), Data: map[string][]byte{secretKey: fmt.Appendf(nil, "sk-%024d-%024d", b, generation)}}
}

// slice is the list of a backend's servers, in one of its generations: one stays, another comes and goes.
func (o objects) slice(b, generation int) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  meta(o.namespace(b), sliceName(b)),
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8000)), Protocol: new(corev1.ProtocolTCP)}},
	}
	s.Labels = map[string]string{discoveryv1.LabelServiceName: backendName(b)}
	for _, n := range []int{1, 2 + generation%2} {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.%d.%d.%d", b/250, b%250, n)}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)},
		})
	}
	return s
}

// gateway is what all routes are served by, and who may ask.
func gateway() []client.Object {
	g := &v1alpha1.LLMGateway{ObjectMeta: meta(system, "gateway"), Spec: v1alpha1.LLMGatewaySpec{
		Listeners: []v1alpha1.Listener{{Name: "http", Address: "127.0.0.1", Port: 8080}}, // each sidecar has another address, by flag
		Limits:    v1alpha1.GatewayLimits{MaxRequestBytes: resource.MustParse("32Mi")},   // the default, which a zero quantity does not ask for
	}}
	consumer := &v1alpha1.Consumer{ObjectMeta: meta(system, "app"), Spec: v1alpha1.ConsumerSpec{Tenant: "app"}}
	return []client.Object{g, consumer}
}

// create makes everything.
func (o objects) create(ctx context.Context, to client.Client, tell func(string, ...any)) error {
	began := time.Now()
	var lists [][]client.Object // what is in one is made in its order
	for i := range o.tenants {
		lists = append(lists, []client.Object{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: o.namespace(i)}}})
	}
	lists = append(lists, append([]client.Object{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: system}}}, gateway()...))
	if err := createAll(ctx, to, lists); err != nil {
		return err
	}
	lists = nil
	for b := range o.backends() {
		lists = append(lists, o.backend(b))
	}
	for i := range o.routes {
		lists = append(lists, []client.Object{o.route(i)})
	}
	if err := createAll(ctx, to, lists); err != nil {
		return err
	}
	tell("%d routes and %d backends were made in %s", o.routes, o.backends(), time.Since(began).Round(time.Second))
	return nil
}

// createAll makes the objects of the lists, of several at once.
func createAll(ctx context.Context, to client.Client, lists [][]client.Object) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	todo := make(chan []client.Object)
	var workers sync.WaitGroup
	for range creators {
		workers.Go(func() {
			for list := range todo {
				for _, x := range list {
					if err := to.Create(ctx, x); err != nil {
						cancel(fmt.Errorf("%T %s: %w", x, x.GetName(), err)) // the first is told
					}
				}
			}
		})
	}
	for _, list := range lists {
		select {
		case todo <- list:
		case <-ctx.Done():
		}
	}
	close(todo)
	workers.Wait()
	return context.Cause(ctx)
}
