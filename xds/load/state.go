package load

import (
	"cmp"
	"slices"
	"time"

	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/xds/load/signal"
	"github.com/weir-dev/weir/xds/load/weigh"
)

// State is what steering is doing.
type State struct {
	// Serial of the last overlay, and Applied of the last that Envoy has taken.
	Serial, Applied uint64
	// Refused is why Envoy refused the last overlay; "" where it took it.
	Refused string
	Pools   []PoolState // by Backend
	Routes  []RouteState
}

// PoolState is a Backend that is steered.
type PoolState struct {
	Backend, Policy string
	// Picked says that Weir picks endpoints, and not Envoy.
	Picked bool
	// Share is what the pool gets of its weights in Routes now: 1 with nothing against it.
	Share  float64
	Usable bool
	// Picks is what is in flight by the picker's account.
	Picks     pick.PoolState
	Endpoints []EndpointState
}

// EndpointState is one endpoint of a pool.
type EndpointState struct {
	Key    string
	Base   uint32
	Weight uint32
	Status weigh.Status
	// Reasons are the parts of the weight's story; Why tells it.
	Reasons []weigh.Reason
	// Published is the weight that Envoy has been told. 0: isolated, or Envoy resolves the pool's names by itself.
	Published uint32

	Sources  []SourceState
	Failed   int // health checks in a row
	CheckErr string
	Checked  time.Time
	// CheckShared says that the last check was made by another process for many.
	CheckShared bool

	// What requests tell, by the records and the reports of every Envoy. It is that of the whole pool where Envoy resolves names by itself.
	TTFT               time.Duration
	TTFTCount          uint64
	ErrorRate          float64 // below 0: too few requests
	Requests, Failures uint64
	InFlight           uint64
	BlockedUntil       time.Time // it has answered 429, and said until when; in the past: no longer

	// Picks is the picker's account.
	Picks pick.EndpointState

	result *weigh.Result
}

// Why is the whole story of the weight.
func (e *EndpointState) Why() string { return e.result.Explain() }

// SourceState is one source of signals of an endpoint.
type SourceState struct {
	Kind   string
	ReadAt time.Time // zero: never
	Err    string
	Sample signal.Sample
	// Shared says that the last reading was made by another process for many.
	Shared bool
}

// RouteState are the weights of a steered route.
type RouteState struct {
	Key     string
	Members []string
	Weights []uint32
}

// State says what is known now.
func (c *Controller) State() State {
	now := c.opts.Now()
	picks := c.picks(now)
	out := State{Pools: []PoolState{}, Routes: []RouteState{}}
	for id, p := range *c.pools.Load() {
		out.Pools = append(out.Pools, p.describe(id, picks[id], now))
	}
	slices.SortFunc(out.Pools, func(a, b PoolState) int { return cmp.Compare(a.Backend, b.Backend) })
	c.mu.Lock()
	defer c.mu.Unlock()
	out.Serial, out.Applied, out.Refused = c.published.serial, c.published.applied, c.published.refused
	for key, r := range c.routes {
		s := RouteState{Key: key, Weights: slices.Clone(c.published.weights[key].weights)}
		for _, m := range r.Members {
			s.Members = append(s.Members, m.Backend)
		}
		out.Routes = append(out.Routes, s)
	}
	slices.SortFunc(out.Routes, func(a, b RouteState) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

// picks is the picker's account, by Backend.
func (c *Controller) picks(now time.Time) map[string]pick.PoolState {
	out := map[string]pick.PoolState{}
	for _, p := range c.opts.Picker.Snapshot(now) {
		out[p.Pool] = p
	}
	return out
}

// byKey are the endpoints of the picker's account.
func byKey(p *pick.PoolState) map[string]pick.EndpointState {
	out := make(map[string]pick.EndpointState, len(p.Endpoints))
	for _, e := range p.Endpoints {
		out[e.Key] = e
	}
	return out
}

func (p *pool) describe(id string, picks pick.PoolState, now time.Time) PoolState {
	picked := byKey(&picks)
	decide := p.decide.Load()
	p.mu.Lock()
	defer p.mu.Unlock()
	out := PoolState{
		Backend: id, Policy: p.conf.Policy, Share: decide.Share, Usable: decide.Usable, Picks: picks,
		Picked: p.conf.Pick != nil && p.conf.Pick.Mode == pick.LeastLoad, Endpoints: make([]EndpointState, 0, len(p.endpoints)),
	}
	published := weightsOf(p.assigned)
	results := p.weights.Results()
	for i, e := range p.endpoints {
		f, r := e.Feedback.State(now), &results[i]
		s := EndpointState{
			Key: e.Key, Base: e.conf.Weight, Weight: r.Weight, Status: r.Status, Reasons: r.Reasons, result: r,
			Published: published[e.Key], Sources: []SourceState{}, Failed: e.Failed, CheckErr: e.checkError, Checked: e.checkedAt, CheckShared: e.checks.shared,
			TTFT: f.TTFT, TTFTCount: f.TTFTCount, ErrorRate: f.ErrorRate, Requests: f.Requests, Failures: f.Failures,
			BlockedUntil: f.BlockedUntil, Picks: picked[e.Key],
		}
		for _, n := range e.traffic.inFlight {
			s.InFlight += n
		}
		for j := range e.sources {
			src := &e.sources[j]
			if src.url == "" && src.readAt.IsZero() && src.err == "" {
				continue // its answers say nothing about load
			}
			s.Sources = append(s.Sources, SourceState{Kind: src.kind, ReadAt: src.readAt, Err: src.err, Sample: src.samples.Last(), Shared: src.shared})
		}
		out.Endpoints = append(out.Endpoints, s)
	}
	return out
}
