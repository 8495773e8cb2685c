package deploy

import (
	"context"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/weir-dev/weir/test/kubetest"
)

// TestAccess asks the API server what Weir's service accounts may do under the rules of the examples.
func TestAccess(t *testing.T) {
	type ask struct {
		verb, group, resource, namespace, name string
		allowed                                bool
	}
	everywhere := []ask{
		{"list", "weir.dev", "routes", "team-a", "", true},
		{"watch", "weir.dev", "llmgateways", "weir-system", "", true},
		{"patch", "weir.dev", "routes/status", "team-a", "r", true},
		{"update", "weir.dev", "routes/status", "team-a", "r", false},
		{"patch", "weir.dev", "routes", "team-a", "r", false},
		{"create", "weir.dev", "backends", "team-a", "", false},
		{"delete", "weir.dev", "apikeys", "team-a", "k", false},
		{"create", "", "events", "team-a", "", true},
		{"list", "discovery.k8s.io", "endpointslices", "team-a", "", true},
		{"list", "", "pods", "team-a", "", true},
		{"create", "", "pods", "team-a", "", false},
		{"get", "", "pods/log", "team-a", "p", false},
		{"create", "", "pods/exec", "team-a", "p", false},
		{"get", "", "secrets", "weir-system", "openai-key", true},
		{"watch", "", "secrets", "weir-system", "openai-key", true},
		{"update", "", "secrets", "weir-system", "openai-key", false},
		{"get", "", "secrets", "weir-system", "other", false},
		{"list", "", "secrets", "weir-system", "", false},
		{"list", "", "secrets", "kube-system", "", false},
		{"get", "", "configmaps", "weir-system", "c", false},
		{"create", "coordination.k8s.io", "leases", "weir-system", "", true},
		{"create", "coordination.k8s.io", "leases", "kube-system", "", false},
		{"update", "", "namespaces", "", "team-a", false},
		{"create", "", "serviceaccounts/token", "weir-system", "weir", false},
		{"escalate", "rbac.authorization.k8s.io", "clusterroles", "", "", false},
	}
	for _, c := range []struct {
		example, account string
		asks             []ask
	}{
		{"sidecar", "weir", append([]ask{
			{"list", "weir.dev", "routes", "", "", true}, // of all namespaces
			{"get", "", "secrets", "team-a", "anthropic-key", false},
			{"list", "", "namespaces", "", "", false},
		}, everywhere...)},
		{"fleet", "weir-control", append([]ask{
			{"list", "weir.dev", "routes", "", "", true},
			{"list", "", "namespaces", "", "", true}, // by their labels gateways may select whose Routes they take
		}, everywhere...)},
		{"fleet", "weir", []ask{
			{"list", "weir.dev", "routes", "weir-system", "", false},
			{"get", "", "secrets", "weir-system", "openai-key", false},
			{"create", "coordination.k8s.io", "leases", "weir-system", "", false},
		}},
		{"production", "weir", append([]ask{
			{"list", "weir.dev", "routes", "", "", false},
			{"list", "weir.dev", "routes", "team-b", "", false},
			{"list", "", "namespaces", "", "team-a", false},
			{"get", "", "secrets", "team-a", "anthropic-key", true},
			{"get", "", "secrets", "team-a", "openai-key", false},
		}, everywhere...)},
	} {
		t.Run(c.example+" "+c.account, func(t *testing.T) {
			cluster := kubetest.Shared(t)
			ctx := bounded(t)
			install(t, ctx, cluster, c.example)
			as := impersonate(cluster, c.account)
			clients, err := kubernetes.NewForConfig(as)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range c.asks {
				resource, sub := a.resource, ""
				for i := range resource {
					if resource[i] == '/' {
						resource, sub = resource[:i], resource[i+1:]
						break
					}
				}
				review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
					ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: a.verb, Group: a.group, Resource: resource, Subresource: sub, Namespace: a.namespace, Name: a.name},
				}}
				got, err := clients.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if got.Status.Allowed != a.allowed {
					t.Errorf("%s %s/%s %q in %q: allowed %v, want %v (%s)", a.verb, a.group, a.resource, a.name, a.namespace, got.Status.Allowed, a.allowed, got.Status.Reason)
				}
			}
		})
	}
}

// TestSecretByName reads a Secret in the way that Weir does: by a list and a watch that name it, which the rule with its name lets pass.
func TestSecretByName(t *testing.T) {
	cluster := kubetest.Shared(t)
	ctx := bounded(t)
	install(t, ctx, cluster, "sidecar")
	for _, name := range []string{"openai-key", "other"} {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, StringData: map[string]string{"value": "v"}}
		if err := cluster.Client.Create(ctx, secret); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cluster.Client.Delete(context.Background(), secret) })
	}
	clients, err := kubernetes.NewForConfig(impersonate(cluster, "weir"))
	if err != nil {
		t.Fatal(err)
	}
	secrets := clients.CoreV1().Secrets(namespace)
	named := func(name string) metav1.ListOptions {
		return metav1.ListOptions{FieldSelector: "metadata.name=" + name}
	}
	list, err := secrets.List(ctx, named("openai-key"))
	if err != nil || len(list.Items) != 1 {
		t.Errorf("the list has %d (%v)", len(list.Items), err)
	}
	w, err := secrets.Watch(ctx, named("openai-key"))
	if err != nil {
		t.Fatal(err)
	}
	w.Stop()
	for _, opts := range []metav1.ListOptions{named("other"), {}} {
		if _, err := secrets.List(ctx, opts); !apierrors.IsForbidden(err) {
			t.Errorf("%+v: %v", opts, err)
		}
	}
}

// install applies the access rules and accounts of an example until the test ends.
func install(t *testing.T, ctx context.Context, c *kubetest.Cluster, name string) {
	t.Helper()
	for _, ns := range []string{namespace, "team-a"} {
		makeNamespace(t, ctx, c, ns, nil, nil)
	}
	all := render(t, helm(example(t, name)))[0].objects(t)
	var objs objects
	for _, kind := range []string{"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"} {
		objs = append(objs, all.of(kind)...)
	}
	if _, err := c.Apply(ctx, documents(t, objs), kubetest.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, o := range objs {
			if err := c.Client.Delete(context.Background(), o); err != nil {
				t.Errorf("%s: %v", key(o), err)
			}
		}
	})
}

func impersonate(c *kubetest.Cluster, account string) *rest.Config {
	config := rest.CopyConfig(c.Config)
	config.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:" + namespace + ":" + account,
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"},
	}
	return config
}
