package extproc

import (
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weir-dev/weir/extproc/wire"
)

func TestReadRequest(t *testing.T) {
	h := append(headersOf(":method", "POST", ":path", "/v1/x?a=1?b", ":authority", "h", "x-request-id", "id", "content-encoding", "gzip", "content-type", "text/x",
		"x-many", "1", "x-many", "2", "x-empty", ""), &corev3.HeaderValue{Key: "x-text", Value: "as text"})
	r := readRequest(read(t, requestHeaders(h, peekedAt(`"m"`, "true", ""))))
	if r.method != "POST" || r.path != "/v1/x" || r.query != "a=1?b" || r.requestID != "id" || r.encoding != "gzip" || r.contentType != "text/x" || r.upgrade || r.hosts {
		t.Errorf("got %+v", r)
	}
	if r.peek != (peek{read: true, model: `"m"`, stream: "true"}) {
		t.Errorf("peek %+v", r.peek)
	}
	for name, want := range map[string]string{"x-many": "1,2", "x-text": "as text", "x-empty": "", "x-absent": ""} {
		got, ok := r.header(name)
		if got != want || ok != (name != "x-absent") || r.headerValue(name) != want {
			t.Errorf("%s: %q, %v", name, got, ok)
		}
	}
	if r := readRequest(read(t, requestHeaders(headersOf(":path", "/p"), nil))); r.path != "/p" || r.query != "" || r.peek.read {
		t.Errorf("got %+v", r)
	}
}

// peekedAs is metadata as peek.lua leaves it.
func peekedAs(fields map[string]*structpb.Value) *corev3.Metadata {
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{wire.PeekNamespace: {Fields: fields}}}
}

func TestReadPeek(t *testing.T) {
	text, number := structpb.NewStringValue, structpb.NewNumberValue
	m := requestHeaders(headersOf(":path", "/p"), peekedAs(map[string]*structpb.Value{
		wire.PeekID: text("a-1"), wire.PeekMaxTokens: text("1"), wire.PeekMaxCompletionTokens: text("2"), wire.PeekMaxOutputTokens: text("3"),
		wire.PeekN: text("4"), wire.PeekSize: number(5), wire.PeekMedia: number(6), wire.PeekMediaCount: number(7),
	}))
	want := peek{id: "a-1", maxTokens: "1", maxCompletionTokens: "2", maxOutputTokens: "3", n: "4", size: 5, media: 6, mediaCount: 7}
	if got := readRequest(read(t, m)).peek; got != want {
		t.Errorf("got %+v", got)
	}
}

func TestReadSource(t *testing.T) {
	for said, want := range map[string]string{
		"192.0.2.1:80": "192.0.2.1", "[2001:db8::1]:80": "2001:db8::1", "[::ffff:192.0.2.1]:80": "192.0.2.1", "[fe80::1%eth0]:80": "fe80::1",
		"": "invalid IP", "192.0.2.1": "invalid IP", "/tmp/socket": "invalid IP",
	} {
		m := requestHeaders(headersOf(":path", "/p"), peekedAs(map[string]*structpb.Value{wire.PeekSource: structpb.NewStringValue(said)}))
		if got := readRequest(read(t, m)).source.String(); got != want {
			t.Errorf("%q: %s, want %s", said, got, want)
		}
	}
}

func TestSeconds(t *testing.T) {
	for d, want := range map[time.Duration]string{time.Second: "1", time.Nanosecond: "1", 1500 * time.Millisecond: "2", time.Minute: "60"} {
		if got := seconds(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

func TestJoinKeepsToHeaders(t *testing.T) {
	if got := join([]string{"a", "b\r\nx: y", "ü"}); strings.ContainsAny(got, "\r\nü") || !strings.HasPrefix(got, "a, b") {
		t.Errorf("got %q", got)
	}
}

func TestIsJSON(t *testing.T) {
	for contentType, want := range map[string]bool{
		"application/json": true, "Application/JSON ; charset=utf-8": true, "application/problem+json": true,
		"text/plain": false, "": false, "application/jsonx": false, "multipart/form-data; boundary=x": false,
	} {
		if got := isJSON(contentType); got != want {
			t.Errorf("%q: %v", contentType, got)
		}
	}
}
