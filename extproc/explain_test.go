package extproc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/message"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/usage/money"
)

// explainRig is a gateway with rules, limits (so many requests a minute), a budget (in nano-units a day), circuit breakers and pools of every
// kind.
func explainRig(t testing.TB, requests, budget int64) *steeredRig {
	return newSteeredRig(t, func(r *rules) {
		prices, err := money.NewTable(money.Price{Input: 2_000_000_000, Output: 8_000_000_000})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"openai", "anthropic"} {
			r.backends[name].DefaultPrice = prices
		}
		r.backends["far"].Pick.Mode = pick.Weights
		r.backends["gpu"].Pick.Session = &pick.Session{Header: "x-session-id", IdleTimeout: time.Minute, MaxGapTokens: 1000}
		r.backends["gpu"].Pick.Prefix = &pick.Prefix{BlockTokens: 16, MaxBlocks: 1000, MaxGapTokens: 1000}
		r.table.Prompts, r.table.Gateway, r.table.Currency = true, "default/gw", "USD"
		r.add("direct", models("gpt-4o"), choice{"openai", ""})
		r.add("versions", table.Match{Models: []string{"gpt-4o"}, Headers: []table.ValueMatch{{Name: "x-version", Value: "v2"}}}, choice{"vllm", ""})
		r.add("all", models("gpt-all"), choice{"openai", "renamed"}, choice{"anthropic", "claude"}, choice{"vllm", ""})
		r.add("claude", models("claude"), choice{"anthropic", ""})
		r.add("embed", models("embed"), choice{"openai", ""})
		r.add("lab", table.Match{Models: []string{"lab-model"}, Labels: map[string]string{"team": "lab"}}, choice{"vllm", ""})
		r.add("beta", models("beta-model"), choice{"vllm", ""}).RequiredScopes = []string{"beta"}
		r.add("patterns", models("gemini-*"), choice{"anthropic", ""})
		r.add("pools", models("gpt-pool"), choice{"gpu", ""}, choice{"far", ""})
		r.add("far", models("gpt-far"), choice{"far", ""})
		r.add("named", models("gpt-named"), choice{"named", ""})
		perTenant := func(name string, u limit.Unit, most int64, edit func(*limit.Rule)) *limit.Rule {
			l := &limit.Rule{ID: "LimitPolicy/default/p/" + name, Name: "p/" + name, Unit: u, Limit: most, Window: time.Minute, Per: limit.PerTenant, AssumedOutput: 100}
			edit(l)
			return l
		}
		r.table.Policies.AllTenants = append(r.table.Policies.AllTenants, &table.Policy{Limits: []*limit.Rule{
			perTenant("requests", limit.Requests, requests, func(*limit.Rule) {}),
			perTenant("tokens", limit.TotalTokens, 20_000, func(l *limit.Rule) { l.Algorithm = limit.TokenBucket }),
			perTenant("budget", limit.Cost, budget, func(l *limit.Rule) {
				l.ID, l.Algorithm, l.Period, l.WarnAt = "Budget/default/b", limit.Calendar, limit.Day, budget/2
			}),
		}})
	})
}

// asked makes both of what Envoy and what somebody who wants an explanation say.
func bothOf(h headerMap, body string) (ExplainRequest, *extprocv3.ProcessingRequest) {
	req := ExplainRequest{Body: []byte(body)}
	for _, kv := range h {
		switch name := kv.GetKey(); name {
		case ":method":
			req.Method = value(kv)
		case ":path":
			req.Path = value(kv)
		default:
			req.Headers = append(req.Headers, [2]string{name, value(kv)})
		}
	}
	return req, asEnvoy((&explaining{req: &req, d: &decision{dry: &dry{}}}).message())
}

// asEnvoy is a message as Envoy sends it.
func asEnvoy(m *message.Request) *extprocv3.ProcessingRequest {
	var h headerMap
	for _, kv := range m.Headers {
		h = append(h, headersOf(kv.Name, kv.Value)...)
	}
	peek := map[string]*structpb.Value{}
	for _, f := range m.Peek {
		switch f.Key {
		case wire.PeekRead:
			peek[f.Key] = structpb.NewBoolValue(f.Bool)
		case wire.PeekSize, wire.PeekMedia, wire.PeekMediaCount:
			peek[f.Key] = structpb.NewNumberValue(f.Number)
		default:
			peek[f.Key] = structpb.NewStringValue(f.Text)
		}
	}
	return requestHeaders(h, peekedAs(peek))
}

// footprint is what a request leaves behind, but for intents, which the ledger gets a moment after the answer.
func (r *steeredRig) footprint() string {
	now := r.clock()
	var b strings.Builder
	for _, l := range r.server.opts.Limits.States(1000) {
		slices.SortFunc(l.Subjects, func(a, b limit.SubjectState) int { return strings.Compare(a.Subject, b.Subject) })
		fmt.Fprintf(&b, "%s %d %d %d %d %d %+v\n", l.Rule.ID, l.Admitted, l.Refused, l.ShadowRefused, l.Waited, l.Counters, l.Subjects)
	}
	for _, s := range append(r.server.opts.Breakers.States(now), r.endpoints.States(now)...) {
		fmt.Fprintf(&b, "%s %s %s %d %d %d\n", s.Rule.ID, s.Key, s.State, s.Requests, s.Failures, s.Refused)
	}
	fmt.Fprintf(&b, "%+v\n", r.picker.Snapshot(now))
	kept, bytes := r.server.InFlight()
	fmt.Fprintln(&b, kept, bytes, r.desk.InFlight(), len(r.book.entries), len(r.times()))
	return b.String()
}

// TestExplanationEqualsDecision sends all kinds of requests through a gateway whose limits run out, whose circuit breakers open and whose
// endpoints come and go. Each is explained before it is sent: the explanation leaves nothing behind, and says what then happens.
func TestExplanationEqualsDecision(t *testing.T) {
	statuses, codes := map[int]int{}, map[string]int{}
	for seed := range uint64(12) {
		rnd := rand.New(rand.NewPCG(seed, 9))
		r := explainRig(t, 8+1000*int64(seed%2), 4_000_000*(1+9*int64((seed+1)%2)))
		pickOf := func(of ...string) string { return of[rnd.IntN(len(of))] }
		type running struct {
			decided *extprocv3.ProcessingResponse
			end     func()
		}
		var open []running
		for i := range 150 {
			r.advance(time.Duration(rnd.Int64N(int64(3 * time.Second))))
			if rnd.IntN(10) == 0 {
				b := r.rules.backends[pickOf("gpu", "far")]
				r.update(b, rnd.IntN(4), rnd.IntN(4), rnd.IntN(4))
				r.set(pickOf("gpu", "far"), float64(rnd.IntN(3))/2, rnd.IntN(4) > 0)
			}
			h := chatHeaders("x-session-id", pickOf("1", "2")).with("authorization", pickOf("Bearer "+demoKey, "Bearer "+demoKey, "Bearer "+narrowKey, "Bearer "+labKey, "Bearer "+labKey, "Bearer no-key-0123456789", ""))
			switch rnd.IntN(8) {
			case 0:
				h = h.with(":path", pickOf("/v1/messages", "/v1/embeddings", "/nowhere", "/v1/messages/count_tokens"))
			case 1:
				h = h.with("x-version", pickOf("v1", "v2"))
			case 2:
				h = h.with("content-type", pickOf("text/plain", "application/json; charset=latin1", "application/json"))
			case 3:
				h = h.with(":method", pickOf("GET", "POST", "PUT"))
			case 4:
				h = h.with(":method", "GET").with(":path", pickOf("/v1/models", "/v1/models/gpt-4o", "/v1/models/none"))
			}
			model := pickOf("gpt-4o", "gpt-4o", "gpt-all", "gpt-all", "claude", "embed", "lab-model", "beta-model", "gemini-pro", "gpt-pool", "gpt-pool", "gpt-pool", "gpt-far", "gpt-named", "nobody-has-this")
			body := fmt.Sprintf(`{"model":%q,"stream":%s,"max_tokens":%d,"messages":[{"role":"user","content":"%s"}]%s}`, model,
				pickOf("true", "false", "false"), 1+rnd.IntN(400), strings.Repeat("Which of these is true? ", 1+rnd.IntN(60)), pickOf("", "", "", `,"model":"x"`, `,"input":"x"`, `,"temperature":"hot"`))
			if rnd.IntN(25) == 0 {
				body = pickOf("", "[]", `{"model":7}`, body[:len(body)/2])
			}
			req, message := bothOf(h, body)
			before := r.footprint()
			x, err := r.server.Explain(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			if after := r.footprint(); before != after {
				t.Fatalf("seed %d, request %d: explaining changed\n%s\nto\n%s", seed, i, before, after)
			}
			resp, end := r.run(message, body)
			if bad := differs(r, x, resp); bad != "" {
				shown, _ := json.MarshalIndent(x, "", " ")
				t.Fatalf("seed %d, request %d, %v\n%.300s\n%s\n%s", seed, i, h, body, bad, shown)
			}
			statuses[x.Outcome.Status]++
			codes[x.Outcome.Code]++
			if resp.GetImmediateResponse() != nil {
				end()
			} else {
				open = append(open, running{resp, end})
			}
			for len(open) > rnd.IntN(8) {
				bad := rnd.IntN(3) == 0
				r.record(open[0].decided, func(rec *usage.Record) {
					if bad {
						rec.Status = 503
					}
				})
				open[0].end()
				open = open[1:]
			}
		}
	}
	for _, s := range []int{0, 200, 400, 401, 403, 404, 405, 415, 429, 503} {
		if statuses[s] < 5 {
			t.Errorf("status %d came %d times: the test says little", s, statuses[s])
		}
	}
	for _, c := range []string{codeLimited, codeBudget, codeBreakerOpen, codeUnavailable} {
		if codes[c] < 5 {
			t.Errorf("%s came %d times: the test says little (%v)", c, codes[c], codes)
		}
	}
}

// run sends a request as Envoy does, with its body where that is asked for, and gives the last answer.
func (r *steeredRig) run(m *extprocv3.ProcessingRequest, body string) (*extprocv3.ProcessingResponse, func()) {
	r.t.Helper()
	s, err := r.client.Process(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	d := &door{t: r.t, stream: s}
	resp := d.send(m)
	first := resp
	if resp.GetModeOverride().GetRequestBodyMode() != 0 && resp.GetImmediateResponse() == nil {
		resp = d.body(body)
		if said(resp, wire.KeyExchange) == "" && resp.GetImmediateResponse() == nil {
			resp = first // all was said before the body came
		}
	}
	return withRoute(resp, first), d.end
}

// withRoute adds to what was said last which route was found at first.
func withRoute(resp, first *extprocv3.ProcessingResponse) *extprocv3.ProcessingResponse {
	if resp != first && resp.GetImmediateResponse() == nil {
		fields := resp.GetDynamicMetadata().GetFields()[wire.DecisionNamespace].GetStructValue().GetFields()
		fields[wire.KeyRoute] = first.GetDynamicMetadata().GetFields()[wire.DecisionNamespace].GetStructValue().GetFields()[wire.KeyRoute]
	}
	return resp
}

// differs says in which way an explanation is not what the decision was; "" where it is.
func differs(r *steeredRig, x *Explanation, resp *extprocv3.ProcessingResponse) string {
	o := &x.Outcome
	if now := resp.GetImmediateResponse(); now != nil {
		h := map[string]string{}
		for _, kv := range now.GetHeaders().GetSetHeaders() {
			if name := kv.GetHeader().GetKey(); name != "content-type" {
				h[name] = value(kv.GetHeader())
			}
		}
		switch {
		case o.Status != int(now.GetStatus().GetCode()) || o.Served != (o.Status == 200):
			return fmt.Sprintf("status %d, it is %d: %s", o.Status, now.GetStatus().GetCode(), now.GetBody())
		case o.Body != string(now.GetBody()):
			return "another body: " + string(now.GetBody())
		case len(h)+len(o.Headers) > 0 && !reflect.DeepEqual(o.Headers, h):
			return fmt.Sprintf("headers %v, they are %v", o.Headers, h)
		case o.Status >= 400 && !bytes.Contains(now.GetBody(), []byte(strings.ReplaceAll(o.Message, `"`, `\"`))):
			return "the message is not in the body"
		}
		return ""
	}
	if !o.Served || o.Status != 0 {
		return "it goes on"
	}
	if route := said(resp, wire.KeyRoute); x.Route == nil || x.Route.Name != route {
		return fmt.Sprintf("it is served by the route %s", route)
	}
	key := bodyHeader(resp, wire.RuleHeader)
	_, first, named := strings.Cut(key, "-from-")
	if !named {
		first = ""
	}
	found := slices.IndexFunc(x.Candidates, func(c ExplainedCandidate) bool { return c.Backend == "default/"+first })
	switch {
	case !strings.Contains(key, "-of-"+strings.TrimPrefix(x.Route.Name, "default/")):
		return "it goes by the key " + key
	case named && (found < 0 || x.Candidates[found].Excluded != ""):
		return "it goes to " + first
	case named && "default/"+first == o.By && said(resp, wire.KeyEndpoints) != strings.Join(o.Endpoints, ","):
		return "it goes to the endpoints " + said(resp, wire.KeyEndpoints)
	}
	return ""
}

// bodyHeader is a header that an answer to the headers or the body of a request sets.
func bodyHeader(resp *extprocv3.ProcessingResponse, name string) string {
	for _, o := range resp.GetRequestBody().GetResponse().GetHeaderMutation().GetSetHeaders() {
		if o.GetHeader().GetKey() == name {
			return value(o.GetHeader())
		}
	}
	return setHeader(resp, name)
}

// TestExplanation has what an explanation says beside the outcome.
func TestExplanation(t *testing.T) {
	r := explainRig(t, 30, 40_000_000)
	ask := func(h headerMap, body string) *Explanation {
		req, _ := bothOf(h, body)
		x, err := r.server.Explain(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	x := ask(chatHeaders(), `{"model":"gpt-all","max_tokens":1000,"messages":[{"role":"user","content":"Hello"}],"seed":7}`)
	if c := x.Caller; c == nil || c.Consumer != "demo" || c.Tenant != "acme" || c.Credential != "key:k1" {
		t.Errorf("the caller is %+v", x.Caller)
	}
	if q := x.Request; q.Model != "gpt-all" || q.Operation != "chat" || q.Dialect != "openai" || q.BodyBytes != 93 {
		t.Errorf("the request is %+v", q)
	}
	if e := x.Estimate; e == nil || *e.OutputTokens != 1000 || e.InputTokens < 10 || e.Currency != "USD" || !strings.HasPrefix(e.Cost, "0.008") {
		t.Errorf("the estimate is %+v", e)
	}
	chosen := 0
	for _, rule := range x.Rules {
		if rule.Result == RuleChosen {
			chosen++
			if rule.Route != "default/all" || rule.Match != "model gpt-all" {
				t.Errorf("chosen is %+v", rule)
			}
		} else if rule.Why == "" {
			t.Errorf("no word about %+v", rule)
		}
	}
	if chosen != 1 || len(x.Rules) != 11 {
		t.Errorf("%d of %d rules are chosen", chosen, len(x.Rules))
	}
	if len(x.Limits) != 4 || len(x.Breakers) != 1 || x.Breakers[0].State != breaker.Closed.String() {
		t.Errorf("limits %+v, breakers %+v", x.Limits, x.Breakers)
	}
	for _, l := range x.Limits {
		if l.Result != LimitFits || l.Needs < 1 || l.Remaining != l.Limit || (l.Unit == "money") != (l.Money != nil) {
			t.Errorf("limit %+v", l)
		}
	}
	var claude *ExplainedCandidate
	for i := range x.Candidates {
		if x.Candidates[i].Backend == "default/anthropic" {
			claude = &x.Candidates[i]
		}
	}
	if claude == nil || !claude.Translated || claude.UpstreamModel != "claude-sonnet-4-5" || !slices.Contains(claude.Dropped, "seed") || claude.Price == nil {
		t.Errorf("of the candidate that translates: %+v", claude)
	}

	x = ask(chatHeaders("x-session-id", "1"), prompt("gpt-pool"))
	if p := x.Candidates[0].Pool; p == nil || len(p.Endpoints) != 3 || len(p.Picked) != 3 || p.Reason != pick.ByLoad || p.Mode != "LeastLoad" {
		t.Errorf("the pool is %+v", x.Candidates[0].Pool)
	}
	if p := x.Candidates[1].Pool; p == nil || p.Reason != pick.ByEnvoy || len(p.Picked) != 0 {
		t.Errorf("the pool that Envoy chooses from is %+v", x.Candidates[1].Pool)
	}
	if len(x.Outcome.Endpoints) == 0 || !x.Live {
		t.Errorf("the outcome is %+v", x.Outcome)
	}

	x = ask(chatHeaders(), prompt("gemini-pro"))
	if len(x.Candidates) != 1 || !strings.Contains(x.Candidates[0].Excluded, "does not serve the model") || x.Outcome.Status != 404 || x.Outcome.Kind != "model_not_found" {
		t.Errorf("of a model that nobody has: %+v, %+v", x.Candidates, x.Outcome)
	}
	x = ask(chatHeaders().with(":path", "/v1/embeddings"), `{"model":"claude","input":"x"}`)
	if len(x.Candidates) != 1 || !strings.Contains(x.Candidates[0].Excluded, "embeddings requests are not translated") {
		t.Errorf("of what is not translated: %+v", x.Candidates)
	}
	if text, _ := json.Marshal(x); bytes.Contains(text, []byte("0123456789")) || bytes.Contains(text, []byte("provider-key")) {
		t.Errorf("a secret is in %s", text)
	}
}

// TestExplainNamed: a caller may be named instead of a credential.
func TestExplainNamed(t *testing.T) {
	r := explainRig(t, 30, 40_000_000)
	for _, c := range []struct {
		consumer, tenant, model string
		status                  int
		says                    string
	}{
		{"default/demo", "", "gpt-4o", 0, "acme"},
		{"default/demo", "other", "gpt-4o", 0, "other"},
		{"", "acme", "gpt-4o", 0, "acme"},
		{"default/narrow", "", "claude", 403, "may not use"},
		{"default/lab", "", "beta-model", 0, "default"},
		{"default/demo", "", "beta-model", 403, "beta"},
		{"demo", "", "gpt-4o", -1, `there is no consumer "demo": write namespace/name`},
		{"default/nobody", "", "gpt-4o", -1, "there is no consumer default/nobody"},
		{"default/nobody", "acme", "gpt-4o", 0, "acme"},
	} {
		x, err := r.server.Explain(t.Context(), ExplainRequest{Path: "/v1/chat/completions", Body: []byte(prompt(c.model)), Consumer: c.consumer, Tenant: c.tenant})
		if c.status < 0 {
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s/%s: %v, want %q", c.consumer, c.tenant, err, c.says)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		said := x.Outcome.Message
		if c.status == 0 && x.Caller != nil {
			said = x.Caller.Tenant
		}
		if x.Outcome.Status != c.status || !strings.Contains(said, c.says) {
			t.Errorf("%s/%s asks for %s: %d, %q", c.consumer, c.tenant, c.model, x.Outcome.Status, said)
		}
	}
}

// TestExplainGateway: a gateway that is not there is no gateway that the request came in by.
func TestExplainGateway(t *testing.T) {
	r := explainRig(t, 30, 40_000_000)
	for gateway, says := range map[string]string{"": "", "default/gw": "", "default/nope": "there is no LLMGateway default/nope: the one that there is, is default/gw"} {
		_, err := r.server.Explain(t.Context(), ExplainRequest{Path: "/v1/chat/completions", Body: []byte(prompt("gpt-4o")), Tenant: "acme", Gateway: gateway})
		if text := fmt.Sprint(err); says == "" && err != nil || says != "" && text != says {
			t.Errorf("%q: %v", gateway, err)
		}
	}
}

// TestExplainCosts: what the input costs and what it costs with the output are told apart, and the latter is what a budget needs.
func TestExplainCosts(t *testing.T) {
	r := explainRig(t, 30, 400_000_000)
	for name, c := range map[string]struct {
		max     string
		output  int64
		assumed int64
	}{"asks for a largest output": {`"max_tokens":1000,`, 1000, 0}, "asks for none": {"", 100, 100}} {
		x, err := r.server.Explain(t.Context(), ExplainRequest{Path: "/v1/chat/completions", Tenant: "acme",
			Body: []byte(`{"model":"gpt-4o",` + c.max + `"messages":[{"role":"user","content":"Hello"}]}`)})
		if err != nil {
			t.Fatal(err)
		}
		e, there := x.Estimate, x.Candidates[0]
		input := money.Nano(e.InputTokens * 2000) // 2 per million, in nano-units
		if e.InputCost != input.String() || e.Cost != (input+money.Nano(c.output*8000)).String() || e.AssumedOutputTokens != c.assumed {
			t.Errorf("%s: %+v", name, e)
		}
		if needs := x.Limits[slices.IndexFunc(x.Limits, func(l ExplainedLimit) bool { return l.Money != nil })].Money.Needs; there.Cost != needs || there.InputCost != e.InputCost {
			t.Errorf("%s: the candidate may cost %s, %s of it for the input, and the budget needs %s", name, there.Cost, there.InputCost, needs)
		}
	}
}

// TestExplainTable: without a server it is as if nothing had been used. Before there is a table nothing can be said.
func TestExplainTable(t *testing.T) {
	r := explainRig(t, 30, 40_000_000)
	req, _ := bothOf(chatHeaders(), prompt("gpt-pool"))
	x, err := ExplainTable(t.Context(), r.server.Table(), dialects(t), r.clock, req)
	if err != nil {
		t.Fatal(err)
	}
	if !x.Outcome.Served || x.Live || len(x.Notes) == 0 || x.Candidates[0].Pool != nil || x.Limits[0].Remaining != x.Limits[0].Limit {
		t.Errorf("%+v", x)
	}
	if x, err := New(testOptions(t, r.clock, r.book)).Explain(t.Context(), req); err != nil || x.Outcome.Status != 503 || x.Outcome.Served {
		t.Errorf("without a table: %+v", x.Outcome)
	}
}

// TestExplainBeyondTheDoor: what the first attempt would be answered is the outcome.
func TestExplainBeyondTheDoor(t *testing.T) {
	rr := newRules(t)
	rule := rr.add("mixed", models("gpt-mixed"), choice{"anthropic", "claude"}, choice{"openai", "renamed"})
	rule.Candidates[0].Weight = 9
	r := newRig(t, rr.build())
	req, message := bothOf(chatHeaders(), `{"model":"gpt-mixed","n":2,"messages":[{"role":"user","content":"x"}]}`)
	x, err := r.server.Explain(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	s := &steeredRig{rig: r}
	resp, end := s.run(message, string(req.Body))
	real := r.attempt(resp, "chain/mixed", "default/anthropic", chatHeaders()).GetImmediateResponse()
	if real == nil || x.Outcome.Served || x.Outcome.Status != int(real.GetStatus().GetCode()) || x.Outcome.Body != string(real.GetBody()) {
		t.Errorf("explained %+v, the attempt is answered %v", x.Outcome, real)
	}
	if x.Candidates[0].Error == "" || x.Candidates[1].Error != "" || x.Candidates[0].Chance != 0.9 {
		t.Errorf("candidates %+v", x.Candidates)
	}
	end()
}
