package limit

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// RuleState is how a rule stands: what /api/limits shows and metrics are made of.
type RuleState struct {
	// Rule as the live configuration has it; one that it does not have in the version that was used last.
	Rule *Rule
	// Currency of a rule of money that the live configuration has.
	Currency string
	// Mode it is counted in: Local without a store, whatever the rule says.
	Mode Mode
	// Admitted, Refused, ShadowRefused, Waited (admitted after waiting) and Unasked (admitted while the store was away)
	// count requests since the engine began, for a rule of the live configuration in all its versions.
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

// Configuration is what the live configuration has of limits and budgets.
type Configuration struct {
	Rules    []*Rule
	Currency string // of rules of money
}

// Follow says how to learn what is configured now: those rules are told of while nobody uses them as well, and what was counted
// of them is kept. live is called now and then, by any goroutine.
func (e *Engine) Follow(live func() Configuration) { e.reg.live.Store(&live) }

// States tells how all rules stand that are configured, that a request used lately or that have counters, sorted by ID, each with at
// most subjects of its counters. A rule that was changed so that its counters began anew is told of as it is now.
func (e *Engine) States(subjects int) []RuleState {
	m := e.moment()
	configured, currency := e.reg.configured()
	now := make(map[string]*kind, len(configured)) // by ID
	for k := range configured {
		now[k.id.id] = k
	}
	byKind := map[*kind]*RuleState{}
	get := func(k *kind) *RuleState {
		if c := now[k.id.id]; c != nil {
			k = c
		}
		rs := byKind[k]
		if rs == nil {
			r := k.rule.Load()
			live := configured[k]
			if live != nil {
				r = live
			}
			rs = &RuleState{Rule: r, Mode: e.mode(r)}
			if live != nil && r.Unit == Cost {
				rs.Currency = currency
			}
			if rs.Mode == Lease && r.Unit != Concurrent && r.Algorithm != Calendar {
				n := e.store.replicas()
				rs.Bound = n * share(r, n)
			}
			byKind[k] = rs
		}
		return rs
	}
	e.reg.mu.Lock()
	for k := range configured {
		get(k).add(e.reg.gone[k.id.id])
	}
	e.reg.kinds.Range(func(_, v any) bool {
		k := v.(*kind)
		get(k).add(k.counted())
		return true
	})
	e.reg.mu.Unlock()
	e.reg.each(func(c *counter) {
		rs := get(c.kind)
		rs.add(c.counts)
		if byKind[c.kind] == nil { // of a version whose counters do not count any more
			rs.Waiting += c.queue.n
			if c.pool != nil {
				rs.Leased += c.pool.avail
			}
			return
		}
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

// WarnAtPercent is WarnAt as part of the limit, rounded; 0: the rule does not warn.
func (r *Rule) WarnAtPercent() int64 {
	if r.WarnAt <= 0 || r.Limit <= 0 {
		return 0
	}
	return int64(math.Round(100 * float64(r.WarnAt) / float64(r.Limit)))
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
