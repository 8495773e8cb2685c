package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weir-dev/weir/test/bench/proc"
)

// size is everything that was measured with one number of routes.
type size struct {
	Routes   int `json:"routes"`
	Backends int `json:"backends"`
	// Load averages of the last minute, before the first change and after the last.
	LoadBefore float64 `json:"loadAverageBefore"`
	LoadAfter  float64 `json:"loadAverageAfter"`
	// FirstBytes is what a client gets when it comes, compressed, and FirstToEnvoy what an Envoy gets.
	FirstBytes   int64  `json:"firstBytesOfClient"`
	FirstToEnvoy pushed `json:"firstOfEnvoy"`
	// Statuses were written until everything was programmed, in so many seconds, and by the changes.
	Statuses        float64         `json:"statusesFirst"`
	StatusSeconds   float64         `json:"statusesFirstSeconds"`
	StatusesChanges float64         `json:"statusesOfChanges"`
	Processes       []*processUsage `json:"processes"`
	Changes         []*change       `json:"changes"`
}

// processUsage is what a process takes.
type processUsage struct {
	Name string `json:"name"`
	// Resident memory before the first change and after the last.
	Before int64 `json:"residentBytesBefore"`
	After  int64 `json:"residentBytesAfter"`
	// Idle is its CPU time, in milliseconds a second, while nothing changes.
	Idle float64 `json:"idleMillisPerSecond"`
}

// change is one change and what came of it. Times are in milliseconds, from the moment before it was sent to the API server.
type change struct {
	Kind string `json:"kind"`
	// Applied is when the API server had answered.
	Applied float64 `json:"applied"`
	// Clients is when the last client had acknowledged, and Fleet what all of them got together.
	Clients float64 `json:"clientsAcked,omitempty"`
	Fleet   pushed  `json:"fleet"`
	// Of each sidecar, by its name.
	Sidecars map[string]envoyTaken `json:"sidecars"`
	// Over is when it counted as over.
	Over float64 `json:"over"`
	// CPU time that each process used until then, without what it uses while nothing changes.
	CPU map[string]float64 `json:"cpuMillis"`
}

// envoyTaken is what an Envoy got and when it had acknowledged the last of what was new in it; zero where nothing was.
type envoyTaken struct {
	Acked float64 `json:"acked,omitempty"`
	pushed
	By map[string]pushed `json:"byType,omitempty"`
}

// idleFor is how long the processes are watched while nothing changes.
const idleFor = 5 * time.Second

// measure makes a world of so many routes, changes it, and takes it down.
func measure(ctx context.Context, o *options, b *build, n int, tell func(string, ...any)) (*size, error) {
	w, err := newWorld(ctx, o, b, n, tell)
	defer w.close()
	if err != nil {
		return nil, err
	}
	s := &size{Routes: n, Backends: w.backends(), FirstBytes: w.clients.first, FirstToEnvoy: w.sidecars[0].meter.read().pushed}
	began := time.Now()
	if s.Statuses, err = w.settle(ctx, o.still); err != nil {
		return nil, err
	}
	s.StatusSeconds = (time.Since(began) - o.still).Seconds()
	tell("%.0f statuses are written", s.Statuses)
	if err := w.idle(ctx, s); err != nil {
		return nil, err
	}
	if s.LoadBefore, err = proc.LoadAverage(); err != nil {
		return nil, err
	}
	for i := range o.changes {
		kind := &changeKinds[i%len(changeKinds)]
		c, err := w.change(ctx, o, s, kind, i/len(changeKinds))
		if err != nil {
			return nil, fmt.Errorf("change %d, %s: %w", i, kind.what, err)
		}
		s.Changes = append(s.Changes, c)
	}
	tell("%d changes are made", o.changes)
	after, err := w.statuses()
	if err != nil {
		return nil, err
	}
	s.StatusesChanges = after - s.Statuses
	s.LoadAfter, err = proc.LoadAverage()
	for i, p := range s.Processes {
		var bad error
		p.After, bad = proc.ResidentBytes(w.pids[i].pid)
		err = errors.Join(err, bad)
	}
	return s, err
}

// idle watches the processes while nothing changes.
func (w *world) idle(ctx context.Context, s *size) error {
	before, err := w.cpu()
	if err != nil {
		return err
	}
	began := time.Now()
	select {
	case <-time.After(idleFor):
	case <-ctx.Done():
		return ctx.Err()
	}
	after, err := w.cpu()
	if err != nil {
		return err
	}
	for i, p := range w.pids {
		resident, err := proc.ResidentBytes(p.pid)
		if err != nil {
			return err
		}
		s.Processes = append(s.Processes, &processUsage{Name: p.name, Before: resident, Idle: millis(after[i]-before[i]) / time.Since(began).Seconds()})
	}
	return nil
}

// cpu is the CPU time of each process.
func (w *world) cpu() ([]time.Duration, error) {
	out := make([]time.Duration, len(w.pids))
	for i, p := range w.pids {
		var err error
		if out[i], err = proc.CPUTime(p.pid); err != nil {
			return nil, errors.Join(err, w.failed())
		}
	}
	return out, nil
}

// changeTimeout bounds one change: nothing takes this long unless it is broken.
const changeTimeout = 2 * time.Minute

// change makes one, and waits until every client has acknowledged it, every Envoy that has to hear of it as well, and nothing more comes.
func (w *world) change(ctx context.Context, o *options, s *size, kind *changeKind, n int) (*change, error) {
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	w.clients.meter.reset()
	for _, side := range w.sidecars {
		side.meter.reset()
	}
	before, err := w.cpu()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := kind.make(ctx, w.api.Client, w.objects, n); err != nil {
		return nil, err
	}
	c := &change{Kind: kind.name, Applied: millis(time.Since(began)), Sidecars: map[string]envoyTaken{}, CPU: map[string]float64{}}
	if err := w.await(ctx, o, kind, began); err != nil {
		return nil, err
	}
	after, err := w.cpu()
	if err != nil {
		return nil, err
	}
	c.Over = millis(time.Since(began))
	for i, p := range w.pids {
		c.CPU[p.name] = millis(after[i]-before[i]) - s.Processes[i].Idle*c.Over/1000
	}
	all := w.clients.meter.read()
	c.Fleet = all.pushed
	since := func(at time.Time) float64 {
		if at.IsZero() {
			return 0
		}
		return millis(at.Sub(began))
	}
	c.Clients = since(all.at)
	for _, side := range w.sidecars {
		r := side.meter.read()
		c.Sidecars[side.name] = envoyTaken{since(r.at), r.pushed, r.By}
	}
	return c, nil
}

// lookEvery is how often is looked whether a change is over.
const lookEvery = 5 * time.Millisecond

func (w *world) await(ctx context.Context, o *options, kind *changeKind, began time.Time) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		all := w.clients.meter.read()
		missing, last, refusal := o.clients-all.clients, all.last, all.refusal
		waits := ""
		if missing > 0 {
			waits = fmt.Sprintf("%d clients have not acknowledged it", missing)
		}
		for _, side := range w.sidecars {
			r := side.meter.read()
			if r.refusal != "" {
				refusal = r.refusal
			}
			if r.last.After(last) {
				last = r.last
			}
			if kind.told && r.clients == 0 {
				waits = fmt.Sprintf("the Envoy of %q has not acknowledged it", side.name)
			}
		}
		if refusal != "" {
			return fmt.Errorf("it is refused: %s", refusal)
		}
		if last.Before(began) {
			last = began
		}
		if waits == "" && time.Since(last) > o.window {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s: %w", waits, context.Cause(ctx)), w.failed())
		}
	}
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
