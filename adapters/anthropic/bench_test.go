package anthropic

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/internal/adaptertest"
)

// longRequest is about the size of what Claude Code sends: 60 turns, 20 tools, some 100 KB.
func longRequest() []byte {
	var b strings.Builder
	b.WriteString(`{"model":"m","max_tokens":32000,"stream":true,"system":[{"type":"text","text":"`)
	b.WriteString(strings.Repeat(`Rule: be \"kind\".\n`, 500))
	b.WriteString(`","cache_control":{"type":"ephemeral"}}],"messages":[`)
	for i := range 60 {
		if i > 0 {
			b.WriteByte(',')
		}
		role := "user"
		if i%2 == 1 {
			role = "assistant"
		}
		b.WriteString(`{"role":"` + role + `","content":[{"type":"text","text":"` + strings.Repeat("word ", 250) + `"}]}`)
	}
	b.WriteString(`],"tools":[`)
	for i := range 20 {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`{"name":"tool_` + strconv.Itoa(i) + `","description":"` + strings.Repeat("text ", 100) +
			`","input_schema":{"type":"object","properties":{"a":{"type":"string"}}}}`)
	}
	b.WriteString(`]}`)
	return []byte(b.String())
}

func BenchmarkParseRequest(b *testing.B) {
	body := longRequest()
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := (inbound{}).ParseRequest(body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBuildCall(b *testing.B) {
	req, err := inbound{}.ParseRequest(longRequest())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		call, err := outbound{}.BuildCall(req, canon.CallOptions{Model: "claude-sonnet-4-5"})
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(call.Body)))
	}
}

func BenchmarkStreamDecoder(b *testing.B) {
	event := []byte("event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\" hello wor\\nld\"}}\n\n")
	dec := outbound{}.NewStreamDecoder()
	emit := func(*canon.Event) {}
	dec.Feed(event, emit)
	b.SetBytes(int64(len(event)))
	b.ReportAllocs()
	for b.Loop() {
		dec.Feed(event, emit)
	}
}

func BenchmarkStreamEncoder(b *testing.B) {
	enc := inbound{}.NewStreamEncoder(testReply)
	ev := &canon.Event{Kind: canon.EventText, Text: " hello wor\nld"}
	dst := enc.Append(nil, ev)
	b.ReportAllocs()
	for b.Loop() {
		dst = enc.Append(dst[:0], ev)
	}
	b.SetBytes(int64(len(dst)))
}

func BenchmarkParseResponse(b *testing.B) {
	text, err := os.ReadFile("testdata/response/full.txt")
	if err != nil {
		b.Fatal(err)
	}
	body, _ := adaptertest.Cut(text)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := (outbound{}).ParseResponse(body); err != nil {
			b.Fatal(err)
		}
	}
}
