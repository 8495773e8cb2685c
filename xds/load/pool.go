package load

import (
	"sync"
	"sync/atomic"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/load/feedback"
	"github.com/weir-dev/weir/xds/load/signal"
	"github.com/weir-dev/weir/xds/load/weigh"
)

// maxSamples of one source are kept between two computations: more come only where a source is read far more often than weights
// are computed, and then the newest tell enough.
const maxSamples = 8

// pool is a Backend that is steered.
type pool struct {
	// share and usable are what the request path asks. share is in millionths.
	share  atomic.Uint64
	usable atomic.Bool

	mu        sync.Mutex
	conf      *compile.Pool
	template  *endpointv3.ClusterLoadAssignment // of the version; nil without EDS
	endpoints []*endpoint
	byKey     map[string]*endpoint
	state     *weigh.State
	results   []weigh.Result // of the last computation, in the order of endpoints
	computed  time.Time
	published []weigh.Result // that the last overlay has
	assigned  *endpointv3.ClusterLoadAssignment
}

// endpoint is one server of a pool.
type endpoint struct {
	key      string
	feedback *feedback.Endpoint

	// What follows belongs to the pool's mu.
	conf           compile.PoolEndpoint
	sources        []source
	failed, passed int
	checkedAt      time.Time
	checkError     string
	inFlight       uint64 // by Envoy's own report
	isolated       bool
}

// source is what one source of metrics says about an endpoint.
type source struct {
	kind    string
	samples []signal.Sample // newest last
	err     string
	readAt  time.Time
}

// latest is the index of the source of what answers say, behind those of the Backend's metrics.
func (p *pool) answers() int { return len(p.conf.Metrics) }

func (e *endpoint) add(i int, s signal.Sample) {
	src := &e.sources[i]
	src.samples = append(src.samples, s)
	if n := len(src.samples); n > maxSamples {
		src.samples = append(src.samples[:0], src.samples[n-maxSamples:]...)
	}
}

// configure brings the pool to what a version says of it. Endpoints that stay keep what is known of them.
func (p *pool) configure(conf *compile.Pool, template *endpointv3.ClusterLoadAssignment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	window := 10 * time.Second
	if conf.Breaker != nil {
		window = conf.Breaker.Window
	}
	old := p.byKey
	sameSources := p.conf != nil && len(p.conf.Metrics) == len(conf.Metrics)
	for i := range conf.Metrics {
		sameSources = sameSources && p.conf.Metrics[i].Type == conf.Metrics[i].Type
	}
	p.conf, p.template = conf, template
	p.endpoints, p.byKey = make([]*endpoint, 0, len(conf.Endpoints)), make(map[string]*endpoint, len(conf.Endpoints))
	for _, c := range conf.Endpoints {
		e := old[c.Key]
		if e == nil {
			e = &endpoint{key: c.Key, feedback: feedback.NewEndpoint(window)}
		}
		e.conf = c
		e.feedback.SetWindow(window)
		if e.sources == nil || !sameSources {
			e.sources = make([]source, len(conf.Metrics)+1)
			for i, m := range conf.Metrics {
				e.sources[i].kind = string(m.Type)
			}
			e.sources[len(conf.Metrics)].kind = "Answers"
		}
		if conf.Health == nil {
			e.failed, e.passed, e.checkedAt, e.checkError = 0, 0, time.Time{}, ""
		}
		p.endpoints = append(p.endpoints, e)
		p.byKey[c.Key] = e
	}
	p.assigned = nil
}

// find is the endpoint that a record or a report names: any address is the only endpoint of a pool that Envoy resolves by itself.
func (p *pool) find(key string) *endpoint {
	if !p.conf.EDS && len(p.endpoints) == 1 {
		return p.endpoints[0]
	}
	return p.byKey[key]
}

// compute weighs the endpoints anew. The caller holds mu.
func (p *pool) compute(now time.Time, breakers *breaker.Set, price float64) {
	in := make([]weigh.Input, len(p.endpoints))
	blocked := 0
	for i, e := range p.endpoints {
		s := e.feedback.State(now)
		in[i] = weigh.Input{
			Key: e.key, Base: float64(e.conf.Weight), TTFT: s.TTFT, TTFTCount: s.TTFTCount, TTFTAt: s.TTFTAt, ErrorRate: s.ErrorRate,
			Checked: p.conf.Health != nil, Failed: e.failed, Passed: e.passed, BlockedUntil: s.BlockedUntil, PriceRatio: price,
		}
		if p.conf.Breaker != nil {
			in[i].Breaker = breakers.State(p.conf.Breaker, e.key, now)
		}
		if s.BlockedUntil.After(now) {
			blocked++
		}
		for j := range e.sources {
			in[i].Samples = append(in[i].Samples, e.sources[j].samples...)
		}
	}
	if blocked == len(in) {
		// All want to be left alone for a while. Another Backend is asked instead, where there is one; where there is none they are
		// asked nevertheless, for a refusal of theirs says more than one of Weir's.
		for i := range in {
			in[i].BlockedUntil = time.Time{}
		}
	}
	p.state, p.results = weigh.Compute(&p.conf.Weigh, p.state, in, now)
	p.computed = now
	usable := false
	for i, e := range p.endpoints {
		r := &p.results[i]
		isolated := r.Status == weigh.Isolated
		if e.isolated && !isolated {
			e.feedback.Reset() // what it was like before it was isolated says nothing
		}
		e.isolated = isolated
		usable = usable || !isolated
		for j := range e.sources {
			if n := len(e.sources[j].samples); n > 1 {
				e.sources[j].samples = append(e.sources[j].samples[:0], e.sources[j].samples[n-1])
			}
		}
	}
	share := weigh.Overall(p.results)
	if blocked == len(in) {
		share = 0
	}
	p.share.Store(uint64(share * shareWhole))
	p.usable.Store(usable)
}

const shareWhole = 1_000_000

// picks are the endpoints as the picker wants them. The caller holds mu.
func (p *pool) picks() []pick.Endpoint {
	out := make([]pick.Endpoint, len(p.endpoints))
	for i, e := range p.endpoints {
		r := &p.results[i]
		out[i] = pick.Endpoint{
			Key: e.key, Base: float64(e.conf.Weight), Factor: r.Factor, KV: r.KVCache, Panic: r.Panic,
			Isolated: r.Causes&(weigh.CauseHealth|weigh.CauseBlocked) != 0 && !r.Panic,
		}
	}
	return out
}
