package kubernetes

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/test/kubetest"
	"github.com/weir-dev/weir/xds/source"
)

func TestSecrets(t *testing.T) {
	c := kubetest.Shared(t)
	ns := c.Namespace(t)
	apply(t, c, ns, secret("provider", "value", " first\n")+backend("a", withSecret("{name: provider}")))
	w := follow(t, quick(c.Config, ns))
	// The first reading has the values.
	one := "Secret " + ns + "/provider, key value="
	w.await(one+"first", snapshot.secrets)
	if _, n, _ := w.last(); n != 1 {
		t.Errorf("%d readings until the value was there", n)
	}

	apply(t, c, ns, secret("provider", "value", "second"))
	w.await(one+"second", snapshot.secrets)
	if _, n, _ := w.last(); n != 2 {
		t.Errorf("a rotation became %d readings", n-1)
	}
	// A Secret that comes with the object that needs it is there in the same reading.
	apply(t, c, ns, secret("another", "k", "third")+backend("b", withSecret("{name: another, key: k}")))
	r := w.await("Secret "+ns+"/another, key k=third; "+one+"second", snapshot.secrets)
	if r.said() != "" {
		t.Errorf("problems: %s", r.said())
	}

	for _, tc := range []struct {
		name, documents string
		want            []string
	}{
		{"another key", backend("b", withSecret("{name: another, key: other}")),
			[]string{"Backend " + ns + "/b: spec.credential.secretRef.key: ", `has no key "other" among its 1`, "[SecretUnavailable]"}},
		{"no such Secret", backend("b", withSecret("{name: nowhere}")),
			[]string{"spec.credential.secretRef.name: ", "Secret " + ns + "/nowhere does not exist"}},
		{"empty", secret("nowhere", "value", " \n"), []string{"secretRef.key: ", `the key "value" of Secret ` + ns + "/nowhere is empty"}},
		{"relative", backend("b", withSecret("{file: key.txt}")), []string{"secretRef.file: ", "may not point to files", "[RefNotPermitted]"}},
		{"environment", backend("b", withSecret("{env: HOME}")), []string{"secretRef.env: ", "may not point to", "[RefNotPermitted]"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			apply(t, c, ns, tc.documents)
			r := w.awaitSaid(tc.want...)
			if len(r.problems) != 1 || !source.HasErrors(r.problems) {
				t.Errorf("problems: %s", r.said())
			}
			if strings.Contains(r.said(), "third") {
				t.Error("a secret is told")
			}
		})
	}

	// Nobody watches what nobody points to.
	if err := c.Client.DeleteAllOf(t.Context(), &corev1.Secret{}, client.InNamespace(ns)); err != nil {
		t.Fatal(err)
	}
	w.awaitSaid("Secret " + ns + "/provider does not exist")
	apply(t, c, ns, backend("a", "url: 'https://api.example.com/v1'")+backend("b", "url: 'https://api.example.com/v1'"))
	w.await("", func(r snapshot) string { return r.said() + r.secrets() })
	poll(t, "a Secret is still watched", func() (bool, string) {
		return lists() == len(kinds), fmt.Sprintf("%d lists are followed", lists())
	})
}

// viewer are the rights to read Weir's own kinds.
var viewer = rbacv1.PolicyRule{APIGroups: []string{"weir.dev"}, Resources: []string{"*"}, Verbs: []string{"list", "watch"}}

func TestSecretForbidden(t *testing.T) {
	c := kubetest.Shared(t)
	ns := c.Namespace(t)
	config := c.ServiceAccount(t, ns, "weir", viewer)
	apply(t, c, ns, secret("provider", "value", "first")+backend("a", withSecret("{name: provider}"))+consumer("c", "t"))
	opts := quick(config, ns)
	opts.RetryDelay /= slowRetry
	w := follow(t, opts)
	r := w.awaitSaid("Backend "+ns+"/a: spec.credential.secretRef.name", "Weir may not read Secret "+ns+"/provider", "resourceNames [provider]", "[SecretUnavailable]")
	if tenants(r) != "c=t" || r.secrets() != "" {
		t.Errorf("read %s; %s", tenants(r), r.secrets())
	}
	if !w.source.Health().Connected {
		t.Error("a Secret that may not be read counts as an API server that is away")
	}

	// The right to one Secret, and no other, is enough.
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "one-secret"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{"provider"}, Verbs: []string{"list", "watch"}}}}
	binding := &rbacv1.RoleBinding{ObjectMeta: role.ObjectMeta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: ns, Name: "weir"}}}
	for _, obj := range []client.Object{role, binding} {
		if err := c.Client.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
	r = w.await("Secret "+ns+"/provider, key value=first", snapshot.secrets)
	if r.said() != "" {
		t.Errorf("problems: %s", r.said())
	}
}

// The right to read a kind is missing: nothing is handed on, since a missing LimitPolicy would let everything through.
func TestKindForbidden(t *testing.T) {
	c := kubetest.Shared(t)
	ns := c.Namespace(t)
	some := viewer
	some.Resources = []string{"consumers", "routes", "backends", "llmgateways"}
	log, text := logged()
	opts := quick(c.ServiceAccount(t, ns, "weir", some), ns)
	opts.Log = log
	w := follow(t, opts)
	poll(t, "health does not say what may not be read", func() (bool, string) {
		h := w.source.Health()
		return !h.Connected && strings.Contains(h.Reason, "apikeys of namespace "+ns) && strings.Contains(h.Reason, "forbidden") && strings.Contains(h.Reason, "more)"), h.Reason
	})
	if _, n, _ := w.last(); n != 0 {
		t.Error("objects were handed on")
	}
	if got := text(); strings.Count(got, "cannot be followed") != 1 || strings.Count(got, "\n") != 1 {
		t.Errorf("the log is\n%s", got)
	}
}

// A Secret of another namespace is read only with its consent.
func TestGrants(t *testing.T) {
	c := kubetest.Shared(t)
	ns, vault := c.Namespace(t), c.Namespace(t)
	apply(t, c, vault, secret("shared", "value", "first")+secret("other", "value", "x"))
	apply(t, c, ns, backend("a", withSecret("{name: shared, namespace: "+vault+"}"))+backend("b", withSecret("{name: other, namespace: "+vault+"}")))
	w := follow(t, quick(c.Config, ns, vault))
	none := func() {
		t.Helper()
		w.await("Backend/a Backend/b; ", func(r snapshot) string { return r.names() + "; " + r.secrets() })
		poll(t, "a Secret is watched without consent", func() (bool, string) {
			return lists() == 2*len(kinds), fmt.Sprintf("%d lists are followed", lists())
		})
	}
	none()
	apply(t, c, vault, "---\napiVersion: weir.dev/v1alpha1\nkind: ReferenceGrant\nmetadata: {name: g}\nspec: {from: [{kind: Backend, namespace: "+ns+
		"}], to: [{kind: Secret, name: shared}]}\n")
	w.await("Secret "+vault+"/shared, key value=first", snapshot.secrets)
	grant, _ := source.NewObject("ReferenceGrant")
	grant.SetNamespace(vault)
	grant.SetName("g")
	if err := c.Client.Delete(t.Context(), grant); err != nil {
		t.Fatal(err)
	}
	none()
}

// Files and the environment of the process are for the namespaces that may have them.
func TestLocalSecrets(t *testing.T) {
	c := kubetest.Shared(t)
	ns, tenant := c.Namespace(t), c.Namespace(t)
	dir := t.TempDir()
	// As kubelet mounts a Secret: the file is a link through another one, which is swapped.
	mount := func(version, value string) {
		t.Helper()
		for _, err := range []error{
			os.Mkdir(filepath.Join(dir, version), 0o700),
			os.WriteFile(filepath.Join(dir, version, "key"), []byte(value), 0o600),
			os.Symlink(version, filepath.Join(dir, "next")),
			os.Rename(filepath.Join(dir, "next"), filepath.Join(dir, "..data")),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	mount("..1", "first\n")
	file := filepath.Join(dir, "key")
	if err := os.Symlink("..data/key", file); err != nil {
		t.Fatal(err)
	}
	apply(t, c, ns, backend("file", withSecret("{file: "+file+"}"))+backend("env", withSecret("{env: PROVIDER_KEY}")))
	apply(t, c, tenant, backend("env", withSecret("{env: PROVIDER_KEY}")))
	opts := quick(c.Config, ns, tenant)
	opts.LocalSecrets = []string{ns}
	opts.Env = func(name string) (string, bool) {
		return map[string]string{"PROVIDER_KEY": "from-env"}[name], name == "PROVIDER_KEY"
	}
	w := follow(t, opts)
	w.await("environment variable PROVIDER_KEY=from-env; file "+file+"=first", snapshot.secrets)
	w.awaitSaid("Backend "+tenant+"/env: spec.credential.secretRef.env: objects of namespace "+tenant, "[RefNotPermitted]")

	mount("..2", "second")
	w.await("environment variable PROVIDER_KEY=from-env; file "+file+"=second", snapshot.secrets)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	w.awaitSaid("Backend "+ns+"/file: spec.credential.secretRef.file: the file "+file+" cannot be read", "[SecretUnavailable]")
	apply(t, c, ns, backend("file", withSecret("{file: key}"))+backend("env", withSecret("{env: NOT_SET}")))
	w.awaitSaid("Backend "+ns+"/file: spec.credential.secretRef.file: ", "relative", "[Invalid]")
	w.awaitSaid("Backend " + ns + "/env: spec.credential.secretRef.env: the environment variable NOT_SET is not set")
}
