package heap

import (
	"context"
	"math"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
	"time"
)

func TestPercent(t *testing.T) {
	const mb = 1 << 20
	for _, c := range []struct {
		live, floor uint64
		want        int
	}{
		{20 * mb, 120 * mb, 500}, {60 * mb, 120 * mb, 100}, {61 * mb, 120 * mb, 100}, {120 * mb, 120 * mb, 100}, {500 * mb, 120 * mb, 100},
		{mb, 120 * mb, 1000}, {0, 120 * mb, 1000}, {0, 0, 100}, {40 * mb, 120 * mb, 200}, {math.MaxUint64, mb, 100},
	} {
		if got := percent(c.live, c.floor); got != c.want {
			t.Errorf("%d of %d: %d%%, want %d%%", c.live, c.floor, got, c.want)
		}
	}
}

// TestKeep: a heap that grows is followed, small changes are not, and what was set is taken back.
func TestKeep(t *testing.T) {
	lives := []uint64{10, 10, 11, 20, 80, 300, 20}
	ctx, cancel := context.WithCancel(t.Context())
	tick := make(chan time.Time)
	var set []int
	done := make(chan struct{})
	go func() {
		defer close(done)
		keep(ctx, 100, tick, func() uint64 {
			n := lives[0]
			lives = lives[1:]
			return n
		}, func(p int) int { set = append(set, p); return 0 })
	}()
	for range 6 {
		tick <- time.Time{}
	}
	cancel()
	<-done
	if want := []int{900, 809, 400, 100, 400, 100}; !slices.Equal(set, want) {
		t.Errorf("set %v, want %v", set, want)
	}
}

func TestKeepLeavesGOGC(t *testing.T) {
	t.Setenv("GOGC", "50")
	Keep(context.Background(), 1<<40) // returns, or the test never ends
}

// TestLive reads the real figure, and sets the real percentage.
func TestLive(t *testing.T) {
	runtime.GC()
	if n := live(); n < 1<<10 || n > 1<<32 {
		t.Errorf("%d bytes are live", n)
	}
	before := debug.SetGCPercent(least)
	defer debug.SetGCPercent(before)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	keep(ctx, 1<<50, nil, live, debug.SetGCPercent)
	if got := debug.SetGCPercent(least); got != least {
		t.Errorf("%d%% is left", got)
	}
}
