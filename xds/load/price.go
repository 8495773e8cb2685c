package load

import (
	"time"

	"github.com/weir-dev/weir/usage/money"
	"github.com/weir-dev/weir/xds/compile"
)

// repriceEvery is how often prices are looked at: they are dated, and change at midnight at most.
const repriceEvery = time.Minute

// inputShare is how many tokens of input a request has for one of output, about, where the prices of Backends are compared.
const inputShare = 3

// prices are the price ratios of the pools.
func (c *Controller) prices(now time.Time) map[string]float64 {
	pools := *c.pools.Load()
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.priced) >= repriceEvery {
		of := make(map[string]*compile.Pool, len(pools))
		for id, p := range pools {
			p.mu.Lock()
			of[id] = p.conf
			p.mu.Unlock()
		}
		c.ratios, c.priced = priceRatios(of, c.routes, now), now
	}
	return c.ratios
}

// priceRatios are the price of the cheapest Backend that serves a rule with this one, divided by its own; none where a price is not known.
func priceRatios(pools map[string]*compile.Pool, routes map[string]compile.SteeredRoute, now time.Time) map[string]float64 {
	own := make(map[string]float64, len(pools))
	for id, p := range pools {
		if v := blended(p.Prices, now); v > 0 {
			own[id] = v
		}
	}
	out := make(map[string]float64, len(own))
	for _, r := range routes {
		cheapest := 0.0
		for _, m := range r.Members {
			if v := own[m.Backend]; v > 0 && (cheapest == 0 || v < cheapest) {
				cheapest = v
			}
		}
		for _, m := range r.Members {
			v := own[m.Backend]
			if v == 0 {
				continue
			}
			if ratio, known := out[m.Backend]; !known || cheapest/v < ratio {
				out[m.Backend] = cheapest / v
			}
		}
	}
	return out
}

// blended is what a token costs at a Backend, on average over its models; 0 where nobody has told.
func blended(prices []*money.Table, now time.Time) float64 {
	sum, n := 0.0, 0
	for _, t := range prices {
		if p := t.At(now); p != nil {
			sum += (inputShare*float64(p.Input) + float64(p.Output)) / (inputShare + 1)
			n++
		}
	}
	if n == 0 {
		return 0
	}
	return sum / float64(n)
}
