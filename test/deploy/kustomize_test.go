package deploy

import (
	"maps"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// TestOverlays are the same objects that the chart makes of the example of the same name, but for the labels that say that it was Helm.
func TestOverlays(t *testing.T) {
	for _, name := range examples {
		t.Run(name, func(t *testing.T) {
			out := render(t, helm(example(t, name)), job{Kustomization: deployDir + "/kustomize/overlays/" + name})
			want, got := out[0].objects(t), out[1].objects(t)
			if !slices.Equal(want.keys(), got.keys()) {
				t.Fatalf("Helm makes\n%q\nand kustomize\n%q", want.keys(), got.keys())
			}
			for i := range want {
				if a, b := plain(t, want[i]), plain(t, got[i]); a != b {
					t.Errorf("%s: Helm makes\n%s\nand kustomize\n%s", key(want[i]), a, b)
				}
			}
		})
	}
}

// plain is an object without what Helm adds, as YAML.
func plain(t *testing.T, u *unstructured.Unstructured) string {
	t.Helper()
	u = u.DeepCopy()
	clean := func(in map[string]any, path ...string) {
		labels, found, _ := unstructured.NestedStringMap(in, path...)
		if !found {
			return
		}
		maps.DeleteFunc(labels, func(k, _ string) bool {
			return k == "helm.sh/chart" || k == "app.kubernetes.io/managed-by" || k == "helm.sh/resource-policy"
		})
		if len(labels) == 0 {
			unstructured.RemoveNestedField(in, path...)
			return
		}
		if err := unstructured.SetNestedStringMap(in, labels, path...); err != nil {
			t.Fatal(err)
		}
	}
	clean(u.Object, "metadata", "labels")
	clean(u.Object, "metadata", "annotations")
	clean(u.Object, "spec", "template", "metadata", "labels")
	text, err := yaml.Marshal(u.Object)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
