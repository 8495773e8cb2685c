package e2e

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/redistest"
	"github.com/weir-dev/weir/test/sim"
)

// secretRun is a gateway that knows a secret of every kind, and what came out of it.
type secretRun struct {
	*harness.Gateway
	t       *testing.T
	secrets map[string]string // by what each is
	otlp    *sink
	tlsPort int
	places  map[string]string // what was looked through, by where it is
}

// sink takes what is exported by OTLP, as bytes, which show texts as they are.
type sink struct {
	*httptest.Server
	mu      sync.Mutex
	got     map[string]*bytes.Buffer // by path
	allowed bool                     // the header was right
}

func newSink(t *testing.T, header string) *sink {
	s := &sink{got: map[string]*bytes.Buffer{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // weir has ended
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.got[r.URL.Path] == nil {
			s.got[r.URL.Path] = &bytes.Buffer{}
		}
		s.got[r.URL.Path].Write(body)
		s.allowed = s.allowed || r.Header.Get("x-otlp-key") == header
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *sink) text(path string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.got[path]; b != nil {
		return b.String()
	}
	return ""
}

// secret makes one that is told from every other text, and notes it.
func (r *secretRun) secret(what string) string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	s := "sk-" + strings.ReplaceAll(what, " ", "-") + "-" + hex.EncodeToString(b[:])
	r.secrets[what] = s
	return s
}

// TestNoSecretIsShown runs a gateway with a secret of every kind, makes it good and bad requests, and looks for every secret in
// everything that comes out: logs at their most talkative, access lines, metrics, what OTLP exports, the ledger, every answer of the
// console, and Envoy's configuration.
func TestNoSecretIsShown(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"json", "text"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			r := newSecretRun(t, format)
			r.ask()
			r.collect()
			r.check(format)
		})
	}
}

func newSecretRun(t *testing.T, format string) *secretRun {
	r := &secretRun{t: t, secrets: map[string]string{}, places: map[string]string{}, tlsPort: harness.FreePort(t)}
	openai, anthropic := r.secret("provider key"), r.secret("other provider key")
	up := harness.NewSim(t, sim.Options{Dialect: sim.OpenAI, Key: openai})
	other := harness.NewSim(t, sim.Options{Dialect: sim.Anthropic, Key: anthropic})
	redis := redistest.Start(t, "--requirepass", r.secret("Redis password"))
	certificate, private := newAuthority(t, "authority").server(t, "gateway.example", newKey(t))
	r.secrets["private key of TLS"] = strings.Split(private, "\n")[1] // a line of it
	r.otlp = newSink(t, r.secret("OTLP header"))
	issuer := newSigner(t, "hs-issuer", "HS256")
	r.secrets["key of the issuer"] = string(issuer.key.([]byte))
	r.secrets["token"] = issuer.token(t, nil)
	r.secrets["signature of the token"] = r.secrets["token"][strings.LastIndex(r.secrets["token"], ".")+1:]
	folder := t.TempDir()
	clientSecret := filepath.Join(folder, "oidc")
	if err := os.WriteFile(clientSecret, []byte(r.secret("OIDC client secret")), 0o600); err != nil {
		t.Fatal(err)
	}
	nobody := httptest.NewServer(nil)
	nobody.Close()
	gateway := fmt.Sprintf(`
listeners:
  - {name: http, address: 127.0.0.1, port: 8080}
  - {name: https, address: 127.0.0.1, port: %d, tls: {certificateRef: {file: cert.txt}, privateKeyRef: {file: private.txt}}}
sharedState: {redis: {addresses: [%q], passwordRef: {file: redis.txt}}}
authentication: {keyPepperRef: {file: pepper.txt}, maxFailedLogins: 0}`, r.tlsPort, redis.Addr)
	r.Gateway = harness.Start(t, harness.Options{
		Bare: true,
		Backends: []harness.Backend{
			{Name: "oa", Sim: up, Key: openai, Models: []string{"gpt-4o"}}, {Name: "an", Sim: other, Key: anthropic, Models: []string{"claude-sonnet-4-5"}},
			{Name: "gone", Dialect: "openai", URL: nobody.URL + "/v1", Key: r.secret("key of a provider that is gone"), Models: []string{"gpt-4o"}},
		},
		Documents: []string{
			harness.Document("LLMGateway", "e2e", gateway),
			harness.Document("Consumer", "app", "tenant: app"),
			harness.Document("APIKey", "of-env", "consumer: app\nsecretRef: {env: SECRET_TEST_KEY}"),
			harness.Document("APIKey", "of-file", "consumer: app\nsecretRef: {file: key.txt}"),
			harness.Document("JWTIssuer", "hs", "issuer: hs-issuer\naudiences: [weir]\nalgorithms: [HS256]\nkeys: {secretRef: {file: hs.txt}}"),
			harness.Route("all", "rules: [{matches: [{models: [fallback]}], backends: [{name: gone, model: gpt-4o}, {name: oa, model: gpt-4o}], retry: {attempts: 2}}, {backends: [{name: oa}, {name: an}]}]"),
		},
		Files: map[string]string{
			"cert.txt": certificate, "private.txt": private, "redis.txt": r.secrets["Redis password"], "pepper.txt": r.secret("pepper"),
			"key.txt": r.secret("key of a file"), "hs.txt": string(issuer.key.([]byte)),
		},
		Args: []string{
			"--log-level", "debug", "--log-format", format, "--access-log", format,
			"--admin-oidc-issuer", nobody.URL, "--admin-oidc-client-id", "weir", "--admin-oidc-client-secret-file", clientSecret,
			"--admin-oidc-redirect-url", "http://localhost/api/session/oidc/callback",
		},
		Env: []string{
			"SECRET_TEST_KEY=" + r.secret("key of the environment"), "WEIR_ADMIN_TOKEN=" + r.secret("admin token"),
			"OTEL_EXPORTER_OTLP_ENDPOINT=" + r.otlp.URL, "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "OTEL_EXPORTER_OTLP_COMPRESSION=none",
			"OTEL_EXPORTER_OTLP_HEADERS=x-otlp-key=" + r.secrets["OTLP header"],
			"OTEL_TRACES_EXPORTER=otlp", "OTEL_LOGS_EXPORTER=otlp", "OTEL_METRICS_EXPORTER=otlp", "OTEL_BSP_SCHEDULE_DELAY=100", "OTEL_BLRP_SCHEDULE_DELAY=100",
		},
	})
	return r
}

// send makes a request to a base URL, whose headers are given as name and value in turn. What comes back may be anything.
func (r *secretRun) send(client *http.Client, method, base, path, body string, headers ...string) (status int, text string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, base+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("content-type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// admin asks the admin address with the token.
func (r *secretRun) admin(method, path, body string) (status int, text string) {
	r.t.Helper()
	return r.send(http.DefaultClient, method, r.AdminURL, path, body, "authorization", "Bearer "+r.secrets["admin token"])
}

// ask makes requests of every kind.
func (r *secretRun) ask() {
	t := r.t
	plain := &http.Client{}
	prompt := func(model, more string) string {
		return fmt.Sprintf(`{"model":%q,"max_tokens":20%s,"messages":[{"role":"user","content":"My password is %s."}]}`, model, more, r.secrets["prompt"])
	}
	r.secret("prompt")
	fromFile, fromEnv := "Bearer "+r.secrets["key of a file"], r.secrets["key of the environment"]
	const openai, anthropic = "/v1/chat/completions", "/v1/messages"
	good := func(path, body string, headers ...string) {
		t.Helper()
		if status, text := r.send(plain, "POST", r.URL, path, body, headers...); status != http.StatusOK {
			t.Fatalf("%s: status %d: %s", path, status, text)
		}
	}
	good(openai, prompt("gpt-4o", ""), "authorization", fromFile, "cookie", "session="+r.secret("cookie"))
	good(openai, prompt("gpt-4o", `,"stream":true`), "authorization", fromFile)
	good(anthropic, prompt("gpt-4o", ""), "x-api-key", fromEnv, "anthropic-version", "2023-06-01")
	good(openai, prompt("claude-sonnet-4-5", `,"stream":true`), "authorization", "Bearer "+r.secrets["token"])
	good(openai+"?api_key="+r.secret("key in a query")+"&key="+r.secrets["key of a file"], prompt("gpt-4o", ""), "authorization", fromFile)
	good("/"+r.secret("key in a path")+openai, prompt("gpt-4o", ""), "authorization", fromFile)
	good(openai, prompt("fallback", ""), "authorization", fromFile)

	for _, bad := range []struct {
		status     int
		path, body string
		headers    []string
	}{
		{401, openai, prompt("gpt-4o", ""), []string{"authorization", "Bearer " + r.secret("wrong key")}},
		{401, anthropic, prompt("gpt-4o", ""), []string{"x-api-key", r.secret("other wrong key")}},
		{401, openai, prompt("gpt-4o", ""), []string{"authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("user:"+r.secret("password")))}},
		{401, openai, prompt("gpt-4o", ""), []string{"authorization", fromFile, "x-api-key", r.secret("second key")}},
		{401, openai, prompt("gpt-4o", ""), []string{"authorization", "Bearer " + r.secrets["token"] + "x"}},
		{401, openai + "?key=" + r.secret("only key in a query"), prompt("gpt-4o", ""), nil},
		{404, "/" + r.secret("unknown path") + "/nothing", prompt("gpt-4o", ""), []string{"authorization", fromFile}},
		{404, openai, prompt("no-such-model", ""), []string{"authorization", fromFile}},
		{400, openai, `{"model":"gpt-4o","messages":[{"content":"` + r.secret("broken prompt") + `"`, []string{"authorization", fromFile}},
		{400, openai, `{"model":{"` + r.secret("model that is none") + `":1}}`, []string{"authorization", fromFile}},
	} {
		status, text := r.send(plain, "POST", r.URL, bad.path, bad.body, bad.headers...)
		if status/100 != 4 {
			t.Errorf("%s %.60s: status %d: %s", bad.path, bad.body, status, text)
		}
		r.places["the refusals"] += text + "\n"
	}
	secure := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	if status, text := r.send(secure, "POST", fmt.Sprintf("https://127.0.0.1:%d", r.tlsPort), openai, prompt("gpt-4o", ""), "authorization", fromFile); status != 200 {
		t.Errorf("over TLS: status %d: %s", status, text)
	}
	secure.CloseIdleConnections()
	r.malformed("POST " + openai + " HTTP/1.1\r\nhost: x\r\nauthorization Bearer " + r.secret("malformed header") + "\r\n\r\n")
	r.malformed("POST /" + r.secret("malformed path") + "\x01 HTTP/1.1\r\nhost: x\r\n\r\n")

	r.console()
}

// malformed sends what is no request. Envoy answers 400 or goes away.
func (r *secretRun) malformed(text string) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.URL, "http://"))
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		r.t.Fatal(err)
	}
	answer, _ := io.ReadAll(conn) // it may be reset
	if len(answer) > 0 && !bytes.HasPrefix(answer, []byte("HTTP/1.1 4")) {
		r.t.Errorf("the answer to what is no request: %s", answer)
	}
}

// console logs in and fails to, and uses the playground.
func (r *secretRun) console() {
	t := r.t
	for path, want := range map[string]int{"/api/status": 401, "/api/requests?key=" + r.secret("key in a query of the console"): 401, "/": 200, "/api/session/oidc": 502} {
		status, text := r.send(http.DefaultClient, "GET", r.AdminURL, path, "")
		if status != want {
			t.Errorf("%s: status %d: %.300s", path, status, text)
		}
		r.places["what the console says without a login"] += text + "\n"
	}
	for _, token := range []string{r.secret("wrong admin token"), r.secrets["key of a file"]} {
		if status, text := r.send(http.DefaultClient, "POST", r.AdminURL, "/api/session", fmt.Sprintf(`{"token":%q}`, token)); status != 401 {
			t.Errorf("a wrong token: status %d: %s", status, text)
		}
	}
	body := fmt.Sprintf(`{"token":%q}`, r.secrets["admin token"])
	resp, err := http.Post(r.AdminURL+"/api/session", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 || len(resp.Cookies()) != 1 {
		t.Fatalf("the login: status %d, %d cookies", resp.StatusCode, len(resp.Cookies()))
	}
	r.secrets["session of the console"] = resp.Cookies()[0].Value
	play := fmt.Sprintf(`{"path":"/v1/chat/completions","key":%q,"body":{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":%q}]}}`, r.secrets["key of a file"], r.secrets["prompt"])
	if status, text := r.admin("POST", "/api/playground", play); status != 200 || !strings.Contains(text, "data: ") {
		t.Errorf("the playground: status %d: %s", status, text)
	}
	if status, text := r.admin("POST", "/api/playground", strings.Replace(play, r.secrets["key of a file"], r.secret("wrong key in the playground"), 1)); status != 200 || !strings.Contains(text, "error") {
		t.Errorf("the playground with a wrong key: status %d: %s", status, text)
	}
}

// pages are the answers of the console that are looked through.
var pages = []string{
	"/api/status", "/api/limits", "/api/breakers", "/api/backends", "/api/usage?by=tenant,consumer,key,model&from=2020-01-01", "/api/topology",
	"/api/requests?limit=200", "/api/history?all=true", "/api/config", "/api/setup", "/api/session", "/metrics",
}

// collect takes everything that can be seen, and stops the gateway.
func (r *secretRun) collect() {
	t := r.t
	const requests = 21 // of all kinds; the malformed ones are not counted
	r.WaitFor("the lines of all requests", func() bool { return strings.Count(r.Logs(), "/v1/") >= requests-2 })
	r.WaitFor("the traces", func() bool { return strings.Contains(r.otlp.text("/v1/traces"), "gpt-4o") })
	for _, path := range pages {
		status, text := r.admin("GET", path, "")
		if status != 200 {
			t.Errorf("%s: status %d: %s", path, status, text)
		}
		r.places[path] = text
	}
	var list struct {
		Recent []struct {
			ID string `json:"id"`
		} `json:"recent"`
	}
	if err := json.Unmarshal([]byte(r.places["/api/requests?limit=200"]), &list); err != nil || len(list.Recent) == 0 {
		t.Fatalf("%d requests are listed: %v", len(list.Recent), err)
	}
	for _, one := range list.Recent {
		status, text := r.admin("GET", "/api/requests/"+url.PathEscape(one.ID), "")
		if status != 200 {
			t.Errorf("request %s: status %d: %s", one.ID, status, text)
		}
		r.places["the requests, one by one"] += text + "\n"
	}
	r.places["/api/stream"] = r.stream()
	for _, path := range []string{"/config_dump?include_eds", "/clusters", "/stats", "/server_info", "/certs"} {
		r.places["Envoy's "+path] = string(r.Envoy(path))
	}
	var status struct{ Ledger struct{ Folder string } }
	if err := json.Unmarshal([]byte(r.places["/api/status"]), &status); err != nil {
		t.Fatal(err)
	}
	r.Stop()
	r.places["the log and the access lines"] = r.Logs()
	err := filepath.WalkDir(status.Ledger.Folder, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		r.places["the ledger"] += string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v1/traces", "/v1/metrics", "/v1/logs"} {
		r.places["OTLP "+path] = r.otlp.text(path)
	}
}

// stream is the beginning of the console's events: until one of each name that comes by itself was seen.
func (r *secretRun) stream() string {
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, r.AdminURL+"/api/stream", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("authorization", "Bearer "+r.secrets["admin token"])
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	enough := time.AfterFunc(harness.Patience, func() { resp.Body.Close() })
	defer enough.Stop()
	var all strings.Builder
	missing := []string{"event: topology", "event: live"}
	for in := bufio.NewReader(resp.Body); len(missing) > 0; {
		line, err := in.ReadString('\n')
		all.WriteString(line)
		if err != nil {
			r.t.Errorf("the stream ends without %v: %v", missing, err)
			break
		}
		missing = slices.DeleteFunc(missing, func(m string) bool { return strings.HasPrefix(line, m) })
	}
	return all.String()
}

// check looks for every secret in every place.
func (r *secretRun) check(format string) {
	t := r.t
	// What must be there, or looking for what must not would show nothing.
	line := `"type":"access"`
	if format == "text" {
		line = "POST /v1/chat/completions"
	}
	for place, sign := range map[string]string{
		"the log and the access lines": line, "the ledger": "key:of-file", "/metrics": "weir_requests_total", "the requests, one by one": "fallback",
		"Envoy's /config_dump?include_eds": "weir.credential", "OTLP /v1/traces": "gpt-4o", "OTLP /v1/metrics": "weir", "OTLP /v1/logs": "configuration is live",
		"/api/config": "gone", "/api/stream": "event: ", "the refusals": "error",
	} {
		if !strings.Contains(r.places[place], sign) {
			t.Errorf("%s has no %q in %d bytes: %.500s", place, sign, len(r.places[place]), r.places[place])
		}
	}
	if !strings.Contains(r.places["the log and the access lines"], "/*/v1/chat/completions") {
		t.Error("no line shows that a part of a path was taken out")
	}
	if !r.otlp.allowed {
		t.Error("the OTLP header did not come")
	}
	for place, text := range r.places {
		for what, s := range r.secrets {
			forms := map[string]string{"plain": s, "in a URL": url.QueryEscape(s), "in base64": base64.StdEncoding.EncodeToString([]byte(s)), "in base64 for URLs": base64.RawURLEncoding.EncodeToString([]byte(s))}
			for how, form := range forms {
				at := strings.Index(text, form)
				if at < 0 {
					continue
				}
				around := strings.ReplaceAll(text[max(0, at-200):min(len(text), at+len(form)+50)], form, "[HERE]")
				t.Errorf("%s shows the secret %q, %s: ...%s...", place, what, how, around)
				break
			}
		}
	}
}
