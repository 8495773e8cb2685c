package load

import (
	"math"

	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/load/pools"
	"github.com/weir-dev/weir/xds/load/weigh"
)

// shareScale is how much of a weight of 1 in a Route an untouched Backend gets: whole numbers must tell shares of a percent apart.
const shareScale = 1000

// routeWeights are the weights of a route's members. Load goes to the lowest priority number that has a Backend which can take it;
// where none can, to the first as the Route says. Nil where the Route gives weight to nobody.
func routeWeights(r *compile.SteeredRoute, of func(string) pools.Capacity) []uint32 {
	now := make([]pools.Capacity, len(r.Members))
	for i, m := range r.Members {
		now[i] = of(m.Backend)
	}
	weights := make([]float64, len(r.Members))
	for _, can := range [...]func(pools.Capacity) bool{
		func(c pools.Capacity) bool { return c.Usable && c.Share > 0 },
		func(c pools.Capacity) bool { return c.Usable }, // those that want to be left alone, and will tell the caller so
		func(pools.Capacity) bool { return true },
	} {
		lowest, found := int32(math.MaxInt32), false
		for i, m := range r.Members {
			if m.Weight > 0 && can(now[i]) {
				lowest, found = min(lowest, m.Priority), true
			}
		}
		if !found {
			continue
		}
		for i, m := range r.Members {
			if m.Priority != lowest || m.Weight == 0 || !can(now[i]) {
				continue
			}
			share := now[i].Share
			if share <= 0 {
				share = 1
			}
			weights[i] = float64(m.Weight) * share * shareScale
		}
		return whole(weights)
	}
	return nil
}

// whole rounds weights. What is above 0 stays so. Envoy refuses weights whose sum has more than 32 bits: then all become
// smaller by one factor.
func whole(weights []float64) []uint32 {
	sum := 0.0
	for _, w := range weights {
		sum += w
	}
	scale := 1.0
	if most := float64(math.MaxUint32) - float64(len(weights)); sum > most { // rounding adds less than 1 to each
		scale = most / sum
	}
	out := make([]uint32, len(weights))
	for i, w := range weights {
		if w > 0 {
			out[i] = uint32(max(1, math.Round(w*scale)))
		}
	}
	return out
}

// differ is how the weights of a route's members differ by so many percent in what some member gets. Who gets anything at all is an event.
func differ(before, after []uint32, percent int) weigh.Change {
	if len(before) != len(after) {
		return weigh.Event
	}
	var sumBefore, sumAfter float64
	for i := range after {
		sumBefore, sumAfter = sumBefore+float64(before[i]), sumAfter+float64(after[i])
	}
	change := weigh.Same
	for i := range after {
		if (before[i] == 0) != (after[i] == 0) {
			return weigh.Event
		}
		if before[i] == 0 {
			continue
		}
		x, y := float64(before[i])/sumBefore, float64(after[i])/sumAfter
		if x != y && math.Abs(x-y)*100 >= float64(percent)*max(x, y) {
			change = weigh.Drift
		}
	}
	return change
}
