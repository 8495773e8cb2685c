package responses

import (
	"encoding/json"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/internal/fields"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// readTools reads tools, tool_choice and parallel_tool_calls.
func (r *Request) readTools(m members) (err *canon.Error) {
	c := &r.chat
	if c.ParallelToolCalls, err = fields.OptBool(m.get("parallel_tool_calls"), "parallel_tool_calls"); err != nil {
		return err
	}
	if v := m.get("tools"); !v.Missing() {
		if v.Kind() != jsonx.Array {
			return fields.WrongKind("tools", "an array", v)
		}
		for i, e := range v.Elements() {
			if err := r.readTool(e); err != nil {
				return fields.At(err, "tools", i)
			}
		}
	}
	if err := r.readToolChoice(m.get("tool_choice")); err != nil {
		return fields.Under(err, "tool_choice")
	}
	return nil
}

// inSpace is the name by which providers know a function of a namespace.
func inSpace(space, name string) string {
	if space == "" {
		return name
	}
	return space + "__" + name
}

// function is a function that stands in a namespace.
type function struct{ space, name string }

// readTool reads a function, which stands flat in this API, or a namespace of them. Tools of other types run at OpenAI, or are called
// with another form of arguments: no other provider has them.
func (r *Request) readTool(v jsonx.Value) *canon.Error {
	if v.Get("type").Share() != "namespace" {
		t, err := readFunction(v)
		if err == nil {
			r.chat.Tools = append(r.chat.Tools, t)
		}
		return err
	}
	space, err := fields.ReqString(v.Get("name"), "name")
	if err != nil {
		return err
	}
	list := v.Get("tools")
	if list.Kind() != jsonx.Array {
		return fields.WrongKind("tools", "an array of functions", list)
	}
	for i, e := range list.Elements() {
		t, err := readFunction(e)
		if err != nil {
			return fields.At(err, "tools", i)
		}
		f := function{space, t.Name}
		t.Name = inSpace(space, t.Name)
		if _, twice := r.spaces[t.Name]; twice {
			return fields.At(fields.Bad("name", "is %q, which stands for two functions of namespaces", fields.Clip(t.Name)), "tools", i)
		}
		if r.spaces == nil {
			r.spaces = map[string]function{}
		}
		r.spaces[t.Name] = f
		r.chat.Tools = append(r.chat.Tools, t)
	}
	return nil
}

func readFunction(v jsonx.Value) (t canon.Tool, err *canon.Error) {
	f, err := functionOf(v)
	if err != nil {
		return t, err
	}
	if t.Name, err = fields.ReqString(f.Get("name"), "name"); err != nil {
		return t, err
	}
	if t.Description, err = fields.OptString(f.Get("description"), "description"); err != nil {
		return t, err
	}
	if p := f.Get("parameters"); !p.Missing() {
		if p.Kind() != jsonx.Object {
			return t, fields.WrongKind("parameters", "a JSON Schema object", p)
		}
		t.Parameters = json.RawMessage(p)
	}
	t.Strict, err = fields.OptBool(f.Get("strict"), "strict")
	return t, err
}

// functionOf reads {"type":"function",...}, the form that tools and tool choices share.
func functionOf(v jsonx.Value) (f jsonx.Fields, err *canon.Error) {
	if v.Kind() != jsonx.Object {
		return f, fields.WrongKind("", "an object", v)
	}
	f = v.Fields()
	kind, err := fields.ReqString(f.Get("type"), "type")
	if err != nil {
		return f, err
	}
	if kind != "function" {
		return f, fields.Cannot("type", "is %q, which only OpenAI itself has: tools of the type function can be translated, no others", fields.Clip(kind))
	}
	return f, nil
}

func (r *Request) readToolChoice(v jsonx.Value) *canon.Error {
	switch v.Kind() {
	case jsonx.None, jsonx.Null:
		return nil
	case jsonx.String:
		return r.chooseMode(v.Share())
	case jsonx.Object:
	default:
		return fields.WrongKind("", "a string or an object", v)
	}
	if v.Get("type").Share() == "allowed_tools" {
		return r.allowTools(v)
	}
	t, err := r.chosen(v)
	if err != nil {
		return err
	}
	r.chat.ToolChoice = &canon.ToolChoice{Mode: canon.ChoiceTool, Name: t.Name}
	return nil
}

func (r *Request) chooseMode(mode string) *canon.Error {
	switch mode {
	case "auto", "none":
		if len(r.chat.Tools) == 0 { // no tools: nothing to choose
			return nil
		}
	case "required":
		if len(r.chat.Tools) == 0 {
			return fields.Bad("", "is required, but there are no tools")
		}
	default:
		return fields.Bad("", "must be none, auto, required or an object, not %q", fields.Clip(mode))
	}
	r.chat.ToolChoice = &canon.ToolChoice{Mode: canon.ToolChoiceMode(mode)}
	return nil
}

// chosen is the tool that {"type":"function","name":...} means.
func (r *Request) chosen(v jsonx.Value) (*canon.Tool, *canon.Error) {
	f, err := functionOf(v)
	if err != nil {
		return nil, err
	}
	name, err := fields.ReqString(f.Get("name"), "name")
	if err != nil {
		return nil, err
	}
	for i := range r.chat.Tools {
		if r.chat.Tools[i].Name == name {
			return &r.chat.Tools[i], nil
		}
	}
	return nil, fields.Bad("name", "is %q, which is not among tools", fields.Clip(name))
}

// allowTools carries an allowed_tools choice by leaving the other tools out: the model cannot call what it was not told about.
func (r *Request) allowTools(v jsonx.Value) *canon.Error {
	mode, err := oneOf(v.Get("mode"), "mode", "auto", "required")
	if err != nil {
		return err
	}
	if mode == "" {
		mode = "auto"
	}
	list := v.Get("tools")
	if list.Kind() != jsonx.Array || list.Len() == 0 {
		return fields.Bad("tools", "must be an array that is not empty")
	}
	var allowed []canon.Tool
	seen := map[string]bool{}
	for i, e := range list.Elements() {
		t, err := r.chosen(e)
		if err != nil {
			return fields.At(err, "tools", i)
		}
		if !seen[t.Name] {
			seen[t.Name] = true
			allowed = append(allowed, *t)
		}
	}
	r.chat.Tools = allowed
	r.chat.ToolChoice = &canon.ToolChoice{Mode: canon.ToolChoiceMode(mode)}
	return nil
}
