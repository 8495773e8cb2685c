package simulate

import (
	"container/heap"
	"math/rand/v2"
	"slices"
)

// envoyLeastRequest is Envoy's LEAST_REQUEST with its defaults, choice_count 2 and active_request_bias 1, as in
// source/extensions/load_balancing_policies/least_request and source/common/upstream/edf_scheduler.h: with equal weights
// the one with fewer active requests of two chosen at random, which may be the same; otherwise an earliest-deadline-first schedule in
// which a host's weight is weight / (active + 1) at the time it is put back.
type envoyLeastRequest struct {
	rnd    *rand.Rand
	weight []float64
	active []int
	edf    *edf // nil with equal weights
}

func newEnvoyLeastRequest(weights []float64, rnd *rand.Rand) *envoyLeastRequest {
	lb := &envoyLeastRequest{rnd: rnd, active: make([]int, len(weights))}
	lb.update(weights)
	return lb
}

// update is a new assignment of endpoints. A weight of 0 is a host that is not healthy. Envoy begins the schedule anew, from a point
// in it that is random.
func (lb *envoyLeastRequest) update(weights []float64) {
	lb.weight = slices.Clone(weights)
	lb.edf = nil
	first := 0.0
	for _, w := range weights {
		if w > 0 && first == 0 {
			first = w
		}
		if w > 0 && w != first {
			lb.edf = &edf{}
		}
	}
	if lb.edf == nil {
		return
	}
	for i, w := range weights {
		if w > 0 {
			lb.edf.add(i, lb.rnd.Float64()/lb.biased(i))
		}
	}
}

func (lb *envoyLeastRequest) biased(i int) float64 { return lb.weight[i] / float64(lb.active[i]+1) }

// pick chooses among the usable hosts, as Envoy's retry predicate does: it chooses again if the choice is not usable, and takes it as
// it is after some attempts.
func (lb *envoyLeastRequest) pick(usable func(int) bool) int {
	const attempts = 50
	i := none
	for range attempts {
		if i = lb.choose(); i == none || usable(i) {
			break
		}
	}
	if i == none {
		// No host is healthy: Envoy panics, and takes any.
		i = lb.rnd.IntN(len(lb.weight))
	}
	lb.active[i]++
	return i
}

func (lb *envoyLeastRequest) choose() int {
	if lb.edf != nil {
		i := lb.edf.next()
		lb.edf.add(i, 1/lb.biased(i))
		return i
	}
	var healthy []int
	for i, w := range lb.weight {
		if w > 0 {
			healthy = append(healthy, i)
		}
	}
	if len(healthy) == 0 {
		return none
	}
	a, b := healthy[lb.rnd.IntN(len(healthy))], healthy[lb.rnd.IntN(len(healthy))]
	if lb.active[b] < lb.active[a] {
		return b
	}
	return a
}

// edf is a schedule by deadlines. Of equal deadlines the one that was put in first is earlier.
type edf struct {
	now   float64
	order uint64
	heap  edfHeap
}

type edfEntry struct {
	host     int
	deadline float64
	order    uint64
}

func (e *edf) add(host int, in float64) {
	e.order++
	heap.Push(&e.heap, edfEntry{host, e.now + in, e.order})
}

func (e *edf) next() int {
	entry := heap.Pop(&e.heap).(edfEntry)
	e.now = entry.deadline
	return entry.host
}

type edfHeap []edfEntry

func (h edfHeap) Len() int      { return len(h) }
func (h edfHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h edfHeap) Less(i, j int) bool {
	if h[i].deadline != h[j].deadline {
		return h[i].deadline < h[j].deadline
	}
	return h[i].order < h[j].order
}
func (h *edfHeap) Push(x any) { *h = append(*h, x.(edfEntry)) }
func (h *edfHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
