package e2e

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim"
)

// members is a gateway with keys and issuers of every kind, before one provider.
type members struct {
	*harness.Gateway
	provider                  *fake
	rs, es, ed, file, hs, own signer // own is of an issuer that nobody knows
}

const (
	keyFromFile = "key-from-a-file-01234"
	keyExpired  = "expired-key-012345678"
	keyDisabled = "disabled-key-01234567"
	keyNarrow   = "narrow-key-0123456789"
	keyScoped   = "scoped-key-0123456789"
)

func newMembers(t *testing.T) *members {
	m := &members{
		provider: newFake(t, 200, "application/json", completion),
		rs:       newSigner(t, "https://id.example", "RS256"), es: newSigner(t, "https://id.example", "ES256"), ed: newSigner(t, "https://id.example", "EdDSA"),
		file: newSigner(t, "file-issuer", "ES256"), hs: newSigner(t, "hs-issuer", "HS256"), own: newSigner(t, "https://evil.example", "RS256"),
	}
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("content-type", "application/json")
		_, _ = w.Write([]byte(jwks(t, m.rs, m.es, m.ed))) // weir tries again
	}))
	t.Cleanup(keys.Close)
	issuer := func(name, spec string) string { return harness.Document("JWTIssuer", name, spec) }
	m.Gateway = harness.Start(t, harness.Options{
		Backends: []harness.Backend{
			{Name: "any", Dialect: "openai", URL: m.provider.URL + "/v1", Models: []string{"gpt-4o", "gpt-4o-mini", "gpt-5", "secret-model", "gold-model"}},
		},
		Files: map[string]string{
			"file.key.txt": keyFromFile + "\n", "file.jwks.txt": jwks(t, m.file), "hs.key.txt": string(m.hs.key.([]byte)) + "\n",
			"scoped.yaml": harness.APIKey("scoped", "app", keyScoped, "scopes: [premium, read]"),
		},
		Documents: []string{
			harness.Route("models", "rules: [{matches: [{models: [gpt-4o, gpt-4o-mini, gpt-5]}], backends: [{name: any}]}]"),
			harness.Route("premium", "rules: [{matches: [{models: [secret-model]}], requiredScopes: [premium, read], backends: [{name: any}]}]"),
			harness.Route("gold", "rules: [{matches: [{models: [gold-model], consumerLabels: {team: gold}}], backends: [{name: any}]}]"),
			harness.Document("APIKey", "from-file", "consumer: app\nsecretRef: {file: file.key.txt}"),
			harness.APIKey("expired", "app", keyExpired, "expiresAt: 2020-01-01T00:00:00Z"),
			harness.APIKey("disabled", "app", keyDisabled, "disabled: true"),
			harness.APIKey("narrow", "app", keyNarrow, "allowedModels: [\"gpt-4*\"]"),
			harness.Document("Consumer", "alice", "tenant: wonderland\nlabels: {team: gold}\nallowedModels: [gpt-4o, gpt-5, gold-model, secret-model]"),
			issuer("url", "issuer: https://id.example\naudiences: [weir, other]\nleeway: 1s\nkeys: {url: \""+keys.URL+"/jwks\"}\nclaims: {allowedModels: models, labels: {team: team}}"),
			issuer("file", "issuer: file-issuer\naudiences: [weir]\nalgorithms: [ES256]\nrequiredScopes: [chat]\nkeys: {file: file.jwks.txt}"),
			issuer("hs", "issuer: hs-issuer\naudiences: [weir]\nalgorithms: [HS256]\nkeys: {secretRef: {file: hs.key.txt}}"),
		},
	})
	m.WaitFor("the keys of the issuer", func() bool {
		s := m.Status().KeySets
		return len(s) == 1 && s[0].Keys == 3
	})
	return m
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	t.Run("headers", func(t *testing.T) { testCredentialHeaders(t, m) })
	t.Run("keys", func(t *testing.T) { testKeys(t, m) })
	t.Run("tokens", func(t *testing.T) { testTokens(t, m) })
	t.Run("scopes", func(t *testing.T) { testScopes(t, m) })
	t.Run("models", func(t *testing.T) { testAllowedModels(t, m) })
	t.Run("private headers", func(t *testing.T) { testPrivateHeaders(t, m) })
	t.Run("no credential reaches the provider", func(t *testing.T) {
		for _, r := range m.provider.requests() {
			if got := r.header.Values("authorization"); !slices.Equal(got, []string{"Bearer " + harness.BackendKey("any")}) {
				t.Fatalf("authorization %v", got)
			}
			for _, name := range []string{"x-api-key", "api-key", "x-goog-api-key", "cookie", "proxy-authorization"} {
				if v := r.header.Get(name); v != "" {
					t.Fatalf("%s: %s", name, v)
				}
			}
		}
	})
	// The last: it changes what is served.
	t.Run("revoked", func(t *testing.T) {
		if a := chat(t, m.Gateway, "openai", "gpt-4o", "authorization", "Bearer "+keyScoped); a.status != 200 {
			t.Fatalf("status %d: %s", a.status, a.body)
		}
		m.Change(func() { m.WriteFile("scoped.yaml", harness.APIKey("scoped", "app", keyScoped, "disabled: true")) })
		checkError(t, "openai", chat(t, m.Gateway, "openai", "gpt-4o", "authorization", "Bearer "+keyScoped), http.StatusUnauthorized)
	})
	t.Run("secrets", func(t *testing.T) {
		for _, secret := range []string{m.Key, keyFromFile, keyNarrow, string(m.hs.key.([]byte)), harness.BackendKey("any")} {
			if strings.Contains(m.Logs(), secret) || strings.Contains(string(m.Envoy("/config_dump?include_eds")), secret) {
				t.Errorf("the logs or Envoy's configuration show the secret %.6s...", secret)
			}
		}
	})
}

// challenge is what www-authenticate must say of an error; "" is an error of no attributes.
func checkChallenge(t *testing.T, a answer, problem string) {
	t.Helper()
	got := a.header.Get("www-authenticate")
	if !strings.HasPrefix(got, `Bearer realm="weir"`) || problem == "" && strings.Contains(got, "error=") ||
		problem != "" && !strings.Contains(got, `error="`+problem+`"`) {
		t.Errorf("www-authenticate %q, want error %q", got, problem)
	}
}

func testCredentialHeaders(t *testing.T, m *members) {
	key, other := m.Key, keyNarrow
	for _, c := range []struct {
		name    string
		headers []string // authorization is there unless it is set
		problem string   // "-": none, it is let in
	}{
		{"bearer", []string{"authorization", "Bearer " + key}, "-"},
		{"bearer in lower case", []string{"authorization", "bearer  " + key}, "-"},
		{"apikey", []string{"authorization", "ApiKey " + key}, "-"},
		{"x-api-key", []string{"authorization", "", "x-api-key", key}, "-"},
		{"api-key", []string{"authorization", "", "api-key", key}, "-"},
		{"x-goog-api-key", []string{"authorization", "", "x-goog-api-key", key}, "-"},
		{"the same twice", []string{"authorization", "Bearer " + key, "x-api-key", key}, "-"},
		{"two different", []string{"authorization", "Bearer " + key, "x-api-key", other}, "invalid_token"},
		{"none", []string{"authorization", ""}, ""},
		{"basic", []string{"authorization", "Basic dXNlcjpwYXNz"}, ""},
		{"no scheme", []string{"authorization", key}, ""},
		{"empty", []string{"authorization", "Bearer "}, "invalid_token"},
		{"cookie", []string{"authorization", "", "cookie", "key=" + key}, ""},
		{"space inside", []string{"authorization", "Bearer " + key + " x"}, "invalid_token"},
	} {
		for _, dialect := range []string{"openai", "anthropic"} {
			t.Run(sprint(c.name, dialect), func(t *testing.T) {
				a := chat(t, m.Gateway, dialect, "gpt-4o", c.headers...)
				if c.problem == "-" {
					if a.status != 200 {
						t.Errorf("status %d: %s", a.status, a.body)
					}
					return
				}
				checkError(t, dialect, a, http.StatusUnauthorized)
				checkChallenge(t, a, c.problem)
			})
		}
	}
	t.Run("query", func(t *testing.T) {
		a := do(t, http.DefaultClient, request(t, m.Gateway, "POST", "/v1/chat/completions?key="+key+"&api_key="+key, "openai", chatBody("gpt-4o", "hi", false), "authorization", ""))
		checkError(t, "openai", a, http.StatusUnauthorized)
	})
}

func testKeys(t *testing.T, m *members) {
	for name, c := range map[string]struct {
		key string
		in  bool
	}{
		"known": {m.Key, true}, "from a file": {keyFromFile, true}, "narrow": {keyNarrow, true},
		"expired": {keyExpired, false}, "disabled": {keyDisabled, false}, "unknown": {"never-heard-of-0123456", false},
		"prefix": {m.Key[:len(m.Key)-1], false}, "longer": {m.Key + "x", false}, "another case": {strings.ToUpper(m.Key), false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, dialect := range []string{"openai", "anthropic"} {
				a := chat(t, m.Gateway, dialect, "gpt-4o", "authorization", "Bearer "+c.key)
				if c.in {
					if a.status != 200 {
						t.Errorf("status %d: %s", a.status, a.body)
					}
					continue
				}
				msg := checkError(t, dialect, a, http.StatusUnauthorized)
				checkChallenge(t, a, "invalid_token")
				if strings.Contains(a.body, c.key) || (name == "expired") != strings.Contains(msg, "expired") {
					t.Errorf("message %q", msg)
				}
			}
		})
	}
}

func testTokens(t *testing.T, m *members) {
	future, past := time.Now().Add(time.Hour).Unix(), time.Now().Add(-time.Hour).Unix()
	sign := func(s signer, c claims) string { return s.token(t, c) }
	unsigned, err := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims{"iss": m.rs.issuer, "aud": "weir", "sub": "alice", "exp": future}).SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	// A public key taken for a shared secret.
	confused := signer{issuer: m.rs.issuer, kid: m.rs.kid, method: jwt.SigningMethodHS256, key: []byte(jwks(t, m.rs))}
	thief := m.own
	thief.issuer, thief.kid = m.rs.issuer, m.rs.kid
	lost := m.es
	lost.kid = "no-such-key"
	good := sign(m.rs, nil)
	for name, c := range map[string]struct {
		token  string
		status int
	}{
		"RS256 by url": {good, 200}, "ES256 by url": {sign(m.es, nil), 200}, "EdDSA by url": {sign(m.ed, nil), 200},
		"other audience":      {sign(m.rs, claims{"aud": []string{"x", "other"}}), 200},
		"ES256 by file":       {sign(m.file, claims{"scope": "a chat b"}), 200},
		"HS256 by secret":     {sign(m.hs, nil), 200},
		"not yet expired":     {sign(m.rs, claims{"nbf": past, "iat": past}), 200},
		"expired":             {sign(m.rs, claims{"exp": past}), 401},
		"without end":         {sign(m.rs, claims{"exp": nil}), 401},
		"not yet valid":       {sign(m.rs, claims{"nbf": future}), 401},
		"wrong audience":      {sign(m.rs, claims{"aud": "someone"}), 401},
		"no audience":         {sign(m.rs, claims{"aud": nil}), 401},
		"unknown issuer":      {sign(m.own, nil), 401},
		"no issuer":           {sign(m.rs, claims{"iss": nil}), 401},
		"no subject":          {sign(m.rs, claims{"sub": nil}), 401},
		"another's key":       {sign(thief, nil), 401},
		"unknown key":         {sign(lost, nil), 401},
		"alg none":            {unsigned, 401},
		"alg confusion":       {sign(confused, nil), 401},
		"file key, url's":     {sign(signer{m.rs.issuer, m.file.kid, m.file.method, m.file.key}, nil), 401},
		"cut":                 {good[:len(good)-8], 401},
		"changed":             {strings.Replace(good, ".", ".A", 1), 401},
		"scope missing":       {sign(m.file, claims{"scope": "chatter"}), 403},
		"scope of wrong kind": {sign(m.file, claims{"scope": 7}), 401},
	} {
		t.Run(name, func(t *testing.T) {
			for _, dialect := range []string{"openai", "anthropic"} {
				a := chat(t, m.Gateway, dialect, "gpt-4o", "authorization", "Bearer "+c.token)
				switch c.status {
				case 200:
					if a.status != 200 {
						t.Errorf("status %d: %s", a.status, a.body)
					}
				default:
					checkError(t, dialect, a, c.status)
					checkChallenge(t, a, map[int]string{401: "invalid_token", 403: "insufficient_scope"}[c.status])
				}
				if strings.Contains(a.body, c.token) {
					t.Errorf("the error shows the token: %s", a.body)
				}
			}
		})
	}
}

func testScopes(t *testing.T, m *members) {
	for name, c := range map[string]struct {
		credential string
		status     int
	}{
		"key with scopes":       {keyScoped, 200},
		"key without":           {m.Key, 403},
		"token with scopes":     {m.rs.token(t, claims{"scope": "read premium"}), 200},
		"token with scp":        {m.rs.token(t, claims{"scp": []string{"premium", "read"}}), 200},
		"token with one":        {m.rs.token(t, claims{"scope": "premium"}), 403},
		"token with the prefix": {m.rs.token(t, claims{"scope": "premium readonly"}), 403},
	} {
		t.Run(name, func(t *testing.T) {
			a := chat(t, m.Gateway, "openai", "secret-model", "authorization", "Bearer "+c.credential)
			if c.status == 200 {
				if a.status != 200 {
					t.Errorf("status %d: %s", a.status, a.body)
				}
				return
			}
			checkError(t, "openai", a, c.status)
			checkChallenge(t, a, "insufficient_scope")
			if got := a.header.Get("www-authenticate"); !strings.Contains(got, `scope="premium read"`) {
				t.Errorf("www-authenticate %q does not say which scopes", got)
			}
		})
	}
}

func testAllowedModels(t *testing.T, m *members) {
	for name, c := range map[string]struct {
		credential string
		list       []string
	}{
		"key":                  {m.Key, []string{"gpt-4o", "gpt-4o-mini", "gpt-5"}},
		"narrow key":           {keyNarrow, []string{"gpt-4o", "gpt-4o-mini"}},
		"key with scopes":      {keyScoped, []string{"gpt-4o", "gpt-4o-mini", "gpt-5", "secret-model"}},
		"token of a consumer":  {m.rs.token(t, nil), []string{"gold-model", "gpt-4o", "gpt-5"}},
		"token that narrows":   {m.rs.token(t, claims{"models": []string{"*-4o*"}}), []string{"gpt-4o"}},
		"token with scopes":    {m.rs.token(t, claims{"scope": "premium read"}), []string{"gold-model", "gpt-4o", "gpt-5", "secret-model"}},
		"token of a stranger":  {m.rs.token(t, claims{"sub": "bob"}), []string{"gpt-4o", "gpt-4o-mini", "gpt-5"}},
		"stranger with labels": {m.rs.token(t, claims{"sub": "bob", "team": "gold"}), []string{"gold-model", "gpt-4o", "gpt-4o-mini", "gpt-5"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, caller := range callers(m.URL, c.credential) {
				got, err := caller.models(t.Context())
				if err != nil || !slices.Equal(got, c.list) {
					t.Errorf("%s: models %v, want %v (%v)", caller.dialect(), got, c.list, err)
				}
			}
			// The list and what is allowed are the same, one model at a time as well.
			for _, model := range []string{"gpt-4o", "gpt-4o-mini", "gpt-5", "secret-model", "gold-model"} {
				allowed := slices.Contains(c.list, model)
				a := chat(t, m.Gateway, "openai", model, "authorization", "Bearer "+c.credential)
				if allowed != (a.status == 200) {
					t.Errorf("%s: status %d, though listed is %v", model, a.status, allowed)
				}
				if !allowed && a.status != 403 && a.status != 404 {
					t.Errorf("%s: status %d", model, a.status)
				}
				one := do(t, http.DefaultClient, request(t, m.Gateway, "GET", "/v1/models/"+model, "openai", "", "authorization", "Bearer "+c.credential))
				if allowed && one.status != 200 || !allowed && one.status != 404 {
					t.Errorf("/v1/models/%s: status %d, though listed is %v", model, one.status, allowed)
				}
			}
		})
	}
	t.Run("forbidden", func(t *testing.T) {
		for _, dialect := range []string{"openai", "anthropic"} {
			msg := checkError(t, dialect, chat(t, m.Gateway, dialect, "gpt-5", "authorization", "Bearer "+keyNarrow), http.StatusForbidden)
			if !strings.Contains(msg, "gpt-5") {
				t.Errorf("the error does not name the model: %q", msg)
			}
		}
	})
	t.Run("without a credential", func(t *testing.T) {
		checkError(t, "openai", do(t, http.DefaultClient, request(t, m.Gateway, "GET", "/v1/models", "openai", "", "authorization", "")), http.StatusUnauthorized)
	})
}

// testPrivateHeaders sends what only Weir and Envoy may say to each other.
func testPrivateHeaders(t *testing.T, m *members) {
	// The strongest: the very key of a rule that this caller may not use.
	keys := regexp.MustCompile(`default/(?:premium|gold)#[0-9a-zA-Z_-]+`).FindAllString(string(m.Envoy("/config_dump")), -1)
	if len(keys) == 0 {
		t.Fatal("Envoy's configuration has no key of the rules: this test takes it for something else")
	}
	spoofed := []string{
		"x-weir-rule", keys[0], "x-weir-path", "/v1/other", "x-weir-route", "default/premium", "x-weir-backend", "default/none",
		"x-weir-tenant", "wonderland", "x-weir-consumer", "alice", "x-weir-scopes", "premium read", "x-weir-anything", "1",
		"x-envoy-upstream-rq-timeout-ms", "1", "x-envoy-max-retries", "9", "x-envoy-retry-on", "5xx", "x-envoy-original-path", "/x",
		"x-envoy-decorator-operation", "x", "x-forwarded-for", "10.1.2.3", "x-forwarded-proto", "https", "x-forwarded-host", "evil.example",
	}
	a := chat(t, m.Gateway, "openai", "gpt-4o", spoofed...)
	if a.status != 200 || a.header.Get("x-weir-route") != "default/models" || a.header.Get("x-weir-backend") != "default/any" {
		t.Errorf("status %d by %s: %s", a.status, a.header.Get("x-weir-route"), a.body)
	}
	got := m.provider.last(t)
	if got.path != "/v1/chat/completions" {
		t.Errorf("the provider was asked for %s", got.path)
	}
	for name, v := range got.header {
		for _, private := range []string{"X-Weir-", "X-Envoy-", "X-Forwarded-"} {
			if strings.HasPrefix(name, private) {
				t.Errorf("the provider was shown %s: %v", name, v)
			}
		}
	}
	for _, key := range keys {
		a := chat(t, m.Gateway, "openai", "secret-model", "x-weir-rule", key, "x-weir-scopes", "premium read")
		checkError(t, "openai", a, http.StatusForbidden)
		a = chat(t, m.Gateway, "openai", "gold-model", "x-weir-rule", key, "x-weir-consumer", "alice")
		checkError(t, "openai", a, http.StatusNotFound)
	}
	t.Run("a client's timeout", func(t *testing.T) {
		slow := harness.NewSim(t, sim.Options{Dialect: sim.OpenAI, Faults: sim.Faults{TTFT: sim.Duration(100 * time.Millisecond)}})
		m.Change(func() {
			m.WriteBackend(harness.Backend{Name: "slow", Sim: slow, Models: []string{"gpt-4.1"}})
			m.WriteFile("slow.yaml", harness.Route("slow", "rules: [{matches: [{models: [gpt-4.1]}], backends: [{name: slow}]}]"))
		})
		a := chat(t, m.Gateway, "openai", "gpt-4.1", "x-envoy-upstream-rq-timeout-ms", "1", "x-envoy-upstream-rq-per-try-timeout-ms", "1", "x-envoy-expected-rq-timeout-ms", "1")
		if a.status != 200 {
			t.Errorf("a client's header set Envoy's timeout: status %d: %s", a.status, a.body)
		}
	})
}
