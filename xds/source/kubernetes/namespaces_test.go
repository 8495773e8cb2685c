package kubernetes

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/test/kubetest"
)

// selecting is an LLMGateway that takes Routes of namespaces with a label.
func selecting(label, value string) string {
	return fmt.Sprintf("---\napiVersion: weir.dev/v1alpha1\nkind: LLMGateway\nmetadata: {name: g}\n"+
		"spec: {listeners: [{name: http, port: 8080}], allowedRoutes: [{namespaces: {from: Selector, selector: {matchLabels: {%s: %q}}}}]}\n", label, value)
}

// labelled shows those that were read of namespaces, which are called by their place in names.
func labelled(names ...string) func(snapshot) string {
	return func(r snapshot) string {
		if r.objects.Namespaces == nil {
			return "nobody asks"
		}
		var out []string
		for _, name := range slices.Sorted(maps.Keys(r.objects.Namespaces)) {
			if i := slices.Index(names, name); i >= 0 { // others are another test's
				out = append(out, fmt.Sprintf("%d:%v", i, r.objects.Namespaces[name]))
			}
		}
		slices.Sort(out)
		return strings.Join(out, " ")
	}
}

func label(t *testing.T, c *kubetest.Cluster, namespace, key, value string) {
	t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%q}}}`, key, value)
	if err := c.Client.Patch(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, client.RawPatch("application/merge-patch+json", []byte(patch))); err != nil {
		t.Fatal(err)
	}
}

// may lets the ServiceAccount weir of a namespace do something in another namespace, or, without one, in the cluster.
func may(t *testing.T, c *kubetest.Cluster, of, namespace string, rule rbacv1.PolicyRule) {
	t.Helper()
	meta := metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%s-may-%s", of, rule.Resources[0])}
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name}
	subjects := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: of, Name: "weir"}}
	objects := []client.Object{&rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{rule}}, &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}}
	if namespace == "" {
		ref.Kind = "ClusterRole"
		objects = []client.Object{&rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{rule}}, &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}}
	}
	for _, o := range objects {
		if err := c.Client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := client.IgnoreNotFound(c.Client.Delete(context.Background(), o)); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestNamespaceLabels: of Namespaces is read what gateways select by, and of those alone that have Routes.
func TestNamespaceLabels(t *testing.T) {
	c := kubetest.Shared(t)
	infra, a, b := c.Namespace(t), c.Namespace(t), c.Namespace(t)
	show := labelled(infra, a, b)
	for _, mode := range []string{"all", "some"} {
		t.Run(mode, func(t *testing.T) {
			apply(t, c, infra, selecting("kubernetes.io/metadata.name", a))
			apply(t, c, a, backend("b", "url: 'https://api.example.com/v1'")+routeTo("r", "b"))
			label(t, c, a, "tier", "gold")
			label(t, c, a, "other", mode)
			opts := quick(c.Config, infra, a, b)
			if mode == "all" {
				opts = quick(c.Config)
			}
			w := follow(t, opts)
			w.await("nobody asks", show)
			apply(t, c, infra, selecting("tier", "gold"))
			w.await("1:map[tier:gold]", show)
			label(t, c, a, "tier", "iron")
			w.await("1:map[tier:iron]", show)
			apply(t, c, b, backend("b", "url: 'https://api.example.com/v1'")+routeTo("r", "b"))
			r := w.await("1:map[tier:iron] 2:map[]", show)
			if said := r.said(); strings.Contains(said, "labels of Namespaces") {
				t.Errorf("said: %s", said)
			}
			w.stop()
			for _, ns := range []string{a, b} {
				if err := c.Client.DeleteAllOf(t.Context(), &v1alpha1.Route{}, client.InNamespace(ns)); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestNamespaceLabelsForbidden: where Namespaces may not be read, everything else is, and the gateway is told which right is missing.
func TestNamespaceLabelsForbidden(t *testing.T) {
	c := kubetest.Shared(t)
	infra, a := c.Namespace(t), c.Namespace(t)
	apply(t, c, infra, selecting("tier", "gold"))
	apply(t, c, a, backend("b", "url: 'https://api.example.com/v1'")+routeTo("r", "b"))
	config := c.ServiceAccount(t, infra, "weir", viewer)
	may(t, c, infra, a, viewer)
	w := follow(t, quick(config, infra, a))
	r := w.awaitSaid("LLMGateway "+infra+"/g", "spec.allowedRoutes[0].namespaces.selector", "warning", "list and watch on namespaces with resourceNames ["+a+"], by a ClusterRole", "[RefNotFound]")
	if got := labelled(infra, a)(r); got != "nobody asks" {
		t.Errorf("labels are %s", got)
	}
	may(t, c, infra, "", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"namespaces"}, ResourceNames: []string{infra, a}, Verbs: []string{"list", "watch"}})
	w.await("1:map[]", labelled(infra, a))
}

// TestShutNamespace: a namespace that may not be read, or not all of it, does not stop the others, and nothing of it is served.
func TestShutNamespace(t *testing.T) {
	c := kubetest.Shared(t)
	open, shut := c.Namespace(t), c.Namespace(t)
	apply(t, c, open, consumer("mine", "t"))
	apply(t, c, shut, consumer("theirs", "t"))
	config := c.ServiceAccount(t, open, "weir", viewer)
	// All but the limits of the other one may be read.
	var but []string
	for _, k := range kinds {
		if k.kind != "LimitPolicy" {
			but = append(but, k.resource)
		}
	}
	some := viewer
	some.Resources = but
	may(t, c, open, shut, some)
	w := follow(t, quick(config, open, shut))
	r := w.awaitSaid("Namespace "+shut, "none of its objects is served", "list and watch on limitpolicies of weir.dev there")
	if got := r.names(); got != "Consumer/mine" {
		t.Errorf("read: %s", got)
	}
	if health := w.source.Health(); health.Connected || !strings.Contains(health.Reason, "limitpolicies of namespace "+shut) {
		t.Errorf("health: %+v", health)
	}
	apply(t, c, open, consumer("more", "t"))
	w.await("Consumer/mine Consumer/more", snapshot.names)
	some.Resources = []string{"limitpolicies"}
	may(t, c, open, shut, some)
	r = w.await("Consumer/mine Consumer/more Consumer/theirs", func(r snapshot) string {
		names := strings.Fields(r.names()) // by their namespaces
		slices.Sort(names)
		return strings.Join(names, " ")
	})
	if strings.Contains(r.said(), "none of its objects") {
		t.Errorf("said: %s", r.said())
	}
}
