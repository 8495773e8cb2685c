package weigh

import (
	"time"

	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/xds/load/signal"
)

// Scale is the weight of an endpoint of base weight 1 that no rule touches. Weights are whole numbers to Envoy; this leaves
// them three digits.
const Scale = 1000

// StepUnit is the time in which a weight may change by Policy.MaxStep, and in which the latency factor moves by Policy.Smoothing.
const StepUnit = 250 * time.Millisecond

// Policy is a LoadPolicy as Compute needs it. It does not change once it is in use. The zero Policy has no rules.
type Policy struct {
	// Smoothing is the part of a new value that enters an average, above 0 to 1.
	Smoothing float64

	// The rules. Those of percentages are in 0..1, QueueDelay is in seconds.
	GPUUtilization, GPUMemory, KVCache, QueueDelay Rule
	// Headroom applies below Enter, until above Leave.
	Headroom Rule

	// LatencyMin and LatencyMax bound the latency factor. Both at 1, or at 0: latency does not matter.
	LatencyMin, LatencyMax float64
	// AcrossBackends makes Input.PeerRatio count, within the same bounds.
	AcrossBackends bool
	// PreferCheap is the power of the price ratio. 0: prices do not matter.
	PreferCheap float64

	// Floor is the least part of the base weight that an endpoint gets that is not isolated, 0..1.
	Floor float64
	// MaxStep is the largest change of a weight in a StepUnit, as a part of the base weight. 0 or less: no bound.
	MaxStep float64
	// StaleAfter is the age at which a sample no longer counts as it is, and Decay how long its factors take from then to 1.
	StaleAfter, Decay time.Duration

	// FailedChecks in a row isolate, PassedChecks in a row bring back.
	FailedChecks, PassedChecks int
	// WarmUp is how long an endpoint takes that comes back, or is new in a pool that runs, from WarmUpFrom, 0..1, of its weight to all of it.
	WarmUp     time.Duration
	WarmUpFrom float64
	// Panic: while a smaller part of the pool than this is not isolated, what failed health checks isolated is used all the same, 0..1.
	Panic float64
	// TryHalfOpen gives endpoints whose breaker is half open the floor, so that Envoy tries them: for pools where Envoy picks. Otherwise
	// they are isolated, and the picker hands out the exact number of tries.
	TryHalfOpen bool
}

// Rule multiplies a weight while a value is across a line.
type Rule struct {
	// Enter: across it the rule begins to apply; Leave: back across it, it ends.
	Enter, Leave float64
	// Factor that remains of the weight. 1, or 0: the rule is off.
	Factor float64
	// Samples in a row that must be across a line; less than 1 is 1.
	Samples int
}

// Off says whether the rule never applies.
func (r *Rule) Off() bool { return r.Factor <= 0 || r.Factor >= 1 }

// Input is what is known about one endpoint.
type Input struct {
	// Key names the endpoint, the same in every Compute.
	Key string
	// Base weight, above 0; others count as 1.
	Base float64
	// Samples of all the endpoint's sources, at least the newest of each, in any order. More than one of a source are welcome: so
	// none is missed by the rules that count samples. Each counts once, by its time.
	Samples []signal.Sample

	// TTFT is the smoothed time to the first token, of TTFTCount requests so far, the last of which ended at TTFTAt.
	TTFT      time.Duration
	TTFTCount uint64
	TTFTAt    time.Time
	// ErrorRate of the requests in the breaker's window, 0..1. Below 0: unknown, as when there were too few.
	ErrorRate float64
	// Checked says that the endpoint has a health check; Failed and Passed are how many of its last checks in a row did.
	// Both 0, before the first check: as it was.
	Checked        bool
	Failed, Passed int
	// Breaker is the state of the endpoint's circuit breaker.
	Breaker breaker.State
	// BlockedUntil is when an endpoint wants requests again that answered 429 and said so.
	BlockedUntil time.Time
	// PeerRatio is the median time to the first token of the Backends that serve the same rule, divided by the one of the endpoint's
	// Backend. 0: unknown.
	PeerRatio float64
	// PriceRatio is the price of the rule's cheapest Backend divided by this one's, above 0 to 1. 0: unknown.
	PriceRatio float64
}

// Status of an endpoint.
type Status uint8

// The statuses.
const (
	Active Status = iota
	WarmingUp
	Isolated
)

// String is the status as logs, metrics and the API spell it.
func (s Status) String() string {
	switch s {
	case Active:
		return "Active"
	case WarmingUp:
		return "WarmingUp"
	case Isolated:
		return "Isolated"
	}
	return "unknown"
}

// Causes of isolation, as a set.
type Causes uint8

// The causes.
const (
	CauseHealth Causes = 1 << iota
	CauseBreaker
	CauseBlocked
)

// Result is the weight of one endpoint, and why.
type Result struct {
	Key  string
	Base float64 // as it counted
	// Weight for Envoy: 0 if isolated, else at least 1 and within Base*Scale*[Floor, LatencyMax].
	Weight uint32
	Status Status
	// Causes speak against the endpoint. It is Isolated by any of them, unless Panic is set, or Policy.TryHalfOpen lets it be tried.
	Causes Causes
	// Panic says that the endpoint is used although it fails its health checks, because too many others do as well.
	Panic bool
	// Factor is for the picker, which knows latency itself: the product of the rules and the warm-up, without latency and price,
	// at least Policy.Floor. It is 0 if CauseHealth or CauseBlocked isolate the endpoint. The breaker does not make it 0:
	// the picker asks that itself.
	Factor float64
	// KVCache is the average used part of the cache, 0..1; below 0: not known, or stale.
	KVCache float64
	// Reasons in the order they were applied. Their factors multiply to Weight/(Base*Scale), but for rounding. Do not change them.
	Reasons []Reason
}

// The names of rules in Reasons.
const (
	RuleGPU       = "gpu"
	RuleGPUPool   = "gpuAbovePool"
	RuleGPUMemory = "gpuMemory"
	RuleKV        = "kv"
	RuleQueue     = "queue"
	RuleHeadroom  = "headroom"
	RuleErrors    = "errors"
	RuleStale     = "stale"
	RuleLatency   = "latency"
	RulePeers     = "peers"
	RulePrice     = "price"
	RuleWarmUp    = "warmUp"
	RuleFloor     = "floor"
	RuleStep      = "step"
	RuleHealth    = "health"
	RuleBreaker   = "breaker"
	RuleBlocked   = "blocked"
	RulePanic     = "panic"
)

// Reason is one thing that made a weight what it is. Text puts it in words.
type Reason struct {
	Rule string
	// Factor it multiplied the weight by. 0: isolated.
	Factor float64
	// Value that the rule looked at: 0..1 for percentages, seconds for times, the number of checks for health.
	Value float64
	// Line that Value was held against, in the same unit.
	Line float64
	// Held says that Value is back across the line that made the rule apply, but not yet across Line, which ends it.
	Held bool
}
