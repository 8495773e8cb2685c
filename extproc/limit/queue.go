package limit

import (
	"slices"
	"sync"
)

// maxWaiting bounds the requests that wait for one counter, maxWaitingRule those that wait for all counters of a
// rule, which is for memory. More are refused at once.
const (
	maxWaiting     = 1000
	maxWaitingRule = 16_000
)

// mayQueue says whether a tenant of which mine requests wait already, of all in so many places, may have one more: not more
// than are left free. One tenant alone gets half of them, and whoever comes then finds some.
func mayQueue(mine, all, places int) bool { return all < places && mine < places-all }

// places counts the requests that wait for a rule, by tenant. The zero places is ready.
type places struct {
	mu sync.Mutex
	n  int
	of map[string]int
}

func (p *places) enter(tenant string, most int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !mayQueue(p.of[tenant], p.n, most) {
		return false
	}
	if p.of == nil {
		p.of = map[string]int{}
	}
	p.of[tenant]++
	p.n++
	return true
}

func (p *places) exit(tenant string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n--
	if p.of[tenant]--; p.of[tenant] == 0 {
		delete(p.of, tenant)
	}
}

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

// join puts w at the end of its tenant's line, if there is a place. Where tenants share the counter none may have them all.
func (q *queue) join(w *waiter, tenants bool) bool {
	i := slices.IndexFunc(q.turns, func(t *turn) bool { return t.tenant == w.tenant })
	mine := 0
	if i >= 0 {
		mine = len(q.turns[i].line)
	}
	if q.n >= maxWaiting || tenants && !mayQueue(mine, q.n, maxWaiting) {
		return false
	}
	q.n++
	if i < 0 {
		q.turns = append(q.turns, &turn{tenant: w.tenant})
		i = len(q.turns) - 1
	}
	q.turns[i].line = append(q.turns[i].line, w)
	return true
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
