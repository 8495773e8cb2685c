package deploy

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// everything is every set of objects that this project shows: by Helm, and by kustomize.
func everything(t *testing.T) map[string]objects {
	t.Helper()
	var names []string
	var jobs []job
	for _, name := range examples {
		names, jobs = append(names, "helm "+name), append(jobs, helm(example(t, name)))
		names, jobs = append(names, "kustomize "+name), append(jobs, job{Kustomization: deployDir + "/kustomize/overlays/" + name})
	}
	names, jobs = append(names, "injected sidecar"), append(jobs, job{Kustomization: deployDir + "/kustomize/examples/injected-sidecar"})
	out := map[string]objects{}
	for i, o := range render(t, jobs...) {
		out[names[i]] = o.objects(t)
	}
	return out
}

// TestHardening looks at every container, role and selector.
func TestHardening(t *testing.T) {
	for name, objs := range everything(t) {
		t.Run(name, func(t *testing.T) {
			workloads := append(objs.of("Deployment"), objs.of("StatefulSet")...)
			if len(workloads) == 0 {
				t.Fatal("no workload")
			}
			for _, w := range workloads {
				t.Run(key(w), func(t *testing.T) { checkPods(t, w) })
			}
			for _, role := range append(objs.of("Role"), objs.of("ClusterRole")...) {
				checkRole(t, role)
			}
			for _, account := range objs.of("ServiceAccount") {
				if mount, found, _ := unstructured.NestedBool(account.Object, "automountServiceAccountToken"); mount || !found {
					t.Errorf("%s puts its token into every pod", key(account))
				}
			}
			checkSelectors(t, objs, workloads)
		})
	}
}

func checkPods(t *testing.T, workload *unstructured.Unstructured) {
	pod := podOf(t, workload)
	if mount, found, _ := unstructured.NestedBool(pod, "automountServiceAccountToken"); mount || !found {
		t.Error("the token of the service account is in every container")
	}
	for _, c := range containersOf(t, pod) {
		name := c["name"].(string)
		is := func(want any, path ...string) {
			t.Helper()
			got, found, _ := unstructured.NestedFieldNoCopy(c, append([]string{"securityContext"}, path...)...)
			if !found {
				got, _, _ = unstructured.NestedFieldNoCopy(pod, append([]string{"securityContext"}, path...)...)
			}
			if got != want {
				t.Errorf("container %s: securityContext.%s is %v, want %v", name, strings.Join(path, "."), got, want)
			}
		}
		is(true, "runAsNonRoot")
		is(true, "readOnlyRootFilesystem")
		is(false, "allowPrivilegeEscalation")
		is("RuntimeDefault", "seccompProfile", "type")
		if drop, _, _ := unstructured.NestedStringSlice(c, "securityContext", "capabilities", "drop"); !slices.Equal(drop, []string{"ALL"}) {
			t.Errorf("container %s keeps capabilities: drops %q", name, drop)
		}
		if add, found, _ := unstructured.NestedFieldNoCopy(c, "securityContext", "capabilities", "add"); found {
			t.Errorf("container %s adds capabilities %v", name, add)
		}
		image, _ := c["image"].(string)
		if _, tag, ok := strings.Cut(image[strings.LastIndex(image, "/")+1:], ":"); !ok || tag == "" || tag == "latest" {
			t.Errorf("container %s: the image %s may change under its name", name, image)
		}
		for _, path := range [][]string{{"requests", "cpu"}, {"requests", "memory"}, {"limits", "memory"}} {
			if _, found, _ := unstructured.NestedFieldNoCopy(c, append([]string{"resources"}, path...)...); !found {
				t.Errorf("container %s has no resources.%s", name, strings.Join(path, "."))
			}
		}
		checkProbes(t, name, c)
	}
	checkOrder(t, pod)
}

// checkProbes wants all three of Weir, none of what ends by itself, and of Envoy that its port is open.
func checkProbes(t *testing.T, name string, c map[string]any) {
	want := map[string][]string{
		"weir": {"startupProbe", "readinessProbe", "livenessProbe"}, "envoy": {"readinessProbe"}, "weir-envoy": {"startupProbe"},
		"bootstrap": nil, "weir-bootstrap": nil, "assistant": {"readinessProbe", "livenessProbe"},
	}
	probes, known := want[name]
	if !known {
		t.Errorf("an unexpected container %s", name)
	}
	for _, p := range []string{"startupProbe", "readinessProbe", "livenessProbe"} {
		if _, has := c[p]; has != slices.Contains(probes, p) {
			t.Errorf("container %s: has a %s: %v", name, p, has)
		}
	}
}

// checkOrder wants Weir to start before Envoy and to stop after it, and that it has the time for that.
func checkOrder(t *testing.T, pod map[string]any) {
	var names, lasting []string
	for _, c := range containersOf(t, pod) {
		names = append(names, c["name"].(string))
		if c["restartPolicy"] == "Always" {
			lasting = append(lasting, c["name"].(string))
		}
	}
	switch {
	case slices.Equal(names, []string{"bootstrap", "weir", "envoy"}): // a gateway
		if !slices.Equal(lasting, []string{"weir"}) {
			t.Errorf("sidecars %q", lasting)
		}
		hook, _, _ := unstructured.NestedStringSlice(slice(t, pod, "containers")[0], "lifecycle", "preStop", "exec", "command")
		if len(hook) != 3 || !strings.Contains(hook[2], "/run/weir/drain ") || !strings.Contains(hook[2], "/run/weir/drained") {
			t.Errorf("before Envoy ends: %q", hook)
		}
		if got := number(t, pod, "terminationGracePeriodSeconds"); got < 10+300 {
			t.Errorf("%d s are too few for the drain", got)
		}
	case slices.Equal(names, []string{"weir-bootstrap", "weir", "weir-envoy", "assistant"}): // injected
		if !slices.Equal(lasting, []string{"weir", "weir-envoy"}) {
			t.Errorf("sidecars %q", lasting)
		}
	case slices.Equal(names, []string{"weir"}): // the control plane
	default:
		t.Errorf("containers %q", names)
	}
}

func checkRole(t *testing.T, role *unstructured.Unstructured) {
	for _, rule := range slice(t, role.Object, "rules") {
		for _, part := range []string{"apiGroups", "resources", "verbs"} {
			values, _, err := unstructured.NestedStringSlice(rule, part)
			if err != nil || len(values) == 0 {
				t.Errorf("%s: a rule without %s (%v)", key(role), part, err)
			}
			for _, v := range values {
				if strings.Contains(v, "*") {
					t.Errorf("%s: %s %q", key(role), part, v)
				}
			}
		}
		if names, _, _ := unstructured.NestedStringSlice(rule, "resources"); slices.Contains(names, "secrets") {
			if only, _, _ := unstructured.NestedStringSlice(rule, "resourceNames"); len(only) == 0 || role.GetKind() == "ClusterRole" {
				t.Errorf("%s: reads every Secret", key(role))
			}
		}
	}
}

// checkSelectors wants what is selected by labels to be there.
func checkSelectors(t *testing.T, objs, workloads objects) {
	pods := make([]map[string]string, len(workloads))
	for i, w := range workloads {
		pods[i], _, _ = unstructured.NestedStringMap(w.Object, "spec", "template", "metadata", "labels")
	}
	matches := func(selector, labels map[string]string) bool {
		for k, v := range selector {
			if labels[k] != v {
				return false
			}
		}
		return len(selector) > 0
	}
	for _, s := range []struct {
		kind string
		path []string
	}{
		{"Service", []string{"spec", "selector"}},
		{"PodDisruptionBudget", []string{"spec", "selector", "matchLabels"}},
		{"NetworkPolicy", []string{"spec", "podSelector", "matchLabels"}},
	} {
		for _, o := range objs.of(s.kind) {
			selector, _, _ := unstructured.NestedStringMap(o.Object, s.path...)
			if n := count(pods, func(l map[string]string) bool { return matches(selector, l) }); n != 1 {
				t.Errorf("%s selects the pods of %d workloads, want one: %v", key(o), n, selector)
			}
		}
	}
	for i, w := range workloads {
		selector, _, _ := unstructured.NestedStringMap(w.Object, "spec", "selector", "matchLabels")
		if !matches(selector, pods[i]) {
			t.Errorf("%s does not select its own pods: %v, %v", key(w), selector, pods[i])
		}
	}
	for _, m := range objs.of("ServiceMonitor") {
		selector, _, _ := unstructured.NestedStringMap(m.Object, "spec", "selector", "matchLabels")
		if n := count(objs.of("Service"), func(s *unstructured.Unstructured) bool { return matches(selector, s.GetLabels()) }); n == 0 {
			t.Errorf("%s selects no Service", key(m))
		}
	}
	checkPorts(t, objs, workloads)
}

// checkPorts wants every port that a Service or a probe names to be a container's.
func checkPorts(t *testing.T, objs, workloads objects) {
	names := map[string]bool{}
	for _, w := range workloads {
		for _, c := range containersOf(t, podOf(t, w)) {
			ports, _, _ := unstructured.NestedSlice(c, "ports")
			for _, p := range ports {
				names[p.(map[string]any)["name"].(string)] = true
			}
		}
		for _, c := range containersOf(t, podOf(t, w)) {
			for _, probe := range []string{"startupProbe", "readinessProbe", "livenessProbe"} {
				for _, how := range []string{"httpGet", "tcpSocket"} {
					if port, _, _ := unstructured.NestedString(c, probe, how, "port"); port != "" && !names[port] {
						t.Errorf("%s: %s of %v asks the port %s, which there is not", key(w), probe, c["name"], port)
					}
				}
			}
		}
	}
	for _, s := range objs.of("Service") {
		for _, p := range slice(t, s.Object, "spec", "ports") {
			if target, _ := p["targetPort"].(string); !names[target] {
				t.Errorf("%s leads to the port %v, which no container has", key(s), p["targetPort"])
			}
		}
	}
}

func count[T any](list []T, f func(T) bool) int {
	n := 0
	for _, e := range list {
		if f(e) {
			n++
		}
	}
	return n
}
