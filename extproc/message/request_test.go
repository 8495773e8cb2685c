package message

import (
	"bytes"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weir-dev/weir/extproc/wire"
)

// generic is what the generated code reads of an encoded message, as a Request.
func generic(raw []byte) (*Request, error) {
	m := new(extprocv3.ProcessingRequest)
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, m); err != nil {
		return nil, err
	}
	out := &Request{Attributed: len(m.GetAttributes()) > 0}
	switch m.GetRequest().(type) {
	case *extprocv3.ProcessingRequest_RequestHeaders:
		out.Kind = RequestHeaders
	case *extprocv3.ProcessingRequest_ResponseHeaders:
		out.Kind = ResponseHeaders
	case *extprocv3.ProcessingRequest_RequestBody:
		out.Kind = RequestBody
	case *extprocv3.ProcessingRequest_ResponseBody:
		out.Kind = ResponseBody
	case *extprocv3.ProcessingRequest_RequestTrailers:
		out.Kind = RequestTrailers
	case *extprocv3.ProcessingRequest_ResponseTrailers:
		out.Kind = ResponseTrailers
	}
	for _, h := range m.GetRequestHeaders().GetHeaders().GetHeaders() {
		value := string(h.GetRawValue())
		if value == "" {
			value = h.GetValue()
		}
		out.Headers = append(out.Headers, Header{h.GetKey(), value})
	}
	fields := func(s *structpb.Struct) (list []Field) {
		for key, v := range s.GetFields() {
			list = append(list, Field{Key: key, Text: v.GetStringValue(), Number: v.GetNumberValue(), Bool: v.GetBoolValue()})
		}
		return list
	}
	out.Peek = fields(m.GetMetadataContext().GetFilterMetadata()[wire.PeekNamespace])
	out.Decision = fields(m.GetMetadataContext().GetFilterMetadata()[wire.DecisionNamespace])
	for _, s := range m.GetAttributes() {
		out.Attributes = append(out.Attributes, fields(s)...)
	}
	return out, nil
}

// same says where two requests differ; "" for nowhere. NaN is equal to itself.
func same(got, want *Request) string {
	last := func(list []Field) map[string]string {
		out := map[string]string{}
		for _, f := range list {
			out[f.Key] = fmt.Sprintf("%q %v %v", f.Text, f.Number, f.Bool)
		}
		return out
	}
	for _, c := range []struct {
		name      string
		got, want any
	}{
		{"kind", got.Kind, want.Kind}, {"attributed", got.Attributed, want.Attributed},
		{"headers", append([]Header{}, got.Headers...), append([]Header{}, want.Headers...)},
		{"peek", last(got.Peek), last(want.Peek)}, {"decision", last(got.Decision), last(want.Decision)},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			return fmt.Sprintf("%s: %v, want %v", c.name, c.got, c.want)
		}
	}
	return ""
}

func message(t testing.TB, m *extprocv3.ProcessingRequest) []byte {
	t.Helper()
	raw, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func structOf(t testing.TB, fields map[string]any) *structpb.Struct {
	t.Helper()
	s, err := structpb.NewStruct(fields)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func headers(list ...*corev3.HeaderValue) *extprocv3.ProcessingRequest_RequestHeaders {
	return &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: &extprocv3.HttpHeaders{Headers: &corev3.HeaderMap{Headers: list}, EndOfStream: true}}
}

// messages of all kinds, by name.
func messages(t testing.TB) map[string][]byte {
	t.Helper()
	line := func(name, value string) *corev3.HeaderValue {
		return &corev3.HeaderValue{Key: name, RawValue: []byte(value)}
	}
	usual := &extprocv3.ProcessingRequest{
		Request: headers(line(":method", "POST"), line(":path", "/v1/chat/completions?a=b"), line(":authority", "gateway"), line("authorization", "Bearer key"),
			line("content-type", "application/json"), line("x-bytes", "\xff\x00"), line("x-empty", ""), line("x-long", strings.Repeat("long ", 100)),
			&corev3.HeaderValue{Key: "x-text", Value: "text"}, line("x-twice", "1"), line("x-twice", "2")),
		MetadataContext: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
			wire.PeekNamespace: structOf(t, map[string]any{
				wire.PeekRead: true, wire.PeekID: "4be2c0ffee-17", wire.PeekModel: `"gpt-4o"`, wire.PeekMaxTokens: "64", wire.PeekSize: 512, wire.PeekMedia: 0,
				"null": nil, "list": []any{"a", 1}, "struct": map[string]any{"in": "side"}, "nan": math.NaN(), "no": false,
			}),
			wire.DecisionNamespace: structOf(t, map[string]any{wire.KeyExchange: "abc-1", wire.KeyDialect: "openai"}),
			"another":              structOf(t, map[string]any{"x": strings.Repeat("y", 300)}),
		}},
		ProtocolConfig: &extprocv3.ProtocolConfiguration{},
	}
	attempt := proto.CloneOf(usual)
	attempt.Attributes = map[string]*structpb.Struct{"envoy.filters.http.ext_proc": structOf(t, map[string]any{
		wire.ClusterAttribute: "chain/a", wire.HostMetadataAttribute: `filter_metadata { key: "weir" }`,
	})}
	out := map[string][]byte{
		"usual": message(t, usual), "attempt": message(t, attempt), "nothing": {},
		"bare":             message(t, &extprocv3.ProcessingRequest{Request: headers()}),
		"empty attributes": message(t, &extprocv3.ProcessingRequest{Request: headers(), Attributes: map[string]*structpb.Struct{"x": {}}}),
	}
	for name, m := range map[string]*extprocv3.ProcessingRequest{
		"body":    {Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: &extprocv3.HttpBody{Body: []byte("{}")}}},
		"answer":  {Request: &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: headers(line(":status", "200")).RequestHeaders}},
		"piece":   {Request: &extprocv3.ProcessingRequest_ResponseBody{ResponseBody: &extprocv3.HttpBody{Body: []byte("x")}}},
		"trailer": {Request: &extprocv3.ProcessingRequest_ResponseTrailers{ResponseTrailers: &extprocv3.HttpTrailers{}}},
		"other":   {Request: &extprocv3.ProcessingRequest_RequestTrailers{RequestTrailers: &extprocv3.HttpTrailers{}}},
	} {
		out[name] = message(t, m)
		// A message behind another is merged with it: of what it holds the last counts.
		out["headers, then "+name] = append(bytes.Clone(out["usual"]), out[name]...)
		out[name+", then headers"] = append(bytes.Clone(out[name]), out["usual"]...)
	}
	out["twice"] = append(bytes.Clone(out["usual"]), out["attempt"]...)
	field := func(number protowire.Number, b []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), b)
	}
	text := func(s string) []byte { return field(3, []byte(s)) } // a Value
	join := func(list ...[]byte) []byte { return bytes.Join(list, nil) }
	entryOf := func(key string, value []byte) []byte { return join(field(1, []byte(key)), field(2, value)) }
	peek := func(fields ...[]byte) []byte { // entries of weir.peek
		var s []byte
		for _, f := range fields {
			s = append(s, field(1, f)...)
		}
		return field(8, field(1, entryOf(wire.PeekNamespace, s)))
	}
	number := protowire.AppendFixed64(protowire.AppendTag(nil, 2, protowire.Fixed64Type), math.Float64bits(7))
	yes := protowire.AppendVarint(protowire.AppendTag(nil, 4, protowire.VarintType), 2)
	null := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 0)
	for name, raw := range map[string][]byte{
		"the value before its key":      peek(join(field(2, text("x")), field(1, []byte("id")))),
		"a key twice":                   peek(entryOf("id", text("a")), entryOf("id", number)),
		"a value of several kinds":      peek(entryOf("id", join(text("a"), number, yes)), entryOf("n", join(yes, text("b"))), entryOf("m", join(text("b"), null))),
		"a value in several parts":      peek(join(field(1, []byte("id")), field(2, number), field(2, text("a")), field(2, nil))),
		"an entry without a key":        peek(field(2, text("x"))),
		"an entry without a value":      peek(field(1, []byte("id"))),
		"a namespace twice":             join(peek(entryOf("id", text("a")), entryOf("n", text("b"))), peek(entryOf("id", text("c")))),
		"a namespace, then its name":    field(8, field(1, join(field(2, field(1, entryOf("id", text("a")))), field(1, []byte(wire.PeekNamespace))))),
		"a namespace in parts":          field(8, field(1, join(entryOf(wire.PeekNamespace, field(1, entryOf("id", text("a")))), field(2, field(1, entryOf("n", text("b"))))))),
		"a namespace under two names":   field(8, field(1, join(field(1, []byte("x")), entryOf(wire.PeekNamespace, field(1, entryOf("id", text("a"))))))),
		"wrong wire types":              join([]byte{2 << 3, 1}, []byte{8 << 3, 1}, []byte{9 << 3, 1}, field(10, []byte("x"))),
		"a tag in two bytes":            {0x92, 0x00, 0},
		"a length in two bytes":         {2<<3 | 2, 0x80, 0x00},
		"a group":                       {15<<3 | 3, 1 << 3, 1, 15<<3 | 4},
		"fields nobody knows":           join(field(100, []byte("x")), out["usual"], field(1000, nil)),
		"a header twice in one message": field(2, join(field(1, field(1, join(field(1, []byte("a")), field(1, []byte("b")), field(3, []byte("x")), field(3, nil)))))),
	} {
		out[name] = raw
	}
	return out
}

func TestRequestIsReadAsGenerated(t *testing.T) {
	for name, raw := range messages(t) {
		want, err := generic(raw)
		if err != nil {
			t.Fatalf("%s: the case is no message: %v", name, err)
		}
		got := Request{Kind: 99, Headers: []Header{{"left", "over"}}, Attributed: true}
		if err := got.UnmarshalWire(mem.BufferSlice{mem.SliceBuffer(raw[:len(raw)/2]), mem.SliceBuffer(raw[len(raw)/2:])}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := same(&got, want); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestRequestBroken cuts a message short everywhere, and breaks the lengths in it: that is an error, or leaves something that is read as
// the generated code reads it.
func TestRequestBroken(t *testing.T) {
	whole := messages(t)["attempt"]
	errors := 0
	for i := range whole {
		for _, raw := range [][]byte{whole[:i], append(append(bytes.Clone(whole[:i]), 0xff), whole[i+1:]...)} {
			var got Request
			err := got.Unmarshal(bytes.Clone(raw))
			want, wantErr := generic(raw)
			if err != nil {
				errors++
			}
			if wantErr == nil && err != nil {
				t.Fatalf("byte %d: %v, which is a message", i, err)
			}
			if wantErr == nil {
				if diff := same(&got, want); diff != "" {
					t.Fatalf("byte %d: %s", i, diff)
				}
			}
		}
	}
	if errors < len(whole)/2 {
		t.Errorf("%d errors in %d broken messages", errors, 2*len(whole))
	}
	for _, raw := range [][]byte{{0}, {2 << 3}, {2<<3 | 2, 5, 0}, {2<<3 | 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, {15<<3 | 4}, {15<<3 | 7}, {2<<3 | 2, 2, 1<<3 | 2, 9}} {
		if err := new(Request).Unmarshal(bytes.Clone(raw)); err == nil || !strings.HasPrefix(err.Error(), "a message of Envoy cannot be read: ") {
			t.Errorf("%x: error %v", raw, err)
		}
	}
}

// TestRequestMended: callers' bytes end up in strings, and must not end exchanges.
func TestRequestMended(t *testing.T) {
	raw := message(t, &extprocv3.ProcessingRequest{
		Request: headers(&corev3.HeaderValue{Key: "x-key~", Value: "a~b"}, &corev3.HeaderValue{Key: "x-raw", RawValue: []byte("r\xffw")}),
		MetadataContext: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
			wire.PeekNamespace: structOf(t, map[string]any{"model": "é~"}),
		}},
	})
	var m Request
	if err := m.Unmarshal(bytes.ReplaceAll(raw, []byte("~"), []byte("\xc3"))); err != nil {
		t.Fatal(err)
	}
	if want := []Header{{"x-key?", "a?b"}, {"x-raw", "r\xffw"}}; !reflect.DeepEqual(m.Headers, want) {
		t.Errorf("headers %q, want %q", m.Headers, want)
	}
	if got := Text(m.Peek, "model"); got != "é?" {
		t.Errorf("model %q", got)
	}
}

func TestText(t *testing.T) {
	list := []Field{{Key: "a", Text: "1"}, {Key: "b", Text: "2"}, {Key: "a", Text: "3"}}
	if got := Text(list, "a") + Text(list, "b") + Text(list, "c") + Text(nil, "a"); got != "32" {
		t.Errorf("got %q", got)
	}
}

func TestKindString(t *testing.T) {
	for k, want := range map[Kind]string{None: "nothing", RequestHeaders: "request headers", ResponseBody: "a response body", 99: "field 99"} {
		if got := k.String(); got != want {
			t.Errorf("%d: %q, want %q", int(k), got, want)
		}
	}
}

// FuzzRequest: whatever the generated code takes is read as it reads it, and nothing makes a panic. Strings that are not UTF-8 are taken
// here, too.
func FuzzRequest(f *testing.F) {
	for _, raw := range messages(f) {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var got Request
		err := got.Unmarshal(bytes.Clone(raw))
		want, wantErr := generic(raw)
		if wantErr != nil {
			return
		}
		if err != nil {
			t.Fatalf("refused: %v", err)
		}
		if diff := same(&got, want); diff != "" {
			t.Fatal(diff)
		}
	})
}

func BenchmarkRequest(b *testing.B) {
	raw := messages(b)["usual"]
	data := mem.BufferSlice{mem.SliceBuffer(raw)}
	b.Run("by hand", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := new(Request).UnmarshalWire(data); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("generated", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := proto.Unmarshal(raw, new(extprocv3.ProcessingRequest)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
