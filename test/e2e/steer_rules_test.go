package e2e

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim/gpu"
)

// TestSteeringRules: each rule that turns a signal into a weight, from the sample to the requests. Envoy picks, by weights alone, so that
// a server's part of the requests is its part of the weights. Other rules are off, where they could interfere.
func TestSteeringRules(t *testing.T) {
	const noLatency = "latency: {minPercent: 100, maxPercent: 100}"
	dcgm := harness.FreePort(t)
	s := startSteered(t, []steeredPool{
		{
			name: "gpu", servers: quickGPUs(t, 4, gpu.Options{DCGMPort: dcgm, DCGMInterval: 100 * time.Millisecond}),
			backend: fmt.Sprintf("metrics: [{type: DCGM, port: %d, interval: 100ms}]\n", dcgm), policy: "weights: {" + noLatency + "}\npicking: {mode: Weights}\n",
		},
		{
			name: "queue", servers: quickGPUs(t, 4, gpu.Options{}),
			backend: "metrics: [{type: VLLM, interval: 100ms}]\n", policy: "weights: {" + noLatency + "}\npicking: {mode: Weights}\n",
		},
		{
			name: "health", servers: quickGPUs(t, 3, gpu.Options{}),
			backend: "healthCheck: {interval: 200ms}\n", policy: "weights: {" + noLatency + "}\nhealth: {warmUp: 3s}\npicking: {mode: Weights}\n",
		},
		{
			name: "latency", servers: harness.NewGPUs(t, 4, gpu.Options{}), policy: "picking: {mode: Weights}\n",
		},
		{
			name: "errors", servers: quickGPUs(t, 4, gpu.Options{}),
			policy: "weights: {" + noLatency + "}\nhealth: {warmUp: 1s}\npicking: {mode: Weights}\n" +
				"circuitBreaker: {minRequests: 6, window: 10s, openFor: 1s, halfOpenRequests: 2}\n",
		},
	})
	t.Run("GPU utilization", func(t *testing.T) { testGPURule(t, s) })
	t.Run("queue delay", func(t *testing.T) { testQueueRule(t, s) })
	t.Run("health checks", func(t *testing.T) { testHealthRule(t, s) })
	t.Run("latency", func(t *testing.T) { testLatencyRule(t, s) })
	t.Run("errors", func(t *testing.T) { testErrorRule(t, s) })
}

// crossed says that the rule of a server applies, with these words, and that Envoy and the requests follow.
func (s *steered) crossed(t *testing.T, pool string, server int, weight uint32, why string) {
	t.Helper()
	e := s.awaitWeight(t, pool, server, weight)
	if e.Why != why {
		t.Errorf("%s says %q, want %q", e.Endpoint, e.Why, why)
	}
	want := make([]uint32, len(s.pools[pool].Servers))
	for i := range want {
		want[i] = 1000
	}
	want[server] = weight
	if got := s.assigned(t, pool); !slices.Equal(got, want) {
		t.Errorf("Envoy's weights are %v, want %v", got, want)
	}
	s.follows(t, pool, want)
}

// follows sends requests, and checks that they go to the servers by these weights. Envoy takes turns by weight, so that
// counts are as exact as the turns that are not over; new weights begin the turns anew.
func (s *steered) follows(t *testing.T, pool string, weights []uint32) {
	t.Helper()
	sum := uint32(0)
	for _, w := range weights {
		sum += w
	}
	const n, slack = 400, 6
	got := s.spread(t, pool, n)
	for i, w := range weights {
		if want := float64(n) * float64(w) / float64(sum); math.Abs(float64(got[i])-want) > slack {
			t.Errorf("the servers got %v of %d requests, by the weights %v: server %d should have had %.0f", got, n, weights, i, want)
		}
	}
}

func testGPURule(t *testing.T, s *steered) {
	util := func(v float64) { s.fault(t, "gpu", 1, gpu.Fault{Override: gpu.Override{GPUUtilization: &v}}) }
	s.awaitWeight(t, "gpu", 1, 1000)
	util(0.91)
	s.crossed(t, "gpu", 1, 700, "GPU 91 % > 85 % x0.7 -> 700")
	if v, ok := s.endpoint(t, "gpu", 1).signal("DCGM", "gpuUtilization"); !ok || v != 0.91 {
		t.Errorf("the sample is %v", v)
	}
	// What crossed one line must come back across another.
	util(0.80)
	e := s.await(t, "gpu", 1, "the average has come to 80 %", func(e *steeredEndpoint) bool { return strings.HasPrefix(e.Why, "GPU 80 %,") })
	if e.Why != "GPU 80 %, not yet < 75 % x0.7 -> 700" || e.PublishedWeight != 700 {
		t.Errorf("at 80 %%: %q, weight %d", e.Why, e.PublishedWeight)
	}
	util(0.74)
	if e := s.awaitWeight(t, "gpu", 1, 1000); e.Why != "no rule applies -> 1000" {
		t.Errorf("at 74 %%: %q", e.Why)
	}
}

func testQueueRule(t *testing.T, s *steered) {
	delay := func(d time.Duration) {
		v := gpu.Duration(d)
		s.fault(t, "queue", 2, gpu.Fault{Override: gpu.Override{QueueDelay: &v}})
	}
	s.awaitWeight(t, "queue", 2, 1000)
	delay(620 * time.Millisecond)
	s.crossed(t, "queue", 2, 500, "queue 620 ms > 500 ms x0.5 -> 500")
	if v, ok := s.endpoint(t, "queue", 2).signal("VLLM", "queueDelay"); !ok || math.Abs(v-0.62) > 0.001 {
		t.Errorf("the sample is %v", v)
	}
	delay(400 * time.Millisecond)
	e := s.await(t, "queue", 2, "the average has come to 400 ms", func(e *steeredEndpoint) bool { return strings.HasPrefix(e.Why, "queue 400 ms") })
	if e.Why != "queue 400 ms, not yet < 300 ms x0.5 -> 500" || e.PublishedWeight != 500 {
		t.Errorf("at 400 ms: %q, weight %d", e.Why, e.PublishedWeight)
	}
	delay(250 * time.Millisecond)
	if e := s.awaitWeight(t, "queue", 2, 1000); e.Why != "no rule applies -> 1000" {
		t.Errorf("at 250 ms: %q", e.Why)
	}
}

func testHealthRule(t *testing.T, s *steered) {
	s.awaitWeight(t, "health", 0, 1000)
	s.fault(t, "health", 0, gpu.Fault{Health: 503})
	e := s.await(t, "health", 0, "the server is isolated", func(e *steeredEndpoint) bool {
		// One failed check is nothing.
		if e.FailedHealthChecks < 2 && e.Weight == 0 {
			t.Errorf("isolated after %d failed checks", e.FailedHealthChecks)
		}
		return e.Status == "Isolated"
	})
	if why, _ := e.reason("health"); why.Value < 2 || !strings.HasSuffix(e.Why, " health checks failed in a row -> 0") || e.PublishedWeight != 0 {
		t.Errorf("the server says %q, weight %d", e.Why, e.PublishedWeight)
	}
	if got := s.assigned(t, "health"); !slices.Equal(got, []uint32{0, 1000, 1000}) {
		t.Errorf("Envoy's weights are %v", got)
	}
	if got := s.spread(t, "health", 100); got[0] != 0 {
		t.Errorf("the isolated server got %v of 100 requests", got)
	}
	s.fault(t, "health", 0, gpu.Fault{})
	warm, last, told := 0, uint32(0), false
	e = s.await(t, "health", 0, "the server is back", func(e *steeredEndpoint) bool {
		if e.Status != "WarmingUp" {
			return e.Status == "Active"
		}
		warm++
		why, _ := e.reason("warmUp")
		if want := 1000 * (0.1 + 0.9*why.Value/3); math.Abs(float64(e.Weight)-want) > 2 {
			t.Errorf("%.2f s into a warm-up of 3 s: the weight is %d, want %.0f: %s", why.Value, e.Weight, want, e.Why)
		}
		if e.Weight < last {
			t.Errorf("the weight fell from %d to %d: %s", last, e.Weight, e.Why)
		}
		last = e.Weight
		told = told || func(w uint32) bool { return w > 0 && w < 1000 }(s.assigned(t, "health")[0])
		return false
	})
	if warm == 0 || !told {
		t.Errorf("no warm-up was seen, or Envoy was not told of it (%d, %v)", warm, told)
	}
	s.awaitWeight(t, "health", 0, 1000)
	if got := s.spread(t, "health", 100); got[0] == 0 {
		t.Errorf("the server that is back got none of 100 requests: %v", got)
	}
}

// testLatencyRule: a server that is slow to answer gets less, by what its answers say alone.
func testLatencyRule(t *testing.T, s *steered) {
	stop := s.keepAsking(t, "latency", 4)
	defer stop()
	const slow = 3
	s.fault(t, "latency", slow, gpu.Fault{Speed: 0.2})
	e := s.await(t, "latency", slow, "the weight follows the latency", func(e *steeredEndpoint) bool {
		why, ok := e.reason("latency")
		return ok && why.Factor < 0.4
	})
	why, _ := e.reason("latency")
	// Value is the server's own time to the first token, Line the median of the pool.
	if why.Factor < 0.25 || why.Value < 2*why.Line || !strings.Contains(e.Why, "latency x0.") {
		t.Errorf("%q, of %+v", e.Why, why)
	}
	weights := s.assigned(t, "latency")
	if others := slices.Min(weights[:slow]); weights[slow]*10 > others*7 {
		t.Errorf("Envoy's weights are %v", weights)
	}
	before := s.got("latency")
	count := func() (own, all int) {
		for i, n := range s.got("latency") {
			if all += n - before[i]; i == slow {
				own = n - before[i]
			}
		}
		return own, all
	}
	s.WaitFor("300 requests more", func() bool { _, all := count(); return all >= 300 })
	if own, all := count(); own*5 > all {
		t.Errorf("the slow server got %d of %d requests, of a pool of 4", own, all)
	}
	s.fault(t, "latency", slow, gpu.Fault{})
	s.await(t, "latency", slow, "the weight comes back", func(e *steeredEndpoint) bool { return e.PublishedWeight >= 800 })
}

// keepAsking streams chats to a pool, some at the same time, until it is told to stop. No two have a beginning in common. All must succeed.
func (s *steered) keepAsking(t *testing.T, pool string, workers int) (stop func()) {
	t.Helper()
	var wg sync.WaitGroup
	var next atomic.Int64
	done := make(chan struct{})
	filler := strings.Repeat(" and so on", 400) // 1000 tokens
	for range workers {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				text := fmt.Sprintf("%d%s", next.Add(1), filler)
				a := do(t, http.DefaultClient, request(t, s.Gateway, "POST", "/v1/chat/completions", "openai", question(pool, text, 2, true)))
				if a.status != http.StatusOK {
					t.Errorf("status %d: %s", a.status, a.body)
					return
				}
			}
		})
	}
	return sync.OnceFunc(func() { close(done); wg.Wait() })
}

// testErrorRule: a server whose requests fail is cut off, tried after a while, and warms up when that goes well.
func testErrorRule(t *testing.T, s *steered) {
	const bad = 1
	s.awaitWeight(t, "errors", bad, 1000)
	s.fault(t, "errors", bad, gpu.Fault{Fail: 500})
	at := s.got("errors")[bad]
	failed := 0
	s.WaitFor("the breaker opens", func() bool {
		if a := s.ask(t, "errors"); a.status != 200 {
			failed++
		}
		return s.endpoint(t, "errors", bad).Breaker == "Open"
	})
	if got := s.got("errors")[bad] - at; failed < 6 || got != failed {
		t.Errorf("open after %d failures of %d requests there; 6 are needed", failed, got)
	}
	e := s.await(t, "errors", bad, "the server is isolated", func(e *steeredEndpoint) bool { return e.PublishedWeight == 0 })
	if e.Status != "Isolated" || e.Why != "circuit breaker open -> 0" {
		t.Errorf("the server is %s: %q", e.Status, e.Why)
	}
	if got := s.assigned(t, "errors"); !slices.Equal(got, []uint32{1000, 0, 1000, 1000}) {
		t.Errorf("Envoy's weights are %v", got)
	}
	// It is tried, and fails again.
	halfOpen := func() {
		t.Helper()
		e := s.await(t, "errors", bad, "the server is tried", func(e *steeredEndpoint) bool { return e.Breaker == "HalfOpen" && e.PublishedWeight > 0 })
		if e.Why != "circuit breaker half open x0.05 -> 50" {
			t.Errorf("the server says %q", e.Why)
		}
		if got := s.assigned(t, "errors"); got[bad] != 50 {
			t.Errorf("Envoy's weights are %v", got)
		}
	}
	halfOpen()
	at = s.got("errors")[bad]
	s.WaitFor("a try fails", func() bool { s.ask(t, "errors"); return s.endpoint(t, "errors", bad).Breaker == "Open" })
	if got := s.got("errors")[bad] - at; got != 1 {
		t.Errorf("%d tries, one after the other, until one failure opened the breaker again", got)
	}
	s.fault(t, "errors", bad, gpu.Fault{})
	halfOpen()
	at = s.got("errors")[bad]
	s.WaitFor("the breaker closes", func() bool {
		if a := s.ask(t, "errors"); a.status != 200 {
			t.Errorf("status %d: %s", a.status, a.body)
		}
		return s.endpoint(t, "errors", bad).Breaker == "Closed"
	})
	if got := s.got("errors")[bad] - at; got < 2 {
		t.Errorf("closed after %d tries, of which 2 must succeed", got)
	}
	e = s.await(t, "errors", bad, "the server warms up", func(e *steeredEndpoint) bool { return e.Status == "WarmingUp" })
	if !strings.HasPrefix(e.Why, "warm-up ") {
		t.Errorf("the server says %q", e.Why)
	}
	s.awaitWeight(t, "errors", bad, 1000)
	// Among equals Envoy draws lots.
	if got := s.spread(t, "errors", 200); got[bad] < 10 {
		t.Errorf("the server that is back got %v of 200 requests", got)
	}
}
