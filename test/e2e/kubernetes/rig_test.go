package kubernetes

import (
	"fmt"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/kubetest"
	"github.com/weir-dev/weir/test/sim"
)

// patience is how long something may take on a slow machine before a test fails. Leases that must expire are part of it.
const patience = 90 * time.Second

// pollInterval is the time between two looks at a condition.
const pollInterval = 20 * time.Millisecond

// eventually waits until is says true. What it says beside that is shown when it does not, and what this returns is how long it took.
func eventually(t testing.TB, what string, is func() (bool, string)) time.Duration {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		ok, got := is()
		took := time.Since(began)
		if ok {
			return took
		}
		if took > patience {
			t.Fatalf("waited %s in vain: %s; there is:\n%s", patience, what, got)
		}
		<-tick.C
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// object is one of Weir's.
type object = unstructured.Unstructured

// rig is a namespace of the API server.
type rig struct {
	t          *testing.T
	cluster    *kubetest.Cluster
	ns         string
	kubeconfig string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return newRigOn(t, kubetest.Shared(t))
}

func newRigOn(t *testing.T, c *kubetest.Cluster) *rig {
	t.Helper()
	return &rig{t: t, cluster: c, ns: c.Namespace(t), kubeconfig: c.Kubeconfig(t)}
}

// apply applies documents as a user does.
func (r *rig) apply(documents ...string) []*object {
	r.t.Helper()
	objects, err := r.cluster.Apply(r.t.Context(), []byte(harness.Join(documents...)), kubetest.ApplyOptions{Namespace: r.ns})
	must(r.t, err)
	return objects
}

func (r *rig) delete(kind, name string) {
	r.t.Helper()
	must(r.t, r.cluster.Client.Delete(r.t.Context(), r.object(kind, name)))
}

// object is an empty one of Weir's kinds.
func (r *rig) object(kind, name string) *object {
	o := &object{}
	o.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind))
	o.SetNamespace(r.ns)
	o.SetName(name)
	return o
}

// patch merges JSON into an object.
func (r *rig) patch(o client.Object, merge string) {
	r.t.Helper()
	must(r.t, r.cluster.Client.Patch(r.t.Context(), o, client.RawPatch(types.MergePatchType, []byte(merge))))
}

// secret creates or replaces a Secret.
func (r *rig) secret(name string, data map[string]string) {
	r.t.Helper()
	var values strings.Builder
	for key, value := range data {
		fmt.Fprintf(&values, "  %s: %q\n", key, value)
	}
	r.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: " + name + "}\nstringData:\n" + values.String())
}

// basics are what every gateway needs: a listener, and the consumer "app" with the harness's key.
func basics() string {
	return harness.Join(harness.Listener(""), harness.Consumer("app", harness.DefaultKey, ""))
}

// backend renders a Backend whose server is a simulator, with a key in the Secret "key-NAME". Without models it serves any.
func backend(name string, s *harness.Sim, models ...string) string {
	spec := fmt.Sprintf("dialect: openai\nurl: %s\ncredential: {secretRef: {name: key-%s}}\n", s.BaseURL(), name)
	if len(models) > 0 {
		spec += "models: [{name: " + strings.Join(models, "}, {name: ") + "}]\n"
	}
	return harness.Document("Backend", name, spec)
}

// route renders a Route for a model.
func route(name, model, backends string) string {
	return harness.Route(name, "rules: [{matches: [{models: ["+model+"]}], backends: ["+backends+"]}]")
}

// replica names a process of Weir to others.
func (r *rig) replica(name string) []string {
	return []string{"POD_NAME=" + name, "POD_NAMESPACE=" + r.ns}
}

// serve runs `weir serve --kubernetes` for the rig's namespace.
func (r *rig) serve(name string, o harness.Options) *harness.Gateway {
	r.t.Helper()
	o.Bare, o.Beside = true, true
	o.Args = append([]string{"--kubernetes", "--kubeconfig", r.kubeconfig, "--namespace", r.ns, "--access-log", "off"}, o.Args...)
	o.Env = append(r.replica(name), o.Env...)
	return harness.Start(r.t, o)
}

// statusOf is the status of an object, of any of Weir's kinds.
type statusOf struct {
	generation int64
	uid        types.UID
	v1alpha1.Status
}

func (s *statusOf) condition(typ string) metav1.Condition {
	for _, c := range s.Conditions {
		if c.Type == typ {
			return c
		}
	}
	return metav1.Condition{}
}

// String shows the conditions.
func (s *statusOf) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "generation %d, observed %d", s.generation, s.ObservedGeneration)
	for _, c := range s.Conditions {
		fmt.Fprintf(&b, "; %s %s %s (generation %d): %s", c.Type, c.Status, c.Reason, c.ObservedGeneration, c.Message)
	}
	return b.String()
}

// status reads the status of an object.
func (r *rig) status(o *object) statusOf {
	r.t.Helper()
	now := o.DeepCopy()
	err := r.cluster.Client.Get(r.t.Context(), client.ObjectKeyFromObject(o), now)
	if apierrors.IsNotFound(err) {
		return statusOf{}
	}
	must(r.t, err)
	s := statusOf{generation: now.GetGeneration(), uid: now.GetUID()}
	if raw, ok := now.Object["status"].(map[string]any); ok {
		must(r.t, runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &s.Status))
	}
	return s
}

// programmed says whether the newest generation of an object is served by all replicas.
func (r *rig) programmed(o *object) (bool, string) {
	s := r.status(o)
	want := []string{v1alpha1.ConditionAccepted, v1alpha1.ConditionResolvedRefs, v1alpha1.ConditionProgrammed}
	if o.GetKind() == "ReferenceGrant" {
		want = want[:1] // it refers to nothing, and Envoy knows nothing of it
	}
	ok := s.generation > 0 && s.ObservedGeneration == s.generation
	for _, typ := range want {
		c := s.condition(typ)
		ok = ok && c.Status == metav1.ConditionTrue && c.ObservedGeneration == s.generation
	}
	return ok, o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName() + ": " + s.String()
}

// awaitProgrammed waits until all objects are programmed as they are now; those of other kinds than Weir's are left out.
func (r *rig) awaitProgrammed(objects []*object) time.Duration {
	r.t.Helper()
	began := time.Now()
	for _, o := range objects {
		if o.GroupVersionKind().Group != v1alpha1.GroupVersion.Group {
			continue
		}
		eventually(r.t, "the object is programmed", func() (bool, string) { return r.programmed(o) })
	}
	return time.Since(began)
}

// awaitCondition waits until a condition is false for a reason and its message names a field.
func (r *rig) awaitCondition(o *object, typ, reason, field string) {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("%s %s has %s False, %s, %s", o.GetKind(), o.GetName(), typ, reason, field), func() (bool, string) {
		s := r.status(o)
		c := s.condition(typ)
		return s.ObservedGeneration == s.generation && c.Status == metav1.ConditionFalse && c.Reason == reason && strings.Contains(c.Message, field), s.String()
	})
}

// leader is the process that writes statuses, of the installation "weir".
func (r *rig) leader() string {
	r.t.Helper()
	lease := &coordinationv1.Lease{}
	err := r.cluster.Client.Get(r.t.Context(), types.NamespacedName{Namespace: r.ns, Name: "weir-status"}, lease)
	if apierrors.IsNotFound(err) || err == nil && lease.Spec.HolderIdentity == nil {
		return ""
	}
	must(r.t, err)
	return *lease.Spec.HolderIdentity
}

// newSim starts a provider that answers at once.
func newSim(t testing.TB, models ...string) *harness.Sim {
	return harness.NewSim(t, sim.Options{Dialect: sim.OpenAI, Models: models})
}
