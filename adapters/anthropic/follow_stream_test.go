package anthropic

import (
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/sse"
)

// followed is a stream with what canon does not know: a tool that runs at the provider, an empty block.
var followed = []string{
	`{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude","content":[],"usage":{"input_tokens":5,"output_tokens":1}}}`,
	`{"type":"ping"}`,
	`{"type":"content_block_start","index":0,"content_block":{"type":"server_tool_use","id":"srvtoolu_1","name":"web_search","input":{}}}`,
	`{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{}"}}`,
	`{"type":"content_block_stop","index":0}`,
	`{"type":"content_block_start","index":1,"content_block":{"type":"web_search_tool_result","tool_use_id":"srvtoolu_1","content":[]}}`,
	`{"type":"content_block_stop","index":1}`,
	`{"type":"content_block_start","index":2,"content_block":{"type":"text","text":""}}`,
	`{"type":"content_block_stop","index":2}`,
	`{"type":"content_block_start","index":3,"content_block":{"type":"tool_use","id":"toolu_1","name":"f","input":{}}}`,
	`{"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":"{\"a\""}}`,
	`{"type":"content_block_stop","index":3}`,
	`{"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"output_tokens":9}}`,
	`{"type":"message_stop"}`,
}

func TestFollow(t *testing.T) {
	for n := range len(followed) + 1 {
		e := &encoder{}
		finished := false
		open, next, started := -1, 0, false
		for _, data := range followed[:n] {
			finished = e.Follow(sse.Event{Data: []byte(data)})
			switch {
			case strings.Contains(data, "message_start"):
				started = true
			case strings.Contains(data, "content_block_start"):
				open, next = next, next+1
			case strings.Contains(data, "content_block_stop"):
				open = -1
			}
		}
		if want := n >= len(followed)-1; finished != want {
			t.Errorf("after %d events: finished is %v", n, finished)
		}
		if finished {
			continue // nobody ends it then
		}
		out := string(e.Append(nil, &canon.Event{Kind: canon.EventFinish, Finish: canon.FinishLength}))
		out += string(e.Append(nil, &canon.Event{Kind: canon.EventUsage, Usage: &canon.Usage{Input: 5, Output: 3}}))
		out += string(e.End(nil))
		want := ""
		if !started {
			want += "message_start "
		}
		if open >= 0 {
			want += "content_block_stop " + string(rune('0'+open)) + " "
		}
		want += "message_delta message_stop "
		if got := sketch(t, out); got != want {
			t.Errorf("after %d events: ends with %q, want %q", n, got, want)
		}
		if !strings.Contains(out, `"stop_reason":"max_tokens"`) || !strings.Contains(out, `"output_tokens":3`) {
			t.Errorf("after %d events: %s", n, out)
		}
	}
}

// sketch lists the events of a stream, those of blocks with their index.
func sketch(t *testing.T, stream string) (out string) {
	t.Helper()
	var r sse.Reader
	r.Feed([]byte(stream), func(ev sse.Event) {
		out += string(ev.Name) + " "
		if _, rest, ok := strings.Cut(string(ev.Data), `"index":`); ok {
			out += rest[:1] + " "
		}
	})
	if r.Partial() {
		t.Fatalf("ends inside an event: %q", stream)
	}
	return out
}

func TestFollowOddEvents(t *testing.T) {
	e := &encoder{}
	for _, data := range []string{"", "no json", "[]", `{"type":7}`, `{"type":"content_block_stop","index":-4}`, `{"type":"content_block_start","index":1e99}`, `{"type":"new"}`} {
		if e.Follow(sse.Event{Data: []byte(data)}) {
			t.Errorf("%q ends the stream", data)
		}
	}
	if e.index < 0 {
		t.Errorf("index %d", e.index)
	}
	if !e.Follow(sse.Event{Data: []byte(`{"type":"error","error":{}}`)}) || len(e.End(nil)) > 0 {
		t.Error("something follows an error")
	}
	if e := (&encoder{}); !e.Follow(sse.Event{Name: []byte("message_stop"), Data: []byte(`{}`)}) {
		t.Error("an event is known by its name, where it has no type")
	}
}
