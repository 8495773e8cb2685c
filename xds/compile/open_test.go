package compile

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	lua "github.com/yuin/gopher-lua"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/internal/trace"
	"github.com/weir-dev/weir/xds/source"
)

// openDocuments have whatever Envoy has to judge: paths, methods, models, labels, scopes, headers, queries, renamed models, backends
// that fail closed or speak another dialect.
func openDocuments(keys ...string) string {
	docs := []string{`
apiVersion: weir.dev/v1alpha1
kind: LLMGateway
metadata: {name: main}
spec: {listeners: [{name: http, address: 127.0.0.1, port: 8080}]}
`, `
apiVersion: weir.dev/v1alpha1
kind: Consumer
metadata: {name: plain}
spec: {}
`, `
apiVersion: weir.dev/v1alpha1
kind: Consumer
metadata: {name: gold}
spec: {tenant: acme, labels: {tier: gold, site: a}, scopes: [deep], allowedModels: ['a*', 'b', 'x*y*z']}
`, `
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: gpus}
spec: {dialect: openai, basePath: /v1, endpoints: [{address: 10.0.0.1, port: 8000}], models: [{name: a}, {name: ab}, {name: b}, {name: x1y2z}, {name: alias, upstreamName: a}]}
`, `
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: any}
spec: {dialect: openai, basePath: /v1, endpoints: [{address: 10.0.0.2, port: 8000}]}
`, `
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: claude}
spec: {dialect: anthropic, endpoints: [{address: 10.0.0.3, port: 8000}], models: [{name: a}, {name: c}]}
`, `
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: strict}
spec: {dialect: openai, basePath: /v1, endpoints: [{address: 10.0.0.4, port: 8000}]}
`, `
apiVersion: weir.dev/v1alpha1
kind: LoadPolicy
metadata: {name: open}
spec: {failureMode: Open, targetRefs: [{kind: Backend, name: gpus}, {kind: Backend, name: any}, {kind: Backend, name: claude}]}
`, `
apiVersion: weir.dev/v1alpha1
kind: LoadPolicy
metadata: {name: strict}
spec: {targetRefs: [{kind: Backend, name: strict}]}
`, `
apiVersion: weir.dev/v1alpha1
kind: Route
metadata: {name: r}
spec:
  rules:
    - {name: exact, matches: [{path: {type: Exact, value: /team/v1/chat/completions}}], backends: [{name: any}]}
    - {name: below, matches: [{path: {value: /team/}}], backends: [{name: gpus}]}
    - {name: teams, matches: [{path: {value: /teams}, method: GET}], backends: [{name: gpus}]}
    - {name: embeddings, matches: [{path: {value: /v1/embeddings}, method: POST}], backends: [{name: strict}]}
    - {name: gold, matches: [{models: [a, b], consumerLabels: {tier: gold}}], backends: [{name: gpus}]}
    - {name: deep, matches: [{models: [b]}], backends: [{name: gpus}], requiredScopes: [deep]}
    - {name: header, matches: [{models: [ab], headers: [{name: X-Beta, value: "yes"}]}], backends: [{name: gpus}]}
    - {name: query, matches: [{models: [ab], queryParams: [{name: beta, value: "yes"}]}], backends: [{name: gpus}]}
    - {name: mixed, matches: [{models: [a]}, {models: ['a*']}], backends: [{name: strict, weight: 3}, {name: gpus}, {name: any, priority: 1}, {name: claude}]}
    - {name: renamed, matches: [{models: [other]}], backends: [{name: any, model: a}]}
    - {name: claude, matches: [{models: [c]}], backends: [{name: claude}]}
    - {name: rest, matches: [{models: ['*1*', 'x*']}], backends: [{name: any}]}
`}
	return strings.Join(append(docs, keys...), "---")
}

func keyDocument(name, consumer, spec string) string {
	return fmt.Sprintf("\napiVersion: weir.dev/v1alpha1\nkind: APIKey\nmetadata: {name: %s}\nspec: {consumer: %s, %s}\n", name, consumer, spec)
}

const (
	openKey    = "an-open-key-of-some-length"
	goldKey    = "a-gold-key-of-some-length"
	networkKey = "a-network-key-of-some-length"
	deadKey    = "a-dead-key-of-some-length"
	shortlyKey = "a-key-that-ends-at-noon"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func openKeys() []string {
	hash := func(key string) string { return "hash: '" + identity.HashKey(key) + "'" }
	return []string{
		keyDocument("open", "plain", hash(openKey)), keyDocument("gold", "gold", hash(goldKey)),
		keyDocument("network", "plain", hash(networkKey)+", allowedCIDRs: [10.0.0.0/8]"), keyDocument("dead", "plain", hash(deadKey)+", disabled: true"),
		keyDocument("shortly", "plain", hash(shortlyKey)+", expiresAt: '2026-11-22T12:00:00Z'"),
		keyDocument("file", "plain", "secretRef: {env: CLIENT_KEY}"), keyDocument("weak", "plain", "secretRef: {env: SHORT_SECRET}"),
	}
}

// opener runs the code of a version's undecided route.
type opener struct {
	state  *lua.LState
	serial int
}

// openHandle is the part of Envoy's stream handle that open.lua uses. Headers are names and values in turn.
const openHandle = `
function run(list, peek, now)
  local out = {}
  local headers = {
    get = function(_, name)
      local found
      for i = 1, #list, 2 do if list[i] == name then found = found and found .. "," .. list[i + 1] or list[i + 1] end end
      if not found and name == "x-weir-rule" then return "undecided" end -- as every request comes in
      return found
    end,
    getNumValues = function(_, name)
      local n = 0
      for i = 1, #list, 2 do if list[i] == name then n = n + 1 end end
      return n
    end,
    replace = function(_, name, value) out[name] = value end,
    remove = function(_, name) out["removed " .. name] = "yes" end,
  }
  local metadata = {
    get = function(_, namespace) if namespace == "weir.peek" then return peek end end,
    set = function(_, namespace, key, value)
      if namespace ~= "weir" then error("metadata under " .. namespace) end
      out[key] = value
    end,
  }
  envoy_on_request({
    headers = function() return headers end,
    streamInfo = function() return { dynamicMetadata = function() return metadata end } end,
    timestampString = function() return now end,
  })
  return out
end`

// bitModule is what open.lua uses of LuaJIT's.
func bitModule(s *lua.LState) {
	number := func(n int) uint32 { return uint32(int64(s.CheckNumber(n))) }
	push := func(v uint32) int { s.Push(lua.LNumber(int32(v))); return 1 }
	fold := func(f func(a, b uint32) uint32) lua.LGFunction {
		return func(*lua.LState) int {
			v := number(1)
			for i := 2; i <= s.GetTop(); i++ {
				v = f(v, number(i))
			}
			return push(v)
		}
	}
	s.SetGlobal("bit", s.SetFuncs(s.NewTable(), map[string]lua.LGFunction{
		"band": fold(func(a, b uint32) uint32 { return a & b }), "bxor": fold(func(a, b uint32) uint32 { return a ^ b }),
		"bnot":   func(*lua.LState) int { return push(^number(1)) },
		"tobit":  func(*lua.LState) int { return push(number(1)) },
		"rshift": func(*lua.LState) int { return push(number(1) >> (number(2) & 31)) },
		"ror":    func(*lua.LState) int { n := number(2) & 31; v := number(1); return push(v>>n | v<<((32-n)&31)) },
	}))
}

func newOpener(t testing.TB, v *Version) *opener {
	t.Helper()
	s := lua.NewState()
	t.Cleanup(s.Close)
	bitModule(s)
	if err := s.DoString(openCode(t, v.Routes.Get(UndecidedKey)) + openHandle); err != nil {
		t.Fatalf("load open.lua: %v", err)
	}
	return &opener{state: s}
}

// openRequest is a request that nobody has decided.
type openRequest struct {
	headers [][2]string // ":method" and ":path" too
	model   string      // raw JSON; "" for none
	stream  string      // raw JSON
	now     time.Time
}

// ask gives what the code has set; nothing where it lets nobody through.
func (o *opener) ask(t testing.TB, r openRequest) map[string]string {
	t.Helper()
	list, peek := o.state.NewTable(), o.state.NewTable()
	for _, h := range r.headers {
		list.Append(lua.LString(h[0]))
		list.Append(lua.LString(h[1]))
	}
	peek.RawSetString(wire.PeekRead, lua.LTrue)
	o.serial++
	peek.RawSetString(wire.PeekID, lua.LString(fmt.Sprint("peek-", o.serial)))
	if r.model != "" {
		peek.RawSetString(wire.PeekModel, lua.LString(r.model))
	}
	if r.stream != "" {
		peek.RawSetString(wire.PeekStream, lua.LString(r.stream))
	}
	now := lua.LString(strconv.FormatInt(r.now.UnixMilli(), 10))
	if err := o.state.CallByParam(lua.P{Fn: o.state.GetGlobal("run"), NRet: 1, Protect: true}, list, peek, now); err != nil {
		t.Fatalf("open.lua fails on %+v: %v", r, err)
	}
	out := map[string]string{}
	o.state.Get(-1).(*lua.LTable).ForEach(func(k, v lua.LValue) { out[k.String()] = v.String() })
	o.state.Pop(1)
	return out
}

// expected is what Weir would decide: the rule's name and the caller's, and the path, "" for a refusal.
type expected struct {
	rule     *table.Rule
	id       *identity.Identity
	endpoint *canon.Endpoint
	dialect  string
}

func decideAs(t testing.TB, dialects *adapters.Set, v *Version, r openRequest) *expected {
	t.Helper()
	get := func(name string) (string, bool) {
		var all []string
		for _, h := range r.headers {
			if h[0] == name {
				all = append(all, h[1])
			}
		}
		return strings.Join(all, ","), len(all) > 0
	}
	method, _ := get(":method")
	path, _ := get(":path")
	path, query, _ := strings.Cut(path, "?")
	m := dialects.Classify(method, path, func(name string) string { s, _ := get(name); return s })
	var creds identity.Headers
	for _, h := range r.headers {
		creds.Add(h[0], h[1])
	}
	id, err := v.Table.Auth.Authenticate(context.Background(), creds, netip.MustParseAddr("192.0.2.1"), r.now)
	if err != nil || m.Outcome != adapters.Found || m.Endpoint.Op == canon.OpModels || m.Endpoint.Op == canon.OpModel {
		return nil
	}
	model, uerr := strconv.Unquote(r.model)
	if uerr != nil || !id.MayUse(model) {
		return nil
	}
	if len(path) > 1 {
		path = strings.TrimSuffix(path, "/")
	}
	rule := v.Table.Find(&table.Request{Method: method, Path: path, Query: query, Model: model, Labels: id.Labels, Header: get})
	if rule == nil {
		return nil
	}
	if _, ok := id.HasScopes(rule.RequiredScopes); !ok {
		return nil
	}
	return &expected{rule, id, m.Endpoint, m.Dialect.Name}
}

// check compares what is let through with what Weir would decide.
func (o *opener) check(t testing.TB, dialects *adapters.Set, v *Version, r openRequest) (opened bool) {
	t.Helper()
	got, want := o.ask(t, r), decideAs(t, dialects, v, r)
	if len(got) == 0 {
		return false
	}
	if want == nil {
		t.Fatalf("%+v is let through (%v), and Weir would refuse it", r, got)
	}
	model, _ := strconv.Unquote(r.model)
	facts := map[string]string{
		wire.KeyRoute: want.rule.Name, wire.KeyConsumer: want.id.Consumer, wire.KeyTenant: want.id.Tenant, wire.KeyCredential: want.id.Credential,
		wire.KeyModel: model, wire.KeyDialect: want.dialect, wire.KeyOperation: string(want.endpoint.Op), wire.KeyOpen: "true",
		wire.PathHeader: want.endpoint.Path,
	}
	for k, w := range facts {
		if got[k] != w {
			t.Errorf("%+v: %s is %q, want %q", r, k, got[k], w)
		}
	}
	var lines []string
	for _, h := range r.headers {
		if h[0] == wire.TraceHeader {
			lines = append(lines, h[1])
		}
	}
	begun := trace.Begin(strings.Join(lines, ","), func(string) bool { return false })
	place := trace.Parse(got[wire.KeyTrace], got[wire.KeyTraceFlags], got[wire.KeyTraceParent])
	if place.Span == "" || place.Parent != begun.Parent || place.Sampled != begun.Sampled || begun.Parent != "" && place.Trace != begun.Trace {
		t.Errorf("%+v: its place in the trace is %+v, want one as %+v", r, place, begun)
	}
	if removed := got["removed "+wire.TraceStateHeader] != ""; removed != (begun.Parent == "") {
		t.Errorf("%+v: %s is removed: %v", r, wire.TraceStateHeader, removed)
	}
	route := v.Routes.Get(got[wire.RuleHeader])
	if route == nil || route.GetName() != want.rule.Name || route.GetStatPrefix() != openStat {
		t.Fatalf("%+v goes to %q, which is %v", r, got[wire.RuleHeader], route)
	}
	asked := backendsOf(route)
	for _, c := range want.rule.Candidates {
		name := strings.TrimPrefix(c.Backend.ID, "default/")
		p := v.Pools[c.Backend.ID]
		fit := p != nil && p.FailOpen && c.Backend.Dialect.Name == want.dialect && (c.Model != "" || c.Backend.Serves(model)) && c.UpstreamModel(model) == model
		if fit != slices.Contains(asked, name) {
			t.Errorf("%+v: %s is asked: %v, should be: %v", r, name, !fit, fit)
		}
	}
	return true
}

func chatAt(path, model, key string, headers ...string) openRequest {
	r := openRequest{headers: [][2]string{{":method", "POST"}, {":path", path}, {":authority", "gateway"}, {"authorization", "Bearer " + key}}, model: strconv.Quote(model), now: noon.Add(-time.Second)}
	for i := 0; i+1 < len(headers); i += 2 {
		r.headers = append(r.headers, [2]string{headers[i], headers[i+1]})
	}
	return r
}

func TestOpen(t *testing.T) {
	v := compileText(t, openDocuments(openKeys()...))
	o, dialects := newOpener(t, v), options(t).Dialects
	without := func(r openRequest, name string) openRequest {
		r.headers = slices.DeleteFunc(slices.Clone(r.headers), func(h [2]string) bool { return h[0] == name })
		return r
	}
	stream := func(r openRequest, raw string) openRequest { r.stream = raw; return r }
	raw := func(r openRequest, model string) openRequest { r.model = model; return r }
	at := func(r openRequest, now time.Time) openRequest { r.now = now; return r }
	const chat = "/v1/chat/completions"
	for name, c := range map[string]struct {
		r    openRequest
		rule string // "": not let through
	}{
		"a model":                        {chatAt(chat, "a", openKey), "mixed"},
		"a pattern":                      {chatAt(chat, "x", openKey), "rest"},
		"a slash at the end":             {chatAt(chat+"/", "a", openKey), "mixed"},
		"two slashes":                    {chatAt(chat+"//", "a", openKey), ""},
		"a prefix":                       {chatAt("/team/v1/responses", "a", openKey), "below"},
		"an exact path":                  {chatAt("/team/v1/chat/completions", "whatever", openKey), "exact"},
		"an exact path and a slash":      {chatAt("/team/v1/chat/completions/", "whatever", openKey), "exact"},
		"no whole segment":               {chatAt("/teamwork/v1/responses", "nothing", openKey), ""},
		"upper case":                     {chatAt("/V1/chat/completions", "a", openKey), ""},
		"another method":                 {chatAt("/teams/v1/chat/completions", "nothing", openKey), ""},
		"a pool that fails closed":       {chatAt("/v1/embeddings", "a", openKey), ""},
		"the models":                     {chatAt("/v1/models", "a", openKey), ""},
		"labels":                         {chatAt(chat, "a", goldKey), "gold"},
		"a scope":                        {chatAt("/x/v1/chat/completions", "b", goldKey), "gold"},
		"a scope that is lacking":        {chatAt(chat, "b", openKey), ""},
		"a model that the caller lacks":  {chatAt(chat, "x", goldKey), ""},
		"a pattern with stars":           {chatAt(chat, "x1y2z", goldKey), "rest"},
		"a header that is not there":     {chatAt(chat, "ab", openKey), "mixed"},
		"a header that may match":        {chatAt(chat, "ab", openKey, "x-beta", "no"), ""},
		"a query":                        {chatAt(chat+"?beta=yes", "ab", openKey), ""},
		"a query that no rule reads":     {chatAt(chat+"?beta=yes", "a", openKey), "mixed"},
		"a renamed model":                {chatAt(chat, "alias", openKey), "mixed"}, // "any" takes it as it is
		"a backend with another name":    {chatAt(chat, "other", openKey), ""},
		"another dialect":                {chatAt(chat, "c", openKey), ""},
		"its dialect":                    {chatAt("/v1/messages", "c", openKey), "claude"},
		"one of several":                 {chatAt("/v1/messages", "a", openKey), "mixed"},
		"no backend of the dialect":      {chatAt("/v1/messages", "x", openKey), ""},
		"a stream":                       {stream(chatAt(chat, "a", openKey), "true"), "mixed"},
		"no stream":                      {stream(chatAt(chat, "a", openKey), "null"), "mixed"},
		"neither":                        {stream(chatAt(chat, "a", openKey), `"true"`), ""},
		"no model":                       {raw(chatAt(chat, "a", openKey), ""), ""},
		"a model that is null":           {raw(chatAt(chat, "a", openKey), "null"), ""},
		"an escape in the model":         {raw(chatAt(chat, "a", openKey), `"\u0061"`), ""},
		"a control character in it":      {raw(chatAt("/team/v1/responses", "a", openKey), "\"a\u0085\""), ""},
		"no key":                         {without(chatAt(chat, "a", ""), "authorization"), ""},
		"an unknown key":                 {chatAt(chat, "a", openKey+"x"), ""},
		"another scheme":                 {without(chatAt(chat, "a", "", "authorization", "Basic "+openKey), "x"), ""},
		"a key in a file":                {chatAt(chat, "a", marker+"-client-key-of-the-batch-job"), "mixed"},
		"a key that is easy to guess":    {chatAt(chat, "a", marker), ""},
		"a key for a network":            {chatAt(chat, "a", networkKey), ""},
		"a disabled key":                 {chatAt(chat, "a", deadKey), ""},
		"before the end":                 {at(chatAt(chat, "a", shortlyKey), noon.Add(-time.Millisecond)), "mixed"},
		"the end":                        {at(chatAt(chat, "a", shortlyKey), noon), ""},
		"two keys":                       {chatAt(chat, "a", openKey, "x-api-key", goldKey), ""},
		"one key twice":                  {chatAt(chat, "a", openKey, "x-api-key", openKey), "mixed"},
		"a header twice":                 {chatAt(chat, "a", openKey, "authorization", "Bearer "+openKey), ""},
		"an empty header":                {chatAt(chat, "a", openKey, "api-key", ""), ""},
		"an upgrade":                     {chatAt(chat, "a", openKey, "upgrade", "websocket"), ""},
		"a type with a charset":          {chatAt(chat, "a", openKey, "content-type", "application/json; charset=UTF-8"), "mixed"},
		"a type that is one of JSON":     {chatAt(chat, "a", openKey, "content-type", "application/vnd.api+json"), "mixed"},
		"another charset":                {chatAt(chat, "a", openKey, "content-type", "application/json; charset=latin1"), ""},
		"another type":                   {chatAt(chat, "a", openKey, "content-type", "text/plain"), ""},
		"compressed":                     {chatAt(chat, "a", openKey, "content-encoding", "gzip"), ""},
		"not compressed":                 {chatAt(chat, "a", openKey, "content-encoding", "Identity"), "mixed"},
		"decided, for a route that went": {chatAt(chat, "a", openKey, wire.RuleHeader, "default/r/gone#1"), ""},
	} {
		got := o.ask(t, c.r)
		if want := strings.TrimSuffix("default/r/"+c.rule, "default/r/"); c.rule != "" && got[wire.KeyRoute] != "default/r/"+c.rule || c.rule == "" && len(got) > 0 {
			t.Errorf("%s: %v, want the rule %q", name, got, want)
		}
		if !strings.Contains(name, "decided") {
			o.check(t, dialects, v, c.r)
		}
		if c.r.stream == "true" && got[wire.KeyStream] != "true" {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestOpenIsNoWider: whatever is let through, Weir would have sent to backends that include those that are asked.
func TestOpenIsNoWider(t *testing.T) {
	v := compileText(t, openDocuments(openKeys()...))
	o, dialects := newOpener(t, v), options(t).Dialects
	rng := rand.New(rand.NewPCG(5, 4))
	pick := func(list ...string) string { return list[rng.IntN(len(list))] }
	opened := 0
	for range 15000 {
		path := pick("", "", "/team", "/teams", "/team/x", "/v1", "/a//b") + pick("/v1", "/v1", "", "/v2") +
			pick("/chat/completions", "/chat/completions", "/completions", "/responses", "/embeddings", "/messages", "/messages/count_tokens", "/models", "/models/a") + pick("", "", "/", "?beta=yes", "?")
		r := chatAt(path, pick("a", "ab", "abc", "b", "c", "x", "x1y2z", "1", "alias", "other", "none"), pick(openKey, goldKey, networkKey, deadKey, shortlyKey, "unknown-key-of-some-length"))
		r.headers[0][1] = pick("POST", "POST", "POST", "GET")
		if rng.IntN(4) == 0 {
			r.headers = append(r.headers, [2]string{pick("x-beta", "anthropic-version", "x-api-key", "content-type"), pick("yes", "no", openKey, "application/json")})
		}
		for range rng.IntN(3) {
			r.headers = append(r.headers, [2]string{wire.TraceHeader, pick("00", "00", "00", "01", "ff", "0") + "-" + pick("0af7651916cd43dd8448eb211c80319c", "0af7651916cd43dd8448eb211c80319C", "00000000000000000000000000000000", "0af7") +
				"-" + pick("b7ad6b7169203331", "0000000000000000") + "-" + pick("00", "01", "03", "0g", "1") + pick("", "", "-More", "x")})
		}
		r.now = noon.Add(time.Duration(rng.IntN(3)-1) * time.Hour)
		if o.check(t, dialects, v, r) {
			opened++
		}
	}
	if opened < 500 {
		t.Errorf("only %d of 15000 requests were let through: this test shows little", opened)
	}
}

// FuzzOpen: what callers send cannot be let through unless Weir would let it in.
func FuzzOpen(f *testing.F) {
	f.Add("/v1/chat/completions", `"a"`, "Bearer "+openKey, "")
	f.Add("/team/v1/responses/?x", `"x*"`, "apikey  "+goldKey, goldKey)
	f.Add("//v1/messages", "\"\u00e9\"", openKey, "\x7f")
	v := compileText(f, openDocuments(openKeys()...))
	o, dialects := newOpener(f, v), options(f).Dialects
	f.Fuzz(func(t *testing.T, path, model, authorization, key string) {
		r := openRequest{headers: [][2]string{{":method", "POST"}, {":path", path}, {"authorization", authorization}}, model: model, now: noon}
		if key != "" {
			r.headers = append(r.headers, [2]string{"x-api-key", key})
		}
		o.check(t, dialects, v, r)
	})
}

func sha(t testing.TB) func(string) string {
	t.Helper()
	s := lua.NewState()
	t.Cleanup(s.Close)
	bitModule(s)
	if err := s.DoString(shaSource + "\nfunction run(s) return sha256(s) end"); err != nil {
		t.Fatal(err)
	}
	return func(text string) string {
		if err := s.CallByParam(lua.P{Fn: s.GetGlobal("run"), NRet: 1, Protect: true}, lua.LString(text)); err != nil {
			t.Fatal(err)
		}
		defer s.Pop(1)
		return s.Get(-1).String()
	}
}

func TestSHA256(t *testing.T) {
	run := sha(t)
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 200 { // past three blocks, so past every form of padding
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		want := sha256.Sum256(b)
		if got := run(string(b)); got != hex.EncodeToString(want[:]) {
			t.Fatalf("of %d bytes it is %s, not %x", n, got, want)
		}
	}
}

func TestLuaString(t *testing.T) {
	s := lua.NewState()
	defer s.Close()
	for _, text := range []string{"", "plain", "\"quoted\\\"\n\t\r\x00\x1f\x7f1", "é\u2028]]", "\\n"} {
		if err := s.DoString("return " + luaString(text)); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if got := s.Get(-1).String(); got != text {
			t.Errorf("%q is read as %q", text, got)
		}
		s.Pop(1)
	}
}

// TestOpenAdvice: who asks for it and does not get it is told why.
func TestOpenAdvice(t *testing.T) {
	const base = `
apiVersion: weir.dev/v1alpha1
kind: LLMGateway
metadata: {name: main}
spec: {listeners: [{name: http, address: 127.0.0.1, port: 8080}]}
---
apiVersion: weir.dev/v1alpha1
kind: Consumer
metadata: {name: plain}
spec: {}
---
apiVersion: weir.dev/v1alpha1
kind: LoadPolicy
metadata: {name: open}
spec: {failureMode: Open, targetRefs: [{kind: Backend, name: gpus}]}
---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: gpus}
spec: {dialect: %s, basePath: /v1, endpoints: [{address: 10.0.0.1, port: 8000}], models: [{name: a, upstreamName: %s}]}
---
apiVersion: weir.dev/v1alpha1
kind: Route
metadata: {name: r}
spec: {rules: [{matches: [%s], backends: [{name: gpus}]}]}
---`
	good := keyDocument("open", "plain", "hash: '"+identity.HashKey(openKey)+"'")
	for name, c := range map[string]struct {
		dialect, upstream, match, key string
		want                          []string // of each problem, in their order
	}{
		"nothing":           {"openai", "a", "{models: [a]}", good, nil},
		"renamed":           {"openai", "b", "{models: [a]}", good, []string{"no rule leads to its Backends", "they must be translated, or the model be renamed"}},
		"an outbound one":   {"dashscope", "a", "{models: [a]}", good, []string{"no rule leads to its Backends", "they must be translated, or the model be renamed"}},
		"a header":          {"openai", "a", "{models: [a], headers: [{name: x, value: z}]}", good, []string{"no rule leads to its Backends", "not headers and queryParams"}},
		"a header besides":  {"openai", "a", "{models: [a]}, {headers: [{name: x, value: z}]}", good, []string{"not headers and queryParams"}},
		"keys of a network": {"openai", "a", "{models: [a]}", strings.Replace(good, "spec: {", "spec: {allowedCIDRs: [10.0.0.0/8], ", 1), []string{"Envoy can check no APIKey"}},
		"a weak key":        {"openai", "a", "{models: [a]}", keyDocument("weak", "plain", "secretRef: {env: SHORT_SECRET}"), []string{"Envoy can check no APIKey"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, problems := Compile(load(t, fmt.Sprintf(base, c.dialect, c.upstream, c.match)+c.key), options(t))
			if source.HasErrors(problems) || len(problems) != len(c.want) {
				t.Fatalf("problems: %v", problems)
			}
			for i, want := range c.want {
				if !strings.Contains(problems[i].String(), want) {
					t.Errorf("%v, want %q", problems[i], want)
				}
			}
		})
	}
}

// TestOpenMovesNoListener: keys and rules come and go, and connections stay.
func TestOpenMovesNoListener(t *testing.T) {
	before := compileText(t, openDocuments(openKeys()...))
	after := compileText(t, openDocuments(openKeys()[:1]...))
	if openCode(t, before.Routes.Get(UndecidedKey)) == openCode(t, after.Routes.Get(UndecidedKey)) {
		t.Error("the keys are not in the code")
	}
	for name := range before.Listeners {
		if string(deterministic(before.Listeners[name])) != string(deterministic(after.Listeners[name])) {
			t.Errorf("the listener %s changes with the keys", name)
		}
	}
}
