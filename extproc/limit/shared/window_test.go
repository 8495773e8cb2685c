package shared_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/test/redistest"
)

func TestWindowGrantsItsLimitOnce(t *testing.T) {
	_, r := single(t)
	c := window(100, time.Hour)
	a := grants(t, r, c, 60, 60)
	if a.Remaining != 40 || a.At.IsZero() || a.Reset <= 55*time.Minute || a.Reset > 65*time.Minute {
		t.Errorf("after 60 of 100: %+v", a)
	}
	if a := grants(t, r, c, 41, 0); a.Remaining != 40 || a.RetryAfter <= 55*time.Minute || a.RetryAfter > 65*time.Minute {
		t.Errorf("41 of the remaining 40: %+v", a)
	}
	grants(t, r, c, 40, 40)
	if a := grants(t, r, c, 1, 0); a.Remaining != 0 {
		t.Errorf("one of none: %+v", a)
	}
	grants(t, r, c, 200, 0) // more than the limit is never granted
}

func TestWindowGrantsWhatIsThere(t *testing.T) {
	_, r := single(t)
	c := window(100, time.Hour)
	// One replica may have half of what is left, or what it must have.
	for _, want := range []int64{50, 25, 12, 6, 3, 2, 1, 1} {
		if a := acquire(t, r, c, 1, 1000); a.Granted != want {
			t.Fatalf("granted %d, not %d", a.Granted, want)
		}
	}
	if a := acquire(t, r, c, 1, 1000); a.Granted != 0 {
		t.Fatalf("granted %d of nothing", a.Granted)
	}
	c = window(100, 2*time.Hour)
	if a := acquire(t, r, c, 80, 1000); a.Granted != 80 {
		t.Errorf("granted %d where at least 80 had to be", a.Granted)
	}
}

func TestWindowChangesItsLimitAtOnce(t *testing.T) {
	_, r := single(t)
	c := window(100, time.Hour)
	grants(t, r, c, 100, 100)
	more := window(150, time.Hour)
	if a := grants(t, r, more, 50, 50); a.Remaining != 0 {
		t.Errorf("%+v", a)
	}
	if a := grants(t, r, c, 1, 0); a.Remaining != -50 {
		t.Errorf("under the smaller limit again: %+v", a)
	}
}

func TestWindowAdjust(t *testing.T) {
	_, r := single(t)
	c := window(100, time.Hour)
	a := grants(t, r, c, 100, 100)
	adjust(t, r, c, -30, a.At)
	if a := grants(t, r, c, 30, 30); a.Remaining != 0 {
		t.Errorf("what came back cannot be had again: %+v", a)
	}
	adjust(t, r, c, 25, a.At) // a debt needs no room
	if a := grants(t, r, c, 1, 0); a.Remaining != -25 {
		t.Errorf("after a debt: %+v", a)
	}
	adjust(t, r, c, -1000, a.At) // nothing falls below 0
	if a := grants(t, r, c, 1, 1); a.Remaining != 99 {
		t.Errorf("after more came back than was out: %+v", a)
	}
	old := a.At.Add(-3 * time.Hour)
	adjust(t, r, c, 50, old)
	adjust(t, r, c, -50, old)
	if a := grants(t, r, c, 1, 1); a.Remaining != 98 {
		t.Errorf("what has left the window still counts: %+v", a)
	}
}

func TestWindowHoldsMoneyExactly(t *testing.T) {
	_, r := single(t)
	const billion = int64(1e18) // nano-units
	c := window(billion, time.Hour)
	// More than 2^52 are not granted at once, and what is granted is exact beyond 2^53.
	var sum int64
	for range 3 {
		sum += grants(t, r, c, 1<<52, 1<<52).Granted
	}
	adjust(t, r, c, billion-sum-1, time.Now())
	grants(t, r, c, 2, 0)
	if a := grants(t, r, c, 1, 1); a.Remaining != 0 {
		t.Errorf("%+v", a)
	}
	grants(t, r, c, 1, 0)
}

// TestWindowNeverHoldsMoreThanItsLimit checks every window of a run with several replicas, by the clock of the store.
func TestWindowNeverHoldsMoreThanItsLimit(t *testing.T) {
	s := redistest.Start(t)
	const most, length = 40, 60 * time.Millisecond
	c := window(most, length)
	type taken struct {
		at time.Time
		n  int64
	}
	var mu sync.Mutex
	var all []taken
	var total atomic.Int64
	end := time.Now().Add(patience)
	var wg sync.WaitGroup
	for worker := range 6 {
		r := remote(t, open(t, s.Addr), string(rune('a'+worker)))
		rnd := rand.New(rand.NewPCG(uint64(worker), 1))
		wg.Go(func() {
			var begin time.Time
			var late []taken
			for {
				least := 1 + rnd.Int64N(5)
				a, err := r.Acquire(context.Background(), c, least, least+rnd.Int64N(10))
				if err != nil {
					t.Error(err)
					return
				}
				if begin.IsZero() {
					begin = a.At
				} else if a.At.Sub(begin) > 6*length && (total.Load() > most || time.Now().After(end)) {
					return
				}
				// What was not used comes back some time later.
				for len(late) > 0 && a.At.Sub(late[0].at) > length/3 {
					if err := r.Adjust(context.Background(), c, -late[0].n, late[0].at); err != nil {
						t.Error(err)
						return
					}
					late = late[1:]
				}
				if a.Granted == 0 {
					continue
				}
				used := a.Granted
				if rnd.IntN(3) == 0 {
					back := 1 + rnd.Int64N(used)
					late = append(late, taken{a.At, back})
					used -= back
				}
				total.Add(used)
				mu.Lock()
				all = append(all, taken{a.At, used})
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for _, first := range all {
		var sum int64
		for _, x := range all {
			if !x.at.Before(first.at) && x.at.Before(first.at.Add(length)) {
				sum += x.n
			}
		}
		if sum > most {
			t.Fatalf("the window from %v held %d units", first.at, sum)
		}
	}
	if total.Load() <= most {
		t.Fatalf("%d units were granted in all: the window did not move on", total.Load())
	}
}

func TestWindowMovesOn(t *testing.T) {
	_, r := single(t)
	c := window(10, 50*time.Millisecond)
	first := grants(t, r, c, 10, 10)
	var again limit.Acquired
	until(t, "the window moves on", func() bool { again = acquire(t, r, c, 10, 10); return again.Granted == 10 })
	if d := again.At.Sub(first.At); d < 50*time.Millisecond {
		t.Errorf("granted the whole limit twice within %v", d)
	}
}
