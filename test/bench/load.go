package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// job is what the load generator is told to do, as a line of JSON on its standard input.
type job struct {
	Address     string        `json:"address"` // host:port
	Path        string        `json:"path"`
	Key         string        `json:"key"`
	Stream      bool          `json:"stream"`
	Connections int           `json:"connections"`
	Rate        float64       `json:"rate"` // requests per second, sent whatever comes back; 0: each connection sends when it has its answer
	Warm        time.Duration `json:"warm"`
	Measure     time.Duration `json:"measure"`
}

// reply is what it says, as lines of JSON on its standard output: that it is warm, and after a further line
// of input, what it measured. Error ends a job.
type reply struct {
	Warm   bool      `json:"warm,omitempty"`
	Result *measured `json:"result,omitempty"`
	Error  string    `json:"error,omitempty"`
}

// measured is what one job has measured.
type measured struct {
	Requests int           `json:"requests"`
	Elapsed  time.Duration `json:"elapsedNanos"` // until the last answer was there
	// Latency is the time to the last byte of the answer, FirstByte the one to its head: from when the request was to
	// be sent, which in an open loop does not wait for anybody.
	Latency   quantiles `json:"latency"`
	FirstByte quantiles `json:"firstByte"`
	// Late is how much later than it was to be a request was handed to a connection, in an open loop: the generator's own
	// error, part of the latencies.
	Late quantiles `json:"late"`
}

// answerPatience is how long an answer may take before the job fails.
const answerPatience = 20 * time.Second

// runLoad does jobs until in ends.
func runLoad(in io.Reader, out io.Writer) error {
	dec, enc := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var j job
		switch err := dec.Decode(&j); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("the load generator was not told what to do: %w", err)
		}
		result, err := j.do(func() error {
			if err := enc.Encode(reply{Warm: true}); err != nil {
				return err
			}
			return dec.Decode(new(json.RawMessage))
		})
		r := reply{Result: result}
		if err != nil {
			r = reply{Error: err.Error()}
		}
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
}

// do sends requests for a while that nobody counts, calls warm, and sends those that are measured.
func (j *job) do(warm func() error) (*measured, error) {
	text := requestText(j.Address, j.Path, j.Key, j.Stream)
	callers := make([]*caller, j.Connections)
	for i := range callers {
		c, err := net.Dial("tcp", j.Address)
		if err != nil {
			return nil, fmt.Errorf("no connection to %s: %w", j.Address, err)
		}
		defer c.Close()
		callers[i] = &caller{conn: c, r: bufio.NewReader(c), request: text, want: answerBytes(j.Stream)}
	}
	drive := func(d time.Duration) (*measured, error) {
		deadline := time.Now().Add(d + answerPatience)
		for _, c := range callers {
			c.latency, c.first = c.latency[:0], c.first[:0]
			if err := c.conn.SetDeadline(deadline); err != nil {
				return nil, err
			}
		}
		if j.Rate > 0 {
			return openLoop(callers, j.Rate, d)
		}
		return closedLoop(callers, d)
	}
	if _, err := drive(j.Warm); err != nil {
		return nil, err
	}
	if err := warm(); err != nil {
		return nil, err
	}
	return drive(j.Measure)
}

// closedLoop sends a request on each connection as soon as it has the answer to the one before.
func closedLoop(callers []*caller, d time.Duration) (*measured, error) {
	start := time.Now()
	end := start.Add(d)
	return together(callers, start, nil, func(c *caller, stopped func() bool) error {
		for now := time.Now(); now.Before(end) && !stopped(); now = time.Now() {
			if err := c.do(now); err != nil {
				return err
			}
		}
		return nil
	})
}

// openLoop sends a request every 1/rate seconds, on whichever connection is free. One that finds none waits, and the time
// that it waits counts: a slow answer is not made up for by fewer requests (coordinated omission).
func openLoop(callers []*caller, rate float64, d time.Duration) (*measured, error) {
	n := int(rate * d.Seconds())
	due := make(chan time.Time, n) // so that the clock waits for nobody
	late := make([]time.Duration, 0, n)
	start := time.Now().Add(time.Millisecond)
	clock := func(stopped func() bool) {
		defer close(due)
		// A thread of its own sleeps exactly; the timers of Go's scheduler may be a millisecond late.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for i := range n {
			at := start.Add(time.Duration(float64(i) / rate * float64(time.Second)))
			sleepUntil(at)
			late = append(late, time.Since(at))
			due <- at
			if stopped() {
				return
			}
		}
	}
	m, err := together(callers, start, clock, func(c *caller, stopped func() bool) error {
		for at := range due {
			if stopped() {
				return nil
			}
			if err := c.do(at); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	m.Late = quantilesOf(late)
	return m, nil
}

// together runs all callers, and clock beside them, and puts together what they measured. The first error stops them all.
func together(callers []*caller, start time.Time, clock func(stopped func() bool), run func(*caller, func() bool) error) (*measured, error) {
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	stopped := func() bool { return failed.Load() != nil }
	if clock != nil {
		wg.Go(func() { clock(stopped) })
	}
	for _, c := range callers {
		wg.Go(func() {
			if err := run(c, stopped); err != nil {
				failed.CompareAndSwap(nil, &err)
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return nil, *err
	}
	m := &measured{Elapsed: time.Since(start)}
	var latency, first []time.Duration
	for _, c := range callers {
		latency, first = append(latency, c.latency...), append(first, c.first...)
	}
	m.Requests, m.Latency, m.FirstByte = len(latency), quantilesOf(latency), quantilesOf(first)
	return m, nil
}

// caller is one connection.
type caller struct {
	conn    net.Conn
	r       *bufio.Reader
	m       message
	request []byte
	want    int // length of the body that must come

	latency, first []time.Duration
}

// do sends one request, due at a time, and reads its answer.
func (c *caller) do(due time.Time) error {
	if _, err := c.conn.Write(c.request); err != nil {
		return fmt.Errorf("a request could not be sent: %w", err)
	}
	if err := c.m.readHead(c.r); err != nil {
		return fmt.Errorf("an answer could not be read: %w", err)
	}
	first := time.Since(due)
	if err := c.m.readBody(c.r); err != nil {
		return fmt.Errorf("an answer could not be read to its end: %w", err)
	}
	latency := time.Since(due)
	if c.m.status() != 200 || len(c.m.body) != c.want {
		return fmt.Errorf("an answer of %d bytes with the first line %q, want %d bytes and 200: %.300s",
			len(c.m.body), c.m.start, c.want, slices.Clone(c.m.body))
	}
	if c.m.closes {
		return errors.New("the gateway asks to close a connection")
	}
	c.first, c.latency = append(c.first, first), append(c.latency, latency)
	return nil
}
