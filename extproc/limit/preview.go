package limit

import (
	"context"
	"slices"
	"time"
)

// Preview is what Admit would say of a request that nobody sends.
type Preview struct {
	// Grant has the headers and warnings of the grant, the times of before, and reserves nothing; nil where the request is refused or there
	// are no rules.
	Grant   *Grant
	Refusal *Refusal
	// MaxWait is how long the request would wait for room before it is refused; 0: not at all.
	MaxWait   time.Duration
	Standings []Standing // of every rule, in the order of the rules
}

// Answer is what a rule says to a request.
type Answer uint8

// The answers.
const (
	Fits       Answer = iota
	NoRoom            // not now
	NeverFits         // it asks for more than the limit ever holds
	CannotTell        // the store is away and the rule denies then
)

// Standing is how one rule stands for a request, and what it says to it.
type Standing struct {
	State
	Subject string // whose counter it is; "": all share one
	Mode    Mode
	// Need is what the request would reserve, Reserved what running requests do.
	Need, Reserved int64
	Answer         Answer
	RetryAfter     time.Duration
	// Waiting requests are in the counter's queue.
	Waiting int
	// Unasked says that replicas share the counter and the store did not answer: what is shown is what this replica knows.
	Unasked bool
}

// Preview says what Admit would, and how each rule stands. Nothing is counted, reserved or leased, and no counter is made. For rules
// that replicas share it asks the store how the counter stands; the time after which there is room is then that of the whole limit,
// which is late rather than early.
func (e *Engine) Preview(ctx context.Context, rules []*Rule, s Subject, est Estimate) Preview {
	if len(rules) == 0 {
		return Preview{}
	}
	g := &Grant{e: e}
	g.done.Store(true) // it is nobody's to settle
	g.holds = g.few[:0]
	q := request{g: g, m: e.moment(), tenant: s.Tenant}
	for i, r := range rules {
		g.insert(hold{rule: r, amount: max(r.need(&est), 1), c: e.reg.look(r, r.subject(&s), 1<<63+uint64(i))})
	}
	defer g.unpin()
	reads := make([]reading, len(g.holds))
	for i := range g.holds {
		reads[i] = e.read(ctx, &g.holds[i], q.m)
	}
	q.m = e.moment() // asking took a while
	return e.preview(&q, rules, reads)
}

// reading is what the store says of a counter; the zero value is of one that it was not asked for.
type reading struct {
	shared bool
	a      Acquired
	err    error
}

// read asks the store how a counter stands, by asking for more than there can ever be: the answer to that takes nothing.
func (e *Engine) read(ctx context.Context, h *hold, m moment) reading {
	if e.mode(h.rule) == Local {
		return reading{}
	}
	if e.store.down.Load() {
		return reading{shared: true, err: context.DeadlineExceeded}
	}
	var rc Counter
	h.c.with(func() { rc = h.c.remote(h.rule, m) })
	call, cancel := context.WithTimeout(ctx, e.store.timeout)
	defer cancel()
	never := 2*h.rule.capacity() + 2
	a, err := e.store.Remote.Acquire(call, rc, never, never)
	return reading{shared: true, a: a, err: err}
}

// preview asks every counter, all of them locked.
func (e *Engine) preview(q *request, rules []*Rule, reads []reading) (out Preview) {
	defer q.unlock()
	e.lock(q)
	vs := make([]verdict, len(reads))
	refused := false
	for i := range q.g.holds {
		h := &q.g.holds[i]
		defer e.lend(h, &reads[i], q.m)()
		vs[i] = e.foresee(h, q, &reads[i])
		refused = refused || vs[i].say != fits && !h.rule.Shadow
	}
	out.Standings = make([]Standing, 0, len(rules))
	for _, r := range rules {
		for i := range q.g.holds {
			if h := &q.g.holds[i]; h.rule == r {
				out.Standings = append(out.Standings, e.standing(h, &vs[i], &reads[i], q.m))
			}
		}
	}
	if refused {
		o := e.refuse(q, vs)
		out.Refusal = o.refusal
		if o.maxWait > 0 {
			out.MaxWait = o.maxWait
		}
		return out
	}
	for i := range q.g.holds {
		if h := &q.g.holds[i]; vs[i].say == fits {
			e.noteBefore(q.g, h, q.m)
		}
	}
	out.Grant = q.g
	return out
}

// lend makes a counter show what the store has said, until what it returns is called. The counter is locked all the while.
func (e *Engine) lend(h *hold, r *reading, m moment) (giveBack func()) {
	if !r.shared {
		return func() {}
	}
	c, before := h.c, h.c.pool
	p := newPool(h.rule)
	if before != nil {
		*p = *before
		p.batches, p.owed = slices.Clone(before.batches), slices.Clone(before.owed)
	}
	if r.err == nil {
		p.answered, p.answer, p.answerT, p.answerP = true, r.a, m.t, c.period(m)
	}
	c.pool = p
	return func() { c.pool = before }
}

// foresee is evaluate, for a counter that shows what the store has said. Nothing is asked for.
func (e *Engine) foresee(h *hold, q *request, r *reading) verdict {
	if !r.shared {
		return e.evaluate(h, q)
	}
	v := e.evaluateShared(h, q, e.mode(h.rule))
	if v.say != ask && (v.say != fits || v.src != exact) {
		return v
	}
	if r.err != nil {
		return e.alone(h, q)
	}
	if free := max(r.a.Remaining, 0); h.amount <= free || v.say == ask && h.amount <= free+h.c.pool.avail {
		return verdict{say: fits, src: v.src}
	}
	wait := max(r.a.Reset, time.Millisecond)
	if h.rule.Unit == Concurrent {
		wait = gaugeWait
	}
	return verdict{say: full, wait: wait, poll: min(wait, exactPoll)}
}

func (e *Engine) standing(h *hold, v *verdict, r *reading, m moment) Standing {
	return Standing{
		State: e.state(h.c, h.rule, m), Subject: h.c.subject, Mode: e.mode(h.rule), Need: h.amount, Reserved: h.c.reserved,
		Answer:     [...]Answer{fits: Fits, full: NoRoom, tooLarge: NeverFits, down: CannotTell}[v.say],
		RetryAfter: v.wait, Waiting: h.c.queue.n, Unasked: r.shared && r.err != nil,
	}
}

// noteBefore is note for what is not taken: the headers are those that the grant would have, but for the time until the limit is whole.
func (e *Engine) noteBefore(g *Grant, h *hold, m moment) {
	r := h.rule
	s := e.state(h.c, r, m)
	if used := s.Limit - s.Remaining - h.c.unsettled(m); r.WarnAt > 0 && used >= r.WarnAt && !r.Shadow {
		g.warnings = append(g.warnings, Warning{Rule: r, Used: used, Limit: s.Limit})
	}
	s.Remaining = max(s.Remaining-h.amount, 0)
	g.headers.note(s)
}

// look finds the counter of a subject and pins it, or makes one that nobody else sees: with that serial, which is beyond those of all
// that others see, as that of a new one is.
func (g *registry) look(r *Rule, subject string, serial uint64) *counter {
	id := kindKeyOf(r)
	if v, ok := g.kinds.Load(id); ok {
		k := v.(*kind)
		s := g.shard(k, subject)
		s.mu.RLock()
		defer s.mu.RUnlock()
		if c := s.counters[counterKey{k, subject}]; c != nil {
			c.pins.Add(1)
			return c
		}
	}
	c := &counter{kind: g.newKind(id, r), subject: subject, serial: serial, book: newBook(r)}
	c.pins.Add(1)
	return c
}
