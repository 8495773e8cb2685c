package limit

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// TestAFloodOfNames: memory stays bounded, and neither running requests nor spent limits are forgotten for it.
func TestAFloodOfNames(t *testing.T) {
	const most = 20 * shards
	c := newClock()
	e := New(Options{Now: c.now, MaxCounters: most})
	defer e.Close(context.Background())
	day := func(r *Rule) { r.Per, r.Window = PerTenant, 24*time.Hour }
	r, running := rule("rpd", Requests, 3, day), rule("atonce", Concurrent, 1, day)
	spent, open := Subject{Tenant: "spent"}, Subject{Tenant: "open"}
	for range 3 {
		admitted(t, e, spent, Estimate{}, r)
	}
	g := admitted(t, e, open, Estimate{}, running)
	reservedIn(e)
	for i := range 20 * most {
		s := Subject{Tenant: fmt.Sprintf("bomb-%d", i)}
		admitted(t, e, s, Estimate{}, r).Settle(Amounts{})
		c.pass(time.Millisecond)
	}
	if n := ruleState(t, e, "rpd").Counters; n > most {
		t.Errorf("%d counters, bounded to %d", n, most)
	}
	refused(t, e, open, Estimate{}, running)
	g.Settle(Amounts{})
	admitted(t, e, open, Estimate{}, running)
	if rs := ruleState(t, e, "rpd"); rs.Admitted != 20*most+3 {
		t.Errorf("%d admissions are counted: those of forgotten counters are lost", rs.Admitted)
	}
}

// TestNearTheLimitIsKept: of those that must go, the ones that have used least go.
func TestNearTheLimitIsKept(t *testing.T) {
	const most = 20 * shards
	e := New(Options{Now: newClock().now, MaxCounters: most})
	defer e.Close(context.Background())
	r := budget("b", 100, func(r *Rule) { r.Per = PerTenant })
	for i := range 50 {
		admitted(t, e, Subject{Tenant: fmt.Sprintf("rich-%d", i)}, Estimate{Cost: 100, HasMax: true}, r).Settle(Amounts{Cost: 100})
	}
	for i := range 10 * most {
		admitted(t, e, Subject{Tenant: fmt.Sprintf("bomb-%d", i)}, Estimate{Cost: 1, HasMax: true}, r).Settle(Amounts{Cost: 1})
	}
	for i := range 50 {
		refused(t, e, Subject{Tenant: fmt.Sprintf("rich-%d", i)}, Estimate{Cost: 1, HasMax: true}, r)
	}
}

// TestSweep: counters that are back at zero are forgotten while nobody comes, and so are rules.
func TestSweep(t *testing.T) {
	e, c := local(t)
	r := rule("rpm", Requests, 5, func(r *Rule) { r.Per = PerTenant })
	held := rule("held", TotalTokens, 100)
	for i := range 1000 {
		admitted(t, e, Subject{Tenant: fmt.Sprint(i)}, Estimate{}, r).Settle(Amounts{})
	}
	g := admitted(t, e, Subject{}, tokens(5, 5), held)
	sweepAll := func() {
		for i := range shards {
			e.reg.sweep(i, e.moment())
		}
	}
	sweepAll()
	if n := ruleState(t, e, "rpm").Counters; n != 1000 {
		t.Errorf("%d of 1000 counters left while they count", n)
	}
	c.pass(2 * time.Minute)
	sweepAll()
	if n := ruleState(t, e, "rpm").Counters; n != 0 {
		t.Errorf("%d counters left", n)
	}
	if n := ruleState(t, e, "held").Counters; n != 1 {
		t.Error("a counter was forgotten that a request depends on")
	}
	g.Settle(Amounts{Input: 5})
	c.pass(2 * time.Minute)
	for range 3 { // the counter; then its rule is found unused twice
		sweepAll()
	}
	if s := e.States(10); len(s) != 0 {
		t.Errorf("rules that nobody uses are still told of: %+v", s)
	}
	admitted(t, e, Subject{}, tokens(5, 5), held)
}

// TestConfiguredRulesStay: a rule of the live configuration is told of before anybody has used it and after all have gone, with what was
// counted since the start, also where it was changed or away meanwhile.
func TestConfiguredRulesStay(t *testing.T) {
	e, c := local(t)
	r, key := rule("rpm", Requests, 5, func(r *Rule) { r.Per = PerTenant }), rule("APIKey/k", Requests, 5)
	spend := budget("Budget/b", 1000, func(r *Rule) { r.WarnAt = 800 })
	live := Configuration{Rules: []*Rule{r, spend}, Currency: "EUR"}
	e.Follow(func() Configuration { return live })
	is := func(when string, limitOf int64, admitted uint64, counters, rules int) {
		t.Helper()
		all := e.States(10)
		s := ruleState(t, e, "rpm")
		if s.Admitted != admitted || s.Counters != counters || s.Rule.Limit != limitOf || len(all) != rules {
			t.Errorf("%s: %d of %d rules, %+v", when, len(all), rules, s)
		}
	}
	idle := func() {
		for range 4 {
			c.pass(2 * time.Minute)
			for i := range shards {
				e.reg.sweep(i, e.moment())
			}
		}
	}
	is("before anybody came", 5, 0, 0, 2)
	if s := ruleState(t, e, "Budget/b"); s.Currency != "EUR" || s.Rule.WarnAtPercent() != 80 || ruleState(t, e, "rpm").Currency != "" {
		t.Errorf("the budget is %+v", s)
	}
	admitted(t, e, Subject{Tenant: "a"}, Estimate{}, r, key).Settle(Amounts{})
	admitted(t, e, Subject{Tenant: "b"}, Estimate{}, r).Settle(Amounts{})
	is("in use", 5, 2, 2, 3)
	idle()
	is("idle: the limit of a key is forgotten, what is configured is not", 5, 2, 0, 2)
	wider := rule("rpm", Requests, 7, func(r *Rule) { r.Per = PerTenant })
	live.Rules = []*Rule{wider, spend}
	is("changed and not used since", 7, 2, 0, 2)
	admitted(t, e, Subject{Tenant: "a"}, Estimate{}, wider).Settle(Amounts{})
	hourly := rule("rpm", Requests, 9, func(r *Rule) { r.Per, r.Window = PerTenant, time.Hour })
	live.Rules = []*Rule{hourly, spend}
	is("its counters begin anew, its totals do not", 9, 3, 0, 2)
	idle()
	is("and the old ones are forgotten", 9, 3, 0, 2)
	live.Rules = []*Rule{spend}
	idle()
	if all := e.States(10); len(all) != 1 {
		t.Errorf("a rule that is gone is told of: %+v", all)
	}
	live.Rules = []*Rule{hourly, spend}
	is("back", 9, 3, 0, 2)
}

// TestFoundIsNotForgotten: a request that has found a counter uses the one that others find too.
func TestFoundIsNotForgotten(t *testing.T) {
	e, _ := local(t)
	r := rule("rpm", Requests, 1)
	c := e.reg.counter(r, "", e.moment())
	for i := range shards {
		e.reg.sweep(i, e.moment())
	}
	if e.reg.counter(r, "", e.moment()) != c {
		t.Error("the counter was forgotten while a request had it")
	}
	c.pins.Add(-2)
	for i := range shards {
		e.reg.sweep(i, e.moment())
	}
	if e.reg.counter(r, "", e.moment()) == c {
		t.Error("the counter was kept for nobody")
	}
}

// TestNewCountersOfOneRequest: those that a request has just made do not push each other out, however small the memory.
func TestNewCountersOfOneRequest(t *testing.T) {
	e := New(Options{Now: newClock().now, MaxCounters: 1})
	defer e.Close(context.Background())
	var rules []*Rule
	for i := range 40 * shards {
		rules = append(rules, rule(fmt.Sprint(i), Requests, 100))
	}
	g := admitted(t, e, Subject{}, Estimate{}, rules...)
	seen := map[*counter]bool{}
	for _, r := range rules {
		seen[e.reg.counter(r, "", e.moment())] = true
	}
	for _, h := range g.holds {
		if !seen[h.c] {
			t.Fatalf("the counter of %s is not the one that others find", h.rule.ID)
		}
	}
}
