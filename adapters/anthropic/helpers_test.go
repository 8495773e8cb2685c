package anthropic

import (
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/internal/adaptertest"
)

var testReply = canon.Reply{Model: "asked-for", ID: "reply1", Created: 1700000000, IncludeUsage: true}

func encode(events []*canon.Event, end bool) []byte {
	enc := inbound{}.NewStreamEncoder(testReply)
	var out []byte
	for _, ev := range events {
		// As a decoder would: the receiver must keep nothing of the event.
		copied := *ev
		out = enc.Append(out, &copied)
		copied = canon.Event{Text: "overwritten", Signature: "overwritten", CallID: "overwritten"}
	}
	if end {
		out = enc.End(out)
	}
	return out
}

// decode feeds the stream in the given pieces and prints the events.
func decode(t testing.TB, pieces ...[]byte) string {
	t.Helper()
	return adaptertest.Decode(t, outbound{}.NewStreamDecoder(), adaptertest.Line, pieces...)
}
