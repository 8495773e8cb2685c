package serve

import (
	"slices"
	"strings"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
)

func TestRefusedVersionLeavesTheLastGoodOne(t *testing.T) {
	for _, typeURL := range slices.Concat(awaited, asked) {
		t.Run(shortType(typeURL), func(t *testing.T) {
			inRig(t, Options{}, func(t *testing.T, r *rig) {
				r.envoy.connect()
				r.publish(one("a"))
				r.envoy.judgeBy(func(resp *discoveryv3.DeltaDiscoveryResponse) verdict {
					if resp.GetTypeUrl() == typeURL {
						return verdict{refuse: "field x: must be y"}
					}
					return verdict{}
				})
				r.publish(one("b"))
				r.expect("a")
				s := r.State()
				if s.Serving != "a" || s.Rejected != "b" || s.Rejects != 1 || s.Pending != "" {
					t.Errorf("state: %+v", s)
				}
				if !strings.Contains(s.Reason, "field x: must be y") || !strings.Contains(s.Reason, shortType(typeURL)) {
					t.Errorf("the reason %q says neither what nor where", s.Reason)
				}

				r.envoy.judgeBy(nil)
				r.publish(one("c"))
				r.expect("c")
				r.expectNames(resourcev3.ClusterType, "cluster-a", "cluster-c")
				r.expectNames(resourcev3.ScopedRouteType, "route-a", "route-c")
				if s := r.State(); s.Serving != "c" || s.Rejected != "" || s.Reason != "" || s.Rejects != 1 {
					t.Errorf("state after a good version: %+v", s)
				}
			})
		})
	}
}

func TestLastGoodVersionIsSentAgain(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(one("a"))
		r.envoy.judgeBy(func(resp *discoveryv3.DeltaDiscoveryResponse) verdict {
			if resp.GetTypeUrl() == resourcev3.ScopedRouteType && len(resp.GetResources()) > 0 && r.State().Rejects == 0 {
				return verdict{refuse: "no"}
			}
			return verdict{}
		})
		r.publish(one("b"))
		r.expectNames(resourcev3.ClusterType, "cluster-a")
		r.expectNames(resourcev3.ScopedRouteType, "route-a")
	})
}

func TestGoingBackToTheServedVersionClearsTheRefusal(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(one("a"))
		r.envoy.judgeBy(refusing("cluster-b", "no"))
		r.publish(one("b"))
		if s := r.State(); s.Rejected != "b" {
			t.Fatalf("state: %+v", s)
		}
		r.publish(one("a"))
		r.expect("a")
		if s := r.State(); s.Rejected != "" || s.Reason != "" {
			t.Errorf("state: %+v", s)
		}
	})
}

func TestFirstVersionRefused(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.judgeBy(refusing("cluster-a", "no"))
		r.envoy.connect()
		r.publish(one("a"))
		r.expect()
		if s := r.State(); s.Serving != "" || s.Rejected != "a" || s.Retained != 0 {
			t.Errorf("state: %+v", s)
		}
		r.publish(one("b"))
		r.expect("b")
	})
}

// TestRefusedContentIsNotServedUnderAnotherVersion: Envoy is not asked twice about what it has refused, so that it
// does not answer is no consent.
func TestRefusedContentIsNotServedUnderAnotherVersion(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.judgeBy(refusing("door", "cannot bind"))
		r.envoy.connect()
		r.publish(version("a", content{clusters: []string{"c"}, routes: []string{"r"}, door: "taken"}))
		r.publish(version("b", content{clusters: []string{"c", "d"}, routes: []string{"r"}, door: "taken"}))
		r.expect()
		if s := r.State(); s.Rejected != "b" || !strings.Contains(s.Reason, "cannot bind") {
			t.Errorf("state: %+v", s)
		}
		r.envoy.judgeBy(nil)
		r.publish(version("c", content{clusters: []string{"c", "d"}, routes: []string{"r"}, door: "free"}))
		r.expect("c")
	})
}

// TestLateAcknowledgementAfterRefusal: Envoy holds back the answer about clusters while one is warming. The routes
// of the version are refused meanwhile, and a third version, which has these clusters too, waits already.
func TestLateAcknowledgementAfterRefusal(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(one("a"))
		r.envoy.judgeBy(holding(resourcev3.ClusterType, resourcev3.ScopedRouteType))
		r.publish(version("b", content{clusters: []string{"new"}, routes: []string{"bad"}, door: "a"}))
		r.publish(version("c", content{clusters: []string{"new"}, routes: []string{"good"}, door: "a"}))
		r.envoy.release(resourcev3.ScopedRouteType, "no such filter")
		if s := r.State(); s.Rejected != "b" || s.Serving != "a" {
			t.Fatalf("state: %+v", s)
		}
		r.envoy.judgeBy(nil)
		r.envoy.release(resourcev3.ClusterType, "")
		r.envoy.release(resourcev3.ScopedRouteType, "")
		r.expect("a", "c")
	})
}

// TestRefusedTwice: the next version has the clusters that were refused with the one before; Envoy is asked about
// them anew.
func TestRefusedTwice(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(one("a"))
		r.envoy.judgeBy(refusing("bad", "no such cluster type"))
		r.publish(version("b", content{clusters: []string{"bad", "innocent"}, routes: []string{"r"}, door: "a"}))
		r.publish(version("c", content{clusters: []string{"bad", "other"}, routes: []string{"r"}, door: "a"}))
		r.expect("a")
		if s := r.State(); s.Rejected != "c" || s.Rejects != 2 || !strings.Contains(s.Reason, "no such cluster type") {
			t.Errorf("state: %+v", s)
		}
		r.publish(version("d", content{clusters: []string{"innocent"}, routes: []string{"r"}, door: "a"}))
		r.expect("d")
		r.expectNames(resourcev3.ClusterType, "cluster-a", "innocent")
	})
}

// TestFirstVersionsShareWhatWasRefusedWithOthers: nothing is live to go back to, and yet what was refused along with
// a bad cluster is sent once more.
func TestFirstVersionsShareWhatWasRefusedWithOthers(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.judgeBy(refusing("bad", "no"))
		r.envoy.connect()
		r.publish(version("a", content{clusters: []string{"bad", "innocent"}, routes: []string{"r"}, door: "d"}))
		r.publish(version("b", content{clusters: []string{"innocent"}, routes: []string{"r"}, door: "d"}))
		r.expect("b")
	})
}

// TestNewEnvoyRefusesTheLastGoodVersion: what it lacks is not served under the name of a version that has it too.
func TestNewEnvoyRefusesTheLastGoodVersion(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		r.publish(version("a", content{clusters: []string{"c"}, routes: []string{"r"}, door: "taken"}))
		r.expect("a")
		r.envoy.disconnect()
		r.envoy.restart()
		r.envoy.judgeBy(refusing("door", "cannot bind"))
		r.envoy.connect()
		r.publish(version("b", content{clusters: []string{"c", "d"}, routes: []string{"r"}, door: "taken"}))
		r.expect()
		if s := r.State(); s.Serving != "a" || s.Rejected != "b" || !strings.Contains(s.Reason, "cannot bind") {
			t.Errorf("state: %+v", s)
		}
		r.envoy.judgeBy(nil)
		r.publish(version("c", content{clusters: []string{"c", "d"}, routes: []string{"r"}, door: "free"}))
		r.expect("c")
	})
}

// TestRefusalsAreTold: with what was refused, by the names of the response, or of what is lacking where it was refused with a version before.
func TestRefusalsAreTold(t *testing.T) {
	var told []string
	opts := Options{Refused: func(r Refusal) {
		told = append(told, r.Version+" "+shortType(r.TypeURL)+" "+strings.Join(r.Names, ",")+": "+r.Reason)
	}}
	inRig(t, opts, func(t *testing.T, r *rig) {
		expect := func(want ...string) {
			t.Helper()
			if !slices.Equal(told, want) {
				t.Errorf("told %q, want %q", told, want)
			}
			told = nil
		}
		r.envoy.judgeBy(refusing("bad", "no"))
		r.envoy.connect()
		r.publish(version("a", content{clusters: []string{"bad", "innocent"}, routes: []string{"r"}, door: "d"}))
		expect("a Cluster bad,innocent: Cluster: no")
		r.publish(version("b", content{clusters: []string{"innocent"}, routes: []string{"r"}, door: "d"}))
		r.expect("b")
		expect()
		r.publish(version("c", content{clusters: []string{"bad", "innocent"}, routes: []string{"r"}, door: "d"}))
		expect("c Cluster bad: Cluster: no")
		r.publish(version("d", content{clusters: []string{"innocent"}, routes: []string{"r"}, door: "d"}))

		// Another Envoy refuses what is served; and a version with the same, about which it is not asked again.
		r.envoy.disconnect()
		r.envoy.restart()
		r.envoy.judgeBy(refusing("innocent", "not here"))
		r.envoy.connect()
		expect("d Cluster innocent: Cluster: not here")
	})
}
