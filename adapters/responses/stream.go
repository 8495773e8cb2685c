package responses

import (
	"strconv"
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// encoder prints canon events as a stream of this API, and keeps the answer meanwhile: the stream repeats it piece by piece and whole.
//
// A text goes into the item that was opened last, if that is of its kind, else into a new one. Calls may interleave: each is an item
// of its own, which closes once its arguments are whole and another item begins, or with the answer.
type encoder struct {
	request *Request
	reply   canon.Reply
	head    []byte // of the response object, up to its status
	tail    []byte // from after its usage

	started, ended bool
	sequence       int64

	items []*outItem
	open  *outItem // the item that texts go to; nil where the last one takes none

	finish  canon.FinishReason
	usage   *canon.Usage
	failure *canon.Error
}

// outItem is an item of the answer.
type outItem struct {
	kind  Kind
	index int
	id    []byte // the inside of a JSON string
	json  []byte // once it is closed
	where []byte // the members that its deltas have after their sequence number, up to the text

	part   partKind // of the part that is open
	text   []byte   // of that part, the inside of a JSON string
	parts  []byte   // the parts before it, as members of an array
	nparts int

	tool      int
	callID    string
	function  function
	arguments []byte

	plain             []byte // what is reasoned, where it may have to be sealed
	signature, origin string
}

func newEncoder(r *Request, o canon.Reply) *encoder { return &encoder{request: r, reply: o} }

// Append implements canon.StreamEncoder.
func (e *encoder) Append(dst []byte, ev *canon.Event) []byte {
	if e.ended {
		return dst
	}
	if ev.Kind == canon.EventPing {
		return append(dst, ": ping\n\n"...)
	}
	dst = e.start(dst)
	switch ev.Kind {
	case canon.EventText:
		dst = e.write(dst, KindMessage, partText, ev.Text)
	case canon.EventRefusal:
		dst = e.write(dst, KindMessage, partRefusal, ev.Text)
	case canon.EventReasoning:
		dst = e.reason(dst, ev)
	case canon.EventToolStart:
		dst = e.startCall(dst, ev)
	case canon.EventToolDelta:
		dst = e.writeCall(dst, ev)
	case canon.EventFinish:
		e.finish = ev.Finish
	case canon.EventUsage:
		if ev.Usage != nil {
			u := *ev.Usage
			e.usage = &u
		}
	case canon.EventError:
		dst = e.fail(dst, ev.Err)
	}
	return dst
}

// End implements canon.StreamEncoder.
func (e *encoder) End(dst []byte) []byte {
	if e.ended {
		return dst
	}
	dst = e.closeAll(e.start(dst))
	e.ended = true
	e.keep()
	return e.lifecycle(dst, e.status(), true)
}

// keep offers the answer to who keeps it.
func (e *encoder) keep() {
	if e.request.Keep == nil || !e.request.State.Store || e.request.Keep(e.appendObject(nil, e.status(), true)) {
		return
	}
	e.request.State.Store = false
	e.tail = e.request.appendTail(nil, &e.reply)
}

// status is the status of an answer that has come to its end.
func (e *encoder) status() string {
	if e.finish == canon.FinishLength || e.finish == canon.FinishContentFilter {
		return statusIncomplete
	}
	return statusCompleted
}

// fail ends the stream of an answer that broke off, in the two ways that clients look for.
func (e *encoder) fail(dst []byte, err *canon.Error) []byte {
	if err == nil {
		err = &canon.Error{Kind: canon.ErrInternal, Message: "the answer was cut short for an unknown reason"}
	}
	e.ended, e.failure = true, err
	dst = e.event(dst, "error")
	dst = append(dst, `,"code":"`...)
	dst = append(dst, failureCode(err)...)
	dst = append(dst, `","message":`...)
	dst = jsonx.AppendString(dst, err.Message)
	dst = append(dst, `,"param":`...)
	dst = appendOrNull(dst, err.Param)
	dst = append(dst, "}\n\n"...)
	return e.lifecycle(dst, statusFailed, true)
}

func (e *encoder) start(dst []byte) []byte {
	if e.started {
		return dst
	}
	e.started = true
	e.head = appendHead(nil, &e.reply)
	e.tail = e.request.appendTail(nil, &e.reply)
	dst = e.event(dst, "response.created")
	dst = e.response(dst, statusRunning, false)
	return e.lifecycle(dst, statusRunning, false)
}

// event prints the beginning of an event, up to the comma before its own members.
func (e *encoder) event(dst []byte, name string) []byte {
	dst = append(dst, "event: "...)
	dst = append(dst, name...)
	dst = append(dst, "\ndata: {\"type\":\""...)
	dst = append(dst, name...)
	dst = append(dst, `","sequence_number":`...)
	dst = strconv.AppendInt(dst, e.sequence, 10)
	e.sequence++
	return dst
}

// lifecycle prints the event that is named after a status.
func (e *encoder) lifecycle(dst []byte, status string, final bool) []byte {
	dst = append(dst, "event: response."...)
	dst = append(dst, status...)
	dst = append(dst, "\ndata: {\"type\":\"response."...)
	dst = append(dst, status...)
	dst = append(dst, `","sequence_number":`...)
	dst = strconv.AppendInt(dst, e.sequence, 10)
	e.sequence++
	return e.response(dst, status, final)
}

func (e *encoder) response(dst []byte, status string, final bool) []byte {
	dst = append(dst, `,"response":`...)
	dst = e.appendObject(dst, status, final)
	return append(dst, "}\n\n"...)
}

// newItem opens an item, and closes those before it as far as they are whole.
func (e *encoder) newItem(dst []byte, kind Kind) ([]byte, *outItem) {
	dst = e.closeItem(dst, e.open)
	e.open = nil
	for _, item := range e.items {
		if item.kind == KindCall && item.json == nil && isObject(item.arguments) {
			dst = e.closeItem(dst, item)
		}
	}
	item := &outItem{kind: kind, index: len(e.items)}
	item.id = appendOutputID(nil, kind, e.reply.ID, item.index)
	e.items = append(e.items, item)
	return dst, item
}

func isObject(text []byte) bool {
	return len(text) > 1 && text[0] == '{' && text[len(text)-1] == '}' && jsonx.Check(text) == nil
}

// added prints that an item is there.
func (e *encoder) added(dst []byte, item *outItem) []byte {
	return e.itemEvent(dst, "response.output_item.added", item, statusRunning)
}

func (e *encoder) itemEvent(dst []byte, name string, item *outItem, status string) []byte {
	dst = e.event(dst, name)
	dst = append(dst, `,"output_index":`...)
	dst = strconv.AppendInt(dst, int64(item.index), 10)
	dst = append(dst, `,"item":`...)
	if item.json != nil {
		dst = append(dst, item.json...)
	} else {
		dst = e.appendItem(dst, item, status)
	}
	return append(dst, "}\n\n"...)
}

// appendItem appends an item as JSON, with the parts that are closed.
func (e *encoder) appendItem(dst []byte, item *outItem, status string) []byte {
	dst = append(dst, `{"id":"`...)
	dst = append(dst, item.id...)
	dst = append(dst, '"')
	switch item.kind {
	case KindCall:
		dst = append(dst, `,"type":"function_call","status":"`...)
		dst = append(dst, status...)
		dst = append(dst, `","arguments":`...)
		dst = jsonx.AppendString(dst, string(item.arguments))
		dst = appendCallName(dst, item.callID, item.function)
	case KindReasoning:
		dst = append(dst, `,"type":"reasoning","summary":[`...)
		if e.reasoning() == partSummary {
			dst = append(dst, item.parts...)
		} else if len(item.parts) > 0 {
			dst = append(dst, `],"content":[`...)
			dst = append(dst, item.parts...)
		}
		dst = append(dst, ']')
		if item.signature != "" && e.request.State.Encrypted {
			dst = append(dst, `,"encrypted_content":"`...)
			dst = seal(dst, string(item.plain), item.signature, item.origin)
			dst = append(dst, '"')
		}
	default:
		dst = append(dst, `,"type":"message","status":"`...)
		dst = append(dst, status...)
		dst = append(dst, `","role":"assistant","content":[`...)
		dst = append(dst, item.parts...)
		dst = append(dst, ']')
	}
	return append(dst, '}')
}

// closeAll closes what is open, at the end of the answer. The last item is what a limit cut off.
func (e *encoder) closeAll(dst []byte) []byte {
	e.open = nil
	for _, item := range e.items {
		dst = e.closeItem(dst, item)
	}
	return dst
}

func (e *encoder) closeItem(dst []byte, item *outItem) []byte {
	if item == nil || item.json != nil {
		return dst
	}
	status := statusCompleted
	if item.index == len(e.items)-1 && e.status() == statusIncomplete {
		status = statusIncomplete
	}
	if item.kind == KindCall {
		dst = e.event(dst, "response.function_call_arguments.done")
		dst = append(dst, item.where...)
		dst = appendName(dst, item.function)
		dst = append(dst, `,"arguments":`...)
		dst = jsonx.AppendString(dst, string(item.arguments))
		dst = append(dst, "}\n\n"...)
	} else {
		dst = e.closePart(dst, item)
	}
	item.json = e.appendItem(nil, item, status)
	return e.itemEvent(dst, "response.output_item.done", item, status)
}

// reasoning is the form in which the caller gets reasoning: as a summary where one was asked for.
func (e *encoder) reasoning() partKind {
	if e.request.echo.summary != "" {
		return partSummary
	}
	return partReasoning
}

// write prints a piece of text.
func (e *encoder) write(dst []byte, kind Kind, part partKind, text string) []byte {
	if text == "" {
		return dst
	}
	item := e.open
	if item == nil || item.kind != kind {
		dst, item = e.newItem(dst, kind)
		e.open = item
		dst = e.added(dst, item)
	}
	if item.part != part {
		dst = e.openPart(e.closePart(dst, item), item, part)
	}
	dst = e.event(dst, partWords[part].delta)
	dst = append(dst, item.where...)
	from := len(dst) + len(`,"delta":"`)
	dst = append(dst, `,"delta":"`...)
	dst = jsonx.AppendEscaped(dst, text)
	item.text = append(item.text, dst[from:]...)
	if part == partText {
		return append(dst, "\",\"logprobs\":[]}\n\n"...)
	}
	return append(dst, "\"}\n\n"...)
}

// partWords are the names of the events of a kind of part, and of the member that its last one has the text in.
var partWords = [...]struct{ index, added, delta, done, text, closed string }{
	partText: {"content_index", "response.content_part.added", "response.output_text.delta", "response.output_text.done",
		"text", "response.content_part.done"},
	partRefusal: {"content_index", "response.content_part.added", "response.refusal.delta", "response.refusal.done",
		"refusal", "response.content_part.done"},
	partReasoning: {"content_index", "response.content_part.added", "response.reasoning_text.delta", "response.reasoning_text.done",
		"text", "response.content_part.done"},
	partSummary: {"summary_index", "response.reasoning_summary_part.added", "response.reasoning_summary_text.delta", "response.reasoning_summary_text.done",
		"text", "response.reasoning_summary_part.done"},
}

func (e *encoder) openPart(dst []byte, item *outItem, kind partKind) []byte {
	item.part, item.text = kind, item.text[:0]
	w := appendWhere(item.where[:0], item)
	w = append(w, `,"`...)
	w = append(w, partWords[kind].index...)
	w = append(w, `":`...)
	item.where = strconv.AppendInt(w, int64(item.nparts), 10)
	dst = e.event(dst, partWords[kind].added)
	dst = append(dst, item.where...)
	dst = append(dst, `,"part":`...)
	dst = appendTextPart(dst, kind, nil)
	return append(dst, "}\n\n"...)
}

// appendWhere appends the members by which events name their item.
func appendWhere(dst []byte, item *outItem) []byte {
	dst = append(dst, `,"item_id":"`...)
	dst = append(dst, item.id...)
	dst = append(dst, `","output_index":`...)
	return strconv.AppendInt(dst, int64(item.index), 10)
}

func (e *encoder) closePart(dst []byte, item *outItem) []byte {
	if item.part == partNone {
		return dst
	}
	words := &partWords[item.part]
	dst = e.event(dst, words.done)
	dst = append(dst, item.where...)
	dst = append(dst, `,"`...)
	dst = append(dst, words.text...)
	dst = append(dst, `":"`...)
	dst = append(dst, item.text...)
	dst = append(dst, '"')
	if item.part == partText {
		dst = append(dst, `,"logprobs":[]`...)
	}
	dst = append(dst, "}\n\n"...)
	dst = e.event(dst, words.closed)
	dst = append(dst, item.where...)
	dst = append(dst, `,"part":`...)
	if item.nparts > 0 {
		item.parts = append(item.parts, ',')
	}
	from := len(item.parts)
	item.parts = appendTextPart(item.parts, item.part, item.text)
	item.nparts++
	item.part = partNone
	dst = append(dst, item.parts[from:]...)
	return append(dst, "}\n\n"...)
}

// reason prints reasoning. A signature ends its item, whose text it signs.
func (e *encoder) reason(dst []byte, ev *canon.Event) []byte {
	dst = e.write(dst, KindReasoning, e.reasoning(), ev.Text)
	if e.request.State.Encrypted && ev.Text != "" {
		e.open.plain = append(e.open.plain, ev.Text...)
	}
	if ev.Signature == "" || !e.request.State.Encrypted {
		return dst
	}
	item := e.open
	if item == nil || item.kind != KindReasoning { // nothing but a signature: reasoning that its provider does not show
		dst, item = e.newItem(dst, KindReasoning)
		dst = e.added(dst, item)
	}
	item.signature, item.origin = strings.Clone(ev.Signature), strings.Clone(ev.Origin)
	e.open = nil
	return e.closeItem(dst, item)
}

func (e *encoder) startCall(dst []byte, ev *canon.Event) []byte {
	dst, item := e.newItem(dst, KindCall)
	item.tool, item.callID = ev.Tool, strings.Clone(ev.CallID)
	known := false
	if item.function, known = e.request.spaces[ev.Name]; !known {
		item.function.name = strings.Clone(ev.Name)
	}
	if item.callID == "" {
		item.callID = "call_" + e.reply.ID + "_" + strconv.Itoa(item.index)
	}
	item.where = appendWhere(nil, item)
	return e.added(dst, item)
}

// writeCall prints a fragment of arguments. One for a call that is closed can only be surplus behind complete JSON, and is left out.
func (e *encoder) writeCall(dst []byte, ev *canon.Event) []byte {
	if ev.Text == "" {
		return dst
	}
	for i := len(e.items) - 1; i >= 0; i-- {
		item := e.items[i]
		if item.kind != KindCall || item.tool != ev.Tool {
			continue
		}
		if item.json != nil {
			return dst
		}
		item.arguments = append(item.arguments, ev.Text...)
		dst = e.event(dst, "response.function_call_arguments.delta")
		dst = append(dst, item.where...)
		dst = append(dst, `,"delta":`...)
		dst = jsonx.AppendString(dst, ev.Text)
		return append(dst, "}\n\n"...)
	}
	return dst
}
