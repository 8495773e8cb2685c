package engine

import "container/list"

// queue is who waits. Anyone can leave it, as clients do.
type queue struct {
	l list.List // of *sequence
}

func (q *queue) len() int { return q.l.Len() }

func (q *queue) push(s *sequence) { s.place = q.l.PushBack(s) }

// pushFront is for who was preempted: it arrived before all who wait.
func (q *queue) pushFront(s *sequence) { s.place = q.l.PushFront(s) }

func (q *queue) front() *sequence {
	if f := q.l.Front(); f != nil {
		return f.Value.(*sequence)
	}
	return nil
}

func (q *queue) remove(s *sequence) {
	q.l.Remove(s.place)
	s.place = nil
}

func (q *queue) all() []*sequence {
	out := make([]*sequence, 0, q.len())
	for e := q.l.Front(); e != nil; e = e.Next() {
		out = append(out, e.Value.(*sequence))
	}
	return out
}
