package console

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// maxFailures that an address may have at once; one is forgiven every forgiveAfter.
	maxFailures  = 8
	forgiveAfter = 10 * time.Second
	// maxThrottled addresses are told apart. Who comes from more makes it forget those that have waited longest.
	maxThrottled = 4096
	// bitsV6 of an address are what one customer of a provider has: single addresses are free to change.
	bitsV6 = 64
)

// throttle slows down who guesses tokens.
type throttle struct {
	now func() time.Time

	mu sync.Mutex
	// free is when all failures of an address are forgiven.
	free map[netip.Addr]time.Time
}

func newThrottle(now func() time.Time) *throttle {
	return &throttle{now: now, free: map[netip.Addr]time.Time{}}
}

func throttled(a netip.Addr) netip.Addr {
	if a.Is6() {
		if p, err := a.Prefix(bitsV6); err == nil {
			return p.Addr()
		}
	}
	return a
}

// wait is how long an address has to wait for its next attempt; 0 for not at all.
func (t *throttle) wait(a netip.Addr) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	free, known := t.free[throttled(a)]
	if !known {
		return 0
	}
	return max(0, free.Sub(t.now())-(maxFailures-1)*forgiveAfter)
}

// failed counts a failure.
func (t *throttle) failed(a netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a, now := throttled(a), t.now()
	if _, known := t.free[a]; !known && len(t.free) >= maxThrottled {
		t.makeRoom(now)
	}
	from := t.free[a]
	if from.Before(now) {
		from = now
	}
	// Attempts side by side count as many as may be counted, and no more.
	until := from.Add(forgiveAfter)
	if most := now.Add(maxFailures * forgiveAfter); until.After(most) {
		until = most
	}
	t.free[a] = until
}

// makeRoom forgets those that are forgiven, and one more where none is: the one that is so first.
func (t *throttle) makeRoom(now time.Time) {
	var first netip.Addr
	for a, free := range t.free {
		if !free.After(now) {
			delete(t.free, a)
		} else if t.free[first].IsZero() || free.Before(t.free[first]) {
			first = a
		}
	}
	if len(t.free) >= maxThrottled {
		delete(t.free, first)
	}
}
