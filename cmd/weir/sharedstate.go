package main

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

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

	mu      sync.Mutex
	current *connected // nil: nothing is shared
	remote  atomic.Pointer[shared.Remote]
}

// connected is one Redis and what runs on it.
type connected struct {
	settings compile.Settings // that it was made from
	conn     *redisconn.Conn
	keys     *keystore.Watcher // nil where keys are not stored
	shipper  *ship.Shipper     // nil where the ledger is not shipped
	stop     context.CancelFunc
	work     sync.WaitGroup
}

// close ends what runs on it. It waits for the shipper, which sends what it can.
func (c *connected) close() {
	c.stop()
	c.work.Wait()
	c.conn.Close()
}

// apply connects to what the settings name. What does not change stays connected.
func (s *sharedState) apply(set compile.Settings) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil && sameShared(&s.current.settings, &set) {
		return nil
	}
	old := s.current
	var made *connected
	if set.Shared != nil {
		var err error
		if made, err = s.connect(set); err != nil {
			return err
		}
	} else {
		s.remote.Store(nil)
	}
	s.current = made
	if old != nil {
		go old.close() // requests may be asking it still; a command takes a fraction of a second
	}
	if !set.StoredKeys {
		s.keys.Replace(nil)
	}
	return nil
}

func sameShared(a, b *compile.Settings) bool {
	return reflect.DeepEqual(a.Shared, b.Shared) && a.StoredKeys == b.StoredKeys && a.ShipLedger == b.ShipLedger && a.Retention == b.Retention
}

func (s *sharedState) connect(set compile.Settings) (*connected, error) {
	conn, err := redisconn.Open(set.Shared.Redis, redisconn.Options{})
	if err != nil {
		return nil, err
	}
	_, replica := s.ledger.Slot()
	remote, err := shared.New(shared.Options{Conn: conn, Prefix: set.Shared.KeyPrefix, ID: replica, Log: s.log})
	if err != nil {
		conn.Close()
		return nil, err
	}
	c := &connected{settings: set, conn: conn}
	if set.ShipLedger {
		c.shipper, err = ship.New(s.ledger, conn, ship.Options{
			Prefix: set.Shared.KeyPrefix, Now: time.Now, Log: s.log, Retention: set.Retention,
		})
	}
	if err == nil && set.StoredKeys {
		c.keys, err = keystore.Watch(conn, set.Shared.KeyPrefix, s.keys, s.log)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	c.work.Go(func() { remote.Run(ctx) })
	if c.shipper != nil {
		c.work.Go(func() { c.shipper.Run(ctx) })
	}
	if c.keys != nil {
		c.keys.OnChange = s.keysChanged
		c.work.Go(func() { c.keys.Run(ctx) })
	}
	s.remote.Store(remote)
	return c, nil
}

// close disconnects.
func (s *sharedState) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remote.Store(nil)
	if s.current != nil {
		s.current.close()
		s.current = nil
	}
}

// sharedBody is the shared state in the answer of /api/status.
type sharedBody struct {
	Error     string          `json:"error,omitempty"` // of the last command; "" while Redis answers
	Since     *time.Time      `json:"since,omitempty"` // the last change between the two
	Replicas  int             `json:"replicas"`
	Restoring bool            `json:"restoring,omitempty"` // lost counters are being put together again
	Keys      *keystore.State `json:"keys,omitempty"`
	Shipping  string          `json:"shippingError,omitempty"` // why ledger entries are not sent
	Shipped   int64           `json:"shipped,omitempty"`
}

// status tells how the shared state stands; nil where there is none.
func (s *sharedState) status() *sharedBody {
	s.mu.Lock()
	c, r := s.current, s.remote.Load()
	s.mu.Unlock()
	if c == nil || r == nil {
		return nil
	}
	h, state := c.conn.Health(), r.State()
	out := &sharedBody{Replicas: state.Replicas, Restoring: state.Restoring}
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
		out.Shipped = c.shipper.Shipped()
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

// Replicas implements limit.Remote.
func (s *sharedState) Replicas() int {
	r := s.remote.Load()
	if r == nil {
		return 1
	}
	return r.Replicas()
}
