package lane

// claims are those of a lane that nobody has used yet, the oldest first.
type claims struct {
	ring []Claim // its length is a power of two
	head int
	n    int
}

func (q *claims) push(c Claim) {
	if q.n == len(q.ring) {
		ring := make([]Claim, max(firstGrant, 2*len(q.ring)))
		for i := range q.n {
			ring[i] = q.ring[(q.head+i)&(len(q.ring)-1)]
		}
		q.ring, q.head = ring, 0
	}
	q.ring[(q.head+q.n)&(len(q.ring)-1)] = c
	q.n++
}

func (q *claims) pop() Claim {
	at := &q.ring[q.head]
	c := *at
	*at = Claim{}
	q.head = (q.head + 1) & (len(q.ring) - 1)
	q.n--
	return c
}
