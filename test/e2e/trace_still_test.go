package e2e

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/weir-dev/weir/test/e2e/harness"
)

// testStandsStill: weir does not run, as on a machine that has too much to do, from before an attempt fails until the request is over. All that
// Envoy tells of it is read at once then, and none of it is lost.
func testStandsStill(t *testing.T, c *collector) {
	var pid, asked, before atomic.Int64
	var g *harness.Gateway
	sent := func() int64 { // bytes, from Envoy to weir
		return g.EnvoyStats(`cluster\.weir_extproc\.upstream_cx_tx_bytes_total`)["cluster.weir_extproc.upstream_cx_tx_bytes_total"]
	}
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("content-type", "application/json")
		if asked.Add(1)%2 == 0 {
			_, _ = io.WriteString(w, `{"id":"c","object":"chat.completion","created":1,"model":"still","choices":[{"index":0,"message":{"role":"assistant","content":"Hi."},`+
				`"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`) // the gateway may have gone
			return
		}
		if err := syscall.Kill(int(pid.Load()), syscall.SIGSTOP); err != nil {
			t.Error(err)
		}
		before.Store(sent())
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, `{"error":{"message":"asked for","type":"server_error","code":null,"param":null}}`)
	}))
	t.Cleanup(provider.Close)
	g = harness.Start(t, harness.Options{
		Backends:  []harness.Backend{{Name: "only", Dialect: "openai", URL: provider.URL + "/v1", Models: []string{"still"}}},
		Documents: []string{harness.Route("again", "rules: [{backends: [{name: only}], retry: {attempts: 2}}]")},
		Env:       []string{"OTEL_BSP_SCHEDULE_DELAY=20", "OTEL_EXPORTER_OTLP_ENDPOINT=http://" + c.grpc, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"},
	})
	pid.Store(int64(g.PID()))
	goOn := func() { _ = syscall.Kill(g.PID(), syscall.SIGCONT) } // that fails where weir has ended, which the harness tells of
	t.Cleanup(goOn)
	const rounds = 6
	for range rounds {
		a := do(t, http.DefaultClient, request(t, g, "POST", "/v1/chat/completions", "openai", chatBody("still", "Hello", false)))
		// The records of the attempt and of the request have some hundred bytes each.
		harness.WaitFor(t, "Envoy to have told of all", func() bool { return sent() > before.Load()+1000 })
		goOn()
		must200(t, "the second attempt", a.status, a.body)
		spans := c.traceOf(t, a.header.Get("x-request-id"), 4)
		checkTree(t, spans, true, 2)
		checkAttrs(t, spans[2], "weir.backend", "default/only", "error.type", "500", "http.response.status_code", "500")
		checkAttrs(t, spans[3], "weir.backend", "default/only", "error.type", "", "http.request.resend_count", "1")
	}
	for name, want := range map[string]float64{"weir_attempts_failed_total": rounds, "weir_attempts_total": 2 * rounds} {
		if got := g.Metric(name, "backend", "default/only"); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}
