package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// cell is a variant in a scenario: its samples are in the order of the rounds.
type cell struct {
	Variant string   `json:"variant"`
	Samples []sample `json:"rounds"`
}

// outcome is a scenario that has been measured.
type outcome struct {
	Scenario scenario `json:"scenario"`
	Cells    []*cell  `json:"variants"` // in the order of variants
}

// cell of a variant; nil where it does not take part.
func (o *outcome) cell(variant string) *cell {
	for _, c := range o.Cells {
		if c.Variant == variant {
			return c
		}
	}
	return nil
}

// plan is what is measured, and for how long.
type plan struct {
	scenarios     []scenario
	rounds        int
	warm, measure time.Duration
}

// run measures all scenarios: first those that have one turn, as long as nothing else has used memory. In each round every variant has its
// turn, and who begins changes with the round, so that what else the machine does meets all of them alike.
func (f *fleet) run(ctx context.Context, p plan, progress func(string, ...any)) ([]*outcome, error) {
	var out []*outcome
	for _, s := range p.scenarios {
		o := &outcome{Scenario: s}
		for _, v := range takingPart(s) {
			o.Cells = append(o.Cells, &cell{Variant: v.name})
		}
		out = append(out, o)
	}
	turns := func(o *outcome, round int) error {
		part := takingPart(o.Scenario)
		for i := range part {
			n := (i + round) % len(part)
			m, err := f.measure(ctx, part[n], o.Scenario, p)
			if err != nil {
				return fmt.Errorf("%s, variant %s: %w", o.Scenario.Name, part[n].name, errors.Join(err, f.ended()))
			}
			o.Cells[n].Samples = append(o.Cells[n].Samples, *m)
		}
		return nil
	}
	for _, o := range out {
		if o.Scenario.once {
			progress("%s", o.Scenario.Name)
			if err := turns(o, 0); err != nil {
				return nil, err
			}
		}
	}
	for round := range p.rounds {
		for _, o := range out {
			if o.Scenario.once {
				continue
			}
			progress("round %d of %d: %s", round+1, p.rounds, o.Scenario.Name)
			if err := turns(o, round); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// measure runs one job through a gateway.
func (f *fleet) measure(ctx context.Context, v variant, s scenario, p plan) (*sample, error) {
	g := f.gateway(v.process)
	j := f.job(g, s.traffic(v), s.Connections)
	j.Rate, j.Warm, j.Measure = s.Rate, p.warm, time.Duration(s.longer*float64(p.measure))
	if s.Kind == heldLoad {
		return f.hold(ctx, g, j)
	}
	talk := f.talk(ctx)
	if _, err := talk(j); err != nil {
		return nil, err
	}
	before, err := f.read(ctx, g)
	if err != nil {
		return nil, err
	}
	r, err := talk("go")
	if err != nil {
		return nil, err
	}
	after, err := f.read(ctx, g)
	if err != nil {
		return nil, err
	}
	return newSample(r.Result, before, after)
}

func (f *fleet) job(g *gateway, t traffic, connections int) job {
	return job{Address: g.address, Path: "/v1/chat/completions", Key: callerKey, Traffic: t, Connections: connections}
}

// talk is a conversation with the load generator about one job.
func (f *fleet) talk(ctx context.Context) func(v any) (reply, error) {
	replies := json.NewDecoder(f.load.out)
	return func(v any) (r reply, err error) {
		if err := json.NewEncoder(f.load.in).Encode(v); err != nil {
			return r, errors.Join(ctx.Err(), fmt.Errorf("the load generator cannot be told what to do: %w\n%s", err, f.load.Said()))
		}
		// What it does is not waited for when the benchmark is to end.
		stop := context.AfterFunc(ctx, f.load.stop)
		defer stop()
		if err := replies.Decode(&r); err != nil {
			return r, errors.Join(ctx.Err(), fmt.Errorf("the load generator has ended: %w\n%s", err, f.load.Said()))
		}
		if r.Error != "" {
			return r, errors.New(r.Error)
		}
		return r, ctx.Err()
	}
}

// hold opens streams, and looks at what they take while they are open.
func (f *fleet) hold(ctx context.Context, g *gateway, j job) (*sample, error) {
	j.Hold = true
	idle, err := g.memory(ctx)
	if err != nil {
		return nil, err
	}
	talk := f.talk(ctx)
	if _, err := talk(j); err != nil {
		return nil, err
	}
	before, err := f.read(ctx, g)
	if err != nil {
		return nil, err
	}
	// The first ends after as many pauses as it has tokens, and the last has begun one pause after the first.
	open := time.Duration(float64(j.Traffic.Pace.Tokens)-2.2) * j.Traffic.Pace.Every
	select {
	case <-time.After(open):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	after, err := f.read(ctx, g)
	if err != nil {
		return nil, err
	}
	m, err := g.memory(ctx)
	if err != nil {
		return nil, err
	}
	r, err := talk("go")
	if err != nil {
		return nil, err
	}
	return newHeld(r.Result, before, after, idle, m)
}
