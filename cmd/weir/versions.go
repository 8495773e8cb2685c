package main

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/xds/accept"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/load"
	"github.com/weir-dev/weir/xds/source"
)

// compile compiles what can be served of objects: all of them or none where they come from a folder, else those that are valid.
func (g *gateway) compile(objs *source.Objects, problems []source.Problem) accept.Result {
	if g.keeper == nil {
		v, problems := g.compileAll(objs, problems)
		g.compiled(v, objs, problems)
		return accept.Result{Version: v, Objects: objs, Problems: problems}
	}
	r := g.keeper.Compile(objs, problems, func(objs *source.Objects) (*compile.Version, []source.Problem) { return g.compileAll(objs, nil) })
	if g.origin.accepted != nil {
		g.origin.accepted(objs, r)
	}
	g.compiled(r.Version, r.Objects, r.Problems)
	g.refusals.Store(int64(len(r.Envoy)))
	return r
}

// compiled tells the console what objects have come to.
func (g *gateway) compiled(v *compile.Version, objs *source.Objects, problems []source.Problem) {
	if v != nil {
		g.version.Store(v)
	}
	if g.console != nil { // the first one it is given when it is made
		g.console.Compiled(v, objs, problems)
	}
}

// compileAll compiles objects, and notes whose signing keys the new version needs from now on.
func (g *gateway) compileAll(objs *source.Objects, problems []source.Problem) (*compile.Version, []source.Problem) {
	opts := compileOptions(g.dialects, g.jwks)
	opts.Lenient = g.keeper != nil
	opts.AllowedRoutes = v1alpha1.FromNamespaces(g.routes)
	opts.Identity = g.identity
	opts.LaneFile = g.laneFile
	opts.RelaySocket, opts.InnerSocket = g.relayed.relay, g.relayed.inner
	opts.Created, opts.Listen = g.started.Unix(), g.opts.listen
	opts.MaxRequestBytes, opts.MaxHeaderKiB = g.opts.maxBody, g.opts.maxHeader
	// Compiling asks for key sets, and what has been asked for must be noted before another version going live
	// lets go of what nobody needs.
	g.keys.mu.Lock()
	defer g.keys.mu.Unlock()
	v, problems := compileAll(g.compiler, objs, problems, opts)
	if v != nil {
		g.keys.compiled(v.ID, v.Table.Auth.URLs())
	}
	return v, problems
}

// reload takes objects of which some have changed.
func (g *gateway) reload(objs *source.Objects, problems []source.Problem) {
	g.compiling.Lock()
	defer g.compiling.Unlock()
	g.reading, g.found = objs, problems
	g.serveReading()
}

// serveReading compiles the last reading, and hands it to Envoy. It is called again where Envoy's answers say that it should be: then what is
// served differs. compiling is held.
func (g *gateway) serveReading() {
	for {
		r := g.compile(g.reading, g.found)
		v, problems := r.Version, r.Problems
		before := g.problems.Load()
		g.note(r.Objects, problems, v != nil)
		if v == nil {
			g.refuseReading(problems)
			return
		}
		if before != nil && source.HasErrors(*before) && !source.HasErrors(problems) {
			g.log.Info("configuration is valid again", "version", v.ID)
		}
		g.readings.compiled(v.ID, g.reading, r)
		g.publisher.Publish(v)
		s := g.publisher.State()
		g.hear(s) // where it is what is served already, nothing else would
		if g.keeper == nil || s.Serving != v.ID || !g.keeper.Served(v.ID) {
			return
		}
	}
}

// refuseReading tells that nothing of the last reading can be served.
func (g *gateway) refuseReading(problems []source.Problem) {
	reason := ""
	for _, p := range problems {
		if p.Severity == source.Error {
			reason = cmp.Or(reason, p.String())
			g.log.Error("configuration refused; the last good one keeps serving", "problem", p.String())
		}
	}
	if g.origin.refused != nil {
		g.origin.refused(g.reading, reason)
	}
}

// note keeps what is wrong with objects, and the objects where they are good, in part at least.
func (g *gateway) note(objs *source.Objects, problems []source.Problem, good bool) {
	g.problems.Store(&problems)
	if !good {
		return
	}
	g.objects.Store(objs)
	if g.keeper == nil {
		g.logged = nil // all of a folder is told at each change
	}
	g.logged = logProblems(g.log, g.logged, problems)
}

// logProblems logs the problems that were not there before, and returns all: where one object of many has changed, the log is not to have
// those of all others again.
func logProblems(log *slog.Logger, before map[source.Problem]bool, problems []source.Problem) map[source.Problem]bool {
	now := make(map[source.Problem]bool, len(problems))
	for _, p := range problems {
		now[p] = true
		switch {
		case before[p]:
		case p.Severity == source.Error:
			log.Error("configuration", "problem", p.String())
		default:
			log.Warn("configuration", "problem", p.String())
		}
	}
	return now
}

func (g *gateway) keysFetched(s identity.SourceState) {
	g.renewed.Load().Renew() // tokens of lanes may be of a key that has gone
	if s.Err != "" {
		g.log.Warn("signing keys could not be fetched", "url", s.URL, "error", s.Err, "usable_until", s.UsableTo)
	}
}

// activate makes ext_proc decide by a version that Envoy has acknowledged.
func (g *gateway) activate(v *compile.Version) {
	t := v.Table
	g.acct.apply(v.Settings)
	if g.accessLog != nil {
		g.accessLog.SetEnabled(v.Telemetry.AccessLog)
	}
	g.steerBy(load.SteeringOf(v))
	if err := g.authz.Apply(v.Authz); err != nil {
		g.log.Error(err.Error())
	}
	names := g.names.of(g.objects.Load(), t)
	g.requestMetrics.Use(names)
	g.exports.apply(v.Telemetry, names.Providers)
	g.remembered.use(t)
	g.ext.Use(t)
	g.keys.mu.Lock()
	g.jwks.Retain(g.keys.live(t.Version))
	g.keys.mu.Unlock()
	breakers := map[string]bool{}
	for p := range t.EachPolicy {
		if p.Breaker != nil {
			breakers[p.Breaker.ID] = true
		}
	}
	g.storedKeys()
	g.acct.breakers.Retain(func(id string) bool { return breakers[id] }, time.Now())
	g.console.WentLive(t.Version)
	g.log.Info("configuration is live", "version", t.Version)
	go func() {
		if err := g.acct.restoreBudgets(context.Background(), t, time.Now()); err != nil {
			g.log.Error("what new budgets have spent already cannot be read from the ledger; they begin with nothing", "error", err)
		}
	}()
}

// storedKeys tells of stored keys that let nobody in, each once.
func (g *gateway) storedKeys() {
	g.lanes.Renew() // a key of a lane may be gone
	t := g.ext.Table()
	if t == nil {
		return
	}
	g.toldMu.Lock()
	defer g.toldMu.Unlock()
	now := map[string]bool{}
	for _, p := range t.Auth.StoredProblems() {
		text := p.Error()
		now[text] = true
		if !g.told[text] {
			g.log.Warn("stored key", "problem", text)
		}
	}
	g.told = now
}
