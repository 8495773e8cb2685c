package load

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/load/internal/fetch"
	"github.com/weir-dev/weir/xds/load/probe"
	"github.com/weir-dev/weir/xds/load/scrape"
	"github.com/weir-dev/weir/xds/load/signal"
	"github.com/weir-dev/weir/xds/load/weigh"
)

// hot is how many readings after one across a line are sent at once too: they confirm it.
const hot = 2

// Board takes what a Reader reads, for others.
type Board interface {
	// Post takes a reading. Who is to have it should not wait for others where it is urgent.
	Post(s signal.Shared, urgent bool)
	// Keep drops the readings of what is not read here any more.
	Keep(keep func(*signal.Shared) bool)
}

// ReaderOptions of a Reader.
type ReaderOptions struct {
	Board Board
	// Registry takes the metrics.
	Registry prometheus.Registerer
	Log      *slog.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Reader reads endpoints of pools for processes that steer them, and steers nothing. It is safe for concurrent use.
type Reader struct {
	opts    ReaderOptions
	watcher *watcher
	metrics readMetrics
	haste   haste

	// setting is held while the targets are replaced, before mu.
	setting sync.Mutex
	pools   map[string]*compile.Pool
	mine    func(endpoint string) bool

	mu   sync.Mutex
	read map[readKey]*lately // what is read here
	n    uint64              // number of the last reading
}

// readKey is one thing that is asked of an endpoint.
type readKey struct {
	backend, endpoint string
	source            int // signal.Health for its health
}

// lately is what was read of it last.
type lately struct {
	of     uint64
	policy *weigh.Policy

	known  bool // something was read
	failed bool
	hot    int // readings that are still urgent
	run    int // in a row that were like the last
	sides  weigh.Sides
}

// NewReader makes a Reader. It does nothing before Run. Its readings are numbered on from first, which is to be random: so they have other
// numbers than those of other Readers.
func NewReader(o ReaderOptions, first uint64) *Reader {
	if o.Now == nil {
		o.Now = time.Now
	}
	r := &Reader{opts: o, n: first, metrics: newReadMetrics(o.Registry), mine: func(string) bool { return true }, read: map[readKey]*lately{}}
	r.watcher = newWatcher(r.scraped, r.checked, o.Now, o.Log)
	o.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "weir_fleet_signal_sources", Help: "Sources of signals of endpoints, health checks among them, that this process reads for gateways.",
	}, func() float64 {
		r.mu.Lock()
		defer r.mu.Unlock()
		return float64(len(r.read))
	}))
	return r
}

// Run reads until ctx ends.
func (r *Reader) Run(ctx context.Context) { r.watcher.run(ctx) }

// Use makes these the pools that are read, by Backend ID.
func (r *Reader) Use(pools map[string]*compile.Pool) {
	r.setting.Lock()
	defer r.setting.Unlock()
	for id := range r.pools {
		if pools[id] == nil {
			r.metrics.forget(id)
		}
	}
	r.pools = maps.Clone(pools)
	r.set()
}

// Own says which endpoints are read here, by their keys. The others are somebody else's.
func (r *Reader) Own(mine func(endpoint string) bool) {
	r.setting.Lock()
	defer r.setting.Unlock()
	r.mine = mine
	r.set()
}

// set brings what is read to the pools and to what is read here of them. The caller holds setting.
func (r *Reader) set() {
	next := map[readKey]*lately{}
	r.mu.Lock()
	for id, p := range r.pools {
		for i := range p.Endpoints {
			e := &p.Endpoints[i]
			if !r.mine(e.Key) {
				continue
			}
			for n := range p.Metrics {
				if url, _ := page(p, e, &p.Metrics[n]); url != "" {
					r.stay(next, readKey{id, e.Key, n}, targetPrint(string(p.Metrics[n].Type), url, p.Host), &p.Weigh)
				}
			}
			if p.Health != nil {
				r.stay(next, readKey{id, e.Key, signal.Health}, checkPrint(question(p, e), p.Host), &p.Weigh)
			}
		}
	}
	r.read = next
	r.opts.Board.Keep(func(s *signal.Shared) bool {
		k := next[readKey{s.Backend, s.Endpoint, s.Source}]
		return k != nil && k.of == s.Of
	})
	r.mu.Unlock()
	if err := r.watcher.set(r.pools, func(_, endpoint string, _ int) bool { return r.mine(endpoint) }); err != nil {
		r.opts.Log.Error("some endpoints cannot be watched", "error", err)
	}
}

// stay keeps what is known of a source, as far as it is still the same. The caller holds mu.
func (r *Reader) stay(next map[readKey]*lately, k readKey, of uint64, policy *weigh.Policy) {
	l := &lately{of: of}
	if old := r.read[k]; old != nil && old.of == of {
		*l = *old
	}
	l.policy = policy
	next[k] = l
}

// scraped takes a reading of metrics.
func (r *Reader) scraped(reading scrape.Reading) {
	t := reading.Target
	s := signal.Shared{Backend: t.Pool, Endpoint: t.Endpoint, Source: t.Source, Of: targetPrint(t.Engine.Name, t.URL, t.Host), At: reading.Sample.At}
	if reading.Err != nil {
		s.Fault, s.Err, s.At = string(reading.Fault), reading.Err.Error(), reading.Began.Add(reading.Took)
	} else {
		s.Sample = reading.Sample
	}
	confirm := r.post(&s, func() { r.metrics.scraped(&reading) })
	gone := reading.Fault == fetch.Unreachable || reading.Fault == fetch.Timeout
	if (confirm || gone) && r.haste.allow(r.opts.Now()) {
		if gone {
			r.watcher.prober.Hurry(t.Pool, t.Endpoint)
		} else {
			r.watcher.scraper.Hurry(t.Pool, t.Endpoint)
		}
	}
}

// checked takes the result of a health check.
func (r *Reader) checked(result probe.Result) {
	c := result.Check
	s := signal.Shared{Backend: c.Pool, Endpoint: c.Endpoint, Source: signal.Health, Of: checkPrint(c.URL, c.Host), At: result.At}
	if !result.OK {
		s.Fault, s.Err = string(result.Fault), result.Err
	}
	r.post(&s, func() { r.metrics.checked(&result) })
}

// post hands a reading on, unless what it is of is not read here any more. confirm says that another should follow soon.
func (r *Reader) post(s *signal.Shared, count func()) (confirm bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.read[readKey{s.Backend, s.Endpoint, s.Source}]
	if l == nil || l.of != s.Of {
		return false
	}
	count()
	r.n++
	s.Reading = r.n
	urgent, confirm := l.take(s)
	r.opts.Board.Post(*s, urgent)
	return confirm
}

// take notes a reading, and says whether it is worth knowing at once, and whether the next should follow soon.
func (l *lately) take(s *signal.Shared) (urgent, confirm bool) {
	failed := !s.OK()
	turned := l.known && failed != l.failed || !l.known && failed
	if l.known && !turned {
		l.run++
	} else {
		l.run = 1
	}
	l.known, l.failed = true, failed
	if s.Source == signal.Health {
		// Until as many are alike as it takes, each counts.
		line := l.policy.PassedChecks
		if failed {
			line = l.policy.FailedChecks
		}
		s.Run = l.run
		return l.run <= max(1, line), false
	}
	if failed {
		return turned, false
	}
	if l.sides.Cross(l.policy, &s.Sample) {
		l.hot = hot + 1
	}
	if l.hot == 0 {
		return turned, false
	}
	l.hot--
	return true, l.hot > 0
}
