package kubetest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// tokenSeconds is how long a ServiceAccount's token is valid: longer than any test.
const tokenSeconds = 3600

// User is the configuration of a user with a certificate who may do in all namespaces what the rules say, and nothing else. It
// returns when the API server heeds them.
func (c *Cluster) User(t testing.TB, name string, rules ...rbacv1.PolicyRule) *rest.Config {
	t.Helper()
	config, err := c.servers.config(name)
	if err != nil {
		t.Fatal(err)
	}
	if len(rules) > 0 {
		role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{GenerateName: "kubetest-"}, Rules: rules}
		c.create(t, role)
		c.create(t, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: role.Name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}},
		})
		c.awaitRules(t, name, nil, "", rules)
	}
	return config
}

// ServiceAccount is the configuration of a ServiceAccount with a token, which is made if it is not there. With rules it may do in its
// own namespace what they say; without, what the roles allow that the test has applied.
func (c *Cluster) ServiceAccount(t testing.TB, namespace, name string, rules ...rbacv1.PolicyRule) *rest.Config {
	t.Helper()
	ctx, cancel := c.context()
	defer cancel()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	if err := c.Client.Create(ctx, account); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	if len(rules) > 0 {
		role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, GenerateName: "kubetest-"}, Rules: rules}
		c.create(t, role)
		c.create(t, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: role.Name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}},
		})
		groups := []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"}
		c.awaitRules(t, "system:serviceaccount:"+namespace+":"+name, groups, namespace, rules)
	}
	seconds := int64(tokenSeconds)
	token := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}
	if err := c.Client.SubResource("token").Create(ctx, account, token); err != nil {
		t.Fatalf("the ServiceAccount %s/%s gets no token: %v", namespace, name, err)
	}
	config := c.servers.anonymous()
	config.BearerToken = token.Status.Token
	return config
}

// create makes an object that goes with the test.
func (c *Cluster) create(t testing.TB, o client.Object) {
	t.Helper()
	ctx, cancel := c.context()
	defer cancel()
	if err := c.Client.Create(ctx, o); err != nil {
		t.Fatal(err)
	}
	if c.own {
		return
	}
	t.Cleanup(func() {
		c.repair()
		ctx, cancel := c.context()
		defer cancel()
		if err := client.IgnoreNotFound(c.Client.Delete(ctx, o)); err != nil {
			t.Error(err)
		}
	})
}

// awaitRules asks the API server whether the first thing that each rule allows is allowed: it learns of roles a moment after
// they have been made.
func (c *Cluster) awaitRules(t testing.TB, user string, groups []string, namespace string, rules []rbacv1.PolicyRule) {
	t.Helper()
	ctx, cancel := c.context()
	defer cancel()
	for _, rule := range rules {
		spec := authorizationv1.SubjectAccessReviewSpec{User: user, Groups: groups}
		if len(rule.NonResourceURLs) > 0 {
			spec.NonResourceAttributes = &authorizationv1.NonResourceAttributes{Path: first(rule.NonResourceURLs), Verb: first(rule.Verbs)}
		} else {
			resource, sub, _ := strings.Cut(first(rule.Resources), "/")
			spec.ResourceAttributes = &authorizationv1.ResourceAttributes{
				Namespace: namespace, Verb: first(rule.Verbs), Group: first(rule.APIGroups), Resource: resource, Subresource: sub, Name: first(rule.ResourceNames),
			}
		}
		err := poll(ctx, func() error {
			review := &authorizationv1.SubjectAccessReview{Spec: spec}
			if err := c.Client.Create(ctx, review); err != nil {
				return err
			}
			if !review.Status.Allowed {
				return fmt.Errorf("the API server does not allow %s what the rule %v says: %s", user, rule, review.Status.Reason)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// Kubeconfig is the path of a file with the administrator's configuration.
func (c *Cluster) Kubeconfig(t testing.TB) string {
	t.Helper()
	return WriteKubeconfig(t, c.Config)
}

// WriteKubeconfig writes a configuration, such as one of User, to a file that goes with the test, and returns its path.
func WriteKubeconfig(t testing.TB, config *rest.Config) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := writeKubeconfig(path, config); err != nil {
		t.Fatal(err)
	}
	return path
}

func writeKubeconfig(path string, config *rest.Config) error {
	const name = "kubetest"
	err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{name: {Server: config.Host, CertificateAuthorityData: config.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{name: {ClientCertificateData: config.CertData, ClientKeyData: config.KeyData, Token: config.BearerToken}},
		Contexts:       map[string]*clientcmdapi.Context{name: {Cluster: name, AuthInfo: name}},
		CurrentContext: name,
	}, path)
	if err != nil {
		return err
	}
	return os.Chmod(path, 0o600)
}
