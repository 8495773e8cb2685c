package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim"
)

// threeProviders is a gateway in front of one simulator of each dialect, with a fallback from the first to the second.
func threeProviders(t *testing.T, pace sim.Faults, o harness.Options) (g *harness.Gateway, oa, an, ds *harness.Sim) {
	oa = harness.NewSim(t, sim.Options{Dialect: sim.OpenAI, Faults: pace})
	an = harness.NewSim(t, sim.Options{Dialect: sim.Anthropic, Faults: pace})
	ds = harness.NewSim(t, sim.Options{Dialect: sim.DashScope, Faults: pace})
	o.Backends = append(o.Backends,
		harness.Backend{Name: "oa", Sim: oa, Models: []string{"gpt-4o", "renamed=gpt-4o"}},
		harness.Backend{Name: "an", Sim: an, Models: []string{"claude-sonnet-4-5"}},
		harness.Backend{Name: "ds", Sim: ds, Models: []string{"qwen-plus"}})
	o.Documents = append(o.Documents,
		harness.Route("all", "rules: [{backends: [{name: oa}, {name: an}, {name: ds}]}]"),
		harness.Route("fallback", "rules: [{matches: [{models: [fallback]}], backends: [{name: oa, model: gpt-4o}, {name: an, model: claude-sonnet-4-5, priority: 1}]}]"))
	return harness.Start(t, o), oa, an, ds
}

// TestKillEnvoy kills Envoy under load. It is back by itself, with the configuration of before.
func TestKillEnvoy(t *testing.T) {
	t.Parallel()
	pace := sim.Faults{IntervalMin: sim.Duration(time.Millisecond), IntervalMax: sim.Duration(3 * time.Millisecond)}
	g, _, _, _ := threeProviders(t, pace, harness.Options{})
	version := g.Status().Configuration.Serving
	flows := streamed(lanes...)
	tr := startTraffic(t, g, 8, flows)
	g.WaitFor("the load is under way", func() bool { return tr.sent.Load() > 50 })
	for round := range 2 {
		envoy := g.EnvoyPID()
		start := time.Now()
		if err := syscall.Kill(envoy, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		g.WaitFor("a request is served again", func() bool {
			conn, err := net.Dial("tcp", address(g))
			if err != nil {
				return false
			}
			conn.Close()
			return send(t, g, lanes[0].message()).status == http.StatusOK
		})
		t.Logf("round %d: %v without service", round, time.Since(start))
		if now := g.EnvoyPID(); now == envoy || now == 0 {
			t.Errorf("Envoy is process %d and was %d", now, envoy)
		}
	}
	failed := len(tr.stop())
	t.Logf("%s; %d failed meanwhile", tr.report(), failed)
	if failed == 0 {
		t.Error("no request has noticed, so the load was none")
	}
	if c := g.Status().Configuration; c.Serving != version || !c.EnvoyConnected || c.Rejected != "" {
		t.Errorf("the status is %+v; version %s should be served", c, version)
	}
	for _, want := range []string{"was ended by signal 9", "Envoy starts again in", "Envoy is ready"} {
		if !strings.Contains(g.Logs(), want) {
			t.Errorf("the log does not say %q", want)
		}
	}
	after := startTraffic(t, g, 8, flows)
	g.WaitFor("a few hundred requests are served", func() bool { return after.sent.Load() > 300 })
	after.mustHaveServed(t, flows)
	g.Change(func() {
		g.WriteFile("more.yaml", harness.Route("more", "rules: [{matches: [{models: [more]}], backends: [{name: oa, model: gpt-4o}]}]"))
	})
	if r := send(t, g, lane{dialect: "openai", model: "more"}.message()); r.status != http.StatusOK {
		t.Errorf("a route that is new since then: %d: %s", r.status, r.body)
	}
	checkSecrets(t, g, harness.DefaultKey, harness.BackendKey("oa"), harness.BackendKey("an"), harness.BackendKey("ds"))
}

// TestKillWeir kills weir itself. Envoy goes with it, nothing is left behind, and the next start serves again.
func TestKillWeir(t *testing.T) {
	t.Parallel()
	g, oa, _, _ := threeProviders(t, slow, harness.Options{})
	s := openStream(t, g, lanes[0])
	envoy := g.EnvoyPID()
	g.Kill(syscall.SIGKILL)
	g.Wait()
	g.WaitFor("no process is left", func() bool { return len(g.Leftovers()) == 0 })
	if err := syscall.Kill(envoy, 0); err == nil {
		t.Errorf("Envoy (%d) still lives", envoy)
	}
	if err := s.rest(); err == nil {
		t.Error("the running stream has ended as if nothing had happened")
	}
	resp, err := http.Get("http://" + oa.Address() + "/_sim/stats")
	if err != nil {
		t.Fatalf("the provider is gone as well: %v", err)
	}
	resp.Body.Close()
	g.Restart()
	for _, l := range lanes {
		if r := send(t, g, l.message()); r.status != http.StatusOK {
			t.Errorf("after the restart the lane %s answers %d: %s", l.name, r.status, r.body)
		}
	}
}

// TestHungProvider stops a provider's process, so that connections are accepted and nothing is ever answered.
func TestHungProvider(t *testing.T) {
	t.Parallel()
	port := fmt.Sprintf("127.0.0.1:%d", harness.FreePort(t))
	cmd := exec.Command(harness.Binary(t), "sim", "openai", "--listen", port, "--ttft", "1ms", "--interval", "1ms")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill() // it has ended only if the test has failed
		_ = cmd.Wait()
	}()
	an := harness.NewSim(t, sim.Options{Dialect: sim.Anthropic})
	g := harness.Start(t, harness.Options{
		Backends: []harness.Backend{
			{Name: "hung", Dialect: "openai", URL: "http://" + port + "/v1", Models: []string{"gpt-4o"}},
			{Name: "an", Sim: an, Models: []string{"claude-sonnet-4-5"}},
		},
		Documents: []string{
			harness.Route("alone", "rules: [{matches: [{models: [gpt-4o]}], backends: [{name: hung}], timeouts: {firstByte: 300ms}}]"),
			harness.Route("fallback", `
rules:
  - matches: [{models: [fallback]}]
    backends: [{name: hung, model: gpt-4o}, {name: an, model: claude-sonnet-4-5, priority: 1}]
    timeouts: {firstByte: 300ms}`),
		},
	})
	fallback := streamed(lane{name: "fallback", dialect: "openai", model: "fallback"}, lane{name: "fallback from anthropic", dialect: "anthropic", model: "fallback"})
	alone := lane{dialect: "openai", model: "gpt-4o"}
	g.WaitFor("the provider serves", func() bool { return send(t, g, alone.message()).status == http.StatusOK })

	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	g.WaitFor("the provider's process is stopped", func() bool {
		state, err := exec.Command("ps", "-o", "state=", "-p", strconv.Itoa(cmd.Process.Pid)).Output()
		return err == nil && strings.HasPrefix(strings.TrimSpace(string(state)), "T")
	})
	for _, l := range []lane{alone, {dialect: "anthropic", model: "gpt-4o"}} {
		r := send(t, g, l.message())
		if r.status != http.StatusGatewayTimeout {
			t.Errorf("alone, asked in %s: status %d, want 504: %s", l.dialect, r.status, r.body)
		}
		checkErrorShape(t, l, malformed{}, r)
		checkSDKReads(t, g, l, r)
	}
	for _, f := range fallback {
		if err := f.do(t, g, http.DefaultClient); err != nil {
			t.Errorf("%s: %v", f, err)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	g.WaitFor("the provider serves again", func() bool { return send(t, g, alone.message()).status == http.StatusOK })
	g.WaitFor("nothing is kept for requests that have ended", func() bool {
		return g.Metric("weir_exchanges") == 0 && g.Metric("weir_exchange_bytes") == 0
	})
}

// slow is the pace of an answer that takes a few seconds.
var slow = sim.Faults{IntervalMin: sim.Duration(60 * time.Millisecond), IntervalMax: sim.Duration(60 * time.Millisecond)}

// openedStream is a stream whose first bytes have come.
type openedStream struct {
	flow flow
	resp *http.Response
	in   *bufio.Reader
	head string
}

// openStream asks for a long streamed answer, and returns when it has begun.
func openStream(t *testing.T, g *harness.Gateway, l lane) *openedStream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*harness.Patience)
	t.Cleanup(cancel)
	f := flow{lane: l, stream: true}
	req := f.request(t, g).WithContext(ctx)
	body := l.fields().set("stream", "true").set("max_tokens", "40").set("messages", `[{"role":"user","content":"Tell me a story of 200 words."}]`).String()
	req.Body, req.ContentLength, req.GetBody = io.NopCloser(strings.NewReader(body)), int64(len(body)), nil
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("status %d", resp.StatusCode)
	}
	s := &openedStream{flow: f, resp: resp, in: bufio.NewReader(resp.Body)}
	if s.head, err = s.in.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return s
}

// rest reads on to the end, and says what is wrong with it.
func (s *openedStream) rest() error {
	body, err := io.ReadAll(s.in)
	if err != nil {
		return err
	}
	return s.flow.complete(append([]byte(s.head), body...))
}

// TestSignalDuringStreams: the streams that run finish, nothing new is let in, and weir ends well.
func TestSignalDuringStreams(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			g, _, _, _ := threeProviders(t, slow, harness.Options{})
			var streams []*openedStream
			for _, l := range lanes {
				streams = append(streams, openStream(t, g, l))
			}
			g.Kill(sig)
			g.WaitFor("new connections are refused", func() bool {
				conn, err := net.Dial("tcp", address(g))
				if err == nil {
					conn.Close()
				}
				return err != nil
			})
			for i, s := range streams {
				if err := s.rest(); err != nil {
					t.Errorf("%s: %v", lanes[i].name, err)
				}
			}
			if code := g.Wait(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			if left := g.Leftovers(); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// TestSecondSignal cuts what the first one lets finish.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	g, _, _, _ := threeProviders(t, slow, harness.Options{Args: []string{"--drain-timeout", "10m"}})
	s := openStream(t, g, lanes[0])
	g.Kill(syscall.SIGINT)
	g.WaitFor("weir says that it drains", func() bool { return strings.Contains(g.Logs(), "another signal stops at once") })
	g.Kill(syscall.SIGINT)
	if code := g.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if err := s.rest(); err == nil {
		t.Error("the stream has finished, so nothing was cut")
	}
	if !strings.Contains(g.Logs(), "1 request still running") {
		t.Error("the log does not say that a request was cut")
	}
}

// TestDrainTimeout cuts streams that take longer than they may.
func TestDrainTimeout(t *testing.T) {
	t.Parallel()
	g, _, _, _ := threeProviders(t, slow, harness.Options{Args: []string{"--drain-timeout", "300ms"}})
	s := openStream(t, g, lanes[0])
	g.Kill(syscall.SIGTERM)
	if code := g.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if err := s.rest(); err == nil {
		t.Error("the stream has finished, so nothing was cut")
	}
}

// TestSlowClients: those who read nothing, or write a byte at a time, keep nobody else waiting.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	g, _, _, _ := threeProviders(t, sim.Faults{}, harness.Options{})
	const each = 20
	var held []net.Conn
	for i := range each * len(lanes) {
		l := lanes[i%len(lanes)]
		conn, err := net.Dial("tcp", address(g))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
			t.Fatal(err)
		}
		m := l.message()
		m.body = l.fields().set("stream", "true").set("max_tokens", "4000").set("messages", `[{"role":"user","content":"Tell me a story of 4000 words."}]`).String()
		raw := m.bytes()
		if i%2 == 0 { // reads nothing of a long answer
			_, err = conn.Write(raw)
		} else { // sends most of a request, and then no more
			_, err = conn.Write(raw[:len(raw)-5])
		}
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, conn)
	}
	tr := startTraffic(t, g, 4, streamed(lanes...))
	g.WaitFor("others are served", func() bool { return tr.sent.Load() > 200 })
	tr.mustHaveServed(t, streamed(lanes...))

	t.Run("a request in drops", func(t *testing.T) {
		conn, err := net.Dial("tcp", address(g))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for b := range slices.Chunk(lanes[2].message().bytes(), 1) {
			if _, err := conn.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		if r := receive(t, conn, http.MethodPost); r.status != http.StatusOK {
			t.Errorf("status %d: %s", r.status, r.body)
		}
	})
	for _, conn := range held {
		conn.Close()
	}
	g.WaitFor("nothing is kept for clients that have gone", func() bool {
		return g.Metric("weir_exchanges") == 0 && g.EnvoyStats(`^http\.ingress\.downstream_rq_active$`)["http.ingress.downstream_rq_active"] == 0
	})
}

// TestNothingIsKept sends thousands of requests that end in every way there is. Afterwards nothing is left of them.
func TestNothingIsKept(t *testing.T) {
	faults := sim.Faults{IntervalMin: sim.Duration(time.Millisecond), IntervalMax: sim.Duration(2 * time.Millisecond), Rules: []sim.Rule{
		{Kind: sim.Status, Status: 500, Rate: 0.1}, {Kind: sim.Status, Status: 429, RetryAfter: sim.Duration(time.Second), Rate: 0.1},
		{Kind: sim.Close, Rate: 0.05}, {Kind: sim.Hang, Rate: 0.05}, {Kind: sim.Disconnect, AfterEvents: 3, Rate: 0.1}, {Kind: sim.StreamError, AfterEvents: 2, Rate: 0.05},
	}}
	absent := harness.Backend{Name: "absent", Dialect: "openai", URL: fmt.Sprintf("http://127.0.0.1:%d/v1", harness.FreePort(t)), Models: []string{"gpt-4o"}}
	const timeouts = "timeouts: {firstByte: 200ms, request: 2s}"
	g, oa, an, ds := threeProviders(t, sim.Faults{}, harness.Options{
		Backends: []harness.Backend{absent},
		Documents: []string{
			harness.Route("chaos", `
rules:
  - matches: [{models: [chaos]}]
    backends: [{name: oa, model: gpt-4o}, {name: absent, model: gpt-4o}, {name: an, model: claude-sonnet-4-5}, {name: ds, model: qwen-plus}]
    `+timeouts),
			harness.Route("alone", "rules: [{matches: [{models: [alone]}], backends: [{name: an, model: claude-sonnet-4-5}], "+timeouts+"}]"),
			harness.Route("same", "rules: [{matches: [{models: [gpt-4o]}], backends: [{name: oa}], "+timeouts+"}]"),
		},
	})
	for _, s := range []*harness.Sim{oa, an, ds} {
		s.Configure(faults)
	}
	goroutines := func() float64 { return g.Metric("go_goroutines") }
	before := goroutines()
	models := []string{"chaos", "alone", "gpt-4o", "chaos", "no-such-model"}
	const total, workers = 3000, 24
	var mu sync.Mutex
	endings := map[string]int{}
	var wg sync.WaitGroup
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers}}
	for w := range workers {
		wg.Go(func() {
			for i := w; i < total; i += workers {
				f := flow{lane: lane{dialect: []string{"openai", "anthropic"}[i%2], model: models[i%len(models)]}, stream: i%3 == 0}
				ending := endRequest(t, g, client, f, i)
				mu.Lock()
				endings[ending]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	client.CloseIdleConnections()
	t.Logf("endings: %v", endings)
	for _, want := range []string{"200", "400", "404", "aborted", "broken"} {
		if endings[want] == 0 {
			t.Errorf("no request has ended as %q, so the test shows less than it should", want)
		}
	}
	g.WaitFor("weir keeps nothing", func() bool { return g.Metric("weir_exchanges") == 0 && g.Metric("weir_exchange_bytes") == 0 })
	checkIdle(t, g)
	g.WaitFor("weir has no more goroutines than before", func() bool { return goroutines() <= before+30 })
	t.Logf("goroutines: %v before, %v after", before, goroutines())
	// And it still works.
	for _, s := range []*harness.Sim{oa, an, ds} {
		s.Configure(sim.Faults{})
	}
	for _, l := range lanes {
		if r := send(t, g, l.message()); r.status != http.StatusOK {
			t.Errorf("afterwards the lane %s answers %d: %s", l.name, r.status, r.body)
		}
	}
	checkSecrets(t, g, harness.DefaultKey, harness.BackendKey("oa"), harness.BackendKey("an"), harness.BackendKey("ds"))
}

// checkIdle waits until Envoy has no request under way, on either side.
func checkIdle(t *testing.T, g *harness.Gateway) {
	t.Helper()
	busy := func() []string {
		var names []string
		for name, n := range g.EnvoyStats(`^(http\.ingress\.downstream|cluster\.backend/.*)_rq_(pending_)?active$`) {
			if n != 0 {
				names = append(names, fmt.Sprintf("%s: %d", name, n))
			}
		}
		return names
	}
	defer func() {
		if t.Failed() {
			t.Logf("under way in Envoy: %v", busy())
		}
	}()
	g.WaitFor("Envoy has no request under way", func() bool { return len(busy()) == 0 })
}

// endRequest sends a request that ends in one of several ways, and says in which.
func endRequest(t *testing.T, g *harness.Gateway, client *http.Client, f flow, i int) string {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req := f.request(t, g).WithContext(ctx)
	switch i % 11 {
	case 3: // gone before the answer
		time.AfterFunc(time.Duration(i%20)*time.Millisecond, cancel)
	case 5: // no sound request
		body := strings.Replace(f.fields().String(), `"hi"`, `5`, 1)
		req.Body, req.ContentLength, req.GetBody = io.NopCloser(strings.NewReader(body)), int64(len(body)), nil
	}
	resp, err := client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return "aborted"
		}
		return "no answer"
	}
	defer resp.Body.Close()
	if i%11 == 7 { // gone in the middle of the answer
		if _, err := io.CopyN(io.Discard, resp.Body, 20); err != nil {
			return "broken"
		}
		return "aborted"
	}
	body, err := io.ReadAll(resp.Body)
	switch {
	case ctx.Err() != nil:
		return "aborted"
	case err != nil:
		return "broken"
	case resp.StatusCode != http.StatusOK:
		if !json.Valid(body) {
			t.Errorf("status %d with a body that is no JSON: %s", resp.StatusCode, body)
		}
		return strconv.Itoa(resp.StatusCode)
	case f.complete(body) != nil:
		return "broken"
	}
	return "200"
}
