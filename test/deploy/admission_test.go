package deploy

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/weir-dev/weir/test/kubetest"
)

// Namespaces of the policies' tests: a tenant without an annotation, one with, and the platform's.
const (
	plainTenant  = "tenant-plain"
	listedTenant = "tenant-listed"
	platform     = "platform"
)

// Texts that look like credentials and are none.
const (
	fakeKey    = "sk-proj-0123456789abcdefghijABCDEFGHIJ"
	fakeBearer = "Bearer 0123456789abcdef0123456789"
	fakeWeir   = "weir_Ab3dEf6h_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg"
	fakeJWT    = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJub2JvZHkifQ.c2lnbmF0dXJl"
)

// object is a document of a kind in a namespace.
func object(kind, ns, annotations, spec string) string {
	return fmt.Sprintf("{apiVersion: weir.dev/v1alpha1, kind: %s, metadata: {name: o, namespace: %s, annotations: {%s}}, spec: {%s}}", kind, ns, annotations, spec)
}

func route(ns, annotations, backends string) string {
	return object("Route", ns, annotations, "rules: [{backends: ["+backends+"]}]")
}

// backendAt is a Backend with endpoints.
func backendAt(ns string, hosts ...string) string {
	var list []string
	for i, h := range hosts {
		list = append(list, fmt.Sprintf("{address: '%s', port: %d}", h, 8000+i))
	}
	return object("Backend", ns, "", "dialect: openai, endpoints: ["+strings.Join(list, ", ")+"]")
}

func backendURL(ns, url string) string {
	return object("Backend", ns, "", "dialect: openai, url: '"+url+"'")
}

// What is refused, in the words of the policies.
const (
	refusedAnnotation = "metadata.annotations "
	refusedHeader     = "spec.rules[].matches[].headers: "
	refusedQuery      = "spec.rules[].matches[].queryParams: "
	refusedCanary     = "canaries get at most 20 % of the requests of a rule"
	refusedURL        = "spec.url: the namespace tenant-plain may not lead to "
	refusedEndpoint   = "spec.endpoints[].address: the namespace tenant-plain may not lead to "
	refusedKeys       = "spec.issuer, spec.keys.url: the namespace tenant-plain may not lead to "
)

// admissionCases are what somebody applies, and why it is refused; "" where it is let in.
var admissionCases = []struct{ name, document, want string }{
	// No inline secrets.
	{"plain Route", route(plainTenant, "", "{name: pool}"), ""},
	{"annotation with a key", route(plainTenant, "note: "+fakeKey, "{name: pool}"), refusedAnnotation + "note: what looks like a credential"},
	{"annotation with a bearer token", object("Consumer", plainTenant, "example.com/auth: '"+fakeBearer+"'", "tenant: t"), refusedAnnotation + "example.com/auth"},
	{"annotation with a key of Weir", object("Budget", plainTenant, "k: "+fakeWeir, "targetRefs: [{kind: Tenant, name: t}], amount: '1', period: Month"), refusedAnnotation + "k"},
	{"annotation with a token", object("LoadPolicy", plainTenant, "k: "+fakeJWT, "targetRefs: [{kind: Backend, name: b}]"), refusedAnnotation + "k"},
	{"annotation with a password in a URL", route(plainTenant, "source: 'https://me:hunter2hunter2@git.example.com/x'", "{name: pool}"), refusedAnnotation + "source"},
	{"annotation with a private key", route(plainTenant, `k: "-----BEGIN EC PRIVATE KEY-----"`, "{name: pool}"), refusedAnnotation + "k"},
	{"annotation with a key of a cloud", route(plainTenant, "k: AKIAIOSFODNN7EXAMPLE", "{name: pool}"), refusedAnnotation + "k"},
	{"annotation of kubectl apply, with a field that does not exist", object("Backend", plainTenant,
		`kubectl.kubernetes.io/last-applied-configuration: '{"spec":{"apiKey":"abc","dialect":"openai"}}'`, "dialect: openai, url: 'https://api.example.com'"),
		refusedAnnotation + "kubectl.kubernetes.io/last-applied-configuration"},
	{"annotation of kubectl apply, with references", object("Backend", plainTenant,
		`kubectl.kubernetes.io/last-applied-configuration: '{"spec":{"credential":{"secretRef":{"name":"k","key":"value"}},"passwordRef":{"name":"p"}}}'`,
		"dialect: openai, url: 'https://api.example.com', credential: {secretRef: {name: k}}"), ""},
	{"annotations that are no secrets", route(plainTenant, "owner: risk-assessment-team-and-others, docs: 'https://wiki.example.com/x?page=3#bearer', text: 'bearer tokens are checked, basic ones too'", "{name: pool}"), ""},
	{"label of a consumer with a key", object("Consumer", plainTenant, "", "labels: {k: "+fakeKey+"}"), "spec.labels: what looks like a credential"},
	{"label of a consumer", object("Consumer", plainTenant, "", "labels: {team: search}"), ""},
	{"label with a key", "{apiVersion: weir.dev/v1alpha1, kind: Consumer, metadata: {name: o, namespace: " + plainTenant + ", labels: {k: " + fakeKey + "}}, spec: {}}", "metadata.labels: what looks like a credential"},
	{"match by a bearer token", object("Route", plainTenant, "", "rules: [{matches: [{headers: [{name: x-auth, value: '"+fakeBearer+"'}]}], backends: [{name: pool}]}]"), refusedHeader},
	{"match by the credential's header", object("Route", plainTenant, "", "rules: [{matches: [{headers: [{name: Authorization, value: short}]}], backends: [{name: pool}]}]"), refusedHeader},
	{"match by a pattern of the credential's header", object("Route", plainTenant, "", "rules: [{matches: [{headers: [{name: authorization, type: RegularExpression, value: 'Bearer .*'}]}], backends: [{name: pool}]}]"), ""},
	{"match by another header", object("Route", plainTenant, "", "rules: [{matches: [{headers: [{name: x-version, value: v2}]}], backends: [{name: pool}]}]"), ""},
	{"match by a key in the query", object("Route", plainTenant, "", "rules: [{matches: [{queryParams: [{name: k, value: "+fakeKey+"}]}], backends: [{name: pool}]}]"), refusedQuery},
	{"key in a Backend's URL", object("Backend", plainTenant, "", "dialect: openai, url: 'https://api.example.com/"+fakeKey+"/v1'"), "spec.url: what looks like a credential"},
	{"key in the path of a health check", object("Backend", plainTenant, "", "dialect: openai, url: 'https://api.example.com', healthCheck: {path: '/health?api_key=0123456789'}"), "spec.healthCheck.path, spec.metrics[].path"},
	{"key in the path of metrics", object("Backend", plainTenant, "", "dialect: openai, url: 'https://api.example.com', metrics: [{type: VLLM, path: '/metrics?token=0123456789'}]"), "spec.healthCheck.path, spec.metrics[].path"},
	{"Backend with health checks", object("Backend", plainTenant, "", "dialect: openai, url: 'https://api.example.com', healthCheck: {}, metrics: [{type: VLLM}]"), ""},
	{"password in the URL of signing keys", object("JWTIssuer", plainTenant, "", "issuer: 'https://id.example.com', audiences: [a], keys: {url: 'https://me:hunter2hunter2@id.example.com/keys'}"), "spec.issuer, spec.keys.url"},
	{"signing keys", object("JWTIssuer", plainTenant, "", "issuer: 'https://id.example.com', audiences: [a], keys: {discovery: true}"), ""},
	{"in the platform's namespace too", object("Consumer", platform, "k: "+fakeKey, "tenant: t"), refusedAnnotation + "k"},

	// Allowed backends.
	{"own Backend, without an annotation", route(plainTenant, "", "{name: pool}, {name: other, priority: 1}"), ""},
	{"own Backend by its whole name", route(plainTenant, "", "{name: pool, namespace: "+plainTenant+"}"), ""},
	{"Backend of others, without an annotation", route(plainTenant, "", "{name: pool}, {name: openai, namespace: platform}"), "the namespace tenant-plain may not route to platform/openai; it has no annotation"},
	{"listed Backend", route(listedTenant, "", "{name: openai, namespace: platform}"), ""},
	{"listed by a prefix", route(listedTenant, "", "{name: vllm-a, namespace: platform}, {name: vllm-b, namespace: platform, priority: 1}"), ""},
	{"own Backend that is listed", route(listedTenant, "", "{name: mine}"), ""},
	{"own Backend that is not", route(listedTenant, "", "{name: theirs}"), "the namespace tenant-listed may not route to tenant-listed/theirs; its annotation weir.dev/allowed-backends does not name it"},
	{"Backend of others that is not listed", route(listedTenant, "", "{name: anthropic, namespace: platform}"), "may not route to platform/anthropic"},
	{"name that only begins like a listed one", route(listedTenant, "", "{name: openai-dear, namespace: platform}"), "may not route to platform/openai-dear"},
	{"two of three", route(listedTenant, "", "{name: x, namespace: a}, {name: mine}, {name: z, namespace: b}"), "may not route to a/x, b/z"},
	{"the platform may use any", route(platform, "", "{name: anything, namespace: elsewhere}"), ""},

	// Canary weight.
	{"canary of a fifth", route(plainTenant, "", "{name: pool, weight: 80}, {name: pool-canary, weight: 20}"), ""},
	{"canary of more", route(plainTenant, "", "{name: pool, weight: 79}, {name: pool-canary, weight: 21}"), refusedCanary},
	{"canary with the default weight", route(plainTenant, "", "{name: pool}, {name: pool-canary}"), refusedCanary},
	{"canary alone", route(plainTenant, "", "{name: pool-canary}"), refusedCanary},
	{"canary without weight", route(plainTenant, "", "{name: pool}, {name: pool-canary, weight: 0}"), ""},
	{"canary model", route(plainTenant, "", "{name: pool, model: m}, {name: pool, model: m-canary}"), refusedCanary},
	{"canary by the annotation", route(plainTenant, "weir.dev/canary: 'next, gpt-6'", "{name: pool}, {name: next}"), refusedCanary},
	{"canary model by the annotation", route(plainTenant, "weir.dev/canary: 'next, gpt-6'", "{name: pool, model: gpt-5, weight: 3}, {name: pool, model: gpt-6}"), refusedCanary},
	{"two canaries together", route(plainTenant, "", "{name: pool, weight: 78}, {name: a-canary, weight: 11}, {name: b-canary, weight: 11}"), refusedCanary},
	{"approved canary", route(plainTenant, "weir.dev/canary-approved: 'by ops, 2027-01-04'", "{name: pool}, {name: pool-canary}"), ""},
	{"approved by nobody", route(plainTenant, "weir.dev/canary-approved: ' '", "{name: pool}, {name: pool-canary}"), refusedCanary},
	{"equals, none of them a canary", route(plainTenant, "", "{name: east}, {name: west}"), ""},
	{"canary as the last resort", route(plainTenant, "", "{name: pool}, {name: pool-canary, priority: 1}"), ""},
	{"canary that callers choose", object("Route", plainTenant, "", "rules: [{matches: [{headers: [{name: x-version, value: next}]}], backends: [{name: pool-canary}]}]"), ""},
	{"canary that some callers choose", object("Route", plainTenant, "", "rules: [{matches: [{headers: [{name: x-version, value: next}]}, {path: {value: /v2}}], backends: [{name: pool-canary}]}]"), refusedCanary},
	{"in the platform's namespace as well", route(platform, "", "{name: pool}, {name: pool-canary}"), refusedCanary},

	// Local hosts.
	{"loopback", backendAt(plainTenant, "127.0.0.1"), refusedEndpoint + "127.0.0.1, which is the gateway's own machine"},
	{"another address of loopback", backendAt(plainTenant, "127.9.8.7"), refusedEndpoint + "127.9.8.7"},
	{"one of three", backendAt(plainTenant, "10.0.0.1", "169.254.169.254", "10.0.0.3"), refusedEndpoint + "169.254.169.254"},
	{"link-local", backendAt(plainTenant, "169.254.1.1"), refusedEndpoint + "169.254.1.1"},
	{"unspecified", backendAt(plainTenant, "0.0.0.0"), refusedEndpoint + "0.0.0.0"},
	{"unspecified, IPv6", backendAt(plainTenant, "::"), refusedEndpoint + "::"},
	{"loopback, IPv6", backendAt(plainTenant, "::1"), refusedEndpoint + "::1"},
	{"loopback, IPv6, in full", backendAt(plainTenant, "0000:0:0:0:0:0:0:1"), refusedEndpoint + "0000:0:0:0:0:0:0:1"},
	{"loopback, IPv4 in IPv6", backendAt(plainTenant, "::ffff:127.0.0.1"), refusedEndpoint + "::ffff:127.0.0.1"},
	{"loopback, IPv4 in IPv6, in full", backendAt(plainTenant, "0:0:0:0:0:FFFF:7f00:1"), refusedEndpoint + "0:0:0:0:0:FFFF:7f00:1"},
	{"link-local, IPv6", backendAt(plainTenant, "FE80::1"), refusedEndpoint + "FE80::1"},
	{"link-local, IPv6, the end of it", backendAt(plainTenant, "febf::1"), refusedEndpoint + "febf::1"},
	{"metadata, IPv6", backendAt(plainTenant, "fd00:ec2::254"), refusedEndpoint + "fd00:ec2::254"},
	{"metadata of another cloud", backendAt(plainTenant, "100.100.100.200"), refusedEndpoint + "100.100.100.200"},
	{"localhost", backendAt(plainTenant, "LocalHost"), refusedEndpoint + "LocalHost"},
	{"below localhost", backendAt(plainTenant, "a."+strings.Repeat("long.", 20)+"localhost"), refusedEndpoint + "a.long."},
	{"localhost of the hosts file", backendAt(plainTenant, "ip6-loopback"), refusedEndpoint + "ip6-loopback"},
	{"metadata by name", backendAt(plainTenant, "metadata.google.internal"), refusedEndpoint + "metadata.google.internal"},
	{"URL of loopback", backendURL(plainTenant, "http://127.0.0.1:9901/v1"), refusedURL + "127.0.0.1"},
	{"URL of loopback, IPv6", backendURL(plainTenant, "http://[::1]:9901/v1"), refusedURL + "::1"},
	{"URL of a link-local address, IPv6", backendURL(plainTenant, "https://[fe80::1]/v1"), refusedURL + "fe80::1"},
	{"URL of metadata, with a dot", backendURL(plainTenant, "http://Metadata.google.internal./computeMetadata"), refusedURL + "Metadata.google.internal"},
	{"signing keys of metadata", object("JWTIssuer", plainTenant, "", "issuer: 'https://id.example.com', audiences: [a], keys: {url: 'http://169.254.169.254/latest'}"), refusedKeys + "169.254.169.254"},
	{"discovery at loopback", object("JWTIssuer", plainTenant, "", "issuer: 'https://localhost:8443', audiences: [a], keys: {discovery: true}"), refusedKeys + "localhost"},
	{"localhost in other letters", backendURL(plainTenant, "http://ｌocalhost:9901/v1"), "a URL is written in ASCII here"},
	{"loopback with other dots", object("JWTIssuer", plainTenant, "", "issuer: 'https://id.example.com', audiences: [a], keys: {url: 'http://127。0。0。1/keys'}"), "a URL is written in ASCII here"},
	{"issuer that nobody asks", object("JWTIssuer", plainTenant, "", "issuer: 'https://localhost:8443', audiences: [a], keys: {url: 'https://id.example.com/keys'}"), ""},
	{"addresses and names of others", backendAt(plainTenant, "10.0.0.1", "12.7.0.1", "100.64.0.1", "169.25.4.1", "fd00::1", "fec0::1", "2001:db8::1", "feast.example", "localhost.example", "notlocalhost", "1.127.0.0"), ""},
	{"URL of others", backendURL(plainTenant, "https://localhost.example.com/127.0.0.1"), ""},
	{"Backend without hosts", object("Backend", plainTenant, "", "dialect: openai, service: {name: s, port: 80}"), ""},
	{"local hosts that the namespace allows", backendAt(listedTenant, "127.0.0.1", "LOCALHOST", "::1"), ""},
	{"a local host that it does not", backendAt(listedTenant, "127.0.0.1", "127.0.0.2"), "the namespace tenant-listed may not lead to 127.0.0.2"},
	{"local hosts of the platform", backendAt(platform, "127.0.0.1", "::1"), ""},
}

// TestAdmission asks a real API server.
func TestAdmission(t *testing.T) {
	c := kubetest.Shared(t)
	ctx := bounded(t)
	installPolicies(t, ctx, c)
	for _, k := range admissionCases {
		t.Run(k.name, func(t *testing.T) {
			err := try(t, bounded(t), c, k.document)
			switch {
			case k.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case k.want != "" && (!apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), k.want)):
				t.Errorf("got %v, want %q in it", err, k.want)
			case err != nil && (strings.Contains(err.Error(), fakeKey) || strings.Contains(err.Error(), "hunter2hunter2")):
				t.Errorf("the answer tells the secret: %v", err)
			}
		})
	}
}

// TestAdmissionOfChanges holds changes to the rules as well, and leaves status alone.
func TestAdmissionOfChanges(t *testing.T) {
	c := kubetest.Shared(t)
	ctx := bounded(t)
	installPolicies(t, ctx, c)
	o := parse(t, route(plainTenant, "", "{name: pool, weight: 9}, {name: pool-canary, weight: 1}"))
	if err := c.Client.Create(ctx, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Client.Delete(context.Background(), o) })
	patch := func(sub bool, text string) error {
		p := client.RawPatch("application/merge-patch+json", []byte(text))
		if sub {
			return c.Client.Status().Patch(ctx, o.DeepCopy(), p)
		}
		return c.Client.Patch(ctx, o.DeepCopy(), p)
	}
	more := `{"spec":{"rules":[{"backends":[{"name":"pool"},{"name":"pool-canary"}]}]}}`
	if err := patch(false, more); err == nil || !strings.Contains(err.Error(), refusedCanary) {
		t.Errorf("more weight: %v", err)
	}
	if err := patch(false, `{"metadata":{"annotations":{"weir.dev/canary-approved":"by ops"}}}`); err != nil {
		t.Fatal(err)
	}
	if err := patch(false, more); err != nil {
		t.Errorf("approved: %v", err)
	}
	if err := patch(false, `{"metadata":{"annotations":{"weir.dev/canary-approved":null}}}`); err == nil || !strings.Contains(err.Error(), refusedCanary) {
		t.Errorf("the approval is taken back: %v", err)
	}
	if err := patch(true, `{"status":{"observedGeneration":1}}`); err != nil {
		t.Errorf("status: %v", err)
	}
}

// TestAdmissionOfDeletion: what was let in before the policies were there can be deleted, or its namespace could not be. It is a way to nothing else.
func TestAdmissionOfDeletion(t *testing.T) {
	c := kubetest.Shared(t)
	ctx := bounded(t)
	makeNamespace(t, ctx, c, plainTenant, nil, nil)
	o := parse(t, "{apiVersion: weir.dev/v1alpha1, kind: Route, metadata: {name: old, namespace: "+plainTenant+", finalizers: [example.com/held], annotations: {note: "+fakeKey+"}},"+
		" spec: {rules: [{backends: [{name: pool, namespace: platform}, {name: pool-canary}]}]}}")
	// The policies of the test before hold on for a moment.
	if err := wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		return c.Client.Create(ctx, o) == nil, nil
	}); err != nil {
		t.Fatal(err)
	}
	installPolicies(t, ctx, c)
	patch := func(text string) error {
		return c.Client.Patch(ctx, o.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(text)))
	}
	const free = `{"metadata":{"finalizers":null}}`
	if err := patch(free); err == nil {
		t.Error("an object that is not being deleted may be changed")
	}
	if err := c.Client.Delete(ctx, o); err != nil {
		t.Fatal(err)
	}
	for _, more := range []string{`{"metadata":{"annotations":{"other":"` + fakeKey + `"}}}`, `{"metadata":{"labels":{"a":"b"}}}`, `{"spec":{"rules":[{"backends":[{"name":"other","namespace":"platform"}]}]}}`} {
		if err := patch(more); err == nil {
			t.Errorf("while it is being deleted it may be changed: %s", more)
		}
	}
	if err := patch(free); err != nil {
		t.Errorf("its finalizer cannot be taken away: %v", err)
	}
	if err := c.Client.Get(ctx, client.ObjectKeyFromObject(o), o); !apierrors.IsNotFound(err) {
		t.Errorf("it is still there: %v", err)
	}
}

// TestAdmissionOfMuch lets in the largest Route and the largest Backend there can be: the API server bounds what a policy may cost.
func TestAdmissionOfMuch(t *testing.T) {
	c := kubetest.Shared(t)
	ctx := bounded(t)
	installPolicies(t, ctx, c)
	var rules []string
	for range 64 {
		var backends []string
		for i := range 16 {
			backends = append(backends, fmt.Sprintf("{name: vllm-%02d-with-a-name-that-is-rather-long, namespace: platform, model: a-model-with-a-long-name-%d}", i, i))
		}
		rules = append(rules, "{backends: ["+strings.Join(backends, ", ")+"], matches: [{headers: [{name: x-team, value: search}], path: {value: /v1}}, {models: [a, b, c]}]}")
	}
	note := "note: '" + strings.Repeat("a long story about nothing; ", 1000) + "', weir.dev/canary: '" + strings.Repeat("some-model, ", 50) + "'"
	if err := try(t, ctx, c, object("Route", listedTenant, note, "rules: ["+strings.Join(rules, ", ")+"]")); err != nil {
		t.Error(err)
	}
	for _, length := range []int{40, 64, 253} {
		hosts := make([]string, 4096)
		for i := range hosts {
			hosts[i] = fmt.Sprintf("f%0*d", length-1, i) // fits none, as late as possible
		}
		if err := try(t, ctx, c, backendAt(plainTenant, hosts...)); err != nil {
			t.Errorf("4096 endpoints with names of %d letters: %v", length, err)
		}
	}
}

// installPolicies applies the policies and waits until all of them are in force.
func installPolicies(t *testing.T, ctx context.Context, c *kubetest.Cluster) {
	t.Helper()
	makeNamespace(t, ctx, c, plainTenant, nil, nil)
	makeNamespace(t, ctx, c, platform, map[string]string{"weir.dev/platform": "true"}, nil)
	makeNamespace(t, ctx, c, listedTenant, nil, map[string]string{
		"weir.dev/allowed-backends": "platform/openai, platform/vllm-*, mine, " + strings.Repeat("platform/one-of-many, ", 50),
		"weir.dev/local-hosts":      "127.0.0.1, Localhost , ::1",
	})
	objs := render(t, job{Kustomization: deployDir + "/admission"})[0].objects(t)
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
	for _, refused := range []string{
		route(plainTenant, "note: "+fakeKey, "{name: pool}"), route(plainTenant, "", "{name: b, namespace: platform}"), route(plainTenant, "", "{name: b-canary}"),
		backendAt(plainTenant, "127.0.0.1"),
	} {
		err := wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, func(ctx context.Context) (bool, error) {
			return try(t, ctx, c, refused) != nil, nil
		})
		if err != nil {
			t.Fatalf("the policies are not in force: %v", err)
		}
	}
}

// try asks the API server to create a document, and to keep nothing.
func try(t *testing.T, ctx context.Context, c *kubetest.Cluster, document string) error {
	t.Helper()
	return c.Client.Create(ctx, parse(t, document), client.DryRunAll)
}

func parse(t *testing.T, document string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(document), &o.Object); err != nil {
		t.Fatalf("%v: %s", err, document)
	}
	return o
}
