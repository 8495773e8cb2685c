package simulate

import (
	"container/heap"
	"time"
)

// rank orders what is due at the same time: what arrives, then what servers do, then what is heard of it, then what is made of it.
type rank uint8

const (
	rankFault rank = iota
	rankArrival
	rankServer
	rankSignal
	rankTick
)

// agenda runs things at their times; of those at the same time by rank, then in the order they were put in.
type agenda struct {
	now   time.Duration
	order uint64
	heap  agendaHeap
}

type entry struct {
	at    time.Duration
	rank  rank
	order uint64
	run   func()
}

func (a *agenda) at(t time.Duration, r rank, run func()) {
	a.order++
	heap.Push(&a.heap, entry{max(t, a.now), r, a.order, run})
}

// until runs everything that is due up to a time, and that time included.
func (a *agenda) until(end time.Duration, over func() bool) {
	for len(a.heap) > 0 && a.heap[0].at <= end && !over() {
		e := heap.Pop(&a.heap).(entry)
		a.now = e.at
		e.run()
	}
}

type agendaHeap []entry

func (h agendaHeap) Len() int      { return len(h) }
func (h agendaHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h agendaHeap) Less(i, j int) bool {
	x, y := &h[i], &h[j]
	if x.at != y.at {
		return x.at < y.at
	}
	if x.rank != y.rank {
		return x.rank < y.rank
	}
	return x.order < y.order
}
func (h *agendaHeap) Push(x any) { *h = append(*h, x.(entry)) }
func (h *agendaHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	old[len(old)-1] = entry{} // lets go of what it held
	*h = old[:len(old)-1]
	return x
}
