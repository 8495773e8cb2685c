package load

import (
	"time"

	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/xds/load/weigh"
)

// move is an endpoint that was isolated, or came back.
type move struct{ weigh.Result }

func (m *move) isolated() bool { return m.Status == weigh.Isolated }

// compute weighs the endpoints anew, and tells who was isolated and who came back. The caller holds mu.
func (p *pool) compute(now time.Time, breakers *breaker.Set, of ratio) []move {
	in := p.inputs(now, breakers, of)
	state, results := weigh.Compute(&p.conf.Weigh, p.state, in, now)
	alone := unblock(in, results)
	if alone {
		state, results = weigh.Compute(&p.conf.Weigh, p.state, in, now)
	}
	p.state, p.results, p.computed = state, results, now
	var moved []move
	for i, e := range p.endpoints {
		r := &results[i]
		if isolated := r.Status == weigh.Isolated; isolated != e.isolated {
			if e.isolated = isolated; !isolated {
				e.traffic.feedback.Reset() // what it was like before it was isolated says nothing
			}
			moved = append(moved, move{*r})
		}
		for j := range e.sources {
			e.sources[j].thin()
		}
	}
	decide, envoy := capacities(&p.conf.Weigh, in, results)
	if alone {
		decide.share, envoy.share = 0, 0
	}
	p.decide.Store(&decide)
	p.envoy = envoy
	return moved
}

// inputs are what is known of the endpoints.
func (p *pool) inputs(now time.Time, breakers *breaker.Set, of ratio) []weigh.Input {
	in := make([]weigh.Input, len(p.endpoints))
	for i, e := range p.endpoints {
		s := e.traffic.feedback.State(now)
		in[i] = weigh.Input{
			Key: e.key, Base: float64(e.conf.Weight), TTFT: s.TTFT, TTFTCount: s.TTFTCount, TTFTAt: s.TTFTAt, ErrorRate: s.ErrorRate,
			Checked: p.conf.Health != nil, Failed: e.failed, Passed: e.passed, BlockedUntil: s.BlockedUntil, PriceRatio: of.price, PeerRatio: of.peers,
		}
		if p.conf.Breaker != nil {
			in[i].Breaker = breakers.State(p.conf.Breaker, e.key, now)
		}
		for j := range e.sources {
			in[i].Samples = append(in[i].Samples, e.sources[j].samples...)
		}
	}
	return in
}

// unblock lets those be asked that want to be left alone for a while, where nobody else of the pool can be, and says whether that is so.
// Another Backend is asked instead, where there is one; where there is none, a refusal of theirs says more than one of Weir's.
func unblock(in []weigh.Input, results []weigh.Result) (alone bool) {
	for i := range results {
		if results[i].Status != weigh.Isolated || tried(&in[i], &results[i]) {
			return false
		}
	}
	for i := range results {
		if results[i].Causes == weigh.CauseBlocked {
			in[i].BlockedUntil, alone = time.Time{}, true
		}
	}
	return alone
}

// tried says whether an isolated endpoint gets the few requests that a half-open breaker lets through. Envoy knows it as unhealthy, and
// the picker names it.
func tried(in *weigh.Input, r *weigh.Result) bool {
	return r.Status == weigh.Isolated && r.Causes == weigh.CauseBreaker && in.Breaker == breaker.HalfOpen
}

// leastTries is the least part of an endpoint that counts while it is tried.
const leastTries = 0.01

// capacities are what a pool can take: by decisions of Weir's, and by Envoy alone. Endpoints that are to be tried count for the former as
// if their warm-up began, or a pool of which nothing else is left would never be asked again.
func capacities(policy *weigh.Policy, in []weigh.Input, results []weigh.Result) (decide, envoy capacity) {
	var tries, bases float64
	part := 1.0
	if policy.WarmUp > 0 {
		part = max(policy.WarmUpFrom, leastTries)
	}
	for i := range results {
		r := &results[i]
		bases += r.Base
		if r.Status != weigh.Isolated {
			envoy.usable = true
		} else if tried(&in[i], r) {
			decide.usable = true
			tries += r.Base * r.Factor * part
		}
	}
	envoy.share = weigh.Overall(results)
	decide.share, decide.usable = envoy.share, decide.usable || envoy.usable
	if bases > 0 {
		decide.share += tries / bases
	}
	return decide, envoy
}

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
