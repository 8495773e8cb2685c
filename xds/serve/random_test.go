package serve

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/weir-dev/weir/xds/compile"
)

// TestHundredRapidVersions: whatever is skipped, the last is served, and the invariant of activate holds.
func TestHundredRapidVersions(t *testing.T) {
	inRig(t, Options{}, func(t *testing.T, r *rig) {
		r.envoy.connect()
		go func() {
			for i := range 50 {
				r.publishOnly(one(fmt.Sprintf("x%d", i)))
			}
		}()
		for i := range 50 {
			r.publishOnly(one(fmt.Sprintf("y%d", i)))
		}
		synctest.Wait()
		r.publish(one("last"))
		if s := r.State(); s.Serving != "last" || s.Versions < 2 || s.Rejects != 0 {
			t.Errorf("state: %+v", s)
		}
		pass(2 * time.Minute)
		if s := r.State(); s.Retained != 1 {
			t.Errorf("state: %+v", s)
		}
	})
}

// publishOnly is publish without waiting, for use by several goroutines.
func (r *rig) publishOnly(v *compile.Version) {
	r.mu.Lock()
	r.published[v.ID] = v
	r.mu.Unlock()
	r.Publish(v)
}

// TestRandomLives plays random sequences of publishing, refusing, holding, hanging up and dying. The invariant
// of activate holds at every step; and in the end, with an Envoy that takes everything, the last version is served.
func TestRandomLives(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inRig(t, Options{}, func(t *testing.T, r *rig) { randomLife(t, r, rand.New(rand.NewPCG(seed, 2))) })
		})
	}
}

func randomLife(t *testing.T, r *rig, rng *rand.Rand) {
	connected := false
	letters := func(prefix string) (out []string) {
		for _, l := range "abcd" {
			if rng.IntN(2) == 0 {
				out = append(out, prefix+string(l))
			}
		}
		return out
	}
	random := func(i int) *compile.Version {
		return version(fmt.Sprintf("v%d", i), content{
			clusters: letters("c"), routes: letters("r"), door: fmt.Sprint(rng.IntN(2)), retain: time.Duration(rng.IntN(100)) * time.Second,
			secrets: map[string]string{"certificate": fmt.Sprint(rng.IntN(3)), "other" + fmt.Sprint(rng.IntN(2)): "x"},
		})
	}
	chance := rand.New(rand.NewPCG(rng.Uint64(), 3)) // of the goroutine that receives
	judge := func(*discoveryv3.DeltaDiscoveryResponse) verdict {
		switch chance.IntN(6) {
		case 0:
			return verdict{refuse: "by chance"}
		case 1, 2:
			return verdict{hold: true}
		}
		return verdict{}
	}
	r.envoy.judgeBy(judge)
	for i := range 40 {
		switch rng.IntN(7) {
		case 0, 1, 2:
			r.publish(random(i))
		case 3:
			if connected {
				r.envoy.release("", "")
			}
		case 4:
			if connected {
				r.envoy.disconnect()
			} else {
				r.envoy.connect()
			}
			connected = !connected
		case 5:
			if connected {
				r.envoy.disconnect()
			}
			r.envoy.restart()
			r.envoy.connect()
			connected = true
		case 6:
			pass(time.Duration(rng.IntN(60)) * time.Second)
		}
	}
	r.envoy.judgeBy(nil)
	if connected {
		r.envoy.disconnect()
	}
	r.envoy.restart()
	r.envoy.connect()
	r.publish(one("end"))
	if s := r.State(); s.Serving != "end" || s.Pending != "" || s.Rejected != "" {
		t.Fatalf("an Envoy that takes everything does not serve the last version: %+v", s)
	}
	pass(time.Hour)
	r.expectNames(awaited[0], "cluster-end")
	r.expectNames(awaited[2], "route-end")
}
