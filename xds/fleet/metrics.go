package fleet

import "github.com/prometheus/client_golang/prometheus"

// serverMetrics are those of a control plane. They have no labels: clients come and go, and Clients tells of each.
type serverMetrics struct {
	pushes, bytes, rejects prometheus.Counter
	acks                   prometheus.Histogram
	signals                prometheus.Counter
	subscribers            prometheus.Gauge
}

func newServerMetrics(reg prometheus.Registerer, clients func() float64) *serverMetrics {
	m := &serverMetrics{
		pushes:  prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_fleet_pushes_total", Help: "Responses that were sent to clients of the control plane."}),
		bytes:   prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_fleet_push_bytes_total", Help: "Bytes that were sent to clients, compressed, signals among them."}),
		rejects: prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_fleet_rejects_total", Help: "Sets of objects that the Envoy of a client refused."}),
		acks: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_fleet_ack_seconds", Help: "Time from sending a set of objects until the Envoy of the client served it.", Buckets: prometheus.ExponentialBuckets(.005, 2, 14),
		}),
		signals:     prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_fleet_signals_sent_total", Help: "Readings of endpoints that were sent to gateways."}),
		subscribers: prometheus.NewGauge(prometheus.GaugeOpts{Name: "weir_fleet_signal_streams", Help: "Gateways that get readings of endpoints."}),
	}
	if reg != nil {
		reg.MustRegister(m.pushes, m.bytes, m.rejects, m.acks, m.signals, m.subscribers, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weir_fleet_clients", Help: "Clients that are connected to the control plane.",
		}, clients))
	}
	return m
}

// registerClient registers the metric of a client.
func registerClient(reg prometheus.Registerer, connected func() bool) {
	if reg == nil {
		return
	}
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "weir_fleet_connected", Help: "1 while the control plane is connected, 0 while it is away.",
	}, func() float64 {
		if connected() {
			return 1
		}
		return 0
	}))
}
