package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/test/bench/proc"
)

// job is what the load generator is told to do, as a line of JSON on its standard input.
type job struct {
	Address     string        `json:"address"` // host:port
	Path        string        `json:"path"`
	Key         string        `json:"key"`
	Traffic     traffic       `json:"traffic"`
	Connections int           `json:"connections"`
	Rate        float64       `json:"rate"` // requests per second, sent whatever comes back; 0: each connection sends when it has its answer
	Warm        time.Duration `json:"warm"`
	Measure     time.Duration `json:"measure"`
	// Hold sends one request on each connection, is warm when all streams have begun, and ends when they end. Nothing is timed.
	Hold bool `json:"hold"`
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
	// Latency is the time to the last byte of the answer, FirstByte the one to its head, or to its first text where it is a stream
	// with a pace: from when the request was to be sent, which in an open loop does not wait for anybody.
	Latency   quantiles `json:"latency"`
	FirstByte quantiles `json:"firstByte"`
	// Chunk is the time of an event of a stream with a pace from the upstream to here.
	Chunk quantiles `json:"chunk,omitzero"`
	// LongestGap between two events of a stream with a pace, in milliseconds.
	LongestGap float64 `json:"longestGapMillis,omitempty"`
	// Late is how much later than it was to be a request was handed to a connection, in an open loop: the generator's own
	// error, part of the latencies.
	Late quantiles `json:"late,omitzero"`
}

// answerPatience is how long an answer may take beyond its pace before the job fails.
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
	callers, err := j.connect()
	defer func() {
		for _, c := range callers {
			c.conn.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	answer := answerPatience
	if j.Traffic.Stream {
		answer += time.Duration(j.Traffic.Pace.Tokens) * j.Traffic.Pace.Every
	}
	if j.Hold {
		return hold(callers, time.Now().Add(answer), warm)
	}
	drive := func(d time.Duration) (*measured, error) {
		deadline := time.Now().Add(d + answer)
		for _, c := range callers {
			c.reset()
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

// connect opens the connections. Those that there are come back also where one fails.
func (j *job) connect() ([]*caller, error) {
	text, check := j.Traffic.text(j.Address, j.Path, j.Key), j.Traffic.checker()
	callers := make([]*caller, 0, j.Connections)
	for i := range j.Connections {
		conn, err := net.Dial("tcp", j.Address)
		if err != nil {
			return callers, fmt.Errorf("no connection to %s: %w", j.Address, err)
		}
		c := &caller{conn: conn, r: bufio.NewReader(conn), request: text, check: check}
		if j.Traffic.Stream && j.Traffic.Pace.Every > 0 {
			// Events that all come at the same moment would wait for each other.
			c.follow, c.stagger = &follower{}, j.Traffic.Pace.Every*time.Duration(i)/time.Duration(j.Connections)
		}
		callers = append(callers, c)
	}
	return callers, nil
}

// closedLoop sends a request on each connection as soon as it has the answer to the one before.
func closedLoop(callers []*caller, d time.Duration) (*measured, error) {
	start := time.Now()
	end := start.Add(d)
	return together(callers, start, nil, func(c *caller, stopped func() bool) error {
		time.Sleep(c.stagger)
		for now := time.Now(); now.Before(end) && !stopped(); now = time.Now() {
			if err := c.do(now, nil); err != nil {
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
			proc.SleepUntil(at)
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
			if err := c.do(at, nil); err != nil {
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

// hold opens a stream on each connection, calls warm when all have begun, and reads them to their ends.
func hold(callers []*caller, deadline time.Time, warm func() error) (*measured, error) {
	var begun sync.WaitGroup
	begun.Add(len(callers))
	start := time.Now()
	warmed := make(chan error, 1)
	go func() {
		begun.Wait()
		warmed <- warm()
	}()
	m, err := together(callers, start, nil, func(c *caller, _ func() bool) error {
		once := sync.OnceFunc(begun.Done)
		defer once() // also where it has failed
		time.Sleep(c.stagger)
		// Most of the time nothing comes.
		if err := c.conn.SetDeadline(deadline.Add(c.stagger)); err != nil {
			return err
		}
		return c.do(time.Now(), once)
	})
	return m, errors.Join(err, <-warmed)
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
	var latency, first, chunk []time.Duration
	for _, c := range callers {
		latency, first = append(latency, c.latency...), append(first, c.first...)
		if c.follow != nil {
			chunk = append(chunk, c.follow.delays...)
			m.LongestGap = max(m.LongestGap, float64(c.follow.longest)/float64(time.Millisecond))
		}
	}
	m.Requests, m.Latency, m.FirstByte, m.Chunk = len(latency), quantilesOf(latency), quantilesOf(first), quantilesOf(chunk)
	return m, nil
}
