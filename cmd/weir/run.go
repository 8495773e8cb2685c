package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/envoy"
	"github.com/weir-dev/weir/extproc"
	"github.com/weir-dev/weir/extproc/authz"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/internal/redisconn"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/usage/ledger"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/serve"
	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/source/files"
)

// runOptions are the flags of run.
type runOptions struct {
	dir          string
	listen       string
	admin        string
	simulate     bool
	drainTimeout time.Duration
	runtimeDir   string
	stateDir     string
	concurrency  int
	maxConns     uint32
	maxBody      uint32
	maxHeader    uint32
	maxHeap      uint64
	logLevel     string
	logFormat    string
}

func runCommand() *cobra.Command {
	var o runOptions
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the gateway: serve a folder of objects with an Envoy of its own",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return run(c.Context(), o, c.OutOrStdout()) },
	}
	f := c.Flags()
	f.StringVarP(&o.dir, "file", "f", "deploy/local", "folder (or file) with Weir objects; watched")
	f.StringVar(&o.listen, "listen", "", "address and port of the first listener, instead of what the LLMGateway says")
	f.StringVar(&o.admin, "admin", "127.0.0.1:8081", "address and port of /healthz, /readyz, /metrics and /api")
	f.BoolVar(&o.simulate, "simulate", true, "start the simulators that Backends ask for by the annotation "+simulatorAnnotation)
	f.DurationVar(&o.drainTimeout, "drain-timeout", 30*time.Second, "how long requests may run on after a signal to stop; a second signal cuts them")
	f.StringVar(&o.runtimeDir, "runtime-dir", "", "where the directory for sockets is made (default: $XDG_RUNTIME_DIR or the system's temporary directory)")
	f.StringVar(&o.stateDir, "state-dir", "", "where the ledger is kept (default: $WEIR_STATE_DIR, $XDG_STATE_HOME/weir or ~/.local/state/weir)")
	f.IntVar(&o.concurrency, "concurrency", 0, "worker threads of Envoy (default: usable cores)")
	f.Uint32Var(&o.maxConns, "max-connections", 0, "most client connections of all listeners together (default: 50000)")
	f.Uint32Var(&o.maxBody, "max-request-bytes", 0, "largest request body, instead of what the LLMGateway says")
	f.Uint32Var(&o.maxHeader, "max-header-kib", 0, "largest request headers in KiB, instead of what the LLMGateway says")
	f.Uint64Var(&o.maxHeap, "max-heap", 0, "most bytes of Envoy's heap before it refuses work (default: no limit)")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&o.logFormat, "log-format", "text", "text or json, on standard error")
	return c
}

func (o runOptions) logger() (*slog.Logger, slog.Level, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return nil, 0, fmt.Errorf("--log-level %q: use debug, info, warn or error", o.logLevel)
	}
	opts := &slog.HandlerOptions{Level: level}
	switch o.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, opts)), level, nil
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, opts)), level, nil
	}
	return nil, 0, fmt.Errorf("--log-format %q: use text or json", o.logFormat)
}

// gateway is everything that runs in one process.
type gateway struct {
	opts     runOptions
	log      *slog.Logger
	level    slog.Level
	out      io.Writer
	started  time.Time
	dialects *adapters.Set
	jwks     *identity.JWKS
	identity identity.Shared
	keys     keyURLs
	ext      *extproc.Server
	acct     *accounting
	authz    *authz.Manager
	settings settingsByVersion

	toldMu    sync.Mutex
	told      map[string]bool // problems of stored keys
	publisher *serve.Publisher
	registry  *prometheus.Registry
	sup       atomic.Pointer[envoy.Supervisor]
	stopping  atomic.Bool
	// problems are what is wrong with the folder as it is now.
	problems atomic.Pointer[[]source.Problem]
	objects  atomic.Pointer[source.Objects]
}

// run serves until ctx ends, then drains.
func run(ctx context.Context, o runOptions, out io.Writer) error {
	log, level, err := o.logger()
	if err != nil {
		return err
	}
	g := &gateway{opts: o, log: log, level: level, out: out, started: time.Now(), registry: prometheus.NewRegistry()}
	if g.dialects, err = adapters.NewSet(adapters.Catalog()...); err != nil {
		return err
	}
	g.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	g.jwks = identity.NewJWKS(identity.JWKSOptions{Notify: g.keysFetched})
	defer g.jwks.Stop()
	g.identity = identity.Shared{Stored: &identity.StoredKeys{}, Throttle: identity.NewThrottle(), Refused: loginMetrics(g.registry)}

	objs, problems := files.Load(o.dir, os.LookupEnv)
	first, problems := g.compile(objs, problems)
	g.note(objs, problems)
	if first == nil {
		for _, p := range problems {
			fmt.Fprintln(os.Stderr, p)
		}
		return fmt.Errorf("%s cannot be served as it is; see above, and try again with: weir validate -f %s", o.dir, o.dir)
	}
	var sims []simulator
	if o.simulate {
		if sims, err = simulators(objs.Backends); err != nil {
			return err
		}
	}
	listeners := addresses(first)
	taken := append([]string{o.admin}, listeners...)
	for _, s := range sims {
		taken = append(taken, s.listen)
	}
	if err := envoy.CheckListen(taken...); err != nil {
		return err
	}
	bin, err := envoy.Ensure(ctx, envoy.FindOptions{Progress: os.Stderr})
	if err != nil {
		return err
	}
	// What counts outlives all else that is started, so that nothing that ends goes uncounted.
	state := o.stateDir
	if state == "" {
		if state, err = ledger.DefaultDir(os.Getenv); err != nil {
			return err
		}
	}
	if g.acct, err = newAccounting(state, g.identity.Stored, log, g.registry); err != nil {
		return err
	}
	defer g.acct.close()
	g.acct.shared.keysChanged = g.storedKeys
	redisconn.LogTo(log)
	if err := g.acct.restoreBudgets(ctx, first.Table, time.Now()); err != nil {
		return fmt.Errorf("what budgets have spent cannot be read from the ledger: %w", err)
	}
	return g.serve(ctx, bin, first, objs, sims, listeners)
}

// compile compiles objects, and notes whose signing keys the new version needs from now on.
func (g *gateway) compile(objs *source.Objects, problems []source.Problem) (*compile.Version, []source.Problem) {
	opts := compileOptions(g.dialects, g.jwks)
	opts.Identity = g.identity
	opts.Created, opts.Listen = g.started.Unix(), g.opts.listen
	opts.MaxRequestBytes, opts.MaxHeaderKiB = g.opts.maxBody, g.opts.maxHeader
	// Compiling asks for key sets, and what has been asked for must be noted before another version going live
	// lets go of what nobody needs.
	g.keys.mu.Lock()
	defer g.keys.mu.Unlock()
	v, problems := compileAll(objs, problems, opts)
	if v != nil {
		g.keys.compiled(v.ID, v.Table.Auth.URLs())
		g.settings.put(v.ID, v.Settings)
	}
	return v, problems
}

// serve starts every part, in the order in which they need each other, and stops them in the reverse one.
func (g *gateway) serve(ctx context.Context, bin envoy.Binary, first *compile.Version, objs *source.Objects, sims []simulator, listeners []string) error {
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stopBackground()

	dir, err := envoy.NewRuntimeDir(envoy.RuntimeDirOptions{Base: g.opts.runtimeDir})
	if err != nil {
		return err
	}
	defer dir.Close()

	metrics := usage.NewMetrics(g.registry)
	g.ext = extproc.New(extproc.Options{
		Dialects: g.dialects, Log: g.log, Metrics: metrics,
		Desk: g.acct.desk, Estimator: g.acct.estimator, Limits: g.acct.limits, Breakers: g.acct.breakers,
	})
	g.authz = authz.NewManager(authz.ManagerOptions{Log: g.log, Server: g.authzServer()})
	defer g.authz.Close()
	g.publisher = serve.NewPublisher(serve.Options{NodeID: "weir", Activate: g.activate, Warming: g.warming, Log: g.log})
	registerState(g.registry, g.publisher, g.ext)

	socket, err := dir.Socket(envoy.ExtProcSocketName)
	if err != nil {
		return err
	}
	server, err := g.grpcServer(socket, usage.NewReceiver(metrics.Count, g.acct.desk.Close, func(r *usage.Record) { g.ext.Release(r.Exchange) }))
	if err != nil {
		return err
	}
	defer server.Stop()
	admin, err := g.adminServer()
	if err != nil {
		return err
	}
	defer admin.Close()

	for _, s := range sims {
		stdin, err := s.start(g.log)
		if err != nil {
			return err
		}
		defer stdin.Close()
	}

	wg.Go(func() { g.publisher.Run(background) })
	wg.Go(func() { g.sweep(background) })
	g.publisher.Publish(first)

	sup, err := g.supervisor(bin, dir, socket, listeners)
	if err != nil {
		return err
	}
	g.sup.Store(sup)
	if err := sup.Start(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	wg.Go(func() {
		files.Watch(background, g.opts.dir, os.LookupEnv, files.Options{Log: g.log}, g.reload)
	})
	if err := g.awaitReady(ctx, sup); err != nil {
		g.stop(sup)
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	g.banner(objs, baseURL(first, objs))

	select {
	case <-ctx.Done():
	case <-sup.Done():
		return errors.New("Envoy ended and was not started again")
	}
	g.stop(sup)
	return nil
}

func (g *gateway) grpcServer(socket string, records *usage.Receiver) (*grpc.Server, error) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", socket, err)
	}
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
	records.Register(s)
	go func() {
		if err := s.Serve(l); err != nil {
			g.log.Error("the server for Envoy ended", "error", err)
		}
	}()
	return s, nil
}

func (g *gateway) supervisor(bin envoy.Binary, dir *envoy.RuntimeDir, socket string, listeners []string) (*envoy.Supervisor, error) {
	adminSocket, err := dir.Socket(envoy.AdminSocketName)
	if err != nil {
		return nil, err
	}
	boot, err := envoy.Bootstrap(envoy.BootstrapOptions{
		AdminSocket: adminSocket, XDSSocket: socket, MaxConnections: g.opts.maxConns, MaxHeapBytes: g.opts.maxHeap,
	})
	if err != nil {
		return nil, err
	}
	return envoy.NewSupervisor(envoy.SupervisorOptions{
		Binary: bin.Path, Bootstrap: boot, RuntimeDir: dir.Path(), AdminSocket: adminSocket,
		Concurrency: g.opts.concurrency, LogLevel: max(g.level, slog.LevelInfo), Logger: g.log,
		OnEvent: g.envoyEvent, Listen: listeners,
		FlushGrace: compile.AccessLogFlush + 200*time.Millisecond,
	})
}

// lastRecords is how long records that an Envoy has sent before its death may take to be read.
const lastRecords = 500 * time.Millisecond

func (g *gateway) envoyEvent(e envoy.Event) {
	exit, ended := e.(envoy.Exited)
	if !ended {
		g.log.Info(e.String())
		return
	}
	g.ext.ReleaseAll()
	died := time.Now()
	time.AfterFunc(lastRecords, func() {
		if n := g.acct.desk.Lost(died); n > 0 {
			g.log.Warn("requests ended with Envoy; they are in the ledger as interrupted", "requests", n)
		}
	})
	level := slog.LevelError
	if exit.Expected {
		level = slog.LevelInfo
	}
	g.log.Log(context.Background(), level, e.String())
}

// awaitReady waits until Envoy serves what ext_proc decides from.
func (g *gateway) awaitReady(ctx context.Context, sup *envoy.Supervisor) error {
	if err := sup.WaitReady(ctx); err != nil {
		return err
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		switch s := g.publisher.State(); {
		case s.Serving != "":
			return nil
		case s.Rejected != "":
			return fmt.Errorf("Envoy refused the configuration: %s", s.Reason)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stop drains. A signal that comes meanwhile cuts what is left.
func (g *gateway) stop(sup *envoy.Supervisor) {
	g.stopping.Store(true)
	fmt.Fprintln(os.Stderr, "weir: draining; press Ctrl-C again to stop at once")
	again, cancel := notifyAgain()
	defer cancel()
	done := make(chan struct{})
	go func() {
		select {
		case <-again:
			_ = sup.Stop(context.Background()) // the second call: cuts what is left
		case <-done:
		}
	}()
	ctx, cancelDrain := context.WithTimeout(context.Background(), g.opts.drainTimeout)
	defer cancelDrain()
	if err := sup.Stop(ctx); err != nil {
		g.log.Warn(err.Error())
	}
	close(done)
}

// activate makes ext_proc decide from a table that Envoy has acknowledged.
func (g *gateway) activate(t *table.Table) {
	if set, ok := g.settings.get(t.Version); !ok {
		g.log.Error("the settings of the configuration that goes live are not known; those before it stay", "version", t.Version)
	} else {
		g.acct.apply(set)
		if err := g.authz.Apply(set.Authz); err != nil {
			g.log.Error(err.Error())
		}
	}
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
	g.log.Info("configuration is live", "version", t.Version)
	go func() {
		if err := g.acct.restoreBudgets(context.Background(), t, time.Now()); err != nil {
			g.log.Error("what new budgets have spent already cannot be read from the ledger; they begin with nothing", "error", err)
		}
	}()
}

// storedKeys tells of stored keys that let nobody in, each once.
func (g *gateway) storedKeys() {
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

// authzServer lets other gateways ask who calls, by the table in use.
func (g *gateway) authzServer() *authz.Server {
	return authz.New(authz.Options{
		Authenticator: tableAuth{g.ext}, Dialects: g.dialects, Log: g.log, Checked: authzMetrics(g.registry),
		Admit: func(ctx context.Context, id *identity.Identity, _ time.Time) *canon.Error {
			return g.ext.AdmitKey(ctx, id)
		},
	})
}

// tableAuth authenticates by the table that is in use now.
type tableAuth struct{ ext *extproc.Server }

func (a tableAuth) Authenticate(ctx context.Context, h identity.Headers, source netip.Addr, now time.Time) (*identity.Identity, *canon.Error) {
	t := a.ext.Table()
	if t == nil {
		return nil, &canon.Error{Kind: canon.ErrOverloaded, RetryAfter: time.Second, Message: "The gateway is starting; try again in a moment."}
	}
	return t.Auth.Authenticate(ctx, h, source, now)
}

// settingsByVersion keeps the settings of the version that is live and of those that may become it. The zero value is ready.
type settingsByVersion struct {
	mu   sync.Mutex
	list []versionSettings // in the order in which they were compiled
}

type versionSettings struct {
	version string
	compile.Settings
}

func (s *settingsByVersion) put(version string, set compile.Settings) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.list); n > 0 && s.list[n-1].version == version {
		return
	}
	s.list = append(s.list, versionSettings{version, set})
}

// get gives the settings of a version that goes live, and forgets those of the versions before it.
func (s *settingsByVersion) get(version string) (compile.Settings, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.list) - 1; i >= 0; i-- {
		if s.list[i].version == version {
			s.list = slices.Delete(s.list, 0, i)
			return s.list[0].Settings, true
		}
	}
	return compile.Settings{}, false
}

func (g *gateway) warming(ctx context.Context) (int, error) {
	sup := g.sup.Load()
	if sup == nil {
		return 0, errors.New("Envoy has not been started")
	}
	return sup.Admin().Warming(ctx)
}

// reload takes a folder that has changed.
func (g *gateway) reload(objs *source.Objects, problems []source.Problem) {
	v, problems := g.compile(objs, problems)
	before := g.problems.Load()
	g.note(objs, problems)
	if v == nil {
		for _, p := range problems {
			if p.Severity == source.Error {
				g.log.Error("configuration refused; the last good one keeps serving", "problem", p.String())
			}
		}
		return
	}
	if before != nil && source.HasErrors(*before) {
		g.log.Info("configuration is valid again", "version", v.ID)
	}
	g.publisher.Publish(v)
}

func (g *gateway) note(objs *source.Objects, problems []source.Problem) {
	g.problems.Store(&problems)
	if !source.HasErrors(problems) {
		g.objects.Store(objs)
		for _, p := range problems {
			g.log.Warn("configuration", "problem", p.String())
		}
	}
}

func (g *gateway) keysFetched(s identity.SourceState) {
	if s.Err != "" {
		g.log.Warn("signing keys could not be fetched", "url", s.URL, "error", s.Err, "usable_until", s.UsableTo)
	}
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
			if n := g.ext.Sweep(); n > 0 {
				g.log.Debug("dropped what ended requests left behind", "requests", n)
			}
		}
	}
}

// addresses are the "host:port" that Envoy will listen on.
func addresses(v *compile.Version) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(v.Listeners)) {
		out = append(out, address(v, name))
	}
	return out
}

func address(v *compile.Version, listener string) string {
	a := v.Listeners[listener].GetAddress().GetSocketAddress()
	return net.JoinHostPort(a.GetAddress(), fmt.Sprint(a.GetPortValue()))
}

// baseURL is where clients reach the first listener of the first gateway.
func baseURL(v *compile.Version, objs *source.Objects) string {
	g := objs.Gateways[0]
	l := g.Spec.Listeners[0]
	scheme := "http://"
	if l.TLS != nil {
		scheme = "https://"
	}
	return scheme + strings.Replace(address(v, compile.ListenerName(g, &l)), "0.0.0.0", "127.0.0.1", 1)
}
