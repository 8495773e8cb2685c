package console

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

func setupFor(t *testing.T, query string, edit func(*SetupOptions)) (setupBody, *httptest.ResponseRecorder) {
	t.Helper()
	o := SetupOptions{
		URLs: func(*http.Request) []string { return []string{"https://llm.example.com/team", "http://127.0.0.1:8080"} },
		Models: func() []SetupModel {
			return []SetupModel{{"gpt-4o", "default/openai"}, {"claude", "default/anthropic"}}
		},
		Callers: func() []SetupCaller { return []SetupCaller{{"default/demo", "demo", []string{"gpt-4o"}}} },
	}
	if edit != nil {
		edit(&o)
	}
	s, err := NewSetup(o)
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "/api/setup"+query, nil))
	var body setupBody
	if w.Code == 200 {
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
			t.Fatal(err)
		}
	}
	return body, w
}

// TestSnippets: each client has its own idea of where the base URL ends.
func TestSnippets(t *testing.T) {
	body, _ := setupFor(t, "", nil)
	const base = "https://llm.example.com/team"
	if body.BaseURL != base || body.Model != "gpt-4o" || len(body.Models) != 2 || len(body.Callers) != 1 || body.KeyPlaceholder != keyPlaceholder {
		t.Errorf("%+v", body)
	}
	// What stands behind the base URL in every snippet of a client, up to the quote or space after it.
	want := map[string][]string{
		"curl":             {"/v1/chat/completions", "/v1/messages", "/v1/models"},
		"openai-python":    {"/v1", "/v1"},
		"openai-node":      {"/v1"},
		"anthropic-python": {"", ""},
		"anthropic-node":   {""},
		"dashscope":        {"/v1", "/v1"},
		"langchain":        {"/v1", "", "/v1"},
		"vercel-ai-sdk":    {"/v1", "/v1"},
		"claude-code":      {"", ""},
		"codex":            {"/v1", "-"},
	}
	if len(body.Clients) != len(want) {
		t.Errorf("%d clients, want %d", len(body.Clients), len(want))
	}
	for _, c := range body.Clients {
		if c.Name == "" || c.About == "" || len(c.Snippets) != len(want[c.ID]) {
			t.Errorf("%s: %d snippets, want %d: %+v", c.ID, len(c.Snippets), len(want[c.ID]), c)
			continue
		}
		for i, s := range c.Snippets {
			_, after, found := strings.Cut(s.Text, base)
			if want[c.ID][i] == "-" {
				if found {
					t.Errorf("%s: %s has the base URL", c.ID, s.Title)
				}
				continue
			}
			if got := after[:max(0, strings.IndexAny(after, "\"' \n\\"))]; !found || got != want[c.ID][i] {
				t.Errorf("%s: in %q the base URL ends with %q, want %q", c.ID, s.Title, got, want[c.ID][i])
			}
			if s.Title == "" || s.Language == "" || strings.Contains(s.Text, "<no value>") || !strings.HasSuffix(s.Text, "\n") {
				t.Errorf("%s: %+v", c.ID, s)
			}
		}
		all, _ := json.Marshal(c.Snippets)
		if !strings.Contains(string(all), keyPlaceholder) {
			t.Errorf("%s shows no place for the key", c.ID)
		}
	}
}

// TestSnippetsQuote: a model's name may hold anything, and stays a name.
func TestSnippetsQuote(t *testing.T) {
	const model = `it's "a" $(model) \ <x>`
	body, _ := setupFor(t, "?model="+url.QueryEscape(model), nil)
	checked := 0
	for _, c := range body.Clients {
		for _, s := range c.Snippets {
			if s.Language == "bash" && strings.Contains(s.Text, "$(model)") {
				checked++
				if !strings.Contains(s.Text, `'\''`) {
					t.Errorf("%s: the shell would end the word: %s", c.ID, s.Text)
				}
			}
			if s.Language == "json" {
				checked++
				if !json.Valid([]byte(s.Text)) {
					t.Errorf("%s: no JSON: %s", c.ID, s.Text)
				}
			}
			if s.Language == "python" {
				checked++
				if !strings.Contains(s.Text, `model="it's \"a\" $(model) \\ <x>"`) {
					t.Errorf("%s: %s", c.ID, s.Text)
				}
			}
		}
	}
	if checked < 8 {
		t.Errorf("only %d snippets were looked at", checked)
	}
}

func TestSetupChoices(t *testing.T) {
	if body, _ := setupFor(t, "?url="+url.QueryEscape("http://127.0.0.1:8080")+"&model=claude", nil); body.BaseURL != "http://127.0.0.1:8080" || body.Model != "claude" {
		t.Errorf("%+v", body)
	}
	if body, _ := setupFor(t, "", func(o *SetupOptions) { o.Models = func() []SetupModel { return []SetupModel{} } }); body.Model != modelPlaceholder {
		t.Errorf("without models the snippets ask for %q", body.Model)
	}
	for query, want := range map[string]int{"?url=https://evil.example": 400, "?model=" + strings.Repeat("x", 257): 400, "?model=a%0ab": 400} {
		if _, w := setupFor(t, query, nil); w.Code != want {
			t.Errorf("%.40s: status %d", query, w.Code)
		}
	}
	if _, w := setupFor(t, "", func(o *SetupOptions) { o.URLs = func(*http.Request) []string { return nil } }); w.Code != 503 {
		t.Errorf("without listeners: status %d", w.Code)
	}
}

func TestParseClient(t *testing.T) {
	for text, says := range map[string]string{
		"": "needs a name", "name: x\n": "needs a name", "--- bash t\nx\n": "needs a name", "nonsense\n": "neither", "name: x\n--- bash t\n{{.Nothing\n": "unclosed",
	} {
		if _, err := parseClient([]byte(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
