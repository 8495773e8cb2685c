package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/envoy"
	"github.com/weir-dev/weir/xds/serve"
)

// serveOptions are the flags of serve.
type serveOptions struct {
	gatewayOptions
	sourceOptions
	socketDir  string
	drainDelay time.Duration
}

const socketDirUsage = "directory of the sockets that Weir and Envoy find each other by"

func serveCommand() *cobra.Command {
	var o serveOptions
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve objects to an Envoy that somebody else runs, beside it",
		Long: `Serve objects to an Envoy that somebody else runs, beside it. They come from a folder, from the Kubernetes API server (--kubernetes), or
from a control plane that reads them there for many (--control).

Envoy is started with what "weir bootstrap" prints for the same --socket-dir, by the same user. Either may be started first, and
started again while the other goes on.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runServe(c.Context(), o, c.OutOrStdout()) },
	}
	f := c.Flags()
	o.gatewayOptions.bind(f)
	o.sourceOptions.bind(f)
	f.StringVar(&o.socketDir, "socket-dir", "", socketDirUsage)
	c.MarkFlagsMutuallyExclusive("file", "kubernetes", "control")
	f.DurationVar(&o.drainDelay, "drain-delay", 5*time.Second, "how long Envoy goes on accepting connections after the file "+drainFile+" was made in the socket directory, until others know")
	return c
}

func bootstrapCommand() *cobra.Command {
	var o envoyOptions
	var dir, out string
	c := &cobra.Command{
		Use:   "bootstrap",
		Short: `Print the bootstrap of the Envoy beside "weir serve", as JSON`,
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if dir == "" {
				return errNoSocketDir
			}
			path, err := envoy.SocketPath(dir)
			if err != nil {
				return err
			}
			boot, err := envoy.Bootstrap(envoy.BootstrapOptions{
				AdminSocket: filepath.Join(path, envoy.AdminSocketName), XDSSocket: filepath.Join(path, envoy.ExtProcSocketName),
				MaxConnections: o.maxConns, MaxHeapBytes: o.maxHeap,
			})
			if err != nil {
				return err
			}
			if out != "" {
				return os.WriteFile(out, boot, 0o644)
			}
			_, err = c.OutOrStdout().Write(boot)
			return err
		},
	}
	f := c.Flags()
	o.bind(f)
	f.StringVar(&dir, "socket-dir", "", socketDirUsage)
	f.StringVarP(&out, "output", "o", "", "file to write instead of standard output")
	return c
}

var errNoSocketDir = errors.New("--socket-dir is missing: give the directory that Weir and Envoy share, the same one to weir serve and to weir bootstrap")

// runServe serves until ctx ends, then waits for the requests that run.
func runServe(ctx context.Context, o serveOptions, out io.Writer) error {
	if o.socketDir == "" {
		return errNoSocketDir
	}
	if err := o.sourceOptions.check(); err != nil {
		return err
	}
	path, err := envoy.SocketPath(o.socketDir)
	if err != nil {
		return err
	}
	g, conf, err := newGateway(o.gatewayOptions, &o.sourceOptions, path, out)
	if err != nil {
		return err
	}
	defer g.close()
	// Of the listeners nothing is asked: their ports belong to an Envoy that may run already.
	if err := envoy.CheckListen(g.listens(conf)...); err != nil {
		return err
	}
	dir, err := envoy.OpenSocketDir(o.socketDir)
	if err != nil {
		return err
	}
	g.onClose(func() { dir.Close() })
	if err := g.count(ctx, conf.first); err != nil {
		return err
	}
	g.inBackground(ctx)
	watch := &presence{gone: g.envoyGone}
	g.envoy.Store(envoy.NewAdmin(filepath.Join(dir.Path(), envoy.AdminSocketName)))
	g.noEnvoy = watch.missing
	l, err := dir.Listen(envoy.ExtProcSocketName)
	if err != nil {
		return err
	}
	if g.relayDoor, err = dir.Listen(envoy.RelaySocketName); err != nil {
		return err
	}
	drains := &drainFiles{dir: dir.Path(), delay: o.drainDelay, g: g}
	came := func(fresh bool) {
		watch.came(fresh)
		drains.came(fresh)
	}
	if err := g.start(conf, l, serve.Presence{Came: came, Went: watch.went}); err != nil {
		return err
	}
	g.onClose(watch.stop)
	g.running.Go(func() { drains.run(g.background) })
	g.watch()
	g.log.Info("waiting for Envoy; start it with what this prints: weir bootstrap --socket-dir " + dir.Path())
	g.running.Go(func() {
		if g.awaitEnvoy(g.background) == nil {
			objs := g.objects.Load()
			g.banner(objs, baseURL(g.version.Load(), objs))
		}
	})
	<-ctx.Done()
	g.drain()
	return nil
}

// envoyGone is called when the Envoy that was served is gone since then.
func (g *gateway) envoyGone(then time.Time) {
	g.console.EnvoyDown("Envoy is gone; the next is waited for")
	g.log.Error("Envoy is gone; waiting for the next")
	g.envoyDied(then)
}

// readyPoll is how often the gateway looks whether it is ready for the first time.
const readyPoll = 100 * time.Millisecond

// awaitEnvoy waits until requests are served for the first time.
func (g *gateway) awaitEnvoy(ctx context.Context) error {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for g.notReady(ctx) != "" {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// drainPoll is how often Envoy is asked for the requests that run.
const drainPoll = 50 * time.Millisecond

// drain waits until no request runs, for as long as requests have. Envoy itself is left as it is: it belongs to whoever
// runs it, and may be about to get another Weir. A signal that comes meanwhile ends the wait.
func (g *gateway) drain() {
	again, cancel := g.drainBegins()
	defer cancel()
	ctx, cancelDrain := context.WithTimeout(context.Background(), g.opts.drainTimeout)
	defer cancelDrain()
	if n, err := g.awaitIdle(ctx, again); err != nil && n > 0 {
		g.log.Warn("stopping while requests run", "requests", n)
	}
}

// errHurried is why a wait ended before its time.
var errHurried = errors.New("a second signal came")

// awaitIdle waits until no request runs and the records of all have come. Where ctx or hurry ends the wait, it says how many still run.
func (g *gateway) awaitIdle(ctx context.Context, hurry <-chan os.Signal) (running int, err error) {
	tick := time.NewTicker(drainPoll)
	defer tick.Stop()
	var idleSince time.Time
	for {
		running = 0
		if g.noEnvoy() == "" {
			running = g.requests(ctx)
		}
		switch now := time.Now(); {
		case running > 0:
			idleSince = time.Time{}
		case idleSince.IsZero():
			idleSince = now
		case now.Sub(idleSince) >= flushGrace: // the records have come
			return 0, nil
		}
		select {
		case <-tick.C:
		case <-hurry:
			return running, errHurried
		case <-ctx.Done():
			return running, context.Cause(ctx)
		}
	}
}

// requests counts those that Envoy has; where it does not say, those that were let in.
func (g *gateway) requests(ctx context.Context) int {
	n, err := g.envoy.Load().ActiveRequests(ctx)
	if err != nil {
		return g.acct.desk.InFlight()
	}
	return n
}
