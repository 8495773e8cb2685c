package cache

import (
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/usage/money"
)

// metrics are what the cache counts; docs/metrics.md says what they mean.
type metrics struct {
	lookups, shared, fills, refreshes, waits, dropped *prometheus.CounterVec
	evictions, written, writtenBytes, repeats, errors *prometheus.CounterVec
	filter, filterMade, saved                         *prometheus.CounterVec
	filterKeys                                        *prometheus.GaugeVec
	purges                                            prometheus.Counter
	up                                                prometheus.Gauge
	savedCost                                         savedCosts
}

// savedCost is what amounts of money are counted by.
type savedCost struct{ policy, currency string }

// savedCosts counts money as the ledger does, in billionths: a counter of Prometheus is a float.
type savedCosts struct{ m sync.Map } // of *atomic.Int64, by savedCost

func (c *savedCosts) add(of savedCost, n money.Nano) {
	if n <= 0 {
		return
	}
	v, ok := c.m.Load(of)
	if !ok {
		v, _ = c.m.LoadOrStore(of, &atomic.Int64{})
	}
	for sum := v.(*atomic.Int64); ; {
		old := sum.Load()
		if sum.CompareAndSwap(old, int64(money.Nano(old).Add(n))) {
			return
		}
	}
}

func (c *savedCosts) each(do func(of savedCost, n money.Nano)) {
	c.m.Range(func(of, n any) bool {
		do(of.(savedCost), money.Nano(n.(*atomic.Int64).Load()))
		return true
	})
}

func newMetrics(reg prometheus.Registerer, c *Cache) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weir_cache_" + name, Help: help}, labels)
	}
	m := &metrics{
		lookups:      counter("lookups_total", "Questions after a cached answer.", "policy", "outcome", "tier"),
		shared:       counter("shared_total", "Requests that were answered by what another was buying.", "policy"),
		fills:        counter("fills_total", "Answers that were bought, or were to be.", "policy", "result"),
		refreshes:    counter("refreshes_total", "Answers that were bought again in the background.", "policy"),
		waits:        counter("waits_expired_total", "Answers that were bought because another replica took too long.", "policy"),
		dropped:      counter("dropped_total", "Answers that were not kept, or not everywhere.", "policy", "reason"),
		evictions:    counter("evictions_total", "Entries that left the memory for others.", "policy"),
		written:      counter("redis_writes_total", "Entries written to Redis.", "policy"),
		writtenBytes: counter("redis_written_bytes_total", "Bytes of entries written to Redis, compressed.", "policy"),
		repeats:      counter("redis_repeats_total", "Entries that Redis did not take and that wait to be written again.", "policy"),
		errors:       counter("errors_total", "What went wrong with Redis or in it.", "operation"),
		filter:       counter("bloom_answers_total", "Answers of the bloom filter before Redis.", "policy", "answer"),
		saved:        counter("saved_tokens_total", "Tokens of answers that were given without being bought.", "policy", "kind"),
		filterMade:   counter("bloom_rebuilds_total", "Bloom filters that this replica made.", "policy"),
		filterKeys: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weir_cache_bloom_keys", Help: "Keys in the bloom filter, estimated from its bits.",
		}, []string{"policy"}),
		purges: prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_cache_purges_total", Help: "Purges that this replica was asked for."}),
		up: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_cache_redis_up", Help: "Whether the cache uses Redis.",
		}),
	}
	if reg == nil {
		return m
	}
	reg.MustRegister(m.lookups, m.shared, m.fills, m.refreshes, m.waits, m.dropped, m.evictions, m.written, m.writtenBytes, m.repeats, m.errors,
		m.filter, m.filterMade, m.saved, m.filterKeys, m.purges, m.up, &collector{c, m},
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weir_cache_flights", Help: "Answers that are being bought.",
		}, func() float64 {
			c.mu.Lock()
			defer c.mu.Unlock()
			return float64(len(c.flights))
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weir_cache_flight_bytes", Help: "Bytes of answers that are being bought.",
		}, func() float64 { return float64(c.budget.used.Load()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weir_cache_queue", Help: "Entries that wait to be written to Redis.",
		}, func() float64 { return float64(c.queue.depth()) }))
	return m
}

func (m *metrics) lookup(policy string, l *Lookup) {
	tier := "none"
	if l.Outcome != Miss {
		tier = l.Tier.String()
	}
	m.lookups.WithLabelValues(policy, l.Outcome.String(), tier).Inc()
}

// filled counts a fill by how it ended.
func (m *metrics) filled(policy string, err error, left bool) {
	result := "whole"
	switch {
	case left:
		result = "left"
	case err != nil:
		result = "failed"
	}
	m.fills.WithLabelValues(policy, result).Inc()
}

func (m *metrics) filterAnswers(policy string) filterAnswers {
	return filterAnswers{
		no: m.filter.WithLabelValues(policy, "no"), right: m.filter.WithLabelValues(policy, "right"), wrong: m.filter.WithLabelValues(policy, "wrong"),
	}
}

// forget takes the gauges of a policy away that is not in use any more. Counters stay: they are of what has happened.
func (m *metrics) forget(policy string) { m.filterKeys.DeleteLabelValues(policy) }

// collector gives what the memory of each policy has, and the money that each has saved.
type collector struct {
	c *Cache
	m *metrics
}

var (
	bytesDesc     = prometheus.NewDesc("weir_cache_memory_bytes", "Bytes of entries in memory.", []string{"policy"}, nil)
	savedCostDesc = prometheus.NewDesc("weir_cache_saved_cost_total",
		"What answers that were given without being bought would have cost, in units of the currency.", []string{"policy", "currency"}, nil)
	entriesDesc = prometheus.NewDesc("weir_cache_memory_entries", "Entries in memory.", []string{"policy"}, nil)
)

// Describe is prometheus.Collector's.
func (*collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- bytesDesc
	ch <- entriesDesc
	ch <- savedCostDesc
}

// Collect is prometheus.Collector's.
func (k *collector) Collect(ch chan<- prometheus.Metric) {
	k.m.savedCost.each(func(of savedCost, n money.Nano) {
		ch <- prometheus.MustNewConstMetric(savedCostDesc, prometheus.CounterValue, float64(n)/float64(money.Unit), of.policy, of.currency)
	})
	k.c.tiers.Range(func(id, t any) bool {
		if m := t.(*tier).memory; m != nil {
			bytes, records := m.usage()
			ch <- prometheus.MustNewConstMetric(bytesDesc, prometheus.GaugeValue, float64(bytes), id.(string))
			ch <- prometheus.MustNewConstMetric(entriesDesc, prometheus.GaugeValue, float64(records), id.(string))
		}
		return true
	})
}
