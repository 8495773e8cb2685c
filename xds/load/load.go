// Package load steers: it gathers what is known of the endpoints of every pool, has their weights computed, and tells Envoy
// and the picker. One Controller does so for all Backends that a LoadPolicy names.
package load

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/load/probe"
	"github.com/weir-dev/weir/xds/load/scrape"
	"github.com/weir-dev/weir/xds/load/weigh"
	"github.com/weir-dev/weir/xds/serve"
)

// leastTick is the time between two computations of one pool, however much there is that calls for one.
const leastTick = 20 * time.Millisecond

// idleTick is how often the Controller looks around while there is no pool.
const idleTick = time.Second

// Options of a Controller.
type Options struct {
	// Picker is told of every endpoint, and Breakers are asked about it.
	Picker   *pick.Set
	Breakers *breaker.Set
	// Steer tells Envoy; it must not wait.
	Steer func(*serve.Overlay)
	// Registry takes the metrics.
	Registry prometheus.Registerer
	Log      *slog.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Controller steers pools. It is safe for concurrent use.
type Controller struct {
	opts    Options
	scraper *scrape.Scraper
	prober  *probe.Prober
	metrics *metrics
	kick    chan struct{}
	// pools by Backend ID. The map is never changed, but replaced: requests look into it.
	pools atomic.Pointer[map[string]*pool]
	// clusters are the pools by the name of their cluster.
	clusters atomic.Pointer[map[string]*pool]

	clientsMu sync.Mutex
	clients   map[string]client // by Backend ID, of pools behind TLS

	mu      sync.Mutex
	routes  map[string]compile.SteeredRoute
	weights map[string][]uint32 // by route key, as published
	serial  uint64
	sent    map[uint64]time.Time // when overlays were made that Envoy has not answered for
	applied uint64
	refused string // why Envoy refused the last overlay; "" where it took it
	changed bool   // something must be published whatever has become of the weights
	ratios  map[string]float64
	priced  time.Time // when ratios were worked out
}

// New makes a Controller. It does nothing before Run.
func New(o Options) *Controller {
	if o.Now == nil {
		o.Now = time.Now
	}
	c := &Controller{opts: o, kick: make(chan struct{}, 1), sent: map[uint64]time.Time{}}
	c.pools.Store(&map[string]*pool{})
	c.clusters.Store(&map[string]*pool{})
	c.metrics = newMetrics(o.Registry, c)
	c.scraper = scrape.New(scrape.Options{Sink: c.read, Now: o.Now, Log: o.Log})
	c.prober = probe.New(probe.Options{Sink: c.checked, Now: o.Now})
	return c
}

// Use steers the pools of a version that is about to be decided by. Call it before anything asks for one of them.
func (c *Controller) Use(v *Steering) {
	old := *c.pools.Load()
	pools, clusters := make(map[string]*pool, len(v.Pools)), make(map[string]*pool, len(v.Pools))
	now := c.opts.Now()
	ratios := priceRatios(v.Pools, v.Steered, now)
	for id, conf := range v.Pools {
		p := old[id]
		if p == nil {
			p = &pool{}
		}
		p.configure(conf, v.Endpoints[conf.Cluster])
		p.mu.Lock()
		p.compute(now, c.opts.Breakers, ratios[id])
		picks := p.picks()
		p.mu.Unlock()
		c.opts.Picker.Update(id, conf.Pick, picks)
		pools[id], clusters[conf.Cluster] = p, p
	}
	c.pools.Store(&pools)
	c.clusters.Store(&clusters)
	c.opts.Picker.Retain(func(id string) bool { return pools[id] != nil })
	rules := map[string]bool{}
	for _, p := range v.Pools {
		if p.Breaker != nil {
			rules[p.Breaker.ID] = true
		}
	}
	c.opts.Breakers.Retain(func(id string) bool { return rules[id] }, now)
	targets, checks := c.sources(v.Pools)
	if err := errors.Join(c.scraper.Set(targets), c.prober.Set(checks)); err != nil {
		c.opts.Log.Error("some endpoints cannot be watched", "error", err)
	}
	c.mu.Lock()
	c.routes, c.changed, c.ratios, c.priced = v.Steered, true, ratios, now
	c.mu.Unlock()
	c.Wake()
}

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

// Run steers until ctx ends.
func (c *Controller) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { c.scraper.Run(ctx) })
	wg.Go(func() { c.prober.Run(ctx) })
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		urgent := false
		select {
		case <-ctx.Done():
			return
		case <-c.kick:
			urgent = true
		case <-timer.C:
		}
		timer.Reset(c.tick(urgent))
		// What comes meanwhile is taken in together.
		select {
		case <-ctx.Done():
			return
		case <-time.After(leastTick):
		}
	}
}

// Wake makes the weights be computed now, because something has changed that they depend on.
func (c *Controller) Wake() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// tick computes the pools whose time has come, or all of them, publishes what has changed, and says when to come again.
func (c *Controller) tick(all bool) time.Duration {
	start := time.Now()
	now := c.opts.Now()
	next := idleTick
	ratios := c.prices(now)
	for id, p := range *c.pools.Load() {
		p.mu.Lock()
		if left := p.conf.Tick - now.Sub(p.computed); !all && left > 0 {
			next = min(next, left)
			p.mu.Unlock()
			continue
		}
		before := p.results
		p.compute(now, c.opts.Breakers, ratios[id])
		picks := p.picks()
		policy := p.conf.Pick
		c.tell(id, p, before)
		p.mu.Unlock()
		next = min(next, p.conf.Tick)
		c.opts.Picker.Update(id, policy, picks)
	}
	c.publish(now)
	c.metrics.computed.Observe(time.Since(start).Seconds())
	return next
}

// tell logs who was isolated and who came back. The caller holds the pool's mu.
func (c *Controller) tell(id string, p *pool, before []weigh.Result) {
	was := make(map[string]weigh.Status, len(before))
	for i := range before {
		was[before[i].Key] = before[i].Status
	}
	for i := range p.results {
		r := &p.results[i]
		old, known := was[r.Key]
		switch {
		case r.Status == weigh.Isolated && (!known || old != weigh.Isolated):
			c.metrics.isolations.WithLabelValues(id).Inc()
			c.opts.Log.Warn("an endpoint is isolated", "backend", id, "endpoint", r.Key, "why", r.Explain())
		case known && old == weigh.Isolated && r.Status != weigh.Isolated:
			c.opts.Log.Info("an endpoint is back", "backend", id, "endpoint", r.Key, "weight", r.Weight)
		}
	}
}

// publish tells Envoy what is worth telling.
func (c *Controller) publish(now time.Time) {
	pools := *c.pools.Load()
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := c.changed
	c.changed = false
	overlay := &serve.Overlay{Endpoints: make(map[string]*endpointv3.ClusterLoadAssignment, len(pools)), Weights: make(map[string][]uint32, len(c.routes))}
	percent := map[string]int{}
	for id, p := range pools {
		p.mu.Lock()
		percent[id] = p.conf.PublishPercent
		if p.template != nil {
			if p.assigned == nil || weigh.Worth(p.published, p.results, p.conf.PublishPercent) {
				byKey := make(map[string]*weigh.Result, len(p.results))
				for i := range p.results {
					byKey[p.results[i].Key] = &p.results[i]
				}
				p.assigned, p.published, changed = assignment(p.template, byKey), p.results, true
			}
			overlay.Endpoints[p.conf.Cluster] = p.assigned
		}
		p.mu.Unlock()
	}
	of := func(id string) member {
		if p := pools[id]; p != nil {
			return member{float64(p.share.Load()) / shareWhole, p.usable.Load()}
		}
		return member{1, true}
	}
	weights := make(map[string][]uint32, len(c.routes))
	for key, r := range c.routes {
		least := 100
		for _, m := range r.Members {
			if n, ok := percent[m.Backend]; ok {
				least = min(least, n)
			}
		}
		w := routeWeights(&r, of)
		if old := c.weights[key]; old != nil && !worth(old, w, least) {
			w = old
		} else {
			changed = true
		}
		weights[key] = w
	}
	c.weights = weights
	if !changed {
		return
	}
	maps.Copy(overlay.Weights, weights)
	c.serial++
	overlay.Serial = c.serial
	c.sent[c.serial] = now
	c.metrics.overlays.Inc()
	c.opts.Steer(overlay)
}

// Steered notes that Envoy has taken an overlay, or refused it and why.
func (c *Controller) Steered(serial uint64, at time.Time, refusal string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s, made := range c.sent {
		if s > serial {
			continue
		}
		if s == serial && refusal == "" {
			c.metrics.applied.Observe(at.Sub(made).Seconds())
		}
		delete(c.sent, s) // those that a newer one has overtaken are a part of it
	}
	c.refused = refusal
	if refusal != "" {
		c.metrics.refused.Inc()
		return
	}
	c.applied = max(c.applied, serial)
}

// Share is what a Backend should get of its weight, and whether it can take requests at all. Backends that nobody steers always can.
func (c *Controller) Share(backend string) (share float64, usable bool) {
	p := (*c.pools.Load())[backend]
	if p == nil {
		return 1, true
	}
	return float64(p.share.Load()) / shareWhole, p.usable.Load()
}
