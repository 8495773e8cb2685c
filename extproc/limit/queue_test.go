package limit

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-dev/weir/test/bubble"
)

// inBubble runs f on virtual time with an engine.
func inBubble(t *testing.T, o Options, f func(t *testing.T, e *Engine)) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		e := New(o)
		defer e.Close(context.Background())
		f(t, e)
	})
}

func waits(d time.Duration) func(*Rule) { return func(r *Rule) { r.MaxWait = d } }

func TestWaitsForItsTime(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, e *Engine) {
		r := rule("rps", Requests, 1, waits(30*time.Second), func(r *Rule) { r.Algorithm, r.Window = TokenBucket, 10*time.Second })
		admitted(t, e, Subject{}, Estimate{}, r)
		begin := time.Now()
		admitted(t, e, Subject{}, Estimate{}, r)
		if d := time.Since(begin); d != 10*time.Second {
			t.Errorf("waited %v", d)
		}
		if rs := ruleState(t, e, "rps"); rs.Waited != 1 || rs.Waiting != 0 {
			t.Errorf("%+v", rs)
		}
	})
}

// TestWaitingForNothing: a request whose room cannot come within its time is refused at once.
func TestWaitingForNothing(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, e *Engine) {
		r := rule("rpm", Requests, 1, waits(10*time.Second))
		admitted(t, e, Subject{}, Estimate{}, r)
		begin := time.Now()
		if no := refused(t, e, Subject{}, Estimate{}, r); no.Kind != Limited || time.Since(begin) != 0 {
			t.Errorf("refused after %v: %+v", time.Since(begin), no)
		}
	})
}

func TestWaitsForWhatIsGivenBack(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, e *Engine) {
		for _, r := range []*Rule{
			rule("atonce", Concurrent, 1, waits(10*time.Second)),
			rule("tpm", TotalTokens, 1, waits(10*time.Second)),
		} {
			g := admitted(t, e, Subject{}, tokens(1, 0), r)
			begin := time.Now()
			time.AfterFunc(3*time.Second, g.Cancel)
			admitted(t, e, Subject{}, tokens(1, 0), r)
			if d := time.Since(begin); d != 3*time.Second {
				t.Errorf("%s: waited %v for what came back after 3s", r.ID, d)
			}
		}
	})
}

func TestWaitEnds(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, e *Engine) {
		r := rule("atonce", Concurrent, 1, waits(5*time.Second))
		g := admitted(t, e, Subject{}, Estimate{}, r)
		begin := time.Now()
		no := refused(t, e, Subject{}, Estimate{}, r)
		if d := time.Since(begin); d != 5*time.Second || no.Waited != d || no.Kind != Limited {
			t.Errorf("refused after %v: %+v", d, no)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		begin = time.Now()
		if _, no = e.Admit(ctx, []*Rule{r}, Subject{}, Estimate{}); no == nil || no.Kind != Canceled || time.Since(begin) != time.Second {
			t.Errorf("after %v: %+v", time.Since(begin), no)
		}
		if rs := ruleState(t, e, "atonce"); rs.Waiting != 0 || rs.Refused != 2 {
			t.Errorf("%+v", rs)
		}
		g.Settle(Amounts{})
		admitted(t, e, Subject{}, Estimate{}, r).Settle(Amounts{})
		if units, n := reservedIn(e); units != 0 || n != 0 {
			t.Errorf("%d reserved by %d", units, n)
		}
	})
}

func TestQueueIsBounded(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, e *Engine) {
		r := rule("atonce", Concurrent, 1, waits(time.Minute))
		g := admitted(t, e, Subject{}, Estimate{}, r)
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		for i := range maxWaiting {
			wg.Go(func() { e.Admit(ctx, []*Rule{r}, Subject{Tenant: fmt.Sprint(i)}, Estimate{}) })
		}
		synctest.Wait()
		begin := time.Now()
		if no := refused(t, e, Subject{}, Estimate{}, r); no.Kind != QueueFull || time.Since(begin) != 0 {
			t.Errorf("after %v: %+v", time.Since(begin), no)
		}
		cancel()
		wg.Wait()
		g.Settle(Amounts{})
		admitted(t, e, Subject{}, Estimate{}, r)
	})
}

// TestAQueueHasRoomForOthers: a tenant that queues all it can leaves places for the next, in a counter that tenants share, and
// fills no queue but its own where each has a counter.
func TestAQueueHasRoomForOthers(t *testing.T) {
	for name, c := range map[string]struct {
		per  Scope
		most int // of one tenant
	}{"one counter for all": {PerTarget, maxWaiting / 2}, "a counter each": {PerTenant, maxWaiting}} {
		inBubble(t, Options{}, func(t *testing.T, e *Engine) {
			r := rule("atonce", Concurrent, 1, waits(time.Minute), func(r *Rule) { r.Per = c.per })
			ctx, cancel := context.WithCancel(context.Background())
			var wg sync.WaitGroup
			var grants []*Grant
			queue := func(tenant string, n int) (waiting int) {
				s := Subject{Tenant: tenant}
				if g, _ := e.Admit(ctx, []*Rule{rule("atonce", Concurrent, 1, func(r *Rule) { r.Per = c.per })}, s, Estimate{}); g != nil {
					grants = append(grants, g)
				}
				before := ruleState(t, e, "atonce").Waiting
				for range n {
					wg.Go(func() { e.Admit(ctx, []*Rule{r}, s, Estimate{}) })
				}
				synctest.Wait()
				return ruleState(t, e, "atonce").Waiting - before
			}
			if n := queue("greedy", 3*maxWaiting); n != c.most {
				t.Errorf("%s: %d of one tenant wait, not %d", name, n, c.most)
			}
			for _, tenant := range []string{"b", "c", "d"} {
				if n := queue(tenant, 10); n != 10 {
					t.Errorf("%s: only %d of the 10 of %s may wait", name, n, tenant)
				}
			}
			cancel()
			wg.Wait()
			for _, g := range grants {
				g.Settle(Amounts{})
			}
			if units, n := reservedIn(e); units != 0 || n != 0 {
				t.Errorf("%s: %d reserved by %d", name, units, n)
			}
		})
	}
}

// TestARuleHasRoomForOthers: nor do the queues of all consumers of one tenant fill those of a rule.
func TestARuleHasRoomForOthers(t *testing.T) {
	var p places
	enter := func(tenant string) (n int) {
		for range 2 * maxWaitingRule {
			if p.enter(tenant, maxWaitingRule) {
				n++
			}
		}
		return n
	}
	for _, want := range []struct {
		tenant string
		n      int
	}{{"greedy", maxWaitingRule / 2}, {"b", maxWaitingRule / 4}, {"c", maxWaitingRule / 8}, {"greedy", 0}} {
		if n := enter(want.tenant); n != want.n {
			t.Errorf("%d of %s wait, not %d", n, want.tenant, want.n)
		}
	}
	for range maxWaitingRule / 2 {
		p.exit("greedy")
	}
	if len(p.of) != 2 || enter("greedy") == 0 {
		t.Errorf("who has left takes places: %d, %v", p.n, p.of)
	}
}

// TestTenantsTakeTurns: a tenant that queues a hundred requests delays another's by one turn each.
func TestTenantsTakeTurns(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, e *Engine) {
		r := rule("atonce", Concurrent, 1, waits(time.Minute))
		first := admitted(t, e, Subject{}, Estimate{}, r)
		var mu sync.Mutex
		var order []string
		var wg sync.WaitGroup
		queue := func(tenant string, i int) {
			wg.Go(func() {
				g, no := e.Admit(context.Background(), []*Rule{r}, Subject{Tenant: tenant}, Estimate{})
				if no != nil {
					t.Errorf("%s%d: %v", tenant, i, no)
					return
				}
				mu.Lock()
				order = append(order, fmt.Sprint(tenant, i))
				mu.Unlock()
				time.Sleep(10 * time.Millisecond)
				g.Settle(Amounts{})
			})
			synctest.Wait()
		}
		for i := range 100 {
			queue("a", i)
		}
		for i := range 3 {
			queue("b", i)
		}
		queue("c", 0)
		time.Sleep(time.Second)
		first.Settle(Amounts{})
		wg.Wait()
		want := []string{"a0", "b0", "c0", "a1", "b1", "a2", "b2", "a3", "a4"}
		if len(order) != 104 || !slices.Equal(order[:len(want)], want) {
			t.Errorf("%d in the order %v", len(order), order)
		}
		for i, got := range order[len(want):] {
			if got != fmt.Sprint("a", i+5) {
				t.Fatalf("%s out of its order: %v", got, order)
			}
		}
	})
}

// TestNobodyOvertakes: room that a large request waits for is not taken by small ones that come later.
func TestNobodyOvertakes(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, e *Engine) {
		r := rule("tpm", TotalTokens, 100, waits(time.Minute))
		g := admitted(t, e, Subject{}, tokens(60, 0), r)
		done := make(chan string, 2)
		go func() {
			admitted(t, e, Subject{Tenant: "a"}, tokens(90, 0), r).Cancel()
			done <- "large"
		}()
		synctest.Wait()
		go func() {
			admitted(t, e, Subject{Tenant: "b"}, tokens(1, 0), r)
			done <- "small"
		}()
		synctest.Wait()
		if len(done) != 0 {
			t.Fatal("one was admitted before there was room for the first")
		}
		g.Cancel()
		if a, b := <-done, <-done; a != "large" || b != "small" {
			t.Errorf("%s, then %s", a, b)
		}
	})
}

// TestWaitsAtTheRuleThatRefuses: a request that another rule refuses when its turn comes makes way for those behind it.
func TestWaitsAtTheRuleThatRefuses(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, e *Engine) {
		all := rule("all", Concurrent, 1, waits(time.Minute))
		own := rule("own", Concurrent, 1, waits(time.Minute), func(r *Rule) { r.Per = PerTenant })
		ga := admitted(t, e, Subject{Tenant: "a"}, Estimate{}, own)
		g := admitted(t, e, Subject{}, Estimate{}, all)
		done := make(chan string, 2)
		for _, tenant := range []string{"a", "b"} {
			go func() {
				admitted(t, e, Subject{Tenant: tenant}, Estimate{}, all, own).Settle(Amounts{})
				done <- tenant
			}()
			synctest.Wait()
		}
		g.Settle(Amounts{})
		synctest.Wait()
		if len(done) != 1 || <-done != "b" {
			t.Fatal("b waits for a, which waits for its own limit")
		}
		ga.Settle(Amounts{})
		if got := <-done; got != "a" {
			t.Error(got)
		}
		if units, n := reservedIn(e); units != 0 || n != 0 {
			t.Errorf("%d reserved by %d", units, n)
		}
	})
}

func TestARuleThatDoesNotWaitRefusesAtOnce(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, e *Engine) {
		patient, strict := rule("patient", Concurrent, 1, waits(time.Minute)), rule("strict", Concurrent, 1)
		admitted(t, e, Subject{}, Estimate{}, patient, strict)
		begin := time.Now()
		refused(t, e, Subject{}, Estimate{}, patient, strict)
		if d := time.Since(begin); d != 0 {
			t.Errorf("waited %v", d)
		}
	})
}

// TestNothingLeaks: whatever requests do, in whatever order, in the end nothing is reserved and nobody waits.
func TestNothingLeaks(t *testing.T) {
	for seed := range uint64(6) {
		inBubble(t, Options{}, func(t *testing.T, e *Engine) {
			begin := time.Now()
			all := []*Rule{
				rule("c", Concurrent, 6, waits(3*time.Second)),
				rule("ct", Concurrent, 2, waits(2*time.Second), func(r *Rule) { r.Per = PerTenant }),
				rule("rpm", Requests, 200, waits(time.Second)),
				rule("tpm", TotalTokens, 8000, waits(5*time.Second), func(r *Rule) { r.Window = 10 * time.Second }),
				rule("bucket", OutputTokens, 9000, func(r *Rule) { r.Algorithm, r.Per, r.Burst = TokenBucket, PerConsumer, 3000 }),
				budget("b", 100_000, func(r *Rule) { r.Per = PerTenant }),
				budget("soft", 1000, func(r *Rule) { r.WarnOnly, r.WarnAt = true, 1 }),
				rule("shadow", Requests, 3, func(r *Rule) { r.Shadow = true }),
			}
			var wg sync.WaitGroup
			var over sync.Map
			var running [2]struct {
				sync.Mutex
				n int
			}
			for worker := range uint64(40) {
				rnd := rand.New(rand.NewPCG(seed, worker))
				wg.Go(func() {
					for range 25 {
						var rules []*Rule
						for _, i := range rnd.Perm(len(all)) {
							if i < 2 || rnd.IntN(3) > 0 {
								rules = append(rules, all[i])
							}
						}
						tenant := rnd.IntN(2)
						s := Subject{Tenant: fmt.Sprint(tenant), Consumer: fmt.Sprint(rnd.IntN(4))}
						est := Estimate{Input: rnd.Int64N(300), Output: rnd.Int64N(500), HasMax: rnd.IntN(2) == 0, Cost: rnd.Int64N(400), OutputPrice: 1e5}
						ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rnd.Int64N(int64(4*time.Second))))
						g, no := e.Admit(ctx, rules, s, est)
						if no == nil {
							r := &running[tenant]
							r.Lock()
							if r.n++; r.n > 2 {
								over.Store(tenant, r.n)
							}
							r.Unlock()
							time.Sleep(time.Duration(rnd.Int64N(int64(300 * time.Millisecond))))
							r.Lock()
							r.n--
							r.Unlock()
							if rnd.IntN(4) == 0 {
								g.Cancel()
							} else {
								g.Settle(Amounts{Input: est.Input, Output: rnd.Int64N(800), Cost: rnd.Int64N(600)})
							}
							if rnd.IntN(4) == 0 {
								g.Settle(Amounts{Input: 1e9})
							}
						}
						cancel()
						time.Sleep(time.Duration(rnd.Int64N(int64(time.Second))))
					}
				})
			}
			wg.Wait()
			over.Range(func(k, v any) bool {
				t.Errorf("seed %d: tenant %v ran %v at once, 2 are allowed", seed, k, v)
				return true
			})
			if units, n := reservedIn(e); units != 0 || n != 0 {
				t.Errorf("seed %d: %d units reserved by %d grants", seed, units, n)
			}
			e.reg.each(func(c *counter) {
				if c.queue.n != 0 || c.kind.waiting.n != 0 || len(c.kind.waiting.of) != 0 || len(c.queue.turns) != 0 {
					t.Errorf("seed %d: %s: %d wait", seed, c.kind.id.id, c.queue.n)
				}
				if g, ok := c.book.(*gauge); ok && g.used != 0 {
					t.Errorf("seed %d: %s: %d run", seed, c.kind.id.id, g.used)
				}
			})
			var n, waited uint64
			for _, rs := range e.States(0) {
				n += rs.Admitted
				waited += rs.Waited
			}
			if n == 0 || waited == 0 {
				t.Errorf("seed %d: %d admitted, %d of them after waiting: this shows nothing (%v)", seed, n, waited, time.Since(begin))
			}
		})
	}
}
