package breaker

import (
	"cmp"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Options of a Set.
type Options struct {
	// Now is read once, for the moment that times are counted from. Nil is time.Now.
	Now func() time.Time
	// OnChange is told every change of a state, on the path of the request that made it: it must be quick, must not block,
	// and may be called by several goroutines at once. Nil tells nobody.
	OnChange func(Change)
	// MaxBreakers bounds the memory, at about 500 bytes each; 0 is 65536. What comes beyond passes and is not judged.
	MaxBreakers int
	// IdleAfter is how long a breaker is kept that nobody asks; 0 is 10 minutes. One whose rule has longer times is
	// kept for these.
	IdleAfter time.Duration
}

// Set holds the breakers of a gateway. It is safe for concurrent use.
type Set struct {
	opts  Options
	epoch time.Time
	seed  maphash.Seed

	buckets []atomic.Pointer[cell] // chains; only changed under mu
	mask    uint64

	mu       sync.Mutex
	count    int
	overflow atomic.Uint64
}

// New makes an empty Set.
func New(o Options) *Set {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MaxBreakers <= 0 {
		o.MaxBreakers = 1 << 16
	}
	if o.IdleAfter <= 0 {
		o.IdleAfter = 10 * time.Minute
	}
	n := 16
	for n < o.MaxBreakers/4 {
		n *= 2
	}
	// The epoch lies a little back, so that every time is above 0: a place that holds 0 is free.
	return &Set{opts: o, epoch: o.Now().Add(-time.Hour), seed: maphash.MakeSeed(), buckets: make([]atomic.Pointer[cell], n), mask: uint64(n - 1)}
}

// Allow asks whether a request may go on. key is the subject: "" where all share one breaker. A request that may has a
// Pass, which must be told its end; one that may not has a Refusal. While the breaker is closed Allow takes no
// lock and allocates nothing.
func (s *Set) Allow(rule *Rule, key string, now time.Time) (Pass, *Refusal) {
	h := s.hash(rule.ID, key)
	for {
		c := s.find(h, rule.ID, key)
		if c == nil {
			if c = s.create(h, rule, key, now); c == nil {
				s.overflow.Add(1)
				return Pass{}, nil
			}
		}
		c.touch(rule, s.nanos(now))
		if pass, refusal, found := c.allow(rule, now); found {
			return pass, refusal
		}
	}
}

// touch notes that the cell is in use. It writes seldom: many cores read the same line.
func (c *cell) touch(rule *Rule, now int64) {
	if now-c.used.Load() > int64(time.Second) {
		c.used.Store(now)
	}
	if c.rule.Load() != rule {
		c.rule.Store(rule)
	}
}

// nanos counts from the epoch, and is above 0.
func (s *Set) nanos(t time.Time) int64 { return max(1, int64(t.Sub(s.epoch))) }

func (s *Set) hash(id, key string) uint64 {
	return maphash.String(s.seed, id)*0x9e3779b97f4a7c15 ^ maphash.String(s.seed, key)
}

func (s *Set) find(h uint64, id, key string) *cell {
	for c := s.buckets[h&s.mask].Load(); c != nil; c = c.next.Load() {
		if c.hash == h && c.id == id && c.key == key && c.phase.Load().state != gone {
			return c
		}
	}
	return nil
}

// create adds a breaker, unless somebody else was faster, or gives nil when there are too many.
func (s *Set) create(h uint64, rule *Rule, key string, now time.Time) *cell {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.find(h, rule.ID, key); c != nil {
		return c
	}
	if s.count >= s.opts.MaxBreakers {
		return nil
	}
	c := &cell{set: s, hash: h, id: rule.ID, key: key}
	c.used.Store(s.nanos(now))
	c.rule.Store(rule)
	c.phase.Store(&phase{state: Closed, since: now, ring: newRing(rule.Window, s.epoch)})
	head := &s.buckets[h&s.mask]
	c.next.Store(head.Load())
	head.Store(c)
	s.count++
	return c
}

func (s *Set) changed(c Change) {
	if s.opts.OnChange != nil {
		s.opts.OnChange(c)
	}
}

// Sweep forgets breakers that nobody has asked for long, and returns their number. Call it every minute or so.
func (s *Set) Sweep(now time.Time) int {
	at := s.nanos(now)
	return s.remove(now, func(c *cell) bool {
		r := c.rule.Load()
		return at-c.used.Load() > int64(max(s.opts.IdleAfter, r.Window, r.OpenFor, r.WarmUp))
	})
}

// Retain forgets the breakers of rules that keep does not want any more, by Rule.ID, and returns their number. Call it
// when a configuration has come into use.
func (s *Set) Retain(keep func(id string) bool, now time.Time) int {
	return s.remove(now, func(c *cell) bool { return !keep(c.id) })
}

// remove takes cells out. Readers that are at one go on along its next.
func (s *Set) remove(now time.Time, unwanted func(*cell) bool) int {
	var changes []Change
	removed := 0
	s.mu.Lock()
	for i := range s.buckets {
		link := &s.buckets[i]
		for c := link.Load(); c != nil; c = link.Load() {
			if !unwanted(c) {
				link = &c.next
				continue
			}
			old := c.phase.Swap(&phase{state: gone, generation: ^uint64(0), since: now})
			if old.state != Closed {
				changes = append(changes, Change{Rule: c.rule.Load(), Key: c.key, From: old.state, To: Closed, At: now, Forgotten: true})
			}
			link.Store(c.next.Load())
			s.count--
			removed++
		}
	}
	s.mu.Unlock()
	for _, c := range changes {
		s.changed(c)
	}
	return removed
}

// Status is what one breaker does now.
type Status struct {
	Rule  *Rule
	Key   string
	State State
	// Since when it has been in that state.
	Since time.Time
	// Requests and Failures in the window. Both are 0 in Open and HalfOpen.
	Requests, Failures int64
	// RetryAfter is what is left of the time that it stays Open, or of the warm-up. 0 in the other states, and where the
	// time is over and the next request will change the state.
	RetryAfter time.Duration
	// Refused counts the refusals since the breaker was made, and Shadowed those of the shadow mode.
	Refused, Shadowed uint64
}

// States lists the breakers, by rule and key. It takes no lock and may miss what comes or goes meanwhile.
func (s *Set) States(now time.Time) []Status {
	var out []Status
	for i := range s.buckets {
		for c := s.buckets[i].Load(); c != nil; c = c.next.Load() {
			p := c.phase.Load()
			if p.state == gone {
				continue
			}
			st := Status{Rule: c.rule.Load(), Key: c.key, State: p.state, Since: p.since, Refused: c.refused.Load(), Shadowed: c.shadowed.Load()}
			switch p.state {
			case Open:
				st.RetryAfter = max(0, st.Rule.OpenFor-now.Sub(p.since))
			case WarmingUp:
				st.RetryAfter = max(0, st.Rule.WarmUp-now.Sub(p.since))
			}
			if p.ring != nil {
				st.Requests, st.Failures = p.ring.sum(now)
			}
			out = append(out, st)
		}
	}
	slices.SortFunc(out, func(a, b Status) int { return cmp.Or(cmp.Compare(a.Rule.ID, b.Rule.ID), cmp.Compare(a.Key, b.Key)) })
	return out
}

// Size is the number of breakers, and how many requests passed unjudged because there were too many.
func (s *Set) Size() (breakers int, overflow uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count, s.overflow.Load()
}
