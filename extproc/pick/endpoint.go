package pick

import (
	"math"
	"slices"
	"time"
)

const (
	// perRequest is what a request in flight counts for beside its tokens: it takes part in every step of the engine.
	perRequest = 256
	// keptPart of the tokens in flight count until their request ends, whatever has been computed by estimate.
	keptPart = 0.25

	// minSamples of an endpoint before its speed counts.
	minSamples = 8
	// smoothing is the part of a sample that enters the averages of which speed is the ratio; the first samples count alike.
	smoothing = 0.02
	// burst is a number of samples that are also looked at by themselves. When they were quicker than the averages by the factor
	// quicker, the endpoint has recovered, and what was before says nothing: who is said to be slow gets few requests, and one
	// long wait would count against it for minutes.
	burst   = 12
	quicker = 1.7
	// band around the median in which speeds count as equal, and the most that a measured speed differs from what the base
	// weight says.
	band      = 0.15
	mostSpeed = 4
	// speedFor is how fast a speed is taken for the median's again while nothing new is measured, and how fast old samples count
	// less beside new ones: who is said to be slow gets nothing in an idle pool, and could not show otherwise.
	speedFor = 30 * time.Second
	// rankEvery is how often relative speeds are computed anew, at most.
	rankEvery = 100 * time.Millisecond

	// failureFor is how fast a failure is forgotten, by a factor e. Each one counts as once more the score: who fails fast is
	// idle, and would get everything until the breaker opens.
	failureFor = 2 * time.Second
)

// endpoint is one endpoint and what is in flight there. The pool's lock guards it.
type endpoint struct {
	Endpoint
	id      uint16 // in the prefix index and in sessions
	removed bool   // not in the pool any more
	usable  bool   // may get requests, whatever its breaker says; kept by filter

	requests int64
	tokens   int64 // of prompts, uncached
	picked   uint64

	// pending is how many tokens wait or are being computed, by estimate; it was brought up to date at drained.
	pending float64
	drained int64
	sum     float64 // of the tokens ever picked for

	// work over wait is the speed in tokens a second.
	work, wait float64
	samples    int     // ever
	weight     float64 // samples that the averages stand for
	learnedAt  int64
	recent     struct { // samples since the last look at them, sums
		n          int
		work, wait float64
	}
	speed    float64 // tokens a second that pending drains at; 0: not known, it does not
	relative float64 // speed to reckon with, 1 being the pool's median

	failures float64 // decaying; brought up to date at failedAt
	failedAt int64
	blocked  int64 // until then its breaker has nothing for it
	tripped  bool  // its breaker was found open, and not closed since
}

// drain brings pending up to date.
func (e *endpoint) drain(now int64) {
	if e.requests == 0 {
		e.pending = 0
	} else if now > e.drained && e.speed > 0 && e.pending > 0 {
		e.pending = max(0, e.pending-e.speed*float64(now-e.drained)/1e9)
	}
	e.drained = max(e.drained, now)
}

// ahead is what a request that comes now has before it, in tokens. It must have been drained.
func (e *endpoint) ahead() float64 { return e.pending + perRequest*float64(e.requests) }

// load is that, and a part of what is in flight.
func (e *endpoint) load() float64 { return e.ahead() + keptPart*float64(e.tokens) }

// strength is the speed that scores are divided by.
func (e *endpoint) strength() float64 {
	s := e.relative
	if e.Factor > 0 { // 0 is what the weights say of an open breaker; when it is tried, it is tried like the others
		s *= e.Factor
	}
	return s
}

// score of the endpoint with own tokens more, in tokens at the pool's median speed.
func (e *endpoint) score(own float64, now int64) float64 {
	e.drain(now)
	s := (e.load() + own + perRequest) / e.strength()
	if e.failures > 0 {
		s *= 1 + e.failed(now)
	}
	return s
}

// failed is the number of failures, decayed.
func (e *endpoint) failed(now int64) float64 {
	if e.failures > 0 && now > e.failedAt {
		e.failures *= math.Exp(-float64(now-e.failedAt) / float64(failureFor))
		e.failedAt = now
		if e.failures < 0.01 {
			e.failures = 0
		}
	}
	return e.failures
}

func (e *endpoint) fail(now int64) {
	e.failures = min(100, e.failed(now)+1)
	e.failedAt = max(e.failedAt, now)
}

// take begins a request.
func (e *endpoint) take(tokens, now int64) {
	e.drain(now)
	e.requests++
	e.tokens += tokens
	e.pending += float64(tokens)
	e.sum += float64(tokens)
	e.picked++
}

// leave ends one.
func (e *endpoint) leave(tokens, now int64) {
	e.drain(now)
	e.requests--
	e.tokens -= tokens
	if e.requests == 0 {
		e.pending = 0
	}
	e.pending = min(e.pending, float64(e.tokens))
}

// learn adds a measurement: so many tokens were pending, and that long it took until the last of them was computed.
func (e *endpoint) learn(pending float64, took time.Duration, now int64) {
	if took <= 0 || pending <= 0 {
		return
	}
	wait := took.Seconds()
	e.weight = min(1/smoothing, e.weight*e.known(now)+1)
	e.learnedAt = max(e.learnedAt, now)
	e.samples++
	e.work += (pending - e.work) / e.weight
	e.wait += (wait - e.wait) / e.weight

	r := &e.recent
	r.n++
	r.work += pending
	r.wait += wait
	if r.n < burst {
		return
	}
	if r.work*e.wait > quicker*e.work*r.wait {
		e.work, e.wait, e.weight = r.work/burst, r.wait/burst, burst
	}
	r.n, r.work, r.wait = 0, 0, 0
}

// known is how much what was measured still says, 0..1.
func (e *endpoint) known(now int64) float64 {
	return math.Exp(-float64(max(0, now-e.learnedAt)) / float64(speedFor))
}

// measured is the speed, or 0.
func (e *endpoint) measured() float64 {
	if e.samples < minSamples || e.wait <= 0 {
		return 0
	}
	return e.work / e.wait
}

// rank computes the relative speeds of a pool's endpoints. Each is compared by what it does for its base weight.
func rank(all []*endpoint, now int64, scratch []float64) []float64 {
	scratch = scratch[:0]
	for _, e := range all {
		scratch = append(scratch, e.Base)
	}
	base := median(scratch)
	scratch = scratch[:0]
	for _, e := range all {
		if m := e.measured(); m > 0 {
			scratch = append(scratch, m/e.Base)
		}
	}
	if len(scratch) == 0 {
		for _, e := range all {
			e.speed, e.relative = 0, e.Base/base
		}
		return scratch
	}
	middle := median(scratch)
	for _, e := range all {
		e.speed, e.relative = middle*e.Base, e.Base/base
		m := e.measured()
		if m <= 0 {
			continue
		}
		e.speed = m
		r := 1 + (m/e.Base/middle-1)*e.known(now)
		if r < 1-band || r > 1+band {
			e.relative *= min(mostSpeed, max(1.0/mostSpeed, r))
		}
	}
	return scratch
}

// median sorts v, and gives the middle. It is 1 of nothing.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 1
	}
	slices.Sort(v)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}
