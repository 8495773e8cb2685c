//go:build linux || darwin

package lane

import (
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestALaneIsOfferedOnce(t *testing.T) {
	r := newRig(t)
	d := newDesk(100)
	ticket, ok := r.set.Offer("a", d.maker, time.Time{})
	if !ok || ticket != "0:37:w-L0.11." {
		t.Fatalf("%q, %v", ticket, ok)
	}
	d.want(t, 8, 0, 0)
	again, ok := r.set.Offer("a", func() Maker { t.Error("a maker was asked for"); return nil }, time.Time{})
	if !ok || again != ticket {
		t.Errorf("again: %q, %v", again, ok)
	}
	d.want(t, 8, 0, 0)
	other, ok := r.set.Offer("b", d.maker, time.Time{})
	if !ok || other != "1:38:w-L1.12." {
		t.Errorf("another: %q, %v", other, ok)
	}
	equal(t, "Live", r.set.Live(), 2)
	equal(t, "Ahead", r.set.Ahead(), 16)
	equal(t, "weir_lanes", r.metric(t, "weir_lanes"), "2")
	equal(t, "weir_lane_ahead", r.metric(t, "weir_lane_ahead"), "16")
}

// TestOneThatLastsLess: requests of another token share a lane, but not beyond their own time.
func TestOneThatLastsLess(t *testing.T) {
	r := newRig(t)
	d := newDesk(100)
	ticket, _ := r.set.Offer("a", d.maker, r.clock.from(4*time.Second))
	for _, c := range []struct {
		lasts time.Duration
		want  bool
	}{{3 * time.Second, false}, {4 * time.Second, true}, {time.Minute, true}} {
		got, ok := r.set.Offer("a", d.maker, r.clock.from(c.lasts))
		if ok != c.want || ok && got != ticket {
			t.Errorf("%v: %q, %v", c.lasts, got, ok)
		}
	}
}

func TestNoLaneWithoutAClaim(t *testing.T) {
	r := newRig(t)
	for name, m := range map[string]func() Maker{
		"limits leave nothing":      newDesk(0).maker,
		"what decided is not alive": func() Maker { return nil },
	} {
		if ticket, ok := r.set.Offer("a", m, time.Time{}); ok || ticket != "" {
			t.Errorf("%s: %q, %v", name, ticket, ok)
		}
	}
	d := newDesk(8)
	for name, until := range map[string]time.Time{"over": r.from(-time.Second), "over now": r.now()} {
		if ticket, ok := r.set.Offer("a", d.maker, until); ok {
			t.Errorf("%s: %q", name, ticket)
		}
	}
	d.want(t, 0, 0, 0)
	// Nothing was used up by that.
	if ticket, _ := r.set.Offer("a", d.maker, r.from(time.Second)); ticket != "0:37:w-L0.11." {
		t.Errorf("afterwards: %q", ticket)
	}
	equal(t, "lanes", len(r.set.lanes), 1)
}

func TestAFewAreEnoughForALane(t *testing.T) {
	r := newRig(t)
	d := newDesk(3)
	l := r.offer(t, "a", d)
	equal(t, "granted", l.granted(), 3)
	l.times(t, 3)
	if id, _ := l.use(); id != "" {
		t.Errorf("a fourth: %s", id)
	}
	r.look()
	d.want(t, 0, 3, 0)
}

func TestUsesBegin(t *testing.T) {
	r := newRig(t)
	d := newDesk(100)
	l := r.offer(t, "a", d)
	ids := l.times(t, 3)
	if want := []string{"w-L0.11.1", "w-L0.11.2", "w-L0.11.3"}; !slices.Equal(ids, want) {
		t.Fatalf("IDs %q, want %q", ids, want)
	}
	d.want(t, 8, 0, 0)
	r.look()
	equalIDs(t, d, ids)
	r.look()
	equalIDs(t, d, ids)
	equal(t, "weir_lane_requests_total", r.metric(t, "weir_lane_requests_total"), "3")
}

// What is kept ahead is twice what four looks have found, from 8 to 256.
func TestGrantsGrowWithUse(t *testing.T) {
	r := newRig(t)
	d := newDesk(100_000)
	l := r.offer(t, "a", d)
	used, used20 := 0, []int{0, 0, 0, 0}
	for i, n := range []int{0, 1, 4, 3, 2, 8, 16, 40, 100, 150, 200, 256, 256, 0, 0, 0, 0, 0, 250, 8} {
		before := l.granted() - used
		l.times(t, n)
		used += n
		used20 = append(used20[1:], n)
		r.look()
		sum := used20[0] + used20[1] + used20[2] + used20[3]
		want := max(min(max(2*sum, 8), 256), before-n)
		if got := l.granted() - used; got != want {
			t.Errorf("look %d, after %d uses, %d in 20 ms: %d ahead, want %d", i, n, sum, got, want)
		}
		equal(t, "Ahead", r.set.Ahead(), l.granted()-used)
	}
	d.want(t, l.granted()-used, used, 0)
}

func TestGrantsGrowAsFarAsLimitsLeave(t *testing.T) {
	r := newRig(t)
	d := newDesk(10)
	l := r.offer(t, "a", d)
	l.times(t, 8)
	r.look()
	equal(t, "granted", l.granted(), 10)
	l.times(t, 2)
	r.look()
	equal(t, "granted", l.granted(), 10)
	d.room = 1
	r.look()
	equal(t, "granted", l.granted(), 11)
}

func TestEnds(t *testing.T) {
	for _, c := range []struct {
		name   string
		until  time.Duration // 0: none
		busy   bool
		last   time.Duration // it is there then
		reason string
	}{
		{"nobody uses it", 0, false, 995 * time.Millisecond, "idle=1"},
		{"it is old", 0, true, 4995 * time.Millisecond, "expired=1"},
		{"what it was decided by ends", 2 * time.Second, true, 1995 * time.Millisecond, "expired=1"},
		{"what it was decided by ends later", time.Minute, true, 4995 * time.Millisecond, "expired=1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			d := newDesk(1 << 20)
			until := time.Time{}
			if c.until > 0 {
				until = r.from(c.until)
			}
			ticket, _ := r.set.Offer("a", d.maker, until)
			l := newLua(t, r.mem, ticket)
			uses := 0
			for at := time.Duration(0); at < c.last; at += lookEvery {
				if c.busy && at%(500*time.Millisecond) == 0 {
					l.times(t, 1)
					uses++
				}
				r.look()
			}
			if l.granted() == 0 {
				t.Fatal("it has ended too early")
			}
			equal(t, "Offer", first(r.set.Offer("a", d.maker, until)), ticket)
			l.times(t, 2) // nobody has seen these when it ends
			if !c.busy {
				l.mem.used(l.slot).Add(^uint32(1))
			} else {
				uses += 2
			}
			r.look()
			_, _, cancelled := d.counts(t)
			if cancelled == 0 {
				t.Error("nothing was cancelled")
			}
			d.want(t, 0, uses, cancelled)
			if id, _ := l.use(); id != "" || l.granted() != 0 || l.mem.generation(l.slot).Load() != 0 {
				t.Errorf("it can be used: %q", id)
			}
			equal(t, "weir_lane_revocations_total", r.metric(t, "weir_lane_revocations_total"), c.reason)
			equal(t, "Live", r.set.Live(), 0)
			equal(t, "Ahead", r.set.Ahead(), 0)
			equal(t, "Returned", r.set.Returned(), uint64(cancelled))
			// The next one is another one, in another slot.
			next := r.offer(t, "a", d)
			if next.slot == l.slot || next.generation == l.generation {
				t.Errorf("slot %d, generation %d again", next.slot, next.generation)
			}
		})
	}
}

func first[A, B any](a A, _ B) A { return a }

func TestASlotRests(t *testing.T) {
	r := newRig(t)
	d := newDesk(1 << 20)
	a := r.offer(t, "a", d)
	id := a.times(t, 1)[0]
	r.look()
	r.set.Renew()
	// All others are taken.
	for range slotCount - 1 {
		r.set.free.take(r.now())
	}
	if _, ok := r.set.Offer("b", d.maker, time.Time{}); ok {
		t.Fatal("a lane has the slot of one that has just ended")
	}
	if n := strings.Count(r.log.String(), "no lane can begin"); n != 1 {
		t.Errorf("the log says %d times that there is no slot: %s", n, r.log)
	}
	r.add(slotRest - time.Millisecond)
	if _, ok := r.set.Offer("b", d.maker, time.Time{}); ok {
		t.Fatal("too early")
	}
	if n := strings.Count(r.log.String(), "no lane can begin"); n != 1 {
		t.Errorf("the log says %d times that there is no slot: %s", n, r.log)
	}
	equal(t, "Begun while the slot rests", r.set.Begun(id), true)
	// A Lua that was stopped writes what it was about to write.
	r.mem.used(a.slot).Store(2)
	r.add(time.Millisecond)
	b := r.offer(t, "b", d)
	equal(t, "slot", b.slot, a.slot)
	equal(t, "used", r.mem.used(b.slot).Load(), 0)
	equal(t, "Begun when the slot is another lane's", r.set.Begun(id), false)
	if id, _ := a.use(); id != "" {
		t.Errorf("the old ticket is good for %s", id)
	}
	d.want(t, 8, 1, 8)
}

// The file says what the layout says, byte for byte.
func TestLayout(t *testing.T) {
	r := newRig(t)
	r.offer(t, "first", newDesk(10))
	d := newDesk(100)
	d.limits = Limits{Requests: 90, RequestsReset: 12.25, Tokens: 5000, TokensReset: 3, Each: 250}
	l := r.offer(t, "a", d)
	u32 := func(at int) uint32 { return binary.NativeEndian.Uint32(r.mem[at:]) }
	f64 := func(at int) float64 { return math.Float64frombits(binary.NativeEndian.Uint64(r.mem[at:])) }
	equal(t, "size", len(r.mem), 64+64*4096)
	equal(t, "magic", u32(0), 0x52494557)
	equal(t, "layout", u32(4), 1)
	at := 64 + 64*1
	equal(t, "generation", u32(at), 38)
	equal(t, "granted", u32(at+4), 8)
	equal(t, "used", u32(at+8), 0)
	// 90 remain with these 8 counted as used: the first of them leaves 97.
	equal(t, "requests", f64(at+16), 98.0)
	equal(t, "reset of requests", f64(at+24), 13.0)
	equal(t, "tokens", f64(at+32), 7000.0)
	equal(t, "reset of tokens", f64(at+40), 3.0)
	equal(t, "each", f64(at+48), 250.0)
	r.set.step(r.now(), nil)
	equal(t, "alive", f64(8), r.unixMilli()+250)

	// As they are used, and more are let in, the base is the same where nobody else uses the limit.
	l.times(t, 8)
	d.limits.Requests, d.limits.Tokens = 82, 3000
	r.look()
	equal(t, "granted", u32(at+4), 24)
	equal(t, "requests", f64(at+16), 82+24.0)
	equal(t, "tokens", f64(at+32), 3000+24*250.0)
}

func TestNoLimitsAreNaN(t *testing.T) {
	r := newRig(t)
	r.offer(t, "a", newDesk(10))
	for _, at := range []int{16, 32} {
		if bits := binary.NativeEndian.Uint64(r.mem[64+at:]); bits != 0x7ff8_0000_0000_0000 {
			t.Errorf("at %d: %x", at, bits)
		}
	}
}

// Answers tell the limits as they are now: 20 ms late where the lane is used, and a quarter of a second where it is not.
func TestLimitsAreTold(t *testing.T) {
	r := newRig(t)
	d := newDesk(100)
	d.limits = Limits{Requests: 50, Tokens: math.NaN()}
	l := r.offer(t, "a", d)
	base := func() float64 { return math.Float64frombits(binary.NativeEndian.Uint64(r.mem[64+16:])) }
	equal(t, "at first", base(), 58.0)
	d.limits.Requests = 40
	d.room = 0 // nothing new
	for range 49 {
		r.look()
	}
	equal(t, "before a quarter of a second", base(), 58.0)
	r.look()
	equal(t, "then", base(), 48.0)
	l.times(t, 1)
	d.limits.Requests = 30
	for range 3 {
		r.look()
	}
	equal(t, "used, before 20 ms", base(), 48.0)
	r.look()
	equal(t, "then", base(), 38.0)
}

// Something else writes to the file. Weir believes nothing that Envoy cannot have written.
func TestDamage(t *testing.T) {
	for name, used := range map[string]uint32{"more than was let in": 9, "less than there were": 1} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			d := newDesk(8)
			l := r.offer(t, "a", d)
			ids := l.times(t, 2)
			r.look()
			r.mem.used(l.slot).Store(used)
			r.look()
			equalIDs(t, d, ids)
			d.want(t, 0, 2, 6)
			equal(t, "weir_lane_revocations_total", r.metric(t, "weir_lane_revocations_total"), "failure=1")
			if !strings.Contains(r.log.String(), "the counter of a lane is not what Envoy can have written") {
				t.Errorf("log: %s", r.log)
			}
			equal(t, "Live", r.set.Live(), 0)
		})
	}
}

// A generation of 0 is none.
func TestGenerationsWrap(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Generation = math.MaxUint32 })
	d := newDesk(100)
	equal(t, "first", r.offer(t, "a", d).generation, math.MaxUint32)
	equal(t, "second", r.offer(t, "b", d).generation, 1)
}

func TestAGenerationIsRandom(t *testing.T) {
	seen := map[uint32]bool{}
	for range 4 {
		r := newRig(t, func(o *Options) { o.Generation = 0 })
		seen[r.offer(t, "a", newDesk(8)).generation] = true
	}
	if len(seen) == 1 {
		t.Error("four processes began with the same generation")
	}
}
