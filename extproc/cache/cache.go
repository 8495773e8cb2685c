package cache

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/internal/redisconn"
)

// Cache keeps answers. It is safe for concurrent use.
type Cache struct {
	now     func() time.Time
	random  func() float64
	log     *slog.Logger
	metrics *metrics
	budget  budget
	purges  *purges
	queue   *queue

	redis   atomic.Pointer[remote] // nil: there is none
	changed chan struct{}          // Run looks at redis again

	tiers sync.Map    // Policy.ID to *tier
	told  atomic.Bool // Use has said which policies are in use
	using sync.Mutex  // held by Use

	mu      sync.Mutex
	flights map[flightID]*flight
	closed  bool
	flying  sync.WaitGroup
}

// flightID is what flights are told apart by: nobody joins one of another owner, whatever the key.
type flightID struct {
	key           Key
	policy, owner string
}

// tier is the memory of one policy; memory is nil where it has none.
type tier struct {
	memory *memory
	policy atomic.Pointer[Policy] // as Use had it last
}

// Options of a Cache. The zero value of each is useful.
type Options struct {
	// FlightBytes bounds what all answers that are being bought take in memory together before they are kept; 0: 256 MiB.
	// What is beyond is passed on to its callers through a window and not kept.
	FlightBytes int64
	Now         func() time.Time
	Random      func() float64 // from 0 to 1, for jitter and early refreshes
	Log         *slog.Logger
	Registry    prometheus.Registerer // takes the metrics
}

const defaultFlightBytes = 256 << 20

// New makes a Cache, with its memory alone.
func New(o Options) *Cache {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Float64
	}
	if o.FlightBytes == 0 {
		o.FlightBytes = defaultFlightBytes
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := &Cache{
		now: o.Now, random: o.Random, log: o.Log, budget: budget{most: o.FlightBytes},
		purges: &purges{}, flights: map[flightID]*flight{}, changed: make(chan struct{}, 1),
	}
	c.queue = newQueue(c)
	c.metrics = newMetrics(o.Registry, c)
	return c
}

// Share keeps answers in a Redis from now on, of policies that say so; nil: in memory alone. All keys have the prefix; replica is
// unlike that of any other process. Run has to run. The connection of a Share before may be closed when it returns; what waits to be
// written goes to the new one.
func (c *Cache) Share(conn *redisconn.Conn, prefix, replica string) {
	var fresh *remote
	if conn != nil {
		fresh = newRemote(c, conn, prefix, replica)
	}
	c.share(fresh)
}

func (c *Cache) share(fresh *remote) {
	if old := c.redis.Swap(fresh); old != nil {
		old.retired.Store(true)
		old.up.Store(false)
	}
	c.metrics.up.Set(0)
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// Run keeps in touch with Redis and the other replicas until ctx ends. Without Redis it only waits.
func (c *Cache) Run(ctx context.Context) {
	for ctx.Err() == nil {
		while, stop := context.WithCancel(ctx)
		var running sync.WaitGroup
		if rm := c.redis.Load(); rm != nil {
			running.Go(func() { rm.run(while) })
		}
		select {
		case <-ctx.Done():
		case <-c.changed:
		}
		stop()
		running.Wait()
	}
}

// Close waits, while ctx lasts, until what is being bought and what waits to be written has gone where it belongs. Then nothing
// is kept any more. The error says what was lost.
func (c *Cache) Close(ctx context.Context) error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	done := make(chan struct{})
	go func() {
		c.flying.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		c.mu.Lock()
		for _, f := range c.flights {
			f.cancel(context.Cause(ctx))
		}
		c.mu.Unlock()
	}
	return c.queue.close(ctx)
}

// Use says which policies are in use: it alone makes their memory, changes its size, and frees that of the others.
func (c *Cache) Use(policies []*Policy) {
	c.using.Lock()
	defer c.using.Unlock()
	c.told.Store(true)
	used := map[string]*Policy{}
	for _, p := range policies {
		used[p.ID] = p
		c.adopt(p)
	}
	c.tiers.Range(func(id, t any) bool {
		if used[id.(string)] == nil {
			c.tiers.Delete(id)
			if m := t.(*tier).memory; m != nil {
				m.clear()
			}
			c.metrics.forget(id.(string))
		}
		return true
	})
	if rm := c.redis.Load(); rm != nil {
		rm.use(used)
	}
}

// tier of a policy that is in use, whichever version of it asks: what is in flight across a change of the configuration has the one before.
// nil where it has no memory, or is in use no more. Until somebody says what is in use, every policy is that asks.
func (c *Cache) tier(p *Policy) *memory {
	t, ok := c.tiers.Load(p.ID)
	if !ok && !c.told.Load() {
		t, _ = c.tiers.LoadOrStore(p.ID, c.newTier(p))
	}
	if t == nil {
		return nil
	}
	return t.(*tier).memory
}

func (c *Cache) newTier(p *Policy) *tier {
	t := &tier{}
	t.policy.Store(p)
	if p.MemoryBytes > 0 {
		t.memory = newMemory(p.MemoryBytes, c.metrics.evictions.WithLabelValues(p.ID).Inc)
	}
	return t
}

// adopt has the tier of a policy be as the policy says.
func (c *Cache) adopt(p *Policy) {
	if have, ok := c.tiers.Load(p.ID); ok {
		t := have.(*tier)
		if (t.memory != nil) == (p.MemoryBytes > 0) {
			t.policy.Store(p)
			if t.memory != nil {
				t.memory.resize(p.MemoryBytes)
			}
			return
		}
		if t.memory != nil {
			defer t.memory.clear()
		}
	}
	c.tiers.Store(p.ID, c.newTier(p))
}

// Get looks for an answer in memory and then in Redis.
func (c *Cache) Get(ctx context.Context, a Ask) Lookup {
	l := c.lookup(ctx, &a)
	c.metrics.lookup(a.Policy.ID, &l)
	return l
}

func (c *Cache) lookup(ctx context.Context, a *Ask) Lookup {
	p := a.Policy
	from, now := c.purges.mark(), c.now()
	m := c.tier(p)
	r := m.find(a)
	l := c.look(r, a, now, Memory)
	if l.Outcome == Hit || l.Outcome == Negative {
		if p.Redis && p.Write == WriteAside && c.redis.Load() != nil && !r.inRedis.Load() {
			c.queue.add(p, r)
		}
		return l
	}
	rm := c.redis.Load()
	if !p.Redis || rm == nil {
		return l
	}
	// What is stale here may have been bought again by another replica.
	if there := rm.get(ctx, a); there != nil && (r == nil || there.entry.Stored.After(r.entry.Stored)) {
		if found := c.look(there, a, now, Redis); found.Outcome != Miss {
			c.promote(p, there, from)
			return found
		}
	}
	return l
}

// look judges a record that was found; nil is none.
func (c *Cache) look(r *record, a *Ask, now time.Time, t Tier) Lookup {
	if r == nil {
		return Lookup{}
	}
	f, age, again := r.judge(a, now, c.random())
	l := Lookup{Entry: r.entry, Age: age, Tier: t}
	switch {
	case f == gone:
		return Lookup{}
	case f == stale:
		l.Outcome = Stale
	case r.negative:
		l.Outcome = Negative
	default:
		l.Outcome = Hit
	}
	l.Refresh = again && r.claimRefresh(now)
	return l
}

// promote keeps in memory what was found in Redis.
func (c *Cache) promote(p *Policy, r *record, from mark) {
	if m := c.tier(p); m != nil {
		c.remember(m, r, from)
	}
}

// remember keeps a record in memory, unless it has been purged since. A purge that comes at the same time finds the record,
// or is found here.
func (c *Cache) remember(m *memory, r *record, from mark) {
	m.set(r)
	if c.purges.since(from.seq, r) {
		m.drop(r)
	}
}

// keep stores what was bought where the policy says. Where other replicas wait for it, it goes to
// Redis whatever the policy says.
func (c *Cache) keep(p *Policy, r *record, from mark, l *lease) {
	if c.purges.since(from.seq, r) {
		c.metrics.dropped.WithLabelValues(p.ID, "purged").Inc()
		return
	}
	m := c.tier(p)
	if m != nil {
		c.remember(m, r, from)
	}
	rm := c.redis.Load()
	if !p.Redis || rm == nil {
		return
	}
	write := func() { c.queue.again(p, rm.put(context.Background(), []*record{r}, p)) }
	switch {
	case p.Write == WriteThrough:
		write()
	case p.Write == WriteBehind || m == nil:
		c.queue.add(p, r)
	}
	if l != nil && p.Write != WriteThrough {
		l.awaited = write
	}
}

// Do buys an answer that Get did not find. Of many callers who want the same at once the fill of one is run, in a goroutine of
// its own, and all read what it writes, live and from the first byte. A caller that leaves does not end it while others read.
// The reader must be closed.
func (c *Cache) Do(ctx context.Context, a Ask, fill Fill) *Reader {
	id := flightID{a.Key, a.Policy.ID, a.owner()}
	var made *flight
	var mine *Reader
	for {
		c.mu.Lock()
		f := c.flights[id]
		if f == nil {
			// The one before may have ended since Get looked.
			if r := c.tier(a.Policy).find(&a); r != nil {
				if fr, age, _ := r.judge(&a, c.now(), 1); fr == fresh {
					c.mu.Unlock()
					return kept(r, age)
				}
			}
			if made == nil {
				made = c.newFlight(a, false)
				mine = made.join(ctx, fill, Miss)
				made.leader = mine
			}
			c.flights[id] = made
			c.flying.Add(1)
			c.mu.Unlock()
			go made.start(ctx, fill)
			return mine
		}
		c.mu.Unlock()
		if r := f.join(ctx, fill, Shared); r != nil {
			c.metrics.shared.WithLabelValues(a.Policy.ID).Inc()
			return r
		}
		c.forget(f)
	}
}

// Refresh buys an answer again in the background, unless somebody is at it.
func (c *Cache) Refresh(ctx context.Context, a Ask, fill Fill) {
	f := c.newFlight(a, true)
	c.mu.Lock()
	if c.closed || c.flights[f.id()] != nil {
		c.mu.Unlock()
		return
	}
	c.flights[f.id()] = f
	c.flying.Add(1)
	c.mu.Unlock()
	c.metrics.refreshes.WithLabelValues(a.Policy.ID).Inc()
	go f.start(ctx, fill)
}

// forget takes a flight out of those that may be joined.
func (c *Cache) forget(f *flight) {
	c.mu.Lock()
	if c.flights[f.id()] == f {
		delete(c.flights, f.id())
	}
	c.mu.Unlock()
}

// kept is a reader of a record.
func kept(r *record, age time.Duration) *Reader {
	f := &flight{buf: newBuffer(0, &budget{}), over: true, bought: r.entry.Purchase}
	f.buf.fill(r.entry)
	f.buf.ended = true
	o := Hit
	if r.negative {
		o = Negative
	}
	return &Reader{flight: f, buf: f.buf, age: age, outcome: o}
}
