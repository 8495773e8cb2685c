package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/e2e/harness"
)

// breakerState is a breaker as /api/breakers shows it.
type breakerState struct {
	Policy, Subject, State string
	Requests, Failures     int64
	RetryAfterSeconds      float64
	Refused                uint64
}

// breakers are those of a policy, by subject.
func breakersNow(t *testing.T, g *harness.Gateway, policy string) map[string]breakerState {
	t.Helper()
	var body struct{ Breakers []breakerState }
	adminJSON(t, g, "/api/breakers", &body)
	out := map[string]breakerState{}
	for _, b := range body.Breakers {
		if b.Policy == "default/"+policy {
			out[b.Subject] = b
		}
	}
	return out
}

func TestCircuitBreaker(t *testing.T) {
	t.Parallel()
	l := &limited{provider: newSupplier(t)}
	docs := append(fourKeys(), limitedRoutes()...)
	for name, spec := range map[string]string{
		"open":   "circuitBreaker: {minRequests: 4, errorPercent: 50, window: 1m, openFor: 5s, halfOpenRequests: 2, warmUp: 0s}",
		"warm":   "circuitBreaker: {minRequests: 2, window: 1m, openFor: 300ms, halfOpenRequests: 1, warmUp: 1m}",
		"tenant": "per: Tenant\ncircuitBreaker: {minRequests: 3, window: 1m, openFor: 1h}",
		"shadow": "mode: Shadow\ncircuitBreaker: {minRequests: 3, window: 1m, openFor: 1h}",
		"sound":  "circuitBreaker: {minRequests: 1, errorPercent: 1, window: 1m, openFor: 1h}",
		"dead":   "circuitBreaker: {minRequests: 2, window: 1m, openFor: 1h}\nlimits: [{name: rpm, unit: Requests, limit: 5, window: 1h}]",
	} {
		docs = append(docs, limitPolicy(name, "{kind: Route, name: first}, {kind: Route, name: second}", "models: [break-"+name+"]\n"+spec))
	}
	l.Gateway = harness.Start(t, harness.Options{Backends: l.provider.backends(t), Documents: docs})
	if problems := l.Status().Problems; len(problems) > 0 {
		t.Fatalf("problems: %q", problems)
	}
	t.Run("opens and closes", func(t *testing.T) { testBreakerCycle(t, l) })
	t.Run("warms up", func(t *testing.T) { testBreakerWarmUp(t, l) })
	t.Run("per tenant", func(t *testing.T) { testBreakerOfTenants(t, l) })
	t.Run("shadow", func(t *testing.T) { testBreakerShadow(t, l) })
	t.Run("what does not count", func(t *testing.T) { testBreakerIgnores(t, l) })
	t.Run("no backend", func(t *testing.T) { testBreakerOfDeadBackend(t, l) })
	quiet(t, l.Gateway)
}

// status sends a request that the provider answers with a status, 200 for 0, and waits until it is judged.
func (l *limited) status(t *testing.T, key, dialect, model string, status int) answer {
	t.Helper()
	var headers []string
	if status > 0 {
		headers = []string{"x-status", fmt.Sprint(status)}
	}
	a := l.ask(t, key, "one", dialect, limitedBody(model, `"max_tokens":50`), headers...)
	l.WaitFor("the request is judged", func() bool { return l.Metric("weir_settlement_open_requests") == 0 })
	return a
}

// checkBroken fails the test unless the answer says that the breaker is open.
func checkBroken(t *testing.T, dialect string, a answer, policy string) {
	t.Helper()
	msg := checkError(t, dialect, a, http.StatusServiceUnavailable)
	if !strings.Contains(msg, `"default/`+policy+`"`) {
		t.Errorf("the message does not name the policy: %q", msg)
	}
	after := a.header.Get("retry-after")
	if after == "" || after == "0" || !strings.Contains(msg, "try again in "+after+" s") {
		t.Errorf("retry-after %q: %q", after, msg)
	}
	if dialect == "openai" && !strings.Contains(a.body, `"circuit_open"`) {
		t.Errorf("the error has no code: %s", a.body)
	}
}

func testBreakerCycle(t *testing.T, l *limited) {
	const model = "break-open"
	dialects := []string{"openai", "anthropic"}
	state := func() breakerState { return breakersNow(t, l.Gateway, "open")[""] }
	await := func(want string) {
		t.Helper()
		l.WaitFor("the breaker is "+want, func() bool { return state().State == want })
	}
	fail := func() {
		t.Helper()
		for i := range 4 { // three of them are not enough
			if s := state(); i > 0 && s.State != "Closed" {
				t.Fatalf("after %d requests: %+v", i, s)
			}
			if a := l.status(t, keyA1, dialects[i%2], model, (i%2)*500); a.status != 200+i%2*300 {
				t.Fatalf("request %d: status %d: %s", i, a.status, a.body)
			}
		}
		await("Open")
	}
	half := func() {
		t.Helper()
		l.WaitFor("the time it is open for is over", func() bool { return state().RetryAfterSeconds == 0 })
	}
	probe := func(name string, headers ...string) <-chan int {
		return l.hold(t, name, l.question(t, keyA1, "one", "openai", limitedBody(model), headers...))
	}
	fail()
	for _, dialect := range dialects {
		for _, key := range []string{keyA1, keyC} { // all share it
			checkBroken(t, dialect, l.ask(t, key, "two", dialect, limitedBody(model, `"max_tokens":50`)), "open")
		}
	}
	if n := l.Metric("weir_breaker_state", "policy", "default/open", "state", "Open"); n != 1 {
		t.Errorf("the metric says %v", n)
	}
	half()
	// Two may try, a third one may not.
	first, second := probe("probe-1"), probe("probe-2")
	if s := state(); s.State != "HalfOpen" {
		t.Errorf("with two that try: %+v", s)
	}
	checkBroken(t, "anthropic", l.ask(t, keyA1, "one", "anthropic", limitedBody(model, `"max_tokens":50`)), "open")
	l.provider.release("probe-1")
	l.provider.release("probe-2")
	must200(t, "the first that tried", <-first, "")
	must200(t, "the second", <-second, "")
	await("Closed")
	// Again, and now a try fails.
	fail()
	half()
	if a := l.status(t, keyA1, "openai", model, 503); a.status < 500 || strings.Contains(a.body, "circuit_open") {
		t.Errorf("the provider's own 503: status %d: %s", a.status, a.body)
	}
	await("Open")
	checkBroken(t, "openai", l.ask(t, keyA1, "one", "openai", limitedBody(model)), "open")
	half()
	for range 2 {
		a := l.status(t, keyA1, "openai", model, 0)
		must200(t, "a try", a.status, a.body)
	}
	await("Closed")
	if n := l.Metric("weir_breaker_changes_total", "policy", "default/open", "state", "Open"); n != 3 {
		t.Errorf("it opened %v times, want 3", n)
	}
}

func testBreakerWarmUp(t *testing.T, l *limited) {
	const model = "break-warm"
	for range 2 {
		l.status(t, keyA1, "openai", model, 500)
	}
	l.WaitFor("a try passes", func() bool { return l.status(t, keyA1, "openai", model, 0).status == 200 })
	l.WaitFor("it warms up", func() bool { return breakersNow(t, l.Gateway, "warm")[""].State == "WarmingUp" })
	start, passed := time.Now(), 0
	const n = 60
	for i := range n {
		dialect := []string{"openai", "anthropic"}[i%2]
		switch a := l.ask(t, keyA1, "one", dialect, limitedBody(model, `"max_tokens":50`)); a.status {
		case 200:
			passed++
		default:
			checkBroken(t, dialect, a, "warm")
		}
	}
	// A tenth at first, all after a minute.
	most := n/10 + 2 + int(float64(n)*time.Since(start).Seconds()/60+0.5)
	if passed < n/10 || passed > most {
		t.Errorf("%d of %d passed, want %d to %d", passed, n, n/10, most)
	}
}

func testBreakerOfTenants(t *testing.T, l *limited) {
	const model = "break-tenant"
	for range 3 {
		if a := l.status(t, keyA1, "openai", model, 502); a.status != 502 && a.status != 500 {
			t.Fatalf("status %d: %s", a.status, a.body)
		}
	}
	l.WaitFor("the tenant's breaker is open", func() bool { return breakersNow(t, l.Gateway, "tenant")["t1"].State == "Open" })
	for range 4 {
		checkBroken(t, "openai", l.ask(t, keyA2, "one", "openai", limitedBody(model)), "tenant")
		checkBroken(t, "anthropic", l.ask(t, keyB, "other", "anthropic", limitedBody(model, `"max_tokens":50`)), "tenant")
		a := l.ask(t, keyC, "one", "openai", limitedBody(model))
		must200(t, "another tenant", a.status, a.body)
	}
	all := breakersNow(t, l.Gateway, "tenant")
	if len(all) != 2 || all["t2"].State != "Closed" || all["t1"].Refused != 8 {
		t.Errorf("%+v", all)
	}
}

func testBreakerShadow(t *testing.T, l *limited) {
	const model = "break-shadow"
	for range 3 {
		l.status(t, keyA1, "openai", model, 500)
	}
	l.WaitFor("it is open", func() bool { return breakersNow(t, l.Gateway, "shadow")[""].State == "Open" })
	for range 4 {
		a := l.status(t, keyA1, "openai", model, 0)
		must200(t, "in shadow mode", a.status, a.body)
	}
	if n := l.Metric("weir_breaker_shadow_refused_total"); n != 4 {
		t.Errorf("%v would have been refused, want 4", n)
	}
}

// testBreakerIgnores: what says nothing about the provider does not open a breaker that one failure would open.
func testBreakerIgnores(t *testing.T, l *limited) {
	const model = "break-sound"
	for _, status := range []int{400, 404, 429} {
		if a := l.status(t, keyA1, "openai", model, status); a.status != status {
			t.Fatalf("status %d, want %d: %s", a.status, status, a.body)
		}
	}
	checkError(t, "openai", l.ask(t, keyA1, "one", "openai", `{"model":"`+model+`","messages":[{"role":"nobody","content":"Hi"}]}`, "x-status", "400"), http.StatusBadRequest)
	before := l.provider.left()
	ctx, leave := context.WithCancel(t.Context())
	gone := l.hold(t, "break-gone", l.question(t, keyA1, "one", "openai", limitedBody(model)).WithContext(ctx))
	leave()
	if status := <-gone; status != 0 {
		t.Errorf("who left got status %d", status)
	}
	l.WaitFor("the provider sees the caller leave", func() bool { return l.provider.left() > before })
	quiet(t, l.Gateway)
	if s := breakersNow(t, l.Gateway, "sound")[""]; s.State != "Closed" || s.Failures != 0 {
		t.Errorf("%+v", s)
	}
	a := l.status(t, keyA1, "openai", model, 0)
	must200(t, "after all that", a.status, a.body)
}

// testBreakerOfDeadBackend: a backend that cannot be reached is a failure; what the breaker refuses does not count under limits.
func testBreakerOfDeadBackend(t *testing.T, l *limited) {
	const model = "break-dead"
	for range 2 {
		if a := l.ask(t, keyA1, "dead", "openai", limitedBody(model)); a.status < 500 {
			t.Fatalf("status %d: %s", a.status, a.body)
		}
		quiet(t, l.Gateway)
	}
	for range 8 {
		checkBroken(t, "openai", l.ask(t, keyA1, "dead", "openai", limitedBody(model)), "dead")
	}
	if s := limitsNow(t, l.Gateway, "default/dead/rpm"); len(s) == 0 || s[0].Admitted+s[len(s)-1].Admitted > 4 {
		t.Errorf("%+v", s)
	}
}
