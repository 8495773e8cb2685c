package kubernetes

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/test/kubetest"
	"github.com/weir-dev/weir/xds/source"
)

// put makes an object, or replaces it.
func put(t *testing.T, c *kubetest.Cluster, obj client.Object) {
	t.Helper()
	now := obj.DeepCopyObject().(client.Object)
	switch err := c.Client.Get(t.Context(), client.ObjectKeyFromObject(obj), now); {
	case apierrors.IsNotFound(err):
		if err := c.Client.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	case err != nil:
		t.Fatal(err)
	default:
		obj.SetResourceVersion(now.GetResourceVersion())
		obj.SetUID(now.GetUID())
		if err := c.Client.Update(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
}

func sliceOf(ns, name string, family discoveryv1.AddressType, port int32, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: "vllm"}},
		AddressType: family, Endpoints: endpoints,
		Ports: []discoveryv1.EndpointPort{{Name: ptr.To("metrics"), Port: ptr.To[int32](9090)}, {Name: ptr.To("http"), Port: ptr.To(port)}}}
}

func at(address, pod string) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}}
	if pod != "" {
		e.TargetRef = &corev1.ObjectReference{Kind: "Pod", Name: pod}
	}
	return e
}

func ending(e discoveryv1.Endpoint) discoveryv1.Endpoint {
	e.Conditions = discoveryv1.EndpointConditions{Ready: ptr.To(false), Serving: ptr.To(true), Terminating: ptr.To(true)}
	return e
}

func unready(e discoveryv1.Endpoint) discoveryv1.Endpoint {
	e.Conditions.Ready = ptr.To(false)
	return e
}

func TestService(t *testing.T) {
	c := kubetest.Shared(t)
	ns := c.Namespace(t)
	apply(t, c, ns, backend("pool", "service: {name: vllm, port: http}")+backend("number", "service: {name: vllm, port: 80}"))
	w := follow(t, quick(c.Config, ns))
	servers := func(r snapshot) string { return r.servers(ns, "pool") }
	w.await("none", servers)
	w.awaitSaid("Backend "+ns+"/pool: spec.service.name: warning: there is no Service vllm", "[RefNotFound]")

	put(t, c, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "vllm"}, Spec: corev1.ServiceSpec{ClusterIP: "None", Ports: []corev1.ServicePort{
		{Name: "http", Port: 80, TargetPort: intstr.FromString("api")}, {Name: "metrics", Port: 9090}}}})
	r := w.await("", snapshot.said)
	if servers(r) != "none" || !w.source.Health().Connected {
		t.Errorf("%s", servers(r))
	}
	put(t, c, sliceOf(ns, "one", discoveryv1.AddressTypeIPv4, 8000, at("10.0.0.2", "b"), at("10.0.0.1", "a"), unready(at("10.0.0.3", "c"))))
	r = w.await("10.0.0.1:8000 10.0.0.2:8000", servers)
	if got := r.servers(ns, "number"); got != servers(r) {
		t.Errorf("by number: %s", got)
	}
	// Scaling: a second slice, with one server that is in both and one that has an IPv6 address as well.
	put(t, c, sliceOf(ns, "two", discoveryv1.AddressTypeIPv4, 8001, at("10.0.0.2", "b"), at("10.0.0.4", "d")))
	w.await("10.0.0.1:8000 10.0.0.2:8000 10.0.0.4:8001", servers)
	put(t, c, sliceOf(ns, "six", discoveryv1.AddressTypeIPv6, 8000, at("fd00::1", "a"), at("fd00::5", "e")))
	w.await("10.0.0.1:8000 10.0.0.2:8000 10.0.0.4:8001 fd00::5:8000", servers)

	for _, name := range []string{"two", "six"} {
		if err := c.Client.Delete(t.Context(), sliceOf(ns, name, "", 0)); err != nil {
			t.Fatal(err)
		}
	}
	w.await("10.0.0.1:8000 10.0.0.2:8000", servers)
	put(t, c, sliceOf(ns, "one", discoveryv1.AddressTypeIPv4, 8000, ending(at("10.0.0.1", "a")), at("10.0.0.2", "b")))
	w.await("10.0.0.2:8000", servers)
	put(t, c, sliceOf(ns, "one", discoveryv1.AddressTypeIPv4, 8000, ending(at("10.0.0.1", "a")), unready(at("10.0.0.2", "b"))))
	w.await("10.0.0.1:8000", servers)
	put(t, c, sliceOf(ns, "one", discoveryv1.AddressTypeIPv4, 8000))
	r = w.await("none", servers)
	if r.said() != "" {
		t.Errorf("problems: %s", r.said())
	}
	apply(t, c, ns, backend("pool", "service: {name: vllm, port: grpc}"))
	w.awaitSaid("Backend " + ns + "/pool: spec.service.port: warning: the Service vllm has no TCP port grpc; it has 80 (http), 9090 (metrics)")
	apply(t, c, ns, backend("pool", "url: 'https://api.example.com/v1'"))
	w.await("?", servers)
}

func podOf(ns, name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: map[string]string{"app": "vllm"}}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "vllm", Image: "vllm", Ports: []corev1.ContainerPort{{Name: "api", ContainerPort: 8000}}}}}}
}

// run makes a Pod and gives it a status, as a kubelet does.
func runPod(t *testing.T, c *kubetest.Cluster, pod *corev1.Pod, ip string, ready corev1.ConditionStatus) {
	t.Helper()
	err := c.Client.Create(t.Context(), pod)
	if apierrors.IsAlreadyExists(err) {
		err = c.Client.Get(t.Context(), client.ObjectKeyFromObject(pod), pod)
	}
	if err != nil {
		t.Fatal(err)
	}
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}}
	if err := c.Client.Status().Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
}

func TestSelector(t *testing.T) {
	c := kubetest.Shared(t)
	ns := c.Namespace(t)
	runPod(t, c, podOf(ns, "a"), "10.1.0.1", corev1.ConditionTrue)
	apply(t, c, ns, backend("pool", "selector: {matchLabels: {app: vllm}, port: api}")+
		backend("number", "selector: {matchExpressions: [{key: app, operator: In, values: [vllm, sglang]}], port: 9000}"))
	w := follow(t, quick(c.Config, ns))
	servers := func(r snapshot) string { return r.servers(ns, "pool") + ", " + r.servers(ns, "number") }
	w.await("10.1.0.1:8000, 10.1.0.1:9000", servers)
	if _, n, _ := w.last(); n != 1 {
		t.Errorf("%d readings until the servers were there", n)
	}
	runPod(t, c, podOf(ns, "b"), "10.1.0.2", corev1.ConditionTrue)
	runPod(t, c, podOf(ns, "c"), "10.1.0.3", corev1.ConditionFalse)
	w.await("10.1.0.1:8000 10.1.0.2:8000, 10.1.0.1:9000 10.1.0.2:9000", servers)

	// A Pod without the port's name.
	odd := podOf(ns, "odd")
	odd.Labels["app"], odd.Spec.Containers[0].Ports = "vllm", nil
	runPod(t, c, odd, "10.1.0.9", corev1.ConditionTrue)
	w.awaitSaid("Backend "+ns+"/pool: spec.selector.port: warning: no container of Pod "+ns+"/odd has a TCP port named api", "[RefNotFound]")
	odd.Labels["app"] = "else"
	if err := c.Client.Update(t.Context(), odd); err != nil {
		t.Fatal(err)
	}
	w.await("", snapshot.said)

	// Pods that end are not asked while others are ready; without a kubelet they stay until they are deleted for good.
	for i, name := range []string{"a", "b"} {
		if err := c.Client.Delete(t.Context(), podOf(ns, name), client.GracePeriodSeconds(30)); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			w.await("10.1.0.2:8000, 10.1.0.2:9000", servers)
		}
	}
	w.await("none, none", servers)
	put := podOf(ns, "b")
	put.ResourceVersion = ""
	runPod(t, c, put, "10.1.0.2", corev1.ConditionTrue)
	w.await("10.1.0.2:8000, 10.1.0.2:9000", servers)
}

// poolCRD is an InferencePool as far as is read.
func poolCRD(group, version string) *apiextensionsv1.CustomResourceDefinition {
	return &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "inferencepools." + group,
		Annotations: map[string]string{apiextensionsv1.KubeAPIApprovedAnnotation: "unapproved, for a test"}},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{Group: group, Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "inferencepools", Singular: "inferencepool", Kind: "InferencePool", ListKind: "InferencePoolList"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: version, Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{
				OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: ptr.To(true)}}}}}}
}

func TestInferencePool(t *testing.T) {
	c := kubetest.Shared(t)
	var installed []*apiextensionsv1.CustomResourceDefinition
	t.Cleanup(func() { // after the namespace has been emptied
		for _, crd := range installed {
			if err := c.Client.Delete(context.Background(), crd); err != nil {
				t.Error(err)
			}
		}
	})
	ns := c.Namespace(t)
	runPod(t, c, podOf(ns, "a"), "10.1.0.1", corev1.ConditionTrue)
	apply(t, c, ns, backend("pool", "inferencePool: {name: llama}"))
	opts := quick(c.Config, ns)
	opts.RetryDelay /= slowRetry
	w := follow(t, opts)
	servers := func(r snapshot) string { return r.servers(ns, "pool") }
	w.await("none", servers)
	w.awaitSaid("Backend "+ns+"/pool: spec.inferencePool.name: warning: the cluster has no kind InferencePool", "[RefNotFound]")
	if !w.source.Health().Connected {
		t.Errorf("health is %+v", w.source.Health())
	}

	install := func(group, version, spec string) {
		t.Helper()
		crd := poolCRD(group, version)
		if err := c.Client.Create(t.Context(), crd); err != nil {
			t.Fatal(err)
		}
		installed = append(installed, crd)
		poll(t, "the pool cannot be made", func() (bool, string) {
			_, err := c.Apply(t.Context(), []byte(fmt.Sprintf("apiVersion: %s/%s\nkind: InferencePool\nmetadata: {name: llama}\nspec: %s\n", group, version, spec)),
				kubetest.ApplyOptions{Namespace: ns})
			return err == nil, fmt.Sprint(err)
		})
	}
	install("inference.networking.x-k8s.io", "v1alpha2", "{selector: {app: vllm}, targetPortNumber: 8100}")
	r := w.await("10.1.0.1:8100", servers)
	if r.said() != "" {
		t.Errorf("problems: %s", r.said())
	}
	install("inference.networking.k8s.io", "v1", "{selector: {matchLabels: {app: vllm}}, targetPorts: [{number: 8200}, {number: 8201}]}")
	w.await("10.1.0.1:8200", servers)
	runPod(t, c, podOf(ns, "b"), "10.1.0.2", corev1.ConditionTrue)
	w.await("10.1.0.1:8200 10.1.0.2:8200", servers)
}

// Endpoints of others are not handed on, and those that may not be read are not known.
func TestEndpointsForbidden(t *testing.T) {
	c := kubetest.Shared(t)
	ns := c.Namespace(t)
	apply(t, c, ns, backend("service", "service: {name: vllm, port: 80}")+backend("pods", "selector: {matchLabels: {app: vllm}, port: 80}")+
		backend("pool", "inferencePool: {name: llama}"))
	w := follow(t, quick(c.ServiceAccount(t, ns, "weir", viewer), ns))
	r := w.awaitSaid("Backend "+ns+"/service: spec.service.name: Weir may not read the Service vllm", "list and watch on services", "[RefNotFound]")
	for _, want := range []string{
		"Backend " + ns + "/pods: spec.selector: Weir may not read the Pods with app=vllm: give",
		"Backend " + ns + "/pool: spec.inferencePool.name: Weir may not read the InferencePool llama: give Weir's ServiceAccount the verbs list and watch on inferencepools.inference.networking.k8s.io",
	} {
		if !strings.Contains(r.said(), want) {
			t.Errorf("not said: %s\nin %s", want, r.said())
		}
	}
	if !source.HasErrors(r.problems) || len(r.objects.Endpoints) != 0 || !w.source.Health().Connected {
		t.Errorf("%v, %+v", r.objects.Endpoints, w.source.Health())
	}
}
