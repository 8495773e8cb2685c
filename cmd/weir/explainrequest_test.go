package main

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc"
)

// golden compares text with a file, or writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what it was:\n%s", path, got)
	}
}

// served is an explanation of a request that is served, with everything that may be in one.
func served() *extproc.Explanation {
	most := int64(400)
	return &extproc.Explanation{
		Version: "4b203a5f1740", At: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC), Live: true,
		Request: extproc.ExplainedRequest{
			Method: "POST", Path: "/v1/chat/completions", Dialect: "openai", Operation: "chat", Model: "gpt-4o", Stream: true,
			BodyBytes: 20_000, MediaBytes: 12_000, MediaParts: 1,
		},
		Caller: &extproc.ExplainedCaller{
			Consumer: "shop", Namespace: "default", Tenant: "acme", Credential: "key:shop", Labels: map[string]string{"team": "web", "stage": "prod"},
			Scopes: []string{"beta"}, AllowedModels: [][]string{{"gpt-4o", "claude-*"}},
		},
		Route: &extproc.ExplainedRoute{Name: "default/chat", RequiredScopes: []string{"beta"}, TimeoutSeconds: 600},
		Rules: []extproc.ExplainedRule{
			{Route: "default/canary", Match: "model gpt-4o, header x-canary=1", Result: extproc.RuleNo, Why: "it wants the header x-canary, and the request has none"},
			{Route: "default/chat", Match: "model gpt-4o", Result: extproc.RuleChosen, Why: "the most specific that matches"},
			{Route: "default/rest", Match: "every request", Result: extproc.RuleBehind, Why: "it matches, and a more specific match comes first"},
		},
		RulesMore: 7,
		Estimate:  &extproc.ExplainedEstimate{InputTokens: 3500, OutputTokens: &most, Currency: "USD", InputCost: "0.0105", Cost: "0.0165"},
		Limits: []extproc.ExplainedLimit{
			{Name: "default/fair/requests", Unit: "requests", Per: "1m0s", Subject: "acme", Limit: 60, Remaining: 12, Needs: 1, ResetSeconds: 42.3, Result: extproc.LimitFits},
			{Name: "default/fair/tokens", Unit: "tokens", Per: "1h30m0s", Limit: 9000, Remaining: 10, Needs: 3900, Waiting: 2, Result: extproc.LimitFull, RetryAfterSeconds: 300, Shadow: true},
			{Name: "default/fair/at-once", Unit: "requests at once", Limit: 4, Remaining: 4, Needs: 1, Result: extproc.LimitFits, Unknown: true},
			{Name: "default/acme", Unit: "money", Per: "month", Limit: 1e12, Remaining: 4e11, Needs: 12_750_000, ResetSeconds: 700_000, Result: extproc.LimitFits, WarnOnly: true,
				Money: &extproc.ExplainedMoney{Limit: "1000", Remaining: "400", Needs: "0.0165", Reserved: "0"}},
		},
		Breakers: []extproc.ExplainedBreaker{
			{Policy: "default/fair", State: "Closed", Requests: 90, Failures: 3},
			{Policy: "default/each", Subject: "acme", State: "Open", Requests: 10, Failures: 9, Shadow: true},
		},
		Candidates: []extproc.ExplainedCandidate{
			{Backend: "default/gpu", Weight: 3, Dialect: "openai", UpstreamModel: "org/llama", Share: 0.5, Usable: true, Chance: 0.75, Pool: &extproc.ExplainedPool{
				Mode: "LeastLoad", Picked: []string{"10.0.0.1:8000", "10.0.0.3:8000"}, Reason: "prefix", CachedTokens: 2048, Waiting: 1, EndpointsMore: 4,
				Endpoints: []extproc.ExplainedEndpoint{
					{Endpoint: "10.0.0.1:8000", Requests: 3, Tokens: 4000, CachedTokens: 2048, Score: 5120, Speed: 1, Factor: 1, Breaker: "Closed", Weight: 1000, Why: "all well"},
					{Endpoint: "10.0.0.3:8000", Requests: 9, Tokens: 9000, Score: 9130, Speed: 0.85, Factor: 0.4, Breaker: "Closed", Weight: 400, Why: "queue 12 > 8: x0.4"},
					{Endpoint: "10.0.0.2:8000", Speed: 1, Factor: 1, Breaker: "Open", Cannot: "its circuit breaker is open"},
				},
			}},
			{Backend: "default/claude", Weight: 1, Dialect: "anthropic", UpstreamModel: "claude-sonnet-4-5", Share: 1, Usable: true, Chance: 0.25, Translated: true,
				Dropped: []string{"seed", "logprobs"}, InputCost: "0.0105", Price: &extproc.ExplainedPrice{Input: "3", Output: "15"}, Cost: "0.0165"},
			{Backend: "default/spare", Priority: 1, Weight: 1, Dialect: "openai", UpstreamModel: "gpt-4o", Share: 0, Usable: false},
			{Backend: "default/embed", Priority: 1, Weight: 1, Dialect: "openai", Share: 1, Usable: true, Excluded: `it does not serve the model "gpt-4o"`},
		},
		Outcome: extproc.ExplainedOutcome{Served: true, By: "default/gpu", Then: []string{"default/claude", "default/spare"}, Endpoints: []string{"10.0.0.1:8000", "10.0.0.3:8000"}},
	}
}

func refusedExplanation() *extproc.Explanation {
	x := served()
	x.Live, x.Notes = false, []string{"This is read from files."}
	x.Limits = x.Limits[1:2]
	x.Limits[0].Shadow = false
	x.Candidates[0].Pool.Picked, x.Candidates[0].Pool.Reason, x.Candidates[0].Pool.CachedTokens = nil, "Full", 0
	x.Candidates[1].Error = "n: Anthropic has one answer to a request."
	x.Breakers[1].Refuses, x.Breakers[1].Shadow, x.Breakers[1].RetryAfterSeconds = true, false, 3.2
	x.Outcome = extproc.ExplainedOutcome{
		Status: 429, Kind: "rate_limit", Code: "rate_limit_exceeded", Message: "The limit default/fair/tokens (9000 tokens per hour) is reached; try again in 300 s.",
		Headers: map[string]string{"retry-after": "300", "x-ratelimit-remaining-tokens": "10"}, WaitsSeconds: 5,
	}
	return x
}

func TestPrintExplanation(t *testing.T) {
	unknown := &extproc.Explanation{
		Request: extproc.ExplainedRequest{Method: "POST", Path: "/v1/chat/completions", BodyBytes: 7},
		Outcome: extproc.ExplainedOutcome{Status: 401, Kind: "authentication", Code: "missing_credential", Message: "The request carries no\x1b[2J credential."},
	}
	own := &extproc.Explanation{
		Live: true, Version: "v", Request: extproc.ExplainedRequest{Method: "GET", Path: "/v1/models", Dialect: "openai", Operation: "models"},
		Caller: &extproc.ExplainedCaller{Tenant: "acme"}, Outcome: extproc.ExplainedOutcome{Served: true, By: "weir", Status: 200},
	}
	for name, x := range map[string]*extproc.Explanation{"served": served(), "refused": refusedExplanation(), "unknown": unknown, "own": own} {
		var b strings.Builder
		if err := printExplanation(&b, x); err != nil {
			t.Fatal(err)
		}
		golden(t, "explain/"+name+".txt", b.String())
	}
}

// TestExplainRequest asks a gateway that answers one thing, and looks at what it is sent and what comes of it.
func TestExplainRequest(t *testing.T) {
	answer := served()
	var got explainBody
	var bearer string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		bearer = r.Header.Get("authorization")
		raw, _ := io.ReadAll(r.Body)
		if r.URL.Path != "/api/explain" || r.Method != http.MethodPost {
			http.NotFound(w, r)
			return
		}
		got = explainBody{}
		if err := json.Unmarshal(raw, &got); err != nil {
			t.Error(err)
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	defer s.Close()
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	body := file("body.json", `{"model":"m","model":"n"}`)
	whole := file("whole.json", `{"path":"/v1/messages","method":"post","headers":{"X-Api-Key":"secret-key-0123456789","x-a":["1","2"]},"body":{"model":"m"}}`)
	odd := file("odd.json", `{"path":"/x","body":"{\"model\": oops"}`)
	key := file("key", "  file-key-0123456789\n")
	t.Setenv("A_KEY", "env-key-0123456789")
	t.Setenv(adminTokenVariable, "admin-token")
	for _, c := range []struct {
		name string
		args []string
		want func(*explainBody) bool
	}{
		{"a body", []string{"-f", body}, func(b *explainBody) bool {
			return b.Path == "/v1/chat/completions" && string(b.BodyBase64) == `{"model":"m","model":"n"}` && len(b.Headers) == 0
		}},
		{"a key of the environment", []string{"-f", body, "--key-env", "A_KEY"}, func(b *explainBody) bool {
			return slices.Equal(b.Headers["authorization"], headerValues{"Bearer env-key-0123456789"})
		}},
		{"a key of a file", []string{"-f", body, "--key-file", key}, func(b *explainBody) bool {
			return slices.Equal(b.Headers["authorization"], headerValues{"Bearer file-key-0123456789"})
		}},
		{"a named caller", []string{"-f", body, "--consumer", "ns/name", "--tenant", "t", "--source", "10.0.0.1", "--gateway", "ns/gw"}, func(b *explainBody) bool {
			return b.Consumer == "ns/name" && b.Tenant == "t" && b.Source == "10.0.0.1" && b.Gateway == "ns/gw"
		}},
		{"flags", []string{"-f", body, "--path", "/v1/messages?x=1", "--method", "put", "--header", "X-A: 1", "--header", "x-a:2"}, func(b *explainBody) bool {
			return b.Path == "/v1/messages?x=1" && b.Method == "put" && slices.Equal(b.Headers["x-a"], headerValues{"1", "2"})
		}},
		{"a whole request", []string{"-f", whole}, func(b *explainBody) bool {
			return b.Path == "/v1/messages" && string(b.Body) == `{"model":"m"}` && len(b.Headers) == 2
		}},
		{"a whole request and flags", []string{"-f", whole, "--header", "x-api-key: other", "--path", "/v1/chat/completions"}, func(b *explainBody) bool {
			return b.Path == "/v1/chat/completions" && len(b.Headers) == 2 && slices.Equal(b.Headers["x-api-key"], headerValues{"other"})
		}},
		{"a body that is no JSON", []string{"-f", odd}, func(b *explainBody) bool {
			r, err := b.request()
			return err == nil && string(r.Body) == `{"model": oops`
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := weir("", append([]string{"explain", "request", "--admin", s.URL}, c.args...)...); err != nil || !c.want(&got) {
				t.Errorf("%v, %+v", err, got)
			}
			if bearer != "Bearer admin-token" {
				t.Errorf("the admin token is %q", bearer)
			}
		})
	}

	out, err := weir(`{"model":"m"}`, "explain", "request", "-f", "-", "--admin", strings.TrimPrefix(s.URL, "http://"), "-o", "json")
	var x extproc.Explanation
	if err != nil || json.Unmarshal([]byte(out), &x) != nil || x.Outcome.By != "default/gpu" || string(got.BodyBase64) != `{"model":"m"}` {
		t.Errorf("%v\n%s", err, out)
	}
	answer = refusedExplanation()
	out, err = weir(`{"model":"m"}`, "explain", "request", "-f", "-", "--admin", s.URL)
	var quiet quietError
	if !errors.As(err, &quiet) || quiet.code != exitRefused || !strings.Contains(out, "REFUSED with status 429") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestExplainRequestRefuses: what cannot be asked is said, without secrets.
func TestExplainRequestRefuses(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const chat = `{"model":"gpt-4o","messages":[]}`
	nobody := httptest.NewServer(nil)
	nobody.Close()
	stranger := httptest.NewServer(http.NotFoundHandler())
	defer stranger.Close()
	locked := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"error":"Log in."}`)
	}))
	defer locked.Close()
	for _, c := range []struct {
		in   string
		args []string
		says string
	}{
		{"", nil, "-f is missing"},
		{"{}", []string{"-f", "-", "-o", "yaml"}, "use text or json"},
		{"{}", []string{"-f", filepath.Join(dir, "none")}, "no such file"},
		{`{"path":"/x","boody":1}`, []string{"-f", "-"}, `unknown field "boody"`},
		{`{"path":"x"}`, []string{"-f", "-"}, "does not begin with /"},
		{`{"path":"/x","headers":{"a":1}}`, []string{"-f", "-"}, "a header is a string"},
		{`{"path":"/x","headers":{"a b":"hidden-0123456789"}}`, []string{"-f", "-"}, "no header of HTTP"},
		{`{"path":"/x","body":1,"bodyBase64":"eA=="}`, []string{"-f", "-"}, "given twice"},
		{"{}", []string{"-f", "-", "--header", "hidden-0123456789"}, "name: value"},
		{"{}", []string{"-f", "-", "--source", "nowhere"}, "no IP address"},
		{"{}", []string{"-f", "-", "--key-env", "NOT_SET_ANYWHERE"}, "NOT_SET_ANYWHERE is empty"},
		{"{}", []string{"-f", "-", "--key-file", empty}, "there is no key in it"},
		{"{}", []string{"-f", "-", "--key-file", empty, "--key-env", "X"}, "not both"},
		{"{}", []string{"-f", "-", "--admin", nobody.URL}, "no gateway answers at " + nobody.URL},
		{"{}", []string{"-f", "-", "--admin", stranger.URL}, "no weir that knows /api/explain"},
		{"{}", []string{"-f", "-", "--admin", locked.URL}, "wants its admin token: Log in."},
		{"{}", []string{"-f", "-", "--admin", "ftp://x"}, "neither host:port nor a URL"},
		{"{}", []string{"-f", "-", "--admin-token-file", filepath.Join(dir, "none")}, "--admin-token-file"},
		{"{}", []string{"-f", "-", "--admin-ca-file", empty}, "no certificate"},
		{"{}", []string{"-f", "-", "--config", dir}, "cannot be served as it is"},
		{"", []string{"-f", empty}, "the file is empty"},
		{" \n", []string{"-f", "-"}, "standard input is empty"},
		{chat, []string{"-f", "-", "--config", "../../deploy/local", "--tenant", "demo", "--gateway", "default/nope"}, "there is no LLMGateway default/nope; there is default/local"},
		{chat, []string{"-f", "-", "--config", "../../deploy/local", "--consumer", "default/nobody"}, "there is no consumer default/nobody"},
		{chat, []string{"-f", "-", "--config", "../../deploy/local", "--consumer", "demo"}, `there is no consumer "demo": write namespace/name`},
	} {
		_, err := weir(c.in, append([]string{"explain", "request"}, c.args...)...)
		if quiet := (quietError{}); errors.As(err, &quiet) {
			t.Errorf("%q %s: exit code %d, want 1", c.args, c.in, quiet.code)
		}
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%q %s: %v, want %q", c.args, c.in, err, c.says)
		}
	}
}

// TestExplainByFolder explains by the folder that everybody begins with.
func TestExplainByFolder(t *testing.T) {
	out, err := weir(`{"model":"gpt-4o","messages":[]}`, "explain", "request", "-f", "-", "--config", "../../deploy/local", "--consumer", "default/demo")
	if err != nil || !strings.Contains(out, "SERVED by default/sim-openai") || !strings.Contains(out, "This is read from files.") {
		t.Errorf("%v\n%s", err, out)
	}
	t.Setenv("A_KEY", "weir-demo-key")
	out, err = weir(`{"model":"none"}`, "explain", "request", "-f", "-", "--config", "../../deploy/local", "--key-env", "A_KEY")
	var quiet quietError
	if !errors.As(err, &quiet) || quiet.code != exitRefused || !strings.Contains(out, "by key:demo") || strings.Contains(out, "weir-demo-key") {
		t.Errorf("%v\n%s", err, out)
	}
}

func FuzzParseExplainBody(f *testing.F) {
	for _, s := range []string{`{"path":"/v1/x","headers":{"a":"b","c":["d"]},"body":{"model":"m"}}`, `{"path":"/","body":"x","source":"::1"}`, `{}`, `[]`, `{"path":"/"}x`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := parseExplainBody(raw)
		if err != nil {
			return
		}
		r, err := b.request()
		if err != nil {
			return
		}
		if !strings.HasPrefix(r.Path, "/") {
			t.Errorf("the path %q", r.Path)
		}
		for _, h := range r.Headers {
			if h[0] == "" || strings.ContainsAny(h[0]+h[1], "\r\n") {
				t.Errorf("the header %q", h)
			}
		}
	})
}
