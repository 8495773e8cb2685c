package openai

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
)

func TestParseResponse(t *testing.T) {
	tests := []struct{ name, body, want string }{
		{"text", `{"id":"chatcmpl-1","created":5,"model":"m-1","choices":[{"index":0,"message":{"role":"assistant","content":"Hi \u00fc","refusal":null},"finish_reason":"stop"}],"usage":{"prompt_tokens":10,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4,"cache_write_tokens":1},"completion_tokens_details":{"reasoning_tokens":1}}}`,
			`chatcmpl-1 m-1 5 stop text="Hi ü" usage={10 4 1 2 1}`},
		{"tools", `{"id":"x","choices":[{"message":{"content":null,"tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}},{"id":"","function":{"name":"g","arguments":""}},{"id":"c","function":{"name":"h","arguments":{"b":2}}}]},"finish_reason":"tool_calls"}]}`,
			`x  0 tool_calls call=a/f/{"a":1} call=call_x_1/g/{} call=c/h/{"b":2} no usage`},
		{"forced tool ends with stop", `{"choices":[{"message":{"tool_calls":[{"id":"a","function":{"name":"f","arguments":"{}"}}]},"finish_reason":"stop"}]}`,
			`  0 tool_calls call=a/f/{} no usage`},
		{"arguments cut by the limit", `{"choices":[{"message":{"tool_calls":[{"id":"a","function":{"name":"f","arguments":"{\"a\":"}}]},"finish_reason":"length"}]}`,
			`  0 length call=a/f/{"_raw":"{\"a\":"} no usage`},
		{"reasoning, both names", `{"choices":[{"message":{"reasoning":"r","reasoning_content":"r","content":"a"},"finish_reason":"length"}],"usage":null}`,
			`  0 length reasoning="r" text="a" no usage`},
		{"reasoning, new name", `{"choices":[{"message":{"reasoning":"r","reasoning_content":null,"content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},"finish_reason":"content_filter"}],"usage":{"prompt_tokens":3,"completion_tokens":-1,"prompt_cache_hit_tokens":2}}`,
			`  0 content_filter reasoning="r" text="ab" usage={3 2 0 0 0}`},
		{"refusal", `{"choices":[{"message":{"content":null,"refusal":"no"},"finish_reason":"stop"}]}`, `  0 stop refusal="no" no usage`},
		{"empty answer", `{"choices":[{"message":{"content":""},"finish_reason":null}]}`, `  0 stop no usage`},
		{"not JSON", `<html>`, `error bad_gateway 502 "the provider's answer is not valid JSON: a JSON value was expected at byte 0"`},
		{"nothing", ``, `error bad_gateway 502 "the provider's answer is not valid JSON: unexpected end of the JSON text at byte 0"`},
		{"no choices", `{"choices":[]}`, `error bad_gateway 502 "the provider's answer has no choices[0].message"`},
		{"an array", `[1]`, `error bad_gateway 502 "the provider's answer has no choices[0].message"`},
		{"nameless call", `{"choices":[{"message":{"tool_calls":[{}]}}]}`, `error bad_gateway 502 "the provider's answer has a tool call without a name"`},
		{"error under 200", `{"error":{"message":"slow down","type":"x","code":429}}`, `error rate_limit 429 "slow down"`},
		{"flat error under 200", `{"object":"error","message":"bad","type":"invalid_request_error"}`, `error invalid_request 400 "bad"`},
		{"string error under 200", `{"error":"broken"}`, `error internal 500 "broken"`},
		{"abort", `{"choices":[{"message":{"content":"x"},"finish_reason":"abort"}]}`, `error bad_gateway 502 "the provider broke off the answer: finish_reason is abort"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := outbound{}.ParseResponse([]byte(tt.body))
			got := ""
			if err != nil {
				got = fmt.Sprintf("error %s %d %q", err.Kind, err.HTTPStatus(), err.Message)
			} else {
				got = showResponse(r)
			}
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func showResponse(r *canon.Response) string {
	var sb strings.Builder
	fmt.Fprintf(&sb, "%s %s %d %s", r.ID, r.Model, r.Created, r.Finish)
	for _, p := range r.Parts {
		switch p.Kind {
		case canon.PartToolCall:
			fmt.Fprintf(&sb, " call=%s/%s/%s", p.Call.ID, p.Call.Name, p.Call.Arguments)
		case canon.PartReasoning:
			fmt.Fprintf(&sb, " reasoning=%q", p.Text)
		case canon.PartRefusal:
			fmt.Fprintf(&sb, " refusal=%q", p.Text)
		default:
			fmt.Fprintf(&sb, " text=%q", p.Text)
		}
	}
	if r.Usage == nil {
		return sb.String() + " no usage"
	}
	return sb.String() + fmt.Sprintf(" usage=%v", *r.Usage)
}

func TestAppendResponse(t *testing.T) {
	o := canon.Reply{Model: "asked", ID: "77", Created: 9}
	tests := []struct {
		name string
		r    canon.Response
		want string
	}{
		{"text", canon.Response{ID: "msg_1", Model: "other", Created: 5, Finish: canon.FinishLength, Usage: &canon.Usage{Input: 3, Output: 2, CacheRead: 1},
			Parts: []canon.Part{{Kind: canon.PartReasoning, Text: "r"}, {Kind: canon.PartReasoning, Signature: "s"}, {Text: "a\n"}, {Text: "b"}}},
			`{"id":"msg_1","object":"chat.completion","created":5,"model":"asked","choices":[{"index":0,"message":{"role":"assistant","content":"a\nb","refusal":null,"reasoning_content":"r"},"logprobs":null,"finish_reason":"length"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,"prompt_tokens_details":{"cached_tokens":1,"cache_write_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}`},
		{"tools", canon.Response{Finish: canon.FinishToolCalls, Parts: []canon.Part{{Kind: canon.PartToolCall, Call: &canon.ToolCall{ID: "a", Name: "f", Arguments: `{"x":"y"}`}}, {Kind: canon.PartToolCall, Call: &canon.ToolCall{ID: "b", Name: "g", Arguments: `{}`}}}},
			`{"id":"chatcmpl-77","object":"chat.completion","created":9,"model":"asked","choices":[{"index":0,"message":{"role":"assistant","content":null,"refusal":null,"tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{\"x\":\"y\"}"}},{"id":"b","type":"function","function":{"name":"g","arguments":"{}"}}]},"logprobs":null,"finish_reason":"tool_calls"}]}`},
		{"refusal, unknown finish", canon.Response{Finish: "recitation", Parts: []canon.Part{{Kind: canon.PartRefusal, Text: "no"}}},
			`{"id":"chatcmpl-77","object":"chat.completion","created":9,"model":"asked","choices":[{"index":0,"message":{"role":"assistant","content":null,"refusal":"no"},"logprobs":null,"finish_reason":"stop"}]}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := inbound{}.AppendResponse([]byte(nil), &tt.r, o)
			if string(got) != tt.want || !json.Valid(got) {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func TestModels(t *testing.T) {
	in := inbound{}
	got := string(in.AppendModels(nil, []canon.Model{{ID: "a\"", Owner: "o", Created: 1}, {ID: "b"}}))
	want := `{"object":"list","data":[{"id":"a\"","object":"model","created":1,"owned_by":"o"},{"id":"b","object":"model","created":0,"owned_by":""}]}`
	if got != want {
		t.Errorf("got %s", got)
	}
	if got := string(in.AppendModels(nil, nil)); got != `{"object":"list","data":[]}` {
		t.Errorf("no models: %s", got)
	}
}

func TestAppendError(t *testing.T) {
	tests := []struct {
		e    canon.Error
		want string
	}{
		{canon.Error{Kind: canon.ErrInvalidRequest, Message: "bad\n", Param: "x[0]", Code: "odd"}, `"bad\n","type":"invalid_request_error","param":"x[0]","code":"odd"`},
		{canon.Error{Kind: canon.ErrAuthentication, Message: "m"}, `"m","type":"authentication_error","param":null,"code":"invalid_api_key"`},
		{canon.Error{Kind: canon.ErrBilling, Message: "m"}, `"m","type":"insufficient_quota","param":null,"code":"insufficient_quota"`},
		{canon.Error{Kind: canon.ErrPermission, Message: "m"}, `"m","type":"permission_error","param":null,"code":null`},
		{canon.Error{Kind: canon.ErrNotFound, Message: "m"}, `"m","type":"invalid_request_error","param":null,"code":null`},
		{canon.Error{Kind: canon.ErrModelNotFound, Message: "m", Param: "model"}, `"m","type":"invalid_request_error","param":"model","code":"model_not_found"`},
		{canon.Error{Kind: canon.ErrMethod, Message: "m"}, `"m","type":"invalid_request_error","param":null,"code":"method_not_allowed"`},
		{canon.Error{Kind: canon.ErrConflict, Message: "m"}, `"m","type":"conflict_error","param":null,"code":null`},
		{canon.Error{Kind: canon.ErrTooLarge, Message: "m"}, `"m","type":"request_too_large","param":null,"code":"request_too_large"`},
		{canon.Error{Kind: canon.ErrUpgrade, Message: "m"}, `"m","type":"invalid_request_error","param":null,"code":null`},
		{canon.Error{Kind: canon.ErrRateLimit, Message: "m", Code: "Throttling"}, `"m","type":"rate_limit_error","param":null,"code":"rate_limit_exceeded"`},
		{canon.Error{Kind: canon.ErrInternal, Message: "m"}, `"m","type":"server_error","param":null,"code":"internal"`},
		{canon.Error{Kind: canon.ErrBadGateway, Message: "m"}, `"m","type":"server_error","param":null,"code":"bad_gateway"`},
		{canon.Error{Kind: canon.ErrOverloaded, Message: "m"}, `"m","type":"server_error","param":null,"code":"overloaded"`},
		{canon.Error{Kind: canon.ErrTimeout, Message: "m"}, `"m","type":"timeout","param":null,"code":"timeout"`},
	}
	for _, tt := range tests {
		want := `{"error":{"message":` + tt.want + `}}`
		if got := string(inbound{}.AppendError(nil, &tt.e, "req-1")); got != want {
			t.Errorf("%s:\n got %s\nwant %s", tt.e.Kind, got, want)
		}
	}
}

func TestParseError(t *testing.T) {
	tests := []struct {
		name   string
		status int
		retry  string
		body   string
		want   string
	}{
		{"OpenAI", 400, "", `{"error":{"message":"bad temp","type":"invalid_request_error","param":"temperature","code":"out_of_range"}}`, `invalid_request 400 temperature/out_of_range "bad temp" 0s`},
		{"rate limit", 429, "7", `{"error":{"message":"slow","type":"requests","param":null,"code":"rate_limit_exceeded"}}`, `rate_limit 429 /rate_limit_exceeded "slow" 7s`},
		{"quota", 429, "", `{"error":{"message":"pay","type":"insufficient_quota","code":"insufficient_quota"}}`, `billing 402 /insufficient_quota "pay" 0s`},
		{"model", 404, "", `{"error":{"message":"no m","type":"invalid_request_error","param":null,"code":"model_not_found"}}`, `model_not_found 404 /model_not_found "no m" 0s`},
		{"key is not quoted", 401, "", `{"error":{"message":"Incorrect API key provided: sk-ab***yz","type":"invalid_request_error","code":"invalid_api_key"}}`, `authentication 401 /invalid_api_key "the provider refused the gateway's credential" 0s`},
		{"vLLM flat, integer code", 404, "", `{"object":"error","message":"The model does not exist.","type":"NotFoundError","param":"model","code":404}`, `model_not_found 404 model/ "The model does not exist." 0s`},
		{"Qwen", 400, "", `{"error":{"message":"m","type":"invalid_request_error","param":null,"code":"invalid_parameter_error"},"request_id":"r"}`, `invalid_request 400 /invalid_parameter_error "m" 0s`},
		{"FastAPI", 422, "", `{"detail":[{"loc":["body"],"msg":"field required"}]}`, `invalid_request 422 / "[{\"loc\":[\"body\"],\"msg\":\"field required\"}]" 0s`},
		{"FastAPI string", 403, "", `{"detail":"Not allowed"}`, `permission 403 / "Not allowed" 0s`},
		{"string", 500, "", `{"error":"boom"}`, `internal 500 / "boom" 0s`},
		{"HTML", 502, "3", `<html>nginx</html>`, `bad_gateway 502 / "the provider answered with status 502 and no readable error" 3s`},
		{"empty", 503, "Wed, 21 Oct 2026 07:28:00 GMT", ``, `overloaded 503 / "the provider answered with status 503 and no readable error" 0s`},
		{"529", 529, "", `null`, `overloaded 503 / "the provider answered with status 529 and no readable error" 0s`},
		{"408", 408, "", `[]`, `timeout 504 / "the provider answered with status 408 and no readable error" 0s`},
		{"redirect", 302, "", ``, `bad_gateway 502 / "the provider answered with status 302 and no readable error" 0s`},
		{"too large", 413, "", `{"error":{"message":5}}`, `too_large 413 / "the provider answered with status 413 and no readable error" 0s`},
		{"teapot", 418, "", `{}`, `invalid_request 418 / "the provider answered with status 418 and no readable error" 0s`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := outbound{}.ParseError(tt.status, tt.retry, []byte(tt.body))
			got := fmt.Sprintf("%s %d %s/%s %q %v", e.Kind, e.HTTPStatus(), e.Param, e.Code, e.Message, e.RetryAfter)
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
	long := outbound{}.ParseError(500, "", []byte(`{"error":"`+strings.Repeat("x", 1<<20)+`"}`))
	if len(long.Message) > maxMessage+3 {
		t.Errorf("a message of %d bytes was kept", len(long.Message))
	}
}

func TestBuildCallWithoutHome(t *testing.T) {
	image := canon.Part{Kind: canon.PartImage, Image: &canon.Image{URL: "http://x"}}
	call := canon.Part{Kind: canon.PartToolCall, Call: &canon.ToolCall{ID: "1", Name: "f", Arguments: "{}"}}
	tests := []struct {
		name string
		m    canon.Message
		want string
	}{
		{"image from the assistant", canon.Message{Role: canon.RoleAssistant, Parts: []canon.Part{image}}, "messages[0].content has an image in a message of the role assistant: OpenAI takes images from the user alone"},
		{"call by the user", canon.Message{Role: canon.RoleUser, Parts: []canon.Part{call}}, "messages[0].content has a part that a message of the role user cannot have"},
		{"tool message without result", canon.Message{Role: canon.RoleTool, Parts: []canon.Part{{Text: "x"}}}, "messages[0] has the role tool and a part that is no tool result"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := outbound{}.BuildCall(&canon.Request{Messages: []canon.Message{tt.m}}, canon.CallOptions{Model: "m"})
			if err == nil || err.Message != tt.want || err.Kind != canon.ErrInvalidRequest {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// TestBuildCallForeign prints what only callers of other dialects say.
func TestBuildCallForeign(t *testing.T) {
	budget := func(n int64) *canon.Reasoning { return &canon.Reasoning{BudgetTokens: &n} }
	user := []canon.Message{{Role: canon.RoleUser, Parts: []canon.Part{{Text: "x"}}}}
	const head = `{"model":"m","messages":[{"role":"user","content":"x"}]`
	tests := []struct {
		name string
		r    canon.Request
		want string
	}{
		{"failed tool, several results in one message", canon.Request{Messages: []canon.Message{{Role: canon.RoleTool, Parts: []canon.Part{
			{Kind: canon.PartToolResult, Result: &canon.ToolResult{ID: "1", IsError: true, Parts: []canon.Part{{Text: "no "}, {Text: "disk"}}}},
			{Kind: canon.PartToolResult, Result: &canon.ToolResult{ID: "2"}},
		}}}}, `{"model":"m","messages":[{"role":"tool","tool_call_id":"1","content":"Error: no disk"},{"role":"tool","tool_call_id":"2","content":""}]} []`},
		{"thinking alone", canon.Request{Messages: []canon.Message{{Role: canon.RoleAssistant, Parts: []canon.Part{{Kind: canon.PartReasoning, Text: "h", Signature: "s", Origin: "anthropic"}}}}},
			`{"model":"m","messages":[{"role":"assistant","content":""}]} [messages[].reasoning]`},
		{"small budget", canon.Request{Messages: user, Reasoning: budget(1024)}, head + `,"reasoning_effort":"low"} [thinking_budget]`},
		{"large budget", canon.Request{Messages: user, Reasoning: budget(32000)}, head + `,"reasoning_effort":"high"} [thinking_budget]`},
		{"schema without name", canon.Request{Messages: user, Format: &canon.Format{Kind: canon.FormatSchema, Schema: json.RawMessage(`{}`)}}, head + `,"response_format":{"type":"json_schema","json_schema":{"name":"response","schema":{}}}} []`},
		{"choice without tools", canon.Request{Messages: user, ToolChoice: &canon.ToolChoice{Mode: canon.ChoiceAuto}, ParallelToolCalls: new(bool)}, head + `} []`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			call, err := outbound{}.BuildCall(&tt.r, canon.CallOptions{Model: "m"})
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprintf("%s %v", call.Body, call.Dropped); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestModelsThatCannotReasonAreNotAskedTo(t *testing.T) {
	r := &canon.Request{
		Messages:  []canon.Message{{Role: canon.RoleUser, Parts: []canon.Part{{Text: "x"}}}},
		Reasoning: &canon.Reasoning{Effort: "high"},
	}
	for model, asked := range map[string]bool{
		"gpt-4o": false, "gpt-4.1-mini": false, "gpt-3.5-turbo": false, "chatgpt-4o-latest": false,
		"gpt-5": true, "o4-mini": true, "gpt-oss-120b": true, "qwen3-32b": true,
	} {
		call, err := outbound{}.BuildCall(r, canon.CallOptions{Model: model})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(call.Body), "reasoning_effort"); got != asked {
			t.Errorf("%s: asked is %v, want %v: %s", model, got, asked, call.Body)
		}
		if dropped := slices.Contains(call.Dropped, "reasoning_effort"); dropped == asked {
			t.Errorf("%s: dropped is %v (%v)", model, dropped, call.Dropped)
		}
	}
}

func TestSetModel(t *testing.T) {
	out, err := outbound{}.SetModel([]byte(`{ "a":1.0, "model": "x" }`), "y/z")
	if err != nil || string(out) != `{ "a":1.0, "model": "y/z" }` {
		t.Errorf("got %s, %v", out, err)
	}
	_, err = outbound{}.SetModel([]byte(`{"model":"x","model":"y"}`), "z")
	if err == nil || err.Kind != canon.ErrInvalidRequest || err.Param != "model" {
		t.Errorf("a doubled model: %v", err)
	}
}

func TestCredential(t *testing.T) {
	if c, _ := canon.CredentialFor((outbound{}).Credentials("k"), ""); c.Name != "authorization" || c.Value != "Bearer k" {
		t.Errorf("got %s: %s", c.Name, c.Value)
	}
}

func FuzzParseResponse(f *testing.F) {
	f.Add([]byte(`{"id":"x","choices":[{"message":{"content":"a","tool_calls":[{"id":"a","function":{"name":"f","arguments":"{"}}]},"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}`), 200)
	f.Add([]byte(`{"error":{"message":"m","code":400}}`), 400)
	f.Fuzz(func(t *testing.T, body []byte, status int) {
		if e := (outbound{}).ParseError(status, "", body); e == nil || e.Message == "" || e.HTTPStatus() < 400 {
			t.Fatalf("ParseError gave %+v", e)
		}
		r, err := outbound{}.ParseResponse(body)
		if err != nil {
			return
		}
		for _, p := range r.Parts {
			if p.Call != nil && !isObject(p.Call.Arguments) {
				t.Fatalf("arguments %q", p.Call.Arguments)
			}
		}
		if out := (inbound{}).AppendResponse(nil, r, canon.Reply{}); !json.Valid(out) {
			t.Fatalf("printed %s", out)
		}
	})
}
