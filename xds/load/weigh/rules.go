package weigh

import (
	"math"
	"time"
)

func (c *computation) because(r Reason) { c.reasons = append(c.reasons, r) }

// rules is the product of the rules that apply to an endpoint, errors among them: as they were when its metrics last told, and faded
// by the age of those. Both are above 0, and held is at most faded.
func (c *computation) rules(in *Input, e *entry, trace bool) (held, faded float64) {
	held, faded = 1, 1
	apply := func(factor, fading float64) {
		held *= factor
		faded *= 1 - (1-factor)*(1-fading)
	}
	for i := range e.values {
		a, r := &e.values[i], c.p.rule(i)
		if !a.over || r.Off() {
			continue
		}
		x := c.p.fading(a.at, c.now)
		if x == 1 {
			continue
		}
		apply(r.Factor, x)
		if trace {
			why := Reason{Rule: ruleName[i], Factor: r.Factor, Value: a.mean, Line: r.Enter}
			if !crosses(r, i, false, a.mean) {
				why.Line, why.Held = r.Leave, true
			}
			c.because(why)
		}
		if i == ruleGPU && e.aboveGPU {
			apply(gpuPoolFactor, x)
			if trace {
				c.because(Reason{Rule: RuleGPUPool, Factor: gpuPoolFactor, Value: a.mean, Line: c.medianGPU})
			}
		}
	}
	if rate := min(in.ErrorRate, 1); rate >= minErrors {
		f := max(1-rate, minFactor)
		apply(f, 0)
		if trace {
			c.because(Reason{Rule: RuleErrors, Factor: f, Value: rate})
		}
	}
	return held, faded
}

// oldest is the age of the oldest value that a rule applies by, in seconds.
func (c *computation) oldest(e *entry) float64 {
	at := c.now
	for i := range e.values {
		a := &e.values[i]
		if a.over && !c.p.rule(i).Off() && c.p.fading(a.at, c.now) < 1 {
			at = min(at, a.at)
		}
	}
	return time.Duration(c.now - at).Seconds()
}

// warmUp is the part of its weight that an endpoint has by now, 1 if it does not warm up.
func (c *computation) warmUp(e *entry) float64 {
	if !e.warming {
		return 1
	}
	done := float64(c.now-e.warmAt) / float64(c.p.WarmUp)
	if !(done < 1) || c.p.WarmUp <= 0 {
		e.warming = false
		return 1
	}
	from := c.p.warmFrom()
	return from + (1-from)*done
}

func (p *Policy) warmFrom() float64 { return min(max(p.WarmUpFrom, minFactor), 1) }

// step moves the weight of an endpoint towards where it should be, and no further than it may.
//
// What may change is saved up, for one StepUnit at most, so that a signal that crosses a line between two ticks has its effect at once.
func (c *computation) step(e *entry, target float64) float64 {
	p := c.p
	if !e.placed || p.MaxStep <= 0 {
		e.placed, e.weight, e.credit = true, target, p.MaxStep
		return target
	}
	units := float64(c.elapsed) / float64(StepUnit)
	e.credit = min(e.credit+p.MaxStep*units, p.MaxStep*max(1, units))
	change := min(max(target-e.weight, -e.credit), e.credit)
	e.credit -= math.Abs(change)
	if math.Abs(target-e.weight-change) < 1e-9 {
		e.weight = target
		return target
	}
	// The bounds may be others than those that the weight was computed by.
	e.weight = min(max(e.weight+change, p.Floor), max(1, p.LatencyMax))
	c.because(Reason{Rule: RuleStep, Factor: e.weight / target, Value: target, Line: p.MaxStep})
	return e.weight
}
