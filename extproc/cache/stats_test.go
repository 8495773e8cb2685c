package cache

import (
	"context"
	"io"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
)

// TestStats: what is counted is what was done, of each policy by itself.
func TestStats(t *testing.T) {
	c := newCache(t, Options{})
	p, other := policy(nil), policy(func(p *Policy) { p.ID, p.MemoryBytes = "ns/a", 0 })
	c.Use([]*Policy{p, other})
	get(t, c, ask(p, 1), Miss, "")
	buy(t, c, ask(p, 1), "one")
	for range 3 {
		c.Saved(p, get(t, c, ask(p, 1), Hit, "one").Entry.Tokens)
	}
	c.Saved(p, canon.Usage{CacheRead: 1, CacheWrite: 1, Reasoning: 2})
	get(t, c, ask(other, 1), Miss, "")

	release := make(chan struct{})
	fill := func(_ context.Context, w *Writer) error {
		<-release
		if err := w.Begin(okHead); err != nil {
			return err
		}
		w.Bought("", canon.Usage{Input: 100, Output: 1000})
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
		SavedInput: 3*3 + 2 + 100, SavedOutput: 3*5 + 2 + 1000,
	}
	if got != want {
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
