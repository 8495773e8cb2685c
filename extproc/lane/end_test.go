//go:build linux || darwin

package lane

import (
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestRevoke(t *testing.T) {
	r := newRig(t)
	a, b := newDesk(100), newDesk(100)
	la, lb := r.offer(t, "a", a), r.offer(t, "b", b)
	ids := la.times(t, 3)
	lb.times(t, 1)
	equal(t, "gave back", r.set.Revoke(), 5+7)
	equalIDs(t, a, ids) // those used are begun, though Run has not looked
	a.want(t, 0, 3, 5)
	b.want(t, 0, 1, 7)
	equal(t, "Returned", r.set.Returned(), uint64(12))
	equal(t, "Ahead", r.set.Ahead(), 0)
	equal(t, "Live", r.set.Live(), 0)
	equal(t, "weir_lane_revocations_total", r.metric(t, "weir_lane_revocations_total"), "limit=2")
	for _, l := range []*lua{la, lb} {
		if id, _ := l.use(); id != "" {
			t.Errorf("still good for %s", id)
		}
	}
	equal(t, "again", r.set.Revoke(), 0)
	r.add(999 * time.Millisecond)
	if _, ok := r.set.Offer("a", a.maker, time.Time{}); ok {
		t.Error("a lane begins too early")
	}
	// Whoever is refused with no lanes keeps them away as well.
	equal(t, "without lanes", r.set.Revoke(), 0)
	r.add(999 * time.Millisecond)
	if _, ok := r.set.Offer("a", a.maker, time.Time{}); ok {
		t.Error("a lane begins too early")
	}
	r.add(time.Millisecond)
	r.offer(t, "a", a)
}

// The others wait for the one that works: what they came for is given back when they return.
func TestRevokeBySeveral(t *testing.T) {
	r := newRig(t)
	var desks []*desk
	for i := range 20 {
		d := newDesk(100)
		desks = append(desks, d)
		r.offer(t, strings.Repeat("k", i+1), d)
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	sum, worked := 0, 0
	for range 16 {
		wg.Go(func() {
			n := r.set.Revoke()
			for _, d := range desks {
				d.want(t, 0, 0, 8)
			}
			equal(t, "Returned", r.set.Returned(), uint64(160))
			mu.Lock()
			defer mu.Unlock()
			sum += n
			if n > 0 {
				worked++
			}
		})
	}
	wg.Wait()
	equal(t, "gave back", sum, 160)
	equal(t, "who worked", worked, 1)
}

// However long it takes, no lane begins before Revoke has returned, and for a second after.
func TestRevokeTakesLong(t *testing.T) {
	r := newRig(t)
	a, b := newDesk(100), newDesk(100)
	r.offer(t, "a", a)
	a.onCancel = func() {
		r.add(2 * quiet)
		if _, ok := r.set.Offer("b", b.maker, time.Time{}); ok {
			t.Error("a lane begins meanwhile")
		}
	}
	equal(t, "gave back", r.set.Revoke(), 8)
	r.add(quiet - 1)
	if _, ok := r.set.Offer("b", b.maker, time.Time{}); ok {
		t.Error("a lane begins too early")
	}
	r.add(1)
	r.offer(t, "b", b)
}

// Whether a lane or Revoke is first: none is there afterwards.
func TestRevokeAndOfferAtOnce(t *testing.T) {
	r := newRig(t)
	d := newDesk(100)
	for i := range 2000 {
		var wg sync.WaitGroup
		var ready, turns atomic.Int32
		meet := func() {
			for ready.Add(1); ready.Load() < 2; {
				runtime.Gosched()
			}
		}
		wg.Go(func() {
			meet()
			for range i % 1000 { // one a little later than the other
				turns.Add(1)
			}
			r.set.Revoke()
		})
		wg.Go(func() { meet(); r.set.Offer("a", d.maker, time.Time{}) })
		wg.Wait()
		equal(t, "Ahead", r.set.Ahead(), 0)
		equal(t, "Live", r.set.Live(), 0)
		r.add(slotRest)
	}
}

// A lane that is being made while all end does not outlive them.
func TestALaneThatIsBeingMadeEndsToo(t *testing.T) {
	for name, end := range map[string]func(*Set) int{
		"Revoke": (*Set).Revoke,
		"Renew":  func(s *Set) int { s.Renew(); return 8 },
		"Lost":   func(s *Set) int { s.Lost(); return 8 },
		"Close":  func(s *Set) int { s.Close(); return 8 },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			d := newDesk(100)
			asked, ended := make(chan struct{}), make(chan int, 1)
			var once sync.Once
			d.onAdmit = func() {
				once.Do(func() {
					go func() {
						close(asked)
						ended <- end(r.set)
					}()
					<-asked
				})
			}
			// It ends before there is one, so that nothing is left of it, or after.
			ticket, ok := r.set.Offer("a", d.maker, time.Time{})
			if !ok {
				t.Fatal("it did not begin, though it was asked for before")
			}
			if got := <-ended; got != 8 && got != 0 {
				t.Errorf("gave back %d", got)
			}
			if name == "Close" {
				d.want(t, 0, 0, 8)
				return
			}
			// end may have looked before the lane was known only if it came before m: it did not.
			if id, _ := newLua(t, r.mem, ticket).use(); id != "" {
				t.Errorf("good for %s", id)
			}
			d.want(t, 0, 0, 8)
		})
	}
}

// What decided changes while a lane is being made: either the function that makes it sees the change, or Renew sees the lane.
func TestRenewLeavesNothingOld(t *testing.T) {
	r := newRig(t)
	for range 200 {
		var version sync.Map
		version.Store("v", 1)
		d := newDesk(100)
		var wg sync.WaitGroup
		wg.Go(func() {
			version.Store("v", 2)
			r.set.Renew()
		})
		r.set.Offer("a", func() Maker {
			if v, _ := version.Load("v"); v == 2 {
				return nil
			}
			return d
		}, time.Time{})
		wg.Wait()
		equal(t, "Live", r.set.Live(), 0)
		if open, _, _ := d.counts(t); open != 0 {
			t.Fatalf("%d claims are open", open)
		}
	}
}

func TestRenew(t *testing.T) {
	r := newRig(t)
	d := newDesk(100)
	l := r.offer(t, "a", d)
	ids := l.times(t, 2)
	r.set.Renew()
	equalIDs(t, d, ids)
	d.want(t, 0, 2, 6)
	equal(t, "weir_lane_revocations_total", r.metric(t, "weir_lane_revocations_total"), "version=1")
	if next := r.offer(t, "a", d); next.slot == l.slot {
		t.Error("the same slot")
	}
}

func TestLost(t *testing.T) {
	r := newRig(t)
	d := newDesk(100)
	l := r.offer(t, "a", d)
	ids := l.times(t, 2)
	r.look()
	late := l.times(t, 3)
	r.set.Lost()
	equalIDs(t, d, append(ids, late...))
	d.want(t, 0, 5, 5) // 2 were let in anew at the look
	for _, id := range append(ids, late...) {
		equal(t, "Begun "+id, r.set.Begun(id), true)
	}
	equal(t, "weir_lane_void_total", r.metric(t, "weir_lane_void_total"), "0")
	equal(t, "weir_lane_revocations_total", r.metric(t, "weir_lane_revocations_total"), "envoy=1")
	r.offer(t, "a", d)
}

func TestBegun(t *testing.T) {
	r := newRig(t)
	d := newDesk(100)
	l := r.offer(t, "a", d)
	ids := l.times(t, 2)
	// The record was faster than Run.
	equal(t, "Begun of the second", r.set.Begun(ids[1]), true)
	equalIDs(t, d, ids)
	equal(t, "Begun of the first", r.set.Begun(ids[0]), true)
	equal(t, "Begun of one that was not used", r.set.Begun(l.prefix+"3"), false)
	equal(t, "Begun of one that was not let in", r.set.Begun(l.prefix+"9"), false)
	r.look()
	equalIDs(t, d, ids)
	// What Begun saw counts as use.
	equal(t, "granted", l.granted(), 2+8)
	r.set.Renew()
	equal(t, "Begun of the first, after the end", r.set.Begun(ids[0]), true)
	equal(t, "Begun of one that was cancelled", r.set.Begun(l.prefix+"3"), false)
}

func TestIDsOfOthers(t *testing.T) {
	r := newRig(t)
	d := newDesk(100)
	l := r.offer(t, "a", d)
	l.times(t, 8)
	r.look()
	for _, id := range []string{
		"", "w", "w-L", "w-L0", "w-L0.", "w-L0.11", "w-L0.11.", "w-L0.11.0", "w-L0.11.01", "w-L0.11.+1", "w-L0.11.-1", "w-L0.11.1 ",
		"w-L0.11.1.", "w-L00.11.1", "w-L0.011.1", "w-L.11.1", "w-L0.12.1", "w-L1.11.1", "w-L0.11.4294967297", "w-L0.11.99999999999999999999",
		"w-L35r.11.1", "w-L35s.11.1", "w-Lzzzzzzzzzzzzzzzzz.11.1", "w-LA.11.1", "v-L0.11.1", "w-1f", "w-L0.11.1\x00", "w-L0:11.1", "w-L0.11.4294967296",
	} {
		equal(t, "Begun "+id, r.set.Begun(id), false)
		equal(t, "Void "+id, r.set.Void(id), false)
		r.set.Fail(id)
	}
	equal(t, "Live", r.set.Live(), 1)
	equal(t, "weir_lane_void_total", r.metric(t, "weir_lane_void_total"), "0")
	equal(t, "Begun w-L0.11.1", r.set.Begun("w-L0.11.1"), true)
}

func TestVoid(t *testing.T) {
	t.Run("before it was cancelled", func(t *testing.T) {
		// The lane is stopped, and Run has not come to its end: the Lua has counted, and seen that it may not.
		r := newRig(t)
		d := newDesk(8)
		l := r.offer(t, "a", d)
		ids := l.times(t, 1)
		l.yield = func() { l.yield = func() {}; r.set.Fail(ids[0]) }
		id, void := l.use()
		equal(t, "void", void, true)
		equal(t, "begun", r.set.Void(id), false)
		equalIDs(t, d, ids)
		d.want(t, 6, 1, 1)
		r.look()
		equalIDs(t, d, ids)
		d.want(t, 0, 1, 7)
		equal(t, "Begun", r.set.Begun(id), false)
	})
	t.Run("after it was cancelled", func(t *testing.T) {
		r := newRig(t)
		d := newDesk(8)
		l := r.offer(t, "a", d)
		ids := l.times(t, 1)
		l.yield = func() { l.yield = func() {}; r.set.Revoke() }
		id, void := l.use()
		equal(t, "void", void, true)
		d.want(t, 0, 1, 7)
		equal(t, "begun", r.set.Void(id), false)
		d.want(t, 0, 1, 7)
		equalIDs(t, d, ids)
		equal(t, "Begun", r.set.Begun(id), false)
	})
	t.Run("after it had begun", func(t *testing.T) {
		// The Lua is stopped for long between counting and looking again.
		r := newRig(t)
		d := newDesk(8)
		l := r.offer(t, "a", d)
		steps := 0
		l.yield = func() {
			if steps++; steps == 2 {
				r.set.Revoke()
			}
		}
		id, void := l.use()
		equal(t, "void", void, true)
		equalIDs(t, d, []string{id})
		equal(t, "begun", r.set.Void(id), true)
		equal(t, "begun, told once", r.set.Void(id), false)
		d.want(t, 0, 1, 7)
		equal(t, "Begun", r.set.Begun(id), false)
		equal(t, "weir_lane_void_total", r.metric(t, "weir_lane_void_total"), "1")
	})
	t.Run("the Lua has failed", func(t *testing.T) {
		// Others come after it, and the news of one overtakes those of another.
		r := newRig(t)
		d := newDesk(8)
		l := r.offer(t, "a", d)
		ids := l.times(t, 4)
		equal(t, "begun", r.set.Void(ids[2]), false)
		equal(t, "begun", r.set.Void(ids[0]), true) // the look at the third found it
		equalIDs(t, d, []string{ids[0], ids[1], ids[3]})
		d.want(t, 4, 3, 1)
		for i, want := range []bool{false, true, false, true} {
			equal(t, "Begun "+ids[i], r.set.Begun(ids[i]), want)
		}
		equal(t, "Live", r.set.Live(), 1)
		equal(t, "Ahead", r.set.Ahead(), 4)
	})
}

func TestFail(t *testing.T) {
	r := newRig(t)
	a, b := newDesk(100), newDesk(100)
	la, lb := r.offer(t, "a", a), r.offer(t, "b", b)
	ids := la.times(t, 2)
	r.set.Fail(ids[0])
	r.set.Fail(ids[1])
	if id, _ := la.use(); id != "" {
		t.Errorf("still good for %s", id)
	}
	lb.times(t, 1)
	// It may begin anew at once.
	next := r.offer(t, "a", a)
	r.look()
	equal(t, "Live", r.set.Live(), 2)
	if next.granted() == 0 || lb.granted() == 0 {
		t.Error("another lane has ended")
	}
	a.want(t, 8, 2, 6)
	equal(t, "weir_lane_revocations_total", r.metric(t, "weir_lane_revocations_total"), "failure=1")
	r.set.Fail(ids[0]) // it is over
	equal(t, "Live", r.set.Live(), 2)
}

// A nil Set has no lanes.
func TestNil(t *testing.T) {
	var s *Set
	if ticket, ok := s.Offer("a", newDesk(8).maker, time.Time{}); ok || ticket != "" {
		t.Errorf("%q", ticket)
	}
	s.Run(t.Context())
	s.Renew()
	s.Lost()
	s.Fail("w-L0.11.1")
	if s.Revoke() != 0 || s.Ahead() != 0 || s.Live() != 0 || s.Returned() != 0 || s.Begun("w-L0.11.1") || s.Void("w-L0.11.1") {
		t.Error("it has lanes")
	}
	s.Close()
}
