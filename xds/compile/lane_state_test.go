package compile

import (
	"fmt"
	"strings"
	"testing"

	lua "github.com/yuin/gopher-lua"

	"github.com/weir-dev/weir/extproc/wire"
)

// fakeFFI stands in for LuaJIT's: what is mapped are tables. slot(n) is the n-th, and on_use is called between a use and the second look.
const fakeFFI = `
local slots = {}
on_use = nil
function slot(n)
  if not slots[n] then
    local words = { generation = 1, granted = 10, used = 0, requests = 0/0, tokens = 0/0, each = 0, bytes_per_token = 0 }
    slots[n] = setmetatable({}, { __index = words, __newindex = function(_, key, value)
      words[key] = value
      if key == "used" and on_use then on_use(words) end
    end })
  end
  return slots[n]
end
package.preload.ffi = function()
  local function pointer(to) return setmetatable({}, { __add = function(_, n) return to(n) end }) end
  return {
    cdef = function() end,
    gc = function(p) return p end, new = function() return {} end,
    C = {
      open = function() return 3 end, close = function() end,
      lseek = function() return 64 + 64 * 4096 end, mmap = function() return {} end, munmap = function() end,
      fcntl = function(_, _, lock)
        lock.type = 1 -- Weir lives
        return 0
      end,
    },
    cast = function(kind, p)
      if kind == "intptr_t" then return 0 end
      if kind == "char *" then return pointer(function() return p end) end
      if string.find(kind, "magic") then return { magic = 0x52494557, layout = 1, alive = 1e15 } end
      return pointer(slot)
    end,
  }
end`

// passing is the part of Envoy's stream handle that a request and its answer use. decided is the decision that the answer comes with.
const passing = `
clock = 1700000000000
function pass(headers, body, failing)
  local sent, facts = {}, {}
  local metadata = {
    set = function(_, namespace, key, value)
      if key == failing then error("not enough memory") end
      facts[namespace] = facts[namespace] or {}
      facts[namespace][key] = value
    end,
    get = function(_, namespace) return facts[namespace] end,
  }
  local function info()
    return { dynamicMetadata = function() return metadata end, downstreamRemoteAddress = function() return "127.0.0.1:4711" end }
  end
  envoy_on_request({
    headers = function() return {
      get = function(_, name) return headers[name] end,
      replace = function(_, name, value) sent[name] = value end,
    } end,
    body = function() return { length = function() return #body end, getBytes = function() return body end } end,
    streamInfo = info,
    timestamp = function() return clock end,
    timestampString = function() return tostring(clock) end,
  })
  local out = { rule = sent["x-weir-rule"] or "", answer = function(decided)
    facts["weir"] = decided
    if envoy_on_response then envoy_on_response({ streamInfo = info }) end
  end }
  for namespace, list in pairs(facts) do
    for key, value in pairs(list) do
      if key == "ahead" then
        for each, text in pairs(value) do out[namespace .. " " .. each] = text end
      else
        out[namespace .. " " .. key] = tostring(value)
      end
    end
  end
  return out
end`

// laneState is a Lua of the door with lanes that are tables.
type laneState struct {
	t     *testing.T
	state *lua.LState
}

func newLaneState(t *testing.T, ffi string) *laneState {
	t.Helper()
	s := newState(t)
	must(t, s.DoString(ffi+"\n"+script(false, "/no/such/file")+passing))
	return &laneState{t, s}
}

func (l *laneState) run(code string) {
	l.t.Helper()
	must(l.t, l.state.DoString(code))
}

// passed is what has become of a request; answer is a function of the decision that its answer comes with.
type passed struct {
	*lua.LTable
	l *laneState
}

func (p passed) get(key string) string { return lua.LVAsString(p.RawGetString(key)) }

// native says whether the request went through a lane.
func (p passed) native() bool { return p.get("rule") == "rule" }

// pass sends a request with these headers besides those that every one has, "name: value".
func (l *laneState) pass(failing string, headers ...string) passed {
	l.t.Helper()
	table := &lua.LTable{}
	for _, h := range append([]string{":method: POST", ":path: /v1/chat/completions", ":authority: a", "authorization: Bearer x"}, headers...) {
		name, value, _ := strings.Cut(h, ": ")
		table.RawSetString(name, lua.LString(value))
	}
	call := lua.P{Fn: l.state.GetGlobal("pass"), NRet: 1, Protect: true}
	must(l.t, l.state.CallByParam(call, table, lua.LString(`{"model":"m"}`), lua.LString(failing)))
	defer l.state.Pop(1)
	return passed{l.state.Get(-1).(*lua.LTable), l}
}

// answer brings the answer of a request, whose decision carries the lane of a slot and names the headers that decide.
func (p passed) answer(slot int, vary string) {
	p.l.t.Helper()
	decided := &lua.LTable{}
	for key, value := range map[string]string{
		wire.KeyLane: fmt.Sprintf("%d:1:x%d-", slot, slot), wire.KeyLaneRule: "rule", wire.KeyLanePath: "/p", wire.KeyRoute: "r", wire.KeyExchange: "e",
		wire.KeyLaneVary: vary,
	} {
		decided.RawSetString(key, lua.LString(value))
	}
	must(p.l.t, p.l.state.CallByParam(lua.P{Fn: p.RawGetString("answer"), Protect: true}, decided))
}

// TestLaneVoid: a use that was taken back while it was counted, or that Lua could not go through with, is void: Weir is asked, and told.
func TestLaneVoid(t *testing.T) {
	for name, c := range map[string]struct{ onUse, failing string }{
		"revoked":            {onUse: "function(s) s.granted = 0 end"},
		"another generation": {onUse: "function(s) s.generation = 2 end"},
		"fewer":              {onUse: "function(s) s.granted = 1 end"},
		"want of memory":     {onUse: "nil", failing: wire.KeyAhead},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLaneState(t, fakeFFI)
			l.pass("").answer(0, "")
			if p := l.pass(""); !p.native() || !strings.HasSuffix(p.get("weir rest"), "\nexchange\nx0-1") || p.get("weir.peek void") != "" {
				t.Fatalf("there is no lane: %q", p.get("weir rest"))
			}
			l.run("on_use = " + c.onUse)
			p := l.pass(c.failing)
			if p.native() || p.get("weir.peek void") != "x0-2" || p.get("weir.peek size") != "13" || p.get("weir.peek id") == "" {
				t.Errorf("in a lane: %v, void %q, size %q", p.native(), p.get("weir.peek void"), p.get("weir.peek size"))
			}
			l.run("on_use = nil")
			if p := l.pass(""); p.get("weir.peek void") != "" || p.native() != (c.failing != "") {
				t.Errorf("the next one is in a lane: %v, void %q", p.native(), p.get("weir.peek void"))
			}
		})
	}
}

// TestLaneBounds: what a Lua remembers has an end, whoever comes.
func TestLaneBounds(t *testing.T) {
	path := func(n int) string { return fmt.Sprintf(":path: /v1/chat/completions?%d", n) }
	t.Run("lanes", func(t *testing.T) {
		l := newLaneState(t, fakeFFI)
		for n := range 4096 {
			l.pass("", path(n)).answer(n, "")
		}
		if !l.pass("", path(0)).native() || !l.pass("", path(4095)).native() {
			t.Fatal("fewer have room")
		}
		l.pass("", path(4096)).answer(0, "")
		if l.pass("", path(0)).native() || !l.pass("", path(4096)).native() {
			t.Error("there is room for more")
		}
	})
	t.Run("questions", func(t *testing.T) {
		l := newLaneState(t, fakeFFI)
		var all []passed
		for n := range 2049 {
			p := l.pass("", path(n))
			for p.get("weir.peek lane") == "" { // it is not looked at
				p = l.pass("", path(n))
			}
			all = append(all, p)
		}
		for n, native := range map[int]bool{0: false, 1023: false, 1024: true, 2048: true} {
			all[n].answer(n, "")
			if got := l.pass("", path(n)).native(); got != native {
				t.Errorf("the answer of request %d begins a lane: %v", n, got)
			}
		}
	})
	t.Run("time", func(t *testing.T) {
		l := newLaneState(t, fakeFFI)
		first := l.pass("", path(0))
		l.run("clock = clock + 60001")
		second := l.pass("", path(1))
		l.run("clock = clock + 60001")
		l.pass("", path(2))
		first.answer(0, "")
		second.answer(1, "")
		if l.pass("", path(0)).native() || !l.pass("", path(1)).native() {
			t.Error("the older answer begins a lane, or the younger one does not")
		}
	})
}

// TestLaneVary: when other headers decide, nothing that was known before holds.
func TestLaneVary(t *testing.T) {
	l := newLaneState(t, fakeFFI)
	l.pass("").answer(0, "x-team")
	l.pass("", "x-other: 1").answer(0, "x-team")
	if !l.pass("", "x-other: 2").native() {
		t.Fatal("there is no lane")
	}
	other := l.pass("", "x-other: 1", ":path: /v1/completions")
	l.pass("", ":path: /v1/messages").answer(1, "x-other")
	if l.pass("").native() {
		t.Error("a lane goes on in which the new header did not count")
	}
	other.answer(2, "x-other")
	if l.pass("", ":path: /v1/completions").native() {
		t.Error("a lane begins with a request of which the new header is not known")
	}
}

// TestLanePatience: where no lanes begin, most requests are not looked at for one; when one begins, all are.
func TestLanePatience(t *testing.T) {
	l := newLaneState(t, fakeFFI)
	looked := 0
	var last passed
	for range 64 + 160 {
		if p := l.pass(""); p.get("weir.peek lane") != "" {
			looked++
			last = p
		}
	}
	if looked != 64+10 {
		t.Errorf("%d of 224 are looked at", looked)
	}
	last.answer(0, "")
	for n := range 10 {
		if !l.pass("").native() {
			t.Errorf("request %d is asked for", n)
		}
	}
}

// TestLaneUpgrade: nor is there a lane for requests that want another protocol.
func TestLaneUpgrade(t *testing.T) {
	l := newLaneState(t, fakeFFI)
	p := l.pass("", "upgrade: websocket")
	p.answer(0, "")
	if p.get("weir.peek lane") != "" || l.pass("", "upgrade: websocket").native() {
		t.Error("there is")
	}
}

// TestLaneWithoutFFI: a Lua that can map nothing asks about each request, and says nothing of lanes.
func TestLaneWithoutFFI(t *testing.T) {
	l := newLaneState(t, "")
	for range 2 {
		p := l.pass("")
		p.answer(0, "")
		if p.native() || p.get("weir.peek lane") != "" || p.get("weir.peek size") != "13" {
			t.Errorf("lane %q, size %q", p.get("weir.peek lane"), p.get("weir.peek size"))
		}
	}
}
