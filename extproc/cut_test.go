package extproc

import (
	"context"
	"strings"
	"testing"

	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/relay"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage"
)

// TestDirectStreamsAreCut plays the answer of a request that goes straight to a backend of the caller's dialect.
func TestDirectStreamsAreCut(t *testing.T) {
	d, _ := dialects(t).Get("openai")
	for _, c := range []struct {
		name    string
		cut     func(canon.Usage) bool
		details string
		want    filterv3.ProcessingMode_BodySendMode
	}{
		{"no budget", nil, wire.ViaUpstream, filterv3.ProcessingMode_NONE},
		{"a budget", after(2), wire.ViaUpstream, filterv3.ProcessingMode_FULL_DUPLEX_STREAMED},
		{"an answer of Envoy's own", after(2), "upstream_reset", filterv3.ProcessingMode_NONE},
	} {
		dec := &decision{dialect: &d, open: &usage.Open{ID: "x-1", Model: "gpt-4o", Time: t0, EstimatedInput: 40}}
		if c.cut != nil {
			dec.cut = func(backend string, used canon.Usage) bool {
				if backend != "default/openai" {
					t.Errorf("asked for what %q has served", backend)
				}
				return c.cut(used)
			}
		}
		attrs, _ := structpb.NewStruct(map[string]any{wire.CodeDetailsAttribute: c.details}) // of a string: cannot fail
		resp, err := dec.next(context.Background(), &extprocv3.ProcessingRequest{
			Attributes: attributesOf(attrs),
			Request: &extprocv3.ProcessingRequest_ResponseHeaders{
				ResponseHeaders: answered(":status", "200", "content-type", "text/event-stream", wire.BackendHeader, "default/openai"),
			},
		})
		if err != nil || resp.GetModeOverride().GetResponseBodyMode() != c.want {
			t.Fatalf("%s: %v, %v", c.name, resp, err)
		}
		body := func(p string) *response {
			resp, err := dec.next(context.Background(), &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseBody{ResponseBody: piece(p, false)}})
			if (err != nil) != (c.want == filterv3.ProcessingMode_NONE) {
				t.Fatalf("%s: error %v", c.name, err)
			}
			return resp
		}
		got := body(openaiStream[:900])
		if c.want == filterv3.ProcessingMode_NONE {
			continue
		}
		first := got.GetResponseBody().GetResponse().GetBodyMutation().GetStreamedResponse()
		if !first.GetEndOfStream() || !strings.HasSuffix(string(first.GetBody()), "data: [DONE]\n\n") {
			t.Errorf("%s: %v", c.name, first)
		}
		if resp := body(openaiStream[900:]); resp != nil {
			t.Errorf("%s: said after the end: %v", c.name, resp)
		}
	}
}

// TestSharedStreamsAreNotCut: who follows another's purchase would get its cut for an end.
func TestSharedStreamsAreNotCut(t *testing.T) {
	a := asked{stream: true, operation: canon.OpChat, request: &request{}}
	if !a.cuttable() {
		t.Error("a stream of one caller cannot be cut")
	}
	a.shared = true
	if a.cuttable() {
		t.Error("a stream that others read can be cut")
	}
	for claim, want := range map[bool]bool{true: true, false: false} {
		f := &relay.Fill{}
		if claim {
			f.Claim = func() bool { return true }
		}
		if f.Shared() != want {
			t.Errorf("a fill whose purchase is claimed (%v) is shared: %v", claim, f.Shared())
		}
	}
}
