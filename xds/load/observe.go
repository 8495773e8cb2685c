package load

import (
	"sync"
	"time"

	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/xds/load/headers"
	"github.com/weir-dev/weir/xds/load/internal/fetch"
	"github.com/weir-dev/weir/xds/load/lrs"
	"github.com/weir-dev/weir/xds/load/probe"
	"github.com/weir-dev/weir/xds/load/scrape"
	"github.com/weir-dev/weir/xds/load/signal"
)

// Observe takes what a finished request tells about the endpoints that it was sent to. It is a usage.Sink.
func (c *Controller) Observe(r *usage.Record) {
	if r.Immediate {
		return
	}
	now := c.opts.Now()
	if p := (*c.pools.Load())[r.Backend]; p != nil && r.Status >= 200 && r.Status < 400 {
		p.mu.Lock()
		if e := p.find(r.Endpoint); e != nil {
			e.Feedback.Served(now)
			if r.FirstToken > 0 {
				e.Feedback.FirstToken(r.FirstToken, now)
			}
		}
		p.mu.Unlock()
	}
	for key, text := range r.Signals {
		if l, ok := wire.ParseLoad(key, text); ok {
			c.answered(&l, l.Backend == r.Backend && l.Endpoint == r.Endpoint, now)
		}
	}
}

// answered takes what the headers of one answer say: of the answer that the caller got, or of one that made Envoy try elsewhere.
func (c *Controller) answered(l *wire.Load, last bool, now time.Time) {
	p := (*c.pools.Load())[l.Backend]
	if p == nil {
		return
	}
	sample, err := headers.ORCA(l.Header, now)
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	if limits := headers.RateLimits(l.Header, now); limits.Has.Has(signal.Headroom) {
		sample.At, sample.Headroom, sample.Has = now, limits.Headroom, sample.Has.With(signal.Headroom)
	}
	wait, _ := headers.RetryAfter(l.Header, now)

	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.find(l.Endpoint)
	if e == nil {
		return
	}
	if !last && l.Status[0] == '4' {
		e.traffic.refusals++ // Envoy counts it as an error, because it tried elsewhere
	}
	urgent := p.answer(e, &sample, problem)
	if l.Status == "429" && wait > 0 {
		e.Feedback.Block(wait, now)
		urgent = true
	}
	if urgent {
		c.wake(p)
	}
}

// Report takes what one Envoy says about an endpoint, every attempt included. It is a sink of lrs.
func (c *Controller) Report(r lrs.Report) {
	p := (*c.clusters.Load())[r.Cluster]
	if p == nil {
		return
	}
	now := c.opts.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.find(r.Endpoint)
	if e == nil {
		return
	}
	if at := (flight{r.Stream, r.Endpoint}); r.InFlight > 0 {
		e.traffic.inFlight[at] = r.InFlight
	} else {
		delete(e.traffic.inFlight, at)
	}
	refused := min(e.traffic.refusals, r.Errors)
	e.traffic.refusals -= refused
	e.Feedback.Results(r.Successes, r.Errors-refused, now)
}

// read takes a reading of an endpoint's metrics.
func (c *Controller) read(r scrape.Reading) {
	p := (*c.pools.Load())[r.Target.Pool]
	if p == nil {
		return
	}
	crossing := c.took(p, &r)
	// Who does not answer may be gone, and the next check of its health is up to an interval away.
	gone := r.Fault == fetch.Unreachable || r.Fault == fetch.Timeout
	if (crossing || gone) && c.haste.allow(c.opts.Now()) {
		if gone {
			c.watcher.prober.Hurry(r.Target.Pool, r.Target.Endpoint)
		} else {
			// Two samples in a row make a rule apply: the second need not wait for its turn.
			c.watcher.scraper.Hurry(r.Target.Pool, r.Target.Endpoint)
		}
	}
	if crossing {
		c.wake(p)
	}
}

// took takes a reading into its pool, and says whether it crosses a line.
func (c *Controller) took(p *pool, r *scrape.Reading) (crossing bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	c.metrics.scraped(r)
	e := p.byKey[r.Target.Endpoint]
	if e == nil || r.Target.Source >= len(e.sources) {
		return false
	}
	src := &e.sources[r.Target.Source]
	if src.kind != r.Target.Engine.Name || src.url != r.Target.URL {
		return false // of a source that another has replaced
	}
	if r.Err != nil {
		src.err, src.shared = r.Err.Error(), false
		return false
	}
	src.err, src.shared = "", false
	crossing = p.weights.Crossing(&e.Endpoint, &r.Sample)
	src.add(r.Sample)
	return crossing
}

// checked takes the result of a health check.
func (c *Controller) checked(r probe.Result) {
	p := (*c.pools.Load())[r.Check.Pool]
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	c.metrics.checked(&r)
	e := p.byKey[r.Check.Endpoint]
	if e == nil || e.question != r.Check.URL {
		return // of a check that another has replaced
	}
	e.checkedAt, e.checkError, e.checks.shared = r.At, r.Err, false
	if r.OK {
		e.Passed, e.Failed = e.Passed+1, 0
	} else {
		e.Failed, e.Passed = e.Failed+1, 0
	}
	if p.weights.Decisive(&e.Endpoint) {
		c.wake(p)
	}
}

const (
	// hastePerSecond bounds the readings beyond the regular ones. A pool at its limits has many endpoints about a line, and where
	// all of them cross it together the regular readings confirm that soon enough.
	hastePerSecond = 200
	// hasteBurst is how many may come at once.
	hasteBurst = 200
)

// haste bounds how many endpoints are read again out of turn. The zero value is ready.
type haste struct {
	mu   sync.Mutex
	used float64 // of the burst
	at   time.Time
}

func (h *haste) allow(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.used = max(0, h.used-hastePerSecond*max(0, now.Sub(h.at).Seconds()))
	h.at = now
	if h.used > hasteBurst-1 {
		return false
	}
	h.used++
	return true
}
