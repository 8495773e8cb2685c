package load

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/load/feedback"
	"github.com/weir-dev/weir/xds/load/pools"
	"github.com/weir-dev/weir/xds/load/signal"
)

// answers is the kind of the source that all endpoints have: what the headers of their answers say.
const answers = "Answers"

// pool is a Backend that is steered.
type pool struct {
	// decide is what the request path asks.
	decide atomic.Pointer[pools.Capacity]
	wanted atomic.Bool // it is to be computed at once

	mu        sync.Mutex
	closed    bool // no version has it any more
	conf      *compile.Pool
	template  *endpointv3.ClusterLoadAssignment // of the version; nil without EDS
	endpoints []*endpoint
	byKey     map[string]*endpoint
	weights   pools.Pool // of endpoints, in their order
	computed  time.Time
	assigned  *endpointv3.ClusterLoadAssignment // that the last overlay has
}

// endpoint is one server of a pool. Everything but traffic.feedback belongs to the pool's mu.
type endpoint struct {
	pools.Endpoint
	conf    compile.PoolEndpoint
	traffic *traffic
	sources []source // those of the Backend's metrics in their order, and what answers say last

	question   string // where its health is asked; "": nobody asks
	checkedAt  time.Time
	checkError string
	checks     following
}

// traffic is what requests tell. It is one endpoint's; but where Envoy resolves names by itself, nobody knows which of the pool's
// servers an address is, and all share one.
type traffic struct {
	feedback *feedback.Endpoint
	inFlight map[flight]uint64 // by Envoy's own report, above 0
	// refusals are answers of 4xx that led to another attempt, and that Envoy's next report counts as errors.
	refusals uint64
}

// flight is one address as one Envoy sees it.
type flight struct {
	stream  uint64
	address string
}

// source is what one source of metrics says about an endpoint.
type source struct {
	kind, url string
	samples   *pools.Samples
	err       string
	readAt    time.Time // zero: never
	following
}

// add takes a sample in.
func (s *source) add(sample signal.Sample) {
	s.readAt = sample.At
	s.samples.Add(sample)
}

// configure brings the pool to what a version says of it. Endpoints that stay keep what is known of them, as far as it comes from
// where it came from before. The caller holds mu.
func (p *pool) configure(conf *compile.Pool, template *endpointv3.ClusterLoadAssignment) {
	p.weights.Settings = pools.Settings{Weigh: &conf.Weigh, Breaker: conf.Breaker, Checked: conf.Health != nil, PublishPercent: conf.PublishPercent}
	window := p.weights.FailureWindow()
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
	p.weights.Endpoints = make([]*pools.Endpoint, 0, len(conf.Endpoints))
	for _, c := range conf.Endpoints {
		e := old[c.Key]
		if e == nil {
			e = &endpoint{Endpoint: pools.Endpoint{Key: c.Key}}
		}
		switch {
		case common != nil:
			e.traffic = common
		case e.traffic == nil || !apart:
			e.traffic = newTraffic(window)
		}
		e.traffic.feedback.SetWindow(window)
		e.conf, e.Base, e.Feedback = c, float64(c.Weight), e.traffic.feedback
		e.sources = sourcesOf(conf, &c, e.sources)
		e.Sources = make([]*pools.Samples, len(e.sources))
		for i := range e.sources {
			e.Sources[i] = e.sources[i].samples
		}
		if q := question(conf, &c); q != e.question {
			// What was asked elsewhere says nothing. Whether the endpoint is isolated stays as it is until the new question is answered.
			e.question, e.Failed, e.Passed, e.checkedAt, e.checkError, e.checks = q, 0, 0, time.Time{}, "", following{}
		}
		p.endpoints, p.weights.Endpoints = append(p.endpoints, e), append(p.weights.Endpoints, &e.Endpoint)
		p.byKey[c.Key] = e
	}
	p.assigned = nil
	p.weights.Forget()
}

func newTraffic(window time.Duration) *traffic {
	return &traffic{feedback: feedback.NewEndpoint(window), inFlight: map[flight]uint64{}}
}

// sourcesOf are the sources of an endpoint. Those that were there already keep what they have said.
func sourcesOf(conf *compile.Pool, e *compile.PoolEndpoint, old []source) []source {
	out := make([]source, 0, len(conf.Metrics)+1)
	add := func(kind, url string) {
		s := source{kind: kind, url: url, samples: &pools.Samples{}}
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
			urgent = p.weights.Crossing(&o.Endpoint, sample) || urgent
			src.add(*sample)
		}
	}
	return urgent
}
