package shared_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/limit/shared"
	"github.com/weir-dev/weir/test/redistest"
)

// TestMoveThroughAnotherConnection: the same Redis, reached in another way. Nothing is forgotten, and nothing is restored.
func TestMoveThroughAnotherConnection(t *testing.T) {
	s := redistest.Start(t)
	a, b := remote(t, open(t, s.Addr), "a"), remote(t, open(t, s.Addr), "b")
	beat(t, a, b)
	n, c := concurrent(10), budget(100)
	grants(t, a, n, 4, 4)
	grants(t, a, c, 30, 30)
	if err := a.Move(open(t, s.Addr), "test"); err != nil {
		t.Fatal(err)
	}
	grants(t, a, n, 1, 1)
	grants(t, a, c, 10, 10)
	beat(t, a)
	if a.State().Restoring {
		t.Error("nothing was lost")
	}
	grants(t, b, n, 6, 0)
	grants(t, b, n, 5, 5)
	grants(t, b, c, 61, 0)
	adjust(t, a, n, -5, time.Time{})
	grants(t, b, n, 5, 5)
}

// TestMoveToAnotherRedis: what each replica holds comes along, and is there when the replicas are done.
func TestMoveToAnotherRedis(t *testing.T) {
	for name, to := range map[string]struct {
		same   bool
		prefix string
	}{"another server": {false, "test"}, "another prefix": {true, "other"}} {
		t.Run(name, func(t *testing.T) {
			from := redistest.Start(t)
			target := from
			if !to.same {
				target = redistest.Start(t)
			}
			k := newClock()
			a, b := remote(t, open(t, from.Addr), "a", withClock(k)), remote(t, open(t, from.Addr), "b", withClock(k))
			beat(t, a, b)
			n, c := concurrent(10), budget(100)
			grants(t, a, n, 4, 4)
			grants(t, b, n, 3, 3)
			grants(t, a, c, 30, 30)
			grants(t, b, c, 20, 20)
			for _, r := range []*shared.Remote{a, b} {
				if err := r.Move(open(t, target.Addr), to.prefix); err != nil {
					t.Fatal(err)
				}
			}
			beat(t, a, b)
			if _, err := a.Acquire(context.Background(), c, 1, 1); !errors.Is(err, shared.ErrRestoring) {
				t.Errorf("the others may not have written theirs yet: %v", err)
			}
			k.add(time.Minute)
			beat(t, a, b)
			grants(t, a, n, 4, 0)
			grants(t, a, n, 3, 3)
			grants(t, b, c, 51, 0)
			grants(t, b, c, 50, 50)
			adjust(t, b, n, -3, time.Time{})
			grants(t, a, n, 3, 3)
		})
	}
}

// TestMoveBeforeTheFirstBeat: nobody knows yet that the data are other ones, and what is held is written there all the same.
func TestMoveBeforeTheFirstBeat(t *testing.T) {
	from, to := redistest.Start(t), redistest.Start(t)
	a, b := remote(t, open(t, from.Addr), "a"), remote(t, open(t, to.Addr), "b")
	grants(t, a, concurrent(10), 4, 4)
	grants(t, a, budget(100), 30, 30)
	if err := a.Move(open(t, to.Addr), "test"); err != nil {
		t.Fatal(err)
	}
	beat(t, a)
	grants(t, b, concurrent(10), 7, 0)
	grants(t, b, concurrent(10), 6, 6)
	grants(t, b, budget(100), 71, 0)
}

// TestMoveWhileCounting moves again and again under load: every unit that was granted and not returned is held in the end.
func TestMoveWhileCounting(t *testing.T) {
	s := redistest.Start(t)
	r := remote(t, open(t, s.Addr), "a")
	n := concurrent(1000)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				if a, err := r.Acquire(context.Background(), n, 2, 2); err != nil || a.Granted != 2 {
					t.Errorf("%+v, %v", a, err)
					return
				}
				if err := r.Adjust(context.Background(), n, -1, time.Time{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 20 {
		if err := r.Move(open(t, s.Addr), "test"); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	beat(t, r)
	if a := grants(t, remote(t, open(t, s.Addr), "b"), n, 800, 800); a.Remaining != 0 {
		t.Errorf("%d are left of 1000 when 200 are held and 800 were taken", a.Remaining)
	}
}

func TestMoveNowhere(t *testing.T) {
	s, r := single(t)
	for _, prefix := range []string{"", "a{b}"} {
		if err := r.Move(open(t, s.Addr), prefix); err == nil {
			t.Errorf("prefix %q was taken", prefix)
		}
	}
	if err := r.Move(nil, "test"); err == nil {
		t.Error("no connection was taken")
	}
	grants(t, r, limit.Counter{Rule: window(1, time.Hour).Rule, Key: "w"}, 1, 1)
}
