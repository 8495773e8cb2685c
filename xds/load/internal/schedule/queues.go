package schedule

// dueHeap holds the entries that wait for their time, the next one first. It implements heap.Interface.
type dueHeap []*Entry

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *dueHeap) Push(x any) {
	e := x.(*Entry)
	e.index = len(*h)
	*h = append(*h, e)
}

func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return e
}

// queue holds the entries whose time has come, first come first served.
type queue struct {
	entries []*Entry // from first on
	first   int
}

func (q *queue) len() int { return len(q.entries) - q.first }

func (q *queue) add(e *Entry) { q.entries = append(q.entries, e) }

func (q *queue) head() *Entry {
	if q.len() == 0 {
		return nil
	}
	return q.entries[q.first]
}

// remove removes an entry: nearly always the head, otherwise one that is gone for good.
func (q *queue) remove(e *Entry) {
	for i := q.first; i < len(q.entries); i++ {
		if q.entries[i] != e {
			continue
		}
		copy(q.entries[q.first+1:i+1], q.entries[q.first:i])
		q.entries[q.first] = nil
		q.first++
		break
	}
	if q.first == len(q.entries) {
		q.entries, q.first = q.entries[:0], 0
	} else if q.first > 1024 && q.first > len(q.entries)/2 {
		n := copy(q.entries, q.entries[q.first:])
		clear(q.entries[n:])
		q.entries, q.first = q.entries[:n], 0
	}
}
