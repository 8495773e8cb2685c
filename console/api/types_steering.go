package api

import "time"

// Steering is the answer of /api/backends.
type Steering struct {
	// Update is the last that Envoy was sent, and Applied the last that it has taken.
	Update  uint64         `json:"update"`
	Applied uint64         `json:"applied"`
	Refused string         `json:"refused,omitempty"`
	Pools   []SteeredPool  `json:"backends"`
	Routes  []RouteWeights `json:"routes"`
}

// SteeredPool is a Backend that a LoadPolicy steers.
type SteeredPool struct {
	Backend   string            `json:"backend"`
	Policy    string            `json:"policy"`
	Picking   string            `json:"picking"`
	Share     float64           `json:"share"`
	Usable    bool              `json:"usable"`
	Requests  int64             `json:"requestsInFlight"`
	Tokens    int64             `json:"tokensInFlight"`
	Waiting   int               `json:"requestsWaiting"`
	Picked    uint64            `json:"picked"`
	Refused   uint64            `json:"refused"`
	Prompt    uint64            `json:"promptTokens"`
	Cached    uint64            `json:"promptTokensExpectedCached"`
	Endpoints []SteeredEndpoint `json:"endpoints"`
}

// SteeredEndpoint is one server of a SteeredPool.
type SteeredEndpoint struct {
	Endpoint  string     `json:"endpoint"`
	Base      uint32     `json:"baseWeight"`
	Weight    uint32     `json:"weight"`
	Published uint32     `json:"publishedWeight"`
	Status    string     `json:"status"`
	Why       string     `json:"why"`
	Reasons   []Reason   `json:"reasons"`
	Signals   []Signal   `json:"signals"`
	Breaker   string     `json:"breaker"`
	Blocked   *time.Time `json:"blockedUntil,omitempty"`
	Failed    int        `json:"failedHealthChecks"`
	CheckErr  string     `json:"healthCheckError,omitempty"`
	TTFT      float64    `json:"timeToFirstTokenSeconds"`
	Measured  uint64     `json:"timeToFirstTokenRequests"`
	ErrorRate *float64   `json:"errorRate,omitempty"`
	Attempts  uint64     `json:"attempts"`
	Failures  uint64     `json:"failures"`
	Requests  int64      `json:"requestsInFlight"`
	Tokens    int64      `json:"tokensInFlight"`
	Envoy     uint64     `json:"requestsInFlightByEnvoy"`
	Capacity  float64    `json:"tokensPerSecond"`
	Picked    uint64     `json:"picked"`
}

// Reason is one part of why an endpoint has its weight.
type Reason struct {
	Rule   string  `json:"rule"`
	Factor float64 `json:"factor"`
	Value  float64 `json:"value"`
	Line   float64 `json:"line"`
	Text   string  `json:"text"`
}

// Signal is what one source says about an endpoint, times in seconds.
type Signal struct {
	Source string             `json:"source"`
	Age    *float64           `json:"ageSeconds,omitempty"`
	Error  string             `json:"error,omitempty"`
	Values map[string]float64 `json:"values"`
	// Shared says that a control plane has read it for many gateways.
	Shared bool `json:"shared,omitempty"`
}

// RouteWeights are the weights of an entry of Envoy's routes.
type RouteWeights struct {
	Route    string   `json:"route"`
	Backends []string `json:"backends"`
	Weights  []uint32 `json:"weights"`
}
