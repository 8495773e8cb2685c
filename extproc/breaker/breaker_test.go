package breaker

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// busy is a rule with round numbers.
func busy(change func(*Rule)) *Rule {
	r := &Rule{ID: "LimitPolicy/default/busy", Name: "busy", ErrorPercent: 50, MinRequests: 4, Window: 16 * time.Second,
		OpenFor: 5 * time.Second, HalfOpenRequests: 3, WarmUp: 10 * time.Second}
	if change != nil {
		change(r)
	}
	return r
}

// rig is a Set with one rule, a clock and what it told.
type rig struct {
	*Set
	t       *testing.T
	rule    *Rule
	key     string
	now     time.Time
	changes []string
	passes  map[string]Pass // kept by name
}

func newRig(t *testing.T, rule *Rule) *rig {
	r := &rig{t: t, rule: rule, now: start, passes: map[string]Pass{}}
	r.Set = New(Options{Now: func() time.Time { return r.now }, OnChange: func(c Change) {
		word := fmt.Sprintf("%s>%s", c.From, c.To)
		if c.Forgotten {
			word += " forgotten"
		}
		if c.Requests > 0 {
			word += fmt.Sprintf(" %d/%d", c.Failures, c.Requests)
		}
		r.changes = append(r.changes, word)
	}})
	return r
}

// allow asks once, and gives "pass", "shadow" or the state that refuses.
func (r *rig) allow() (Pass, string) {
	p, no := r.Allow(r.rule, r.key, r.now)
	switch {
	case no != nil:
		if no.Rule != r.rule || no.RetryAfter <= 0 {
			r.t.Errorf("refusal %+v", no)
		}
		return p, no.State.String() + " " + no.RetryAfter.String()
	case p.Shadowed():
		return p, "shadow"
	}
	return p, "pass"
}

// do runs a script of steps: "ok", "fail", "drop" are whole requests; "a=" begins one named a, "a:ok" ends it; "+5s" is
// time; "no Open 5s" expects that refusal; "shadow" expects one that is only told.
func (r *rig) do(script string) {
	r.t.Helper()
	for step := range strings.SplitSeq(script, ",") {
		step = strings.TrimSpace(step)
		name, how, named := strings.Cut(step, ":")
		switch {
		case step[0] == '+':
			d, err := time.ParseDuration(step[1:])
			if err != nil {
				r.t.Fatal(err)
			}
			r.now = r.now.Add(d)
		case strings.HasPrefix(step, "no "):
			if _, got := r.allow(); got != step[3:] {
				r.t.Fatalf("step %q of %q: %s", step, script, got)
			}
		case step == "shadow":
			p, got := r.allow()
			if got != "shadow" {
				r.t.Fatalf("step %q of %q: %s", step, script, got)
			}
			p.Done(false, r.now) // must not count
		case named:
			r.end(r.passes[name], how)
		default:
			p, got := r.allow()
			if got != "pass" {
				r.t.Fatalf("step %q of %q: %s", step, script, got)
			}
			if name, ok := strings.CutSuffix(step, "="); ok {
				r.passes[name] = p
			} else {
				r.end(p, step)
			}
		}
	}
}

func (r *rig) end(p Pass, how string) {
	switch how {
	case "ok", "fail":
		p.Done(how == "ok", r.now)
	case "drop":
		p.Drop()
	default:
		r.t.Fatalf("%q is no end", how)
	}
}

func (r *rig) state() Status {
	r.t.Helper()
	all := r.States(r.now)
	if len(all) != 1 {
		r.t.Fatalf("states %+v", all)
	}
	return all[0]
}

const (
	opened   = "Closed>Open 4/4"
	halfOpen = "Open>HalfOpen"
)

func TestBreaker(t *testing.T) {
	long := func(r *Rule) { r.WarmUp = 0 }
	for name, c := range map[string]struct {
		change  func(*Rule)
		script  string
		changes []string
		state   State
	}{
		"healthy":                    {nil, "ok, ok, ok, ok, ok", nil, Closed},
		"too few":                    {nil, "fail, fail, fail", nil, Closed},
		"enough":                     {nil, "fail, fail, fail, fail, no Open 5s", []string{opened}, Open},
		"a success makes it enough":  {nil, "fail, fail, fail, ok, no Open 5s", []string{"Closed>Open 3/4"}, Open},
		"below the share":            {nil, "ok, ok, ok, fail, fail, ok", nil, Closed},
		"at the share":               {nil, "ok, ok, fail, fail, no Open 5s", []string{"Closed>Open 2/4"}, Open},
		"every failure":              {func(r *Rule) { r.ErrorPercent = 100 }, "ok, fail, fail, fail, fail, fail", nil, Closed},
		"dropped ones do not count":  {nil, "fail, fail, fail, drop, drop", nil, Closed},
		"old failures do not count":  {nil, "fail, fail, fail, +16s, fail", nil, Closed},
		"failures of 15 s ago count": {nil, "fail, fail, fail, +15s, fail, no Open 5s", []string{opened}, Open},
		"old successes do not count": {nil, "ok, ok, ok, ok, ok, +16s, fail, fail, fail, fail, no Open 5s", []string{opened}, Open},
		"time that is left":          {nil, "fail, fail, fail, fail, +4999ms, no Open 1ms", []string{opened}, Open},
		"a clock that steps back":    {nil, "fail, fail, fail, fail, +-60s, no Open 5s", []string{opened}, Open},

		"three may try": {long, "fail, fail, fail, fail, +5s, a=, b=, c=, no HalfOpen 5s, +1s, no HalfOpen 4s",
			[]string{opened, halfOpen}, HalfOpen},
		"all three succeed": {long, "fail, fail, fail, fail, +5s, a=, b=, c=, a:ok, no HalfOpen 5s, b:ok, c:ok, ok, ok, ok, fail",
			[]string{opened, halfOpen, "HalfOpen>Closed"}, Closed},
		"one fails": {long, "fail, fail, fail, fail, +5s, a=, b=, c=, a:ok, b:ok, +1s, c:fail, no Open 5s",
			[]string{opened, halfOpen, "HalfOpen>Open"}, Open},
		"two fail, which is once": {long, "fail, fail, fail, fail, +5s, a=, b=, a:fail, +1s, b:fail, no Open 4s",
			[]string{opened, halfOpen, "HalfOpen>Open"}, Open},
		"failures of before do not open it": {long, "x=, y=, fail, fail, fail, fail, +5s, a=, x:fail, b=, c=, a:ok, b:ok, c:ok, y:fail, fail, fail, fail",
			[]string{opened, halfOpen, "HalfOpen>Closed"}, Closed},
		"successes of before do not close it": {long, "x=, y=, z=, fail, fail, fail, fail, +5s, x:ok, y:ok, z:ok, a=",
			[]string{opened, halfOpen}, HalfOpen},
		"late ones while it is open": {long, "x=, y=, fail, fail, fail, fail, x:ok, y:fail, no Open 5s", []string{opened}, Open},
		"one that tried before it opened again": {long,
			"fail, fail, fail, fail, +5s, a=, b=, a:fail, +5s, c=, b:fail, d=, e=, c:ok, d:ok, b:ok, no HalfOpen 5s",
			[]string{opened, halfOpen, "HalfOpen>Open", halfOpen}, HalfOpen},
		"a dropped try gives its place": {long, "fail, fail, fail, fail, +5s, a=, b=, c=, b:drop, d=, no HalfOpen 5s, a:ok, c:ok, d:ok, ok",
			[]string{opened, halfOpen, "HalfOpen>Closed"}, Closed},
		"lost tries give their places": {long, "fail, fail, fail, fail, +5s, a=, b=, c=, +2s, b:ok, +3s, d=, e=, no HalfOpen 5s, d:ok, e:ok, ok",
			[]string{opened, halfOpen, "HalfOpen>Closed"}, Closed},
		"a slow try counts without its place": {long, "fail, fail, fail, fail, +5s, a=, b=, c=, +5s, d=, e=, f=, +5s, a:ok, b:ok, c:ok, ok",
			[]string{opened, halfOpen, "HalfOpen>Closed"}, Closed},
		"a slow try fails": {long, "fail, fail, fail, fail, +5s, a=, b=, c=, +5s, d=, e=, f=, d:ok, e:ok, a:fail, no Open 5s",
			[]string{opened, halfOpen, "HalfOpen>Open"}, Open},
		"a slow try is dropped": {long, "fail, fail, fail, fail, +5s, a=, b=, c=, +5s, d=, e=, f=, a:drop, no HalfOpen 5s",
			[]string{opened, halfOpen}, HalfOpen},

		"warm-up lets a tenth in": {nil, "fail, fail, fail, fail, +5s, ok, ok, ok, ok," + strings.Repeat("no WarmingUp 1s,", 9) + "ok, no WarmingUp 1s",
			[]string{opened, halfOpen, "HalfOpen>WarmingUp"}, WarmingUp},
		"warm-up, half way": {nil, "fail, fail, fail, fail, +5s, ok, ok, ok, +5s, ok, ok, no WarmingUp 1s, ok, no WarmingUp 1s, ok",
			[]string{opened, halfOpen, "HalfOpen>WarmingUp"}, WarmingUp},
		"warm-up ends": {nil, "fail, fail, fail, fail, +5s, ok, ok, ok, ok, +9999ms, ok, ok, ok, +1ms, ok, ok, ok",
			[]string{opened, halfOpen, "HalfOpen>WarmingUp", "WarmingUp>Closed"}, Closed},
		"warm-up opens": {func(r *Rule) { r.MinRequests = 2 }, "fail, fail, +5s, ok, ok, ok, +9s, fail, fail, no Open 5s",
			[]string{"Closed>Open 2/2", halfOpen, "HalfOpen>WarmingUp", "WarmingUp>Open 2/2"}, Open},
		"a request of the warm-up counts after it": {func(r *Rule) { r.MinRequests = 2 }, "fail, fail, +5s, ok, ok, ok, a=, +10s, b=, a:fail, b:fail, no Open 5s",
			[]string{"Closed>Open 2/2", halfOpen, "HalfOpen>WarmingUp", "WarmingUp>Closed", "Closed>Open 2/2"}, Open},

		"shadow": {func(r *Rule) { r.Shadow, r.WarmUp = true, 0 },
			"fail, fail, fail, fail, shadow, shadow, +5s, a=, b=, c=, shadow, a:ok, b:ok, c:ok, ok",
			[]string{opened, halfOpen, "HalfOpen>Closed"}, Closed},
		"numbers of nothing": {func(r *Rule) { *r = Rule{ID: "x"} }, "fail, ok, +1s, ok",
			[]string{"Closed>Open 1/1", halfOpen, "HalfOpen>Closed"}, Closed},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, busy(c.change))
			r.do(c.script)
			if !slices.Equal(r.changes, c.changes) {
				t.Errorf("changes %q, want %q", r.changes, c.changes)
			}
			if s := r.state(); s.State != c.state {
				t.Errorf("state %s, want %s", s.State, c.state)
			}
		})
	}
}

// TestConfigurationChanges: a breaker lives on under its ID, with the new rule's numbers.
func TestConfigurationChanges(t *testing.T) {
	r := newRig(t, busy(nil))
	r.do("x=, fail, fail, fail")
	r.rule = busy(func(n *Rule) { n.MinRequests = 5; n.OpenFor = time.Minute })
	r.do("fail, fail, no Open 1m0s")
	r.rule = busy(func(n *Rule) { n.OpenFor = 2 * time.Second })
	r.do("+2s, ok, ok, ok, ok")
	if s := r.state(); s.State != WarmingUp || s.RetryAfter != 10*time.Second || s.Rule != r.rule {
		t.Errorf("state %+v", s)
	}
	r.rule = busy(func(n *Rule) { n.WarmUp = 0 })
	r.do("ok, ok, fail, fail")
	if s := r.state(); s.Requests != 5 || s.Failures != 2 {
		t.Errorf("state %+v", s)
	}
	// Another window begins to count anew, and does not judge what was let in before.
	r.do("y=")
	r.rule = busy(func(n *Rule) { n.Window = 32 * time.Second })
	r.do("fail, fail, fail, y:fail")
	if s := r.state(); s.State != Closed || s.Requests != 3 {
		t.Errorf("state %+v", s)
	}
	r.do("+29s, fail, no Open 5s")
}

// TestSubjects: breakers of other rules and other keys are others.
func TestSubjects(t *testing.T) {
	r := newRig(t, busy(nil))
	r.key = "a"
	r.do("fail, fail, fail, fail, no Open 5s")
	for _, key := range []string{"", "b", "A", "a "} {
		r.key = key
		r.do("ok")
	}
	r.key, r.rule = "a", busy(func(n *Rule) { n.ID = "LimitPolicy/default/other" })
	r.do("ok")
	var got []string
	for _, s := range r.States(r.now) {
		got = append(got, fmt.Sprintf("%s %q %s", s.Rule.ID, s.Key, s.State))
	}
	want := []string{`LimitPolicy/default/busy "" Closed`, `LimitPolicy/default/busy "A" Closed`, `LimitPolicy/default/busy "a" Open`,
		`LimitPolicy/default/busy "a " Closed`, `LimitPolicy/default/busy "b" Closed`, `LimitPolicy/default/other "a" Closed`}
	if !slices.Equal(got, want) {
		t.Errorf("states %q", got)
	}
}

func TestStates(t *testing.T) {
	r := newRig(t, busy(nil))
	r.do("ok, fail, fail, +1s")
	if s := r.state(); s.Requests != 3 || s.Failures != 2 || !s.Since.Equal(start) || s.RetryAfter != 0 {
		t.Errorf("closed: %+v", s)
	}
	r.do("fail, no Open 5s, +1s, no Open 4s")
	if s := r.state(); s.RetryAfter != 4*time.Second || s.Refused != 2 || !s.Since.Equal(start.Add(time.Second)) || s.Requests != 0 {
		t.Errorf("open: %+v", s)
	}
	r.do("+9s")
	if s := r.state(); s.State != Open || s.RetryAfter != 0 {
		t.Errorf("open, its time over: %+v", s)
	}
	r.rule.Shadow = true
	r.do("a=, b=, c=, shadow")
	if s := r.state(); s.State != HalfOpen || s.Refused != 2 || s.Shadowed != 1 {
		t.Errorf("half open: %+v", s)
	}
}

// TestZeroPass: nobody's pass may be ended.
func TestZeroPass(t *testing.T) {
	var p Pass
	p.Done(false, start)
	p.Drop()
	if p.Shadowed() {
		t.Error("shadowed")
	}
}

func TestForgetting(t *testing.T) {
	r := newRig(t, busy(func(n *Rule) { n.OpenFor = time.Hour }))
	hour := r.rule
	r.key = "open"
	r.do("fail, fail, fail, fail")
	short := busy(func(n *Rule) { n.ID = "LimitPolicy/default/short" })
	r.rule, r.key = short, "idle"
	r.do("x=")
	r.key = "used"
	r.do("ok, +10m, ok")
	if n := r.Sweep(r.now); n != 0 {
		t.Fatalf("%d forgotten that were used 10 minutes ago", n)
	}
	r.do("+1s")
	if n := r.Sweep(r.now); n != 1 {
		t.Fatalf("%d forgotten, want the idle one", n)
	}
	r.key = "idle"
	r.do("x:fail, ok, ok, ok, fail") // x was of the breaker that is no more
	if n := r.Retain(func(id string) bool { return id == hour.ID }, r.now); n != 2 {
		t.Fatalf("%d forgotten, want those of the rule that is gone", n)
	}
	r.do("+61m")
	if n := r.Sweep(r.now); n != 1 {
		t.Fatalf("%d forgotten, want the open one", n)
	}
	if n, over := r.Size(); n != 0 || over != 0 || len(r.States(r.now)) != 0 {
		t.Errorf("%d breakers, %d over", n, over)
	}
	if want := []string{opened, "Open>Closed forgotten"}; !slices.Equal(r.changes, want) {
		t.Errorf("changes %q, want %q", r.changes, want)
	}
	r.rule, r.key = hour, "open"
	r.do("ok")
}

// TestBounded: what is too much passes and is not judged.
func TestBounded(t *testing.T) {
	s := New(Options{Now: func() time.Time { return start }, MaxBreakers: 3})
	rule := busy(nil)
	for round := range 10 {
		for i := range 5 {
			p, no := s.Allow(rule, fmt.Sprint(i), start)
			if refused := i < 3 && round >= 4; (no != nil) != refused {
				t.Errorf("round %d, key %d: %+v", round, i, no)
			}
			p.Done(false, start)
		}
	}
	if n, over := s.Size(); n != 3 || over != 20 {
		t.Errorf("%d breakers, %d over", n, over)
	}
}

func TestAllowAllocatesNothing(t *testing.T) {
	s := New(Options{Now: func() time.Time { return start }})
	rule := busy(nil)
	s.Allow(rule, "tenant", start)
	if n := testing.AllocsPerRun(1000, func() {
		p, _ := s.Allow(rule, "tenant", start)
		p.Done(true, start)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAllowDone(b *testing.B) {
	s := New(Options{Now: func() time.Time { return start }})
	rule := busy(nil)
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		now := start
		for b.Loop() {
			now = now.Add(time.Microsecond)
			p, _ := s.Allow(rule, "tenant-a", now)
			p.Done(true, now)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				p, _ := s.Allow(rule, "tenant-a", start)
				p.Done(true, start)
			}
		})
	})
}
