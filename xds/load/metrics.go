package load

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/xds/load/probe"
	"github.com/weir-dev/weir/xds/load/scrape"
	"github.com/weir-dev/weir/xds/load/weigh"
)

// metrics are those of steering. Their labels are Backends and endpoints of the configuration, and fixed sets.
type metrics struct {
	readMetrics
	computed   prometheus.Histogram
	applied    prometheus.Histogram
	overlays   prometheus.Counter
	refused    prometheus.Counter
	isolations *prometheus.CounterVec
	signals    *prometheus.CounterVec // nil: nobody shares any
}

// readMetrics are those of whoever reads endpoints.
type readMetrics struct {
	scrapes, checks *prometheus.CounterVec
	scrapeTime      prometheus.Histogram
	scrapeBytes     prometheus.Counter
}

func newReadMetrics(reg prometheus.Registerer) readMetrics {
	m := readMetrics{
		scrapes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_scrapes_total", Help: "Readings of endpoints' metrics, by result: ok, or what was wrong.",
		}, []string{"backend", "source", "result"}),
		checks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_health_checks_total", Help: "Health checks of endpoints, by result: ok, or what was wrong.",
		}, []string{"backend", "result"}),
		scrapeTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_scrape_duration_seconds", Help: "Time that a reading of an endpoint's metrics took.", Buckets: prometheus.ExponentialBuckets(.001, 2, 12),
		}),
		scrapeBytes: prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_scrape_bytes_total", Help: "Bytes of endpoints' metrics that were read."}),
	}
	reg.MustRegister(m.scrapes, m.checks, m.scrapeTime, m.scrapeBytes)
	return m
}

func newMetrics(reg prometheus.Registerer, c *Controller) *metrics {
	m := &metrics{
		readMetrics: newReadMetrics(reg),
		computed: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_steering_compute_duration_seconds", Help: "Time that one computation of weights took, and what follows from it.", Buckets: prometheus.ExponentialBuckets(1e-5, 4, 9),
		}),
		applied: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_steering_apply_duration_seconds", Help: "Time from new weights until Envoy had taken them, or later ones.", Buckets: prometheus.ExponentialBuckets(.001, 2, 14),
		}),
		overlays: prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_steering_updates_total", Help: "Times that Envoy was told new weights."}),
		refused:  prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_steering_updates_refused_total", Help: "Times that Envoy refused new weights."}),
		isolations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_endpoint_isolations_total", Help: "Times that an endpoint was isolated.",
		}, []string{"backend"}),
	}
	reg.MustRegister(m.computed, m.applied, m.overlays, m.refused, m.isolations, &collector{c})
	if c.opts.Signals != nil {
		m.signals = newSignalMetrics(reg, c)
	}
	return m
}

// forget drops the series of a Backend that is not steered any more.
func (m *metrics) forget(backend string) {
	m.readMetrics.forget(backend)
	m.isolations.DeletePartialMatch(prometheus.Labels{"backend": backend})
}

func (m *readMetrics) forget(backend string) {
	of := prometheus.Labels{"backend": backend}
	m.scrapes.DeletePartialMatch(of)
	m.checks.DeletePartialMatch(of)
}

func (m *readMetrics) scraped(r *scrape.Reading) {
	m.scrapes.WithLabelValues(r.Target.Pool, r.Target.Engine.Name, result(r.Err == nil, string(r.Fault))).Inc()
	m.scrapeTime.Observe(r.Took.Seconds())
	m.scrapeBytes.Add(float64(r.Bytes))
}

func (m *readMetrics) checked(r *probe.Result) {
	m.checks.WithLabelValues(r.Check.Pool, result(r.OK, string(r.Fault))).Inc()
}

func result(ok bool, fault string) string {
	if ok {
		return "ok"
	}
	return fault
}

// collector describes the endpoints as they are when somebody asks: those that are gone leave no series behind.
type collector struct{ c *Controller }

var (
	endpointLabels = []string{"backend", "endpoint"}
	weightDesc     = prometheus.NewDesc("weir_endpoint_weight", "Weight of an endpoint: 1000 for each unit of its base weight with nothing against it; 0 is isolated.", endpointLabels, nil)
	factorDesc     = prometheus.NewDesc("weir_endpoint_factor", "What a rule multiplies the weight of an endpoint by; absent where it does not apply.", append(endpointLabels, "rule"), nil)
	statusDesc     = prometheus.NewDesc("weir_endpoint_status", "1 for the status that an endpoint has: Active, WarmingUp or Isolated.", append(endpointLabels, "status"), nil)
	inFlightDesc   = prometheus.NewDesc("weir_endpoint_requests_in_flight", "Requests at an endpoint that Weir picked it for.", endpointLabels, nil)
	tokensDesc     = prometheus.NewDesc("weir_endpoint_tokens_in_flight", "Tokens of prompts at an endpoint, less what it had cached, that Weir picked it for.", endpointLabels, nil)
	ageDesc        = prometheus.NewDesc("weir_endpoint_signal_age_seconds", "Age of the newest reading of a source of an endpoint.", append(endpointLabels, "source"), nil)
	shareDesc      = prometheus.NewDesc("weir_backend_share", "What a Backend gets of its weights in Routes: 1 with nothing against it.", []string{"backend"}, nil)
	waitingDesc    = prometheus.NewDesc("weir_backend_requests_waiting", "Requests that wait for room at a Backend.", []string{"backend"}, nil)
	pickedDesc     = prometheus.NewDesc("weir_backend_picks_total", "Requests that Weir picked an endpoint for.", []string{"backend"}, nil)
	refusedDesc    = prometheus.NewDesc("weir_backend_picks_refused_total", "Requests that found no endpoint, or no room.", []string{"backend"}, nil)
	cachedDesc     = prometheus.NewDesc("weir_backend_prefix_tokens_total", "Tokens of prompts, by whether the endpoint they went to was expected to have them in its cache.", []string{"backend", "cached"}, nil)
)

// Describe implements prometheus.Collector.
func (k *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{weightDesc, factorDesc, statusDesc, inFlightDesc, tokensDesc, ageDesc, shareDesc, waitingDesc, pickedDesc, refusedDesc, cachedDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (k *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	now := k.c.opts.Now()
	picks := k.c.picks(now)
	for id, p := range *k.c.pools.Load() {
		picked := picks[id]
		gauge(shareDesc, p.decide.Load().Share, id)
		gauge(waitingDesc, float64(picked.Waiting), id)
		counter(pickedDesc, picked.Picked, id)
		counter(refusedDesc, picked.Refused, id)
		counter(cachedDesc, picked.CachedTokens, id, "true")
		counter(cachedDesc, picked.AllTokens-min(picked.CachedTokens, picked.AllTokens), id, "false")
		byKey := byKey(&picked)
		results, ages := p.shown(now)
		for i := range results {
			r := &results[i]
			gauge(weightDesc, float64(r.Weight), id, r.Key)
			gauge(statusDesc, 1, id, r.Key, r.Status.String())
			gauge(inFlightDesc, float64(byKey[r.Key].Requests), id, r.Key)
			gauge(tokensDesc, float64(byKey[r.Key].Tokens), id, r.Key)
			for n, reason := range r.Reasons {
				if !slices.ContainsFunc(r.Reasons[:n], func(o weigh.Reason) bool { return o.Rule == reason.Rule }) {
					gauge(factorDesc, reason.Factor, id, r.Key, reason.Rule)
				}
			}
			for n, a := range ages[i] {
				if !slices.ContainsFunc(ages[i][:n], func(o age) bool { return o.kind == a.kind }) {
					gauge(ageDesc, a.seconds, id, r.Key, a.kind)
				}
			}
		}
	}
}

// age of the newest reading of a source.
type age struct {
	kind    string
	seconds float64
}

// shown is what metrics show of the endpoints: their weights, and the ages of their sources that were read, in the same order.
func (p *pool) shown(now time.Time) (results []weigh.Result, ages [][]age) {
	p.mu.Lock()
	defer p.mu.Unlock()
	results, ages = p.weights.Results(), make([][]age, len(p.endpoints))
	for i, e := range p.endpoints {
		for j := range e.sources {
			if s := &e.sources[j]; !s.readAt.IsZero() {
				ages[i] = append(ages[i], age{s.kind, max(0, now.Sub(s.readAt).Seconds())})
			}
		}
	}
	return results, ages
}

var _ prometheus.Collector = (*collector)(nil)
