package load

import (
	"time"

	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/load/pools"
	"github.com/weir-dev/weir/xds/load/weigh"
)

// freshFor is how long an average counts while nothing new comes: a Backend that was slow gets little, and could not show otherwise
// that it is no more.
const freshFor = 30 * time.Second

// compare gives the ratios of a pool. The caller holds work.
func (c *Controller) compare(id string) pools.Ratio {
	return pools.Ratio{Price: c.ratios[id], Peers: c.peers[id]}
}

// meet compares how soon the Backends of a rule answer, where a policy wants to know. The caller holds work.
func (c *Controller) meet(now time.Time) {
	c.peers = nil
	if !c.across {
		return
	}
	own := map[string]time.Duration{}
	for id, p := range *c.pools.Load() {
		p.mu.Lock()
		if d := p.firstToken(now); d > 0 {
			own[id] = d
		}
		p.mu.Unlock()
	}
	c.mu.Lock()
	routes := c.routes
	c.mu.Unlock()
	c.peers = peerRatios(own, routes)
}

// firstToken is the average time to the first token of a pool; 0 where it is not known. The caller holds mu.
func (p *pool) firstToken(now time.Time) time.Duration {
	var sum time.Duration
	n := time.Duration(0)
	for _, e := range p.endpoints {
		if s := e.Feedback.State(now); s.TTFTCount >= weigh.MinRecords && now.Sub(s.TTFTAt) < freshFor && !e.Isolated() {
			sum, n = sum+s.TTFT, n+1
		}
	}
	if n == 0 {
		return 0
	}
	return sum / n
}

// peerRatios are the median time to the first token of the Backends that serve a rule with this one, at the same priority, divided by its
// own. Where it serves several rules, the least counts.
func peerRatios(own map[string]time.Duration, routes map[string]compile.SteeredRoute) map[string]float64 {
	times := make(map[string]float64, len(own))
	for id, d := range own {
		times[id] = float64(d)
	}
	return ratios(times, routes, func(took float64, all []float64) (ratio float64, known bool) {
		return weigh.Median(all) / took, len(all) > 1
	})
}

// ratios compare each Backend with those that serve a rule with it, at the same priority: of gets its own value and all of theirs. Where
// it serves several rules, the least counts. Backends whose own value is not known are left out.
func ratios(own map[string]float64, routes map[string]compile.SteeredRoute, of func(own float64, all []float64) (ratio float64, known bool)) map[string]float64 {
	out := make(map[string]float64, len(own))
	for _, r := range routes {
		all := map[int32][]float64{} // by priority
		for _, m := range r.Members {
			if v, known := own[m.Backend]; known && m.Weight > 0 {
				all[m.Priority] = append(all[m.Priority], v)
			}
		}
		for _, m := range r.Members {
			v, known := own[m.Backend]
			if !known || m.Weight == 0 {
				continue
			}
			ratio, known := of(v, all[m.Priority])
			if before, some := out[m.Backend]; known && (!some || ratio < before) {
				out[m.Backend] = ratio
			}
		}
	}
	return out
}
