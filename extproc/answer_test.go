package extproc

import (
	"encoding/json"
	"strings"
	"testing"

	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
)

// What providers answer, as the wire formats have it.
const (
	anthropicWhole = `{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-4-5","content":[{"type":"text","text":"Héllo 世界"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":5,"output_tokens":7}}`

	anthropicStream = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-sonnet-4-5\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":5,\"output_tokens\":1}}}\n\n" +
		"event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n" +
		"event: ping\ndata: {\"type\":\"ping\"}\n\n" +
		"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Héllo \"}}\n\n" +
		"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"世界\"}}\n\n" +
		"event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n" +
		"event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":7}}\n\n" +
		"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"

	dashscopeWhole = `{"request_id":"r-1","output":{"choices":[{"finish_reason":"stop","message":{"role":"assistant","content":"Héllo 世界"}}]},"usage":{"input_tokens":5,"output_tokens":7,"total_tokens":12}}`

	dashscopeStream = "id:1\nevent:result\n:HTTP_STATUS/200\ndata:{\"output\":{\"choices\":[{\"message\":{\"content\":\"Héllo \",\"role\":\"assistant\"},\"finish_reason\":\"null\"}]},\"usage\":{\"input_tokens\":5,\"output_tokens\":2,\"total_tokens\":7},\"request_id\":\"r-1\"}\n\n" +
		"id:2\nevent:result\n:HTTP_STATUS/200\ndata:{\"output\":{\"choices\":[{\"message\":{\"content\":\"世界\",\"role\":\"assistant\"},\"finish_reason\":\"stop\"}]},\"usage\":{\"input_tokens\":5,\"output_tokens\":7,\"total_tokens\":12},\"request_id\":\"r-1\"}\n\n"

	dashscopeFailure = `{"code":"Throttling.RateQuota","message":"Requests rate limit exceeded, please try again later.","request_id":"r-1"}`
)

// translatedBy opens a request whose attempt has gone to a backend that speaks another dialect.
func translatedBy(t testing.TB, backend string, stream bool) (*rig, *door) {
	t.Helper()
	r := newRig(t, allTable(t))
	body := chatBody
	if stream {
		body = strings.Replace(body, `"model"`, `"stream":true,"stream_options":{"include_usage":true},"model"`, 1)
	}
	d := decided(t, r, chatHeaders(), stream, body)
	if resp := r.attempt(d.first, "chain/all", backend, chatHeaders()); resp.GetRequestHeaders() == nil {
		t.Fatalf("the attempt is refused: %s", resp.GetImmediateResponse().GetBody())
	}
	return r, d
}

// answerHeaders reads the answer's headers as the caller gets them.
func answerHeaders(resp *extprocv3.ProcessingResponse, pairs ...string) headerMap {
	return headersOf(pairs...).apply(resp.GetResponseHeaders().GetResponse().GetHeaderMutation())
}

// textOf joins what an OpenAI answer, whole or streamed, says; and how it ends.
func textOf(t testing.TB, answer string) (text, finish string, outputTokens int, done bool) {
	t.Helper()
	read := func(raw string) {
		var m struct {
			Choices []struct {
				Message, Delta struct{ Content string }
				FinishReason   string `json:"finish_reason"`
			}
			Usage *struct {
				CompletionTokens int `json:"completion_tokens"`
			}
		}
		if err := json.Unmarshal([]byte(raw), &m); err != nil {
			t.Fatalf("no JSON: %v in %q", err, raw)
		}
		for _, c := range m.Choices {
			text += c.Message.Content + c.Delta.Content
			finish += c.FinishReason
		}
		if m.Usage != nil {
			outputTokens = m.Usage.CompletionTokens
		}
	}
	if strings.HasPrefix(answer, "{") {
		read(answer)
		return text, finish, outputTokens, true
	}
	for _, event := range strings.Split(answer, "\n\n") {
		switch data, isData := strings.CutPrefix(event, "data: "); {
		case data == "[DONE]":
			done = true
		case isData:
			read(data)
		case event != "" && event[0] != ':':
			t.Fatalf("no event of OpenAI: %q", event)
		}
	}
	return text, finish, outputTokens, done
}

func TestWholeAnswers(t *testing.T) {
	for backend, body := range map[string]string{"default/anthropic": anthropicWhole, "default/dashscope": dashscopeWhole} {
		t.Run(backend, func(t *testing.T) {
			r, d := translatedBy(t, backend, false)
			sent := []string{":status", "200", "content-type", "application/json", "content-length", "999", "content-encoding", "x",
				"set-cookie", "a=b", "anthropic-ratelimit-requests-limit", "5", "date", "today", "request-id", "req_1"}
			resp := d.answered(backend, false, sent...)
			if resp.GetModeOverride().GetResponseBodyMode() != filterv3.ProcessingMode_BUFFERED {
				t.Errorf("a whole answer is not held until it is whole: %v", resp)
			}
			h := answerHeaders(resp, sent...)
			for _, gone := range []string{"content-length", "content-encoding", "set-cookie", "anthropic-ratelimit-requests-limit", "request-id"} {
				if h.get(gone) != "" {
					t.Errorf("the provider's %s reaches the caller", gone)
				}
			}
			if h.get("date") != "today" || !strings.Contains(h.get("x-weir-dropped"), "logit_bias") {
				t.Errorf("headers %v", h)
			}
			common := d.answerBody([]byte(body), true)
			h = h.apply(common.GetHeaderMutation())
			out := string(common.GetBodyMutation().GetBody())
			text, finish, tokens, _ := textOf(t, out)
			if text != "Héllo 世界" || finish != "stop" || tokens != 7 {
				t.Errorf("got %q, %q, %d: %s", text, finish, tokens, out)
			}
			if h.get(":status") != "200" || h.get("content-type") != "application/json" || h.get("content-length") != itoa(len(out)) {
				t.Errorf("headers %v for %d bytes", h, len(out))
			}
			if !strings.Contains(out, `"model":"gpt-all"`) {
				t.Errorf("the answer names another model than was asked for: %s", out)
			}
			if n, _ := r.server.InFlight(); n != 0 {
				t.Error("the prompt is kept after the answer")
			}
			d.end()
		})
	}
}

// streamed feeds a stream in pieces and joins what comes out.
func streamed(t testing.TB, backend string, pieces ...string) string {
	t.Helper()
	_, d := translatedBy(t, backend, true)
	resp := d.answered(backend, false, ":status", "200", "content-type", "text/event-stream;charset=UTF-8", "content-length", "5")
	if resp.GetModeOverride() != nil {
		t.Errorf("a stream is held: %v", resp.GetModeOverride())
	}
	h := answerHeaders(resp, ":status", "200", "content-length", "5")
	if !strings.HasPrefix(h.get("content-type"), "text/event-stream") || h.get("content-length") != "" {
		t.Errorf("headers %v", h)
	}
	var out strings.Builder
	for i, p := range pieces {
		common := d.answerBody([]byte(p), i == len(pieces)-1)
		if common.GetBodyMutation() == nil {
			t.Fatal("a piece of the provider's dialect passes as it is")
		}
		out.Write(common.GetBodyMutation().GetBody())
	}
	return out.String()
}

func TestStreamsCutAtEveryByte(t *testing.T) {
	for backend, body := range map[string]string{"default/anthropic": anthropicStream, "default/dashscope": dashscopeStream} {
		t.Run(backend, func(t *testing.T) {
			whole := streamed(t, backend, body)
			if text, finish, tokens, done := textOf(t, whole); text != "Héllo 世界" || finish != "stop" || tokens != 7 || !done {
				t.Fatalf("got %q, %q, %d, done %v: %s", text, finish, tokens, done, whole)
			}
			single := strings.SplitAfter(body, "")
			if got := streamed(t, backend, append(single, "")...); clean(got) != clean(whole) {
				t.Errorf("rune by rune, with an empty end:\n%s\nwant\n%s", got, whole)
			}
			// On one gRPC stream for each cut this would take long: the translation itself is cut here.
			for cut := range len(body) {
				a := answerOn(t, backend, true)
				got := string(a.onBody(piece(body[:cut], false)).GetResponseBody().GetResponse().GetBodyMutation().GetBody())
				got += string(a.onBody(piece(body[cut:], true)).GetResponseBody().GetResponse().GetBodyMutation().GetBody())
				if clean(got) != clean(whole) {
					t.Fatalf("cut at %d:\n%s\nwant\n%s", cut, got, whole)
				}
			}
		})
	}
}

// TestStreamsArePassedOnAtOnce: what has come is said before the rest comes.
func TestStreamsArePassedOnAtOnce(t *testing.T) {
	a := answerOn(t, "default/anthropic", true)
	i := strings.Index(anthropicStream, "event: content_block_stop")
	out := a.onBody(piece(anthropicStream[:i], false)).GetResponseBody().GetResponse().GetBodyMutation().GetBody()
	if text, _, _, done := textOf(t, string(out)); text != "Héllo 世界" || done {
		t.Errorf("so far %q, done %v", text, done)
	}
}

// TestTruncatedStreams: an answer that stops short must not look like one that is complete.
func TestTruncatedStreams(t *testing.T) {
	for backend, body := range map[string]string{"default/anthropic": anthropicStream, "default/dashscope": dashscopeStream} {
		cut := strings.Index(body, "世界")
		out := streamed(t, backend, body[:cut], "")
		if strings.Contains(out, "[DONE]") || strings.Contains(out, `"finish_reason":"stop"`) || !strings.Contains(out, `"error"`) {
			t.Errorf("%s: a truncated stream ends like a complete one: %s", backend, out)
		}
		if !strings.Contains(out, "Héllo ") {
			t.Errorf("%s: what had come is lost: %s", backend, out)
		}
	}
	out := streamed(t, "default/anthropic", "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n")
	if !strings.Contains(out, "Overloaded") || strings.Contains(out, "[DONE]") {
		t.Errorf("an error in the stream: %s", out)
	}
}

// TestAnswersThatAreNoSuccess all reach the caller as errors of its own dialect.
func TestAnswersThatAreNoSuccess(t *testing.T) {
	for _, c := range []struct {
		name, backend, status, contentType, body string
		stream                                   bool
		want                                     string // the caller's status
		says                                     string
	}{
		{"Anthropic 400", "anthropic", "400", "application/json", `{"type":"error","error":{"type":"invalid_request_error","message":"max_tokens: too large"}}`, false, "400", "max_tokens: too large"},
		{"Anthropic 529", "anthropic", "529", "application/json", `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`, false, "503", "Overloaded"},
		{"Anthropic 500 while a stream was asked for", "anthropic", "500", "application/json", `{"type":"error","error":{"type":"api_error","message":"Oops"}}`, true, "", "Oops"},
		{"HTML from a proxy", "anthropic", "502", "text/html", `<html>Bad gateway</html>`, false, "502", ""},
		{"nothing", "anthropic", "503", "text/plain", ``, true, "503", ""},
		{"DashScope 429", "dashscope", "429", "application/json", dashscopeFailure, false, "429", "rate limit"},
		{"DashScope failure under 200", "dashscope", "200", "application/json", dashscopeFailure, false, "429", "rate limit"},
		{"DashScope failure under 200 while a stream was asked for", "dashscope", "200", "application/json", dashscopeFailure, true, "429", "rate limit"},
		{"no JSON under 200", "anthropic", "200", "application/json", `not json`, false, "502", ""},
		{"nothing under 200", "dashscope", "200", "application/json", ``, false, "502", ""},
		{"a stream that was not asked for", "anthropic", "200", "text/event-stream", anthropicStream, false, "502", "not asked for"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, d := translatedBy(t, "default/"+c.backend, c.stream)
			sent := []string{":status", c.status, "content-type", c.contentType, "retry-after", "7"}
			h := answerHeaders(d.answered("default/"+c.backend, false, sent...), sent...)
			common := d.answerBody([]byte(c.body), true)
			h = h.apply(common.GetHeaderMutation())
			body := common.GetBodyMutation().GetBody()
			if got := h.get(":status"); c.want != "" && got != c.want || !strings.HasPrefix(got, "4") && !strings.HasPrefix(got, "5") {
				t.Errorf("status %s, want %s", got, c.want)
			}
			var e struct{ Error struct{ Message string } }
			if err := json.Unmarshal(body, &e); err != nil || e.Error.Message == "" || !strings.Contains(e.Error.Message, c.says) {
				t.Errorf("no error of OpenAI that says %q: %s", c.says, body)
			}
			if h.get("content-type") != "application/json" || h.get("content-length") != itoa(len(body)) {
				t.Errorf("headers %v", h)
			}
			if h.get("retry-after") != "7" {
				t.Error("the provider's retry-after is lost")
			}
		})
	}
}

// TestAnswersWithoutABody: nothing follows the headers, so the caller's body is made with them.
func TestAnswersWithoutABody(t *testing.T) {
	for status, want := range map[string]string{"503": "503", "404": "404", "200": "502"} {
		_, d := translatedBy(t, "default/anthropic", false)
		resp := d.answered("default/anthropic", true, ":status", status)
		common := resp.GetResponseHeaders().GetResponse()
		body := common.GetBodyMutation().GetBody()
		h := answerHeaders(resp, ":status", status)
		if common.GetStatus() != extprocv3.CommonResponse_CONTINUE_AND_REPLACE || !json.Valid(body) || h.get(":status") != want || h.get("content-length") != itoa(len(body)) {
			t.Errorf("%s: %v", status, resp)
		}
	}
}

// TestStreamAskedWholeGiven: the caller reads events, whatever the provider has sent.
func TestStreamAskedWholeGiven(t *testing.T) {
	for backend, body := range map[string]string{"default/anthropic": anthropicWhole, "default/dashscope": dashscopeWhole} {
		_, d := translatedBy(t, backend, true)
		h := answerHeaders(d.answered(backend, false, ":status", "200", "content-type", "application/json"))
		common := d.answerBody([]byte(body), true)
		h = h.apply(common.GetHeaderMutation())
		if text, finish, tokens, done := textOf(t, string(common.GetBodyMutation().GetBody())); text != "Héllo 世界" || finish != "stop" || tokens != 7 || !done {
			t.Errorf("%s: got %q, %q, %d, done %v", backend, text, finish, tokens, done)
		}
		if !strings.HasPrefix(h.get("content-type"), "text/event-stream") {
			t.Errorf("%s: content-type %s", backend, h.get("content-type"))
		}
	}
}

// TestAnswersThatNeedNoTranslation pass as they are, byte for byte.
func TestAnswersThatNeedNoTranslation(t *testing.T) {
	for name, c := range map[string]struct{ prepared, answers string }{
		"the caller's dialect": {"default/vllm", "default/vllm"}, "Envoy's own": {"default/anthropic", ""}, "nobody was asked": {"", ""},
		"after one that was to be translated": {"default/anthropic", "default/vllm"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, allTable(t))
			d := decided(t, r, chatHeaders(), false, chatBody)
			if c.prepared != "" {
				r.attempt(d.first, "chain/all", c.prepared, chatHeaders())
			}
			resp := d.answered(c.answers, false, ":status", "200", "content-type", "application/json", "openai-version", "1")
			common := resp.GetResponseHeaders().GetResponse()
			if common == nil || common.GetHeaderMutation() != nil || common.GetBodyMutation() != nil {
				t.Errorf("it is changed: %v", resp)
			}
			if resp.GetModeOverride() == nil || resp.GetModeOverride().GetResponseBodyMode() != filterv3.ProcessingMode_NONE {
				t.Errorf("its body is asked for: %v", resp.GetModeOverride())
			}
		})
	}
}
