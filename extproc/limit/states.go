package limit

import (
	"cmp"
	"slices"
	"time"
)

// RuleState is how a rule stands: what /api/limits shows and metrics are made of.
type RuleState struct {
	// Rule in the version that was used last.
	Rule *Rule
	// Mode it is counted in: Local without a store, whatever the rule says.
	Mode Mode
	// Admitted, Refused, ShadowRefused, Waited (admitted after waiting) and Unasked (admitted while the store was away)
	// count requests since the engine began.
	Admitted, Refused, ShadowRefused, Waited, Unasked uint64
	// Waiting requests now, of all its counters.
	Waiting int
	// Counters of the rule in this replica, of which Subjects shows those that have used most of their limit.
	Counters int
	Subjects []SubjectState
	// Leased units lie unused in this replica's pools.
	Leased int64
	// Bound is what a counter's window may hold beyond its limit because of the pools of all replicas: each holds at most
	// limit / (8 x replicas) units unused, at least one. 0 for Local and Exact, for Calendar, whose units
	// end with the period, and for Concurrent. What was reserved too low comes on top in every mode.
	Bound int64
}

// SubjectState is how one counter stands.
type SubjectState struct {
	Subject          string // empty: all share it
	Limit, Remaining int64  // Remaining is negative in debt
	Reserved         int64  // by requests that run
	Reset            time.Duration
	Waiting          int
	Leased           int64

	Admitted, Refused, ShadowRefused uint64
}

// StoreState is how the store that replicas share stands.
type StoreState struct {
	Configured, Down bool
	// Since when its calls fail. Zero while they do not.
	Since    time.Time
	Replicas int
	// Acquires, Adjusts and Failures of either since the engine began.
	Acquires, Adjusts, Failures uint64
}

// Store tells how the shared store stands.
func (e *Engine) Store() StoreState {
	s := e.store
	if s == nil {
		return StoreState{Replicas: 1}
	}
	st := StoreState{
		Configured: !s.detached.Load(), Down: s.down.Load(), Replicas: int(s.replicas()),
		Acquires: s.acquires.Load(), Adjusts: s.adjusts.Load(), Failures: s.failed.Load(),
	}
	if s.failures.Load() > 0 {
		st.Since = time.Unix(0, s.since.Load())
	}
	return st
}

// States tells how all rules stand that a request used lately or that have counters, sorted by ID, each with at most
// subjects of its counters.
func (e *Engine) States(subjects int) []RuleState {
	m := e.moment()
	byKind := map[*kind]*RuleState{}
	get := func(k *kind) *RuleState {
		rs := byKind[k]
		if rs == nil {
			r := k.rule.Load()
			k.mu.Lock()
			past := k.past
			k.mu.Unlock()
			rs = &RuleState{Rule: r, Mode: e.mode(r)}
			if rs.Mode == Lease && r.Unit != Concurrent && r.Algorithm != Calendar {
				n := e.store.replicas()
				rs.Bound = n * share(r, n)
			}
			rs.add(past)
			byKind[k] = rs
		}
		return rs
	}
	e.reg.kinds.Range(func(_, v any) bool {
		get(v.(*kind))
		return true
	})
	e.reg.each(func(c *counter) {
		rs := get(c.kind)
		rs.add(c.counts)
		rs.Counters++
		s := e.state(c, rs.Rule, m)
		one := SubjectState{
			Subject: c.subject, Limit: s.Limit, Remaining: s.Remaining, Reserved: c.reserved, Reset: s.Reset, Waiting: c.queue.n,
			Admitted: c.counts.admitted, Refused: c.counts.refused, ShadowRefused: c.counts.shadow,
		}
		if c.pool != nil {
			one.Leased = c.pool.avail
		}
		rs.Leased += one.Leased
		rs.Waiting += one.Waiting
		rs.Subjects = append(rs.Subjects, one)
		if len(rs.Subjects) >= 4*max(subjects, 16) {
			rs.cut(subjects)
		}
	})
	out := make([]RuleState, 0, len(byKind))
	for _, rs := range byKind {
		rs.cut(subjects)
		out = append(out, *rs)
	}
	slices.SortFunc(out, func(a, b RuleState) int { return cmp.Compare(a.Rule.ID, b.Rule.ID) })
	return out
}

func (rs *RuleState) add(c counts) {
	rs.Admitted += c.admitted
	rs.Refused += c.refused
	rs.ShadowRefused += c.shadow
	rs.Waited += c.waited
	rs.Unasked += c.unasked
}

// cut keeps the n subjects that have the smallest part of their limit left.
func (rs *RuleState) cut(n int) {
	slices.SortFunc(rs.Subjects, func(a, b SubjectState) int {
		return cmp.Or(cmp.Compare(float64(a.Remaining)/float64(max(a.Limit, 1)), float64(b.Remaining)/float64(max(b.Limit, 1))),
			cmp.Compare(a.Subject, b.Subject))
	})
	if len(rs.Subjects) > n {
		rs.Subjects = slices.Delete(rs.Subjects, max(n, 0), len(rs.Subjects))
	}
}

// Restore says what was spent, in nano-units, of one counter of a budget in the period that began at start, by the ledger: all
// requests that have been settled. What the counter knows is made no less; it never becomes less either, so that Restore may
// come again, at any time, and requests may be admitted and settled meanwhile. A period that is over, or that has not
// begun, is not touched.
//
// Where replicas share the budget, spent must be what this replica alone has spent: the store is told.
func (e *Engine) Restore(r *Rule, s Subject, spent int64, start time.Time) {
	if r.Algorithm != Calendar || r.Unit != Cost || spent <= 0 {
		return
	}
	spent = clamp(spent)
	m := e.moment()
	c := e.reg.counter(r, r.subject(&s), m)
	defer c.pins.Add(-1)
	c.with(func() {
		b, ok := c.book.(*calendar)
		if !ok || c.period(m) != start.UnixNano() {
			return
		}
		open := c.unsettled(m)
		if more := spent + open - b.used; more > 0 {
			b.take(m, more)
		}
		if e.mode(r) == Local {
			return
		}
		// The store counts what is reserved and what lies in the pool too, as far as it has been told.
		if p := c.pool; p != nil {
			open += p.avail - p.owingIn(b.start)
		}
		e.store.Restore(c.remote(r, m), spent+open)
	})
}
