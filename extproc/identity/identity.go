// Package identity answers who is calling: it turns the credential headers of a request into an
// Identity, or into the error the caller should see.
//
// Two kinds of credential are known. An API key is looked up by its hash, among those of the configuration and those
// of a store (StoredKeys). A JSON Web Token (RFC 7519) is verified with the keys of the issuer it names. Nothing
// here does I/O on a request's path: the keys of issuers are fetched in the background by JWKS, which outlives the
// immutable Authenticators built for each configuration. A request waits only for a signing key that is not known yet.
package identity

import "slices"

// Identity is who calls and what they may do. It is shared between requests and must not be changed.
type Identity struct {
	// Consumer is the name of a Consumer, or what a token calls its subject.
	Consumer string
	// Namespace of the APIKey or JWTIssuer that let the caller in.
	Namespace string
	// Tenant pays and is limited. Never empty where the namespace is not.
	Tenant string
	// Labels that routes match on. May be nil.
	Labels map[string]string
	// Models holds every allow-list that applies: the consumer's, the key's, the token's.
	// A model must pass them all; no list means any model.
	Models []*Patterns
	// Scopes is sorted and has no duplicates.
	Scopes []string
	// Credential names what let the caller in, for logs: "key:<APIKey name>" or "jwt:<issuer>". Never secret.
	Credential string

	// ConsumerID is "<namespace>/<consumer>" and CredentialID "<namespace>/<credential>": what counters go by.
	ConsumerID, CredentialID string
	// KeyID is CredentialID where a key let the caller in, and else "".
	KeyID string
	// KeyPrefix is the beginning of the key, if somebody noted it; for people.
	KeyPrefix string
	// RequestsPerMinute that the key may make. 0: no limit of its own.
	RequestsPerMinute int64
}

// MayUse reports whether every allow-list admits the model.
func (id *Identity) MayUse(model string) bool {
	for _, p := range id.Models {
		if !p.Match(model) {
			return false
		}
	}
	return true
}

// HasScopes reports whether the identity has all the scopes, and else the first that it lacks.
func (id *Identity) HasScopes(required []string) (missing string, ok bool) {
	for _, s := range required {
		if _, found := slices.BinarySearch(id.Scopes, s); !found {
			return s, false
		}
	}
	return "", true
}

// sortedSet joins lists into one sorted list without duplicates.
func sortedSet(lists ...[]string) []string {
	all := slices.Concat(lists...)
	slices.Sort(all)
	return slices.Compact(all)
}
