package pick

import (
	"context"
	"time"
)

// place chooses, unless others wait already. The caller holds mu.
func (p *pool) place(r *Request, found found, now time.Time) (*Pick, *Refusal) {
	if p.queue.n > 0 && !p.closed {
		return nil, &Refusal{Reason: Full, RetryAfter: p.retry()}
	}
	return p.choose(r, found, now)
}

// dispatch lets in those that wait, while there is room. It must be called, with mu held, after everything that may make room;
// so whoever waits needs no other sign, but for breakers: see watch. The first one waits for room of its own: a smaller request does not overtake it.
func (p *pool) dispatch(now time.Time) {
	for w := p.queue.head(); w != nil; w = p.queue.head() {
		pick, refusal := p.choose(w.request, p.search(w.request), now)
		if refusal != nil && refusal.Reason == Full {
			p.watch(now)
			return
		}
		p.queue.leave(w, refusal == nil)
		w.settle(pick, refusal)
	}
}

// wait takes a place in the queue and stays there. The caller holds mu, and wait unlocks it.
func (p *pool) wait(ctx context.Context, r *Request, refusal *Refusal) (*Pick, *Refusal) {
	a := p.policy.Admission
	w := &waiter{request: r, ready: make(chan struct{})}
	if a == nil || a.MaxWait <= 0 || ctx.Err() != nil {
		p.refused++
		p.mu.Unlock()
		return nil, refusal
	}
	out, ok := p.queue.join(w, a.MaxWaiting)
	if !ok {
		p.refused++
		p.mu.Unlock()
		return nil, refusal
	}
	if out != nil {
		p.refused++
		out.settle(nil, &Refusal{Reason: Full, RetryAfter: refusal.RetryAfter})
	}
	came := p.set.opts.Now()
	// Where another one has left, the one that is first now may need less room.
	p.dispatch(came)
	longest := a.MaxWait
	p.mu.Unlock()

	over := time.NewTimer(longest)
	defer over.Stop()
	select {
	case <-w.ready:
		return p.depart(w, "", came)
	case <-ctx.Done():
		return p.depart(w, Canceled, came)
	case <-over.C:
		return p.depart(w, TimedOut, came)
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
func (p *pool) depart(w *waiter, reason RefusalReason, came time.Time) (*Pick, *Refusal) {
	now := p.set.opts.Now()
	waited := max(0, now.Sub(came))
	p.mu.Lock()
	if !w.settled {
		p.queue.leave(w, false)
		p.refused++
		refusal := &Refusal{Reason: reason, RetryAfter: p.retry(), Waited: waited}
		p.dispatch(now) // the next one may need less room
		p.mu.Unlock()
		return nil, refusal
	}
	p.mu.Unlock()
	switch {
	case w.refusal != nil:
		w.refusal.Waited = waited
		return nil, w.refusal
	case reason == Canceled:
		w.pick.Drop()
		return nil, &Refusal{Reason: Canceled, Waited: waited}
	}
	w.pick.Waited = waited
	return w.pick, nil
}
