package limit

import (
	"math/bits"
	"time"
)

// moment is one reading of the clock.
type moment struct {
	t    int64 // nanoseconds of the engine's own time: it does not jump when the wall clock is set
	wall int64 // nanoseconds since 1970, for calendars and stores
}

// book is what one replica counts for one counter. Its users hold the counter's lock.
//
// Stamps say when units were taken, in whatever the book needs to find them again.
type book interface {
	// room says whether need more units fit, and if not, after what time they can.
	room(m moment, limit, capacity, need int64) (wait time.Duration, ok bool)
	// take counts n units, room or not.
	take(m moment, n int64) (stamp int64)
	// change corrects units taken at stamp: fewer go from where they were counted, more count from now.
	change(m moment, stamp, delta int64)
	// state is what is counted now, and the time until nothing is if nothing more comes.
	state(m moment) (used int64, reset time.Duration)
}

// newBook is an empty book for counters of r.
func newBook(r *Rule) book {
	switch {
	case r.Unit == Concurrent:
		return &gauge{}
	case r.Algorithm == TokenBucket:
		return &bucket{window: int64(r.Window), limit: r.Limit}
	case r.Algorithm == Calendar:
		return &calendar{period: r.Period, loc: r.Location}
	}
	return &sliding{width: max((int64(r.Window)+slots-1)/slots, 1)}
}

// slots is how many parts a window has. The part that is running makes one more, so the sum of all covers at least the
// window that ends now, and at most 1/64 more.
const slots = 64

// sliding counts in slots of a window.
type sliding struct {
	width int64 // of a slot, in nanoseconds
	head  int64 // number of the newest slot: time divided by width
	sum   int64
	ring  [slots + 1]int64
}

// advance forgets the slots that no window ending now or later can touch.
func (s *sliding) advance(t int64) {
	k := t / s.width
	switch {
	case k <= s.head: // a reading of the clock that another request overtook counts in the newest slot
		return
	case k-s.head > slots:
		s.ring, s.sum = [slots + 1]int64{}, 0
	case s.sum == 0: // nothing but zeroes to forget
	default:
		for i := s.head + 1; i <= k; i++ {
			slot := &s.ring[i%(slots+1)]
			s.sum -= *slot
			*slot = 0
		}
	}
	s.head = k
}

func (s *sliding) room(m moment, _, capacity, need int64) (time.Duration, bool) {
	s.advance(m.t)
	over := s.sum + need - capacity
	if over <= 0 {
		return 0, true
	}
	last := s.head
	for i := s.head - slots; i <= s.head; i++ {
		if i < 0 {
			continue
		}
		if n := s.ring[i%(slots+1)]; n > 0 {
			last = i
			if over -= n; over <= 0 {
				break
			}
		}
	}
	return s.gone(last, m.t), false
}

// gone is the time until slot i is forgotten.
func (s *sliding) gone(i, t int64) time.Duration {
	return time.Duration(max((i+slots+1)*s.width-t, 1))
}

func (s *sliding) take(m moment, n int64) int64 {
	s.advance(m.t)
	s.add(s.head, n)
	return s.head
}

func (s *sliding) change(m moment, stamp, delta int64) {
	s.advance(m.t)
	if delta >= 0 {
		s.add(s.head, delta)
		return
	}
	if s.head-stamp <= slots {
		s.add(stamp, -min(-delta, s.ring[stamp%(slots+1)]))
	}
}

func (s *sliding) add(slot, n int64) {
	n = min(n, 4*maxUnits-s.sum)
	s.ring[slot%(slots+1)] += n
	s.sum += n
}

func (s *sliding) state(m moment) (int64, time.Duration) {
	s.advance(m.t)
	if s.sum == 0 {
		return 0, 0
	}
	for i := s.head; ; i-- {
		if s.ring[i%(slots+1)] > 0 {
			return s.sum, s.gone(i, m.t)
		}
	}
}

// bucket counts what is missing in a token bucket, so that a new capacity needs no correction.
type bucket struct {
	window int64 // nanoseconds in which limit units flow back
	limit  int64
	spent  int64
	rest   int64 // of a unit that has flowed back, in 1/window units
	last   int64 // when it was worked out
}

func (b *bucket) drain(t int64) {
	elapsed := t - b.last
	if elapsed <= 0 {
		return
	}
	b.last = t
	if b.spent == 0 {
		return
	}
	hi, lo := bits.Mul64(uint64(elapsed), uint64(b.limit))
	lo, carry := bits.Add64(lo, uint64(b.rest), 0)
	hi += carry
	if hi >= uint64(b.window) {
		b.spent, b.rest = 0, 0
		return
	}
	back, rest := bits.Div64(hi, lo, uint64(b.window))
	if back >= uint64(b.spent) {
		b.spent, b.rest = 0, 0
		return
	}
	b.spent -= int64(back)
	b.rest = int64(rest)
}

// until is the time in which n of the units that are missing flow back.
func (b *bucket) until(n int64) time.Duration {
	hi, lo := bits.Mul64(uint64(n), uint64(b.window))
	lo, borrow := bits.Sub64(lo, uint64(b.rest), 0)
	hi -= borrow
	if hi >= uint64(b.limit) {
		return time.Duration(1<<63 - 1)
	}
	q, rem := bits.Div64(hi, lo, uint64(b.limit))
	if rem > 0 {
		q++
	}
	return time.Duration(min(max(q, 1), 1<<63-1))
}

func (b *bucket) room(m moment, limit, capacity, need int64) (time.Duration, bool) {
	b.drain(m.t)
	b.limit = max(limit, 1)
	if over := b.spent + need - capacity; over > 0 {
		return b.until(over), false
	}
	return 0, true
}

func (b *bucket) take(m moment, n int64) int64 {
	b.drain(m.t)
	b.spent += min(n, 4*maxUnits-b.spent)
	return 0
}

func (b *bucket) change(m moment, _, delta int64) {
	b.drain(m.t)
	if b.spent += min(delta, 4*maxUnits-b.spent); b.spent <= 0 {
		b.spent, b.rest = 0, 0
	}
}

func (b *bucket) state(m moment) (int64, time.Duration) {
	b.drain(m.t)
	if b.spent == 0 {
		return 0, 0
	}
	return b.spent, b.until(b.spent)
}

// calendar counts in the period that is running.
type calendar struct {
	period     Period
	loc        *time.Location
	start, end int64 // nanoseconds since 1970
	used       int64
}

// roll begins a new period when the last one is over. Periods only go forward, also where a zone sets its clocks back
// over a midnight.
func (c *calendar) roll(m moment) {
	if m.wall < c.end {
		return
	}
	start, end := periodAt(time.Unix(0, m.wall), c.period, c.loc)
	c.start, c.end, c.used = max(start.UnixNano(), c.end), end.UnixNano(), 0
}

func (c *calendar) room(m moment, _, capacity, need int64) (time.Duration, bool) {
	c.roll(m)
	if c.used+need <= capacity {
		return 0, true
	}
	return time.Duration(c.end - m.wall), false
}

func (c *calendar) take(m moment, n int64) int64 {
	c.roll(m)
	c.used += min(n, 4*maxUnits-c.used)
	return c.start
}

// change counts in the period in which the request began, as the ledger does: what a past one cost more is no debt of this.
func (c *calendar) change(m moment, stamp, delta int64) {
	c.roll(m)
	if stamp == c.start {
		c.used = max(c.used+min(delta, 4*maxUnits-c.used), 0)
	}
}

func (c *calendar) state(m moment) (int64, time.Duration) {
	c.roll(m)
	return c.used, time.Duration(c.end - m.wall)
}

// gaugeWait is what a refusal of a Concurrent rule says: nobody knows when a running request ends.
const gaugeWait = time.Second

// gauge counts what runs now.
type gauge struct{ used int64 }

func (g *gauge) room(_ moment, _, capacity, need int64) (time.Duration, bool) {
	if g.used+need <= capacity {
		return 0, true
	}
	return gaugeWait, false
}

func (g *gauge) take(_ moment, n int64) int64 {
	g.used += n
	return 0
}

func (g *gauge) change(_ moment, _, delta int64) { g.used = max(g.used+delta, 0) }

func (g *gauge) state(moment) (int64, time.Duration) { return g.used, 0 }
