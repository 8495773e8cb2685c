package openai

import (
	"slices"

	"github.com/weir-dev/weir/test/sim/internal/jsontree"
	"github.com/weir-dev/weir/test/sim/internal/shape"
)

// The tables in this file are OpenAI's request formats: what is not listed is refused.

const namePattern = `^[a-zA-Z0-9_-]{1,64}$`

var (
	breakpoint = shape.May("prompt_cache_breakpoint", shape.Anything())

	textPart = shape.Object(shape.Need("type", shape.String()), shape.Need("text", shape.String()), breakpoint)

	userParts = shape.Tagged("type", map[string]*shape.Type{
		"text": textPart,
		"image_url": shape.Object(shape.Need("type", shape.String()), breakpoint, shape.Need("image_url", shape.Object(
			shape.Need("url", shape.Text(1, 0)), shape.May("detail", shape.Enum("auto", "low", "high", "original"))))),
		"input_audio": shape.Object(shape.Need("type", shape.String()), breakpoint, shape.Need("input_audio", shape.Object(
			shape.Need("data", shape.Text(1, 0)), shape.Need("format", shape.Enum("wav", "mp3"))))),
		"file": shape.Object(shape.Need("type", shape.String()), breakpoint, shape.Need("file", shape.Object(
			shape.May("file_id", shape.String()), shape.May("file_data", shape.String()), shape.May("filename", shape.String())))),
	})
	textParts = shape.Tagged("type", map[string]*shape.Type{"text": textPart})

	assistantParts = shape.Tagged("type", map[string]*shape.Type{
		"text":    textPart,
		"refusal": shape.Object(shape.Need("type", shape.String()), shape.Need("refusal", shape.String())),
	})

	toolCall = shape.Tagged("type", map[string]*shape.Type{
		"function": shape.Object(shape.Need("id", shape.String()), shape.Need("type", shape.String()), shape.Need("function", shape.Object(
			shape.Need("name", shape.String()), shape.Need("arguments", shape.String())))),
		"custom": shape.Object(shape.Need("id", shape.String()), shape.Need("type", shape.String()), shape.Need("custom", shape.Object(
			shape.Need("name", shape.String()), shape.Need("input", shape.String())))),
	})

	instruction = shape.Object(shape.Need("role", shape.String()), shape.Need("content", shape.Either(shape.String(), shape.List(textParts, 1))), shape.May("name", shape.String()))

	message = shape.Tagged("role", map[string]*shape.Type{
		"developer": instruction,
		"system":    instruction,
		"user":      shape.Object(shape.Need("role", shape.String()), shape.Need("content", shape.Either(shape.String(), shape.List(userParts, 1))), shape.May("name", shape.String())),
		"assistant": shape.Object(shape.Need("role", shape.String()), shape.May("content", shape.Either(shape.String(), shape.List(assistantParts, 1))), shape.May("name", shape.String()),
			shape.May("refusal", shape.String()), shape.May("audio", shape.Object(shape.Need("id", shape.String()))), shape.May("tool_calls", shape.List(toolCall, 1)),
			shape.May("annotations", shape.List(shape.Anything(), 0))),
		"tool": shape.Object(shape.Need("role", shape.String()), shape.Need("content", shape.Either(shape.String(), shape.List(textParts, 1))), shape.Need("tool_call_id", shape.Text(1, 0))),
	})

	// qwenMessage lets reasoning_content and partial pass in assistant messages.
	qwenMessage = shape.Tagged("role", map[string]*shape.Type{
		"system": instruction, "user": message.Variants["user"], "tool": message.Variants["tool"],
		"assistant": shape.Loose(message.Variants["assistant"].Fields...),
	})

	function = shape.Object(shape.Need("name", shape.Match(namePattern)), shape.May("description", shape.String()), shape.May("parameters", shape.Loose()), shape.May("strict", shape.Bool()))

	tool = shape.Tagged("type", map[string]*shape.Type{
		"function": shape.Object(shape.Need("type", shape.String()), shape.Need("function", function)),
		"custom": shape.Object(shape.Need("type", shape.String()), shape.Need("custom", shape.Object(shape.Need("name", shape.Match(namePattern)),
			shape.May("description", shape.String()), shape.May("format", shape.Loose())))),
	})

	named = shape.Object(shape.Need("name", shape.String()))

	toolChoice = shape.Either(shape.Enum("none", "auto", "required"), shape.Tagged("type", map[string]*shape.Type{
		"function": shape.Object(shape.Need("type", shape.String()), shape.Need("function", named)),
		"custom":   shape.Object(shape.Need("type", shape.String()), shape.Need("custom", named)),
		"allowed_tools": shape.Object(shape.Need("type", shape.String()), shape.Need("allowed_tools", shape.Object(
			shape.Need("mode", shape.Enum("auto", "required")), shape.Need("tools", shape.List(shape.Loose(), 1))))),
	}))

	responseFormat = shape.Tagged("type", map[string]*shape.Type{
		"text":        shape.Object(shape.Need("type", shape.String())),
		"json_object": shape.Object(shape.Need("type", shape.String())),
		"json_schema": shape.Object(shape.Need("type", shape.String()), shape.Need("json_schema", shape.Object(shape.Need("name", shape.Match(namePattern)),
			shape.May("description", shape.String()), shape.May("schema", shape.Loose()), shape.May("strict", shape.Bool())))),
	})

	efforts = shape.Enum("none", "minimal", "low", "medium", "high", "xhigh", "max")

	metadata = shape.Map(shape.Text(0, 512), 16)

	serviceTier = shape.Enum("auto", "default", "flex", "scale", "priority", "fast")

	streamOptions = shape.Object(shape.May("include_usage", shape.Bool()), shape.May("include_obfuscation", shape.Bool()))
)

var chatFields = []shape.Field{
	shape.Need("model", shape.Text(1, 0)),
	shape.Need("messages", shape.List(message, 1)),
	shape.May("frequency_penalty", shape.Number(-2, 2)),
	shape.May("logit_bias", shape.Map(shape.Number(-100, 100), 0)),
	shape.May("logprobs", shape.Bool()),
	shape.May("max_completion_tokens", shape.AtLeast(1)),
	shape.May("max_tokens", shape.AtLeast(1)),
	shape.May("metadata", metadata),
	shape.May("modalities", shape.List(shape.Enum("text", "audio"), 1)),
	shape.May("moderation", shape.Anything()),
	shape.May("n", shape.Int(1, 128)),
	shape.May("parallel_tool_calls", shape.Bool()),
	shape.May("prediction", shape.Object(shape.Need("type", shape.Enum("content")), shape.Need("content", shape.Either(shape.String(), shape.List(textParts, 1))))),
	shape.May("presence_penalty", shape.Number(-2, 2)),
	shape.May("prompt_cache_key", shape.String()),
	shape.May("prompt_cache_options", shape.Loose()),
	shape.May("prompt_cache_retention", shape.String()),
	shape.May("reasoning_effort", efforts),
	shape.May("response_format", responseFormat),
	shape.May("safety_identifier", shape.Text(0, 64)),
	shape.May("seed", &shape.Type{Kinds: jsontree.Int}),
	shape.May("service_tier", serviceTier),
	shape.May("stop", shape.Either(shape.String(), shape.ListOf(shape.String(), 0, 4))),
	shape.May("store", shape.Bool()),
	shape.May("stream", shape.Bool()),
	shape.May("stream_options", streamOptions),
	shape.May("temperature", shape.Number(0, 2)),
	shape.May("tool_choice", toolChoice),
	shape.May("tools", shape.ListOf(tool, 1, 128)),
	shape.May("top_logprobs", shape.Int(0, 20)),
	shape.May("top_p", shape.Number(0, 1)),
	shape.May("user", shape.String()),
	shape.May("verbosity", shape.Enum("low", "medium", "high")),
	shape.May("web_search_options", shape.Loose()),
}

var chatShape = shape.Object(chatFields...)

// qwenShape is the compatible mode's: OpenAI's fields with its own limits, extras, and no complaint about unknown ones.
var qwenShape = shape.Loose(append([]shape.Field{
	shape.Need("messages", shape.List(qwenMessage, 1)),
	shape.May("temperature", &shape.Type{Kinds: jsontree.Num, Low: new(0.0), High: new(2.0), HighOpen: true}),
	shape.May("top_p", &shape.Type{Kinds: jsontree.Num, Low: new(0.0), LowOpen: true, High: new(1.0)}),
	shape.May("n", shape.Int(1, 4)),
	shape.May("enable_thinking", shape.Bool()),
	shape.May("thinking_budget", shape.AtLeast(1)),
	shape.May("top_k", shape.AtLeast(0)),
	shape.May("repetition_penalty", &shape.Type{Kinds: jsontree.Num, Low: new(0.0), LowOpen: true}),
	shape.May("enable_search", shape.Bool()),
	shape.May("search_options", shape.Loose()),
}, slices.DeleteFunc(slices.Clone(chatFields), func(f shape.Field) bool {
	return slices.Contains([]string{"messages", "temperature", "top_p", "n"}, f.Name)
})...)...)

var embeddingsShape = shape.Object(
	shape.Need("model", shape.Text(1, 0)),
	shape.Need("input", shape.Either(shape.Text(1, 0), shape.ListOf(shape.Either(shape.Either(shape.Text(1, 0), shape.AtLeast(0)), shape.ListOf(shape.AtLeast(0), 1, 2048)), 1, 2048))),
	shape.May("dimensions", shape.AtLeast(1)),
	shape.May("encoding_format", shape.Enum("float", "base64")),
	shape.May("user", shape.String()),
)
