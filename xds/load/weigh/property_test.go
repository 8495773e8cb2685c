package weigh_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/xds/load/signal"
	"github.com/weir-dev/weir/xds/load/weigh"
)

// settleTicks is the package's promise, in ticks of 250 ms. Rules take 2 of them; the averages that the latency factor and the pool's GPUs
// are judged by take 20 to the last thousandth, and the largest step adds 2.
const settleTicks = 24

// scenario is a pool to which anything happens.
type scenario struct {
	r       *rand.Rand
	policy  weigh.Policy
	now     time.Time
	in      []weigh.Input
	created int
}

func newScenario(seed uint64) *scenario {
	s := &scenario{r: rand.New(rand.NewPCG(seed, 5)), policy: standard(), now: start}
	p, r := &s.policy, s.r
	if r.IntN(3) > 0 { // a third has the defaults
		p.Smoothing = 0.01 + 0.99*r.Float64()
		p.GPUUtilization = s.rule()
		p.GPUMemory = s.rule()
		p.KVCache = s.rule()
		p.QueueDelay = s.rule()
		p.Headroom = s.rule()
		p.Headroom.Enter, p.Headroom.Leave = p.Headroom.Leave, p.Headroom.Enter
		p.LatencyMin, p.LatencyMax = 0.01+0.99*r.Float64(), 1+9*r.Float64()
		p.PreferCheap = 3 * r.Float64()
		p.Floor = 0.01 + 0.99*r.Float64()*r.Float64()
		p.MaxStep = 0.01 + 0.99*r.Float64()
		p.StaleAfter = 500*time.Millisecond + time.Duration(r.Int64N(int64(10*time.Second)))
		p.Decay = time.Second + time.Duration(r.Int64N(int64(30*time.Second)))
		p.FailedChecks, p.PassedChecks = 1+r.IntN(4), 1+r.IntN(4)
		p.WarmUp = time.Duration(r.Int64N(int64(20 * time.Second)))
		p.WarmUpFrom = 0.01 + 0.99*r.Float64()
		p.Panic = r.Float64()
		p.TryHalfOpen = r.IntN(2) == 0
	}
	for range 1 + r.IntN(6) {
		s.add()
	}
	return s
}

func (s *scenario) rule() weigh.Rule {
	enter := s.r.Float64()
	return weigh.Rule{Enter: enter, Leave: enter * s.r.Float64(), Factor: 0.01 + 0.99*s.r.Float64(), Samples: 1 + s.r.IntN(4)}
}

// add adds twins: two endpoints that will always tell the same.
func (s *scenario) add() {
	base := float64(1 + s.r.IntN(20))
	for _, twin := range []string{"a", "b"} {
		s.in = append(s.in, weigh.Input{Key: fmt.Sprint(s.created, twin), Base: base, ErrorRate: -1})
	}
	s.created++
}

// next is what happens by the next Compute.
func (s *scenario) next() {
	r := s.r
	switch r.IntN(4) {
	case 0:
		s.now = s.now.Add(weigh.StepUnit)
	case 1:
		s.now = s.now.Add(time.Duration(r.Int64N(int64(time.Second / 10))))
	case 2:
		s.now = s.now.Add(time.Duration(r.Int64N(int64(3 * time.Second))))
	}
	if r.IntN(20) == 0 {
		s.add()
	}
	if r.IntN(20) == 0 && len(s.in) > 2 {
		i := 2 * r.IntN(len(s.in)/2)
		s.in = slices.Delete(slices.Clone(s.in), i, i+2)
	}
	for i := 0; i < len(s.in); i += 2 {
		in := &s.in[i]
		if r.IntN(4) > 0 {
			sample := s.sample()
			sample.At = s.now.Add(-time.Duration(r.Int64N(int64(100 * time.Millisecond))))
			switch {
			case r.IntN(2) == 0 || len(in.Samples) == 0:
				in.Samples = []signal.Sample{sample}
			default:
				in.Samples = []signal.Sample{sample, in.Samples[0]}
			}
		}
		if r.IntN(3) == 0 {
			in.TTFT = time.Duration(r.ExpFloat64() * float64(time.Second))
			in.TTFTCount += uint64(r.IntN(3))
			in.TTFTAt = s.now
		}
		switch r.IntN(10) {
		case 0:
			in.ErrorRate = r.Float64()
		case 1:
			in.ErrorRate = -1
		case 2:
			in.Breaker = breaker.State(r.IntN(int(breaker.Open) + 1))
		case 3:
			in.BlockedUntil = s.now.Add(time.Duration(r.Int64N(int64(5 * time.Second))))
		case 4:
			in.PriceRatio = r.Float64()
		case 5, 6, 7:
			in.Checked = r.IntN(10) > 0
			if in.Failed > 0 && r.IntN(2) == 0 || in.Failed == 0 && r.IntN(5) == 0 {
				in.Failed, in.Passed = in.Failed+1, 0
			} else {
				in.Failed, in.Passed = 0, in.Passed+1
			}
		}
		twin := s.in[i+1].Key
		s.in[i+1] = *in
		s.in[i+1].Key = twin
	}
}

func (s *scenario) sample() (out signal.Sample) {
	r := s.r
	out.Has = signal.Set(r.Uint32N(1 << 8))
	out.GPUUtilization, out.GPUMemory, out.KVCache, out.Headroom = r.Float64(), r.Float64(), r.Float64(), r.Float64()
	out.QueueDelay = time.Duration(r.Float64() * float64(time.Second))
	if r.IntN(30) == 0 {
		out.GPUUtilization, out.KVCache, out.QueueDelay = math.NaN(), math.Inf(1), -time.Second
	}
	return out
}

func seeds(t *testing.T) uint64 {
	if testing.Short() {
		return 300
	}
	return 1500
}

// TestProperties lets anything happen to thousands of pools.
func TestProperties(t *testing.T) {
	seen := map[string]int{}
	for seed := range seeds(t) {
		s := newScenario(seed)
		var state *weigh.State
		var before map[string]weigh.Result
		var last time.Time
		for tick := range 40 {
			s.next()
			next, out := weigh.Compute(&s.policy, state, s.in, s.now)
			fail := func(format string, args ...any) {
				t.Helper()
				t.Fatalf("seed %d, tick %d: %s", seed, tick, fmt.Sprintf(format, args...))
			}
			if len(out) != len(s.in) {
				fail("%d results for %d endpoints", len(out), len(s.in))
			}
			for i := range out {
				for _, why := range out[i].Reasons {
					seen[why.Rule]++
				}
				if err := sound(&s.policy, &s.in[i], &out[i]); err != "" {
					fail("%s: %s\n%s\n%+v", out[i].Key, err, out[i].Explain(), out[i])
				}
				if was, ok := before[out[i].Key]; ok && tick > 0 {
					if err := inStep(&s.policy, &was, &out[i], s.now.Sub(last)); err != "" {
						fail("%s: %s\n%s\n%s", out[i].Key, err, was.Explain(), out[i].Explain())
					}
				}
			}
			for i := 0; i < len(out); i += 2 {
				if a, b := &out[i], &out[i+1]; a.Weight != b.Weight || a.Factor != b.Factor || !slices.Equal(a.Reasons, b.Reasons) {
					fail("twins differ\n%s\n%s", a.Explain(), b.Explain())
				}
			}
			// Again from the same state, in another order.
			turned := slices.Clone(s.in)
			s.r.Shuffle(len(turned), func(i, j int) { turned[i], turned[j] = turned[j], turned[i] })
			turnedNext, turnedOut := weigh.Compute(&s.policy, state, turned, s.now)
			if err := same(out, turnedOut); err != "" {
				fail("another order: %s", err)
			}
			// Again from the state that came of it, at the same time, in either order.
			_, again := weigh.Compute(&s.policy, next, s.in, s.now)
			if err := same(out, again); err != "" {
				fail("again: %s", err)
			}
			_, again = weigh.Compute(&s.policy, turnedNext, s.in, s.now)
			if err := same(out, again); err != "" {
				fail("again from another order: %s", err)
			}
			before = byKey(out)
			state, last = next, s.now
		}
	}
	for _, rule := range []string{
		weigh.RuleGPU, weigh.RuleGPUPool, weigh.RuleGPUMemory, weigh.RuleKV, weigh.RuleQueue, weigh.RuleHeadroom, weigh.RuleErrors,
		weigh.RuleStale, weigh.RuleLatency, weigh.RulePrice, weigh.RuleWarmUp, weigh.RuleFloor, weigh.RuleStep, weigh.RuleHealth,
		weigh.RuleBreaker, weigh.RuleBlocked, weigh.RulePanic,
	} {
		if seen[rule] == 0 {
			t.Errorf("the scenarios never came to rule %s", rule)
		}
	}
}

// sound says what is wrong with one result.
func sound(p *weigh.Policy, in *weigh.Input, r *weigh.Result) string {
	if r.Key != in.Key {
		return "key " + r.Key
	}
	full := in.Base * weigh.Scale
	least, most := math.Floor(full*p.Floor), math.Ceil(full*max(1, p.LatencyMax))
	if (r.Weight == 0) != (r.Status == weigh.Isolated) {
		return "weight 0 is isolation, and nothing else is"
	}
	if w := float64(r.Weight); r.Weight > 0 && (w < least || w > most) {
		return fmt.Sprintf("weight outside of %v to %v", least, most)
	}
	product, stale, beforeLatency := 1.0, 1.0, 1.0
	for _, why := range r.Reasons {
		product *= why.Factor
		switch why.Rule {
		case weigh.RuleStale:
			stale = why.Factor
			beforeLatency = product
		case weigh.RuleLatency:
			beforeLatency = product
		}
		if !(why.Factor >= 0) || math.IsInf(why.Factor, 0) || math.IsNaN(why.Value) || math.IsNaN(why.Line) {
			return "a number that is none in " + why.Rule
		}
	}
	if got := float64(r.Weight) / full; r.Weight > 1 && math.Abs(got-product) > 0.5001/full {
		return fmt.Sprintf("the factors make %v, the weight is %v", product, got)
	}
	if stale < 1 || stale > 1 && beforeLatency > max(1, beforeLatency/stale)+1e-9 {
		return "missing metrics lift the weight"
	}
	if !(r.Factor >= 0 && r.Factor <= 1) || r.Factor > 0 && r.Factor < p.Floor {
		return "factor for the picker out of bounds"
	}
	if known := r.Causes&(weigh.CauseHealth|weigh.CauseBlocked) != 0 && !r.Panic; known != (r.Factor == 0) {
		return "factor for the picker and causes disagree"
	}
	if r.Status == weigh.Isolated && (r.Causes == 0 || len(r.Reasons) == 0) {
		return "isolated for no reason"
	}
	if r.Panic && (p.Panic == 0 || r.Causes != weigh.CauseHealth) {
		return "panic"
	}
	if text := r.Explain(); strings.Contains(text, "NaN") || !strings.HasSuffix(text, fmt.Sprintf(" -> %d", r.Weight)) {
		return "explained badly"
	}
	return ""
}

// inStep says whether a weight changed by too much in the time.
func inStep(p *weigh.Policy, was, is *weigh.Result, passed time.Duration) string {
	inUse := func(r *weigh.Result) bool { return r.Causes == 0 || r.Panic }
	if !inUse(was) || !inUse(is) || was.Base != is.Base {
		return ""
	}
	most := p.MaxStep*max(1, float64(passed)/float64(weigh.StepUnit))*is.Base*weigh.Scale + 1
	if change := math.Abs(float64(is.Weight) - float64(was.Weight)); change > most {
		return fmt.Sprintf("changed by %v in %v, at most %v is allowed", change, passed, most)
	}
	return ""
}

func byKey(out []weigh.Result) map[string]weigh.Result {
	m := make(map[string]weigh.Result, len(out))
	for _, r := range out {
		m[r.Key] = r
	}
	return m
}

// same compares results of the same endpoints.
func same(a, b []weigh.Result) string {
	m := byKey(b)
	for i := range a {
		r := m[a[i].Key]
		x, y := a[i], r
		if x.Weight != y.Weight || x.Factor != y.Factor || x.Status != y.Status || x.Causes != y.Causes || x.Panic != y.Panic ||
			x.KVCache != y.KVCache || x.Base != y.Base {
			return fmt.Sprintf("%s was %+v and is %+v", x.Key, x, y)
		}
	}
	return ""
}

// constant is what an endpoint goes on telling. What it tells of at all depends on its place alone.
type constant struct {
	sample signal.Sample
	ttft   time.Duration
	errors float64
}

func (s *scenario) constants() []constant {
	out := make([]constant, len(s.in))
	for i := range out {
		c := constant{sample: s.sample(), errors: -1}
		for c.sample.QueueDelay < 0 {
			c.sample = s.sample()
		}
		// On lines as well as between them.
		for _, v := range []*float64{&c.sample.GPUUtilization, &c.sample.KVCache, &c.sample.Headroom} {
			*v = math.Round(*v*20) / 20
		}
		c.sample.Has = signal.Set(0x7f >> (i % 4)).With(signal.GPUUtilization)
		c.ttft = time.Duration(s.r.ExpFloat64() * float64(time.Second))
		if s.r.IntN(3) == 0 {
			c.errors = s.r.Float64()
		}
		out[i] = c
	}
	return out
}

// TestSettles changes the load of pools and waits for weights that stay.
func TestSettles(t *testing.T) {
	for seed := range seeds(t) / 2 {
		s := newScenario(seed)
		s.policy = standard()
		var state *weigh.State
		for range 3 {
			levels := s.constants()
			var settled []weigh.Result
			for tick := range settleTicks + 40 {
				s.now = s.now.Add(weigh.StepUnit)
				for i := range s.in {
					c := levels[i]
					c.sample.At = s.now
					s.in[i].Samples = []signal.Sample{c.sample}
					s.in[i].TTFT, s.in[i].TTFTAt, s.in[i].TTFTCount = c.ttft, s.now, s.in[i].TTFTCount+3
					s.in[i].ErrorRate = c.errors
				}
				var out []weigh.Result
				state, out = weigh.Compute(&s.policy, state, s.in, s.now)
				if tick == settleTicks-1 {
					settled = out
				}
				if tick >= settleTicks {
					if err := same(settled, out); err != "" {
						t.Fatalf("seed %d: still moves in tick %d: %s", seed, tick, err)
					}
				}
			}
		}
	}
}

// TestRulesSettleFast is the same for endpoints whose latency nobody knows: two samples, and two steps.
func TestRulesSettleFast(t *testing.T) {
	for seed := range seeds(t) {
		s := newScenario(seed)
		s.policy = standard()
		s.in = s.in[:2] // too few to judge GPUs by the pool's
		var state *weigh.State
		for range 3 {
			level := s.constants()[0]
			var settled []weigh.Result
			for tick := range 12 {
				s.now = s.now.Add(weigh.StepUnit)
				level.sample.At = s.now
				s.in[0].Samples = []signal.Sample{level.sample}
				var out []weigh.Result
				state, out = weigh.Compute(&s.policy, state, s.in, s.now)
				if tick == 3 {
					settled = out
				}
				if tick > 3 {
					if err := same(settled, out); err != "" {
						t.Fatalf("seed %d: still moves in tick %d: %s", seed, tick, err)
					}
				}
			}
		}
	}
}

// TestBlackout stops all that endpoints tell, at any moment: no weight may rise above the base for it, and all must come to the base.
func TestBlackout(t *testing.T) {
	for seed := range seeds(t) / 2 {
		s := newScenario(seed)
		s.policy.PreferCheap = 0
		var state *weigh.State
		var out []weigh.Result
		for range 10 {
			s.next()
			for i := range s.in { // isolation and errors are other stories
				s.in[i].Checked, s.in[i].Breaker, s.in[i].BlockedUntil, s.in[i].ErrorRate = false, breaker.Closed, time.Time{}, -1
			}
			state, out = weigh.Compute(&s.policy, state, s.in, s.now)
		}
		stop := s.now
		last := out
		for s.now.Sub(stop) < s.policy.StaleAfter+s.policy.Decay+s.policy.WarmUp+time.Minute {
			s.now = s.now.Add(time.Second / 2)
			state, out = weigh.Compute(&s.policy, state, s.in, s.now)
			for i := range out {
				full := uint32(s.in[i].Base * weigh.Scale)
				if w := out[i].Weight; s.now.Sub(stop) > s.policy.StaleAfter && w > full && w > last[i].Weight {
					t.Fatalf("seed %d, %v after: from %d to %d: %s", seed, s.now.Sub(stop), last[i].Weight, w, out[i].Explain())
				}
			}
			last = out
		}
		for i := range out {
			if full := uint32(s.in[i].Base * weigh.Scale); out[i].Weight != full || len(out[i].Reasons) > 0 || out[i].Factor != 1 {
				t.Fatalf("seed %d: %d instead of %d long after: %s", seed, out[i].Weight, full, out[i].Explain())
			}
		}
	}
}
