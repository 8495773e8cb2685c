package status

import (
	"maps"
	"slices"
	"sync"

	"github.com/weir-dev/weir/xds/accept"
	"github.com/weir-dev/weir/xds/source"
)

// remembered is how many configurations a Tracker and a Writer know the objects of.
const remembered = 64

// Tracker knows which objects the last versions were compiled from, to make a Report of what an Envoy or a sidecar says that it serves. It is safe for
// concurrent use.
type Tracker struct {
	mu    sync.Mutex
	sets  map[string]Set // by the ID of the version, and by the digest of what was compiled
	names []string       // oldest first
}

// NewTracker returns a Tracker that knows no version.
func NewTracker() *Tracker { return &Tracker{sets: map[string]Set{}} }

// Compiled tells of a version, before it is served. A Result without one is nothing to remember.
func (t *Tracker) Compiled(objs *source.Objects, res accept.Result) {
	if res.Version == nil {
		return
	}
	set, digest := SetOf(objs, res), res.Objects.Digest()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, name := range []string{res.Version.ID, digest} {
		if _, known := t.sets[name]; known {
			t.names = slices.DeleteFunc(t.names, func(n string) bool { return n == name })
		}
		t.sets[name] = set
		t.names = append(t.names, name)
	}
	for len(t.names) > 2*remembered {
		delete(t.sets, t.names[0])
		t.names = t.names[1:]
	}
}

// Report says how many replicas serve what, by the version's ID or by the digest of the objects that it was compiled from; "" stands for nothing
// yet. Rejected is the same of what their Envoys refused, unless they serve something later.
func (t *Tracker) Report(serving map[string]int, rejected map[string]Refusal) Report {
	t.mu.Lock()
	defer t.mu.Unlock()
	var r Report
	for _, name := range slices.Sorted(maps.Keys(serving)) {
		if serving[name] > 0 {
			r.Serving = append(r.Serving, Serving{t.set(name), serving[name]})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(rejected)) {
		if refusal := rejected[name]; name != "" && refusal.Replicas > 0 {
			r.Rejected = append(r.Rejected, Rejection{t.set(name), refusal.Replicas, plain(refusal.Reason, maxReason)})
		}
	}
	return r
}

// set is what is known of a version; one that is not known goes by its name, which the leader may know.
func (t *Tracker) set(name string) Set {
	if s, ok := t.sets[name]; ok {
		return s
	}
	return Set{Digest: name}
}
