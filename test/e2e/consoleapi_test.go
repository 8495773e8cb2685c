package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/weir-dev/weir/console/api"
	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim"
	"github.com/weir-dev/weir/test/sim/gpu"
)

// watched is a gateway whose console is watched: the newest of everything that its stream has told.
type watched struct {
	*harness.Gateway
	t *testing.T
}

func fromAPI[T any](w *watched, path string) T {
	w.t.Helper()
	var out T
	adminJSON(w.t, w.Gateway, path, &out)
	return out
}

// until looks at an answer until it is as it should be.
func until[T any](w *watched, what, path string, ok func(*T) bool) T {
	w.t.Helper()
	var out T
	w.WaitFor(what, func() bool {
		out = fromAPI[T](w, path)
		return ok(&out)
	})
	return out
}

// ask sends a chat, and gives what the console has of it once it is over.
func (w *watched) ask(model string, status int, headers ...string) api.Request {
	w.t.Helper()
	a := do(w.t, http.DefaultClient, request(w.t, w.Gateway, "POST", "/v1/chat/completions", "openai", fmt.Sprintf(`{"model":%q,"stream":true,"messages":[{"role":"user","content":"the prompt of the caller"}]}`, model), headers...))
	if a.status != status {
		w.t.Fatalf("%s: status %d: %s", model, a.status, a.body)
	}
	id := a.header.Get("x-request-id")
	found := func() bool {
		return slices.ContainsFunc(fromAPI[api.Requests](w, "/api/requests?q="+id).Recent, func(s api.RequestSummary) bool { return s.RequestID == id })
	}
	w.WaitFor("the console to know request "+id, found)
	return fromAPI[api.Request](w, "/api/requests/"+id)
}

func dependency(h *api.History, id string) api.Dependency {
	for _, d := range h.Dependencies {
		if d.ID == id {
			return d
		}
	}
	return api.Dependency{}
}

func told(d api.Dependency, text string) bool {
	return slices.ContainsFunc(d.Events, func(e api.Event) bool { return strings.Contains(e.Text, text) })
}

// TestConsoleAPI sends traffic of every kind, lets what Weir depends on fail, and reads what the console says of it.
func TestConsoleAPI(t *testing.T) {
	t.Parallel()
	one, two := harness.NewSim(t, sim.Options{Dialect: sim.OpenAI}), harness.NewSim(t, sim.Options{Dialect: sim.Anthropic})
	pool := quickGPUs(t, 2, gpu.Options{})
	servers := steeredPool{name: "pool", servers: pool, backend: "healthCheck: {interval: 200ms}\n"}
	g := harness.Start(t, harness.Options{
		Backends: []harness.Backend{{Name: "one", Sim: one}, {Name: "two", Sim: two}},
		Documents: []string{
			harness.Route("chain", "rules: [{matches: [{models: [chain]}], backends: [{name: one, model: gpt-4o}, {name: two, model: claude-sonnet-4-5, priority: 1}]}]"),
			harness.Route("solo", "rules: [{matches: [{models: [solo]}], backends: [{name: one, model: gpt-4o}]}]"),
			harness.Route("scarce", "rules: [{matches: [{models: [scarce]}], backends: [{name: two, model: claude-sonnet-4-5}]}]"),
			harness.Route("frail", "rules: [{matches: [{models: [frail]}], backends: [{name: one, model: gpt-4o}]}]"),
			harness.Route("pool", "rules: [{matches: [{models: [pool]}], backends: [{name: pool}]}]"),
			limitPolicy("scarce", "{kind: Route, name: scarce}", "limits: [{name: rpm, unit: Requests, limit: 1, window: 1h}]"),
			limitPolicy("frail", "{kind: Route, name: frail}", "circuitBreaker: {minRequests: 2, errorPercent: 50, window: 1m, openFor: 1h}"),
			servers.document(), harness.Document("LoadPolicy", "pool", "targetRefs: [{kind: Backend, name: pool}]\nhealth: {warmUp: 0s}\n"),
		},
	})
	w := &watched{g, t}
	stream := listen(t, g)

	good := w.ask("chain", 200)
	if d := good.Decision; good.Outcome != "ok" || good.Backend != "default/one" || good.Endpoint != one.Address() || good.InputTokens == 0 || good.TTFTSeconds <= 0 ||
		good.TraceID == "" || d.Consumer != "app" || d.Credential != "key:app" || d.Version != g.Status().Configuration.Serving ||
		len(d.Candidates) != 2 || d.Candidates[0].Outcome != "answered" || d.Candidates[1].Outcome != "not asked" || !slices.Equal(d.Matched, []string{"model chain"}) {
		t.Errorf("a good one: %+v", good)
	}
	names := ""
	for i, m := range good.Timeline {
		if names += m.Name + " "; i > 0 && m.AtSeconds < good.Timeline[i-1].AtSeconds {
			t.Errorf("the moments are in no order: %+v", good.Timeline)
		}
	}
	for _, want := range []string{"received", "decided", "sent", "firstByte", "firstToken", "done"} {
		if !strings.Contains(names, want+" ") {
			t.Errorf("%q has no %s", names, want)
		}
	}

	one.Configure(sim.Faults{Rules: []sim.Rule{{Kind: sim.Status, Status: 503}}})
	back := w.ask("chain", 200)
	if back.Outcome != "ok" || back.Backend != "default/two" || back.Attempts != 2 || len(back.Tried) != 2 || !back.Tried[0].Failed || back.Tried[0].Status != 503 ||
		back.Tried[0].Endpoint != one.Address() || back.Tried[1].Backend != "default/two" || back.Decision.Candidates[0].Outcome != "failed" ||
		!slices.Contains(back.Flags, "translated") {
		t.Errorf("a fallback: %+v", back)
	}
	failed := w.ask("solo", 503)
	if failed.Outcome != "failed" || failed.Backend != "default/one" || failed.Reason != "default/one answered 503" {
		t.Errorf("a failure: %+v", failed.RequestSummary)
	}
	w.ask("frail", 503)
	w.ask("frail", 503)
	w.WaitFor("the breaker to be open", func() bool { return breakersNow(t, g, "frail")[""].State == "Open" })
	if r := w.ask("frail", 503); r.Outcome != "refused" || !strings.Contains(r.Reason, `circuit breaker "default/frail"`) || r.Attempts != 0 {
		t.Errorf("refused by a breaker: %+v", r.RequestSummary)
	}
	first := w.ask("scarce", 200)
	if l := first.Decision.Limits; len(l) != 1 || l[0].Limit != 1 || l[0].Remaining != 0 || !strings.Contains(l[0].Name, "scarce") {
		t.Errorf("limits: %+v", l)
	}
	if r := w.ask("scarce", 429); r.Outcome != "refused" || !strings.Contains(r.Reason, "default/scarce/rpm") || len(r.Tried) != 0 {
		t.Errorf("refused by a limit: %+v", r)
	}
	if r := w.ask("scarce", 401, "authorization", "Bearer no-such-key-0000"); r.Outcome != "refused" || r.Consumer != "" || r.Status != 401 {
		t.Errorf("a stranger: %+v", r)
	}
	if list := fromAPI[api.Requests](w, "/api/requests?status=refused&route=default/scarce"); len(list.Recent) != 1 || list.Total != 9 {
		t.Errorf("the list: %+v", list)
	}

	h := until(w, "the history of what failed", "/api/history", func(h *api.History) bool { return dependency(h, "backend:default/one").State == "degraded" })
	if d := dependency(&h, "backend:default/one"); !told(d, "Requests fail: status 503.") || d.Failures[len(d.Failures)-1]+d.Failures[len(d.Failures)-2] != 4 {
		t.Errorf("%+v", d)
	}
	if d := dependency(&h, "breaker:default/frail|"); d.State != "down" || !told(d, "has opened: 2 of 2 requests failed") {
		t.Errorf("%+v", d)
	}

	one.Stop()
	for range 3 {
		w.ask("solo", 503)
	}
	top := until(w, "the topology to have the traffic", "/api/topology", func(top *api.Topology) bool {
		return slices.ContainsFunc(top.Edges, func(e api.Edge) bool {
			return e.Kind == "client" && e.From == "app/app" && e.To == "default/solo" && e.Errors > 0
		})
	})
	if len(top.Backends) != 3 || len(top.Routes) != 5 || top.Gateways[0].Listeners[0].URL != g.URL || top.Backends[0].Health == "ok" || !strings.Contains(top.Backends[0].Why, "no connection") {
		t.Errorf("%+v", top)
	}

	// A server of the pool that says it is ill is isolated, and comes back.
	must(t, pool.Servers[0].Set(gpu.Fault{Health: 503}))
	until(w, "the pool to be degraded", "/api/topology", func(top *api.Topology) bool {
		b := top.Backends[1]
		return b.ID == "default/pool" && b.Health == "degraded" && b.Steered && b.Endpoints[0].Status == "Isolated" && b.Endpoints[0].Why != "" && b.Endpoints[1].Status == "Active"
	})
	id := "endpoint:default/pool|" + top.Backends[1].Endpoints[0].Address
	until(w, "the history of the endpoint", "/api/history", func(h *api.History) bool { return told(dependency(h, id), "Down: ") })
	must(t, pool.Servers[0].Set(gpu.Fault{}))
	until(w, "the endpoint to be well again", "/api/history", func(h *api.History) bool {
		d := dependency(h, id)
		return d.State == "ok" && told(d, "Down: ") && told(d, "Well again.")
	})

	// A configuration that is refused, and another that is live.
	before := g.Status().Configuration.Serving
	g.WriteFile("extra.yaml", harness.Route("extra", "rules: [{backends: [{name: nobody}]}]"))
	until(w, "the refusal", "/api/config", func(c *api.Config) bool { return c.Changes[0].Outcome == "refused" && len(c.Problems) == 1 })
	g.WriteFile("extra.yaml", harness.Route("extra", "rules: [{matches: [{models: [more]}], backends: [{name: two, model: claude-sonnet-4-5}]}]"))
	g.WaitVersion(before)
	c := until(w, "the change", "/api/config", func(c *api.Config) bool { return c.Changes[0].Outcome == "live" })
	if o := c.Changes[0].Objects; len(o) != 1 || o[0].ID != "default/extra" || o[0].Action != "added" || !strings.Contains(o[0].Diff, "+      - more\n") && !strings.Contains(o[0].Diff, "+    - models:\n") {
		t.Errorf("%+v", c.Changes[0])
	}

	// Envoy dies, and its requests with it.
	must(t, syscall.Kill(g.EnvoyPID(), syscall.SIGKILL))
	until(w, "the death of Envoy", "/api/history", func(h *api.History) bool {
		return told(dependency(h, "envoy:envoy"), "was ended by signal 9") && dependency(h, "envoy:envoy").State == "ok"
	})

	stream.must("topology", "live", "requests", "event", "config")
	for _, want := range []string{"has opened: 2 of 2", `"outcome":"refused"`, "signal 9", "default/extra", `"status":"Isolated"`} {
		w.WaitFor("the stream to tell "+want, func() bool { return strings.Contains(stream.text(), want) })
	}
	all := stream.text()
	for _, p := range []string{"status", "limits", "breakers", "backends", "usage", "topology", "requests?limit=1000", "history?all=true", "config", "requests/" + back.ID, "requests/" + failed.ID} {
		resp, err := http.Get(g.AdminURL + "/api/" + p)
		must(t, err)
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		must(t, err)
		if resp.StatusCode != http.StatusOK || !json.Valid(text) {
			t.Errorf("/api/%s: %d", p, resp.StatusCode)
		}
		all += string(text)
	}
	for _, s := range []string{g.Key, harness.BackendKey("one"), harness.BackendKey("two"), "no-such-key-0000", "the prompt of the caller"} {
		if strings.Contains(all, s) {
			t.Errorf("the console shows %q", s)
		}
	}
}

// listening is a stream of the console, and all that it has told.
type listening struct {
	t     *testing.T
	lines chan string
	done  chan struct{}
	all   strings.Builder
}

// listen follows the stream until the test ends.
func listen(t *testing.T, g *harness.Gateway) *listening {
	t.Helper()
	resp, err := http.Get(g.AdminURL + "/api/stream")
	must(t, err)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("/api/stream: %d", resp.StatusCode)
	}
	l := &listening{t: t, lines: make(chan string, 1<<16), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		in := bufio.NewReader(resp.Body)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			l.lines <- line
		}
	}()
	t.Cleanup(func() {
		resp.Body.Close()
		<-l.done
	})
	return l
}

// text is all that was told so far.
func (l *listening) text() string {
	for {
		select {
		case line := <-l.lines:
			l.all.WriteString(line)
		default:
			return l.all.String()
		}
	}
}

// must fails the test unless events of all these names have come, or do.
func (l *listening) must(names ...string) {
	l.t.Helper()
	for _, name := range names {
		harness.WaitFor(l.t, "an event "+name, func() bool { return strings.Contains(l.text(), "event: "+name+"\n") })
	}
}

// TestConsoleAPIOfAThousandEndpoints stays small.
func TestConsoleAPIOfAThousandEndpoints(t *testing.T) {
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, "  - {address: 127.0.%d.%d, port: 9}\n", 1+i/250, 1+i%250)
	}
	g := harness.Start(t, harness.Options{Documents: []string{
		harness.Document("Backend", "pool", "dialect: openai\nbasePath: /v1\nendpoints:\n"+b.String()),
		harness.Document("LoadPolicy", "pool", "targetRefs: [{kind: Backend, name: pool}]\n"),
		harness.Route("pool", "rules: [{backends: [{name: pool}]}]"),
	}})
	var top api.Topology
	adminJSON(t, g, "/api/topology", &top)
	if len(top.Backends) != 1 || len(top.Backends[0].Endpoints) != 1000 {
		t.Fatalf("%d backends", len(top.Backends))
	}
	stream := listen(t, g)
	harness.WaitFor(t, "three seconds of the stream", func() bool { return strings.Count(stream.text(), "event: live\n") >= 3 })
	size := map[string]int{}
	name := ""
	for line := range strings.Lines(stream.text()) {
		if n, ok := strings.CutPrefix(line, "event: "); ok {
			name = strings.TrimSpace(n)
		}
		size[name] = max(size[name], len(line))
	}
	t.Logf("bytes: %v", size)
	if size["topology"] > 400_000 || size["live"] > 10_000 {
		t.Errorf("bytes: %v", size)
	}
}
