// Package pools turns what is known of a Backend's endpoints into their weights, and says what is worth telling Envoy and when. It does no
// I/O and has no clock: the controller feeds it, and simulations feed the same code.
package pools

import (
	"time"

	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/xds/load/feedback"
	"github.com/weir-dev/weir/xds/load/signal"
	"github.com/weir-dev/weir/xds/load/weigh"
)

// maxSamples of one source are kept between two computations: more come only where a source is read far more often than weights
// are computed, and then the newest tell enough.
const maxSamples = 8

// Window is the time in which failures are counted of endpoints that have no breaker.
const Window = 10 * time.Second

// Settings are what a LoadPolicy says about a pool.
type Settings struct {
	Weigh   *weigh.Policy
	Breaker *breaker.Rule // nil: none
	Checked bool          // endpoints have health checks
	// PublishPercent of a weight is the least change that is worth telling.
	PublishPercent int
}

// FailureWindow is the time in which failures are counted.
func (s *Settings) FailureWindow() time.Duration {
	if s.Breaker == nil {
		return Window
	}
	return s.Breaker.Window
}

// Ratio is how a Backend compares with the others of its rules. 0: unknown.
type Ratio struct{ Price, Peers float64 }

// Samples are what one source has said of an endpoint, newest last. At least the newest one stays.
type Samples []signal.Sample

// Add takes a sample in.
func (s *Samples) Add(sample signal.Sample) {
	*s = append(*s, sample)
	if n := len(*s); n > maxSamples {
		*s = append((*s)[:0], (*s)[n-maxSamples:]...)
	}
}

// Last is the newest; the zero Sample where there is none.
func (s Samples) Last() signal.Sample {
	if len(s) == 0 {
		return signal.Sample{}
	}
	return s[len(s)-1]
}

// thin keeps the newest: the others have been counted.
func (s *Samples) thin() {
	if n := len(*s); n > 1 {
		*s = append((*s)[:0], (*s)[n-1])
	}
}

// Endpoint is what is known of one endpoint.
type Endpoint struct {
	Key      string
	Base     float64            // weight
	Feedback *feedback.Endpoint // several may share one
	Sources  []*Samples
	// Failed and Passed are how many of the last health checks in a row did. Both 0: none is over yet.
	Failed, Passed int

	isolated bool
}

// Isolated says whether the last computation isolated it.
func (e *Endpoint) Isolated() bool { return e.isolated }

// Pool is the endpoints of one Backend. It is not safe for concurrent use.
type Pool struct {
	Settings
	// Endpoints may be replaced between two computations.
	Endpoints []*Endpoint

	state   *weigh.State
	results []weigh.Result
	decide  Capacity
	envoy   Capacity
	blocked bool

	told   []weigh.Result
	toldAt time.Time
}

// Results of the last computation, in the order that Endpoints had. They are never changed.
func (p *Pool) Results() []weigh.Result { return p.results }

// Decide is what the pool can take by decisions of Weir's.
func (p *Pool) Decide() Capacity { return p.decide }

// Envoy is what it can take by Envoy alone.
func (p *Pool) Envoy() Capacity { return p.envoy }

// Blocked says that every endpoint that could be asked wants to be left alone. They are asked all the same where there is no other Backend.
func (p *Pool) Blocked() bool { return p.blocked }

// Crossing says whether a new sample of an endpoint is worth a computation at once, and another reading. Ask before it is added.
func (p *Pool) Crossing(e *Endpoint, sample *signal.Sample) bool {
	return weigh.Crossing(p.Weigh, p.state, e.Key, sample)
}

// Decisive says whether the last health check of an endpoint is worth a computation at once.
func (p *Pool) Decisive(e *Endpoint) bool {
	return e.Failed == max(1, p.Weigh.FailedChecks) || e.isolated && e.Passed == max(1, p.Weigh.PassedChecks)
}

// Compute weighs the endpoints anew, and gives those that were isolated or came back.
func (p *Pool) Compute(now time.Time, breakers *breaker.Set, of Ratio) (moved []weigh.Result) {
	in := p.inputs(now, breakers, of)
	state, results := weigh.Compute(p.Weigh, p.state, in, now)
	until := unblock(in, results)
	if p.blocked = until != nil; p.blocked {
		state, results = weigh.Compute(p.Weigh, p.state, in, now)
		for i, t := range until {
			if !t.IsZero() {
				results[i].Reasons = append(results[i].Reasons, weigh.Reason{Rule: weigh.RuleBlocked, Factor: 1, Value: t.Sub(now).Seconds()})
			}
		}
	}
	p.state, p.results = state, results
	for i, e := range p.Endpoints {
		r := &results[i]
		if isolated := r.Status == weigh.Isolated; isolated != e.isolated {
			if e.isolated = isolated; !isolated {
				e.Feedback.Reset() // what it was like before it was isolated says nothing
			}
			moved = append(moved, *r)
		}
		for _, s := range e.Sources {
			s.thin()
		}
	}
	p.decide, p.envoy = capacities(p.Weigh, in, results)
	if p.blocked {
		p.decide.Share, p.envoy.Share = 0, 0
	}
	return moved
}

// inputs are what is known of the endpoints.
func (p *Pool) inputs(now time.Time, breakers *breaker.Set, of Ratio) []weigh.Input {
	in := make([]weigh.Input, len(p.Endpoints))
	for i, e := range p.Endpoints {
		s := e.Feedback.State(now)
		in[i] = weigh.Input{
			Key: e.Key, Base: e.Base, TTFT: s.TTFT, TTFTCount: s.TTFTCount, TTFTAt: s.TTFTAt, ErrorRate: s.ErrorRate,
			Checked: p.Checked, Failed: e.Failed, Passed: e.Passed, BlockedUntil: s.BlockedUntil, PriceRatio: of.Price, PeerRatio: of.Peers,
		}
		if p.Breaker != nil {
			in[i].Breaker = breakers.State(p.Breaker, e.Key, now)
		}
		for _, s := range e.Sources {
			in[i].Samples = append(in[i].Samples, *s...)
		}
	}
	return in
}

// unblock lets those be asked that want to be left alone for a while, where nobody else of the pool can be, and gives until when they do,
// in the order of in; nil where that is not so. Another Backend is asked instead, where there is one; where there is none, a refusal of
// theirs says more than one of Weir's.
func unblock(in []weigh.Input, results []weigh.Result) (until []time.Time) {
	for i := range results {
		if results[i].Status != weigh.Isolated || tried(&in[i], &results[i]) {
			return nil
		}
	}
	for i := range results {
		if results[i].Causes == weigh.CauseBlocked {
			if until == nil {
				until = make([]time.Time, len(in))
			}
			until[i], in[i].BlockedUntil = in[i].BlockedUntil, time.Time{}
		}
	}
	return until
}

// Picks are the endpoints as the picker wants them.
func (p *Pool) Picks() []pick.Endpoint {
	out := make([]pick.Endpoint, len(p.Endpoints))
	for i, e := range p.Endpoints {
		r := &p.results[i]
		out[i] = pick.Endpoint{
			Key: e.Key, Base: e.Base, Factor: r.Factor, KV: r.KVCache, Panic: r.Panic,
			Isolated: r.Causes&(weigh.CauseHealth|weigh.CauseBlocked) != 0 && !r.Panic,
		}
	}
	return out
}
