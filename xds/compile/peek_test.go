package compile

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
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

// newState is a Lua of Go, whose own garbage is not for scripts to count.
func newState(t testing.TB) *lua.LState {
	t.Helper()
	s := lua.NewState()
	t.Cleanup(s.Close)
	s.SetGlobal("collectgarbage", s.NewFunction(func(s *lua.LState) int {
		s.Push(lua.LNumber(0))
		return 1
	}))
	return s
}

func newPeeker(t testing.TB, source, path string) *peeker {
	t.Helper()
	s := newState(t)
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
	got := p.peek(t, lua.LString(body), "POST", "authorization", false)
	asReader(t, body, got)
	return got
}

func TestPeek(t *testing.T) {
	long := strings.Repeat("m", 1030)
	p := newPeeker(t, script(false, ""), "/v1/chat/completions")
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
	p := newPeeker(t, script(false, ""), "/v1/chat/completions")
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
		{"picture", `{"messages":[{"content":[{"image_url":{"url":"` + picture + `"}}]}]}`, "", len(picture), 1},
		{"pictures", `{"input":[{"content":[{"image_url":"` + picture + `"},{ "image_url" : "` + picture + `"}]},{"output":{"image_url":"` + picture + `"}}]}`, "", 3 * len(picture), 3},
		{"escaped slashes", `{"input":[{"image_url":"` + strings.ReplaceAll(picture, "/", `\/`) + `"}]}`, "", len(strings.ReplaceAll(picture, "/", `\/`)), 1},
		{"many escapes", `{"input":[{"file_data":"` + strings.Repeat(`\/`, 5000) + `"}]}`, "", 10000, 1},
		{"short", `{"input":[{"url":"` + picture[:8191] + `"}]}`, "", 0, 0},
		{"a byte more", `{"input":[{"url":"` + picture[:8192] + `"}]}`, "", 8192, 1},
		{"prose", `{"input":[{"file_data":"` + strings.Repeat("lorem ipsum ", 1000) + `"}]}`, "", 0, 0},
		{"prose of long words", `{"input":[{"file_data":"` + strings.Repeat("模型", 5000) + `"}]}`, "", 0, 0},
		{"code", `{"input":[{"file_data":"` + strings.Repeat(`if(a[i]){return;}`, 1000) + `"}]}`, "", 0, 0},
	} {
		got := p.body(t, c.body)
		if got.err != "" || got.limits != c.limits || got.media != c.media || got.mediaCount != c.count {
			t.Errorf("%s: got %q, %d bytes of media in %d; error %q", c.name, got.limits, got.media, got.mediaCount, got.err)
		}
	}
}

// TestPeekMediaPlaces: media count as such where the dialects put them, and text nowhere, however it is written.
func TestPeekMediaPlaces(t *testing.T) {
	p := newPeeker(t, script(false, ""), "/v1/chat/completions")
	raw := strings.Repeat("abcdefgh", 1200)
	url := "data:image/png;base64," + raw
	for _, c := range []struct {
		name, body string
		want       string // the string that counts; "" for none
	}{
		{"text", `{"messages":[{"role":"user","content":"` + raw + `"}]}`, ""},
		{"data URL as text", `{"messages":[{"role":"user","content":"` + url + `"}]}`, ""},
		{"text part", `{"messages":[{"content":[{"type":"text","text":"` + url + `"}]}]}`, ""},
		{"prompt", `{"prompt":"` + url + `"}`, ""},
		{"prompts", `{"prompt":["` + url + `","` + raw + `"]}`, ""},
		{"arguments", `{"messages":[{"tool_calls":[{"function":{"arguments":"` + raw + `"}}]}]}`, ""},
		{"input", `{"input":"` + url + `"}`, ""},
		{"texts", `{"input":["` + url + `"]}`, ""},
		{"output of a function", `{"input":[{"type":"function_call_output","output":"` + url + `"}]}`, ""},
		{"system", `{"system":[{"type":"image","source":{"type":"base64","data":"` + raw + `"}}]}`, ""},
		{"tools", `{"tools":[{"url":"` + url + `"}]}`, ""},
		{"input of a tool", `{"messages":[{"content":[{"type":"tool_use","input":{"url":"` + url + `"}}]}]}`, ""},
		{"picture in the input of a tool", `{"messages":[{"content":[{"type":"tool_use","input":{"content":[{"source":{"type":"base64","data":"` + raw + `"}}]}}]}]}`, ""},
		{"data of nothing", `{"messages":[{"data":"` + raw + `"}]}`, ""},
		{"data URL in data", `{"messages":[{"content":[{"source":{"type":"base64","data":"` + url + `"}}]}]}`, ""},
		{"URL without a type", `{"messages":[{"content":[{"image_url":{"url":"` + raw + `"}}]}]}`, ""},
		{"URL that is not base64", `{"messages":[{"content":[{"image_url":{"url":"data:image/png,` + raw + `"}}]}]}`, ""},
		{"file of text", `{"messages":[{"content":[{"file":{"file_data":"data:text/plain;base64,` + raw + `"}}]}]}`, ""},
		{"file of JSON", `{"messages":[{"content":[{"file":{"file_data":"data:application/json;base64,` + raw + `"}}]}]}`, ""},
		{"document of text", `{"messages":[{"content":[{"type":"document","source":{"type":"text","media_type":"text/plain","data":"` + raw + `"}}]}]}`, ""},
		{"document of text, the other way round", `{"messages":[{"content":[{"source":{"data":"` + raw + `","type":"text"}}]}]}`, ""},
		{"document of two types", `{"messages":[{"content":[{"source":{"type":"base64","data":"` + raw + `","type":"text"}}]}]}`, ""},
		{"document of two types, one escaped", `{"messages":[{"content":[{"source":{"type":"base64","data":"` + raw + `","type":"t\u0065xt"}}]}]}`, ""},
		{"document of base64 text", `{"messages":[{"content":[{"source":{"type":"base64","media_type":"text\/plain","data":"` + raw + `"}}]}]}`, ""},
		{"source that says nothing", `{"messages":[{"content":[{"source":{"data":"` + raw + `"}}]}]}`, ""},
		{"source that says it too late", `{"messages":[{"content":[{"source":{"data":"` + raw + `","a":"` + strings.Repeat("a", 600) + `","type":"base64"}}]}]}`, ""},
		{"source that says it inside", `{"messages":[{"content":[{"source":{"a":{"type":"base64"},"data":"` + raw + `"}}]}]}`, ""},
		{"source beside", `{"messages":[{"content":[{"source":{"type":"base64"},"x":{"data":"` + raw + `"}}]}]}`, ""},
		{"key in a text", `{"messages":[{"content":"\"source\":{\"type\":\"base64\",\"data\":\"` + raw + `"}]}`, ""},
		{"key with a quote", `{"messages":[{"content":[{"a\"url":"` + url + `"}]}]}`, ""},
		{"key with an escape", `{"messages":[{"content":[{"\u0075rl":"` + url + `"}]}]}`, ""},
		{"key in another case", `{"messages":[{"content":[{"URL":"` + url + `"}]}]}`, ""},
		{"key far away", `{"messages":[{"content":[{"url":` + strings.Repeat(" ", 64) + `"` + url + `"}]}]}`, ""},
		{"after what is media", `{"messages":[{"content":[{"url":"https://x"},{"text":"` + url + `"}]}]}`, ""},
		{"too deep", `{"messages":` + strings.Repeat("[", 15) + `{"url":"` + url + `"}` + strings.Repeat("]", 15) + `}`, ""},

		{"OpenAI picture", `{"messages":[{"content":[{"type":"image_url","image_url":{"url":"` + url + `","detail":"low"}}]}]}`, url},
		{"OpenAI sound", `{"messages":[{"content":[{"type":"input_audio","input_audio":{"data":"` + raw + `","format":"wav"}}]}]}`, raw},
		{"OpenAI file", `{"messages":[{"content":[{"type":"file","file":{"filename":"a.pdf","file_data":"data:application/pdf;base64,` + raw + `"}}]}]}`, "data:application/pdf;base64," + raw},
		{"OpenAI file, escaped", `{"input":[{"content":[{"type":"input_file","file_data":"data:application\/pdf;base64,` + raw + `"}]}]}`, `data:application\/pdf;base64,` + raw},
		{"Responses picture", `{"input":[{"role":"user","content":[{"type":"input_image","image_url":"` + url + `"}]}]}`, url},
		{"Responses picture of a function", `{"input":[{"type":"function_call_output","output":[{"type":"input_image","image_url":"` + url + `"}]}]}`, url},
		{"Anthropic picture", `{"messages":[{"content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"` + raw + `"}}]}]}`, raw},
		{"Anthropic picture, the other way round", "{\"messages\" : [ {\"content\"\n:[{\"source\" : { \"data\" :\t\"" + raw + `" , "media_type":"image\/png","type": "base64"},"type":"image"}]}]}`, raw},
		{"Anthropic picture of a tool", `{"messages":[{"content":[{"type":"tool_result","content":[{"source":{"type":"base64","data":"` + raw + `"}}]}]}]}`, raw},
		{"DashScope picture", `{"input":{"messages":[{"content":[{"image":"` + url + `"}]}]}}`, url},
		{"DashScope frames", `{"input":{"messages":[{"content":[{"video":["` + url + `"]}]}]}}`, url},
		{"a piece of a picture", `{"messages":[{"content":[{"b64_json":"` + raw + `"}]}]}`, raw},
	} {
		got := p.body(t, c.body)
		count := 0
		if c.want != "" {
			count = 1
		}
		if !json.Valid([]byte(c.body)) || got.err != "" || got.media != len(c.want) || got.mediaCount != count {
			t.Errorf("%s: %d bytes of media in %d, want %d; error %q", c.name, got.media, got.mediaCount, len(c.want), got.err)
		}
	}
}

// TestPeekMediaEqualsReference puts long strings into random JSON, and compares what counts as media with a walk over the tree.
func TestPeekMediaEqualsReference(t *testing.T) {
	p := newPeeker(t, script(false, ""), "/v1/chat/completions")
	rng := rand.New(rand.NewPCG(2, 2))
	found := 0
	for range 1500 {
		body := randomMedia(rng)
		got := p.body(t, body)
		size, count := mediaReference(t, body)
		found += count
		if got.err != "" || got.media != size || got.mediaCount != count {
			shown := strings.ReplaceAll(body, strings.Repeat("abcdefgh", 1200), "ABC")
			t.Fatalf("%s:\n got  %d bytes in %d, %q\n want %d bytes in %d", shown, got.media, got.mediaCount, got.err, size, count)
		}
	}
	if found < 100 {
		t.Errorf("only %d media: the test says little", found)
	}
}

func FuzzPeekMedia(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed)
	}
	p := newPeeker(f, script(false, ""), "/v1/chat/completions")
	f.Fuzz(func(t *testing.T, seed uint64) {
		body := randomMedia(rand.New(rand.NewPCG(seed, 3)))
		size, count := mediaReference(t, body)
		if got := p.body(t, body); got.err != "" || got.media != size || got.mediaCount != count {
			t.Errorf("seed %d: got %d bytes in %d, %q; want %d in %d", seed, got.media, got.mediaCount, got.err, size, count)
		}
	})
}

// randomMedia is an object with long strings at places where media may be, and at others.
func randomMedia(rng *rand.Rand) string {
	raw := strings.Repeat("abcdefgh", 1200)
	pick := func(of ...string) string { return of[rng.IntN(len(of))] }
	var value func(depth int) string
	object := func(depth int, keys ...string) string {
		rng.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		var members []string
		for _, k := range keys[:1+rng.IntN(min(3, len(keys)))] {
			v := value(depth + 1)
			if k == "type" {
				v = pick(`"base64"`, `"text"`, `"image"`)
			}
			members = append(members, `"`+k+`"`+pick("", " ")+":"+pick("", "\n")+v)
		}
		return "{" + strings.Join(members, pick(",", " , ")) + "}"
	}
	value = func(depth int) string {
		switch n := rng.IntN(10); {
		case depth < 6 && n < 5:
			return object(depth, "messages", "content", "source", "input_audio", "input", "text", "url", "image_url", "data", "type", "file_data", "video")
		case depth < 6 && n < 7:
			return "[" + value(depth+1) + pick("", ","+value(depth+1)) + "]"
		case n < 8:
			return pick(`"x"`, "1", "null", `"\"url\":"`)
		}
		return `"` + pick(raw, "data:image/png;base64,"+raw, "data:text/plain;base64,"+raw, "a b "+raw) + `"`
	}
	return object(0, "messages", "input", "tools")
}

// mediaReference says how many bytes of a body that randomMedia made are media, in how many strings.
func mediaReference(t *testing.T, body string) (size, count int) {
	t.Helper()
	var tree any
	if err := json.Unmarshal([]byte(body), &tree); err != nil {
		t.Fatal(err)
	}
	var walk func(v any, around map[string]any, path []string)
	walk = func(v any, around map[string]any, path []string) {
		switch v := v.(type) {
		case map[string]any:
			for k, e := range v {
				walk(e, v, append(slices.Clone(path), k))
			}
		case []any:
			for _, e := range v {
				walk(e, nil, append(slices.Clone(path), "[]"))
			}
		case string:
			last := len(path) - 1
			if last > 0 && path[last] == "[]" { // an item counts by the key of its list
				last--
			}
			for i, k := range path[:last] {
				if !slices.Contains([]string{"messages", "content", "source", "input_audio", "image_url", "[]"}, k) && (k != "input" || i > 0) {
					return
				}
			}
			if len(v) < 8192 || len(path) == 1 || strings.Contains(v, " ") {
				return
			}
			isURL := strings.HasPrefix(v, "data:image/png;base64,")
			switch key := path[last]; {
			case key == "file_data" && !strings.HasPrefix(v, "data:text"):
			case isURL && slices.Contains([]string{"url", "image_url", "video"}, key):
			case strings.HasPrefix(v, "data:") || key != "data" || last != len(path)-1:
				return
			case path[last-1] == "input_audio":
			case path[last-1] == "source" && around["type"] == "base64" && plain(around):
			default:
				return
			}
			size, count = size+len(v), count+1
		}
	}
	walk(tree, nil, nil)
	return size, count
}

// plain says whether an object has only short members beside its data.
func plain(object map[string]any) bool {
	for k, v := range object {
		switch v := v.(type) {
		case map[string]any, []any:
			return false
		case string:
			if k != "data" && len(v) > 100 {
				return false
			}
		}
	}
	return true
}

// TestPeekIDs: no two requests have one ID, in one Lua or in several.
func TestPeekIDs(t *testing.T) {
	seen := map[string]bool{}
	for range 3 {
		p := newPeeker(t, script(false, ""), "/v1/chat/completions")
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
			p := newPeeker(t, script(true, ""), c.path)
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
			if got := newPeeker(t, script(false, ""), c.path).body(t, c.body); got.sent != "" || got.hide {
				t.Errorf("where nothing is asked for: %+v", got)
			}
		})
	}
}

// TestPeekAsksForBodies: Envoy holds a body only where the decision needs it.
func TestPeekAsksForBodies(t *testing.T) {
	p := newPeeker(t, script(false, ""), "/v1/chat/completions")
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
	p := newPeeker(t, script(false, ""), "/v1/chat/completions")
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
	p := newPeeker(t, script(false, ""), "/v1/chat/completions")
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
	p := newPeeker(t, script(false, ""), "/v1/chat/completions")
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
	p := newPeeker(f, script(false, ""), "/v1/chat/completions")
	f.Fuzz(func(t *testing.T, data []byte) { compareWithReference(t, p, data) })
}
