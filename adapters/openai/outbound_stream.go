package openai

import (
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
	"github.com/weir-dev/weir/adapters/sse"
)

// NewStreamDecoder makes the decoder of chat.completion.chunk events.
func (outbound) NewStreamDecoder() canon.StreamDecoder {
	return &decoder{}
}

// decoder turns chunks into events. A stream is whole when a finish_reason has come; [DONE] is
// neither needed nor enough, since proxies add it to streams that broke off. But only [DONE] ends
// it: the usage comes after the finish_reason.
type decoder struct {
	lines sse.Reader
	out   canon.Emitter

	id       string
	started  bool
	finished bool
	ended    bool // [DONE] or an error: what follows is not read
	usage    canon.Usage
	hasUsage bool
	tools    []tool // in order of appearance
	begun    int    // how many of them have a name: the next dense index
	scratch  []byte // for strings that are only looked at
}

// tool is one tool call under way.
type tool struct {
	index int64 // the provider's; -1 where it gives none
	id    string
	name  string
	dense int    // once there is a name
	held  []byte // arguments that came before the name
}

// Feed reads a chunk, cut anywhere.
func (d *decoder) Feed(chunk []byte, emit func(*canon.Event)) {
	if d.ended {
		return
	}
	d.out.To = emit
	d.lines.Feed(chunk, d.event)
	if err := d.lines.Err(); err != nil {
		d.fail(badGateway(err.Error()))
	}
}

// Ended is true after [DONE] or an error.
func (d *decoder) Ended() bool { return d.ended }

// End tells that the provider closed the stream.
func (d *decoder) End(emit func(*canon.Event)) {
	d.out.To = emit
	if !d.ended {
		d.end()
	}
}

func (d *decoder) fail(err *canon.Error) {
	if d.ended {
		return
	}
	d.ended = true
	d.out.Send(canon.Event{Kind: canon.EventError, Err: err})
}

// end closes the stream at [DONE] or at its last byte.
func (d *decoder) end() {
	if !d.finished {
		d.fail(badGateway("the provider's stream ended before the answer was complete"))
		return
	}
	d.ended = true
	if d.hasUsage {
		d.out.Send(canon.Event{Kind: canon.EventUsage, Usage: &d.usage})
	}
}

// event reads one server-sent event.
func (d *decoder) event(ev sse.Event) {
	switch {
	case d.ended:
	case ev.Data == nil:
		d.out.Send(canon.Event{Kind: canon.EventPing})
	case len(ev.Data) == 0:
	case string(ev.Data) == "[DONE]":
		d.end()
	case string(ev.Name) != "error" && d.out.Again(ev.Data):
	default:
		if err := jsonx.Check(ev.Data); err != nil {
			d.fail(badGateway("the provider's stream has an event that is not JSON: " + err.Error()))
			return
		}
		root := jsonx.Root(ev.Data)
		if string(ev.Name) == "error" {
			d.fail(errorOf(root))
			return
		}
		d.chunk(root)
		d.out.Read(ev.Data)
	}
}

// chunk reads one JSON object of the stream.
func (d *decoder) chunk(root jsonx.Value) {
	var id, model, choices, usage, failure, object jsonx.Value
	for k, v := range root.Members() {
		switch string(k) {
		case "id":
			id = v
		case "model":
			model = v
		case "choices":
			choices = v
		case "usage":
			usage = v
		case "error":
			failure = v
		case "object":
			object = v
		}
	}
	if !failure.Missing() || string(object) == `"error"` {
		if err := errorIn(root); err != nil {
			d.fail(err)
			return
		}
	}
	if root.Kind() != jsonx.Object {
		d.fail(badGateway("the provider's stream has an event that is not a JSON object"))
		return
	}
	// Usage is cumulative wherever it comes (with the last choice, after it, or, on request, with
	// each chunk): the last one counts.
	if u, ok := readUsage(usage); ok {
		d.usage, d.hasUsage = u, true
	}
	for _, choice := range choices.Elements() {
		// The first chunk of a stream may have no choices and no id (Azure's prompt filter).
		d.start(id, model)
		d.choice(choice)
		if d.ended {
			return
		}
	}
}

func (d *decoder) start(id, model jsonx.Value) {
	if d.started {
		return
	}
	d.started = true
	d.id = id.Str()
	d.out.Send(canon.Event{Kind: canon.EventStart, ID: d.id, Model: model.Str()})
}

// choice reads one choice; only the first was asked for.
func (d *decoder) choice(v jsonx.Value) {
	var delta, finish jsonx.Value
	for k, m := range v.Members() {
		switch string(k) {
		case "index":
			if n, ok := m.Int(); ok && n != 0 {
				return
			}
		case "delta":
			delta = m
		case "finish_reason":
			finish = m
		}
	}
	if d.finished { // some servers send an empty delta after the end
		return
	}
	d.delta(delta)
	if word := finish.Lend(&d.scratch); word != "" && word != "null" && !d.ended {
		d.finish(word)
	}
}

func (d *decoder) delta(v jsonx.Value) {
	var content, reasoning, reasoning2, refusal, calls jsonx.Value
	for k, m := range v.Members() {
		switch string(k) {
		case "content":
			content = m
		case "reasoning_content":
			reasoning = m
		case "reasoning":
			reasoning2 = m
		case "refusal":
			refusal = m
		case "tool_calls":
			calls = m
		}
	}
	if reasoning.Kind() != jsonx.String || len(reasoning) == 2 {
		reasoning = reasoning2
	}
	d.out.SendText(canon.Event{Kind: canon.EventReasoning}, reasoning)
	for _, p := range content.Elements() {
		d.out.SendText(canon.Event{Kind: canon.EventText}, p.Get("text"))
	}
	d.out.SendText(canon.Event{Kind: canon.EventText}, content)
	d.out.SendText(canon.Event{Kind: canon.EventRefusal}, refusal)
	for _, c := range calls.Elements() {
		d.call(c)
	}
}

// call reads one element of delta.tool_calls.
func (d *decoder) call(v jsonx.Value) {
	var id, name, args jsonx.Value
	index := int64(-1)
	for k, m := range v.Members() {
		switch string(k) {
		case "index":
			if n, ok := m.Int(); ok {
				index = n
			}
		case "id":
			id = m
		case "function":
			name, args = m.Get("name"), m.Get("arguments")
		}
	}
	n := d.find(index, id, name)
	if n < 0 {
		n = len(d.tools)
		d.tools = append(d.tools, tool{index: index, id: id.Str()})
	}
	t := &d.tools[n]
	if t.name == "" {
		if t.id == "" {
			t.id = id.Str()
		}
		if t.name = name.Str(); t.name == "" {
			t.held = appendArguments(t.held, args)
			return
		}
		t.dense = d.begun
		d.begun++
		if t.id == "" {
			t.id = callID(d.id, t.dense)
		}
		d.out.Send(canon.Event{Kind: canon.EventToolStart, Tool: t.dense, CallID: t.id, Name: t.name})
	}
	delta := canon.Event{Kind: canon.EventToolDelta, Tool: t.dense}
	if args.Kind() == jsonx.String && t.held == nil {
		d.out.SendText(delta, args)
		return
	}
	delta.Text = string(appendArguments(t.held, args))
	t.held = nil
	if delta.Text != "" {
		d.out.Send(delta)
	}
}

// appendArguments appends a fragment of a call's arguments: a string, or an object, which is not the standard but unmistakable.
func appendArguments(dst []byte, v jsonx.Value) []byte {
	if v.Kind() == jsonx.Object {
		return append(dst, v...)
	}
	return v.AppendStr(dst)
}

// find gives the place of the tool call that a fragment continues, or -1 where it begins a new one.
// Not every server counts: some leave the index out, some give every call the index 0 and tell them
// apart by id.
func (d *decoder) find(index int64, id, name jsonx.Value) int {
	// A beginning has a name, and an id wherever calls are told apart by it.
	fresh := len(name) > 2 && (len(id) > 2 || index < 0)
	for n := len(d.tools) - 1; n >= 0; n-- {
		t := &d.tools[n]
		switch {
		case len(id) > 2 && t.id == id.Lend(&d.scratch):
			return n
		case fresh && t.id != "":
			continue
		case index == t.index || index < 0:
			return n
		}
	}
	return -1
}

func (d *decoder) finish(word string) {
	finish, err := finishOf(word, len(d.tools) > 0)
	if err != nil {
		d.fail(err)
		return
	}
	if d.begun < len(d.tools) {
		d.fail(badGateway("the provider's stream has a tool call without a name"))
		return
	}
	d.finished = true
	d.out.Send(canon.Event{Kind: canon.EventFinish, Finish: finish})
}
