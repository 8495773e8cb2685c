package shared_test

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/limit/shared"
	"github.com/weir-dev/weir/internal/redisconn"
	"github.com/weir-dev/weir/test/redistest"
)

func TestBudgetIsOneForAllReplicas(t *testing.T) {
	s := redistest.Start(t)
	conn := open(t, s.Addr)
	a, b := remote(t, conn, "a"), remote(t, conn, "b")
	c := budget(1000)
	if got := grants(t, a, c, 600, 600); got.Remaining != 400 || got.Reset <= 22*time.Hour || got.Reset > 23*time.Hour {
		t.Errorf("%+v", got)
	}
	if got := grants(t, b, c, 500, 0); got.Remaining != 400 || got.RetryAfter <= 22*time.Hour {
		t.Errorf("500 of the remaining 400: %+v", got)
	}
	grants(t, b, c, 400, 400)
	grants(t, a, c, 1, 0)
	adjust(t, a, c, -100, time.Time{})
	adjust(t, b, c, 30, time.Time{})
	if got := grants(t, b, c, 71, 0); got.Remaining != 70 {
		t.Errorf("%+v", got)
	}
	grants(t, b, c, 70, 70)
	next := c
	next.PeriodStart = c.PeriodStart.Add(24 * time.Hour)
	grants(t, a, next, 1000, 1000)
}

func TestBudgetIsExactBeyondFloats(t *testing.T) {
	s := redistest.Start(t)
	conn := open(t, s.Addr)
	a, b := remote(t, conn, "a"), remote(t, conn, "b")
	const billion = int64(1e18)
	c := budget(billion)
	adjust(t, a, c, billion/2-1, time.Time{})
	adjust(t, b, c, billion/2-1, time.Time{})
	if got := grants(t, a, c, 3, 0); got.Remaining != 2 {
		t.Errorf("%+v", got)
	}
	grants(t, a, c, 1, 1)
	grants(t, b, c, 1, 1)
	grants(t, b, c, 1, 0)
	adjust(t, b, c, -1, time.Time{})
	grants(t, a, c, 2, 0)
	grants(t, a, c, 1, 1)
}

func TestRestartedReplicaGoesOn(t *testing.T) {
	s := redistest.Start(t)
	conn := open(t, s.Addr)
	c := budget(100)
	grants(t, remote(t, conn, "a"), c, 60, 60)
	again := remote(t, conn, "a")
	grants(t, again, c, 41, 0)
	grants(t, again, c, 40, 40)
	adjust(t, again, c, -10, time.Time{})
	grants(t, again, c, 11, 0)
	grants(t, again, c, 10, 10)
}

func TestRestoreIsNotCountedTwice(t *testing.T) {
	s := redistest.Start(t)
	conn := open(t, s.Addr)
	for name, x := range map[string]struct {
		spent    int64 // in Redis
		restored []int64
		free     int64
	}{
		"Redis knows it":          {60, []int64{60}, 40},
		"Redis knows more":        {60, []int64{40}, 40},
		"the ledger knows more":   {60, []int64{75}, 25},
		"Redis knows nothing":     {0, []int64{30}, 70},
		"restored more than once": {0, []int64{30, 30, 20}, 70},
		"nothing":                 {0, []int64{0, -5}, 100},
	} {
		t.Run(name, func(t *testing.T) {
			c := budget(100)
			c.Key = name
			if x.spent > 0 {
				grants(t, remote(t, conn, "a"), c, x.spent, x.spent)
			}
			r := remote(t, conn, "a")
			for _, n := range x.restored {
				r.Restore(c, n)
			}
			other := remote(t, conn, "b")
			beat(t, r) // writes what was restored, before any request
			grants(t, other, c, x.free+1, 0)
			grants(t, r, c, x.free, x.free)
			grants(t, r, c, 1, 0)
		})
	}
}

func TestRestoreAfterTheFirstRequest(t *testing.T) {
	_, r := single(t)
	c := budget(100)
	grants(t, r, c, 20, 20)
	r.Restore(c, 50)
	grants(t, r, c, 51, 0)
	grants(t, r, c, 50, 50)
}

// TestRestoreDuringTheFirstCall comes while the call that takes the field over waits for its answer.
func TestRestoreDuringTheFirstCall(t *testing.T) {
	s, r := single(t)
	c := budget(100)
	var wg sync.WaitGroup
	// Holds the server for longer than Restore takes: the call has been given, its answer has not come.
	s.Pause()
	wg.Go(func() {
		if _, err := r.Acquire(context.Background(), c, 10, 10); err != nil {
			t.Error(err)
		}
	})
	until(t, "the call is under way", func() bool { return r.State().Shares == 1 })
	r.Restore(c, 60)
	s.Resume()
	wg.Wait()
	// Depending on which was first the ten are part of what was restored, or come on top: never less than 60.
	beat(t, r)
	if a := acquire(t, r, c, 101, 101); a.Remaining > 40 {
		t.Errorf("%d are left of 100 after 60 were restored", a.Remaining)
	}
}

func TestConcurrentCallsOfOneReplica(t *testing.T) {
	_, r := single(t)
	for _, c := range []limit.Counter{budget(500), concurrent(500), window(500, time.Hour), bucket(1, 500, 24*time.Hour)} {
		var wg sync.WaitGroup
		var mu sync.Mutex
		var sum int64
		for range 20 {
			wg.Go(func() {
				for range 50 {
					a, err := r.Acquire(context.Background(), c, 1, 1)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					sum += a.Granted
					back := a.Granted == 1 && sum%3 == 0
					mu.Unlock()
					if back {
						if err := r.Adjust(context.Background(), c, -1, a.At); err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						sum--
						mu.Unlock()
					}
				}
			})
		}
		wg.Wait()
		// How many were given back depends on who was first; what is left is the rest, to the unit.
		if sum < 1 || sum > 500 {
			t.Errorf("%s: %d granted and kept of 500", c.Key, sum)
		}
		if sum < 500 {
			grants(t, r, c, 500-sum, 500-sum)
		}
		grants(t, r, c, 1, 0)
	}
	if r.State().Restoring {
		t.Error("calls that overtook each other were taken for a loss")
	}
}

// held is a hook that holds the next command back, a pipeline not.
type held struct {
	next     atomic.Bool
	has      chan struct{}
	released chan struct{}
}

func (h *held) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *held) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (h *held) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if h.next.CompareAndSwap(true, false) {
			close(h.has)
			<-h.released
		}
		return next(ctx, cmd)
	}
}

// TestOvertakenCallHoldsNothing: the last request ends, which takes the field away, and a call from before that comes after
// it. What it puts back is not held, and the next beat says so.
func TestOvertakenCallHoldsNothing(t *testing.T) {
	for _, more := range []int64{1, 100} { // a request that is admitted, and one for which there is no room
		s := redistest.Start(t)
		conn := open(t, s.Addr)
		h := &held{has: make(chan struct{}), released: make(chan struct{})}
		conn.AddHook(h)
		a, b := remote(t, conn, "a"), remote(t, open(t, s.Addr), "b")
		beat(t, a, b)
		c := concurrent(20)
		grants(t, a, c, 10, 10)
		var late sync.WaitGroup
		h.next.Store(true)
		var got limit.Acquired
		var err error
		late.Go(func() { got, err = a.Acquire(context.Background(), c, more, more) })
		<-h.has
		adjust(t, a, c, -10, time.Time{})
		close(h.released)
		late.Wait()
		if err != nil {
			t.Fatal(err)
		}
		beat(t, a)
		if seen := grants(t, b, c, 21, 0); seen.Remaining != 20-got.Granted {
			t.Errorf("%d are left of 20 for the others where %d are held", seen.Remaining, got.Granted)
		}
	}
}

func TestConcurrentRequestsOfADeadReplicaComeFree(t *testing.T) {
	s := redistest.Start(t)
	conn := open(t, s.Addr)
	const tick = 10 * time.Millisecond
	dead, alive := remote(t, conn, "dead", withBeat(tick)), remote(t, conn, "alive", withBeat(tick))
	c := concurrent(10)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { alive.Run(ctx) })
	defer wg.Wait()
	defer cancel()

	grants(t, alive, c, 4, 4)
	until(t, "both are seen", func() bool { beat(t, dead); return alive.Replicas() == 2 })
	grants(t, dead, c, 6, 6) // and it is never heard of again
	until(t, "the requests of the dead replica are free", func() bool {
		a := acquire(t, alive, c, 6, 6)
		return a.Granted == 6
	})
	grants(t, alive, c, 1, 0) // its own are held on
	until(t, "the dead replica is gone", func() bool { return alive.Replicas() == 1 })
	cancel() // a beat under way would say what is held, beside what follows
	wg.Wait()
	adjust(t, alive, c, -10, time.Time{})
	grants(t, alive, c, 10, 10)
	adjust(t, alive, c, -10, time.Time{})
	if keys, err := conn.Keys(context.Background(), "test:limit:n*").Result(); len(keys) != 0 || err != nil {
		t.Errorf("of requests that have ended there are %q: %v", keys, err)
	}
}

// TestRefusedReplicaHoldsItsRequests asks in vain, for longer than a dead replica is known. That is no sign of life: its
// beats have to be.
func TestRefusedReplicaHoldsItsRequests(t *testing.T) {
	s := redistest.Start(t)
	conn := open(t, s.Addr)
	k := newClock()
	const tick = 10 * time.Second
	a, b := remote(t, conn, "a", withBeat(tick), withClock(k)), remote(t, conn, "b", withBeat(tick))
	c := concurrent(10)
	grants(t, a, c, 10, 10)
	for range 3 {
		for range 9 {
			// A part of the time after which a replica is taken for dead goes by, for it and for the store.
			k.add(tick)
			age(t, conn, "a", tick)
			grants(t, a, c, 1, 0)
			beat(t, a)
		}
		grants(t, b, c, 1, 0)
	}
	age(t, conn, "a", 10*tick) // without a beat
	grants(t, b, c, 1, 1)
}

// age lets what a replica said of its concurrent requests be older.
func age(t *testing.T, conn *redisconn.Conn, id string, by time.Duration) {
	t.Helper()
	ctx := context.Background()
	for _, key := range conn.Keys(ctx, "test:limit:n*").Val() {
		field := strings.Split(conn.HGet(ctx, key, id).Val(), ":")
		if len(field) != 4 {
			t.Fatalf("%s of %s is %q", id, key, field)
		}
		at, err := strconv.ParseInt(field[3], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		field[3] = strconv.FormatInt(at-by.Microseconds(), 10)
		if err := conn.HSet(ctx, key, id, strings.Join(field, ":")).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRestartedReplicaHoldsNoRequests(t *testing.T) {
	s := redistest.Start(t)
	conn := open(t, s.Addr)
	c := concurrent(10)
	grants(t, remote(t, conn, "a"), c, 10, 10)
	again := remote(t, conn, "a")
	grants(t, again, c, 10, 10)
	grants(t, again, c, 1, 0)
}

// TestClockPutBack starts a replica again on a machine whose clock is behind.
func TestClockPutBack(t *testing.T) {
	s := redistest.Start(t)
	conn := open(t, s.Addr)
	for _, c := range []limit.Counter{budget(100), concurrent(100)} {
		k := newClock()
		grants(t, remote(t, conn, "a", withClock(k)), c, 60, 60)
		k.add(-time.Hour)
		again := remote(t, conn, "a", withClock(k))
		adjust(t, again, c, 10, time.Time{})
		if c.Rule.Unit == limit.Concurrent {
			grants(t, again, c, 90, 90)
		} else {
			grants(t, again, c, 31, 0)
			grants(t, again, c, 30, 30)
		}
	}
}

func TestReplicasOfOneIDAreTold(t *testing.T) {
	s := redistest.Start(t)
	conn := open(t, s.Addr)
	old := remote(t, conn, "a")
	c := budget(100)
	grants(t, old, c, 10, 10)
	grants(t, remote(t, conn, "a"), c, 10, 10)
	// The older one takes the counter over again, with what both have spent.
	grants(t, old, c, 81, 0)
	grants(t, old, c, 80, 80)
}

func TestBadQuestions(t *testing.T) {
	_, r := single(t)
	ctx := context.Background()
	for name, f := range map[string]func() error{
		"no rule":    func() error { _, err := r.Acquire(ctx, limit.Counter{}, 1, 1); return err },
		"nothing":    func() error { _, err := r.Acquire(ctx, window(1, time.Hour), 0, 1); return err },
		"want < min": func() error { _, err := r.Acquire(ctx, window(1, time.Hour), 2, 1); return err },
		"adjust":     func() error { return r.Adjust(ctx, limit.Counter{}, 1, time.Time{}) },
		"no conn":    func() error { _, err := shared.New(shared.Options{Prefix: "p", ID: "a"}); return err },
		"no id":      func() error { _, err := shared.New(shared.Options{Conn: open(t, "h:1"), Prefix: "p"}); return err },
		"brace prefix": func() error {
			_, err := shared.New(shared.Options{Conn: open(t, "h:1"), Prefix: "{p}", ID: "a"})
			return err
		},
		"beat": func() error {
			_, err := shared.New(shared.Options{Conn: open(t, "h:1"), Prefix: "p", ID: "a", Beat: 1})
			return err
		},
	} {
		if f() == nil {
			t.Errorf("%s: no error", name)
		}
	}
	adjust(t, r, window(1, time.Hour), 0, time.Time{})
}
