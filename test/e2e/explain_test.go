package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/weir-dev/weir/console/api"
	"github.com/weir-dev/weir/extproc"
	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim/gpu"
)

// explained is a gateway that tells beforehand what it does.
type explained struct{ *limited }

const keyGPT = "key-narrow-0123456789abcdef"

func startExplained(t *testing.T) *explained {
	t.Helper()
	x := &explained{&limited{provider: newSupplier(t)}}
	backends := append(x.provider.backends(t), harness.Backend{
		Name: "named", Dialect: "openai", URL: x.provider.URL + "/v1", Models: []string{"fast=org/fast-7b"}, Spec: "prices: [{input: \"1\", output: \"1\"}]",
	})
	pool := steeredPool{name: "pool", servers: quickGPUs(t, 3, gpu.Options{}), policy: "picking: {mode: LeastLoad}", backend: "prices: [{input: \"1\", output: \"1\"}]\n"}
	docs := append(fourKeys(), limitedRoutes()...)
	docs = append(docs,
		pool.document(), harness.Document("LoadPolicy", "pool", "targetRefs: [{kind: Backend, name: pool}]\n"+pool.policy),
		harness.Route("pool", "rules:\n  - matches: [{models: [pool]}]\n    backends: [{name: pool}]\n"),
		harness.Route("alias", "rules:\n  - matches: [{models: [fast]}]\n    backends: [{name: named}]\n"),
		harness.Consumer("narrow", keyGPT, "allowedModels: [\"gpt-*\"]"),
		limitPolicy("few", gatewayTarget, "models: [few]\nper: Tenant\nlimits: [{name: rpm, unit: Requests, limit: 2, window: 1h}, {name: tpm, unit: TotalTokens, limit: 100k, window: 1h}]"),
		limitPolicy("small", gatewayTarget, "models: [small]\nlimits: [{name: out, unit: OutputTokens, limit: 40, window: 1h}]"),
		limitPolicy("broken", gatewayTarget, "models: [broken]\ncircuitBreaker: {minRequests: 2, window: 1m, openFor: 1h}"),
		budget("spent", "amount: \"0.00015\"\nperiod: Month"),
	)
	x.Gateway = harness.Start(t, harness.Options{Backends: backends, Documents: docs})
	if problems := x.Status().Problems; len(problems) > 0 {
		t.Fatalf("problems: %q", problems)
	}
	return x
}

// explain asks what would become of a request.
func (x *explained) explain(t *testing.T, req *http.Request) *extproc.Explanation {
	t.Helper()
	body := map[string]any{"method": req.Method, "path": req.URL.RequestURI()}
	headers := map[string][]string{}
	for k, v := range req.Header {
		headers[k] = v
	}
	body["headers"] = headers
	if req.GetBody != nil {
		r, err := req.GetBody()
		must(t, err)
		raw, err := io.ReadAll(r)
		must(t, err)
		body["bodyBase64"] = raw
	}
	raw, err := json.Marshal(body)
	must(t, err)
	resp, err := http.Post(x.AdminURL+"/api/explain", "application/json", bytes.NewReader(raw))
	must(t, err)
	defer resp.Body.Close()
	var out extproc.Explanation
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("status %d: %v", resp.StatusCode, err)
	}
	return &out
}

// footprint is what requests leave behind: what is counted and reserved, and where they have gone.
func (x *explained) footprint(t *testing.T) string {
	t.Helper()
	var limits api.Limits
	var breakers api.Breakers
	var steering api.Steering
	adminJSON(t, x.Gateway, "/api/limits", &limits)
	adminJSON(t, x.Gateway, "/api/breakers", &breakers)
	adminJSON(t, x.Gateway, "/api/backends", &steering)
	var b strings.Builder
	for _, l := range limits.Limits {
		fmt.Fprintln(&b, l.ID, l.Admitted, l.Refused, l.ShadowRefused, l.Counters)
		slices.SortFunc(l.Subjects, func(a, b api.LimitSubject) int { return strings.Compare(a.Subject, b.Subject) })
		for _, s := range l.Subjects {
			fmt.Fprintln(&b, s.Subject, s.Remaining, s.Reserved, s.Admitted, s.Refused)
		}
	}
	for _, c := range breakers.Breakers {
		fmt.Fprintln(&b, c.Policy, c.Subject, c.State, c.Requests, c.Failures, c.Refused)
	}
	for _, p := range steering.Pools {
		fmt.Fprintln(&b, p.Backend, p.Requests, p.Tokens, p.Waiting, p.Picked, p.Refused)
	}
	return b.String()
}

// seconds differ from one moment to the next.
var seconds = regexp.MustCompile(`\d+ s\b`)

// check explains a request and sends it: what happens is what was said, and the explanation has counted nothing.
func (x *explained) check(t *testing.T, req *http.Request, status int) *extproc.Explanation {
	t.Helper()
	quiet(t, x.Gateway)
	before := x.footprint(t)
	said := x.explain(t, req)
	if after := x.footprint(t); after != before {
		t.Errorf("explaining changed\n%s\nto\n%s", before, after)
	}
	got := do(t, http.DefaultClient, req)
	if got.status != status {
		t.Fatalf("status %d, want %d: %s", got.status, status, got.body)
	}
	o := &said.Outcome
	if status == http.StatusOK {
		if !o.Served {
			t.Errorf("it is served, and it was said that it would be refused: %+v", o)
		}
		if backend := got.header.Get("x-weir-backend"); backend != "" {
			i := slices.IndexFunc(said.Candidates, func(c extproc.ExplainedCandidate) bool { return c.Backend == backend })
			if i < 0 || said.Candidates[i].Chance == 0 || said.Route == nil || said.Route.Name != got.header.Get("x-weir-route") {
				t.Errorf("%s answers by %s; said were %+v by %+v", backend, got.header.Get("x-weir-route"), said.Candidates, said.Route)
			}
		} else if o.By != "weir" {
			t.Errorf("weir answers, and %s was said to", o.By)
		}
		return said
	}
	var message struct{ Error struct{ Message string } }
	if err := json.Unmarshal([]byte(got.body), &message); err != nil {
		t.Fatal(err)
	}
	plain := func(s string) string { return seconds.ReplaceAllString(s, "N s") }
	if o.Served || o.Status != status || plain(o.Message) != plain(message.Error.Message) {
		t.Errorf("refused: %s\n said: %+v", got.body, o)
	}
	if (got.header.Get("retry-after") == "") != (o.Headers["retry-after"] == "") {
		t.Errorf("retry-after is %q, said was %q", got.header.Get("retry-after"), o.Headers["retry-after"])
	}
	return said
}

func TestExplain(t *testing.T) {
	t.Parallel()
	x := startExplained(t)
	ask := func(t *testing.T, key, rule, dialect, model string, more ...string) *http.Request {
		t.Helper()
		return x.question(t, key, rule, dialect, limitedBody(model, `"max_tokens":50`), more...)
	}
	for _, c := range []struct {
		name   string
		req    func(*testing.T) *http.Request
		status int
		by     string // the backend; "" where there is a choice
	}{
		{"OpenAI", func(t *testing.T) *http.Request { return ask(t, keyA1, "oa", "openai", "m") }, 200, "default/oa"},
		{"Anthropic", func(t *testing.T) *http.Request { return ask(t, keyA1, "an", "anthropic", "m") }, 200, "default/an"},
		{"OpenAI to Anthropic", func(t *testing.T) *http.Request { return ask(t, keyA1, "an", "openai", "m") }, 200, "default/an"},
		{"Anthropic to OpenAI", func(t *testing.T) *http.Request { return ask(t, keyA1, "oa", "anthropic", "m") }, 200, "default/oa"},
		{"either", func(t *testing.T) *http.Request { return ask(t, keyA1, "one", "openai", "m") }, 200, ""},
		{"stream", func(t *testing.T) *http.Request {
			return x.question(t, keyA1, "oa", "openai", limitedBody("m", `"stream":true`))
		}, 200, "default/oa"},
		{"alias", func(t *testing.T) *http.Request { return ask(t, keyA1, "none", "openai", "fast") }, 200, "default/named"},
		{"pool", func(t *testing.T) *http.Request { return ask(t, keyA1, "none", "openai", "pool") }, 200, "default/pool"},
		{"pool by Anthropic", func(t *testing.T) *http.Request { return ask(t, keyA1, "none", "anthropic", "pool") }, 200, "default/pool"},
		{"models", func(t *testing.T) *http.Request { return request(t, x.Gateway, "GET", "/v1/models", "openai", "") }, 200, "weir"},
		{"no route", func(t *testing.T) *http.Request { return ask(t, keyA1, "none", "openai", "nobody-has-this") }, 404, ""},
		{"no such path", func(t *testing.T) *http.Request { return request(t, x.Gateway, "POST", "/nowhere", "openai", "{}") }, 404, ""},
		{"another method", func(t *testing.T) *http.Request {
			return request(t, x.Gateway, "GET", "/v1/chat/completions", "openai", "")
		}, 405, ""},
		{"unknown key", func(t *testing.T) *http.Request { return ask(t, "key-of-nobody-0123456789", "oa", "openai", "m") }, 401, ""},
		{"no key", func(t *testing.T) *http.Request {
			return ask(t, keyA1, "oa", "openai", "m", "authorization", "")
		}, 401, ""},
		{"model that the key may not", func(t *testing.T) *http.Request { return ask(t, keyGPT, "oa", "openai", "m") }, 403, ""},
		{"model that it may", func(t *testing.T) *http.Request { return ask(t, keyGPT, "oa", "openai", "gpt-4o") }, 200, "default/oa"},
		{"no JSON", func(t *testing.T) *http.Request { return x.question(t, keyA1, "oa", "openai", `{"model":`) }, 400, ""},
		{"two models", func(t *testing.T) *http.Request {
			return x.question(t, keyA1, "oa", "openai", limitedBody("m", `"model":"n"`))
		}, 400, ""},
		{"what cannot be translated", func(t *testing.T) *http.Request {
			return x.question(t, keyA1, "an", "openai", `{"model":"m","messages":"no list"}`)
		}, 400, ""},
		{"too large", func(t *testing.T) *http.Request { return ask(t, keyA1, "oa", "openai", "small") }, 429, ""},
		{"limit, first", func(t *testing.T) *http.Request { return ask(t, keyA1, "oa", "openai", "few") }, 200, "default/oa"},
		{"limit, second", func(t *testing.T) *http.Request { return ask(t, keyB, "oa", "openai", "few") }, 200, "default/oa"},
		{"limit", func(t *testing.T) *http.Request { return ask(t, keyA1, "oa", "openai", "few") }, 429, ""},
		{"limit in Anthropic's words", func(t *testing.T) *http.Request { return ask(t, keyA1, "oa", "anthropic", "few") }, 429, ""},
		{"limit of another tenant", func(t *testing.T) *http.Request { return ask(t, keyC, "oa", "openai", "few") }, 200, "default/oa"},
		{"budget, first", func(t *testing.T) *http.Request { return ask(t, keyA1, "oa", "openai", "spent") }, 200, "default/oa"},
		{"budget", func(t *testing.T) *http.Request {
			return x.question(t, keyA1, "oa", "openai", limitedBody("spent", `"max_tokens":5000`))
		}, 429, ""},
		{"breaker, first", func(t *testing.T) *http.Request { return ask(t, keyA1, "oa", "openai", "broken") }, 200, "default/oa"},
	} {
		t.Run(c.name, func(t *testing.T) {
			said := x.check(t, c.req(t), c.status)
			if c.by != "" && said.Outcome.By != c.by {
				t.Errorf("%s was said to answer", said.Outcome.By)
			}
		})
	}
	t.Run("breaker", func(t *testing.T) {
		for range 3 {
			x.status(t, keyA1, "openai", "broken", 500)
		}
		said := x.check(t, ask(t, keyA1, "oa", "openai", "broken"), 503)
		if len(said.Breakers) != 1 || said.Breakers[0].State != "Open" || !said.Breakers[0].Refuses || said.Breakers[0].Failures != 0 {
			t.Errorf("breakers: %+v", said.Breakers)
		}
	})
	t.Run("pool", func(t *testing.T) {
		said := x.check(t, ask(t, keyA1, "none", "openai", "pool"), 200)
		p := said.Candidates[0].Pool
		if p == nil || len(p.Endpoints) != 3 || len(p.Picked) == 0 || len(said.Outcome.Endpoints) == 0 || p.Endpoints[0].Why == "" || p.Endpoints[0].Weight == 0 {
			t.Errorf("the pool is %+v", p)
		}
	})
	t.Run("command", func(t *testing.T) { testExplainCommand(t, x) })
	checkSecrets(t, x.Gateway, keyA1, keyGPT, harness.BackendKey("oa"))
}

// testExplainCommand: the program asks the gateway, and ends with a code that says what would happen.
func testExplainCommand(t *testing.T, x *explained) {
	run := func(body string, args ...string) (string, int) {
		t.Helper()
		cmd := exec.Command(harness.Binary(t), append([]string{"explain", "request", "-f", "-", "--admin", x.AdminURL, "--key-env", "A_KEY"}, args...)...)
		cmd.Env = append(cmd.Environ(), "A_KEY="+keyA1)
		cmd.Stdin = strings.NewReader(body)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if strings.Contains(string(out), keyA1) {
			t.Errorf("the key is shown:\n%s", out)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	if out, code := run(limitedBody("m"), "--header", "x-rule: oa"); code != 0 || !strings.Contains(out, "SERVED by default/oa") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if out, code := run(limitedBody("few"), "--header", "x-rule: oa", "--path", "/v1/messages"); code != 3 || !strings.Contains(out, "REFUSED with status 429") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if out, code := run(limitedBody("m"), "--config", x.Dir, "--header", "x-rule: oa"); code != 0 || !strings.Contains(out, "This is read from files") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if out, code := run(limitedBody("m"), "--consumer", "default/a"); code != 1 || !strings.Contains(out, "not both") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	for _, command := range []string{"status", "top"} {
		out, err := exec.Command(harness.Binary(t), command, "--admin", x.AdminURL).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "default/oa") {
			t.Errorf("weir %s: %v\n%s", command, err, out)
		}
	}
}
