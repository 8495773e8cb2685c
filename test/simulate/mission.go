package simulate

import (
	"slices"
	"time"

	"github.com/weir-dev/weir/xds/load/signal"
)

// mission is the plain form of the rules: each second every weight is its base weight, times 0.7 if the last reading of the GPU
// is above 85 %, times 0.5 if that of the queue delay is above 500 ms; two failed checks make it 0. Requests follow the weights
// by smooth weighted round robin, as Envoy's ROUND_ROBIN does. There is no hysteresis, no smoothing and no feedback of latency, for
// which the rules have no numbers.
type mission struct {
	health
	base    []float64
	weight  []float64
	current []float64
	gpu     []float64
	queue   []time.Duration
	changed int
}

func newMission(e *environment) *mission {
	n := len(e.base)
	return &mission{
		health: newHealth(n), base: e.base, weight: slices.Clone(e.base), current: make([]float64, n),
		gpu: make([]float64, n), queue: make([]time.Duration, n),
	}
}

func (b *mission) interval() time.Duration { return time.Second }

func (b *mission) read(r reading, _ time.Duration) {
	if r.sample.Has.Has(signal.GPUUtilization) {
		b.gpu[r.server] = r.sample.GPUUtilization
	}
	if r.sample.Has.Has(signal.QueueDelay) {
		b.queue[r.server] = r.sample.QueueDelay
	}
}

func (b *mission) tick(time.Duration) {
	for i, base := range b.base {
		w := base
		if b.gpu[i] > 0.85 {
			w *= 0.7
		}
		if b.queue[i] > 500*time.Millisecond {
			w *= 0.5
		}
		if b.out[i] {
			w = 0
		}
		if w != b.weight[i] {
			b.weight[i] = w
			b.changed++
		}
	}
}

// pick adds to every server its weight, takes the one that has most, and takes from it the sum of all weights.
func (b *mission) pick(c *call, _ time.Duration) int {
	usable := b.usable(c)
	best, sum := none, 0.0
	for i := range b.weight {
		if !usable(i) {
			continue
		}
		w := b.weight[i]
		if b.out[i] {
			w = b.base[i] // all are out
		}
		b.current[i] += w
		sum += w
		if best == none || b.current[i] > b.current[best] {
			best = i
		}
	}
	b.current[best] -= sum
	return best
}

func (b *mission) ended(*call, outcome, time.Duration) {}

func (b *mission) weights() []float64 { return relative(b.weight, b.base) }
func (b *mission) changes() int       { return b.changed }

func relative(weight, base []float64) []float64 {
	out := make([]float64, len(weight))
	for i := range out {
		out[i] = weight[i] / base[i]
	}
	return out
}
