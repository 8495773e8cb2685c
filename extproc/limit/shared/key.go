package shared

import (
	"crypto/sha256"
	"encoding/base64"
	"time"

	"github.com/weir-dev/weir/extproc/limit"
)

// kind is how a counter is kept in Redis.
type kind byte

// The kinds; the letter is part of the key.
const (
	kindWindow     kind = 'w'
	kindBucket     kind = 'b'
	kindCalendar   kind = 'c'
	kindConcurrent kind = 'n'
)

func kindOf(r *limit.Rule) kind {
	switch {
	case r.Unit == limit.Concurrent:
		return kindConcurrent
	case r.Algorithm == limit.TokenBucket:
		return kindBucket
	case r.Algorithm == limit.Calendar:
		return kindCalendar
	}
	return kindWindow
}

// keyOf is where a counter is in Redis. Subjects are callers' names: only a hash of them is shown to who can read Redis, and
// a key has the same length whatever they are. The braces make it the hash tag of a cluster. The prefix comes before it when
// the command is made.
func keyOf(c *limit.Counter) string {
	k := kindOf(c.Rule)
	h := sha256.New()
	h.Write([]byte(c.Key))
	if k == kindCalendar {
		// NUL ends the key, which holds none: it is made of names and numbers.
		h.Write(append([]byte{0}, c.PeriodStart.UTC().Format(time.RFC3339Nano)...))
	}
	var sum [sha256.Size]byte
	h.Sum(sum[:0])
	return ":limit:" + string(k) + ":{" + base64.RawURLEncoding.EncodeToString(sum[:18]) + "}"
}

// slots that a window is divided into.
const slots = 32

// windowOf is the window in microseconds, rounded up.
func windowOf(r *limit.Rule) int64 {
	return max(1, (int64(r.Window)+999)/1000)
}

// slotWidth is that of one slot in microseconds, rounded up.
func slotWidth(window time.Duration) int64 {
	us := max(1, (int64(window)+999)/1000)
	return (us + slots - 1) / slots
}

func burst(r *limit.Rule) int64 {
	if r.Burst > 0 {
		return r.Burst
	}
	return r.Limit
}
