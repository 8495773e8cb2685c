package compile

import (
	"strings"
	"testing"

	lua "github.com/yuin/gopher-lua"

	"github.com/weir-dev/weir/extproc/wire"
)

// answering is the part of Envoy's stream handle that load.lua uses. The metadata of a request outlive its attempts.
const answering = `
metadata = {}
function answer(headers)
  envoy_on_response({
    headers = function() return {get = function(_, name) return headers[name] end} end,
    streamInfo = function() return {dynamicMetadata = function() return {
      get = function(_, namespace) return metadata[namespace] end,
      set = function(_, namespace, key, value)
        metadata[namespace] = metadata[namespace] or {}
        metadata[namespace][key] = value
      end,
    } end} end,
  })
end
function noted(namespace, key) return metadata[namespace] and metadata[namespace][key] end`

// attempts passes the answers of one request through load.lua and gives what it has left of an endpoint.
func attempts(t testing.TB, from string, answers ...map[string]string) (string, bool) {
	t.Helper()
	s := lua.NewState()
	defer s.Close()
	if err := s.DoString(loadScript([]string{"retry-after", "endpoint-load-metrics"}) + answering); err != nil {
		t.Fatalf("load load.lua: %v", err)
	}
	for _, a := range answers {
		headers := &lua.LTable{}
		for k, v := range a {
			headers.RawSetString(k, lua.LString(v))
		}
		if err := s.CallByParam(lua.P{Fn: s.GetGlobal("answer"), Protect: true}, headers); err != nil {
			t.Fatalf("load.lua fails: %v", err)
		}
	}
	if err := s.CallByParam(lua.P{Fn: s.GetGlobal("noted"), NRet: 1, Protect: true}, lua.LString(wire.LoadNamespace), lua.LString(from)); err != nil {
		t.Fatal(err)
	}
	text, ok := s.Get(-1).(lua.LString)
	return string(text), ok
}

func TestSignalsOfAnswers(t *testing.T) {
	const here = "default/gpt 10.0.0.1:443"
	of := func(status string, more ...string) map[string]string {
		out := map[string]string{":status": status, fromHeader: here}
		for i := 0; i < len(more); i += 2 {
			out[more[i]] = more[i+1]
		}
		return out
	}
	elsewhere := of("200")
	elsewhere[fromHeader] = "default/other 10.0.0.2:443"
	for _, c := range []struct {
		name    string
		answers []map[string]string
		want    string // "" for nothing
	}{
		{"nothing to note", []map[string]string{of("200", "content-type", "text/plain")}, ""},
		{"a refusal", []map[string]string{of("429", "retry-after", "7")}, "429\nretry-after: 7"},
		{"both", []map[string]string{of("200", "endpoint-load-metrics", "TEXT a=1, b=2", "retry-after", "7")}, "200\nretry-after: 7\nendpoint-load-metrics: TEXT a=1, b=2"},
		{"what is not looked for", []map[string]string{of("200", "x-ratelimit-limit-tokens", "7", "retry-after", "1")}, "200\nretry-after: 1"},
		{"a refusal, and an answer elsewhere", []map[string]string{of("429", "retry-after", "7"), elsewhere}, "429\nretry-after: 7"},
		{"a refusal, and an answer by the same", []map[string]string{of("429", "retry-after", "7"), of("200")}, "200"},
		{"two refusals by the same", []map[string]string{of("429", "retry-after", "7"), of("503", "retry-after", "8")}, "503\nretry-after: 8"},
		{"bytes that no record can hold", []map[string]string{of("200", "retry-after", "7\xff", "endpoint-load-metrics", "JSON {}")}, "200\nendpoint-load-metrics: JSON {}"},
		{"line breaks", []map[string]string{of("200", "retry-after", "7\nx: y")}, ""},
		{"one that is long", []map[string]string{of("200", "endpoint-load-metrics", strings.Repeat("x", 2049))}, ""},
		{"one that is nearly", []map[string]string{of("200", "endpoint-load-metrics", strings.Repeat("x", 2048))}, "200\nendpoint-load-metrics: " + strings.Repeat("x", 2048)},
		{"of nobody", []map[string]string{{":status": "429", "retry-after": "7"}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := attempts(t, here, c.answers...)
			if got != c.want || ok != (c.want != "") {
				t.Errorf("noted %q (%v), want %q", got, ok, c.want)
			}
		})
	}
}

// FuzzSignals: whatever a backend sends, what is noted can be sent on, and reads as it was sent.
func FuzzSignals(f *testing.F) {
	f.Add("7", "TEXT kv=0.5, q=3")
	f.Add("\x80", "a\nretry-after: 9")
	f.Fuzz(func(t *testing.T, after, report string) {
		const from = "n/b [::1]:80"
		text, ok := attempts(t, from, map[string]string{":status": "200", fromHeader: from, "retry-after": after, "endpoint-load-metrics": report})
		if strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && (r < ' ' || r > '~') }) {
			t.Errorf("%q and %q are noted as %q", after, report, text)
		}
		if !ok {
			return
		}
		l, ok := wire.ParseLoad(from, text)
		if !ok {
			t.Fatalf("%q cannot be read", text)
		}
		for name, sent := range map[string]string{"retry-after": after, "endpoint-load-metrics": report} {
			if got := l.Header(name); got != "" && got != sent {
				t.Errorf("%s: %q is read as %q", name, sent, got)
			}
		}
	})
}
