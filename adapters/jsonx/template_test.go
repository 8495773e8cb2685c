package jsonx

import (
	"bytes"
	"slices"
	"testing"
)

func TestTemplate(t *testing.T) {
	learned := `{"a":[1,"x"],"delta":{"text":"one"},"z":"x"}`
	for _, c := range []struct{ text, want string }{
		{learned, `"one"`},
		{`{"a":[1,"x"],"delta":{"text":"two and more"},"z":"x"}`, `"two and more"`},
		{`{"a":[1,"x"],"delta":{"text":"\n\"\u00e9\\"},"z":"x"}`, `"\n\"\u00e9\\"`},
		{`{"a":[1,"x"],"delta":{"text":""},"z":"x"}`, ""}, // nothing to send: not the same
		{`{"a":[2,"x"],"delta":{"text":"one"},"z":"x"}`, ""},
		{`{"a":[1,"x"],"delta":{"text":"one"},"z":"y"}`, ""},
		{`{"a":[1,"x"],"delta":{"text":"a","z":"x"},"z":"x"}`, ""},          // two strings
		{`{"a":[1,"x"],"delta":{"text":"a\"},"z":"x"}`, ""},                 // the string does not end there
		{"{\"a\":[1,\"x\"],\"delta\":{\"text\":\"\n\"},\"z\":\"x\"}", ""},   // not JSON
		{"{\"a\":[1,\"x\"],\"delta\":{\"text\":\"\xff\"},\"z\":\"x\"}", ""}, // not UTF-8
		{`{"a":[1,"x"],"delta":{"text":"\x"},"z":"x"}`, ""},
		{`{"a":[1,"x"],"delta":{"text":"`, ""},
		{`{"a":[1,"x"],"delta":{"text":"},"z":"x"}`, ""},
		{``, ""},
	} {
		var tpl Template
		text := []byte(learned)
		tpl.Learn(text, Root(text).Get("delta").Get("text"))
		for i := range text {
			text[i] = '?' // what was learned is kept
		}
		if got, ok := tpl.Match([]byte(c.text)); string(got) != c.want || ok != (c.want != "") {
			t.Errorf("%s: %s, %v", c.text, got, ok)
		}
		tpl.Forget()
		if tpl.matches(learned) {
			t.Error("it matches after Forget")
		}
	}
	var tpl Template
	text, other := []byte(learned), []byte(learned)
	for name, v := range map[string]Value{
		"no string": Root(text).Get("a"), "another text's": Root(other).Get("z"), "none": nil,
	} {
		tpl.Learn(text, Root(text).Get("z"))
		if tpl.Learn(text, v); tpl.matches(learned) {
			t.Errorf("%s was learned", name)
		}
	}
}

func (t *Template) matches(text string) bool { _, ok := t.Match([]byte(text)); return ok }

// FuzzTemplate: what matches is JSON that the long way reads as what was learned, but for the one string.
func FuzzTemplate(f *testing.F) {
	f.Add([]byte(`{"x":"y","t":"one","u":null}`), []byte(`{"x":"y","t":"tw\"o","u":null}`))
	f.Add([]byte(`{"t":"a"}`), []byte(`{"t":"a","t":"b"}`))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		if Check(first) != nil {
			return
		}
		list, at := members(first), -1
		for i := range list {
			if list[i].value.Kind() == String {
				at = i
			}
		}
		if at < 0 {
			return
		}
		var tpl Template
		tpl.Learn(first, list[at].value)
		if len(list[at].value) > len(`""`) && !tpl.matches(string(first)) {
			t.Fatalf("%q does not match itself", first)
		}
		got, ok := tpl.Match(second)
		if !ok {
			return
		}
		if err := Check(second); err != nil {
			t.Fatalf("%q matches %q: %v", second, first, err)
		}
		list[at].value = got
		same := func(a, b field) bool { return bytes.Equal(a.name, b.name) && bytes.Equal(a.value, b.value) }
		if !slices.EqualFunc(list, members(second), same) {
			t.Fatalf("%q matches %q", second, first)
		}
	})
}

func members(text []byte) (list []field) {
	for name, v := range Root(text).Members() {
		list = append(list, field{name, v})
	}
	return list
}
