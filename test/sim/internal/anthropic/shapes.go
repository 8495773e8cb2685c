package anthropic

import (
	"slices"

	"github.com/weir-dev/weir/test/sim/internal/jsontree"
	"github.com/weir-dev/weir/test/sim/internal/shape"
)

// The tables in this file are Anthropic's request formats: what is not listed is refused.

const (
	idPattern   = `^[a-zA-Z0-9_-]+$`
	namePattern = `^[a-zA-Z0-9_-]{1,128}$`
)

var (
	kindField = shape.Need("type", shape.String())

	cacheControl = shape.May("cache_control", shape.Object(shape.Need("type", shape.Enum("ephemeral")), shape.May("ttl", shape.Enum("5m", "1h"))))

	citations = shape.May("citations", shape.Either(shape.List(shape.Loose(), 0), shape.Object(shape.May("enabled", shape.Bool()))))

	textBlock = shape.Object(kindField, shape.Need("text", shape.String()), cacheControl, citations)

	imageBlock = shape.Object(kindField, cacheControl, shape.Need("source", shape.Tagged("type", map[string]*shape.Type{
		"base64": shape.Object(kindField, shape.Need("media_type", shape.Enum("image/jpeg", "image/png", "image/gif", "image/webp")), shape.Need("data", shape.String())),
		"url":    shape.Object(kindField, shape.Need("url", shape.Text(1, 0))),
		"file":   shape.Object(kindField, shape.Need("file_id", shape.Text(1, 0))),
	})))

	documentBlock = shape.Object(kindField, cacheControl, citations, shape.May("title", shape.String()), shape.May("context", shape.String()),
		shape.Need("source", shape.Tagged("type", map[string]*shape.Type{
			"base64":  shape.Object(kindField, shape.Need("media_type", shape.Enum("application/pdf")), shape.Need("data", shape.Text(1, 0))),
			"text":    shape.Object(kindField, shape.Need("media_type", shape.Enum("text/plain")), shape.Need("data", shape.Text(1, 0))),
			"url":     shape.Object(kindField, shape.Need("url", shape.Text(1, 0))),
			"file":    shape.Object(kindField, shape.Need("file_id", shape.Text(1, 0))),
			"content": shape.Object(kindField, shape.Need("content", shape.Either(shape.String(), shape.List(shape.Loose(kindField), 1)))),
		})))

	searchResult = shape.Object(kindField, cacheControl, citations, shape.Need("source", shape.String()), shape.Need("title", shape.String()), shape.Need("content", shape.List(textBlock, 1)))

	resultBlocks = shape.Tagged("type", map[string]*shape.Type{
		"text": textBlock, "image": imageBlock, "document": documentBlock, "search_result": searchResult,
		"tool_reference": shape.Loose(kindField),
	})

	userBlocks = shape.Tagged("type", map[string]*shape.Type{
		"text": textBlock, "image": imageBlock, "document": documentBlock, "search_result": searchResult,
		"tool_result": shape.Object(kindField, cacheControl, shape.Need("tool_use_id", shape.Match(idPattern)), shape.May("is_error", shape.Bool()),
			shape.May("content", shape.Either(shape.String(), shape.List(resultBlocks, 0)))),
	})

	assistantBlocks = &shape.Type{Kinds: jsontree.Obj, Tag: "type", Variants: map[string]*shape.Type{
		"text":     textBlock,
		"document": documentBlock,
		"tool_use": shape.Object(kindField, cacheControl, shape.Need("id", shape.Match(idPattern)), shape.Need("name", shape.Match(namePattern)),
			shape.Need("input", shape.Loose()), shape.May("caller", shape.Loose())),
		"thinking":          shape.Object(kindField, shape.Need("thinking", shape.String()), shape.Need("signature", shape.String())),
		"redacted_thinking": shape.Object(kindField, shape.Need("data", shape.String())),
		// The blocks of server tools return as they came.
		"server_tool_use":            shape.Loose(kindField),
		"web_search_tool_result":     shape.Loose(kindField),
		"code_execution_tool_result": shape.Loose(kindField),
	}}

	roleField = shape.Need("role", shape.String())

	message = shape.Tagged("role", map[string]*shape.Type{
		"user":      shape.Object(roleField, shape.Need("content", shape.Either(shape.String(), shape.List(userBlocks, 0)))),
		"assistant": shape.Object(roleField, shape.Need("content", shape.Either(shape.String(), shape.List(assistantBlocks, 0)))),
		"system":    shape.Object(roleField, shape.Need("content", shape.Either(shape.String(), shape.List(shape.Tagged("type", map[string]*shape.Type{"text": textBlock}), 0)))),
	})

	schemaType = shape.Loose(shape.Need("type", shape.Enum("object")), shape.May("properties", shape.Loose()), shape.May("required", shape.List(shape.String(), 0)))

	customTool = shape.Object(shape.May("type", shape.Enum("custom")), shape.Need("name", shape.Match(namePattern)), shape.May("description", shape.String()),
		shape.Need("input_schema", schemaType), shape.May("strict", shape.Bool()), cacheControl, shape.May("eager_input_streaming", shape.Bool()),
		shape.May("defer_loading", shape.Bool()), shape.May("allowed_callers", shape.List(shape.String(), 0)), shape.May("input_examples", shape.List(shape.Loose(), 0)))

	serverTool = shape.Loose(kindField, shape.Need("name", shape.String()), cacheControl)

	parallel = shape.May("disable_parallel_tool_use", shape.Bool())

	display = shape.May("display", shape.Enum("summarized", "omitted"))
)

var messagesFields = []shape.Field{
	shape.Need("model", shape.Text(1, 0)),
	shape.Need("max_tokens", shape.AtLeast(1)),
	shape.Need("messages", shape.ListOf(message, 1, 100000)),
	cacheControl,
	shape.May("container", shape.Anything()),
	shape.May("diagnostics", shape.Anything()),
	shape.May("inference_geo", shape.String()),
	shape.May("metadata", shape.Object(shape.May("user_id", shape.Text(0, 256)))),
	shape.May("output_config", shape.Object(shape.May("effort", shape.Enum("low", "medium", "high", "xhigh", "max")),
		shape.May("format", shape.Tagged("type", map[string]*shape.Type{"json_schema": shape.Object(kindField, shape.Need("schema", shape.Loose()))})))),
	shape.May("service_tier", shape.Enum("auto", "standard_only")),
	shape.May("speed", shape.Enum("fast", "standard")),
	shape.May("stop_sequences", shape.List(shape.Text(1, 0), 0)),
	shape.May("stream", shape.Bool()),
	shape.May("system", shape.Either(shape.String(), shape.List(shape.Tagged("type", map[string]*shape.Type{"text": textBlock}), 0))),
	shape.May("temperature", shape.Number(0, 1)),
	shape.May("thinking", shape.Tagged("type", map[string]*shape.Type{
		"enabled":       shape.Object(kindField, shape.Need("budget_tokens", shape.AtLeast(1024)), display),
		"adaptive":      shape.Object(kindField, display),
		"between_tools": shape.Object(kindField, display),
		"disabled":      shape.Object(kindField),
	})),
	shape.May("tool_choice", shape.Tagged("type", map[string]*shape.Type{
		"auto": shape.Object(kindField, parallel),
		"any":  shape.Object(kindField, parallel),
		"tool": shape.Object(kindField, parallel, shape.Need("name", shape.Text(1, 0))),
		"none": shape.Object(kindField),
	})),
	shape.May("tools", shape.List(shape.Anything(), 0)),
	shape.May("top_k", shape.AtLeast(0)),
	shape.May("top_p", shape.Number(0, 1)),
}

// countFields are what token counting takes: no max_tokens and nothing about the answer.
var countFields = slices.DeleteFunc(slices.Clone(messagesFields), func(f shape.Field) bool {
	return !slices.Contains([]string{"model", "messages", "cache_control", "output_config", "system", "thinking", "tool_choice", "tools", "speed"}, f.Name)
})
