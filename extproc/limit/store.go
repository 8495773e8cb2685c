package limit

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

const (
	// tripAfter failures in a row the store is left alone. One or two may belong to one counter or one connection.
	tripAfter = 3
	// pauseMin and pauseMax bound the time between two tries to reach a store that failed.
	pauseMin = 50 * time.Millisecond
	pauseMax = 2 * time.Second
	// relapse: a store that fails again so soon is left alone for longer at once, for it answers Ping and nothing else.
	relapse = 10 * time.Second
)

// errBadGrant is a fault of the Remote: what it granted cannot be counted on.
var errBadGrant = errors.New("the shared store granted an amount that was not asked for")

// store is the Remote with what is known about its health. While it is down no request asks it; one goroutine tries until
// it answers.
type store struct {
	Remote
	timeout time.Duration
	log     *slog.Logger
	ctx     context.Context // ends with the engine
	spawn   func(func()) bool
	back    func() // called when it answers again
	now     func() time.Time

	// detached: there is no store for now, and every rule is counted here alone.
	detached atomic.Bool
	era      atomic.Int64 // how often it has been taken away: ends goroutines that try to reach one that is gone

	down     atomic.Bool
	failures atomic.Int32 // in a row
	since    atomic.Int64 // wall clock of the first, in nanoseconds
	pause    atomic.Int64 // before the next try, in nanoseconds

	ahead   atomic.Int64 // nanoseconds by which the store's clock is ahead of this one, by its last answer
	revived atomic.Int64 // wall clock of the last return, in nanoseconds

	acquires, adjusts, failed atomic.Uint64
}

// away says whether there is nothing to be told: no store, or none that answers.
func (s *store) away() bool { return s.down.Load() || s.detached.Load() }

// replicas is the number of live replicas, never below one.
func (s *store) replicas() int64 { return int64(max(s.Remote.Replicas(), 1)) }

// clock is what the store's clock shows now, as far as its answers tell, in nanoseconds since 1970.
func (s *store) clock(m moment) int64 { return m.wall + s.ahead.Load() }

// stamp is when the store counted units that it was asked for at one moment and answered at another. Its clock is then taken
// to be no later than it is: a change in the future would be none.
func (s *store) stamp(a Acquired, asked, answered moment) int64 {
	if a.At.IsZero() {
		return asked.wall
	}
	at := a.At.UnixNano()
	s.ahead.Store(at - answered.wall)
	return at
}

// acquire asks the store, no longer than its time-out. An error that is the caller's own end says nothing about the store.
func (s *store) acquire(ctx context.Context, c Counter, least, want int64, wall int64) (Acquired, error) {
	s.acquires.Add(1)
	call, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	a, err := s.Remote.Acquire(call, c, least, want)
	if err == nil && a.Granted != 0 && (a.Granted < least || a.Granted > want) {
		err = errBadGrant
	}
	if err == nil || ctx.Err() == nil {
		s.report(err, wall)
	}
	return a, err
}

func (s *store) adjust(c Counter, delta int64, at time.Time, wall int64) error {
	s.adjusts.Add(1)
	call, cancel := context.WithTimeout(s.ctx, s.timeout)
	defer cancel()
	err := s.Remote.Adjust(call, c, delta, at)
	if err == nil || s.ctx.Err() == nil {
		s.report(err, wall)
	}
	return err
}

// report learns from an answer. An answer to a call made before the store went down does not bring it back: that is
// for the goroutine that tries.
func (s *store) report(err error, wall int64) {
	if s.detached.Load() {
		return
	}
	if err == nil {
		if s.failures.Load() != 0 && !s.down.Load() {
			s.failures.Store(0)
		}
		return
	}
	s.failed.Add(1)
	if s.failures.Add(1) == 1 {
		s.since.Store(wall)
	}
	if s.failures.Load() >= tripAfter && s.ctx.Err() == nil && s.down.CompareAndSwap(false, true) {
		s.log.Warn("the shared store of limits does not answer; limits follow their onFailure until it does", "error", err)
		era := s.era.Load()
		s.spawn(func() { s.revive(era) })
	}
}

// revive tries until the store answers or is taken away, less often each time. Replicas do not try in step.
func (s *store) revive(era int64) {
	pause := pauseMin
	if last := s.revived.Load(); last != 0 && s.now().UnixNano()-last < int64(relapse) {
		pause = min(2*time.Duration(s.pause.Load()), pauseMax)
	}
	for {
		s.pause.Store(int64(pause))
		timer := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-s.ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		call, cancel := context.WithTimeout(s.ctx, s.timeout)
		if s.era.Load() != era {
			cancel()
			return
		}
		err := s.Remote.Ping(call)
		cancel()
		if s.era.Load() != era {
			return
		}
		if err == nil {
			s.revived.Store(s.now().UnixNano())
			s.failures.Store(0)
			s.down.Store(false)
			s.log.Info("the shared store of limits answers again")
			s.back()
			return
		}
		pause = min(2*pause, pauseMax)
	}
}

// retry is what a refusal says while the store is down.
func (s *store) retry() time.Duration {
	return max(time.Duration(s.pause.Load()), time.Second)
}
