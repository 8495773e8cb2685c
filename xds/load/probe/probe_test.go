package probe

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-dev/weir/test/bubble"
	"github.com/weir-dev/weir/test/freeport"
	"github.com/weir-dev/weir/xds/load/internal/fetch"
)

const (
	ms = time.Millisecond
	// waitAtMost bounds waits on real connections. It is never the measure of anything.
	waitAtMost = 30 * time.Second
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// network is one in memory: what each URL answers with, 0 for no connection, -1 for no answer.
type network struct {
	mu     sync.Mutex
	status map[string]int
}

func (n *network) set(url string, status int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.status[url] = status
}

func (n *network) RoundTrip(r *http.Request) (*http.Response, error) {
	n.mu.Lock()
	status := n.status[r.URL.String()]
	n.mu.Unlock()
	switch status {
	case 0:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	case -1:
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	return &http.Response{StatusCode: status, Request: r, Body: io.NopCloser(strings.NewReader(""))}, nil
}

// rig is a Prober over a network that notes its results, for use in a synctest bubble.
type rig struct {
	*Prober
	t       *testing.T
	network *network
	start   time.Time

	mu      sync.Mutex
	results []Result
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, network: &network{status: map[string]int{}}, start: time.Now()}
	r.Prober = New(Options{
		Client: &http.Client{Transport: r.network},
		Rand:   func() float64 { return 0.5 }, // makes intervals exact
		Sink: func(result Result) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.results = append(r.results, result)
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return r
}

// expect says when checks should have been over, in ms since the rig was made, without what the scheduler's grain adds.
func (r *rig) expect(want ...int64) []Result {
	r.t.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.results
	r.results = nil
	var times []int64
	for _, result := range got {
		times = append(times, result.At.Sub(r.start).Milliseconds())
	}
	if !slices.EqualFunc(times, want, func(got, want int64) bool { return got >= want && got <= want+30 }) {
		r.t.Errorf("checks were over at %v ms; want %v", times, want)
	}
	return got
}

func check(interval, timeout time.Duration) Check {
	return Check{Pool: "default/pool", Endpoint: "a", URL: "http://a/health", Interval: interval, Timeout: timeout}
}

func TestRhythm(t *testing.T) {
	for _, tt := range []struct {
		name   string
		check  Check
		status int
		want   []int64 // in the first 4.9 s
	}{
		{"passes", check(time.Second, time.Second), 200, []int64{250, 1250, 2250, 3250, 4250}},
		{"no connection: again after 200 ms, ten times, then at its interval", check(time.Second, time.Second), 0,
			[]int64{250, 450, 650, 850, 1050, 1250, 1450, 1650, 1850, 2050, 2250, 3250, 4250}},
		{"unwell", check(2*time.Second, time.Second), 503, []int64{250, 450, 650, 850, 1050, 1250, 1450, 1650, 1850, 2050, 2250, 4250}},
		{"the interval is shorter than 200 ms", check(100*ms, time.Second), 503, nil},
		{"no answer: 200 ms after the time-out", check(10*time.Second, 500*ms), -1, []int64{750, 1450, 2150, 2850, 3550, 4250}},
		{"no answer: at once, if the interval is over", check(500*ms, 500*ms), -1, []int64{750, 1250, 1750, 2250, 2750, 3250, 3750, 4250, 4750}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.network.set("http://a/health", tt.status)
				must(t, r.Set([]Check{tt.check}))
				time.Sleep(4900 * ms)
				if tt.want == nil {
					r.mu.Lock()
					defer r.mu.Unlock()
					if n := len(r.results); n < 47 || n > 49 {
						t.Errorf("%d checks; want one each 100 ms", n)
					}
					return
				}
				r.expect(tt.want...)
			})
		})
	}
}

func TestHurry(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.network.set("http://a/health", 200)
		must(t, r.Set([]Check{check(time.Second, time.Second)}))
		time.Sleep(400 * ms)
		r.expect(250)
		r.Hurry("default/pool", "a")
		r.Hurry("default/pool", "nobody")
		time.Sleep(1300 * ms)
		r.expect(400, 1400) // then at its interval again
		must(t, r.Set(nil))
		r.Hurry("default/pool", "a")
		time.Sleep(time.Second)
		r.expect()
	})
}

func TestResults(t *testing.T) {
	for _, tt := range []struct {
		status int
		err    string
		fault  Fault
		took   time.Duration
	}{
		{200, "", "", 0},
		{204, "", "", 0},
		{301, "answered with status 301", fetch.Refused, 0},
		{503, "answered with status 503", fetch.Refused, 0},
		{0, "dial tcp: connection refused", fetch.Unreachable, 0},
		{-1, "no answer within 300ms", fetch.Timeout, 300 * ms},
	} {
		bubble.Test(t, func(t *testing.T) {
			r := newRig(t)
			r.network.set("http://a/health", tt.status)
			c := check(10*time.Second, 300*ms)
			must(t, r.Set([]Check{c}))
			time.Sleep(600 * ms)
			r.mu.Lock()
			defer r.mu.Unlock()
			if len(r.results) == 0 {
				t.Fatal("no result")
			}
			got := r.results[0]
			if got.OK != (tt.err == "") || got.Err != tt.err || got.Fault != tt.fault || got.Took != tt.took || *got.Check != c {
				t.Errorf("%d: %+v", tt.status, got)
			}
		})
	}
}

// TestIsolationAndReturn shows that two failures follow each other fast, and that doubt ends with the first check that passes.
func TestIsolationAndReturn(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.network.set("http://a/health", 200)
		must(t, r.Set([]Check{check(2*time.Second, time.Second)}))
		time.Sleep(300 * ms)
		r.expect(250)
		r.network.set("http://a/health", 0)
		time.Sleep(2300 * ms)
		r.expect(2250, 2450)
		r.network.set("http://a/health", 200)
		time.Sleep(4 * time.Second)
		r.expect(2650, 4650)
		// The next failure is doubted anew.
		r.network.set("http://a/health", 0)
		time.Sleep(400 * ms)
		r.expect(6650, 6850)
	})
}

func TestSet(t *testing.T) {
	// Each case starts with a at 250 ms and every 500; at 1 s the checks change, and the next 950 ms are looked at.
	for _, tt := range []struct {
		name   string
		change func(*Check) []Check
		want   []int64
		err    string
	}{
		{"nothing", func(c *Check) []Check { return []Check{*c} }, []int64{1250, 1750}, ""},
		{"another timeout", func(c *Check) []Check { c.Timeout = time.Second; return []Check{*c} }, []int64{1250, 1750}, ""},
		{"a shorter interval", func(c *Check) []Check { c.Interval = 200 * ms; return []Check{*c} }, []int64{1200, 1400, 1600, 1800}, ""},
		{"another URL", func(c *Check) []Check { c.URL = "http://b/health"; return []Check{*c} }, []int64{1250, 1450, 1650, 1850}, ""}, // which fails
		{"gone", func(*Check) []Check { return nil }, nil, ""},
		{"twice", func(c *Check) []Check { return []Check{*c, *c} }, []int64{1250, 1750}, "the check of the endpoint a of default/pool is given twice"},
		{"a bad URL", func(c *Check) []Check { c.URL = "a"; return []Check{*c} }, nil, "the check of the endpoint a of default/pool: the URL"},
		{"no interval", func(c *Check) []Check { c.Interval = 0; return []Check{*c} }, nil, "needs an interval and a timeout"},
		{"no timeout", func(c *Check) []Check { c.Timeout = 0; return []Check{*c} }, nil, "needs an interval and a timeout"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.network.set("http://a/health", 200)
				c := check(500*ms, 100*ms)
				must(t, r.Set([]Check{c}))
				time.Sleep(time.Second)
				r.expect(250, 750)
				err := r.Set(tt.change(&c))
				if (err == nil) != (tt.err == "") || (err != nil && !strings.Contains(err.Error(), tt.err)) {
					t.Errorf("%v; want %q", err, tt.err)
				}
				if want := min(1, len(tt.want)); r.Stats() != (Stats{Checks: want}) {
					t.Errorf("%+v", r.Stats())
				}
				time.Sleep(950 * ms)
				got := r.expect(tt.want...)
				if len(got) > 0 && *got[0].Check != c {
					t.Errorf("the result is of %+v; want %+v", *got[0].Check, c)
				}
			})
		})
	}
}

// TestServerDies checks a real server that dies and comes back.
func TestServerDies(t *testing.T) {
	address := freeport.Addr(t) // which nobody takes while the server is away
	l, err := net.Listen("tcp", address)
	must(t, err)
	serve := func(l net.Listener, status int) *httptest.Server {
		s := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })}}
		s.Start()
		return s
	}
	again := func() net.Listener {
		l, err := net.Listen("tcp", address)
		must(t, err)
		return l
	}
	results := make(chan Result, 100)
	client := fetch.NewClient(nil)
	p := New(Options{Client: client, Sink: func(r Result) { results <- r }})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for {
			select {
			case <-results: // a Sink may wait for room
			case <-done:
				client.CloseIdleConnections()
				return
			}
		}
	})
	next := func(what string, is func(Result) bool) {
		t.Helper()
		late := time.After(waitAtMost)
		for {
			select {
			case r := <-results:
				if is(r) {
					return
				}
			case <-late:
				t.Fatalf("waited in vain: %s", what)
			}
		}
	}
	s := serve(l, 200)
	must(t, p.Set([]Check{{Pool: "p", Endpoint: address, URL: "http://" + address + "/health", Interval: 5 * ms, Timeout: waitAtMost}}))
	next("a check that passes", func(r Result) bool { return r.OK })
	s.CloseClientConnections()
	s.Close()
	next("that nobody is there", func(r Result) bool { return r.Fault == fetch.Unreachable })
	s = serve(again(), 503)
	next("that it is unwell", func(r Result) bool { return r.Fault == fetch.Refused })
	s.Close()
	s = serve(again(), 200)
	defer s.Close()
	next("a check that passes again", func(r Result) bool { return r.OK })
}
