package weigh

import (
	"math"
	"time"

	"github.com/weir-dev/weir/xds/load/signal"
)

// State is what Compute remembers of a pool from one call to the next. It never changes, so it may be read, and computed from,
// by many at once. nil and the zero State are those of a pool that starts.
type State struct {
	// epoch is what the times of entries count from, so that entries hold no pointers and clocks keep their monotonic reading.
	epoch   time.Time
	at      int64 // of the last Compute
	names   *names
	entries []entry // in the order of names
}

// names of endpoints, shared by all the States in which they are the same.
type names struct {
	list  []string
	index map[string]int32
}

// The rules that look at values of samples.
const (
	ruleGPU = iota
	ruleGPUMemory
	ruleKV
	ruleQueue
	ruleHeadroom
	rules
)

var ruleMetric = [rules]signal.Metric{signal.GPUUtilization, signal.GPUMemory, signal.KVCache, signal.QueueDelay, signal.Headroom}

var ruleName = [rules]string{RuleGPU, RuleGPUMemory, RuleKV, RuleQueue, RuleHeadroom}

// rule is the policy's i-th.
func (p *Policy) rule(i int) *Rule {
	switch i {
	case ruleGPU:
		return &p.GPUUtilization
	case ruleGPUMemory:
		return &p.GPUMemory
	case ruleKV:
		return &p.KVCache
	case ruleQueue:
		return &p.QueueDelay
	}
	return &p.Headroom
}

// valueOf is what a sample says to the i-th rule. A number that is none says nothing.
func valueOf(s *signal.Sample, i int) (v float64, ok bool) {
	if !s.Has.Has(ruleMetric[i]) {
		return 0, false
	}
	switch i {
	case ruleGPU:
		v = s.GPUUtilization
	case ruleGPUMemory:
		v = s.GPUMemory
	case ruleKV:
		v = s.KVCache
	case ruleQueue:
		v = s.QueueDelay.Seconds()
	case ruleHeadroom:
		v = s.Headroom
	}
	return v, v >= 0 && v <= math.MaxFloat32
}

// entry is what is remembered of one endpoint. Times are nanoseconds since State.epoch.
type entry struct {
	values [rules]average
	// aboveGPU says that the endpoint's GPUs are busier than those of a pool whose GPUs are all busy.
	aboveGPU bool

	latency feedback

	failing bool // isolated by health checks
	out     bool // had nothing but tries; what comes back warms up
	warming bool
	warmAt  int64 // when the warm-up began

	placed bool    // weight counts
	weight float64 // part of the base weight
	credit float64 // by which weight may change now
}

// average is a smoothed value, and on which side of its rule's lines it is.
type average struct {
	seen   bool
	over   bool // the rule applies
	at     int64
	last   float64
	mean   float64
	run    int32 // newest values in a row that are across the line that ends the present state
	meanly int32 // the same of the mean
}

// nearly is how close a mean comes to a value that stays: a tenth of a percent, or a millisecond.
const nearly = 0.001

// add takes a value in. A line is crossed when r.Samples values in a row are across it, or when the mean has been for as many and the
// newest value is too. The first finds a step at once, which a mean would be slow to; the second finds a level that values swing about.
func (a *average) add(p *Policy, i int, v float64, at int64) {
	r := p.rule(i)
	a.restart(p, at)
	switch {
	case !a.seen:
		a.seen, a.mean = true, v
	case at-a.at > int64(p.StaleAfter):
		a.mean, a.run, a.meanly = v, 0, 0
	default:
		a.mean += p.Smoothing * (v - a.mean)
		if math.Abs(v-a.mean) < nearly {
			a.mean = v
		}
	}
	a.at, a.last = at, v
	if r.Off() {
		a.over, a.run, a.meanly = false, 0, 0
		return
	}
	need := int32(max(1, r.Samples))
	if !crosses(r, i, a.over, a.mean) {
		a.meanly = 0
	} else if a.meanly < need {
		a.meanly++
	}
	if !crosses(r, i, a.over, v) {
		a.run = 0
		return
	}
	a.run++
	if a.run < need && a.meanly < need {
		return
	}
	if a.run >= need {
		a.mean = v // the level has changed: what was before says nothing of it
	}
	a.over, a.run, a.meanly = !a.over, 0, 0
}

// restart forgets everything if the last value is too old to say anything at the time given.
func (a *average) restart(p *Policy, at int64) {
	if a.seen && at-a.at > int64(p.StaleAfter)+int64(max(0, p.Decay)) {
		*a = average{}
	}
}

// crosses says whether v is across the line of the i-th rule that ends the present state.
func crosses(r *Rule, i int, over bool, v float64) bool {
	line := r.Enter
	if over {
		line = r.Leave
	}
	if (i == ruleHeadroom) != over {
		return v < line
	}
	return v > line
}

// fading is how far what was known at the time given has faded by now: 0 while it counts as it is, 1 when it says nothing.
func (p *Policy) fading(at, now int64) float64 {
	old := now - at - int64(p.StaleAfter)
	switch {
	case old <= 0:
		return 0
	case old >= int64(p.Decay):
		return 1
	}
	return float64(old) / float64(p.Decay)
}

// find is what is remembered of the endpoint, nil: nothing.
func (s *State) find(key string) *entry {
	if s == nil || s.names == nil {
		return nil
	}
	i, ok := s.names.index[key]
	if !ok {
		return nil
	}
	return &s.entries[i]
}

// Crossing says whether a new sample of an endpoint is across a line whose rule does not know it yet: worth computing at once, and reading
// the endpoint again to confirm it. A sample that the State has taken in already is not new.
func Crossing(p *Policy, s *State, key string, sample *signal.Sample) bool {
	var at int64
	e := s.find(key)
	if e == nil {
		e = &entry{}
	} else {
		at = int64(sample.At.Sub(s.epoch))
	}
	for i := range rules {
		v, ok := valueOf(sample, i)
		r := p.rule(i)
		a := e.values[i]
		if !ok || r.Off() || a.seen && at <= a.at {
			continue
		}
		a.restart(p, at)
		if crosses(r, i, a.over, v) {
			return true
		}
	}
	return false
}

// Sides are the rules whose line the last sample of an endpoint was across, for who reads endpoints and weighs nothing.
type Sides uint8

// Cross takes a sample in, and says whether a line of a rule lies between it and what was before.
func (s *Sides) Cross(p *Policy, sample *signal.Sample) (crossed bool) {
	for i := range rules {
		v, ok := valueOf(sample, i)
		r := p.rule(i)
		if !ok || r.Off() {
			continue
		}
		if over := *s&(1<<i) != 0; crosses(r, i, over, v) {
			*s ^= 1 << i
			crossed = true
		}
	}
	return crossed
}
