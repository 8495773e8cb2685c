package weigh

import "math"

// MinRecords is how many requests must have told their time to the first token before it says something.
const MinRecords = 3

// near is where a latency factor has arrived, as a logarithm.
const near = 0.002

// feedback is the latency factor of an endpoint, as a logarithm: half and double are equally far from 1.
//
// The factor is one part of a control loop: less weight, less load, less latency, more weight. It cannot wind up, because it is computed anew
// from the latency of now, and it is bounded. What makes such a loop swing is delay, and smoothing is delay: the
// time to the first token comes smoothed, so the factor is smoothed as little as noise allows.
type feedback struct {
	value float64
	held  float64 // when the latency was last known
}

// feedBack is the latency factor of an endpoint now: (median / own), within the policy's bounds, smoothed.
func (c *computation) feedBack(in *Input, e *entry) float64 {
	p, f := c.p, &e.latency
	if p.LatencyMax <= 0 || p.LatencyMin <= 0 || p.LatencyMin == 1 && p.LatencyMax == 1 {
		*f = feedback{}
		return 1
	}
	if c.timely(in) && c.medianTTFT > 0 {
		ratio := c.medianTTFT / in.TTFT.Seconds()
		target := math.Log(min(max(ratio, p.LatencyMin), p.LatencyMax))
		if c.running {
			f.follow(target, p.Smoothing, c.elapsed)
		} else {
			f.value = target
		}
		f.held = f.value
	} else {
		// Nobody knows: towards 1, and never above it.
		fading := 1.0
		if in.TTFT > 0 && in.TTFTCount >= MinRecords {
			fading = p.fading(int64(in.TTFTAt.Sub(c.next.epoch)), c.now)
		}
		f.value = math.Log(1 - (1-math.Exp(min(f.held, 0)))*(1-fading))
	}
	v := math.Exp(f.value)
	if math.Abs(v-1) < minLatency {
		return 1
	}
	return min(max(v, p.LatencyMin), p.LatencyMax)
}

// follow goes towards target, for the time that has passed.
func (f *feedback) follow(target, smoothing float64, elapsed int64) {
	if elapsed <= 0 {
		return
	}
	if math.Abs(target-f.value) < near {
		f.value = target
		return
	}
	f.value += (target - f.value) * (1 - math.Pow(max(0, 1-smoothing), float64(elapsed)/float64(StepUnit)))
}
