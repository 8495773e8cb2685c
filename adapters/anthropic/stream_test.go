package anthropic

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/internal/adaptertest"
	"github.com/weir-dev/weir/adapters/sse"
)

// block is what a client has put together from one content block.
type block struct {
	kind, id, text, signature string
}

// checkStream verifies what every client relies on, and returns the blocks: message_start first,
// blocks numbered from 0, each closed before the next, exactly one message_delta and message_stop
// at the end, or one error and nothing after it.
func checkStream(t *testing.T, stream []byte) []block {
	t.Helper()
	var (
		blocks                  []block
		open, started, errored  bool
		delta, stopped, anyDone int
	)
	var r sse.Reader
	r.Feed(stream, func(ev sse.Event) {
		var m struct {
			Type         string
			Index        *int
			Message      *struct{ ID, Type, Role, Model string }
			ContentBlock *struct {
				Type, Text, Thinking, Signature, ID, Data string
				Input                                     json.RawMessage
			} `json:"content_block"`
			Delta *struct {
				Type, Text, Thinking, Signature string
				PartialJSON                     string `json:"partial_json"`
				StopReason                      string `json:"stop_reason"`
			}
			Usage map[string]any
			Error *struct{ Type, Message string }
		}
		if err := json.Unmarshal(ev.Data, &m); err != nil {
			t.Fatalf("event data is not JSON: %v\n%s", err, ev.Data)
		}
		if m.Type != string(ev.Name) {
			t.Fatalf("event: %s has type %s", ev.Name, m.Type)
		}
		if stopped > 0 || errored {
			t.Fatalf("%s after the end", m.Type)
		}
		if !started && m.Type != "message_start" && m.Type != "ping" && m.Type != "error" {
			t.Fatalf("%s before message_start", m.Type)
		}
		switch m.Type {
		case "message_start":
			if started || !strings.HasPrefix(m.Message.ID, "msg_") || m.Message.Model != testReply.Model {
				t.Fatalf("bad message_start: %s", ev.Data)
			}
			started = true
		case "content_block_start":
			if open || delta > 0 || *m.Index != len(blocks) {
				t.Fatalf("block %d opened while open=%v, delta=%d, %d blocks before", *m.Index, open, delta, len(blocks))
			}
			open = true
			blocks = append(blocks, block{kind: m.ContentBlock.Type, id: m.ContentBlock.ID, text: m.ContentBlock.Data})
		case "content_block_delta":
			if !open || *m.Index != len(blocks)-1 {
				t.Fatalf("delta for block %d, open=%v of %d", *m.Index, open, len(blocks))
			}
			b := &blocks[len(blocks)-1]
			want := map[string]string{"text_delta": "text", "input_json_delta": "tool_use",
				"thinking_delta": "thinking", "signature_delta": "thinking"}[m.Delta.Type]
			if b.kind != want {
				t.Fatalf("%s in a %s block", m.Delta.Type, b.kind)
			}
			b.text += m.Delta.Text + m.Delta.Thinking + m.Delta.PartialJSON
			b.signature += m.Delta.Signature
		case "content_block_stop":
			if !open || *m.Index != len(blocks)-1 {
				t.Fatalf("stop of block %d, open=%v of %d", *m.Index, open, len(blocks))
			}
			open = false
		case "message_delta":
			delta++
			if open || delta > 1 || m.Delta.StopReason == "" || m.Usage["input_tokens"] == nil || m.Usage["output_tokens"] == nil {
				t.Fatalf("bad message_delta (block open: %v): %s", open, ev.Data)
			}
		case "message_stop":
			if delta != 1 {
				t.Fatal("message_stop without message_delta")
			}
			stopped++
		case "error":
			if m.Error.Type == "" || m.Error.Message == "" {
				t.Fatalf("bad error: %s", ev.Data)
			}
			errored = true
		case "ping":
		default:
			t.Fatalf("no such event: %s", m.Type)
		}
	})
	if r.Partial() {
		t.Fatal("the stream ends inside an event")
	}
	if anyDone = stopped; errored {
		anyDone++
	}
	if anyDone != 1 {
		t.Fatalf("message_stop %d times, error %v", stopped, errored)
	}
	return blocks
}

// events makes a stream of canon events from bytes, for fuzzing: well-formed in canon's sense, and
// interleaved at will.
func events(seed []byte) (evs []*canon.Event, text, thinking string, args []string) {
	whole := []string{`{"a":1}`, `{}`, `{"s":"}\"{"}`, `{"n":{"x":[1,{}]}} `, ``, `[1]`, `nonsense`, `{"cut":`}
	var rest []string
	for i := 0; i+1 < len(seed); i += 2 {
		op, n := seed[i]%8, int(seed[i+1])
		word := string(rune('a'+n%26)) + strings.Repeat("é", n%3)
		switch op {
		case 0, 1:
			evs = append(evs, &canon.Event{Kind: canon.EventText, Text: word})
			text += word
		case 2:
			if n%3 == 0 {
				evs = append(evs, &canon.Event{Kind: canon.EventReasoning, Text: word}) // another provider's
				continue
			}
			evs = append(evs, &canon.Event{Kind: canon.EventReasoning, Text: word, Origin: name})
			thinking += word
		case 3:
			evs = append(evs, &canon.Event{Kind: canon.EventReasoning, Signature: "s" + word, Origin: name})
		case 4:
			evs = append(evs, &canon.Event{Kind: canon.EventToolStart, Tool: len(args), CallID: "c" + word, Name: "f"})
			args = append(args, "")
			rest = append(rest, whole[n%len(whole)])
		case 5, 6, 7:
			if len(args) == 0 {
				continue
			}
			k := n % len(args)
			cut := min(len(rest[k]), 1+n%4)
			evs = append(evs, &canon.Event{Kind: canon.EventToolDelta, Tool: k, Text: rest[k][:cut]})
			args[k] += rest[k][:cut]
			rest[k] = rest[k][cut:]
		}
	}
	return evs, text, thinking, args
}

func FuzzStreamEncoder(f *testing.F) {
	f.Add([]byte{0, 1, 4, 0, 5, 0, 4, 2, 5, 1, 0, 3, 5, 0, 5, 1}, true)
	f.Add([]byte{4, 7, 4, 1, 2, 2, 3, 3, 5, 0, 5, 1, 1, 1}, true)
	f.Add([]byte{4, 4, 4, 5, 4, 6, 0, 0, 5, 1, 5, 2, 5, 0}, false)
	f.Fuzz(func(t *testing.T, seed []byte, clean bool) {
		if len(seed) > 400 {
			return
		}
		evs, text, thinking, args := events(seed)
		if !clean {
			evs = append(evs, &canon.Event{Kind: canon.EventError, Err: &canon.Error{Kind: canon.ErrTimeout, Message: "late"}})
			checkStream(t, encode(evs, true))
			return
		}
		evs = append(evs, &canon.Event{Kind: canon.EventFinish, Finish: canon.FinishStop})
		var gotText, gotThinking string
		var calls []block
		for _, b := range checkStream(t, encode(evs, true)) {
			switch b.kind {
			case "text":
				gotText += b.text
			case "thinking":
				gotThinking += b.text
			case "tool_use":
				calls = append(calls, b)
			}
		}
		if gotText != text || gotThinking != thinking {
			t.Fatalf("text %q, want %q; thinking %q, want %q", gotText, text, gotThinking, thinking)
		}
		if len(calls) != len(args) {
			t.Fatalf("%d calls, want %d", len(calls), len(args))
		}
		adaptertest.CheckOrder(t, decode(t, encode(evs, true)))
		for k := range args {
			// White space behind a complete object may be lost with its closed block.
			if strings.TrimSpace(calls[k].text) != strings.TrimSpace(args[k]) {
				t.Fatalf("arguments of call %d: %q, want %q", k, calls[k].text, args[k])
			}
		}
	})
}

func FuzzStreamDecoder(f *testing.F) {
	f.Add([]byte("event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\"}}\n\ndata: {\"type\":\"message_stop\"}\n\n"), 7, 40)
	f.Add([]byte("data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"tool_use\"}}\r\n\r\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"\\u00e9\"}}\n\n"), 30, 31)
	f.Add([]byte("event: error\ndata: {}\n\n"), 1, 2)
	f.Add([]byte(": c\r\rdata\n\ndata: [1,2]\n\n"), 4, 5)
	f.Fuzz(func(t *testing.T, stream []byte, a, b int) {
		whole := decode(t, stream)
		a, b = clamp(a, len(stream)), clamp(b, len(stream))
		if a > b {
			a, b = b, a
		}
		if got := decode(t, stream[:a], stream[a:b], stream[b:]); got != whole {
			t.Fatalf("cut at %d and %d gives\n%s\nuncut\n%s", a, b, got, whole)
		}
		adaptertest.CheckOrder(t, whole)
	})
}

func clamp(n, limit int) int { return max(0, min(n, limit)) }

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{` + minimal + `}`))
	f.Add([]byte(withBlock(`{"type":"tool_result","tool_use_id":"a","content":[{"type":"text","text":"x"}]}`)))
	f.Add([]byte(`{"system":[{"type":"text","text":"x","cache_control":{}}],"tools":[{"name":"a","input_schema":{}}],"tool_choice":{"type":"any"},"thinking":{"type":"enabled","budget_tokens":2000},` + minimal + `}`))
	f.Add([]byte(withMessages(`[{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"b","input":{"x":[1]}},{"type":"redacted_thinking","data":"x"}]}]`)))
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := inbound{}.ParseRequest(body)
		if err != nil {
			if err.Message == "" || err.HTTPStatus() != 400 || req != nil {
				t.Fatalf("bad error: %+v", err)
			}
			return
		}
		call, err := outbound{}.BuildCall(req, canon.CallOptions{Model: "claude-sonnet-4-5"})
		if err != nil {
			if err.HTTPStatus() != 400 {
				t.Fatalf("BuildCall: %+v", err)
			}
			return
		}
		if !json.Valid(call.Body) {
			t.Fatalf("BuildCall made invalid JSON: %s", call.Body)
		}
		if _, err := (inbound{}).ParseRequest(call.Body); err != nil {
			t.Fatalf("what BuildCall made is refused: %v\n%s", err, call.Body)
		}
	})
}

func TestDecoderReportsTooLargeEvents(t *testing.T) {
	dec := &decoder{reader: sse.Reader{Max: 64}}
	var got []string
	dec.Feed([]byte("data: "+strings.Repeat("x", 100)), func(ev *canon.Event) { got = append(got, adaptertest.Line(ev)) })
	dec.End(func(ev *canon.Event) { got = append(got, adaptertest.Line(ev)) })
	if len(got) != 1 || !strings.HasPrefix(got[0], `error "bad_gateway"`) {
		t.Errorf("got %q, want one bad_gateway", got)
	}
}

// What goes through decoder and encoder says the same to the next decoder.
func TestStreamRoundTrip(t *testing.T) {
	adaptertest.Folder(t, "decode", func(t *testing.T, in []byte) string {
		var out []byte
		enc := inbound{}.NewStreamEncoder(testReply)
		emit := func(ev *canon.Event) { out = enc.Append(out, ev) }
		dec := outbound{}.NewStreamDecoder()
		dec.Feed(append(in, "\n\n"...), emit)
		dec.End(emit)
		out = enc.End(out)
		checkStream(t, out)
		first, second := decode(t, append(in, "\n\n"...)), decode(t, out)
		strip := func(s string) (lines []string) {
			for _, l := range strings.Split(s, "\n") {
				// The encoder answers for its own caller: model, ids and the kinds that share a type.
				if !strings.HasPrefix(l, "start ") && !strings.HasPrefix(l, "error ") && !strings.HasPrefix(l, "usage 0 0 0 0 0") {
					lines = append(lines, l)
				}
			}
			return lines
		}
		if got, want := strip(second), strip(first); !slices.Equal(got, want) {
			t.Errorf("after a round trip\n%q\nbefore\n%q", got, want)
		}
		return first + adaptertest.Ending(t, outbound{}.NewStreamDecoder, append(in, "\n\n"...))
	})
}

func TestFinishReasons(t *testing.T) {
	for word, want := range map[string]canon.FinishReason{
		"end_turn": canon.FinishStop, "stop_sequence": canon.FinishStop, "pause_turn": canon.FinishStop,
		"max_tokens": canon.FinishLength, "model_context_window_exceeded": canon.FinishLength,
		"tool_use": canon.FinishToolCalls, "refusal": canon.FinishContentFilter, "": canon.FinishStop, "new_reason": canon.FinishStop,
	} {
		if got := finishReason(word, false); got != want {
			t.Errorf("%q becomes %s, want %s", word, got, want)
		}
	}
	if got := finishReason("", true); got != canon.FinishToolCalls {
		t.Errorf("no reason behind a call becomes %s", got)
	}
}

func TestParseError(t *testing.T) {
	tests := []struct {
		status     int
		retryAfter string
		body       string
		kind       canon.ErrorKind
		wantStatus int
		message    string
	}{
		{400, "", `{"type":"error","error":{"type":"invalid_request_error","message":"max_tokens: too large"}}`, canon.ErrInvalidRequest, 400, "max_tokens: too large"},
		{401, "", `{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}`, canon.ErrAuthentication, 401, "invalid x-api-key"},
		{404, "", `{"type":"error","error":{"type":"not_found_error","message":"model: claude-x"}}`, canon.ErrModelNotFound, 404, "model: claude-x"},
		{404, "", `{"type":"error","error":{"type":"not_found_error","message":"Not Found"}}`, canon.ErrNotFound, 404, "Not Found"},
		{413, "", `{"type":"error","error":{"type":"request_too_large","message":"big"}}`, canon.ErrTooLarge, 413, "big"},
		{422, "", `{"type":"error","error":{"type":"invalid_request_error","message":"odd"}}`, canon.ErrInvalidRequest, 422, "odd"},
		{429, "7", `{"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}`, canon.ErrRateLimit, 429, "slow down"},
		{529, "", `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`, canon.ErrOverloaded, 503, "Overloaded"},
		{500, "", `{"type":"error","error":{"type":"api_error","message":"Internal"}}`, canon.ErrInternal, 500, "Internal"},
		{500, "", `{"type":"error","error":{"type":"new_error","message":"?"}}`, canon.ErrInternal, 500, "?"},
		{402, "", `{"type":"error","error":{"type":"billing_error"}}`, canon.ErrBilling, 402, "billing_error without a message"},
		{502, "", `<html>Bad Gateway</html>`, canon.ErrBadGateway, 502, "status 502 and a body that is no Anthropic error"},
		{520, "", ``, canon.ErrBadGateway, 502, "status 520"},
		{302, "", ``, canon.ErrBadGateway, 502, "status 302"},
		{408, "", ``, canon.ErrTimeout, 504, "status 408"},
		{418, "", `{"error":"teapot"}`, canon.ErrInvalidRequest, 418, "status 418"},
	}
	for _, tt := range tests {
		e := outbound{}.ParseError(tt.status, tt.retryAfter, []byte(tt.body))
		if e.Kind != tt.kind || e.HTTPStatus() != tt.wantStatus || !strings.Contains(e.Message, tt.message) {
			t.Errorf("%d %s: got %s %d %q", tt.status, tt.body, e.Kind, e.HTTPStatus(), e.Message)
		}
		if want := canon.ParseRetryAfter(tt.retryAfter); e.RetryAfter != want || tt.retryAfter == "7" && want != 7*time.Second {
			t.Errorf("%d: retry after %s, want %s", tt.status, e.RetryAfter, want)
		}
	}
}

func TestAppendError(t *testing.T) {
	kinds := map[canon.ErrorKind]string{
		canon.ErrInvalidRequest: "invalid_request_error", canon.ErrAuthentication: "authentication_error",
		canon.ErrBilling: "billing_error", canon.ErrPermission: "permission_error", canon.ErrNotFound: "not_found_error",
		canon.ErrModelNotFound: "not_found_error", canon.ErrMethod: "invalid_request_error", canon.ErrConflict: "conflict_error",
		canon.ErrTooLarge: "request_too_large", canon.ErrUpgrade: "invalid_request_error", canon.ErrRateLimit: "rate_limit_error",
		canon.ErrInternal: "api_error", canon.ErrBadGateway: "api_error", canon.ErrOverloaded: "overloaded_error",
		canon.ErrTimeout: "timeout_error",
	}
	for kind, word := range kinds {
		got := string(inbound{}.AppendError(nil, &canon.Error{Kind: kind, Message: "a \"b\"\n"}, "req_1"))
		want := `{"type":"error","error":{"type":"` + word + `","message":"a \"b\"\n"},"request_id":"req_1"}`
		if got != want {
			t.Errorf("%s:\n got %s\nwant %s", kind, got, want)
		}
	}
	if got := string(inbound{}.AppendError(nil, &canon.Error{}, "")); !strings.HasSuffix(got, `"request_id":null}`) {
		t.Errorf("without a request id: %s", got)
	}
}

func TestAppendModels(t *testing.T) {
	models := []canon.Model{{ID: "a", Created: 1700000000}, {ID: "b\"c"}}
	got := string(inbound{}.AppendModels(nil, models))
	want := `{"data":[{"type":"model","id":"a","display_name":"a","created_at":"2023-11-14T22:13:20Z"},` +
		`{"type":"model","id":"b\"c","display_name":"b\"c","created_at":"1970-01-01T00:00:00Z"}],` +
		`"has_more":false,"first_id":"a","last_id":"b\"c"}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := string(inbound{}.AppendModels(nil, nil)); got != `{"data":[],"has_more":false,"first_id":null,"last_id":null}` {
		t.Errorf("empty list: %s", got)
	}
}
