package key

import (
	"strconv"

	"github.com/weir-dev/weir/adapters/jsonx"
)

// The shape of Anthropic's messages requests, as far as canon carries it.
var (
	anthropicRoot = []string{
		"model", "max_tokens", "messages", "system", "stop_sequences", "tools", "tool_choice", "thinking", "output_config",
		"output_format", "temperature", "top_p", "top_k",
	}
	anthropicMessage  = []string{"role", "content"}
	anthropicText     = []string{"type", "text"}
	anthropicImage    = []string{"type", "source"}
	anthropicBase64   = []string{"type", "media_type", "data"}
	anthropicURL      = []string{"type", "url"}
	anthropicToolUse  = []string{"type", "id", "name", "input"}
	anthropicResult   = []string{"type", "tool_use_id", "is_error", "content"}
	anthropicThinking = []string{"type", "thinking", "signature"}
	anthropicRedacted = []string{"type", "data"}
	anthropicTool     = []string{"name", "description", "input_schema", "strict", "type"}
	anthropicChoice   = []string{"type", "disable_parallel_tool_use"}
	anthropicNamed    = []string{"type", "name", "disable_parallel_tool_use"}
	anthropicOff      = []string{"type"} // thinking that has no budget
	anthropicBudget   = []string{"type", "budget_tokens"}
	anthropicOutput   = []string{"effort", "format"}
	anthropicFormat   = []string{"type", "schema"}
	// anthropicMarks are prompt-cache boundaries.
	anthropicMarks = []string{"cache_control"}
)

// anthropic reads a request of Anthropic's dialect that its ParseRequest has taken.
func (x *extras) anthropic(root jsonx.Value) {
	where := at{"", -1, -1}
	x.object(where, root, anthropicRoot, notCounted)
	tools := 0
	var choice jsonx.Value
	for name, v := range root.Members() {
		switch string(name) {
		case "system":
			x.empty(where, "system", v)
			for j, b := range v.Elements() {
				x.anthropicBlock(at{"system", -1, j}, b)
			}
		case "messages":
			for i, m := range v.Elements() {
				x.anthropicMessage(i, m)
			}
		case "stop_sequences":
			x.empty(where, "stop_sequences", v)
		case "tools":
			x.empty(where, "tools", v)
			for i, t := range v.Elements() {
				x.object(at{"tools", i, -1}, t, anthropicTool, anthropicMarks)
				tools++
			}
		case "tool_choice":
			choice = v
		case "thinking":
			x.anthropicThinking(v)
		case "output_config":
			x.object(at{"output_config", -1, -1}, v, anthropicOutput, nil)
			x.object(at{"output_config.format", -1, -1}, v.Get("format"), anthropicFormat, nil)
		case "output_format":
			x.object(at{"output_config.format", -1, -1}, v, anthropicFormat, nil)
		}
	}
	if choice.Kind() == jsonx.Object {
		carried := anthropicChoice
		if choice.Get("type").Share() == "tool" {
			carried = anthropicNamed
		}
		where.place = "tool_choice"
		x.object(where, choice, carried, nil)
		if tools == 0 { // none, where there is nothing to choose from
			x.add(where, "", choice)
		}
	}
}

func (x *extras) anthropicMessage(i int, v jsonx.Value) {
	x.object(at{"messages", i, -1}, v, anthropicMessage, nil)
	content := v.Get("content")
	x.empty(at{"messages", i, -1}, "content", content)
	if string(content) == `""` {
		x.add(at{"messages", i, -1}, "content", content)
	}
	other := false
	for j, b := range content.Elements() {
		where := at{"messages.content", i, j}
		if b.Get("type").Share() != "tool_result" {
			other = true
		} else if other {
			x.add(where, "order", jsonx.Value("true")) // canon puts results first, and Anthropic refuses others
		}
		x.anthropicBlock(where, b)
	}
}

func (x *extras) anthropicBlock(where at, v jsonx.Value) {
	var carried []string
	switch v.Get("type").Share() {
	case "text":
		carried = anthropicText
	case "image":
		carried = anthropicImage
		source := v.Get("source")
		inside := anthropicBase64
		if source.Get("type").Share() == "url" {
			inside = anthropicURL
		}
		x.object(at{where.place + ".source", where.i, where.j}, source, inside, nil)
	case "tool_use":
		carried = anthropicToolUse
	case "tool_result":
		carried = anthropicResult
		content := v.Get("content")
		x.empty(where, "content", content)
		for k, b := range content.Elements() {
			x.anthropicInner(where, k, b)
		}
	case "thinking":
		carried = anthropicThinking
	case "redacted_thinking":
		carried = anthropicRedacted
	}
	x.object(where, v, carried, anthropicMarks)
}

// anthropicInner reads a block inside a tool_result: text or an image. Its place has three indexes; that of the result stands in the words.
func (x *extras) anthropicInner(where at, k int, v jsonx.Value) {
	before := len(x.list)
	x.anthropicBlock(at{"tool_result.content", where.i, k}, v)
	for n := before; n < len(x.list); n++ {
		x.list[n].place += " of " + strconv.Itoa(where.j)
	}
}

func (x *extras) anthropicThinking(v jsonx.Value) {
	where := at{"thinking", -1, -1}
	carried := anthropicOff
	switch kind := v.Get("type"); kind.Share() {
	case "enabled":
		carried = anthropicBudget
	case "between_tools": // canon knows no difference from adaptive
		x.add(where, "type", kind)
	}
	x.object(where, v, carried, nil)
}
