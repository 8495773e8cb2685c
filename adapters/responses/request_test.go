package responses

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/internal/adaptertest"
)

// TestRequests reads each body and tells what it says about the past, what it keeps of its input, and the chat request it becomes.
func TestRequests(t *testing.T) {
	adaptertest.Folder(t, "requests", func(t *testing.T, in []byte) string {
		r, err := Parse(in)
		if err != nil {
			return refusal(err)
		}
		s := r.State
		out := fmt.Sprintf("model %q stream %v previous %q conversation %q store %v encrypted %v metadata %s\n",
			r.Model(), r.Stream(), s.PreviousResponseID, s.Conversation, s.Store, s.Encrypted, s.Metadata)
		c, err := r.Compose(nil)
		if err != nil {
			return out + refusal(err)
		}
		body, dropped, err := r.PrintChat(c)
		if err != nil {
			return out + refusal(err)
		}
		out += adaptertest.Indent(t, body) + "dropped: " + strings.Join(dropped, ", ") + "\n"
		return out + "kept: " + adaptertest.Indent(t, AppendItems(nil, r.Input))
	})
}

func refusal(err *canon.Error) string {
	return fmt.Sprintf("%s %d param %q code %q\n%s\n", err.Kind, err.HTTPStatus(), err.Param, err.Code, err.Message)
}

func TestParseRefuses(t *testing.T) {
	const not = canon.CodeNotTranslatable
	tests := []struct{ body, param, code, message string }{
		{``, "", "", "the request has no body: send a JSON object"},
		{`{"model":"m"`, "", "", "the body is not valid JSON: unexpected end of the JSON text at byte 12"},
		{`[]`, "", "", "the body must be a JSON object, not an array"},
		{`{"input":"a"}`, "model", "", "model is required and must be a string"},
		{`{"model":"m"}`, "input", "", "input is required and must be a string or an array of items"},
		{`{"model":"m","input":{}}`, "input", "", "input must be a string or an array of items, not an object"},
		{`{"model":"m","model":"n","input":"a"}`, "model", "", "model is given more than once"},
		{`{"model":"m","input":"a","background":true}`, "background", not, "background must be false: this answer is made while the caller waits for it"},
		{`{"model":"m","input":"a","prompt":{"id":"p"}}`, "prompt", not, "prompt is a template kept at OpenAI, which cannot be translated: send instructions and input"},
		{`{"model":"m","input":"a","previous_response_id":"resp_1","conversation":"conv_1"}`, "", "mutually_exclusive_parameters",
			"Mutually exclusive parameters: 'previous_response_id' and 'conversation'. Ensure you are only providing one of them."},
		{`{"model":"m","input":"a","conversation":{"x":1}}`, "conversation.id", "", "conversation.id is required and must be a string"},
		{`{"model":"m","input":"a","conversation":7}`, "conversation", "", "conversation must be a string or an object, not a number"},
		{`{"model":"m","input":"a","store":"no"}`, "store", "", "store must be a boolean, not a string"},
		{`{"model":"m","input":"a","truncation":"some"}`, "truncation", "", `truncation must be one of ["auto" "disabled"], not "some"`},
		{`{"model":"m","input":"a","metadata":{"a":1}}`, "metadata.a", "", "metadata.a must be a string, not a number"},
		{`{"model":"m","input":"a","metadata":{"a":"` + strings.Repeat("x", 3000) + `"}}`, "metadata.a", "", "metadata.a is too long: names have at most 64 characters, values 512"},
		{`{"model":"m","input":"a","max_output_tokens":0}`, "max_output_tokens", "", "max_output_tokens must be at least 1"},
		{`{"model":"m","input":"a","temperature":3}`, "temperature", "", "temperature must be between 0 and 2"},
		{`{"model":"m","input":"a","tools":[{"type":"web_search"}]}`, "tools[0].type", not,
			`tools[0].type is "web_search", which only OpenAI itself has: tools of the type function can be translated, no others`},
		{`{"model":"m","input":"a","tools":[{"type":"namespace","name":"n","tools":[{"type":"custom"}]}]}`, "tools[0].tools[0].type", not,
			`tools[0].tools[0].type is "custom", which only OpenAI itself has: tools of the type function can be translated, no others`},
		{`{"model":"m","input":"a","tools":[{"type":"namespace","name":"n"}]}`, "tools[0].tools", "", "tools[0].tools is required and must be an array of functions"},
		{`{"model":"m","input":"a","tools":[{"type":"namespace","name":"n","tools":[{"type":"function","name":"f"},{"type":"function","name":"f"}]}]}`, "tools[0].tools[1].name", "",
			`tools[0].tools[1].name is "n__f", which stands for two functions of namespaces`},
		{`{"model":"m","input":"a","tools":[{"type":"function"}]}`, "tools[0].name", "", "tools[0].name is required and must be a string"},
		{`{"model":"m","input":"a","tool_choice":"required"}`, "tool_choice", "", "tool_choice is required, but there are no tools"},
		{`{"model":"m","input":"a","tool_choice":{"type":"file_search"}}`, "tool_choice.type", not,
			`tool_choice.type is "file_search", which only OpenAI itself has: tools of the type function can be translated, no others`},
		{`{"model":"m","input":"a","tools":[{"type":"function","name":"f"}],"tool_choice":{"type":"function","name":"g"}}`, "tool_choice.name", "",
			`tool_choice.name is "g", which is not among tools`},
		{`{"model":"m","input":"a","tools":[{"type":"function","name":"f"}],"tool_choice":{"type":"allowed_tools","mode":"auto","tools":[]}}`, "tool_choice.tools", "",
			"tool_choice.tools must be an array that is not empty"},
		{`{"model":"m","input":"a","text":{"format":{"type":"grammar"}}}`, "text.format.type", not,
			`text.format.type is "grammar", which cannot be translated: only text, json_object and json_schema can`},
		{`{"model":"m","input":"a","text":{"format":{"type":"json_schema","name":"n"}}}`, "text.format.schema", "", "text.format.schema is required and must be a JSON Schema object"},
		{`{"model":"m","input":"a","reasoning":{"effort":"huge"}}`, "reasoning.effort", "",
			`reasoning.effort must be one of ["none" "minimal" "low" "medium" "high" "xhigh" "max"], not "huge"`},
		{`{"model":"m","input":"a","include":["x",1]}`, "include[1]", "", "include[1] must be a string, not a number"},
		{`{"model":"m","input":[{"type":"computer_call_output"}]}`, "input[0].type", not,
			`input[0].type is "computer_call_output", which cannot be translated: items of the types message, function_call, function_call_output, reasoning and item_reference can`},
		{`{"model":"m","input":[{"role":"tool","content":"x"}]}`, "input[0].role", "", `input[0].role must be user, assistant, system or developer, not "tool"`},
		{`{"model":"m","input":[{"role":"user","content":[{"type":"input_file","file_id":"f"}]}]}`, "input[0].content[0].type", not,
			`input[0].content[0].type is "input_file", which cannot be translated: input_text and input_image can`},
		{`{"model":"m","input":[{"role":"user","content":[{"type":"input_image","file_id":"f"}]}]}`, "input[0].content[0].file_id", not,
			"input[0].content[0].file_id means a file kept at OpenAI, which cannot be translated: send the image by image_url"},
		{`{"model":"m","input":[{"role":"user","content":[{"type":"input_image","image_url":"ftp://x"}]}]}`, "input[0].content[0].image_url", "",
			"input[0].content[0].image_url must start with https://, http:// or data:"},
		{`{"model":"m","input":[{"role":"system","content":[{"type":"input_image","image_url":"https://x/y"}]}]}`, "input[0].content[0].type", "",
			"input[0].content[0].type is input_image, which a message of the role system cannot have"},
		{`{"model":"m","input":[{"type":"function_call","call_id":"c","name":"f","arguments":"[1]"}]}`, "input[0].arguments", not,
			"input[0].arguments must be the text of a JSON object"},
		{`{"model":"m","input":[{"type":"function_call_output","output":"x"}]}`, "input[0].call_id", "", "input[0].call_id is required and must be a string"},
		{`{"model":"m","input":[{"type":"reasoning","summary":[{"type":"summary_text"}]}]}`, "input[0].summary[0].text", "", "input[0].summary[0].text is required and must be a string"},
	}
	for _, tt := range tests {
		_, err := Parse([]byte(tt.body))
		if err == nil {
			t.Errorf("%s is taken", tt.body)
			continue
		}
		if err.Param != tt.param || err.Code != tt.code || err.Message != tt.message || err.HTTPStatus() != 400 {
			t.Errorf("%s\n got %q %q %d %q\nwant %q %q 400 %q", tt.body, err.Param, err.Code, err.HTTPStatus(), err.Message, tt.param, tt.code, tt.message)
		}
	}
}

// TestComposeRefuses are the errors of items that cannot follow each other, which show only with the history.
func TestComposeRefuses(t *testing.T) {
	tests := []struct{ items, want string }{
		{`[]`, "400 input must hold something to answer: a text, an image or a function's output"},
		{`[{"type":"function_call_output","call_id":"c","output":"x"}]`, "400 No tool call found for function call output with call_id c."},
		{`[{"type":"function_call","call_id":"c","name":"f","arguments":"{}"}]`, "400 No tool output found for function call c."},
		{`[{"type":"item_reference","id":"msg_1"}]`, "404 Item with id 'msg_1' not found. Items are not persisted when `store` is set to false. Try again with `store` set to true, or remove this item from your input."},
	}
	for _, tt := range tests {
		r, err := Parse([]byte(`{"model":"m","instructions":"i","input":` + tt.items + `}`))
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.Compose(nil)
		if err == nil || fmt.Sprintf("%d %s", err.HTTPStatus(), err.Message) != tt.want {
			t.Errorf("%s\n got %v\nwant %s", tt.items, err, tt.want)
		}
	}
}

func TestParseRequestNeedsNoPast(t *testing.T) {
	for _, field := range []string{"previous_response_id", "conversation"} {
		_, err := In(nil).ParseRequest([]byte(`{"model":"m","input":"a","` + field + `":"x_1"}`))
		if err == nil || err.Param != field || err.Code != canon.CodeNotTranslatable {
			t.Errorf("%s: %v", field, err)
		}
	}
	c, err := In(nil).ParseRequest([]byte(`{"model":"m","input":"a"}`))
	if err != nil || len(c.Messages) != 1 || c.Messages[0].Parts[0].Text != "a" {
		t.Errorf("%+v %v", c, err)
	}
}

// TestHistory: what was kept comes before the input, and instructions only of the request itself.
func TestHistory(t *testing.T) {
	history, err := ParseItems([]byte(`[{"role":"user","content":"one"},{"type":"function_call","call_id":"c","name":"f","arguments":"{}"}]`))
	if err != nil {
		t.Fatal(err)
	}
	r, err := Parse([]byte(`{"model":"m","previous_response_id":"resp_1","instructions":"now","input":[{"type":"function_call_output","call_id":"c","output":"two"},{"role":"user","content":"three"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // composing changes neither
		c, err := r.Compose(history)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, m := range c.Messages {
			for _, p := range m.Parts {
				switch {
				case p.Result != nil:
					got += fmt.Sprintf("%s %s=%s; ", m.Role, p.Result.Name, p.Result.Parts[0].Text)
				case p.Call != nil:
					got += fmt.Sprintf("%s %s(); ", m.Role, p.Call.Name)
				default:
					got += fmt.Sprintf("%s %s; ", m.Role, p.Text)
				}
			}
		}
		if want := "system now; user one; assistant f(); tool f=two; user three; "; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// FuzzParse: whatever comes, an error or a request; what is kept of its input reads back as the same.
func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/requests/*.txt")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		in, _ := adaptertest.Cut(text)
		f.Add(in)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := Parse(body)
		if err != nil {
			if err.Message == "" || err.HTTPStatus() != 400 {
				t.Fatalf("%+v", err)
			}
			return
		}
		o := canon.Reply{Model: r.Model(), ID: "1"}
		answer := In(r).AppendResponse(nil, &canon.Response{Parts: []canon.Part{{Text: "x"}}}, o)
		if !json.Valid(answer) || bytes.IndexByte(answer, '\n') >= 0 {
			t.Fatalf("not one line of JSON: %s", answer)
		}
		kept := AppendItems(nil, r.Input)
		again, err := ParseItems(kept)
		if err != nil {
			t.Fatalf("%s does not read back: %v", kept, err)
		}
		if second := AppendItems(nil, again); !bytes.Equal(kept, second) {
			t.Fatalf("kept\n%s\nread back and kept\n%s", kept, second)
		}
		first, err1 := r.Compose(nil)
		r.Input = again
		second, err2 := r.Compose(nil)
		if (err1 == nil) != (err2 == nil) {
			t.Fatalf("composes with %v, read back with %v", err1, err2)
		}
		if err1 == nil && len(first.Messages) != len(second.Messages) {
			t.Fatalf("%d messages, read back %d", len(first.Messages), len(second.Messages))
		}
	})
}
