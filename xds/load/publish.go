package load

import (
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"github.com/weir-dev/weir/xds/load/weigh"
	"github.com/weir-dev/weir/xds/serve"
)

const (
	// maxUnanswered overlays are remembered that Envoy has not answered for. While there is none, nobody does.
	maxUnanswered = 256
	// againAfter is when what Envoy has refused is told once more, if nothing else was in the meantime. It goes on by what it had before.
	againAfter = 10 * time.Second
)

// published is what Envoy has been told. It belongs to the Controller's mu.
type published struct {
	serial  uint64
	applied uint64               // of the last overlay that Envoy has taken
	sent    map[uint64]time.Time // when overlays were made that Envoy has not answered for
	refused string               // why Envoy refused the last overlay; "" where it took it
	again   time.Time            // when to tell what was refused; zero: nothing was
	changed bool                 // something must be told whatever has become of the weights
	weights map[string][]uint32  // by route key
}

// publish tells Envoy what is worth telling. The caller holds work.
func (c *Controller) publish(now time.Time) {
	pools := *c.pools.Load()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.published
	changed := s.changed || !s.again.IsZero() && !now.Before(s.again)
	s.changed = false
	overlay := &serve.Overlay{
		Endpoints: make(map[string]*endpointv3.ClusterLoadAssignment, len(pools)), Weights: make(map[string][]uint32, len(c.routes)),
	}
	percent, capacities := make(map[string]int, len(pools)), make(map[string]capacity, len(pools))
	for id, p := range pools {
		p.mu.Lock()
		percent[id], capacities[id] = p.conf.PublishPercent, p.envoy
		if p.template != nil {
			if p.assigned == nil || weigh.Worth(p.published, p.results, p.conf.PublishPercent) {
				p.assigned, p.published, changed = assignment(p.template, p.results), p.results, true
			}
			overlay.Endpoints[p.conf.Cluster] = p.assigned
		}
		p.mu.Unlock()
	}
	of := func(id string) capacity {
		if now, ok := capacities[id]; ok {
			return now
		}
		return capacity{1, true}
	}
	for key, r := range c.routes {
		w := routeWeights(&r, of)
		if w == nil {
			continue
		}
		least := 100
		for _, m := range r.Members {
			if n, ok := percent[m.Backend]; ok {
				least = min(least, n)
			}
		}
		if old := s.weights[key]; old != nil && !worth(old, w, least) {
			w = old
		} else {
			changed = true
		}
		overlay.Weights[key] = w
	}
	s.weights = overlay.Weights
	if !changed {
		return
	}
	s.serial++
	overlay.Serial, s.again = s.serial, time.Time{}
	s.sent[s.serial] = now
	delete(s.sent, s.serial-maxUnanswered)
	c.metrics.overlays.Inc()
	c.opts.Steer(overlay)
}

// Steered notes that Envoy has taken an overlay, or refused it and why.
func (c *Controller) Steered(serial uint64, at time.Time, refusal string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.published
	for n, made := range s.sent {
		if n > serial {
			continue
		}
		if refusal == "" {
			c.metrics.applied.Observe(at.Sub(made).Seconds()) // those that this one has overtaken are a part of it
		}
		delete(s.sent, n)
	}
	if refusal == "" {
		s.applied = max(s.applied, serial)
		if serial == s.serial {
			s.refused = ""
		}
		return
	}
	c.metrics.refused.Inc()
	s.refused = refusal
	if serial == s.serial {
		s.again = at.Add(againAfter)
	}
}
