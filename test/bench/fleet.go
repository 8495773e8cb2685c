package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/weir-dev/weir/envoy"
	"github.com/weir-dev/weir/test/bench/proc"
)

// needFiles is how many files a process may have to have open: an Envoy two for each connection, the upstream one for each that an
// Envoy keeps, and there are several of those.
const needFiles = 16 << 10

// fleet is everything that runs: gateways, an upstream, a collector and a load generator.
type fleet struct {
	dir      string // of files, removed at the end
	self     string // this program
	envoyBin envoy.Binary
	weirBin  string
	load     *worker
	upstream *worker
	sink     *worker
	// Addresses.
	upstreamAt, sinkAt string
	gateways           []*gateway
	closers            []func() // in the order of starting
}

// startFleet starts programs, one after the other. It must be closed, also when it fails.
func startFleet(ctx context.Context, weirBin string, list []program, progress func(string, ...any)) (_ *fleet, err error) {
	f := &fleet{weirBin: weirBin}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	if err := proc.OpenFiles(needFiles); err != nil {
		return nil, err
	}
	if f.self, err = os.Executable(); err != nil {
		return nil, err
	}
	// Short: the path of a unix socket in it must be.
	if f.dir, err = os.MkdirTemp("", "weir-bench-"); err != nil {
		return nil, err
	}
	f.closers = append(f.closers, func() { _ = os.RemoveAll(f.dir) }) // the system clears its temporary files some day
	if f.envoyBin, err = envoy.Ensure(ctx, envoy.FindOptions{Progress: os.Stderr}); err != nil {
		return nil, err
	}
	if err := f.build(ctx, list, progress); err != nil {
		return nil, err
	}
	if f.upstream, f.upstreamAt, err = f.worker(roleUpstream); err != nil {
		return nil, err
	}
	if f.sink, f.sinkAt, err = f.worker(roleSink); err != nil {
		return nil, err
	}
	if f.load, err = startWorker(f.self, roleLoad); err != nil {
		return nil, err
	}
	f.closers = append(f.closers, f.load.stop)
	for _, p := range list {
		progress("starting %q", p.name)
		g, err := f.start(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("variant %s: %w", p.name, err)
		}
		f.gateways = append(f.gateways, g)
	}
	return f, nil
}

// build makes weir, unless there is one to be measured.
func (f *fleet) build(ctx context.Context, list []program, progress func(string, ...any)) error {
	if f.weirBin != "" || !slices.ContainsFunc(list, func(p program) bool { return p.weir }) {
		return nil
	}
	progress("building weir")
	f.weirBin = filepath.Join(f.dir, "program")
	return proc.BuildWeir(ctx, f.weirBin)
}

// worker starts this program in another role, and reads where it listens.
func (f *fleet) worker(role string) (*worker, string, error) {
	w, err := startWorker(f.self, role)
	if err != nil {
		return nil, "", err
	}
	f.closers = append(f.closers, w.stop)
	var address string
	if _, err := fmt.Fscanln(w.out, &address); err != nil {
		return nil, "", fmt.Errorf("%q does not come up: %w\n%s", role, err, w.Said())
	}
	return w, address, nil
}

// close stops everything, the last first.
func (f *fleet) close() {
	for _, stop := range slices.Backward(f.closers) {
		stop()
	}
}

// gateway is the running one of a name.
func (f *fleet) gateway(name string) *gateway {
	i := slices.IndexFunc(f.gateways, func(g *gateway) bool { return g.name == name })
	return f.gateways[i] // needed has seen to it that it runs
}

// ours is the CPU time of all processes of the benchmark.
func (f *fleet) ours() (sum time.Duration, err error) {
	pids := []int{os.Getpid(), f.upstream.PID(), f.sink.PID(), f.load.PID()}
	for _, g := range f.gateways { // those that have no turn are idle, but for a little
		pids = append(pids, g.envoyPID, g.otherPID, g.redisPID)
	}
	for _, pid := range pids {
		if pid == 0 {
			continue
		}
		d, err := proc.CPUTime(pid)
		if err != nil {
			return 0, errors.Join(err, f.ended())
		}
		sum += d
	}
	return sum, nil
}

// ended tells of gateways that are no more.
func (f *fleet) ended() error {
	var all []error
	for _, g := range f.gateways {
		if g.process == nil {
			continue
		}
		select {
		case <-g.process.Done():
			all = append(all, fmt.Errorf("variant %s: %s has ended:\n%s", g.name, g.process.Name, g.process.Said()))
		default:
		}
	}
	return errors.Join(all...)
}
