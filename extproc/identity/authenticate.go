package identity

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/netip"
	"slices"
	"time"
	"unsafe"

	"github.com/weir-dev/weir/adapters/canon"
)

// Authenticator decides who is calling, from one configuration. It is immutable apart from its cache of
// verified tokens, and safe for concurrent use.
type Authenticator struct {
	keys      map[digest]*apiKey
	kinds     [hashKinds]bool // of hashes that occur in keys
	names     map[objectID]bool
	pepper    *Pepper
	consumers map[objectID]*consumer
	issuers   map[string][]*issuer // by iss
	cache     tokenCache
	urls      []string
	remotes   map[KeyLocation]RemoteKeys // that urls are of

	stored    *StoredKeys
	throttle  *Throttle
	maxFailed int // per address and minute; 0: no limit
	refused   func(Reason)
}

// URLs lists the documents that the keys of the configuration's issuers start from, for JWKS.Retain.
func (a *Authenticator) URLs() []string { return slices.Clone(a.urls) }

// Authenticate gives the caller's identity, or the error to answer with: 401 for a credential that is missing or no
// good, 403 where a token lacks a required scope or a key is used from a wrong address, 429 for an address with too many
// failures, 503 while an issuer's keys cannot be had. Challenge makes the www-authenticate header of the error.
// Messages never quote a credential.
//
// source is the caller's address; the zero Addr stands for one that is not known. ctx bounds the one thing that waits: a
// token whose signing key is not known yet waits for its issuer's keys, for JWKSOptions.Wait at most.
//
// What is already known is recognised by its hash, also from an address that must wait; the rest is a token if it
// looks like one, and else an unknown key.
func (a *Authenticator) Authenticate(ctx context.Context, h Headers, source netip.Addr, now time.Time) (*Identity, *canon.Error) {
	id, reason, err := a.authenticate(ctx, &h, source, now)
	if err == nil {
		return id, nil
	}
	if reason.failedLogin() {
		a.throttle.fail(source, a.maxFailed, now)
	}
	if a.refused != nil {
		a.refused(reason)
	}
	return nil, err
}

func (a *Authenticator) authenticate(ctx context.Context, h *Headers, source netip.Addr, now time.Time) (*Identity, Reason, *canon.Error) {
	cred, err := h.credential()
	if err != nil {
		return nil, Reason(err.Code), err
	}
	sum := sumOf(cred)
	known, why := a.findKey(cred, &sum)
	if known != nil {
		if why = known.refusal(source, now); why == "" {
			return known.id, "", nil
		}
	}
	verified := false // a token that was good a moment ago
	if why == "" {
		if e := a.cache.get(&sum, now); e != nil {
			set, retry := e.issuer.keys.Current(now)
			switch set {
			case e.keys:
				return e.id, "", nil
			case nil:
				return nil, ReasonKeysUnavailable, keysUnavailable(e.issuer.iss, retry)
			}
			verified = true // The keys have changed: verify again with the new ones.
		}
	}
	if !verified {
		if wait := a.throttle.wait(source, a.maxFailed, now); wait > 0 {
			return nil, ReasonThrottled, tooManyFailures(wait)
		}
	}
	if why != "" {
		return nil, why, keyRefusal(why, source)
	}
	t, isToken, err := parseToken(cred)
	if err != nil {
		return nil, ReasonInvalidToken, err
	}
	if !isToken {
		if a.stored.unread() {
			return nil, ReasonKeysUnavailable, storeUnread()
		}
		return nil, ReasonUnknownKey, keyRefusal(ReasonUnknownKey, source)
	}
	e, err := a.verify(ctx, t, now)
	if err != nil {
		return nil, Reason(err.Code), err
	}
	e.sum = sum
	a.cache.put(e, now)
	return e.id, "", nil
}

// sumOf hashes a credential where it is. A copy would be garbage, or a frame so large that the stack of every request grew.
func sumOf(cred string) [sha256.Size]byte {
	return sha256.Sum256(unsafe.Slice(unsafe.StringData(cred), len(cred)))
}

// findKey looks a credential up among the configured and the stored keys, by each kind of hash that occurs. A reason
// without a key is that of a stored key which the configuration has no place for.
func (a *Authenticator) findKey(cred string, sum *[sha256.Size]byte) (*apiKey, Reason) {
	set := a.stored.load()
	for kind := range hashKinds {
		if !a.kinds[kind] && !set.kinds[kind] {
			continue
		}
		d := digest{kind: kind, sum: *sum}
		if kind == HashHMAC {
			if a.pepper == nil { // stored keys that need one are reported by StoredProblems
				continue
			}
			d.sum = a.pepper.sum(cred)
		}
		if k := a.keys[d]; k != nil && k.is(&d) {
			return k, ""
		}
		if s := set.lookup[d]; s != nil {
			b := a.bind(s)
			if b.key == nil {
				return nil, ReasonOrphanedKey
			}
			if b.key.is(&d) {
				return b.key, ""
			}
		}
	}
	return nil, ""
}

// is compares digests in constant time. The map has compared them already, in a time that depends on the digest and so tells
// nothing about the key.
func (k *apiKey) is(d *digest) bool {
	return k.digest.kind == d.kind && subtle.ConstantTimeCompare(k.digest.sum[:], d.sum[:]) == 1
}
