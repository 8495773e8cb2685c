package pick

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/test/bubble"
)

// In these tests time is that of a synctest bubble: it goes on when everybody waits, and no faster than they want.

type waited struct {
	pick    *Pick
	refusal *Refusal
	at      time.Duration // since the beginning
}

// hall is a Set in a bubble, with requests that wait there.
type hall struct {
	*Set
	t        *testing.T
	begun    time.Time
	breakers *breaker.Set
	mu       sync.Mutex
	ended    map[string]waited
	order    []string
}

func newHall(t *testing.T, policy *Policy, list []Endpoint) *hall {
	h := &hall{t: t, begun: time.Now(), ended: map[string]waited{}, breakers: breaker.New(breaker.Options{})}
	h.Set = NewSet(Options{Breakers: h.breakers, Seed: 1})
	h.Update(testPool, policy, list)
	return h
}

// come lets a request come, and returns when it waits or is through.
func (h *hall) come(ctx context.Context, name string, q Request) {
	q.Pool = testPool
	go func() {
		p, refusal := h.Pick(ctx, &q, time.Now())
		h.mu.Lock()
		defer h.mu.Unlock()
		h.ended[name] = waited{p, refusal, time.Since(h.begun)}
		h.order = append(h.order, name)
	}()
	synctest.Wait()
}

func (h *hall) get(name string) (waited, bool) {
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	w, ok := h.ended[name]
	return w, ok
}

// in is a request that must have an endpoint now.
func (h *hall) in(name string) *Pick {
	h.t.Helper()
	w, ok := h.get(name)
	if !ok || w.pick == nil {
		h.t.Fatalf("%s: %v, %+v", name, ok, w)
	}
	return w.pick
}

// out is a request that must have been refused.
func (h *hall) out(name string, want RefusalReason) *Refusal {
	h.t.Helper()
	w, ok := h.get(name)
	if !ok || w.refusal == nil || w.refusal.Reason != want {
		h.t.Fatalf("%s: %v, %+v, %+v, want %s", name, ok, w, w.refusal, want)
	}
	return w.refusal
}

// waits is how many do.
func (h *hall) waits(want int) {
	h.t.Helper()
	synctest.Wait()
	if got := h.Snapshot(time.Now())[0].Waiting; got != want {
		h.t.Fatalf("%d wait, want %d", got, want)
	}
}

func one(change func(*Admission)) *Policy {
	a := &Admission{MaxRequests: 1, MaxWaiting: 10, MaxWait: 10 * time.Second}
	if change != nil {
		change(a)
	}
	return &Policy{Admission: a}
}

func TestWaiting(t *testing.T) {
	ctx := context.Background()
	ok := Ending{OK: true}
	for name, run := range map[string]func(t *testing.T){
		"who leaves lets the next in, at that moment": func(t *testing.T) {
			h := newHall(t, one(nil), endpoints(2, nil))
			for _, n := range []string{"a", "b", "c", "d"} {
				h.come(ctx, n, Request{Tokens: 10})
			}
			h.waits(2)
			time.Sleep(3 * time.Second)
			free := h.in("b").Endpoints[0]
			h.in("b").Done(ok)
			if p := h.in("c"); p.Endpoints[0] != free || p.Waited != 3*time.Second {
				t.Errorf("%v after %s", p.Endpoints, p.Waited)
			}
			h.waits(1)
			h.in("a").Drop()
			h.in("d").Done(ok)
			h.in("c").Done(ok)
		},
		"time is over": func(t *testing.T) {
			h := newHall(t, one(nil), endpoints(1, nil))
			h.come(ctx, "a", Request{})
			h.come(ctx, "b", Request{})
			time.Sleep(time.Minute)
			if r := h.out("b", TimedOut); r.Waited != 10*time.Second || r.RetryAfter < time.Second {
				t.Errorf("%+v", r)
			}
			h.waits(0)
			h.in("a").Done(ok)
		},
		"the caller leaves": func(t *testing.T) {
			h := newHall(t, one(nil), endpoints(1, nil))
			h.come(ctx, "a", Request{})
			left, leave := context.WithCancel(ctx)
			h.come(left, "b", Request{})
			h.come(ctx, "c", Request{})
			time.Sleep(time.Second)
			leave()
			if r := h.out("b", Canceled); r.Waited != time.Second {
				t.Errorf("%+v", r)
			}
			h.in("a").Done(ok)
			h.in("c").Done(ok)
			h.come(left, "d", Request{}) // there is room, so it is not asked
			h.in("d").Done(ok)
		},
		"no room to wait": func(t *testing.T) {
			h := newHall(t, one(func(a *Admission) { a.MaxWaiting = 1 }), endpoints(1, nil))
			h.come(ctx, "a", Request{})
			h.come(ctx, "b", Request{})
			h.come(ctx, "c", Request{})
			if r := h.out("c", Full); r.RetryAfter < time.Second {
				t.Errorf("%+v", r)
			}
			h.come(ctx, "d", Request{Priority: 1})
			h.out("b", Full)
			h.in("a").Done(ok)
			h.in("d").Done(ok)
			if s := h.Snapshot(time.Now())[0]; s.Refused != 2 || s.Picked != 2 {
				t.Errorf("%+v", s)
			}
		},
		"no waiting at all": func(t *testing.T) {
			h := newHall(t, one(func(a *Admission) { a.MaxWait = 0 }), endpoints(1, nil))
			h.come(ctx, "a", Request{})
			h.come(ctx, "b", Request{})
			h.out("b", Full)
			h.in("a").Done(ok)
		},
		"priorities and turns": func(t *testing.T) {
			h := newHall(t, one(nil), endpoints(1, nil))
			h.come(ctx, "first", Request{})
			for i, q := range []Request{{Tenant: "x"}, {Tenant: "x"}, {Tenant: "x"}, {Tenant: "y"}, {Tenant: "y", Priority: 7}} {
				h.come(ctx, fmt.Sprint(i), q)
			}
			for _, n := range []string{"first", "4", "0", "3", "1", "2"} {
				time.Sleep(time.Second)
				h.in(n).Done(ok)
			}
			if want := []string{"first", "4", "0", "3", "1", "2"}; !slices.Equal(h.order, want) {
				t.Errorf("%v, want %v", h.order, want)
			}
		},
		"nobody overtakes": func(t *testing.T) {
			h := newHall(t, one(func(a *Admission) { a.MaxRequests, a.MaxTokens = 10, 1000 }), endpoints(1, nil))
			h.come(ctx, "a", Request{Tokens: 900})
			h.come(ctx, "big", Request{Tokens: 500})
			time.Sleep(time.Second)
			h.come(ctx, "small", Request{Tokens: 50})
			h.waits(2)
			if _, r := h.TryPick(&Request{Pool: testPool, Tokens: 1}, time.Now()); r == nil || r.Reason != Full {
				t.Errorf("%+v", r)
			}
			// When the big one gives up, the small one has room at once.
			time.Sleep(11 * time.Second)
			h.out("big", TimedOut)
			if w, _ := h.get("small"); w.at != 10*time.Second {
				t.Errorf("%+v", w)
			}
			h.in("a").Drop()
			h.in("small").Drop()
		},
		"others go before one that is too large": func(t *testing.T) {
			h := newHall(t, one(func(a *Admission) { a.MaxRequests, a.MaxTokens, a.MaxWaiting, a.MaxWait = 1000, 1000, 1000, time.Hour }), endpoints(2, nil))
			h.come(ctx, "x", Request{Tokens: 500})
			h.come(ctx, "y", Request{Tokens: 600})
			long := map[string]string{h.in("x").Endpoints[0]: "x", h.in("y").Endpoints[0]: "y"}
			h.come(ctx, "big", Request{Tokens: 5000, Tenant: "A"})
			h.come(ctx, "its tenant's next", Request{Tokens: 1, Tenant: "A"})
			h.waits(2)
			small := func(i int, tenant string) string {
				n := fmt.Sprint(tenant, i)
				h.come(ctx, n, Request{Tokens: 10, Tenant: tenant})
				return h.in(n).Endpoints[0]
			}
			at := map[string]int{}
			for i := range mostOvertakes {
				at[small(i, "B")]++
			}
			if len(at) != 2 {
				t.Errorf("those that may go anywhere go to %v", at)
			}
			for i := range mostOvertakes {
				h.in(fmt.Sprint("B", i)).Done(ok)
			}
			// x is where the least is in the way: from now on nobody else goes there.
			for i := range 2 * mostOvertakes {
				if where := small(i, "C"); long[where] != "y" {
					t.Fatalf("%d goes to %s", i, long[where])
				}
			}
			h.waits(2)
			h.in("x").Done(ok)
			if p := h.in("big"); long[p.Endpoints[0]] != "x" {
				t.Errorf("the big one goes to %v", p.Endpoints)
			}
			for i := range 3 {
				if where := small(i, "D"); long[where] != "y" {
					t.Errorf("%s is not alone", "big")
				}
			}
			h.in("its tenant's next").Done(ok)
		},
		"one endpoint is kept for one that is too large, after some": func(t *testing.T) {
			h := newHall(t, one(func(a *Admission) { a.MaxRequests, a.MaxTokens, a.MaxWaiting, a.MaxWait = 1000, 1000, 1000, time.Hour }), endpoints(1, nil))
			h.come(ctx, "x", Request{Tokens: 10, Tenant: "B"})
			h.come(ctx, "big", Request{Tokens: 5000, Tenant: "A"})
			const more = 5
			for i := range mostOvertakes + more {
				h.come(ctx, fmt.Sprint(i), Request{Tokens: 10, Tenant: "B"})
			}
			h.waits(1 + more)
			h.in("x").Done(ok)
			for i := range mostOvertakes {
				h.in(fmt.Sprint(i)).Done(ok)
			}
			h.waits(more)
			h.in("big").Done(ok)
			for i := range more {
				h.in(fmt.Sprint(mostOvertakes + i)).Done(ok)
			}
		},
		"a lower priority goes before another only elsewhere": func(t *testing.T) {
			h := newHall(t, one(func(a *Admission) { a.MaxRequests, a.MaxTokens = 10, 1000 }), endpoints(2, nil))
			h.come(ctx, "x", Request{Tokens: 500})
			h.come(ctx, "y", Request{Tokens: 600})
			h.come(ctx, "big", Request{Tokens: 900, Tenant: "A", Priority: 1})
			for _, n := range []string{"1", "2", "3"} {
				h.come(ctx, n, Request{Tokens: 100, Tenant: "B"})
				if where := h.in(n).Endpoints[0]; where != h.in("y").Endpoints[0] {
					t.Errorf("%s goes to %s", n, where)
				}
			}
			h.come(ctx, "4", Request{Tokens: 300, Tenant: "B"})
			h.waits(2)
			h.in("x").Done(ok)
			h.in("big").Done(ok)
			h.in("4").Done(ok)
		},
		"what was found for it may change while it waits": func(t *testing.T) {
			policy := one(nil)
			policy.Prefix = &Prefix{BlockTokens: 100, MaxBlocks: 10_000, MaxGapTokens: 1 << 30}
			h := newHall(t, policy, endpoints(2, nil))
			blocks := prompt(rand.New(rand.NewPCG(1, 1)), 1<<30, 40)
			h.come(ctx, "a", Request{Tokens: 10})
			h.come(ctx, "b", Request{Tokens: 10})
			h.come(ctx, "same", Request{Tokens: 4100, Blocks: blocks})
			h.come(ctx, "again", Request{Tokens: 4100, Blocks: blocks})
			h.waits(2)
			h.in("a").Done(ok)
			h.in("same").Done(ok) // "again" follows it there
			if p := h.in("again"); p.Cached != 4000 {
				t.Errorf("%d tokens are cached", p.Cached)
			}
			h.in("b").Done(ok)
			h.in("again").Done(ok)
		},
		"too large for any": func(t *testing.T) {
			h := newHall(t, one(func(a *Admission) { a.MaxRequests, a.MaxTokens = 10, 1000 }), endpoints(1, nil))
			h.come(ctx, "a", Request{Tokens: 5000}) // an endpoint of its own
			h.come(ctx, "b", Request{Tokens: 1})
			h.waits(1)
			h.in("a").Done(ok)
			h.in("b").Done(ok)
		},
		"an endpoint is added": func(t *testing.T) {
			h := newHall(t, one(nil), endpoints(1, nil))
			h.come(ctx, "a", Request{})
			h.come(ctx, "b", Request{})
			h.Update(testPool, one(nil), endpoints(2, nil))
			if p := h.in("b"); p.Endpoints[0] != "b" {
				t.Errorf("%v", p.Endpoints)
			}
			h.in("b").Done(ok)
			h.in("a").Done(ok)
		},
		"admission ends": func(t *testing.T) {
			h := newHall(t, one(nil), endpoints(1, nil))
			for _, n := range []string{"a", "b", "c"} {
				h.come(ctx, n, Request{})
			}
			h.Update(testPool, &Policy{}, endpoints(1, nil))
			for _, n := range []string{"a", "b", "c"} {
				h.in(n).Done(ok)
			}
		},
		"nobody is left": func(t *testing.T) {
			h := newHall(t, one(nil), endpoints(1, nil))
			h.come(ctx, "a", Request{})
			h.come(ctx, "b", Request{})
			h.Update(testPool, one(nil), nil)
			h.out("b", Unavailable)
			h.in("a").Done(ok)
		},
		"the pool goes": func(t *testing.T) {
			h := newHall(t, one(nil), endpoints(1, nil))
			h.come(ctx, "a", Request{})
			h.come(ctx, "b", Request{})
			h.Retain(func(pool string) bool { return pool != testPool })
			h.out("b", NoPool)
			h.in("a").Done(ok)
			h.Update(testPool, one(nil), endpoints(1, nil))
		},
		"a retry makes room": func(t *testing.T) {
			h := newHall(t, one(nil), endpoints(2, nil))
			h.come(ctx, "a", Request{})
			p := h.in("a")
			h.come(ctx, "b", Request{})
			h.come(ctx, "c", Request{})
			h.waits(1)
			p.Move("elsewhere")
			if q := h.in("c"); q.Endpoints[0] != p.Endpoints[0] {
				t.Errorf("%v, want %v", q.Endpoints, p.Endpoints)
			}
			p.Drop()
			h.in("b").Drop()
			h.in("c").Drop()
		},
		"a breaker lets somebody in": func(t *testing.T) {
			policy := one(nil)
			policy.Breaker = tight()
			h := newHall(t, policy, endpoints(2, nil))
			h.come(ctx, "a", Request{})
			bad := "a"
			if h.in("a").Endpoints[0] == "a" {
				bad = "b"
			}
			for i := range 4 {
				n := fmt.Sprint(i)
				h.come(ctx, n, Request{})
				if p := h.in(n); p.Endpoints[0] != bad {
					t.Fatalf("%v", p.Endpoints)
				}
				h.in(n).Done(Ending{Failed: true})
			}
			h.come(ctx, "waits", Request{})
			h.waits(1)
			time.Sleep(9 * time.Second)
			if p := h.in("waits"); p.Endpoints[0] != bad || p.Waited != 5*time.Second {
				t.Errorf("%v after %s", p.Endpoints, p.Waited)
			}
			h.in("waits").Done(ok)
			h.in("a").Done(ok)
		},
		"the last one trips": func(t *testing.T) {
			policy := one(nil)
			policy.Breaker = tight()
			policy.Breaker.MinRequests = 1
			h := newHall(t, policy, endpoints(1, nil))
			h.come(ctx, "a", Request{})
			h.come(ctx, "b", Request{})
			h.in("a").Done(Ending{Failed: true})
			// There is nothing to wait for: others may have room.
			if r := h.out("b", Unavailable); r.RetryAfter <= 0 {
				t.Errorf("%+v", r)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				run(t)
				synctest.Wait()
			})
		})
	}
}

// TestLeavingAndBeingLetInAtOnce: whoever is let in at the moment it gives up gives the place back.
func TestLeavingAndBeingLetInAtOnce(t *testing.T) {
	s := NewSet(Options{})
	s.Update(testPool, one(nil), endpoints(1, nil))
	for range 2000 {
		holder, refusal := s.Pick(context.Background(), &Request{Pool: testPool}, time.Now())
		if refusal != nil {
			t.Fatalf("%+v", *refusal)
		}
		ctx, leave := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() {
			if p, _ := s.Pick(ctx, &Request{Pool: testPool}, time.Now()); p != nil {
				p.Drop()
			}
		})
		wg.Go(leave)
		wg.Go(func() { holder.Done(Ending{OK: true}) })
		wg.Wait()
		if st := s.Snapshot(time.Now())[0]; st.Requests != 0 || st.Waiting != 0 {
			t.Fatalf("%+v", st)
		}
	}
}

// TestNoSearchWhileFull: who waits is not looked up in the prefix index, under the lock, each time that somebody else leaves.
func TestNoSearchWhileFull(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		policy := one(func(a *Admission) { a.MaxRequests, a.MaxTokens, a.MaxWait = 100, 1000, time.Hour })
		policy.Prefix = &Prefix{BlockTokens: 100, MaxBlocks: 10_000}
		h := newHall(t, policy, endpoints(1, nil))
		h.come(t.Context(), "first", Request{Tokens: 10})
		var some []*Pick
		for range 20 {
			p, _ := h.TryPick(&Request{Pool: testPool, Tokens: 10}, time.Now())
			some = append(some, p)
		}
		h.come(t.Context(), "big", Request{Tokens: 5000, Blocks: prompt(rand.New(rand.NewPCG(1, 1)), 1<<30, 50)})
		p := h.pool(testPool)
		searched := p.queue.head().searched
		p.tick.Add(1) // the index has changed
		for _, k := range some {
			k.Done(Ending{OK: true})
		}
		if got := p.queue.head().searched; got != searched {
			t.Error("it was looked up though there was no room")
		}
		p.tick.Add(1)
		h.in("first").Done(Ending{OK: true})
		h.in("big").Done(Ending{OK: true})
	})
}

// TestPanicLeavesThePoolUsable: whoever survives a panic of this package, or of a clock, must not find the pool locked.
func TestPanicLeavesThePoolUsable(t *testing.T) {
	for name, do := range map[string]func(s *Set, k *Pick){
		"pick":     func(s *Set, _ *Pick) { _, _ = s.Pick(context.Background(), &Request{Pool: testPool}, start) },
		"try":      func(s *Set, _ *Pick) { _, _ = s.TryPick(&Request{Pool: testPool}, start) },
		"done":     func(_ *Set, k *Pick) { k.Done(Ending{At: start, OK: true}) },
		"move":     func(_ *Set, k *Pick) { k.Move("b") },
		"drop":     func(_ *Set, k *Pick) { k.Drop() },
		"tell":     func(s *Set, _ *Pick) { s.Tell(testPool, "a", true, start) },
		"snapshot": func(s *Set, _ *Pick) { s.Snapshot(start) },
	} {
		t.Run(name, func(t *testing.T) {
			s := NewSet(Options{Now: func() time.Time { return start }})
			s.Update(testPool, &Policy{}, endpoints(2, nil))
			k, _ := s.TryPick(&Request{Pool: testPool}, start)
			p := s.pool(testPool)
			p.policy = nil
			if name == "drop" || name == "move" {
				p.queue.n = 1
			}
			func() {
				defer func() {
					if recover() == nil {
						t.Error("there was no panic")
					}
				}()
				do(s, k)
			}()
			if !p.mu.TryLock() {
				t.Error("the pool is locked for good")
			}
		})
	}
}
