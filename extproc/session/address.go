package session

import (
	"crypto/sha256"
	"encoding/base64"
)

// Address says where a session is.
type Address struct {
	Tenant string
	// Consumer is "" where the sessions of a policy belong to the whole tenant.
	Consumer string
	// ID is the caller's name of it.
	ID string
}

// Ref is an Address as stores know it. Names of consumers and sessions may tell about people: only hashes of them are shown to who
// can read the store, and a key has the same length whatever they are.
type Ref struct {
	Tenant   string // as it is: a name of the configuration
	Consumer string // hash
	ID       string // hash
}

// Ref hides the names.
func (a Address) Ref() Ref {
	return Ref{Tenant: a.Tenant, Consumer: ConsumerHash(a.Tenant, a.Consumer), ID: hashOf("session", a.Tenant, a.Consumer, a.ID)}
}

// ConsumerHash is Ref.Consumer.
func ConsumerHash(tenant, consumer string) string { return hashOf("consumer", tenant, consumer) }

// hashOf hashes the hashes of its parts, which may hold any byte: so no two lists of them look alike.
func hashOf(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		inner := sha256.Sum256([]byte(p))
		h.Write(inner[:])
	}
	var sum [sha256.Size]byte
	h.Sum(sum[:0])
	return base64.RawURLEncoding.EncodeToString(sum[:18])
}
