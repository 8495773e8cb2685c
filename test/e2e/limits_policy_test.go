package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/e2e/harness"
)

// limited is a gateway whose policies each apply to models of their own, so that tests do not meet in a counter.
type limited struct {
	*harness.Gateway
	provider *supplier
}

// limitPolicy renders a LimitPolicy. targets are the refs in YAML's short form.
func limitPolicy(name, targets, spec string) string {
	return harness.Document("LimitPolicy", name, "targetRefs: ["+targets+"]\n"+strings.TrimSpace(spec))
}

// gatewayTarget is the LLMGateway of the harness.
const gatewayTarget = "{kind: LLMGateway, name: e2e}"

// limitedRoutes are two Routes, the first with two rules, chosen by the header x-rule.
func limitedRoutes() []string {
	rule := func(name string) string {
		return "  - name: " + name + "\n    matches: [{headers: [{name: x-rule, value: " + name + "}]}]\n    backends: [{name: oa}, {name: an}]\n"
	}
	return []string{
		harness.Route("first", "rules:\n"+rule("one")+rule("two")),
		harness.Route("second", "rules:\n"+rule("other")+"  - matches: [{headers: [{name: x-rule, value: oa}]}]\n    backends: [{name: oa}]\n"+
			"  - matches: [{headers: [{name: x-rule, value: an}]}]\n    backends: [{name: an}]\n"+
			"  - matches: [{headers: [{name: x-rule, value: dead}]}]\n    backends: [{name: dead}]\n"),
	}
}

// limitedBody is a small chat in either dialect; more has further members.
func limitedBody(model string, more ...string) string {
	return `{"model":"` + model + `",` + strings.Join(append(more, ""), ",") + `"messages":[{"role":"user","content":"Hi"}]}`
}

// ask sends a chat by a key, a dialect and a rule.
func (l *limited) ask(t *testing.T, key, rule, dialect, body string, headers ...string) answer {
	t.Helper()
	return do(t, http.DefaultClient, l.question(t, key, rule, dialect, body, headers...))
}

func (l *limited) question(t *testing.T, key, rule, dialect, body string, headers ...string) *http.Request {
	t.Helper()
	return request(t, l.Gateway, "POST", chatPath(dialect), dialect, body, append([]string{"authorization", "Bearer " + key, "x-rule", rule}, headers...)...)
}

// begin sends a request and returns at once; the channel has the answer's status, or 0 for none.
func begin(req *http.Request) <-chan int {
	out := make(chan int, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			out <- 0
			return
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			out <- 0
			return
		}
		out <- resp.StatusCode
	}()
	return out
}

// hold sends a request that the provider keeps until name is released, and waits until it is there.
func (l *limited) hold(t *testing.T, name string, req *http.Request) <-chan int {
	t.Helper()
	before := len(l.provider.held(name))
	req.Header.Set("x-hold", name)
	out := begin(req)
	harness.WaitFor(t, "the request "+name+" is with the provider", func() bool { return len(l.provider.held(name)) > before })
	return out
}

func must200(t *testing.T, what string, status int, body string) {
	t.Helper()
	if status != http.StatusOK {
		t.Fatalf("%s: status %d: %s", what, status, body)
	}
}

// ofThisKey stands for the limit that a key has of its own, which is the caller's to know by no other name.
const ofThisKey = "APIKey"

// checkRefused fails the test unless the answer is a 429 of the dialect that names the limit, and returns retry-after.
func checkRefused(t *testing.T, dialect string, a answer, name string) time.Duration {
	t.Helper()
	msg := checkError(t, dialect, a, http.StatusTooManyRequests)
	named := "limit " + name + " "
	if name == ofThisKey {
		named = "limit of this API key "
	}
	if !strings.Contains(msg, named) {
		t.Errorf("the message does not name the limit %s: %q", name, msg)
	}
	if !strings.Contains(a.body, `"rate_limit_error"`) && !strings.Contains(a.body, `"rate_limit_exceeded"`) {
		t.Errorf("the error says nothing of a rate limit: %s", a.body)
	}
	after := a.header.Get("retry-after")
	n, err := strconv.Atoi(after)
	if after != "" && (err != nil || n < 1) {
		t.Errorf("retry-after %q", after)
	}
	when := "try again in " + after + " s"
	if n > 7200 {
		when = time.Now().Add(time.Duration(n) * time.Second).UTC().Format("try again after 2 January 2006, ")
	}
	if after != "" && !strings.Contains(msg, when) {
		t.Errorf("the message and retry-after %s differ: %q", after, msg)
	}
	return time.Duration(n) * time.Second
}

// limitUnit is a limit that two requests of 50 and 50 tokens fill, and no third one passes.
type limitUnit struct{ name, spec string }

func limitUnits() (out []limitUnit) {
	for _, u := range [][2]string{
		{"Requests", "2"}, {"InputTokens", "110"}, {"OutputTokens", "100"}, {"TotalTokens", "210"}, {"Cost", `"0.00021"`},
	} {
		out = append(out,
			limitUnit{strings.ToLower(u[0]), "unit: " + u[0] + ", limit: " + u[1] + ", window: 1h, assumedOutputTokens: 1"},
			limitUnit{strings.ToLower(u[0]) + "-bucket", "unit: " + u[0] + ", limit: 1, burst: " + u[1] + ", window: 24h, algorithm: TokenBucket, assumedOutputTokens: 1"})
	}
	// A bucket of money that gains next to nothing in the time of a test.
	out[len(out)-1].spec = strings.Replace(out[len(out)-1].spec, "limit: 1,", `limit: "0.000001",`, 1)
	return append(out, limitUnit{"concurrent", "unit: ConcurrentRequests, limit: 2"})
}

// way is how a request comes: by whose key, through which rule.
type way struct{ key, rule string }

// limitTarget is a kind of target, two ways that it covers and share a counter, and one that it does not cover.
type limitTarget struct {
	name, ref     string
	first, second way
	outside       way // zero: it covers everything
}

var limitTargets = []limitTarget{
	{"gateway", gatewayTarget, way{keyA1, "one"}, way{keyC, "other"}, way{}},
	{"route", "{kind: Route, name: first}", way{keyA1, "one"}, way{keyC, "two"}, way{keyA1, "other"}},
	{"section", "{kind: Route, name: first, sectionName: one}", way{keyA1, "one"}, way{keyC, "one"}, way{keyA1, "two"}},
	{"tenant", "{kind: Tenant, name: t1}", way{keyA1, "one"}, way{keyB, "other"}, way{keyC, "one"}},
	{"everybody", "{kind: Tenant, name: \"*\"}", way{keyA1, "one"}, way{keyC, "other"}, way{}},
	{"consumer", "{kind: Consumer, name: a}", way{keyA1, "one"}, way{keyA2, "other"}, way{keyB, "one"}},
	{"key", "{kind: APIKey, name: a1}", way{keyA1, "one"}, way{keyA1, "other"}, way{keyA2, "one"}},
}

// startLimited starts the gateway with the policies of all tests of this file.
func startLimited(t *testing.T, external int) *limited {
	t.Helper()
	l := &limited{provider: newSupplier(t)}
	docs := append(fourKeys(), limitedRoutes()...)
	for _, u := range limitUnits() {
		for _, target := range limitTargets {
			name := u.name + "-" + target.name
			docs = append(docs, limitPolicy(name, target.ref, "models: ["+name+"]\nlimits: [{name: most, "+u.spec+"}]"))
		}
	}
	for _, per := range []string{"Target", "Tenant", "Consumer", "Credential"} {
		name := "per-" + strings.ToLower(per)
		docs = append(docs, limitPolicy(name, gatewayTarget, "models: ["+name+"]\nper: "+per+"\nlimits: [{name: most, unit: Requests, limit: 1, window: 1h}]"))
	}
	two := "{kind: Route, name: first}, {kind: Consumer, name: a}"
	for name, spec := range map[string]string{
		"two-targets":      "limits: [{name: most, unit: Requests, limit: 2, window: 1h}]",
		"two-targets-once": "per: Tenant\nlimits: [{name: most, unit: Requests, limit: 2, window: 1h}]",
	} {
		docs = append(docs, limitPolicy(name, two, "models: ["+name+"]\n"+spec))
	}
	for name, spec := range map[string]string{
		"shadow":     "models: [shadow]\nmode: Shadow\nlimits: [{name: rpm, unit: Requests, limit: 1, window: 1h}, {name: tpm, unit: TotalTokens, limit: 60, window: 1h}, {name: par, unit: ConcurrentRequests, limit: 1}]",
		"wide":       "models: [\"strict*\"]\nlimits: [{name: rpm, unit: Requests, limit: 100, window: 1h}, {name: tpm, unit: TotalTokens, limit: 1k, window: 10m}]",
		"narrow":     "models: [strict-1]\nlimits: [{name: rpm, unit: Requests, limit: 2, window: 30m}]",
		"narrower":   "models: [strict-1]\nlimits: [{name: rpm, unit: Requests, limit: 2, window: 2h}]",
		"headers":    "models: [headers]\nlimits: [{name: rpm, unit: Requests, limit: 10, window: 1h}, {name: rpd, unit: Requests, limit: 1k, window: 24h}, {name: in, unit: InputTokens, limit: 100k, window: 1h}, {name: out, unit: OutputTokens, limit: 2k, window: 1h}]",
		"soon":       "models: [soon]\nlimits: [{name: rp2s, unit: Requests, limit: 2, window: 2s}]",
		"soon-drip":  "models: [soon-drip]\nlimits: [{name: drip, unit: Requests, limit: 1, burst: 2, window: 2s, algorithm: TokenBucket}]",
		"soon-spent": "models: [soon-spent]\nlimits: [{name: tp2s, unit: OutputTokens, limit: 100, window: 2s}]",
		"reserve":    "models: [reserve]\nlimits: [{name: out, unit: OutputTokens, limit: 1k, window: 1h, assumedOutputTokens: 400}]",
		"failed":     "models: [failed]\nlimits: [{name: tpm, unit: TotalTokens, limit: 300, window: 1h}, {name: par, unit: ConcurrentRequests, limit: 1}]",
		"unsent":     "models: [unsent]\nlimits: [{name: rpm, unit: Requests, limit: 1, window: 1h}]",
		"queue":      "models: [queue]\nlimits: [{name: par, unit: ConcurrentRequests, limit: 1, maxWait: 30s}]",
		"impatient":  "models: [impatient]\nlimits: [{name: par, unit: ConcurrentRequests, limit: 1, maxWait: 300ms}]",
		"paced":      "models: [paced]\nlimits: [{name: rps, unit: Requests, limit: 4, burst: 1, window: 1s, algorithm: TokenBucket, maxWait: 10s}]",
		"paced-tok":  "models: [paced-tok]\nlimits: [{name: tps, unit: OutputTokens, limit: 100, window: 1s, maxWait: 10s}]",
		"crowd":      "models: [crowd]\nlimits: [{name: rpm, unit: Requests, limit: 500, window: 1h}]",
	} {
		docs = append(docs, limitPolicy(name, gatewayTarget, spec))
	}
	listener := ""
	if external > 0 {
		listener = fmt.Sprintf("authentication: {external: {port: %d}}", external)
	}
	l.Gateway = harness.Start(t, harness.Options{
		Listener: listener, Backends: l.provider.backends(t), Documents: docs,
		Files: map[string]string{"moving.yaml": movingPolicy(3, "Enforce"), "rpm.yaml": rpmKey(3)},
	})
	return l
}

const keyRPM = "key-rpm-0123456789abcdef"

// rpmKey is a key of the consumer a with a limit of its own.
func rpmKey(n int) string {
	return harness.APIKey("slow", "a", keyRPM, fmt.Sprintf("requestsPerMinute: %d", n))
}

func movingPolicy(limit int, mode string) string {
	return limitPolicy("moving", gatewayTarget, fmt.Sprintf("models: [moving]\nmode: %s\nlimits: [{name: rpm, unit: Requests, limit: %d, window: 1h}]", mode, limit))
}

func TestLimitPolicies(t *testing.T) {
	external := harness.FreePort(t)
	l := startLimited(t, external)
	if problems := l.Status().Problems; len(problems) > 0 {
		t.Fatalf("problems: %q", problems)
	}
	// Many at the same time, more than there are cores: they wait for windows of seconds, and for Envoy's records.
	t.Run("all", func(t *testing.T) {
		var all sync.WaitGroup
		defer all.Wait()
		places := make(chan struct{}, 12)
		run := func(name string, f func(*testing.T)) {
			all.Go(func() {
				places <- struct{}{}
				t.Run(name, f)
				<-places
			})
		}
		for _, u := range limitUnits() {
			for _, target := range limitTargets {
				run(u.name+" of "+target.name, func(t *testing.T) { testLimit(t, l, u, target) })
			}
		}
		for name, f := range map[string]func(*testing.T, *limited){
			"per": testPer, "two targets": testTwoTargets, "shadow": testShadow, "strictest": testStrictest, "headers": testLimitHeaders,
			"retry-after": testRetryAfter, "reservation": testReservation, "failed requests": testFailedRequests, "unsent requests": testUnsent,
			"queue": testQueue, "queue that is too slow": testImpatient, "queue for a pace": testPaced,
		} {
			run(name, func(t *testing.T) { f(t, l) })
		}
	})
	t.Run("crowd", func(t *testing.T) { testCrowd(t, l) })
	t.Run("reload", func(t *testing.T) { testReloadedLimit(t, l) })
	t.Run("requests per minute of a key", func(t *testing.T) { testRequestsPerMinute(t, l, external) })
	quiet(t, l.Gateway)
	checkSecrets(t, l.Gateway, keyA1, keyA2, keyB, keyC, keyRPM, harness.BackendKey("oa"))
}

// testLimit: two requests fill the limit, whoever sends them; a third one is refused, and what the target does not cover is not.
func testLimit(t *testing.T, l *limited, u limitUnit, target limitTarget) {
	model := u.name + "-" + target.name
	limit := "default/" + model + "/most"
	body := limitedBody(model, `"max_tokens":50`)
	dialects := []string{"openai", "anthropic"}
	var running []<-chan int
	for i, w := range []way{target.first, target.second} {
		if u.name == "concurrent" {
			running = append(running, l.hold(t, model, l.question(t, w.key, w.rule, dialects[i], body)))
			continue
		}
		a := l.ask(t, w.key, w.rule, dialects[i], body)
		must200(t, fmt.Sprint("request ", i), a.status, a.body)
		settled(t, l.Gateway, limit)
	}
	for _, w := range []way{target.first, target.second} {
		for _, dialect := range dialects {
			a := l.ask(t, w.key, w.rule, dialect, body)
			if after := checkRefused(t, dialect, a, limit); after == 0 || (u.name == "concurrent") != (after == time.Second) {
				t.Errorf("retry-after %s", after)
			}
		}
	}
	if target.outside != (way{}) {
		for range 3 {
			a := l.ask(t, target.outside.key, target.outside.rule, "openai", body)
			must200(t, "outside of the target", a.status, a.body)
		}
	}
	if u.name == "concurrent" {
		l.provider.release(model)
		for _, r := range running {
			must200(t, "a held request", <-r, "")
		}
		settled(t, l.Gateway, limit)
		a := l.ask(t, target.first.key, target.first.rule, "openai", body)
		must200(t, "after the others have ended", a.status, a.body)
	}
	states := limitsNow(t, l.Gateway, limit)
	if len(states) != 1 || states[0].Refused != 4 {
		t.Errorf("%+v, want one with 4 refused", states)
	}
	if n := l.Metric("weir_limit_decisions_total", "limit", limit, "outcome", "refused"); n != 4 {
		t.Errorf("%v refusals in the metric, want 4", n)
	}
}

// testPer: who shares a counter. The four callers each try twice a limit of one.
func testPer(t *testing.T, l *limited) {
	for per, want := range map[string][]string{
		"target": {keyA1}, "tenant": {keyA1, keyC}, "consumer": {keyA1, keyB, keyC}, "credential": {keyA1, keyA2, keyB, keyC},
	} {
		t.Run(per, func(t *testing.T) {
			t.Parallel()
			for round := range 2 {
				var passed []string
				for _, key := range []string{keyA1, keyA2, keyB, keyC} {
					a := l.ask(t, key, "one", "openai", limitedBody("per-"+per))
					if a.status == http.StatusOK {
						passed = append(passed, key)
						continue
					}
					checkRefused(t, "openai", a, "default/per-"+per+"/most")
				}
				if round == 1 {
					want = nil
				}
				if fmt.Sprint(passed) != fmt.Sprint(want) {
					t.Errorf("round %d: %v passed, want %v", round, passed, want)
				}
			}
		})
	}
}

// testTwoTargets: a request that two targets of a policy cover counts once for each, or once where they share counters.
func testTwoTargets(t *testing.T, l *limited) {
	ask := func(model, key, rule string) int { return l.ask(t, key, rule, "openai", limitedBody(model)).status }
	status := func(want int, model, key, rule string) {
		t.Helper()
		if got := ask(model, key, rule); got != want {
			t.Errorf("%s by %.6s through %s: status %d, want %d", model, key, rule, got, want)
		}
	}
	// Both targets: one left at each. Then the Route's is used up by another consumer, and the consumer's by another Route.
	status(200, "two-targets", keyA1, "one")
	status(200, "two-targets", keyB, "one")
	status(429, "two-targets", keyC, "two")
	status(200, "two-targets", keyA1, "other")
	status(429, "two-targets", keyA2, "other")
	status(200, "two-targets", keyB, "other") // neither
	// One counter for the tenant t1.
	status(200, "two-targets-once", keyA1, "one")
	status(200, "two-targets-once", keyB, "one")
	status(429, "two-targets-once", keyA1, "other")
	status(200, "two-targets-once", keyC, "one")
	status(200, "two-targets-once", keyB, "other") // neither
}

// testShadow: nothing is refused and nothing is said, but it is counted.
func testShadow(t *testing.T, l *limited) {
	held := l.hold(t, "shadow", l.question(t, keyA1, "one", "openai", limitedBody("shadow")))
	for range 4 {
		a := l.ask(t, keyA1, "one", "anthropic", limitedBody("shadow", `"max_tokens":50`))
		must200(t, "in shadow mode", a.status, a.body)
		for name := range a.header {
			if strings.HasPrefix(strings.ToLower(name), "x-ratelimit") {
				t.Errorf("the answer has %s", name)
			}
		}
	}
	l.provider.release("shadow")
	must200(t, "the held request", <-held, "")
	for _, limit := range []string{"rpm", "tpm", "par"} {
		name := "default/shadow/" + limit
		if n := l.Metric("weir_limit_decisions_total", "limit", name, "outcome", "shadow_refused"); n != 4 {
			t.Errorf("%s: %v would have been refused, want 4", name, n)
		}
		if n := l.Metric("weir_limit_decisions_total", "limit", name, "outcome", "refused"); n != 0 {
			t.Errorf("%s: %v refused", name, n)
		}
		if s := limitsNow(t, l.Gateway, name); len(s) != 1 || s[0].ShadowRefused != 4 || s[0].Refused != 0 {
			t.Errorf("%+v", s)
		}
	}
}

// testStrictest: of several policies every one must admit, and the answer names the one that refuses for the longest.
func testStrictest(t *testing.T, l *limited) {
	for range 2 {
		a := l.ask(t, keyA1, "one", "openai", limitedBody("strict-1", `"max_tokens":50`))
		must200(t, "below all limits", a.status, a.body)
		if got := a.header.Get("x-ratelimit-limit-requests"); got != "2" {
			t.Errorf("the header tells of a limit of %s requests, and the strictest is 2", got)
		}
	}
	for _, dialect := range []string{"openai", "anthropic"} {
		after := checkRefused(t, dialect, l.ask(t, keyA1, "one", dialect, limitedBody("strict-1", `"max_tokens":50`)), "default/narrower/rpm")
		if after <= time.Hour || after > 2*time.Hour+2*time.Minute {
			t.Errorf("retry-after %s of a window of two hours", after)
		}
	}
	// The refused ones took nothing from the limits that would have admitted them.
	if s := limitsNow(t, l.Gateway, "default/wide/rpm"); len(s) != 1 || len(s[0].Subjects) != 1 || s[0].Subjects[0].Remaining != 98 {
		t.Errorf("%+v, want 98 remaining", s)
	}
	msg := checkError(t, "openai", l.ask(t, keyA1, "one", "openai", limitedBody("strict-2", `"max_tokens":1000`)), http.StatusTooManyRequests)
	if !strings.Contains(msg, "default/wide/tpm") {
		t.Errorf("the message does not name the limit: %q", msg)
	}
}

// testLimitHeaders: what answers and refusals say of the tightest limits, on every way, and that nothing is heard of the
// provider's own.
func testLimitHeaders(t *testing.T, l *limited) {
	number := func(a answer, name string) int {
		n, err := strconv.Atoi(a.header.Get(name))
		if err != nil {
			t.Errorf("%s is %q", name, a.header.Get(name))
		}
		return n
	}
	check := func(a answer, requests, tokens int) {
		t.Helper()
		if n := number(a, "x-ratelimit-limit-requests"); n != 10 {
			t.Errorf("limit of requests %d", n)
		}
		if n := number(a, "x-ratelimit-remaining-requests"); n != requests {
			t.Errorf("remaining requests %d, want %d", n, requests)
		}
		if n := number(a, "x-ratelimit-limit-tokens"); n != 2000 {
			t.Errorf("limit of tokens %d", n)
		}
		if n := number(a, "x-ratelimit-remaining-tokens"); n != tokens {
			t.Errorf("remaining tokens %d, want %d", n, tokens)
		}
		for _, name := range []string{"x-ratelimit-reset-requests", "x-ratelimit-reset-tokens"} {
			if n := number(a, name); n < 3000 || n > 3660 {
				t.Errorf("%s is %d, of a window of an hour", name, n)
			}
		}
		for name, values := range a.header {
			if strings.Contains(strings.Join(values, " "), ownLimit) || strings.HasPrefix(strings.ToLower(name), "anthropic-ratelimit") || strings.EqualFold(name, "x-ratelimit-other") {
				t.Errorf("the provider's %s: %s is visible", name, values)
			}
		}
	}
	sent, served := 0, 0
	for _, dialect := range []string{"openai", "anthropic"} {
		for _, rule := range []string{"oa", "an"} { // the same dialect, and another
			a := l.ask(t, keyA1, rule, dialect, limitedBody("headers", `"max_tokens":200`), "x-out", "150")
			must200(t, dialect+" to "+rule, a.status, a.body)
			sent++
			check(a, 10-sent, 2000-150*served-200)
			settled(t, l.Gateway, "default/headers/out")
			served++
		}
		// A refusal of the provider's has them too.
		a := l.ask(t, keyA1, "oa", dialect, limitedBody("headers", `"max_tokens":200`), "x-status", "400")
		if a.status != http.StatusBadRequest {
			t.Errorf("status %d", a.status)
		}
		sent++
		check(a, 10-sent, 2000-150*served-200)
		settled(t, l.Gateway, "default/headers/out")
		// A refusal of Weir's own takes nothing.
		a = l.ask(t, keyA1, "oa", dialect, limitedBody("headers", `"max_tokens":1999`))
		checkRefused(t, dialect, a, "default/headers/out")
		check(a, 10-sent, 2000-150*served)
	}
	a := l.ask(t, keyA1, "oa", "openai", limitedBody("unlimited"))
	for name := range a.header {
		if strings.Contains(strings.ToLower(name), "ratelimit") {
			t.Errorf("an answer without limits has %s", name)
		}
	}
}

// testRetryAfter: who waits as long as a refusal says, passes.
func testRetryAfter(t *testing.T, l *limited) {
	for model, limit := range map[string]string{"soon": "rp2s", "soon-drip": "drip", "soon-spent": "tp2s"} {
		t.Run(model, func(t *testing.T) {
			t.Parallel()
			name := "default/" + model + "/" + limit
			body := limitedBody(model, `"max_tokens":50`)
			for range 2 {
				a := l.ask(t, keyA1, "one", "openai", body)
				must200(t, "below the limit", a.status, a.body)
				settled(t, l.Gateway, name)
			}
			a := l.ask(t, keyA1, "one", "anthropic", body)
			after := checkRefused(t, "anthropic", a, name)
			if after < time.Second || after > 3*time.Second { // rounded up to seconds
				t.Fatalf("retry-after %s of a window of two seconds", after)
			}
			<-time.After(after) // what the answer says is what is tested
			a = l.ask(t, keyA1, "one", "openai", body)
			must200(t, "after retry-after", a.status, a.body)
		})
	}
}

// testReservation: a request reserves the output that it asks for, or what is assumed, and gives back what it did not use.
func testReservation(t *testing.T, l *limited) {
	const limit = "default/reserve/out"
	remaining := func(want int64) {
		t.Helper()
		if s := limitsNow(t, l.Gateway, limit); len(s) != 1 || len(s[0].Subjects) != 1 || s[0].Subjects[0].Remaining != want {
			t.Errorf("%+v, want %d remaining", s, want)
		}
	}
	long := l.hold(t, "reserve-long", l.question(t, keyA1, "one", "openai", limitedBody("reserve", `"max_tokens":600`), "x-out", "10"))
	remaining(400)
	checkRefused(t, "openai", l.ask(t, keyA1, "one", "openai", limitedBody("reserve", `"max_tokens":600`)), limit)
	open := l.hold(t, "reserve-open", l.question(t, keyC, "other", "openai", limitedBody("reserve"), "x-out", "20"))
	remaining(0)
	checkRefused(t, "anthropic", l.ask(t, keyA1, "one", "anthropic", limitedBody("reserve", `"max_tokens":1`)), limit)
	for _, name := range []string{"reserve-long", "reserve-open"} {
		l.provider.release(name)
	}
	must200(t, "with max_tokens", <-long, "")
	must200(t, "without", <-open, "")
	settled(t, l.Gateway, limit)
	remaining(970)
	for _, more := range []string{`"max_tokens":1001`, `"max_completion_tokens":1001`, `"max_tokens":501,"n":2`, `"max_tokens":1e3,"n":2`} {
		a := l.ask(t, keyA1, "oa", "openai", limitedBody("reserve", more))
		msg := checkError(t, "openai", a, http.StatusTooManyRequests)
		if a.header.Get("retry-after") != "" || a.header.Get("x-should-retry") != "false" || !strings.Contains(msg, limit) || !strings.Contains(msg, "never holds more than 1000") {
			t.Errorf("%s: retry-after %q: %s", more, a.header.Get("retry-after"), msg)
		}
	}
	// One that uses more than was assumed leaves a debt.
	a := l.ask(t, keyA1, "one", "openai", limitedBody("reserve"), "x-out", "1200")
	must200(t, "more than assumed", a.status, a.body)
	settled(t, l.Gateway, limit)
	if after := checkRefused(t, "openai", l.ask(t, keyA1, "one", "openai", limitedBody("reserve", `"max_tokens":1`)), limit); after < 50*time.Minute {
		t.Errorf("retry-after %s after more was used than the limit", after)
	}
}

// testFailedRequests: errors of providers cost no tokens, and hold no place.
func testFailedRequests(t *testing.T, l *limited) {
	for _, rule := range []string{"oa", "an"} {
		for range 3 { // each reserves most of the limit
			a := l.ask(t, keyA1, rule, "openai", limitedBody("failed", `"max_tokens":200`), "x-status", "500")
			if a.status != http.StatusInternalServerError {
				t.Fatalf("status %d: %s", a.status, a.body)
			}
			settled(t, l.Gateway, "default/failed/tpm")
		}
	}
	a := l.ask(t, keyA1, "dead", "openai", limitedBody("failed", `"max_tokens":200`))
	if a.status != http.StatusServiceUnavailable && a.status != http.StatusBadGateway {
		t.Errorf("a backend that is not there: status %d: %s", a.status, a.body)
	}
	settled(t, l.Gateway, "default/failed/tpm")
	a = l.ask(t, keyA1, "one", "openai", limitedBody("failed", `"max_tokens":200`))
	must200(t, "after failures", a.status, a.body)
	settled(t, l.Gateway, "default/failed/par")
}

// testUnsent: a request that no backend has seen counts for nothing.
func testUnsent(t *testing.T, l *limited) {
	for range 3 { // its messages are refused only when they are translated
		a := l.ask(t, keyA1, "an", "openai", `{"model":"unsent","messages":[{"role":"nobody","content":"Hi"}]}`)
		if a.status != http.StatusBadRequest {
			t.Fatalf("status %d: %s", a.status, a.body)
		}
		settled(t, l.Gateway, "default/unsent/rpm")
	}
	a := l.ask(t, keyA1, "an", "openai", limitedBody("unsent"))
	must200(t, "the first that is sent", a.status, a.body)
	checkRefused(t, "openai", l.ask(t, keyA1, "an", "openai", limitedBody("unsent")), "default/unsent/rpm")
}

// testQueue: requests wait for room; tenants take turns; who leaves takes nothing along.
func testQueue(t *testing.T, l *limited) {
	const limit = "default/queue/par"
	first := l.hold(t, "queue-first", l.question(t, keyA1, "one", "openai", limitedBody("queue")))
	queue := func(name, key string) <-chan int {
		before := waiting(t, l.Gateway, limit)
		req := l.question(t, key, "one", "anthropic", limitedBody("queue", `"max_tokens":50`), "x-hold", name)
		out := begin(req)
		harness.WaitFor(t, name+" waits", func() bool { return waiting(t, l.Gateway, limit) == before+1 })
		return out
	}
	ctx, leave := context.WithCancel(t.Context())
	gone := l.question(t, keyB, "one", "openai", limitedBody("queue"), "x-hold", "queue-gone").WithContext(ctx)
	left := begin(gone)
	harness.WaitFor(t, "the first in the queue waits", func() bool { return waiting(t, l.Gateway, limit) == 1 })
	var all []<-chan int
	for i := range 4 {
		all = append(all, queue(fmt.Sprint("queue-t1-", i), keyA1))
	}
	all = append(all, queue("queue-t2-0", keyC))
	leave()
	if status := <-left; status != 0 {
		t.Errorf("who left got status %d", status)
	}
	harness.WaitFor(t, "the one that left is gone from the queue", func() bool { return waiting(t, l.Gateway, limit) == 5 })
	for _, name := range []string{"queue-first", "queue-t1-0", "queue-t1-1", "queue-t1-2", "queue-t1-3", "queue-t2-0"} {
		l.provider.release(name)
	}
	must200(t, "the first", <-first, "")
	for _, c := range all {
		must200(t, "one that waited", <-c, "")
	}
	order := l.provider.held("queue-t")
	if len(order) != 5 || order[0] != "queue-t2-0" && order[1] != "queue-t2-0" {
		t.Errorf("they came in the order %v; the other tenant's only request must not wait for all four", order)
	}
	var own []string
	for _, name := range order {
		if strings.HasPrefix(name, "queue-t1") {
			own = append(own, name)
		}
	}
	if fmt.Sprint(own) != "[queue-t1-0 queue-t1-1 queue-t1-2 queue-t1-3]" {
		t.Errorf("one tenant's requests came in the order %v", own)
	}
	settled(t, l.Gateway, limit)
	if n := l.Metric("weir_limit_decisions_total", "limit", limit, "outcome", "admitted_late"); n != 5 {
		t.Errorf("%v were admitted after they waited, want 5", n)
	}
	a := l.ask(t, keyB, "one", "openai", limitedBody("queue"))
	must200(t, "after all", a.status, a.body)
	if len(l.provider.held("queue-gone")) > 0 {
		t.Error("the request that was given up came to the provider")
	}
}

// testImpatient: who waits for longer than maxWait is refused.
func testImpatient(t *testing.T, l *limited) {
	const limit = "default/impatient/par"
	held := l.hold(t, "impatient", l.question(t, keyA1, "one", "openai", limitedBody("impatient")))
	start := time.Now()
	checkRefused(t, "openai", l.ask(t, keyA1, "one", "openai", limitedBody("impatient")), limit)
	if waited := time.Since(start); waited < 300*time.Millisecond {
		t.Errorf("refused after %s, and it may wait 300ms", waited)
	}
	l.provider.release("impatient")
	must200(t, "the held request", <-held, "")
	settled(t, l.Gateway, limit)
	if n := waiting(t, l.Gateway, limit); n != 0 {
		t.Errorf("%d wait", n)
	}
}

// testPaced: requests that come all at once go on at the pace of their limit, and none is refused.
func testPaced(t *testing.T, l *limited) {
	for _, model := range []string{"paced", "paced-tok"} {
		t.Run(model, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			var all []<-chan int
			for i := range 6 {
				all = append(all, begin(l.question(t, []string{keyA1, keyC}[i%2], "one", "openai", limitedBody(model, `"max_tokens":50`))))
			}
			for _, c := range all {
				must200(t, "one of six", <-c, "")
			}
			// A bucket of 1 that gains 4 in a second; 100 tokens in a second for 6 x 50.
			if took, least := time.Since(start), map[string]time.Duration{"paced": 1200 * time.Millisecond, "paced-tok": 2 * time.Second}[model]; took < least {
				t.Errorf("six took %s, and the limit allows them in no less than %s", took, least)
			}
		})
	}
}

// testCrowd: of very many requests at once exactly as many pass as the limit says.
func testCrowd(t *testing.T, l *limited) {
	got := crowd(t, 2000, func() (string, string) { return l.URL, keyA1 }, limitedBody("crowd"))
	if got[200] != 500 || got[429] != 1500 {
		t.Errorf("statuses %v, want 500 x 200 and 1500 x 429", got)
	}
}

// crowd sends requests that all wait for the same signal, and counts the statuses of their answers. to says where each goes and
// by which key.
func crowd(t *testing.T, n int, to func() (url, key string), body string, headers ...string) map[int]int {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: protocols}, Timeout: harness.Patience}
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	got := map[int]int{}
	var ready, all sync.WaitGroup
	var failed atomic.Pointer[error]
	start := make(chan struct{})
	ready.Add(n)
	for range n {
		url, key := to()
		all.Go(func() {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/v1/chat/completions", strings.NewReader(body))
			ready.Done()
			<-start
			status := 0
			if err == nil {
				req.Header.Set("authorization", "Bearer "+key)
				req.Header.Set("content-type", plainJSON)
				req.Header.Set("x-rule", "one")
				for i := 0; i+1 < len(headers); i += 2 {
					req.Header.Set(headers[i], headers[i+1])
				}
				var resp *http.Response
				if resp, err = client.Do(req); err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					status = resp.StatusCode
				}
			}
			if err != nil {
				failed.Store(&err)
			}
			mu.Lock()
			got[status]++
			mu.Unlock()
		})
	}
	ready.Wait()
	close(start)
	all.Wait()
	if err := failed.Load(); err != nil {
		t.Errorf("a request got no answer: %v", *err)
	}
	return got
}

// testReloadedLimit: another limit applies at once, and what was counted stays.
func testReloadedLimit(t *testing.T, l *limited) {
	ask := func(want int, what string) {
		t.Helper()
		if a := l.ask(t, keyA1, "one", "openai", limitedBody("moving")); a.status != want {
			t.Errorf("%s: status %d, want %d: %s", what, a.status, want, a.body)
		}
	}
	change := func(limit int, mode string) {
		t.Helper()
		l.Change(func() { l.WriteFile("moving.yaml", movingPolicy(limit, mode)) })
	}
	ask(200, "1 of 3")
	ask(200, "2 of 3")
	change(4, "Enforce")
	ask(200, "3 of 4")
	ask(200, "4 of 4")
	ask(429, "5 of 4")
	change(2, "Enforce")
	ask(429, "lowered")
	change(2, "Shadow")
	ask(200, "shadowed")
	change(5, "Enforce")
	ask(200, "5 of 5: the shadow counted nothing that it would have refused")
	ask(429, "6 of 5")
	l.Change(func() { l.Remove("moving.yaml") })
	ask(200, "without a policy")
}
