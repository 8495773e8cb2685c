package load

import (
	"crypto/tls"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/load/engine"
	"github.com/weir-dev/weir/xds/load/headers"
	"github.com/weir-dev/weir/xds/load/lrs"
	"github.com/weir-dev/weir/xds/load/probe"
	"github.com/weir-dev/weir/xds/load/scrape"
	"github.com/weir-dev/weir/xds/load/signal"
	"github.com/weir-dev/weir/xds/load/weigh"
)

// maxBlock is the longest time that an endpoint is left alone because it asks for it.
const maxBlock = 5 * time.Minute

// Observe takes what a finished request tells about the endpoint that answered it. It is a usage.Sink.
func (c *Controller) Observe(r *usage.Record) {
	if r.Backend == "" || r.Immediate {
		return
	}
	p := (*c.pools.Load())[r.Backend]
	if p == nil {
		return
	}
	p.mu.Lock()
	e := p.find(r.Endpoint)
	p.mu.Unlock()
	if e == nil {
		return
	}
	now := c.opts.Now()
	if r.FirstToken > 0 && r.Status >= 200 && r.Status < 400 {
		e.feedback.FirstToken(r.FirstToken, now)
	}
	for key, text := range r.Signals {
		if l, ok := wire.ParseLoad(key, text); ok {
			c.answered(&l, now)
		}
	}
}

// answered takes what the headers of one answer say: of the answer that the caller got, or of one that made Envoy try elsewhere.
func (c *Controller) answered(l *wire.Load, now time.Time) {
	p := (*c.pools.Load())[l.Backend]
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.find(l.Endpoint)
	if e == nil {
		return
	}
	urgent := false
	limits := headers.RateLimits(l.Header, now)
	if wait, ok := headers.RetryAfter(l.Header, now); ok && l.Status == "429" && wait > 0 {
		e.feedback.Block(now.Add(min(wait, maxBlock)))
		urgent = true
	}
	i := p.answers()
	src := &e.sources[i]
	report, err := headers.ORCA(l.Header, now)
	if src.err = ""; err != nil {
		src.err = err.Error()
	}
	for _, sample := range []signal.Sample{limits, report} {
		if sample.Has == 0 {
			continue
		}
		src.readAt = now
		urgent = weigh.Crossing(&p.conf.Weigh, p.state, e.key, &sample) || urgent
		e.add(i, sample)
	}
	if urgent {
		c.Wake()
	}
}

// Report takes what Envoy says about an endpoint, every attempt included. It is a sink of lrs.
func (c *Controller) Report(r lrs.Report) {
	p := (*c.clusters.Load())[r.Cluster]
	if p == nil {
		return
	}
	now := c.opts.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.find(r.Endpoint); e != nil {
		e.inFlight = r.InFlight
		e.feedback.Results(r.Successes, r.Errors, now)
	}
}

// read takes a reading of an endpoint's metrics.
func (c *Controller) read(r scrape.Reading) {
	c.metrics.scraped(&r)
	p := (*c.pools.Load())[r.Target.Pool]
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.byKey[r.Target.Endpoint]
	if e == nil || r.Target.Source >= p.answers() {
		return
	}
	src := &e.sources[r.Target.Source]
	if r.Err != nil {
		src.err = r.Err.Error()
		return
	}
	src.err, src.readAt = "", r.Sample.At
	crossing := weigh.Crossing(&p.conf.Weigh, p.state, e.key, &r.Sample)
	e.add(r.Target.Source, r.Sample)
	if crossing {
		// Two samples in a row make a rule apply: the second need not wait for its turn.
		c.scraper.Hurry(r.Target.Pool, r.Target.Endpoint)
		c.Wake()
	}
}

// checked takes the result of a health check.
func (c *Controller) checked(r probe.Result) {
	c.metrics.checked(&r)
	p := (*c.pools.Load())[r.Check.Pool]
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.byKey[r.Check.Endpoint]
	if e == nil {
		return
	}
	e.checkedAt, e.checkError = r.At, r.Err
	if r.OK {
		e.passed, e.failed = e.passed+1, 0
		if e.isolated && e.passed == p.conf.Weigh.PassedChecks {
			c.Wake()
		}
		return
	}
	e.failed, e.passed = e.failed+1, 0
	if e.failed == p.conf.Weigh.FailedChecks {
		c.Wake()
	}
}

// sources are what must be read of the pools, and checked.
func (c *Controller) sources(pools map[string]*compile.Pool) (targets []scrape.Target, checks []probe.Check) {
	c.clientsMu.Lock()
	defer c.clientsMu.Unlock()
	old := c.clients
	c.clients = map[string]client{}
	for id, p := range pools {
		var client *http.Client
		if p.TLS != nil {
			client = c.client(old, id, p.TLS)
		}
		for _, e := range p.Endpoints {
			for i, m := range p.Metrics {
				kind, ok := engine.Find(string(m.Type))
				if !ok {
					continue // ORCA reports come with the answers
				}
				targets = append(targets, scrape.Target{
					Pool: id, Endpoint: e.Key, Source: i, Engine: kind, Host: p.Host, Client: client,
					URL:      address(p.TLS != nil, e, first(uint32(m.Port), uint32(kind.DefaultPort), e.Port), first(m.Path, kind.DefaultPath)),
					Interval: span(m.Interval, 500*time.Millisecond), Timeout: span(m.Timeout, 2*time.Second),
				})
			}
			if h := p.Health; h != nil {
				checks = append(checks, probe.Check{
					Pool: id, Endpoint: e.Key, Host: p.Host, Client: client,
					URL:      address(p.TLS != nil, e, first(uint32(h.Port), e.Port), first(h.Path, "/health")),
					Interval: span(h.Interval, time.Second), Timeout: span(h.Timeout, time.Second),
				})
			}
		}
	}
	return targets, checks
}

// client is how the endpoints of one pool are asked over TLS.
type client struct {
	config *tls.Config
	http   *http.Client
}

// client is the one of before where it trusts the same: it has connections, and a target with another one begins anew.
func (c *Controller) client(old map[string]client, id string, config *tls.Config) *http.Client {
	k, ok := old[id]
	if !ok || k.config.ServerName != config.ServerName || k.config.InsecureSkipVerify != config.InsecureSkipVerify || !k.config.RootCAs.Equal(config.RootCAs) {
		k = client{config, scrape.NewClient(config)}
	}
	c.clients[id] = k
	return k.http
}

func address(secure bool, e compile.PoolEndpoint, port uint32, path string) string {
	scheme := "http"
	if secure {
		scheme = "https"
	}
	return scheme + "://" + net.JoinHostPort(e.Host, strconv.FormatUint(uint64(port), 10)) + path
}

// first is the first that is given.
func first[T comparable](list ...T) (out T) {
	for _, v := range list {
		if v != out {
			return v
		}
	}
	return out
}

func span(d *v1alpha1.Duration, otherwise time.Duration) time.Duration {
	if d == nil {
		return otherwise
	}
	return d.Duration
}
