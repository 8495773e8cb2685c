package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/weir-dev/weir/test/sim"
)

// stampede is what came of many equal requests at once.
type stampede struct {
	Kind     string  `json:"kind"`
	Requests int     `json:"requests"`
	Upstream int     `json:"upstream_requests"`
	Bought   int     `json:"said_miss"`
	Served   int     `json:"said_served"`
	Took     latency `json:"took"`
}

// stampedes sends many equal requests at once: plain ones, streams, and streams whose first caller goes away in the middle.
func (s *stack) stampedes(ctx context.Context, o *options, r *report, tell func(string, ...any)) error {
	// Slow enough for all to come before it ends.
	slow := sim.Faults{TTFT: sim.Duration(1500 * time.Millisecond), IntervalMin: sim.Duration(20 * time.Millisecond), IntervalMax: sim.Duration(40 * time.Millisecond)}
	if err := s.sim.SetFaults(slow); err != nil {
		return err
	}
	defer func() { _ = s.sim.SetFaults(pace) }() // it was taken before
	for _, w := range []way{wayMemory, wayRedis} {
		for _, k := range []struct {
			kind   string
			stream bool
			leaves bool
		}{{"plain", false, false}, {"streams", true, false}, {"streams, and the first caller leaves", true, true}} {
			kind := w.Name + ": " + k.kind
			tell("%d equal requests at once, %s", o.stampede, kind)
			s.sim.Reset()
			out, err := s.rush(ctx, o.stampede, body(w.Name, "A rush of "+kind, k.stream), k.leaves)
			if err != nil {
				return fmt.Errorf("stampede, %s: %w", kind, err)
			}
			out.Kind = kind
			out.Upstream, _ = bought(s.sim.Stats())
			r.Stampedes = append(r.Stampedes, out)
			if out.Upstream != 1 {
				return fmt.Errorf("stampede, %s: the provider got %d requests instead of one", kind, out.Upstream)
			}
		}
	}
	return nil
}

// rush sends n equal requests at once. All answers must be the same.
func (s *stack) rush(ctx context.Context, n int, request []byte, leaves bool) (stampede, error) {
	c := s.client(n)
	defer c.CloseIdleConnections()
	first, leave := context.WithCancel(ctx)
	defer leave()
	var begun sync.WaitGroup
	if leaves {
		begun.Go(func() { _, _ = s.ask(first, c, request, 200) }) // it is cut
		for s.sim.Stats().Running == 0 && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
	}
	list, errs := make([]answer, n), make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() { list[i], errs[i] = s.ask(ctx, c, request, 200) })
	}
	if leaves {
		time.Sleep(time.Second) // the others are there, and the answer has not begun
		leave()
	}
	group.Wait()
	begun.Wait()
	if err := errors.Join(errs...); err != nil {
		return stampede{}, err
	}
	out := stampede{Requests: n, Took: latencyOf(list, func(answer) bool { return true })}
	for i := range list {
		if !bytes.Equal(list[i].body, list[0].body) {
			return out, fmt.Errorf("two equal requests got different answers: %.200s and %.200s", list[0].body, list[i].body)
		}
		if served(list[i]) {
			out.Served++
		} else {
			out.Bought++
		}
	}
	return out, nil
}
