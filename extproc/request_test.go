package extproc

import (
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

func TestReadRequest(t *testing.T) {
	h := append(headersOf(":method", "POST", ":path", "/v1/x?a=1?b", ":authority", "h", "x-request-id", "id", "content-encoding", "gzip", "content-type", "text/x",
		"x-many", "1", "x-many", "2", "x-empty", ""), &corev3.HeaderValue{Key: "x-text", Value: "as text"})
	r := readRequest(requestHeaders(h, peekedAt(`"m"`, "true", "")))
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
	if r := readRequest(requestHeaders(headersOf(":path", "/p"), nil)); r.path != "/p" || r.query != "" || r.peek.read {
		t.Errorf("got %+v", r)
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
