package pick

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/breaker"
)

// TestStress: requests of all kinds end in all ways, often twice and from several sides, while endpoints and policies
// change under them. In the end nothing is in flight, nobody waits, and everybody was answered.
func TestStress(t *testing.T) {
	const workers, each = 16, 150 // requests that get an endpoint
	breakers := breaker.New(breaker.Options{})
	s := NewSet(Options{Breakers: breakers, Seed: 7})
	rule := &breaker.Rule{ID: "Backend/p", ErrorPercent: 60, MinRequests: 5, Window: time.Second, OpenFor: 2 * time.Millisecond, HalfOpenRequests: 2}
	policies := []*Policy{
		{Breaker: rule},
		{Admission: &Admission{MaxRequests: 2, MaxWaiting: 8, MaxWait: 20 * time.Millisecond}, Breaker: rule},
		{Admission: &Admission{MaxRequests: 1, MaxTokens: 300, MaxWaiting: 1000, MaxWait: 50 * time.Millisecond}},
		{Prefix: &Prefix{BlockTokens: 10, MaxBlocks: 1000, MaxGapTokens: 500}, Session: &Session{IdleTimeout: time.Second, MaxGapTokens: 500}, Choices: 2},
		{Mode: Weights, Breaker: rule},
	}
	pools := []string{"ns/a", "ns/b"}
	change := func(rnd *rand.Rand) {
		n := rnd.IntN(9)
		list := make([]Endpoint, 0, n)
		for i := range n {
			list = append(list, Endpoint{Key: string(rune('a' + (i+rnd.IntN(3))%8)), Base: float64(rnd.IntN(3)), Factor: rnd.Float64(), KV: rnd.Float64()*1.2 - 0.1,
				Isolated: rnd.IntN(5) == 0, Panic: rnd.IntN(10) == 0})
		}
		s.Update(pools[rnd.IntN(2)], policies[rnd.IntN(len(policies))], list)
	}
	seed := rand.New(rand.NewPCG(1, 9))
	for range 10 {
		change(seed)
	}
	stop := make(chan struct{})
	var changers, wg sync.WaitGroup
	for g := range uint64(2) {
		changers.Go(func() {
			rnd := rand.New(rand.NewPCG(g, 5))
			for {
				select {
				case <-stop:
					return
				default:
				}
				change(rnd)
				switch rnd.IntN(200) {
				case 0:
					gone := pools[rnd.IntN(2)]
					s.Retain(func(p string) bool { return p != gone })
				case 1, 3, 4, 5:
					s.Snapshot(time.Now())
				}
				time.Sleep(time.Duration(rnd.IntN(300)) * time.Microsecond)
			}
		})
	}
	var refused atomic.Int64
	for g := range uint64(workers) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(g, 6))
			for got := 0; got < each; {
				q := &Request{Pool: pools[rnd.IntN(2)], Tokens: rnd.Int64N(200), Session: fmt.Sprint(rnd.IntN(20)), Tenant: fmt.Sprint(rnd.IntN(4)),
					Priority: int32(rnd.IntN(3)), Blocks: prompt(rnd, 2, rnd.IntN(10))}
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rnd.IntN(10_000))*time.Microsecond)
				var p *Pick
				var refusal *Refusal
				if rnd.IntN(3) == 0 {
					p, refusal = s.TryPick(q, time.Now())
				} else {
					p, refusal = s.Pick(ctx, q, time.Now())
				}
				cancel()
				if (p == nil) == (refusal == nil) {
					t.Errorf("both or none: %v, %v", p, refusal)
				}
				if p == nil {
					refused.Add(1)
					time.Sleep(50 * time.Microsecond) // so that those who change things come to do it
					continue
				}
				got++
				if rnd.IntN(2) == 0 {
					time.Sleep(time.Duration(rnd.IntN(2000)) * time.Microsecond)
				}
				var ends sync.WaitGroup
				for range 1 + rnd.IntN(3) {
					e := Ending{Attempts: rnd.IntN(5), OK: rnd.IntN(2) == 0, TTFT: time.Duration(rnd.IntN(1e6))}
					e.Failed = !e.OK && rnd.IntN(2) == 0
					if rnd.IntN(2) == 0 {
						e.Endpoint = string(rune('a' + rnd.IntN(8)))
					}
					how, to := rnd.IntN(6), string(rune('a'+rnd.IntN(8)))
					ends.Go(func() {
						switch how {
						case 0:
							p.Drop()
						case 1:
							p.Move(to)
							p.Done(e)
						default:
							p.Done(e)
						}
					})
				}
				ends.Wait()
			}
		})
	}
	wg.Wait()
	close(stop)
	changers.Wait()
	if refused.Load() == 0 {
		t.Error("nobody was refused: the test tests too little")
	}
	for _, p := range s.Snapshot(time.Now()) {
		if p.Requests != 0 || p.Tokens != 0 || p.Waiting != 0 {
			t.Errorf("%s: %d requests, %d tokens, %d waiting", p.Pool, p.Requests, p.Tokens, p.Waiting)
		}
		for _, e := range p.Endpoints {
			if e.Requests != 0 || e.Tokens != 0 || e.Removed {
				t.Errorf("%+v", e)
			}
		}
		in := s.pool(p.Pool)
		for key, e := range in.byKey {
			if e.pending != 0 {
				t.Errorf("%s: %v tokens pending", key, e.pending)
			}
		}
		if len(in.byKey) != len(in.list) || len(in.byID) != len(in.list) || in.queue.n != 0 || len(in.queue.levels) != 0 {
			t.Errorf("%d endpoints, %d by key, %d by id, %d levels", len(in.list), len(in.byKey), len(in.byID), len(in.queue.levels))
		}
	}
	// Every breaker that is half-open has all its places: nothing holds one any more. So once its time is over it can be closed.
	s.Update("ns/a", policies[0], endpoints(8, nil))
	later := time.Now().Add(time.Minute)
	for range 2000 {
		p, refusal := s.TryPick(&Request{Pool: "ns/a", Tokens: 1}, later)
		if refusal != nil {
			t.Fatalf("%+v", *refusal)
		}
		p.Done(Ending{At: later, OK: true})
	}
	for _, b := range breakers.States(later) {
		if b.State != breaker.Closed {
			t.Errorf("the breaker of %s is %s", b.Key, b.State)
		}
	}
}

// TestNoLostWakeUp: few places and many that want them for a moment. If one wake-up were lost, somebody would wait for an hour.
func TestNoLostWakeUp(t *testing.T) {
	s := NewSet(Options{})
	policy := &Policy{Admission: &Admission{MaxRequests: 1, MaxWaiting: 1000, MaxWait: time.Hour}}
	s.Update(testPool, policy, endpoints(2, nil))
	done := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(done)
		var wg sync.WaitGroup
		for g := range uint64(32) {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(g, 1))
				for range 300 {
					ctx, leave := context.WithCancel(context.Background())
					if rnd.IntN(4) == 0 {
						go leave()
					}
					p, refusal := s.Pick(ctx, &Request{Pool: testPool, Tokens: 1, Tenant: fmt.Sprint(rnd.IntN(3)), Priority: int32(rnd.IntN(2))}, time.Now())
					if refusal != nil && refusal.Reason != Canceled && ctx.Err() == nil {
						t.Errorf("%+v", *refusal)
					}
					if p != nil {
						if rnd.IntN(5) == 0 {
							p.Drop()
						} else {
							p.Done(Ending{OK: true})
						}
					}
					leave()
				}
			})
		}
		wg.Go(func() {
			// Updates that change nothing come between.
			for {
				select {
				case <-stop:
					return
				default:
					s.Update(testPool, policy, endpoints(2, nil))
					time.Sleep(100 * time.Microsecond)
				}
			}
		})
		time.AfterFunc(50*time.Millisecond, func() { close(stop) })
		wg.Wait()
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatalf("somebody still waits: %+v", s.Snapshot(time.Now()))
	}
	if p := s.Snapshot(time.Now())[0]; p.Requests != 0 || p.Tokens != 0 || p.Waiting != 0 {
		t.Errorf("%+v", p)
	}
}
