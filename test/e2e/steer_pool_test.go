package e2e

import (
	"context"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim/gpu"
	"github.com/weir-dev/weir/test/sim/gpu/engine"
)

// chatsVariable is how many chats each phase of TestSteeredPool has, 800 at most: more than by default for figures to quote.
const chatsVariable = "WEIR_E2E_CHATS"

// The phases of TestSteeredPool. What has gone wrong in one stays so until all is brought back.
const (
	phaseBefore = iota
	phaseSlow
	phaseKilled
	phaseCrowded
	phaseBlind
	phaseBack
	phaseAfter
)

// TestSteeredPool: eight servers under steady load, of which some go wrong, one way after the other, and come back. Weir stands
// beside what Envoy does by itself, with pools and load that are the same.
func TestSteeredPool(t *testing.T) {
	chats := 120
	if v := os.Getenv(chatsVariable); v != "" {
		var err error
		if chats, err = strconv.Atoi(v); err != nil {
			t.Fatalf("%s: %v", chatsVariable, err)
		}
	}
	const (
		model   = "pool"
		killed  = 2
		crowded = 3
		blind   = 4
		rate    = 30 // about half of what the servers can do
	)
	slow := []int{0, 1}
	names := []string{"before", "two slowed to 0.4x", "one killed", "one crowded", "one without metrics", "all back", "after"}

	gpus := func() *gpu.Pool {
		return harness.NewGPUs(t, 8, gpu.Options{Profile: engine.Profiles()[1].Scaled(0.7)})
	}
	s := startSteered(t, []steeredPool{{
		name: model, servers: gpus(), retry: 3, backend: "healthCheck: {interval: 250ms, timeout: 2s}\nmetrics: [{type: VLLM, interval: 250ms}]\n",
		policy: "health: {warmUp: 2s}\n",
	}})
	plain := []*gpu.Pool{gpus(), gpus()}
	urls := plainEnvoy(t, []string{"ROUND_ROBIN", "LEAST_REQUEST"}, plain)
	weir := &contender{name: "Weir", url: s.URL, key: s.Key, model: model, pool: s.pools[model]}
	robin := &contender{name: "Envoy round robin", url: urls[0], model: model, pool: plain[0]}
	least := &contender{name: "Envoy least request", url: urls[1], model: model, pool: plain[1]}
	all := []*contender{weir, robin, least}

	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	enter := func(phase int) {
		for _, c := range all {
			c.enter(phase)
		}
	}
	serve := func() {
		t.Helper()
		var upto []int64
		for _, c := range all {
			upto = append(upto, c.sent.Load()+int64(chats))
		}
		for i, c := range all {
			harness.WaitFor(t, "the chats of a phase", func() bool { return c.sent.Load() >= upto[i] })
		}
	}
	each := func(do func(p *gpu.Pool)) {
		for _, c := range all {
			do(c.pool)
		}
	}
	enter(phaseBefore)
	for _, c := range all {
		running.Go(func() { c.run(ctx, newArrivals(7, rate)) })
	}
	stop := sync.OnceFunc(func() { cancel(); running.Wait() })
	defer stop()
	serve()

	enter(phaseSlow)
	each(func(p *gpu.Pool) {
		for _, i := range slow {
			must(t, p.Servers[i].Set(gpu.Fault{Speed: 0.4}))
		}
	})
	serve()

	enter(phaseKilled)
	each(func(p *gpu.Pool) { p.Servers[killed].Kill() })
	s.awaitWeight(t, model, killed, 0)
	isolated, picked := time.Now(), s.endpoint(t, model, killed).Picked
	serve()
	if got := s.endpoint(t, model, killed).Picked; got != picked {
		t.Errorf("the dead server was picked %d times after it was isolated", got-picked)
	}

	enter(phaseCrowded)
	var calm []func()
	for _, c := range all {
		calm = append(calm, c.crowd(t, crowded, 80))
	}
	serve()

	enter(phaseBlind)
	each(func(p *gpu.Pool) { must(t, p.Servers[blind].Set(gpu.Fault{MetricsOff: true})) })
	serve()

	enter(phaseBack)
	for _, f := range calm {
		f()
	}
	each(func(p *gpu.Pool) {
		for _, server := range p.Servers {
			must(t, server.Set(gpu.Fault{}))
			must(t, server.Revive())
		}
	})
	before := weir.received()
	s.WaitFor("every server serves again", func() bool {
		for i, n := range weir.received() {
			if n < before[i]+2 {
				return false
			}
		}
		return true
	})
	for _, e := range s.backend(t, model).Endpoints {
		if e.Status == "Isolated" || len(e.Signals) == 0 || e.Signals[0].Error != "" {
			t.Errorf("%s is back, but: %s, %q, %+v", e.Endpoint, e.Status, e.Why, e.Signals)
		}
	}

	enter(phaseAfter)
	serve()
	enter(phaseAfter + 1)
	stop()
	t.Log("\n" + comparison(names, all))

	for _, c := range weir.chats {
		if c.err != nil && c.began.After(isolated) {
			t.Errorf("a chat failed that began %s after the dead server was isolated, in the phase %q: %v", c.began.Sub(isolated), names[c.phase], c.err)
		}
	}
	of := func(c *contender, from, to int, servers ...int) (sum float64) {
		shares := c.shares(from, to)
		for _, i := range servers {
			sum += shares[i]
		}
		return sum
	}
	if before, then := of(weir, phaseBefore, phaseBefore, slow...), of(weir, phaseSlow, phaseKilled, slow...); then > 0.85*before {
		t.Errorf("the share of the slow servers was %.3f before and %.3f when they were slow", before, then)
	}
	if got := of(weir, phaseCrowded, phaseBlind, crowded); got > 0.8/8 {
		t.Errorf("the share of the crowded server was %.3f", got)
	}
	// Neither idle nor full, for all that is known of it.
	if got := of(weir, phaseBlind, phaseBlind, blind); got < 0.03 || got > 0.5 {
		t.Errorf("the share of the server without metrics was %.3f", got)
	}
}
