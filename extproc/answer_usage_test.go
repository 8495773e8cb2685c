package extproc

import (
	"slices"
	"strings"
	"testing"

	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"github.com/weir-dev/weir/adapters/canon"
)

// accounted makes the translator of an answer, with a book.
func accounted(t testing.TB, caller, backend string, stream bool, b *book, stop func(canon.Usage) bool) *answer {
	t.Helper()
	d, _ := dialects(t).Get(caller)
	req := &canon.Request{IncludeUsage: true}
	a := newAnswer(&exchange{id: "x", dialect: &d, model: "gpt-all", stream: stream, request: req, created: t0}, backends(t)[backend], nil, "req-1")
	a.tally = tally{account: b, stop: stop, input: 40}
	return a
}

// TestTranslatedAnswersAreCounted: once, in full, with what the provider says.
func TestTranslatedAnswersAreCounted(t *testing.T) {
	used := canon.Usage{Input: 5, Output: 7}
	for _, c := range []struct {
		name, caller, backend, contentType, body string
		stream                                   bool
		partial                                  []canon.Usage
	}{
		{"Anthropic, whole", "openai", "anthropic", "application/json", anthropicWhole, false, nil},
		{"DashScope, whole", "openai", "dashscope", "application/json", dashscopeWhole, false, nil},
		{"Anthropic, whole though a stream was asked for", "openai", "anthropic", "application/json", anthropicWhole, true, nil},
		{"Anthropic, stream", "openai", "anthropic", "text/event-stream", anthropicStream, true, []canon.Usage{{Input: 5, Output: 1}}},
		{"DashScope, stream", "openai", "dashscope", "text/event-stream", dashscopeStream, true, nil},
		{"OpenAI to an Anthropic caller, stream", "anthropic", "openai", "text/event-stream", openaiStream, true, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			for size := 7; size < 4000; size += 1000 {
				b := &book{}
				a := accounted(t, c.caller, c.backend, c.stream, b, nil)
				a.onHeaders(answered(":status", "200", "content-type", c.contentType))
				if a.decoder == nil {
					a.onBody(piece(c.body, true)) // it is held until it is whole
				} else {
					for _, p := range piecesOf(c.body, size) {
						a.onBody(piece(p, false))
					}
					a.onBody(piece("", true))
				}
				if b.final == nil || *b.final != used || b.failed || b.cut {
					t.Fatalf("told %+v", b)
				}
				if n := len(c.partial); n > 0 && !slices.Equal(b.reports[:n], c.partial) {
					t.Errorf("before the end: %+v", b.reports)
				}
				finals := 0
				for _, u := range b.reports {
					if u == used {
						finals++
					}
				}
				if finals != 1 {
					t.Errorf("%d final reports: %+v", finals, b.reports)
				}
			}
		})
	}
}

// TestAnswersWithoutUsage are counted by what they say.
func TestAnswersWithoutUsage(t *testing.T) {
	b := &book{}
	a := accounted(t, "anthropic", "openai", false, b, nil)
	a.onHeaders(answered(":status", "200", "content-type", "application/json"))
	a.onBody(piece(`{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"Hello there"},"finish_reason":"stop"}]}`, true))
	if b.bytes != len("Hello there") || b.final != nil {
		t.Errorf("a whole answer: told %+v", b)
	}
	b = &book{}
	a = accounted(t, "anthropic", "openai", true, b, nil)
	a.onHeaders(answered(":status", "200", "content-type", "text/event-stream"))
	i, j := strings.Index(openaiStream, `data: {"id":"chatcmpl-7","object":"chat.completion.chunk","created":1,"model":"gpt-4o-2024","choices":[],`), strings.Index(openaiStream, "data: [DONE]")
	a.onBody(piece(openaiStream[:i]+openaiStream[j:], true))
	if b.bytes != len("Héllo 世界") || b.final != nil || b.failed {
		t.Errorf("a stream: told %+v", b)
	}
}

// TestTranslatedStreamsAborted: what was delivered is known when the caller goes away or the provider breaks off.
func TestTranslatedStreamsAborted(t *testing.T) {
	begun := anthropicStream[:strings.Index(anthropicStream, "世界")]
	b := &book{}
	a := accounted(t, "openai", "anthropic", true, b, nil)
	a.onHeaders(answered(":status", "200", "content-type", "text/event-stream"))
	a.onBody(piece(begun, false))
	if b.bytes != len("Héllo ") || b.final != nil || b.failed || b.reports[0].Input != 5 {
		t.Errorf("the caller has gone: told %+v", b)
	}
	a.onBody(piece("", true))
	if b.bytes != len("Héllo ") || b.final != nil || !b.failed {
		t.Errorf("the provider has gone: told %+v", b)
	}
}

// TestErrorsReportNothing, also where a provider gives them under status 200. What makes no sense, under a status that promised an
// answer, is noted: the provider may bill it.
func TestErrorsReportNothing(t *testing.T) {
	for _, c := range []struct {
		name, backend, status, contentType, body string
		stream, failed                           bool
	}{
		{"an error", "anthropic", "529", "application/json", `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"usage":{"input_tokens":5}}`, false, false},
		{"an error under 200", "dashscope", "200", "application/json", dashscopeFailure, false, false},
		{"an error under 200, for a stream", "dashscope", "200", "application/json", dashscopeFailure, true, false},
		{"an error in a stream", "anthropic", "200", "text/event-stream", "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n", true, true},
		{"rubbish", "anthropic", "200", "application/json", "rubbish", false, true},
		{"a part of an answer", "dashscope", "200", "application/json", `{"output":{"choi`, true, true},
		{"a stream that was not asked for", "anthropic", "200", "text/event-stream", anthropicStream, false, true},
		{"rubbish with an error's status", "anthropic", "500", "text/html", "rubbish", false, false},
	} {
		b := &book{}
		a := accounted(t, "openai", c.backend, c.stream, b, nil)
		a.onHeaders(answered(":status", c.status, "content-type", c.contentType))
		a.onBody(piece(c.body, true))
		if len(b.reports) > 0 || b.bytes > 0 || b.failed != c.failed || b.cut {
			t.Errorf("%s: told %+v", c.name, b)
		}
	}
	b := &book{}
	a := accounted(t, "openai", "anthropic", false, b, nil)
	end := answered(":status", "200")
	end.EndOfStream = true
	if a.onHeaders(end); len(b.reports) > 0 || b.bytes > 0 {
		t.Errorf("an answer without a body: told %+v", b)
	}
}

// TestTranslatedStreamsCut end in the caller's dialect, and as ones that became too long.
func TestTranslatedStreamsCut(t *testing.T) {
	for _, c := range []struct {
		caller, backend, stream string
		tokens                  int64
		text                    string
	}{
		{"openai", "anthropic", anthropicStream, 0, ""},
		{"openai", "anthropic", anthropicStream, 2, "Héllo "},
		{"openai", "dashscope", dashscopeStream, 2, "Héllo "},
		{"anthropic", "openai", openaiStream, 1, "Hé"},
		{"anthropic", "openai", openaiStream, 3, "Héllo "},
		{"anthropic", "dashscope", dashscopeStream, 1, "Héllo "},
	} {
		for size := 1; size < 100; size++ {
			b := &book{}
			a := accounted(t, c.caller, c.backend, true, b, after(c.tokens))
			resp := a.onHeaders(answered(":status", "200", "content-type", "text/event-stream"))
			if got := resp.GetModeOverride().GetResponseBodyMode(); got != filterv3.ProcessingMode_FULL_DUPLEX_STREAMED {
				t.Fatalf("the body of a stream that may be cut is asked for as %v", got)
			}
			out, ended := flow(t, a.onBody, piecesOf(c.stream, size)...)
			if !ended {
				t.Fatalf("%s from %s, pieces of %d: no end: %q", c.caller, c.backend, size, out)
			}
			text, finish, output := ending(t, c.caller, out)
			if text != c.text || finish != canon.FinishLength || !b.cut || b.failed || b.final != nil {
				t.Fatalf("%s from %s, pieces of %d: %q ends by %q, told %+v: %q", c.caller, c.backend, size, text, finish, b, out)
			}
			if last := b.reports[len(b.reports)-1]; last.Output != output || output < c.tokens {
				t.Fatalf("%s from %s, pieces of %d: caller reads %d, told %+v", c.caller, c.backend, size, output, b)
			}
			if resp := a.onTrailers(); resp != nil {
				t.Fatalf("said after a cut: %v", resp)
			}
		}
	}
}

// TestTranslatedStreamsThatAreNotCut come whole, by the way of those that are.
func TestTranslatedStreamsThatAreNotCut(t *testing.T) {
	open := func() (*book, *answer) {
		b := &book{}
		a := accounted(t, "openai", "anthropic", true, b, after(1000))
		a.onHeaders(answered(":status", "200", "content-type", "text/event-stream"))
		return b, a
	}
	b, a := open()
	out, ended := flow(t, a.onBody, append(piecesOf(anthropicStream, 50), "")...)
	if text, finish, output := ending(t, "openai", out); !ended || text != "Héllo 世界" || finish != canon.FinishStop || output != 7 || b.cut {
		t.Errorf("%q ends by %q with %d: told %+v", text, finish, output, b)
	}
	// Trailers end a stream as its last byte does, and what ends it for the caller comes before them.
	b, a = open()
	said := func(resp *extprocv3.ProcessingResponse) (string, bool) {
		next := resp.GetResponseBody().GetResponse().GetBodyMutation().GetStreamedResponse()
		return string(next.GetBody()), next.GetEndOfStream()
	}
	first, _ := said(a.onBody(piece(anthropicStream[:strings.Index(anthropicStream, "世界")], false)))
	rest, ended := said(a.onTrailers())
	if !ended || !b.failed || !strings.Contains(rest, `"error"`) || !strings.Contains(first, "Héllo") {
		t.Errorf("cut short by trailers: ended %v: %q", ended, rest)
	}
	_, a = open()
	a.onBody(piece(anthropicStream, false))
	if resp := a.onTrailers(); resp.GetResponseTrailers() == nil {
		t.Errorf("trailers after the end: %v", resp)
	}
}

// TestTranslatedStreamsThatCannotBeCut are asked for as ever: piece by piece.
func TestTranslatedStreamsThatCannotBeCut(t *testing.T) {
	a := accounted(t, "openai", "anthropic", true, &book{}, nil)
	if resp := a.onHeaders(answered(":status", "200", "content-type", "text/event-stream")); resp.GetModeOverride() != nil {
		t.Errorf("asked for %v", resp.GetModeOverride())
	}
	out := a.onBody(piece(anthropicStream, true)).GetResponseBody().GetResponse().GetBodyMutation()
	if out.GetStreamedResponse() != nil || len(out.GetBody()) == 0 {
		t.Errorf("the piece is %v", out)
	}
}

func TestTally(t *testing.T) {
	for _, c := range []struct {
		name   string
		events []canon.Event
		want   canon.Usage
	}{
		{"nothing", nil, canon.Usage{Input: 40}},
		{"by bytes", []canon.Event{{Kind: canon.EventText, Text: "0123456789"}, {Kind: canon.EventRefusal, Text: "0123456"}}, canon.Usage{Input: 40, Output: 5}},
		{"by events", []canon.Event{{Kind: canon.EventText, Text: "1"}, {Kind: canon.EventText, Text: "2"}, {Kind: canon.EventText}}, canon.Usage{Input: 40, Output: 2}},
		{"reasoning", []canon.Event{{Kind: canon.EventReasoning, Text: "01234567"}, {Kind: canon.EventReasoning, Signature: "0123456789"}, {Kind: canon.EventText, Text: "0123"}},
			canon.Usage{Input: 40, Output: 3, Reasoning: 2}},
		{"tools", []canon.Event{{Kind: canon.EventToolStart, Name: "weather"}, {Kind: canon.EventToolDelta, Text: `{"x":1}`}}, canon.Usage{Input: 40, Output: 4}},
		{"a first report", []canon.Event{{Kind: canon.EventStart, Usage: &canon.Usage{Input: 9, CacheRead: 2, Output: 3}}, {Kind: canon.EventText, Text: "0123"}},
			canon.Usage{Input: 9, CacheRead: 2, Output: 3}},
		{"the final report", []canon.Event{{Kind: canon.EventText, Text: "0123456789"}, {Kind: canon.EventFinish}, {Kind: canon.EventUsage, Usage: &canon.Usage{Input: 9, Output: 1}}},
			canon.Usage{Input: 9, Output: 1}},
	} {
		x := tally{input: 40}
		for i := range c.events {
			x.see(&c.events[i])
		}
		x.deliver() // to nobody
		if got := x.soFar(); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}
