package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestParseJWKS(t *testing.T) {
	k := keysOnce()
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaJWK := func(extra object) object { return jwk("k", &k.rsa.PublicKey, extra) }
	for _, c := range []struct {
		name string
		key  any
		algs string // that the key verifies; "" for a key that is left out
		says string
	}{
		{"RSA", rsaJWK(nil), "RS256 RS384 RS512 PS256 PS384 PS512", ""},
		{"RSA with alg", rsaJWK(object{"alg": "PS384"}), "PS384", ""},
		{"RSA with use and key_ops", rsaJWK(object{"use": "sig", "key_ops": []string{"verify"}}), "RS256 RS384 RS512 PS256 PS384 PS512", ""},
		{"padded numbers", rsaJWK(object{"e": "AQAB="}), "RS256 RS384 RS512 PS256 PS384 PS512", ""},
		{"unknown members, x5u and x5c", rsaJWK(object{"x5u": "http://169.254.169.254/", "x5c": []string{"!"}, "x5t": "x", "new": 1}), "RS256 RS384 RS512 PS256 PS384 PS512", ""},
		{"P-256", jwk("k", &k.p256.PublicKey, nil), "ES256", ""},
		{"P-384", jwk("k", &k.p384.PublicKey, object{"alg": "ES384"}), "ES384", ""},
		{"P-521", jwk("k", &k.p521.PublicKey, nil), "ES512", ""},
		{"Ed25519", jwk("k", k.ed.Public(), nil), "EdDSA", ""},
		{"Ed25519 with alg", jwk("k", k.ed.Public(), object{"alg": "EdDSA"}), "EdDSA", ""},
		{"Ed25519 with its new alg", jwk("k", k.ed.Public(), object{"alg": "Ed25519"}), "EdDSA", ""},

		{"RSA of 1024 bits", jwk("k", &k.smallRSA.PublicKey, nil), "", "1024 bits"},
		{"RSA of 16384 bits", rsaJWK(object{"n": b64([]byte(strings.Repeat("\xff", 2048)))}), "", "larger"},
		{"RSA even modulus", rsaJWK(object{"n": b64([]byte(strings.Repeat("\xfe", 256)))}), "", "no valid key"},
		{"RSA exponent 1", rsaJWK(object{"e": "AQ"}), "", "no valid key"},
		{"RSA exponent even", rsaJWK(object{"e": "BA"}), "", "no valid key"},
		{"RSA exponent huge", rsaJWK(object{"e": b64([]byte("\x01\x00\x00\x00\x00\x00\x00\x00\x03"))}), "", "no valid key"},
		{"RSA without n", rsaJWK(object{"n": ""}), "", "no valid key"},
		{"RSA with bad base64", rsaJWK(object{"n": "***"}), "", "no valid key"},
		{"for encryption", rsaJWK(object{"use": "enc"}), "", "use is not sig"},
		{"for signing only", rsaJWK(object{"key_ops": []string{"sign"}}), "", "key_ops"},
		{"alg of encryption", rsaJWK(object{"alg": "RSA-OAEP"}), "", "alg"},
		{"alg none", rsaJWK(object{"alg": "none"}), "", "alg"},
		{"RSA that says HS256", rsaJWK(object{"alg": "HS256"}), "", "alg"},
		{"alg of another type", jwk("k", &k.p256.PublicKey, object{"alg": "RS256"}), "", "alg"},
		{"alg of another curve", jwk("k", &k.p256.PublicKey, object{"alg": "ES384"}), "", "alg"},
		{"private RSA", rsaJWK(object{"d": "AQAB"}), "", "private"},
		{"symmetric", object{"kty": "oct", "k": b64([]byte(hmacSecret)), "alg": "HS256"}, "", "shared secret"},
		{"symmetric in disguise", rsaJWK(object{"k": b64([]byte(hmacSecret))}), "", "shared secret"},
		{"point not on the curve", jwk("k", &k.p256.PublicKey, object{"y": b64(make([]byte, 32))}), "", "no valid key"},
		{"P-224", jwk("k", &p224.PublicKey, nil), "", "not supported"},
		{"secp256k1", object{"kty": "EC", "crv": "secp256k1", "x": "AQ", "y": "AQ"}, "", "not supported"},
		{"X25519", object{"kty": "OKP", "crv": "X25519", "x": b64(make([]byte, 32))}, "", "not supported"},
		{"Ed25519 too short", object{"kty": "OKP", "crv": "Ed25519", "x": b64(make([]byte, 31))}, "", "no valid key"},
		{"post-quantum", object{"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"}, "", "not supported"},
		{"no type", object{}, "", "not supported"},
		{"kty a number", object{"kty": 5}, "", "wrong type"},
		{"not an object", 5, "", "wrong type"},
		{"null", json.RawMessage("null"), "", "not supported"},
	} {
		t.Run(c.name, func(t *testing.T) {
			// Between two others, which must not suffer.
			doc := toJSON(object{"keys": []any{jwk("first", &k.rsa.PublicKey, nil), c.key, jwk("last", k.ed.Public(), nil)}})
			set, err := ParseJWKS(doc)
			if err != nil {
				t.Fatal(err)
			}
			if len(set.find("first", "RS256")) != 1 || len(set.find("last", "EdDSA")) != 1 {
				t.Error("the keys beside it are lost")
			}
			var algs []string
			for _, alg := range []string{"HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "none", ""} {
				if len(set.find("k", alg)) > 0 {
					algs = append(algs, alg)
				}
			}
			if got := strings.Join(algs, " "); got != c.algs {
				t.Errorf("verifies %q, want %q", got, c.algs)
			}
			report := strings.Join(set.Skipped(), "\n")
			if (report == "") != (c.says == "") || !strings.Contains(report, c.says) {
				t.Errorf("report %q does not say %q", report, c.says)
			}
			if strings.Contains(report, b64([]byte(hmacSecret))) {
				t.Errorf("the report quotes a secret: %s", report)
			}
		})
	}
}

// TestKeyIDs: several keys of one kid are each tried; a key without one fits any token.
func TestKeyIDs(t *testing.T) {
	k := keysOnce()
	set, err := ParseJWKS(jwks(jwk("a", &k.rsa.PublicKey, nil), jwk("a", &k.otherRSA.PublicKey, nil), jwk("a", k.ed.Public(), nil), jwk("", &k.p256.PublicKey, nil)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		kid, alg string
		want     int
	}{{"a", "RS256", 2}, {"a", "EdDSA", 1}, {"a", "ES256", 1}, {"b", "ES256", 1}, {"b", "RS256", 0}, {"", "RS256", 2}, {"", "ES256", 1}} {
		if got := len(set.find(c.kid, c.alg)); got != c.want {
			t.Errorf("kid %q alg %s: %d keys, want %d", c.kid, c.alg, got, c.want)
		}
	}
	if set.Len() != 4 || len(set.Skipped()) != 2 || !strings.Contains(set.Skipped()[0], "several keys") {
		t.Errorf("%d keys, report %q", set.Len(), set.Skipped())
	}
	cfg := testConfig()
	cfg.Issuers[0].Keys.JWKS = jwks(jwk("r1", &k.otherRSA.PublicKey, nil), jwk("r1", &k.rsa.PublicKey, nil))
	if _, err := login(newAuthenticator(t, cfg, nil), bearer(rsaToken(nil)), t0); err != nil {
		t.Errorf("the second key of the kid: %v", err)
	}
}

// TestManyKeys: the work that a token without a kid causes is bounded, and so is a document.
func TestManyKeys(t *testing.T) {
	k := keysOnce()
	var list []object
	for i := range maxKeysTried + 1 {
		list = append(list, jwk(fmt.Sprintf("r%d", i), &k.rsa.PublicKey, nil))
	}
	cfg := testConfig()
	cfg.Issuers[0].Keys.JWKS = jwks(list...)
	a := newAuthenticator(t, cfg, nil)
	id, bad := login(a, bearer(mint(object{"alg": "RS256"}, goodClaims(rsaIssuer, nil), signWith("RS256", k.rsa))), t0)
	mustRefuse(t, id, bad, 401, CodeInvalidToken)
	if !strings.Contains(bad.Message, "kid") {
		t.Errorf("message %q does not ask for a kid", bad.Message)
	}
	if _, bad := login(a, bearer(rsaToken(nil)), t0); bad != nil {
		t.Errorf("with a kid: %v", bad)
	}
	for len(list) <= maxSetKeys {
		list = append(list, object{})
	}
	if _, err := ParseJWKS(jwks(list...)); err == nil || !strings.Contains(err.Error(), "256") {
		t.Errorf("a document of %d keys: %v", len(list), err)
	}
}

// TestEmptySet: an issuer may withdraw all its keys.
func TestEmptySet(t *testing.T) {
	if set, err := ParseJWKS(jwks()); err != nil || set.Len() != 0 || set.find("", "RS256") != nil {
		t.Errorf("%v, %v", set, err)
	}
}

// FuzzParseJWKS: no document panics, and whatever is kept is a public key with an asymmetric algorithm.
func FuzzParseJWKS(f *testing.F) {
	k := keysOnce()
	f.Add(jwks(jwk("a", &k.rsa.PublicKey, nil), jwk("b", &k.p256.PublicKey, nil), jwk("c", k.ed.Public(), nil)))
	f.Add(jwks(object{"kty": "oct", "k": "AAAA"}, jwk("", &k.p521.PublicKey, object{"use": "enc"})))
	f.Add([]byte(`{"keys":[null,1,{}],"keys":[]}`))
	f.Add([]byte(`{"KEYS":[]}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		set, err := ParseJWKS(doc)
		if (set == nil) == (err == nil) {
			t.Fatal("neither or both of a set and an error")
		}
		if err != nil {
			return
		}
		for _, alg := range []string{"HS256", "HS384", "HS512", "none", ""} {
			if len(set.find("", alg)) > 0 {
				t.Errorf("a key of the document verifies %q", alg)
			}
		}
	})
}
