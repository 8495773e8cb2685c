// Package scrape reads the metrics of the endpoints of pools, each at its own interval, for thousands of them.
package scrape

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/weir-dev/weir/xds/load/engine"
	"github.com/weir-dev/weir/xds/load/internal/fetch"
	"github.com/weir-dev/weir/xds/load/internal/schedule"
	"github.com/weir-dev/weir/xds/load/signal"
)

// MaxPage is the most bytes of a page that are read. A large vLLM page has some 60 KB; a DCGM page of eight GPUs 40 KB.
const MaxPage = 8 << 20

// accept asks for the text format, which costs less to read than OpenMetrics and says the same.
const accept = "text/plain;version=0.0.4, */*;q=0.1"

// Target is what is read: one source of metrics of one endpoint.
type Target struct {
	Pool, Endpoint    string
	Source            int    // index among the Backend's metrics
	URL               string // of the metrics
	Host              string // Host header; empty is the URL's
	Engine            engine.Engine
	Interval, Timeout time.Duration
	Client            *http.Client // nil is the Scraper's; see NewClient
}

// key tells targets apart.
type key struct {
	pool, endpoint string
	source         int
}

func (t *Target) key() key { return key{t.Pool, t.Endpoint, t.Source} }

// samePage says whether both are read from the same page in the same way, so that a Reader's memory holds for both.
func (t *Target) samePage(o *Target) bool {
	return t.URL == o.URL && t.Host == o.Host && t.Client == o.Client && t.Engine.Name == o.Engine.Name
}

// Reading is what came of one reading.
type Reading struct {
	Target *Target // never changed
	Sample signal.Sample
	Err    error         // what was wrong, without the URL and what the page said; the Sample is then empty
	Fault  Fault         // kind of Err; empty when it is nil
	Began  time.Time     // when the page was asked for
	Took   time.Duration // from then until it was read
	Late   time.Duration // how long after its time it began
	Bytes  int64         // of the page
}

// Fault is the kind of an error of a reading, as metrics spell it.
type Fault = fetch.Fault

// Empty is the Fault of a page that is well-formed and has no figure of its engine.
const Empty Fault = "empty"

// Options of a Scraper.
type Options struct {
	// Sink gets every reading. It is called from many goroutines, never from two for one target, and holds a worker up until it
	// returns. After Set has taken a target away, only a reading that was just being handed over may still come.
	Sink          func(Reading)
	Client        *http.Client     // of targets that have none; nil is NewClient(nil)
	Now           func() time.Time // stamps the samples; nil is time.Now
	Log           *slog.Logger     // nil is silence
	MaxConcurrent int              // most readings at a time; 0 is 1,024. Targets that failed last get half of it at most.
	Rand          func() float64   // spreads the readings: [0, 1), safe for concurrent use; nil is the runtime's generator
}

// Scraper reads targets. It is safe for concurrent use.
type Scraper struct {
	opts      Options
	scheduler *schedule.Scheduler

	mu        sync.RWMutex
	jobs      map[key]*job
	endpoints map[endpoint][]*job
}

type endpoint struct{ pool, endpoint string }

// NewClient returns a client for targets behind TLS. It dials directly, follows no redirects and keeps its connections. Targets
// with the same config should share one.
func NewClient(config *tls.Config) *http.Client { return fetch.NewClient(config) }

// New returns a Scraper without targets. Run makes it read.
func New(o Options) *Scraper {
	if o.Client == nil {
		o.Client = fetch.NewClient(nil)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Scraper{
		opts:      o,
		scheduler: schedule.New(schedule.Options{Workers: o.MaxConcurrent, Rand: o.Rand}),
		jobs:      map[key]*job{},
		endpoints: map[endpoint][]*job{},
	}
}

// Run reads the targets until ctx ends and the last reading is over. It may run once.
func (s *Scraper) Run(ctx context.Context) { s.scheduler.Run(ctx) }

// Stats are what a Scraper is doing: how many targets it has, how many it is reading, and how many wait for a worker.
type Stats struct{ Targets, Reading, Waiting int }

// Stats returns what it is doing.
func (s *Scraper) Stats() Stats {
	st := s.scheduler.Stats()
	return Stats{Targets: st.Tasks, Reading: st.Running, Waiting: st.Ready}
}

// Set replaces the targets. One that stays keeps its rhythm and what its Reader remembers, also if its interval or timeout
// changes; a shorter interval begins at once. The error names the targets that cannot be read as they are; the others are.
func (s *Scraper) Set(targets []Target) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var problems []error
	jobs := make(map[key]*job, len(targets))
	for i := range targets {
		t := &targets[i]
		if jobs[t.key()] != nil {
			problems = append(problems, fmt.Errorf("source %d of the endpoint %s of %s is given twice", t.Source, t.Endpoint, t.Pool))
			continue
		}
		j, err := s.job(t)
		if err != nil {
			problems = append(problems, fmt.Errorf("source %d of the endpoint %s of %s: %w", t.Source, t.Endpoint, t.Pool, err))
			continue
		}
		jobs[t.key()] = j
	}
	for k, j := range s.jobs {
		if jobs[k] != j {
			j.entry.Remove()
		}
	}
	s.jobs = jobs
	clear(s.endpoints)
	for k, j := range jobs {
		e := endpoint{k.pool, k.endpoint}
		s.endpoints[e] = append(s.endpoints[e], j)
	}
	return errors.Join(problems...)
}

// job is the job of a target: the one that there is if it reads the same page, or a new one.
func (s *Scraper) job(t *Target) (*job, error) {
	if t.Engine.New == nil || t.Interval <= 0 || t.Timeout <= 0 {
		return nil, errors.New("a target needs an engine, an interval and a timeout")
	}
	own := *t
	if j := s.jobs[t.key()]; j != nil {
		if old := j.target.Load(); old.samePage(t) {
			if old.Interval != t.Interval || old.Timeout != t.Timeout {
				j.target.Store(&own)
				j.entry.Hurry(t.Interval)
			}
			return j, nil
		}
	}
	page, err := fetch.NewPage(t.URL, t.Host, accept, t.Client, s.opts.Client)
	if err != nil {
		return nil, err
	}
	j := &job{opts: &s.opts, page: page, reader: t.Engine.New()}
	j.target.Store(&own)
	j.entry = s.scheduler.Add(t.Interval, j.run)
	return j, nil
}

// Hurry lets every source of an endpoint be read again in 25 to 50 ms, to confirm what the last reading said. At most three
// such readings of a source follow each other without a regular one.
func (s *Scraper) Hurry(pool, ep string) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, j := range s.endpoints[endpoint{pool, ep}] {
		j.hurry()
	}
}
