package weigh_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/xds/load/signal"
	"github.com/weir-dev/weir/xds/load/weigh"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// pool is a pool under test, and its clock.
type pool struct {
	t      testing.TB
	policy weigh.Policy
	state  *weigh.State
	now    time.Time
	in     []weigh.Input
	out    []weigh.Result
}

// newPool has n endpoints that say nothing, and was computed once.
func newPool(t testing.TB, n int, change func(*weigh.Policy)) *pool {
	p := &pool{t: t, policy: standard(), now: start}
	if change != nil {
		change(&p.policy)
	}
	for i := range n {
		p.in = append(p.in, silent(i))
	}
	p.compute()
	return p
}

func silent(i int) weigh.Input {
	return weigh.Input{Key: fmt.Sprintf("10.0.0.%d:8000", i+1), Base: 1, ErrorRate: -1}
}

func (p *pool) compute() { p.state, p.out = weigh.Compute(&p.policy, p.state, p.in, p.now) }

// wait lets d pass in ticks, the last of which may be shorter.
func (p *pool) wait(d time.Duration) {
	for d > 0 {
		tick := min(d, weigh.StepUnit)
		d -= tick
		p.now = p.now.Add(tick)
		p.compute()
	}
}

// tell has endpoint i tell a sample at each of the next ticks.
func (p *pool) tell(i int, samples ...signal.Sample) {
	for _, s := range samples {
		p.now = p.now.Add(weigh.StepUnit)
		s.At = p.now
		p.in[i].Samples = []signal.Sample{s}
		p.compute()
	}
}

func (p *pool) ttft(i int, d time.Duration) {
	p.in[i].TTFT, p.in[i].TTFTAt = d, p.now
	p.in[i].TTFTCount += 3
}

func (p *pool) want(i int, weight uint32, explained string) {
	p.t.Helper()
	if got := p.out[i].Weight; got != weight {
		p.t.Errorf("%s after %v: weight %d, want %d (%s)", p.out[i].Key, p.now.Sub(start), got, weight, p.out[i].Explain())
	}
	if got := p.out[i].Explain(); explained != "" && got != explained {
		p.t.Errorf("%s after %v: explained as\n%s\nwant\n%s", p.out[i].Key, p.now.Sub(start), got, explained)
	}
}

func gpu(percents ...float64) (s []signal.Sample) {
	for _, v := range percents {
		s = append(s, signal.Sample{Has: signal.Set(0).With(signal.GPUUtilization), GPUUtilization: v / 100})
	}
	return s
}

func gpuMemory(percents ...float64) (s []signal.Sample) {
	for _, v := range percents {
		s = append(s, signal.Sample{Has: signal.Set(0).With(signal.GPUMemory), GPUMemory: v / 100})
	}
	return s
}

func kv(percents ...float64) (s []signal.Sample) {
	for _, v := range percents {
		s = append(s, signal.Sample{Has: signal.Set(0).With(signal.KVCache), KVCache: v / 100})
	}
	return s
}

func queue(millis ...int) (s []signal.Sample) {
	for _, v := range millis {
		s = append(s, signal.Sample{Has: signal.Set(0).With(signal.QueueDelay), QueueDelay: time.Duration(v) * time.Millisecond})
	}
	return s
}

func headroom(percents ...float64) (s []signal.Sample) {
	for _, v := range percents {
		s = append(s, signal.Sample{Has: signal.Set(0).With(signal.Headroom), Headroom: v / 100})
	}
	return s
}

// TestRules has every rule alone: what one endpoint of a pool tells, and its weight after each. The others keep theirs.
func TestRules(t *testing.T) {
	memory := func(p *weigh.Policy) {
		p.GPUMemory = weigh.Rule{Enter: 0.97, Leave: 0.95, Factor: 0.6, Samples: 2}
	}
	for _, tc := range []struct {
		name    string
		policy  func(*weigh.Policy)
		samples []signal.Sample
		weights []uint32
		last    string
	}{
		{"gpu above 85", nil, gpu(60, 91, 91), []uint32{1000, 1000, 700}, "GPU 91 % > 85 % x0.7 -> 700"},
		{"gpu of 85 is not above", nil, gpu(85, 85, 85, 85), []uint32{1000, 1000, 1000, 1000}, "no rule applies -> 1000"},
		{"gpu above from the first sample", nil, gpu(86, 86), []uint32{1000, 700}, "GPU 86 % > 85 % x0.7 -> 700"},
		{"one gpu sample is not enough", nil, gpu(60, 99, 60, 99, 60), []uint32{1000, 1000, 1000, 1000, 1000}, ""},
		{"gpu keeps to it until below 75", nil, gpu(91, 91, 80, 76, 75, 75, 75, 74, 74), []uint32{1000, 700, 700, 700, 700, 700, 700, 700, 1000}, "no rule applies -> 1000"},
		{"one gpu sample does not end it", nil, gpu(91, 91, 70, 91, 70, 91), []uint32{1000, 700, 700, 700, 700, 700}, ""},
		{"gpu held between the lines", nil, gpu(91, 91, 80, 80, 80, 80, 80, 80, 80, 80, 80, 80, 80, 80, 80), []uint32{1000, 700, 700, 700, 700, 700, 700, 700, 700, 700, 700, 700, 700, 700, 700}, "GPU 80.1 %, not yet < 75 % x0.7 -> 700"},
		{"gpu that swings about a level above the line", nil, gpu(95, 84, 95, 84, 95), []uint32{1000, 1000, 700, 700, 700}, ""},
		{"gpu verbatim", func(p *weigh.Policy) { p.GPUUtilization.Samples, p.GPUUtilization.Leave, p.Smoothing = 1, 0.85, 1 }, gpu(86, 84, 86, 85), []uint32{700, 1000, 700, 700}, "GPU 85 %, not yet < 85 % x0.7 -> 700"},
		{"gpu off", func(p *weigh.Policy) { p.GPUUtilization = weigh.Rule{} }, gpu(99, 99, 99), []uint32{1000, 1000, 1000}, "no rule applies -> 1000"},
		{"gpu memory has no rule by itself", nil, gpuMemory(99, 99, 99), []uint32{1000, 1000, 1000}, ""},
		{"gpu memory", memory, gpuMemory(98, 98), []uint32{1000, 600}, "GPU memory 98 % > 97 % x0.6 -> 600"},
		{"kv cache", nil, kv(96, 96, 90, 84, 84), []uint32{1000, 500, 500, 500, 1000}, ""},
		{"kv cache text", nil, kv(96.5, 96.5), []uint32{1000, 500}, "KV cache 96.5 % > 95 % x0.5 -> 500"},
		{"queue above 500 ms", nil, queue(0, 620, 620), []uint32{1000, 1000, 500}, "queue 620 ms > 500 ms x0.5 -> 500"},
		{"queue of 500 ms is not above", nil, queue(500, 500, 500), []uint32{1000, 1000, 1000}, ""},
		{"queue until below 300 ms", nil, queue(620, 1620, 310, 300, 300, 299, 299), []uint32{1000, 500, 500, 500, 500, 500, 1000}, ""},
		{"queue of seconds", nil, queue(1620, 2500), []uint32{1000, 500}, "queue 2.5 s > 500 ms x0.5 -> 500"},
		{"headroom below 10, until above 20", nil, headroom(50, 10, 9, 15, 20, 21), []uint32{1000, 1000, 500, 500, 500, 1000}, ""},
		{"headroom text", nil, headroom(4), []uint32{500}, "rate limit headroom 4 % < 10 % x0.5 -> 500"},
		{"headroom held", func(p *weigh.Policy) { p.Smoothing = 1 }, headroom(4, 15), []uint32{500, 500}, "rate limit headroom 15 %, not yet > 20 % x0.5 -> 500"},
		{"what is no number says nothing", nil, append(gpu(math.NaN(), math.Inf(1), -1), queue(-5)...), []uint32{1000, 1000, 1000, 1000}, "no rule applies -> 1000"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPool(t, 3, tc.policy)
			for k, s := range tc.samples {
				p.tell(1, s)
				p.want(1, tc.weights[k], "")
				p.want(0, weigh.Scale, "no rule applies -> 1000")
				p.want(2, weigh.Scale, "no rule applies -> 1000")
			}
			if tc.last != "" {
				p.want(1, tc.weights[len(tc.weights)-1], tc.last)
			}
		})
	}
}

// TestProduct is the example that the mission gives of a weight that explains itself.
func TestProduct(t *testing.T) {
	p := newPool(t, 3, func(p *weigh.Policy) { p.MaxStep = 1 })
	for range 40 {
		p.ttft(0, time.Second)
		p.ttft(1, time.Second*100/82)
		p.ttft(2, time.Second)
		p.tell(1, signal.Sample{
			Has:            signal.Set(0).With(signal.GPUUtilization).With(signal.QueueDelay),
			GPUUtilization: 0.91, QueueDelay: 620 * time.Millisecond,
		})
	}
	p.want(1, 287, "GPU 91 % > 85 % x0.7; queue 620 ms > 500 ms x0.5; latency x0.82 -> 287")
	p.in[1].Base = 3
	p.compute()
	p.want(1, 861, "base 3; GPU 91 % > 85 % x0.7; queue 620 ms > 500 ms x0.5; latency x0.82 -> 861")
}

// TestSampleCountsOnce computes many times by one sample.
func TestSampleCountsOnce(t *testing.T) {
	p := newPool(t, 1, nil)
	p.tell(0, gpu(91)...)
	p.wait(2 * time.Second)
	p.want(0, 1000, "no rule applies -> 1000")
	p.tell(0, gpu(91)...)
	p.want(0, 700, "")
}

// TestSeveralSamples gives the samples since the last tick at once, from two sources and in no order.
func TestSeveralSamples(t *testing.T) {
	p := newPool(t, 1, nil)
	s := gpu(60, 91, 92)
	for i := range s {
		s[i].At = p.now.Add(time.Duration(i+1) * 40 * time.Millisecond)
	}
	p.now = p.now.Add(200 * time.Millisecond)
	p.in[0].Samples = []signal.Sample{s[1], s[0], s[2]}
	p.compute()
	p.want(0, 700, "GPU 92 % > 85 % x0.7 -> 700")
}

func TestGPUAbovePool(t *testing.T) {
	p := newPool(t, 4, nil)
	level := func(percents ...float64) {
		p.now = p.now.Add(weigh.StepUnit)
		for i, v := range percents {
			s := gpu(v)
			s[0].At = p.now
			p.in[i].Samples = s
		}
		p.compute()
	}
	for range 2 {
		level(87, 87, 86, 98)
	}
	p.want(0, 700, "GPU 87 % > 85 % x0.7 -> 700")
	p.want(3, 595, "GPU 98 % > 85 % x0.7; GPU 98 % above the pool's 87 % x0.85 -> 595")
	// It holds until it is less than half as far above.
	for range 20 {
		level(87, 87, 86, 93)
	}
	p.want(3, 595, "")
	for range 20 {
		level(87, 87, 86, 91)
	}
	p.want(3, 700, "")
	// Where the rule tells endpoints apart it is enough.
	for range 20 {
		level(60, 60, 60, 98)
	}
	p.want(3, 700, "GPU 98 % > 85 % x0.7 -> 700")
}

func TestHealth(t *testing.T) {
	p := newPool(t, 2, nil)
	checks := func(failed, passed int) {
		p.in[1].Checked, p.in[1].Failed, p.in[1].Passed = true, failed, passed
		p.now = p.now.Add(weigh.StepUnit)
		p.compute()
	}
	checks(0, 0)
	p.want(1, 1000, "no rule applies -> 1000")
	checks(1, 0)
	p.want(1, 1000, "no rule applies -> 1000")
	checks(2, 0)
	p.want(1, 0, "2 health checks failed in a row -> 0")
	if r := p.out[1]; r.Status != weigh.Isolated || r.Causes != weigh.CauseHealth || r.Factor != 0 {
		t.Errorf("isolated endpoint is %+v", r)
	}
	p.want(0, 1000, "")
	checks(0, 1)
	p.want(1, 0, "health checks failed, 1 of 2 passed since -> 0")
	checks(0, 0) // the checks began anew
	p.want(1, 0, "health checks failed, 0 of 2 passed since -> 0")
	checks(0, 2)
	p.want(1, 100, "warm-up 0 ms of 20 s x0.1 -> 100")
	if r := p.out[1]; r.Status != weigh.WarmingUp || r.Causes != 0 || math.Abs(r.Factor-0.1) > 1e-9 {
		t.Errorf("endpoint that came back is %+v", r)
	}
	p.wait(10 * time.Second)
	p.want(1, 550, "warm-up 10 s of 20 s x0.55 -> 550")
	p.wait(10 * time.Second)
	p.want(1, 1000, "no rule applies -> 1000")
	if p.out[1].Status != weigh.Active {
		t.Error("warm-up does not end")
	}
	// Without a health check nobody is isolated by one.
	checks(2, 0)
	p.want(1, 0, "")
	p.in[1].Checked = false
	p.compute()
	p.want(1, 100, "")
}

func TestWarmUp(t *testing.T) {
	t.Run("not when the pool starts", func(t *testing.T) {
		p := newPool(t, 0, nil)
		p.wait(time.Second)
		p.in = []weigh.Input{silent(0), silent(1)}
		p.wait(weigh.StepUnit)
		p.want(0, 1000, "")
		p.want(1, 1000, "")
	})
	t.Run("new in a pool that runs", func(t *testing.T) {
		p := newPool(t, 1, nil)
		p.in = append(p.in, silent(1))
		p.wait(weigh.StepUnit)
		p.want(0, 1000, "")
		p.want(1, 100, "warm-up 0 ms of 20 s x0.1 -> 100")
	})
	t.Run("failing from the start", func(t *testing.T) {
		p := newPool(t, 0, nil)
		p.in = []weigh.Input{silent(0), silent(1)}
		p.in[1].Checked, p.in[1].Failed = true, 2
		p.compute()
		p.want(1, 0, "")
		p.in[1].Failed, p.in[1].Passed = 0, 2
		p.wait(weigh.StepUnit)
		p.want(1, 100, "")
	})
	t.Run("monotone", func(t *testing.T) {
		p := newPool(t, 1, nil)
		p.in = append(p.in, silent(1))
		last := uint32(0)
		for range 84 {
			p.wait(weigh.StepUnit)
			if w := p.out[1].Weight; w < last || last > 0 && w > last+12 {
				t.Fatalf("from %d to %d in a tick", last, w)
			}
			last = p.out[1].Weight
		}
		p.want(1, 1000, "no rule applies -> 1000")
	})
	t.Run("times the rules", func(t *testing.T) {
		p := newPool(t, 1, nil)
		p.in = append(p.in, silent(1))
		p.wait(10 * time.Second)
		p.tell(1, queue(700, 700)...)
		p.want(1, 281, "queue 700 ms > 500 ms x0.5; warm-up 10.2 s of 20 s x0.56 -> 281")
		if f := p.out[1].Factor; math.Abs(f-0.281) > 0.001 {
			t.Errorf("the picker's factor is %v", f)
		}
	})
	t.Run("off", func(t *testing.T) {
		p := newPool(t, 1, func(p *weigh.Policy) { p.WarmUp = 0 })
		p.in = append(p.in, silent(1))
		p.compute()
		p.want(1, 1000, "no rule applies -> 1000")
	})
}

func TestBreaker(t *testing.T) {
	p := newPool(t, 2, nil)
	state := func(s breaker.State) {
		p.in[1].Breaker = s
		p.now = p.now.Add(weigh.StepUnit)
		p.compute()
	}
	p.in[1].ErrorRate = 1
	state(breaker.Open)
	p.want(1, 0, "circuit breaker open -> 0")
	if r := p.out[1]; r.Causes != weigh.CauseBreaker || r.Status != weigh.Isolated || r.Factor != 1 {
		t.Errorf("the picker, which sends the tries, gets %+v", r)
	}
	state(breaker.HalfOpen)
	p.want(1, 0, "circuit breaker half open -> 0")
	state(breaker.Open)
	p.want(1, 0, "circuit breaker open -> 0")
	state(breaker.HalfOpen)
	p.in[1].ErrorRate = -1
	state(breaker.Closed)
	p.want(1, 100, "warm-up 0 ms of 20 s x0.1 -> 100")

	// Where Envoy picks, it is Envoy that tries.
	p.policy.TryHalfOpen = true
	state(breaker.Open)
	p.want(1, 0, "circuit breaker open -> 0")
	state(breaker.HalfOpen)
	p.want(1, 50, "circuit breaker half open x0.05 -> 50")
	p.in[1].Checked, p.in[1].Failed = true, 3
	state(breaker.HalfOpen)
	p.want(1, 0, "3 health checks failed in a row; circuit breaker half open -> 0")
	p.in[1].Failed, p.in[1].Passed = 0, 2
	state(breaker.Closed)
	p.want(1, 100, "")
}

func TestBlocked(t *testing.T) {
	p := newPool(t, 2, nil)
	p.in[0].BlockedUntil = p.now.Add(12 * time.Second)
	p.compute()
	p.want(0, 0, "answered 429, to be tried again in 12 s -> 0")
	if r := p.out[0]; r.Causes != weigh.CauseBlocked || r.Factor != 0 {
		t.Errorf("blocked endpoint is %+v", r)
	}
	p.wait(12*time.Second - weigh.StepUnit)
	p.want(0, 0, "answered 429, to be tried again in 250 ms -> 0")
	p.wait(weigh.StepUnit)
	p.want(0, 100, "warm-up 0 ms of 20 s x0.1 -> 100")
}

func TestErrors(t *testing.T) {
	p := newPool(t, 2, nil)
	p.in[0].ErrorRate = 0.2
	p.wait(weigh.StepUnit)
	p.want(0, 800, "errors 20 % x0.8 -> 800")
	if f := p.out[0].Factor; f != 0.8 {
		t.Errorf("a node that fails fast looks idle to the picker: factor %v", f)
	}
	p.in[0].ErrorRate = 1
	p.wait(time.Second)
	p.want(0, 50, "errors 100 % x0.001; floor 5 % x50 -> 50")
	p.in[0].ErrorRate = 0.004
	p.wait(time.Second)
	p.want(0, 1000, "no rule applies -> 1000")
}

func TestPrice(t *testing.T) {
	p := newPool(t, 1, func(p *weigh.Policy) { p.PreferCheap = 1 })
	p.in[0].PriceRatio = 0.4
	p.wait(time.Second)
	p.want(0, 400, "price 2.5 times the cheapest x0.4 -> 400")
	p.policy.PreferCheap = 2
	p.wait(time.Second)
	p.want(0, 160, "")
	p.policy.PreferCheap = 0
	p.wait(time.Second)
	p.want(0, 1000, "")
	if p.out[0].Factor != 1 {
		t.Error("the picker's factor has the price in it")
	}
}

func TestPeers(t *testing.T) {
	p := newPool(t, 1, func(p *weigh.Policy) { p.AcrossBackends, p.LatencyMin, p.LatencyMax = true, 0.25, 1.5 })
	for _, c := range []struct {
		ratio float64
		want  uint32
		why   string
	}{
		{0.5, 500, "time to the first token 2 times that of the rule's Backends x0.5 -> 500"},
		{0.01, 250, ""}, {3, 1500, ""}, {1, 1000, "no rule applies -> 1000"}, {0, 1000, "no rule applies -> 1000"},
	} {
		p.in[0].PeerRatio = c.ratio
		p.wait(time.Second)
		p.want(0, c.want, c.why)
	}
	p.policy.AcrossBackends = false
	p.in[0].PeerRatio = 0.5
	p.wait(time.Second)
	p.want(0, 1000, "")
	if p.out[0].Factor != 1 {
		t.Error("the picker's factor has the latency in it")
	}
}

func TestLatency(t *testing.T) {
	// settled is the weights after the latencies, in milliseconds, have been so for long.
	settled := func(p *pool, millis ...int) {
		for range 60 {
			for i, v := range millis {
				p.ttft(i, time.Duration(v)*time.Millisecond)
			}
			p.wait(weigh.StepUnit)
		}
	}
	p := newPool(t, 5, nil)
	settled(p, 200, 200, 200, 400, 100)
	p.want(0, 1000, "no rule applies -> 1000")
	p.want(3, 500, "latency x0.5 -> 500")
	p.want(4, 1500, "latency x1.5 -> 1500")
	if p.out[3].Factor != 1 || p.out[4].Factor != 1 {
		t.Error("the picker's factor has the latency in it")
	}
	settled(p, 200, 200, 200, 4000, 200)
	p.want(3, 250, "latency x0.25 -> 250")

	p = newPool(t, 2, nil)
	settled(p, 100, 300)
	p.want(0, 1500, "")
	p.want(1, 667, "")

	// Two records say nothing, and the pool is itself if it is one.
	p = newPool(t, 3, nil)
	p.in[0].TTFT, p.in[0].TTFTCount, p.in[0].TTFTAt = 9*time.Second, 2, p.now
	p.ttft(1, time.Second)
	p.wait(2 * time.Second)
	p.want(0, 1000, "no rule applies -> 1000")
	p.want(1, 1000, "no rule applies -> 1000")

	p = newPool(t, 3, func(p *weigh.Policy) { p.LatencyMin, p.LatencyMax = 1, 1 })
	settled(p, 100, 300, 900)
	p.want(2, 1000, "no rule applies -> 1000")
}

// TestLatencyGoesStale has endpoints that get no requests any more: what was slow is tried again, what was fast is not preferred.
func TestLatencyGoesStale(t *testing.T) {
	p := newPool(t, 3, nil)
	for range 40 {
		p.ttft(0, 100*time.Millisecond)
		p.ttft(1, 200*time.Millisecond)
		p.ttft(2, 800*time.Millisecond)
		p.wait(weigh.StepUnit)
	}
	p.want(0, 1500, "")
	p.want(2, 250, "")
	p.wait(4750 * time.Millisecond)
	p.want(0, 1500, "")
	p.want(2, 250, "")
	p.wait(15 * time.Second)
	p.want(0, 1000, "")
	p.want(2, 625, "latency x0.63 -> 625")
	p.wait(15 * time.Second)
	p.want(2, 1000, "no rule applies -> 1000")
}

func TestStale(t *testing.T) {
	p := newPool(t, 2, nil)
	p.tell(0, gpu(91, 91)...)
	p.wait(5 * time.Second)
	p.want(0, 700, "GPU 91 % > 85 % x0.7 -> 700")
	p.wait(15 * time.Second)
	p.want(0, 850, "GPU 91 % > 85 % x0.7; metrics 20 s old x1.21 -> 850")
	if f := p.out[0].Factor; math.Abs(f-0.85) > 1e-9 {
		t.Errorf("the picker's factor is %v", f)
	}
	// One sample that is still bad is enough to be believed again, one that is better is not.
	p.tell(0, gpu(91)...)
	p.want(0, 700, "")
	p.wait(20 * time.Second)
	p.tell(0, gpu(60)...)
	p.want(0, 700, "")
	p.tell(0, gpu(60)...)
	p.want(0, 1000, "")
	// What has faded is forgotten.
	p.tell(0, gpu(91, 91)...)
	p.wait(35 * time.Second)
	p.want(0, 1000, "no rule applies -> 1000")
	p.tell(0, gpu(91)...)
	p.want(0, 1000, "no rule applies -> 1000")
	p.tell(0, gpu(91)...)
	p.want(0, 700, "")

	// Samples that are so far apart are not in a row.
	p = newPool(t, 1, nil)
	p.tell(0, gpu(91)...)
	p.wait(6 * time.Second)
	p.tell(0, gpu(91)...)
	p.want(0, 1000, "")
	p.tell(0, gpu(91)...)
	p.want(0, 700, "")
}

// TestMeanArrives has a value that stays: its mean gets there, and does not come closer for ever.
func TestMeanArrives(t *testing.T) {
	p := newPool(t, 1, nil)
	p.tell(0, gpu(91, 91)...)
	for range 20 {
		p.tell(0, gpu(80)...)
	}
	p.want(0, 700, "GPU 80 %, not yet < 75 % x0.7 -> 700")
	if got := p.out[0].Reasons[0].Value; got != 0.80 {
		t.Errorf("mean %v", got)
	}
}

// TestStaleDoesNotLift has a fast endpoint whose rule fades: its weight may not pass the base for the reason that metrics are missing.
func TestStaleDoesNotLift(t *testing.T) {
	p := newPool(t, 3, nil)
	fast := func(d time.Duration) {
		for ; d > 0; d -= weigh.StepUnit {
			p.ttft(0, 100*time.Millisecond)
			p.ttft(1, 200*time.Millisecond)
			p.ttft(2, 200*time.Millisecond)
			p.wait(weigh.StepUnit)
		}
	}
	p.tell(0, queue(900, 900)...)
	fast(4 * time.Second)
	p.want(0, 750, "queue 900 ms > 500 ms x0.5; latency x1.5 -> 750")
	for range 120 {
		fast(weigh.StepUnit)
		if p.out[0].Weight > 1000 {
			t.Fatalf("%s", p.out[0].Explain())
		}
	}
	p.want(0, 1000, "queue 900 ms > 500 ms x0.5; metrics 34 s old x1.33; latency x1.5 -> 1000")
}

func TestKVCacheForThePicker(t *testing.T) {
	p := newPool(t, 1, nil)
	if p.out[0].KVCache >= 0 {
		t.Errorf("KV cache that nobody told: %v", p.out[0].KVCache)
	}
	p.tell(0, kv(50, 99)...)
	if p.out[0].KVCache != 0.99 {
		t.Errorf("KV cache %v, want the newest", p.out[0].KVCache)
	}
	p.wait(6 * time.Second)
	if p.out[0].KVCache >= 0 {
		t.Errorf("KV cache of 6 s ago: %v", p.out[0].KVCache)
	}
}

func TestFloorAndStep(t *testing.T) {
	everything := signal.Sample{
		Has:            signal.Set(0).With(signal.GPUUtilization).With(signal.QueueDelay).With(signal.KVCache).With(signal.Headroom),
		GPUUtilization: 1, QueueDelay: 9 * time.Second, KVCache: 1, Headroom: 0,
	}
	p := newPool(t, 2, nil)
	p.in[0].ErrorRate = 0.9
	p.tell(0, everything)
	p.want(0, 500, "rate limit headroom 0 % < 10 % x0.5; errors 90 % x0.1; at most 50 % a step x10 -> 500")
	p.tell(0, everything)
	p.want(0, 50, "GPU 100 % > 85 % x0.7; KV cache 100 % > 95 % x0.5; queue 9 s > 500 ms x0.5; rate limit headroom 0 % < 10 % x0.5; errors 90 % x0.1; floor 5 % x5.71 -> 50")
	p.in[0].ErrorRate = -1
	p.policy.GPUUtilization, p.policy.QueueDelay, p.policy.KVCache, p.policy.Headroom = weigh.Rule{}, weigh.Rule{}, weigh.Rule{}, weigh.Rule{}
	p.wait(weigh.StepUnit)
	p.want(0, 550, "at most 50 % a step x0.55 -> 550")
	// A tick that is twice as long may change twice as much, and one that comes early what was saved up.
	p.policy.MaxStep = 0.1
	p.now = p.now.Add(2 * weigh.StepUnit)
	p.compute()
	p.want(0, 750, "at most 10 % a step x0.75 -> 750")
	p.now = p.now.Add(weigh.StepUnit / 5)
	p.compute()
	p.want(0, 770, "")
	p.policy.MaxStep = 0
	p.compute()
	p.want(0, 1000, "no rule applies -> 1000")
}

// TestAtOnce crosses a line just after a tick: what a step may change has been saved up.
func TestAtOnce(t *testing.T) {
	p := newPool(t, 1, nil)
	p.wait(time.Second)
	for range 2 {
		p.now = p.now.Add(20 * time.Millisecond)
		s := gpu(91)
		s[0].At = p.now
		p.in[0].Samples = s
		p.compute()
	}
	p.want(0, 700, "GPU 91 % > 85 % x0.7 -> 700")
}

func TestPanic(t *testing.T) {
	p := newPool(t, 4, nil)
	fail := func(n int) {
		for i := range p.in {
			p.in[i].Checked, p.in[i].Failed, p.in[i].Passed = true, 0, 9
			if i < n {
				p.in[i].Failed, p.in[i].Passed = 2, 0
			}
		}
		p.wait(weigh.StepUnit)
	}
	// The default: never.
	fail(4)
	for i := range 4 {
		p.want(i, 0, "2 health checks failed in a row -> 0")
	}
	if weigh.Overall(p.out) != 0 {
		t.Error("a pool without endpoints has a share")
	}

	p = newPool(t, 4, func(p *weigh.Policy) { p.Panic = 0.5 })
	fail(2)
	p.want(0, 0, "2 health checks failed in a row -> 0")
	p.want(2, 1000, "")
	fail(3)
	p.want(0, 1000, "health checks failed, but less than 50 % of the pool are left -> 1000")
	p.want(2, 1000, "")
	p.want(3, 1000, "no rule applies -> 1000")
	if r := p.out[0]; !r.Panic || r.Status != weigh.Active || r.Causes != weigh.CauseHealth || r.Factor != 1 {
		t.Errorf("endpoint in panic is %+v", r)
	}
	// Who answers badly, or wants no requests, is left out all the same, and counts.
	p.in[2].Breaker = breaker.Open
	p.in[3].BlockedUntil = p.now.Add(time.Minute)
	fail(1)
	p.want(0, 1000, "")
	p.want(2, 0, "circuit breaker open -> 0")
	p.want(3, 0, "answered 429, to be tried again in 59.8 s -> 0")
	// What was used in panic has nothing to warm up for.
	p.want(1, 1000, "no rule applies -> 1000")
	// When the panic ends, what still fails is isolated, and then has.
	p.in[2].Breaker, p.in[3].BlockedUntil = breaker.Closed, time.Time{}
	fail(1)
	p.want(0, 0, "2 health checks failed in a row -> 0")
	fail(0)
	p.want(0, 100, "")
}

func TestOverall(t *testing.T) {
	if got := weigh.Overall(nil); got != 0 {
		t.Errorf("no endpoints: %v", got)
	}
	p := newPool(t, 4, nil)
	if got := weigh.Overall(p.out); got != 1 {
		t.Errorf("untouched: %v", got)
	}
	p.in[0].Base = 2
	p.in[0].Checked, p.in[0].Failed = true, 2
	p.in[1].ErrorRate = 0.5
	p.wait(weigh.StepUnit)
	if got := weigh.Overall(p.out); got != 0.5 {
		t.Errorf("2 of 5 isolated, 1 of 5 half: %v", got)
	}
}

func TestDiffer(t *testing.T) {
	r := func(key string, w uint32) weigh.Result {
		status := weigh.Active
		if w == 0 {
			status = weigh.Isolated
		}
		return weigh.Result{Key: key, Base: 1, Weight: w, Status: status}
	}
	// because has a weight of 700 for these reasons.
	because := func(key string, rules ...string) weigh.Result {
		out := r(key, 700)
		for _, rule := range rules {
			out.Reasons = append(out.Reasons, weigh.Reason{Rule: rule, Factor: 0.9})
		}
		return out
	}
	warming := because("a", weigh.RuleWarmUp)
	warming.Status = weigh.WarmingUp
	further := warming
	further.Weight = 800
	for _, tc := range []struct {
		name    string
		old, to []weigh.Result
		percent int
		want    weigh.Change
	}{
		{"nothing", nil, nil, 5, weigh.Same},
		{"the first", nil, []weigh.Result{r("a", 1000)}, 5, weigh.Event},
		{"same", []weigh.Result{r("a", 1000), r("b", 500)}, []weigh.Result{r("a", 1000), r("b", 500)}, 0, weigh.Same},
		{"a little", []weigh.Result{r("a", 1000), r("b", 500)}, []weigh.Result{r("a", 951), r("b", 524)}, 5, weigh.Same},
		{"enough down", []weigh.Result{r("a", 1000)}, []weigh.Result{r("a", 950)}, 5, weigh.Drift},
		{"enough up", []weigh.Result{r("a", 100)}, []weigh.Result{r("a", 105)}, 5, weigh.Drift},
		{"anything", []weigh.Result{r("a", 1000)}, []weigh.Result{r("a", 999)}, 0, weigh.Drift},
		{"isolated", []weigh.Result{r("a", 1)}, []weigh.Result{r("a", 0)}, 50, weigh.Event},
		{"back", []weigh.Result{r("a", 0)}, []weigh.Result{r("a", 50)}, 50, weigh.Event},
		{"another", []weigh.Result{r("a", 1000)}, []weigh.Result{r("b", 1000)}, 50, weigh.Event},
		{"gone", []weigh.Result{r("a", 1000), r("b", 1000)}, []weigh.Result{r("a", 1000)}, 50, weigh.Event},
		{"another order", []weigh.Result{r("a", 1000), r("b", 500)}, []weigh.Result{r("b", 500), r("a", 1000)}, 5, weigh.Same},
		{"another order and weight", []weigh.Result{r("a", 1000), r("b", 500)}, []weigh.Result{r("b", 500), r("a", 900)}, 5, weigh.Drift},
		{"one twice", []weigh.Result{r("a", 1000), r("b", 500)}, []weigh.Result{r("b", 500), r("b", 500)}, 5, weigh.Event},
		{"a rule begins", []weigh.Result{r("a", 1000)}, []weigh.Result{because("a", weigh.RuleQueue)}, 5, weigh.Event},
		{"a rule begins that changes little", []weigh.Result{r("a", 710)}, []weigh.Result{because("a", weigh.RuleQueue)}, 5, weigh.Same},
		{"a rule ends", []weigh.Result{because("a", weigh.RuleGPU)}, []weigh.Result{r("a", 1000)}, 5, weigh.Event},
		{"another rule", []weigh.Result{because("a", weigh.RuleGPU)}, []weigh.Result{r("a", 500)}, 5, weigh.Event},
		{"latency begins", []weigh.Result{r("a", 1000)}, []weigh.Result{because("a", weigh.RuleLatency)}, 5, weigh.Drift},
		{"errors end", []weigh.Result{because("a", weigh.RuleErrors)}, []weigh.Result{r("a", 1000)}, 5, weigh.Drift},
		{"others drift under a rule", []weigh.Result{because("a", weigh.RuleKV, weigh.RulePeers)}, []weigh.Result{because("a", weigh.RuleKV)}, 0, weigh.Same},
		{"a step", []weigh.Result{because("a", weigh.RuleStep)}, []weigh.Result{r("a", 600)}, 5, weigh.Moving},
		{"a warm-up", []weigh.Result{warming}, []weigh.Result{further}, 5, weigh.Moving},
		{"a warm-up ends", []weigh.Result{warming}, []weigh.Result{r("a", 1000)}, 5, weigh.Event},
		{"what matters most", []weigh.Result{r("a", 1000), r("b", 1000), r("c", 1000)}, []weigh.Result{r("a", 900), because("b", weigh.RuleHeadroom), r("c", 900)}, 5, weigh.Event},
	} {
		if got := weigh.Differ(tc.old, tc.to, tc.percent); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestCrossing(t *testing.T) {
	p := newPool(t, 2, nil)
	key := p.in[0].Key
	crossing := func(s signal.Sample) bool {
		s.At = p.now.Add(10 * time.Millisecond)
		return weigh.Crossing(&p.policy, p.state, key, &s)
	}
	for _, tc := range []struct {
		name   string
		before []signal.Sample
		sample signal.Sample
		want   bool
	}{
		{"nothing yet", nil, gpu(91)[0], true},
		{"nothing yet, low", nil, gpu(60)[0], false},
		{"up", gpu(60, 60), gpu(91)[0], true},
		{"up, being confirmed", gpu(91), gpu(91)[0], true},
		{"known", gpu(91), gpu(92)[0], false},
		{"between", nil, gpu(80)[0], false},
		{"down", nil, gpu(70)[0], true},
		{"down known", gpu(70, 70), gpu(70)[0], false},
		{"queue", nil, queue(501)[0], true},
		{"headroom", nil, headroom(9)[0], true},
		{"headroom known", headroom(9), headroom(9)[0], false},
		{"headroom better", nil, headroom(30)[0], true},
		{"no rule", nil, gpuMemory(100)[0], false},
	} {
		p.tell(0, tc.before...)
		if got := crossing(tc.sample); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
	s := kv(99)[0]
	p.tell(0, s)
	s.At = p.now
	if weigh.Crossing(&p.policy, p.state, key, &s) {
		t.Error("a sample that has been taken in is new")
	}
	if !weigh.Crossing(&p.policy, nil, key, &s) || !weigh.Crossing(&p.policy, p.state, "other", &s) {
		t.Error("the first sample of a pool or an endpoint does not cross")
	}
}

// TestStateIsKept computes twice from one state: it must not have changed.
func TestStateIsKept(t *testing.T) {
	p := newPool(t, 3, nil)
	p.tell(0, gpu(91)...)
	s := gpu(91)
	s[0].At = p.now.Add(time.Second)
	p.in[0].Samples = s
	_, a := weigh.Compute(&p.policy, p.state, p.in, p.now.Add(time.Second))
	_, b := weigh.Compute(&p.policy, p.state, p.in, p.now.Add(time.Second))
	if a[0].Weight != 700 || b[0].Weight != 700 {
		t.Errorf("weights %d and %d, want 700 twice", a[0].Weight, b[0].Weight)
	}
	// A clock that goes back stands still.
	_, c := weigh.Compute(&p.policy, p.state, p.in, p.now.Add(-time.Hour))
	if c[0].Weight != 700 {
		t.Errorf("weight %d when the clock goes back", c[0].Weight)
	}
}
