package usage

import (
	"slices"
	"sync"
	"sync/atomic"
)

// following finds requests by their spans: those whose attempts Envoy prepares by itself and whose places somebody counts, so that a
// failed attempt gives back its place while the next one runs, and not with the request. There are none of them where nothing is picked.
type following struct {
	n  atomic.Int64 // of m
	mu sync.Mutex
	m  map[string]*Open
}

// followed says whether a request is one of them.
func (o *Open) followed() bool {
	return o.Unasked && o.Hold != nil && len(o.Order) > 1 && o.Trace.Span != ""
}

func (x *following) add(o *Open) {
	if !o.followed() {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.m == nil {
		x.m = map[string]*Open{}
	}
	x.m[o.Trace.Span] = o
	x.n.Store(int64(len(x.m)))
}

func (x *following) remove(o *Open) {
	if !o.followed() {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.m[o.Trace.Span] == o {
		delete(x.m, o.Trace.Span)
		x.n.Store(int64(len(x.m)))
	}
}

// failed tells a request's Hold of the attempt that follows one that has failed, if there may be one.
func (x *following) failed(f *Failed) {
	if x.n.Load() == 0 || FailureReason(f) == "canceled" {
		return
	}
	x.mu.Lock()
	o := x.m[f.Span]
	x.mu.Unlock()
	if o != nil && f.N < len(o.Order) {
		o.Hold.Asked(f.N+1, o.Candidates[o.Order[f.N]].Backend)
	}
}

// lastOf is the number of the last of failed attempts; 0 where there are none.
func lastOf(list []Failed) (n int) {
	for i := range list {
		n = max(n, list[i].N)
	}
	return n
}

// Tried are the attempts of a request that runs which are known to have failed, in order.
func (d *Desk) Tried(o *Open) []Failed { return d.failed.of(o.Trace.Span) }

// of gives the failed attempts of a request, in order, and keeps them.
func (x *failures) of(span string) []Failed {
	if span == "" || x.n.Load() == 0 {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.m[span]; e != nil {
		return inOrder(slices.Clone(e.Value.(*failing).attempts))
	}
	return nil
}

// At is the backend that a request which runs is at; "" where nobody knows.
func (d *Desk) At(o *Open) string {
	if prepared := o.Attempts(); len(prepared) > 0 {
		return prepared[len(prepared)-1].Backend
	}
	if len(o.Candidates) == 1 {
		return o.Candidates[0].Backend
	}
	if len(o.Order) == 0 {
		return ""
	}
	return o.expected(lastOf(d.Tried(o)) + 1).Backend
}
