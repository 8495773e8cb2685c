package feedback

import "time"

const (
	// FirstBlock is the longest time that an endpoint is left alone because it asks for it once: limits are often those of one model,
	// and others that it serves would be left alone with it.
	FirstBlock = 15 * time.Second
	// MaxBlock is the longest time if it keeps asking.
	MaxBlock = 5 * time.Minute
)

// block is for how long an endpoint wants to be left alone.
type block struct {
	began, until time.Time
	longest      time.Duration // of this one
}

// Block notes that the endpoint has answered 429, and wants no requests for a time. It is left alone for FirstBlock at most; for twice as
// long as the last time if that is just over and it has served nothing since; for MaxBlock at most.
func (e *Endpoint) Block(wait time.Duration, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := &e.block
	if !now.Before(b.until) {
		next := FirstBlock
		if b.longest > 0 && now.Sub(b.until) <= b.longest {
			next = min(2*b.longest, MaxBlock)
		}
		*b = block{began: now, until: now, longest: next}
	}
	// Of many requests that are refused at the same time, none makes the time longer than one would.
	until := now.Add(wait)
	if most := b.began.Add(b.longest); until.After(most) {
		until = most
	}
	if until.After(b.until) {
		b.until = until
	}
}

// Served notes that the endpoint has answered a request well. What it answers while it wants to be left alone was sent before.
func (e *Endpoint) Served(now time.Time) {
	e.mu.Lock()
	if !now.Before(e.block.until) {
		e.block.longest = 0
	}
	e.mu.Unlock()
}
