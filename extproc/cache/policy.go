package cache

import (
	"slices"
	"time"
)

// Write says when an answer goes to Redis.
type Write uint8

// The ways to write.
const (
	WriteThrough Write = iota // before its last byte is given to the callers
	WriteBehind               // soon after, from a queue
	WriteAside                // when it is asked for a second time, from the queue
)

// String is the word that a CachePolicy has.
func (w Write) String() string {
	return [...]string{"Through", "Behind", "Aside"}[w]
}

// Policy is what a CachePolicy asks for. It does not change once it is in use; one that is changed is another Policy with the
// same ID, and finds the entries of the one before.
type Policy struct {
	ID string // namespace/name

	Eligible       Eligible
	MaxTemperature float64 // up to which a request is deterministic
	Seeded         bool    // a request with a seed is deterministic
	Scope          Scope
	PromptVersion  string   // part of the key
	Tags           []string // of every entry

	TTL                  time.Duration
	Jitter               float64 // share of the TTL, at most, that is taken from it at random: 0 to 0.5
	StaleWhileRevalidate time.Duration
	RefreshAhead         bool
	Negative             []int // statuses that are kept beside 200; empty: none
	NegativeTTL          time.Duration
	KeepFilling          bool // an answer is bought to its end when nobody waits for it any more

	MaxEntryBytes int64 // of a body
	MemoryBytes   int64 // of all entries in memory; 0: none is kept there

	Redis              bool
	Write              Write
	MaxRedisEntryBytes int64         // compressed
	MaxWait            time.Duration // for another replica that buys the same answer; 0: do not wait
	Bloom              *Bloom        // nil: Redis is always asked

	Semantic *Semantic // nil: only the same request finds an answer
}

// Bloom says how large the filter before Redis is.
type Bloom struct {
	Keys           int64   // that it is made for
	FalsePositives float64 // share of questions after what is not there that it lets through, while it holds no more than Keys
}

// Semantic says how answers are found by meaning.
type Semantic struct {
	Model      string  // that makes embeddings, by the callers' name
	Threshold  float64 // cosine similarity
	Dimensions int     // to ask the model for; 0: its own
	MaxEntries int
	Index      SemanticIndex
}

// SemanticIndex says where meanings are kept.
type SemanticIndex uint8

// The places.
const (
	SemanticAuto   SemanticIndex = iota // in Redis where that can search vectors, else in memory
	SemanticMemory                      // of each replica
	SemanticRedis
)

// String is the word that a CachePolicy has.
func (i SemanticIndex) String() string {
	return [...]string{"Auto", "Memory", "Redis"}[i]
}

// keeps tells whether an answer with this status is kept, and whether it is a refusal.
func (p *Policy) keeps(status int) (kept, negative bool) {
	if status == 200 {
		return true, false
	}
	negative = slices.Contains(p.Negative, status)
	return negative, negative
}

// ttl of an answer, with its jitter; random is from 0 to 1.
func (p *Policy) ttl(negative bool, random float64) time.Duration {
	d := p.TTL
	if negative {
		d = p.NegativeTTL
	}
	return d - time.Duration(p.Jitter*random*float64(d))
}

// stale is how long after its TTL an answer is still given.
func (p *Policy) stale(negative bool) time.Duration {
	if negative {
		return 0
	}
	return p.StaleWhileRevalidate
}
