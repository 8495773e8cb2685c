package compile

import (
	"golang.org/x/sys/unix"

	"bytes"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/internal/trace"
)

// secretKey is the caller's.
const secretKey = "sk-7f3a9c52e1"

// call is a request that lanes are for, unless a test says otherwise.
type call struct {
	path   string
	method string
	body   string
	header http.Header // adds to the credential and the content type; nil values take away
	host   string
}

// plainBody has room for more before its size is another: 64 to 127 bytes are one.
const plainBody = `{"model":"m","messages":[{"role":"user","content":"hi, how do you do today?"}]}`

// answered is what came of a call.
type answered struct {
	header http.Header
	body   string
	sent   map[string]string // to the backend
	record *datav3.HTTPAccessLogEntry
	asked  bool
}

// fact is one of the decision, as the record has it.
func (a *answered) fact(key string) string { return a.facts(wire.DecisionNamespace)[key] }

// facts are those of a namespace; where the call went through a lane, those that stand together are taken apart.
func (a *answered) facts(namespace string) map[string]string {
	out := map[string]string{}
	put := func(fields map[string]*structpb.Value) {
		for key, v := range fields {
			out[key] = fmt.Sprint(v.AsInterface())
		}
	}
	fields := a.record.GetCommonProperties().GetMetadata().GetFilterMetadata()[namespace].GetFields()
	put(fields)
	if ahead := fields[wire.KeyAhead].GetStructValue(); ahead != nil {
		delete(out, wire.KeyAhead)
		put(ahead.GetFields())
		lines := strings.Split(out[wire.KeyRest], "\n")
		delete(out, wire.KeyRest)
		for i := 0; i+1 < len(lines); i += 2 {
			out[lines[i]] = lines[i+1]
		}
	}
	return out
}

// native says whether the call went through a lane, and complains where the signs of it do not agree.
func (a *answered) native(t *testing.T) bool {
	t.Helper()
	native := a.fact(wire.KeyNative) == "true"
	if native == a.asked || native != (a.facts(wire.PeekNamespace)[wire.PeekID] == "") {
		t.Errorf("Weir was asked: %v; the record says %v and %v", a.asked, a.facts(wire.DecisionNamespace), a.facts(wire.PeekNamespace))
	}
	return native
}

// do sends a call and waits for its record.
func (d *door) do(t *testing.T, c call) *answered {
	t.Helper()
	id := fmt.Sprintf("call-%d", d.calls.Add(1))
	path, method, body := c.path, c.method, c.body
	if path == "" {
		path = "/v1/chat/completions"
	}
	if method == "" {
		method = http.MethodPost
	}
	if body == "" {
		body = plainBody
	}
	req, err := http.NewRequest(method, d.url+path, strings.NewReader(body))
	must(t, err)
	req.Host = c.host
	req.Header = http.Header{"Authorization": {"Bearer " + secretKey}, "Content-Type": {"application/json"}, "X-Request-Id": {id}, "Accept-Encoding": {"identity"}}
	maps.Copy(req.Header, c.header)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	must(t, err)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", resp.Status, raw)
	}
	a := &answered{header: resp.Header, body: string(raw), sent: sentTo(raw)}
	d.eventually("the record of "+id, func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		a.record, a.asked = d.records[id], d.questions[id] != nil
		return a.record != nil
	})
	return a
}

// grant has the decisions about all requests carry this ticket, and begins the lane.
func (d *door) grant(t *testing.T, ticket string, more map[string]string, like call) {
	t.Helper()
	d.offer(ticket, more)
	if d.do(t, like).native(t) {
		t.Fatal("the first request is in a lane")
	}
}

func (d *door) offer(ticket string, more map[string]string) {
	facts := d.lane(ticket)
	facts[wire.KeyExchange] = "asked"
	maps.Copy(facts, more)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.decide = func(*question) reply { return reply{facts: facts} }
}

// TestLane: a request in a lane has what the decision said, and what is its own.
func TestLane(t *testing.T) {
	d := newDoor(t, doorOptions{})
	said := map[string]string{
		wire.KeyVersion: "v1", wire.KeyConsumer: "app", wire.KeyTenant: "acme", wire.KeyCredential: "key default/app", wire.KeyOperation: "chat",
		wire.KeyModel: "m", wire.KeyRoute: "default/all", wire.KeyDialect: "openai", wire.KeyLimitRequests: "100", wire.KeyLimitTokens: "5000",
	}
	first := maps.Clone(said)
	maps.Copy(first, map[string]string{
		wire.KeyTrace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333", wire.KeyTraceFlags: "-01", wire.KeyTraceParent: "b7ad6b7169203331",
		wire.KeyRemainingRequests: "99", wire.KeyResetRequests: "1", wire.KeyRemainingTokens: "4999", wire.KeyResetTokens: "2",
	})
	ticket := d.file.open(4095, math.MaxUint32, 3)
	d.file.limits(4095, 42, 60, 1000, 7, 400)
	d.grant(t, ticket, first, call{})

	exchanges := map[string]bool{}
	for n := 1; n <= 3; n++ {
		a := d.do(t, call{})
		if !a.native(t) {
			t.Fatalf("request %d is asked for", n)
		}
		left := max(0, 1000-400*n)
		want := maps.Clone(said)
		maps.Copy(want, map[string]string{
			wire.KeyNative: "true", wire.KeyExchange: lanePrefix(4095, math.MaxUint32) + strconv.Itoa(n), wire.KeyTraceFlags: "-01", wire.KeyTrace: a.fact(wire.KeyTrace),
			wire.KeyRemainingRequests: strconv.Itoa(42 - n), wire.KeyResetRequests: "60", wire.KeyRemainingTokens: strconv.Itoa(left), wire.KeyResetTokens: "7",
		})
		if got := a.facts(wire.DecisionNamespace); !maps.Equal(got, want) {
			t.Errorf("request %d: got %v\nwant %v", n, got, want)
		}
		if got := a.facts(wire.PeekNamespace); len(got) > 0 {
			t.Errorf("request %d: nobody reads %v", n, got)
		}
		for name, value := range map[string]string{
			wire.RouteHeader: "default/all", wire.BackendHeader: "default/a", wire.KeyLimitRequests: "100", wire.KeyRemainingRequests: strconv.Itoa(42 - n),
			wire.KeyResetRequests: "60", wire.KeyRemainingTokens: strconv.Itoa(left), wire.KeyResetTokens: "7",
		} {
			if got := a.header.Get(name); got != value {
				t.Errorf("request %d: the answer says %s: %q, want %q", n, name, got, value)
			}
		}
		if a.sent[":path"] != "/v1/chat/completions" || a.sent[":body"] != plainBody || a.sent["authorization"] != "" || a.sent[wire.RuleHeader] != "" || a.sent[wire.PathHeader] != "" {
			t.Errorf("request %d: the backend gets %v", n, a.sent)
		}
		if used := d.file.used(4095).Load(); used != uint32(n) {
			t.Errorf("request %d: %d are counted", n, used)
		}
		exchanges[a.fact(wire.KeyExchange)] = true
		d.mu.Lock()
		for _, e := range d.records {
			if strings.Contains(e.String(), secretKey) {
				t.Errorf("the credential is in %v", e)
			}
		}
		d.mu.Unlock()
	}
	if a := d.do(t, call{}); a.native(t) || d.file.used(4095).Load() != 3 || a.facts(wire.PeekNamespace)[wire.PeekLane] != "true" {
		t.Errorf("one too many: %v", a.record)
	}
	d.file.granted(4095).Store(4)
	if a := d.do(t, call{}); !a.native(t) || a.fact(wire.KeyExchange) != lanePrefix(4095, math.MaxUint32)+"4" {
		t.Error("one more is let in, and asked for")
	}
}

// TestLaneFacts: what Envoy reads of the facts has a key of its own, and everything else is one text, but for what would not be told apart
// in it.
func TestLaneFacts(t *testing.T) {
	d := newDoor(t, doorOptions{})
	said := map[string]string{
		wire.KeyRoute: "r", wire.KeyDialect: "openai", wire.KeyLimitRequests: "100", wire.KeyModel: "m", wire.KeyTenant: "", wire.KeyConsumer: "two\nlines",
	}
	d.grant(t, d.file.open(0, 1, 10), said, call{})
	a := d.do(t, call{})
	want := maps.Clone(said)
	maps.Copy(want, map[string]string{
		wire.KeyNative: "true", wire.KeyExchange: lanePrefix(0, 1) + "1", wire.KeyTrace: a.fact(wire.KeyTrace), wire.KeyTraceFlags: "-01",
	})
	if got := a.facts(wire.DecisionNamespace); a.asked || !maps.Equal(got, want) {
		t.Errorf("asked %v, got %v\nwant %v", a.asked, got, want)
	}
	fields := a.record.GetCommonProperties().GetMetadata().GetFilterMetadata()[wire.DecisionNamespace].GetFields()
	keys := slices.Sorted(maps.Keys(fields[wire.KeyAhead].GetStructValue().GetFields()))
	if len(fields) != 1 || !slices.Equal(keys, []string{wire.KeyConsumer, wire.KeyDialect, wire.KeyRest, wire.KeyRoute, wire.KeyTrace, wire.KeyTraceFlags, wire.KeyLimitRequests}) {
		t.Errorf("the record has %d facts, and together %v", len(fields), keys)
	}
}

// TestLaneEnds: what Weir takes back, and what is over, is not used; the next ticket is.
func TestLaneEnds(t *testing.T) {
	d := newDoor(t, doorOptions{})
	generation := uint32(0)
	for name, end := range map[string]func(slot int){
		"revoked":            func(slot int) { d.file.granted(slot).Store(0) },
		"another generation": func(slot int) { d.file.generation(slot).Add(1) },
		"free":               func(slot int) { d.file.generation(slot).Store(0) },
		"Weir stands still":  func(int) { d.file.alive(time.Now().Add(-time.Second)) },
		"dead":               func(int) { d.file.lock(t, unix.F_UNLCK) },
		"Weir never was":     func(int) { d.file.number(8, math.NaN()) },
	} {
		t.Run(name, func(t *testing.T) {
			generation++
			d.grant(t, d.file.open(1, generation, 10), nil, call{})
			if !d.do(t, call{}).native(t) {
				t.Fatal("there is no lane")
			}
			end(1)
			if d.do(t, call{}).native(t) {
				t.Error("it goes on")
			}
			if used := d.file.used(1).Load(); used != 1 {
				t.Errorf("%d are counted", used)
			}
			d.file.alive(time.Now().Add(time.Hour))
			d.file.lock(t, unix.F_WRLCK)
			d.grant(t, d.file.open(2, generation, 10), nil, call{path: "/v1/chat/completions?" + name[:1]})
			if !d.do(t, call{path: "/v1/chat/completions?" + name[:1]}).native(t) {
				t.Error("no further lane begins")
			}
			d.file.granted(2).Store(0)
		})
	}
}

// TestLaneBadTickets: what is no ticket begins no lane.
func TestLaneBadTickets(t *testing.T) {
	d := newDoor(t, doorOptions{})
	d.file.open(0, 1, 10)
	for i, more := range []map[string]string{
		{wire.KeyLane: ""}, {wire.KeyLane: "0:1"}, {wire.KeyLane: "4096:1:x"}, {wire.KeyLane: "-1:1:x"}, {wire.KeyLane: "5:0:x"}, {wire.KeyLane: "a:1:x"},
	} {
		like := call{path: fmt.Sprintf("/v1/chat/completions?n=%d", i)}
		d.grant(t, "", more, like)
		if d.do(t, like).native(t) {
			t.Errorf("%v begins a lane", more)
		}
	}
}

// TestLaneKeys: requests that differ in anything that a decision depends on are asked for.
func TestLaneKeys(t *testing.T) {
	d := newDoor(t, doorOptions{})
	vary := map[string]string{wire.KeyLaneVary: "x-team,anthropic-version"}
	d.offer(d.file.open(9, 5, 1000), vary)
	d.do(t, call{}) // after which the door knows the headers
	d.grant(t, d.file.open(9, 5, 1000), vary, call{})
	like := `{"model":"m","n":1,"max_tokens":5,"stream":false,"messages":[]}`
	sized := func(n int) string { return `{"model":"m","a":"` + strings.Repeat("a", n-20) + `"}` }
	header := func(kv ...string) http.Header {
		h := http.Header{}
		for i := 0; i < len(kv); i += 2 {
			h.Add(kv[i], kv[i+1])
		}
		return h
	}
	d.grant(t, d.file.open(9, 5, 1000), vary, call{body: like})
	d.decide = func(*question) reply { return reply{} } // from now on none begins
	for name, c := range map[string]struct {
		call
		native bool
	}{
		"the same":                    {call{}, true},
		"another text":                {call{body: strings.Replace(plainBody, "hi", "ho", 1)}, true},
		"another size, not much":      {call{body: strings.Replace(plainBody, "hi", "hello", 1)}, true},
		"another order":               {call{body: `{"messages":[{"role":"user","content":"hi, how do you do today?"}],"model":"m"}`}, true},
		"another header":              {call{header: header("X-Other", "1")}, true},
		"another host":                {call{host: "other.example"}, true},
		"the largest of that size":    {call{body: sized(127)}, true},
		"the smallest of that size":   {call{body: sized(64)}, true},
		"a smaller size":              {call{body: sized(63)}, false},
		"a larger size":               {call{body: sized(128)}, false},
		"another model":               {call{body: strings.Replace(plainBody, `"m"`, `"n"`, 1)}, false},
		"model in other letters":      {call{body: strings.Replace(plainBody, `"m"`, `"\u006d"`, 1)}, false},
		"a stream":                    {call{body: strings.Replace(plainBody, `{`, `{"stream":true,`, 1)}, false},
		"no stream":                   {call{body: strings.Replace(plainBody, `{`, `{"stream":false,`, 1)}, false},
		"n":                           {call{body: strings.Replace(plainBody, `{`, `{"n":1,`, 1)}, false},
		"max_tokens":                  {call{body: strings.Replace(plainBody, `{`, `{"max_tokens":1,`, 1)}, false},
		"max_completion_tokens":       {call{body: strings.Replace(plainBody, `{`, `{"max_completion_tokens":1,`, 1)}, false},
		"max_output_tokens":           {call{body: strings.Replace(plainBody, `{`, `{"max_output_tokens":1,`, 1)}, false},
		"numbers, the same":           {call{body: like}, true},
		"another n":                   {call{body: strings.Replace(like, `"n":1`, `"n":2`, 1)}, false},
		"another max_tokens":          {call{body: strings.Replace(like, `:5`, `:6`, 1)}, false},
		"the other numbers":           {call{body: strings.Replace(like, `max_tokens`, `max_output_tokens`, 1)}, false},
		"another path":                {call{path: "/v1/completions"}, false},
		"a query":                     {call{path: "/v1/chat/completions?a=b"}, false},
		"another method":              {call{method: http.MethodPut}, false},
		"another key":                 {call{header: header("Authorization", "Bearer other")}, false},
		"the key elsewhere":           {call{header: header("Authorization", "", "X-Api-Key", secretKey)}, false},
		"a second key":                {call{header: header("X-Api-Key", "x")}, false},
		"another second key":          {call{header: header("Api-Key", "x")}, false},
		"a third key":                 {call{header: header("X-Goog-Api-Key", "x")}, false},
		"an empty key":                {call{header: header("X-Api-Key", "")}, false},
		"another content type":        {call{header: header("Content-Type", "application/json; charset=utf-8")}, false},
		"no content type":             {call{header: http.Header{"Content-Type": nil}}, false},
		"a header that decides":       {call{header: header("X-Team", "a")}, false},
		"an empty header that is one": {call{header: header("X-Team", "")}, false},
		"another header that decides": {call{header: header("Anthropic-Version", "a")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if native := d.do(t, c.call).native(t); native != c.native {
				t.Errorf("in a lane: %v", native)
			}
		})
	}
	t.Run("new headers decide", func(t *testing.T) {
		d.offer(d.file.open(10, 1, 1000), map[string]string{wire.KeyLaneVary: "x-other"})
		d.do(t, call{path: "/v1/chat/completions?new"}) // after which the door knows them, and forgets what it knew
		if d.do(t, call{}).native(t) {
			t.Error("a lane of the old headers goes on")
		}
		if !d.do(t, call{}).native(t) || d.do(t, call{header: header("X-Other", "1")}).native(t) {
			t.Error("the new headers do not count")
		}
		if !d.do(t, call{header: header("X-Other", "1", "X-Team", "z")}).native(t) {
			t.Error("the old ones count still")
		}
	})
}

// TestLaneNever: what no lane is for is asked for, and Weir is not told that it could be.
func TestLaneNever(t *testing.T) {
	d := newDoor(t, doorOptions{})
	picture := `{"model":"m","messages":[{"content":[{"image_url":{"url":"data:image/png;base64,` + strings.Repeat("iVBORw0KGgo", 1000) + `"}}]}]}`
	for name, c := range map[string]call{
		"media":                 {body: picture},
		"no model":              {body: `{"messages":[]}`},
		"no JSON":               {body: `{`},
		"encoded":               {header: http.Header{"Content-Encoding": {"identity"}}},
		"two keys in two lines": {header: http.Header{"Authorization": {"Bearer a", "Bearer b"}}},
		"two keys in one":       {header: http.Header{"X-Api-Key": {"a,b"}}},
		"content types":         {header: http.Header{"Content-Type": {"application/json", "a/b+json"}}},
		"a long key":            {header: http.Header{"X-Api-Key": {strings.Repeat("a", 4096)}}},
		"two hosts":             {host: "a.example,b.example"},
	} {
		t.Run(name, func(t *testing.T) {
			d.grant(t, d.file.open(0, 1, 10), nil, c)
			a := d.do(t, c)
			if a.native(t) || a.facts(wire.PeekNamespace)[wire.PeekLane] != "" {
				t.Errorf("it is in a lane, or could be: %v", a.record.GetCommonProperties().GetMetadata())
			}
		})
	}
}

var newTrace = regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{15}$`)

// TestLaneTrace: a request in a lane has the place in a trace that trace.Begin would give it.
func TestLaneTrace(t *testing.T) {
	const (
		tid = "0af7651916cd43dd8448eb211c80319c"
		sid = "b7ad6b7169203331"
	)
	for sample, sampled := range map[string]bool{"1": true, "0": false} {
		d := newDoor(t, doorOptions{})
		d.grant(t, d.file.open(0, 1, 1000), map[string]string{wire.KeyLaneSample: sample}, call{})
		seen := map[string]bool{}
		for _, lines := range [][]string{
			nil,
			{"00-" + tid + "-" + sid + "-01"},
			{"00-" + tid + "-" + sid + "-00"},
			{"00-" + tid + "-" + sid + "-ff"},
			{"00-" + tid + "-" + sid + "-02"},
			{"00-" + tid + "-" + sid + "-0b"},
			{"cc-" + tid + "-" + sid + "-01-what-the-future-brings"},
			{"cc-" + tid + "-" + sid + "-01x"},
			{"00-" + tid + "-" + sid + "-01-more"},
			{"ff-" + tid + "-" + sid + "-01"},
			{"00-" + strings.ToUpper(tid) + "-" + sid + "-01"},
			{"00-" + strings.Repeat("0", 32) + "-" + sid + "-01"},
			{"00-" + tid + "-" + strings.Repeat("0", 16) + "-01"},
			{"00-" + tid + "-" + sid},
			{"00-" + tid + "-" + sid + "-0g"},
			{""},
			{"nonsense"},
			{"00-" + tid + "-" + sid + "-01", "00-" + tid + "-" + sid + "-01"},
			{"cc-" + tid + "-" + sid + "-01", "00-" + tid + "-" + sid + "-01"},
		} {
			want := trace.Begin(strings.Join(lines, ","), func(string) bool { return sampled })
			a := d.do(t, call{header: http.Header{"Traceparent": lines}})
			if !a.native(t) {
				t.Fatalf("%q is asked for", lines)
			}
			got := trace.Parse(a.fact(wire.KeyTrace), a.fact(wire.KeyTraceFlags), a.fact(wire.KeyTraceParent))
			if !newTrace.MatchString(a.fact(wire.KeyTrace)) || got.Parent != want.Parent || got.Sampled != want.Sampled || (want.Parent != "" && got.Trace != want.Trace) {
				t.Errorf("%q: got %+v, want %+v", lines, got, want)
			}
			if sent := a.sent[wire.TraceHeader]; sent != "00-"+got.Trace+"-"+got.Span+"1"+got.Flags() {
				t.Errorf("%q: the backend gets %q of %+v", lines, sent, got)
			}
			if seen[got.Span] || seen[got.Trace] && want.Parent == "" {
				t.Errorf("%q: %+v was there before", lines, got)
			}
			seen[got.Span], seen[got.Trace] = true, true
			// What others say of a trace goes on in that trace only, which Weir sees to.
			a = d.do(t, call{header: http.Header{"Traceparent": lines, "Tracestate": {"a=b"}}})
			if a.native(t) != (want.Parent != "") || want.Parent != "" && a.sent[wire.TraceStateHeader] != "a=b" {
				t.Errorf("%q with a tracestate: asked for %v, sent %q", lines, a.asked, a.sent[wire.TraceStateHeader])
			}
		}
	}
}

// TestLaneSampling: about as many traces are sampled as are to be.
func TestLaneSampling(t *testing.T) {
	d := newDoor(t, doorOptions{})
	d.grant(t, d.file.open(0, 1, 1000), map[string]string{wire.KeyLaneSample: "0.25"}, call{})
	sampled := 0
	for range 400 {
		if d.do(t, call{}).fact(wire.KeyTraceFlags) == "-01" {
			sampled++
		}
	}
	if sampled < 50 || sampled > 160 { // less likely than one in 10^8
		t.Errorf("%d of 400", sampled)
	}
}

// TestLaneStream: the usage of a stream in a lane is asked for, counted, and taken out again; that of one whose caller asked stays.
func TestLaneStream(t *testing.T) {
	d := newDoor(t, doorOptions{})
	body := `{"model":"m","stream":true}`
	d.grant(t, d.file.open(0, 1, 1000), nil, call{body: body})
	for range 3 {
		a := d.do(t, call{body: body})
		if !a.native(t) || strings.Contains(a.body, "usage") || !strings.HasSuffix(a.body, "data: [DONE]\n\n") {
			t.Errorf("asked %v: %q", a.asked, a.body)
		}
		if a.facts(wire.PeekNamespace)[wire.PeekHide] != "true" {
			t.Errorf("the record has %v", a.facts(wire.PeekNamespace))
		}
		if raw := a.record.GetCommonProperties().GetMetadata().GetTypedFilterMetadata()[wire.TokenUsageNamespace].GetValue(); len(raw) == 0 {
			t.Error("nothing is counted")
		}
	}
	asking := `{"model":"m","stream":true,"stream_options":{"include_usage":true}}`
	d.grant(t, d.file.open(1, 1, 1000), nil, call{body: asking})
	if a := d.do(t, call{body: asking}); !a.native(t) || !strings.Contains(a.body, `"usage":{"prompt_tokens":3`) {
		t.Errorf("asked %v: %q", a.asked, a.body)
	}
}

// TestAskedInFull: on a route whose requests need not ask, the answer of one that was asked for still goes to Weir, if Weir wants it.
func TestAskedInFull(t *testing.T) {
	d := newDoor(t, doorOptions{})
	for _, wanted := range []bool{true, false} {
		d.decide = func(*question) reply {
			r := reply{facts: map[string]string{wire.KeyRoute: "default/all"}}
			if wanted {
				r.mode = &filterv3.ProcessingMode{ResponseHeaderMode: filterv3.ProcessingMode_SEND}
			}
			return r
		}
		a := d.do(t, call{})
		id := a.record.GetRequest().GetRequestId()
		d.mu.Lock()
		if !a.asked || d.answers[id] != wanted {
			t.Errorf("asked %v, the answer was sent: %v, want %v", a.asked, d.answers[id], wanted)
		}
		d.mu.Unlock()
	}
}

// TestLaneWorkers: each Lua state has a name, and uses its own lanes alone.
func TestLaneWorkers(t *testing.T) {
	d := newDoor(t, doorOptions{workers: 2})
	slots := map[string]int{} // by the name of the state
	d.decide = func(q *question) reply {
		id := q.text(wire.PeekID)
		state := id[:strings.LastIndexByte(id, '-')]
		if _, known := slots[state]; !known {
			slots[state] = len(slots)
			d.file.open(slots[state], 1, math.MaxUint32)
		}
		facts := d.lane(fmt.Sprintf("%d:1:%s-", slots[state], state))
		facts[wire.KeyExchange] = id
		return reply{facts: facts}
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // a worker for each connection
	d.eventually("both workers have a lane", func() bool {
		d.fire(t, client)
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(slots) == 2 && d.file.used(0).Load() > 10 && d.file.used(1).Load() > 10
	})
	d.eventually("the records", func() bool { d.mu.Lock(); defer d.mu.Unlock(); return len(d.records) == int(d.calls.Load()) })
	got := map[string]uint32{}
	for _, e := range d.records {
		if facts := (&answered{record: e}).facts(wire.DecisionNamespace); facts[wire.KeyNative] == "true" {
			state, _, _ := strings.Cut(facts[wire.KeyExchange], "-")
			got[state]++
		}
	}
	for state, slot := range slots {
		if got[state] != d.file.used(slot).Load() || len(state) != 16 {
			t.Errorf("the state %s used %d, and has %d records", state, d.file.used(slot).Load(), got[state])
		}
	}
}

// fire sends one plain call and looks at nothing but its status.
func (d *door) fire(t *testing.T, client *http.Client) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, d.url+"/v1/chat/completions", strings.NewReader(plainBody))
	must(t, err)
	req.Header.Set("Authorization", "Bearer "+secretKey)
	req.Header.Set("X-Request-Id", fmt.Sprintf("call-%d", d.calls.Add(1)))
	resp, err := client.Do(req)
	if err != nil {
		t.Error(err)
		return
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("%s: %v", resp.Status, err)
	}
}

// TestLaneRace: while lanes are taken back and begin anew, every use that counts is one request, and every request one use.
func TestLaneRace(t *testing.T) {
	const connections, each = 64, 60
	d := newDoor(t, doorOptions{workers: 2})
	type held struct {
		slot       int
		generation uint32
		used       uint32 // when it was taken back
	}
	live := map[string]*held{} // by the name of the state
	var over []*held
	slots, voids := 0, map[string]bool{}
	d.decide = func(q *question) reply {
		if id := q.text(wire.PeekVoid); id != "" {
			voids[id] = true
		}
		id := q.text(wire.PeekID)
		state := id[:strings.LastIndexByte(id, '-')]
		l := live[state]
		if l == nil {
			l = &held{slot: slots, generation: uint32(slots + 1)} // a slot is not used again so soon
			slots++
			d.file.open(l.slot, l.generation, 40)
			live[state] = l
		}
		d.file.granted(l.slot).Add(1)
		facts := d.lane(fmt.Sprintf("%d:%d:%s", l.slot, l.generation, lanePrefix(l.slot, l.generation)))
		facts[wire.KeyExchange] = id
		return reply{facts: facts}
	}
	revoke := func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, l := range live {
			d.file.granted(l.slot).Store(0)
		}
		for from := time.Now(); time.Since(from) < 100*time.Microsecond; { // until what was written before has been seen
		}
		for _, l := range live {
			l.used = d.file.used(l.slot).Load()
			over = append(over, l)
		}
		clear(live)
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections}}
	t.Cleanup(client.CloseIdleConnections)
	var callers, revoker sync.WaitGroup
	done := make(chan struct{})
	revoker.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
				revoke()
			}
		}
	})
	for range connections {
		callers.Go(func() {
			for range each {
				d.fire(t, client)
			}
		})
	}
	callers.Wait()
	close(done)
	revoker.Wait()
	revoke()
	d.eventually("the records", func() bool { d.mu.Lock(); defer d.mu.Unlock(); return len(d.records) == connections*each })

	uses, natives := map[string]bool{}, 0
	for id := range voids {
		uses[id] = true
	}
	for _, e := range d.records {
		facts := (&answered{record: e}).facts(wire.DecisionNamespace)
		if facts[wire.KeyNative] != "true" {
			continue
		}
		natives++
		if uses[facts[wire.KeyExchange]] {
			t.Errorf("%s is twice there, or void", facts[wire.KeyExchange])
		}
		uses[facts[wire.KeyExchange]] = true
	}
	counted := 0
	for _, l := range over {
		for n := uint32(1); n <= d.file.used(l.slot).Load(); n++ {
			counted++
			id := lanePrefix(l.slot, l.generation) + fmt.Sprint(n)
			if !uses[id] {
				t.Errorf("%s is counted, and there is no record of it", id)
			}
			if n > l.used && !voids[id] {
				t.Errorf("%s came after its lane was taken back", id)
			}
		}
	}
	if counted != len(uses) || int64(natives)+d.asked.Load() != connections*each || natives == 0 || len(over) < 3 {
		t.Errorf("%d uses are counted and %d told of; %d native and %d asked of %d; %d lanes", counted, len(uses), natives, d.asked.Load(), connections*each, len(over))
	}
}

// TestNoLaneFile: where the file is not what it should be, all is as without lanes.
func TestNoLaneFile(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"none":           os.Remove,
		"too short":      func(path string) error { return os.Truncate(path, laneHead+laneSlot*laneSlots-1) },
		"empty":          func(path string) error { return os.Truncate(path, 0) },
		"no folder":      func(path string) error { return os.Rename(filepath.Dir(path), filepath.Dir(path)+"-was") },
		"another magic":  func(path string) error { return overwrite(path, 0, 'x') },
		"another layout": func(path string) error { return overwrite(path, 4, 9) },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDoor(t, doorOptions{spoil: spoil})
			for range 3 {
				d.offer(fmt.Sprintf("0:1:%s", lanePrefix(0, 1)), nil)
				a := d.do(t, call{})
				if a.native(t) || a.facts(wire.PeekNamespace)[wire.PeekLane] != "" {
					t.Errorf("there are lanes: %v", a.record.GetCommonProperties().GetMetadata())
				}
			}
		})
	}
}

func overwrite(path string, at int64, b byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt([]byte{b}, at)
	return err
}

// TestLanesAreCompiled where the process has a file for them and the gateway does not say no. All else is the same.
func TestLanesAreCompiled(t *testing.T) {
	compiled := func(documents, file string) *Version {
		opts := options(t)
		opts.LaneFile = file
		v, problems := Compile(load(t, documents), opts)
		if v == nil {
			t.Fatal(problems)
		}
		return v
	}
	bytesOf := func(v *Version) []byte {
		return slices.Concat(allBytes(v.Listeners), allBytes(maps.Collect(v.Clusters.All())), allBytes(maps.Collect(v.Routes.All())))
	}
	minimal := goldens(t)["minimal"]
	off := strings.Replace(minimal, "\nspec:\n  listeners", "\nspec:\n  nativeLane: Disabled\n  listeners", 1)
	plain := bytesOf(compiled(minimal, ""))
	if got := bytesOf(compiled(off, "/run/weir/lanes")); !bytes.Equal(got, plain) {
		t.Error("nativeLane: Disabled leaves something")
	}
	v := compiled(minimal, `/run/"we\ir"/lanes`)
	if got := bytesOf(v); !bytes.Contains(got, []byte(`"/run/\"we\\ir\"/lanes"`)) || bytes.Equal(got, plain) {
		t.Error("the door does not know the file")
	}
	for key, r := range v.Routes.All() {
		direct := r.GetRoute().GetPathRewrite() != ""
		if asks := r.GetTypedPerFilterConfig()[decideFilter] == nil; asks == direct {
			t.Errorf("direct: %v, asks: %v: the route %s", direct, asks, key)
		}
	}
	if keys, without := namesOf(v.Routes), namesOf(compiled(off, "").Routes); slices.Equal(keys, without) {
		t.Error("routes that ask and routes that do not have the same keys")
	}
}
