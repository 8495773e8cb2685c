package envoy

import "time"

// The delays between a death of Envoy and its next start.
const (
	backoffFirst = 100 * time.Millisecond
	backoffMax   = 10 * time.Second
	// backoffReset is how long a process must have served for its death to count as the first again.
	backoffReset = 30 * time.Second
)

// backoff doubles the delay with each death in a row. There is no jitter: each supervisor has one child.
type backoff struct {
	attempt int
}

// next returns the delay before the next start, and how many deaths in a row this was. healthy is how
// long the process that died had been ready.
func (b *backoff) next(healthy time.Duration) (delay time.Duration, attempt int) {
	if healthy >= backoffReset {
		b.attempt = 0
	}
	b.attempt++
	delay = backoffFirst
	for i := 1; i < b.attempt && delay < backoffMax; i++ {
		delay *= 2
	}
	return min(delay, backoffMax), b.attempt
}
