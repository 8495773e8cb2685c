package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/console/api"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/identity/keystore"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/limit/shared"
	"github.com/weir-dev/weir/internal/redisconn"
	"github.com/weir-dev/weir/usage/ledger"
	"github.com/weir-dev/weir/usage/ledger/ship"
	"github.com/weir-dev/weir/xds/compile"
)

// sharedState is what replicas share, as the newest configuration has it: counters, keys, the shipped ledger. It may come, go and
// change while requests are served.
type sharedState struct {
	log    *slog.Logger
	ledger *ledger.Ledger
	keys   *identity.StoredKeys
	// keysChanged is called when stored keys have changed.
	keysChanged func()
	// retryEvery is how often a connection that could not be made is tried again. Zero: ten seconds.
	retryEvery time.Duration

	mu      sync.Mutex
	current *connected // nil: nothing is shared, or cannot be
	retry   *time.Timer
	applied int   // counts calls of apply: a retry that comes after the next one does nothing
	problem error // why what the settings name is not in use
	closed  bool
	ending  sync.WaitGroup // connections that are not used any more, and what ran on them
	// The last that shipped the ledger and watched keys; they may be ending.
	shipped, watched *work
	remote           atomic.Pointer[shared.Remote]
	// moved is called, in a goroutine of its own, when what is shared is somewhere else than before; nil for nobody.
	moved atomic.Pointer[func()]
}

// place is the Redis that is shared now, and what stands before every key there; nil where there is none.
func (s *sharedState) place() (conn *redisconn.Conn, prefix string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return nil, ""
	}
	return s.current.conn, s.current.shared.KeyPrefix
}

// connected is one Redis and what runs on it.
type connected struct {
	shared  compile.Shared // that it was made from
	conn    *redisconn.Conn
	counts  *work // of the Remote, which outlives the connection
	shipper *ship.Shipper
	ships   *work // nil where the ledger is not shipped
	keys    *keystore.Watcher
	watches *work // nil where keys are not stored
}

// work is something that runs until it is ended.
type work struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// startWork runs something when what ran before it has ended, for which it sees to: two never run at once.
func startWork(before *work, run func(context.Context)) *work {
	ctx, cancel := context.WithCancel(context.Background())
	w := &work{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		before.end()
		run(ctx)
	}()
	return w
}

// end ends it and waits until it has ended. Nil has.
func (w *work) end() {
	if w != nil {
		w.cancel()
		<-w.done
	}
}

// apply makes what is shared what the settings say. What does not change goes on, and what is counted stays counted. When
// the Redis that they name cannot be used, what was in use stays so, and it is tried again until the next call.
func (s *sharedState) apply(set compile.Settings) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applied++
	if s.retry != nil {
		s.retry.Stop()
		s.retry = nil
	}
	s.try(set, s.applied)
}

// defaultRetry is how often a connection that could not be made is tried again.
const defaultRetry = 10 * time.Second

// where is what is shared now, as it was configured; nil where nothing is.
func (s *sharedState) where() *compile.Shared {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return nil
	}
	return &s.current.shared
}

// try is one attempt of apply. The lock is held.
func (s *sharedState) try(set compile.Settings, serial int) {
	if s.closed {
		return
	}
	before, place := s.problem, s.current
	s.problem = s.connect(set.Shared)
	if moved := s.moved.Load(); moved != nil && s.current != place {
		go (*moved)()
	}
	if err := s.arrange(&set); s.problem == nil {
		s.problem = err
	}
	if s.problem == nil {
		if before != nil {
			s.log.Info("the shared state is in use now as it is configured")
		}
		return
	}
	every := cmp.Or(s.retryEvery, defaultRetry)
	if before == nil || before.Error() != s.problem.Error() {
		now := "limits follow their onFailure"
		if s.current != nil {
			now = "what was in use before stays in use"
		}
		s.log.Error("the shared state cannot be used as it is configured; "+now+" until it can, which is tried again and again",
			"error", s.problem, "every", every)
	}
	s.retry = time.AfterFunc(every, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.applied == serial {
			s.try(set, serial)
		}
	})
}

// connect connects to a Redis, or to none, if that is another one than now. What counts there moves.
func (s *sharedState) connect(want *compile.Shared) error {
	c := s.current
	switch {
	case want == nil:
		s.remote.Store(nil)
		s.current = nil
		if c != nil {
			s.ending.Go(c.close)
		}
		return nil
	case c != nil && c.shared.Equal(want):
		return nil
	}
	conn, err := redisconn.Open(want.Redis, redisconn.Options{})
	if err != nil {
		return err
	}
	made := &connected{shared: *want, conn: conn}
	if c != nil {
		if err := s.remote.Load().Move(conn, want.KeyPrefix); err != nil {
			conn.Close()
			return err
		}
		made.counts, c.counts = c.counts, nil
		s.ending.Go(c.close)
	} else {
		_, replica := s.ledger.Slot()
		remote, err := shared.New(shared.Options{Conn: conn, Prefix: want.KeyPrefix, ID: replica, Log: s.log})
		if err != nil {
			conn.Close()
			return err
		}
		made.counts = startWork(nil, remote.Run)
		s.remote.Store(remote)
	}
	s.current = made
	return nil
}

// arrange starts and ends what runs on the connection besides counting.
func (s *sharedState) arrange(set *compile.Settings) error {
	c := s.current
	if !set.StoredKeys {
		s.watched.end() // who watches would put them back
		s.watched = nil
		if c != nil {
			c.watches, c.keys = nil, nil
		}
		s.keys.Replace(nil)
	}
	if c == nil {
		return nil
	}
	if !set.ShipLedger && c.ships != nil {
		w := c.ships
		c.ships, c.shipper = nil, nil
		w.cancel() // it sends what there is before it ends
	}
	var errs []error
	if set.ShipLedger && c.ships == nil {
		shipper, err := ship.New(s.ledger, c.conn, ship.Options{
			Prefix: c.shared.KeyPrefix, Now: time.Now, Log: s.log, Retention: set.Retention,
		})
		if err == nil {
			c.shipper, c.ships = shipper, startWork(s.shipped, shipper.Run)
			s.shipped = c.ships
		}
		errs = append(errs, err)
	}
	if c.shipper != nil {
		c.shipper.SetRetention(set.Retention)
	}
	if set.StoredKeys && c.watches == nil {
		keys, err := keystore.Watch(c.conn, c.shared.KeyPrefix, s.keys, s.log)
		if err == nil {
			keys.OnChange = s.keysChanged
			c.keys, c.watches = keys, startWork(s.watched, keys.Run)
			s.watched = c.watches
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// close ends what runs on a connection, and the connection when the commands that are under way can be over. It waits for
// the shipper, which sends what it can.
func (c *connected) close() {
	c.counts.end()
	c.watches.end()
	c.ships.end()
	time.Sleep(c.conn.Timeout()) // commands that count may be under way
	c.conn.Close()
}

// close disconnects.
func (s *sharedState) close() {
	s.mu.Lock()
	s.closed = true
	if s.retry != nil {
		s.retry.Stop()
	}
	s.remote.Store(nil)
	c := s.current
	s.current = nil
	s.mu.Unlock()
	if c != nil {
		c.counts.end()
		c.watches.end()
		c.ships.end()
		c.conn.Close()
	}
	s.ending.Wait()
	s.shipped.end()
	s.watched.end()
}

// status tells how the shared state stands; nil where there is none.
func (s *sharedState) status() *api.SharedState {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, r, problem := s.current, s.remote.Load(), ""
	if s.problem != nil {
		problem = s.problem.Error()
	}
	if c == nil || r == nil {
		if problem == "" {
			return nil
		}
		return &api.SharedState{Problem: problem, Replicas: 1}
	}
	h, state := c.conn.Health(), r.State()
	out := &api.SharedState{Problem: problem, Replicas: state.Replicas, Restoring: state.Restoring}
	if h.Err != nil {
		out.Error = h.Err.Error()
	}
	if !h.Since.IsZero() {
		out.Since = &h.Since
	}
	if c.keys != nil {
		k := c.keys.State()
		out.Keys = &k
	}
	if c.shipper != nil {
		out.ShipsLedger, out.Shipped = true, c.shipper.Shipped()
		if err := c.shipper.Health(); err != nil {
			out.Shipping = err.Error()
		}
	}
	return out
}

// errNoStore is the answer to rules of a configuration whose shared state has just gone.
var errNoStore = errors.New("no shared state is configured")

// Acquire implements limit.Remote.
func (s *sharedState) Acquire(ctx context.Context, c limit.Counter, min, want int64) (limit.Acquired, error) {
	r := s.remote.Load()
	if r == nil {
		return limit.Acquired{}, errNoStore
	}
	ctx, cancel := context.WithTimeout(ctx, r.Timeout())
	defer cancel()
	return r.Acquire(ctx, c, min, want)
}

// Adjust implements limit.Remote.
func (s *sharedState) Adjust(ctx context.Context, c limit.Counter, delta int64, at time.Time) error {
	r := s.remote.Load()
	if r == nil {
		return errNoStore
	}
	ctx, cancel := context.WithTimeout(ctx, r.Timeout())
	defer cancel()
	return r.Adjust(ctx, c, delta, at)
}

// Ping implements limit.Remote.
func (s *sharedState) Ping(ctx context.Context) error {
	r := s.remote.Load()
	if r == nil {
		return errNoStore
	}
	ctx, cancel := context.WithTimeout(ctx, r.Timeout())
	defer cancel()
	return r.Ping(ctx)
}

// Restore implements limit.Remote.
func (s *sharedState) Restore(c limit.Counter, taken int64) {
	if r := s.remote.Load(); r != nil {
		r.Restore(c, taken)
	}
}

// Replicas implements limit.Remote.
func (s *sharedState) Replicas() int {
	r := s.remote.Load()
	if r == nil {
		return 1
	}
	return r.Replicas()
}
