package breaker

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// result is what the model remembers of one.
type result struct {
	slot int64
	ok   bool
}

// model is a closed breaker as the documentation has it: a list of results.
type model struct {
	rule    *Rule
	results []result
}

func (m *model) opens(slot int64) bool {
	total, failed := 0, 0
	for _, r := range m.results {
		if r.slot > slot-slots {
			total++
			if !r.ok {
				failed++
			}
		}
	}
	return total >= m.rule.MinRequests && failed*100 >= m.rule.ErrorPercent*total && failed > 0
}

// TestOpensByTheRule compares thousands of histories with the model: it opens at the very result that the rule names.
func TestOpensByTheRule(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		rule := busy(func(r *Rule) {
			r.ErrorPercent, r.MinRequests = 1+rnd.IntN(100), 1+rnd.IntN(30)
			r.Window = time.Duration(1+rnd.IntN(100)) * 160 * time.Millisecond
		})
		s := New(Options{Now: func() time.Time { return start }, MaxBreakers: 1})
		m := &model{rule: rule}
		length := int64(rule.Window) / slots
		now, bad := start, rnd.IntN(100)
		for i := range 500 {
			now = now.Add(time.Duration(rnd.Int64N(int64(rule.Window) / 8)))
			if rnd.IntN(40) == 0 {
				now = now.Add(time.Duration(rnd.Int64N(int64(rule.Window) * 3)))
			}
			p, no := s.Allow(rule, "", now)
			if no != nil {
				t.Fatalf("seed %d, request %d: refused while the model is closed", seed, i)
			}
			ok := rnd.IntN(100) >= bad
			p.Done(ok, now)
			slot := int64(now.Sub(start)+time.Hour) / length
			m.results = append(m.results, result{slot, ok})
			open := s.States(now)[0].State == Open
			if want := m.opens(slot); open != want {
				t.Fatalf("seed %d, request %d: open is %v, the model says %v", seed, i, open, want)
			}
			if open {
				break
			}
		}
	}
}

// TestRoundsDoNotMix: a slot that was written many windows ago counts no more. Numbers come again after a million of
// windows, 12 days at the least; a breaker that is not used for so long is forgotten.
func TestRoundsDoNotMix(t *testing.T) {
	r := newRing(16*time.Second, start)
	for _, rounds := range []int64{1, 2, 3, 1000, roundMask - 1} {
		now := start
		r.add(now, true)
		now = now.Add(time.Duration(rounds) * 16 * time.Second)
		if total, _ := r.sum(now); total != 0 {
			t.Errorf("after %d windows %d count", rounds, total)
		}
		r = newRing(16*time.Second, start)
	}
}

// TestFullSlotKeepsTheShare: counts are halved rather than carried into each other.
func TestFullSlotKeepsTheShare(t *testing.T) {
	r := newRing(16*time.Second, start)
	r.slot[0].Store(countMask/4<<countBits | countMask)
	r.add(start, true)
	total, failed := r.sum(start)
	if total != countMask/2+1 || failed != countMask/8+1 {
		t.Errorf("%d of %d", failed, total)
	}
}

// TestWarmUpShare: the share that is let in follows the line from a tenth to all, whatever the pace, within one request.
func TestWarmUpShare(t *testing.T) {
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		p := &phase{state: WarmingUp, since: start}
		p.share.Store(shareWhole - 1)
		now, want, got := start, 0.0, 0
		for {
			now = now.Add(time.Duration(rnd.Int64N(int64(50 * time.Millisecond))))
			if now.Sub(start) >= 10*time.Second {
				break
			}
			want += 0.1 + 0.9*now.Sub(start).Seconds()/10
			if p.admit(now, 10*time.Second) {
				got++
			}
			if float64(got) < want-0.01 || float64(got) > want+1.01 {
				t.Fatalf("seed %d: %d let in after %s, the line says %.2f", seed, got, now.Sub(start), want)
			}
		}
	}
}

// TestOpensOnceUnderRace: many failures at the same time open it, and once.
func TestOpensOnceUnderRace(t *testing.T) {
	for range 200 {
		var opens atomic.Int32
		s := New(Options{Now: func() time.Time { return start }, MaxBreakers: 1, OnChange: func(Change) { opens.Add(1) }})
		rule := busy(func(r *Rule) { r.MinRequests, r.ErrorPercent = 8, 100 })
		var wg sync.WaitGroup
		begin := make(chan struct{})
		for range 8 {
			wg.Go(func() {
				<-begin
				p, no := s.Allow(rule, "k", start)
				if no != nil {
					t.Error("refused")
				}
				p.Done(false, start)
			})
		}
		close(begin)
		wg.Wait()
		if st := s.States(start)[0]; opens.Load() != 1 || st.State != Open {
			t.Fatalf("%d changes, %s", opens.Load(), st.State)
		}
	}
}

// TestTryingUnderRace: whatever the requests do, never more than HalfOpenRequests try at once, and in the end
// it closes again.
func TestTryingUnderRace(t *testing.T) {
	const trying = 5
	rule := busy(func(r *Rule) { r.HalfOpenRequests, r.WarmUp, r.Window = trying, 2*time.Second, time.Second })
	var clock atomic.Int64 // milliseconds
	now := func() time.Time { return start.Add(time.Duration(clock.Load()) * time.Millisecond) }
	var changes sync.Map // from>to, how often
	s := New(Options{Now: now, OnChange: func(c Change) {
		n, _ := changes.LoadOrStore(fmt.Sprintf("%s>%s", c.From, c.To), new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
	}})
	// All workers end a round before time moves on, so that no place runs out while it is held.
	for round := range 400 {
		sick := round%40 < 8
		var mu sync.Mutex
		at := map[*phase]int{}
		var wg sync.WaitGroup
		for worker := range 8 {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(round), uint64(worker)))
				for range 20 {
					p, no := s.Allow(rule, "k", now())
					if no != nil {
						continue
					}
					probe := p.phase.state == HalfOpen
					if probe {
						mu.Lock()
						at[p.phase]++
						if at[p.phase] > trying {
							t.Errorf("%d try at once", at[p.phase])
						}
						mu.Unlock()
					}
					// What is dropped tries no more before its place is given back.
					if rnd.IntN(10) == 0 {
						if probe {
							mu.Lock()
							at[p.phase]--
							mu.Unlock()
						}
						p.Drop()
					} else {
						p.Done(!sick, now()) // it stays counted: a success keeps its place
					}
				}
			})
		}
		wg.Wait()
		clock.Add(int64(rule.OpenFor/time.Millisecond) / 4)
		if round%50 == 49 {
			s.Sweep(now())
		}
	}
	for _, want := range []string{"Closed>Open", "Open>HalfOpen", "HalfOpen>WarmingUp", "WarmingUp>Closed"} {
		if n, ok := changes.Load(want); !ok || n.(*atomic.Int64).Load() < 3 {
			t.Errorf("%s did not happen, or seldom: the test tests nothing", want)
		}
	}
	clock.Add(int64(time.Hour / time.Millisecond))
	for range trying + 1 {
		p, _ := s.Allow(rule, "k", now())
		p.Done(true, now())
		clock.Add(1000)
	}
	if st := s.States(now())[0]; st.State != Closed && st.State != WarmingUp {
		t.Errorf("it ends %s", st.State)
	}
	if n, _ := s.Size(); n != 1 {
		t.Errorf("%d breakers", n)
	}
}

// TestForgettingUnderRace: breakers come and go while they are used; none is lost, none is double.
func TestForgettingUnderRace(t *testing.T) {
	s := New(Options{Now: func() time.Time { return start }, MaxBreakers: 64})
	rule := busy(nil)
	var workers, sweeper sync.WaitGroup
	done := make(chan struct{})
	sweeper.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				s.Retain(func(string) bool { return false }, start)
				s.States(start)
			}
		}
	})
	for worker := range 4 {
		workers.Go(func() {
			rnd := rand.New(rand.NewPCG(9, uint64(worker)))
			for range 3000 {
				p, _ := s.Allow(rule, fmt.Sprint(rnd.IntN(200)), start)
				p.Done(rnd.IntN(2) == 0, start)
			}
		})
	}
	workers.Wait()
	close(done)
	sweeper.Wait()
	seen := map[string]bool{}
	for _, st := range s.States(start) {
		if seen[st.Key] {
			t.Errorf("two breakers of %s", st.Key)
		}
		seen[st.Key] = true
	}
	if n, _ := s.Size(); n != len(seen) {
		t.Errorf("%d counted, %d listed", n, len(seen))
	}
	s.Retain(func(string) bool { return false }, start)
	if n, _ := s.Size(); n != 0 || len(s.States(start)) != 0 {
		t.Errorf("%d are left", n)
	}
}
