package semantic

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/internal/redisconn"
)

const (
	// DefaultTimeout of finding an answer by its meaning, the embedding included.
	DefaultTimeout = 2 * time.Second
	// DefaultMaxBytes of the vectors in memory: 40,000 of 1,536 numbers.
	DefaultMaxBytes = 256 << 20
	// rest is how long a model that failed to make an embedding is left alone.
	rest = 5 * time.Second
	// candidates are looked for, because the answer of the nearest may be gone from the cache.
	candidates = 4
	// maxText is the longest text that is looked for by its meaning, in bytes: no model embeds much more, and what is cut off would
	// not count.
	maxText = 32 << 10
)

// The errors of Find for which nothing was asked of anybody.
var (
	ErrResting = errors.New("the model that makes embeddings failed a moment ago: it is left alone for a few seconds")
	ErrTooLong = errors.New("the text is too long to be found by its meaning")
)

// Options of a Finder.
type Options struct {
	// Conn to Redis; nil: there is none.
	Conn *redisconn.Conn
	// Prefix of keys in Redis.
	Prefix string
	// MaxBytes of the vectors in memory; 0 is DefaultMaxBytes.
	MaxBytes int64
	// Timeout of Find; 0 is DefaultTimeout.
	Timeout time.Duration
	Now     func() time.Time
	// Registry for metrics; nil: none.
	Registry prometheus.Registerer
}

// Finder finds answers by the meaning of their requests. It is safe for concurrent use.
type Finder struct {
	now     func() time.Time
	timeout time.Duration
	memory  *memory
	redis   atomic.Pointer[vectorSets] // nil: there is none
	count   counters
	known   known

	mu      sync.Mutex
	resting map[string]time.Time // until when, by model
	inUse   []string             // policies
}

// New makes a Finder.
func New(o Options) *Finder {
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	f := &Finder{now: o.Now, timeout: o.Timeout, memory: newMemory(o.Now, o.MaxBytes), resting: map[string]time.Time{}}
	f.count = newCounters(o.Registry, f)
	f.Share(o.Conn, o.Prefix)
	return f
}

// Share keeps vectors in a Redis from now on, of policies that say so; nil: in memory alone. What was in another Redis stays there until its
// time is over. The connection of before may be closed when it returns.
func (f *Finder) Share(conn *redisconn.Conn, prefix string) {
	if conn == nil {
		f.redis.Store(nil)
		return
	}
	f.redis.Store(&vectorSets{conn: conn, prefix: prefix, now: f.now})
}

// Query is a request whose meaning is looked for.
type Query struct {
	Policy *cache.Policy // with Semantic
	Key    cache.Key     // of the request itself, which was not found
	Guard  cache.Key     // key.Guard
	Text   string        // key.Guard
	Tenant string        // for purges
	Model  string        // of the request, for purges
	// Embedder makes the embedding on the caller's behalf.
	Embedder Embedder
}

// Probe is a request whose embedding has been made.
type Probe struct {
	Matches []Match // answers to requests that mean the same, the nearest first

	request cache.Key
	vector  vector
	space   space
	index   index // nil: no embedding was made, because the request had been answered by meaning before
	policy  *cache.Policy
}

// Remembered tells that the request had been answered by meaning before, so that its match was not looked for. If that will not do, Forget
// it and Find again.
func (p *Probe) Remembered() bool { return p.index == nil }

// Use tells which policies there are; what others have in memory is forgotten.
func (f *Finder) Use(policies []*cache.Policy) {
	keep := map[string]bool{}
	var list []string
	for _, p := range policies {
		if p.Semantic != nil && !keep[p.ID] {
			keep[p.ID] = true
			list = append(list, p.ID)
		}
	}
	f.memory.keep(keep)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inUse = list
}

// Find looks for answers to requests that mean the same. It costs an embedding: do it once the request itself was not found, and for many
// equal requests once. An error means that nothing could be looked for, and that the answer is to be bought as if nothing had been found.
func (f *Finder) Find(ctx context.Context, q *Query) (*Probe, error) {
	p, err := f.find(ctx, q)
	f.count.found(q.Policy.ID, p, err)
	return p, err
}

func (f *Finder) find(ctx context.Context, q *Query) (*Probe, error) {
	if len(q.Text) > maxText {
		return nil, ErrTooLong
	}
	if m, ok := f.known.get(q.Key, q.Policy.Semantic.Threshold, f.now()); ok {
		return &Probe{Matches: []Match{m}, request: q.Key, policy: q.Policy}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	ix, err := f.index(ctx, q.Policy)
	if err != nil {
		return nil, err
	}
	v, err := f.embed(ctx, q)
	if err != nil {
		return nil, err
	}
	p := &Probe{request: q.Key, vector: v, space: spaceOf(q, v.dims), index: ix, policy: q.Policy}
	if p.Matches, err = ix.nearest(ctx, &p.space, &p.vector, q.Policy.Semantic.Threshold, candidates); err != nil {
		return nil, fmt.Errorf("the nearest request cannot be looked for: %w", err)
	}
	return p, nil
}

// embed makes the vector of a query's text.
func (f *Finder) embed(ctx context.Context, q *Query) (vector, error) {
	model := q.Policy.Semantic.Model
	f.mu.Lock()
	until := f.resting[model]
	f.mu.Unlock()
	if f.now().Before(until) {
		return vector{}, ErrResting
	}
	began := f.now()
	status, body, err := q.Embedder.Embeddings(ctx, appendRequest(nil, q.Policy.Semantic, q.Text))
	var list []float32
	if err == nil {
		list, err = parseEmbedding(status, body)
	}
	var v vector
	if err == nil {
		v, err = newVector(list)
	}
	f.count.embedded(f.now().Sub(began))
	if err != nil {
		// A refusal of this one text, or of this one caller, says nothing about the next.
		if status == 0 || status == 200 || status >= 500 {
			f.mu.Lock()
			f.resting[model] = f.now().Add(rest)
			f.mu.Unlock()
		}
		return vector{}, err
	}
	return v, nil
}

// index is where a policy's vectors are.
func (f *Finder) index(ctx context.Context, p *cache.Policy) (index, error) {
	wants, redis := p.Semantic.Index, f.redis.Load()
	if wants == cache.SemanticMemory || wants == cache.SemanticAuto && (redis == nil || !p.Redis) {
		return f.memory, nil
	}
	if redis == nil {
		return nil, ErrNoVectorSets
	}
	able, err := redis.supported(ctx)
	switch {
	case able:
		return redis, nil
	case wants == cache.SemanticAuto:
		return f.memory, nil // Redis is old, or down
	case err != nil:
		return nil, err
	}
	return nil, ErrNoVectorSets
}

// Served tells that the request was given the answer of a match.
func (f *Finder) Served(p *Probe, m Match) {
	f.count.lookups.WithLabelValues(p.policy.ID, "served").Inc()
	if p.index != nil {
		f.known.put(p.request, m, f.now().Add(p.policy.TTL))
	}
}

// Learn remembers a request that was looked for and then bought, for others to find its answer.
func (f *Finder) Learn(ctx context.Context, p *Probe) error {
	if p.index == nil {
		return nil
	}
	ttl := p.policy.TTL + p.policy.StaleWhileRevalidate
	return p.index.add(ctx, &p.space, &p.vector, p.request, f.now().Add(ttl))
}

// Forget tells that the answer of a match is not in the cache any more.
func (f *Finder) Forget(ctx context.Context, p *Probe, m Match) error {
	f.known.remove(p.request)
	if p.index == nil {
		return nil
	}
	return p.index.remove(ctx, &p.space, m.Key)
}

// Purge forgets what is selected by policy, tenant, model and key, and says how many there were. A selector with a tag selects nothing
// here: without their answers, meanings lead to nothing, and are forgotten when they are found.
func (f *Finder) Purge(ctx context.Context, sel cache.Selector) (n int, err error) {
	if sel.Tag != "" || sel.Empty() {
		return 0, nil
	}
	f.known.clear()
	n, err = f.memory.purge(ctx, &sel)
	redis := f.redis.Load()
	if redis == nil {
		return n, err
	}
	if able, e := redis.supported(ctx); !able {
		return n, e
	}
	policies := []string{sel.Policy}
	if sel.Policy == "" {
		f.mu.Lock()
		policies = f.inUse
		f.mu.Unlock()
	}
	for _, policy := range policies {
		one := sel
		one.Policy = policy
		gone, err := redis.purge(ctx, &one)
		n += gone
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// Similarity as callers are told it: four digits, never more than it was.
func Similarity(s float64) string {
	return strconv.FormatFloat(float64(int64(s*10_000+1e-6))/10_000, 'f', 4, 64)
}
