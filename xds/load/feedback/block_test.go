package feedback

import (
	"testing"
	"time"
)

// TestBlocks: who asks for long is left alone for a short time first, and for longer if it goes on asking.
func TestBlocks(t *testing.T) {
	const hour = time.Hour
	e := NewEndpoint(time.Second)
	now := t0
	block := func(wait, want time.Duration) {
		t.Helper()
		e.Block(wait, now)
		if got := e.State(now).BlockedUntil.Sub(now); got != want {
			t.Errorf("it is left alone for %v, want %v", got, want)
		}
	}
	over := func(later time.Duration) { now = e.State(now).BlockedUntil.Add(later) }

	block(hour, FirstBlock)
	now = now.Add(5 * time.Second)
	block(hour, 10*time.Second) // of a request that was sent before
	e.Served(now)               // and so was this one
	for _, want := range []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, MaxBlock, MaxBlock} {
		over(time.Second)
		block(hour, want)
	}
	over(0)
	block(7*time.Second, 7*time.Second) // it wants no more than that
	over(0)
	e.Served(now)
	block(hour, FirstBlock)
	over(FirstBlock + time.Second) // nobody has asked it for as long as it was left alone
	block(hour, FirstBlock)
	over(FirstBlock)
	block(hour, 2*FirstBlock)
	over(-2 * FirstBlock)
	block(time.Second, 2*FirstBlock) // the longer one holds
}
