package dashscope

import (
	"bytes"
	"strconv"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
	"github.com/weir-dev/weir/adapters/sse"
)

// maxPlain bounds an answer that is no event stream, in bytes. Only an error is read from it.
const maxPlain = 1 << 20

// decoder reads a DashScope stream whose request asked for incremental_output, as BuildCall always
// does: every frame holds what is new. Frames do not tell whether they are increments, and text
// that repeats looks the same in both forms, so that nothing is guessed here.
type decoder struct {
	reader sse.Reader
	ev     canon.Event // reused for every event

	sniffed bool
	plain   []byte // an answer that is no event stream; nil for one that is

	started  bool
	finished bool // a real finish reason came
	ended    bool // an error, or all there is, was told
	usage    *canon.Usage
	calls    []call
}

// call is a tool call as its fragments come in. It is told once its name is known.
type call struct {
	index   int64 // the provider's number, or -1
	id      string
	name    string
	told    bool
	written bool
	waiting string // arguments that came before the name
}

// NewStreamDecoder implements canon.Outbound.
func (outbound) NewStreamDecoder() canon.StreamDecoder { return &decoder{} }

// Feed implements canon.StreamDecoder.
func (d *decoder) Feed(chunk []byte, emit func(*canon.Event)) {
	if d.ended {
		return
	}
	if !d.sniffed {
		trimmed := bytes.TrimLeft(chunk, " \t\r\n")
		if len(trimmed) == 0 {
			return // a stream may begin with blank lines, which mean nothing in either form
		}
		d.sniffed = true
		if trimmed[0] == '{' {
			d.plain = []byte{}
		}
		chunk = trimmed
	}
	if d.plain != nil {
		d.plain = append(d.plain, chunk[:min(len(chunk), maxPlain-len(d.plain))]...)
		return
	}
	d.reader.Feed(chunk, func(ev sse.Event) {
		if !d.ended && len(ev.Data) > 0 {
			d.frame(ev, emit)
		}
	})
	if err := d.reader.Err(); err != nil && !d.ended {
		d.fail(emit, badGateway("%s", err))
	}
}

// Ended implements canon.StreamDecoder. The protocol has no last event: a stream is over when both the
// finish reason and, in its frame or a later one, a usage have come. Usage is cumulative and the
// finish comes with the last token, so that this usage is the whole one; an earlier frame's is not.
func (d *decoder) Ended() bool { return d.ended }

// End implements canon.StreamDecoder.
func (d *decoder) End(emit func(*canon.Event)) {
	switch {
	case d.ended:
	case d.plain != nil:
		d.fail(emit, plainError(d.plain))
	default:
		d.end(emit)
	}
}

// end closes the stream: after the last frame, at a [DONE], or at its last byte.
func (d *decoder) end(emit func(*canon.Event)) {
	if !d.finished {
		d.fail(emit, badGateway("the provider's stream ended before the answer was complete (no finish_reason)"))
		return
	}
	d.ended = true
	if d.usage != nil {
		d.send(emit, canon.Event{Kind: canon.EventUsage, Usage: d.usage})
	}
}

// plainError is what a body that is no stream, under status 200, says went wrong.
func plainError(body []byte) *canon.Error {
	if jsonx.Check(body) == nil {
		if root := jsonx.Root(body); isError(root) {
			return readError(0, root)
		}
	}
	return badGateway("the provider was asked for an event stream and answered with something else")
}

func (d *decoder) send(emit func(*canon.Event), ev canon.Event) {
	d.ev = ev
	emit(&d.ev)
}

func (d *decoder) fail(emit func(*canon.Event), err *canon.Error) {
	d.ended = true
	d.send(emit, canon.Event{Kind: canon.EventError, Err: err})
}

func (d *decoder) frame(ev sse.Event, emit func(*canon.Event)) {
	if string(ev.Data) == "[DONE]" { // not DashScope's own, but proxies add it
		d.end(emit)
		return
	}
	status := statusComment(ev.Comment)
	failed := string(ev.Name) == "error" || status >= 400
	if err := jsonx.Check(ev.Data); err != nil {
		if failed {
			d.fail(emit, badGateway("the provider reported a failure in a form that is not valid JSON: %s", err))
			return
		}
		d.fail(emit, badGateway("the provider's stream has a frame that is not valid JSON: %s", err))
		return
	}
	root := jsonx.Root(ev.Data)
	if failed || isError(root) {
		d.fail(emit, readError(status, root))
		return
	}
	usage := readUsage(root.Get("usage"))
	if usage != nil {
		d.usage = usage // cumulative: the last one counts
	}
	if !d.finished {
		d.output(root, emit)
	}
	if d.finished && usage != nil {
		d.end(emit)
	}
}

// output tells what is new in a frame.
func (d *decoder) output(root jsonx.Value, emit func(*canon.Event)) {
	if !d.started {
		d.started = true
		d.send(emit, canon.Event{Kind: canon.EventStart, ID: root.Get("request_id").Str(), Usage: inputOnly(d.usage)})
	}
	out := readOutput(root)
	if text := out.message.Get("reasoning_content").Str(); text != "" {
		d.send(emit, canon.Event{Kind: canon.EventReasoning, Text: text})
	}
	if text := contentText(out.content); text != "" {
		d.send(emit, canon.Event{Kind: canon.EventText, Text: text})
	}
	for _, v := range out.message.Get("tool_calls").Elements() {
		d.fragment(v, emit)
	}
	if reason, real := finishReason(out.finish); real {
		d.finish(reason, emit)
	}
}

// statusComment reads the comment HTTP_STATUS/400; 0 where there is none, or it says success.
func statusComment(comment []byte) int {
	text, ok := bytes.CutPrefix(bytes.TrimSpace(comment), []byte("HTTP_STATUS/"))
	if !ok {
		return 0
	}
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 400 || n > 599 {
		return 0
	}
	return n
}

// inputOnly is the first frame's usage, as far as it will not grow any more.
func inputOnly(u *canon.Usage) *canon.Usage {
	if u == nil {
		return nil
	}
	return &canon.Usage{Input: u.Input, CacheRead: u.CacheRead, CacheWrite: u.CacheWrite}
}

func (d *decoder) fragment(v jsonx.Value, emit func(*canon.Event)) {
	n := d.find(v)
	c := &d.calls[n]
	name, arguments := readFunction(v)
	if c.name == "" {
		c.name = name
	}
	if c.id == "" {
		c.id = v.Get("id").Str()
	}
	if !c.told {
		c.waiting += arguments
		if c.name != "" {
			d.tell(n, emit)
		}
		return
	}
	d.write(n, arguments, emit)
}

// find gives the number of the call that a fragment belongs to: by its index, else by its id, else
// the last one.
func (d *decoder) find(v jsonx.Value) int {
	index, ok := v.Get("index").Int()
	id := v.Get("id").Str()
	if !ok {
		index = -1
	}
	for n := range d.calls {
		if ok && d.calls[n].index == index || !ok && id != "" && d.calls[n].id == id {
			return n
		}
	}
	if !ok && id == "" && len(d.calls) > 0 {
		return len(d.calls) - 1
	}
	d.calls = append(d.calls, call{index: index, id: id})
	return len(d.calls) - 1
}

// tell announces a call, after those before it: calls are numbered in the order of their start.
func (d *decoder) tell(n int, emit func(*canon.Event)) {
	for i := 0; i <= n; i++ {
		c := &d.calls[i]
		if c.told {
			continue
		}
		c.told = true
		d.send(emit, canon.Event{Kind: canon.EventToolStart, Tool: i, CallID: c.id, Name: c.name})
		d.write(i, c.waiting, emit)
		c.waiting = ""
	}
}

func (d *decoder) write(n int, arguments string, emit func(*canon.Event)) {
	if arguments == "" {
		return
	}
	d.calls[n].written = true
	d.send(emit, canon.Event{Kind: canon.EventToolDelta, Tool: n, Text: arguments})
}

func (d *decoder) finish(reason canon.FinishReason, emit func(*canon.Event)) {
	d.finished = true
	if n := len(d.calls); n > 0 {
		d.tell(n-1, emit)
		if reason == canon.FinishStop {
			reason = canon.FinishToolCalls
		}
	}
	for n := range d.calls {
		if !d.calls[n].written {
			d.write(n, "{}", emit) // clients parse the arguments of every call
		}
	}
	d.send(emit, canon.Event{Kind: canon.EventFinish, Finish: reason})
}
