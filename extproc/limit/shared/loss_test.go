package shared_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/limit/shared"
	"github.com/weir-dev/weir/internal/redisconn"
	"github.com/weir-dev/weir/test/redistest"
)

// TestLostBudgetsHeal takes everything from Redis, in every way there is, and expects budgets and concurrent requests as
// before.
func TestLostBudgetsHeal(t *testing.T) {
	for name, lose := range map[string]func(*redistest.Server, *redisconn.Conn){
		"FLUSHALL": func(_ *redistest.Server, c *redisconn.Conn) { flush(t, c) },
		"kill -9":  func(s *redistest.Server, _ *redisconn.Conn) { s.Kill(); s.Restart() },
		"restored older": func(_ *redistest.Server, c *redisconn.Conn) {
			// What a failover does: the store is as it was some writes ago.
			ctx := context.Background()
			for _, key := range c.Keys(ctx, "test:limit:c*").Val() {
				for field := range c.HGetAll(ctx, key).Val() {
					if err := c.HSet(ctx, key, field, "1:5:0:1").Err(); err != nil {
						t.Error(err)
					}
				}
			}
			if n, err := c.Del(ctx, "test:limit:{replicas}:epoch").Result(); n != 1 || err != nil {
				t.Errorf("%d epochs were deleted: %v", n, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := redistest.Start(t)
			conn := open(t, s.Addr)
			k := newClock()
			a, b, idle := remote(t, conn, "a", withClock(k)), remote(t, conn, "b", withClock(k)), remote(t, conn, "idle", withClock(k))
			beat(t, a, b, idle)
			c, n := budget(1000), concurrent(10)
			grants(t, a, c, 300, 300)
			grants(t, b, c, 500, 500)
			adjust(t, b, c, -100, time.Time{})
			grants(t, a, n, 3, 3)
			grants(t, b, n, 4, 4)

			lose(s, conn)
			// The next beats: the first to beat makes a new epoch, the others see it.
			beat(t, a, b, idle)
			for _, r := range []*shared.Remote{a, b, idle} {
				if _, err := r.Acquire(context.Background(), c, 1, 1); !errors.Is(err, shared.ErrRestoring) {
					t.Fatalf("while counters are put together again: %v", err)
				}
				if err := r.Ping(context.Background()); !errors.Is(err, shared.ErrRestoring) {
					t.Fatalf("ping: %v", err)
				}
			}
			k.add(time.Minute)
			beat(t, a, b, idle)
			grants(t, idle, c, 301, 0)
			grants(t, idle, c, 300, 300)
			grants(t, a, c, 1, 0)
			grants(t, idle, n, 4, 0)
			grants(t, idle, n, 3, 3)
		})
	}
}

// TestEveryLossIsSeen loses everything again and again, many times within one millisecond. The replica holds nothing, so
// only the registry tells it.
func TestEveryLossIsSeen(t *testing.T) {
	s := redistest.Start(t)
	conn := open(t, s.Addr)
	k := newClock()
	r := remote(t, conn, "idle", withClock(k))
	beat(t, r)
	for i := range 200 {
		flush(t, conn)
		beat(t, r)
		if _, err := r.Acquire(context.Background(), budget(10), 1, 1); !errors.Is(err, shared.ErrRestoring) {
			t.Fatalf("loss %d was not seen: %v", i+1, err)
		}
		k.add(time.Minute)
	}
}

// TestLossIsSeenByTheNextRequest comes before any beat.
func TestLossIsSeenByTheNextRequest(t *testing.T) {
	s := redistest.Start(t)
	conn := open(t, s.Addr)
	k := newClock()
	a, b := remote(t, conn, "a", withClock(k)), remote(t, conn, "b", withClock(k))
	beat(t, a, b)
	c := budget(1000)
	grants(t, a, c, 300, 300)
	grants(t, b, c, 700, 700)
	// The registry stays: a shard of a cluster was lost, not the one of the registry.
	if n, err := conn.Del(context.Background(), conn.Keys(context.Background(), "test:limit:c*").Val()...).Result(); n != 1 || err != nil {
		t.Fatalf("%d counters were deleted: %v", n, err)
	}
	if _, err := a.Acquire(context.Background(), c, 1, 1); !errors.Is(err, shared.ErrRestoring) {
		t.Fatalf("the loss was not seen: %v", err)
	}
	beat(t, a) // tells the others by a new epoch
	beat(t, b)
	if !b.State().Restoring {
		t.Error("the other replica does not know")
	}
	k.add(time.Minute)
	beat(t, a, b)
	grants(t, a, c, 1, 0)
	if got := grants(t, b, c, 1, 0); got.Remaining != 0 {
		t.Errorf("%+v", got)
	}
}

func TestFlushedWindowsGrantOneMoreLimit(t *testing.T) {
	s := redistest.Start(t)
	conn := open(t, s.Addr)
	r := remote(t, conn, "a")
	for _, c := range []limit.Counter{window(50, time.Hour), bucket(1, 50, 24*time.Hour)} {
		grants(t, r, c, 50, 50)
		flush(t, conn)
		grants(t, r, c, 50, 50)
		grants(t, r, c, 1, 0)
	}
}

// TestUnknownOutcomesHeal pauses Redis while it is asked: it does what it was asked after nobody waits any more.
func TestUnknownOutcomesHeal(t *testing.T) {
	s := redistest.Start(t)
	conn := openConfig(t, redisconn.Config{Addresses: []string{s.Addr}, Timeout: 2 * time.Second})
	k := newClock()
	r := remote(t, conn, "a", withClock(k))
	beat(t, r)
	c, n := budget(1000), concurrent(1000)
	grants(t, r, c, 100, 100)
	grants(t, r, n, 100, 100)

	s.Pause()
	short := func() context.Context {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	for _, c := range []limit.Counter{c, n} {
		if _, err := r.Acquire(short(), c, 200, 200); err == nil {
			t.Fatal("a paused server granted")
		}
		if err := r.Adjust(short(), c, -50, time.Time{}); err == nil {
			t.Fatal("a paused server adjusted")
		}
		if err := r.Adjust(short(), c, 7, time.Time{}); err == nil {
			t.Fatal("a paused server adjusted")
		}
	}
	s.Resume()
	// 57 are out, whatever the server did of it all.
	until(t, "the server answers", func() bool { return r.Ping(context.Background()) == nil })
	for _, c := range []limit.Counter{c, n} {
		until(t, "the counter is right again: "+c.Key, func() bool {
			beat(t, r)
			a, err := r.Acquire(context.Background(), c, 1001, 1001)
			return err == nil && a.Remaining == 1000-57
		})
		grants(t, r, c, 944, 0)
		grants(t, r, c, 943, 943)
	}
}

// TestDebtsBeforeTheFirstAnswer are of a replica that has started again and finds Redis not answering.
func TestDebtsBeforeTheFirstAnswer(t *testing.T) {
	s := redistest.Start(t)
	conn := open(t, s.Addr)
	c := budget(1000)
	grants(t, remote(t, conn, "a"), c, 100, 100)
	again := remote(t, openConfig(t, redisconn.Config{Addresses: []string{s.Addr}, Timeout: 2 * time.Second}), "a")
	s.Pause()
	for _, delta := range []int64{30, 7, -7} {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		if err := again.Adjust(ctx, c, delta, time.Time{}); err == nil {
			t.Fatal("a paused server adjusted")
		}
		cancel()
	}
	s.Resume()
	until(t, "the debt is counted", func() bool {
		a, err := again.Acquire(context.Background(), c, 1001, 1001)
		_ = again.Ping(context.Background())
		return err == nil && a.Remaining == 1000-130
	})
	beat(t, again)
	if got := grants(t, remote(t, conn, "b"), c, 1001, 0); got.Remaining != 1000-130 {
		t.Errorf("another replica sees %+v", got)
	}
}

func TestDeadServerIsAnError(t *testing.T) {
	s := redistest.Start(t)
	conn := open(t, s.Addr)
	r := remote(t, conn, "a")
	beat(t, r)
	all := []limit.Counter{window(9, time.Hour), bucket(9, 9, time.Hour), budget(9), concurrent(9)}
	for _, c := range all {
		grants(t, r, c, 9, 9)
	}
	s.Kill()
	for _, c := range all {
		if _, err := r.Acquire(context.Background(), c, 1, 1); err == nil {
			t.Errorf("%s: a dead server granted", c.Key)
		}
		if err := r.Adjust(context.Background(), c, -1, time.Now()); err == nil {
			t.Errorf("%s: a dead server adjusted", c.Key)
		}
	}
	if r.Ping(context.Background()) == nil {
		t.Error("a dead server was pinged")
	}
	if r.Replicas() != 1 {
		t.Errorf("%d replicas", r.Replicas())
	}
	if conn.Health().Err == nil {
		t.Error("the connection is healthy")
	}
}
