package sim

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestPromptCache holds that a long prefix that came before is billed as cached, in each dialect's words.
func TestPromptCache(t *testing.T) {
	long := strings.Repeat("water ", 2000)
	t.Run("openai", func(t *testing.T) {
		_, url := newSim(t, Options{Dialect: OpenAI})
		cached := func(key, question string) any {
			body := fmt.Sprintf(`{"model":"gpt-4o","messages":[{"role":"system","content":%q},{"role":"user","content":%q}]}`, long, question)
			return dig(t, do(t, "POST", url+chatPath, body, "Authorization: Bearer "+key).body, "usage", "prompt_tokens_details", "cached_tokens")
		}
		for i, want := range []any{0.0, 1920.0, 1920.0, 0.0} {
			if got := cached([]string{"a", "a", "a", "b"}[i], []string{"x", "x", "y", "x"}[i]); got != want {
				t.Errorf("request %d: %v cached tokens, want %v", i, got, want)
			}
		}
	})
	t.Run("dashscope", func(t *testing.T) {
		_, url := newSim(t, Options{Dialect: DashScope})
		body := fmt.Sprintf(`{"model":"qwen-plus","input":{"messages":[{"role":"user","content":%q}]}}`, long)
		for i, want := range []any{0.0, 1984.0} {
			if got := dig(t, do(t, "POST", url+qwenPath, body, bearer).body, "usage", "prompt_tokens_details", "cached_tokens"); got != want {
				t.Errorf("request %d: %v cached tokens, want %v", i, got, want)
			}
		}
	})
	t.Run("anthropic", func(t *testing.T) {
		_, url := newSim(t, Options{Dialect: Anthropic})
		for i, c := range []struct{ mark, read, written string }{
			{``, "0", "0"}, {`,"cache_control":{"type":"ephemeral"}`, "0", "2000"}, {`,"cache_control":{"type":"ephemeral"}`, "2000", "0"}, {``, "0", "0"},
		} {
			body := fmt.Sprintf(`{"model":"claude-sonnet-4-5","max_tokens":20,"system":[{"type":"text","text":%q%s}],"messages":[{"role":"user","content":"hi"}]}`, strings.TrimSpace(long), c.mark)
			u := dig(t, do(t, "POST", url+messagesPath, body, bearer, v2023).body, "usage").(map[string]any)
			if fmt.Sprint(u["cache_read_input_tokens"]) != c.read || fmt.Sprint(u["cache_creation_input_tokens"]) != c.written {
				t.Errorf("request %d: %v", i, u)
			}
			if total := num(u["input_tokens"]) + num(u["cache_read_input_tokens"]) + num(u["cache_creation_input_tokens"]); total != 2005 {
				t.Errorf("request %d: %v input tokens in all", i, total)
			}
		}
	})
}

// TestStructuredOutput holds that every dialect answers JSON of the asked form.
func TestStructuredOutput(t *testing.T) {
	const schema = `{"type":"object","properties":{"city":{"type":"string"},"temperature":{"type":"integer","minimum":5,"maximum":6}},"required":["city","temperature"],"additionalProperties":false}`
	const format = `"response_format":{"type":"json_schema","json_schema":{"name":"w","strict":true,"schema":` + schema + `}}`
	const msgs = `"messages":[{"role":"user","content":"weather as JSON"}]`
	for name, c := range map[string]struct {
		dialect    Dialect
		path, body string
		at         []any
	}{
		"openai":           {OpenAI, chatPath, `{"model":"gpt-4o",` + msgs + `,` + format + `}`, []any{"choices", 0, "message", "content"}},
		"openai responses": {OpenAI, "/v1/responses", `{"model":"gpt-4o","input":"x","text":{"format":{"type":"json_schema","name":"w","schema":` + schema + `}}}`, []any{"output", 0, "content", 0, "text"}},
		"anthropic":        {Anthropic, messagesPath, `{"model":"claude-sonnet-4-5","max_tokens":99,` + msgs + `,"output_config":{"format":{"type":"json_schema","schema":` + schema + `}}}`, []any{"content", 0, "text"}},
		"dashscope":        {DashScope, qwenPath, `{"model":"qwen-plus","input":{` + msgs + `},"parameters":{"result_format":"message",` + format + `}}`, []any{"output", "choices", 0, "message", "content"}},
		"compatible mode":  {DashScope, compatPath, `{"model":"qwen-plus",` + msgs + `,` + format + `}`, []any{"choices", 0, "message", "content"}},
	} {
		_, url := newSim(t, Options{Dialect: c.dialect})
		got := do(t, "POST", url+c.path, c.body, bearer, v2023)
		said, _ := dig(t, got.body, c.at...).(string)
		var v struct {
			City        *string
			Temperature *int
		}
		d := json.NewDecoder(strings.NewReader(said))
		d.DisallowUnknownFields()
		if err := d.Decode(&v); err != nil || v.City == nil || v.Temperature == nil || *v.Temperature < 5 || *v.Temperature > 6 {
			t.Errorf("%s: %q: %v", name, said, err)
		}
	}
	_, url := newSim(t, Options{Dialect: OpenAI})
	got := do(t, "POST", url+chatPath, `{"model":"gpt-4o",`+msgs+`,"response_format":{"type":"json_object"}}`, bearer)
	if said, _ := dig(t, got.body, "choices", 0, "message", "content").(string); !json.Valid([]byte(said)) || said[0] != '{' {
		t.Errorf("json_object: %q", said)
	}
}

// TestThinkingReturns holds that a signed thinking block goes round a tool loop, and only unchanged.
func TestThinkingReturns(t *testing.T) {
	_, url := newSim(t, Options{Dialect: Anthropic})
	const head = `{"model":"claude-sonnet-4-5","max_tokens":2000,"thinking":{"type":"enabled","budget_tokens":1024},` + tools2Claude + `,"messages":[{"role":"user","content":"call the tool"}`
	first := do(t, "POST", url+messagesPath, head+`]}`, bearer, v2026)
	var m struct {
		Content []map[string]any `json:"content"`
	}
	if err := json.Unmarshal([]byte(first.body), &m); err != nil || len(m.Content) != 4 {
		t.Fatalf("%v: %s", err, first.body)
	}
	next := func() answer {
		content, _ := json.Marshal(m.Content)
		return do(t, "POST", url+messagesPath, head+`,{"role":"assistant","content":`+string(content)+`},{"role":"user","content":[`+
			fmt.Sprintf(`{"type":"tool_result","tool_use_id":%q,"content":"rain"},{"type":"tool_result","tool_use_id":%q,"content":[{"type":"text","text":"noon"}]}]}]}`, m.Content[2]["id"], m.Content[3]["id"]), bearer, v2026)
	}
	if got := next(); got.status != 200 || !strings.Contains(got.body, "The tool answered: rain. The tool answered: noon.") {
		t.Errorf("%d %s", got.status, got.body)
	}
	m.Content[0]["thinking"] = "something else"
	if got := next(); got.status != 400 || !strings.Contains(got.body, "signature") {
		t.Errorf("changed thinking: %d %s", got.status, got.body)
	}
}

func TestIgnoredParameters(t *testing.T) {
	s, url := newSim(t, Options{Dialect: DashScope})
	do(t, "POST", url+qwenPath, `{"model":"qwen-plus","input":{"prompt":"x"},"parameters":{"frequency_penalty":1,"top_k":3}}`, bearer)
	if got := s.Requests()[0].Summary.Ignored; len(got) != 1 || got[0] != "parameters.frequency_penalty" {
		t.Errorf("ignored: %v", got)
	}
}

func TestIDsDiffer(t *testing.T) {
	seen := map[any]bool{}
	for _, d := range []Dialect{OpenAI, DashScope} {
		_, url := newSim(t, Options{Dialect: d})
		path, model := chatPath, "gpt-4o"
		if d == DashScope {
			path, model = compatPath, "qwen-plus"
		}
		for range 3 {
			got := do(t, "POST", url+path, `{"model":"`+model+`",`+callToolsText+`,`+tools2+`}`, bearer)
			for i := range 2 {
				seen[dig(t, got.body, "choices", 0, "message", "tool_calls", i, "id")] = true
			}
		}
	}
	if len(seen) != 12 || seen[nil] {
		t.Errorf("%d different ids of 12 calls", len(seen))
	}
}

// fuzzServer serves a fuzzed body: whatever comes, the answer is well-formed and the status is one the API has.
func fuzzServer(f *testing.F, d Dialect, paths []string, headers ...string) {
	for _, c := range cases() {
		if c.dialect == d && c.body != "" {
			f.Add([]byte(c.body), uint8(0), true)
			f.Add([]byte(c.body), uint8(1), false)
		}
	}
	f.Add([]byte(`{"model":[],"messages":{},"input":1}`), uint8(0), false)
	s, err := New(Options{Dialect: d, Sleep: noSleep, Now: fixedNow})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte, path uint8, stream bool) {
		r := httptest.NewRequest(http.MethodPost, paths[int(path)%len(paths)], strings.NewReader(string(body)))
		for _, h := range append(headers, bearer) {
			name, value, _ := strings.Cut(h, ": ")
			r.Header.Set(name, value)
		}
		if stream {
			r.Header.Set("X-DashScope-SSE", "enable")
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		switch w.Code {
		case 200, 400, 403, 404:
		default:
			t.Fatalf("status %d: %s", w.Code, w.Body)
		}
		if strings.HasPrefix(w.Header().Get("Content-Type"), "text/event-stream") {
			dataLines(t, w.Body.String())
		} else if !json.Valid(w.Body.Bytes()) {
			t.Fatalf("not JSON: %s", w.Body)
		}
	})
}

func FuzzOpenAI(f *testing.F) {
	fuzzServer(f, OpenAI, []string{chatPath, "/v1/responses", "/v1/embeddings"})
}

func FuzzAnthropic(f *testing.F) {
	fuzzServer(f, Anthropic, []string{messagesPath, messagesPath + "/count_tokens"}, v2023)
}

func FuzzDashScope(f *testing.F) {
	fuzzServer(f, DashScope, []string{qwenPath, qwenVLPath, compatPath})
}
