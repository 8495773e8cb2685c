package openai

import (
	"os"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
)

func benchBody(b *testing.B) []byte {
	body, err := os.ReadFile("testdata/requests/tools.in.json")
	if err != nil {
		b.Fatal(err)
	}
	return body
}

func BenchmarkParseRequest(b *testing.B) {
	body := benchBody(b)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := (inbound{}).ParseRequest(body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseRequestImage10MB(b *testing.B) {
	body := []byte(`{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,` +
		strings.Repeat("iVBORw0K", 10<<20/8) + `"}}]}]}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := (inbound{}).ParseRequest(body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBuildCall(b *testing.B) {
	r, err := inbound{}.ParseRequest(benchBody(b))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := (outbound{}).BuildCall(r, canon.CallOptions{Model: "m"}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeChunk(b *testing.B) {
	chunk := []byte(`data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"gpt-x","choices":[{"index":0,"delta":{"content":" hello"},"logprobs":null,"finish_reason":null}],"usage":null}` + "\n\n")
	d := outbound{}.NewStreamDecoder()
	n := 0
	emit := func(ev *canon.Event) { n += len(ev.Text) }
	b.SetBytes(int64(len(chunk)))
	b.ReportAllocs()
	for b.Loop() {
		d.Feed(chunk, emit)
	}
}

func BenchmarkEncodeChunk(b *testing.B) {
	e := inbound{}.NewStreamEncoder(canon.Reply{Model: "m", ID: "1", Created: 1700000000})
	ev := &canon.Event{Kind: canon.EventText, Text: " hello"}
	buf := e.Append(nil, ev)
	b.ReportAllocs()
	for b.Loop() {
		buf = e.Append(buf[:0], ev)
	}
}
