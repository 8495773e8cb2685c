package key_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/extproc/cache/key"
)

// said by an OpenAI request, by a reader that has nothing in common with the package: every member but those that do not count and
// nulls, numbers as fractions, contents as lists, arguments as JSON.
func meaning(v any, name string) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, m := range v {
			if m == nil || name == "" && strings.Contains(" stream stream_options user safety_identifier metadata prompt_cache_key ", " "+k+" ") {
				continue
			}
			out[k] = meaning(m, k)
		}
		if n, ok := out["max_tokens"]; ok && name == "" && out["max_completion_tokens"] == nil { // its old name
			delete(out, "max_tokens")
			out["max_completion_tokens"] = n
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, m := range v {
			out[i] = meaning(m, name+"[]")
		}
		return out
	case json.Number:
		if r, ok := new(big.Rat).SetString(v.String()); ok {
			return r.RatString()
		}
		return v
	case string:
		if name == "content" {
			return []any{map[string]any{"type": "text", "text": v}}
		}
		if name == "arguments" {
			var args any
			d := json.NewDecoder(strings.NewReader(v))
			d.UseNumber()
			if d.Decode(&args) == nil {
				return meaning(args, "x")
			}
		}
	}
	return v
}

func decode(t testing.TB, body []byte) any {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return v
}

// respell prints a decoded body in another spelling: members in another order (a map's), white space, a content as a list.
func respell(rnd *rand.Rand, v any) string {
	gap := []string{"", " ", "\n\t"}[rnd.IntN(3)]
	switch v := v.(type) {
	case map[string]any:
		var parts []string
		for k, m := range v {
			if s, _ := m.(string); s != "" && k == "content" && rnd.IntN(2) == 0 {
				m = []any{map[string]any{"type": "text", "text": s}}
			}
			parts = append(parts, respell(rnd, k)+gap+":"+respell(rnd, m))
		}
		return "{" + gap + strings.Join(parts, gap+","+gap) + "}"
	case []any:
		var parts []string
		for _, m := range v {
			parts = append(parts, respell(rnd, m))
		}
		return "[" + strings.Join(parts, ","+gap) + gap + "]"
	case json.Number:
		if !strings.ContainsAny(v.String(), ".eE") {
			return v.String() // whole numbers stay whole: providers refuse others for some fields
		}
		return v.String() + "0"
	case string:
		var b strings.Builder
		for _, r := range v {
			if rnd.IntN(3) == 0 && r < 0x10000 {
				fmt.Fprintf(&b, `\u%04x`, r)
			} else {
				text, _ := json.Marshal(string(r))
				b.Write(text[1 : len(text)-1])
			}
		}
		return `"` + b.String() + `"`
	}
	text, _ := json.Marshal(v)
	return string(text)
}

var edits = []func(rnd *rand.Rand, m map[string]any){
	func(rnd *rand.Rand, m map[string]any) {
		m["temperature"] = json.Number(pick(rnd, "0", "0.5", "1", "1.5"))
	},
	func(rnd *rand.Rand, m map[string]any) { m["top_p"] = json.Number(pick(rnd, "0.5", "1.0")) },
	func(rnd *rand.Rand, m map[string]any) {
		m["seed"] = json.Number(pick(rnd, "1", "2", "9007199254740993"))
	},
	func(rnd *rand.Rand, m map[string]any) { m["max_tokens"] = json.Number(pick(rnd, "1", "20")) },
	func(rnd *rand.Rand, m map[string]any) { m["max_completion_tokens"] = json.Number(pick(rnd, "1", "20")) },
	func(rnd *rand.Rand, m map[string]any) { m["model"] = pick(rnd, "m", "n", "m ") },
	func(rnd *rand.Rand, m map[string]any) { m["stream"] = rnd.IntN(2) == 0 },
	func(rnd *rand.Rand, m map[string]any) { m["user"] = pick(rnd, "u", "v") },
	func(rnd *rand.Rand, m map[string]any) { m["metadata"] = map[string]any{"k": pick(rnd, "u", "v")} },
	func(rnd *rand.Rand, m map[string]any) { m["stop"] = []any{pick(rnd, "a", "b"), pick(rnd, "a", "b")} },
	func(rnd *rand.Rand, m map[string]any) { m["reasoning_effort"] = pick(rnd, "low", "none", "high") },
	func(rnd *rand.Rand, m map[string]any) { m["enable_thinking"] = rnd.IntN(2) == 0 },
	func(rnd *rand.Rand, m map[string]any) {
		m["response_format"] = map[string]any{"type": "json_schema", "json_schema": map[string]any{
			"name": pick(rnd, "a", "b"), "schema": map[string]any{"type": "object", "min": json.Number(pick(rnd, "1", "2.0"))}}}
	},
	func(rnd *rand.Rand, m map[string]any) { m[pick(rnd, "x", "y", "logprobs")] = pick(rnd, "u", "v") },
	func(rnd *rand.Rand, m map[string]any) {
		list := m["messages"].([]any)
		m["messages"] = append(list[:len(list):len(list)], map[string]any{
			"role": pick(rnd, "user", "assistant", "system", "developer"), "content": pick(rnd, "a", "b", "ab", "é", "\"{}")})
	},
	func(rnd *rand.Rand, m map[string]any) {
		last := m["messages"].([]any)[0].(map[string]any)
		last[pick(rnd, "name", "x", "partial")] = pick(rnd, "u", "v")
	},
	func(rnd *rand.Rand, m map[string]any) {
		m["messages"] = append(m["messages"].([]any),
			map[string]any{"role": "assistant", "tool_calls": []any{map[string]any{"id": "1", "type": "function",
				"function": map[string]any{"name": pick(rnd, "f", "g"), "arguments": pick(rnd, `{"a":1,"b":2}`, `{"b":2.0, "a":1}`, `{"a":2,"b":1}`)}}}},
			map[string]any{"role": "tool", "tool_call_id": "1", "content": pick(rnd, "a", "b")})
	},
	func(rnd *rand.Rand, m map[string]any) {
		m["tools"] = []any{map[string]any{"type": "function", "function": map[string]any{"name": pick(rnd, "f", "g"),
			"parameters": map[string]any{"type": "object", "properties": map[string]any{"a": map[string]any{"type": pick(rnd, "string", "number")}}}}}}
	},
}

func pick(rnd *rand.Rand, list ...string) string { return list[rnd.IntN(len(list))] }

// TestKeysAreMeanings: of many random requests two have one key if they mean the same, and only then, however they are spelled.
func TestKeysAreMeanings(t *testing.T) {
	s := catalog(t)
	rnd := rand.New(rand.NewPCG(7, 9))
	type known struct {
		meaning any
		body    string
	}
	byKey := map[cache.Key]known{}
	byMeaning := map[string]cache.Key{}
	again := 0
	for range 6000 {
		m := map[string]any{"model": "m", "messages": []any{map[string]any{"role": "user", "content": pick(rnd, "a", "b")}}}
		for range rnd.IntN(4) {
			edits[rnd.IntN(len(edits))](rnd, m)
		}
		body := respell(rnd, m)
		in := chat(t, s, "openai", body)
		k := of(t, in)
		means := meaning(decode(t, []byte(body)), "")
		// Where the dialect's own fields are in a body, so is the stream flag.
		if keyed := extra(m); keyed {
			means.(map[string]any)["stream"] = m["stream"] == true
		}
		if other, ok := byKey[k]; ok && !reflect.DeepEqual(other.meaning, means) {
			t.Fatalf("one key:\n%s\n%s", other.body, body)
		}
		byKey[k] = known{means, body}
		text := fmt.Sprint(means) // maps are printed in order
		if other, ok := byMeaning[text]; ok {
			again++
			if other != k {
				t.Fatalf("two keys of one meaning:\n%s\n%s", byKey[other].body, body)
			}
		}
		byMeaning[text] = k
	}
	if again < 500 {
		t.Errorf("only %d requests came twice", again)
	}
}

// extra tells whether a body of the generator has what canon does not carry.
func extra(m map[string]any) bool {
	_, first := m["max_tokens"]
	_, second := m["max_completion_tokens"]
	if first && second {
		return true
	}
	for _, name := range []string{"x", "y", "logprobs", "enable_thinking"} {
		if _, ok := m[name]; ok {
			return true
		}
	}
	for _, msg := range m["messages"].([]any) {
		for _, name := range []string{"x", "partial"} {
			if _, ok := msg.(map[string]any)[name]; ok {
				return true
			}
		}
	}
	return false
}

// TestNobodyElses: a key is one tenant's and one policy's, unless the policy shares answers on purpose; no two names run together.
func TestNobodyElses(t *testing.T) {
	s := catalog(t)
	body := `{"model":"m","messages":[{"role":"user","content":"Hi"}]}`
	names := []string{"", "a", "b", "ab", "a\x00b", "a/b", strings.Repeat("a", 300)}
	for scope, who := range map[cache.Scope]func(tenant, consumer string) string{
		cache.ScopeTenant:   func(tenant, _ string) string { return tenant },
		cache.ScopeConsumer: func(tenant, consumer string) string { return fmt.Sprintf("%q %q", tenant, consumer) },
		cache.ScopeShared:   func(_, _ string) string { return "" },
	} {
		owners := map[cache.Key]string{}
		for _, policy := range names[1:] {
			for _, rule := range names[1:4] {
				for _, version := range names[:3] {
					for _, tenant := range names {
						for _, consumer := range names[1:] {
							in := chat(t, s, "openai", body)
							in.Policy = &cache.Policy{ID: policy, Eligible: cache.EligibleAll, Scope: scope, PromptVersion: version}
							in.Tenant, in.Consumer, in.Rule = tenant, consumer, rule
							owner := fmt.Sprintf("%q %q %q of %s", policy, rule, version, who(tenant, consumer))
							k := of(t, in)
							if other, ok := owners[k]; ok && other != owner {
								t.Fatalf("scope %s: %s and %s share a key", scope, other, owner)
							}
							owners[k] = owner
						}
					}
				}
			}
		}
		want := map[cache.Scope]int{cache.ScopeTenant: 7, cache.ScopeConsumer: 42, cache.ScopeShared: 1}[scope] * 6 * 3 * 3
		if len(owners) != want {
			t.Errorf("scope %s: %d keys, want %d", scope, len(owners), want)
		}
	}
}

// TestModelsCount: a name that stands for another model than before finds nothing of before.
func TestModelsCount(t *testing.T) {
	s := catalog(t)
	seen := map[cache.Key][]string{}
	for _, models := range [][]string{nil, {""}, {"a"}, {"b"}, {"a", "b"}, {"ab"}, {"a", "b", ""}} {
		in := chat(t, s, "openai", `{"model":"m","messages":[{"role":"user","content":"Hi"}]}`)
		in.Models = models
		k := of(t, in)
		if other, ok := seen[k]; ok {
			t.Errorf("%q and %q share a key", models, other)
		}
		seen[k] = models
	}
}

func TestHeadersCount(t *testing.T) {
	s := catalog(t)
	body := `{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Hi"}]}`
	with := func(dialect string, h ...string) cache.Key {
		in := chat(t, s, dialect, body)
		in.Header = headers(h...)
		return of(t, in)
	}
	plain := with("anthropic")
	if plain != with("anthropic", "anthropic-version", "2023-06-01") || plain != with("openai", "anthropic-beta", "x") {
		t.Error("a header counts that should not")
	}
	beta := with("anthropic", "anthropic-beta", "a, b,a")
	if beta == plain || beta != with("anthropic", "anthropic-beta", "b,a") || beta == with("anthropic", "anthropic-beta", "a") {
		t.Error("anthropic-beta is not read as a list of what is switched on")
	}
	if v := with("anthropic", key.VersionHeader, "2"); v == plain || v == with("anthropic", key.VersionHeader, "3") {
		t.Error("the caller's prompt version does not count")
	}
}

// FuzzOf: two OpenAI requests that have one key mean the same, and a request has one key however it is spelled.
func FuzzOf(f *testing.F) {
	s := catalog(f)
	files, _ := filepath.Glob("../../../adapters/*/testdata/requests/*.in.json")
	more, _ := filepath.Glob("../../../adapters/testdata/requests/*.openai.json")
	var bodies [][]byte
	for _, file := range append(files, more...) {
		body, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		bodies = append(bodies, body)
	}
	for i, b := range bodies {
		f.Add(b, bodies[(i+1)%len(bodies)], uint64(i))
		f.Add(b, bytes.Replace(b, []byte(`"messages":[`), []byte(`"messages":[{"role":"user","content":"x","y":[1]},`), 1), uint64(i))
	}
	d, _ := s.Get("openai")
	in := func(body []byte) *key.Input {
		r, err := d.In.ParseRequest(body)
		if err != nil && err.Code != canon.CodeNotTranslatable {
			return nil
		}
		return &key.Input{Policy: &cache.Policy{ID: "p", Eligible: cache.EligibleAll}, Dialect: "openai", Operation: canon.OpChat, Body: body, Request: r, Header: headers()}
	}
	f.Fuzz(func(t *testing.T, a, b []byte, seed uint64) {
		one, two := in(a), in(b)
		if one == nil || one.Request == nil || !json.Valid(a) || strings.Contains(string(a), `\ud`) || strings.Contains(string(a), `\uD`) {
			return
		}
		if spelled := in([]byte(respell(rand.New(rand.NewPCG(seed, 1)), decode(t, a)))); spelled != nil && !twice(a) && !listed(decode(t, a)) && of(t, spelled) != of(t, one) {
			t.Fatalf("another spelling has another key:\n%s\n%s", a, spelled.Body)
		}
		if two == nil || of(t, one) != of(t, two) {
			return
		}
		drop := func(v any) any { // what both readers take for a default
			m := meaning(v, "").(map[string]any)
			for _, name := range []string{"response_format", "n", "modalities", "tool_choice", "parallel_tool_calls", "stop", "prompt_cache_options", "prompt_cache_retention", "cache_control"} {
				delete(m, name)
			}
			return strip(m)
		}
		if !twice(a) && !twice(b) && !reflect.DeepEqual(drop(decode(t, a)), drop(decode(t, b))) {
			t.Fatalf("one key:\n%s\n%s", a, b)
		}
	})
}

// listed tells whether some "properties" have an order, which counts and which respell does not keep.
func listed(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		if p, ok := v["properties"].(map[string]any); ok && len(p) > 1 {
			return true
		}
		for _, m := range v {
			if listed(m) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, listed)
	}
	return false
}

// strip takes off marks of the prompt cache, and what is empty.
func strip(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, m := range v {
			if m = strip(m); m != "" && k != "cache_control" && k != "prompt_cache_breakpoint" && !(k == "content" && fmt.Sprint(m) == "[map[type:text]]") {
				out[k] = m
			}
		}
		return out
	case []any:
		for i := range v {
			v[i] = strip(v[i])
		}
	}
	return v
}

// twice tells whether some object has a member twice.
func twice(body []byte) bool {
	d := json.NewDecoder(bytes.NewReader(body))
	var walk func() bool
	walk = func() bool {
		tok, err := d.Token()
		if err != nil {
			return false
		}
		switch tok {
		case json.Delim('{'):
			seen := map[string]bool{}
			for d.More() {
				name, err := d.Token()
				if err != nil {
					return false
				}
				if seen[name.(string)] {
					return true
				}
				seen[name.(string)] = true
				if walk() {
					return true
				}
			}
			_, _ = d.Token()
		case json.Delim('['):
			for d.More() {
				if walk() {
					return true
				}
			}
			_, _ = d.Token()
		}
		return false
	}
	return walk()
}
