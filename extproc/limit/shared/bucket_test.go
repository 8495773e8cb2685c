package shared_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/test/redistest"
)

func TestBucketGrantsItsBurst(t *testing.T) {
	_, r := single(t)
	c := bucket(60, 100, time.Hour)
	if a := grants(t, r, c, 90, 90); a.Remaining != 10 || a.Reset <= 85*time.Minute || a.Reset > 90*time.Minute {
		t.Errorf("90 of 100: %+v", a)
	}
	if a := grants(t, r, c, 40, 0); a.RetryAfter <= 25*time.Minute || a.RetryAfter > 30*time.Minute {
		t.Errorf("40 of the remaining 10, at one per minute: %+v", a)
	}
	if a := acquire(t, r, c, 1, 100); a.Granted != 5 {
		t.Errorf("half of the remaining 10 is %d", a.Granted)
	}
}

func TestBucketAdjust(t *testing.T) {
	_, r := single(t)
	c := bucket(1, 0, 24*time.Hour) // no burst said: it holds the limit
	grants(t, r, c, 2, 0)
	c = bucket(100, 0, 23*time.Hour)
	a := grants(t, r, c, 100, 100)
	adjust(t, r, c, -40, a.At)
	grants(t, r, c, 40, 40)
	adjust(t, r, c, 30, a.At)
	if a := grants(t, r, c, 1, 0); a.Remaining != -30 {
		t.Errorf("after a debt: %+v", a)
	}
	adjust(t, r, c, -1000, a.At)
	if a := grants(t, r, c, 1, 1); a.Remaining != 99 {
		t.Errorf("a bucket was filled beyond its burst: %+v", a)
	}
}

// TestBucketNeverExceedsItsRate checks every stretch of a run with several replicas, by the clock of the store.
func TestBucketNeverExceedsItsRate(t *testing.T) {
	s := redistest.Start(t)
	const rate, burst, length = 700, 50, time.Second
	c := bucket(rate, burst, length)
	type taken struct {
		at time.Time
		n  int64
	}
	var mu sync.Mutex
	var all []taken
	var total atomic.Int64
	late := time.Now().Add(patience)
	var wg sync.WaitGroup
	for worker := range 4 {
		r := remote(t, open(t, s.Addr), string(rune('a'+worker)))
		rnd := rand.New(rand.NewPCG(uint64(worker), 2))
		wg.Go(func() {
			var begin time.Time
			for {
				least := 1 + rnd.Int64N(5)
				a, err := r.Acquire(context.Background(), c, least, least+rnd.Int64N(20))
				if err != nil {
					t.Error(err)
					return
				}
				if begin.IsZero() {
					begin = a.At
				} else if a.At.Sub(begin) > length/4 && (total.Load() > burst || time.Now().After(late)) {
					return
				}
				if a.Granted > 0 {
					total.Add(a.Granted)
					mu.Lock()
					all = append(all, taken{a.At, a.Granted})
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	slices.SortFunc(all, func(a, b taken) int { return a.at.Compare(b.at) })
	for i, first := range all {
		var sum int64
		for _, last := range all[i:] {
			sum += last.n
			if allowed := burst + rate*last.at.Sub(first.at).Seconds(); float64(sum) > allowed {
				t.Fatalf("%d units in %v, where %.3f are allowed", sum, last.at.Sub(first.at), allowed)
			}
		}
	}
	if total.Load() <= burst {
		t.Errorf("%d units in all: the bucket was not filled again", total.Load())
	}
}

func TestBucketFills(t *testing.T) {
	_, r := single(t)
	c := bucket(1000, 10, time.Second)
	first := grants(t, r, c, 10, 10)
	var again limit.Acquired
	until(t, "the bucket is full again", func() bool { again = acquire(t, r, c, 10, 10); return again.Granted == 10 })
	if d := again.At.Sub(first.At); d < 10*time.Millisecond {
		t.Errorf("10 units came back within %v at 1000 a second", d)
	}
}
