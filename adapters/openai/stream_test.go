package openai

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/internal/adaptertest"
)

var kindNames = [...]string{"start", "text", "reasoning", "refusal", "tool-start", "tool-delta", "finish", "usage", "error", "ping"}

// show prints an event on one line.
func show(ev *canon.Event) string {
	switch ev.Kind {
	case canon.EventStart:
		return fmt.Sprintf("start id=%q model=%q", ev.ID, ev.Model)
	case canon.EventToolStart:
		return fmt.Sprintf("tool-start %d id=%q name=%q", ev.Tool, ev.CallID, ev.Name)
	case canon.EventToolDelta:
		return fmt.Sprintf("tool-delta %d %q", ev.Tool, ev.Text)
	case canon.EventFinish:
		return fmt.Sprintf("finish %s", ev.Finish)
	case canon.EventUsage:
		return fmt.Sprintf("usage %+v", *ev.Usage)
	case canon.EventError:
		return fmt.Sprintf("error %s %d code=%q param=%q %q", ev.Err.Kind, ev.Err.HTTPStatus(), ev.Err.Code, ev.Err.Param, ev.Err.Message)
	case canon.EventPing:
		return "ping"
	}
	return fmt.Sprintf("%s %q", kindNames[ev.Kind], ev.Text)
}

// decode feeds a stream in chunks of size bytes and prints its events.
func decode(t testing.TB, stream []byte, size int) string {
	t.Helper()
	return adaptertest.Decode(t, outbound{}.NewStreamDecoder(), show, slices.Collect(slices.Chunk(stream, size))...)
}

// TestStreams decodes each stream of testdata/streams, cut in every way that a fixed size gives,
// and prints it again for a caller of this dialect.
func TestStreams(t *testing.T) {
	files, _ := filepath.Glob("testdata/streams/*.sse")
	if len(files) == 0 {
		t.Fatal("no streams in testdata")
	}
	for _, file := range files {
		base := strings.TrimSuffix(file, ".sse")
		t.Run(filepath.Base(base), func(t *testing.T) {
			stream, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			whole := decode(t, stream, len(stream)+1)
			for _, size := range []int{1, 2, 3, 5, 7, 16, 100} {
				if got := decode(t, stream, size); got != whole {
					t.Fatalf("chunks of %d give\n%swhole:\n%s", size, got, whole)
				}
			}
			e := inbound{}.NewStreamEncoder(canon.Reply{Model: "caller-model", ID: "7", Created: 1700000001, IncludeUsage: true})
			d := outbound{}.NewStreamDecoder()
			var out []byte
			emit := func(ev *canon.Event) { out = e.Append(out, ev) }
			d.Feed(stream, emit)
			d.End(emit)
			out = e.End(out)
			adaptertest.File(t, base+".events.txt", []byte(whole+adaptertest.Ending(t, outbound{}.NewStreamDecoder, stream)+"\n--- for the caller ---\n"+string(out)))
			// What was printed is a stream of this dialect with the same events. The chunk with the
			// role comes on its own, and the names are the caller's.
			again := decode(t, out, len(out)+1)
			if a, b := lastLine(again), lastLine(whole); a != b {
				t.Errorf("printed and read again it ends with %q, want %q", a, b)
			}
		})
	}
}

// lastLine is the last event without the error code, which each side fills in where it is missing.
func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	last := lines[len(lines)-1]
	if before, after, ok := strings.Cut(last, ` code="`); ok {
		last = before + after[strings.IndexByte(after, '"')+1:]
	}
	return last
}

func TestDecoderSizeLimit(t *testing.T) {
	d := outbound{}.NewStreamDecoder()
	var got []string
	emit := func(ev *canon.Event) { got = append(got, show(ev)) }
	chunk := bytes.Repeat([]byte("x"), 1<<20)
	d.Feed([]byte("data: "), emit)
	for range 20 {
		d.Feed(chunk, emit)
	}
	d.End(emit)
	want := `error bad_gateway 502 code="" param="" "the provider sent a server-sent event that is larger than the limit"`
	if len(got) != 1 || got[0] != want {
		t.Errorf("got %q, want one %q", got, want)
	}
}

func TestEncoder(t *testing.T) {
	reply := canon.Reply{Model: "m", ID: "9", Created: 5}
	head := `data: {"id":"chatcmpl-9","object":"chat.completion.chunk","created":5,"model":"m",`
	role := head + `"choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}]}` + "\n\n"
	usage := canon.Event{Kind: canon.EventUsage, Usage: &canon.Usage{Input: 10, CacheRead: 4, CacheWrite: 2, Output: 3, Reasoning: 1}}
	tests := []struct {
		name   string
		usage  bool
		events []canon.Event
		want   string
	}{
		{"text", false, []canon.Event{{Kind: canon.EventStart}, {Kind: canon.EventText, Text: "a\"\n"}, {Kind: canon.EventText}, {Kind: canon.EventFinish, Finish: canon.FinishStop}, usage},
			role + head + `"choices":[{"index":0,"delta":{"content":"a\"\n"},"logprobs":null,"finish_reason":null}]}` + "\n\n" +
				head + `"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}` + "\n\ndata: [DONE]\n\n"},
		{"usage", true, []canon.Event{{Kind: canon.EventStart}, {Kind: canon.EventFinish, Finish: "odd"}, usage},
			strings.Replace(role, "}]}\n", "}],\"usage\":null}\n", 1) +
				head + `"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}` + "\n\n" +
				head + `"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":3,"total_tokens":13,"prompt_tokens_details":{"cached_tokens":4,"cache_write_tokens":2},"completion_tokens_details":{"reasoning_tokens":1}}}` + "\n\ndata: [DONE]\n\n"},
		{"reasoning and refusal", false, []canon.Event{{Kind: canon.EventReasoning, Text: "r"}, {Kind: canon.EventReasoning, Signature: "s"}, {Kind: canon.EventRefusal, Text: "no"}},
			role + head + `"choices":[{"index":0,"delta":{"reasoning_content":"r"},"logprobs":null,"finish_reason":null}]}` + "\n\n" +
				head + `"choices":[{"index":0,"delta":{"refusal":"no"},"logprobs":null,"finish_reason":null}]}` + "\n\ndata: [DONE]\n\n"},
		{"tools", false, []canon.Event{{Kind: canon.EventStart}, {Kind: canon.EventToolStart, Tool: 1, CallID: "c", Name: "f"}, {Kind: canon.EventToolDelta, Tool: 1, Text: `{"a"`}, {Kind: canon.EventToolDelta, Tool: 1}},
			role + head + `"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"c","type":"function","function":{"name":"f","arguments":""}}]},"logprobs":null,"finish_reason":null}]}` + "\n\n" +
				head + `"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"function":{"arguments":"{\"a\""}}]},"logprobs":null,"finish_reason":null}]}` + "\n\ndata: [DONE]\n\n"},
		{"ping", false, []canon.Event{{Kind: canon.EventPing}}, ": ping\n\ndata: [DONE]\n\n"},
		{"error ends it", false, []canon.Event{{Kind: canon.EventError, Err: &canon.Error{Kind: canon.ErrOverloaded, Message: "busy"}}, {Kind: canon.EventText, Text: "x"}},
			`data: {"error":{"message":"busy","type":"server_error","param":null,"code":"overloaded"}}` + "\n\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := reply
			o.IncludeUsage = tt.usage
			e := inbound{}.NewStreamEncoder(o)
			var out []byte
			for i := range tt.events {
				out = e.Append(out, &tt.events[i])
			}
			if out = e.End(out); string(out) != tt.want {
				t.Errorf("got\n%s\nwant\n%s", out, tt.want)
			}
		})
	}
}

func FuzzDecoder(f *testing.F) {
	files, _ := filepath.Glob("testdata/streams/*.sse")
	for _, file := range files {
		stream, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(stream, uint8(3))
	}
	f.Fuzz(func(t *testing.T, stream []byte, size uint8) {
		whole := decode(t, stream, len(stream)+1)
		if got := decode(t, stream, int(size)+1); got != whole {
			t.Fatalf("chunks of %d give\n%swhole:\n%s", int(size)+1, got, whole)
		}
		checkOrder(t, whole)
	})
}

// checkOrder holds a stream's events to the order that canon promises to encoders.
func checkOrder(t *testing.T, events string) {
	t.Helper()
	started, finished, ended, tools := false, false, false, 0
	for _, line := range strings.Split(strings.TrimSpace(events), "\n") {
		kind, rest, _ := strings.Cut(line, " ")
		switch {
		case kind == "ping" && !ended:
			continue
		case ended:
			t.Fatalf("%q after the end in\n%s", line, events)
		case kind == "start" && started, kind != "start" && kind != "error" && !started,
			finished && kind != "usage" && kind != "error", kind == "usage" && !finished:
			t.Fatalf("%q out of order in\n%s", line, events)
		}
		switch kind {
		case "start":
			started = true
		case "finish":
			finished = true
		case "usage", "error":
			ended = true
		case "tool-start", "tool-delta":
			var n int
			if _, err := fmt.Sscan(rest, &n); err != nil || n > tools || kind == "tool-start" && n != tools || kind == "tool-delta" && n == tools {
				t.Fatalf("%q: %d tools so far in\n%s", line, tools, events)
			}
			if kind == "tool-start" {
				tools++
			}
		}
	}
	if !finished && !ended {
		t.Fatalf("no end in\n%s", events)
	}
}

// FuzzEncoder checks that each frame is one line of JSON, whatever the strings are.
func FuzzEncoder(f *testing.F) {
	f.Add("a\n\ndata: x", "\xff", "\"")
	f.Fuzz(func(t *testing.T, text, id, model string) {
		e := inbound{}.NewStreamEncoder(canon.Reply{Model: model, IncludeUsage: true})
		var out []byte
		for _, ev := range []canon.Event{
			{Kind: canon.EventStart, ID: id}, {Kind: canon.EventText, Text: text}, {Kind: canon.EventReasoning, Text: text},
			{Kind: canon.EventToolStart, CallID: id, Name: text}, {Kind: canon.EventToolDelta, Text: text},
			{Kind: canon.EventFinish, Finish: canon.FinishReason(text)}, {Kind: canon.EventUsage, Usage: &canon.Usage{}},
		} {
			out = e.Append(out, &ev)
		}
		for _, frame := range bytes.Split(bytes.TrimSuffix(out, []byte("\n\n")), []byte("\n\n")) {
			data, ok := bytes.CutPrefix(frame, []byte("data: "))
			if !ok || !json.Valid(data) || bytes.IndexByte(data, '\n') >= 0 {
				t.Fatalf("bad frame %q", frame)
			}
		}
	})
}
