package kubernetes

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"

	"github.com/weir-dev/weir/xds/source"
)

// health knows which lists of the API are being followed. It is safe for concurrent use.
type health struct {
	clock clock.PassiveClock
	log   *slog.Logger

	mu     sync.Mutex
	read   bool             // everything was read once
	down   map[string]error // by the name of a feed: why it does not follow its list
	warned bool             // the log has been told that something is down
	state  source.Health
}

// notRead is the reason before the first reading.
const notRead = "the objects have not been read yet"

func newHealth(c clock.PassiveClock, log *slog.Logger) *health {
	return &health{clock: c, log: log, down: map[string]error{}, state: source.Health{Since: c.Now(), Reason: notRead}}
}

// failed notes that a feed does not follow its list.
func (h *health) failed(feed string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down[feed] = err
	h.update()
}

// works notes that a feed follows its list, or is not wanted any more.
func (h *health) works(feed string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, failed := h.down[feed]; failed {
		delete(h.down, feed)
		h.update()
	}
}

// complete notes that everything was read once.
func (h *health) complete() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.read = true
	h.update()
}

// stopped notes that nothing is followed any more.
func (h *health) stopped() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.read, h.warned = false, false
	clear(h.down)
	h.update()
	h.state.Reason = "the cluster is not watched any more"
}

func (h *health) update() {
	connected := h.read && len(h.down) == 0
	if connected != h.state.Connected {
		h.state.Connected, h.state.Since = connected, h.clock.Now()
	}
	h.state.Reason = h.reason()
	switch {
	case len(h.down) > 0 && !h.warned:
		h.warned = true
		h.log.Warn("the Kubernetes API cannot be followed; what was read last holds", "reason", h.state.Reason)
	case connected && h.warned:
		h.warned = false
		h.log.Info("the Kubernetes API is followed again")
	}
}

func (h *health) reason() string {
	names := slices.Sorted(maps.Keys(h.down))
	switch {
	case len(names) > 1:
		return fmt.Sprintf("%s: %v (and %d more)", names[0], h.down[names[0]], len(names)-1)
	case len(names) == 1:
		return fmt.Sprintf("%s: %v", names[0], h.down[names[0]])
	case !h.read:
		return notRead
	}
	return ""
}

func (h *health) health() source.Health {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state
}

// metrics of a source.
type metrics struct {
	lastChange prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, h *health) (*metrics, error) {
	labels := prometheus.Labels{"source": "kubernetes"}
	m := &metrics{lastChange: prometheus.NewGauge(prometheus.GaugeOpts{Name: "weir_source_last_change_timestamp_seconds",
		Help: "When the objects, or what they point to, changed last.", ConstLabels: labels})}
	if reg == nil {
		return m, nil
	}
	connected := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "weir_source_connected",
		Help: "1 while the source of objects is followed, 0 while what is served may be old.", ConstLabels: labels}, func() float64 {
		if h.health().Connected {
			return 1
		}
		return 0
	})
	for _, c := range []prometheus.Collector{m.lastChange, connected} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register the metrics of the Kubernetes source: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) changed(at time.Time) { m.lastChange.Set(float64(at.UnixMilli()) / 1e3) }
