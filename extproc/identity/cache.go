package identity

import (
	"crypto/sha256"
	"sync"
	"sync/atomic"
	"time"
)

// The cache holds 16 x 256 = 4,096 verified tokens; sharding keeps requests from sharing one lock.
const (
	cacheShards     = 16
	cachePerShard   = 256
	cacheShardsMask = cacheShards - 1
)

// cached is one verified token. Everything but used is fixed once it is in the cache.
type cached struct {
	sum       [sha256.Size]byte // of the token
	id        *Identity
	issuer    *issuer
	keys      *KeySet   // the set that verified it: another current set voids the entry
	notBefore time.Time // nbf and iat with leeway, in case the clock steps back
	expires   time.Time // the exp claim, without leeway
	used      atomic.Bool
}

// tokenCache remembers verified tokens. Eviction is by second chance ("clock"), so that a hit needs a read
// lock only. Refused tokens are not remembered: a flood of them would push the good ones out.
type tokenCache struct {
	shards [cacheShards]cacheShard
}

type cacheShard struct {
	mu      sync.RWMutex
	entries map[[sha256.Size]byte]*cached
	ring    []*cached
	hand    int
}

// shard picks by a byte of the hash, which is uniform.
func (c *tokenCache) shard(sum *[sha256.Size]byte) *cacheShard {
	return &c.shards[sum[0]&cacheShardsMask]
}

// get finds a token that is still within its time, or nil.
func (c *tokenCache) get(sum *[sha256.Size]byte, now time.Time) *cached {
	s := c.shard(sum)
	s.mu.RLock()
	e := s.entries[*sum]
	s.mu.RUnlock()
	if e == nil || !now.Before(e.expires) || now.Before(e.notBefore) {
		return nil
	}
	if !e.used.Load() { // a plain read first: parallel hits do not write the same cache line
		e.used.Store(true)
	}
	return e
}

// put stores a token, in place of an older entry of the same token or of one that nobody asked for lately.
func (c *tokenCache) put(e *cached, now time.Time) {
	s := c.shard(&e.sum)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries == nil {
		s.entries = make(map[[sha256.Size]byte]*cached)
	}
	if old := s.entries[e.sum]; old != nil {
		for i := range s.ring {
			if s.ring[i] == old {
				s.ring[i] = e
				break
			}
		}
		s.entries[e.sum] = e
		return
	}
	if len(s.ring) < cachePerShard {
		s.ring = append(s.ring, e)
		s.entries[e.sum] = e
		return
	}
	// The first round clears the used marks, so the second finds an entry, unless readers mark as fast.
	for tries := 1; ; tries++ {
		old := s.ring[s.hand]
		if !now.Before(old.expires) || !old.used.Swap(false) || tries > 2*len(s.ring) {
			delete(s.entries, old.sum)
			s.ring[s.hand] = e
			s.entries[e.sum] = e
			s.hand = (s.hand + 1) % len(s.ring)
			return
		}
		s.hand = (s.hand + 1) % len(s.ring)
	}
}
