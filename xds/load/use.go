package load

import (
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"github.com/weir-dev/weir/xds/compile"
)

// Steering is what a version says about steering.
type Steering struct {
	Pools     map[string]*compile.Pool
	Steered   map[string]compile.SteeredRoute
	Endpoints map[string]*endpointv3.ClusterLoadAssignment // of the pools, by cluster
}

// SteeringOf takes out of a version what a Controller needs.
func SteeringOf(v *compile.Version) *Steering {
	s := &Steering{Pools: v.Pools, Steered: v.Steered, Endpoints: map[string]*endpointv3.ClusterLoadAssignment{}}
	for _, p := range v.Pools {
		if a := v.Endpoints[p.Cluster]; a != nil {
			s.Endpoints[p.Cluster] = a
		}
	}
	return s
}

// Use steers the pools of a version that is about to be decided by. Call it before anything asks for one of them.
func (c *Controller) Use(v *Steering) {
	c.work.Lock()
	defer c.work.Unlock()
	now := c.opts.Now()
	c.ratios, c.priced = priceRatios(v.Pools, v.Steered, now), now
	old := *c.pools.Load()
	pools, clusters := make(map[string]*pool, len(v.Pools)), make(map[string]*pool, len(v.Pools))
	c.across = false
	for id, conf := range v.Pools {
		c.across = c.across || conf.Weigh.AcrossBackends
		p := old[id]
		if p == nil {
			p = &pool{}
		}
		p.mu.Lock()
		p.configure(conf, v.Endpoints[conf.Cluster])
		p.expect(now)
		c.compute(id, p, now)
		pools[id], clusters[conf.Cluster] = p, p
	}
	c.pools.Store(&pools)
	c.clusters.Store(&clusters)
	for id, p := range old {
		if pools[id] == nil {
			p.close()
			c.metrics.forget(id)
		}
	}
	rules := map[string]bool{}
	for _, p := range v.Pools {
		if p.Breaker != nil {
			rules[p.Breaker.ID] = true
		}
	}
	c.opts.Picker.Retain(func(id string) bool { return v.Pools[id] != nil && v.Pools[id].Pick != nil })
	c.opts.Breakers.Retain(func(id string) bool { return rules[id] }, now)
	c.watched = v.Pools
	c.watch()
	c.want(v.Pools)
	c.mu.Lock()
	c.routes = v.Steered
	c.published.weights, c.published.changed = nil, true // those of before may have been made of other numbers
	c.mu.Unlock()
	c.awake()
}

// watch reads and checks what nobody else reads and checks of the pools in use. The caller holds work.
func (c *Controller) watch() {
	if err := c.watcher.set(c.watched, c.own); err != nil {
		c.opts.Log.Error("some endpoints cannot be watched", "error", err)
	}
}
