package kubernetes

import (
	"fmt"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// The kinds of the cluster in which servers are found.
var (
	servicesResource = schema.GroupVersionResource{Version: "v1", Resource: "services"}
	slicesResource   = schema.GroupVersionResource{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"}
	podsResource     = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	// The first of the groups that has the pool counts.
	poolsResources = []schema.GroupVersionResource{
		{Group: "inference.networking.k8s.io", Version: "v1", Resource: "inferencepools"},
		{Group: "inference.networking.x-k8s.io", Version: "v1alpha2", Resource: "inferencepools"},
	}
)

func same[T any](a, b T) bool { return reflect.DeepEqual(a, b) }

// typed makes a typed object of an untyped one. An API server's objects fit their types; of one that does not, what fits is used.
func typed[T any](u *unstructured.Unstructured) *T {
	out := new(T)
	_ = runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, out)
	return out
}

// serviceInfo is what is kept of a Service.
type serviceInfo struct {
	external bool // of type ExternalName
	family   string
	ports    []servicePort
}

type servicePort struct {
	name   string
	port   int32
	target int32 // 0 where the target is a name
}

func readService(u *unstructured.Unstructured, _ serviceInfo, _ bool) serviceInfo {
	s := typed[corev1.Service](u)
	out := serviceInfo{external: s.Spec.Type == corev1.ServiceTypeExternalName, family: string(corev1.IPv4Protocol)}
	if len(s.Spec.IPFamilies) > 0 {
		out.family = string(s.Spec.IPFamilies[0])
	}
	for _, p := range s.Spec.Ports {
		if p.Protocol == "" || p.Protocol == corev1.ProtocolTCP {
			out.ports = append(out.ports, servicePort{p.Name, p.Port, p.TargetPort.IntVal})
		}
	}
	return out
}

// port finds a port of the Service by number or name.
func (s serviceInfo) port(by intstr.IntOrString) (servicePort, bool) {
	i := slices.IndexFunc(s.ports, func(p servicePort) bool {
		return by.Type == intstr.Int && p.port == by.IntVal || by.Type == intstr.String && p.name == by.StrVal
	})
	if i < 0 {
		return servicePort{}, false
	}
	return s.ports[i], true
}

func (s serviceInfo) portNames() []string {
	var out []string
	for _, p := range s.ports {
		if p.name == "" {
			out = append(out, fmt.Sprint(p.port))
		} else {
			out = append(out, fmt.Sprintf("%d (%s)", p.port, p.name))
		}
	}
	return out
}

// sliceInfo is what is kept of an EndpointSlice.
type sliceInfo struct {
	family  string
	ports   map[string]int32 // by name; 0: any
	servers []server         // without port
}

func readSlice(u *unstructured.Unstructured, _ sliceInfo, _ bool) sliceInfo {
	s := typed[discoveryv1.EndpointSlice](u)
	out := sliceInfo{family: string(s.AddressType), ports: map[string]int32{}}
	if s.AddressType == discoveryv1.AddressTypeFQDN {
		return out // long deprecated; Envoy takes addresses
	}
	for _, p := range s.Ports {
		if p.Protocol == nil || *p.Protocol == corev1.ProtocolTCP {
			out.ports[value(p.Name, "")] = value(p.Port, 0)
		}
	}
	for _, e := range s.Endpoints {
		if len(e.Addresses) == 0 {
			continue
		}
		// Only the first address counts: so the documentation of the type.
		one := server{address: e.Addresses[0], ready: value(e.Conditions.Ready, true)}
		one.serving = value(e.Conditions.Serving, one.ready) && value(e.Conditions.Terminating, false)
		if t := e.TargetRef; t != nil {
			one.id = t.Kind + " " + t.Namespace + "/" + t.Name
		}
		out.servers = append(out.servers, one)
	}
	return out
}

func value[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// podInfo is what is kept of a Pod.
type podInfo struct {
	id      string
	address string
	ready   bool
	ending  bool
	ports   map[string]int32 // of its containers, by name
}

func readPod(u *unstructured.Unstructured, _ podInfo, _ bool) podInfo {
	p := typed[corev1.Pod](u)
	out := podInfo{id: p.Namespace + "/" + p.Name, address: p.Status.PodIP, ending: p.DeletionTimestamp != nil}
	over := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			out.ready = c.Status == corev1.ConditionTrue && !over
		}
	}
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) { // a sidecar is an init container
		for _, port := range c.Ports {
			if port.Name != "" && (port.Protocol == "" || port.Protocol == corev1.ProtocolTCP) {
				if out.ports == nil {
					out.ports = map[string]int32{}
				}
				out.ports[port.Name] = port.ContainerPort
			}
		}
	}
	return out
}

// port finds a port of the Pod by number or name; 0 if no container has the name.
func (p podInfo) port(by intstr.IntOrString) int32 {
	if by.Type == intstr.Int {
		return by.IntVal
	}
	return p.ports[by.StrVal]
}

// poolInfo is what is kept of an InferencePool.
type poolInfo struct {
	selector string // of labels; "" where the pool has none
	port     int32
}

// readPool reads both versions of the type: selector.matchLabels and targetPorts[].number; and before, the labels themselves in
// selector, and targetPortNumber. https://gateway-api-inference-extension.sigs.k8s.io/reference/spec/
func readPool(u *unstructured.Unstructured, _ poolInfo, _ bool) poolInfo {
	selector, _, err := unstructured.NestedStringMap(u.Object, "spec", "selector", "matchLabels")
	if err != nil || selector == nil {
		selector, _, _ = unstructured.NestedStringMap(u.Object, "spec", "selector")
	}
	out := poolInfo{}
	if len(selector) > 0 {
		out.selector = labels.SelectorFromSet(selector).String()
	}
	if ports, _, _ := unstructured.NestedSlice(u.Object, "spec", "targetPorts"); len(ports) > 0 {
		first, _ := ports[0].(map[string]any)
		out.port = portNumber(first["number"])
	} else {
		spec, _, _ := unstructured.NestedMap(u.Object, "spec")
		out.port = portNumber(spec["targetPortNumber"])
	}
	return out
}

func portNumber(v any) int32 {
	n, _ := v.(int64)
	if n < 1 || n > 65535 {
		return 0
	}
	return int32(n)
}
