// Package breaker is the circuit breaker at the door: when too many of the requests under a rule fail, it
// refuses for a while, so that what is behind can recover, and then lets the load come back little by little.
//
// A Set holds one breaker for each rule and subject. Breakers outlive configuration versions: they are found by
// Rule.ID and key, and a Rule with other numbers applies to a breaker that exists already.
//
// The states and what leads from one to the next:
//
//	Closed      everything passes. Opens when the share of failures in the window reaches ErrorPercent.
//	Open        nothing passes for OpenFor.
//	HalfOpen    HalfOpenRequests may try. All succeed: on to WarmingUp. One fails: Open again, for OpenFor.
//	WarmingUp   a share passes that rises from a tenth to all over WarmUp. Opens as Closed does.
//
// A result counts only in the state that let its request in: what was sent before the breaker opened neither
// opens nor closes it later. Nothing here blocks, and a breaker that is closed takes no lock.
package breaker

import (
	"sync/atomic"
	"time"
)

// Rule is one circuit breaker of a configuration. It must not change once it has been passed to Allow; its numbers are
// those of a checked LimitPolicy, and others are raised to the least that makes sense.
type Rule struct {
	// ID finds the breaker again in the next configuration: "LimitPolicy/default/busy".
	ID string
	// Name as answers and logs show it.
	Name string
	// ErrorPercent of the results in Window that opens it, once there are MinRequests.
	ErrorPercent, MinRequests int
	// Window that is looked at. It moves on by sixteenths: a result counts for at most Window, and for at least 15/16 of it.
	// With another Window counting begins anew.
	Window time.Duration
	// OpenFor is how long nothing passes, and how long a trying request has before another may try in its place.
	OpenFor time.Duration
	// HalfOpenRequests may try at once, and must succeed.
	HalfOpenRequests int
	// WarmUp is how long the load takes to come back; 0 is all at once.
	WarmUp time.Duration
	// Shadow counts and changes its state, and refuses nothing: Pass.Shadowed tells what it would have refused.
	Shadow bool
}

// State of a breaker.
type State uint8

// The states. Closed is the zero value.
const (
	Closed State = iota
	WarmingUp
	HalfOpen
	Open
	gone // taken out of the set
)

// String is the state as logs, metrics and the API spell it.
func (s State) String() string {
	return [...]string{"Closed", "WarmingUp", "HalfOpen", "Open", "Gone"}[s]
}

// Refusal says why a request may not go on now.
type Refusal struct {
	Rule  *Rule
	State State
	// RetryAfter is when trying again makes sense. Above 0.
	RetryAfter time.Duration
}

// Change is one change of a breaker's state.
type Change struct {
	Rule     *Rule
	Key      string
	From, To State
	At       time.Time
	// Requests and Failures in the window, where these opened it. Both are 0 where a trying request did.
	Requests, Failures int64
	// Forgotten says that the breaker was taken out of the set, by Sweep or Retain, and that To is Closed for this reason.
	Forgotten bool
}

// Pass lets one request through. Call exactly one of Done and Drop, once. The zero Pass is nobody's: both do nothing.
type Pass struct {
	cell  *cell
	rule  *Rule
	phase *phase // nil: not judged
	place int32  // of a trying request
	since int64  // what the place holds
	shade bool
}

// Shadowed reports that a rule in shadow mode would have refused the request.
func (p Pass) Shadowed() bool { return p.shade }

// Done tells how the request ended: ok is false for 5xx, time-outs and broken answers.
func (p Pass) Done(ok bool, now time.Time) {
	if p.phase == nil {
		return
	}
	if p.phase.state == HalfOpen {
		p.tried(ok, now)
		return
	}
	c, r := p.cell, p.phase.ring
	r.add(now, !ok)
	for {
		// The generation is the same from closing to opening, warm-up included.
		cur := c.phase.Load()
		if cur.generation != p.phase.generation || cur.ring != r {
			return
		}
		total, failed := r.sum(now)
		if failed == 0 || total < int64(max(1, p.rule.MinRequests)) || failed*100 < int64(max(1, p.rule.ErrorPercent))*total {
			return
		}
		if c.move(cur, &phase{state: Open, generation: cur.generation + 1, since: now}, Change{Rule: p.rule, Requests: total, Failures: failed}) {
			return
		}
	}
}

// Drop ends a request that says nothing about what is behind: the caller went away, or was answered 4xx, or something
// else refused it. A trying request gives its place to another.
func (p Pass) Drop() {
	if p.phase != nil && p.phase.state == HalfOpen {
		p.phase.places[p.place].CompareAndSwap(p.since, placeFree)
	}
}

// tried judges a trying request. One whose place went to another because it took long still counts.
func (p Pass) tried(ok bool, now time.Time) {
	cur := p.phase
	if !ok {
		p.cell.move(cur, &phase{state: Open, generation: cur.generation + 1, since: now}, Change{Rule: p.rule})
		return
	}
	cur.places[p.place].CompareAndSwap(p.since, placeDone)
	if int(cur.succeeded.Add(1)) < len(cur.places) {
		return
	}
	next := &phase{state: Closed, generation: cur.generation + 1, since: now, ring: newRing(p.rule.Window, p.cell.set.epoch)}
	if p.rule.WarmUp > 0 {
		next.state = WarmingUp
		next.share.Store(shareWhole - 1) // so that the first is let in
	}
	p.cell.move(cur, next, Change{Rule: p.rule})
}

// What a place holds, beside the time when it was taken, in nanoseconds above 0.
const (
	placeFree = 0
	placeDone = -1
)

// phase is a stay in one state. A result belongs to the phase that let its request in, which makes late results easy to tell.
type phase struct {
	state      State
	generation uint64
	since      time.Time
	ring       *ring // Closed and WarmingUp
	// share sums up the shares of the requests that came while warming up, in units of 1/shareWhole. Each time
	// the sum passes a whole one, a request is let in.
	share atomic.Uint64
	// places of the trying requests.
	places    []atomic.Int64
	succeeded atomic.Int64
}

const (
	shareWhole = 1 << 20
	shareFirst = shareWhole / 10
)

// admit counts a request into the warm-up, and reports whether it passes.
func (p *phase) admit(now time.Time, warmUp time.Duration) bool {
	share := shareOf(now.Sub(p.since), warmUp)
	sum := p.share.Add(share)
	return sum/shareWhole != (sum-share)/shareWhole
}

// shareOf is the share of requests that pass when the warm-up has lasted for so long.
func shareOf(elapsed, warmUp time.Duration) uint64 {
	return uint64(shareFirst + int64(float64(shareWhole-shareFirst)*(float64(max(0, elapsed))/float64(warmUp))))
}

// try takes a place, or says when the next comes free.
func (p *phase) try(now, limit int64) (place int32, retry time.Duration, ok bool) {
	retry = time.Duration(limit)
	for i := range p.places {
		for {
			held := p.places[i].Load()
			if held == placeDone {
				break
			}
			if left := held + limit - now; held != placeFree && left > 0 {
				retry = min(retry, time.Duration(left))
				break
			}
			if p.places[i].CompareAndSwap(held, now) {
				return int32(i), 0, true
			}
		}
	}
	return 0, max(retry, time.Millisecond), false
}

// cell is one breaker.
type cell struct {
	set   *Set
	hash  uint64
	id    string // of the rule
	key   string
	next  atomic.Pointer[cell] // in its bucket
	rule  atomic.Pointer[Rule] // the last that was used
	phase atomic.Pointer[phase]
	// used is when the cell was last used, in nanoseconds since the set's epoch, to the second or so.
	used     atomic.Int64
	refused  atomic.Uint64
	shadowed atomic.Uint64
}

// move changes the phase, if it still is from, and tells of it.
func (c *cell) move(from, to *phase, change Change) bool {
	if !c.phase.CompareAndSwap(from, to) {
		return false
	}
	if from.state != to.state {
		change.Key, change.From, change.To, change.At = c.key, from.state, to.state, to.since
		c.set.changed(change)
	}
	return true
}

// allow decides about one request. found is false when the cell was taken out meanwhile.
func (c *cell) allow(rule *Rule, now time.Time) (_ Pass, _ *Refusal, found bool) {
	for {
		cur := c.phase.Load()
		switch cur.state {
		case gone:
			return Pass{}, nil, false
		case Closed:
			if cur.ring.window != rule.Window {
				c.move(cur, &phase{state: Closed, generation: cur.generation, since: cur.since, ring: newRing(rule.Window, c.set.epoch)}, Change{})
				continue
			}
			return Pass{cell: c, rule: rule, phase: cur}, nil, true
		case WarmingUp:
			if now.Sub(cur.since) >= rule.WarmUp {
				c.move(cur, &phase{state: Closed, generation: cur.generation, since: now, ring: cur.ring}, Change{Rule: rule})
				continue
			}
			if cur.admit(now, rule.WarmUp) {
				return Pass{cell: c, rule: rule, phase: cur}, nil, true
			}
			pass, refusal := c.refuse(rule, WarmingUp, min(warmRetry, rule.WarmUp-now.Sub(cur.since)))
			return pass, refusal, true
		case Open:
			if left := rule.OpenFor - now.Sub(cur.since); left > 0 {
				// A clock that steps back must not keep it open for longer.
				pass, refusal := c.refuse(rule, Open, min(left, rule.OpenFor))
				return pass, refusal, true
			}
			c.move(cur, &phase{state: HalfOpen, generation: cur.generation + 1, since: now, places: make([]atomic.Int64, max(1, rule.HalfOpenRequests))}, Change{Rule: rule})
		case HalfOpen:
			at := c.set.nanos(now)
			place, retry, ok := cur.try(at, int64(max(rule.OpenFor, time.Millisecond)))
			if ok {
				return Pass{cell: c, rule: rule, phase: cur, place: place, since: at}, nil, true
			}
			pass, refusal := c.refuse(rule, HalfOpen, retry)
			return pass, refusal, true
		}
	}
}

// warmRetry is when a request that the warm-up refused may come again: soon, for the next may pass.
const warmRetry = time.Second

// refuse counts a refusal. In shadow mode the request passes, and is not judged.
func (c *cell) refuse(rule *Rule, s State, retry time.Duration) (Pass, *Refusal) {
	if rule.Shadow {
		c.shadowed.Add(1)
		return Pass{shade: true}, nil
	}
	c.refused.Add(1)
	return Pass{}, &Refusal{Rule: rule, State: s, RetryAfter: retry}
}
