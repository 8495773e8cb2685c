package simulate

import (
	"strconv"
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/xds/load/feedback"
	"github.com/weir-dev/weir/xds/load/pools"
	"github.com/weir-dev/weir/xds/load/weigh"
)

// epoch is the time 0 of simulations.
var epoch = time.Unix(1_700_000_000, 0)

func at(d time.Duration) time.Time { return epoch.Add(d) }

// poolKey is what the pool is called in the Set.
const poolKey = "default/" + poolName

// steering is Weir's slow plane of one gateway: the pool that xds/load has, fed on a clock that is not real.
type steering struct {
	env      *environment
	every    time.Duration
	rules    weigh.Policy
	breakers *breaker.Set
	pool     pools.Pool

	told     []weigh.Result
	changed  int
	apply    func([]weigh.Result) // what is worth telling Envoy, when it has it
	computed func()
}

func newSteering(e *environment) *steering {
	spec := &e.policy.Spec
	s := &steering{
		env: e, every: duration(spec.Weights.Tick), rules: weigh.FromAPI(spec),
		breakers: breaker.New(breaker.Options{Now: func() time.Time { return epoch }}),
	}
	s.pool.Settings = pools.Settings{
		Weigh: &s.rules, Breaker: pick.FromAPI(poolKey, spec).Breaker, Checked: true, PublishPercent: int(spec.Weights.PublishPercent),
	}
	for i, base := range e.base {
		server := &pools.Endpoint{Key: keyOf(i), Base: base, Feedback: feedback.NewEndpoint(s.pool.FailureWindow())}
		for range sources {
			server.Sources = append(server.Sources, &pools.Samples{})
		}
		s.pool.Endpoints = append(s.pool.Endpoints, server)
	}
	return s
}

func duration(d *v1alpha1.Duration) time.Duration {
	if d == nil {
		return 0
	}
	return d.Duration
}

// keyOf is the key of a server's endpoint, and serverOf the other way.
func keyOf(server int) string { return "server:" + strconv.Itoa(server) }

func serverOf(key string) int {
	i, err := strconv.Atoi(key[len("server:"):])
	if err != nil {
		panic("a picker gave a key that it was not given: " + key)
	}
	return i
}

func (s *steering) interval() time.Duration { return s.every }

func (s *steering) read(r reading, now time.Duration) {
	e := s.pool.Endpoints[r.server]
	crossing := s.pool.Crossing(e, &r.sample)
	e.Sources[r.source].Add(r.sample)
	if crossing {
		s.env.hurry(r.server)
		s.tick(now)
	}
}

func (s *steering) checked(k check, now time.Duration) {
	e := s.pool.Endpoints[k.server]
	e.Failed, e.Passed = k.failed, k.passed
	if s.pool.Decisive(e) {
		s.tick(now)
	}
}

// closed is the record of a request: only then does the slow plane hear how long its first token took.
func (s *steering) closed(c *call, o outcome, now time.Duration) {
	feedback := s.pool.Endpoints[c.server()].Feedback
	if o == succeeded {
		feedback.Served(at(now))
	}
	if c.started {
		feedback.FirstToken(c.first-c.began, at(now))
	}
}

func (s *steering) tick(now time.Duration) {
	s.pool.Compute(at(now), s.breakers, pools.Ratio{})
	if s.computed != nil {
		s.computed()
	}
	tell, _ := s.pool.Tell(at(now))
	if !tell {
		return
	}
	results := s.pool.Results()
	for i := range s.told {
		if s.told[i].Weight != results[i].Weight {
			s.changed++
		}
	}
	s.told = results
	if s.apply != nil {
		s.env.after(s.env.delay, func() { s.apply(results) })
	}
}

func (s *steering) weights() []float64 {
	out := make([]float64, len(s.pool.Endpoints))
	for i, e := range s.pool.Endpoints {
		out[i] = 1
		if s.told != nil {
			out[i] = float64(s.told[i].Weight) / (e.Base * weigh.Scale)
		}
	}
	return out
}

func (s *steering) changes() int { return s.changed }

// weirWeights is the slow plane alone: Envoy's least request over the weights that Weir publishes.
type weirWeights struct {
	*steering
	lb     *envoyLeastRequest
	passes map[uint64]breaker.Pass // by ID
}

func newWeirWeights(e *environment) *weirWeights {
	b := &weirWeights{steering: newSteering(e), lb: newEnvoyLeastRequest(e.base, e.rnd), passes: map[uint64]breaker.Pass{}}
	b.rules.TryHalfOpen = true
	b.apply = func(results []weigh.Result) {
		weights := make([]float64, len(results))
		for i := range results {
			weights[i] = float64(results[i].Weight)
		}
		b.lb.update(weights)
	}
	return b
}

func (b *weirWeights) pick(c *call, now time.Duration) int {
	fresh := func(i int) bool {
		for _, t := range c.tried {
			if t == i {
				return false
			}
		}
		return true
	}
	i := b.lb.pick(fresh)
	if b.pool.Breaker != nil {
		if pass, refusal := b.breakers.Allow(b.pool.Breaker, keyOf(i), at(now)); refusal == nil {
			b.passes[c.ID] = pass
		}
	}
	return i
}

func (b *weirWeights) ended(c *call, o outcome, now time.Duration) {
	i := c.server()
	b.lb.active[i]--
	pass := b.passes[c.ID]
	delete(b.passes, c.ID)
	b.judge(i, o, now, pass)
}

// judge tells how an attempt went.
func (s *steering) judge(server int, o outcome, now time.Duration, pass breaker.Pass) {
	if o == gaveUp {
		pass.Drop()
		return
	}
	pass.Done(o == succeeded, at(now))
	s.result(server, o, now)
}

// result tells the feedback how an attempt went.
func (s *steering) result(server int, o outcome, now time.Duration) {
	switch o {
	case succeeded:
		s.pool.Endpoints[server].Feedback.Results(1, 0, at(now))
	case failed:
		s.pool.Endpoints[server].Feedback.Results(0, 1, at(now))
	}
}

// weir is both planes: extproc/pick chooses for every request, and Envoy tries the endpoints in its order.
type weir struct {
	*steering
	policy *pick.Policy
	set    *pick.Set
}

func newWeir(e *environment) *weir {
	b := &weir{steering: newSteering(e), policy: pick.FromAPI(poolKey, &e.policy.Spec)}
	b.set = pick.NewSet(pick.Options{Now: func() time.Time { return at(e.now()) }, Breakers: b.breakers, Seed: e.seed})
	b.computed = func() { b.set.Update(poolKey, b.policy, b.pool.Picks()) }
	b.tick(0) // the pool is known before the first request
	return b
}

func (b *weir) pick(c *call, now time.Duration) int {
	if n := len(c.tried); n > 0 {
		p := c.private.(*pick.Pick)
		if n >= len(p.Endpoints) {
			return none
		}
		p.Move(p.Endpoints[n])
		return serverOf(p.Endpoints[n])
	}
	r := &pick.Request{Pool: poolKey, Tokens: int64(c.Prompt)}
	if p := b.policy.Prefix; p != nil {
		r.Blocks = c.Blocks(p.BlockTokens, false)
	}
	p, refusal := b.set.TryPick(r, at(now))
	if refusal != nil {
		return none
	}
	c.private = p
	return serverOf(p.Endpoints[0])
}

func (b *weir) ended(c *call, o outcome, now time.Duration) {
	b.result(c.server(), o, now)
}

func (b *weir) closed(c *call, o outcome, now time.Duration) {
	b.steering.closed(c, o, now)
	p := c.private.(*pick.Pick)
	if o == gaveUp {
		p.Drop()
		return
	}
	e := pick.Ending{
		At: at(now), Attempts: len(c.tried), Endpoint: keyOf(c.server()), OK: o == succeeded, Failed: o == failed,
		InputTokens: int64(c.Prompt), CachedTokens: int64(c.cached), OutputTokens: int64(c.Output),
	}
	if c.started {
		e.TTFT = c.first - c.began
	}
	p.Done(e)
}
