package compile

import (
	"slices"
	"strings"
	"testing"

	lua "github.com/yuin/gopher-lua"

	"github.com/weir-dev/weir/extproc/wire"
)

// guardHandle is the part of Envoy's stream handle that guard.lua uses. states are what Envoy knows of Weir's calls, at the headers and
// then at each piece.
const guardHandle = `
function run(decided, headers, states, pieces)
  local at = 1
  local handle = {
    headers = function() return {
      get = function(_, name) return headers[name] end,
      replace = function(_, name, value) headers[name] = value end,
      remove = function(_, name) headers[name] = nil end,
    } end,
    streamInfo = function() return {
      dynamicMetadata = function() return { get = function(_, namespace) if namespace == "weir" then return decided end end } end,
      filterState = function() return { get = function(_, filter, key)
        if filter ~= "weir.decide" then error("state of " .. filter) end
        local state = states[at] or states[#states]
        if state[key] == nil then return end
        return state[key]
      end } end,
    } end,
    bodyChunks = function()
      local i = 0
      return function()
        i = i + 1
        at = i + 1
        if pieces[i] == nil then return nil end
        return { setBytes = function(_, text) pieces[i] = text end }
      end
    end,
  }
  envoy_on_response(handle)
  return pieces
end`

func TestGuard(t *testing.T) {
	c := &compiler{opts: options(t)}
	s := lua.NewState()
	defer s.Close()
	if err := s.DoString(c.guardScript() + guardHandle); err != nil {
		t.Fatal(err)
	}
	table := func(kv ...any) *lua.LTable {
		out := s.NewTable()
		for i := 0; i < len(kv); i += 2 {
			switch v := kv[i+1].(type) {
			case string:
				out.RawSetString(kv[i].(string), lua.LString(v))
			case int:
				out.RawSetString(kv[i].(string), lua.LNumber(v))
			}
		}
		return out
	}
	const event = "event: error\ndata: "
	well, lost := []any{"failed_open", 0, "response_header_call_status", 0}, []any{"failed_open", 1}
	refused := []any{"failed_open", 0, "response_body_last_call_status", 14}
	translated := []any{wire.KeyNeeds, " default/gpus  default/other ", wire.KeyDialect, "anthropic"}
	for name, c := range map[string]struct {
		decided  []any
		states   [][]any
		kind     string
		status   string
		pieces   []string // what comes of "1", "2", "3"; "*" stands for an error
		mustHave string
	}{
		"nothing needs Weir":           {[]any{wire.KeyDialect, "openai"}, [][]any{lost}, "text/event-stream", "200", []string{"1", "2", "3"}, ""},
		"no decision":                  {nil, [][]any{lost}, "text/event-stream", "200", []string{"1", "2", "3"}, ""},
		"let through":                  {append([]any{wire.KeyOpen, "true"}, translated...), [][]any{lost}, "text/event-stream", "200", []string{"1", "2", "3"}, ""},
		"another backend":              {[]any{wire.KeyNeeds, " default/gpu ", wire.KeyDialect, "anthropic"}, [][]any{lost}, "text/event-stream", "200", []string{"1", "2", "3"}, ""},
		"all is well":                  {translated, [][]any{well}, "text/event-stream", "200", []string{"1", "2", "3"}, ""},
		"no calls yet":                 {translated, [][]any{{}}, "text/event-stream", "200", []string{"1", "2", "3"}, ""},
		"lost before the answer":       {translated, [][]any{lost}, "text/event-stream", "503", []string{"*", "", ""}, `{"type":"error"`},
		"lost before a whole answer":   {translated, [][]any{lost}, "application/json", "503", []string{"*", "", ""}, `{"type":"error"`},
		"lost in the middle":           {translated, [][]any{well, well, lost}, "text/event-stream; charset=utf-8", "200", []string{"1", "*", ""}, event},
		"lost in a call":               {translated, [][]any{well, well, well, refused}, "text/event-stream", "200", []string{"1", "2", "*"}, event},
		"a stream that a budget cuts":  {[]any{wire.KeyNeeds, "*", wire.KeyDialect, "openai"}, [][]any{well, lost}, "text/event-stream", "200", []string{"*", "", ""}, `data: {"error"`},
		"a dialect that nobody knows":  {[]any{wire.KeyNeeds, "*", wire.KeyDialect, "gone"}, [][]any{lost}, "text/event-stream", "503", []string{"*", "", ""}, `{"error"`},
		"a whole answer that has come": {translated, [][]any{well, lost}, "application/json", "200", []string{"1", "2", "3"}, ""},
	} {
		headers := table(":status", "200", "content-type", c.kind, "content-length", "3", wire.BackendHeader, "default/gpus")
		states, pieces := s.NewTable(), s.NewTable()
		for _, state := range c.states {
			states.Append(table(state...))
		}
		for _, p := range []string{"1", "2", "3"} {
			pieces.Append(lua.LString(p))
		}
		var decided lua.LValue = lua.LNil
		if c.decided != nil {
			decided = table(c.decided...)
		}
		if err := s.CallByParam(lua.P{Fn: s.GetGlobal("run"), NRet: 0, Protect: true}, decided, headers, states, pieces); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got []string
		text := ""
		for i := 1; i <= 3; i++ {
			p := pieces.RawGetInt(i).String()
			if len(p) > 1 {
				text, p = p, "*"
			}
			got = append(got, p)
		}
		if !slices.Equal(got, c.pieces) || !strings.HasPrefix(text, c.mustHave) || headers.RawGetString(":status").String() != c.status {
			t.Errorf("%s: status %v, pieces %q %q", name, headers.RawGetString(":status"), got, text)
		}
		if refused := c.status == "503"; refused != (headers.RawGetString("retry-after") == lua.LString("1")) || refused != (headers.RawGetString("content-length") == lua.LNil) {
			t.Errorf("%s: the headers of a refusal: %v", name, headers)
		}
	}
}
