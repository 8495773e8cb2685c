package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/weir-dev/weir/xds/accept"
	"github.com/weir-dev/weir/xds/load"
	"github.com/weir-dev/weir/xds/serve"
	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/source/files"
)

// cacheName is the name of the file in the state directory in which objects of a control plane are kept.
const cacheName = "control-plane.cache"

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
func (g *gateway) originOf(o *sourceOptions) (origin, error) {
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
		return origin{Source: src, accepted: teller.accepted, told: teller.one, run: teller.run}, nil
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

// readings remember what versions were made of, to tell it when Envoy serves them. The zero value is ready.
type readings struct {
	mu       sync.Mutex
	of       map[string]*source.Objects // by version
	order    []string                   // of versions, the last compiled last
	serving  *source.Objects            // told last
	rejected *source.Objects            // likewise
}

// maxReadings are remembered: of the version that is served, of the one on its way, and of some that came too fast.
const maxReadings = 8

// compiled notes what a version was made of; several readings may make the same.
func (r *readings) compiled(version string, objs *source.Objects) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil {
		r.of = map[string]*source.Objects{}
	}
	r.order = append(slices.DeleteFunc(r.order, func(v string) bool { return v == version }), version)
	r.of[version] = objs
	if len(r.order) > maxReadings {
		delete(r.of, r.order[0])
		r.order = r.order[1:]
	}
}

// reporter hears what Envoy makes of readings.
type reporter interface {
	Serving(objs *source.Objects)
	Rejected(objs *source.Objects, reason string)
}

// tell tells what has become of readings, each once.
func (r *readings) tell(s serve.State, to reporter) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if objs := r.of[s.Serving]; objs != nil && objs != r.serving {
		r.serving = objs
		to.Serving(objs)
	}
	if objs := r.of[s.Rejected]; objs != nil && objs != r.rejected {
		r.rejected = objs
		to.Rejected(objs, s.Reason)
	}
}
