package shared_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/limit/shared"
	"github.com/weir-dev/weir/internal/redisconn"
	"github.com/weir-dev/weir/test/redistest"
)

// patience bounds waits; only what is broken takes this long.
const patience = 30 * time.Second

// open makes a connection with a timeout that a busy machine does not reach.
func open(t testing.TB, addrs ...string) *redisconn.Conn {
	t.Helper()
	return openConfig(t, redisconn.Config{Addresses: addrs, Timeout: patience})
}

func openConfig(t testing.TB, cfg redisconn.Config) *redisconn.Conn {
	t.Helper()
	conn, err := redisconn.Open(cfg, redisconn.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// clock is a replica's clock that tests put forward.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Now()} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func remote(t testing.TB, conn *redisconn.Conn, id string, change ...func(*shared.Options)) *shared.Remote {
	t.Helper()
	o := shared.Options{Conn: conn, Prefix: "test", ID: id}
	for _, c := range change {
		c(&o)
	}
	r, err := shared.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func withClock(c *clock) func(*shared.Options) { return func(o *shared.Options) { o.Now = c.now } }

func withBeat(d time.Duration) func(*shared.Options) { return func(o *shared.Options) { o.Beat = d } }

// single starts a server and one replica.
func single(t testing.TB) (*redistest.Server, *shared.Remote) {
	t.Helper()
	s := redistest.Start(t)
	return s, remote(t, open(t, s.Addr), "a")
}

func window(n int64, length time.Duration) limit.Counter {
	return limit.Counter{Rule: &limit.Rule{ID: "w", Limit: n, Window: length}, Key: fmt.Sprintf("w|%v", length)}
}

func bucket(n, burst int64, length time.Duration) limit.Counter {
	return limit.Counter{
		Rule: &limit.Rule{ID: "b", Algorithm: limit.TokenBucket, Limit: n, Burst: burst, Window: length}, Key: fmt.Sprintf("b|%v", length),
	}
}

func budget(n int64) limit.Counter {
	from := time.Now().Add(-time.Hour)
	return limit.Counter{
		Rule: &limit.Rule{ID: "c", Algorithm: limit.Calendar, Unit: limit.Cost, Limit: n}, Key: "c",
		PeriodStart: time.Unix(1_700_000_000, 0), PeriodEnd: from.Add(24 * time.Hour),
	}
}

func concurrent(n int64) limit.Counter {
	return limit.Counter{Rule: &limit.Rule{ID: "n", Unit: limit.Concurrent, Limit: n}, Key: "n"}
}

// acquire takes, and fails the test on an error.
func acquire(t testing.TB, r *shared.Remote, c limit.Counter, least, want int64) limit.Acquired {
	t.Helper()
	a, err := r.Acquire(context.Background(), c, least, want)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func grants(t testing.TB, r *shared.Remote, c limit.Counter, n, want int64) limit.Acquired {
	t.Helper()
	a := acquire(t, r, c, n, n)
	if a.Granted != want {
		t.Fatalf("%d units were granted of %d, not %d: %+v", a.Granted, n, want, a)
	}
	return a
}

func adjust(t testing.TB, r *shared.Remote, c limit.Counter, delta int64, at time.Time) {
	t.Helper()
	if err := r.Adjust(context.Background(), c, delta, at); err != nil {
		t.Fatal(err)
	}
}

// flush takes everything from Redis.
func flush(t testing.TB, c *redisconn.Conn) {
	t.Helper()
	if err := c.FlushAll(context.Background()).Err(); err != nil {
		t.Fatal(err)
	}
}

// until waits until f is true.
func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
		time.Sleep(2 * time.Millisecond) // between two looks
	}
}

func beat(t testing.TB, rs ...*shared.Remote) {
	t.Helper()
	for _, r := range rs {
		if err := r.Ping(context.Background()); err != nil && err != shared.ErrRestoring {
			t.Fatal(err)
		}
	}
}
