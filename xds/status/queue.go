package status

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/time/rate"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
)

const (
	// writers write at the same time.
	writers = 8
	// burst is how many seconds' worth of writes may come at once.
	burst = 4
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
	writer  *Writer
	limiter *rate.Limiter

	mu      sync.Mutex
	filled  *sync.Cond
	entries map[source.ObjectRef]*entry
	urgent  []source.ObjectRef
	rest    []source.ObjectRef
}

func newQueue(w *Writer) *queue {
	q := &queue{writer: w, limiter: rate.NewLimiter(rate.Limit(w.opts.QPS), max(1, int(burst*w.opts.QPS))), entries: map[source.ObjectRef]*entry{}}
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
	for ref, e := range q.entries {
		if !there[ref] && !e.busy && !e.queued {
			delete(q.entries, ref)
		} else if !there[ref] {
			e.wanted = nil
		}
	}
}

// want takes what the status of an object should be, and queues it when it is time. It says whether that is written already. The lock is held.
func (q *queue) want(ref source.ObjectRef, e *entry, v verdict, now time.Time) (settled bool) {
	if e.busy {
		return false // what is written then is compared the next time
	}
	if e.says(&v) {
		e.wanted, e.held = nil, nil
		return true
	}
	if wait := q.patience(e, &v); wait > 0 {
		if e.held == nil || e.held.identity != v.identity || e.countsOnly(&v) && !sameVerdict(e.held, &v) {
			e.since = now
		}
		e.held = &v
		if now.Sub(e.since) < wait {
			e.wanted = nil
			return false
		}
	}
	if e.wanted == nil || !sameVerdict(e.wanted, &v) {
		e.wanted, e.tries, e.retry = &v, 0, time.Time{}
	}
	if e.queued || now.Before(e.retry) {
		return false
	}
	e.queued = true
	if e.conditions(v.uid) == nil || e.countsOnly(&v) {
		q.rest = append(q.rest, ref)
	} else {
		q.urgent = append(q.urgent, ref)
	}
	q.filled.Signal()
	return false
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
		if q.limiter.Wait(ctx) != nil {
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
	now := w.opts.Now()
	q.mu.Lock()
	before := e.conditions(v.uid)
	q.mu.Unlock()
	next := written{uid: v.uid, status: v1alpha1.Status{ObservedGeneration: v.generation, Conditions: make([]metav1.Condition, len(v.conditions))}}
	for i, c := range v.conditions {
		c.LastTransitionTime = metav1.NewTime(now.Truncate(time.Second))
		if was := conditionOf(before, c.Type); was.Status == c.Status && !was.LastTransitionTime.IsZero() {
			c.LastTransitionTime = was.LastTransitionTime
		}
		next.status.Conditions[i] = c
	}
	limited, cancel := context.WithTimeout(ctx, slow)
	there, err := w.api.write(limited, ref, next)
	cancel()

	q.mu.Lock()
	defer q.mu.Unlock()
	e.busy = false
	switch {
	case ctx.Err() != nil:
	case err != nil:
		e.tries++
		wait := min(maxBackoff, time.Second<<min(e.tries-1, 10))
		e.retry = now.Add(wait/2 + rand.N(wait/2))
		w.metrics.writes.WithLabelValues(resultError).Inc()
		if e.tries == 1 {
			w.opts.Log.Warn("a status is not written; it will be tried again", "object", ref.String(), "err", err)
		}
	case !there:
		// Its deletion is on its way here. Should it not be, the next reading of all statuses says so.
		e.wanted, e.held, e.written = nil, nil, &next
		w.metrics.writes.WithLabelValues(resultGone).Inc()
	default:
		e.wanted, e.held, e.written, e.tries = nil, nil, &next, 0
		w.metrics.writes.WithLabelValues(resultOK).Inc()
		for _, n := range notes(before, next.status.Conditions) {
			w.events.record(ref, next, n)
		}
	}
}
