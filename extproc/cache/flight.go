package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// Fill buys an answer and writes it. nil: it is whole, and kept if the policy keeps it; an error: it broke off, and that is
// what the readers get. The context has the values of the caller's and ends when nobody wants the answer any more.
type Fill func(ctx context.Context, w *Writer) error

// errLeft ends a fill whose readers have all left.
var errLeft = errors.New("every caller who waited for the answer has left")

// flight is one answer that is being bought, and those who wait for it.
type flight struct {
	c    *Cache
	ask  Ask // of the first; the key and the policy are everybody's
	buf  *buffer
	from mark // what had been purged when it began
	ctx  context.Context
	// refresh tells that it replaces an entry that is still given.
	refresh bool
	lease   *lease  // over the other replicas; nil: none
	leader  *Reader // who came first; nil with refresh

	mu      sync.Mutex
	bought  Purchase  // of a whole answer, before its readers learn that it is
	waiting []*Reader // who still reads, in the order in which they came
	over    bool      // nobody may join any more
	racing  []*Writer // the fills that run at once, after a refusal
	buyer   *Writer   // the one that was let in; nil: none yet
	cancel  context.CancelCauseFunc
	keep    bool // it goes on when nobody reads
}

// detached is the context of a fill: it ends with the flight, and has the values of who asked.
type detached struct {
	context.Context
	values context.Context
}

// Value is the flight's own, which tells how it ended, or the caller's.
func (d detached) Value(key any) any {
	if v := d.Context.Value(key); v != nil {
		return v
	}
	return d.values.Value(key)
}

func (c *Cache) newFlight(a Ask, refresh bool) *flight {
	f := &flight{
		c: c, ask: a, buf: newBuffer(a.Policy.MaxEntryBytes, &c.budget), from: c.purges.mark(),
		refresh: refresh, keep: refresh || a.Policy.KeepFilling,
	}
	f.ctx, f.cancel = context.WithCancelCause(context.Background())
	return f
}

func (f *flight) id() flightID { return flightID{f.ask.Key, f.ask.Policy.ID, f.ask.owner()} }

// start looks whether another replica buys the answer, and buys it if none does.
func (f *flight) start(values context.Context, fill Fill) {
	defer f.c.flying.Done()
	p := f.ask.Policy
	if rm := f.c.redis.Load(); rm != nil && p.Redis && p.MaxWait > 0 && rm.crowded() {
		lease, r := rm.lead(f.ctx, f)
		if r != nil {
			f.c.promote(p, r, f.from)
			f.give(r)
			return
		}
		if f.refresh && lease == nil && f.alone() {
			f.finish(errElsewhere)
			return
		}
		f.lease = lease
		defer lease.release(context.WithoutCancel(f.ctx))
	}
	f.run(values, fill)
}

// errElsewhere ends a refresh that another replica does.
var errElsewhere = errors.New("another replica is buying the answer again")

// alone tells that nobody waits.
func (f *flight) alone() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.waiting) == 0
}

// join adds a reader; nil where the flight takes none any more.
func (f *flight) join(ctx context.Context, fill Fill, o Outcome) *Reader {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return nil
	}
	r := &Reader{flight: f, buf: f.buf, values: ctx, fill: fill, outcome: o}
	f.buf.mu.Lock()
	defer f.buf.mu.Unlock()
	if f.buf.sliding {
		return nil
	}
	f.buf.readers[r] = struct{}{}
	f.waiting = append(f.waiting, r)
	return r
}

// leave takes a reader out; the last one ends a flight that does not go on without.
func (f *flight) leave(r *Reader) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remove(r)
	if len(f.waiting) == 0 && !f.keep && !f.over {
		f.over = true
		f.c.forget(f)
		f.cancel(errLeft)
	}
}

// remove is called with mu held.
func (f *flight) remove(r *Reader) {
	for i := range f.waiting {
		if f.waiting[i] == r {
			f.waiting = append(f.waiting[:i], f.waiting[i+1:]...)
			break
		}
	}
	f.buf.mu.Lock()
	delete(f.buf.readers, r)
	f.buf.wake() // a writer may wait for a reader that is no more
	f.buf.mu.Unlock()
}

// Close leaves. It may be called more than once, and while Read or Head wait only with the context of those ended.
func (r *Reader) Close() {
	if r.closed {
		return
	}
	r.closed = true
	r.flight.leave(r)
}

// Outcome for this caller, once Head has returned: Miss where its own fill buys the answer, Shared where another's does or did, Hit
// or Negative where it turned out to be kept.
func (r *Reader) Outcome() Outcome {
	r.flight.mu.Lock()
	defer r.flight.mu.Unlock()
	return r.outcome
}

// Purchase is how the answer was bought, by whoever did, once Read has come to its end. It is empty where nothing was paid.
func (r *Reader) Purchase() Purchase {
	r.flight.mu.Lock()
	defer r.flight.mu.Unlock()
	return r.flight.bought
}

// Age of the answer: 0 but for one that was kept.
func (r *Reader) Age() time.Duration { return r.age }

// Writer takes the answer that a Fill buys. It is for one goroutine at a time.
type Writer struct {
	f       *flight
	r       *Reader // of the caller whose fill it is; nil: nobody waits for it
	fill    Fill
	ctx     context.Context
	cancel  context.CancelCauseFunc
	begun   bool
	refused bool
	nowhere bool
	status  int
	bought  Purchase
	kept    func()
	found   bool
}

// Begin gives the head of the answer to all readers. It comes before the first Write, once.
func (w *Writer) Begin(h Head) error {
	if w.begun || w.refused {
		return errors.New("the answer has begun already")
	}
	if !w.Claim() {
		return ErrTaken
	}
	if !w.f.buf.begin(h) {
		return errors.New("the answer has begun already")
	}
	w.begun, w.status = true, h.Status
	return nil
}

// Write gives bytes of the answer to all readers. It blocks while an answer that is too large to be kept waits for the fastest
// of them. p is copied.
func (w *Writer) Write(p []byte) (int, error) {
	if !w.begun {
		return 0, errors.New("the answer has not begun")
	}
	if err := context.Cause(w.ctx); err != nil {
		return 0, err
	}
	if err := w.f.buf.write(w.ctx, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Refuse gives an answer to the caller of this fill alone: a refusal for a reason of its own, such as a limit. The fill returns
// after it. The fills of who else waits are run then, all at once. It comes instead of Begin.
func (w *Writer) Refuse(h Head, body []byte) error {
	if w.begun || w.refused {
		return errors.New("the answer has begun already")
	}
	w.refused = true
	w.f.refuse(w, h, body)
	return nil
}

// Bought says how the answer was bought. The last call before the fill returns counts.
func (w *Writer) Bought(p Purchase) { w.bought = p }

// NoStore keeps the answer from being kept; those who wait get it.
func (w *Writer) NoStore() { w.nowhere = true }

// Kept has a function called when the answer is kept, before those who read it learn that it is whole. The last call before the fill
// returns counts.
func (w *Writer) Kept(f func()) { w.kept = f }

// Found says that the answer was not bought: it is kept already, as that to another request, and was bought so then.
func (w *Writer) Found(p Purchase) { w.found, w.nowhere, w.bought = true, true, p }

// ErrTaken ends a fill while another buys the answer. It is the cause of the end of its context.
var ErrTaken = errors.New("another caller's fill buys the answer")

// Claim says that the fill has been let in. Of several that run at once, after a refusal, the first to say so buys; false: another does, and
// this one must buy nothing. Begin claims too.
func (w *Writer) Claim() bool {
	f := w.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.buyer == nil {
		f.buyer = w
		if w.r != nil {
			w.r.outcome = Miss
		}
		for _, other := range f.racing {
			if other != w {
				other.cancel(ErrTaken)
			}
		}
	}
	return f.buyer == w
}

// refuse gives the caller of a fill an answer of its own.
func (f *flight) refuse(w *Writer, h Head, body []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch f.buyer {
	case w:
		f.buyer = nil
	case nil:
	default:
		return // another was let in meanwhile, and its caller may be reading that one's answer
	}
	r := w.r
	if r == nil || !slices.Contains(f.waiting, r) {
		return
	}
	own := newBuffer(int64(len(body)), &budget{})
	own.begun, own.head, own.data, own.ended = true, h, append([]byte(nil), body...), true
	r.outcome = Miss
	f.buf.mu.Lock()
	r.own = own
	f.buf.mu.Unlock()
	f.remove(r) // wakes it
}

// writer is for the fill of a reader; nil: of nobody who waits.
func (f *flight) writer(r *Reader, values context.Context, fill Fill) *Writer {
	ctx, cancel := context.WithCancelCause(f.ctx)
	return &Writer{f: f, r: r, ctx: detached{ctx, values}, cancel: cancel, fill: fill}
}

// next are the fills of all who still wait, to be run at once. With none, nobody may join any more.
func (f *flight) next() (round []*Writer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.buyer = nil
	for _, r := range f.waiting {
		round = append(round, f.writer(r, r.values, r.fill))
	}
	if f.racing = round; len(round) == 0 {
		f.over = true
		f.c.forget(f)
	}
	return round
}

// race runs fills at once and gives that which buys the answer, when it has ended; one that failed where none does; nil where all were
// refused.
func (f *flight) race(round []*Writer) (bought *Writer, err error) {
	type ending struct {
		w   *Writer
		err error
	}
	ended := make(chan ending, len(round))
	for _, w := range round {
		f.c.flying.Add(1) // one that has lost may end later than the flight
		go func() {
			defer f.c.flying.Done()
			defer w.cancel(nil)
			err := call(w.ctx, w.fill, w)
			if w.refused {
				f.c.metrics.fills.WithLabelValues(f.ask.Policy.ID, "refused").Inc()
			}
			ended <- ending{w, err}
		}()
	}
	for range round {
		e := <-ended
		f.mu.Lock()
		buys := f.buyer == e.w
		f.mu.Unlock()
		if e.err == nil && !e.w.begun {
			e.err = errNoAnswer
		}
		switch {
		case buys:
			return e.w, e.err
		case !e.w.refused && !errors.Is(context.Cause(e.w.ctx), ErrTaken):
			bought, err = e.w, e.err
		}
	}
	return bought, err
}

// run buys the answer by the fill of who came first. Where that is refused, all who wait ask at once whether theirs is let in, and the first
// that is buys for the others: in line, each would wait for the refusals of all before.
func (f *flight) run(values context.Context, fill Fill) {
	p := f.ask.Policy
	round := []*Writer{f.writer(f.leader, values, fill)}
	for {
		begun := f.c.now()
		w, err := f.race(round)
		left := context.Cause(f.ctx) != nil
		if w == nil && !left {
			if round = f.next(); len(round) > 0 {
				continue
			}
			f.finish(errNoAnswer)
			return
		}
		if w == nil {
			err = context.Cause(f.ctx)
		}
		if err == nil && w.found {
			f.c.metrics.fills.WithLabelValues(p.ID, "found").Inc()
		} else {
			f.c.metrics.filled(p.ID, err, left)
		}
		if err == nil && !w.nowhere && f.store(w, begun) && w.kept != nil {
			w.kept()
		}
		if err == nil {
			f.paid(w.bought)
		}
		f.finish(err)
		return
	}
}

// call is the fill, whose panic is an error: it runs where nobody else would catch it.
func call(ctx context.Context, fill Fill, w *Writer) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("buying the answer panicked: %v\n%s", v, debug.Stack())
			w.f.c.log.Error("buying an answer for the cache panicked", "panic", v, "stack", string(debug.Stack()))
		}
	}()
	return fill(ctx, w)
}

// store keeps the answer: in memory before anybody learns that it is whole, so that who asks next finds it there or joins. It tells
// whether the answer is kept.
func (f *flight) store(w *Writer, begun time.Time) bool {
	p := f.ask.Policy
	kept, negative := p.keeps(w.status)
	if !kept {
		return false
	}
	body, whole := f.buf.body()
	if !whole {
		f.c.metrics.dropped.WithLabelValues(p.ID, "size").Inc()
		return false
	}
	bought := w.bought
	bought.Model = cmp.Or(bought.Model, f.ask.Model)
	now := f.c.now()
	r := &record{
		key: f.ask.Key, policy: p.ID, scope: p.Scope, owner: f.ask.owner(), negative: negative,
		ttl: p.ttl(negative, f.c.random()), stale: p.stale(negative), took: now.Sub(begun), epoch: f.from.epoch, seq: f.from.seq,
		entry: &Entry{
			Head: f.buf.head, Purchase: bought, Body: body, Stored: now, Tags: tags(p.Tags, f.ask.Tags), Tenant: f.ask.Tenant,
		},
	}
	f.c.keep(p, r, f.from, f.lease)
	return true
}

// paid notes how the answer was bought, for those who read it.
func (f *flight) paid(p Purchase) {
	f.mu.Lock()
	f.bought = p
	f.mu.Unlock()
}

// finish ends the flight: nobody joins any more, and the readers read to the end.
func (f *flight) finish(err error) {
	f.mu.Lock()
	if !f.over {
		f.over = true
		f.c.forget(f)
	}
	f.mu.Unlock()
	f.buf.end(err)
	f.cancel(nil)
}

// give makes the flight one of an answer that another replica has bought.
func (f *flight) give(r *record) {
	f.mu.Lock()
	for _, w := range f.waiting {
		w.outcome = Shared
	}
	f.bought = r.entry.Purchase
	f.mu.Unlock()
	f.buf.fill(r.entry)
	f.finish(nil)
}

// tags of an entry: the policy's and the caller's, each once.
func tags(lists ...[]string) (out []string) {
	for _, l := range lists {
	next:
		for _, t := range l {
			for _, have := range out {
				if have == t {
					continue next
				}
			}
			out = append(out, t)
		}
	}
	return out
}
