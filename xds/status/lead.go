package status

import (
	"context"
	"maps"
	"math"
	"reflect"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/accept"
	"github.com/weir-dev/weir/xds/source"
)

// leader is what a Writer is while it leads.
type leader struct {
	*Writer
	queue *queue

	known   map[string]Set // the last Set of each process that this one has read, too
	reports Reports        // the last; nil before the first
	silent  bool           // they cannot be read
	fleet   *fleet         // by which statuses were judged last; nil before that
	// open are the objects that, when they were judged last, were not programmed, or were on some replicas only: whatever becomes of the fleet
	// concerns them.
	open map[source.ObjectRef]bool
}

func newLeader(w *Writer) *leader {
	return &leader{Writer: w, queue: newQueue(w), known: map[string]Set{}, open: map[source.ObjectRef]bool{}}
}

// lead writes statuses until ctx ends.
func (w *Writer) lead(ctx context.Context) {
	if err := w.events.start(ctx); err != nil {
		w.opts.Log.Warn("events cannot be recorded", "err", err)
	}
	l := newLeader(w)
	defer w.renew() // nobody judges what is noted until the next term
	var workers sync.WaitGroup
	for range writers {
		workers.Go(func() { l.queue.work(ctx) })
	}
	defer workers.Wait()
	poll := time.NewTicker(w.opts.Poll)
	defer poll.Stop()
	var read time.Time // when all statuses were read
	for due := true; ctx.Err() == nil; {
		if now := w.opts.Now(); due && (read.IsZero() || now.Sub(read) >= w.opts.Resync) {
			if l.resync(ctx) {
				read = now
			}
		}
		if due {
			l.poll(ctx)
		}
		if !read.IsZero() {
			l.evaluate()
		}
		select {
		case <-ctx.Done():
		case <-poll.C:
			due = true
		case <-w.changed:
			due = false
		}
	}
}

// resync reads what is written. It says whether that was possible.
func (l *leader) resync(ctx context.Context) bool {
	statuses, err := l.api.statuses(ctx, l.opts.Watched)
	if err != nil {
		if ctx.Err() == nil {
			l.opts.Log.Warn("statuses cannot be compared with what is written, and are not written until they can", "err", err)
		}
		return false
	}
	l.queue.reset(statuses)
	l.renew()
	return true
}

// renew has all objects judged anew.
func (w *Writer) renew() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.news = news{all: true}
}

// poll asks for the reports.
func (l *leader) poll(ctx context.Context) {
	reports, err := l.opts.Reports(ctx)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		if !l.silent {
			l.opts.Log.Warn("it is not known what the replicas serve; statuses stay as they are", "err", err)
		}
		l.silent = true
		return
	}
	l.silent, l.reports = false, reports
}

// evaluate compares what is written of objects with what should be: of those of which something may have changed, and of those whose time has
// come.
func (l *leader) evaluate() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.objs == nil || l.reports == nil || l.silent {
		return
	}
	f := l.merge()
	l.affects(f)
	l.fleet = f
	now := l.opts.Now()
	l.queue.mu.Lock()
	defer l.queue.mu.Unlock()
	if l.news.all {
		clear(l.open)
		objects := l.objs.All()
		for _, o := range objects {
			l.judge(source.RefOf(o), identityOf(o), now)
		}
		l.queue.sweep(objects)
	} else {
		for ref, due := range l.queue.unsettled {
			if !now.Before(due) {
				l.news.of(ref)
			}
		}
		for ref := range l.news.objects {
			if is := l.history.current(ref); is != (identity{}) {
				l.judge(ref, is, now)
			} else {
				l.queue.forget(ref)
				delete(l.open, ref)
			}
		}
	}
	l.news = news{objects: map[source.ObjectRef]bool{}}
}

// judge judges one object. The locks are held.
func (l *leader) judge(ref source.ObjectRef, is identity, now time.Time) {
	e := l.queue.entry(ref)
	kept, at := l.res.Refused[ref], l.older[ref]
	if kept == accept.Older && at == 0 {
		kept = accept.LeftOut
	}
	v := judge(ref, is, l.problems[ref], kept, at, l.fleet, e.conditions(is.uid))
	if programmed := v.condition(v1alpha1.ConditionProgrammed); programmed.Status == metav1.ConditionFalse {
		l.open[ref] = true
	} else {
		delete(l.open, ref)
	}
	l.queue.want(ref, e, v, now)
}

// affects notes of which objects the verdict may be another one by a fleet than by the last.
func (l *leader) affects(f *fleet) {
	before := l.fleet
	if before == nil || f.total != before.total || f.unknown != before.unknown || f.trouble != before.trouble ||
		f.total == 0 && f.starting != before.starting {
		l.news = news{all: true}
	}
	if l.news.all || f.same(before) {
		return
	}
	for ref := range l.open {
		l.news.of(ref)
	}
	// An object that is the same in all that is served and refused, before and now, is programmed on as many replicas as it was.
	first, last := math.MaxInt, 0
	for _, of := range []*fleet{before, f} {
		for ref := range of.refused {
			l.news.of(ref)
		}
		of.each(func(s lookup) {
			first, last = min(first, s.serial), max(last, s.serial)
			for ref := range s.except {
				l.news.of(ref)
			}
		})
	}
	if !l.history.between(first, last, l.news.of) {
		l.news = news{all: true}
	}
}

// each calls fn with what the replicas serve, and what Envoy refuses.
func (f *fleet) each(fn func(lookup)) {
	for _, s := range f.serving {
		fn(s.lookup)
	}
	for _, r := range f.rejected {
		fn(r.lookup)
	}
}

// same says whether all is judged alike by two fleets with as many replicas.
func (f *fleet) same(other *fleet) bool {
	return slices.EqualFunc(f.serving, other.serving, func(a, b counted) bool { return a.replicas == b.replicas && a.lookup.same(b.lookup) }) &&
		slices.EqualFunc(f.rejected, other.rejected, func(a, b rejected) bool {
			return a.replicas == b.replicas && a.reason == b.reason && a.lookup.same(b.lookup)
		}) &&
		maps.EqualFunc(f.refused, other.refused, slices.Equal)
}

// merge puts the reports together.
func (l *leader) merge() *fleet {
	f := &fleet{trouble: l.trouble, refused: map[source.ObjectRef][]refused{}}
	for _, process := range slices.Sorted(maps.Keys(l.reports)) {
		report := l.reports[process]
		failing := 0
		for _, r := range report.Rejected {
			failing += r.Replicas
			if found, ok := l.history.find(r.Set); ok {
				f.rejected = append(f.rejected, rejected{counted{found, r.Replicas}, r.Reason})
			}
		}
		for _, r := range report.Refused {
			ref := source.ObjectRef{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}
			f.refused[ref] = append(f.refused[ref], refused{identity{r.UID, r.Generation}, r.Replicas, r.Reason})
		}
		newest, newestSerial := Set{}, 0
		for _, s := range report.Serving {
			if s.Digest == "" {
				// A replica that has just started has not failed, unless its Envoy says so.
				failed := min(s.Replicas, failing)
				f.total, f.starting = f.total+failed, f.starting+s.Replicas-failed
				continue
			}
			f.total += s.Replicas
			found, ok := l.history.find(s.Set)
			switch {
			case ok:
				if found.serial > newestSerial {
					newest, newestSerial = s.Set, found.serial
				}
			default:
				// It has read what this process has not, or not yet: what it served before it most likely still does.
				found, ok = l.history.find(l.known[process])
			}
			if !ok {
				f.unknown += s.Replicas
				continue
			}
			f.count(found, s.Replicas)
		}
		if newestSerial > 0 {
			l.known[process] = newest
		}
	}
	for process := range l.known {
		if _, alive := l.reports[process]; !alive {
			delete(l.known, process)
		}
	}
	f.rejected = mergeRejected(f.rejected)
	return f
}

// count adds replicas to those that serve the same.
func (f *fleet) count(found lookup, replicas int) {
	for i := range f.serving {
		if s := &f.serving[i]; s.same(found) {
			s.replicas += replicas
			return
		}
	}
	f.serving = append(f.serving, counted{found, replicas})
}

func (l lookup) same(other lookup) bool {
	return l.serial == other.serial && maps.Equal(l.except, other.except)
}

// mergeRejected counts equal refusals together.
func mergeRejected(all []rejected) []rejected {
	var out []rejected
next:
	for _, r := range all {
		for i := range out {
			if out[i].reason == r.reason && out[i].same(r.lookup) {
				out[i].replicas += r.replicas
				continue next
			}
		}
		out = append(out, r)
	}
	return out
}

// sameVerdict says whether two verdicts would be written alike.
func sameVerdict(a, b *verdict) bool {
	return a.identity == b.identity && reflect.DeepEqual(a.conditions, b.conditions)
}
