package anthropic

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
)

const minimal = `"model":"m","max_tokens":10,"messages":[{"role":"user","content":"hi"}]`

func withMessages(messages string) string {
	return `{"model":"m","max_tokens":10,"messages":` + messages + `}`
}

func withBlock(block string) string {
	return withMessages(`[{"role":"user","content":[` + block + `]}]`)
}

func TestParseRequestRefuses(t *testing.T) {
	tests := []struct{ name, body, want string }{
		{"empty", "", "the request body is empty"},
		{"white space", " \n", "the request body is empty"},
		{"truncated", `{"model":"m"`, "not valid JSON: unexpected end"},
		{"trailing data", `{` + minimal + `} {}`, "more data after the JSON value at byte"},
		{"invalid UTF-8", "{\"model\":\"\xff\"," + minimal[12:] + "}", "invalid UTF-8 at byte 10"},
		{"array", `[]`, "must be a JSON object, not an array"},
		{"null", `null`, "must be a JSON object, not null"},
		{"duplicate known", `{"model":"a",` + minimal + `}`, "model: the field is there more than once"},
		{"duplicate escaped", `{"mod\u0065l":"a",` + minimal + `}`, "model: the field is there more than once"},
		{"duplicate unknown", `{"speed":"fast","speed":"slow",` + minimal + `}`, "speed: the field is there more than once"},
		{"no model", `{"max_tokens":1,"messages":[]}`, "model: field required"},
		{"model number", `{"model":4,"max_tokens":1,"messages":[]}`, "model: must be a string, not a number"},
		{"model empty", `{"model":"","max_tokens":1,"messages":[]}`, "model: must not be empty"},
		{"no max_tokens", `{"model":"m","messages":[]}`, "max_tokens: field required"},
		{"max_tokens null", `{"model":"m","max_tokens":null,"messages":[]}`, "max_tokens: must be a whole number, not null"},
		{"max_tokens string", `{"model":"m","max_tokens":"9","messages":[]}`, "max_tokens: must be a whole number, not a string"},
		{"max_tokens fraction", `{"model":"m","max_tokens":1.5,"messages":[]}`, "max_tokens: must be a whole number"},
		{"max_tokens negative", `{"model":"m","max_tokens":-1,"messages":[]}`, "max_tokens: must be 1 or more"},
		{"max_tokens huge", `{"model":"m","max_tokens":99999999999999999999,"messages":[]}`, "max_tokens: must be a whole number"},
		{"no messages", `{"model":"m","max_tokens":1}`, "messages: field required"},
		{"messages object", withMessages(`{}`), "messages: must be an array, not an object"},
		{"messages empty", withMessages(`[]`), "messages: at least one message is required"},
		{"message string", withMessages(`["hi"]`), "messages.0: must be an object, not a string"},
		{"role missing", withMessages(`[{"content":"hi"}]`), "messages.0.role: field required"},
		{"role tool", withMessages(`[{"role":"tool","content":"hi"}]`), "messages.0.role: must be user, assistant or system"},
		{"content missing", withMessages(`[{"role":"user"}]`), "messages.0.content: field required"},
		{"content null", withMessages(`[{"role":"user","content":null}]`), "messages.0.content: must be a string or an array of content blocks, not null"},
		{"content empty", withMessages(`[{"role":"user","content":""}]`), "messages.0.content: must not be empty"},
		{"content empty array", withMessages(`[{"role":"user","content":"a"},{"role":"user","content":[]}]`), "messages.1.content: must not be empty"},
		{"assistant empty in the middle", withMessages(`[{"role":"assistant","content":""},{"role":"user","content":"a"}]`), "messages.0.content: must not be empty"},
		{"block string", withBlock(`"x"`), "messages.0.content.0: must be an object, not a string"},
		{"block without type", withBlock(`{"text":"x"}`), "messages.0.content.0.type: field required"},
		{"text missing", withBlock(`{"type":"text"}`), "messages.0.content.0.text: field required"},
		{"text empty", withBlock(`{"type":"text","text":""}`), "messages.0.content.0.text: must not be empty"},
		{"text number", withBlock(`{"type":"text","text":1}`), "messages.0.content.0.text: must be a string, not a number"},
		{"cache_control string", withBlock(`{"type":"text","text":"x","cache_control":"yes"}`), "messages.0.content.0.cache_control: must be an object, not a string"},
		{"image no source", withBlock(`{"type":"image"}`), "messages.0.content.0.source: field required"},
		{"image media type", withBlock(`{"type":"image","source":{"type":"base64","media_type":"image/bmp","data":"QQ=="}}`), "source.media_type: must be one of image/jpeg"},
		{"image no data", withBlock(`{"type":"image","source":{"type":"base64","media_type":"image/png"}}`), "source.data: field required"},
		{"image bad base64", withBlock(`{"type":"image","source":{"type":"base64","media_type":"image/png","data":"Q Q="}}`), "source.data: must be base64"},
		{"image data URI", withBlock(`{"type":"image","source":{"type":"base64","media_type":"image/png","data":"data:image/png;base64,QQ=="}}`), "source.data: must be base64"},
		{"image ftp", withBlock(`{"type":"image","source":{"type":"url","url":"ftp://x/y"}}`), "source.url: must be a URL"},
		{"image type", withBlock(`{"type":"image","source":{"type":"gopher"}}`), "source.type: must be base64, url or file"},
		{"image in assistant", withMessages(`[{"role":"assistant","content":[{"type":"image","source":{"type":"url","url":"https://x/y"}}]}]`), `"image" blocks cannot stand in a message of role assistant`},
		{"tool_use in user", withBlock(`{"type":"tool_use","id":"a","name":"b","input":{}}`), `"tool_use" blocks cannot stand in a message of role user`},
		{"tool_result in assistant", withMessages(`[{"role":"assistant","content":[{"type":"tool_result","tool_use_id":"a"}]}]`), "cannot stand"},
		{"tool_result in tool_result", withBlock(`{"type":"tool_result","tool_use_id":"a","content":[{"type":"tool_result","tool_use_id":"b"}]}`), "messages.0.content.0.content.0.type: \"tool_result\" blocks cannot stand in a tool_result"},
		{"tool_use without input", withMessages(`[{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"b"}]}]`), "messages.0.content.0.input: field required"},
		{"tool_use string input", withMessages(`[{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"b","input":"{}"}]}]`), "input: must be an object, not a string"},
		{"tool_result without id", withBlock(`{"type":"tool_result","content":"x"}`), "tool_use_id: field required"},
		{"tool_result is_error", withBlock(`{"type":"tool_result","tool_use_id":"a","is_error":"no"}`), "is_error: must be true or false, not a string"},
		{"tool_result number", withBlock(`{"type":"tool_result","tool_use_id":"a","content":5}`), "messages.0.content.0.content: must be a string or an array"},
		{"thinking without signature", withMessages(`[{"role":"assistant","content":[{"type":"thinking","thinking":"x"}]}]`), "signature: field required"},
		{"thinking number", withMessages(`[{"role":"assistant","content":[{"type":"thinking","thinking":1,"signature":""}]}]`), "thinking: must be a string"},
		{"system number", `{"system":1,` + minimal + `}`, "system: must be a string or an array"},
		{"system image", `{"system":[{"type":"image","source":{"type":"url","url":"https://x/y"}}],` + minimal + `}`, "system.0.type: \"image\" blocks cannot stand"},
		{"temperature high", `{"temperature":1.1,` + minimal + `}`, "temperature: must be a number from 0 to 1"},
		{"temperature string", `{"temperature":"0.5",` + minimal + `}`, "temperature: must be a number, not a string"},
		{"top_p", `{"top_p":-0.1,` + minimal + `}`, "top_p: must be a number from 0 to 1"},
		{"top_k", `{"top_k":-1,` + minimal + `}`, "top_k: must be 0 or more"},
		{"stop string", `{"stop_sequences":"x",` + minimal + `}`, "stop_sequences: must be an array of strings, not a string"},
		{"stop number", `{"stop_sequences":["a",1],` + minimal + `}`, "stop_sequences.1: must be a string"},
		{"stop blank", `{"stop_sequences":[" \n"],` + minimal + `}`, "stop_sequences.0: each stop sequence must contain non-whitespace"},
		{"stream string", `{"stream":"true",` + minimal + `}`, "stream: must be true or false, not a string"},
		{"metadata string", `{"metadata":"x",` + minimal + `}`, "metadata: must be an object"},
		{"user_id number", `{"metadata":{"user_id":1},` + minimal + `}`, "metadata.user_id: must be a string"},
		{"tools object", `{"tools":{},` + minimal + `}`, "tools: must be an array"},
		{"tool string", `{"tools":["x"],` + minimal + `}`, "tools.0: must be an object"},
		{"tool no name", `{"tools":[{"input_schema":{}}],` + minimal + `}`, "tools.0.name: field required"},
		{"tool bad name", `{"tools":[{"name":"a b","input_schema":{}}],` + minimal + `}`, "tools.0.name: must match"},
		{"tool no schema", `{"tools":[{"name":"a"}],` + minimal + `}`, "tools.0.input_schema: field required"},
		{"tool twice", `{"tools":[{"name":"a","input_schema":{}},{"name":"a","input_schema":{}}],` + minimal + `}`, "tools.1.name: tool names must be unique"},
		{"tool_choice string", `{"tools":[{"name":"a","input_schema":{}}],"tool_choice":"auto",` + minimal + `}`, "tool_choice: must be an object"},
		{"tool_choice type", `{"tools":[{"name":"a","input_schema":{}}],"tool_choice":{"type":"required"},` + minimal + `}`, "tool_choice.type: must be auto, any, tool or none"},
		{"tool_choice without tools", `{"tool_choice":{"type":"any"},` + minimal + `}`, "tool_choice: may only be specified while providing tools"},
		{"tool_choice unknown tool", `{"tools":[{"name":"a","input_schema":{}}],"tool_choice":{"type":"tool","name":"b"},` + minimal + `}`, `tool_choice.name: tool "b" is not among the tools`},
		{"thinking type", `{"thinking":{"type":"on"},` + minimal + `}`, "thinking.type: must be enabled"},
		{"thinking budget missing", `{"thinking":{"type":"enabled"},` + minimal + `}`, "thinking.budget_tokens: field required"},
		{"thinking budget small", `{"thinking":{"type":"enabled","budget_tokens":1023},` + minimal + `}`, "thinking.budget_tokens: must be 1024 or more"},
		{"effort", `{"output_config":{"effort":"huge"},` + minimal + `}`, "output_config.effort: must be one of low"},
		{"format type", `{"output_config":{"format":{"type":"json_object"}},` + minimal + `}`, "output_config.format.type: must be json_schema"},
		{"format schema", `{"output_config":{"format":{"type":"json_schema","schema":"x"}},` + minimal + `}`, "output_config.format.schema: must be an object"},
		{"format twice", `{"output_config":{"format":{"type":"json_schema","schema":{}}},"output_format":{"type":"json_schema","schema":{}},` + minimal + `}`, "output_format"},
		{"deep", strings.Repeat("[", 10000), "not valid JSON: too deeply nested"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req, err := inbound{}.ParseRequest([]byte(tt.body))
			if err == nil {
				t.Fatalf("accepted: %+v", req)
			}
			if !strings.Contains(err.Message, tt.want) {
				t.Errorf("message %q does not contain %q", err.Message, tt.want)
			}
			if err.Kind != canon.ErrInvalidRequest || err.Code != "" {
				t.Errorf("kind %s code %q, want invalid_request and none", err.Kind, err.Code)
			}
		})
	}
}

func TestParseRequestNotTranslatable(t *testing.T) {
	tests := []struct{ body, param string }{
		{withBlock(`{"type":"document","source":{"type":"text","media_type":"text/plain","data":"x"}}`), "messages.0.content.0.type"},
		{withBlock(`{"type":"search_result","source":"x","title":"y","content":[]}`), "messages.0.content.0.type"},
		{withBlock(`{"type":"image","source":{"type":"file","file_id":"f"}}`), "messages.0.content.0.source.type"},
		{withBlock(`{"type":"from_the_future"}`), "messages.0.content.0.type"},
		{withBlock(`{"type":"tool_result","tool_use_id":"a","content":[{"type":"document"}]}`), "messages.0.content.0.content.0.type"},
		{`{"tools":[{"type":"web_search_20250305","name":"web_search"}],` + minimal + `}`, "tools.0.type"},
		{`{"mcp_servers":[{"type":"url","url":"https://x","name":"y"}],` + minimal + `}`, "mcp_servers"},
		{`{"model":"m","max_tokens":0,"messages":[]}`, "max_tokens"},
	}
	for _, tt := range tests {
		_, err := inbound{}.ParseRequest([]byte(tt.body))
		if err == nil || err.Code != canon.CodeNotTranslatable || err.Param != tt.param || err.HTTPStatus() != 400 {
			t.Errorf("%s: got %+v, want code %s at %s", tt.body, err, canon.CodeNotTranslatable, tt.param)
		}
	}
}

func TestParseRequestAccepts(t *testing.T) {
	for _, body := range []string{
		`{"temperature":null,"top_p":null,"tools":null,"tool_choice":null,"system":null,"metadata":null,"stream":null,"thinking":null,"output_config":null,"stop_sequences":null,` + minimal + `}`,
		`{"system":"","metadata":{"user_id":null},"mcp_servers":[],` + minimal + `}`,
		withMessages(`[{"role":"user","content":"a"},{"role":"assistant","content":""}]`),
		withMessages(`[{"role":"user","content":"a"},{"role":"system","content":"be brief"}]`),
		withMessages(`[{"role":"assistant","content":"a"}]`),
		withBlock(`{"type":"tool_result","tool_use_id":"a","content":null}`),
		"\t{" + minimal + "}\r\n",
	} {
		if _, err := (inbound{}).ParseRequest([]byte(body)); err != nil {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func TestParseRequestBoundsExtra(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"bad\r\nname":1,"` + strings.Repeat("x", 5000) + `":1,`)
	for i := range 500 {
		fmt.Fprintf(&b, `"field_%d":1,`, i)
	}
	b.WriteString(minimal + "}")
	req, err := inbound{}.ParseRequest([]byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	if len(req.Extra) != maxExtra {
		t.Errorf("%d extra fields, want %d", len(req.Extra), maxExtra)
	}
	for _, field := range req.Extra {
		if len(field) > 70 || strings.ContainsAny(field, "\r\n") {
			t.Errorf("%q does not belong in a header", field)
		}
	}
}

func TestParseReasoningAndFormat(t *testing.T) {
	budget := int64(2000)
	tests := []struct {
		fields string
		want   *canon.Reasoning
		extra  string
	}{
		{``, nil, ""},
		{`"thinking":{"type":"disabled"},`, &canon.Reasoning{Disabled: true}, ""},
		{`"thinking":{"type":"adaptive"},`, &canon.Reasoning{}, ""},
		{`"thinking":{"type":"between_tools"},`, &canon.Reasoning{}, "thinking.type"},
		{`"thinking":{"type":"enabled","budget_tokens":2000,"display":"omitted"},`, &canon.Reasoning{BudgetTokens: &budget}, "thinking.display"},
		{`"output_config":{"effort":"max"},`, &canon.Reasoning{Effort: "max"}, ""},
		{`"output_config":{"effort":"low","task_budget":{}},"thinking":{"type":"enabled","budget_tokens":2000},`, &canon.Reasoning{Effort: "low", BudgetTokens: &budget}, "output_config.task_budget"},
		{`"output_config":{"effort":null,"format":null},`, nil, ""},
	}
	for _, tt := range tests {
		req, err := inbound{}.ParseRequest([]byte("{" + tt.fields + minimal + "}"))
		if err != nil {
			t.Errorf("%s: %v", tt.fields, err)
			continue
		}
		if !reflect.DeepEqual(req.Reasoning, tt.want) || strings.Join(req.Extra, " ") != tt.extra {
			t.Errorf("%s: got %+v extra %v", tt.fields, req.Reasoning, req.Extra)
		}
	}
	req, err := inbound{}.ParseRequest([]byte(`{"output_format":{"type":"json_schema","schema":{"type":"object"}},` + minimal + `}`))
	if err != nil || req.Format == nil || req.Format.Kind != canon.FormatSchema || string(req.Format.Schema) != `{"type":"object"}` {
		t.Errorf("output_format: %+v, %v", req, err)
	}
}

func TestParseToolChoice(t *testing.T) {
	tests := []struct {
		choice   string
		want     canon.ToolChoice
		parallel string
	}{
		{`{"type":"auto"}`, canon.ToolChoice{Mode: canon.ChoiceAuto}, "unset"},
		{`{"type":"any","disable_parallel_tool_use":false}`, canon.ToolChoice{Mode: canon.ChoiceRequired}, "true"},
		{`{"type":"tool","name":"f","disable_parallel_tool_use":true}`, canon.ToolChoice{Mode: canon.ChoiceTool, Name: "f"}, "false"},
		{`{"type":"none"}`, canon.ToolChoice{Mode: canon.ChoiceNone}, "unset"},
	}
	for _, tt := range tests {
		req, err := inbound{}.ParseRequest([]byte(`{"tools":[{"name":"f","input_schema":{}}],"tool_choice":` + tt.choice + `,` + minimal + `}`))
		if err != nil {
			t.Errorf("%s: %v", tt.choice, err)
			continue
		}
		parallel := "unset"
		if req.ParallelToolCalls != nil {
			parallel = fmt.Sprint(*req.ParallelToolCalls)
		}
		if *req.ToolChoice != tt.want || parallel != tt.parallel {
			t.Errorf("%s: got %+v, parallel %s", tt.choice, *req.ToolChoice, parallel)
		}
	}
}
