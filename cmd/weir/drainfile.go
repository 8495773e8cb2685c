package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Files in the socket directory by which whoever ends Envoy has its requests run to their end first: it makes drainFile, and Weir makes
// drainedFile when none runs any more. In a Pod that is Envoy's preStop hook, which needs nothing but a shell for it.
const (
	drainFile   = "drain"
	drainedFile = "drained"
)

// drainFilePoll is how often drainFile is looked for.
const drainFilePoll = 200 * time.Millisecond

// drainFiles drains Envoy when it is asked to by drainFile.
type drainFiles struct {
	dir   string
	delay time.Duration // for others to learn that no further request is wanted here
	g     *gateway

	mu   sync.Mutex
	asks context.CancelFunc // ends the drain that runs; nil where none has begun
}

// run looks for drainFile until ctx ends. One that is there already counts: Weir may have been started again while a Pod ends.
func (d *drainFiles) run(ctx context.Context) {
	tick := time.NewTicker(drainFilePoll)
	defer tick.Stop()
	for {
		d.look(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// look drains where it is asked to, unless that has begun.
func (d *drainFiles) look(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := os.Stat(filepath.Join(d.dir, drainFile)); err != nil || d.asks != nil {
		return
	}
	ctx, d.asks = context.WithCancel(ctx)
	d.g.draining.Store(true)
	d.g.log.Info("Envoy is about to end; requests run to their end first", "asked_by", filepath.Join(d.dir, drainFile))
	d.g.running.Go(func() {
		if err := d.drain(ctx); err != nil {
			d.g.log.Warn("Envoy ends before its requests have", "reason", err)
		}
		if err := d.told(ctx); err != nil {
			d.g.log.Error("whoever ends Envoy cannot be told that its requests have ended", "error", err)
		}
	})
}

// drain sends clients away and waits until no request runs, for as long as requests have.
func (d *drainFiles) drain(ctx context.Context) error {
	admin := d.g.envoy.Load()
	if d.g.noEnvoy() != "" {
		return nil
	}
	if err := admin.FailHealthChecks(ctx); err != nil {
		return fmt.Errorf("its health checks cannot be made to fail: %w", err)
	}
	if err := sleep(ctx, d.delay); err != nil {
		return err
	}
	if err := admin.CloseListeners(ctx); err != nil {
		return fmt.Errorf("its listeners cannot be closed: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, d.g.opts.drainTimeout)
	defer cancel()
	if n, err := d.g.awaitIdle(ctx, nil); err != nil && n > 0 {
		return fmt.Errorf("%d requests still run: %w", n, err)
	}
	return nil
}

// told makes drainedFile, unless the drain was called off.
func (d *drainFiles) told(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil
	}
	return os.WriteFile(filepath.Join(d.dir, drainedFile), nil, 0o600)
}

// came says that an Envoy has connected. A fresh one is the next: what was asked was asked of the one before.
func (d *drainFiles) came(fresh bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !fresh {
		return
	}
	for _, name := range []string{drainFile, drainedFile} {
		if err := os.Remove(filepath.Join(d.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			d.g.log.Error("a file of the last drain cannot be removed", "error", err)
		}
	}
	if d.asks != nil {
		d.asks()
		d.asks = nil
	}
	d.g.draining.Store(false)
}

// sleep waits, or says why ctx has ended first.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
