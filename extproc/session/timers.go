package session

import (
	"container/heap"
	"sync"
	"time"
)

// timers remembers when states of sessions that this process has touched are over. A state whose end nobody remembers is left when the
// session is used next.
type timers struct {
	mu    sync.Mutex
	queue timerQueue
	at    map[Ref]*timer
}

type timer struct {
	due     time.Time
	address Address
	ref     Ref
	index   int
}

// maxTimers bounds the memory, at about 300 bytes each.
const maxTimers = 1 << 16

// set notes when the state of a session is over; a zero time is never.
func (t *timers) set(a Address, at Ref, due time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	have := t.at[at]
	switch {
	case have != nil && due.IsZero():
		heap.Remove(&t.queue, have.index)
		delete(t.at, at)
	case have != nil:
		have.due = due
		heap.Fix(&t.queue, have.index)
	case !due.IsZero() && len(t.queue) < maxTimers:
		if t.at == nil {
			t.at = map[Ref]*timer{}
		}
		e := &timer{due: due, address: a, ref: at}
		t.at[at] = e
		heap.Push(&t.queue, e)
	}
}

// next takes a session off whose state is over.
func (t *timers) next(now time.Time) (Address, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.queue) == 0 || t.queue[0].due.After(now) {
		return Address{}, false
	}
	e := heap.Pop(&t.queue).(*timer)
	delete(t.at, e.ref)
	return e.address, true
}

type timerQueue []*timer

// Len implements heap.Interface.
func (q timerQueue) Len() int { return len(q) }

// Less implements heap.Interface.
func (q timerQueue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }

// Swap implements heap.Interface.
func (q timerQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push implements heap.Interface.
func (q *timerQueue) Push(x any) {
	e := x.(*timer)
	e.index = len(*q)
	*q = append(*q, e)
}

// Pop implements heap.Interface.
func (q *timerQueue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return e
}
