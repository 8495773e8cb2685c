package anthropic

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
)

func ptr[T any](v T) *T { return &v }

func ask(text string) []canon.Message {
	return []canon.Message{{Role: canon.RoleUser, Parts: []canon.Part{{Text: text}}}}
}

// fieldsOf builds a call and gives the named members of its body as JSON text, "" where absent.
func fieldsOf(t *testing.T, r *canon.Request, o canon.CallOptions, names ...string) (values, dropped []string) {
	t.Helper()
	call, err := outbound{}.BuildCall(r, o)
	if err != nil {
		t.Fatal(err)
	}
	var body map[string]json.RawMessage
	if err := json.Unmarshal(call.Body, &body); err != nil {
		t.Fatalf("%v\n%s", err, call.Body)
	}
	for _, name := range names {
		values = append(values, string(body[name]))
	}
	return values, call.Dropped
}

func TestThinking(t *testing.T) {
	forced := &canon.ToolChoice{Mode: canon.ChoiceRequired}
	tools := []canon.Tool{{Name: "f"}}
	loop := append(ask("q"),
		canon.Message{Role: canon.RoleAssistant, Parts: []canon.Part{{Kind: canon.PartToolCall, Call: &canon.ToolCall{ID: "a", Name: "f"}}}},
		canon.Message{Role: canon.RoleTool, Parts: []canon.Part{{Kind: canon.PartToolResult, Result: &canon.ToolResult{ID: "a"}}}},
		ask("and")[0])
	signed := slices.Clone(loop)
	signed[1] = canon.Message{Role: canon.RoleAssistant, Parts: append([]canon.Part{{Kind: canon.PartReasoning, Text: "x", Signature: "s", Origin: name}}, loop[1].Parts...)}
	effort := func(e string) *canon.Reasoning { return &canon.Reasoning{Effort: e} }
	budget := func(n int64) *canon.Reasoning { return &canon.Reasoning{BudgetTokens: &n} }

	tests := []struct {
		label                       string
		model                       string
		req                         canon.Request
		defaultMax                  int64
		maxTokens, thinking, output string
		dropped                     []string
	}{
		{label: "none", model: "claude-sonnet-4-5", maxTokens: "4096"},
		{label: "configured default", model: "claude-sonnet-4-5", defaultMax: 900, maxTokens: "900"},
		{label: "effort on a model with budgets", model: "claude-sonnet-4-5", req: canon.Request{Reasoning: effort("low")},
			maxTokens: "6144", thinking: `{"type":"enabled","budget_tokens":2048}`},
		{label: "effort raises the configured default", model: "claude-sonnet-4-5", defaultMax: 1000, req: canon.Request{Reasoning: effort("high")},
			maxTokens: "17384", thinking: `{"type":"enabled","budget_tokens":16384}`},
		{label: "effort keeps half for the answer", model: "claude-3-7-sonnet-latest", req: canon.Request{Reasoning: effort("high"), MaxTokens: ptr(int64(6000))},
			maxTokens: "6000", thinking: `{"type":"enabled","budget_tokens":3000}`},
		{label: "no room for effort", model: "claude-opus-4-1", req: canon.Request{Reasoning: effort("high"), MaxTokens: ptr(int64(2000))},
			maxTokens: "2000", dropped: []string{"reasoning"}},
		{label: "effort on a current model", model: "claude-opus-4-6", req: canon.Request{Reasoning: effort("max")},
			maxTokens: "16384", thinking: `{"type":"adaptive"}`, output: `{"effort":"max"}`},
		{label: "unknown model", model: "my-alias", req: canon.Request{Reasoning: effort("minimal"), MaxTokens: ptr(int64(50))},
			maxTokens: "50", thinking: `{"type":"adaptive"}`, output: `{"effort":"low"}`},
		{label: "no thinking before 3.7", model: "claude-3-5-sonnet-20241022", req: canon.Request{Reasoning: effort("low")},
			maxTokens: "4096", dropped: []string{"reasoning"}},
		{label: "disabled", model: "claude-opus-4-6", req: canon.Request{Reasoning: &canon.Reasoning{Disabled: true, Effort: "low"}},
			maxTokens: "4096", thinking: `{"type":"disabled"}`},
		{label: "disabled where there is none", model: "claude-3-haiku-20240307", req: canon.Request{Reasoning: &canon.Reasoning{Disabled: true}}, maxTokens: "4096"},
		{label: "budget", model: "claude-opus-4-6", req: canon.Request{Reasoning: budget(5000)},
			maxTokens: "9096", thinking: `{"type":"enabled","budget_tokens":5000}`},
		{label: "budget too small", model: "claude-sonnet-4-5", req: canon.Request{Reasoning: budget(10)},
			maxTokens: "5120", thinking: `{"type":"enabled","budget_tokens":1024}`},
		{label: "budget above max_tokens", model: "claude-sonnet-4-5", req: canon.Request{Reasoning: budget(9000), MaxTokens: ptr(int64(4000))},
			maxTokens: "4000", thinking: `{"type":"enabled","budget_tokens":3999}`},
		{label: "forced call wins over a budget", model: "claude-sonnet-4-5", req: canon.Request{Reasoning: budget(5000), Tools: tools, ToolChoice: forced},
			maxTokens: "4096", dropped: []string{"reasoning"}},
		{label: "forced call keeps effort", model: "claude-opus-4-6", req: canon.Request{Reasoning: effort("low"), Tools: tools, ToolChoice: forced},
			maxTokens: "4096", output: `{"effort":"low"}`, dropped: []string{"reasoning"}},
		{label: "tool loop of another dialect", model: "claude-sonnet-4-5", req: canon.Request{Reasoning: budget(2000), Messages: loop, Tools: tools},
			maxTokens: "4096", dropped: []string{"reasoning"}},
		{label: "tool loop of our own", model: "claude-sonnet-4-5", req: canon.Request{Reasoning: budget(2000), Messages: signed, Tools: tools},
			maxTokens: "6096", thinking: `{"type":"enabled","budget_tokens":2000}`},
		{label: "adaptive needs no thinking in the loop", model: "claude-opus-4-6", req: canon.Request{Reasoning: &canon.Reasoning{}, Messages: loop, Tools: tools},
			maxTokens: "16384", thinking: `{"type":"adaptive"}`},
	}
	for _, tt := range tests {
		t.Run(tt.label, func(t *testing.T) {
			if tt.req.Messages == nil {
				tt.req.Messages = ask("hi")
			}
			got, dropped := fieldsOf(t, &tt.req, canon.CallOptions{Model: tt.model, DefaultMaxTokens: tt.defaultMax}, "max_tokens", "thinking", "output_config")
			if want := []string{tt.maxTokens, tt.thinking, tt.output}; !slices.Equal(got, want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
			if !slices.Equal(dropped, tt.dropped) {
				t.Errorf("dropped %v, want %v", dropped, tt.dropped)
			}
		})
	}
}

func TestSampling(t *testing.T) {
	tests := []struct {
		model             string
		temperature, topP *float64
		topK              *int64
		reasoning         *canon.Reasoning
		want              []string // temperature, top_p, top_k
		dropped           []string
	}{
		{model: "claude-sonnet-4-5", want: []string{"", "", ""}},
		{model: "claude-sonnet-4-5", temperature: ptr(2.0), want: []string{"1", "", ""}},
		{model: "claude-sonnet-4-5", temperature: ptr(-0.5), want: []string{"0", "", ""}},
		{model: "claude-sonnet-4-5", temperature: ptr(0.3), topP: ptr(1.0), topK: ptr(int64(9)), want: []string{"0.3", "", "9"}},
		{model: "claude-sonnet-4-5", temperature: ptr(0.3), topP: ptr(0.5), want: []string{"0.3", "", ""}, dropped: []string{"top_p"}},
		{model: "claude-sonnet-4-5", topP: ptr(0.5), want: []string{"", "0.5", ""}},
		{model: "claude-opus-4-7", temperature: ptr(0.3), topP: ptr(0.5), topK: ptr(int64(9)), want: []string{"", "", ""}, dropped: []string{"temperature", "top_p", "top_k"}},
		{model: "claude-opus-4-7", temperature: ptr(1.0), topP: ptr(1.0), want: []string{"", "", ""}},
		{model: "alias", temperature: ptr(0.3), want: []string{"0.3", "", ""}},
		{model: "alias", temperature: ptr(0.3), topP: ptr(0.96), reasoning: &canon.Reasoning{}, want: []string{"", "0.96", ""}, dropped: []string{"temperature"}},
	}
	for i, tt := range tests {
		r := canon.Request{Messages: ask("hi"), Temperature: tt.temperature, TopP: tt.topP, TopK: tt.topK, Reasoning: tt.reasoning}
		got, dropped := fieldsOf(t, &r, canon.CallOptions{Model: tt.model}, "temperature", "top_p", "top_k")
		if !slices.Equal(got, tt.want) || !slices.Equal(dropped, tt.dropped) {
			t.Errorf("%d %s: got %q dropped %v, want %q dropped %v", i, tt.model, got, dropped, tt.want, tt.dropped)
		}
	}
}

func TestToolChoice(t *testing.T) {
	tools := []canon.Tool{{Name: "f"}}
	tests := []struct {
		choice   *canon.ToolChoice
		parallel *bool
		want     string
	}{
		{nil, nil, ``},
		{nil, ptr(true), ``},
		{nil, ptr(false), `{"type":"auto","disable_parallel_tool_use":true}`},
		{&canon.ToolChoice{Mode: canon.ChoiceAuto}, nil, `{"type":"auto"}`},
		{&canon.ToolChoice{Mode: canon.ChoiceRequired}, ptr(false), `{"type":"any","disable_parallel_tool_use":true}`},
		{&canon.ToolChoice{Mode: canon.ChoiceTool, Name: "f"}, nil, `{"type":"tool","name":"f"}`},
		{&canon.ToolChoice{Mode: canon.ChoiceNone}, ptr(false), `{"type":"none"}`},
	}
	for i, tt := range tests {
		got, _ := fieldsOf(t, &canon.Request{Messages: ask("x"), Tools: tools, ToolChoice: tt.choice, ParallelToolCalls: tt.parallel}, canon.CallOptions{Model: "m"}, "tool_choice")
		if got[0] != tt.want {
			t.Errorf("%d: got %s, want %s", i, got[0], tt.want)
		}
	}
	// Without tools both have no meaning, and Anthropic refuses them.
	got, _ := fieldsOf(t, &canon.Request{Messages: ask("x"), ToolChoice: &canon.ToolChoice{Mode: canon.ChoiceAuto}, ParallelToolCalls: ptr(false)}, canon.CallOptions{Model: "m"}, "tool_choice", "tools")
	if got[0] != "" || got[1] != "" {
		t.Errorf("without tools: %q", got)
	}
}

func TestBuildCallRefuses(t *testing.T) {
	callWith := func(args string) []canon.Message {
		return append(ask("q"), canon.Message{Role: canon.RoleAssistant, Parts: []canon.Part{{Kind: canon.PartToolCall, Call: &canon.ToolCall{ID: "a", Name: "f", Arguments: args}}}})
	}
	image := func(role canon.Role, img *canon.Image) []canon.Message {
		return []canon.Message{{Role: role, Parts: []canon.Part{{Kind: canon.PartImage, Image: img}}}}
	}
	tests := []struct {
		req   canon.Request
		param string
		want  string
	}{
		{canon.Request{Messages: callWith(`{"a":`)}, "messages[1].tool_calls", `arguments of the call to "f" must be the text of a JSON object: unexpected end`},
		{canon.Request{Messages: callWith(`[1]`)}, "messages[1].tool_calls", "it is no JSON object"},
		{canon.Request{Messages: ask(" ")}, "messages", "at least one is required"},
		{canon.Request{}, "messages", "at least one is required"},
		{canon.Request{Messages: ask("x"), Tools: []canon.Tool{{Name: "a.b"}}}, "tools[0].name", `tool name "a.b"`},
		{canon.Request{Messages: ask("x"), Tools: []canon.Tool{{Name: strings.Repeat("a", 129)}}}, "tools[0].name", "1 to 128"},
		{canon.Request{Messages: ask("x"), Tools: []canon.Tool{{Name: "a", Parameters: json.RawMessage(`[]`)}}}, "tools[0].parameters", "must be a JSON Schema object"},
		{canon.Request{Messages: ask("x"), Format: &canon.Format{Kind: canon.FormatSchema, Schema: json.RawMessage(`7`)}}, "response_format", "must be an object"},
		{canon.Request{Messages: image(canon.RoleUser, &canon.Image{MediaType: "image/tiff", Data: "QQ=="})}, "messages[0].content", `not "image/tiff"`},
		{canon.Request{Messages: image(canon.RoleAssistant, &canon.Image{URL: "https://x/y"})}, "messages[0].content", "images from the user only"},
		{canon.Request{Messages: append(image(canon.RoleSystem, &canon.Image{URL: "https://x/y"}), ask("x")...)}, "messages[0].content", "text only"},
	}
	for i, tt := range tests {
		call, err := outbound{}.BuildCall(&tt.req, canon.CallOptions{Model: "m"})
		if err == nil {
			t.Errorf("%d: accepted: %s", i, call.Body)
			continue
		}
		if err.Kind != canon.ErrInvalidRequest || err.Param != tt.param || !strings.Contains(err.Message, tt.want) {
			t.Errorf("%d: got %s %s %q, want %s %q", i, err.Kind, err.Param, err.Message, tt.param, tt.want)
		}
	}
}

func TestClaudeVersion(t *testing.T) {
	tests := []struct{ model, want string }{
		{"claude-3-5-sonnet-20241022", "3.5"}, {"claude-3-haiku-20240307", "3.0"}, {"claude-3-7-sonnet-latest", "3.7"},
		{"claude-opus-4-20250514", "4.0"}, {"claude-opus-4-1", "4.1"}, {"claude-sonnet-4-5-20250929", "4.5"},
		{"anthropic/claude-sonnet-4.5", "4.5"}, {"us.anthropic.claude-opus-4-6-v1:0", "4.6"}, {"claude-sonnet-5", "5.0"},
		{"Claude-Opus-4-10", "4.10"}, {"claude-2.1", "2.1"}, {"claude-next-preview", ""}, {"sim-model-4-7", ""}, {"", ""},
	}
	for _, tt := range tests {
		got := ""
		if major, minor, ok := claudeVersion(tt.model); ok {
			got = fmt.Sprintf("%d.%d", major, minor)
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.model, got, tt.want)
		}
	}
}

func TestToolIDs(t *testing.T) {
	body := func(id string) string {
		r := canon.Request{Messages: append(ask("q"),
			canon.Message{Role: canon.RoleAssistant, Parts: []canon.Part{{Kind: canon.PartToolCall, Call: &canon.ToolCall{ID: id, Name: "f"}}}},
			canon.Message{Role: canon.RoleTool, Parts: []canon.Part{{Kind: canon.PartToolResult, Result: &canon.ToolResult{ID: id}}}})}
		call, err := outbound{}.BuildCall(&r, canon.CallOptions{Model: "m"})
		if err != nil {
			t.Fatal(err)
		}
		return string(call.Body)
	}
	seen := map[string]string{}
	for _, id := range []string{"call_1", "a.b", "a:b", "é", "", strings.Repeat("x", 200)} {
		var m struct {
			Messages []struct {
				Content []struct {
					ID        string `json:"id"`
					ToolUseID string `json:"tool_use_id"`
				}
			}
		}
		if err := json.Unmarshal([]byte(body(id)), &m); err != nil {
			t.Fatal(err)
		}
		used, answered := m.Messages[1].Content[0].ID, m.Messages[2].Content[0].ToolUseID
		if used != answered || !validName(used, 0) {
			t.Errorf("id %q becomes %q and %q", id, used, answered)
		}
		if other, twice := seen[used]; twice {
			t.Errorf("ids %q and %q both become %q", id, other, used)
		}
		seen[used] = id
		if validName(id, 0) && used != id {
			t.Errorf("valid id %q was changed to %q", id, used)
		}
		if first, second := body(id), body(id); first != second {
			t.Errorf("not deterministic: %s and %s", first, second)
		}
	}
}

// Calls are numbered anew in each answer by some servers, and Anthropic takes an id once.
func TestToolIDsRepeat(t *testing.T) {
	calls := func(ids ...string) (m canon.Message) {
		m.Role = canon.RoleAssistant
		for _, id := range ids {
			m.Parts = append(m.Parts, canon.Part{Kind: canon.PartToolCall, Call: &canon.ToolCall{ID: id, Name: "f"}})
		}
		return m
	}
	result := func(id string) canon.Message {
		return canon.Message{Role: canon.RoleTool, Parts: []canon.Part{{Kind: canon.PartToolResult, Result: &canon.ToolResult{ID: id}}}}
	}
	// Each turn's results, in the order of the calls they answer.
	tests := []struct {
		label string
		msgs  []canon.Message
		want  []int // for each result the number of its call
	}{
		{"each turn from 0", []canon.Message{calls("call_0", "call_1"), result("call_1"), result("call_0"), calls("call_0"), result("call_0"), calls("call_0"), result("call_0")}, []int{1, 0, 2, 3}},
		{"twice in one turn", []canon.Message{calls("a", "a", "b"), result("a"), result("b"), result("a")}, []int{0, 2, 1}},
		{"none at all", []canon.Message{calls("", ""), result(""), result(""), calls(""), result("")}, []int{0, 1, 2}},
		{"refused ids", []canon.Message{calls("a.b"), result("a.b"), calls("a.b"), result("a.b")}, []int{0, 1}},
		{"answered late", []canon.Message{calls("a"), result("a"), calls("a", "b"), result("b"), calls("c"), result("c"), result("a")}, []int{0, 2, 3, 1}},
		{"what was made for another", []canon.Message{calls("a"), result("a"), calls("a"), result("a"), calls(digest("a#2")), result(digest("a#2"))}, []int{0, 1, 2}},
	}
	for _, tt := range tests {
		t.Run(tt.label, func(t *testing.T) {
			var before []string // the ids of the shorter conversation
			for n := 1; n <= len(tt.msgs); n++ {
				call, err := outbound{}.BuildCall(&canon.Request{Messages: append(ask("q"), tt.msgs[:n]...)}, canon.CallOptions{Model: "m"})
				if err != nil {
					t.Fatal(err)
				}
				var body struct {
					Messages []struct {
						Content []struct {
							ID        string `json:"id"`
							ToolUseID string `json:"tool_use_id"`
						}
					}
				}
				if err := json.Unmarshal(call.Body, &body); err != nil {
					t.Fatal(err)
				}
				var ids, used []string
				var answered []int
				for _, m := range body.Messages {
					for _, c := range m.Content {
						if c.ID != "" {
							if slices.Contains(used, c.ID) || !validName(c.ID, 0) {
								t.Errorf("the id %q, twice or refused, behind %q", c.ID, used)
							}
							used = append(used, c.ID)
						}
						if c.ToolUseID != "" {
							answered = append(answered, slices.Index(used, c.ToolUseID))
						}
						ids = append(ids, c.ID+c.ToolUseID)
					}
				}
				if !slices.Equal(answered, tt.want[:len(answered)]) {
					t.Errorf("the results answer the calls %v, want %v", answered, tt.want)
				}
				if n == len(tt.msgs) && len(answered) != len(tt.want) {
					t.Errorf("%d results, want %d", len(answered), len(tt.want))
				}
				// A longer conversation repeats the shorter one: prompts are cached by their beginning.
				if !slices.Equal(ids[:len(before)], before) {
					t.Errorf("%q became %q", before, ids)
				}
				before = ids
			}
		})
	}
}

func TestSetModel(t *testing.T) {
	got, err := outbound{}.SetModel([]byte(`{ "a" : {"model":"x"}, "model" : "y" ,"b":1.0}`), `n"w`)
	if want := `{ "a" : {"model":"x"}, "model" : "n\"w" ,"b":1.0}`; err != nil || string(got) != want {
		t.Errorf("got %s (%v), want %s", got, err, want)
	}
	for _, body := range []string{``, `[]`, `{}`, `{"model":1}`, `{"model":"a","model":"b"}`, `{"model":"a"} x`} {
		if got, err := (outbound{}).SetModel([]byte(body), "m"); err == nil || err.Kind != canon.ErrInvalidRequest {
			t.Errorf("%s: got %s, %v", body, got, err)
		}
	}
}

func TestDialect(t *testing.T) {
	d := Dialect()
	if d.Name != "anthropic" || d.In == nil || d.Out == nil || d.Root != "" {
		t.Errorf("%+v", d)
	}
	var paths []string
	for _, e := range d.Endpoints {
		paths = append(paths, e.Method+" "+e.Path+" "+string(e.Op))
	}
	want := []string{"POST /v1/messages chat", "POST /v1/messages/count_tokens count_tokens", "GET /v1/models models", "GET /v1/models/{model} model"}
	if !reflect.DeepEqual(paths, want) {
		t.Errorf("got %v, want %v", paths, want)
	}
	for version, want := range map[string]string{
		"2023-06-01": "x-api-key: k", "2023-01-01": "x-api-key: k", "2026-10-21": "authorization: Bearer k", "": "authorization: Bearer k",
	} {
		if c, _ := canon.CredentialFor(d.Out.Credentials("k"), version); c.Name+": "+c.Value != want {
			t.Errorf("version %q carries %s: %s, want %s", version, c.Name, c.Value, want)
		}
	}
}

func TestAppendResponseOddities(t *testing.T) {
	r := &canon.Response{Finish: canon.FinishStop, Parts: []canon.Part{
		{Text: ""},
		// Anthropic would refuse to have these two back.
		{Kind: canon.PartReasoning, Text: "hm", Signature: "foreign", Origin: "other"},
		{Kind: canon.PartReasoning, Text: "unsigned", Origin: name},
		{Kind: canon.PartReasoning, Text: "own", Signature: "s", Origin: name},
		{Kind: canon.PartRefusal, Text: "no"},
		{Kind: canon.PartToolCall, Call: &canon.ToolCall{Name: "f", Arguments: `{"a":1`}},
		{Kind: canon.PartToolCall, Call: &canon.ToolCall{Name: "g", Arguments: ``}},
		{Kind: canon.PartToolCall, Call: &canon.ToolCall{ID: "x:1", Name: "h", Arguments: ` {"b":2} `}},
	}}
	got := string(inbound{}.AppendResponse(nil, r, testReply))
	want := `{"id":"msg_reply1","type":"message","role":"assistant","model":"asked-for","content":[` +
		`{"type":"thinking","thinking":"own","signature":"s"},{"type":"text","text":"no"},` +
		`{"type":"tool_use","id":"toolu_reply1_0","name":"f","input":{"_raw":"{\"a\":1"}},` +
		`{"type":"tool_use","id":"toolu_reply1_1","name":"g","input":{}},` +
		`{"type":"tool_use","id":"x:1","name":"h","input":{"b":2}}],` +
		`"stop_reason":"tool_use","stop_sequence":null,` +
		`"usage":{"input_tokens":0,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":0}}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
