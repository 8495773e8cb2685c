package breaker

import (
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

// TestPreviewEqualsAllow walks breakers through random histories. Before each request it looks: that changes nothing, and says what the
// request is then told.
func TestPreviewEqualsAllow(t *testing.T) {
	seen := map[State]int{}
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		rule := busy(func(r *Rule) {
			r.Shadow, r.MinRequests, r.ErrorPercent = rnd.IntN(5) == 0, 1+rnd.IntN(5), 1+rnd.IntN(100)
			r.HalfOpenRequests, r.WarmUp = 1+rnd.IntN(3), time.Duration(rnd.IntN(3))*2*time.Second
		})
		s := New(Options{Now: func() time.Time { return start }, MaxBreakers: 1})
		now := start
		var open []Pass
		for i := range 200 {
			now = now.Add(time.Duration(rnd.Int64N(int64(400 * time.Millisecond))))
			before := s.States(now)
			st, want, shadowed := s.Preview(rule, "k", now)
			if after := s.States(now); !reflect.DeepEqual(before, after) {
				t.Fatalf("seed %d, request %d: looking changed %+v to %+v", seed, i, before, after)
			}
			if state := s.State(rule, "k", now); st.State != state {
				t.Fatalf("seed %d, request %d: %s, State says %s", seed, i, st.State, state)
			}
			pass, got := s.Allow(rule, "k", now)
			if !reflect.DeepEqual(got, want) || pass.Shadowed() != shadowed {
				t.Fatalf("seed %d, request %d in %s: told %+v (shadow %v), foreseen %+v (shadow %v)", seed, i, st.State, got, pass.Shadowed(), want, shadowed)
			}
			seen[st.State]++
			open = append(open, pass)
			for len(open) > rnd.IntN(4) {
				if p := open[0]; rnd.IntN(5) == 0 {
					p.Drop()
				} else {
					p.Done(rnd.IntN(3) > 0, now)
				}
				open = open[1:]
			}
		}
	}
	for _, state := range []State{Closed, WarmingUp, HalfOpen, Open} {
		if seen[state] < 100 {
			t.Errorf("%s was seen %d times: the test says little", state, seen[state])
		}
	}
}
