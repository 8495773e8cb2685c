package compile

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	lua "github.com/yuin/gopher-lua"
)

// peeked is what the filter leaves in metadata.
type peeked struct {
	err, model, stream string
	read               bool
}

// peeker runs peek.lua on bodies, in a Lua of the version that Envoy's LuaJIT has (5.1).
type peeker struct{ state *lua.LState }

// handle is the part of Envoy's stream handle that peek.lua uses. The body is a global, nil for none.
const handle = `
function run(body, method)
  local out = {}
  local handle = {
    headers = function() return {get = function(_, name) if name == ":method" then return method end end} end,
    body = function() return body and {length = function() return #body end, getBytes = function(_, from, n) return string.sub(body, from + 1, from + n) end} end,
    streamInfo = function() return {dynamicMetadata = function() return {set = function(_, namespace, key, value)
      if namespace ~= "weir.peek" then error("metadata under " .. namespace) end
      out[key] = value
    end} end} end,
  }
  envoy_on_request(handle)
  return out
end`

func newPeeker(t testing.TB) *peeker {
	t.Helper()
	s := lua.NewState()
	t.Cleanup(s.Close)
	if err := s.DoString(peekSource + handle); err != nil {
		t.Fatalf("load peek.lua: %v", err)
	}
	return &peeker{s}
}

// peek runs the filter; one that does not end fails the test.
func (p *peeker) peek(t testing.TB, body lua.LValue, method string) peeked {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	p.state.SetContext(ctx)
	if err := p.state.CallByParam(lua.P{Fn: p.state.GetGlobal("run"), NRet: 1, Protect: true}, body, lua.LString(method)); err != nil {
		t.Fatalf("peek.lua fails: %v", err)
	}
	out := p.state.Get(-1).(*lua.LTable)
	p.state.Pop(1)
	text := func(key string) string {
		if v, ok := out.RawGetString(key).(lua.LString); ok {
			return string(v)
		}
		return ""
	}
	return peeked{text("error"), text("model"), text("stream"), out.RawGetString("read") == lua.LTrue}
}

func (p *peeker) body(t testing.TB, body string) peeked {
	t.Helper()
	return p.peek(t, lua.LString(body), "POST")
}

func TestPeek(t *testing.T) {
	long := strings.Repeat("m", 1030)
	p := newPeeker(t)
	for _, c := range []struct{ name, body, err, model, stream string }{
		{"plain", `{"model":"gpt-4o","stream":true,"messages":[]}`, "", `"gpt-4o"`, "true"},
		{"spaces", " \r\n\t{ \"model\" \t:\n\"a b\" , \"stream\" : false } \n", "", `"a b"`, "false"},
		{"nothing of interest", `{"messages":[{"model":"inner","stream":true}]}`, "", "", ""},
		{"empty object", `{}`, "", "", ""},
		{"escapes in the value", `{"model":"a\"b\\","stream":null}`, "", `"a\"b\\"`, "null"},
		{"a string that ends in backslashes", `{"x":"\\\\","model":"m"}`, "", `"m"`, ""},
		{"braces in strings", `{"x":"}]{[","y":["}"],"model":"m"}`, "", `"m"`, ""},
		{"wrong types", `{"model":{"a":1},"stream":"yes"}`, "", `{"a":1}`, `"yes"`},
		{"numbers", `{"model":-1.5e3,"stream":1}`, "", "-1.5e3", "1"},

		{"array", `[]`, "not_object", "", ""},
		{"string", `"model"`, "not_object", "", ""},
		{"white space", "  ", "not_object", "", ""},
		{"byte order mark", "\xef\xbb\xbf{}", "not_object", "", ""},
		{"cut in the key", `{"mod`, "syntax", "", ""},
		{"cut after the key", `{"model"`, "syntax", "", ""},
		{"cut in the value", `{"model":"gpt`, "syntax", "", ""},
		{"cut in a nested value", `{"a":[1,{"b":"c"`, "syntax", "", ""},
		{"cut after the value", `{"model":"m"`, "syntax", "", ""},
		{"no value", `{"model":}`, "syntax", "", ""},
		{"no colon", `{"model" "m"}`, "syntax", "", ""},
		{"no comma", `{"a":1 "b":2}`, "syntax", "", ""},
		{"comma at the end", `{"a":1,}`, "syntax", "", ""},
		{"key without quotes", `{model:"m"}`, "syntax", "", ""},
		{"single quotes", `{'model':'m'}`, "syntax", "", ""},
		{"two objects", `{"model":"m"}{"model":"n"}`, "trailing", "", ""},
		{"text after", `{"model":"m"} x`, "trailing", "", ""},
		{"NUL after", "{\"model\":\"m\"}\x00", "trailing", "", ""},

		{"model twice", `{"model":"a","x":1,"model":"b"}`, "duplicate_model", "", ""},
		{"stream twice", `{"stream":true,"stream":false}`, "duplicate_stream", "", ""},
		{"escaped key", `{"mod\u0065l":"b","model":"a"}`, "escaped_key", "", ""},
		{"escaped key of no interest", `{"a\nb":1}`, "escaped_key", "", ""},
		{"model in capitals", `{"Model":"b"}`, "key_case", "", ""},
		{"stream in capitals", `{"model":"a","STREAM":true}`, "key_case", "", ""},
		{"long model", `{"model":"` + long + `"}`, "long_model", "", ""},
		{"long stream", `{"stream":"` + long + `"}`, "long_stream", "", ""},
		{"model that is no UTF-8", "{\"model\":\"a\xffb\"}", "not_utf8", "", ""},
		{"overlong UTF-8", "{\"model\":\"\xc0\xaf\"}", "not_utf8", "", ""},
		{"surrogate in UTF-8", "{\"model\":\"\xed\xa0\x80\"}", "not_utf8", "", ""},
		{"model in UTF-8", "{\"model\":\"模型\U0001F600é\"}", "", "\"模型\U0001F600é\"", ""},
		{"no UTF-8 elsewhere", "{\"x\":\"\xff\",\"model\":\"m\"}", "", `"m"`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := peeked{c.err, c.model, c.stream, true}
			if got := p.body(t, c.body); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
	if got := p.body(t, ""); got != (peeked{err: "empty"}) {
		t.Errorf("an empty body gives %+v", got)
	}
	if got := p.peek(t, lua.LNil, "GET"); got != (peeked{}) {
		t.Errorf("no body gives %+v", got)
	}
	if got := p.peek(t, lua.LString(`{"model":"m"}`), "CONNECT"); got != (peeked{}) {
		t.Errorf("a tunnel gives %+v", got)
	}
}

// TestPeekHopsOverLongStrings: what a prompt costs is a search for its end, whatever is in it.
func TestPeekHopsOverLongStrings(t *testing.T) {
	p := newPeeker(t)
	for name, long := range map[string]string{
		"letters": strings.Repeat("a", 1<<20), "backslashes": strings.Repeat(`\\`, 1<<19), "quotes": strings.Repeat(`\"`, 1<<19),
	} {
		if got := p.body(t, `{"messages":"`+long+`","model":"m"}`); got.model != `"m"` || got.err != "" {
			t.Errorf("1 MiB of %s: %q, %q", name, got.err, got.model)
		}
	}
	deep := strings.Repeat("[", 1<<16)
	if got := p.body(t, `{"x":`+deep+strings.Repeat("]", 1<<16)+`,"model":"m"}`); got.model != `"m"` {
		t.Errorf("deep nesting: %+v", got)
	}
	if got := p.body(t, `{"x":`+deep); got.err != "syntax" {
		t.Errorf("deep nesting without an end: %+v", got)
	}
}

// reference says what peek.lua must find in valid JSON, by encoding/json.
func reference(data []byte) peeked {
	out := peeked{read: true}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if first, err := dec.Token(); err != nil || first != json.Delim('{') {
		out.err = "not_object"
		return out
	}
	found := map[string]string{}
	for dec.More() {
		from := dec.InputOffset()
		if _, err := dec.Token(); err != nil {
			panic(err)
		}
		key := strings.Trim(string(data[from:dec.InputOffset()]), " \t\r\n,")
		key = key[1 : len(key)-1]
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			panic(err)
		}
		_, again := found[key]
		folded := strings.ToLower(key)
		switch {
		case key == "model" || key == "stream":
			switch {
			case again:
				out.err = "duplicate_" + key
			case len(raw) > 1024:
				out.err = "long_" + key
			case !utf8.Valid(raw):
				out.err = "not_utf8"
			}
		case strings.Contains(key, `\`):
			out.err = "escaped_key"
		case folded == "model" || folded == "stream":
			out.err = "key_case"
		}
		if out.err != "" {
			return out
		}
		found[key] = string(raw)
	}
	out.model, out.stream = found["model"], found["stream"]
	return out
}

// compareWithReference peeks into any bytes, and compares where they are JSON.
func compareWithReference(t *testing.T, p *peeker, data []byte) {
	t.Helper()
	if len(data) == 0 {
		return
	}
	got := p.body(t, string(data))
	if !json.Valid(data) {
		return // that it ended is all that counts: the adapter or the provider refuses it
	}
	if want := reference(data); got != want {
		t.Errorf("%q:\n got  %+v\n want %+v", data, got, want)
	}
}

// TestPeekEqualsReference peeks into random JSON, and into what is left of it when a byte is lost or changed.
func TestPeekEqualsReference(t *testing.T) {
	p := newPeeker(t)
	rng := rand.New(rand.NewPCG(1, 1))
	for range 3000 {
		data := []byte(randomJSON(rng, 0))
		compareWithReference(t, p, data)
		i := rng.IntN(len(data))
		compareWithReference(t, p, append(append([]byte{}, data[:i]...), data[i+1:]...))
		data[i] = `{}[]",:\ `[rng.IntN(9)]
		compareWithReference(t, p, data)
		if t.Failed() {
			return
		}
	}
}

func randomJSON(rng *rand.Rand, depth int) string {
	space := []string{"", "", " ", "\n\t", "\r\n"}[rng.IntN(5)]
	list := func(n int, item func() string) string {
		var items []string
		for range n {
			items = append(items, space+item()+space)
		}
		return strings.Join(items, ",")
	}
	word := func() string {
		return `"` + []string{"model", "stream", "Model", "x", "", "a\\\"b", "\\\\", "mod\\u0065l", "}{", "é模", "messages", "y", "z", "w"}[rng.IntN(14)] + `"`
	}
	kind := rng.IntN(8)
	if depth == 0 {
		kind = 0
	}
	if depth > 3 {
		kind = 3 + rng.IntN(5)
	}
	switch kind {
	case 0, 1:
		return "{" + list(rng.IntN(5), func() string { return word() + space + ":" + space + randomJSON(rng, depth+1) }) + "}"
	case 2:
		return "[" + list(rng.IntN(4), func() string { return randomJSON(rng, depth+1) }) + "]"
	case 3:
		return []string{"true", "false", "null"}[rng.IntN(3)]
	case 4:
		return fmt.Sprint(rng.IntN(1000)-500) + []string{"", ".5", "e3"}[rng.IntN(3)]
	}
	return word()
}

func FuzzPeek(f *testing.F) {
	for _, s := range []string{
		`{"model":"m","stream":true}`, `{"a":[{"b":"\\"}],"model":1}`, `{"model":"a","model":"b"}`, `{"a"`, `[`, "{\"model\":\"\xff\"}", `{} x`,
	} {
		f.Add([]byte(s))
	}
	p := newPeeker(f)
	f.Fuzz(func(t *testing.T, data []byte) { compareWithReference(t, p, data) })
}
