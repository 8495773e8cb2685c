package content

import (
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
	"github.com/weir-dev/weir/adapters/sse"
)

// decoder reads a stream of an operation as events; those that a tapped stream needs of canon.StreamDecoder.
type decoder interface {
	Feed(chunk []byte, emit func(*canon.Event))
}

// decoderOf makes the decoder of an answer that is a stream; nil where there is none.
func decoderOf(d *canon.Dialect, op canon.Operation) decoder {
	switch op {
	case canon.OpChat:
		if d.Out != nil {
			return d.Out.NewStreamDecoder()
		}
	case canon.OpResponses:
		return &plainDecoder{read: (&responseReader{}).read, lines: sse.Reader{Max: maxEvent}}
	case canon.OpCompletions:
		return &plainDecoder{read: readCompletion, lines: sse.Reader{Max: maxEvent}}
	}
	return nil
}

// maxEvent is the largest event that is read of a stream, in bytes: the last one of a response repeats all of it.
const maxEvent = 4 << 20

// plainDecoder reads streams that are never translated, event by event.
type plainDecoder struct {
	lines sse.Reader
	read  func(root jsonx.Value, emit func(*canon.Event))
}

// Feed reads a chunk, cut anywhere. What cannot be read is passed over.
func (d *plainDecoder) Feed(chunk []byte, emit func(*canon.Event)) {
	d.lines.Feed(chunk, func(ev sse.Event) {
		if len(ev.Data) > 0 && ev.Data[0] == '{' && jsonx.Check(ev.Data) == nil {
			d.read(jsonx.Root(ev.Data), emit)
		}
	})
}

// responseReader reads the events of a streamed response. Source: OpenAI's API reference, "Streaming events".
type responseReader struct {
	calls []int64 // output_index of each call, in order of appearance
}

func (r *responseReader) read(root jsonx.Value, emit func(*canon.Event)) {
	delta := func(kind canon.EventKind) { emit(&canon.Event{Kind: kind, Text: root.Get("delta").Str()}) }
	index, _ := root.Get("output_index").Int()
	switch root.Get("type").Str() {
	case "response.output_text.delta":
		delta(canon.EventText)
	case "response.refusal.delta":
		delta(canon.EventRefusal)
	case "response.reasoning_summary_text.delta", "response.reasoning_text.delta":
		delta(canon.EventReasoning)
	case "response.output_item.added":
		item := root.Get("item")
		switch item.Get("type").Str() {
		case "function_call", "custom_tool_call":
			r.calls = append(r.calls, index)
			emit(&canon.Event{Kind: canon.EventToolStart, Tool: len(r.calls) - 1, CallID: item.Get("call_id").Str(), Name: item.Get("name").Str()})
		}
	case "response.function_call_arguments.delta", "response.custom_tool_call_input.delta":
		for i, at := range r.calls {
			if at == index {
				emit(&canon.Event{Kind: canon.EventToolDelta, Tool: i, Text: root.Get("delta").Str()})
			}
		}
	case "response.completed", "response.incomplete", "response.failed":
		emit(responseEnd(root.Get("response"), len(r.calls) > 0))
	case "error":
		emit(&canon.Event{Kind: canon.EventError})
	}
}

// responseEnd is how a response ended, by its status.
func responseEnd(response jsonx.Value, calls bool) *canon.Event {
	switch response.Get("status").Str() {
	case "completed":
		if calls {
			return &canon.Event{Kind: canon.EventFinish, Finish: canon.FinishToolCalls}
		}
		return &canon.Event{Kind: canon.EventFinish, Finish: canon.FinishStop}
	case "incomplete":
		if response.Get("incomplete_details").Get("reason").Str() == "content_filter" {
			return &canon.Event{Kind: canon.EventFinish, Finish: canon.FinishContentFilter}
		}
		return &canon.Event{Kind: canon.EventFinish, Finish: canon.FinishLength}
	}
	return &canon.Event{Kind: canon.EventError}
}

// readCompletion reads a piece of a streamed completion, or a whole one: the first choice of it.
func readCompletion(root jsonx.Value, emit func(*canon.Event)) {
	for _, c := range root.Get("choices").Elements() {
		if n, _ := c.Get("index").Int(); n != 0 {
			continue
		}
		if t := c.Get("text").Str(); t != "" {
			emit(&canon.Event{Kind: canon.EventText, Text: t})
		}
		switch word := c.Get("finish_reason").Str(); word {
		case "":
		case "length":
			emit(&canon.Event{Kind: canon.EventFinish, Finish: canon.FinishLength})
		case "content_filter":
			emit(&canon.Event{Kind: canon.EventFinish, Finish: canon.FinishContentFilter})
		default:
			emit(&canon.Event{Kind: canon.EventFinish, Finish: canon.FinishStop})
		}
	}
}

// readWhole reads an answer that is no stream. It says whether it could.
func readWhole(d *canon.Dialect, op canon.Operation, body []byte, emit func(*canon.Event)) bool {
	switch op {
	case canon.OpChat:
		if d.Out == nil {
			return false
		}
		r, err := d.Out.ParseResponse(body)
		if err != nil {
			return false
		}
		r.Events(emit)
		return true
	case canon.OpResponses, canon.OpCompletions:
		if jsonx.Check(body) != nil {
			return false
		}
		root := jsonx.Root(body)
		if op == canon.OpCompletions {
			readCompletion(root, emit)
			return root.Get("choices").Kind() == jsonx.Array
		}
		readResponse(root, emit)
		return root.Get("output").Kind() == jsonx.Array
	}
	return false
}

// readResponse reads a whole response.
func readResponse(root jsonx.Value, emit func(*canon.Event)) {
	calls := 0
	for _, item := range root.Get("output").Elements() {
		switch item.Get("type").Str() {
		case "message":
			for _, p := range readParts(item.Get("content")) {
				switch p.Kind {
				case canon.PartText:
					emit(&canon.Event{Kind: canon.EventText, Text: p.Text})
				case canon.PartRefusal:
					emit(&canon.Event{Kind: canon.EventRefusal, Text: p.Text})
				}
			}
		case "reasoning":
			for _, p := range reasoningOf(item) {
				emit(&canon.Event{Kind: canon.EventReasoning, Text: p.Text})
			}
		case "function_call", "custom_tool_call":
			c := callOf(item).Call
			emit(&canon.Event{Kind: canon.EventToolStart, Tool: calls, CallID: c.ID, Name: c.Name})
			emit(&canon.Event{Kind: canon.EventToolDelta, Tool: calls, Text: c.Arguments})
			calls++
		}
	}
	emit(responseEnd(root, calls > 0))
}
