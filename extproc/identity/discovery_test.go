package identity

import (
	"net/http"
	"strings"
	"testing"
)

// provider is an issuer with an OpenID configuration. Its answers are set by path.
type provider struct {
	*issuerServer
	paths map[string]http.HandlerFunc
}

func newProvider(t *testing.T) *provider {
	p := &provider{issuerServer: newIssuerServer(t), paths: map[string]http.HandlerFunc{}}
	p.issuerServer.serve(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		answer := p.paths[r.URL.Path]
		p.mu.Unlock()
		if answer == nil {
			http.NotFound(w, r)
			return
		}
		answer(w, r)
	})
	return p
}

func (p *provider) at(path string, answer http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paths[path] = answer
}

func (p *provider) configuration(issuer, keysURL string) []byte {
	return toJSON(object{"issuer": issuer, "jwks_uri": keysURL, "id_token_signing_alg_values_supported": []string{"none"}})
}

func discoveryConfig(issuer string) Config {
	return Config{Issuers: []Issuer{{Namespace: "default", Name: "d", Issuer: issuer, Audiences: []string{audience},
		Algorithms: []string{"RS256"}, Keys: IssuerKeys{Discovery: true}}}}
}

// TestDiscovery: the keys are found, kept and followed when they move.
func TestDiscovery(t *testing.T) {
	k := keysOnce()
	for _, path := range []string{"", "/", "/tenant/one", "/tenant/one/"} {
		p := newProvider(t)
		iss := p.URL + path
		where := strings.TrimSuffix(path, "/") + wellKnown
		p.at(where, document(p.configuration(iss, p.URL+"/keys-1")))
		p.at("/keys-1", document(jwks(jwk("r1", &k.rsa.PublicKey, nil))))
		f := newFixture(t, JWKSOptions{})
		a := newAuthenticator(t, discoveryConfig(iss), f)
		s := f.fetched()
		if s.URL != p.URL+where || s.KeysURL != p.URL+"/keys-1" || s.Keys != 1 || s.Err != "" {
			t.Errorf("%q: state %+v", path, s)
		}
		if urls := a.URLs(); len(urls) != 1 || urls[0] != s.URL {
			t.Errorf("%q: URLs %v", path, urls)
		}
		token := mint(object{"alg": "RS256", "kid": "r1"}, goodClaims(iss, far), signWith("RS256", k.rsa))
		if got := try(a, token, f.clock.Now()); got.status != 200 {
			t.Errorf("%q: %+v", path, got)
		}

		// A forced fetch goes straight to the keys; the regular one looks where they are.
		before := p.count()
		p.at("/keys-1", document(jwks(jwk("r1", &k.rsa.PublicKey, nil), jwk("r2", &k.otherRSA.PublicKey, nil))))
		f.clock.Advance(minInterval)
		next := mint(object{"alg": "RS256", "kid": "r2"}, goodClaims(iss, far), signWith("RS256", k.otherRSA))
		got := make(chan outcome)
		go func() { got <- try(a, next, f.clock.Now()) }()
		f.fetched()
		if got := <-got; got.status != 200 || p.count() != before+1 {
			t.Errorf("%q: %+v after %d requests", path, got, p.count()-before)
		}
		p.at(where, document(p.configuration(iss, p.URL+"/keys-2")))
		p.at("/keys-2", document(jwks(jwk("r2", &k.otherRSA.PublicKey, nil))))
		f.clock.Advance(DefaultRefresh)
		if s := f.fetched(); s.KeysURL != p.URL+"/keys-2" || s.Keys != 1 {
			t.Errorf("%q: state %+v", path, s)
		}
		f.Retain(a.URLs())
		if len(f.States()) != 1 {
			t.Errorf("%q: Retain let go of what is needed", path)
		}
	}
}

// TestDiscoveryRefusals: documents that must not lead to keys. Each is tried at the start and in place of a good one, whose keys
// then stay.
func TestDiscoveryRefusals(t *testing.T) {
	k := keysOnce()
	evil := newIssuerServer(t)
	evil.serve(document(jwks(jwk("r1", &k.otherRSA.PublicKey, nil))))
	p := newProvider(t)
	good := document(p.configuration(p.URL, p.URL+"/keys"))
	p.at("/keys", document(jwks(jwk("r1", &k.rsa.PublicKey, nil))))
	p.at("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, evil.URL, http.StatusFound) })
	conf := func(issuer, keys string) http.HandlerFunc { return document(p.configuration(issuer, keys)) }
	for _, c := range []struct {
		name, says string
		answer     http.HandlerFunc
	}{
		{"not found", "status 404", status(404)},
		{"another issuer", "of the issuer", conf("https://evil.example", evil.URL)},
		{"a slash more", "of the issuer", conf(p.URL+"/", p.URL+"/keys")},
		{"other case", "of the issuer", conf(strings.ToUpper(p.URL), p.URL+"/keys")},
		{"issuer missing", "of the issuer", document(toJSON(object{"jwks_uri": p.URL + "/keys"}))},
		{"issuer a list", "of the issuer", document(toJSON(object{"issuer": []string{p.URL}, "jwks_uri": p.URL + "/keys"}))},
		{"issuer twice", "twice", document([]byte(`{"issuer":"https://evil.example","issuer":"` + p.URL + `","jwks_uri":"` + evil.URL + `"}`))},
		{"Issuer beside issuer", "of the issuer", document([]byte(`{"Issuer":"` + p.URL + `","jwks_uri":"` + evil.URL + `"}`))},
		{"HTML", "not an OpenID configuration", document([]byte("<html>"))},
		{"a key set", "of the issuer", document(jwks(jwk("r1", &k.otherRSA.PublicKey, nil)))},
		{"no jwks_uri", "jwks_uri", document(toJSON(object{"issuer": p.URL}))},
		{"jwks_uri a number", "jwks_uri", document(toJSON(object{"issuer": p.URL, "jwks_uri": 1}))},
		{"jwks_uri a file", "jwks_uri", conf(p.URL, "file:///etc/passwd")},
		{"jwks_uri relative", "jwks_uri", conf(p.URL, "/keys")},
		{"jwks_uri with a password", "user name", conf(p.URL, strings.Replace(p.URL, "http://", "http://user:secret@", 1)+"/keys")},
		{"jwks_uri too long", "longer", conf(p.URL, p.URL+"/"+strings.Repeat("k", maxURLBytes))},
		{"jwks_uri to nothing", "status 404", conf(p.URL, p.URL+"/nothing")},
		{"jwks_uri that redirects to another host", "another host", conf(p.URL, p.URL+"/moved")},
		{"redirect to another host", "another host", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, evil.URL, http.StatusFound)
		}},
		{"redirect to another scheme", "another host or scheme", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "ftp://"+r.Host+"/")
			w.WriteHeader(http.StatusFound)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, JWKSOptions{})
			p.at(wellKnown, c.answer)
			a := newAuthenticator(t, discoveryConfig(p.URL), f)
			if s := f.fetched(); s.Keys != 0 || !strings.Contains(s.Err, c.says) || strings.Contains(s.Err, "secret") {
				t.Errorf("state %+v does not say %q", s, c.says)
			}
			p.at(wellKnown, good)
			f.clock.Advance(minInterval)
			if s := f.fetched(); s.Keys != 1 || s.Err != "" {
				t.Fatalf("state %+v", s)
			}
			p.at(wellKnown, c.answer)
			f.clock.Advance(DefaultRefresh)
			if s := f.fetched(); s.Keys != 1 || s.Err == "" {
				t.Errorf("state %+v", s)
			}
			for sign, want := range map[string]int{"ours": 200, "evil": 401} {
				key := map[string]signer{"ours": signWith("RS256", k.rsa), "evil": signWith("RS256", k.otherRSA)}[sign]
				token := mint(object{"alg": "RS256", "kid": "r1"}, goodClaims(p.URL, far), key)
				if got := try(a, token, f.clock.Now()); got.status != want {
					t.Errorf("token of %s: %+v", sign, got)
				}
			}
		})
	}
}

// TestDiscoveryDowngrade: an https issuer's keys do not come over http.
func TestDiscoveryDowngrade(t *testing.T) {
	for _, c := range []struct{ issuer, keys, says string }{
		{"https://login.example", "http://login.example/keys", "http where the issuer is https"},
		{"HTTPS://login.example", "http://login.example/keys", "http where the issuer is https"},
		{"https://login.example", "https://keys.example/keys", ""},
		{"http://login.example", "https://login.example/keys", ""},
		{"http://login.example", "http://login.example/keys", ""},
	} {
		got, err := parseDiscovery(toJSON(object{"issuer": c.issuer, "jwks_uri": c.keys}), c.issuer)
		if c.says == "" && (err != nil || got != c.keys) || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s to %s: %q, %v", c.issuer, c.keys, got, err)
		}
	}
}

// TestDiscoveryIssuers: what cannot be asked is told when the configuration is read.
func TestDiscoveryIssuers(t *testing.T) {
	for iss, want := range map[string]string{
		"https://login.example": "", "http://login.example:8443/a/b": "",
		"jobs": "absolute", "urn:issuer": "absolute", "ftp://x": "absolute", "https://x/?tenant=1": "query", "https://x?": "query",
		"https://x/#a": "fragment", "https://user:secret@x": "user name",
	} {
		_, errs := New(discoveryConfig(iss), Offline{})
		if want == "" && len(errs) != 0 || want != "" && (len(errs) != 1 || !strings.Contains(errs[0].Error(), "spec.keys.discovery: ") || !strings.Contains(errs[0].Error(), want)) {
			t.Errorf("%s: %v, want %q", iss, errs, want)
		}
		for _, err := range errs {
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the error shows a password: %v", err)
			}
		}
	}
}

// FuzzDiscovery: whatever the document says, keys come from an http or https URL without a password, of the right issuer.
func FuzzDiscovery(f *testing.F) {
	f.Add([]byte(`{"issuer":"https://a.example","jwks_uri":"https://a.example/keys"}`))
	f.Add([]byte(`{"issuer":"https://a.example","jwks_uri":"https://u:p@a.example/keys"}`))
	f.Add([]byte(`{"issuer":"https://b.example","jwks_uri":"http://a.example"}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		got, err := parseDiscovery(doc, "https://a.example")
		if err != nil {
			return
		}
		u, err := keyURL(got)
		if err != nil || u.Scheme != "https" {
			t.Errorf("keys from %q", got)
		}
		if m, err := decodeObject(doc); err != nil || m["issuer"] != "https://a.example" {
			t.Errorf("let in %s", doc)
		}
	})
}
