package usage

import (
	"container/list"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/usage/ledger"
)

// Finished is one request that is over, for those who show what has happened: spans, logs, metrics, the console. Nobody may change what
// it points to, nor keep Record or Entry after the call, except as copies.
type Finished struct {
	At time.Time
	// Record is Envoy's; nil where Envoy died before it came.
	Record *Record
	// Open is nil where the request was refused before anything was reserved, or Envoy had no decision.
	Open *Open
	// Entry is what the ledger has; nil where nothing was entered, as Open is.
	Entry *ledger.Entry
	// Failed are the attempts before the last one, and the last if it failed, in order. Of those before the last some may be missing: they
	// are told of by Envoy's best effort. The last is there in any case, from Record where Envoy has not told of it yet.
	Failed []Failed
}

// FinishedSink takes finished requests. It is called by several goroutines, while Envoy's records wait: it must return at once.
type FinishedSink func(*Finished)

// Begun is when the decision about a request was made: it was let in, and its backend was chosen.
func (o *Open) Begun() time.Time { return o.begun }

// Attempt is an attempt that Weir has prepared.
type Attempt struct {
	At            time.Time
	Backend       string
	UpstreamModel string
}

// Attempts are those that Weir has prepared so far, in order: of requests that go through a chain only.
func (o *Open) Attempts() []Attempt {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.prepared)
}

// Progress is how far a request has come.
type Progress struct {
	Attempts  int // that Weir has prepared
	Confirmed bool
	TextBytes int64 // of the answer, delivered so far; of translated streams only
}

// Progress of a request that may go on.
func (o *Open) Progress() Progress {
	o.mu.Lock()
	defer o.mu.Unlock()
	return Progress{Attempts: o.attempts, Confirmed: o.confirmed, TextBytes: o.textBytes}
}

// Each calls f for every request that is not settled, until it returns false. Requests that begin or end meanwhile may be missing.
func (d *Desk) Each(f func(*Open) bool) {
	for i := range d.shards {
		s := &d.shards[i]
		s.mu.Lock()
		open := make([]*Open, 0, len(s.m))
		for _, o := range s.m {
			open = append(open, o)
		}
		s.mu.Unlock()
		for _, o := range open {
			if !f(o) {
				return
			}
		}
	}
}

// Failed keeps a failed attempt until its request ends. It is a FailedSink. Envoy tells of an attempt before it tells of its request, but for
// the last one, which it may end later: that changes nothing, because Close has made up for it.
func (d *Desk) Failed(f *Failed) {
	d.failed.put(*f, d.opts.Now())
	d.follows.failed(f)
}

// failures keeps failed attempts by the span of their request. Most requests have none.
type failures struct {
	n     atomic.Int64 // of m: while nothing fails, requests share no lock
	mu    sync.Mutex
	m     map[string]*list.Element
	order list.List // of *failing, the oldest first
	over  spanSet   // of requests that ended before all their failures were told
}

type failing struct {
	span     string
	at       time.Time
	attempts []Failed
}

const (
	// maxFailing requests that failed attempts are kept of: more are failing only where everything is. Then the oldest are forgotten: they
	// are the likeliest to be over, told of after their end.
	maxFailing = 4096
	// maxFailedAttempts of a request: as many as it may make.
	maxFailedAttempts = 16
	// maxOver requests whose late attempts are known to be late: such an attempt comes within a fraction of a second.
	maxOver = 4096
	// failingLife is how long a request may run on after an attempt failed.
	failingLife = time.Hour
)

func (x *failures) put(f Failed, now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over.has(f.Span) {
		return
	}
	e := x.m[f.Span]
	if e == nil {
		if len(x.m) >= maxFailing {
			x.remove(x.order.Front())
		}
		if x.m == nil {
			x.m = map[string]*list.Element{}
		}
		e = x.order.PushBack(&failing{span: f.Span, at: now})
		x.m[f.Span] = e
		x.n.Store(int64(len(x.m)))
	}
	if r := e.Value.(*failing); len(r.attempts) < maxFailedAttempts {
		r.attempts = append(r.attempts, f)
	}
}

// take gives the failed attempts of a request, in order, and forgets them.
func (x *failures) take(span string) []Failed {
	if span == "" || x.n.Load() == 0 {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.m[span]
	if e == nil {
		return nil
	}
	return inOrder(x.remove(e).attempts)
}

// end gives the failed attempts of a request whose last one failed, or was broken off. If nobody has told of that one, it is last, and what
// is told of the request from now on is late. last is nil where the record does not say that it failed. A request that ends once more has none.
func (x *failures) end(span string, attempts int, last *Failed) (list []Failed, made bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over.has(span) {
		return nil, false
	}
	if e := x.m[span]; e != nil {
		list = inOrder(x.remove(e).attempts)
	}
	if slices.ContainsFunc(list, func(f Failed) bool { return f.N == attempts }) {
		return list, false
	}
	if span != "" {
		x.over.add(span)
	}
	if last != nil {
		list = append(list, *last)
	}
	return list, last != nil
}

func inOrder(list []Failed) []Failed {
	slices.SortStableFunc(list, func(a, b Failed) int { return a.N - b.N })
	return list
}

// spanSet holds the latest maxOver spans that were added.
type spanSet struct {
	m    map[string]struct{}
	ring []string
	next int
}

func (s *spanSet) has(span string) bool {
	_, ok := s.m[span]
	return ok
}

// add adds a span that it does not have.
func (s *spanSet) add(span string) {
	if s.m == nil {
		s.m = map[string]struct{}{}
	}
	s.m[span] = struct{}{}
	if len(s.ring) < maxOver {
		s.ring = append(s.ring, span)
		return
	}
	delete(s.m, s.ring[s.next])
	s.ring[s.next] = span
	s.next = (s.next + 1) % maxOver
}

// sweep forgets those of requests whose end was missed.
func (x *failures) sweep(now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for e := x.order.Front(); e != nil && now.Sub(e.Value.(*failing).at) > failingLife; e = x.order.Front() {
		x.remove(e)
	}
}

// remove forgets those of one request. It needs the lock.
func (x *failures) remove(e *list.Element) *failing {
	r := x.order.Remove(e).(*failing)
	delete(x.m, r.span)
	x.n.Store(int64(len(x.m)))
	return r
}
