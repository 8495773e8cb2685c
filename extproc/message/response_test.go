package message

import (
	"strings"
	"testing"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weir-dev/weir/extproc/wire"
)

func none(int) (string, string) { return "", "" }

// checkMarshal marshals m, and compares it with what the generated code reads in it.
func checkMarshal(t *testing.T, m *extprocv3.ProcessingResponse, texts ...string) {
	t.Helper()
	want := proto.CloneOf(m)
	namespace := ""
	if len(texts) > 0 {
		namespace = wire.DecisionNamespace
		inside := &structpb.Struct{Fields: map[string]*structpb.Value{}}
		for i := 0; i < len(texts); i += 2 {
			if texts[i+1] != "" {
				inside.Fields[mended(texts[i])] = structpb.NewStringValue(mended(texts[i+1]))
			}
		}
		if want.DynamicMetadata == nil {
			want.DynamicMetadata = &structpb.Struct{}
		}
		if want.DynamicMetadata.Fields == nil {
			want.DynamicMetadata.Fields = map[string]*structpb.Value{}
		}
		want.DynamicMetadata.Fields[namespace] = structpb.NewStructValue(inside)
	}
	raw, err := Marshal(m, namespace, len(texts)/2, func(i int) (string, string) { return texts[2*i], texts[2*i+1] })
	if err != nil {
		t.Fatalf("%v: %v", m, err)
	}
	got := new(extprocv3.ProcessingResponse)
	if err := proto.Unmarshal(raw, got); err != nil {
		t.Fatalf("%v cannot be read: %v", m, err)
	}
	if len(got.ProtoReflect().GetUnknown()) > 0 || !proto.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// way lets a request go on.
func way(set []*corev3.HeaderValueOption, remove ...string) *extprocv3.ProcessingResponse {
	return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{
		Response: &extprocv3.CommonResponse{ClearRouteCache: true, HeaderMutation: &extprocv3.HeaderMutation{SetHeaders: set, RemoveHeaders: remove}},
	}}}
}

func option(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: name, RawValue: []byte(value)},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

func TestMarshal(t *testing.T) {
	long := strings.Repeat("0123456789", 2000) // lengths of three bytes, and more than the buffer has
	common := &extprocv3.CommonResponse{}
	for _, m := range []*extprocv3.ProcessingResponse{
		{},
		way(nil),
		way([]*corev3.HeaderValueOption{option("x-weir-rule", "a"), option("x-raw", "\xff\x00"), option("", ""), {}, nil, {Header: &corev3.HeaderValue{}}}),
		way([]*corev3.HeaderValueOption{option("x-weir-rule", long), option(strings.Repeat("n", 124), strings.Repeat("v", 127))}, "tracestate", "", long),
		{Response: &extprocv3.ProcessingResponse_RequestHeaders{}},
		{Response: &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{}}},
		{Response: &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{Response: common}}},
		{Response: &extprocv3.ProcessingResponse_RequestBody{}},
		{Response: &extprocv3.ProcessingResponse_RequestBody{RequestBody: &extprocv3.BodyResponse{Response: common}}},
		{Response: &extprocv3.ProcessingResponse_RequestBody{RequestBody: &extprocv3.BodyResponse{Response: way([]*corev3.HeaderValueOption{option("a", "b")}).GetRequestHeaders().GetResponse()}}},
		{Response: &extprocv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: &extprocv3.HeadersResponse{Response: common}}},
		{Response: &extprocv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: &extprocv3.ImmediateResponse{Body: []byte(long), Details: "weir_rate_limit"}}},
		{ModeOverride: &filterv3.ProcessingMode{RequestBodyMode: filterv3.ProcessingMode_BUFFERED}},
		{Response: way(nil).Response, ModeOverride: &filterv3.ProcessingMode{}},
		{Response: way(nil).Response, ModeOverride: &filterv3.ProcessingMode{
			RequestHeaderMode: filterv3.ProcessingMode_SEND, ResponseHeaderMode: filterv3.ProcessingMode_SKIP, RequestBodyMode: filterv3.ProcessingMode_BUFFERED,
			ResponseBodyMode: filterv3.ProcessingMode_STREAMED, RequestTrailerMode: filterv3.ProcessingMode_SEND, ResponseTrailerMode: -1,
		}},
		{Response: way(nil).Response, DynamicMetadata: &structpb.Struct{Fields: map[string]*structpb.Value{"other": structpb.NewNumberValue(1)}}},
	} {
		if h := m.GetRequestHeaders().GetResponse().GetHeaderMutation(); h != nil && len(h.SetHeaders) > 4 && h.SetHeaders[4] == nil {
			h.SetHeaders[4] = &corev3.HeaderValueOption{} // proto.Equal takes nil for another message
		}
		checkMarshal(t, m)
		checkMarshal(t, m, "a", "", "b", "")
		checkMarshal(t, m, wire.KeyRoute, "default/r", wire.KeyModel, "gpt-4o", "a", "first", "a", "last", "b", "kept", "b", "", "not utf-8", "\xff\xc3é")
		checkMarshal(t, m, wire.KeyRefusal, long, strings.Repeat("k", 126), strings.Repeat("v", 128), "short", "x")
	}
	for n := range 300 { // around every length that takes another byte
		checkMarshal(t, way([]*corev3.HeaderValueOption{option("n", strings.Repeat("x", n))}), "k", strings.Repeat("x", n))
	}
}

// TestMarshalKnowsEveryField sets each field that a response can have, one at a time, to something else than its default: what Marshal
// writes by hand must be all of it. It fails when Envoy's messages get fields that appendOnward does not know.
func TestMarshalKnowsEveryField(t *testing.T) {
	whole := func() *extprocv3.ProcessingResponse {
		m := way([]*corev3.HeaderValueOption{option("a", "b")}, "c")
		m.ModeOverride = &filterv3.ProcessingMode{RequestBodyMode: filterv3.ProcessingMode_BUFFERED}
		return m
	}
	tried := 0
	// path are the fields that lead to a message.
	var walk func(path []protoreflect.FieldDescriptor, d protoreflect.MessageDescriptor)
	walk = func(path []protoreflect.FieldDescriptor, d protoreflect.MessageDescriptor) {
		for i := range d.Fields().Len() {
			f := d.Fields().Get(i)
			for _, base := range []*extprocv3.ProcessingResponse{whole(), {}} {
				m := base.ProtoReflect()
				for _, p := range path {
					if p.IsList() {
						m = m.Mutable(p).List().AppendMutable().Message()
					} else {
						m = m.Mutable(p).Message()
					}
				}
				set(m, f)
				tried++
				checkMarshal(t, base)
				checkMarshal(t, base, "k", "v")
			}
			if f.Message() != nil && !f.IsMap() && len(path) < 6 && f.Message().FullName().Parent() != "google.protobuf" {
				walk(append(path[:len(path):len(path)], f), f.Message())
			}
		}
	}
	walk(nil, (&extprocv3.ProcessingResponse{}).ProtoReflect().Descriptor())
	if tried < 150 {
		t.Errorf("only %d fields were tried", tried)
	}
}

// set gives a field a value that is not its default.
func set(m protoreflect.Message, f protoreflect.FieldDescriptor) {
	switch {
	case f.IsMap():
		v := m.NewField(f)
		v.Map().Set(protoreflect.ValueOfString("k").MapKey(), v.Map().NewValue())
		m.Set(f, v)
	case f.IsList():
		v := m.NewField(f)
		if f.Message() != nil {
			v.List().Append(v.List().NewElement())
		} else {
			v.List().Append(scalar(f))
		}
		m.Set(f, v)
	case f.Message() != nil:
		m.Set(f, m.NewField(f))
	default:
		m.Set(f, scalar(f))
	}
}

func scalar(f protoreflect.FieldDescriptor) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(1)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString("s")
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte("b"))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(7)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(7)
	}
	return protoreflect.ValueOfInt64(7)
}

// TestMarshalRefuses: a message that Envoy would not take is an error.
func TestMarshalRefuses(t *testing.T) {
	m := &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: &extprocv3.ImmediateResponse{Details: "\xff"}}}
	if _, err := Marshal(m, "", 0, none); err == nil {
		t.Error("a text that is not UTF-8 was sent")
	}
}

// FuzzResponse writes headers and metadata of any text.
func FuzzResponse(f *testing.F) {
	f.Add("x-weir-rule", "r-1", "tracestate", "exchange", "abc-1", true)
	f.Add("", "", "", "", "", false)
	f.Add("é", "\xff", "\xc3", "k", strings.Repeat("v", 128), true)
	f.Fuzz(func(t *testing.T, name, value, removed, key, text string, both bool) {
		m := way([]*corev3.HeaderValueOption{option(mended(name), value)}, mended(removed))
		if both {
			m.ModeOverride = &filterv3.ProcessingMode{ResponseHeaderMode: filterv3.ProcessingMode_HeaderSendMode(len(text))}
		}
		checkMarshal(t, m, key, text)
	})
}

// mended is s with a "?" for every byte that is no UTF-8.
func mended(s string) string {
	var b strings.Builder
	for i, r := range s {
		if r == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)) {
			r = '?'
		}
		b.WriteRune(r)
	}
	return b.String()
}

func BenchmarkResponse(b *testing.B) {
	texts := []string{wire.KeyVersion, "v1", wire.KeyTrace, "00-0123456789abcdef0123456789abcdef-0123456789abcde", wire.KeyTraceFlags, "-01", wire.KeyConsumer, "demo",
		wire.KeyTenant, "acme", wire.KeyCredential, "APIKey/default/k1", wire.KeyOperation, "chat", wire.KeyModel, "gpt-4o", wire.KeyRoute, "default/direct",
		wire.KeyDialect, "openai", wire.KeyExchange, "0123456789abcdef-1"}
	m := way([]*corev3.HeaderValueOption{option(wire.RuleHeader, "direct-of-direct"), option(wire.PathHeader, "/chat/completions")})
	b.Run("by hand", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Marshal(m, wire.DecisionNamespace, len(texts)/2, func(i int) (string, string) { return texts[2*i], texts[2*i+1] }); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("generated", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			fields := make(map[string]*structpb.Value, len(texts)/2)
			for i := 0; i < len(texts); i += 2 {
				fields[texts[i]] = structpb.NewStringValue(texts[i+1])
			}
			m.DynamicMetadata = &structpb.Struct{Fields: map[string]*structpb.Value{wire.DecisionNamespace: structpb.NewStructValue(&structpb.Struct{Fields: fields})}}
			if _, err := proto.Marshal(m); err != nil {
				b.Fatal(err)
			}
		}
	})
}
