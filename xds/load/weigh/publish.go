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

// Worth says whether the new results are worth telling who has the old ones: an endpoint came, went, was isolated or came back, or a weight
// changed by at least percent of the old one.
func Worth(old, next []Result, percent int) bool {
	if len(old) != len(next) {
		return true
	}
	for i := range old {
		if old[i].Key != next[i].Key {
			return worthAny(old, next, percent)
		}
		if worth(&old[i], &next[i], percent) {
			return true
		}
	}
	return false
}

// worthAny is Worth for results in different orders.
func worthAny(old, next []Result, percent int) bool {
	byKey := make(map[string]*Result, len(old))
	for i := range old {
		byKey[old[i].Key] = &old[i]
	}
	for i := range next {
		o := byKey[next[i].Key]
		if o == nil || worth(o, &next[i], percent) {
			return true
		}
		delete(byKey, next[i].Key)
	}
	return len(byKey) > 0
}

func worth(old, next *Result, percent int) bool {
	if (old.Weight == 0) != (next.Weight == 0) || old.Status == Isolated != (next.Status == Isolated) {
		return true
	}
	if old.Weight == next.Weight {
		return false
	}
	change := math.Abs(float64(old.Weight) - float64(next.Weight))
	return change*100 >= float64(percent)*float64(old.Weight)
}
