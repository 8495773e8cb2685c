package kubernetes

import (
	"cmp"
	"slices"
	"strings"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// server is one that can stand behind a Backend.
type server struct {
	id          string // what it is, whichever address it is reached by; "" where only the address is known
	address     string
	port        int32
	ready       bool
	serving     bool // answers requests still, though it is about to end
	otherFamily bool // its address is not of the IP family that is preferred
}

// usable returns the servers that can be asked: the ready ones; where there is none, those that still serve while they end.
// Each server is there once, by address and port.
func usable(servers []server) []v1alpha1.Endpoint {
	out := once(servers, func(s server) bool { return s.ready })
	if len(out) == 0 {
		out = once(servers, func(s server) bool { return s.serving })
	}
	return out
}

func once(servers []server, wanted func(server) bool) []v1alpha1.Endpoint {
	best := map[string]server{}
	for _, s := range servers {
		if !wanted(s) || s.address == "" || s.port == 0 {
			continue
		}
		id := cmp.Or(s.id, "address "+s.address)
		if old, ok := best[id]; !ok || preferred(s, old) < 0 {
			best[id] = s
		}
	}
	out := make([]v1alpha1.Endpoint, 0, len(best))
	for _, s := range best {
		out = append(out, v1alpha1.Endpoint{Address: s.address, Port: s.port, Weight: 1})
	}
	slices.SortFunc(out, func(a, b v1alpha1.Endpoint) int {
		return cmp.Or(strings.Compare(a.Address, b.Address), cmp.Compare(a.Port, b.Port))
	})
	return slices.Compact(out)
}

// preferred orders the ways to one server.
func preferred(a, b server) int {
	if a.otherFamily != b.otherFamily {
		if b.otherFamily {
			return -1
		}
		return 1
	}
	return cmp.Or(strings.Compare(a.address, b.address), cmp.Compare(a.port, b.port))
}
