package limit

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Outcome is what became of a request at one rule.
type Outcome uint8

// The outcomes.
const (
	Admitted      Outcome = iota // at once
	AdmittedLate                 // after it waited
	Refused                      // by this rule
	ShadowRefused                // admitted, and would not have been if the rule were enforced
	Unasked                      // counted besides Admitted: the store was away and OnFailure let it pass
)

// Metrics takes what happens. Its methods are called on the path of requests and from many goroutines.
type Metrics interface {
	// Count counts one request at one rule. A refused request is counted at the rule that is named in the refusal alone.
	Count(r *Rule, o Outcome)
}

// Options of an Engine.
type Options struct {
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
	// Remote is the store that replicas share. Nil: every rule is Local.
	Remote Remote
	// Timeout of one call to Remote; a request that needs leased units waits for two at most. 0: 100 ms.
	Timeout time.Duration
	// MaxCounters bounds memory: about 1 KB each. 0: 262,144.
	MaxCounters int
	// Log hears of the store going and coming back. Nil: nobody.
	Log *slog.Logger
	// Metrics may be nil.
	Metrics Metrics
	// Reclaimer has the grants of Ahead. Nil: there are none.
	Reclaimer Reclaimer
}

// Reclaimer keeps grants of requests that have not come.
type Reclaimer interface {
	// Revoke cancels all of them, so that nobody is refused or has to wait for what nobody uses.
	Revoke() int
	// Returned is how many were cancelled so far, by whomever.
	Returned() uint64
}

const (
	defaultTimeout     = 100 * time.Millisecond
	defaultMaxCounters = 1 << 18
	// sweepEvery a part of the counters is looked through for those that say nothing any more; all in about 16 s.
	sweepEvery = time.Second
	sweepParts = 16
)

// Engine admits requests. All its methods may be called from many goroutines.
type Engine struct {
	now     func() time.Time
	epoch   time.Time
	metrics Metrics
	kept    Reclaimer
	reg     registry
	store   *store // nil without a Remote

	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
	ending sync.Mutex // guards ended, and work against a goroutine that comes too late
	ended  bool
}

// New starts an engine. It runs a goroutine until Close.
func New(o Options) *Engine {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.MaxCounters <= 0 {
		o.MaxCounters = defaultMaxCounters
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	e := &Engine{now: o.Now, epoch: o.Now(), metrics: o.Metrics, kept: o.Reclaimer}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.reg.init(o.MaxCounters)
	if o.Remote != nil {
		e.store = &store{
			Remote: o.Remote, timeout: o.Timeout, log: o.Log, ctx: e.ctx, spawn: e.spawn, back: e.flushAll, now: o.Now,
		}
	}
	e.spawn(e.sweep)
	return e
}

// Close gives back what the pools hold, tells the store what it does not know yet, and ends. It does so until ctx ends. Call it
// when no request comes any more and all grants are settled.
func (e *Engine) Close(ctx context.Context) {
	if e.store != nil {
		e.drain(ctx)
	}
	e.ending.Lock()
	e.ended = true
	e.ending.Unlock()
	e.cancel()
	e.work.Wait()
}

// spawn runs f in a goroutine that Close waits for. After Close it does not, and says so.
func (e *Engine) spawn(f func()) bool {
	e.ending.Lock()
	defer e.ending.Unlock()
	if !e.ended {
		e.work.Go(f)
	}
	return !e.ended
}

func (e *Engine) moment() moment {
	now := e.now()
	return moment{t: max(int64(now.Sub(e.epoch)), 0) + 1, wall: now.UnixNano()}
}

func (e *Engine) sweep() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for i := 0; ; {
		select {
		case <-e.ctx.Done():
			return
		case <-tick.C:
		}
		m := e.moment()
		for range shards / sweepParts {
			e.reg.sweep(i, m)
			i = (i + 1) % shards
		}
	}
}

// mode is how a rule is counted.
func (e *Engine) mode(r *Rule) Mode {
	if e.store == nil || e.store.detached.Load() {
		return Local
	}
	if r.Shadow && r.Sharing == Exact { // it refuses nobody, so nobody waits for its answers
		return Lease
	}
	return r.Sharing
}

// request is one call of Admit.
type request struct {
	g      *Grant
	m      moment
	tenant string
	// turn says that the request is the first of a queue: it goes before whoever waits elsewhere.
	turn bool
	// storeless says that it has waited for the store long enough.
	storeless bool
	locked    int // counters of g that are locked, from the first on
}

// Admit reserves what a request may use with every rule that applies to it, or with none. It returns a grant or a refusal,
// or neither when there are no rules. It waits for room as long as all the rules that refuse allow (Rule.MaxWait) and
// ctx lasts; it waits for the store only when the pool of a Lease is dry and for an Exact rule, never longer than two
// Options.Timeout per such rule.
func (e *Engine) Admit(ctx context.Context, rules []*Rule, s Subject, est Estimate) (*Grant, *Refusal) {
	if len(rules) == 0 {
		return nil, nil
	}
	q := e.request(rules, s, est)
	g := q.g
	done := false
	defer func() {
		if !done { // a panic that somebody may recover
			e.undo(g)
			g.unpin()
		}
	}()
	start := q.m
	o := e.insist(ctx, &q)
	if o.refusal != nil && o.maxWait > 0 {
		o = e.wait(ctx, &q, o)
	}
	e.count(&q, &o)
	done = true
	if o.refusal != nil {
		g.unpin()
		o.refusal.Waited = time.Duration(q.m.t - start.t)
		return nil, o.refusal
	}
	return g, nil
}

// request asks for what a request may use with every rule; nothing is taken yet.
func (e *Engine) request(rules []*Rule, s Subject, est Estimate) request {
	g := &Grant{e: e}
	g.holds = g.few[:0]
	q := request{g: g, m: e.moment(), tenant: s.Tenant}
	for _, r := range rules {
		g.insert(hold{
			rule: r, amount: max(r.need(&est), 1), // at least 1: a spent limit refuses what costs nothing as well
			c: e.reg.counter(r, r.subject(&s), q.m),
		})
	}
	return q
}

// insert keeps holds in the order in which counters are locked. Of a counter that is there already nothing is taken twice.
func (g *Grant) insert(h hold) {
	i := len(g.holds)
	for i > 0 && g.holds[i-1].c.serial >= h.c.serial {
		i--
	}
	if i < len(g.holds) && g.holds[i].c == h.c {
		h.c.pins.Add(-1)
		return
	}
	g.holds = append(g.holds, hold{})
	copy(g.holds[i+1:], g.holds[i:])
	g.holds[i] = h
}

func (g *Grant) unpin() {
	for i := range g.holds {
		g.holds[i].c.pins.Add(-1)
	}
}

// count tells what became of the request.
func (e *Engine) count(q *request, o *outcome) {
	if o.refusal != nil {
		o.c.with(func() { o.c.counts.refused++ })
		if e.metrics != nil {
			e.metrics.Count(o.refusal.Rule, Refused)
		}
		return
	}
	for i := range q.g.holds {
		h := &q.g.holds[i]
		if h.source == nowhere {
			h.c.with(func() { h.c.counts.shadow++ })
		}
		if e.metrics == nil {
			continue
		}
		switch {
		case h.source == nowhere:
			e.metrics.Count(h.rule, ShadowRefused)
		case o.waited:
			e.metrics.Count(h.rule, AdmittedLate)
		default:
			e.countAdmitted(h)
		}
		if h.source == unasked {
			e.metrics.Count(h.rule, Unasked)
		}
	}
}

// countAdmitted counts a hold as admitted, unless it is that of a request which came before already, and was void.
func (e *Engine) countAdmitted(h *hold) {
	for n := h.c.voided.Load(); n > 0; n = h.c.voided.Load() {
		if h.c.voided.CompareAndSwap(n, n-1) {
			return
		}
	}
	e.metrics.Count(h.rule, Admitted)
}

// settle ends a hold with what was used.
func (e *Engine) settle(h *hold, m moment, used int64) {
	if h.source == nowhere {
		return
	}
	c := h.c
	c.mu.Lock()
	defer c.mu.Unlock()
	delta := used - h.amount // under the lock: Spend changes it
	if h.ahead {             // it never came, and is in no book
		h.ahead = false
		c.ahead -= h.amount
	} else {
		c.reserve(h, -h.amount, m)
		if delta != 0 {
			c.book.change(m, h.stamp, delta)
		}
	}
	e.settleStored(h, m, delta)
	if delta < 0 {
		c.queue.kick()
	}
}

// undo gives back what a request took before another rule refused it.
func (e *Engine) undo(g *Grant) {
	m := e.moment()
	for i := range g.holds {
		h := &g.holds[i]
		if h.source == nowhere {
			continue
		}
		h.c.with(func() { h.c.counts.admitted-- })
		e.settle(h, m, 0)
		h.source = nowhere
	}
}

// state is how a counter stands. What is kept for requests that have not come is free: it is taken back before it is missed. The caller
// holds its lock.
func (e *Engine) state(c *counter, r *Rule, m moment) State {
	used, reset := c.book.state(m)
	s := State{Rule: r, Limit: r.capacity(), Remaining: r.capacity() - used, Reset: reset}
	if p := c.pool; p != nil && e.mode(r) != Local && p.answered && p.current(m, c.period(m)) {
		s.Remaining = min(p.answer.Remaining+p.avail-p.owing()+c.ahead, s.Remaining)
		s.Reset = max(p.answer.Reset-time.Duration(m.t-p.answerT), reset)
	}
	return s
}
