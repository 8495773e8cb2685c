package identity

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/weir-dev/weir/adapters/canon"
)

// maxKeysTried bounds the signature checks that one token without a kid can cause.
const maxKeysTried = 8

// latestTime is the last second of year 9999. Later times only serve to overflow somebody's arithmetic.
const latestTime = 253402300799

// issuer is a compiled Issuer.
type issuer struct {
	namespace, name, iss string
	audiences            []string
	algorithms           []string
	required             []string
	claims               ClaimMap
	leeway               time.Duration
	keys                 RemoteKeys
	credential           string // of its identities
	credentialID         string
}

// token is a JWT in compact form (RFC 7515 section 3.1), taken apart and not verified.
type token struct {
	signed    string // what the signature covers: header "." claims
	alg       string
	kid       string // "" where the header names no key
	claims    jwt.MapClaims
	signature []byte
}

// signingMethod gives the implementation of an algorithm, nil for any other name. It is spelled out because the
// library's own registry knows "none" and can be added to by any package of the program.
func signingMethod(alg string) jwt.SigningMethod {
	switch alg {
	case "HS256":
		return jwt.SigningMethodHS256
	case "HS384":
		return jwt.SigningMethodHS384
	case "HS512":
		return jwt.SigningMethodHS512
	case "RS256":
		return jwt.SigningMethodRS256
	case "RS384":
		return jwt.SigningMethodRS384
	case "RS512":
		return jwt.SigningMethodRS512
	case "PS256":
		return jwt.SigningMethodPS256
	case "PS384":
		return jwt.SigningMethodPS384
	case "PS512":
		return jwt.SigningMethodPS512
	case "ES256":
		return jwt.SigningMethodES256
	case "ES384":
		return jwt.SigningMethodES384
	case "ES512":
		return jwt.SigningMethodES512
	case "EdDSA":
		return jwt.SigningMethodEdDSA
	}
	return nil
}

// parseToken takes a credential apart. isToken says whether it has the shape of a JWT: three segments, the first of
// which is a JSON object in base64url; anything else is for the caller to take as a key.
func parseToken(cred string) (t *token, isToken bool, _ *canon.Error) {
	first, rest, ok := strings.Cut(cred, ".")
	second, third, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || strings.Contains(third, ".") {
		return nil, false, nil
	}
	// Strict: the unused bits of the last character must be zero, or one token would have many spellings.
	b64 := base64.RawURLEncoding.Strict()
	rawHeader, err := b64.DecodeString(first)
	if err != nil || len(rawHeader) == 0 || rawHeader[0] != '{' || !json.Valid(rawHeader) {
		return nil, false, nil
	}
	header, err := decodeObject(rawHeader)
	if err != nil {
		return nil, true, badToken("its header is not one well-formed JSON object without duplicate members")
	}
	t = &token{signed: cred[:len(first)+1+len(second)]}
	if bad := t.readHeader(header); bad != nil {
		return nil, true, bad
	}
	rawClaims, err := b64.DecodeString(second)
	if err != nil {
		return nil, true, badToken("its claims are not base64url")
	}
	if t.claims, err = decodeObject(rawClaims); err != nil {
		return nil, true, badToken("its claims are not one well-formed JSON object without duplicate members")
	}
	if t.signature, err = b64.DecodeString(third); err != nil || len(t.signature) == 0 {
		return nil, true, badToken("its signature is missing or not base64url")
	}
	return t, true, nil
}

// readHeader takes what counts from the header. Keys that a token brings along or points at (jwk, jku, x5c,
// x5u) are not even read: only the issuer's configured keys verify.
func (t *token) readHeader(header map[string]any) *canon.Error {
	t.alg, _ = header["alg"].(string)
	if signingMethod(t.alg) == nil {
		return badToken("its signature algorithm is not accepted")
	}
	// RFC 7515 section 4.1.11: an extension that is not understood must be refused, and none is.
	if _, ok := header["crit"]; ok {
		return badToken("its header asks for extensions (crit) that are not supported")
	}
	if v, ok := header["kid"]; ok {
		if t.kid, ok = v.(string); !ok {
			return badToken("the kid of its header is not a string")
		}
	}
	if v, ok := header["typ"]; ok {
		// RFC 8725 section 3.11: another type (a logout token, a DPoP proof) was not made to grant access.
		typ, _ := v.(string)
		typ = strings.ToLower(typ)
		if typ = strings.TrimPrefix(typ, "application/"); typ != "jwt" && typ != "at+jwt" {
			return badToken("the typ of its header is neither JWT nor at+jwt")
		}
	}
	return nil
}

// verify finds the issuer the token is for and checks the token against it. The iss and aud claims are read before
// the signature is checked, to choose; everything is then checked with the chosen issuer's keys.
func (a *Authenticator) verify(ctx context.Context, t *token, now time.Time) (*cached, *canon.Error) {
	iss, _ := t.claims["iss"].(string)
	candidates := a.issuers[iss]
	if iss == "" || len(candidates) == 0 {
		return nil, badToken("its issuer (iss) is missing or not accepted here")
	}
	aud, err := t.claims.GetAudience()
	if err != nil || len(aud) == 0 {
		return nil, badToken("its audience (aud) is missing or not a string or list of strings")
	}
	var first *canon.Error
	for _, i := range candidates {
		if !slices.ContainsFunc(i.audiences, func(s string) bool { return slices.Contains(aud, s) }) {
			continue
		}
		e, bad := a.verifyWith(ctx, i, t, now)
		if bad == nil {
			return e, nil
		}
		if first == nil {
			first = bad
		}
	}
	if first == nil {
		return nil, badToken("it was issued for another audience (aud)")
	}
	return nil, first
}

// verifyWith checks a token against one issuer. What costs little comes first: a token that is refused for its claims
// makes no signature check and no fetch.
func (a *Authenticator) verifyWith(ctx context.Context, i *issuer, t *token, now time.Time) (*cached, *canon.Error) {
	if !slices.Contains(i.algorithms, t.alg) {
		return nil, badToken("its signature algorithm is not accepted")
	}
	until, from, bad := i.checkClaims(t.claims, now)
	if bad != nil {
		return nil, bad
	}
	set, bad := i.verifySignature(ctx, t, now) // may wait
	if bad != nil {
		return nil, bad
	}
	id, bad := a.identify(i, t.claims)
	if bad != nil {
		return nil, bad
	}
	return &cached{id: id, issuer: i, keys: set, notBefore: from, expires: until}, nil
}

// verifySignature checks the signature and tells the keys that verified it. An issuer may just have changed its keys, so
// a token whose key is not known waits for them to be fetched again.
func (i *issuer) verifySignature(ctx context.Context, t *token, now time.Time) (*KeySet, *canon.Error) {
	first, _ := i.keys.Current(now)
	var bad *canon.Error
	newer := true
	if first != nil {
		if bad, newer = checkSignature(t, first); !newer {
			return first, bad
		}
	}
	sure := i.keys.Await(ctx, func(s *KeySet) bool { return s != first && len(s.find(t.kid, t.alg)) > 0 })
	set, retry := i.keys.Current(now)
	if set != nil && set != first {
		bad, newer = checkSignature(t, set)
	}
	if set == nil || newer && !sure { // nobody knows whether the token is good
		return nil, keysUnavailable(i.iss, max(retry, minRetryAfter))
	}
	return set, bad
}

// checkSignature verifies with a set of keys. newer says that other keys could verify what these do not: the token names a key
// that is not there, or none.
func checkSignature(t *token, set *KeySet) (bad *canon.Error, newer bool) {
	keys := set.find(t.kid, t.alg)
	if len(keys) == 0 {
		return badToken("it is signed with a key that its issuer does not publish"), true
	}
	if len(keys) > maxKeysTried {
		return badToken("its header does not say which key (kid) of the issuer signed it"), false
	}
	method := signingMethod(t.alg)
	for _, k := range keys {
		if method.Verify(t.signed, t.signature, k) == nil {
			return nil, false
		}
	}
	return badToken("its signature does not verify"), t.kid == ""
}

// checkClaims checks the registered claims and returns the time span in which they hold: from nbf and iat with
// leeway, until exp without.
func (i *issuer) checkClaims(claims jwt.MapClaims, now time.Time) (until, from time.Time, _ *canon.Error) {
	for _, name := range []string{"exp", "nbf", "iat"} {
		v, ok := claims[name]
		if !ok {
			continue
		}
		n, isNumber := v.(json.Number)
		f, err := n.Float64()
		if !isNumber || err != nil || f < 0 || f > latestTime {
			return until, from, badToken("its claim " + name + " is not a number of seconds since 1970")
		}
	}
	err := jwt.NewValidator(
		jwt.WithTimeFunc(func() time.Time { return now }), jwt.WithLeeway(i.leeway),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(),
		jwt.WithIssuer(i.iss), jwt.WithAudience(i.audiences...),
	).Validate(claims)
	switch {
	case err == nil:
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return until, from, badToken("it lacks one of the claims exp, iss, aud")
	case errors.Is(err, jwt.ErrTokenExpired):
		return until, from, badToken("it has expired")
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return until, from, badToken("it is not valid yet (nbf)")
	case errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		return until, from, badToken("it was issued in the future (iat)")
	default:
		return until, from, badToken("its claims do not fit its issuer")
	}
	exp, _ := claims.GetExpirationTime()
	until = exp.Time
	for _, get := range []func() (*jwt.NumericDate, error){claims.GetNotBefore, claims.GetIssuedAt} {
		if d, _ := get(); d != nil && d.Add(-i.leeway).After(from) {
			from = d.Add(-i.leeway)
		}
	}
	return until, from, nil
}
