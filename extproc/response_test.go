package extproc

import (
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/proto"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/message"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage"
)

// TestResponseIsSentAsItReads: what the process itself reads of its answers is what Envoy reads.
func TestResponseIsSentAsItReads(t *testing.T) {
	direct, common := newOnward()
	common.ClearRouteCache = true
	common.HeaderMutation = &extprocv3.HeaderMutation{SetHeaders: []*corev3.HeaderValueOption{header("x-weir-rule", "r"), header("x-empty", "")}}
	direct.tell(wire.DecisionNamespace, facts{{wire.KeyModel, "m"}, {wire.KeyEndpoints, ""}, {wire.KeyRoute, "a"}, {wire.KeyRoute, "b"}})
	d, ok := dialects(t).Get("openai")
	if !ok {
		t.Fatal("there is no dialect openai")
	}
	attempt, _ := newOnward()
	attempt.tell(wire.AttemptNamespace, facts{{wire.KeyContentLength, "12"}})
	for name, r := range map[string]*response{
		"onward": direct, "attempt": attempt, "untouched": plain(untouched()), "trailers": plain(trailers()),
		"refused": refusal(&d, &canon.Error{Kind: canon.ErrRateLimit, Message: "No.", RetryAfter: time.Second, Policy: "p"}, "req-1", facts{{wire.KeyVersion, "v1"}}),
		"given":   immediate(200, nil, []byte("{}"), "weir_models", &d, nil),
	} {
		data, err := usage.Codec().Marshal(r)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want := proto.CloneOf(r.ProcessingResponse)
		want.DynamicMetadata = r.GetDynamicMetadata()
		got := new(extprocv3.ProcessingResponse)
		if err := proto.Unmarshal(data.Materialize(), got); err != nil || !proto.Equal(got, want) {
			t.Errorf("%s: sent %v, %v, want %v", name, got, err, want)
		}
	}
	fields := direct.GetDynamicMetadata().GetFields()[wire.DecisionNamespace].GetStructValue().GetFields()
	if len(fields) != 2 || fields[wire.KeyRoute].GetStringValue() != "b" || plain(nil) != nil || plain(untouched()).GetDynamicMetadata() != nil {
		t.Error("facts are not what was told")
	}
}

// TestBrokenMessages end the exchange with an error, which Envoy takes for no answer; an exchange that asks nothing is none.
func TestBrokenMessages(t *testing.T) {
	s := New(testOptions(t, func() time.Time { return t0 }, newMemoryLedger()))
	r := newRules(t)
	r.add("direct", models("gpt-4o"), choice{"openai", ""})
	s.Use(r.build())
	sound := encoded(t, requestHeaders(chatHeaders(), asks("gpt-4o", false)))[0]
	for name, c := range map[string]struct {
		raw [][]byte
		err string // "" for none
	}{
		"nothing is asked": {nil, ""},
		"no message":       {[][]byte{{0xff}}, "a message of Envoy cannot be read"},
		"cut short":        {[][]byte{sound[:len(sound)-1]}, "a message of Envoy cannot be read"},
		"an empty one":     {[][]byte{{}}, "expected request headers, got nothing"},
		"a body":           {encoded(t, bodyOf("{}")), "expected request headers, got a request body"},
		"sound":            {[][]byte{sound}, ""},
	} {
		sc := wireScript{raw: c.raw}
		err := s.Process(&sc)
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: error %v, want %q", name, err, c.err)
		}
		if answered := len(sc.sent) > 0; answered != (name == "sound") {
			t.Errorf("%s: answered %v", name, answered)
		}
	}
}

// TestRequestKeepsLittle: what records of a request keep of it is no part of the whole message.
func TestRequestKeepsLittle(t *testing.T) {
	raw := encoded(t, requestHeaders(chatHeaders(), numbered("gpt-4o", "n-1")))[0]
	m := new(message.Request)
	if err := m.Unmarshal(slices.Clone(raw)); err != nil {
		t.Fatal(err)
	}
	first := uintptr(unsafe.Pointer(unsafe.StringData(m.Headers[0].Name)))
	r := readRequest(m)
	if r.requestID != "req-1" || r.path != "/v1/chat/completions" || r.peek.id != "n-1" {
		t.Fatalf("read %q, %q, %q", r.requestID, r.path, r.peek.id)
	}
	for _, s := range []string{r.requestID, r.path, r.peek.id} {
		at := uintptr(unsafe.Pointer(unsafe.StringData(s)))
		if at >= first-uintptr(len(raw)) && at < first+uintptr(len(raw)) {
			t.Errorf("%q is a part of the message", s)
		}
	}
}
