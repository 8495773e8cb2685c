package state

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/usage"
)

var backendA = Subject{KindBackend, "default/a"}

func (h *History) of(t *testing.T, s Subject, now time.Time) Dependency {
	t.Helper()
	for _, d := range h.All(now) {
		if d.Subject == s {
			return d
		}
	}
	t.Fatalf("%v is not known", s)
	return Dependency{}
}

func TestHistoryCountsByMinute(t *testing.T) {
	c := clock{t0}
	s := c.state()
	at := func(d time.Duration, edits ...func(*usage.Finished)) { s.Finished(done(t0.Add(d), edits...)) }
	at(0)
	at(59*time.Second, status(503))
	at(time.Minute, fellBack)
	at(90*time.Second, status(404)) // the caller's mistake
	at(time.Hour, status(429))

	d := s.History.of(t, backendA, t0.Add(time.Hour))
	last := Minutes - 1
	for i, want := range map[int][2]uint32{last - 60: {1, 2}, last - 59: {0, 2}, last: {1, 1}, last - 1: {0, 0}} {
		if got := [2]uint32{d.Failures[i], d.Requests[i]}; got != want {
			t.Errorf("minute %d: %v, want %v", i-last, got, want)
		}
	}
	if !d.FirstMinute.Equal(t0.Add(time.Hour - (Minutes-1)*time.Minute)) {
		t.Errorf("the first minute is %v", d.FirstMinute)
	}
	if e := s.History.of(t, Subject{KindEndpoint, "default/b|10.0.0.2:80"}, t0.Add(time.Hour)); e.Failures[last-59] != 1 || len(e.Events) != 0 {
		t.Errorf("the endpoint of the failed attempt: %v", e.Failures[last-60:])
	}
	// Hours later nothing of it is left, also where the counters' places have come round.
	at(time.Hour + Minutes*time.Minute)
	d = s.History.of(t, backendA, t0.Add(time.Hour+Minutes*time.Minute))
	for i := range d.Failures {
		if d.Failures[i] != 0 || (d.Requests[i] != 0) != (i == last) {
			t.Errorf("minute %d: %d of %d", i-last, d.Failures[i], d.Requests[i])
		}
	}
}

func TestEventsRepeat(t *testing.T) {
	c := clock{t0}
	s := c.state()
	for i := range 5 {
		s.Finished(done(t0.Add(time.Duration(i)*time.Second), status(503)))
		s.Finished(done(t0.Add(time.Duration(i)*time.Second), status(429)))
	}
	events, last := s.History.Events(0)
	if len(events) != 2 || events[0].Count != 5 || events[1].Count != 5 || last != 10 || events[0].Seq != 10 || events[0].Text != "Requests fail: rate limit (429)." {
		t.Errorf("%+v, %d", events, last)
	}
	if events, _ := s.History.Events(9); len(events) != 1 {
		t.Errorf("after 9: %+v", events)
	}
	s.Finished(done(t0.Add(5*time.Minute), status(503)))
	if events, _ := s.History.Events(last); len(events) != 1 || events[0].Count != 1 {
		t.Errorf("much later it is another event: %+v", events)
	}
}

func TestEventsAreBounded(t *testing.T) {
	h := newHistory(t0)
	for i := range 2 * maxEvents {
		h.Note(t0, Subject{KindBackend, fmt.Sprint("b", i%3)}, Info, "test", fmt.Sprint(i))
	}
	events, _ := h.Events(0)
	if len(events) != maxEvents || events[0].Text != fmt.Sprint(2*maxEvents-1) {
		t.Errorf("%d events, the newest %+v", len(events), events[0])
	}
	if d := h.of(t, Subject{KindBackend, "b0"}, t0); len(d.Events) != maxOwn {
		t.Errorf("a dependency keeps %d", len(d.Events))
	}
	for i := range 2 * maxDependencies {
		h.Set(t0, Subject{KindEndpoint, fmt.Sprint(i)}, StateOK, "", "test")
	}
	if n := len(h.All(t0)); n != maxDependencies {
		t.Errorf("%d dependencies", n)
	}
}

func TestSet(t *testing.T) {
	h := newHistory(t0)
	var got []string
	set := func(after time.Duration, state, why string) {
		_, last := h.Events(^uint64(0))
		h.Set(t0.Add(after), backendA, state, why, "steering")
		events, _ := h.Events(last)
		for _, e := range events {
			got = append(got, e.Severity+" "+e.Text)
		}
	}
	set(0, StateOK, "")
	set(1, StateIdle, "")
	set(2, StateOK, "")
	set(time.Second, StateDegraded, "1 of 2 is isolated")
	set(2*time.Second, StateDegraded, "1 of 3 is isolated")
	set(3*time.Second, StateDown, "none is left")
	if d := h.of(t, backendA, t0); d.State != StateDown || d.Why != "none is left" || !d.Since.Equal(t0.Add(3*time.Second)) {
		t.Errorf("%+v", d)
	}
	set(4*time.Second, StateOK, "")
	set(5*time.Second, StateDown, "")
	set(6*time.Second, StateIdle, "")
	want := "warning Not fully well: 1 of 2 is isolated\nerror Down: none is left\ninfo Well again.\nerror Down.\ninfo Nothing is known any more: nobody has asked it lately."
	if s := strings.Join(got, "\n"); s != want {
		t.Errorf("got\n%s\nwant\n%s", s, want)
	}
	h3 := newHistory(t0)
	h3.Set(t0, backendA, StateDegraded, "it warms up", "x")
	if events, _ := h3.Events(0); len(events) != 0 {
		t.Error("what is new and not ready is an event")
	}
	h2 := newHistory(t0)
	h2.Set(t0, backendA, StateDown, "from the first", "x")
	if events, _ := h2.Events(0); len(events) != 1 {
		t.Error("what is down from the first is no event")
	}
	h2.Drop(KindBackend, func(string) bool { return false })
	if events, _ := h2.Events(0); len(events) != 1 || len(h2.All(t0)) != 0 {
		t.Error("Drop forgets too much or too little")
	}
	h4 := newHistory(t0)
	a, b := Subject{KindEndpoint, EndpointName("default/a", "10.0.0.1:80")}, Subject{KindEndpoint, EndpointName("default/a", "10.0.0.2:80")}
	both := []end{{backend: "default/a", endpoint: "10.0.0.1:80"}, {backend: "default/a", endpoint: "10.0.0.2:80"}}
	h4.ended(t0, both)
	h4.Drop(KindEndpoint, func(name string) bool { return name == b.Name })
	h4.ended(t0, both)
	for s, want := range map[Subject]uint32{a: 1, b: 2} {
		if d := h4.deps[s]; d == nil || d.counts == nil || d.counts.requests[d.counts.last%Minutes] != want {
			t.Errorf("%v has %+v, want %d requests", s, d, want)
		}
	}
}

func TestJudge(t *testing.T) {
	for name, c := range map[string]struct {
		ok, bad int
		after   time.Duration
		want    string
	}{
		"nothing": {0, 0, 0, StateIdle}, "well": {5, 0, 0, StateOK}, "one in twenty": {19, 1, 0, StateOK}, "one in ten": {9, 1, 0, StateDegraded},
		"one alone": {0, 1, 0, StateDegraded}, "all": {0, 3, 0, StateDown}, "long ago": {0, 3, idleAfter * time.Minute, StateIdle},
		"four in a row": {20, 4, 0, StateDegraded}, "five in a row": {20, 5, 0, StateDown},
	} {
		k := clock{t0}
		s := k.state()
		for range c.ok {
			s.Finished(done(t0))
		}
		for range c.bad {
			s.Finished(done(t0, status(503)))
		}
		if got, why := s.History.Judge(t0.Add(c.after), backendA); got != c.want || (got == StateDown && c.ok == 0) != strings.Contains(why, "every request") {
			t.Errorf("%s: %s, %q, want %s", name, got, why, c.want)
		}
	}
	// While nobody asks, the last judgement stays for some minutes.
	k := clock{t0}
	s := k.state()
	for range 3 {
		s.Finished(done(t0, status(503)))
	}
	state, why := s.History.Judge(t0, backendA)
	s.History.Set(t0, backendA, state, why, "failure")
	if state, why := s.History.Judge(t0.Add(3*time.Minute), backendA); state != StateDown || why != "no request for 3 min; the last 3 have failed: status 503" {
		t.Errorf("three minutes later it is %s: %s", state, why)
	}
}

// TestJudgeAsTimePasses: nothing becomes worse because good requests have become old, and failures that have are forgiven where good ones came since.
func TestJudgeAsTimePasses(t *testing.T) {
	for name, c := range map[string]struct {
		requests string // "+" is a good one, "-" a failure, "|" a minute
		want     string
	}{
		"good ones are old":        {"++++++++|----|", "degraded: requests of the last two minutes have failed: status 503"},
		"and one more fails":       {"++++++++|----|-", "down: every request of the last two minutes has failed: status 503"},
		"one more is good":         {"++++++++|----|+", "degraded: requests of the last two minutes have failed: status 503"},
		"a success makes no worse": {"++++++++++++++++++++++++++++++|--|+", "ok: "},
		"failures are old":         {"+-|+||", "ok: "},
		"one failed":               {"+-||", "degraded: no request for 2 min; the last has failed: status 503"},
		"good since":               {"----|+++|", "ok: "},
		"five in a row after good": {"+++++|-----", "down: the last 5 requests have failed: status 503"},
		"and nobody asks":          {"+++++|-----||", "down: no request for 2 min; the last 5 have failed: status 503"},
		"the last one was good":    {"----+||", "degraded: no request for 2 min; some of the last have failed: status 503"},
		"for five minutes":         {"-----|||||", "idle: "},
		"after a long time":        {"-----||||||+", "ok: "},
		"the first after long":     {"-----||||||-", "degraded: requests of the last two minutes have failed: status 503"},
	} {
		k := clock{t0}
		s := k.state()
		at := t0
		for _, r := range c.requests {
			switch r {
			case '+':
				s.Finished(done(at))
			case '-':
				s.Finished(done(at, status(503)))
			case '|':
				at = at.Add(time.Minute)
			}
		}
		state, why := s.History.Judge(at, backendA)
		if got := state + ": " + why; got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestClockWasAhead: what is counted then is seen once the clock is right again.
func TestClockWasAhead(t *testing.T) {
	k := clock{t0}
	s := k.state()
	s.Finished(done(t0.Add(24*time.Hour), status(503)))
	for range 3 {
		s.Finished(done(t0, status(503)))
	}
	if got, _ := s.History.Judge(t0, backendA); got != StateDown {
		t.Errorf("after a day that the clock was ahead, failures make it %s", got)
	}
}

// TestRepeatedEventIsShown though those of others have taken its place.
func TestRepeatedEventIsShown(t *testing.T) {
	h := newHistory(t0)
	again := func() { h.Note(t0, backendA, Warning, "failure", "Requests fail.") }
	again()
	for i := range maxEvents {
		h.Note(t0, Subject{KindEndpoint, fmt.Sprint(i)}, Info, "x", "x")
	}
	_, seq := h.Events(0)
	again()
	got, _ := h.Events(seq)
	if len(got) != 1 || got[0].Subject != backendA || got[0].Count != 2 {
		t.Errorf("what is new: %+v", got)
	}
}

// TestManyDependencies are all copied, in order.
func TestManyDependencies(t *testing.T) {
	h := newHistory(t0)
	const n = 3*copiedAtOnce + 1
	for i := range n {
		h.Note(t0, Subject{KindEndpoint, fmt.Sprintf("%04d", i)}, Info, "x", "x")
	}
	all := h.All(t0)
	if len(all) != n {
		t.Fatalf("%d of %d", len(all), n)
	}
	for i, d := range all {
		if d.Subject.Name != fmt.Sprintf("%04d", i) {
			t.Fatalf("%d is %s", i, d.Subject.Name)
		}
	}
}

func TestBreaker(t *testing.T) {
	h := newHistory(t0)
	policy, endpoint := Subject{KindBreaker, "default/p|acme"}, Subject{KindEndpoint, "default/a|10.0.0.1:80"}
	change := breaker.Change{Rule: &breaker.Rule{Name: "default/p"}, Key: "acme", To: breaker.Open, At: t0, Requests: 4, Failures: 3}
	h.Breaker(policy, change)
	h.Breaker(endpoint, change)
	if d := h.of(t, policy, t0); d.State != StateDown || d.Events[0].Text != "The circuit breaker has opened: 3 of 4 requests failed." {
		t.Errorf("%+v", d)
	}
	if d := h.of(t, endpoint, t0); d.State != StateIdle || len(d.Events) != 1 {
		t.Errorf("the breaker of an endpoint says what steering is to say: %+v", d)
	}
	for _, x := range []struct {
		to   breaker.State
		want string
	}{{breaker.HalfOpen, StateDegraded}, {breaker.Open, StateDown}, {breaker.WarmingUp, StateDegraded}, {breaker.Closed, StateOK}} {
		h.Breaker(policy, breaker.Change{To: x.to, At: t0})
		if d := h.of(t, policy, t0); d.State != x.want {
			t.Errorf("%s: %s", x.to, d.State)
		}
	}
	h.Breaker(policy, breaker.Change{Forgotten: true})
	if n := len(h.All(t0)); n != 1 {
		t.Errorf("%d dependencies are left", n)
	}
}

// TestLastAttemptIsCountedOnce, whether Envoy has told of it apart, or twice.
func TestLastAttemptIsCountedOnce(t *testing.T) {
	last := usage.Failed{N: 2, Backend: "default/a", Endpoint: "10.0.0.1:80", Status: 504, Flags: "UT"}
	for name, told := range map[string][]usage.Failed{"not": nil, "once": {last}, "twice": {last, last}} {
		k := clock{t0}
		s := k.state()
		s.Finished(done(t0, fellBack, status(504), func(f *usage.Finished) {
			f.Record.Flags = "UT"
			f.Failed = append(f.Failed, told...)
		}))
		if d := s.History.of(t, backendA, t0); d.Failures[Minutes-1] != 1 || d.Requests[Minutes-1] != 1 {
			t.Errorf("%s: %d failures of %d requests", name, d.Failures[Minutes-1], d.Requests[Minutes-1])
		}
	}
}
