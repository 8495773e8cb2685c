package limit

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/bubble"
)

func cuts(r *Rule) { r.CutStreams = true }

// stream is the estimate of one whose input costs in, and whose largest output out.
func stream(in, out int64) Estimate {
	return Estimate{Cost: in + out, Output: out, OutputPrice: 1e6, HasMax: true, Cuttable: true}
}

func TestSpend(t *testing.T) {
	e, _ := local(t)
	hard, plain := budget("hard", 1000, cuts), budget("plain", 1000)
	a := admitted(t, e, Subject{}, stream(100, 500), hard, plain)
	b := admitted(t, e, Subject{}, stream(100, 300), hard, plain)
	if _, n, ok := a.Cut(); !ok || n != 900 {
		t.Errorf("a may cost %d beside the 100 that b has reserved (%v)", n, ok)
	}
	for _, s := range []struct {
		g     *Grant
		nano  int64
		spent bool
	}{{a, 50, false}, {a, 600, false}, {b, 399, false}, {b, 400, true}, {a, 600, true}, {a, 100, false}} {
		if got := s.g.Spend(s.nano); got != s.spent {
			t.Errorf("after %d: spent is %v", s.nano, got)
		}
	}
	if s := subjectOf(t, e, "plain", ""); s.Remaining != 0 {
		t.Errorf("a budget that cuts nothing reserved %d of 1000", 1000-s.Remaining)
	}
	a.Settle(Amounts{Cost: 600})
	b.Settle(Amounts{Cost: 350})
	if b.Spend(1e12) || (*Grant)(nil).Spend(1) {
		t.Error("a request that has ended spends")
	}
	if s := subjectOf(t, e, "hard", ""); s.Remaining != 50 || s.Reserved != 0 {
		t.Errorf("%+v", s)
	}
}

// TestSpendWhileSettled: the two may come at the same time, and what counts is what was settled.
func TestSpendWhileSettled(t *testing.T) {
	e, _ := local(t)
	r := budget("hard", 1e9, cuts)
	for range 300 {
		g := admitted(t, e, Subject{}, stream(1, 10), r)
		var wg sync.WaitGroup
		wg.Go(func() {
			for n := range int64(20) {
				g.Spend(n)
				g.Cut()
			}
		})
		wg.Go(func() { g.Settle(Amounts{Cost: 7}) })
		wg.Wait()
	}
	if s := subjectOf(t, e, "hard", ""); s.Remaining != 1e9-300*7 || s.Reserved != 0 {
		t.Errorf("%+v", s)
	}
}

// TestStreamsShareABudget: many streams run into a budget at once; in the end it is passed by no more than the last step of each.
func TestStreamsShareABudget(t *testing.T) {
	for _, m := range []Mode{Local, Lease, Exact} {
		bubble.Test(t, func(t *testing.T) {
			s := newFakeStore(t, 1)
			e := New(Options{Remote: s})
			r := budget("hard", 10_000, cuts, shared(m))
			var used atomic.Int64
			var wg sync.WaitGroup
			const streams, step = 50, 10
			for range streams {
				wg.Go(func() {
					g, no := e.Admit(context.Background(), []*Rule{r}, Subject{}, stream(20, 5000))
					if no != nil {
						return
					}
					cost := int64(20)
					for cost < 5000 && !g.Spend(cost) {
						time.Sleep(20 * time.Millisecond)
						cost += step
					}
					used.Add(cost)
					g.Settle(Amounts{Cost: cost})
				})
			}
			wg.Wait()
			if n := used.Load(); n < 10_000-step || n > 10_000+2*streams*step {
				t.Errorf("mode %d: %d of 10000 were spent", m, n)
			}
			time.Sleep(5 * time.Second)
			if n := s.held("hard"); m != Local && n != used.Load() {
				t.Errorf("mode %d: the store holds %d of %d", m, n, used.Load())
			}
			e.Close(context.Background())
		})
	}
}
