package weigh

import (
	"math"
	"slices"
	"time"

	"github.com/weir-dev/weir/extproc/breaker"
)

// How a GPU is judged against the pool, once more than half of the pool's are over the rule's line and the rule tells them apart no longer.
const (
	gpuPoolEnter  = 0.10 // above the median
	gpuPoolLeave  = 0.05
	gpuPoolFactor = 0.85
	gpuPoolLeast  = 3 // endpoints that must tell their GPUs
)

// minErrors is the error rate below which errors do not matter, and minLatency the same of the latency factor's distance from 1:
// they keep noise out of weights and traces.
const (
	minErrors  = 0.005
	minLatency = 0.005
)

// minFactor is the least factor of errors, prices and warm-ups, so that what is not isolated never has the weight 0.
const minFactor = 0.001

// Compute is the weights of a pool at the time now, and the State to compute the next with. It changes nothing that it is given. Results
// are in the order of in, and do not depend on that order. The same again, at the same time, gives the same results.
func Compute(p *Policy, s *State, in []Input, now time.Time) (*State, []Result) {
	c := computation{p: p, old: s, next: &State{epoch: now, entries: make([]entry, len(in))}}
	if s != nil && !s.epoch.IsZero() {
		c.next.epoch = s.epoch
		c.next.at = max(s.at, int64(now.Sub(s.epoch)))
		c.elapsed = c.next.at - s.at
	}
	c.now = c.next.at
	c.running = s != nil && len(s.entries) > 0
	c.match(in)
	out := make([]Result, len(in))
	for i := range in {
		e := &c.next.entries[i]
		c.observe(&in[i], e)
		c.judge(&in[i], e, &out[i])
	}
	c.believe(out)
	c.medians(in, out)
	c.reasons = make([]Reason, 0, 2*len(in))
	for i := range in {
		begin := len(c.reasons)
		c.weigh(&in[i], &c.next.entries[i], &out[i])
		out[i].Reasons = c.reasons[begin:len(c.reasons):len(c.reasons)]
	}
	return c.next, out
}

// computation is one Compute.
type computation struct {
	p       *Policy
	old     *State
	next    *State
	now     int64 // since the epoch
	elapsed int64 // since the last Compute
	running bool  // not the start of the pool
	panic   bool  // so many are isolated that the health checks are not believed

	medianTTFT float64 // seconds; 0: none
	medianGPU  float64

	times   []int64  // of the samples of the endpoint at hand, since the epoch
	reasons []Reason // of all results, one after the other
}

// match copies what is remembered into the order of in.
func (c *computation) match(in []Input) {
	if c.running && c.old.names.same(in) {
		c.next.names = c.old.names
		copy(c.next.entries, c.old.entries)
		return
	}
	n := &names{list: make([]string, len(in)), index: make(map[string]int32, len(in))}
	for i := range in {
		n.list[i] = in[i].Key
		n.index[in[i].Key] = int32(i)
		if e := c.old.find(in[i].Key); e != nil {
			c.next.entries[i] = *e
		} else {
			// What is new in a pool that runs warms up, as if it came back.
			c.next.entries[i].out = c.running
		}
	}
	c.next.names = n
}

func (n *names) same(in []Input) bool {
	if len(n.list) != len(in) {
		return false
	}
	for i := range in {
		if n.list[i] != in[i].Key {
			return false
		}
	}
	return true
}

// observe takes in the samples that are new, each rule's in the order of time.
func (c *computation) observe(in *Input, e *entry) {
	c.times = c.times[:0]
	for k := range in.Samples {
		c.times = append(c.times, int64(in.Samples[k].At.Sub(c.next.epoch)))
	}
	for r := range rules {
		a := &e.values[r]
		for {
			first, value := int64(math.MaxInt64), 0.0
			for k, at := range c.times {
				if at >= first || a.seen && at <= a.at {
					continue
				}
				if v, ok := valueOf(&in.Samples[k], r); ok {
					first, value = at, v
				}
			}
			if first == math.MaxInt64 {
				break
			}
			a.add(c.p, r, value, first)
		}
	}
}

// judge finds what speaks against an endpoint, and what is known of it whatever its weight.
func (c *computation) judge(in *Input, e *entry, out *Result) {
	switch {
	case !in.Checked, in.Passed >= max(1, c.p.PassedChecks):
		e.failing = false
	case in.Failed >= max(1, c.p.FailedChecks):
		e.failing = true
	}
	*out = Result{Key: in.Key, Base: in.Base, KVCache: -1}
	if !(out.Base > 0) || math.IsInf(out.Base, 0) {
		out.Base = 1
	}
	if a := &e.values[ruleKV]; a.seen && c.p.fading(a.at, c.now) == 0 {
		out.KVCache = a.last
	}
	if e.failing {
		out.Causes |= CauseHealth
	}
	if in.Breaker == breaker.Open || in.Breaker == breaker.HalfOpen {
		out.Causes |= CauseBreaker
	}
	if c.blocked(in) > 0 {
		out.Causes |= CauseBlocked
	}
}

// believe decides whether the health checks are believed.
func (c *computation) believe(out []Result) {
	left := 0
	for i := range out {
		if out[i].Causes == 0 {
			left++
		}
	}
	c.panic = left < len(out) && float64(left) < c.p.Panic*float64(len(out))
}

// used says whether an endpoint gets requests. That health checks are not believed does not help who is known to answer badly.
func (c *computation) used(out *Result) bool {
	return out.Causes == 0 || c.panic && out.Causes == CauseHealth
}

// blocked is for how long yet the endpoint wants no requests.
func (c *computation) blocked(in *Input) time.Duration {
	if in.BlockedUntil.IsZero() {
		return 0
	}
	return in.BlockedUntil.Sub(c.next.epoch) - time.Duration(c.now)
}

// medians are those of the endpoints that are used and tell now.
func (c *computation) medians(in []Input, out []Result) {
	values := make([]float64, 0, len(in))
	for i := range in {
		if c.used(&out[i]) && c.timely(&in[i]) {
			values = append(values, in[i].TTFT.Seconds())
		}
	}
	c.medianTTFT = Median(values)
	if c.p.GPUUtilization.Off() {
		return
	}
	values = values[:0]
	over := 0
	for i := range in {
		a := &c.next.entries[i].values[ruleGPU]
		if !c.used(&out[i]) || !a.seen || c.p.fading(a.at, c.now) > 0 {
			continue
		}
		values = append(values, a.mean)
		if a.over {
			over++
		}
	}
	c.medianGPU = Median(values)
	busy := len(values) >= gpuPoolLeast && 2*over > len(values)
	for i := range c.next.entries {
		e := &c.next.entries[i]
		a := &e.values[ruleGPU]
		line := c.medianGPU + gpuPoolEnter
		if e.aboveGPU {
			line = c.medianGPU + gpuPoolLeave
		}
		// What no longer tells stays as it was, and fades as the rule does.
		if c.p.fading(a.at, c.now) == 0 || !a.over {
			e.aboveGPU = busy && a.over && a.mean >= line
		}
	}
}

// Median of values, which it sorts; 0 if there are none.
func Median(values []float64) float64 {
	n := len(values)
	if n == 0 {
		return 0
	}
	slices.Sort(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// timely says whether the endpoint's time to the first token is known, and is of now.
func (c *computation) timely(in *Input) bool {
	return in.TTFT > 0 && in.TTFTCount >= MinRecords && c.p.fading(int64(in.TTFTAt.Sub(c.next.epoch)), c.now) == 0
}

// weigh gives one endpoint its weight.
func (c *computation) weigh(in *Input, e *entry, out *Result) {
	p := c.p
	switch {
	case out.Causes != 0 && c.used(out):
		out.Panic = true
		c.because(Reason{Rule: RulePanic, Factor: 1, Value: float64(in.Failed), Line: p.Panic})
		e.out, e.warming = false, false
	case out.Causes != 0:
		c.isolate(in, e, out)
		return
	case e.out:
		e.out, e.placed = false, false
		e.warming, e.warmAt = p.WarmUp > 0, c.now
	}

	held, weight := c.rules(in, e, true)
	warm := c.warmUp(e)
	out.Factor = max(p.Floor, weight*warm)

	latency := c.feedBack(in, e)
	// Rules that fade because their metrics are missing must not lift the weight above the base.
	weight = max(min(weight, 1/latency), held)
	if weight > held*(1+1e-9) {
		c.because(Reason{Rule: RuleStale, Factor: weight / held, Value: c.oldest(e), Line: p.StaleAfter.Seconds()})
	}
	if latency != 1 {
		c.because(Reason{Rule: RuleLatency, Factor: latency, Value: in.TTFT.Seconds(), Line: c.medianTTFT})
		weight *= latency
	}
	if r := in.PeerRatio; r > 0 && p.AcrossBackends && p.LatencyMax > 0 {
		f := max(p.LatencyMin, min(r, p.LatencyMax))
		if f = min(f, p.LatencyMax/latency); math.Abs(f-1) >= minLatency {
			c.because(Reason{Rule: RulePeers, Factor: f, Value: 1 / r, Line: 1})
			weight *= f
		}
	}
	if r := in.PriceRatio; r > 0 && r < 1 && p.PreferCheap > 0 {
		f := max(math.Pow(r, p.PreferCheap), minFactor)
		c.because(Reason{Rule: RulePrice, Factor: f, Value: 1 / r, Line: 1})
		weight *= f
	}
	if warm < 1 {
		out.Status = WarmingUp
		c.because(Reason{Rule: RuleWarmUp, Factor: warm, Value: time.Duration(c.now - e.warmAt).Seconds(), Line: p.WarmUp.Seconds()})
		weight *= warm
	}
	if weight < p.Floor*(1-1e-9) {
		c.because(Reason{Rule: RuleFloor, Factor: p.Floor / weight, Value: weight, Line: p.Floor})
		weight = p.Floor
	}
	out.Weight = scaled(out.Base, c.step(e, weight))
}

// isolate takes an endpoint out, or lets it be tried.
func (c *computation) isolate(in *Input, e *entry, out *Result) {
	p := c.p
	e.out, e.placed, e.warming = true, false, false
	e.latency = feedback{}
	out.Status = Isolated
	if out.Causes&CauseHealth != 0 {
		r := Reason{Rule: RuleHealth, Value: float64(in.Failed), Line: float64(max(1, p.FailedChecks))}
		if in.Failed == 0 {
			r.Value, r.Line, r.Held = float64(in.Passed), float64(max(1, p.PassedChecks)), true
		}
		c.because(r)
	}
	if out.Causes&CauseBlocked != 0 {
		c.because(Reason{Rule: RuleBlocked, Value: c.blocked(in).Seconds()})
	}
	if out.Causes == CauseBreaker {
		// The picker sends the tries, as many as the breaker has places, and who counts as worse than others for being tried is
		// not chosen: neither the errors that opened the breaker nor the warm-up that follows count here.
		tried := *in
		tried.ErrorRate = -1
		_, factor := c.rules(&tried, e, false)
		out.Factor = max(p.Floor, factor)
	}
	if out.Causes&CauseBreaker != 0 {
		r := Reason{Rule: RuleBreaker, Value: float64(in.Breaker), Held: in.Breaker == breaker.HalfOpen}
		if r.Held && p.TryHalfOpen && out.Causes == CauseBreaker {
			r.Factor = max(p.Floor, minFactor)
			out.Status = WarmingUp
			out.Weight = scaled(out.Base, r.Factor)
		}
		c.because(r)
	}
}

// scaled is the weight as Envoy takes it.
func scaled(base, part float64) uint32 {
	return uint32(min(max(math.Round(base*Scale*part), 1), math.MaxUint32))
}
