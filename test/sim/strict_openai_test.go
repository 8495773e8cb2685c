package sim

import (
	"strings"
	"testing"
)

func TestOpenAIRefuses(t *testing.T) {
	const hi = `"messages":[{"role":"user","content":"hi"}]`
	const weather = `{"type":"function","function":{"name":"weather","parameters":{"type":"object","properties":{"city":{"type":"string"}}}}}`
	msgs := func(list string) string { return `{"model":"gpt-4o","messages":[` + list + `]}` }
	with := func(extra string) string { return `{"model":"gpt-4o",` + hi + `,` + extra + `}` }
	img := func(url string) string {
		return msgs(`{"role":"user","content":[{"type":"image_url","image_url":{"url":"` + url + `"}}]}`)
	}
	const call = `{"role":"assistant","tool_calls":[{"id":"c1","type":"function","function":{"name":"weather","arguments":"{}"}}]}`
	const strictOpen = `{"type":"json_schema","json_schema":{"name":"a","strict":true,"schema":{"type":"object","properties":{"x":{"type":"string"}},"required":["x"]}}}`
	for _, c := range []reject{
		{name: "no credential", body: with(`"n":1`), headers: []string{"Authorization: "}, status: 401, message: "didn't provide an API key"},
		{name: "wrong key", body: with(`"n":1`), headers: []string{"Authorization: Bearer wrong"}, status: 401, code: "invalid_api_key"},
		{name: "x-api-key is not a credential here", body: with(`"n":1`), headers: []string{"Authorization: ", "x-api-key: k"}, status: 401},
		{name: "not JSON", body: `{"model":`, status: 400, message: "could not parse the JSON body"},
		{name: "empty body", body: " ", status: 400, message: "could not parse"},
		{name: "invalid UTF-8", body: "{\"model\":\"\xff\"}", status: 400, message: "UTF-8"},
		{name: "body is a list", body: `[]`, status: 400, message: "expected an object"},
		{name: "form body", body: `a=b`, headers: []string{"Content-Type: application/x-www-form-urlencoded"}, status: 415},
		{name: "no model", body: `{` + hi + `}`, status: 400, message: "you must provide a model parameter"},
		{name: "no messages", body: `{"model":"gpt-4o"}`, status: 400, param: "messages", code: "missing_required_parameter"},
		{name: "messages empty", body: msgs(``), status: 400, param: "messages", code: "empty_array"},
		{name: "messages a string", body: `{"model":"gpt-4o","messages":"hi"}`, status: 400, param: "messages", code: "invalid_type", message: "got a string"},
		{name: "unknown model", body: `{"model":"nope",` + hi + `}`, status: 404, code: "model_not_found", message: "`nope` does not exist"},
		{name: "embedding model", body: `{"model":"text-embedding-3-small",` + hi + `}`, status: 404, message: "not a chat model"},
		{name: "unknown field", body: with(`"max_token":5`), status: 400, message: "Unrecognized request argument supplied: max_token"},
		{name: "anthropic field", body: with(`"top_k":5`), status: 400, message: "Unrecognized request argument supplied: top_k"},
		{name: "unknown nested field", body: msgs(`{"role":"user","content":"x","mood":1}`), status: 400, param: "messages[0].mood", code: "unknown_parameter"},
		{name: "unknown role", body: msgs(`{"role":"human","content":"x"}`), status: 400, param: "messages[0].role", code: "invalid_value"},
		{name: "no role", body: msgs(`{"content":"x"}`), status: 400, param: "messages[0].role", code: "missing_required_parameter"},
		{name: "content number", body: msgs(`{"role":"user","content":5}`), status: 400, param: "messages[0].content", code: "invalid_type"},
		{name: "user content null", body: msgs(`{"role":"user","content":null}`), status: 400, param: "messages[0].content"},
		{name: "assistant says nothing", body: msgs(`{"role":"user","content":"x"},{"role":"assistant","content":null}`), status: 400, message: "got null"},
		{name: "unknown part", body: msgs(`{"role":"user","content":[{"type":"image"}]}`), status: 400, param: "messages[0].content[0].type"},
		{name: "anthropic image", body: msgs(`{"role":"user","content":[{"type":"image","source":{}}]}`), status: 400, code: "invalid_value"},
		{name: "temperature high", body: with(`"temperature":2.1`), status: 400, param: "temperature", code: "decimal_above_max_value"},
		{name: "temperature low", body: with(`"temperature":-0.1`), status: 400, param: "temperature", code: "decimal_below_min_value"},
		{name: "temperature string", body: with(`"temperature":"1"`), status: 400, param: "temperature", code: "invalid_type"},
		{name: "top_p high", body: with(`"top_p":1.5`), status: 400, param: "top_p"},
		{name: "max_tokens zero", body: with(`"max_tokens":0`), status: 400, param: "max_tokens", code: "integer_below_min_value"},
		{name: "max_tokens decimal", body: with(`"max_tokens":1.5`), status: 400, param: "max_tokens", code: "invalid_type"},
		{name: "both maxima", body: with(`"max_tokens":5,"max_completion_tokens":5`), status: 400, message: "at the same time"},
		{name: "max_tokens on a reasoning model", body: `{"model":"o4-mini",` + hi + `,"max_tokens":5}`, status: 400, param: "max_tokens", code: "unsupported_parameter"},
		{name: "reasoning_effort on gpt-4o", body: with(`"reasoning_effort":"low"`), status: 400, message: "reasoning_effort"},
		{name: "five stops", body: with(`"stop":["a","b","c","d","e"]`), status: 400, param: "stop"},
		{name: "n zero", body: with(`"n":0`), status: 400, param: "n"},
		{name: "stream string", body: with(`"stream":"true"`), status: 400, param: "stream"},
		{name: "stream_options alone", body: with(`"stream_options":{"include_usage":true}`), status: 400, param: "stream_options"},
		{name: "top_logprobs alone", body: with(`"top_logprobs":2`), status: 400, param: "top_logprobs"},
		{name: "logit_bias key", body: with(`"logit_bias":{"x":1}`), status: 400, param: "logit_bias"},
		{name: "metadata number", body: with(`"metadata":{"a":1}`), status: 400, param: "metadata.a"},
		{name: "tools empty", body: with(`"tools":[]`), status: 400, param: "tools"},
		{name: "tool name", body: with(`"tools":[{"type":"function","function":{"name":"a b"}}]`), status: 400, param: "tools[0].function.name", message: "pattern"},
		{name: "tool schema not object", body: with(`"tools":[{"type":"function","function":{"name":"a","parameters":{"type":"string"}}}]`), status: 400, code: "invalid_function_parameters"},
		{name: "flat tool", body: with(`"tools":[{"type":"function","name":"a"}]`), status: 400, param: "tools[0].function"},
		{name: "strict tool is open", body: with(`"tools":[{"type":"function","function":{"name":"a","strict":true,"parameters":{"type":"object","properties":{}}}}]`), status: 400, message: "additionalProperties"},
		{name: "tool_choice without tools", body: with(`"tool_choice":"auto"`), status: 400, param: "tool_choice"},
		{name: "parallel without tools", body: with(`"parallel_tool_calls":false`), status: 400, param: "parallel_tool_calls"},
		{name: "tool_choice unknown", body: with(`"tools":[` + weather + `],"tool_choice":{"type":"function","function":{"name":"x"}}`), status: 400, message: "not found in 'tools'"},
		{name: "tool_choice any", body: with(`"tools":[` + weather + `],"tool_choice":"any"`), status: 400, param: "tool_choice"},
		{name: "tool without call", body: msgs(`{"role":"user","content":"x"},{"role":"tool","tool_call_id":"c1","content":"x"}`), status: 400, message: "must be a response to a preceeding message"},
		{name: "tool without id", body: msgs(`{"role":"user","content":"x"},` + call + `,{"role":"tool","content":"x"}`), status: 400, param: "messages[2].tool_call_id"},
		{name: "tool with another id", body: msgs(`{"role":"user","content":"x"},` + call + `,{"role":"tool","tool_call_id":"c2","content":"x"}`), status: 400, message: "'c2' not found"},
		{name: "call without answer", body: msgs(`{"role":"user","content":"x"},` + call + `,{"role":"user","content":"x"}`), status: 400, message: "did not have response messages: c1"},
		{name: "call at the end", body: msgs(`{"role":"user","content":"x"},` + call), status: 400, message: "c1"},
		{name: "tool answered twice", body: msgs(`{"role":"user","content":"x"},` + call + `,{"role":"tool","tool_call_id":"c1","content":"x"},{"role":"tool","tool_call_id":"c1","content":"x"}`), status: 400, message: "'c1' not found"},
		{name: "arguments object", body: msgs(`{"role":"user","content":"x"},{"role":"assistant","tool_calls":[{"id":"c1","type":"function","function":{"name":"w","arguments":{}}}]}`), status: 400, code: "invalid_type"},
		{name: "image not base64", body: img("data:image/png;base64,@@@"), status: 400, code: "invalid_base64"},
		{name: "image type", body: img("data:image/bmp;base64,Qk0="), status: 400, code: "invalid_image_format"},
		{name: "image is another type", body: img("data:image/jpeg;base64," + pngData), status: 400, message: "image/png"},
		{name: "image neither URL nor data", body: img("cat.png"), status: 400, code: "invalid_image_url"},
		{name: "json_object without the word", body: with(`"response_format":{"type":"json_object"}`), status: 400, message: "must contain the word 'json'"},
		{name: "json_schema without name", body: with(`"response_format":{"type":"json_schema","json_schema":{"schema":{}}}`), status: 400, param: "response_format.json_schema.name"},
		{name: "strict schema is open", body: with(`"response_format":` + strictOpen), status: 400, message: "additionalProperties"},
		{name: "unknown path", path: "/v1/engines", body: `{}`, status: 404, message: "Invalid URL"},
		{name: "embedding of nothing", path: "/v1/embeddings", body: `{"model":"text-embedding-3-small","input":""}`, status: 400, param: "input"},
		{name: "embedding of a mixture", path: "/v1/embeddings", body: `{"model":"text-embedding-3-small","input":["a",1]}`, status: 400, param: "input"},
		{name: "embedding with a chat model", path: "/v1/embeddings", body: `{"model":"gpt-4o","input":"a"}`, status: 403},
		{name: "embedding too wide", path: "/v1/embeddings", body: `{"model":"text-embedding-3-small","input":"a","dimensions":4000}`, status: 400, param: "dimensions"},
		{name: "responses with messages", path: "/v1/responses", body: with(`"store":false`), status: 400, param: "input"},
		{name: "responses max too small", path: "/v1/responses", body: `{"model":"gpt-4o","input":"hi","max_output_tokens":5}`, status: 400, code: "integer_below_min_value"},
		{name: "responses result without call", path: "/v1/responses", body: `{"model":"gpt-4o","input":[{"type":"function_call_output","call_id":"c","output":"x"}]}`, status: 400, message: "No tool call found"},
		{name: "responses call without result", path: "/v1/responses", body: `{"model":"gpt-4o","input":[{"type":"function_call","call_id":"c","name":"w","arguments":"{}"}]}`, status: 400, message: "No tool output found"},
		{name: "responses previous", path: "/v1/responses", body: `{"model":"gpt-4o","input":"hi","previous_response_id":"resp_1"}`, status: 400, code: "previous_response_not_found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, url := newSim(t, Options{Dialect: OpenAI, Key: "k"})
			if c.path == "" {
				c.path = chatPath
			}
			got := do(t, "POST", url+c.path, c.body, append([]string{bearer}, c.headers...)...)
			if got.status != c.status {
				t.Fatalf("status %d, want %d: %s", got.status, c.status, got.body)
			}
			msg, _ := dig(t, got.body, "error", "message").(string)
			if msg == "" || !strings.Contains(msg, c.message) {
				t.Errorf("message %q lacks %q", msg, c.message)
			}
			if typ, _ := dig(t, got.body, "error", "type").(string); typ == "" {
				t.Errorf("no error type: %s", got.body)
			}
			if param, _ := dig(t, got.body, "error", "param").(string); c.param != "" && param != c.param {
				t.Errorf("param %q, want %q (%s)", param, c.param, msg)
			}
			if code, _ := dig(t, got.body, "error", "code").(string); c.code != "" && code != c.code {
				t.Errorf("code %q, want %q (%s)", code, c.code, msg)
			}
			if strings.Contains(got.body, "wrong") && strings.Contains(got.body, "Bearer wrong") {
				t.Errorf("the error repeats the credential: %s", got.body)
			}
		})
	}
}

func TestOpenAIMethods(t *testing.T) {
	_, url := newSim(t, Options{Dialect: OpenAI})
	for _, c := range []struct {
		method, path string
		headers      []string
		status       int
	}{
		{"GET", chatPath, nil, 405},
		{"PUT", chatPath, nil, 405},
		{"POST", "/v1/models", nil, 405},
		{"GET", "/v1/models/nope", nil, 404},
		{"GET", "/v1/models/gpt-4o", nil, 200},
		{"GET", "/v1/models", nil, 200},
		{"GET", "/v1/responses", []string{"Upgrade: websocket", "Connection: Upgrade"}, 426},
		{"GET", "/", nil, 404},
	} {
		if got := do(t, c.method, url+c.path, "", append(c.headers, bearer)...); got.status != c.status {
			t.Errorf("%s %s: status %d, want %d: %s", c.method, c.path, got.status, c.status, got.body)
		}
	}
}

// TestOpenAIAccepts holds that the real API's liberties are not refused.
func TestOpenAIAccepts(t *testing.T) {
	_, url := newSim(t, Options{Dialect: OpenAI})
	for name, body := range map[string]string{
		"empty user text":            `{"model":"gpt-4o","messages":[{"role":"user","content":""}]}`,
		"consecutive users":          `{"model":"gpt-4o","messages":[{"role":"user","content":"a"},{"role":"user","content":"b"}]}`,
		"system late":                `{"model":"gpt-4o","messages":[{"role":"user","content":"a"},{"role":"system","content":"b"},{"role":"developer","content":"c"}]}`,
		"assistant last":             `{"model":"gpt-4o","messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}`,
		"null options":               `{"model":"gpt-4o","messages":[{"role":"user","content":"a"}],"temperature":null,"tools":null,"stop":null}`,
		"arguments that are no JSON": `{"model":"gpt-4o","messages":[{"role":"user","content":"a"},{"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{"}}]},{"role":"tool","tool_call_id":"1","content":[{"type":"text","text":"x"}]}]}`,
		"integral temperature":       `{"model":"gpt-4o","messages":[{"role":"user","content":"a"}],"temperature":2}`,
	} {
		if got := do(t, "POST", url+chatPath, body, bearer); got.status != 200 {
			t.Errorf("%s: status %d: %s", name, got.status, got.body)
		}
	}
}
