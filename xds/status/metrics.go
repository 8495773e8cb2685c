package status

import "github.com/prometheus/client_golang/prometheus"

// What became of a write.
const (
	resultOK    = "ok"
	resultGone  = "gone"
	resultError = "error"
)

type metrics struct {
	writes *prometheus.CounterVec
	leader prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_status_writes_total", Help: "Statuses that were written to the API server, by result: ok, gone (there is no such object any more), error.",
		}, []string{"result"}),
		leader: prometheus.NewGauge(prometheus.GaugeOpts{Name: "weir_leader", Help: "Whether this process is the one that writes statuses."}),
	}
	for _, result := range []string{resultOK, resultGone, resultError} {
		m.writes.WithLabelValues(result)
	}
	if reg != nil {
		reg.MustRegister(m.writes, m.leader)
	}
	return m
}
