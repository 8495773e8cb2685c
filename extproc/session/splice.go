package session

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// shape is how a dialect writes a conversation, as far as messages can be put into it without touching what else there is.
type shape uint8

const (
	// noShape: the whole request is printed anew.
	noShape shape = iota
	// chatShape: messages, with system prompts among them (OpenAI).
	chatShape
	// systemShape: messages, and a member system that is a string or blocks of text (Anthropic).
	systemShape
)

func shapeOf(dialect string) shape {
	switch dialect {
	case "openai":
		return chatShape
	case "anthropic":
		return systemShape
	}
	return noShape
}

// layout is where things are in a body that has passed jsonx.Check.
type layout struct {
	body     []byte
	open     int // the bracket that opens messages
	close    int // the one that closes it
	elements int
	// talk is where the first message begins that is no system prompt; close where there is none.
	talk  int
	first []jsonx.Value // the messages
	// system is the member of that name, or nil; end is the brace that closes the object.
	system jsonx.Value
	end    int
	empty  bool // the object has no member
}

func invalid(format string, args ...any) *canon.Error {
	return &canon.Error{Kind: canon.ErrInvalidRequest, Message: fmt.Sprintf(format, args...)}
}

// layoutOf finds where things are.
func layoutOf(body []byte) (*layout, *canon.Error) {
	if err := jsonx.Check(body); err != nil {
		return nil, invalid("The body is not valid JSON: %v.", err)
	}
	root := jsonx.Root(body)
	if root.Kind() != jsonx.Object {
		return nil, invalid("The body must be a JSON object, not %s.", root.Kind())
	}
	l := &layout{body: body, empty: true, end: bytes.LastIndexByte(body, '}')}
	var messages jsonx.Value
	for name, v := range root.Members() {
		l.empty = false
		switch string(name) {
		case "messages":
			if messages != nil {
				return nil, invalid("The body has the member messages more than once.")
			}
			messages = v
		case "system":
			if l.system != nil {
				return nil, invalid("The body has the member system more than once.")
			}
			l.system = v
		}
	}
	if messages.Kind() != jsonx.Array {
		e := invalid("messages must be an array, not %s.", messages.Kind())
		e.Param = "messages"
		return nil, e
	}
	l.open, _ = messages.Offset(body)
	l.close = l.open + len(messages) - 1
	l.talk = l.close
	for _, m := range messages.Elements() {
		l.first = append(l.first, m)
		if role, _ := canon.RoleOf(m.Get("role").Str()); l.talk == l.close && !isSystem(role) {
			l.talk, _ = m.Offset(body)
		}
	}
	l.elements = len(l.first)
	return l, nil
}

// piece is bytes that are put into a body.
type piece struct {
	at   int
	drop int // bytes that they replace
	text []byte
}

// join puts pieces into a body; they are in order and do not overlap.
func join(body []byte, pieces []piece) []byte {
	n := len(body)
	for _, p := range pieces {
		n += len(p.text)
	}
	out := make([]byte, 0, n)
	from := 0
	for _, p := range pieces {
		out = append(out, body[from:p.at]...)
		out = append(out, p.text...)
		from = p.at + p.drop
	}
	return append(out, body[from:]...)
}

// into puts a system prompt and messages (the elements of an array, without brackets; none is "") before what the caller says, and keeps
// every other byte.
func (l *layout) into(s shape, system []string, messages []byte) []byte {
	var pieces []piece
	elements := messages
	if len(system) > 0 && s == chatShape {
		var b jsonx.Builder
		for i, text := range system {
			if i > 0 {
				b.Raw(",")
			}
			b.Raw(`{"role":"system","content":`)
			b.Str(text)
			b.Raw("}")
		}
		if len(messages) > 0 {
			b.Raw(",")
			b.Bytes(messages)
		}
		elements = b.Text
	}
	if len(elements) > 0 {
		text := slices.Clip(elements)
		if l.talk < l.close {
			text = append(text, ',')
		} else if l.elements > 0 {
			text = append([]byte(","), text...)
		}
		pieces = append(pieces, piece{at: l.talk, text: text})
	}
	if len(system) > 0 && s == systemShape {
		pieces = append(pieces, l.systemBlocks(system)...)
	}
	slices.SortFunc(pieces, func(a, b piece) int { return a.at - b.at })
	return join(l.body, pieces)
}

// systemBlocks adds blocks to the member system: a string becomes the first block.
func (l *layout) systemBlocks(texts []string) []piece {
	var b jsonx.Builder
	for i, text := range texts {
		if i > 0 {
			b.Raw(",")
		}
		b.Raw(`{"type":"text","text":`)
		b.Str(text)
		b.Raw("}")
	}
	blocks := b.Text
	at, _ := l.system.Offset(l.body)
	end := at + len(l.system)
	switch l.system.Kind() {
	case jsonx.Array:
		if l.system.Len() > 0 {
			blocks = append([]byte(","), blocks...)
		}
		return []piece{{at: end - 1, text: blocks}}
	case jsonx.String:
		if len(l.system) == 2 { // "", and blocks may not be empty
			return []piece{{at: at, drop: 2, text: wrap("[", blocks, "]")}}
		}
		return []piece{{at: at, text: []byte(`[{"type":"text","text":`)}, {at: end, text: wrap("},", blocks, "]")}}
	case jsonx.None:
		return []piece{{at: l.end, text: wrap(`,"system":[`, blocks, "]")}} // messages is a member
	case jsonx.Null:
		return []piece{{at: at, drop: len(l.system), text: wrap("[", blocks, "]")}}
	}
	return nil // of a kind that the dialect refuses
}

func wrap(before string, b []byte, after string) []byte {
	return slices.Concat([]byte(before), b, []byte(after))
}

// printed are messages in a dialect, as elements of an array. What cannot be said in it, such as an image of the model's, is left out.
func printed(d *canon.Dialect, list []canon.Message) ([]byte, *canon.Error) {
	if len(list) == 0 {
		return nil, nil
	}
	text, err := elementsOf(d, list)
	if err == nil {
		return text, nil
	}
	var plain []canon.Message
	for _, m := range list {
		if m.Role == canon.RoleTool {
			continue
		}
		m.Parts = filter(m.Parts, func(p *canon.Part) bool { return p.Kind == canon.PartText || p.Kind == canon.PartRefusal })
		if len(m.Parts) > 0 {
			plain = append(plain, m)
		}
	}
	if len(plain) == 0 {
		return nil, nil
	}
	return elementsOf(d, plain)
}

func elementsOf(d *canon.Dialect, list []canon.Message) ([]byte, *canon.Error) {
	call, err := d.Out.BuildCall(&canon.Request{Model: "m", Messages: list}, canon.CallOptions{Model: "m"})
	if err != nil {
		return nil, err
	}
	messages := jsonx.Root(call.Body).Get("messages")
	if messages.Kind() != jsonx.Array {
		return nil, &canon.Error{Kind: canon.ErrInternal, Message: "The dialect " + d.Name + " has no messages."}
	}
	return bytes.TrimSpace(messages[1 : len(messages)-1]), nil
}

// parse reads what a caller says. The results of tools that begin it may answer calls that only the session knows, which a dialect takes for
// an error; so they are read behind a message with calls of their names.
func (l *layout) parse(d *canon.Dialect, s shape) (*canon.Request, *canon.Error) {
	lead := l.leadingCalls(s)
	if len(lead) == 0 {
		return d.In.ParseRequest(l.body)
	}
	call := canon.Message{Role: canon.RoleAssistant}
	for _, id := range lead {
		call.Parts = append(call.Parts, canon.Part{Kind: canon.PartToolCall, Call: &canon.ToolCall{ID: id, Name: "tool", Arguments: "{}"}})
	}
	text, err := elementsOf(d, []canon.Message{{Role: canon.RoleUser, Parts: []canon.Part{{Text: "-"}}}, call})
	if err != nil {
		return nil, err
	}
	req, err := d.In.ParseRequest(l.into(noShape, nil, text))
	if err != nil {
		return nil, err
	}
	system := 0
	for system < len(req.Messages) && isSystem(req.Messages[system].Role) {
		system++
	}
	req.Messages = slices.Delete(req.Messages, system, min(system+2, len(req.Messages)))
	for i := system; i < len(req.Messages) && req.Messages[i].Role == canon.RoleTool; i++ {
		for j := range req.Messages[i].Parts {
			if r := req.Messages[i].Parts[j].Result; r != nil {
				r.Name = "" // which was ours
			}
		}
	}
	return req, nil
}

// leadingCalls are the calls that the first messages of the caller answer.
func (l *layout) leadingCalls(s shape) (ids []string) {
	add := func(v jsonx.Value) {
		if id := v.Str(); v.Kind() == jsonx.String && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	for _, m := range l.first {
		role, _ := canon.RoleOf(m.Get("role").Str())
		switch {
		case isSystem(role) && len(ids) == 0:
		case s == chatShape && role == canon.RoleTool:
			add(m.Get("tool_call_id"))
		case s == systemShape && role == canon.RoleUser:
			for _, block := range m.Get("content").Elements() {
				if block.Get("type").Str() == "tool_result" {
					add(block.Get("tool_use_id"))
				}
			}
			return ids
		default:
			return ids
		}
	}
	return ids
}
