package gpu

import (
	"context"
	"sync"
	"time"

	"github.com/weir-dev/weir/test/sim/gpu/engine"
)

// driver runs an engine against the clock. It is safe for concurrent use.
type driver struct {
	now  func() time.Duration // since the engine began
	wake chan struct{}        // something was submitted, or a fault lifted

	mu     sync.Mutex
	engine *engine.Engine
	calls  map[uint64]*call
	lastID uint64
	meter  meter
	gpus   sampler
}

// call is a request in the engine. Its fields belong to the driver's lock.
type call struct {
	id     uint64
	prompt int
	limit  int // max_tokens as it applied
	cut    bool
	wake   chan struct{} // there is news

	cached, generated int
	ended             bool
	end               engine.Kind

	arrived, started, first, last time.Duration
}

// news is what has become of a call.
type news struct {
	cached, generated int
	ended             bool
	end               engine.Kind
}

func newDriver(p engine.Profile, o Options, seed uint64) (*driver, error) {
	began := o.Now()
	d := &driver{now: func() time.Duration { return o.Now().Sub(began) }, wake: make(chan struct{}, 1), calls: map[uint64]*call{},
		gpus: sampler{interval: o.DCGMInterval}}
	var err error
	d.engine, err = engine.New(p, engine.Options{Emit: d.event, Seed: seed})
	if err != nil {
		return nil, err
	}
	d.meter = newMeter(d.engine.Capacity())
	return d, nil
}

// run lets the engine go on, step by step, until the context ends.
func (d *driver) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-d.wake:
		}
		d.mu.Lock()
		d.advance()
		at, ok := d.engine.Next()
		d.mu.Unlock()
		if ok {
			timer.Reset(at - d.now())
		} else {
			timer.Stop()
		}
	}
}

// advance brings the engine to now. The lock is held.
func (d *driver) advance() {
	now := d.now()
	d.gpus.upto(d.engine, now)
	d.engine.Advance(now)
}

func (d *driver) hurry() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// do runs f with the engine at the present time, and lets it go on from there: what f submits has arrived when do returns.
func (d *driver) do(f func(*engine.Engine)) {
	d.mu.Lock()
	d.advance()
	f(d.engine)
	d.engine.Advance(d.engine.Now())
	d.mu.Unlock()
	d.hurry()
}

// submit hands in a request; r needs no ID and no time. An error means that it can never be served.
func (d *driver) submit(r engine.Request, limit int, cut bool) (*call, error) {
	c := &call{prompt: r.PromptTokens, limit: limit, cut: cut, wake: make(chan struct{}, 1)}
	var err error
	d.do(func(e *engine.Engine) {
		d.lastID++
		c.id, c.arrived = d.lastID, e.Now()
		r.ID, r.ArriveAt = c.id, e.Now()
		if err = e.Submit(r); err == nil {
			d.calls[c.id] = c
		}
	})
	return c, err
}

// cancel takes a call back if it has not ended.
func (d *driver) cancel(c *call) {
	d.do(func(e *engine.Engine) {
		if !c.ended {
			e.Cancel(c.id)
		}
	})
}

// wait returns when there is more than seen tokens, or the call ended, or the context did.
func (d *driver) wait(ctx context.Context, c *call, seen int) (news, error) {
	for {
		n, over := d.look(c)
		if over || n.generated > seen {
			return n, nil
		}
		select {
		case <-c.wake:
		case <-ctx.Done():
			return n, context.Cause(ctx)
		}
	}
}

// event is told by the engine, under the lock.
func (d *driver) event(e engine.Event) {
	c := d.calls[e.ID]
	switch e.Kind {
	case engine.Started:
		c.cached, c.started = e.Cached, e.At
	case engine.FirstToken:
		c.generated, c.first, c.last = e.Tokens, e.At, e.At
		d.meter.firstToken(e.At - c.arrived)
	case engine.Token:
		d.meter.nextToken(e.At - c.last)
		c.generated, c.last = e.Tokens, e.At
	case engine.Finished, engine.Failed, engine.Canceled:
		c.ended, c.end = true, e.Kind
		delete(d.calls, e.ID)
		d.meter.ended(c, e)
	case engine.Preempted:
		return
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// stats are the engine's, now.
func (d *driver) stats() engine.Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.advance()
	return d.engine.Stats()
}

// look is what has become of a call, and whether it has ended.
func (d *driver) look(c *call) (news, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return news{c.cached, c.generated, c.ended, c.end}, c.ended
}
