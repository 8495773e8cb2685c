package usage

import (
	"cmp"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage/ledger"
)

// Ledger keeps what Desk enters: *ledger.Ledger. Neither call may wait for anything but memory.
type Ledger interface {
	// Begin notes a request that goes on. If the process dies before its Commit, it is entered as interrupted.
	Begin(ledger.Intent) bool
	// Commit enters a request that has begun and ended.
	Commit(ledger.Entry) bool
}

// DeskOptions are what a Desk needs. All fields but Begun and Finished are required.
type DeskOptions struct {
	Ledger    Ledger
	Estimator *Estimator
	Registry  prometheus.Registerer // takes the metrics
	Now       func() time.Time
	// Begun begins a request that was let in ahead, when its record is there before anybody has seen it come, and says whether it is such a
	// one; nil where no request is let in ahead.
	Begun func(exchange string) bool
	// Finished is told of every request that is over: those that were let in, once they are settled, and those that were not.
	Finished FinishedSink
}

// Desk settles requests: it turns the end of each one into tokens, money and an entry, and gives back what was
// reserved. A request is settled once, by whoever is first: its record (Close), the death of the Envoy that had it (Lost),
// or time (Sweep).
type Desk struct {
	opts    DeskOptions
	metrics *deskMetrics
	seed    maphash.Seed
	shards  [deskShards]deskShard
	failed  failures
	follows following
}

const deskShards = 64 // a power of two; so that requests share no lock

type deskShard struct {
	mu     sync.Mutex
	m      map[string]*Open
	byPeek map[string]*Open // by PeekID; which has a shard of its own
	n      atomic.Int64     // of m
	_      [32]byte         // keep neighbours off one cache line
}

const (
	// confirmWithin is how long a decision may be on its way to Envoy. Nothing confirms it when the caller went away
	// while Envoy waited for it, and then Envoy's record does not name what was kept either.
	confirmWithin = 15 * time.Second
	// recordMargin is how long after the end of a request its record may come.
	recordMargin = 30 * time.Second
)

// NewDesk makes a Desk, and registers its metrics.
func NewDesk(o DeskOptions) *Desk {
	d := &Desk{opts: o, seed: maphash.MakeSeed()}
	for i := range d.shards {
		d.shards[i].m, d.shards[i].byPeek = map[string]*Open{}, map[string]*Open{}
	}
	d.metrics = newDeskMetrics(o.Registry, d.InFlight)
	return d
}

// InFlight is the number of requests that are not settled.
func (d *Desk) InFlight() int {
	n := int64(0)
	for i := range d.shards {
		n += d.shards[i].n.Load()
	}
	return int(n)
}

// Begin takes a request that was let in, before Envoy is told so. The Desk owns its Grant, Outcomes and Hold from now on.
func (d *Desk) Begin(o *Open) {
	o.desk, o.begun = d, d.opts.Now()
	s := d.shard(o.ID)
	s.mu.Lock()
	s.m[o.ID] = o
	s.n.Store(int64(len(s.m)))
	s.mu.Unlock()
	if o.PeekID != "" {
		s := d.shard(o.PeekID)
		s.mu.Lock()
		s.byPeek[o.PeekID] = o
		s.mu.Unlock()
	}
	d.follows.add(o)
}

// unpeek forgets by what a request was found that is not open any more.
func (d *Desk) unpeek(o *Open) {
	d.follows.remove(o)
	if o.PeekID == "" {
		return
	}
	s := d.shard(o.PeekID)
	s.mu.Lock()
	if s.byPeek[o.PeekID] == o {
		delete(s.byPeek, o.PeekID)
	}
	s.mu.Unlock()
}

// late finds a request whose caller had gone before Envoy had the decision: nil for all others.
func (d *Desk) late(peekID string) *Open {
	if peekID == "" {
		return nil
	}
	s := d.shard(peekID)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byPeek[peekID]
}

// Close settles the request that a record is of. It is a Sink. Records of requests that were never let in name no
// exchange; those that come twice, or are of a process that died, change nothing.
func (d *Desk) Close(r *Record) {
	id := r.Exchange
	if r.Fill == wire.FillTaken {
		d.failed.take(r.Trace.Span)
		return
	}
	if id == "" {
		o := d.late(r.PeekID)
		if o == nil || o.Abandon() {
			d.finished(Finished{Record: r, Failed: d.failedOf(r, nil, "")})
			return
		}
		id = o.ID
	}
	o := d.take(id)
	if o == nil && d.opts.Begun != nil && d.opts.Begun(id) {
		o = d.take(id)
	}
	if o == nil || !o.end() {
		d.metrics.unmatched.Inc()
		d.finished(Finished{Record: r, Failed: d.failed.take(r.Trace.Span)})
		return
	}
	if o.Relayed {
		r.Trace, r.Path = o.Trace, cmp.Or(o.Path, r.Path)
		d.relayedEnd(o, r)
		return
	}
	if o.Trace.Trace != "" {
		r.Trace = o.Trace // where Envoy did not take the decision, it knows another place, or none
	}
	if o.Path != "" {
		r.Path = o.Path
	}
	v := o.judge(r, d.opts.Estimator)
	if o.Hold != nil {
		// Before the entry and whatever else takes time: others may be waiting for the place.
		o.Hold.Ended(Ending{
			At: d.opts.Now(), Backend: r.Backend, Endpoint: r.Endpoint, Attempts: r.Attempts,
			Good: v.end == endGood, Bad: v.end == endBad, TTFT: r.FirstToken, Tokens: v.entry.Tokens,
			Answers: r.Signals,
		})
	}
	d.settle(o, &v)
	d.finished(Finished{Record: r, Open: o, Entry: &v.entry, Failed: d.failedOf(r, o, v.entry.Backend)})
	if v.exemplary {
		e := &v.entry
		k := Kind{Backend: e.Backend, Model: e.UpstreamModel, Dialect: o.Dialect, Operation: o.Operation, Stream: o.Stream}
		text := o.TextBytes
		if o.Native {
			text = int64(r.BytesIn)
		}
		if o.MediaTokens > 0 {
			text = 0 // nobody tells the tokens of the text from those of the media
		}
		d.opts.Estimator.Learn(k, text, int64(r.BytesOut), e.Tokens)
		// Before a backend is chosen, the caller's name is all there is.
		k.Backend, k.Model = "", o.Model
		d.opts.Estimator.LearnInput(k, text, e.Tokens)
	}
}

// Void takes back a request that was let in ahead and that Envoy has not gone on with after all, though it was taken to have come: it asks
// for it anew, and that request is the one that counts. The ledger, which knows that this one began, is told to forget it.
func (d *Desk) Void(id string) {
	o := d.take(id)
	if o == nil || !o.end() {
		return
	}
	if o.Grant != nil {
		o.Grant.Void()
	}
	for _, out := range o.Outcomes {
		out.Drop()
	}
	if o.Hold != nil {
		o.Hold.Free()
	}
	e := o.entry(nil)
	e.Void = true
	d.opts.Ledger.Commit(e)
	o.forget()
	o.isSettled(nil, "")
}

// Lost settles every request that began by now: the Envoy that had them is gone. Call it once no more records of that
// Envoy can come. It returns how many requests it has entered as interrupted.
//
// What was sent to a backend is charged its estimated input, because the backend has most likely read it, and the output
// that is known to have been delivered: for translated streams only, as nobody else has seen the others.
func (d *Desk) Lost(now time.Time) int {
	return d.give(now, func(o *Open) bool { return !o.begun.After(now) })
}

// Sweep settles requests whose record will not come any more: as Lost does those that must have ended long ago, and
// without an entry those that Envoy never went on with. Call it every few seconds. It returns how many
// requests it has entered as interrupted.
func (d *Desk) Sweep(now time.Time) int {
	d.failed.sweep(now)
	return d.give(now, func(o *Open) bool { return now.After(o.Expires.Add(recordMargin)) })
}

// give settles the requests that are over, and those that were not confirmed in time.
func (d *Desk) give(now time.Time, over func(*Open) bool) (interrupted int) {
	for i := range d.shards {
		var ended, abandoned []*Open
		s := &d.shards[i]
		s.mu.Lock()
		for id, o := range s.m {
			isOver := over(o)
			switch {
			case (isOver || now.Sub(o.begun) > confirmWithin) && o.abandon():
				abandoned = append(abandoned, o)
			case isOver && o.end():
				ended = append(ended, o)
			default:
				continue
			}
			delete(s.m, id)
		}
		s.n.Store(int64(len(s.m)))
		s.mu.Unlock()
		for _, o := range abandoned {
			d.unpeek(o)
			o.release(d)
		}
		for _, o := range ended {
			d.unpeek(o)
			if o.Relayed {
				d.relayedEnd(o, nil)
				continue
			}
			if o.Hold != nil {
				o.Hold.Free()
			}
			failed := d.failed.take(o.Trace.Span)
			v := o.interrupted(lastOf(failed))
			d.settle(o, &v)
			d.finished(Finished{Open: o, Entry: &v.entry, Failed: failed})
		}
		interrupted += len(ended)
	}
	return interrupted
}

// settle tells everybody how a request ended. Only who has ended or abandoned an Open may call it.
func (d *Desk) settle(o *Open, v *verdict) {
	if !v.begun {
		d.opts.Ledger.Begin(intent(&v.entry))
	}
	// Before the entry: who reads the ledger to tell a budget what was spent must not count this as still reserved.
	if o.Grant != nil {
		if v.asked {
			o.Grant.Settle(v.entry.Tokens.InputTotal(), v.entry.Tokens.OutputTotal(), v.entry.Cost)
		} else {
			o.Grant.Cancel()
		}
	}
	d.opts.Ledger.Commit(v.entry)
	o.isSettled(&v.entry, v.endpoint)
	if len(o.Outcomes) > 0 {
		now := d.opts.Now()
		for _, out := range o.Outcomes {
			if v.end == endNeutral {
				out.Drop()
			} else {
				out.Done(v.end == endGood, now)
			}
		}
	}
	d.metrics.settled(&v.entry)
}

// finished tells of a request that is over, and forgets its text.
func (d *Desk) finished(f Finished) {
	if d.opts.Finished != nil {
		f.At = d.opts.Now()
		d.opts.Finished(&f)
	}
	if f.Open != nil {
		f.Open.forget()
	}
}

// take removes a request.
func (d *Desk) take(id string) *Open {
	s := d.shard(id)
	s.mu.Lock()
	o := s.m[id]
	if o != nil {
		delete(s.m, id)
		s.n.Store(int64(len(s.m)))
	}
	s.mu.Unlock()
	if o != nil {
		d.unpeek(o)
	}
	return o
}

// remove removes a request that has been given up.
func (d *Desk) remove(o *Open) {
	s := d.shard(o.ID)
	s.mu.Lock()
	if s.m[o.ID] == o {
		delete(s.m, o.ID)
		s.n.Store(int64(len(s.m)))
	}
	s.mu.Unlock()
	d.unpeek(o)
}

func (d *Desk) shard(id string) *deskShard {
	return &d.shards[maphash.String(d.seed, id)%deskShards]
}
