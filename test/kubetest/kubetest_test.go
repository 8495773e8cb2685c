package kubetest_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/test/kubetest"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

func configMap(namespace, name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
}

func clientOf(t *testing.T, c *kubetest.Cluster, config *rest.Config) client.Client {
	t.Helper()
	cl, err := client.New(config, client.Options{Scheme: c.Client.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	return cl
}

// The API server serves Weir's kinds, and its schema refuses what is wrong.
func TestServesWeirsKinds(t *testing.T) {
	c := kubetest.Shared(t)
	ns := c.Namespace(t)
	consumer := &v1alpha1.Consumer{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "alice"}}
	if err := c.Client.Create(t.Context(), consumer); err != nil {
		t.Fatal(err)
	}
	if consumer.UID == "" || consumer.Generation != 1 {
		t.Errorf("the server gave it UID %q and generation %d", consumer.UID, consumer.Generation)
	}
	var found v1alpha1.ConsumerList
	if err := c.Client.List(t.Context(), &found, client.InNamespace(ns)); err != nil {
		t.Fatal(err)
	}
	if len(found.Items) != 1 || found.Items[0].Name != "alice" {
		t.Errorf("the namespace has %v", found.Items)
	}
	wrong := &v1alpha1.Backend{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "none"}}
	if err := c.Client.Create(t.Context(), wrong); !apierrors.IsInvalid(err) {
		t.Errorf("a Backend without a server is answered with %v, and should be invalid", err)
	}
}

// A namespace goes with its test, with all that is in it.
func TestNamespaceGoes(t *testing.T) {
	c := kubetest.Shared(t)
	var first string
	t.Run("test", func(t *testing.T) {
		c := kubetest.Shared(t)
		first = c.Namespace(t)
		if second := c.Namespace(t); second == first {
			t.Fatalf("two namespaces have the name %s", first)
		}
		held := configMap(first, "held")
		held.Finalizers = []string{"weir.dev/nobody"}
		for _, o := range []client.Object{
			held, &v1alpha1.Consumer{ObjectMeta: metav1.ObjectMeta{Namespace: first, Name: "alice"}},
			&corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: first, Name: "pod"},
				Spec:       corev1.PodSpec{NodeName: "node", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
			},
		} {
			if err := c.Client.Create(t.Context(), o); err != nil {
				t.Fatal(err)
			}
		}
	})
	if err := c.Client.Get(t.Context(), client.ObjectKey{Name: first}, &corev1.Namespace{}); !apierrors.IsNotFound(err) {
		t.Errorf("the namespace of a test that has ended: %v", err)
	}
	for _, list := range []client.ObjectList{&corev1.ConfigMapList{}, &v1alpha1.ConsumerList{}, &corev1.PodList{}} {
		if err := c.Client.List(t.Context(), list, client.InNamespace(first)); err != nil {
			t.Fatal(err)
		}
		if n := list.GetResourceVersion(); n == "" {
			t.Error("the server has not answered")
		}
	}
	var pods corev1.PodList
	if err := c.Client.List(t.Context(), &pods, client.InNamespace(first)); err != nil || len(pods.Items) > 0 {
		t.Errorf("left in it: %v %v", pods.Items, err)
	}
}

// While the API server is stopped, connections are refused; it comes back with what it had, at the same address.
func TestStopAPIServer(t *testing.T) {
	c := kubetest.Shared(t)
	ns := c.Namespace(t)
	if err := c.Client.Create(t.Context(), configMap(ns, "kept")); err != nil {
		t.Fatal(err)
	}
	w, err := c.Client.Watch(t.Context(), &corev1.ConfigMapList{}, client.InNamespace(ns))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		if e.Type == watch.Added && e.Object.(*corev1.ConfigMap).Name == "kept" {
			break
		}
	}
	c.StopAPIServer()
	for range w.ResultChan() { // it breaks
	}
	if err := c.Client.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "kept"}, &corev1.ConfigMap{}); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the stopped API server answers with %v", err)
	}
	c.StartAPIServer()
	if err := c.Client.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "kept"}, &corev1.ConfigMap{}); err != nil {
		t.Error(err)
	}
}

// A test that leaves the API server stopped, or etcd empty, does no harm to the next.
func TestRepairs(t *testing.T) {
	for name, harm := range map[string]func(*kubetest.Cluster){
		"stopped": (*kubetest.Cluster).StopAPIServer, "empty": (*kubetest.Cluster).WipeEtcd,
	} {
		t.Run(name, func(t *testing.T) {
			c := kubetest.Shared(t)
			c.Namespace(t)
			harm(c)
		})
		t.Run("after "+name, func(t *testing.T) {
			c := kubetest.Shared(t)
			if err := c.Client.Create(t.Context(), &v1alpha1.Consumer{ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace(t), Name: "alice"}}); err != nil {
				t.Error(err)
			}
		})
	}
}

// Etcd's data are emptied, and come back from a snapshot; a snapshot disturbs nobody.
func TestWipeAndRestore(t *testing.T) {
	c := kubetest.Start(t)
	ns := c.Namespace(t)
	key := func(name string) client.ObjectKey { return client.ObjectKey{Namespace: ns, Name: name} }
	if err := c.Client.Create(t.Context(), configMap(ns, "before")); err != nil {
		t.Fatal(err)
	}
	w, err := c.Client.Watch(t.Context(), &corev1.ConfigMapList{}, client.InNamespace(ns))
	if err != nil {
		t.Fatal(err)
	}
	snapshot := c.Snapshot()
	if err := c.Client.Create(t.Context(), configMap(ns, "after")); err != nil {
		t.Fatal(err)
	}
	for e := range w.ResultChan() {
		if o, ok := e.Object.(*corev1.ConfigMap); ok && o.Name == "after" {
			w.Stop()
			break
		}
		if e.Type == watch.Error {
			t.Fatalf("the watch broke: %v", e.Object)
		}
	}

	c.WipeEtcd()
	if err := c.Client.Get(t.Context(), key("before"), &corev1.ConfigMap{}); !apierrors.IsNotFound(err) {
		t.Errorf("of the emptied etcd: %v", err)
	}
	if err := c.Client.Get(t.Context(), client.ObjectKey{Name: "routes.weir.dev"}, &apiextensionsv1.CustomResourceDefinition{}); !apierrors.IsNotFound(err) {
		t.Errorf("the CustomResourceDefinition in the emptied etcd: %v", err)
	}
	c.InstallCRDs()
	var routes v1alpha1.RouteList
	if err := c.Client.List(t.Context(), &routes); err != nil {
		t.Error(err)
	}

	c.Restore(snapshot)
	if err := c.Client.Get(t.Context(), key("before"), &corev1.ConfigMap{}); err != nil {
		t.Errorf("what the snapshot has: %v", err)
	}
	if err := c.Client.Get(t.Context(), key("after"), &corev1.ConfigMap{}); !apierrors.IsNotFound(err) {
		t.Errorf("what is newer than the snapshot: %v", err)
	}
	if err := c.Client.Create(t.Context(), &v1alpha1.Consumer{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "alice"}}); err != nil {
		t.Error(err)
	}
}

// Users and ServiceAccounts may do what their rules say, and nothing else.
func TestAccess(t *testing.T) {
	c := kubetest.Shared(t)
	ns, other := c.Namespace(t), c.Namespace(t)
	if err := c.Client.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "one"}}); err != nil {
		t.Fatal(err)
	}
	read := rbacv1.PolicyRule{APIGroups: []string{"weir.dev"}, Resources: []string{"routes"}, Verbs: []string{"list", "watch"}}
	one := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{"one"}, Verbs: []string{"get"}}
	metrics := rbacv1.PolicyRule{NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}}
	user := clientOf(t, c, c.User(t, "reader", read, one, metrics))
	account := clientOf(t, c, c.ServiceAccount(t, ns, "weir", read, one))
	nobody := clientOf(t, c, c.User(t, "nobody"))
	bare := clientOf(t, c, c.ServiceAccount(t, ns, "bare"))

	for _, test := range []struct {
		who     string
		client  client.Client
		what    string
		do      func(client.Client) error
		allowed bool
	}{
		{"user", user, "list routes everywhere", func(c client.Client) error { return c.List(t.Context(), &v1alpha1.RouteList{}) }, true},
		{"user", user, "get the named Secret", getSecret(t, ns, "one"), true},
		{"user", user, "get another Secret", getSecret(t, ns, "two"), false},
		{"user", user, "make a ConfigMap", func(c client.Client) error { return c.Create(t.Context(), configMap(ns, "x")) }, false},
		{"account", account, "list its namespace's routes", listRoutes(t, ns), true},
		{"account", account, "list another's routes", listRoutes(t, other), false},
		{"account", account, "get the named Secret", getSecret(t, ns, "one"), true},
		{"nobody", nobody, "list routes", listRoutes(t, ns), false},
		{"account without rules", bare, "list routes", listRoutes(t, ns), false},
	} {
		err := test.do(test.client)
		if test.allowed && err != nil || !test.allowed && !apierrors.IsForbidden(err) {
			t.Errorf("%s: %s: %v", test.who, test.what, err)
		}
	}
}

func getSecret(t *testing.T, ns, name string) func(client.Client) error {
	return func(c client.Client) error {
		return c.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: name}, &corev1.Secret{})
	}
}

func listRoutes(t *testing.T, ns string) func(client.Client) error {
	return func(c client.Client) error {
		return c.List(t.Context(), &v1alpha1.RouteList{}, client.InNamespace(ns))
	}
}

// A kubeconfig file leads to the cluster, the administrator's and any other's.
func TestKubeconfig(t *testing.T) {
	c := kubetest.Shared(t)
	ns := c.Namespace(t)
	for name, path := range map[string]string{
		"administrator": c.Kubeconfig(t),
		"user":          kubetest.WriteKubeconfig(t, c.User(t, "files", rbacv1.PolicyRule{APIGroups: []string{"weir.dev"}, Resources: []string{"routes"}, Verbs: []string{"list"}})),
		"account":       kubetest.WriteKubeconfig(t, c.ServiceAccount(t, ns, "files", rbacv1.PolicyRule{APIGroups: []string{"weir.dev"}, Resources: []string{"routes"}, Verbs: []string{"list"}})),
	} {
		config, err := clientcmd.BuildConfigFromFlags("", path)
		if err != nil {
			t.Fatal(err)
		}
		if err := listRoutes(t, ns)(clientOf(t, c, config)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}
}

// The server's certificate is one that a client checks, and nobody gets in without a credential.
func TestServerCertificate(t *testing.T) {
	c := kubetest.Shared(t)
	u, err := url.Parse(c.Config.Host)
	if err != nil {
		t.Fatal(err)
	}
	if conn, err := tls.Dial("tcp", u.Host, &tls.Config{}); err == nil {
		_ = conn.Close()
		t.Error("the certificate is trusted without the cluster's authority")
	}
	anonymous := rest.AnonymousClientConfig(c.Config)
	if err := listRoutes(t, "default")(clientOf(t, c, anonymous)); !apierrors.IsForbidden(err) && !apierrors.IsUnauthorized(err) {
		t.Errorf("without a credential: %v", err)
	}
	if host, _, _ := net.SplitHostPort(u.Host); host != "127.0.0.1" {
		t.Errorf("the API server listens on %s", host)
	}
	if _, err := http.Get("http://" + u.Host + "/readyz"); err != nil {
		t.Errorf("plain HTTP: %v", err) // it answers 400
	}
}

const documents = `# comment only
---
apiVersion: weir.dev/v1alpha1
kind: Widget
metadata: {name: w}
spec: {size: 3}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: here}
data: {a: "1"}
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: ConfigMap
  metadata: {name: listed}
- apiVersion: rbac.authorization.k8s.io/v1
  kind: ClusterRole
  metadata: {name: kubetest-apply}
---
`

const widgets = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.weir.dev}
spec:
  group: weir.dev
  scope: Namespaced
  names: {kind: Widget, plural: widgets, singular: widget}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer, maximum: 5}}}}}}
`

// A folder is applied as one set, whatever its order, and again without harm.
func TestApply(t *testing.T) {
	c := kubetest.Start(t)
	ns := c.Namespace(t)
	dir := t.TempDir()
	for name, text := range map[string]string{"1-objects.yaml": documents, "2-widgets.yml": widgets, "README.md": "not YAML: {"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for _, o := range c.ApplyDir(t, dir, ns) {
		names = append(names, fmt.Sprintf("%s %s/%s", o.GetKind(), strings.ReplaceAll(o.GetNamespace(), ns, "NS"), o.GetName()))
		if o.GetUID() == "" {
			t.Errorf("%s is not as the server has it", o.GetName())
		}
	}
	const want = "CustomResourceDefinition /widgets.weir.dev, Widget NS/w, ConfigMap NS/here, ConfigMap NS/listed, ClusterRole /kubetest-apply"
	if got := strings.Join(names, ", "); got != want {
		t.Errorf("applied: %s\nwant:    %s", got, want)
	}
	c.ApplyFile(t, filepath.Join(dir, "1-objects.yaml"), ns)

	ctx := context.WithoutCancel(t.Context())
	_, err := c.Apply(ctx, []byte(strings.ReplaceAll(documents, "size: 3", "size: 6")), kubetest.ApplyOptions{Namespace: ns, DryRun: true})
	if err == nil || !strings.Contains(err.Error(), "Widget w:") || !strings.Contains(err.Error(), "spec.size") || strings.Contains(err.Error(), "ConfigMap") {
		t.Errorf("a Widget that is too large: %v", err)
	}
	if _, err := c.Apply(ctx, []byte(strings.ReplaceAll(documents, "name: here", "name: dry")), kubetest.ApplyOptions{Namespace: ns, DryRun: true}); err != nil {
		t.Error(err)
	}
	if err := c.Client.Get(ctx, client.ObjectKey{Namespace: ns, Name: "dry"}, &corev1.ConfigMap{}); !apierrors.IsNotFound(err) {
		t.Errorf("a dry run has left something: %v", err)
	}
	_, err = c.Apply(ctx, []byte(documents), kubetest.ApplyOptions{Namespace: ns, Config: c.User(t, "stranger")})
	if !apierrors.IsForbidden(err) && (err == nil || !strings.Contains(err.Error(), "forbidden")) {
		t.Errorf("applied by one who may not: %v", err)
	}
	if _, err := c.Apply(ctx, []byte("kind: ConfigMap"), kubetest.ApplyOptions{}); err == nil {
		t.Error("a document without apiVersion is taken")
	}
}
