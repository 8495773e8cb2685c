package identity

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestKeys: every way to send a key leads to the same identity.
func TestKeys(t *testing.T) {
	a := newAuthenticator(t, testConfig(), nil)
	want := &Identity{
		Consumer: "batch", Namespace: "default", Tenant: "research", Labels: map[string]string{"tier": "gold", "team": "nlp"},
		Scopes: []string{"admin", "chat", "files"}, Credential: "key:batch-1",
		ConsumerID: "default/batch", CredentialID: "default/key:batch-1", KeyID: "default/key:batch-1",
	}
	for name, h := range map[string]Headers{
		"bearer":            bearer(batchKey),
		"lower case scheme": headers("authorization", "bearer "+batchKey),
		"upper case scheme": headers("Authorization", "BEARER "+batchKey),
		"several spaces":    headers("authorization", "Bearer   "+batchKey),
		"ApiKey":            headers("authorization", "ApiKey "+batchKey),
		"apikey":            headers("authorization", "apikey "+batchKey),
		"x-api-key":         headers("x-api-key", batchKey),
		"api-key":           headers("api-key", batchKey),
		"x-goog-api-key":    headers("x-goog-api-key", batchKey),
		"the same in two":   headers("authorization", "Bearer "+batchKey, "x-api-key", batchKey),
		"the same in all":   headers("x-api-key", batchKey, "api-key", batchKey, "x-goog-api-key", batchKey, "authorization", "ApiKey "+batchKey),
		"beside others":     headers("host", "x", "x-api-kez", "y", "x-api-key", batchKey),
	} {
		t.Run(name, func(t *testing.T) {
			id, err := login(a, h, t0)
			if err != nil {
				t.Fatal(err)
			}
			got := *id
			got.Models = nil
			if !reflect.DeepEqual(&got, want) {
				t.Errorf("got %+v, want %+v", got, *want)
			}
			again, _ := login(a, h, t0)
			if again != id {
				t.Error("the identity of a key is not shared")
			}
		})
	}
}

func TestHeadersAdd(t *testing.T) {
	var h Headers
	for name, want := range map[string]bool{
		"authorization": true, "Authorization": true, "x-api-key": true, "API-KEY": true, "x-goog-api-key": true,
		"proxy-authorization": false, "cookie": false, "": false, "x-api-kex": false, "authorisation": false,
	} {
		if got := h.Add(name, "v"); got != want {
			t.Errorf("Add(%q) = %t", name, got)
		}
	}
}

// TestKeyExpiry: the end is exclusive and read from the request's time.
func TestKeyExpiry(t *testing.T) {
	a := newAuthenticator(t, testConfig(), nil)
	if _, err := login(a, bearer(batchKey), t0.Add(time.Hour-time.Nanosecond)); err != nil {
		t.Errorf("before the end: %v", err)
	}
	id, err := login(a, bearer(batchKey), t0.Add(time.Hour))
	mustRefuse(t, id, err, 401, CodeInvalidKey)
	if !strings.Contains(err.Message, "expired") {
		t.Errorf("message %q does not say that the key has expired", err.Message)
	}
}

func TestMayUse(t *testing.T) {
	a := newAuthenticator(t, testConfig(), nil)
	batch, _ := login(a, bearer(batchKey), t0) // gpt-*, claude-* and *-mini, claude-*
	demo, _ := login(a, bearer(demoKey), t0)   // any
	token, err := login(a, bearer(rsaToken(object{"sub": "batch", "models": []string{"gpt-5-*", "o1"}})), t0)
	if err != nil {
		t.Fatal(err)
	}
	nothing, err := login(a, bearer(rsaToken(object{"models": []string{}})), t0)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		id    *Identity
		model string
		want  bool
	}{
		{batch, "gpt-5-mini", true}, {batch, "gpt-5", false}, {batch, "o1-mini", false}, {batch, "claude-x", true}, {batch, "", false},
		{demo, "anything", true}, {demo, "", true},
		{token, "gpt-5-mini", true}, {token, "gpt-5", false}, {token, "o1", false}, {token, "claude-x", false},
		{nothing, "gpt-5", false}, {nothing, "", false},
	} {
		if got := c.id.MayUse(c.model); got != c.want {
			t.Errorf("%s: MayUse(%q) = %t", c.id.Consumer, c.model, got)
		}
	}
}

func TestHasScopes(t *testing.T) {
	id := &Identity{Scopes: sortedSet([]string{"b", "a"}, []string{"c", "a"})}
	if !slices.Equal(id.Scopes, []string{"a", "b", "c"}) {
		t.Fatalf("scopes %v", id.Scopes)
	}
	for _, c := range []struct {
		required []string
		missing  string
	}{{nil, ""}, {[]string{"a", "c"}, ""}, {[]string{"a", "d", "e"}, "d"}, {[]string{"A"}, "A"}} {
		if missing, ok := id.HasScopes(c.required); missing != c.missing || ok != (c.missing == "") {
			t.Errorf("HasScopes(%v) = %q, %t", c.required, missing, ok)
		}
	}
}

// TestAlgorithms: a happy path for each algorithm, with the kid and without.
func TestAlgorithms(t *testing.T) {
	k := keysOnce()
	a := newAuthenticator(t, testConfig(), nil)
	for _, c := range []struct {
		alg, kid string
		key      any
	}{
		{"RS256", "r", k.rsa}, {"RS384", "r", k.rsa}, {"RS512", "r", k.rsa}, {"PS256", "r", k.rsa}, {"PS384", "r", k.rsa}, {"PS512", "r", k.rsa},
		{"ES256", "e256", k.p256}, {"ES384", "e384", k.p384}, {"ES512", "e521", k.p521}, {"EdDSA", "ed", k.ed},
		{"HS256", "", []byte(hmacSecret)}, {"HS384", "", []byte(hmacSecret)}, {"HS512", "any", []byte(hmacSecret)},
	} {
		iss := manyIssuer
		if strings.HasPrefix(c.alg, "HS") {
			iss = hmacIssuer
		}
		for _, header := range []object{{"alg": c.alg, "kid": c.kid}, {"alg": c.alg}, {"alg": c.alg, "typ": "at+JWT"}, {"alg": c.alg, "typ": "application/at+jwt"}} {
			id, err := login(a, bearer(mint(header, goodClaims(iss, object{"scope": "x llm"}), signWith(c.alg, c.key))), t0)
			if err != nil {
				t.Errorf("%v: %v", header, err)
				continue
			}
			if id.Consumer != "alice" || id.Tenant != "default" || id.Credential != "jwt:"+iss || !slices.Equal(id.Scopes, []string{"llm", "x"}) {
				t.Errorf("%v: %+v", header, id)
			}
		}
	}
}

// TestTokens: what is still right at the edges, and what the claims say.
func TestTokens(t *testing.T) {
	a := newAuthenticator(t, testConfig(), nil)
	now := t0.Unix()
	labels := func(kv ...string) map[string]string {
		m := map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i]] = kv[i+1]
		}
		return m
	}
	for _, c := range []struct {
		name   string
		change object
		want   Identity
	}{
		{"plain", nil, Identity{Consumer: "alice", Tenant: "default"}},
		{"exp within the leeway", object{"exp": now - 29}, Identity{Consumer: "alice", Tenant: "default"}},
		{"nbf within the leeway", object{"nbf": now + 30}, Identity{Consumer: "alice", Tenant: "default"}},
		{"iat within the leeway", object{"iat": now + 30}, Identity{Consumer: "alice", Tenant: "default"}},
		{"no iat", object{"iat": nil}, Identity{Consumer: "alice", Tenant: "default"}},
		{"fractions of a second", object{"exp": json.RawMessage(fmt.Sprintf("%d.5", now+5))}, Identity{Consumer: "alice", Tenant: "default"}},
		{"one of two audiences", object{"aud": []string{"x", "weir-2"}}, Identity{Consumer: "alice", Tenant: "default"}},
		{"name with punctuation", object{"sub": "auth0|1234:a b@c.example"}, Identity{Consumer: "auth0|1234:a b@c.example", Tenant: "default"}},
		{"a Consumer", object{"sub": "batch"}, Identity{Consumer: "batch", Tenant: "research", Labels: labels("tier", "gold", "team", "nlp"), Scopes: []string{"admin", "chat"}}},
		{"tenant claim wins", object{"sub": "batch", "org": object{"tenant": "ops"}},
			Identity{Consumer: "batch", Tenant: "ops", Labels: labels("tier", "gold", "team", "nlp"), Scopes: []string{"admin", "chat"}}},
		{"tenant claim by its very name", object{"org.tenant": "flat", "org": object{"tenant": "deep"}}, Identity{Consumer: "alice", Tenant: "flat"}},
		{"tenant path into a string", object{"org": "x"}, Identity{Consumer: "alice", Tenant: "default"}},
		{"label claims win", object{"sub": "batch", "https://x.example/tier": "silver", "env": "prod"},
			Identity{Consumer: "batch", Tenant: "research", Labels: labels("tier", "silver", "team", "nlp", "env", "prod"), Scopes: []string{"admin", "chat"}}},
		{"labels without a Consumer", object{"env": "prod"}, Identity{Consumer: "alice", Tenant: "default", Labels: labels("env", "prod")}},
		{"scope string", object{"scope": "b  a a", "scp": "ignored"}, Identity{Consumer: "alice", Tenant: "default", Scopes: []string{"a", "b"}}},
		{"scp string", object{"scp": "b a"}, Identity{Consumer: "alice", Tenant: "default", Scopes: []string{"a", "b"}}},
		{"scp list", object{"scp": []string{"b", "a"}}, Identity{Consumer: "alice", Tenant: "default", Scopes: []string{"a", "b"}}},
		{"scopes join the Consumer's", object{"sub": "batch", "scope": "chat new"},
			Identity{Consumer: "batch", Tenant: "research", Labels: labels("tier", "gold", "team", "nlp"), Scopes: []string{"admin", "chat", "new"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			id, err := login(a, bearer(rsaToken(c.change)), t0)
			if err != nil {
				t.Fatal(err)
			}
			got := *id
			got.Models = nil
			if len(got.Scopes) == 0 {
				got.Scopes = nil
			}
			c.want.Namespace, c.want.Credential = "default", "jwt:"+rsaIssuer
			c.want.ConsumerID, c.want.CredentialID = "default/"+c.want.Consumer, "default/jwt:"+rsaIssuer
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
	// The labels of the Consumer are shared; a token's must not have got into them.
	id, _ := login(a, bearer(batchKey), t0)
	if !reflect.DeepEqual(id.Labels, labels("tier", "gold", "team", "nlp")) {
		t.Errorf("the Consumer's labels are now %v", id.Labels)
	}
}

// TestTokenShapedKey: a key that is stored is a key, whatever it looks like, and tokens work in any header.
func TestTokenShapedKey(t *testing.T) {
	cfg := testConfig()
	odd := mint(object{"alg": "none"}, object{}, func(string) []byte { return nil })
	cfg.Keys = append(cfg.Keys, Key{Namespace: "default", Name: "odd", Consumer: "demo", Hash: sha256.Sum256([]byte(odd))})
	a := newAuthenticator(t, cfg, nil)
	if id, err := login(a, bearer(odd), t0); err != nil || id.Credential != "key:odd" {
		t.Errorf("%+v, %v", id, err)
	}
	if id, err := login(a, headers("x-api-key", rsaToken(nil)), t0); err != nil || id.Consumer != "alice" {
		t.Errorf("token in x-api-key: %+v, %v", id, err)
	}
}

// TestSharedIss: two issuers of one iss are told apart by aud, and each verifies with its own keys.
func TestSharedIss(t *testing.T) {
	k := keysOnce()
	cfg := Config{Issuers: []Issuer{
		{Namespace: "one", Name: "i", Issuer: rsaIssuer, Audiences: []string{"a"}, Algorithms: []string{"RS256"}, Keys: IssuerKeys{JWKS: jwks(jwk("r1", &k.rsa.PublicKey, nil))}},
		{Namespace: "two", Name: "i", Issuer: rsaIssuer, Audiences: []string{"b"}, Algorithms: []string{"RS256"}, Keys: IssuerKeys{JWKS: jwks(jwk("r1", &k.otherRSA.PublicKey, nil))}},
	}}
	a := newAuthenticator(t, cfg, nil)
	header := object{"alg": "RS256", "kid": "r1"}
	one, two := signWith("RS256", k.rsa), signWith("RS256", k.otherRSA)
	for _, c := range []struct {
		aud       any
		sign      signer
		namespace string // "": refused
	}{
		{"a", one, "one"}, {"b", two, "two"}, {"a", two, ""}, {"b", one, ""},
		{[]string{"a", "b"}, one, "one"}, {[]string{"a", "b"}, two, "two"}, {"c", one, ""},
	} {
		id, err := login(a, bearer(mint(header, goodClaims(rsaIssuer, object{"aud": c.aud}), c.sign)), t0)
		if c.namespace == "" {
			mustRefuse(t, id, err, 401, CodeInvalidToken)
		} else if err != nil || id.Namespace != c.namespace {
			t.Errorf("aud %v: %+v, %v", c.aud, id, err)
		}
	}
}

func TestChallenge(t *testing.T) {
	a := newAuthenticator(t, testConfig(), nil)
	_, missing := login(a, Headers{}, t0)
	_, basic := login(a, headers("authorization", "Basic eDp5"), t0)
	_, unknown := login(a, bearer("unknown-key-0123456789"), t0)
	_, scope := login(a, bearer(mint(object{"alg": "EdDSA"}, goodClaims(manyIssuer, nil), signWith("EdDSA", keysOnce().ed))), t0)
	for got, want := range map[string]string{
		Challenge(nil):     "",
		Challenge(missing): `Bearer realm="weir"`,
		Challenge(basic):   `Bearer realm="weir"`,
		Challenge(unknown): `Bearer realm="weir", error="invalid_token", error_description="The API key is not valid."`,
		Challenge(scope): `Bearer realm="weir", error="insufficient_scope", ` +
			`error_description="The credential lacks the scope 'llm', which this request needs.", scope="llm"`,
		Challenge(keysUnavailable("x", 1)):        "",
		Challenge(badToken("a \"quote\\\" \n é")): `Bearer realm="weir", error="invalid_token", error_description="The token is refused: a 'quote'' ? ?."`,
		Challenge(InsufficientScope("b", []string{"a", "b"})): `Bearer realm="weir", error="insufficient_scope", ` +
			`error_description="The credential lacks the scope 'b', which this request needs.", scope="a b"`,
	} {
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// TestConfigErrors: each bad object is named and left out; the others work.
func TestConfigErrors(t *testing.T) {
	k := keysOnce()
	file := IssuerKeys{JWKS: jwks(jwk("r", &k.rsa.PublicKey, nil))}
	good := Issuer{Namespace: "n", Name: "bad", Issuer: "https://new.example", Audiences: []string{"a"}, Algorithms: []string{"RS256"}, Keys: file}
	issuerWith := func(change func(*Issuer)) Config {
		i := good
		change(&i)
		return Config{Issuers: []Issuer{i}}
	}
	hash := sha256.Sum256([]byte("x"))
	for _, c := range []struct {
		name, want string
		cfg        Config
	}{
		{"consumer twice", "Consumer n/bad: a Consumer of this name exists already", Config{Consumers: []Consumer{{Namespace: "n", Name: "bad"}, {Namespace: "n", Name: "bad"}}}},
		{"tenant", "Consumer n/bad: spec.tenant: a tenant has", Config{Consumers: []Consumer{{Namespace: "n", Name: "bad", Tenant: "-a"}}}},
		{"consumer scope", "spec.scopes: a scope has", Config{Consumers: []Consumer{{Namespace: "n", Name: "bad", Scopes: []string{"a b"}}}}},
		{"consumer model", "spec.allowedModels: a model name", Config{Consumers: []Consumer{{Namespace: "n", Name: "bad", AllowedModels: []string{""}}}}},
		{"no consumer", `APIKey n/bad: spec.consumer: there is no valid Consumer "x" in namespace "n"`, Config{Keys: []Key{{Namespace: "n", Name: "bad", Consumer: "x", Hash: hash}}}},
		{"consumer of another namespace", `APIKey n/bad: spec.consumer`, Config{Consumers: []Consumer{{Namespace: "m", Name: "x"}}, Keys: []Key{{Namespace: "n", Name: "bad", Consumer: "x", Hash: hash}}}},
		{"no hash", "APIKey n/bad: spec.hash: the hash is empty", Config{Consumers: []Consumer{{Namespace: "n", Name: "x"}}, Keys: []Key{{Namespace: "n", Name: "bad", Consumer: "x"}}}},
		{"hash twice", "APIKey n/bad: spec.hash: another APIKey", Config{Consumers: []Consumer{{Namespace: "n", Name: "x"}},
			Keys: []Key{{Namespace: "n", Name: "good", Consumer: "x", Hash: hash}, {Namespace: "n", Name: "bad", Consumer: "x", Hash: hash}}}},
		{"key scope", "APIKey n/bad: spec.scopes", Config{Consumers: []Consumer{{Namespace: "n", Name: "x"}}, Keys: []Key{{Namespace: "n", Name: "bad", Consumer: "x", Hash: hash, Scopes: []string{`"`}}}}},
		{"key model", "APIKey n/bad: spec.allowedModels", Config{Consumers: []Consumer{{Namespace: "n", Name: "x"}}, Keys: []Key{{Namespace: "n", Name: "bad", Consumer: "x", Hash: hash, AllowedModels: []string{"a\n"}}}}},
		{"no issuer", "JWTIssuer n/bad: spec.issuer", issuerWith(func(i *Issuer) { i.Issuer = "" })},
		{"no audience", "spec.audiences: give at least one", issuerWith(func(i *Issuer) { i.Audiences = nil })},
		{"empty audience", "spec.audiences: give at least one", issuerWith(func(i *Issuer) { i.Audiences = []string{"a", ""} })},
		{"no algorithm", "spec.algorithms: give at least one", issuerWith(func(i *Issuer) { i.Algorithms = nil })},
		{"algorithm none", `spec.algorithms: "none" is not one of`, issuerWith(func(i *Issuer) { i.Algorithms = []string{"RS256", "none"} })},
		{"mixed algorithms", "spec.algorithms: they must be all", issuerWith(func(i *Issuer) { i.Algorithms = []string{"RS256", "HS256"} })},
		{"HS with public keys", "spec.keys: HS256", issuerWith(func(i *Issuer) { i.Algorithms = []string{"HS256"} })},
		{"RS with a secret", "spec.keys: HS256", issuerWith(func(i *Issuer) { i.Keys = IssuerKeys{Secret: []byte(hmacSecret)} })},
		{"short secret", "spec.keys.secretRef: the shared secret has 31 bytes", issuerWith(func(i *Issuer) {
			i.Algorithms, i.Keys = []string{"HS256"}, IssuerKeys{Secret: []byte(hmacSecret)[:31]}
		})},
		{"no keys", "spec.keys: give exactly one", issuerWith(func(i *Issuer) { i.Keys = IssuerKeys{} })},
		{"two key sources", "spec.keys: give exactly one", issuerWith(func(i *Issuer) { i.Keys.URL = "https://x" })},
		{"bad file", "spec.keys.file: the document is not a JWKS", issuerWith(func(i *Issuer) { i.Keys.JWKS = []byte("{}") })},
		{"file without a usable key", "spec.keys.file: the document holds no usable key: key 0", issuerWith(func(i *Issuer) { i.Keys.JWKS = jwks(jwk("s", &k.smallRSA.PublicKey, nil)) })},
		{"discovery without a source", "spec.keys.discovery: key sets cannot be fetched", issuerWith(func(i *Issuer) { i.Keys = IssuerKeys{Discovery: true} })},
		{"discovery and a file", "spec.keys: give exactly one", issuerWith(func(i *Issuer) { i.Keys.Discovery = true })},
		{"hash with a pepper and no pepper", "APIKey n/bad: spec.hash: the hash is made with a pepper", Config{Consumers: []Consumer{{Namespace: "n", Name: "x"}},
			Keys: []Key{{Namespace: "n", Name: "bad", Consumer: "x", Hash: hash, Kind: HashHMAC}}}},
		{"address instead of a network", `APIKey n/bad: spec.allowedCIDRs: "10.0.0.1" is no network`, Config{Consumers: []Consumer{{Namespace: "n", Name: "x"}},
			Keys: []Key{{Namespace: "n", Name: "bad", Consumer: "x", Hash: hash, AllowedCIDRs: []string{"10.0.0.0/8", "10.0.0.1"}}}}},
		{"mapped network", "APIKey n/bad: spec.allowedCIDRs", Config{Consumers: []Consumer{{Namespace: "n", Name: "x"}},
			Keys: []Key{{Namespace: "n", Name: "bad", Consumer: "x", Hash: hash, AllowedCIDRs: []string{"::ffff:10.0.0.0/104"}}}}},
		{"rate", "APIKey n/bad: spec.requestsPerMinute", Config{Consumers: []Consumer{{Namespace: "n", Name: "x"}},
			Keys: []Key{{Namespace: "n", Name: "bad", Consumer: "x", Hash: hash, RequestsPerMinute: -1}}}},
		{"URL without a source", "spec.keys.url: key sets cannot be fetched", issuerWith(func(i *Issuer) { i.Keys = IssuerKeys{URL: "https://x"} })},
		{"leeway", "spec.leeway: it is negative", issuerWith(func(i *Issuer) { i.Leeway = -1 })},
		{"required scope", "spec.requiredScopes: a scope has", issuerWith(func(i *Issuer) { i.RequiredScopes = []string{`a"`} })},
		{"iss and audience taken", `spec.audiences: JWTIssuer default/rsa has the same issuer with the audience "weir-2"`, issuerWith(func(i *Issuer) {
			i.Issuer, i.Audiences = rsaIssuer, []string{"x", "weir-2"}
		})},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := testConfig()
			cfg.Consumers = append(cfg.Consumers, c.cfg.Consumers...)
			cfg.Keys = append(cfg.Keys, c.cfg.Keys...)
			cfg.Issuers = append(cfg.Issuers, c.cfg.Issuers...)
			a, errs := New(cfg, nil)
			if len(errs) != 1 {
				t.Fatalf("errors %v, want one", errs)
			}
			var ce *ConfigError
			if !errors.As(errs[0], &ce) || ce.Namespace != "n" || ce.Name != "bad" {
				t.Errorf("error %#v does not name the object", errs[0])
			}
			if !strings.Contains(errs[0].Error(), c.want) {
				t.Errorf("error %q does not say %q", errs[0], c.want)
			}
			for _, cred := range []string{demoKey, rsaToken(nil)} {
				if _, err := login(a, bearer(cred), t0); err != nil {
					t.Errorf("the sound objects do not work: %v", err)
				}
			}
		})
	}
}

// TestConfigIsCopied: what the caller does to the configuration afterwards changes nothing.
func TestConfigIsCopied(t *testing.T) {
	cfg := testConfig()
	a := newAuthenticator(t, cfg, nil)
	cfg.Consumers[1].Labels["tier"] = "changed"
	cfg.Issuers[0].Algorithms[0] = "none"
	cfg.Issuers[0].Audiences[0] = "changed"
	cfg.Issuers[0].Claims.Labels["env"] = "sub"
	clear(cfg.Issuers[2].Keys.Secret)
	id, err := login(a, bearer(batchKey), t0)
	if err != nil || id.Labels["tier"] != "gold" {
		t.Errorf("%+v, %v", id, err)
	}
	id, err = login(a, bearer(rsaToken(nil)), t0)
	if err != nil || id.Labels["env"] != "" {
		t.Errorf("%+v, %v", id, err)
	}
	if _, err := login(a, bearer(hmacToken(nil)), t0); err != nil {
		t.Error(err)
	}
}

// TestConcurrent runs everything at once, for the race detector, with more tokens than a shard of the cache holds.
func TestConcurrent(t *testing.T) {
	a := newAuthenticator(t, testConfig(), nil)
	tokens := make([]string, 300)
	for i := range tokens {
		tokens[i] = hmacToken(object{"sub": fmt.Sprintf("user-%d", i)})
	}
	bad := hmacToken(object{"aud": "other"})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 2 * len(tokens) {
				n := (i*7 + g*31) % len(tokens)
				id, err := login(a, bearer(tokens[n]), t0)
				if err != nil || id.Consumer != fmt.Sprintf("user-%d", n) {
					t.Errorf("token %d: %+v, %v", n, id, err)
					return
				}
				if id, err := login(a, bearer(batchKey), t0); err != nil || !id.MayUse("claude-x") {
					t.Errorf("key: %+v, %v", id, err)
					return
				}
				if id, err := login(a, bearer(bad), t0); err == nil {
					t.Errorf("a bad token is let in: %+v", id)
					return
				}
			}
		})
	}
	wg.Wait()
}
