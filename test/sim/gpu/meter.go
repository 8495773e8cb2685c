package gpu

import (
	"slices"
	"time"

	"github.com/weir-dev/weir/test/sim/gpu/engine"
)

// histogram counts observations as Prometheus does.
type histogram struct {
	bounds []float64 // upper ones, rising; beyond the last is +Inf
	counts []uint64  // not cumulative; one more than bounds
	sum    float64
}

func newHistogram(bounds ...float64) histogram {
	return histogram{bounds: bounds, counts: make([]uint64, len(bounds)+1)}
}

func (h *histogram) observe(v float64) {
	i, _ := slices.BinarySearch(h.bounds, v)
	h.counts[i]++
	h.sum += v
}

func (h *histogram) seconds(d time.Duration) { h.observe(d.Seconds()) }

func (h *histogram) clone() histogram {
	h2 := *h
	h2.counts = slices.Clone(h.counts)
	return h2
}

// meter is what vLLM counts beside the scheduler. Buckets are vLLM's (vllm/v1/metrics/loggers.py).
type meter struct {
	ttft, itl                           histogram // seconds, entered as tokens come
	e2e, queue, inference, prefill, dec histogram // seconds, entered when a request is finished
	prompts, generations, limits        histogram // tokens, likewise

	success map[string]uint64 // by finished_reason
	// hideQueue keeps true times of the queue out, while something else is told.
	hideQueue bool
}

func newMeter(capacity int) meter {
	latency := []float64{0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680}
	var sizes []float64 // 1, 2, 5, 10, ... up to the longest context
	for v := 1; ; v *= 10 {
		for _, m := range []int{1, 2, 5} {
			if m*v <= capacity {
				sizes = append(sizes, float64(m*v))
			}
		}
		if 10*v > capacity {
			break
		}
	}
	return meter{
		ttft: newHistogram(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560),
		itl:  newHistogram(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80),
		e2e:  newHistogram(latency...), queue: newHistogram(latency...), inference: newHistogram(latency...),
		prefill: newHistogram(latency...), dec: newHistogram(latency...),
		prompts: newHistogram(sizes...), generations: newHistogram(sizes...), limits: newHistogram(sizes...),
		success: map[string]uint64{"stop": 0, "length": 0, "abort": 0, "error": 0},
	}
}

func (m *meter) firstToken(d time.Duration) { m.ttft.seconds(d) }
func (m *meter) nextToken(d time.Duration)  { m.itl.seconds(d) }

// ended enters a request. vLLM enters even the time in the queue only now, so that a queue which grows shows late.
func (m *meter) ended(c *call, e engine.Event) {
	switch e.Kind {
	case engine.Failed:
		m.success["error"]++
		return
	case engine.Canceled:
		m.success["abort"]++
		return
	}
	reason := "stop"
	if c.cut {
		reason = "length"
	}
	m.success[reason]++
	m.e2e.seconds(e.At - c.arrived)
	if !m.hideQueue {
		m.queue.seconds(c.started - c.arrived)
	}
	m.inference.seconds(c.last - c.started)
	m.prefill.seconds(c.first - c.started)
	m.dec.seconds(c.last - c.first)
	m.prompts.observe(float64(c.prompt))
	m.generations.observe(float64(c.generated))
	m.limits.observe(float64(c.limit))
}

// clone shares nothing with m.
func (m *meter) clone() meter {
	c := *m
	for _, h := range []*histogram{&c.ttft, &c.itl, &c.e2e, &c.queue, &c.inference, &c.prefill, &c.dec, &c.prompts, &c.generations, &c.limits} {
		*h = h.clone()
	}
	c.success = make(map[string]uint64, len(m.success))
	for k, v := range m.success {
		c.success[k] = v
	}
	return c
}
