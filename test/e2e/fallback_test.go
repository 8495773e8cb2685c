package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim"
)

// chainRoute sends a model to the providers in this order.
func chainRoute(name string, order []provider, extra string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "rules:\n  - matches: [{models: [%s]}]\n    backends:\n", name)
	for i, p := range order {
		fmt.Fprintf(&b, "      - {name: %s, model: %s, priority: %d}\n", p.name, p.model, i)
	}
	return harness.Route(name, b.String()+extra)
}

// rotations are the providers in every order in which each follows the others.
func rotations(ps []provider) map[string][]provider {
	return map[string][]provider{
		"openai-first":    {ps[0], ps[1], ps[2]},
		"anthropic-first": {ps[1], ps[2], ps[0]},
		"dashscope-first": {ps[2], ps[0], ps[1]},
	}
}

// firstByte is how long an attempt may take to begin, where one of them hangs.
const firstByte = time.Second

// failure is one way in which a provider fails.
type failure struct {
	name string
	rule *sim.Rule // nil: nobody listens
	// plainOnly saves time where a stream would fail in the same way.
	plainOnly bool
}

var failures = []failure{
	{"connection refused", nil, false},
	{"connection reset", &sim.Rule{Kind: sim.Close}, false},
	{"500", &sim.Rule{Kind: sim.Status, Status: 500}, false},
	{"503", &sim.Rule{Kind: sim.Status, Status: 503}, false},
	{"429", &sim.Rule{Kind: sim.Status, Status: 429, RetryAfter: sim.Duration(9 * time.Second)}, false},
	{"no first byte", &sim.Rule{Kind: sim.Hang}, true},
}

// TestFallbackOrder lets the first, then the first two of three providers fail.
func TestFallbackOrder(t *testing.T) {
	ps := providers(t, sim.Faults{})
	var docs []string
	for name, order := range rotations(ps) {
		docs = append(docs, chainRoute(name, order, "    timeouts: {firstByte: "+firstByte.String()+"}\n"))
	}
	g := harness.Start(t, harness.Options{Backends: backends(ps), Documents: docs})
	for name, order := range rotations(ps) {
		for _, f := range failures {
			for _, broken := range []int{1, 2} {
				if f.plainOnly && broken > 1 && name != "openai-first" {
					continue
				}
				t.Run(sprint(name, broken, f.name), func(t *testing.T) {
					for _, p := range order[:broken] {
						if f.rule == nil {
							p.sim.Stop()
							defer p.sim.Restart()
							continue
						}
						p.sim.Configure(sim.Faults{Rules: []sim.Rule{*f.rule}})
						defer p.sim.Configure(sim.Faults{})
					}
					for _, c := range callers(g.URL, g.Key) {
						for _, stream := range []bool{false, true} {
							if stream && f.plainOnly {
								continue
							}
							for _, p := range ps {
								p.sim.Reset()
							}
							r := mustAsk(t, c, ask{model: name, turns: user("Tell me 20 words."), stream: stream})
							if len(strings.Fields(r.text)) < 10 || r.finish != (sdkCase{caller: c}).word("stop", "end_turn") {
								t.Errorf("%s caller, stream %v: %+v", c.dialect(), stream, r)
							}
							checkAttempts(t, c, order, broken, f)
						}
					}
				})
			}
		}
	}
}

// checkAttempts looks at what each provider has received: its own dialect, its own credential, nothing of the others'.
func checkAttempts(t *testing.T, c caller, order []provider, broken int, f failure) {
	t.Helper()
	for i, p := range order {
		recs := p.sim.Requests()
		want := btoi(i <= broken)
		if i < broken && f.rule == nil {
			want = 0
		}
		if len(recs) != want {
			t.Fatalf("%s caller: %s has received %d requests, want %d", c.dialect(), p.name, len(recs), want)
		}
		for _, rec := range recs {
			checkAttempt(t, p, rec)
		}
	}
}

// checkAttempt looks at one request to a provider of a chain.
func checkAttempt(t *testing.T, p provider, rec sim.Record) {
	t.Helper()
	path := map[sim.Dialect]string{sim.OpenAI: "/v1/chat/completions", sim.Anthropic: "/v1/messages",
		sim.DashScope: "/api/v1/services/aigc/text-generation/generation"}[p.sim.Dialect()]
	if rec.Path != path {
		t.Errorf("%s was asked for %s", p.name, rec.Path)
	}
	if len(rec.Credentials) != 1 || rec.Credentials[0] != sim.Fingerprint(harness.BackendKey(p.name)) {
		t.Errorf("%s was shown the credentials %v", p.name, rec.Credentials)
	}
	for header, owner := range map[string]sim.Dialect{"Anthropic-Version": sim.Anthropic, "X-Api-Key": sim.Anthropic, "X-Dashscope-Sse": sim.DashScope} {
		if v := rec.Header.Get(header); v != "" && p.sim.Dialect() != owner {
			t.Errorf("%s was shown the header %s: %s", p.name, header, v)
		}
	}
	var body struct{ Model string }
	if err := json.Unmarshal([]byte(rec.Body), &body); err != nil || body.Model != p.model {
		t.Errorf("%s was asked for the model %q: %v", p.name, body.Model, err)
	}
	if l := rec.Header.Get("Content-Length"); l != "" && l != fmt.Sprint(rec.BodySize) {
		t.Errorf("%s was told %s bytes and got %d", p.name, l, rec.BodySize)
	}
}

// TestErrorUnderSuccess is about DashScope's errors in the body of a 200: they must never look like an answer, and
// another provider is none of the remedies, since the answer has begun when they are seen.
func TestErrorUnderSuccess(t *testing.T) {
	t.Parallel()
	ps := providers(t, sim.Faults{})
	g := harness.Start(t, harness.Options{Backends: backends(ps), Documents: []string{chainRoute("dash", ps[2:], "")}})
	ps[2].sim.Configure(sim.Faults{Rules: []sim.Rule{{Kind: sim.OKError}}})
	for _, c := range callers(g.URL, g.Key) {
		for _, stream := range []bool{false, true} {
			e := mustRefuse(t, c, ask{model: "dash", turns: user("Hello"), stream: stream}, http.StatusInternalServerError)
			if want := (sdkCase{caller: c}).word("server_error", "api_error"); e.kind != want {
				t.Errorf("%s caller, stream %v: type %q, want %q", c.dialect(), stream, e.kind, want)
			}
		}
	}
}

// TestKillUnderLoad kills the process of the first provider while hundreds of requests run.
func TestKillUnderLoad(t *testing.T) {
	pace := []string{"--ttft", "10ms", "--interval", "1ms"}
	first := harness.StartSim(t, sim.OpenAI, pace...)
	second := harness.StartSim(t, sim.Anthropic, pace...)
	g := harness.Start(t, harness.Options{
		Backends: []harness.Backend{
			{Name: "first", Dialect: "openai", URL: first.URL, Models: []string{"gpt-4o"}},
			{Name: "second", Dialect: "anthropic", URL: second.URL, Models: []string{"claude-sonnet-4-5"}},
		},
		Documents: []string{harness.Route("load", `
			rules:
			  - matches: [{models: [load]}]
			    backends: [{name: first, model: gpt-4o}, {name: second, model: claude-sonnet-4-5, priority: 1}]
		`)},
	})
	const requests, concurrency = 800, 24
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: concurrency}}
	t.Cleanup(client.CloseIdleConnections)
	var sent, broken, served atomic.Int64
	var byFirst, bySecond atomic.Int64
	var kill sync.Once
	var wg sync.WaitGroup
	for range concurrency {
		wg.Go(func() {
			for n := sent.Add(1); n <= requests; n = sent.Add(1) {
				if n == requests/3 {
					kill.Do(first.Kill)
				}
				caller := []string{"openai", "anthropic"}[n%2]
				stream := n%4 < 2
				resp, err := client.Do(request(t, g, "POST", chatPath(caller), caller, chatBody("load", "Tell me 30 words.", stream)))
				if err != nil {
					t.Errorf("request %d (%s, stream %v): %v", n, caller, stream, err)
					continue
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				switch {
				case resp.StatusCode != 200:
					t.Errorf("request %d (%s, stream %v): status %d: %s", n, caller, stream, resp.StatusCode, body)
				case whole(string(body), stream, err):
					served.Add(1)
				default:
					// What had begun cannot be begun again.
					broken.Add(1)
				}
				switch resp.Header.Get("x-weir-backend") {
				case "default/first":
					byFirst.Add(1)
				case "default/second":
					bySecond.Add(1)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d served, %d broken in the middle; %d by the first, %d by the second", served.Load(), broken.Load(), byFirst.Load(), bySecond.Load())
	if broken.Load() > concurrency {
		t.Errorf("%d answers broke, and %d at most were under way when the provider died", broken.Load(), concurrency)
	}
	if byFirst.Load() < requests/8 || bySecond.Load() < requests/2 {
		t.Errorf("the load did not meet the kill: %d by the first, %d by the second", byFirst.Load(), bySecond.Load())
	}
}

// whole says whether an answer came to its proper end.
func whole(body string, stream bool, err error) bool {
	if err != nil {
		return false
	}
	if !stream {
		return json.Valid([]byte(body))
	}
	text, ended, err := streamText(body)
	return err == nil && ended && text != ""
}

// TestAllDead answers in the caller's dialect, and says when to come back.
func TestAllDead(t *testing.T) {
	t.Parallel()
	ps := providers(t, sim.Faults{})
	var docs []string
	for name, order := range rotations(ps) {
		docs = append(docs, chainRoute(name, order, ""))
	}
	docs = append(docs, harness.Route("alone", "rules: [{backends: [{name: sim-openai}, {name: sim-anthropic}, {name: sim-dashscope}]}]"))
	g := harness.Start(t, harness.Options{Backends: backends(ps), Documents: docs})
	models := []string{"openai-first", "anthropic-first", "dashscope-first", "gpt-4o", "claude-sonnet-4-5", "qwen-plus"}
	every := func(t *testing.T, check func(t *testing.T, dialect string, a answer)) {
		for _, dialect := range []string{"openai", "anthropic"} {
			for _, model := range models {
				for _, stream := range []bool{false, true} {
					t.Run(sprint(dialect, model, stream), func(t *testing.T) {
						check(t, dialect, do(t, http.DefaultClient, request(t, g, "POST", chatPath(dialect), dialect, chatBody(model, "Hello", stream))))
					})
				}
			}
		}
	}
	for _, p := range ps {
		p.sim.Configure(sim.Faults{Rules: []sim.Rule{{Kind: sim.Status, Status: 429, RetryAfter: sim.Duration(9 * time.Second)}}})
	}
	t.Run("limited", func(t *testing.T) {
		every(t, func(t *testing.T, dialect string, a answer) {
			checkError(t, dialect, a, http.StatusTooManyRequests)
			if after := a.header.Get("retry-after"); after != "9" {
				t.Errorf("retry-after %q", after)
			}
		})
	})
	for _, p := range ps {
		p.sim.Stop()
	}
	t.Run("refused", func(t *testing.T) {
		every(t, func(t *testing.T, dialect string, a answer) {
			checkError(t, dialect, a, http.StatusServiceUnavailable)
			if after := a.header.Get("retry-after"); after == "" {
				t.Error("no retry-after")
			}
			for _, p := range ps {
				if strings.Contains(a.body, p.sim.Address()) {
					t.Errorf("the error tells the address of a backend: %s", a.body)
				}
			}
		})
	})
}

// TestRetryConditions: what is not listed is not retried, and there are no more attempts than asked for.
func TestRetryConditions(t *testing.T) {
	ps := providers(t, sim.Faults{})
	rule := func(name, retry string) string {
		return chainRoute(name, ps, "    retry: "+retry+"\n    timeouts: {firstByte: 400ms}\n")
	}
	g := harness.Start(t, harness.Options{Backends: backends(ps), Documents: []string{
		rule("all", "{}"), rule("two", "{attempts: 2}"), rule("one", "{attempts: 1}"), rule("five", "{attempts: 5}"),
		rule("only-connect", "{conditions: [ConnectFailure]}"), rule("only-server", "{conditions: [ServerError]}"),
		rule("only-limited", "{conditions: [RateLimited]}"), rule("only-timeout", "{conditions: [Timeout]}"), rule("only-unauthorized", "{conditions: [Unauthorized]}"), rule("never", "{conditions: []}"),
	}})
	status := func(code int) *sim.Rule { return &sim.Rule{Kind: sim.Status, Status: code} }
	hang := &sim.Rule{Kind: sim.Hang}
	for _, c := range []struct {
		model    string
		rule     *sim.Rule // of the first; nil: nobody listens there
		all      bool      // of every provider
		status   int       // 200: a fallback
		attempts int       // that providers have seen
	}{
		{"all", status(500), false, 200, 2}, {"all", status(429), false, 200, 2}, {"all", hang, false, 200, 2}, {"all", nil, false, 200, 1},
		{"all", status(400), false, 400, 1}, {"all", status(401), false, 200, 2}, {"all", status(403), false, 200, 2}, {"all", status(404), false, 404, 1},
		{"only-unauthorized", status(401), false, 200, 2}, {"only-unauthorized", status(500), false, 500, 1}, {"only-server", status(401), false, 401, 1},
		{"only-connect", nil, false, 200, 1}, {"only-connect", status(500), false, 500, 1}, {"only-connect", status(429), false, 429, 1}, {"only-connect", hang, false, 504, 1},
		{"only-server", status(500), false, 200, 2}, {"only-server", status(503), false, 200, 2}, {"only-server", status(429), false, 429, 1}, {"only-server", hang, false, 504, 1},
		{"only-limited", status(429), false, 200, 2}, {"only-limited", status(500), false, 500, 1}, {"only-limited", nil, false, 503, 0},
		{"only-timeout", hang, false, 200, 2}, {"only-timeout", status(500), false, 500, 1}, {"only-timeout", nil, false, 200, 1},
		{"never", status(500), false, 500, 1}, {"never", nil, false, 503, 0},
		{"all", status(500), true, 500, 3}, {"two", status(500), true, 500, 2}, {"one", status(500), true, 500, 1},
		{"five", status(500), true, 500, 5},
	} {
		name := "refused"
		if c.rule != nil {
			name = sprint(string(c.rule.Kind), c.rule.Status)
		}
		t.Run(sprint(c.model, name, c.all), func(t *testing.T) {
			for i, p := range ps {
				p.sim.Reset()
				p.sim.Configure(sim.Faults{})
				switch {
				case i > 0 && !c.all:
				case c.rule == nil:
					p.sim.Stop()
					defer p.sim.Restart()
				default:
					p.sim.Configure(sim.Faults{Rules: []sim.Rule{*c.rule}})
				}
			}
			a := chat(t, g, "openai", c.model)
			if c.status != 200 {
				checkError(t, "openai", a, c.status)
			} else if a.status != 200 {
				t.Errorf("status %d: %s", a.status, a.body)
			}
			n := 0
			for _, p := range ps {
				n += len(p.sim.Requests())
			}
			if n != c.attempts {
				t.Errorf("the providers have seen %d attempts, want %d", n, c.attempts)
			}
		})
	}
}

// TestUntranslatable: what a backend's dialect cannot say is the caller's mistake, 400, and never silently left out. A
// backend of the caller's own dialect is not affected.
func TestUntranslatable(t *testing.T) {
	t.Parallel()
	own := newFake(t, 200, "application/json", completion)
	down := newFake(t, 500, "application/json", `{"error":{"message":"down","type":"server_error","param":null,"code":null}}`)
	claude := harness.NewSim(t, sim.Options{Dialect: sim.Anthropic})
	g := harness.Start(t, harness.Options{
		Backends: []harness.Backend{
			{Name: "own", Dialect: "openai", URL: own.URL + "/v1", Models: []string{"m"}}, {Name: "down", Dialect: "openai", URL: down.URL + "/v1", Models: []string{"m"}},
			{Name: "claude", Sim: claude},
		},
		Documents: []string{
			harness.Route("mixed", "rules: [{matches: [{models: [mixed]}], backends: [{name: own, model: m}, {name: claude, model: claude-sonnet-4-5, priority: 1}]}]"),
			harness.Route("failing", "rules: [{matches: [{models: [failing]}], backends: [{name: down, model: m}, {name: claude, model: claude-sonnet-4-5, priority: 1}]}]"),
			harness.Route("foreign", "rules: [{matches: [{models: [foreign]}], backends: [{name: claude, model: claude-sonnet-4-5}]}]"),
		},
	})
	body := func(model string) string {
		return `{"model":"` + model + `","messages":[{"role":"user","content":"hi"}],"tools":[{"type":"custom","custom":{"name":"shell"}}]}`
	}
	send := func(model string) answer {
		return do(t, http.DefaultClient, request(t, g, "POST", "/v1/chat/completions", "openai", body(model)))
	}
	if a := send("mixed"); a.status != 200 || own.last(t).body != body("m") {
		t.Errorf("a backend of the own dialect: status %d: %s", a.status, a.body)
	}
	for _, model := range []string{"foreign", "failing"} {
		if msg := checkError(t, "openai", send(model), http.StatusBadRequest); !strings.Contains(msg, "tools[0]") {
			t.Errorf("%s: the error does not say where: %q", model, msg)
		}
	}
	if n := len(claude.Requests()); n > 0 {
		t.Errorf("the backend that cannot be asked was asked %d times", n)
	}
}

// TestRequestTimeout ends a request whose time is over, all attempts included, and lets go of the provider.
func TestRequestTimeout(t *testing.T) {
	t.Parallel()
	ps := providers(t, sim.Faults{})
	g := harness.Start(t, harness.Options{Backends: backends(ps), Documents: []string{
		chainRoute("short", ps, "    timeouts: {request: 500ms}\n"),
	}})
	ps[0].sim.Configure(sim.Faults{Rules: []sim.Rule{{Kind: sim.Hang}}})
	for _, c := range callers(g.URL, g.Key) {
		mustRefuse(t, c, ask{model: "short", turns: user("Hello")}, http.StatusGatewayTimeout)
	}
	g.WaitFor("the provider to be let go", func() bool { return ps[0].sim.Stats().Running == 0 })
	// The caller's own patience is as good a reason.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := callers(g.URL, g.Key)[0].ask(ctx, ask{model: "short", turns: user("Hello")}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the caller's own timeout gave %v", err)
	}
	g.WaitFor("the provider to be let go", func() bool { return ps[0].sim.Stats().Running == 0 })
}
