package fleet

import (
	"cmp"
	"container/list"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"

	"github.com/weir-dev/weir/xds/load/signal"
)

const (
	// batchEvery is how long readings are gathered that nobody needs at once.
	batchEvery = 100 * time.Millisecond
	// urgentEvery is how long those are that somebody does: many endpoints tend to cross a line together.
	urgentEvery = 10 * time.Millisecond
	// maxDead is how many numbers of sources that are gone are left before all are numbered anew.
	maxDead = 1024
)

// Signals are the newest readings of endpoints, for gateways. Only the newest of a source counts: who is slow is never told those between. It
// is safe for concurrent use, and is a load.Board.
type Signals struct {
	clock clock.Clock
	epoch time.Time // what times count from; it has a monotonic reading
	sent  prometheus.Counter

	mu       sync.Mutex
	sources  map[signalKey]*posted
	numbered []*posted  // in the order of their numbers
	recent   *list.List // of *posted, the one that was read last at the back
	now      moment     // what has come
	flushed  moment     // what is being sent
	changed  chan struct{}
	frames   map[messageKey]*signalMessage // of flushed, for all who have the same
	replicas *Replicas                     // nil: nobody shares the work

	wakes chan struct{} // something was posted
	hurry chan struct{} // something urgent was
}

// moment is how far somebody has come.
type moment struct {
	generation uint64 // of numbers
	number     uint64 // of the last source
	reading    uint64 // counts them
	replicas   uint64 // counts changes
}

type signalKey struct {
	backend, endpoint string
	index             int
}

// posted is the newest reading of a source.
type posted struct {
	signalReading
	place   *list.Element
	reading uint64 // when, as of moment
}

type messageKey struct {
	wanted string
	from   moment
	reset  bool
}

// signalMessage is a frame, encoded once for all who are due it.
type signalMessage struct {
	frame *signalFrame
	once  sync.Once
	bytes []byte
}

func newSignals(c clock.Clock, sent prometheus.Counter) *Signals {
	return &Signals{
		clock: c, epoch: c.Now(), sent: sent, sources: map[signalKey]*posted{}, recent: list.New(), changed: make(chan struct{}),
		frames: map[messageKey]*signalMessage{}, wakes: make(chan struct{}, 1), hurry: make(chan struct{}, 1),
	}
}

// Post takes a reading. It is sent within 100 ms, and within 10 ms where it is urgent.
func (s *Signals) Post(of signal.Shared, urgent bool) {
	s.mu.Lock()
	k := signalKey{of.Backend, of.Endpoint, of.Source}
	p := s.sources[k]
	if p != nil && p.Of != of.Of {
		s.drop(k, p)
		p = nil
	}
	if p == nil {
		s.now.number++
		p = &posted{signalReading: signalReading{source: s.now.number}}
		p.place = s.recent.PushBack(p)
		s.sources[k] = p
		s.numbered = append(s.numbered, p)
	}
	s.now.reading++
	p.Shared, p.at, p.reading = of, max(0, of.At.Sub(s.epoch)), s.now.reading
	s.recent.MoveToBack(p.place)
	s.mu.Unlock()
	if urgent {
		wake(s.hurry)
	}
	wake(s.wakes)
}

// Keep drops the readings of what is not read here any more.
func (s *Signals) Keep(keep func(*signal.Shared) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, p := range s.sources {
		if !keep(&p.Shared) {
			s.drop(k, p)
		}
	}
	if dead := s.now.number - uint64(len(s.sources)); dead > maxDead && dead > uint64(len(s.sources)) {
		s.renumber()
	}
}

// drop forgets a source. The caller holds mu.
func (s *Signals) drop(k signalKey, p *posted) {
	delete(s.sources, k)
	clear(s.frames) // they may have it
	s.recent.Remove(p.place)
	if i, ok := slices.BinarySearchFunc(s.numbered, p.source, func(p *posted, n uint64) int { return cmp.Compare(p.source, n) }); ok {
		s.numbered = slices.Delete(s.numbered, i, i+1)
	}
}

// renumber begins with numbers anew, so that gateways forget those of sources that are gone. The caller holds mu.
func (s *Signals) renumber() {
	s.now.generation++
	s.now.number = 0
	for _, p := range s.numbered {
		s.now.number++
		p.source = s.now.number
	}
	s.release() // what was being sent has the old ones
}

// Replicas says who shares the work. Gateways get the signals of all of them.
func (s *Signals) Replicas(of Replicas) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.replicas != nil && s.replicas.Self == of.Self && slices.Equal(s.replicas.Others, of.Others) {
		return
	}
	s.replicas = &of
	s.now.replicas++
	wake(s.hurry)
}

// run sends what was posted, in batches, until ctx is done.
func (s *Signals) run(ctx context.Context) {
	last := s.clock.Now().Add(-batchEvery)
	for {
		select {
		case <-s.wakes:
		case <-s.hurry:
			wake(s.hurry)
		case <-ctx.Done():
			return
		}
		if !s.pause(ctx, last) {
			return
		}
		last = s.clock.Now()
		s.flush()
	}
}

// pause waits until the next batch is due, which depends on whether something urgent is in it.
func (s *Signals) pause(ctx context.Context, last time.Time) bool {
	sleep := func(d time.Duration, sooner <-chan struct{}) bool {
		if d <= 0 {
			return true
		}
		timer := s.clock.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C():
		case <-sooner:
		case <-ctx.Done():
			return false
		}
		return true
	}
	return sleep(last.Add(urgentEvery).Sub(s.clock.Now()), nil) && sleep(last.Add(batchEvery).Sub(s.clock.Now()), s.hurry)
}

// flush lets everybody have what was posted until now.
func (s *Signals) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.hurry: // that is in it
	default:
	}
	if s.flushed != s.now {
		s.release()
	}
}

// release makes what has come what is being sent. The caller holds mu.
func (s *Signals) release() {
	s.flushed = s.now
	clear(s.frames)
	close(s.changed)
	s.changed = make(chan struct{})
}

// signalClient is how far one stream has come.
type signalClient struct {
	wanted map[string]bool
	key    string // of wanted
	from   moment
	begun  bool // it was sent something of what it wants
}

// want makes the client begin anew with other Backends.
func (c *signalClient) want(backends []string) {
	slices.Sort(backends)
	backends = slices.Compact(backends)
	c.wanted = make(map[string]bool, len(backends))
	for _, id := range backends {
		c.wanted[id] = true
	}
	c.key, c.from, c.begun = string(encodeWanted(backends)), moment{}, false
}

// next is the message that the client is due, or nil and what is closed when there may be one.
func (s *Signals) next(c *signalClient) (*signalMessage, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	reset := !c.begun || c.from.generation != s.flushed.generation
	if !reset && c.from == s.flushed {
		return nil, s.changed
	}
	if reset {
		c.from = moment{replicas: c.from.replicas}
	}
	k := messageKey{c.key, c.from, reset}
	m := s.frames[k]
	if m == nil {
		m = &signalMessage{frame: s.frame(c, reset)}
		s.frames[k] = m
	}
	c.from, c.begun = s.flushed, true
	if f := m.frame; !f.reset && len(f.readings)+len(f.sources) == 0 && f.replicas == nil {
		return nil, s.changed
	}
	return m, nil
}

// frame is what a client lacks of what is being sent. The caller holds mu.
func (s *Signals) frame(c *signalClient, reset bool) *signalFrame {
	f := &signalFrame{at: s.clock.Since(s.epoch), reset: reset}
	if c.from.replicas != s.flushed.replicas {
		f.replicas = s.replicas
	}
	// Numbers that a client was not told, and then what was read since.
	for _, p := range slices.Backward(s.numbered) {
		if p.source <= c.from.number {
			break
		}
		if p.source <= s.flushed.number && c.wanted[p.Backend] {
			f.sources = append(f.sources, signalSource{p.source, p.Backend, p.Endpoint, p.Source, p.Of})
		}
	}
	for at := s.recent.Back(); at != nil; at = at.Prev() {
		p := at.Value.(*posted)
		if p.reading <= c.from.reading {
			break
		}
		// What has come since the batch was closed is in the next one; so is its number, where it is new.
		if p.reading <= s.flushed.reading && c.wanted[p.Backend] {
			f.readings = append(f.readings, p.signalReading)
		}
	}
	return f
}

// encoded is the message as it travels.
func (m *signalMessage) encoded() []byte {
	m.once.Do(func() { m.bytes = m.frame.encode(nil) })
	return m.bytes
}
