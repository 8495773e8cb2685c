package limit

import "context"

// aheadShare is how many requests of a kind a limit must have room for before some of them are let in ahead of their coming. Near its
// limit every request is decided when it comes.
const aheadShare = 16

// Aheadable says whether requests can be let in by a rule ahead of their coming, and else why not, in words.
func (e *Engine) Aheadable(r *Rule) (why string, ok bool) {
	if e.mode(r) == Exact {
		return "asks the shared store for every request", false
	}
	return "", true
}

// Ahead reserves what a request may use that has not come yet. It waits for nothing and refuses nobody: where a rule cannot be asked here
// and now, has less room than for many such requests, lets somebody wait, or has a warning to give, ok is false. A grant that is nil with ok
// reserves nothing, because there are no rules.
//
// Came is called when the request has come; then the grant is like any other. Where none comes, it is cancelled.
func (e *Engine) Ahead(rules []*Rule, s Subject, est Estimate) (g *Grant, ok bool) {
	if len(rules) == 0 {
		return nil, true
	}
	for _, r := range rules {
		if _, ok := e.Aheadable(r); !ok {
			return nil, false
		}
	}
	q := e.request(rules, s, est)
	if !e.takeAhead(&q) {
		q.g.unpin()
		return nil, false
	}
	return q.g, true
}

// takeAhead takes what every counter has plenty of. No counter is locked when it returns.
func (e *Engine) takeAhead(q *request) bool {
	defer q.unlock()
	e.lock(q)
	var few [len(q.g.few)]source
	from := few[:]
	if len(q.g.holds) > len(from) {
		from = make([]source, len(q.g.holds))
	}
	for i := range q.g.holds {
		h := &q.g.holds[i]
		v := e.evaluate(h, q)
		if v.say != fits || v.src != here && v.src != pooled || !e.plenty(h, q.m) {
			return false
		}
		from[i] = v.src
	}
	for i := range q.g.holds {
		h := &q.g.holds[i]
		// The book has it once it comes: it would forget it earlier than that window ends.
		h.source, h.pool, h.stamp, h.ahead = from[i], h.c.pool, h.c.period(q.m), true
		h.c.ahead += h.amount
		if from[i] == pooled {
			e.takePooled(h, q.m)
		}
		e.note(q.g, h, q.m)
	}
	e.tidyAll(q)
	return true
}

// plenty says whether a counter, which is locked, has room for many requests like this one, and nothing to warn of.
func (e *Engine) plenty(h *hold, m moment) bool {
	r := h.rule
	if r.WarnOnly && r.WarnAt == 0 {
		return true
	}
	s := e.state(h.c, r, m)
	if r.WarnAt > 0 && s.Limit-s.Remaining+h.c.ahead >= r.WarnAt {
		return false
	}
	return r.WarnOnly || (s.Remaining-h.c.ahead)/aheadShare >= h.amount
}

// arrive ends the time before a request has come. The counter is locked.
func (h *hold) arrive(m moment) {
	h.ahead = false
	h.c.ahead -= h.amount
	h.stamp = h.c.book.take(m, h.amount)
	h.c.reserve(h, h.amount, m)
	h.c.counts.admitted++
}

// Standing is what answers say of limits now. Requests that have not come count for nothing.
func (e *Engine) Standing(rules []*Rule, s Subject) (out Headers) {
	m := e.moment()
	for i, r := range rules {
		if r.Unit != Requests && !r.Unit.tokens() {
			continue
		}
		c := e.reg.look(r, r.subject(&s), 1<<63+uint64(i))
		c.with(func() {
			state := e.state(c, r, m)
			state.Remaining = max(state.Remaining, 0)
			out.note(state)
		})
		c.pins.Add(-1)
	}
	return out
}

// insist is try that takes back what stands in the way and is nobody's yet.
func (e *Engine) insist(ctx context.Context, q *request) outcome {
	returned := e.returned()
	o := e.try(ctx, q)
	if o.refusal != nil && e.reclaim(o.c, returned) {
		q.m = e.moment()
		o = e.try(ctx, q)
	}
	return o
}

// returned is the number of grants that were cancelled before their requests came.
func (e *Engine) returned() uint64 {
	if e.kept == nil {
		return 0
	}
	return e.kept.Returned()
}

// reclaim takes back what is reserved for requests that have not come, where a counter that refuses somebody has such. It says whether
// anything has been taken back since as many had been returned.
func (e *Engine) reclaim(c *counter, returned uint64) bool {
	if e.kept == nil {
		return false
	}
	ahead := int64(0)
	c.with(func() { ahead = c.ahead })
	if ahead > 0 {
		e.kept.Revoke()
	}
	return e.kept.Returned() != returned
}

// Came notes that a request has come which was let in ahead.
func (g *Grant) Came() {
	if g == nil {
		return
	}
	m := g.e.moment()
	for i := range g.holds {
		h := &g.holds[i]
		h.c.with(func() { h.arrive(m) })
		if g.e.metrics != nil {
			g.e.countAdmitted(h)
		}
	}
}

// Reserved is what the grant reserves with a rule; 0 where it has none of it.
func (g *Grant) Reserved(r *Rule) int64 {
	if g == nil || r == nil {
		return 0
	}
	for i := range g.holds {
		if h := &g.holds[i]; h.rule == r {
			return h.amount
		}
	}
	return 0
}
