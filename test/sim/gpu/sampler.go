package gpu

import (
	"time"

	"github.com/weir-dev/weir/test/sim/gpu/engine"
)

// sampler looks at the GPUs at every multiple of an interval, as DCGM's exporter does.
type sampler struct {
	interval time.Duration
	next     time.Duration // when it looks next
	before   engine.Stats
	util     float64 // in the last whole interval, 0..1
}

// upto brings the engine to every moment before now at which the sampler looks.
func (s *sampler) upto(e *engine.Engine, now time.Duration) {
	if s.next == 0 {
		s.next = s.interval
	}
	// After long idleness, only the last interval is of interest.
	if behind := (now - s.next) / s.interval; behind > 1 {
		s.next += (behind - 1) * s.interval
		e.Advance(s.next)
		s.before = e.Stats()
		s.next += s.interval
	}
	for ; s.next <= now; s.next += s.interval {
		e.Advance(s.next)
		after := e.Stats()
		s.util = engine.Utilization(s.before, after)
		s.before = after
	}
}
