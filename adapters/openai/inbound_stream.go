package openai

import (
	"strconv"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// NewStreamEncoder makes the encoder of chat.completion.chunk events.
func (inbound) NewStreamEncoder(o canon.Reply) canon.StreamEncoder {
	return &encoder{reply: o}
}

// encoder prints chunks. All that does not change between them is made once, in head and tail.
type encoder struct {
	reply   canon.Reply
	head    []byte // `data: {"id":...,"model":"...",`; empty until the first chunk
	tail    string // from after the choices to the blank line
	stopped bool   // an error was sent: nothing may follow, least of all a clean end
}

// Append prints one event as chunks.
func (e *encoder) Append(dst []byte, ev *canon.Event) []byte {
	if e.stopped {
		return dst
	}
	if ev.Kind == canon.EventError {
		e.stopped = true
		dst = append(dst, "data: "...)
		dst = appendError(dst, ev.Err)
		return append(dst, "\n\n"...)
	}
	if ev.Kind == canon.EventPing {
		return append(dst, ": ping\n\n"...)
	}
	if len(e.head) == 0 {
		dst = e.start(dst, ev)
	}
	switch ev.Kind {
	case canon.EventText:
		dst = e.appendText(dst, `{"content":`, ev.Text)
	case canon.EventReasoning: // a signature has no place in this dialect
		dst = e.appendText(dst, `{"reasoning_content":`, ev.Text)
	case canon.EventRefusal:
		dst = e.appendText(dst, `{"refusal":`, ev.Text)
	case canon.EventToolStart:
		dst = e.open(dst)
		dst = append(dst, `{"tool_calls":[{"index":`...)
		dst = strconv.AppendInt(dst, int64(ev.Tool), 10)
		dst = append(dst, `,"id":`...)
		dst = jsonx.AppendString(dst, ev.CallID)
		dst = append(dst, `,"type":"function","function":{"name":`...)
		dst = jsonx.AppendString(dst, ev.Name)
		dst = append(dst, `,"arguments":""}}]}`...)
		dst = e.close(dst, "")
	case canon.EventToolDelta:
		if ev.Text == "" {
			return dst
		}
		dst = e.open(dst)
		dst = append(dst, `{"tool_calls":[{"index":`...)
		dst = strconv.AppendInt(dst, int64(ev.Tool), 10)
		dst = append(dst, `,"function":{"arguments":`...)
		dst = jsonx.AppendString(dst, ev.Text)
		dst = append(dst, "}}]}"...)
		dst = e.close(dst, "")
	case canon.EventFinish:
		dst = e.open(dst)
		dst = append(dst, "{}"...)
		dst = e.close(dst, finishWord(ev.Finish))
	case canon.EventUsage:
		if e.reply.IncludeUsage && ev.Usage != nil {
			dst = append(dst, e.head...)
			dst = append(dst, `"choices":[],"usage":`...)
			dst = appendUsage(dst, ev.Usage)
			dst = append(dst, "}\n\n"...)
		}
	}
	return dst
}

// End prints the terminator.
func (e *encoder) End(dst []byte) []byte {
	if e.stopped {
		return dst
	}
	return append(dst, "data: [DONE]\n\n"...)
}

// start makes head and tail and prints the chunk with the role.
func (e *encoder) start(dst []byte, ev *canon.Event) []byte {
	e.head = appendHead([]byte("data: "), ev.ID, "chat.completion.chunk", e.reply.Created, e.reply)
	e.tail = "}\n\n"
	if e.reply.IncludeUsage {
		e.tail = ",\"usage\":null}\n\n"
	}
	dst = e.open(dst)
	dst = append(dst, `{"role":"assistant","content":"","refusal":null}`...)
	return e.close(dst, "")
}

func (e *encoder) appendText(dst []byte, delta, text string) []byte {
	if text == "" {
		return dst
	}
	dst = e.open(dst)
	dst = append(dst, delta...)
	dst = jsonx.AppendString(dst, text)
	dst = append(dst, '}')
	return e.close(dst, "")
}

// open prints a chunk up to its delta.
func (e *encoder) open(dst []byte) []byte {
	dst = append(dst, e.head...)
	return append(dst, `"choices":[{"index":0,"delta":`...)
}

// close prints a chunk from after its delta; finish is "" in all chunks but the last.
func (e *encoder) close(dst []byte, finish string) []byte {
	dst = append(dst, `,"logprobs":null,"finish_reason":`...)
	dst = appendOrNull(dst, finish)
	dst = append(dst, "}]"...)
	return append(dst, e.tail...)
}
