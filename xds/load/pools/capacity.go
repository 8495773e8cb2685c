package pools

import (
	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/xds/load/weigh"
)

// Capacity is what a pool can take of its weight in Routes, and whether it can take requests at all.
type Capacity struct {
	Share  float64
	Usable bool
}

// tried says whether an isolated endpoint gets the few requests that a half-open breaker lets through. Envoy knows it as unhealthy, and
// the picker names it.
func tried(in *weigh.Input, r *weigh.Result) bool {
	return r.Status == weigh.Isolated && r.Causes == weigh.CauseBreaker && in.Breaker == breaker.HalfOpen
}

// leastTries is the least part of an endpoint that counts while it is tried.
const leastTries = 0.01

// capacities are what a pool can take: by decisions of Weir's, and by Envoy alone. Endpoints that are to be tried count for the former as
// if their warm-up began, or a pool of which nothing else is left would never be asked again.
func capacities(policy *weigh.Policy, in []weigh.Input, results []weigh.Result) (decide, envoy Capacity) {
	var tries, bases float64
	part := 1.0
	if policy.WarmUp > 0 {
		part = max(policy.WarmUpFrom, leastTries)
	}
	for i := range results {
		r := &results[i]
		bases += r.Base
		if r.Status != weigh.Isolated {
			envoy.Usable = true
		} else if tried(&in[i], r) {
			decide.Usable = true
			tries += r.Base * r.Factor * part
		}
	}
	envoy.Share = weigh.Overall(results)
	decide.Share, decide.Usable = envoy.Share, decide.Usable || envoy.Usable
	if bases > 0 {
		decide.Share += tries / bases
	}
	return decide, envoy
}
