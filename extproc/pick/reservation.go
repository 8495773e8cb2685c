package pick

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/extproc/breaker"
)

// Pick is a reservation, and the list of endpoints that attempts go to. One Done or Drop ends it; what comes after that does
// nothing. It is safe for concurrent use.
type Pick struct {
	// Endpoints that attempts go to, in this order. Empty where Envoy chooses.
	Endpoints []string
	// Cached tokens of the prompt that the first one is expected to have.
	Cached int64
	// Reason for the choice: ByLoad and the others.
	Reason string
	// Waited is how long the request waited for room.
	Waited time.Duration

	pool   *pool
	id     uint16       // of list[0] at that time
	pass   breaker.Pass // of list[0]
	list   [MaxEndpoints]*endpoint
	keys   [MaxEndpoints]string
	blocks []uint64 // for a retry
	prompt int64    // tokens
	ended  atomic.Bool

	// The pool's lock guards the rest.
	at       *endpoint   // where it counts; nil: nowhere
	tokens   int64       // that it counts for
	tried    []*endpoint // that Move has told of; nil where one is unknown
	moved    bool
	begun    int64   // nanoseconds
	attempt  int64   // when the present attempt began
	pending  float64 // tokens before its own first token, its own included
	sum      float64 // at.sum when it came
	measured bool
}

// settle makes it count at an endpoint.
func (k *Pick) settle(e *endpoint, tokens, at int64) {
	e.take(tokens, at)
	k.at, k.attempt, k.pending, k.sum = e, at, e.pending, e.sum
}

// heard notes how long it took to the first token.
func (k *Pick) heard(took time.Duration, at int64) {
	e := k.at
	if e == nil || k.measured {
		return
	}
	k.measured = true
	e.learn(k.pending, took, at)
	k.pool.learned = true
	k.passed(at)
}

// passed notes that its prompt is computed, and therefore all that came before it.
func (k *Pick) passed(at int64) {
	if e := k.at; e != nil {
		e.drain(at)
		e.pending = min(e.pending, max(0, e.sum-k.sum))
	}
}

// Move tells that the attempt at hand has failed and that Envoy now tries another endpoint, or one of nobody's here. Who can tell makes
// the account of what is in flight right while the retry runs; without it, Ending.Attempts serves. Done judges the attempts.
func (k *Pick) Move(endpoint string) {
	p := k.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if k.ended.Load() {
		return
	}
	now := p.set.opts.Now()
	at := p.set.nanos(now)
	k.tried = append(k.tried, k.at)
	k.leave(at)
	k.moved, k.measured = true, false
	p.tokens += k.prompt - k.tokens
	k.tokens = k.prompt
	if e := p.byKey[endpoint]; e != nil {
		k.settle(e, k.tokens, at)
	}
	p.dispatch(now)
}

// attemptsFailed judges the attempts before the last.
func (k *Pick) attemptsFailed(n int, refused []string, now time.Time, at int64) {
	for i := range n {
		var e *endpoint
		switch {
		case i < len(k.tried):
			e = k.tried[i]
		case i < MaxEndpoints:
			e = k.list[i]
		}
		if e != nil && !slices.Contains(refused, e.Key) {
			k.pool.judge(e, k.passOf(e), false, now, at)
		}
	}
}

// passOf gives the pass, once, to the endpoint that it is of.
func (k *Pick) passOf(e *endpoint) *breaker.Pass {
	if e != k.list[0] || k.pass == (breaker.Pass{}) {
		return nil
	}
	pass := k.pass
	k.pass = breaker.Pass{}
	return &pass
}

// leave makes it count nowhere.
func (k *Pick) leave(at int64) {
	if e := k.at; e != nil {
		e.leave(k.tokens, at)
		k.pool.drop(e)
		k.at = nil
	}
}

// Done ends the reservation and tells how the request went.
func (k *Pick) Done(e Ending) {
	if !k.ended.CompareAndSwap(false, true) {
		return
	}
	p := k.pool
	now := e.At
	if now.IsZero() {
		now = p.set.opts.Now()
	}
	id := k.finish(&e, now)
	p.remember(k.blocks, id)
	k.blocks = nil
}

// finish does so under the lock. It gives the id of the endpoint that has the prompt now though it was not picked for it, or 0.
func (k *Pick) finish(e *Ending, now time.Time) (id uint16) {
	p := k.pool
	at := p.set.nanos(now)
	attempts := max(1, e.Attempts)
	p.mu.Lock()
	defer p.mu.Unlock()
	answered := k.answered(e, attempts)
	if e.OK {
		if answered != nil && answered == k.at {
			if attempts == 1 || k.moved {
				k.heard(e.TTFT, at)
			}
			k.passed(at)
		}
		p.took += 0.05 * (float64(at-k.begun)/1e9 - p.took)
	}
	failed := attempts - 1
	if e.Elsewhere {
		failed = attempts
	}
	if e.Attempts == 0 {
		failed = len(k.tried)
	}
	k.attemptsFailed(failed, e.Refused, now, at) // Move may have told of one that did not come to pass
	if answered != nil && (e.OK || e.Failed) {
		p.judge(answered, k.passOf(answered), e.OK, now, at)
	}
	if e.OK && answered != nil && answered != k.list[0] {
		id = answered.id
	}
	k.end(now, at)
	return id
}

// answered is the endpoint of the last attempt, or nil if it is not known.
func (k *Pick) answered(e *Ending, attempts int) *endpoint {
	switch {
	case e.Elsewhere:
		return nil
	case e.Endpoint != "":
		return k.pool.byKey[e.Endpoint]
	}
	if k.moved {
		return k.at
	}
	if attempts <= MaxEndpoints {
		return k.list[attempts-1]
	}
	return nil
}

// Drop ends the reservation and tells nothing about the endpoint: the caller left, or what was answered was the caller's fault.
func (k *Pick) Drop() {
	if !k.ended.CompareAndSwap(false, true) {
		return
	}
	p := k.pool
	now := p.set.opts.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	k.end(now, p.set.nanos(now))
}

// end gives everything back. The caller holds the lock, and has set ended.
func (k *Pick) end(now time.Time, at int64) {
	p := k.pool
	if k.pass != (breaker.Pass{}) {
		// The place of one that tried a half-open endpoint is free again.
		k.pass.Drop()
		k.pass = breaker.Pass{}
		if e := k.list[0]; e.tripped {
			p.look(e, p.policy.Breaker, now, at)
		}
	}
	k.leave(at)
	p.requests--
	p.tokens -= k.tokens
	p.dispatch(now)
}

func compareKeys(a, b string) int { return cmp.Compare(a, b) }
