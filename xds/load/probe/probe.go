// Package probe asks the endpoints of pools whether they are well, each at its own interval.
package probe

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/xds/load/internal/fetch"
	"github.com/weir-dev/weir/xds/load/internal/schedule"
)

const (
	// doubt is how long after the end of a failed check the next begins, if the interval is not shorter: an endpoint that is
	// gone is known as such within a fraction of the interval.
	doubt = 200 * time.Millisecond
	// maxDoubts is how many checks in a row may follow failed ones that fast. Then it is known to be gone.
	maxDoubts = 10
)

// Check is what is asked of one endpoint: a GET that must be answered with 2xx.
type Check struct {
	Pool, Endpoint    string
	URL               string
	Host              string // Host header; empty is the URL's
	Interval, Timeout time.Duration
	Client            *http.Client // nil is the Prober's; of a pool behind TLS it is that which scrape.NewClient makes
}

// Result is how one check went.
type Result struct {
	Check *Check // never changed
	OK    bool
	Err   string        // why not, without the URL and what was answered; empty when OK
	Fault Fault         // kind of Err; empty when OK
	At    time.Time     // when it was over
	Took  time.Duration // how long the endpoint was waited for
}

// Fault is the kind of a failure, as metrics spell it.
type Fault = fetch.Fault

// Options of a Prober.
type Options struct {
	// Sink gets every result. It is called from many goroutines, never from two for one endpoint, and holds a worker up until it
	// returns. After Set has taken a check away, only a result that was just being handed over may still come.
	Sink          func(Result)
	Client        *http.Client     // of checks that have none; nil is one without TLS
	Now           func() time.Time // stamps the results; nil is time.Now
	MaxConcurrent int              // most checks at a time; 0 is 1,024. Endpoints that failed last get half of it at most.
	Rand          func() float64   // spreads the checks: [0, 1), safe for concurrent use; nil is the runtime's generator
}

// Prober checks endpoints. It is safe for concurrent use.
type Prober struct {
	opts      Options
	scheduler *schedule.Scheduler

	mu   sync.Mutex
	jobs map[key]*job
}

type key struct{ pool, endpoint string }

// New returns a Prober without checks. Run makes it ask.
func New(o Options) *Prober {
	if o.Client == nil {
		o.Client = fetch.NewClient(nil)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Prober{
		opts:      o,
		scheduler: schedule.New(schedule.Options{Workers: o.MaxConcurrent, Rand: o.Rand}),
		jobs:      map[key]*job{},
	}
}

// Run checks until ctx ends and the last check is over. It may run once.
func (p *Prober) Run(ctx context.Context) { p.scheduler.Run(ctx) }

// Stats are what a Prober is doing: how many checks it has, how many are under way, and how many wait for a worker.
type Stats struct{ Checks, Asking, Waiting int }

// Stats returns what it is doing.
func (p *Prober) Stats() Stats {
	st := p.scheduler.Stats()
	return Stats{Checks: st.Tasks, Asking: st.Running, Waiting: st.Ready}
}

// Set replaces the checks. One that stays keeps its rhythm, also if its interval or timeout changes; a shorter interval begins at
// once. The error names the checks that cannot be made as they are; the others are.
func (p *Prober) Set(checks []Check) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var problems []error
	jobs := make(map[key]*job, len(checks))
	for i := range checks {
		c := &checks[i]
		k := key{c.Pool, c.Endpoint}
		if jobs[k] != nil {
			problems = append(problems, fmt.Errorf("the check of the endpoint %s of %s is given twice", c.Endpoint, c.Pool))
			continue
		}
		j, err := p.job(k, c)
		if err != nil {
			problems = append(problems, fmt.Errorf("the check of the endpoint %s of %s: %w", c.Endpoint, c.Pool, err))
			continue
		}
		jobs[k] = j
	}
	for k, j := range p.jobs {
		if jobs[k] != j {
			j.entry.Remove()
		}
	}
	p.jobs = jobs
	return errors.Join(problems...)
}

// job is the job of a check: the one that there is if it asks the same, or a new one.
func (p *Prober) job(k key, c *Check) (*job, error) {
	if c.Interval <= 0 || c.Timeout <= 0 {
		return nil, errors.New("a check needs an interval and a timeout")
	}
	own := *c
	if j := p.jobs[k]; j != nil {
		if old := j.check.Load(); old.URL == c.URL && old.Host == c.Host && old.Client == c.Client {
			if *old != own {
				j.check.Store(&own)
				j.entry.Hurry(c.Interval)
			}
			return j, nil
		}
	}
	page, err := fetch.NewPage(c.URL, c.Host, "", c.Client, p.opts.Client)
	if err != nil {
		return nil, err
	}
	j := &job{opts: &p.opts, page: page}
	j.check.Store(&own)
	j.entry = p.scheduler.Add(c.Interval, j.run)
	return j, nil
}

// Hurry lets an endpoint be checked at once, because something else says that it may not be well.
func (p *Prober) Hurry(pool, endpoint string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if j := p.jobs[key{pool, endpoint}]; j != nil {
		j.entry.Hurry(0)
	}
}

// job checks one endpoint.
type job struct {
	opts     *Options
	page     *fetch.Page
	entry    *schedule.Entry
	check    atomic.Pointer[Check]
	failures int // in a row; of the one run at a time
}

// run checks once.
func (j *job) run(ctx context.Context, _ time.Duration) schedule.Outcome {
	c := j.check.Load()
	began := j.opts.Now()
	err := j.page.Check(ctx, c.Timeout)
	if ctx.Err() != nil {
		return schedule.Outcome{} // the check is gone
	}
	at := j.opts.Now()
	took := at.Sub(began)
	r := Result{Check: c, OK: err == nil, At: at, Took: took}
	var known *fetch.Error
	if errors.As(err, &known) {
		r.Err, r.Fault = known.Text, known.Fault
	}
	after := c.Interval
	if r.OK {
		j.failures = 0
	} else if j.failures++; j.failures <= maxDoubts {
		after = min(after, took+doubt)
	}
	j.opts.Sink(r)
	// A server that says in time that it is not well takes nobody's place.
	return schedule.Outcome{After: after, Suspect: r.Fault == fetch.Timeout}
}
