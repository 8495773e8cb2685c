package api

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/weir-dev/weir/console/state"
	"github.com/weir-dev/weir/xds/serve"
)

// TestOriginAway: what is served while the source of objects is away may be old, and the console says so for as long.
func TestOriginAway(t *testing.T) {
	r := newRig(t, 1)
	r.publisher.Store(&serve.State{Connected: true, Serving: "v1"})
	configured := func() Dependency {
		r.now = r.now.Add(time.Second)
		r.tick(r.now, false)
		var h History
		if err := json.Unmarshal(r.get("/api/history").Body.Bytes(), &h); err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(h.Dependencies, func(d Dependency) bool { return d.Kind == state.KindConfiguration })
		if i < 0 {
			t.Fatalf("no configuration in %+v", h.Dependencies)
		}
		return h.Dependencies[i]
	}
	if d := configured(); d.State != state.StateOK {
		t.Errorf("connected: %+v", d)
	}
	r.origin.Connected, r.origin.Reason = false, "the API server does not answer"
	if d := configured(); d.State != state.StateDegraded || d.Why != "what is served may be old: the API server does not answer" {
		t.Errorf("away: %s, %q", d.State, d.Why)
	}
	r.origin.Connected = true
	if d := configured(); d.State != state.StateOK {
		t.Errorf("back: %+v", d)
	}
}
