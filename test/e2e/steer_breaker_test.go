package e2e

import (
	"fmt"
	"maps"
	"testing"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim/gpu"
	"github.com/weir-dev/weir/test/sim/gpu/engine"
)

// TestEndpointBreaker: the circuit breaker of one server, where Weir picks. It opens at the threshold; half open it lets through the
// exact number of tries, whatever the crowd; and callers see nothing of all this, because others serve meanwhile.
func TestEndpointBreaker(t *testing.T) {
	const pool, bad, places, threshold = "breaker", 0, 3, 4
	s := startSteered(t, []steeredPool{{
		// Slow enough that a crowd is at work at the same time.
		name: pool, servers: harness.NewGPUs(t, 4, gpu.Options{Profile: engine.Profiles()[0].Scaled(0.25)}), retry: 3,
		policy: "picking: {sessionAffinity: {}}\nhealth: {warmUp: 1s}\ncircuitBreaker: {errorPercent: 50, minRequests: 4, window: 10s, openFor: 4s, halfOpenRequests: 3}\n",
	}})
	state := func() string { return s.endpoint(t, pool, bad).Breaker }
	reached := func() int { return s.got(pool)[bad] }
	awaitState := func(want string) {
		t.Helper()
		s.WaitFor("the breaker is "+want, func() bool { return state() == want })
	}
	crowd := func(n int) {
		t.Helper()
		if got := <-s.atOnce(t, n, question(pool, "Hello", 1, false)); !maps.Equal(got, map[int]int{200: n}) {
			t.Errorf("the callers' statuses: %v", got)
		}
	}

	s.fault(t, pool, bad, gpu.Fault{Fail: 500})
	// Whoever has failed is not asked again soon, but for the session that it has.
	session := ""
	for i := 0; reached() == 0; i++ {
		session = fmt.Sprint("session-", i)
		s.ask(t, pool, "x-session-id", session)
	}
	for seen := reached(); seen < threshold; seen = reached() {
		quiet(t, s.Gateway)
		if got := state(); got != "Closed" {
			t.Fatalf("%s after %d failures; %d are needed", got, seen, threshold)
		}
		if a := s.ask(t, pool, "x-session-id", session); a.status != 200 {
			t.Fatalf("status %d: %s", a.status, a.body)
		}
	}
	quiet(t, s.Gateway)
	if got := state(); got != "Open" {
		t.Fatalf("%s after %d failures", got, threshold)
	}
	crowd(50)
	if got := reached(); got != threshold {
		t.Errorf("%d requests reached the server whose breaker is open", got-threshold)
	}

	// A try that fails: one is enough, and a little load is enough for it.
	awaitState("HalfOpen")
	s.WaitFor("a try fails", func() bool { crowd(1); quiet(t, s.Gateway); return state() == "Open" })
	if failed := reached() - threshold; failed != 1 {
		t.Errorf("%d tries, one after the other, until one failed", failed)
	}

	// Tries that take long: exactly as many as there are places.
	s.fault(t, pool, bad, gpu.Fault{Stall: true})
	awaitState("HalfOpen")
	before, all := reached(), 0
	for _, n := range s.got(pool) {
		all += n
	}
	statuses := s.atOnce(t, 50, question(pool, "Hello", 1, false))
	s.WaitFor("all are served but those that try", func() bool {
		sum, open := 0, 0
		for _, server := range s.pools[pool].Servers {
			st := server.Stats()
			sum += int(st.Requests)
			open += int(st.Requests - st.Served - st.Failed)
		}
		return sum-all == 50 && open == places
	})
	crowd(20)
	if got := reached() - before; got != places || state() != "HalfOpen" {
		t.Errorf("%d tries, of %d places; the breaker is %s", got, places, state())
	}
	s.fault(t, pool, bad, gpu.Fault{})
	if got := <-statuses; !maps.Equal(got, map[int]int{200: 50}) {
		t.Errorf("the callers' statuses: %v", got)
	}
	awaitState("Closed")
	s.awaitWeight(t, pool, bad, 1000)
	s.WaitFor("the server serves again", func() bool { crowd(10); return reached() > before+places })
}
