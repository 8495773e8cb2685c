package pick

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/breaker"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const testPool = "ns/pool"

// rig is a Set with one pool and a clock.
type rig struct {
	*Set
	t        testing.TB
	now      time.Time
	breakers *breaker.Set
	policy   *Policy
}

// endpoints a, b, c and so on, changed by name.
func endpoints(n int, change map[string]func(*Endpoint)) []Endpoint {
	out := make([]Endpoint, n)
	for i := range out {
		key := string(rune('a' + i))
		if n > 26 {
			key = fmt.Sprintf("10.0.%d.%d:80", i/256, i%256)
		}
		out[i] = Endpoint{Key: key, Base: 1, Factor: 1, KV: -1}
		if c := change[key]; c != nil {
			c(&out[i])
		}
	}
	return out
}

func newRig(t testing.TB, policy *Policy, list []Endpoint) *rig {
	r := &rig{t: t, now: start, policy: policy}
	clock := func() time.Time { return r.now }
	r.breakers = breaker.New(breaker.Options{Now: clock})
	r.Set = NewSet(Options{Now: clock, Breakers: r.breakers, Seed: 1})
	r.Update(testPool, policy, list)
	return r
}

// pick makes a pick that must succeed.
func (r *rig) pick(q Request) *Pick {
	r.t.Helper()
	p, refusal := r.try(q)
	if refusal != nil {
		r.t.Fatalf("refused: %+v", *refusal)
	}
	return p
}

func (r *rig) try(q Request) (*Pick, *Refusal) {
	r.t.Helper()
	q.Pool = testPool
	p, refusal := r.TryPick(&q, r.now)
	if (p == nil) == (refusal == nil) {
		r.t.Fatalf("both or none: %v, %v", p, refusal)
	}
	return p, refusal
}

// first is where a request of so many tokens goes. It is dropped at once.
func (r *rig) first(q Request) string {
	r.t.Helper()
	p := r.pick(q)
	defer p.Drop()
	return p.Endpoints[0]
}

// at makes a pick and repeats it until it is at an endpoint; the others are dropped.
func (r *rig) at(key string, q Request) *Pick {
	r.t.Helper()
	for range 1000 {
		p := r.pick(q)
		if p.Endpoints[0] == key {
			return p
		}
		defer p.Drop() // later, so that the load drives others elsewhere
	}
	r.t.Fatalf("nothing goes to %s", key)
	return nil
}

func (r *rig) state() PoolState {
	r.t.Helper()
	all := r.Snapshot(r.now)
	if len(all) != 1 {
		r.t.Fatalf("%d pools", len(all))
	}
	return all[0]
}

func (r *rig) endpoint(key string) EndpointState {
	r.t.Helper()
	for _, e := range r.state().Endpoints {
		if e.Key == key {
			return e
		}
	}
	r.t.Fatalf("there is no endpoint %s", key)
	return EndpointState{}
}

// empty fails unless nothing is in flight any more.
func (r *rig) empty() {
	r.t.Helper()
	for _, s := range r.Snapshot(r.now) {
		if s.Requests != 0 || s.Tokens != 0 || s.Waiting != 0 {
			r.t.Errorf("%s: %d requests, %d tokens in flight, %d waiting", s.Pool, s.Requests, s.Tokens, s.Waiting)
		}
		for _, e := range s.Endpoints {
			if e.Requests != 0 || e.Tokens != 0 || e.Removed {
				r.t.Errorf("%+v", e)
			}
		}
	}
}

func TestLeastLoadGoesFirst(t *testing.T) {
	isolated := func(e *Endpoint) { e.Isolated = true }
	for name, c := range map[string]struct {
		n      int
		change map[string]func(*Endpoint)
		load   map[string]int64 // tokens in flight
		policy Policy
		want   []string // the whole list
	}{
		"by tokens, not by requests":        {3, nil, map[string]int64{"a": 5000, "b": 2000, "c": 3000}, Policy{}, []string{"b", "c", "a"}},
		"a slow one by its factor":          {2, map[string]func(*Endpoint){"a": func(e *Endpoint) { e.Factor = 0.5 }}, map[string]int64{"a": 2000, "b": 3000}, Policy{}, []string{"b", "a"}},
		"a large one by its base weight":    {3, map[string]func(*Endpoint){"a": func(e *Endpoint) { e.Base = 4 }}, map[string]int64{"a": 6000, "b": 2500, "c": 4000}, Policy{}, []string{"a", "b", "c"}},
		"isolated":                          {3, map[string]func(*Endpoint){"a": isolated}, map[string]int64{"b": 10, "c": 2000}, Policy{}, []string{"b", "c"}},
		"isolated, in panic":                {2, map[string]func(*Endpoint){"a": func(e *Endpoint) { e.Isolated, e.Panic = true, true }}, map[string]int64{"b": 1000}, Policy{}, []string{"a", "b"}},
		"a full cache":                      {3, map[string]func(*Endpoint){"a": func(e *Endpoint) { e.KV = 0.99 }}, map[string]int64{"b": 10, "c": 2000}, Policy{KVLimit: 0.98}, []string{"b", "c"}},
		"most caches full":                  {3, map[string]func(*Endpoint){"a": func(e *Endpoint) { e.KV = 0.99 }, "b": func(e *Endpoint) { e.KV = 1 }}, map[string]int64{"b": 500, "c": 2000}, Policy{KVLimit: 0.98}, []string{"a", "b", "c"}},
		"half of the caches full":           {2, map[string]func(*Endpoint){"a": func(e *Endpoint) { e.KV = 0.99 }}, map[string]int64{"b": 2000}, Policy{KVLimit: 0.98}, []string{"b"}},
		"a cache at the limit":              {2, map[string]func(*Endpoint){"a": func(e *Endpoint) { e.KV = 0.98 }}, map[string]int64{"b": 1000}, Policy{KVLimit: 0.98}, []string{"a", "b"}},
		"all caches full":                   {2, map[string]func(*Endpoint){"a": func(e *Endpoint) { e.KV = 0.99 }, "b": func(e *Endpoint) { e.KV = 1 }}, map[string]int64{"b": 1000}, Policy{KVLimit: 0.98}, []string{"a", "b"}},
		"the others' caches full, isolated": {2, map[string]func(*Endpoint){"a": func(e *Endpoint) { e.KV = 0.99 }, "b": isolated}, nil, Policy{KVLimit: 0.98}, []string{"a"}},
		"three of many":                     {5, nil, map[string]int64{"a": 500, "b": 4000, "c": 1000, "d": 3000, "e": 2000}, Policy{}, []string{"a", "c", "e"}},
		"a weight of nothing":               {2, map[string]func(*Endpoint){"a": func(e *Endpoint) { e.Base = 0 }}, map[string]int64{"b": 1000}, Policy{}, []string{"a", "b"}},
	} {
		t.Run(name, func(t *testing.T) {
			list := endpoints(c.n, c.change)
			r := newRig(t, &Policy{}, endpoints(c.n, nil))
			for key, tokens := range c.load {
				for i := range list {
					if list[i].Key != key {
						list[i].Isolated, list[i].Panic = true, false
					}
				}
				only := endpoints(c.n, nil)
				for i := range only {
					only[i].Isolated = only[i].Key != key
				}
				r.Update(testPool, &Policy{}, only)
				r.pick(Request{Tokens: tokens})
			}
			r.Update(testPool, &c.policy, endpoints(c.n, c.change))
			for range 5 {
				p := r.pick(Request{Tokens: 100})
				p.Drop()
				if !slices.Equal(p.Endpoints, c.want) || p.Reason != ByLoad {
					t.Fatalf("%v by %s, want %v", p.Endpoints, p.Reason, c.want)
				}
			}
		})
	}
}

func TestNobodyThere(t *testing.T) {
	r := newRig(t, &Policy{}, nil)
	for name, c := range map[string]struct {
		pool string
		list []Endpoint
		want RefusalReason
	}{
		"no such pool":  {"ns/other", nil, NoPool},
		"no endpoints":  {testPool, nil, Unavailable},
		"all isolated":  {testPool, []Endpoint{{Key: "a", Isolated: true}}, Unavailable},
		"isolated, max": {testPool, []Endpoint{{Key: "a", Isolated: true}, {Key: "b", Isolated: true}}, Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			r.Update(testPool, nil, c.list)
			p, refusal := r.Pick(context.Background(), &Request{Pool: c.pool}, r.now)
			if p != nil || refusal == nil || refusal.Reason != c.want {
				t.Errorf("%v, %+v", p, refusal)
			}
		})
	}
}

// TestTiesAreDrawn: equal endpoints get equal shares, and the same seed draws the same.
func TestTiesAreDrawn(t *testing.T) {
	const n, picks = 8, 8000
	for _, choices := range []int{0, 2} {
		var order []string
		for range 2 {
			r := newRig(t, &Policy{Choices: choices}, endpoints(n, nil))
			count := map[string]int{}
			var seen []string
			for range picks {
				k := r.first(Request{Tokens: 10})
				count[k]++
				seen = append(seen, k)
			}
			for k, c := range count {
				if c < picks/n*8/10 || c > picks/n*12/10 {
					t.Errorf("choices %d: %s got %d of %d", choices, k, c, picks)
				}
			}
			if len(count) != n {
				t.Errorf("choices %d: %v", choices, count)
			}
			if order != nil && !slices.Equal(order, seen) {
				t.Errorf("choices %d: the same seed drew something else", choices)
			}
			order = seen
			r.empty()
		}
	}
}

// TestTwoChoices: of a large pool two are compared, and still the loads stay close together.
func TestTwoChoices(t *testing.T) {
	const n = 200
	r := newRig(t, &Policy{}, endpoints(n, nil))
	for range n * 20 {
		p := r.pick(Request{Tokens: 100})
		if len(p.Endpoints) != 2 || p.Endpoints[0] == p.Endpoints[1] {
			t.Fatalf("%v", p.Endpoints)
		}
	}
	for _, e := range r.state().Endpoints {
		// By chance alone the most would be about 20 + 3 x sqrt(20); of two choices it is 20 + ln ln 200.
		if e.Requests < 12 || e.Requests > 26 {
			t.Errorf("%s has %d requests", e.Key, e.Requests)
		}
	}
	// When hardly any can take a request, it is found.
	list := endpoints(n, nil)
	for i := range list {
		list[i].Isolated = i != 77
	}
	r.Update(testPool, &Policy{}, list)
	if got := r.first(Request{}); got != list[77].Key {
		t.Errorf("%s", got)
	}
	full := &Policy{Admission: &Admission{MaxRequests: 1}}
	r = newRig(t, full, endpoints(n, nil))
	for i := range n {
		if _, refusal := r.try(Request{}); refusal != nil {
			t.Fatalf("pick %d of %d: %+v", i, n, *refusal)
		}
	}
	if _, refusal := r.try(Request{}); refusal == nil || refusal.Reason != Full {
		t.Errorf("%+v", refusal)
	}
}

// TestBurstSpreads: requests that come at the same moment go where the others do not.
func TestBurstSpreads(t *testing.T) {
	r := newRig(t, &Policy{}, endpoints(8, nil))
	for range 40 {
		r.pick(Request{Tokens: 700})
	}
	for _, e := range r.state().Endpoints {
		if e.Requests != 5 || e.Tokens != 3500 {
			t.Errorf("%+v", e)
		}
	}
}

// serve runs requests of one endpoint after another to teach its speed, in tokens a second.
func (r *rig) serve(key string, speed float64, times int) {
	r.t.Helper()
	only := endpoints(8, nil)
	for i := range only {
		only[i].Isolated = only[i].Key != key
	}
	r.Update(testPool, r.policy, only)
	for range times {
		p := r.pick(Request{Tokens: 1000})
		ttft := time.Duration(1000 / speed * float64(time.Second))
		r.now = r.now.Add(ttft)
		p.Done(Ending{At: r.now, OK: true, TTFT: ttft})
	}
	r.now = r.now.Add(rankEvery)
	r.Update(testPool, r.policy, endpoints(8, nil))
}

func TestMeasuredSpeed(t *testing.T) {
	r := newRig(t, &Policy{}, endpoints(8, nil))
	speeds := map[string]float64{"a": 4000, "b": 9500, "c": 10_000, "d": 10_000, "e": 10_500, "f": 100_000}
	// Too few requests say nothing.
	r.serve("g", 500, minSamples-1)
	for _, k := range []string{"b", "c", "d", "e", "f", "a"} {
		r.serve(k, speeds[k], 30)
	}
	// The median of the six is 10,000. Small differences do not count, and large ones not fully.
	for k, want := range map[string]float64{"a": 0.4, "b": 1, "c": 1, "d": 1, "e": 1, "f": 4, "g": 1, "h": 1} {
		e := r.endpoint(k)
		if e.Relative < want*0.98 || e.Relative > want*1.02 {
			t.Errorf("%s: %v of the median, want %v", k, e.Relative, want)
		}
		if s := speeds[k]; s > 0 && (e.Capacity < s*0.98 || e.Capacity > s*1.02) {
			t.Errorf("%s: %v tokens a second, want %v", k, e.Capacity, s)
		}
	}
	// Equal tokens on all: the slow one is the last choice, the fast one the first.
	if got := r.first(Request{Tokens: 1000}); got != "f" {
		t.Errorf("first is %s", got)
	}
	// What is pending drains at the endpoint's speed: a is as if empty after a second with 4000 tokens, but for the kept part.
	p := r.at("a", Request{Tokens: 4000})
	r.Set.pool(testPool).byKey["a"].drain(r.nanos(r.now.Add(500 * time.Millisecond)))
	if got := r.Set.pool(testPool).byKey["a"].pending; got < 1900 || got > 2100 {
		t.Errorf("%v tokens are pending after half of the time", got)
	}
	p.Drop()
	if got := r.Set.pool(testPool).byKey["a"].pending; got != 0 {
		t.Errorf("%v tokens are pending of none", got)
	}
	// While nobody asks it, it is taken for less and less slow, so that it is asked again.
	r.now = r.now.Add(speedFor)
	if e := r.endpoint("a"); e.Relative < 0.75 || e.Relative > 0.82 {
		t.Errorf("after a minute: %v", e.Relative)
	}
	r.now = r.now.Add(speedFor)
	if e := r.endpoint("a"); e.Relative != 1 {
		t.Errorf("after two minutes: %v", e.Relative)
	}
}

// TestBaseWeightIsNotLearnedTwice: a server of weight 4 that is four times as fast is worth 4, not 16.
func TestBaseWeightIsNotLearnedTwice(t *testing.T) {
	r := newRig(t, &Policy{}, nil)
	list := endpoints(3, map[string]func(*Endpoint){"a": func(e *Endpoint) { e.Base = 4 }})
	for _, key := range []string{"a", "b", "c"} {
		only := slices.Clone(list)
		speed := 10_000.0
		for i := range only {
			only[i].Isolated = only[i].Key != key
			if only[i].Key == key {
				speed *= only[i].Base
			}
		}
		r.Update(testPool, &Policy{}, only)
		for range 20 {
			p := r.pick(Request{Tokens: 1000})
			p.Done(Ending{At: r.now, OK: true, TTFT: time.Duration(1000 / speed * 1e9)})
		}
	}
	r.Update(testPool, &Policy{}, list)
	r.now = r.now.Add(time.Second)
	for k, want := range map[string]float64{"a": 4, "b": 1, "c": 1} {
		if e := r.endpoint(k); e.Relative != want {
			t.Errorf("%s: %v, want %v", k, e.Relative, want)
		}
	}
}

// TestNoiseDoesNotUnbalance: measurements of equal endpoints that vary by much leave them equal, nearly all the time.
func TestNoiseDoesNotUnbalance(t *testing.T) {
	r := newRig(t, &Policy{}, endpoints(8, nil))
	rnd := rand.New(rand.NewPCG(5, 5))
	unequal, seen := 0, 0
	var inFlight []*Pick
	for i := range 20_000 {
		r.now = r.now.Add(20 * time.Millisecond)
		inFlight = append(inFlight, r.pick(Request{Tokens: 200 + rnd.Int64N(3000)}))
		if len(inFlight) > 60 {
			k := rnd.IntN(len(inFlight))
			p := inFlight[k]
			inFlight = slices.Delete(inFlight, k, k+1)
			p.Done(Ending{At: r.now, OK: true, TTFT: time.Duration(p.pending * (0.5 + rnd.ExpFloat64()) * 1e5)})
		}
		if i > 2000 && i%20 == 0 {
			for _, e := range r.state().Endpoints {
				seen++
				if e.Relative != 1 {
					unequal++
				}
			}
		}
	}
	if unequal*10 > seen {
		t.Errorf("%d of %d times an endpoint counted as different", unequal, seen)
	}
	most, least := uint64(0), uint64(1<<60)
	for _, e := range r.state().Endpoints {
		most, least = max(most, e.Picked), min(least, e.Picked)
	}
	if most*9 > least*10 {
		t.Errorf("equal endpoints got %d to %d requests", least, most)
	}
}

// TestAnEndMakesPendingExact: whose answer is complete has been computed, and what came before it.
func TestAnEndMakesPendingExact(t *testing.T) {
	r := newRig(t, &Policy{}, endpoints(1, nil))
	pending := func(want float64) {
		t.Helper()
		if got := r.Set.pool(testPool).byKey["a"].pending; got != want {
			t.Errorf("%v tokens are pending, want %v", got, want)
		}
	}
	a, b, c := r.pick(Request{Tokens: 1000}), r.pick(Request{Tokens: 300}), r.pick(Request{Tokens: 20})
	pending(1320)
	r.now = r.now.Add(time.Second)
	b.Done(Ending{At: r.now, OK: true})
	pending(20)
	if e := r.endpoint("a"); e.Tokens != 1020 || e.Requests != 2 {
		t.Errorf("%+v", e)
	}
	c.Done(Ending{At: r.now, OK: true})
	pending(0)
	a.Done(Ending{})
	pending(0)
	r.empty()
}

// TestWhoFailsFastIsNotIdle: without any breaker, an endpoint that fails at once does not draw all requests to it.
func TestWhoFailsFastIsNotIdle(t *testing.T) {
	r := newRig(t, &Policy{}, endpoints(4, nil))
	bad := 0
	var inFlight []*Pick
	for range 400 {
		r.now = r.now.Add(10 * time.Millisecond)
		p := r.pick(Request{Tokens: 500})
		if p.Endpoints[0] == "a" {
			bad++
			p.Done(Ending{At: r.now, Failed: true})
		} else if inFlight = append(inFlight, p); len(inFlight) > 20 {
			inFlight[0].Done(Ending{At: r.now, OK: true})
			inFlight = inFlight[1:]
		}
	}
	// An even share would be 100; with an idle endpoint it would be nearly all.
	if bad > 100 {
		t.Errorf("%d of 400 requests went to the one that fails", bad)
	}
	// It is forgiven.
	r.now = r.now.Add(time.Minute)
	for _, p := range inFlight {
		p.Drop()
	}
	got := map[string]int{}
	for range 400 {
		got[r.first(Request{Tokens: 1})]++
	}
	if got["a"] < 60 {
		t.Errorf("after a minute it got %d of 400", got["a"])
	}
}

func TestPrefixAffinity(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	policy := &Policy{Prefix: &Prefix{BlockTokens: 64, MaxBlocks: 100_000, MaxGapTokens: 4000}}
	document := prompt(rnd, 1<<30, 100) // 6400 tokens
	question := func() Request {
		return Request{Tokens: 7000, Blocks: append(slices.Clone(document), prompt(rnd, 1<<30, 9)...)}
	}
	t.Run("goes where the beginning is", func(t *testing.T) {
		r := newRig(t, policy, endpoints(8, nil))
		a := r.pick(question())
		if a.Cached != 0 || a.Reason != ByLoad {
			t.Errorf("%+v", a)
		}
		// Others have something to do as well, so that the average is not nothing.
		for range 7 {
			r.pick(Request{Tokens: 6000})
		}
		for range 3 {
			b := r.pick(question())
			if b.Endpoints[0] != a.Endpoints[0] || b.Cached != 6400 || b.Reason != ByPrefix || b.tokens != 600 {
				t.Errorf("%v, cached %d, by %s", b.Endpoints, b.Cached, b.Reason)
			}
		}
		if s := r.state(); s.CachedTokens != 3*6400 || s.AllTokens != 4*7000+7*6000 {
			t.Errorf("%+v", s)
		}
		// The rest of a prompt that is cached wholly is still one token.
		whole := question()
		r.pick(whole)
		whole.Tokens = 6400
		if p := r.pick(whole); p.Cached != 6399 || p.tokens != 1 {
			t.Errorf("cached %d", p.Cached)
		}
	})
	t.Run("not for any price", func(t *testing.T) {
		r := newRig(t, policy, endpoints(4, nil))
		a := r.pick(question()).Endpoints[0]
		only := endpoints(4, nil)
		for i := range only {
			only[i].Isolated = only[i].Key != a
		}
		r.Update(testPool, policy, endpoints(4, nil))
		for _, e := range r.Set.pool(testPool).list {
			if e.Key != a {
				e.take(3000, 0)
			} else {
				e.take(3000+4000, 0)
			}
		}
		// It has 11000 before it with a saving of 6400: that is 8000 - 400 too many with the bound of 4000.
		if p := r.pick(question()); p.Endpoints[0] == a {
			t.Error("stays at any price")
		}
	})
	t.Run("an empty pool does not wait", func(t *testing.T) {
		r := newRig(t, &Policy{Prefix: &Prefix{BlockTokens: 64, MaxBlocks: 100_000, MaxGapTokens: 1 << 30}}, endpoints(8, nil))
		short := func() Request {
			return Request{Tokens: 7000, Blocks: append(slices.Clone(document[:10]), rnd.Uint64())}
		}
		got := map[string]int{}
		for range 8 {
			got[r.pick(short()).Endpoints[0]]++
		}
		if len(got) < 6 {
			t.Errorf("what saves a tenth keeps all together: %v", got)
		}
	})
	t.Run("common beginnings do not draw", func(t *testing.T) {
		r := newRig(t, policy, endpoints(8, nil))
		var last []*Pick
		for i := range 2000 {
			p := r.pick(question())
			if last = append(last, p); len(last) > 40 {
				last[0].Drop()
				last = last[1:]
			}
			if i > 1000 && p.Cached != 6400 {
				t.Fatalf("pick %d: the beginning that all share counts %d", i, p.Cached)
			}
		}
		for _, e := range r.state().Endpoints {
			if e.Requests < 3 || e.Requests > 7 {
				t.Errorf("%s has %d of 40", e.Key, e.Requests)
			}
		}
	})
	t.Run("an endpoint that comes back has an empty cache", func(t *testing.T) {
		r := newRig(t, policy, endpoints(2, nil))
		p := r.pick(question())
		p.Done(Ending{OK: true})
		list := endpoints(2, map[string]func(*Endpoint){p.Endpoints[0]: func(e *Endpoint) { e.Isolated = true }})
		r.Update(testPool, policy, list)
		r.Update(testPool, policy, endpoints(2, nil))
		if q := r.pick(question()); q.Cached != 0 {
			t.Errorf("cached %d", q.Cached)
		}
	})
	t.Run("a retry counts where it was served", func(t *testing.T) {
		r := newRig(t, policy, endpoints(2, nil))
		p := r.pick(question())
		second := p.Endpoints[1]
		p.Done(Ending{Attempts: 2, Endpoint: second, OK: true})
		r.Update(testPool, policy, endpoints(2, map[string]func(*Endpoint){p.Endpoints[0]: func(e *Endpoint) { e.Isolated = true }}))
		if q := r.pick(question()); q.Cached != 6400 || q.Endpoints[0] != second {
			t.Errorf("%v, cached %d", q.Endpoints, q.Cached)
		}
	})
	t.Run("two of a large pool", func(t *testing.T) {
		r := newRig(t, policy, endpoints(300, nil))
		a := r.pick(question()).Endpoints[0]
		for range 300 {
			r.pick(Request{Tokens: 6000})
		}
		if p := r.pick(question()); p.Endpoints[0] != a || slices.Contains(p.Endpoints[1:], a) {
			t.Errorf("%v, want %s first", p.Endpoints, a)
		}
	})
	t.Run("turned off", func(t *testing.T) {
		r := newRig(t, policy, endpoints(2, nil))
		r.pick(question())
		r.Update(testPool, &Policy{}, endpoints(2, nil))
		if q := r.pick(question()); q.Cached != 0 || r.pool(testPool).index.Load() != nil {
			t.Errorf("cached %d, and the prefixes are still remembered", q.Cached)
		}
	})
}

func TestSessionAffinity(t *testing.T) {
	policy := &Policy{Session: &Session{IdleTimeout: time.Minute, MaxGapTokens: 2000}}
	r := newRig(t, policy, endpoints(8, nil))
	chat := Request{Tokens: 1000, Session: "s"}
	a := r.pick(chat)
	home := a.Endpoints[0]
	a.Drop()
	for range 20 {
		r.now = r.now.Add(50 * time.Second)
		if p := r.pick(chat); p.Endpoints[0] != home || p.Reason != BySession {
			t.Fatalf("%v by %s, want %s", p.Endpoints, p.Reason, home)
		} else {
			p.Drop()
		}
	}
	// The second one of its own makes a gap of 1000 + 250 + 256; with the third it is too much.
	b, c := r.pick(chat), r.pick(chat)
	if b.Endpoints[0] != home || c.Endpoints[0] != home {
		t.Errorf("%v, %v, want %s", b.Endpoints, c.Endpoints, home)
	}
	d := r.pick(chat)
	if d.Endpoints[0] == home {
		t.Error("too far behind, and kept to all the same")
	}
	b.Drop()
	c.Drop()
	d.Drop()
	// The session has moved.
	if p := r.first(chat); p != d.Endpoints[0] {
		t.Errorf("%s, want %s", p, d.Endpoints[0])
	}
	if s := r.state(); s.Sessions != 1 {
		t.Errorf("%d sessions", s.Sessions)
	}
	// It is forgotten after a minute: then all endpoints are tried.
	got := map[string]bool{}
	for range 100 {
		r.now = r.now.Add(61 * time.Second)
		p := r.pick(chat)
		if p.Reason != ByLoad {
			t.Fatalf("by %s", p.Reason)
		}
		got[p.Endpoints[0]] = true
		p.Drop()
	}
	if len(got) < 6 {
		t.Errorf("only %v", got)
	}
	r.empty()
}

// TestWeightsMode: Envoy chooses, and only the pool as a whole is counted.
func TestWeightsMode(t *testing.T) {
	rule := &breaker.Rule{ID: "b", ErrorPercent: 50, MinRequests: 2, Window: 10 * time.Second, OpenFor: time.Second, HalfOpenRequests: 1}
	policy := &Policy{Mode: Weights, Breaker: rule}
	r := newRig(t, policy, endpoints(2, nil))
	var all []*Pick
	for range 4 {
		p := r.pick(Request{Tokens: 5})
		if len(p.Endpoints) != 0 || p.Reason != ByEnvoy {
			t.Errorf("%v by %s", p.Endpoints, p.Reason)
		}
		all = append(all, p)
	}
	if s := r.state(); s.Requests != 4 || s.Tokens != 20 || s.Mode != Weights {
		t.Errorf("%+v", s)
	}
	for _, p := range all {
		p.Done(Ending{At: r.now, Endpoint: "a", Failed: true})
	}
	r.empty()
	if e := r.endpoint("a"); e.Breaker != breaker.Open {
		t.Errorf("the breaker of a is %s", e.Breaker)
	}
	r.now = r.now.Add(time.Second)
	r.pick(Request{}).Done(Ending{At: r.now, Endpoint: "a", OK: true})
	if e := r.endpoint("a"); e.Breaker != breaker.Closed {
		t.Errorf("after a try the breaker of a is %s", e.Breaker)
	}
}

// TestUpdateKeepsWhatIsInFlight: also of an endpoint that goes and comes again.
func TestUpdateKeepsWhatIsInFlight(t *testing.T) {
	r := newRig(t, &Policy{}, endpoints(2, nil))
	a := r.at("a", Request{Tokens: 100})
	list := endpoints(2, nil)
	r.Update(testPool, &Policy{}, append(list, list...)) // twice is once
	if s := r.state(); len(s.Endpoints) != 2 {
		t.Errorf("%+v", s.Endpoints)
	}
	r.Update(testPool, &Policy{}, list[1:])
	if e := r.endpoint("a"); !e.Removed || e.Tokens != 100 {
		t.Errorf("%+v", e)
	}
	if got := r.first(Request{}); got != "b" {
		t.Errorf("%s", got)
	}
	r.Update(testPool, &Policy{}, list)
	if e := r.endpoint("a"); e.Removed || e.Tokens != 100 || e.Requests != 1 {
		t.Errorf("%+v", e)
	}
	r.Update(testPool, &Policy{}, list[1:])
	a.Drop()
	a.Drop()
	a.Done(Ending{OK: true})
	if s := r.state(); len(s.Endpoints) != 1 {
		t.Errorf("%+v", s.Endpoints)
	}
	b := r.pick(Request{Tokens: 5})
	r.Retain(func(string) bool { return false })
	if n := len(r.Snapshot(r.now)); n != 0 {
		t.Errorf("%d pools", n)
	}
	b.Done(Ending{OK: true})
	r.Update(testPool, &Policy{}, list)
	r.empty()
}

// TestMove: what a retry has left does not count there any more.
func TestMove(t *testing.T) {
	r := newRig(t, &Policy{Prefix: &Prefix{BlockTokens: 10, MaxBlocks: 1000}}, endpoints(3, nil))
	blocks := []uint64{1, 2, 3}
	first := r.pick(Request{Tokens: 30, Blocks: blocks})
	first.Drop()
	r.Update(testPool, r.policy, endpoints(3, nil))
	p := r.pick(Request{Tokens: 32, Blocks: blocks})
	if p.Cached != 30 || p.Endpoints[0] != first.Endpoints[0] {
		t.Fatalf("%v, cached %d", p.Endpoints, p.Cached)
	}
	a, b := p.Endpoints[0], p.Endpoints[1]
	if e := r.endpoint(a); e.Tokens != 2 {
		t.Errorf("%+v", e)
	}
	p.Move(b)
	if e, f := r.endpoint(a), r.endpoint(b); e.Tokens != 0 || e.Requests != 0 || f.Tokens != 32 || f.Requests != 1 {
		t.Errorf("%+v, %+v", e, f)
	}
	if s := r.state(); s.Tokens != 32 || s.Requests != 1 {
		t.Errorf("%+v", s)
	}
	p.Move("somewhere else")
	if e := r.endpoint(b); e.Tokens != 0 || r.state().Requests != 1 {
		t.Errorf("%+v", e)
	}
	p.Done(Ending{Attempts: 3, OK: true})
	p.Move(a)
	r.empty()
}

// TestWhoHangsIsLeftAlone: what is pending drains by estimate, also where nothing is done any more. What has not ended keeps new
// requests away all the same.
func TestWhoHangsIsLeftAlone(t *testing.T) {
	r := newRig(t, &Policy{}, endpoints(4, nil))
	var inFlight []*Pick
	hung := map[string]int{}
	for i := range 1200 {
		r.now = r.now.Add(25 * time.Millisecond)
		p := r.pick(Request{Tokens: 800})
		if i >= 600 && p.Endpoints[0] == "a" {
			hung["a"]++
			continue
		}
		if inFlight = append(inFlight, p); len(inFlight) > 40 {
			inFlight[0].Done(Ending{At: r.now, OK: true, TTFT: 100 * time.Millisecond})
			inFlight = inFlight[1:]
		}
	}
	// The others have 13 each; it had up to 13 when it stopped.
	if hung["a"] > 20 {
		t.Errorf("%d of 600 requests went to an endpoint that does nothing", hung["a"])
	}
}
