package lane

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// The states of a lane, in their order. One that is opening may be over at once.
const (
	opening uint32 = iota // Offer holds its lock
	live
	ending // nothing is granted any more; claims are still there
	over   // the file is not its any more
)

// idleAfter is how long a lane is kept that nobody uses.
const idleAfter = time.Second

// looks is how many of the last looks tell how much a lane is used: 20 ms.
const looks = 4

// lane is one slot in one generation.
type lane struct {
	set   *Set
	key   string        // "" once nobody can find it by that
	at    int           // its place in Set.lanes; of Set.mu
	state atomic.Uint32 // changes under mu

	// Set before it is live.
	slot   int
	prefix string // of the IDs of its uses
	ticket string
	until  time.Time

	// seen is how many uses are dealt with: begun, or void. It follows what it counts: who reads it finds these on the desk.
	seen atomic.Uint32
	// void are the uses that the Lua took back. Hardly a lane has any: voids is how many.
	voids atomic.Int32

	mu      sync.Mutex // held while its Maker is called
	maker   Maker
	claims  claims // of the uses seen+1 to granted
	granted uint32 // ever; the file has 0 once it is ending
	damaged bool   // what the file counts makes no sense
	void    map[uint32]struct{}

	lastUse time.Time
	before  uint32 // seen at the last look of Run
	recent  [looks]uint32
	look    uint
	told    time.Time // when the limits were written
	stale   bool      // they have changed since by uses
}

// open takes the first claims and writes the slot. The caller holds mu.
func (l *lane) open(m Maker, slot int, now, until time.Time) bool {
	s := l.set
	l.maker = m
	if !l.admit(firstGrant) {
		l.maker = nil
		return false
	}
	l.slot, l.lastUse = slot, now
	if l.until = now.Add(longest); !until.IsZero() && until.Before(l.until) {
		l.until = until
	}
	g := s.nextGeneration()
	buf := make([]byte, 0, len(s.mark)+24)
	buf = append(buf, s.mark...)
	buf = append(strconv.AppendInt(buf, int64(slot), 36), '.')
	buf = append(strconv.AppendUint(buf, uint64(g), 36), '.')
	l.prefix = string(buf)
	l.ticket = strconv.Itoa(slot) + ":" + strconv.FormatUint(uint64(g), 10) + ":" + l.prefix

	s.byslot[slot].Store(l)
	s.mem.used(slot).Store(0)
	l.tell(now)
	s.mem.generation(slot).Store(g)
	s.mem.granted(slot).Store(l.granted)
	l.state.Store(live)
	s.live.Add(1)
	return true
}

// admit takes claims until n are ahead, or limits leave too little. It says whether it took any.
func (l *lane) admit(n int) bool {
	was := l.granted
	for l.claims.n < n {
		c, ok := l.maker.Admit()
		if !ok {
			break
		}
		l.claims.push(c)
		l.granted++
	}
	l.set.ahead.Add(int64(l.granted - was))
	return l.granted != was
}

// tell writes what answers say of limits. What is ahead here counts as used for the Maker, and not for the Lua.
func (l *lane) tell(now time.Time) {
	l.set.mem.tell(l.slot, l.maker.Limits(), l.granted)
	l.told, l.stale = now, false
}

// settle begins the uses that the Lua has counted. The caller holds mu, and the lane is live or ending.
func (l *lane) settle() {
	if l.damaged {
		return
	}
	s, seen := l.set, l.seen.Load()
	used := s.mem.used(l.slot).Load()
	if used < seen || used > l.granted {
		l.damaged = true
		s.opts.Log.Warn("the counter of a lane is not what Envoy can have written: the lane ends. Does anything else write to the file?",
			"file", s.opts.Path, "slot", l.slot, "used", used, "known", seen, "granted", l.granted)
		l.stop(reasonFailure)
		return
	}
	begun := 0
	for n := seen + 1; n <= used; n++ {
		c := l.claims.pop()
		if _, void := l.void[n]; void {
			l.cancel(c)
		} else {
			l.maker.Begin(l.id(n), c)
			begun++
			s.ahead.Add(-1)
		}
		l.seen.Store(n)
	}
	if begun > 0 {
		s.metrics.requests.Add(float64(begun))
		l.stale = true
	}
}

// id is the exchange of the n-th use.
func (l *lane) id(n uint32) string {
	var buf [64]byte
	return string(strconv.AppendUint(append(buf[:0], l.prefix...), uint64(n), 10))
}

func (l *lane) cancel(c Claim) {
	l.maker.Cancel(c)
	l.set.ahead.Add(-1)
	l.set.returned.Add(1)
}

// How old the limits that answers tell may be: of a lane that is used, and of one that is not, whose reset moves on.
const (
	tellUsed = 20 * time.Millisecond
	tellIdle = 250 * time.Millisecond
)

// visit is a look of Run: it begins what was used, and lets as many in as will come, or ends the lane. The caller holds mu; the lane is live.
func (l *lane) visit(now time.Time) {
	l.settle()
	if l.state.Load() != live {
		return
	}
	seen := l.seen.Load()
	used := seen - l.before
	l.before = seen
	l.recent[l.look%looks] = used
	l.look++
	if used > 0 {
		l.lastUse = now
	}
	switch {
	case !now.Before(l.until):
		l.stop(reasonExpired)
		return
	case now.Sub(l.lastUse) >= idleAfter:
		l.stop(reasonIdle)
		return
	}
	sum := uint32(0)
	for _, n := range l.recent {
		sum += n
	}
	more := l.admit(int(min(max(2*sum, firstGrant), mostAhead)))
	if age := now.Sub(l.told); more || l.stale && age >= tellUsed || age >= tellIdle {
		l.tell(now)
	}
	if more {
		l.set.mem.granted(l.slot).Store(l.granted)
	}
}

// stop lets no more uses in. The caller holds mu; the lane is live. What is ahead is there until finish, which must come 50 us later.
func (l *lane) stop(why reason) {
	if l.state.Load() != live {
		return
	}
	s := l.set
	s.mem.granted(l.slot).Store(0)
	l.state.Store(ending)
	s.hide(l)
	s.live.Add(-1)
	s.metrics.end(why)
}

// finish ends a lane that was stopped: uses are begun, the rest is cancelled. It returns how many claims were cancelled. The caller holds mu.
func (l *lane) finish() (cancelled int) {
	if l.state.Load() != ending {
		return 0
	}
	s := l.set
	l.settle()
	for l.claims.n > 0 {
		l.cancel(l.claims.pop())
		cancelled++
	}
	s.mem.generation(l.slot).Store(0)
	l.state.Store(over)
	l.maker, l.claims = nil, claims{}
	s.leave(l, l.slot, s.opts.Now().Add(slotRest))
	return cancelled
}
