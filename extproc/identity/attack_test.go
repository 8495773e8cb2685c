package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
)

// attack is a request that must not get in.
type attack struct {
	name    string
	headers Headers
	status  int
	code    string
	says    string // part of the message
}

// tokenAttacks are tokens that are each one step away from a good one.
func tokenAttacks() []attack {
	k := keysOnce()
	rs := signWith("RS256", k.rsa)
	header := object{"alg": "RS256", "kid": "r1"}
	good := goodClaims(rsaIssuer, nil)
	none := func(string) []byte { return nil }
	with := func(change object) object {
		h := object{"alg": "RS256", "kid": "r1"}
		for name, v := range change {
			h[name] = v
		}
		return h
	}
	valid := mint(header, good, rs)
	parts := strings.Split(valid, ".")
	pkix := publicDER(&k.rsa.PublicKey, x509.MarshalPKIXPublicKey)
	pemKey := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pkix})
	evil := jwk("r1", &k.otherRSA.PublicKey, nil)
	otherSign := signWith("RS256", k.otherRSA)
	es := signWith("ES256", k.p256)
	hs := func(key []byte) signer { return signWith("HS256", key) }
	now := t0.Unix()
	tok := func(name, token, says string) attack {
		return attack{name, bearer(token), 401, CodeInvalidToken, says}
	}
	claim := func(name string, change object, says string) attack { return tok(name, rsaToken(change), says) }
	list := []attack{
		tok("alg none, no signature", mint(object{"alg": "none"}, good, none), "algorithm"),
		tok("alg None", mint(object{"alg": "None"}, good, none), "algorithm"),
		tok("alg NONE with the old signature", mint(object{"alg": "NONE"}, good, rs), "algorithm"),
		tok("alg nOnE and kid", mint(object{"alg": "nOnE", "kid": "r1"}, good, none), "algorithm"),
		tok("alg empty", mint(object{"alg": ""}, good, none), "algorithm"),
		tok("alg null", mint(object{"alg": nil}, good, rs), "algorithm"),
		tok("alg missing", mint(object{"kid": "r1"}, good, rs), "algorithm"),
		tok("alg as a list", mint(object{"alg": []string{"RS256"}}, good, rs), "algorithm"),
		tok("alg with a space", mint(object{"alg": "RS256 "}, good, rs), "algorithm"),
		tok("alg in lower case", mint(object{"alg": "rs256"}, good, rs), "algorithm"),
		tok("alg unknown", mint(object{"alg": "HS1"}, good, rs), "algorithm"),
		tok("alg RSA-OAEP", mint(object{"alg": "RSA-OAEP"}, good, rs), "algorithm"),
		tok("alg not on the issuer's list", mint(with(object{"alg": "PS256"}), good, signWith("PS256", k.rsa)), "algorithm"),
		tok("alg confusion: public key as PEM", mint(with(object{"alg": "HS256"}), good, hs(pemKey)), "algorithm"),
		tok("alg confusion: public key as PEM without newline", mint(with(object{"alg": "HS256"}), good, hs(pemKey[:len(pemKey)-1])), "algorithm"),
		tok("alg confusion: public key as DER", mint(with(object{"alg": "HS256"}), good, hs(pkix)), "algorithm"),
		tok("alg confusion: modulus", mint(with(object{"alg": "HS256"}), good, hs(k.rsa.N.Bytes())), "algorithm"),
		tok("HS issuer, empty secret", mint(object{"alg": "HS256"}, goodClaims(hmacIssuer, nil), hs([]byte{})), "signature does not verify"),
		tok("HS issuer, wrong secret", mint(object{"alg": "HS256"}, goodClaims(hmacIssuer, nil), hs([]byte("another secret of at least thirty-two bytes"))), "signature does not verify"),
		tok("HS issuer, RS token", mint(object{"alg": "RS256"}, goodClaims(hmacIssuer, nil), rs), "algorithm"),
		tok("ES256 over a P-384 key", mint(object{"alg": "ES256", "kid": "e384"}, goodClaims(manyIssuer, nil), signWith("ES256", k.p256)), "does not publish"),
		tok("ES256 signature of zeros", mint(object{"alg": "ES256", "kid": "e256"}, goodClaims(manyIssuer, nil), func(string) []byte { return make([]byte, 64) }), "signature does not verify"),
		tok("EdDSA signature of zeros", mint(object{"alg": "EdDSA", "kid": "ed"}, goodClaims(manyIssuer, nil), func(string) []byte { return make([]byte, 64) }), "signature does not verify"),
		tok("ES256 signature as DER", mint(object{"alg": "ES256", "kid": "e256"}, goodClaims(manyIssuer, nil), func(signed string) []byte {
			sum := sha256.Sum256([]byte(signed))
			der, err := ecdsa.SignASN1(rand.Reader, k.p256, sum[:])
			if err != nil {
				panic(err)
			}
			return der
		}), "signature does not verify"),
		tok("ES256 signature with r of zero", mint(object{"alg": "ES256", "kid": "e256"}, goodClaims(manyIssuer, nil), changed(es, func(sig []byte) []byte {
			clear(sig[:32])
			return sig
		})), "signature does not verify"),
		tok("ES256 signature with s of zero", mint(object{"alg": "ES256", "kid": "e256"}, goodClaims(manyIssuer, nil), changed(es, func(sig []byte) []byte {
			clear(sig[32:])
			return sig
		})), "signature does not verify"),
		tok("ES256 signature with r and s swapped", mint(object{"alg": "ES256", "kid": "e256"}, goodClaims(manyIssuer, nil), changed(es, func(sig []byte) []byte {
			return append(bytes.Clone(sig[32:]), sig[:32]...)
		})), "signature does not verify"),
		tok("ES256 signature with s of the group's order", mint(object{"alg": "ES256", "kid": "e256"}, goodClaims(manyIssuer, nil), changed(es, func(sig []byte) []byte {
			k.p256.Params().N.FillBytes(sig[32:])
			return sig
		})), "signature does not verify"),
		tok("ES256 signature padded", mint(object{"alg": "ES256", "kid": "e256"}, goodClaims(manyIssuer, nil), changed(es, func(sig []byte) []byte {
			return append(append([]byte{0}, sig[:32]...), append([]byte{0}, sig[32:]...)...)
		})), "signature does not verify"),
		tok("EdDSA signature with s beyond the group's order", mint(object{"alg": "EdDSA", "kid": "ed"}, goodClaims(manyIssuer, nil), changed(signWith("EdDSA", k.ed), plusOrder)), "signature does not verify"),
		tok("EdDSA signature for ES256", mint(object{"alg": "ES256", "kid": "e256"}, goodClaims(manyIssuer, nil), signWith("EdDSA", k.ed)), "signature does not verify"),
		tok("PS256 signature for RS256", mint(header, good, signWith("PS256", k.rsa)), "signature does not verify"),
		tok("RS512 signature for RS256", mint(header, good, signWith("RS512", k.rsa)), "signature does not verify"),
		tok("RS token on an EdDSA kid", mint(object{"alg": "RS256", "kid": "ed"}, goodClaims(manyIssuer, nil), rs), "does not publish"),

		tok("kid path traversal", mint(with(object{"kid": "../../../../dev/null"}), good, otherSign), "does not publish"),
		tok("kid SQL", mint(with(object{"kid": "x' UNION SELECT 'key'--"}), good, otherSign), "does not publish"),
		tok("kid a URL", mint(with(object{"kid": "https://evil.example/jwks.json"}), good, otherSign), "does not publish"),
		tok("kid null byte", mint(with(object{"kid": "r1\x00"}), good, rs), "does not publish"),
		tok("kid very long", mint(with(object{"kid": strings.Repeat("r1", 2048)}), good, rs), "does not publish"),
		tok("kid a format string", mint(with(object{"kid": "%s%n%x"}), good, otherSign), "does not publish"),
		tok("kid a command", mint(with(object{"kid": "r1|/usr/bin/id"}), good, rs), "does not publish"),
		tok("kid in upper case", mint(with(object{"kid": "R1"}), good, rs), "does not publish"),
		tok("kid empty, another key", mint(with(object{"kid": ""}), good, otherSign), "signature does not verify"),
		tok("kid a number", mint(with(object{"kid": 1}), good, rs), "kid"),
		tok("kid an object", mint(with(object{"kid": object{"kid": "r1"}}), good, rs), "kid"),
		tok("kid of the right key, another key", mint(header, good, otherSign), "signature does not verify"),
		tok("no kid, another key", mint(object{"alg": "RS256"}, good, otherSign), "signature does not verify"),
		tok("jwk in the header", mint(with(object{"jwk": evil}), good, otherSign), "signature does not verify"),
		tok("jwk in the header, other kid", mint(with(object{"jwk": jwk("evil", &k.otherRSA.PublicKey, nil), "kid": "evil"}), good, otherSign), "does not publish"),
		tok("jku", mint(with(object{"jku": "https://evil.example/jwks.json"}), good, otherSign), "signature does not verify"),
		tok("x5u", mint(with(object{"x5u": "https://evil.example/cert.pem"}), good, otherSign), "signature does not verify"),
		tok("x5c", mint(with(object{"x5c": []string{"MIIB"}}), good, otherSign), "signature does not verify"),
		tok("x5t of another key", mint(with(object{"x5t": "AAAA", "x5t#S256": "AAAA"}), good, otherSign), "signature does not verify"),
		tok("a token in a token", rawToken(toJSON(with(object{"cty": "JWT"})), []byte(valid), rs), "claims"),
		tok("zip", mint(with(object{"zip": "DEF"}), good, otherSign), "signature does not verify"),
		tok("enc and alg of encryption", mint(with(object{"alg": "dir", "enc": "A128GCM"}), good, rs), "algorithm"),
		tok("crit", mint(with(object{"crit": []string{"exp"}}), good, rs), "crit"),
		tok("crit empty", mint(with(object{"crit": []string{}}), good, rs), "crit"),
		tok("b64 false with crit", mint(with(object{"b64": false, "crit": []string{"b64"}}), good, rs), "crit"),
		tok("typ of a logout token", mint(with(object{"typ": "logout+jwt"}), good, rs), "typ"),
		tok("typ a number", mint(with(object{"typ": 1}), good, rs), "typ"),
		tok("duplicate alg", rawToken([]byte(`{"alg":"RS256","kid":"r1","alg":"none"}`), toJSON(good), rs), "duplicate"),
		tok("duplicate alg by escape", rawToken([]byte(`{"alg":"RS256","kid":"r1","\u0061lg":"RS256"}`), toJSON(good), rs), "duplicate"),
		tok("Alg beside alg", rawToken([]byte(`{"Alg":"RS256","kid":"r1"}`), toJSON(good), rs), "algorithm"),

		claim("exp past", object{"exp": now - 31}, "expired"),
		claim("exp at the end of the leeway", object{"exp": now - 30}, "expired"),
		claim("exp missing", object{"exp": nil}, "lacks"),
		claim("exp null", object{"exp": json.RawMessage("null")}, "exp"),
		claim("exp a string", object{"exp": fmt.Sprint(now + 600)}, "exp"),
		claim("exp true", object{"exp": true}, "exp"),
		claim("exp a list", object{"exp": []int64{now + 600}}, "exp"),
		claim("exp an object", object{"exp": object{"seconds": now + 600}}, "exp"),
		claim("exp a float past", object{"exp": json.RawMessage(fmt.Sprintf("%d.9", now-31))}, "expired"),
		claim("exp in milliseconds", object{"exp": now * 1000}, "exp"),
		claim("exp huge", object{"exp": json.RawMessage("1e30")}, "exp"),
		claim("exp beyond float", object{"exp": json.RawMessage("1e999")}, "exp"),
		claim("exp overflowing int64", object{"exp": json.RawMessage("9223372036854775808")}, "exp"),
		claim("exp negative", object{"exp": -1}, "exp"),
		claim("exp zero", object{"exp": 0}, "expired"),
		claim("nbf in the future", object{"nbf": now + 31}, "nbf"),
		claim("nbf an hour ahead", object{"nbf": now + 3600}, "nbf"),
		claim("nbf null", object{"nbf": json.RawMessage("null")}, "nbf"),
		claim("nbf a string", object{"nbf": "0"}, "nbf"),
		claim("iat in the future", object{"iat": now + 31}, "iat"),
		claim("iat a string", object{"iat": "now"}, "iat"),
		claim("iss unknown", object{"iss": "https://evil.example"}, "iss"),
		claim("iss with a slash more", object{"iss": rsaIssuer + "/"}, "iss"),
		claim("iss in upper case", object{"iss": strings.ToUpper(rsaIssuer)}, "iss"),
		claim("iss with a look-alike letter", object{"iss": "https://rs\u0430.example"}, "iss"), // a Cyrillic letter
		claim("iss with a full-width letter", object{"iss": "https://rsa.example\uff0f"}, "iss"),
		claim("iss with a null byte", object{"iss": rsaIssuer + "\x00"}, "iss"),
		claim("iss with a space", object{"iss": " " + rsaIssuer}, "iss"),
		claim("iss with a dot more", object{"iss": "https://rsa.example."}, "iss"),
		claim("iss with a port", object{"iss": "https://rsa.example:443"}, "iss"),
		claim("iss escaped", object{"iss": "https://rsa%2eexample"}, "iss"),
		claim("iss missing", object{"iss": nil}, "iss"),
		claim("iss empty", object{"iss": ""}, "iss"),
		claim("iss a list", object{"iss": []string{rsaIssuer}}, "iss"),
		claim("iss of another issuer with this issuer's key", object{"iss": manyIssuer}, "does not publish"),
		claim("aud wrong", object{"aud": "other"}, "audience"),
		claim("aud wrong list", object{"aud": []string{"other", "Weir"}}, "audience"),
		claim("aud missing", object{"aud": nil}, "aud"),
		claim("aud empty", object{"aud": ""}, "aud"),
		claim("aud empty list", object{"aud": []string{}}, "aud"),
		claim("aud a number", object{"aud": 5}, "aud"),
		claim("aud a mixed list", object{"aud": []any{audience, 5}}, "aud"),
		claim("aud a prefix", object{"aud": audience + ".evil.example"}, "audience"),
		claim("sub missing", object{"sub": nil}, "sub"),
		claim("sub a number", object{"sub": 7}, "sub"),
		claim("sub null", object{"sub": json.RawMessage("null")}, "sub"),
		claim("sub empty", object{"sub": ""}, "sub"),
		claim("sub with a line break", object{"sub": "alice\r\nx-weir-tenant: root"}, "sub"),
		claim("sub with a null byte", object{"sub": "alice\x00"}, "sub"),
		claim("sub with an invisible character", object{"sub": "al\u202eice"}, "sub"),
		claim("sub with a space at its end", object{"sub": "alice "}, "sub"),
		claim("sub too long", object{"sub": strings.Repeat("a", maxNameBytes+1)}, "sub"),
		claim("tenant a list", object{"org": object{"tenant": []string{"a"}}}, "org.tenant"),
		claim("tenant null", object{"org": object{"tenant": json.RawMessage("null")}}, "org.tenant"),
		claim("tenant no name", object{"org": object{"tenant": "a/b"}}, "org.tenant"),
		claim("label an object", object{"env": object{}}, "env"),
		claim("models a string", object{"models": "*"}, "models"),
		claim("models a mixed list", object{"models": []any{"gpt-4", 1}}, "models"),
		claim("models with an empty name", object{"models": []string{""}}, "models"),
		claim("scope a list", object{"scope": []string{"llm"}}, "scope"),
		claim("scp a number", object{"scp": 3}, "scp"),
		claim("scp a mixed list", object{"scp": []any{"llm", 3}}, "scp"),
		tok("duplicate exp", rawToken(toJSON(header), []byte(fmt.Sprintf(
			`{"iss":%q,"aud":%q,"sub":"alice","exp":%d,"exp":1}`, rsaIssuer, audience, now+600)), rs), "duplicate"),
		tok("duplicate member deep inside", rawToken(toJSON(header), []byte(fmt.Sprintf(
			`{"iss":%q,"aud":%q,"sub":"alice","exp":%d,"org":{"tenant":"a","tenant":"b"}}`, rsaIssuer, audience, now+600)), rs), "duplicate"),
		tok("claims: trailing data", rawToken(toJSON(header), append(toJSON(good), " {}"...), rs), "claims"),
		tok("claims: a list", rawToken(toJSON(header), []byte(`[]`), rs), "claims"),
		tok("claims: null", rawToken(toJSON(header), []byte(`null`), rs), "claims"),
		tok("claims: empty", rawToken(toJSON(header), nil, rs), "claims"),
		tok("claims: invalid UTF-8", rawToken(toJSON(header), []byte("{\"iss\":\"\xff\"}"), rs), "claims"),
		tok("claims: nested too deep", rawToken(toJSON(header), []byte(`{"a":`+strings.Repeat("[", 2000)+strings.Repeat("]", 2000)+`}`), rs), "claims"),

		tok("signature stripped", parts[0]+"."+parts[1]+".", "signature"),
		tok("signature truncated", valid[:len(valid)-4], "signature"),
		tok("signature of one byte", parts[0]+"."+parts[1]+".AA", "signature does not verify"),
		tok("signature longer", valid+"AAAA", "signature does not verify"),
		tok("signature of another token", parts[0]+"."+parts[1]+"."+strings.Split(rsaToken(object{"sub": "bob"}), ".")[2], "signature does not verify"),
		tok("claims swapped", parts[0]+"."+b64(toJSON(goodClaims(rsaIssuer, object{"sub": "root"})))+"."+parts[2], "signature does not verify"),
		tok("padding at the end", valid+"==", "base64url"),
		tok("padding after the claims", parts[0]+"."+parts[1]+"=."+parts[2], "base64url"),
		tok("standard base64", parts[0]+"."+parts[1]+"."+parts[2]+"+/", "base64url"),
		tok("unused bits set", nonCanonical(valid), "base64url"),
		{"required scope missing", bearer(mint(object{"alg": "RS256", "kid": "r"}, goodClaims(manyIssuer, object{"scope": "llm2 other"}), rs)), 403, CodeInsufficientScope, `"llm"`},
		{"no scope at all", bearer(mint(object{"alg": "RS256", "kid": "r"}, goodClaims(manyIssuer, nil), rs)), 403, CodeInsufficientScope, `"llm"`},
		{"scope of the consumer instead of the token", bearer(mint(object{"alg": "RS256", "kid": "r"}, goodClaims(manyIssuer, object{"sub": "batch"}), rs)), 403, CodeInsufficientScope, `"llm"`},
	}
	// Not of a token's shape: these are unknown keys.
	for name, cred := range map[string]string{
		"two segments":             parts[0] + "." + parts[1],
		"four segments":            valid + ".x",
		"five segments (JWE)":      valid + ".x.y",
		"empty header":             "." + parts[1] + "." + parts[2],
		"header not JSON":          b64([]byte("{alg}")) + "." + parts[1] + "." + parts[2],
		"header a JSON string":     b64([]byte(`"alg"`)) + "." + parts[1] + "." + parts[2],
		"header with padding":      parts[0] + "=." + parts[1] + "." + parts[2],
		"dots only":                "..",
		"JSON serialisation":       `{"payload":"` + parts[1] + `","signature":"` + parts[2] + `"}`,
		"token in quotes":          `"` + valid + `"`,
		"unknown key":              "sk-0123456789abcdef",
		"known key, one more":      demoKey + "x",
		"known key, one less":      demoKey[:len(demoKey)-1],
		"known key in upper case":  strings.ToUpper(demoKey),
		"known key twice, a comma": demoKey + "," + demoKey,
		"hash of a known key":      HashKey(demoKey),
		"disabled key":             disabledKey,
		"prefix of a key":          goodKeyPrefix,
		"prefix and underscore":    goodKeyPrefix + "_",
		"key without its prefix":   strings.TrimPrefix(goodKey, goodKeyPrefix+"_"),
		"key with another prefix":  "weir_00000000_" + strings.TrimPrefix(goodKey, goodKeyPrefix+"_"),
		"hash digits of a key":     strings.TrimPrefix(HashKey(goodKey), "sha256:"),
		"beginning of a hash":      HashKey(goodKey)[:23],
		"raw hash as hmac-sha256":  "hmac-" + HashKey(goodKey),
		"peppered hash of a key":   testPepper().HashKey(pepperedKey),
		"case of one letter":       swapCase(goodKey),
		"key twice":                goodKey + goodKey,
		"key and a dot":            goodKey + ".",
		"key percent-encoded":      strings.Replace(goodKey, "_", "%5f", 1),
		"stored key, revoked":      revokedStoredKey,
		"stored key, no consumer":  orphanStoredKey,
	} {
		list = append(list, attack{name, bearer(cred), 401, CodeInvalidKey, "The API key is not valid."})
	}
	return list
}

// changed alters what a signer makes.
func changed(sign signer, change func([]byte) []byte) signer {
	return func(signed string) []byte { return change(bytes.Clone(sign(signed))) }
}

// plusOrder adds the order of Ed25519's group to S, the second half, of little end: the same S to a lenient verifier.
func plusOrder(sig []byte) []byte {
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	s := slices.Clone(sig[32:])
	slices.Reverse(s)
	sum := new(big.Int).Add(new(big.Int).SetBytes(s), order)
	out := sum.FillBytes(make([]byte, 32)) // fits: S is below the order, which is below 2^253
	slices.Reverse(out)
	return append(bytes.Clone(sig[:32]), out...)
}

// swapCase changes the case of the last letter.
func swapCase(key string) string {
	b := []byte(key)
	for i := len(b) - 1; ; i-- {
		if c := b[i] | 0x20; c >= 'a' && c <= 'z' {
			b[i] ^= 0x20
			return string(b)
		}
	}
}

// nonCanonical sets the unused low bits of the last character of a 2048-bit signature: lenient decoders read the
// same bytes.
func nonCanonical(token string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, token[len(token)-1])
	return token[:len(token)-1] + string(alphabet[last|1])
}

// headerAttacks misuse the headers around a credential that is mostly good.
func headerAttacks() []attack {
	good := rsaToken(nil)
	bad := func(name, says string, pairs ...string) attack {
		return attack{name, headers(pairs...), 401, CodeInvalidCredential, says}
	}
	list := []attack{
		{"none", headers(), 401, CodeMissing, "no credential"},
		{"only other headers", headers("cookie", "key="+demoKey, "x-weir-tenant", "root"), 401, CodeMissing, "no credential"},
		{"expired key", bearer(expiredKeyV), 401, CodeInvalidKey, "expired"},
		{"expired stored key", bearer(expiredStoredKey), 401, CodeInvalidKey, "expired"},
		{"key from a wrong address", bearer(boundKeyV), 403, CodeAddress, home.String()},
		{"stored key from a wrong address", headers("x-api-key", boundStoredKey), 403, CodeAddress, home.String()},
		bad("empty bearer", "holds no credential", "authorization", "Bearer "),
		bad("bearer alone", "holds no credential", "authorization", "Bearer"),
		bad("bearer and spaces", "holds no credential", "authorization", "Bearer    "),
		bad("empty x-api-key", "x-api-key holds no", "x-api-key", ""),
		bad("empty x-api-key beside a good key", "x-api-key holds no", "authorization", "Bearer "+demoKey, "x-api-key", ""),
		bad("blank x-api-key", "white space", "x-api-key", " "),
		bad("two lines of authorization", "more than once", "authorization", "Bearer "+demoKey, "authorization", "Bearer "+demoKey),
		bad("two lines of x-api-key", "more than once", "x-api-key", demoKey, "X-Api-Key", batchKey),
		bad("three lines", "more than once", "api-key", demoKey, "api-key", demoKey, "api-key", demoKey),
		bad("two different keys", "more than one credential", "authorization", "Bearer "+demoKey, "x-api-key", batchKey),
		bad("key and token", "more than one credential", "authorization", "Bearer "+good, "x-api-key", demoKey),
		bad("third header differs", "more than one credential", "authorization", "Bearer "+demoKey, "x-api-key", demoKey, "x-goog-api-key", batchKey),
		bad("joined lines", "white space", "authorization", "Bearer "+demoKey+", Bearer "+demoKey),
		bad("oversize key", "longer", "x-api-key", strings.Repeat("k", maxCredentialBytes+1)),
		bad("oversize token", "longer", "authorization", "Bearer "+good+strings.Repeat("A", maxCredentialBytes)),
		bad("null byte", "control", "x-api-key", demoKey+"\x00"),
		bad("null byte in front", "control", "x-api-key", "\x00"+demoKey),
		bad("line break", "control", "x-api-key", demoKey+"\r\nx-weir-tenant: root"),
		bad("delete character", "control", "x-api-key", demoKey+"\x7f"),
		bad("unicode space", "non-ASCII", "x-api-key", demoKey+"\u00a0"),
		bad("unicode look-alike", "non-ASCII", "x-api-key", "wеir-demo-key"), // a Cyrillic letter
		bad("invalid UTF-8", "non-ASCII", "x-api-key", demoKey+"\xff"),
		bad("full-width letters", "non-ASCII", "authorization", "Bearer ｗeir-demo-key"),
		bad("space inside", "white space", "authorization", "Bearer "+demoKey+" x"),
		bad("space at the end", "white space", "authorization", "Bearer "+demoKey+" "),
		bad("tab after the scheme and a space", "white space", "authorization", "Bearer \t"+demoKey),
		bad("tab at the end", "white space", "authorization", "Bearer "+demoKey+"\t"),
		bad("scheme twice", "white space", "authorization", "Bearer Bearer "+demoKey),
		bad("scheme in x-api-key", "white space", "x-api-key", "Bearer "+demoKey),
	}
	for _, value := range []string{
		"Basic d2VpcjpkZW1v", "Digest username=x", "Negotiate abc", "DPoP " + good, demoKey, good, "", " ", " Bearer " + demoKey,
		"Bearer\t" + demoKey, "Bearer:" + demoKey, "Bearer" + demoKey, "Token " + demoKey, "key=" + demoKey, "\x00", "Ｂearer " + demoKey,
	} {
		list = append(list, attack{fmt.Sprintf("authorization %.12q", value), headers("authorization", value), 401, CodeUnsupportedScheme, "ApiKey"})
	}
	return list
}

// TestAttacks sends each attack twice, so that a cache that learned from the first would show.
func TestAttacks(t *testing.T) {
	a := newAuthenticator(t, attackConfig(), nil)
	for _, good := range []string{rsaToken(nil), hmacToken(nil), demoKey, batchKey, goodKey, pepperedKey, goodStoredKey} {
		if _, err := login(a, bearer(good), t0); err != nil {
			t.Fatalf("the credential that the attacks start from is refused: %v", err)
		}
	}
	attacks := append(tokenAttacks(), headerAttacks()...)
	for _, at := range attacks {
		t.Run(at.name, func(t *testing.T) {
			for range 2 {
				id, err := login(a, at.headers, t0)
				mustRefuse(t, id, err, at.status, at.code)
				if !strings.Contains(err.Message, at.says) {
					t.Errorf("message %q does not say %q", err.Message, at.says)
				}
				for i, v := range at.headers.values {
					if part := leaks(err.Message+Challenge(err), v); part != "" {
						t.Errorf("the error quotes header %s: %q in %q", headerName(i), part, err.Message)
					}
				}
				if c := Challenge(err); (c != "" || at.code != CodeAddress) && !strings.HasPrefix(c, `Bearer realm="weir"`) || strings.ContainsAny(c, "\r\n\x00") {
					t.Errorf("challenge %q", c)
				}
			}
		})
	}
	if len(attacks) < 200 {
		t.Errorf("only %d attacks", len(attacks))
	}
}

// TestSameAnswer: nobody can tell a disabled key from one that never was.
func TestSameAnswer(t *testing.T) {
	a := newAuthenticator(t, testConfig(), nil)
	_, unknown := login(a, bearer("never-was-0123456789"), t0)
	_, disabled := login(a, bearer(disabledKey), t0)
	if unknown == nil || disabled == nil || *unknown != *disabled {
		t.Errorf("unknown: %+v, disabled: %+v", unknown, disabled)
	}
}

// TestKeyOfAnotherIssuer: each issuer's tokens verify with its own keys only, though the kid is the same.
func TestKeyOfAnotherIssuer(t *testing.T) {
	k := keysOnce()
	cfg := testConfig()
	cfg.Issuers = append(cfg.Issuers, Issuer{Namespace: "other", Name: "b", Issuer: "https://b.example", Audiences: []string{audience},
		Algorithms: []string{"RS256"}, Keys: IssuerKeys{JWKS: jwks(jwk("r1", &k.otherRSA.PublicKey, nil))}})
	a := newAuthenticator(t, cfg, nil)
	header := object{"alg": "RS256", "kid": "r1"}
	for iss, right := range map[string]bool{rsaIssuer: false, "https://b.example": true} {
		id, err := login(a, bearer(mint(header, goodClaims(iss, nil), signWith("RS256", k.otherRSA))), t0)
		if right && err != nil {
			t.Errorf("its own issuer: %v", err)
		}
		if !right {
			mustRefuse(t, id, err, 401, CodeInvalidToken)
		}
	}
}
