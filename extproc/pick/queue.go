package pick

import (
	"container/list"
	"slices"
	"time"
)

// waiter is a request that waits for room.
type waiter struct {
	request *Request
	ready   chan struct{} // closed when it is settled
	came    time.Time
	longest time.Duration // that it waits
	// The pool's lock guards the rest until ready is closed.
	settled bool
	pick    *Pick
	refusal *Refusal

	found     found
	searched  uint32 // pool.tick when that was found
	overtaken int    // times that another went first while this one was the head

	turn *turn
	spot *list.Element // in turn.line
}

func (w *waiter) settle(pick *Pick, refusal *Refusal) {
	w.settled, w.pick, w.refusal = true, pick, refusal
	close(w.ready)
}

// queue holds the requests that wait for a pool. Higher priorities go first; within one, tenants take turns, and the requests
// of a tenant go in the order in which they came. The pool's lock guards it. The zero queue is ready.
type queue struct {
	n      int
	levels []*level // highest priority first; there is somebody in each
}

// level is the requests of one priority.
type level struct {
	priority int32
	turns    list.List // of *turn; the first is the one whose turn it is
	of       map[string]*turn
}

// turn is the requests of one tenant at one level. There is always one.
type turn struct {
	tenant string
	level  *level
	line   list.List // of *waiter
	spot   *list.Element
}

// head is who goes next.
func (q *queue) head() *waiter {
	if q.n == 0 {
		return nil
	}
	return q.levels[0].turns.Front().Value.(*turn).line.Front().Value.(*waiter)
}

// join puts w at the end of its tenant's line. Where all places are taken it may get that of another, which out is then.
func (q *queue) join(w *waiter, places int) (out *waiter, ok bool) {
	if places <= 0 {
		return nil, false
	}
	if q.n >= places {
		if out = q.yields(w.request); out == nil {
			return nil, false
		}
		q.leave(out, false)
	}
	priority, tenant := w.request.Priority, w.request.Tenant
	i, there := slices.BinarySearchFunc(q.levels, priority, func(l *level, p int32) int { return int(p) - int(l.priority) })
	if !there {
		q.levels = slices.Insert(q.levels, i, &level{priority: priority, of: map[string]*turn{}})
	}
	l := q.levels[i]
	t := l.of[tenant]
	if t == nil {
		t = &turn{tenant: tenant, level: l}
		t.spot = l.turns.PushBack(t)
		l.of[tenant] = t
	}
	w.turn, w.spot = t, t.line.PushBack(w)
	q.n++
	return out, true
}

// yields is who must go for a request that comes when all places are taken: the last one of the tenant that has most of the
// lowest priority. Among equals only a tenant that has at least two more gives way. Nil: nobody must.
func (q *queue) yields(r *Request) *waiter {
	l := q.levels[len(q.levels)-1]
	if l.priority > r.Priority {
		return nil
	}
	var most *turn
	for s := l.turns.Front(); s != nil; s = s.Next() {
		if t := s.Value.(*turn); most == nil || t.line.Len() > most.line.Len() {
			most = t
		}
	}
	if l.priority == r.Priority {
		mine := 0
		if t := l.of[r.Tenant]; t != nil {
			mine = t.line.Len()
		}
		if most.line.Len() < mine+2 {
			return nil
		}
	}
	return most.line.Back().Value.(*waiter)
}

// leave takes w out. The tenant of one that was served goes to the end of the round.
func (q *queue) leave(w *waiter, served bool) {
	t := w.turn
	l := t.level
	t.line.Remove(w.spot)
	q.n--
	switch {
	case t.line.Len() == 0:
		l.turns.Remove(t.spot)
		delete(l.of, t.tenant)
		if l.turns.Len() == 0 {
			q.levels = slices.Delete(q.levels, slices.Index(q.levels, l), slices.Index(q.levels, l)+1)
		}
	case served:
		l.turns.MoveToBack(t.spot)
	}
	w.turn, w.spot = nil, nil
}
