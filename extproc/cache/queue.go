package cache

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// The queue of what goes to Redis behind: as many records and bytes of bodies wait at most. What does not fit is not written.
const (
	queueLen   = 4096
	queueBytes = 64 << 20
	queueBatch = 64
)

// queuePause is how long the queue waits before it looks again whether Redis takes writes.
const queuePause = 100 * time.Millisecond

type queued struct {
	p *Policy
	x *record
}

// queue writes records to Redis after those who asked for them were answered, and again what Redis did not take. It waits as long as
// Redis takes none.
type queue struct {
	c       *Cache
	closing chan struct{} // closed by close

	mu      sync.Mutex
	waiting []queued
	bytes   int64
	busy    int // records that are being written
	writing bool
	closed  bool
	lost    int           // records that could not be written at the end
	idle    chan struct{} // closed when nothing waits any more; nil while nobody asks
}

func newQueue(c *Cache) *queue { return &queue{c: c, closing: make(chan struct{})} }

// add lets a record wait to be written.
func (q *queue) add(p *Policy, x *record) {
	if x.inRedis.Swap(true) {
		return
	}
	q.take(p, x)
}

// again lets records wait that Redis did not take.
func (q *queue) again(p *Policy, list []*record) {
	for _, x := range list {
		q.c.metrics.repeats.WithLabelValues(p.ID).Inc()
		q.add(p, x)
	}
}

func (q *queue) take(p *Policy, x *record) {
	size := int64(len(x.entry.Body))
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || len(q.waiting) >= queueLen || q.bytes+size > queueBytes {
		x.inRedis.Store(false)
		q.c.metrics.dropped.WithLabelValues(p.ID, "queue").Inc()
		return
	}
	q.waiting = append(q.waiting, queued{p, x})
	q.bytes += size
	if !q.writing {
		q.writing = true
		go q.write()
	}
}

// write writes until nothing waits.
func (q *queue) write() {
	for {
		open := q.writable()
		q.mu.Lock()
		if !open {
			// Nobody waits for the process to end until Redis is back.
			for _, w := range q.waiting {
				q.c.metrics.dropped.WithLabelValues(w.p.ID, "redis").Inc()
			}
			q.lost += len(q.waiting)
			q.waiting = nil
		}
		if len(q.waiting) == 0 {
			q.writing, q.waiting, q.bytes = false, nil, 0
			if q.idle != nil {
				close(q.idle)
				q.idle = nil
			}
			q.mu.Unlock()
			return
		}
		// A batch is of one policy, as it was when its first record came: a filter is told of all of it at once.
		p := q.waiting[0].p
		var batch []*record
		var rest []queued
		for _, w := range q.waiting {
			if w.p == p && len(batch) < queueBatch {
				batch = append(batch, w.x)
			} else {
				rest = append(rest, w)
			}
		}
		q.waiting, q.busy = rest, len(batch)
		q.mu.Unlock()

		for _, x := range batch {
			x.inRedis.Store(false) // put says so when it is
		}
		var later []*record
		if rm := q.c.redis.Load(); rm != nil {
			later = rm.put(context.Background(), batch, p)
		} else {
			q.c.metrics.dropped.WithLabelValues(p.ID, "redis").Add(float64(len(batch)))
		}

		q.mu.Lock()
		var kept []queued
		for _, x := range batch {
			if slices.Contains(later, x) {
				x.inRedis.Store(true) // on its way
				kept = append(kept, queued{p, x})
			} else {
				q.bytes -= int64(len(x.entry.Body))
			}
		}
		q.busy = 0
		if kept != nil {
			q.waiting = append(kept, q.waiting...)
		}
		q.mu.Unlock()
	}
}

// writable waits until Redis takes writes, or there is none any more. It tells whether that is so: else the queue is being closed.
func (q *queue) writable() bool {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-q.closing:
			rm := q.c.redis.Load()
			return rm != nil && rm.writable()
		}
		if rm := q.c.redis.Load(); rm == nil || rm.writable() {
			return true
		}
		timer.Reset(queuePause)
	}
}

// depth is how many records wait.
func (q *queue) depth() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting) + q.busy
}

// close waits until what waits is written, while ctx lasts. Nothing is taken any more.
func (q *queue) close(ctx context.Context) error {
	q.mu.Lock()
	if !q.closed {
		q.closed = true
		close(q.closing)
	}
	if !q.writing {
		defer q.mu.Unlock()
		return q.missing(q.lost)
	}
	if q.idle == nil {
		q.idle = make(chan struct{})
	}
	idle := q.idle
	q.mu.Unlock()
	select {
	case <-idle:
		q.mu.Lock()
		defer q.mu.Unlock()
		return q.missing(q.lost)
	case <-ctx.Done():
		return q.missing(q.depth())
	}
}

func (q *queue) missing(n int) error {
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%d answers that waited to be written to Redis are not there; they are bought again when they are asked for", n)
}
