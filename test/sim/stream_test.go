package sim

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

const (
	tools2        = `"tools":[{"type":"function","function":{"name":"weather","parameters":{"type":"object","properties":{"city":{"enum":["Ürgüp"]}},"required":["city"]}}},{"type":"function","function":{"name":"clock"}}]`
	tools2Claude  = `"tools":[{"name":"weather","input_schema":{"type":"object","properties":{"city":{"enum":["Ürgüp"]}},"required":["city"]}},{"name":"clock","input_schema":{"type":"object"}}]`
	callToolsText = `"messages":[{"role":"user","content":"call the tool"}]`
)

// exchangeCase is a request whose answer is kept as a golden file.
type exchangeCase struct {
	name    string
	dialect Dialect
	path    string
	body    string
	headers []string
}

func cases() []exchangeCase {
	const hi = `"messages":[{"role":"user","content":"say 12 words"}]`
	return []exchangeCase{
		{"openai_plain", OpenAI, chatPath, `{"model":"gpt-4o",` + hi + `}`, nil},
		{"openai_stream", OpenAI, chatPath, `{"model":"gpt-4o",` + hi + `,"stream":true}`, nil},
		{"openai_stream_usage", OpenAI, chatPath, `{"model":"gpt-4o",` + hi + `,"max_tokens":3,"stream":true,"stream_options":{"include_usage":true}}`, nil},
		{"openai_tools", OpenAI, chatPath, `{"model":"gpt-4o",` + callToolsText + `,` + tools2 + `}`, nil},
		{"openai_stream_tools", OpenAI, chatPath, `{"model":"gpt-4o",` + callToolsText + `,` + tools2 + `,"stream":true}`, nil},
		{"openai_stream_two", OpenAI, chatPath, `{"model":"gpt-4o",` + hi + `,"max_tokens":2,"n":2,"logprobs":true,"stream":true}`, nil},
		{"openai_responses", OpenAI, "/v1/responses", `{"model":"gpt-5","input":"say 10 words"}`, nil},
		{"openai_responses_stream", OpenAI, "/v1/responses", `{"model":"gpt-5","input":"say 10 words","stream":true}`, nil},
		{"openai_responses_stream_tools", OpenAI, "/v1/responses", `{"model":"gpt-4o","input":"call the tool","stream":true,"tools":[{"type":"function","name":"clock","parameters":{"type":"object","properties":{"zone":{"const":"UTC"}}}}]}`, nil},
		{"openai_models", OpenAI, "/v1/models", ``, nil},
		{"anthropic_plain", Anthropic, messagesPath, `{"model":"claude-sonnet-4-5","max_tokens":99,` + hi + `}`, []string{v2023}},
		{"anthropic_stream", Anthropic, messagesPath, `{"model":"claude-sonnet-4-5","max_tokens":99,"stream":true,` + hi + `}`, []string{v2023}},
		{"anthropic_stream_tools", Anthropic, messagesPath, `{"model":"claude-sonnet-4-5","max_tokens":2000,"stream":true,"thinking":{"type":"enabled","budget_tokens":1024},` + callToolsText + `,` + tools2Claude + `}`, []string{v2026}},
		{"anthropic_tools", Anthropic, messagesPath, `{"model":"claude-sonnet-4-5","max_tokens":2000,"thinking":{"type":"adaptive"},` + callToolsText + `,` + tools2Claude + `}`, []string{v2026}},
		{"anthropic_stop", Anthropic, messagesPath, `{"model":"claude-sonnet-4-5","max_tokens":2000,"stop_sequences":["."],` + hi + `}`, []string{v2026}},
		{"dashscope_plain", DashScope, qwenPath, `{"model":"qwen-plus","input":{` + hi + `},"parameters":{"result_format":"message"}}`, nil},
		{"dashscope_text", DashScope, qwenPath, `{"model":"qwen-plus","input":{"prompt":"say 10 words"}}`, nil},
		{"dashscope_stream", DashScope, qwenPath, `{"model":"qwen-plus","input":{` + hi + `},"parameters":{"result_format":"message","incremental_output":true,"enable_thinking":true,"thinking_budget":3}}`, []string{sse}},
		{"dashscope_stream_whole", DashScope, qwenPath, `{"model":"qwen-plus","input":{` + hi + `},"parameters":{"result_format":"message","max_tokens":4}}`, []string{sse}},
		{"dashscope_stream_tools", DashScope, qwenPath, `{"model":"qwen-plus","input":{` + callToolsText + `},"parameters":{"result_format":"message","incremental_output":true,"parallel_tool_calls":true,` + tools2 + `}}`, []string{sse}},
		{"dashscope_vision", DashScope, qwenVLPath, `{"model":"qwen-vl-plus","input":{"messages":[{"role":"user","content":[{"text":"what?"},{"image":"data:image/png;base64,` + pngData + `"}]}]}}`, nil},
		{"compatible_stream", DashScope, compatPath, `{"model":"qwen-plus",` + hi + `,"max_tokens":6,"enable_thinking":true,"thinking_budget":2,"stream":true,"stream_options":{"include_usage":true}}`, nil},
	}
}

func TestGolden(t *testing.T) {
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) {
			_, url := newSim(t, Options{Dialect: c.dialect})
			method := "POST"
			if c.body == "" {
				method = "GET"
			}
			got := do(t, method, url+c.path, c.body, append([]string{bearer}, c.headers...)...)
			if got.err != nil || got.status != 200 {
				t.Fatalf("status %d, %v: %s", got.status, got.err, got.body)
			}
			golden(t, c.name+".txt", "content-type: "+got.header.Get("Content-Type")+"\n\n"+got.body)
		})
	}
}

// TestChunkingKeepsBytes holds that every way of chunking carries the same bytes, streams and plain bodies alike.
func TestChunkingKeepsBytes(t *testing.T) {
	for _, c := range cases() {
		if c.body == "" {
			continue
		}
		var want string
		for _, how := range []Chunking{Whole, Split, Batch} {
			_, url := newSim(t, Options{Dialect: c.dialect, Faults: Faults{Chunking: how}})
			got := do(t, "POST", url+c.path, c.body, append([]string{bearer}, c.headers...)...)
			if how == Whole {
				want = got.body
			} else if got.body != want || got.err != nil {
				t.Errorf("%s: chunking %s changes the bytes (%v)", c.name, how, got.err)
			}
		}
	}
}

// reading is what a client makes of an answer, whatever the dialect.
type reading struct {
	text, thinking string
	calls          []string
	finish         string
	in, out        float64
}

// dataLines returns the JSON of a stream's data lines.
func dataLines(t *testing.T, body string) []map[string]any {
	t.Helper()
	var out []map[string]any
	for line := range strings.Lines(body) {
		data, ok := strings.CutPrefix(line, "data:")
		if data = strings.TrimSpace(data); !ok || data == "[DONE]" {
			continue
		}
		var v map[string]any
		if err := json.Unmarshal([]byte(data), &v); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		out = append(out, v)
	}
	return out
}

func str(v any) string  { s, _ := v.(string); return s }
func num(v any) float64 { f, _ := v.(float64); return f }
func obj(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}
func list(v any) []any { l, _ := v.([]any); return l }

func (r *reading) openAIChoice(m map[string]any, finish any) {
	r.text += str(m["content"])
	r.thinking += str(m["reasoning_content"])
	for _, c := range list(m["tool_calls"]) {
		c := obj(c)
		i := int(num(c["index"]))
		if _, streamed := c["index"]; !streamed {
			i = len(r.calls)
		}
		for len(r.calls) <= i {
			r.calls = append(r.calls, "")
		}
		fn := obj(c["function"])
		r.calls[i] += str(fn["name"]) + str(fn["arguments"])
	}
	if s := str(finish); s != "" && s != "null" {
		r.finish = s
	}
}

func readOpenAI(t *testing.T, body string) reading {
	var r reading
	frames := dataLines(t, body)
	if len(frames) == 0 {
		frames = []map[string]any{obj(dig(t, body))}
	}
	for _, f := range frames {
		for _, c := range list(f["choices"]) {
			c := obj(c)
			m := obj(c["delta"])
			if m == nil {
				m = obj(c["message"])
			}
			r.openAIChoice(m, c["finish_reason"])
		}
		if u := obj(f["usage"]); u != nil {
			r.in, r.out = num(u["prompt_tokens"]), num(u["completion_tokens"])
		}
	}
	return r
}

func readAnthropic(t *testing.T, body string) reading {
	var r reading
	frames := dataLines(t, body)
	use := func(u map[string]any) {
		r.in = num(u["input_tokens"]) + num(u["cache_read_input_tokens"]) + num(u["cache_creation_input_tokens"])
		r.out = num(u["output_tokens"])
	}
	block := func(b map[string]any) {
		r.text += str(b["text"])
		r.thinking += str(b["thinking"])
		if b["type"] == "tool_use" {
			in, _ := json.Marshal(b["input"])
			r.calls = append(r.calls, str(b["name"])+strings.TrimSuffix(string(in), "{}"))
		}
	}
	if len(frames) == 0 {
		m := obj(dig(t, body))
		for _, b := range list(m["content"]) {
			block(obj(b))
		}
		for i, c := range r.calls {
			if !strings.Contains(c, "{") {
				r.calls[i] += "{}"
			}
		}
		r.finish = str(m["stop_reason"])
		use(obj(m["usage"]))
		return r
	}
	open := -1
	for _, f := range frames {
		switch f["type"] {
		case "content_block_start":
			if open >= 0 || int(num(f["index"])) < open {
				t.Error("a block opens within another")
			}
			open = int(num(f["index"]))
			block(obj(f["content_block"]))
		case "content_block_delta":
			d := obj(f["delta"])
			if open != int(num(f["index"])) {
				t.Error("a delta outside its block")
			}
			r.text += str(d["text"])
			r.thinking += str(d["thinking"])
			if s := str(d["partial_json"]); s != "" {
				r.calls[len(r.calls)-1] += s
			}
		case "content_block_stop":
			open = -1
		case "message_delta":
			r.finish = str(obj(f["delta"])["stop_reason"])
			use(obj(f["usage"]))
		}
	}
	return r
}

func readDashScope(t *testing.T, body string, incremental bool) reading {
	var r reading
	frames := dataLines(t, body)
	if len(frames) == 0 {
		frames = []map[string]any{obj(dig(t, body))}
	}
	for _, f := range frames {
		if !incremental {
			r = reading{}
		}
		for _, c := range list(obj(f["output"])["choices"]) {
			r.openAIChoice(obj(obj(c)["message"]), obj(c)["finish_reason"])
		}
		u := obj(f["usage"])
		r.in, r.out = num(u["input_tokens"]), num(u["output_tokens"])
	}
	return r
}

// TestStreamEqualsPlain holds that a stream says what the plain answer says, in every dialect.
func TestStreamEqualsPlain(t *testing.T) {
	prompts := []string{"hello there", "give me 60 words", "please call the tool", "naïve 漢字 🌊"}
	for i, prompt := range prompts {
		for _, limit := range []int{1500, 9, 1} {
			msgs := fmt.Sprintf(`"messages":[{"role":"user","content":%q}]`, prompt)
			ask := func(d Dialect, path, body string, headers ...string) string {
				_, url := newSim(t, Options{Dialect: d, Faults: Faults{Chunking: []Chunking{Whole, Split, Batch}[i%3]}})
				got := do(t, "POST", url+path, body, append(headers, bearer)...)
				if got.status != 200 {
					t.Fatalf("%s: %s", path, got.body)
				}
				return got.body
			}
			same := func(what string, plain, stream reading) {
				t.Helper()
				if plain.text != stream.text || plain.thinking != stream.thinking || plain.finish != stream.finish ||
					!slices.Equal(plain.calls, stream.calls) || plain.in != stream.in || plain.out != stream.out {
					t.Errorf("%s, %q, max %d:\nplain  %+v\nstream %+v", what, prompt, limit, plain, stream)
				}
				if int(plain.out) > limit || plain.out == 0 || limit == 1500 && plain.out < 3 {
					t.Errorf("%s, %q: %v output tokens of at most %d", what, prompt, plain.out, limit)
				}
			}
			chat := fmt.Sprintf(`{"model":"gpt-4o","max_tokens":%d,%s,%s`, limit, msgs, tools2)
			same("openai", readOpenAI(t, ask(OpenAI, chatPath, chat+`}`)),
				readOpenAI(t, ask(OpenAI, chatPath, chat+`,"stream":true,"stream_options":{"include_usage":true}}`)))

			chat = fmt.Sprintf(`{"model":"qwen-plus","max_tokens":%d,"enable_thinking":true,%s,%s`, limit, msgs, tools2)
			same("compatible mode", readOpenAI(t, ask(DashScope, compatPath, chat+`}`)),
				readOpenAI(t, ask(DashScope, compatPath, chat+`,"stream":true,"stream_options":{"include_usage":true}}`)))

			chat = fmt.Sprintf(`{"model":"claude-sonnet-4-5","max_tokens":%d,"thinking":{"type":"adaptive"},%s,%s`, limit, msgs, tools2Claude)
			same("anthropic", readAnthropic(t, ask(Anthropic, messagesPath, chat+`}`, v2026)),
				readAnthropic(t, ask(Anthropic, messagesPath, chat+`,"stream":true}`, v2026)))

			for _, inc := range []bool{true, false} {
				chat = fmt.Sprintf(`{"model":"qwen-plus","input":{%s},"parameters":{"result_format":"message","enable_thinking":true,"parallel_tool_calls":true,"incremental_output":%v,"max_tokens":%d,%s}}`, msgs, inc, limit, tools2)
				same(fmt.Sprintf("dashscope, incremental %v", inc), readDashScope(t, ask(DashScope, qwenPath, chat), true),
					readDashScope(t, ask(DashScope, qwenPath, chat, sse), inc))
			}
		}
	}
}

// TestAnthropicFrames holds the order of events that SDKs depend on.
func TestAnthropicFrames(t *testing.T) {
	_, url := newSim(t, Options{Dialect: Anthropic})
	got := do(t, "POST", url+messagesPath, `{"model":"claude-sonnet-4-5","max_tokens":99,"stream":true,"messages":[{"role":"user","content":"hi"}]}`, bearer, v2023)
	var names []string
	for event := range strings.SplitSeq(strings.TrimSuffix(got.body, "\n\n"), "\n\n") {
		head, data, _ := strings.Cut(event, "\n")
		name := strings.TrimPrefix(head, "event: ")
		if typ := dig(t, strings.TrimPrefix(data, "data: "), "type"); typ != name {
			t.Errorf("event %q has data of type %v", name, typ)
		}
		if len(names) == 0 || names[len(names)-1] != name {
			names = append(names, name)
		}
	}
	want := []string{"message_start", "content_block_start", "ping", "content_block_delta", "content_block_stop", "message_delta", "message_stop"}
	if !slices.Equal(names, want) {
		t.Errorf("events %v, want %v", names, want)
	}
}
