package pick

import "github.com/cespare/xxhash/v2"

// maxSessions that a pool remembers, at about 60 bytes each; the least recently used go first.
const maxSessions = 1 << 16

// sessions remembers which endpoint a session is at. The pool's lock guards it.
type sessions struct {
	limit int
	at    map[uint64]int32 // session hash to place in all
	all   []sessionEntry   // [0] is the ring's head: its next is the latest, its prev the oldest
}

type sessionEntry struct {
	hash       uint64
	used       int64 // nanoseconds
	prev, next int32
	id         uint16
}

func newSessions(limit int) *sessions {
	return &sessions{limit: limit, at: map[uint64]int32{}, all: make([]sessionEntry, 1)}
}

func (s *sessions) unlink(i int32) {
	e := &s.all[i]
	s.all[e.prev].next, s.all[e.next].prev = e.next, e.prev
}

func (s *sessions) linkFirst(i int32) {
	first := s.all[0].next
	s.all[i].prev, s.all[i].next = 0, first
	s.all[0].next, s.all[first].prev = i, i
}

// forget takes an entry out; the last one moves to its place, so that all has no holes.
func (s *sessions) forget(i int32) {
	s.unlink(i)
	delete(s.at, s.all[i].hash)
	last := int32(len(s.all) - 1)
	if i != last {
		moved := s.all[last]
		s.all[i] = moved
		s.all[moved.prev].next, s.all[moved.next].prev = i, i
		s.at[moved.hash] = i
	}
	s.all = s.all[:last]
}

// get gives the endpoint of a session that was used after oldest; 0 is none.
func (s *sessions) get(name string, oldest int64) uint16 {
	if i, ok := s.at[xxhash.Sum64String(name)]; ok && s.all[i].used >= oldest {
		return s.all[i].id
	}
	return 0
}

// put says where a session is now, and forgets those that nobody has used since oldest.
func (s *sessions) put(name string, id uint16, now, oldest int64) {
	h := xxhash.Sum64String(name)
	i, ok := s.at[h]
	switch {
	case ok:
		s.unlink(i)
	default:
		// Two for each one that comes: what is idle goes, without a sweep that takes long.
		for range 2 {
			if o := s.all[0].prev; o != 0 && s.all[o].used < oldest {
				s.forget(o)
			}
		}
		if len(s.all) > s.limit {
			s.forget(s.all[0].prev)
		}
		i = int32(len(s.all))
		s.all = append(s.all, sessionEntry{hash: h})
		s.at[h] = i
	}
	s.all[i].id, s.all[i].used = id, now
	s.linkFirst(i)
}

func (s *sessions) size() int { return len(s.all) - 1 }
