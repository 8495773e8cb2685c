package dashscope

import (
	"fmt"
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// ParseResponse implements canon.Outbound. DashScope reports some failures with status 200: a body
// with a code is an error, and so is one without an output.
func (outbound) ParseResponse(body []byte) (*canon.Response, *canon.Error) {
	if err := jsonx.Check(body); err != nil {
		return nil, badGateway("the provider's answer is not valid JSON: %s", err)
	}
	root := jsonx.Root(body)
	if isError(root) {
		return nil, readError(0, root)
	}
	out := readOutput(root)
	if out.missing {
		return nil, badGateway("the provider answered with status 200 but without an output")
	}
	r := &canon.Response{ID: root.Get("request_id").Str(), Usage: readUsage(root.Get("usage"))}
	if text := out.message.Get("reasoning_content").Str(); text != "" {
		r.Parts = append(r.Parts, canon.Part{Kind: canon.PartReasoning, Text: text})
	}
	if text := contentText(out.content); text != "" {
		r.Parts = append(r.Parts, canon.Part{Text: text})
	}
	calls := 0
	for _, v := range out.message.Get("tool_calls").Elements() {
		call := &canon.ToolCall{ID: v.Get("id").Str()}
		call.Name, call.Arguments = readFunction(v)
		if strings.TrimSpace(call.Arguments) == "" {
			call.Arguments = "{}"
		}
		r.Parts = append(r.Parts, canon.Part{Kind: canon.PartToolCall, Call: call})
		calls++
	}
	finish, _ := finishReason(out.finish)
	r.Finish = finish
	if finish == canon.FinishStop && calls > 0 {
		r.Finish = canon.FinishToolCalls
	}
	return r, nil
}

// output is what an answer or a frame of a stream holds.
type output struct {
	missing bool
	message jsonx.Value
	content jsonx.Value // a string, or an array of {text}
	finish  string
}

// readOutput reads output.choices[0], or output.text as result_format "text" has it.
func readOutput(root jsonx.Value) output {
	out := root.Get("output")
	if out.Kind() != jsonx.Object {
		return output{missing: true}
	}
	for _, choice := range out.Get("choices").Elements() {
		message := choice.Get("message")
		return output{message: message, content: message.Get("content"), finish: choice.Get("finish_reason").Str()}
	}
	text := out.Get("text")
	finish := out.Get("finish_reason").Str()
	return output{content: text, finish: finish, missing: text.Missing() && finish == ""}
}

func contentText(v jsonx.Value) string {
	if v.Kind() != jsonx.Array {
		return v.Str()
	}
	text := ""
	for _, part := range v.Elements() {
		text += part.Get("text").Str()
	}
	return text
}

// readFunction reads a call's name and arguments; the latter are a string here, and an object in
// the answers of some models.
func readFunction(call jsonx.Value) (name, arguments string) {
	f := call.Get("function")
	args := f.Get("arguments")
	if args.Kind() == jsonx.Object {
		return f.Get("name").Str(), string(args)
	}
	return f.Get("name").Str(), args.Str()
}

// finishReason reads a finish reason; real is false for the string "null", which means that the
// answer goes on.
func finishReason(word string) (reason canon.FinishReason, real bool) {
	switch word {
	case "", "null":
		return canon.FinishStop, false
	case "length":
		return canon.FinishLength, true
	case "tool_calls":
		return canon.FinishToolCalls, true
	case "content_filter":
		return canon.FinishContentFilter, true
	}
	return canon.FinishStop, true
}

// readUsage reads a usage object; nil where it counts nothing.
func readUsage(v jsonx.Value) *canon.Usage {
	u := &canon.Usage{}
	seen := false
	count := func(v jsonx.Value, to *int64) {
		if n, ok := v.Int(); ok && n >= 0 {
			*to = n
		}
	}
	for field, m := range v.Members() {
		switch string(field) {
		case "input_tokens":
			count(m, &u.Input)
			seen = true
		case "output_tokens":
			count(m, &u.Output)
			seen = true
		case "cached_tokens":
			count(m, &u.CacheRead)
		case "prompt_tokens_details", "input_tokens_details":
			count(m.Get("cached_tokens"), &u.CacheRead)
			count(m.Get("cache_creation_input_tokens"), &u.CacheWrite)
		case "output_tokens_details", "completion_tokens_details":
			count(m.Get("reasoning_tokens"), &u.Reasoning)
		}
	}
	if !seen {
		return nil
	}
	u.Reasoning = min(u.Reasoning, u.Output)
	u.CacheRead = min(u.CacheRead, u.Input)
	u.CacheWrite = min(u.CacheWrite, u.Input-u.CacheRead)
	return u
}

func badGateway(format string, args ...any) *canon.Error {
	return &canon.Error{Kind: canon.ErrBadGateway, Message: fmt.Sprintf(format, args...)}
}
