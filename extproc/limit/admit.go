package limit

import (
	"context"
	"time"
)

// outcome of one attempt to admit a request.
type outcome struct {
	refusal *Refusal // nil: it is admitted
	c       *counter // of the rule that refuses
	// maxWait is how long the request may wait; 0: not at all. Poll is when it is worth another attempt if nothing happens.
	maxWait, poll time.Duration
	waited        bool
}

// verdict is what one counter says.
type verdict struct {
	say  answer
	wait time.Duration // until there can be room; 0: unknown or never
	poll time.Duration // until it is worth asking again, if that is sooner
	src  source
}

type answer uint8

const (
	fits     answer = iota
	full            // there is no room now
	tooLarge        // there never will be
	down            // the store is away and the rule denies
	ask             // the pool is dry: ask the store
)

// try admits the request if all its counters do at one moment, waiting for the store where it must. Otherwise nothing
// is taken.
func (e *Engine) try(ctx context.Context, q *request) outcome {
	q.storeless = false
	var verdicts [len(q.g.few)]verdict
	vs := verdicts[:]
	if len(q.g.holds) > len(vs) {
		vs = make([]verdict, len(q.g.holds))
	}
	o, asks := e.decide(ctx, q, vs)
	if o.refusal != nil || !asks {
		return o
	}
	return e.commitExact(ctx, q, vs)
}

// decide is try without what the store is asked for one request alone, and says whether there is such. No counter
// is locked when it returns, or panics: whoever recovers would have locked its rules for good.
func (e *Engine) decide(ctx context.Context, q *request, vs []verdict) (o outcome, asks bool) {
	defer q.unlock()
	e.lock(q)
	for began := q.m.t; ; {
		dry, refused := false, false
		for i := range q.g.holds {
			h := &q.g.holds[i]
			vs[i] = e.evaluate(h, q)
			switch {
			case vs[i].say == ask:
				dry = true
			case vs[i].say != fits && !h.rule.Shadow:
				refused = true
			}
		}
		if refused {
			o = e.refuse(q, vs)
			break
		}
		if !dry {
			asks = e.commit(q, vs)
			break
		}
		e.await(ctx, q, vs, began)
	}
	e.tidyAll(q)
	return o, asks
}

// lock locks all counters of the request, in an order that all requests keep.
func (e *Engine) lock(q *request) {
	for i := range q.g.holds {
		h := &q.g.holds[i]
		h.c.mu.Lock()
		q.locked++
		if h.waits {
			h.waits = false
			h.pool.demand -= h.amount
		}
	}
}

// unlock unlocks what lock has locked.
func (q *request) unlock() {
	for q.locked > 0 {
		q.locked--
		q.g.holds[q.locked].c.mu.Unlock()
	}
}

// tidyAll tidies the pools of all counters of the request, which are locked.
func (e *Engine) tidyAll(q *request) {
	for i := range q.g.holds {
		if h := &q.g.holds[i]; h.c.pool != nil {
			e.tidy(h.c, h.rule, q.m)
		}
	}
}

// evaluate asks one counter whether the request fits. Nothing is taken.
func (e *Engine) evaluate(h *hold, q *request) verdict {
	c, r := h.c, h.rule
	mode := e.mode(r)
	if mode != Local {
		return e.evaluateShared(h, q, mode)
	}
	if r.WarnOnly {
		return verdict{say: fits, src: here}
	}
	if h.amount > r.capacity() {
		return verdict{say: tooLarge}
	}
	wait, ok := c.book.room(q.m, r.Limit, r.capacity(), h.amount+c.ahead)
	if ok && e.mayPass(h, q) {
		return verdict{say: fits, src: here}
	}
	return verdict{say: full, wait: max(wait, time.Millisecond), poll: max(wait, time.Millisecond)}
}

// mayPass says whether nobody waits for the counter, or it is this request's turn. Rules that refuse nothing have no queue.
func (e *Engine) mayPass(h *hold, q *request) bool {
	return h.c.queue.n == 0 || q.turn || h.rule.Shadow
}

// refuse makes the refusal: that of the rule that refuses for the longest, one that never admits first. The counters
// are locked.
func (e *Engine) refuse(q *request, vs []verdict) outcome {
	var worst *hold
	var wv verdict
	o := outcome{maxWait: 1<<63 - 1}
	var headers Headers
	for i := range q.g.holds {
		h, v := &q.g.holds[i], vs[i]
		headers.note(e.state(h.c, h.rule, q.m))
		if h.rule.Shadow || v.say == fits || v.say == ask {
			continue
		}
		if v.say == full {
			o.maxWait = min(o.maxWait, h.rule.MaxWait)
		} else {
			o.maxWait = 0
		}
		if worst == nil || wv.say != tooLarge && (v.say == tooLarge || v.wait > wv.wait) {
			worst, wv = h, v
		}
	}
	return e.refuseBy(q, worst, wv, headers, o)
}

// refuseBy makes the refusal of one rule, whose counter is locked.
func (e *Engine) refuseBy(q *request, h *hold, v verdict, headers Headers, o outcome) outcome {
	s := e.state(h.c, h.rule, q.m)
	r := &Refusal{
		Rule: h.rule, RetryAfter: v.wait, Need: h.amount, Limit: s.Limit, Remaining: max(s.Remaining, 0), Reset: s.Reset,
		Headers: headers,
	}
	switch {
	case v.say == tooLarge:
		r.Kind, r.RetryAfter = TooLarge, 0
	case v.say == down:
		r.Kind = StoreDown
	case h.rule.Algorithm == Calendar && h.rule.Unit != Concurrent:
		r.Kind = BudgetSpent
	}
	o.refusal, o.c, o.poll = r, h.c, max(v.poll, time.Millisecond)
	if h.rule.Unit == Requests && e.mode(h.rule) == Local && v.wait > o.maxWait {
		o.maxWait = 0 // nothing comes back before its time: waiting would be for nothing
	}
	return o
}

// commit takes what every counter said it has, and says whether Exact rules are left, which the store has to be asked for.
// The counters are locked.
func (e *Engine) commit(q *request, vs []verdict) (asks bool) {
	for i := range q.g.holds {
		h := &q.g.holds[i]
		switch {
		case vs[i].say != fits:
		case vs[i].src == exact:
			asks = true
		default:
			e.take(h, q.m, vs[i].src)
			e.note(q.g, h, q.m)
		}
	}
	return asks
}

// commitExact asks the store for the Exact rules, one after the other. If one refuses, all that was taken is given back.
func (e *Engine) commitExact(ctx context.Context, q *request, vs []verdict) outcome {
	for i := range q.g.holds {
		h := &q.g.holds[i]
		if vs[i].say != fits || vs[i].src != exact {
			continue
		}
		if o := e.takeExact(ctx, q, h); o.refusal != nil {
			e.undo(q.g)
			q.g.headers, q.g.warnings = Headers{}, nil
			return o
		}
	}
	return outcome{}
}

// take counts the hold's amount as reserved. The counter is locked.
func (e *Engine) take(h *hold, m moment, src source) {
	c := h.c
	if src == pooled || src == exact { // while the store answers, what was counted here drains at the whole rate
		c.book.room(m, h.rule.Limit, h.rule.capacity(), 0)
	}
	h.stamp = c.book.take(m, h.amount)
	h.source, h.pool = src, c.pool
	c.reserve(h, h.amount, m)
	c.counts.admitted++
	switch src {
	case pooled:
		e.takePooled(h, m)
	case unasked:
		c.counts.unasked++
		h.at, h.taken = e.store.clock(m), m.t
		c.pool.unasked += h.amount
		c.pool.owe(h.amount, h.at, m.t, c.period(m))
	case nowhere, here, exact:
	}
}

// note puts how the counter stands into the grant. The counter is locked.
func (e *Engine) note(g *Grant, h *hold, m moment) {
	r := h.rule
	if r.Unit != Requests && !r.Unit.tokens() && r.WarnAt == 0 {
		return
	}
	s := e.state(h.c, r, m)
	// What is only reserved warns of nothing: most of it comes back.
	if used := s.Limit - s.Remaining - h.c.unsettled(m); r.WarnAt > 0 && used >= r.WarnAt && !r.Shadow {
		g.warnings = append(g.warnings, Warning{Rule: r, Used: used, Limit: s.Limit})
	}
	s.Remaining = max(s.Remaining, 0)
	g.headers.note(s)
}

// wait keeps a refused request in the queue of the counter that refuses it until it is admitted, its time is over or its
// caller has gone. It holds nothing meanwhile. Only the first of a queue tries; it does so when something came free and
// when its time comes, and whoever goes wakes the next.
func (e *Engine) wait(ctx context.Context, q *request, o outcome) outcome {
	start := q.m.t
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	w := &waiter{tenant: q.tenant, wake: make(chan struct{}, 1)}
	for {
		if !o.c.join(w) {
			if o.refusal.Kind == Limited {
				o.refusal.Kind = QueueFull
			}
			return o
		}
		var over bool
		if o, over = e.waitAt(ctx, q, o, w, timer, start); over {
			return o
		}
		if o.maxWait == 0 || q.m.t >= start+int64(min(o.maxWait, 1<<62)) {
			return o
		}
	}
}

// waitAt is wait in the queue of one counter, which the request has joined. It ends, besides, when another counter refuses
// the request: then it is not over.
func (e *Engine) waitAt(ctx context.Context, q *request, o outcome, w *waiter, timer *time.Timer, start int64) (_ outcome, over bool) {
	c := o.c
	until := start + int64(min(o.maxWait, 1<<62))
	served := false
	defer func() { c.leave(w, served) }()
	for {
		pause := time.Duration(until - q.m.t)
		if c.first(w) {
			q.turn = true
			next := e.insist(ctx, q)
			q.turn = false
			if next.refusal == nil {
				served, next.waited = true, true
				return next, true
			}
			if next.maxWait == 0 || next.c != c {
				return next, false
			}
			o = next
			pause = min(pause, o.poll)
		}
		timer.Reset(max(pause, 0))
		select {
		case <-w.wake:
		case <-timer.C:
		case <-ctx.Done():
			q.m = e.moment()
			o.refusal.Kind = Canceled
			return o, true
		}
		if q.m = e.moment(); q.m.t >= until {
			return o, true
		}
	}
}

// join queues a waiter, if there is a place for it.
func (c *counter) join(w *waiter) bool {
	if !c.kind.waiting.enter(w.tenant, maxWaitingRule) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.queue.join(w, c.kind.rule.Load().Per == PerTarget) {
		return true
	}
	c.kind.waiting.exit(w.tenant)
	return false
}

func (c *counter) leave(w *waiter, served bool) {
	c.kind.waiting.exit(w.tenant)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue.leave(w, served)
	if served {
		c.counts.waited++
	}
}

func (c *counter) first(w *waiter) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queue.head() == w
}
