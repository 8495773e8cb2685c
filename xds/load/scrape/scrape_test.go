package scrape

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-dev/weir/test/bubble"
	"github.com/weir-dev/weir/xds/load/engine"
	"github.com/weir-dev/weir/xds/load/internal/fetch"
	"github.com/weir-dev/weir/xds/load/signal"
)

const ms = time.Millisecond

// middle makes every random time the middle of its range, so that intervals are exact.
func middle() float64 { return 0.5 }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// counting is an engine whose pages are one number, waiting requests, and whose readers count what they read in Running.
var counting = engine.Engine{Name: "Counting", New: func() engine.Reader { return &countingReader{} }}

type countingReader struct {
	pages float64
	busy  atomic.Bool
}

func (c *countingReader) Read(r io.Reader, at time.Time) (signal.Sample, error) {
	if c.busy.Swap(true) {
		panic("two readings of a target at a time")
	}
	defer c.busy.Store(false)
	page, err := io.ReadAll(r)
	if err != nil {
		return signal.Sample{}, err
	}
	if len(page) == 0 {
		return signal.Sample{At: at}, nil
	}
	n, err := strconv.ParseFloat(string(page), 64)
	if err != nil {
		return signal.Sample{Waiting: 666}, errors.New("not a number")
	}
	c.pages++
	return signal.Sample{At: at, Has: signal.Set(0).With(signal.Waiting).With(signal.Running), Waiting: n, Running: c.pages}, nil
}

// pages is a network in memory: what each URL answers, after how long.
type pages struct {
	mu    sync.Mutex
	text  map[string]string
	takes map[string]time.Duration
}

func (p *pages) set(url, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.text[url] = text
}

func (p *pages) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	text, ok := p.text[r.URL.String()]
	takes := p.takes[r.URL.String()]
	p.mu.Unlock()
	if takes > 0 {
		select {
		case <-time.After(takes):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	status := http.StatusOK
	if !ok {
		status = http.StatusNotFound
	}
	return &http.Response{StatusCode: status, Request: r, ContentLength: -1, Body: io.NopCloser(strings.NewReader(text))}, nil
}

// rig is a Scraper over pages that notes its readings, for use in a synctest bubble.
type rig struct {
	*Scraper
	t     *testing.T
	pages *pages
	start time.Time

	mu       sync.Mutex
	readings []Reading
}

func newRig(t *testing.T, edit func(*Options)) *rig {
	r := &rig{t: t, pages: &pages{text: map[string]string{}, takes: map[string]time.Duration{}}, start: time.Now()}
	o := Options{Client: &http.Client{Transport: r.pages}, Rand: middle, Sink: func(reading Reading) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.readings = append(r.readings, reading)
	}}
	if edit != nil {
		edit(&o)
	}
	r.Scraper = New(o)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return r
}

func (r *rig) taken() []Reading {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.readings
	r.readings = nil
	return got
}

// times are when readings began, since the rig was made, in ms without what the scheduler's grain adds.
func (r *rig) times(readings []Reading) (ms []int64) {
	for _, reading := range readings {
		ms = append(ms, reading.Began.Sub(r.start).Round(10*time.Millisecond).Milliseconds())
	}
	return ms
}

func (r *rig) expect(want ...int64) []Reading {
	r.t.Helper()
	got := r.taken()
	if times := r.times(got); !slices.Equal(times, want) {
		r.t.Errorf("read at %v ms; want %v", times, want)
	}
	return got
}

// target is a source of an endpoint whose URL is its name and the source.
func target(ep string, source int) Target {
	return Target{
		Pool: "default/pool", Endpoint: ep, Source: source, URL: fmt.Sprintf("http://%s/%d", ep, source), Engine: counting,
		Interval: 500 * ms, Timeout: 200 * ms,
	}
}

func TestReadings(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.pages.set("http://a/0", "7")
		r.pages.takes["http://a/0"] = 20 * ms
		must(t, r.Set([]Target{target("a", 0)}))
		time.Sleep(1400 * ms)
		got := r.expect(250, 750, 1250)
		for i, reading := range got {
			s := reading.Sample
			if reading.Err != nil || reading.Fault != "" || s.Waiting != 7 || s.Running != float64(i+1) || !s.At.Equal(reading.Began.Add(20*ms)) ||
				reading.Bytes != 1 || reading.Took != 20*ms || reading.Late < 0 || reading.Late > 2*ms || reading.Target.key() != (key{"default/pool", "a", 0}) {
				t.Errorf("%d: %+v", i, reading)
			}
		}
		if got := r.Stats(); got != (Stats{Targets: 1}) {
			t.Errorf("%+v", got)
		}
	})
}

func TestSet(t *testing.T) {
	// Each case starts with a at 250, 750, ...; at 1 s change is done to the targets, and the readings of the next second are looked at.
	for _, tt := range []struct {
		name    string
		change  func(a *Target) []Target
		times   []int64
		running float64 // of the first reading: 3 if the Reader remembers two
		err     string
	}{
		{"nothing", func(a *Target) []Target { return []Target{*a} }, []int64{1250, 1750}, 3, ""},
		{"another timeout", func(a *Target) []Target { a.Timeout = 90 * ms; return []Target{*a} }, []int64{1250, 1750}, 3, ""},
		{"a shorter interval", func(a *Target) []Target { a.Interval = 100 * ms; return []Target{*a} },
			[]int64{1100, 1200, 1300, 1400, 1500, 1600, 1700, 1800, 1900}, 3, ""},
		{"a longer interval", func(a *Target) []Target { a.Interval = time.Hour; return []Target{*a} }, []int64{1250}, 3, ""},
		{"another URL", func(a *Target) []Target { a.URL = "http://b/0"; return []Target{*a} }, []int64{1250, 1750}, 1, ""},
		{"another engine", func(a *Target) []Target { a.Engine.Name = "Other"; return []Target{*a} }, []int64{1250, 1750}, 1, ""},
		{"another client", func(a *Target) []Target { c := *a.Client; a.Client = &c; return []Target{*a} }, []int64{1250, 1750}, 1, ""},
		{"another host", func(a *Target) []Target { a.Host = "x"; return []Target{*a} }, []int64{1250, 1750}, 1, ""},
		{"gone", func(*Target) []Target { return nil }, nil, 0, ""},
		{"twice", func(a *Target) []Target { return []Target{*a, *a} }, []int64{1250, 1750}, 3, "source 0 of the endpoint a of default/pool is given twice"},
		{"a bad one beside it", func(a *Target) []Target { b := target("b", 0); b.URL = "b/metrics"; return []Target{b, *a} }, []int64{1250, 1750}, 3,
			"source 0 of the endpoint b of default/pool: the URL"},
		{"no interval", func(a *Target) []Target { a.Interval = 0; return []Target{*a} }, nil, 0, "needs an engine, an interval and a timeout"},
		{"no timeout", func(a *Target) []Target { a.Timeout = 0; return []Target{*a} }, nil, 0, "needs an engine, an interval and a timeout"},
		{"no engine", func(a *Target) []Target { a.Engine = engine.Engine{}; return []Target{*a} }, nil, 0, "needs an engine, an interval and a timeout"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				r.pages.set("http://a/0", "7")
				r.pages.set("http://b/0", "7")
				a := target("a", 0)
				a.Client = &http.Client{Transport: r.pages}
				must(t, r.Set([]Target{a}))
				time.Sleep(time.Second)
				r.expect(250, 750)
				err := r.Set(tt.change(&a))
				if (err == nil) != (tt.err == "") || (err != nil && !strings.Contains(err.Error(), tt.err)) {
					t.Errorf("%v; want %q", err, tt.err)
				}
				time.Sleep(950 * ms)
				got := r.expect(tt.times...)
				if len(got) > 0 && got[0].Sample.Running != tt.running {
					t.Errorf("the first reading is number %v of its Reader; want %v", got[0].Sample.Running, tt.running)
				}
				if len(got) > 0 && (got[0].Target.Interval != a.Interval || got[0].Target.Timeout != a.Timeout) {
					t.Errorf("the reading is of %+v; want what was set", got[0].Target)
				}
			})
		})
	}
}

// TestGoneWhileRead shows that a reading that is under way when its target goes is cut and not told.
func TestGoneWhileRead(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		a := target("a", 0)
		a.Timeout = time.Minute
		r.pages.takes[a.URL] = time.Hour
		must(t, r.Set([]Target{a}))
		time.Sleep(time.Second)
		if got := r.Stats(); got != (Stats{Targets: 1, Reading: 1}) {
			t.Fatalf("%+v", got)
		}
		must(t, r.Set(nil))
		synctest.Wait()
		if got := r.Stats(); got != (Stats{}) {
			t.Errorf("%+v", got)
		}
		r.expect()
	})
}

func TestHurry(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		targets := []Target{target("a", 0), target("a", 1), target("b", 0)}
		for i := range targets {
			targets[i].Interval = 10 * time.Second
			r.pages.set(targets[i].URL, "1")
		}
		must(t, r.Set(targets))
		time.Sleep(time.Second)
		r.expect(250, 250, 250)
		r.Hurry("default/pool", "nobody")
		r.Hurry("other/pool", "a")
		r.Hurry("default/pool", "a")
		r.Hurry("default/pool", "a") // once is enough
		time.Sleep(500 * ms)
		for _, reading := range r.expect(1040, 1040) { // 37.5 ms later, both sources
			if reading.Target.Endpoint != "a" {
				t.Errorf("%+v", reading.Target)
			}
		}
		// Whoever hurries after each reading gets two more, and then waits for the regular one, as often as it is.
		hurry := func() (n int) {
			for range 10 {
				r.Hurry("default/pool", "b")
				time.Sleep(100 * ms)
				n += len(r.taken())
			}
			return n
		}
		if n := hurry(); n != maxHurries {
			t.Errorf("%d readings in haste; want %d", n, maxHurries)
		}
		if n := hurry(); n != 0 {
			t.Errorf("%d more readings in haste; want none before a regular one", n)
		}
		time.Sleep(10 * time.Second)
		r.taken()
		if n := hurry(); n != maxHurries {
			t.Errorf("%d readings in haste after a regular one; want %d", n, maxHurries)
		}
	})
}

// logBuffer is what a log says, for use in a synctest bubble.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBuffer) taken() string {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.text.Reset()
	return l.text.String()
}

func TestFailures(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var log logBuffer
		r := newRig(t, func(o *Options) {
			o.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			}}))
		})
		a := target("a", 0)
		a.URL += "?key=s3cr3t"
		must(t, r.Set([]Target{a}))
		// Three failures at its interval, then every two seconds.
		time.Sleep(6 * time.Second)
		for _, reading := range r.expect(250, 750, 1250, 3250, 5250) {
			if reading.Fault != fetch.Refused || reading.Err == nil || reading.Sample != (signal.Sample{}) {
				t.Errorf("%+v", reading)
			}
		}
		r.pages.set(a.URL, "1")
		time.Sleep(2200 * ms)
		if got := r.expect(7250, 7750); got[0].Err != nil {
			t.Errorf("%+v", got[0])
		}
		want := `level=WARN msg="the metrics of an endpoint cannot be read" backend=default/pool endpoint=a engine=Counting url=http://a/0 failures=3 error="answered with status 404 instead of 200"
level=INFO msg="the metrics of an endpoint can be read again" backend=default/pool endpoint=a engine=Counting url=http://a/0
`
		if got := log.taken(); got != want {
			t.Errorf("the log says\n%s\nwant\n%s", got, want)
		}
		// It flaps: that is told once in a minute, here the second one.
		for range 7 {
			r.pages.set(a.URL, "not a number")
			time.Sleep(5 * time.Second)
			r.pages.set(a.URL, "1")
			time.Sleep(5 * time.Second)
		}
		if got := log.taken(); strings.Count(got, "\n") != 2 {
			t.Errorf("the log says\n%s\nwant two lines", got)
		}
		// It fails for good, soon after that: that is told as well, when the minute is over.
		r.pages.set(a.URL, "not a number")
		time.Sleep(2 * time.Minute)
		if got := log.taken(); strings.Count(got, "\n") != 1 {
			t.Errorf("the log says\n%s\nwant one line", got)
		}
	})
}

func TestFaults(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.pages.text = map[string]string{"http://empty/0": "", "http://malformed/0": "x", "http://slow/0": "1", "http://large/0": strings.Repeat("1", MaxPage+1)}
		r.pages.takes["http://slow/0"] = time.Hour
		want := map[string]Reading{
			"empty":     {Fault: Empty, Err: errors.New("the page has none of the metrics of Counting")},
			"malformed": {Fault: fetch.Malformed, Err: errors.New("not a number"), Bytes: 1},
			"slow":      {Fault: fetch.Timeout, Err: errors.New("no answer within 200ms"), Took: 200 * ms},
			"large":     {Fault: fetch.TooLarge, Err: errors.New("the answer has more than the 8388608 bytes that are read"), Bytes: MaxPage},
			"missing":   {Fault: fetch.Refused, Err: errors.New("answered with status 404 instead of 200")},
		}
		var targets []Target
		for name := range want {
			targets = append(targets, target(name, 0))
		}
		must(t, r.Set(targets))
		time.Sleep(700 * ms)
		got := r.taken()
		if len(got) != len(want) {
			t.Fatalf("%d readings", len(got))
		}
		for _, reading := range got {
			w := want[reading.Target.Endpoint]
			if reading.Err == nil || reading.Err.Error() != w.Err.Error() || reading.Fault != w.Fault || reading.Bytes != w.Bytes || reading.Took != w.Took ||
				reading.Sample != (signal.Sample{}) {
				t.Errorf("%s: %+v; want %+v", reading.Target.Endpoint, reading, w)
			}
		}
	})
}

// TestManyThatHang shows that endpoints that answer are read in time among many that do not.
func TestManyThatHang(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, func(o *Options) { o.MaxConcurrent = 16 })
		targets := []Target{target("well", 0)}
		r.pages.set("http://well/0", "1")
		for i := range 500 {
			hangs := target("hangs-"+strconv.Itoa(i), 0)
			hangs.Timeout = 2 * time.Second
			r.pages.takes[hangs.URL] = time.Hour
			targets = append(targets, hangs)
		}
		must(t, r.Set(targets))
		time.Sleep(5 * time.Minute) // all have been found out
		r.taken()
		time.Sleep(10 * time.Second)
		var readings int
		for _, reading := range r.taken() {
			if reading.Target.Endpoint != "well" {
				continue
			}
			if readings++; reading.Late > 2*ms {
				t.Errorf("%v late", reading.Late)
			}
		}
		if readings != 20 {
			t.Errorf("%d readings in 10 s; want 20", readings)
		}
	})
}
