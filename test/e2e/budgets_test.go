package e2e

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"syscall"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/usage/ledger"
)

// budget renders a Budget of the gateway for the model of its name. An answer of the supplier costs 0.0001.
func budget(name, spec string) string {
	return harness.Document("Budget", name, "targetRefs: ["+gatewayTarget+"]\nmodels: ["+name+"]\n"+strings.TrimSpace(spec))
}

func TestBudgets(t *testing.T) {
	t.Parallel()
	l := &limited{provider: newSupplier(t)}
	docs := append(fourKeys(), limitedRoutes()...)
	for name, spec := range map[string]string{
		"spent":    "amount: \"0.00025\"\nperiod: Month\nwarnAtPercent: 40",
		"warned":   "amount: \"0.00015\"\nperiod: Week\nwarnAtPercent: 60\naction: Warn",
		"each":     "amount: \"0.00015\"\nperiod: Month\nper: Tenant",
		"day":      "amount: \"0.00015\"\nperiod: Day\ntimeZone: Asia/Tokyo",
		"week":     "amount: \"0.00015\"\nperiod: Week\ntimeZone: America/New_York",
		"month":    "amount: \"0.00015\"\nperiod: Month\ntimeZone: Pacific/Chatham",
		"restart":  "amount: \"0.00035\"\nperiod: Month",
		"restarts": "amount: \"0.00035\"\nperiod: Month\nper: Credential",
	} {
		docs = append(docs, budget(name, spec))
	}
	l.Gateway = harness.Start(t, harness.Options{Backends: l.provider.backends(t), Documents: docs})
	if problems := l.Status().Problems; len(problems) > 0 {
		t.Fatalf("problems: %q", problems)
	}
	t.Run("spent", func(t *testing.T) { testSpentBudget(t, l) })
	t.Run("warned", func(t *testing.T) { testWarnedBudget(t, l) })
	t.Run("each tenant", func(t *testing.T) { testBudgetOfEach(t, l) })
	t.Run("periods", func(t *testing.T) { testBudgetPeriods(t, l) })
	t.Run("added later", func(t *testing.T) { testLateBudget(t, l) })
	t.Run("restart", func(t *testing.T) { testBudgetRestart(t, l) })
	checkSecrets(t, l.Gateway, keyA1, keyA2, keyB, keyC, harness.BackendKey("oa"))
}

// spend sends a request that costs 0.0001 and waits until it is settled.
func (l *limited) spend(t *testing.T, key, model, dialect string) answer {
	t.Helper()
	a := l.ask(t, key, "one", dialect, limitedBody(model, `"max_tokens":50`))
	if a.status == http.StatusOK {
		quiet(t, l.Gateway)
	}
	return a
}

// checkSpent fails the test unless the answer says in the dialect that a budget is spent, and returns retry-after.
func checkSpent(t *testing.T, dialect string, a answer, name string) time.Duration {
	t.Helper()
	msg := checkError(t, dialect, a, http.StatusTooManyRequests)
	if !strings.Contains(msg, "budget "+name) {
		t.Errorf("the message does not name the budget %s: %q", name, msg)
	}
	want := map[string]string{"openai": `"insufficient_quota"`, "anthropic": `"billing_error"`}[dialect]
	if !strings.Contains(a.body, want) {
		t.Errorf("the error has no %s: %s", want, a.body)
	}
	n, err := strconv.Atoi(a.header.Get("retry-after"))
	if err != nil {
		t.Errorf("retry-after %q", a.header.Get("retry-after"))
	}
	if a.header.Get("x-should-retry") != "false" {
		t.Error("SDKs are not told that it is no use to try again")
	}
	return time.Duration(n) * time.Second
}

const budgetHeader = "x-weir-budget-warning"

// testSpentBudget: a budget warns, then refuses, and the official SDKs understand it.
func testSpentBudget(t *testing.T, l *limited) {
	a := l.spend(t, keyA1, "spent", "openai")
	must200(t, "the first", a.status, a.body)
	if got := a.header.Get(budgetHeader); got != "" {
		t.Errorf("a warning before anything is spent: %q", got)
	}
	a = l.spend(t, keyC, "spent", "anthropic")
	must200(t, "the second", a.status, a.body)
	if got, want := a.header.Get(budgetHeader), "default/spent; spent=40%"; got != want {
		t.Errorf("the warning %q, want %q", got, want)
	}
	for _, dialect := range []string{"openai", "anthropic"} {
		checkSpent(t, dialect, l.spend(t, keyA1, "spent", dialect), "default/spent")
	}
	for _, c := range callers(l.URL, keyA1) {
		q := ask{model: "spent", turns: user("Hi"), max: 50}
		// The rules of these tests want a header that SDKs do not send: a rule without one is added.
		l.WriteFile("any.yaml", harness.Route("any", "rules: [{matches: [{models: [spent]}], backends: [{name: oa}, {name: an}]}]"))
		l.WaitFor("the rule is live", func() bool { _, err := c.ask(t.Context(), q); r, ok := c.refusal(err); return ok && r.status == 429 })
		r := mustRefuse(t, c, q, http.StatusTooManyRequests)
		if want := map[string]string{"openai": "insufficient_quota", "anthropic": "billing_error"}[c.dialect()]; r.kind != want || c.dialect() == "openai" && r.code != want {
			t.Errorf("the %s SDK reads %+v", c.dialect(), r)
		}
	}
	// A request that asks for little enough is still served.
	a = l.ask(t, keyA1, "one", "openai", limitedBody("spent", `"max_tokens":1`), "x-in", "10", "x-out", "1")
	if a.status != http.StatusOK && a.status != http.StatusTooManyRequests { // its input is only estimated
		t.Errorf("status %d: %s", a.status, a.body)
	}
	quiet(t, l.Gateway)
}

// testWarnedBudget: the action Warn refuses nothing.
func testWarnedBudget(t *testing.T, l *limited) {
	for i, want := range []string{"", "default/warned; spent=66%", "default/warned; spent=133%", "default/warned; spent=200%"} {
		a := l.spend(t, keyA1, "warned", []string{"openai", "anthropic"}[i%2])
		must200(t, fmt.Sprint("request ", i), a.status, a.body)
		if got := a.header.Get(budgetHeader); got != want {
			t.Errorf("request %d: the warning %q, want %q", i, got, want)
		}
	}
}

// testBudgetOfEach: each tenant has the whole amount.
func testBudgetOfEach(t *testing.T, l *limited) {
	for _, key := range []string{keyA1, keyC} {
		a := l.spend(t, key, "each", "openai")
		must200(t, "the first of a tenant", a.status, a.body)
		checkSpent(t, "openai", l.spend(t, key, "each", "openai"), "default/each")
	}
	checkSpent(t, "openai", l.spend(t, keyB, "each", "openai"), "default/each") // of the tenant of A
	// What costs nothing is not counted.
	for _, model := range []string{"day", "week"} {
		for range 3 {
			if a := l.ask(t, keyA1, "one", "openai", limitedBody(model, `"max_tokens":50`), "x-status", "500"); a.status < 500 {
				t.Errorf("status %d: %s", a.status, a.body)
			}
			quiet(t, l.Gateway)
		}
	}
}

// testBudgetPeriods: a refusal says when the period ends, in the budget's time zone.
func testBudgetPeriods(t *testing.T, l *limited) {
	for name, end := range map[string]func() time.Time{
		"day": func() time.Time {
			now := time.Now().In(zone(t, "Asia/Tokyo"))
			return time.Date(now.Year(), now.Month(), now.Day()+1, 0, 0, 0, 0, now.Location())
		},
		"week": func() time.Time {
			now := time.Now().In(zone(t, "America/New_York"))
			days := (8 - int(now.Weekday())) % 7 // to Monday
			if days == 0 {
				days = 7
			}
			return time.Date(now.Year(), now.Month(), now.Day()+days, 0, 0, 0, 0, now.Location())
		},
		"month": func() time.Time {
			now := time.Now().In(zone(t, "Pacific/Chatham"))
			return time.Date(now.Year(), now.Month()+1, 1, 0, 0, 0, 0, now.Location())
		},
	} {
		t.Run(name, func(t *testing.T) {
			if left := time.Until(end()); left < 10*time.Second {
				<-time.After(left) // or the period would end within the test
			}
			a := l.spend(t, keyA1, name, "openai")
			must200(t, "the first", a.status, a.body)
			before := time.Until(end())
			after := checkSpent(t, "anthropic", l.spend(t, keyA1, name, "anthropic"), "default/"+name)
			if left := time.Until(end()); after < left || after > before+time.Second { // rounded up to a second
				t.Errorf("retry-after %s, and the period ends in %s", after, left)
			}
		})
	}
}

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	l, err := time.LoadLocation(name)
	must(t, err)
	return l
}

// left is what remains of a budget, in nano-units, for the caller with that subject; -1 where nothing is known of it.
func (l *limited) left(t *testing.T, name, subject string) int64 {
	t.Helper()
	for _, s := range limitsNow(t, l.Gateway, name) {
		for _, c := range s.Subjects {
			if c.Subject == subject {
				return c.Remaining
			}
		}
	}
	return -1
}

// testLateBudget: a budget that is made when money has been spent already begins with that.
func testLateBudget(t *testing.T, l *limited) {
	for _, key := range []string{keyA1, keyA2, keyC} {
		a := l.spend(t, key, "late", "openai")
		must200(t, "without a budget", a.status, a.body)
	}
	l.WriteFile("late.yaml", harness.Join(
		budget("late", "amount: \"0.00035\"\nperiod: Month"),
		harness.Document("Budget", "late-each", "targetRefs: ["+gatewayTarget+"]\nmodels: [late]\nper: Consumer\namount: \"0.01\"\nperiod: Month"),
		harness.Document("Budget", "late-key", "targetRefs: [{kind: APIKey, name: a2}, {kind: Route, name: second}]\nmodels: [late]\namount: \"0.01\"\nperiod: Day")))
	for _, c := range []struct {
		name, subject string
		want          int64
	}{{"late", "", 50_000}, {"late-each", "default/a", 9_800_000}, {"late-each", "default/c", 9_900_000}, {"late-key", "", 9_900_000}} {
		l.WaitFor(fmt.Sprintf("%s has %d left for %q", c.name, c.want, c.subject), func() bool { return l.left(t, "default/"+c.name, c.subject) == c.want })
	}
	checkSpent(t, "openai", l.spend(t, keyA1, "late", "openai"), "default/late")
	// A new amount holds for what was spent already.
	l.Change(func() { l.WriteFile("late.yaml", budget("late", "amount: \"0.00045\"\nperiod: Month")) })
	a := l.spend(t, keyA1, "late", "openai")
	must200(t, "with a larger amount", a.status, a.body)
	checkSpent(t, "openai", l.spend(t, keyA1, "late", "openai"), "default/late")
}

// testBudgetRestart: whether weir ends well or is killed, it knows afterwards what was spent.
func testBudgetRestart(t *testing.T, l *limited) {
	spend := func(key string) {
		t.Helper()
		for _, model := range []string{"restart", "restarts"} {
			a := l.spend(t, key, model, "openai")
			must200(t, model, a.status, a.body)
		}
	}
	check := func(all, a1, c int64) {
		t.Helper()
		for name, want := range map[[2]string]int64{{"restart", ""}: all, {"restarts", "default/key:a1"}: a1, {"restarts", "default/key:c"}: c} {
			if got := l.left(t, "default/"+name[0], name[1]); got != want {
				t.Errorf("%s has %d left, want %d", name, got, want)
			}
		}
	}
	spend(keyA1)
	check(250_000, 250_000, -1)
	spend(keyC)
	check(150_000, 250_000, 250_000)
	l.Kill(syscall.SIGTERM)
	if status := l.Wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	l.Restart()
	check(150_000, 250_000, 250_000)
	spend(keyA1)
	check(50_000, 150_000, 250_000)
	l.WaitFor("the ledger has it", func() bool {
		return len(entriesOf(l.Gateway, "restart")) == 3 && len(entriesOf(l.Gateway, "restarts")) == 3
	})
	l.Kill(syscall.SIGKILL)
	l.Wait()
	l.Restart()
	check(50_000, 150_000, 250_000)
	checkSpent(t, "anthropic", l.spend(t, keyA1, "restart", "anthropic"), "default/restart")
	a := l.spend(t, keyA1, "restarts", "anthropic")
	must200(t, "the budget of the key", a.status, a.body)
}

// entriesOf are the entries of the ledger for a model.
func entriesOf(g *harness.Gateway, model string) (out []ledger.Entry) {
	for _, e := range g.Ledger() {
		if e.Model == model {
			out = append(out, e)
		}
	}
	return out
}
