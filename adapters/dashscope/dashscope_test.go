package dashscope

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/internal/adaptertest"
	"github.com/weir-dev/weir/adapters/sse"
)

// decode feeds the stream in the given pieces and prints the events.
func decode(t testing.TB, pieces ...[]byte) string {
	t.Helper()
	return adaptertest.Decode(t, outbound{}.NewStreamDecoder(), adaptertest.Line, pieces...)
}

func ptr[T any](v T) *T { return &v }

func ask(text string) []canon.Message {
	return []canon.Message{{Role: canon.RoleUser, Parts: []canon.Part{{Text: text}}}}
}

// The input is the model on a line of its own, then a canon.Request as JSON.
func TestBuildCallGolden(t *testing.T) {
	adaptertest.Folder(t, "call", func(t *testing.T, in []byte) string {
		model, body, _ := strings.Cut(string(in), "\n")
		req := &canon.Request{}
		if err := json.Unmarshal([]byte(body), req); err != nil {
			t.Fatal(err)
		}
		before, _ := json.Marshal(req)
		call, err := outbound{}.BuildCall(req, canon.CallOptions{Model: model})
		if after, _ := json.Marshal(req); string(after) != string(before) {
			t.Error("BuildCall changed the request")
		}
		if err != nil {
			return fmt.Sprintf("error %s param=%s\n%s", err.Kind, err.Param, err.Message)
		}
		return fmt.Sprintf("POST %s\nheaders %v\ndropped %v\n%s", call.Path, call.Headers, call.Dropped, adaptertest.Indent(t, call.Body))
	})
}

func TestStreamDecoderGolden(t *testing.T) {
	adaptertest.Folder(t, "decode", func(t *testing.T, in []byte) string {
		stream := append(in, "\n\n"...)
		whole := decode(t, stream)
		for cut := range stream {
			if got := decode(t, stream[:cut], stream[cut:]); got != whole {
				t.Fatalf("cut at %d gives\n%s\nuncut\n%s", cut, got, whole)
			}
		}
		adaptertest.CheckOrder(t, whole)
		return whole + adaptertest.Ending(t, outbound{}.NewStreamDecoder, stream)
	})
}

func TestParseResponseGolden(t *testing.T) {
	adaptertest.Folder(t, "response", func(t *testing.T, in []byte) string {
		r, err := outbound{}.ParseResponse(in)
		if err != nil {
			return fmt.Sprintf("error %s code=%s\n%s", err.Kind, err.Code, err.Message)
		}
		text, _ := json.MarshalIndent(r, "", "  ")
		return string(text)
	})
}

// parameters builds a call and gives the named parameters as JSON text, "" where absent.
func parameters(t *testing.T, r *canon.Request, o canon.CallOptions, names ...string) (values, dropped []string) {
	t.Helper()
	call, err := outbound{}.BuildCall(r, o)
	if err != nil {
		t.Fatal(err)
	}
	var body struct{ Parameters map[string]json.RawMessage }
	if err := json.Unmarshal(call.Body, &body); err != nil {
		t.Fatalf("%v\n%s", err, call.Body)
	}
	for _, name := range names {
		values = append(values, string(body.Parameters[name]))
	}
	return values, call.Dropped
}

func TestSampling(t *testing.T) {
	tests := []struct {
		req     canon.Request
		want    []string // temperature, top_p, top_k, presence_penalty, seed, max_tokens, frequency_penalty
		dropped []string
	}{
		{canon.Request{}, []string{"", "", "", "", "", "77", ""}, nil},
		{canon.Request{Temperature: ptr(2.0), TopP: ptr(0.0), TopK: ptr(int64(3)), Seed: ptr(int64(5)), MaxTokens: ptr(int64(9))},
			[]string{"1.99", "1e-06", "3", "", "5", "9", ""}, nil},
		{canon.Request{Temperature: ptr(-1.0), TopP: ptr(3.0), PresencePenalty: ptr(-0.5), FrequencyPenalty: ptr(1.0), Seed: ptr(int64(1) << 40)},
			[]string{"0", "1", "", "-0.5", "", "77", ""}, []string{"frequency_penalty", "seed"}},
		{canon.Request{Temperature: ptr(0.7), TopP: ptr(0.8), FrequencyPenalty: ptr(0.0), Seed: ptr(int64(-1)), User: "u", Extra: []string{"n"}},
			[]string{"0.7", "0.8", "", "", "", "77", ""}, []string{"n", "seed", "user"}},
	}
	for i, tt := range tests {
		tt.req.Messages = ask("hi")
		got, dropped := parameters(t, &tt.req, canon.CallOptions{Model: "qwen-plus", DefaultMaxTokens: 77},
			"temperature", "top_p", "top_k", "presence_penalty", "seed", "max_tokens", "frequency_penalty")
		if !slices.Equal(got, tt.want) || !slices.Equal(dropped, tt.dropped) {
			t.Errorf("%d: got %q dropped %v, want %q dropped %v", i, got, dropped, tt.want, tt.dropped)
		}
	}
}

func TestThinkingAndTools(t *testing.T) {
	one, two := []canon.Tool{{Name: "f"}}, []canon.Tool{{Name: "f"}, {Name: "g"}}
	required := &canon.ToolChoice{Mode: canon.ChoiceRequired}
	tests := []struct {
		label   string
		model   string
		req     canon.Request
		want    []string // enable_thinking, thinking_budget, tool_choice, parallel_tool_calls
		dropped []string
	}{
		{"silence", "qwen-plus", canon.Request{}, []string{"", "", "", ""}, nil},
		{"effort", "qwen-plus", canon.Request{Reasoning: &canon.Reasoning{Effort: "low"}}, []string{"true", "2048", "", ""}, nil},
		{"high effort is unbounded", "qwen-plus", canon.Request{Reasoning: &canon.Reasoning{Effort: "xhigh"}}, []string{"true", "", "", ""}, nil},
		{"budget", "qwen-plus", canon.Request{Reasoning: &canon.Reasoning{Effort: "low", BudgetTokens: ptr(int64(99))}}, []string{"true", "99", "", ""}, nil},
		{"disabled", "qwen-plus", canon.Request{Reasoning: &canon.Reasoning{Disabled: true}}, []string{"false", "", "", ""}, nil},
		{"open hybrid without a stream", "qwen3-8b", canon.Request{}, []string{"false", "", "", ""}, nil},
		{"open hybrid with a stream", "qwen3-8b", canon.Request{Stream: true}, []string{"", "", "", ""}, nil},
		{"open instruct", "qwen3-30b-a3b-instruct-2507", canon.Request{}, []string{"", "", "", ""}, nil},
		{"tools are parallel", "qwen-plus", canon.Request{Tools: one}, []string{"", "", "", "true"}, nil},
		{"tools one by one", "qwen-plus", canon.Request{Tools: one, ParallelToolCalls: ptr(false)}, []string{"", "", "", "false"}, nil},
		{"required, one tool", "qwen-plus", canon.Request{Tools: one, ToolChoice: required}, []string{"", "", `{"type":"function","function":{"name":"f"}}`, "true"}, nil},
		{"required, two tools", "qwen-plus", canon.Request{Tools: two, ToolChoice: required}, []string{"", "", `"required"`, "true"}, nil},
		{"named", "qwen-plus", canon.Request{Tools: two, ToolChoice: &canon.ToolChoice{Mode: canon.ChoiceTool, Name: "g"}}, []string{"", "", `{"type":"function","function":{"name":"g"}}`, "true"}, nil},
		{"none", "qwen-plus", canon.Request{Tools: two, ToolChoice: &canon.ToolChoice{Mode: canon.ChoiceNone}}, []string{"", "", `"none"`, "true"}, nil},
		{"auto", "qwen-plus", canon.Request{Tools: two, ToolChoice: &canon.ToolChoice{Mode: canon.ChoiceAuto}}, []string{"", "", `"auto"`, "true"}, nil},
		{"choice without tools", "qwen-plus", canon.Request{ToolChoice: &canon.ToolChoice{Mode: canon.ChoiceAuto}}, []string{"", "", "", ""}, nil},
		{"forced call stops thinking", "qwen-plus", canon.Request{Tools: one, ToolChoice: required, Reasoning: &canon.Reasoning{Effort: "low"}},
			[]string{"false", "", `{"type":"function","function":{"name":"f"}}`, "true"}, []string{"reasoning"}},
		{"forced call where thinking is the default", "qwen3.5-plus", canon.Request{Tools: one, ToolChoice: required},
			[]string{"false", "", `{"type":"function","function":{"name":"f"}}`, "true"}, nil},
		{"JSON stops thinking", "qwen-plus", canon.Request{Format: &canon.Format{Kind: canon.FormatJSON}, Reasoning: &canon.Reasoning{}},
			[]string{"false", "", "", ""}, []string{"reasoning"}},
		{"strict", "qwen-plus", canon.Request{Tools: []canon.Tool{{Name: "f", Strict: ptr(true)}}}, []string{"", "", "", "true"}, []string{"tools.strict"}},
	}
	for _, tt := range tests {
		t.Run(tt.label, func(t *testing.T) {
			tt.req.Messages = ask("hi")
			got, dropped := parameters(t, &tt.req, canon.CallOptions{Model: tt.model}, "enable_thinking", "thinking_budget", "tool_choice", "parallel_tool_calls")
			if !slices.Equal(got, tt.want) || !slices.Equal(dropped, tt.dropped) {
				t.Errorf("got %q dropped %v, want %q dropped %v", got, dropped, tt.want, tt.dropped)
			}
		})
	}
}

func TestFormat(t *testing.T) {
	tests := []struct {
		format *canon.Format
		want   string
	}{
		{nil, ""},
		{&canon.Format{Kind: canon.FormatText}, ""},
		{&canon.Format{Kind: canon.FormatJSON}, `{"type":"json_object"}`},
		{&canon.Format{Kind: canon.FormatSchema, Schema: json.RawMessage(`{"type":"object"}`)},
			`{"type":"json_schema","json_schema":{"name":"answer","schema":{"type":"object"}}}`},
		{&canon.Format{Kind: canon.FormatSchema, Name: "n", Strict: ptr(true), Schema: json.RawMessage(`{}`)},
			`{"type":"json_schema","json_schema":{"name":"n","schema":{},"strict":true}}`},
	}
	for i, tt := range tests {
		got, _ := parameters(t, &canon.Request{Messages: ask("x"), Format: tt.format}, canon.CallOptions{Model: "m"}, "response_format")
		if got[0] != tt.want {
			t.Errorf("%d: got %s, want %s", i, got[0], tt.want)
		}
	}
}

func TestService(t *testing.T) {
	text := []string{"qwen-plus", "qwen-max", "qwen3-max", "qwen3-8b", "qwen3.7-max", "qwen3-coder-plus", "deepseek-v3", "", "sim-qwen"}
	multimodal := []string{"qwen-vl-max", "qwen3-vl-plus", "qvq-max", "qwen-omni-turbo", "qwen3.5-plus", "qwen3.5-flash", "qwen3.7-plus", "qwen3.8-max", "Qwen2.5-VL-72B", "qwen-vl-ocr-latest"}
	for _, m := range text {
		if traitsOf(m).multimodal {
			t.Errorf("%s belongs to the text service", m)
		}
	}
	for _, m := range multimodal {
		if !traitsOf(m).multimodal {
			t.Errorf("%s belongs to the multimodal service", m)
		}
	}
}

func TestBuildCallRefuses(t *testing.T) {
	image := func(role canon.Role, img *canon.Image) canon.Message {
		return canon.Message{Role: role, Parts: []canon.Part{{Kind: canon.PartImage, Image: img}}}
	}
	tests := []struct {
		req  canon.Request
		want string
	}{
		{canon.Request{}, "at least one message"},
		{canon.Request{Messages: []canon.Message{{Role: canon.RoleSystem}}}, "at least one message"},
		{canon.Request{Messages: []canon.Message{{Role: canon.RoleAssistant, Parts: []canon.Part{{Text: ""}}}}}, "at least one message"},
		{canon.Request{Messages: []canon.Message{image(canon.RoleSystem, &canon.Image{URL: "https://x/y"})}}, "text only"},
		{canon.Request{Messages: []canon.Message{image(canon.RoleAssistant, &canon.Image{URL: "https://x/y"})}}, "no image"},
		{canon.Request{Messages: []canon.Message{image(canon.RoleUser, nil)}}, "image without content"},
		{canon.Request{Messages: ask("x"), Tools: []canon.Tool{{Name: "f", Parameters: json.RawMessage(`"x"`)}}}, "must be a JSON Schema object"},
		{canon.Request{Messages: ask("x"), Format: &canon.Format{Kind: canon.FormatSchema, Schema: json.RawMessage(`[]`)}}, "must be an object"},
	}
	for i, tt := range tests {
		call, err := outbound{}.BuildCall(&tt.req, canon.CallOptions{Model: "m"})
		if err == nil {
			t.Errorf("%d: accepted: %s", i, call.Body)
		} else if err.Kind != canon.ErrInvalidRequest || !strings.Contains(err.Message, tt.want) {
			t.Errorf("%d: got %s %q, want %q", i, err.Kind, err.Message, tt.want)
		}
	}
}

func TestParseError(t *testing.T) {
	tests := []struct {
		status     int
		body       string
		kind       canon.ErrorKind
		wantStatus int
		message    string
	}{
		{401, `{"code":"InvalidApiKey","message":"Invalid API-key provided.","request_id":"r"}`, canon.ErrAuthentication, 401, "Invalid API-key provided."},
		{400, `{"code":"InvalidParameter","message":"bad","request_id":"r"}`, canon.ErrInvalidRequest, 400, "bad"},
		{400, `{"code":"InvalidParameter","message":"url error, please check url!","request_id":"r"}`, canon.ErrInvalidRequest, 400, "other generation service"},
		{400, `{"code":"InternalError.Algo.InvalidParameter","message":"range"}`, canon.ErrInvalidRequest, 400, "range"},
		{400, `{"code":"DataInspectionFailed","message":"inappropriate"}`, canon.ErrInvalidRequest, 400, "inappropriate"},
		{400, `{"code":"Arrearage","message":"pay"}`, canon.ErrBilling, 402, "pay"},
		{403, `{"code":"AllocationQuota.FreeTierOnly","message":"pay"}`, canon.ErrBilling, 402, "pay"},
		{403, `{"code":"AccessDenied.Unpurchased","message":"no"}`, canon.ErrPermission, 403, "no"},
		{403, `{"code":"Model.AccessDenied","message":"no"}`, canon.ErrPermission, 403, "no"},
		{404, `{"code":"ModelNotFound","message":"Model not exist."}`, canon.ErrModelNotFound, 404, "Model not exist."},
		{400, `{"code":"Model.NotExist","message":"x"}`, canon.ErrModelNotFound, 404, "x"},
		{404, `{"code":"WorkSpaceNotFound","message":"x"}`, canon.ErrNotFound, 404, "x"},
		{429, `{"code":"Throttling","message":"slow"}`, canon.ErrRateLimit, 429, "slow"},
		{429, `{"code":"Throttling.RateQuota","message":"slow"}`, canon.ErrRateLimit, 429, "slow"},
		{429, `{"code":"Throttling.AllocationQuota","message":"slow"}`, canon.ErrRateLimit, 429, "slow"},
		{408, `{"code":"RequestTimeOut","message":"late"}`, canon.ErrTimeout, 504, "late"},
		{504, `{"code":"GatewayTimeout","message":"late"}`, canon.ErrTimeout, 504, "late"},
		{500, `{"code":"InternalError.Timeout","message":"late"}`, canon.ErrTimeout, 504, "late"},
		{500, `{"code":"InternalError","message":"oops"}`, canon.ErrInternal, 500, "oops"},
		{503, `{"code":"ServiceUnavailable","message":"busy"}`, canon.ErrOverloaded, 503, "busy"},
		{503, `{"code":"ModelUnavailable","message":"busy"}`, canon.ErrOverloaded, 503, "busy"},
		{422, `{"code":"NeverHeardOf","message":"odd"}`, canon.ErrInvalidRequest, 422, "odd"},
		{401, `{"error":{"code":"invalid_api_key","message":"bad key","type":"x"},"request_id":"r"}`, canon.ErrAuthentication, 401, "bad key"},
		{429, `{"code":"Throttling"}`, canon.ErrRateLimit, 429, "Throttling without a message"},
		{502, `<html>Bad Gateway</html>`, canon.ErrBadGateway, 502, "no DashScope error"},
		{503, ``, canon.ErrOverloaded, 503, "status 503"},
		{301, ``, canon.ErrBadGateway, 502, "status 301"},
	}
	for _, tt := range tests {
		e := outbound{}.ParseError(tt.status, "3", []byte(tt.body))
		if e.Kind != tt.kind || e.HTTPStatus() != tt.wantStatus || !strings.Contains(e.Message, tt.message) || e.RetryAfter != 3*time.Second {
			t.Errorf("%d %s: got %s %d %q %s", tt.status, tt.body, e.Kind, e.HTTPStatus(), e.Message, e.RetryAfter)
		}
	}
}

func TestCodes(t *testing.T) {
	tests := []struct {
		body string
		want canon.ErrorKind // "" for success
	}{
		{`{"code":"","message":"","output":{"text":"x"}}`, ""},
		{`{"code":null,"output":{"text":"x"}}`, ""},
		{`{"code":200,"message":"Success","output":{"text":"x"}}`, ""},
		{`{"code":"Success","output":{"text":"x"}}`, ""},
		{`{"code":500,"message":"x","output":{"text":"x"}}`, canon.ErrInternal},
		{`{"code":"InvalidParameter","output":{"text":"x"}}`, canon.ErrInvalidRequest},
	}
	for _, tt := range tests {
		_, err := outbound{}.ParseResponse([]byte(tt.body))
		got := canon.ErrorKind("")
		if err != nil {
			got = err.Kind
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.body, got, tt.want)
		}
	}
}

func TestCallsWithoutIndex(t *testing.T) {
	frame := func(calls, finish string) []byte {
		return []byte(`data:{"output":{"choices":[{"message":{"content":"","tool_calls":[` + calls + `]},"finish_reason":"` + finish + `"}]}}` + "\n\n")
	}
	got := decode(t,
		frame(`{"id":"a","function":{"name":"f","arguments":"{"}}`, "null"),
		frame(`{"function":{"arguments":"}"}},{"id":"b","function":{"name":"g","arguments":"{\"x\":"}}`, "null"),
		frame(`{"id":"b","function":{"arguments":"1}"}}`, "stop"),
	)
	want := "start \"\" \"\"\ntool 0 \"a\" \"f\"\nargs 0 \"{\"\nargs 0 \"}\"\ntool 1 \"b\" \"g\"\nargs 1 \"{\\\"x\\\":\"\nargs 1 \"1}\"\nfinish \"tool_calls\" \"\"\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestPlainAnswers(t *testing.T) {
	tests := []struct{ body, want string }{
		{`{"code":"Throttling","message":"slow","request_id":"r"}`, `error "rate_limit" "slow"`},
		{"\n {\"output\":{\"text\":\"x\"}}", `error "bad_gateway" "the provider was asked for an event stream`},
		{"{" + strings.Repeat(" ", maxPlain), `error "bad_gateway"`},
		{"", `error "bad_gateway" "the provider's stream ended`},
		{"<html>", `error "bad_gateway" "the provider's stream ended`},
	}
	for _, tt := range tests {
		body := []byte(tt.body)
		for _, got := range []string{decode(t, body), decode(t, body[:len(body)/2], body[len(body)/2:])} {
			if !strings.HasPrefix(got, tt.want) || strings.Count(got, "\n") != 1 {
				t.Errorf("%.60q: got %q, want %q", tt.body, got, tt.want)
			}
		}
	}
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

func FuzzStreamDecoder(f *testing.F) {
	f.Add([]byte("id:1\nevent:result\n:HTTP_STATUS/200\ndata:{\"output\":{\"choices\":[{\"message\":{\"content\":\"hi\",\"tool_calls\":[{\"index\":0,\"function\":{\"name\":\"f\"}}]},\"finish_reason\":\"stop\"}]}}\n\n"), 7, 40)
	f.Add([]byte("event:error\n:HTTP_STATUS/400\ndata:{\"code\":\"x\"}\n\n"), 3, 4)
	f.Add([]byte(" \n{\"code\":\"Throttling\"}"), 1, 2)
	f.Add([]byte("data:{\"output\":{\"text\":\"\\u00e9\",\"finish_reason\":\"null\"},\"usage\":{\"input_tokens\":1}}\r\n\r\n"), 30, 31)
	f.Fuzz(func(t *testing.T, stream []byte, a, b int) {
		whole := decode(t, stream)
		a, b = max(0, min(a, len(stream))), max(0, min(b, len(stream)))
		if a > b {
			a, b = b, a
		}
		if got := decode(t, stream[:a], stream[a:b], stream[b:]); got != whole {
			t.Fatalf("cut at %d and %d gives\n%s\nuncut\n%s", a, b, got, whole)
		}
		adaptertest.CheckOrder(t, whole)
	})
}

func FuzzParseResponse(f *testing.F) {
	f.Add([]byte(`{"output":{"choices":[{"finish_reason":"stop","message":{"content":[{"text":"x"}]}}]},"usage":{"input_tokens":1}}`))
	f.Add([]byte(`{"code":"x","message":"y"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := outbound{}.ParseResponse(body)
		if (r == nil) == (err == nil) {
			t.Fatalf("got %v and %v", r, err)
		}
		if e := (outbound{}).ParseError(500, "", body); e == nil || e.Message == "" {
			t.Fatalf("ParseError gave %v", e)
		}
	})
}

func TestSetModelAndCredential(t *testing.T) {
	got, err := outbound{}.SetModel([]byte(`{"input":{"model":"x"},"model":"y"}`), "z")
	if want := `{"input":{"model":"x"},"model":"z"}`; err != nil || string(got) != want {
		t.Errorf("got %s (%v), want %s", got, err, want)
	}
	if _, err := (outbound{}).SetModel([]byte(`{"model":"a","model":"b"}`), "z"); err == nil || err.Kind != canon.ErrInvalidRequest {
		t.Errorf("a model twice: %v", err)
	}
	d := Dialect()
	if d.Name != "dashscope" || d.In != nil || d.Out == nil {
		t.Errorf("%+v", d)
	}
	if c, _ := canon.CredentialFor(d.Out.Credentials("k"), ""); c.Name != "authorization" || c.Value != "Bearer k" {
		t.Errorf("credential %s: %s", c.Name, c.Value)
	}
}

func BenchmarkStreamDecoder(b *testing.B) {
	frame := []byte("id:1\nevent:result\n:HTTP_STATUS/200\ndata:{\"output\":{\"choices\":[{\"message\":{\"role\":\"assistant\",\"content\":\" hello\"},\"finish_reason\":\"null\"}]},\"usage\":{\"input_tokens\":10,\"output_tokens\":3},\"request_id\":\"r\"}\n\n")
	dec := outbound{}.NewStreamDecoder()
	emit := func(*canon.Event) {}
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		dec.Feed(frame, emit)
	}
}

func BenchmarkBuildCall(b *testing.B) {
	req := &canon.Request{Stream: true, Tools: []canon.Tool{{Name: "f", Description: "d", Parameters: json.RawMessage(`{"type":"object"}`)}}}
	for i := range 60 {
		role := canon.RoleUser
		if i%2 == 1 {
			role = canon.RoleAssistant
		}
		req.Messages = append(req.Messages, canon.Message{Role: role, Parts: []canon.Part{{Text: strings.Repeat("word ", 250)}}})
	}
	b.ReportAllocs()
	for b.Loop() {
		call, err := outbound{}.BuildCall(req, canon.CallOptions{Model: "qwen-plus"})
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(call.Body)))
	}
}
