package console

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// issuer is an OpenID Connect provider of this test's.
type issuer struct {
	*httptest.Server
	t     *testing.T
	key   *rsa.PrivateKey
	clock *clock

	mu     sync.Mutex
	codes  map[string]url.Values // of authorization requests, by code
	edit   func(jwt.MapClaims)   // changes the claims of the next ID tokens
	signer *rsa.PrivateKey       // signs them; nil is key
	answer func(http.ResponseWriter) bool
}

const (
	clientID     = "weir-console"
	clientSecret = "client-secret-of-this-test"
)

func newIssuer(t *testing.T, c *clock) *issuer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{t: t, key: key, clock: c, codes: map[string]url.Values{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, map[string]any{
			"issuer": i.URL, "authorization_endpoint": i.URL + "/authorize", "token_endpoint": i.URL + "/token", "jwks_uri": i.URL + "/keys",
			"id_token_signing_alg_values_supported": []string{"RS256"},
		})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		b64 := base64.RawURLEncoding.EncodeToString
		writeJSON(w, map[string]any{"keys": []any{map[string]string{
			"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "one", "n": b64(key.N.Bytes()), "e": b64(big.NewInt(int64(key.E)).Bytes()),
		}}})
	})
	mux.HandleFunc("GET /authorize", i.authorize)
	mux.HandleFunc("POST /token", i.token)
	i.Server = httptest.NewServer(mux)
	t.Cleanup(i.Close)
	return i
}

// authorize sends the browser back with a code, as if the person had logged in.
func (i *issuer) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	for name, want := range map[string]string{"response_type": "code", "client_id": clientID, "code_challenge_method": "S256"} {
		if q.Get(name) != want {
			i.t.Errorf("the authorization request has %s=%q, want %q", name, q.Get(name), want)
		}
	}
	if !slices.Contains(strings.Fields(q.Get("scope")), "openid") || len(q.Get("state")) < 32 || len(q.Get("nonce")) < 32 {
		i.t.Errorf("the authorization request is %v", q)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	code := rand.Text()
	i.codes[code] = q
	http.Redirect(w, r, q.Get("redirect_uri")+"?"+url.Values{"code": {code}, "state": {q.Get("state")}, "iss": {i.URL}}.Encode(), http.StatusFound)
}

// token exchanges a code for an ID token.
func (i *issuer) token(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.answer != nil && i.answer(w) {
		return
	}
	user, password, _ := r.BasicAuth()
	asked, ok := i.codes[r.FormValue("code")]
	delete(i.codes, r.FormValue("code"))
	sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
	if user != clientID || password != clientSecret || !ok || base64.RawURLEncoding.EncodeToString(sum[:]) != asked.Get("code_challenge") || r.FormValue("redirect_uri") != asked.Get("redirect_uri") {
		w.Header().Set("content-type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]string{"error": "invalid_grant", "error_description": "the code is not good"})
		return
	}
	now := i.clock.now()
	claims := jwt.MapClaims{
		"iss": i.URL, "sub": "subject-1", "aud": clientID, "exp": now.Add(time.Hour).Unix(), "iat": now.Unix(), "nonce": asked.Get("nonce"),
		"email": "ada@example.com", "email_verified": true, "preferred_username": "ada", "groups": []string{"platform", "people"},
	}
	if i.edit != nil {
		i.edit(claims)
	}
	t := jwt.NewWithClaims(jwt.SigningMethodRS256, claims)
	t.Header["kid"] = "one"
	key := i.key
	if i.signer != nil {
		key = i.signer
	}
	signed, err := t.SignedString(key)
	if err != nil {
		i.t.Error(err)
	}
	writeJSON(w, map[string]any{"access_token": "access-token-of-this-test", "token_type": "Bearer", "id_token": signed})
}

// oidcRig is a console that people log in to by an issuer.
func oidcRig(t *testing.T, edit func(*OIDCOptions)) (*rig, *issuer) {
	t.Helper()
	c := &clock{t: time.Now()}
	i := newIssuer(t, c)
	// The redirect URL names the console's server, which is made later: it asks a server that is known already.
	front := httptest.NewUnstartedServer(nil)
	base := "http://" + front.Listener.Addr().String()
	r := newRig(t, func(o *Options) {
		withToken(t)(o)
		conf := OIDCOptions{Issuer: i.URL, ClientID: clientID, ClientSecret: clientSecret, RedirectURL: base + CallbackPath, Now: c.now}
		if edit != nil {
			edit(&conf)
		}
		var err error
		if o.OIDC, err = NewOIDC(conf); err != nil {
			t.Fatal(err)
		}
	})
	back, err := url.Parse(r.url)
	if err != nil {
		t.Fatal(err)
	}
	front.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		out := req.Clone(req.Context())
		out.RequestURI, out.URL.Scheme, out.URL.Host = "", back.Scheme, back.Host
		resp, err := http.DefaultTransport.RoundTrip(out)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		for k, v := range resp.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body) // the browser sees what is missing
	})
	front.Start()
	t.Cleanup(front.Close)
	r.url = base
	return r, i
}

func TestOIDCLogin(t *testing.T) {
	r, _ := oidcRig(t, nil)
	if s := r.session(); s.Authenticated || !slices.Equal(s.Methods, []string{"token", "oidc"}) || s.OIDCURL != "api/session/oidc" {
		t.Errorf("before: %+v", s)
	}
	if a := r.ask("GET", beginPath, ""); a.status != 200 || !strings.Contains(a.body, "<html") { // the way there and back, to the page
		t.Fatalf("the login: %d %s", a.status, a.body)
	}
	if s := r.session(); !s.Authenticated || s.Method != "oidc" || s.User != "ada@example.com" {
		t.Errorf("after: %+v", s)
	}
	if a := r.ask("GET", "/api/status", ""); a.status != 200 {
		t.Errorf("status %d", a.status)
	}
	for _, text := range []string{clientSecret, "access-token-of-this-test"} {
		if strings.Contains(r.log.String(), text) {
			t.Errorf("the log shows %s", text)
		}
	}
}

// TestOIDCCookies: the attempt's comes back with a redirect of another site, the session's does not go there.
func TestOIDCCookies(t *testing.T) {
	r, _ := oidcRig(t, nil)
	r.browser.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	a := r.ask("GET", beginPath, "")
	cookie := a.header.Get("set-cookie")
	for _, want := range []string{"weir_login=", "HttpOnly", "SameSite=Lax", "Max-Age=600"} {
		if !strings.Contains(cookie, want) {
			t.Errorf("%q is missing in %s", want, cookie)
		}
	}
	to, err := url.Parse(a.header.Get("location"))
	if err != nil || a.status != 303 {
		t.Fatalf("%d %v", a.status, err)
	}
	if q := to.Query(); strings.Contains(cookie, q.Get("state")) || strings.Contains(cookie, q.Get("nonce")) {
		t.Error("the cookie can be read")
	}
}

func TestOIDCRefusals(t *testing.T) {
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		conf   func(*OIDCOptions)
		issuer func(*issuer)
		user   string // where it is let in
		want   int
		says   string
	}{
		"in the group":             {conf: func(o *OIDCOptions) { o.Groups = []string{"ops", "platform"} }, user: "ada@example.com"},
		"in no group":              {conf: func(o *OIDCOptions) { o.Groups = []string{"ops"} }, want: 403, says: "none of the groups"},
		"group as a text":          {conf: func(o *OIDCOptions) { o.Groups = []string{"ops"} }, issuer: func(i *issuer) { i.edit = func(c jwt.MapClaims) { c["groups"] = "ops" } }, user: "ada@example.com"},
		"part of a group's name":   {conf: func(o *OIDCOptions) { o.Groups = []string{"plat"} }, want: 403},
		"another claim":            {conf: func(o *OIDCOptions) { o.Groups, o.GroupsClaim = []string{"admin"}, "roles" }, issuer: func(i *issuer) { i.edit = func(c jwt.MapClaims) { c["roles"] = []any{"admin", 5} } }, user: "ada@example.com"},
		"no groups at all":         {conf: func(o *OIDCOptions) { o.Groups = []string{"ops"} }, issuer: func(i *issuer) { i.edit = func(c jwt.MapClaims) { delete(c, "groups") } }, want: 403},
		"an address nobody proved": {issuer: func(i *issuer) { i.edit = func(c jwt.MapClaims) { c["email_verified"] = false } }, user: "ada"},
		"no name": {issuer: func(i *issuer) {
			i.edit = func(c jwt.MapClaims) { delete(c, "email"); delete(c, "preferred_username") }
		}, user: "subject-1"},
		"signed by another":  {issuer: func(i *issuer) { i.signer = other }, want: 401, says: "not valid"},
		"for another client": {issuer: func(i *issuer) { i.edit = func(c jwt.MapClaims) { c["aud"] = "other" } }, want: 401, says: "not valid"},
		"of another issuer":  {issuer: func(i *issuer) { i.edit = func(c jwt.MapClaims) { c["iss"] = "https://other.example" } }, want: 401, says: "not valid"},
		"expired":            {issuer: func(i *issuer) { i.edit = func(c jwt.MapClaims) { c["exp"] = i.clock.now().Add(-time.Minute).Unix() } }, want: 401, says: "not valid"},
		"another nonce":      {issuer: func(i *issuer) { i.edit = func(c jwt.MapClaims) { c["nonce"] = "stolen" } }, want: 401, says: "another login"},
		"no nonce":           {issuer: func(i *issuer) { i.edit = func(c jwt.MapClaims) { delete(c, "nonce") } }, want: 401, says: "another login"},
		"no ID token": {issuer: func(i *issuer) {
			i.answer = func(w http.ResponseWriter) bool {
				writeJSON(w, map[string]string{"access_token": "x", "token_type": "Bearer"})
				return true
			}
		}, want: 401, says: "no ID token"},
		"a wrong client secret": {conf: func(o *OIDCOptions) { o.ClientSecret = "wrong" }, want: 401, says: "invalid_grant"},
		"a broken token endpoint": {issuer: func(i *issuer) {
			i.answer = func(w http.ResponseWriter) bool { http.Error(w, "a page with "+clientSecret, 500); return true }
		}, want: 401, says: "does not exchange"},
	} {
		t.Run(name, func(t *testing.T) {
			r, i := oidcRig(t, c.conf)
			if c.issuer != nil {
				c.issuer(i)
			}
			a := r.ask("GET", beginPath, "", "accept", "text/html")
			s := r.session()
			if c.user != "" {
				if a.status != 200 || s.User != c.user {
					t.Errorf("status %d, %+v: %s", a.status, s, a.body)
				}
				return
			}
			if a.status != c.want || !strings.Contains(a.body, c.says) || !strings.Contains(a.body, "admin token logs you in") || s.Authenticated {
				t.Errorf("status %d, %+v: %s", a.status, s, a.body)
			}
			if strings.Contains(a.body+r.log.String(), clientSecret) {
				t.Errorf("the secret is shown: %s %s", a.body, r.log)
			}
		})
	}
}

// TestOIDCForgedCallbacks: what the browser is sent back with must be of an attempt of this browser, not too old, and of this issuer.
func TestOIDCForgedCallbacks(t *testing.T) {
	r, i := oidcRig(t, nil)
	r.browser.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	begin := func() url.Values {
		a := r.ask("GET", beginPath, "")
		resp, err := r.browser.Get(a.header.Get("location"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		to, err := url.Parse(resp.Header.Get("location"))
		if err != nil {
			t.Fatal(err)
		}
		return to.Query()
	}
	for name, c := range map[string]struct {
		edit   func(url.Values)
		before func()
		says   string
	}{
		"another state": {edit: func(q url.Values) { q.Set("state", "forged") }, says: "not begun in this browser"},
		"no state":      {edit: func(q url.Values) { q.Del("state") }, says: "not begun in this browser"},
		"too late":      {before: func() { i.clock.add(attemptExpiry + time.Second) }, says: "not begun in this browser"},
		"another browser": {before: func() {
			r.browser.Jar.SetCookies(mustURL(r.url), []*http.Cookie{{Name: attemptCookie, Value: "forged", Path: "/"}})
		}, says: "not begun in this browser"},
		"another issuer":     {edit: func(q url.Values) { q.Set("iss", "https://other.example") }, says: "another issuer"},
		"another code":       {edit: func(q url.Values) { q.Set("code", "forged") }, says: "invalid_grant"},
		"the issuer says no": {edit: func(q url.Values) { q.Set("error", "access_denied"); q.Set("error_description", "<script>\n no") }, says: "access_denied"},
	} {
		t.Run(name, func(t *testing.T) {
			q := begin()
			if c.edit != nil {
				c.edit(q)
			}
			if c.before != nil {
				c.before()
			}
			a := r.ask("GET", CallbackPath+"?"+q.Encode(), "", "accept", "text/html")
			if a.status != 401 || !strings.Contains(a.body, c.says) || strings.Contains(a.body, "<script>") {
				t.Errorf("status %d: %s", a.status, a.body)
			}
			if !strings.Contains(a.header.Get("set-cookie"), "weir_login=;") {
				t.Errorf("the attempt can be tried again: %s", a.header.Get("set-cookie"))
			}
			if r.session().Authenticated {
				t.Error("a session has begun")
			}
		})
	}
}

func mustURL(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}

// TestOIDCIssuerDown: the login says so, the token still lets in, and the issuer is asked again when it is back.
func TestOIDCIssuerDown(t *testing.T) {
	down := true
	var mu sync.Mutex
	c := &clock{t: time.Now()}
	i := newIssuer(t, c)
	gate := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if down {
			http.Error(w, "<html>"+strings.Repeat("maintenance ", 100), http.StatusServiceUnavailable)
			return
		}
		writeJSON(w, map[string]any{"issuer": "http://" + r.Host, "authorization_endpoint": i.URL + "/authorize", "token_endpoint": i.URL + "/token", "jwks_uri": i.URL + "/keys"})
	}))
	t.Cleanup(gate.Close)
	r := newRig(t, func(o *Options) {
		withToken(t)(o)
		var err error
		if o.OIDC, err = NewOIDC(OIDCOptions{Issuer: gate.URL, ClientID: clientID, RedirectURL: "http://localhost" + CallbackPath, Now: c.now}); err != nil {
			t.Fatal(err)
		}
	})
	r.browser.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	a := r.ask("GET", beginPath, "", "accept", "text/html")
	if a.status != 502 || !strings.Contains(a.body, gate.URL) || !strings.Contains(a.body, "admin token logs you in") || len(a.body) > 1500 {
		t.Errorf("status %d: %s", a.status, a.body)
	}
	if a := r.login(); a.status != 200 {
		t.Errorf("the token: status %d", a.status)
	}
	mu.Lock()
	down = false
	mu.Unlock()
	if a := r.ask("GET", beginPath, ""); a.status != 303 || !strings.HasPrefix(a.header.Get("location"), i.URL+"/authorize?") {
		t.Errorf("when it is back: %d %s", a.status, a.header.Get("location"))
	}
}

func TestNewOIDC(t *testing.T) {
	good := OIDCOptions{Issuer: "https://issuer.example/realm", ClientID: "c", RedirectURL: "https://console.example/weir" + CallbackPath, Now: time.Now}
	for name, c := range map[string]struct {
		edit func(*OIDCOptions)
		says string
	}{
		"good": {func(*OIDCOptions) {}, ""},
		"on this machine": {func(o *OIDCOptions) {
			o.Issuer, o.RedirectURL = "http://localhost:8080/", "http://127.0.0.1:8081"+CallbackPath
		}, ""},
		"no client":               {func(o *OIDCOptions) { o.ClientID = "" }, "--admin-oidc-client-id"},
		"no redirect":             {func(o *OIDCOptions) { o.RedirectURL = "" }, "--admin-oidc-redirect-url"},
		"plain issuer":            {func(o *OIDCOptions) { o.Issuer = "http://issuer.example" }, "https://"},
		"plain redirect":          {func(o *OIDCOptions) { o.RedirectURL = "http://console.example" + CallbackPath }, "https://"},
		"another scheme":          {func(o *OIDCOptions) { o.Issuer = "ftp://issuer.example" }, "https://"},
		"no URL":                  {func(o *OIDCOptions) { o.Issuer = "issuer.example" }, "not a URL"},
		"a password in it":        {func(o *OIDCOptions) { o.Issuer = "https://u:p@issuer.example" }, "not a URL"},
		"a redirect to elsewhere": {func(o *OIDCOptions) { o.RedirectURL = "https://console.example/" }, CallbackPath},
	} {
		o := good
		c.edit(&o)
		_, err := NewOIDC(o)
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzUnseal(f *testing.F) {
	s := newSealer()
	f.Add(s.seal(attempt{State: "x"}))
	f.Add("")
	f.Add("!!!!")
	f.Fuzz(func(t *testing.T, text string) {
		var a attempt
		if s.open(text, &a) && a.State != "x" {
			t.Errorf("%q was opened: %+v", text, a)
		}
	})
}
