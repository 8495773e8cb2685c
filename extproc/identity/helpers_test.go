package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
)

// t0 is the "now" of these tests.
var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const (
	demoKey     = "weir-demo-key"
	batchKey    = "batch-0123456789abcdef"
	disabledKey = "disabled-0123456789abcdef"
	expiredKeyV = "expired-0123456789abcdef"
	rsaIssuer   = "https://rsa.example"
	manyIssuer  = "https://many.example"
	hmacIssuer  = "https://hmac.example"
	hmacSecret  = "a shared secret of at least thirty-two bytes"
	audience    = "weir"
)

// testKeys are made once: RSA key generation is slow.
type testKeys struct {
	rsa, otherRSA, smallRSA *rsa.PrivateKey
	p256, p384, p521        *ecdsa.PrivateKey
	ed                      ed25519.PrivateKey
}

var keysOnce = sync.OnceValue(func() *testKeys {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	var k testKeys
	var err error
	k.rsa, err = rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	k.otherRSA, err = rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	k.smallRSA, err = rsa.GenerateKey(rand.Reader, 1024)
	must(err)
	k.p256, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	k.p384, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(err)
	k.p521, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	must(err)
	_, k.ed, err = ed25519.GenerateKey(rand.Reader)
	must(err)
	return &k
})

type object = map[string]any

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// jwk writes a public key as a JWK, by hand, so that the reader under test is checked against the RFC's
// form and not against its own writer.
func jwk(kid string, key any, extra object) object {
	m := object{}
	if kid != "" {
		m["kid"] = kid
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		m["kty"], m["n"], m["e"] = "RSA", b64(key.N.Bytes()), b64(big.NewInt(int64(key.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := key.Bytes() // 4, x, y
		if err != nil {
			panic(err)
		}
		half := (len(point) - 1) / 2
		m["kty"], m["crv"] = "EC", key.Curve.Params().Name
		m["x"], m["y"] = b64(point[1:1+half]), b64(point[1+half:])
	case ed25519.PublicKey:
		m["kty"], m["crv"], m["x"] = "OKP", "Ed25519", b64(key)
	default:
		panic("jwk: unknown key")
	}
	maps.Copy(m, extra)
	return m
}

func jwks(keys ...object) []byte {
	if keys == nil {
		keys = []object{}
	}
	return toJSON(object{"keys": keys})
}

func toJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// goodClaims are what rsaIssuer and the others accept at t0.
func goodClaims(iss string, change object) object {
	c := object{"iss": iss, "aud": audience, "sub": "alice", "iat": t0.Unix() - 10, "exp": t0.Unix() + 600}
	for k, v := range change {
		if v == nil {
			delete(c, k)
		} else {
			c[k] = v
		}
	}
	return c
}

// signer makes the signature of a signing string.
type signer func(signed string) []byte

func signWith(alg string, key any) signer {
	return func(signed string) []byte {
		sig, err := signingMethod(alg).Sign(signed, key)
		if err != nil {
			panic(err)
		}
		return sig
	}
}

// token writes a compact JWT from raw parts, well-formed or not.
func rawToken(header, claims []byte, sign signer) string {
	signed := b64(header) + "." + b64(claims)
	return signed + "." + b64(sign(signed))
}

func mint(header, claims object, sign signer) string {
	return rawToken(toJSON(header), toJSON(claims), sign)
}

// rsaToken is a token of rsaIssuer that is good unless changed. nil deletes a claim.
func rsaToken(changeClaims object) string {
	return mint(object{"alg": "RS256", "kid": "r1", "typ": "JWT"}, goodClaims(rsaIssuer, changeClaims), signWith("RS256", keysOnce().rsa))
}

func hmacToken(changeClaims object) string {
	return mint(object{"alg": "HS256"}, goodClaims(hmacIssuer, changeClaims), signWith("HS256", []byte(hmacSecret)))
}

func testConfig() Config {
	k := keysOnce()
	return Config{
		Consumers: []Consumer{
			{Namespace: "default", Name: "demo"},
			{Namespace: "default", Name: "batch", Tenant: "research", Labels: map[string]string{"tier": "gold", "team": "nlp"},
				AllowedModels: []string{"gpt-*", "claude-*"}, Scopes: []string{"chat", "admin"}},
		},
		Keys: []Key{
			{Namespace: "default", Name: "demo", Consumer: "demo", Hash: sha256.Sum256([]byte(demoKey))},
			{Namespace: "default", Name: "batch-1", Consumer: "batch", Hash: sha256.Sum256([]byte(batchKey)),
				AllowedModels: []string{"*-mini", "claude-*"}, Scopes: []string{"files", "chat"}, ExpiresAt: t0.Add(time.Hour)},
			{Namespace: "default", Name: "off", Consumer: "demo", Hash: sha256.Sum256([]byte(disabledKey)), Disabled: true},
			{Namespace: "default", Name: "old", Consumer: "demo", Hash: sha256.Sum256([]byte(expiredKeyV)), ExpiresAt: t0},
		},
		Issuers: []Issuer{
			{Namespace: "default", Name: "rsa", Issuer: rsaIssuer, Audiences: []string{audience, "weir-2"}, Algorithms: []string{"RS256"},
				Keys: IssuerKeys{JWKS: jwks(jwk("r1", &k.rsa.PublicKey, nil))}, Leeway: 30 * time.Second,
				Claims: ClaimMap{Tenant: "org.tenant", AllowedModels: "models", Labels: map[string]string{"tier": "https://x.example/tier", "env": "env"}}},
			{Namespace: "default", Name: "many", Issuer: manyIssuer, Audiences: []string{audience},
				Algorithms: []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"},
				Keys: IssuerKeys{JWKS: jwks(jwk("r", &k.rsa.PublicKey, nil), jwk("e256", &k.p256.PublicKey, nil),
					jwk("e384", &k.p384.PublicKey, nil), jwk("e521", &k.p521.PublicKey, nil), jwk("ed", k.ed.Public(), nil))},
				RequiredScopes: []string{"llm"}, Leeway: 30 * time.Second},
			{Namespace: "default", Name: "hmac", Issuer: hmacIssuer, Audiences: []string{audience}, Algorithms: []string{"HS256", "HS384", "HS512"},
				Keys: IssuerKeys{Secret: []byte(hmacSecret)}},
		},
	}
}

func newAuthenticator(t testing.TB, cfg Config, source KeySource) *Authenticator {
	t.Helper()
	a, errs := New(cfg, source)
	for _, err := range errs {
		t.Fatalf("New: %v", err)
	}
	return a
}

// headers makes a Headers from name, value pairs.
func headers(pairs ...string) Headers {
	var h Headers
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

func bearer(cred string) Headers { return headers("authorization", "Bearer "+cred) }

// mustRefuse checks the status and code of a refusal.
func mustRefuse(t *testing.T, id *Identity, err *canon.Error, status int, code string) {
	t.Helper()
	if err == nil {
		t.Fatalf("let in as %+v, want status %d", id, status)
	}
	if id != nil {
		t.Errorf("an identity beside the error: %+v", id)
	}
	if err.HTTPStatus() != status || err.Code != code {
		t.Errorf("status %d code %q (%s), want %d %q", err.HTTPStatus(), err.Code, err.Message, status, code)
	}
}

// leaks finds a part of a credential that is long enough to be no accident in a message.
func leaks(message, credential string) string {
	for _, part := range strings.FieldsFunc(credential, func(r rune) bool { return r == '.' || r == ' ' || r == ',' }) {
		if len(part) >= 8 && strings.Contains(message, part) {
			return part
		}
	}
	return ""
}

func publicDER(k crypto.PublicKey, encode func(any) ([]byte, error)) []byte {
	b, err := encode(k)
	if err != nil {
		panic(err)
	}
	return b
}

// home is where the callers of these tests are.
var home = netip.MustParseAddr("192.0.2.1")

// login authenticates a caller from home.
func login(a *Authenticator, h Headers, now time.Time) (*Identity, *canon.Error) {
	return a.Authenticate(context.Background(), h, home, now)
}
