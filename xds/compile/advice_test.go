package compile

import "testing"

// TestAdvice: what is valid and most likely not meant brings a warning, and what is meant brings none.
func TestAdvice(t *testing.T) {
	const prices = "prices: [{input: '1', output: '1'}]"
	base := docGateway + docCaller + docRoute
	served := base + backendDoc("a", "")
	budget := doc("Budget", "b", "{targetRefs: [{kind: LLMGateway, name: main}], period: Day, amount: 1}")
	policy := func(rest string) string {
		return doc("LimitPolicy", "p", "{targetRefs: [{kind: LLMGateway, name: main}], "+rest+"}")
	}
	limit := func(rest string) string { return policy("limits: [{name: a, window: 1m, " + rest + "}]") }
	tenant := func(name string) string {
		return doc("LimitPolicy", "p", "{targetRefs: [{kind: LLMGateway, name: main}, {kind: Tenant, name: "+name+"}], circuitBreaker: {}}")
	}
	key := func(networks string) string {
		return doc("APIKey", "k", "{consumer: demo, allowedCIDRs: ["+networks+"], hash: 'sha256:0000000000000000000000000000000000000000000000000000000000000001'}")
	}
	const unmatched = "LimitPolicy default/p: spec.models: warning: no Backend lists a model that matches, so it applies to nothing"
	gone := "warning: no Consumer belongs to the tenant "
	for _, c := range []problemCase{
		{name: "a Backend without prices", documents: base + backendDoc("a", ", "+prices) + backendDoc("b", "") + budget,
			want: []string{"Backend default/b: warning: it has no prices, so its requests cost nothing and are outside of every budget"}},
		{name: "a Backend without prices, and a limit of money", documents: base + backendDoc("a", ", "+prices) + backendDoc("b", ", models: [{name: m}]") + limit("unit: Cost, limit: 1"),
			want: []string{"Backend default/b: warning: it has no prices"}},
		{name: "models without prices", documents: base + backendDoc("a", ", models: [{name: m, "+prices+"}, {name: x}, {name: z}]") + budget,
			want: []string{"Backend default/a: spec.models: warning: there is no price for x, z, so requests"}},
		{name: "many models without prices", documents: base + backendDoc("a", ", models: [{name: m, "+prices+"}, {name: x}, {name: z}, {name: p}, {name: q}, {name: r}]") + budget,
			want: []string{"Backend default/a: spec.models: warning: there is no price for x, z, p and 2 more, so"}},
		{name: "every model has a price", documents: base + backendDoc("a", ", "+prices+", models: [{name: x}]") + backendDoc("b", ", models: [{name: m, "+prices+"}]") + budget},
		{name: "no money is limited", documents: base + backendDoc("a", ", "+prices) + backendDoc("b", "") + limit("unit: Requests, limit: 1")},

		{name: "a tenant of nobody", documents: served + tenant("acme"), want: []string{"LimitPolicy default/p: spec.targetRefs[1].name: " + gone + "acme, so this target covers nobody"}},
		{name: "a Budget of a tenant of nobody", documents: base + backendDoc("a", ", "+prices) + doc("Budget", "b", "{targetRefs: [{kind: Tenant, name: acme}], period: Day, amount: 1}"),
			want: []string{"Budget default/b: spec.targetRefs[0].name: " + gone + "acme"}},
		{name: "the tenant of a namespace", documents: served + tenant("default")},
		{name: "the tenant of a Consumer", documents: served + doc("Consumer", "other", "{tenant: acme}") + tenant("acme")},
		{name: "every tenant", documents: served + tenant("'*'")},
		{name: "a tenant that a token may name", documents: served + doc("JWTIssuer", "i", "{issuer: 'https://i', audiences: [a], algorithms: [EdDSA], keys: {file: jwks.txt}}") + tenant("acme")},
		{name: "a tenant of stored keys", documents: gatewayWith("main", "8080", "authentication: {keyStore: Redis}, sharedState: {redis: {addresses: ['r.example:1']}}") + docServed + tenant("acme")},

		{name: "a model that nothing lists", documents: base + backendDoc("a", ", models: [{name: gpt-4o}]") + policy("models: [gpt4o, 'claude*'], circuitBreaker: {}"), want: []string{unmatched}},
		{name: "a model that something lists", documents: base + backendDoc("a", ", models: [{name: gpt-4o}]") + policy("models: [gpt4o, 'gpt-*'], circuitBreaker: {}")},
		{name: "a Backend of any model", documents: served + backendDoc("b", ", models: [{name: gpt-4o}]") + policy("models: [gpt4o], circuitBreaker: {}")},
		{name: "a model with another name", documents: docGateway + docCaller + backendDoc("a", ", models: [{name: gpt-4o}]") +
			doc("Route", "r", "{rules: [{matches: [{models: [fast]}], backends: [{name: a, model: gpt-4o}]}]}") + policy("models: [fast], circuitBreaker: {}")},

		{name: "addresses for networks", documents: served + key("10.1.0.0/16, 10.1.0.5/16, 10.1.0.5/32, '2001:db8::1/32', 0.0.0.0/0"), want: []string{
			"APIKey default/k: spec.allowedCIDRs[1]: warning: 10.1.0.5/16 is not the beginning of a network: write 10.1.0.0/16 for the whole network, or 10.1.0.5/32 for the one address",
			"APIKey default/k: spec.allowedCIDRs[3]: warning: 2001:db8::1/32 is not the beginning of a network: write 2001:db8::/32 for the whole network, or 2001:db8::1/128"}},

		{name: "nothing but what is wrong", documents: served + tenant("acme") + doc("LimitPolicy", "q", "{targetRefs: [{kind: Route, name: nowhere}], circuitBreaker: {}}"),
			want: []string{"LimitPolicy default/q: spec.targetRefs[0].name: there is no Route default/nowhere"}},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t) })
	}
}

// TestClashes: what two places say that cannot both hold.
func TestClashes(t *testing.T) {
	base := docGateway + docCaller + docRoute
	priced := func(list string) string { return base + backendDoc("a", ", prices: ["+list+"]") }
	door := func(listener, external string) string {
		return docServed + doc("LLMGateway", "main", "{listeners: [{name: l, address: '"+listener+"', port: 8080}], authentication: {external: {address: '"+external+"', port: 8080}}}")
	}
	clash := "LLMGateway default/main: spec.listeners[0].port: spec.authentication.external listens on port 8080 of "
	for _, c := range []problemCase{
		{name: "one version twice", documents: priced("{version: v1, input: '1', output: '1'}, {version: v2, effectiveFrom: 2026-01-01T00:00:00Z, input: '1', output: '1'}, {version: v1, effectiveFrom: 2027-01-01T00:00:00Z, input: '1', output: '1'}"),
			want: []string{`Backend default/a: spec.prices[2].version: the price 0 is named "v1" too`}},
		{name: "one version of a model twice", documents: base + backendDoc("a", ", models: [{name: m, prices: [{version: v1, input: '1', output: '1'}, {version: v1, effectiveFrom: 2027-01-01T00:00:00Z, input: '1', output: '1'}]}]"),
			want: []string{`Backend default/a: spec.models[0].prices[1].version: the price 0 is named "v1" too`}},
		{name: "no versions", documents: priced("{input: '1', output: '1'}, {effectiveFrom: 2027-01-01T00:00:00Z, input: '1', output: '1'}, {effectiveFrom: 2028-01-01T00:00:00Z, input: '1', output: '1'}")},
		{name: "one day twice", documents: priced("{effectiveFrom: 2027-01-01T00:00:00Z, input: '1', output: '1'}, {effectiveFrom: 2027-01-01T01:00:00+01:00, input: '1', output: '1'}"),
			want: []string{"Backend default/a: spec.prices: two prices begin at 2027-01-01T"}},

		{name: "one port at one address", documents: door("127.0.0.1", "127.0.0.1"), want: []string{clash + "127.0.0.1 already; give one of them another port"}},
		{name: "one port at every address", documents: door("0.0.0.0", "127.0.0.1"), want: []string{clash + "127.0.0.1"}},
		{name: "one port at every address of the other", documents: door("127.0.0.1", "0.0.0.0"), want: []string{clash + "0.0.0.0"}},
		{name: "one port at every address of both families", documents: door("127.0.0.1", "::"), want: []string{clash + ":: already"}},
		{name: "one port at every address of IPv6", documents: door("::", "::1"), want: []string{clash + "::1"}},
		{name: "Envoy at every address of IPv6", documents: door("::", "127.0.0.1")},
		{name: "one port at two addresses", documents: door("127.0.0.1", "127.0.0.2")},
		{name: "one port of two families", documents: door("0.0.0.0", "::1")},
		{name: "where the option moves the listener", documents: door("127.0.0.1", "127.0.0.1"), opts: func(o *Options) { o.Listen = "127.0.0.1:8081" }},
		{name: "where the option moves the listener there", documents: docServed + doc("LLMGateway", "main", "{listeners: [{name: l, port: 8080}], authentication: {external: {port: 8081}}}"),
			opts: func(o *Options) { o.Listen = "127.0.0.1:8081" }, want: []string{"LLMGateway default/main: spec.listeners[0].port: spec.authentication.external listens on port 8081"}},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t) })
	}
}
