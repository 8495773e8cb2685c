package identity

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Config is everything an Authenticator knows. Where two entries claim the same thing (a key hash, an
// issuer with an audience), the earlier one has it and the later one is reported.
type Config struct {
	Consumers []Consumer
	Keys      []Key
	Issuers   []Issuer
	// Pepper of the keys whose hash is of the kind HashHMAC. nil: such keys are errors.
	Pepper *Pepper
	// MaxFailedLogins from one address in a minute, before it must wait; 0: no limit.
	MaxFailedLogins int
	Shared
}

// Shared is what outlives a configuration. Every part may be nil.
type Shared struct {
	// Stored keys count beside Config.Keys. nil: there are none.
	Stored *StoredKeys
	// Throttle remembers the addresses that Config.MaxFailedLogins is about. nil: no limit.
	Throttle *Throttle
	// Refused is called for each request that is not let in. It must not block.
	Refused func(Reason)
}

// Consumer is an application or a team.
type Consumer struct {
	Namespace, Name string
	Tenant          string            // empty: the namespace
	Labels          map[string]string // copied
	AllowedModels   []string          // names, or patterns with "*"; empty: any
	Scopes          []string          // of every credential of the consumer
}

// Issuer is an identity provider. Two entries may name the same iss only with different audiences: the
// aud claim then tells which of them a token is for. A token with audiences of both is tried with each, in
// the order of the configuration.
type Issuer struct {
	Namespace, Name string
	Issuer          string   // exact value of the iss claim
	Audiences       []string // one of them must be in the aud claim
	Algorithms      []string // all symmetric (HS...) or all asymmetric
	Keys            IssuerKeys
	RequiredScopes  []string // of the scope (or scp) claim
	Claims          ClaimMap
	Leeway          time.Duration // for exp, nbf and iat
}

// IssuerKeys says where the signing keys are: exactly one of URL, Discovery, JWKS and Secret is set.
type IssuerKeys struct {
	URL       string // of a JWKS document, fetched by the KeySource
	Discovery bool   // the KeySource finds that URL in the issuer's OpenID configuration
	JWKS      []byte // content of a JWKS document
	Secret    []byte // shared secret of HS256, HS384, HS512: at least 32 bytes
	// KeepFor is how long keys that were fetched stay good when they cannot be fetched again. 0: JWKSOptions.KeepFor.
	KeepFor time.Duration
}

// ClaimMap names the claims that say who the caller is. A claim with the very name wins; else a dot reaches
// into an object.
type ClaimMap struct {
	Consumer      string            // empty: sub
	Tenant        string            // empty, or the claim absent: the Consumer's, else the namespace
	AllowedModels string            // a list of names or patterns; an empty list allows no model
	Scopes        string            // a list, or words in a string; empty: scope, or else scp
	Labels        map[string]string // label name to claim; wins over the Consumer's label
}

// ConfigError says which object of a Config was left out, and why.
type ConfigError struct {
	Kind, Namespace, Name string // "APIKey", "default", "batch"
	Field                 string // path under spec; "" for the object
	Reason                string // a sentence without the final dot; never a secret
	Conflict              bool   // the object is right by itself, and contradicts one that came before it
}

// Error makes *ConfigError a Go error.
func (e *ConfigError) Error() string {
	where := e.Kind + " " + e.Namespace + "/" + e.Name
	if e.Field != "" {
		where += ": spec." + e.Field
	}
	return where + ": " + e.Reason
}

// objectID names an object within its kind.
type objectID struct{ namespace, name string }

// consumer is a compiled Consumer.
type consumer struct {
	Consumer
	models []*Patterns // none or one
}

// New compiles a configuration. It always returns an Authenticator, for what is sound; each error is a *ConfigError
// about an object that was left out, so that one bad object does not lock everybody out.
// keys may be nil where no issuer's keys are fetched. The Authenticator is safe for concurrent use.
func New(cfg Config, keys KeySource) (*Authenticator, []error) {
	a := &Authenticator{
		keys:      make(map[digest]*apiKey, len(cfg.Keys)),
		names:     make(map[objectID]bool, len(cfg.Keys)),
		pepper:    cfg.Pepper,
		consumers: make(map[objectID]*consumer, len(cfg.Consumers)),
		issuers:   make(map[string][]*issuer, len(cfg.Issuers)),
		stored:    cfg.Stored,
		throttle:  cfg.Throttle,
		maxFailed: cfg.MaxFailedLogins,
		refused:   cfg.Refused,
	}
	var errs []error
	note := func(err *ConfigError, kind, namespace, name string) {
		if err != nil {
			err.Kind, err.Namespace, err.Name = kind, namespace, name
			errs = append(errs, err)
		}
	}
	for _, c := range cfg.Consumers {
		note(a.addConsumer(c), "Consumer", c.Namespace, c.Name)
	}
	for _, k := range cfg.Keys {
		note(a.addKey(k), "APIKey", k.Namespace, k.Name)
	}
	for _, i := range cfg.Issuers {
		note(a.addIssuer(i, keys), "JWTIssuer", i.Namespace, i.Name)
	}
	return a, errs
}

// Watches asks for the keys of all issuers again, as New does, and says whether they are those that the Authenticator has: it may then serve
// another version of the configuration.
func (a *Authenticator) Watches(source KeySource) bool {
	for at, keys := range a.remotes {
		if again, err := source.Watch(at); err != nil || again != keys {
			return false
		}
	}
	return true
}

func (a *Authenticator) addConsumer(c Consumer) *ConfigError {
	id := objectID{c.Namespace, c.Name}
	if _, taken := a.consumers[id]; taken {
		return &ConfigError{Reason: "a Consumer of this name exists already; rename one", Conflict: true}
	}
	if c.Tenant == "" {
		c.Tenant = c.Namespace
	} else if !validTenant(c.Tenant) {
		return &ConfigError{Field: "tenant", Reason: tenantRule}
	}
	if err := checkScopes("scopes", c.Scopes); err != nil {
		return err
	}
	models, err := compileModels(c.AllowedModels)
	if err != nil {
		return err
	}
	c.Labels = maps.Clone(c.Labels)
	a.consumers[id] = &consumer{Consumer: c, models: models}
	return nil
}

func (a *Authenticator) addKey(k Key) *ConfigError {
	if _, taken := a.keys[digest{k.Kind, k.Hash}]; taken {
		return &ConfigError{Field: "hash", Reason: "another APIKey holds the same key; a key belongs to one APIKey", Conflict: true}
	}
	key, err := a.compileKey(&k)
	if err != nil {
		return err
	}
	a.keys[key.digest] = key
	a.kinds[k.Kind] = true
	a.names[objectID{k.Namespace, k.Name}] = true
	return nil
}

func (a *Authenticator) addIssuer(c Issuer, source KeySource) *ConfigError {
	if c.Issuer == "" {
		return &ConfigError{Field: "issuer", Reason: "it is empty; give the exact value of the iss claim"}
	}
	if len(c.Audiences) == 0 || slices.Contains(c.Audiences, "") {
		return &ConfigError{Field: "audiences", Reason: "give at least one audience and none that is empty; without it a token made for another service would be accepted"}
	}
	for _, other := range a.issuers[c.Issuer] {
		for _, aud := range c.Audiences {
			if slices.Contains(other.audiences, aud) {
				return &ConfigError{Field: "audiences", Conflict: true, Reason: fmt.Sprintf(
					"JWTIssuer %s/%s has the same issuer with the audience %q; give them different audiences", other.namespace, other.name, aud)}
			}
		}
	}
	if c.Leeway < 0 {
		return &ConfigError{Field: "leeway", Reason: "it is negative"}
	}
	if err := checkScopes("requiredScopes", c.RequiredScopes); err != nil {
		return err
	}
	symmetric, err := checkAlgorithms(c.Algorithms)
	if err != nil {
		return err
	}
	keys, url, err := issuerKeys(c.Issuer, c.Keys, symmetric, source)
	if err != nil {
		return err
	}
	if url != "" {
		a.urls = append(a.urls, url)
		if a.remotes == nil {
			a.remotes = map[KeyLocation]RemoteKeys{}
		}
		a.remotes[c.Keys.location(c.Issuer)] = keys
	}
	if c.Claims.Consumer == "" {
		c.Claims.Consumer = "sub"
	}
	c.Claims.Labels = maps.Clone(c.Claims.Labels)
	a.issuers[c.Issuer] = append(a.issuers[c.Issuer], &issuer{
		namespace: c.Namespace, name: c.Name, iss: c.Issuer,
		audiences: slices.Clone(c.Audiences), algorithms: slices.Clone(c.Algorithms),
		required: slices.Clone(c.RequiredScopes), claims: c.Claims, leeway: c.Leeway, keys: keys,
		credential: "jwt:" + c.Issuer, credentialID: c.Namespace + "/jwt:" + c.Issuer,
	})
	return nil
}

// location is where fetched keys are.
func (k *IssuerKeys) location(iss string) KeyLocation {
	at := KeyLocation{URL: k.URL, KeepFor: k.KeepFor}
	if k.Discovery {
		at.Issuer = iss
	}
	return at
}

// issuerKeys opens the one source of keys that is given, and tells the URL that it starts from, "" for none.
func issuerKeys(iss string, k IssuerKeys, symmetric bool, source KeySource) (_ RemoteKeys, url string, _ *ConfigError) {
	given := 0
	for _, set := range []bool{k.URL != "", k.Discovery, len(k.JWKS) > 0, len(k.Secret) > 0} {
		if set {
			given++
		}
	}
	switch {
	case given != 1:
		return nil, "", &ConfigError{Field: "keys", Reason: "give exactly one of a URL, discovery, a file that is not empty, a secret that is not empty"}
	case symmetric != (len(k.Secret) > 0):
		return nil, "", &ConfigError{Field: "keys", Reason: "HS256, HS384 and HS512 need a shared secret, and the other algorithms public keys (a URL, discovery or a file)"}
	case len(k.Secret) > 0:
		set, err := secretSet(k.Secret)
		if err != nil {
			return nil, "", &ConfigError{Field: "keys.secretRef", Reason: err.Error()}
		}
		return staticKeys{set}, "", nil
	case len(k.JWKS) > 0:
		set, err := ParseJWKS(k.JWKS)
		if err != nil {
			return nil, "", &ConfigError{Field: "keys.file", Reason: err.Error()}
		}
		if set.Len() == 0 {
			return nil, "", &ConfigError{Field: "keys.file", Reason: "the document holds no usable key: " + strings.Join(set.Skipped(), "; ")}
		}
		return staticKeys{set}, "", nil
	}
	at, field := k.location(iss), "keys.url"
	if k.Discovery {
		field = "keys.discovery"
	}
	if source == nil {
		return nil, "", &ConfigError{Field: field, Reason: "key sets cannot be fetched here; give a file"}
	}
	remote, err := source.Watch(at)
	if err != nil {
		return nil, "", &ConfigError{Field: field, Reason: err.Error()}
	}
	return remote, at.Document(), nil
}

func checkAlgorithms(algs []string) (symmetric bool, _ *ConfigError) {
	if len(algs) == 0 {
		return false, &ConfigError{Field: "algorithms", Reason: "give at least one"}
	}
	for i, alg := range algs {
		if signingMethod(alg) == nil {
			return false, &ConfigError{Field: "algorithms", Reason: fmt.Sprintf("%q is not one of HS, RS, ES, PS with 256, 384, 512, or EdDSA", alg)}
		}
		hs := strings.HasPrefix(alg, "HS")
		if i > 0 && hs != symmetric {
			return false, &ConfigError{Field: "algorithms", Reason: "they must be all symmetric (HS...) or all asymmetric"}
		}
		symmetric = hs
	}
	return symmetric, nil
}

func compileModels(list []string) ([]*Patterns, *ConfigError) {
	if len(list) == 0 {
		return nil, nil
	}
	p, err := NewPatterns(list)
	if err != nil {
		return nil, &ConfigError{Field: "allowedModels", Reason: err.Error()}
	}
	return []*Patterns{p}, nil
}

// checkScopes holds scopes to the characters of RFC 6749 section 3.3: with others the claim could never name them.
func checkScopes(field string, scopes []string) *ConfigError {
	for _, s := range scopes {
		if s == "" || !graphicASCII(s) || strings.ContainsAny(s, `"\`) {
			return &ConfigError{Field: field, Reason: `a scope has visible ASCII characters without space, " and \`}
		}
	}
	return nil
}

const tenantRule = "a tenant has 1 to 253 letters, digits, '-', '_' and '.', with a letter or digit at its ends"

// validTenant holds a tenant to the pattern of the API types; it becomes a metric label and a key of counters.
func validTenant(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || i == len(s)-1 || c != '-' && c != '_' && c != '.') {
			return false
		}
	}
	return true
}
