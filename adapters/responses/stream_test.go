package responses

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/internal/adaptertest"
)

var reply = canon.Reply{Model: "alias", ID: "7f", Created: 1700000000}

// asked parses a request that a test's answer is for.
func asked(t testing.TB, body string) *Request {
	t.Helper()
	r, err := Parse([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestStreams prints scripts of events as streams: a first line that is a JSON object is the request. The object that a stream ends
// with is the one of the whole answer with the same parts.
func TestStreams(t *testing.T) {
	adaptertest.Folder(t, "streams", func(t *testing.T, in []byte) string {
		body, script := `{"model":"m","input":"q"}`, string(in)
		if first, rest, ok := strings.Cut(script, "\n"); ok && first[0] == '{' {
			body, script = first, rest
		}
		r := asked(t, body)
		e := In(r).NewStreamEncoder(reply)
		var out []byte
		whole := &canon.Response{}
		for _, ev := range adaptertest.Script(t, script) {
			out = e.Append(out, ev)
			collect(whole, ev)
		}
		out = e.End(out)
		if again := e.End(nil); len(again) > 0 {
			t.Errorf("ended twice: %s", again)
		}
		last := checkFrames(t, out)
		if last.Type == "response.completed" || last.Type == "response.incomplete" {
			if want := In(r).AppendResponse(nil, whole, reply); !bytes.Equal(last.Response, want) {
				t.Errorf("the stream ends with\n%s\nthe whole answer is\n%s", last.Response, want)
			}
		}
		return string(out)
	})
}

// collect is what a decoder of whole answers would have read.
func collect(r *canon.Response, ev *canon.Event) {
	switch ev.Kind {
	case canon.EventText:
		r.Parts = append(r.Parts, canon.Part{Text: ev.Text})
	case canon.EventRefusal:
		r.Parts = append(r.Parts, canon.Part{Kind: canon.PartRefusal, Text: ev.Text})
	case canon.EventReasoning:
		r.Parts = append(r.Parts, canon.Part{Kind: canon.PartReasoning, Text: ev.Text, Signature: ev.Signature, Origin: ev.Origin})
	case canon.EventToolStart:
		r.Parts = append(r.Parts, canon.Part{Kind: canon.PartToolCall, Call: &canon.ToolCall{ID: ev.CallID, Name: ev.Name}})
	case canon.EventToolDelta:
		n := ev.Tool
		for i := range r.Parts {
			if c := r.Parts[i].Call; c != nil {
				if n == 0 {
					c.Arguments += ev.Text
				}
				n--
			}
		}
	case canon.EventFinish:
		r.Finish = ev.Finish
	case canon.EventUsage:
		r.Usage = ev.Usage
	}
}

// frame is an event as a client reads it.
type frame struct {
	Type     string          `json:"type"`
	Sequence int             `json:"sequence_number"`
	Index    *int            `json:"output_index"`
	ItemID   string          `json:"item_id"`
	Item     json.RawMessage `json:"item"`
	Delta    string          `json:"delta"`
	Text     *string         `json:"text"`
	Args     *string         `json:"arguments"`
	Refusal  *string         `json:"refusal"`
	Response json.RawMessage `json:"response"`
}

// checkFrames holds a stream to what clients rely on: names, numbers, order, and that what is done is what came in pieces. It gives
// the last event.
func checkFrames(t testing.TB, stream []byte) (last frame) {
	t.Helper()
	n := 0
	open := map[int]string{}
	text := map[int]string{}
	for _, lines := range strings.Split(strings.TrimSuffix(string(stream), "\n\n"), "\n\n") {
		if strings.HasPrefix(lines, ":") {
			continue
		}
		name, data, ok := strings.Cut(lines, "\n")
		var f frame
		if !ok || !strings.HasPrefix(name, "event: ") || !strings.HasPrefix(data, "data: ") || strings.ContainsAny(data, "\r\n") {
			t.Fatalf("bad frame %q", lines)
		}
		if err := json.Unmarshal([]byte(data[len("data: "):]), &f); err != nil {
			t.Fatalf("%v in %q", err, data)
		}
		if f.Type != name[len("event: "):] || f.Sequence != n {
			t.Fatalf("frame %d: %q", n, lines)
		}
		n++
		switch last = f; {
		case f.Type == "response.output_item.added":
			if _, twice := open[*f.Index]; twice || *f.Index != len(open) {
				t.Fatalf("item %d out of order: %s", *f.Index, data)
			}
			open[*f.Index] = ItemID(f.Item)
		case f.Type == "response.output_item.done":
			if open[*f.Index] != ItemID(f.Item) {
				t.Fatalf("another item is done than was added: %s", data)
			}
		case f.Index != nil && open[*f.Index] != f.ItemID:
			t.Fatalf("no such item: %s", data)
		case strings.HasSuffix(f.Type, "part.added"):
			text[*f.Index] = ""
		case strings.HasSuffix(f.Type, ".delta"):
			text[*f.Index] += f.Delta
		case f.Text != nil && *f.Text != text[*f.Index], f.Args != nil && *f.Args != text[*f.Index], f.Refusal != nil && *f.Refusal != text[*f.Index]:
			t.Fatalf("done with another text than %q: %s", text[*f.Index], data)
		}
	}
	return last
}

// FuzzEncoder checks frames and answers, whatever the strings and the order of parts are.
func FuzzEncoder(f *testing.F) {
	f.Add("a\n\ndata: x", "\xff", `{"a":1}`, []byte{0, 1, 2, 3, 4, 3, 5, 0})
	f.Add("", "id", "{", []byte{3, 4, 3, 4, 0, 4, 2, 2})
	f.Fuzz(func(t *testing.T, text, id, args string, order []byte) {
		r := asked(t, `{"model":"m","input":"q","include":["reasoning.encrypted_content"]}`)
		events := []canon.Event{{Kind: canon.EventStart, ID: id}}
		tools := 0
		for _, c := range order {
			switch c % 7 {
			case 0:
				events = append(events, canon.Event{Kind: canon.EventText, Text: text})
			case 1:
				events = append(events, canon.Event{Kind: canon.EventRefusal, Text: text})
			case 2:
				events = append(events, canon.Event{Kind: canon.EventReasoning, Text: text})
			case 3:
				events = append(events, canon.Event{Kind: canon.EventToolStart, Tool: tools, CallID: id, Name: text})
				tools++
			case 4:
				if tools > 0 {
					events = append(events, canon.Event{Kind: canon.EventToolDelta, Tool: int(c/7) % tools, Text: args})
				}
			case 5:
				events = append(events, canon.Event{Kind: canon.EventReasoning, Signature: id, Origin: "o"})
			case 6:
				events = append(events, canon.Event{Kind: canon.EventPing})
			}
		}
		if len(order)%3 == 0 {
			events = append(events, canon.Event{Kind: canon.EventError, Err: &canon.Error{Kind: canon.ErrorKind(args), Message: text}})
		} else {
			events = append(events, canon.Event{Kind: canon.EventFinish, Finish: canon.FinishReason(text)}, canon.Event{Kind: canon.EventUsage, Usage: &canon.Usage{Input: 1}})
		}
		e := In(r).NewStreamEncoder(canon.Reply{Model: text, ID: id})
		var out []byte
		for i := range events {
			out = e.Append(out, &events[i])
		}
		out = e.End(out)
		last := checkFrames(t, out)
		switch last.Type {
		case "response.completed", "response.incomplete", "response.failed":
		default:
			t.Fatalf("ends with %q", last.Type)
		}
		// What is answered can be said again: every item of it reads back.
		if _, err := ParseItems(Output(last.Response)); err != nil && err.Code != canon.CodeNotTranslatable && text != "" && id != "" {
			t.Fatalf("%v in %s", err, Output(last.Response))
		}
	})
}

func TestDeltasAllocateNothing(t *testing.T) {
	tests := []struct {
		name  string
		first *canon.Event
		ev    canon.Event
	}{
		{"text", nil, canon.Event{Kind: canon.EventText, Text: "ein \"Wort\" "}},
		{"reasoning", nil, canon.Event{Kind: canon.EventReasoning, Text: "hm "}},
		{"call", &canon.Event{Kind: canon.EventToolStart, CallID: "c", Name: "f"}, canon.Event{Kind: canon.EventToolDelta, Text: `"a":1,`}},
	}
	for _, tt := range tests {
		e := In(nil).NewStreamEncoder(reply)
		buf := make([]byte, 0, 4096)
		if tt.first != nil {
			buf = e.Append(buf, tt.first)
		}
		buf = e.Append(buf, &tt.ev)
		printed := 0
		// Many, so that the growth of what is kept of the answer does not show.
		n := testing.AllocsPerRun(10000, func() {
			buf = e.Append(buf[:0], &tt.ev)
			printed += len(buf)
		})
		if n != 0 || printed == 0 {
			t.Errorf("%s: %v allocations for a delta, %d bytes printed", tt.name, n, printed)
		}
	}
}

func TestAppendResponse(t *testing.T) {
	r := asked(t, "{\"model\":\"m\",\"input\":\"q\",\"instructions\":\"a\\nb\",\n\"metadata\":{\"k\": \"v\"},\"tools\":[\n {\"type\":\"function\",\"name\":\"f\"}],\"temperature\":0.20,\"store\":false,\"previous_response_id\":\"resp_5\"}")
	got := In(r).AppendResponse([]byte("x"), &canon.Response{
		ID: "chatcmpl-1", Model: "real", Finish: canon.FinishToolCalls, Usage: &canon.Usage{Input: 10, CacheRead: 4, CacheWrite: 2, Output: 5, Reasoning: 3},
		Parts: []canon.Part{{Text: "Hi "}, {Text: "there"}, {Kind: canon.PartToolCall, Call: &canon.ToolCall{Name: "f", Arguments: "{}"}}},
	}, reply)
	want := `x{"id":"resp_7f","object":"response","created_at":1700000000,"status":"completed","error":null,"incomplete_details":null,` +
		`"output":[{"id":"msg_7f_0","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","annotations":[],"logprobs":[],"text":"Hi there"}]},` +
		`{"id":"fc_7f_1","type":"function_call","status":"completed","arguments":"{}","call_id":"call_7f_1","name":"f"}],` +
		`"usage":{"input_tokens":10,"input_tokens_details":{"cached_tokens":4,"cache_write_tokens":2},"output_tokens":5,"output_tokens_details":{"reasoning_tokens":3},"total_tokens":15},` +
		`"model":"alias","instructions":"a\nb","max_output_tokens":null,"max_tool_calls":null,"parallel_tool_calls":true,"previous_response_id":"resp_5","conversation":null,` +
		`"reasoning":{"effort":null,"summary":null},"background":false,"store":false,"temperature":0.20,"text":{"format":{"type":"text"}},"tool_choice":"auto",` +
		`"tools":[{"type":"function","name":"f"}],"top_p":null,"truncation":"disabled","user":null,"safety_identifier":null,"prompt_cache_key":null,"metadata":{"k":"v"}}`
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if body := In(nil).AppendError(nil, &canon.Error{Kind: canon.ErrRateLimit, Message: "slow"}, ""); string(body) != `{"error":{"message":"slow","type":"rate_limit_error","param":null,"code":"rate_limit_exceeded"}}` {
		t.Errorf("%s", body)
	}
}

// TestReasoningComesBack: what a caller keeps of signed reasoning is what it was, whoever printed it.
func TestReasoningComesBack(t *testing.T) {
	r := asked(t, `{"model":"m","input":"q","include":["reasoning.encrypted_content"],"store":false}`)
	part := canon.Part{Kind: canon.PartReasoning, Text: "Let me \"see\".", Signature: "s1g==", Origin: "anthropic"}
	answer := In(r).AppendResponse(nil, &canon.Response{Parts: []canon.Part{part, {Text: "Yes."}}}, reply)
	items, err := ParseItems(Output(answer))
	if err != nil {
		t.Fatal(err)
	}
	if got := items[0].Parts[0]; got != part {
		t.Errorf("got %+v, want %+v", got, part)
	}
	// The same behind white space and with the text left out, as some clients return it.
	items, err = ParseItems([]byte(fmt.Sprintf(`[ {"type":"reasoning","summary":[],"encrypted_content":%q} ]`, seal(nil, part.Text, part.Signature, part.Origin))))
	if err != nil || items[0].Parts[0] != part {
		t.Errorf("got %+v %v", items, err)
	}
	for _, broken := range []string{"weir1.", "weir1.!!", "weir1.e30", "gAAAA"} {
		items, err := ParseItems([]byte(`[{"type":"reasoning","summary":[],"encrypted_content":"` + broken + `"}]`))
		if err != nil || len(items[0].Parts) != 0 {
			t.Errorf("%s: %+v %v", broken, items, err)
		}
	}
}
