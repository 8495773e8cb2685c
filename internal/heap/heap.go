// Package heap keeps the garbage collector from running over and over in a process that has little in memory and makes much garbage:
// Go collects whenever the heap has doubled, which with a few MB is many times a second under load.
package heap

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// The least and the most that the heap may grow between two collections, in percent. The least is Go's own.
const (
	least = 100
	most  = 1000
)

// every is how often the heap is looked at. One that grows quickly is collected late for so long.
const every = time.Second

// Keep lets the heap grow to floor, in bytes, before it is collected, until ctx ends. A heap of more than half of it is collected as ever,
// and so is one that nears GOMEMLIMIT. Where the environment sets GOGC, that stands and Keep does nothing.
func Keep(ctx context.Context, floor uint64) {
	if os.Getenv("GOGC") != "" {
		return
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	keep(ctx, floor, tick.C, live, debug.SetGCPercent)
}

func keep(ctx context.Context, floor uint64, tick <-chan time.Time, live func() uint64, set func(percent int) int) {
	current := least
	for {
		// Setting it stops the world for a moment.
		if p := percent(live(), floor); 10*max(p-current, current-p) > current {
			set(p)
			current = p
		}
		select {
		case <-ctx.Done():
			if current != least {
				set(least)
			}
			return
		case <-tick:
		}
	}
}

// percent is how much a heap of so many live bytes may grow to reach floor.
func percent(live, floor uint64) int {
	if live >= floor {
		return least
	}
	return int(min(most, max(least, 100*(floor-live)/max(live, 1))))
}

// live is what the last collection has left, in bytes; 0 before the first.
func live() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	if s[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return s[0].Value.Uint64()
}
