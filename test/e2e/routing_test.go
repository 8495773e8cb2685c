package e2e

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim"
)

// matchCase is a set of rules that only its own requests can reach, by the header x-case.
type matchCase struct {
	name string
	// rules are matches as YAML; the header x-case is added to each. One that begins with "route " is in a Route of its
	// own, of that name.
	rules []string
	asks  []matchAsk
}

// matchAsk is a request and the rule that must serve it; -1 is none.
type matchAsk struct {
	path    string // "" is chat
	model   string
	key     string
	headers []string
	want    int
}

const goldKey = "gold-key-0123456789"

func matchCases() []matchCase {
	ask := func(want int, headers ...string) matchAsk { return matchAsk{headers: headers, want: want} }
	path := func(want int, p string) matchAsk { return matchAsk{path: p, want: want} }
	model := func(want int, m string) matchAsk { return matchAsk{model: m, want: want} }
	return []matchCase{
		{"prefix", []string{"path: {value: /v1/chat}"}, []matchAsk{path(0, ""), path(-1, "/v1/embeddings")}},
		{"prefix with a slash at its end", []string{"path: {value: /v1/chat/}"}, []matchAsk{path(0, "")}},
		{"prefix counts segments", []string{"path: {value: /v1/chat/comp}"}, []matchAsk{path(-1, "")}},
		{"prefix does not see the query", []string{"path: {value: /v1/chat/completions/x}"}, []matchAsk{path(-1, "/v1/chat/completions?/x")}},
		{"exact", []string{"path: {type: Exact, value: /v1/embeddings}"}, []matchAsk{path(0, "/v1/embeddings"), path(0, "/v1/embeddings?a=b"), path(-1, "")}},
		{"header", []string{"headers: [{name: X-Version, value: v2}]"}, []matchAsk{
			ask(0, "x-version", "v2"), ask(-1, "x-version", "v1"), ask(-1, "x-version", "v22"), ask(-1)}},
		{"header by expression", []string{`headers: [{type: RegularExpression, name: x-region, value: "eu-(west|east)-[0-9]"}]`}, []matchAsk{
			ask(0, "x-region", "eu-west-1"), ask(-1, "x-region", "eu-west-12"), ask(-1, "x-region", "us-eu-west-1"), ask(-1)}},
		{"two headers", []string{"headers: [{name: a, value: '1'}, {name: b, value: '2'}]"}, []matchAsk{ask(0, "a", "1", "b", "2"), ask(-1, "a", "1")}},
		{"query", []string{"queryParams: [{name: tier, value: gold}]"}, []matchAsk{
			path(0, "/v1/chat/completions?tier=gold"), path(0, "/v1/chat/completions?x=1&tier=go%6cd"), path(-1, "/v1/chat/completions?Tier=gold"), path(-1, "")}},
		{"query by expression", []string{`queryParams: [{type: RegularExpression, name: num, value: "[0-9]+"}]`}, []matchAsk{
			path(0, "/v1/chat/completions?num=12"), path(-1, "/v1/chat/completions?num=12a")}},
		{"method", []string{"method: POST"}, []matchAsk{ask(0)}},
		{"other method", []string{"method: GET"}, []matchAsk{ask(-1)}},
		{"model", []string{"models: [m1, m2]"}, []matchAsk{model(0, "m1"), model(0, "m2"), model(-1, "m3"), model(-1, "M1")}},
		{"model pattern", []string{`models: ["gpt-*-mini"]`}, []matchAsk{model(0, "gpt-4o-mini"), model(-1, "gpt-4o"), model(-1, "x-gpt-4o-mini")}},
		{"labels", []string{"consumerLabels: {team: gold}"}, []matchAsk{{key: goldKey, want: 0}, ask(-1)}},
		{"labels must all be there", []string{"consumerLabels: {team: gold, region: eu}"}, []matchAsk{{key: goldKey, want: -1}}},

		{"exact path before everything", []string{
			"path: {value: /v1/chat/completions}, method: POST", "path: {type: Exact, value: /v1/chat/completions}"}, []matchAsk{ask(1)}},
		{"longer prefix before method", []string{"path: {value: /v1}, method: POST", "path: {value: /v1/chat}"}, []matchAsk{ask(1), path(0, "/v1/embeddings")}},
		{"method before headers", []string{"headers: [{name: a, value: '1'}]", "method: POST"}, []matchAsk{ask(1, "a", "1")}},
		{"more headers before query", []string{"queryParams: [{name: q, value: '1'}]", "headers: [{name: a, value: '1'}]"}, []matchAsk{
			{path: "/v1/chat/completions?q=1", headers: []string{"a", "1"}, want: 1}, path(0, "/v1/chat/completions?q=1")}},
		{"more query before model", []string{"models: [m1]", "queryParams: [{name: q, value: '1'}]"}, []matchAsk{
			{path: "/v1/chat/completions?q=1", model: "m1", want: 1}, model(0, "m1")}},
		{"exact model before pattern", []string{`models: ["m*"]`, "models: [m1]"}, []matchAsk{model(1, "m1"), model(0, "m2")}},
		{"longer pattern first", []string{`models: ["m*"]`, `models: ["m-long*"]`}, []matchAsk{model(1, "m-long-1"), model(0, "m-1")}},
		{"pattern before labels", []string{"consumerLabels: {team: gold}", `models: ["m*"]`}, []matchAsk{{model: "m1", key: goldKey, want: 1}, {model: "x", key: goldKey, want: 0}}},
		{"more labels", []string{"consumerLabels: {team: gold}", "consumerLabels: {team: gold, tier: one}"}, []matchAsk{{key: goldKey, want: 1}}},
		{"order in the route", []string{"method: POST", "method: POST"}, []matchAsk{ask(0)}},
		{"name of the route", []string{"route zz method: POST", "route aa method: POST"}, []matchAsk{ask(1)}},
	}
}

func TestRouteMatching(t *testing.T) {
	t.Parallel()
	f := newFake(t, 200, "application/json", completion)
	cases := matchCases()
	docs := []string{harness.Consumer("gold", goldKey, "labels: {team: gold, tier: one}")}
	for i, c := range cases {
		routes := map[string]string{}
		for j, r := range c.rules {
			route := ""
			if rest, own := strings.CutPrefix(r, "route "); own {
				route, r, _ = strings.Cut(rest, " ")
			}
			header := fmt.Sprintf("{name: x-case, value: '%d'}", i)
			if strings.Contains(r, "headers: [") {
				r = strings.Replace(r, "headers: [", "headers: ["+header+", ", 1)
			} else {
				r += ", headers: [" + header + "]"
			}
			routes[route] += fmt.Sprintf("  - name: rule-%d\n    matches: [{%s}]\n    backends: [{name: any}]\n", j, r)
		}
		for route, rules := range routes {
			docs = append(docs, harness.Route(fmt.Sprintf("case-%d%s", i, route), "rules:\n"+rules))
		}
	}
	g := harness.Start(t, harness.Options{
		Backends:  []harness.Backend{{Name: "any", Dialect: "openai", URL: f.URL + "/v1", AnyModel: true}},
		Documents: docs,
	})
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for _, a := range c.asks {
				path, model, key := "/v1/chat/completions", "any-model", g.Key
				if a.path != "" {
					path = a.path
				}
				if a.model != "" {
					model = a.model
				}
				if a.key != "" {
					key = a.key
				}
				headers := append([]string{"authorization", "Bearer " + key, "x-case", fmt.Sprint(i)}, a.headers...)
				got := do(t, http.DefaultClient, request(t, g, "POST", path, "openai", chatBody(model, "Hello", false), headers...))
				if a.want < 0 {
					checkError(t, "openai", got, http.StatusNotFound)
					continue
				}
				if rule := got.header.Get("x-weir-route"); got.status != 200 || !strings.HasSuffix(rule, fmt.Sprintf("/rule-%d", a.want)) {
					// A Route with one rule of this name shows it all the same.
					t.Errorf("%s of model %s %v: status %d by %q, want rule %d: %s", path, model, a.headers, got.status, rule, a.want, got.body)
				}
			}
		})
	}
	t.Run("not found", func(t *testing.T) {
		for _, dialect := range []string{"openai", "anthropic"} {
			checkError(t, dialect, chat(t, g, dialect, "any-model"), http.StatusNotFound)
			a := do(t, http.DefaultClient, request(t, g, "POST", "/v1/no-such-path", dialect, "{}"))
			checkError(t, dialect, a, http.StatusNotFound)
			a = do(t, http.DefaultClient, request(t, g, "DELETE", chatPath(dialect), dialect, ""))
			checkError(t, dialect, a, http.StatusMethodNotAllowed)
			if allow := a.header.Get("allow"); allow != "POST" {
				t.Errorf("allow %q", allow)
			}
		}
	})
}

// TestAliases sends a model on under another name, by Route and by Backend, and in both.
func TestAliases(t *testing.T) {
	t.Parallel()
	openAI := newFake(t, 200, "application/json", completion)
	claude := newFake(t, 200, "application/json", `{"id":"msg_1","type":"message","role":"assistant","model":"upstream","content":[{"type":"text","text":"Hello."}],"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":1}}`)
	g := harness.Start(t, harness.Options{
		Backends: []harness.Backend{
			{Name: "one", Dialect: "openai", URL: openAI.URL + "/v1", Models: []string{"public=upstream-name", "plain"}},
			{Name: "two", Dialect: "openai", URL: openAI.URL + "/v1", Models: []string{"public=second-name"}},
			{Name: "claude", Dialect: "anthropic", URL: claude.URL, Models: []string{"claude=claude-upstream"}},
		},
		Documents: []string{
			harness.Route("models", "rules: [{backends: [{name: one}, {name: claude}]}]"),
			harness.Route("alias", "rules: [{matches: [{models: [alias]}], backends: [{name: one, model: plain}]}]"),
			harness.Route("both", "rules: [{matches: [{models: [both]}], backends: [{name: one, model: public}]}]"),
			harness.Route("chain", "rules: [{matches: [{models: [chain]}], backends: [{name: one, model: public}, {name: two, model: public, priority: 1}]}]"),
			harness.Route("foreign", "rules: [{matches: [{models: [foreign]}], backends: [{name: claude, model: claude}]}]"),
		},
	})
	// The other bytes stay as they are, whatever they are; and only the model at the top is the model.
	const form = "{ \"metadata\": {\"model\": \"inner\"}, \"x\": [1.0, 1e400],\"model\" : %q,\n\"messages\":[{\"role\":\"user\",\"content\":\"\\\"model\\\":\\\"q\\\" \\u00e9\"}], \"max_tokens\": 5 }"
	for _, c := range []struct {
		name, caller, model, upstream string
		to                            *fake
		same                          bool
	}{
		{"no alias", "openai", "plain", "plain", openAI, true},
		{"upstream name", "openai", "public", "upstream-name", openAI, true},
		{"route's alias", "openai", "alias", "plain", openAI, true},
		{"alias of an upstream name", "openai", "both", "upstream-name", openAI, true},
		{"with a fallback", "openai", "chain", "upstream-name", openAI, true},
		{"anthropic upstream name", "anthropic", "claude", "claude-upstream", claude, true},
		{"anthropic alias", "anthropic", "foreign", "claude-upstream", claude, true},
		{"translated alias", "anthropic", "both", "upstream-name", openAI, false},
		{"translated alias of the other", "openai", "foreign", "claude-upstream", claude, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			body := fmt.Sprintf(form, c.model)
			if !c.same { // what cannot be translated is another test's subject
				body = chatBody(c.model, "Hello", false)
			}
			a := do(t, http.DefaultClient, request(t, g, "POST", chatPath(c.caller), c.caller, body))
			if a.status != 200 {
				t.Fatalf("status %d: %s", a.status, a.body)
			}
			backend := map[*fake]string{openAI: "default/one", claude: "default/claude"}[c.to]
			if a.header.Get("x-weir-backend") != backend || !strings.HasPrefix(a.header.Get("x-weir-route"), "default/") || a.header.Get("x-request-id") == "" {
				t.Errorf("the answer does not say where it comes from: %v", a.header)
			}
			got := c.to.last(t)
			if c.same && got.body != fmt.Sprintf(form, c.upstream) {
				t.Errorf("the provider received %s", got.body)
			}
			if !c.same && !strings.Contains(got.body, fmt.Sprintf(`"model":%q`, c.upstream)) {
				t.Errorf("the provider received %s, which is not of the model %s", got.body, c.upstream)
			}
			if !c.same && !strings.Contains(a.body, fmt.Sprintf(`"model":%q`, c.model)) {
				t.Errorf("the caller asked for %s and reads %s", c.model, a.body)
			}
			if got.length != int64(len(got.body)) {
				t.Errorf("content-length %d for %d bytes", got.length, len(got.body))
			}
		})
	}
}

// counter is a provider that answers at once and counts.
func counter(t *testing.T) (url string, count *atomic.Int64) {
	t.Helper()
	count = &atomic.Int64{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // so that the connection can be used again
		count.Add(1)
		w.Header().Set("content-type", "application/json")
		_, _ = io.WriteString(w, completion) // the gateway may have gone
	}))
	t.Cleanup(s.Close)
	return s.URL + "/v1", count
}

// TestWeights counts 10,000 requests: on routes that ask weir about each attempt, and on those that do not.
func TestWeights(t *testing.T) {
	t.Parallel()
	urlA, a := counter(t)
	urlB, b := counter(t)
	g := harness.Start(t, harness.Options{
		Backends: []harness.Backend{
			{Name: "a", Dialect: "openai", URL: urlA, AnyModel: true}, {Name: "b", Dialect: "openai", URL: urlB, AnyModel: true},
		},
		Documents: []string{
			harness.Route("chain", "rules: [{matches: [{models: [chain]}], backends: [{name: a, weight: 80}, {name: b, weight: 20}]}]"),
			harness.Route("direct", "rules: [{matches: [{models: [direct]}], retry: {attempts: 1}, backends: [{name: a, weight: 80}, {name: b, weight: 20}]}]"),
		},
	})
	const requests, concurrency, points = 10_000, 32, 1.5
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: concurrency}}
	t.Cleanup(client.CloseIdleConnections)
	for _, model := range []string{"chain", "direct"} {
		t.Run(model, func(t *testing.T) {
			a.Store(0)
			b.Store(0)
			var failed, sent atomic.Int64
			var wg sync.WaitGroup
			for range concurrency {
				wg.Go(func() {
					for sent.Add(1) <= requests {
						req := request(t, g, "POST", "/v1/chat/completions", "openai", chatBody(model, "Hello", false))
						resp, err := client.Do(req)
						if err != nil {
							failed.Add(1)
							continue
						}
						_, _ = io.Copy(io.Discard, resp.Body)
						resp.Body.Close()
						if resp.StatusCode != 200 {
							failed.Add(1)
						}
					}
				})
			}
			wg.Wait()
			if failed.Load() > 0 || a.Load()+b.Load() != requests {
				t.Fatalf("%d of %d requests failed; the backends have seen %d and %d", failed.Load(), requests, a.Load(), b.Load())
			}
			share := 100 * float64(a.Load()) / requests
			if math.Abs(share-80) > points {
				t.Errorf("%.2f %% went to the backend with weight 80", share)
			}
			t.Logf("%.2f %% went to the backend with weight 80", share)
		})
	}
}

// TestPriorities asks a higher priority number only after every lower one, and a weight of 0 never.
func TestPriorities(t *testing.T) {
	t.Parallel()
	var sims [4]*harness.Sim
	var bs []harness.Backend
	for i := range sims {
		sims[i] = harness.NewSim(t, sim.Options{Dialect: sim.OpenAI, Seed: uint64(i)})
		bs = append(bs, harness.Backend{Name: fmt.Sprintf("b%d", i), Sim: sims[i]})
	}
	g := harness.Start(t, harness.Options{Backends: bs, Documents: []string{harness.Route("levels", `
		rules:
		  - backends:
		      - {name: b2, priority: 2}
		      - {name: b1, priority: 1}
		      - {name: b0}
		      - {name: b3, weight: 0}
	`)}})
	for i := range 3 {
		for range 20 {
			if a := chat(t, g, "openai", "gpt-4o"); a.status != 200 || a.header.Get("x-weir-backend") != fmt.Sprintf("default/b%d", i) {
				t.Fatalf("with %d backends dead: status %d from %s: %s", i, a.status, a.header.Get("x-weir-backend"), a.body)
			}
		}
		sims[i].Stop()
	}
	checkError(t, "openai", chat(t, g, "openai", "gpt-4o"), http.StatusServiceUnavailable)
	if n := len(sims[3].Requests()); n > 0 {
		t.Errorf("the backend of weight 0 has seen %d requests", n)
	}
}
