package anthropic

import (
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
	"github.com/weir-dev/weir/adapters/sse"
)

// decoder reads an Anthropic stream.
type decoder struct {
	reader sse.Reader
	ev     canon.Event // reused for every event

	started bool
	ended   bool // by message_stop or an error

	count  counts
	reason string
	stop   string
	calls  int
	blocks []openBlock
}

// openBlock is a content block between its start and its stop.
type openBlock struct {
	index   int64
	tool    int    // the call's number, or -1
	input   string // arguments that stood in content_block_start already
	written bool   // arguments came as deltas
}

// NewStreamDecoder implements canon.Outbound.
func (outbound) NewStreamDecoder() canon.StreamDecoder { return &decoder{} }

// Feed implements canon.StreamDecoder.
func (d *decoder) Feed(chunk []byte, emit func(*canon.Event)) {
	if d.ended {
		return
	}
	d.reader.Feed(chunk, func(ev sse.Event) {
		if !d.ended && ev.Data != nil {
			d.event(ev, emit)
		}
	})
	if err := d.reader.Err(); err != nil && !d.ended {
		d.fail(emit, badGateway("%s", err))
	}
}

// Ended implements canon.StreamDecoder.
func (d *decoder) Ended() bool { return d.ended }

// End implements canon.StreamDecoder.
func (d *decoder) End(emit func(*canon.Event)) {
	if !d.ended {
		d.fail(emit, badGateway("the provider's stream ended before the answer was complete (no message_stop)"))
	}
}

func (d *decoder) send(emit func(*canon.Event), ev canon.Event) {
	d.ev = ev
	emit(&d.ev)
}

func (d *decoder) fail(emit func(*canon.Event), err *canon.Error) {
	d.ended = true
	d.send(emit, canon.Event{Kind: canon.EventError, Err: err})
}

func (d *decoder) event(ev sse.Event, emit func(*canon.Event)) {
	if len(ev.Data) == 0 || string(ev.Data) == "[DONE]" {
		return
	}
	if err := jsonx.Check(ev.Data); err != nil {
		d.fail(emit, badGateway("the provider's stream has an event that is not valid JSON: %s", err))
		return
	}
	data := jsonx.Root(ev.Data)
	kind := data.Get("type").Str()
	if kind == "" {
		kind = string(ev.Name)
	}
	switch kind {
	case "message_start":
		d.messageStart(data.Get("message"), emit)
	case "content_block_start":
		d.begin(emit)
		d.blockStart(data, emit)
	case "content_block_delta":
		d.begin(emit)
		d.blockDelta(data, emit)
	case "content_block_stop":
		d.blockStop(data, emit)
	case "message_delta":
		d.count.merge(data.Get("usage"))
		delta := data.Get("delta")
		if reason := delta.Get("stop_reason").Str(); reason != "" {
			d.reason, d.stop = reason, delta.Get("stop_sequence").Str()
		}
	case "message_stop":
		d.messageStop(emit)
	case "ping":
		d.send(emit, canon.Event{Kind: canon.EventPing})
	case "error":
		d.fail(emit, readError(0, data))
	}
	// Events of other names are to be ignored, says Anthropic: new ones may come at any time.
}

func (d *decoder) messageStart(message jsonx.Value, emit func(*canon.Event)) {
	d.count.merge(message.Get("usage"))
	if d.started {
		return
	}
	d.started = true
	d.send(emit, canon.Event{Kind: canon.EventStart, ID: message.Get("id").Str(),
		Model: message.Get("model").Str(), Usage: d.count.usage()})
}

// begin makes sure that a start event goes out before anything else.
func (d *decoder) begin(emit func(*canon.Event)) {
	if !d.started {
		d.messageStart(nil, emit)
	}
}

func (d *decoder) blockStart(data jsonx.Value, emit func(*canon.Event)) {
	index, _ := data.Get("index").Int()
	block := data.Get("content_block")
	open := openBlock{index: index, tool: -1}
	switch block.Get("type").Str() {
	case "text":
		if text := block.Get("text").Str(); text != "" {
			d.send(emit, canon.Event{Kind: canon.EventText, Text: text})
		}
	case "thinking":
		d.reasoning(emit, block.Get("thinking").Str(), block.Get("signature").Str())
	case "redacted_thinking":
		d.reasoning(emit, "", redactedPrefix+block.Get("data").Str())
	case "tool_use":
		open.tool = d.calls
		d.calls++
		if input := block.Get("input"); !input.Missing() {
			open.input = string(input)
		}
		d.send(emit, canon.Event{Kind: canon.EventToolStart, Tool: open.tool,
			CallID: block.Get("id").Str(), Name: block.Get("name").Str()})
	}
	d.blocks = append(d.blocks, open)
}

func (d *decoder) reasoning(emit func(*canon.Event), text, signature string) {
	if text == "" && signature == "" {
		return
	}
	d.send(emit, canon.Event{Kind: canon.EventReasoning, Text: text, Signature: signature, Origin: name})
}

func (d *decoder) blockDelta(data jsonx.Value, emit func(*canon.Event)) {
	delta := data.Get("delta")
	switch delta.Get("type").Str() {
	case "text_delta":
		if text := delta.Get("text").Str(); text != "" {
			d.send(emit, canon.Event{Kind: canon.EventText, Text: text})
		}
	case "thinking_delta":
		d.reasoning(emit, delta.Get("thinking").Str(), "")
	case "signature_delta":
		d.reasoning(emit, "", delta.Get("signature").Str())
	case "input_json_delta":
		text := delta.Get("partial_json").Str()
		if text == "" {
			return
		}
		index, _ := data.Get("index").Int()
		i := d.find(index)
		if i < 0 {
			d.fail(emit, badGateway("the provider's stream has arguments for block %d, which is not open", index))
			return
		}
		if d.blocks[i].tool < 0 {
			return // a tool that runs at the provider
		}
		d.blocks[i].written = true
		d.send(emit, canon.Event{Kind: canon.EventToolDelta, Tool: d.blocks[i].tool, Text: text})
	}
}

func (d *decoder) blockStop(data jsonx.Value, emit func(*canon.Event)) {
	index, _ := data.Get("index").Int()
	i := d.find(index)
	if i < 0 {
		return
	}
	block := d.blocks[i]
	d.blocks = append(d.blocks[:i], d.blocks[i+1:]...)
	d.finishCall(block, emit)
}

// finishCall gives the arguments of a call that had no deltas: what its start said, or an empty
// object. Clients of other dialects parse the arguments of every call.
func (d *decoder) finishCall(block openBlock, emit func(*canon.Event)) {
	if block.tool < 0 || block.written {
		return
	}
	if block.input == "" {
		block.input = "{}"
	}
	d.send(emit, canon.Event{Kind: canon.EventToolDelta, Tool: block.tool, Text: block.input})
}

func (d *decoder) find(index int64) int {
	for i := range d.blocks {
		if d.blocks[i].index == index {
			return i
		}
	}
	return -1
}

func (d *decoder) messageStop(emit func(*canon.Event)) {
	d.begin(emit)
	for _, block := range d.blocks {
		d.finishCall(block, emit)
	}
	d.ended = true
	d.send(emit, canon.Event{Kind: canon.EventFinish, Finish: finishReason(d.reason, d.calls > 0), StopSequence: d.stop})
	if usage := d.count.usage(); usage != nil {
		d.send(emit, canon.Event{Kind: canon.EventUsage, Usage: usage})
	}
}
