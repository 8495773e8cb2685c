package identity

import (
	"crypto/sha256"
	"crypto/subtle"
	"slices"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
)

// Authenticator decides who is calling, from one configuration. It is immutable apart from its cache of
// verified tokens, and safe for concurrent use.
type Authenticator struct {
	keys      map[[sha256.Size]byte]*apiKey
	consumers map[objectID]*consumer
	issuers   map[string][]*issuer // by iss
	cache     tokenCache
	urls      []string
}

// URLs lists the JWKS URLs that the configuration's issuers name, for JWKS.Retain.
func (a *Authenticator) URLs() []string { return slices.Clone(a.urls) }

// Authenticate gives the caller's identity, or the error to answer with: 401 for a credential that is missing or no
// good, 403 where a token lacks a required scope, 503 while an issuer's keys cannot be had. Challenge makes
// the www-authenticate header of the error. It never blocks, and messages never quote a credential.
//
// What is already known is recognised by its hash; the rest is a token if it looks like one, and else an
// unknown key.
func (a *Authenticator) Authenticate(h Headers, now time.Time) (*Identity, *canon.Error) {
	cred, err := h.credential()
	if err != nil {
		return nil, err
	}
	var buf [2 << 10]byte // most tokens fit, and their copy stays off the heap
	sum := sha256.Sum256(append(buf[:0], cred...))
	if k := a.keys[sum]; k != nil && subtle.ConstantTimeCompare(k.hash[:], sum[:]) == 1 {
		switch {
		case k.disabled:
			return nil, unknownKey()
		case !k.expires.IsZero() && !now.Before(k.expires):
			return nil, expiredKey()
		}
		return k.id, nil
	}
	if e := a.cache.get(&sum, now); e != nil {
		set, retry := e.issuer.keys.Current(now)
		switch set {
		case e.keys:
			return e.id, nil
		case nil:
			return nil, keysUnavailable(e.issuer.iss, retry)
		}
		// The keys have changed: verify again with the new ones.
	}
	t, isToken, err := parseToken(cred)
	if err != nil {
		return nil, err
	}
	if !isToken {
		return nil, unknownKey()
	}
	e, err := a.verify(t, now)
	if err != nil {
		return nil, err
	}
	e.sum = sum
	a.cache.put(e, now)
	return e.id, nil
}
