package simulate

import (
	"time"

	"github.com/weir-dev/weir/test/sim/gpu/engine"
	"github.com/weir-dev/weir/xds/load/signal"
)

// server is an engine on the agenda.
type server struct {
	index  int
	engine *engine.Engine
	agenda *agenda
	wake   time.Duration // when it is due next
	serial uint64        // of that; earlier ones are void
	dark   bool          // its metrics cannot be read

	before  [sources]engine.Stats // of the last readings
	gpu     signal.Sample         // the last one: the exporter looks at its own interval, however often it is asked
	hurried [sources]bool         // an extra reading is on the agenda
	inHaste [sources]int          // extra readings since the last regular one
	failed  int                   // health checks in a row
	passed  int
}

func newServer(i int, profile engine.Profile, seed uint64, a *agenda, emit func(*server, engine.Event)) (*server, error) {
	s := &server{index: i, agenda: a, wake: none}
	e, err := engine.New(profile, engine.Options{Seed: seed, Emit: func(ev engine.Event) { emit(s, ev) }})
	if err != nil {
		return nil, err
	}
	s.engine = e
	return s, nil
}

// schedule puts the engine on the agenda for when something happens in it next. It is called after everything that may change that.
func (s *server) schedule() {
	next, ok := s.engine.Next()
	if !ok {
		s.wake = none
		s.serial++
		return
	}
	next = max(next, s.agenda.now)
	if s.wake == next {
		return
	}
	s.wake = next
	s.serial++
	serial := s.serial
	s.agenda.at(next, rankServer, func() {
		if s.serial != serial {
			return
		}
		s.wake = none
		s.engine.Advance(next)
		s.schedule()
	})
}

// do changes the engine at the present.
func (s *server) do(change func(*engine.Engine)) {
	s.engine.Advance(s.agenda.now)
	change(s.engine)
	s.schedule()
}

// fault changes what is wrong with the engine.
func (s *server) fault(change func(*engine.Fault)) {
	s.do(func(e *engine.Engine) {
		f := e.Fault()
		change(&f)
		e.SetFault(f)
	})
}

// answers says whether the server answers checks and readings.
func (s *server) answers() bool { return !s.engine.Down() && !s.engine.Fault().Stalled }

// read is what a reading of a source says, or false if it fails; extra is one that somebody asked for out of turn. The sources say what those of vLLM and of DCGM say.
func (s *server) read(source int, extra bool) (signal.Sample, bool) {
	if extra {
		s.hurried[source] = false
		s.inHaste[source]++
	} else {
		s.inHaste[source] = 0
	}
	if s.dark || !s.answers() {
		return signal.Sample{}, false
	}
	if source == sourceGPU && extra {
		s.gpu.At = at(s.agenda.now)
		return s.gpu, s.gpu.Has != 0
	}
	s.engine.Advance(s.agenda.now)
	s.schedule()
	now, before := s.engine.Stats(), s.before[source]
	s.before[source] = now
	out := signal.Sample{At: at(s.agenda.now)}
	if source == sourceGPU {
		out.Has = out.Has.With(signal.GPUUtilization)
		out.GPUUtilization = engine.Utilization(before, now)
		s.gpu = out
		return out, true
	}
	out.Has = out.Has.With(signal.Waiting).With(signal.Running).With(signal.KVCache).With(signal.KVTokens)
	out.Waiting, out.Running, out.KVCache, out.KVTokens = float64(now.Waiting), float64(now.Running), now.KVUsed, float64(now.KVTokens)
	switch n := now.Queued - before.Queued; {
	case n > 0:
		out.Has = out.Has.With(signal.QueueDelay)
		out.QueueDelay = (now.QueueTime - before.QueueTime) / time.Duration(n)
	case now.Waiting == 0:
		out.Has = out.Has.With(signal.QueueDelay)
	}
	return out, true
}
