package lane

import "github.com/prometheus/client_golang/prometheus"

// reason is why a lane has ended.
type reason string

const (
	reasonIdle    reason = "idle"    // nobody used it
	reasonExpired reason = "expired" // its time was over
	reasonVersion reason = "version" // another version went live
	reasonLimit   reason = "limit"   // a limit would have refused somebody
	reasonFailure reason = "failure" // an answer in it was bad
	reasonEnvoy   reason = "envoy"   // Envoy died
	reasonClose   reason = ""        // Weir ends; not counted
)

type metrics struct {
	requests, void prometheus.Counter
	ended          map[reason]prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, live, ahead func() int) *metrics {
	ended := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_lane_revocations_total", Help: "Lanes that have ended.",
	}, []string{"reason"})
	m := &metrics{
		requests: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_lane_requests_total", Help: "Requests that Envoy let through without asking, because Weir had decided in advance.",
		}),
		void: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_lane_void_total", Help: "Requests that came to a lane while it ended, so that Envoy asked after all, or died.",
		}),
		ended: map[reason]prometheus.Counter{},
	}
	for _, r := range []reason{reasonIdle, reasonExpired, reasonVersion, reasonLimit, reasonFailure, reasonEnvoy} {
		m.ended[r] = ended.WithLabelValues(string(r))
	}
	if reg == nil {
		return m
	}
	reg.MustRegister(m.requests, m.void, ended,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weir_lanes", Help: "Lanes by which Envoy may let requests through without asking.",
		}, func() float64 { return float64(live()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weir_lane_ahead", Help: "Requests that limits were taken for ahead of their coming, and that have not come yet.",
		}, func() float64 { return float64(ahead()) }),
	)
	return m
}

func (m *metrics) end(r reason) {
	if c := m.ended[r]; c != nil {
		c.Inc()
	}
}
