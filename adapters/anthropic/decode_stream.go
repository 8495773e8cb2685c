package anthropic

import (
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
	"github.com/weir-dev/weir/adapters/sse"
)

// decoder reads an Anthropic stream.
type decoder struct {
	reader  sse.Reader
	out     canon.Emitter
	scratch []byte // for strings that are only looked at

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
	d.out.To = emit
	d.reader.Feed(chunk, d.event)
	if err := d.reader.Err(); err != nil && !d.ended {
		d.fail(badGateway("%s", err))
	}
}

// Ended implements canon.StreamDecoder.
func (d *decoder) Ended() bool { return d.ended }

// End implements canon.StreamDecoder.
func (d *decoder) End(emit func(*canon.Event)) {
	d.out.To = emit
	if !d.ended {
		d.fail(badGateway("the provider's stream ended before the answer was complete (no message_stop)"))
	}
}

func (d *decoder) fail(err *canon.Error) {
	d.ended = true
	d.out.Send(canon.Event{Kind: canon.EventError, Err: err})
}

func (d *decoder) event(ev sse.Event) {
	if d.ended || len(ev.Data) == 0 || string(ev.Data) == "[DONE]" || d.out.Again(ev.Data) {
		return
	}
	if err := jsonx.Check(ev.Data); err != nil {
		d.fail(badGateway("the provider's stream has an event that is not valid JSON: %s", err))
		return
	}
	data := jsonx.Root(ev.Data)
	kind := data.Get("type").Lend(&d.scratch)
	if kind == "" {
		d.read(string(ev.Name), data)
		d.out.Read(nil) // the data alone do not tell
		return
	}
	d.read(kind, data)
	d.out.Read(ev.Data)
}

// read reads an event of a kind.
func (d *decoder) read(kind string, data jsonx.Value) {
	switch kind {
	case "message_start":
		d.messageStart(data.Get("message"))
	case "content_block_start":
		d.begin()
		d.blockStart(data)
	case "content_block_delta":
		d.begin()
		d.blockDelta(data)
	case "content_block_stop":
		d.blockStop(data)
	case "message_delta":
		d.count.merge(data.Get("usage"))
		delta := data.Get("delta")
		if reason := delta.Get("stop_reason").Str(); reason != "" {
			d.reason, d.stop = reason, delta.Get("stop_sequence").Str()
		}
	case "message_stop":
		d.messageStop()
	case "ping":
		d.out.Send(canon.Event{Kind: canon.EventPing})
	case "error":
		d.fail(readError(0, data))
	}
	// Events of other names are to be ignored, says Anthropic: new ones may come at any time.
}

func (d *decoder) messageStart(message jsonx.Value) {
	d.count.merge(message.Get("usage"))
	if d.started {
		return
	}
	d.started = true
	d.out.Send(canon.Event{Kind: canon.EventStart, ID: message.Get("id").Str(),
		Model: message.Get("model").Str(), Usage: d.count.usage()})
}

// begin makes sure that a start event goes out before anything else.
func (d *decoder) begin() {
	if !d.started {
		d.messageStart(nil)
	}
}

func (d *decoder) blockStart(data jsonx.Value) {
	index, _ := data.Get("index").Int()
	block := data.Get("content_block")
	open := openBlock{index: index, tool: -1}
	// What a start holds already is sent as what cannot come again: each start opens a block.
	switch block.Get("type").Lend(&d.scratch) {
	case "text":
		if text := block.Get("text").Str(); text != "" {
			d.out.Send(canon.Event{Kind: canon.EventText, Text: text})
		}
	case "thinking":
		text, signature := block.Get("thinking").Str(), block.Get("signature").Str()
		if text != "" || signature != "" {
			d.out.Send(canon.Event{Kind: canon.EventReasoning, Text: text, Signature: signature, Origin: name})
		}
	case "redacted_thinking":
		d.out.Send(canon.Event{Kind: canon.EventReasoning, Signature: redactedPrefix + block.Get("data").Str(), Origin: name})
	case "tool_use":
		open.tool = d.calls
		d.calls++
		if input := block.Get("input"); !input.Missing() {
			open.input = string(input)
		}
		d.out.Send(canon.Event{Kind: canon.EventToolStart, Tool: open.tool,
			CallID: block.Get("id").Str(), Name: block.Get("name").Str()})
	}
	d.blocks = append(d.blocks, open)
}

func (d *decoder) blockDelta(data jsonx.Value) {
	delta := data.Get("delta")
	switch delta.Get("type").Lend(&d.scratch) {
	case "text_delta":
		d.out.SendText(canon.Event{Kind: canon.EventText}, delta.Get("text"))
	case "thinking_delta":
		d.out.SendText(canon.Event{Kind: canon.EventReasoning, Origin: name}, delta.Get("thinking"))
	case "signature_delta":
		if signature := delta.Get("signature").Str(); signature != "" {
			d.out.Send(canon.Event{Kind: canon.EventReasoning, Signature: signature, Origin: name})
		}
	case "input_json_delta":
		text := delta.Get("partial_json")
		if text.Kind() != jsonx.String || len(text) == len(`""`) {
			return
		}
		index, _ := data.Get("index").Int()
		i := d.find(index)
		if i < 0 {
			d.fail(badGateway("the provider's stream has arguments for block %d, which is not open", index))
			return
		}
		if d.blocks[i].tool < 0 {
			return // a tool that runs at the provider
		}
		d.blocks[i].written = true
		d.out.SendText(canon.Event{Kind: canon.EventToolDelta, Tool: d.blocks[i].tool}, text)
	}
}

func (d *decoder) blockStop(data jsonx.Value) {
	index, _ := data.Get("index").Int()
	i := d.find(index)
	if i < 0 {
		return
	}
	block := d.blocks[i]
	d.blocks = append(d.blocks[:i], d.blocks[i+1:]...)
	d.finishCall(block)
}

// finishCall gives the arguments of a call that had no deltas: what its start said, or an empty
// object. Clients of other dialects parse the arguments of every call.
func (d *decoder) finishCall(block openBlock) {
	if block.tool < 0 || block.written {
		return
	}
	if block.input == "" {
		block.input = "{}"
	}
	d.out.Send(canon.Event{Kind: canon.EventToolDelta, Tool: block.tool, Text: block.input})
}

func (d *decoder) find(index int64) int {
	for i := range d.blocks {
		if d.blocks[i].index == index {
			return i
		}
	}
	return -1
}

func (d *decoder) messageStop() {
	d.begin()
	for _, block := range d.blocks {
		d.finishCall(block)
	}
	d.ended = true
	d.out.Send(canon.Event{Kind: canon.EventFinish, Finish: finishReason(d.reason, d.calls > 0), StopSequence: d.stop})
	if usage := d.count.usage(); usage != nil {
		d.out.Send(canon.Event{Kind: canon.EventUsage, Usage: usage})
	}
}
