package semantic

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// counters are what a Finder counts; docs/metrics.md says what they mean.
type counters struct {
	lookups   *prometheus.CounterVec
	embedding prometheus.Histogram
}

func newCounters(reg prometheus.Registerer, f *Finder) counters {
	c := counters{
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_cache_semantic_lookups_total", Help: "Questions after an answer by the meaning of its request.",
		}, []string{"policy", "result"}),
		embedding: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_cache_semantic_embedding_seconds", Help: "Time that embeddings for the cache took.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5},
		}),
	}
	if reg != nil {
		reg.MustRegister(c.lookups, c.embedding, &gauges{f.memory})
	}
	return c
}

// found counts what became of a question.
func (c *counters) found(policy string, p *Probe, err error) {
	result := "miss"
	switch {
	case errors.Is(err, ErrResting) || errors.Is(err, ErrTooLong):
		result = "skipped"
	case err != nil:
		result = "error"
	case len(p.Matches) > 0:
		result = "near"
	}
	c.lookups.WithLabelValues(policy, result).Inc()
}

func (c *counters) embedded(d time.Duration) { c.embedding.Observe(d.Seconds()) }

// gauges tells how much is in memory.
type gauges struct{ memory *memory }

var (
	entriesDesc = prometheus.NewDesc("weir_cache_semantic_memory_entries", "Requests that are known by their meaning, in memory.", []string{"policy"}, nil)
	bytesDesc   = prometheus.NewDesc("weir_cache_semantic_memory_bytes", "Bytes of their vectors in memory.", nil, nil)
)

// Describe implements prometheus.Collector.
func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	ch <- entriesDesc
	ch <- bytesDesc
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	for policy, n := range g.memory.count() {
		ch <- prometheus.MustNewConstMetric(entriesDesc, prometheus.GaugeValue, float64(n), policy)
	}
	ch <- prometheus.MustNewConstMetric(bytesDesc, prometheus.GaugeValue, float64(g.memory.used.Load()))
}
