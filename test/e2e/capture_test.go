package e2e

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/weir-dev/weir/test/e2e/harness"
)

// attemptOf are the attributes of the last attempt of a trace, in which the text of its request is; nil before it has come.
func (c *collector) attemptOf(trace string) (attrs map[string]string) {
	for _, s := range c.of(trace) {
		if s.kind == clientSpan {
			attrs = s.attrs
		}
	}
	return attrs
}

// said is every attribute of every span.
func (c *collector) said() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	for _, s := range c.spans {
		fmt.Fprintln(&b, s.name, s.words, s.attrs, s.events)
	}
	return b.String()
}

// What the scripted backends answer, by the model that they are asked for.
const (
	capturedWhole = `{"id":"c-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"It is sk-answer000001, 世界.","tool_calls":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}` + "\n"

	capturedStream = "data: {\"id\":\"c-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"It is sk-ans\"},\"finish_reason\":null}]}\r\n\r\n" +
		": a comment\n\n" +
		"data: {\"id\":\"c-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"wer000001, 世界.\"},\"finish_reason\":null}],\"new_field\":{}}\n\n" +
		"data: {\"id\":\"c-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n" +
		"data: {\"id\":\"c-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":7,\"total_tokens\":12}}\n\n" +
		"data: [DONE]\n\n"

	capturedTools = "data: {\"id\":\"c-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"tool_calls\":[{\"index\":0,\"id\":\"call_1\",\"type\":\"function\",\"function\":{\"name\":\"look\",\"arguments\":\"\"}}]},\"finish_reason\":null}]}\n\n" +
		"data: {\"id\":\"c-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{\\\"key\\\":\\\"\\\\u0073k-tool\"}}]},\"finish_reason\":null}]}\n\n" +
		"data: {\"id\":\"c-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"00000001\\\"}\"}}]},\"finish_reason\":null}]}\n\n" +
		"data: {\"id\":\"c-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n" +
		"data: [DONE]\n\n"

	capturedResponses = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"r-1\",\"status\":\"in_progress\",\"output\":[]}}\n\n" +
		"event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"output_index\":0,\"content_index\":0,\"delta\":\"It is sk-answer000001, 世界.\"}\n\n" +
		"event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"r-1\",\"status\":\"completed\",\"output\":[],\"usage\":{\"input_tokens\":5,\"output_tokens\":7,\"total_tokens\":12}}}\n\n"

	capturedMessages = `{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"It is sk-answer000001, 世界."}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":5,"output_tokens":7}}`

	capturedMessagesStream = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"m\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":5,\"output_tokens\":1}}}\n\n" +
		"event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n" +
		"event: ping\ndata: {\"type\": \"ping\"}\n\n" +
		"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"It is sk-ans\"}}\n\n" +
		"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"wer000001, 世界.\"}}\n\n" +
		"event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n" +
		"event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":7}}\n\n" +
		"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"

	capturedEmbedding = `{"object":"list","model":"m","data":[{"object":"embedding","index":0,"embedding":[0.25,0.5]}],"usage":{"prompt_tokens":2,"total_tokens":2}}`
)

// capturedBroken is a stream that its backend breaks off.
var capturedBroken = strings.Join(strings.SplitAfter(capturedStream, "\n\n")[:2], "")

// scriptedBackends answer with fixed bytes: in pieces that end anywhere, where it is a stream, and else with a length. What is sent to
// read is that the caller has all that there will be of a stream that breaks off.
type scriptedBackends struct {
	URL  string
	read chan struct{}
}

func capturedBackends(t *testing.T) *scriptedBackends {
	t.Helper()
	b := &scriptedBackends{read: make(chan struct{})}
	huge := `{"id":"c-1","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"` + strings.Repeat("a long answer ", 300_000) + `"},"finish_reason":"stop"}]}`
	answers := map[string]string{
		"/v1/chat/completions whole": capturedWhole, "/v1/chat/completions stream": capturedStream, "/v1/chat/completions tools": capturedTools,
		"/v1/chat/completions huge": huge, "/v1/chat/completions broken": capturedBroken,
		"/v1/responses stream": capturedResponses, "/v1/embeddings whole": capturedEmbedding,
		"/v1/messages whole": capturedMessages, "/v1/messages stream": capturedMessagesStream,
		"/v1/chat/completions error": `{"error":{"message":"the prompt says sk-answer000001","type":"invalid_request_error","param":null,"code":null}}`,
	}
	model := regexp.MustCompile(`"model": ?"[a-z]+-([a-z]+)`)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		kind := model.FindSubmatch(body)
		if err != nil || kind == nil {
			http.Error(w, "no model", http.StatusBadRequest)
			return
		}
		answer, ok := answers[r.URL.Path+" "+string(kind[1])]
		switch {
		case !ok:
			http.Error(w, "no such answer", http.StatusNotFound)
		case string(kind[1]) == "error":
			w.Header().Set("content-type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, answer)
		case answer[0] == '{':
			w.Header().Set("content-type", "application/json")
			w.Header().Set("content-length", fmt.Sprint(len(answer)))
			_, _ = io.WriteString(w, answer) // a caller who goes away is none of these tests
		default:
			w.Header().Set("content-type", "text/event-stream")
			for rest := answer; rest != ""; {
				n := min(len(rest), 1+rand.IntN(90))
				_, _ = io.WriteString(w, rest[:n])
				w.(http.Flusher).Flush()
				rest = rest[n:]
			}
			if string(kind[1]) == "broken" {
				select {
				case <-b.read:
				case <-r.Context().Done():
				}
				panic(http.ErrAbortHandler)
			}
		}
	}))
	t.Cleanup(srv.Close)
	b.URL = srv.URL
	return b
}

// captureGateway serves the scripted backends: models that begin with "openai-" and "anthropic-", and those that begin with "plain-", which
// are not captured.
func captureGateway(t *testing.T, b *scriptedBackends, c *collector, capture string) *harness.Gateway {
	t.Helper()
	return harness.Start(t, harness.Options{
		Listener: capture,
		Backends: []harness.Backend{
			{Name: "openai", Dialect: "openai", URL: b.URL + "/v1", AnyModel: true},
			{Name: "anthropic", Dialect: "anthropic", URL: b.URL, AnyModel: true},
		},
		Documents: []string{harness.Route("all", `rules:
  - matches: [{models: ["anthropic-*"]}]
    backends: [{name: anthropic}]
  - matches: [{models: ["openai-*", "plain-*"]}]
    backends: [{name: openai}]
`)},
		Env: []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://" + c.http + "/v1/traces", "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "OTEL_BSP_SCHEDULE_DELAY=20"},
	})
}

const captureSome = `telemetry:
  captureContent:
    parts: [Input, Output]
    models: ["openai-*", "anthropic-*"]
    redact: ['sk-[a-z]+\d{6,}']
    maxBytes: 1Ki
`

// traceID is a new trace, and what a caller sends of it.
func traceID(flags string) (id, header string) {
	id = fmt.Sprintf("%016x%016x", rand.Uint64()|1, rand.Uint64())
	return id, "00-" + id + "-00f067aa0ba902b7-" + flags
}

// answerOf sends a request and gives its answer: status, the headers that do not change from one request to the next, and the body.
func (b *scriptedBackends) answerOf(t *testing.T, g *harness.Gateway, path, dialect, body, traceparent string) (status int, header http.Header, answer string) {
	t.Helper()
	resp, err := http.DefaultClient.Do(request(t, g, "POST", path, dialect, body, "traceparent", traceparent))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var raw []byte
	if strings.Contains(body, "-broken") {
		raw = make([]byte, len(capturedBroken))
		if _, err := io.ReadFull(resp.Body, raw); err != nil {
			t.Fatal(err)
		}
		b.read <- struct{}{}
		if rest, err := io.ReadAll(resp.Body); err == nil || len(rest) > 0 {
			t.Errorf("a broken answer ends with %q, %v", rest, err)
		}
	} else if raw, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Date", "X-Request-Id", "X-Envoy-Upstream-Service-Time"} {
		resp.Header.Del(name)
	}
	resp.Header.Set("(length)", fmt.Sprint(resp.ContentLength))
	return resp.StatusCode, resp.Header, string(raw)
}

// ownIDs are what Weir makes up for an answer that it translates: the ID and the time.
var ownIDs = regexp.MustCompile(`[0-9a-f]{16}-[0-9a-z]+|"created":\d+`)

// TestCaptureContent compares the text in spans with what was said, and every byte of every answer with that of a gateway that captures
// nothing.
func TestCaptureContent(t *testing.T) {
	t.Parallel()
	backend, c := capturedBackends(t), startCollector(t, buildCollector(t))
	on, off := captureGateway(t, backend, c, captureSome), captureGateway(t, backend, c, "")

	const (
		prompt = "My key is sk-prompt000001."
		hidden = `[{"role":"user","parts":[{"type":"text","content":"My key is [redacted]."}]}]`
		said   = `[{"role":"assistant","parts":[{"type":"text","content":"It is [redacted], 世界."}],"finish_reason":"stop"}]`
	)
	responses := `{"model":"openai-stream","stream":true,"instructions":"Be kind.","input":"` + prompt + `"}`
	tools := `{"model":"openai-tools","stream":true,"messages":[{"role":"user","content":"` + prompt + `"},` +
		`{"role":"assistant","content":null,"tool_calls":[{"id":"call_0","type":"function","function":{"name":"look","arguments":"{\"at\":1}"}}]},` +
		`{"role":"tool","tool_call_id":"call_0","content":"sk-result000001"},{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgo="}}]}]}`
	long := strings.Repeat("x", 1000) + " sk-" + strings.Repeat("y", 100) + "000001 " + strings.Repeat("z", 3<<20)
	for _, x := range []struct {
		name, path, dialect, body string
		flags                     string
		want                      map[string]string // of gen_ai.* and weir.content.*; nil: no span at all
	}{
		{name: "whole", path: chatCompletions, dialect: "openai", body: chatBody("openai-whole", prompt, false),
			want: map[string]string{"gen_ai.input.messages": hidden, "gen_ai.output.messages": said}},
		{name: "stream", path: chatCompletions, dialect: "openai", body: chatBody("openai-stream", prompt, true),
			want: map[string]string{"gen_ai.input.messages": hidden, "gen_ai.output.messages": said}},
		{name: "tools and media", path: chatCompletions, dialect: "openai", body: tools,
			want: map[string]string{
				"gen_ai.input.messages": strings.TrimSuffix(hidden, "]") + `,{"role":"assistant","parts":[{"type":"tool_call","id":"call_0","name":"look","arguments":{"at":1}}]},` +
					`{"role":"tool","parts":[{"type":"tool_call_response","id":"call_0","response":"[redacted]"}]},` +
					`{"role":"user","parts":[{"type":"media","modality":"image","mime_type":"image/png","bytes":8}]}]`,
				"gen_ai.output.messages": `[{"role":"assistant","parts":[{"type":"tool_call","id":"call_1","name":"look","arguments":{"key":"[redacted]"}}],"finish_reason":"tool_call"}]`,
			}},
		{name: "responses", path: "/v1/responses", dialect: "openai", body: responses,
			want: map[string]string{"gen_ai.system_instructions": `[{"type":"text","content":"Be kind."}]`, "gen_ai.input.messages": hidden, "gen_ai.output.messages": said}},
		{name: "embeddings", path: "/v1/embeddings", dialect: "openai", body: `{"model":"openai-whole","input":"` + prompt + `"}`,
			want: map[string]string{"gen_ai.input.messages": hidden}},
		{name: "anthropic whole", path: anthropicMessages, dialect: "anthropic", body: chatBody("anthropic-whole", prompt, false),
			want: map[string]string{"gen_ai.input.messages": hidden, "gen_ai.output.messages": said}},
		{name: "anthropic stream", path: anthropicMessages, dialect: "anthropic", body: chatBody("anthropic-stream", prompt, true),
			want: map[string]string{"gen_ai.input.messages": hidden, "gen_ai.output.messages": said}},
		{name: "translated whole", path: chatCompletions, dialect: "openai", body: chatBody("anthropic-whole", prompt, false),
			want: map[string]string{"gen_ai.input.messages": hidden, "gen_ai.output.messages": said}},
		{name: "translated stream", path: anthropicMessages, dialect: "anthropic", body: chatBody("openai-stream", prompt, true),
			want: map[string]string{"gen_ai.input.messages": hidden, "gen_ai.output.messages": said}},
		{name: "an answer that breaks off", path: chatCompletions, dialect: "openai", body: chatBody("openai-broken", prompt, true),
			want: map[string]string{"gen_ai.input.messages": hidden, "gen_ai.output.messages": strings.Replace(said, `"stop"`, `"incomplete"`, 1)}},
		{name: "an error", path: chatCompletions, dialect: "openai", body: chatBody("openai-error", prompt, false),
			want: map[string]string{"gen_ai.input.messages": hidden, "weir.content.output_missing": "there was no answer"}},
		{name: "a long prompt and a huge answer", path: chatCompletions, dialect: "openai", body: chatBody("openai-huge", long, false),
			want: map[string]string{
				"gen_ai.input.messages":  `[{"role":"user","parts":[{"type":"text","content":"` + strings.Repeat("x", 1000) + ` [redacted]"}]}]`,
				"weir.content.input_cut": fmt.Sprint(len(long) - 1024), "weir.content.output_missing": "the answer is too large or broke off",
			}},
		{name: "a request that Weir does not read", path: chatCompletions, dialect: "openai",
			body: `{"model":"openai-whole","messages":[{"role":"user","content":[{"type":"input_audio","input_audio":{"data":"AAAA","format":"wav"}}]}]}`,
			want: map[string]string{"weir.content.input_missing": "the request has a form that Weir does not read, or no text", "gen_ai.output.messages": said}},
		{name: "another model", path: chatCompletions, dialect: "openai", body: chatBody("plain-stream", prompt, true), want: map[string]string{}},
		{name: "not sampled", path: chatCompletions, dialect: "openai", body: chatBody("openai-whole", prompt, false), flags: "00"},
	} {
		t.Run(x.name, func(t *testing.T) {
			if x.flags == "" {
				x.flags = "01"
			}
			id, header := traceID(x.flags)
			other, otherHeader := traceID(x.flags)
			status, headers, answer := backend.answerOf(t, on, x.path, x.dialect, x.body, header)
			status2, headers2, answer2 := backend.answerOf(t, off, x.path, x.dialect, x.body, otherHeader)
			if status != status2 || ownIDs.ReplaceAllString(answer, "") != ownIDs.ReplaceAllString(answer2, "") || answer == "" {
				t.Errorf("captured: %d %.2000q\nnot:      %d %.2000q", status, answer, status2, answer2)
			}
			if !maps.EqualFunc(headers, headers2, slices.Equal) {
				t.Errorf("headers of the answer, captured: %v\nnot:      %v", headers, headers2)
			}
			if x.want == nil {
				return
			}
			for trace, want := range map[string]map[string]string{id: x.want, other: {}} {
				on.WaitFor("the trace is exported", func() bool { return c.attemptOf(trace) != nil })
				got := maps.Clone(c.attemptOf(trace))
				maps.DeleteFunc(got, func(key, _ string) bool {
					return !strings.HasSuffix(key, ".messages") && !strings.HasPrefix(key, "weir.content.") && key != "gen_ai.system_instructions"
				})
				if !maps.Equal(got, want) {
					t.Errorf("captured %v:\ngot  %.3000q\nwant %.3000q", trace == id, got, want)
				}
			}
		})
	}
	if n := on.Metric("weir_telemetry_dropped_spans_total"); n != 0 {
		t.Errorf("%v spans were dropped", n)
	}
	if text := c.said(); regexp.MustCompile(`sk-[a-z]+\d{6}`).MatchString(text) {
		t.Error("a span holds what was to be redacted")
	}
}

// TestCapturedTextIsInSpansAlone: what is said goes nowhere else.
func TestCapturedTextIsInSpansAlone(t *testing.T) {
	t.Parallel()
	backend, c := capturedBackends(t), startCollector(t, buildCollector(t))
	g := captureGateway(t, backend, c, "telemetry: {captureContent: {parts: [Input, Output]}}\n")
	const prompt = "A-PROMPT-NOBODY-SEES"
	answers := []string{"sk-answer000001", "sk-ans", "世界"}
	for _, model := range []string{"openai-whole", "openai-stream", "anthropic-stream", "openai-broken", "openai-error"} {
		id, header := traceID("01")
		backend.answerOf(t, g, chatCompletions, "openai", chatBody(model, prompt, strings.HasSuffix(model, "-stream") || strings.HasSuffix(model, "-broken")), header)
		g.WaitFor("the trace is exported", func() bool { return c.attemptOf(id) != nil })
	}
	places := map[string]string{"the log": g.Logs(), "the ledger": stateFiles(t, g)}
	get := func(name, url string) {
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: status %d, %v: %s", name, resp.StatusCode, err, body)
		}
		places[name] = string(body)
	}
	for _, path := range []string{"/metrics", "/api/status", "/api/backends", "/api/topology", "/api/requests", "/api/history", "/api/config", "/api/limits",
		"/api/usage?by=tenant,consumer,key,model&from=2020-01-01"} {
		get(path, g.AdminURL+path)
	}
	for _, path := range []string{"/config_dump?include_eds", "/clusters", "/stats"} {
		places["Envoy's "+path] = string(g.Envoy(path))
	}
	for _, s := range append(answers, prompt) {
		if !strings.Contains(c.said(), s) && s != "sk-ans" {
			t.Errorf("no span has %q, so that looking for it shows nothing", s)
		}
		for place, text := range places {
			if strings.Contains(text, s) {
				t.Errorf("%s has %q", place, s)
			}
		}
	}
}
