package identity

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

const (
	// throttleWindow is what a limit of failed logins counts in.
	throttleWindow = time.Minute
	// 32 x 2,048 addresses of some 80 bytes: 5 MB when somebody fills it.
	throttleShards   = 32
	throttlePerShard = 2048
	// throttleSample bounds the work of making room.
	throttleSample = 16
	// throttleBitsV6 is what one customer of a provider has; single addresses are free to change.
	throttleBitsV6 = 64
)

// Throttle remembers which addresses have failed to log in of late. It outlives Authenticators: make one per
// process. It is safe for concurrent use, and its memory is bounded: who comes from very many
// addresses makes it forget others, and is counted by each of them.
//
// The failures of one minute count from the first of them. When there are as many as the limit, the address has to wait
// for a minute. Attempts that are checked side by side count when they have failed, so as many more may get through
// as there are at once.
type Throttle struct {
	seed   maphash.Seed
	shards [throttleShards]throttleShard
}

type throttleShard struct {
	mu        sync.Mutex
	addresses map[netip.Addr]failures
}

// failures of one address.
type failures struct {
	since time.Time // of the first, or once the limit is reached of the last
	count int
}

func (f failures) over(now time.Time) bool {
	age := now.Sub(f.since)
	return age >= throttleWindow || age <= -throttleWindow // the clock may step back
}

// NewThrottle makes one without memories.
func NewThrottle() *Throttle { return &Throttle{seed: maphash.MakeSeed()} }

// throttled is what addresses are counted by. Addresses that are not known share one count.
func throttled(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		p, _ := a.Prefix(throttleBitsV6) // cannot fail: 64 is in range
		return p.Addr()
	}
	return a
}

func (t *Throttle) shard(a netip.Addr) *throttleShard {
	return &t.shards[maphash.Comparable(t.seed, a)%throttleShards]
}

// wait gives how long an address has to wait, 0 for not at all. A limit of 0 or a nil Throttle limits nothing.
func (t *Throttle) wait(source netip.Addr, limit int, now time.Time) time.Duration {
	if t == nil || limit <= 0 {
		return 0
	}
	source = throttled(source)
	s := t.shard(source)
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.addresses[source]
	if !ok || f.count < limit || f.over(now) {
		return 0
	}
	return f.since.Add(throttleWindow).Sub(now)
}

// fail counts a failure.
func (t *Throttle) fail(source netip.Addr, limit int, now time.Time) {
	if t == nil || limit <= 0 {
		return
	}
	source = throttled(source)
	s := t.shard(source)
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.addresses[source]
	if !ok {
		s.makeRoom(now)
	}
	if !ok || f.over(now) {
		f = failures{since: now}
	}
	f.count++
	if f.count == limit {
		f.since = now
	}
	if s.addresses == nil {
		s.addresses = make(map[netip.Addr]failures)
	}
	s.addresses[source] = f
}

// makeRoom drops what is over among some addresses of a full shard, or else the one of them that failed least.
func (s *throttleShard) makeRoom(now time.Time) {
	if len(s.addresses) < throttlePerShard {
		return
	}
	seen, dropped := 0, false
	var least netip.Addr
	fewest := 0
	for a, f := range s.addresses { // in random order
		if f.over(now) {
			delete(s.addresses, a)
			dropped = true
		} else if seen == 0 || f.count < fewest {
			least, fewest = a, f.count
		}
		if seen++; seen == throttleSample {
			break
		}
	}
	if !dropped {
		delete(s.addresses, least)
	}
}

// Len is the number of addresses that are remembered, for metrics.
func (t *Throttle) Len() int {
	n := 0
	for i := range t.shards {
		t.shards[i].mu.Lock()
		n += len(t.shards[i].addresses)
		t.shards[i].mu.Unlock()
	}
	return n
}
