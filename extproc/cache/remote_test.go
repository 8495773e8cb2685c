package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weir-dev/weir/internal/redisconn"
	"github.com/weir-dev/weir/test/redistest"
)

// replica is a Cache over a Redis.
func replica(t testing.TB, s *redistest.Server, id string, edit func(*redisconn.Config)) *Cache {
	t.Helper()
	return replicaWith(t, s, id, Options{}, edit)
}

func replicaWith(t testing.TB, s *redistest.Server, id string, o Options, edit func(*redisconn.Config)) *Cache {
	t.Helper()
	c := newCache(t, o)
	cfg := redisconn.Config{Addresses: []string{s.Addr}, Timeout: time.Second}
	if edit != nil {
		edit(&cfg)
	}
	conn, err := redisconn.Open(cfg, redisconn.Options{})
	if err != nil {
		t.Fatal(err)
	}
	rm := newRemote(c, conn, "weir:test", id)
	rm.grace = 200 * time.Millisecond // commands of these tests are faster, and nobody likes to wait
	c.share(rm)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { c.Run(ctx); close(done) }()
	t.Cleanup(func() {
		cancel()
		<-done
		_ = conn.Close()
	})
	until(t, "Redis is used", rm.up.Load)
	return c
}

func shared(edit func(*Policy)) *Policy {
	return policy(func(p *Policy) {
		p.Redis, p.MaxWait = true, patience
		if edit != nil {
			edit(p)
		}
	})
}

// settled waits until the filter can be asked.
func settled(t testing.TB, c *Cache, p *Policy) *filter {
	t.Helper()
	f := c.redis.Load().filter(p)
	until(t, "the filter is ready", func() bool {
		c.redis.Load().touch()
		_, asked := f.absent(key("anything"), c.redis.Load())
		return asked
	})
	return f
}

func TestRedisHasItForOthers(t *testing.T) {
	s := redistest.Start(t)
	one, two := replica(t, s, "1", nil), replica(t, s, "2", nil)
	for _, w := range []Write{WriteThrough, WriteBehind, WriteAside} {
		for _, scope := range []Scope{ScopeTenant, ScopeConsumer, ScopeShared} {
			p := shared(func(p *Policy) { p.ID, p.Write, p.Scope = "ns/"+w.String()+scope.String(), w, scope })
			a := ask(p, "q", w, scope)
			buy(t, one, a, "answer")
			switch w {
			case WriteThrough: // it is there when the caller has it
			case WriteBehind:
				until(t, "it is written", func() bool { return two.Get(context.Background(), a).Outcome == Hit })
			case WriteAside:
				get(t, two, a, Miss, "")
				get(t, one, a, Hit, "answer") // asked for again
				until(t, "it is written", func() bool { return two.Get(context.Background(), a).Outcome == Hit })
			}
			get(t, two, a, Hit, "answer")
			if l := get(t, two, a, Hit, "answer"); l.Tier != Memory {
				t.Errorf("%s: it is found in %s twice", w, l.Tier)
			}
			other := a
			other.Tenant, other.Consumer = "zeta", "zeta/bot"
			if got := two.Get(context.Background(), other).Outcome == Hit; got != (scope == ScopeShared) {
				t.Errorf("%s: another tenant gets it: %v", scope, got)
			}
		}
	}
}

// TestRedisRecordsAreChecked: what is under a key by mistake or malice is given to nobody.
func TestRedisRecordsAreChecked(t *testing.T) {
	s := redistest.Start(t)
	c := replica(t, s, "1", nil)
	ctx := context.Background()
	p := shared(func(p *Policy) { p.MemoryBytes = 0 })
	mine, theirs := ask(p, "q"), ask(p, "q")
	theirs.Tenant, theirs.Consumer = "zeta", "zeta/bot"
	buy(t, c, theirs, "secret")
	name := func(a Ask) string {
		return c.redis.Load().shard(a.Key[0]) + "e:" + nameOf(p.ID, p.Scope, a.Tenant, a.Key)
	}
	raw := c.redis.Load().conn.Get(ctx, name(theirs)).Val()
	if raw == "" {
		t.Fatal("nothing was written")
	}
	for what, bad := range map[string]string{"another's": raw, "cut": raw[:len(raw)/2], "damaged": raw[:40] + "x" + raw[41:], "empty": ""} {
		if err := c.redis.Load().conn.Set(ctx, name(mine), bad, 0).Err(); err != nil {
			t.Fatal(err)
		}
		if l := c.Get(ctx, mine); l.Outcome != Miss {
			t.Errorf("%s is given: %q", what, l.Entry.Body)
		}
	}
	get(t, c, theirs, Hit, "secret")
}

// TestOneFillOfManyReplicas: who asks while another replica buys waits for that, whatever the way to write is.
func TestOneFillOfManyReplicas(t *testing.T) {
	s := redistest.Start(t)
	var all []*Cache
	for i := range 3 {
		all = append(all, replica(t, s, fmt.Sprint(i), nil))
	}
	for _, c := range all {
		until(t, "all are seen", func() bool { return c.redis.Load().members.Load() == 3 })
	}
	for _, w := range []Write{WriteThrough, WriteBehind, WriteAside} {
		a := ask(shared(func(p *Policy) { p.Write = w }), "q", w)
		var fills, shares atomic.Int64
		began, goOn := make(chan struct{}), make(chan struct{})
		fill := func(ctx context.Context, w *Writer) error {
			if fills.Add(1) == 1 {
				close(began)
			}
			<-goOn
			return answers("answer")(ctx, w)
		}
		var wg sync.WaitGroup
		want := func(c *Cache) {
			for range 10 {
				wg.Go(func() {
					r := c.Do(context.Background(), a, fill)
					defer r.Close()
					if got, err := readAll(r); got != "answer" || err != nil {
						t.Errorf("%q, %v", got, err)
					}
					if r.Outcome() == Shared {
						shares.Add(1)
					}
				})
			}
		}
		want(all[0])
		<-began
		want(all[1])
		want(all[2])
		lock := all[0].redis.Load().shard(a.Key[0]) + "l:" + nameOf(a.Policy.ID, a.Policy.Scope, a.Tenant, a.Key)
		until(t, "the others wait", func() bool {
			return all[0].redis.Load().conn.HExists(context.Background(), lock, "waiting").Val()
		})
		close(goOn)
		wg.Wait()
		if fills.Load() != 1 || shares.Load() != 29 {
			t.Errorf("%s: %d fills, %d shared", w, fills.Load(), shares.Load())
		}
	}
}

// TestWaitEnds: a replica does not wait longer than it may, nor for one whose fill failed.
func TestWaitEnds(t *testing.T) {
	s := redistest.Start(t)
	one, two := replica(t, s, "1", nil), replica(t, s, "2", nil)
	for _, c := range []*Cache{one, two} {
		until(t, "both are seen", func() bool { return c.redis.Load().members.Load() == 2 })
	}
	began, goOn, ended := make(chan struct{}, 1), make(chan struct{}), make(chan error, 1)
	short := ask(shared(func(p *Policy) { p.MaxWait = 50 * time.Millisecond }), "q")
	r := one.Do(context.Background(), short, blocked(began, goOn, ended))
	<-began
	buy(t, two, short, "own")
	r.Close() // nobody is left, so that the fill ends
	<-ended

	long := ask(shared(nil), "other")
	r = one.Do(context.Background(), long, blocked(began, goOn, ended))
	<-began
	done := make(chan struct{})
	go func() { buy(t, two, long, "own"); close(done) }()
	r.Close()
	<-done
}

func TestPurgeReachesRedisAndOthers(t *testing.T) {
	k := key("tenant", 1)
	for name, sel := range map[string]Selector{
		"tenant": {Tenant: "acme"}, "model": {Model: "m"}, "tag": {Tag: "red:1"}, "policy": {Policy: "ns/p"},
		"both": {Tenant: "acme", Tag: "red:1"}, "key": {Key: &k}, "key of a tenant": {Key: &k, Tenant: "acme"},
	} {
		t.Run(name, func(t *testing.T) { purgeAndLook(t, sel) })
	}
}

// purgeAndLook buys some that are selected and some that are not, and purges.
func purgeAndLook(t *testing.T, sel Selector) {
	ctx := context.Background()
	s := redistest.Start(t)
	one, two := replica(t, s, "1", nil), replica(t, s, "2", nil)
	var gone, stay []Ask
	for i := range 20 {
		a := ask(shared(nil), "tenant", i)
		a.Tags = []string{"red:1"}
		b := Ask{Key: key("others", i), Policy: shared(func(p *Policy) { p.ID = "ns/other" }), Tenant: "zeta", Model: "n"}
		for _, x := range []Ask{a, b} {
			buy(t, one, x, "old")
			get(t, two, x, Hit, "old")
		}
		if stay = append(stay, b); sel.Key == nil || *sel.Key == a.Key {
			gone = append(gone, a)
		} else {
			stay = append(stay, a)
		}
	}
	if n, err := two.Purge(ctx, sel); err != nil || n != len(gone) {
		t.Errorf("%d purged, %v", n, err)
	}
	for _, c := range []*Cache{one, two} {
		for _, a := range gone {
			until(t, "it is purged", func() bool { return c.Get(ctx, a).Outcome == Miss })
		}
		for _, a := range stay {
			get(t, c, a, Hit, "old")
		}
	}
	// What is bought by who knows of it is kept.
	buy(t, one, gone[0], "new")
	get(t, two, gone[0], Hit, "new")
}

// TestShareChanges: Redis comes, goes and changes while answers are given.
func TestShareChanges(t *testing.T) {
	first, second := redistest.Start(t), redistest.Start(t)
	one, two := replica(t, first, "1", nil), replica(t, second, "2", nil)
	p := shared(func(p *Policy) { p.MemoryBytes = 0 })
	buy(t, one, ask(p, "q"), "x")
	get(t, two, ask(p, "q"), Miss, "")
	open := func(s *redistest.Server) *redisconn.Conn {
		conn, err := redisconn.Open(redisconn.Config{Addresses: []string{s.Addr}, Timeout: time.Second}, redisconn.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	two.Share(open(first), "weir:test", "2")
	until(t, "it is used", two.redis.Load().up.Load)
	get(t, two, ask(p, "q"), Hit, "x")
	two.Share(nil, "", "")
	get(t, two, ask(p, "q"), Miss, "")
	if n, err := two.Purge(context.Background(), Selector{Tenant: "acme"}); n != 0 || err != nil {
		t.Error(n, err)
	}
	two.Share(open(second), "weir:test", "2")
	until(t, "it is used", two.redis.Load().up.Load)
	buy(t, two, ask(p, "r"), "y")
	get(t, two, ask(p, "r"), Hit, "y")
}

// TestPurgeIsSaidAgain where Redis has lost it before others read it.
func TestPurgeIsSaidAgain(t *testing.T) {
	s := redistest.Start(t)
	ctx := context.Background()
	one := replica(t, s, "1", nil)
	if _, err := one.Purge(ctx, Selector{Tenant: "acme"}); err != nil {
		t.Fatal(err)
	}
	until(t, "it is read", func() bool { return one.purges.mark().epoch > 0 })
	s.Client().FlushAll(ctx)
	two := replica(t, s, "2", nil)
	until(t, "another hears of it", func() bool { return two.purges.mark().epoch > 0 })
}

// TestPurgeOutlivesItsRaces: a replica that hears late of a purge writes what was bought before; nobody reads it.
func TestPurgeOutlivesItsRaces(t *testing.T) {
	s := redistest.Start(t)
	ctx := context.Background()
	one, two := replica(t, s, "1", nil), replica(t, s, "2", nil)
	p := shared(func(p *Policy) { p.MemoryBytes = 0 })
	a := ask(p, "q")
	buy(t, one, a, "old")
	old := one.redis.Load().get(ctx, &a)
	if old == nil {
		t.Fatal("it is not in Redis")
	}
	if _, err := two.Purge(ctx, Selector{Tenant: "acme"}); err != nil {
		t.Fatal(err)
	}
	until(t, "two has heard of it", func() bool { return two.purges.mark().epoch > old.epoch })
	deaf := replica(t, s, "deaf", nil)
	until(t, "a new replica has heard of it", func() bool { return deaf.purges.mark().epoch > old.epoch })
	*deaf.purges = purges{} // it writes as if it had not
	deaf.redis.Load().put(ctx, []*record{old}, p)
	if n := s.Client().Exists(ctx, deaf.redis.Load().shard(a.Key[0])+"e:"+nameOf(p.ID, p.Scope, a.Tenant, a.Key)).Val(); n != 1 {
		t.Fatal("it was not written: nothing is tested")
	}
	get(t, two, a, Miss, "")
	three := replica(t, s, "3", nil)
	get(t, three, a, Miss, "")
}

// TestRedisFails: killed, paused, full, flushed. Answers stay right; one command waits for its time-out, and then none.
func TestRedisFails(t *testing.T) {
	s := redistest.Start(t, "--maxmemory-policy", "noeviction")
	ctx := context.Background()
	c := replica(t, s, "1", func(cfg *redisconn.Config) {
		cfg.Timeout = 100 * time.Millisecond
	})
	p := shared(func(p *Policy) { p.Bloom = &Bloom{Keys: 1000, FalsePositives: 0.01} })
	c.Use([]*Policy{p})
	n := 0
	round := func() {
		for range 20 {
			n++
			a := ask(p, n)
			get(t, c, a, Miss, "")
			buy(t, c, a, fmt.Sprint("answer ", n))
			get(t, c, a, Hit, fmt.Sprint("answer ", n))
		}
	}
	back := func() { until(t, "Redis is used again", c.redis.Load().up.Load) }
	round()

	s.Pause()
	before := c.redis.Load().conn.Health().Failures
	round()
	if failures := c.redis.Load().conn.Health().Failures - before; failures > 4 {
		t.Errorf("20 requests waited for a Redis that does not answer %d times", failures)
	}
	s.Resume()
	back()
	round()

	s.Kill()
	round()
	s.Restart()
	back()
	round()

	client := s.Client()
	if err := client.ConfigSet(ctx, "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	round()
	if !c.redis.Load().up.Load() {
		t.Error("a full Redis is not read any more")
	}
	if err := client.ConfigSet(ctx, "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	until(t, "it is written again", func() bool {
		n++
		a := ask(p, n)
		buy(t, c, a, "x")
		return client.Exists(ctx, c.redis.Load().shard(a.Key[0])+"e:"+nameOf(p.ID, p.Scope, a.Tenant, a.Key)).Val() == 1
	})

	client.FlushAll(ctx)
	round()
	s.Client().ConfigResetStat(ctx)
}

// TestWritesAreRepeated: what Redis does not take for a while is there soon after it is back, unless it was purged meanwhile.
func TestWritesAreRepeated(t *testing.T) {
	ctx := context.Background()
	for name, trouble := range map[string]struct{ begin, end func(*redistest.Server) }{
		"silent": {(*redistest.Server).Pause, (*redistest.Server).Resume},
		"dead":   {(*redistest.Server).Kill, (*redistest.Server).Restart},
		"full": {
			func(s *redistest.Server) { s.Client().ConfigSet(ctx, "maxmemory", "1") },
			func(s *redistest.Server) { s.Client().ConfigSet(ctx, "maxmemory", "0") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t)
			short := func(c *redisconn.Config) { c.Timeout = 200 * time.Millisecond }
			one := replica(t, s, "1", short)
			p := shared(func(p *Policy) { p.MemoryBytes = 0 })
			buy(t, one, ask(p, "before"), "x")
			trouble.begin(s)
			var asks []Ask
			for i := range 100 {
				asks = append(asks, ask(p, i))
				buy(t, one, asks[i], "x")
			}
			old := ask(p, "old")
			old.Tags = []string{"old"}
			buy(t, one, old, "x")
			_, _ = one.Purge(ctx, Selector{Tag: "old"}) // Redis cannot hear of it; the replica itself does
			if n := one.queue.depth(); n != 101 {
				t.Errorf("%d answers wait", n)
			}
			trouble.end(s)
			two := replica(t, s, "2", nil)
			for _, a := range asks {
				until(t, "it is in Redis", func() bool { return two.Get(ctx, a).Outcome == Hit })
			}
			until(t, "nothing waits", func() bool { return one.queue.depth() == 0 })
			get(t, two, old, Miss, "")
			if lost := testutil.ToFloat64(one.metrics.dropped.WithLabelValues(p.ID, "redis")); lost != 0 {
				t.Errorf("%v answers were dropped", lost)
			}
			if n := testutil.ToFloat64(one.metrics.repeats.WithLabelValues(p.ID)); n != 101 {
				t.Errorf("%v writes were to be repeated", n)
			}
		})
	}
}

// TestOneLateAnswer: a command that Redis was late for keeps nobody from Redis for longer than it takes to ask it.
func TestOneLateAnswer(t *testing.T) {
	s := redistest.Start(t)
	one := replica(t, s, "1", nil)
	rm := one.redis.Load()
	until(t, "it is used", rm.up.Load)
	before := rm.beaten.Load()
	rm.failed("get", context.DeadlineExceeded)
	until(t, "it is used again", rm.up.Load)
	if after := rm.beaten.Load(); after == before {
		t.Error("it is used without having been asked")
	}
}

// TestNothingOfOthersWhileRedisFails: two replicas, few keys, tenants mixed, Redis disturbed all the time.
func TestNothingOfOthersWhileRedisFails(t *testing.T) {
	s := redistest.Start(t)
	var caches []*Cache
	for i := range 2 {
		caches = append(caches, replica(t, s, fmt.Sprint(i), func(cfg *redisconn.Config) {
			cfg.Timeout = 50 * time.Millisecond
		}))
	}
	var policies []*Policy
	for i := range 6 {
		policies = append(policies, shared(func(p *Policy) {
			p.ID, p.Scope, p.Write = fmt.Sprint("ns/", i), Scope(i%3), Write(i%3)
			p.MaxWait = 20 * time.Millisecond
			if i%2 == 0 {
				p.Bloom = &Bloom{Keys: 1000, FalsePositives: 0.01}
			} else {
				p.MemoryBytes = 8 << 10 // most is read from Redis
			}
			if p.Write == WriteAside {
				p.MemoryBytes = 8 << 10
			}
		}))
	}
	for _, c := range caches {
		c.Use(policies)
	}
	client := s.Client()
	var hits, redisHits atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 8 {
		rnd := rand.New(rand.NewPCG(uint64(w), 5))
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, p := caches[rnd.IntN(2)], policies[rnd.IntN(6)]
				tenant := fmt.Sprint("t", rnd.IntN(3))
				a := Ask{Key: key(rnd.IntN(40)), Policy: p, Tenant: tenant, Consumer: fmt.Sprint(tenant, "/c", rnd.IntN(2)), Model: "m"}
				mine := strings.Repeat(fmt.Sprintf("%s %s;", p.ID, a.owner()), 50)
				l := c.Get(context.Background(), a)
				if l.Entry != nil {
					hits.Add(1)
					if l.Tier == Redis {
						redisHits.Add(1)
					}
					if got := string(l.Entry.Body); got != mine {
						t.Errorf("%q got what belongs to %q", mine, got)
					}
					continue
				}
				r := c.Do(context.Background(), a, func(_ context.Context, w *Writer) error {
					if err := w.Begin(okHead); err != nil {
						return err
					}
					_, err := io.WriteString(w, mine)
					return err
				})
				if got, err := readAll(r); got != mine || err != nil {
					t.Errorf("%q bought %q, %v", mine, got, err)
				}
				r.Close()
			}
		})
	}
	more := func() {
		was := hits.Load()
		until(t, "there are hits", func() bool { return hits.Load() > was+200 })
	}
	wasRedis := func() {
		was := redisHits.Load()
		until(t, "there are hits in Redis", func() bool { return redisHits.Load() > was+20 })
	}
	more()
	wasRedis()
	s.Pause()
	more()
	s.Resume()
	wasRedis()
	client.FlushAll(context.Background())
	more()
	s.Kill()
	more()
	s.Restart()
	wasRedis()
	close(stop)
	wg.Wait()
}

// TestCloseFlushes what waits to be written.
func TestCloseFlushes(t *testing.T) {
	s := redistest.Start(t)
	c := replica(t, s, "1", nil)
	p := shared(func(p *Policy) { p.Write = WriteBehind })
	for i := range 300 {
		buy(t, c, ask(p, i), "x")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if n := testutil.ToFloat64(c.metrics.written.WithLabelValues(p.ID)); n != 300 {
		t.Errorf("%v of 300 are written", n)
	}
	late := ask(p, "late")
	buy(t, c, late, "x")
	if n := testutil.ToFloat64(c.metrics.dropped.WithLabelValues(p.ID, "queue")); n != 1 {
		t.Errorf("%v dropped after the end", n)
	}
}

// TestEverythingInRedisEnds: no key lives for ever.
func TestEverythingInRedisEnds(t *testing.T) {
	s := redistest.Start(t)
	ctx := context.Background()
	c := replica(t, s, "1", nil)
	p := shared(func(p *Policy) { p.Bloom, p.Tags = &Bloom{Keys: 1000, FalsePositives: 0.01}, []string{"red"} })
	settled(t, c, p)
	buy(t, c, ask(p, "q"), "x")
	if _, err := c.Purge(ctx, Selector{Tag: "blue"}); err != nil {
		t.Fatal(err)
	}
	client := s.Client()
	keys := client.Keys(ctx, "*").Val()
	if len(keys) < 9 {
		t.Errorf("only %d keys: %q", len(keys), keys)
	}
	for _, k := range keys {
		if ttl := client.PTTL(ctx, k).Val(); ttl <= 0 {
			t.Errorf("%s lives for ever", k)
		}
		if !strings.HasPrefix(k, "weir:test:cache:{") {
			t.Errorf("%s has not the prefix", k)
		}
	}
}

// TestRefusalsAreToldNowAndThen: a key of the wrong kind is refused each time, and the log does not fill with that.
func TestRefusalsAreToldNowAndThen(t *testing.T) {
	var told atomic.Int64
	clk := &clock{}
	c := newCache(t, Options{Now: clk.now, Log: slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		told.Add(1)
		return len(p), nil
	}), nil))})
	r := &remote{c: c}
	refused := wrongType{errors.New("WRONGTYPE Operation against a key holding the wrong kind of value")}
	for range 100 {
		r.failed("filter", refused)
		r.failed("get", refused)
	}
	if n := told.Load(); n != 1 {
		t.Errorf("200 refusals at once are %d lines, want 1", n)
	}
	clk.advance(tellEvery)
	r.failed("filter", refused)
	if n := told.Load(); n != 2 {
		t.Errorf("after %s there are %d lines, want 2", tellEvery, n)
	}
	if n := testutil.ToFloat64(c.metrics.errors.WithLabelValues("filter")); n != 101 {
		t.Errorf("%v refusals counted, want 101", n)
	}
}

// wrongType is an answer of Redis (redis.Error).
type wrongType struct{ error }

func (wrongType) RedisError() {}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
