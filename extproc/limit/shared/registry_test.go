package shared_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/limit/shared"
	"github.com/weir-dev/weir/internal/redisconn"
	"github.com/weir-dev/weir/test/redistest"
)

func TestReplicasComeAndGo(t *testing.T) {
	s := redistest.Start(t)
	conn := open(t, s.Addr)
	const tick = 10 * time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	first := remote(t, conn, "r0", withBeat(tick))
	if first.Replicas() != 1 {
		t.Errorf("%d replicas before the first beat", first.Replicas())
	}
	wg.Go(func() { first.Run(ctx) })
	leaves, leave := context.WithCancel(ctx)
	for i := range 7 {
		r := remote(t, conn, fmt.Sprintf("r%d", i+1), withBeat(tick))
		wg.Go(func() { r.Run(leaves) })
	}
	until(t, "8 are seen", func() bool { return first.Replicas() == 8 })
	leave()
	until(t, "7 have left", func() bool { return first.Replicas() == 1 })
	other := remote(t, conn, "x", func(o *shared.Options) { o.Prefix = "another" })
	beat(t, other)
	if other.Replicas() != 1 {
		t.Error("another prefix has replicas in common")
	}
}

func TestFairShareByReplicas(t *testing.T) {
	s := redistest.Start(t)
	conn := open(t, s.Addr)
	var last *shared.Remote
	for i := range 5 {
		last = remote(t, conn, fmt.Sprintf("r%d", i))
		beat(t, last)
	}
	for _, c := range []limit.Counter{window(1000, time.Hour), bucket(1, 1000, time.Hour), budget(1000), concurrent(1000)} {
		if a := acquire(t, last, c, 1, 1000); a.Granted != 100 {
			t.Errorf("%s: one of 5 replicas got %d of 1000 at once, not 100", c.Key, a.Granted)
		}
	}
}

// TestKeysExpire counts what many subjects leave behind.
func TestKeysExpire(t *testing.T) {
	s := redistest.Start(t)
	conn := open(t, s.Addr)
	ctx := context.Background()
	const tick = 10 * time.Millisecond
	r := remote(t, conn, "a", withBeat(tick))
	const subjects = 300
	for i := range subjects {
		for _, c := range []limit.Counter{window(10, 20*time.Millisecond), bucket(10, 10, 20*time.Millisecond), concurrent(10)} {
			c.Key += fmt.Sprintf("|subject %d", i)
			grants(t, r, c, 5, 5)
		}
	}
	until(t, "all keys have expired", func() bool { return conn.DBSize(ctx).Val() == 0 })
	if n, want := expired(t, conn), int64(3*subjects); n < want {
		t.Fatalf("%d keys have expired of %d", n, want)
	}

	// Those of budgets last a day longer than the period, and not for ever.
	c := budget(10)
	grants(t, r, c, 5, 5)
	beat(t, r) // says again what requests are held
	longest := time.Duration(0)
	for _, key := range conn.Keys(ctx, "*").Val() {
		const never = -1 // and less if it has expired meanwhile
		ttl, err := conn.PTTL(ctx, key).Result()
		if err != nil || ttl == never || ttl > 48*time.Hour {
			t.Errorf("%s expires in %v, %v", key, ttl, err)
		}
		longest = max(longest, ttl)
	}
	if longest < 24*time.Hour {
		t.Errorf("the budget expires in %v", longest)
	}
}

// expired is how many keys the server has let expire.
func expired(t *testing.T, c *redisconn.Conn) (n int64) {
	t.Helper()
	info, err := c.InfoMap(context.Background(), "stats").Result()
	if err == nil {
		n, err = strconv.ParseInt(info["Stats"]["expired_keys"], 10, 64)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestSharesAreForgotten(t *testing.T) {
	s := redistest.Start(t)
	k := newClock()
	r := remote(t, open(t, s.Addr), "a", withClock(k))
	for i := range 50 {
		c, n := budget(10), concurrent(10)
		c.Key += fmt.Sprint(i)
		n.Key += fmt.Sprint(i)
		grants(t, r, c, 5, 5)
		grants(t, r, n, 1, 1)
		adjust(t, r, n, -1, time.Time{})
	}
	beat(t, r)
	if n := r.State().Shares; n != 100 {
		t.Fatalf("%d shares, not 100", n)
	}
	k.add(time.Minute)
	beat(t, r)
	if n := r.State().Shares; n != 50 {
		t.Errorf("%d shares are known a minute later, not 50 budgets", n)
	}
	k.add(72 * time.Hour)
	beat(t, r)
	if n := r.State().Shares; n != 0 {
		t.Errorf("%d shares are known long after their periods", n)
	}
}

// TestOneCommandPerCall counts the commands that Redis processes.
func TestOneCommandPerCall(t *testing.T) {
	s := redistest.Start(t)
	conn := open(t, s.Addr)
	ctx := context.Background()
	r := remote(t, conn, "a")
	all := []limit.Counter{window(1000, time.Hour), bucket(1000, 1000, time.Hour), budget(1000), concurrent(1000)}
	for _, c := range all {
		grants(t, r, c, 1, 1) // the server learns the scripts
	}
	evals := func() (n int64) {
		stats := conn.InfoMap(ctx, "commandstats").Val()["Commandstats"]
		for _, name := range []string{"cmdstat_eval", "cmdstat_evalsha"} {
			var calls int64
			_, _ = fmt.Sscanf(stats[name], "calls=%d", &calls)
			n += calls
		}
		return n
	}
	before := evals()
	for _, c := range all {
		for range 10 {
			grants(t, r, c, 1, 1)
		}
	}
	if n := evals() - before; n != 40 {
		t.Errorf("40 calls made %d commands", n)
	}
	conn.ScriptFlush(ctx)
	for _, c := range all {
		grants(t, r, c, 1, 1)
		adjust(t, r, c, -1, time.Now())
	}
	conn.ScriptFlush(ctx)
	for _, c := range all {
		adjust(t, r, c, -1, time.Now())
		grants(t, r, c, 1, 1)
	}
}

func TestKeysShowNoNames(t *testing.T) {
	s := redistest.Start(t)
	conn := open(t, s.Addr)
	r := remote(t, conn, "a")
	c := window(10, time.Hour)
	c.Key = "LimitPolicy/team-a/p/l|alice@example.com\x00 {x}"
	grants(t, r, c, 1, 1)
	other := c
	other.Key += "y"
	grants(t, r, other, 10, 10)
	keys := conn.Keys(context.Background(), "*").Val()
	if len(keys) != 2 {
		t.Fatalf("two counters have the keys %q", keys)
	}
	for _, key := range keys {
		if len(key) != len("test:limit:w:{")+24+1 {
			t.Errorf("the key %q has another length", key)
		}
	}
}
