package status

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
)

const (
	// writers write at the same time.
	writers = 8
	// maxBackoff is the longest time until a write that failed is tried again.
	maxBackoff = time.Minute
	// slow is how long a write may take.
	slow = 10 * time.Second
)

// entry is what is known of the status of one object.
type entry struct {
	written *written // on the API server; nil where nothing is
	wanted  *verdict // to be written; nil where nothing is
	held    *verdict // to be wanted once it has lasted
	since   time.Time
	queued  bool
	busy    bool
	tries   int       // that failed
	retry   time.Time // of the next
}

// conditions are those that are written of an object.
func (e *entry) conditions(uid types.UID) []metav1.Condition {
	if e.written == nil || e.written.uid != uid {
		return nil
	}
	return e.written.status.Conditions
}

// queue holds the statuses that are to be written. Those of objects that changed or were refused come first.
type queue struct {
	writer *Writer
	pace   *pace

	mu      sync.Mutex
	filled  *sync.Cond
	entries map[source.ObjectRef]*entry
	urgent  []source.ObjectRef
	rest    []source.ObjectRef
	// unsettled are the objects whose status is not written as it should be, with the time when they are to be judged again even if nothing
	// has changed.
	unsettled map[source.ObjectRef]time.Time
}

func newQueue(w *Writer) *queue {
	q := &queue{writer: w, pace: newPace(w.opts.QPS), entries: map[source.ObjectRef]*entry{}, unsettled: map[source.ObjectRef]time.Time{}}
	q.filled = sync.NewCond(&q.mu)
	return q
}

// reset takes over what is written.
func (q *queue) reset(statuses map[source.ObjectRef]written) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for ref, e := range q.entries {
		if _, there := statuses[ref]; !there && !e.busy {
			e.written = nil
		}
	}
	for ref, w := range statuses {
		if e := q.entry(ref); !e.busy { // a write that is under way is newer
			e.written = &w
		}
	}
}

// entry is that of an object. The lock is held.
func (q *queue) entry(ref source.ObjectRef) *entry {
	e := q.entries[ref]
	if e == nil {
		e = &entry{}
		q.entries[ref] = e
	}
	return e
}

// sweep forgets objects that are gone. The lock is held.
func (q *queue) sweep(objects []source.Object) {
	if len(q.entries) == len(objects) {
		return
	}
	there := make(map[source.ObjectRef]bool, len(objects))
	for _, o := range objects {
		there[source.RefOf(o)] = true
	}
	for ref := range q.entries {
		if !there[ref] {
			q.forget(ref)
		}
	}
}

// forget forgets an object that is gone, once no worker has it. The lock is held.
func (q *queue) forget(ref source.ObjectRef) {
	e := q.entries[ref]
	if e == nil {
		return
	}
	if e.wanted = nil; e.busy || e.queued {
		q.unsettled[ref] = time.Time{}
		return
	}
	delete(q.entries, ref)
	delete(q.unsettled, ref)
}

// never is when an object is judged that waits for a worker: as soon as that is done.
var never = time.Unix(1<<40, 0)

// want takes what the status of an object should be, and queues it when it is time. The lock is held.
func (q *queue) want(ref source.ObjectRef, e *entry, v verdict, now time.Time) {
	if due := q.await(ref, e, v, now); due.IsZero() {
		delete(q.unsettled, ref)
	} else {
		q.unsettled[ref] = due
	}
}

// await returns when to look again; the zero Time where all is written already.
func (q *queue) await(ref source.ObjectRef, e *entry, v verdict, now time.Time) time.Time {
	if e.busy {
		return never // what is written then is compared then
	}
	if e.says(&v) {
		e.wanted, e.held = nil, nil
		return time.Time{}
	}
	if wait := q.patience(e, &v); wait > 0 {
		if e.held == nil || e.held.identity != v.identity || e.countsOnly(&v) && !sameVerdict(e.held, &v) {
			e.since = now
		}
		e.held = &v
		if due := e.since.Add(wait); now.Before(due) {
			e.wanted = nil
			return due
		}
	}
	if e.wanted == nil || !sameVerdict(e.wanted, &v) {
		e.wanted, e.tries, e.retry = &v, 0, time.Time{}
	}
	if e.queued {
		return never
	}
	if now.Before(e.retry) {
		return e.retry
	}
	e.queued = true
	if e.conditions(v.uid) == nil || e.countsOnly(&v) {
		q.rest = append(q.rest, ref)
	} else {
		q.urgent = append(q.urgent, ref)
	}
	q.filled.Signal()
	return never
}

// says whether a verdict is written already.
func (e *entry) says(v *verdict) bool {
	if e.written == nil || e.written.uid != v.uid || e.written.status.ObservedGeneration != v.generation {
		return false
	}
	for i := range v.conditions {
		is := &v.conditions[i]
		was := conditionOf(e.written.status.Conditions, is.Type)
		was.LastTransitionTime = metav1.Time{}
		if was != *is {
			return false
		}
	}
	return true
}

// patience is for how long a verdict must have lasted before it is written.
func (q *queue) patience(e *entry, v *verdict) time.Duration {
	programmed := v.condition(v1alpha1.ConditionProgrammed)
	was := conditionOf(e.conditions(v.uid), v1alpha1.ConditionProgrammed)
	switch {
	case programmed.Type == "":
		return 0
	case was.Status == metav1.ConditionTrue && was.ObservedGeneration == v.generation && e.saysOtherwise(v):
		return q.writer.opts.Settle
	case programmed.Reason == ReasonPending || programmed.Reason == ReasonNoReplicas:
		return q.writer.opts.Grace
	}
	return 0
}

// saysOtherwise says whether all is written but what is about the replicas.
func (e *entry) saysOtherwise(v *verdict) bool {
	for i := range v.conditions {
		is := &v.conditions[i]
		was := conditionOf(e.written.status.Conditions, is.Type)
		if is.Type != v1alpha1.ConditionProgrammed && (was.Status != is.Status || was.Reason != is.Reason || was.Message != is.Message) {
			return false
		}
	}
	return true
}

// countsOnly says whether nothing but the number of replicas would be written.
func (e *entry) countsOnly(v *verdict) bool {
	was := conditionOf(e.conditions(v.uid), v1alpha1.ConditionProgrammed)
	is := v.condition(v1alpha1.ConditionProgrammed)
	return was.Status == metav1.ConditionTrue && is.Status == metav1.ConditionTrue && was.ObservedGeneration == v.generation && e.saysOtherwise(v)
}

// work writes until ctx ends.
func (q *queue) work(ctx context.Context) {
	defer context.AfterFunc(ctx, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.filled.Broadcast()
	})()
	for {
		if q.pace.wait(ctx) != nil {
			return
		}
		ref, e, v, ok := q.take(ctx)
		if !ok {
			return
		}
		q.write(ctx, ref, e, v)
	}
}

// take waits for what is to be written next; false when ctx has ended.
func (q *queue) take(ctx context.Context) (source.ObjectRef, *entry, verdict, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if ctx.Err() != nil {
			return source.ObjectRef{}, nil, verdict{}, false
		}
		from := &q.urgent
		if len(*from) == 0 {
			from = &q.rest
		}
		if len(*from) == 0 {
			q.filled.Wait()
			continue
		}
		ref := (*from)[0]
		*from = (*from)[1:]
		e := q.entry(ref)
		e.queued = false
		if e.wanted == nil {
			continue
		}
		e.busy = true
		return ref, e, *e.wanted, true
	}
}

// write writes one status, and tells of what it changes.
func (q *queue) write(ctx context.Context, ref source.ObjectRef, e *entry, v verdict) {
	w := q.writer
	began := w.opts.Now()
	before, next := q.compose(e, v, began)
	limited, cancel := context.WithTimeout(ctx, slow)
	there, err := w.api.write(limited, ref, next)
	cancel()
	if ctx.Err() != nil {
		return // this term is over
	}
	done := w.opts.Now()
	q.pace.done(done, done.Sub(began), err)
	if err != nil && q.failed(ref, e, done) {
		w.opts.Log.Warn("a status is not written; it will be tried again", "object", ref.String(), "err", err)
	}
	switch {
	case err != nil:
		w.metrics.writes.WithLabelValues(resultError).Inc()
		return
	case !there:
		// Its deletion is on its way here. Should it not be, the next reading of all statuses says so.
		w.metrics.writes.WithLabelValues(resultGone).Inc()
	default:
		w.metrics.writes.WithLabelValues(resultOK).Inc()
		for _, n := range notes(before, next.status.Conditions) {
			w.events.record(ref, next, n)
		}
	}
	q.wrote(ref, e, next)
}

// compose makes what is to be written of a verdict, and returns with it what is written.
func (q *queue) compose(e *entry, v verdict, now time.Time) (before []metav1.Condition, next written) {
	q.mu.Lock()
	before = e.conditions(v.uid)
	q.mu.Unlock()
	next = written{uid: v.uid, status: v1alpha1.Status{ObservedGeneration: v.generation, Conditions: make([]metav1.Condition, len(v.conditions))}}
	for i, c := range v.conditions {
		c.LastTransitionTime = metav1.NewTime(now.Truncate(time.Second))
		if was := conditionOf(before, c.Type); was.Status == c.Status && !was.LastTransitionTime.IsZero() {
			c.LastTransitionTime = was.LastTransitionTime
		}
		next.status.Conditions[i] = c
	}
	return before, next
}

// wrote takes note of what is written by now. The object is judged again: something may have changed meanwhile.
func (q *queue) wrote(ref source.ObjectRef, e *entry, is written) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e.busy, e.wanted, e.held, e.written, e.tries = false, nil, nil, &is, 0
	q.unsettled[ref] = time.Time{}
}

// failed has a write tried again later. It says whether it is the first that failed.
func (q *queue) failed(ref source.ObjectRef, e *entry, now time.Time) (first bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e.busy = false
	e.tries++
	wait := min(maxBackoff, time.Second<<min(e.tries-1, 10))
	e.retry = now.Add(wait/2 + rand.N(wait/2))
	q.unsettled[ref] = e.retry
	return e.tries == 1
}
