package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/console/api"
	"github.com/weir-dev/weir/console/state"
	"github.com/weir-dev/weir/envoy"
	"github.com/weir-dev/weir/extproc"
	"github.com/weir-dev/weir/extproc/authz"
	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/lane"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/extproc/relay"
	"github.com/weir-dev/weir/internal/heap"
	"github.com/weir-dev/weir/internal/redisconn"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/usage/accesslog"
	"github.com/weir-dev/weir/xds/accept"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/load"
	"github.com/weir-dev/weir/xds/load/lrs"
	"github.com/weir-dev/weir/xds/serve"
	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/source/files"
)

// gateway is everything that runs in one process, Envoy apart: run.go has one of its own, serve.go another's.
type gateway struct {
	opts     gatewayOptions
	routes   allowedRoutes // of gateways of a cluster that do not say
	log      *slog.Logger
	level    slog.Level
	out      io.Writer
	started  time.Time
	dialects *adapters.Set
	jwks     *identity.JWKS
	identity identity.Shared
	keys     keyURLs
	lanes    *lane.Set
	renewed  atomic.Pointer[lane.Set] // the same, once there are lanes: signing keys are fetched before
	laneFile string
	// relayed are the sockets of the relay and of its fills; relayDoor is where the relay listens.
	relayed   struct{ relay, inner string }
	relayDoor net.Listener
	flights   *relay.Flights
	// remembered is what the relay keeps.
	remembered *remembered
	ext        *extproc.Server
	acct       *accounting
	authz      *authz.Manager

	steering         *load.Controller
	picker           *pick.Set
	endpointBreakers *breaker.Set
	reports          *lrs.Server

	toldMu    sync.Mutex
	told      map[string]bool // problems of stored keys
	publisher *serve.Publisher
	registry  *prometheus.Registry
	exports   *exports
	// finished take every request that is over. None is added once the gateway has started.
	finished []usage.FinishedSink
	// seen is what the console shows and nobody else keeps.
	seen    *state.State
	console *api.API
	// accessLog is nil where none is written.
	accessLog *accesslog.Log
	// requestMetrics are made of those.
	requestMetrics *usage.RequestMetrics
	names          metricNames // for the publisher's goroutine
	// envoy is Envoy's admin interface; nil while there is no Envoy that could have one.
	envoy atomic.Pointer[envoy.Admin]
	// noEnvoy says why nothing can be served for want of an Envoy; "" where there is one.
	noEnvoy    func() string
	envoyExits atomic.Int64
	stopping   atomic.Bool
	draining   atomic.Bool // Envoy is about to end
	// problems are what is wrong with the objects as they are now.
	problems atomic.Pointer[[]source.Problem]
	objects  atomic.Pointer[source.Objects]
	version  atomic.Pointer[compile.Version] // compiled last

	origin   origin
	compiler *compile.Compiler
	keeper   *accept.Keeper // nil where all objects are served or none
	readings readings
	verdicts chan any     // of Envoy about versions, for the keeper
	refusals atomic.Int64 // objects that Envoy refuses
	hopeless atomic.Value // string: the version that was refused last, and nobody is to blame for
	served   string       // version that Envoy serves, for the publisher's goroutine

	compiling sync.Mutex              // what follows, compiler and keeper are in use
	reading   *source.Objects         // the last
	found     []source.Problem        // in it
	logged    map[source.Problem]bool // problems that the log has

	background context.Context // ends when the gateway closes
	running    sync.WaitGroup  // what runs in the background
	closers    []func()        // what ends what was started, in that order
}

// config is what a gateway begins with. Where its objects come from elsewhere than a folder, it begins with none, and first is nil.
type config struct {
	objs  *source.Objects
	first *compile.Version
	sims  []simulator
}

// laneFile is the name of the file of lanes, in the directory that Weir and Envoy share.
const laneFile = "lanes"

// newGateway reads and compiles the folder, unless from says that objects come from elsewhere. It starts nothing that others can see but exports of telemetry; close what it returns.
// shared is the directory that it shares with Envoy, which need not be there yet.
func newGateway(o gatewayOptions, from *sourceOptions, shared string, out io.Writer) (*gateway, *config, error) {
	log, level, err := o.logger()
	if err != nil {
		return nil, nil, err
	}
	g := &gateway{opts: o, log: log, level: level, out: out, started: time.Now(), registry: prometheus.NewRegistry(), laneFile: filepath.Join(shared, laneFile), flights: relay.NewFlights(time.Now)}
	g.relayed.relay, g.relayed.inner = filepath.Join(shared, envoy.RelaySocketName), filepath.Join(shared, envoy.InnerSocketName)
	if g.dialects, err = adapters.NewSet(adapters.Catalog()...); err != nil {
		return nil, nil, err
	}
	g.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := g.export(); err != nil {
		return nil, nil, err
	}
	g.seen = state.New(state.Options{Now: time.Now})
	g.finished = append(g.finished, g.seen.Finished)
	g.jwks = identity.NewJWKS(identity.JWKSOptions{Notify: g.keysFetched})
	g.onClose(g.jwks.Stop)
	g.identity = identity.Shared{Stored: &identity.StoredKeys{}, Throttle: identity.NewThrottle(), Refused: loginMetrics(g.registry)}
	g.compiler = compile.NewCompiler()
	if from == nil || !from.elsewhere() {
		g.origin = g.folder()
		conf, err := g.load()
		if err != nil {
			g.close()
			return nil, nil, err
		}
		return g, conf, nil
	}
	g.routes = from.routes
	if g.origin, err = g.originOf(from, shared); err != nil {
		g.close()
		return nil, nil, err
	}
	g.keeper, g.verdicts = accept.NewKeeper(), make(chan any, maxVerdicts)
	return g, &config{objs: source.NewObjects()}, nil
}

// load reads the folder for the first time.
func (g *gateway) load() (*config, error) {
	objs, problems := files.Load(g.opts.dir, os.LookupEnv)
	r := g.compile(objs, problems)
	first, problems := r.Version, r.Problems
	g.note(objs, problems, first != nil)
	if first == nil {
		for _, p := range problems {
			fmt.Fprintln(os.Stderr, p)
		}
		return nil, fmt.Errorf("%s cannot be served as it is; see above, and try again with: weir validate -f %s", g.opts.dir, g.opts.dir)
	}
	conf := &config{objs: objs, first: first}
	if g.opts.simulate {
		var err error
		if conf.sims, err = simulators(objs.Backends); err != nil {
			return nil, err
		}
	}
	return conf, nil
}

// listens are the addresses that this process and its simulators listen on.
func (g *gateway) listens(conf *config) []string {
	out := []string{g.opts.admin}
	for _, s := range conf.sims {
		out = append(out, s.listen...)
	}
	return out
}

// onClose has f called by close, before what was given to it earlier.
func (g *gateway) onClose(f func()) { g.closers = append(g.closers, f) }

// close ends everything that was started, the last first.
func (g *gateway) close() {
	for _, f := range slices.Backward(g.closers) {
		f()
	}
	g.closers = nil
}

// count opens the ledger and what else counts. It comes before all else that is started, so that it outlives it and
// nothing that ends goes uncounted.
func (g *gateway) count(ctx context.Context, first *compile.Version) error {
	dir, err := g.opts.ledgerDir()
	if err != nil {
		return err
	}
	g.requestMetrics = usage.NewRequestMetrics(usage.RequestMetricsOptions{Registry: g.registry})
	g.finished = append(g.finished, g.requestMetrics.Finished)
	if err := g.openAccessLog(); err != nil {
		return err
	}
	if g.lanes, err = lane.Open(lane.Options{
		Path: g.laneFile, Prefix: fmt.Sprintf("%016x", rand.Uint64()), Now: time.Now, Log: g.log, Registry: g.registry,
	}); err != nil {
		return err
	}
	if g.acct, err = newAccounting(dir, g.identity.Stored, g.lanes, g.log, g.registry, g.over); err != nil {
		g.lanes.Close()
		return err
	}
	g.renewed.Store(g.lanes)
	g.onClose(g.acct.close)
	g.onClose(g.lanes.Close) // before accounting: what has come is counted, and the rest given back
	g.acct.shared.keysChanged = g.storedKeys
	redisconn.LogTo(g.log)
	if first == nil {
		return nil // budgets come with the first version that goes live
	}
	if err := g.acct.restoreBudgets(ctx, first.Table, time.Now()); err != nil {
		return fmt.Errorf("what budgets have spent cannot be read from the ledger: %w", err)
	}
	return nil
}

// over hands a request that is over to everybody who shows what has happened.
func (g *gateway) over(f *usage.Finished) {
	for _, sink := range g.finished {
		sink(f)
	}
}

// inBackground makes the place for what runs until the gateway closes.
func (g *gateway) inBackground(ctx context.Context) {
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	g.background = background
	g.onClose(func() {
		stop()
		g.running.Wait()
	})
}

// start starts every part, in the order in which they need each other. Envoy finds them at the listener, which the gateway
// closes in any case; presence is told of Envoy's stream and may be left empty.
func (g *gateway) start(conf *config, l net.Listener, presence serve.Presence) error {
	metrics := usage.NewMetrics(g.registry)
	g.finished = append(g.finished, metrics.Finished)
	g.steer()
	g.ext = extproc.New(extproc.Options{
		Dialects: g.dialects, Log: g.log, Metrics: metrics,
		Desk: g.acct.desk, Estimator: g.acct.estimator, Limits: g.acct.limits, Breakers: g.acct.breakers,
		Picker: g.picker, Steering: g.steering, Sampled: g.exports.sampled(), Capturing: g.exports.capturing,
		Lanes: g.lanes, SampleShare: g.exports.sampleShare, Flights: g.flights,
	})
	g.finished = append(g.finished, g.ext.Watch)
	g.authz = authz.NewManager(authz.ManagerOptions{Log: g.log, Server: g.authzServer()})
	g.onClose(g.authz.Close)
	presence.Came = g.envoyCame(presence.Came)
	g.publisher = serve.NewPublisher(serve.Options{NodeID: "weir", Activate: g.activate, Warming: g.warming, Spread: workersTurn, Presence: presence, Steered: g.steering.Steered,
		Changed: g.changed, Refused: g.refused, Log: g.log})
	g.registry.MustRegister(&gatewayCollector{g})
	g.show(conf)

	receiver := usage.NewReceiver(g.acct.desk.Close, metrics.Count, g.steering.Observe, func(r *usage.Record) { g.ext.Release(r.Exchange) })
	receiver.Failed(g.acct.desk.Failed)
	receiver.Begins(g.exports.sampled())
	server := g.grpcServer(l, receiver)
	g.onClose(server.Stop)
	g.onClose(g.lanes.Close) // first of all: no record would come of what Envoy still lets through
	if err := g.startRelay(); err != nil {
		return err
	}
	admin, err := g.adminServer()
	if err != nil {
		return err
	}
	g.onClose(func() { admin.Close() })

	for _, s := range conf.sims {
		stdin, err := s.start(g.log)
		if err != nil {
			return err
		}
		g.onClose(func() { stdin.Close() })
	}
	g.running.Go(func() { g.lanes.Run(g.background) })
	g.running.Go(func() { g.publisher.Run(g.background) })
	if g.keeper != nil {
		g.running.Go(func() { g.judge(g.background) })
	}
	g.running.Go(func() { g.steering.Run(g.background) })
	g.running.Go(func() { g.console.Run(g.background) })
	g.running.Go(func() { g.sweep(g.background) })
	g.running.Go(func() { heap.Keep(g.background, heapFloor) })
	if conf.first != nil {
		g.publisher.Publish(conf.first)
	}
	return nil
}

// watch takes what changes among the objects from now on.
func (g *gateway) watch() {
	g.running.Go(func() { g.origin.Watch(g.background, g.reload) })
	if g.origin.run != nil {
		g.running.Go(func() { g.origin.run(g.background) })
	}
}

// heapFloor is how large the heap may get, in bytes, before garbage is collected: most of what Weir has in memory are requests, which it
// forgets within seconds. See docs/decisions/022-what-an-exchange-costs.md.
const heapFloor = 64 << 20

func (g *gateway) grpcServer(l net.Listener, records *usage.Receiver) *grpc.Server {
	s := grpc.NewServer(
		// Envoy has bounded the body by LLMGateway.spec.limits already.
		grpc.MaxRecvMsgSize(math.MaxInt32), grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.MaxConcurrentStreams(math.MaxUint32),
		grpc.ForceServerCodecV2(usage.Codec()),
		grpc.InitialWindowSize(1<<20), grpc.InitialConnWindowSize(16<<20),
		grpc.WaitForHandlers(true), // records that were read must be counted before the ledger is closed
	)
	g.ext.Register(s)
	g.publisher.Register(s)
	g.reports.Register(s)
	records.Register(s)
	go func() {
		if err := s.Serve(l); err != nil {
			g.log.Error("the server for Envoy ended", "error", err)
		}
	}()
	return s
}

// warming asks Envoy what it does not use yet.
func (g *gateway) warming(ctx context.Context) (int, error) {
	admin := g.envoy.Load()
	if admin == nil {
		return 0, errors.New(g.noEnvoy())
	}
	return admin.Warming(ctx)
}

// workersTurn is how long a busy worker of Envoy may take to see a new configuration.
const workersTurn = 100 * time.Millisecond

// lastRecords is how long records that an Envoy has sent before its death may take to be read.
const lastRecords = 500 * time.Millisecond

// envoyDied ends what an Envoy had that died then. Every request that anything is kept for is one of its.
func (g *gateway) envoyDied(then time.Time) {
	g.envoyExits.Add(1)
	g.ext.ReleaseAll()
	g.lanes.Lost()
	then = time.Now() // what had come to lanes has begun a moment ago
	time.AfterFunc(lastRecords, func() {
		if n := g.acct.desk.Lost(then); n > 0 {
			g.log.Warn("requests ended with Envoy; they are in the ledger as interrupted", "requests", n)
		}
	})
}

// sweepEvery is how often what ended requests left behind is looked for.
const sweepEvery = 5 * time.Second

// sweep drops what requests left behind that ended without a record.
func (g *gateway) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			g.acct.sweep(time.Now())
			g.sweepSteering(time.Now())
			if n := g.ext.Sweep(); n > 0 {
				g.log.Debug("dropped what ended requests left behind", "requests", n)
			}
		}
	}
}
