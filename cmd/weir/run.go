package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/envoy"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/serve"
)

// runOptions are the flags of run.
type runOptions struct {
	gatewayOptions
	envoyOptions
	runtimeDir  string
	concurrency int
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
	o.gatewayOptions.bind(f)
	o.envoyOptions.bind(f)
	f.StringVar(&o.runtimeDir, "runtime-dir", "", "where the directory for sockets is made (default: $XDG_RUNTIME_DIR or the system's temporary directory)")
	f.IntVar(&o.concurrency, "concurrency", 0, "worker threads of Envoy (default: usable cores)")
	return c
}

// run serves with an Envoy of its own until ctx ends, then drains.
func run(ctx context.Context, o runOptions, out io.Writer) error {
	dir, err := envoy.NewRuntimeDir(envoy.RuntimeDirOptions{Base: o.runtimeDir})
	if err != nil {
		return err
	}
	defer dir.Close()
	g, conf, err := newGateway(o.gatewayOptions, nil, dir.Path(), out)
	if err != nil {
		return err
	}
	defer g.close()
	listeners := addresses(conf.first)
	if err := envoy.CheckListen(append(g.listens(conf), listeners...)...); err != nil {
		return err
	}
	bin, err := envoy.Ensure(ctx, envoy.FindOptions{Progress: os.Stderr})
	if err != nil {
		return err
	}
	if err := g.count(ctx, conf.first); err != nil {
		return err
	}
	g.inBackground(ctx)
	socket, err := dir.Socket(envoy.ExtProcSocketName)
	if err != nil {
		return err
	}
	g.noEnvoy = func() string {
		if g.envoy.Load() == nil {
			return "Envoy has not been started"
		}
		return ""
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("cannot listen on %s: %w", socket, err)
	}
	if g.relayDoor, err = net.Listen("unix", g.relayed.relay); err != nil {
		return fmt.Errorf("cannot listen on %s: %w", g.relayed.relay, err)
	}
	if err := g.start(conf, l, serve.Presence{}); err != nil {
		return err
	}
	sup, err := g.supervisor(o, bin, dir, socket, listeners)
	if err != nil {
		return err
	}
	g.envoy.Store(sup.Admin())
	if err := sup.Start(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	g.watch()
	if err := g.awaitReady(ctx, sup); err != nil {
		g.stop(sup)
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	g.banner(conf.objs, baseURL(conf.first, conf.objs))

	select {
	case <-ctx.Done():
	case <-sup.Done():
		return errors.New("Envoy ended and was not started again")
	}
	g.stop(sup)
	return nil
}

func (g *gateway) supervisor(o runOptions, bin envoy.Binary, dir *envoy.RuntimeDir, socket string, listeners []string) (*envoy.Supervisor, error) {
	adminSocket, err := dir.Socket(envoy.AdminSocketName)
	if err != nil {
		return nil, err
	}
	boot, err := envoy.Bootstrap(envoy.BootstrapOptions{
		AdminSocket: adminSocket, XDSSocket: socket, MaxConnections: o.maxConns, MaxHeapBytes: o.maxHeap,
	})
	if err != nil {
		return nil, err
	}
	return envoy.NewSupervisor(envoy.SupervisorOptions{
		Binary: bin.Path, Bootstrap: boot, RuntimeDir: dir.Path(), AdminSocket: adminSocket,
		Concurrency: o.concurrency, LogLevel: max(g.level, slog.LevelInfo), Logger: g.log,
		OnEvent: g.envoyEvent, Listen: listeners,
		FlushGrace: flushGrace,
	})
}

// flushGrace is how long after a request's end its record has arrived.
const flushGrace = compile.AccessLogFlush + 200*time.Millisecond

func (g *gateway) envoyEvent(e envoy.Event) {
	exit, ended := e.(envoy.Exited)
	if !ended {
		if _, ready := e.(envoy.Ready); ready {
			g.console.EnvoyUp(e.String())
		} else {
			g.console.EnvoyNote(e.String())
		}
		g.log.Info(e.String())
		return
	}
	g.console.EnvoyDown(e.String())
	g.envoyDied(time.Now())
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
	again, cancel := g.drainBegins()
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

// drainBegins says that the gateway is ending, and tells of another signal to.
func (g *gateway) drainBegins() (again <-chan os.Signal, cancel func()) {
	g.stopping.Store(true)
	if g.opts.machineLog() {
		g.log.Info("draining; another signal stops at once")
	} else {
		fmt.Fprintln(os.Stderr, "weir: draining; press Ctrl-C again to stop at once")
	}
	return notifyAgain()
}
