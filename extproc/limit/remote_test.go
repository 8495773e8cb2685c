package limit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

var errAway = errors.New("connection refused")

// fakeStore is a Remote in memory that keeps the interface's word to the letter, and complains when the engine does not.
// Its clock is a little ahead.
type fakeStore struct {
	t        *testing.T
	replicas int

	mu       sync.Mutex
	err      error         // of every call
	pingErr  error         // of Ping, if err is nil
	delay    time.Duration // of every call; longer than the caller waits it is an error
	counters map[string]*fakeCounter
	acquires int
	adjusts  int
	pings    int
	asked    int // calls of the last kinds while err was set
}

type fakeCounter struct {
	slots    map[int64]int64 // sliding: by slot; calendar: by period; others: slot 0
	drained  time.Time
	acquired int64 // all that was ever granted
	returned int64 // all that came back
	added    int64 // all that was added besides
}

const fakeAhead = 300 * time.Millisecond

func newFakeStore(t *testing.T, replicas int) *fakeStore {
	return &fakeStore{t: t, replicas: replicas, counters: map[string]*fakeCounter{}}
}

func (s *fakeStore) fail(err error) {
	s.mu.Lock()
	s.err = err
	s.mu.Unlock()
}

func (s *fakeStore) slow(d time.Duration) {
	s.mu.Lock()
	s.delay = d
	s.mu.Unlock()
}

func (s *fakeStore) Replicas() int { return s.replicas }

// Restore keeps what was last said: there is one replica in tests that restore.
func (s *fakeStore) Restore(c Counter, taken int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.counter(c)
	if slot := f.slot(c, time.Now()); f.slots[slot] < taken {
		f.added += taken - f.slots[slot]
		f.slots[slot] = taken
	}
}

func (s *fakeStore) enter(ctx context.Context) error {
	s.mu.Lock()
	delay, err := s.delay, s.err
	if err != nil {
		s.asked++
	}
	s.mu.Unlock()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

func (s *fakeStore) Ping(ctx context.Context) error {
	err := s.enter(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pings++
	return errors.Join(err, s.pingErr)
}

func (s *fakeStore) Acquire(ctx context.Context, c Counter, least, want int64) (Acquired, error) {
	if least < 1 || want < least {
		s.t.Errorf("Acquire(%q, %d, %d)", c.Key, least, want)
	}
	if err := s.enter(ctx); err != nil {
		return Acquired{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acquires++
	now := time.Now().Add(fakeAhead)
	f := s.counter(c)
	used := f.used(c, now)
	a := Acquired{At: now, Remaining: c.Rule.capacity() - used}
	if a.Remaining >= least {
		a.Granted = min(want, a.Remaining)
		a.Remaining -= a.Granted
		f.acquired += a.Granted
		f.slots[f.slot(c, now)] += a.Granted
	} else {
		a.RetryAfter = f.retry(c, now, least)
	}
	a.Reset = f.retry(c, now, c.Rule.capacity())
	return a, nil
}

func (s *fakeStore) Adjust(ctx context.Context, c Counter, delta int64, at time.Time) error {
	if delta == 0 || at.IsZero() {
		s.t.Errorf("Adjust(%q, %d, %v)", c.Key, delta, at)
	}
	err := s.enter(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && c.Rule.Unit != Concurrent && c.Rule.Algorithm != Calendar {
		return err
	}
	// Of the two kinds the store keeps the sum, failed changes included: here it is made good at once.
	s.adjusts++
	now := time.Now().Add(fakeAhead)
	if at.After(now.Add(time.Millisecond)) {
		s.t.Errorf("Adjust(%q, %d) in the future: %v", c.Key, delta, at.Sub(now))
	}
	f := s.counter(c)
	f.used(c, now)
	if delta < 0 {
		f.returned -= delta
		if f.returned > f.acquired+f.added {
			s.t.Errorf("%q: %d came back of %d", c.Key, f.returned, f.acquired+f.added)
		}
	} else {
		f.added += delta
	}
	slot := f.slot(c, at)
	if c.Rule.Unit != Concurrent && c.Rule.Algorithm == SlidingWindow && slot < f.slot(c, now)-slots {
		return err
	}
	f.slots[slot] = max(f.slots[slot]+delta, 0)
	return err
}

func (s *fakeStore) counter(c Counter) *fakeCounter {
	f := s.counters[c.Key]
	if f == nil {
		f = &fakeCounter{slots: map[int64]int64{}, drained: time.Now().Add(fakeAhead)}
		s.counters[c.Key] = f
	}
	return f
}

func (f *fakeCounter) slot(c Counter, at time.Time) int64 {
	switch {
	case c.Rule.Unit == Concurrent || c.Rule.Algorithm == TokenBucket:
		return 0
	case c.Rule.Algorithm == Calendar:
		return c.PeriodStart.Unix()
	}
	return at.UnixNano() / f.width(c)
}

func (f *fakeCounter) width(c Counter) int64 { return (int64(c.Rule.Window) + slots - 1) / slots }

func (f *fakeCounter) used(c Counter, now time.Time) (n int64) {
	r := c.Rule
	switch {
	case r.Unit == Concurrent:
		return f.slots[0]
	case r.Algorithm == Calendar:
		return f.slots[c.PeriodStart.Unix()]
	case r.Algorithm == TokenBucket:
		gain := int64(float64(r.Limit) * float64(now.Sub(f.drained)) / float64(r.Window))
		if gain > 0 {
			f.slots[0] = max(f.slots[0]-gain, 0)
			f.drained = now
		}
		return f.slots[0]
	}
	head := f.slot(c, now)
	for i, k := range f.slots {
		if i < head-slots {
			delete(f.slots, i)
		} else {
			n += k
		}
	}
	return n
}

func (f *fakeCounter) retry(c Counter, now time.Time, need int64) time.Duration {
	r := c.Rule
	switch {
	case r.Unit == Concurrent:
		return 0
	case r.Algorithm == Calendar:
		return c.PeriodEnd.Sub(now)
	case r.Algorithm == TokenBucket:
		return time.Duration(float64(f.slots[0]+need-r.capacity()) * float64(r.Window) / float64(r.Limit))
	}
	left := f.used(c, now) + need - r.Limit
	w := f.width(c)
	for i := now.UnixNano()/w - slots; ; i++ {
		if left -= f.slots[i]; left <= 0 || i > now.UnixNano()/w {
			return time.Duration((i+slots+1)*w - now.UnixNano())
		}
	}
}

// held is what a counter holds, by the ID of its rule.
func (s *fakeStore) held(id string) (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, f := range s.counters {
		if len(key) > len(id) && key[:len(id)+1] == id+"\x00" {
			for _, k := range f.slots {
				n += k
			}
		}
	}
	return n
}

func (s *fakeStore) calls() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf("%d acquires, %d adjusts, %d pings", s.acquires, s.adjusts, s.pings)
}

// count is how many calls of Acquire or Adjust were answered.
func (s *fakeStore) count(acquires bool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if acquires {
		return s.acquires
	}
	return s.adjusts
}

// away says how often the store was asked while it failed.
func (s *fakeStore) away() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}
