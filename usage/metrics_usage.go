package usage

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/usage/ledger"
	"github.com/weir-dev/weir/usage/money"
)

// deskMetrics count what Desk settles. Labels come from configuration and from fixed sets alone.
type deskMetrics struct {
	tokens    *prometheus.CounterVec
	cost      *prometheus.CounterVec
	entries   *prometheus.CounterVec
	unmatched prometheus.Counter
	abandoned prometheus.Counter
}

func newDeskMetrics(reg prometheus.Registerer, inFlight func() int) *deskMetrics {
	m := &deskMetrics{
		tokens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_tokens_total", Help: "Tokens of settled requests, in disjoint kinds.",
		}, []string{"route", "backend", "kind", "estimated"}),
		cost: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_cost_total", Help: "Cost of settled requests, in units of the currency. The ledger has it to the billionth.",
		}, []string{"route", "backend", "currency"}),
		entries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_settlement_entries_total", Help: "Entries given to the ledger, once for each of their flags; those without any are under none.",
		}, []string{"flag"}),
		unmatched: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_settlement_records_unmatched_total", Help: "Records of requests that had been settled, or that another process had let in.",
		}),
		abandoned: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_settlement_abandoned_total", Help: "Requests that were let in and that Envoy never went on with.",
		}),
	}
	reg.MustRegister(m.tokens, m.cost, m.entries, m.unmatched, m.abandoned, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "weir_settlement_open_requests", Help: "Requests that were let in and are not settled.",
	}, func() float64 { return float64(inFlight()) }))
	return m
}

// settled counts an entry.
func (m *deskMetrics) settled(e *ledger.Entry) {
	estimated := strconv.FormatBool(e.Estimated)
	for _, k := range [...]struct {
		name string
		n    int64
	}{
		{"input", e.Tokens.Input}, {"cache_read", e.Tokens.CacheRead}, {"cache_write", e.Tokens.CacheWrite},
		{"output", e.Tokens.Output}, {"reasoning", e.Tokens.Reasoning},
	} {
		if k.n > 0 {
			m.tokens.WithLabelValues(e.Route, e.Backend, k.name, estimated).Add(float64(k.n))
		}
	}
	if e.Cost > 0 {
		m.cost.WithLabelValues(e.Route, e.Backend, e.Currency).Add(float64(e.Cost) / float64(money.Unit))
	}
	flagged := false
	for _, f := range [...]struct {
		name string
		set  bool
	}{
		{"estimated", e.Estimated}, {"aborted", e.Aborted}, {"interrupted", e.Interrupted}, {"unpriced", e.Unpriced},
		{"translated", e.Translated}, {"cached", e.Cached}, {"cut", e.Cut},
	} {
		if f.set {
			flagged = true
			m.entries.WithLabelValues(f.name).Inc()
		}
	}
	if !flagged {
		m.entries.WithLabelValues("none").Inc()
	}
}
