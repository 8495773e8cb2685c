package pick

import (
	"time"

	"github.com/weir-dev/weir/extproc/breaker"
)

// What Pick.Reason says.
const (
	ByLoad    = "load"    // the least loaded
	BySession = "session" // where the session is
	ByPrefix  = "prefix"  // where the prompt's beginning is
	ByEnvoy   = "weights" // Envoy chooses
)

// found is what the prefix index says of a prompt.
type found struct {
	n      int
	all    [maxMatches]match
	common int // blocks that count as cached everywhere
}

// search asks the prefix index. It needs no lock.
func (p *pool) search(r *Request) (f found) {
	if x := p.index.Load(); x != nil && len(r.Blocks) > 0 {
		matches, common := x.find(x.cut(r.Blocks), p.width.Load(), f.all[:0])
		f.n, f.common = len(matches), common
	}
	return f
}

// remember notes in the index where a prompt went.
func (p *pool) remember(blocks []uint64, id uint16) {
	if x := p.index.Load(); x != nil && len(blocks) > 0 && id != 0 {
		x.add(x.cut(blocks), id, p.tick.Add(1), p.width.Load())
	}
}

// note remembers the prompt of a pick that was made.
func (p *pool) note(r *Request, k *Pick) {
	if k != nil {
		p.remember(r.Blocks, k.id)
	}
}

// candidate is an endpoint that was looked at.
type candidate struct {
	*endpoint
	score  float64
	tie    uint64 // draws between equal scores
	cached int64
}

func (c *candidate) before(d *candidate) bool {
	return c.score < d.score || c.score == d.score && c.tie < d.tie
}

// field is what a request can choose from.
type field struct {
	p     *pool
	r     *Request
	found found
	at    int64
	draw  uint64
	// except is an endpoint that another request waits for; nil: there is none
	except *endpoint

	best    [MaxEndpoints + 1]candidate // the least scores
	n       int
	seen    int
	ahead   float64   // of those seen, sum
	prefix  candidate // has most of the prompt
	session candidate
	member  uint16 // the id of the session's endpoint
	full    bool   // somebody would do, but is full
	retry   int64  // when the first breaker may let somebody in; 0: there is none
}

// cached is how many of the request's tokens an endpoint has, by the blocks that are found there.
func (f *field) cached(blocks int) int64 {
	if blocks == 0 || f.p.policy.Prefix == nil { // the policy was another one when the index was asked
		return 0
	}
	// The last token is always computed.
	return max(0, min(int64(blocks)*int64(f.p.policy.Prefix.BlockTokens), f.r.Tokens-1))
}

// blocks of the request that an endpoint has.
func (f *field) blocks(e *endpoint) int {
	for i := range f.found.n {
		if f.found.all[i].id == e.id {
			return max(f.found.common, f.found.all[i].blocks)
		}
	}
	return f.found.common
}

// may says whether the endpoint can take the request, as far as is known without asking its breaker.
func (f *field) may(e *endpoint, uncached int64) bool {
	if e.blocked > f.at && !e.Panic {
		if f.retry == 0 || e.blocked < f.retry {
			f.retry = e.blocked
		}
		return false
	}
	if e == f.except {
		f.full = true
		return false
	}
	if a := f.p.policy.Admission; a != nil &&
		(e.requests >= int64(a.MaxRequests) || a.MaxTokens > 0 && e.requests > 0 && e.tokens+uncached > a.MaxTokens) {
		f.full = true
		return false
	}
	return true
}

// consider looks at one endpoint.
func (f *field) consider(e *endpoint) bool {
	blocks := f.blocks(e)
	cached := f.cached(blocks)
	uncached := f.r.Tokens - cached
	if !f.may(e, uncached) {
		return false
	}
	c := candidate{endpoint: e, score: e.score(float64(uncached), f.at), tie: mix(f.draw + uint64(e.id)), cached: cached}
	f.seen++
	f.ahead += e.ahead()
	if blocks > f.found.common && (cached > f.prefix.cached || cached == f.prefix.cached && c.before(&f.prefix)) {
		f.prefix = c
	}
	if e.id == f.member && f.member != 0 {
		f.session = c
	}
	i := f.n
	if i == len(f.best) {
		if i--; !c.before(&f.best[i]) {
			return true
		}
	} else {
		f.n++
	}
	for ; i > 0 && c.before(&f.best[i-1]); i-- {
		f.best[i] = f.best[i-1]
	}
	f.best[i] = c
	return true
}

// survey looks at the endpoints that are to be compared.
func (f *field) survey() {
	all := f.p.usable
	k := f.p.policy.Choices
	if k <= 0 {
		k = len(all)
		if k > allOf {
			k = 2
		}
	}
	if k >= len(all) {
		for _, e := range all {
			f.consider(e)
		}
		return
	}
	// Those that the prompt or the session is at are always looked at; the same one twice would be its own competitor.
	var buf [64 + maxMatches + 1]uint16
	looked := buf[:0]
	consider := func(e *endpoint) bool {
		for _, id := range looked {
			if id == e.id {
				return false
			}
		}
		looked = append(looked, e.id)
		return f.consider(e)
	}
	for i := range f.found.n {
		if e := f.p.byID[f.found.all[i].id]; e != nil && e.usable {
			consider(e)
		}
	}
	if f.member != 0 {
		if e := f.p.byID[f.member]; e != nil && e.usable {
			consider(e)
		}
	}
	got := 0
	for range 2 * k {
		if len(looked) == cap(looked) {
			break
		}
		if consider(all[f.p.draw()%uint64(len(all))]) {
			if got++; got == k {
				return
			}
		}
	}
	if f.n > 0 {
		return
	}
	// Most can take nothing: look for those that can.
	start := int(f.p.draw() % uint64(len(all)))
	for i := range all {
		if f.consider(all[(start+i)%len(all)]) {
			if got++; got == k {
				return
			}
		}
	}
}

// first is the endpoint that the request goes to. There must be one.
//
// A session stays where it is while that endpoint has not too many tokens more to do than the best. A prompt stays where its
// beginning is as well, but not for more than the pool's average: while there is little to do, it need not wait for others.
func (f *field) first() (candidate, string) {
	least := &f.best[0]
	if s := &f.session; s.endpoint != nil && f.gap(s) <= float64(f.p.policy.Session.MaxGapTokens) {
		return *s, BySession
	}
	if c := &f.prefix; c.endpoint != nil {
		if f.gap(c) <= min(float64(f.p.policy.Prefix.MaxGapTokens), f.ahead/float64(f.seen)) {
			return *c, ByPrefix
		}
		if least.cached == c.cached {
			return *least, ByPrefix
		}
	}
	return *least, ByLoad
}

// gap is how many tokens more an endpoint would have to do than the one of the least score, what its cache saves being
// taken off. Factors of rules do not count: while a pool is too busy they go up and down everywhere, and would tear apart what
// belongs together when it matters most.
func (f *field) gap(c *candidate) float64 {
	least := &f.best[0]
	work := func(c *candidate) float64 {
		return (c.ahead() + float64(f.r.Tokens-c.cached)) * (1 + c.failures)
	}
	return work(c) - work(least)
}

// choose makes a reservation at the best endpoints, of which except is none. The caller holds mu, and remembers the prompt.
func (p *pool) choose(r *Request, f found, except *endpoint, now time.Time) (*Pick, *Refusal) {
	if p.closed {
		return nil, &Refusal{Reason: NoPool}
	}
	at := p.set.nanos(now)
	if p.policy.Mode == Weights {
		return p.pass(r, at)
	}
	if p.policy.Prefix == nil {
		f = found{} // the policy was another one when the index was asked
	}
	p.compareSpeeds(at)
	for {
		field := field{p: p, r: r, found: f, at: at, draw: p.draw(), except: except}
		if p.sessions != nil && r.Session != "" {
			field.member = p.sessions.get(r.Session, at-int64(p.policy.Session.IdleTimeout))
		}
		field.survey()
		if field.n == 0 {
			return nil, p.none(&field)
		}
		c, reason := field.first()
		pass, ok := p.allow(c.endpoint, now, at)
		if !ok {
			continue // it is blocked now, for the next look as well
		}
		return p.reserve(&field, c, reason, pass, now), nil
	}
}

// none says why there is no endpoint.
func (p *pool) none(f *field) *Refusal {
	if f.full {
		return &Refusal{Reason: Full, RetryAfter: p.retry()}
	}
	p.refused++
	r := &Refusal{Reason: Unavailable}
	if f.retry > 0 {
		r.RetryAfter = time.Duration(f.retry - f.at)
	}
	return r
}

// retry estimates when there may be room for one that comes now.
func (p *pool) retry() time.Duration {
	s := p.took * float64(p.queue.n+1) / float64(max(1, p.requests))
	return min(max(time.Second, time.Duration(s*float64(time.Second))), time.Minute)
}

// pass counts a request whose endpoint Envoy chooses. It is refused only where no endpoint can take it: how many are in flight at
// each is not known here, so there is no admission.
func (p *pool) pass(r *Request, at int64) (*Pick, *Refusal) {
	if refusal := p.anyUsable(at); refusal != nil {
		p.refused++
		return nil, refusal
	}
	k := &Pick{Reason: ByEnvoy, pool: p, prompt: r.Tokens, tokens: r.Tokens, begun: at, attempt: at}
	p.count(k)
	return k, nil
}

// anyUsable is nil where some endpoint can take requests.
func (p *pool) anyUsable(at int64) *Refusal {
	retry := int64(0)
	for _, e := range p.usable {
		if e.blocked <= at || e.Panic {
			return nil
		}
		if retry == 0 || e.blocked < retry {
			retry = e.blocked
		}
	}
	r := &Refusal{Reason: Unavailable}
	if retry > 0 {
		r.RetryAfter = time.Duration(retry - at)
	}
	return r
}

// reserve takes the place at the endpoint that was chosen.
func (p *pool) reserve(f *field, c candidate, reason string, pass breaker.Pass, now time.Time) *Pick {
	k := &Pick{Cached: c.cached, Reason: reason, id: c.id, pool: p, pass: pass, prompt: f.r.Tokens, tokens: f.r.Tokens - c.cached, begun: f.at}
	p.line(k, f, c.endpoint, now)
	if len(f.r.Blocks) > 0 && len(k.Endpoints) > 1 {
		k.blocks = f.r.Blocks
	}
	k.settle(c.endpoint, k.tokens, f.at)
	if p.sessions != nil && f.r.Session != "" && c.id != 0 {
		p.sessions.put(f.r.Session, c.id, f.at, f.at-int64(p.policy.Session.IdleTimeout))
	}
	p.allTokens += uint64(max(0, f.r.Tokens))
	p.cachedTokens += uint64(c.cached)
	p.count(k)
	return k
}

// line makes the list: the endpoint that was chosen, and the others that a retry may go to.
func (p *pool) line(k *Pick, f *field, chosen *endpoint, now time.Time) {
	k.list[0], k.keys[0] = chosen, chosen.Key
	n := 1
	for i := 0; i < f.n && n < MaxEndpoints; i++ {
		e := f.best[i].endpoint
		if e != chosen && p.set.breakerState(p.policy.Breaker, e.Key, now) == breaker.Closed {
			k.list[n], k.keys[n] = e, e.Key
			n++
		}
	}
	k.Endpoints = k.keys[:n:n]
}

func (p *pool) count(k *Pick) {
	p.requests++
	p.tokens += k.tokens
	p.picked++
}
