package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/weir-dev/weir/test/bench/proc"
)

// sample is what one variant did in one round of one scenario.
type sample struct {
	measured
	PerSecond float64 `json:"requestsPerSecond"`
	// CPU time for each request, in microseconds.
	CPU struct {
		Envoy    float64 `json:"envoy"`
		Other    float64 `json:"other"` // of weir, or of the floor's processor
		Redis    float64 `json:"redis,omitempty"`
		Upstream float64 `json:"upstream"`
		Load     float64 `json:"load"`
	} `json:"cpuMicrosPerRequest"`
	// What Envoy sends for each request to what it asks, as it counts itself: messages of ext_proc, and bytes, those of
	// access-log records included.
	Messages float64 `json:"extProcMessagesPerRequest"`
	Bytes    float64 `json:"bytesAskedPerRequest"`
	// Redis for each request: scripts, each of which is a round trip, and all commands, those that scripts call included. And
	// how often each command was called.
	RedisScripts  float64          `json:"redisScriptsPerRequest,omitempty"`
	RedisCommands float64          `json:"redisCommandsPerRequest,omitempty"`
	RedisByName   map[string]int64 `json:"redisCommands,omitempty"`
	// LoadAverage is that of the minute before the end, Others the share of the machine that was used by processes which
	// have no part in this.
	LoadAverage float64 `json:"loadAverage"`
	Others      float64 `json:"othersShare"`

	Held *held `json:"held,omitempty"`
}

// gatewayCPU is what Envoy and what it asks use together, in microseconds for a request.
func (s *sample) gatewayCPU() float64 { return s.CPU.Envoy + s.CPU.Other }

// held is what streams take that are open.
type held struct {
	Streams int `json:"streams"`
	// How much more memory there is in use than before.
	EnvoyBytes int64 `json:"envoyBytes"`
	OtherBytes int64 `json:"otherBytes"`
	// How many more goroutines weir has.
	Goroutines int `json:"goroutines"`
	// Shares of a core.
	EnvoyCPU float64 `json:"envoyCores"`
	OtherCPU float64 `json:"otherCores"`
}

// reading is what is read before and after.
type reading struct {
	envoy, other, redis, upstream, load time.Duration
	// ours is the CPU time of all processes of the benchmark, machine that of all there are.
	ours, machine time.Duration

	at       time.Time
	asked    asked
	commands map[string]int64 // of Redis; nil where there is none
}

func (f *fleet) read(ctx context.Context, g *gateway) (r *reading, err error) {
	r = &reading{}
	if r.asked, err = g.asked(ctx); err != nil {
		return nil, err
	}
	if r.commands, err = g.redisCalls(ctx); err != nil {
		return nil, err
	}
	cpu := func(pid int) (d time.Duration) {
		if pid != 0 && err == nil {
			d, err = proc.CPUTime(pid)
		}
		return d
	}
	r.envoy, r.other, r.redis, r.upstream, r.load = cpu(g.envoyPID), cpu(g.otherPID), cpu(g.redisPID), cpu(f.upstream.PID()), cpu(f.load.PID())
	if err != nil {
		return nil, err
	}
	if r.ours, err = f.ours(); err != nil {
		return nil, err
	}
	if r.machine, err = proc.MachineTime(); err != nil {
		return nil, err
	}
	r.at = time.Now()
	return r, nil
}

// others is the share of the machine that had nothing to do with the benchmark.
func others(before, after *reading) float64 {
	return max(0, float64(after.machine-before.machine-(after.ours-before.ours))/float64(after.at.Sub(before.at))/float64(cores()))
}

func newSample(m *measured, before, after *reading) (*sample, error) {
	if m == nil || m.Requests == 0 {
		return nil, errors.New("no request was measured: give the turns more time")
	}
	s := &sample{measured: *m, PerSecond: float64(m.Requests) / m.Elapsed.Seconds()}
	n := float64(m.Requests)
	each := func(a, b time.Duration) float64 { return float64(b-a) / float64(time.Microsecond) / n }
	s.CPU.Envoy, s.CPU.Other, s.CPU.Redis = each(before.envoy, after.envoy), each(before.other, after.other), each(before.redis, after.redis)
	s.CPU.Upstream, s.CPU.Load = each(before.upstream, after.upstream), each(before.load, after.load)
	s.Messages = float64(after.asked.messages-before.asked.messages) / n
	s.Bytes = float64(after.asked.bytes-before.asked.bytes) / n
	s.Others = others(before, after)
	var err error
	if s.LoadAverage, err = proc.LoadAverage(); err != nil {
		return nil, err
	}
	if after.commands == nil {
		return s, nil
	}
	s.RedisByName = map[string]int64{}
	scripts, all := int64(0), int64(0)
	for name, calls := range after.commands {
		if calls -= before.commands[name]; calls == 0 {
			continue
		}
		s.RedisByName[name] = calls
		all += calls
		if strings.HasPrefix(name, "eval") {
			scripts += calls
		}
	}
	s.RedisScripts, s.RedisCommands = float64(scripts)/n, float64(all)/n
	return s, nil
}

// newHeld is the sample of streams that were open between two readings; idle is the memory before they were.
func newHeld(m *measured, before, after *reading, idle, open memory) (*sample, error) {
	if m == nil || m.Requests == 0 {
		return nil, errors.New("no stream was open")
	}
	load, err := proc.LoadAverage()
	if err != nil {
		return nil, err
	}
	share := func(a, b time.Duration) float64 { return float64(b-a) / float64(after.at.Sub(before.at)) }
	return &sample{measured: *m, LoadAverage: load, Others: others(before, after), Held: &held{
		Streams: m.Requests, EnvoyBytes: open.Envoy - idle.Envoy, OtherBytes: open.Other - idle.Other, Goroutines: open.Goroutines - idle.Goroutines,
		EnvoyCPU: share(before.envoy, after.envoy), OtherCPU: share(before.other, after.other),
	}}, nil
}
