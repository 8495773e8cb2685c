package kubernetes

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/test/kubetest"
	"github.com/weir-dev/weir/xds/source"
)

func tenants(r snapshot) string {
	var out []string
	for _, c := range r.objects.Consumers {
		out = append(out, c.Name+"="+c.Spec.Tenant)
	}
	return strings.Join(out, " ")
}

func TestFollow(t *testing.T) {
	c := kubetest.Shared(t)
	ns := c.Namespace(t)
	apply(t, c, ns, consumer("a", "one")+consumer("b", "two")+consumer("z", "last"))
	opts := quick(c.Config, ns)
	registry := prometheus.NewRegistry()
	opts.Registry = registry
	w := follow(t, opts)

	var _ source.Source = w.source
	first := w.await("a=one b=two z=last", tenants)
	if got := w.source.Health(); !got.Connected || got.Reason != "" || got.Since.IsZero() {
		t.Errorf("health is %+v", got)
	}
	if got := w.source.String(); got != "Kubernetes, namespace "+ns {
		t.Errorf("the source is called %s", got)
	}
	if first.said() != "" || first.objects.Consumers[0].UID == "" || first.objects.Consumers[0].Generation != 1 {
		t.Errorf("first: %s%+v", first.said(), first.objects.Consumers[0].ObjectMeta)
	}
	if got := first.objects.Consumers[0].ObjectMeta; got.ManagedFields != nil || got.ResourceVersion != "" {
		t.Errorf("kept what nobody reads: %+v", got)
	}

	// What is written to status is Weir's own: it changes nothing.
	b := &v1alpha1.Consumer{}
	get := func() {
		t.Helper()
		if err := c.Client.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "b"}, b); err != nil {
			t.Fatal(err)
		}
	}
	get()
	b.Status.Conditions = []metav1.Condition{{Type: "Accepted", Status: "True", Reason: "Valid", LastTransitionTime: metav1.Now()}}
	if err := c.Client.Status().Update(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	b.Spec.Tenant = "three"
	if err := c.Client.Update(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	second := w.await("a=one b=three z=last", tenants)
	if _, n, _ := w.last(); n != 2 {
		t.Errorf("%d readings, want the first and that of the change", n)
	}
	if first.objects.Consumers[0] != second.objects.Consumers[0] || first.objects.Consumers[2] != second.objects.Consumers[2] {
		t.Error("an object that did not change has another pointer")
	}
	if first.objects.Consumers[1].Spec.Tenant != "two" {
		t.Error("what was handed on has changed")
	}

	apply(t, c, ns, consumer("m", "new"))
	w.await("a=one b=three m=new z=last", tenants)
	get()
	old := b.UID
	for _, step := range []func() error{
		func() error { return c.Client.Delete(t.Context(), b) },
		func() error {
			return c.Client.Create(t.Context(), &v1alpha1.Consumer{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "b"}, Spec: v1alpha1.ConsumerSpec{Tenant: "three"}})
		},
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	w.await("another UID", func(r snapshot) string {
		if i := slices.IndexFunc(r.objects.Consumers, func(x *v1alpha1.Consumer) bool { return x.Name == "b" && x.UID != old }); i >= 0 {
			return "another UID"
		}
		return "the old one"
	})

	// Labels are content too: they choose Consumers for rules.
	get()
	b.Labels = map[string]string{"tier": "gold"}
	if err := c.Client.Update(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	w.await("gold", func(r snapshot) string { return r.objects.Consumers[1].Labels["tier"] })

	if err := c.Client.DeleteAllOf(t.Context(), &v1alpha1.Consumer{}, client.InNamespace(ns)); err != nil {
		t.Fatal(err)
	}
	w.await("", tenants)
	if n := testutil.CollectAndCount(registry, "weir_source_connected", "weir_source_last_change_timestamp_seconds"); n != 2 {
		t.Errorf("%d metrics", n)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if v := f.GetMetric()[0].GetGauge().GetValue(); f.GetName() == "weir_source_connected" && v != 1 || v < 1 {
			t.Errorf("%s is %v", f.GetName(), v)
		}
	}

	w.stop()
	if got := w.source.Health(); got.Connected || got.Reason == "" {
		t.Errorf("health after the end is %+v", got)
	}
}

// Namespaces and gateways of others are not read.
func TestScope(t *testing.T) {
	c := kubetest.Shared(t)
	mine, also, others := c.Namespace(t), c.Namespace(t), c.Namespace(t)
	gateway := func(name string) string {
		return fmt.Sprintf("---\napiVersion: weir.dev/v1alpha1\nkind: LLMGateway\nmetadata: {name: %s}\nspec: {listeners: [{name: http, port: 8800}]}\n", name)
	}
	for _, ns := range []string{mine, also, others} {
		apply(t, c, ns, gateway("edge")+gateway("inner")+consumer("c", ns))
	}
	opts := quick(c.Config, also, mine, mine)
	opts.Gateways = []types.NamespacedName{{Namespace: mine, Name: "edge"}}
	w := follow(t, opts)
	r := w.await("Consumer/c Consumer/c LLMGateway/edge", snapshot.names)
	if r.objects.Gateways[0].Namespace != mine {
		t.Errorf("the gateway is of namespace %s", r.objects.Gateways[0].Namespace)
	}
	if !slices.IsSortedFunc(r.objects.Consumers, func(a, b *v1alpha1.Consumer) int { return strings.Compare(a.Namespace, b.Namespace) }) {
		t.Error("not sorted by namespace")
	}
}

// One apply of many objects becomes few readings, and a change of one leaves the others as they are.
func TestManyObjects(t *testing.T) {
	c := kubetest.Shared(t)
	ns := c.Namespace(t)
	w := follow(t, quick(c.Config, ns))
	w.await("", tenants)
	const many = 1000
	errs := make(chan error)
	for part := range 10 {
		go func() {
			for i := part; i < many; i += 10 {
				err := c.Client.Create(t.Context(), &v1alpha1.Consumer{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprintf("c%04d", i)}, Spec: v1alpha1.ConsumerSpec{Tenant: "t"}})
				if err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range 10 {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	all := w.await(fmt.Sprint(many), func(r snapshot) string { return fmt.Sprint(len(r.objects.Consumers)) })
	if _, n, _ := w.last(); n > many/5 {
		t.Errorf("%d objects became %d readings", many, n)
	} else {
		t.Logf("%d objects became %d readings", many, n)
	}
	apply(t, c, ns, consumer("c0500", "other"))
	next := w.await("other", func(r snapshot) string { return r.objects.Consumers[500].Spec.Tenant })
	for i := range all.objects.Consumers {
		if same := all.objects.Consumers[i] == next.objects.Consumers[i]; same != (i != 500) {
			t.Fatalf("object %d: same pointer is %v", i, same)
		}
	}
}
