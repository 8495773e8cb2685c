package kubernetes

import (
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
)

// late are the Backends that Routes name and that are not there, though that may be for a moment only: each kind is a list of its own, and what was
// changed in two of them, one after the other, may be seen in any order. Of a Backend and its Route that are renamed, a reading between the two
// would have requests answered with 503. So a reading waits a little where a Route begins to name what is not there, or where a Backend goes that a
// Route names.
type late struct {
	until map[source.ObjectRef]time.Time // by Backend; past ones are not waited for any more
}

// noLonger is how long after its end a wait is remembered, so that a Route with a wrong name does not delay others at each of its changes.
const noLonger = time.Minute

// note takes the Backends that are missing since the last call: of Routes that have changed, and those that have gone. all are the Routes
// as they are now, and there says whether a Backend is.
func (l *late) note(changed, all []*record, gone []source.ObjectRef, there func(source.ObjectRef) bool, now time.Time, patience time.Duration) {
	for ref, until := range l.until {
		if there(ref) || now.Sub(until) > noLonger {
			delete(l.until, ref)
		}
	}
	wait := func(ref source.ObjectRef) {
		if _, known := l.until[ref]; !known && !there(ref) {
			l.until[ref] = now.Add(patience)
		}
	}
	for _, rec := range changed {
		eachBackend(rec, wait)
	}
	if len(gone) == 0 {
		return
	}
	left := map[source.ObjectRef]bool{}
	for _, ref := range gone {
		left[ref] = true
	}
	for _, rec := range all {
		eachBackend(rec, func(ref source.ObjectRef) {
			if left[ref] {
				wait(ref)
			}
		})
	}
}

// deadline is until when Backends are waited for that are named by Routes as they are now; zero where none is.
func (l *late) deadline(all []*record, there func(source.ObjectRef) bool, now time.Time) (latest time.Time) {
	waiting := false
	for ref, until := range l.until {
		waiting = waiting || until.After(now) && !there(ref)
	}
	if !waiting {
		return time.Time{}
	}
	for _, rec := range all {
		eachBackend(rec, func(ref source.ObjectRef) {
			if until := l.until[ref]; until.After(latest) && !there(ref) {
				latest = until
			}
		})
	}
	return latest
}

// eachBackend calls f for each Backend that a Route names.
func eachBackend(rec *record, f func(source.ObjectRef)) {
	route, ok := rec.object.(*v1alpha1.Route)
	if !ok {
		return
	}
	for i := range route.Spec.Rules {
		for _, b := range route.Spec.Rules[i].Backends {
			ref := source.ObjectRef{Kind: "Backend", Namespace: string(b.Namespace), Name: string(b.Name)}
			if ref.Namespace == "" {
				ref.Namespace = rec.ref.Namespace
			}
			f(ref)
		}
	}
}
