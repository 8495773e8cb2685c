package tokens

import (
	"sync"
	"time"
)

// Cache remembers the prefixes of long prompts, as the providers' prompt caches do. It holds hashes
// only, at most maxEntries of them (a few MB). It is safe for concurrent use.
type Cache struct {
	mu    sync.Mutex
	until map[uint64]time.Time
	order []uint64
	at    int
}

const maxEntries = 1 << 16

// NewCache returns an empty cache.
func NewCache() *Cache { return &Cache{until: map[uint64]time.Time{}} }

const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

func fnv(h uint64, s string) uint64 {
	for i := 0; i < len(s); i++ {
		h = (h ^ uint64(s[i])) * fnvPrime
	}
	return h
}

// seen tells whether a prefix is remembered at that time.
func (c *Cache) seen(h uint64, now time.Time) bool {
	t, ok := c.until[h]
	return ok && now.Before(t)
}

// remember keeps a prefix, and forgets the oldest one when full.
func (c *Cache) remember(h uint64, until time.Time) {
	if _, ok := c.until[h]; ok {
		c.until[h] = until
		return
	}
	if len(c.order) < maxEntries {
		c.order = append(c.order, h)
	} else {
		delete(c.until, c.order[c.at])
		c.order[c.at] = h
		c.at = (c.at + 1) % maxEntries
	}
	c.until[h] = until
}

// Implicit is a cache that needs no marks in the prompt: prefixes count in whole blocks of tokens,
// from a minimum on, and live for a time.
type Implicit struct {
	Block, Min int
	TTL        time.Duration
}

// Observe counts the tokens of a prompt and how many of its first ones were seen before in the same
// scope (credential and model), and remembers the prompt.
func (c *Cache) Observe(scope, prompt string, how Implicit, now time.Time) (total, cached int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := fnv(fnvOffset, scope)
	for len(prompt) > 0 {
		n := next(prompt)
		h = fnv(h, prompt[:n])
		prompt = prompt[n:]
		total++
		if total >= how.Min && total%how.Block == 0 {
			if c.seen(h, now) {
				cached = total
			}
			c.remember(h, now.Add(how.TTL))
		}
	}
	return total, cached
}

// Segment is a part of a prompt. TTL above zero marks its end as a breakpoint, kept for that time.
type Segment struct {
	Text string
	TTL  time.Duration
	// Extra are tokens that are not text, such as those of an image.
	Extra int
}

// Marked counts the tokens of a prompt whose parts may carry cache breakpoints: how many were read
// from the cache, and how many were written to it (of those, by breakpoints of an hour or more).
// Prefixes of fewer than min tokens are not cached.
func (c *Cache) Marked(scope string, parts []Segment, min int, now time.Time) (total, read, written, hour int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := fnv(fnvOffset, scope)
	type mark struct {
		hash   uint64
		tokens int
		ttl    time.Duration
	}
	var marks []mark
	for _, p := range parts {
		h = fnv(h, p.Text)
		h = fnv(h, "\x00")
		total += Count(p.Text) + p.Extra
		if c.seen(h, now) {
			read = total
		}
		if p.TTL > 0 && total >= min {
			marks = append(marks, mark{h, total, p.TTL})
		}
	}
	if len(marks) == 0 {
		return total, 0, 0, 0 // without a breakpoint nothing is looked up either
	}
	last := marks[len(marks)-1].tokens
	if read > last {
		read = last
	}
	from := read
	for _, m := range marks {
		c.remember(m.hash, now.Add(m.ttl))
		if m.tokens > from {
			written += m.tokens - from
			if m.ttl >= time.Hour {
				hour += m.tokens - from
			}
			from = m.tokens
		}
	}
	return total, read, written, hour
}
