package session

import (
	"context"
	"crypto/rand"
	"errors"
	"time"
)

// Version tells one value of a key from another; the zero Version is that of none. They are random, so that a value that was lost and made
// anew never looks like the one before.
type Version [12]byte

func newVersion() (v Version) {
	_, _ = rand.Read(v[:]) // never fails
	return v
}

// ErrConflict says that there is another value now than the one that was read.
var ErrConflict = errors.New("the session was changed by somebody else meanwhile")

// ErrUnavailable says that the store cannot be reached.
var ErrUnavailable = errors.New("sessions cannot be reached")

// Life is what a store needs to know about a value beside its bytes.
type Life struct {
	TTL time.Duration
	// Part is the policy that the value is accounted to in memory, and PartBytes what all of its values may take.
	Part      string
	PartBytes int64
	// Hidden values are in no list.
	Hidden bool
}

// Store keeps values. It knows nothing of what is in them. Values are not changed by anybody once they have been handed over.
type Store interface {
	// Get gives the value of a key, or nil and the zero Version where there is none.
	Get(ctx context.Context, at Ref) ([]byte, Version, error)
	// Put replaces the value whose Version is was by another; ErrConflict where that is not there any more.
	Put(ctx context.Context, at Ref, value []byte, was Version, l Life) (Version, error)
	// Remove takes away what is there, if it is of that Version.
	Remove(ctx context.Context, at Ref, was Version) error
	// Tenants, Consumers and IDs list what there may be: some of it may be gone. They are in order.
	Tenants(ctx context.Context) ([]string, error)
	Consumers(ctx context.Context, tenant string) ([]string, error)
	IDs(ctx context.Context, tenant, consumer string) ([]string, error)
}
