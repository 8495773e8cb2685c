package lane

import "time"

// slotRest is how long a slot is not used after its lane has ended.
const slotRest = 10 * time.Second

// slots are those that no lane has, the one that has rested longest first.
type slots struct {
	ring [slotCount]resting
	head int
	n    int
}

type resting struct {
	slot  int
	until time.Time
}

// put adds a slot that may be used again at a time.
func (s *slots) put(slot int, until time.Time) {
	s.ring[(s.head+s.n)%slotCount] = resting{slot, until}
	s.n++
}

// unread gives a slot back that was taken but not used.
func (s *slots) unread(slot int) {
	s.head = (s.head + slotCount - 1) % slotCount
	s.ring[s.head] = resting{slot: slot}
	s.n++
}

// take gives a slot that has rested, if there is one.
func (s *slots) take(now time.Time) (slot int, ok bool) {
	if s.n == 0 || s.ring[s.head].until.After(now) {
		return 0, false
	}
	slot = s.ring[s.head].slot
	s.head = (s.head + 1) % slotCount
	s.n--
	return slot, true
}
