package limit

import (
	"context"
	"math"
	"math/bits"
	"time"
)

// Unit is what a rule counts.
type Unit uint8

// The units. Tokens are whole tokens, Cost is nano-units of the gateway's currency.
const (
	Requests Unit = iota
	InputTokens
	OutputTokens
	TotalTokens
	Concurrent
	Cost
)

// String is the unit as sentences name it.
func (u Unit) String() string {
	switch u {
	case Requests:
		return "requests"
	case InputTokens:
		return "input tokens"
	case OutputTokens:
		return "output tokens"
	case TotalTokens:
		return "tokens"
	case Concurrent:
		return "requests at once"
	case Cost:
		return "money"
	}
	return "units"
}

// tokens says whether the unit is one of the token units.
func (u Unit) tokens() bool { return u == InputTokens || u == OutputTokens || u == TotalTokens }

// Algorithm is how a rule counts. It means nothing for the unit Concurrent, which counts what runs now.
type Algorithm uint8

// The algorithms.
const (
	SlidingWindow Algorithm = iota // no stretch of time of length Window holds more than Limit
	TokenBucket                    // Burst at once, then Limit per Window
	Calendar                       // Limit from one boundary of Period in Location to the next
)

// Period of the algorithm Calendar.
type Period uint8

// The periods. A week begins on Monday.
const (
	Day Period = iota
	Week
	Month
)

// Scope says who shares a counter of a rule.
type Scope uint8

// The scopes.
const (
	PerTarget Scope = iota // all that the rule applies to
	PerTenant
	PerConsumer
	PerCredential
)

// Mode is how the replicas of a gateway count together.
type Mode uint8

// The modes. An engine without a Remote takes every rule as Local.
const (
	Local Mode = iota // each replica for itself
	Lease             // units are taken from the store ahead, requests are admitted from those
	Exact             // every request asks the store
)

// Failure is what happens to a rule that is not Local while the store cannot be reached.
type Failure uint8

// The ways to fail.
const (
	LocalShare Failure = iota // Limit divided by the replicas last seen, counted here
	Allow                     // everything passes
	Deny                      // nothing passes, the refusal is of the kind StoreDown
)

// Rule is one limit or budget, compiled. It must not change once an Engine has seen it; a new version of it is a new
// Rule. Counters belong to ID, Unit, Algorithm, Window, Period and Location: a Rule in which those are as before goes on
// with what was counted, and whatever else is different applies at once.
type Rule struct {
	// ID is unique among the rules: "LimitPolicy/ns/name/limit", "Budget/ns/name".
	ID string
	// Name as answers and metrics show it.
	Name string

	Unit      Unit
	Algorithm Algorithm
	// Limit in units per Window or Period; for Concurrent, at once. From 1 to 1e18.
	Limit int64
	// Burst is what a full TokenBucket holds. 0: Limit.
	Burst int64
	// Window of SlidingWindow and TokenBucket, at least a microsecond.
	Window time.Duration
	// Period and Location (nil: UTC) of Calendar.
	Period   Period
	Location *time.Location

	// WarnAt is how many units of a budget are used when its grants begin to carry a Warning. 0: never.
	WarnAt int64
	// WarnOnly counts everything and refuses nothing, over the limit too.
	WarnOnly bool
	// Shadow decides and counts as if it were enforced, reports what it would have refused, and refuses nothing. Nor
	// does it wait for the store: Exact counts as Lease then, and what it reports may be a moment old.
	Shadow bool
	// MaxWait is how long a request may wait for room. 0: it is refused at once. At most 1,000 requests wait for a counter
	// and 16,000 for a rule. Where tenants share those places, none may have more of them than it leaves free.
	MaxWait time.Duration
	// Per says who shares a counter.
	Per Scope
	// Sharing says how replicas count together, OnFailure what happens when they cannot.
	Sharing   Mode
	OnFailure Failure
	// AssumedOutput tokens are reserved for a request that sets no largest output.
	AssumedOutput int64
	// CutStreams marks a budget that ends running streams when it is spent; see Grant.Cut.
	CutStreams bool
}

// capacity is what the rule's counter holds at most.
func (r *Rule) capacity() int64 {
	if r.Algorithm == TokenBucket && r.Unit != Concurrent && r.Burst > 0 {
		return r.Burst
	}
	return r.Limit
}

// Whose keeps what tells the counters of the rule apart: requests of subjects for which it is the same share one.
func (r *Rule) Whose(s Subject) Subject {
	switch r.Per {
	case PerTenant:
		return Subject{Tenant: s.Tenant}
	case PerConsumer:
		return Subject{Consumer: s.Consumer}
	case PerCredential:
		return Subject{Credential: s.Credential}
	case PerTarget:
	}
	return Subject{}
}

// subject is whose counter of the rule a request of s counts in.
func (r *Rule) subject(s *Subject) string {
	switch r.Per {
	case PerTenant:
		return s.Tenant
	case PerConsumer:
		return s.Consumer
	case PerCredential:
		return s.Credential
	case PerTarget:
	}
	return ""
}

// Subject is who asks. Consumer and Credential carry their namespace, so that equal names in two namespaces are two.
// An empty field is a subject of its own: all requests without one share a counter.
type Subject struct{ Tenant, Consumer, Credential string }

// Amounts is what a request used. Requests and Concurrent are one each and are not said.
type Amounts struct {
	Input, Output int64 // tokens; Output includes reasoning
	Cost          int64 // nano-units
}

// Estimate is what a request may use at most, as far as that is known before it runs.
type Estimate struct {
	// Input tokens; Output is the largest output that the request asks for and means nothing without HasMax.
	Input, Output int64
	// HasMax says that the request set a largest output. If not, each rule reserves its AssumedOutput.
	HasMax bool
	// Cost in nano-units, of input and output with HasMax, of the input alone without.
	Cost int64
	// OutputPrice in nano-units per million tokens turns AssumedOutput into money without HasMax.
	OutputPrice int64
	// Cuttable says that the request is a stream that can be ended when a CutStreams budget is spent. Such a budget then
	// reserves the input alone, and Grant.Spend counts the output as it comes.
	Cuttable bool
}

// Most is what a request may cost by the estimate of a rule, in nano-units.
func (e *Estimate) Most(r *Rule) int64 {
	if e.HasMax {
		return clamp(e.Cost)
	}
	return clamp(clamp(e.Cost) + perMillion(r.AssumedOutput, e.OutputPrice))
}

// maxUnits bounds every amount, so that sums of a few never overflow.
const maxUnits = int64(1e18)

// clamp puts an amount into the range that counters take.
func clamp(n int64) int64 { return min(max(n, 0), maxUnits) }

// need is what the rule reserves for a request. What is only assumed never makes a request too large for a limit that
// it could pass with a shorter answer: the reservation then is the whole limit.
func (r *Rule) need(est *Estimate) int64 {
	var known, assumed int64
	switch r.Unit {
	case Requests, Concurrent:
		return 1
	case InputTokens:
		return clamp(est.Input)
	case OutputTokens:
		known, assumed = 0, r.AssumedOutput
		if est.HasMax {
			known = est.Output
		}
	case TotalTokens:
		known, assumed = clamp(est.Input), r.AssumedOutput
		if est.HasMax {
			known += clamp(est.Output)
		}
	case Cost:
		known = est.Cost
		if est.Cuttable && r.CutStreams {
			if est.HasMax {
				known -= perMillion(est.Output, est.OutputPrice)
			}
			return max(1, min(clamp(known), r.capacity()))
		}
		if !est.HasMax {
			assumed = perMillion(r.AssumedOutput, est.OutputPrice)
		}
	}
	known = clamp(known)
	if est.HasMax {
		return known
	}
	return max(known, min(clamp(known+clamp(assumed)), r.capacity()))
}

// used is what a request that used a counts for the rule.
func (r *Rule) used(a *Amounts) int64 {
	switch r.Unit {
	case Requests:
		return 1
	case InputTokens:
		return clamp(a.Input)
	case OutputTokens:
		return clamp(a.Output)
	case TotalTokens:
		return clamp(clamp(a.Input) + clamp(a.Output))
	case Cost:
		return clamp(a.Cost)
	case Concurrent: // given back when it is settled
	}
	return 0
}

// perMillion is tokens at price nano-units per million, rounded up.
func perMillion(tokens, price int64) int64 {
	if tokens <= 0 || price <= 0 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(tokens), uint64(price))
	const million = 1_000_000
	if hi >= million {
		return maxUnits
	}
	q, rem := bits.Div64(hi, lo, million)
	if rem > 0 && q < math.MaxUint64 {
		q++
	}
	return int64(min(q, uint64(maxUnits)))
}

// Counter is one counter of a rule that replicas share.
type Counter struct {
	// Rule as it is now. Its Limit and Burst may have changed since the last call for the same Key.
	Rule *Rule
	// Key is the identity of the counter: the rule's ID, what makes its counters its own (unit, algorithm, window), and the
	// subject. It holds names of tenants and credentials and has no bound on its length: hash it.
	Key string
	// PeriodStart of a Calendar counter: the period that the units belong to. Zero for others.
	PeriodStart time.Time
	// PeriodEnd is when that period is over: what is stored for it may be forgotten some time later.
	PeriodEnd time.Time
}

// Acquired is the store's answer.
type Acquired struct {
	// Granted units: 0, or from min to want.
	Granted int64
	// At is when the store counted them, by the store's clock; it comes back in Adjust. Zero if it does not matter.
	At time.Time
	// Remaining units of the counter after this; negative when it is in debt.
	Remaining int64
	// Reset is the time until the whole limit is free again if nothing more is taken.
	Reset time.Duration
	// RetryAfter is, when nothing was granted, the time until min units can be free; 0 when the store cannot tell
	// (Concurrent).
	RetryAfter time.Duration
}

// Remote is the store that replicas count in together. All methods may be called at the same time, for the same counter
// too, and return soon after ctx ends. An error means that the store could not be asked or did not answer, and that nothing
// is known about what it did; it never means that the answer was no.
type Remote interface {
	// Acquire takes between min and want units of a counter: as many of want as are free, and nothing if fewer than min
	// are. 1 <= min <= want. One round trip. It never makes a SlidingWindow hold more than its limit in any window by the
	// store's clock, nor a TokenBucket more than it may hold.
	//
	// Units of Concurrent are held until Adjust returns them. Those of a replica that died must come free some seconds after
	// its last sign of life, and so must those of an Acquire that ended in an error.
	Acquire(ctx context.Context, c Counter, min, want int64) (Acquired, error)
	// Adjust changes what is counted without asking whether there is room: delta > 0 adds units that were used beyond what
	// was acquired, delta < 0 returns units that were acquired and not used. At is the Acquired.At of the units, or,
	// for units that were used without being acquired, the time of their use by the store's clock as its last answers showed
	// it. A window that At has left takes no change, and nothing that is counted falls below zero. Both signs come for one
	// window together: units that are given back and used again move from their old time to now.
	//
	// After an error the engine repeats the call for a SlidingWindow or TokenBucket if delta > 0, and never else: what may be
	// counted twice errs on the safe side. For Concurrent and Calendar, where a lost change would stay, Remote knows the sum of
	// what this replica has acquired and adjusted, failed Adjusts included, and makes the store agree with it once it can.
	Adjust(ctx context.Context, c Counter, delta int64, at time.Time) error
	// Ping says whether Acquire and Adjust would work now. After failures the engine asks this, and nothing else, until
	// it succeeds; it should therefore try a write.
	Ping(ctx context.Context) error
	// Restore says what this replica has taken of a Calendar counter and not returned, in its period so far: the store makes
	// what it counts for this replica no less, soon. It does no I/O.
	Restore(c Counter, taken int64)
	// Replicas is the last seen number of live replicas, this one included: at least 1. It does no I/O.
	Replicas() int
}
