package pick

import (
	"time"

	"github.com/weir-dev/weir/extproc/breaker"
)

// Options of a Set.
type Options struct {
	// Now is the clock of requests that wait, and of those that end without a time. Nil is time.Now.
	Now func() time.Time
	// Breakers of endpoints, by Policy.Breaker and endpoint key. Nil: no breakers, whatever policies say. Their OnChange is
	// called while a pool is locked: every request to the pool waits for it. It must hand the change to somebody else, who
	// writes logs and the like, and must not call the Set.
	Breakers *breaker.Set
	// Seed of the random choices. The same calls with the same seed give the same answers.
	Seed uint64
}

// Endpoint is what the controller knows of one endpoint.
type Endpoint struct {
	Key    string  // "ip:port", "[v6]:port", as Envoy prints it
	Base   float64 // base weight, above 0
	Factor float64 // of the rules and the warm-up, 0..1 and a little above
	KV     float64 // 0..1, below 0 unknown
	// Isolated by its health check or a rate limit; not by its breaker, which is asked here.
	Isolated bool
	// Panic: to be used though it is isolated, and whatever its breaker says.
	Panic bool
}

// MaxEndpoints is the length of the longest list that a Pick gives.
const MaxEndpoints = 3

// Request is one request that needs an endpoint.
type Request struct {
	Pool     string
	Tokens   int64    // of the prompt, estimated
	Blocks   []uint64 // chained hashes of the prompt's blocks, of AppendBlocks; nil: no affinity. It must not change until the Pick has ended.
	Session  string   // "": none
	Tenant   string   // for fairness while waiting
	Priority int32    // while waiting; higher goes first
}

// RefusalReason says why no endpoint was picked.
type RefusalReason string

// The reasons.
const (
	NoPool      RefusalReason = "NoPool"      // the pool is not known here
	Unavailable RefusalReason = "Unavailable" // every endpoint is isolated, or its breaker open
	Full        RefusalReason = "Full"        // every endpoint is full and there is no room to wait, or TryPick was asked
	TimedOut    RefusalReason = "TimedOut"    // waited for Admission.MaxWait
	Canceled    RefusalReason = "Canceled"    // the caller's context ended while waiting
)

// Refusal says that no endpoint was picked.
type Refusal struct {
	Reason RefusalReason
	// RetryAfter is when trying again makes sense; 0 unknown.
	RetryAfter time.Duration
	// Waited is how long the request waited.
	Waited time.Duration
}

// Ending is how a request ended at the endpoints.
type Ending struct {
	At       time.Time // zero: now
	Attempts int       // that Envoy made; 0 is 1
	Endpoint string    // that answered; "" is the last attempt's, by the list
	// Elsewhere says that none of the attempts was answered here: all failed, and another pool was asked.
	Elsewhere bool
	OK        bool // a complete answer, which the breaker counts as a success
	Failed    bool // 5xx, time-out, broken answer. Neither OK nor Failed: nothing is said about the endpoint
	// Refused are the endpoints whose failed attempts say nothing about them: they answered 4xx, and Envoy tried elsewhere.
	Refused []string
	// TTFT is the time from the beginning of the last attempt to the first token. 0: not known, as where an answer comes in one piece.
	TTFT time.Duration
	// InputTokens, CachedTokens and OutputTokens as the endpoint counted them; 0 unknown.
	InputTokens, CachedTokens, OutputTokens int64
}

// PoolState is what a pool holds now.
type PoolState struct {
	Pool      string
	Mode      Mode
	Requests  int64 // in flight
	Tokens    int64 // in flight, uncached
	Waiting   int
	Picked    uint64 // requests that got an endpoint, ever
	Refused   uint64 // ever, of any reason but NoPool
	AllTokens uint64 // of the prompts picked for, ever
	// CachedTokens of these that were expected to be cached where they went.
	CachedTokens uint64
	Sessions     int
	Endpoints    []EndpointState
}

// EndpointState is what an endpoint holds now.
type EndpointState struct {
	Key      string
	Requests int64
	Tokens   int64
	// Capacity is the measured speed, in tokens a second; 0 unknown.
	Capacity float64
	// Relative is what Capacity counts for in the choice, 1 being the pool's median.
	Relative float64
	Breaker  breaker.State
	Isolated bool
	Removed  bool // gone from the pool, with requests still in flight
	Picked   uint64
}
