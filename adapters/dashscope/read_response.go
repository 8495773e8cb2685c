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
	f := root.Fields()
	if isError(&f) {
		return nil, readError(0, root)
	}
	out := readOutput(f.Get("output"))
	if out.missing {
		return nil, badGateway("the provider answered with status 200 but without an output")
	}
	r := &canon.Response{ID: f.Get("request_id").Share()}
	if usage, counted := readUsage(f.Get("usage")); counted {
		r.Usage = &usage
	}
	if text := out.message.Get("reasoning_content").Share(); text != "" {
		r.Parts = append(r.Parts, canon.Part{Kind: canon.PartReasoning, Text: text})
	}
	if text := contentText(out.content); text != "" {
		r.Parts = append(r.Parts, canon.Part{Text: text})
	}
	calls := 0
	for _, v := range out.message.Get("tool_calls").Elements() {
		f := v.Get("function")
		call := &canon.ToolCall{ID: v.Get("id").Share(), Name: f.Get("name").Share(), Arguments: argumentsText(f.Get("arguments"))}
		if strings.TrimSpace(call.Arguments) == "" {
			call.Arguments = "{}"
		}
		r.Parts = append(r.Parts, canon.Part{Kind: canon.PartToolCall, Call: call})
		calls++
	}
	finish, _ := finishReason(out.finish.Share())
	r.Finish = finish
	if finish == canon.FinishStop && calls > 0 {
		r.Finish = canon.FinishToolCalls
	}
	return r, nil
}

// output is what an answer or a frame of a stream holds.
type output struct {
	missing bool
	message jsonx.Fields
	content jsonx.Value // a string, or an array of {text}
	finish  jsonx.Value
}

// readOutput reads choices[0] of an output, or its text as result_format "text" has it.
func readOutput(v jsonx.Value) output {
	if v.Kind() != jsonx.Object {
		return output{missing: true}
	}
	f := v.Fields()
	for _, choice := range f.Get("choices").Elements() {
		c := choice.Fields()
		message := c.Get("message").Fields()
		return output{message: message, content: message.Get("content"), finish: c.Get("finish_reason")}
	}
	text, finish := f.Get("text"), f.Get("finish_reason")
	return output{content: text, finish: finish, missing: text.Missing() && finish.Share() == ""}
}

func contentText(v jsonx.Value) string {
	if v.Kind() != jsonx.Array {
		return v.Share()
	}
	text := ""
	for _, part := range v.Elements() {
		text += part.Get("text").Share()
	}
	return text
}

// argumentsText is a call's arguments: a string here, and an object in the answers of some models.
func argumentsText(v jsonx.Value) string {
	if v.Kind() == jsonx.Object {
		return v.Text()
	}
	return v.Share()
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

// readUsage reads a usage object; counted is false where it counts nothing.
func readUsage(v jsonx.Value) (u canon.Usage, counted bool) {
	count := func(v jsonx.Value, to *int64) {
		if n, ok := v.Int(); ok && n >= 0 {
			*to = n
		}
	}
	for field, m := range v.Members() {
		switch string(field) {
		case "input_tokens":
			count(m, &u.Input)
			counted = true
		case "output_tokens":
			count(m, &u.Output)
			counted = true
		case "cached_tokens":
			count(m, &u.CacheRead)
		case "prompt_tokens_details", "input_tokens_details":
			count(m.Get("cached_tokens"), &u.CacheRead)
			count(m.Get("cache_creation_input_tokens"), &u.CacheWrite)
		case "output_tokens_details", "completion_tokens_details":
			count(m.Get("reasoning_tokens"), &u.Reasoning)
		}
	}
	u.Reasoning = min(u.Reasoning, u.Output)
	u.CacheRead = min(u.CacheRead, u.Input)
	u.CacheWrite = min(u.CacheWrite, u.Input-u.CacheRead)
	return u, counted
}

func badGateway(format string, args ...any) *canon.Error {
	return &canon.Error{Kind: canon.ErrBadGateway, Message: fmt.Sprintf(format, args...)}
}
