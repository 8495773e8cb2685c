package shared

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/weir-dev/weir/extproc/limit"
)

const (
	// lateness is how long after its period a budget is kept, for requests that end late.
	lateness = 24 * time.Hour
	// longestPeriod bounds a calendar period whose end is not said: a month, and an hour of daylight saving.
	longestPeriod = 31*24*time.Hour + time.Hour
)

// share is what this replica knows of its own part of a counter: the field that it writes.
type share struct {
	kind kind
	key  string

	mu   sync.Mutex
	rule *limit.Rule
	// taken and returned are what the field says at least unless Redis lost something: all of which the outcome is
	// known. What is used is the difference.
	taken, returned int64
	// generation of what is said; see shares.lua.
	generation int64
	// adopted says that the field of an earlier process with this ID has been taken over. Until then one call at a time.
	adopted  bool
	adopting chan struct{} // closed when the call that adopts is over; nil when there is none
	underway int           // calls whose outcome is open
	owed     int64         // changes that could not be said before the field was adopted
	// unsure says that a call failed or Redis lost data: the field may be anything. A new generation replaces it.
	unsure bool
	ends   time.Time // when the counter may be forgotten; zero for concurrent requests
	said   time.Time // when the field was last written
	gone   bool      // no longer in Remote.shares
}

// said is one call under way: what it tells the script.
type said struct {
	generation, taken, returned int64
	adopts                      bool
}

// share finds or makes the share of a counter, locked.
func (r *Remote) share(c *limit.Counter) *share {
	key := keyOf(c)
	for {
		r.mu.Lock()
		s := r.shares[key]
		if s == nil {
			s = &share{kind: kindOf(c.Rule), key: key, generation: r.nextGeneration(0)}
			if s.kind == kindConcurrent {
				s.adopted = true // requests of an earlier process do not run any more
			} else if s.ends = c.PeriodEnd; s.ends.IsZero() {
				s.ends = c.PeriodStart.Add(longestPeriod)
			}
			r.shares[key] = s
		}
		r.mu.Unlock()
		s.mu.Lock()
		if !s.gone {
			s.rule = c.Rule
			return s
		}
		s.mu.Unlock()
	}
}

// nextGeneration is above every one that this process has used, above floor, and above those of earlier processes as long
// as the clock is not put back. r.mu is held.
func (r *Remote) nextGeneration(floor int64) int64 {
	r.gens = max(r.gens+1, floor+1, r.now().UnixMicro())
	return r.gens
}

func (r *Remote) generationAfter(floor int64) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.nextGeneration(floor)
}

// begin starts a call for the share, which is locked, and unlocks it. The error is that ctx has ended.
func (r *Remote) begin(ctx context.Context, s *share) (said, error) {
	for !s.adopted {
		if s.adopting == nil {
			s.adopting = make(chan struct{})
			out := s.words()
			out.adopts = true
			s.mu.Unlock()
			return out, nil
		}
		wait := s.adopting
		s.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return said{}, context.Cause(ctx)
		}
		s.mu.Lock()
	}
	if s.unsure && s.underway == 0 {
		s.unsure = false
		s.generation = r.generationAfter(s.generation)
	}
	s.underway++
	out := s.words()
	s.mu.Unlock()
	return out, nil
}

func (s *share) words() said {
	return said{generation: s.generation, taken: s.taken, returned: s.returned}
}

// used is what this replica holds or has spent.
func (s *share) used() int64 { return s.taken - s.returned }

// change adds what is certain to have been taken, or returned if less than 0.
func (s *share) change(delta int64) {
	if delta > 0 {
		s.taken += delta
	} else {
		s.returned = min(s.taken, s.returned-delta)
	}
}

// keep remembers a change that the store may not have heard of. It is said with the next call, or within a beat. The share is locked.
func (s *share) keep(delta int64) {
	if !s.adopted {
		s.owed += delta
		return
	}
	s.change(delta)
	s.unsure = true
}

// The answers of shares.lua.
const (
	statusOK   = 0
	statusLost = 1 // the field was gone or too low; it is not any more
	statusLate = 2 // a later generation has spoken; nothing was done
)

// shareReply is what shares.lua answers.
type shareReply struct {
	status, granted, remaining, taken, returned, generation int64
}

// end takes the outcome of a call that begin started and that changed the field by delta. Nothing has changed if the
// status is statusLate.
func (r *Remote) end(s *share, w said, values []any, err error, delta int64) (shareReply, error) {
	var n []int64
	if err == nil {
		n, err = ints(values, 8)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.adopts {
		close(s.adopting)
		s.adopting = nil
	} else {
		s.underway--
	}
	if err != nil {
		// The change is certain, although the store may not know it. A grant that nobody heard of is none, although
		// the store may count it.
		s.keep(delta)
		return shareReply{}, err
	}
	reply := shareReply{status: n[0], granted: n[1], remaining: n[2], taken: n[4], returned: n[5], generation: n[6]}
	switch {
	case reply.status == statusLate:
		if w.generation == s.generation {
			s.generation = r.generationAfter(reply.generation)
			s.adopted = s.kind == kindConcurrent
		}
		return reply, nil
	case w.adopts:
		s.adopted = true
		restored := s.used() - (w.taken - w.returned) // while the call was under way
		s.taken, s.returned = reply.taken, reply.returned
		if restored > 0 {
			s.keep(restored)
		}
		if s.owed != 0 {
			s.keep(s.owed)
			s.owed = 0
		}
	default:
		s.change(reply.granted)
		s.change(delta)
	}
	if s.kind == kindConcurrent && reply.status == statusLost && (s.underway > 0 || reply.taken-reply.returned != s.used()) {
		// The field goes when nothing is held, and a call that was overtaken by that puts back what it knew of. Others
		// would count it for as long as a dead replica's.
		s.unsure = true
	}
	if n[7] == 1 {
		s.said = r.now() // a refusal writes nothing, and is no sign of life
	}
	return reply, nil
}

// shareCall makes the call that says w for the share.
func (r *Remote) shareCall(s *share, w said, limit, least, want, delta int64) *call {
	mode := "set"
	if w.adopts {
		mode = "adopt"
	}
	var stale, expiry time.Duration
	if s.kind == kindConcurrent {
		stale, expiry = r.stale, 3*r.stale
	} else {
		expiry = max(time.Hour, s.ends.Add(lateness).Sub(r.now()))
	}
	return &call{
		script: r.scripts.shares, keys: []string{s.key},
		args: []any{r.id, w.generation, mode, w.taken, w.returned, limit, least, want, r.replicas.Load(),
			stale.Microseconds(), expiry.Milliseconds(), delta},
	}
}

// attempts to make a call whose generation is not too late. A second one is needed after the clock was put back.
const attempts = 2

func (r *Remote) acquireShare(ctx context.Context, c *limit.Counter, least, want int64) (limit.Acquired, error) {
	if r.restoring() {
		return limit.Acquired{}, ErrRestoring
	}
	for range attempts {
		s := r.share(c)
		w, err := r.begin(ctx, s)
		if err != nil {
			return limit.Acquired{}, err
		}
		values, err := r.run(ctx, r.shareCall(s, w, c.Rule.Limit, least, want, 0))
		reply, err := r.end(s, w, values, err, 0)
		switch {
		case err != nil:
			return limit.Acquired{}, err
		case reply.status == statusLate:
			continue
		case reply.status == statusLost && s.kind == kindCalendar:
			r.lost()
			return limit.Acquired{}, ErrRestoring
		}
		out := limit.Acquired{Granted: reply.granted, Remaining: reply.remaining}
		if s.kind == kindCalendar {
			out.Reset = max(0, s.ends.Sub(r.now()))
			if out.Granted == 0 {
				out.RetryAfter = out.Reset
			}
		}
		return out, nil
	}
	return limit.Acquired{}, r.tooLate()
}

func (r *Remote) adjustShare(ctx context.Context, c *limit.Counter, delta int64) error {
	for range attempts {
		s := r.share(c)
		w, err := r.begin(ctx, s)
		for err == nil && w.adopts {
			// A change must not be said by a call that, if its outcome stays unknown, is said again.
			values, callErr := r.adjusts.do(ctx, r, r.shareCall(s, w, c.Rule.Limit, 0, 0, 0))
			if _, err = r.end(s, w, values, callErr, 0); err == nil {
				s.mu.Lock()
				w, err = r.begin(ctx, s)
			}
		}
		if err != nil {
			s.mu.Lock()
			s.keep(delta)
			s.mu.Unlock()
			return err
		}
		values, err := r.adjusts.do(ctx, r, r.shareCall(s, w, c.Rule.Limit, 0, 0, delta))
		reply, err := r.end(s, w, values, err, delta)
		switch {
		case err != nil:
			return err
		case reply.status == statusLate:
			continue
		case reply.status == statusLost && s.kind == kindCalendar:
			r.lost()
		}
		return nil
	}
	s := r.share(c)
	s.keep(delta)
	s.mu.Unlock()
	return r.tooLate()
}

// say writes what is certain of the share into its field.
func (r *Remote) say(ctx context.Context, s *share) error {
	for range attempts {
		s.mu.Lock()
		if s.gone {
			s.mu.Unlock()
			return nil
		}
		limit := s.rule.Limit
		w, err := r.begin(ctx, s)
		if err != nil {
			return err
		}
		values, err := r.adjusts.do(ctx, r, r.shareCall(s, w, limit, 0, 0, 0))
		reply, err := r.end(s, w, values, err, 0)
		if err != nil || reply.status != statusLate {
			return err
		}
	}
	return r.tooLate()
}

func (r *Remote) tooLate() error {
	r.log.Error("another process counts in Redis as this replica: give each replica an ID of its own", slog.String("id", r.id))
	return fmt.Errorf("another process counts in Redis as the replica %q: give each replica an ID of its own", r.id)
}

// Restore says what this replica has spent of a Calendar counter in its period so far, as the ledger has it: the field
// is made no less. It is for the start, before requests come; what the replica spent in earlier processes with the same
// ID is in the field already unless Redis lost it, and is not counted twice. It does no I/O: the total is written with the
// first request, or within a beat.
func (r *Remote) Restore(c limit.Counter, spent int64) {
	if c.Rule == nil || kindOf(c.Rule) != kindCalendar || spent <= 0 {
		return
	}
	s := r.share(&c)
	defer s.mu.Unlock()
	if more := spent - s.used(); more > 0 {
		s.change(more)
		s.unsure = s.unsure || s.adopted
	}
}
