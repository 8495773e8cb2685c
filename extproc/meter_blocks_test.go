package extproc

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/sse"
)

// TestMeterClosesBlocks cuts an Anthropic stream at every place: blocks are opened and closed in turn, by the provider's
// numbers, and there is one end.
func TestMeterClosesBlocks(t *testing.T) {
	stream := ""
	for _, data := range []string{
		`{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude","content":[],"usage":{"input_tokens":5,"output_tokens":1}}}`,
		`{"type":"content_block_start","index":0,"content_block":{"type":"server_tool_use","id":"srvtoolu_1","name":"web_search","input":{}}}`,
		`{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{}"}}`,
		`{"type":"content_block_stop","index":0}`,
		`{"type":"content_block_start","index":1,"content_block":{"type":"thinking","thinking":"","signature":""}}`,
		`{"type":"content_block_delta","index":1,"delta":{"type":"thinking_delta","thinking":"Hmm."}}`,
		`{"type":"content_block_delta","index":1,"delta":{"type":"signature_delta","signature":"c2ln"}}`,
		`{"type":"content_block_stop","index":1}`,
		`{"type":"content_block_start","index":2,"content_block":{"type":"text","text":""}}`,
		`{"type":"content_block_delta","index":2,"delta":{"type":"text_delta","text":"Hello"}}`,
		`{"type":"content_block_stop","index":2}`,
		`{"type":"content_block_start","index":3,"content_block":{"type":"tool_use","id":"toolu_1","name":"f","input":{}}}`,
		`{"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":"{\"a\":"}}`,
		`{"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":"1}"}}`,
		`{"type":"content_block_stop","index":3}`,
		`{"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"output_tokens":9}}`,
		`{"type":"message_stop"}`,
	} {
		var kind struct{ Type string }
		if err := json.Unmarshal([]byte(data), &kind); err != nil {
			t.Fatal(err)
		}
		stream += "event: " + kind.Type + "\ndata: " + data + "\n\n"
	}
	last := strings.Index(stream, "event: message_delta") // with it the provider has told why it stopped
	for at := range len(stream) {
		b := &book{}
		m := meterOf(t, "anthropic", b, nil)
		out := string(m.onBody(piece(stream[:at], false)).GetResponseBody().GetResponse().GetBodyMutation().GetStreamedResponse().GetBody())
		m.stop = after(0)
		rest, ended := flow(t, m.onBody, piecesOf(stream[at:], 9)...)
		out += rest
		if !ended {
			t.Fatalf("cut after %d bytes: no end: %q", at, out)
		}
		if b.cut != (at <= last) {
			t.Fatalf("cut after %d bytes, where %d is the last place: cut is %v: %q", at, last, b.cut, out)
		}
		wellFormed(t, at, out)
		if _, finish, _ := ending(t, "anthropic", out); b.cut && finish != canon.FinishLength {
			t.Fatalf("cut after %d bytes: ends by %q: %q", at, finish, out)
		}
	}
}

func wellFormed(t *testing.T, at int, stream string) {
	t.Helper()
	open, next, ends, deltas := -1, 0, 0, 0
	var r sse.Reader
	r.Feed([]byte(stream), func(ev sse.Event) {
		var e struct {
			Type  string
			Index int
		}
		if err := json.Unmarshal(ev.Data, &e); err != nil {
			t.Fatalf("cut after %d bytes: %v: %q", at, err, stream)
		}
		ok := ends == 0
		switch e.Type {
		case "content_block_start":
			ok = ok && open < 0 && e.Index == next
			open, next = next, next+1
		case "content_block_delta":
			ok = ok && e.Index == open
		case "content_block_stop":
			ok = ok && e.Index == open
			open = -1
		case "message_delta":
			ok = ok && open < 0
			deltas++
		case "message_stop":
			ok = ok && deltas == 1
			ends++
		}
		if !ok {
			t.Fatalf("cut after %d bytes: %s %d out of place: %q", at, e.Type, e.Index, stream)
		}
	})
	if r.Partial() || ends != 1 || open >= 0 {
		t.Fatalf("cut after %d bytes: not ended: %q", at, stream)
	}
}
