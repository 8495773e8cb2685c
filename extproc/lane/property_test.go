//go:build linux || darwin

package lane

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// state is a Lua state that takes requests, one after the other, as lane.lua does.
type state struct {
	key    string
	random *rand.Rand
	lane   *lua
	used   []string // in the order of the requests
	void   []string
	gaveUp map[string]bool // those void that had begun
	asked  int
}

// desks makes a Maker for each lane, and keeps them.
type desks struct {
	mu  sync.Mutex
	all []*desk
}

func (d *desks) new() Maker {
	n := newDesk(rand.IntN(600))
	d.mu.Lock()
	d.all = append(d.all, n)
	d.mu.Unlock()
	return n
}

// request takes one request. Envoy's record of one in the lane goes to records.
func (s *state) request(t *testing.T, r *rig, d *desks, records chan<- string) {
	if s.lane != nil {
		id, void := s.lane.use()
		switch {
		case void:
			s.lane = nil
			s.void = append(s.void, id)
			if r.set.Void(id) {
				s.gaveUp[id] = true
			}
		case id != "":
			s.used = append(s.used, id)
			if s.random.IntN(4) == 0 {
				select {
				case records <- id:
				default:
				}
			}
			return
		case r.mem.generation(s.lane.slot).Load() != s.lane.generation:
			s.lane = nil
		}
	}
	s.asked++
	runtime.Gosched() // Weir takes its time
	if ticket, ok := r.set.Offer(s.key, d.new, time.Time{}); ok {
		s.lane = newLua(t, r.mem, ticket)
		s.lane.yield = func() {
			for s.random.IntN(3) == 0 {
				runtime.Gosched()
			}
		}
	}
}

// Whatever happens at the same time, each claim is begun or cancelled once, what is used is begun, in order, and nothing else is.
func TestNoClaimIsLost(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	ticks := make(chan time.Time)
	r := newRig(t, func(o *Options) { o.Tick = ticks })
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.set.Run(t.Context())
	}()

	const states, uses = 6, 3000
	var lua, others sync.WaitGroup
	var over atomic.Bool
	var looks, steps atomic.Int64 // of Run, and of all Lua states
	var d desks
	records := make(chan string, 100)
	all := make([]*state, states)
	for i := range all {
		s := &state{key: fmt.Sprint("key ", i), random: rand.New(rand.NewPCG(seed, uint64(i))), gaveUp: map[string]bool{}}
		all[i] = s
		lua.Go(func() {
			for len(s.used) < uses {
				s.request(t, r, &d, records)
				steps.Add(1)
				if s.random.IntN(50) == 0 {
					runtime.Gosched()
				}
			}
		})
	}
	// Time passes, and Run looks.
	others.Go(func() {
		for !over.Load() {
			for until := steps.Load() + 50; steps.Load() < until && !over.Load(); {
				runtime.Gosched()
			}
			r.add(lookEvery)
			ticks <- time.Time{}
			looks.Add(1)
		}
	})
	// after waits for about so many looks.
	after := func(random *rand.Rand, n int) {
		for until := looks.Load() + int64(random.IntN(2*n)); looks.Load() < until && !over.Load(); {
			runtime.Gosched()
		}
	}
	// Records come, some before Run has seen the use. Some answers are bad.
	others.Go(func() {
		random := rand.New(rand.NewPCG(seed, 100))
		for id := range records {
			if !r.set.Begun(id) {
				t.Errorf("the record of %s came, and it has not begun", id)
			}
			if random.IntN(200) == 0 {
				r.set.Fail(id)
			}
		}
	})
	// Limits refuse somebody: when Revoke returns, nothing is ahead that was before.
	for i := range 2 {
		others.Go(func() {
			random := rand.New(rand.NewPCG(seed, 200+uint64(i)))
			for !over.Load() {
				after(random, 50)
				r.set.Revoke()
				r.add(quiet - 5*lookEvery) // there are no lanes, and none begins: it may as well be over
			}
		})
	}
	// Versions go live, and Envoy dies; the Lua states go on here, as if the next Envoy had the same.
	others.Go(func() {
		random := rand.New(rand.NewPCG(seed, 300))
		for !over.Load() {
			after(random, 20)
			if random.IntN(2) == 0 {
				r.set.Lost()
			} else {
				r.set.Renew()
			}
		}
	})
	lua.Wait()
	over.Store(true)
	close(records)
	others.Wait()
	r.set.Close()
	<-ended

	began := map[string]bool{}
	admitted, begun, cancelled := 0, 0, 0
	for _, d := range d.all {
		o, b, c := d.counts(t)
		admitted, begun, cancelled = admitted+len(d.claims), begun+b, cancelled+c
		equal(t, "open claims", o, 0)
		last := 0
		for _, id := range d.begun {
			n, err := strconv.Atoi(id[strings.LastIndexByte(id, '.')+1:])
			if err != nil || n <= last {
				t.Errorf("%s began after %d", id, last)
			}
			last = n
			if began[id] {
				t.Errorf("%s began twice", id)
			}
			began[id] = true
		}
	}
	used, void, gaveUp, asked, missing := 0, 0, 0, 0, 0
	for _, s := range all {
		used, void, gaveUp, asked = used+len(s.used), void+len(s.void), gaveUp+len(s.gaveUp), asked+s.asked
		for _, id := range s.used {
			if !began[id] {
				missing++
			}
			delete(began, id)
		}
		for _, id := range s.void {
			if began[id] != s.gaveUp[id] {
				t.Errorf("%s is void: begun %v, to be given up %v", id, began[id], s.gaveUp[id])
			}
			delete(began, id)
		}
	}
	if len(began) > 0 {
		t.Errorf("%d uses began that never were", len(began))
	}
	if missing > 0 {
		t.Errorf("%d uses never began", missing)
	}
	equal(t, "begun and cancelled", begun+cancelled, admitted)
	equal(t, "begun", begun, used-missing+gaveUp)
	equal(t, "Ahead", r.set.Ahead(), 0)
	equal(t, "Live", r.set.Live(), 0)
	equal(t, "Returned", r.set.Returned(), uint64(cancelled))
	equal(t, "weir_lane_requests_total", r.metric(t, "weir_lane_requests_total"), fmt.Sprint(begun))
	if void == 0 || gaveUp == 0 {
		t.Errorf("%d uses were void, and %d of them had begun: this shows too little", void, gaveUp)
	}
	equal(t, "weir_lane_void_total", r.metric(t, "weir_lane_void_total"), fmt.Sprint(void))
	t.Logf("%d used, %d void (%d had begun), %d asked, %d lost; %d lanes; ends: %s", used, void, gaveUp, asked, missing, len(d.all),
		r.metric(t, "weir_lane_revocations_total"))
}

// IDs come in records: whatever they are, only those of uses that were counted have begun.
func FuzzIDs(f *testing.F) {
	for _, id := range []string{"", "w-L", "w-L0.11.1", "w-L0.11.8", "w-L0.11.9", "w-L1.12.3", "w-L35r.zz.4294967295", "w-L0.11.01", "x", "w-L0.11."} {
		f.Add(id)
	}
	r := newRig(f)
	d := newDesk(100)
	valid := map[string]bool{}
	for _, key := range []string{"a", "b"} {
		for _, id := range r.offer(f, key, d).times(f, 5) {
			valid[id] = true
		}
	}
	r.look()
	f.Fuzz(func(t *testing.T, id string) {
		if got := r.set.Begun(id); got != valid[id] {
			t.Errorf("Begun(%q) is %v", id, got)
		}
	})
}
