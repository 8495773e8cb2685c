package limit

import (
	"math/rand/v2"
	"testing"
	"time"
)

// event is units that were admitted.
type event struct {
	t     int64
	stamp int64
	n     int64
}

// TestWindowIsNeverOver: whatever comes when, no stretch of time of the window's length holds more than the limit, and
// refusals say a time at which the request fits.
func TestWindowIsNeverOver(t *testing.T) {
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		window := time.Duration(1+rnd.Int64N(5000)) * time.Millisecond
		limit := 1 + rnd.Int64N(200)
		r := &Rule{Unit: TotalTokens, Algorithm: SlidingWindow, Window: window, Limit: limit}
		b := newBook(r)
		m := moment{t: 1}
		var events []event
		for range 3000 {
			switch rnd.IntN(8) {
			case 0:
				m.t += rnd.Int64N(int64(window) + 1)
			case 1, 2:
				m.t += rnd.Int64N(int64(window)/32 + 2)
			}
			if rnd.IntN(10) == 0 && len(events) > 0 { // a request used less than it reserved
				e := &events[rnd.IntN(len(events))]
				if k := rnd.Int64N(e.n + 1); k > 0 {
					e.n -= k
					b.change(m, e.stamp, -k)
				}
			}
			need := 1 + rnd.Int64N(limit)/(1+rnd.Int64N(10))
			wait, ok := b.room(m, limit, limit, need)
			if !ok {
				if wait <= 0 || wait > window+2*window/slots+slots {
					t.Fatalf("seed %d: refused for %v in a window of %v", seed, wait, window)
				}
				if rnd.IntN(4) == 0 {
					m.t += int64(wait)
					if _, ok := b.room(m, limit, limit, need); !ok {
						t.Fatalf("seed %d: no room after the time that the refusal said, %v", seed, wait)
					}
				}
				continue
			}
			events = append(events, event{t: m.t, stamp: b.take(m, need), n: need})
			sum := int64(0)
			for i := len(events) - 1; i >= 0 && events[i].t > m.t-int64(window); i-- {
				sum += events[i].n
			}
			if sum > limit {
				t.Fatalf("seed %d: %d units in the window of %v that ends now, the limit is %d", seed, sum, window, limit)
			}
		}
		m.t += int64(2 * window)
		if used, reset := b.state(m); used != 0 || reset != 0 {
			t.Fatalf("seed %d: after two windows %d are counted, for %v", seed, used, reset)
		}
	}
}

// TestWindowGivesRoomBack: room comes back no later than 2/64 of the window after the events have left it.
func TestWindowGivesRoomBack(t *testing.T) {
	const window = int64(64 * time.Second)
	b := newBook(&Rule{Algorithm: SlidingWindow, Window: time.Duration(window), Limit: 10})
	start := int64(time.Hour) + 12345
	b.take(moment{t: start}, 10)
	wait, ok := b.room(moment{t: start}, 10, 10, 1)
	if ok || int64(wait) < window || int64(wait) > window+window/slots {
		t.Errorf("full for %v (%v)", wait, ok)
	}
	if _, reset := b.state(moment{t: start}); reset != wait {
		t.Errorf("whole again in %v, there is room in %v", reset, wait)
	}
	if _, ok := b.room(moment{t: start + window - 1}, 10, 10, 1); ok {
		t.Error("room before the window is over")
	}
	if _, ok := b.room(moment{t: start + int64(wait)}, 10, 10, 10); !ok {
		t.Error("no room when it was promised")
	}
}

// TestWindowDebt: use beyond the reservation counts when it is known.
func TestWindowDebt(t *testing.T) {
	const window = int64(64 * time.Second)
	b := newBook(&Rule{Algorithm: SlidingWindow, Window: time.Duration(window), Limit: 100})
	stamp := b.take(moment{t: 1}, 10)
	later := moment{t: 1 + window/2}
	b.change(later, stamp, 95)
	if _, ok := b.room(later, 100, 100, 1); ok {
		t.Error("room in spite of the debt")
	}
	if used, _ := b.state(later); used != 105 {
		t.Errorf("%d are counted, not 105", used)
	}
	if _, ok := b.room(moment{t: 1 + window + window/slots}, 100, 100, 5); !ok {
		t.Error("the reservation is gone and still counts")
	}
	if _, ok := b.room(moment{t: 1 + window + window/slots}, 100, 100, 6); ok {
		t.Error("the debt does not count any more")
	}
	b.change(moment{t: 1 + 3*window}, stamp, -10)
	if used, _ := b.state(moment{t: 1 + 3*window}); used != 0 {
		t.Errorf("what comes back to a window that is over left %d", used)
	}
}

// TestBucketIsNeverOver: between any two moments no more than the burst and what flowed in is admitted, and the time that a
// refusal says is the first at which the request fits.
func TestBucketIsNeverOver(t *testing.T) {
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		window := int64(1 + rnd.Int64N(int64(2*time.Minute)))
		limit := 1 + rnd.Int64N(1+int64(1)<<rnd.IntN(40))
		burst := 1 + rnd.Int64N(2*limit)
		r := &Rule{Unit: TotalTokens, Algorithm: TokenBucket, Window: time.Duration(window), Limit: limit, Burst: burst}
		b := newBook(r)
		m := moment{t: 1}
		var events []event
		for range 400 {
			if rnd.IntN(3) > 0 {
				m.t += rnd.Int64N(window/int64(1+rnd.IntN(100)) + 1)
			}
			if rnd.IntN(10) == 0 && len(events) > 0 {
				e := &events[len(events)-1]
				if k := rnd.Int64N(e.n + 1); k > 0 {
					e.n -= k
					b.change(m, e.stamp, -k)
				}
			}
			need := 1 + rnd.Int64N(burst)/int64(1+rnd.IntN(10))
			wait, ok := b.room(m, limit, burst, need)
			if !ok {
				m.t += int64(wait) - 1
				if _, ok := b.room(m, limit, burst, need); ok {
					t.Fatalf("seed %d: room before the time that the refusal said, %v", seed, wait)
				}
				m.t++
				if _, ok := b.room(m, limit, burst, need); !ok {
					t.Fatalf("seed %d: no room after the time that the refusal said, %v", seed, wait)
				}
			}
			events = append(events, event{t: m.t, n: need, stamp: b.take(m, need)})
			sum := int64(0)
			for i := len(events) - 1; i >= 0; i-- {
				sum += events[i].n
				most := float64(burst) + float64(m.t-events[i].t)*float64(limit)/float64(window)
				if float64(sum) > most*(1+1e-12) {
					t.Fatalf("seed %d: %d in %d ns, at most %f", seed, sum, m.t-events[i].t, most)
				}
			}
		}
	}
}

func TestBucketHugeNumbers(t *testing.T) {
	r := &Rule{Unit: Cost, Algorithm: TokenBucket, Window: 24 * time.Hour, Limit: maxUnits}
	b := newBook(r)
	m := moment{t: 1}
	b.take(m, maxUnits)
	b.change(m, 0, maxUnits)
	if wait, ok := b.room(m, maxUnits, maxUnits, maxUnits); ok || wait != 48*time.Hour {
		t.Errorf("twice the burst in debt: room in %v (%v)", wait, ok)
	}
	m.t += int64(12 * time.Hour)
	if used, _ := b.state(m); used != maxUnits+maxUnits/2 {
		t.Errorf("after half a window %d are missing", used)
	}
	m.t += int64(10000 * time.Hour)
	if used, reset := b.state(m); used != 0 || reset != 0 {
		t.Errorf("after all windows %d are missing, for %v", used, reset)
	}
	b.take(m, 10)
	if wait, ok := b.room(m, 1, 1, 1); ok || wait != 10*24*time.Hour {
		t.Errorf("10 missing at 1 a day: %v, %v", wait, ok)
	}
}

func TestCalendarBook(t *testing.T) {
	b := newBook(&Rule{Unit: Cost, Algorithm: Calendar, Period: Day, Location: zone(t, "Europe/Berlin")})
	at := func(s string) moment {
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return moment{t: 1, wall: v.UnixNano()}
	}
	before, after := at("2026-03-29T23:59:59+02:00"), at("2026-03-30T00:00:00+02:00")
	first := b.take(before, 70)
	if wait, ok := b.room(before, 100, 100, 31); ok || wait != time.Second {
		t.Errorf("room for 31 beside 70 of 100: %v, in %v", ok, wait)
	}
	if _, ok := b.room(before, 100, 100, 30); !ok {
		t.Error("no room for what is left")
	}
	if _, ok := b.room(after, 100, 100, 100); !ok {
		t.Error("yesterday's 70 count today")
	}
	second := b.take(after, 50)
	b.change(after, first, 1000)
	b.change(after, first, -70)
	if used, reset := b.state(after); used != 50 || reset != 24*time.Hour {
		t.Errorf("yesterday's settlement left %d counted for %v", used, reset)
	}
	b.change(after, second, -20)
	if used, _ := b.state(before); used != 30 {
		t.Errorf("a clock that goes back over midnight finds %d", used)
	}
	b.change(after, second, -100)
	if used, _ := b.state(after); used != 0 {
		t.Errorf("%d are counted after more came back than was taken", used)
	}
}

func TestGauge(t *testing.T) {
	b := newBook(&Rule{Unit: Concurrent, Limit: 2})
	m := moment{t: 1}
	b.take(m, 1)
	if _, ok := b.room(m, 2, 2, 1); !ok {
		t.Error("one of two and no room")
	}
	s := b.take(m, 1)
	if wait, ok := b.room(m, 2, 2, 1); ok || wait != gaugeWait {
		t.Errorf("a third of two: %v, %v", ok, wait)
	}
	b.change(moment{t: 1 << 60}, s, -1)
	if used, _ := b.state(m); used != 1 {
		t.Errorf("%d run", used)
	}
}
