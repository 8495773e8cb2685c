package extproc

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage"
)

// fallbackRules has rules over the three pools and one that nobody steers, asked in the order in which they are written.
func fallbackRules(attempts int, unasked bool) func(*rules) {
	return func(r *rules) {
		r.attempts, r.unasked = attempts, unasked
		model := "another" // whose name makes it a chain that asks
		if unasked {
			model = ""
		}
		for _, list := range []string{"gpu", "gpu+far", "gpu+vllm", "gpu+vllm+far", "gpu+named", "named", "named+gpu"} {
			var choices []choice
			for name := range strings.SplitSeq(list, "+") {
				choices = append(choices, choice{name, model})
			}
			for i, c := range r.add(list, models(list), choices...).Candidates {
				c.Priority = int32(i)
			}
		}
	}
}

// TestNamedEndpoints: Envoy gets as many endpoints as there are attempts at their pool before another pool reads the list.
func TestNamedEndpoints(t *testing.T) {
	for _, c := range []struct {
		rule     string
		attempts int // 0: one for each backend
		want     int
	}{
		{"gpu", 0, 1}, {"gpu", 2, 2}, {"gpu", 3, 3}, {"gpu", 9, pick.MaxEndpoints},
		{"gpu+far", 0, 1}, {"gpu+far", 3, 1}, // gpu, far, gpu
		{"gpu+vllm", 0, 1}, {"gpu+vllm", 3, 2}, // nobody reads it between them
		{"gpu+vllm+far", 0, 1}, {"gpu+vllm+far", 4, 1},
		{"gpu+named", 3, 2},
		{"named", 2, 0}, {"named+gpu", 0, 0},
	} {
		s := newSteeredRig(t, fallbackRules(c.attempts, false))
		d := s.open(chatHeaders(), numbered(c.rule, ""))
		list := said(d.first, wire.KeyEndpoints)
		got := strings.Split(list, ",")
		if list == "" {
			got = nil
		}
		if len(got) != c.want {
			t.Errorf("%s with %d attempts: %q, want %d", c.rule, c.attempts, list, c.want)
		}
		slices.Sort(got)
		if len(slices.Compact(got)) != c.want {
			t.Errorf("%s with %d attempts: %q names one twice", c.rule, c.attempts, list)
		}
		for _, e := range got {
			if !slices.Contains(s.rules.backends["gpu"].Endpoints, e) {
				t.Errorf("%s: %s is not of the pool", c.rule, e)
			}
		}
	}
}

// TestAttemptsAreTold: what an endpoint has in flight, and what its breaker is told, follows the attempts of a request.
func TestAttemptsAreTold(t *testing.T) {
	far, named := addresses(2, 2), "api.example:443"
	// An ending is the record's backend, endpoint ("0" and so on: by the list) and status. With the number of attempts negated, the
	// first of them was refused.
	type ending struct {
		backend, endpoint string
		status, attempts  int
	}
	// refusals are of attempts before the last, which led to another: by the list.
	const refusals = "0"
	for _, c := range []struct {
		name     string
		rule     string
		attempts int
		asked    []string // the attempts that are prepared
		during   []int64  // in flight at gpu after them, in the order of the list and then the rest; nil: not checked
		ending   ending
		want     map[string]string // "requests/failures" of endpoints: "0" and so on, or addresses
		retold   bool              // Envoy has told of the last attempt, too, which is not followed by another
	}{
		{"answered", "gpu", 0, []string{"gpu"}, []int64{1}, ending{"gpu", "0", 200, 1}, map[string]string{"0": "1/0"}, false},
		{"failed", "gpu", 0, []string{"gpu"}, []int64{1}, ending{"gpu", "0", 500, 1}, map[string]string{"0": "1/1"}, false},
		{"the caller's fault", "gpu", 0, []string{"gpu"}, []int64{1}, ending{"gpu", "0", 400, 1}, map[string]string{"0": "0/0"}, false},
		{"never connected", "gpu", 0, nil, []int64{1}, ending{"", "", 503, 1}, map[string]string{"0": "1/1"}, false},
		{"the second answers", "gpu", 2, []string{"gpu", "gpu"}, []int64{0, 1}, ending{"gpu", "1", 200, 2}, map[string]string{"0": "1/1", "1": "1/0"}, false},
		{"the second answers, and the first was not prepared", "gpu", 2, []string{"gpu"}, []int64{1, 0}, ending{"gpu", "1", 200, 2}, map[string]string{"0": "1/1", "1": "1/0"}, false},
		{"both fail", "gpu", 2, []string{"gpu", "gpu"}, []int64{0, 1}, ending{"gpu", "1", 500, 2}, map[string]string{"0": "1/1", "1": "1/1"}, false},
		{"the third answers", "gpu", 3, []string{"gpu", "gpu", "gpu"}, []int64{0, 0, 1}, ending{"gpu", "2", 200, 3}, map[string]string{"0": "1/1", "1": "1/1", "2": "1/0"}, false},
		{"Envoy went elsewhere", "gpu", 0, []string{"gpu"}, []int64{1}, ending{"gpu", "other", 200, 1}, map[string]string{"0": "0/0", "other": "1/0"}, false},
		{"another pool answers", "gpu+far", 0, []string{"gpu", "far"}, []int64{0}, ending{"far", far[1], 200, 2}, map[string]string{"0": "1/1", far[1]: "1/0"}, false},
		{"another pool answers, and the first was not prepared", "gpu+far", 0, []string{"far"}, []int64{0}, ending{"far", far[1], 200, 2}, map[string]string{"0": "1/1", far[1]: "1/0"}, false},
		{"no attempt was prepared", "gpu+far", 0, nil, []int64{1}, ending{"far", far[0], 500, 2}, map[string]string{"0": "1/1", far[0]: "1/1"}, false},
		{"another pool's answer is left by the caller", "gpu+far", 0, []string{"gpu", "far"}, []int64{0}, ending{"far", far[1], 0, 2}, map[string]string{"0": "1/1", far[1]: "0/0"}, false},
		{"somebody whom nobody steers answers", "gpu+vllm", 0, []string{"gpu", "vllm"}, []int64{0}, ending{"vllm", "10.9.9.9:1", 200, 2}, map[string]string{"0": "1/1"}, false},
		{"once round, and the first again", "gpu+vllm", 3, []string{"gpu", "vllm", "gpu"}, nil, ending{"gpu", "1", 200, 3}, map[string]string{"0": "1/1", "1": "1/0"}, false},
		{"once round, not prepared", "gpu+vllm", 3, nil, nil, ending{"gpu", "1", 200, 3}, map[string]string{"0": "1/1", "1": "1/0"}, false},
		{"once round, and the other again", "gpu+far", 4, []string{"gpu", "far", "gpu", "far"}, nil, ending{"far", far[0], 200, 4}, map[string]string{"0": "1/1", far[0]: "1/0"}, false},
		{"the first refuses, the second answers", "gpu", 2, []string{"gpu", "gpu"}, nil, ending{"gpu", "1", 200, -2}, map[string]string{"0": "0/0", "1": "1/0"}, false},
		{"the first refuses, another pool answers", "gpu+far", 0, []string{"gpu", "far"}, nil, ending{"far", far[1], 200, -2}, map[string]string{"0": "0/0", far[1]: "1/0"}, false},
		{"a name", "named", 0, []string{"named"}, nil, ending{"named", "93.184.216.34:443", 200, 1}, map[string]string{named: "1/0"}, false},
		{"a name that fails", "named", 0, []string{"named"}, nil, ending{"named", "93.184.216.34:443", 503, 1}, map[string]string{named: "1/1"}, false},
		{"a name that is asked twice", "named", 2, []string{"named", "named"}, nil, ending{"named", "93.184.216.34:443", 200, 2}, map[string]string{named: "2/1"}, false},
		{"it fails, and nobody else is asked", "gpu+far", 0, []string{"gpu"}, []int64{0}, ending{"gpu", "0", 500, 1}, map[string]string{"0": "1/1"}, true},
		{"it refuses, and nobody else is asked", "gpu+far", 0, []string{"gpu"}, []int64{0}, ending{"gpu", "0", 400, 1}, map[string]string{"0": "0/0"}, true},
		{"it fails at last, and is asked no more", "gpu", 3, []string{"gpu", "gpu"}, []int64{0, 0, 1}, ending{"gpu", "1", 500, 2}, map[string]string{"0": "1/1", "1": "1/1", "2": "0/0"}, true},
		{"after a pool, a name", "gpu+named", 0, []string{"gpu", "named"}, []int64{0}, ending{"named", "93.184.216.34:443", 200, 2}, map[string]string{"0": "1/1", named: "1/0"}, false},
	} {
		run := func(t *testing.T, unasked bool) {
			s := newSteeredRig(t, fallbackRules(c.attempts, unasked))
			d := s.open(chatHeaders(), numbered(c.rule, ""))
			if !unasked {
				d.body(prompt(c.rule))
			}
			list := strings.Split(said(d.first, wire.KeyEndpoints), ",")
			for _, e := range s.rules.backends["gpu"].Endpoints {
				if !slices.Contains(list, e) {
					list = append(list, e) // not named, in any order
				}
			}
			at := func(name string) string {
				switch name {
				case "0", "1", "2":
					return list[name[0]-'0']
				case "other":
					return list[len(list)-1]
				}
				return name
			}
			during := c.during
			if unasked && !strings.Contains(c.rule, "+") {
				during = nil // a rule with one backend is not followed
			}
			for i, b := range c.asked {
				switch {
				case !unasked:
					s.attempt(d.first, "chain/"+c.rule, "default/"+b, chatHeaders())
				case i == 0 && !strings.HasPrefix(c.rule, b):
					during = nil // nobody tells before one has failed
				case i > 0:
					s.desk.Failed(&usage.Failed{Span: s.span(d.first), N: i, Backend: "default/" + c.asked[i-1], Status: 503})
				}
			}
			if c.retold {
				s.desk.Failed(&usage.Failed{Span: s.span(d.first), N: len(c.asked), Backend: "default/" + c.asked[len(c.asked)-1], Status: 500})
			}
			for i, want := range during {
				for _, e := range s.pool("gpu").Endpoints {
					if e.Key == list[i] && e.Requests != want {
						t.Errorf("endpoint %d has %d requests in flight, want %d", i, e.Requests, want)
					}
				}
			}
			d.end()
			s.record(d.first, func(rec *usage.Record) {
				rec.Status, rec.Attempts, rec.Endpoint = c.ending.status, c.ending.attempts, at(c.ending.endpoint)
				if rec.Attempts < 0 {
					rec.Attempts = -rec.Attempts
					rec.Signals = map[string]string{"default/gpu " + at(refusals): "429", "default/gpu 10.8.8.8:1": "200"}
				}
				rec.Aborted = c.ending.status == 0
				if c.ending.backend != "" {
					rec.Backend = "default/" + c.ending.backend
				} else {
					rec.Details, rec.Endpoint = "upstream_reset_before_response_started", ""
				}
			})
			s.settled()
			for name, want := range c.want {
				requests, failures := s.results(at(name))
				if got := fmt.Sprintf("%d/%d", requests, failures); got != want {
					t.Errorf("the breaker of %s was told %s, want %s", name, got, want)
				}
			}
		}
		if !c.retold {
			t.Run(c.name, func(t *testing.T) { run(t, false) })
		}
		t.Run(c.name+", and Envoy prepares the attempts", func(t *testing.T) { run(t, true) })
	}
}

// TestWeights: where Envoy picks by weights nothing is named, and the breakers hear of it.
func TestWeights(t *testing.T) {
	setup := func(t *testing.T) *steeredRig {
		return newSteeredRig(t, func(r *rules) {
			r.backends["gpu"].Pick.Mode, r.backends["far"].Pick.Mode = pick.Weights, pick.Weights
			r.backends["gpu"].Pick.Prefix = &pick.Prefix{BlockTokens: 16, MaxBlocks: 1000}
			r.table.Prompts = true
			r.add("one", models("one"), choice{"gpu", ""})
			r.add("several", models("several"), choice{"gpu", ""}, choice{"far", ""}, choice{"vllm", ""})
		})
	}
	for _, model := range []string{"one", "several"} {
		for _, status := range []int{200, 500} {
			t.Run(fmt.Sprint(model, " ", status), func(t *testing.T) {
				s := setup(t)
				d := s.open(chatHeaders(), numbered(model, ""))
				if said(d.first, wire.KeyEndpoints) != "" || said(d.first, wire.KeyExchange) == "" {
					t.Fatalf("decided %v", d.first)
				}
				if got := s.pool("gpu").Requests; (got == 1) != (model == "one") {
					t.Errorf("%d requests are counted in the pool", got)
				}
				d.end()
				endpoint := s.rules.backends["gpu"].Endpoints[1]
				s.record(d.first, func(rec *usage.Record) { rec.Backend, rec.Endpoint, rec.Status = "default/gpu", endpoint, status })
				s.settled()
				requests, failures := s.results(endpoint)
				if requests != 1 || (failures == 1) != (status == 500) {
					t.Errorf("the breaker was told of %d requests and %d failures", requests, failures)
				}
			})
		}
	}
	t.Run("an attempt that failed", func(t *testing.T) {
		for _, model := range []string{"one", "several"} {
			s := setup(t)
			d := s.open(chatHeaders(), numbered(model, ""))
			list := s.rules.backends["gpu"].Endpoints
			s.record(d.first, func(rec *usage.Record) {
				rec.Backend, rec.Endpoint, rec.Attempts = "default/gpu", list[1], 3
				rec.Signals = map[string]string{"default/gpu " + list[0]: "503", "default/gpu " + list[2]: "429", "default/gpu " + list[1]: "500"}
			})
			for i, want := range []string{"1/1", "1/0", "0/0"} {
				requests, failures := s.results(list[i])
				if got := fmt.Sprintf("%d/%d", requests, failures); got != want {
					t.Errorf("%s: the breaker of endpoint %d was told %s, want %s", model, i, got, want)
				}
			}
		}
	})
	t.Run("half open", func(t *testing.T) {
		s := setup(t)
		endpoint, rule := s.rules.backends["gpu"].Endpoints[1], s.rules.backends["gpu"].Pick.Breaker
		for range rule.MinRequests {
			pass, _ := s.endpoints.Allow(rule, endpoint, s.clock())
			pass.Done(false, s.clock())
		}
		s.advance(rule.OpenFor)
		if got := s.endpoints.State(rule, endpoint, s.clock()); got != breaker.HalfOpen {
			t.Fatalf("the breaker is %v", got)
		}
		d := s.open(chatHeaders(), numbered("several", ""))
		s.record(d.first, func(rec *usage.Record) { rec.Backend, rec.Endpoint = "default/gpu", endpoint })
		if got := s.endpoints.State(rule, endpoint, s.clock()); got != breaker.Closed {
			t.Errorf("after a good answer the breaker is %v", got)
		}
	})
	t.Run("an endpoint that is gone", func(t *testing.T) {
		s := setup(t)
		d := s.open(chatHeaders(), numbered("several", ""))
		s.record(d.first, func(rec *usage.Record) { rec.Backend, rec.Endpoint = "default/gpu", "10.9.9.9:1" })
		if n := len(s.endpoints.States(s.clock())); n != 0 {
			t.Errorf("%d breakers were made for an address that the pool does not have", n)
		}
		s.settled()
	})
}

// TestPoolOfAnOldTable: a pool that is gone names no endpoints; Envoy chooses.
func TestPoolOfAnOldTable(t *testing.T) {
	s := newSteeredRig(t, poolRules)
	s.picker.Retain(func(string) bool { return false })
	for _, model := range []string{"direct", "read"} {
		d, last := s.decided(model, "")
		if said(last, wire.KeyEndpoints) != "" {
			t.Errorf("%s names endpoints: %v", model, last)
		}
		d.end()
		s.record(last, func(rec *usage.Record) { rec.Backend = "default/gpu" })
	}
	s.settled()
}

// TestSessions of two callers are two, whatever they call them.
func TestSessions(t *testing.T) {
	s := newSteeredRig(t, func(r *rules) {
		r.backends["gpu"].Pick.Session = &pick.Session{Header: "X-Session-ID", IdleTimeout: time.Hour, MaxGapTokens: 1 << 30}
		r.add("chat", models("gpt-chat"), choice{"gpu", ""})
	})
	seen := map[string]bool{}
	for range 5 {
		d := s.open(chatHeaders("x-session-id", "s1"), numbered("gpt-chat", ""))
		seen[said(d.first, wire.KeyEndpoints)] = true
	}
	if len(seen) != 1 {
		t.Errorf("a session is at %v", seen)
	}
	if n := s.pool("gpu").Sessions; n != 1 {
		t.Errorf("%d sessions", n)
	}
	s.open(chatHeaders("x-session-id", "s1").with("authorization", "Bearer "+narrowKey), numbered("gpt-chat", ""))
	if n := s.pool("gpu").Sessions; n != 2 {
		t.Errorf("%d sessions of two callers", n)
	}
}

// TestEndingsTogether mixes every ending, under a pool that is full most of the time and changes meanwhile.
func TestEndingsTogether(t *testing.T) {
	const workers, each = 12, 60
	s := newSteeredRig(t, func(r *rules) {
		for _, name := range []string{"gpu", "far"} {
			r.backends[name].Pick.Admission = &pick.Admission{MaxRequests: 2, MaxWaiting: 4, MaxWait: 5 * time.Millisecond}
		}
		poolRules(r)
		r.table.Policies.AllTenants[0].Breaker = nil // it would refuse most of them
		r.attempts = 3
		r.add("mixed", models("mixed"), choice{"gpu", "another"}, choice{"vllm", ""})
	})
	s.panics = func(where string) {
		if where == "steering" && rand.IntN(200) == 0 {
			panic("boom")
		}
	}
	stop := make(chan struct{})
	var background, wg sync.WaitGroup
	background.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				s.update(s.rules.backends["gpu"], i%4)
				s.update(s.rules.backends["far"], i%3)
				s.desk.Sweep(s.clock())
				s.server.Sweep()
			}
		}
	})
	outcomes := make([]map[string]int, workers)
	for w := range workers {
		outcomes[w] = map[string]int{}
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(w)))
			for i := range each {
				model := append(slices.Clone(steeredModels), "mixed")[rnd.IntN(len(steeredModels)+1)]
				outcomes[w][s.live(rnd, model, fmt.Sprint("n-", w, "-", i))]++
			}
		})
	}
	wg.Wait()
	close(stop)
	background.Wait()
	until(t, "everything to be given back", func() bool {
		s.desk.Lost(s.clock()) // those that have no record
		s.server.ReleaseAll()
		return s.pool("gpu").Requests+s.pool("far").Requests+int64(s.pool("gpu").Waiting+s.pool("far").Waiting) == 0 &&
			s.server.opts.Limits.States(1)[0].Subjects[0].Reserved == 0 && s.desk.InFlight() == 0
	})
	s.settled()
	all := map[string]int{}
	for _, m := range outcomes {
		for k, n := range m {
			all[k] += n
		}
	}
	for _, want := range []string{"refused", "left while waiting", "answered", "failed", "left", "lost"} {
		if all[want] == 0 {
			t.Errorf("no request was %s: the test does not try what it should: %v", want, all)
		}
	}
}

// live lives the life of one request, and says how it ended.
func (r *steeredRig) live(rnd *rand.Rand, model, id string) string {
	pool := poolOf(model)
	a := r.ask(model, id)
	defer a.cancel()
	if rnd.IntN(8) == 0 {
		a.cancel() // perhaps while it waits
		for range a.answer {
		}
		return "left while waiting"
	}
	resp, ok := <-a.answer
	switch {
	case !ok:
		return "broken"
	case resp.GetImmediateResponse() != nil:
		return "refused"
	}
	if (chained(model) || model == "mixed") && !readsPrompt(model) {
		d := &door{t: r.t, stream: a.stream}
		if err := d.stream.Send(bodyOf(prompt(model))); err != nil {
			return "broken"
		}
		if _, err := d.stream.Recv(); err != nil {
			return "broken"
		}
	}
	if said(resp, wire.KeyExchange) == "" {
		r.t.Errorf("%s is not let in: %v", model, resp)
		return "broken"
	}
	attempts := 1
	if model == "mixed" {
		for _, b := range []string{"gpu", "vllm", "gpu"}[:rnd.IntN(4)] {
			r.attempt(resp, "chain/mixed", "default/"+b, chatHeaders())
			attempts++
		}
	} else if rnd.IntN(2) == 0 {
		r.attempted(model, pool, resp)
	}
	record := func(change func(*usage.Record)) {
		r.record(resp, func(rec *usage.Record) {
			rec.Backend, rec.Endpoint, rec.Attempts = "default/"+pool, said(resp, wire.KeyEndpoints), attempts
			change(rec)
		})
	}
	switch rnd.IntN(5) {
	case 0:
		record(func(rec *usage.Record) { rec.Status = 503 })
		return "failed"
	case 1:
		record(func(rec *usage.Record) { rec.Status, rec.Aborted = 0, true })
		return "left"
	case 2:
		return "lost" // there is no record of it
	}
	record(func(*usage.Record) {})
	return "answered"
}

// TestNoRetryWithoutAnyone: where only isolated endpoints are left for a retry, the caller gets what the backend has said. Envoy knows
// nothing of isolation where it resolves a name by itself, and there a retry may succeed.
func TestNoRetryWithoutAnyone(t *testing.T) {
	for _, c := range []struct {
		rule, gone string
		want       string // "": as many as the rule says
	}{
		{"gpu+far", "", ""}, {"gpu+far", "far", "0"}, {"gpu+vllm+far", "far", "1"}, {"gpu+named", "named", ""}, {"gpu", "", ""},
	} {
		for _, unasked := range []bool{false, true} {
			s := newSteeredRig(t, fallbackRules(0, unasked))
			if c.gone != "" {
				s.set(c.gone, 0, false)
			}
			d := s.open(chatHeaders(), numbered(c.rule, ""))
			if got := setHeader(d.first, wire.RetriesHeader); got != c.want {
				t.Errorf("%s without %q, Envoy prepares attempts: %v: %q retries, want %q", c.rule, c.gone, unasked, got, c.want)
			}
		}
	}
}
