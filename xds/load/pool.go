package load

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/load/feedback"
	"github.com/weir-dev/weir/xds/load/signal"
	"github.com/weir-dev/weir/xds/load/weigh"
)

// maxSamples of one source are kept between two computations: more come only where a source is read far more often than weights
// are computed, and then the newest tell enough.
const maxSamples = 8

// errorWindow is the time in which failures are counted of endpoints that have no breaker.
const errorWindow = 10 * time.Second

// answers is the kind of the source that all endpoints have: what the headers of their answers say.
const answers = "Answers"

// pool is a Backend that is steered.
type pool struct {
	// decide is what the request path asks.
	decide atomic.Pointer[capacity]
	wanted atomic.Bool // it is to be computed at once

	mu        sync.Mutex
	closed    bool // no version has it any more
	conf      *compile.Pool
	template  *endpointv3.ClusterLoadAssignment // of the version; nil without EDS
	endpoints []*endpoint
	byKey     map[string]*endpoint
	state     *weigh.State
	results   []weigh.Result // of the last computation, in the order of endpoints; they are never changed
	computed  time.Time
	envoy     capacity       // what Envoy is to know of it
	published []weigh.Result // that the last overlay has
	assigned  *endpointv3.ClusterLoadAssignment
}

// capacity is what a pool can take of its weight in Routes, and whether it can take requests at all.
type capacity struct {
	share  float64
	usable bool
}

// endpoint is one server of a pool. Everything but traffic.feedback belongs to the pool's mu.
type endpoint struct {
	key     string
	conf    compile.PoolEndpoint
	traffic *traffic
	sources []source // those of the Backend's metrics in their order, and what answers say last

	question       string // where its health is asked; "": nobody asks
	failed, passed int
	checkedAt      time.Time
	checkError     string

	isolated bool
}

// traffic is what requests tell. It is one endpoint's; but where Envoy resolves names by itself, nobody knows which of the pool's
// servers an address is, and all share one.
type traffic struct {
	feedback *feedback.Endpoint
	inFlight map[flight]uint64 // by Envoy's own report, above 0
}

// flight is one address as one Envoy sees it.
type flight struct {
	stream  uint64
	address string
}

// source is what one source of metrics says about an endpoint.
type source struct {
	kind, url string
	samples   []signal.Sample // newest last
	err       string
	readAt    time.Time // zero: never
}

// add takes a sample in.
func (s *source) add(sample signal.Sample) {
	s.readAt = sample.At
	s.samples = append(s.samples, sample)
	if n := len(s.samples); n > maxSamples {
		s.samples = append(s.samples[:0], s.samples[n-maxSamples:]...)
	}
}

// thin keeps the newest sample: the others have been counted.
func (s *source) thin() {
	if n := len(s.samples); n > 1 {
		s.samples = append(s.samples[:0], s.samples[n-1])
	}
}

// configure brings the pool to what a version says of it. Endpoints that stay keep what is known of them, as far as it comes from
// where it came from before. The caller holds mu.
func (p *pool) configure(conf *compile.Pool, template *endpointv3.ClusterLoadAssignment) {
	window := errorWindow
	if conf.Breaker != nil {
		window = conf.Breaker.Window
	}
	old := p.byKey
	together := p.conf != nil && !p.conf.EDS && !conf.EDS && len(p.endpoints) > 0
	apart := p.conf != nil && p.conf.EDS && conf.EDS
	var common *traffic
	switch {
	case together:
		common = p.endpoints[0].traffic
	case !conf.EDS:
		common = newTraffic(window)
	}
	p.conf, p.template = conf, template
	p.endpoints, p.byKey = make([]*endpoint, 0, len(conf.Endpoints)), make(map[string]*endpoint, len(conf.Endpoints))
	for _, c := range conf.Endpoints {
		e := old[c.Key]
		if e == nil {
			e = &endpoint{key: c.Key}
		}
		switch {
		case common != nil:
			e.traffic = common
		case e.traffic == nil || !apart:
			e.traffic = newTraffic(window)
		}
		e.traffic.feedback.SetWindow(window)
		e.conf = c
		e.sources = sourcesOf(conf, &c, e.sources)
		if q := question(conf, &c); q != e.question {
			// What was asked elsewhere says nothing. Whether the endpoint is isolated stays as it is until the new question is answered.
			e.question, e.failed, e.passed, e.checkedAt, e.checkError = q, 0, 0, time.Time{}, ""
		}
		p.endpoints = append(p.endpoints, e)
		p.byKey[c.Key] = e
	}
	p.assigned = nil
}

func newTraffic(window time.Duration) *traffic {
	return &traffic{feedback: feedback.NewEndpoint(window), inFlight: map[flight]uint64{}}
}

// sourcesOf are the sources of an endpoint. Those that were there already keep what they have said.
func sourcesOf(conf *compile.Pool, e *compile.PoolEndpoint, old []source) []source {
	out := make([]source, 0, len(conf.Metrics)+1)
	add := func(kind, url string) {
		s := source{kind: kind, url: url}
		if i := slices.IndexFunc(old, func(o source) bool { return o.kind == kind && o.url == url }); i >= 0 {
			s = old[i]
			old = slices.Delete(slices.Clone(old), i, i+1) // there may be two alike
		}
		out = append(out, s)
	}
	for i := range conf.Metrics {
		url, _ := page(conf, e, &conf.Metrics[i])
		add(string(conf.Metrics[i].Type), url)
	}
	add(answers, "")
	return out
}

// close notes that the pool is gone: what is still on its way to it is not counted.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
}

// tick is the longest time between two computations.
func (p *pool) tick() time.Duration { return max(p.conf.Tick, leastTick) }

// find is the endpoint that a record or a report names, or nil: any of the pool's where Envoy resolves names by itself, for what
// requests tell of those is shared. The caller holds mu.
func (p *pool) find(address string) *endpoint {
	if !p.conf.EDS && len(p.endpoints) > 0 {
		return p.endpoints[0]
	}
	return p.byKey[address]
}

// answer takes in what an answer of an endpoint says, and reports whether it is worth a computation. The caller holds mu.
func (p *pool) answer(e *endpoint, sample *signal.Sample, problem string) (urgent bool) {
	for _, o := range p.endpoints {
		if o != e && p.conf.EDS {
			continue
		}
		src := &o.sources[len(o.sources)-1]
		src.err = problem
		if sample.Has != 0 {
			urgent = weigh.Crossing(&p.conf.Weigh, p.state, o.key, sample) || urgent
			src.add(*sample)
		}
	}
	return urgent
}
