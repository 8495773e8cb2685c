package serve

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/weir-dev/weir/xds/compile"
)

// steered notes what became of overlays, and holds the promise of Steered: Envoy has all that the overlay says.
func (r *rig) steered(serial uint64, at time.Time, nack string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at.IsZero() {
		r.t.Errorf("overlay %d: no time", serial)
	}
	if nack != "" {
		r.steerings = append(r.steerings, fmt.Sprintf("%d refused: %s", serial, nack))
		return
	}
	r.steerings = append(r.steerings, fmt.Sprintf("%d taken", serial))
	if o := r.Publisher.steering.overlay(); o.Serial != serial { // it is called by the goroutine that owns it
		r.t.Errorf("overlay %d is said to be taken while %d is in use", serial, o.Serial)
	} else {
		r.holds(o, r.Publisher.served.union)
	}
}

// holds says whether Envoy has all that an overlay says of what is served and Envoy has.
func (r *rig) holds(o *Overlay, u *union) {
	for cluster, say := range o.Endpoints {
		if v := r.Publisher.views[resourcev3.EndpointType]; u.endpoints(cluster) == nil || v == nil || !v.names[cluster] {
			continue // it may be on its way out, or left over from before
		}
		got := r.envoy.endpoints(cluster)
		for _, g := range say.GetEndpoints() {
			for _, e := range g.GetLbEndpoints() {
				for _, is := range got {
					if is.address == addressOf(e) && (is.weight != max(1, e.GetLoadBalancingWeight().GetValue()) || e.GetLoadBalancingWeight().GetValue() > 0 && is.health != e.GetHealthStatus()) {
						r.t.Errorf("overlay %d: Envoy has %s in %s as %+v, want %v", o.Serial, is.address, cluster, is, e)
					}
				}
			}
		}
	}
	for key, weights := range o.Weights {
		n := len(u.routes.Get(key).GetRoute().GetWeightedClusters().GetClusters())
		if got := r.envoy.weights(key); got != nil && unusable(weights, n) == "" && !slices.Equal(got, weights) {
			r.t.Errorf("overlay %d: Envoy has the weights %v of %s, want %v", o.Serial, got, key, weights)
		}
	}
}

// expectSteered compares what Steered was told since the last call.
func (r *rig) expectSteered(want ...string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.steerings, want) {
		r.t.Fatalf("Steered was told %q, want %q", r.steerings, want)
	}
	r.steerings = nil
}

// steer steers, and settles.
func (r *rig) steer(o *Overlay) {
	r.Steer(o)
	settle()
}

type endpoint struct {
	address string
	weight  uint32
	health  corev3.HealthStatus
}

// endpoints are those that Envoy has of a cluster.
func (e *fakeEnvoy) endpoints(cluster string) (out []endpoint) {
	e.mu.Lock()
	defer e.mu.Unlock()
	a := &endpointv3.ClusterLoadAssignment{}
	if r := e.have[resourcev3.EndpointType][cluster]; r == nil || r.GetResource().UnmarshalTo(a) != nil {
		return nil
	}
	for _, g := range a.GetEndpoints() {
		for _, l := range g.GetLbEndpoints() {
			out = append(out, endpoint{addressOf(l), l.GetLoadBalancingWeight().GetValue(), l.GetHealthStatus()})
		}
	}
	return out
}

// weights are those that Envoy has of a route; nil where it has no such route.
func (e *fakeEnvoy) weights(key string) (out []uint32) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.entries()[key]
	for _, c := range r.GetRoute().GetWeightedClusters().GetClusters() {
		out = append(out, c.GetWeight().GetValue())
	}
	return out
}

// has compares the endpoints that Envoy has: "10.0.0.1:80=5/HEALTHY" and so on.
func (r *rig) has(cluster, want string) {
	r.t.Helper()
	var got []string
	for _, e := range r.envoy.endpoints(cluster) {
		s := fmt.Sprintf("%s=%d", e.address, e.weight)
		if e.health != corev3.HealthStatus_UNKNOWN {
			s += "/" + e.health.String()
		}
		got = append(got, s)
	}
	if strings.Join(got, " ") != want {
		r.t.Errorf("Envoy has %q in %s, want %q", got, cluster, want)
	}
}

func (r *rig) shares(key string, want ...uint32) {
	r.t.Helper()
	if got := r.envoy.weights(key); !slices.Equal(got, want) {
		r.t.Errorf("Envoy has the weights %v of %s, want %v", got, key, want)
	}
}

// pooled is a version with the clusters "a" and "b" of two endpoints each, and the routes "r" and "s" between two clusters.
func pooled(id string) *compile.Version { return pooledBy(id, one1, two2) }

func pooledBy(id string, addresses ...string) *compile.Version {
	return version(id, content{clusters: []string{"a", "b"}, pool: addresses, routes: []string{"r", "s"}, shares: []uint32{1, 1}, door: id, retain: time.Minute})
}

// weigh is an overlay that gives the first endpoint of cluster "a" a weight, and the route "r" another first share.
func weigh(serial uint64, weight int, share uint32) *Overlay {
	o := &Overlay{Serial: serial}
	if weight > 0 {
		o.Endpoints = map[string]*endpointv3.ClusterLoadAssignment{"a": says(said(one1, weight, healthy), said(two2, 5, unhealthy))}
	}
	if share > 0 {
		o.Weights = map[string][]uint32{"r": {share, 10}}
	}
	return o
}

// withWeight is how Envoy has cluster "a" under weigh.
func withWeight(n int) string { return fmt.Sprintf("%s=%d/HEALTHY %s=5/UNHEALTHY", one1, n, two2) }

const plain = one1 + "=100 " + two2 + "=100"

func TestSteer(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(pooled("v"))
		r.expect("v")
		r.has("a", plain)
		r.envoy.received()

		r.steer(weigh(1, 40, 0))
		r.expectSteered("1 taken")
		if got := r.envoy.received(); got != "ClusterLoadAssignment +1 -0" {
			t.Errorf("endpoints: sent %q", got)
		}
		r.has("a", withWeight(40))
		r.has("b", plain)

		r.steer(weigh(2, 40, 30))
		r.expectSteered("2 taken")
		if got := r.envoy.received(); got != "ScopedRouteConfiguration +1 -0" {
			t.Errorf("weights: sent %q", got)
		}
		r.shares("r", 30, 10)
		r.shares("s", 1, 1)

		r.steer(weigh(3, 40, 30))
		r.expectSteered("3 taken")
		if got := r.envoy.received(); got != "" {
			t.Errorf("nothing new: sent %q", got)
		}

		r.Steer(nil)
		settle()
		r.expectSteered("0 taken")
		r.has("a", plain)
		r.shares("r", 1, 1)
		if s := r.State(); s.Serving != "v" || s.Versions != 1 || s.Rejects != 0 || s.Pending != "" {
			t.Errorf("state: %+v", s)
		}
		r.expect()
	})
}

// TestSteerFirst: overlays come before anything else does.
func TestSteerFirst(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.steer(weigh(1, 40, 30))
		r.envoy.connect()
		r.expectSteered()
		r.envoy.judgeBy(holding(resourcev3.ListenerType))
		r.publish(pooled("v"))
		r.expectSteered() // nothing is live
		r.envoy.judgeBy(nil)
		r.envoy.release("", "")
		r.expect("v")
		r.expectSteered("1 taken")
		r.has("a", withWeight(40))
		r.shares("r", 30, 10)
	})
}

// TestSteerWhilePending: the overlay arrives at once, and the version is not delayed by what Envoy makes of it.
func TestSteerWhilePending(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(pooled("v"))
		r.envoy.judgeBy(holding(resourcev3.ListenerType))
		r.publish(pooled("w"))
		r.expect("v")
		r.steer(weigh(1, 40, 30)) // of which Envoy takes all
		r.has("a", withWeight(40))
		r.shares("r", 30, 10)
		r.expectSteered("1 taken")

		r.envoy.judgeBy(holding(resourcev3.ListenerType, resourcev3.EndpointType, resourcev3.ScopedRouteType))
		r.steer(weigh(2, 50, 31))
		r.envoy.judgeBy(nil)
		r.envoy.release(resourcev3.ListenerType, "")
		r.expect("w") // Envoy has not answered for the overlay
		r.expectSteered()
		r.envoy.release("", "")
		r.expectSteered("2 taken")
	})
}

// TestVersionAfterOverlay: Envoy has not answered for an overlay when a version comes.
func TestVersionAfterOverlay(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(pooled("v"))
		r.envoy.judgeBy(holding(resourcev3.EndpointType))
		r.steer(weigh(1, 40, 0))
		r.publish(pooled("w")) // with the endpoints of v
		r.expect("v", "w")
		r.expectSteered()
		r.envoy.release("", "")
		r.expectSteered("1 taken")
		r.has("a", withWeight(40))
	})
}

func TestRefusedOverlay(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(pooled("v"))
		r.steer(weigh(1, 40, 30))
		r.expectSteered("1 taken")
		r.envoy.judgeBy(refusingWeight(r, 666))
		r.steer(weigh(2, 666, 30))
		r.expectSteered("2 refused: ClusterLoadAssignment: weight 666")
		r.has("a", withWeight(40))
		r.shares("r", 30, 10)

		r.steer(weigh(3, 666, 30)) // the same again
		r.expectSteered("3 refused: ClusterLoadAssignment: weight 666")
		r.has("a", withWeight(40))
		r.steer(weigh(4, 41, 30))
		r.expectSteered("4 taken")
		r.has("a", withWeight(41))

		refused := false
		r.envoy.judgeBy(func(resp *discoveryv3.DeltaDiscoveryResponse) verdict {
			if resp.GetTypeUrl() == resourcev3.ScopedRouteType && !refused {
				refused = true
				return verdict{refuse: "no"}
			}
			return verdict{}
		})
		r.steer(weigh(5, 41, 99))
		r.expectSteered("5 refused: ScopedRouteConfiguration: rule r: no")
		r.shares("r", 30, 10)
		r.steer(weigh(6, 41, 0))
		r.expectSteered("6 taken")
		r.shares("r", 1, 1)
		if s := r.State(); s.Serving != "v" || s.Rejected != "" || s.Rejects != 0 {
			t.Errorf("state: %+v", s)
		}
		r.expect("v")
	})
}

// TestFirstOverlayRefused: there is none to go back to.
func TestFirstOverlayRefused(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(pooled("v"))
		r.envoy.judgeBy(refusingWeight(r, 666))
		r.steer(weigh(1, 666, 30))
		r.expectSteered("1 refused: ClusterLoadAssignment: weight 666")
		r.has("a", plain)
		r.shares("r", 1, 1)
		r.publish(pooledBy("w", one1, two2, three3))
		r.expect("v", "w")
		r.has("a", plain+" "+three3+"=100")
	})
}

// refusingWeight refuses endpoints of cluster "a" with that weight.
func refusingWeight(r *rig, weight uint32) func(*discoveryv3.DeltaDiscoveryResponse) verdict {
	return func(resp *discoveryv3.DeltaDiscoveryResponse) verdict {
		for _, res := range resp.GetResources() {
			a := &endpointv3.ClusterLoadAssignment{}
			if resp.GetTypeUrl() != resourcev3.EndpointType || res.GetResource().UnmarshalTo(a) != nil {
				continue
			}
			for _, g := range a.GetEndpoints() {
				for _, e := range g.GetLbEndpoints() {
					if e.GetLoadBalancingWeight().GetValue() == weight {
						return verdict{refuse: fmt.Sprintf("weight %d", weight)}
					}
				}
			}
		}
		return verdict{}
	}
}

// TestRefusedOverlayDoesNotFailTheVersion that is on its way, even when both are in one response.
func TestRefusedOverlayDoesNotFailTheVersion(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(pooled("v"))
		r.steer(weigh(1, 40, 0))
		r.expectSteered("1 taken")
		r.envoy.judgeBy(holding(resourcev3.ListenerType))
		r.publish(pooledBy("w", one1, two2, three3))
		r.envoy.judgeBy(refusingWeight(r, 666))
		r.steer(weigh(2, 666, 0))
		r.has("a", one1+"=40/HEALTHY "+two2+"=5/UNHEALTHY "+three3+"=100") // the last good one, and what is new
		r.expect("v")
		r.envoy.release("", "")
		r.expect("w")
		r.expectSteered("2 refused: ClusterLoadAssignment: weight 666") // by itself
		r.has("a", one1+"=40/HEALTHY "+two2+"=5/UNHEALTHY "+three3+"=100")
		if s := r.State(); s.Rejects != 0 || s.Rejected != "" {
			t.Errorf("state: %+v", s)
		}
	})
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(pooled("v"))
		r.envoy.judgeBy(holding(resourcev3.EndpointType))
		r.steer(weigh(1, 666, 0)) // the response that the next two wait for
		r.publish(version("w", content{clusters: []string{"a", "b", "n"}, pool: []string{one1, two2, three3}, routes: []string{"r"}, shares: []uint32{1, 1}, door: "w"}))
		r.steer(weigh(2, 667, 0))
		r.expect("v")
		r.envoy.judgeBy(refusingWeight(r, 667))
		r.envoy.release("", "weight 666") // what follows has the new endpoints and the second overlay
		r.expect("w")
		if got := r.steerings; !slices.Equal(got, []string{"2 refused: ClusterLoadAssignment: weight 667"}) {
			t.Errorf("%q", got)
		}
		r.has("a", plain+" "+three3+"=100")
		r.has("n", plain+" "+three3+"=100")
	})
}

// TestRefusedVersionDoesNotFailTheOverlay that came with it.
func TestRefusedVersionDoesNotFailTheOverlay(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(pooled("v"))
		r.envoy.judgeBy(func(resp *discoveryv3.DeltaDiscoveryResponse) verdict {
			for _, res := range resp.GetResources() {
				if res.GetName() == "bad" {
					return verdict{refuse: "bad route"}
				}
			}
			return verdict{hold: resp.GetTypeUrl() == resourcev3.ScopedRouteType}
		})
		r.steer(weigh(1, 0, 30)) // held, so that the next response has both
		bad := version("w", content{clusters: []string{"a", "b"}, pool: []string{one1, two2}, routes: []string{"r", "s", "bad"}, shares: []uint32{1, 1}, door: "w"})
		r.publish(bad)
		r.steer(weigh(2, 0, 31))
		r.envoy.release("", "")
		for range 3 {
			r.envoy.release("", "")
		}
		r.expect("v")
		if s := r.State(); s.Serving != "v" || s.Rejected != "w" || s.Rejects != 1 || s.Reason != "ScopedRouteConfiguration: rule bad: bad route" {
			t.Errorf("state: %+v", s)
		}
		r.expectSteered("2 taken")
		r.shares("r", 31, 10)
	})
}

// TestInnocentBesideARefusedOverlay: what came in the same response and is no part of the overlay is sent once more.
func TestInnocentBesideARefusedOverlay(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(pooled("v"))
		r.envoy.judgeBy(refusingWeight(r, 666))
		o := weigh(1, 666, 0)
		o.Endpoints["b"] = says(said(one1, 8, healthy), said(two2, 9, healthy))
		r.steer(o)
		r.expectSteered("1 refused: ClusterLoadAssignment: weight 666")
		r.has("b", plain)
		o = weigh(2, 40, 0)
		o.Endpoints["b"] = says(said(one1, 8, healthy), said(two2, 9, healthy))
		r.steer(o)
		r.expectSteered("2 taken")
		r.has("b", one1+"=8/HEALTHY "+two2+"=9/HEALTHY")

		// One that the next overlay does not take back, but says as well.
		r.envoy.judgeBy(holding())
		o = weigh(3, 666, 0)
		o.Endpoints["b"] = says(said(one1, 3, healthy), said(two2, 3, healthy))
		r.steer(o)
		o = weigh(4, 41, 0)
		o.Endpoints["b"] = says(said(one1, 3, healthy), said(two2, 3, healthy))
		r.steer(o)
		r.envoy.judgeBy(nil)
		r.envoy.release("", "weight 666")
		r.expectSteered("4 taken")
		r.has("a", withWeight(41))
		r.has("b", one1+"=3/HEALTHY "+two2+"=3/HEALTHY")
	})
}

// TestOverlayMeetsAnotherEnvoy: the newest is served to it, and Steered is not told twice that it was taken.
func TestOverlayMeetsAnotherEnvoy(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(pooled("v"))
		r.steer(weigh(1, 40, 30))
		r.expectSteered("1 taken")
		r.envoy.disconnect()
		r.envoy.connect()
		r.has("a", withWeight(40))
		r.envoy.disconnect()
		r.steer(weigh(2, 41, 31))
		r.steer(weigh(3, 42, 32))
		r.expectSteered()
		r.envoy.restart()
		r.envoy.connect()
		r.has("a", withWeight(42))
		r.shares("r", 32, 10)
		r.expectSteered("3 taken")

		r.envoy.disconnect()
		r.envoy.restart()
		r.envoy.judgeBy(refusingWeight(r, 42))
		r.envoy.connect()
		r.expectSteered("3 refused: ClusterLoadAssignment: weight 42")
		r.has("a", plain)
		r.has("b", plain)
		if s := r.State(); s.Serving != "v" || s.Rejected != "" {
			t.Errorf("state: %+v", s)
		}
	})
}

// TestNewVersionUnderAnOverlay: what steering says of endpoints that stay is kept, whatever else changes.
func TestNewVersionUnderAnOverlay(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(pooled("v"))
		o := weigh(1, 40, 30)
		o.Endpoints["unknown"], o.Weights["unknown"] = says(said(one1, 1, healthy)), []uint32{1}
		r.steer(o)
		r.expectSteered("1 taken")
		r.publish(pooledBy("w", two2, three3))
		r.expect("v", "w")
		r.has("a", two2+"=5/UNHEALTHY "+three3+"=100")
		r.shares("r", 30, 10)
		r.publish(version("x", content{clusters: []string{"a"}, pool: []string{one1, two2}, routes: []string{"r"}, shares: []uint32{1, 1, 1}, door: "x"}))
		r.expect("x")
		r.has("a", withWeight(40))
		r.shares("r", 1, 1, 1) // another number of them
		r.expectSteered()
	})
}

func TestWeightsThatCannotBeUsed(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(pooled("v"))
		r.steer(&Overlay{Serial: 1, Weights: map[string][]uint32{"r": {0, 0}, "s": {2, 3}}})
		r.expectSteered("1 taken")
		r.shares("r", 1, 1)
		r.shares("s", 2, 3)
		r.steer(&Overlay{Serial: 2, Weights: map[string][]uint32{"r": {1, 2, 3}, "s": {0, 3}}})
		r.expectSteered("2 taken")
		r.shares("r", 1, 1)
		r.shares("s", 0, 3)
	})
}

// TestOverlayWhileGoingBack: Envoy has refused a version and not answered for the one before.
func TestOverlayWhileGoingBack(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(pooled("v"))
		refused := false
		r.envoy.judgeBy(func(resp *discoveryv3.DeltaDiscoveryResponse) verdict {
			if resp.GetTypeUrl() == resourcev3.ListenerType && !refused {
				refused = true
				return verdict{refuse: "no"}
			}
			return verdict{hold: refused && resp.GetTypeUrl() == resourcev3.ListenerType}
		})
		r.publish(pooled("w"))
		if s := r.State(); s.Rejected != "w" {
			t.Fatalf("state: %+v", s)
		}
		r.steer(weigh(1, 40, 30))
		r.expectSteered("1 taken")
		r.has("a", withWeight(40))
		r.publish(pooled("x"))
		r.expect("v")
		r.envoy.judgeBy(nil)
		r.envoy.release("", "")
		r.expect("x")
		r.has("a", withWeight(40))
	})
}

// TestOverlayOfWhatOnlyThePendingVersionHas waits for nothing that Envoy does not ask for.
func TestOverlayOfWhatOnlyThePendingVersionHas(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(pooled("v"))
		r.envoy.judgeBy(holding(resourcev3.ClusterType))
		r.publish(version("w", content{clusters: []string{"a", "b", "n"}, pool: []string{one1, two2}, routes: []string{"r"}, shares: []uint32{1, 1}, door: "w"}))
		o := weigh(1, 40, 0)
		o.Endpoints["n"] = says(said(one1, 8, healthy), said(two2, 9, healthy))
		r.steer(o)
		r.expectSteered("1 taken")
		r.envoy.judgeBy(nil)
		r.envoy.release("", "")
		r.expect("v", "w")
		r.has("n", one1+"=8/HEALTHY "+two2+"=9/HEALTHY")
	})
}

// TestSteerNeverBlocks: nobody reads.
func TestSteerNeverBlocks(t *testing.T) {
	p := NewPublisher(Options{NodeID: "weir"})
	for i := range uint64(10_000) {
		p.Steer(&Overlay{Serial: i})
	}
	if o, ok := p.mail.fetch(); !ok || o.Serial != 9_999 {
		t.Errorf("the last is %+v", o)
	}
	if _, again := p.mail.fetch(); again {
		t.Error("it is fetched twice")
	}
}

// TestSteerBackAndForth: an overlay says again and again what Envoy has had before, while Envoy answers for none of it.
func TestSteerBackAndForth(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(pooled("v"))
		r.steer(weigh(1, 40, 0))
		r.expectSteered("1 taken")
		r.envoy.judgeBy(holding())
		for i, weight := range []int{40, 41, 40, 42, 40} {
			o := weigh(uint64(i+2), weight, 0)
			o.Endpoints["b"] = says(said(one1, 8, healthy), said(two2, 9, healthy))
			r.steer(o)
		}
		r.envoy.judgeBy(nil)
		r.envoy.release("", "")
		r.expectSteered("6 taken")
		r.has("a", withWeight(40))
		r.publish(pooledBy("w", one1))
		r.expect("v", "w")
	})
}
