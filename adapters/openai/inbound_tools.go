package openai

import (
	"encoding/json"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/internal/fields"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// readTools reads tools, tool_choice and parallel_tool_calls.
func (q *request) readTools(r *canon.Request) (err *canon.Error) {
	if r.ParallelToolCalls, err = fields.OptBool(q.parallel, "parallel_tool_calls"); err != nil {
		return err
	}
	if !q.tools.Missing() {
		if q.tools.Kind() != jsonx.Array {
			return fields.WrongKind("tools", "an array", q.tools)
		}
		for i, v := range q.tools.Elements() {
			t, err := readTool(v)
			if err != nil {
				return fields.At(err, "tools", i)
			}
			r.Tools = append(r.Tools, t)
		}
	}
	if err := readToolChoice(r, q.toolChoice); err != nil {
		return fields.Under(err, "tool_choice")
	}
	return nil
}

func readTool(v jsonx.Value) (t canon.Tool, err *canon.Error) {
	outer, f, err := functionOf(v)
	if err != nil {
		return t, err
	}
	if t.Name, err = fields.ReqString(f.Get("name"), "function.name"); err != nil {
		return t, err
	}
	if t.Description, err = fields.OptString(f.Get("description"), "function.description"); err != nil {
		return t, err
	}
	if p := f.Get("parameters"); !p.Missing() {
		if p.Kind() != jsonx.Object {
			return t, fields.WrongKind("function.parameters", "a JSON Schema object", p)
		}
		t.Parameters = json.RawMessage(p)
	}
	if t.Strict, err = fields.OptBool(f.Get("strict"), "function.strict"); err != nil {
		return t, err
	}
	t.CacheMark = marked(&outer)
	return t, nil
}

// functionOf reads {"type":"function","function":{...}}, the form that tools, tool calls and tool choices share: the outer object
// and the function.
func functionOf(v jsonx.Value) (outer, function jsonx.Fields, err *canon.Error) {
	if v.Kind() != jsonx.Object {
		return outer, function, fields.WrongKind("", "an object", v)
	}
	outer = v.Fields()
	kind, err := fields.ReqString(outer.Get("type"), "type")
	if err != nil {
		return outer, function, err
	}
	if kind != "function" {
		return outer, function, fields.Cannot("type", "is %q, which cannot be translated: only function can", fields.Clip(kind))
	}
	f := outer.Get("function")
	if f.Kind() != jsonx.Object {
		return outer, function, fields.WrongKind("function", "an object", f)
	}
	return outer, f.Fields(), nil
}

func readToolChoice(r *canon.Request, v jsonx.Value) *canon.Error {
	switch v.Kind() {
	case jsonx.None, jsonx.Null:
		return nil
	case jsonx.String:
		return chooseMode(r, v.Share())
	case jsonx.Object:
	default:
		return fields.WrongKind("", "a string or an object", v)
	}
	if v.Get("type").Share() == "allowed_tools" {
		return allowTools(r, v.Get("allowed_tools"))
	}
	_, f, err := functionOf(v)
	if err != nil {
		return err
	}
	name, err := fields.ReqString(f.Get("name"), "function.name")
	if err != nil {
		return err
	}
	if toolNamed(r.Tools, name) == nil {
		return fields.Bad("function.name", "is %q, which is not among tools", fields.Clip(name))
	}
	r.ToolChoice = &canon.ToolChoice{Mode: canon.ChoiceTool, Name: name}
	return nil
}

func chooseMode(r *canon.Request, mode string) *canon.Error {
	switch mode {
	case "auto", "none":
		if len(r.Tools) == 0 { // no tools: nothing to choose
			return nil
		}
	case "required":
		if len(r.Tools) == 0 {
			return fields.Bad("", "is required, but there are no tools")
		}
	default:
		return fields.Bad("", "must be none, auto, required or an object, not %q", fields.Clip(mode))
	}
	r.ToolChoice = &canon.ToolChoice{Mode: canon.ToolChoiceMode(mode)}
	return nil
}

// allowTools carries an allowed_tools choice by leaving the other tools out: the model cannot call
// what it was not told about.
func allowTools(r *canon.Request, v jsonx.Value) *canon.Error {
	if v.Kind() != jsonx.Object {
		return fields.WrongKind("allowed_tools", "an object", v)
	}
	mode, err := fields.ReqString(v.Get("mode"), "allowed_tools.mode")
	if err != nil {
		return err
	}
	if mode != "auto" && mode != "required" {
		return fields.Bad("allowed_tools.mode", "must be auto or required, not %q", fields.Clip(mode))
	}
	list := v.Get("tools")
	if list.Kind() != jsonx.Array {
		return fields.WrongKind("allowed_tools.tools", "an array", list)
	}
	var allowed []canon.Tool
	for i, e := range list.Elements() {
		_, f, err := functionOf(e)
		if err != nil {
			return fields.At(err, "allowed_tools.tools", i)
		}
		name, err := fields.ReqString(f.Get("name"), "function.name")
		if err != nil {
			return fields.At(err, "allowed_tools.tools", i)
		}
		t := toolNamed(r.Tools, name)
		if t == nil {
			return fields.At(fields.Bad("function.name", "is %q, which is not among tools", fields.Clip(name)), "allowed_tools.tools", i)
		}
		if toolNamed(allowed, name) == nil {
			allowed = append(allowed, *t)
		}
	}
	if len(allowed) == 0 {
		return fields.Bad("allowed_tools.tools", "must not be empty")
	}
	r.Tools = allowed
	r.ToolChoice = &canon.ToolChoice{Mode: canon.ToolChoiceMode(mode)}
	return nil
}

func toolNamed(tools []canon.Tool, name string) *canon.Tool {
	for i := range tools {
		if tools[i].Name == name {
			return &tools[i]
		}
	}
	return nil
}

// marked reports a prompt-cache boundary: OpenAI's own spelling, or the one that compatible servers
// borrowed from Anthropic.
func marked(f *jsonx.Fields) bool {
	return f.Get("prompt_cache_breakpoint").Kind() == jsonx.Object || f.Get("cache_control").Kind() == jsonx.Object
}
