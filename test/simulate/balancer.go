package simulate

import (
	"math/rand/v2"
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/load/signal"
)

// none is no server.
const none = -1

// call is a request under way at a gateway.
type call struct {
	*Request
	gateway int
	tried   []int // servers, the last of which has it now
	private any   // of the balancer

	began    time.Duration // when its last attempt did
	first    time.Duration // when its first token came
	last     time.Duration // when its last token so far came
	started  bool          // first is set
	over     bool
	cached   int // prompt tokens
	attempts uint64
}

// server is the one that has it now.
func (c *call) server() int { return c.tried[len(c.tried)-1] }

// reading is what a gateway hears of a server.
type reading struct {
	server int
	source int // sourceEngine, sourceGPU
	sample signal.Sample
}

const (
	sourceEngine = iota
	sourceGPU
	sources
)

// check is the result of a health check: how many of the last ones in a row failed, or passed.
type check struct {
	server         int
	failed, passed int
}

// outcome is how an attempt or a call ended.
type outcome uint8

const (
	succeeded outcome = iota
	failed
	gaveUp // the caller, or the end of the simulation
)

// balancer chooses servers for the calls of one gateway, or of all of them if it is the same one for all. It sees what Weir would see.
type balancer interface {
	// pick chooses the server for a call's next attempt; c.tried are those it had. none: there is none.
	pick(c *call, now time.Duration) int
	// ended tells how the call's attempt at c.server() ended. It is called for every attempt.
	ended(c *call, o outcome, now time.Duration)
}

// The other things that a balancer may want to know.
type (
	readingHearer interface {
		read(r reading, now time.Duration)
	}
	checkHearer interface {
		checked(k check, now time.Duration)
	}
	// closer is told of the end of a call, after that of its last attempt.
	closer interface {
		closed(c *call, o outcome, now time.Duration)
	}
	// ticker is called at every interval.
	ticker interface {
		interval() time.Duration
		tick(now time.Duration)
	}
	// weighted has weights that it goes by, 1 being a base weight.
	weighted interface {
		weights() []float64
		// changes of weights of single servers that it made known, so far.
		changes() int
	}
)

// environment is what a balancer is made from.
type environment struct {
	base   []float64 // weights
	rnd    *rand.Rand
	seed   uint64
	delay  time.Duration // of new weights
	policy *v1alpha1.LoadPolicy
	after  func(time.Duration, func()) // runs something later
	hurry  func(server int)            // has its metrics read again soon
	now    func() time.Duration
}

// newBalancers makes those of each gateway.
func newBalancers(kind Kind, gateways int, env func(gateway int) *environment) []balancer {
	out := make([]balancer, gateways)
	for i := range out {
		e := env(i)
		switch kind {
		case RoundRobin:
			out[i] = newRoundRobin(e)
		case LeastRequest:
			out[i] = newLeastRequest(e)
		case LeastInFlight:
			if i > 0 {
				out[i] = out[0] // it knows of all
				continue
			}
			out[i] = newLeastInFlight(e)
		case Mission:
			out[i] = newMission(e)
		case MaxScore:
			out[i] = newMaxScore(e)
		case WeirWeights:
			out[i] = newWeirWeights(e)
		case Weir:
			out[i] = newWeir(e)
		}
	}
	return out
}
