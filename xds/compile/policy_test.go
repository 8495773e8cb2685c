package compile

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/xds/source"
)

// TestPolicies compares what policies become, and where, with testdata/policies/out.txt.
func TestPolicies(t *testing.T) {
	dir, err := filepath.Abs(filepath.Join("testdata", "policies"))
	must(t, err)
	in, err := os.ReadFile(filepath.Join(dir, "in.yaml"))
	must(t, err)
	v, problems := Compile(load(t, string(in)), options(t))
	if v == nil || len(problems) > 0 {
		t.Fatalf("problems: %v", problems)
	}
	got := dumpPolicies(v.Table) + fmt.Sprintf("\nlongest wait %s\n", v.MaxWait)
	path := filepath.Join(dir, "out.txt")
	if *update {
		must(t, os.WriteFile(path, []byte(got), 0o644))
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; make it with -update and read it", err)
	}
	if got != string(want) {
		t.Errorf("out.txt differs at %s; if that is meant, run with -update and read the difference", firstDifference(got, string(want)))
	}
}

// dumpPolicies writes every policy once, by a number, and which numbers apply where.
func dumpPolicies(tb *table.Table) string {
	var b strings.Builder
	var places []string
	numbers := map[*table.Policy]int{}
	list := func(place string, policies []*table.Policy) {
		var numbered []string
		for _, p := range policies {
			numbered = append(numbered, fmt.Sprint(numbers[p]))
		}
		places = append(places, place+": "+strings.Join(numbered, " "))
	}
	var all []*table.Policy
	for p := range tb.EachPolicy {
		if !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b *table.Policy) int { return strings.Compare(policyID(a), policyID(b)) })
	for i, p := range all {
		numbers[p] = i + 1
		fmt.Fprintf(&b, "%d", i+1)
		if p.Models != nil {
			for _, m := range []string{"m", "gpt-4o", "claude-x", "other"} {
				if p.Models.Match(m) {
					fmt.Fprintf(&b, " for %s", m)
				}
			}
		}
		b.WriteString("\n")
		for _, r := range p.Limits {
			fmt.Fprintf(&b, "  %s\n", limitLine(r))
		}
		if p.Breaker != nil {
			fmt.Fprintf(&b, "  %s\n", breakerLine(p.Breaker, p.BreakerPer))
		}
	}
	for kind, m := range map[string]map[string][]*table.Policy{
		"gateway": tb.Policies.Gateways, "tenant": tb.Policies.Tenants, "consumer": tb.Policies.Consumers, "credential": tb.Policies.Credentials,
	} {
		for name, policies := range m {
			list(kind+" "+name, policies)
		}
	}
	list("every tenant", tb.Policies.AllTenants)
	rules := map[string]bool{}
	for r := range tb.EachRule {
		if !rules[r.Name] {
			rules[r.Name] = true
			list("rule "+r.Name, tb.Policies.Rules[r.Name])
		}
	}
	slices.Sort(places)
	return b.String() + "\n" + strings.Join(places, "\n") + "\n"
}

func policyID(p *table.Policy) string {
	if p.Breaker != nil {
		return p.Breaker.ID
	}
	return p.Limits[0].ID
}

var (
	scopeNames    = [...]string{limit.PerTarget: "target", limit.PerTenant: "tenant", limit.PerConsumer: "consumer", limit.PerCredential: "credential"}
	sharingNames  = [...]string{limit.Local: "local", limit.Lease: "lease", limit.Exact: "exact"}
	failureNames  = [...]string{limit.LocalShare: "share", limit.Allow: "allow", limit.Deny: "deny"}
	periodNames   = [...]string{limit.Day: "day", limit.Week: "week", limit.Month: "month"}
	calendarNames = [...]string{limit.SlidingWindow: "window", limit.TokenBucket: "bucket", limit.Calendar: "calendar"}
)

func limitLine(r *limit.Rule) string {
	parts := []string{r.ID, r.Name, fmt.Sprintf("%d %s", r.Limit, r.Unit), calendarNames[r.Algorithm]}
	add := func(set bool, format string, args ...any) {
		if set {
			parts = append(parts, fmt.Sprintf(format, args...))
		}
	}
	add(r.Window > 0, "in %s", r.Window)
	add(r.Burst > 0, "burst %d", r.Burst)
	if r.Algorithm == limit.Calendar {
		add(true, "of a %s in %s", periodNames[r.Period], r.Location)
	}
	add(r.WarnAt > 0, "warn at %d", r.WarnAt)
	add(r.WarnOnly, "warn only")
	add(r.CutStreams, "cut streams")
	add(r.MaxWait > 0, "wait %s", r.MaxWait)
	add(r.Shadow, "shadow")
	add(true, "per %s, %s, else %s, assume %d", scopeNames[r.Per], sharingNames[r.Sharing], failureNames[r.OnFailure], r.AssumedOutput)
	return strings.Join(parts, ", ")
}

func breakerLine(r *breaker.Rule, per limit.Scope) string {
	return fmt.Sprintf("%s, %s, %d%% of %d in %s, open %s, try %d, warm up %s, shadow %v, per %s", r.ID, r.Name, r.ErrorPercent, r.MinRequests, r.Window,
		r.OpenFor, r.HalfOpenRequests, r.WarmUp, r.Shadow, scopeNames[per])
}

// docIn puts a document into a namespace.
func docIn(namespace, kind, name, spec string) string {
	return "\napiVersion: weir.dev/v1alpha1\nkind: " + kind + "\nmetadata: {name: " + name + ", namespace: " + namespace + "}\nspec: " + spec + "\n---"
}

// problemCase is a folder and what compiling says about it.
type problemCase struct {
	name, documents string
	want            []string
	opts            func(*Options)
	edit            func(*source.Objects)
}

func (c problemCase) run(t *testing.T) *Version {
	t.Helper()
	objs, opts := load(t, c.documents), options(t)
	if c.edit != nil {
		c.edit(objs)
	}
	if c.opts != nil {
		c.opts(&opts)
	}
	v, problems := Compile(objs, opts)
	for i, p := range problems {
		if p.File != "in.yaml" || p.Line == 0 {
			t.Errorf("%v does not say where", p)
		}
		p.File = ""
		if i >= len(c.want) || !strings.HasPrefix(p.String(), c.want[i]) {
			t.Errorf("problem %d is\n  %s\nwant\n  %q", i, p, c.want)
		}
		if strings.Contains(p.String(), marker) {
			t.Errorf("a secret is in %q", p)
		}
	}
	if len(problems) < len(c.want) {
		t.Errorf("got %d problems: %v, want %q", len(problems), problems, c.want)
	}
	if (v == nil) != source.HasErrors(problems) {
		t.Errorf("a version comes with and only with problems that are no errors: %v, %v", v != nil, problems)
	}
	return v
}

// TestPolicyProblems: what is wrong with a policy, and where that is written.
func TestPolicyProblems(t *testing.T) {
	served := docGateway + docServed
	one := func(target string) string {
		return doc("LimitPolicy", "p", "{targetRefs: ["+target+"], limits: [{name: rpm, unit: Requests, limit: 1, window: 1m}]}")
	}
	limited := func(limits string) string {
		return doc("LimitPolicy", "p", "{targetRefs: [{kind: LLMGateway, name: main}], limits: ["+limits+"]}")
	}
	budget := func(rest string) string {
		return doc("Budget", "b", "{targetRefs: [{kind: LLMGateway, name: main}], period: Day, "+rest+"}")
	}
	priced := docGateway + docCaller + docRoute + backendDoc("a", ", prices: [{input: '1', output: '1'}]")
	issuer := doc("JWTIssuer", "i", "{issuer: 'https://i', audiences: [a], algorithms: [EdDSA], keys: {file: jwks.txt}}")
	for _, c := range []problemCase{
		{name: "gateway that is not there", documents: served + one("{kind: LLMGateway, name: other}"),
			want: []string{"LimitPolicy default/p: spec.targetRefs[0].name: there is no LLMGateway default/other"}},
		{name: "gateway of another namespace", documents: served + docIn("team", "LimitPolicy", "p", "{targetRefs: [{kind: LLMGateway, name: main}], limits: [{name: rpm, unit: Requests, limit: 1, window: 1m}]}"),
			want: []string{"LimitPolicy team/p: spec.targetRefs[0].name: there is no LLMGateway team/main"}},
		{name: "route that is not there", documents: served + one("{kind: LLMGateway, name: main}, {kind: Route, name: other}"),
			want: []string{"LimitPolicy default/p: spec.targetRefs[1].name: there is no Route default/other"}},
		{name: "rule that is not there", documents: served + one("{kind: Route, name: all, sectionName: other}"),
			want: []string{`LimitPolicy default/p: spec.targetRefs[0].sectionName: the Route default/all has no rule named "other"`}},
		{name: "consumer that is not there", documents: served + one("{kind: Consumer, name: other}"),
			want: []string{"LimitPolicy default/p: spec.targetRefs[0].name: there is no Consumer default/other"}},
		{name: "consumer that a token may name", documents: served + issuer + one("{kind: Consumer, name: other}"),
			want: []string{"LimitPolicy default/p: spec.targetRefs[0].name: warning: there is no Consumer default/other: the policy applies to callers whom a token of this namespace names so"}},
		{name: "key that is not there", documents: served + one("{kind: APIKey, name: other}"),
			want: []string{"LimitPolicy default/p: spec.targetRefs[0].name: there is no APIKey default/other"}},
		{name: "key that may be stored", documents: gatewayWith("main", "8080", "authentication: {keyStore: Redis}, sharedState: {redis: {addresses: ['r.example:1']}}") + docServed + one("{kind: APIKey, name: other}"),
			want: []string{"LimitPolicy default/p: spec.targetRefs[0].name: warning: there is no APIKey object default/other: the policy applies to a key of that name in the key store"}},
		{name: "any tenant", documents: served + issuer + one("{kind: Tenant, name: nobody-yet}, {kind: Tenant, name: '*'}")},
		{name: "another tenant without a gateway", documents: served + docIn("team", "LimitPolicy", "p", "{targetRefs: [{kind: Tenant, name: team}, {kind: Tenant, name: default}, {kind: Tenant, name: '*'}], circuitBreaker: {}}"),
			want: []string{
				"LimitPolicy team/p: spec.targetRefs[1].name: a policy in the namespace team may only limit the tenant of that name; put it into the namespace of an LLMGateway",
				"LimitPolicy team/p: spec.targetRefs[2].name: a policy in the namespace team may only limit the tenant of that name; put it into the namespace of an LLMGateway"}},
		{name: "every route", documents: served + one("{kind: Route, name: '*'}, {kind: LLMGateway, name: '*'}"),
			want: []string{
				`LimitPolicy default/p: spec.targetRefs[0].name: only a Tenant may be "*"; to cover everything name the LLMGateway`,
				`LimitPolicy default/p: spec.targetRefs[1].name: only a Tenant may be "*"`}},
		{name: "target twice", documents: served + one("{kind: Tenant, name: a}, {kind: Tenant, name: b}, {kind: Tenant, name: a}"),
			want: []string{"LimitPolicy default/p: spec.targetRefs[2]: the target Tenant a is named twice"}},
		{name: "Route and its rule", documents: docGateway + docCaller + backendDoc("a", "") + doc("Route", "all", "{rules: [{name: x, backends: [{name: a}]}]}") + one("{kind: Route, name: all}, {kind: Route, name: all, sectionName: x}")},

		{name: "limits out of range", documents: served + limited("{name: a, unit: Requests, limit: 0, window: 1m}, {name: b, unit: Requests, limit: -1, window: 1m}, {name: c, unit: Requests, limit: 1001M, window: 1m}, {name: d, unit: Requests, limit: 1G, window: 1m}"),
			want: []string{
				"LimitPolicy default/p: spec.limits[0].limit: 0 is not above 0 and at most 1G",
				"LimitPolicy default/p: spec.limits[1].limit: -1 is not above 0 and at most 1G",
				"LimitPolicy default/p: spec.limits[2].limit: 1001M is not above 0 and at most 1G"}},
		{name: "parts of units", documents: served + limited("{name: a, unit: Requests, limit: '1.5', window: 1m}, {name: b, unit: TotalTokens, limit: 500m, window: 1m}, {name: c, unit: InputTokens, limit: 1.5k, window: 1m}"),
			want: []string{
				"LimitPolicy default/p: spec.limits[0].limit: 1500m is not a whole number, and Requests are counted in whole ones",
				"LimitPolicy default/p: spec.limits[1].limit: 500m is not a whole number, and TotalTokens are counted in whole ones"}},
		{name: "bursts", documents: served + limited("{name: a, unit: Requests, limit: 1, burst: 0, window: 1m, algorithm: TokenBucket}, {name: b, unit: Requests, limit: 1, burst: '0.1', window: 1m, algorithm: TokenBucket}"),
			want: []string{
				"LimitPolicy default/p: spec.limits[0].burst: 0 is not above 0 and at most 1G",
				"LimitPolicy default/p: spec.limits[1].burst: 100m is not a whole number"}},
		{name: "money without prices", documents: served + limited("{name: a, unit: Cost, limit: '0.5', window: 1m}"),
			want: []string{"LimitPolicy default/p: spec.limits[0].unit: warning: no Backend has prices, so nothing costs anything and the limit is never reached"}},
		{name: "money with prices", documents: priced + limited("{name: a, unit: Cost, limit: '0.5', window: 1m}") + budget("amount: 1")},
		{name: "model that cannot be", documents: served + doc("LimitPolicy", "p", `{targetRefs: [{kind: LLMGateway, name: main}], models: ["gpt *\t"], circuitBreaker: {}}`),
			want: []string{"LimitPolicy default/p: spec.models: a model name or pattern has 1 to 256 printable characters"}},
		{name: "exact without a store", documents: served + doc("LimitPolicy", "p", "{targetRefs: [{kind: LLMGateway, name: main}], sharing: {mode: Exact}, limits: [{name: rpm, unit: Requests, limit: 1, window: 1m}]}"),
			want: []string{"LimitPolicy default/p: spec.sharing.mode: warning: no LLMGateway has sharedState, so each replica counts for itself"}},

		{name: "time zone that is none", documents: priced + budget("amount: 1, timeZone: Europe/Atlantis"),
			want: []string{`Budget default/b: spec.timeZone: there is no time zone "Europe/Atlantis"; use a name such as Europe/Berlin`}},
		{name: "time zone of the machine", documents: priced + budget("amount: 1, timeZone: Local"),
			want: []string{"Budget default/b: spec.timeZone: Local is the zone of whatever machine counts"}},
		{name: "budget without prices", documents: served + budget("amount: 1"),
			want: []string{"Budget default/b: warning: no Backend has prices, so nothing costs anything and the budget is never spent"}},
		{name: "budget at targets that are not there", documents: priced + doc("Budget", "b", "{targetRefs: [{kind: Consumer, name: x}, {kind: APIKey, name: x}], period: Day, amount: 1}"),
			want: []string{"Budget default/b: spec.targetRefs[0].name: there is no Consumer default/x", "Budget default/b: spec.targetRefs[1].name: there is no APIKey default/x"}},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t) })
	}
}

// TestAmountsOfMoney: amounts become nano-units.
func TestAmountsOfMoney(t *testing.T) {
	priced := docGateway + docCaller + docRoute + backendDoc("a", ", prices: [{input: '1', output: '1'}]")
	for amount, want := range map[string]int64{
		"1": 1e9, "12.50": 125e8, "0.000000001": 1, "1k": 1e12, "1Ki": 1024e9, "1G": 1e18, "1e-9": 1, "3.141592653": 3141592653,
	} {
		c := problemCase{documents: priced + doc("Budget", "b", "{targetRefs: [{kind: LLMGateway, name: main}], period: Day, amount: '"+amount+"', warnAtPercent: 50}")}
		r := c.run(t).Table.Policies.Gateways["default/main"][0].Limits[0]
		if r.Limit != want || r.WarnAt != want/2 || r.Unit != limit.Cost {
			t.Errorf("%s is %d, warn at %d", amount, r.Limit, r.WarnAt)
		}
	}
	for _, amount := range []string{"0.0000000001", "1.0000000015"} {
		// A quantity rounds what is finer than it can hold up, so that it never becomes nothing.
		c := problemCase{documents: priced + doc("Budget", "b", "{targetRefs: [{kind: LLMGateway, name: main}], period: Day, amount: '"+amount+"'}")}
		if r := c.run(t).Table.Policies.Gateways["default/main"][0].Limits[0]; r.Limit < 1 || r.Limit > 1000000002 {
			t.Errorf("%s is %d", amount, r.Limit)
		}
	}
}

// TestSettings: what gateways say about the process.
func TestSettings(t *testing.T) {
	v := problemCase{documents: gatewayWith("main", "8080", `
  sharedState: {redis: {mode: Sentinel, masterName: m, addresses: ['a:1', 'b:2'], username: u, passwordRef: {env: OPENAI_KEY}, sentinelPasswordRef: {env: JWT_SECRET},
    database: 3, keyPrefix: 'mine:', timeout: 250ms, tls: {serverName: s, certificateRef: {env: CERTIFICATE}, privateKeyRef: {env: PRIVATE_KEY}}}},
  accounting: {currency: EUR, retentionDays: 2, ledger: Redis},
  authentication: {keyStore: Redis, maxFailedLogins: 7, external: {address: '::1', port: 9001}}`) + docServed}.run(t)
	s := v.Settings
	r := s.Shared.Redis
	if s.Currency != "EUR" || s.Retention != 48*time.Hour || !s.ShipLedger || !s.StoredKeys || s.MaxFailedLogins != 7 || s.Shared.KeyPrefix != "mine:" {
		t.Errorf("%+v", s)
	}
	if r.MasterName != "m" || !slices.Equal(r.Addresses, []string{"a:1", "b:2"}) || r.Username != "u" || r.Database != 3 || r.Timeout != 250*time.Millisecond ||
		!strings.Contains(string(r.Password), marker) || !strings.Contains(string(r.SentinelPassword), marker) || r.TLS == nil || r.TLS.ServerName != "s" || len(r.TLS.Certificate) == 0 {
		t.Errorf("the connection is not what was written: %v", r)
	}
	if s.Authz == nil || s.Authz.Address != "::1" || s.Authz.Port != 9001 || s.Authz.Certificate != nil {
		t.Errorf("%+v", s.Authz)
	}
	if text := fmt.Sprintf("%v %+v %#v", s.Shared, s.Shared, r); strings.Contains(text, marker) {
		t.Error("printing the settings shows a password")
	}

	v = problemCase{documents: docGateway + docServed}.run(t)
	if s := v.Settings; s.Shared != nil || s.Currency != "USD" || s.Retention != 400*24*time.Hour || s.ShipLedger || s.StoredKeys || s.MaxFailedLogins != 60 || s.Authz != nil {
		t.Errorf("without anything written: %+v", s)
	}
}

// TestSettingsProblems: two gateways of one process must agree, and what they point to must be there.
func TestSettingsProblems(t *testing.T) {
	second := func(rest string) string { return gatewayWith("second", "8081", rest) }
	redis := "sharedState: {redis: {addresses: ['r.example:1'], timeout: 100ms"
	differs := "LLMGateway default/second: %s: LLMGateway default/main says something else, and one process serves both: write the same in both"
	for _, c := range []problemCase{
		{name: "they agree", documents: gatewayWith("main", "8080", redis+"}}, accounting: {currency: EUR}") + second(redis+"}}, accounting: {currency: EUR}") + docServed},
		{name: "they differ in everything", documents: gatewayWith("main", "8080", redis+"}}") +
			second("accounting: {currency: EUR, retentionDays: 1}, authentication: {maxFailedLogins: 1}") + docServed,
			want: []string{fmt.Sprintf(differs, "spec.accounting.currency"), fmt.Sprintf(differs, "spec.accounting.retentionDays"),
				fmt.Sprintf(differs, "spec.authentication.maxFailedLogins"), fmt.Sprintf(differs, "spec.sharedState")}},
		{name: "one keeps keys and the ledger in Redis", documents: gatewayWith("main", "8080", redis+"}}") + second(redis+"}}, accounting: {ledger: Redis}, authentication: {keyStore: Redis}") + docServed,
			want: []string{fmt.Sprintf(differs, "spec.accounting.ledger"), fmt.Sprintf(differs, "spec.authentication.keyStore")}},
		{name: "the password is not there", documents: gatewayWith("main", "8080", redis+", passwordRef: {env: OPENAI_KEY}, tls: {caRef: {env: CA}}}}") + docServed, edit: forgetSecrets,
			want: []string{"LLMGateway default/main: spec.sharedState.redis.passwordRef: it cannot be read", "LLMGateway default/main: spec.sharedState.redis.tls.caRef: it cannot be read"}},
		{name: "the authorities are none", documents: gatewayWith("main", "8080", redis+", tls: {caRef: {env: NOT_PEM}}}}") + docServed,
			want: []string{"LLMGateway default/main: spec.sharedState.redis: "}},
		{name: "external authorization twice", documents: gatewayWith("main", "8080", "authentication: {external: {port: 9001}}") + second("authentication: {external: {port: 9002}}") + docServed,
			want: []string{"LLMGateway default/second: spec.authentication.external: another LLMGateway of this process serves external authorization already; leave it to one"}},
		{name: "its certificate is not there", documents: gatewayWith("main", "8080", "authentication: {external: {port: 9001, tls: {certificateRef: {env: CERTIFICATE}, privateKeyRef: {env: PRIVATE_KEY}}, clientCARef: {env: CA}}}") + docServed, edit: forgetSecrets,
			want: []string{"LLMGateway default/main: spec.authentication.external.clientCARef: it cannot be read",
				"LLMGateway default/main: spec.authentication.external.tls.certificateRef: it cannot be read",
				"LLMGateway default/main: spec.authentication.external.tls.privateKeyRef: it cannot be read"}},
		{name: "its certificate is of another key", documents: gatewayWith("main", "8080", "authentication: {external: {port: 9001, tls: {certificateRef: {env: OTHER_CERTIFICATE}, privateKeyRef: {env: PRIVATE_KEY}}}}") + docServed,
			want: []string{"LLMGateway default/main: spec.authentication.external.tls: certificate and private key do not work together: "}},
		{name: "client certificates without TLS", documents: gatewayWith("main", "8080", "authentication: {external: {port: 9001, clientCARef: {env: CA}}}") + docServed,
			want: []string{"LLMGateway default/main: spec.authentication.external.clientCARef: client certificates need tls, which is not set"}},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t) })
	}
}
