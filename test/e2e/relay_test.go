package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/weir-dev/weir/envoy"
	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim"
	"github.com/weir-dev/weir/usage/ledger"
)

// remembering is a gateway whose requests of two providers go through the relay.
type remembering struct {
	*harness.Gateway
	openai, anthropic *harness.Sim
}

// The callers beside "app", who have tenants of their own.
const (
	relayOther = "relay-key-of-other-0123456789"
	relayKey   = "authorization"
)

// startRemembering starts it with documents of its own; the Route is named all.
func startRemembering(t *testing.T, documents ...string) *remembering {
	t.Helper()
	r := &remembering{
		openai:    harness.NewSim(t, sim.Options{Dialect: sim.OpenAI}),
		anthropic: harness.NewSim(t, sim.Options{Dialect: sim.Anthropic}),
	}
	const price = "prices: [{input: \"1\", output: \"2\"}]"
	r.Gateway = harness.Start(t, harness.Options{
		Backends: []harness.Backend{
			{Name: "oa", Sim: r.openai, Models: []string{"gpt-4o", "text-embedding-3-small"}, Spec: price},
			{Name: "an", Sim: r.anthropic, Models: []string{"claude-sonnet-4-5"}, Spec: price},
		},
		Documents: append([]string{
			harness.Route("all", "rules: [{backends: [{name: oa}, {name: an}]}]"),
			harness.Consumer("other", relayOther, "tenant: other\n"),
		}, documents...),
	})
	if problems := r.Status().Problems; len(problems) > 0 {
		t.Fatalf("problems: %q", problems)
	}
	return r
}

// asked is how many requests the providers have had.
func (r *remembering) asked() int { return len(r.openai.Requests()) + len(r.anthropic.Requests()) }

// say sends a chat with a temperature of 0.
func (r *remembering) say(t *testing.T, dialect, model, text string, stream bool, headers ...string) answer {
	t.Helper()
	body := strings.TrimSuffix(chatBody(model, text, stream), "}") + `,"temperature":0}`
	return do(t, http.DefaultClient, request(t, r.Gateway, "POST", chatPath(dialect), dialect, body, headers...))
}

// entries are those of the ledger, once there are so many.
func (r *remembering) entries(t *testing.T, n int) []ledger.Entry {
	t.Helper()
	var all []ledger.Entry
	r.WaitFor("the entries", func() bool {
		all = r.Ledger()
		return len(all) >= n
	})
	if len(all) != n {
		t.Errorf("the ledger has %d entries, want %d: %+v", len(all), n, all)
	}
	slices.SortFunc(all, func(a, b ledger.Entry) int { return a.Time.Compare(b.Time) })
	return all
}

// What the cache may do nothing for passes through the relay as through a gateway without one: in every dialect, plain and as a stream, with
// one entry for each request, of what its backend used.
func TestRelayPasses(t *testing.T) {
	r := startRemembering(t, harness.Document("CachePolicy", "cache", "targetRefs: [{kind: Route, name: all}]\neligible: OptIn\n"))
	n := 0
	for _, dialect := range []string{"openai", "anthropic"} {
		for _, model := range []string{"gpt-4o", "claude-sonnet-4-5"} {
			for _, stream := range []bool{false, true} {
				n++
				a := r.say(t, dialect, model, "Hello", stream)
				if a.status != 200 {
					t.Fatalf("%s %s %v: %d %s", dialect, model, stream, a.status, a.body)
				}
				if got := a.header.Get("x-weir-cache"); got != "bypass" {
					t.Errorf("%s %s %v: x-weir-cache is %q", dialect, model, stream, got)
				}
				backend := "default/oa"
				if model != "gpt-4o" {
					backend = "default/an"
				}
				if got := a.header.Get("x-weir-backend"); got != backend {
					t.Errorf("%s %s %v: x-weir-backend is %q", dialect, model, stream, got)
				}
				if got := a.header.Get("x-weir-route"); got != "default/all" {
					t.Errorf("%s %s %v: x-weir-route is %q", dialect, model, stream, got)
				}
				if stream {
					if _, ended, err := streamText(a.body); err != nil || !ended {
						t.Errorf("%s %s: %v, ended %v: %s", dialect, model, err, ended, a.body)
					}
				}
			}
		}
	}
	if r.asked() != n {
		t.Errorf("the providers had %d requests, want %d", r.asked(), n)
	}
	for _, e := range r.entries(t, n) {
		if e.Tokens.Total() == 0 || e.Cost == 0 || e.Backend == "" || e.Consumer != "app" || e.Route != "default/all" || e.Status != 200 || e.Cache != "bypass" ||
			e.Cached || e.Estimated || e.Interrupted {
			t.Errorf("entry %+v", e)
		}
	}
	if got := r.Metric("weir_requests_total"); got != float64(n) {
		t.Errorf("weir_requests_total is %v, want %d", got, n)
	}
	if got := r.Metric("weir_relay_fills_total", "purpose", "answer"); got != float64(n) {
		t.Errorf("weir_relay_fills_total is %v, want %d", got, n)
	}
}

// A conversation goes on over providers of different dialects: each turn has what was said before, and is kept before its caller has all of
// the answer.
func TestRelayConversation(t *testing.T) {
	r := startRemembering(t, harness.Document("SessionPolicy", "talk", "targetRefs: [{kind: Route, name: all}]\n"))
	for i, turn := range []struct {
		dialect, model string
		stream         bool
		state          string
	}{
		{"openai", "gpt-4o", false, "new"},
		{"openai", "claude-sonnet-4-5", true, "ok"},
		{"anthropic", "gpt-4o", true, "ok"},
		{"anthropic", "claude-sonnet-4-5", false, "ok"},
	} {
		a := r.say(t, turn.dialect, turn.model, fmt.Sprintf("This is turn %d.", i), turn.stream, "x-weir-session", "trip")
		if a.status != 200 || a.header.Get("x-weir-session-state") != turn.state || a.header.Get("x-weir-cache") != "" {
			t.Fatalf("turn %d: %d %v %s", i, a.status, a.header, a.body)
		}
		at := r.openai
		if turn.model != "gpt-4o" {
			at = r.anthropic
		}
		body := at.Last().Body
		for j := range i + 1 {
			if !strings.Contains(body, fmt.Sprintf("This is turn %d.", j)) {
				t.Errorf("turn %d does not say turn %d: %s", i, j, body)
			}
		}
	}
	if a := r.say(t, "openai", "gpt-4o", "Who are you?", false); a.status != 200 || a.header.Get("x-weir-session-state") != "" || strings.Contains(r.openai.Last().Body, "turn 0") {
		t.Errorf("a request without a session: %d %v %s", a.status, a.header, r.openai.Last().Body)
	}
	if a := r.say(t, "openai", "gpt-4o", "Hello", false, "x-weir-session", "no name"); a.status != 400 {
		t.Errorf("a name that is none: %d %s", a.status, a.body)
	}
	for _, e := range r.entries(t, 5) {
		if e.Cost == 0 || e.Cached || e.Cache != "" {
			t.Errorf("entry %+v", e)
		}
	}
}

// The relay comes with the first policy and goes with the last. The inner listener changes with its gateway, and both are there again when Envoy
// has died.
func TestRelayChanges(t *testing.T) {
	for name, beside := range map[string]bool{"run": false, "serve": true} {
		t.Run(name, func(t *testing.T) {
			provider := harness.NewSim(t, sim.Options{Dialect: sim.OpenAI})
			g := harness.Start(t, harness.Options{
				Beside:    beside,
				Backends:  []harness.Backend{{Name: "oa", Sim: provider, Models: []string{"gpt-4o"}}},
				Documents: []string{harness.Route("all", "rules: [{backends: [{name: oa}]}]")},
			})
			r := &remembering{Gateway: g, openai: provider}
			outcome := func(text string) string {
				t.Helper()
				a := r.say(t, "openai", "gpt-4o", text, false)
				if a.status != 200 {
					t.Fatalf("%s: %d %s", text, a.status, a.body)
				}
				return a.header.Get("x-weir-cache")
			}
			expect := func(text, want string) {
				t.Helper()
				if got := outcome(text); got != want {
					t.Errorf("%s: %q, want %q", text, got, want)
				}
			}
			expect("one", "")
			g.Change(func() {
				g.WriteFile("cache.yaml", harness.Document("CachePolicy", "cache", "targetRefs: [{kind: Route, name: all}]\n"))
			})
			expect("one", "miss")
			expect("one", "hit")
			g.Change(func() { g.WriteFile("gateway.yaml", harness.Listener("timeouts: {streamIdle: 4m}\n")) })
			expect("one", "hit")
			expect("two", "miss")

			if beside {
				g.KillEnvoy()
				g.StartEnvoy()
			} else {
				before := g.EnvoyPID()
				process, err := os.FindProcess(before)
				if err != nil {
					t.Fatal(err)
				}
				if err := process.Kill(); err != nil {
					t.Fatal(err)
				}
				g.WaitFor("another Envoy", func() bool { return g.EnvoyPID() != before && g.EnvoyPID() != 0 })
			}
			g.WaitFor("the gateway", g.Ready)
			expect("two", "hit")
			expect("three", "miss")
			g.Change(func() { g.Remove("cache.yaml") })
			expect("three", "")
			if n := len(provider.Requests()); n != 5 {
				t.Errorf("the provider had %d requests, want 5", n)
			}
		})
	}
}

// What the caller is told when a backend breaks off, refuses or does not answer is what it would be told without a relay, and the ledger has
// one entry.
func TestRelayFailures(t *testing.T) {
	r := startRemembering(t, harness.Document("CachePolicy", "cache", "targetRefs: [{kind: Route, name: all}]\n"))
	r.openai.Configure(sim.Faults{Rules: []sim.Rule{{Kind: sim.Status, Status: 400}}})
	if a := r.say(t, "anthropic", "gpt-4o", "Hello", false); a.status != 400 || a.header.Get("x-weir-cache") != "miss" {
		t.Errorf("refused: %d %q %s", a.status, a.header.Get("x-weir-cache"), a.body)
	} else {
		checkError(t, "anthropic", a, 400)
	}
	r.openai.Configure(sim.Faults{})
	if a := r.say(t, "anthropic", "gpt-4o", "Hello", false); a.status != 200 || a.header.Get("x-weir-cache") != "miss" {
		t.Errorf("an error was kept: %d %q %s", a.status, a.header.Get("x-weir-cache"), a.body)
	}
	if a := r.say(t, "openai", "no-such-model", "Hello", false); a.status != 404 {
		t.Errorf("a model that nobody serves: %d %s", a.status, a.body)
	}
	r.openai.Stop()
	if a := r.say(t, "openai", "gpt-4o", "Another", false); a.status != 503 {
		t.Errorf("a backend that is gone: %d %s", a.status, a.body)
	}
	for _, e := range r.entries(t, 3) {
		if (e.Cost > 0) != (e.Status == 200) || e.Cache != "miss" {
			t.Errorf("entry %+v", e)
		}
	}
}

// A fill that is given up before anybody has decided about it is no request of a caller's.
func TestRelayUndecided(t *testing.T) {
	r := startRemembering(t, harness.Document("CachePolicy", "cache", "targetRefs: [{kind: Route, name: all}]\n"))
	socket := regexp.MustCompile(`"path":\s*"([^"]*` + envoy.InnerSocketName + `)"`).FindSubmatch(r.Envoy("/listeners?format=json"))
	if socket == nil {
		t.Fatal("Envoy has no inner listener")
	}
	active := func(n int64) func() bool {
		return func() bool {
			return r.EnvoyStats(`http\.inner\.downstream_rq_active`)["http.inner.downstream_rq_active"] == n
		}
	}
	if err := syscall.Kill(r.PID(), syscall.SIGSTOP); err != nil { // nobody decides
		t.Fatal(err)
	}
	goOn := func() { _ = syscall.Kill(r.PID(), syscall.SIGCONT) }
	t.Cleanup(goOn)
	conn, err := net.Dial("unix", string(socket[1]))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST /v1/chat/completions HTTP/1.1\r\nhost: inner\r\ncontent-length: 2\r\n\r\n{}"); err != nil {
		t.Fatal(err)
	}
	harness.WaitFor(t, "Envoy to have the request", active(1))
	conn.Close()
	harness.WaitFor(t, "it to be over", active(0))
	goOn()
	if a := r.say(t, "openai", "gpt-4o", "Hello", false); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	r.entries(t, 1)
	if got := r.Metric("weir_requests_total"); got != 1 {
		t.Errorf("weir_requests_total is %v, want that of the one request", got)
	}
}
