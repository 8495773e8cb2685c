package envoy

import (
	"context"
	"fmt"
	"time"
)

// drainPoll is how often Envoy is asked for its requests in flight. One such question costs its main
// thread less than a millisecond.
const drainPoll = 50 * time.Millisecond

// DrainError says that Stop ended Envoy while requests were still running.
type DrainError struct {
	// Active is the number of requests that were cut, as last counted; -1 if it could not be counted.
	Active int
	// Err is why the drain was not waited for: the context's error, or one of the admin interface.
	Err error
}

func (e *DrainError) Error() string {
	if e.Active < 0 {
		return fmt.Sprintf("Envoy was stopped without a drain: %v", e.Err)
	}
	if e.Active == 1 {
		return fmt.Sprintf("Envoy was stopped with 1 request still running: %v", e.Err)
	}
	return fmt.Sprintf("Envoy was stopped with %d requests still running: %v", e.Active, e.Err)
}

func (e *DrainError) Unwrap() error { return e.Err }

// Stop ends Envoy in order: health checks fail, the listeners stop accepting (after AcceptGrace),
// the requests in flight run to their end, streams included, then SIGTERM, and SIGKILL 2 s later if
// that did not help. When ctx ends the remaining requests are cut and Stop returns a *DrainError. A second
// call, while the first one drains, cuts them at once. In every case Envoy has FlushGrace to send the
// records of the requests that have ended. When Stop returns, no process is left.
func (s *Supervisor) Stop(ctx context.Context) error {
	s.mu.Lock()
	if !s.started {
		if s.stops == 0 {
			s.markStopping()
			close(s.done)
		}
		s.mu.Unlock()
		return nil
	}
	first := s.markStopping()
	if s.stops == 2 {
		close(s.hurry)
	}
	c := s.child
	s.mu.Unlock()

	if !first || c == nil {
		<-s.done
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-s.hurry:
			cancel(errHurried)
		case <-c.done:
			cancel(errGone)
		case <-ctx.Done():
		}
	}()
	err := s.drain(ctx, c)
	c.terminate()
	<-s.done
	return err
}

// stopReason is why a drain ended before its time.
type stopReason string

func (r stopReason) Error() string { return string(r) }

const (
	errHurried stopReason = "a second stop was asked for"
	errGone    stopReason = "Envoy died while it drained"
)

// drain waits until nothing is in flight any more, or ctx ends, and then until Envoy has sent its records. It
// returns a *DrainError for what is cut.
func (s *Supervisor) drain(ctx context.Context, c *child) error {
	err := s.idle(ctx)
	active := s.flush(ctx, c)
	select {
	case <-c.done:
		if err == nil {
			return &DrainError{Active: 0, Err: errGone}
		}
		return &DrainError{Active: -1, Err: err}
	default:
	}
	if err == nil || active == 0 && ctx.Err() != nil {
		return nil
	}
	return &DrainError{Active: active, Err: err}
}

// idle returns when nothing is in flight any more, or why that is not waited for.
//
// Of the ways that Envoy 1.40 offers, this is the one that holds: POST /drain_listeners?graceful goes on
// accepting for --drain-time-s, the same time that listener updates need long; with &skip_exit it
// accepts for ever; without either the listeners close at once and their connections live on. The
// graceful part, asking clients to close, is /healthcheck/fail.
func (s *Supervisor) idle(ctx context.Context) error {
	if err := s.admin.FailHealthChecks(ctx); err != nil {
		return drainCause(ctx, err)
	}
	if pause(ctx, s.opts.AcceptGrace) != nil {
		return context.Cause(ctx)
	}
	if err := s.admin.CloseListeners(ctx); err != nil {
		return drainCause(ctx, err)
	}
	ticker := time.NewTicker(drainPoll)
	defer ticker.Stop()
	for {
		active, err := s.admin.ActiveRequests(ctx)
		if err != nil {
			return drainCause(ctx, err)
		}
		if active == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// flushRounds bounds how often FlushGrace is waited for, while requests go on ending.
const flushRounds = 4

// flush waits until Envoy has sent the records of the requests that have ended, or is gone. It returns the number of
// those that still run, -1 if they cannot be counted. ctx may have ended.
func (s *Supervisor) flush(ctx context.Context, c *child) int {
	ctx = context.WithoutCancel(ctx)
	active := s.running(ctx)
	if s.opts.FlushGrace == 0 {
		return active
	}
	for range flushRounds {
		select {
		case <-c.done:
			return -1
		case <-s.opts.Clock.After(s.opts.FlushGrace):
		}
		if active <= 0 {
			break
		}
		before := active
		if active = s.running(ctx); active >= before {
			break // none has ended meanwhile, so no record is on its way
		}
	}
	return active
}

// running counts the requests in flight; -1 if Envoy does not answer.
func (s *Supervisor) running(ctx context.Context) int {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	n, err := s.admin.ActiveRequests(ctx)
	if err != nil {
		return -1
	}
	return n
}

// drainCause prefers the reason that ctx ended for over the error of the call that this broke off.
func drainCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// end stops without a drain and returns when nothing is left.
func (s *Supervisor) end() {
	s.mu.Lock()
	s.markStopping()
	c := s.child
	s.mu.Unlock()
	if c != nil {
		c.terminate()
	}
	<-s.done
}

// pause waits for d, or returns ctx's error.
func pause(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
