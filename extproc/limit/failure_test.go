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

// spend admits n requests of one unit and returns how many were.
func spend(e *Engine, r *Rule, n int) (admitted int, last *Refusal) {
	for range n {
		g, no := e.Admit(context.Background(), []*Rule{r}, Subject{}, Estimate{Cost: 1, HasMax: true})
		if no != nil {
			last = no
			continue
		}
		g.Settle(Amounts{Cost: 1})
		admitted++
	}
	return admitted, last
}

func TestStoreAway(t *testing.T) {
	for _, m := range []Mode{Lease, Exact} {
		for _, c := range []struct {
			name string
			how  Failure
			want int // of 1000, while the store is away, with 4 replicas and a limit of 400
			kind Kind
		}{
			{"allow", Allow, 1000, 0},
			{"deny", Deny, 0, StoreDown},
			{"share", LocalShare, 100, Limited},
		} {
			t.Run(fmt.Sprint(c.name, m), func(t *testing.T) {
				fleet(t, 4, func(t *testing.T, s *fakeStore, es []*Engine) {
					r := rule("rpm", Requests, 400, shared(m, c.how), func(r *Rule) { r.Window = time.Hour })
					s.fail(errAway)
					n, last := spend(es[0], r, 1000)
					if n != c.want {
						t.Errorf("%d were admitted, not %d", n, c.want)
					}
					if c.want < 1000 && (last.Kind != c.kind || last.RetryAfter <= 0) {
						t.Errorf("%+v", last)
					}
					time.Sleep(10 * time.Second)
					if n := s.away(); n > 30 {
						t.Errorf("a dead store was asked %d times", n)
					}
					if c.how == Deny {
						if m == Exact && !es[0].Store().Down {
							t.Error("the store is not known to be down")
						}
					}
					s.fail(nil)
					time.Sleep(5 * time.Second)
					if es[0].Store().Down {
						t.Error("the store is back and nobody noticed")
					}
					if got := int(s.held("rpm")); got != c.want {
						t.Errorf("the store was told of %d", got)
					}
					got, _ := spend(es[1], r, 1000)
					if want := max(400-c.want, 0); got != want {
						t.Errorf("when it was back %d more were admitted, not %d", got, want)
					}
				})
			})
		}
	}
}

// TestShareCountsWhatWasAdmittedBefore: a replica that has had its share gets nothing more, and none gets more than its part
// of what was left.
func TestShareCountsWhatWasAdmittedBefore(t *testing.T) {
	for _, m := range []Mode{Lease, Exact} {
		for _, r := range []*Rule{
			rule("rpm", Requests, 400, shared(m), func(r *Rule) { r.Window = time.Hour }),
			budget("b", 400, shared(m)),
			rule("bucket", Requests, 400, shared(m), func(r *Rule) { r.Algorithm, r.Window = TokenBucket, 24*time.Hour }),
		} {
			fleet(t, 4, func(t *testing.T, s *fakeStore, es []*Engine) {
				spend(es[0], r, 320)
				time.Sleep(2 * time.Second)
				spend(es[1], r, 20)
				spend(es[2], r, 1)
				time.Sleep(2 * time.Second) // pools are given back
				s.fail(errAway)
				sum := 341
				for i, e := range es {
					n, _ := spend(e, r, 400)
					sum += n
					if i == 0 && n != 0 {
						t.Errorf("%s, mode %d: the replica that had 320 of 400 got %d more", r.ID, m, n)
					}
					if i == 1 && n > 60/4 {
						t.Errorf("%s, mode %d: a replica got %d of the 60 that were left for four", r.ID, m, n)
					}
				}
				// The fourth has never asked: it knows of nothing and takes its share.
				if sum > 400+100 || sum < 341+100 {
					t.Errorf("%s, mode %d: %d in all", r.ID, m, sum)
				}
			})
		}
	}
}

// TestShareOfAWindowComesBack: while the store stays away each window has its share.
func TestShareOfAWindowComesBack(t *testing.T) {
	fleet(t, 4, func(t *testing.T, s *fakeStore, es []*Engine) {
		r := rule("rpm", Requests, 400, shared(Lease))
		spend(es[0], r, 400)
		s.fail(errAway)
		if n, _ := spend(es[0], r, 10); n != 0 {
			t.Errorf("%d beyond the limit", n)
		}
		for range 3 {
			time.Sleep(2 * time.Minute)
			if n, _ := spend(es[0], r, 400); n != 100 {
				t.Errorf("%d of a share of 100", n)
			}
		}
		big := rule("tpm", TotalTokens, 400, shared(Lease))
		if no := refused(t, es[0], Subject{}, tokens(101, 0), big); no.Kind != StoreDown {
			t.Errorf("more than the share: %+v", no)
		}
		admitted(t, es[0], Subject{}, tokens(100, 0), big)
	})
}

// TestSlowStore: a store that does not answer in time delays a request no longer than two time-outs, and few requests.
func TestSlowStore(t *testing.T) {
	for _, m := range []Mode{Lease, Exact} {
		fleet(t, 1, func(t *testing.T, s *fakeStore, es []*Engine) {
			s.slow(time.Hour)
			r := rule("rpm", Requests, 10_000, shared(m))
			late := 0
			for range 1000 {
				begin := time.Now()
				admitted(t, es[0], Subject{}, Estimate{}, r)
				if d := time.Since(begin); d > 2*defaultTimeout {
					t.Fatalf("mode %d: waited %v", m, d)
				} else if d > 0 {
					late++
				}
				time.Sleep(10 * time.Millisecond)
			}
			if late > 5 {
				t.Errorf("mode %d: %d of 1000 requests waited for a dead store", m, late)
			}
		})
	}
}

// TestAStoreThatOnlyPings is left alone for longer each time.
func TestAStoreThatOnlyPings(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newFakeStore(t, 1)
		e := New(Options{Remote: pingOnly{s}})
		defer e.Close(context.Background())
		r := rule("rpm", Requests, 10_000, shared(Exact))
		for range 6000 {
			admitted(t, e, Subject{}, Estimate{}, r)
			time.Sleep(10 * time.Millisecond)
		}
		if f := e.Store().Failures; f > 300 || f < 3 {
			t.Errorf("%d failed calls in a minute", f)
		}
	})
}

type pingOnly struct{ *fakeStore }

func (pingOnly) Acquire(context.Context, Counter, int64, int64) (Acquired, error) {
	return Acquired{}, errAway
}
func (pingOnly) Adjust(context.Context, Counter, int64, time.Time) error { return errAway }

// TestABadGrantIsAnError: an engine does not trust an amount that it did not ask for.
func TestABadGrantIsAnError(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		e := New(Options{Remote: generous{newFakeStore(t, 1)}})
		defer e.Close(context.Background())
		r := rule("tpm", TotalTokens, 100, shared(Exact, Deny))
		if no := refused(t, e, Subject{}, tokens(50, 0), r); no.Kind != StoreDown {
			t.Errorf("%+v", no)
		}
	})
}

type generous struct{ *fakeStore }

func (generous) Acquire(_ context.Context, _ Counter, _, want int64) (Acquired, error) {
	return Acquired{Granted: 2 * want}, nil
}

// TestNothingLeaksWithAStore: the store fails, is slow and comes back while requests run; in the end nothing is reserved,
// nobody waits, and the store counts what was spent, to the unit, and nothing that runs.
func TestNothingLeaksWithAStore(t *testing.T) {
	for seed := range uint64(4) {
		fleet(t, 2, func(t *testing.T, s *fakeStore, es []*Engine) {
			var all []*Rule
			for _, m := range []Mode{Local, Lease, Exact} {
				for _, f := range []Failure{LocalShare, Allow, Deny} {
					how := shared(m, f)
					id := fmt.Sprint(m, f)
					all = append(all,
						rule("c"+id, Concurrent, 12, how, waits(time.Second)),
						rule("r"+id, Requests, 300, how),
						rule("t"+id, TotalTokens, 30_000, how, waits(time.Second), func(r *Rule) { r.Window = 10 * time.Second }),
						budget("b"+id, 100_000, how, func(r *Rule) { r.Per, r.WarnOnly = PerTenant, f == Allow }),
					)
				}
			}
			spent := map[string]*atomic.Int64{}
			for _, r := range all {
				spent[r.ID] = new(atomic.Int64)
			}
			done := make(chan struct{})
			go func() {
				rnd := rand.New(rand.NewPCG(seed, 99))
				for {
					select {
					case <-done:
						return
					case <-time.After(time.Duration(rnd.Int64N(int64(2 * time.Second)))):
					}
					switch rnd.IntN(3) {
					case 0:
						s.fail(errAway)
					case 1:
						s.slow(time.Duration(rnd.Int64N(int64(2 * defaultTimeout))))
					default:
						s.fail(nil)
						s.slow(0)
					}
				}
			}()
			var wg sync.WaitGroup
			for worker := range uint64(24) {
				rnd := rand.New(rand.NewPCG(seed, worker))
				wg.Go(func() {
					for range 30 {
						var rules []*Rule
						for range 1 + rnd.IntN(8) {
							rules = append(rules, all[rnd.IntN(len(all))])
						}
						est := Estimate{Input: rnd.Int64N(300), Output: rnd.Int64N(500), HasMax: true, Cost: rnd.Int64N(400)}
						ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rnd.Int64N(int64(3*time.Second))))
						g, _ := es[rnd.IntN(2)].Admit(ctx, rules, Subject{Tenant: fmt.Sprint(rnd.IntN(3))}, est)
						time.Sleep(time.Duration(rnd.Int64N(int64(time.Second))))
						if rnd.IntN(4) == 0 {
							g.Cancel()
						} else {
							cost := rnd.Int64N(600)
							if g != nil {
								for _, h := range g.holds {
									spent[h.rule.ID].Add(cost)
								}
							}
							g.Settle(Amounts{Input: est.Input, Output: rnd.Int64N(800), Cost: cost})
						}
						cancel()
					}
				})
			}
			wg.Wait()
			close(done)
			s.fail(nil)
			s.slow(0)
			time.Sleep(30 * time.Second)
			for _, r := range all {
				if n := s.held(r.ID); r.Unit == Concurrent && n != 0 {
					t.Errorf("seed %d: %s: %d run by the store's count", seed, r.ID, n)
				} else if want := spent[r.ID].Load(); r.Algorithm == Calendar && r.Sharing != Local && n != want {
					t.Errorf("seed %d: %s: %d were spent, %d by the store's count", seed, r.ID, want, n)
				}
			}
			for i, e := range es {
				if units, n := reservedIn(e); units != 0 || n != 0 {
					t.Errorf("seed %d: %d units reserved by %d requests", seed, units, n)
				}
				e.reg.each(func(c *counter) {
					if c.queue.n != 0 || c.kind.waiting.n != 0 {
						t.Errorf("seed %d: %d wait", seed, c.queue.n)
					}
					if p := c.pool; p != nil && (p.busy(false) || p.demand != 0) {
						t.Errorf("seed %d, replica %d: %s: %d in the pool, owed %v, %d demanded, asking %v, flushing %v",
							seed, i, c.key, p.avail, p.owed, p.demand, p.asking, p.flushing)
					}
					if g, ok := c.book.(*gauge); ok && g.used != 0 {
						t.Errorf("seed %d: %d run", seed, g.used)
					}
				})
			}
		})
	}
}
