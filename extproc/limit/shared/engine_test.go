package shared_test

import (
	"bufio"
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/limit/shared"
	"github.com/weir-dev/weir/test/redistest"
)

func engine(t *testing.T, r limit.Remote) *limit.Engine {
	t.Helper()
	e := limit.New(limit.Options{Remote: r, Timeout: patience})
	t.Cleanup(func() { e.Close(context.Background()) })
	return e
}

// monitor counts the commands that clients give, those of scripts not, as MONITOR shows them.
func monitor(t *testing.T, s *redistest.Server) *atomic.Int64 {
	t.Helper()
	n := new(atomic.Int64)
	conn, err := net.Dial("tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("MONITOR\r\n")); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		// A line is: +1700000000.123456 [0 127.0.0.1:1234] "ping", or [0 lua] for what a script does.
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			if line := lines.Text(); strings.Contains(line, " [0 ") && !strings.Contains(line, " [0 lua] ") {
				n.Add(1)
			}
		}
	})
	t.Cleanup(func() {
		_ = conn.Close()
		wg.Wait()
	})
	other := s.Client()
	until(t, "MONITOR shows commands", func() bool { return other.Ping(context.Background()).Err() == nil && n.Load() > 0 })
	return n
}

// TestLeasesAskNothingPerRequest counts Redis commands while requests under three leased limits come.
func TestLeasesAskNothingPerRequest(t *testing.T) {
	s := redistest.Start(t)
	ctx := context.Background()
	r := remote(t, open(t, s.Addr), "a")
	e := engine(t, r)
	rules := []*limit.Rule{
		{ID: "1", Name: "requests", Unit: limit.Requests, Limit: 100_000_000, Window: time.Minute, Sharing: limit.Lease},
		{ID: "2", Name: "tokens", Unit: limit.TotalTokens, Limit: 1_000_000_000, Window: time.Minute, Sharing: limit.Lease},
		{ID: "3", Name: "budget", Unit: limit.Cost, Algorithm: limit.Calendar, Period: limit.Month, Limit: 1e18, Sharing: limit.Lease},
	}
	requests := func(n int) {
		for range n {
			g, refusal := e.Admit(ctx, rules, limit.Subject{Tenant: "t"}, limit.Estimate{Input: 10, Output: 20, HasMax: true, Cost: 5000})
			if refusal != nil {
				t.Fatal(refusal)
			}
			g.Settle(limit.Amounts{Input: 10, Output: 12, Cost: 3000})
		}
	}
	requests(5000) // the pools learn the rate
	commands := monitor(t, s)
	before := commands.Load()
	const n = 100_000
	requests(n)
	// All that has been sent by now is before this one.
	mark := commands.Load()
	if err := s.Client().Ping(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	until(t, "MONITOR shows the last command", func() bool { return commands.Load() > mark })
	sent := commands.Load() - before
	t.Logf("%d commands for %d requests under %d limits", sent, n, len(rules))
	// Leases are renewed by time, so that a slow machine sends more for as many requests; asking for each would be 3*n.
	if sent > n/20 {
		t.Errorf("%d requests made %d commands: leases are not what they are admitted from", n, sent)
	}
}

// TestExactAsksOncePerRequest is the other side: the count above can fail.
func TestExactAsksOncePerRequest(t *testing.T) {
	s := redistest.Start(t)
	ctx := context.Background()
	e := engine(t, remote(t, open(t, s.Addr), "a"))
	rules := []*limit.Rule{{ID: "1", Name: "r", Limit: 1_000_000, Window: time.Minute, Sharing: limit.Exact}}
	if _, refusal := e.Admit(ctx, rules, limit.Subject{}, limit.Estimate{}); refusal != nil {
		t.Fatal(refusal)
	}
	commands := monitor(t, s)
	before := commands.Load()
	for range 200 {
		g, refusal := e.Admit(ctx, rules, limit.Subject{}, limit.Estimate{})
		if refusal != nil {
			t.Fatal(refusal)
		}
		g.Settle(limit.Amounts{})
	}
	until(t, "MONITOR shows a command for each request", func() bool { return commands.Load()-before >= 200 })
	if n := commands.Load() - before; n > 202 {
		t.Errorf("200 requests made %d commands", n)
	}
}

// TestBudgetOfEnginesSurvives spends one budget with two engines while Redis is flushed, killed and paused.
func TestBudgetOfEnginesSurvives(t *testing.T) {
	s := redistest.Start(t)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	const tick = 20 * time.Millisecond
	var remotes []*shared.Remote
	var engines []*limit.Engine
	for _, id := range []string{"a", "b"} {
		r := remote(t, open(t, s.Addr), id, withBeat(tick))
		wg.Go(func() { r.Run(ctx) })
		remotes = append(remotes, r)
		e := limit.New(limit.Options{Remote: r, Timeout: 200 * time.Millisecond})
		defer e.Close(ctx)
		engines = append(engines, e)
	}
	until(t, "both are seen", func() bool { return remotes[0].Replicas() == 2 && remotes[1].Replicas() == 2 })
	const most, cost = 1_000_000, 1000
	for _, sharing := range []limit.Mode{limit.Exact, limit.Lease} {
		r := &limit.Rule{
			ID: "budget" + string(rune('0'+sharing)), Name: "budget", Unit: limit.Cost, Algorithm: limit.Calendar, Period: limit.Month,
			Limit: most, Sharing: sharing, OnFailure: limit.Deny,
		}
		var spent atomic.Int64
		spend := func(e *limit.Engine, n int) {
			for range n {
				g, refusal := e.Admit(ctx, []*limit.Rule{r}, limit.Subject{}, limit.Estimate{Cost: 2 * cost, HasMax: true})
				if refusal == nil {
					g.Settle(limit.Amounts{Cost: cost})
					spent.Add(cost)
				}
			}
		}
		for _, disturb := range []func(){
			func() {},
			func() { s.Client().FlushAll(ctx) },
			s.Restart,
			func() { s.Pause(); spend(engines[0], 3); s.Resume() },
		} {
			disturb()
			for _, e := range engines {
				spend(e, 50)
			}
			until(t, "counting goes on", func() bool {
				was := spent.Load()
				spend(engines[0], 1)
				mid := spent.Load()
				spend(engines[1], 1)
				return mid > was && spent.Load() > mid
			})
		}
		if spent.Load() >= most {
			t.Fatalf("%d is spent already: nothing is tested", spent.Load())
		}
		// To the last: what is returned is there again a moment later.
		until(t, "the budget is spent", func() bool {
			for _, e := range engines {
				spend(e, 50)
			}
			return spent.Load() > most-2*cost
		})
		for _, e := range engines {
			spend(e, 500)
		}
		if spent.Load() > most {
			t.Errorf("%d of %d is spent", spent.Load(), most)
		}
	}
}
