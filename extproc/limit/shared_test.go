package limit

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/bubble"
)

func shared(m Mode, f ...Failure) func(*Rule) {
	return func(r *Rule) {
		r.Sharing = m
		for _, f := range f {
			r.OnFailure = f
		}
	}
}

// fleet runs f on virtual time with n engines that share a store.
func fleet(t *testing.T, n int, f func(t *testing.T, s *fakeStore, es []*Engine)) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		s := newFakeStore(t, n)
		es := make([]*Engine, n)
		for i := range es {
			es[i] = New(Options{Remote: s})
		}
		f(t, s, es)
		for _, e := range es {
			e.Close(context.Background())
		}
	})
}

// TestExactIsExact: 2,000 requests at once on 8 replicas against 500.
func TestExactIsExact(t *testing.T) {
	for _, c := range []struct {
		rule *Rule
		est  Estimate
	}{
		{rule("rpm", Requests, 500, shared(Exact)), Estimate{}},
		{rule("bucket", Requests, 500, shared(Exact), func(r *Rule) { r.Algorithm = TokenBucket; r.Window = 24 * time.Hour }), Estimate{}},
		{rule("tpm", TotalTokens, 500*30, shared(Exact)), tokens(10, 20)},
		{budget("b", 500*7, shared(Exact)), Estimate{Cost: 7, HasMax: true}},
		{rule("c", Concurrent, 500, shared(Exact)), Estimate{}},
	} {
		fleet(t, 8, func(t *testing.T, s *fakeStore, es []*Engine) {
			s.slow(time.Millisecond)
			n, grants := storm(es, 250, c.rule, c.est)
			if n != 500 {
				t.Errorf("%s: %d of 2000 were admitted, the limit is 500", c.rule.ID, n)
			}
			for _, g := range grants {
				g.Cancel()
			}
			time.Sleep(time.Second)
			if n := s.held(c.rule.ID); n != 0 {
				t.Errorf("%s: the store holds %d after all were cancelled", c.rule.ID, n)
			}
		})
	}
}

// storm sends per requests to each engine at once.
func storm(es []*Engine, per int, r *Rule, est Estimate) (int, []*Grant) {
	var mu sync.Mutex
	var grants []*Grant
	var wg sync.WaitGroup
	for _, e := range es {
		for range per {
			wg.Go(func() {
				if g, _ := e.Admit(context.Background(), []*Rule{r}, Subject{}, est); g != nil {
					mu.Lock()
					grants = append(grants, g)
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	return len(grants), grants
}

// TestLeaseStorm: the same with leases: never more than the limit by the store's count, nearly all of it, and far fewer
// calls than requests.
func TestLeaseStorm(t *testing.T) {
	for _, c := range []struct {
		rule *Rule
		est  Estimate
	}{
		{rule("rpm", Requests, 500, shared(Lease)), Estimate{}},
		{rule("tpm", TotalTokens, 500*30, shared(Lease)), tokens(10, 20)},
		{budget("b", 500*7, shared(Lease)), Estimate{Cost: 7, HasMax: true}},
		{rule("c", Concurrent, 500, shared(Lease)), Estimate{}},
	} {
		fleet(t, 8, func(t *testing.T, s *fakeStore, es []*Engine) {
			s.slow(time.Millisecond)
			n, grants := storm(es, 250, c.rule, c.est)
			if n > 500 || n < 400 {
				t.Errorf("%s: %d of 2000 were admitted, the limit is 500", c.rule.ID, n)
			}
			if s.count(true) > 300 {
				t.Errorf("%s: %s for 2000 requests", c.rule.ID, s.calls())
			}
			for _, g := range grants {
				g.Cancel()
			}
			time.Sleep(3 * time.Second) // what is in the pools goes back
			if n := s.held(c.rule.ID); n != 0 {
				t.Errorf("%s: the store holds %d after all were cancelled", c.rule.ID, n)
			}
		})
	}
}

// TestLeaseBound: over minutes of traffic on several replicas no window holds more than the limit and the stated bound, of
// what was really used, and the store is asked far less often than there are requests.
func TestLeaseBound(t *testing.T) {
	for _, alg := range []Algorithm{SlidingWindow, TokenBucket} {
		for _, replicas := range []int{1, 4} {
			r := rule("tpm", TotalTokens, 200_000, shared(Lease), func(r *Rule) { r.Algorithm, r.Window = alg, 20*time.Second })
			fleet(t, replicas, func(t *testing.T, s *fakeStore, es []*Engine) {
				s.slow(2 * time.Millisecond)
				var mu sync.Mutex
				var events []event
				var requests int64
				begin := time.Now()
				var wg sync.WaitGroup
				for i, e := range es {
					for w := range 8 {
						rnd := rand.New(rand.NewPCG(uint64(i), uint64(w)))
						wg.Go(func() {
							for time.Since(begin) < 2*time.Minute {
								est := tokens(50+rnd.Int64N(100), 400)
								g, _ := e.Admit(context.Background(), []*Rule{r}, Subject{}, est)
								at := time.Since(begin)
								atomic.AddInt64(&requests, 1)
								time.Sleep(time.Duration(rnd.Int64N(int64(100 * time.Millisecond))))
								if g == nil {
									continue
								}
								out := rnd.Int64N(400)
								g.Settle(Amounts{Input: est.Input, Output: out})
								mu.Lock()
								events = append(events, event{t: int64(at), n: est.Input + out})
								mu.Unlock()
							}
						})
					}
				}
				wg.Wait()
				bound := r.Limit + ruleState(t, es[0], "tpm").Bound
				used, worst := int64(0), int64(0)
				for _, from := range events {
					sum := int64(0)
					for _, ev := range events {
						if ev.t >= from.t && ev.t < from.t+int64(r.Window) {
							sum += ev.n
						}
					}
					worst = max(worst, sum)
					used += from.n
				}
				if alg == TokenBucket {
					bound += r.Limit // a full bucket and what flows in
				}
				if worst > bound {
					t.Errorf("%d: %d in a window, at most %d", alg, worst, bound)
				}
				if least := r.Limit * 6 * 7 / 10; used < least {
					t.Errorf("%d: only %d of %d were used in two minutes", alg, used, r.Limit*6)
				}
				perSecond := float64(s.count(true)+s.count(false)) / 120 / float64(replicas)
				t.Logf("algorithm %d, %d replicas: %d requests, %d used, worst window %d (bound %d), %s, %.1f calls per second and replica",
					alg, replicas, requests, used, worst, bound, s.calls(), perSecond)
				if perSecond > 120 {
					t.Errorf("%.1f calls per second and replica", perSecond)
				}
			})
		}
	}
}

// TestLeaseAsksAhead: under steady load no request waits for the store once the rate is known.
func TestLeaseAsksAhead(t *testing.T) {
	fleet(t, 2, func(t *testing.T, s *fakeStore, es []*Engine) {
		s.slow(3 * time.Millisecond)
		r := rule("rpm", Requests, 600_000, shared(Lease))
		late := 0
		for i := range 20_000 {
			begin := time.Now()
			admitted(t, es[0], Subject{}, Estimate{}, r).Settle(Amounts{})
			if time.Since(begin) > 0 && i > 2000 {
				late++
			}
			time.Sleep(100 * time.Microsecond)
		}
		if late > 0 {
			t.Errorf("%d requests waited for the store", late)
		}
		if s.count(true) > 200 {
			t.Errorf("%s for 20,000 requests in 2 s", s.calls())
		}
	})
}

// TestColdCounterAsksOnce: all that come to a counter at once wait for one call.
func TestColdCounterAsksOnce(t *testing.T) {
	fleet(t, 1, func(t *testing.T, s *fakeStore, es []*Engine) {
		s.slow(5 * time.Millisecond)
		n, _ := storm(es, 100, rule("rpm", Requests, 10_000, shared(Lease)), Estimate{})
		if n != 100 || s.count(true) > 3 {
			t.Errorf("%d admitted with %s", n, s.calls())
		}
	})
}

// TestARefusalIsRemembered: a spent limit does not cost a call per refusal, and is noticed when it is free again.
func TestARefusalIsRemembered(t *testing.T) {
	fleet(t, 1, func(t *testing.T, s *fakeStore, es []*Engine) {
		r := rule("rps", Requests, 10, shared(Lease), func(r *Rule) { r.Window = 10 * time.Second })
		for range 10 {
			admitted(t, es[0], Subject{}, Estimate{}, r)
		}
		before := s.count(true)
		var last *Refusal
		for range 1000 {
			last = refused(t, es[0], Subject{}, Estimate{}, r)
			time.Sleep(time.Millisecond)
		}
		if n := s.count(true) - before; n > 4 {
			t.Errorf("%d calls in a second of refusals", n)
		}
		if last.RetryAfter < 8*time.Second || last.RetryAfter > 10*time.Second {
			t.Errorf("retry after %v", last.RetryAfter)
		}
		time.Sleep(last.RetryAfter)
		admitted(t, es[0], Subject{}, Estimate{}, r)
	})
}

// TestIdleUnitsGoBack: what one replica does not use another gets within about a second.
func TestIdleUnitsGoBack(t *testing.T) {
	for _, r := range []*Rule{
		rule("rpm", Requests, 100, shared(Lease)),
		rule("c", Concurrent, 100, shared(Lease)),
		budget("b", 100, shared(Lease)),
	} {
		fleet(t, 2, func(t *testing.T, s *fakeStore, es []*Engine) {
			for range 20 {
				admitted(t, es[0], Subject{}, Estimate{Cost: 1, HasMax: true}, r)
				time.Sleep(10 * time.Millisecond)
			}
			if n := ruleState(t, es[0], r.ID).Leased; n < 1 || n > 100/16 {
				t.Errorf("%s: %d lie in the pool", r.ID, n)
			}
			time.Sleep(1500 * time.Millisecond)
			if n := s.held(r.ID); n != 20 {
				t.Errorf("%s: the store holds %d for 20 requests", r.ID, n)
			}
			for range 80 {
				admitted(t, es[1], Subject{}, Estimate{Cost: 1, HasMax: true}, r)
			}
			refused(t, es[1], Subject{}, Estimate{Cost: 1, HasMax: true}, r)
		})
	}
}

func TestCloseGivesBack(t *testing.T) {
	fleet(t, 2, func(t *testing.T, s *fakeStore, es []*Engine) {
		r := rule("tpm", TotalTokens, 10_000, shared(Lease))
		for range 10 {
			g := admitted(t, es[0], Subject{}, tokens(10, 10), r)
			time.Sleep(10 * time.Millisecond)
			g.Settle(Amounts{Input: 10, Output: 5})
		}
		es[0].Close(context.Background())
		if n := s.held("tpm"); n != 150 {
			t.Errorf("the store holds %d of the 150 that were used", n)
		}
	})
}

// TestSettlementReachesTheStore: what was reserved too much or too little is corrected there, in each mode.
func TestSettlementReachesTheStore(t *testing.T) {
	for _, m := range []Mode{Lease, Exact} {
		for _, r := range []*Rule{
			rule("tpm", TotalTokens, 1000, shared(m)),
			rule("bucket", TotalTokens, 1000, shared(m), func(r *Rule) { r.Algorithm, r.Window = TokenBucket, 24*time.Hour }),
			budget("b", 1000, shared(m)),
		} {
			fleet(t, 1, func(t *testing.T, s *fakeStore, es []*Engine) {
				est := tokens(100, 300)
				est.Cost = 400
				less := admitted(t, es[0], Subject{}, est, r)
				more := admitted(t, es[0], Subject{}, est, r)
				time.Sleep(5 * time.Second)
				less.Settle(Amounts{Input: 50, Cost: 50})
				more.Settle(Amounts{Input: 700, Cost: 700})
				time.Sleep(2 * time.Second)
				if n := s.held(r.ID); n != 750 {
					t.Errorf("mode %d, %s: the store holds %d of 750", m, r.ID, n)
				}
				if got := subjectOf(t, es[0], r.ID, ""); got.Reserved != 0 {
					t.Errorf("mode %d, %s: %+v", m, r.ID, got)
				}
				est.Input, est.Output, est.Cost = 251, 0, 251
				refused(t, es[0], Subject{}, est, r)
				est.Input, est.Cost = 250, 250
				time.Sleep(time.Second)
				admitted(t, es[0], Subject{}, est, r)
			})
		}
	}
}

// TestPeriodEndsForLeases: units of one day are not used in the next, nor do settlements cross.
func TestPeriodEndsForLeases(t *testing.T) {
	fleet(t, 1, func(t *testing.T, s *fakeStore, es []*Engine) {
		r := budget("b", 1600, shared(Lease), func(r *Rule) { r.Period = Day })
		_, end := r.PeriodAt(time.Now())
		time.Sleep(time.Until(end) - 100*time.Millisecond)
		g := admitted(t, es[0], Subject{}, Estimate{Cost: 1500, HasMax: true}, r)
		time.Sleep(200 * time.Millisecond)
		g2 := admitted(t, es[0], Subject{}, Estimate{Cost: 1600, HasMax: true}, r)
		g.Settle(Amounts{Cost: 1})
		if no := refused(t, es[0], Subject{}, Estimate{Cost: 100, HasMax: true}, r); no.Kind != BudgetSpent {
			t.Errorf("%+v", no)
		}
		g2.Settle(Amounts{Cost: 1000})
		time.Sleep(2 * time.Second)
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, f := range s.counters {
			if got := f.slots[end.Unix()]; got != 1000 {
				t.Errorf("the new day holds %d: %v", got, f.slots)
			}
		}
	})
}

func TestSoftBudgetNeverWaits(t *testing.T) {
	for _, m := range []Mode{Lease, Exact} {
		fleet(t, 1, func(t *testing.T, s *fakeStore, es []*Engine) {
			s.slow(50 * time.Millisecond)
			r := budget("soft", 1000, shared(m, Deny), func(r *Rule) { r.WarnOnly, r.WarnAt = true, 500 })
			begin := time.Now()
			var last *Grant
			for range 20 {
				last = admitted(t, es[0], Subject{}, Estimate{Cost: 100, HasMax: true}, r)
				last.Settle(Amounts{Cost: 100})
			}
			if d := time.Since(begin); d != 0 {
				t.Errorf("waited %v", d)
			}
			if w := last.Warnings(); len(w) != 1 || w[0].Used != 1900 {
				t.Errorf("%+v", w)
			}
			time.Sleep(5 * time.Second)
			if n := s.held("soft"); n != 2000 {
				t.Errorf("the store holds %d of 2000", n)
			}
			s.fail(errAway)
			for range 20 {
				admitted(t, es[0], Subject{}, Estimate{Cost: 100, HasMax: true}, r)
			}
		})
	}
}

func TestShadowShared(t *testing.T) {
	for _, m := range []Mode{Lease, Exact} {
		fleet(t, 1, func(t *testing.T, s *fakeStore, es []*Engine) {
			r := rule("shadow", Requests, 5, shared(m, Deny), func(r *Rule) { r.Shadow = true })
			for range 8 {
				admitted(t, es[0], Subject{}, Estimate{}, r).Settle(Amounts{})
			}
			// What is asked of the store in the background may add to the limit as much as the rule says that it can be overspent by.
			rs := ruleState(t, es[0], "shadow")
			if rs.Admitted < 5 || rs.Admitted > 5+uint64(rs.Bound) || rs.Admitted+rs.ShadowRefused != 8 {
				t.Errorf("mode %d: %+v", m, rs)
			}
			s.fail(errAway)
			admitted(t, es[0], Subject{}, Estimate{}, r)
		})
	}
}

// TestExactGivesBackWhatItTook: a refusal of one Exact rule returns the units of those before it.
func TestExactGivesBackWhatItTook(t *testing.T) {
	fleet(t, 1, func(t *testing.T, s *fakeStore, es []*Engine) {
		rules := []*Rule{
			rule("a", Requests, 10, shared(Exact)), rule("l", Requests, 10, shared(Lease)), rule("local", Requests, 10, shared(Local)),
			rule("z", Requests, 1, shared(Exact)),
		}
		admitted(t, es[0], Subject{}, Estimate{}, rules...)
		for range 5 {
			if no := refused(t, es[0], Subject{}, Estimate{}, rules...); no.Rule.ID != "z" {
				t.Errorf("%+v", no)
			}
		}
		time.Sleep(3 * time.Second)
		for _, id := range []string{"a", "l", "z"} {
			if n := s.held(id); n != 1 {
				t.Errorf("%s: the store holds %d", id, n)
			}
		}
		if got := subjectOf(t, es[0], "local", ""); got.Remaining != 9 {
			t.Errorf("%+v", got)
		}
		if rs := ruleState(t, es[0], "a"); rs.Admitted != 1 {
			t.Errorf("%+v", rs)
		}
	})
}

func TestWaitsForOtherReplicas(t *testing.T) {
	for _, m := range []Mode{Lease, Exact} {
		fleet(t, 2, func(t *testing.T, s *fakeStore, es []*Engine) {
			r := rule("c", Concurrent, 1, shared(m), waits(20*time.Second))
			g := admitted(t, es[0], Subject{}, Estimate{}, r)
			time.AfterFunc(5*time.Second, func() { g.Settle(Amounts{}) })
			begin := time.Now()
			admitted(t, es[1], Subject{}, Estimate{}, r).Settle(Amounts{})
			if d := time.Since(begin); d < 5*time.Second || d > 7*time.Second {
				t.Errorf("mode %d: waited %v for what came back after 5s", m, d)
			}
			if s.count(true) > 250 {
				t.Errorf("mode %d: %s", m, s.calls())
			}
		})
	}
}

func TestStates(t *testing.T) {
	fleet(t, 2, func(t *testing.T, s *fakeStore, es []*Engine) {
		r := rule("rpm", Requests, 1600, shared(Lease), func(r *Rule) { r.Per = PerTenant })
		for i := range 50 {
			for range i + 1 {
				admitted(t, es[0], Subject{Tenant: fmt.Sprint(i)}, Estimate{}, r)
			}
		}
		rs := es[0].States(3)
		if len(rs) != 1 || rs[0].Counters != 50 || len(rs[0].Subjects) != 3 || rs[0].Subjects[0].Subject != "49" {
			t.Fatalf("%+v", rs)
		}
		if rs[0].Bound != 200 || rs[0].Mode != Lease || rs[0].Admitted != 50*51/2 {
			t.Errorf("%+v", rs[0])
		}
		if one := rs[0].Subjects[0]; one.Remaining != 1550 || one.Admitted != 50 || one.Reserved != 50 || one.Reset <= 0 {
			t.Errorf("%+v", one)
		}
		if st := es[0].Store(); !st.Configured || st.Down || st.Replicas != 2 || st.Acquires == 0 {
			t.Errorf("%+v", st)
		}
	})
	bubble.Test(t, func(t *testing.T) {
		e := New(Options{})
		if st := e.Store(); st.Configured || st.Replicas != 1 {
			t.Errorf("%+v", st)
		}
		e.Close(context.Background())
	})
}
