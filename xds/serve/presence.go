package serve

import (
	"sync"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
)

// line tells Presence who is on the other end.
type line struct {
	presence Presence

	mu     sync.Mutex
	stream int64 // of the Envoy that has come last
	gone   bool  // it has gone
}

// asked says that a request has come on a stream and has not been answered. The first for clusters, with which Envoy
// begins, says what Envoy has.
func (l *line) asked(stream int64, r *discoveryv3.DeltaDiscoveryRequest) {
	if r.GetTypeUrl() != resourcev3.ClusterType {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if stream <= l.stream { // streams are numbered as they open
		return
	}
	l.stream, l.gone = stream, false
	if l.presence.Came != nil {
		l.presence.Came(len(r.GetInitialResourceVersions()) == 0)
	}
}

// closed says that a stream has ended.
func (l *line) closed(stream int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if stream != l.stream || l.gone {
		return
	}
	l.gone = true
	if l.presence.Went != nil {
		l.presence.Went()
	}
}
