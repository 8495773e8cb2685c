package limit

import (
	"context"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestNoRulesNoGrant(t *testing.T) {
	e, _ := local(t)
	g, no := e.Admit(context.Background(), nil, Subject{}, Estimate{})
	if g != nil || no != nil {
		t.Fatalf("%v, %v", g, no)
	}
	g.Settle(Amounts{})
	g.Cancel()
	if g.Warnings() != nil || g.Headers() != (Headers{}) {
		t.Error("a nil grant says something")
	}
	if _, _, ok := g.Cut(); ok {
		t.Error("a nil grant cuts")
	}
}

func TestNeedAndUse(t *testing.T) {
	known := Estimate{Input: 100, Output: 40, HasMax: true, Cost: 7}
	open := Estimate{Input: 100, Output: 999, Cost: 5, OutputPrice: 1_500_000}
	actual := Amounts{Input: 90, Output: 30, Cost: 6}
	for _, c := range []struct {
		unit              Unit
		known, open, used int64
	}{
		{Requests, 1, 1, 1},
		{InputTokens, 100, 100, 90},
		{OutputTokens, 40, 10, 30},
		{TotalTokens, 140, 110, 120},
		{Concurrent, 1, 1, 0},
		{Cost, 7, 5 + 15, 6},
	} {
		r := rule("r", c.unit, 1000)
		if got := r.need(&known); got != c.known {
			t.Errorf("%s: needs %d, not %d", c.unit, got, c.known)
		}
		if got := r.need(&open); got != c.open {
			t.Errorf("%s without a largest output: needs %d, not %d", c.unit, got, c.open)
		}
		if got := r.used(&actual); got != c.used {
			t.Errorf("%s: used %d, not %d", c.unit, got, c.used)
		}
	}
	r := rule("r", TotalTokens, 105)
	if got := r.need(&open); got != 105 {
		t.Errorf("what is assumed makes the request need %d of 105", got)
	}
	r.Limit = 50
	if got := r.need(&open); got != 100 {
		t.Errorf("the input alone is 100, the need %d", got)
	}
	absurd := Estimate{Input: math.MaxInt64, Output: math.MaxInt64, HasMax: true, Cost: math.MinInt64}
	if got := r.need(&absurd); got != maxUnits {
		t.Errorf("an absurd need is %d", got)
	}
	r.Unit = Cost
	if got := r.need(&absurd); got != 0 {
		t.Errorf("a negative cost needs %d", got)
	}
	r.AssumedOutput, r.Limit = math.MaxInt64, maxUnits
	if got := r.need(&Estimate{Cost: 1, OutputPrice: math.MaxInt64}); got != maxUnits {
		t.Errorf("an absurd price needs %d", got)
	}
	if got := perMillion(3, 1); got != 1 {
		t.Errorf("three tokens at a nano-unit per million cost %d: it rounds up", got)
	}
}

func TestTwoThousandAtOnce(t *testing.T) {
	e, _ := local(t)
	rules := []*Rule{
		rule("gateway", Requests, 500),
		rule("tokens", TotalTokens, 500*20, func(r *Rule) { r.Algorithm = TokenBucket }),
		budget("money", 500*3),
	}
	var n atomic.Int64
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for range 2000 {
		wg.Go(func() {
			<-begin
			g, _ := e.Admit(context.Background(), rules, Subject{}, Estimate{Input: 12, Output: 8, HasMax: true, Cost: 3})
			if g != nil {
				n.Add(1)
				g.Settle(Amounts{Input: 12, Output: 8, Cost: 3})
			}
		})
	}
	close(begin)
	wg.Wait()
	if n.Load() != 500 {
		t.Errorf("%d of 2000 were admitted, the limit is 500", n.Load())
	}
	if units, grants := reservedIn(e); units != 0 || grants != 0 {
		t.Errorf("%d units stay reserved by %d grants", units, grants)
	}
}

func TestAllOrNothing(t *testing.T) {
	e, _ := local(t)
	wide, narrow := rule("wide", Requests, 10), rule("narrow", Requests, 1)
	admitted(t, e, Subject{}, Estimate{}, narrow, wide)
	for range 5 {
		if no := refused(t, e, Subject{}, Estimate{}, wide, narrow); no.Rule != narrow {
			t.Errorf("refused by %s", no.Rule.ID)
		}
	}
	if s := subjectOf(t, e, "wide", ""); s.Remaining != 9 || s.Reserved != 1 {
		t.Errorf("refusals took from the rule that admitted: %+v", s)
	}
	if n := ruleState(t, e, "narrow").Refused; n != 5 {
		t.Errorf("%d refusals are counted", n)
	}
	if n := ruleState(t, e, "wide").Refused; n != 0 {
		t.Errorf("%d refusals are counted where nothing was refused", n)
	}
}

func TestTheLongestRefusalIsTold(t *testing.T) {
	e, c := local(t)
	short := rule("short", Requests, 1, func(r *Rule) { r.Window = 10 * time.Second })
	long := rule("long", Requests, 1, func(r *Rule) { r.Window = time.Hour })
	admitted(t, e, Subject{}, Estimate{}, short, long)
	for _, rules := range [][]*Rule{{short, long}, {long, short}} {
		no := refused(t, e, Subject{}, Estimate{}, rules...)
		if no.Rule != long || no.Kind != Limited || no.RetryAfter < time.Hour || no.RetryAfter > time.Hour+time.Minute {
			t.Errorf("%+v", no)
		}
	}
	c.pass(time.Hour + time.Minute)
	admitted(t, e, Subject{}, Estimate{}, short, long)
}

func TestTooLarge(t *testing.T) {
	e, _ := local(t)
	r := rule("tpm", TotalTokens, 1000)
	full := rule("rpm", Requests, 1, func(r *Rule) { r.Window = time.Hour })
	admitted(t, e, Subject{}, tokens(1, 1), full)
	no := refused(t, e, Subject{}, tokens(900, 200), r, full)
	if no.Rule != r || no.Kind != TooLarge || no.RetryAfter != 0 || no.Need != 1100 {
		t.Errorf("%+v", no)
	}
	if want := "this request asks for up to 1100 tokens and the limit tpm never holds more than 1000: make it shorter or ask for less output"; no.Error() != want {
		t.Errorf("says %q", no.Error())
	}
	admitted(t, e, Subject{}, tokens(900, 100), r)
	b := rule("bucket", TotalTokens, 10, func(r *Rule) { r.Algorithm, r.Burst = TokenBucket, 500 })
	admitted(t, e, Subject{}, tokens(500, 0), b)
	if no := refused(t, e, Subject{}, tokens(501, 0), b); no.Kind != TooLarge || no.Limit != 500 {
		t.Errorf("%+v", no)
	}
	// Without a largest output the assumed one gives way.
	small := rule("small", TotalTokens, 8)
	g := admitted(t, e, Subject{}, Estimate{Input: 5}, small)
	if g.holds[0].amount != 8 {
		t.Errorf("reserved %d of 8", g.holds[0].amount)
	}
}

func TestSubjects(t *testing.T) {
	e, _ := local(t)
	a, b := Subject{"acme", "ns/app", "ns/key"}, Subject{"acme", "ns/other", "ns/key2"}
	for _, c := range []struct {
		per    Scope
		shared bool
	}{{PerTarget, true}, {PerTenant, true}, {PerConsumer, false}, {PerCredential, false}} {
		r := rule("r", Requests, 1, func(r *Rule) { r.Per = c.per; r.ID = string(rune('a' + c.per)) })
		admitted(t, e, a, Estimate{}, r)
		refused(t, e, a, Estimate{}, r)
		if _, no := e.Admit(context.Background(), []*Rule{r}, b, Estimate{}); (no != nil) != c.shared {
			t.Errorf("scope %d: the second subject: %v", c.per, no)
		}
	}
}

func TestSettle(t *testing.T) {
	e, c := local(t)
	r := rule("tpm", TotalTokens, 1000)
	g := admitted(t, e, Subject{}, tokens(300, 600), r)
	refused(t, e, Subject{}, tokens(101, 0), r)
	g.Settle(Amounts{Input: 200, Output: 100})
	g.Settle(Amounts{})
	g.Cancel()
	if s := subjectOf(t, e, "tpm", ""); s.Remaining != 700 || s.Reserved != 0 {
		t.Errorf("after 300 of 1000: %+v", s)
	}
	g = admitted(t, e, Subject{}, tokens(700, 0), r)
	g.Settle(Amounts{Input: 700, Output: 500})
	if s := subjectOf(t, e, "tpm", ""); s.Remaining != -500 {
		t.Errorf("after 1500 of 1000: %+v", s)
	}
	no := refused(t, e, Subject{}, tokens(1, 0), r)
	if no.Remaining != 0 {
		t.Errorf("a refusal says that %d remain", no.Remaining)
	}
	c.pass(2 * time.Minute)
	g = admitted(t, e, Subject{}, tokens(1000, 0), r)
	g.Cancel()
	if s := subjectOf(t, e, "tpm", ""); s.Remaining != 1000 {
		t.Errorf("after a request that was cancelled: %+v", s)
	}
}

func TestRequestsStayCounted(t *testing.T) {
	e, _ := local(t)
	r := rule("rpm", Requests, 2)
	admitted(t, e, Subject{}, Estimate{}, r).Settle(Amounts{})
	admitted(t, e, Subject{}, Estimate{}, r).Cancel()
	admitted(t, e, Subject{}, Estimate{}, r)
	refused(t, e, Subject{}, Estimate{}, r)
}

func TestConcurrent(t *testing.T) {
	e, _ := local(t)
	r := rule("atonce", Concurrent, 2, func(r *Rule) { r.Window = 0 })
	g1, g2 := admitted(t, e, Subject{}, Estimate{}, r), admitted(t, e, Subject{}, Estimate{}, r)
	if no := refused(t, e, Subject{}, Estimate{}, r); no.RetryAfter != gaugeWait || no.Error() != "the limit atonce (2 requests at once) is reached" {
		t.Errorf("%+v: %v", no, no)
	}
	g1.Settle(Amounts{Input: 5})
	g1.Settle(Amounts{Input: 5})
	g1.Cancel()
	admitted(t, e, Subject{}, Estimate{}, r)
	refused(t, e, Subject{}, Estimate{}, r)
	g2.Cancel()
	admitted(t, e, Subject{}, Estimate{}, r)
}

func TestTheSameRuleTwiceTakesOnce(t *testing.T) {
	e, _ := local(t)
	r := rule("rpm", Requests, 2)
	other := *r // another version
	other.Limit = 1
	g := admitted(t, e, Subject{}, Estimate{}, r, r, &other)
	if len(g.holds) != 1 {
		t.Errorf("%d holds", len(g.holds))
	}
}

func TestManyRules(t *testing.T) {
	e, _ := local(t)
	var rules []*Rule
	for i := range 20 {
		rules = append(rules, rule("rule"+string(rune('a'+i)), Requests, 100))
	}
	g := admitted(t, e, Subject{}, Estimate{}, rules...)
	if len(g.holds) != 20 {
		t.Fatalf("%d holds", len(g.holds))
	}
	for i := 1; i < len(g.holds); i++ {
		if g.holds[i-1].c.serial >= g.holds[i].c.serial {
			t.Fatal("not in the order of locking")
		}
	}
	g.Settle(Amounts{})
	if units, _ := reservedIn(e); units != 0 {
		t.Errorf("%d stay reserved", units)
	}
}

func TestShadow(t *testing.T) {
	e, _ := local(t)
	shadow := rule("shadow", Requests, 2, func(r *Rule) { r.Shadow = true })
	real := rule("real", Requests, 4)
	var grants []*Grant
	for range 4 {
		grants = append(grants, admitted(t, e, Subject{}, Estimate{}, shadow, real))
	}
	refused(t, e, Subject{}, Estimate{}, shadow, real)
	rs := ruleState(t, e, "shadow")
	if rs.Admitted != 2 || rs.ShadowRefused != 2 || rs.Refused != 0 {
		t.Errorf("%+v", rs)
	}
	if h := grants[0].Headers(); h.Requests.Rule != real {
		t.Errorf("headers are of %+v", h.Requests.Rule)
	}
	for _, g := range grants {
		g.Settle(Amounts{})
	}
	if units, n := reservedIn(e); units != 0 || n != 0 {
		t.Errorf("%d reserved by %d", units, n)
	}
}

func TestBudgets(t *testing.T) {
	e, c := local(t)
	hard := budget("hard", 1000, func(r *Rule) { r.WarnAt, r.CutStreams = 800, true })
	soft := budget("soft", 500, func(r *Rule) { r.WarnAt, r.WarnOnly = 400, true })
	cost := func(n int64) Estimate { return Estimate{Cost: n, HasMax: true} }
	g := admitted(t, e, Subject{}, cost(300), hard, soft)
	if w := g.Warnings(); len(w) != 0 {
		t.Errorf("warns too soon: %+v", w)
	}
	if r, n, ok := g.Cut(); !ok || r != hard || n != 1000 {
		t.Errorf("the first request may cost %d of 1000 (%v)", n, ok)
	}
	g2 := admitted(t, e, Subject{}, cost(500), hard, soft)
	if w := g2.Warnings(); len(w) != 0 {
		t.Errorf("warns of what is only reserved: %+v", w)
	}
	if _, n, _ := g2.Cut(); n != 700 {
		t.Errorf("beside 300 of 1000 the second may cost %d", n)
	}
	no := refused(t, e, Subject{}, cost(201), hard, soft)
	if no.Kind != BudgetSpent || no.Rule != hard || no.RetryAfter != no.Reset ||
		!c.now().Add(no.RetryAfter).Equal(time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("%+v", no)
	}
	if want := "the budget hard per month does not cover this request any more"; no.Error() != want {
		t.Errorf("says %q", no.Error())
	}
	g.Settle(Amounts{Cost: 100})
	g2.Settle(Amounts{Cost: 900})
	if _, _, ok := g2.Cut(); ok {
		t.Error("a grant that is settled cuts")
	}
	if no := refused(t, e, Subject{}, Estimate{}, hard); no.Kind != BudgetSpent {
		t.Errorf("a request that costs nothing: %+v", no)
	}
	if w := admitted(t, e, Subject{}, cost(1<<40), soft).Warnings(); len(w) != 1 || w[0] != (Warning{Rule: soft, Used: 1000, Limit: 500}) {
		t.Errorf("%+v", w)
	}
	c.pass(15 * 24 * time.Hour)
	admitted(t, e, Subject{}, cost(1000), hard)
	if no := refused(t, e, Subject{}, cost(1001), hard); no.Kind != TooLarge || strings.Contains(no.Error(), "100") {
		t.Errorf("%+v: %v", no, no)
	}
}

func TestRestore(t *testing.T) {
	e, c := local(t)
	r := budget("b", 1000, func(r *Rule) { r.Per = PerTenant })
	start, _ := r.PeriodAt(c.now())
	e.Restore(r, Subject{Tenant: "acme"}, 600, start)
	e.Restore(r, Subject{Tenant: "acme"}, 700, start)
	e.Restore(r, Subject{Tenant: "acme"}, 100, start)
	e.Restore(r, Subject{Tenant: "acme"}, 5000, start.AddDate(0, -1, 0))
	e.Restore(rule("rpm", Requests, 1), Subject{}, 5000, start)
	if s := subjectOf(t, e, "b", "acme"); s.Remaining != 300 || s.Reserved != 0 {
		t.Errorf("%+v", s)
	}
	refused(t, e, Subject{Tenant: "acme"}, Estimate{Cost: 301, HasMax: true}, r)
	admitted(t, e, Subject{Tenant: "other"}, Estimate{Cost: 1000, HasMax: true}, r)
}

func TestVersionsShareCounters(t *testing.T) {
	e, _ := local(t)
	old := rule("rpm", Requests, 10)
	for range 5 {
		admitted(t, e, Subject{}, Estimate{}, old)
	}
	tight := rule("rpm", Requests, 5, func(r *Rule) { r.Name = "renamed" })
	if no := refused(t, e, Subject{}, Estimate{}, tight); no.Limit != 5 {
		t.Errorf("%+v", no)
	}
	admitted(t, e, Subject{}, Estimate{}, old) // a request that still reads the old table
	wide := rule("rpm", Requests, 7)
	admitted(t, e, Subject{}, Estimate{}, wide)
	refused(t, e, Subject{}, Estimate{}, wide)
	admitted(t, e, Subject{}, Estimate{}, rule("rpm", Requests, 7, func(r *Rule) { r.Window = time.Hour }))
	b := rule("bucket", Requests, 10, func(r *Rule) { r.Algorithm = TokenBucket })
	for range 10 {
		admitted(t, e, Subject{}, Estimate{}, b)
	}
	bb := rule("bucket", Requests, 10, func(r *Rule) { r.Algorithm, r.Burst = TokenBucket, 12 })
	admitted(t, e, Subject{}, Estimate{}, bb)
	admitted(t, e, Subject{}, Estimate{}, bb)
	refused(t, e, Subject{}, Estimate{}, bb)
}

func TestHeaders(t *testing.T) {
	e, c := local(t)
	rpm := rule("rpm", Requests, 10)
	rpd := rule("rpd", Requests, 1000, func(r *Rule) { r.Window = 24 * time.Hour })
	tpm := rule("tpm", TotalTokens, 1000)
	out := rule("out", OutputTokens, 100)
	rules := []*Rule{rpd, rpm, tpm, out, rule("c", Concurrent, 5), budget("b", 1<<40)}
	g := admitted(t, e, Subject{}, tokens(100, 50), rules...)
	h := g.Headers()
	if h.Requests.Rule != rpm || h.Requests.Limit != 10 || h.Requests.Remaining != 9 {
		t.Errorf("requests: %+v", h.Requests)
	}
	if h.Requests.Reset < time.Minute || h.Requests.Reset > 61*time.Second {
		t.Errorf("reset in %v", h.Requests.Reset)
	}
	if h.Tokens.Rule != out || h.Tokens.Remaining != 50 {
		t.Errorf("tokens: %+v", h.Tokens)
	}
	c.pass(30 * time.Second)
	for range 9 {
		admitted(t, e, Subject{}, tokens(1, 1), rpm)
	}
	no := refused(t, e, Subject{}, tokens(1, 1), rules...)
	if no.Headers.Requests.Remaining != 0 || no.Headers.Tokens.Rule != out || no.Rule != rpm {
		t.Errorf("%+v", no)
	}
	if no.RetryAfter > 31*time.Second || no.RetryAfter < 30*time.Second {
		t.Errorf("retry after %v", no.RetryAfter)
	}
}

type recorder struct {
	mu sync.Mutex
	n  map[string]map[Outcome]int
}

func (r *recorder) Count(rule *Rule, o Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n[rule.ID] == nil {
		r.n[rule.ID] = map[Outcome]int{}
	}
	r.n[rule.ID][o]++
}

func TestMetrics(t *testing.T) {
	rec := &recorder{n: map[string]map[Outcome]int{}}
	e := New(Options{Now: newClock().now, Metrics: rec})
	defer e.Close(context.Background())
	a, b := rule("a", Requests, 2), rule("b", Requests, 1, func(r *Rule) { r.Shadow = true })
	admitted(t, e, Subject{}, Estimate{}, a, b)
	admitted(t, e, Subject{}, Estimate{}, a, b)
	refused(t, e, Subject{}, Estimate{}, a, b)
	if a := rec.n["a"]; a[Admitted] != 2 || a[Refused] != 1 {
		t.Errorf("a: %v", a)
	}
	if b := rec.n["b"]; b[Admitted] != 1 || b[ShadowRefused] != 1 || b[Refused] != 0 {
		t.Errorf("b: %v", b)
	}
}

// TestAClockThatGoesBack: counters keep what they know.
func TestAClockThatGoesBack(t *testing.T) {
	e, c := local(t)
	rules := []*Rule{
		rule("w", Requests, 1), rule("b", Requests, 1, func(r *Rule) { r.Algorithm = TokenBucket }),
		budget("m", 10, func(r *Rule) { r.Period = Day }),
	}
	admitted(t, e, Subject{}, Estimate{Cost: 10, HasMax: true}, rules...)
	c.pass(-48 * time.Hour)
	for _, r := range rules {
		refused(t, e, Subject{}, Estimate{Cost: 1, HasMax: true}, r)
	}
}
