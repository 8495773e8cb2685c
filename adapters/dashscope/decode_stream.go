package dashscope

import (
	"bytes"
	"strconv"
	"strings"

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
	reader  sse.Reader
	out     canon.Emitter
	scratch []byte // for strings that are only looked at

	sniffed bool
	plain   []byte // an answer that is no event stream; nil for one that is

	started  bool
	finished bool // a real finish reason came
	ended    bool // an error, or all there is, was told
	usage    canon.Usage
	counted  bool // usage was told
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
	d.out.To = emit
	d.reader.Feed(chunk, d.frame)
	if err := d.reader.Err(); err != nil && !d.ended {
		d.fail(badGateway("%s", err))
	}
}

// Ended implements canon.StreamDecoder. The protocol has no last event: a stream is over when both the
// finish reason and, in its frame or a later one, a usage have come. Usage is cumulative and the
// finish comes with the last token, so that this usage is the whole one; an earlier frame's is not.
func (d *decoder) Ended() bool { return d.ended }

// End implements canon.StreamDecoder.
func (d *decoder) End(emit func(*canon.Event)) {
	d.out.To = emit
	switch {
	case d.ended:
	case d.plain != nil:
		d.fail(plainError(d.plain))
	default:
		d.end()
	}
}

// end closes the stream: after the last frame, at a [DONE], or at its last byte.
func (d *decoder) end() {
	if !d.finished {
		d.fail(badGateway("the provider's stream ended before the answer was complete (no finish_reason)"))
		return
	}
	d.ended = true
	if d.counted {
		d.out.Send(canon.Event{Kind: canon.EventUsage, Usage: &d.usage})
	}
}

// plainError is what a body that is no stream, under status 200, says went wrong.
func plainError(body []byte) *canon.Error {
	if jsonx.Check(body) == nil {
		root := jsonx.Root(body)
		if f := root.Fields(); isError(&f) {
			return readError(0, root)
		}
	}
	return badGateway("the provider was asked for an event stream and answered with something else")
}

func (d *decoder) fail(err *canon.Error) {
	d.ended = true
	d.out.Send(canon.Event{Kind: canon.EventError, Err: err})
}

func (d *decoder) frame(ev sse.Event) {
	if d.ended || len(ev.Data) == 0 {
		return
	}
	if string(ev.Data) == "[DONE]" { // not DashScope's own, but proxies add it
		d.end()
		return
	}
	status := statusComment(ev.Comment)
	failed := string(ev.Name) == "error" || status >= 400
	if err := jsonx.Check(ev.Data); err != nil {
		if failed {
			d.fail(badGateway("the provider reported a failure in a form that is not valid JSON: %s", err))
			return
		}
		d.fail(badGateway("the provider's stream has a frame that is not valid JSON: %s", err))
		return
	}
	root := jsonx.Root(ev.Data)
	f := root.Fields()
	if failed || isError(&f) {
		d.fail(readError(status, root))
		return
	}
	usage, counted := readUsage(f.Get("usage"))
	if counted {
		d.usage, d.counted = usage, true // cumulative: the last one counts
	}
	if !d.finished {
		d.output(&f)
	}
	if d.finished && counted {
		d.end()
	}
}

// output tells what is new in a frame.
func (d *decoder) output(frame *jsonx.Fields) {
	if !d.started {
		d.started = true
		d.out.Send(canon.Event{Kind: canon.EventStart, ID: frame.Get("request_id").Str(), Usage: d.inputOnly()})
	}
	out := readOutput(frame.Get("output"))
	d.out.SendText(canon.Event{Kind: canon.EventReasoning}, out.message.Get("reasoning_content"))
	d.content(out.content)
	for _, v := range out.message.Get("tool_calls").Elements() {
		d.fragment(v)
	}
	if reason, real := finishReason(out.finish.Lend(&d.scratch)); real {
		d.finish(reason)
	}
}

// content tells the text of a frame: a string, or an array, which nearly always has one element.
func (d *decoder) content(v jsonx.Value) {
	text := canon.Event{Kind: canon.EventText}
	switch {
	case v.Kind() != jsonx.Array:
		d.out.SendText(text, v)
	case v.Len() == 1:
		for _, part := range v.Elements() {
			d.out.SendText(text, part.Get("text"))
		}
	default:
		if text.Text = contentText(v); text.Text != "" {
			d.out.Send(text)
		}
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

// inputOnly is the first frame's usage, as far as it will not grow any more; nil where it has none.
func (d *decoder) inputOnly() *canon.Usage {
	if !d.counted {
		return nil
	}
	return &canon.Usage{Input: d.usage.Input, CacheRead: d.usage.CacheRead, CacheWrite: d.usage.CacheWrite}
}

func (d *decoder) fragment(v jsonx.Value) {
	fragment := v.Fields()
	n := d.find(&fragment)
	c := &d.calls[n]
	f := fragment.Get("function").Fields()
	arguments := f.Get("arguments")
	if c.id == "" {
		c.id = fragment.Get("id").Str()
	}
	if c.told {
		d.write(n, arguments)
		return
	}
	if c.name == "" {
		c.name = f.Get("name").Str()
	}
	c.waiting += strings.Clone(argumentsText(arguments))
	if c.name != "" {
		d.tell(n)
	}
}

// find gives the number of the call that a fragment belongs to: by its index, else by its id, else
// the last one.
func (d *decoder) find(fragment *jsonx.Fields) int {
	index, ok := fragment.Get("index").Int()
	id := fragment.Get("id").Lend(&d.scratch)
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
	d.calls = append(d.calls, call{index: index, id: strings.Clone(id)})
	return len(d.calls) - 1
}

// tell announces a call, after those before it: calls are numbered in the order of their start.
func (d *decoder) tell(n int) {
	for i := 0; i <= n; i++ {
		c := &d.calls[i]
		if c.told {
			continue
		}
		c.told = true
		d.out.Send(canon.Event{Kind: canon.EventToolStart, Tool: i, CallID: c.id, Name: c.name})
		d.writeText(i, c.waiting)
		c.waiting = ""
	}
}

// write tells a fragment of a call's arguments.
func (d *decoder) write(n int, arguments jsonx.Value) {
	if arguments.Kind() != jsonx.String {
		d.writeText(n, argumentsText(arguments))
		return
	}
	if len(arguments) > len(`""`) {
		d.calls[n].written = true
		d.out.SendText(canon.Event{Kind: canon.EventToolDelta, Tool: n}, arguments)
	}
}

func (d *decoder) writeText(n int, arguments string) {
	if arguments != "" {
		d.calls[n].written = true
		d.out.Send(canon.Event{Kind: canon.EventToolDelta, Tool: n, Text: arguments})
	}
}

func (d *decoder) finish(reason canon.FinishReason) {
	d.finished = true
	if n := len(d.calls); n > 0 {
		d.tell(n - 1)
		if reason == canon.FinishStop {
			reason = canon.FinishToolCalls
		}
	}
	for n := range d.calls {
		if !d.calls[n].written {
			d.writeText(n, "{}") // clients parse the arguments of every call
		}
	}
	d.out.Send(canon.Event{Kind: canon.EventFinish, Finish: reason})
}
