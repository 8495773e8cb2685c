package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim"
)

// ofSize is a sound body of exactly n bytes, all but a few of which are one message.
func ofSize(l lane, n int) string {
	body := func(text string) string {
		return l.fields().set("messages", `[{"role":"user","content":"`+text+`"}]`).String()
	}
	return body(strings.Repeat("x", n-len(body(""))))
}

// TestBodyLimit: the largest body is served on every way, one byte more is refused on all of them.
func TestBodyLimit(t *testing.T) {
	t.Parallel()
	g, oa, an, ds := threeProviders(t, sim.Faults{}, harness.Options{Listener: "limits: {maxRequestBytes: 256Ki}"})
	const limit = 256 << 10
	for _, l := range lanes {
		t.Run(l.name, func(t *testing.T) {
			for _, chunk := range []int{0, 10_000} {
				m := l.message()
				m.chunk = chunk
				m.body = ofSize(l, limit)
				if r := send(t, g, m); r.status != http.StatusOK {
					t.Errorf("the largest body (chunks of %d): status %d: %.200s", chunk, r.status, r.body)
				}
				m.body = ofSize(l, limit+1)
				before := received([]*harness.Sim{oa, an, ds})
				r := send(t, g, m)
				if r.status != http.StatusRequestEntityTooLarge || !strings.Contains(string(r.body), "262144") {
					t.Errorf("a byte more (chunks of %d): status %d, want 413 with the limit: %.200s", chunk, r.status, r.body)
				}
				checkErrorShape(t, l, malformed{}, r)
				checkSDKReads(t, g, l, r)
				if received([]*harness.Sim{oa, an, ds}) != before {
					t.Error("a backend has got some of it")
				}
			}
		})
	}
	// The SDKs themselves, which write on for as long as nothing stops them, must see the answer and no broken pipe.
	for _, c := range callers(g.URL, g.Key) {
		for _, size := range []int{limit, 1 << 20, 24 << 20} {
			t.Run(fmt.Sprintf("%s SDK, %d bytes", c.dialect(), size), func(t *testing.T) {
				mustRefuse(t, c, ask{model: map[string]string{"openai": "gpt-4o", "anthropic": "claude-sonnet-4-5"}[c.dialect()],
					turns: user(strings.Repeat("x", size))}, http.StatusRequestEntityTooLarge)
			})
		}
	}
}

// TestLargeBodies sends prompts of 20 MB, as images make them, on every way.
func TestLargeBodies(t *testing.T) {
	g, _, _, _ := threeProviders(t, sim.Faults{}, harness.Options{})
	const size = 20 << 20
	for _, l := range lanes {
		t.Run(l.name, func(t *testing.T) {
			m := l.message()
			m.body = ofSize(l, size)
			if r := send(t, g, m); r.status != http.StatusOK {
				t.Errorf("status %d: %.300s", r.status, r.body)
			}
		})
	}
	g.WaitFor("none of it is kept", func() bool { return g.Metric("weir_exchanges") == 0 && g.Metric("weir_exchange_bytes") == 0 })
}

func TestHeaderLimit(t *testing.T) {
	t.Parallel()
	g, _, _, _ := threeProviders(t, sim.Faults{}, harness.Options{Listener: "limits: {maxHeaderKiB: 8}"})
	for _, l := range lanes {
		if !l.main {
			continue
		}
		m := l.message()
		m.header("x-a: " + strings.Repeat("a", 7<<10))
		if r := send(t, g, m); r.status != http.StatusOK {
			t.Errorf("7 KiB: status %d: %s", r.status, r.body)
		}
		m.header("x-b: " + strings.Repeat("b", 2<<10))
		r := send(t, g, m)
		if r.status != http.StatusRequestHeaderFieldsTooLarge || !strings.Contains(string(r.body), "8 KiB") {
			t.Errorf("9 KiB: status %d, want 431 with the limit: %s", r.status, r.body)
		}
		checkSDKReads(t, g, l, r)
	}
}

// TestConnectionLimit: one connection too many is closed at once, and its place is free again when another ends.
func TestConnectionLimit(t *testing.T) {
	t.Parallel()
	g, _, _, _ := threeProviders(t, sim.Faults{}, harness.Options{Listener: "limits: {maxConnections: 3}"})
	client := func() *http.Client { return &http.Client{Transport: &http.Transport{}} }
	f := flow{lane: lanes[0]}
	var clients []*http.Client
	for range 3 {
		c := client()
		if err := f.do(t, g, c); err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	if r := send(t, g, lanes[0].message()); r.status != 0 {
		t.Errorf("the fourth connection was served: status %d", r.status)
	}
	for _, c := range clients {
		if err := f.do(t, g, c); err != nil {
			t.Errorf("one of the three: %v", err)
		}
	}
	clients[0].CloseIdleConnections()
	g.WaitFor("another connection is served", func() bool { return send(t, g, lanes[0].message()).status == http.StatusOK })
	for _, c := range clients {
		c.CloseIdleConnections()
	}
}

// TestBackendLimits: what is more than a backend may hold is refused at once, and told when to come back. Envoy sends it to
// no other backend.
func TestBackendLimits(t *testing.T) {
	t.Parallel()
	busy := harness.NewSim(t, sim.Options{Dialect: sim.OpenAI, Faults: sim.Faults{TTFT: sim.Duration(700 * time.Millisecond)}})
	spare := harness.NewSim(t, sim.Options{Dialect: sim.Anthropic})
	for _, c := range []struct{ name, connections string }{
		{"connections", "{maxConnections: 2, maxPendingRequests: 1}"},
		{"requests", "{maxRequests: 2}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := harness.Start(t, harness.Options{
				Backends: []harness.Backend{
					{Name: "busy", Sim: busy, Models: []string{"gpt-4o"}, Spec: "connections: " + c.connections},
					{Name: "spare", Sim: spare, Models: []string{"claude-sonnet-4-5"}},
				},
				Documents: []string{
					harness.Route("alone", "rules: [{matches: [{models: [gpt-4o]}], backends: [{name: busy}]}]"),
					harness.Route("fallback", "rules: [{matches: [{models: [fallback]}], backends: [{name: busy, model: gpt-4o}, {name: spare, model: claude-sonnet-4-5, priority: 1}]}]"),
				},
			})
			for _, l := range []lane{{dialect: "openai", model: "gpt-4o"}, {dialect: "anthropic", model: "gpt-4o"}} {
				served, refused := 0, 0
				for _, r := range atOnce(t, g, l, 12) {
					switch {
					case r.status == http.StatusOK:
						served++
					case r.status == http.StatusServiceUnavailable && r.header.Get("retry-after") != "":
						refused++
						checkErrorShape(t, l, malformed{}, r)
						checkSDKReads(t, g, l, r)
					default:
						t.Errorf("status %d: %v: %s", r.status, r.header, r.body)
					}
				}
				t.Logf("%s: %d served, %d refused", l.dialect, served, refused)
				if served < 1 || refused < 4 {
					t.Errorf("asked in %s: %d served and %d refused of 12", l.dialect, served, refused)
				}
			}
			for _, r := range atOnce(t, g, lane{dialect: "openai", model: "fallback"}, 12) {
				if r.status != http.StatusOK && (r.status != http.StatusServiceUnavailable || r.header.Get("retry-after") == "") {
					t.Errorf("with a fallback: status %d: %s", r.status, r.body)
				}
			}
			if r := send(t, g, lane{dialect: "openai", model: "fallback"}.message()); r.status != http.StatusOK {
				t.Errorf("afterwards: status %d: %s", r.status, r.body)
			}
			checkIdle(t, g)
		})
	}
}

// atOnce sends n requests at the same time.
func atOnce(t *testing.T, g *harness.Gateway, l lane, n int) []rawReply {
	replies := make([]rawReply, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { replies[i] = send(t, g, l.message()) })
	}
	wg.Wait()
	return replies
}

// TestTimeouts: who does not keep time gets an answer that says so, in the caller's dialect.
func TestTimeouts(t *testing.T) {
	t.Parallel()
	hang := []sim.Rule{{Kind: sim.Hang}}
	oa := harness.NewSim(t, sim.Options{Dialect: sim.OpenAI, Faults: sim.Faults{Rules: hang}})
	an := harness.NewSim(t, sim.Options{Dialect: sim.Anthropic, Faults: sim.Faults{Rules: hang}})
	route := func(name, timeouts string) string {
		return harness.Route(name, fmt.Sprintf(`
rules:
  - {name: oa, matches: [{models: [oa-%s]}], backends: [{name: oa, model: gpt-4o}], timeouts: %s}
  - {name: an, matches: [{models: [an-%s]}], backends: [{name: an, model: claude-sonnet-4-5}], timeouts: %s}`, name, timeouts, name, timeouts))
	}
	g := harness.Start(t, harness.Options{
		Listener:  "timeouts: {streamIdle: 1s, request: 500ms}",
		Backends:  []harness.Backend{{Name: "oa", Sim: oa}, {Name: "an", Sim: an}},
		Documents: []string{route("request", "{request: 300ms}"), route("first", "{firstByte: 300ms}"), route("never", "{}")},
	})
	var ways []lane
	for _, dialect := range []string{"openai", "anthropic"} {
		for _, backend := range []string{"oa", "an"} {
			ways = append(ways, lane{name: dialect + " to " + backend, dialect: dialect, model: backend})
		}
	}
	for _, c := range []struct {
		name, route string
		status      int
	}{
		{"the route's time for a request", "request", http.StatusGatewayTimeout},
		{"the route's time for the first byte", "first", http.StatusGatewayTimeout},
		{"nothing moves", "never", http.StatusGatewayTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			allWays(ways, c.route, func(l lane) {
				for _, stream := range []string{"false", "true"} {
					m := l.message()
					m.body = l.fields().set("stream", stream).String()
					r := send(t, g, m)
					if r.status != c.status {
						t.Errorf("%s, stream %s: status %d, want %d: %s", l.name, stream, r.status, c.status, r.body)
						continue
					}
					checkErrorShape(t, l, malformed{}, r)
					checkSDKReads(t, g, l, r)
				}
			})
		})
	}
	t.Run("a client that does not send its request", func(t *testing.T) {
		allWays(ways, "never", func(l lane) {
			m := l.message()
			m.length = fmt.Sprint(len(m.body) + 100)
			r := send(t, g, m)
			if r.status != http.StatusRequestTimeout {
				t.Errorf("%s: status %d, want 408: %s", l.name, r.status, r.body)
				return
			}
			checkErrorShape(t, l, malformed{}, r)
			checkSDKReads(t, g, l, r)
		})
	})
	t.Run("a stream longer than the route's time", func(t *testing.T) {
		for _, s := range []*harness.Sim{oa, an} {
			s.Configure(slow)
		}
		for l, err := range streamAll(t, g, ways, "request") {
			if err == nil {
				t.Errorf("%s: it has finished", l.name)
			}
		}
	})
	t.Run("a stream that is slow but moves", func(t *testing.T) {
		for l, err := range streamAll(t, g, ways, "never") {
			if err != nil {
				t.Errorf("%s: %v", l.name, err)
			}
		}
	})
	t.Run("a stream that stops moving", func(t *testing.T) {
		for _, s := range []*harness.Sim{oa, an} {
			s.Configure(sim.Faults{IntervalMin: sim.Duration(time.Minute), IntervalMax: sim.Duration(time.Minute)})
		}
		for l, err := range streamAll(t, g, ways, "never") {
			if err == nil {
				t.Errorf("%s: it has finished", l.name)
			}
		}
	})
	g.WaitFor("nothing is kept for requests that have ended", func() bool { return g.Metric("weir_exchanges") == 0 })
	checkIdle(t, g)
}

// allWays does something for the models of a route on every way at the same time, because most of it is waiting.
func allWays(ways []lane, route string, do func(lane)) {
	var wg sync.WaitGroup
	for _, l := range ways {
		l.model += "-" + route
		wg.Go(func() { do(l) })
	}
	wg.Wait()
}

// streamAll opens a long stream on every way, reads them all, and says how each has ended.
func streamAll(t *testing.T, g *harness.Gateway, ways []lane, route string) map[lane]error {
	t.Helper()
	opened := map[lane]*openedStream{}
	for _, l := range ways {
		l.model += "-" + route
		opened[l] = openStream(t, g, l)
	}
	ended := map[lane]error{}
	for l, s := range opened {
		ended[l] = s.rest()
	}
	return ended
}

// TestHTTP2Backend: a backend that is asked over HTTP/2 gets many requests on few connections.
func TestHTTP2Backend(t *testing.T) {
	t.Parallel()
	pace := sim.Faults{TTFT: sim.Duration(20 * time.Millisecond)}
	two := harness.NewSim(t, sim.Options{Dialect: sim.OpenAI, Faults: pace})
	one := harness.NewSim(t, sim.Options{Dialect: sim.Anthropic, Faults: pace})
	g := harness.Start(t, harness.Options{
		Backends: []harness.Backend{
			{Name: "two", Sim: two, Models: []string{"gpt-4o"}, Spec: "protocol: HTTP2"},
			{Name: "one", Sim: one, Models: []string{"claude-sonnet-4-5"}},
		},
		Documents: []string{harness.Route("all", "rules: [{backends: [{name: two}, {name: one}]}]")},
	})
	connections := func(backend string) int64 {
		return g.EnvoyStats(`upstream_cx_total$`)["cluster.backend/default/"+backend+".upstream_cx_total"]
	}
	for _, c := range []struct {
		sim                   *harness.Sim
		backend, proto, model string
		most                  int64 // connections for sixty requests at once
	}{
		{two, "two", "HTTP/2.0", "gpt-4o", 8},
		{one, "one", "HTTP/1.1", "claude-sonnet-4-5", 120},
	} {
		t.Run(c.proto, func(t *testing.T) {
			for _, dialect := range []string{"openai", "anthropic"} {
				l := lane{dialect: dialect, model: c.model}
				for _, r := range atOnce(t, g, l, 60) {
					if r.status != http.StatusOK {
						t.Errorf("status %d: %s", r.status, r.body)
					}
				}
				if n := connections(c.backend); n == 0 || n > c.most {
					t.Errorf("asked in %s: %d connections, want 1 to %d", dialect, n, c.most)
				}
			}
			before := connections(c.backend)
			for range 40 {
				if r := send(t, g, lane{dialect: "openai", model: c.model}.message()); r.status != http.StatusOK {
					t.Errorf("status %d: %s", r.status, r.body)
				}
			}
			if more := connections(c.backend) - before; more > 4 {
				t.Errorf("%d further connections for 40 requests one after the other", more)
			}
			for _, r := range c.sim.Requests() {
				if r.Protocol != c.proto {
					t.Fatalf("a request came over %s", r.Protocol)
				}
			}
			t.Logf("%d connections for %d requests", connections(c.backend), len(c.sim.Requests()))
		})
	}
}

// sanity of the tools above.
func TestOfSize(t *testing.T) {
	for _, l := range lanes {
		for _, n := range []int{200, 5000} {
			if body := ofSize(l, n); len(body) != n || !json.Valid([]byte(body)) {
				t.Errorf("%d bytes instead of %d, or no JSON", len(body), n)
			}
		}
	}
	if !silent(io.EOF) || !silent(&net.OpError{Err: errors.New("connection reset by peer")}) || silent(errors.New("malformed HTTP")) {
		t.Error("silent takes the one for the other")
	}
}
