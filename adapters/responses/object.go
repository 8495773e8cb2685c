package responses

import (
	"bytes"
	"encoding/json"
	"strconv"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// The statuses of a response.
const (
	statusRunning    = "in_progress"
	statusCompleted  = "completed"
	statusIncomplete = "incomplete"
	statusFailed     = "failed"
)

// echo is what a response repeats of its request, as it was written there; nil where it was not said.
type echo struct {
	instructions, maxOutputTokens, maxToolCalls, parallel, temperature, topP jsonx.Value
	format, verbosity, toolChoice, tools, truncation, user, safety, cacheKey jsonx.Value
	tier, cacheRetention, cacheOptions                                       jsonx.Value
	effort, summary                                                          string
}

func (e *echo) read(m members) {
	e.instructions, e.maxOutputTokens, e.maxToolCalls = m.get("instructions"), m.get("max_output_tokens"), m.get("max_tool_calls")
	e.parallel, e.temperature, e.topP = m.get("parallel_tool_calls"), m.get("temperature"), m.get("top_p")
	e.format, e.verbosity = m.get("text").Get("format"), m.get("text").Get("verbosity")
	e.toolChoice, e.tools, e.truncation = m.get("tool_choice"), m.get("tools"), m.get("truncation")
	e.user, e.safety, e.cacheKey = m.get("user"), m.get("safety_identifier"), m.get("prompt_cache_key")
	e.tier, e.cacheRetention, e.cacheOptions = m.get("service_tier"), m.get("prompt_cache_retention"), m.get("prompt_cache_options")
}

// also is the value of a field that Chat Completions has with the same meaning, nil for any other.
func (e *echo) also(name string) jsonx.Value {
	switch name {
	case "text.verbosity":
		return e.verbosity
	case "service_tier":
		return e.tier
	case "prompt_cache_key":
		return e.cacheKey
	case "prompt_cache_retention":
		return e.cacheRetention
	case "prompt_cache_options":
		return e.cacheOptions
	}
	return nil
}

// appendHead appends what a response object begins with, up to the status.
func appendHead(dst []byte, o *canon.Reply) []byte {
	dst = append(dst, `{"id":"resp_`...)
	dst = jsonx.AppendEscaped(dst, o.ID)
	dst = append(dst, `","object":"response","created_at":`...)
	dst = strconv.AppendInt(dst, o.Created, 10)
	return append(dst, `,"status":`...)
}

// appendTail appends what a response object ends with, from the comma: all that its request decided. Line ends between the tokens of
// the request's own JSON would end a line of a stream, so none stays.
func (r *Request) appendTail(dst []byte, o *canon.Reply) []byte {
	var b bytes.Buffer
	field := func(name string, v jsonx.Value, missing string) {
		b.WriteString(`,"` + name + `":`)
		if v.Missing() {
			b.WriteString(missing)
		} else {
			b.Write(v)
		}
	}
	text := func(name, s string) {
		b.WriteString(`,"` + name + `":`)
		if s == "" {
			b.WriteString("null")
		} else {
			b.Write(jsonx.AppendString(nil, s))
		}
	}
	e, s := &r.echo, &r.State
	text("model", o.Model)
	field("instructions", e.instructions, "null")
	field("max_output_tokens", e.maxOutputTokens, "null")
	field("max_tool_calls", e.maxToolCalls, "null")
	field("parallel_tool_calls", e.parallel, "true")
	text("previous_response_id", s.PreviousResponseID)
	if s.Conversation == "" {
		b.WriteString(`,"conversation":null`)
	} else {
		b.WriteString(`,"conversation":{"id":`)
		b.Write(jsonx.AppendString(nil, s.Conversation))
		b.WriteString("}")
	}
	b.WriteString(`,"reasoning":{"effort":`)
	b.Write(appendOrNull(nil, e.effort))
	text("summary", e.summary)
	b.WriteString(`},"background":false,"store":` + strconv.FormatBool(s.Store))
	field("temperature", e.temperature, "null")
	b.WriteString(`,"text":{"format":`)
	if e.format.Missing() {
		b.WriteString(`{"type":"text"}`)
	} else {
		b.Write(e.format)
	}
	if !e.verbosity.Missing() {
		field("verbosity", e.verbosity, "")
	}
	b.WriteString("}")
	field("tool_choice", e.toolChoice, `"auto"`)
	field("tools", e.tools, "[]")
	field("top_p", e.topP, "null")
	field("truncation", e.truncation, `"disabled"`)
	field("user", e.user, "null")
	field("safety_identifier", e.safety, "null")
	field("prompt_cache_key", e.cacheKey, "null")
	field("metadata", jsonx.Value(s.Metadata), "{}")
	b.WriteString("}")
	return appendCompact(dst, b.Bytes())
}

// appendCompact appends pieces of JSON, the members of an object from their first comma to its closing brace, without white space.
func appendCompact(dst, members []byte) []byte {
	var b bytes.Buffer
	// A member in front makes an object of it, and is cut off again. Every value has passed Check, so that nothing can fail here.
	_ = json.Compact(&b, append([]byte(`{"":0`), members...))
	return append(dst, b.Bytes()[len(`{"":0`):]...)
}

func appendOrNull(dst []byte, s string) []byte {
	if s == "" {
		return append(dst, "null"...)
	}
	return jsonx.AppendString(dst, s)
}

// appendObject appends the response object as it stands. Where the answer has ended, final, its items are in it.
func (e *encoder) appendObject(dst []byte, status string, final bool) []byte {
	dst = append(dst, e.head...)
	dst = jsonx.AppendString(dst, status)
	dst = append(dst, `,"error":`...)
	if e.failure == nil {
		dst = append(dst, "null"...)
	} else {
		dst = append(dst, `{"code":"`...)
		dst = append(dst, failureCode(e.failure)...)
		dst = append(dst, `","message":`...)
		dst = jsonx.AppendString(dst, e.failure.Message)
		dst = append(dst, '}')
	}
	dst = append(dst, `,"incomplete_details":`...)
	switch {
	case status != statusIncomplete:
		dst = append(dst, "null"...)
	case e.finish == canon.FinishContentFilter:
		dst = append(dst, `{"reason":"content_filter"}`...)
	default:
		dst = append(dst, `{"reason":"max_output_tokens"}`...)
	}
	dst = append(dst, `,"output":[`...)
	if final {
		first := true
		for _, item := range e.items {
			if item.json == nil { // broken off
				continue
			}
			if !first {
				dst = append(dst, ',')
			}
			first = false
			dst = append(dst, item.json...)
		}
	}
	dst = append(dst, `],"usage":`...)
	if final && e.usage != nil { // missing stays missing: zeros would be a claim
		dst = appendUsage(dst, e.usage)
	} else {
		dst = append(dst, "null"...)
	}
	return append(dst, e.tail...)
}

func appendUsage(dst []byte, u *canon.Usage) []byte {
	dst = append(dst, `{"input_tokens":`...)
	dst = strconv.AppendInt(dst, u.Input, 10)
	dst = append(dst, `,"input_tokens_details":{"cached_tokens":`...)
	dst = strconv.AppendInt(dst, u.CacheRead, 10)
	dst = append(dst, `,"cache_write_tokens":`...)
	dst = strconv.AppendInt(dst, u.CacheWrite, 10)
	dst = append(dst, `},"output_tokens":`...)
	dst = strconv.AppendInt(dst, u.Output, 10)
	dst = append(dst, `,"output_tokens_details":{"reasoning_tokens":`...)
	dst = strconv.AppendInt(dst, u.Reasoning, 10)
	dst = append(dst, `},"total_tokens":`...)
	dst = strconv.AppendInt(dst, u.Input+u.Output, 10)
	return append(dst, '}')
}

// failureCode never gives a word that OpenAI's typed clients do not know.
func failureCode(e *canon.Error) string {
	switch e.Kind {
	case canon.ErrRateLimit:
		return "rate_limit_exceeded"
	case canon.ErrInvalidRequest, canon.ErrTooLarge:
		return "invalid_prompt"
	}
	return "server_error"
}
