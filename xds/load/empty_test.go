package load

import (
	"testing"
	"time"

	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/load/lrs"
)

// TestPoolWithoutServers: a pool whose servers are found in a cluster may have none, at first and later, and then has some again.
func TestPoolWithoutServers(t *testing.T) {
	r := newRig(t)
	none := poolOf("default/pool")
	routes := func(p *compile.Pool) *Steering {
		return steeringOf(map[string]compile.SteeredRoute{"all": routeOf(to(p.Backend, 1, 0), to("default/other", 1, 0))}, p, poolOf("default/other", a3))
	}
	live := func(key string) { // whatever still comes of a server that is gone
		r.Observe(&usage.Record{Backend: none.Backend, Endpoint: key, Status: 200, FirstToken: 300 * time.Millisecond})
		r.Report(lrs.Report{Stream: 1, Cluster: none.Cluster, Endpoint: key, InFlight: 4, Successes: 20})
		r.tick(r.now())
		r.step(time.Second)
		r.tick(r.now())
	}
	empty := func(when string) {
		if s := r.backend(none.Backend); len(s.Endpoints) != 0 {
			t.Errorf("%s it has %+v", when, s.Endpoints)
		}
		if a := r.last().Endpoints[none.Cluster]; a != nil && len(weightsOf(a)) != 0 {
			t.Errorf("%s Envoy is told %v", when, a)
		}
	}
	r.Use(routes(none))
	live(a1)
	empty("at first")

	two := poolOf("default/pool", a1, a2)
	r.Use(routes(two))
	live(a1)
	if len(weightsOf(r.last().Endpoints[two.Cluster])) != 2 {
		t.Errorf("with two servers Envoy is told %v", r.last().Endpoints[two.Cluster])
	}
	if _, usable := r.Share(two.Backend); !usable {
		t.Error("with two servers it is not usable")
	}

	r.Use(routes(none))
	live(a1)
	empty("later")
	if _, usable := r.Share("default/other"); !usable {
		t.Error("the other pool is not usable any more")
	}
	r.Use(routes(two))
	live(a2)
	if _, usable := r.Share(two.Backend); !usable {
		t.Error("with servers again it is not usable")
	}
}
