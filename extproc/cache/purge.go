package cache

import (
	"context"
	"fmt"
	"sync"
)

// mark says what had been purged at a moment.
type mark struct {
	seq   uint64 // purges that this process had done
	epoch int64  // the last purge in the journal that this process had heard of; 0: none, or no Redis
}

// recentPurges is how many purges are remembered, against entries that were bought before one and come after it.
const recentPurges = 1024

// purges remembers the last ones. The zero value is ready.
type purges struct {
	mu    sync.RWMutex
	seq   uint64
	epoch int64
	last  []purged // oldest first
}

type purged struct {
	seq      uint64
	epoch    int64 // 0: only this process knows of it
	selector Selector
}

func (p *purges) mark() mark {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return mark{p.seq, p.epoch}
}

// add notes a purge, of the journal if epoch is not 0.
func (p *purges) add(s Selector, epoch int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seq++
	p.epoch = max(p.epoch, epoch)
	if len(p.last) == recentPurges {
		p.last = append(p.last[:0], p.last[1:]...)
	}
	p.last = append(p.last, purged{p.seq, epoch, s})
}

// since tells whether the record is among what this process has purged after seq. What is no longer known counts as purged.
func (p *purges) since(seq uint64, r *record) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.seq-seq > uint64(len(p.last)) {
		return true
	}
	for _, x := range p.last[len(p.last)-int(p.seq-seq):] {
		if x.selector.selects(r) {
			return true
		}
	}
	return false
}

// after tells whether a record that another replica bought is among what was purged after it began to.
func (p *purges) after(r *record) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if r.epoch >= p.epoch {
		return false
	}
	for i := len(p.last) - 1; i >= 0; i-- {
		if x := &p.last[i]; x.epoch > r.epoch && x.selector.selects(r) {
			return true
		}
	}
	return false
}

// Purge removes what is selected from the memory of every replica and from Redis, and what is being bought now is not kept. It says
// how many entries there were, in Redis or else in the memory of this replica. An error says where they may still be.
func (c *Cache) Purge(ctx context.Context, s Selector) (n int, err error) {
	if s.Empty() {
		return 0, fmt.Errorf("nothing is selected: give a tenant, model, tag, policy or key to purge")
	}
	c.metrics.purges.Inc()
	n = c.purgeHere(s, 0)
	rm := c.redis.Load()
	if rm == nil {
		return n, nil
	}
	there, err := rm.purge(ctx, s)
	if err != nil {
		c.metrics.errors.WithLabelValues("purge").Inc()
		return max(n, there), fmt.Errorf("the answers are purged from this replica, but not surely from Redis and the other replicas; purge again when Redis answers: %w", err)
	}
	return max(n, there), nil
}

// purgeHere removes what is selected from memory; epoch is that of the journal, 0 where it is not from there.
func (c *Cache) purgeHere(s Selector, epoch int64) (n int) {
	c.purges.add(s, epoch) // first: what is stored meanwhile is found by who stores it
	c.tiers.Range(func(_, t any) bool {
		if m := t.(*tier).memory; m != nil {
			n += m.purge(&s)
		}
		return true
	})
	return n
}

// forgetAll empties the memory: purges have been missed.
func (c *Cache) forgetAll() {
	c.tiers.Range(func(_, t any) bool {
		if m := t.(*tier).memory; m != nil {
			m.clear()
		}
		return true
	})
}
