package sim

import (
	"strings"
	"testing"
)

func TestAnthropicRefuses(t *testing.T) {
	const hi = `"messages":[{"role":"user","content":"hi"}]`
	msgs := func(list string) string {
		return `{"model":"claude-sonnet-4-5","max_tokens":100,"messages":[` + list + `]}`
	}
	with := func(extra string) string {
		return `{"model":"claude-sonnet-4-5","max_tokens":100,` + hi + `,` + extra + `}`
	}
	user := func(blocks string) string { return msgs(`{"role":"user","content":[` + blocks + `]}`) }
	img := func(mt, data string) string {
		return user(`{"type":"image","source":{"type":"base64","media_type":"` + mt + `","data":"` + data + `"}}`)
	}
	const ask = `{"role":"user","content":"x"}`
	const use = `{"role":"assistant","content":[{"type":"tool_use","id":"t1","name":"w","input":{}}]}`
	const tool = `{"name":"w","input_schema":{"type":"object"}}`
	old := []string{"Authorization: ", "x-api-key: k"}
	now := []string{v2026}
	for _, c := range []reject{
		{name: "no credential", body: with(`"stream":false`), headers: []string{"Authorization: "}, status: 401, code: "authentication_error"},
		{name: "wrong key", body: with(`"stream":false`), headers: []string{"Authorization: ", "x-api-key: w"}, status: 401, code: "authentication_error"},
		{name: "wrong bearer", body: with(`"stream":false`), headers: []string{"Authorization: Bearer w"}, status: 401, code: "authentication_error"},
		{name: "two credentials", body: with(`"stream":false`), headers: []string{"x-api-key: other"}, status: 401, message: "more than one credential"},
		{name: "x-api-key under the new version", body: with(`"stream":false`), headers: append(old, now...), status: 401, message: "bearer"},
		{name: "no version", body: with(`"stream":false`), headers: []string{"Anthropic-Version: "}, status: 400, message: "anthropic-version: header is required"},
		{name: "unknown version", body: with(`"stream":false`), headers: []string{"Anthropic-Version: 2024-01-01"}, status: 400, message: "not a valid version"},
		{name: "not JSON", body: `{`, status: 400, message: "not valid JSON"},
		{name: "not an object", body: `"x"`, status: 400, message: "dictionary"},
		{name: "no max_tokens", body: `{"model":"claude-sonnet-4-5",` + hi + `}`, status: 400, message: "max_tokens: Field required"},
		{name: "max_tokens zero", body: `{"model":"claude-sonnet-4-5","max_tokens":0,` + hi + `}`, status: 400, message: "max_tokens: Input should be greater than or equal to 1"},
		{name: "max_tokens string", body: `{"model":"claude-sonnet-4-5","max_tokens":"5",` + hi + `}`, status: 400, message: "max_tokens: Input should be a valid integer"},
		{name: "max_tokens too many", body: `{"model":"claude-3-5-haiku-20241022","max_tokens":9000,` + hi + `}`, status: 400, message: "9000 > 8192"},
		{name: "no model", body: `{"max_tokens":5,` + hi + `}`, status: 400, message: "model: Field required"},
		{name: "unknown model", body: `{"model":"nope","max_tokens":5,` + hi + `}`, status: 404, code: "not_found_error", message: "model: nope"},
		{name: "no messages", body: `{"model":"claude-sonnet-4-5","max_tokens":5}`, status: 400, message: "messages: Field required"},
		{name: "messages empty", body: msgs(``), status: 400, message: "at least one message is required"},
		{name: "unknown field", body: with(`"frequency_penalty":1`), status: 400, message: "frequency_penalty: Extra inputs are not permitted"},
		{name: "openai field", body: with(`"max_completion_tokens":5`), status: 400, message: "max_completion_tokens: Extra inputs"},
		{name: "beta field without beta", body: with(`"context_management":{}`), status: 400, message: "context_management: Extra inputs"},
		{name: "unknown nested field", body: user(`{"type":"text","text":"x","mood":1}`), status: 400, message: "messages.0.content.0.mood: Extra inputs"},
		{name: "unknown role", body: msgs(`{"role":"tool","content":"x"}`), status: 400, message: `Unexpected role "tool"`},
		{name: "unknown block", body: user(`{"type":"image_url","image_url":{}}`), status: 400, message: "does not match any of the expected tags"},
		{name: "first is assistant", body: msgs(`{"role":"assistant","content":"x"},` + ask), status: 400, message: "first message must use"},
		{name: "first is system", body: msgs(`{"role":"system","content":"x"},` + ask), status: 400, message: "first message must use"},
		{name: "empty text block", body: user(`{"type":"text","text":""}`), status: 400, message: "text content blocks must be non-empty"},
		{name: "blank text block", body: user(`{"type":"text","text":" \n"}`), status: 400, message: "non-whitespace"},
		{name: "empty content", body: msgs(`{"role":"user","content":""}`), status: 400, message: "non-empty content"},
		{name: "empty list content", body: msgs(`{"role":"user","content":[]}`), status: 400, message: "non-empty content"},
		{name: "empty system block", body: with(`"system":[{"type":"text","text":""}]`), status: 400, message: "system: text content blocks must be non-empty"},
		{name: "prefill with trailing space", body: msgs(ask + `,{"role":"assistant","content":"so "}`), status: 400, message: "trailing whitespace"},
		{name: "prefill on a new model", body: `{"model":"claude-opus-4-7","max_tokens":9,"messages":[` + ask + `,{"role":"assistant","content":"so"}]}`, status: 400, message: "does not support assistant message prefill"},
		{name: "temperature high", body: with(`"temperature":1.5`), status: 400, message: "temperature: Input should be less than or equal to 1"},
		{name: "temperature negative", body: with(`"temperature":-1`), status: 400, message: "temperature"},
		{name: "temperature and top_p", body: with(`"temperature":0.5,"top_p":0.5`), status: 400, message: "cannot both be specified"},
		{name: "sampling on a new model", body: `{"model":"claude-opus-4-7","max_tokens":9,` + hi + `,"temperature":0.5}`, status: 400, message: "temperature"},
		{name: "temperature under the new version", body: with(`"temperature":1`), headers: now, status: 400, message: "temperature"},
		{name: "top_p under the new version", body: with(`"top_p":1`), headers: now, status: 400, message: "top_p"},
		{name: "top_k under the new version", body: with(`"top_k":1`), headers: now, status: 400, message: "top_k"},
		{name: "assistant document under the new version", headers: now, body: msgs(ask + `,{"role":"assistant","content":[{"type":"document","source":{"type":"text","media_type":"text/plain","data":"x"}}]},` + ask), status: 400, message: "document"},
		{name: "user citations under the new version", headers: now, body: user(`{"type":"text","text":"x","citations":[{"type":"char_location"}]}`), status: 400, message: "citations"},
		{name: "blank stop sequence", body: with(`"stop_sequences":["\n"]`), status: 400, message: "non-whitespace"},
		{name: "stop sequence string", body: with(`"stop_sequences":"x"`), status: 400, message: "stop_sequences: Input should be a valid list"},
		{name: "result without use", body: user(`{"type":"tool_result","tool_use_id":"t1","content":"x"}`), status: 400, message: "unexpected `tool_use_id`"},
		{name: "use without result", body: msgs(ask + `,` + use + `,` + ask), status: 400, message: "without `tool_result` blocks immediately after: t1"},
		{name: "use at the end", body: msgs(ask + `,` + use), status: 400, message: "t1"},
		{name: "text before result", body: msgs(ask + `,` + use + `,{"role":"user","content":[{"type":"text","text":"x"},{"type":"tool_result","tool_use_id":"t1","content":"x"}]}`), status: 400, message: "immediately after: t1"},
		{name: "result twice", body: msgs(ask + `,` + use + `,{"role":"user","content":[{"type":"tool_result","tool_use_id":"t1"},{"type":"tool_result","tool_use_id":"t1"}]}`), status: 400, message: "single result"},
		{name: "empty text in a result", body: msgs(ask + `,` + use + `,{"role":"user","content":[{"type":"tool_result","tool_use_id":"t1","content":[{"type":"text","text":""}]}]}`), status: 400, message: "non-empty"},
		{name: "input is a string", body: msgs(ask + `,{"role":"assistant","content":[{"type":"tool_use","id":"t1","name":"w","input":"{}"}]}`), status: 400, message: "input: Input should be a valid dictionary"},
		{name: "use id", body: msgs(ask + `,{"role":"assistant","content":[{"type":"tool_use","id":"t.1","name":"w","input":{}}]}`), status: 400, message: "should match pattern"},
		{name: "tool name", body: with(`"tools":[{"name":"a b","input_schema":{"type":"object"}}]`), status: 400, message: "tools.0.custom.name: String should match pattern"},
		{name: "tool without schema", body: with(`"tools":[{"name":"a"}]`), status: 400, message: "tools.0.custom.input_schema: Field required"},
		{name: "tool schema type", body: with(`"tools":[{"name":"a","input_schema":{"type":"string"}}]`), status: 400, message: "input_schema.type"},
		{name: "openai tool", body: with(`"tools":[{"type":"function","function":{"name":"a"}}]`), status: 400, message: "tools.0.function"},
		{name: "tools twice", body: with(`"tools":[` + tool + `,` + tool + `]`), status: 400, message: "must be unique"},
		{name: "tool_choice without tools", body: with(`"tool_choice":{"type":"auto"}`), status: 400, message: "while providing tools"},
		{name: "tool_choice string", body: with(`"tools":[` + tool + `],"tool_choice":"auto"`), status: 400, message: "tool_choice: Input should be a valid dictionary"},
		{name: "tool_choice unknown", body: with(`"tools":[` + tool + `],"tool_choice":{"type":"tool","name":"x"}`), status: 400, message: "'x' not found"},
		{name: "image data", body: img("image/png", "@@@"), status: 400, message: "Invalid base64 data"},
		{name: "image type", body: img("image/bmp", "Qk0="), status: 400, message: "media_type: Input should be 'image/jpeg'"},
		{name: "image is another type", body: img("image/webp", pngData), status: 400, message: "image/png"},
		{name: "image over http", body: user(`{"type":"image","source":{"type":"url","url":"http://a.b/c.png"}}`), status: 400, message: "Only HTTPS"},
		{name: "thinking budget small", body: with(`"thinking":{"type":"enabled","budget_tokens":10}`), status: 400, message: "budget_tokens: Input should be greater than or equal to 1024"},
		{name: "thinking budget too big", body: with(`"thinking":{"type":"enabled","budget_tokens":1024}`), status: 400, message: "`max_tokens` must be greater"},
		{name: "thinking and forced tool", body: with(`"thinking":{"type":"adaptive"},"tools":[` + tool + `],"tool_choice":{"type":"any"}`), status: 400, message: "forces tool use"},
		{name: "forged thinking", body: msgs(ask + `,{"role":"assistant","content":[{"type":"thinking","thinking":"x","signature":"y"},{"type":"text","text":"z"}]},` + ask), status: 400, message: "Invalid `signature`"},
		{name: "unsigned thinking", body: msgs(ask + `,{"role":"assistant","content":[{"type":"thinking","thinking":"x"}]},` + ask), status: 400, message: "signature: Field required"},
		{name: "thinking loop without thinking", body: `{"model":"claude-sonnet-4-5","max_tokens":2000,"thinking":{"type":"enabled","budget_tokens":1024},"messages":[` + ask + `,` + use + `,{"role":"user","content":[{"type":"tool_result","tool_use_id":"t1","content":"x"}]}]}`, status: 400, message: "Expected `thinking`"},
		{name: "five cache marks", body: user(strings.TrimSuffix(strings.Repeat(`{"type":"text","text":"x","cache_control":{"type":"ephemeral"}},`, 5), ",")), status: 400, message: "maximum of 4"},
		{name: "open schema", body: with(`"output_config":{"format":{"type":"json_schema","schema":{"type":"object","properties":{}}}}`), status: 400, message: "additionalProperties"},
		{name: "unknown path", path: "/v1/complete", body: `{}`, status: 404, code: "not_found_error"},
		{name: "openai path", path: chatPath, body: `{}`, status: 404, code: "not_found_error"},
		{name: "count with max_tokens", path: "/v1/messages/count_tokens", body: with(`"stream":false`), status: 400, message: "Extra inputs"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, url := newSim(t, Options{Dialect: Anthropic, Key: "k"})
			if c.path == "" {
				c.path = messagesPath
			}
			got := do(t, "POST", url+c.path, c.body, append([]string{bearer, v2023}, c.headers...)...)
			if got.status != c.status {
				t.Fatalf("status %d, want %d: %s", got.status, c.status, got.body)
			}
			if dig(t, got.body, "type") != "error" || dig(t, got.body, "request_id") != got.header.Get("request-id") {
				t.Errorf("not an Anthropic error: %s", got.body)
			}
			if c.code == "" && c.status == 400 {
				c.code = "invalid_request_error"
			}
			if typ := dig(t, got.body, "error", "type"); c.code != "" && typ != c.code {
				t.Errorf("type %v, want %q", typ, c.code)
			}
			if msg, _ := dig(t, got.body, "error", "message").(string); msg == "" || !strings.Contains(msg, c.message) {
				t.Errorf("message %q lacks %q", msg, c.message)
			}
		})
	}
}

func TestAnthropicAccepts(t *testing.T) {
	_, url := newSim(t, Options{Dialect: Anthropic, Key: "k"})
	const head = `{"model":"claude-sonnet-4-5","max_tokens":50,"messages":`
	for name, c := range map[string]struct {
		body    string
		headers []string
	}{
		"x-api-key":               {head + `[{"role":"user","content":"a"}]}`, []string{v2023, "x-api-key: k"}},
		"bearer, old version":     {head + `[{"role":"user","content":"a"}]}`, []string{v2023, bearer}},
		"bearer, new version":     {head + `[{"role":"user","content":"a"}]}`, []string{v2026, bearer}},
		"one credential twice":    {head + `[{"role":"user","content":"a"}]}`, []string{v2023, bearer, "x-api-key: k"}},
		"consecutive users":       {head + `[{"role":"user","content":"a"},{"role":"user","content":"b"}]}`, []string{v2023, bearer}},
		"system in the middle":    {head + `[{"role":"user","content":"a"},{"role":"system","content":"b"}]}`, []string{v2026, bearer}},
		"results in two messages": {head + `[{"role":"user","content":"a"},{"role":"assistant","content":[{"type":"tool_use","id":"1","name":"w","input":{}},{"type":"tool_use","id":"2","name":"w","input":{}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"1"}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"2"},{"type":"text","text":"and?"}]}]}`, []string{v2023, bearer}},
		"prefill":                 {head + `[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}`, []string{v2023, bearer}},
		"beta field":              {head + `[{"role":"user","content":"a"}],"context_management":{"edits":[]}}`, []string{v2023, bearer, "anthropic-beta: a-1,context-management-2025-06-27"}},
		"server tool":             {head + `[{"role":"user","content":"a"}],"tools":[{"type":"web_search_20250305","name":"web_search","max_uses":3}]}`, []string{v2023, bearer}},
	} {
		if got := do(t, "POST", url+messagesPath+"?beta=true", c.body, c.headers...); got.status != 200 {
			t.Errorf("%s: status %d: %s", name, got.status, got.body)
		}
	}
	if got := do(t, "POST", url+"/v1/messages/count_tokens", `{"model":"claude-sonnet-4-5","messages":[{"role":"user","content":"one two three"}]}`, bearer, v2023); got.body != `{"input_tokens":7}` {
		t.Errorf("count_tokens: %s", got.body)
	}
	if got := do(t, "GET", url+"/v1/models?limit=2", "", bearer, v2023); dig(t, got.body, "has_more") != true || dig(t, got.body, "last_id") != dig(t, got.body, "data", 1, "id") {
		t.Errorf("models: %s", got.body)
	}
	if got := do(t, "GET", url+"/v1/models/nope", "", bearer, v2023); got.status != 404 {
		t.Errorf("unknown model: %d", got.status)
	}
}
