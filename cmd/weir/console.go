package main

import (
	"context"
	"time"

	"github.com/weir-dev/weir/console/api"
	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/xds/source"
)

// show makes what answers under /api, once everything is there that it asks.
func (g *gateway) show(conf *config) {
	g.console = api.New(api.Sources{
		Now: time.Now, Build: buildVersion(), State: g.seen,
		Publisher: g.publisher.State, Origin: g.from, Problems: g.written, Objects: g.objects.Load,
		KeySets: g.jwks.States, SharedState: g.acct.shared.status, Shares: func() bool { return g.acct.shared.remote.Load() != nil },
		Authz: g.authz.State, Ledger: g.acct.ledger, Desk: g.acct.desk, Limits: g.acct.limits, Breakers: g.acct.breakers,
		Steering:   g.steering.State,
		CacheStats: func() cache.Stats { return g.remembered.answers.Stats() },
		PurgeCache: g.purgeCache,
	})
	g.acct.limits.Follow(func() limit.Configuration { return configuredLimits(g.ext.Table()) })
	g.acct.breakerChanged = func(c breaker.Change) { g.console.BreakerChanged(c, false) }
	if conf.first != nil {
		g.console.Compiled(conf.first, conf.objs, g.written())
	}
}

// purgeCache removes answers from the cache, as an operator asks.
func (g *gateway) purgeCache(ctx context.Context, s cache.Selector) (int, error) {
	n, err := g.remembered.purge(ctx, s)
	if err != nil {
		g.log.Error("a purge of the cache is not complete", "of", s.String(), "answers", n, "error", err)
		return n, err
	}
	g.log.Info("answers were purged from the cache", "of", s.String(), "answers", n)
	return n, nil
}

// from says where objects come from.
func (g *gateway) from() api.Origin {
	h := g.origin.Health()
	return api.Origin{Name: g.origin.String(), Connected: h.Connected, Since: h.Since, Reason: h.Reason}
}

// configuredLimits are the limits and budgets of a table; none without one.
func configuredLimits(t *table.Table) (out limit.Configuration) {
	if t == nil {
		return out
	}
	out.Currency = t.Currency
	seen := map[*limit.Rule]bool{}
	for p := range t.EachPolicy {
		for _, r := range p.Limits {
			if !seen[r] {
				seen[r] = true
				out.Rules = append(out.Rules, r)
			}
		}
	}
	return out
}

// written are the problems of what is written now.
func (g *gateway) written() []source.Problem {
	if p := g.problems.Load(); p != nil {
		return *p
	}
	return nil
}

// envoyCame tells the console of an Envoy that has connected, before whoever else is told.
func (g *gateway) envoyCame(then func(fresh bool)) func(fresh bool) {
	return func(fresh bool) {
		g.console.EnvoyUp("Envoy has connected.")
		if then != nil {
			then(fresh)
		}
	}
}
