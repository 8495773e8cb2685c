package anthropic

import (
	"fmt"
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// ParseResponse implements canon.Outbound.
func (outbound) ParseResponse(body []byte) (*canon.Response, *canon.Error) {
	if err := jsonx.Check(body); err != nil {
		return nil, badGateway("the provider's answer is not valid JSON: %s", err)
	}
	root := jsonx.Root(body)
	if root.Kind() != jsonx.Object {
		return nil, badGateway("the provider's answer is %s, not a message object", root.Kind())
	}
	f := root.Fields()
	if f.Get("type").Share() == "error" {
		return nil, readError(0, root)
	}
	content := f.Get("content")
	if content.Kind() != jsonx.Array {
		return nil, badGateway("the provider's answer is no message: it has no content array")
	}
	r := &canon.Response{ID: f.Get("id").Share(), Model: f.Get("model").Share()}
	called := false
	for _, block := range content.Elements() {
		part, ok := readAnswerBlock(block)
		if ok {
			r.Parts = append(r.Parts, part)
			called = called || part.Kind == canon.PartToolCall
		}
	}
	r.Finish = finishReason(f.Get("stop_reason").Share(), called)
	r.StopSequence = f.Get("stop_sequence").Share()
	if usage := f.Get("usage"); usage.Kind() == jsonx.Object {
		var count counts
		count.merge(usage)
		r.Usage = count.usage()
	}
	return r, nil
}

// readAnswerBlock reads a content block. Those of tools that ran at the provider have no
// counterpart elsewhere; their outcome is told in the text beside them.
func readAnswerBlock(v jsonx.Value) (canon.Part, bool) {
	f := v.Fields()
	switch f.Get("type").Share() {
	case "text":
		text := f.Get("text").Share()
		return canon.Part{Kind: canon.PartText, Text: text}, text != ""
	case "thinking":
		part := canon.Part{Kind: canon.PartReasoning, Text: f.Get("thinking").Share(), Signature: f.Get("signature").Share()}
		if part.Signature != "" {
			part.Origin = name
		}
		return part, part.Text != "" || part.Signature != ""
	case "redacted_thinking":
		return canon.Part{Kind: canon.PartReasoning, Signature: redactedPrefix + f.Get("data").Share(), Origin: name}, true
	case "tool_use":
		call := &canon.ToolCall{ID: f.Get("id").Share(), Name: f.Get("name").Share(), Arguments: "{}"}
		if input := f.Get("input"); !input.Missing() {
			call.Arguments = input.Text()
		}
		return canon.Part{Kind: canon.PartToolCall, Call: call}, true
	}
	return canon.Part{}, false
}

// finishReason reads a stop_reason; servers that imitate the API leave it out now and then.
func finishReason(reason string, called bool) canon.FinishReason {
	switch reason {
	case "max_tokens", "model_context_window_exceeded":
		return canon.FinishLength
	case "tool_use":
		return canon.FinishToolCalls
	case "refusal":
		return canon.FinishContentFilter
	case "":
		if called {
			return canon.FinishToolCalls
		}
	}
	return canon.FinishStop // end_turn, stop_sequence, pause_turn
}

// counts is Anthropic's usage. A stream tells it in parts, each of which is cumulative.
type counts struct {
	input, cacheRead, cacheWrite, output, thinking int64
	seen                                           bool
}

func (c *counts) merge(usage jsonx.Value) {
	for field, v := range usage.Members() {
		var to *int64
		switch string(field) {
		case "input_tokens":
			to = &c.input
		case "cache_read_input_tokens":
			to = &c.cacheRead
		case "cache_creation_input_tokens":
			to = &c.cacheWrite
		case "output_tokens":
			to = &c.output
		case "output_tokens_details":
			if n, ok := v.Get("thinking_tokens").Int(); ok && n >= 0 {
				c.thinking = n
			}
			continue
		default:
			continue
		}
		if n, ok := v.Int(); ok && n >= 0 {
			*to, c.seen = n, true
		}
	}
}

// usage is canon's count, in which input has the cached tokens inside; nil where none was told.
func (c *counts) usage() *canon.Usage {
	if !c.seen {
		return nil
	}
	return &canon.Usage{
		Input:      c.input + c.cacheRead + c.cacheWrite,
		CacheRead:  c.cacheRead,
		CacheWrite: c.cacheWrite,
		Output:     c.output,
		Reasoning:  min(c.thinking, c.output),
	}
}

func badGateway(format string, args ...any) *canon.Error {
	return &canon.Error{Kind: canon.ErrBadGateway, Message: fmt.Sprintf(format, args...)}
}

// ParseError implements canon.Outbound.
func (outbound) ParseError(status int, retryAfter string, body []byte) *canon.Error {
	var e *canon.Error
	if jsonx.Check(body) == nil {
		if root := jsonx.Root(body); root.Get("error").Kind() == jsonx.Object {
			e = readError(status, root)
		}
	}
	if e == nil {
		// A proxy's page or nothing at all: what it says is not for callers.
		e = &canon.Error{Kind: canon.KindOfAnswer(status),
			Message: fmt.Sprintf("the provider answered with status %d and a body that is no Anthropic error", status)}
	}
	// The client keeps a status of its own where it says more than the kind does (422 is one).
	if status >= 400 && status < 500 && e.HTTPStatus() != status && canon.KindOf(status) == e.Kind && status != 408 {
		e.Status = status
	}
	e.RetryAfter = canon.ParseRetryAfter(retryAfter)
	return e
}

// readError reads an error envelope: {"type":"error","error":{"type","message"}}. Status 0 means
// that there is none of its own, as in a stream.
func readError(status int, root jsonx.Value) *canon.Error {
	inner := root.Get("error")
	e := &canon.Error{Code: inner.Get("type").Str(), Message: inner.Get("message").Str()}
	var known bool
	if e.Kind, known = errorKind(e.Code); !known {
		e.Kind = canon.KindOfAnswer(status)
	}
	if e.Kind == canon.ErrNotFound && strings.HasPrefix(e.Message, "model:") {
		e.Kind = canon.ErrModelNotFound
	}
	if e.Message == "" {
		e.Message = "the provider gave no message"
		if e.Code != "" {
			e.Message = "the provider answered " + e.Code + " without a message"
		}
	}
	return e
}

func errorKind(word string) (canon.ErrorKind, bool) {
	switch word {
	case "invalid_request_error":
		return canon.ErrInvalidRequest, true
	case "authentication_error":
		return canon.ErrAuthentication, true
	case "billing_error":
		return canon.ErrBilling, true
	case "permission_error":
		return canon.ErrPermission, true
	case "not_found_error":
		return canon.ErrNotFound, true
	case "conflict_error":
		return canon.ErrConflict, true
	case "request_too_large":
		return canon.ErrTooLarge, true
	case "rate_limit_error":
		return canon.ErrRateLimit, true
	case "api_error":
		return canon.ErrInternal, true
	case "timeout_error":
		return canon.ErrTimeout, true
	case "overloaded_error":
		return canon.ErrOverloaded, true
	}
	return "", false
}
