package relay

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	requests *prometheus.CounterVec
	fills    *prometheus.CounterVec
	duration *prometheus.HistogramVec
	running  prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_relay_requests_total", Help: "Requests that the relay has answered, by what came of the cache.",
		}, []string{"cache"}),
		fills: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_relay_fills_total", Help: "Requests that the relay made on behalf of callers.",
		}, []string{"purpose", "outcome"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "weir_relay_duration_seconds", Help: "Time that the relay took for a request, until its last byte.",
			Buckets: prometheus.ExponentialBuckets(50e-6, 4, 12),
		}, []string{"cache"}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_relay_requests_running", Help: "Requests that the relay is answering.",
		}),
	}
	reg.MustRegister(m.requests, m.fills, m.duration, m.running)
	return m
}
