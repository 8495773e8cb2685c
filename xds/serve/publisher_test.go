package serve

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/weir-dev/weir/test/bubble"
	"github.com/weir-dev/weir/xds/compile"
)

func TestActivatesOnceEveryTypeIsAcknowledged(t *testing.T) {
	for _, last := range slices.Concat(awaited, asked) {
		t.Run(shortType(last), func(t *testing.T) {
			inRig(t, Options{}, func(t *testing.T, r *rig) {
				r.envoy.judgeBy(holding(last))
				r.envoy.connect()
				r.publish(one("a"))
				r.expect()
				if s := r.State(); s.Pending != "a" || s.Serving != "" || !s.Connected {
					t.Errorf("state while %s is outstanding: %+v", shortType(last), s)
				}
				r.envoy.judgeBy(nil)
				r.envoy.release("", "")
				r.expect("a")
				if s := r.State(); s.Pending != "" || s.Serving != "a" || s.Versions != 1 || s.Retained != 1 {
					t.Errorf("state: %+v", s)
				}
			})
		})
	}
}

func TestSendsClustersBeforeListenersBeforeRoutes(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(one("a"))
		r.envoy.received()
		r.envoy.judgeBy(holding())
		r.publish(one("b"))
		got := r.envoy.received()
		if want := "Cluster +1 -0, Listener +1 -0, ScopedRouteConfiguration +1 -0"; !strings.HasPrefix(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		r.envoy.judgeBy(nil)
		r.envoy.release("", "")
		r.expect("a", "b")
	})
}

func TestUnchangedTypesAreNotAwaited(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(version("a", content{clusters: []string{"c"}, routes: []string{"r"}, door: "d"}))
		r.envoy.received()
		r.publish(version("b", content{clusters: []string{"c"}, routes: []string{"r", "s"}, door: "d"}))
		r.expect("a", "b")
		if got := r.envoy.received(); got != "ScopedRouteConfiguration +1 -0" {
			t.Errorf("sent %q, only the routes have changed", got)
		}
		r.publish(version("c", content{clusters: []string{"c"}, routes: []string{"r", "s"}, door: "d"}))
		r.expect("c")
		if got := r.envoy.received(); got != "" {
			t.Errorf("sent %q, nothing has changed for Envoy", got)
		}
	})
}

func TestSameVersionTwiceIsServedOnce(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(one("a"))
		r.publish(one("a"), one("a"))
		r.expect("a")
		if s := r.State(); s.Versions != 1 {
			t.Errorf("served %d versions", s.Versions)
		}
	})
}

func TestOfSeveralThatWaitTheLastCounts(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.judgeBy(holding())
		r.envoy.connect()
		r.publish(one("a"), one("b"), one("c"), one("d"))
		r.envoy.judgeBy(nil)
		r.envoy.release("", "")
		r.expect("a", "d")
	})
}

func TestPublishedWhileDisconnectedTheLastCounts(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.publish(one("a"))
		r.publish(one("b"))
		r.expect()
		if s := r.State(); s.Connected || s.Pending != "b" {
			t.Errorf("state: %+v", s)
		}
		r.envoy.connect()
		r.expect("b")
		r.expectNames(resourcev3.ClusterType, "cluster-b")
	})
}

func TestRollbackIsServedAgain(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(one("a"))
		r.publish(one("b"))
		r.publish(one("a"))
		r.expect("a", "b", "a")
		if s := r.State(); s.Retained != 2 || s.Serving != "a" {
			t.Errorf("state: %+v", s)
		}
		pass(2 * time.Minute)
		r.expectNames(resourcev3.ClusterType, "cluster-a")
	})
}

func TestOldVersionsStayUntilTheirRequestsAreOver(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(one("a"))
		r.publish(one("b"))
		r.expectNames(resourcev3.ClusterType, "cluster-a", "cluster-b")
		r.expectNames(resourcev3.ScopedRouteType, "route-a", "route-b")
		pass(time.Minute - time.Second)
		r.expectNames(resourcev3.ClusterType, "cluster-a", "cluster-b")
		pass(sweepEvery + 2*time.Second)
		r.expectNames(resourcev3.ClusterType, "cluster-b")
		r.expectNames(resourcev3.ScopedRouteType, "route-b")
		if s := r.State(); s.Retained != 1 {
			t.Errorf("state: %+v", s)
		}
		pass(24 * time.Hour)
		r.expectNames(resourcev3.ClusterType, "cluster-b")
		r.expect("a", "b")
	})
}

func TestRetentionIsBounded(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		long := one("a")
		long.Retain = 1000 * time.Hour
		r.publish(long)
		r.publish(one("b"))
		pass(maxRetain - time.Second)
		r.expectNames(resourcev3.ClusterType, "cluster-a", "cluster-b")
		pass(sweepEvery + 2*time.Second)
		r.expectNames(resourcev3.ClusterType, "cluster-b")
	})
}

// warmth plays Envoy's admin interface: so many clusters are cold; -1: it does not answer.
type warmth struct{ atomic.Int32 }

func (w *warmth) warming(context.Context) (int, error) {
	if n := w.Load(); n >= 0 {
		return int(n), nil
	}
	return 0, errors.New("admin does not answer")
}

func TestWaitsForClustersToBeWarm(t *testing.T) {
	var w warmth
	inRig(t, Options{Warming: w.warming}, func(t *testing.T, r *rig) {
		w.Store(3)
		r.envoy.connect()
		r.publish(one("a"))
		pass(time.Second)
		r.expect()
		if s := r.State(); s.Pending != "a" {
			t.Errorf("state while clusters warm: %+v", s)
		}
		w.Store(0)
		pass(warmPoll)
		r.expect("a")

		w.Store(1) // for ever: a name that does not resolve
		r.publish(one("b"))
		pass(warmLimit - time.Second)
		r.expect()
		pass(2 * time.Second)
		r.expect("b")

		w.Store(-1)
		r.publish(one("c"))
		pass(time.Second)
		r.expect()
		w.Store(0)
		pass(warmPoll)
		r.expect("c")
	})
}

// Envoy is asked how warm it is where something may not be: after clusters have come, went wrong, or belong to another Envoy.
func TestWarmEnvoyIsNotAsked(t *testing.T) {
	var questions, cold atomic.Int64
	warming := func(context.Context) (int, error) {
		questions.Add(1)
		return int(cold.Load()), nil
	}
	inRig(t, Options{Warming: warming}, func(t *testing.T, r *rig) {
		publish := func(id string, asked bool, clusters, routes []string) {
			t.Helper()
			questions.Store(0)
			r.publish(version(id, content{clusters: clusters, routes: routes, door: "d"}))
			pass(warmLimit + time.Second)
			if r.State().Serving == id && (questions.Load() > 0) != asked {
				t.Errorf("%s: asked %d times, want any: %v", id, questions.Load(), asked)
			}
		}
		r.envoy.connect()
		publish("a", true, []string{"c"}, []string{"r"})
		publish("b", false, []string{"c"}, []string{"r", "s"})
		publish("c", true, []string{"c", "d"}, []string{"r"})
		cold.Store(1)
		publish("d", true, []string{"c", "d", "e"}, []string{"r"})
		publish("e", true, []string{"c", "d", "e"}, []string{"r", "s"}) // what the one before it has brought may still not be warm
		cold.Store(0)
		publish("f", true, []string{"c", "d", "e"}, []string{"r"})
		publish("g", false, []string{"c", "d", "e"}, []string{"r", "s"})
		r.expect("a", "b", "c", "d", "e", "f", "g")

		r.envoy.judgeBy(refusingOf(resourcev3.ClusterType, "no"))
		publish("bad", true, []string{"bad"}, []string{"r"})
		r.envoy.judgeBy(nil)
		publish("h", true, []string{"c", "d", "e"}, []string{"r"})
		publish("i", false, []string{"c", "d", "e"}, []string{"r", "s"})
		r.expect("h", "i")

		r.envoy.disconnect()
		r.envoy.restart()
		r.envoy.connect()
		publish("j", true, []string{"c", "d", "e"}, []string{"r"})
		r.expect("j")
	})
}

func TestEnvoyThatDiesWhileWarmingIsAwaitedAnew(t *testing.T) {
	var w warmth
	inRig(t, Options{Warming: w.warming}, func(t *testing.T, r *rig) {
		w.Store(1)
		r.envoy.connect()
		r.publish(one("a"))
		r.envoy.disconnect()
		w.Store(0)
		pass(warmLimit + time.Second)
		r.expect() // the first Envoy is gone, with all that it had
		r.envoy.restart()
		r.envoy.judgeBy(holding(resourcev3.ClusterType))
		r.envoy.connect()
		pass(warmLimit + time.Second)
		r.expect()
		w.Store(1) // as a cluster does that has come and whose endpoints have not
		r.envoy.judgeBy(nil)
		r.envoy.release("", "")
		settle()
		r.expect()
		w.Store(0)
		settle()
		r.expect("a")
	})
}

func TestRunEndsWithItsContext(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := NewPublisher(Options{NodeID: "weir"})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { p.Run(ctx); close(done) }()
		cancel()
		<-done
	})
}

func TestShortType(t *testing.T) {
	if got := shortType(resourcev3.ClusterType); got != "Cluster" || strings.Contains(got, ".") {
		t.Errorf("got %q", got)
	}
}

// TestListenerInTheOthersPlace: Envoy may forget all scopes with the last listener that has them, and does not ask for them again.
func TestListenerInTheOthersPlace(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		renamed := func(id, name string) *compile.Version {
			v := version(id, content{routes: []string{"a#1", "a#2", "b#1"}, door: id})
			v.Listeners = map[string]*listenerv3.Listener{name: v.Listeners["door"]}
			return v
		}
		r.publish(renamed("v", "door"))
		r.expect("v")
		r.envoy.received()
		r.publish(renamed("w", "gate"))
		r.expect("w")
		r.expectNames(resourcev3.ScopedRouteType, "a#1", "a#2", "b#1")
		if got, want := r.envoy.received(), "Listener +1 -1, ScopedRouteConfiguration +2 -0"; got != want {
			t.Errorf("sent %q, want %q", got, want)
		}
		r.publish(renamed("x", "gate"))
		r.expect("x")
		if got, want := r.envoy.received(), "Listener +1 -0"; got != want {
			t.Errorf("sent %q, want %q", got, want)
		}
	})
}
