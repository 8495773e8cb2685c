package main

import (
	"slices"
	"time"

	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/xds/load"
	"github.com/weir-dev/weir/xds/load/lrs"
	"github.com/weir-dev/weir/xds/serve"
)

// steer makes what steers: the picker, the circuit breakers of endpoints, and what watches them.
func (g *gateway) steer() {
	changes := newEndpointBreakerMetrics(g.registry)
	told := make(chan breaker.Change, maxTold)
	g.running.Go(func() { g.tellBreakers(told) })
	g.endpointBreakers = breaker.New(breaker.Options{OnChange: func(c breaker.Change) {
		if c.Forgotten {
			return
		}
		changes.WithLabelValues(c.Rule.Name, c.To.String()).Inc()
		g.steering.Wake()
		select { // picks of the pool wait for this, and must not wait for a log
		case told <- c:
		default:
		}
	}})
	g.picker = pick.NewSet(pick.Options{Breakers: g.endpointBreakers, Seed: uint64(g.started.UnixNano())})
	g.steering = load.New(load.Options{
		Picker: g.picker, Breakers: g.endpointBreakers, Signals: g.origin.signals, Registry: g.registry, Log: g.log,
		Steer: func(o *serve.Overlay) { g.publisher.Steer(o) },
	})
	g.reports = lrs.New(lrs.Options{Sink: g.steering.Report})
}

// maxTold is how many changes of breakers may wait to be logged; more are counted all the same.
const maxTold = 256

// tellBreakers logs how the circuit breakers of endpoints change.
func (g *gateway) tellBreakers(changes <-chan breaker.Change) {
	for {
		select {
		case <-g.background.Done():
			return
		case c := <-changes:
			g.console.BreakerChanged(c, true)
			g.log.Warn("the circuit breaker of an endpoint has changed", "backend", c.Rule.Name, "endpoint", c.Key,
				"from", c.From.String(), "to", c.To.String(), "requests", c.Requests, "failures", c.Failures)
		}
	}
}

// steerBy makes the pools of a version those that are steered, before it is decided by.
func (g *gateway) steerBy(s *load.Steering) {
	g.steering.Use(s)
	var clusters []string
	for _, p := range s.Pools {
		clusters = append(clusters, p.Cluster)
	}
	slices.Sort(clusters)
	g.reports.Set(clusters)
}

// sweepSteering forgets breakers of endpoints that nobody asks.
func (g *gateway) sweepSteering(now time.Time) { g.endpointBreakers.Sweep(now) }
