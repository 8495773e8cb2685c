package kubernetes

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/kubetest"
)

// wrong is an object that is not valid, and who says so.
type wrong struct {
	name string // of the case and, with - for spaces, of the object
	kind string
	spec string
	// by is what refuses it: schema and rule (of CEL) when it is applied; else the condition that is false.
	by string
	// reason of the condition.
	reason string
	// field as it must be named, and words that must be said of it.
	field, says string
}

// Who refuses.
const (
	bySchema   = "schema"
	byRule     = "rule"
	byAccepted = "Accepted"
	byRefs     = "ResolvedRefs"
)

// appHash is that of the key that the consumer "app" has.
var appHash = identity.HashKey(harness.DefaultKey)

var wrongs = []wrong{
	{name: "a url that is none", kind: "Backend", by: byRule, field: "spec.url", says: "url must be an absolute http or https URL", spec: "{dialect: openai, url: 'not a url'}"},
	{name: "a url with a scheme that is not http", kind: "Backend", by: byRule, field: "spec.url", says: "url must be an absolute http or https URL", spec: "{dialect: openai, url: 'ftp://files.example.com'}"},
	{name: "a url with a password", kind: "Backend", by: byRule, field: "spec.url", says: "user information", spec: "{dialect: openai, url: 'https://me:secret@api.example.com'}"},
	{name: "no dialect", kind: "Backend", by: bySchema, field: "spec.dialect", says: "Required", spec: "{url: 'https://api.example.com'}"},
	{name: "two places", kind: "Backend", by: byRule, field: "spec", says: "exactly one of", spec: "{dialect: openai, url: 'https://api.example.com', service: {name: vllm, port: 80}}"},
	{name: "no place", kind: "Backend", by: byRule, field: "spec", says: "exactly one of", spec: "{dialect: openai}"},
	{name: "a port that is too high", kind: "Backend", by: bySchema, field: "spec.endpoints[0].port", says: "65535", spec: "{dialect: openai, endpoints: [{address: 10.0.0.1, port: 70000}]}"},
	{name: "a port of a Service that is 0", kind: "Backend", by: byRule, field: "spec.service.port", says: "port must be a number from 1 to 65535", spec: "{dialect: openai, service: {name: vllm, port: 0}}"},
	{name: "an empty selector", kind: "Backend", by: byRule, field: "spec.selector", says: "an empty selector would be every Pod", spec: "{dialect: openai, selector: {port: 8000}}"},
	{name: "two sources of a secret", kind: "Backend", by: byRule, field: "spec.credential.secretRef", says: "exactly one of name, file, env", spec: "{dialect: openai, url: 'https://api.example.com', credential: {secretRef: {name: a, env: B}}}"},
	{name: "a namespace of a file", kind: "Backend", by: byRule, field: "spec.credential.secretRef", says: "namespace belongs to name", spec: "{dialect: openai, url: 'https://api.example.com', credential: {secretRef: {file: a, namespace: b}}}"},
	{name: "a field that does not exist", kind: "Backend", by: bySchema, field: "spec.urll", says: "field not declared in schema", spec: "{dialect: openai, urll: 'https://api.example.com'}"},
	{name: "a health check that is too quick", kind: "Backend", by: byRule, field: "spec.healthCheck.interval", says: "interval must be from 50ms to 10m", spec: "{dialect: openai, url: 'https://api.example.com', healthCheck: {interval: 1ms}}"},
	{name: "no rules", kind: "Route", by: bySchema, field: "spec.rules", says: "should have at least 1 items", spec: "{rules: []}"},
	{name: "a rule without backends", kind: "Route", by: bySchema, field: "spec.rules[0].backends", says: "Required", spec: "{rules: [{name: a}]}"},
	{name: "a negative weight", kind: "Route", by: bySchema, field: "spec.rules[0].backends[0].weight", says: "greater than or equal to 0", spec: "{rules: [{backends: [{name: up, weight: -1}]}]}"},
	{name: "a method that does not exist", kind: "Route", by: bySchema, field: "spec.rules[0].matches[0].method", says: "Unsupported value", spec: "{rules: [{matches: [{method: FETCH}], backends: [{name: up}]}]}"},
	{name: "a path without a slash", kind: "Route", by: bySchema, field: "spec.rules[0].matches[0].path.value", says: "should match", spec: "{rules: [{matches: [{path: {value: v1}}], backends: [{name: up}]}]}"},
	{name: "a timeout of nothing", kind: "Route", by: byRule, field: "spec.rules[0].timeouts.request", says: "must be longer than zero", spec: "{rules: [{timeouts: {request: 0s}, backends: [{name: up}]}]}"},
	{name: "no listener", kind: "LLMGateway", by: bySchema, field: "spec.listeners", says: "should have at least 1 items", spec: "{listeners: []}"},
	{name: "two listeners on one port", kind: "LLMGateway", by: byRule, field: "spec.listeners", says: "two listeners have the same address and port", spec: "{listeners: [{name: a, port: 9090}, {name: b, port: 9090}]}"},
	{name: "an address that is a name", kind: "LLMGateway", by: byRule, field: "spec.listeners[0].address", says: "address must be an IP address", spec: "{listeners: [{name: a, address: localhost, port: 9090}]}"},
	{name: "a ledger in Redis without Redis", kind: "LLMGateway", by: byRule, field: "spec", says: "accounting.ledger Redis needs sharedState", spec: "{listeners: [{name: a, port: 9090}], accounting: {ledger: Redis}}"},
	{name: "no entry of routes", kind: "LLMGateway", by: bySchema, field: "spec.allowedRoutes", says: "should have at least 1 items", spec: "{listeners: [{name: a, port: 9090}], allowedRoutes: []}"},
	{name: "a selector of all namespaces", kind: "LLMGateway", by: byRule, field: "spec.allowedRoutes[0].namespaces", says: "selector belongs to from: Selector", spec: "{listeners: [{name: a, port: 9090}], allowedRoutes: [{namespaces: {from: All, selector: {}}}]}"},
	{name: "no selector", kind: "LLMGateway", by: byRule, field: "spec.allowedRoutes[0].namespaces", says: "selector belongs to from: Selector", spec: "{listeners: [{name: a, port: 9090}], allowedRoutes: [{namespaces: {from: Selector}}]}"},
	{name: "a placeholder that is none", kind: "LLMGateway", by: bySchema, field: "spec.allowedRoutes[0].pathPrefixes[0]", says: "should match", spec: "{listeners: [{name: a, port: 9090}], allowedRoutes: [{pathPrefixes: ['/{tenant}']}]}"},
	{name: "a key and its hash", kind: "APIKey", by: byRule, field: "spec", says: "exactly one of hash, secretRef", spec: "{consumer: app, hash: 'sha256:" + strings.Repeat("0", 64) + "', secretRef: {name: a}}"},
	{name: "a hash that is too short", kind: "APIKey", by: bySchema, field: "spec.hash", says: "should match", spec: "{consumer: app, hash: 'sha256:00'}"},
	{name: "a network that is none", kind: "APIKey", by: byRule, field: "spec.allowedCIDRs[0]", says: "write a network such as 10.1.0.0/16", spec: "{consumer: app, hash: 'sha256:" + strings.Repeat("0", 64) + "', allowedCIDRs: [10.0.0.256/8]}"},
	{name: "a secret for asymmetric tokens", kind: "JWTIssuer", by: byRule, field: "spec", says: "HS256, HS384 and HS512 need keys.secretRef", spec: "{issuer: 'https://login.example.com', audiences: [a], algorithms: [RS256], keys: {secretRef: {name: a}}}"},
	{name: "a limit without a window", kind: "LimitPolicy", by: byRule, field: "spec.limits[0]", says: "give the window", spec: "{targetRefs: [{kind: Tenant, name: app}], limits: [{name: a, unit: Requests, limit: 10}]}"},
	{name: "a policy of nothing", kind: "LimitPolicy", by: byRule, field: "spec", says: "give limits, circuitBreaker or both", spec: "{targetRefs: [{kind: Tenant, name: app}]}"},
	{name: "a section of a Tenant", kind: "LimitPolicy", by: byRule, field: "spec.targetRefs[0]", says: "sectionName names a rule of a Route", spec: "{targetRefs: [{kind: Tenant, name: app, sectionName: a}], limits: [{name: a, unit: Requests, limit: 10, window: 1m}]}"},
	{name: "a budget of nothing", kind: "Budget", by: byRule, field: "spec.amount", says: "amount must be a quantity above 0", spec: "{targetRefs: [{kind: Tenant, name: app}], amount: 0, period: Month}"},
	{name: "a grant that fits nothing", kind: "ReferenceGrant", by: byRule, field: "spec", says: "from and to do not belong together", spec: "{from: [{kind: Route, namespace: a}], to: [{kind: Secret}]}"},

	{name: "a Backend that does not exist", kind: "Route", by: byRefs, reason: "RefNotFound", field: "spec.rules[0].backends[0].name", says: "there is no Backend", spec: "{rules: [{matches: [{models: [w1]}], backends: [{name: nobody}]}]}"},
	{name: "a Backend of others", kind: "Route", by: byRefs, reason: "RefNotPermitted", field: "spec.rules[0].backends[0].namespace", says: "ReferenceGrant", spec: "{rules: [{matches: [{models: [w2]}], backends: [{name: up, namespace: elsewhere}]}]}"},
	{name: "a model that the Backend does not list", kind: "Route", by: byRefs, reason: "RefNotFound", field: "spec.rules[0].backends[0].model", says: "does not list the model", spec: "{rules: [{matches: [{models: [w3]}], backends: [{name: up, model: gpt-9}]}]}"},
	{name: "a regular expression that is none", kind: "Route", by: byAccepted, reason: "Invalid", field: "spec.rules[0].matches[0].headers[0].value", says: "not a regular expression", spec: "{rules: [{matches: [{headers: [{type: RegularExpression, name: x-a, value: '('}]}], backends: [{name: up}]}]}"},
	{name: "a header that never arrives", kind: "Route", by: byAccepted, reason: "Invalid", field: "spec.rules[0].matches[0].headers[0].name", says: "can never apply", spec: "{rules: [{matches: [{headers: [{name: x-weir-backend, value: a}]}], backends: [{name: up}]}]}"},
	{name: "a dialect that nobody speaks", kind: "Backend", by: byAccepted, reason: "Invalid", field: "spec.dialect", says: "gemini", spec: "{dialect: gemini, url: 'https://api.example.com'}"},
	{name: "a Secret that does not exist", kind: "Backend", by: byRefs, reason: "SecretUnavailable", field: "spec.credential.secretRef", says: "no-secret", spec: "{dialect: openai, url: 'https://api.example.com', credential: {secretRef: {name: no-secret}}}"},
	{name: "a key that the Secret does not have", kind: "Backend", by: byRefs, reason: "SecretUnavailable", field: "spec.credential.secretRef", says: "no-such-key", spec: "{dialect: openai, url: 'https://api.example.com', credential: {secretRef: {name: key-up, key: no-such-key}}}"},
	{name: "a variable of the gateway", kind: "Backend", by: byRefs, reason: "RefNotPermitted", field: "spec.credential.secretRef.env", says: "may not point to files and environment variables of the gateway", spec: "{dialect: openai, url: 'https://api.example.com', credential: {secretRef: {env: PATH}}}"},
	{name: "a Secret of others", kind: "Backend", by: byRefs, reason: "RefNotPermitted", field: "spec.credential.secretRef", says: "ReferenceGrant", spec: "{dialect: openai, url: 'https://api.example.com', credential: {secretRef: {name: a, namespace: elsewhere}}}"},
	{name: "a Service that does not exist", kind: "Backend", by: byRefs, reason: "RefNotFound", field: "spec.service.name", says: "there is no Service", spec: "{dialect: openai, service: {name: nowhere, port: 80}}"},
	{name: "prices of one name", kind: "Backend", by: byAccepted, reason: "Invalid", field: "spec.prices[1].version", says: "named", spec: "{dialect: openai, url: 'https://api.example.com', prices: [{version: a, input: '1', output: '1'}, {version: a, effectiveFrom: '2027-01-01T00:00:00Z', input: '2', output: '2'}]}"},
	{name: "a Consumer that does not exist", kind: "APIKey", by: byRefs, reason: "RefNotFound", field: "spec.consumer", says: "nobody", spec: "{consumer: nobody, hash: 'sha256:" + strings.Repeat("1", 64) + "'}"},
	{name: "a key that another has", kind: "APIKey", by: byAccepted, reason: "Conflict", field: "spec.hash", says: "another APIKey", spec: "{consumer: app, hash: '" + appHash + "'}"},
	{name: "a port that another has", kind: "LLMGateway", by: byAccepted, reason: "Conflict", field: "spec.listeners[0]", says: "e2e-second", spec: "{listeners: [{name: b, address: 127.0.0.1, port: PORT}]}"},
	{name: "a certificate that is none", kind: "LLMGateway", by: byAccepted, reason: "Invalid", field: "spec.listeners[0].tls", says: "PEM", spec: "{listeners: [{name: c, address: 127.0.0.1, port: 9443, tls: {certificateRef: {name: key-up}, privateKeyRef: {name: key-up}}}]}"},
	{name: "a selector that is none", kind: "LLMGateway", by: byAccepted, reason: "Invalid", field: "spec.allowedRoutes[0].namespaces.selector", says: "not a selector of labels", spec: "{listeners: [{name: s, address: 127.0.0.1, port: 9444}], allowedRoutes: [{namespaces: {from: Selector, selector: {matchExpressions: [{key: a, operator: In}]}}}]}"},
	{name: "a target that does not exist", kind: "LimitPolicy", by: byRefs, reason: "RefNotFound", field: "spec.targetRefs[0]", says: "nowhere", spec: "{targetRefs: [{kind: Route, name: nowhere}], limits: [{name: a, unit: Requests, limit: 10, window: 1m}]}"},
	{name: "a time zone that does not exist", kind: "Budget", by: byAccepted, reason: "Invalid", field: "spec.timeZone", says: "Mars/Olympus", spec: "{targetRefs: [{kind: Tenant, name: app}], amount: 10, period: Month, timeZone: Mars/Olympus}"},
	{name: "a pool that does not exist", kind: "LoadPolicy", by: byRefs, reason: "RefNotFound", field: "spec.targetRefs[0]", says: "nowhere", spec: "{targetRefs: [{kind: Backend, name: nowhere}]}"},
}

// object is its name: behind that of the rig's LLMGateway, which is to be the first, whose port the harness chooses.
func (w wrong) object() string {
	return "wrong-" + strings.ReplaceAll(strings.ToLower(w.name), " ", "-")
}

// document has in the place of PORT the one of the second LLMGateway.
func (w wrong) document(port int) string {
	return harness.Document(w.kind, w.object(), strings.ReplaceAll(w.spec, "PORT", strconv.Itoa(port)))
}

// TestInvalidObjects applies objects that are not valid. Each is refused by the API server, or its status says what is wrong; either names the field. What
// is valid beside them goes on being served.
func TestInvalidObjects(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	up := newSim(t, "gpt-4o")
	r.secret("key-up", map[string]string{"value": "upstream-secret"})
	port := harness.FreePort(t)
	second := harness.Document("LLMGateway", "e2e-second", fmt.Sprintf("listeners: [{name: http, address: 127.0.0.1, port: %d}]", port))
	objects := r.apply(basics(), second, backend("up", up, "gpt-4o"), route("all", "all", "{name: up, model: gpt-4o}"))
	g := r.serve("weir-0", harness.Options{Args: []string{"--local-secrets", "elsewhere"}})
	r.awaitProgrammed(objects)
	l := startLoad(t, g.URL, 2, ask{model: "all"})
	refused, said := 0, 0
	var applied []wrong
	for _, w := range wrongs {
		_, err := r.cluster.Apply(t.Context(), []byte(w.document(port)), kubetest.ApplyOptions{Namespace: r.ns})
		if w.by != bySchema && w.by != byRule {
			must(t, err)
			applied = append(applied, w)
			continue
		}
		refused++
		if err == nil {
			t.Errorf("%s: it was taken", w.name)
		} else if !strings.Contains(err.Error(), w.field) || !strings.Contains(err.Error(), w.says) {
			t.Errorf("%s: the API server does not say %q and %q: %v", w.name, w.field, w.says, err)
		}
	}
	for _, w := range applied {
		t.Run(w.name, func(t *testing.T) {
			o := r.object(w.kind, w.object())
			eventually(t, fmt.Sprintf("%s False, %s, %q, %q", w.by, w.reason, w.field, w.says), func() (bool, string) {
				s := r.status(o)
				c := s.condition(w.by)
				return s.ObservedGeneration == s.generation && c.ObservedGeneration == s.generation && c.Status == metav1.ConditionFalse && c.Reason == w.reason &&
					strings.Contains(c.Message, w.field) && strings.Contains(c.Message, w.says), s.String()
			})
			eventually(t, "an Event tells of it", func() (bool, string) {
				var list eventsv1.EventList
				must(t, r.cluster.Client.List(t.Context(), &list, client.InNamespace(r.ns)))
				var seen []string
				for _, e := range list.Items {
					if e.Regarding.Kind != w.kind || e.Regarding.Name != w.object() {
						continue
					}
					seen = append(seen, fmt.Sprintf("%s %s %s: %s", e.Type, e.Reason, e.Action, e.Note))
					if e.Type == "Warning" && e.Reason == w.reason && strings.Contains(e.Note, w.field) {
						return true, ""
					}
				}
				return false, strings.Join(seen, "\n")
			})
			said++
		})
	}
	t.Logf("%d objects were refused by the API server, and the status of %d says what is wrong", refused, said)
	if refused+said < 40 && !t.Failed() {
		t.Errorf("%d objects are not valid, want 40", refused+said)
	}
	// What is valid is as it was, and can be changed.
	r.awaitProgrammed(objects)
	r.awaitProgrammed(r.apply(route("all", "all*", "{name: up, model: gpt-4o}")))
	ask{model: "all-of-them"}.mustServe(t, g.URL)
	l.mustHaveServed()
	// What is mended is accepted, and an Event tells of that.
	mended := r.apply(route("wrong-a-backend-that-does-not-exist", "w1", "{name: up, model: gpt-4o}"))
	r.awaitProgrammed(mended)
	eventually(t, "an Event tells that it is mended", func() (bool, string) {
		var list eventsv1.EventList
		must(t, r.cluster.Client.List(t.Context(), &list, client.InNamespace(r.ns)))
		for _, e := range list.Items {
			if e.Regarding.Name == mended[0].GetName() && e.Type == "Normal" && e.Reason == "ResolvedRefs" {
				return true, ""
			}
		}
		return false, fmt.Sprint(len(list.Items), " events")
	})
	ask{model: "w1"}.mustServe(t, g.URL)
}
