package extproc

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/sse"
)

// book is an account that writes down what it is told.
type book struct {
	reports []canon.Usage
	final   *canon.Usage
	bytes   int
	cut     bool
	failed  bool
}

func (b *book) Report(u canon.Usage, complete bool) {
	b.reports = append(b.reports, u)
	if complete {
		b.final = &u
	}
}
func (b *book) Delivered(n int) { b.bytes += n }
func (b *book) Cut()            { b.cut = true }
func (b *book) Fail()           { b.failed = true }

// after ends a stream that has so many output tokens.
func after(tokens int64) func(canon.Usage) bool {
	return func(u canon.Usage) bool { return u.Output >= tokens }
}

// openaiStream is a chat of four deltas, with what the provider has beside canon.
const openaiStream = `data: {"id":"chatcmpl-7","object":"chat.completion.chunk","created":1,"model":"gpt-4o-2024","system_fingerprint":"fp","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-7","object":"chat.completion.chunk","created":1,"model":"gpt-4o-2024","system_fingerprint":"fp","choices":[{"index":0,"delta":{"content":"Hé"},"finish_reason":null}],"usage":null}

: a comment

data: {"id":"chatcmpl-7","object":"chat.completion.chunk","created":1,"model":"gpt-4o-2024","choices":[{"index":0,"delta":{"content":"llo"},"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-7","object":"chat.completion.chunk","created":1,"model":"gpt-4o-2024","choices":[{"index":0,"delta":{"content":" "},"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-7","object":"chat.completion.chunk","created":1,"model":"gpt-4o-2024","choices":[{"index":0,"delta":{"content":"世界"},"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-7","object":"chat.completion.chunk","created":1,"model":"gpt-4o-2024","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}

data: {"id":"chatcmpl-7","object":"chat.completion.chunk","created":1,"model":"gpt-4o-2024","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}

data: [DONE]

`

// meterOf makes the meter of a stream whose headers have come.
func meterOf(t testing.TB, dialect string, b *book, stop func(canon.Usage) bool) *meter {
	t.Helper()
	d, ok := dialects(t).Get(dialect)
	if !ok {
		t.Fatalf("no dialect %s", dialect)
	}
	m := newMeter(&d, canon.Reply{Model: "m", ID: "x-1", Created: t0.Unix()}, tally{account: b, stop: stop, input: 40})
	resp := m.onHeaders(answered(":status", "200", "content-type", "text/event-stream; charset=utf-8"))
	if got := resp.GetModeOverride().GetResponseBodyMode(); got != filterv3.ProcessingMode_FULL_DUPLEX_STREAMED {
		t.Fatalf("the body of a stream is asked for as %v", got)
	}
	return m
}

func answered(pairs ...string) *extprocv3.HttpHeaders {
	return &extprocv3.HttpHeaders{Headers: &corev3.HeaderMap{Headers: headersOf(pairs...)}}
}

// flow feeds pieces, the last one with the end of the stream, and joins what reaches the caller until the end does. Nothing may be
// said after that.
func flow(t testing.TB, on func(*extprocv3.HttpBody) *extprocv3.ProcessingResponse, pieces ...string) (out string, ended bool) {
	t.Helper()
	for i, p := range pieces {
		resp := on(piece(p, i == len(pieces)-1))
		if ended {
			if resp != nil {
				t.Fatalf("said after the end: %v", resp)
			}
			continue
		}
		next := resp.GetResponseBody().GetResponse().GetBodyMutation().GetStreamedResponse()
		if next == nil {
			t.Fatalf("no piece of a stream: %v", resp)
		}
		out += string(next.GetBody())
		ended = next.GetEndOfStream()
	}
	return out, ended
}

// piecesOf cuts s into pieces of n bytes.
func piecesOf(s string, n int) (out []string) {
	for c := range slices.Chunk([]byte(s), n) {
		out = append(out, string(c))
	}
	return out
}

func TestMeterPassesEveryByte(t *testing.T) {
	for dialect, stream := range map[string]string{"openai": openaiStream, "anthropic": anthropicStream} {
		for _, stop := range []func(canon.Usage) bool{nil, after(1000)} {
			for cut := range len(stream) + 1 {
				b := &book{}
				out, ended := flow(t, meterOf(t, dialect, b, stop).onBody, stream[:cut], stream[cut:])
				if out != stream || !ended {
					t.Fatalf("%s, cut at %d: ended %v: %q", dialect, cut, ended, out)
				}
				if b.final == nil || b.final.Output != 7 || b.final.Input != 5 || b.cut || b.failed {
					t.Fatalf("%s, cut at %d: told %+v", dialect, cut, b)
				}
			}
		}
	}
}

// ending reads a stream as its caller does: how it ends, and the output that its usage says; -1 where it has none.
func ending(t testing.TB, dialect, stream string) (text string, finish canon.FinishReason, output int64) {
	t.Helper()
	d, _ := dialects(t).Get(dialect)
	dec := d.Out.NewStreamDecoder()
	output = -1
	see := func(ev *canon.Event) {
		switch ev.Kind {
		case canon.EventText:
			text += ev.Text
		case canon.EventFinish:
			finish = ev.Finish
		case canon.EventUsage:
			output = ev.Usage.Output
		case canon.EventError:
			t.Fatalf("the stream is broken: %s in %q", ev.Err.Message, stream)
		}
	}
	dec.Feed([]byte(stream), see)
	if !dec.Ended() {
		t.Fatalf("the stream has no end: %q", stream)
	}
	dec.End(see)
	return text, finish, output
}

func TestMeterCuts(t *testing.T) {
	crlf := strings.ReplaceAll(openaiStream, "\n", "\r\n")
	for _, c := range []struct {
		name, dialect, stream string
		tokens                int64 // after which the money is spent
		text                  string
		output                int64
	}{
		{"before anything", "openai", openaiStream, 0, "", -1}, // nobody knows that usage was asked for
		{"after one delta", "openai", openaiStream, 1, "Hé", 1},
		{"after two", "openai", openaiStream, 2, "Héllo", 2},
		{"at the last delta", "openai", openaiStream, 4, "Héllo 世界", 4},
		{"lines of CR LF", "openai", crlf, 2, "Héllo", 2},
		{"lines of CR", "openai", strings.ReplaceAll(openaiStream, "\n", "\r"), 2, "Héllo", 2},
		{"Anthropic, before anything", "anthropic", anthropicStream, 0, "", 0},
		{"Anthropic, by length", "anthropic", anthropicStream, 2, "Héllo ", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			for size := 1; size <= 100; size++ { // so that no piece has the last delta and the end
				b := &book{}
				stop := after(c.tokens)
				out, ended := flow(t, meterOf(t, c.dialect, b, stop).onBody, piecesOf(c.stream, size)...)
				if !ended {
					t.Fatalf("pieces of %d: not ended: %q", size, out)
				}
				text, finish, output := ending(t, c.dialect, out)
				if finish != canon.FinishLength || !b.cut {
					t.Fatalf("pieces of %d: ends by %q, told %+v: %q", size, finish, b, out)
				}
				if text != c.text || output != c.output {
					t.Fatalf("pieces of %d: %q, output %d: %q", size, text, output, out)
				}
				if last := b.reports[len(b.reports)-1]; last.Output != max(output, 0) || b.final != nil || b.failed {
					t.Fatalf("pieces of %d: caller reads %d, told %+v", size, output, b)
				}
				if c.tokens == 0 {
					continue
				}
				// All before the end is the provider's own; where lines end in CR, an LF goes between.
				begin, reason := "data: {", `"length"`
				if c.dialect == "anthropic" {
					begin, reason = "event: content_block_stop", `"max_tokens"`
				}
				passed := out[:strings.LastIndex(out[:strings.Index(out, reason)], begin)]
				if !strings.HasPrefix(c.stream, passed) && !strings.HasPrefix(c.stream, strings.TrimSuffix(passed, "\n")) {
					t.Fatalf("pieces of %d: what passed is changed: %q", size, out)
				}
			}
		})
	}
}

// TestMeterCutNamesTheAnswer: what ends a stream belongs to the answer that the provider began.
func TestMeterCutNamesTheAnswer(t *testing.T) {
	out, _ := flow(t, meterOf(t, "openai", &book{}, after(2)).onBody, piecesOf(openaiStream, 20)...)
	end := out[strings.LastIndex(out[:strings.Index(out, `"length"`)], "data: "):]
	if !strings.Contains(end, `"id":"chatcmpl-7"`) || !strings.HasSuffix(end, "data: [DONE]\n\n") {
		t.Errorf("the end: %s", end)
	}
	if !strings.Contains(end, `"model":"gpt-4o-2024"`) {
		t.Errorf("the end names another model: %s", end)
	}
	if !strings.Contains(end, `"prompt_tokens":40,"completion_tokens":2`) {
		t.Errorf("the estimate of the input is not in the usage: %s", end)
	}
}

// TestMeterCutWithoutUsage: a caller that did not ask for usage gets no event that has nothing else.
func TestMeterCutWithoutUsage(t *testing.T) {
	stream := strings.ReplaceAll(openaiStream, `,"usage":null`, "")
	out, _ := flow(t, meterOf(t, "openai", &book{}, after(2)).onBody, piecesOf(stream, 20)...)
	if _, finish, output := ending(t, "openai", out); finish != canon.FinishLength || output != -1 || strings.Contains(out, `"choices":[]`) {
		t.Errorf("ends by %q with output %d: %s", finish, output, out)
	}
}

// TestMeterDoesNotCutTheEnd: once the provider has told why it stopped, a cut saves nothing and loses its count.
func TestMeterDoesNotCutTheEnd(t *testing.T) {
	for _, split := range []string{`data: {"id":"chatcmpl-7","object":"chat.completion.chunk","created":1,"model":"gpt-4o-2024","choices":[],`, "data: [DONE]"} {
		b := &book{}
		i := strings.Index(openaiStream, split)
		out, ended := flow(t, meterOf(t, "openai", b, after(1)).onBody, openaiStream[:i], openaiStream[i:])
		if out != openaiStream || !ended || b.cut || b.final == nil {
			t.Errorf("ended %v, told %+v: %s", ended, b, out)
		}
	}
	b := &book{}
	if out, _ := flow(t, meterOf(t, "openai", b, after(1)).onBody, openaiStream); out != openaiStream || b.cut {
		t.Errorf("a stream that came in one piece is cut: %s", out)
	}
}

// TestMeterAborted: what was delivered is known when the caller goes away.
func TestMeterAborted(t *testing.T) {
	b := &book{}
	m := meterOf(t, "openai", b, after(1000))
	for _, p := range piecesOf(openaiStream[:strings.Index(openaiStream, `"stop"`)], 30) {
		m.onBody(piece(p, false))
	}
	// 13 bytes of text in four events: by its bytes that would be four tokens as well.
	if b.bytes != len("Héllo 世界") || b.final != nil || b.cut || b.failed {
		t.Errorf("told %+v", b)
	}
	b = &book{}
	m = meterOf(t, "openai", b, after(1000))
	m.onBody(piece(strings.Repeat("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"世\"}}]}\n\n", 9), false))
	if last := b.reports[len(b.reports)-1]; b.bytes != 27 || last.Output != 9 {
		t.Errorf("nine events of three bytes: told %+v", b)
	}
}

func TestMeterTrailers(t *testing.T) {
	b := &book{}
	m := meterOf(t, "openai", b, after(1000))
	stream := strings.TrimSuffix(openaiStream, "data: [DONE]\n\n")
	m.onBody(piece(stream, false))
	if resp := m.onTrailers(); resp.GetResponseTrailers() == nil || b.final == nil {
		t.Errorf("%v, told %+v", resp, b)
	}
	m = meterOf(t, "openai", b, after(1))
	m.onBody(piece(openaiStream[:600], false))
	if resp := m.onTrailers(); resp != nil {
		t.Errorf("said after a cut: %v", resp)
	}
}

// TestMeterUnreadable: what is no chat stream passes, and is not cut.
func TestMeterUnreadable(t *testing.T) {
	for _, stream := range []string{"data: nonsense\n\n", "event: error\ndata: {\"error\":{\"message\":\"no\"}}\n\n", "\x00\xff", ""} {
		b := &book{}
		long := stream + strings.Repeat("data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n", 9)
		m := meterOf(t, "openai", b, after(1))
		if stream == "\x00\xff" || stream == "" {
			m.stop = nil
		}
		if out, ended := flow(t, m.onBody, long, stream, ""); out != long+stream || !ended || b.cut {
			t.Errorf("%q: ended %v, told %+v: %q", stream, ended, b, out)
		}
	}
}

func TestMeterLeavesOtherAnswersAlone(t *testing.T) {
	d, _ := dialects(t).Get("openai")
	for name, h := range map[string][]string{
		"an error":      {":status", "429", "content-type", "text/event-stream"},
		"no stream":     {":status", "200", "content-type", "application/json"},
		"no type":       {":status", "200"},
		"a packed body": {":status", "200", "content-type", "text/event-stream", "content-encoding", "gzip"},
	} {
		resp := newMeter(&d, canon.Reply{}, tally{stop: after(0)}).onHeaders(answered(h...))
		if resp.GetModeOverride().GetResponseBodyMode() != filterv3.ProcessingMode_NONE || resp.GetResponseHeaders().GetResponse().GetHeaderMutation() != nil {
			t.Errorf("%s: %v", name, resp)
		}
	}
	end := answered(":status", "200", "content-type", "text/event-stream")
	end.EndOfStream = true
	if resp := newMeter(&d, canon.Reply{}, tally{stop: after(0)}).onHeaders(end); resp.GetModeOverride().GetResponseBodyMode() != filterv3.ProcessingMode_NONE {
		t.Errorf("nothing follows: %v", resp)
	}
}

// blocks is an encoder that follows: it writes down what it sees.
type blocks struct {
	seen     []string
	appended int
}

func (b *blocks) Append(dst []byte, _ *canon.Event) []byte { b.appended++; return dst }
func (b *blocks) End(dst []byte) []byte                    { return append(dst, "the end"...) }
func (b *blocks) Follow(ev sse.Event) bool {
	b.seen = append(b.seen, string(ev.Data))
	return string(ev.Data) == "last"
}

// TestMeterFollows: an encoder that follows sees the provider's events, and says when there is nothing to cut.
func TestMeterFollows(t *testing.T) {
	for _, c := range []struct{ stream, want string }{
		{"data: a\n\ndata: b\n\nda", "data: a\n\ndata: b\n\nthe end"},
		{"data: a\n\ndata: last\n\nda", "data: a\n\ndata: last\n\nda"},
	} {
		m := meterOf(t, "openai", &book{}, after(0))
		enc := &blocks{}
		m.encoder, m.follows, m.decoder = enc, enc, deaf{}
		out := m.onBody(piece(c.stream, false)).GetResponseBody().GetResponse().GetBodyMutation().GetStreamedResponse().GetBody()
		if string(out) != c.want || len(enc.seen) != 2 {
			t.Errorf("%q gives %q, seen %q", c.stream, out, enc.seen)
		}
	}
}

// deaf is a decoder that hears nothing.
type deaf struct{}

func (deaf) Feed([]byte, func(*canon.Event)) {}
func (deaf) Ended() bool                     { return false }
func (deaf) End(func(*canon.Event))          {}

func TestLastEventEnd(t *testing.T) {
	for _, c := range []struct {
		tail, piece string
		want        int
	}{
		{"\n\n\n", "", 0}, {"\n\n\n", "data", 0}, {"abc", "data", -1}, {"abc", "", -1},
		{"abc", "d\n\nx", 3}, {"abc", "d\n\n", 3}, {"abc", "d\n", -1}, {"bc\n", "\nx", 1}, {"bc\n", "x", -1}, {"c\n\n", "x", 0},
		{"abc", "d\r\n\r\nx", 5}, {"c\r\n", "\r\nx", 2}, {"\r\n\r", "\nx", 1}, {"\n\r\n", "x", 0}, {"c\r\n", "x", -1}, {"bc\r", "\nx", -1},
		{"abc", "d\r\rx", 3}, {"bc\r", "\rx", 1}, {"c\r\r", "x", 0}, {"\r\n\r", "x", 0}, {"c\r\r", "\nx", 1},
		{"abc", "a\n\nb\n\nc", 6},
	} {
		last := tail([]byte("abcd" + c.tail))
		if got := last.lastEventEnd([]byte(c.piece)); got != c.want {
			t.Errorf("%q then %q: %d, want %d", c.tail, c.piece, got, c.want)
		}
	}
}

func TestTail(t *testing.T) {
	for size := 1; size < 20; size++ {
		last, all := tail([]byte("abcdefg")), "abcdefg"
		for _, p := range piecesOf(`hijklmno"usage":null,pqrst`, size) {
			found := strings.Contains(all+p, `"usage":`) && !strings.Contains(all, `"usage":`)
			if got := last.contains(`"usage":`, []byte(p)); got != found && (found || !strings.Contains(all, `"usage":`)) {
				t.Fatalf("pieces of %d: %q after %q: %v", size, p, all, got)
			}
			last.move([]byte(p))
			all += p
			if want := all[len(all)-len(last):]; string(last[:]) != want {
				t.Fatalf("pieces of %d: %q, want %q", size, last, want)
			}
		}
	}
}

// FuzzMeter: whatever a provider sends, cut anywhere, all of it passes up to the place where the stream is cut, and that place
// is between two events.
func FuzzMeter(f *testing.F) {
	for _, s := range []string{openaiStream, anthropicStream, strings.ReplaceAll(openaiStream, "\n", "\r\n"), strings.ReplaceAll(anthropicStream, "\n", "\r"), "data: {}\n\n\r\r\n\n"} {
		f.Add(s, uint8(7), uint8(2))
		f.Add(s, uint8(200), uint8(0))
	}
	f.Fuzz(func(t *testing.T, stream string, size, tokens uint8) {
		if stream == "" {
			return
		}
		for _, dialect := range []string{"openai", "anthropic"} {
			b := &book{}
			m := meterOf(t, dialect, b, after(int64(tokens)))
			var passed []byte
			for _, p := range piecesOf(stream, int(size)+1) {
				resp := m.onBody(piece(p, false))
				next := resp.GetResponseBody().GetResponse().GetBodyMutation().GetStreamedResponse()
				passed = append(passed, next.GetBody()...)
				if next.GetEndOfStream() {
					break
				}
			}
			if b.cut != m.over {
				t.Fatalf("told %+v", b)
			}
			if !b.cut {
				if string(passed) != stream {
					t.Fatalf("passed %q", passed)
				}
				continue
			}
			n := 0
			for n < len(passed) && n < len(stream) && passed[n] == stream[n] {
				n++
			}
			// What ends the stream begins a line of its own, after a blank one; some of its bytes may be the provider's next.
			start := tail([]byte("\n\n\n\n\n\n\n"))
			begin := map[string]string{"openai": "data: {", "anthropic": "event: "}[dialect]
			at := start.lastEventEnd(passed[:n])
			for at > 0 && !bytes.HasPrefix(passed[at:], []byte(begin)) {
				at = start.lastEventEnd(passed[:at-1])
			}
			if at < 0 {
				t.Fatalf("cut inside an event: %q", passed)
			}
			if end := string(passed[at:]); !strings.Contains(end, `"length"`) && !strings.Contains(end, `"max_tokens"`) {
				t.Fatalf("no end: %q", passed)
			}
		}
	})
}
