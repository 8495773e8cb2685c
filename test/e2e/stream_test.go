package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim"
)

// streamCase is one caller's dialect, one provider's, and how that one cuts its stream.
type streamCase struct {
	caller   string
	backend  sim.Dialect
	chunking sim.Chunking
	model    string
	tap      *tap
}

func (c streamCase) String() string {
	return sprint(c.caller, "to", string(c.backend), string(c.chunking))
}

// chunks is the length of the streams in tokens; each is an event of its own.
const chunks = 200

// TestStreamFlows sends 200 chunks at 10 ms and looks at how they arrive.
func TestStreamFlows(t *testing.T) {
	t.Parallel()
	var cases []streamCase
	var bs []harness.Backend
	rules := "rules:\n"
	for _, how := range []sim.Chunking{sim.Whole, sim.Split, sim.Batch} {
		rules += "  - matches: [{headers: [{name: x-chunking, value: " + string(how) + "}]}]\n    backends:\n"
		for i, d := range sim.Dialects() {
			srv, err := sim.New(sim.Options{Dialect: d, Seed: uint64(i), Faults: sim.Faults{Chunking: how,
				TTFT: sim.None, IntervalMin: sim.Duration(10 * time.Millisecond), IntervalMax: sim.Duration(10 * time.Millisecond)}})
			if err != nil {
				t.Fatal(err)
			}
			p := newTap(t, srv)
			name := string(d) + "-" + string(how)
			base := map[sim.Dialect]string{sim.OpenAI: "/v1", sim.DashScope: "/api/v1"}[d]
			model := sim.DefaultModels(d)[0]
			bs = append(bs, harness.Backend{Name: name, Dialect: string(d), URL: p.URL + base, Models: []string{model}})
			rules += "      - name: " + name + "\n"
			for _, caller := range []string{"openai", "anthropic"} {
				cases = append(cases, streamCase{caller, d, how, model, p})
			}
		}
	}
	g := harness.Start(t, harness.Options{Backends: bs, Documents: []string{harness.Route("chunked", rules)}})
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	http2 := &http.Client{Transport: &http.Transport{Protocols: &protocols}}
	t.Cleanup(http2.CloseIdleConnections)
	// All at once: they wait most of the time.
	type outcome struct {
		name   string
		result chan error
	}
	var started []outcome
	start := func(c streamCase, client *http.Client, name string) {
		o := outcome{name, make(chan error, 1)}
		started = append(started, o)
		req := request(t, g, "POST", chatPath(c.caller), c.caller, chatBody(c.model, "Tell me 200 words.", true),
			"x-chunking", string(c.chunking), "x-case", name)
		go func() { o.result <- c.flows(client, req, name) }()
	}
	for _, c := range cases {
		start(c, http.DefaultClient, c.String()+" http1")
		if c.chunking == sim.Whole {
			start(c, http2, c.String()+" http2")
		}
	}
	for _, o := range started {
		t.Run(o.name, func(t *testing.T) {
			if err := <-o.result; err != nil {
				t.Error(err)
			}
		})
	}
}

// unasked is the event with the usage of an OpenAI stream, which Weir asked for and not the caller.
var unasked = regexp.MustCompile(`data: \{[^\n]*"choices":\[\],"usage":\{[^\n]*\n\n`)

// flows sends one request and says what is wrong with the way its answer arrives.
func (c streamCase) flows(client *http.Client, req *http.Request, name string) error {
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if ct := resp.Header.Get("content-type"); resp.StatusCode != 200 || !strings.HasPrefix(ct, "text/event-stream") {
		body, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("status %d, content-type %q: %s", resp.StatusCode, ct, body)
	}
	var wrong []error
	fail := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	var all bytes.Buffer
	reads, gaps, most := 0, 0, 0
	halfway := false
	buf := make([]byte, 64<<10)
	for last := time.Now(); ; {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			reads++
			if now := time.Now(); now.Sub(last) >= time.Millisecond {
				gaps++
				last = now
			}
			before := events(all.Bytes())
			all.Write(buf[:n])
			after := events(all.Bytes())
			most = max(most, after-before)
			if !halfway && after >= chunks/2 {
				halfway = true
				if _, ended := c.tap.state(name); ended {
					fail("the provider had ended when the caller had half of the stream: it was held back")
				}
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("after %d reads: %w", reads, err)
		}
	}
	if total := events(all.Bytes()); total < chunks {
		fail("%d events, want at least %d", total, chunks)
	}
	// A busy machine may join some, and batches are of up to five events; one that holds back a buffer full joins dozens.
	if reads < chunks/5 || gaps < chunks/8 || most > chunks/5 {
		fail("%d reads, %d of them after a pause, up to %d events in one", reads, gaps, most)
	}
	sent, ended := c.tap.state(name)
	got, gotEnd, err := streamText(all.String())
	want, wantEnd, err2 := streamText(sent)
	if err := errors.Join(err, err2); err != nil {
		fail("%w", err)
	}
	if got != want || len(strings.Fields(got)) < chunks/2 {
		fail("the caller read\n%q\nand the provider sent\n%q", got, want)
	}
	if !ended || !gotEnd || !wantEnd {
		fail("ended: provider %v, its stream %v, the caller's %v", ended, wantEnd, gotEnd)
	}
	if c.caller == string(c.backend) && unasked.ReplaceAllString(sent, "") != all.String() {
		fail("in the same dialect the caller's bytes are not those of the provider")
	}
	if unasked.MatchString(all.String()) {
		fail("the caller reads the usage that it has not asked for")
	}
	if asked := unasked.MatchString(sent); asked != (c.backend == sim.OpenAI) {
		fail("the provider was asked for the usage: %v", asked)
	}
	return errors.Join(wrong...)
}

// events counts those that carry data.
func events(stream []byte) int { return bytes.Count(stream, []byte("data:")) }

// TestResponseBypassesGo shows that a stream in the caller's own dialect causes no message to weir beyond those of the
// request, and a translated one does.
func TestResponseBypassesGo(t *testing.T) {
	t.Parallel()
	ps := providers(t, sim.Faults{})
	g := harness.Start(t, harness.Options{
		Backends: append(backends(ps), harness.Backend{Name: "twin", Sim: ps[0].sim, Key: harness.BackendKey("sim-openai"), Models: []string{"gpt-4.1"}}),
		Documents: []string{
			harness.Route("models", "rules: [{backends: [{name: sim-openai}, {name: sim-anthropic}, {name: sim-dashscope}]}]"),
			harness.Route("twins", "rules: [{matches: [{models: [gpt-4.1]}], backends: [{name: sim-openai}, {name: twin}]}]"),
			harness.Route("mixed", "rules: [{matches: [{models: [mixed]}], backends: [{name: sim-openai, model: gpt-4o}, {name: sim-anthropic, model: claude-sonnet-4-5, priority: 1}]}]"),
		},
	})
	for _, c := range []struct {
		caller, model, lane string
		attempts            float64
		messages            int64 // 0: some for the answer's chunks
	}{
		{"openai", "gpt-4o", "direct", 1, 1},
		{"anthropic", "claude-sonnet-4-5", "direct", 1, 1},
		{"openai", "gpt-4.1", "with a fallback of the same dialect", 1, 1},
		// The request's body is kept for a translation, and the answer's head shows that it needs none.
		{"openai", "mixed", "with a fallback of another dialect", 1, 4},
		{"openai", "claude-sonnet-4-5", "translated", 1, 0},
		{"anthropic", "qwen-plus", "translated", 1, 0},
	} {
		t.Run(sprint(c.caller, c.model), func(t *testing.T) {
			attempts, messages := g.Metric("weir_attempts_total"), extProcMessages(g)
			// The simulator sends every token as an event of its own, and 100 KB are in no buffer's reach.
			a := do(t, http.DefaultClient, request(t, g, "POST", chatPath(c.caller), c.caller, chatBody(c.model, "Tell me 1000 words.", true)))
			if text, ended, err := streamText(a.body); a.status != 200 || !ended || err != nil || len(text) < 1000 {
				t.Fatalf("status %d, ended %v, %v: %s", a.status, ended, err, a.body)
			}
			harness.WaitFor(t, "the attempts to be counted", func() bool { return g.Metric("weir_attempts_total")-attempts >= c.attempts })
			if got := g.Metric("weir_attempts_total") - attempts; got != c.attempts {
				t.Errorf("%v attempts are counted, want %v (%s)", got, c.attempts, c.lane)
			}
			got := extProcMessages(g) - messages
			if c.messages > 0 && got != c.messages {
				t.Errorf("Envoy sent %d messages, want %d (%s)", got, c.messages, c.lane)
			}
			if c.messages == 0 && got < 5 {
				t.Errorf("Envoy sent %d messages for a stream that weir translates: the count is not what this test takes it for", got)
			}
		})
	}
}

// extProcMessages counts the messages that Envoy has sent to weir's ext_proc, for requests and attempts together.
func extProcMessages(g *harness.Gateway) (n int64) {
	for _, v := range g.EnvoyStats(`ext_proc\..*stream_msgs_sent$`) {
		n += v
	}
	return n
}

// TestClientAborts closes the connection after the first chunk: the provider must learn of it.
func TestClientAborts(t *testing.T) {
	t.Parallel()
	ps := providers(t, sim.Faults{IntervalMin: pace, IntervalMax: pace})
	g := harness.Start(t, harness.Options{
		Backends:  backends(ps),
		Documents: []string{harness.Route("models", "rules: [{backends: [{name: sim-openai}, {name: sim-anthropic}, {name: sim-dashscope}]}]")},
	})
	for _, caller := range []string{"openai", "anthropic"} {
		for _, p := range ps {
			t.Run(sprint(caller, "to", string(p.sim.Dialect())), func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				// Ten minutes long: it does not end by itself.
				req := request(t, g, "POST", chatPath(caller), caller, chatBody(p.model, "Tell me 100000 words.", true))
				if caller == "anthropic" {
					req = request(t, g, "POST", chatPath(caller), caller, strings.Replace(chatBody(p.model, "Tell me 100000 words.", true), "4096", "60000", 1))
				}
				resp, err := http.DefaultClient.Do(req.WithContext(ctx))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if _, err := resp.Body.Read(make([]byte, 100)); err != nil || resp.StatusCode != 200 {
					t.Fatalf("status %d: %v", resp.StatusCode, err)
				}
				if end := p.sim.Last().End; end != sim.Running {
					t.Fatalf("the provider's answer has ended already: %s", end)
				}
				cancel()
				g.WaitFor("the provider to see that the client has gone", func() bool { return p.sim.Last().End == sim.Aborted })
			})
		}
	}
	g.WaitFor("weir to forget the requests", func() bool { return g.Metric("weir_exchanges") == 0 && g.Metric("weir_exchange_bytes") == 0 })
}

// pace is the time between two tokens where some are to arrive before something happens.
const pace = sim.Duration(5 * time.Millisecond)

// TestStreamBreaks ends streams in the middle: by a connection that breaks and by the provider's own error event. No SDK
// may take either for an answer.
func TestStreamBreaks(t *testing.T) {
	t.Parallel()
	ps := providers(t, sim.Faults{})
	g := harness.Start(t, harness.Options{
		Backends:  backends(ps),
		Documents: []string{harness.Route("models", "rules: [{backends: [{name: sim-openai}, {name: sim-anthropic}, {name: sim-dashscope}]}]")},
	})
	for _, caller := range callers(g.URL, g.Key) {
		for _, p := range ps {
			for _, kind := range []sim.Kind{sim.Disconnect, sim.StreamError} {
				for _, how := range []sim.Chunking{sim.Whole, sim.Split} {
					if kind == sim.Disconnect && how == sim.Whole {
						continue // a broken connection takes Envoy a second to pass on, and how it was cut changes nothing
					}
					c := sdkCase{caller, p, true}
					t.Run(sprint(c, string(kind), string(how)), func(t *testing.T) {
						// At a pace, or the break overtakes the answer's beginning and there is nothing to break.
						p.sim.Configure(sim.Faults{Chunking: how, IntervalMin: pace, IntervalMax: pace, Rules: []sim.Rule{{Kind: kind, AfterEvents: 12, Next: 1}}})
						r, err := caller.ask(t.Context(), c.question(ask{turns: user("Tell me 60 words.")}))
						if err == nil {
							t.Fatalf("the SDK took it for a whole answer: %+v", r)
						}
						if rec := p.sim.Ended(); rec.End != sim.Faulted || rec.Fault != kind {
							t.Fatalf("the fault did not happen: %s %s, and the SDK says %v", rec.End, rec.Fault, err)
						}
						if kind == sim.StreamError && strings.Contains(err.Error(), "EOF") {
							t.Errorf("the provider's error reached the SDK as a broken connection: %v", err)
						}
						// What came before the break came through.
						if r.pieces == 0 {
							t.Errorf("nothing of the stream reached the SDK before %v", err)
						}
					})
				}
			}
		}
	}
}

// TestUnknownFields passes what Weir has never heard of, in a pair of one dialect: it must arrive to the byte.
func TestUnknownFields(t *testing.T) {
	t.Parallel()
	body := "{ \"x_new\":{\"deep\":[1, 2.50,1e400,\"\\u00e9\\ud83c\\udf0d\"]},\"model\":\"m\",\n \"messages\":[{\"role\":\"user\",\"content\":\"hi\",\"x_unknown\":null}],\"max_tokens\":5}"
	for dialect, reply := range map[string]string{
		"openai":    "{\"id\":\"1\", \"object\":\"chat.completion\",\"x_new\": [1.0, 1e400],\n\"choices\":[]}\n",
		"anthropic": "{\"type\":\"message\", \"x_new\":{\"a\": 1.50},\"content\":[]}\n",
	} {
		t.Run(dialect, func(t *testing.T) {
			f := newFake(t, 200, "application/json", reply)
			other := newFake(t, 200, "application/json", reply)
			g := harness.Start(t, harness.Options{
				Backends: []harness.Backend{
					{Name: "one", Dialect: dialect, URL: f.URL + "/base", AnyModel: true},
					{Name: "two", Dialect: dialect, URL: other.URL, AnyModel: true},
				},
				Documents: []string{
					harness.Route("direct", "rules: [{matches: [{models: [m]}], backends: [{name: one}]}]"),
					harness.Route("chain", "rules: [{matches: [{models: [m], headers: [{name: x-lane, value: chain}]}], backends: [{name: one}, {name: two, priority: 1}]}]"),
				},
			})
			for _, lane := range []string{"direct", "chain"} {
				a := do(t, http.DefaultClient, request(t, g, "POST", chatPath(dialect)+"?x_query=1&y=%20", dialect, body,
					"x-lane", lane, "x-custom", "kept", dialect+"-beta", "some-beta"))
				got := f.last(t)
				if got.body != body {
					t.Errorf("%s: the provider received\n%q", lane, got.body)
				}
				if a.status != 200 || a.body != reply {
					t.Errorf("%s: status %d, the caller received\n%q", lane, a.status, a.body)
				}
				want := "/base" + strings.TrimPrefix(chatPath(dialect), map[string]string{"openai": "/v1"}[dialect]) + "?x_query=1&y=%20"
				if got.path != want {
					t.Errorf("%s: the provider was asked for %s, want %s", lane, got.path, want)
				}
				if got.header.Get("x-custom") != "kept" || got.header.Get(dialect+"-beta") != "some-beta" {
					t.Errorf("%s: headers were lost: %v", lane, got.header)
				}
			}
		})
	}
}
