// Package feedback is what requests tell about the endpoints that served them: how soon the first token came, and how many
// failed. It is told by requests, and asked on every tick.
package feedback

import (
	"sync"
	"time"
)

const (
	// smoothing is the part of one request's time to the first token that enters the average. Prompts differ by much, so it is small.
	smoothing = 0.1
	// cells divide the window in which failures are counted.
	cells = 16
	// minRequests in the window, before a share of failures means anything.
	minRequests = 5
)

// Endpoint is what requests tell about one endpoint. It is safe for concurrent use.
type Endpoint struct {
	mu     sync.Mutex
	window time.Duration
	// epoch is what times count from, so that the system's clock may be set.
	epoch time.Time

	ttft  float64 // seconds
	count uint64
	at    time.Time

	cell     [cells]cell
	requests uint64
	failures uint64
	block    block
}

// cell counts what ended in one part of the window.
type cell struct {
	serial      int64 // of the part, from the epoch on
	total, fail uint64
}

// NewEndpoint makes an Endpoint that counts failures in a window.
func NewEndpoint(window time.Duration) *Endpoint {
	e := &Endpoint{}
	e.SetWindow(window)
	return e
}

// SetWindow changes the window in which failures are counted. Another one begins to count anew.
func (e *Endpoint) SetWindow(d time.Duration) {
	d = max(d, cells*time.Millisecond)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.window != d {
		e.window, e.cell = d, [cells]cell{}
	}
}

// FirstToken notes how long a request waited for its first token.
func (e *Endpoint) FirstToken(took time.Duration, at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.count++; e.count == 1 {
		e.ttft = took.Seconds()
	} else {
		// The first few weigh as much as each other.
		e.ttft += (took.Seconds() - e.ttft) * max(smoothing, 1/float64(e.count))
	}
	if at.After(e.at) {
		e.at = at
	}
}

// Results notes how many requests were served and how many failed lately. Those that say nothing about the endpoint are not noted.
func (e *Endpoint) Results(served, failed uint64, at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	serial := e.serial(at)
	c := &e.cell[uint64(serial)%cells]
	if c.serial > serial {
		return // older than the window
	}
	if c.serial < serial {
		*c = cell{serial: serial}
	}
	c.total, c.fail = c.total+served+failed, c.fail+failed
	e.requests, e.failures = e.requests+served+failed, e.failures+failed
}

// Reset forgets what the endpoint was like: it has come back from being isolated. Until when it wants to be left alone holds.
func (e *Endpoint) Reset() {
	e.mu.Lock()
	e.ttft, e.count, e.at, e.cell = 0, 0, time.Time{}, [cells]cell{}
	e.mu.Unlock()
}

// State is what an Endpoint says at one time.
type State struct {
	// TTFT is the average time to the first token, of TTFTCount requests, the last of which ended at TTFTAt.
	TTFT      time.Duration
	TTFTCount uint64
	TTFTAt    time.Time
	// ErrorRate of the requests in the window, 0..1; below 0 where there were too few.
	ErrorRate float64
	// Requests and Failures so far.
	Requests, Failures uint64
	BlockedUntil       time.Time
}

// State says what is known now.
func (e *Endpoint) State(now time.Time) State {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := State{
		TTFT: time.Duration(e.ttft * float64(time.Second)), TTFTCount: e.count, TTFTAt: e.at, ErrorRate: -1,
		Requests: e.requests, Failures: e.failures, BlockedUntil: e.block.until,
	}
	oldest := e.serial(now) - cells + 1
	var total, fail uint64
	for _, c := range e.cell {
		if c.serial >= oldest {
			total, fail = total+c.total, fail+c.fail
		}
	}
	if total >= minRequests {
		s.ErrorRate = float64(fail) / float64(total)
	}
	return s
}

// serial is the part of the window that a time belongs to.
func (e *Endpoint) serial(at time.Time) int64 {
	if e.epoch.IsZero() {
		e.epoch = at
	}
	return int64(at.Sub(e.epoch) / (e.window / cells))
}
