package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/big"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	goodKeyPrefix    = "weir_Ab3dEf6h"
	goodKey          = goodKeyPrefix + "_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg"
	pepperedKey      = "weir_Pepper01_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg"
	boundKeyV        = "weir_Bound001_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg"
	goodStoredKey    = "weir_Stored01_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg"
	revokedStoredKey = "weir_Stored02_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg"
	orphanStoredKey  = "weir_Stored03_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg"
	expiredStoredKey = "weir_Stored04_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg"
	boundStoredKey   = "weir_Stored05_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg"
	pepperSecret     = "a pepper of at least thirty-two bytes"
)

func testPepper() *Pepper {
	p, err := NewPepper([]byte(pepperSecret))
	if err != nil {
		panic(err)
	}
	return p
}

// attackConfig has a key of every kind beside those of testConfig.
func attackConfig() Config {
	cfg := testConfig()
	cfg.Pepper = testPepper()
	cfg.Keys = append(cfg.Keys,
		Key{Namespace: "default", Name: "good", Consumer: "demo", Hash: sha256.Sum256([]byte(goodKey)), Prefix: goodKeyPrefix},
		Key{Namespace: "default", Name: "peppered", Consumer: "demo", Kind: HashHMAC, Hash: cfg.Pepper.sum(pepperedKey)},
		Key{Namespace: "default", Name: "bound", Consumer: "demo", Hash: sha256.Sum256([]byte(boundKeyV)), AllowedCIDRs: []string{"198.51.100.0/24"}},
	)
	stored := func(name, key string, change func(*Key)) *StoredKey {
		k := Key{Namespace: "default", Name: name, Consumer: "demo", Kind: HashHMAC, Hash: cfg.Pepper.sum(key)}
		change(&k)
		return NewStoredKey(k)
	}
	cfg.Stored = &StoredKeys{}
	cfg.Stored.Replace([]*StoredKey{
		stored("s1", goodStoredKey, func(*Key) {}),
		stored("s2", revokedStoredKey, func(k *Key) { k.Disabled = true }),
		stored("s3", orphanStoredKey, func(k *Key) { k.Consumer = "gone" }),
		stored("s4", expiredStoredKey, func(k *Key) { k.ExpiresAt = t0 }),
		stored("s5", boundStoredKey, func(k *Key) { k.AllowedCIDRs = []string{"2001:db8::/32"} }),
	})
	return cfg
}

// TestKeySetAttacks: key sets with keys that anybody has, and tokens signed with them.
func TestKeySetAttacks(t *testing.T) {
	k := keysOnce()
	const iss = "https://careless.example"
	one := big.NewInt(1)
	identityPoint := append([]byte{1}, make([]byte, 31)...)
	for _, c := range []struct {
		name  string
		key   object
		alg   string
		sign  signer
		wants string
	}{
		{"shared secret in the set, HS token", object{"kty": "oct", "kid": "x", "k": b64([]byte(hmacSecret)), "alg": "HS256"}, "HS256", signWith("HS256", []byte(hmacSecret)), "algorithm"},
		{"shared secret in the set, RS token", object{"kty": "oct", "kid": "x", "k": b64([]byte(hmacSecret)), "alg": "RS256"}, "RS256", signWith("HS256", []byte(hmacSecret)), "does not publish"},
		{"private key in the set", jwk("x", &k.otherRSA.PublicKey, object{"d": b64(k.otherRSA.D.Bytes())}), "RS256", signWith("RS256", k.otherRSA), "does not publish"},
		{"RSA of 1024 bits", jwk("x", &k.smallRSA.PublicKey, nil), "RS256", signWith("RS256", k.smallRSA), "does not publish"},
		{"RSA with the exponent 1", jwk("x", &k.otherRSA.PublicKey, object{"e": b64(one.Bytes())}), "RS256", signWith("RS256", k.otherRSA), "does not publish"},
		{"key for encryption", jwk("x", &k.otherRSA.PublicKey, object{"use": "enc"}), "RS256", signWith("RS256", k.otherRSA), "does not publish"},
		{"key of another algorithm", jwk("x", &k.otherRSA.PublicKey, object{"alg": "PS256"}), "RS256", signWith("RS256", k.otherRSA), "does not publish"},
		{"Ed25519 point of order 1", object{"kty": "OKP", "crv": "Ed25519", "kid": "x", "x": b64(identityPoint)}, "EdDSA",
			func(string) []byte { return append(slices.Clone(identityPoint), make([]byte, 32)...) }, "does not publish"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := testConfig()
			cfg.Issuers = append(cfg.Issuers, Issuer{Namespace: "default", Name: "careless", Issuer: iss, Audiences: []string{audience},
				Algorithms: []string{"RS256", "PS256", "EdDSA"}, Keys: IssuerKeys{JWKS: jwks(c.key, jwk("sound", k.ed.Public(), nil))}})
			a := newAuthenticator(t, cfg, nil)
			token := mint(object{"alg": c.alg, "kid": "x"}, goodClaims(iss, nil), c.sign)
			id, err := login(a, bearer(token), t0)
			mustRefuse(t, id, err, 401, CodeInvalidToken)
			if err != nil && !strings.Contains(err.Message, c.wants) {
				t.Errorf("message %q does not say %q", err.Message, c.wants)
			}
		})
	}
	// The attack on the point of small order is real: the standard library takes the signature for any text.
	if !ed25519.Verify(identityPoint, []byte("anything"), append(slices.Clone(identityPoint), make([]byte, 32)...)) {
		t.Error("the forged signature would not verify, so the test shows nothing")
	}
}

// TestSmallOrder: every listed point is of small order, in both signs, and a real key is none. For a point A of order n, the signature
// (identity, 0) verifies for one text in n.
func TestSmallOrder(t *testing.T) {
	forged := append([]byte{1}, make([]byte, 63)...)
	for _, y := range smallOrderY {
		for _, sign := range []byte{0, 0x80} {
			point, err := hex.DecodeString(y)
			if err != nil {
				t.Fatal(err)
			}
			point[31] |= sign
			if !smallOrder(point) {
				t.Errorf("%x is not recognised", point)
			}
			found := false
			for n := range 400 {
				found = found || ed25519.Verify(point, []byte{byte(n), byte(n >> 8)}, forged)
			}
			if !found && sign == 0 { // with the sign some encodings do not decode, which is as good
				t.Errorf("%x is not of small order", point)
			}
		}
	}
	if smallOrder(keysOnce().ed.Public().(ed25519.PublicKey)) {
		t.Error("a real key is taken for one of small order")
	}
	if !smallOrder(make([]byte, 31)) {
		t.Error("a short key is let through")
	}
}

// TestMalleableECDSA: (r, n-s) verifies wherever (r, s) does; signers make either. It is another spelling of the same
// token and gets the same identity, no more.
func TestMalleableECDSA(t *testing.T) {
	k := keysOnce()
	a := newAuthenticator(t, testConfig(), nil)
	es := signWith("ES256", k.p256)
	other := func(sig []byte) []byte {
		s := new(big.Int).Sub(k.p256.Params().N, new(big.Int).SetBytes(sig[32:]))
		s.FillBytes(sig[32:])
		return sig
	}
	claims := goodClaims(manyIssuer, object{"scope": "llm"})
	header := object{"alg": "ES256", "kid": "e256"}
	one, err := login(a, bearer(mint(header, claims, es)), t0)
	if err != nil {
		t.Fatal(err)
	}
	two, err := login(a, bearer(mint(header, claims, changed(es, other))), t0)
	if err != nil || !reflect.DeepEqual(one, two) {
		t.Errorf("%+v, %v; want %+v", two, err, one)
	}
}

// TestOnlyDigests: no key and no pepper is kept in a form that could be compared with a caller's, character by character: an
// Authenticator holds digests only, and its maps are keyed by digests.
func TestOnlyDigests(t *testing.T) {
	a := newAuthenticator(t, attackConfig(), nil)
	for _, cred := range []string{goodKey, pepperedKey, goodStoredKey, rsaToken(nil)} {
		if _, err := login(a, bearer(cred), t0); err != nil {
			t.Fatal(err)
		}
	}
	secrets := []string{demoKey, batchKey, goodKey[14:], pepperedKey[14:], goodStoredKey[14:], rsaToken(nil)}
	seen := map[uintptr]bool{}
	var walk func(v reflect.Value, path string)
	check := func(s, path string) {
		for _, secret := range secrets {
			if strings.Contains(s, secret) {
				t.Errorf("%s holds a credential", path)
			}
		}
	}
	walk = func(v reflect.Value, path string) {
		switch v.Kind() {
		case reflect.Pointer:
			if v.IsNil() || seen[v.Pointer()] {
				return
			}
			seen[v.Pointer()] = true
			walk(v.Elem(), path)
		case reflect.Interface:
			if !v.IsNil() {
				walk(v.Elem(), path)
			}
		case reflect.String:
			check(v.String(), path)
		case reflect.Slice, reflect.Array:
			if v.Type().Elem().Kind() == reflect.Uint8 {
				var text strings.Builder
				for i := range v.Len() {
					text.WriteByte(byte(v.Index(i).Uint()))
				}
				check(text.String(), path)
				return
			}
			for i := range v.Len() {
				walk(v.Index(i), path+"[]")
			}
		case reflect.Map:
			for it := v.MapRange(); it.Next(); {
				walk(it.Key(), path+" key")
				walk(it.Value(), path+" value")
			}
		case reflect.Struct:
			for i := range v.NumField() {
				walk(v.Field(i), path+"."+v.Type().Field(i).Name)
			}
		}
	}
	walk(reflect.ValueOf(a), "Authenticator")
	walk(reflect.ValueOf(a.stored.load()), "StoredKeys")
	for name, m := range map[string]any{"keys": a.keys, "stored": a.stored.load().lookup} {
		if got := reflect.TypeOf(m).Key(); got != reflect.TypeOf(digest{}) {
			t.Errorf("%s is looked up by %v", name, got)
		}
	}
	for _, s := range []string{fmt.Sprint(a.pepper), fmt.Sprintf("%+v %#v %s", a.pepper, a.pepper, a.pepper)} {
		if strings.Contains(s, "thirty") {
			t.Errorf("the pepper prints as %s", s)
		}
	}
}

// TestAllowedCIDRs: who the address is not of one of the networks, or not known, gets 403.
func TestAllowedCIDRs(t *testing.T) {
	cfg := testConfig()
	cfg.Keys = append(cfg.Keys, Key{Namespace: "default", Name: "bound", Consumer: "demo", Hash: sha256.Sum256([]byte(boundKeyV)),
		AllowedCIDRs: []string{"10.1.2.3/16", "2001:db8::/32", "192.0.2.7/32"}})
	a := newAuthenticator(t, cfg, nil)
	for source, want := range map[string]bool{
		"10.1.0.0": true, "10.1.255.255": true, "10.2.0.0": false, "::ffff:10.1.9.9": true, "::ffff:10.2.0.1": false,
		"2001:db8::1": true, "2001:db8:ffff::": true, "2001:db9::": false, "2001:db8::1%eth0": true,
		"192.0.2.7": true, "192.0.2.8": false, "127.0.0.1": false, "::1": false, "": false,
	} {
		var addr netip.Addr
		if source != "" {
			addr = netip.MustParseAddr(source)
		}
		id, err := a.Authenticate(t.Context(), bearer(boundKeyV), addr, t0)
		if want {
			if err != nil {
				t.Errorf("%s: %v", source, err)
			}
			continue
		}
		mustRefuse(t, id, err, 403, CodeAddress)
		says := "from the address " + addr.Unmap().String()
		if source == "" {
			says = "is not known"
		}
		if !strings.Contains(err.Message, says) {
			t.Errorf("message %q does not say %q", err.Message, says)
		}
		// A key without networks works from everywhere.
		if _, err := a.Authenticate(t.Context(), bearer(demoKey), addr, t0); err != nil {
			t.Errorf("%q: %v", source, err)
		}
	}
}

// TestScopesClaim: where the configuration names a claim, that one counts and no other.
func TestScopesClaim(t *testing.T) {
	cfg := testConfig()
	cfg.Issuers[0].Claims.Scopes = "realm.roles"
	cfg.Issuers[0].RequiredScopes = []string{"llm"}
	a := newAuthenticator(t, cfg, nil)
	for name, c := range map[string]struct {
		claims object
		status int
		scopes []string
	}{
		"list":           {object{"realm": object{"roles": []string{"b", "llm"}}}, 200, []string{"b", "llm"}},
		"words":          {object{"realm": object{"roles": "llm  a"}}, 200, []string{"a", "llm"}},
		"absent":         {object{"scope": "llm", "scp": []string{"llm"}}, 403, nil},
		"beside scope":   {object{"scope": "other", "realm": object{"roles": "llm"}}, 200, []string{"llm"}},
		"a number":       {object{"realm": object{"roles": 5}}, 401, nil},
		"a mixed list":   {object{"realm": object{"roles": []any{"llm", 1}}}, 401, nil},
		"null":           {object{"realm": object{"roles": nil}}, 401, nil},
		"an empty list":  {object{"realm": object{"roles": []string{}}}, 403, nil},
		"a longer scope": {object{"realm": object{"roles": "llm2"}}, 403, nil},
	} {
		id, err := login(a, bearer(rsaToken(c.claims)), t0)
		switch {
		case c.status == 200 && (err != nil || !slices.Equal(id.Scopes, c.scopes)):
			t.Errorf("%s: %+v, %v", name, id, err)
		case c.status != 200 && (err == nil || err.HTTPStatus() != c.status):
			t.Errorf("%s: %+v, %v; want %d", name, id, err, c.status)
		}
	}
}

// TestGenerateKey: the form, and that every character is equally likely.
func TestGenerateKey(t *testing.T) {
	counts := map[rune]int{}
	seen := map[string]bool{}
	const rounds = 2000
	for range rounds {
		key, prefix, err := GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if len(key) != 5+8+1+43 || !strings.HasPrefix(key, prefix+"_") || len(prefix) != 13 || seen[key] || seen[prefix] {
			t.Fatalf("key %q, prefix %q", key, prefix)
		}
		if err := ValidateKey(key); err != nil {
			t.Fatal(err)
		}
		seen[key], seen[prefix] = true, true
		for _, c := range key[14:] {
			counts[c]++
		}
	}
	mean := float64(rounds*43) / 62
	for _, c := range keyAlphabet {
		if n := float64(counts[c]); n < mean*0.85 || n > mean*1.15 { // 5.6 standard deviations
			t.Errorf("%c occurs %v times, want about %v", c, n, mean)
		}
	}
	if _, _, err := GenerateKey(strings.NewReader("short")); err == nil {
		t.Error("a key without randomness")
	}
	// Bytes that would favour some characters are left out.
	key, _, err := GenerateKey(strings.NewReader(strings.Repeat("\xff\xf8\x00", 64)))
	if err != nil || strings.Trim(key, "weir_0") != "" {
		t.Errorf("key %q, %v", key, err)
	}
}

func TestExpiresWithPepper(t *testing.T) {
	a := newAuthenticator(t, attackConfig(), nil)
	if id, err := login(a, bearer(pepperedKey), t0.Add(1000*time.Hour)); err != nil || id.KeyID != "default/key:peppered" {
		t.Errorf("%+v, %v", id, err)
	}
	cfg := attackConfig()
	cfg.Pepper, _ = NewPepper([]byte(pepperSecret + "!"))
	id, err := login(newAuthenticator(t, cfg, nil), bearer(pepperedKey), t0)
	mustRefuse(t, id, err, 401, CodeInvalidKey)
}
