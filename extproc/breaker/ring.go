package breaker

import (
	"sync/atomic"
	"time"
)

// slots divide a window. A power of two, so that the slot of a time is a few bits of its number.
const slots = 16

// A slot is one word, so that it is emptied and counted into in one step:
//
//	round    20 bits  how many windows had passed when it was written, to tell what is old
//	failed   22 bits
//	total    22 bits
const (
	countBits = 22
	countMask = 1<<countBits - 1
	roundMask = 1<<20 - 1
)

// ring counts results over a moving window, without locks.
type ring struct {
	window time.Duration
	epoch  time.Time
	length int64 // of a slot, nanoseconds
	slot   [slots]atomic.Uint64
}

func newRing(window time.Duration, epoch time.Time) *ring {
	return &ring{window: window, epoch: epoch, length: max(1, int64(window)/slots)}
}

// number counts the slots since the epoch.
func (r *ring) number(now time.Time) int64 { return max(0, int64(now.Sub(r.epoch))/r.length) }

// add counts a result. One that is told with a time a whole window ago counts nowhere.
func (r *ring) add(now time.Time, failure bool) {
	n := r.number(now)
	round := uint64(n/slots) & roundMask
	var one uint64 = 1
	if failure {
		one |= 1 << countBits
	}
	s := &r.slot[n%slots]
	for {
		old := s.Load()
		base := round << (2 * countBits)
		switch was := old >> (2 * countBits); was {
		case round:
			base = old
			if old&countMask == countMask { // full: half of each keeps the share
				base = round<<(2*countBits) | (old>>countBits&countMask)/2<<countBits | (old&countMask)/2
			}
		case (round + 1) & roundMask:
			return
		}
		if s.CompareAndSwap(old, base+one) {
			return
		}
	}
}

// sum counts the results of the window that ends now.
func (r *ring) sum(now time.Time) (total, failed int64) {
	n := r.number(now)
	round, at := uint64(n/slots)&roundMask, n%slots
	for i := range r.slot {
		w := r.slot[i].Load()
		if w&countMask == 0 {
			continue
		}
		want := round
		if int64(i) > at {
			want = (round - 1) & roundMask
		}
		// One round later is what others have counted whose clock is read a moment later.
		if was := w >> (2 * countBits); was == want || was == (want+1)&roundMask {
			total += int64(w & countMask)
			failed += int64(w >> countBits & countMask)
		}
	}
	return total, failed
}
