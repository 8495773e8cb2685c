package main

import (
	"context"
	"fmt"
	"time"

	"github.com/weir-dev/weir/test/sim"
)

// workload is what came of the requests with repeats, by one way of caching.
type workload struct {
	Way       string  `json:"way"`
	Hits      float64 `json:"hits"`       // share that was answered without the provider
	Ideal     float64 `json:"ideal_hits"` // if each prompt were bought once
	Upstream  int     `json:"upstream_requests"`
	Tokens    int     `json:"billed_tokens"`
	Cost      string  `json:"ledger_cost"`
	Entries   int     `json:"ledger_entries"`
	PerSecond float64 `json:"requests_per_second"`
	Hit       latency `json:"hit"`
	Shared    latency `json:"shared"` // that waited for what another was buying
	Miss      latency `json:"miss"`
}

// served says whether an answer was served without buying it.
func served(a answer) bool { return a.cache == "hit" || a.cache == "stale" || a.cache == "shared" }

// workloads asks the same prompts by each way, one after the other.
func (s *stack) workloads(ctx context.Context, o *options, r *report, tell func(string, ...any)) error {
	order := zipf(o.requests, o.prompts, o.exponent)
	ideal := 1 - float64(distinct(order))/float64(len(order))
	for _, w := range []way{wayOff, wayMemory, wayRedis, wayBoth, wayBehind, wayAside} {
		tell("%d requests, caching: %s", o.requests, w.Name)
		s.sim.Reset()
		began := time.Now()
		list, err := s.all(ctx, o.callers, len(order), 200, func(i int) []byte {
			return body(w.Name, fmt.Sprintf("What is known about subject %d?", order[i]), false)
		})
		if err != nil {
			return fmt.Errorf("caching %s: %w", w.Name, err)
		}
		out := workload{Way: w.Name, Ideal: ideal, PerSecond: float64(len(list)) / time.Since(began).Seconds(),
			Hit:    latencyOf(list, func(a answer) bool { return served(a) && a.cache != "shared" }),
			Shared: latencyOf(list, func(a answer) bool { return a.cache == "shared" }),
			Miss:   latencyOf(list, func(a answer) bool { return !served(a) })}
		out.Hits = float64(out.Hit.N+out.Shared.N) / float64(len(list))
		out.Upstream, out.Tokens = bought(s.sim.Stats())
		if bought, missed := out.Upstream, out.Miss.N; bought != missed {
			return fmt.Errorf("caching %s: the provider served %d requests, and %d of the answers say that they were bought", w.Name, bought, missed)
		}
		r.Workloads = append(r.Workloads, out)
	}
	return s.enter(ctx, r, o.requests)
}

// bought is what a provider has served: requests, and their tokens.
func bought(st sim.Stats) (requests, tokens int) {
	for _, t := range st.Models {
		requests += t.Requests
		tokens += t.Input + t.Output
	}
	return requests, tokens
}

// enter compares with the ledger, which must have an entry for each request.
func (s *stack) enter(ctx context.Context, r *report, requests int) error {
	deadline := time.Now().Add(10 * time.Second) // it is written a moment after the last answer
	for {
		by, err := s.ledger(ctx)
		if err != nil {
			return err
		}
		missing := ""
		for i := range r.Workloads {
			w := &r.Workloads[i]
			w.Entries, w.Cost = by[w.Way].Requests, by[w.Way].Cost+" "+by[w.Way].Currency
			if w.Entries != requests {
				missing = fmt.Sprintf("caching %s: the ledger has %d entries of %d requests", w.Way, w.Entries, requests)
			}
		}
		if missing == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s", missing)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}
