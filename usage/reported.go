package usage

import (
	"math"

	aiv3 "github.com/envoyproxy/go-control-plane/envoy/data/ai/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weir-dev/weir/adapters/canon"
)

// reported reads the usage that Envoy found in an answer: nil where it found no count. In every dialect its input covers
// what was read from caches and written to them, and its output covers reasoning, as in canon.Usage.
func reported(metadata *anypb.Any) (u *canon.Usage, complete bool) {
	if metadata == nil {
		return nil, false
	}
	var t aiv3.TokenUsage
	if err := metadata.UnmarshalTo(&t); err != nil || t.GetInputTokens() == nil && t.GetOutputTokens() == nil {
		return nil, false
	}
	u = &canon.Usage{Input: count(t.GetInputTokens()), Output: count(t.GetOutputTokens())}
	// A part that is larger than its whole is a backend's mistake: no token is counted twice for it.
	in, out := t.GetInputTokenDetails(), t.GetOutputTokenDetails()
	u.CacheRead = min(count(in.GetCachedTokens()), u.Input)
	u.CacheWrite = min(count(in.GetCacheCreationTokens()), u.Input-u.CacheRead)
	u.Reasoning = min(count(out.GetReasoningTokens()), u.Output)
	return u, t.GetExtractionStatus() == aiv3.TokenUsage_COMPLETE
}

// maxReported bounds a count, so that sums of many fit.
const maxReported = math.MaxInt64 >> 16

func count(v *wrapperspb.UInt64Value) int64 {
	return int64(min(v.GetValue(), maxReported))
}
