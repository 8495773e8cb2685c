package shared

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/internal/redisconn"
)

const (
	// DefaultBeat is how often a replica shows that it lives.
	DefaultBeat = time.Second
	// beatsToStale after which a replica that has not shown it is taken for dead.
	beatsToStale = 10
	// beatsToRestore is how long totals are put together again after a loss: one beat for all to notice, one to write,
	// one to spare.
	beatsToRestore = 3
)

// ErrRestoring is the answer for budgets and concurrent requests in the seconds after Redis has lost its data.
var ErrRestoring = errors.New("Redis has lost its counters, and the replicas are putting them together again: this takes a few seconds")

// Options of a Remote.
type Options struct {
	// Conn to the Redis that holds the counters.
	Conn *redisconn.Conn
	// Prefix stands before every key. Gateways with the same one count together.
	Prefix string
	// ID of this replica, unlike that of any other that lives, and the same after a restart: what the replica spent before
	// is then known to be its own. From 1 to 200 bytes.
	ID string
	// Beat is how often the replica shows that it lives; 0 is DefaultBeat. Ten beats without one and it is dead. The
	// same for all replicas.
	Beat time.Duration
	// Now is the clock of this replica; nil is time.Now. It orders what this replica says, and never decides what is
	// counted.
	Now func() time.Time
	Log *slog.Logger
}

// Remote counts in Redis. It is safe for concurrent use. Run must be running for replicas to know of each other and
// for counters to heal.
type Remote struct {
	place   atomic.Pointer[place]
	scripts scripts
	id      string
	beat    time.Duration
	stale   time.Duration
	now     func() time.Time
	log     *slog.Logger

	replicas atomic.Int64
	registry registry
	adjusts  batcher

	mu     sync.Mutex
	shares map[string]*share // by key, whatever the prefix
	gens   int64             // the last generation given out
}

var _ limit.Remote = (*Remote)(nil)

// New makes a Remote. It does not talk to Redis yet.
func New(o Options) (*Remote, error) {
	at, err := newPlace(o.Conn, o.Prefix)
	if err != nil {
		return nil, err
	}
	if o.ID == "" || len(o.ID) > 200 {
		return nil, fmt.Errorf("a replica that counts in Redis needs an ID of 1 to 200 bytes, and this one has %d", len(o.ID))
	}
	if o.Beat == 0 {
		o.Beat = DefaultBeat
	}
	if o.Beat < 10*time.Millisecond || o.Beat > time.Minute {
		return nil, fmt.Errorf("a beat of %v is out of range: use 10ms to 1m", o.Beat)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &Remote{
		scripts: newScripts(), id: o.ID,
		beat: o.Beat, stale: beatsToStale * o.Beat, now: o.Now, log: o.Log,
		shares: map[string]*share{},
	}
	r.place.Store(at)
	r.replicas.Store(1)
	r.registry.kick = make(chan struct{}, 1)
	return r, nil
}

// Timeout is how long one call should be waited for: that of the connection, which bounds no context that has a deadline.
func (r *Remote) Timeout() time.Duration { return r.place.Load().conn.Timeout() }

// Acquire takes between min and want units of a counter in one round trip; see limit.Remote.
func (r *Remote) Acquire(ctx context.Context, c limit.Counter, min, want int64) (limit.Acquired, error) {
	if c.Rule == nil || min < 1 || want < min {
		return limit.Acquired{}, fmt.Errorf("counting in Redis: between %d and %d units of a counter cannot be asked for", min, want)
	}
	switch kindOf(c.Rule) {
	case kindWindow:
		width := slotWidth(c.Rule.Window)
		return r.acquired(ctx, &call{
			script: r.scripts.window, keys: []string{keyOf(&c)},
			args: []any{"acquire", c.Rule.Limit, windowOf(c.Rule), width, min, want, r.replicas.Load()},
		})
	case kindBucket:
		return r.acquired(ctx, &call{
			script: r.scripts.bucket, keys: []string{keyOf(&c)},
			args: []any{"acquire", c.Rule.Limit, burst(c.Rule), windowOf(c.Rule), min, want, r.replicas.Load()},
		})
	default:
		return r.acquireShare(ctx, &c, min, want)
	}
}

// acquired runs one of the scripts that answer granted, remaining, now, reset and retry after.
func (r *Remote) acquired(ctx context.Context, c *call) (limit.Acquired, error) {
	values, err := r.run(ctx, c)
	if err != nil {
		return limit.Acquired{}, err
	}
	n, err := ints(values, 5)
	if err != nil {
		return limit.Acquired{}, err
	}
	return limit.Acquired{
		Granted: n[0], Remaining: n[1], At: time.UnixMicro(n[2]),
		Reset: micros(n[3]), RetryAfter: micros(n[4]),
	}, nil
}

// Adjust changes what is counted; see limit.Remote. Calls that come while others are under way share a round trip.
func (r *Remote) Adjust(ctx context.Context, c limit.Counter, delta int64, at time.Time) error {
	if c.Rule == nil {
		return errors.New("counting in Redis: a counter without a rule cannot be adjusted")
	}
	if delta == 0 {
		return nil
	}
	switch kindOf(c.Rule) {
	case kindWindow:
		_, err := r.adjusts.do(ctx, r, &call{
			script: r.scripts.window, keys: []string{keyOf(&c)},
			args: []any{"adjust", c.Rule.Limit, windowOf(c.Rule), slotWidth(c.Rule.Window), delta, at.UnixMicro()},
		})
		return err
	case kindBucket:
		_, err := r.adjusts.do(ctx, r, &call{
			script: r.scripts.bucket, keys: []string{keyOf(&c)},
			args: []any{"adjust", c.Rule.Limit, burst(c.Rule), windowOf(c.Rule), delta},
		})
		return err
	default:
		return r.adjustShare(ctx, &c, delta)
	}
}

// Replicas is the last seen number of live replicas, this one included.
func (r *Remote) Replicas() int { return int(r.replicas.Load()) }

// micros is a duration of n microseconds, or the longest there is.
func micros(n int64) time.Duration {
	const longest = int64(1<<63-1) / 1000
	return time.Duration(min(n, longest)) * time.Microsecond
}
