package main

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/limit"
)

// limitMetrics count decisions of limits and changes of breakers. Their labels are names of configured rules: a tenant or a
// model that a caller made up is none.
type limitMetrics struct {
	decisions *prometheus.CounterVec
	changes   *prometheus.CounterVec
}

func newLimitMetrics(reg prometheus.Registerer) *limitMetrics {
	m := &limitMetrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_limit_decisions_total", Help: "Requests that a limit or a budget decided on, by what it decided.",
		}, []string{"limit", "outcome"}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_breaker_changes_total", Help: "Changes of state of circuit breakers, by the new state.",
		}, []string{"policy", "state"}),
	}
	reg.MustRegister(m.decisions, m.changes)
	return m
}

// Count implements limit.Metrics.
func (m *limitMetrics) Count(r *limit.Rule, o limit.Outcome) {
	m.decisions.WithLabelValues(r.Name, outcome(o)).Inc()
}

func outcome(o limit.Outcome) string {
	return [...]string{
		limit.Admitted: "admitted", limit.AdmittedLate: "admitted_late", limit.Refused: "refused", limit.ShadowRefused: "shadow_refused", limit.Unasked: "unasked",
	}[o]
}

func (m *limitMetrics) change(c breaker.Change) {
	if !c.Forgotten {
		m.changes.WithLabelValues(c.Rule.Name, c.To.String()).Inc()
	}
}

// newEndpointBreakerMetrics counts changes of the circuit breakers of endpoints.
func newEndpointBreakerMetrics(reg prometheus.Registerer) *prometheus.CounterVec {
	changes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_endpoint_breaker_changes_total", Help: "Changes of state of the circuit breakers of endpoints, by the new state.",
	}, []string{"backend", "state"})
	reg.MustRegister(changes)
	return changes
}

// loginMetrics counts requests whose credential was refused, by reason.
func loginMetrics(reg prometheus.Registerer) func(identity.Reason) {
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_authentication_refused_total", Help: "Requests whose credential was refused, by reason.",
	}, []string{"reason"})
	reg.MustRegister(refused)
	return func(r identity.Reason) { refused.WithLabelValues(string(r)).Inc() }
}

// authzMetrics counts checks of external authorization.
func authzMetrics(reg prometheus.Registerer) func(status int, took time.Duration) {
	checks := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "weir_external_authorization_duration_seconds", Help: "Time that a check of external authorization took, by the status of its answer.",
		Buckets: prometheus.ExponentialBuckets(5e-6, 4, 9),
	}, []string{"status"})
	reg.MustRegister(checks)
	return func(status int, took time.Duration) {
		checks.WithLabelValues(strconv.Itoa(status)).Observe(took.Seconds())
	}
}

// stateCollector exports how limits, breakers and the shared state stand when it is asked.
type stateCollector struct{ a *accounting }

var (
	leasedDesc   = prometheus.NewDesc("weir_limit_leased_units", "Units that this replica has taken from the shared state and not used.", []string{"limit"}, nil)
	waitingDesc  = prometheus.NewDesc("weir_limit_waiting_requests", "Requests that wait for room under a limit.", []string{"limit"}, nil)
	boundDesc    = prometheus.NewDesc("weir_limit_overspend_bound_units", "Most units that a window may hold beyond its limit because replicas take leases.", []string{"limit"}, nil)
	storeDesc    = prometheus.NewDesc("weir_shared_state_up", "1 while the shared state answers; absent without one.", nil, nil)
	replicasDesc = prometheus.NewDesc("weir_shared_state_replicas", "Replicas that count together, as this one has seen last.", nil, nil)
	asksDesc     = prometheus.NewDesc("weir_shared_state_calls_total", "Calls to the shared state for limits.", []string{"call"}, nil)
	breakerDesc  = prometheus.NewDesc("weir_breaker_state", "Circuit breakers of a policy in a state.", []string{"policy", "state"}, nil)
)

// Describe implements prometheus.Collector.
func (stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{leasedDesc, waitingDesc, boundDesc, storeDesc, replicasDesc, asksDesc, breakerDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c stateCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	// A policy with a counter for each of several targets has a rule for each of them, under one name.
	leased, waiting, bound := map[string]float64{}, map[string]float64{}, map[string]float64{}
	for _, r := range c.a.limits.States(0) {
		leased[r.Rule.Name] += float64(r.Leased)
		waiting[r.Rule.Name] += float64(r.Waiting)
		bound[r.Rule.Name] = max(bound[r.Rule.Name], float64(r.Bound))
	}
	for name := range leased {
		gauge(leasedDesc, leased[name], name)
		gauge(waitingDesc, waiting[name], name)
		gauge(boundDesc, bound[name], name)
	}
	type state struct{ policy, state string }
	breakers := map[state]float64{}
	for _, b := range c.a.breakers.States(time.Now()) {
		breakers[state{b.Rule.Name, b.State.String()}]++
	}
	for s, n := range breakers {
		gauge(breakerDesc, n, s.policy, s.state)
	}
	store := c.a.limits.Store()
	if c.a.shared.remote.Load() == nil {
		return
	}
	up := 1.0
	if store.Down {
		up = 0
	}
	gauge(storeDesc, up)
	gauge(replicasDesc, float64(store.Replicas))
	for call, n := range map[string]uint64{"acquire": store.Acquires, "adjust": store.Adjusts, "failed": store.Failures} {
		ch <- prometheus.MustNewConstMetric(asksDesc, prometheus.CounterValue, float64(n), call)
	}
}

var _ limit.Metrics = (*limitMetrics)(nil)
