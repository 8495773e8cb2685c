package deploy

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/test/kubetest"
)

// patience bounds every wait for the API server.
const patience = 3 * time.Minute

// bounded is a context that ends with the test, and after patience.
func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// warnings are what the API server says beside its answers.
type warnings struct {
	mu   sync.Mutex
	said []string
}

// HandleWarningHeader takes one.
func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, text)
}

// makeNamespace makes one that refuses and warns of pods that are not restricted, with labels and annotations besides.
func makeNamespace(t *testing.T, ctx context.Context, c *kubetest.Cluster, name string, labels, annotations map[string]string) {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations, Labels: map[string]string{
		"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted",
	}}}
	for k, v := range labels {
		ns.Labels[k] = v
	}
	if err := c.Client.Create(ctx, ns); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

// TestApplied applies everything that this project shows, as a trial and then for real, to a real API server.
func TestApplied(t *testing.T) {
	sets := everything(t)
	more := map[string]job{
		"admission": {Kustomization: deployDir + "/admission"}, "kyverno": {Kustomization: deployDir + "/kyverno"},
	}
	for name, j := range more {
		sets[name] = render(t, j)[0].objects(t)
	}
	sets["argocd"] = nil
	for _, file := range []string{"application.yaml", "objects.yaml", "argocd-cm.yaml"} {
		text, err := os.ReadFile(deployDir + "/argocd/" + file)
		if err != nil {
			t.Fatal(err)
		}
		sets["argocd"] = append(sets["argocd"], outcome{Manifests: map[string]string{file: string(text)}}.objects(t)...)
	}

	c := kubetest.Shared(t)
	ctx := bounded(t)
	installOthers(t, ctx, c)
	for _, ns := range []string{namespace, "team-a", "argocd", "assistant"} {
		makeNamespace(t, ctx, c, ns, nil, nil)
	}
	for _, name := range sorted(sets) {
		t.Run(name, func(t *testing.T) { applied(t, c, sets[name]) })
	}
}

// applied tries objects, applies them, reads them back, makes a Pod of each workload, and removes all but definitions.
func applied(t *testing.T, c *kubetest.Cluster, objs objects) {
	ctx := bounded(t)
	said := &warnings{}
	config := rest.CopyConfig(c.Config)
	config.WarningHandler = said
	text := documents(t, objs)
	for _, dryRun := range []bool{true, false} {
		if _, err := c.Apply(ctx, text, kubetest.ApplyOptions{DryRun: dryRun, Config: config, Manager: "deploy-test"}); err != nil {
			t.Fatalf("trial %v: %v", dryRun, err)
		}
	}
	if len(said.said) > 0 {
		t.Errorf("the API server warns: %q", said.said)
	}
	for _, o := range objs {
		got := &unstructured.Unstructured{}
		got.SetGroupVersionKind(o.GroupVersionKind())
		if err := c.Client.Get(ctx, client.ObjectKeyFromObject(o), got); err != nil {
			t.Errorf("%s: %v", key(o), err)
		}
	}
	for _, kind := range []string{"Deployment", "StatefulSet"} {
		for _, w := range objs.of(kind) {
			makePod(t, ctx, c, w)
		}
	}
	for _, o := range objs {
		if o.GetKind() == "CustomResourceDefinition" {
			continue
		}
		o = o.DeepCopy()
		o.SetFinalizers(nil)
		if err := c.Client.Patch(ctx, o, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))); err != nil {
			t.Errorf("%s: %v", key(o), err)
		}
		if err := c.Client.Delete(ctx, o, client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
			t.Errorf("%s: %v", key(o), err)
		}
	}
}

// makePod asks for a Pod as the workload's controller would. The namespace refuses what is not restricted.
func makePod(t *testing.T, ctx context.Context, c *kubetest.Cluster, workload *unstructured.Unstructured) {
	t.Helper()
	pod := &corev1.Pod{}
	template, _, err := unstructured.NestedMap(workload.Object, "spec", "template")
	if err != nil {
		t.Fatal(err)
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(template, pod); err != nil {
		t.Fatalf("%s: %v", key(workload), err)
	}
	pod.Name, pod.Namespace = "trial", workload.GetNamespace()
	claims, _, _ := unstructured.NestedSlice(workload.Object, "spec", "volumeClaimTemplates")
	for _, claim := range claims {
		name, _, _ := unstructured.NestedString(claim.(map[string]any), "metadata", "name")
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name + "-trial"},
		}})
	}
	if err := c.Client.Create(ctx, pod, client.DryRunAll); err != nil {
		t.Errorf("a Pod of %s: %v", key(workload), err)
	}
}

// documents are objects as YAML.
func documents(t *testing.T, objs objects) []byte {
	t.Helper()
	var b strings.Builder
	// Definitions and namespaces first, as every tool does.
	order := slices.Clone(objs)
	slices.SortStableFunc(order, func(a, b *unstructured.Unstructured) int { return rank(a) - rank(b) })
	for _, o := range order {
		text, err := o.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "---\n%s\n", text)
	}
	return []byte(b.String())
}

// rank is when an object comes among others.
func rank(u *unstructured.Unstructured) int {
	return slices.Index([]string{"Namespace", "CustomResourceDefinition"}, u.GetKind()) & 3 // what is neither comes last
}

func sorted(m map[string]objects) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
