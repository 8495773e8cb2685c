package pick

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/extproc/breaker"
)

// pool is one Backend's endpoints and what is in flight there.
type pool struct {
	set   *Set
	key   string
	index atomic.Pointer[index] // nil: no prefix affinity
	tick  atomic.Uint32         // counts picks, for the index
	width atomic.Uint32         // number of usable endpoints, for the index

	mu       sync.Mutex
	policy   *Policy
	closed   bool
	list     []*endpoint // in the order of the last update
	usable   []*endpoint // of these, that may get requests, whatever their breakers say
	byKey    map[string]*endpoint
	byID     map[uint16]*endpoint // those of list
	lastID   uint16
	random   uint64
	sessions *sessions // nil: no session affinity
	queue    queue
	watching bool  // the alarm is set, see watch
	ranked   int64 // when speeds were last compared
	learned  bool  // there is something new to compare
	scratch  []float64

	requests, tokens int64
	took             float64 // seconds a request takes, smoothed
	picked, refused  uint64
	allTokens        uint64
	cachedTokens     uint64
}

func newPool(s *Set, key string) *pool {
	return &pool{set: s, key: key, policy: &Policy{}, byKey: map[string]*endpoint{}, byID: map[uint16]*endpoint{},
		random: seedOf(s.opts.Seed, key), ranked: math.MinInt64}
}

// draw gives random bits: SplitMix64.
func (p *pool) draw() uint64 {
	p.random += 0x9e3779b97f4a7c15
	return mix(p.random)
}

func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// update gives the pool its policy and endpoints, unless it was closed.
func (p *pool) update(policy *Policy, endpoints []Endpoint, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	if policy == nil {
		policy = &Policy{}
	}
	if policy != p.policy {
		p.use(policy)
	}
	same := len(endpoints) == len(p.list)
	next := make([]*endpoint, 0, len(endpoints))
	for _, e := range p.list {
		e.removed = true
	}
	for i := range endpoints {
		in := endpoints[i]
		if !(in.Base > 0) || math.IsInf(in.Base, 1) {
			in.Base = 1
		}
		if !(in.Factor >= 0) || math.IsInf(in.Factor, 1) {
			in.Factor = 1
		}
		e := p.byKey[in.Key]
		switch {
		case e == nil:
			e = &endpoint{id: p.newID(), relative: 1}
			p.byKey[in.Key], same = e, false
		case !e.removed:
			continue // given twice
		default:
			if other := p.byID[e.id]; other != nil && other != e {
				e.id = p.newID()
			}
			same = same && p.byID[e.id] == e && e.Base == in.Base
		}
		if e.Isolated && !in.Isolated && p.byID[e.id] == e {
			// It has probably been started anew, with an empty cache.
			delete(p.byID, e.id)
			e.id = p.newID()
		}
		e.Endpoint, e.removed = in, false
		p.byID[e.id] = e
		next = append(next, e)
	}
	for _, e := range p.list {
		if e.removed {
			delete(p.byID, e.id)
			p.drop(e)
			same = false
		}
	}
	p.list = next
	p.filter()
	if !same {
		p.ranked, p.learned = math.MinInt64, true
	}
	p.dispatch(now)
	return true
}

// use changes the policy.
func (p *pool) use(policy *Policy) {
	old := p.policy
	p.policy = policy
	switch {
	case policy.Prefix == nil:
		p.index.Store(nil)
	case old.Prefix == nil || old.Prefix.MaxBlocks != policy.Prefix.MaxBlocks || old.Prefix.BlockTokens != policy.Prefix.BlockTokens:
		p.index.Store(newIndex(policy.Prefix.MaxBlocks))
	}
	switch {
	case policy.Session == nil:
		p.sessions = nil
	case p.sessions == nil:
		p.sessions = newSessions(maxSessions)
	}
	for _, e := range p.list {
		e.blocked = 0 // the breaker says it again, by its new numbers
	}
}

// filter finds the endpoints that may get requests. A full cache matters only while as many others are not full: when the whole pool is
// at its limit caches are full everywhere, and by which percent says nothing. To leave out those that are, one after the
// other, would tear prompts from the caches that hold their beginnings, and fill all caches with the same.
func (p *pool) filter() {
	p.usable = p.usable[:0]
	full := 0
	for _, e := range p.list {
		over := p.policy.KVLimit > 0 && e.KV > p.policy.KVLimit
		e.usable = (!e.Isolated || e.Panic) && !over
		switch {
		case e.usable:
			p.usable = append(p.usable, e)
		case over && (!e.Isolated || e.Panic):
			full++
		}
	}
	if len(p.usable) < full {
		p.usable = p.usable[:0]
		for _, e := range p.list {
			if e.usable = !e.Isolated || e.Panic; e.usable {
				p.usable = append(p.usable, e)
			}
		}
	}
	p.width.Store(uint32(max(1, len(p.usable))))
}

// newID gives a number that no endpoint has, and that none had for as long as there are others. 0 when all are taken.
func (p *pool) newID() uint16 {
	for range math.MaxUint16 {
		p.lastID++
		if p.lastID == 0 {
			continue
		}
		if _, taken := p.byID[p.lastID]; !taken {
			return p.lastID
		}
	}
	return 0
}

// drop forgets an endpoint that is gone, when nothing is in flight there any more.
func (p *pool) drop(e *endpoint) {
	if e.removed && e.requests == 0 && p.byKey[e.Key] == e {
		delete(p.byKey, e.Key)
	}
}

// close refuses what waits.
func (p *pool) close(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.dispatch(now)
}

// compareSpeeds brings the relative speeds up to date, now and then.
func (p *pool) compareSpeeds(at int64) {
	if p.ranked != math.MinInt64 && at-p.ranked < int64(rankEvery) || !p.learned && at-p.ranked < int64(speedFor/10) {
		return
	}
	for _, e := range p.list {
		e.drain(at) // by the speed of before
	}
	p.scratch = rank(p.list, at, p.scratch)
	p.ranked, p.learned = at, false
}

// allow asks the breaker of an endpoint that is chosen, and notes when it refuses.
func (p *pool) allow(e *endpoint, now time.Time, at int64) (breaker.Pass, bool) {
	rule, breakers := p.policy.Breaker, p.set.opts.Breakers
	if rule == nil || breakers == nil {
		return breaker.Pass{}, true
	}
	pass, refused := breakers.Allow(rule, e.Key, now)
	if refused == nil || e.Panic {
		return pass, true
	}
	p.block(e, refused, at)
	return breaker.Pass{}, false
}

// block keeps an endpoint from being asked again too soon. The places of a half-open one may come free at any time.
func (p *pool) block(e *endpoint, refused *breaker.Refusal, at int64) {
	retry := refused.RetryAfter
	if refused.State != breaker.Open {
		retry = min(retry, halfOpenRetry)
	}
	e.blocked, e.tripped = at+int64(max(retry, time.Millisecond)), true
	e.failures = 0 // the breaker has judged them, and who counts as failing would not be chosen to be tried
}

// halfOpenRetry is how soon a half-open breaker is asked again that had no place, if no result came before.
const halfOpenRetry = 100 * time.Millisecond

// judge tells the breaker of an endpoint how a request ended that had a pass, or had none: a retry, or one that Envoy placed.
func (p *pool) judge(e *endpoint, pass *breaker.Pass, ok bool, now time.Time, at int64) {
	if !ok {
		e.fail(at)
	}
	rule, breakers := p.policy.Breaker, p.set.opts.Breakers
	if rule == nil || breakers == nil {
		if pass != nil {
			pass.Drop()
		}
		return
	}
	if pass != nil {
		pass.Done(ok, now)
	} else if s := breakers.State(rule, e.Key, now); s == breaker.Closed || p.policy.Mode == Weights && s == breaker.HalfOpen {
		// Where Envoy chooses, every request to a half-open endpoint tries it.
		if extra, refused := breakers.Allow(rule, e.Key, now); refused == nil {
			extra.Done(ok, now)
		}
	}
	p.look(e, rule, now, at)
}

// look notes what a result has done to a breaker.
func (p *pool) look(e *endpoint, rule *breaker.Rule, now time.Time, at int64) {
	switch p.set.breakerState(rule, e.Key, now) {
	case breaker.Open:
		if e.blocked <= at { // else it has been for some time
			e.blocked = at + int64(rule.OpenFor)
		}
		e.tripped = true
		e.failures = 0 // from here on it is for the breaker to say
	case breaker.HalfOpen:
		e.blocked, e.tripped = 0, true
	default:
		e.blocked, e.tripped = 0, false
	}
}

func (p *pool) snapshot(now time.Time) PoolState {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := PoolState{Pool: p.key, Mode: p.policy.Mode, Requests: p.requests, Tokens: p.tokens, Waiting: p.queue.n,
		Picked: p.picked, Refused: p.refused, AllTokens: p.allTokens, CachedTokens: p.cachedTokens,
		Endpoints: make([]EndpointState, 0, len(p.list))}
	if p.sessions != nil {
		out.Sessions = p.sessions.size()
	}
	state := func(e *endpoint) {
		out.Endpoints = append(out.Endpoints, EndpointState{Key: e.Key, Requests: e.requests, Tokens: e.tokens, Capacity: e.measured(),
			Relative: e.relative, Breaker: p.set.breakerState(p.policy.Breaker, e.Key, now), Isolated: e.Isolated, Removed: e.removed, Picked: e.picked})
	}
	p.compareSpeeds(p.set.nanos(now))
	for _, e := range p.list {
		state(e)
	}
	for _, e := range p.byKey {
		if e.removed {
			state(e)
		}
	}
	gone := out.Endpoints[slices.IndexFunc(append(out.Endpoints, EndpointState{Removed: true}), func(e EndpointState) bool { return e.Removed }):]
	slices.SortFunc(gone, func(a, b EndpointState) int { return compareKeys(a.Key, b.Key) })
	return out
}
