package simulate

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/weir-dev/weir/xds/load/signal"
)

// health leaves out servers whose health checks fail: two in a row take one out, two that pass bring it back. All policies but
// Weir's, which have their own, are given this much.
type health struct{ out []bool }

const checksInRow = 2

func newHealth(n int) health { return health{make([]bool, n)} }

func (h *health) checked(k check, _ time.Duration) {
	switch {
	case k.failed >= checksInRow:
		h.out[k.server] = true
	case k.passed >= checksInRow:
		h.out[k.server] = false
	}
}

// usable says whether a call may go to a server. If all are out, or were tried, that does not count.
func (h *health) usable(c *call) func(int) bool {
	for _, allowed := range []func(int) bool{
		func(i int) bool { return !h.out[i] && !slices.Contains(c.tried, i) },
		func(i int) bool { return !slices.Contains(c.tried, i) },
	} {
		for i := range h.out {
			if allowed(i) {
				return allowed
			}
		}
	}
	return func(int) bool { return true }
}

// roundRobin takes servers in turn.
type roundRobin struct {
	health
	next int
}

func newRoundRobin(e *environment) *roundRobin {
	n := len(e.base)
	return &roundRobin{health: newHealth(n), next: e.rnd.IntN(n)}
}

func (b *roundRobin) pick(c *call, _ time.Duration) int {
	usable := b.usable(c)
	for !usable(b.next) {
		b.next = (b.next + 1) % len(b.out)
	}
	i := b.next
	b.next = (b.next + 1) % len(b.out)
	return i
}

func (b *roundRobin) ended(*call, outcome, time.Duration) {}

// inFlight counts the calls that servers have.
type inFlight struct{ active []int }

func (f *inFlight) ended(c *call, _ outcome, _ time.Duration) { f.active[c.server()]-- }

// leastInFlight takes the server with the fewest calls in flight relative to its base weight, of all gateways. Of equal ones it
// takes any.
type leastInFlight struct {
	health
	inFlight
	base []float64
	rnd  *rand.Rand
}

func newLeastInFlight(e *environment) *leastInFlight {
	n := len(e.base)
	return &leastInFlight{health: newHealth(n), inFlight: inFlight{make([]int, n)}, base: e.base, rnd: e.rnd}
}

func (b *leastInFlight) pick(c *call, _ time.Duration) int {
	usable := b.usable(c)
	best := anyBest(len(b.base), b.rnd, usable, func(i int) float64 { return -float64(b.active[i]) / b.base[i] })
	b.active[best]++
	return best
}

// anyBest is one of those with the highest score.
func anyBest(n int, rnd *rand.Rand, usable func(int) bool, score func(int) float64) int {
	best, equal := none, 0
	for i := range n {
		if !usable(i) {
			continue
		}
		switch {
		case best == none || score(i) > score(best):
			best, equal = i, 1
		case score(i) == score(best):
			if equal++; rnd.IntN(equal) == 0 {
				best = i
			}
		}
	}
	return best
}

// leastRequest is Envoy's policy over base weights.
type leastRequest struct {
	health
	lb *envoyLeastRequest
}

func newLeastRequest(e *environment) *leastRequest {
	return &leastRequest{health: newHealth(len(e.base)), lb: newEnvoyLeastRequest(e.base, e.rnd)}
}

func (b *leastRequest) pick(c *call, _ time.Duration) int { return b.lb.pick(b.usable(c)) }

func (b *leastRequest) ended(c *call, _ outcome, _ time.Duration) { b.lb.active[c.server()]-- }

// maxScore takes the server with the best score of the last reading, as schedulers do that look at metrics alone: the fewest
// requests waiting and running, then the emptiest cache. A server that tells nothing counts as the mean of the others.
type maxScore struct {
	health
	rnd   *rand.Rand
	last  []signal.Sample
	score []float64
}

func newMaxScore(e *environment) *maxScore {
	n := len(e.base)
	return &maxScore{health: newHealth(n), rnd: e.rnd, last: make([]signal.Sample, n), score: make([]float64, n)}
}

func (b *maxScore) read(r reading, _ time.Duration) {
	if r.source != sourceEngine {
		return
	}
	b.last[r.server] = r.sample
	sum, known := 0.0, 0
	for i, s := range b.last {
		if !s.At.IsZero() {
			b.score[i] = -(s.Waiting + s.Running + s.KVCache)
			sum, known = sum+b.score[i], known+1
		}
	}
	for i, s := range b.last {
		if s.At.IsZero() {
			b.score[i] = sum / float64(known)
		}
	}
}

func (b *maxScore) pick(c *call, _ time.Duration) int {
	return anyBest(len(b.score), b.rnd, b.usable(c), func(i int) float64 { return b.score[i] })
}

func (b *maxScore) ended(*call, outcome, time.Duration) {}
