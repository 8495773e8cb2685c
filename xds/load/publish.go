package load

import (
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"github.com/weir-dev/weir/xds/load/pools"
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
	weights map[string]told      // by route key
}

// told are the weights of a route's members that Envoy was told, and when.
type told struct {
	weights []uint32
	at      time.Time
}

// member is what routes must know of a pool.
type member struct {
	percent  int
	capacity pools.Capacity // for Envoy
	event    bool           // what is told of it now is more than drift
}

// publish tells Envoy what is worth telling. The caller holds work.
func (c *Controller) publish(now time.Time) {
	all := *c.pools.Load()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.published
	if len(all) == 0 && s.serial == 0 {
		return // nobody has ever been steered
	}
	changed := s.changed || !s.again.IsZero() && !now.Before(s.again)
	s.changed = false
	overlay := &serve.Overlay{
		Endpoints: make(map[string]*endpointv3.ClusterLoadAssignment, len(all)), Weights: make(map[string][]uint32, len(c.routes)),
	}
	members := make(map[string]member, len(all))
	for id, p := range all {
		p.mu.Lock()
		tell, event := p.weights.Tell(now)
		members[id] = member{p.conf.PublishPercent, p.weights.Envoy(), event}
		if p.template != nil {
			if tell {
				p.assigned, changed = assignment(p.template, p.weights.Results()), true
			}
			overlay.Endpoints[p.conf.Cluster] = p.assigned
		}
		p.mu.Unlock()
	}
	of := func(id string) pools.Capacity {
		if m, ok := members[id]; ok {
			return m.capacity
		}
		return pools.Capacity{Share: 1, Usable: true}
	}
	weights := make(map[string]told, len(c.routes))
	for key, r := range c.routes {
		w := routeWeights(&r, of)
		if w == nil {
			continue
		}
		least, event := 100, false
		for _, m := range r.Members {
			if now, ok := members[m.Backend]; ok {
				least, event = min(least, now.percent), event || now.event
			}
		}
		next, same := told{w, now}, false
		if old, ok := s.weights[key]; ok {
			change := differ(old.weights, w, least)
			if same = change == weigh.Same || change == weigh.Drift && !event && !pools.Drifted(old.at, now); same {
				next = old
			}
		}
		changed = changed || !same
		weights[key], overlay.Weights[key] = next, next.weights
	}
	s.weights = weights
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
