package limit

import (
	"context"
	"sync"
	"testing"
	"time"
)

// clock is a time that a test sets.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

var monday = time.Date(2026, 5, 18, 10, 0, 0, 0, time.UTC)

func newClock() *clock { return &clock{t: monday} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	c.t = c.t.Add(d)
	c.mu.Unlock()
}

// local is an engine without a store, on a clock that the test sets.
func local(t testing.TB) (*Engine, *clock) {
	t.Helper()
	c := newClock()
	e := New(Options{Now: c.now})
	t.Cleanup(func() { e.Close(context.Background()) })
	return e, c
}

// rule is a sliding window of a minute, changed by edits.
func rule(id string, unit Unit, limit int64, edits ...func(*Rule)) *Rule {
	r := &Rule{ID: id, Name: id, Unit: unit, Limit: limit, Window: time.Minute, AssumedOutput: 10}
	for _, edit := range edits {
		edit(r)
	}
	return r
}

// budget is one of a month.
func budget(id string, limit int64, edits ...func(*Rule)) *Rule {
	return rule(id, Cost, limit, append([]func(*Rule){func(r *Rule) {
		r.Algorithm, r.Period, r.Window = Calendar, Month, 0
	}}, edits...)...)
}

func admitted(t testing.TB, e *Engine, s Subject, est Estimate, rules ...*Rule) *Grant {
	t.Helper()
	g, no := e.Admit(context.Background(), rules, s, est)
	if no != nil {
		t.Fatalf("refused: %v (%+v)", no, no)
	}
	return g
}

func refused(t testing.TB, e *Engine, s Subject, est Estimate, rules ...*Rule) *Refusal {
	t.Helper()
	g, no := e.Admit(context.Background(), rules, s, est)
	if no == nil {
		t.Fatalf("admitted: %+v", g.holds)
	}
	return no
}

// tokens is an estimate of a request that says its largest output.
func tokens(in, out int64) Estimate { return Estimate{Input: in, Output: out, HasMax: true} }

// subjectOf is how the counter of a subject stands.
func subjectOf(t testing.TB, e *Engine, id, subject string) SubjectState {
	t.Helper()
	for _, rs := range e.States(1 << 20) {
		if rs.Rule.ID != id {
			continue
		}
		for _, s := range rs.Subjects {
			if s.Subject == subject {
				return s
			}
		}
	}
	return SubjectState{}
}

func ruleState(t testing.TB, e *Engine, id string) RuleState {
	t.Helper()
	for _, rs := range e.States(10) {
		if rs.Rule.ID == id {
			return rs
		}
	}
	t.Fatalf("no state of %s", id)
	return RuleState{}
}

// reserved is what all counters have reserved, and how many grants are open.
func reservedIn(e *Engine) (units int64, grants int) {
	e.reg.each(func(c *counter) {
		units += c.reserved
		grants += int(c.pins.Load())
	})
	return units, grants
}
