package load

import (
	"slices"
	"time"

	"github.com/weir-dev/weir/usage/money"
	"github.com/weir-dev/weir/xds/compile"
)

// repriceEvery is how often prices are looked at: they are dated, and change at midnight at most.
const repriceEvery = time.Minute

// inputShare is how many tokens of input a request has for one of output, about, where the prices of Backends are compared.
const inputShare = 3

// leastRatio is the ratio of what costs something to what costs nothing.
const leastRatio = 0.001

// reprice brings the price ratios of the pools up to date. The caller holds work.
func (c *Controller) reprice(now time.Time) {
	if now.Sub(c.priced) < repriceEvery {
		return
	}
	of := map[string]*compile.Pool{}
	for id, p := range *c.pools.Load() {
		p.mu.Lock()
		of[id] = p.conf
		p.mu.Unlock()
	}
	c.mu.Lock()
	routes := c.routes
	c.mu.Unlock()
	c.ratios, c.priced = priceRatios(of, routes, now), now
}

// priceRatios are the price of the cheapest Backend that serves a rule with this one, at the same priority, divided by its own; none
// where a price is not known. Where it serves several rules, the least counts.
func priceRatios(pools map[string]*compile.Pool, routes map[string]compile.SteeredRoute, now time.Time) map[string]float64 {
	own := make(map[string]float64, len(pools))
	for id, p := range pools {
		if v, known := blended(p.Prices, now); known {
			own[id] = v
		}
	}
	return ratios(own, routes, func(price float64, all []float64) (ratio float64, known bool) {
		if price == 0 {
			return 1, true
		}
		return max(slices.Min(all)/price, leastRatio), true
	})
}

// blended is what a token costs at a Backend, on average over its models; unknown where nobody has told.
func blended(prices []*money.Table, now time.Time) (price float64, known bool) {
	sum, n := 0.0, 0
	for _, t := range prices {
		if p := t.At(now); p != nil {
			sum += (inputShare*float64(p.Input) + float64(p.Output)) / (inputShare + 1)
			n++
		}
	}
	if n == 0 {
		return 0, false
	}
	return sum / float64(n), true
}
