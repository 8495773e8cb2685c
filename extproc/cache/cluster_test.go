package cache

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/internal/redisconn"
	"github.com/weir-dev/weir/test/freeport"
	"github.com/weir-dev/weir/test/redistest"
)

// TestCluster writes, finds, waits, purges and filters over three nodes.
func TestCluster(t *testing.T) {
	ctx := context.Background()
	nodes := make([]*redistest.Server, 3)
	buses := make([]string, len(nodes))
	const slots = 16384
	for i := range nodes {
		_, bus, err := net.SplitHostPort(freeport.Addr(t))
		if err != nil {
			t.Fatal(err)
		}
		buses[i] = bus
		nodes[i] = redistest.Start(t, "--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", "30000")
	}
	for i, n := range nodes {
		c := n.Client()
		if err := c.ClusterAddSlotsRange(ctx, i*slots/len(nodes), (i+1)*slots/len(nodes)-1).Err(); err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			host, port, _ := net.SplitHostPort(nodes[0].Addr)
			if err := c.Do(ctx, "cluster", "meet", host, port, buses[0]).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	until(t, "the cluster is up", func() bool {
		for _, n := range nodes {
			info, err := n.Client().Do(ctx, "cluster", "slots").Slice()
			state, _ := n.Client().ClusterInfo(ctx).Result()
			if err != nil || len(info) != len(nodes) || !strings.HasPrefix(state, "cluster_state:ok") {
				return false
			}
		}
		return true
	})
	var caches []*Cache
	for i := range 2 {
		caches = append(caches, replica(t, nodes[0], fmt.Sprint(i), func(cfg *redisconn.Config) {
			cfg.Mode, cfg.Timeout = redisconn.Cluster, 5*time.Second
		}))
	}
	one, two := caches[0], caches[1]
	p := filtered(1000, 0.01)
	for i := range 50 {
		a := ask(p, i)
		a.Tags = []string{"red"}
		buy(t, one, a, "x")
	}
	for _, c := range caches {
		settled(t, c, p) // made of what all nodes have
		for i := range 50 {
			get(t, c, ask(p, i), Hit, "x")
		}
	}
	for i, n := range nodes {
		if n.Client().DBSize(ctx).Val() == 0 {
			t.Errorf("node %d has nothing", i)
		}
	}
	k := key(7)
	if n, err := two.Purge(ctx, Selector{Key: &k}); n != 1 || err != nil {
		t.Errorf("by key: %d, %v", n, err)
	}
	if n, err := two.Purge(ctx, Selector{Tenant: "acme", Tag: "red"}); n != 49 || err != nil {
		t.Errorf("by tenant and tag: %d, %v", n, err)
	}
	for i := range 50 {
		get(t, one, ask(p, i), Miss, "")
	}
}
