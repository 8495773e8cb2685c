package serve

import (
	"slices"
	"sync"
	"testing"

	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
)

// TestPresence: a fresh Envoy is told from one that comes back, before it is sent anything.
func TestPresence(t *testing.T) {
	var (
		mu     sync.Mutex
		events []string
		r      *rig
	)
	note := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, s)
	}
	expect := func(want ...string) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if !slices.Equal(events, want) {
			t.Errorf("told %q, want %q", events, want)
		}
		events = nil
	}
	inRig(t, Options{Presence: Presence{
		Came: func(fresh bool) {
			if fresh {
				note("fresh")
			} else {
				note("back")
			}
			if got := r.envoy.received(); got != "" {
				t.Errorf("it had been sent %q", got)
			}
		},
		Went: func() { note("went") },
	}}, func(t *testing.T, in *rig) {
		r = in
		r.publish(one("a"))
		r.envoy.connect()
		expect("fresh")
		r.expectNames(resourcev3.ClusterType, "cluster-a")
		r.envoy.received()
		r.envoy.disconnect()
		expect("went")
		r.envoy.connect()
		expect("back")
		r.envoy.disconnect()
		r.envoy.restart()
		r.envoy.received()
		r.envoy.connect()
		expect("went", "fresh")

		// The next comes before the one before has gone, whose end is of no interest then.
		r.envoy.received()
		before := r.envoy.snapshotOfStream()
		r.envoy.connect()
		expect("back")
		before.hangUp()
		<-before.finished
		settle()
		expect()
		r.envoy.disconnect()
		expect("went")
	})
}
