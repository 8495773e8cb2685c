package usage

import (
	"math"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	aiv3 "github.com/envoyproxy/go-control-plane/envoy/data/ai/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/wire"
)

// reported is the usage in the record of a request that has this in its metadata.
func reported(usage *anypb.Any) (*canon.Usage, bool) {
	e := &accesslogv3.HTTPAccessLogEntry{CommonProperties: &accesslogv3.AccessLogCommon{Metadata: &corev3.Metadata{}}}
	if usage != nil {
		e.CommonProperties.Metadata.TypedFilterMetadata = map[string]*anypb.Any{wire.TokenUsageNamespace: usage}
	}
	r := record(e, nil)
	return r.Reported, r.ReportedComplete
}

func TestReported(t *testing.T) {
	n := wrapperspb.UInt64
	for _, c := range []struct {
		name     string
		usage    *aiv3.TokenUsage
		want     *canon.Usage
		complete bool
	}{
		{"all", &aiv3.TokenUsage{
			InputTokens: n(100), OutputTokens: n(50), TotalTokens: n(150), ExtractionStatus: aiv3.TokenUsage_COMPLETE,
			InputTokenDetails:  &aiv3.InputTokenDetails{CachedTokens: n(60), CacheCreationTokens: n(30), ToolUseTokens: n(5)},
			OutputTokenDetails: &aiv3.OutputTokenDetails{ReasoningTokens: n(20)},
		}, &canon.Usage{Input: 100, CacheRead: 60, CacheWrite: 30, Output: 50, Reasoning: 20}, true},
		{"zero", &aiv3.TokenUsage{InputTokens: n(0), OutputTokens: n(0), ExtractionStatus: aiv3.TokenUsage_COMPLETE}, &canon.Usage{}, true},
		{"input alone", &aiv3.TokenUsage{InputTokens: n(3), ExtractionStatus: aiv3.TokenUsage_COMPLETE}, &canon.Usage{Input: 3}, true},
		{"output alone", &aiv3.TokenUsage{OutputTokens: n(3), ExtractionStatus: aiv3.TokenUsage_PARTIAL}, &canon.Usage{Output: 3}, false},
		{"a part of it lost", &aiv3.TokenUsage{InputTokens: n(1), OutputTokens: n(2), ExtractionStatus: aiv3.TokenUsage_PARTIAL}, &canon.Usage{Input: 1, Output: 2}, false},
		{"nothing", &aiv3.TokenUsage{Model: "m", ExtractionStatus: aiv3.TokenUsage_FAILED}, nil, false},
		{"a total alone", &aiv3.TokenUsage{ProviderTotalTokens: n(9), ExtractionStatus: aiv3.TokenUsage_COMPLETE}, nil, false},
		{"parts above the whole", &aiv3.TokenUsage{
			InputTokens: n(10), OutputTokens: n(5), ExtractionStatus: aiv3.TokenUsage_COMPLETE,
			InputTokenDetails:  &aiv3.InputTokenDetails{CachedTokens: n(8), CacheCreationTokens: n(8)},
			OutputTokenDetails: &aiv3.OutputTokenDetails{ReasoningTokens: n(6)},
		}, &canon.Usage{Input: 10, CacheRead: 8, CacheWrite: 2, Output: 5, Reasoning: 5}, true},
		{"huge", &aiv3.TokenUsage{InputTokens: n(math.MaxUint64), OutputTokens: n(math.MaxInt64 + 1), ExtractionStatus: aiv3.TokenUsage_COMPLETE},
			&canon.Usage{Input: maxReported, Output: maxReported}, true},
	} {
		got, complete := reported(packed(t, c.usage))
		if complete != c.complete || (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
			t.Errorf("%s: got %+v, complete %v", c.name, got, complete)
		}
	}
	for name, any := range map[string]*anypb.Any{
		"none": nil, "another message": packed(t, n(5)), "broken": {TypeUrl: packed(t, &aiv3.TokenUsage{}).GetTypeUrl(), Value: []byte{0xff}},
	} {
		if got, complete := reported(any); got != nil || complete {
			t.Errorf("%s: got %+v, complete %v", name, got, complete)
		}
	}
}

// FuzzReported: whatever Envoy says, no count is negative, and no part is larger than its whole.
func FuzzReported(f *testing.F) {
	f.Add(packed(f, &aiv3.TokenUsage{InputTokens: wrapperspb.UInt64(5), InputTokenDetails: &aiv3.InputTokenDetails{CachedTokens: wrapperspb.UInt64(9)}}).GetValue())
	kind := packed(f, &aiv3.TokenUsage{}).GetTypeUrl()
	f.Fuzz(func(t *testing.T, raw []byte) {
		u, _ := reported(&anypb.Any{TypeUrl: kind, Value: raw})
		if u == nil {
			return
		}
		if u.CacheRead < 0 || u.CacheWrite < 0 || u.Reasoning < 0 || u.CacheRead+u.CacheWrite > u.Input || u.Reasoning > u.Output || u.Input > maxReported || u.Output > maxReported {
			t.Errorf("%+v", u)
		}
	})
}
