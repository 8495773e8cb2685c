package content

import "github.com/weir-dev/weir/adapters/canon"

// output collects what a model writes.
type output struct {
	budget
	memory func(bytes int) bool // says whether there is room for more
	parts  []outputPart
	tools  []int // the place in parts of each call of a tool; -1 of those that are not shown
	finish string
	begun  bool // an event has come
	full   bool // there was no memory for more
}

// outputPart is a part that grows.
type outputPart struct {
	kind     partKind
	id, name text
	buf      []byte
	limit    int // bytes of buf that are shown
}

func newOutput(r *Rule, memory func(int) bool) *output {
	return &output{budget: r.budget(), memory: memory}
}

// see takes one event.
func (o *output) see(ev *canon.Event) {
	o.begun = true
	switch ev.Kind {
	case canon.EventText:
		o.append(o.last(partText), ev.Text)
	case canon.EventRefusal:
		o.append(o.last(partRefusal), ev.Text)
	case canon.EventReasoning:
		if ev.Text != "" {
			o.append(o.last(partReasoning), ev.Text)
		}
	case canon.EventToolStart:
		for len(o.tools) <= ev.Tool && len(o.tools) < maxParts {
			o.tools = append(o.tools, -1)
		}
		if ev.Tool < len(o.tools) {
			o.tools[ev.Tool] = o.add(outputPart{kind: partCall, id: o.budget.name(ev.CallID), name: o.budget.name(ev.Name)})
		}
	case canon.EventToolDelta:
		at := -1
		if ev.Tool < len(o.tools) {
			at = o.tools[ev.Tool]
		}
		o.append(at, ev.Text)
	case canon.EventFinish:
		o.finish = finishReason(ev.Finish)
	case canon.EventError:
		o.finish = finishError
	case canon.EventStart, canon.EventUsage, canon.EventPing:
	}
}

// last is the place of the last part, if it is of this kind, or of a new one; -1 where there is room for none.
func (o *output) last(kind partKind) int {
	if n := len(o.parts); n > 0 && o.parts[n-1].kind == kind {
		return n - 1
	}
	return o.add(outputPart{kind: kind})
}

func (o *output) add(p outputPart) int {
	const beside = 192 // a part beside its text
	if o.budget.bytes == 0 || o.budget.parts == 0 || !o.room(beside+2*maxName) {
		return -1
	}
	o.budget.parts--
	o.parts = append(o.parts, p)
	return len(o.parts) - 1
}

// room asks for memory, until there was none once.
func (o *output) room(n int) bool {
	o.full = o.full || !o.memory(n)
	return !o.full
}

// append adds to a part what fits, and a little behind it for the expressions. There is no hole in what it keeps: once something
// did not fit, nothing more is shown.
func (o *output) append(at int, s string) {
	if s == "" {
		return
	}
	shown := min(len(s), o.budget.bytes)
	keep := shown
	if shown < len(s) {
		keep += min(len(s)-shown, o.budget.slack)
	}
	if at < 0 || keep > 0 && !o.room(keep) {
		shown, keep = 0, 0
	}
	o.cut += int64(len(s) - shown)
	if keep == 0 {
		return
	}
	p := &o.parts[at]
	o.budget.bytes -= shown
	o.budget.slack -= keep - shown
	p.buf = append(p.buf, s[:keep]...)
	p.limit += shown
}

// message is what has come so far.
func (o *output) message() message {
	m := message{role: string(canon.RoleAssistant), parts: make([]part, 0, len(o.parts))}
	for i := range o.parts {
		p := &o.parts[i]
		if len(p.buf) == 0 && p.kind != partCall {
			continue
		}
		m.parts = append(m.parts, part{kind: p.kind, id: p.id, name: p.name, text: text{raw: string(p.buf), limit: p.limit}})
	}
	return m
}
