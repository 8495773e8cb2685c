package cache

import (
	"cmp"
	"math"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/weir-dev/weir/usage/money"
)

// Stats are what the cache of this replica has and has done since the process began.
type Stats struct {
	// Redis says that there is one to share answers by, RedisUp that the cache uses it.
	Redis, RedisUp bool
	// Replicas that share answers, this one included; 0: not known, or nothing is shared.
	Replicas int
	// Flights are the answers that are being bought, FlightBytes what they have in memory.
	Flights     int
	FlightBytes int64
	// Queue is how many entries wait to be written to Redis.
	Queue int
	// Policies that are in use, by their IDs.
	Policies []PolicyStats
}

// PolicyStats are those of one policy.
type PolicyStats struct {
	Policy *Policy
	// Entries and Bytes in memory.
	Entries int
	Bytes   int64
	// Lookups by what came of them: fresh answers found in memory and in Redis, such as were past their TTL, refusals, and none.
	MemoryHits, RedisHits, Stale, Negative, Misses int64
	// Shared are the requests that were answered by what another was buying.
	Shared int64
	// Bought are the answers that were bought whole, Failed those that broke off, Refreshes those that were bought again in the background.
	Bought, Failed, Refreshes int64
	// Evictions are the entries that left the memory for others.
	Evictions int64
	// SavedInput and SavedOutput are the tokens of answers that were given without being bought.
	SavedInput, SavedOutput int64
	// SavedCost is what those answers would have cost, by currency; nil for nothing.
	SavedCost map[string]money.Nano
	// Bloom is nil where there is no filter.
	Bloom *BloomStats
}

// BloomStats are those of a bloom filter.
type BloomStats struct {
	// Ready says that this replica has a copy of it.
	Ready bool
	// Keys that it holds, estimated; Bytes that its copy takes.
	Keys  int64
	Bytes int64
	// No are the questions that Redis was spared, Right those that it had an answer to, Wrong those that it had none to.
	No, Right, Wrong int64
}

// Saving is what an answer would have cost that was given without being bought.
type Saving struct {
	Input, Output int64 // tokens, all kinds of them
	Cost          money.Nano
	Currency      string
}

// Saved counts what an answer saved that was given without being bought.
func (c *Cache) Saved(p *Policy, s Saving) {
	if s.Input > 0 {
		c.metrics.saved.WithLabelValues(p.ID, "input").Add(float64(s.Input))
	}
	if s.Output > 0 {
		c.metrics.saved.WithLabelValues(p.ID, "output").Add(float64(s.Output))
	}
	c.metrics.savedCost.add(savedCost{p.ID, s.Currency}, s.Cost)
}

// Stats tells how the cache is.
func (c *Cache) Stats() Stats {
	rm := c.redis.Load()
	s := Stats{Redis: rm != nil, RedisUp: rm != nil && rm.up.Load(), FlightBytes: c.budget.used.Load(), Queue: c.queue.depth()}
	if s.RedisUp {
		s.Replicas = int(max(0, rm.members.Load()))
	}
	c.mu.Lock()
	s.Flights = len(c.flights)
	c.mu.Unlock()
	counted := c.metrics.byPolicy()
	c.tiers.Range(func(id, t any) bool {
		p, ok := counted[id.(string)]
		if !ok {
			p = &PolicyStats{}
		}
		p.Policy = t.(*tier).policy.Load()
		if m := t.(*tier).memory; m != nil {
			bytes, entries := m.usage()
			p.Bytes, p.Entries = int64(bytes), entries
		}
		p.Bloom = rm.bloomStats(p)
		s.Policies = append(s.Policies, *p)
		return true
	})
	slices.SortFunc(s.Policies, func(a, b PolicyStats) int { return cmp.Compare(a.Policy.ID, b.Policy.ID) })
	return s
}

// bloomStats completes what is counted of the filter of a policy by how the filter is; nil where it has none.
func (r *remote) bloomStats(p *PolicyStats) *BloomStats {
	b := p.Bloom
	if r == nil || !p.Policy.Redis || p.Policy.Bloom == nil {
		return nil
	}
	if b == nil {
		b = &BloomStats{}
	}
	r.mu.Lock()
	f := r.filters[p.Policy.ID]
	r.mu.Unlock()
	if f == nil {
		return b
	}
	if v := f.view.Load(); v != nil {
		b.Ready, b.Bytes = true, int64(len(v.words))*8
		b.Keys = int64(math.Round(min(v.estimate(), math.MaxInt32)))
	}
	return b
}

// byPolicy reads the counters: there is one account of what was done, and metrics are it.
func (m *metrics) byPolicy() map[string]*PolicyStats {
	out := map[string]*PolicyStats{}
	each := func(v *prometheus.CounterVec, take func(p *PolicyStats, label func(string) string, n int64)) {
		for _, c := range gather(v) {
			label := func(name string) string {
				for _, l := range c.GetLabel() {
					if l.GetName() == name {
						return l.GetValue()
					}
				}
				return ""
			}
			p := out[label("policy")]
			if p == nil {
				p = &PolicyStats{}
				out[label("policy")] = p
			}
			take(p, label, int64(c.GetCounter().GetValue()))
		}
	}
	each(m.lookups, func(p *PolicyStats, label func(string) string, n int64) {
		switch label("outcome") {
		case Hit.String():
			if label("tier") == Redis.String() {
				p.RedisHits += n
			} else {
				p.MemoryHits += n
			}
		case Stale.String():
			p.Stale += n
		case Negative.String():
			p.Negative += n
		default:
			p.Misses += n
		}
	})
	each(m.fills, func(p *PolicyStats, label func(string) string, n int64) {
		switch label("result") {
		case "whole":
			p.Bought += n
		case "failed":
			p.Failed += n
		}
	})
	each(m.saved, func(p *PolicyStats, label func(string) string, n int64) {
		if label("kind") == "input" {
			p.SavedInput += n
		} else {
			p.SavedOutput += n
		}
	})
	m.savedCost.each(func(of savedCost, n money.Nano) {
		p := out[of.policy]
		if p == nil {
			p = &PolicyStats{}
			out[of.policy] = p
		}
		if p.SavedCost == nil {
			p.SavedCost = map[string]money.Nano{}
		}
		p.SavedCost[of.currency] = n
	})
	each(m.filter, func(p *PolicyStats, label func(string) string, n int64) {
		if p.Bloom == nil {
			p.Bloom = &BloomStats{}
		}
		switch label("answer") {
		case "no":
			p.Bloom.No += n
		case "right":
			p.Bloom.Right += n
		case "wrong":
			p.Bloom.Wrong += n
		}
	})
	each(m.shared, func(p *PolicyStats, _ func(string) string, n int64) { p.Shared += n })
	each(m.refreshes, func(p *PolicyStats, _ func(string) string, n int64) { p.Refreshes += n })
	each(m.evictions, func(p *PolicyStats, _ func(string) string, n int64) { p.Evictions += n })
	return out
}

// gather reads all counters of a kind.
func gather(v *prometheus.CounterVec) (out []*dto.Metric) {
	ch := make(chan prometheus.Metric)
	go func() {
		v.Collect(ch)
		close(ch)
	}()
	for c := range ch {
		d := &dto.Metric{}
		if c.Write(d) == nil {
			out = append(out, d)
		}
	}
	return out
}
