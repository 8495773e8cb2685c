package identity

import (
	"slices"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
)

// FuzzAuthenticate: no header value panics, gets in, or is quoted in an error.
func FuzzAuthenticate(f *testing.F) {
	for _, at := range append(tokenAttacks(), headerAttacks()...) {
		v := at.headers.values
		f.Add(v[hdrAuthorization], v[hdrXAPIKey], v[hdrXGoogAPIKey])
	}
	cfg := testConfig()
	cfg.Keys = nil // the keys of the other tests are in the seeds
	a := newAuthenticator(f, cfg, nil)
	f.Fuzz(func(t *testing.T, authorization, xAPIKey, xGoogAPIKey string) {
		var h Headers
		for name, value := range map[string]string{"authorization": authorization, "x-api-key": xAPIKey, "x-goog-api-key": xGoogAPIKey} {
			if value != "" {
				h.Add(name, value)
			}
		}
		id, err := login(a, h, t0)
		if err == nil || id != nil {
			t.Fatalf("let in: %+v", id)
		}
		if s := err.HTTPStatus(); s != 401 && s != 403 {
			t.Errorf("status %d", s)
		}
		challenge := Challenge(err)
		if !strings.HasPrefix(challenge, `Bearer realm="weir"`) || strings.ContainsFunc(challenge, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("challenge %q", challenge)
		}
	})
}

// FuzzSignedToken signs whatever header and claims there are with the right secret: what gets in has passed every
// check that comes after the signature.
func FuzzSignedToken(f *testing.F) {
	header := []byte(`{"alg":"HS256","typ":"JWT"}`)
	f.Add(header, toJSON(goodClaims(hmacIssuer, nil)))
	f.Add(header, toJSON(goodClaims(hmacIssuer, object{"aud": []string{"x", audience}, "nbf": 1.5, "scope": "a b", "sub": "batch"})))
	f.Add(header, toJSON(goodClaims(hmacIssuer, object{"scp": []string{"a"}, "org": object{"tenant": "t"}, "models": []string{"gpt-*"}, "env": "prod"})))
	f.Add([]byte(`{"alg":"HS512","crit":[]}`), toJSON(goodClaims(hmacIssuer, object{"exp": 1e300})))
	cfg := testConfig()
	cfg.Issuers[2].Claims = cfg.Issuers[0].Claims
	a := newAuthenticator(f, cfg, nil)
	f.Fuzz(func(t *testing.T, header, claims []byte) {
		tok := rawToken(header, claims, signWith("HS256", []byte(hmacSecret)))
		id, bad := login(a, bearer(tok), t0)
		if (id == nil) == (bad == nil) {
			t.Fatal("neither or both of an identity and an error")
		}
		if bad != nil {
			if bad.HTTPStatus() != 401 {
				t.Errorf("status %d", bad.HTTPStatus())
			}
			return
		}
		m, err := decodeObject(claims)
		if err != nil {
			t.Fatalf("let in with claims that are no strict JSON: %v", err)
		}
		if h, err := decodeObject(header); err != nil || h["alg"] != "HS256" || h["crit"] != nil {
			t.Errorf("let in with the header %s", header)
		}
		exp, err := jwt.MapClaims(m).GetExpirationTime()
		if err != nil || exp == nil || !t0.Before(exp.Time) {
			t.Errorf("let in after its end, %v", exp)
		}
		aud, _ := jwt.MapClaims(m).GetAudience()
		if m["iss"] != hmacIssuer || !slices.Contains(aud, audience) || m["sub"] != id.Consumer {
			t.Errorf("let in with the claims %s", claims)
		}
		if id.Consumer == "" || !printable(id.Consumer) || !validTenant(id.Tenant) || !slices.IsSorted(id.Scopes) {
			t.Errorf("identity %+v", id)
		}
	})
}
