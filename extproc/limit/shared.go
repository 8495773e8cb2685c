package limit

import (
	"context"
	"math/bits"
	"sync"
	"time"
)

// exactPoll is how often the first of a queue asks the store again for room that only other replicas can make.
const exactPoll = 100 * time.Millisecond

// gatherFor is how long what a lease owes to the store is gathered.
const gatherFor = 20 * time.Millisecond

// evaluateShared is evaluate for a rule that replicas share.
func (e *Engine) evaluateShared(h *hold, q *request, mode Mode) verdict {
	c, r, m := h.c, h.rule, q.m
	if c.pool == nil {
		e.openPool(c, r, m)
	}
	p := c.pool
	p.gather = mode == Lease
	p.expire(m, c.period(m))
	if r.WarnOnly { // needs no leave: what the pool lacks is owed
		return verdict{say: fits, src: pooled}
	}
	if h.amount > r.capacity() {
		return verdict{say: tooLarge}
	}
	if !e.mayPass(h, q) {
		wait := time.Duration(max(p.retryAt-m.t, int64(time.Millisecond)))
		return verdict{say: full, wait: wait, poll: min(wait, exactPoll)}
	}
	if mode == Lease && p.avail >= h.amount {
		return verdict{say: fits, src: pooled}
	}
	if e.store.down.Load() || q.storeless || m.t < p.failedUntil {
		return e.alone(h, q)
	}
	denied := m.t < p.deniedUntil && h.amount >= p.deniedNeed
	if r.Shadow && !denied { // nobody waits for a rule that refuses nobody: what the pool lacks is owed
		wait, ok := c.book.room(m, r.Limit, r.capacity(), h.amount+c.ahead)
		if ok {
			return verdict{say: fits, src: pooled}
		}
		return verdict{say: full, wait: wait, poll: wait}
	}
	if mode == Exact {
		return verdict{say: fits, src: exact}
	}
	if denied {
		wait := time.Duration(max(p.retryAt-m.t, 1))
		return verdict{say: full, wait: wait, poll: min(wait, time.Duration(p.deniedUntil-m.t))}
	}
	return verdict{say: ask}
}

// openPool begins to share a counter. What runs already was counted here alone; where units are held until they are given
// back, or to the end of a period, the store is told of it.
func (e *Engine) openPool(c *counter, r *Rule, m moment) {
	p := newPool(r)
	c.pool = p
	if n := c.unsettled(m); n > 0 && p.merge == 1<<63-1 {
		p.inherited, p.inheritedIn = n, c.period(m)
		p.owe(n, e.store.clock(m), m.t, p.inheritedIn)
	}
}

// alone decides without the store.
func (e *Engine) alone(h *hold, q *request) verdict {
	r, m := h.rule, q.m
	yes := verdict{say: fits, src: unasked}
	switch r.OnFailure {
	case Allow:
		return yes
	case Deny:
		return verdict{say: down, wait: e.store.retry()}
	case LocalShare:
	}
	n := e.store.replicas()
	capacity := max(r.capacity()/n, 1)
	if h.amount > capacity { // more than the share: only the store could admit it
		return verdict{say: down, wait: e.store.retry()}
	}
	wait, ok := h.c.book.room(m, max(r.Limit/n, 1), capacity, h.amount+h.c.ahead)
	if !ok {
		return verdict{say: full, wait: wait, poll: min(wait, exactPoll)}
	}
	if wait = h.c.restOfAll(r, m, n, h.amount); wait > 0 {
		return verdict{say: full, wait: wait, poll: min(wait, exactPoll)}
	}
	return yes
}

// restOfAll bounds what a replica admits alone by its part of what was left for all when the store last answered, as long
// as that counts: what other replicas had used then is still used. It returns the time for which there is no room, or 0.
func (c *counter) restOfAll(r *Rule, m moment, n, need int64) time.Duration {
	p := c.pool
	period := c.period(m)
	if p.gauge || !p.current(m, period) {
		return 0
	}
	rest := max(p.answer.Remaining, 0) / n
	if r.Algorithm == TokenBucket {
		rest += flow(m.t-p.answerT, max(r.Limit/n, 1), p.span)
	}
	if p.unasked+need <= rest {
		return 0
	}
	if b, ok := c.book.(*calendar); ok {
		return time.Duration(max(b.end-m.wall, 1))
	}
	return time.Duration(max(p.answerT+p.span-m.t, 1))
}

// flow is what flows into a bucket of limit per window in a time below a window.
func flow(elapsed, limit, window int64) int64 {
	hi, lo := bits.Mul64(uint64(max(elapsed, 0)), uint64(limit))
	if hi >= uint64(window) {
		return limit
	}
	q, _ := bits.Div64(hi, lo, uint64(window))
	return int64(min(q, uint64(limit)))
}

// await asks the store for what pools lack and waits for it, holding no lock and nothing else. The counters are locked before and
// after.
func (e *Engine) await(ctx context.Context, q *request, vs []verdict, began int64) {
	var done []chan struct{}
	for i := range q.g.holds {
		h := &q.g.holds[i]
		if vs[i].say != ask {
			continue
		}
		p := h.c.pool
		h.waits, h.pool = true, p
		p.demand += h.amount
		if !p.asking {
			e.ask(h.c, h.rule, q.m, max(h.amount-p.avail, 1))
		}
		done = append(done, p.done)
	}
	e.tidyAll(q)
	q.unlock()
	timer := time.NewTimer(time.Duration(max(began+2*int64(e.store.timeout)-q.m.t, 0)))
	defer timer.Stop()
	over := false
	for _, d := range done {
		if over {
			break
		}
		select {
		case <-d:
		case <-timer.C:
			over = true
		case <-ctx.Done():
			over = true
		}
	}
	q.m = e.moment()
	e.lock(q)
	q.storeless = q.storeless || over
}

// ask starts an Acquire for a pool: enough for who waits for it and for the next moments. The counter is locked.
func (e *Engine) ask(c *counter, r *Rule, m moment, least int64) {
	p := c.pool
	target := max(p.demand, p.target(r, e.store.replicas()))
	want := min(max(target-p.avail, least), max(r.capacity(), least))
	p.asking, p.done = true, make(chan struct{})
	rc, period := c.remote(r, m), c.period(m)
	if e.spawn(func() {
		a, err := e.store.acquire(e.ctx, rc, least, want, m.wall)
		now := e.moment()
		c.mu.Lock()
		defer c.mu.Unlock()
		p.asking = false
		close(p.done)
		if c.pool != p { // the store has been taken away
			c.queue.kick()
			return
		}
		if err != nil {
			p.failedUntil = now.t + holdOff
		} else {
			p.learn(a, now, least, period)
			p.add(batch{n: a.Granted, at: e.store.stamp(a, m, now), taken: m.t, fresh: now.t, period: period})
		}
		p.expire(now, c.period(now))
		c.queue.kick()
		e.tidy(c, r, now)
	}) {
		return
	}
	p.asking, p.failedUntil = false, m.t+holdOff // the engine has ended
	close(p.done)
}

// takePooled takes a hold's amount from the pool, and asks for more before it is dry. Only for WarnOnly and Shadow
// the pool may not have it all.
func (e *Engine) takePooled(h *hold, m moment) {
	c, r, p := h.c, h.rule, h.c.pool
	got, at, taken := p.take(h.amount)
	if got == 0 {
		at, taken = e.store.clock(m), m.t
	}
	h.at, h.taken = at, taken
	p.owe(h.amount-got, e.store.clock(m), m.t, c.period(m))
	p.used(m, h.amount)
	if p.asking || m.t < p.deniedUntil || m.t < p.failedUntil || e.store.down.Load() {
		return
	}
	if target := p.target(r, e.store.replicas()); p.avail < target/2 || got < h.amount {
		e.ask(c, r, m, min(h.amount, target))
	}
}

// takeExact asks the store for one request. The counters are not locked.
func (e *Engine) takeExact(ctx context.Context, q *request, h *hold) outcome {
	c, r, asked := h.c, h.rule, q.m
	var rc Counter
	var period int64
	c.with(func() { rc, period = c.remote(r, asked), c.period(asked) })
	a, err := e.store.acquire(ctx, rc, h.amount, h.amount, asked.wall)
	q.m = e.moment()
	c.mu.Lock()
	defer c.mu.Unlock()
	v := verdict{say: fits, src: exact}
	switch {
	case c.pool == nil: // the store has been taken away meanwhile
		v = e.evaluate(h, q)
	case err != nil:
		v = e.alone(h, q)
	case a.Granted > 0:
		c.pool.learn(a, q.m, h.amount, period)
		h.at, h.taken = e.store.stamp(a, asked, q.m), asked.t
	default:
		c.pool.learn(a, q.m, h.amount, period)
		wait := time.Duration(c.pool.retryAt - q.m.t)
		v = verdict{say: full, wait: wait, poll: min(wait, exactPoll)}
	}
	switch {
	case v.say == fits:
		e.take(h, q.m, v.src)
		e.note(q.g, h, q.m)
		e.tidy(c, r, q.m)
		return outcome{}
	}
	o := outcome{}
	if v.say == full {
		o.maxWait = r.MaxWait
	}
	headers := q.g.headers
	s := e.state(c, r, q.m)
	s.Remaining = max(s.Remaining, 0)
	headers.note(s)
	return e.refuseBy(q, h, v, headers, o)
}

// settleStored tells the store of a hold that has ended with delta more than it had reserved. The counter is locked.
func (e *Engine) settleStored(h *hold, m moment, delta int64) {
	switch p := h.c.pool; {
	case p == nil:
	case h.pool != p:
		e.settleInherited(h, m, h.amount+delta)
	case h.source != here && delta != 0:
		e.settleShared(h, m, delta)
	}
}

// spendStored tells the store of a hold that goes on and has become larger by delta. The counter is locked.
func (e *Engine) spendStored(h *hold, m moment, delta int64) {
	switch p := h.c.pool; {
	case p == nil:
	case h.pool == p:
		if h.source != here {
			e.settleShared(h, m, delta)
		}
	case p.inherits(h.c.period(m)) > 0:
		p.inherited += delta
		p.owe(delta, e.store.clock(m), m.t, p.inheritedIn)
		e.tidy(h.c, h.rule, m)
	}
}

// settleInherited ends a hold that is older than the pool, and of which the store was told when the pool was made. The
// counter is locked.
func (e *Engine) settleInherited(h *hold, m moment, used int64) {
	c, p := h.c, h.c.pool
	n := min(h.amount, p.inherits(c.period(m)))
	if n == 0 || p.inheritedIn != 0 && h.stamp != p.inheritedIn {
		return
	}
	p.inherited -= n
	p.owe(used-n, e.store.clock(m), m.t, p.inheritedIn)
	e.tidy(c, h.rule, m)
}

// settleShared corrects what the store counts for a hold. The counter is locked.
func (e *Engine) settleShared(h *hold, m moment, delta int64) {
	c, p := h.c, h.c.pool
	period := c.period(m)
	if _, ok := c.book.(*calendar); ok && h.stamp != period {
		return // that period is over
	}
	gone := p.window > 0 && m.t-h.taken >= p.window // the window of its units has been forgotten
	if h.source == unasked {
		p.unasked = max(p.unasked+delta, 0)
	}
	switch {
	case delta < 0 && gone:
	case delta < 0 && h.source == pooled && p.window > 0 && m.t-h.taken > p.merge:
		// Used again now it counts from now: the store moves it within the window, whose sum stays as it is.
		keep := -delta
		if p.demand == 0 {
			keep = min(keep, max(share(h.rule, e.store.replicas())-p.avail, 0))
		}
		now := e.store.clock(m)
		p.owe(delta, h.at, h.taken, period)
		p.owe(keep, now, m.t, period)
		p.add(batch{n: keep, at: now, taken: m.t, fresh: m.t, period: period})
	case delta < 0 && h.source == pooled:
		p.add(batch{n: -delta, at: h.at, taken: h.taken, fresh: m.t, period: period})
	case delta < 0:
		p.owe(delta, h.at, h.taken, period)
	case h.source == pooled:
		p.expire(m, period)
		got, _, _ := p.take(delta)
		p.owe(delta-got, e.store.clock(m), m.t, period)
	default:
		p.owe(delta, e.store.clock(m), m.t, period)
	}
	e.tidy(c, h.rule, m)
}

// tidy returns what the pool should not hold and sees to it that the store hears what is owed. The counter is locked.
func (e *Engine) tidy(c *counter, r *Rule, m moment) {
	p := c.pool
	if p == nil {
		return
	}
	if p.avail > 0 {
		p.trim(share(r, e.store.replicas()), c.period(m))
	}
	if p.avail > 0 && !p.armed {
		e.arm(c, r, m)
	}
	e.flush(c)
}

// arm sets the timer that returns what lies idle.
func (e *Engine) arm(c *counter, r *Rule, m moment) {
	p := c.pool
	p.armed = true
	time.AfterFunc(time.Duration(max(p.batches[0].fresh+p.life-m.t, int64(time.Millisecond))), func() {
		now := e.moment()
		c.mu.Lock()
		defer c.mu.Unlock()
		p.armed = false
		if e.ctx.Err() != nil || c.pool != p {
			return
		}
		period := c.period(now)
		p.expire(now, period)
		p.idle(now, period)
		e.tidy(c, r, now)
	})
}

// flush starts telling the store what is owed, unless that is under way or the store is away. What leases owe is gathered for a
// moment, so that the calls do not grow with the requests. The counter is locked.
func (e *Engine) flush(c *counter) {
	p := c.pool
	if p == nil || len(p.owed) == 0 || p.flushing || e.store.away() {
		return
	}
	if !p.gather {
		p.flushing = e.spawn(func() { e.tell(c) })
		return
	}
	p.flushing = true
	time.AfterFunc(gatherFor, func() {
		if !e.spawn(func() { e.tell(c) }) {
			c.with(func() { p.flushing = false })
		}
	})
}

// tell tells the store what is owed, one piece after the other; what comes meanwhile joins the pieces that wait.
func (e *Engine) tell(c *counter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pool
	for p != nil && c.pool == p && len(p.owed) > 0 && !e.store.away() {
		o := p.owed[0]
		p.owed = append(p.owed[:0], p.owed[1:]...)
		m := e.moment()
		if p.window > 0 && m.t-o.taken >= p.window {
			continue
		}
		r := c.kind.rule.Load()
		rc := c.remote(r, m)
		if !rc.PeriodStart.IsZero() {
			rc.PeriodStart, rc.PeriodEnd = r.PeriodAt(time.Unix(0, o.period))
		}
		c.mu.Unlock()
		err := e.store.adjust(rc, o.n, time.Unix(0, o.at), m.wall)
		c.mu.Lock()
		if err == nil || c.pool != p {
			continue
		}
		if o.n > 0 && p.merge != 1<<63-1 { // counted twice at worst; of the others Remote keeps the sum
			p.owe(o.n, o.at, o.taken, o.period)
		}
		time.AfterFunc(time.Duration(holdOff), func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			e.flush(c)
		})
		break
	}
	if p != nil {
		p.flushing = false
	}
}

// flushAll tells the store everything: it has come back.
func (e *Engine) flushAll() {
	e.reg.each(func(c *counter) {
		if c.pool != nil {
			c.pool.failedUntil = 0
			e.flush(c)
		}
		c.queue.kick()
	})
}

// drain returns all pools.
func (e *Engine) drain(ctx context.Context) {
	const workers = 16
	list := make(chan *counter)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for c := range list {
				if ctx.Err() == nil {
					e.tell(c)
				}
			}
		})
	}
	var all []*counter
	m := e.moment()
	e.reg.each(func(c *counter) {
		p := c.pool
		if p == nil {
			return
		}
		p.expire(m, c.period(m))
		p.demand = 0
		p.trim(0, c.period(m))
		if len(p.owed) > 0 {
			all = append(all, c)
		}
	})
	for _, c := range all {
		list <- c
	}
	close(list)
	wg.Wait()
}
