package weigh

import "math"

// Overall is what a pool can take now, as a part of what it can with nothing against it: its weights in units of its base weights. A pool's
// share among the Backends of a rule is multiplied by it. It is 0 if all is isolated, and for no endpoints.
func Overall(out []Result) float64 {
	var weights, bases float64
	for i := range out {
		weights += float64(out[i].Weight)
		bases += out[i].Base
	}
	if bases == 0 {
		return 0
	}
	return weights / (bases * Scale)
}

// Change is how new results differ from those that somebody has been told. The greater, the sooner they are to be told.
type Change uint8

// The changes.
const (
	// Same: no weight differs by enough.
	Same Change = iota
	// Drift: latency, errors and the like have moved weights, as they always do.
	Drift
	// Moving: weights are on their way to where an Event sends them, by a warm-up or by steps.
	Moving
	// Event: an endpoint came, went, was isolated or came back, its status is another, or a rule begins or ends to apply to it.
	Event
)

// Differ compares the new results with the old ones. A weight that changed by less than percent of the old one is the same.
func Differ(old, next []Result, percent int) Change {
	if len(old) != len(next) {
		return Event
	}
	change := Same
	for i := range old {
		if old[i].Key != next[i].Key {
			return differAny(old, next, percent)
		}
		if change = max(change, differ(&old[i], &next[i], percent)); change == Event {
			break
		}
	}
	return change
}

// differAny is Differ for results in different orders.
func differAny(old, next []Result, percent int) Change {
	byKey := make(map[string]*Result, len(old))
	for i := range old {
		byKey[old[i].Key] = &old[i]
	}
	change := Same
	for i := range next {
		o := byKey[next[i].Key]
		if o == nil {
			return Event
		}
		change = max(change, differ(o, &next[i], percent))
		delete(byKey, next[i].Key)
	}
	if len(byKey) > 0 {
		return Event
	}
	return change
}

func differ(old, next *Result, percent int) Change {
	if (old.Weight == 0) != (next.Weight == 0) || old.Status == Isolated != (next.Status == Isolated) {
		return Event
	}
	if old.Weight == next.Weight {
		return Same
	}
	if change := math.Abs(float64(old.Weight) - float64(next.Weight)); change*100 < float64(percent)*float64(old.Weight) {
		return Same
	}
	before, after := applied(old.Reasons), applied(next.Reasons)
	switch {
	case old.Status != next.Status || before&^moves != after&^moves:
		return Event
	case (before|after)&moves != 0:
		return Moving
	}
	return Drift
}

// moves is the bit of what moves a weight over some time.
const moves = 1

// applied is the set of the rules that apply, as bits. Those that follow values which are never still are not among them: whether they apply
// says little.
func applied(reasons []Reason) (set uint32) {
	for i := range reasons {
		switch reasons[i].Rule {
		case RuleWarmUp, RuleStep:
			set |= moves
		case RuleGPU:
			set |= 1 << 1
		case RuleGPUPool:
			set |= 1 << 2
		case RuleGPUMemory:
			set |= 1 << 3
		case RuleKV:
			set |= 1 << 4
		case RuleQueue:
			set |= 1 << 5
		case RuleHeadroom:
			set |= 1 << 6
		case RuleHealth:
			set |= 1 << 7
		case RuleBreaker:
			set |= 1 << 8
		case RuleBlocked:
			set |= 1 << 9
		case RulePanic:
			set |= 1 << 10
		}
	}
	return set
}
