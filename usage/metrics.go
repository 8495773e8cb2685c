package usage

import (
	"cmp"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts records and decisions. Labels come from configuration and from fixed sets alone: a
// model name that a caller made up is no label.
type Metrics struct {
	requests  *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	firstByte *prometheus.HistogramVec
	decisions *prometheus.HistogramVec
	attempts  *prometheus.CounterVec
	shadowed  *prometheus.CounterVec

	ofRecords   family[recordLabels, recordSeries]
	ofDecisions family[int, observer] // by status
	ofAttempts  family[attemptLabels, counter]
}

// recordLabels are those of weir_requests_total, which has all that the others have.
type recordLabels struct {
	route, backend, dialect string
	status                  int
	aborted                 bool
}

type recordSeries struct {
	requests            counter
	duration, firstByte observer
}

type attemptLabels struct {
	backend    string
	translated bool
}

// Bounds in seconds: from an answer out of memory to a long generation, those of the GenAI conventions.
var durationBuckets = []float64{.01, .02, .04, .08, .16, .32, .64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92}

// NewMetrics registers its metrics with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_requests_total", Help: "Finished requests.",
		}, []string{"route", "backend", "dialect", "status", "aborted"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "weir_request_duration_seconds", Help: "Time until the last byte went to the caller.", Buckets: durationBuckets,
		}, []string{"route", "backend"}),
		firstByte: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "weir_time_to_first_byte_seconds", Help: "Time until the first byte of the answer went to the caller.", Buckets: durationBuckets,
		}, []string{"route", "backend"}),
		decisions: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "weir_decision_duration_seconds", Help: "Time that a decision took, by the status of Weir's own answer; 0 when the request went on.",
			Buckets: prometheus.ExponentialBuckets(5e-6, 4, 9),
		}, []string{"status"}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_attempts_total", Help: "Attempts at backends.",
		}, []string{"backend", "translated"}),
		shadowed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_breaker_shadow_refused_total", Help: "Requests that a circuit breaker in shadow mode would have refused.",
		}, []string{"policy"}),
	}
	reg.MustRegister(m.shadowed, m.requests, m.duration, m.firstByte, m.decisions, m.attempts)
	return m
}

// Count is a Sink. It comes after Desk.Close, which knows who made the relay's answers.
func (m *Metrics) Count(r *Record) {
	if r.Fill != "" {
		return // no request of a caller's
	}
	backend := cmp.Or(r.Backend, r.FilledBy)
	of := m.ofRecords.of(recordLabels{r.Route, backend, r.Dialect, r.Status, r.Aborted})
	of.requests.get(func() prometheus.Counter {
		return m.requests.WithLabelValues(r.Route, backend, r.Dialect, strconv.Itoa(r.Status), strconv.FormatBool(r.Aborted))
	}).Inc()
	if backend == "" {
		return
	}
	of.duration.get(func() prometheus.Observer { return m.duration.WithLabelValues(r.Route, backend) }).Observe(r.Duration.Seconds())
	if r.FirstByte > 0 {
		of.firstByte.get(func() prometheus.Observer { return m.firstByte.WithLabelValues(r.Route, backend) }).Observe(r.FirstByte.Seconds())
	}
}

// Decided counts a decision.
func (m *Metrics) Decided(status int, took time.Duration) {
	m.ofDecisions.of(status).get(func() prometheus.Observer { return m.decisions.WithLabelValues(strconv.Itoa(status)) }).Observe(took.Seconds())
}

// Attempted counts an attempt that Weir prepared.
func (m *Metrics) Attempted(backend string, translated bool) {
	m.ofAttempts.of(attemptLabels{backend, translated}).get(func() prometheus.Counter {
		return m.attempts.WithLabelValues(backend, strconv.FormatBool(translated))
	}).Inc()
}

// Finished counts the attempts of a request that Envoy has prepared by itself: the last one, and those before it that it has told of. It is
// a FinishedSink.
func (m *Metrics) Finished(f *Finished) {
	r, o := f.Record, f.Open
	if r == nil || f.Relayed() || r.Immediate || r.Attempts == 0 || o != nil && !o.Unasked {
		return
	}
	for i := range f.Failed {
		if t := &f.Failed[i]; t.N < r.Attempts && t.Backend != "" {
			m.Attempted(t.Backend, false)
		}
	}
	if r.Backend != "" {
		m.Attempted(r.Backend, false)
	}
}

// BreakerShadowed counts a request that a circuit breaker in shadow mode would have refused.
func (m *Metrics) BreakerShadowed(policy string) { m.shadowed.WithLabelValues(policy).Inc() }
