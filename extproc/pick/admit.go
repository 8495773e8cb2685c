package pick

import (
	"context"
	"time"
)

// A request that finds no room for its tokens holds back those that come after it, or it would never get any while smaller ones
// come. But only so far: of those that wait first in their tenants' lines, lookAhead are looked at, and one that fits may go
// before the head. The first mostOvertakes go anywhere; after that, and if their priority is lower than the head's, they go
// where the head is not: the endpoint that has the least to finish before the head fits gets nothing more.
const (
	lookAhead     = 16
	mostOvertakes = 16
)

// place chooses, unless others wait already. The caller holds mu.
func (p *pool) place(r *Request, found found, now time.Time) (*Pick, *Refusal) {
	if p.queue.n > 0 && !p.closed {
		return nil, &Refusal{Reason: Full, RetryAfter: p.retry()}
	}
	return p.choose(r, found, nil, now)
}

// try is place without a queue.
func (p *pool) try(r *Request, found found, now time.Time) (*Pick, *Refusal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pick, refusal := p.place(r, found, now)
	if refusal != nil && refusal.Reason == Full {
		p.refused++
	}
	return pick, refusal
}

// dispatch lets in those that wait, while there is room. It must be called, with mu held, after everything that may make room;
// so whoever waits needs no other sign, but for breakers: see watch.
func (p *pool) dispatch(now time.Time) {
	for w := p.queue.head(); w != nil; w = p.queue.head() {
		if !p.admit(w, nil, now) && !p.overtake(w, now) {
			p.watch(now)
			return
		}
	}
}

// admit settles a request that waits, unless there is no room for it but at except.
func (p *pool) admit(w *waiter, except *endpoint, now time.Time) bool {
	if fits, full := p.room(w, except, p.set.nanos(now)); full && !fits {
		return false
	}
	// What was found when it came may be out of date, and is good enough to see that there is no room.
	if tick := p.tick.Load(); tick != w.searched {
		w.found, w.searched = p.search(w.request), tick
	}
	pick, refusal := p.choose(w.request, w.found, except, now)
	if refusal != nil && refusal.Reason == Full {
		return false
	}
	p.queue.leave(w, refusal == nil)
	w.settle(pick, refusal)
	return true
}

// room says whether a request that waits fits anywhere, and whether anybody would do but is full.
func (p *pool) room(w *waiter, except *endpoint, at int64) (fits, full bool) {
	if p.closed || p.policy.Mode == Weights {
		return true, false
	}
	f := field{p: p, r: w.request, found: w.found, at: at, except: except}
	for _, e := range p.usable {
		if f.may(e, w.request.Tokens-f.cached(f.blocks(e))) {
			return true, f.full
		}
	}
	return false, f.full
}

// overtake lets one request in before the head, which has no room.
func (p *pool) overtake(head *waiter, now time.Time) bool {
	a := p.policy.Admission
	if a == nil || a.MaxTokens <= 0 || p.queue.n < 2 {
		return false // who is full is full for all
	}
	kept := p.soonest(head, p.set.nanos(now))
	looked := 0
	for _, l := range p.queue.levels {
		for s := l.turns.Front(); s != nil; s = s.Next() {
			w := s.Value.(*turn).line.Front().Value.(*waiter)
			if w == head {
				continue
			}
			if looked++; looked > lookAhead {
				return false
			}
			except := kept
			if head.overtaken < mostOvertakes && l.priority == head.request.Priority {
				except = nil
			}
			if p.admit(w, except, now) {
				head.overtaken++
				return true
			}
		}
	}
	return false
}

// soonest is the endpoint that the head waits for: that where the fewest tokens are in the way. Nobody is let in there, so it
// does not grow.
func (p *pool) soonest(head *waiter, at int64) (best *endpoint) {
	f := field{p: p, r: head.request, found: head.found, at: at}
	least := int64(0)
	for _, e := range p.usable {
		if e.blocked > at && !e.Panic {
			continue
		}
		if n := e.tokens - f.cached(f.blocks(e)); best == nil || n < least {
			best, least = e, n
		}
	}
	return best
}

// enter chooses, or takes a place in the queue, where w waits from then on.
func (p *pool) enter(ctx context.Context, r *Request, found found, now time.Time) (pick *Pick, refusal *Refusal, w *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pick, refusal = p.place(r, found, now)
	if refusal == nil || refusal.Reason != Full {
		return pick, refusal, nil
	}
	a := p.policy.Admission
	if a == nil || a.MaxWait <= 0 || ctx.Err() != nil {
		p.refused++
		return nil, refusal, nil
	}
	w = &waiter{request: r, ready: make(chan struct{}), found: found, searched: p.tick.Load(), came: p.set.opts.Now(), longest: a.MaxWait}
	out, ok := p.queue.join(w, a.MaxWaiting)
	if !ok {
		p.refused++
		return nil, refusal, nil
	}
	if out != nil {
		p.refused++
		out.settle(nil, &Refusal{Reason: Full, RetryAfter: refusal.RetryAfter})
	}
	// Where another one has left, the one that is first now may need less room.
	p.dispatch(w.came)
	return nil, nil, w
}

// wait stays in the queue until the request is settled, or its time is over.
func (p *pool) wait(ctx context.Context, w *waiter) (*Pick, *Refusal) {
	over := time.NewTimer(w.longest)
	defer over.Stop()
	select {
	case <-w.ready:
		return p.depart(w, "")
	case <-ctx.Done():
		return p.depart(w, Canceled)
	case <-over.C:
		return p.depart(w, TimedOut)
	}
}

// watch sets the alarm for the time when a breaker may let somebody in: there is no other sign of it. The caller holds mu.
func (p *pool) watch(now time.Time) {
	if p.watching {
		return
	}
	at := p.set.nanos(now)
	first := int64(0)
	for _, e := range p.usable {
		if e.tripped && (first == 0 || e.blocked < first) {
			first = max(1, e.blocked)
		}
	}
	if first == 0 {
		return
	}
	p.watching = true
	time.AfterFunc(max(10*time.Millisecond, time.Duration(first-at)), func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.watching = false
		p.dispatch(p.set.opts.Now())
	})
}

// depart ends the wait of a request, for a reason or because it was settled. Both may come together: what was settled counts,
// and goes back where nobody wants it any more.
func (p *pool) depart(w *waiter, reason RefusalReason) (*Pick, *Refusal) {
	now := p.set.opts.Now()
	waited := max(0, now.Sub(w.came))
	if refusal := p.give(w, reason, now); refusal != nil {
		refusal.Waited = waited
		return nil, refusal
	}
	if reason == Canceled {
		w.pick.Drop()
		return nil, &Refusal{Reason: Canceled, Waited: waited}
	}
	w.pick.Waited = waited
	return w.pick, nil
}

// give takes w out of the queue, unless it is settled already. The refusal is nil when it was given a pick.
func (p *pool) give(w *waiter, reason RefusalReason, now time.Time) *Refusal {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.settled {
		return w.refusal
	}
	p.queue.leave(w, false)
	p.refused++
	refusal := &Refusal{Reason: reason, RetryAfter: p.retry()}
	p.dispatch(now) // the next one may need less room
	return refusal
}
