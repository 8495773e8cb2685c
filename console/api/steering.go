package api

import (
	"net/http"
	"time"

	"github.com/weir-dev/weir/xds/load"
	"github.com/weir-dev/weir/xds/load/signal"
)

func (a *API) backends(w http.ResponseWriter, _ *http.Request) {
	write(w, SteeringOf(a.Steering(), a.Now()))
}

// SteeringOf writes a state as the API does.
func SteeringOf(s load.State, now time.Time) *Steering {
	out := &Steering{Update: s.Serial, Applied: s.Applied, Refused: s.Refused, Pools: []SteeredPool{}, Routes: []RouteWeights{}}
	for i := range s.Pools {
		p := &s.Pools[i]
		b := SteeredPool{
			Backend: p.Backend, Policy: p.Policy, Picking: picking(p), Share: p.Share, Usable: p.Usable,
			Requests: p.Picks.Requests, Tokens: p.Picks.Tokens, Waiting: p.Picks.Waiting, Picked: p.Picks.Picked, Refused: p.Picks.Refused,
			Prompt: p.Picks.AllTokens, Cached: p.Picks.CachedTokens, Endpoints: []SteeredEndpoint{},
		}
		for j := range p.Endpoints {
			b.Endpoints = append(b.Endpoints, steeredEndpoint(&p.Endpoints[j], now))
		}
		out.Pools = append(out.Pools, b)
	}
	for _, r := range s.Routes {
		out.Routes = append(out.Routes, RouteWeights{Route: r.Key, Backends: r.Members, Weights: r.Weights})
	}
	return out
}

// picking is who picks endpoints.
func picking(p *load.PoolState) string {
	if p.Picked {
		return "Weir"
	}
	return "Envoy"
}

func steeredEndpoint(e *load.EndpointState, now time.Time) SteeredEndpoint {
	b := SteeredEndpoint{
		Endpoint: e.Key, Base: e.Base, Weight: e.Weight, Published: e.Published, Status: e.Status.String(), Why: e.Why(),
		Reasons: reasons(e), Signals: []Signal{}, Breaker: e.Picks.Breaker.String(), Failed: e.Failed, CheckErr: e.CheckErr,
		TTFT: e.TTFT.Seconds(), Measured: e.TTFTCount, Attempts: e.Requests, Failures: e.Failures,
		Requests: e.Picks.Requests, Tokens: e.Picks.Tokens, Envoy: e.InFlight, Capacity: e.Picks.Capacity, Picked: e.Picks.Picked,
	}
	if e.ErrorRate >= 0 {
		b.ErrorRate = &e.ErrorRate
	}
	if e.BlockedUntil.After(now) {
		b.Blocked = &e.BlockedUntil
	}
	for i := range e.Sources {
		s := &e.Sources[i]
		v := Signal{Source: s.Kind, Error: s.Err, Values: values(&s.Sample), Shared: s.Shared}
		if !s.ReadAt.IsZero() {
			age := max(0, now.Sub(s.ReadAt).Seconds())
			v.Age = &age
		}
		b.Signals = append(b.Signals, v)
	}
	return b
}

func reasons(e *load.EndpointState) []Reason {
	out := []Reason{}
	for _, r := range e.Reasons {
		out = append(out, Reason{r.Rule, r.Factor, r.Value, r.Line, r.Text()})
	}
	return out
}

// values are what a sample says, times in seconds.
func values(s *signal.Sample) map[string]float64 {
	out := map[string]float64{}
	for m, v := range map[signal.Metric]float64{
		signal.Waiting: s.Waiting, signal.Running: s.Running, signal.KVCache: s.KVCache, signal.QueueDelay: s.QueueDelay.Seconds(),
		signal.GPUUtilization: s.GPUUtilization, signal.GPUMemory: s.GPUMemory, signal.Headroom: s.Headroom, signal.KVTokens: s.KVTokens,
	} {
		if s.Has.Has(m) {
			out[m.String()] = v
		}
	}
	return out
}
