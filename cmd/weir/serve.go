package main

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/envoy"
	"github.com/weir-dev/weir/xds/serve"
)

// serveOptions are the flags of serve.
type serveOptions struct {
	gatewayOptions
	socketDir string
}

const socketDirUsage = "directory of the sockets that Weir and Envoy find each other by"

func serveCommand() *cobra.Command {
	var o serveOptions
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve a folder of objects to an Envoy that somebody else runs, beside it",
		Long: `Serve a folder of objects to an Envoy that somebody else runs, beside it.

Envoy is started with what "weir bootstrap" prints for the same --socket-dir, by the same user. Either may be started first, and
started again while the other goes on.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runServe(c.Context(), o, c.OutOrStdout()) },
	}
	f := c.Flags()
	o.gatewayOptions.bind(f)
	f.StringVar(&o.socketDir, "socket-dir", "", socketDirUsage)
	return c
}

func bootstrapCommand() *cobra.Command {
	var o envoyOptions
	var dir string
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
			_, err = c.OutOrStdout().Write(boot)
			return err
		},
	}
	f := c.Flags()
	o.bind(f)
	f.StringVar(&dir, "socket-dir", "", socketDirUsage)
	return c
}

var errNoSocketDir = errors.New("--socket-dir is missing: give the directory that Weir and Envoy share, the same one to weir serve and to weir bootstrap")

// runServe serves until ctx ends, then waits for the requests that run.
func runServe(ctx context.Context, o serveOptions, out io.Writer) error {
	if o.socketDir == "" {
		return errNoSocketDir
	}
	path, err := envoy.SocketPath(o.socketDir)
	if err != nil {
		return err
	}
	g, conf, err := newGateway(o.gatewayOptions, path, out)
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
	if err := g.start(conf, l, serve.Presence{Came: watch.came, Went: watch.went}); err != nil {
		return err
	}
	g.onClose(watch.stop)
	g.watch()
	g.log.Info("waiting for Envoy; start it with what this prints: weir bootstrap --socket-dir " + dir.Path())
	g.running.Go(func() {
		if g.awaitEnvoy(g.background) == nil {
			g.banner(conf.objs, baseURL(conf.first, conf.objs))
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
	tick := time.NewTicker(drainPoll)
	defer tick.Stop()
	var idleSince time.Time
	for {
		n := 0
		if g.noEnvoy() == "" {
			n = g.requests(ctx)
		}
		switch now := time.Now(); {
		case n > 0:
			idleSince = time.Time{}
		case idleSince.IsZero():
			idleSince = now
		case now.Sub(idleSince) >= flushGrace: // the records have come
			return
		}
		select {
		case <-tick.C:
			continue
		case <-again:
		case <-ctx.Done():
		}
		if n > 0 {
			g.log.Warn("stopping while requests run", "requests", n)
		}
		return
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
