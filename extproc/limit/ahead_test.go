package limit

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
)

// everything lists what is let in ahead until nothing more is.
func everything(t testing.TB, e *Engine, est Estimate, rules ...*Rule) (out []*Grant) {
	t.Helper()
	for {
		g, ok := e.Ahead(rules, Subject{Tenant: "a"}, est)
		if !ok {
			return out
		}
		if out = append(out, g); len(out) > 100_000 {
			t.Fatal("there is no end to it")
		}
	}
}

func TestAheadLeavesRoom(t *testing.T) {
	for _, c := range []struct {
		rule *Rule
		need int64
	}{
		{rule("r", Requests, 100), 1},
		{rule("r", Concurrent, 64), 1},
		{rule("r", TotalTokens, 10_000), 50},
		{rule("r", TotalTokens, 10_000, func(r *Rule) { r.Algorithm, r.Burst = TokenBucket, 5000 }), 50},
	} {
		e, _ := local(t)
		list := everything(t, e, tokens(20, 30), c.rule)
		left := c.rule.capacity() - int64(len(list))*c.need
		if len(list) == 0 || left >= aheadShare*c.need || left < (aheadShare-1)*c.need {
			t.Errorf("%s: %d are let in ahead, and %d units are left of %d", c.rule.Unit, len(list), left, c.rule.capacity())
		}
		// What is let in ahead is reserved: the rest goes to those that come, and then nobody gets in.
		for left >= c.need {
			admitted(t, e, Subject{Tenant: "a"}, tokens(20, 30), c.rule)
			left -= c.need
		}
		refused(t, e, Subject{Tenant: "a"}, tokens(20, 30), c.rule)
		for _, g := range list {
			g.Cancel()
		}
		admitted(t, e, Subject{Tenant: "a"}, tokens(20, 30), c.rule)
	}
}

func TestAheadNever(t *testing.T) {
	warns := budget("b", 1_000_000, func(r *Rule) { r.WarnAt = 900 })
	e, _ := local(t)
	if g, ok := e.Ahead(nil, Subject{}, Estimate{}); !ok || g != nil {
		t.Error("no rule stops nobody")
	}
	if _, ok := e.Ahead([]*Rule{warns}, Subject{}, Estimate{Cost: 10, HasMax: true}); !ok {
		t.Error("a budget that is not spent stops somebody")
	}
	admitted(t, e, Subject{}, Estimate{Cost: 950, HasMax: true}, warns).Settle(Amounts{Cost: 950})
	if _, ok := e.Ahead([]*Rule{warns}, Subject{}, Estimate{Cost: 10, HasMax: true}); ok {
		t.Error("an answer that has to warn is let in ahead")
	}
	if _, grants := reservedIn(e); grants != 1 {
		t.Errorf("%d grants are open, want the one that was let in", grants)
	}
}

func TestAheadIsCountedWhenItComes(t *testing.T) {
	e, _ := local(t)
	r := rule("r", Requests, 1000)
	came, _ := e.Ahead([]*Rule{r}, Subject{Tenant: "a"}, Estimate{})
	gone, _ := e.Ahead([]*Rule{r}, Subject{Tenant: "a"}, Estimate{})
	if n := ruleState(t, e, "r").Admitted; n != 0 {
		t.Errorf("%d requests count as admitted before any has come", n)
	}
	came.Came()
	came.Settle(Amounts{})
	gone.Cancel()
	if n := ruleState(t, e, "r").Admitted; n != 1 {
		t.Errorf("%d requests count as admitted, want the one that came", n)
	}
	if s := admitted(t, e, Subject{Tenant: "a"}, Estimate{}, r).Headers().Requests; s.Remaining != 998 {
		t.Errorf("%d requests remain of 1000, of which one has come and one comes now", s.Remaining)
	}
	if came.Reserved(r) != 1 || came.Reserved(rule("other", Requests, 1)) != 0 {
		t.Error("the grant says something else than what it has reserved")
	}
}

// A request that was let in ahead, and asks for it anew after all, is one request.
func TestVoidIsCountedOnce(t *testing.T) {
	rec := &recorder{n: map[string]map[Outcome]int{}}
	e := New(Options{Now: newClock().now, Metrics: rec})
	defer e.Close(context.Background())
	r := rule("r", Requests, 1000)
	for range 3 {
		ahead, _ := e.Ahead([]*Rule{r}, Subject{Tenant: "a"}, Estimate{})
		ahead.Came()
		ahead.Void()
		ahead.Void()
		ahead.Cancel()
		admitted(t, e, Subject{Tenant: "a"}, Estimate{}, r).Settle(Amounts{})
	}
	if s := admitted(t, e, Subject{Tenant: "a"}, Estimate{}, r).Headers().Requests; s.Remaining != 996 {
		t.Errorf("%d requests remain of 1000, want 996", s.Remaining)
	}
	if n, told := ruleState(t, e, "r").Admitted, rec.n["r"][Admitted]; n != 4 || told != 4 {
		t.Errorf("%d requests count as admitted, and metrics say %d, want 4", n, told)
	}
	var none *Grant
	none.Void()
}

// keeper is a Reclaimer.
type keeper struct {
	mu       sync.Mutex
	grants   []*Grant
	returned uint64
}

func (k *keeper) Revoke() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := len(k.grants)
	for _, g := range k.grants {
		g.Cancel()
	}
	k.grants, k.returned = nil, k.returned+uint64(n)
	return n
}

func (k *keeper) Returned() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.returned
}

// TestReclaim: nobody is refused for what was let in ahead and does not come. However requests race, exactly the limit gets in.
func TestReclaim(t *testing.T) {
	const limit = 500
	clock := newClock()
	var kept keeper
	r := rule("r", Requests, limit)
	e := New(Options{Now: clock.now, Reclaimer: &kept})
	defer e.Close(context.Background())
	var in, out atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range limit {
				kept.mu.Lock()
				if g, ok := e.Ahead([]*Rule{r}, Subject{}, Estimate{}); ok {
					kept.grants = append(kept.grants, g)
				}
				kept.mu.Unlock()
				if _, no := e.Admit(context.Background(), []*Rule{r}, Subject{}, Estimate{}); no == nil {
					in.Add(1)
				} else {
					out.Add(1)
				}
			}
		})
	}
	wg.Wait()
	// One that asks again between two others that let some in ahead may be refused too early; but not when they have stopped.
	for range limit {
		if _, no := e.Admit(context.Background(), []*Rule{r}, Subject{}, Estimate{}); no == nil {
			in.Add(1)
		}
	}
	if in.Load() != limit {
		t.Errorf("%d requests got in, the limit is %d", in.Load(), limit)
	}
	if n := ruleState(t, e, "r").Refused; n != uint64(8*limit+limit)-limit {
		t.Errorf("%d refusals are counted of %d", n, 8*limit)
	}
}
