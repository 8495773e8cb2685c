package compile

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/intstr"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/xds/source"
)

// reasonsOf writes problems with their reasons, without file and line.
func reasonsOf(problems []source.Problem) (out []string) {
	for _, p := range problems {
		p.File, p.Line = "", 0
		line := p.String()
		if p.Reason != "" {
			line = string(p.Reason) + ": " + line
		}
		out = append(out, line)
	}
	return out
}

// expect compares problems with what they must begin with.
func expect(t *testing.T, problems []source.Problem, want []string) {
	t.Helper()
	got := reasonsOf(problems)
	ok := len(got) == len(want)
	for i := range min(len(got), len(want)) {
		ok = ok && strings.HasPrefix(got[i], want[i])
	}
	if !ok {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

const toOther = "{rules: [{backends: [{name: a, namespace: other}]}]}"

// TestRoutesToOtherNamespaces: a Route refers to a Backend of another namespace where that permits it.
func TestRoutesToOtherNamespaces(t *testing.T) {
	const refused = "RefNotPermitted: Route default/all: spec.rules[0].backends[0].namespace: the namespace other does not permit it: " +
		"there must be a ReferenceGrant in other with {kind: Route, namespace: default} in spec.from and {kind: Backend, name: a} in spec.to"
	backend := docIn("other", "Backend", "a", "{dialect: openai, url: 'http://127.0.0.1:8000/v1'}")
	for _, c := range []struct {
		name, documents string
		want            []string
	}{
		{"no grant", backend, []string{refused}},
		{"no grant, and nothing there to see", "", []string{refused}},
		{"every Backend", backend + docIn("other", "ReferenceGrant", "g", "{from: [{kind: Route, namespace: default}], to: [{kind: Backend}]}"), nil},
		{"that Backend", backend + docIn("other", "ReferenceGrant", "g", "{from: [{kind: Route, namespace: x}, {kind: Route, namespace: default}], to: [{kind: Backend, name: b}, {kind: Backend, name: a}]}"), nil},
		{"another Backend", backend + docIn("other", "ReferenceGrant", "g", "{from: [{kind: Route, namespace: default}], to: [{kind: Backend, name: b}]}"), []string{refused}},
		{"Routes of another namespace", backend + docIn("other", "ReferenceGrant", "g", "{from: [{kind: Route, namespace: x}], to: [{kind: Backend}]}"), []string{refused}},
		{"a grant in another namespace", backend + doc("ReferenceGrant", "g", "{from: [{kind: Route, namespace: default}], to: [{kind: Backend}]}"), []string{refused}},
		{"a grant that mixes", backend + docIn("other", "ReferenceGrant", "g", "{from: [{kind: Route, namespace: x}, {kind: APIKey, namespace: default}], to: [{kind: Backend}, {kind: Secret}]}"), []string{refused}},
		{"permitted, and not there", docIn("other", "ReferenceGrant", "g", "{from: [{kind: Route, namespace: default}], to: [{kind: Backend}]}"),
			[]string{"RefNotFound: Route default/all: spec.rules[0].backends[0].name: there is no Backend other/a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, problems := Compile(load(t, docGateway+docCaller+c.documents+doc("Route", "all", toOther)), options(t))
			expect(t, problems, c.want)
			if (v == nil) != (c.want != nil) {
				t.Errorf("compiled: %v", v != nil)
			}
		})
	}
	t.Run("the namespace of the Route itself", func(t *testing.T) {
		v, problems := Compile(load(t, docGateway+docCaller+backendDoc("a", "")+doc("Route", "all", "{rules: [{backends: [{name: a, namespace: default}]}]}")), options(t))
		expect(t, problems, nil)
		if v == nil {
			t.Error("refused")
		}
	})
}

// TestSecretsOfOtherNamespaces: every field that refers to a Secret is checked, and its value is used where it is permitted.
func TestSecretsOfOtherNamespaces(t *testing.T) {
	ref := v1alpha1.SecretRef{Name: "s", Namespace: "vault", Key: "value"}
	documents := docGateway + docCaller + backendDoc("a", "") + docRoute +
		doc("JWTIssuer", "i", "{issuer: 'https://i', audiences: [a], algorithms: [HS256], keys: {secretRef: {env: JWT_SECRET}}}")
	for _, c := range []struct {
		kind, name, field, what string
		set                     func(*source.Objects)
	}{
		{"Backend", "a", "spec.credential.secretRef", "the key", func(o *source.Objects) {
			o.Backends[0].Spec.Credential = &v1alpha1.BackendCredential{SecretRef: ref}
		}},
		{"Backend", "a", "spec.tls.caRef", "the certificate authorities", func(o *source.Objects) {
			o.Backends[0].Spec.URL, o.Backends[0].Spec.TLS = "https://a", &v1alpha1.BackendTLS{CARef: &ref}
		}},
		{"APIKey", "demo", "spec.secretRef", "the key", func(o *source.Objects) { o.APIKeys[0].Spec.Hash, o.APIKeys[0].Spec.SecretRef = "", &ref }},
		{"JWTIssuer", "i", "spec.keys.secretRef", "the secret", func(o *source.Objects) { o.JWTIssuers[0].Spec.Keys.SecretRef = &ref }},
		{"LLMGateway", "main", "spec.authentication.keyPepperRef", "the pepper", func(o *source.Objects) { o.Gateways[0].Spec.Authentication.KeyPepperRef = &ref }},
		{"LLMGateway", "main", "spec.sharedState.redis.passwordRef", "it", func(o *source.Objects) {
			o.Gateways[0].Spec.SharedState = &v1alpha1.SharedState{Redis: v1alpha1.Redis{Mode: v1alpha1.RedisStandalone, Addresses: []string{"127.0.0.1:6379"}, KeyPrefix: "weir", PasswordRef: &ref}}
		}},
		{"LLMGateway", "main", "spec.listeners[0].tls.certificateRef", "it", func(o *source.Objects) {
			o.Gateways[0].Spec.Listeners[0].TLS = &v1alpha1.ListenerTLS{CertificateRef: ref, PrivateKeyRef: v1alpha1.SecretRef{Env: "PRIVATE_KEY"}}
		}},
		{"LLMGateway", "main", "spec.authentication.external.tls.certificateRef", "it", func(o *source.Objects) {
			o.Gateways[0].Spec.Authentication.External = &v1alpha1.ExternalAuthorization{Address: "127.0.0.1", Port: 9,
				TLS: &v1alpha1.ListenerTLS{CertificateRef: ref, PrivateKeyRef: v1alpha1.SecretRef{Env: "PRIVATE_KEY"}}}
		}},
	} {
		t.Run(c.field, func(t *testing.T) {
			at := c.kind + " default/" + c.name + ": " + c.field
			about := func(objs *source.Objects) (out []string) {
				_, problems := Compile(objs, options(t))
				for _, line := range reasonsOf(problems) {
					if strings.Contains(line, at+":") || strings.Contains(line, at+".namespace:") {
						out = append(out, line)
					}
				}
				return out
			}
			made := func() *source.Objects {
				o := load(t, documents)
				c.set(o)
				return o
			}
			want := "RefNotPermitted: " + at + ".namespace: the namespace vault does not permit it: there must be a ReferenceGrant in vault with {kind: " + c.kind +
				", namespace: default} in spec.from and {kind: Secret, name: s} in spec.to"
			o := made()
			o.Secrets[source.SecretKeyOf("default", ref)] = source.NewSecret("must not be used")
			if got := about(o); !slices.Equal(got, []string{want}) {
				t.Errorf("without a grant: %q", got)
			}
			grant := &v1alpha1.ReferenceGrant{
				ObjectMeta: metav1.ObjectMeta{Name: "g", Namespace: "vault"},
				Spec: v1alpha1.ReferenceGrantSpec{
					From: []v1alpha1.ReferenceGrantFrom{{Kind: v1alpha1.GrantFromKind(c.kind), Namespace: "default"}},
					To:   []v1alpha1.ReferenceGrantTo{{Kind: v1alpha1.GrantToSecret, Name: "s"}},
				},
			}
			o = made()
			o.ReferenceGrants = append(o.ReferenceGrants, grant)
			if got := about(o); !slices.Equal(got, []string{"SecretUnavailable: " + at + ": " + c.what + " cannot be read"}) {
				t.Errorf("with a grant and without a value: %q", got)
			}
			o.Secrets[source.SecretKeyOf("default", ref)] = source.NewSecret("a value of at least thirty-two bytes")
			for _, line := range about(o) {
				if strings.HasPrefix(line, "RefNotPermitted") || strings.HasPrefix(line, "SecretUnavailable") {
					t.Errorf("with a grant and a value: %q", line)
				}
			}
		})
	}
}

// ruleLines writes the rules of a table: who is asked, and who cannot be.
func ruleLines(v *Version) (out []string) {
	seen := map[*table.Rule]bool{}
	for _, r := range v.Table.All() {
		if seen[r] {
			continue
		}
		seen[r] = true
		var parts []string
		for _, c := range r.Candidates {
			parts = append(parts, c.Backend.ID)
		}
		for _, u := range r.Unusable {
			parts = append(parts, fmt.Sprintf("without %s (%s)", u.Backend, u.Why))
		}
		out = append(out, r.Name+": "+strings.Join(parts, ", "))
	}
	slices.Sort(out)
	return out
}

// TestLenient: what refers to something that cannot be used goes on without it, and says so. The same is an error otherwise.
func TestLenient(t *testing.T) {
	door := docGateway + docCaller
	for _, c := range []struct {
		name, documents string
		want            []string // of the problems
		rules           []string
	}{
		{"a Backend that is not there", door + backendDoc("a", "") + doc("Route", "all", "{rules: [{backends: [{name: a}, {name: b, weight: 3, priority: 1}]}]}"),
			[]string{"RefNotFound: Route default/all: spec.rules[0].backends[1].name: warning: there is no Backend default/b"},
			[]string{"default/all: default/a, without default/b (there is no such Backend)"}},
		{"no Backend left", door + backendDoc("a", "") + doc("Route", "all", "{rules: [{name: some, matches: [{models: [m]}], backends: [{name: b}]}, {name: rest, backends: [{name: a}]}]}"),
			[]string{"RefNotFound: Route default/all: spec.rules[0].backends[0].name: warning: there is no Backend default/b"},
			[]string{"default/all/rest: default/a", "default/all/some: without default/b (there is no such Backend)"}},
		{"not permitted", door + docIn("other", "Backend", "a", "{dialect: openai, url: 'http://127.0.0.1:8000/v1'}") + doc("Route", "all", toOther),
			[]string{"RefNotPermitted: Route default/all: spec.rules[0].backends[0].namespace: warning: the namespace other does not permit it"},
			[]string{"default/all: without other/a (the Route may not refer to it: no ReferenceGrant of its namespace permits that)"}},
		{"a Backend of weight 0 that is not there", door + backendDoc("a", "") + doc("Route", "all", "{rules: [{backends: [{name: a}, {name: b, weight: 0}]}]}"),
			[]string{"RefNotFound: Route default/all: spec.rules[0].backends[1].name: warning: there is no Backend default/b"},
			[]string{"default/all: default/a"}},
		{"a model that its Backend does not list", door + backendDoc("a", ", models: [{name: m}]") + doc("Route", "all", "{rules: [{backends: [{name: a, model: x}]}]}"),
			[]string{`RefNotFound: Route default/all: spec.rules[0].backends[0].model: warning: Backend default/a does not list the model "x"`},
			[]string{`default/all: without default/a (the Backend does not list the model "x")`}},
		{"a match of a model that nobody serves", door + backendDoc("a", ", models: [{name: m}]") + doc("Route", "all", "{rules: [{matches: [{models: [m, x]}], backends: [{name: a}]}]}"),
			[]string{`RefNotFound: Route default/all: spec.rules[0].matches[0].models[1]: warning: no backend of this rule serves the model "x"`},
			[]string{"default/all: default/a"}},
		{"an APIKey of nobody", door + backendDoc("a", "") + docRoute + doc("APIKey", "other", "{consumer: gone, hash: 'sha256:"+strings.Repeat("5", 64)+"'}"),
			[]string{"RefNotFound: APIKey default/other: spec.consumer: warning: there is no Consumer default/gone"}, []string{"default/all: default/a"}},
		{"load of a Backend that is not there", door + backendDoc("a", "") + docRoute + doc("LoadPolicy", "p", "{targetRefs: [{kind: Backend, name: gone}, {kind: Backend, name: a}]}"),
			[]string{"RefNotFound: LoadPolicy default/p: spec.targetRefs[0].name: warning: there is no Backend default/gone"}, []string{"default/all: default/a"}},
		{"limits of what is not there", door + backendDoc("a", "") + docRoute +
			doc("LimitPolicy", "p", "{targetRefs: [{kind: LLMGateway, name: x}, {kind: Route, name: x}, {kind: Consumer, name: x}, {kind: APIKey, name: x}, {kind: Route, name: all, sectionName: x}], limits: [{name: r, unit: Requests, limit: 5, window: 1m}]}"),
			[]string{
				"RefNotFound: LimitPolicy default/p: spec.targetRefs[0].name: warning: there is no LLMGateway default/x",
				"RefNotFound: LimitPolicy default/p: spec.targetRefs[1].name: warning: there is no Route default/x",
				"RefNotFound: LimitPolicy default/p: spec.targetRefs[2].name: warning: there is no Consumer default/x",
				"RefNotFound: LimitPolicy default/p: spec.targetRefs[3].name: warning: there is no APIKey default/x",
				`RefNotFound: LimitPolicy default/p: spec.targetRefs[4].sectionName: warning: the Route default/all has no rule named "x"`,
			}, []string{"default/all: default/a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			objs, opts := load(t, c.documents), options(t)
			if v, problems := Compile(objs, opts); v != nil || !source.HasErrors(problems) {
				t.Errorf("without Lenient it is compiled: %v", problems)
			}
			opts.Lenient = true
			v, problems := Compile(objs, opts)
			problems = slices.DeleteFunc(problems, func(p source.Problem) bool { return p.Reason == "" }) // advice
			slices.SortStableFunc(problems, func(a, b source.Problem) int { return strings.Compare(a.Field, b.Field) })
			expect(t, problems, c.want)
			if v == nil {
				t.Fatal("refused")
			}
			if got := ruleLines(v); !slices.Equal(got, c.rules) {
				t.Errorf("rules\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(c.rules, "\n  "))
			}
		})
	}
}

// TestLenientStillRefuses what is wrong with an object by itself: whoever keeps older versions of objects is told.
func TestLenientStillRefuses(t *testing.T) {
	opts := options(t)
	opts.Lenient = true
	v, problems := Compile(load(t, docGateway+docCaller+doc("Backend", "a", "{dialect: cohere, url: 'http://127.0.0.1:8000'}")+docRoute), opts)
	expect(t, problems, []string{
		"Backend default/a: spec.dialect: there is no dialect",
		"RefNotFound: Route default/all: spec.rules[0].backends[0].name: warning: Backend default/a cannot be used",
	})
	if v != nil {
		t.Error("compiled")
	}
	_, problems = Compile(load(t, docGateway+docCaller+backendDoc("a", "")+doc("Route", "all", "{rules: [{backends: [{name: a, weight: 0}]}]}")), opts)
	expect(t, problems, []string{"Route default/all: spec.rules[0].backends: every backend has weight 0"})
}

// found compiles a Backend default/a whose servers are found, and a second one that they fall back to.
func found(t *testing.T, spec v1alpha1.BackendSpec, policy string, servers []v1alpha1.Endpoint) (*Version, []source.Problem) {
	t.Helper()
	objs := load(t, docGateway+docCaller+backendDoc("a", "")+backendDoc("b", "")+
		doc("Route", "all", "{rules: [{backends: [{name: a}, {name: b, priority: 1}]}]}")+policy)
	spec.Dialect, spec.BasePath, spec.Protocol, spec.Connections = "openai", "/v1", v1alpha1.ProtocolAuto, objs.Backends[0].Spec.Connections
	objs.Backends[0].Spec = spec
	if servers != nil {
		objs.Endpoints[source.RefOf(objs.Backends[0])] = servers
	}
	opts := options(t)
	opts.Lenient = true
	return Compile(objs, opts)
}

func server(address string, port, weight int32) v1alpha1.Endpoint {
	return v1alpha1.Endpoint{Address: address, Port: port, Weight: weight}
}

// clusterOf is the cluster of Backend default/a.
func clusterOf(t *testing.T, v *Version) string {
	t.Helper()
	for name := range v.Clusters.Names() {
		if strings.HasPrefix(name, "backend/default/a/") {
			return name
		}
	}
	t.Fatal("there is no cluster of the Backend")
	return ""
}

func addressesOf(v *Version, cluster string) (out []string) {
	for _, group := range v.Endpoints[cluster].GetEndpoints() {
		for _, e := range group.GetLbEndpoints() {
			a := e.GetEndpoint().GetAddress().GetSocketAddress()
			out = append(out, fmt.Sprintf("%s %d x%d as %s", a.GetAddress(), a.GetPortValue(), e.GetLoadBalancingWeight().GetValue(), e.GetEndpoint().GetHostname()))
		}
	}
	return out
}

// TestFoundServers: a Backend's cluster keeps its name whatever servers are found, and rules go on without it while there are none.
func TestFoundServers(t *testing.T) {
	service := v1alpha1.BackendSpec{Service: &v1alpha1.ServiceBackend{Name: "gpu", Port: intstr.FromInt32(8000)}}
	selector := v1alpha1.BackendSpec{Selector: &v1alpha1.PodSelector{LabelSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "vllm"}}, Port: intstr.FromString("http")}}
	pool := v1alpha1.BackendSpec{InferencePool: &v1alpha1.InferencePoolBackend{Name: "llama"}}
	secure := service
	secure.TLS = &v1alpha1.BackendTLS{}
	named := selector
	named.TLS = &v1alpha1.BackendTLS{ServerName: "vllm.example"}
	load := doc("LoadPolicy", "p", "{targetRefs: [{kind: Backend, name: a}]}")
	for _, c := range []struct {
		name, policy, field, host string
		spec                      v1alpha1.BackendSpec
	}{
		{"service", "", "spec.service", "gpu.default.svc:8000", service},
		{"service over TLS", "", "spec.service", "gpu.default.svc:8000", secure},
		{"selector", "", "spec.selector", "a.default", selector},
		{"selector over TLS", "", "spec.selector", "vllm.example", named},
		{"inference pool", "", "spec.inferencePool", "llama.default", pool},
		{"steered service", load, "spec.service", "gpu.default.svc:8000", service},
		{"steered selector over TLS", load, "spec.selector", "vllm.example", named},
	} {
		t.Run(c.name, func(t *testing.T) {
			two, problems := found(t, c.spec, c.policy, []v1alpha1.Endpoint{server("10.0.0.1", 8000, 1), server("fd00::1", 8000, 7), server("10.0.0.1", 8000, 1)})
			expect(t, problems, nil)
			cluster := clusterOf(t, two)
			if got, want := addressesOf(two, cluster), []string{"10.0.0.1 8000 x1 as " + c.host, "fd00::1 8000 x7 as " + c.host}; !slices.Equal(got, want) {
				t.Errorf("servers %q, want %q", got, want)
			}
			if got := ruleLines(two); !slices.Equal(got, []string{"default/all: default/a, default/b"}) {
				t.Errorf("rules %q", got)
			}
			other, problems := found(t, c.spec, c.policy, []v1alpha1.Endpoint{server("10.0.0.9", 8001, 1)})
			expect(t, problems, nil)
			if got := clusterOf(t, other); got != cluster || other.ID == two.ID {
				t.Errorf("with other servers the cluster is %s, not %s, of version %s", got, cluster, other.ID)
			}
			if !slices.Equal(sortedRouteKeys(two), sortedRouteKeys(other)) {
				t.Errorf("with other servers the routes are others: %q, %q", sortedRouteKeys(two), sortedRouteKeys(other))
			}
			none, problems := found(t, c.spec, c.policy, []v1alpha1.Endpoint{})
			expect(t, problems, []string{"Backend default/a: " + c.field + ": warning: no server of the "})
			if got := clusterOf(t, none); got != cluster || len(none.Endpoints[got].GetEndpoints()) != 0 || none.Endpoints[got] == nil {
				t.Errorf("without servers the cluster is %s with %v", got, none.Endpoints[got])
			}
			if got := ruleLines(none); !slices.Equal(got, []string{"default/all: default/b, without default/a (none of its servers is ready)"}) {
				t.Errorf("rules %q", got)
			}
			if p := none.Pools["default/a"]; (p != nil) != (c.policy != "") || p != nil && (!p.EDS || len(p.Endpoints) != 0 || p.Cluster != cluster) {
				t.Errorf("the pool is %+v", p)
			}
			unknown, problems := found(t, c.spec, c.policy, nil)
			if unknown != nil || !slices.ContainsFunc(reasonsOf(problems), func(s string) bool {
				return strings.HasPrefix(s, "RefNotFound: Backend default/a: "+c.field+": the servers of the ")
			}) {
				t.Errorf("of servers that could not be looked up: %v", problems)
			}
		})
	}
	v, problems := found(t, service, load, []v1alpha1.Endpoint{server("gpu-0.gpu", 8000, 1), server("fe80::1%eth0", 8000, 1), server("10.0.0.1", 0, 1), server("::ffff:10.0.0.2", 8000, 0)})
	expect(t, problems, []string{
		"Backend default/a: spec.service: warning: 10.0.0.1, port 0, of the Service gpu is left out",
		"Backend default/a: spec.service: warning: fe80::1%eth0, port 8000, of the Service gpu is left out",
		"Backend default/a: spec.service: warning: gpu-0.gpu, port 8000, of the Service gpu is left out",
	})
	if p := v.Pools["default/a"]; len(p.Endpoints) != 1 || p.Endpoints[0] != (PoolEndpoint{Key: "10.0.0.2:8000", Host: "10.0.0.2", Port: 8000, Weight: 1}) {
		t.Errorf("the pool is %+v", p)
	}
}

func sortedRouteKeys(v *Version) []string {
	var out []string
	for k := range v.Routes.Names() {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
