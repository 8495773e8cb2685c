package simulate

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/weir-dev/weir/xds/load/signal"
)

func testEnvironment(base ...float64) *environment {
	return &environment{base: base, rnd: rand.New(rand.NewPCG(1, 2))}
}

// picks makes calls one after the other that do not end.
func picks(b balancer, n int) []int {
	out := make([]int, n)
	for i := range out {
		c := &call{Request: &Request{ID: uint64(i)}}
		out[i] = b.pick(c, 0)
		c.tried = append(c.tried, out[i])
	}
	return out
}

func callAt(server int, tried ...int) *call {
	return &call{Request: &Request{}, tried: append(tried, server)}
}

func TestRoundRobin(t *testing.T) {
	b := newRoundRobin(testEnvironment(1, 1, 1))
	b.next = 0
	if got := picks(b, 5); !slices.Equal(got, []int{0, 1, 2, 0, 1}) {
		t.Errorf("picked %v", got)
	}
	b.checked(check{server: 2, failed: 1}, 0)
	if got := picks(b, 2); !slices.Equal(got, []int{2, 0}) {
		t.Errorf("after one failed check: picked %v", got)
	}
	b.checked(check{server: 2, failed: 2}, 0)
	if got := picks(b, 3); !slices.Equal(got, []int{1, 0, 1}) {
		t.Errorf("after two failed checks: picked %v", got)
	}
	// A retry goes elsewhere; where no healthy one is left, to one that is not.
	if got := b.pick(callAt(1, 0), 0); got != 2 {
		t.Errorf("the second retry went to %d", got)
	}
	b.checked(check{server: 2, passed: 2}, 0)
	if got := picks(b, 3); !slices.Equal(slices.Sorted(slices.Values(got)), []int{0, 1, 2}) {
		t.Errorf("after two passed checks: picked %v", got)
	}
}

func TestLeastInFlight(t *testing.T) {
	b := newLeastInFlight(testEnvironment(1, 1, 2))
	b.active = []int{2, 3, 3} // 2, 3 and 1.5 for their weights
	// 2 (1.5 -> 2), then a draw of 0 and 2 (2 both), then the other one of them.
	got := picks(b, 3)
	if got[0] != 2 || !slices.Equal(slices.Sorted(slices.Values(got[1:])), []int{0, 2}) {
		t.Errorf("picked %v, want 2, then 0 and 2 in either order", got)
	}
	b.ended(callAt(1), succeeded, 0)
	b.ended(callAt(1), failed, 0)
	if got := picks(b, 1); got[0] != 1 {
		t.Errorf("picked %v, want 1, which has one call left", got)
	}
}

func TestLeastInFlightIsGlobal(t *testing.T) {
	all := newBalancers(LeastInFlight, 3, func(int) *environment { return testEnvironment(1, 1) })
	if len(distinct(all)) != 1 {
		t.Error("gateways have balancers of their own")
	}
	all = newBalancers(LeastRequest, 3, func(int) *environment { return testEnvironment(1, 1) })
	if len(distinct(all)) != 3 {
		t.Error("gateways share a balancer that counts only its own requests")
	}
}

func TestLeastRequestComparesTwo(t *testing.T) {
	b := newLeastRequest(testEnvironment(1, 1, 1, 1))
	b.lb.active = []int{0, 9, 9, 9}
	// The idle one is among the two that are drawn with probability 1-(3/4)^2 = 7/16.
	n, idle := 8000, 0
	for range n {
		if i := b.pick(&call{Request: &Request{}}, 0); i == 0 {
			idle++
			b.lb.active[0]--
		} else {
			b.lb.active[i]--
		}
	}
	if share := float64(idle) / float64(n); math.Abs(share-7.0/16) > 0.02 {
		t.Errorf("the idle one got %.3f, want about %.3f", share, 7.0/16)
	}
}

func TestLeastRequestWithWeights(t *testing.T) {
	// By hand: hosts of weights 2 and 1 without requests. An entry of deadline d that is picked goes back at d + (active+1)/weight,
	// with the active requests before the pick.
	lb := newEnvoyLeastRequest([]float64{2, 1}, rand.New(rand.NewPCG(1, 2)))
	lb.edf = &edf{}
	lb.edf.add(0, 0.5)
	lb.edf.add(1, 1)
	all := func(int) bool { return true }
	// 0 at 0.5, back at 0.5+1/2 = 1 after 1, which was put in first; 1 at 1, back at 2; 0 at 1, back at 1+2/2 = 2, after 1; 1 at 2, back at 4; 0 at 2.
	var got []int
	for range 5 {
		got = append(got, lb.pick(all))
	}
	if !slices.Equal(got, []int{0, 1, 0, 1, 0}) {
		t.Errorf("picked %v", got)
	}
	// Requests that end at once leave the weights alone.
	lb = newEnvoyLeastRequest([]float64{3, 1}, rand.New(rand.NewPCG(1, 2)))
	n, first := 4000, 0
	for range n {
		i := lb.pick(all)
		lb.active[i]--
		if i == 0 {
			first++
		}
	}
	if share := float64(first) / float64(n); math.Abs(share-0.75) > 0.01 {
		t.Errorf("the host of weight 3 got %.3f, want 0.75", share)
	}
	lb.update([]float64{0, 1})
	for range 10 {
		if i := lb.pick(all); i != 1 {
			t.Fatalf("picked %d, which is not healthy", i)
		}
	}
	lb.update([]float64{0, 0})
	if i := lb.pick(all); i < 0 || i > 1 {
		t.Errorf("with nobody healthy picked %d, want anybody", i)
	}
}

func sampleOf(f func(*signal.Sample)) signal.Sample {
	s := signal.Sample{At: epoch}
	f(&s)
	return s
}

func TestMission(t *testing.T) {
	b := newMission(testEnvironment(1, 1, 1, 2))
	gpu := func(server int, v float64) {
		b.read(reading{server, sourceGPU, sampleOf(func(s *signal.Sample) { s.Has, s.GPUUtilization = s.Has.With(signal.GPUUtilization), v })}, 0)
	}
	queue := func(server int, v time.Duration) {
		b.read(reading{server, sourceEngine, sampleOf(func(s *signal.Sample) { s.Has, s.QueueDelay = s.Has.With(signal.QueueDelay), v })}, 0)
	}
	gpu(0, 0.86)
	queue(0, 501*time.Millisecond)
	gpu(1, 0.85)
	queue(1, 500*time.Millisecond)
	b.checked(check{server: 2, failed: 2}, 0)
	queue(3, time.Second)
	b.tick(0)
	want := []float64{0.35, 1, 0, 0.5}
	for i, w := range b.weights() {
		if math.Abs(w-want[i]) > 1e-9 {
			t.Errorf("weights %v, want %v", b.weights(), want)
			break
		}
	}
	if b.changes() != 3 {
		t.Errorf("%d changes, want 3", b.changes())
	}
	// Each second anew from the base, never on top of what was.
	b.tick(time.Second)
	if got := b.weights(); math.Abs(got[0]-0.35) > 1e-9 || b.changes() != 3 {
		t.Errorf("a second tick made %v", got)
	}
	// Smooth weighted round robin of 0.35, 1 and 1 (0.5 of a base of 2): in 47 turns 7, 20 and 20 times.
	counts := make([]int, 4)
	for _, i := range picks(b, 47) {
		counts[i]++
	}
	if !slices.Equal(counts, []int{7, 20, 0, 20}) {
		t.Errorf("turns %v, want [7 20 0 20]", counts)
	}
	gpu(0, 0.5)
	queue(0, 0)
	b.tick(2 * time.Second)
	if got := b.weights(); got[0] != 1 {
		t.Errorf("weights %v: the first has recovered", got)
	}
}

func TestSmoothWeightedRoundRobin(t *testing.T) {
	b := newMission(testEnvironment(5, 1, 1))
	if got := picks(b, 7); !slices.Equal(got, []int{0, 0, 1, 0, 2, 0, 0}) {
		t.Errorf("picked %v, want 0 0 1 0 2 0 0", got)
	}
}

func TestMaxScore(t *testing.T) {
	b := newMaxScore(testEnvironment(1, 1, 1))
	tell := func(server int, waiting, running, kv float64) {
		b.read(reading{server, sourceEngine, sampleOf(func(s *signal.Sample) { s.Waiting, s.Running, s.KVCache = waiting, running, kv })}, 0)
	}
	tell(0, 0, 5, 0.5)
	tell(1, 0, 3, 0.2)
	// The third tells nothing and counts as the mean of -5.5 and -3.2.
	if got := picks(b, 3); !slices.Equal(got, []int{1, 1, 1}) {
		t.Errorf("picked %v: until the next reading all go to the best", got)
	}
	tell(1, 4, 9, 0.9)
	// Now the third is at -(5.5+13.9)/2 = -9.7, behind the first.
	if got := picks(b, 2); !slices.Equal(got, []int{0, 0}) {
		t.Errorf("picked %v, want 0", got)
	}
	tell(2, 0, 0, 0)
	if got := picks(b, 2); !slices.Equal(got, []int{2, 2}) {
		t.Errorf("picked %v, want 2", got)
	}
}
