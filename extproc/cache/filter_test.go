package cache

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/test/redistest"
)

func filtered(keys int64, rate float64) *Policy {
	return shared(func(p *Policy) { p.MemoryBytes, p.Bloom = 0, &Bloom{Keys: keys, FalsePositives: rate} })
}

// TestPenetration asks for what was never kept: Redis is asked for no more than the filter lets through.
func TestPenetration(t *testing.T) {
	s := redistest.Start(t)
	ctx := context.Background()
	c := replica(t, s, "1", nil)
	const keys, rate, asked = 2000, 0.02, 20_000
	p := filtered(keys, rate)
	f := settled(t, c, p)
	records := make([]*record, keys)
	for i := range records {
		a := ask(p, "kept", i)
		records[i] = &record{key: a.Key, policy: p.ID, owner: a.owner(), ttl: time.Hour, entry: &Entry{Head: okHead, Body: []byte("x"), Tenant: "acme", Stored: time.Now()}}
	}
	c.redis.Load().put(ctx, records, p)
	for i := range records {
		get(t, c, ask(p, "kept", i), Hit, "x")
	}
	questions := 0
	for i := range asked {
		a := ask(p, "never", i)
		if _, is := f.absent(a.Key, c.redis.Load()); is {
			questions++
		}
		get(t, c, a, Miss, "")
	}
	no, wrong := testutil.ToFloat64(f.answers.no), testutil.ToFloat64(f.answers.wrong)
	t.Logf("%d questions after what is not there: the filter answered %v, %v got through; %.4f of them for %v configured", asked, no, wrong, wrong/(no+wrong), rate)
	if questions < asked/2 {
		t.Fatalf("the filter could be asked only %d times of %d", questions, asked)
	}
	if got := wrong / (no + wrong); got > 1.5*rate || got < rate/3 {
		t.Errorf("the false positive rate is %.4f, not %v", got, rate)
	}
}

// TestNoFalseNegative: whatever happens to replicas and Redis, what Redis has is found.
func TestNoFalseNegative(t *testing.T) {
	s := redistest.Start(t)
	ctx := context.Background()
	p := filtered(1000, 0.01)
	one := replica(t, s, "1", nil)
	settled(t, one, p)
	n := 0
	var kept []Ask
	write := func(c *Cache) {
		n++
		a := ask(p, n)
		buy(t, c, a, "x")
		kept = append(kept, a)
	}
	for range 100 {
		write(one)
		get(t, one, kept[len(kept)-1], Hit, "x")
	}
	// One that comes later.
	two := replica(t, s, "2", nil)
	settled(t, two, p)
	for _, a := range kept {
		get(t, two, a, Hit, "x")
	}
	// Each finds what the other has written, at once.
	for i := range 40 {
		from, to := one, two
		if i%2 == 1 {
			from, to = two, one
		}
		write(from)
		get(t, to, kept[len(kept)-1], Hit, "x")
	}
	// The filter is lost, whole or in parts; the entries are not.
	for _, part := range []string{"state", "bits", "recent"} {
		f := one.redis.Load().filter(p)
		if err := s.Client().Del(ctx, f.keys[0][:len(f.keys[0])-len("state")]+part).Err(); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			write(two)
		}
		for _, c := range []*Cache{one, two} {
			settled(t, c, p)
			for _, a := range kept {
				get(t, c, a, Hit, "x")
			}
		}
	}
	// It goes back in time: a copy of before is restored, and other keys are added since.
	client := s.Client()
	f := one.redis.Load().filter(p)
	dumps := map[string]string{}
	cmds, err := client.TxPipelined(ctx, func(tx redis.Pipeliner) error {
		for _, k := range f.keys[:3] {
			tx.Dump(ctx, k)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, k := range f.keys[:3] {
		dumps[k] = cmds[i].(*redis.StringCmd).Val()
	}
	for range 5 {
		write(one)
	}
	settled(t, two, p)
	if _, err := client.TxPipelined(ctx, func(tx redis.Pipeliner) error { // at once, as a server that restarts does
		for k, d := range dumps {
			tx.RestoreReplace(ctx, k, time.Hour, d)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for range 7 {
		write(two)
	}
	for _, c := range []*Cache{one, two} {
		settled(t, c, p)
		for _, a := range kept {
			get(t, c, a, Hit, "x")
		}
	}
	// Everything is lost: nothing is claimed to be there, and what is written next is found.
	client.FlushAll(ctx)
	for _, a := range kept {
		get(t, one, a, Miss, "")
	}
	kept = nil
	for range 10 {
		write(one)
		get(t, two, kept[len(kept)-1], Hit, "x")
	}
}

// TestFilterFollowsFarBehind: a replica that has missed more than the list has reads the whole filter again.
func TestFilterFollowsFarBehind(t *testing.T) {
	s := redistest.Start(t)
	ctx := context.Background()
	p := filtered(20_000, 0.01)
	one, two := replica(t, s, "1", nil), replica(t, s, "2", nil)
	settled(t, one, p)
	f := settled(t, two, p)
	// As if it had slept: what it knows is far behind.
	until(t, "two does not look", func() bool { return f.working.CompareAndSwap(false, true) })
	for i := range recentKeys + 10 {
		if _, err := one.redis.Load().announce(ctx, p, key(i)); err != nil {
			t.Fatal(err)
		}
	}
	f.working.Store(false)
	settled(t, two, p)
	for i := range recentKeys + 10 {
		if absent, asked := f.absent(key(i), two.redis.Load()); absent && asked {
			t.Fatalf("key %d is not in the filter", i)
		}
	}
	if n := f.view.Load().estimate(); n < recentKeys*9/10 || n > recentKeys*11/10 {
		t.Errorf("it is taken to have %v keys", n)
	}
}

// TestFilterIsMended: where somebody else has written in place of a part of the filter it is made anew, nothing that is kept is lost meanwhile,
// and the log says so once.
func TestFilterIsMended(t *testing.T) {
	for part, wrong := range map[string]func(ctx context.Context, c *redis.Client, key string) error{
		"state":  func(ctx context.Context, c *redis.Client, key string) error { return c.Set(ctx, key, "x", 0).Err() },
		"bits":   func(ctx context.Context, c *redis.Client, key string) error { return c.HSet(ctx, key, "a", "b").Err() },
		"recent": func(ctx context.Context, c *redis.Client, key string) error { return c.Set(ctx, key, "x", 0).Err() },
		"lock":   func(ctx context.Context, c *redis.Client, key string) error { return c.RPush(ctx, key, "x").Err() },
	} {
		t.Run(part, func(t *testing.T) {
			s := redistest.Start(t)
			ctx := context.Background()
			p := filtered(1000, 0.01)
			var lines atomic.Int64
			log := slog.New(slog.NewTextHandler(writerFunc(func(b []byte) (int, error) {
				if strings.Contains(string(b), "made anew") || strings.Contains(string(b), "refused") {
					lines.Add(1)
				}
				return len(b), nil
			}), nil))
			one, two := replicaWith(t, s, "1", Options{Log: log}, nil), replicaWith(t, s, "2", Options{Log: log}, nil)
			f := settled(t, one, p)
			settled(t, two, p)
			var kept []Ask
			write := func(c *Cache) {
				a := ask(p, len(kept))
				buy(t, c, a, "x")
				kept = append(kept, a)
			}
			for range 5 {
				write(one)
			}
			at := strings.TrimSuffix(f.keys[0], "state")
			client := s.Client()
			if err := client.Del(ctx, at+part).Err(); err != nil {
				t.Fatal(err)
			}
			if err := wrong(ctx, client, at+part); err != nil {
				t.Fatal(err)
			}
			if part == "lock" && client.Del(ctx, at+"state").Err() != nil { // nobody looks at it else
				t.Fatal("the state is not gone")
			}
			for i := range 6 {
				c, other := one, two
				if i%2 == 1 {
					c, other = two, one
				}
				write(c)
				get(t, other, kept[len(kept)-1], Hit, "x")
			}
			for _, c := range []*Cache{one, two} {
				settled(t, c, p)
				for _, a := range kept {
					get(t, c, a, Hit, "x")
				}
			}
			for key, kind := range map[string]string{"state": "hash", "bits": "string", "recent": "list"} {
				if got := client.Type(ctx, at+key).Val(); got != kind && (key != "recent" || got != "none") {
					t.Errorf("%s is a %s", key, got)
				}
			}
			want := int64(1)
			if part == "lock" { // what is in its place is found when the lock is wanted, and nothing is lost with it
				want = 0
			}
			if n := lines.Load(); n != want {
				t.Errorf("the log has %d lines of it, want %d", n, want)
			}
		})
	}
}

func TestKeyOfName(t *testing.T) {
	for i := range 100 {
		k := key(i)
		got, ok := keyOfName(nameOf("ns/p", Scope(i%3), fmt.Sprint("t:", i), k))
		if !ok || got != k {
			t.Fatalf("%v, %v", got, ok)
		}
	}
	for _, bad := range []string{"", "x", "a:b", nameOf("ns/p", 0, "t", Key{}) + "A"} {
		if _, ok := keyOfName(bad); ok {
			t.Errorf("%q has a key", bad)
		}
	}
}
