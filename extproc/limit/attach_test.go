package limit

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-dev/weir/test/bubble"
)

// TestDetach: with the store go its pools, its debts and its failure, and nobody asks for it any more.
func TestDetach(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newFakeStore(t, 4)
		var log bytes.Buffer
		e := New(Options{Remote: s, Log: slog.New(slog.NewTextHandler(&log, nil))})
		defer e.Close(context.Background())
		lease := func(unit Unit, m Mode) *Rule { return rule(unit.String(), unit, 400, shared(m, Deny)) }
		rules := []*Rule{lease(TotalTokens, Lease), lease(Requests, Exact), budget("b", 1000, shared(Lease)), rule("c", Concurrent, 3, shared(Lease))}
		est := tokens(10, 10)
		est.Cost = 10
		running := admitted(t, e, Subject{}, est, rules...)
		s.fail(errAway)
		for range 5 {
			over := admitted(t, e, Subject{}, est, budget("soft", 1, shared(Lease), func(r *Rule) { r.WarnOnly = true }))
			over.Settle(Amounts{Cost: 40})
			e.Admit(context.Background(), rules, Subject{}, est)
			time.Sleep(time.Second)
		}
		if !e.Store().Down {
			t.Fatal("the store is not down: this shows nothing")
		}
		e.Detach()
		e.Detach()
		if st := e.Store(); st.Down || st.Configured || !st.Since.IsZero() {
			t.Errorf("%+v", st)
		}
		asked, told := s.away(), log.Len()
		running.Settle(Amounts{Input: 300, Cost: 5})
		for range 3 {
			admitted(t, e, Subject{}, Estimate{Cost: 1, HasMax: true}, rules...)
		}
		if no := refused(t, e, Subject{}, Estimate{Cost: 1, HasMax: true}, rules...); no.Rule.ID != "c" || no.Kind != Limited {
			t.Errorf("%+v", no)
		}
		time.Sleep(time.Minute)
		if n := s.away() - asked; n != 0 {
			t.Errorf("a store that is gone was asked %d times", n)
		}
		if rest := log.String()[told:]; rest != "" {
			t.Errorf("it is still told of: %s", rest)
		}
		e.reg.each(func(c *counter) {
			if c.pool != nil {
				t.Errorf("%s has a pool", c.kind.id.id)
			}
		})
	})
}

// TestDetachWhileWaiting: requests that wait for the store go on without it.
func TestDetachWhileWaiting(t *testing.T) {
	for _, m := range []Mode{Lease, Exact} {
		bubble.Test(t, func(t *testing.T) {
			s := newFakeStore(t, 1)
			e := New(Options{Remote: s, Timeout: time.Minute})
			defer e.Close(context.Background())
			s.slow(10 * time.Second)
			r := rule("tpm", TotalTokens, 100, shared(m, Deny))
			done := make(chan *Grant)
			go func() {
				g, no := e.Admit(context.Background(), []*Rule{r}, Subject{}, tokens(10, 10))
				if no != nil {
					t.Errorf("mode %d: %v", m, no)
				}
				done <- g
			}()
			synctest.Wait()
			e.Detach()
			g := <-done
			g.Settle(Amounts{Input: 7})
			if st := subjectOf(t, e, "tpm", ""); st.Remaining != 93 || st.Reserved != 0 {
				t.Errorf("mode %d: %+v", m, st)
			}
			time.Sleep(time.Minute)
		})
	}
}

// TestAttachTellsWhatRuns: what runs when a store comes is held there too, until it has ended.
func TestAttachTellsWhatRuns(t *testing.T) {
	for _, m := range []Mode{Lease, Exact} {
		bubble.Test(t, func(t *testing.T) {
			s := newFakeStore(t, 1)
			e := New(Options{Remote: s})
			defer e.Close(context.Background())
			e.Detach()
			rules := []*Rule{rule("c", Concurrent, 100, shared(m)), budget("b", 100_000, shared(m), cuts)}
			est := Estimate{Cost: 10, HasMax: true}
			var local []*Grant
			for range 5 {
				local = append(local, admitted(t, e, Subject{}, est, rules...))
			}
			admitted(t, e, Subject{}, est, rules...).Settle(Amounts{Cost: 10})
			e.Attach()
			late := admitted(t, e, Subject{}, est, rules...)
			time.Sleep(5 * time.Second)
			if c, b := s.held("c"), s.held("b"); c != 6 || b != 60 {
				t.Errorf("mode %d: the store holds %d requests and %d of money; 6 requests run, which have reserved 60", m, c, b)
			}
			local[0].Spend(25)
			for i, g := range local {
				g.Settle(Amounts{Cost: int64(i) * 7}) // 70 in all
			}
			late.Settle(Amounts{Cost: 1})
			time.Sleep(5 * time.Second)
			if c, b := s.held("c"), s.held("b"); c != 0 || b != 71 {
				t.Errorf("mode %d: the store holds %d requests and %d of money; none run, and 71 was spent", m, c, b)
			}
		})
	}
}

// TestRestoreTellsTheStore: what was spent before replicas shared the budget counts there, once, whatever is reserved
// meanwhile and however often it is said.
func TestRestoreTellsTheStore(t *testing.T) {
	for _, m := range []Mode{Lease, Exact} {
		fleet(t, 1, func(t *testing.T, s *fakeStore, es []*Engine) {
			r := budget("b", 1000, shared(m))
			start, _ := r.PeriodAt(time.Now())
			cost := func(n int64) Estimate { return Estimate{Cost: n, HasMax: true} }
			es[0].Restore(r, Subject{}, 300, start)
			if n := s.held("b"); n != 300 {
				t.Errorf("mode %d: the store holds %d of the 300 that were spent", m, n)
			}
			g := admitted(t, es[0], Subject{}, cost(100), r)
			es[0].Restore(r, Subject{}, 300, start)
			es[0].Restore(r, Subject{}, 450, start)
			time.Sleep(5 * time.Second)
			if n := s.held("b"); n != 550 {
				t.Errorf("mode %d: the store holds %d; 450 were spent and 100 are reserved", m, n)
			}
			g.Settle(Amounts{Cost: 50})
			es[0].Restore(r, Subject{}, 500, start)
			time.Sleep(5 * time.Second)
			if n := s.held("b"); n != 500 {
				t.Errorf("mode %d: the store holds %d of 500", m, n)
			}
			refused(t, es[0], Subject{}, cost(501), r)
			admitted(t, es[0], Subject{}, cost(500), r)
		})
	}
}

// TestShadowNeverWaits: neither for a pool that is dry nor for an answer of its own.
func TestShadowNeverWaits(t *testing.T) {
	for _, m := range []Mode{Lease, Exact} {
		fleet(t, 1, func(t *testing.T, s *fakeStore, es []*Engine) {
			s.slow(80 * time.Millisecond)
			r := rule("shadow", TotalTokens, 1000, shared(m, Deny), func(r *Rule) { r.Shadow = true })
			begin := time.Now()
			for range 12 {
				admitted(t, es[0], Subject{}, tokens(50, 50), r).Settle(Amounts{Input: 100})
			}
			if d := time.Since(begin); d != 0 {
				t.Errorf("mode %d: requests waited %v for a rule that refuses nothing", m, d)
			}
			time.Sleep(5 * time.Second)
			if n := s.held("shadow"); n != 1000 {
				t.Errorf("mode %d: the store holds %d of 1000", m, n)
			}
			if rs := ruleState(t, es[0], "shadow"); rs.Admitted != 10 || rs.ShadowRefused != 2 || rs.Mode != Lease {
				t.Errorf("mode %d: %+v", m, rs)
			}
		})
	}
}

// TestShadowIsCountedOnce: a request that tries several times is one.
func TestShadowIsCountedOnce(t *testing.T) {
	fleet(t, 2, func(t *testing.T, s *fakeStore, es []*Engine) {
		shadow := rule("shadow", Requests, 1, func(r *Rule) { r.Shadow = true })
		hard := rule("hard", Concurrent, 1, shared(Exact), waits(time.Minute))
		g := admitted(t, es[1], Subject{}, Estimate{}, hard)
		time.AfterFunc(20*time.Second, func() { g.Settle(Amounts{}) })
		admitted(t, es[0], Subject{}, Estimate{}, shadow).Settle(Amounts{})
		admitted(t, es[0], Subject{}, Estimate{}, shadow, hard).Settle(Amounts{})
		if rs := ruleState(t, es[0], "shadow"); rs.ShadowRefused != 1 || rs.Admitted != 1 {
			t.Errorf("%+v", rs)
		}
	})
}

// explosive is a store that panics when it is told to.
type explosive struct {
	*fakeStore
	now atomic.Bool
}

func (x *explosive) Replicas() int {
	if x.now.Load() {
		panic("replicas")
	}
	return x.fakeStore.Replicas()
}

// TestAPanicLocksNothing: who recovers from one goes on, and so do all others.
func TestAPanicLocksNothing(t *testing.T) {
	panics := func(t *testing.T, what string, f func()) {
		t.Helper()
		defer func() {
			if recover() == nil {
				t.Errorf("%s: no panic; this shows nothing", what)
			}
		}()
		f()
	}
	bubble.Test(t, func(t *testing.T) {
		x := &explosive{fakeStore: newFakeStore(t, 1)}
		e := New(Options{Remote: x})
		defer e.Close(context.Background())
		local, lease := rule("local", Concurrent, 1), rule("lease", TotalTokens, 1000, shared(Lease))
		rules := []*Rule{local, lease}
		admitted(t, e, Subject{}, tokens(10, 0), rules...).Settle(Amounts{Input: 10})
		time.Sleep(time.Minute)

		x.now.Store(true)
		panics(t, "try", func() { e.Admit(context.Background(), rules, Subject{}, tokens(10, 0)) })
		x.now.Store(false)
		time.Sleep(time.Second)
		if units, n := reservedIn(e); units != 0 || n != 0 {
			t.Errorf("%d units stay reserved by %d", units, n)
		}
		g := admitted(t, e, Subject{}, tokens(10, 0), rules...)
		x.now.Store(true)
		panics(t, "settle", func() { g.Settle(Amounts{Input: 5}) })
		x.now.Store(false)
		e.States(10)

		// While it waits in a queue.
		patient := rule("patient", Concurrent, 1, waits(time.Minute))
		held := admitted(t, e, Subject{}, Estimate{}, patient)
		done := make(chan struct{})
		go func() {
			defer close(done)
			panics(t, "wait", func() { e.Admit(context.Background(), []*Rule{patient, lease}, Subject{}, tokens(500, 0)) })
		}()
		synctest.Wait()
		x.now.Store(true)
		held.Settle(Amounts{})
		<-done
		x.now.Store(false)
		admitted(t, e, Subject{}, Estimate{}, patient).Settle(Amounts{})
		if rs := ruleState(t, e, "patient"); rs.Waiting != 0 {
			t.Errorf("%+v", rs)
		}
	})
}

// TestWarningsAfterAPeriod: what is still reserved of the last period is no part of what this one has used.
func TestWarningsAfterAPeriod(t *testing.T) {
	e, c := local(t)
	r := budget("b", 1000, func(r *Rule) { r.WarnAt = 500 })
	cost := func(n int64) Estimate { return Estimate{Cost: n, HasMax: true} }
	old := admitted(t, e, Subject{}, cost(900), r)
	c.pass(20 * 24 * time.Hour)
	admitted(t, e, Subject{}, cost(600), r).Settle(Amounts{Cost: 600})
	g := admitted(t, e, Subject{}, cost(100), r)
	if w := g.Warnings(); len(w) != 1 || w[0].Used != 600 {
		t.Errorf("%+v", w)
	}
	old.Settle(Amounts{Cost: 900})
	if s := subjectOf(t, e, "b", ""); s.Reserved != 100 || s.Remaining != 300 {
		t.Errorf("%+v", s)
	}
	if w := admitted(t, e, Subject{}, cost(100), r).Warnings(); len(w) != 1 || w[0].Used != 600 {
		t.Errorf("%+v", w)
	}
	start, _ := r.PeriodAt(c.now())
	e.Restore(r, Subject{}, 650, start)
	if s := subjectOf(t, e, "b", ""); s.Remaining != 150 {
		t.Errorf("650 were spent, 200 are reserved: %+v", s)
	}
}

// TestErrorsOfAStoreThatIsGone are told to nobody.
func TestErrorsOfAStoreThatIsGone(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newFakeStore(t, 1)
		var log strings.Builder
		e := New(Options{Remote: s, Log: slog.New(slog.NewTextHandler(&log, nil))})
		defer e.Close(context.Background())
		r := rule("rpm", Requests, 10, shared(Exact, Allow))
		s.fail(errors.New("refused"))
		s.slow(50 * time.Millisecond)
		for range 10 {
			go e.Admit(context.Background(), []*Rule{r}, Subject{}, Estimate{})
		}
		synctest.Wait()
		e.Detach()
		time.Sleep(time.Minute)
		if e.Store().Down || log.String() != "" {
			t.Errorf("%+v: %s", e.Store(), log.String())
		}
	})
}
