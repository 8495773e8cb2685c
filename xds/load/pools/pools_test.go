package pools

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/xds/load/feedback"
	"github.com/weir-dev/weir/xds/load/signal"
	"github.com/weir-dev/weir/xds/load/weigh"
)

const ms = time.Millisecond

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// rig is a pool whose clock is the test's.
type rig struct {
	Pool
	now      time.Time
	breakers *breaker.Set
}

func newRig(n int, policy weigh.Policy) *rig {
	r := &rig{now: t0}
	r.breakers = breaker.New(breaker.Options{Now: func() time.Time { return r.now }})
	r.Settings = Settings{Weigh: &policy, Checked: true, PublishPercent: 5}
	for i := range n {
		r.Endpoints = append(r.Endpoints, &Endpoint{
			Key: fmt.Sprintf("10.0.0.%d:80", i+1), Base: 1, Feedback: feedback.NewEndpoint(r.FailureWindow()), Sources: []*Samples{{}},
		})
	}
	return r
}

func (r *rig) compute() []weigh.Result { return r.Compute(r.now, r.breakers, Ratio{}) }

// pass lets time go by, and gives whether something is told then.
func (r *rig) pass(d time.Duration) (tell, event bool) {
	r.now = r.now.Add(d)
	r.compute()
	return r.Tell(r.now)
}

// rules are those of most tests here.
func rules() weigh.Policy {
	return weigh.Policy{
		Smoothing: 1, QueueDelay: weigh.Rule{Enter: 0.5, Leave: 0.3, Factor: 0.5}, LatencyMin: 0.1, LatencyMax: 2, Floor: 0.05,
		StaleAfter: time.Hour, Decay: time.Hour, FailedChecks: 2, PassedChecks: 2,
	}
}

// latency makes the first endpoint of two ever slower.
func (r *rig) latency(i int) {
	for range 5 {
		r.Endpoints[0].Feedback.FirstToken(time.Duration(1+i%2)*time.Second, r.now)
		r.Endpoints[1].Feedback.FirstToken(time.Second, r.now)
	}
}

// TestDriftIsToldOnceASecond: latency alone moves weights at every computation.
func TestDriftIsToldOnceASecond(t *testing.T) {
	r := newRig(2, rules())
	if tell, event := r.pass(0); !tell || !event {
		t.Fatal("the first weights must be told")
	}
	told, moved := 0, 0
	last := r.Results()[0].Weight
	for i := range 80 {
		r.latency(i / 2)
		tell, event := r.pass(50 * ms)
		if event {
			t.Fatalf("drift is an event: %s", r.Results()[0].Explain())
		}
		if tell {
			told++
		}
		if w := r.Results()[0].Weight; w != last {
			last, moved = w, moved+1
		}
	}
	if moved < 20 || told < 3 || told > 4 {
		t.Errorf("in 4 s the weight moved %d times, and was told %d times", moved, told)
	}
	r.pass(10 * time.Second) // in the middle of a second
	r.latency(0)
	r.latency(0)
	r.pass(300 * ms)
	r.Endpoints[0].Sources[0].Add(signal.Sample{At: r.now, Has: signal.Set(0).With(signal.QueueDelay), QueueDelay: time.Second})
	if tell, event := r.pass(10 * ms); !tell || !event {
		t.Errorf("a rule begins to apply, and that waits: %s", r.Results()[0].Explain())
	}
	r.Endpoints[0].Sources[0].Add(signal.Sample{At: r.now, Has: signal.Set(0).With(signal.QueueDelay)})
	if tell, event := r.pass(10 * ms); !tell || !event {
		t.Errorf("a rule ends, and that waits: %s", r.Results()[0].Explain())
	}
	r.Endpoints[1].Failed = 2
	if tell, event := r.pass(10 * ms); !tell || !event || !r.Endpoints[1].Isolated() {
		t.Error("an endpoint is isolated, and that waits")
	}
	r.Endpoints[1].Failed, r.Endpoints[1].Passed = 0, 2
	if tell, event := r.pass(10 * ms); !tell || !event || r.Endpoints[1].Isolated() {
		t.Error("an endpoint comes back, and that waits")
	}
	if tell, _ := r.pass(10 * ms); tell {
		t.Error("nothing has changed, and it is told")
	}
	r.Forget()
	if tell, event := r.pass(10 * ms); !tell || !event {
		t.Error("what is forgotten must be told again")
	}
}

// TestWarmUpIsToldFourTimesASecond is so however often weights are computed.
func TestWarmUpIsToldFourTimesASecond(t *testing.T) {
	policy := rules()
	policy.WarmUp, policy.WarmUpFrom = 2*time.Second, 0.05
	r := newRig(2, policy)
	r.pass(0)
	r.Endpoints[0].Failed = 2
	r.pass(ms)
	r.Endpoints[0].Failed, r.Endpoints[0].Passed = 0, 2
	if tell, event := r.pass(ms); !tell || !event || r.Results()[0].Status != weigh.WarmingUp {
		t.Fatal("it must come back at once")
	}
	told := 0
	for range 95 {
		if tell, _ := r.pass(20 * ms); tell {
			told++
		}
	}
	if told < 6 || told > 8 {
		t.Errorf("in 1.9 s of a warm-up of 2 s it was told %d times", told)
	}
}

// TestAskedNevertheless: where all want to be left alone their weights say so.
func TestAskedNevertheless(t *testing.T) {
	r := newRig(3, rules())
	r.pass(0)
	r.Endpoints[0].Feedback.Block(7*time.Second, r.now)
	r.Endpoints[2].Failed = 2
	if r.pass(0); r.Blocked() || r.Results()[0].Status != weigh.Isolated {
		t.Errorf("one is left: %v, %s", r.Blocked(), r.Results()[0].Explain())
	}
	r.Endpoints[1].Feedback.Block(9*time.Second, r.now)
	r.pass(0)
	for i, want := range []string{
		"answered 429, to be tried again in 7 s; asked nevertheless, there is no other -> 1000",
		"answered 429, to be tried again in 9 s; asked nevertheless, there is no other -> 1000",
		"2 health checks failed in a row -> 0",
	} {
		if got := r.Results()[i].Explain(); got != want {
			t.Errorf("endpoint %d says %q, want %q", i, got, want)
		}
	}
	if !r.Blocked() || r.Decide() != (Capacity{0, true}) || r.Envoy() != (Capacity{0, true}) {
		t.Errorf("blocked %v, %+v, %+v", r.Blocked(), r.Decide(), r.Envoy())
	}
	for i, e := range r.Picks() {
		if e.Isolated != (i == 2) {
			t.Errorf("the picker gets %+v", e)
		}
	}
	r.pass(7 * time.Second)
	if r.Blocked() || strings.Contains(r.Results()[0].Explain(), "429") || r.Results()[1].Status != weigh.Isolated {
		t.Errorf("blocked %v, %s, %s", r.Blocked(), r.Results()[0].Explain(), r.Results()[1].Explain())
	}
}
