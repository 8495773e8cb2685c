package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim"
)

// exportSecret travels in a header of every export, and nowhere else.
const exportSecret = "secret-of-the-collector-0123"

// keyOfLimited is the key of a consumer that may ask once a minute.
const keyOfLimited = "key-of-the-limited-012345"

// traced is a gateway that exports to a collector, and its providers: the first two speak OpenAI's dialect, the third Anthropic's.
type traced struct {
	*harness.Gateway
	first, second, third *harness.Sim
	collector            *collector // nil where there is none
}

// startTraced starts it; env goes on top of what makes exports quick.
func startTraced(t *testing.T, c *collector, listener string, env ...string) *traced {
	t.Helper()
	g := &traced{collector: c}
	newSim := func(name string, d sim.Dialect, seed uint64) *harness.Sim {
		return harness.NewSim(t, sim.Options{Dialect: d, Key: harness.BackendKey(name), Seed: seed})
	}
	g.first, g.second, g.third = newSim("first", sim.OpenAI, 1), newSim("second", sim.OpenAI, 2), newSim("third", sim.Anthropic, 3)
	g.Gateway = harness.Start(t, harness.Options{
		Listener: listener,
		Backends: []harness.Backend{{Name: "first", Sim: g.first}, {Name: "second", Sim: g.second}, {Name: "third", Sim: g.third}},
		Documents: []string{
			harness.Route("traced", `rules:
  - {name: direct, matches: [{models: [gpt-4o]}], backends: [{name: first}]}
  - {name: again, matches: [{models: [gpt-4o-mini]}], backends: [{name: first}], retry: {attempts: 2}}
  - {name: chain, matches: [{models: [chain]}], backends: [{name: first, model: gpt-4o}, {name: second, model: gpt-4o-mini, priority: 1}]}
  - {name: third, matches: [{models: [translated]}], backends: [{name: third, model: claude-sonnet-4-5}]}
`),
			harness.Consumer("limited", keyOfLimited, "tenant: small"),
			limitPolicy("once", "{kind: Consumer, name: limited}", "limits: [{name: rpm, unit: Requests, limit: 1, window: 1h}]"),
		},
		Env: append([]string{
			"OTEL_BSP_SCHEDULE_DELAY=20", "OTEL_BLRP_SCHEDULE_DELAY=20", "OTEL_METRIC_EXPORT_INTERVAL=100",
			"OTEL_EXPORTER_OTLP_HEADERS=x-team=blue,x-key=" + exportSecret, "OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=e2e",
		}, env...),
	})
	return g
}

// ask sends a chat, and returns the answer and its request ID.
func (g *traced) ask(t *testing.T, model string, stream bool, headers ...string) (answer, string) {
	t.Helper()
	a := do(t, http.DefaultClient, request(t, g.Gateway, "POST", "/v1/chat/completions", "openai", chatBody(model, "Hello", stream), headers...))
	id := a.header.Get("x-request-id")
	if id == "" {
		t.Fatalf("an answer without x-request-id: %d %s", a.status, a.body)
	}
	return a, id
}

// served asks, and fails the test unless the answer is 200.
func (g *traced) served(t *testing.T, model string, stream bool, headers ...string) string {
	t.Helper()
	a, id := g.ask(t, model, stream, headers...)
	if a.status != 200 {
		t.Fatalf("status %d: %s", a.status, a.body)
	}
	return id
}

// checkAttrs fails the test unless the span has these attributes: names and values in turn; "*" is any value, "" is none.
func checkAttrs(t *testing.T, s span, pairs ...string) {
	t.Helper()
	for i := 0; i+1 < len(pairs); i += 2 {
		got, ok := s.attrs[pairs[i]]
		if want := pairs[i+1]; want == "*" && got == "" || want != "*" && got != want || want == "" && ok {
			t.Errorf("%s: %s is %q, want %q\nall: %v", s.name, pairs[i], got, want, s.attrs)
		}
	}
}

// checkTree fails the test unless the spans are a request, its decision where there is one, and attempts, each with the right parent, and
// none outside the request's time where the times come from one clock.
func checkTree(t *testing.T, spans []span, decided bool, attempts int) {
	t.Helper()
	want := []int{serverSpan}
	if decided {
		want = append(want, internalSpan)
	}
	for range attempts {
		want = append(want, clientSpan)
	}
	kinds := make([]int, len(spans))
	for i, s := range spans {
		kinds[i] = s.kind
	}
	if fmt.Sprint(kinds) != fmt.Sprint(want) {
		t.Fatalf("spans of the kinds %v, want %v: %+v", kinds, want, spans)
	}
	root := spans[0]
	for _, s := range spans[1:] {
		if s.parent != root.id || s.trace != root.trace {
			t.Errorf("%s is of %s, want %s", s.name, s.parent, root.id)
		}
	}
	for _, s := range spans {
		if s.ended < s.begun || s.kind == clientSpan && (s.begun < root.begun || s.ended > root.ended) {
			t.Errorf("%s runs from %d to %d, and the request from %d to %d", s.name, s.begun, s.ended, root.begun, root.ended)
		}
	}
}

// checkSent fails the test unless the provider's last request had the attempt's span for its parent.
func checkSent(t *testing.T, s *harness.Sim, attempt span, flags string) {
	t.Helper()
	if got, want := s.Last().Header.Get("traceparent"), "00-"+attempt.trace+"-"+attempt.id+"-"+flags; got != want {
		t.Errorf("the provider has received traceparent %q, want %q", got, want)
	}
}

// TestTraces exports to the OpenTelemetry Collector's receiver.
func TestTraces(t *testing.T) {
	bin := buildCollector(t)
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		t.Run(strings.ReplaceAll(protocol, "/", " "), func(t *testing.T) {
			c := startCollector(t, bin)
			endpoint := c.http
			if protocol == "grpc" {
				endpoint = c.grpc
			}
			g := startTraced(t, c, "", "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL="+protocol)
			t.Run("plain", g.plain)
			t.Run("stream", g.stream)
			t.Run("translated", g.translated)
			t.Run("fallback", g.fallback)
			t.Run("fallback from nobody", g.fallbackFromNobody)
			t.Run("retry", g.retry)
			t.Run("no attempt left", g.noAttemptLeft)
			t.Run("limit", g.limit)
			t.Run("refused", g.refused)
			t.Run("caller's trace", g.callersTrace)
			t.Run("other signals", g.otherSignals)
		})
	}
	t.Run("sampling", func(t *testing.T) { testSampling(t, startCollector(t, bin)) })
	t.Run("weir stands still", func(t *testing.T) { testStandsStill(t, startCollector(t, bin)) })
	t.Run("a variable that is wrong", testWrongVariable)
	t.Run("no collector", testNoCollector)
}

func (g *traced) plain(t *testing.T) {
	id := g.served(t, "gpt-4o", false)
	spans := g.collector.traceOf(t, id, 3)
	checkTree(t, spans, true, 1)
	checkAttrs(t, spans[0], "http.request.method", "POST", "http.route", "/v1/chat/completions", "url.path", "/v1/chat/completions", "url.scheme", "http",
		"http.response.status_code", "200", "weir.tenant", "app", "network.peer.address", "127.0.0.1", "client.address", "127.0.0.1", "user_agent.original", "*",
		"envoy.response_code_details", "via_upstream", "error.type", "")
	if spans[0].name != "POST /v1/chat/completions" || spans[0].parent != "" || spans[0].failed {
		t.Errorf("the request is %+v", spans[0])
	}
	checkAttrs(t, spans[1], "weir.consumer", "*", "weir.credential", "*", "weir.tenant", "app", "weir.route", "*", "weir.config.version", "*", "weir.gateway", "default/e2e",
		"gen_ai.request.model", "gpt-4o", "gen_ai.operation.name", "chat", "weir.refusal", "")
	host, port, _ := strings.Cut(g.first.Address(), ":")
	checkAttrs(t, spans[2], "gen_ai.operation.name", "chat", "gen_ai.provider.name", "openai", "gen_ai.request.model", "gpt-4o", "gen_ai.request.stream", "",
		"gen_ai.usage.input_tokens", "*", "gen_ai.usage.output_tokens", "*", "server.address", host, "server.port", port, "http.response.status_code", "200",
		"weir.backend", "default/first", "weir.endpoint", g.first.Address(), "error.type", "", "gen_ai.input.messages", "", "gen_ai.output.messages", "")
	if spans[2].name != "chat gpt-4o" || spans[2].events["weir.first_byte_received"] == 0 {
		t.Errorf("the attempt is %+v", spans[2])
	}
	checkSent(t, g.first, spans[2], "01")
	if !g.collector.scopes["traces/weir"] || !g.collector.teams["blue"] {
		t.Errorf("services %v, teams %v", g.collector.scopes, g.collector.teams)
	}
}

func (g *traced) stream(t *testing.T) {
	id := g.served(t, "gpt-4o", true)
	spans := g.collector.traceOf(t, id, 3)
	checkTree(t, spans, true, 1)
	a := spans[2]
	checkAttrs(t, a, "gen_ai.request.stream", "true", "gen_ai.response.time_to_first_chunk", "*", "gen_ai.usage.output_tokens", "*")
	if at := a.events["gen_ai.first_token"]; at < a.begun || at > a.ended {
		t.Errorf("the first token came at %d of %d to %d", at, a.begun, a.ended)
	}
	checkSent(t, g.first, a, "01")
}

func (g *traced) translated(t *testing.T) {
	id := g.served(t, "translated", true)
	spans := g.collector.traceOf(t, id, 3)
	checkTree(t, spans, true, 1)
	checkAttrs(t, spans[2], "gen_ai.provider.name", "anthropic", "gen_ai.request.model", "claude-sonnet-4-5", "weir.translated", "true", "weir.backend", "default/third")
	checkAttrs(t, spans[1], "gen_ai.request.model", "translated", "weir.dialect", "openai")
	checkSent(t, g.third, spans[2], "01")
}

func (g *traced) fallback(t *testing.T) {
	g.first.Configure(sim.Faults{Rules: []sim.Rule{{Kind: sim.Status, Status: 503}}})
	defer g.first.Configure(sim.Faults{})
	id := g.served(t, "chain", false)
	spans := g.collector.traceOf(t, id, 4)
	checkTree(t, spans, true, 2)
	one, two := spans[2], spans[3]
	checkAttrs(t, one, "weir.backend", "default/first", "gen_ai.request.model", "gpt-4o", "http.response.status_code", "503", "error.type", "503", "weir.endpoint", g.first.Address(),
		"gen_ai.usage.output_tokens", "")
	checkAttrs(t, two, "weir.backend", "default/second", "gen_ai.request.model", "gpt-4o-mini", "http.response.status_code", "200", "error.type", "",
		"http.request.resend_count", "1", "gen_ai.usage.output_tokens", "*")
	if !one.failed || two.failed || spans[0].failed || one.begun > two.begun {
		t.Errorf("%+v", spans)
	}
	checkSent(t, g.first, one, "01")
	checkSent(t, g.second, two, "01")
}

func (g *traced) fallbackFromNobody(t *testing.T) {
	g.first.Stop()
	defer g.first.Restart()
	id := g.served(t, "chain", true)
	spans := g.collector.traceOf(t, id, 4)
	checkTree(t, spans, true, 2)
	checkAttrs(t, spans[2], "weir.backend", "default/first", "error.type", "connect", "http.response.status_code", "", "envoy.response_flags", "UF")
	if !spans[2].failed || spans[2].words == "" {
		t.Errorf("the first attempt is %+v", spans[2])
	}
	checkSent(t, g.second, spans[3], "01")
}

func (g *traced) retry(t *testing.T) {
	g.first.Configure(sim.Faults{Rules: []sim.Rule{{Kind: sim.Status, Status: 500, Next: 1}}})
	defer g.first.Configure(sim.Faults{})
	id := g.served(t, "gpt-4o-mini", false)
	spans := g.collector.traceOf(t, id, 4)
	checkTree(t, spans, true, 2)
	checkAttrs(t, spans[2], "weir.backend", "default/first", "error.type", "500")
	checkAttrs(t, spans[3], "weir.backend", "default/first", "error.type", "", "http.request.resend_count", "1")
	recs := g.first.Requests()
	if len(recs) < 2 {
		t.Fatalf("the provider has %d requests", len(recs))
	}
	if got := recs[len(recs)-2].Header.Get("traceparent"); got != "00-"+spans[2].trace+"-"+spans[2].id+"-01" {
		t.Errorf("the first attempt was sent with %q", got)
	}
	checkSent(t, g.first, spans[3], "01")
}

func (g *traced) noAttemptLeft(t *testing.T) {
	for _, s := range []*harness.Sim{g.first, g.second} {
		s.Configure(sim.Faults{Rules: []sim.Rule{{Kind: sim.Status, Status: 503}}})
		defer s.Configure(sim.Faults{})
	}
	a, id := g.ask(t, "chain", false)
	if a.status < 500 {
		t.Fatalf("status %d", a.status)
	}
	spans := g.collector.traceOf(t, id, 4)
	checkTree(t, spans, true, 2)
	checkAttrs(t, spans[0], "error.type", fmt.Sprint(a.status))
	if !spans[0].failed || !spans[2].failed || !spans[3].failed {
		t.Errorf("%+v", spans)
	}
}

func (g *traced) limit(t *testing.T) {
	as := []string{"authorization", "Bearer " + keyOfLimited}
	g.served(t, "gpt-4o", false, as...)
	a, id := g.ask(t, "gpt-4o", false, as...)
	if a.status != 429 {
		t.Fatalf("status %d: %s", a.status, a.body)
	}
	spans := g.collector.traceOf(t, id, 2)
	checkTree(t, spans, true, 0)
	checkAttrs(t, spans[0], "http.response.status_code", "429", "weir.tenant", "small", "error.type", "")
	checkAttrs(t, spans[1], "weir.refusal.kind", "rate_limit", "weir.policy", "*", "weir.refusal", "*", "weir.consumer", "*", "weir.route", "*", "weir.config.version", "*")
	if !strings.Contains(spans[1].attrs["weir.policy"], "once") {
		t.Errorf("refused by %s", spans[1].attrs["weir.policy"])
	}
}

func (g *traced) refused(t *testing.T) {
	for _, c := range []struct {
		method, path, key string
		status            int
		name, kind        string
	}{
		{"POST", "/v1/chat/completions", "nobody-s-key-0123456789", 401, "POST", "authentication"},
		{"GET", "/nothing/here", harness.DefaultKey, 404, "GET", "not_found"},
	} {
		a := do(t, http.DefaultClient, request(t, g.Gateway, c.method, c.path, "openai", "", "authorization", "Bearer "+c.key))
		if a.status != c.status {
			t.Fatalf("%s: status %d", c.path, a.status)
		}
		spans := g.collector.traceOf(t, a.header.Get("x-request-id"), 2)
		checkTree(t, spans, true, 0)
		checkAttrs(t, spans[1], "weir.refusal.kind", c.kind, "weir.refusal", "*")
		if spans[0].name != c.name {
			t.Errorf("the request is called %q", spans[0].name)
		}
		for _, s := range spans {
			for _, v := range s.attrs {
				if strings.Contains(v, c.key) {
					t.Errorf("a span holds a key: %v", s.attrs)
				}
			}
		}
	}
}

func (g *traced) callersTrace(t *testing.T) {
	const trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	const unsampled = "5bf92f3577b34da6a3ce929d0e0e4736"
	g.served(t, "gpt-4o", false, "traceparent", "00-"+unsampled+"-"+parent+"-00")
	if got := g.first.Last().Header.Get("traceparent"); !strings.HasPrefix(got, "00-"+unsampled+"-") || !strings.HasSuffix(got, "1-00") || strings.Contains(got, parent) {
		t.Errorf("the provider has received traceparent %q", got)
	}
	id := g.served(t, "gpt-4o", false, "traceparent", "00-"+trace+"-"+parent+"-01", "tracestate", "vendor=1", "baggage", "user=2")
	if h := g.first.Last().Header; h.Get("tracestate") != "vendor=1" || h.Get("baggage") != "user=2" {
		t.Errorf("the provider has received tracestate %q and baggage %q", h.Get("tracestate"), h.Get("baggage"))
	}
	spans := g.collector.traceOf(t, id, 3)
	checkTree(t, spans, true, 1)
	if spans[0].trace != trace || spans[0].parent != parent {
		t.Errorf("the request is of %s in %s", spans[0].parent, spans[0].trace)
	}
	checkSent(t, g.first, spans[2], "01")
	two := request(t, g.Gateway, "POST", "/v1/chat/completions", "openai", chatBody("gpt-4o", "Hello", false), "traceparent", "00-"+trace+"-"+parent+"-01", "tracestate", "vendor=1")
	two.Header.Add("traceparent", "00-"+unsampled+"-"+parent+"-01")
	if a := do(t, http.DefaultClient, two); a.status != 200 {
		t.Fatalf("status %d: %s", a.status, a.body)
	}
	h := g.first.Last().Header
	if got := h.Values("traceparent"); len(got) != 1 || strings.Contains(got[0], trace) || strings.Contains(got[0], unsampled) || h.Get("tracestate") != "" {
		t.Errorf("of two traces the provider has received %q and %q", got, h.Get("tracestate"))
	}
	// It would have come before.
	if got := g.collector.of(unsampled); len(got) > 0 {
		t.Errorf("a trace that its caller does not sample is exported: %+v", got)
	}
}

func (g *traced) otherSignals(t *testing.T) {
	harness.WaitFor(t, "logs and metrics", func() bool {
		return g.collector.has("configuration is live", "weir_telemetry_exported_spans_total") && g.collector.has(`"stringValue":"e2e"`, `"stringValue":"e2e"`)
	})
	for what, text := range map[string]string{"log": g.Logs(), "exported log": g.collector.logs} {
		for _, secret := range []string{exportSecret, g.Key, harness.BackendKey("first")} {
			if strings.Contains(text, secret) {
				t.Errorf("the %s holds a secret", what)
			}
		}
	}
	if n := g.Metric("weir_telemetry_dropped_spans_total"); n != 0 {
		t.Errorf("%v spans were dropped", n)
	}
}

// testSampling: the configuration says which traces are exported, and changes while it runs.
func testSampling(t *testing.T, c *collector) {
	g := startTraced(t, c, `telemetry: {tracing: {sampling: "0"}}`, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://"+c.http+"/v1/traces")
	left := g.served(t, "gpt-4o", false)
	if got := g.first.Last().Header.Get("traceparent"); !strings.HasSuffix(got, "1-00") {
		t.Errorf("the provider has received traceparent %q", got)
	}
	g.first.Configure(sim.Faults{Rules: []sim.Rule{{Kind: sim.Status, Status: 503}}})
	kept := g.served(t, "chain", false)
	g.first.Configure(sim.Faults{})
	spans := c.traceOf(t, kept, 4)
	checkTree(t, spans, true, 2)
	checkSent(t, g.second, spans[3], "00")
	g.Change(func() { g.WriteFile("gateway.yaml", harness.Listener(`telemetry: {tracing: {sampling: "100"}}`)) })
	checkTree(t, c.traceOf(t, g.served(t, "gpt-4o", false), 3), true, 1)
	g.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if s.attrs["weir.request_id"] == left {
			t.Errorf("a trace that is not sampled is exported: %+v", s)
		}
	}
}

// testWrongVariable: weir does not start, and says which variable is wrong.
func testWrongVariable(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "gateway.yaml"), []byte(harness.Listener("")), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), harness.Binary(t), "run", "-f", dir, "--state-dir", t.TempDir())
	cmd.Env = append(os.Environ(), "OTEL_EXPORTER_OTLP_ENDPOINT=collector:4317")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "OTEL_EXPORTER_OTLP_ENDPOINT is no URL") {
		t.Errorf("%v: weir says %s", err, out)
	}
}

// testNoCollector: without a collector every request is served, and the log says what is wrong, once.
func testNoCollector(t *testing.T) {
	g := startTraced(t, nil, "", fmt.Sprintf("OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:%d", harness.FreePort(t)), "OTEL_EXPORTER_OTLP_PROTOCOL=grpc",
		"OTEL_BSP_MAX_QUEUE_SIZE=8", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=4", "OTEL_EXPORTER_OTLP_TIMEOUT=200", "OTEL_BSP_EXPORT_TIMEOUT=200")
	for range 50 {
		g.served(t, "gpt-4o", false)
	}
	g.WaitFor("dropped spans", func() bool { return g.Metric("weir_telemetry_dropped_spans_total") > 0 })
	g.WaitFor("a line about it", func() bool { return strings.Contains(g.Logs(), "Traces cannot be exported") })
	if n := strings.Count(g.Logs(), "Traces cannot be exported"); n != 1 {
		t.Errorf("%d lines about it", n)
	}
	if n := g.Metric("weir_telemetry_exported_spans_total"); n != 0 {
		t.Errorf("%v spans were exported to nobody", n)
	}
}
