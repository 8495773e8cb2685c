package compile

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	lua "github.com/yuin/gopher-lua"

	"github.com/weir-dev/weir/extproc/wire"
)

// peeked is what the filter leaves in metadata.
type peeked struct {
	err, model, stream string
	limits             string // the numbers, "n=1 max_tokens=5", in the order of limitKeys
	size               int
	media, mediaCount  int
	read               bool
	source             string // the caller's address
	asked              bool   // for the body, which makes Envoy hold it
	hide               bool   // its answer must lose the usage
	sent               string // the body that goes on, where it is another
	length             string // its content-length
}

var limitKeys = []string{wire.PeekN, wire.PeekMaxTokens, wire.PeekMaxOutputTokens, wire.PeekMaxCompletionTokens}

// remote is what the stream handle says of the caller.
const remote = "[2001:db8::1]:4711"

// peeker runs peek.lua on bodies, in a Lua of the version that Envoy's LuaJIT has (5.1).
type peeker struct {
	state *lua.LState
	path  string
	id    string // of the last request
}

// handle is the part of Envoy's stream handle that peek.lua uses. The body is a global, nil for none. As with Envoy, nothing
// that was got before the body may be used after it.
const handle = `
function run(body, method, path, credential, broken)
  local out = {}
  local held = false
  local function fresh(f)
    local made = held
    return function(...)
      if made ~= held then error("object used outside of proper scope") end
      return f(...)
    end
  end
  local handle = {
    headers = function() return {
      get = fresh(function(_, name)
        if name == ":method" then return method end
        if name == ":path" then return path end
        if name == "content-length" then return "1" end
        if name == credential then return "secret" end
      end),
      replace = fresh(function(_, name, value) out[name] = value end),
    } end,
    body = function()
      out.asked = true
      held = true
      return body and {
        length = function() return #body end,
        getBytes = function(_, from, n)
          if broken then error("not enough memory") end
          return string.sub(body, from + 1, from + n)
        end,
        setBytes = function(_, text) out.sent = text end,
      }
    end,
    streamInfo = function() return {
      downstreamRemoteAddress = fresh(function() return "[2001:db8::1]:4711" end),
      dynamicMetadata = fresh(function() return {set = fresh(function(_, namespace, key, value)
        if namespace ~= "weir.peek" then error("metadata under " .. namespace) end
        out[key] = value
      end)} end),
    } end,
    timestampString = function() return "1700000000000" end,
  }
  envoy_on_request(handle)
  return out
end`

func newPeeker(t testing.TB, source, path string) *peeker {
	t.Helper()
	s := lua.NewState()
	t.Cleanup(s.Close)
	if err := s.DoString(source + handle); err != nil {
		t.Fatalf("load peek.lua: %v", err)
	}
	return &peeker{state: s, path: path}
}

// peek runs the filter; one that does not end fails the test.
func (p *peeker) peek(t testing.TB, body lua.LValue, method, credential string, broken bool) peeked {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	p.state.SetContext(ctx)
	call := lua.P{Fn: p.state.GetGlobal("run"), NRet: 1, Protect: true}
	if err := p.state.CallByParam(call, body, lua.LString(method), lua.LString(p.path), lua.LString(credential), lua.LBool(broken)); err != nil {
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
	number := func(key string) int { v, _ := out.RawGetString(key).(lua.LNumber); return int(v) }
	is := func(key string) bool { return out.RawGetString(key) == lua.LTrue }
	var limits []string
	for _, key := range limitKeys {
		if v := text(key); v != "" {
			limits = append(limits, key+"="+v)
		}
	}
	p.id = text(wire.PeekID)
	return peeked{
		err: text(wire.PeekError), model: text(wire.PeekModel), stream: text(wire.PeekStream), limits: strings.Join(limits, " "),
		size: number(wire.PeekSize), media: number(wire.PeekMedia), mediaCount: number(wire.PeekMediaCount),
		read: is(wire.PeekRead), source: text(wire.PeekSource), asked: is("asked"), hide: is(wire.PeekHide), sent: text("sent"), length: text("content-length"),
	}
}

func (p *peeker) body(t testing.TB, body string) peeked {
	t.Helper()
	return p.peek(t, lua.LString(body), "POST", "authorization", false)
}

func TestPeek(t *testing.T) {
	long := strings.Repeat("m", 1030)
	p := newPeeker(t, script(false), "/v1/chat/completions")
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
		{"key with bytes above 127", `{"ſtream":true}`, "key_not_ascii", "", ""},
		{"key with a control character", "{\"a\nb\":1}", "syntax", "", ""},
		{"key with DEL", "{\"a\x7fb\":1,\"model\":\"m\"}", "", `"m"`, ""},

		{"comment that hides a model", `{"model":"m1","a":1//,"b":"\n,model:'gpt-5-expensive'}//"}`, "syntax", "", ""},
		{"escape that eats the quote", `{"model":"m1","a":"\x",",model:'m2'}//":1}`, "syntax", "", ""},
		{"short escape that eats the quote", `{"model":"m1","a":"\u",",":",\"model\":\"m2\""}`, "syntax", "", ""},
		{"escape far from the quote", `{"a":"0123456789012345678901234567890123456789\'"}`, "syntax", "", ""},
		{"nested comment", `{"a":[1/*"*/,"*/],model:1"]}`, "syntax", "", ""},
		{"nested single quotes", `{"a":['"',"'"]}`, "syntax", "", ""},
		{"nested bare key", `{"a":{model:1}}`, "syntax", "", ""},
		{"nested backslash", `{"a":[\"]}`, "syntax", "", ""},
		{"nested NUL", "{\"a\":[\x00]}", "syntax", "", ""},
		{"nested line separator", "{\"a\":[1\u2028]}", "syntax", "", ""},
		{"brackets of two kinds", `{"a":[}`, "syntax", "", ""},
		{"brackets that cross", `{"a":[{]}}`, "syntax", "", ""},
		{"word", `{"a":NaN}`, "syntax", "", ""},
		{"word that starts well", `{"a":truex}`, "syntax", "", ""},
		{"short word", `{"a":tru}`, "syntax", "", ""},
		{"hexadecimal", `{"a":0x1}`, "syntax", "", ""},
		{"leading zero", `{"a":01}`, "syntax", "", ""},
		{"plus", `{"a":+1}`, "syntax", "", ""},
		{"minus alone", `{"a":-}`, "syntax", "", ""},
		{"dot at the end", `{"a":1.}`, "syntax", "", ""},
		{"dot at the start", `{"a":.5}`, "syntax", "", ""},
		{"exponent without digits", `{"a":1e+}`, "syntax", "", ""},
		{"all numbers", `{"a":0,"b":-0.10,"c":1E+2,"d":10e-03,"model":"m"}`, "", `"m"`, ""},
		{"all escapes", `{"a":"\"\\\/\b\f\n\r\t\u00aF","model":"m"}`, "", `"m"`, ""},

		{"long model", `{"model":"` + long + `"}`, "long_model", "", ""},
		{"long stream", `{"stream":"` + long + `"}`, "long_stream", "", ""},
		{"model that is no UTF-8", "{\"model\":\"a\xffb\"}", "not_utf8", "", ""},
		{"overlong UTF-8", "{\"model\":\"\xc0\xaf\"}", "not_utf8", "", ""},
		{"surrogate in UTF-8", "{\"model\":\"\xed\xa0\x80\"}", "not_utf8", "", ""},
		{"model in UTF-8", "{\"model\":\"模型\U0001F600é\"}", "", "\"模型\U0001F600é\"", ""},
		{"no UTF-8 elsewhere", "{\"x\":\"\xff\",\"model\":\"m\"}", "", `"m"`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := peeked{err: c.err, model: c.model, stream: c.stream, size: len(c.body), read: true, source: remote, asked: true}
			if got := p.body(t, c.body); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

// TestPeekLimits: what the answer may cost at most, and how much of the request is no text.
func TestPeekLimits(t *testing.T) {
	p := newPeeker(t, script(false), "/v1/chat/completions")
	picture := "data:image/png;base64," + strings.Repeat("iVBORw0KGgo+/A", 1000) + "=="
	for _, c := range []struct {
		name, body, limits string
		media, count       int
	}{
		{"all", `{"n":2,"max_tokens":10,"max_output_tokens":1e3,"max_completion_tokens":-5}`, "n=2 max_tokens=10 max_output_tokens=1e3 max_completion_tokens=-5", 0, 0},
		{"the last one counts", `{"n":2,"n":3,"max_tokens":5,"max_tokens":null}`, "n=3", 0, 0},
		{"no numbers", `{"n":"2","max_tokens":null,"max_output_tokens":[1],"max_completion_tokens":true}`, "", 0, 0},
		{"nested", `{"x":{"n":2}}`, "", 0, 0},
		{"another case", `{"N":2,"Max_Tokens":1,"max?tokens":4}`, "", 0, 0},
		{"long", `{"n":` + strings.Repeat("1", 33) + `,"max_tokens":` + strings.Repeat("1", 32) + `}`, "max_tokens=" + strings.Repeat("1", 32), 0, 0},
		{"picture", `{"a":[{"url":"` + picture + `"}]}`, "", len(picture), 1},
		{"pictures", `{"a":[{"url":"` + picture + `"},"` + picture[22:] + `"],"b":"` + picture + `"}`, "", 3*len(picture) - 22, 3},
		{"escaped slashes", `{"a":["` + strings.ReplaceAll(picture, "/", `\/`) + `"]}`, "", len(strings.ReplaceAll(picture, "/", `\/`)), 1},
		{"many escapes", `{"a":["` + strings.Repeat(`\/`, 5000) + `"]}`, "", 10000, 1},
		{"short", `{"a":["` + picture[:8191] + `"]}`, "", 0, 0},
		{"a byte more", `{"a":["` + picture[:8192] + `"]}`, "", 8192, 1},
		{"prose", `{"a":["` + strings.Repeat("lorem ipsum ", 1000) + `"]}`, "", 0, 0},
		{"prose of long words", `{"a":["` + strings.Repeat("模型", 5000) + `"]}`, "", 0, 0},
		{"code", `{"a":["` + strings.Repeat(`if(a[i]){return;}`, 1000) + `"]}`, "", 0, 0},
	} {
		got := p.body(t, c.body)
		if got.err != "" || got.limits != c.limits || got.media != c.media || got.mediaCount != c.count {
			t.Errorf("%s: got %q, %d bytes of media in %d; error %q", c.name, got.limits, got.media, got.mediaCount, got.err)
		}
	}
}

// TestPeekIDs: no two requests have one ID, in one Lua or in several.
func TestPeekIDs(t *testing.T) {
	seen := map[string]bool{}
	for range 3 {
		p := newPeeker(t, script(false), "/v1/chat/completions")
		for range 3 {
			p.body(t, `{}`)
			id := p.id
			if id == "" || seen[id] || strings.Trim(id, "0123456789abcdefx-") != "" {
				t.Errorf("the ID %q is empty, or comes twice", id)
			}
			seen[id] = true
		}
	}
}

// TestPeekAsksForUsage: OpenAI's streams say what they used when they are asked.
func TestPeekAsksForUsage(t *testing.T) {
	const asking = `{"stream_options":{"include_usage":true},`
	for _, c := range []struct{ name, path, body, sent string }{
		{"none", "/v1/chat/completions", `{"model":"m","stream":true}`, asking + `"model":"m","stream":true}`},
		{"spaces", "/team/v1/completions/?a=b", " \n{ \"stream\" : true }", " \n" + asking + " \"stream\" : true }"},
		{"null", "/v1/chat/completions", `{"stream":true,"stream_options": null ,"a":1}`, `{"stream":true,"stream_options": {"include_usage":true} ,"a":1}`},
		{"empty", "/v1/chat/completions", `{"stream_options":{ },"stream":true}`, `{"stream_options":{"include_usage":true },"stream":true}`},
		{"other options", "/v1/chat/completions", `{"stream_options":{"a":{"include_usage":true}},"stream":true}`, `{"stream_options":{"include_usage":true,"a":{"include_usage":true}},"stream":true}`},
		{"refused", "/v1/chat/completions", `{"stream_options":{"a":1,"include_usage": false},"stream":true}`, `{"stream_options":{"a":1,"include_usage": true},"stream":true}`},
		{"refused by null", "/v1/chat/completions", `{"stream_options":{"include_usage":null,"a":1},"stream":true}`, `{"stream_options":{"include_usage":true,"a":1},"stream":true}`},
		{"nested option", "/v1/chat/completions", `{"a":{"stream_options":{"include_usage":true}},"stream":true}`, asking + `"a":{"stream_options":{"include_usage":true}},"stream":true}`},

		{"asked", "/v1/chat/completions", `{"stream":true,"stream_options":{"include_usage":true}}`, ""},
		{"no stream", "/v1/chat/completions", `{"stream":false}`, ""},
		{"no stream flag", "/v1/chat/completions", `{"model":"m"}`, ""},
		{"stream of another kind", "/v1/chat/completions", `{"stream":"true"}`, ""},
		{"twice", "/v1/chat/completions", `{"stream":true,"stream_options":null,"stream_options":null}`, ""},
		{"three times", "/v1/chat/completions", `{"stream":true,"stream_options":null,"stream_options":null,"stream_options":null}`, ""},
		{"no object", "/v1/chat/completions", `{"stream":true,"stream_options":[]}`, ""},
		{"no flag", "/v1/chat/completions", `{"stream":true,"stream_options":{"include_usage":1}}`, ""},
		{"two flags", "/v1/chat/completions", `{"stream":true,"stream_options":{"include_usage":false,"include_usage":false}}`, ""},
		{"escaped option", "/v1/chat/completions", `{"stream":true,"stream_options":{"include\u005fusage":false}}`, ""},
		{"odd object", "/v1/chat/completions", `{"stream":true,"stream_options":{1}}`, ""},
		{"not JSON", "/v1/chat/completions", `{"stream":true,"stream_options":null`, ""},
		{"responses", "/v1/responses", `{"stream":true}`, ""},
		{"messages", "/v1/messages?x=/completions", `{"stream":true}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPeeker(t, script(true), c.path)
			got := p.body(t, c.body)
			want := ""
			if c.sent != "" {
				want = strconv.Itoa(len(c.sent))
			}
			if got.sent != c.sent || got.hide != (c.sent != "") || got.length != want {
				t.Errorf("got %s, hide %v, content-length %q\nwant %s", got.sent, got.hide, got.length, c.sent)
			}
			if c.sent != "" && !json.Valid([]byte(got.sent)) {
				t.Error("this is no JSON")
			}
			if got := newPeeker(t, script(false), c.path).body(t, c.body); got.sent != "" || got.hide {
				t.Errorf("where nothing is asked for: %+v", got)
			}
		})
	}
}

// TestPeekAsksForBodies: Envoy holds a body only where the decision needs it.
func TestPeekAsksForBodies(t *testing.T) {
	p := newPeeker(t, script(false), "/v1/chat/completions")
	body, found := lua.LString(`{"model":"m"}`), peeked{model: `"m"`, size: 13, read: true, source: remote, asked: true}
	for _, c := range []struct {
		name               string
		body               lua.LValue
		method, credential string
		broken             bool
		want               peeked
	}{
		{"authorization", body, "POST", "authorization", false, found},
		{"x-api-key", body, "POST", "x-api-key", false, found},
		{"api-key", body, "POST", "api-key", false, found},
		{"x-goog-api-key", body, "PUT", "x-goog-api-key", false, found},
		{"no credential", body, "POST", "cookie", false, peeked{}},
		{"GET", body, "GET", "authorization", false, peeked{source: remote}},
		{"HEAD", body, "HEAD", "authorization", false, peeked{source: remote}},
		{"DELETE", body, "DELETE", "authorization", false, peeked{source: remote}},
		{"OPTIONS", body, "OPTIONS", "authorization", false, peeked{source: remote}},
		{"a tunnel", body, "CONNECT", "authorization", false, peeked{source: remote}},
		{"no body", lua.LNil, "POST", "authorization", false, peeked{source: remote, asked: true}},
		{"an empty body", lua.LString(""), "POST", "authorization", false, peeked{err: "empty", source: remote, asked: true}},
		{"Lua fails", body, "POST", "authorization", true, peeked{err: "unreadable", source: remote, asked: true}},
	} {
		if got := p.peek(t, c.body, c.method, c.credential, c.broken); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
}

// TestPeekHopsOverLongStrings: what a prompt costs is a search for its end, whatever is in it.
func TestPeekHopsOverLongStrings(t *testing.T) {
	p := newPeeker(t, script(false), "/v1/chat/completions")
	for name, long := range map[string]string{
		"letters": strings.Repeat("a", 1<<20), "backslashes": strings.Repeat(`\\`, 1<<19), "quotes": strings.Repeat(`\"`, 1<<19),
	} {
		if got := p.body(t, `{"messages":"`+long+`","model":"m"}`); got.model != `"m"` || got.err != "" {
			t.Errorf("1 MiB of %s: %q, %q", name, got.err, got.model)
		}
	}
}

// TestPeekDepth: as deep as encoding/json goes, and no deeper.
func TestPeekDepth(t *testing.T) {
	p := newPeeker(t, script(false), "/v1/chat/completions")
	nested := func(n int) string {
		return `{"x":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `,"model":"m"}`
	}
	for n, err := range map[int]string{9999: "", 10000: "too_deep", 1 << 16: "too_deep"} {
		if got := p.body(t, nested(n)); got.err != err || json.Valid([]byte(nested(n))) != (err == "") {
			t.Errorf("%d arrays: %q, want %q", n, got.err, err)
		}
	}
	if got := p.body(t, `{"x":`+strings.Repeat("[", 5000)); got.err != "syntax" {
		t.Errorf("no end: %+v", got)
	}
}

// special says what makes a key an error, in JSON.
func special(r rune) bool { return r == '\\' || r > 127 }

// reference says what peek.lua must find in valid JSON, by encoding/json.
func reference(data []byte) peeked {
	out := peeked{read: true, asked: true, source: remote, size: len(data)}
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
		case strings.ContainsFunc(key, special):
			out.err = "key_not_ascii"
			if key[strings.IndexFunc(key, special)] == '\\' {
				out.err = "escaped_key"
			}
		case folded == "model" || folded == "stream":
			out.err = "key_case"
		}
		if out.err != "" {
			return out
		}
		found[key] = string(raw)
	}
	out.model, out.stream = found["model"], found["stream"]
	var limits []string
	for _, key := range limitKeys {
		if v := found[key]; v != "" && strings.Contains("-0123456789", v[:1]) && len(v) <= 32 {
			limits = append(limits, key+"="+v)
		}
	}
	out.limits = strings.Join(limits, " ")
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
	p := newPeeker(t, script(false), "/v1/chat/completions")
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
		return `"` + []string{"model", "stream", "Model", "n", "max_tokens", "Max_tokens", "max_output_tokens", "x", "", "a\\\"b", "\\\\", "mod\\u0065l", "}{", "é模", "messages", "y", "z", "w"}[rng.IntN(18)] + `"`
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
	p := newPeeker(f, script(false), "/v1/chat/completions")
	f.Fuzz(func(t *testing.T, data []byte) { compareWithReference(t, p, data) })
}
