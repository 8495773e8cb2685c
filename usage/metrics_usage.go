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

	of    family[settledLabels, settledSeries]
	flags [numEntryFlags]counter
}

// settledLabels are all that an entry has of those of weir_tokens_total and weir_cost_total.
type settledLabels struct {
	route, backend, currency string
	estimated                bool
}

type settledSeries struct {
	tokens [numTokenKinds]counter
	cost   counter
}

const (
	numTokenKinds = 5
	numEntryFlags = 8 // the last one is that there is none
)

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
	of := m.of.of(settledLabels{e.Route, e.Backend, e.Currency, e.Estimated})
	for i, k := range [numTokenKinds]struct {
		name string
		n    int64
	}{
		{"input", e.Tokens.Input}, {"cache_read", e.Tokens.CacheRead}, {"cache_write", e.Tokens.CacheWrite},
		{"output", e.Tokens.Output}, {"reasoning", e.Tokens.Reasoning},
	} {
		if k.n > 0 {
			of.tokens[i].get(func() prometheus.Counter {
				return m.tokens.WithLabelValues(e.Route, e.Backend, k.name, strconv.FormatBool(e.Estimated))
			}).Add(float64(k.n))
		}
	}
	if e.Cost > 0 {
		of.cost.get(func() prometheus.Counter { return m.cost.WithLabelValues(e.Route, e.Backend, e.Currency) }).Add(float64(e.Cost) / float64(money.Unit))
	}
	for i, f := range [numEntryFlags]struct {
		name string
		set  bool
	}{
		{"estimated", e.Estimated}, {"aborted", e.Aborted}, {"interrupted", e.Interrupted}, {"unpriced", e.Unpriced},
		{"translated", e.Translated}, {"cached", e.Cached}, {"cut", e.Cut}, {"none", e.Flags == ledger.Flags{}},
	} {
		if f.set {
			m.flags[i].get(func() prometheus.Counter { return m.entries.WithLabelValues(f.name) }).Inc()
		}
	}
}
