package main

import (
	"net/http"
	"time"

	"github.com/weir-dev/weir/xds/load"
	"github.com/weir-dev/weir/xds/load/signal"
)

// steeringBody is the answer of /api/backends.
type steeringBody struct {
	// Update is the last that Envoy was sent, and Applied the last that it has taken.
	Update  uint64        `json:"update"`
	Applied uint64        `json:"applied"`
	Refused string        `json:"refused,omitempty"`
	Pools   []poolBody    `json:"backends"`
	Routes  []weightsBody `json:"routes"`
}

type poolBody struct {
	Backend   string         `json:"backend"`
	Policy    string         `json:"policy"`
	Picking   string         `json:"picking"`
	Share     float64        `json:"share"`
	Usable    bool           `json:"usable"`
	Requests  int64          `json:"requestsInFlight"`
	Tokens    int64          `json:"tokensInFlight"`
	Waiting   int            `json:"requestsWaiting"`
	Picked    uint64         `json:"picked"`
	Refused   uint64         `json:"refused"`
	Prompt    uint64         `json:"promptTokens"`
	Cached    uint64         `json:"promptTokensExpectedCached"`
	Endpoints []endpointBody `json:"endpoints"`
}

type endpointBody struct {
	Endpoint  string       `json:"endpoint"`
	Base      uint32       `json:"baseWeight"`
	Weight    uint32       `json:"weight"`
	Published uint32       `json:"publishedWeight"`
	Status    string       `json:"status"`
	Why       string       `json:"why"`
	Reasons   []reasonBody `json:"reasons"`
	Signals   []signalBody `json:"signals"`
	Breaker   string       `json:"breaker"`
	Blocked   *time.Time   `json:"blockedUntil,omitempty"`
	Failed    int          `json:"failedHealthChecks"`
	CheckErr  string       `json:"healthCheckError,omitempty"`
	TTFT      float64      `json:"timeToFirstTokenSeconds"`
	Measured  uint64       `json:"timeToFirstTokenRequests"`
	ErrorRate *float64     `json:"errorRate,omitempty"`
	Attempts  uint64       `json:"attempts"`
	Failures  uint64       `json:"failures"`
	Requests  int64        `json:"requestsInFlight"`
	Tokens    int64        `json:"tokensInFlight"`
	Envoy     uint64       `json:"requestsInFlightByEnvoy"`
	Capacity  float64      `json:"tokensPerSecond"`
	Picked    uint64       `json:"picked"`
}

type reasonBody struct {
	Rule   string  `json:"rule"`
	Factor float64 `json:"factor"`
	Value  float64 `json:"value"`
	Line   float64 `json:"line"`
	Text   string  `json:"text"`
}

type signalBody struct {
	Source string             `json:"source"`
	Age    *float64           `json:"ageSeconds,omitempty"`
	Error  string             `json:"error,omitempty"`
	Values map[string]float64 `json:"values"`
}

type weightsBody struct {
	Route    string   `json:"route"`
	Backends []string `json:"backends"`
	Weights  []uint32 `json:"weights"`
}

func (g *gateway) backends(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, steering(g.steering.State(), time.Now()))
}

// steering writes a state as the API does.
func steering(s load.State, now time.Time) *steeringBody {
	out := &steeringBody{Update: s.Serial, Applied: s.Applied, Refused: s.Refused, Pools: []poolBody{}, Routes: []weightsBody{}}
	for i := range s.Pools {
		p := &s.Pools[i]
		b := poolBody{
			Backend: p.Backend, Policy: p.Policy, Picking: "Envoy", Share: p.Share, Usable: p.Usable,
			Requests: p.Picks.Requests, Tokens: p.Picks.Tokens, Waiting: p.Picks.Waiting, Picked: p.Picks.Picked, Refused: p.Picks.Refused,
			Prompt: p.Picks.AllTokens, Cached: p.Picks.CachedTokens, Endpoints: []endpointBody{},
		}
		if p.Picked {
			b.Picking = "Weir"
		}
		for j := range p.Endpoints {
			b.Endpoints = append(b.Endpoints, endpointState(&p.Endpoints[j], now))
		}
		out.Pools = append(out.Pools, b)
	}
	for _, r := range s.Routes {
		out.Routes = append(out.Routes, weightsBody{Route: r.Key, Backends: r.Members, Weights: r.Weights})
	}
	return out
}

func endpointState(e *load.EndpointState, now time.Time) endpointBody {
	b := endpointBody{
		Endpoint: e.Key, Base: e.Base, Weight: e.Weight, Published: e.Published, Status: e.Status.String(), Why: e.Why(),
		Reasons: []reasonBody{}, Signals: []signalBody{}, Breaker: e.Picks.Breaker.String(), Failed: e.Failed, CheckErr: e.CheckErr,
		TTFT: e.TTFT.Seconds(), Measured: e.TTFTCount, Attempts: e.Requests, Failures: e.Failures,
		Requests: e.Picks.Requests, Tokens: e.Picks.Tokens, Envoy: e.InFlight, Capacity: e.Picks.Capacity, Picked: e.Picks.Picked,
	}
	if e.ErrorRate >= 0 {
		b.ErrorRate = &e.ErrorRate
	}
	if e.BlockedUntil.After(now) {
		b.Blocked = &e.BlockedUntil
	}
	for _, r := range e.Reasons {
		b.Reasons = append(b.Reasons, reasonBody{r.Rule, r.Factor, r.Value, r.Line, r.Text()})
	}
	for i := range e.Sources {
		s := &e.Sources[i]
		v := signalBody{Source: s.Kind, Error: s.Err, Values: values(&s.Sample)}
		if !s.ReadAt.IsZero() {
			age := max(0, now.Sub(s.ReadAt).Seconds())
			v.Age = &age
		}
		b.Signals = append(b.Signals, v)
	}
	return b
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
