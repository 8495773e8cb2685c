// Package examples_test loads, validates and compiles every folder beside it, and checks where requests go.
package examples_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/source/files"
)

// environment is what the README tells a reader to set.
var environment = map[string]string{
	"OPENAI_API_KEY": "sk-openai-example", "ANTHROPIC_API_KEY": "sk-anthropic-example", "DASHSCOPE_API_KEY": "sk-dashscope-example",
	"APP_KEY": "app-key-of-some-length", "RESEARCH_KEY": "research-key-of-some-length", "SUPPORT_KEY": "support-key-of-some-length",
	"SESSION_KEY": strings.Repeat("5e", 32),
}

// want is one request and who is asked for it, in order, "backend model" each.
type want struct {
	model   string
	labels  map[string]string
	headers map[string]string
	rule    string
	asked   []string
}

var folders = map[string][]want{
	"single-provider": {
		{model: "gpt-4o", rule: "default/all", asked: []string{"default/openai gpt-4o"}},
		{model: "anything", rule: "default/all", asked: []string{"default/openai anything"}},
	},
	"sessions": {
		{model: "claude-sonnet-4-5", rule: "default/chat/claude", asked: []string{"default/anthropic claude-sonnet-4-5"}},
		{model: "gpt-4o", rule: "default/chat/others", asked: []string{"default/openai gpt-4o"}},
	},
	"fallback": {
		{model: "assistant", rule: "default/assistant",
			asked: []string{"default/openai gpt-4o", "default/anthropic claude-sonnet-4-5", "default/dashscope qwen-plus"}},
		{model: "qwen-plus", rule: "default/models", asked: []string{"default/dashscope qwen-plus"}},
	},
	"vllm-pool": {
		{model: "llama-3.3-70b", rule: "default/llama", asked: []string{"default/vllm meta-llama/Llama-3.3-70B-Instruct"}},
		{model: "gpt-4o"},
	},
	"gpu-pool": {
		{model: "qwen3-14b", rule: "default/qwen", asked: []string{"default/gpus qwen3-14b"}},
	},
	"jwt": {
		{model: "gpt-5-mini", rule: "default/chat/large", asked: []string{"default/openai gpt-5-mini"}},
		{model: "gpt-4o", rule: "default/chat/other", asked: []string{"default/openai gpt-4o"}},
	},
	"canary": {
		{model: "assistant", rule: "default/assistant/split", asked: []string{"default/openai gpt-4o", "default/openai gpt-5"}},
		{model: "assistant", headers: map[string]string{"x-version": "v2"}, rule: "default/assistant/next", asked: []string{"default/openai gpt-5"}},
	},
	"cache": {
		{model: "gpt-4o", rule: "default/models", asked: []string{"default/openai gpt-4o"}},
	},
	"limits": {
		{model: "gpt-4o", rule: "default/models", asked: []string{"default/openai gpt-4o"}},
	},
	"teams": {
		{model: "assistant", labels: map[string]string{"team": "research"}, rule: "default/assistant/research",
			asked: []string{"default/anthropic claude-sonnet-4-5"}},
		{model: "assistant", labels: map[string]string{"team": "support"}, rule: "default/assistant/others",
			asked: []string{"default/openai gpt-4o-mini"}},
		{model: "gpt-4o", rule: "default/models", asked: []string{"default/openai gpt-4o"}},
	},
	"shared-pool": {
		{model: "assistant", rule: "apps/assistant", asked: []string{"gpu/llama llama-3.3-70b", "apps/openai gpt-4o-mini"}},
		{model: "llama-3.3-70b"},
	},
}

// scenarios are not objects, and are tested by test/simulate.
const scenarios = "simulate"

func TestExamples(t *testing.T) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, e := range entries {
		if !e.IsDir() || e.Name() == scenarios {
			continue
		}
		found++
		wants, ok := folders[e.Name()]
		if !ok {
			t.Errorf("folder %s has no requests in this test", e.Name())
		}
		if !strings.Contains(string(readme), "["+e.Name()+"]("+e.Name()+")") {
			t.Errorf("README.md does not list %s", e.Name())
		}
		t.Run(e.Name(), func(t *testing.T) { check(t, e.Name(), wants) })
	}
	if found != len(folders) {
		t.Errorf("%d folders, and requests for %d", found, len(folders))
	}
}

func check(t *testing.T, dir string, wants []want) {
	v := compileFolder(t, dir)
	for _, w := range wants {
		r := v.Table.Find(&table.Request{
			Method: "POST", Path: "/v1/chat/completions", Model: w.model, Labels: w.labels,
			Header: func(name string) (string, bool) { h, ok := w.headers[name]; return h, ok },
		})
		if w.rule == "" {
			if r != nil {
				t.Errorf("model %q goes to rule %s, want none", w.model, r.Name)
			}
			continue
		}
		if r == nil {
			t.Errorf("model %q goes nowhere, want rule %s", w.model, w.rule)
			continue
		}
		variant := r.Variant(r.Capable(w.model, ""))
		if variant == nil {
			t.Errorf("model %q: rule %s has no backend for it", w.model, r.Name)
			continue
		}
		var asked []string
		for _, c := range variant.Candidates {
			asked = append(asked, c.Backend.ID+" "+c.UpstreamModel(w.model))
		}
		if r.Name != w.rule || !slices.Equal(asked, w.asked) {
			t.Errorf("model %q: rule %s asks %q, want rule %s and %q", w.model, r.Name, asked, w.rule, w.asked)
		}
	}
}

// compileFolder compiles a folder as `weir validate` does, and fails on any problem, warnings included.
func compileFolder(t *testing.T, dir string) *compile.Version {
	t.Helper()
	dialects, err := adapters.NewSet(adapters.Catalog()...)
	if err != nil {
		t.Fatal(err)
	}
	env := func(name string) (string, bool) { v, ok := environment[name]; return v, ok }
	objs, problems := files.Load(dir, env)
	for _, p := range problems {
		t.Error(p)
	}
	if t.Failed() {
		t.FailNow()
	}
	v, problems := compile.Compile(objs, compile.Options{Dialects: dialects, Keys: identity.Offline{}, ExtProcCluster: "weir", SystemCAs: "ca.pem"})
	for _, p := range problems {
		t.Error(p)
	}
	if v == nil {
		t.FailNow()
	}
	return v
}
