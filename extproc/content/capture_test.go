package content

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/usage"
)

var _ usage.ContentSource = (*Capture)(nil)

const plenty = 1 << 30

func dialect(t testing.TB, name string) *canon.Dialect {
	t.Helper()
	set, err := adapters.NewSet(adapters.Catalog()...)
	if err != nil {
		t.Fatal(err)
	}
	d, ok := set.Get(name)
	if !ok {
		t.Fatalf("no dialect %s", name)
	}
	return &d
}

// captured plays one request: its body, and its answer in pieces.
func captured(t testing.TB, r *Rule, dialectName string, op canon.Operation, body string, stream bool, answer ...string) usage.Content {
	t.Helper()
	m := NewMemory(plenty)
	c := New(r, dialect(t, dialectName), op, "m", m)
	c.Request([]byte(body), nil)
	c.Work()
	if len(answer) > 0 && c.Tap(stream) {
		for i, piece := range answer {
			c.Chunk([]byte(piece), i == len(answer)-1)
			if i%2 == 0 {
				c.Work()
			}
		}
	}
	got := c.Content()
	for _, s := range []string{got.Input, got.System, got.Output} {
		if s != "" && !json.Valid([]byte(s)) {
			t.Errorf("no JSON: %s", s)
		}
	}
	c.Close()
	if m.Left() != plenty {
		t.Errorf("%d bytes are still held", plenty-m.Left())
	}
	if again := c.Content(); again != (usage.Content{}) {
		t.Errorf("after the end there is still %+v", again)
	}
	return got
}

func TestInputs(t *testing.T) {
	for _, c := range []struct {
		name, dialect string
		op            canon.Operation
		body          string
		want          usage.Content
	}{
		{"openai chat", "openai", canon.OpChat, `{"model":"m","messages":[
			{"role":"system","content":"Be brief."},
			{"role":"user","content":[{"type":"text","text":"What is \"this\"?"},{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgo="}},{"type":"image_url","image_url":{"url":"https://host.test/cat.png?token=abc"}}]},
			{"role":"assistant","content":null,"tool_calls":[{"id":"call_1","type":"function","function":{"name":"look","arguments":"{\"at\": [1, 2]}"}}]},
			{"role":"tool","tool_call_id":"call_1","content":"a cat"}]}`,
			usage.Content{Input: `[{"role":"system","parts":[{"type":"text","content":"Be brief."}]},` +
				`{"role":"user","parts":[{"type":"text","content":"What is \"this\"?"},{"type":"media","modality":"image","mime_type":"image/png","bytes":8},{"type":"media","modality":"image"}]},` +
				`{"role":"assistant","parts":[{"type":"tool_call","id":"call_1","name":"look","arguments":{"at": [1, 2]}}]},` +
				`{"role":"tool","parts":[{"type":"tool_call_response","id":"call_1","response":"a cat"}]}]`}},
		{"anthropic messages", "anthropic", canon.OpChat, `{"model":"m","max_tokens":9,"system":[{"type":"text","text":"Be brief."},{"type":"text","text":"Be kind."}],"messages":[
			{"role":"user","content":"Hi"},
			{"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"c2ln"},{"type":"tool_use","id":"toolu_1","name":"look","input":{"at":1}}]},
			{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_1","content":[{"type":"text","text":"a cat"},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"iVBORw0KGgo="}}]}]}]}`,
			usage.Content{System: `[{"type":"text","content":"Be brief."},{"type":"text","content":"Be kind."}]`,
				Input: `[{"role":"user","parts":[{"type":"text","content":"Hi"}]},` +
					`{"role":"assistant","parts":[{"type":"reasoning","content":"hm"},{"type":"tool_call","id":"toolu_1","name":"look","arguments":{"at":1}}]},` +
					`{"role":"tool","parts":[{"type":"tool_call_response","id":"toolu_1","response":[{"type":"text","content":"a cat"},{"type":"media","modality":"image","mime_type":"image/png","bytes":8}]}]}]`}},
		{"openai responses", "openai", canon.OpResponses, `{"model":"m","instructions":"Be brief.","input":[
			{"role":"user","content":[{"type":"input_text","text":"Hi"},{"type":"input_image","image_url":"data:image/jpeg;base64,AAAA"},{"type":"input_file","file_data":"AAAA"}]},
			{"type":"reasoning","summary":[{"type":"summary_text","text":"hm"}],"encrypted_content":"xyz"},
			{"type":"function_call","call_id":"c1","name":"look","arguments":"{}"},
			{"type":"function_call_output","call_id":"c1","output":"a cat"},
			{"type":"item_reference","id":"x"}]}`,
			usage.Content{System: `[{"type":"text","content":"Be brief."}]`,
				Input: `[{"role":"user","parts":[{"type":"text","content":"Hi"},{"type":"media","modality":"image","mime_type":"image/jpeg","bytes":3},{"type":"media","modality":"document","mime_type":"application/octet-stream","bytes":3}]},` +
					`{"role":"assistant","parts":[{"type":"reasoning","content":"hm"}]},` +
					`{"role":"assistant","parts":[{"type":"tool_call","id":"c1","name":"look","arguments":{}}]},` +
					`{"role":"tool","parts":[{"type":"tool_call_response","id":"c1","response":"a cat"}]}]`}},
		{"responses of a text", "openai", canon.OpResponses, `{"model":"m","input":"Hi"}`, usage.Content{Input: `[{"role":"user","parts":[{"type":"text","content":"Hi"}]}]`}},
		{"completions", "openai", canon.OpCompletions, `{"model":"m","prompt":["one","two"]}`,
			usage.Content{Input: `[{"role":"user","parts":[{"type":"text","content":"one"}]},{"role":"user","parts":[{"type":"text","content":"two"}]}]`}},
		{"embeddings", "openai", canon.OpEmbeddings, `{"model":"m","input":"one"}`, usage.Content{Input: `[{"role":"user","parts":[{"type":"text","content":"one"}]}]`}},
		{"embeddings of tokens", "openai", canon.OpEmbeddings, `{"model":"m","input":[[1,2]]}`, usage.Content{InputMissing: missingUnreadable}},
		{"what canon has no form for", "openai", canon.OpChat, `{"model":"m","messages":[{"role":"user","content":[{"type":"input_audio","input_audio":{"data":"AAAA","format":"wav"}}]}]}`,
			usage.Content{InputMissing: missingUnreadable}},
		{"no JSON", "openai", canon.OpResponses, `{"model":`, usage.Content{InputMissing: missingUnreadable}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := captured(t, &Rule{Input: true, MaxBytes: 4096}, c.dialect, c.op, c.body, false)
			if got != c.want {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

const (
	openaiStream = `data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","reasoning_content":"hm"},"finish_reason":null}]}

data: {"id":"c","choices":[{"index":0,"delta":{"content":"Hel"},"finish_reason":null}]}

data: {"id":"c","choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":null}]}

data: {"id":"c","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c1","type":"function","function":{"name":"look","arguments":""}}]},"finish_reason":null}]}

data: {"id":"c","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"at\":"}},{"index":1,"id":"c2","type":"function","function":{"name":"go","arguments":"{}"}}]},"finish_reason":null}]}

data: {"id":"c","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]},"finish_reason":null}]}

data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}

data: [DONE]

`
	anthropicStream = `event: message_start
data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"usage":{"input_tokens":5,"output_tokens":1}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: content_block_start
data: {"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"toolu_1","name":"look","input":{}}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"at\":1}"}}

event: content_block_stop
data: {"type":"content_block_stop","index":1}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"output_tokens":7}}

event: message_stop
data: {"type":"message_stop"}

`
	responsesStream = `event: response.created
data: {"type":"response.created","response":{"id":"r","status":"in_progress","output":[]}}

event: response.reasoning_summary_text.delta
data: {"type":"response.reasoning_summary_text.delta","output_index":0,"delta":"hm"}

event: response.output_text.delta
data: {"type":"response.output_text.delta","output_index":1,"delta":"Hel"}

event: response.output_text.delta
data: {"type":"response.output_text.delta","output_index":1,"delta":"lo"}

event: response.output_item.added
data: {"type":"response.output_item.added","output_index":2,"item":{"type":"function_call","call_id":"c1","name":"look","arguments":""}}

event: response.function_call_arguments.delta
data: {"type":"response.function_call_arguments.delta","output_index":2,"delta":"{\"at\":1}"}

event: response.completed
data: {"type":"response.completed","response":{"id":"r","status":"completed","output":[{"type":"message","content":[{"type":"output_text","text":"Hello"}]}]}}

`
	completionStream = `data: {"choices":[{"index":0,"text":"Hel","finish_reason":null}]}

data: {"choices":[{"index":1,"text":"other","finish_reason":null}]}

data: {"choices":[{"index":0,"text":"lo","finish_reason":"length"}]}

data: [DONE]

`
)

func TestOutputs(t *testing.T) {
	message := func(finish string, parts ...string) string {
		return `[{"role":"assistant","parts":[` + strings.Join(parts, ",") + `],"finish_reason":"` + finish + `"}]`
	}
	const (
		hm    = `{"type":"reasoning","content":"hm"}`
		hello = `{"type":"text","content":"Hello"}`
		look  = `{"type":"tool_call","id":"c1","name":"look","arguments":{"at":1}}`
	)
	for _, c := range []struct {
		name, dialect string
		op            canon.Operation
		stream        bool
		answer, want  string
		missing       string
	}{
		{"openai stream", "openai", canon.OpChat, true, openaiStream, message("tool_call", hm, hello, look, `{"type":"tool_call","id":"c2","name":"go","arguments":{}}`), ""},
		{"anthropic stream", "anthropic", canon.OpChat, true, anthropicStream, message("tool_call", hello, strings.Replace(look, "c1", "toolu_1", 1)), ""},
		{"responses stream", "openai", canon.OpResponses, true, responsesStream, message("tool_call", hm, hello, look), ""},
		{"completions stream", "openai", canon.OpCompletions, true, completionStream, message("length", hello), ""},
		{"a stream that breaks off", "openai", canon.OpChat, true, openaiStream[:strings.Index(openaiStream, `data: {"id":"c","choices":[{"index":0,"delta":{"tool_calls"`)], message("incomplete", hm, hello), ""},
		{"a stream that fails", "openai", canon.OpResponses, true, "data: {\"type\":\"response.output_text.delta\",\"delta\":\"Hello\"}\n\ndata: {\"type\":\"response.failed\",\"response\":{\"status\":\"failed\"}}\n\n", message("error", hello), ""},
		{"a stream of nothing", "openai", canon.OpChat, true, ": ping\n\n", message("incomplete"), ""},
		{"a stream of nonsense", "openai", canon.OpCompletions, true, "data: {\n\ndata: []\n\ndata: {\"choices\":3}\n\n", "", missingNoAnswer},
		{"openai whole", "openai", canon.OpChat, false, `{"id":"c","choices":[{"message":{"role":"assistant","content":"Hello","tool_calls":[{"id":"c1","type":"function","function":{"name":"look","arguments":"{\"at\":1}"}}]},"finish_reason":"tool_calls"}]}`, message("tool_call", hello, look), ""},
		{"anthropic whole", "anthropic", canon.OpChat, false, `{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"Hello"}],"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":1}}`, message("stop", hello), ""},
		{"responses whole", "openai", canon.OpResponses, false, `{"status":"incomplete","incomplete_details":{"reason":"max_output_tokens"},"output":[{"type":"reasoning","summary":[{"type":"summary_text","text":"hm"}]},{"type":"message","content":[{"type":"output_text","text":"Hello"},{"type":"refusal","refusal":"no"}]},{"type":"function_call","call_id":"c1","name":"look","arguments":"{\"at\":1}"}]}`,
			message("length", hm, hello, `{"type":"refusal","content":"no"}`, look), ""},
		{"completions whole", "openai", canon.OpCompletions, false, `{"choices":[{"index":0,"text":"Hello","finish_reason":"stop"}]}`, message("stop", hello), ""},
		{"no JSON", "openai", canon.OpChat, false, `<html>`, "", missingAnswer},
		{"no answer of this kind", "openai", canon.OpResponses, false, `{"object":"list"}`, message("error"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &Rule{Output: true, MaxBytes: 4096}
			for _, n := range []int{1, 7, len(c.answer)} {
				var pieces []string
				for s := c.answer; s != ""; {
					k := min(n, len(s))
					pieces, s = append(pieces, s[:k]), s[k:]
				}
				got := captured(t, r, c.dialect, c.op, "", c.stream, pieces...)
				if want := (usage.Content{Output: c.want, OutputMissing: c.missing}); got != want {
					t.Errorf("in pieces of %d:\ngot  %+v\nwant %+v", n, got, want)
				}
			}
		})
	}
}

func TestWants(t *testing.T) {
	gpt, err := identity.NewPatterns([]string{"gpt-*", "o3"})
	if err != nil {
		t.Fatal(err)
	}
	all := &Rule{Input: true, Output: true}
	for _, c := range []struct {
		rule          *Rule
		model         string
		op            canon.Operation
		input, output bool
	}{
		{nil, "gpt-4o", canon.OpChat, false, false},
		{all, "any", canon.OpChat, true, true},
		{&Rule{Input: true}, "any", canon.OpChat, true, false},
		{&Rule{Output: true}, "any", canon.OpResponses, false, true},
		{all, "any", canon.OpEmbeddings, true, false},
		{&Rule{Output: true}, "any", canon.OpEmbeddings, false, false},
		{all, "any", canon.OpCountTokens, false, false},
		{all, "any", canon.OpModels, false, false},
		{&Rule{Input: true, Models: gpt}, "gpt-4o", canon.OpChat, true, false},
		{&Rule{Input: true, Models: gpt}, "o3", canon.OpChat, true, false},
		{&Rule{Input: true, Models: gpt}, "claude", canon.OpChat, false, false},
	} {
		if in, out := c.rule.Wants(c.model, c.op); in != c.input || out != c.output {
			t.Errorf("%+v of %s %s: %v, %v", c.rule, c.op, c.model, in, out)
		}
		made := New(c.rule, dialect(t, "openai"), c.op, c.model, NewMemory(plenty))
		if (made != nil) != (c.input || c.output) || made.WantsInput() != c.input || made.WantsOutput() != c.output {
			t.Errorf("%+v of %s %s makes %v", c.rule, c.op, c.model, made)
		}
	}
}

// chat is an OpenAI request of these user messages.
func chat(messages ...string) string {
	var list []string
	for _, m := range messages {
		list = append(list, fmt.Sprintf(`{"role":"user","content":%q}`, m))
	}
	return `{"model":"m","messages":[` + strings.Join(list, ",") + `]}`
}

func TestCutsTheBeginningOfAConversation(t *testing.T) {
	got := captured(t, rule(10), "openai", canon.OpChat, chat("first", "second", "third"), false)
	if want := `[{"role":"user","parts":[{"type":"text","content":"secon"}]},{"role":"user","parts":[{"type":"text","content":"third"}]}]`; got.Input != want || got.InputCut != 6 {
		t.Errorf("%+v", got)
	}
	body := `{"model":"m","max_tokens":9,"system":"Be brief.","messages":[{"role":"user","content":"Hello"}]}`
	got = captured(t, rule(7), "anthropic", canon.OpChat, body, false)
	if got.System != `[{"type":"text","content":"Be"}]` || got.InputCut != 7 || !strings.Contains(got.Input, "Hello") {
		t.Errorf("%+v", got)
	}
}

func TestCutsTheEndOfAnAnswer(t *testing.T) {
	got := captured(t, rule(6), "openai", canon.OpChat, chat("x"), true, openaiStream)
	if want := `[{"role":"assistant","parts":[{"type":"reasoning","content":"hm"},{"type":"text","content":"Hell"}],"finish_reason":"tool_call"}]`; got.Output != want {
		t.Errorf("%s", got.Output)
	}
	if got.OutputCut != int64(len("o")+len(`{"at":1}`)+len(`{}`)) {
		t.Errorf("%d bytes were cut", got.OutputCut)
	}
	// Arguments that are cut are no JSON any more, and are shown as text.
	got = captured(t, rule(2+5+len("c1look")+4), "openai", canon.OpChat, chat("x"), true, openaiStream)
	if !strings.Contains(got.Output, `"arguments":"{\"at"`) {
		t.Errorf("%s", got.Output)
	}
}

// TestRedactsBeforeItCuts: a match that begins in what is shown is found though it ends behind it, in a prompt and in an answer that
// comes letter by letter.
func TestRedactsBeforeItCuts(t *testing.T) {
	secret := "sk-" + strings.Repeat("x", 40)
	text := "my key is " + secret + " and that is all"
	r := rule(20, `sk-x{40}`)
	var pieces []string
	for _, c := range text {
		pieces = append(pieces, fmt.Sprintf("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":%q},\"finish_reason\":null}]}\n\n", string(c)))
	}
	got := captured(t, r, "openai", canon.OpChat, chat("before", text), true, pieces...)
	const part = `[{"type":"text","content":"my key is [redacted]"}]`
	if got.Input != `[{"role":"user","parts":`+part+`}]` || got.Output != `[{"role":"assistant","parts":`+part+`,"finish_reason":"incomplete"}]` {
		t.Errorf("%+v", got)
	}
	if cut := int64(len(text) - 20); got.OutputCut != cut || got.InputCut != cut+int64(len("before")) {
		t.Errorf("%+v", got)
	}
}

// TestRedactsEverywhere: what is searched is every text that is shown, names and IDs included.
func TestRedactsEverywhere(t *testing.T) {
	r := rule(4096, "hush")
	body := `{"model":"m","max_tokens":9,"system":"hush 1","messages":[
		{"role":"user","content":"hush 2"},
		{"role":"assistant","content":[{"type":"thinking","thinking":"hush 3","signature":"c2ln"},{"type":"tool_use","id":"toolu_hush","name":"get_hush","input":{"hush":"\u0068ush 4"}}]},
		{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_hush","content":"hush 5"}]}]}`
	answer := strings.NewReplacer("Hello", "hush 6", "look", "hush_7", "toolu_1", "hush_8", `\"at\":1`, `\"at\":\"\\u0068ush 9\"`).Replace(anthropicStream)
	got := captured(t, r, "anthropic", canon.OpChat, body, true, answer)
	all := got.Input + got.System + got.Output
	if strings.Contains(all, "hush") || strings.Contains(all, "0068") || strings.Count(all, Redacted) != 13 {
		t.Errorf("%d marks: %+v", strings.Count(all, Redacted), got)
	}
	got = captured(t, r, "openai", canon.OpResponses, `{"model":"m","input":[{"role":"user","content":[{"type":"input_image","image_url":"data:hush 1;base64,AAAA"},
		{"type":"input_audio","input_audio":{"data":"AAAA","format":"hush 2"}}]}]}`, false)
	if strings.Contains(got.Input, "hush") || strings.Count(got.Input, Redacted) != 2 {
		t.Errorf("types of media: %+v", got)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	d := dialect(t, "openai")
	m := NewMemory(3000)
	r := rule(1<<20, "x")
	var all []*Capture
	for range 20 {
		c := New(r, d, canon.OpChat, "m", m)
		all = append(all, c)
		c.Request([]byte(chat(strings.Repeat("y", 500))), nil)
		c.Work()
		c.See(&canon.Event{Kind: canon.EventText, Text: strings.Repeat("z", 100)})
		if m.Left() < 0 {
			t.Fatalf("%d bytes are left", m.Left())
		}
	}
	first, last := all[0].Content(), all[len(all)-1].Content()
	if first.Input == "" || first.Output == "" || first.InputMissing != "" {
		t.Errorf("the first: %+v", first)
	}
	if last.InputMissing != missingMemory || last.OutputMissing != missingMemory || last.Input+last.Output != "" {
		t.Errorf("the last: %+v", last)
	}
	for _, c := range all {
		c.Close()
		c.Close()
		c.See(&canon.Event{Kind: canon.EventText, Text: "late"})
		c.Request([]byte(chat("late")), nil)
		c.Chunk([]byte("late"), true)
		c.Work()
	}
	if m.Left() != 3000 {
		t.Errorf("%d bytes are left of 3000", m.Left())
	}
}

// TestOneRequestIsBounded: many small parts, and an answer without an end.
func TestOneRequestIsBounded(t *testing.T) {
	m := NewMemory(plenty)
	c := New(rule(100, "x"), dialect(t, "openai"), canon.OpChat, "m", m)
	for i := range 100_000 {
		c.See(&canon.Event{Kind: canon.EventToolStart, Tool: i, CallID: "1", Name: "n"})
		c.See(&canon.Event{Kind: canon.EventText, Text: "abcdefgh"})
		c.See(&canon.Event{Kind: canon.EventReasoning, Text: ""})
	}
	if used := plenty - m.Left(); used > 64<<10 {
		t.Errorf("%d bytes are held", used)
	}
	if got := c.Content(); got.OutputCut < 799_000 || len(got.Output) > 16<<10 {
		t.Errorf("%d bytes are shown, %d cut", len(got.Output), got.OutputCut)
	}

	c = New(rule(100), dialect(t, "openai"), canon.OpChat, "m", m)
	c.Tap(false)
	for range 100 {
		c.Chunk(make([]byte, 64<<10), false)
		c.Work()
		if len(c.whole) > maxWhole {
			t.Fatalf("%d bytes are held", len(c.whole))
		}
	}
	if got := c.Content(); got.OutputMissing != missingTooLarge || got.Output != "" {
		t.Errorf("%+v", got)
	}
}

// TestManyPartsWithoutText are bounded, too.
func TestManyPartsWithoutText(t *testing.T) {
	body := `{"model":"m","messages":[{"role":"user","content":[` +
		strings.Repeat(`{"type":"image_url","image_url":{"url":"https://h.test/"}},`, 5000) + `{"type":"text","text":"last"}]}]}`
	got := captured(t, rule(100), "openai", canon.OpChat, body, false)
	if n := strings.Count(got.Input, `"media"`); n != maxParts || got.InputCut != 4 {
		t.Errorf("%d media, %d bytes cut", n, got.InputCut)
	}
}

// TestRecordBeforeWork: Envoy's record of a request may come while its text is still to be read, and several may ask.
func TestRecordBeforeWork(t *testing.T) {
	c := New(rule(4096), dialect(t, "openai"), canon.OpChat, "m", NewMemory(plenty))
	c.Request([]byte(chat("Hi")), nil)
	c.Tap(true)
	c.Chunk([]byte(openaiStream), true)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if got := c.Content(); !strings.Contains(got.Input, "Hi") || !strings.Contains(got.Output, "Hello") {
				t.Errorf("%+v", got)
			}
		})
		wg.Go(c.Work)
		wg.Go(c.Settle)
	}
	wg.Wait()
	c.Close()
}

// TestAnswerWithoutALastPiece ends with trailers, which nobody asks for; or it breaks off.
func TestAnswerWithoutALastPiece(t *testing.T) {
	const answer = `{"choices":[{"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}]}`
	for n, want := range map[int]usage.Content{
		len(answer): {Output: `[{"role":"assistant","parts":[{"type":"text","content":"Hello"}],"finish_reason":"stop"}]`},
		40:          {OutputMissing: missingTooLarge},
		0:           {OutputMissing: missingTooLarge},
	} {
		c := New(&Rule{Output: true, MaxBytes: 99}, dialect(t, "openai"), canon.OpChat, "m", NewMemory(plenty))
		c.Tap(false)
		c.Chunk([]byte(answer[:n]), false)
		if got := c.Content(); got != want {
			t.Errorf("of %d bytes: %+v", n, got)
		}
	}
}

func TestNothingOfNil(t *testing.T) {
	var c *Capture
	c.Request(nil, nil)
	c.See(nil)
	c.Unreadable()
	c.Work()
	c.Settle()
	c.Close()
	if c.WantsInput() || c.WantsOutput() || c.Tap(true) || c.Content() != (usage.Content{}) {
		t.Error("nil captures something")
	}
}

// FuzzRequests: whatever a caller sends, the input is JSON and no digit of a number of eight is in it.
func FuzzRequests(f *testing.F) {
	f.Add(chat("call 12345678", "two"), 9, uint8(0))
	f.Add(`{"model":"m","max_tokens":9,"system":"12345678","messages":[{"role":"user","content":[{"type":"text","text":"a"}]}]}`, 40, uint8(8))
	f.Add(`{"model":"m","instructions":"be","input":[{"role":"user","content":"Hi"},{"type":"function_call","call_id":"c","name":"n","arguments":"{\"a\":12345678}"}]}`, 99, uint8(1))
	f.Add(`{"model":"m","prompt":["12345678",""]}`, 99, uint8(2))
	ops := []canon.Operation{canon.OpChat, canon.OpResponses, canon.OpCompletions, canon.OpEmbeddings}
	f.Fuzz(func(t *testing.T, body string, limit int, how uint8) {
		r := rule(max(1, min(limit, 1<<16)), `\d{8}`)
		name := "openai"
		if how&8 != 0 {
			name = "anthropic"
		}
		got := captured(t, r, name, ops[how%4], body, false)
		hidden(t, r, got.Input)
		hidden(t, r, got.System)
	})
}

// FuzzAnswers: whatever a backend sends, the output is JSON and no digit of a number of eight is in it.
func FuzzAnswers(f *testing.F) {
	for _, s := range []string{openaiStream, anthropicStream, responsesStream, completionStream} {
		f.Add(s, 40, uint8(0))
		f.Add(s, 5, uint8(7))
	}
	f.Add(`{"status":"completed","output":[{"type":"message","content":[{"type":"output_text","text":"12345678"}]}]}`, 20, uint8(5))
	ops := []canon.Operation{canon.OpChat, canon.OpResponses, canon.OpCompletions}
	f.Fuzz(func(t *testing.T, answer string, limit int, how uint8) {
		r := rule(max(1, min(limit, 1<<16)), `\d{8}`)
		name := "openai"
		if how&8 != 0 {
			name = "anthropic"
		}
		op := ops[int(how>>4)%len(ops)]
		got := captured(t, r, name, op, answer, how&1 != 0, answer[:len(answer)/2], answer[len(answer)/2:])
		hidden(t, r, got.Output)
	})
}

// hidden fails the test if something is seen that the rule redacts. Sizes of media are no text.
func hidden(t *testing.T, r *Rule, text string) {
	t.Helper()
	var v any
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	if text != "" && dec.Decode(&v) == nil {
		eachText(v, func(s string) {
			if r.Redact[0].MatchString(s) {
				t.Errorf("%q is seen", s)
			}
		})
	}
}

// eachText visits every text, name and number of JSON.
func eachText(v any, f func(string)) {
	switch v := v.(type) {
	case string:
		f(v)
	case json.Number:
		f(v.String())
	case []any:
		for _, e := range v {
			eachText(e, f)
		}
	case map[string]any:
		for k, e := range v {
			if v["type"] == "media" && k == "bytes" {
				continue
			}
			f(k)
			eachText(e, f)
		}
	}
}
