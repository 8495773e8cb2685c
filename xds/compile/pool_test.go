package compile

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"github.com/weir-dev/weir/extproc/table"
)

// TestWhoSteersWhom: a policy that names a Backend goes before one for all of the namespace, and none reaches another namespace.
func TestWhoSteersWhom(t *testing.T) {
	elsewhere := strings.Replace(backendDoc("far", ""), "{name: far}", "{name: far, namespace: other}", 1)
	v := compileText(t, docGateway+docCaller+docRoute+backendDoc("a", "")+backendDoc("b", "")+backendDoc("c", "")+elsewhere+
		doc("LoadPolicy", "one", "{targetRefs: [{kind: Backend, name: b}]}")+
		doc("LoadPolicy", "rest", "{targetRefs: [{kind: LLMGateway, name: main}]}"))
	got := map[string]string{}
	for id, p := range v.Pools {
		got[id] = p.Policy
	}
	want := map[string]string{"default/a": "default/rest", "default/b": "default/one", "default/c": "default/rest"}
	if !maps.Equal(got, want) {
		t.Errorf("policies by Backend: %v, want %v", got, want)
	}
}

// TestWaits: a request may wait for its limits and then for its pool, and Envoy waits for both.
func TestWaits(t *testing.T) {
	const (
		limited  = "{targetRefs: [{kind: LLMGateway, name: main}], limits: [{name: r, unit: Requests, limit: 1, window: 1m, maxWait: 7s}]}"
		admitted = "{targetRefs: [{kind: Backend, name: a}], admission: {maxRequestsPerEndpoint: 4, maxWait: 3s}}"
		byName   = "{targetRefs: [{kind: Backend, name: named}], admission: {maxRequestsPerEndpoint: 4, maxWait: 9s}}"
		weighted = "{targetRefs: [{kind: Backend, name: a}], picking: {mode: Weights}, admission: {maxRequestsPerEndpoint: 4, maxWait: 3s}}"
	)
	for _, c := range []struct {
		name      string
		documents string
		waits     bool
		most      time.Duration
		within    time.Duration
	}{
		{"nothing", "", false, 0, 5 * time.Second},
		{"a limit", doc("LimitPolicy", "l", limited), true, 7 * time.Second, 65 * time.Second},
		{"a pool", doc("LoadPolicy", "p", admitted), true, 3 * time.Second, 65 * time.Second},
		{"both", doc("LimitPolicy", "l", limited) + doc("LoadPolicy", "p", admitted), true, 10 * time.Second, 125 * time.Second},
		{"a pool that Envoy picks from", doc("LoadPolicy", "p", weighted), false, 0, 5 * time.Second},
		{"the longest of two pools", doc("LoadPolicy", "p", admitted) + doc("LoadPolicy", "q", byName) + doc("Backend", "named", "{dialect: openai, url: 'http://name.example'}"), true, 9 * time.Second, 65 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := compileText(t, docGateway+docCaller+docRoute+backendDoc("a", "")+c.documents)
			if v.Table.Waits != c.waits || v.MaxWait != c.most {
				t.Errorf("waits %v, %s at most; want %v, %s", v.Table.Waits, v.MaxWait, c.waits, c.most)
			}
			if got := decisionTimeoutOf(t, v); got != c.within {
				t.Errorf("Envoy waits %s for a decision, want %s", got, c.within)
			}
		})
	}
}

// decisionTimeoutOf finds the timeout of the door's call in the packed listener.
func decisionTimeoutOf(t *testing.T, v *Version) time.Duration {
	t.Helper()
	for _, l := range v.Listeners {
		for _, m := range packedIn(t, l) {
			hcm, ok := m.(*hcmv3.HttpConnectionManager)
			if !ok {
				continue
			}
			for _, inner := range packedIn(t, hcm) {
				if p, ok := inner.(*extprocv3.ExternalProcessor); ok {
					return p.GetMessageTimeout().AsDuration()
				}
			}
		}
	}
	t.Fatal("no listener asks for decisions")
	return 0
}

// TestPoolTLS: Weir's own requests to endpoints trust what Envoy's do.
func TestPoolTLS(t *testing.T) {
	pool := func(backend string) *Pool {
		v := compileText(t, docGateway+docCaller+docRoute+doc("Backend", "a", backend)+doc("LoadPolicy", "p", "{targetRefs: [{kind: Backend, name: a}]}"))
		return v.Pools["default/a"]
	}
	if p := pool("{dialect: openai, url: 'http://127.0.0.1:80'}"); p.TLS != nil {
		t.Error("a plain backend is asked over TLS")
	}
	p := pool("{dialect: openai, url: 'https://api.example/v1'}")
	if p.TLS == nil || p.TLS.ServerName != "api.example" || p.TLS.RootCAs != nil || p.TLS.InsecureSkipVerify {
		t.Errorf("a URL: %+v", p.TLS)
	}
	p = pool("{dialect: openai, endpoints: [{address: 10.0.0.1, port: 443}], tls: {serverName: gpu.example, caRef: {env: CA}}}")
	if p.TLS == nil || p.TLS.ServerName != "gpu.example" || p.TLS.RootCAs == nil {
		t.Errorf("endpoints with an authority of their own: %+v", p.TLS)
	}
	p = pool("{dialect: openai, endpoints: [{address: '::1', port: 443}], tls: {insecureSkipVerify: true}}")
	if p.TLS == nil || p.TLS.ServerName != "::1" || !p.TLS.InsecureSkipVerify {
		t.Errorf("endpoints that are not verified: %+v", p.TLS)
	}
}

// TestPoolsByName: what Envoy resolves by itself has no endpoints to choose from, but a single name has a breaker and room.
func TestPoolsByName(t *testing.T) {
	policy := doc("LoadPolicy", "p", "{targetRefs: [{kind: Backend, name: a}], picking: {prefixAffinity: {}, sessionAffinity: {}}, admission: {maxRequestsPerEndpoint: 4}}")
	v := compileText(t, docGateway+docCaller+docRoute+policy+doc("Backend", "a", "{dialect: openai, url: 'https://api.example/v1'}"))
	p := v.Pools["default/a"]
	if p.EDS || p.Pick == nil || p.Pick.Prefix != nil || p.Pick.Session != nil || p.Pick.Admission == nil || p.Breaker == nil || v.Table.Prompts {
		t.Errorf("a URL by name: %+v, picked %+v", p, p.Pick)
	}
	if want := []PoolEndpoint{{"api.example:443", "api.example", 443, 1}}; !slices.Equal(p.Endpoints, want) {
		t.Errorf("endpoints %+v, want %+v", p.Endpoints, want)
	}
	v = compileText(t, docGateway+docCaller+docRoute+policy+doc("Backend", "a", "{dialect: openai, endpoints: [{address: x.example, port: 80}, {address: y.example, port: 80, weight: 3}]}"))
	p = v.Pools["default/a"]
	if p.EDS || p.Pick != nil || len(p.Endpoints) != 2 || v.Table.Waits {
		t.Errorf("two endpoints by name: %+v", p)
	}
}

// TestSteeringKeepsIdentity: another rule of a policy is another version, with the same clusters and routes, so that it costs no
// connection; a Backend that begins to be steered has a cluster of its own.
func TestSteeringKeepsIdentity(t *testing.T) {
	of := func(policy string) *Version {
		return compileText(t, docGateway+docCaller+docRoute+backendDoc("a", "")+policy)
	}
	plain := of("")
	before := of(doc("LoadPolicy", "p", "{targetRefs: [{kind: Backend, name: a}]}"))
	after := of(doc("LoadPolicy", "p", "{targetRefs: [{kind: Backend, name: a}], weights: {floorPercent: 9}, health: {warmUp: 1s}}"))
	if before.ID == after.ID || before.ID == plain.ID {
		t.Errorf("versions %s, %s, %s", plain.ID, before.ID, after.ID)
	}
	if !slices.Equal(namesOf(before.Clusters), namesOf(after.Clusters)) || !slices.Equal(namesOf(before.Routes), namesOf(after.Routes)) {
		t.Errorf("clusters %q and %q", namesOf(before.Clusters), namesOf(after.Clusters))
	}
	if slices.Equal(namesOf(before.Clusters), namesOf(plain.Clusters)) {
		t.Error("a cluster has one name with override_host and without")
	}
}

// TestAttemptsOfPools: where a rule does not say how many, a pool's request has a second chance at another of its servers.
func TestAttemptsOfPools(t *testing.T) {
	const (
		three  = "{dialect: openai, endpoints: [{address: 10.0.0.1, port: 80}, {address: 10.0.0.2, port: 80}, {address: 10.0.0.3, port: 80}]}"
		one    = "{dialect: openai, endpoints: [{address: 10.0.0.1, port: 80}]}"
		byName = "{dialect: openai, url: 'http://name.example'}"
		steer  = "{targetRefs: [{kind: LLMGateway, name: main}]}"
	)
	for _, c := range []struct {
		name, backend, rest, retry string
		steered                    bool
		retries                    uint32
		order                      []string
	}{
		{name: "several servers", backend: three, steered: true, retries: 1, order: []string{"default/a", "default/a"}},
		{name: "several servers, one attempt", backend: three, steered: true, retry: ", retry: {attempts: 1}", order: []string{"default/a"}},
		{name: "several servers, three attempts", backend: three, steered: true, retry: ", retry: {attempts: 3}", retries: 2, order: []string{"default/a", "default/a", "default/a"}},
		{name: "one server", backend: one, steered: true, order: []string{"default/a"}},
		{name: "a name", backend: byName, steered: true, order: []string{"default/a"}},
		{name: "nobody steers", backend: three},
		{name: "with a fallback", backend: three, rest: ", {name: b}", steered: true, retries: 1, order: []string{"default/a", "default/b"}},
		{name: "with a fallback, and again", backend: three, rest: ", {name: b}", retry: ", retry: {attempts: 3}", steered: true, retries: 2, order: []string{"default/a", "default/b", "default/a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			documents := docGateway + docCaller + doc("Route", "r", "{rules: [{backends: [{name: a}"+c.rest+"]"+c.retry+"}]}") + doc("Backend", "a", c.backend) + backendDoc("b", "")
			if c.steered {
				documents += doc("LoadPolicy", "p", steer)
			}
			v := compileText(t, documents)
			var variant *table.Variant
			for _, rule := range v.Table.All() {
				variant = rule.Variant(rule.Capable("m", ""))
			}
			key, order := variant.ChainKey, []string(nil)
			if c.steered {
				first := variant.First[variant.Candidates[0]]
				key = first.Chain
				for _, cand := range first.Order {
					order = append(order, cand.Backend.ID)
				}
			}
			if got := v.Routes.Get(key).GetRoute().GetRetryPolicy().GetNumRetries().GetValue(); got != c.retries {
				t.Errorf("%d retries, want %d", got, c.retries)
			}
			if !slices.Equal(order, c.order) {
				t.Errorf("attempts ask %q, want %q", order, c.order)
			}
		})
	}
}

// TestAddressesOfPools: an address has one form, the one by which Envoy names it, however it was written.
func TestAddressesOfPools(t *testing.T) {
	v := compileText(t, docGateway+docCaller+docRoute+backendDoc("a", "")+
		doc("Backend", "six", "{dialect: openai, basePath: /v1, endpoints: [{address: '0:0:0:0:0:0:0:1', port: 81}, {address: '2001:DB8::1', port: 82}, {address: 127.0.0.1, port: 83}]}")+
		doc("LoadPolicy", "p", "{targetRefs: [{kind: Backend, name: six}]}"))
	p := v.Pools["default/six"]
	for i, e := range v.Endpoints[p.Cluster].GetEndpoints()[0].GetLbEndpoints() {
		a := e.GetEndpoint().GetAddress().GetSocketAddress()
		if got, want := joinPort(a.GetAddress(), a.GetPortValue()), []string{"[::1]:81", "[2001:db8::1]:82", "127.0.0.1:83"}[i]; got != want || p.Endpoints[i].Key != want {
			t.Errorf("Envoy gets %s, and the pool has %s; want %s", got, p.Endpoints[i].Key, want)
		}
	}
}
