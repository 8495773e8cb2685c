package replay

import (
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
)

// collector makes a whole answer of the events of a stream.
type collector struct {
	answer canon.Response
	parts  []gathered
	tools  []int // places of the tool calls in parts
	usage  canon.Usage
	err    *canon.Error
}

// gathered is a part in the making.
type gathered struct {
	canon.Part
	text []byte // of a tool call, its arguments
}

// redacted begins the signature of reasoning that has no text, and is a part of its own.
const redacted = "redacted:"

// add takes an event; it keeps nothing of it.
func (c *collector) add(ev *canon.Event) {
	switch ev.Kind {
	case canon.EventStart:
		c.answer.ID, c.answer.Model = strings.Clone(ev.ID), strings.Clone(ev.Model)
		c.count(ev.Usage)
	case canon.EventText:
		c.extend(canon.PartText, ev.Text)
	case canon.EventRefusal:
		c.extend(canon.PartRefusal, ev.Text)
	case canon.EventReasoning:
		c.reason(ev)
	case canon.EventToolStart:
		c.tools = append(c.tools, len(c.parts))
		c.parts = append(c.parts, gathered{Part: canon.Part{
			Kind: canon.PartToolCall, Call: &canon.ToolCall{ID: strings.Clone(ev.CallID), Name: strings.Clone(ev.Name)},
		}})
	case canon.EventToolDelta:
		if ev.Tool >= 0 && ev.Tool < len(c.tools) {
			p := &c.parts[c.tools[ev.Tool]]
			p.text = append(p.text, ev.Text...)
		}
	case canon.EventFinish:
		c.answer.Finish, c.answer.StopSequence = ev.Finish, strings.Clone(ev.StopSequence)
	case canon.EventUsage:
		c.count(ev.Usage)
	case canon.EventError:
		c.err = ev.Err
	}
}

// count takes a usage; the last one is cumulative.
func (c *collector) count(u *canon.Usage) {
	if u != nil {
		c.usage = *u
		c.answer.Usage = &c.usage
	}
}

func (c *collector) extend(kind canon.PartKind, text string) {
	if n := len(c.parts); n == 0 || c.parts[n-1].Kind != kind {
		c.parts = append(c.parts, gathered{Part: canon.Part{Kind: kind}})
	}
	p := &c.parts[len(c.parts)-1]
	p.text = append(p.text, text...)
}

// reason takes a piece of reasoning: a signature ends the part that it signs.
func (c *collector) reason(ev *canon.Event) {
	n := len(c.parts)
	if n == 0 || c.parts[n-1].Kind != canon.PartReasoning || c.parts[n-1].Signature != "" || strings.HasPrefix(ev.Signature, redacted) {
		c.parts = append(c.parts, gathered{Part: canon.Part{Kind: canon.PartReasoning}})
		n++
	}
	p := &c.parts[n-1]
	p.text = append(p.text, ev.Text...)
	if ev.Signature != "" {
		p.Signature, p.Origin = strings.Clone(ev.Signature), ev.Origin
	}
}

// response gives the answer, or the error that ended the stream.
func (c *collector) response() (*canon.Response, *canon.Error) {
	if c.err != nil {
		return nil, c.err
	}
	r := &c.answer
	r.Parts = make([]canon.Part, len(c.parts))
	for i := range c.parts {
		p := &c.parts[i]
		if p.Call == nil {
			p.Text = string(p.text)
		} else if p.Call.Arguments = string(p.text); strings.TrimSpace(p.Call.Arguments) == "" {
			p.Call.Arguments = "{}"
		}
		r.Parts[i] = p.Part
	}
	return r, nil
}
