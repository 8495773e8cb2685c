package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/MicahParks/jwkset"
)

const (
	minSecretBytes = 32   // RFC 7518 section 3.2: as long as the hash of HS256
	minRSABits     = 2048 // RFC 7518 section 3.3
	maxRSABits     = 8192 // verifying takes time that grows with the square; TLS stacks stop here too
	maxSetKeys     = 256  // providers publish two to ten
	maxKeyIDShown  = 64   // bytes of a kid in reports
)

// KeyLocation says where an issuer publishes its keys.
type KeyLocation struct {
	URL     string        // of a JWKS document; or
	Issuer  string        // whose OpenID configuration names that URL
	KeepFor time.Duration // that keys stay good which cannot be fetched again; 0: the source's default
}

// KeySource fetches signing keys. JWKS is the one used in production.
type KeySource interface {
	// Watch starts keeping the keys of a location, or joins who keeps them already. It does not block.
	Watch(KeyLocation) (RemoteKeys, error)
}

// RemoteKeys is one issuer's current keys. Its methods are called on requests' paths, and are safe for concurrent use.
type RemoteKeys interface {
	// Current gives the newest keys that may be used at this time. The same pointer means the same keys.
	// nil where there are none, with the time until a retry makes sense. It does not block.
	Current(now time.Time) (set *KeySet, retry time.Duration)
	// Await asks for newer keys and waits: until fits likes them, or a fetch that began after the call has ended, or
	// waiting has no point. It reports whether the keys are now as the issuer publishes them. Many calls cause one
	// fetch, and fetches keep a distance.
	Await(ctx context.Context, fits func(*KeySet) bool) (sure bool)
}

// Offline is a KeySource that checks locations and never has keys, for validating a configuration.
type Offline struct{}

// Watch makes Offline a KeySource.
func (Offline) Watch(at KeyLocation) (RemoteKeys, error) {
	if err := at.check(); err != nil {
		return nil, err
	}
	return staticKeys{}, nil
}

// KeySet is an immutable set of verification keys.
type KeySet struct {
	byID    map[string][]verifyKey
	noID    []verifyKey // fit any kid
	count   int
	skipped []string
}

// verifyKey is a key with the algorithms it may verify. An RSA key never is an HMAC secret: the kinds are
// fixed when the key is read, not by what a token says.
type verifyKey struct {
	key  any // *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey or []byte
	algs []string
}

// Len is the number of usable keys.
func (s *KeySet) Len() int { return s.count }

// Skipped says, a sentence each, which keys of the document are not used and what was odd about others.
func (s *KeySet) Skipped() []string { return s.skipped }

// find lists the keys that may have made a signature. Without a kid, every key of the right kind may.
func (s *KeySet) find(kid, alg string) []any {
	var out []any
	add := func(keys []verifyKey) {
		for _, k := range keys {
			if slices.Contains(k.algs, alg) {
				out = append(out, k.key)
			}
		}
	}
	if kid != "" {
		add(s.byID[kid])
	} else {
		for _, keys := range s.byID {
			add(keys)
		}
	}
	add(s.noID)
	return out
}

func (s *KeySet) add(kid string, k verifyKey) {
	s.count++
	if kid == "" {
		s.noID = append(s.noID, k)
		return
	}
	if len(s.byID[kid]) > 0 {
		s.skipped = append(s.skipped, fmt.Sprintf("several keys have the kid %q; each is tried", shortened(kid)))
	}
	s.byID[kid] = append(s.byID[kid], k)
}

// secretSet holds one shared secret.
func secretSet(secret []byte) (*KeySet, error) {
	if len(secret) < minSecretBytes {
		return nil, fmt.Errorf("the shared secret has %d bytes and needs at least %d", len(secret), minSecretBytes)
	}
	s := &KeySet{}
	s.add("", verifyKey{key: slices.Clone(secret), algs: []string{"HS256", "HS384", "HS512"}})
	return s, nil
}

// ParseJWKS reads a JWKS document (RFC 7517 section 5). Keys that cannot serve (another purpose, an unknown type, too weak,
// symmetric, private) are left out and reported by Skipped; an empty set is no error, because
// an issuer may withdraw its keys.
func ParseJWKS(document []byte) (*KeySet, error) {
	var doc struct {
		Keys *[]json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(document, &doc); err != nil || doc.Keys == nil {
		return nil, errors.New(`the document is not a JWKS: a JSON object with a list "keys"`)
	}
	if len(*doc.Keys) > maxSetKeys {
		return nil, fmt.Errorf("the JWKS holds %d keys and may hold %d", len(*doc.Keys), maxSetKeys)
	}
	s := &KeySet{byID: make(map[string][]verifyKey)}
	for n, raw := range *doc.Keys {
		kid, k, err := parseJWK(raw)
		if err != nil {
			s.skipped = append(s.skipped, fmt.Sprintf("key %d (kid %q) is not used: %v", n, shortened(kid), err))
			continue
		}
		s.add(kid, k)
	}
	return s, nil
}

func parseJWK(raw json.RawMessage) (kid string, _ verifyKey, _ error) {
	var m jwkset.JWKMarshal
	if err := json.Unmarshal(raw, &m); err != nil {
		return "", verifyKey{}, errors.New("a member has the wrong type")
	}
	kid = m.KID
	switch {
	case m.KTY == jwkset.KtyOct || m.K != "":
		return kid, verifyKey{}, errors.New("it is a shared secret, which does not belong in a public document")
	case m.D != "":
		return kid, verifyKey{}, errors.New("it holds a private key, which must be secret; publish the public half")
	case m.USE != "" && m.USE != jwkset.UseSig:
		return kid, verifyKey{}, errors.New("its use is not sig")
	case len(m.KEYOPS) > 0 && !slices.Contains(m.KEYOPS, jwkset.KeyOpsVerify):
		return kid, verifyKey{}, errors.New("its key_ops do not include verify")
	case len(m.N) > (maxRSABits/8+2)*4/3 || len(m.E) > 12:
		return kid, verifyKey{}, fmt.Errorf("its numbers are larger than an RSA key of %d bits has", maxRSABits)
	}
	// Certificates are not used, so they are not parsed either, and no x5u is ever fetched.
	alg := string(m.ALG)
	jwk, err := jwkset.NewJWKFromMarshal(
		jwkset.JWKMarshal{KTY: m.KTY, CRV: m.CRV, X: m.X, Y: m.Y, N: m.N, E: m.E},
		jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{SkipMetadata: true})
	if err != nil {
		if errors.Is(err, jwkset.ErrUnsupportedKey) {
			return kid, verifyKey{}, errors.New("its type or curve is not supported")
		}
		return kid, verifyKey{}, errors.New("its numbers are missing or make no valid key")
	}
	k := verifyKey{key: jwk.Key()}
	if k.algs, err = keyAlgorithms(k.key); err != nil {
		return kid, verifyKey{}, err
	}
	if alg == "Ed25519" { // RFC 9864's name for what tokens call EdDSA
		alg = "EdDSA"
	}
	if alg != "" {
		if !slices.Contains(k.algs, alg) {
			return kid, verifyKey{}, errors.New("its alg is not supported or does not fit its type")
		}
		k.algs = []string{alg}
	}
	return kid, k, nil
}

// keyAlgorithms lists what a public key can verify, or says why it must not.
func keyAlgorithms(key any) ([]string, error) {
	switch key := key.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return nil, fmt.Errorf("its RSA modulus has %d bits; %d to %d are accepted", bits, minRSABits, maxRSABits)
		}
		if key.E < 3 || key.E%2 == 0 || key.N.Bit(0) == 0 {
			return nil, errors.New("its numbers are missing or make no valid key")
		}
		return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}, nil
	case *ecdsa.PublicKey:
		// RFC 7518 section 3.4 ties each algorithm to one curve.
		switch key.Curve.Params().BitSize {
		case 256:
			return []string{"ES256"}, nil
		case 384:
			return []string{"ES384"}, nil
		case 521:
			return []string{"ES512"}, nil
		}
	case ed25519.PublicKey:
		if smallOrder(key) {
			return nil, errors.New("it is a point of small order, with which anybody can sign")
		}
		return []string{"EdDSA"}, nil
	}
	return nil, errors.New("its type or curve is not supported")
}

// smallOrder recognises the eight points of order 1, 2, 4 and 8 of Curve25519 in all their encodings: a signature by such a
// key says nothing, and the standard library verifies it. Given is y of little end; the sign of x is in the top bit.
func smallOrder(key ed25519.PublicKey) bool {
	if len(key) != ed25519.PublicKeySize {
		return true
	}
	var y [ed25519.PublicKeySize]byte
	copy(y[:], key)
	y[31] &= 0x7f
	return slices.Contains(smallOrderY, hex.EncodeToString(y[:]))
}

var smallOrderY = []string{
	"0000000000000000000000000000000000000000000000000000000000000000", // 0, order 4
	"0100000000000000000000000000000000000000000000000000000000000000", // 1, order 1
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", // order 8
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", // order 8
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // p-1, order 2
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // p, which is 0
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // p+1, which is 1
}

func shortened(kid string) string {
	if len(kid) > maxKeyIDShown {
		return kid[:maxKeyIDShown] + "..."
	}
	return kid
}

// staticKeys are keys that come with the configuration. Those of Offline are never there.
type staticKeys struct{ set *KeySet }

func (k staticKeys) Current(time.Time) (*KeySet, time.Duration) {
	if k.set == nil {
		return nil, minRetryAfter
	}
	return k.set, 0
}

func (k staticKeys) Await(context.Context, func(*KeySet) bool) bool { return k.set != nil }
