package shared_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/limit/shared"
	"github.com/weir-dev/weir/internal/redisconn"
	"github.com/weir-dev/weir/test/freeport"
	"github.com/weir-dev/weir/test/redistest"
)

func freePort(t *testing.T) string {
	t.Helper()
	return strconv.Itoa(freeport.Take(t))
}

// TestSentinelFailover counts through the death of a master.
func TestSentinelFailover(t *testing.T) {
	ctx := context.Background()
	master := redistest.Start(t)
	host, port, _ := net.SplitHostPort(master.Addr)
	replica := redistest.Start(t, "--replicaof", host+" "+port, "--repl-diskless-sync-delay", "0")
	sentinel := startSentinel(t, host, port)

	conn := openConfig(t, redisconn.Config{
		Mode: redisconn.Sentinel, MasterName: "weir", Addresses: []string{sentinel}, Timeout: 5 * time.Second,
	})
	const tick = 100 * time.Millisecond
	a, b := remote(t, conn, "a", withBeat(tick)), remote(t, conn, "b", withBeat(tick))
	until(t, "the replica follows", func() bool {
		state, err := replica.Client().InfoMap(ctx, "replication").Result()
		return err == nil && state["Replication"]["master_link_status"] == "up"
	})
	beat(t, a, b)
	c := budget(1000)
	grants(t, a, c, 300, 300)
	until(t, "the replica has it", func() bool { return replica.Client().DBSize(ctx).Val() > 0 })

	replica.Pause() // what is written now is lost
	grants(t, b, c, 400, 400)
	master.Kill()
	replica.Resume()
	impatient(t, sentinel)
	until(t, "the replica is the master", func() bool {
		for _, r := range []*shared.Remote{a, b} {
			if r.Ping(ctx) != nil {
				return false
			}
		}
		return true
	})
	var got limit.Acquired
	until(t, "the counter is right", func() bool {
		_ = a.Ping(ctx)
		_ = b.Ping(ctx)
		// Replica b notices that its field is gone when it asks; a then waits with it.
		_, err := b.Acquire(ctx, c, 301, 301)
		if err == nil {
			got, err = a.Acquire(ctx, c, 301, 301)
		}
		return err == nil
	})
	if got.Granted != 0 || got.Remaining != 300 {
		t.Errorf("after a failover: %+v", got)
	}
	grants(t, a, c, 300, 300)
}

// impatient lets a sentinel take the master for dead soon. Before, one on a busy machine would be as well.
func impatient(t *testing.T, sentinel string) {
	t.Helper()
	c := redis.NewSentinelClient(&redis.Options{Addr: sentinel})
	defer c.Close()
	if err := c.Set(context.Background(), "weir", "down-after-milliseconds", "300").Err(); err != nil {
		t.Fatal(err)
	}
}

// startSentinel starts a sentinel that decides alone, and returns its address when it knows the replica.
func startSentinel(t *testing.T, host, port string) string {
	t.Helper()
	own := freePort(t)
	dir := t.TempDir()
	conf := filepath.Join(dir, "sentinel.conf")
	text := fmt.Sprintf("bind 127.0.0.1\nport %s\ndir %s\nlogfile %s\nsentinel monitor weir %s %s 1\n"+
		"sentinel down-after-milliseconds weir 60000\nsentinel failover-timeout weir 3000\n",
		own, dir, filepath.Join(dir, "log"), host, port)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("redis-server", conf, "--sentinel")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	addr := net.JoinHostPort("127.0.0.1", own)
	c := redis.NewSentinelClient(&redis.Options{Addr: addr})
	t.Cleanup(func() { _ = c.Close() })
	until(t, "the sentinel knows the replica", func() bool {
		m, err := c.Master(context.Background(), "weir").Result()
		return err == nil && m["num-slaves"] == "1"
	})
	return addr
}

// TestCluster counts in a cluster, of which one node then loses everything.
func TestCluster(t *testing.T) {
	ctx := context.Background()
	nodes := make([]*redistest.Server, 3)
	addrs := make([]string, len(nodes))
	buses := make([]string, len(nodes))
	for i := range nodes {
		buses[i] = freePort(t)
		nodes[i] = redistest.Start(t, "--cluster-enabled", "yes", "--cluster-port", buses[i], "--cluster-node-timeout", "30000")
		addrs[i] = nodes[i].Addr
	}
	const all = 16384
	for i, n := range nodes {
		c := n.Client()
		if err := c.ClusterAddSlotsRange(ctx, i*all/len(nodes), (i+1)*all/len(nodes)-1).Err(); err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			host, port, _ := net.SplitHostPort(addrs[0])
			if err := c.Do(ctx, "cluster", "meet", host, port, buses[0]).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	until(t, "the cluster is up", func() bool {
		for _, n := range nodes {
			info, err := n.Client().Do(ctx, "cluster", "slots").Slice()
			state, _ := n.Client().ClusterInfo(ctx).Result()
			if err != nil || len(info) != len(nodes) || !isOK(state) {
				return false
			}
		}
		return true
	})

	conn := openConfig(t, redisconn.Config{Mode: redisconn.Cluster, Addresses: addrs[:1], Timeout: patience})
	k := newClock()
	a, b := remote(t, conn, "a", withClock(k)), remote(t, conn, "b", withClock(k))
	beat(t, a, b)
	var counters []limit.Counter
	for i := range 12 { // on all three nodes
		for _, c := range []limit.Counter{window(100, time.Hour), bucket(1, 100, time.Hour), budget(100), concurrent(100)} {
			c.Key += strconv.Itoa(i)
			counters = append(counters, c)
		}
	}
	used := 0
	for _, c := range counters {
		got := grants(t, a, c, 30, 30)
		grants(t, b, c, 20, 20)
		adjust(t, a, c, -5, got.At)
		if got := grants(t, b, c, 56, 0); got.Remaining != 55 {
			t.Errorf("%s: %+v", c.Key, got)
		}
	}
	for _, n := range nodes {
		if n.Client().DBSize(ctx).Val() > 0 {
			used++
		}
	}
	if used != len(nodes) {
		t.Fatalf("the counters are on %d of %d nodes", used, len(nodes))
	}

	for _, n := range nodes {
		if err := n.Client().FlushAll(ctx).Err(); err != nil {
			t.Fatal(err)
		}
		// Whoever asks for a budget of that node first sees the loss; where the node had the registry, a beat does.
		for _, c := range counters {
			if c.Rule.Algorithm == limit.Calendar {
				if _, err := a.Acquire(ctx, c, 1000, 1000); err != nil && !errors.Is(err, shared.ErrRestoring) {
					t.Fatal(err)
				}
			}
		}
		beat(t, a, b)
		if !a.State().Restoring || !b.State().Restoring {
			t.Fatalf("a restores: %v, b restores: %v", a.State().Restoring, b.State().Restoring)
		}
		k.add(time.Minute)
		beat(t, a, b)
		for _, c := range counters {
			if c.Rule.Algorithm == limit.Calendar || c.Rule.Unit == limit.Concurrent {
				if got := grants(t, a, c, 1000, 0); got.Remaining != 55 {
					t.Errorf("%s: %+v", c.Key, got)
				}
			}
		}
	}
}

func isOK(info string) bool { return len(info) > 16 && info[:16] == "cluster_state:ok" }
