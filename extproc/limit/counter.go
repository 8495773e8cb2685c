package limit

import (
	"sync"
	"sync/atomic"
	"time"
)

// counter is one counter of a rule: that of one subject.
type counter struct {
	kind    *kind
	subject string
	serial  uint64 // the order in which a request locks its counters

	// pins are requests that have found it and have not ended: they keep it from being forgotten. Added to under the
	// shard's lock.
	pins atomic.Int32

	mu    sync.Mutex
	book  book  // what this replica counts
	pool  *pool // what it has of the store; nil until a rule is shared
	queue queue // requests that wait for room

	reserved int64 // units of open grants
	ahead    int64 // units for requests that have not come: in no book, and not in reserved
	// lately of them were reserved in the calendar's period that began at latelyIn: only those are part of what the book
	// counts.
	lately, latelyIn int64

	// voided are requests that count as admitted in metrics, and come once more.
	voided atomic.Int64

	key    string // in the store, once it was asked
	counts counts
}

// counts of decisions.
type counts struct {
	admitted, refused, shadow, waited, unasked uint64
}

func (c *counts) add(o counts) {
	c.admitted += o.admitted
	c.refused += o.refused
	c.shadow += o.shadow
	c.waited += o.waited
	c.unasked += o.unasked
}

// with calls f while the counter is locked.
func (c *counter) with(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

// busy says whether anything depends on the counter besides what it has counted. The caller holds its lock and its shard's.
func (c *counter) busy(flood bool) bool {
	return c.pins.Load() > 0 || c.pool != nil && c.pool.busy(flood)
}

// remote is the counter as the store knows it. The caller holds its lock.
func (c *counter) remote(r *Rule, m moment) Counter {
	if c.key == "" {
		c.key = c.kind.key + c.subject
	}
	rc := Counter{Rule: r, Key: c.key}
	if b, ok := c.book.(*calendar); ok {
		b.roll(m)
		rc.PeriodStart, rc.PeriodEnd = time.Unix(0, b.start), time.Unix(0, b.end)
	}
	return rc
}

// period is the stamp of the calendar's period that is running; 0 for others.
func (c *counter) period(m moment) int64 {
	if b, ok := c.book.(*calendar); ok {
		b.roll(m)
		return b.start
	}
	return 0
}

// reserve adds n units to what open grants hold, of a hold that is stamped; less than 0 takes them off. The caller holds the
// lock.
func (c *counter) reserve(h *hold, n int64, m moment) {
	c.reserved += n
	if period := c.period(m); period != c.latelyIn {
		c.lately, c.latelyIn = 0, period
	}
	if c.latelyIn == 0 || h.stamp == c.latelyIn {
		c.lately += n
	}
}

// unsettled is the part of what the book counts that is only reserved. The caller holds the lock.
func (c *counter) unsettled(m moment) int64 {
	if c.period(m) != c.latelyIn {
		return 0
	}
	return c.lately
}

// kindKey is what makes counters the same over versions of the configuration.
type kindKey struct {
	id, location string
	window       int64
	unit         Unit
	algorithm    Algorithm
	period       Period
}

func kindKeyOf(r *Rule) kindKey {
	k := kindKey{id: r.ID, unit: r.Unit}
	if r.Unit == Concurrent {
		return k
	}
	k.algorithm = r.Algorithm
	if r.Algorithm != Calendar {
		k.window = int64(r.Window)
		return k
	}
	k.period = r.Period
	k.location = "UTC"
	if r.Location != nil {
		k.location = r.Location.String()
	}
	return k
}

// kind is all counters of one rule, in all its versions.
type kind struct {
	id   kindKey
	key  string // begins the keys of its counters in the store
	hash uint64

	rule atomic.Pointer[Rule] // the version seen last, for reports
	mu   sync.Mutex
	past counts // of counters that are forgotten

	waiting places // requests in the queues of its counters
	unused  bool   // the last sweep found nothing of it; only sweeps look at it
}

func (k *kind) forget(c counts) {
	k.mu.Lock()
	k.past.add(c)
	k.mu.Unlock()
}
