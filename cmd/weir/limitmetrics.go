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
	usedDesc     = prometheus.NewDesc("weir_limit_used_ratio", "What the counter of a limit that has used most has used of it.", []string{"limit"}, nil)
	spentDesc    = prometheus.NewDesc("weir_budget_used_ratio", "What the counter of a budget that has spent most has spent of it, reservations of running requests included.", []string{"budget"}, nil)
	countersDesc = prometheus.NewDesc("weir_limit_counters", "Counters of a limit or a budget in this process: one for each tenant, consumer or key, or one in all.", []string{"limit"}, nil)
	storeDesc    = prometheus.NewDesc("weir_shared_state_up", "1 while the shared state answers; absent without one.", nil, nil)
	replicasDesc = prometheus.NewDesc("weir_shared_state_replicas", "Replicas that count together, as this one has seen last.", nil, nil)
	asksDesc     = prometheus.NewDesc("weir_shared_state_calls_total", "Calls to the shared state for limits.", []string{"call"}, nil)
	breakerDesc  = prometheus.NewDesc("weir_breaker_state", "Circuit breakers of a policy in a state.", []string{"policy", "state"}, nil)
)

// Describe implements prometheus.Collector.
func (stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{leasedDesc, waitingDesc, boundDesc, usedDesc, spentDesc, countersDesc, storeDesc, replicasDesc, asksDesc, breakerDesc} {
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
	used, spent, counters := map[string]float64{}, map[string]float64{}, map[string]float64{}
	for _, r := range c.a.limits.States(1) {
		leased[r.Rule.Name] += float64(r.Leased)
		waiting[r.Rule.Name] += float64(r.Waiting)
		bound[r.Rule.Name] = max(bound[r.Rule.Name], float64(r.Bound))
		counters[r.Rule.Name] += float64(r.Counters)
		if len(r.Subjects) == 0 || r.Subjects[0].Limit <= 0 {
			continue
		}
		by := used
		if r.Rule.Unit == limit.Cost && r.Rule.Algorithm == limit.Calendar {
			by = spent
		}
		s := &r.Subjects[0] // the one that has least left
		by[r.Rule.Name] = max(by[r.Rule.Name], 1-float64(s.Remaining)/float64(s.Limit))
	}
	for name, v := range used {
		gauge(usedDesc, v, name)
	}
	for name, v := range spent {
		gauge(spentDesc, v, name)
	}
	for name := range leased {
		gauge(leasedDesc, leased[name], name)
		gauge(waitingDesc, waiting[name], name)
		gauge(boundDesc, bound[name], name)
		gauge(countersDesc, counters[name], name)
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
