// Package load steers: it gathers what is known of the endpoints of every pool, has their weights computed, and tells Envoy
// and the picker. One Controller does so for all Backends that a LoadPolicy names.
//
// What endpoints tell comes in by Observe, Report, and the sinks of the scraper and the prober, each into its pool under the
// pool's own lock. One goroutine at a time, Run's or that of Use, turns it into weights. Locks are taken in the order
// Controller.work, Controller.mu, pool.mu.
package load

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/load/weigh"
	"github.com/weir-dev/weir/xds/serve"
)

// leastTick is the time between two computations, however much there is that calls for one.
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
	// Signals are what others have read of endpoints, handed to Take. What they have not read for a while, or cannot reach, the
	// Controller reads itself. nil: it reads everything itself.
	Signals Signals
	// Registry takes the metrics.
	Registry prometheus.Registerer
	Log      *slog.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Controller steers pools. It is safe for concurrent use.
type Controller struct {
	opts    Options
	watcher *watcher
	metrics *metrics
	haste   haste
	kick    chan struct{}
	all     atomic.Bool // every pool is to be computed at once
	// pools by Backend ID. The map is never changed, but replaced: requests look into it.
	pools atomic.Pointer[map[string]*pool]
	// clusters are the pools by the name of their cluster.
	clusters atomic.Pointer[map[string]*pool]

	// work is held by who computes and publishes: what Use has changed must not be followed by what was computed before it.
	work    sync.Mutex
	watched map[string]*compile.Pool
	ratios  map[string]float64 // of prices, by Backend ID
	across  bool               // some policy compares Backends by peers
	peers   map[string]float64 // of times to the first token, by Backend ID
	priced  time.Time          // when ratios were worked out
	looked  time.Time          // when was looked last what others read
	alone   bool               // others read nothing of some endpoints

	mu        sync.Mutex
	routes    map[string]compile.SteeredRoute
	published published
}

// New makes a Controller. It does nothing before Run.
func New(o Options) *Controller {
	if o.Now == nil {
		o.Now = time.Now
	}
	c := &Controller{opts: o, kick: make(chan struct{}, 1), published: published{sent: map[uint64]time.Time{}}}
	c.pools.Store(&map[string]*pool{})
	c.clusters.Store(&map[string]*pool{})
	c.metrics = newMetrics(o.Registry, c)
	c.watcher = newWatcher(c.read, c.checked, o.Now, o.Log)
	return c
}

// Run steers until ctx ends.
func (c *Controller) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { c.watcher.run(ctx) })
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.kick:
		case <-timer.C:
		}
		timer.Reset(c.tick(c.opts.Now()))
		// What comes meanwhile is taken in together.
		select {
		case <-ctx.Done():
			return
		case <-time.After(leastTick):
		}
	}
}

// Wake makes all weights be computed now, because something has changed that they depend on.
func (c *Controller) Wake() {
	c.all.Store(true)
	c.awake()
}

// wake makes the weights of one pool be computed now.
func (c *Controller) wake(p *pool) {
	p.wanted.Store(true)
	c.awake()
}

func (c *Controller) awake() {
	select {
	case c.kick <- struct{}{}:
	default: // Run has not seen the last one
	}
}

// tick computes the pools whose time has come, or that are wanted, publishes what has changed, and says when to come again.
func (c *Controller) tick(now time.Time) time.Duration {
	c.work.Lock()
	defer c.work.Unlock()
	all := c.all.Swap(false)
	c.reprice(now)
	c.meet(now)
	c.look(now)
	next := idleTick
	for id, p := range *c.pools.Load() {
		// Before what it stands for is looked at: what comes later asks again.
		wanted := p.wanted.Swap(false) || all
		p.mu.Lock()
		if left := p.tick() - now.Sub(p.computed); !wanted && left > 0 {
			p.mu.Unlock()
			next = min(next, left)
			continue
		}
		next = min(next, p.tick())
		c.compute(id, p, now)
	}
	c.publish(now)
	c.metrics.computed.Observe(c.opts.Now().Sub(now).Seconds())
	return next
}

// compute weighs the endpoints of a pool and tells the picker. The caller holds work and the pool's mu, which is given up.
func (c *Controller) compute(id string, p *pool, now time.Time) {
	before := p.weights.Blocked()
	moved := p.weights.Compute(now, c.opts.Breakers, c.compare(id))
	decide, blocked := p.weights.Decide(), p.weights.Blocked()
	p.computed = now
	p.decide.Store(&decide)
	policy, picks := p.conf.Pick, p.weights.Picks()
	p.mu.Unlock()
	if policy != nil {
		c.opts.Picker.Update(id, policy, picks)
	}
	switch {
	case blocked && !before:
		c.opts.Log.Warn("a Backend wants to be left alone: its endpoints answer 429, and are asked only where there is no other Backend", "backend", id)
	case before && !blocked:
		c.opts.Log.Info("a Backend may be asked again that wanted to be left alone", "backend", id)
	}
	for i := range moved {
		r := &moved[i]
		if r.Status == weigh.Isolated {
			c.metrics.isolations.WithLabelValues(id).Inc()
			c.opts.Log.Warn("an endpoint is isolated", "backend", id, "endpoint", r.Key, "why", r.Explain())
		} else {
			c.opts.Log.Info("an endpoint is back", "backend", id, "endpoint", r.Key, "weight", r.Weight)
		}
	}
}

// Share is what a Backend should get of its weight, and whether it can take requests at all. One that can and should get nothing has
// asked to be left alone. Backends that nobody steers always can.
func (c *Controller) Share(backend string) (share float64, usable bool) {
	p := (*c.pools.Load())[backend]
	if p == nil {
		return 1, true
	}
	now := p.decide.Load()
	return now.Share, now.Usable
}
