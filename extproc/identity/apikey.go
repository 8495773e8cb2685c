package identity

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Key is an API key.
type Key struct {
	Namespace, Name string
	Consumer        string            // of the same namespace
	Hash            [sha256.Size]byte // of the key
	Kind            HashKind          // of the hash; HashHMAC needs Config.Pepper
	Prefix          string            // the key's first characters, for people; "" where not known
	ExpiresAt       time.Time         // zero: never
	Disabled        bool
	AllowedModels   []string // narrows the consumer's; empty: no narrower
	AllowedCIDRs    []string // networks the key may be used from; empty: any address
	Scopes          []string // beside the consumer's
	// RequestsPerMinute that the key may make; 0: no limit of its own. It is told, not enforced, here.
	RequestsPerMinute int64
}

// apiKey is a compiled Key. A disabled key is kept, so that its hash stays taken.
type apiKey struct {
	digest   digest
	id       *Identity
	expires  time.Time
	disabled bool
	networks []netip.Prefix // nil: any address
}

// refusal says why a known key does not let in a caller from source, or "".
func (k *apiKey) refusal(source netip.Addr, now time.Time) Reason {
	switch {
	case k.disabled:
		return ReasonDisabledKey
	case !k.expires.IsZero() && !now.Before(k.expires):
		return ReasonExpiredKey
	case k.networks == nil:
		return ""
	}
	source = source.Unmap().WithZone("")
	for _, n := range k.networks {
		if n.Contains(source) { // false for the zero Addr: an address that is not known is in no network
			return ""
		}
	}
	return ReasonAddress
}

// compileKey checks a key against the configuration's consumers and the pepper.
func (a *Authenticator) compileKey(k *Key) (*apiKey, *ConfigError) {
	if k.Hash == ([sha256.Size]byte{}) {
		return nil, &ConfigError{Field: "hash", Reason: `the hash is empty; make one with "weir keys hash"`}
	}
	if k.Kind == HashHMAC && a.pepper == nil {
		return nil, &ConfigError{Field: "hash", Reason: "the hash is made with a pepper, and there is none here: " +
			"set LLMGateway spec.authentication.keyPepperRef to the secret it was made with, or give a hash of the kind sha256"}
	}
	c := a.consumers[objectID{k.Namespace, k.Consumer}]
	if c == nil {
		return nil, &ConfigError{Field: "consumer", Reason: fmt.Sprintf(
			"there is no valid Consumer %q in namespace %q; create it or correct the name", k.Consumer, k.Namespace)}
	}
	if err := checkScopes("scopes", k.Scopes); err != nil {
		return nil, err
	}
	models, err := compileModels(k.AllowedModels)
	if err != nil {
		return nil, err
	}
	networks, err := parseNetworks(k.AllowedCIDRs)
	if err != nil {
		return nil, err
	}
	if k.RequestsPerMinute < 0 {
		return nil, &ConfigError{Field: "requestsPerMinute", Reason: "it is negative"}
	}
	credential := "key:" + k.Name
	qualified := k.Namespace + "/" + credential
	return &apiKey{
		digest: digest{k.Kind, k.Hash}, expires: k.ExpiresAt, disabled: k.Disabled, networks: networks,
		id: &Identity{
			Consumer: c.Name, Namespace: c.Namespace, Tenant: c.Tenant, Labels: c.Labels,
			Models: slices.Concat(c.models, models), Scopes: sortedSet(c.Scopes, k.Scopes),
			Credential: credential, ConsumerID: c.Namespace + "/" + c.Name, CredentialID: qualified,
			KeyID: qualified, KeyPrefix: k.Prefix, RequestsPerMinute: k.RequestsPerMinute,
		},
	}, nil
}

func parseNetworks(list []string) ([]netip.Prefix, *ConfigError) {
	var out []netip.Prefix
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil || p.Addr().Is4In6() {
			return nil, &ConfigError{Field: "allowedCIDRs", Reason: fmt.Sprintf(
				"%q is no network; write an address and the length of its prefix, such as 10.1.0.0/16, 192.0.2.7/32 or 2001:db8::/32", s)}
		}
		out = append(out, p.Masked())
	}
	return out, nil
}
