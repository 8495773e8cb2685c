package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/test/e2e/harness"
)

// scripted is a provider that answers each request with what its header x-case names, in pieces of 1000 bytes.
type scripted struct {
	*httptest.Server
	cases map[string]countCase
}

// countCase is one answer of a provider, and what must be counted of it.
type countCase struct {
	name, path, model string
	kind              string // content type
	body              string
	status            int // 0: 200
	want              *canon.Usage
	partial           bool
}

func newScripted(t *testing.T, cases []countCase) *scripted {
	t.Helper()
	s := &scripted{cases: map[string]countCase{}}
	for _, c := range cases {
		s.cases[c.name] = c
	}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(s.answer))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func (s *scripted) answer(w http.ResponseWriter, r *http.Request) {
	c, ok := s.cases[r.Header.Get("x-case")]
	if _, err := io.Copy(io.Discard, r.Body); err != nil || !ok {
		http.Error(w, "no such case", http.StatusNotFound)
		return
	}
	w.Header().Set("content-type", c.kind)
	w.WriteHeader(max(c.status, 200))
	for rest := c.body; rest != ""; {
		n := min(len(rest), 1000)
		_, _ = io.WriteString(w, rest[:n]) // the gateway may have gone
		_ = http.NewResponseController(w).Flush()
		rest = rest[n:]
	}
}

const (
	plainJSON = "application/json"
	sse       = "text/event-stream"
)

// events renders server-sent events of these data; an event's name is its "type" if it has one.
func sseOf(data ...string) string {
	var b strings.Builder
	for _, d := range data {
		if _, rest, ok := strings.Cut(d, `{"type":"`); ok {
			name, _, _ := strings.Cut(rest, `"`)
			fmt.Fprintf(&b, "event: %s\n", name)
		}
		fmt.Fprintf(&b, "data: %s\n\n", d)
	}
	return b.String()
}

func countCases(t *testing.T) []countCase {
	t.Helper()
	const (
		chatUsage  = `"usage":{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150,"prompt_tokens_details":{"cached_tokens":64,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":20}}`
		respUsage  = `"usage":{"input_tokens":100,"input_tokens_details":{"cached_tokens":64},"output_tokens":50,"output_tokens_details":{"reasoning_tokens":20},"total_tokens":150}`
		anthUsage  = `"usage":{"input_tokens":30,"cache_creation_input_tokens":6,"cache_read_input_tokens":64,"output_tokens":50}`
		chunk      = `{"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt","choices":[{"index":0,"delta":{"content":"word"},"finish_reason":null}],"usage":null}`
		lastChunk  = `{"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt","choices":[],` + chatUsage + `}`
		chatHead   = `{"id":"c","object":"chat.completion","created":1,"model":"gpt","choices":[{"index":0,"message":{"role":"assistant","content":"`
		chatTail   = `"},"finish_reason":"stop"}],`
		start      = `{"type":"message_start","message":{"id":"m","type":"message","role":"assistant","model":"claude","content":[],"usage":{"input_tokens":30,"cache_creation_input_tokens":6,"cache_read_input_tokens":64,"output_tokens":1}}}`
		blockDelta = `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"word"}}`
		stop       = `{"type":"message_stop"}`
	)
	openai := &canon.Usage{Input: 100, CacheRead: 64, Output: 50, Reasoning: 20}
	anthropic := &canon.Usage{Input: 100, CacheRead: 64, CacheWrite: 6, Output: 50}
	messageDelta := `{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":50}}`
	long := strings.Repeat("lorem ipsum ", 150_000) // 1.8 MB
	embeddings := func(vectors int, value string) string {
		one := `{"object":"embedding","index":0,"embedding":` + value + `},`
		return `{"object":"list","data":[` + strings.TrimSuffix(strings.Repeat(one, vectors), ",") + `],"usage":{"prompt_tokens":8,"total_tokens":8}}`
	}
	floats := "[" + strings.Repeat("-0.0123456,", 255) + "0]"
	list := []countCase{
		{name: "chat", path: "/v1/chat/completions", model: "gpt", kind: plainJSON, body: chatHead + "hi" + chatTail + chatUsage + "}", want: openai},
		{name: "chat of 2 MB", path: "/v1/chat/completions", model: "gpt", kind: plainJSON, body: chatHead + long + chatTail + chatUsage + "}", want: openai},
		{name: "chat that names no object", path: "/v1/chat/completions", model: "gpt", kind: plainJSON, body: `{"choices":[],` + chatUsage + "}", want: openai},
		{name: "chat without usage", path: "/v1/chat/completions", model: "gpt", kind: plainJSON, body: `{"object":"chat.completion","choices":[]}`},
		{name: "chat, usage null", path: "/v1/chat/completions", model: "gpt", kind: plainJSON, body: `{"object":"chat.completion","choices":[],"usage":null}`},
		{name: "chat, more parts than whole", path: "/v1/chat/completions", model: "gpt", kind: plainJSON,
			body: `{"object":"chat.completion","usage":{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":99},"completion_tokens_details":{"reasoning_tokens":99}}}`,
			want: &canon.Usage{Input: 10, CacheRead: 10, Output: 5, Reasoning: 5}},
		{name: "chat, negative", path: "/v1/chat/completions", model: "gpt", kind: plainJSON, partial: true,
			body: `{"object":"chat.completion","usage":{"prompt_tokens":-10,"completion_tokens":5}}`, want: &canon.Usage{Output: 5}},
		{name: "chat, not JSON", path: "/v1/chat/completions", model: "gpt", kind: plainJSON, body: `{"object":"chat.completion",` + chatUsage},
		{name: "chat, error", path: "/v1/chat/completions", model: "gpt", kind: plainJSON, status: 400, body: `{"error":{"message":"no"},` + chatUsage + `}`},
		{name: "chat stream", path: "/v1/chat/completions", model: "gpt", kind: sse, body: sseOf(chunk, chunk, lastChunk, "[DONE]"), want: openai},
		{name: "chat stream with CRLF", path: "/v1/chat/completions", model: "gpt", kind: sse + "; charset=utf-8",
			body: strings.ReplaceAll(": hello\n\n"+sseOf(chunk, lastChunk, "[DONE]"), "\n", "\r\n"), want: openai},
		{name: "chat stream of 100000", path: "/v1/chat/completions", model: "gpt", kind: sse,
			body: strings.Repeat(sseOf(`{"object":"chat.completion.chunk","choices":[{"delta":{"content":"w"}}]}`), 100_000) + sseOf(lastChunk, "[DONE]"), want: openai},
		{name: "chat stream that breaks", path: "/v1/chat/completions", model: "gpt", kind: sse,
			body: sseOf(chunk, `{"error":{"message":"overloaded","type":"server_error"}}`)},
		{name: "responses", path: "/v1/responses", model: "gpt", kind: plainJSON, body: `{"id":"r","object":"response","model":"gpt","output":[],` + respUsage + "}", want: openai},
		{name: "responses stream", path: "/v1/responses", model: "gpt", kind: sse, body: sseOf(
			`{"type":"response.created","response":{"object":"response","usage":null}}`, `{"type":"response.output_text.delta","delta":"x"}`,
			`{"type":"response.completed","response":{"object":"response","output":[{"text":"`+long+`"}],`+respUsage+`}}`), want: openai},
		{name: "responses stream that fails", path: "/v1/responses", model: "gpt", kind: sse, body: sseOf(
			`{"type":"response.created","response":{"object":"response","usage":null}}`,
			`{"type":"response.failed","response":{"object":"response","error":{},"usage":{"input_tokens":9,"output_tokens":0}}}`), want: &canon.Usage{Input: 9}},
		{name: "embeddings", path: "/v1/embeddings", model: "gpt", kind: plainJSON, body: embeddings(1000, floats), want: &canon.Usage{Input: 8}},
		// Envoy keeps no more than 262144 values of one answer.
		{name: "very many embeddings", path: "/v1/embeddings", model: "gpt", kind: plainJSON, body: embeddings(1100, floats)},
		{name: "embeddings in base64", path: "/v1/embeddings", model: "gpt", kind: plainJSON,
			body: embeddings(1000, `"`+strings.Repeat("A", 8192)+`"`), want: &canon.Usage{Input: 8}},
		{name: "completions", path: "/v1/completions", model: "gpt", kind: plainJSON,
			body: `{"object":"text_completion","choices":[{"text":"x"}],` + chatUsage + `}`, want: openai},
		{name: "completions stream", path: "/v1/completions", model: "gpt", kind: sse,
			body: sseOf(`{"object":"text_completion","choices":[{"text":"x"}]}`, `{"object":"text_completion","choices":[],`+chatUsage+`}`, "[DONE]"), want: openai},
		{name: "messages", path: "/v1/messages", model: "claude", kind: plainJSON,
			body: `{"id":"m","type":"message","role":"assistant","content":[{"type":"text","text":"` + long + `"}],` + anthUsage + "}", want: anthropic},
		{name: "messages stream", path: "/v1/messages", model: "claude", kind: sse, body: sseOf(start, `{"type":"ping"}`, blockDelta, messageDelta, stop), want: anthropic},
		{name: "messages stream that breaks", path: "/v1/messages", model: "claude", kind: sse, partial: true,
			body: sseOf(start, blockDelta, `{"type":"error","error":{"type":"overloaded_error"}}`), want: &canon.Usage{Input: 100, CacheRead: 64, CacheWrite: 6, Output: 1}},
		{name: "messages stream without an end", path: "/v1/messages", model: "claude", kind: sse, body: sseOf(start, blockDelta),
			want: &canon.Usage{Input: 100, CacheRead: 64, CacheWrite: 6, Output: 1}},
		{name: "count tokens", path: "/v1/messages/count_tokens", model: "claude", kind: plainJSON, body: `{"input_tokens":7}`},
	}
	// Through a chain of backends of two dialects, where no dialect is known beforehand.
	for _, c := range list {
		if c.path == "/v1/chat/completions" && c.name != "chat that names no object" || c.path == "/v1/messages" {
			c.name, c.model = c.name+", mixed", "mixed-"+c.model
			list = append(list, c)
		}
	}
	return list
}

// TestUsageIsCounted: Envoy reads the usage in the answers of backends that speak the caller's dialect, and no byte of them
// changes.
func TestUsageIsCounted(t *testing.T) {
	t.Parallel()
	cases := countCases(t)
	provider := newScripted(t, cases)
	for _, protocol := range []string{"HTTP1", "HTTP2"} {
		t.Run(protocol, func(t *testing.T) {
			p := newPlane(t, planeOptions{
				listener: "accounting: {streamUsage: AsIs}",
				backends: []harness.Backend{
					{Name: "one", Dialect: "openai", URL: provider.URL + "/v1", Models: []string{"gpt", "mixed-gpt"}, Spec: "protocol: " + protocol},
					{Name: "two", Dialect: "anthropic", URL: provider.URL, Models: []string{"claude", "mixed-claude"}, Spec: "protocol: " + protocol},
					{Name: "one-too", Dialect: "openai", URL: provider.URL + "/v1", Models: []string{"mixed-claude"}, Spec: "protocol: " + protocol},
					{Name: "two-too", Dialect: "anthropic", URL: provider.URL, Models: []string{"mixed-gpt"}, Spec: "protocol: " + protocol},
				},
				documents: []string{harness.Route("all", `
rules:
  - matches: [{models: [gpt, claude]}]
    backends: [{name: one}, {name: two}]
  - matches: [{models: [mixed-gpt]}]
    backends: [{name: one}, {name: two-too, priority: 1}]
  - matches: [{models: [mixed-claude]}]
    backends: [{name: two}, {name: one-too, priority: 1}]
`)},
			})
			client := &http.Client{Transport: &http.Transport{Protocols: new(http.Protocols)}}
			client.Transport.(*http.Transport).Protocols.SetHTTP1(protocol == "HTTP1")
			client.Transport.(*http.Transport).Protocols.SetUnencryptedHTTP2(protocol == "HTTP2")
			t.Cleanup(client.CloseIdleConnections)
			for _, c := range cases {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					dialect := "openai"
					if strings.HasPrefix(c.path, "/v1/messages") {
						dialect = "anthropic"
					}
					body := fmt.Sprintf(`{"model":%q,"stream":%v,"max_tokens":9,"messages":[{"role":"user","content":"hi"}]}`, c.model, strings.HasPrefix(c.kind, sse))
					got := do(t, client, request(t, p.gateway(), "POST", c.path, dialect, body, "x-case", c.name, "x-request-id", c.name, "accept-encoding", "gzip"))
					if got.status != max(c.status, 200) || got.body != c.body {
						t.Fatalf("status %d with %d bytes, want %d bytes: %.200s", got.status, len(got.body), len(c.body), got.body)
					}
					r := p.record(t, c.name)
					if c.want == nil && r.Reported != nil || c.want != nil && (r.Reported == nil || *r.Reported != *c.want) {
						t.Errorf("counted %+v, want %+v", r.Reported, c.want)
					}
					if r.ReportedComplete != (c.want != nil && !c.partial) {
						t.Errorf("complete: %v", r.ReportedComplete)
					}
					if r.Attempts != 1 {
						t.Errorf("%d attempts", r.Attempts)
					}
				})
			}
		})
	}
}

// TestUsageIsHidden: Weir asks for the usage of streams in their callers' place, reads it, and the callers see the bytes that
// the provider sends beside it.
func TestUsageIsHidden(t *testing.T) {
	t.Parallel()
	const (
		head = "data: {\"choices\":[{\"delta\":{\"content\":\"say \\\"usage\\\":{\"}}],\"usage\":null}\n\n: ping\n\n"
		last = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":5}}\n\n"
		done = "data: [DONE]\n\n"
	)
	var bodies sync.Map // by case, as the provider got them
	provider := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.ContentLength != int64(len(body)) {
			t.Errorf("content-length %d for %d bytes", r.ContentLength, len(body))
		}
		bodies.Store(r.Header.Get("x-case"), string(body))
		answer := head
		if strings.Contains(string(body), `"include_usage":true`) {
			answer += last
		}
		answer += done
		w.Header().Set("content-type", sse)
		size, _ := strconv.Atoi(r.Header.Get("x-piece"))
		for from := 0; from < len(answer); from += size {
			_, _ = io.WriteString(w, answer[from:min(from+size, len(answer))])
			_ = http.NewResponseController(w).Flush()
		}
	}))
	provider.Start()
	t.Cleanup(provider.Close)
	p := newPlane(t, planeOptions{
		backends:  []harness.Backend{{Name: "one", Dialect: "openai", URL: provider.URL + "/v1", Models: []string{"gpt"}}},
		documents: []string{harness.Route("all", "rules: [{backends: [{name: one}]}]")},
	})
	for _, c := range []struct {
		name, body, sent string
		asked            bool
	}{
		{"plain", `{"model":"gpt","stream":true,"messages":[]}`, `{"stream_options":{"include_usage":true},"model":"gpt","stream":true,"messages":[]}`, false},
		{"refused", `{"model":"gpt","stream":true,"stream_options":{"include_usage":false}}`, `{"model":"gpt","stream":true,"stream_options":{"include_usage":true}}`, false},
		{"asked", `{"model":"gpt","stream":true,"stream_options":{"include_usage":true}}`, "", true},
	} {
		for _, size := range []int{1, 7, 100, 1000} {
			id := fmt.Sprintf("%s in pieces of %d", c.name, size)
			t.Run(id, func(t *testing.T) {
				t.Parallel()
				got := do(t, http.DefaultClient, request(t, p.gateway(), "POST", "/v1/chat/completions", "openai", c.body,
					"x-case", id, "x-piece", strconv.Itoa(size), "x-request-id", id))
				want, sent := head+done, c.sent
				if c.asked {
					want, sent = head+last+done, c.body
				}
				if got.status != 200 || got.body != want {
					t.Errorf("status %d: %q\nwant %q", got.status, got.body, want)
				}
				if b, _ := bodies.Load(id); b != sent {
					t.Errorf("the provider got %s", b)
				}
				if r := p.record(t, id); r.Reported == nil || r.Reported.Input != 7 || r.Reported.Output != 5 {
					t.Errorf("counted %+v", r.Reported)
				}
			})
		}
	}
}

// TestUsageOfAnAbortedStream: Envoy reads the usage at the end of an answer, so there is none of one that the caller does not
// take to its end. Its record says how many bytes were delivered.
func TestUsageOfAnAbortedStream(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("content-type", sse)
		_, _ = io.WriteString(w, sseOf(`{"type":"message_start","message":{"type":"message","role":"assistant","usage":{"input_tokens":30,"output_tokens":1}}}`))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(gone)
	}))
	t.Cleanup(provider.Close)
	backends, documents := twoBackends(provider.URL)
	p := newPlane(t, planeOptions{backends: backends, documents: documents})
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	req := request(t, p.gateway(), "POST", "/v1/messages", "anthropic", chatBody("claude", "hi", true), "x-request-id", "aborted")
	resp, err := http.DefaultClient.Do(req.WithContext(ctx))
	must(t, err)
	defer resp.Body.Close()
	buf := make([]byte, 1)
	if _, err := resp.Body.Read(buf); err != nil {
		t.Fatal(err)
	}
	leave()
	<-gone // the provider stops as well
	if r := p.record(t, "aborted"); !r.Aborted || r.Status != 200 || r.Reported != nil || r.ReportedComplete || r.BytesOut == 0 || r.Attempts != 1 {
		t.Errorf("the record is %+v", r)
	}
}
