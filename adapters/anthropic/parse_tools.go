package anthropic

import (
	"encoding/json"
	"strconv"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

func (p *parser) readTools() *canon.Error {
	if p.tools.Missing() {
		return nil
	}
	if p.tools.Kind() != jsonx.Array {
		return wrongKind("tools", "an array", p.tools)
	}
	seen := map[string]bool{}
	for i, v := range p.tools.Elements() {
		tool, err := p.readTool(v)
		if err != nil {
			return within("tools", withinIndex(i, err))
		}
		if seen[tool.Name] {
			return within("tools", invalid(strconv.Itoa(i)+".name", "tool names must be unique: %q is there twice", tool.Name))
		}
		seen[tool.Name] = true
		p.req.Tools = append(p.req.Tools, tool)
	}
	return nil
}

func (p *parser) readTool(v jsonx.Value) (tool canon.Tool, err *canon.Error) {
	if v.Kind() != jsonx.Object {
		return tool, wrongKind("", "an object", v)
	}
	// A dated type is a tool that runs at Anthropic (web_search_20250305) or whose schema only
	// Anthropic's models know (bash_20250124).
	if kind := v.Get("type"); !kind.Missing() {
		word, err := text("type", kind)
		if err != nil {
			return tool, err
		}
		if word != "custom" {
			return tool, untranslatable("type", "the tool type "+strconv.Quote(word))
		}
	}
	var schema jsonx.Value
	for field, m := range v.Members() {
		switch string(field) {
		case "name":
			tool.Name, err = text("name", m)
			if err == nil && !validName(tool.Name, maxToolName) {
				err = invalid("name", "must match ^[a-zA-Z0-9_-]{1,128}$")
			}
		case "description":
			if !m.Missing() && m.Kind() != jsonx.String {
				err = wrongKind("description", "a string", m)
			}
			tool.Description = m.Share()
		case "input_schema":
			schema = m
		case "strict":
			tool.Strict, err = optionalBool("strict", m)
		case "cache_control":
			tool.CacheMark, err = cacheMark(m)
		case "type":
		default:
			if !m.Missing() {
				p.extra("tools." + shown(field))
			}
		}
		if err != nil {
			return tool, err
		}
	}
	if tool.Name == "" {
		return tool, missing("name")
	}
	if err := object("input_schema", schema); err != nil {
		return tool, err
	}
	tool.Parameters = json.RawMessage(schema)
	return tool, nil
}

func (p *parser) readToolChoice() *canon.Error {
	v := p.toolChoice
	if v.Missing() {
		return nil
	}
	if err := object("tool_choice", v); err != nil {
		return err
	}
	kind, err := text("type", v.Get("type"))
	if err != nil {
		return within("tool_choice", err)
	}
	choice := &canon.ToolChoice{}
	switch kind {
	case "auto":
		choice.Mode = canon.ChoiceAuto
	case "any":
		choice.Mode = canon.ChoiceRequired
	case "none":
		choice.Mode = canon.ChoiceNone
	case "tool":
		choice.Mode = canon.ChoiceTool
		if choice.Name, err = text("name", v.Get("name")); err != nil {
			return within("tool_choice", err)
		}
	default:
		return invalid("tool_choice.type", "must be auto, any, tool or none")
	}
	if len(p.req.Tools) == 0 && choice.Mode != canon.ChoiceNone {
		return invalid("tool_choice", "may only be specified while providing tools")
	}
	if choice.Mode == canon.ChoiceTool && !p.hasTool(choice.Name) {
		return invalid("tool_choice.name", "tool %q is not among the tools", choice.Name)
	}
	serial, err := optionalBool("disable_parallel_tool_use", v.Get("disable_parallel_tool_use"))
	if err != nil {
		return within("tool_choice", err)
	}
	if serial != nil {
		parallel := !*serial
		p.req.ParallelToolCalls = &parallel
	}
	p.req.ToolChoice = choice
	return nil
}

func (p *parser) hasTool(name string) bool {
	for i := range p.req.Tools {
		if p.req.Tools[i].Name == name {
			return true
		}
	}
	return false
}
