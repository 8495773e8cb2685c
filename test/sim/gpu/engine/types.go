package engine

import "time"

// Request is what is asked of an engine.
type Request struct {
	ID uint64 // of the caller's choice; unique among the requests under way
	// Blocks are chained hashes of the whole blocks of the prompt, and if known of prompt and output together: Blocks[i]
	// stands for all tokens up to (i+1) x BlockTokens. Two requests share the blocks that are equal from the beginning on.
	// The slice is not changed, and must not be changed while the request is under way. Fewer than there are: the rest is
	// never found in the cache.
	Blocks       []uint64
	PromptTokens int           // 1 at least
	OutputTokens int           // 1 at least; so many are generated
	ArriveAt     time.Duration // a time that is over means now
}

// Kind is a kind of Event.
type Kind uint8

// The kinds. A request gets at most one Started, one FirstToken, and exactly one of Finished, Failed and Canceled.
const (
	Started    Kind = iota // work on it begins for the first time; Wait and Cached say more
	FirstToken             // its first token is there
	Token                  // one more token, but for the first
	Preempted              // its cache was needed by an older request; it waits, and what it had is computed again
	Finished               // it has all its tokens; follows the last one
	Failed                 // the engine gave up on it: a crash, or an error that was asked for
	Canceled               // by Cancel
)

// String is the kind in a word.
func (k Kind) String() string {
	names := [...]string{"started", "firstToken", "token", "preempted", "finished", "failed", "canceled"}
	if int(k) >= len(names) {
		return "unknown"
	}
	return names[k]
}

// Event is something that happens to a request.
type Event struct {
	Kind   Kind
	ID     uint64
	At     time.Duration
	Tokens int           // generated so far
	Cached int           // Started: prompt tokens that were found in the cache
	Wait   time.Duration // Started: since it arrived
}

// Fault is how an engine misbehaves. The zero value is a healthy one.
type Fault struct {
	Speed     float64 // of its steps from the next on, relative to the profile; 0 means 1
	Stalled   bool    // no further step begins; requests are taken and wait
	ErrorRate float64 // 0..1: part of the requests that fail the moment they arrive
}

// Options are those of New.
type Options struct {
	// Emit is told every event, in order of time. It may call Submit and Cancel, but not Advance. Nil: nobody listens.
	Emit func(Event)
	Seed uint64 // of the errors
}

// Stats are counts and states at the time Now. What is called a sum or a number only ever grows, but Restart does not reset it either.
type Stats struct {
	Now     time.Duration
	Waiting int // requests that have arrived and are not worked on, those that were preempted among them
	Running int // requests that are worked on

	KVUsed   float64 // part of the cache that requests under way hold, 0..1; shared blocks count once, as in vLLM
	KVKept   float64 // part that holds prefixes which nobody uses now, and which make room when needed, 0..1
	KVTokens int     // size of the cache, in tokens

	QueueTime time.Duration // sum of what requests waited before they were worked on for the first time
	Queued    uint64        // number of them
	Busy      time.Duration // sum of the time in steps; see Utilization
	Steps     uint64

	PromptTokens uint64 // of requests whose work began
	CachedTokens uint64 // of these, found in the cache
	Computed     uint64 // prompt tokens computed, also again after a preemption
	OutputTokens uint64 // generated

	Submitted, Finished, Failed, Canceled, Preemptions uint64
}

// Utilization is the part of the time between two Stats in which a step ran, 0..1: what DCGM calls GPU utilization. Just as
// there it is a duty cycle: one request that is decoded makes it 1.
func Utilization(before, after Stats) float64 {
	if after.Now <= before.Now {
		return 0
	}
	return min(1, float64(after.Busy-before.Busy)/float64(after.Now-before.Now))
}
