package load

import (
	"slices"
	"time"

	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/load/pools"
)

const (
	// minTokens are the first tokens of an endpoint that its average needs to be compared.
	minTokens = 3
	// freshFor is how long an average counts while nothing new comes: a Backend that was slow gets little, and could not show otherwise
	// that it is no more.
	freshFor = 30 * time.Second
)

// compare gives the ratios of a pool. The caller holds work.
func (c *Controller) compare(id string) pools.Ratio {
	return pools.Ratio{Price: c.ratios[id], Peers: c.peers[id]}
}

// meet compares how soon the Backends of a rule answer. The caller holds work.
func (c *Controller) meet(now time.Time) {
	own := map[string]time.Duration{}
	wanted := false
	for id, p := range *c.pools.Load() {
		p.mu.Lock()
		wanted = wanted || p.conf.Weigh.AcrossBackends
		if d := p.firstToken(now); d > 0 {
			own[id] = d
		}
		p.mu.Unlock()
	}
	c.peers = nil
	if !wanted {
		return
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
		if s := e.Feedback.State(now); s.TTFTCount >= minTokens && now.Sub(s.TTFTAt) < freshFor && !e.Isolated() {
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
	out := map[string]float64{}
	for _, r := range routes {
		times := map[int32][]time.Duration{} // by priority
		for _, m := range r.Members {
			if d := own[m.Backend]; d > 0 && m.Weight > 0 {
				times[m.Priority] = append(times[m.Priority], d)
			}
		}
		for _, list := range times {
			slices.Sort(list)
		}
		for _, m := range r.Members {
			list, d := times[m.Priority], own[m.Backend]
			if len(list) < 2 || d <= 0 || m.Weight == 0 {
				continue
			}
			median := (list[(len(list)-1)/2] + list[len(list)/2]) / 2
			v := float64(median) / float64(d)
			if before, known := out[m.Backend]; !known || v < before {
				out[m.Backend] = v
			}
		}
	}
	return out
}
