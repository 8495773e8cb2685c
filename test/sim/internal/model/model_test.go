package model

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/weir-dev/weir/test/sim/internal/jsontree"
	"github.com/weir-dev/weir/test/sim/internal/tokens"
)

func schema(t testing.TB, s string) *jsontree.Node {
	t.Helper()
	n, _, err := jsontree.Parse([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestText(t *testing.T) {
	answer := func(k Ask) string {
		k.Prompt = k.Last
		a := k.Answer(0)
		return strings.Join(a.Text, "")
	}
	for prompt, n := range map[string]int{"write 40 words": 40, "write 500 tokens please": 500, "a 70-word poem": 70, "3 words": 10, "12 Words": 12} {
		if got := tokens.Count(answer(Ask{Last: prompt})); got != n {
			t.Errorf("%s: %d tokens, want %d", prompt, got, n)
		}
	}
	multibyte := 0
	seen := map[string]bool{}
	for i := range 50 {
		s := answer(Ask{Last: fmt.Sprint("question ", i)})
		if n := tokens.Count(s); n < minTokens || n > 80 {
			t.Errorf("%d tokens: %s", n, s)
		}
		if !utf8.ValidString(s) {
			t.Errorf("broken text %q", s)
		}
		if len(s) != utf8.RuneCountInString(s) {
			multibyte++
		}
		seen[s] = true
	}
	if len(seen) != 50 || multibyte < 25 {
		t.Errorf("%d different texts of 50, %d with multi-byte runes", len(seen), multibyte)
	}
	first, again := answer(Ask{Last: "x"}), answer(Ask{Last: "x"})
	if first != again || first == answer(Ask{Last: "x", Seed: 1}) {
		t.Error("the prompt and the seed do not decide the text")
	}
	a := (&Ask{Last: "x"}).Answer(0)
	if b := (&Ask{Last: "x"}).Answer(1); reflect.DeepEqual(a, b) {
		t.Error("variants are the same")
	}
	got := answer(Ask{Last: "x", Results: []string{"rain.", "sun"}, Images: []Image{{Type: "image/png", Size: 70}, {URL: "https://a.b/c"}}})
	for _, want := range []string{"The tool answered: rain.", "The tool answered: sun.", "2 images: image/png of 70 bytes; an image at https://a.b/c."} {
		if !strings.Contains(got, want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
	if got := answer(Ask{Last: "x", Results: []string{strings.Repeat("é", 900)}}); strings.Count(got, "é") < 200 || strings.Count(got, "é") > 230 {
		t.Errorf("a long result is repeated at length %d", len(got))
	}
}

func TestCalls(t *testing.T) {
	tools := []Tool{{Name: "alpha", Schema: schema(t, `{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}`)}, {Name: "beta"}}
	for name, c := range map[string]struct {
		ask  Ask
		want []string
	}{
		"in parallel":            {Ask{Last: "Call THE tool", Parallel: true}, []string{"alpha", "beta"}},
		"one":                    {Ask{Last: "call the tool"}, []string{"alpha"}},
		"the one that is named":  {Ask{Last: "call the tool beta"}, []string{"beta"}},
		"not asked":              {Ask{Last: "hello", Parallel: true}, nil},
		"already answered":       {Ask{Last: "call the tool", Settled: true, Results: []string{"x"}}, nil},
		"forbidden":              {Ask{Last: "call the tool", Choice: None}, nil},
		"required":               {Ask{Last: "hello", Choice: Required}, []string{"alpha"}},
		"required in parallel":   {Ask{Last: "hello", Choice: Required, Parallel: true}, []string{"alpha", "beta"}},
		"named":                  {Ask{Last: "hello", Choice: Named, Name: "beta", Parallel: true}, []string{"beta"}},
		"required after results": {Ask{Settled: true, Choice: Required}, []string{"alpha"}},
	} {
		c.ask.Tools = tools
		a := c.ask.Answer(0)
		var got []string
		for _, call := range a.Calls {
			got = append(got, call.Name)
			var v map[string]any
			if err := json.Unmarshal([]byte(strings.Join(call.Args, "")), &v); err != nil {
				t.Errorf("%s: arguments: %v", name, err)
			}
		}
		if !slices.Equal(got, c.want) || (a.Finish == Called) != (len(got) > 0) {
			t.Errorf("%s: calls %v, finish %v; want %v", name, got, a.Finish, c.want)
		}
	}
	if a := (&Ask{Last: "call the tool"}).Answer(0); len(a.Calls) > 0 || len(a.Text) == 0 {
		t.Error("a tool that was not declared is called")
	}
}

func TestLimits(t *testing.T) {
	tools := []Tool{{Name: "alpha"}, {Name: "beta"}}
	for name, c := range map[string]struct {
		ask    Ask
		max    int
		finish Finish
		calls  int
	}{
		"text":                {Ask{Last: "100 words"}, 7, Length, 0},
		"thinking first":      {Ask{Last: "x", Think: true}, 5, Length, 0},
		"exactly enough":      {Ask{Last: "20 words"}, 20, Done, 0},
		"one call fits":       {Ask{Last: "call the tool", Parallel: true, Tools: tools}, 4, Length, 1},
		"no call fits":        {Ask{Last: "call the tool", Tools: tools}, 2, Length, 0},
		"stop comes too late": {Ask{Last: "100 words", Stop: []string{"."}}, 2, Length, 0},
	} {
		c.ask.Max = c.max
		a := c.ask.Answer(0)
		if a.Tokens() > c.max || a.Tokens() == 0 || a.Finish != c.finish || len(a.Calls) != c.calls {
			t.Errorf("%s: %d tokens, finish %v, %d calls", name, a.Tokens(), a.Finish, len(a.Calls))
		}
	}
	k := Ask{Last: "100 words", Stop: []string{"nothing like it", "."}}
	a := k.Answer(0)
	if text := strings.Join(a.Text, ""); a.Finish != Stopped || a.StopSequence != "." || strings.Contains(text, ".") || text == "" {
		t.Errorf("stop: %v %q %q", a.Finish, a.StopSequence, text)
	}
	if k := (&Ask{Last: "x", Think: true, ThinkMax: 3}).Answer(0); len(k.Thinking) != 3 {
		t.Errorf("%d thinking tokens of at most 3", len(k.Thinking))
	}
}

var schemas = []string{
	`{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"integer","minimum":3,"maximum":3},"c":{"type":"array","items":{"type":"boolean"},"minItems":2,"maxItems":4}},"required":["a","b","c"],"additionalProperties":false}`,
	`{"type":"object","required":["free"]}`,
	`{"enum":["x",1,null]}`, `{"const":{"k":[1]}}`, `{"const":null}`, `{"type":["integer","null"]}`, `{}`, `true`,
	`{"type":"number","exclusiveMinimum":0,"exclusiveMaximum":1}`, `{"type":"number","multipleOf":0.5,"minimum":1,"maximum":9}`,
	`{"type":"integer","exclusiveMinimum":5,"exclusiveMaximum":7}`, `{"type":"integer","minimum":-10,"maximum":-5,"multipleOf":4}`,
	`{"type":"integer","maximum":0}`, `{"type":"integer","minimum":1000000}`,
	`{"type":"string","minLength":30,"maxLength":35}`, `{"type":"string","maxLength":1}`, `{"type":"string","maxLength":0}`,
	`{"type":"string","pattern":"^[A-Z]{3}-\\d{4}(x|yz)?$"}`, `{"type":"string","pattern":"^\\+?[1-9]\\d{1,14}$"}`,
	`{"type":"string","format":"date-time"}`, `{"type":"string","format":"uuid"}`, `{"type":"string","format":"email"}`,
	`{"anyOf":[{"type":"string"},{"type":"object","properties":{"x":{"type":"number"}},"required":["x"]}]}`,
	`{"oneOf":[{"const":1},{"const":2}]}`,
	`{"allOf":[{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]},{"properties":{"b":{"type":"null"}},"required":["b"]}]}`,
	`{"$defs":{"node":{"type":"object","properties":{"value":{"type":"integer"},"next":{"anyOf":[{"$ref":"#/$defs/node"},{"type":"null"}]}},"required":["value","next"],"additionalProperties":false}},"$ref":"#/$defs/node"}`,
	`{"definitions":{"t":{"type":"object","properties":{"kids":{"type":"array","items":{"$ref":"#/definitions/t"}}},"required":["kids"]}},"$ref":"#/definitions/t"}`,
	`{"type":"array","uniqueItems":true,"items":{"type":"integer","minimum":1,"maximum":3},"minItems":3}`,
	`{"type":"array","prefixItems":[{"type":"string"},{"type":"integer"}],"items":false}`,
	`{"type":"object","additionalProperties":{"type":"integer"},"minProperties":2}`,
	`{"properties":{"deep":{"properties":{"er":{"items":{"minimum":1}}}}}}`,
}

func TestFit(t *testing.T) {
	for _, s := range schemas {
		root := schema(t, s)
		for seed := range uint64(40) {
			got := Fit(root, rand.New(rand.NewPCG(seed, 1)))
			var v any
			if err := json.Unmarshal([]byte(got), &v); err != nil {
				t.Fatalf("%s: %v: %s", s, err, got)
			}
			var sch any
			if err := json.Unmarshal([]byte(s), &sch); err != nil {
				t.Fatal(err)
			}
			if why := violates(v, sch, sch, 0); why != "" {
				t.Fatalf("%s\ndoes not fit %s\n%s", got, s, why)
			}
		}
	}
}

// violates is a validator for tests, written apart from Fit: it says why a value does not fit.
func violates(v, schema, root any, depth int) string {
	if depth > 60 {
		return "too deep"
	}
	s, ok := schema.(map[string]any)
	if !ok {
		if schema == false {
			return "nothing fits false"
		}
		return ""
	}
	if ref, ok := s["$ref"].(string); ok {
		t := root
		for _, p := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
			t = t.(map[string]any)[p]
		}
		return violates(v, t, root, depth+1)
	}
	if c, ok := s["const"]; ok && !reflect.DeepEqual(c, v) {
		return fmt.Sprintf("%v is not the const %v", v, c)
	}
	if e, ok := s["enum"].([]any); ok && !slices.ContainsFunc(e, func(x any) bool { return reflect.DeepEqual(x, v) }) {
		return fmt.Sprintf("%v is not in %v", v, e)
	}
	count := func(list any) (n int) {
		for _, alt := range list.([]any) {
			if violates(v, alt, root, depth+1) == "" {
				n++
			}
		}
		return n
	}
	if l, ok := s["anyOf"]; ok && count(l) == 0 {
		return fmt.Sprintf("%v fits no alternative", v)
	}
	if l, ok := s["oneOf"]; ok && count(l) != 1 {
		return fmt.Sprintf("%v fits not exactly one alternative", v)
	}
	if l, ok := s["allOf"]; ok && count(l) != len(l.([]any)) {
		return fmt.Sprintf("%v does not fit all of %v", v, l)
	}
	if typ, ok := s["type"]; ok {
		names := []any{typ}
		if l, ok := typ.([]any); ok {
			names = l
		}
		if !slices.ContainsFunc(names, func(n any) bool { return isType(v, n.(string)) }) {
			return fmt.Sprintf("%v is not of type %v", v, typ)
		}
	}
	limit := func(name string) (float64, bool) { f, ok := s[name].(float64); return f, ok }
	switch v := v.(type) {
	case float64:
		if m, ok := limit("minimum"); ok && v < m {
			return "under the minimum"
		}
		if m, ok := limit("maximum"); ok && v > m {
			return "over the maximum"
		}
		if m, ok := limit("exclusiveMinimum"); ok && v <= m {
			return "at the exclusive minimum"
		}
		if m, ok := limit("exclusiveMaximum"); ok && v >= m {
			return "at the exclusive maximum"
		}
		if m, ok := limit("multipleOf"); ok && math.Abs(math.Remainder(v, m)) > 1e-9 {
			return "not a multiple"
		}
	case string:
		n := float64(utf8.RuneCountInString(v))
		if m, ok := limit("minLength"); ok && n < m {
			return "too short"
		}
		if m, ok := limit("maxLength"); ok && n > m {
			return "too long"
		}
		if p, ok := s["pattern"].(string); ok && !regexp.MustCompile(p).MatchString(v) {
			return fmt.Sprintf("%q does not match %s", v, p)
		}
		if s["format"] == "date-time" {
			if _, err := time.Parse(time.RFC3339, v); err != nil {
				return err.Error()
			}
		}
		if s["format"] == "uuid" && !regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`).MatchString(v) {
			return v + " is no uuid"
		}
	case []any:
		if m, ok := limit("minItems"); ok && float64(len(v)) < m {
			return "too few items"
		}
		if m, ok := limit("maxItems"); ok && float64(len(v)) > m {
			return "too many items"
		}
		first, _ := s["prefixItems"].([]any)
		for i, it := range v {
			sub := s["items"]
			if i < len(first) {
				sub = first[i]
			}
			if why := violates(it, sub, root, depth+1); why != "" {
				return why
			}
			if s["uniqueItems"] == true && slices.ContainsFunc(v[:i], func(x any) bool { return reflect.DeepEqual(x, it) }) {
				return "items repeat"
			}
		}
	case map[string]any:
		if m, ok := limit("minProperties"); ok && float64(len(v)) < m {
			return "too few members"
		}
		required, _ := s["required"].([]any)
		for _, r := range required {
			if _, ok := v[r.(string)]; !ok {
				return fmt.Sprintf("%v is missing", r)
			}
		}
		props, _ := s["properties"].(map[string]any)
		for name, it := range v {
			sub, known := props[name]
			if !known {
				sub = s["additionalProperties"]
			}
			if why := violates(it, sub, root, depth+1); why != "" {
				return name + ": " + why
			}
		}
	}
	return ""
}

func isType(v any, name string) bool {
	switch v := v.(type) {
	case nil:
		return name == "null"
	case bool:
		return name == "boolean"
	case string:
		return name == "string"
	case float64:
		return name == "number" || name == "integer" && v == math.Trunc(v)
	case []any:
		return name == "array"
	}
	return name == "object"
}

// FuzzFit holds that any schema, however odd, gets valid JSON and an end.
func FuzzFit(f *testing.F) {
	for _, s := range schemas {
		f.Add([]byte(s))
	}
	f.Add([]byte(`{"$ref":"#"}`))
	f.Add([]byte(`{"type":"object","required":["a"],"properties":{"a":{"$ref":"#"}}}`))
	f.Add([]byte(`{"type":"array","minItems":99999999}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, _, err := jsontree.Parse(b)
		if err != nil {
			return
		}
		if got := Fit(n, rand.New(rand.NewPCG(1, 1))); !json.Valid([]byte(got)) {
			t.Fatalf("%s gives %s", b, got)
		}
	})
}
