package peekjson

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestRead has one body for each thing that can be found. That the filter says the same is tested in xds/compile.
func TestRead(t *testing.T) {
	picture := "data:image/png;base64," + strings.Repeat("iVBORw0KGgo+/A", 1000)
	for _, c := range []struct {
		body string
		want Found
	}{
		{"", Found{Err: "empty"}},
		{"[]", Found{Err: "not_object"}},
		{`{"model":"m"`, Found{Err: "syntax"}},
		{`{"model":"m"} x`, Found{Err: "trailing"}},
		{`{"model":"m","model":"n"}`, Found{Err: "duplicate_model"}},
		{`{"stream":true,"stream":true}`, Found{Err: "duplicate_stream"}},
		{`{"Model":"m"}`, Found{Err: "key_case"}},
		{`{"mod\u0065l":"m"}`, Found{Err: "escaped_key"}},
		{`{"modél":"m"}`, Found{Err: "key_not_ascii"}},
		{`{"model":"` + strings.Repeat("m", 1030) + `"}`, Found{Err: "long_model"}},
		{"{\"model\":\"\xff\"}", Found{Err: "not_utf8"}},
		{`{"a":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + `}`, Found{Err: "too_deep"}},
		{`{}`, Found{}},
		{` {"model": "a\"b", "stream":true, "n":2, "max_tokens":10, "max_output_tokens":1e3, "max_completion_tokens":-5 } `,
			Found{Model: `"a\"b"`, Stream: "true", N: "2", MaxTokens: "10", MaxOutputTokens: "1e3", MaxCompletionTokens: "-5"}},
		{`{"max_tokens":5,"max_tokens":null,"n":"2"}`, Found{}},
		{`{"messages":[{"content":[{"image_url":{"url":"` + picture + `"}}]}]}`, Found{Media: int64(len(picture)), MediaCount: 1}},
		{`{"messages":[{"content":"` + picture + `"}]}`, Found{}},
	} {
		if got := Read([]byte(c.body)); got != c.want {
			t.Errorf("%.80q: got %+v, want %+v", c.body, got, c.want)
		}
	}
}

// FuzzRead: whatever the bytes, there is an answer, and what is found stands in the body as a decoder reads it.
func FuzzRead(f *testing.F) {
	for _, s := range []string{`{"model":"m","stream":true}`, `{"a":[{"b":"\\"}],"n":1}`, `{"a":-1.5e+3,"model":null}`, `{`, "{\"\xff\":1}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		found := Read(body)
		if found.Err != "" && found != (Found{Err: found.Err}) {
			t.Fatalf("an error with findings: %+v", found)
		}
		var tree map[string]json.RawMessage
		if found.Err != "" || json.Unmarshal(body, &tree) != nil {
			return
		}
		for key, got := range map[string]string{"model": found.Model, "stream": found.Stream} {
			if want := string(tree[key]); got != want {
				t.Fatalf("%s is %q, a decoder reads %q", key, got, want)
			}
		}
	})
}
