package deploy

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// podOf is the specification of a workload's pods.
func podOf(t *testing.T, workload *unstructured.Unstructured) map[string]any {
	t.Helper()
	pod, found, err := unstructured.NestedMap(workload.Object, "spec", "template", "spec")
	if err != nil || !found {
		t.Fatalf("%s has no pods: %v", key(workload), err)
	}
	return pod
}

// containersOf are all containers of a pod, those that come first included.
func containersOf(t *testing.T, pod map[string]any) []map[string]any {
	t.Helper()
	out := slice(t, pod, "containers")
	if _, ok := pod["initContainers"]; ok {
		out = append(slice(t, pod, "initContainers"), out...)
	}
	return out
}

// args are what a container of a workload is started with.
func args(t *testing.T, objs objects, workload, container string) []string {
	t.Helper()
	for _, c := range containersOf(t, podOf(t, objs.get(t, workload))) {
		if c["name"] == container {
			out, _, err := unstructured.NestedStringSlice(c, "args")
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
	}
	t.Fatalf("%s has no container %s", workload, container)
	return nil
}

// slice is a list of objects.
func slice(t *testing.T, in map[string]any, path ...string) []map[string]any {
	t.Helper()
	list, found, err := unstructured.NestedSlice(in, path...)
	if err != nil || !found {
		t.Fatalf("no list %s: %v", strings.Join(path, "."), err)
	}
	out := make([]map[string]any, len(list))
	for i, e := range list {
		out[i] = e.(map[string]any)
	}
	return out
}

func number(t *testing.T, in map[string]any, path ...string) int64 {
	t.Helper()
	n, found, err := unstructured.NestedInt64(in, path...)
	if err != nil || !found {
		t.Fatalf("no number %s: %v", strings.Join(path, "."), err)
	}
	return n
}

// resources are those of all rules of a role.
func resources(t *testing.T, role *unstructured.Unstructured) []string {
	t.Helper()
	var out []string
	for _, rule := range slice(t, role.Object, "rules") {
		names, _, err := unstructured.NestedStringSlice(rule, "resources")
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, names...)
	}
	return out
}
