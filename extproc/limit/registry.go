package limit

import (
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
)

const (
	shards = 128
	// sampled counters are looked at when one is added: enough that dead ones never pile up, few enough for the path of a request.
	sampled = 6
	// ruleIdle is how long a version of a rule is remembered after its last request.
	ruleIdle = int64(60e9)
)

// registry finds the counters of rules.
type registry struct {
	seed   maphash.Seed
	max    int      // counters per shard
	rules  sync.Map // *Rule -> *seenRule
	kinds  sync.Map // kindKey -> *kind
	serial atomic.Uint64
	shards [shards]shard

	// live tells of the live configuration; nil: nobody has said how to ask.
	live atomic.Pointer[func() Configuration]
	mu   sync.Mutex // guards gone, and kinds against one that leaves for it
	// gone has the IDs of rules that sweeps have found configured, and what was counted of them by kinds that are forgotten.
	gone map[string]counts
}

// configured is what the live configuration has, by the kind of each rule.
func (g *registry) configured() (rules map[*kind]*Rule, currency string) {
	live := g.live.Load()
	if live == nil {
		return nil, ""
	}
	c := (*live)()
	rules = make(map[*kind]*Rule, len(c.Rules))
	for _, r := range c.Rules {
		rules[g.addKind(r)] = r
	}
	return rules, c.Currency
}

type shard struct {
	mu       sync.RWMutex
	counters map[counterKey]*counter
	_        [88]byte // two shards never share a cache line
}

type counterKey struct {
	kind    *kind
	subject string
}

// seenRule is a version of a rule that requests use.
type seenRule struct {
	kind *kind
	used atomic.Int64 // moment.t, to the second
}

func (g *registry) init(maxCounters int) {
	g.seed = maphash.MakeSeed()
	g.max = max(maxCounters/shards, sampled)
	g.gone = map[string]counts{}
	for i := range g.shards {
		g.shards[i].counters = map[counterKey]*counter{}
	}
}

// kindOf finds the counters of a rule by its address: a rule does not change.
func (g *registry) kindOf(r *Rule, m moment) *kind {
	v, ok := g.rules.Load(r)
	if !ok {
		v, _ = g.rules.LoadOrStore(r, &seenRule{kind: g.addKind(r)})
	}
	seen := v.(*seenRule)
	if m.t-seen.used.Load() > 1e9 {
		seen.used.Store(m.t)
		seen.kind.rule.Store(r)
	}
	return seen.kind
}

func (g *registry) addKind(r *Rule) *kind {
	id := kindKeyOf(r)
	if v, ok := g.kinds.Load(id); ok {
		return v.(*kind)
	}
	v, _ := g.kinds.LoadOrStore(id, g.newKind(id, r))
	return v.(*kind)
}

func (g *registry) newKind(id kindKey, r *Rule) *kind {
	k := &kind{id: id, hash: maphash.String(g.seed, r.ID)}
	k.key = fmt.Sprintf("%s\x00%d.%d.%d.%d.%s\x00", id.id, id.unit, id.algorithm, id.window, id.period, id.location)
	k.rule.Store(r)
	return k
}

// counted is what was counted by counters that are forgotten.
func (k *kind) counted() counts {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.past
}

func (g *registry) shard(k *kind, subject string) *shard {
	return &g.shards[(maphash.String(g.seed, subject)^k.hash)%shards]
}

// counter finds or makes the counter of a subject, and pins it.
func (g *registry) counter(r *Rule, subject string, m moment) *counter {
	k := g.kindOf(r, m)
	s := g.shard(k, subject)
	key := counterKey{k, subject}
	s.mu.RLock()
	c := s.counters[key]
	if c != nil {
		c.pins.Add(1)
	}
	s.mu.RUnlock()
	if c != nil {
		return c
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c = s.counters[key]; c != nil {
		c.pins.Add(1)
		return c
	}
	g.makeRoom(s, m)
	c = &counter{kind: k, subject: subject, serial: g.serial.Add(1), book: newBook(r)}
	c.pins.Add(1)
	s.counters[key] = c
	return c
}

// makeRoom forgets counters that say nothing any more, and in a full shard the one that says least: the one that has used
// the smallest part of its limit. A flood of new names therefore costs the names that came once, not those near
// their limit. Counters that a request depends on stay, so the bound can be passed by the requests that run.
func (g *registry) makeRoom(s *shard, m moment) {
	var least *counter
	share := 2.0
	n := 0
	for key, c := range s.counters { // maps are walked from a random place
		if n++; n > sampled && (least != nil || len(s.counters) < g.max) {
			break
		}
		used, idle := c.idle(m, len(s.counters) >= g.max)
		switch {
		case !idle:
		case used == 0:
			s.drop(key, c)
		case used < share:
			share, least = used, c
		}
	}
	if least != nil && len(s.counters) >= g.max {
		s.drop(counterKey{least.kind, least.subject}, least)
	}
}

// idle says whether nothing depends on the counter, and what part of its limit it has used.
func (c *counter) idle(m moment, flood bool) (share float64, idle bool) {
	if !c.mu.TryLock() {
		return 0, false
	}
	defer c.mu.Unlock()
	if c.busy(flood) {
		return 0, false
	}
	used, _ := c.book.state(m)
	return min(float64(used)/float64(max(c.kind.rule.Load().capacity(), 1)), 1), true
}

// drop forgets a counter unless somebody has begun to use it. The caller holds the shard's lock.
func (s *shard) drop(key counterKey, c *counter) {
	if !c.mu.TryLock() {
		return
	}
	defer c.mu.Unlock()
	if c.busy(true) {
		return
	}
	c.kind.forget(c.counts)
	c.counts = counts{}
	delete(s.counters, key)
}

// sweep forgets what says nothing any more in one shard, and versions of rules that nobody uses.
func (g *registry) sweep(i int, m moment) {
	s := &g.shards[i%shards]
	s.mu.Lock()
	for key, c := range s.counters {
		if used, idle := c.idle(m, false); idle && used == 0 {
			s.drop(key, c)
		}
	}
	s.mu.Unlock()
	if i%shards == 0 {
		g.sweepRules(m)
	}
}

// sweepRules forgets a kind only when two sweeps in a row found neither a rule nor a counter of it: a request that is just
// adding its first counter is done long before the second. Rules of the live configuration stay.
func (g *registry) sweepRules(m moment) {
	live := map[*kind]bool{}
	g.rules.Range(func(r, v any) bool {
		seen := v.(*seenRule)
		if m.t-seen.used.Load() > ruleIdle {
			g.rules.Delete(r)
		} else {
			live[seen.kind] = true
		}
		return true
	})
	for i := range g.shards {
		g.shards[i].mu.RLock()
		for key := range g.shards[i].counters {
			live[key.kind] = true
		}
		g.shards[i].mu.RUnlock()
	}
	configured, _ := g.configured()
	g.mu.Lock()
	defer g.mu.Unlock()
	for k := range configured {
		live[k] = true
		if _, ok := g.gone[k.id.id]; !ok {
			g.gone[k.id.id] = counts{}
		}
	}
	g.kinds.Range(func(id, v any) bool {
		k := v.(*kind)
		if !live[k] && k.unused {
			g.kinds.Delete(id)
			if sum, ok := g.gone[k.id.id]; ok { // names of the configuration are few, keys are not
				sum.add(k.counted())
				g.gone[k.id.id] = sum
			}
		}
		k.unused = !live[k]
		return true
	})
}

// each calls f with every counter, its lock held.
func (g *registry) each(f func(*counter)) {
	for i := range g.shards {
		s := &g.shards[i]
		s.mu.RLock()
		list := make([]*counter, 0, len(s.counters))
		for _, c := range s.counters {
			list = append(list, c)
		}
		s.mu.RUnlock()
		for _, c := range list {
			c.with(func() { f(c) })
		}
	}
}
