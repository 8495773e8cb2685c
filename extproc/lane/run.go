package lane

import (
	"context"
	"time"
)

const (
	lookEvery = 5 * time.Millisecond
	beatEvery = 50 * time.Millisecond
	// aliveFor is how long Envoy uses lanes after the last sign of life.
	aliveFor = 250 * time.Millisecond
)

// Run looks at the lanes until ctx ends or the Set is closed; then all lanes end, and none begins any more. It sleeps while there are no lanes.
// Without it none can be used.
func (s *Set) Run(ctx context.Context) {
	if s == nil {
		return
	}
	defer s.shut()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.down:
			return
		case <-s.opts.Tick:
			if s.entered.Load() > 0 { // wake has it too
				s.step(s.opts.Now(), nil)
			}
			continue
		case <-s.wake:
		}
		if !s.watch(ctx) {
			return
		}
	}
}

// watch looks until there are no lanes, or until the end, when it says false.
func (s *Set) watch(ctx context.Context) bool {
	tick := s.opts.Tick
	if tick == nil {
		t := time.NewTicker(lookEvery)
		defer t.Stop()
		tick = t.C
	}
	if s.entered.Load() > 0 {
		s.beat(s.opts.Now()) // not with the first look: the next request of a lane may be here before
	}
	var lanes []*lane
	for s.entered.Load() > 0 {
		select {
		case <-ctx.Done():
			return false
		case <-s.down:
			return false
		case <-tick:
		}
		lanes = s.step(s.opts.Now(), lanes)
	}
	return true
}

// step is one look at all lanes. It returns its list for the next one to use.
func (s *Set) step(now time.Time, lanes []*lane) []*lane {
	s.beat(now)
	s.mu.Lock()
	lanes = append(lanes[:0], s.lanes...)
	s.mu.Unlock()
	stopped := lanes[:0] // those before the one looked at are not needed any more
	for _, l := range lanes {
		if l.state.Load() == opening {
			continue // whoever makes it takes the first claims; others need not wait for that
		}
		l.mu.Lock()
		if l.state.Load() == live {
			l.visit(now)
		}
		if l.state.Load() == ending {
			stopped = append(stopped, l)
		}
		l.mu.Unlock()
	}
	if len(stopped) > 0 {
		time.Sleep(drain)
		for _, l := range stopped {
			l.mu.Lock()
			l.finish()
			l.mu.Unlock()
		}
	}
	clear(lanes) // not to keep those that are over
	return lanes
}

// beat tells Envoy that Weir lives.
func (s *Set) beat(now time.Time) {
	if d := now.Sub(s.lastBeat); d >= 0 && d < beatEvery {
		return
	}
	s.beating.Lock()
	defer s.beating.Unlock()
	if s.beats {
		s.lastBeat = now
		s.mem.put(atAlive, float64(now.Add(aliveFor).UnixMilli()))
	}
}
