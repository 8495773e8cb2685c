package sim

import (
	"strings"
	"testing"
)

func TestDashScopeRefuses(t *testing.T) {
	const hi = `"input":{"messages":[{"role":"user","content":"hi"}]}`
	input := func(list string) string { return `{"model":"qwen-plus","input":{"messages":[` + list + `]}}` }
	with := func(params string) string { return `{"model":"qwen-plus",` + hi + `,"parameters":{` + params + `}}` }
	vl := func(parts string) string {
		return `{"model":"qwen-vl-plus","input":{"messages":[{"role":"user","content":[` + parts + `]}]}}`
	}
	const ask = `{"role":"user","content":"x"}`
	const call = `{"role":"assistant","content":"","tool_calls":[{"id":"c1","type":"function","function":{"name":"w","arguments":"{}"}}]}`
	const tool = `"result_format":"message","tools":[{"type":"function","function":{"name":"w","parameters":{"type":"object"}}}]`
	for _, c := range []reject{
		{name: "no credential", body: with(``), headers: []string{"Authorization: "}, status: 401, code: "InvalidApiKey"},
		{name: "wrong key", body: with(``), headers: []string{"Authorization: Bearer w"}, status: 401, code: "InvalidApiKey"},
		{name: "x-api-key is no credential", body: with(``), headers: []string{"Authorization: ", "x-api-key: k"}, status: 401, code: "InvalidApiKey"},
		{name: "not JSON", body: `{`, status: 400, message: "body format"},
		{name: "a list", body: `[]`, status: 400, message: "body format"},
		{name: "no model", body: `{` + hi + `}`, status: 400, message: "model"},
		{name: "unknown model", body: `{"model":"nope",` + hi + `}`, status: 404, code: "ModelNotFound"},
		{name: "no input", body: `{"model":"qwen-plus"}`, status: 400, message: "input"},
		{name: "messages outside input", body: `{"model":"qwen-plus","messages":[` + ask + `]}`, status: 400, message: "input"},
		{name: "messages beside input", body: `{"model":"qwen-plus",` + hi + `,"messages":[]}`, status: 400, message: "messages belong in 'input'"},
		{name: "temperature outside parameters", body: `{"model":"qwen-plus",` + hi + `,"temperature":1}`, status: 400, message: "everything else in 'parameters'"},
		{name: "stream in the body", body: `{"model":"qwen-plus",` + hi + `,"stream":true}`, status: 400, message: "'stream'"},
		{name: "tools in input", body: `{"model":"qwen-plus","input":{"messages":[` + ask + `],"tools":[]}}`, status: 400, message: "input.tools"},
		{name: "input empty", body: `{"model":"qwen-plus","input":{}}`, status: 400, message: "messages"},
		{name: "messages empty", body: input(``), status: 400, message: "messages"},
		{name: "unknown role", body: input(`{"role":"developer","content":"x"}`), status: 400, message: "assistant"},
		{name: "content list on the text path", body: input(`{"role":"user","content":[{"text":"x"}]}`), status: 400, message: "string"},
		{name: "empty content", body: input(`{"role":"user","content":""}`), status: 400, message: "greater than 0"},
		{name: "system late", body: input(ask + `,{"role":"system","content":"x"}`), status: 400, message: "beginning"},
		{name: "assistant last", body: input(ask + `,{"role":"assistant","content":"x"}`), status: 400, message: "last message"},
		{name: "tool without call", body: input(ask + `,{"role":"tool","content":"x","tool_call_id":"c1"}`), status: 400, message: "preceeding message"},
		{name: "tool with another id", body: input(ask + `,` + call + `,{"role":"tool","content":"x","tool_call_id":"c2"}`), status: 400, message: "c2"},
		{name: "call without answer", body: input(ask + `,` + call + `,` + ask), status: 400, message: "did not have response"},
		{name: "temperature two", body: with(`"temperature":2`), status: 400, message: "Range of temperature should be [0, 2)"},
		{name: "temperature negative", body: with(`"temperature":-0.5`), status: 400, message: "temperature"},
		{name: "top_p zero", body: with(`"top_p":0`), status: 400, message: "Range of top_p should be (0, 1]"},
		{name: "top_p high", body: with(`"top_p":1.01`), status: 400, message: "top_p"},
		{name: "max_tokens zero", body: with(`"max_tokens":0`), status: 400, message: "max_tokens"},
		{name: "max_tokens string", body: with(`"max_tokens":"1"`), status: 400, message: "integer"},
		{name: "seed negative", body: with(`"seed":-1`), status: 400, message: "seed"},
		{name: "n five", body: with(`"n":5`), status: 400, message: "Range of n"},
		{name: "result_format", body: with(`"result_format":"json"`), status: 400, message: "result_format"},
		{name: "tools without result_format", body: with(strings.TrimPrefix(tool, `"result_format":"message",`)), status: 400, message: "result_format"},
		{name: "tools empty", body: with(`"result_format":"message","tools":[]`), status: 400, message: "tools"},
		{name: "tool name", body: with(strings.Replace(tool, `"w"`, `"a b"`, 1)), status: 400, message: "pattern"},
		{name: "tool_choice unknown", body: with(tool + `,"tool_choice":{"type":"function","function":{"name":"x"}}`), status: 400, message: "'x'"},
		{name: "tool_choice any", body: with(tool + `,"tool_choice":"any"`), status: 400, message: "tool_choice"},
		{name: "forced tool while thinking", body: with(tool + `,"tool_choice":"required","enable_thinking":true`), status: 400, message: "thinking mode"},
		{name: "required on an old model", body: strings.Replace(with(tool+`,"tool_choice":"required"`), "qwen-plus", "qwen-long", 1), status: 400, message: `["none", "auto"]`},
		{name: "thinking without stream", body: strings.Replace(with(`"result_format":"message","enable_thinking":true`), "qwen-plus", "qwen3-32b", 1), status: 400, message: "non-streaming"},
		{name: "thinking without increments", headers: []string{sse}, body: strings.Replace(with(`"result_format":"message","enable_thinking":true`), "qwen-plus", "qwen3-32b", 1), status: 400, message: "incremental_output"},
		{name: "json_object without the word", body: with(`"response_format":{"type":"json_object"}`), status: 400, message: "json"},
		{name: "vision model on the text path", body: `{"model":"qwen-vl-plus",` + hi + `}`, status: 400, message: "url error"},
		{name: "text model on the vision path", path: qwenVLPath, body: `{"model":"qwen-plus",` + hi + `}`, status: 400, message: "url error"},
		{name: "typed part", path: qwenVLPath, body: vl(`{"type":"text","text":"x"}`), status: 400, message: "type"},
		{name: "part with two", path: qwenVLPath, body: vl(`{"text":"x","image":"https://a.b/c.png"}`), status: 400, message: "exactly one"},
		{name: "image data", path: qwenVLPath, body: vl(`{"image":"data:image/png;base64,@@"}`), status: 400, message: "base64"},
		{name: "image type", path: qwenVLPath, body: vl(`{"image":"data:image/bmp;base64,Qk0="}`), status: 400, message: "media type"},
		{name: "image neither URL nor data", path: qwenVLPath, body: vl(`{"image":"cat.png"}`), status: 400, message: "neither"},
		{name: "unknown path", path: "/api/v1/services/aigc/x", body: `{}`, status: 404},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, url := newSim(t, Options{Dialect: DashScope, Key: "k"})
			if c.path == "" {
				c.path = qwenPath
			}
			got := do(t, "POST", url+c.path, c.body, append([]string{bearer}, c.headers...)...)
			if got.status != c.status {
				t.Fatalf("status %d, want %d: %s", got.status, c.status, got.body)
			}
			if c.code == "" && c.status == 400 {
				c.code = "InvalidParameter"
			}
			if code, _ := dig(t, got.body, "code").(string); !strings.HasPrefix(code, c.code) || code == "" {
				t.Errorf("code %q, want %q", code, c.code)
			}
			if msg, _ := dig(t, got.body, "message").(string); msg == "" || !strings.Contains(msg, c.message) {
				t.Errorf("message %q lacks %q", msg, c.message)
			}
			if dig(t, got.body, "request_id") != got.header.Get("x-request-id") || dig(t, got.body, "output") != nil {
				t.Errorf("not a DashScope error: %s", got.body)
			}
		})
	}
}

func TestCompatibleModeRefuses(t *testing.T) {
	const hi = `"messages":[{"role":"user","content":"hi"}]`
	for _, c := range []reject{
		{name: "no credential", body: `{}`, headers: []string{"Authorization: "}, status: 401, code: "invalid_api_key"},
		{name: "temperature two", body: `{"model":"qwen-plus",` + hi + `,"temperature":2}`, status: 400, param: "temperature"},
		{name: "top_p zero", body: `{"model":"qwen-plus",` + hi + `,"top_p":0}`, status: 400, param: "top_p"},
		{name: "thinking without stream", body: `{"model":"qwen3-32b",` + hi + `,"enable_thinking":true}`, status: 400, message: "non-streaming"},
		{name: "developer role", body: `{"model":"qwen-plus","messages":[{"role":"developer","content":"x"}]}`, status: 400, param: "messages[0].role"},
		{name: "unknown model", body: `{"model":"nope",` + hi + `}`, status: 404, code: "model_not_found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, url := newSim(t, Options{Dialect: DashScope, Key: "k"})
			got := do(t, "POST", url+compatPath, c.body, append([]string{bearer}, c.headers...)...)
			msg, _ := dig(t, got.body, "error", "message").(string)
			if got.status != c.status || !strings.Contains(msg, c.message) || dig(t, got.body, "request_id") == nil ||
				c.param != "" && dig(t, got.body, "error", "param") != c.param || c.code != "" && dig(t, got.body, "error", "code") != c.code {
				t.Errorf("status %d: %s", got.status, got.body)
			}
		})
	}
	_, url := newSim(t, Options{Dialect: DashScope})
	if got := do(t, "POST", url+compatPath, `{"model":"qwen-plus",`+hi+`,"some_extra":1,"top_k":4}`, bearer); got.status != 200 {
		t.Errorf("an unknown field is ignored by the real one: %d %s", got.status, got.body)
	}
}
