package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// scenario is a kind of load.
type scenario struct {
	Name        string  `json:"name"`
	Stream      bool    `json:"stream"`
	Connections int     `json:"connections"`
	Rate        float64 `json:"rate,omitempty"` // requests per second; 0: a closed loop
	// longer is how many times the time of a round one round of it takes: at a low rate it takes longer to have samples.
	longer int
}

func scenarios(rate float64) []scenario {
	return []scenario{
		{Name: fmt.Sprintf("plain requests, open loop at %g/s", rate), Connections: 64, Rate: rate, longer: 2},
		{Name: "plain requests, 16 connections", Connections: 16, longer: 1},
		{Name: "plain requests, 64 connections", Connections: 64, longer: 1},
		{Name: "streams, 16 connections", Stream: true, Connections: 16, longer: 1},
		{Name: "streams, 64 connections", Stream: true, Connections: 64, longer: 1},
	}
}

// sample is what one variant did in one round of one scenario.
type sample struct {
	measured
	PerSecond float64 `json:"requestsPerSecond"`
	// CPU time for each request, in microseconds.
	CPU struct {
		Envoy    float64 `json:"envoy"`
		Weir     float64 `json:"weir"`
		Redis    float64 `json:"redis"`
		Upstream float64 `json:"upstream"`
		Load     float64 `json:"load"`
	} `json:"cpuMicrosPerRequest"`
	// Redis for each request: scripts, each of which is a round trip, and all commands, those that scripts call included. And
	// how often each command was called.
	RedisScripts  float64          `json:"redisScriptsPerRequest"`
	RedisCommands float64          `json:"redisCommandsPerRequest"`
	RedisByName   map[string]int64 `json:"redisCommands,omitempty"`
	// LoadAverage is that of the minute before the end, Others the share of the machine that was used by processes which
	// have no part in this.
	LoadAverage float64 `json:"loadAverage"`
	Others      float64 `json:"othersShare"`
}

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

// plan is what is measured, and for how long.
type plan struct {
	scenarios     []scenario
	rounds        int
	warm, measure time.Duration
}

// run measures all scenarios. In each round every variant has its turn, and who begins changes with the round, so that what
// else the machine does meets all of them alike.
func (f *fleet) run(ctx context.Context, p plan, progress func(string, ...any)) ([]*outcome, error) {
	var out []*outcome
	for _, s := range p.scenarios {
		o := &outcome{Scenario: s}
		for _, g := range f.gateways {
			o.Cells = append(o.Cells, &cell{Variant: g.name})
		}
		out = append(out, o)
	}
	for round := range p.rounds {
		for _, o := range out {
			progress("round %d of %d: %s", round+1, p.rounds, o.Scenario.Name)
			for i := range f.gateways {
				n := (i + round) % len(f.gateways)
				m, err := f.measure(ctx, f.gateways[n], o.Scenario, p)
				if err != nil {
					return nil, fmt.Errorf("%s, %s: %w", o.Scenario.Name, f.gateways[n].name, err)
				}
				o.Cells[n].Samples = append(o.Cells[n].Samples, *m)
			}
		}
	}
	return out, nil
}

// reading is what is read before and after.
type reading struct {
	envoy, weir, redis, upstream, load time.Duration
	// ours is the CPU time of all processes of the benchmark, machine that of all there are.
	ours, machine time.Duration

	at       time.Time
	commands map[string]int64
}

func (f *fleet) read(ctx context.Context, g *gateway) (r reading, err error) {
	cpu := func(pid int) (d time.Duration) {
		if pid != 0 && err == nil {
			d, err = cpuTime(pid)
		}
		return d
	}
	r.envoy, r.weir, r.redis = cpu(g.envoyPID), cpu(g.weirPID), cpu(g.redisPID)
	r.upstream, r.load = cpu(f.upstream.pid()), cpu(f.load.pid())
	r.ours = r.upstream + r.load + cpu(os.Getpid())
	for _, other := range f.gateways { // those that have no turn are idle, but for a little
		r.ours += cpu(other.envoyPID) + cpu(other.weirPID) + cpu(other.redisPID)
	}
	if err != nil {
		return r, err
	}
	if r.machine, err = machineTime(); err != nil {
		return r, err
	}
	r.at = time.Now()
	if g.redis == nil {
		return r, nil
	}
	text, err := g.redis.Info(ctx, "commandstats").Result()
	if err != nil {
		return r, fmt.Errorf("Redis does not say what it has done: %w", err)
	}
	r.commands, err = commandCalls(text)
	return r, err
}

// measure runs one job through a gateway.
func (f *fleet) measure(ctx context.Context, g *gateway, s scenario, p plan) (*sample, error) {
	job := job{
		Address: g.address, Path: "/v1/chat/completions", Key: callerKey, Stream: s.Stream, Connections: s.Connections, Rate: s.Rate,
		Warm: p.warm, Measure: time.Duration(s.longer) * p.measure,
	}
	replies := json.NewDecoder(f.load.out)
	say := func(v any) (reply, error) {
		var r reply
		if err := json.NewEncoder(f.load.in).Encode(v); err != nil {
			return r, fmt.Errorf("the load generator cannot be told what to do: %w\n%s", err, f.load.said)
		}
		if err := replies.Decode(&r); err != nil {
			return r, fmt.Errorf("the load generator has ended: %w\n%s", err, f.load.said)
		}
		if r.Error != "" {
			return r, errors.New(r.Error)
		}
		return r, ctx.Err()
	}
	if _, err := say(job); err != nil {
		return nil, err
	}
	before, err := f.read(ctx, g)
	if err != nil {
		return nil, err
	}
	r, err := say("go")
	if err != nil {
		return nil, err
	}
	after, err := f.read(ctx, g)
	if err != nil {
		return nil, err
	}
	return newSample(r.Result, &before, &after)
}

func newSample(m *measured, before, after *reading) (*sample, error) {
	if m == nil || m.Requests == 0 {
		return nil, errors.New("no request was measured: give the rounds more time")
	}
	s := &sample{measured: *m, PerSecond: float64(m.Requests) / m.Elapsed.Seconds()}
	each := func(a, b time.Duration) float64 {
		return float64(b-a) / float64(time.Microsecond) / float64(m.Requests)
	}
	s.CPU.Envoy, s.CPU.Weir, s.CPU.Redis = each(before.envoy, after.envoy), each(before.weir, after.weir), each(before.redis, after.redis)
	s.CPU.Upstream, s.CPU.Load = each(before.upstream, after.upstream), each(before.load, after.load)

	ours := after.ours - before.ours
	s.Others = max(0, float64(after.machine-before.machine-ours)/float64(after.at.Sub(before.at))/float64(cores()))
	var err error
	if s.LoadAverage, err = loadAverage(); err != nil {
		return nil, err
	}
	if after.commands == nil {
		return s, nil
	}
	s.RedisByName = map[string]int64{}
	for name, n := range after.commands {
		if n -= before.commands[name]; n > 0 {
			s.RedisByName[name] = n
		}
	}
	scripts, all := int64(0), int64(0)
	for name, n := range s.RedisByName {
		all += n
		if strings.HasPrefix(name, "eval") {
			scripts += n
		}
	}
	s.RedisScripts, s.RedisCommands = float64(scripts)/float64(m.Requests), float64(all)/float64(m.Requests)
	return s, nil
}

// commandCalls reads how often each command was called out of INFO commandstats, whose lines are
// "cmdstat_get:calls=1,usec=2,...". INFO itself is left out: only the benchmark uses it.
func commandCalls(text string) (map[string]int64, error) {
	out := map[string]int64{}
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "cmdstat_")
		if !ok {
			continue
		}
		name, stats, _ := strings.Cut(rest, ":")
		calls, _, _ := strings.Cut(strings.TrimPrefix(stats, "calls="), ",")
		n, err := strconv.ParseInt(calls, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("INFO commandstats cannot be read: %q", line)
		}
		if name != "info" {
			out[name] = n
		}
	}
	return out, nil
}
