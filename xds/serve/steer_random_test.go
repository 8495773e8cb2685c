package serve

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/weir-dev/weir/xds/compile"
)

// TestRandomSteering plays random sequences of publishing, steering, refusing, holding, hanging up and dying. What activate
// and steered promise holds at every step. In the end, with an Envoy that takes everything, the last version is served
// as the last overlay says.
func TestRandomSteering(t *testing.T) {
	for seed := range uint64(150) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inRig(t, Options{}, func(t *testing.T, r *rig) { randomSteering(t, r, rand.New(rand.NewPCG(seed, 11))) })
		})
	}
}

func randomSteering(t *testing.T, r *rig, rng *rand.Rand) {
	some := func(of ...string) (out []string) {
		for _, s := range of {
			if rng.IntN(3) > 0 {
				out = append(out, s)
			}
		}
		return out
	}
	random := func(id string) *compile.Version {
		return version(id, content{
			clusters: some("a", "b", "c"), pool: some(one1, two2, three3), routes: some("r", "s"), shares: []uint32{1, 1}[:1+rng.IntN(2)],
			door: fmt.Sprint(rng.IntN(2)), retain: time.Duration(rng.IntN(100)) * time.Second,
		})
	}
	serial := uint64(0)
	overlay := func() *Overlay {
		serial++
		o := &Overlay{Serial: serial, Endpoints: map[string]*endpointv3.ClusterLoadAssignment{}, Weights: map[string][]uint32{}}
		for _, c := range some("a", "b", "c", "unknown") {
			o.Endpoints[c] = randomSays(rng)
		}
		for _, key := range some("r", "s", "unknown") {
			o.Weights[key] = []uint32{rng.Uint32N(3), rng.Uint32N(3)}
		}
		return o
	}
	chance := rand.New(rand.NewPCG(rng.Uint64(), 3)) // of the goroutine that receives
	refuse, hold := rng.IntN(4), rng.IntN(4)         // in ten
	r.envoy.judgeBy(func(resp *discoveryv3.DeltaDiscoveryResponse) verdict {
		if slices.ContainsFunc(r.envoy.held, func(h *discoveryv3.DeltaDiscoveryResponse) bool { return h.GetTypeUrl() == resp.GetTypeUrl() }) {
			return verdict{hold: true} // Envoy takes what comes in the order in which it comes
		}
		switch n := chance.IntN(10); {
		case n < refuse:
			return verdict{refuse: "by chance"}
		case n < refuse+hold:
			return verdict{hold: true}
		}
		return verdict{}
	})
	connected := false
	for i := range 60 {
		switch rng.IntN(10) {
		case 0, 1:
			r.publish(random(fmt.Sprintf("v%d", i)))
		case 2:
			r.publishOnly(random(fmt.Sprintf("v%d", i))) // at the same time as what comes next
		case 3, 4:
			r.steer(overlay())
		case 5:
			r.Steer(overlay())
		case 6:
			if connected {
				r.envoy.release("", []string{"", "", "late"}[rng.IntN(3)])
			}
		case 7:
			if connected {
				r.envoy.disconnect()
			} else {
				r.envoy.connect()
			}
			connected = !connected
		case 8:
			if connected {
				r.envoy.disconnect()
			}
			if rng.IntN(2) == 0 {
				r.envoy.restart()
			}
			r.envoy.connect()
			connected = true
		case 9:
			pass(time.Duration(rng.IntN(60)) * time.Second)
		}
	}
	r.envoy.judgeBy(nil)
	if connected {
		r.envoy.disconnect()
	}
	r.envoy.restart()
	r.envoy.connect()
	r.publish(version("end", content{clusters: []string{"a", "b"}, pool: []string{one1, two2}, routes: []string{"r", "s"}, shares: []uint32{1, 1}, door: "end"}))
	last := weigh(serial+1, 40, 30)
	r.steer(last)
	if s := r.State(); s.Serving != "end" || s.Pending != "" || s.Rejected != "" {
		t.Fatalf("an Envoy that takes everything does not serve the last version: %+v", s)
	}
	if n := len(r.steerings); n == 0 || r.steerings[n-1] != fmt.Sprintf("%d taken", last.Serial) {
		t.Fatalf("an Envoy that takes everything has not taken the last overlay: %q", r.steerings)
	}
	pass(time.Hour)
	r.has("a", withWeight(40))
	r.has("b", plain)
	r.shares("r", 30, 10)
	r.shares("s", 1, 1)
	r.wellTold(t)
}

// wellTold: of each overlay Steered is told at most once that it was taken, and no more after it was refused; and of an overlay
// after a later one only that it was refused, by another Envoy.
func (r *rig) wellTold(t *testing.T) {
	t.Helper()
	told := map[string]string{}
	for _, s := range r.steerings {
		serial, what, _ := strings.Cut(s, " ")
		what, _, _ = strings.Cut(what, ":")
		if before := told[serial]; before == what || before == "refused" {
			t.Errorf("overlay %s is %s after it was %s: %q", serial, what, before, r.steerings)
		}
		told[serial] = what
	}
	if !slices.ContainsFunc(r.steerings, func(s string) bool { return strings.HasSuffix(s, "taken") }) {
		t.Error("no overlay was ever taken")
	}
}
