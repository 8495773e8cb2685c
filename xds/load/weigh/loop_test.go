package weigh_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/weir-dev/weir/xds/load/weigh"
)

// loop is a pool whose latency answers to the weights: each node a fluid M/M/1 queue, with requests shared out by the weights that Envoy
// has, which are published as Worth says and arrive late, and times to the first token that are measured late and smoothed.
type loop struct {
	policy weigh.Policy
	speed  []float64 // requests a second each node can do
	load   float64   // requests a second
	smooth float64   // of each record in the measured time

	now     time.Time
	state   *weigh.State
	queue   []float64
	past    [][]float64 // times to the first token, by steps
	ttft    []float64
	served  []float64
	last    []time.Time
	active  []weigh.Result // Envoy's
	newest  []weigh.Result
	arrives time.Time

	requests, waited float64
}

const (
	loopStep  = 10 * time.Millisecond
	loopTick  = 250 * time.Millisecond
	loopDelay = 100 * time.Millisecond // from weights to requests that follow them
)

func newLoop(p weigh.Policy, load float64, smooth float64, speed ...float64) *loop {
	n := len(speed)
	l := &loop{
		policy: p, speed: speed, load: load, smooth: smooth, now: start,
		queue: make([]float64, n), ttft: make([]float64, n), served: make([]float64, n), last: make([]time.Time, n),
	}
	return l
}

func (l *loop) run(d time.Duration, each func()) {
	for end := l.now.Add(d); l.now.Before(end); {
		if l.now.Sub(start)%loopTick == 0 {
			l.tick()
			if each != nil {
				each()
			}
		}
		l.step()
	}
}

func (l *loop) tick() {
	in := make([]weigh.Input, len(l.speed))
	for i := range in {
		in[i] = weigh.Input{
			Key: fmt.Sprint(i), Base: 1, ErrorRate: -1,
			TTFT: time.Duration(l.ttft[i] * float64(time.Second)), TTFTCount: uint64(l.served[i]), TTFTAt: l.last[i],
		}
	}
	var out []weigh.Result
	l.state, out = weigh.Compute(&l.policy, l.state, in, l.now)
	if l.newest == nil || weigh.Differ(l.newest, out, 5) != weigh.Same {
		l.newest, l.arrives = out, l.now.Add(loopDelay)
	}
}

func (l *loop) step() {
	if l.active == nil || !l.now.Before(l.arrives) {
		l.active = l.newest
	}
	var sum float64
	for i := range l.active {
		sum += float64(l.active[i].Weight)
	}
	dt := loopStep.Seconds()
	times := make([]float64, len(l.speed))
	for i, mu := range l.speed {
		rate := l.load * float64(l.active[i].Weight) / sum
		done := mu * l.queue[i] / (1 + l.queue[i])
		times[i] = (1 + l.queue[i]) / mu
		l.requests += rate * dt
		l.waited += rate * dt * times[i]
		l.queue[i] = max(0, l.queue[i]+(rate-done)*dt)
		// What ends now came a while ago, and took what it took then.
		seen := times[i]
		if back := len(l.past) - int(times[i]/dt); back >= 0 && back < len(l.past) {
			seen = l.past[back][i]
		}
		if done > 0 {
			before := uint64(l.served[i])
			l.served[i] += done * dt
			l.ttft[i] += (1 - math.Pow(1-l.smooth, done*dt)) * (seen - l.ttft[i])
			if before == 0 {
				l.ttft[i] = seen
			}
			if uint64(l.served[i]) > before {
				l.last[i] = l.now
			}
		}
	}
	l.past = append(l.past, times)
	l.now = l.now.Add(loopStep)
}

// swing lets the loop run and gives by what factor a weight went up and down, at worst.
func (l *loop) swing(d time.Duration) float64 {
	low, high := make([]float64, len(l.speed)), make([]float64, len(l.speed))
	l.requests, l.waited = 0, 0
	l.run(d, func() {
		for i := range l.newest {
			w := float64(l.newest[i].Weight)
			if low[i] == 0 || w < low[i] {
				low[i] = w
			}
			high[i] = max(high[i], w)
		}
	})
	worst := 1.0
	for i := range low {
		worst = max(worst, high[i]/low[i])
	}
	return worst
}

func (l *loop) latency() float64 { return l.waited / l.requests }

// TestClosedLoop lets the latency answer to the weights. The weights must come to rest, and the latency must be better than with equal
// weights, or as good where nodes are equal.
func TestClosedLoop(t *testing.T) {
	equal := standard()
	equal.LatencyMin, equal.LatencyMax = 1, 1
	for _, tc := range []struct {
		name  string
		speed []float64
		rest  float64 // the most that weights go on moving
	}{
		{"equal", []float64{10, 10, 10, 10, 10, 10, 10, 10}, 1.01},
		{"two of eight slowed to 0.4", []float64{4, 4, 10, 10, 10, 10, 10, 10}, 1.15},
		{"two, one half as fast", []float64{5, 10}, 1.10},
		// Slower than the least factor makes good for, so that there is no rest to be found: the swing must not grow.
		{"from 1 to 8", []float64{2, 4, 6, 8, 10, 12, 14, 16}, 1.8},
	} {
		var sum float64
		for _, v := range tc.speed {
			sum += v
		}
		for _, smooth := range []float64{0.1, 0.3} {
			for _, used := range []float64{0.5, 0.7, 0.85, 0.93, 0.97} {
				name := fmt.Sprintf("%s, %g %% used, records smoothed by %g", tc.name, used*100, smooth)
				l := newLoop(standard(), used*sum, smooth, tc.speed...)
				l.run(2*time.Minute, nil)
				if got := l.swing(2 * time.Minute); got > tc.rest {
					t.Errorf("%s: weights go up and down by %.2f, want %.2f", name, got, tc.rest)
				}
				without := newLoop(equal, used*sum, smooth, tc.speed...)
				without.run(2*time.Minute, nil)
				without.swing(2 * time.Minute)
				if l.latency() > without.latency()*1.001 {
					t.Errorf("%s: %.3f s, with equal weights %.3f s", name, l.latency(), without.latency())
				}
			}
		}
	}
}

// TestClosedLoopStep slows two nodes down while the loop runs. Their queues have to tell by being slow, which takes as long as they are, so
// that the weights go too far at first; each time less so.
func TestClosedLoopStep(t *testing.T) {
	for _, used := range []float64{0.5, 0.7} {
		l := newLoop(standard(), used*80, 0.3, 10, 10, 10, 10, 10, 10, 10, 10)
		l.run(time.Minute, nil)
		l.speed[0], l.speed[1] = 4, 4
		l.run(20*time.Second, nil)
		for _, most := range []float64{1.9, 1.3, 1.15, 1.1} {
			if got := l.swing(20 * time.Second); got > most {
				t.Errorf("%g %% used: by %v weights go up and down by %.2f, want %.2f", used*100, l.now.Sub(start)-time.Minute, got, most)
			}
		}
		if w := l.newest[0].Weight; w > 700 || w != l.newest[1].Weight {
			t.Errorf("%g %% used: the slow nodes weigh %d and %d", used*100, w, l.newest[1].Weight)
		}
	}
}
