package extproc

import (
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/content"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage"
)

// edge is the gateway of these tests.
const edge = "default/edge"

const sampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// capturing is a rig that captures by a rule, and what its finished requests said.
type capturing struct {
	*rig
	mu       sync.Mutex
	contents []usage.Content
}

func newCapturing(t testing.TB, rule *content.Rule, change func(*Options)) *capturing {
	t.Helper()
	rules := newRules(t)
	rules.add("direct", models("gpt-4o"), choice{"openai", ""})
	rules.add("pool", models("gpt-pool"), choice{"vllm", ""}, choice{"vllm", ""})
	rules.add("mixed", models("gpt-mixed"), choice{"vllm", ""}, choice{"anthropic", "claude"})
	rules.add("embed", models("embed"), choice{"openai", ""})
	tbl := rules.build()
	tbl.Gateway = edge
	if rule != nil {
		tbl.Captures = map[string]*content.Rule{edge: rule}
	}
	c := &capturing{}
	c.rig = newRigWith(t, tbl, func(r *rig, o *Options) {
		o.Capturing = func() bool { return true }
		o.Desk = usage.NewDesk(usage.DeskOptions{Ledger: r.book, Estimator: o.Estimator, Registry: prometheus.NewRegistry(), Now: r.clock,
			Finished: func(f *usage.Finished) {
				if f.Open != nil {
					c.mu.Lock()
					defer c.mu.Unlock()
					c.contents = append(c.contents, f.Open.Content())
				}
			}})
		if change != nil {
			change(o)
		}
	})
	return c
}

// finish plays Envoy's record, and gives the text that was captured.
func (c *capturing) finish(exchange, backend string) usage.Content {
	c.t.Helper()
	c.server.opts.Desk.Close(&usage.Record{Exchange: exchange, Status: 200, Attempts: 1, Backend: backend, Details: wire.ViaUpstream})
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.contents) == 0 {
		c.t.Fatal("nothing has ended")
	}
	last := c.contents[len(c.contents)-1]
	if left := c.server.captured.Left(); left != captureMemory {
		c.t.Errorf("%d bytes are held after the end", captureMemory-left)
	}
	return last
}

// unchanged says whether Envoy sends on what it has.
func unchanged(t testing.TB, resp *extprocv3.CommonResponse) {
	t.Helper()
	if resp == nil || resp.GetBodyMutation() != nil || resp.GetHeaderMutation() != nil || resp.GetStatus() != extprocv3.CommonResponse_CONTINUE || resp.GetClearRouteCache() {
		t.Fatalf("a piece is changed: %v", resp)
	}
}

func everything() *content.Rule { return &content.Rule{Input: true, Output: true, MaxBytes: 4096} }

const (
	asked1    = `{"model":"gpt-4o","messages":[{"role":"user","content":"Hello"}]}`
	asInput   = `[{"role":"user","parts":[{"type":"text","content":"Hello"}]}]`
	asOutput  = `[{"role":"assistant","parts":[{"type":"text","content":"Héllo 世界"}],"finish_reason":"stop"}]`
	wholeJSON = `{"id":"c","object":"chat.completion","model":"gpt-4o","choices":[{"index":0,"message":{"role":"assistant","content":"Héllo 世界"},"finish_reason":"stop"}]}`
)

// TestNothingIsAskedFor where nothing is to be captured: the same one message as without the feature.
func TestNothingIsAskedFor(t *testing.T) {
	gpt, err := identity.NewPatterns([]string{"claude*"})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		rule   *content.Rule
		change func(*Options)
		header string
		model  string
	}{
		"off":                  {header: sampled},
		"nothing exported":     {rule: everything(), header: sampled, change: func(o *Options) { o.Capturing = func() bool { return false } }},
		"no exporter":          {rule: everything(), header: sampled, change: func(o *Options) { o.Capturing = nil }},
		"not sampled":          {rule: everything(), header: strings.TrimSuffix(sampled, "1") + "0"},
		"none begins here":     {rule: everything()},
		"another model":        {rule: &content.Rule{Input: true, Output: true, Models: gpt, MaxBytes: 9}, header: sampled},
		"no output of vectors": {rule: &content.Rule{Output: true, MaxBytes: 9}, header: sampled, model: "embed"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newCapturing(t, c.rule, c.change)
			h, model := chatHeaders(), "gpt-4o"
			if c.model != "" {
				h, model = h.with(":path", "/v1/embeddings"), c.model
			}
			d := r.open(h.with(wire.TraceHeader, c.header), asks(model, false))
			if d.first.GetRequestHeaders() == nil || d.first.GetModeOverride() != nil {
				t.Errorf("%v", d.first)
			}
			exchange := said(d.first, wire.KeyExchange)
			d.end()
			if got := r.finish(exchange, "default/openai"); got != (usage.Content{}) {
				t.Errorf("captured: %+v", got)
			}
		})
	}
}

// TestTapsWhatGoesDirect: a request that nobody else would read.
func TestTapsWhatGoesDirect(t *testing.T) {
	for _, stream := range []bool{false, true} {
		for _, part := range []string{"input", "output", "both"} {
			rule := everything()
			rule.Input, rule.Output = part != "output", part != "input"
			r := newCapturing(t, rule, nil)
			d := r.open(chatHeaders(wire.TraceHeader, sampled), asks("gpt-4o", stream))
			if got := setHeader(d.first, wire.RuleHeader); got != "direct-of-direct" {
				t.Fatalf("it goes to %q", got)
			}
			mode := d.first.GetModeOverride()
			if asked := mode.GetRequestBodyMode() == filterv3.ProcessingMode_BUFFERED; asked != rule.Input {
				t.Errorf("%s: %v", part, mode)
			}
			if asked := mode.GetResponseHeaderMode() == filterv3.ProcessingMode_SEND; asked != rule.Output || mode.GetResponseBodyMode() != filterv3.ProcessingMode_NONE {
				t.Errorf("%s: %v", part, mode)
			}
			exchange := said(d.first, wire.KeyExchange)
			if rule.Input {
				unchanged(t, d.body(asked1).GetRequestBody().GetResponse())
			}
			if rule.Output {
				answer, kind, how := wholeJSON, "application/json", filterv3.ProcessingMode_BUFFERED_PARTIAL
				if stream {
					answer, kind, how = openaiStream, "text/event-stream; charset=utf-8", filterv3.ProcessingMode_STREAMED
				}
				resp := d.answered("default/openai", false, ":status", "200", "content-type", kind)
				unchanged(t, resp.GetResponseHeaders().GetResponse())
				if resp.GetModeOverride().GetResponseBodyMode() != how {
					t.Errorf("%v", resp)
				}
				for _, p := range piecesOf(answer, 50) {
					unchanged(t, d.answerBody([]byte(p), false))
				}
				unchanged(t, d.answerBody(nil, true))
			}
			d.end()
			want := usage.Content{Input: asInput, Output: asOutput}
			if !rule.Input {
				want.Input = ""
			}
			if !rule.Output {
				want.Output = ""
			}
			if got := r.finish(exchange, "default/openai"); got != want {
				t.Errorf("%s, stream %v:\ngot  %+v\nwant %+v", part, stream, got, want)
			}
		}
	}
}

// TestTapsChains: attempts of the caller's dialect, and a choice of dialects of which the caller's answers.
func TestTapsChains(t *testing.T) {
	for _, model := range []string{"gpt-pool", "gpt-mixed"} {
		r := newCapturing(t, everything(), nil)
		h := chatHeaders(wire.TraceHeader, sampled)
		d := r.open(h, asks(model, true))
		d.body(strings.Replace(asked1, "gpt-4o", model, 1))
		r.attempt(d.first, "chain/"+strings.TrimPrefix(model, "gpt-"), "default/vllm", h)
		d.answered("default/vllm", false, ":status", "200", "content-type", "text/event-stream")
		unchanged(t, d.answerBody([]byte(openaiStream), true))
		d.end()
		if got := r.finish(said(d.first, wire.KeyExchange), "default/vllm"); got != (usage.Content{Input: asInput, Output: asOutput}) {
			t.Errorf("%s: %+v", model, got)
		}
	}
}

// TestCapturesTranslations: the caller's words, whatever the backend was asked in; and the same bytes with and without.
func TestCapturesTranslations(t *testing.T) {
	for _, stream := range []bool{false, true} {
		answers := map[bool]string{}
		for _, on := range []bool{false, true} {
			rule := everything()
			if !on {
				rule = nil
			}
			r := newCapturing(t, rule, nil)
			h := chatHeaders(wire.TraceHeader, sampled)
			d := r.open(h, asks("gpt-mixed", stream))
			d.body(strings.Replace(asked1, "gpt-4o", "gpt-mixed", 1))
			r.attempt(d.first, "chain/mixed", "default/anthropic", h)
			kind, answer := "text/event-stream", anthropicStream
			if !stream {
				kind, answer = "application/json", `{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"Héllo 世界"}],"stop_reason":"end_turn","usage":{"input_tokens":5,"output_tokens":7}}`
			}
			d.answered("default/anthropic", false, ":status", "200", "content-type", kind)
			answers[on] = clean(string(d.answerBody([]byte(answer), true).GetBodyMutation().GetBody()))
			d.end()
			got := r.finish(said(d.first, wire.KeyExchange), "default/anthropic")
			want := usage.Content{Input: asInput, Output: asOutput}
			if !on {
				want = usage.Content{}
			}
			if got != want {
				t.Errorf("stream %v, captured %v: %+v", stream, on, got)
			}
		}
		if answers[true] != answers[false] || answers[true] == "" {
			t.Errorf("with: %q\nwithout: %q", answers[true], answers[false])
		}
	}
}

// TestAnswersThatPassBy are not what a model wrote, or cannot be read.
func TestAnswersThatPassBy(t *testing.T) {
	for name, c := range map[string]struct {
		backend string
		headers []string
		missing string
	}{
		"an error":    {"default/openai", []string{":status", "429", "content-type", "application/json"}, "there was no answer"},
		"compressed":  {"default/openai", []string{":status", "200", "content-type", "application/json", "content-encoding", "gzip"}, "the answer has a form that Weir does not read"},
		"a page":      {"default/openai", []string{":status", "200", "content-type", "text/html"}, "the answer has a form that Weir does not read"},
		"Envoy's own": {"", []string{":status", "503", "content-type", "text/plain"}, "there was no answer"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newCapturing(t, everything(), nil)
			d := r.open(chatHeaders(wire.TraceHeader, sampled), asks("gpt-4o", false))
			d.body(asked1)
			resp := d.answered(c.backend, false, c.headers...)
			unchanged(t, resp.GetResponseHeaders().GetResponse())
			if resp.GetModeOverride().GetResponseBodyMode() != filterv3.ProcessingMode_NONE {
				t.Errorf("%v", resp)
			}
			d.end()
			if got := r.finish(said(d.first, wire.KeyExchange), c.backend); got.Input != asInput || got.Output != "" || got.OutputMissing != c.missing {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestMeteredStreamsAreCaptured: a budget reads the stream already. The text ends where the caller's does.
func TestMeteredStreamsAreCaptured(t *testing.T) {
	for _, stop := range []func(canon.Usage) bool{after(1000), after(1)} {
		m := meterOf(t, "openai", &book{}, stop)
		d, _ := dialects(t).Get("openai")
		m.content = content.New(everything(), &d, canon.OpChat, "m", content.NewMemory(1<<20))
		out, _ := flow(t, m.onBody, strings.SplitAfter(openaiStream, "\n\n")...)
		text, finish, _ := ending(t, "openai", out)
		want := `[{"role":"assistant","parts":[{"type":"text","content":"` + text + `"}],"finish_reason":"` + string(finish) + `"}]`
		if got := m.content.Content().Output; got != want || text == "" {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// TestCallerGoesAway in the middle of an answer, or before the body: what had come is there, and nothing is held after it.
func TestCallerGoesAway(t *testing.T) {
	r := newCapturing(t, everything(), nil)
	d := r.open(chatHeaders(wire.TraceHeader, sampled), asks("gpt-4o", true))
	d.body(asked1)
	d.answered("default/openai", false, ":status", "200", "content-type", "text/event-stream")
	first, _, _ := strings.Cut(openaiStream, ": a comment")
	d.answerBody([]byte(first), false)
	got := r.finish(said(d.first, wire.KeyExchange), "default/openai") // the record comes before the stream ends
	if want := strings.NewReplacer("llo 世界", "", `"stop"`, `"incomplete"`).Replace(asOutput); got.Output != want {
		t.Errorf("%+v", got)
	}
	unchanged(t, d.answerBody([]byte(strings.TrimPrefix(openaiStream, first)), true)) // late
	d.end()
	if left := r.server.captured.Left(); left != captureMemory {
		t.Errorf("%d bytes are held by what came late", captureMemory-left)
	}

	d = r.open(chatHeaders(wire.TraceHeader, sampled), asks("gpt-4o", true))
	d.end()
	if n := r.server.opts.Desk.InFlight(); n != 0 {
		t.Errorf("%d requests are in flight", n)
	}
}

// TestRedactsWhatIsCaptured is only that the rule's expressions are used: package content has the rest.
func TestRedactsWhatIsCaptured(t *testing.T) {
	rule := everything()
	rule.Redact = []*regexp.Regexp{regexp.MustCompile("Hel+o")}
	r := newCapturing(t, rule, nil)
	d := r.open(chatHeaders(wire.TraceHeader, sampled), asks("gpt-4o", false))
	d.body(asked1)
	d.end()
	if got := r.finish(said(d.first, wire.KeyExchange), "default/openai").Input; got != strings.Replace(asInput, "Hello", "[redacted]", 1) {
		t.Errorf("%s", got)
	}
}

// TestGatewaysAreToldApart by what the listener says.
func TestGatewaysAreToldApart(t *testing.T) {
	s := New(testOptions(t, func() time.Time { return t0 }, newMemoryLedger()))
	s.opts.Capturing = func() bool { return true }
	a := &asked{table: &table.Table{Captures: map[string]*content.Rule{edge: everything()}}, operation: canon.OpChat, model: "m"}
	a.trace.Sampled = true
	for gateway, want := range map[string]bool{edge: true, "default/other": false, "": false} {
		a.gateway = gateway
		d := &decision{open: &usage.Open{}}
		s.capture(a, d)
		if (d.content != nil) != want {
			t.Errorf("%q: captured %v", gateway, d.content != nil)
		}
	}
}
