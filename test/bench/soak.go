package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// soak is what many streams at once took, for a long time.
type soak struct {
	Variant string `json:"variant"`
	AtOnce  int    `json:"streamsAtOnce"`
	Pace    pace   `json:"pace"`
	sample
	Looks []look `json:"looks"` // as often as there are sixtieths of the time
}

// look is one at the gateway's memory.
type look struct {
	Seconds float64 `json:"seconds"` // from the start
	memory
}

// soakPace makes streams of ten seconds.
var soakPace = pace{250, 40 * time.Millisecond}

// soakLooks is into how many parts the time is divided.
const soakLooks = 60

// runSoak has so many streams open all the time, for as long as it is told to.
func (f *fleet) runSoak(ctx context.Context, v variant, streams int, p pace, d time.Duration, progress func(string, ...any)) (*soak, error) {
	g := f.gateway(v.process)
	j := f.job(g, traffic{Model: v.model, Bytes: small, Stream: true, Pace: p, Translated: v.translated}, streams)
	j.Measure = d
	s := &soak{Variant: v.name, AtOnce: streams, Pace: p}
	talk := f.talk(ctx)
	if _, err := talk(j); err != nil {
		return nil, fmt.Errorf("variant %s: %w", v.name, errors.Join(err, f.ended()))
	}
	before, err := f.read(ctx, g)
	if err != nil {
		return nil, err
	}
	watched := make(chan error, 1)
	ended, end := context.WithCancel(ctx)
	defer end()
	go func() { watched <- s.watch(ctx, ended.Done(), g, d, progress) }()
	r, err := talk("go")
	end()
	if err := errors.Join(err, <-watched); err != nil {
		return nil, fmt.Errorf("variant %s: %w", v.name, errors.Join(err, f.ended()))
	}
	after, err := f.read(ctx, g)
	if err != nil {
		return nil, err
	}
	m, err := newSample(r.Result, before, after)
	if err != nil {
		return nil, err
	}
	s.sample = *m
	return s, nil
}

// watch looks at the gateway's memory at the start, and until ended is closed.
func (s *soak) watch(ctx context.Context, ended <-chan struct{}, g *gateway, d time.Duration, progress func(string, ...any)) error {
	start := time.Now()
	tick := time.NewTicker(max(d/soakLooks, time.Millisecond))
	defer tick.Stop()
	for {
		m, err := g.memory(ctx)
		if err != nil {
			return err
		}
		l := look{time.Since(start).Seconds(), m}
		s.Looks = append(s.Looks, l)
		if n := len(s.Looks) - 1; n%(soakLooks/10) == 0 {
			progress("%4.0f s: Envoy %.0f MB, other %.0f MB, %d goroutines", l.Seconds, mega(l.Envoy), mega(l.Other), l.Goroutines)
		}
		select {
		case <-tick.C:
		case <-ended:
			return nil
		}
	}
}

// table writes it for people.
func (s *soak) table(w io.Writer) error {
	looks := []look{s.Looks[0], s.Looks[len(s.Looks)/2], s.Looks[len(s.Looks)-1]}
	_, err := fmt.Fprintf(w, `%d streams at once through %s, of %d tokens %v apart, for %.0f s
  streams          %d, all whole
  largest gap      %.0f ms between two events of a stream
  TTFT             %.2f ms p50, %.2f ms p99
  event            %.2f ms p50, %.2f ms p99, from the upstream to the caller
  CPU              %.2f cores Envoy, %.2f cores other
  load average     %.1f; others had %.0f%% of the machine
`, s.AtOnce, s.Variant, s.Pace.Tokens, s.Pace.Every, s.Elapsed.Seconds(), s.Requests, s.LongestGap, s.FirstByte.P50/1000, s.FirstByte.P99/1000,
		s.Chunk.P50/1000, s.Chunk.P99/1000, s.cores(s.CPU.Envoy), s.cores(s.CPU.Other), s.LoadAverage, 100*s.Others)
	for i, name := range []string{"at the start", "in the middle", "at the end"} {
		l := looks[i]
		_, e := fmt.Fprintf(w, "  %-16s Envoy %.0f MB, other %.0f MB, %d goroutines\n", name, mega(l.Envoy), mega(l.Other), l.Goroutines)
		err = errors.Join(err, e)
	}
	most := slices.MaxFunc(s.Looks, func(a, b look) int { return int(a.Envoy + a.Other - b.Envoy - b.Other) })
	_, e := fmt.Fprintf(w, "  at most          Envoy %.0f MB, other %.0f MB, after %.0f s\n", mega(most.Envoy), mega(most.Other), most.Seconds)
	return errors.Join(err, e)
}

// cores are how many a use of CPU time for each request keeps busy.
func (s *soak) cores(micros float64) float64 { return micros * s.PerSecond / 1e6 }
