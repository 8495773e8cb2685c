package key_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
)

// said is a body and its dialect: "openai {...}".
func said(text string) (dialect, body string) {
	dialect, body, _ = strings.Cut(text, " ")
	return dialect, body
}

// TestEqual: each group has one key, in whatever dialect and spelling.
func TestEqual(t *testing.T) {
	s := catalog(t)
	for name, group := range map[string][]string{
		"spelling": {
			`openai {"model":"m","messages":[{"role":"user","content":"Hi"}],"temperature":0}`,
			`openai { "temperature" : 0.0, "messages":[{"content":"H\u0069","role":"user"}] , "model":"m" }`,
			`openai {"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"Hi"}]}],"temperature":-0.0}`,
			`openai {"model":"m","messages":[{"role":"user","content":"Hi","name":null}],"temperature":0e3,"logit_bias":null,"top_p":null}`,
		},
		"what does not count": {
			`openai {"model":"m","messages":[{"role":"user","content":"Hi"}],"max_tokens":9}`,
			`openai {"model":"m","messages":[{"role":"user","content":"Hi"}],"max_completion_tokens":9,"n":1,"stream":true,"stream_options":{"include_usage":true},"user":"u","metadata":{"a":"b"},"safety_identifier":"x","prompt_cache_key":"k","response_format":{"type":"text"},"modalities":["text"]}`,
			`anthropic {"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Hi"}]}`,
			`anthropic {"model":"m","max_tokens":9,"stream":true,"metadata":{"user_id":"u"},"cache_control":{"type":"ephemeral"},"messages":[{"role":"user","content":[{"type":"text","text":"Hi","cache_control":{"type":"ephemeral"}}]}]}`,
		},
		"system prompt": {
			`openai {"model":"m","max_tokens":9,"messages":[{"role":"system","content":"Be terse."},{"role":"user","content":"Hi"}]}`,
			`anthropic {"model":"m","max_tokens":9,"system":"Be terse.","messages":[{"role":"user","content":"Hi"}]}`,
			`anthropic {"model":"m","max_tokens":9,"system":[{"type":"text","text":"Be terse.","cache_control":{"type":"ephemeral"}}],"messages":[{"role":"user","content":"Hi"}]}`,
		},
		"sampling": {
			`openai {"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Hi"}],"temperature":0.5,"top_p":1,"stop":["a","b"],"top_k":5}`,
			`anthropic {"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Hi"}],"temperature":5e-1,"top_p":1.0,"stop_sequences":["a","b"],"top_k":5}`,
		},
		"one stop": {
			`openai {"model":"m","messages":[{"role":"user","content":"Hi"}],"stop":"a"}`,
			`openai {"model":"m","messages":[{"role":"user","content":"Hi"}],"stop":["a"]}`,
		},
		"tools": {
			`openai {"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"a\": 1.0, \"b\":[2]}"}}]},{"role":"tool","tool_call_id":"1","content":"ok"}],
			  "tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object","properties":{"a":{"type":"number","minimum":1},"b":{}}}}}],"tool_choice":"auto","parallel_tool_calls":true}`,
			`openai {"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"","tool_calls":[{"type":"function","id":"1","function":{"arguments":"{\"b\":[2.0],\"a\":1}","name":"f"}}]},{"role":"tool","name":"f","tool_call_id":"1","content":[{"type":"text","text":"ok"}]}],
			  "tools":[{"type":"function","function":{"parameters":{"properties":{"a":{"minimum":1.0,"type":"number"},"b":{}},"type":"object"},"name":"f","description":"d"}}]}`,
			`anthropic {"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":[{"type":"tool_use","id":"1","name":"f","input":{"b":[2],"a":1}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"1","content":"ok"}]}],
			  "tools":[{"name":"f","description":"d","input_schema":{"type":"object","properties":{"a":{"minimum":1,"type":"number"},"b":{}}}}],"tool_choice":{"type":"auto"}}`,
			`anthropic {"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":[{"type":"tool_use","id":"1","name":"f","input":{"a":1,"b":[2]}}]},{"role":"user","content":[{"type":"tool_result","is_error":false,"tool_use_id":"1","content":[{"type":"text","text":"ok"}]}]}],
			  "tools":[{"type":"custom","name":"f","description":"d","input_schema":{"type":"object","properties":{"a":{"minimum":1,"type":"number"},"b":{}}}}],"tool_choice":{"type":"auto","disable_parallel_tool_use":false}}`,
		},
		"must call": {
			`openai {"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Hi"}],"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}],"tool_choice":"required","parallel_tool_calls":false}`,
			`anthropic {"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Hi"}],"tools":[{"name":"f","input_schema":{"type":"object"}}],"tool_choice":{"type":"any","disable_parallel_tool_use":true}}`,
		},
		"image": {
			`openai {"model":"m","max_tokens":9,"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGg=="}},{"type":"text","text":"?"}]}]}`,
			`anthropic {"model":"m","max_tokens":9,"messages":[{"role":"user","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"iVBORw0KGg=="}},{"type":"text","text":"?"}]}]}`,
		},
		"thinking off": {
			`openai {"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Hi"}],"reasoning_effort":"none"}`,
			`anthropic {"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Hi"}],"thinking":{"type":"disabled"}}`,
		},
		"effort": {
			`openai {"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Hi"}],"reasoning_effort":"low"}`,
			`anthropic {"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Hi"}],"output_config":{"effort":"low"}}`,
		},
		"two forms of one format": {
			`anthropic {"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Hi"}],"output_config":{"format":{"type":"json_schema","schema":{"type":"object","a":1}}}}`,
			`anthropic {"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Hi"}],"output_format":{"schema":{"a":1.0,"type":"object"},"type":"json_schema"}}`,
		},
		"more fields of the dialect": {
			`openai {"model":"m","messages":[{"role":"user","content":"Hi"}],"logit_bias":{"1":2,"3":4},"verbosity":"low"}`,
			`openai {"verbosity":"low","logit_bias":{"3":4.0,"1":2},"model":"m","messages":[{"role":"user","content":"Hi"}],"stream":false}`,
		},
		"canon cannot carry it": {
			`openai {"model":"m","messages":[{"role":"user","content":"Hi"}],"n":2,"temperature":1}`,
			`openai {"temperature":1.0,"n":2,"messages":[{"content":"Hi","role":"user"}],"model":"m","user":"u"}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, text := range group[1:] {
				d0, b0 := said(group[0])
				d, b := said(text)
				if of(t, chat(t, s, d0, b0)) != of(t, chat(t, s, d, b)) {
					t.Errorf("two keys:\n%s\n%s", group[0], text)
				}
			}
		})
	}
}

// TestUnequal: no two of a group share a key.
func TestUnequal(t *testing.T) {
	s := catalog(t)
	openai := func(more string) string {
		return `openai {"model":"m","messages":[{"role":"user","content":"Hi"}]` + more + `}`
	}
	messages := func(list string) string { return `openai {"model":"m","messages":[` + list + `]}` }
	anthropic := func(more string) string {
		return `anthropic {"model":"m","max_tokens":2000,"messages":[{"role":"user","content":"Hi"}]` + more + `}`
	}
	blocks := func(list string) string {
		return `anthropic {"model":"m","max_tokens":9,"messages":[` + list + `]}`
	}
	tool := `,"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}},{"type":"function","function":{"name":"g"}}]`
	for name, group := range map[string][]string{
		"fields": {
			openai(``), openai(`,"temperature":1`), openai(`,"temperature":0`), openai(`,"top_p":1`), openai(`,"top_p":0`), openai(`,"top_k":1`), openai(`,"top_k":0`), openai(`,"top_k":-1`),
			openai(`,"presence_penalty":1`), openai(`,"frequency_penalty":1`), openai(`,"seed":1`), openai(`,"seed":2`), openai(`,"seed":9007199254740993`), openai(`,"seed":9007199254740992`),
			openai(`,"max_tokens":1`), openai(`,"max_tokens":2`), openai(`,"max_tokens":3,"max_completion_tokens":2`), openai(`,"stop":"a"`), openai(`,"stop":["a","b"]`), openai(`,"stop":["ab"]`), openai(`,"stop":[]`), openai(`,"stop":""`),
			openai(`,"reasoning_effort":"low"`), openai(`,"reasoning_effort":"high"`), openai(`,"reasoning_effort":"none"`), openai(`,"enable_thinking":true`), openai(`,"enable_thinking":false`),
			openai(`,"enable_thinking":true,"reasoning_effort":"none"`), openai(`,"thinking_budget":5`), openai(`,"thinking_budget":5,"enable_thinking":false`), openai(`,"thinking_budget":6,"enable_thinking":false`),
			openai(`,"response_format":{"type":"json_object"}`), openai(`,"response_format":{"type":"text","x":1}`),
			openai(`,"response_format":{"type":"json_schema","json_schema":{"name":"a","schema":{}}}`), openai(`,"response_format":{"type":"json_schema","json_schema":{"name":"b","schema":{}}}`),
			openai(`,"response_format":{"type":"json_schema","json_schema":{"name":"a","schema":{"a":1}}}`), openai(`,"response_format":{"type":"json_schema","json_schema":{"name":"a","schema":{},"strict":true}}`),
			openai(`,"response_format":{"type":"json_schema","json_schema":{"name":"a","schema":{},"description":"d"}}`),
			openai(`,"response_format":{"type":"json_schema","json_schema":{"name":"a","schema":{"properties":{"why":{},"answer":{}}}}}`),
			openai(`,"response_format":{"type":"json_schema","json_schema":{"name":"a","schema":{"properties":{"answer":{},"why":{}}}}}`),
			openai(`,"logprobs":true`), openai(`,"logprobs":true,"stream":true`), openai(`,"logprobs":false`), openai(`,"logit_bias":{"1":2}`), openai(`,"logit_bias":{"1":3}`), openai(`,"skip_special_tokens":false`), openai(`,"n":2`), openai(`,"n":3`), openai(`,"n":2,"stream":true`),
			openai(`,"modalities":["text","audio"]`), openai(`,"modalities":[]`), openai(`,"tools":[]`), openai(`,"tool_choice":"none"`), openai(`,"parallel_tool_calls":false`), openai(`,"parallel_tool_calls":true`),
			openai(`,"metadata":{"a":1}`), openai(`,"user":"` + strings.Repeat("u", 65) + `"`),
			`openai {"model":"n","messages":[{"role":"user","content":"Hi"}]}`,
		},
		"tools": {
			openai(tool), openai(tool + `,"tool_choice":"none"`), openai(tool + `,"tool_choice":"required"`), openai(tool + `,"parallel_tool_calls":false`),
			openai(tool + `,"tool_choice":{"type":"function","function":{"name":"f"}}`), openai(tool + `,"tool_choice":{"type":"function","function":{"name":"g"}}`),
			openai(tool + `,"tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"auto","tools":[{"type":"function","function":{"name":"f"}}]}}`),
			openai(`,"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}]`), openai(`,"tools":[{"type":"function","function":{"name":"f"}}]`),
			openai(`,"tools":[{"type":"function","function":{"name":"f","strict":true}}]`), openai(`,"tools":[{"type":"function","function":{"name":"f","description":"x"}}]`),
			openai(`,"tools":[{"type":"function","function":{"name":"f"},"x":1}]`), openai(`,"tools":[{"type":"function","function":{"name":"f","x":1}}]`),
			openai(`,"tools":[{"type":"function","function":{"name":"g"}},{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}]`),
		},
		"messages": {
			messages(`{"role":"user","content":"ab"}`), messages(`{"role":"user","content":"a"},{"role":"user","content":"b"}`), messages(`{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}`),
			messages(`{"role":"user","content":[{"type":"text","text":"ab"},{"type":"text","text":""}]}`), messages(`{"role":"assistant","content":"ab"}`), messages(`{"role":"system","content":"ab"}`), messages(`{"role":"developer","content":"ab"}`),
			messages(`{"role":"user","name":"n","content":"ab"}`), messages(`{"role":"assistant","content":"ab","prefix":true}`), messages(`{"role":"assistant","content":"ab","prefix":false}`), messages(`{"role":"assistant","content":"ab","refusal":"r"}`),
			messages(`{"role":"assistant","content":"ab","reasoning_content":"r"}`), messages(`{"role":"assistant","content":"ab","reasoning_content":"r","reasoning":"q"}`), messages(`{"role":"assistant","content":"ab","tool_calls":[]}`),
			messages(`{"role":"user","content":"ab","tool_calls":[1]}`), messages(`{"role":"user","content":[{"type":"text","text":"ab","x":1}]}`), messages(`{"role":"user","role":"user","content":"ab"}`), messages(`{"role":"user","content":"ab","content":"c"}`),
			messages(`{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x/ab"}}]}`), messages(`{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x/ab","detail":"high"}}]}`), messages(`{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x/ab","detail":"original"}}]}`),
			messages(`{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}`), messages(`{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/jpg;base64,AAAA"}}]}`), messages(`{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/jpeg;base64,AAAA"}}]}`),
			messages(`{"role":"user","content":[{"type":"image_url","image_url":{"url":"DATA:image/jpeg;base64,AAAA"}}]}`), messages(`{"role":"user","content":[{"type":"input_audio","input_audio":{"data":"AAAA"}}]}`), messages(`{"role":"user","content":[{"type":"input_audio","input_audio":{"data":"AAAB"}}]}`),
		},
		"tool results": {
			messages(`{"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"1","content":"a"}`),
			messages(`{"role":"assistant","tool_calls":[{"id":"2","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"2","content":"a"}`),
			messages(`{"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"g","arguments":"{}"}}]},{"role":"tool","tool_call_id":"1","content":"a"}`),
			messages(`{"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},{"role":"tool","tool_call_id":"1","content":"a"}`),
			messages(`{"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"1","content":"b"}`),
			messages(`{"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","name":"g","tool_call_id":"1","content":"a"}`),
			messages(`{"role":"assistant","tool_calls":[{"id":"1","type":"function","index":0,"function":{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"1","content":"a"}`),
		},
		"anthropic": {
			anthropic(``), anthropic(`,"system":"s"`), anthropic(`,"system":[]`), anthropic(`,"thinking":{"type":"adaptive"}`), anthropic(`,"thinking":{"type":"between_tools"}`), anthropic(`,"thinking":{"type":"enabled","budget_tokens":1024}`),
			anthropic(`,"thinking":{"type":"enabled","budget_tokens":1024,"display":"omitted"}`), anthropic(`,"thinking":{"type":"adaptive","budget_tokens":1024}`), anthropic(`,"service_tier":"auto"`), anthropic(`,"output_config":{"task_budget":{}}`), anthropic(`,"tool_choice":{"type":"none"}`),
			anthropic(`,"tools":[]`), anthropic(`,"tools":[{"name":"f","input_schema":{}}]`), anthropic(`,"tools":[{"name":"f","input_schema":{},"eager_input_streaming":true}]`), anthropic(`,"tools":[{"type":"web_search_20250305","name":"f"}]`), anthropic(`,"metadata":{"user_id":"u","x":[1]}`),
		},
		"blocks": {
			blocks(`{"role":"user","content":"a"}`), blocks(`{"role":"user","content":[{"type":"text","text":"a","citations":[]}]}`), blocks(`{"role":"user","content":[{"type":"document","source":{}}]}`),
			blocks(`{"role":"user","content":[{"type":"tool_result","tool_use_id":"1"},{"type":"text","text":"a"}]}`), blocks(`{"role":"user","content":[{"type":"text","text":"a"},{"type":"tool_result","tool_use_id":"1"}]}`), blocks(`{"role":"user","content":[{"type":"tool_result","tool_use_id":"1","is_error":true},{"type":"text","text":"a"}]}`),
			blocks(`{"role":"user","content":[{"type":"tool_result","tool_use_id":"1","content":[{"type":"text","text":"x"}]},{"type":"tool_result","tool_use_id":"2","content":[{"type":"text","text":"x"}]}]}`),
			blocks(`{"role":"user","content":[{"type":"tool_result","tool_use_id":"1","content":[{"type":"text","text":"x","y":1}]},{"type":"tool_result","tool_use_id":"2","content":[{"type":"text","text":"x"}]}]}`),
			blocks(`{"role":"user","content":[{"type":"tool_result","tool_use_id":"1","content":[{"type":"text","text":"x"}]},{"type":"tool_result","tool_use_id":"2","content":[{"type":"text","text":"x","y":1}]}]}`),
			blocks(`{"role":"user","content":"a"},{"role":"assistant","content":""}`), blocks(`{"role":"user","content":"a"},{"role":"assistant","content":[]}`), blocks(`{"role":"user","content":"a"},{"role":"assistant","content":[{"type":"thinking","thinking":"x","signature":"s"}]}`),
			blocks(`{"role":"user","content":"a"},{"role":"assistant","content":[{"type":"thinking","thinking":"x","signature":"t"}]}`), blocks(`{"role":"user","content":"a"},{"role":"assistant","content":[{"type":"redacted_thinking","data":"x"}]}`),
		},
	} {
		t.Run(name, func(t *testing.T) {
			seen := map[string]string{}
			for _, text := range group {
				d, b := said(text)
				k := of(t, chat(t, s, d, b)).String()
				if other, ok := seen[k]; ok {
					t.Errorf("one key:\n%s\n%s", other, text)
				}
				seen[k] = text
			}
		})
	}
}

// TestPairs takes the requests of the adapters' tests through every other dialect that clients speak: where nothing is lost on the way, the
// key is the same.
func TestPairs(t *testing.T) {
	s := catalog(t)
	files, err := filepath.Glob("../../../adapters/testdata/requests/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no requests: %v", err)
	}
	same := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		from := strings.TrimPrefix(filepath.Ext(strings.TrimSuffix(file, ".json")), ".")
		one := chat(t, s, from, string(text))
		for _, to := range []string{"openai", "anthropic"} {
			d, _ := s.Get(to)
			call, e := d.Out.BuildCall(one.Request, canon.CallOptions{Model: one.Request.Model})
			if e != nil {
				continue
			}
			two := chat(t, s, to, string(call.Body))
			kept := reflect.DeepEqual(plain(one.Request), plain(two.Request)) && len(one.Request.Extra)+len(two.Request.Extra) == 0
			if got := of(t, one) == of(t, two); got != kept {
				t.Errorf("%s as %s: one key %v, the same request %v\n%s", file, to, got, kept, call.Body)
			} else if got && to != from {
				same++
			}
		}
	}
	if same < 2 {
		t.Errorf("only %d requests came through another dialect whole: the test shows nothing", same)
	}
}

// plain is a request without what does not count.
func plain(r *canon.Request) string {
	c := *r
	c.Stream, c.IncludeUsage, c.User, c.Extra = false, false, "", nil
	if c.ParallelToolCalls != nil && *c.ParallelToolCalls {
		c.ParallelToolCalls = nil
	}
	c.Messages = nil
	for _, m := range r.Messages {
		parts := m.Parts
		m.Parts = nil
		for _, p := range parts {
			p.CacheMark = false
			if p.Result != nil {
				res := *p.Result
				res.Name = ""
				p.Result = &res
			}
			m.Parts = append(m.Parts, p)
		}
		c.Messages = append(c.Messages, m)
	}
	text, err := json.Marshal(&c)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
