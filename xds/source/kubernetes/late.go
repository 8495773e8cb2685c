package kubernetes

import (
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
)

// late holds back what would leave a Route without a Backend for a moment only: each kind is a list of its own, and what was changed in two of
// them, one after the other, may be seen in any order. Of a Backend and its Route that are renamed, a reading between the two would have requests
// answered with 503. So a Route that begins to name what is not there waits a little, as it was before, and so does the end of a Backend that a
// Route names. Nothing else waits.
type late struct {
	until map[source.ObjectRef]time.Time // by Backend; past ones are not waited for any more
	held  map[source.ObjectRef]*record   // Routes, and Backends that are gone (nil)
}

func newLate() late {
	return late{until: map[source.ObjectRef]time.Time{}, held: map[source.ObjectRef]*record{}}
}

// noLonger is how long after its end a wait is remembered, so that a Route with a wrong name does not wait at each of its changes.
const noLonger = time.Minute

// sift takes out of the changes of Routes and Backends what has to wait, and puts back in what has waited. routes and backends are as they were
// before.
func (l *late) sift(changedRoutes, changedBackends map[source.ObjectRef]*record, routes, backends *collection, now time.Time, patience time.Duration) {
	for ref, rec := range l.held {
		changes := changedRoutes
		if ref.Kind == "Backend" {
			changes = changedBackends
		}
		if _, newer := changes[ref]; !newer {
			changes[ref] = rec
		}
	}
	clear(l.held)
	there := func(ref source.ObjectRef) bool {
		if rec, changed := changedBackends[ref]; changed {
			return rec != nil
		}
		return backends.has(ref)
	}
	for ref, until := range l.until {
		if there(ref) || now.Sub(until) > noLonger {
			delete(l.until, ref)
		}
	}
	waits := func(backend source.ObjectRef) bool {
		if there(backend) {
			return false
		}
		if _, known := l.until[backend]; !known {
			l.until[backend] = now.Add(patience)
		}
		return l.until[backend].After(now)
	}
	for ref, rec := range changedRoutes {
		if rec != nil && anyBackend(rec, waits) {
			l.held[ref] = rec
			delete(changedRoutes, ref)
		}
	}
	gone := map[source.ObjectRef]bool{}
	for ref, rec := range changedBackends {
		if rec == nil && backends.has(ref) {
			gone[ref] = true
		}
	}
	if len(gone) == 0 {
		return
	}
	hold := func(rec *record) {
		anyBackend(rec, func(ref source.ObjectRef) bool {
			if gone[ref] && waits(ref) {
				l.held[ref] = nil
				delete(changedBackends, ref)
				delete(gone, ref)
			}
			return false
		})
	}
	for _, rec := range routes.records {
		if _, changed := changedRoutes[rec.ref]; !changed {
			hold(rec)
		}
	}
	for _, rec := range changedRoutes {
		if rec != nil {
			hold(rec)
		}
	}
}

// next is how long the first of what is held has to wait still; 0 where nothing is.
func (l *late) next(now time.Time) (wait time.Duration) {
	if len(l.held) == 0 {
		return 0
	}
	for _, until := range l.until {
		if d := until.Sub(now); d > 0 && (wait == 0 || d < wait) {
			wait = d
		}
	}
	return max(wait, time.Millisecond)
}

// anyBackend says whether f is true of some Backend that a Route names.
func anyBackend(rec *record, f func(source.ObjectRef) bool) bool {
	route, ok := rec.object.(*v1alpha1.Route)
	if !ok {
		return false
	}
	for i := range route.Spec.Rules {
		for _, b := range route.Spec.Rules[i].Backends {
			ref := source.ObjectRef{Kind: "Backend", Namespace: string(b.Namespace), Name: string(b.Name)}
			if ref.Namespace == "" {
				ref.Namespace = rec.ref.Namespace
			}
			if f(ref) {
				return true
			}
		}
	}
	return false
}
