package pick

import (
	"cmp"
	"slices"
	"time"

	"github.com/weir-dev/weir/extproc/breaker"
)

// Preview is what a pool looked like to a request that nobody sends.
type Preview struct {
	Mode Mode
	// Waiting requests are in the queue, and MaxWait is how long one more would wait for room; 0: not at all.
	Waiting int
	MaxWait time.Duration
	// Endpoints, those that could take the request first, by score.
	Endpoints []Looked
}

// Looked is an endpoint as a request sees it.
type Looked struct {
	Key              string
	Requests, Tokens int64 // in flight
	// Cached tokens of the prompt that it is expected to have.
	Cached int64
	// Score is what is compared, in tokens at the speed of the pool's median: the less the better. 0 where it cannot take the request.
	Score float64
	// Speed is its measured speed by the pool's median, and Factor what its rules leave of its weight.
	Speed, Factor float64
	Breaker       breaker.State
	// Why it cannot take the request; "" where it can.
	Why string
}

// Why an endpoint cannot take a request.
const (
	WhyIsolated = "isolated"
	WhyKVFull   = "its KV cache is full"
	WhyBreaker  = "its circuit breaker is open"
	WhyFull     = "it is full"
)

// Preview says what TryPick would at this moment. Nothing is reserved, no breaker is asked, and the next choice is the same as without
// it. The pick is over already: it is there to be read. Exactly one of the pick and the refusal is not nil.
func (s *Set) Preview(r *Request, now time.Time) (*Pick, *Refusal, Preview) {
	p := s.pool(r.Pool)
	if p == nil {
		return nil, &Refusal{Reason: NoPool}, Preview{}
	}
	f := p.search(r)
	p.mu.Lock()
	defer p.mu.Unlock()
	random, refused := p.random, p.refused
	defer func() { p.random, p.refused = random, refused }()
	out := p.view(r, f, now)
	if p.queue.n > 0 && !p.closed {
		return nil, &Refusal{Reason: Full, RetryAfter: p.retry()}, out
	}
	k, refusal := p.foresee(r, f, now)
	if k != nil {
		k.ended.Store(true)
	}
	return k, refusal, out
}

// foresee is choose without a reservation. The caller holds mu.
func (p *pool) foresee(r *Request, f found, now time.Time) (*Pick, *Refusal) {
	if p.closed {
		return nil, &Refusal{Reason: NoPool}
	}
	at := p.set.nanos(now)
	if p.policy.Mode == Weights {
		if refusal := p.anyUsable(at); refusal != nil {
			return nil, refusal
		}
		return &Pick{Reason: ByEnvoy, pool: p}, nil
	}
	if p.policy.Prefix == nil {
		f = found{}
	}
	for {
		field := field{p: p, r: r, found: f, at: at, draw: p.draw()}
		if p.sessions != nil && r.Session != "" {
			field.member = p.sessions.get(r.Session, at-int64(p.policy.Session.IdleTimeout))
		}
		field.survey()
		if field.n == 0 {
			return nil, p.none(&field)
		}
		c, reason := field.first()
		if refused := p.wouldRefuse(c.endpoint, now); refused != nil {
			defer func(e *endpoint, blocked int64, tripped bool, failures float64) {
				e.blocked, e.tripped, e.failures = blocked, tripped, failures
			}(c.endpoint, c.blocked, c.tripped, c.failures)
			p.block(c.endpoint, refused, at)
			continue
		}
		k := &Pick{Cached: c.cached, Reason: reason, pool: p}
		p.line(k, &field, c.endpoint, now)
		return k, nil
	}
}

// wouldRefuse is what the breaker of an endpoint would say; nil where it lets the request in.
func (p *pool) wouldRefuse(e *endpoint, now time.Time) *breaker.Refusal {
	rule, breakers := p.policy.Breaker, p.set.opts.Breakers
	if rule == nil || breakers == nil || e.Panic {
		return nil
	}
	_, refused, _ := breakers.Preview(rule, e.Key, now)
	return refused
}

// view lists the endpoints as the request sees them. The caller holds mu.
func (p *pool) view(r *Request, f found, now time.Time) Preview {
	out := Preview{Mode: p.policy.Mode, Waiting: p.queue.n, Endpoints: make([]Looked, 0, len(p.list))}
	if a := p.policy.Admission; a != nil && p.policy.Mode != Weights {
		out.MaxWait = a.MaxWait
	}
	if p.policy.Prefix == nil {
		f = found{}
	}
	at := p.set.nanos(now)
	p.compareSpeeds(at)
	for _, e := range p.list {
		field := field{p: p, r: r, found: f, at: at}
		cached := field.cached(field.blocks(e))
		l := Looked{
			Key: e.Key, Requests: e.requests, Tokens: e.tokens, Cached: cached, Speed: e.relative, Factor: e.Factor,
			Breaker: p.set.breakerState(p.policy.Breaker, e.Key, now),
		}
		switch {
		case e.Isolated && !e.Panic:
			l.Why = WhyIsolated
		case !e.usable:
			l.Why = WhyKVFull
		case e.blocked > at && !e.Panic || p.wouldRefuse(e, now) != nil:
			l.Why = WhyBreaker
		case p.policy.Mode == Weights:
		case !field.may(e, r.Tokens-cached):
			l.Why = WhyFull
		default:
			l.Score = e.score(float64(r.Tokens-cached), at)
		}
		out.Endpoints = append(out.Endpoints, l)
	}
	slices.SortStableFunc(out.Endpoints, func(a, b Looked) int {
		return cmp.Or(cmp.Compare(min(len(a.Why), 1), min(len(b.Why), 1)), cmp.Compare(a.Score, b.Score))
	})
	return out
}
