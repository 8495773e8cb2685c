package session

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics count what happens to sessions. Labels are names of the configuration; there is none of a caller's.
type metrics struct {
	requests   *prometheus.CounterVec
	added      *prometheus.CounterVec
	events     *prometheus.CounterVec
	conflicts  prometheus.Counter
	failures   *prometheus.CounterVec
	forgotten  *prometheus.CounterVec
	evicted    *prometheus.CounterVec
	ruleErrors *prometheus.CounterVec
	asks       *prometheus.CounterVec
	erased     prometheus.Counter
	seconds    *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer, memory func() (values int, bytes int64)) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &metrics{
		requests:   counter("weir_session_requests_total", "Requests that named a session, by what became of it: ok, new, lost or denied.", "policy", "state"),
		added:      counter("weir_session_history_tokens_total", "Tokens of turns that were added to requests, estimated.", "policy"),
		events:     counter("weir_session_events_total", "Events of state machines, by the state that they led to.", "policy", "event", "state"),
		conflicts:  prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_session_conflicts_total", Help: "Writes that were done again because somebody else had written meanwhile."}),
		failures:   counter("weir_session_failures_total", "Operations on sessions that failed.", "operation"),
		forgotten:  counter("weir_session_turns_forgotten_total", "Turns that are not kept any more, by reason: size, summary, erased.", "policy", "reason"),
		evicted:    counter("weir_session_evictions_total", "Sessions that had to leave the memory for others.", "policy"),
		ruleErrors: counter("weir_session_rule_errors_total", "Expressions that could not be evaluated.", "policy"),
		asks:       counter("weir_session_asks_total", "Models that were asked for a summary or an extraction, by outcome: ok, failed, skipped.", "policy", "purpose", "outcome"),
		erased:     prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_session_erased_total", Help: "Sessions that were erased through the API."}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "weir_session_duration_seconds", Help: "Time that reading a session took before a request, and writing it after.",
			Buckets: prometheus.ExponentialBuckets(2e-5, 4, 9),
		}, []string{"operation"}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.added, m.events, m.conflicts, m.failures, m.forgotten, m.evicted, m.ruleErrors, m.asks, m.erased, m.seconds,
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "weir_session_memory_sessions", Help: "Sessions in memory.",
			}, func() float64 { n, _ := memory(); return float64(n) }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "weir_session_memory_bytes", Help: "Bytes of sessions in memory.",
			}, func() float64 { _, n := memory(); return float64(n) }))
	}
	return m
}
