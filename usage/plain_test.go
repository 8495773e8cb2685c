package usage

import (
	"cmp"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	aiv3 "github.com/envoyproxy/go-control-plane/envoy/data/ai/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/internal/redact"
	"github.com/weir-dev/weir/internal/trace"
)

// This is what records mean, written with protobuf's own decoding: decoder must say the same.

// plainRecord reads the record of a request. sampled decides for a trace that begins here; nil samples none.
func plainRecord(e *accesslogv3.HTTPAccessLogEntry, sampled func(traceID string) bool) Record {
	c := e.GetCommonProperties()
	facts := c.GetMetadata().GetFilterMetadata()[wire.DecisionNamespace].GetFields()
	ahead := facts[wire.KeyAhead].GetStructValue().GetFields()
	rest := strings.Split(ahead[wire.KeyRest].GetStringValue(), "\n")
	fact := func(key string) string {
		text := cmp.Or(facts[key].GetStringValue(), ahead[key].GetStringValue())
		for i := 0; i+1 < len(rest) && text == ""; i += 2 {
			if rest[i] == key {
				text = rest[i+1]
			}
		}
		return text
	}
	flags := c.GetResponseFlags()
	var firstToken time.Duration
	status := int(e.GetResponse().GetResponseCode().GetValue())
	if fact(wire.KeyStream) == "true" && status > 0 && status < 400 {
		firstToken = microseconds(c.GetCustomTags()[wire.FirstTokenTag])
	}
	place := trace.Parse(fact(wire.KeyTrace), fact(wire.KeyTraceFlags), fact(wire.KeyTraceParent))
	if place == (trace.Place{}) {
		place = trace.Of(e.GetRequest().GetRequestHeaders()[wire.TraceHeader])
	}
	if place == (trace.Place{}) {
		if sampled == nil {
			sampled = func(string) bool { return false }
		}
		place = trace.Begin("", sampled)
	}
	reported, complete := plainReported(c.GetMetadata().GetTypedFilterMetadata()[wire.TokenUsageNamespace])
	return Record{
		RequestID: e.GetRequest().GetRequestId(),
		Start:     c.GetStartTime().AsTime(),
		Duration:  length(c.GetTimeToLastDownstreamTxByte(), c.GetDuration()),
		FirstByte: length(c.GetTimeToFirstDownstreamTxByte(), nil),
		Status:    status,
		Details:   e.GetResponse().GetResponseCodeDetails(),
		Aborted:   flags.GetDownstreamConnectionTermination() || flags.GetDownstreamRemoteReset() || strings.HasPrefix(e.GetResponse().GetResponseCodeDetails(), "downstream_remote_disconnect"),
		Immediate: fact(wire.KeyImmediate) == "true",
		Stream:    fact(wire.KeyStream) == "true",
		Dialect:   fact(wire.KeyDialect),
		Operation: fact(wire.KeyOperation),
		Model:     fact(wire.KeyModel),
		Route:     fact(wire.KeyRoute),
		Backend:   c.GetCustomTags()[wire.BackendTag],
		Consumer:  fact(wire.KeyConsumer), Tenant: fact(wire.KeyTenant), Credential: fact(wire.KeyCredential),
		Version: fact(wire.KeyVersion), Exchange: fact(wire.KeyExchange),
		PeekID:  c.GetMetadata().GetFilterMetadata()[wire.PeekNamespace].GetFields()[wire.PeekID].GetStringValue(),
		BytesIn: e.GetRequest().GetRequestBodyBytes(), BytesOut: e.GetResponse().GetResponseBodyBytes(),
		Attempts: int(c.GetUpstreamRequestAttemptCount()),
		Endpoint: wire.Address(c.GetUpstreamRemoteAddress().GetSocketAddress()), FirstToken: firstToken,
		Timing: Timing{
			Received: length(c.GetTimeToLastRxByte(), nil), BackendSent: length(c.GetTimeToFirstUpstreamTxByte(), nil), BackendSentLast: length(c.GetTimeToLastUpstreamTxByte(), nil),
			BackendFirst: length(c.GetTimeToFirstUpstreamRxByte(), nil), BackendLast: length(c.GetTimeToLastUpstreamRxByte(), nil),
		},
		Trace: place, Flags: flagNames(flags), Caller: wire.Address(c.GetDownstreamRemoteAddress().GetSocketAddress()),
		Method: plainMethod(e.GetRequest().GetRequestMethod()), Path: redact.Path(cmp.Or(e.GetRequest().GetOriginalPath(), e.GetRequest().GetPath())),
		Endpoints: fact(wire.KeyEndpoints), Refusal: fact(wire.KeyRefusal), Policy: fact(wire.KeyPolicy),
		FailedOpen: fact(wire.KeyOpen) == "true", Native: fact(wire.KeyNative) == "true", Relayed: fact(wire.KeyRelayed) == "true", Fill: fact(wire.KeyFill), Scheme: e.GetRequest().GetScheme(), UserAgent: e.GetRequest().GetUserAgent(),
		Signals:  plainTexts(c.GetMetadata().GetFilterMetadata()[wire.LoadNamespace].GetFields()),
		Reported: reported, ReportedComplete: complete,
	}
}

func length(d, otherwise *durationpb.Duration) time.Duration {
	if d == nil {
		d = otherwise
	}
	if d == nil {
		return 0
	}
	return d.AsDuration()
}

// plainTexts are the fields that are strings; nil for none.
func plainTexts(fields map[string]*structpb.Value) map[string]string {
	if len(fields) == 0 {
		return nil
	}
	out := make(map[string]string, len(fields))
	for k, v := range fields {
		if s, ok := v.GetKind().(*structpb.Value_StringValue); ok {
			out[k] = s.StringValue
		}
	}
	return out
}

// plainFailed reads the record of an attempt. ok is false where it cannot be told whose it is.
func plainFailed(e *accesslogv3.HTTPAccessLogEntry) (f Failed, ok bool) {
	c := e.GetCommonProperties()
	span, n, ok := trace.AttemptOf(e.GetRequest().GetRequestHeaders()[wire.TraceHeader])
	return Failed{
		Span: span, N: n, RequestID: e.GetRequest().GetRequestId(), Backend: c.GetCustomTags()[wire.BackendTag],
		Endpoint: wire.Address(c.GetUpstreamRemoteAddress().GetSocketAddress()), Start: c.GetStartTime().AsTime(), Duration: length(c.GetDuration(), nil),
		Status: int(e.GetResponse().GetResponseCode().GetValue()), Flags: flagNames(c.GetResponseFlags()), Reason: c.GetUpstreamTransportFailureReason(),
	}, ok
}

// plainReported reads the usage that Envoy found in an answer: nil where it found no count. In every dialect its input covers
// what was read from caches and written to them, and its output covers reasoning, as in canon.Usage.
func plainReported(metadata *anypb.Any) (u *canon.Usage, complete bool) {
	if metadata == nil {
		return nil, false
	}
	var t aiv3.TokenUsage
	if err := metadata.UnmarshalTo(&t); err != nil || t.GetInputTokens() == nil && t.GetOutputTokens() == nil {
		return nil, false
	}
	u = &canon.Usage{Input: plainCount(t.GetInputTokens()), Output: plainCount(t.GetOutputTokens())}
	// A part that is larger than its whole is a backend's mistake: no token is counted twice for it.
	in, out := t.GetInputTokenDetails(), t.GetOutputTokenDetails()
	u.CacheRead = min(plainCount(in.GetCachedTokens()), u.Input)
	u.CacheWrite = min(plainCount(in.GetCacheCreationTokens()), u.Input-u.CacheRead)
	u.Reasoning = min(plainCount(out.GetReasoningTokens()), u.Output)
	return u, t.GetExtractionStatus() == aiv3.TokenUsage_COMPLETE
}

// flagNames writes Envoy's response flags as its text logs do: "UF,URX"; "" for none.
func flagNames(f *accesslogv3.ResponseFlags) string {
	if f == nil {
		return ""
	}
	var out []string
	for _, x := range [...]struct {
		set  bool
		name string
	}{
		{f.GetFailedLocalHealthcheck(), "LH"}, {f.GetNoHealthyUpstream(), "UH"}, {f.GetUpstreamRequestTimeout(), "UT"}, {f.GetLocalReset(), "LR"},
		{f.GetUpstreamRemoteReset(), "UR"}, {f.GetUpstreamConnectionFailure(), "UF"}, {f.GetUpstreamConnectionTermination(), "UC"},
		{f.GetUpstreamOverflow(), "UO"}, {f.GetNoRouteFound(), "NR"}, {f.GetDelayInjected(), "DI"}, {f.GetFaultInjected(), "FI"}, {f.GetRateLimited(), "RL"},
		{f.GetUnauthorizedDetails() != nil, "UAEX"}, {f.GetRateLimitServiceError(), "RLSE"}, {f.GetDownstreamConnectionTermination(), "DC"},
		{f.GetUpstreamRetryLimitExceeded(), "URX"}, {f.GetStreamIdleTimeout(), "SI"}, {f.GetInvalidEnvoyRequestHeaders(), "IH"},
		{f.GetDownstreamProtocolError(), "DPE"}, {f.GetUpstreamMaxStreamDurationReached(), "UMSDR"}, {f.GetResponseFromCacheFilter(), "RFCF"},
		{f.GetNoFilterConfigFound(), "NFCF"}, {f.GetDurationTimeout(), "DT"}, {f.GetUpstreamProtocolError(), "UPE"}, {f.GetNoClusterFound(), "NC"},
		{f.GetOverloadManager(), "OM"}, {f.GetDnsResolutionFailure(), "DF"}, {f.GetDownstreamRemoteReset(), "DR"},
	} {
		if x.set {
			out = append(out, x.name)
		}
	}
	return strings.Join(out, ",")
}

func plainCount(v *wrapperspb.UInt64Value) int64 { return int64(min(v.GetValue(), maxReported)) }

// plainMethod is the name of a request's method; "" where it is none that has a name.
func plainMethod(m corev3.RequestMethod) string {
	if m == corev3.RequestMethod_METHOD_UNSPECIFIED {
		return ""
	}
	return m.String()
}
