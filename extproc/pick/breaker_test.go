package pick

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/breaker"
)

func tight() *breaker.Rule {
	return &breaker.Rule{ID: "Backend/ns/pool", ErrorPercent: 50, MinRequests: 4, Window: 10 * time.Second, OpenFor: 5 * time.Second, HalfOpenRequests: 3}
}

// trip opens the breaker of an endpoint.
func (r *rig) trip(key string) {
	r.t.Helper()
	for range 4 {
		r.at(key, Request{Tokens: 100}).Done(Ending{At: r.now, Failed: true})
	}
	if e := r.endpoint(key); e.Breaker != breaker.Open {
		r.t.Fatalf("the breaker of %s is %s", key, e.Breaker)
	}
}

func TestBreakerOfAnEndpoint(t *testing.T) {
	r := newRig(t, &Policy{Breaker: tight()}, endpoints(3, nil))
	r.trip("a")
	for range 50 {
		if p := r.pick(Request{Tokens: 1}); slices.Contains(p.Endpoints, "a") {
			t.Fatalf("%v while the breaker of a is open", p.Endpoints)
		} else {
			p.Drop()
		}
	}
	r.trip("b")
	r.trip("c")
	if _, refusal := r.try(Request{}); refusal == nil || refusal.Reason != Unavailable || refusal.RetryAfter != 5*time.Second {
		t.Errorf("%+v", refusal)
	}
	r.now = r.now.Add(5 * time.Second)
	// Three may try each, and are nobody's second choice.
	got := map[string]int{}
	var all []*Pick
	for {
		p, refusal := r.try(Request{Tokens: 1})
		if refusal != nil {
			if refusal.Reason != Unavailable || refusal.RetryAfter <= 0 || refusal.RetryAfter > halfOpenRetry {
				t.Errorf("%+v", refusal)
			}
			break
		}
		if len(p.Endpoints) != 1 {
			t.Errorf("%v", p.Endpoints)
		}
		got[p.Endpoints[0]]++
		all = append(all, p)
	}
	if got["a"] != 3 || got["b"] != 3 || got["c"] != 3 {
		t.Errorf("tries: %v", got)
	}
	// A try of which nothing is learned gives its place to another, at once.
	all[0].Drop()
	if p := r.pick(Request{Tokens: 1}); p.Endpoints[0] != all[0].Endpoints[0] {
		t.Errorf("%v, want %v", p.Endpoints, all[0].Endpoints)
	} else {
		all[0] = p
	}
	for _, p := range all {
		p.Done(Ending{At: r.now, OK: p.Endpoints[0] != "b", Failed: p.Endpoints[0] == "b"})
	}
	for k, want := range map[string]breaker.State{"a": breaker.Closed, "b": breaker.Open, "c": breaker.Closed} {
		if e := r.endpoint(k); e.Breaker != want {
			t.Errorf("%s is %s, want %s", k, e.Breaker, want)
		}
	}
	r.empty()
}

func TestPanicOverridesTheBreaker(t *testing.T) {
	r := newRig(t, &Policy{Breaker: tight()}, endpoints(1, nil))
	r.trip("a")
	r.Update(testPool, &Policy{Breaker: tight()}, []Endpoint{{Key: "a", Isolated: true, Panic: true}})
	for range 10 {
		r.pick(Request{Tokens: 1}).Done(Ending{At: r.now, OK: true})
	}
}

// TestAttemptsAreJudged: each attempt counts at the endpoint it went to, in whatever way it is told.
func TestAttemptsAreJudged(t *testing.T) {
	type counts map[string][2]int64 // requests, failures
	for name, c := range map[string]struct {
		end  func(p *Pick)
		want counts
	}{
		"served":                       {func(p *Pick) { p.Done(Ending{OK: true}) }, counts{"0": {1, 0}}},
		"failed":                       {func(p *Pick) { p.Done(Ending{Failed: true}) }, counts{"0": {1, 1}}},
		"nothing is learned":           {func(p *Pick) { p.Done(Ending{}) }, counts{}},
		"dropped":                      {func(p *Pick) { p.Drop() }, counts{}},
		"twice":                        {func(p *Pick) { p.Done(Ending{OK: true}); p.Done(Ending{Failed: true}) }, counts{"0": {1, 0}}},
		"retry":                        {func(p *Pick) { p.Done(Ending{Attempts: 2, OK: true}) }, counts{"0": {1, 1}, "1": {1, 0}}},
		"retry, by name":               {func(p *Pick) { p.Done(Ending{Attempts: 2, Endpoint: p.Endpoints[1], OK: true}) }, counts{"0": {1, 1}, "1": {1, 0}}},
		"two retries, all failed":      {func(p *Pick) { p.Done(Ending{Attempts: 3, Failed: true}) }, counts{"0": {1, 1}, "1": {1, 1}, "2": {1, 1}}},
		"more attempts than endpoints": {func(p *Pick) { p.Done(Ending{Attempts: 5, OK: true}) }, counts{"0": {1, 1}, "1": {1, 1}, "2": {1, 1}}},
		"more attempts, by name": {func(p *Pick) { p.Done(Ending{Attempts: 5, Endpoint: p.Endpoints[0], OK: true}) },
			counts{"0": {2, 1}, "1": {1, 1}, "2": {1, 1}}},
		"Envoy went elsewhere":         {func(p *Pick) { p.Done(Ending{Endpoint: p.Endpoints[2], Failed: true}) }, counts{"2": {1, 1}}},
		"somebody unknown":             {func(p *Pick) { p.Done(Ending{Endpoint: "x", Failed: true}) }, counts{}},
		"retry that was told":          {func(p *Pick) { p.Move(p.Endpoints[1]); p.Done(Ending{Attempts: 2, OK: true}) }, counts{"0": {1, 1}, "1": {1, 0}}},
		"retry that was told, dropped": {func(p *Pick) { p.Move(p.Endpoints[2]); p.Drop() }, counts{}},
		"retries of which one was told": {func(p *Pick) {
			p.Move(p.Endpoints[1])
			p.Done(Ending{Attempts: 3, Endpoint: p.Endpoints[2], Failed: true})
		},
			counts{"0": {1, 1}, "1": {1, 1}, "2": {1, 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			rule := tight()
			rule.MinRequests = 100
			r := newRig(t, &Policy{Breaker: rule}, endpoints(3, nil))
			p := r.pick(Request{Tokens: 10})
			if len(p.Endpoints) != 3 {
				t.Fatalf("%v", p.Endpoints)
			}
			c.end(p)
			r.empty()
			got := counts{}
			for _, s := range r.breakers.States(r.now) {
				if s.Requests > 0 {
					got[string(rune('0'+slices.Index(p.Endpoints, s.Key)))] = [2]int64{s.Requests, s.Failures}
				}
			}
			for _, k := range []string{"0", "1", "2"} {
				if got[k] != c.want[k] {
					t.Errorf("attempt %s: %v requests and failures, want %v", k, got[k], c.want[k])
				}
			}
		})
	}
}

// TestTell: what others have learned about an endpoint counts, also where nothing was picked.
func TestTell(t *testing.T) {
	r := newRig(t, &Policy{Breaker: tight()}, endpoints(2, nil))
	for range 4 {
		r.Tell(testPool, "b", true, r.now)
		r.Tell(testPool, "a", false, r.now)
		r.Tell(testPool, "x", false, r.now)
		r.Tell("ns/other", "b", false, r.now)
	}
	for k, want := range map[string]breaker.State{"a": breaker.Open, "b": breaker.Closed} {
		if e := r.endpoint(k); e.Breaker != want {
			t.Errorf("%s is %s, want %s", k, e.Breaker, want)
		}
	}
	if got := r.first(Request{}); got != "b" {
		t.Errorf("%s", got)
	}
	// Nobody tries a half-open one by accident.
	r.now = r.now.Add(5 * time.Second)
	r.Tell(testPool, "a", false, r.now)
	if e := r.endpoint("a"); e.Breaker != breaker.HalfOpen {
		t.Errorf("a is %s", e.Breaker)
	}
	r.empty()
}

// TestTriesAreExact: many at once, and exactly as many get to each half-open endpoint as its breaker has places.
func TestTriesAreExact(t *testing.T) {
	r := newRig(t, &Policy{Breaker: tight()}, endpoints(4, nil))
	r.trip("a")
	r.trip("b")
	r.now = r.now.Add(5 * time.Second)
	now := r.now
	for round := range 30 {
		var tries sync.Map
		for _, k := range []string{"a", "b", "c", "d"} {
			tries.Store(k, &atomic.Int64{})
		}
		var mu sync.Mutex
		var all []*Pick
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 50 {
					p, refusal := r.TryPick(&Request{Pool: testPool, Tokens: 10}, now)
					if refusal != nil {
						t.Errorf("%+v", *refusal)
						return
					}
					for _, extra := range p.Endpoints[1:] {
						if extra == "a" || extra == "b" {
							t.Errorf("%v: %s is half-open", p.Endpoints, extra)
						}
					}
					n, _ := tries.Load(p.Endpoints[0])
					n.(*atomic.Int64).Add(1)
					mu.Lock()
					all = append(all, p)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		for _, k := range []string{"a", "b"} {
			if n, _ := tries.Load(k); n.(*atomic.Int64).Load() != 3 {
				t.Errorf("round %d: %d tries at %s, want 3", round, n.(*atomic.Int64).Load(), k)
			}
		}
		// All end at once: of a's tries one fails, b's give up. Both get three anew, b at once and a when it may.
		for _, p := range all {
			wg.Go(func() {
				switch p.Endpoints[0] {
				case "a":
					p.Done(Ending{At: now, Failed: true})
				case "b":
					p.Drop()
				default:
					p.Done(Ending{At: now, OK: true})
				}
			})
		}
		wg.Wait()
		r.empty()
		now = now.Add(5 * time.Second)
		r.now = now
	}
}
