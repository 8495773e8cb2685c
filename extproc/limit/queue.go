package limit

import "slices"

// maxWaiting bounds the requests that wait for the counters of one rule. More are refused at once.
const maxWaiting = 1000

// waiter is a request in a queue.
type waiter struct {
	tenant string
	wake   chan struct{} // has one place: a wake-up is never lost and never blocks
}

// queue holds the requests that wait for one counter: tenants take turns, and the requests of one tenant go in the order in
// which they came. The counter's lock guards it.
type queue struct {
	n     int
	turns []*turn // the first is the one whose turn it is
}

// turn is the requests of one tenant. There is always one.
type turn struct {
	tenant string
	line   []*waiter
}

func (q *queue) head() *waiter {
	if q.n == 0 {
		return nil
	}
	return q.turns[0].line[0]
}

func (q *queue) join(w *waiter) {
	q.n++
	for _, t := range q.turns {
		if t.tenant == w.tenant {
			t.line = append(t.line, w)
			return
		}
	}
	q.turns = append(q.turns, &turn{tenant: w.tenant, line: []*waiter{w}})
}

// leave takes w out. The tenant of one that was served goes to the end of the round. If that makes another one the
// first, it is woken.
func (q *queue) leave(w *waiter, served bool) {
	first := q.head()
	for i, t := range q.turns {
		k := slices.Index(t.line, w)
		if k < 0 {
			continue
		}
		q.n--
		t.line = slices.Delete(t.line, k, k+1)
		if len(t.line) == 0 {
			q.turns = slices.Delete(q.turns, i, i+1)
		} else if served {
			q.turns = append(slices.Delete(q.turns, i, i+1), t)
		}
		break
	}
	if h := q.head(); h != first {
		h.call()
	}
}

// kick wakes the first: there may be room.
func (q *queue) kick() { q.head().call() }

func (w *waiter) call() {
	if w == nil {
		return
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}
