package weigh_test

import (
	"testing"
	"time"

	"github.com/weir-dev/weir/xds/load/signal"
	"github.com/weir-dev/weir/xds/load/weigh"
)

// busyPool has n endpoints that tell everything, a third of them over lines.
func busyPool(n int) (weigh.Policy, []weigh.Input) {
	in := make([]weigh.Input, n)
	all := signal.Set(1<<8 - 1)
	for i := range in {
		in[i] = silent(i)
		in[i].Samples = []signal.Sample{
			{Has: all &^ signal.Set(0).With(signal.GPUUtilization).With(signal.GPUMemory), KVCache: float64(i%97) / 100, QueueDelay: time.Duration(i%31) * 20 * time.Millisecond, Headroom: 1},
			{Has: signal.Set(0).With(signal.GPUUtilization).With(signal.GPUMemory), GPUUtilization: 0.5 + float64(i%50)/100, GPUMemory: 0.9},
		}
		in[i].TTFT, in[i].TTFTCount, in[i].ErrorRate = time.Duration(100+i*7919%200)*time.Millisecond, 100, 0
	}
	return standard(), in
}

func advance(in []weigh.Input, now time.Time) {
	for i := range in {
		in[i].TTFTAt = now
		for k := range in[i].Samples {
			in[i].Samples[k].At = now
		}
	}
}

// BenchmarkCompute is a tick of a pool of 1,000 endpoints, each with new samples of two sources.
func BenchmarkCompute(b *testing.B) {
	policy, in := busyPool(1000)
	var state *weigh.State
	now := start
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(weigh.StepUnit)
		advance(in, now)
		state, _ = weigh.Compute(&policy, state, in, now)
	}
}

// BenchmarkCrossing is what each new sample costs.
func BenchmarkCrossing(b *testing.B) {
	policy, in := busyPool(1000)
	advance(in, start)
	state, _ := weigh.Compute(&policy, nil, in, start)
	s := in[500].Samples[0]
	s.At = start.Add(time.Second)
	b.ReportAllocs()
	for b.Loop() {
		weigh.Crossing(&policy, state, in[500].Key, &s)
	}
}

// TestComputeAllocates little: the results, the state and the reasons, however many endpoints there are.
func TestComputeAllocates(t *testing.T) {
	policy, in := busyPool(500)
	advance(in, start)
	state, _ := weigh.Compute(&policy, nil, in, start)
	now := start
	allocations := testing.AllocsPerRun(20, func() {
		now = now.Add(weigh.StepUnit)
		advance(in, now)
		state, _ = weigh.Compute(&policy, state, in, now)
	})
	if allocations > 10 {
		t.Errorf("%v allocations for 500 endpoints", allocations)
	}
}
