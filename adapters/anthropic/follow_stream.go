package anthropic

import (
	"github.com/weir-dev/weir/adapters/jsonx"
	"github.com/weir-dev/weir/adapters/sse"
)

// Follow takes an event of a stream that reached the caller without the encoder, so that the encoder can end the stream in
// its place: with the open block closed, by the provider's own numbers. Blocks of kinds that canon does not know count as
// well. It says whether the provider has told why it stopped. An encoder that follows is not given those events to print.
func (e *encoder) Follow(ev sse.Event) (finished bool) {
	if len(ev.Data) == 0 || jsonx.Check(ev.Data) != nil {
		return false
	}
	data := jsonx.Root(ev.Data)
	kind := data.Get("type").Lend(&e.scratch)
	if kind == "" {
		kind = string(ev.Name)
	}
	switch kind {
	case "message_start":
		e.started = true
	case "content_block_start":
		e.started, e.open = true, blockText // of any kind: only whether it is open matters now
		e.setIndex(data.Get("index"))
		if data.Get("content_block").Get("type").Str() == "tool_use" {
			e.calls++
		}
	case "content_block_stop":
		e.open = blockNone
		e.setIndex(data.Get("index"))
		e.index++
	case "message_delta":
		return data.Get("delta").Get("stop_reason").Str() != ""
	case "message_stop", "error":
		e.ended = true
		return true
	}
	return false
}

func (e *encoder) setIndex(v jsonx.Value) {
	if n, ok := v.Int(); ok && n >= 0 && n < 1<<20 {
		e.index = int(n)
	}
}
