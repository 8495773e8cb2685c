package lane

import (
	"hash/maphash"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/usage"
)

// Claim is what one request of a lane has taken ahead of its coming.
type Claim struct {
	Grant    usage.Grant
	Outcomes []usage.Outcome
}

// Maker makes the requests of one lane: all alike. Its methods are called by Run, by Offer for the first requests, and by whoever
// ends or looks at the lane; for one lane never by two at once. They must be quick and must not call the Set. A claim that Admit gave is
// begun or cancelled, one of the two, once.
type Maker interface {
	// Admit takes one more, ahead of its coming; false where limits leave too little for that.
	Admit() (Claim, bool)
	// Begin opens it on the desk, confirmed: Envoy has let it through. The uses of a lane begin in the order of their numbers.
	Begin(id string, c Claim)
	// Cancel gives it back: it never came.
	Cancel(c Claim)
	// Limits is what answers say of limits now.
	Limits() Limits
}

// Limits is what remains of the limits, with everything counted as used that was taken ahead, and the seconds until all of it is free
// again. Where there is no limit of requests, or none of tokens, what remains is NaN.
type Limits struct {
	Requests, RequestsReset float64
	Tokens, TokensReset     float64
	Each                    float64 // tokens that one request takes: as many as the largest of its lane would
	BytesPerToken           float64 // by which Each counts the bytes of a request's body; 0 where it does not
}

// Options of a Set.
type Options struct {
	// Path of the file that Envoy maps; "" for no lanes.
	Path string
	// Prefix of the exchange IDs of lanes. It is another one in every process, and has no colon.
	Prefix string
	// Now is the clock, which must be that of the machine where Envoy is to use the lanes. Nil is time.Now.
	Now func() time.Time
	// Tick makes Run look at the lanes whenever it gives something, for tests: once it takes the next one, it has done with the one
	// before. Nil is every 5 ms while there are lanes.
	Tick <-chan time.Time
	// Generation is the first one, for tests. 0 is a random one.
	Generation uint32
	Log        *slog.Logger          // nil for none
	Registry   prometheus.Registerer // takes the metrics; nil for none
}

const (
	firstGrant = 8   // uses that a lane begins with, and the least that is kept ahead
	mostAhead  = 256 // uses
	// longest is how long a lane lives: what it was decided by may have changed since.
	longest = 5 * time.Second
	// quiet is how long no lane begins after a limit would have refused somebody.
	quiet = time.Second
)

// Set holds the lanes of a process. It is safe for concurrent use. A nil Set has no lanes, and all its methods may be called.
type Set struct {
	opts    Options
	metrics *metrics
	mark    string // what the IDs of all lanes begin with
	epoch   time.Time
	file    *mapped
	mem     memory // of file. Who holds a lane that is not over may use it, and who holds beating while beats is true

	seed   maphash.Seed
	shards [shardCount]shard
	byslot [slotCount]atomic.Pointer[lane] // the last lane of each

	generation atomic.Uint32
	live       atomic.Int64  // lanes that Offer gives
	ahead      atomic.Int64  // claims
	returned   atomic.Uint64 // claims that were cancelled
	entered    atomic.Int64  // len(lanes)
	// quietUntil is the time since epoch until which no lane begins.
	quietUntil atomic.Int64
	wake       chan struct{}
	down       chan struct{} // closed when no lane will begin any more
	full       atomic.Int64  // the time since epoch when the log was told that there is no slot

	mu       sync.Mutex
	lanes    []*lane // all that are not over
	free     slots
	revoking chan struct{} // closed when the Revoke that is at work has done
	isDown   bool

	beating  sync.Mutex
	beats    bool
	lastBeat time.Time
}

const shardCount = 64 // a power of two; so that requests share no lock

type shard struct {
	mu sync.RWMutex
	m  map[string]*lane // by key; those that are not ending
	_  [32]byte         // keep neighbours off one cache line
}

// forever is a quiet time without an end.
const forever = math.MaxInt64

// Open makes the file, or takes that of a process before, whose lanes are over. The Set is nil where Path is "" and where Envoy does
// not run (anywhere but Linux).
func Open(o Options) (*Set, error) {
	if o.Path == "" {
		return nil, nil
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Generation == 0 {
		o.Generation = rand.Uint32()
	}
	file, err := openFile(o.Path)
	if err != nil {
		return nil, err
	}
	if file == nil {
		return nil, nil
	}
	now := o.Now()
	s := &Set{
		opts: o, mark: o.Prefix + "-L", epoch: now, file: file, mem: file.mem, seed: maphash.MakeSeed(),
		wake: make(chan struct{}, 1), down: make(chan struct{}), beats: true,
	}
	s.full.Store(-int64(time.Hour))
	s.generation.Store(o.Generation - 1)
	for i := range s.shards {
		s.shards[i].m = map[string]*lane{}
	}
	// What a Lua was about to write when the process before died may come yet.
	touched := s.mem.begin()
	for i, t := range touched {
		if !t {
			s.free.put(i, time.Time{})
		}
	}
	for i, t := range touched {
		if t {
			s.free.put(i, now.Add(slotRest))
		}
	}
	s.metrics = newMetrics(o.Registry, s.Live, s.Ahead)
	return s, nil
}

// Close ends all lanes, as Revoke does, and gives the file up. No lane begins any more. Run returns.
func (s *Set) Close() {
	if s == nil {
		return
	}
	s.shut()
	s.beating.Lock()
	defer s.beating.Unlock()
	if s.mem != nil {
		s.mem = nil
		s.file.close()
	}
}

// shut ends all lanes for good.
func (s *Set) shut() {
	s.mu.Lock()
	s.quietUntil.Store(forever)
	if !s.isDown {
		s.isDown = true
		close(s.down)
	}
	s.mu.Unlock()
	s.end(reasonClose)
	s.beating.Lock()
	if s.beats {
		s.beats = false
		s.mem.number(atAlive).Store(0)
	}
	s.beating.Unlock()
}

// Live is the number of lanes by which Envoy may let requests through.
func (s *Set) Live() int {
	if s == nil {
		return 0
	}
	return int(s.live.Load())
}

// Ahead is the number of requests, of all lanes, that were let in ahead of their coming and have not come yet as far as is known.
func (s *Set) Ahead() int {
	if s == nil {
		return 0
	}
	return int(s.ahead.Load())
}

// Returned is how many claims have been cancelled since Open. Who read it before a limit refused him, and reads another number after
// Revoke, may be admitted now: perhaps it was not he who revoked, or a lane ended by itself just then.
func (s *Set) Returned() uint64 {
	if s == nil {
		return 0
	}
	return s.returned.Load()
}

// Offer gives the ticket of the lane of a key. Where there is none it makes one, and takes the first claims. The key holds the name of
// the Lua state, and everything that the decision depends on. A lane ends at until, or 5 s after it began, within
// a few milliseconds (250 at most); the zero time is no bound.
//
// It gives nothing while another call makes that lane, in the second after Revoke, where nothing could be taken ahead, and where the lane
// of the key lasts longer than until.
//
// m is called at most once, before Offer returns, and must return nil where what has decided is not live any more. Whoever changes what is
// live and calls Renew then can rely on it: m is called when Renew knows of the lane, so that m sees the change or Renew ends the lane.
func (s *Set) Offer(key string, m func() Maker, until time.Time) (ticket string, ok bool) {
	if s == nil {
		return "", false
	}
	sh := s.shard(key)
	sh.mu.RLock()
	l := sh.m[key]
	sh.mu.RUnlock()
	if l != nil {
		if l.state.Load() != live || !until.IsZero() && until.Before(l.until) {
			return "", false
		}
		return l.ticket, true
	}
	now := s.opts.Now()
	if !s.may(now) || !until.IsZero() && !until.After(now) {
		return "", false
	}
	l = &lane{set: s, key: key}
	l.mu.Lock()
	defer l.mu.Unlock()
	slot, ok := s.enter(l, now)
	if !ok {
		return "", false
	}
	// Whoever ends all lanes from now on waits for this one. Who did so before has forbidden to begin one, or did not mean this one.
	if s.may(now) {
		if maker := m(); maker != nil && l.open(maker, slot, now, until) {
			select {
			case s.wake <- struct{}{}:
			default:
			}
			return l.ticket, true
		}
	}
	l.state.Store(over)
	s.hide(l)
	s.leave(l, slot, time.Time{})
	return "", false
}

func (s *Set) shard(key string) *shard {
	return &s.shards[maphash.String(s.seed, key)%shardCount]
}

// may says whether a lane may begin.
func (s *Set) may(now time.Time) bool { return int64(now.Sub(s.epoch)) >= s.quietUntil.Load() }

// enter makes a lane known under its key, with a slot to come, unless its key has one.
func (s *Set) enter(l *lane, now time.Time) (slot int, ok bool) {
	sh := s.shard(l.key)
	sh.mu.Lock()
	if sh.m[l.key] != nil {
		sh.mu.Unlock()
		return 0, false
	}
	s.mu.Lock()
	slot, ok = s.free.take(now)
	if ok {
		l.at = len(s.lanes)
		s.lanes = append(s.lanes, l)
		s.entered.Store(int64(len(s.lanes)))
		sh.m[l.key] = l
	}
	s.mu.Unlock()
	sh.mu.Unlock()
	if !ok {
		s.noSlot(now)
	}
	return slot, ok
}

// noSlot tells the log, once a minute.
func (s *Set) noSlot(now time.Time) {
	at := int64(now.Sub(s.epoch))
	if was := s.full.Load(); at-was >= int64(time.Minute) && s.full.CompareAndSwap(was, at) {
		s.opts.Log.Warn("no lane can begin: all slots are in use, or rest after a lane that has ended. Requests go through Weir meanwhile",
			"slots", slotCount, "lanes", s.Live())
	}
}

// hide makes a lane unknown under its key, which it forgets: there are credentials in it.
func (s *Set) hide(l *lane) {
	sh := s.shard(l.key)
	sh.mu.Lock()
	if sh.m[l.key] == l {
		delete(sh.m, l.key)
	}
	sh.mu.Unlock()
	l.key = ""
}

// leave gives up a lane's place among those that are not over, and its slot, which rests until a time.
func (s *Set) leave(l *lane, slot int, rest time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.lanes) - 1
	s.lanes[l.at] = s.lanes[last]
	s.lanes[l.at].at = l.at
	s.lanes[last] = nil
	s.lanes = s.lanes[:last]
	s.entered.Store(int64(last))
	if rest.IsZero() {
		s.free.unread(slot)
	} else {
		s.free.put(slot, rest)
	}
}

// nextGeneration is never 0, which is none.
func (s *Set) nextGeneration() uint32 {
	for {
		if g := s.generation.Add(1); g != 0 {
			return g
		}
	}
}
