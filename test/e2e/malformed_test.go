package e2e

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode"

	anthropicoption "github.com/anthropics/anthropic-sdk-go/v2/option"
	openaioption "github.com/openai/openai-go/v3/option"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim"
)

// lane is a way a request can take: the caller's dialect, and a model whose backend speaks the same dialect, another one,
// or the same with another name for the model. What is wrong with a request must not depend on it.
type lane struct {
	name    string
	dialect string
	model   string
	main    bool // the one lane of its dialect for cases in which the body does not matter
}

var lanes = []lane{
	{"openai", "openai", "gpt-4o", true},
	{"openai renamed", "openai", "renamed", false},
	{"openai to anthropic", "openai", "claude-sonnet-4-5", false},
	{"openai to dashscope", "openai", "qwen-plus", false},
	{"anthropic", "anthropic", "claude-sonnet-4-5", true},
	{"anthropic to openai", "anthropic", "gpt-4o", false},
	{"anthropic to dashscope", "anthropic", "qwen-plus", false},
}

// fields are the top-level members of a JSON object: names and raw values, in order.
type fields [][2]string

func (f fields) set(name, raw string) fields {
	for i := range f {
		if f[i][0] == name {
			out := slices.Clone(f)
			out[i][1] = raw
			return out
		}
	}
	return append(slices.Clone(f), [2]string{name, raw})
}

func (f fields) without(name string) fields {
	return slices.DeleteFunc(slices.Clone(f), func(m [2]string) bool { return m[0] == name })
}

func (f fields) String() string {
	members := make([]string, len(f))
	for i, m := range f {
		members[i] = `"` + m[0] + `":` + m[1]
	}
	return "{" + strings.Join(members, ",") + "}"
}

// fields of a request that every backend answers.
func (l lane) fields() fields {
	return fields{{"model", `"` + l.model + `"`}, {"max_tokens", "8"}, {"messages", `[{"role":"user","content":"hi"}]`}}
}

func (l lane) path() string {
	if l.dialect == "anthropic" {
		return "/v1/messages"
	}
	return "/v1/chat/completions"
}

// message is a sound request of the lane.
func (l lane) message() *message {
	m := &message{method: "POST", target: l.path(), proto: "HTTP/1.1", host: "gateway.test", contentType: "application/json", body: l.fields().String()}
	m.credential = l.credential(harness.DefaultKey)
	if l.dialect == "anthropic" {
		m.header("anthropic-version: 2023-06-01")
	}
	return m
}

// credential is how an SDK of the dialect sends a key.
func (l lane) credential(key string) []string {
	if l.dialect == "anthropic" {
		return []string{"x-api-key: " + key}
	}
	return []string{"authorization: Bearer " + key}
}

// malformed is a request that is wrong, hostile, or odd and yet right.
type malformed struct {
	name   string
	edit   func(lane, *message)
	status int // 0: the connection ends without an answer
	// each runs the case on every lane, not only on one of each dialect.
	each bool
	// only limits the case to callers of a dialect.
	only string
	// early: refused before the request's headers are understood, so that it has no id, and the error has the shape of
	// the default dialect.
	early bool
	// answer has headers that must be there.
	answer []string
}

const (
	expiredKey  = "expired-key-0123456789"
	disabledKey = "disabled-key-0123456789"
	narrowKey   = "narrow-key-0123456789" // may use no model that is served
	unknownKey  = "unknown-key-0123456789"
	tokenSecret = "token-secret-token-secret-token-secret"
)

// secrets must not be in any answer.
func malformedSecrets() []string {
	return []string{harness.DefaultKey, expiredKey, disabledKey, narrowKey, unknownKey, tokenSecret,
		harness.BackendKey("oa"), harness.BackendKey("an"), harness.BackendKey("ds")}
}

func malformedGateway(t *testing.T) (*harness.Gateway, []*harness.Sim) {
	oa := harness.NewSim(t, sim.Options{Dialect: sim.OpenAI})
	an := harness.NewSim(t, sim.Options{Dialect: sim.Anthropic})
	ds := harness.NewSim(t, sim.Options{Dialect: sim.DashScope})
	g := harness.Start(t, harness.Options{
		// More wrong credentials come from one address than anybody mistypes.
		Listener: "limits: {maxRequestBytes: 1Mi}\nauthentication: {maxFailedLogins: 0}",
		Backends: []harness.Backend{
			{Name: "oa", Sim: oa, Models: []string{"gpt-4o", "renamed=gpt-4o"}},
			{Name: "an", Sim: an, Models: []string{"claude-sonnet-4-5"}},
			{Name: "ds", Sim: ds, Models: []string{"qwen-plus"}},
		},
		Documents: []string{
			harness.Route("all", "rules: [{backends: [{name: oa}, {name: an}, {name: ds}]}]"),
			harness.Route("scoped", `
rules:
  - matches: [{headers: [{name: x-scoped, value: "yes"}]}]
    requiredScopes: [admin]
    backends: [{name: oa}, {name: an}, {name: ds}]`),
			harness.APIKey("expired", "app", expiredKey, `expiresAt: "2020-01-01T00:00:00Z"`),
			harness.APIKey("disabled", "app", disabledKey, "disabled: true"),
			harness.APIKey("narrow", "app", narrowKey, "allowedModels: [something-else]"),
			harness.Document("JWTIssuer", "idp", `
issuer: https://idp.test
audiences: [weir]
algorithms: [HS256]
keys: {secretRef: {file: token-secret.txt}}`),
		},
		Files: map[string]string{"token-secret.txt": tokenSecret},
	})
	return g, []*harness.Sim{oa, an, ds}
}

// TestMalformed sends what broken, careless and hostile clients send. Each request gets the status that the provider or
// the RFC gives, in a body that the SDK of the caller's dialect understands, and the gateway serves on as if nothing
// had happened.
func TestMalformed(t *testing.T) {
	t.Parallel()
	g, sims := malformedGateway(t)
	envoy := g.EnvoyPID()
	if envoy == 0 {
		t.Fatal("Envoy does not run")
	}
	table := slices.Concat(brokenBodies(), wrongFields(), wrongCredentials(), wrongTransport(), oddPaths(), oddButRight())
	if len(table) < 70 {
		t.Errorf("the table has %d cases only", len(table))
	}
	names := map[string]bool{}
	for _, c := range table {
		if names[c.name] {
			t.Errorf("there are two cases %q", c.name)
		}
		names[c.name] = true
		t.Run(c.name, func(t *testing.T) {
			for _, l := range lanes {
				if c.only != "" && l.dialect != c.only || !l.main && !c.each {
					continue
				}
				t.Run(l.name, func(t *testing.T) { checkMalformed(t, g, sims, l, c) })
			}
		})
	}
	t.Run("two hundred bad requests at a time", func(t *testing.T) { badRequestsAtOnce(t, g) })

	for _, l := range lanes {
		if r := send(t, g, l.message()); r.status != http.StatusOK {
			t.Errorf("afterwards the lane %s answers %d: %s", l.name, r.status, r.body)
		}
	}
	if now := g.EnvoyPID(); now != envoy {
		t.Errorf("Envoy was process %d and is %d now: it has died", envoy, now)
	}
	checkArrived(t, sims)
	g.WaitFor("nothing is kept for requests that have ended", func() bool {
		return g.Metric("weir_exchanges") == 0 && g.Metric("weir_exchange_bytes") == 0
	})
}

func checkMalformed(t *testing.T, g *harness.Gateway, sims []*harness.Sim, l lane, c malformed) {
	m := l.message()
	c.edit(l, m)
	before := received(sims)
	r := send(t, g, m)
	if r.status != c.status {
		t.Fatalf("status %d, want %d; body: %.300s", r.status, c.status, r.body)
	}
	if c.status == 0 {
		if n := received(sims) - before; n != 0 {
			t.Errorf("a request that did not come in whole reached a backend")
		}
		return
	}
	if id := r.header.Get("x-request-id"); id == "" && !c.early {
		t.Error("the answer has no x-request-id")
	}
	if r.status == http.StatusUnauthorized && r.header.Get("www-authenticate") == "" {
		t.Error("401 without www-authenticate")
	}
	for _, name := range c.answer {
		if r.header.Get(name) == "" {
			t.Errorf("the answer has no %s", name)
		}
	}
	checkNoSecret(t, l, m, r)
	if m.method == http.MethodHead {
		if len(r.body) > 0 {
			t.Errorf("HEAD was answered with a body: %q", r.body)
		}
		return
	}
	if kind := r.header.Get("content-type"); kind != "application/json" {
		t.Errorf("content-type %q", kind)
	}
	if c.status == http.StatusOK {
		if !json.Valid(r.body) {
			t.Errorf("the answer is no JSON: %s", r.body)
		}
		return
	}
	checkErrorShape(t, l, c, r)
	checkSDKReads(t, g, l, r)
}

// checkErrorShape checks the body of an error against what the dialects document.
func checkErrorShape(t *testing.T, l lane, c malformed, r rawReply) {
	t.Helper()
	var body struct {
		Type  string
		Error struct {
			Type, Message string
			// OpenAI's SDKs want both to be there, be they null.
			Param, Code *json.RawMessage
		}
	}
	if err := json.Unmarshal(r.body, &body); err != nil {
		t.Fatalf("the error is no JSON object: %v; %s", err, r.body)
	}
	if body.Error.Type == "" || body.Error.Message == "" {
		t.Errorf("error.type and error.message must be there: %s", r.body)
	}
	if strings.Contains(strings.ToLower(body.Error.Message), "grpc") || strings.Contains(body.Error.Message, "ext_proc") {
		t.Errorf("the message shows how the gateway is built: %s", body.Error.Message)
	}
	if l.dialect == "anthropic" && !c.early && body.Type != "error" {
		t.Errorf("Anthropic's errors have the type error: %s", r.body)
	}
	if l.dialect == "openai" {
		var members struct{ Error map[string]json.RawMessage }
		_ = json.Unmarshal(r.body, &members) // it went well above
		for _, name := range []string{"message", "type", "param", "code"} {
			if _, ok := members.Error[name]; !ok {
				t.Errorf("OpenAI's errors have the member %s: %s", name, r.body)
			}
		}
	}
}

// checkSDKReads gives the bytes of an answer to the official SDK, which must make its typed error of them.
func checkSDKReads(t *testing.T, g *harness.Gateway, l lane, r rawReply) {
	t.Helper()
	canned := &http.Client{Transport: roundTripper(func(req *http.Request) (*http.Response, error) { return r.response(req), nil })}
	var sdk caller = newOpenAI(g.URL, g.Key, openaioption.WithHTTPClient(canned))
	if l.dialect == "anthropic" {
		sdk = newAnthropic(g.URL, g.Key, anthropicoption.WithHTTPClient(canned))
	}
	_, err := sdk.ask(t.Context(), ask{model: l.model, turns: user("hi")})
	e, ok := sdk.refusal(err)
	if !ok {
		t.Fatalf("the %s SDK makes %v of it, not its own error", l.dialect, err)
	}
	if e.status != r.status || e.kind == "" || !strings.Contains(err.Error(), "message") && e.message == "" {
		t.Errorf("the %s SDK reads %+v", l.dialect, e)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// checkNoSecret looks for credentials, the request's own included, in an answer.
func checkNoSecret(t *testing.T, l lane, m *message, r rawReply) {
	t.Helper()
	secrets := malformedSecrets()
	for _, line := range m.credential {
		if _, value, _ := strings.Cut(line, ": "); len(value) >= 16 {
			secrets = append(secrets, strings.TrimPrefix(value, "Bearer "))
		}
	}
	text := string(r.body)
	for name, values := range maps.All(r.header) {
		text += name + strings.Join(values, "\n")
	}
	for _, s := range secrets {
		if strings.Contains(text, s) {
			t.Errorf("lane %s: the answer has the secret %.8s... in it", l.name, s)
		}
	}
}

// received counts what the backends were asked.
func received(sims []*harness.Sim) (n uint64) {
	for _, s := range sims {
		if all := s.Requests(); len(all) > 0 {
			n += all[len(all)-1].ID
		}
	}
	return n
}

// checkArrived checks what the backends got of all that: no header of Weir's or Envoy's own, no caller's credential, and
// nothing that could be read as the end of a line.
func checkArrived(t *testing.T, sims []*harness.Sim) {
	t.Helper()
	for _, s := range sims {
		for _, r := range s.Requests() {
			for name, values := range r.Header {
				lower := strings.ToLower(name)
				if strings.HasPrefix(lower, "x-weir-") || strings.HasPrefix(lower, "x-envoy-") || strings.HasPrefix(lower, "x-forwarded-") {
					t.Errorf("%s has received %s: %s", s.Dialect(), name, values)
				}
				if strings.ContainsFunc(strings.Join(values, ""), unicode.IsControl) {
					t.Errorf("%s has received a control character in %s: %q", s.Dialect(), name, values)
				}
			}
			for _, key := range []string{harness.DefaultKey, expiredKey, disabledKey, narrowKey, unknownKey} {
				if slices.Contains(r.Credentials, sim.Fingerprint(key)) {
					t.Errorf("%s has received the caller's key in %s %s", s.Dialect(), r.Method, r.Path)
				}
			}
		}
	}
}

// TestRecordsOfHostileRequests: what one client puts into a request must not lose the records of the requests beside it,
// which are counted, and release what is kept for them.
func TestRecordsOfHostileRequests(t *testing.T) {
	t.Parallel()
	g, _ := malformedGateway(t)
	hostile := []func(*message){
		func(m *message) { m.header("x-request-id: \xff\xfe") },
		func(m *message) { m.header("x-request-id: \xff\xfe"); m.target += "%00" },
		func(m *message) { m.header("x-request-id: \xff\xfe", "connection: upgrade", "upgrade: websocket") },
		func(m *message) { m.header("user-agent: \xff", "referer: \xff", "x-forwarded-for: \xff") },
		func(m *message) { m.body = "{\"model\":\"\xff\"}" },
		func(m *message) { m.host = "\xff" },
	}
	const each = 20
	var wg sync.WaitGroup
	for i := range each {
		for j := range hostile {
			wg.Go(func() {
				l := lanes[(i+j)%len(lanes)]
				m := l.message()
				hostile[j](m)
				send(t, g, m) // whatever comes of it
				if r := send(t, g, l.message()); r.status != http.StatusOK {
					t.Errorf("%s: status %d: %s", l.name, r.status, r.body)
				}
			})
		}
	}
	wg.Wait()
	want := float64(each * len(hostile))
	g.WaitFor("every sound request is counted", func() bool {
		return g.Metric("weir_requests_total", "status", "200", "route", "default/all") >= want
	})
	g.WaitFor("nothing is kept for requests that have ended", func() bool {
		return g.Metric("weir_exchanges") == 0 && g.Metric("weir_exchange_bytes") == 0
	})
}

// badRequestsAtOnce mixes refusals of several kinds on many connections with sound requests.
func badRequestsAtOnce(t *testing.T, g *harness.Gateway) {
	table := slices.Concat(brokenBodies(), wrongCredentials())
	done := make(chan string)
	for i := range 200 {
		go func() {
			l := lanes[i%len(lanes)]
			m, want := l.message(), http.StatusOK
			if c := table[i%len(table)]; i%2 == 0 && c.status != 0 && (c.only == "" || c.only == l.dialect) {
				c.edit(l, m)
				want = c.status
			}
			if r := send(t, g, m); r.status != want {
				done <- l.name + ": " + string(r.body)
				return
			}
			done <- ""
		}()
	}
	for range 200 {
		if wrong := <-done; wrong != "" {
			t.Error(wrong)
		}
	}
}
