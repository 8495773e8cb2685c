package dashscope

import (
	"github.com/weir-dev/weir/test/sim/internal/jsontree"
	"github.com/weir-dev/weir/test/sim/internal/shape"
)

// The tables in this file are DashScope's request formats: messages in input, everything else in
// parameters. Parameters that it does not know are ignored, as the real one does.

func number(low float64, lowOpen bool, high float64, highOpen bool) *shape.Type {
	return &shape.Type{Kinds: jsontree.Num, Low: &low, LowOpen: lowOpen, High: &high, HighOpen: highOpen}
}

var (
	roleField = shape.Need("role", shape.String())

	toolCall = shape.Object(shape.May("index", shape.AtLeast(0)), shape.Need("id", shape.String()), shape.Need("type", shape.Enum("function")),
		shape.Need("function", shape.Object(shape.Need("name", shape.String()), shape.Need("arguments", shape.String()))))

	part = shape.Object(shape.May("text", shape.String()), shape.May("image", shape.Text(1, 0)), shape.May("audio", shape.Text(1, 0)),
		shape.May("video", shape.Either(shape.Text(1, 0), shape.List(shape.Text(1, 0), 1))), shape.May("min_pixels", shape.AtLeast(1)), shape.May("max_pixels", shape.AtLeast(1)),
		shape.May("fps", number(0, true, 100, false)), shape.May("total_pixels", shape.AtLeast(1)),
		shape.May("cache_control", shape.Object(shape.Need("type", shape.Enum("ephemeral")))))

	textShape       = request(shape.String())
	multimodalShape = request(shape.Either(shape.String(), shape.List(part, 1)))

	function = shape.Object(shape.Need("name", shape.Match(`^[a-zA-Z0-9_-]{1,64}$`)), shape.May("description", shape.String()), shape.May("parameters", shape.Loose()), shape.May("strict", shape.Bool()))

	parameters = shape.Loose(
		shape.May("result_format", shape.Enum("message", "text")),
		shape.May("incremental_output", shape.Bool()),
		shape.May("temperature", number(0, false, 2, true)),
		shape.May("top_p", number(0, true, 1, false)),
		shape.May("top_k", shape.AtLeast(0)),
		shape.May("max_tokens", shape.AtLeast(1)),
		shape.May("seed", shape.Int(0, 1<<31-1)),
		shape.May("stop", shape.Either(shape.String(), shape.List(shape.Either(shape.Either(shape.String(), shape.AtLeast(0)), shape.List(shape.AtLeast(0), 1)), 0))),
		shape.May("repetition_penalty", number(0, true, 1e9, false)),
		shape.May("presence_penalty", shape.Number(-2, 2)),
		shape.May("tools", shape.List(shape.Object(shape.Need("type", shape.Enum("function")), shape.Need("function", function)), 1)),
		shape.May("tool_choice", shape.Either(shape.Enum("auto", "none", "required"),
			shape.Object(shape.Need("type", shape.Enum("function")), shape.Need("function", shape.Object(shape.Need("name", shape.Text(1, 0))))))),
		shape.May("parallel_tool_calls", shape.Bool()),
		shape.May("enable_thinking", shape.Bool()),
		shape.May("thinking_budget", shape.AtLeast(1)),
		shape.May("n", shape.Int(1, 4)),
		shape.May("logprobs", shape.Bool()),
		shape.May("top_logprobs", shape.Int(0, 5)),
		shape.May("response_format", shape.Tagged("type", map[string]*shape.Type{
			"text":        shape.Object(shape.Need("type", shape.String())),
			"json_object": shape.Object(shape.Need("type", shape.String())),
			"json_schema": shape.Object(shape.Need("type", shape.String()), shape.Need("json_schema", shape.Object(shape.Need("name", shape.Text(1, 64)),
				shape.May("description", shape.String()), shape.May("schema", shape.Loose()), shape.May("strict", shape.Bool())))),
		})),
		shape.May("enable_search", shape.Bool()),
		shape.May("search_options", shape.Loose()),
	)
)

// knownParameters are the names in parameters that mean something.
func knownParameters() map[string]bool {
	out := map[string]bool{}
	for _, f := range parameters.Fields {
		out[f.Name] = true
	}
	return out
}

// request builds the body's shape around the type of message content.
func request(content *shape.Type) *shape.Type {
	plain := shape.Object(roleField, shape.Need("content", content), shape.May("name", shape.String()))
	messages := shape.List(shape.Tagged("role", map[string]*shape.Type{
		"system": plain,
		"user":   plain,
		"assistant": shape.Object(roleField, shape.May("content", content), shape.May("name", shape.String()), shape.May("reasoning_content", shape.String()),
			shape.May("tool_calls", shape.List(toolCall, 1)), shape.May("partial", shape.Bool())),
		"tool": shape.Object(roleField, shape.Need("content", content), shape.May("tool_call_id", shape.String()), shape.May("name", shape.String())),
	}), 1)
	return shape.Object(
		shape.Need("model", shape.Text(1, 0)),
		shape.Need("input", shape.Object(
			shape.May("messages", messages),
			shape.May("prompt", shape.String()),
			shape.May("history", shape.List(shape.Object(shape.Need("user", shape.String()), shape.Need("bot", shape.String())), 0)),
		)),
		shape.May("parameters", parameters),
		shape.May("resources", shape.Anything()),
	)
}
