package harness

import (
	"testing"
	"time"

	"github.com/weir-dev/weir/test/freeport"
)

// Patience is how long the harness waits for what must come. Only a failing test waits that long.
const Patience = 30 * time.Second

// pollInterval is the time between two looks at a condition.
const pollInterval = 10 * time.Millisecond

// poll looks until done is true, and reports whether it was before the time ran out.
func poll(patience time.Duration, done func() bool) bool {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if done() {
			return true
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			return done()
		}
	}
}

// WaitFor looks at a condition until it is true; the test fails when it does not become so.
func WaitFor(t testing.TB, what string, cond func() bool) {
	t.Helper()
	if !poll(Patience, cond) {
		t.Fatalf("waited %s in vain: %s", Patience, what)
	}
}

// FreePort is a TCP port of 127.0.0.1 that nobody listens on, and that no other test gets before t has ended.
func FreePort(t testing.TB) int {
	t.Helper()
	return freeport.Take(t)
}
