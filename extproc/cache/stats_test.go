package cache

import (
	"context"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/usage/money"
)

// TestStats: what is counted is what was done, of each policy by itself.
func TestStats(t *testing.T) {
	c := newCache(t, Options{})
	p, other := policy(nil), policy(func(p *Policy) { p.ID, p.MemoryBytes = "ns/a", 0 })
	c.Use([]*Policy{p, other})
	get(t, c, ask(p, 1), Miss, "")
	buy(t, c, ask(p, 1), "one")
	paid := bought
	paid.Model = ask(p, 1).Model
	for range 3 {
		if got := get(t, c, ask(p, 1), Hit, "one").Entry.Purchase; got != paid {
			t.Errorf("what is kept was bought as %+v, want %+v", got, paid)
		}
		c.Saved(p, Saving{Input: 3, Output: 5, Cost: 7, Currency: "USD"})
	}
	c.Saved(p, Saving{Input: 2, Cost: 1 << 60, Currency: "EUR"})
	c.Saved(p, Saving{Output: 4})
	get(t, c, ask(other, 1), Miss, "")

	release := make(chan struct{})
	fill := func(_ context.Context, w *Writer) error {
		<-release
		if err := w.Begin(okHead); err != nil {
			return err
		}
		w.Bought(Purchase{Backend: "ns/b", Tokens: canon.Usage{Input: 100, Output: 1000}})
		_, err := io.WriteString(w, "two")
		return err
	}
	leader := c.Do(context.Background(), ask(p, 2), fill)
	follower := c.Do(context.Background(), ask(p, 2), fill)
	defer leader.Close()
	defer follower.Close()
	if s := c.Stats(); s.Flights != 1 {
		t.Errorf("%d flights", s.Flights)
	}
	close(release)
	for _, r := range []*Reader{leader, follower} {
		if text, err := readAll(r); text != "two" || err != nil {
			t.Fatal(text, err)
		}
		if got := r.Purchase(); got.Backend != "ns/b" || got.Tokens.Output != 1000 {
			t.Errorf("%s: bought as %+v", r.Outcome(), got)
		}
	}

	s := c.Stats()
	if s.Redis || s.RedisUp || s.Replicas != 0 || s.Flights != 0 || s.Queue != 0 || len(s.Policies) != 2 {
		t.Fatalf("%+v", s)
	}
	if a := s.Policies[0]; a.Policy != other || a.Misses != 1 || a.Bytes != 0 || a.Entries != 0 || a.Bloom != nil {
		t.Errorf("%+v", a)
	}
	got := s.Policies[1]
	if got.Bytes <= 0 {
		t.Errorf("%d bytes", got.Bytes)
	}
	got.Bytes = 0
	want := PolicyStats{
		Policy: p, Entries: 2, MemoryHits: 3, Misses: 1, Shared: 1, Bought: 2,
		SavedInput: 3*3 + 2, SavedOutput: 3*5 + 4, SavedCost: map[string]money.Nano{"USD": 21, "EUR": 1 << 60},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	c.Use([]*Policy{other})
	if s := c.Stats(); len(s.Policies) != 1 {
		t.Errorf("a policy that is not in use is told of: %+v", s.Policies)
	}
}

// TestStatsOfBloom: of a filter it is told what Redis was spared.
func TestStatsOfBloom(t *testing.T) {
	c := newCache(t, Options{})
	p := policy(func(p *Policy) { p.Redis, p.Bloom = true, &Bloom{Keys: 1000, FalsePositives: 0.01} })
	c.metrics.filter.WithLabelValues(p.ID, "no").Add(98)
	c.metrics.filter.WithLabelValues(p.ID, "wrong").Add(2)
	c.Use([]*Policy{p})
	if b := c.Stats().Policies[0].Bloom; b != nil {
		t.Errorf("without Redis there is a filter: %+v", b)
	}
	rm := &remote{c: c, filters: map[string]*filter{}}
	got := rm.bloomStats(&PolicyStats{Policy: p, Bloom: c.metrics.byPolicy()[p.ID].Bloom})
	if got == nil || *got != (BloomStats{No: 98, Wrong: 2}) {
		t.Errorf("%+v", got)
	}
}

// TestSavedCost: money is counted to the billionth, does not wrap around, and is on the page of metrics in units.
func TestSavedCost(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	c := newCache(t, Options{Registry: reg})
	p, other := policy(nil), policy(func(p *Policy) { p.ID = "ns/a" })
	for range 3 {
		c.Saved(p, Saving{Cost: 500_000_001, Currency: "USD"})
	}
	c.Saved(p, Saving{Cost: 2_000_000_000, Currency: "EUR"})
	c.Saved(other, Saving{Input: 1, Currency: "USD"}) // whose price nobody knows
	want := `
# HELP weir_cache_saved_cost_total What answers that were given without being bought would have cost, in units of the currency.
# TYPE weir_cache_saved_cost_total counter
weir_cache_saved_cost_total{currency="EUR",policy="` + p.ID + `"} 2
weir_cache_saved_cost_total{currency="USD",policy="` + p.ID + `"} 1.500000003
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "weir_cache_saved_cost_total"); err != nil {
		t.Error(err)
	}
	for range 2 {
		c.Saved(p, Saving{Cost: money.Max - 5, Currency: "USD"})
	}
	if got := c.metrics.byPolicy(); got[p.ID].SavedCost["USD"] != money.Max || got[other.ID].SavedCost != nil || got[other.ID].SavedInput != 1 {
		t.Errorf("%+v", got)
	}
}

// TestPurchase: who reads an answer learns how it was bought, whoever bought it, and of a refusal that nothing was.
func TestPurchase(t *testing.T) {
	c := newCache(t, Options{})
	p := policy(nil)
	leader := c.Do(context.Background(), ask(p, 1), func(_ context.Context, w *Writer) error { return w.Refuse(okHead, []byte("no")) })
	defer leader.Close()
	if text, err := readAll(leader); text != "no" || err != nil || leader.Purchase() != (Purchase{}) {
		t.Errorf("%q %v: bought as %+v", text, err, leader.Purchase())
	}
	found := c.Do(context.Background(), ask(p, 1), func(_ context.Context, w *Writer) error {
		w.Found(bought)
		if err := w.Begin(okHead); err != nil {
			return err
		}
		_, err := io.WriteString(w, "found")
		return err
	})
	defer found.Close()
	if text, err := readAll(found); text != "found" || err != nil || found.Purchase() != bought {
		t.Errorf("%q %v: bought as %+v", text, err, found.Purchase())
	}
	paid := bought
	paid.Model = ask(p, 2).Model
	buy(t, c, ask(p, 2), "kept")
	again := c.Do(context.Background(), ask(p, 2), answers("anew"))
	defer again.Close()
	if text, err := readAll(again); text != "kept" || err != nil || again.Outcome() != Hit || again.Purchase() != paid {
		t.Errorf("%q %v %s: bought as %+v", text, err, again.Outcome(), again.Purchase())
	}
}
