// Package usage receives one access-log record for each request from Envoy and hands it to whoever counts:
// metrics now, and whatever else settles with the end of a request.
package usage

import (
	"cmp"
	"strconv"
	"strings"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/internal/redact"
	"github.com/weir-dev/weir/internal/trace"
)

// Record is one finished request. It holds no credential and no text of a prompt or an answer.
type Record struct {
	RequestID  string
	Start      time.Time
	Duration   time.Duration // until the last byte went to the caller
	FirstByte  time.Duration // until the first byte of the answer went to the caller; 0 where none did
	Status     int           // 0 where the caller went away before there was one
	Details    string        // Envoy's response code details
	Aborted    bool          // the caller went away before the end
	Immediate  bool          // Weir answered itself
	Stream     bool          // the caller asked for a stream
	Dialect    string        // the caller's
	Operation  string
	Model      string // the caller's name for it
	Route      string
	Backend    string // that gave the answer; "" where none did
	Consumer   string
	Tenant     string
	Credential string // which one; never its value
	Version    string // of the configuration that decided
	Exchange   string // what ext_proc kept for the request; "" where Envoy did not take the decision, because the caller had gone
	PeekID     string // of the request, unique, set before the decision and whatever came of it; "" where it had no body
	BytesIn    uint64 // of the request body
	BytesOut   uint64 // of the answer's body
	Attempts   int    // requests to backends, the last included; 0 where there was none
	Endpoint   string // of the last attempt, "ip:port"; "" where there was none
	// FirstToken is the time from the first byte that the last attempt sent to its backend until the first byte of the answer's body; 0 where
	// it is not measured, where the caller asked for no stream (such an answer begins when all of it is written), and where the answer is an
	// error: it has no token.
	FirstToken time.Duration
	// Timing is when parts of it passed.
	Timing Timing
	// Trace is the request's place in a trace. Where Envoy has no decision of Weir's, it is made with the record: in the caller's trace, or in
	// one that begins here.
	Trace trace.Place
	// Flags are Envoy's response flags, as it writes them: "UF,URX".
	Flags string
	// Caller is the address and port of the caller's connection.
	Caller string
	// Method and Path are those of the request, the path without its query and what may be a credential: redact.Path. Where a backend was
	// asked, Envoy says the path that it was asked by; the Desk puts the caller's in its place.
	Method, Path string
	// Endpoints are those that Weir has named for attempts, in order: "ip:port,ip:port"; "" where Envoy picks.
	Endpoints string
	// Refusal is why Weir answered itself with an error, in words; "" where it did not. It holds nothing of a body.
	Refusal string
	// Policy is the name of the limit, budget or circuit breaker that refused; "" where none did.
	Policy string
	// FailedOpen says that nobody decided: Weir did not answer, and Envoy let the request through.
	FailedOpen bool
	// Scheme of the request, "http" or "https".
	Scheme string
	// UserAgent is what the caller calls its software.
	UserAgent string
	// Signals are what the answer's headers say about load, by their names; nil where they are not read.
	Signals map[string]string

	// Reported is the usage that Envoy read in the backend's answer, which must have reached its end; nil where there
	// was none to read. The counts are the backend's word.
	Reported *canon.Usage
	// ReportedComplete says that nothing of it was lost: not so where the backend broke the answer off with an error, or
	// a count was no number.
	ReportedComplete bool
}

// Timing holds times since the start of the request; 0 for what did not come to pass. Those of the backend are of the last attempt.
type Timing struct {
	Received        time.Duration // the last byte of the request came
	BackendSent     time.Duration // its first byte went to the backend
	BackendSentLast time.Duration // its last byte went to the backend
	BackendFirst    time.Duration // the first byte of the answer came
	BackendLast     time.Duration // the last byte of the answer came
}

// record reads the record of a request. sampled decides for a trace that begins here; nil samples none.
func record(e *accesslogv3.HTTPAccessLogEntry, sampled func(traceID string) bool) Record {
	c := e.GetCommonProperties()
	facts := c.GetMetadata().GetFilterMetadata()[wire.DecisionNamespace].GetFields()
	fact := func(key string) string { return facts[key].GetStringValue() }
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
	reported, complete := reported(c.GetMetadata().GetTypedFilterMetadata()[wire.TokenUsageNamespace])
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
		Method: method(e.GetRequest().GetRequestMethod()), Path: redact.Path(cmp.Or(e.GetRequest().GetOriginalPath(), e.GetRequest().GetPath())),
		Endpoints: fact(wire.KeyEndpoints), Refusal: fact(wire.KeyRefusal), Policy: fact(wire.KeyPolicy),
		FailedOpen: fact(wire.KeyOpen) == "true", Scheme: e.GetRequest().GetScheme(), UserAgent: e.GetRequest().GetUserAgent(),
		Signals:  texts(c.GetMetadata().GetFilterMetadata()[wire.LoadNamespace].GetFields()),
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

// microseconds reads a number of them; 0 where there is none.
func microseconds(s string) time.Duration {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > int64(time.Hour/time.Microsecond)*24 {
		return 0
	}
	return time.Duration(n) * time.Microsecond
}

// texts are the fields that are strings; nil for none.
func texts(fields map[string]*structpb.Value) map[string]string {
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

// Failed is an attempt that failed before another was made, or that was the last. It holds what Envoy knows of it by itself.
type Failed struct {
	Span      string // trace.Place.Span of its request
	N         int    // 1 is the request's first attempt
	RequestID string
	Backend   string
	Endpoint  string // "ip:port"; "" where no connection came about
	Start     time.Time
	Duration  time.Duration
	Status    int    // 0 where there was no answer
	Flags     string // Envoy's response flags, "UF"
	Reason    string // why there was no connection; "" where there was one
}

// failed reads the record of an attempt. ok is false where it cannot be told whose it is.
func failed(e *accesslogv3.HTTPAccessLogEntry) (f Failed, ok bool) {
	c := e.GetCommonProperties()
	span, n, ok := trace.AttemptOf(e.GetRequest().GetRequestHeaders()[wire.TraceHeader])
	return Failed{
		Span: span, N: n, RequestID: e.GetRequest().GetRequestId(), Backend: c.GetCustomTags()[wire.BackendTag],
		Endpoint: wire.Address(c.GetUpstreamRemoteAddress().GetSocketAddress()), Start: c.GetStartTime().AsTime(), Duration: length(c.GetDuration(), nil),
		Status: int(e.GetResponse().GetResponseCode().GetValue()), Flags: flagNames(c.GetResponseFlags()), Reason: c.GetUpstreamTransportFailureReason(),
	}, ok
}
