package anthropic

import (
	"strconv"
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// blockKind is the kind of the content block that is open.
type blockKind uint8

const (
	blockNone blockKind = iota
	blockText
	blockThinking
	blockTool
)

// encoder prints canon events as an Anthropic stream.
//
// Anthropic's blocks come one after the other, each closed before the next opens, where canon's
// events may interleave: several tools in turn, text in the middle of a call. The open block is
// printed as it comes. What belongs to another block waits while the open one is a call whose
// arguments are incomplete, since more of them must follow; in any other case the open block is
// closed and the next one opened. In a stream that does not interleave nothing ever waits.
type encoder struct {
	reply canon.Reply

	started bool
	ended   bool // an error or the end was printed
	index   int  // of the open block, or of the next one

	open  blockKind
	tool  int       // the number of the open call
	args  argsState // of the open call
	calls int       // blocks of kind tool so far

	waiting []*pending

	finish       canon.FinishReason
	stopSequence string
	usage        canon.Usage

	scratch []byte // for Follow
}

// pending is a block that waits for the open one to close.
type pending struct {
	kind         blockKind
	text         []byte // also a call's arguments
	signature    string
	tool         int
	callID, name string
}

// NewStreamEncoder implements canon.Inbound.
func (inbound) NewStreamEncoder(o canon.Reply) canon.StreamEncoder { return &encoder{reply: o} }

// Append implements canon.StreamEncoder.
func (e *encoder) Append(dst []byte, ev *canon.Event) []byte {
	if e.ended {
		return dst
	}
	switch ev.Kind {
	case canon.EventError:
		return e.fail(dst, ev.Err)
	case canon.EventPing:
		return append(dst, "event: ping\ndata: {\"type\":\"ping\"}\n\n"...)
	case canon.EventStart:
		if ev.Usage != nil {
			e.usage = *ev.Usage
		}
		return e.start(dst, ev.ID)
	}
	dst = e.start(dst, "")
	switch ev.Kind {
	case canon.EventText, canon.EventRefusal:
		if ev.Text != "" {
			dst = e.write(dst, blockText, ev)
		}
	case canon.EventReasoning:
		// Only what Anthropic signs, as in showable. The signature comes last, so that the origin
		// tells.
		if ev.Origin == name && (ev.Text != "" || ev.Signature != "") {
			dst = e.write(dst, blockThinking, ev)
		}
	case canon.EventToolStart:
		dst = e.startCall(dst, ev)
	case canon.EventToolDelta:
		dst = e.writeCall(dst, ev)
	case canon.EventFinish:
		e.finish, e.stopSequence = ev.Finish, strings.Clone(ev.StopSequence)
	case canon.EventUsage:
		if ev.Usage != nil {
			e.usage = *ev.Usage
		}
	}
	return dst
}

// End implements canon.StreamEncoder.
func (e *encoder) End(dst []byte) []byte {
	if e.ended {
		return dst
	}
	dst = e.start(dst, "")
	dst = e.drain(e.close(dst), true)
	dst = e.close(dst)
	e.ended = true
	dst = append(dst, "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{"...)
	dst = appendStop(dst, e.finish, e.stopSequence, e.calls > 0)
	dst = append(dst, `},"usage":`...)
	// Every count is repeated here: where the provider tells them last, the zeros of message_start
	// are overwritten, and some clients read nothing else.
	dst = appendUsage(dst, &e.usage)
	return append(dst, "}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"...)
}

// fail prints an error event, after which nothing may follow, not even the end of an open block.
func (e *encoder) fail(dst []byte, err *canon.Error) []byte {
	e.ended, e.waiting = true, nil
	if err == nil {
		err = &canon.Error{Kind: canon.ErrInternal, Message: "the answer was cut short for an unknown reason"}
	}
	dst = append(dst, "event: error\ndata: "...)
	dst = appendErrorHead(dst, err)
	return append(dst, "}\n\n"...)
}

func (e *encoder) start(dst []byte, id string) []byte {
	if e.started {
		return dst
	}
	e.started = true
	dst = append(dst, "event: message_start\ndata: {\"type\":\"message_start\",\"message\":"...)
	dst = appendMessageHead(dst, id, e.reply)
	dst = append(dst, `"content":[],"stop_reason":null,"stop_sequence":null,"usage":`...)
	dst = appendUsage(dst, &e.usage)
	return append(dst, "}}\n\n"...)
}

// busy reports whether the open block must stay open.
func (e *encoder) busy() bool {
	return e.open == blockTool && !e.args.complete() || len(e.waiting) > 0
}

// write prints text or reasoning, or lets it wait.
func (e *encoder) write(dst []byte, kind blockKind, ev *canon.Event) []byte {
	signature := ""
	if kind == blockThinking {
		signature = ev.Signature
	}
	if !e.busy() {
		return e.writeBlock(dst, kind, ev.Text, signature)
	}
	last := (*pending)(nil)
	if n := len(e.waiting); n > 0 {
		last = e.waiting[n-1]
	}
	if last == nil || last.kind != kind || last.signature != "" || strings.HasPrefix(signature, redactedPrefix) {
		last = &pending{kind: kind}
		e.waiting = append(e.waiting, last)
	}
	last.text = append(last.text, ev.Text...)
	last.signature = strings.Clone(signature)
	return dst
}

// writeBlock prints into the open block if it is of the kind, else into a new one.
func (e *encoder) writeBlock(dst []byte, kind blockKind, text, signature string) []byte {
	data, redacted := strings.CutPrefix(signature, redactedPrefix)
	if redacted {
		signature = ""
	}
	if text != "" || signature != "" {
		if e.open != kind {
			dst = e.openBlock(e.close(dst), kind)
		}
		if text != "" {
			dst = e.delta(dst, kind, text)
		}
		if signature != "" {
			dst = e.deltaHead(dst)
			dst = append(dst, `{"type":"signature_delta","signature":`...)
			dst = jsonx.AppendString(dst, signature)
			dst = append(dst, "}}\n\n"...)
			dst = e.close(dst) // a signature ends its block
		}
	}
	if redacted {
		dst = e.blockHead(e.close(dst))
		dst = append(dst, `{"type":"redacted_thinking","data":`...)
		dst = jsonx.AppendString(dst, data)
		dst = append(dst, "}}\n\n"...)
		dst = e.blockStop(dst)
	}
	return dst
}

func (e *encoder) startCall(dst []byte, ev *canon.Event) []byte {
	if !e.busy() {
		return e.openCall(dst, ev.Tool, ev.CallID, ev.Name)
	}
	e.waiting = append(e.waiting, &pending{kind: blockTool, tool: ev.Tool,
		callID: strings.Clone(ev.CallID), name: strings.Clone(ev.Name)})
	return dst
}

func (e *encoder) openCall(dst []byte, tool int, id, name string) []byte {
	dst = e.blockHead(e.close(dst))
	dst = append(dst, `{"type":"tool_use","id":`...)
	dst = appendCallID(dst, id, e.reply.ID, e.calls)
	dst = append(dst, `,"name":`...)
	dst = jsonx.AppendString(dst, name)
	dst = append(dst, ",\"input\":{}}}\n\n"...)
	e.open, e.tool, e.args = blockTool, tool, argsState{}
	e.calls++
	return dst
}

// writeCall prints a fragment of arguments. One for a call that is closed already can only be
// surplus behind complete JSON, and is left out.
func (e *encoder) writeCall(dst []byte, ev *canon.Event) []byte {
	if ev.Text == "" {
		return dst
	}
	if e.open == blockTool && e.tool == ev.Tool {
		dst = e.callDelta(dst, ev.Text)
		if e.args.complete() && len(e.waiting) > 0 {
			dst = e.drain(e.close(dst), false)
		}
		return dst
	}
	for _, p := range e.waiting {
		if p.kind == blockTool && p.tool == ev.Tool {
			p.text = append(p.text, ev.Text...)
			break
		}
	}
	return dst
}

func (e *encoder) callDelta(dst []byte, text string) []byte {
	e.args.feed(text)
	return e.delta(dst, blockTool, text)
}

// drain prints the blocks that waited: all of them at the end of the answer, else up to a call
// that is incomplete. What it printed last stays open, for more may come.
func (e *encoder) drain(dst []byte, all bool) []byte {
	for len(e.waiting) > 0 && (all || e.open != blockTool || e.args.complete()) {
		p := e.waiting[0]
		e.waiting = e.waiting[1:]
		if p.kind != blockTool {
			dst = e.writeBlock(dst, p.kind, string(p.text), p.signature)
			continue
		}
		dst = e.openCall(dst, p.tool, p.callID, p.name)
		if len(p.text) > 0 {
			dst = e.callDelta(dst, string(p.text))
		}
	}
	return dst
}

func (e *encoder) openBlock(dst []byte, kind blockKind) []byte {
	dst = e.blockHead(dst)
	e.open = kind
	if kind == blockThinking {
		return append(dst, "{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}}\n\n"...)
	}
	return append(dst, "{\"type\":\"text\",\"text\":\"\"}}\n\n"...)
}

func (e *encoder) close(dst []byte) []byte {
	if e.open == blockNone {
		return dst
	}
	e.open = blockNone
	return e.blockStop(dst)
}

func (e *encoder) blockHead(dst []byte) []byte {
	dst = append(dst, "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":"...)
	dst = strconv.AppendInt(dst, int64(e.index), 10)
	return append(dst, `,"content_block":`...)
}

func (e *encoder) deltaHead(dst []byte) []byte {
	dst = append(dst, "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":"...)
	dst = strconv.AppendInt(dst, int64(e.index), 10)
	return append(dst, `,"delta":`...)
}

func (e *encoder) delta(dst []byte, kind blockKind, text string) []byte {
	dst = e.deltaHead(dst)
	switch kind {
	case blockThinking:
		dst = append(dst, `{"type":"thinking_delta","thinking":`...)
	case blockTool:
		dst = append(dst, `{"type":"input_json_delta","partial_json":`...)
	default:
		dst = append(dst, `{"type":"text_delta","text":`...)
	}
	dst = jsonx.AppendString(dst, text)
	return append(dst, "}}\n\n"...)
}

func (e *encoder) blockStop(dst []byte) []byte {
	dst = append(dst, "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":"...)
	dst = strconv.AppendInt(dst, int64(e.index), 10)
	e.index++
	return append(dst, "}\n\n"...)
}

// argsState follows a call's arguments just far enough to know when their object is complete.
type argsState struct {
	depth            int
	started, invalid bool
	inString, escape bool
}

// complete reports a whole JSON object. It never is while the text is not the text of an object.
func (a *argsState) complete() bool { return a.started && !a.invalid && a.depth == 0 }

func (a *argsState) feed(s string) {
	for i := range len(s) {
		c := s[i]
		switch {
		case a.invalid:
			return
		case a.escape:
			a.escape = false
		case a.inString:
			a.escape = c == '\\'
			a.inString = c != '"'
		case c == '"':
			a.inString = true
			a.invalid = a.depth == 0
		case c == '{' || c == '[':
			a.invalid = a.depth == 0 && (a.started || c == '[')
			a.started = true
			a.depth++
		case c == '}' || c == ']':
			a.depth--
			a.invalid = a.depth < 0
		case a.depth == 0:
			a.invalid = c != ' ' && c != '\n' && c != '\t' && c != '\r'
		}
	}
}
