package openai

import (
	"regexp"
	"strings"

	"github.com/weir-dev/weir/test/sim/internal/jsontree"
	"github.com/weir-dev/weir/test/sim/internal/media"
)

// checkChat holds the rules that one field alone does not show.
func (p Provider) checkChat(b *jsontree.Node) *failure {
	for _, rule := range []func(*jsontree.Node) *failure{p.checkModel, checkMessages, checkPairs, checkTools, checkOptions} {
		if f := rule(b); f != nil {
			return f
		}
	}
	if p.Qwen {
		return checkQwen(b)
	}
	return nil
}

// reasoning tells by name whether a model reasons. Names of no known family count as neither.
var (
	reasoning    = regexp.MustCompile(`^(o[1-9]|gpt-5|gpt-6)`)
	notReasoning = regexp.MustCompile(`^(gpt-3\.5|gpt-4)`)
)

func (p Provider) checkModel(b *jsontree.Node) *failure {
	model := b.Get("model").Str()
	if strings.Contains(model, "embedding") {
		return &failure{status: 404, kind: invalid, param: "model",
			message: "This is not a chat model and thus not supported in the v1/chat/completions endpoint."}
	}
	if p.Qwen {
		return nil
	}
	if b.Get("max_tokens") != nil && b.Get("max_completion_tokens") != nil {
		return bad("max_tokens", "invalid_parameter_combination",
			"Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.")
	}
	if b.Get("max_tokens") != nil && reasoning.MatchString(model) {
		return bad("max_tokens", "unsupported_parameter",
			"Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.")
	}
	if b.Get("reasoning_effort") != nil && notReasoning.MatchString(model) {
		return bad("", "", "Unrecognized request argument supplied: reasoning_effort")
	}
	return nil
}

// checkMessages looks at single messages: null content, images, files.
func checkMessages(b *jsontree.Node) *failure {
	for i, m := range b.Get("messages").List() {
		at := place("messages", i)
		if m.Get("role").Str() == "assistant" {
			if m.Get("content") == nil && m.Get("tool_calls") == nil && m.Get("refusal") == nil && m.Get("audio") == nil {
				return bad(at+".content", "", "Invalid value for 'content': expected a string, got null.")
			}
			continue
		}
		for j, part := range m.Get("content").List() {
			at := place(at+".content", j)
			switch part.Get("type").Str() {
			case "image_url":
				if f := checkImage(part.At("image_url", "url").Str(), at+".image_url.url"); f != nil {
					return f
				}
			case "file":
				file := part.Get("file")
				if (file.Get("file_id") == nil) == (file.Get("file_data") == nil) {
					return bad(at+".file", "invalid_value", "Invalid '%s.file': give one of 'file_id' and 'file_data'.", at)
				}
			}
		}
	}
	return nil
}

func checkImage(url, at string) *failure {
	if media.Remote(url) {
		return nil
	}
	if !strings.HasPrefix(url, "data:") {
		return bad(at, "invalid_image_url", "Invalid '%s'. Expected a valid URL, but got a value with an invalid format.", at)
	}
	mediaType, data, ok := media.DataURI(url)
	if !ok {
		return bad(at, "invalid_base64", "Invalid '%s'. Expected a base64-encoded data URL with an image MIME type (e.g. 'data:image/png;base64,aW1nIGJ5dGVzIGhlcmU='), but got another form.", at)
	}
	if !media.Allowed(mediaType) {
		return bad(at, "invalid_image_format", "Invalid MIME type %q. Only image types are supported: ['image/png', 'image/jpeg', 'image/gif', 'image/webp'].", mediaType)
	}
	if _, err := media.Image(mediaType, data); err != nil {
		return bad(at, "invalid_base64", "Invalid image data in '%s': %s.", at, err)
	}
	return nil
}

// checkPairs holds that calls and tool messages belong together: each call is answered before
// anything else is said, each answer has a call.
func checkPairs(b *jsontree.Node) *failure {
	open := map[string]bool{} // calls that wait for their answer
	known := map[string]bool{}
	unanswered := func(i int) *failure {
		var ids []string
		for _, m := range b.Get("messages").List()[:i] {
			for _, c := range m.Get("tool_calls").List() {
				if id := c.Get("id").Str(); open[id] {
					ids = append(ids, id)
				}
			}
		}
		return bad("messages", "", "An assistant message with 'tool_calls' must be followed by tool messages responding to each "+
			"'tool_call_id'. The following tool_call_ids did not have response messages: %s", strings.Join(ids, ", "))
	}
	list := b.Get("messages").List()
	for i, m := range list {
		if m.Get("role").Str() == "tool" {
			id := m.Get("tool_call_id").Str()
			switch {
			case len(known) == 0:
				return bad(place("messages", i)+".role", "", "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with 'tool_calls'.")
			case !open[id]:
				return bad(place("messages", i)+".tool_call_id", "", "Invalid parameter: 'tool_call_id' of '%s' not found in 'tool_calls' of previous message.", id)
			}
			delete(open, id)
			continue
		}
		if len(open) > 0 {
			return unanswered(i)
		}
		clear(known)
		for j, c := range m.Get("tool_calls").List() {
			id := c.Get("id").Str()
			if known[id] {
				return bad(place(place("messages", i)+".tool_calls", j)+".id", "invalid_value", "Duplicate tool call id '%s'.", id)
			}
			known[id], open[id] = true, true
		}
	}
	if len(open) > 0 {
		return unanswered(len(list))
	}
	return nil
}

func checkTools(b *jsontree.Node) *failure {
	declared := map[string]bool{}
	for i, t := range b.Get("tools").List() {
		if t.Get("type").Str() == "custom" {
			declared["custom:"+t.At("custom", "name").Str()] = true
			continue
		}
		fn := t.Get("function")
		name := fn.Get("name").Str()
		declared["function:"+name] = true
		params := fn.Get("parameters")
		at := place("tools", i) + ".function.parameters"
		if f := checkObjectSchema(params, "function '"+name+"'", at); f != nil {
			return f
		}
		if fn.Get("strict").True() {
			if f := checkStrict(params, nil, "function '"+name+"'", at); f != nil {
				return f
			}
		}
	}
	choice := b.Get("tool_choice")
	if len(declared) == 0 {
		if choice != nil && choice.Str() != "none" {
			return bad("tool_choice", "", "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified.")
		}
		if b.Get("parallel_tool_calls") != nil {
			return bad("parallel_tool_calls", "", "Invalid value for 'parallel_tool_calls': 'parallel_tool_calls' is only allowed when 'tools' are specified.")
		}
		return nil
	}
	if kind := choice.Get("type").Str(); kind == "function" || kind == "custom" {
		if want := kind + ":" + choice.At(kind, "name").Str(); !declared[want] {
			return bad("tool_choice", "", "Tool choice '%s' not found in 'tools' parameter.", strings.TrimPrefix(want, "function:"))
		}
	}
	return nil
}

// checkObjectSchema holds that the schema of a function's arguments is an object's.
func checkObjectSchema(s *jsontree.Node, what, at string) *failure {
	if s == nil || len(s.Members) == 0 {
		return nil
	}
	if t := s.Get("type"); t.Str() != "object" {
		got := "None"
		if t != nil {
			got = t.Str()
		}
		return bad(at, "invalid_function_parameters", "Invalid schema for %s: schema must be a JSON Schema of 'type: \"object\"', got 'type: \"%s\"'.", what, got)
	}
	return nil
}

// checkStrict holds what strict mode asks of every object in a schema: no further members, all required.
func checkStrict(s *jsontree.Node, where []string, what, at string) *failure {
	if s == nil {
		return nil
	}
	props := s.Get("properties")
	if s.Get("type").Str() == "object" || props != nil {
		context := "(" + strings.Join(where, ", ") + ")"
		if !s.Get("additionalProperties").False() {
			return bad(at, "invalid_schema", "Invalid schema for %s: In context=%s, 'additionalProperties' is required to be supplied and to be false.", what, context)
		}
		required := s.Get("required").Strings()
		if props != nil {
			for _, m := range props.Members {
				if !contains(required, m.Name) {
					return bad(at, "invalid_schema", "Invalid schema for %s: In context=%s, 'required' is required to be supplied and to be an array including every key in properties. Missing '%s'.", what, context, m.Name)
				}
			}
		}
	}
	for _, group := range []string{"properties", "$defs", "definitions"} {
		if g := s.Get(group); g != nil {
			for _, m := range g.Members {
				if f := checkStrict(m.Value, append(where, "'"+group+"'", "'"+m.Name+"'"), what, at); f != nil {
					return f
				}
			}
		}
	}
	for _, alt := range s.Get("anyOf").List() {
		if f := checkStrict(alt, append(where, "'anyOf'"), what, at); f != nil {
			return f
		}
	}
	return checkStrict(s.Get("items"), append(where, "'items'"), what, at)
}

func checkOptions(b *jsontree.Node) *failure {
	if b.Get("stream_options") != nil && !b.Get("stream").True() {
		return bad("stream_options", "", "The 'stream_options' parameter is only allowed when 'stream' is enabled.")
	}
	if b.Get("top_logprobs") != nil && !b.Get("logprobs").True() {
		return bad("top_logprobs", "", "Invalid value for 'top_logprobs': it is only allowed when 'logprobs' is enabled.")
	}
	if contains(b.Get("modalities").Strings(), "audio") {
		return bad("modalities", "unsupported_value", "This model does not produce audio.")
	}
	if b.Get("logit_bias") != nil {
		for _, m := range b.Get("logit_bias").Members {
			if strings.Trim(m.Name, "0123456789") != "" || m.Name == "" {
				return bad("logit_bias", "", "Invalid key in 'logit_bias': %s. You should only be submitting non-negative integers.", m.Name)
			}
		}
	}
	format := b.Get("response_format")
	switch format.Get("type").Str() {
	case "json_object":
		if !mentionsJSON(b.Get("messages")) {
			return bad("messages", "", "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.")
		}
	case "json_schema":
		js := format.Get("json_schema")
		if js.Get("strict").True() {
			what := "response_format '" + js.Get("name").Str() + "'"
			if js.Get("schema") == nil {
				return bad("response_format.json_schema.schema", "missing_required_parameter", "Missing required parameter: 'response_format.json_schema.schema'.")
			}
			if js.At("schema", "type").Str() != "object" {
				return bad("response_format", "invalid_schema", "Invalid schema for %s: schema must be a JSON Schema of 'type: \"object\"'.", what)
			}
			return checkStrict(js.Get("schema"), nil, what, "response_format")
		}
	}
	return nil
}

func mentionsJSON(messages *jsontree.Node) bool {
	return strings.Contains(strings.ToLower(messages.JSON()), "json")
}

// checkQwen holds the rules of the compatible mode.
func checkQwen(b *jsontree.Node) *failure {
	model, thinking := b.Get("model").Str(), b.Get("enable_thinking").True()
	if thinking && !b.Get("stream").True() && ThinksOnlyStreaming(model) {
		return bad("enable_thinking", "invalid_parameter_error", "parameter.enable_thinking must be set to false for non-streaming calls")
	}
	return qwenChoice(model, thinking, b.Get("tool_choice"))
}

func qwenChoice(model string, thinking bool, choice *jsontree.Node) *failure {
	if msg := QwenChoice(model, thinking, choice); msg != "" {
		return bad("", "invalid_parameter_error", "%s", msg)
	}
	return nil
}

var openWeights = regexp.MustCompile(`^(qwen3-\d+(\.\d+)?b|qwq)`)

// ThinksOnlyStreaming tells by name whether a Qwen model refuses to think in a plain call: the open weights do.
func ThinksOnlyStreaming(model string) bool { return openWeights.MatchString(model) }

// QwenChoice returns Alibaba's complaint about a tool choice, which both its faces share, or "".
func QwenChoice(model string, thinking bool, choice *jsontree.Node) string {
	forced := choice.Str() == "required" || choice.Is(jsontree.Obj)
	switch {
	case forced && thinking:
		return "<400> InternalError.Algo.InvalidParameter: The tool_choice parameter does not support being set to required or object in thinking mode"
	case choice.Str() == "required" && strings.HasPrefix(model, "qwen-long"):
		return `tool_choice is one of the strings that should be ["none", "auto"]`
	}
	return ""
}
