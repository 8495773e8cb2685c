package load

import (
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/load/internal/fetch"
	"github.com/weir-dev/weir/xds/load/signal"
)

const (
	// leastPatience is how old the last reading of others must be for a source to be read here, however often it is read.
	leastPatience = 3 * time.Second
	// lookEvery is how often is looked whether readings of others come.
	lookEvery = 500 * time.Millisecond
	// slowest is the longest pause of a scraper after a reading that failed, where the interval is shorter.
	slowest = 2 * time.Second
)

// Signals are readings of endpoints that another process makes for many.
type Signals interface {
	// Want says of which Backends they are wanted, by sorted IDs. It must not wait.
	Want(backends []string)
}

// following is how a source that others read is followed.
type following struct {
	heard   time.Time // when others have read it last; at first, since when that is waited for
	failed  bool      // that reading
	reading uint64    // its number
	doubted bool      // others cannot reach it, which may be so only where they are
	missing bool      // others do not read it
	own     bool      // either: it is read here
	shared  bool      // what is known of it was read by others
}

// patience is how old the last reading may be of a source that is read at an interval. A reading that is waited for until its timeout is
// none that is missing.
func (f *following) patience(interval, timeout time.Duration) time.Duration {
	if f.failed {
		interval = max(interval, slowest)
	}
	return max(leastPatience, 3*interval, 2*interval+timeout)
}

// look decides whether others read it, and says whether that is news.
func (f *following) look(now time.Time, interval, timeout time.Duration) (changed bool) {
	f.missing = now.Sub(f.heard) > f.patience(interval, timeout)
	own := f.missing || f.doubted
	changed = own != f.own
	f.own = own
	return changed
}

// take notes a reading of others, and says of what use it is, where what is known was read at the time given.
func (f *following) take(s *signal.Shared, known time.Time) (result string) {
	if f.reading == s.Reading {
		return late
	}
	f.reading = s.Reading
	unreached := s.Fault == string(fetch.Unreachable) || s.Fault == string(fetch.Timeout)
	if s.At.After(f.heard) {
		f.heard, f.failed, f.doubted = s.At, !s.OK(), unreached
	}
	switch {
	case !s.At.After(known):
		return late
	case unreached && f.own:
		return doubted // whether it can be reached from here is known better here
	}
	f.shared = true
	return used
}

// expect begins to wait for what others read of new sources. The caller holds mu.
func (p *pool) expect(now time.Time) {
	begin := func(f *following) {
		if f.heard.IsZero() {
			f.heard = now
		}
	}
	for _, e := range p.endpoints {
		begin(&e.checks)
		for i := range e.sources {
			begin(&e.sources[i].following)
		}
	}
}

// each calls f for everything that is asked of the pool's endpoints. The caller holds mu.
func (p *pool) each(f func(to *following, interval, timeout time.Duration)) {
	for _, e := range p.endpoints {
		for i := range p.conf.Metrics {
			if m := &p.conf.Metrics[i]; e.sources[i].url != "" {
				f(&e.sources[i].following, v1alpha1.DurationOr(m.Interval, readEvery), v1alpha1.DurationOr(m.Timeout, readTimeout))
			}
		}
		if h := p.conf.Health; h != nil {
			f(&e.checks, v1alpha1.DurationOr(h.Interval, checkEvery), v1alpha1.DurationOr(h.Timeout, checkTimeout))
		}
	}
}

// want says whose signals are wanted.
func (c *Controller) want(pools map[string]*compile.Pool) {
	if c.opts.Signals != nil {
		c.opts.Signals.Want(slices.Sorted(maps.Keys(pools)))
	}
}

// own says whether a source is read here. The caller holds work, and no pool's mu.
func (c *Controller) own(backend, endpoint string, index int) bool {
	if c.opts.Signals == nil {
		return true
	}
	p := (*c.pools.Load())[backend]
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.byKey[endpoint]
	switch {
	case e == nil:
		return false
	case index == signal.Health:
		return e.checks.own
	}
	return e.sources[index].own
}

// look finds out what others read no more, or again, and reads what has to be read here. The caller holds work.
func (c *Controller) look(now time.Time) {
	if c.opts.Signals == nil || now.Sub(c.looked) < lookEvery {
		return
	}
	c.looked = now
	changed, missing := false, 0
	for _, p := range *c.pools.Load() {
		p.mu.Lock()
		p.each(func(f *following, interval, timeout time.Duration) {
			changed = f.look(now, interval, timeout) || changed
			if f.missing {
				missing++
			}
		})
		p.mu.Unlock()
	}
	if changed {
		c.watch()
	}
	switch {
	case missing > 0 && !c.alone:
		c.opts.Log.Warn("the control plane sends no readings of some endpoints; they are read here", "sources", missing)
	case missing == 0 && c.alone:
		c.opts.Log.Info("the control plane sends readings of all endpoints again")
	}
	c.alone = missing > 0
}

// Take takes what another process has read of endpoints.
func (c *Controller) Take(signals []signal.Shared) {
	pools := *c.pools.Load()
	for i := range signals {
		s := &signals[i]
		if p := pools[s.Backend]; p != nil {
			c.takeOne(p, s)
		}
	}
}

// takeOne takes one of them.
func (c *Controller) takeOne(p *pool, s *signal.Shared) {
	kind, result := "metrics", "unknown"
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.byKey[s.Endpoint]
	var urgent bool
	switch {
	case p.closed || e == nil:
	case s.Source == signal.Health:
		kind = "health"
		urgent, result = p.takeCheck(e, s)
	default:
		urgent, result = p.takeSample(e, s)
	}
	if c.metrics.signals != nil {
		c.metrics.signals.WithLabelValues(kind, result).Inc()
	}
	if urgent {
		c.wake(p)
	}
}

// The results of signals, as metrics spell them.
const (
	used    = "used"
	late    = "late"    // something newer is known
	doubted = "doubted" // they could not reach the endpoint, and it is asked here
	unknown = "unknown" // of something that is not asked here
)

// takeSample takes a reading of metrics, and says whether it is worth a computation at once. The caller holds mu.
func (p *pool) takeSample(e *endpoint, s *signal.Shared) (urgent bool, result string) {
	if s.Source < 0 || s.Source >= len(p.conf.Metrics) {
		return false, unknown
	}
	src := &e.sources[s.Source]
	if src.url == "" || s.Of != targetPrint(src.kind, src.url, p.conf.Host) {
		return false, unknown
	}
	if result := src.following.take(s, src.readAt); result != used {
		return false, result
	}
	if !s.OK() {
		src.err = s.Err
		return false, used
	}
	sample := s.Sample
	sample.At = s.At
	src.err = ""
	urgent = p.weights.Crossing(&e.Endpoint, &sample)
	src.add(sample)
	return urgent, used
}

// takeCheck takes the result of a health check, and says whether it is worth a computation at once. The caller holds mu.
func (p *pool) takeCheck(e *endpoint, s *signal.Shared) (urgent bool, result string) {
	if e.question == "" || s.Of != checkPrint(e.question, p.conf.Host) {
		return false, unknown
	}
	if result := e.checks.take(s, e.checkedAt); result != used {
		return false, result
	}
	e.checkedAt, e.checkError = s.At, s.Err
	// Results may have been left out that were like this one. Who has just begun to check counts from one, and it goes on here.
	failed, passed := e.Failed, e.Passed
	if s.OK() {
		e.Passed, e.Failed = max(passed+1, s.Run), 0
	} else {
		e.Failed, e.Passed = max(failed+1, s.Run), 0
	}
	reached := func(before, now, line int) bool { return before < max(1, line) && now >= max(1, line) }
	return reached(failed, e.Failed, p.conf.Weigh.FailedChecks) || e.Isolated() && reached(passed, e.Passed, p.conf.Weigh.PassedChecks), used
}

var sharedDesc = prometheus.NewDesc("weir_backend_signal_sources", "Sources of signals of the endpoints of a Backend, health checks among them: shared, which the control plane reads, and own, which this process reads itself.", []string{"backend", "reader"}, nil)

// newSignalMetrics makes the metrics of who gets signals from others.
func newSignalMetrics(reg prometheus.Registerer, c *Controller) *prometheus.CounterVec {
	signals := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_fleet_signals_total", Help: "Readings of endpoints that came from the control plane, by what became of them.",
	}, []string{"kind", "result"})
	reg.MustRegister(signals, &readers{c})
	return signals
}

// readers says who reads.
type readers struct{ c *Controller }

// Describe implements prometheus.Collector.
func (r *readers) Describe(ch chan<- *prometheus.Desc) { ch <- sharedDesc }

// Collect implements prometheus.Collector.
func (r *readers) Collect(ch chan<- prometheus.Metric) {
	for id, p := range *r.c.pools.Load() {
		var shared, own float64
		p.mu.Lock()
		p.each(func(f *following, _, _ time.Duration) {
			if f.own {
				own++
			} else {
				shared++
			}
		})
		p.mu.Unlock()
		ch <- prometheus.MustNewConstMetric(sharedDesc, prometheus.GaugeValue, shared, id, "shared")
		ch <- prometheus.MustNewConstMetric(sharedDesc, prometheus.GaugeValue, own, id, "own")
	}
}

var _ prometheus.Collector = (*readers)(nil)
