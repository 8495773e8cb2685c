package limit

import "time"

const (
	// shareParts: what a replica holds unused of a counter is at most limit / (shareParts x replicas), at least one unit.
	shareParts = 8
	// lifeMax is how long units are held unused, at most; for windows below 8 s it is an eighth of the window.
	lifeMax = int64(time.Second)
	lifeMin = int64(50 * time.Millisecond)
	// deniedMax is how long a refusal of the store is believed: other replicas give units back within about a second.
	deniedMax = int64(500 * time.Millisecond)
	deniedMin = int64(50 * time.Millisecond)
	// holdOff is how long a counter does not ask after an error of its own.
	holdOff = int64(50 * time.Millisecond)
	// maxBatches bounds the pieces in which a pool and its debts are kept apart by time.
	maxBatches = 8
)

// batch is some units of a counter that the store counts.
type batch struct {
	n      int64
	at     int64 // when the store counted them, by its clock, in nanoseconds since 1970
	taken  int64 // moment.t before it was asked: their window ends no later than a window after this
	fresh  int64 // moment.t since when they lie here unused
	period int64 // stamp of the calendar's period
}

// pool is what a replica holds of a counter in the store, and what it has yet to tell it. The counter's lock guards it.
type pool struct {
	window int64 // of SlidingWindow, in nanoseconds; 0 for others, whose units do not expire
	merge  int64 // nanoseconds by which stamps may differ and still be one batch
	span   int64 // nanoseconds for which an answer says something; the calendar's ends with the period
	life   int64
	gauge  bool

	batches []batch // oldest first
	avail   int64   // their sum
	armed   bool    // a timer will look at what lies idle

	owed     []batch // n > 0: used and not acquired; n < 0: to be returned
	flushing bool
	gather   bool // leases tell the store a moment later, what came together at once

	// inherited units are held by requests that are older than the pool: the store was told of them at once. Those of a
	// calendar in the period that began at inheritedIn.
	inherited, inheritedIn int64

	asking bool          // an Acquire is under way
	done   chan struct{} // closed when it has ended
	demand int64         // units that requests wait for

	need int64 // of the last request
	rate int64 // units used per quarter of life, smoothed
	tick int64 // number of the running quarter
	cur  int64 // units used in it

	answered    bool
	answer      Acquired // the last
	answerT     int64    // when it came
	answerP     int64    // the period that it is for
	unasked     int64    // units used since then that the store was not asked for
	deniedUntil int64
	deniedNeed  int64
	retryAt     int64
	failedUntil int64
}

func newPool(r *Rule) *pool {
	p := &pool{life: lifeMax, gauge: r.Unit == Concurrent}
	if p.gauge || r.Algorithm == Calendar {
		p.merge, p.span = 1<<63-1, 1<<62
		if p.gauge {
			p.span = lifeMax
		}
		return p
	}
	p.life = min(max(int64(r.Window)/8, lifeMin), lifeMax)
	p.merge, p.span = max(int64(r.Window)/slots, 1), int64(r.Window)
	if r.Algorithm == SlidingWindow {
		p.window = int64(r.Window)
	}
	return p
}

// busy says whether something is under way. What is owed keeps a counter too, but in a flood of names while the store is
// away; slots of a gauge that are not returned would be lost for good.
func (p *pool) busy(flood bool) bool {
	return p.avail > 0 || p.asking || p.flushing || p.demand > 0 || len(p.owed) > 0 && (p.gauge || !flood)
}

// expire drops units whose window or period is over: the store has forgotten them too.
func (p *pool) expire(m moment, period int64) {
	keep := p.batches[:0]
	for _, b := range p.batches {
		if p.window > 0 && m.t-b.taken >= p.window || b.period != period {
			p.avail -= b.n
			continue
		}
		keep = append(keep, b)
	}
	p.batches = keep
}

// add puts units in.
func (p *pool) add(b batch) {
	if b.n <= 0 {
		return
	}
	p.avail += b.n
	if n := len(p.batches); n > 0 {
		last := &p.batches[n-1]
		if last.period == b.period && near(last.at, b.at, p.merge) && b.fresh-last.fresh <= p.life/8 {
			last.n += b.n
			last.at, last.taken = min(last.at, b.at), min(last.taken, b.taken)
			return
		}
		if n == maxBatches {
			b0, b1 := p.batches[0], p.batches[1]
			p.batches[1] = batch{
				n: b0.n + b1.n, at: min(b0.at, b1.at), taken: min(b0.taken, b1.taken),
				fresh: min(b0.fresh, b1.fresh), period: b1.period,
			}
			p.batches = append(p.batches[:0], p.batches[1:]...)
		}
	}
	p.batches = append(p.batches, b)
}

// take removes up to n units and says how many and since when the store counts the newest of them. The oldest go first;
// of a gauge the newest, so that slots that are not needed grow old and go back.
func (p *pool) take(n int64) (got, at, taken int64) {
	for got < n && len(p.batches) > 0 {
		i := 0
		if p.gauge {
			i = len(p.batches) - 1
		}
		b := &p.batches[i]
		k := min(n-got, b.n)
		got += k
		at, taken = b.at, b.taken
		if b.n -= k; b.n == 0 {
			p.batches = append(p.batches[:i], p.batches[i+1:]...)
		}
	}
	p.avail -= got
	return got, at, taken
}

// used notes how fast units go.
func (p *pool) used(m moment, n int64) {
	p.roll(m)
	p.cur += n
	p.need = n
}

func (p *pool) roll(m moment) {
	tick := m.t / (p.life / 4)
	if tick <= p.tick {
		return
	}
	p.rate = (p.rate + p.cur) / 2
	p.rate >>= min(tick-p.tick-1, 62)
	p.tick, p.cur = tick, 0
}

// share is what the pool may hold unused.
func share(r *Rule, replicas int64) int64 { return max(r.capacity()/(shareParts*replicas), 1) }

// target is what the pool should hold: what the next quarter of its life will use, and little when little is left for all.
func (p *pool) target(r *Rule, replicas int64) int64 {
	t := min(max(p.rate, p.cur, 1), share(r, replicas))
	if p.answered {
		t = min(t, max(p.answer.Remaining/(2*replicas), 1))
	}
	return t
}

// owe notes units to add to (n > 0) or to return to (n < 0) what the store counts.
func (p *pool) owe(n, at, t, period int64) {
	if n == 0 {
		return
	}
	single := p.merge == 1<<63-1
	for i := range p.owed {
		o := &p.owed[i]
		if o.period == period && near(o.at, at, p.merge) && (single || (o.n > 0) == (n > 0)) {
			if o.n += n; o.n == 0 {
				p.owed = append(p.owed[:i], p.owed[i+1:]...)
			}
			return
		}
	}
	if len(p.owed) >= 2*maxBatches {
		p.condense()
	}
	p.owed = append(p.owed, batch{n: n, at: at, taken: t, period: period})
}

// condense makes one debt of two, the older with the younger: the store is away, and what it will be told may be coarse.
func (p *pool) condense() {
	for i := range p.owed {
		for j := i + 1; j < len(p.owed); j++ {
			if a, b := &p.owed[i], &p.owed[j]; (a.n > 0) == (b.n > 0) && a.period == b.period {
				b.n += a.n
				p.owed = append(p.owed[:i], p.owed[i+1:]...)
				return
			}
		}
	}
	p.owed = append(p.owed[:0], p.owed[1:]...) // sixteen periods of a calendar: the first is long over
}

// learn keeps what the store says.
func (p *pool) learn(a Acquired, m moment, least, period int64) {
	p.answered, p.answer, p.answerT, p.answerP = true, a, m.t, period
	p.unasked = max(p.owing(), 0)
	p.failedUntil, p.deniedUntil = 0, 0
	if a.Granted > 0 {
		return
	}
	p.deniedNeed = least
	wait := int64(a.RetryAfter)
	if wait <= 0 {
		wait = int64(gaugeWait)
		p.deniedUntil = m.t + lifeMin
	} else {
		p.deniedUntil = m.t + min(max(wait, deniedMin), deniedMax)
	}
	p.retryAt = m.t + wait
}

// current says whether the last answer still says something.
func (p *pool) current(m moment, period int64) bool {
	return p.answered && p.answerP == period && m.t-p.answerT < p.span
}

// owing is the sum of what the store has yet to be told.
func (p *pool) owing() (n int64) {
	for i := range p.owed {
		n += p.owed[i].n
	}
	return n
}

// owingIn is owing of one period.
func (p *pool) owingIn(period int64) (n int64) {
	for i := range p.owed {
		if p.owed[i].period == period {
			n += p.owed[i].n
		}
	}
	return n
}

// inherits is what requests that are older than the pool still hold in the period.
func (p *pool) inherits(period int64) int64 {
	if p.inheritedIn != period {
		p.inherited, p.inheritedIn = 0, period
	}
	return p.inherited
}

// trim returns what is more than the pool may hold while nobody waits for it.
func (p *pool) trim(most, period int64) {
	for p.avail > most && p.demand == 0 {
		got, at, taken := p.take(min(p.avail-most, p.batches[0].n))
		p.owe(-got, at, taken, period)
	}
}

// idle returns what has lain here for a life.
func (p *pool) idle(m moment, period int64) {
	for len(p.batches) > 0 && m.t-p.batches[0].fresh >= p.life && p.demand == 0 {
		b := p.batches[0]
		p.batches = append(p.batches[:0], p.batches[1:]...)
		p.avail -= b.n
		p.owe(-b.n, b.at, b.taken, period)
	}
}

func near(a, b, d int64) bool {
	if a > b {
		a, b = b, a
	}
	return b-a <= d
}
