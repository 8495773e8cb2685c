package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/weir-dev/weir/xds/accept"
	"github.com/weir-dev/weir/xds/fleet"
	"github.com/weir-dev/weir/xds/load"
	"github.com/weir-dev/weir/xds/serve"
	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/source/files"
)

// cacheName is the name of the file in the state directory in which objects of a control plane are kept.
const cacheName = "control-plane.cache"

// keptName is the name of the file in the state directory in which what is served of a cluster is kept.
const keptName = "kubernetes.cache"

// origin is where a gateway's objects come from, and who hears what becomes of them.
type origin struct {
	source.Source
	// accepted hears what is valid of each reading, refused of one of which nothing can be served, and told what Envoy makes of them, after
	// each reading and each change. Each may be nil.
	accepted func(*source.Objects, accept.Result)
	refused  func(objs *source.Objects, reason string)
	told     func(serve.State)
	// run is what has to run beside it; nil for nothing.
	run func(context.Context)
	// signals are readings of endpoints that come from there too; nil where this process reads all itself.
	signals load.Signals
}

// folder is the origin of a gateway that is told nothing else.
func (g *gateway) folder() origin {
	return origin{Source: files.NewSource(g.opts.dir, os.LookupEnv, files.Options{Log: g.log})}
}

// originOf makes the origin that the options name.
func (g *gateway) originOf(o *sourceOptions, socketDir string) (origin, error) {
	if o.kubernetes {
		config, err := o.config()
		if err != nil {
			return origin{}, err
		}
		src, err := o.kubernetesOptions.open(config, g.log, g.registry, nil)
		if err != nil {
			return origin{}, err
		}
		teller, err := newTeller(config, &o.kubernetesOptions, g.log, g.registry)
		if err != nil {
			return origin{}, err
		}
		return g.ofCluster(o, src, config.Host, socketDir, teller)
	}
	dir, err := g.opts.ledgerDir()
	if err != nil {
		return origin{}, err
	}
	client, err := o.controlOptions.open(o.scopeOptions, filepath.Join(dir, cacheName), g.log, g.registry)
	if err != nil {
		return origin{}, err
	}
	return origin{
		Source: client, refused: client.Rejected, told: func(s serve.State) { g.readings.tell(s, client) },
		signals: client, run: func(ctx context.Context) { client.Signals(ctx, g.steering.Take) },
	}, nil
}

// ofCluster is the origin of objects that this process reads from the API server itself.
func (g *gateway) ofCluster(o *sourceOptions, src source.Source, host, socketDir string, teller *teller) (origin, error) {
	out := origin{Source: src, accepted: teller.accepted, told: func(s serve.State) { teller.one(g.settled(s)) }, run: teller.run}
	dir, err := g.opts.ledgerDir()
	if err != nil {
		return origin{}, err
	}
	kept, err := o.keep(src, host, dir, socketDir, g.log)
	if kept == nil || err != nil {
		return out, err
	}
	out.Source = kept
	out.accepted = func(objs *source.Objects, r accept.Result) {
		if kept.Cached(objs) {
			teller.tracker.Compiled(objs, r) // what is written of them may be of later generations
			return
		}
		teller.accepted(objs, r)
	}
	out.told = func(s serve.State) {
		teller.one(g.settled(s))
		if set := g.readings.served(s.Serving); set != nil {
			kept.Serving(set)
		}
	}
	return out, nil
}

// readings remember what versions were made of, to tell it when Envoy serves them. The zero value is ready.
type readings struct {
	mu       sync.Mutex
	of       map[string]*reading // by version
	order    []string            // of versions, the last compiled last
	serving  *reading            // told last
	rejected *source.Objects     // likewise
}

// reading is what a version was made of.
type reading struct {
	objs    *source.Objects
	set     *source.Objects // of these, what can be served
	refused []fleet.Refused // by Envoy
	trial   bool            // others wait
}

// maxReadings are remembered: of the version that is served, of the one on its way, and of some that came too fast.
const maxReadings = 8

// compiled notes what a version was made of; several readings may make the same.
func (r *readings) compiled(version string, objs *source.Objects, res accept.Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil {
		r.of = map[string]*reading{}
	}
	r.order = append(slices.DeleteFunc(r.order, func(v string) bool { return v == version }), version)
	r.of[version] = &reading{objs, res.Objects, refusedOf(res), res.Trial}
	if len(r.order) > maxReadings {
		delete(r.of, r.order[0])
		r.order = r.order[1:]
	}
}

// refusedOf are the objects that Envoy refuses.
func refusedOf(res accept.Result) []fleet.Refused {
	var out []fleet.Refused
	for _, e := range res.Envoy {
		out = append(out, fleet.Refused{Object: source.RefOf(e.Object), UID: e.Object.GetUID(), Generation: e.Object.GetGeneration(), Reason: e.Reason})
	}
	if len(out) == 0 {
		return nil
	}
	for _, o := range res.Objects.All() {
		ref := source.RefOf(o)
		for i := range out {
			if out[i].Object == ref {
				out[i].Serves = o.GetGeneration()
			}
		}
	}
	return out
}

// served is what a version was compiled from; nil where that is not known, or was only tried.
func (r *readings) served(version string) *source.Objects {
	r.mu.Lock()
	defer r.mu.Unlock()
	if is := r.of[version]; is != nil && !is.trial {
		return is.set
	}
	return nil
}

// reporter hears what Envoy makes of readings.
type reporter interface {
	Serving(objs *source.Objects)
	Partly(objs *source.Objects, refused []fleet.Refused)
	Rejected(objs *source.Objects, reason string)
}

// tell tells what has become of readings, each once. While Envoy's refusal is looked into, what is tried meanwhile is nothing to tell.
func (r *readings) tell(s serve.State, to reporter) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if is := r.of[s.Serving]; is != nil && is != r.serving && !is.trial {
		r.serving = is
		if len(is.refused) > 0 {
			to.Partly(is.objs, is.refused)
		} else {
			to.Serving(is.objs)
		}
	}
	if is := r.of[s.Rejected]; is != nil && is.objs != r.rejected {
		r.rejected = is.objs
		to.Rejected(is.objs, s.Reason)
	}
}
