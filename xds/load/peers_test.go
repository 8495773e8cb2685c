package load

import (
	"maps"
	"testing"
	"time"

	"github.com/weir-dev/weir/xds/compile"
)

func TestPeerRatios(t *testing.T) {
	route := func(list ...compile.SteeredMember) compile.SteeredRoute { return compile.SteeredRoute{Members: list} }
	at := func(backend string, priority int32) compile.SteeredMember {
		return compile.SteeredMember{Backend: backend, Weight: 1, Priority: priority}
	}
	own := map[string]time.Duration{"a": 100 * time.Millisecond, "b": 300 * time.Millisecond, "c": 800 * time.Millisecond}
	for _, c := range []struct {
		name   string
		routes map[string]compile.SteeredRoute
		want   map[string]float64
	}{
		{"two", map[string]compile.SteeredRoute{"r": route(at("a", 0), at("b", 0))}, map[string]float64{"a": 2, "b": 200.0 / 300}},
		{"three", map[string]compile.SteeredRoute{"r": route(at("a", 0), at("b", 0), at("c", 0))}, map[string]float64{"a": 3, "b": 1, "c": 0.375}},
		{"alone at its priority", map[string]compile.SteeredRoute{"r": route(at("a", 0), at("b", 1))}, map[string]float64{}},
		{"one that is not known", map[string]compile.SteeredRoute{"r": route(at("a", 0), at("x", 0))}, map[string]float64{}},
		{"weight 0", map[string]compile.SteeredRoute{"r": route(at("a", 0), compile.SteeredMember{Backend: "b"})}, map[string]float64{}},
		{"the least of two rules", map[string]compile.SteeredRoute{
			"r": route(at("b", 0), at("a", 0)), "s": route(at("b", 0), at("c", 0)),
		}, map[string]float64{"a": 2, "b": 200.0 / 300, "c": 0.6875}},
	} {
		if got := peerRatios(own, c.routes); !maps.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}
