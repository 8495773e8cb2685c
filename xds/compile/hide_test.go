package compile

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	lua "github.com/yuin/gopher-lua"
)

// filtering is the part of Envoy's stream handle that hide.lua uses; the chunks of the answer are a table. It stands in one source with
// the script.
const filtering = `
function filter(chunks, status, kind, encoding, hide)
  hiding = 1 -- as peek.lua has left it
  local out = {}
  local headers = {[":status"] = status, ["content-type"] = kind, ["content-encoding"] = encoding, ["content-length"] = "1"}
  envoy_on_response({
    headers = function() return {
      get = function(_, name) return headers[name] end,
      remove = function(_, name) headers[name] = nil end,
    } end,
    streamInfo = function() return {dynamicMetadata = function() return {get = function(_, namespace)
      if namespace ~= "weir.peek" then error("metadata of " .. namespace) end
      return hide ~= nil and {hide = hide} or nil
    end} end} end,
    bodyChunks = function()
      local i = 0
      return function()
        i = i + 1
        local text = chunks[i]
        if not text then return nil end
        out[i] = text
        return {
          length = function() return #text end,
          getBytes = function(_, from, n) return string.sub(text, from + 1, from + n) end,
          setBytes = function(_, new) out[i] = new end,
        }
      end
    end,
  })
  if #out == 0 then out = chunks end
  return table.concat(out), headers["content-length"] ~= nil
end`

type hider struct{ state *lua.LState }

func newHider(t testing.TB) *hider {
	t.Helper()
	s := newState(t)
	if err := s.DoString(script(true, "") + filtering); err != nil {
		t.Fatalf("load hide.lua: %v", err)
	}
	return &hider{s}
}

// stream passes an answer through the filter in these pieces.
func (h *hider) stream(t testing.TB, chunks ...string) string {
	t.Helper()
	out, length := h.answer(t, "200", "text/event-stream", lua.LNil, lua.LTrue, chunks...)
	if length {
		t.Error("the answer has the content-length that it came with")
	}
	return out
}

func (h *hider) answer(t testing.TB, status, kind string, encoding, hide lua.LValue, chunks ...string) (string, bool) {
	t.Helper()
	list := &lua.LTable{}
	for _, c := range chunks {
		list.Append(lua.LString(c))
	}
	call := lua.P{Fn: h.state.GetGlobal("filter"), NRet: 2, Protect: true}
	if err := h.state.CallByParam(call, list, lua.LString(status), lua.LString(kind), encoding, hide); err != nil {
		t.Fatalf("hide.lua fails: %v", err)
	}
	defer h.state.Pop(2)
	return string(h.state.Get(-2).(lua.LString)), h.state.Get(-1) == lua.LTrue
}

const (
	usageEvent = "«data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":5}}\n\n»"
	doneEvent  = "data: [DONE]\n\n"
)

// hideCases are streams; what must be lost of them is in «».
var hideCases = map[string]string{
	"plain":            "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}],\"usage\":null}\n\n" + usageEvent + doneEvent,
	"spaces":           "«data:{ \"choices\" : [ ] , \"usage\" : { \"prompt_tokens\" : 1 } }\n\n»" + doneEvent,
	"CRLF":             strings.ReplaceAll("data: {\"choices\":[{}]}\n\n"+usageEvent+doneEvent, "\n", "\r\n"),
	"mixed ends":       "data: {\"choices\":[{}]}\r\n\n«data: {\"choices\":[],\"usage\":{}}\n\r\n»" + doneEvent,
	"several lines":    "«id: 1\ndata: {\"choices\":[],\ndata: \"usage\":{}}\nretry: 5\n\n»" + doneEvent,
	"comments":         ": hello\n\n: one\n: two\ndata: {}\n\n:\n\n" + usageEvent + ": bye\n\n",
	"text like it":     "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"choices\\\":[],\\\"usage\\\":{}\"}}]}\n\n" + usageEvent,
	"nested":           "data: {\"choices\":[{\"x\":[]}],\"a\":{\"choices\":[],\"usage\":{}}}\n\n" + usageEvent,
	"usage in chunks":  "data: {\"choices\":[{\"delta\":{}}],\"usage\":{\"prompt_tokens\":1}}\n\n" + usageEvent + doneEvent,
	"no usage":         "data: {\"choices\":[],\"prompt_filter_results\":[{}],\"usage\":null}\n\ndata: {\"choices\":[],\"usage\":[]}\n\n" + doneEvent,
	"no choices":       "data: {\"usage\":{}}\n\ndata: {\"choices\":null,\"usage\":{}}\n\n" + doneEvent,
	"choices twice":    "data: {\"choices\":[{}],\"choices\":[],\"usage\":{}}\n\n" + doneEvent,
	"tools":            "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"function\":{\"arguments\":\"{\\\"usage\\\":{}}\"}}]}}]}\n\n" + usageEvent + doneEvent,
	"an error":         "data: {\"error\":{\"message\":\"no\"},\"usage\":{}}\n\n" + doneEvent,
	"not JSON":         "data: {\"choices\":[],\"usage\":{}\n\ndata: \"usage\":{}\n\n" + doneEvent,
	"events":           "«event: message\ndata: {\"choices\":[],\"usage\":{}}\n\n»event: done\ndata: {}\n\n",
	"blank lines":      "\n\n\r\n" + usageEvent + "\n\n" + doneEvent,
	"bytes":            "data: \xff\x00{\n\n\xef\xbb\xbf" + doneEvent,
	"only usage":       usageEvent,
	"several usages":   usageEvent + usageEvent + doneEvent + usageEvent,
	"no end":           usageEvent + "data: [DONE]\n",
	"carriage returns": "data: {\"choices\":[{}]}\r\rdata: [DONE]\r\r",
	"nothing":          "",
}

var marked = regexp.MustCompile("(?s)«.*?»")

// TestHide takes the usage out of streams that arrive cut in two at every place, byte by byte, and at once.
func TestHide(t *testing.T) {
	h := newHider(t)
	for name, stream := range hideCases {
		t.Run(name, func(t *testing.T) {
			want := marked.ReplaceAllString(stream, "")
			stream = strings.NewReplacer("«", "", "»", "").Replace(stream)
			if got := h.stream(t, stream); got != want {
				t.Fatalf("got  %q\nwant %q", got, want)
			}
			for i := range len(stream) {
				if got := h.stream(t, stream[:i], stream[i:]); got != want {
					t.Fatalf("cut at %d: got  %q\nwant %q", i, got, want)
				}
			}
			if got := h.stream(t, strings.Split(stream, "")...); got != want {
				t.Fatalf("byte by byte: got  %q\nwant %q", got, want)
			}
		})
	}
}

// TestHideHolds: nothing waits but what may have to go, and not for long.
func TestHideHolds(t *testing.T) {
	h := newHider(t)
	for name, c := range map[string][2]string{ // what has come, and what of it goes on
		"a whole event":       {"data: {\"choices\":[{}]}\n\n", "data: {\"choices\":[{}]}\n\n"},
		"half an event":       {"data: {}\n\ndata: {\"cho", "data: {}\n\n"},
		"half a line end":     {"data: {}\r\n\r", ""},
		"the end":             {"data: {}\n\ndata: [DONE]", "data: {}\n\ndata: [DONE]"},
		"half a comment":      {": pi", ": pi"},
		"a large event":       {"data: {" + strings.Repeat("x", 1<<16), "data: {" + strings.Repeat("x", 1<<16)},
		"carriage returns":    {"data: {}\r\rdata: {}\r\r", "data: {}\r\rdata: {}\r\r"},
		"no event stream":     {"<html>", "<html>"},
		"the name of a field": {"data", ""},
	} {
		if got := h.stream(t, c[0]); got != c[1] {
			t.Errorf("%s: got %.50q, want %.50q", name, got, c[1])
		}
	}
}

// TestHideOnlyWhereAsked: other answers are not looked at, and keep their length.
func TestHideOnlyWhereAsked(t *testing.T) {
	h := newHider(t)
	stream := strings.NewReplacer("«", "", "»", "").Replace(usageEvent + doneEvent)
	for _, c := range []struct {
		name, status, kind string
		encoding, hide     lua.LValue
		hidden             bool
	}{
		{"marked", "200", "text/event-stream", lua.LNil, lua.LTrue, true},
		{"with a parameter", "200", "Text/Event-Stream;charset=utf-8", lua.LNil, lua.LTrue, true},
		{"not marked", "200", "text/event-stream", lua.LNil, lua.LFalse, false},
		{"no metadata", "200", "text/event-stream", lua.LNil, lua.LNil, false},
		{"an error", "500", "text/event-stream", lua.LNil, lua.LTrue, false},
		{"JSON", "200", "application/json", lua.LNil, lua.LTrue, false},
		{"compressed", "200", "text/event-stream", lua.LString("gzip"), lua.LTrue, false},
	} {
		got, length := h.answer(t, c.status, c.kind, c.encoding, c.hide, stream)
		if hidden := got == doneEvent; hidden != c.hidden || !hidden && got != stream || length == hidden {
			t.Errorf("%s: got %q, content-length kept: %v", c.name, got, length)
		}
	}
}

// FuzzHide makes streams of the cases, cut anywhere.
func FuzzHide(f *testing.F) {
	f.Add([]byte("abcdefg"), []byte{3, 50, 1, 1, 200})
	f.Add([]byte("zyxw"), []byte{1})
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(hideCases)) {
		// An event without an end takes the next one in, and one of unknown lines goes on piece by piece.
		if !slices.Contains([]string{"no end", "carriage returns", "bytes"}, name) {
			parts = append(parts, hideCases[name])
		}
	}
	h := newHider(f)
	f.Fuzz(func(t *testing.T, which, cuts []byte) {
		if len(which) > 50 || len(cuts) > 500 {
			return
		}
		stream := ""
		for _, c := range which {
			stream += parts[int(c)%len(parts)]
		}
		want := marked.ReplaceAllString(stream, "")
		stream = strings.NewReplacer("«", "", "»", "").Replace(stream)
		var chunks []string
		for i := 0; stream != "" && len(cuts) > 0; i++ {
			n := min(int(cuts[i%len(cuts)])+1, len(stream))
			chunks = append(chunks, stream[:n])
			stream = stream[n:]
		}
		if got := h.stream(t, append(chunks, stream)...); got != want {
			t.Errorf("%q: got %q, want %q", chunks, got, want)
		}
	})
}
