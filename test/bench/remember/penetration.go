package main

import (
	"context"
	"fmt"
	"time"

	"github.com/weir-dev/weir/test/sim"
)

// penetration is what came of requests for what was never cached.
type penetration struct {
	Way        string  `json:"way"`
	Requests   int     `json:"requests"`
	Cached     int     `json:"cached_answers"` // that Redis held meanwhile
	Gets       int     `json:"redis_gets"`
	Share      float64 `json:"gets_per_request"`
	Configured float64 `json:"false_positive_rate_configured,omitempty"`
	Again      int     `json:"hits_afterwards"` // of the cached answers: a filter that forgets would lose some
	PerSecond  float64 `json:"requests_per_second"`
}

// cachedKeys is how many answers are in Redis while others are asked for: as many as the filter is made for.
const cachedKeys = 5_000

// penetrations fills Redis, and then asks for what the provider refuses, so that it is never cached, with the filter and without.
func (s *stack) penetrations(ctx context.Context, o *options, r *report, tell func(string, ...any)) error {
	for _, w := range []way{wayAsking, wayBloom} {
		known := func(i int) []byte { return body(w.Name, fmt.Sprintf("A known question, number %d", i), false) }
		tell("%d answers are cached, %s", cachedKeys, w.Name)
		if _, err := s.all(ctx, o.callers, cachedKeys, 200, known); err != nil {
			return fmt.Errorf("%s: %w", w.Name, err)
		}
		tell("%d requests that are never cached, %s", o.unknown, w.Name)
		if err := s.sim.SetFaults(sim.Faults{Rules: []sim.Rule{{Kind: sim.Status, Status: 400}}}); err != nil {
			return err
		}
		before, err := s.gets(ctx)
		if err != nil {
			return err
		}
		began := time.Now()
		if _, err := s.all(ctx, o.callers, o.unknown, 400, func(i int) []byte { return body(w.Name, fmt.Sprintf("An unknown question, number %d", i), false) }); err != nil {
			return fmt.Errorf("%s: %w", w.Name, err)
		}
		took := time.Since(began)
		after, err := s.gets(ctx)
		if err != nil {
			return err
		}
		if err := s.sim.SetFaults(pace); err != nil {
			return err
		}
		again, err := s.all(ctx, o.callers, cachedKeys, 200, known)
		if err != nil {
			return fmt.Errorf("%s: %w", w.Name, err)
		}
		p := penetration{Way: w.Name, Requests: o.unknown, Cached: cachedKeys, Gets: after - before,
			Share: float64(after-before) / float64(o.unknown), PerSecond: float64(o.unknown) / took.Seconds(), Again: latencyOf(again, served).N}
		if w == wayBloom {
			p.Configured = falsePositiveRate
		}
		r.Penetrations = append(r.Penetrations, p)
	}
	return nil
}
