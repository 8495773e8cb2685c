package openai

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/internal/adaptertest"
)

// sparse leaves the unset fields out of a printed canon value.
func sparse(text []byte) []byte {
	var out []byte
	for line := range bytes.Lines(append(text, '\n')) {
		switch value := strings.TrimRight(string(line[bytes.IndexByte(line, ':')+1:]), ",\n"); value {
		case " null", ` ""`, " false":
		default:
			out = append(out, line...)
		}
	}
	return out
}

// TestRequests reads each request of testdata/requests into canon and prints it out again: the two
// halves of a translation, each with its golden.
func TestRequests(t *testing.T) {
	files, _ := filepath.Glob("testdata/requests/*.in.json")
	if len(files) == 0 {
		t.Fatal("no requests in testdata")
	}
	for _, file := range files {
		base := strings.TrimSuffix(file, ".in.json")
		t.Run(filepath.Base(base), func(t *testing.T) {
			body, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			r, e := inbound{}.ParseRequest(body)
			if e != nil {
				t.Fatal(e)
			}
			before, _ := json.MarshalIndent(r, "", "  ")
			adaptertest.File(t, base+".canon.txt", sparse(before))
			call, e := outbound{}.BuildCall(r, canon.CallOptions{Model: "provider-model"})
			if e != nil {
				t.Fatal(e)
			}
			out := adaptertest.Indent(t, call.Body) + "path: " + call.Path + "\ndropped: " + strings.Join(call.Dropped, ", ") + "\n"
			adaptertest.File(t, base+".call.txt", []byte(out))
			if after, _ := json.MarshalIndent(r, "", "  "); !bytes.Equal(before, after) {
				t.Error("BuildCall changed the request")
			}
		})
	}
}

func TestParseRequestRefuses(t *testing.T) {
	with := func(member string) string {
		return `{"model":"m","messages":[{"role":"user","content":"hi"}],` + member + `}`
	}
	msgs := func(messages string) string { return `{"model":"m","messages":` + messages + `}` }
	part := func(p string) string { return msgs(`[{"role":"user","content":[` + p + `]}]`) }
	image := func(url string) string { return part(`{"type":"image_url","image_url":{"url":"` + url + `"}}`) }
	tests := []struct{ name, body, param, message string }{
		{"empty", "", "", "the request has no body: send a JSON object"},
		{"blank", " \n", "", "the request has no body: send a JSON object"},
		{"not JSON", "model=x", "", "the body is not valid JSON: a JSON value was expected at byte 0"},
		{"cut", `{"model":"m"`, "", "the body is not valid JSON: unexpected end of the JSON text at byte 12"},
		{"trailing", with(`"n":1`) + "x", "", "the body is not valid JSON: more data after the JSON value at byte 63"},
		{"array", "[]", "", "the body must be a JSON object, not an array"},
		{"bad UTF-8", "{\"model\":\"\xff\"}", "", "the body is not valid JSON: invalid UTF-8 at byte 10"},
		{"duplicate", `{"model":"a","model":"b"}`, "model", "model is given more than once"},
		{"duplicate in disguise", `{"model":"a","mod\u0065l":"b"}`, "model", "model is given more than once"},
		{"duplicate unknown", with(`"x":1,"x":2`), "x", "x is given more than once"},
		{"no model", `{"messages":[]}`, "model", "model is required and must be a string"},
		{"model number", `{"model":1}`, "model", "model must be a string, not a number"},
		{"model empty", `{"model":""}`, "model", "model must not be empty"},
		{"no messages", `{"model":"m"}`, "messages", "messages is required and must be an array"},
		{"messages object", msgs(`{}`), "messages", "messages must be an array, not an object"},
		{"messages empty", msgs(`[]`), "messages", "messages must not be empty"},
		{"message string", msgs(`["hi"]`), "messages[0]", "messages[0] must be an object, not a string"},
		{"no role", msgs(`[{"content":"x"}]`), "messages[0].role", "messages[0].role is required and must be a string"},
		{"odd role", msgs(`[{"role":"bot","content":"x"}]`), "messages[0].role", `messages[0].role must be developer, system, user, assistant or tool, not "bot"`},
		{"function role", msgs(`[{"role":"function","content":"x"}]`), "messages[0].role", `messages[0].role is "function", the legacy form of "tool", and cannot be translated: use tool`},
		{"no content", msgs(`[{"role":"user"}]`), "messages[0].content", "messages[0].content is required and must be a string or an array of parts"},
		{"null content", msgs(`[{"role":"user","content":null}]`), "messages[0].content", "messages[0].content must be a string or an array of parts, not null"},
		{"empty parts", msgs(`[{"role":"user","content":[]}]`), "messages[0].content", "messages[0].content must not be an empty array"},
		{"part string", part(`"x"`), "messages[0].content[0]", "messages[0].content[0] must be an object, not a string"},
		{"part without type", part(`{"text":"x"}`), "messages[0].content[0].type", "messages[0].content[0].type is required and must be a string"},
		{"part of odd type", part(`{"type":"x"}`), "messages[0].content[0].type", `messages[0].content[0].type must be text or image_url, not "x"`},
		{"audio", part(`{"type":"input_audio","input_audio":{}}`), "messages[0].content[0].type", `messages[0].content[0].type is "input_audio", which cannot be translated: only text and image_url can`},
		{"file", part(`{"type":"file","file":{}}`), "messages[0].content[0].type", `messages[0].content[0].type is "file", which cannot be translated: only text and image_url can`},
		{"text number", part(`{"type":"text","text":5}`), "messages[0].content[0].text", "messages[0].content[0].text must be a string, not a number"},
		{"image in system", msgs(`[{"role":"system","content":[{"type":"image_url","image_url":{"url":"http://x"}}]}]`), "messages[0].content[0].type", `messages[0].content[0].type is "image_url", but only text is allowed in a message of this role`},
		{"image string", part(`{"type":"image_url","image_url":"http://x"}`), "messages[0].content[0].image_url", "messages[0].content[0].image_url must be an object, not a string"},
		{"second image", msgs(`[{"role":"user","content":"a"},{"role":"user","content":"a"},{"role":"user","content":[{"type":"image_url","image_url":{}}]}]`), "messages[2].content[0].image_url.url", "messages[2].content[0].image_url.url is required and must be a string"},
		{"image scheme", image("ftp://x/y.png"), "messages[0].content[0].image_url.url", "messages[0].content[0].image_url.url must start with https://, http:// or data:"},
		{"image URL", image("https://"), "messages[0].content[0].image_url.url", "messages[0].content[0].image_url.url is not a valid URL"},
		{"data without comma", image("data:image/png;base64"), "messages[0].content[0].image_url.url", "messages[0].content[0].image_url.url is a data URI without a comma before its content"},
		{"data without base64", image("data:image/png,AAAA"), "messages[0].content[0].image_url.url", "messages[0].content[0].image_url.url is a data URI that is not ;base64"},
		{"data of text", image("data:text/html;base64,AAAA"), "messages[0].content[0].image_url.url", `messages[0].content[0].image_url.url is a data URI of type "text/html": it must be image/ and a subtype, without parameters`},
		{"data URL-safe", image("data:image/png;base64,AA-_"), "messages[0].content[0].image_url.url", "messages[0].content[0].image_url.url is a data URI whose content is not base64 (standard alphabet, padded, nothing else)"},
		{"data unpadded", image("data:image/png;base64,AAA"), "messages[0].content[0].image_url.url", "messages[0].content[0].image_url.url is a data URI whose content is not base64 (standard alphabet, padded, nothing else)"},
		{"data empty", image("data:image/png;base64,"), "messages[0].content[0].image_url.url", "messages[0].content[0].image_url.url is a data URI whose content is not base64 (standard alphabet, padded, nothing else)"},
		{"detail", part(`{"type":"image_url","image_url":{"url":"http://x","detail":"max"}}`), "messages[0].content[0].image_url.detail", `messages[0].content[0].image_url.detail must be auto, low, high or original, not "max"`},
		{"assistant empty", msgs(`[{"role":"assistant","content":null}]`), "messages[0].content", "messages[0].content must be a string or an array of parts where there are no tool_calls, not null"},
		{"legacy call", msgs(`[{"role":"assistant","function_call":{"name":"x","arguments":"{}"}}]`), "messages[0].function_call", "messages[0].function_call is the legacy form of tool_calls and cannot be translated: use tool_calls"},
		{"custom call", msgs(`[{"role":"assistant","tool_calls":[{"id":"1","type":"custom","custom":{}}]}]`), "messages[0].tool_calls[0].type", `messages[0].tool_calls[0].type is "custom", which cannot be translated: only function can`},
		{"call without id", msgs(`[{"role":"assistant","tool_calls":[{"type":"function","function":{"name":"f","arguments":"{}"}}]}]`), "messages[0].tool_calls[0].id", "messages[0].tool_calls[0].id is required and must be a string"},
		{"arguments object", msgs(`[{"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":{}}}]}]`), "messages[0].tool_calls[0].function.arguments", "messages[0].tool_calls[0].function.arguments must be a string, not an object"},
		{"arguments cut", msgs(`[{"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"a"}}]}]`), "messages[0].tool_calls[0].function.arguments", "messages[0].tool_calls[0].function.arguments must be the text of a JSON object"},
		{"call unanswered", msgs(`[{"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":""}}]},{"role":"user","content":"x"}]`), "messages[0].tool_calls", `messages[0].tool_calls must be followed by a tool message for each call: none answers "1"`},
		{"call unanswered at the end", msgs(`[{"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":""}}]}]`), "messages[0].tool_calls", `messages[0].tool_calls must be followed by a tool message for each call: none answers "1"`},
		{"result without call", msgs(`[{"role":"user","content":"x"},{"role":"tool","tool_call_id":"9","content":"x"}]`), "messages[1].tool_call_id", `messages[1].tool_call_id is "9", which no unanswered call of the assistant message before it has`},
		{"result without id", msgs(`[{"role":"tool","content":"x"}]`), "messages[0].tool_call_id", "messages[0].tool_call_id is required and must be a string"},
		{"n", with(`"n":2`), "n", "n must be 1: a request that is translated, or names a session, has one choice"},
		{"functions", with(`"functions":[]`), "functions", "functions is the legacy form of tools and cannot be translated: use tools"},
		{"function_call", with(`"function_call":"auto"`), "function_call", "function_call is the legacy form of tool_choice and cannot be translated: use tool_choice"},
		{"modalities", with(`"modalities":["text","audio"]`), "modalities", `modalities must be ["text"]: other outputs cannot be translated`},
		{"temperature", with(`"temperature":2.1`), "temperature", "temperature must be between 0 and 2"},
		{"temperature string", with(`"temperature":"1"`), "temperature", "temperature must be a number, not a string"},
		{"temperature huge", with(`"temperature":1e999`), "temperature", "temperature must be between 0 and 2"},
		{"max_tokens", with(`"max_tokens":0`), "max_tokens", "max_tokens must be at least 1"},
		{"max_tokens fraction", with(`"max_tokens":1.5`), "max_tokens", "max_tokens must be a whole number of 64 bits"},
		{"max_completion_tokens", with(`"max_completion_tokens":-1,"max_tokens":5`), "max_completion_tokens", "max_completion_tokens must be at least 1"},
		{"seed", with(`"seed":true`), "seed", "seed must be a whole number, not a boolean"},
		{"stop", with(`"stop":{}`), "stop", "stop must be a string or an array of strings, not an object"},
		{"stop element", with(`"stop":["a",1]`), "stop[1]", "stop[1] must be a string, not a number"},
		{"stream", with(`"stream":"yes"`), "stream", "stream must be a boolean, not a string"},
		{"stream_options", with(`"stream_options":{"include_usage":1}`), "stream_options.include_usage", "stream_options.include_usage must be a boolean, not a number"},
		{"format", with(`"response_format":{"type":"xml"}`), "response_format.type", `response_format.type must be text, json_object or json_schema, not "xml"`},
		{"format name", with(`"response_format":{"type":"json_schema","json_schema":{"schema":{}}}`), "response_format.json_schema.name", "response_format.json_schema.name is required and must be a string"},
		{"format schema", with(`"response_format":{"type":"json_schema","json_schema":{"name":"x"}}`), "response_format.json_schema.schema", "response_format.json_schema.schema is required and must be an object"},
		{"effort", with(`"reasoning_effort":"huge"`), "reasoning_effort", `reasoning_effort must be none, minimal, low, medium, high, xhigh or max, not "huge"`},
		{"budget", with(`"thinking_budget":-1`), "thinking_budget", "thinking_budget must not be negative"},
		{"tools", with(`"tools":{}`), "tools", "tools must be an array, not an object"},
		{"tool type", with(`"tools":[{"type":"custom","custom":{"name":"x"}}]`), "tools[0].type", `tools[0].type is "custom", which cannot be translated: only function can`},
		{"tool name", with(`"tools":[{"type":"function","function":{}}]`), "tools[0].function.name", "tools[0].function.name is required and must be a string"},
		{"tool parameters", with(`"tools":[{"type":"function","function":{"name":"f","parameters":[]}}]`), "tools[0].function.parameters", "tools[0].function.parameters must be a JSON Schema object, not an array"},
		{"choice", with(`"tool_choice":"any"`), "tool_choice", `tool_choice must be none, auto, required or an object, not "any"`},
		{"choice without tools", with(`"tool_choice":"required"`), "tool_choice", "tool_choice is required, but there are no tools"},
		{"choice of nothing", with(`"tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":{"type":"function","function":{"name":"g"}}`), "tool_choice.function.name", `tool_choice.function.name is "g", which is not among tools`},
		{"choice custom", with(`"tool_choice":{"type":"custom","custom":{"name":"g"}}`), "tool_choice.type", `tool_choice.type is "custom", which cannot be translated: only function can`},
		{"allowed none", with(`"tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"auto","tools":[]}}`), "tool_choice.allowed_tools.tools", "tool_choice.allowed_tools.tools must not be empty"},
		{"allowed unknown", with(`"tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"auto","tools":[{"type":"function","function":{"name":"g"}}]}}`), "tool_choice.allowed_tools.tools[0].function.name", `tool_choice.allowed_tools.tools[0].function.name is "g", which is not among tools`},
		{"user", with(`"user":7`), "user", "user must be a string, not a number"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := inbound{}.ParseRequest([]byte(tt.body))
			if err == nil {
				t.Fatalf("accepted as %+v", r)
			}
			if err.Kind != canon.ErrInvalidRequest || err.HTTPStatus() != 400 || err.Param != tt.param || err.Message != tt.message {
				t.Errorf("got %s, param %q, %q\nwant param %q, %q", err.Kind, err.Param, err.Message, tt.param, tt.message)
			}
		})
	}
}

// TestNotTranslatable tells what OpenAI itself would serve from what nobody would.
func TestNotTranslatable(t *testing.T) {
	called := func(arguments string) string {
		return `{"model":"m","messages":[{"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":` +
			arguments + `}}]},{"role":"tool","tool_call_id":"1","content":"x"}]}`
	}
	for body, code := range map[string]string{
		`{"model":"m","messages":[{"role":"user","content":"x"}],"n":2}`:                   canon.CodeNotTranslatable,
		`{"model":"m","messages":[{"role":"user","content":"x"}],"n":"2"}`:                 "",
		`{"model":"m","messages":[{"role":"user","content":[{"type":"file","file":{}}]}]}`: canon.CodeNotTranslatable,
		called(`"{\"a"`): canon.CodeNotTranslatable,
		called(`"7"`):    canon.CodeNotTranslatable,
		called(`{}`):     "",
		`{"model":"m","messages":[{"role":"user","content":[{"type":"odd"}]}]}`:                                  "",
		`{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[{"type":"custom","custom":{}}]}`:       canon.CodeNotTranslatable,
		`{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[{"type":"function","function":null}]}`: "",
	} {
		if _, err := (inbound{}).ParseRequest([]byte(body)); err == nil || err.Code != code {
			t.Errorf("%s: %+v, want the code %q", body, err, code)
		}
	}
}

func TestParseRequestTooManyMembers(t *testing.T) {
	var sb strings.Builder
	sb.WriteString(`{"model":"m"`)
	for range maxMembers {
		sb.WriteString(`,"` + strings.Repeat("x", sb.Len()%999+1) + `":1`)
	}
	if _, err := (inbound{}).ParseRequest([]byte(sb.String() + "}")); err == nil {
		t.Error("accepted")
	}
}

func FuzzParseRequest(f *testing.F) {
	files, _ := filepath.Glob("testdata/requests/*.in.json")
	for _, file := range files {
		body, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Add([]byte(`{"model":"m","messages":[{"role":"user","content":"\ud800"}],"stop":["a"]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := inbound{}.ParseRequest(body)
		if err != nil {
			if err.Kind != canon.ErrInvalidRequest || err.Message == "" {
				t.Fatalf("error %+v", err)
			}
			return
		}
		call, err := outbound{}.BuildCall(r, canon.CallOptions{Model: "m2"})
		if err != nil {
			t.Fatalf("read but not printed: %v", err)
		}
		if !json.Valid(call.Body) {
			t.Fatalf("printed %s", call.Body)
		}
		again, err := inbound{}.ParseRequest(call.Body)
		if err != nil {
			t.Fatalf("printed %s, which is refused: %v", call.Body, err)
		}
		if len(again.Messages) < len(r.Messages) {
			t.Fatalf("%d messages became %d", len(r.Messages), len(again.Messages))
		}
	})
}
