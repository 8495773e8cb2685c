// Package ship sends the entries of a ledger to a Redis stream that all replicas share, each exactly once.
//
// Redis keeps, beside the stream, the number of the next line of every slot. One script checks that number, adds the
// lines and moves the number on, all or nothing. So a time-out, a retry, two senders or a restart never double an
// entry, and the number says where to go on. Redis down: entries stay in the ledger's folder and are sent later, for
// as long as retention keeps them there. Redis emptied: everything that the folder still has is sent again. Redis set
// back by a failover: the number went back with the stream, and sending goes on from there.
package ship

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/usage/ledger"
)

// The fields of an item of the stream.
const (
	fieldSlot  = "slot"
	fieldSeq   = "seq"
	fieldEntry = "entry"
)

// appendScript adds lines if the slot's number is what the sender thinks it is.
//
//go:embed append.lua
var appendScript string

// Keys returns the keys of the stream and of the numbers. The braces keep both on one node of a cluster.
func Keys(prefix string) (stream, numbers string) {
	return "{" + prefix + ":ledger}", "{" + prefix + ":ledger}:next"
}

// Options are what a Shipper needs.
type Options struct {
	// Prefix of the keys: LLMGateway.spec.sharedState.redis.keyPrefix; required.
	Prefix string
	// Now is the clock that retention goes by; required.
	Now func() time.Time
	// Log is required.
	Log *slog.Logger
	// Every is how often Run sends. Zero: a second.
	Every time.Duration
	// Timeout of one batch. Zero: five seconds. Batches are not on any request's path.
	Timeout time.Duration
	// Batch is the most lines sent at once. Zero: 200.
	Batch int
	// Retention is how long entries are kept in the stream. Zero: for ever.
	Retention time.Duration
}

// lookEvery is how often the number in Redis is looked at when there is nothing to send, slots that nobody uses are
// looked for, and the stream is trimmed.
const lookEvery = time.Minute

// Shipper sends what one process's state folder has: its own slot, and those that nobody uses.
type Shipper struct {
	ledger          *ledger.Ledger
	client          redis.UniversalClient
	opts            Options
	stream, numbers string
	script          *redis.Script

	mu     sync.Mutex // held while sending
	own    *sender
	looked time.Time

	retention atomic.Int64
	shipped   atomic.Int64
	problem   atomic.Pointer[error]
}

// New returns a shipper. The client stays the caller's. The error says which option is missing.
func New(l *ledger.Ledger, client redis.UniversalClient, o Options) (*Shipper, error) {
	switch {
	case o.Prefix == "" || strings.ContainsAny(o.Prefix, "{}"):
		return nil, fmt.Errorf("the prefix %q of the shared ledger's keys must not be empty, and must have no braces", o.Prefix)
	case o.Now == nil || o.Log == nil:
		return nil, errors.New("the shared ledger needs a clock and a log")
	}
	if o.Every <= 0 {
		o.Every = time.Second
	}
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Second
	}
	if o.Batch <= 0 {
		o.Batch = 200
	}
	s := &Shipper{ledger: l, client: client, opts: o, script: redis.NewScript(appendScript)}
	s.stream, s.numbers = Keys(o.Prefix)
	s.retention.Store(int64(o.Retention))
	return s, nil
}

// Run sends until ctx ends, and then once more what there is, unless Redis does not answer anyway. What ends later
// is sent by the next process that opens the state folder.
func (s *Shipper) Run(ctx context.Context) {
	t := time.NewTicker(s.opts.Every)
	defer t.Stop()
	for ctx.Err() == nil {
		_ = s.Ship(ctx) // Health tells, and the next one tries again
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	if s.Health() == nil && s.ledger.Sync() == nil {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opts.Timeout)
		defer cancel()
		_ = s.Ship(last)
	}
}

// SetRetention changes how long entries are kept in the stream. Zero: for ever.
func (s *Shipper) SetRetention(d time.Duration) { s.retention.Store(int64(d)) }

// Shipped counts the entries sent by this process.
func (s *Shipper) Shipped() int64 { return s.shipped.Load() }

// Health says why entries are not being sent; nil if they are.
func (s *Shipper) Health() error {
	if p := s.problem.Load(); p != nil {
		return *p
	}
	return nil
}

// Ship sends everything that is durable now.
func (s *Shipper) Ship(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.ship(ctx)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return err // that is the caller's wish, and no problem
	}
	was := s.Health()
	switch {
	case err != nil && was == nil:
		s.opts.Log.Warn("entries of the ledger cannot be sent to Redis; they are kept and sent later", "error", err)
	case err == nil && was != nil:
		s.opts.Log.Info("entries of the ledger are sent to Redis again")
	}
	if err != nil {
		s.problem.Store(&err)
	} else {
		s.problem.Store(nil)
	}
	return err
}

func (s *Shipper) ship(ctx context.Context) error {
	dir, id := s.ledger.Slot()
	if s.own == nil || s.own.id != id || s.own.dir != dir {
		s.own = &sender{shipper: s, dir: dir, id: id, opened: s.ledger.Opened(), renew: s.ledger.RenewID}
	}
	now := s.opts.Now()
	look := now.Sub(s.looked) >= lookEvery
	if look && s.own.known { // Redis may have been emptied while there was nothing to send
		changed, err := s.own.changed(ctx)
		if err != nil {
			return err
		}
		s.own.known = !changed
	}
	if err := s.own.send(ctx, s.ledger.Durable()); err != nil || !look {
		return err
	}
	err := s.ledger.EachIdle(func(dir, id string, next uint64) error {
		renew := func() (string, error) { return ledger.RenewID(dir) }
		idle := &sender{shipper: s, dir: dir, id: id, opened: next, renew: renew}
		defer idle.close()
		return idle.send(ctx, next)
	})
	if err != nil {
		return err
	}
	if err := s.trim(ctx, now); err != nil {
		return err
	}
	s.looked = now
	return nil
}

// trim removes from the stream what is too old.
func (s *Shipper) trim(ctx context.Context, now time.Time) error {
	keep := time.Duration(s.retention.Load())
	if keep <= 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	// An item's ID begins with the milliseconds at which it was added, which is after its request began.
	min := strconv.FormatInt(now.Add(-keep).UnixMilli(), 10)
	if err := s.client.XTrimMinIDApprox(ctx, s.stream, min, 0).Err(); err != nil {
		return fmt.Errorf("cannot trim %s: %w", s.stream, err)
	}
	return nil
}
