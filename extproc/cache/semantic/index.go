package semantic

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/weir-dev/weir/extproc/cache"
)

// Match is an answer whose request means the same.
type Match struct {
	Key        cache.Key
	Similarity float64 // cosine: 1 is the same meaning, 0 none in common
}

// space is where vectors may be compared: their requests differ in one text only, and one model made them.
type space struct {
	id     [16]byte
	policy string
	tenant string
	model  string // of the answers
	most   int    // entries of the policy
}

// spaceOf gives the space of a query whose vector has so many dimensions.
func spaceOf(q *Query, dims int) space {
	h := sha256.New()
	_, _ = h.Write(q.Guard[:])
	_, _ = h.Write(binary.AppendUvarint(nil, uint64(dims)))
	_, _ = h.Write([]byte(q.Policy.Semantic.Model))
	s := space{policy: q.Policy.ID, tenant: q.Tenant, model: q.Model, most: max(1, q.Policy.Semantic.MaxEntries)}
	copy(s.id[:], h.Sum(nil))
	return s
}

// index keeps vectors.
type index interface {
	// nearest gives at most n answers of a space whose similarity is at least least, the nearest first.
	nearest(ctx context.Context, s *space, v *vector, least float64, n int) ([]Match, error)
	// add keeps a vector for an answer until expires; another one of the same answer gives way.
	add(ctx context.Context, s *space, v *vector, key cache.Key, expires time.Time) error
	// remove forgets an answer.
	remove(ctx context.Context, s *space, key cache.Key) error
	// purge forgets what is selected by policy, tenant, model and key.
	purge(ctx context.Context, sel *cache.Selector) (int, error)
}
