package lane

import (
	"math"
	"strings"
	"time"
)

// drain is how long a processor may keep what a Lua has written from others, with a wide margin: it takes nanoseconds.
const drain = 50 * time.Microsecond

// Revoke ends all lanes, because a limit would refuse somebody. When it returns, what nobody has used is cancelled, and no lane begins for
// a second. Of several at once one does the work; the others wait for it and get 0: see Returned.
func (s *Set) Revoke() (gaveBack int) {
	if s == nil {
		return 0
	}
	until := int64(s.opts.Now().Sub(s.epoch) + quiet)
	for was := s.quietUntil.Load(); was < until && !s.quietUntil.CompareAndSwap(was, until); {
		was = s.quietUntil.Load()
	}
	if s.entered.Load() == 0 {
		return 0 // and none that may come begins: it would have been entered before it was allowed to
	}
	s.mu.Lock()
	if done := s.revoking; done != nil {
		s.mu.Unlock()
		<-done
		return 0
	}
	done := make(chan struct{})
	s.revoking = done
	// Who comes meanwhile relies on there being no other lanes than those that are ended here.
	s.quietUntil.Store(forever)
	s.mu.Unlock()

	gaveBack = s.end(reasonLimit)

	s.mu.Lock()
	s.revoking = nil
	if !s.isDown {
		s.quietUntil.Store(int64(s.opts.Now().Sub(s.epoch) + quiet))
	}
	s.mu.Unlock()
	close(done)
	return gaveBack
}

// Renew ends all lanes as Revoke does, but others may begin at once. Call it when what decides has changed and the change is visible to
// the functions that Offer gets.
func (s *Set) Renew() {
	if s != nil {
		s.end(reasonVersion)
	}
}

// Lost ends all lanes because Envoy has died. Its last uses begin, so that they end with everything else that it had.
func (s *Set) Lost() {
	if s != nil {
		s.end(reasonEnvoy)
	}
}

// end ends the lanes there are. When it returns they are over, whoever has ended them.
func (s *Set) end(why reason) (cancelled int) {
	s.mu.Lock()
	lanes := append([]*lane(nil), s.lanes...)
	s.mu.Unlock()
	if len(lanes) == 0 {
		return 0
	}
	for _, l := range lanes {
		l.mu.Lock()
		l.stop(why)
		l.mu.Unlock()
	}
	time.Sleep(drain)
	for _, l := range lanes {
		l.mu.Lock()
		cancelled += l.finish()
		l.mu.Unlock()
	}
	return cancelled
}

// Begun says whether a request is on the desk, or was, by its exchange ID. The record of a request in a lane may come before Run has seen
// the use: Begun looks then. It is false for IDs that are no lane's, for uses that Envoy took back, and once the slot of a lane that has
// ended is in use again, 10 s later at the earliest.
func (s *Set) Begun(id string) bool {
	l, n := s.find(id)
	if l == nil {
		return false
	}
	if n <= l.seen.Load() && l.voids.Load() == 0 {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if st := l.state.Load(); st == live || st == ending {
		l.settle()
	}
	_, void := l.void[n]
	return n <= l.seen.Load() && !void
}

// Void notes that Envoy has not gone on with a use: it came while its lane ended, or the Lua failed afterwards. Its claim is cancelled,
// unless the use had begun: then begun is true, once, and the caller must take it off the desk.
func (s *Set) Void(id string) (begun bool) {
	l, n := s.find(id)
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.void[n]; known || n > l.granted {
		return false
	}
	begun = n <= l.seen.Load()
	if l.void == nil {
		l.void = map[uint32]struct{}{}
	}
	l.void[n] = struct{}{}
	l.voids.Add(1)
	s.metrics.void.Inc()
	if st := l.state.Load(); st == live || st == ending {
		l.settle()
	}
	return begun
}

// Fail ends the lane of a request whose answer was bad. Its claims are given back with the next look of Run.
func (s *Set) Fail(id string) {
	l, _ := s.find(id)
	if l == nil || l.state.Load() != live {
		return
	}
	l.mu.Lock()
	l.stop(reasonFailure)
	l.mu.Unlock()
}

// find gives the lane of an exchange and the number of the use, or nil for IDs that are of no lane that is known.
func (s *Set) find(id string) (*lane, uint32) {
	if s == nil || !strings.HasPrefix(id, s.mark) {
		return nil, 0
	}
	slot := 0
	at := len(s.mark)
	for ; ; at++ {
		if at == len(id) {
			return nil, 0
		}
		c := id[at]
		if c == '.' {
			break
		}
		switch {
		case c >= '0' && c <= '9':
			slot = slot*36 + int(c-'0')
		case c >= 'a' && c <= 'z':
			slot = slot*36 + int(c-'a') + 10
		default:
			return nil, 0
		}
		if slot >= slotCount {
			return nil, 0
		}
	}
	l := s.byslot[slot].Load()
	// All of the prefix: it has the generation, and is written in one way only.
	if l == nil || !strings.HasPrefix(id, l.prefix) {
		return nil, 0
	}
	digits := id[len(l.prefix):]
	if digits == "" || digits[0] == '0' || len(digits) > 10 {
		return nil, 0
	}
	n := uint64(0)
	for i := range len(digits) {
		c := digits[i] - '0'
		if c > 9 {
			return nil, 0
		}
		n = n*10 + uint64(c)
	}
	if n > math.MaxUint32 {
		return nil, 0
	}
	return l, uint32(n)
}
