package simulate

import (
	"strconv"
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/xds/load/feedback"
	"github.com/weir-dev/weir/xds/load/signal"
	"github.com/weir-dev/weir/xds/load/weigh"
)

// epoch is the time 0 of simulations.
var epoch = time.Unix(1_700_000_000, 0)

func at(d time.Duration) time.Time { return epoch.Add(d) }

// poolKey is what the pool is called in the Set.
const poolKey = "default/" + poolName

// steering is Weir's slow plane of one gateway: what xds/load does with signals, on a clock that is not real. Around it
// are the packages that xds/load uses as well.
type steering struct {
	env      *environment
	rules    weigh.Policy
	publish  int // percent
	every    time.Duration
	breaker  *breaker.Rule
	breakers *breaker.Set

	state     *weigh.State
	endpoints []*steered
	results   []weigh.Result
	published []weigh.Result
	changed   int
	apply     func([]weigh.Result) // what is worth telling Envoy, when it has it
	computed  func([]weigh.Result)
}

// steered is what a gateway knows of a server.
type steered struct {
	key      string
	base     float64
	samples  [sources][]signal.Sample
	feedback *feedback.Endpoint
	checked  check
	isolated bool
}

func newSteering(e *environment) *steering {
	spec := &e.policy.Spec
	s := &steering{
		env: e, rules: weigh.FromAPI(spec), publish: int(spec.Weights.PublishPercent), every: duration(spec.Weights.Tick),
		breakers: breaker.New(breaker.Options{Now: func() time.Time { return epoch }}),
		breaker:  pick.FromAPI(poolKey, spec).Breaker,
	}
	window := 10 * time.Second
	if s.breaker != nil {
		window = s.breaker.Window
	}
	for i, base := range e.base {
		s.endpoints = append(s.endpoints, &steered{key: keyOf(i), base: base, feedback: feedback.NewEndpoint(window)})
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
	e := s.endpoints[r.server]
	crossing := weigh.Crossing(&s.rules, s.state, e.key, &r.sample)
	e.samples[r.source] = append(e.samples[r.source], r.sample)
	if crossing {
		s.env.hurry(r.server)
		s.tick(now)
	}
}

func (s *steering) checked(k check, now time.Duration) {
	e := s.endpoints[k.server]
	was := e.checked
	e.checked = k
	// What crosses the line is computed at once.
	if k.failed >= s.rules.FailedChecks && was.failed < s.rules.FailedChecks || k.passed >= s.rules.PassedChecks && was.passed < s.rules.PassedChecks {
		s.tick(now)
	}
}

// closed is the record of a request: only then does the slow plane hear how long its first token took.
func (s *steering) closed(c *call, _ outcome, now time.Duration) {
	if c.started {
		s.endpoints[c.server()].feedback.FirstToken(c.first-c.At, at(now))
	}
}

func (s *steering) tick(now time.Duration) {
	in := make([]weigh.Input, len(s.endpoints))
	for i, e := range s.endpoints {
		f := e.feedback.State(at(now))
		in[i] = weigh.Input{
			Key: e.key, Base: e.base, TTFT: f.TTFT, TTFTCount: f.TTFTCount, TTFTAt: f.TTFTAt, ErrorRate: f.ErrorRate,
			Checked: true, Failed: e.checked.failed, Passed: e.checked.passed, BlockedUntil: f.BlockedUntil,
		}
		if s.breaker != nil {
			in[i].Breaker = s.breakers.State(s.breaker, e.key, at(now))
		}
		for j := range e.samples {
			in[i].Samples = append(in[i].Samples, e.samples[j]...)
			if n := len(e.samples[j]); n > 1 {
				e.samples[j] = append(e.samples[j][:0], e.samples[j][n-1])
			}
		}
	}
	s.state, s.results = weigh.Compute(&s.rules, s.state, in, at(now))
	for i, e := range s.endpoints {
		isolated := s.results[i].Status == weigh.Isolated
		if e.isolated && !isolated {
			e.feedback.Reset()
		}
		e.isolated = isolated
	}
	if s.computed != nil {
		s.computed(s.results)
	}
	if s.published == nil || weigh.Worth(s.published, s.results, s.publish) {
		for i := range s.results {
			if s.published != nil && s.published[i].Weight != s.results[i].Weight {
				s.changed++
			}
		}
		results := s.results
		s.published = results
		if s.apply != nil {
			s.env.after(s.env.delay, func() { s.apply(results) })
		}
	}
}

func (s *steering) weights() []float64 {
	out := make([]float64, len(s.endpoints))
	for i, e := range s.endpoints {
		out[i] = 1
		if s.published != nil {
			out[i] = float64(s.published[i].Weight) / (e.base * weigh.Scale)
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
	if b.breaker != nil {
		if pass, refusal := b.breakers.Allow(b.breaker, keyOf(i), at(now)); refusal == nil {
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
		s.endpoints[server].feedback.Results(1, 0, at(now))
	case failed:
		s.endpoints[server].feedback.Results(0, 1, at(now))
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
	b.computed = func(results []weigh.Result) {
		endpoints := make([]pick.Endpoint, len(results))
		for i, r := range results {
			endpoints[i] = pick.Endpoint{
				Key: r.Key, Base: b.endpoints[i].base, Factor: r.Factor, KV: r.KVCache, Panic: r.Panic,
				Isolated: r.Causes&(weigh.CauseHealth|weigh.CauseBlocked) != 0 && !r.Panic,
			}
		}
		b.set.Update(poolKey, b.policy, endpoints)
	}
	b.tick(0) // the pool is known before the first request
	return b
}

// picked is what a call holds.
type picked struct {
	*pick.Pick
	at time.Duration // of the last attempt
}

func (b *weir) pick(c *call, now time.Duration) int {
	if n := len(c.tried); n > 0 {
		p := c.private.(*picked)
		if n >= len(p.Endpoints) {
			return none
		}
		p.at = now
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
	c.private = &picked{p, now}
	return serverOf(p.Endpoints[0])
}

func (b *weir) ended(c *call, o outcome, now time.Duration) {
	b.result(c.server(), o, now)
}

func (b *weir) closed(c *call, o outcome, now time.Duration) {
	b.steering.closed(c, o, now)
	p := c.private.(*picked)
	if o == gaveUp {
		p.Drop()
		return
	}
	e := pick.Ending{
		At: at(now), Attempts: len(c.tried), Endpoint: keyOf(c.server()), OK: o == succeeded, Failed: o == failed,
		InputTokens: int64(c.Prompt), CachedTokens: int64(c.cached), OutputTokens: int64(c.Output),
	}
	if c.started {
		e.TTFT = c.first - p.at
	}
	p.Done(e)
}
