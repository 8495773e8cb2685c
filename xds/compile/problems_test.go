package compile

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
)

// The parts that documents of the table below are made of.
const (
	docGateway = `
apiVersion: weir.dev/v1alpha1
kind: LLMGateway
metadata: {name: main}
spec: {listeners: [{name: http, address: 127.0.0.1, port: 8080}]}
---`
	docCaller = `
apiVersion: weir.dev/v1alpha1
kind: Consumer
metadata: {name: demo}
spec: {}
---
apiVersion: weir.dev/v1alpha1
kind: APIKey
metadata: {name: demo}
spec: {consumer: demo, hash: 'sha256:37a721706adc5240e60def713f9817d6800983f74ab6c89c32f41c244b29e03f'}
---`
	docRoute = `
apiVersion: weir.dev/v1alpha1
kind: Route
metadata: {name: all}
spec: {rules: [{backends: [{name: a}]}]}
---`
)

func doc(kind, name, spec string) string {
	return "\napiVersion: weir.dev/v1alpha1\nkind: " + kind + "\nmetadata: {name: " + name + "}\nspec: " + spec + "\n---"
}

func backendDoc(name, rest string) string {
	return doc("Backend", name, "{dialect: openai, url: 'http://127.0.0.1:8000/v1'"+rest+"}")
}

// TestProblems has every problem that compiling adds to those of the schema: which object, which field, what.
func TestProblems(t *testing.T) {
	door, served := docGateway+docCaller, docGateway+docCaller+backendDoc("a", "")
	for _, c := range []struct {
		name      string
		documents string
		want      []string // object: field: message, as Problem.String gives it without file and line
		edit      func(*source.Objects)
		opts      func(*Options)
	}{
		{name: "no gateway", documents: docCaller + backendDoc("a", "") + docRoute,
			want: []string{"there is no LLMGateway, so there is nothing to listen on"}},
		{name: "no route and no caller", documents: docGateway,
			want: []string{"warning: there is no APIKey and no JWTIssuer: every request will be refused with 401", "warning: there is no Route: every request will be answered with 404"}},
		{name: "text of nothing", documents: served + docRoute, edit: func(o *source.Objects) {
			o.Gateways[0].Spec.Telemetry.CaptureContent = &v1alpha1.CaptureContent{MaxBytes: resource.MustParse("1.5")}
		},
			want: []string{
				"LLMGateway default/main: spec.telemetry.captureContent.maxBytes: 1500m is not a whole number of bytes between 1 and 1Mi",
				"LLMGateway default/main: spec.telemetry.captureContent.parts: it names no part; write Input, Output or both, or leave captureContent out",
			}},
		{name: "expressions that are none", documents: docCaller + backendDoc("a", "") + docRoute + doc("LLMGateway", "main",
			`{listeners: [{name: http, address: 127.0.0.1, port: 8080}], telemetry: {captureContent: {parts: [Input], models: ["gpt-4 "], redact: ['sk-\w+', '(\d{4}', '(?=x)']}}}`),
			want: []string{
				`LLMGateway default/main: spec.telemetry.captureContent.models: a model name or pattern has 1 to 256 printable characters and no space at its ends`,
				`LLMGateway default/main: spec.telemetry.captureContent.redact[1]: "(\\d{4}" is not a regular expression (RE2): missing closing ): "(\\d{4}"`,
				`LLMGateway default/main: spec.telemetry.captureContent.redact[2]: "(?=x)" is not a regular expression (RE2): invalid or unsupported Perl syntax: "(?="`,
			}},
		{name: "two gateways on one port", documents: served + docRoute + doc("LLMGateway", "other", "{listeners: [{name: http, address: 127.0.0.1, port: 8080}]}"),
			want: []string{"LLMGateway default/other: spec.listeners[0].port: LLMGateway default/main already listens on 127.0.0.1:8080"}},
		{name: "listen option without port", documents: served + docRoute, opts: func(o *Options) { o.Listen = "localhost" },
			want: []string{`LLMGateway default/main: spec.listeners[0]: the listen address "localhost" is not host:port`}},
		{name: "listen option with a name", documents: served + docRoute, opts: func(o *Options) { o.Listen = "localhost:8080" },
			want: []string{`LLMGateway default/main: spec.listeners[0]: the listen address "localhost:8080" is not an IP address and a port`}},
		{name: "listen option with a port out of range", documents: served + docRoute, opts: func(o *Options) { o.Listen = "127.0.0.1:70000" },
			want: []string{`LLMGateway default/main: spec.listeners[0]: the listen address "127.0.0.1:70000" is not an IP address and a port`}},
		{name: "certificate and key of two pairs", documents: docCaller + backendDoc("a", "") + docRoute +
			doc("LLMGateway", "main", "{listeners: [{name: tls, port: 8443, tls: {certificateRef: {env: OTHER_CERTIFICATE}, privateKeyRef: {env: PRIVATE_KEY}}}]}"),
			want: []string{"LLMGateway default/main: spec.listeners[0].tls: certificate and private key do not work together: "}},
		{name: "certificate that is none", documents: docCaller + backendDoc("a", "") + docRoute +
			doc("LLMGateway", "main", "{listeners: [{name: tls, port: 8443, tls: {certificateRef: {env: NOT_PEM}, privateKeyRef: {env: OPENAI_KEY}}}]}"),
			want: []string{"LLMGateway default/main: spec.listeners[0].tls: certificate and private key do not work together: "}},
		{name: "certificate and key that are not there", documents: docCaller + backendDoc("a", "") + docRoute +
			doc("LLMGateway", "main", "{listeners: [{name: tls, port: 8443, tls: {certificateRef: {env: CERTIFICATE}, privateKeyRef: {env: PRIVATE_KEY}}}]}"),
			edit: forgetSecrets,
			want: []string{"LLMGateway default/main: spec.listeners[0].tls.certificateRef: it cannot be read", "LLMGateway default/main: spec.listeners[0].tls.privateKeyRef: it cannot be read"}},

		{name: "load of a Backend that is not there", documents: served + docRoute + doc("LoadPolicy", "p", "{targetRefs: [{kind: Backend, name: b}]}"),
			want: []string{"LoadPolicy default/p: spec.targetRefs[0].name: there is no Backend default/b"}},
		{name: "load of a gateway that is not there", documents: served + docRoute + doc("LoadPolicy", "p", "{targetRefs: [{kind: LLMGateway, name: other}]}"),
			want: []string{"LoadPolicy default/p: spec.targetRefs[0].name: there is no LLMGateway default/other"}},
		{name: "load of a Backend twice", documents: served + docRoute + doc("LoadPolicy", "p", "{targetRefs: [{kind: Backend, name: a}]}") +
			doc("LoadPolicy", "q", "{targetRefs: [{kind: LLMGateway, name: main}, {kind: Backend, name: a}]}"),
			want: []string{"LoadPolicy default/q: spec.targetRefs[0]: warning: every Backend of the namespace default is named by a LoadPolicy, so this target covers none",
				"LoadPolicy default/q: spec.targetRefs[1]: LoadPolicy default/p steers this Backend already; name it in one of the two"}},
		{name: "load of a Backend named twice", documents: served + docRoute + doc("LoadPolicy", "p", "{targetRefs: [{kind: Backend, name: a}, {kind: Backend, name: a}]}"),
			want: []string{"LoadPolicy default/p: spec.targetRefs[1]: the target Backend a is named twice"}},
		{name: "load of all Backends twice", documents: served + docRoute + doc("LoadPolicy", "p", "{targetRefs: [{kind: LLMGateway, name: main}]}") +
			doc("LoadPolicy", "q", "{targetRefs: [{kind: LLMGateway, name: main}]}"),
			want: []string{"LoadPolicy default/q: spec.targetRefs[0]: LoadPolicy default/p steers all Backends of the namespace default already; name Backends in one of the two"}},
		{name: "load of nobody left", documents: served + docRoute + doc("LoadPolicy", "p", "{targetRefs: [{kind: Backend, name: a}]}") +
			doc("LoadPolicy", "q", "{targetRefs: [{kind: LLMGateway, name: main}]}"),
			want: []string{"LoadPolicy default/q: spec.targetRefs[0]: warning: every Backend of the namespace default is named by a LoadPolicy, so this target covers none"}},
		{name: "signals that nobody reads", documents: door + backendDoc("a", ", healthCheck: {path: /health}, metrics: [{type: VLLM}]") + docRoute,
			want: []string{
				"Backend default/a: spec.healthCheck: warning: no LoadPolicy steers this Backend, so nobody checks; make a LoadPolicy with a targetRef to it, or to the LLMGateway",
				"Backend default/a: spec.metrics: warning: no LoadPolicy steers this Backend, so nobody reads them; make a LoadPolicy with a targetRef to it, or to the LLMGateway"}},
		{name: "steered endpoints by name", documents: door + doc("Backend", "a", "{dialect: openai, endpoints: [{address: 10.0.0.1, port: 80}, {address: gpu.example, port: 80}]}") + docRoute +
			doc("LoadPolicy", "p", "{targetRefs: [{kind: Backend, name: a}]}"),
			want: []string{"Backend default/a: spec.endpoints: warning: gpu.example is a name, which Envoy resolves by itself: LoadPolicy default/p steers this Backend as a whole, by its share among the Backends of a rule, and its endpoints get no weights, no isolation and no picking of their own; write IP addresses for that"}},
		{name: "steered endpoints twice", documents: door + doc("Backend", "a", "{dialect: openai, endpoints: [{address: '::1', port: 80}, {address: '0:0::1', port: 80}]}") + docRoute +
			doc("LoadPolicy", "p", "{targetRefs: [{kind: Backend, name: a}]}"),
			want: []string{"Backend default/a: spec.endpoints[1]: [::1]:80 is endpoint 0 already; for a larger share give that one a weight"}},
		{name: "a queue that is always too long", documents: served + docRoute + doc("LoadPolicy", "p", "{targetRefs: [{kind: Backend, name: a}], weights: {queueDelay: {enter: 0s, leave: 0s, factorPercent: 50}}}"),
			want: []string{"LoadPolicy default/p: spec.weights.queueDelay.enter: every queue is longer than 0s; write how long requests may wait before the rule applies, or factorPercent: 100 to turn it off"}},
		{name: "sessions by a header that is removed", documents: served + docRoute + doc("LoadPolicy", "p", "{targetRefs: [{kind: Backend, name: a}], picking: {sessionAffinity: {header: X-Weir-Session}}}"),
			want: []string{"LoadPolicy default/p: spec.picking.sessionAffinity.header: x-weir- headers are removed at the door, so no request would have a session"}},
		{name: "picking that nobody does", documents: served + docRoute + doc("LoadPolicy", "p", "{targetRefs: [{kind: Backend, name: a}], admission: {maxRequestsPerEndpoint: 4}, picking: {mode: Weights, prefixAffinity: {}, sessionAffinity: {}}}"),
			want: []string{"LoadPolicy default/p: spec.admission: warning: it needs picking.mode LeastLoad; with Weights Envoy picks, and this does nothing",
				"LoadPolicy default/p: spec.picking.prefixAffinity: warning: it needs picking.mode LeastLoad; with Weights Envoy picks, and this does nothing",
				"LoadPolicy default/p: spec.picking.sessionAffinity: warning: it needs picking.mode LeastLoad; with Weights Envoy picks, and this does nothing"}},

		{name: "unknown dialect", documents: door + doc("Backend", "a", "{dialect: cohere, url: 'http://127.0.0.1:8000'}") + docRoute,
			want: []string{`Backend default/a: spec.dialect: there is no dialect "cohere"; known are openai, anthropic, dashscope`}},
		{name: "tls with a plain URL", documents: door + backendDoc("a", ", tls: {serverName: x}") + docRoute,
			want: []string{"Backend default/a: spec.url: tls is set, but the URL begins with http://; write https://"}},
		{name: "port zero", documents: door + doc("Backend", "a", "{dialect: openai, url: 'http://127.0.0.1:0/v1'}") + docRoute,
			want: []string{`Backend default/a: spec.url: port "0" is not between 1 and 65535`}},
		{name: "port too large", documents: door + doc("Backend", "a", "{dialect: openai, url: 'http://127.0.0.1:65536/v1'}") + docRoute,
			want: []string{`Backend default/a: spec.url: port "65536" is not between 1 and 65535`}},
		{name: "hosts that are none", documents: door + doc("Backend", "a", "{dialect: openai, endpoints: [{address: 1.2.3.400, port: 80}, {address: 10.0.0.1, port: 80}, {address: '7', port: 80}, {address: 10.0.0.01, port: 80}, {address: 'gpu:8000', port: 80}]}") + docRoute,
			want: []string{
				`Backend default/a: spec.endpoints[0].address: "1.2.3.400" is neither an IP address nor a name: an IPv4 address has four numbers from 0 to 255 without zeros in front, and a name has letters`,
				`Backend default/a: spec.endpoints[2].address: "7" is neither`,
				`Backend default/a: spec.endpoints[3].address: "10.0.0.01" is neither`,
				`Backend default/a: spec.endpoints[4].address: "gpu:8000" is neither an IP address nor a name; a port is written into port`}},
		{name: "URL of a host that is none", documents: door + doc("Backend", "a", "{dialect: openai, url: 'http://1.2.3.400:8000/v1'}") + docRoute,
			want: []string{`Backend default/a: spec.url: "1.2.3.400" is neither an IP address nor a name`}},
		{name: "endpoints twice", documents: door + doc("Backend", "a", "{dialect: openai, endpoints: [{address: 10.0.0.1, port: 80}, {address: 10.0.0.1, port: 81}, {address: 10.0.0.1, port: 80}, {address: GPU.example, port: 80}, {address: gpu.example, port: 80}]}") + docRoute,
			want: []string{"Backend default/a: spec.endpoints[2]: 10.0.0.1:80 is endpoint 0 already; for a larger share give that one a weight",
				"Backend default/a: spec.endpoints[4]: gpu.example:80 is endpoint 3 already"}},
		{name: "credential that is not there", documents: door + backendDoc("a", ", credential: {secretRef: {env: OPENAI_KEY}}") + docRoute, edit: forgetSecrets,
			want: []string{"Backend default/a: spec.credential.secretRef: the key cannot be read"}},
		{name: "credential with a space", documents: door + backendDoc("a", ", credential: {secretRef: {env: KEY_WITH_SPACE}}") + docRoute,
			want: []string{"Backend default/a: spec.credential.secretRef: the key is empty, or has spaces or characters that a header cannot carry"}},
		{name: "credential with a line break", documents: door + backendDoc("a", ", credential: {secretRef: {env: KEY_WITH_BREAK}}") + docRoute,
			want: []string{"Backend default/a: spec.credential.secretRef: the key is empty, or has spaces or characters that a header cannot carry"}},
		{name: "authorities that are not there", documents: door + doc("Backend", "a", "{dialect: openai, url: 'https://127.0.0.1/v1', tls: {caRef: {env: CA}}}") + docRoute, edit: forgetSecrets,
			want: []string{"Backend default/a: spec.tls.caRef: the certificate authorities cannot be read"}},
		{name: "authorities that are none", documents: door + doc("Backend", "a", "{dialect: openai, url: 'https://127.0.0.1/v1', tls: {caRef: {env: NOT_PEM}}}") + docRoute,
			want: []string{"Backend default/a: spec.tls.caRef: there is no certificate in it; give the certificate authorities as PEM"}},
		{name: "system without authorities", documents: door + doc("Backend", "a", "{dialect: openai, url: 'https://127.0.0.1/v1'}") + docRoute, opts: func(o *Options) { o.SystemCAs = "" },
			want: []string{"Backend default/a: spec.tls.caRef: this system's certificate authorities were not found, "}},
		{name: "no verification", documents: door + doc("Backend", "a", "{dialect: openai, url: 'https://127.0.0.1/v1', tls: {insecureSkipVerify: true}}") + docRoute,
			want: []string{"Backend default/a: spec.tls.insecureSkipVerify: warning: any certificate is accepted from this backend; use it for tests only"}},

		{name: "unknown backend", documents: served + doc("Route", "r", "{rules: [{backends: [{name: a}, {name: b}]}]}"),
			want: []string{"Route default/r: spec.rules[0].backends[1].name: there is no Backend default/b"}},
		{name: "backend of another namespace", documents: served + "\napiVersion: weir.dev/v1alpha1\nkind: Route\nmetadata: {name: r, namespace: other}\nspec: {rules: [{backends: [{name: a}]}]}\n",
			want: []string{"Route other/r: spec.rules[0].backends[0].name: there is no Backend other/a"}},
		{name: "model that is a pattern", documents: served + doc("Route", "r", "{rules: [{backends: [{name: a, model: 'gpt-*'}]}]}"),
			want: []string{"Route default/r: spec.rules[0].backends[0].model: a model asked of a backend is a name, not a pattern"}},
		{name: "model with control characters", documents: served + doc("Route", "r", `{rules: [{backends: [{name: a, model: "gpt\n4"}, {name: a, model: "gpt\u0085"}, {name: a, model: "gpt 4 é"}]}]}`),
			want: []string{"Route default/r: spec.rules[0].backends[0].model: the name of a model has no control characters, and this one has: remove line breaks, tabs and the like",
				"Route default/r: spec.rules[0].backends[1].model: the name of a model has no control characters"}},
		{name: "model that the backend does not list", documents: door + backendDoc("a", ", models: [{name: gpt-4o}]") + doc("Route", "r", "{rules: [{backends: [{name: a, model: gpt-5}]}]}"),
			want: []string{`Route default/r: spec.rules[0].backends[0].model: Backend default/a does not list the model "gpt-5"`}},
		{name: "weights of zero", documents: served + doc("Route", "r", "{rules: [{backends: [{name: a, weight: 0}]}]}"),
			want: []string{"Route default/r: spec.rules[0].backends: every backend has weight 0, so nothing can serve the rule"}},
		{name: "two rules of one name", documents: served + doc("Route", "r", "{rules: [{name: x, backends: [{name: a}]}, {name: x, backends: [{name: a}]}]}"),
			want: []string{"Route default/r: spec.rules[1].name: rules 0 and 1 have the same name"}},
		{name: "a rule named like another's number", documents: served + doc("Route", "r", "{rules: [{backends: [{name: a}]}, {name: '0', backends: [{name: a}]}]}"),
			want: []string{"Route default/r: spec.rules[1].name: rules 0 and 1 have the same name"}},
		{name: "model that nothing serves", documents: door + backendDoc("a", ", models: [{name: gpt-4o}]") + doc("Route", "r", "{rules: [{matches: [{models: [gpt-4o, gpt-5]}], backends: [{name: a}]}]}"),
			want: []string{`Route default/r: spec.rules[0].matches[0].models[1]: no backend of this rule serves the model "gpt-5"; list it in a Backend, or give the backend of this rule a model`}},
		{name: "pattern that cannot be", documents: served + doc("Route", "r", `{rules: [{matches: [{models: ["gpt *\t"]}], backends: [{name: a}]}]}`),
			want: []string{"Route default/r: spec.rules[0].matches[0].models: a model name or pattern has 1 to 256 printable characters and no space at its ends"}},
		{name: "paths that no request has", documents: served + doc("Route", "r", "{rules: [{matches: [{path: {value: '/v1?a=b'}}, {path: {value: '/a/%2E./b'}}, {path: {value: '/a b'}}, {path: {type: Exact, value: '/a/.'}}, {path: {value: '/a..b/%2e%2ec'}}], backends: [{name: a}]}]}"),
			want: []string{
				"Route default/r: spec.rules[0].matches[0].path.value: a path is matched without its query and fragment, so this match can never apply; match parameters by queryParams",
				"Route default/r: spec.rules[0].matches[1].path.value: the segments . and .. are resolved at the door, so this match can never apply",
				"Route default/r: spec.rules[0].matches[2].path.value: paths have neither spaces nor control characters, so this match can never apply; write them percent-encoded",
				"Route default/r: spec.rules[0].matches[3].path.value: the segments . and .. are resolved at the door, so this match can never apply"}},
		{name: "header of Weir's own", documents: served + doc("Route", "r", "{rules: [{matches: [{headers: [{name: X-Weir-Tenant, value: a}]}], backends: [{name: a}]}]}"),
			want: []string{"Route default/r: spec.rules[0].matches[0].headers[0].name: x-weir- headers are removed at the door, so this match can never apply"}},
		{name: "header of Envoy's own", documents: served + doc("Route", "r", "{rules: [{matches: [{headers: [{name: x-envoy-retry-on, value: a}]}], backends: [{name: a}]}]}"),
			want: []string{"Route default/r: spec.rules[0].matches[0].headers[0].name: x-envoy- headers are removed at the door, so this match can never apply"}},
		{name: "expression that is none", documents: served + doc("Route", "r", "{rules: [{matches: [{}, {headers: [{name: a, value: b}, {name: x, type: RegularExpression, value: '('}]}], backends: [{name: a}]}]}"),
			want: []string{"Route default/r: spec.rules[0].matches[1].headers[1].value: not a regular expression: "}},
		{name: "expression of a parameter that is none", documents: served + doc("Route", "r", "{rules: [{matches: [{queryParams: [{name: x, type: RegularExpression, value: '[z-a]'}]}], backends: [{name: a}]}]}"),
			want: []string{"Route default/r: spec.rules[0].matches[0].queryParams[0].value: not a regular expression: "}},

		{name: "key of nobody", documents: served + docRoute + doc("APIKey", "k", "{consumer: nobody, hash: 'sha256:0000000000000000000000000000000000000000000000000000000000000001'}"),
			want: []string{"APIKey default/k: spec.consumer: there is no Consumer default/nobody"}},
		{name: "key that is not there", documents: served + docRoute + doc("APIKey", "k", "{consumer: demo, secretRef: {env: CLIENT_KEY}}"), edit: forgetSecrets,
			want: []string{"APIKey default/k: spec.secretRef: the key cannot be read"}},
		{name: "one key twice", documents: served + docRoute + doc("APIKey", "k", "{consumer: demo, hash: 'sha256:37a721706adc5240e60def713f9817d6800983f74ab6c89c32f41c244b29e03f'}"),
			want: []string{"APIKey default/k: spec.hash: another APIKey holds the same key; a key belongs to one APIKey"}},
		{name: "hash that is none", documents: served + docRoute + doc("APIKey", "k", "{consumer: demo, hash: 'sha256:0000000000000000000000000000000000000000000000000000000000000001'}"),
			edit: func(o *source.Objects) { o.APIKeys[1].Spec.Hash = "md5:1" },
			want: []string{`APIKey default/k: spec.hash: a key hash is "sha256:" or "hmac-sha256:" and 64 lower-case hexadecimal digits; make one with "weir keys hash"`}},
		{name: "shared secret that is short", documents: served + docRoute + doc("JWTIssuer", "i", "{issuer: 'https://i', audiences: [a], algorithms: [HS256], keys: {secretRef: {env: SHORT_SECRET}}}"),
			want: []string{"JWTIssuer default/i: spec.keys.secretRef: "}},
		{name: "shared secret that is not there", documents: served + docRoute + doc("JWTIssuer", "i", "{issuer: 'https://i', audiences: [a], algorithms: [HS256], keys: {secretRef: {env: JWT_SECRET}}}"), edit: forgetSecrets,
			want: []string{"JWTIssuer default/i: spec.keys.secretRef: the secret cannot be read"}},
		{name: "key set that is not there", documents: served + docRoute + doc("JWTIssuer", "i", "{issuer: 'https://i', audiences: [a], algorithms: [EdDSA], keys: {file: jwks.txt}}"), edit: forgetSecrets,
			want: []string{"JWTIssuer default/i: spec.keys.file: the key set cannot be read"}},
		{name: "key set without keys", documents: served + docRoute + doc("JWTIssuer", "i", "{issuer: 'https://i', audiences: [a], algorithms: [EdDSA], keys: {file: empty-jwks.txt}}"),
			want: []string{"JWTIssuer default/i: spec.keys.file: the document holds no usable key"}},
		{name: "key set without a fetcher", documents: served + docRoute + doc("JWTIssuer", "i", "{issuer: 'https://i', audiences: [a], algorithms: [RS256], keys: {url: 'https://i/jwks'}}"),
			opts: func(o *Options) { o.Keys = nil },
			want: []string{"JWTIssuer default/i: spec.keys.url: key sets cannot be fetched here; give a file"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			objs, opts := load(t, c.documents), options(t)
			if c.edit != nil {
				c.edit(objs)
			}
			if c.opts != nil {
				c.opts(&opts)
			}
			v, problems := Compile(objs, opts)
			if (v == nil) != source.HasErrors(problems) {
				t.Errorf("a version comes with and only with problems that are no errors: %v, %v", v != nil, problems)
			}
			for i, p := range problems {
				got := p
				if p.Object != (source.ObjectRef{}) && (p.File != "in.yaml" || p.Line == 0) {
					t.Errorf("%v does not say where", p)
				}
				got.File = ""
				if i >= len(c.want) || !strings.HasPrefix(got.String(), c.want[i]) {
					t.Errorf("problem %d is\n  %s\nwant\n  %q", i, got, c.want)
				}
				if strings.Contains(p.String(), marker) {
					t.Errorf("a secret is in %q", p)
				}
			}
			if len(problems) < len(c.want) {
				t.Errorf("got %d problems: %v, want %q", len(problems), problems, c.want)
			}
		})
	}
}

// forgetSecrets makes a source that could not read what objects point to.
func forgetSecrets(o *source.Objects) { o.Secrets = map[source.SecretKey]source.Secret{} }

// TestOneBadObjectBringsOneProblem: what points to it does not complain as well.
func TestOneBadObjectBringsOneProblem(t *testing.T) {
	_, problems := Compile(load(t, docGateway+docCaller+doc("Backend", "a", "{dialect: cohere, url: 'http://127.0.0.1:8000'}")+docRoute), options(t))
	if len(problems) != 1 {
		t.Errorf("got %v", problems)
	}
}

// TestListenOption replaces the first listener's address alone.
func TestListenOption(t *testing.T) {
	opts := options(t)
	for listen, want := range map[string]string{"127.0.0.1:9999": "127.0.0.1:9999", ":9998": "0.0.0.0:9998", "[::1]:9997": "::1:9997"} {
		opts.Listen = listen
		v, problems := Compile(load(t, docCaller+backendDoc("a", "")+docRoute+
			doc("LLMGateway", "main", "{listeners: [{name: one, port: 8080}, {name: two, port: 8081}]}")), opts)
		if v == nil {
			t.Fatal(problems)
		}
		for name, want := range map[string]string{"gateway/default/main/one": want, "gateway/default/main/two": "0.0.0.0:8081"} {
			a := v.Listeners[name].GetAddress().GetSocketAddress()
			if got := a.GetAddress() + ":" + itoa(a.GetPortValue()); got != want {
				t.Errorf("%s listens on %s, want %s", name, got, want)
			}
		}
	}
}

// TestAuthorities: what Envoy would refuse of a list of authorities, and with it everything, is refused here.
func TestAuthorities(t *testing.T) {
	good := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: selfSigned(t)}))
	for name, c := range map[string]struct {
		text string
		n    int // certificates; 0: refused
	}{
		"one":                 {good, 1},
		"two, and words":      {"# ours\n" + good + "\n# theirs\n" + good + "the end\n", 2},
		"none":                {"# nothing\n", 0},
		"broken":              {good + "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", 0},
		"cut off":             {good + good[:len(good)/2], 0},
		"characters":          {good + strings.Replace(good, "\n", "\n!!!!", 1), 0},
		"something else":      {good + "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n", 0},
		"with other newlines": {strings.ReplaceAll(good, "\n", "\r\n"), 1},
	} {
		got, err := certificates(c.text)
		if (err == nil) != (c.n > 0) || got != strings.Repeat(good, c.n) {
			t.Errorf("%s: %v\n%s", name, err, got)
		}
	}
}

// selfSigned is a certificate, DER.
func selfSigned(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(cryptorand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
