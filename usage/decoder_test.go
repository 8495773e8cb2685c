package usage

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	aiv3 "github.com/envoyproxy/go-control-plane/envoy/data/ai/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/internal/trace"
)

// record is the record of a request as a Sink gets it.
func record(e *accesslogv3.HTTPAccessLogEntry, sampled func(string) bool) Record {
	raw, err := proto.Marshal(e)
	if err != nil {
		panic(err)
	}
	r, ok := newDecoder(sampled).record(raw)
	if !ok {
		panic("what protobuf has written is not read")
	}
	return *r
}

// failed is the record of an attempt as a FailedSink gets it.
func failed(e *accesslogv3.HTTPAccessLogEntry) (Failed, bool) {
	raw, err := proto.Marshal(e)
	if err != nil {
		panic(err)
	}
	d := newDecoder(nil)
	if !d.entry.read(raw) {
		panic("what protobuf has written is not read")
	}
	return d.failed()
}

// recorded are the entries that an Envoy has sent: of good answers, streams, translated ones, fallbacks, refusals, errors, of a caller who
// went away, and of one who sent headers that are not UTF-8.
func recorded(t testing.TB) [][]byte {
	t.Helper()
	raw, err := os.ReadFile("testdata/records.binpb")
	if err != nil {
		t.Fatal(err)
	}
	m := message{encoded: raw}
	var out [][]byte
	if !m.read() || !m.entries(func(b []byte) bool { out = append(out, b); return true }) || len(out) != 18 {
		t.Fatalf("%d entries in testdata", len(out))
	}
	return out
}

// compare fails the test unless the decoder says the same of an entry as protobuf. What protobuf does not take, the decoder may take.
func compare(t *testing.T, d *decoder, raw []byte) {
	t.Helper()
	var e accesslogv3.HTTPAccessLogEntry
	err := Codec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(bytes.Clone(raw))}, &e)
	before := bytes.Clone(raw)
	got, ok := d.record(raw)
	if !bytes.Equal(before, raw) {
		t.Fatal("the decoder has changed what it reads")
	}
	if err != nil {
		return
	}
	if !ok {
		t.Fatalf("protobuf reads %v, the decoder does not", &e)
	}
	want, r := plainRecord(&e, nil), *got
	facts := e.GetCommonProperties().GetMetadata().GetFilterMetadata()[wire.DecisionNamespace].GetFields()
	if trace.Parse(facts[wire.KeyTrace].GetStringValue(), "", "") == (trace.Place{}) { // Weir has decided nothing: the span is made up
		if len(r.Trace.Span) != len(want.Trace.Span) {
			t.Fatalf("the span is %q", r.Trace.Span)
		}
		r.Trace.Span = want.Trace.Span
		if trace.Of(e.GetRequest().GetRequestHeaders()[wire.TraceHeader]) == (trace.Place{}) { // and so is the trace
			if len(r.Trace.Trace) != len(want.Trace.Trace) {
				t.Fatalf("the trace is %q", r.Trace.Trace)
			}
			r.Trace.Trace = want.Trace.Trace
		}
	}
	if !reflect.DeepEqual(want, r) {
		t.Fatalf("the decoder reads\n%+v, %+v\nprotobuf\n%+v, %+v\nof\n%v", r, r.Reported, want, want.Reported, &e)
	}
	if kind := int32(e.GetCommonProperties().GetAccessLogType()); d.entry.kind != kind {
		t.Fatalf("the decoder reads the kind %d, protobuf %d", d.entry.kind, kind)
	}
	wantFailed, wantOf := plainFailed(&e)
	gotFailed, of := d.failed()
	if of != wantOf || gotFailed != wantFailed {
		t.Fatalf("the decoder reads the attempt %+v (%v, %v), protobuf %+v (%v)", gotFailed, of, ok, wantFailed, wantOf)
	}
}

// TestDecoderReadsWhatProtobufReads, of what an Envoy has sent, and of all that it might.
func TestDecoderReadsWhatProtobufReads(t *testing.T) {
	d := newDecoder(nil) // one, as a stream has: nothing of a record may get into the next
	for _, raw := range recorded(t) {
		compare(t, d, raw)
	}
	for _, e := range entries(t) {
		raw, err := proto.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, d, raw)
	}
	for _, raw := range recorded(t) {
		compare(t, d, raw)
	}
	for name, raw := range oddities(t) {
		t.Run(name, func(t *testing.T) { compare(t, d, raw) })
	}
}

// entries are what Envoy might send.
func entries(t testing.TB) (out []*accesslogv3.HTTPAccessLogEntry) {
	t.Helper()
	type (
		E = *accesslogv3.HTTPAccessLogEntry
		C = *accesslogv3.AccessLogCommon
	)
	with := func(change func(E, C)) {
		e := finished(t)
		change(e, e.CommonProperties)
		out = append(out, e)
	}
	with(func(E, C) {})
	with(func(e E, _ C) { e.Reset() })
	with(func(e E, _ C) { e.CommonProperties = nil })
	with(func(e E, _ C) { e.Request, e.Response = nil, nil })
	with(func(_ E, c C) { c.ResponseFlags = nil })
	flags := (&accesslogv3.ResponseFlags{}).ProtoReflect().Descriptor().Fields()
	for i := range flags.Len() { // one by one, and all but one
		f := flags.Get(i)
		set := func(m *accesslogv3.ResponseFlags) {
			if f.Message() != nil {
				m.UnauthorizedDetails = &accesslogv3.ResponseFlags_Unauthorized{}
			} else {
				m.ProtoReflect().Set(f, protoreflect.ValueOfBool(true))
			}
		}
		with(func(_ E, c C) { c.ResponseFlags = &accesslogv3.ResponseFlags{}; set(c.ResponseFlags) })
		with(func(_ E, c C) { set(c.ResponseFlags) })
	}
	for m := range corev3.RequestMethod_name {
		with(func(e E, _ C) { e.Request.RequestMethod = corev3.RequestMethod(m) })
	}
	with(func(e E, _ C) { e.Request.RequestMethod = 99 })
	with(func(e E, _ C) { e.Request.RequestMethod = -1 })
	for _, path := range []string{"", "/", "/api/generate", "/v1/messages?key=sk-1", "/sk-proj-AbCd1234/v1/messages", "/v1/café", "/" + strings.Repeat("a-", 100), "?"} {
		with(func(e E, _ C) { e.Request.OriginalPath = path })
		with(func(e E, _ C) { e.Request.OriginalPath, e.Request.Path = "", path })
	}
	for _, d := range []*durationpb.Duration{
		nil, {}, {Seconds: 1, Nanos: 1}, {Seconds: -1, Nanos: -5}, {Seconds: 1, Nanos: -5}, {Seconds: math.MaxInt64, Nanos: math.MaxInt32},
		{Seconds: math.MinInt64, Nanos: math.MinInt32}, {Seconds: math.MaxInt64 / 1_000_000_000, Nanos: 999999999}, {Seconds: 1 << 33}, {Seconds: -1 << 33, Nanos: -1}, {Seconds: 1<<33 - 1, Nanos: math.MaxInt32},
	} {
		with(func(_ E, c C) { c.TimeToLastDownstreamTxByte = d })
		with(func(_ E, c C) { c.TimeToLastDownstreamTxByte, c.Duration = nil, d })
		with(func(_ E, c C) {
			c.TimeToFirstDownstreamTxByte, c.TimeToLastRxByte, c.TimeToFirstUpstreamTxByte = d, d, d
			c.TimeToLastUpstreamTxByte, c.TimeToFirstUpstreamRxByte, c.TimeToLastUpstreamRxByte = d, d, d
		})
	}
	for _, s := range []*timestamppb.Timestamp{nil, {}, {Seconds: -1, Nanos: -1}, {Seconds: math.MaxInt64, Nanos: math.MaxInt32}, {Nanos: 2e9}} {
		with(func(_ E, c C) { c.StartTime = s })
	}
	for _, a := range []*corev3.Address{
		nil, {},
		{Address: &corev3.Address_SocketAddress{}},
		{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{}}},
		{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: "10.0.0.1", PortSpecifier: &corev3.SocketAddress_NamedPort{NamedPort: "http"}}}},
		{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: "fe80::1%eth0", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: math.MaxUint32}}}},
		{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: "@a"}}},
		{Address: &corev3.Address_EnvoyInternalAddress{EnvoyInternalAddress: &corev3.EnvoyInternalAddress{EndpointId: "a"}}},
	} {
		with(func(_ E, c C) { c.UpstreamRemoteAddress = a })
		with(func(_ E, c C) { c.DownstreamRemoteAddress = a })
	}
	for _, n := range []uint32{0, 99, 200, 399, 400, 503, math.MaxUint32} {
		with(func(e E, _ C) { e.Response.ResponseCode = wrapperspb.UInt32(n) })
		with(func(_ E, c C) { c.UpstreamRequestAttemptCount = n })
	}
	for _, s := range []string{"", "0", "-1", "12", "86400000000", "86400000001", "99999999999999999999", "x", "1 "} {
		with(func(_ E, c C) { c.CustomTags[wire.FirstTokenTag] = s })
	}
	for _, s := range []string{"", "via_upstream", "downstream_remote_disconnect", "downstream_remote_disconnect(x)", strings.Repeat("x", maxShared), strings.Repeat("x", maxShared+1)} {
		with(func(e E, _ C) { e.Response.ResponseCodeDetails = s })
	}
	for _, s := range []string{"", "x", strings.Repeat("é", maxOwn/2), strings.Repeat("i", maxOwn+1)} {
		with(func(e E, c C) {
			e.Request.RequestId = s
			c.Metadata.FilterMetadata[wire.PeekNamespace].Fields[wire.PeekID] = structpb.NewStringValue(s)
			c.Metadata.FilterMetadata[wire.DecisionNamespace].Fields[wire.KeyExchange] = structpb.NewStringValue(s)
		})
	}
	for key := range finished(t).CommonProperties.Metadata.FilterMetadata[wire.DecisionNamespace].Fields {
		for _, v := range []*structpb.Value{
			nil, {}, structpb.NewNullValue(), structpb.NewBoolValue(true), structpb.NewNumberValue(1), structpb.NewStringValue(""), structpb.NewStringValue("true"),
			structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{structpb.NewStringValue("x")}}),
			structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{key: structpb.NewStringValue("x")}}),
		} {
			with(func(_ E, c C) { c.Metadata.FilterMetadata[wire.DecisionNamespace].Fields[key] = v })
			with(func(_ E, c C) { c.Metadata.FilterMetadata[wire.PeekNamespace].Fields[wire.PeekID] = v })
			with(func(_ E, c C) { c.Metadata.FilterMetadata[wire.LoadNamespace].Fields["b 10.0.0.1:80"] = v })
			with(func(_ E, c C) {
				c.Metadata.FilterMetadata[wire.LoadNamespace].Fields = map[string]*structpb.Value{"b": v}
			})
		}
	}
	for name := range finished(t).CommonProperties.Metadata.FilterMetadata {
		with(func(_ E, c C) { delete(c.Metadata.FilterMetadata, name) })
		with(func(_ E, c C) { c.Metadata.FilterMetadata[name] = nil })
	}
	with(func(_ E, c C) { c.Metadata.TypedFilterMetadata = nil })
	n := wrapperspb.UInt64
	for _, m := range []proto.Message{
		&aiv3.TokenUsage{}, n(5), &aiv3.TokenUsage{InputTokens: n(0)}, &aiv3.TokenUsage{OutputTokens: n(3), ExtractionStatus: aiv3.TokenUsage_PARTIAL},
		&aiv3.TokenUsage{
			LlmProtocol: 1, Model: "gpt-4o", InputTokens: n(100), OutputTokens: n(50), TotalTokens: n(150), ProviderTotalTokens: n(151), ExtractionStatus: aiv3.TokenUsage_COMPLETE,
			InputTokenDetails:  &aiv3.InputTokenDetails{CachedTokens: n(60), CacheCreationTokens: n(math.MaxUint64), ToolUseTokens: n(5)},
			OutputTokenDetails: &aiv3.OutputTokenDetails{ReasoningTokens: n(20)},
		},
	} {
		with(func(_ E, c C) { c.Metadata.TypedFilterMetadata[wire.TokenUsageNamespace] = packed(t, m) })
		with(func(_ E, c C) {
			c.Metadata.TypedFilterMetadata[wire.TokenUsageNamespace] = packed(t, m)
			c.Metadata.TypedFilterMetadata[wire.TokenUsageNamespace].TypeUrl = "a/envoy.data.ai.v3.TokenUsage"
		})
	}
	for _, url := range []string{"", "envoy.data.ai.v3.TokenUsage", "xenvoy.data.ai.v3.TokenUsage", "/envoy.data.ai.v3.TokenUsage"} {
		with(func(_ E, c C) { c.Metadata.TypedFilterMetadata[wire.TokenUsageNamespace].TypeUrl = url })
	}
	for _, header := range []string{"", "nonsense", "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01", "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b1-00"} {
		with(func(e E, _ C) { e.Request.RequestHeaders = map[string]string{wire.TraceHeader: header, "other": "x"} })
		with(func(e E, c C) {
			e.Request.RequestHeaders = map[string]string{wire.TraceHeader: header}
			c.Metadata = nil
			c.UpstreamTransportFailureReason = "delayed connect error: 111"
		})
	}
	return out
}

// What encoded messages are made of.

func field(number protowire.Number, parts ...[]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), bytes.Join(parts, nil))
}

func text(number protowire.Number, s string) []byte { return field(number, []byte(s)) }

func num(number protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, number, protowire.VarintType), v)
}

// value is that of a fact, fact is one of entry, and entry one of metadata.
func value(s string) []byte { return field(2, text(3, s)) }

func fact(key string, parts ...[]byte) []byte {
	return field(1, append([][]byte{text(1, key)}, parts...)...)
}

func entryOf(name string, facts ...[]byte) []byte {
	return field(1, text(1, name), field(2, facts...))
}

func metadata(maps ...[]byte) []byte { return field(1, field(17, maps...)) }

func socket(host string, port uint64) []byte { return field(1, text(2, host), num(3, port)) }

// tokenUsageOf is the usage in metadata.
func tokenUsageOf(fields ...[]byte) []byte {
	return metadata(field(2, text(1, wire.TokenUsageNamespace), field(2, text(1, "envoy.data.ai.v3.TokenUsage"), field(2, fields...))))
}

// oddities are encoded as nobody encodes them, but as protobuf takes them.
func oddities(t testing.TB) map[string][]byte {
	t.Helper()
	plain, err := proto.Marshal(finished(t))
	if err != nil {
		t.Fatal(err)
	}
	group := append(append(protowire.AppendTag(nil, 900, protowire.StartGroupType), num(1, 7)...), protowire.AppendTag(nil, 900, protowire.EndGroupType)...)
	fixed := protowire.AppendFixed64(protowire.AppendTag(nil, 901, protowire.Fixed64Type), 1)
	out := map[string][]byte{
		"twice":                               append(bytes.Clone(plain), plain...),
		"unknown fields":                      bytes.Join([][]byte{group, plain, fixed, field(1, group, fixed), field(3, group), field(4, fixed)}, nil),
		"of other kinds":                      bytes.Join([][]byte{plain, num(1, 5), num(3, 5), num(4, 5), field(1, num(5, 5), num(17, 1), num(22, 1), text(24, "x"), num(16, 1)), field(3, text(1, "x"), num(9, 1)), field(4, num(1, 1), text(3, "x"))}, nil),
		"parts of messages":                   bytes.Join([][]byte{field(1, field(5, num(1, 7)), field(12, num(1, 3))), field(1, field(5, num(2, 8)), field(12, num(2, 9)))}, nil),
		"flags taken back":                    field(1, field(16, num(6, 1), num(7, 1)), field(16, num(6, 0), num(31, 1), num(40, 1), text(6, "x"), num(13, 1))),
		"a flag with a message twice":         field(1, field(16, text(13, "")), field(16, num(8, 2))),
		"addresses that change":               field(1, field(2, socket("10.0.0.1", 80)), field(2, text(2, "")), field(2, field(1, num(3, 81))), field(13, socket("10.0.0.1", 80), field(1, text(4, "http")), field(1, text(2, "::1")))),
		"an address that becomes Envoy's own": field(1, field(2, socket("10.0.0.1", 80), field(3, text(2, "x")))),
		"an address that becomes a pipe":      field(1, field(13, socket("10.0.0.1", 80), field(2, text(1, "x")))),
		"a list after a text":                 metadata(entryOf(wire.DecisionNamespace, fact(wire.KeyRoute, field(2, text(3, "a"), field(6))))),
		"a struct after a text":               metadata(entryOf(wire.DecisionNamespace, fact(wire.KeyRoute, field(2, text(3, "a"), field(5))))),
		"a usage, its model broken":           tokenUsageOf(field(3, num(1, 5)), text(2, "a\xff")),
		"a usage, its input broken":           tokenUsageOf(field(4, num(1, 5)), text(3, "\xff")),
		"a usage, its total broken":           tokenUsageOf(field(3, num(1, 5)), text(5, "\xff")),
		"a usage, its provider's broken":      tokenUsageOf(field(3, num(1, 5)), text(8, "\xff")),
		"a usage, its parts broken":           tokenUsageOf(field(3, num(1, 5)), text(6, "\xff")),
		"a usage, a part broken":              tokenUsageOf(field(3, num(1, 5)), field(7, text(1, "\xff"))),
		"a map without keys":                  field(1, field(17, field(1, field(2, fact("route", value("x"))))), field(22, text(2, "x")), field(22, text(1, wire.BackendTag))),
		"a map with the value first":          field(1, field(17, field(1, field(2, field(1, value("x"), text(1, wire.KeyRoute))), text(1, wire.DecisionNamespace))), field(22, text(2, "b"), text(1, wire.BackendTag))),
		"keys that come twice": metadata(
			entryOf(wire.DecisionNamespace, fact(wire.KeyRoute, value("a")), fact(wire.KeyRoute, value("b")), fact(wire.KeyModel, value("m"))),
			entryOf(wire.LoadNamespace, fact("k", value("a")), fact("k", field(2, num(4, 1))), fact("l", value("b"))),
			entryOf(wire.PeekNamespace, fact(wire.PeekID, value("a"))), entryOf(wire.PeekNamespace),
		),
		"namespaces that come twice": metadata(
			entryOf(wire.DecisionNamespace, fact(wire.KeyRoute, value("a"))), entryOf(wire.DecisionNamespace, fact(wire.KeyModel, value("m"))),
			entryOf(wire.LoadNamespace, fact("k", value("a"))), entryOf(wire.LoadNamespace, fact("l", value("a"))),
		),
		"values in parts": metadata(
			field(1, text(1, wire.DecisionNamespace), field(2, fact(wire.KeyRoute, value("a"))), field(2, fact(wire.KeyModel, value("m"), value("n")))),
			entryOf(wire.LoadNamespace, fact("k", value("a"), field(2, num(1, 0)))),
		),
		"keys in parts": metadata(field(1, text(1, "other"), text(1, wire.DecisionNamespace), field(2, fact("other", text(1, wire.KeyRoute), value("a"))))),
		"a value that changes its kind": metadata(entryOf(wire.DecisionNamespace,
			fact(wire.KeyRoute, field(2, text(3, "a"), num(4, 1))), fact(wire.KeyModel, field(2, num(4, 1), text(3, "m"))),
			fact(wire.KeyTenant, field(2, text(3, "t"), num(3, 1), text(1, "x"))), fact(wire.KeyDialect, field(2, text(3, "d"), protowire.AppendFixed64(protowire.AppendTag(nil, 2, protowire.Fixed64Type), 1))),
		)),
		"facts of a lane": metadata(entryOf(wire.DecisionNamespace,
			fact(wire.KeyTenant, value("own")), fact(wire.KeyConsumer, value("")),
			fact(wire.KeyAhead, field(2, field(5,
				fact(wire.KeyRoute, value("r")), fact(wire.KeyTenant, value("no")), fact("other", value("x")), fact(wire.KeyDialect, field(2, num(4, 1))),
				fact(wire.KeyTrace, value("00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333")), fact(wire.KeyTraceFlags, value("-01")),
				fact(wire.KeyRest, value("model\nm\nroute\nno\nconsumer\nc\nnative\ntrue\nother\n\ndialect\nopenai\nexchange\ne-1\nversion")))))),
		),
		"facts of a lane in parts": metadata(entryOf(wire.DecisionNamespace,
			fact(wire.KeyAhead, field(2, field(5, fact(wire.KeyRoute, value("no"))))),
			fact(wire.KeyAhead, field(2, text(3, "no"), field(5, fact(wire.KeyRoute, value("a"))), field(5, fact(wire.KeyRest, value("model\n"))), field(5, fact(wire.KeyRoute, value("b")), fact(wire.KeyRest, value("\nx\nmodel\nm")))))),
		),
		"facts of a lane that are none": metadata(entryOf(wire.DecisionNamespace, fact(wire.KeyAhead, field(2, field(5, fact(wire.KeyRoute, value("no"))), text(3, "no"))), fact(wire.KeyModel, value("m")))),
		"a usage that comes twice": field(1, field(17,
			field(2, text(1, wire.TokenUsageNamespace), field(2, text(1, "a/envoy.data.ai.v3.TokenUsage"), field(2, field(3, num(1, 5)), num(9, 1)))),
			field(2, text(1, wire.TokenUsageNamespace), field(2, text(1, "a/envoy.data.ai.v3.TokenUsage")), field(2, field(2, field(4, num(1, 6))))))),
		"a usage in parts":       field(1, field(17, field(2, text(1, wire.TokenUsageNamespace), field(2, text(1, "envoy.data.ai.v3.TokenUsage"), field(2, field(3), field(6, field(1, num(1, 2))), field(6, field(2, num(1, 1)), field(9, num(1, 1))), field(3, num(1, 9)), field(7, field(1, num(1, 3)), num(1, 1))))))),
		"a broken usage":         field(1, field(17, field(2, text(1, wire.TokenUsageNamespace), field(2, text(1, "envoy.data.ai.v3.TokenUsage"), field(2, field(3, num(1, 5)), []byte{0xff}))))),
		"a usage of no UTF-8":    field(1, field(17, field(2, text(1, wire.TokenUsageNamespace), field(2, text(1, "envoy.data.ai.v3.TokenUsage"), field(2, text(2, "ÿ"), field(3, num(1, 5))))))),
		"numbers that are large": bytes.Join([][]byte{field(1, num(24, 1<<40+3), field(5, num(2, 1<<40+3)), field(13, field(1, num(3, 1<<40+3), text(2, "a")))), field(3, num(1, 1<<40+3), num(12, math.MaxUint64)), field(4, field(1, num(1, 1<<40+200)), num(3, math.MaxUint64))}, nil),
		"status in parts":        bytes.Join([][]byte{field(4, field(1, num(1, 200))), field(4, field(1))}, nil),
		"a long tag":             append([]byte{0x8a, 0x80, 0x00}, protowire.AppendBytes(nil, num(24, 4))...),
	}
	for _, bad := range []string{"ÿ", "aÃ", "í \u0080", strings.Repeat("þ", maxShared+1), strings.Repeat("þ", maxOwn+1)} {
		out["not UTF-8, "+strconv.Quote(bad[:1])+strconv.Itoa(len(bad))] = bytes.Join([][]byte{
			field(1, field(2, socket(bad, 80)), field(13, socket(bad+":1", 80)), field(18, []byte(bad)), field(22, text(1, wire.BackendTag), text(2, bad)), field(22, text(1, wire.FirstTokenTag), text(2, bad)),
				field(17, entryOf(wire.DecisionNamespace, fact(wire.KeyRoute, value(bad)), fact(wire.KeyExchange, value(bad)), fact(wire.KeyTrace, value(bad)), fact(wire.KeyStream, value("true")), fact(bad, value("x"))),
					entryOf(wire.LoadNamespace, fact(bad, value(bad)), fact("b"+bad, value("x"))), entryOf(bad, fact("x", value(bad))), entryOf(wire.PeekNamespace, fact(wire.PeekID, value(bad))))),
			field(3, text(2, bad), text(5, "/v1/"+bad+"/x?y"), text(6, bad), text(9, bad), field(13, text(1, wire.TraceHeader), text(2, bad))),
			field(4, field(1, num(1, 200)), text(6, "downstream_remote_disconnect"+bad)),
		}, nil)
	}
	return out
}

// TestDecoderTakesNothingBroken: an entry that breaks off anywhere is none, unless it breaks off between two fields.
func TestDecoderTakesNothingBroken(t *testing.T) {
	d := newDecoder(nil)
	for _, raw := range recorded(t)[:3] {
		for n := range raw {
			var e accesslogv3.HTTPAccessLogEntry
			if err := proto.Unmarshal(raw[:n], &e); err == nil {
				continue
			}
			if _, ok := d.record(raw[:n]); ok {
				t.Fatalf("%d of %d bytes were taken", n, len(raw))
			}
		}
	}
}

// TestDecoderLooksInside: what is whole around something broken is not taken either, as protobuf does not.
func TestDecoderLooksInside(t *testing.T) {
	d, broken := newDecoder(nil), []byte{0xff}
	for name, raw := range map[string][]byte{
		"common": field(1, broken), "request": field(3, broken), "response": field(4, broken),
		"address": field(1, field(2, broken)), "socket": field(1, field(13, field(1, broken))), "time": field(1, field(5, broken)), "duration": field(1, field(23, broken)),
		"flags": field(1, field(16, broken)), "metadata": metadata(broken), "tag": field(1, field(22, text(1, wire.BackendTag), broken)),
		"header": field(3, field(13, text(1, wire.TraceHeader), broken)), "status": field(4, field(1, broken)),
		"namespace": metadata(field(1, text(1, wire.DecisionNamespace), broken)), "facts": metadata(entryOf(wire.DecisionNamespace, broken)),
		"fact": metadata(entryOf(wire.DecisionNamespace, fact(wire.KeyRoute, broken))), "text": metadata(entryOf(wire.DecisionNamespace, fact(wire.KeyRoute, field(2, broken)))),
		"peek": metadata(entryOf(wire.PeekNamespace, fact(wire.PeekID, field(2, broken)))), "signal": metadata(entryOf(wire.LoadNamespace, fact("x", field(2, broken)))),
		"typed": metadata(field(2, text(1, wire.TokenUsageNamespace), broken)), "any": metadata(field(2, text(1, wire.TokenUsageNamespace), field(2, broken))),
	} {
		var e accesslogv3.HTTPAccessLogEntry
		if proto.Unmarshal(raw, &e) == nil {
			t.Errorf("%s: the test has nothing broken", name)
		}
		if _, ok := d.record(raw); ok {
			t.Errorf("%s was taken", name)
		}
	}
	var m message
	if m.encoded = broken; m.read() {
		t.Error("a broken message was taken")
	}
}

// FuzzDecoder: whatever the bytes, the decoder reads what protobuf reads, and never panics.
func FuzzDecoder(f *testing.F) {
	for _, raw := range recorded(f) {
		f.Add(raw)
	}
	for _, raw := range oddities(f) {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) { compare(t, newDecoder(nil), raw) })
}

// FuzzMessage: the entries of a message are those that protobuf finds.
func FuzzMessage(f *testing.F) {
	for _, m := range []*alsv3.StreamAccessLogsMessage{
		logs(), {}, {Identifier: &alsv3.StreamAccessLogsMessage_Identifier{LogName: wire.AccessLog, Node: &corev3.Node{Id: "weir"}}},
		{LogEntries: &alsv3.StreamAccessLogsMessage_TcpLogs{TcpLogs: &alsv3.StreamAccessLogsMessage_TCPAccessLogEntries{LogEntry: []*accesslogv3.TCPAccessLogEntry{{}}}}},
	} {
		raw, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
		f.Add(append(raw, raw...))
		f.Add(append(raw, 0x1a, 0))
		f.Add(append([]byte{0x1a, 0}, raw...))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var want alsv3.StreamAccessLogsMessage
		if unmarshal(bytes.Clone(raw), &want) != nil {
			return
		}
		var m message
		half := mem.SliceBuffer(raw[len(raw)/2:])
		if err := m.UnmarshalWire(mem.BufferSlice{mem.SliceBuffer(raw[:len(raw)/2]), half}); err != nil {
			t.Fatal(err)
		}
		if !m.read() {
			t.Fatalf("%v is not read", &want)
		}
		d, n := newDecoder(nil), 0
		list := want.GetHttpLogs().GetLogEntry()
		ok := m.entries(func(raw []byte) bool {
			if n++; n > len(list) {
				return false
			}
			r, ok := d.record(raw)
			return ok && r.RequestID == list[n-1].GetRequest().GetRequestId()
		})
		if !ok || n != len(list) {
			t.Fatalf("%d entries of %d, %v", n, len(list), ok)
		}
	})
}

// TestTextsAreShared: what callers send again and again is shared, and nobody makes it forget more than it must.
func TestTextsAreShared(t *testing.T) {
	x := newTexts()
	a := x.of([]byte("tenant"))
	if n := testing.AllocsPerRun(100, func() { a = x.of([]byte("tenant")) }); n != 0 || a != "tenant" {
		t.Errorf("%v allocations for %q", n, a)
	}
	for i := range 10 * sharedSets {
		s := "x" + strconv.Itoa(i)
		if got := x.of([]byte(s)); got != s {
			t.Fatalf("%q is %q", s, got)
		}
	}
	if got, ok := x.find([]byte("never seen")); ok {
		t.Errorf("found %q", got)
	}
	long := strings.Repeat("x", maxShared+1)
	if x.of([]byte(long)) != long {
		t.Error("a long text is another")
	}
	if _, ok := x.find([]byte(long)); ok {
		t.Error("a long text is kept")
	}
}

// TestRecordOutlivesItsMessage: what a copy of a record points to stays as it was when the next one is read from the same buffer.
func TestRecordOutlivesItsMessage(t *testing.T) {
	d := newDecoder(nil)
	var kept []Record
	var want []string
	buffer := make([]byte, 64<<10)
	for _, raw := range recorded(t) {
		b := buffer[:copy(buffer, raw)]
		r, ok := d.record(b)
		if !ok {
			t.Fatal("not read")
		}
		kept = append(kept, *r)
		want = append(want, fmt.Sprintf("%+v %+v", *r, r.Reported))
		clear(b)
	}
	for i := range kept {
		if got := fmt.Sprintf("%+v %+v", kept[i], kept[i].Reported); strip(got) != strip(want[i]) {
			t.Errorf("record %d became\n%s, and was\n%s", i, got, want[i])
		}
	}
}

// strip takes pointers out of what fmt writes.
func strip(s string) string { return regexp.MustCompile("0x[0-9a-f]+").ReplaceAllString(s, "") }

// TestRecordAllocations: what each record costs in memory, once names have been seen.
func TestRecordAllocations(t *testing.T) {
	raw := recorded(t)[0]
	d := newDecoder(nil)
	n := testing.AllocsPerRun(100, func() {
		if _, ok := d.record(raw); !ok {
			t.Fatal("not read")
		}
	})
	if n > 3 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkRecord: what it takes to read a record of Envoy's, with the facts of a decision in it; plain is protobuf's own decoding.
func BenchmarkRecord(b *testing.B) {
	raw := recorded(b)[0]
	logs := protowire.AppendBytes([]byte{1<<3 | 2}, raw)
	for range 3 {
		logs = append(logs, logs...)
	}
	batch := protowire.AppendBytes([]byte{2<<3 | 2}, logs) // of 8 records, as Envoy sends them
	data, codec := mem.BufferSlice{mem.SliceBuffer(batch)}, Codec()
	b.Run("decoder", func(b *testing.B) {
		b.ReportAllocs()
		d, n := newDecoder(nil), 0
		var m message
		for b.Loop() {
			if err := codec.Unmarshal(data, &m); err != nil || !m.read() {
				b.Fatal(err)
			}
			m.entries(func(raw []byte) bool { _, ok := d.record(raw); n++; return ok })
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/record")
	})
	b.Run("plain", func(b *testing.B) {
		b.ReportAllocs()
		n := 0
		for b.Loop() {
			var m alsv3.StreamAccessLogsMessage
			if err := codec.Unmarshal(data, &m); err != nil {
				b.Fatal(err)
			}
			for _, e := range m.GetHttpLogs().GetLogEntry() {
				plainRecord(e, nil)
				n++
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/record")
	})
}
