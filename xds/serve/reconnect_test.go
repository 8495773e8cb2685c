package serve

import (
	"testing"

	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/weir-dev/weir/xds/compile"
)

func TestReconnectedEnvoyIsNotSentWhatItHas(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(one("a"))
		r.envoy.disconnect()
		if s := r.State(); s.Connected || s.Serving != "a" {
			t.Errorf("state: %+v", s)
		}
		r.envoy.received()
		r.envoy.connect()
		if got := r.envoy.received(); got != "Cluster +0 -0, Listener +0 -0, ScopedRouteConfiguration +0 -0" {
			t.Errorf("sent %q to an Envoy that has everything", got)
		}
		r.expect("a")
		if s := r.State(); !s.Connected {
			t.Errorf("state: %+v", s)
		}
	})
}

func TestVersionPublishedWhileAwayIsServedOnReturn(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(one("a"))
		r.envoy.disconnect()
		r.publish(one("b"))
		r.expect("a")
		r.envoy.connect()
		r.expect("b")
		r.expectNames(resourcev3.ClusterType, "cluster-a", "cluster-b")
	})
}

// TestVersionOfWhatEnvoyHasAlready: nothing is sent for routes and clusters, so what the returning Envoy says it
// has must do.
func TestVersionOfWhatEnvoyHasAlready(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		same := content{clusters: []string{"c"}, routes: []string{"r"}, door: "d"}
		r.envoy.connect()
		r.publish(version("a", same))
		r.envoy.disconnect()
		r.publish(version("b", same))
		r.expect("a")
		r.envoy.connect()
		r.expect("b")
	})
}

func TestNewEnvoyGetsEverything(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(one("a"))
		r.publish(one("b"))
		r.envoy.disconnect()
		r.envoy.restart()
		r.envoy.connect()
		r.expectNames(resourcev3.ClusterType, "cluster-a", "cluster-b")
		r.expectNames(resourcev3.ListenerType, "door")
		r.expectNames(resourcev3.EndpointType, "cluster-a", "cluster-b")
		r.expectNames(resourcev3.ScopedRouteType, "route-a", "route-b")
		r.expect("a", "b")
	})
}

// TestNewEnvoyIsAwaitedForWhatTheOldOneHad: clusters do not change between the versions, but the Envoy that is asked
// now has not got them yet.
func TestNewEnvoyIsAwaitedForWhatTheOldOneHad(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(version("a", content{clusters: []string{"c"}, routes: []string{"r"}, door: "d"}))
		r.expect("a")
		r.envoy.disconnect()
		r.envoy.restart()
		r.envoy.judgeBy(holding(resourcev3.ClusterType))
		r.envoy.connect()
		r.publish(version("b", content{clusters: []string{"c"}, routes: []string{"r", "s"}, door: "d"}))
		r.expect()
		r.envoy.judgeBy(nil)
		r.envoy.release("", "")
		r.expect("b")
	})
}

func TestEnvoyLostInTheMiddleOfAVersion(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(one("a"))
		r.envoy.judgeBy(holding(resourcev3.ScopedRouteType))
		r.publish(one("b"))
		r.envoy.disconnect() // it has the clusters and the listener of b
		r.expect("a")
		r.envoy.judgeBy(nil)
		r.envoy.connect()
		r.expect("b")
	})
}

// TestStreamThatOverlapsTheNext: the end of an old stream, told late, is not the end of the new one.
func TestStreamThatOverlapsTheNext(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(one("a"))
		old := *r.envoy.snapshotOfStream()
		r.envoy.restart()
		r.envoy.connect()
		old.hangUp()
		<-old.finished
		r.publish(one("b"))
		r.expect("a", "b")
		if s := r.State(); !s.Connected {
			t.Errorf("state: %+v", s)
		}
	})
}

func TestVersionThatIsTakenBackWhileAwayIsNotSent(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(one("a"))
		r.envoy.disconnect()
		r.publish(one("b"))
		r.publish(one("a"))
		if s := r.State(); s.Pending != "" {
			t.Errorf("state: %+v", s)
		}
		r.envoy.connect()
		r.expect("a")
		r.expectNames(resourcev3.ClusterType, "cluster-a")
	})
}

// TestEnvoyReturnsWhileItsOldConfigurationIsServedAgain: the server answers it by another one before the Publisher sees
// that it has come. That it has said to have the old one must not do.
func TestEnvoyReturnsWhileItsOldConfigurationIsServedAgain(t *testing.T) {
	t.Run("overlay", func(t *testing.T) {
		inIdleRig(t, Options{}, func(t *testing.T, r *rig) {
			stop := r.run()
			r.envoy.connect()
			r.publish(pooled("v"))
			r.steer(weigh(1, 40, 0))
			r.envoy.disconnect()
			r.steer(weigh(2, 41, 0))
			r.expectSteered("1 taken")
			stop()

			r.envoy.connect()
			r.has("a", withWeight(41))
			r.envoy.judgeBy(holding())
			r.Steer(weigh(3, 40, 0))
			r.fetch() // before the events of the stream
			defer r.run()()
			settle()
			r.expectSteered() // Envoy has the second overlay
			r.envoy.judgeBy(nil)
			r.envoy.release("", "")
			r.expectSteered("3 taken")
			r.has("a", withWeight(40))
		})
	})
	t.Run("version", func(t *testing.T) {
		inIdleRig(t, Options{}, func(t *testing.T, r *rig) {
			with := func(id, secret string) *compile.Version {
				return version(id, content{clusters: []string{"c"}, routes: []string{"r"}, door: "d", secrets: map[string]string{"certificate": secret}})
			}
			stop := r.run()
			r.envoy.connect()
			r.publish(with("a", "old"))
			r.envoy.disconnect()
			r.publish(with("b", "new"))
			r.expect("a")
			stop()

			r.publish(with("c", "old")) // before the events of the stream
			r.envoy.judgeBy(holding(resourcev3.SecretType))
			r.envoy.connect()
			defer r.run()()
			settle()
			r.expect() // the secret of "b" is on its way
			r.envoy.judgeBy(nil)
			r.envoy.release("", "")
			r.expect("c")
		})
	})
}
