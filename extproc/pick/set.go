package pick

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/extproc/breaker"
)

// Set holds the pools of a gateway. It is safe for concurrent use. Pools share no lock: a request locks its own for the
// moment of the choice.
type Set struct {
	opts  Options
	epoch time.Time

	mu    sync.Mutex // guards changes of the map
	pools atomic.Pointer[map[string]*pool]
}

// NewSet makes an empty Set.
func NewSet(o Options) *Set {
	if o.Now == nil {
		o.Now = time.Now
	}
	// The epoch lies a little back, so that every time is above 0: 0 is never.
	s := &Set{opts: o, epoch: o.Now().Add(-time.Hour)}
	s.pools.Store(&map[string]*pool{})
	return s
}

func (s *Set) pool(key string) *pool { return (*s.pools.Load())[key] }

// nanos counts from the epoch, and is above 0.
func (s *Set) nanos(t time.Time) int64 { return max(1, int64(t.Sub(s.epoch))) }

// Update says what a pool has now. What is in flight at endpoints that stay is kept, and what the prefix index knows;
// requests that wait are looked at again. Endpoints with a key that came before are ignored.
func (s *Set) Update(pool string, policy *Policy, endpoints []Endpoint) {
	for {
		p := s.pool(pool)
		if p == nil {
			p = s.add(pool)
		}
		if p.update(policy, endpoints, s.opts.Now()) {
			return
		}
	}
}

func (s *Set) add(key string) *pool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.pool(key); p != nil {
		return p
	}
	next := maps.Clone(*s.pools.Load())
	p := newPool(s, key)
	next[key] = p
	s.pools.Store(&next)
	return p
}

// Retain forgets the pools that keep does not want. Requests that wait there are refused with NoPool; those in flight end as
// if nothing had happened.
func (s *Set) Retain(keep func(pool string) bool) {
	s.mu.Lock()
	var gone []*pool
	next := map[string]*pool{}
	for key, p := range *s.pools.Load() {
		if keep(key) {
			next[key] = p
		} else {
			gone = append(gone, p)
		}
	}
	s.pools.Store(&next)
	s.mu.Unlock()
	for _, p := range gone {
		p.close(s.opts.Now())
	}
}

// Pick chooses endpoints at the time now. While all are full it waits, where the policy lets it, until there is room, the time
// is over or ctx ends. Exactly one of the results is not nil.
func (s *Set) Pick(ctx context.Context, r *Request, now time.Time) (*Pick, *Refusal) {
	p := s.pool(r.Pool)
	if p == nil {
		return nil, &Refusal{Reason: NoPool}
	}
	pick, refusal, w := p.enter(ctx, r, p.search(r), now)
	if w != nil {
		pick, refusal = p.wait(ctx, w)
	}
	p.note(r, pick)
	return pick, refusal
}

// TryPick is Pick without waiting: where Pick would wait it refuses with Full.
func (s *Set) TryPick(r *Request, now time.Time) (*Pick, *Refusal) {
	p := s.pool(r.Pool)
	if p == nil {
		return nil, &Refusal{Reason: NoPool}
	}
	pick, refusal := p.try(r, p.search(r), now)
	p.note(r, pick)
	return pick, refusal
}

// Snapshot lists the pools by name, and their endpoints in the order of the last Update.
func (s *Set) Snapshot(now time.Time) []PoolState {
	pools := *s.pools.Load()
	out := make([]PoolState, 0, len(pools))
	for _, p := range pools {
		out = append(out, p.snapshot(now))
	}
	slices.SortFunc(out, func(a, b PoolState) int { return cmp.Compare(a.Pool, b.Pool) })
	return out
}

// breakerState is Closed where there is no breaker.
func (s *Set) breakerState(rule *breaker.Rule, key string, now time.Time) breaker.State {
	if rule == nil || s.opts.Breakers == nil {
		return breaker.Closed
	}
	return s.opts.Breakers.State(rule, key, now)
}

// seedOf makes pools of one Set draw differently.
func seedOf(seed uint64, key string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * 1099511628211
	}
	return seed ^ h
}
