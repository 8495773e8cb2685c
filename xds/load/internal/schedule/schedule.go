// Package schedule does many small things again and again: each at its own interval, none twice at a time, and never more at
// once than a bound. It is made for thousands of requests to servers some of which do not answer.
package schedule

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// DefaultWorkers is how many tasks run at once when nothing else is said. A task waits for a server nearly all of its
	// time, and costs a goroutine and a connection, some 30 KB.
	DefaultWorkers = 1024
	// firstWithin bounds the time to the first run of a task, over which the first runs of many are spread.
	firstWithin = 500 * time.Millisecond
	// jitter is the part of an interval by which it varies, so that tasks that began together drift apart.
	jitter = 0.1
	// grain is how long the scheduler sleeps at least: what falls due meanwhile starts together. Waking up costs more than
	// starting a task, and nobody reads servers to the millisecond.
	grain = 2 * time.Millisecond
)

// Task is what is done. ctx ends when the task is removed or the scheduler stops; late is how long after its time it begins.
type Task func(ctx context.Context, late time.Duration) Outcome

// Outcome is how a task went.
type Outcome struct {
	// After is when to do it again, counted from the beginning of this time, give or take a tenth.
	After time.Duration
	// Suspect says that it failed and may again take as long as it is allowed to. Suspects together get half of the workers,
	// so that servers which do not answer keep nobody from the others.
	Suspect bool
}

// Options of a Scheduler.
type Options struct {
	Workers int            // most tasks that run at once; 0 is DefaultWorkers
	Rand    func() float64 // from [0, 1), safe for concurrent use; nil is the runtime's generator
}

// Scheduler runs tasks. It is safe for concurrent use.
type Scheduler struct {
	workers  int
	suspects int // most of them that may run suspects
	rand     func() float64
	wake     chan struct{} // the heap's head changed

	mu              sync.Mutex
	waiting         dueHeap
	ready           [2]queue // trusted, suspect
	running         [2]int
	entries         int
	ctx             context.Context // of Run; nil before and after
	group           sync.WaitGroup
	sleepsUntil     time.Time // when the loop wakes by itself
	sleepsUntilNone bool      // it waits for the wake channel only
}

// New returns a Scheduler that does nothing until Run.
func New(o Options) *Scheduler {
	if o.Workers <= 0 {
		o.Workers = DefaultWorkers
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	return &Scheduler{workers: o.Workers, suspects: max(1, o.Workers/2), rand: o.Rand, wake: make(chan struct{}, 1)}
}

// Stats are what a Scheduler is doing.
type Stats struct {
	Tasks   int // all there are
	Running int
	Ready   int // their time has come and no worker is free
}

// Stats returns what it is doing.
func (s *Scheduler) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{
		Tasks:   s.entries,
		Running: s.running[trusted] + s.running[suspect],
		Ready:   s.ready[trusted].len() + s.ready[suspect].len(),
	}
}

// The two lanes.
const (
	trusted = iota
	suspect
)

type state uint8

const (
	inHeap state = iota
	isReady
	isRunning
	isRemoved
)

// Entry is a task of a Scheduler.
type Entry struct {
	s      *Scheduler
	task   Task
	state  state
	index  int // in the heap
	lane   int // trusted or suspect
	due    time.Time
	hurry  time.Time // asked for while it ran; zero when not
	ctx    context.Context
	cancel context.CancelFunc
}

// Add adds a task that is to be done every interval. Its first time comes within the interval, and soon however long that is.
func (s *Scheduler) Add(interval time.Duration, task Task) *Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	within := min(interval, firstWithin)
	e := &Entry{s: s, task: task, due: time.Now().Add(time.Duration(s.rand() * float64(within)))}
	s.entries++
	s.push(e)
	return e
}

// Remove ends a task. If it runs, its context ends; it does not wait for that.
func (e *Entry) Remove() {
	e.s.mu.Lock()
	defer e.s.mu.Unlock()
	switch e.state {
	case isRemoved:
		return
	case inHeap:
		heap.Remove(&e.s.waiting, e.index)
	case isReady:
		e.s.ready[e.lane].remove(e)
	}
	e.state = isRemoved
	e.s.entries--
	if e.cancel != nil {
		e.cancel()
	}
}

// Hurry lets the task begin in d from now, unless it would earlier. If it runs now, it will again, d from now or at its end.
func (e *Entry) Hurry(d time.Duration) {
	e.s.mu.Lock()
	defer e.s.mu.Unlock()
	at := time.Now().Add(d)
	switch e.state {
	case isRunning:
		if e.hurry.IsZero() || at.Before(e.hurry) {
			e.hurry = at
		}
	case inHeap:
		if at.Before(e.due) {
			e.due = at
			heap.Fix(&e.s.waiting, e.index)
			e.s.noteHead()
		}
	}
}

// push puts an entry into the heap. The lock is held.
func (s *Scheduler) push(e *Entry) {
	e.state = inHeap
	heap.Push(&s.waiting, e)
	s.noteHead()
}

// noteHead wakes the loop if it sleeps past the head of the heap. The lock is held.
func (s *Scheduler) noteHead() {
	if !s.sleepsUntilNone && !s.waiting[0].due.Add(grain).Before(s.sleepsUntil) {
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run runs the tasks until ctx ends and they are over. It may run once.
func (s *Scheduler) Run(ctx context.Context) {
	s.mu.Lock()
	s.ctx = ctx
	s.mu.Unlock()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			s.mu.Lock()
			s.ctx = nil // no worker takes another task
			s.mu.Unlock()
			s.group.Wait()
			return
		case <-timer.C:
		case <-s.wake:
		}
		s.start(timer)
	}
}

// start starts what is due and sets the timer to what is next.
func (s *Scheduler) start(timer *time.Timer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for len(s.waiting) > 0 && !s.waiting[0].due.After(now) {
		e := heap.Pop(&s.waiting).(*Entry)
		e.state = isReady
		s.ready[e.lane].add(e)
	}
	for {
		e := s.take()
		if e == nil {
			break
		}
		s.group.Go(func() { s.work(e) })
	}
	s.sleepsUntilNone = len(s.waiting) == 0
	if s.sleepsUntilNone {
		timer.Stop()
		return
	}
	s.sleepsUntil = now.Add(max(s.waiting[0].due.Sub(now), grain))
	timer.Reset(s.sleepsUntil.Sub(now))
}

// take returns the entry that may run next, as running, or nil. The lock is held.
func (s *Scheduler) take() *Entry {
	if s.ctx == nil || s.ctx.Err() != nil || s.running[trusted]+s.running[suspect] >= s.workers {
		return nil
	}
	e := s.ready[trusted].head()
	if other := s.ready[suspect].head(); other != nil && s.running[suspect] < s.suspects && (e == nil || other.due.Before(e.due)) {
		e = other
	}
	if e == nil {
		return nil
	}
	s.ready[e.lane].remove(e)
	s.running[e.lane]++
	e.state = isRunning
	if e.ctx == nil {
		e.ctx, e.cancel = context.WithCancel(s.ctx)
	}
	return e
}

// work runs an entry, and whatever is ready then, until nothing is.
func (s *Scheduler) work(e *Entry) {
	for e != nil {
		began := time.Now()
		out := e.task(e.ctx, began.Sub(e.due))
		e = s.finish(e, began, out)
	}
}

// finish puts an entry that ran back into the heap and returns the one to run next.
func (s *Scheduler) finish(e *Entry, began time.Time, out Outcome) *Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running[e.lane]--
	if e.state != isRemoved {
		e.due = began.Add(time.Duration(float64(out.After) * (1 - jitter + 2*jitter*s.rand())))
		if !e.hurry.IsZero() && e.hurry.Before(e.due) {
			e.due = e.hurry
		}
		e.hurry = time.Time{}
		e.lane = trusted
		if out.Suspect {
			e.lane = suspect
		}
		s.push(e)
	}
	return s.take()
}
