package anthropic

import (
	"strconv"
	"strings"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// AppendResponse implements canon.Inbound.
func (inbound) AppendResponse(dst []byte, r *canon.Response, o canon.Reply) []byte {
	dst = appendMessageHead(dst, r.ID, o)
	dst = append(dst, `"content":[`...)
	calls, first := 0, true
	for i := range r.Parts {
		part := &r.Parts[i]
		if !showable(part) {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = appendBlock(dst, part, o.ID, calls)
		if part.Kind == canon.PartToolCall {
			calls++
		}
	}
	dst = append(dst, "],"...)
	dst = appendStop(dst, r.Finish, r.StopSequence, calls > 0)
	dst = append(dst, `,"usage":`...)
	dst = appendUsage(dst, r.Usage)
	return append(dst, '}')
}

// appendMessageHead appends what both a whole answer and message_start begin with.
func appendMessageHead(dst []byte, id string, o canon.Reply) []byte {
	if id == "" {
		id = o.ID
	}
	dst = append(dst, `{"id":"`...)
	if !strings.HasPrefix(id, "msg_") {
		dst = append(dst, "msg_"...)
	}
	dst = jsonx.AppendEscaped(dst, id)
	dst = append(dst, `","type":"message","role":"assistant","model":`...)
	dst = jsonx.AppendString(dst, o.Model)
	return append(dst, ',')
}

// showable reports whether a part of an answer becomes a block. Callers send every block back, and
// Anthropic refuses a conversation with empty text in it, or with a thinking block that it did not
// sign: another provider's reasoning stays out.
func showable(part *canon.Part) bool {
	switch part.Kind {
	case canon.PartText, canon.PartRefusal:
		return part.Text != ""
	case canon.PartReasoning:
		return ownSignature(part.Signature, part.Origin) != ""
	case canon.PartToolCall:
		return part.Call != nil
	}
	return false
}

// ownSignature is the signature where it is Anthropic's, else "". Another provider's, handed out
// here, would come back under Anthropic's name.
func ownSignature(signature, origin string) string {
	if origin == name {
		return signature
	}
	return ""
}

func appendBlock(dst []byte, part *canon.Part, replyID string, call int) []byte {
	switch part.Kind {
	case canon.PartReasoning:
		signature := ownSignature(part.Signature, part.Origin)
		if data, ok := strings.CutPrefix(signature, redactedPrefix); ok {
			dst = append(dst, `{"type":"redacted_thinking","data":`...)
			dst = jsonx.AppendString(dst, data)
			return append(dst, '}')
		}
		dst = append(dst, `{"type":"thinking","thinking":`...)
		dst = jsonx.AppendString(dst, part.Text)
		dst = append(dst, `,"signature":`...)
		dst = jsonx.AppendString(dst, signature)
	case canon.PartToolCall:
		dst = append(dst, `{"type":"tool_use","id":`...)
		dst = appendCallID(dst, part.Call.ID, replyID, call)
		dst = append(dst, `,"name":`...)
		dst = jsonx.AppendString(dst, part.Call.Name)
		dst = append(dst, `,"input":`...)
		dst = appendInput(dst, part.Call.Arguments)
	default: // text, and a refusal's text
		dst = append(dst, `{"type":"text","text":`...)
		dst = jsonx.AppendString(dst, part.Text)
	}
	return append(dst, '}')
}

// appendCallID appends the provider's id as it is, since some models insist on seeing it again, or
// one of Weir's own, unique per call.
func appendCallID(dst []byte, id, replyID string, call int) []byte {
	if id != "" {
		return jsonx.AppendString(dst, id)
	}
	dst = append(dst, `"toolu_`...)
	dst = jsonx.AppendEscaped(dst, replyID)
	dst = append(dst, '_')
	dst = strconv.AppendInt(dst, int64(call), 10)
	return append(dst, '"')
}

// appendInput appends arguments as the object that Anthropic's clients expect. What a model wrote
// that is no object (cut off by max_tokens, most often) is kept under "_raw" for the reader to see.
func appendInput(dst []byte, arguments string) []byte {
	arguments = strings.TrimSpace(arguments)
	switch {
	case arguments == "" || arguments == "null":
		return append(dst, "{}"...)
	case arguments[0] == '{' && jsonx.CheckString(arguments) == nil:
		return append(dst, arguments...)
	}
	dst = append(dst, `{"_raw":`...)
	dst = jsonx.AppendString(dst, arguments)
	return append(dst, '}')
}

// appendStop appends the members stop_reason and stop_sequence. Some providers say "stop" for an
// answer that ends in a call they were told to make; a client of Anthropic's runs tools only on
// tool_use.
func appendStop(dst []byte, finish canon.FinishReason, sequence string, called bool) []byte {
	reason := "end_turn"
	switch {
	case finish == canon.FinishLength:
		reason = "max_tokens"
	case finish == canon.FinishContentFilter:
		reason = "refusal"
	case finish == canon.FinishToolCalls, called:
		reason = "tool_use"
	case sequence != "":
		reason = "stop_sequence"
	}
	dst = append(dst, `"stop_reason":"`...)
	dst = append(dst, reason...)
	dst = append(dst, `","stop_sequence":`...)
	if reason == "stop_sequence" {
		return jsonx.AppendString(dst, sequence)
	}
	return append(dst, "null"...)
}

// appendUsage appends a usage object. input_tokens leaves out what was read from or written to the
// cache, where canon counts everything. The object is required, so unknown counts are 0.
func appendUsage(dst []byte, u *canon.Usage) []byte {
	if u == nil {
		u = &canon.Usage{}
	}
	dst = append(dst, `{"input_tokens":`...)
	dst = strconv.AppendInt(dst, max(0, u.Input-u.CacheRead-u.CacheWrite), 10)
	dst = append(dst, `,"cache_creation_input_tokens":`...)
	dst = strconv.AppendInt(dst, max(0, u.CacheWrite), 10)
	dst = append(dst, `,"cache_read_input_tokens":`...)
	dst = strconv.AppendInt(dst, max(0, u.CacheRead), 10)
	dst = append(dst, `,"output_tokens":`...)
	dst = strconv.AppendInt(dst, max(0, u.Output), 10)
	if u.Reasoning > 0 {
		dst = append(dst, `,"output_tokens_details":{"thinking_tokens":`...)
		dst = strconv.AppendInt(dst, u.Reasoning, 10)
		dst = append(dst, '}')
	}
	return append(dst, '}')
}

// AppendError implements canon.Inbound.
func (inbound) AppendError(dst []byte, e *canon.Error, requestID string) []byte {
	dst = appendErrorHead(dst, e)
	dst = append(dst, `,"request_id":`...)
	if requestID == "" {
		dst = append(dst, "null"...)
	} else {
		dst = jsonx.AppendString(dst, requestID)
	}
	return append(dst, '}')
}

// appendErrorHead appends an error envelope without its closing brace.
func appendErrorHead(dst []byte, e *canon.Error) []byte {
	dst = append(dst, `{"type":"error","error":{"type":"`...)
	dst = append(dst, errorType(e.Kind)...)
	dst = append(dst, `","message":`...)
	dst = jsonx.AppendString(dst, e.Message)
	return append(dst, '}')
}

func errorType(k canon.ErrorKind) string {
	switch k {
	case canon.ErrInvalidRequest, canon.ErrMethod, canon.ErrUpgrade:
		return "invalid_request_error"
	case canon.ErrAuthentication:
		return "authentication_error"
	case canon.ErrBilling:
		return "billing_error"
	case canon.ErrPermission:
		return "permission_error"
	case canon.ErrNotFound, canon.ErrModelNotFound:
		return "not_found_error"
	case canon.ErrConflict:
		return "conflict_error"
	case canon.ErrTooLarge:
		return "request_too_large"
	case canon.ErrRateLimit:
		return "rate_limit_error"
	case canon.ErrOverloaded:
		return "overloaded_error"
	case canon.ErrTimeout:
		return "timeout_error"
	}
	return "api_error"
}

// AppendModels implements canon.Inbound. The list is always whole: there is no further page.
func (in inbound) AppendModels(dst []byte, models []canon.Model) []byte {
	dst = append(dst, `{"data":[`...)
	for i, m := range models {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = in.AppendModel(dst, m)
	}
	if len(models) == 0 {
		return append(dst, `],"has_more":false,"first_id":null,"last_id":null}`...)
	}
	dst = append(dst, `],"has_more":false,"first_id":`...)
	dst = jsonx.AppendString(dst, models[0].ID)
	dst = append(dst, `,"last_id":`...)
	dst = jsonx.AppendString(dst, models[len(models)-1].ID)
	return append(dst, '}')
}

// AppendModel implements canon.Inbound.
func (inbound) AppendModel(dst []byte, m canon.Model) []byte {
	dst = append(dst, `{"type":"model","id":`...)
	dst = jsonx.AppendString(dst, m.ID)
	dst = append(dst, `,"display_name":`...)
	dst = jsonx.AppendString(dst, m.ID)
	dst = append(dst, `,"created_at":"`...)
	dst = time.Unix(m.Created, 0).UTC().AppendFormat(dst, time.RFC3339)
	return append(dst, `"}`...)
}
