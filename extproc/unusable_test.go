package extproc

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/weir-dev/weir/extproc/table"
)

// unusableTable has rules that go on without some of their backends, or without all, before one that takes every model.
func unusableTable(t testing.TB) *table.Table {
	r := newRules(t)
	gone := table.Unusable{Backend: "team-b/gpu", Why: "there is no such Backend", Weight: 3, Priority: 1}
	r.add("none", models("gpt-none")).Unusable = []table.Unusable{gone}
	r.add("some", models("gpt-some", "smart"), choice{"openai", "gpt-4o"}).Unusable = []table.Unusable{gone}
	r.add("other", models("gemini-pro", "claude"), choice{"anthropic", ""}).Unusable = []table.Unusable{gone}
	r.add("all", table.Match{}, choice{"vllm", ""})
	return r.build()
}

// TestRuleWithoutBackends: it answers 503 in the caller's dialect, and its requests never fall to a less specific rule.
func TestRuleWithoutBackends(t *testing.T) {
	anthropic := chatHeaders("anthropic-version", "2023-06-01").with(":path", "/v1/messages")
	for _, c := range []struct {
		name, model string
		h           headerMap
		status      int // 0: the request goes on
		kind        string
	}{
		{"no backend is left", "gpt-none", chatHeaders(), 503, ""},
		{"no backend is left, Anthropic", "gpt-none", anthropic, 503, "overloaded_error"},
		{"no backend is left, not translated", "gpt-none", chatHeaders().with(":path", "/v1/embeddings"), 503, ""},
		{"one is left", "gpt-some", chatHeaders(), 0, ""},
		{"one is left, for another model", "gemini-pro", chatHeaders(), 503, ""},
		{"one is left, of another dialect, not translated", "claude", chatHeaders().with(":path", "/v1/embeddings"), 503, ""},
		{"another rule", "anything", chatHeaders(), 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, unusableTable(t))
			d := r.open(c.h, asks(c.model, false))
			im := d.first.GetImmediateResponse()
			if c.status == 0 {
				if im != nil {
					t.Fatalf("the request is refused: %s", im.GetBody())
				}
				d.end()
				return
			}
			var e struct {
				Error struct{ Message, Type, Code string }
			}
			if err := json.Unmarshal(im.GetBody(), &e); err != nil {
				t.Fatalf("not refused, or not in the caller's dialect: %v", d.first)
			}
			if int(im.GetStatus().GetCode()) != c.status || !strings.Contains(e.Error.Message, "can be used for the model") || c.kind != "" && e.Error.Type != c.kind {
				t.Errorf("got %d: %s", im.GetStatus().GetCode(), im.GetBody())
			}
			if c.kind == "" && e.Error.Code != codeUnavailable {
				t.Errorf("code %q, want %s", e.Error.Code, codeUnavailable)
			}
			if got := (headerMap{}).apply(im.GetHeaders()).get("retry-after"); got != "10" {
				t.Errorf("retry-after is %q", got)
			}
			d.end()
			if !slices.Equal(r.statuses, []int{c.status}) {
				t.Errorf("metrics were told %v", r.statuses)
			}
		})
	}
}

// TestModelsOfARuleWithoutBackends: lists have what can be served.
func TestModelsOfARuleWithoutBackends(t *testing.T) {
	d := newRig(t, unusableTable(t)).open(chatHeaders().with(":method", "GET").with(":path", "/v1/models"), nil)
	list := string(d.first.GetImmediateResponse().GetBody())
	if !strings.Contains(list, `"smart"`) || strings.Contains(list, "gpt-none") || strings.Contains(list, "gemini-pro") {
		t.Errorf("the list is %s", list)
	}
	d.end()
}

// TestExplainUnusable: an explanation names the backends that a rule goes on without, and why.
func TestExplainUnusable(t *testing.T) {
	r := newRig(t, unusableTable(t))
	for _, c := range []struct {
		model  string
		status int
		want   []string // backends
	}{
		{"gpt-none", 503, []string{"team-b/gpu"}},
		{"gpt-some", 200, []string{"default/openai", "team-b/gpu"}},
		{"gemini-pro", 503, []string{"default/anthropic", "team-b/gpu"}},
		{"anything", 200, []string{"default/vllm"}},
	} {
		req, _ := bothOf(chatHeaders(), prompt(c.model))
		x, err := r.server.Explain(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, k := range x.Candidates {
			got = append(got, k.Backend)
			if k.Backend == "team-b/gpu" && (k.Excluded != "there is no such Backend" || k.Weight != 3 || k.Priority != 1 || !k.Usable) {
				t.Errorf("%s: %+v", c.model, k)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: candidates %q, want %q", c.model, got, c.want)
		}
		if (x.Outcome.Status == 503) != (c.status == 503) {
			t.Errorf("%s: the outcome is %+v", c.model, x.Outcome)
		}
	}
}
