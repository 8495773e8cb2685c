package identity

import (
	"slices"
	"sync"
	"time"
)

// fakeClock stands still until told. It counts the waits, so that a test can tell when the code under
// test has gone to wait.
type fakeClock struct {
	mu    sync.Mutex
	cond  *sync.Cond
	now   time.Time
	waits int
	timed []timed
}

type timed struct {
	at time.Time
	ch chan time.Time
}

func newFakeClock() *fakeClock {
	c := &fakeClock{now: t0}
	c.cond = sync.NewCond(&c.mu)
	return c
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) After(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := make(chan time.Time, 1)
	c.timed = append(c.timed, timed{c.now.Add(d), ch})
	c.waits++
	c.fire()
	c.cond.Broadcast()
	return ch
}

func (c *fakeClock) fire() {
	c.timed = slices.DeleteFunc(c.timed, func(t timed) bool {
		if t.at.After(c.now) {
			return false
		}
		t.ch <- c.now
		return true
	})
}

func (c *fakeClock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	c.fire()
}

// waitFor blocks until After has been called n times in all.
func (c *fakeClock) waitFor(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.waits < n {
		c.cond.Wait()
	}
}
