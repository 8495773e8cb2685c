package engine

import (
	"container/list"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Engine is one server. Make it with New.
type Engine struct {
	profile Profile
	emit    func(Event)
	rnd     *rand.Rand
	fault   Fault
	down    bool

	now      time.Duration
	arrivals []*sequence // not yet arrived, by time
	waiting  queue       // in order of arrival; who was preempted stands in front
	running  []*sequence // in order of admission
	byID     map[uint64]*sequence

	kv       cache
	inStep   bool
	stepFrom time.Duration
	stepEnd  time.Duration
	batch    []work   // what the step under way does
	found    []*block // scratch of admit

	events  []Event // that have happened and were not told yet
	telling bool
	stats   Stats
}

// sequence is a request under way.
type sequence struct {
	req       Request
	state     state
	computed  int // tokens whose keys and values are in the cache
	generated int
	started   bool // at some time
	held      holding
	place     *list.Element // in the queue, while it waits
}

type state uint8

const (
	arriving state = iota
	waiting
	running
	ended
)

// work is a sequence's part of a step.
type work struct {
	seq    *sequence
	tokens int
}

// New makes an engine at time 0, idle and with an empty cache.
func New(p Profile, o Options) (*Engine, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	e := &Engine{profile: p, emit: o.Emit, rnd: rand.New(rand.NewPCG(o.Seed, 0x9e3779b97f4a7c15)), byID: map[uint64]*sequence{}}
	e.kv.reset(p.KVTokens / p.BlockTokens)
	return e, nil
}

// Profile is what New was given.
func (e *Engine) Profile() Profile { return e.profile }

// Now is how far the engine has come.
func (e *Engine) Now() time.Duration { return e.now }

// Capacity is Profile.Capacity.
func (e *Engine) Capacity() int { return e.profile.Capacity() }

// Submit hands in a request. It is refused, with an error and without an event, if it can never be served.
func (e *Engine) Submit(r Request) error {
	switch {
	case r.PromptTokens < 1 || r.OutputTokens < 1:
		return fmt.Errorf("request %d has %d prompt tokens and %d output tokens: both must be 1 at least", r.ID, r.PromptTokens, r.OutputTokens)
	case r.PromptTokens+r.OutputTokens > e.Capacity():
		return fmt.Errorf("request %d has %d prompt tokens and %d output tokens, more than the %d that the cache holds", r.ID, r.PromptTokens, r.OutputTokens, e.Capacity())
	case e.byID[r.ID] != nil:
		return fmt.Errorf("request %d is under way already: choose another ID", r.ID)
	}
	r.ArriveAt = max(r.ArriveAt, e.now)
	s := &sequence{req: r}
	e.byID[r.ID] = s
	e.stats.Submitted++
	i := len(e.arrivals)
	for i > 0 && e.arrivals[i-1].req.ArriveAt > r.ArriveAt {
		i--
	}
	e.arrivals = slices.Insert(e.arrivals, i, s)
	return nil
}

// Cancel takes a request back, wherever it is, and says whether it was under way. Its part of the cache is free at once.
func (e *Engine) Cancel(id uint64) bool {
	s := e.byID[id]
	if s == nil {
		return false
	}
	e.stats.Canceled++
	e.end(s, Canceled)
	e.tell()
	return true
}

// SetFault changes how the engine misbehaves, from now on.
func (e *Engine) SetFault(f Fault) { e.fault = f }

// Fault is what SetFault was given last.
func (e *Engine) Fault() Fault { return e.fault }

// Crash fails all requests that have arrived, and until Restart every one that arrives. The cache is lost.
func (e *Engine) Crash() {
	e.settle()
	e.down = true
	all := append(slices.Clone(e.running), e.waiting.all()...)
	for _, s := range all {
		e.fail(s)
	}
	e.kv.reset(e.kv.capacity)
	e.tell()
}

// Restart ends a crash.
func (e *Engine) Restart() { e.down = false }

// Down says whether the engine has crashed.
func (e *Engine) Down() bool { return e.down }

// Stats are the counts and states now.
func (e *Engine) Stats() Stats {
	s := e.stats
	s.Now, s.Waiting, s.Running = e.now, e.waiting.len(), len(e.running)
	s.KVUsed = float64(e.kv.used) / float64(e.kv.capacity)
	s.KVKept = float64(e.kv.kept) / float64(e.kv.capacity)
	s.KVTokens = e.Capacity()
	if e.inStep {
		s.Busy += e.now - e.stepFrom
	}
	return s
}

// Next is when something happens next of itself. False: nothing, until a request is submitted or a fault is lifted.
func (e *Engine) Next() (time.Duration, bool) {
	var at time.Duration
	ok := false
	if len(e.arrivals) > 0 {
		at, ok = e.arrivals[0].req.ArriveAt, true
	}
	switch {
	case e.inStep:
		if !ok || e.stepEnd < at {
			at, ok = e.stepEnd, true
		}
	case e.ready():
		at, ok = e.now, true
	}
	return at, ok
}

// Advance lets everything happen up to a time, and that time included. A time that is over changes nothing.
func (e *Engine) Advance(to time.Duration) {
	for {
		at, ok := e.Next()
		if !ok || at > to {
			break
		}
		e.now = max(e.now, at)
		// Who arrives when a step ends is part of the next step.
		if e.inStep && e.stepEnd <= e.now {
			e.endStep()
		}
		for len(e.arrivals) > 0 && e.arrivals[0].req.ArriveAt <= e.now {
			s := e.arrivals[0]
			e.arrivals = slices.Delete(e.arrivals, 0, 1)
			e.arrive(s)
		}
		// What is submitted now by who is told takes part in the next step too.
		e.tell()
		if len(e.arrivals) > 0 && e.arrivals[0].req.ArriveAt <= e.now {
			continue
		}
		if !e.inStep && e.ready() {
			e.beginStep()
			e.tell()
		}
	}
	e.now = max(e.now, to)
}

// ready says whether a step could begin.
func (e *Engine) ready() bool {
	return !e.fault.Stalled && !e.down && (len(e.running) > 0 || e.waiting.len() > 0)
}

func (e *Engine) arrive(s *sequence) {
	if e.down || e.fault.ErrorRate > 0 && e.rnd.Float64() < e.fault.ErrorRate {
		e.fail(s)
		return
	}
	s.state = waiting
	e.waiting.push(s)
}

func (e *Engine) fail(s *sequence) {
	e.stats.Failed++
	e.end(s, Failed)
}

// end takes a sequence out of wherever it is.
func (e *Engine) end(s *sequence, k Kind) {
	switch s.state {
	case arriving:
		if i := slices.Index(e.arrivals, s); i >= 0 {
			e.arrivals = slices.Delete(e.arrivals, i, i+1)
		}
	case waiting:
		e.waiting.remove(s)
	case running:
		i := slices.Index(e.running, s)
		e.running = slices.Delete(e.running, i, i+1)
		e.kv.release(&s.held)
	}
	s.state = ended
	delete(e.byID, s.req.ID)
	e.note(Event{Kind: k, ID: s.req.ID, Tokens: s.generated})
}

func (e *Engine) note(ev Event) {
	ev.At = e.now
	e.events = append(e.events, ev)
}

// tell tells what has happened. Events that come about while it does are told by the same loop, in order.
func (e *Engine) tell() {
	if e.telling {
		return
	}
	e.telling = true
	for i := 0; i < len(e.events); i++ {
		if e.emit != nil {
			e.emit(e.events[i])
		}
	}
	e.events, e.telling = e.events[:0], false
}

// settle breaks off the step under way.
func (e *Engine) settle() {
	if e.inStep {
		e.stats.Busy += e.now - e.stepFrom
		e.inStep, e.batch = false, e.batch[:0]
	}
}
