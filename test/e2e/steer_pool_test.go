package e2e

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim/gpu"
	"github.com/weir-dev/weir/test/sim/gpu/engine"
)

// phaseVariable is how long each phase of TestSteeredPool lasts, "20s": longer than by default for figures to quote.
const phaseVariable = "WEIR_E2E_PHASE"

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
	phase := 5 * time.Second
	if v := os.Getenv(phaseVariable); v != "" {
		var err error
		if phase, err = time.ParseDuration(v); err != nil {
			t.Fatalf("%s: %v", phaseVariable, err)
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
	time.Sleep(phase)

	enter(phaseSlow)
	each(func(p *gpu.Pool) {
		for _, i := range slow {
			must(t, p.Servers[i].Set(gpu.Fault{Speed: 0.4}))
		}
	})
	time.Sleep(phase)

	enter(phaseKilled)
	each(func(p *gpu.Pool) { p.Servers[killed].Kill() })
	s.awaitWeight(t, model, killed, 0)
	isolated, picked := time.Now(), s.endpoint(t, model, killed).Picked
	time.Sleep(phase)
	if got := s.endpoint(t, model, killed).Picked; got != picked {
		t.Errorf("the dead server was picked %d times after it was isolated", got-picked)
	}

	enter(phaseCrowded)
	var calm []func()
	each(func(p *gpu.Pool) { calm = append(calm, crowdOut(t, p.Servers[crowded], 80)) })
	time.Sleep(phase)

	enter(phaseBlind)
	each(func(p *gpu.Pool) { must(t, p.Servers[blind].Set(gpu.Fault{MetricsOff: true})) })
	time.Sleep(phase)

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
	time.Sleep(phase)
	enter(phaseAfter)
	time.Sleep(phase)
	enter(phaseAfter + 1)
	stop()
	t.Log("\n" + comparison(names, all))
	_ = isolated
}
