package status

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

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
	settled bool           // what is written is what should be, by all that is known
}

// lead writes statuses until ctx ends.
func (w *Writer) lead(ctx context.Context) {
	if err := w.events.start(ctx); err != nil {
		w.opts.Log.Warn("events cannot be recorded", "err", err)
	}
	l := &leader{Writer: w, queue: newQueue(w), known: map[string]Set{}}
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
				read, l.settled = now, false
			}
		}
		if due {
			l.poll(ctx)
		}
		if !read.IsZero() && !l.settled {
			l.settled = l.evaluate()
		}
		select {
		case <-ctx.Done():
		case <-poll.C:
			due = true
		case <-w.changed:
			due, l.settled = false, false
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
	return true
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
	if l.silent || !reflect.DeepEqual(reports, l.reports) {
		l.settled = false
	}
	l.silent, l.reports = false, reports
}

// evaluate compares what is written of every object with what should be. It says whether that is the same.
func (l *leader) evaluate() (settled bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.objs == nil || l.reports == nil || l.silent {
		return false
	}
	settled = true
	f := l.fleet()
	now := l.opts.Now()
	objects := l.objs.All()
	l.queue.mu.Lock()
	defer l.queue.mu.Unlock()
	for _, o := range objects {
		ref := source.RefOf(o)
		e := l.queue.entry(ref)
		kept, at := l.res.Refused[ref], l.older[ref]
		if kept == accept.Older && at == 0 {
			kept = accept.LeftOut
		}
		v := judge(o, l.problems[ref], kept, at, f, e.conditions(o.GetUID()))
		if !l.queue.want(ref, e, v, now) {
			settled = false
		}
	}
	l.queue.sweep(objects)
	return settled
}

// fleet puts the reports together.
func (l *leader) fleet() *fleet {
	f := &fleet{trouble: l.trouble}
	for _, process := range slices.Sorted(maps.Keys(l.reports)) {
		report := l.reports[process]
		refused := 0
		for _, r := range report.Rejected {
			refused += r.Replicas
			if found, ok := l.history.find(r.Set); ok {
				f.rejected = append(f.rejected, rejected{counted{found, r.Replicas}, r.Reason})
			}
		}
		newest, newestSerial := Set{}, 0
		for _, s := range report.Serving {
			if s.Digest == "" {
				// A replica that has just started has not failed, unless its Envoy says so.
				failed := min(s.Replicas, refused)
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
