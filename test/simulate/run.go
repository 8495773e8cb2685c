package simulate

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/weir-dev/weir/test/sim/gpu/engine"
)

// Run simulates one policy of a scenario with one seed. requests are those of Generate for that seed; they are not changed.
func Run(s *Scenario, p *Policy, seed uint64, requests []*Request) (*Result, error) {
	r := &runner{scenario: s, policy: p, requests: requests, calls: map[uint64]*call{}}
	// Bad luck of one policy must not depend on which others take part.
	h := fnv.New64a()
	h.Write([]byte(p.Name))
	r.rnd = rand.New(rand.NewPCG(seed, h.Sum64()))
	if err := r.setUp(seed); err != nil {
		return nil, err
	}
	end := time.Duration(s.Duration) + time.Duration(s.Drain)
	r.agenda.until(end, func() bool {
		return r.agenda.now >= time.Duration(s.Duration) && r.arrived == len(requests) && len(r.calls) == 0
	})
	r.finish(end)
	if r.err != nil {
		return nil, r.err
	}
	return r.stats.result(s, p, seed, r.balancers), nil
}

type runner struct {
	scenario  *Scenario
	policy    *Policy
	rnd       *rand.Rand
	agenda    agenda
	servers   []*server
	balancers []balancer // by gateway; the same one more than once if it is shared
	requests  []*Request
	arrived   int
	calls     map[uint64]*call // under way, by the ID of the attempt
	attempts  uint64
	stats     *collector
	err       error
}

// attempt IDs: the engine knows attempts, not requests.
func (r *runner) newAttempt(c *call) uint64 {
	r.attempts++
	c.attempts = r.attempts
	r.calls[c.attempts] = c
	return c.attempts
}

func (r *runner) setUp(seed uint64) error {
	s := r.scenario
	var base []float64
	for i := range s.Pool.Servers {
		profile, weight := s.Pool.server(i)
		server, err := newServer(i, profile, seed+uint64(i), &r.agenda, r.event)
		if err != nil {
			return err
		}
		r.servers = append(r.servers, server)
		base = append(base, float64(weight))
	}
	r.stats = newCollector(s)
	r.balancers = newBalancers(r.policy.Kind, s.Gateways, func(gateway int) *environment {
		return &environment{
			base: base, rnd: rand.New(rand.NewPCG(r.rnd.Uint64(), uint64(gateway))), seed: r.rnd.Uint64(),
			delay: time.Duration(s.PublishDelay), policy: r.policy.LoadPolicy.Policy,
			after: func(d time.Duration, f func()) { r.agenda.at(r.agenda.now+d, rankTick, f) },
			hurry: r.hurry,
			now:   func() time.Duration { return r.agenda.now },
		}
	})
	for i := range s.Faults {
		r.fault(&s.Faults[i])
	}
	r.arrive()
	for _, server := range r.servers {
		r.readings(server)
		r.checks(server)
	}
	for _, b := range r.distinct() {
		if t, ok := b.(ticker); ok {
			r.every(0, t.interval(), rankTick, t.tick)
		}
	}
	r.every(0, r.stats.bin, rankTick, func(now time.Duration) { r.stats.weights(now, r.balancers) })
	return nil
}

// distinct balancers, each once.
func (r *runner) distinct() []balancer { return distinct(r.balancers) }

func distinct(all []balancer) []balancer {
	var out []balancer
	for _, b := range all {
		if !slices.Contains(out, b) {
			out = append(out, b)
		}
	}
	return out
}

// every runs f at an interval.
func (r *runner) every(first, interval time.Duration, rank rank, f func(now time.Duration)) {
	r.agenda.at(first, rank, func() {
		f(r.agenda.now)
		r.every(r.agenda.now+interval, interval, rank, f)
	})
}

// arrive lets the next request arrive, and after it the one that follows.
func (r *runner) arrive() {
	if r.arrived == len(r.requests) {
		return
	}
	request := r.requests[r.arrived]
	r.agenda.at(request.At, rankArrival, func() {
		c := &call{Request: request, gateway: r.arrived % len(r.balancers)}
		r.arrived++
		r.stats.arrived(c)
		r.try(c)
		if t := time.Duration(r.scenario.Timeout); t > 0 {
			r.agenda.at(r.agenda.now+t, rankServer, func() { r.timeOut(c) })
		}
		r.arrive()
	})
}

// try starts an attempt of a call.
func (r *runner) try(c *call) {
	b := r.balancers[c.gateway]
	i := b.pick(c, r.agenda.now)
	if i == none {
		r.close(c, failed)
		return
	}
	c.tried, c.began = append(c.tried, i), r.agenda.now
	server := r.servers[i]
	e := server.engine.Profile()
	request := engine.Request{
		ID: r.newAttempt(c), PromptTokens: c.Prompt, OutputTokens: c.Output, ArriveAt: r.agenda.now,
	}
	if r.scenario.Workload.Prefixes != nil {
		request.Blocks = c.Blocks(e.BlockTokens, true)
	}
	if err := server.engine.Submit(request); err != nil && r.err == nil {
		r.err = fmt.Errorf("server %d: %w", i, err)
		return
	}
	server.schedule()
}

// event hears what an engine tells.
func (r *runner) event(s *server, ev engine.Event) {
	c := r.calls[ev.ID]
	if c == nil {
		return
	}
	now := r.agenda.now
	switch ev.Kind {
	case engine.Started:
		c.cached = ev.Cached
	case engine.FirstToken:
		c.first, c.last, c.started = now, now, true
		r.stats.firstToken(c, now)
	case engine.Token:
		r.stats.token(c, now)
		c.last = now
	case engine.Finished:
		r.end(c, succeeded)
	case engine.Failed:
		r.end(c, failed)
	}
}

// end ends an attempt. One that failed before its first token is tried elsewhere.
func (r *runner) end(c *call, o outcome) {
	delete(r.calls, c.attempts)
	r.balancers[c.gateway].ended(c, o, r.agenda.now)
	if o == failed && !c.started && len(c.tried) <= *r.scenario.Retries && len(c.tried) < len(r.servers) {
		r.try(c)
		return
	}
	r.close(c, o)
}

// close ends a call.
func (r *runner) close(c *call, o outcome) {
	c.over = true
	if h, ok := r.balancers[c.gateway].(closer); ok && len(c.tried) > 0 {
		h.closed(c, o, r.agenda.now)
	}
	r.stats.ended(c, o, r.agenda.now)
}

// timeOut ends a call that has no token yet.
func (r *runner) timeOut(c *call) {
	if c.over || c.started {
		return
	}
	delete(r.calls, c.attempts)
	r.servers[c.server()].do(func(e *engine.Engine) { e.Cancel(c.attempts) })
	r.balancers[c.gateway].ended(c, failed, r.agenda.now)
	r.close(c, failed)
}

// finish ends what has no end when time is up.
func (r *runner) finish(end time.Duration) {
	r.agenda.now = end
	left := make([]uint64, 0, len(r.calls))
	for id := range r.calls {
		left = append(left, id)
	}
	slices.Sort(left)
	for _, id := range left {
		c := r.calls[id]
		delete(r.calls, id)
		r.balancers[c.gateway].ended(c, gaveUp, end)
		r.close(c, gaveUp)
	}
}

// readings of a server's metrics, each source from a point in its interval that is random.
func (r *runner) readings(s *server) {
	intervals := [sources]time.Duration{sourceEngine: time.Duration(r.policy.Interval), sourceGPU: time.Duration(r.scenario.Signals.GPUInterval)}
	for source, interval := range intervals {
		r.every(r.phase(interval), interval, rankSignal, func(time.Duration) { r.read(s, source, false) })
	}
}

func (r *runner) read(s *server, source int, extra bool) {
	sample, ok := s.read(source, extra)
	if !ok {
		return
	}
	for _, b := range r.distinct() {
		if h, ok := b.(readingHearer); ok {
			h.read(reading{s.index, source, sample}, r.agenda.now)
		}
	}
}

// As xds/load/scrape does when it is asked to hurry.
const (
	hurryLeast = 25 * time.Millisecond
	hurryMost  = 50 * time.Millisecond
	maxHurries = 3
)

// hurry reads a server again soon.
func (r *runner) hurry(server int) {
	s := r.servers[server]
	for source := range sources {
		if s.hurried[source] || s.inHaste[source] >= maxHurries {
			continue
		}
		s.hurried[source] = true
		r.agenda.at(r.agenda.now+hurryLeast+r.phase(hurryMost-hurryLeast), rankSignal, func() { r.read(s, source, true) })
	}
}

func (r *runner) phase(interval time.Duration) time.Duration {
	return time.Duration(r.rnd.Int64N(int64(interval)))
}

// soon is the longest time from a failed health check to the next.
const soon = 200 * time.Millisecond

// checks of a server's health.
func (r *runner) checks(s *server) {
	signals := &r.scenario.Signals
	var ask func()
	ask = func() {
		next := time.Duration(signals.HealthInterval)
		tell := func(ok bool) {
			if ok {
				s.failed, s.passed = 0, s.passed+1
			} else {
				s.failed, s.passed = s.failed+1, 0
			}
			for _, b := range r.distinct() {
				if h, ok := b.(checkHearer); ok {
					h.checked(check{s.index, s.failed, s.passed}, r.agenda.now)
				}
			}
		}
		switch {
		case s.answers():
			tell(true)
		case s.engine.Down():
			tell(false)
			next = min(next, soon)
		default: // it hangs
			timeout := time.Duration(signals.HealthTimeout)
			r.agenda.at(r.agenda.now+timeout, rankSignal, func() {
				tell(false)
				r.agenda.at(r.agenda.now+min(next, soon), rankSignal, ask)
			})
			return
		}
		r.agenda.at(r.agenda.now+next, rankSignal, ask)
	}
	r.agenda.at(r.phase(time.Duration(signals.HealthInterval)), rankSignal, ask)
}

// fault puts a fault, and its end, on the agenda.
func (r *runner) fault(f *Fault) {
	targets := r.servers
	if len(f.Servers) > 0 {
		targets = nil
		for _, i := range f.Servers {
			targets = append(targets, r.servers[i])
		}
	}
	set := func(t Duration, change func(*server)) {
		r.agenda.at(time.Duration(t), rankFault, func() {
			for _, s := range targets {
				change(s)
			}
		})
	}
	var begin, end func(*server)
	switch f.Kind {
	case FaultSlow:
		begin = func(s *server) { s.fault(func(x *engine.Fault) { x.Speed = f.Factor }) }
		end = func(s *server) { s.fault(func(x *engine.Fault) { x.Speed = 1 }) }
	case FaultKill:
		begin = func(s *server) { s.do((*engine.Engine).Crash) }
		end = func(s *server) { s.do((*engine.Engine).Restart) }
	case FaultRevive:
		begin = func(s *server) { s.do((*engine.Engine).Restart) }
	case FaultMetricsOff:
		begin = func(s *server) { s.dark = true }
		end = func(s *server) { s.dark = false }
	case FaultStall:
		begin = func(s *server) { s.fault(func(x *engine.Fault) { x.Stalled = true }) }
		end = func(s *server) { s.fault(func(x *engine.Fault) { x.Stalled = false }) }
	}
	set(f.At, begin)
	if f.Until > 0 {
		set(f.Until, end)
	}
}
