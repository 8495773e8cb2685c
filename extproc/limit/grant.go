package limit

import (
	"sync/atomic"
	"time"
)

// State is how a counter stands for one request.
type State struct {
	Rule             *Rule // nil: there is none
	Limit, Remaining int64
	// Reset is the time until the whole limit is free again if nothing more is used.
	Reset time.Duration
}

// Headers is what x-ratelimit-{limit,remaining,reset}-{requests,tokens} say: of each kind the rule with the smallest part of its
// limit left. Rules that refuse nothing are not in it.
type Headers struct{ Requests, Tokens State }

// note takes a rule's state in if it is stricter than what is there.
func (h *Headers) note(s State) {
	if s.Rule.Shadow || s.Rule.WarnOnly {
		return
	}
	var at *State
	switch {
	case s.Rule.Unit == Requests:
		at = &h.Requests
	case s.Rule.Unit.tokens():
		at = &h.Tokens
	default:
		return
	}
	if at.Rule == nil || float64(s.Remaining)*float64(at.Limit) < float64(at.Remaining)*float64(s.Limit) {
		*at = s
	}
}

// Warning is a budget of which WarnAt is used.
type Warning struct {
	Rule        *Rule
	Used, Limit int64 // Used does not count what is only reserved, and may pass Limit
}

// Kind of a refusal.
type Kind uint8

// The kinds, with the status they mean.
const (
	Limited     Kind = iota // 429: no room now; RetryAfter says when
	BudgetSpent             // 429: a Calendar rule; RetryAfter is the end of the period
	TooLarge                // 429 without retry-after: it asks for more than the limit ever holds
	QueueFull               // 429: it might have waited, but too many do
	StoreDown               // 503: the rule's replicas cannot count together and it denies then
	Canceled                // the caller went while it waited
)

// Refusal says why a request is not admitted: of all rules that refuse it the one that does so for the longest.
type Refusal struct {
	Rule *Rule
	Kind Kind
	// RetryAfter is when it may be admitted at the earliest; 0: never as it is.
	RetryAfter time.Duration
	// Waited is how long it has waited.
	Waited time.Duration
	// Need is what the request would have reserved.
	Need int64
	// Limit of the rule, what remains of it, and the time until it is whole again.
	Limit, Remaining int64
	Reset            time.Duration
	// Headers as those of a grant.
	Headers Headers
}

// source is where what a hold reserves was taken from.
type source uint8

const (
	nowhere source = iota // nothing is reserved
	here                  // this replica's book alone
	pooled                // the pool of a lease
	exact                 // the store itself
	unasked               // the store was away; it is told afterwards
)

// hold is what a request reserves, or asks for, of one counter.
type hold struct {
	c         *counter
	rule      *Rule
	amount    int64
	stamp     int64 // of the book
	at, taken int64 // of the store's units: see batch
	source    source
	ahead     bool  // its amount is part of the counter's
	waits     bool  // its amount is part of the pool's demand
	pool      *pool // that it waits for or was taken from; nil for Local
}

// Grant is an admitted request's claim on its counters. It must be settled or cancelled, or what it reserves is lost for
// as long as the process runs. A nil Grant reserves nothing. Its methods may be called from any goroutine.
type Grant struct {
	e        *Engine
	done     atomic.Bool
	holds    []hold
	headers  Headers
	warnings []Warning
	few      [6]hold // room for holds
}

// Headers as they were when the request was admitted.
func (g *Grant) Headers() Headers {
	if g == nil {
		return Headers{}
	}
	return g.headers
}

// Warnings are the budgets of which WarnAt was used when the request was admitted.
func (g *Grant) Warnings() []Warning {
	if g == nil {
		return nil
	}
	return g.warnings
}

// Settle corrects what was reserved to what was used: what is too much comes free, what was used beyond it is counted and
// delays later requests. Requests stay counted; Concurrent ends. Only the first Settle or Cancel does anything.
func (g *Grant) Settle(actual Amounts) {
	if g == nil || g.done.Swap(true) {
		return
	}
	m := g.e.moment()
	for i := range g.holds {
		h := &g.holds[i]
		g.e.settle(h, m, h.rule.used(&actual))
	}
	g.unpin()
}

// Cancel gives everything back: it is for a request that no backend has seen.
func (g *Grant) Cancel() {
	if g == nil || g.done.Swap(true) {
		return
	}
	m := g.e.moment()
	for i := range g.holds {
		g.e.settle(&g.holds[i], m, 0)
	}
	g.unpin()
}

// Void is Cancel for a request that has come and comes once more: of the two, one counts as admitted.
func (g *Grant) Void() {
	if g == nil || g.done.Swap(true) {
		return
	}
	for i := range g.holds {
		if h := &g.holds[i]; h.source != nowhere {
			h.c.voided.Add(1)
		}
	}
	g.e.undo(g)
	g.unpin()
}

// Spend notes what a running request has cost so far, in nano-units, and says whether one of its CutStreams budgets is
// spent. What is beyond the reservation counts at once, so that streams that run at the same time see each other's.
func (g *Grant) Spend(nano int64) (spent bool) {
	if g == nil || g.done.Load() {
		return false
	}
	m, nano := g.e.moment(), clamp(nano)
	for i := range g.holds {
		h := &g.holds[i]
		if !h.rule.CutStreams || h.rule.WarnOnly || h.source == nowhere {
			continue
		}
		gone := false
		h.c.with(func() {
			if gone = g.done.Load(); gone { // it is settled meanwhile, or waits for this lock to be
				return
			}
			if delta := nano - h.amount; delta >= 0 {
				h.amount = nano
				h.c.reserve(h, delta, m)
				h.c.book.change(m, h.stamp, delta)
				if delta > 0 {
					g.e.spendStored(h, m, delta)
				}
				spent = spent || g.e.state(h.c, h.rule, m).Remaining <= 0
			}
		})
		if gone {
			return false
		}
	}
	return spent
}

// Cut is the CutStreams budget that has least left, and what this request may cost in all, in nano-units, before that
// budget is spent: what it has reserved and what remains besides now. Without such a budget, and after the end, ok is false.
func (g *Grant) Cut() (r *Rule, nano int64, ok bool) {
	if g == nil || g.done.Load() {
		return nil, 0, false
	}
	m := g.e.moment()
	for i := range g.holds {
		h := &g.holds[i]
		if !h.rule.CutStreams || h.rule.WarnOnly || h.source == nowhere {
			continue
		}
		var left int64
		h.c.with(func() { left = max(g.e.state(h.c, h.rule, m).Remaining+h.amount, 0) })
		if !ok || left < nano {
			r, nano, ok = h.rule, left, true
		}
	}
	return r, nano, ok
}
