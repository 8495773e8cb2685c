package openai

import (
	"strconv"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// AppendResponse appends a chat.completion object.
func (inbound) AppendResponse(dst []byte, r *canon.Response, o canon.Reply) []byte {
	created := r.Created
	if created == 0 {
		created = o.Created
	}
	dst = appendHead(dst, r.ID, "chat.completion", created, o)
	dst = append(dst, `"choices":[{"index":0,"message":`...)
	dst = appendMessage(dst, r.Parts)
	dst = append(dst, `,"logprobs":null,"finish_reason":`...)
	dst = jsonx.AppendString(dst, finishWord(r.Finish))
	dst = append(dst, "}]"...)
	if r.Usage != nil { // missing stays absent: zeros would be a claim
		dst = append(dst, `,"usage":`...)
		dst = appendUsage(dst, r.Usage)
	}
	return append(dst, '}')
}

// appendHead appends what answers and chunks begin with, up to the comma before their own members.
func appendHead(dst []byte, id, object string, created int64, o canon.Reply) []byte {
	dst = append(dst, `{"id":`...)
	if id == "" {
		id = "chatcmpl-" + o.ID
	}
	dst = jsonx.AppendString(dst, id)
	dst = append(dst, `,"object":"`...)
	dst = append(dst, object...)
	dst = append(dst, `","created":`...)
	dst = strconv.AppendInt(dst, created, 10)
	dst = append(dst, `,"model":`...)
	dst = jsonx.AppendString(dst, o.Model)
	return append(dst, ',')
}

// appendMessage appends the assistant's message. Texts are joined without a separator: where a
// provider sends several, they are pieces of one.
func appendMessage(dst []byte, parts []canon.Part) []byte {
	dst = append(dst, `{"role":"assistant","content":`...)
	dst = appendJoined(dst, parts, canon.PartText)
	dst = append(dst, `,"refusal":`...)
	dst = appendJoined(dst, parts, canon.PartRefusal)
	for i := range parts {
		if parts[i].Kind == canon.PartReasoning && parts[i].Text != "" {
			// reasoning_content is the older of two spellings and the one more clients read.
			dst = append(dst, `,"reasoning_content":`...)
			dst = appendJoined(dst, parts, canon.PartReasoning)
			break
		}
	}
	calls := 0
	for i := range parts {
		c := parts[i].Call
		if parts[i].Kind != canon.PartToolCall || c == nil {
			continue
		}
		if calls == 0 {
			dst = append(dst, `,"tool_calls":[`...)
		} else {
			dst = append(dst, ',')
		}
		calls++
		dst = appendToolCall(dst, c)
	}
	if calls > 0 {
		dst = append(dst, ']')
	}
	return append(dst, '}')
}

// appendJoined appends the texts of all parts of a kind as one string, or null where there is none.
func appendJoined(dst []byte, parts []canon.Part, kind canon.PartKind) []byte {
	found := false
	for i := range parts {
		if parts[i].Kind != kind {
			continue
		}
		if !found {
			dst = append(dst, '"')
			found = true
		}
		dst = jsonx.AppendEscaped(dst, parts[i].Text)
	}
	if !found {
		return append(dst, "null"...)
	}
	return append(dst, '"')
}

func appendToolCall(dst []byte, c *canon.ToolCall) []byte {
	dst = append(dst, `{"id":`...)
	dst = jsonx.AppendString(dst, c.ID)
	dst = append(dst, `,"type":"function","function":{"name":`...)
	dst = jsonx.AppendString(dst, c.Name)
	dst = append(dst, `,"arguments":`...)
	dst = jsonx.AppendString(dst, c.Arguments)
	return append(dst, "}}"...)
}

func appendUsage(dst []byte, u *canon.Usage) []byte {
	dst = append(dst, `{"prompt_tokens":`...)
	dst = strconv.AppendInt(dst, u.Input, 10)
	dst = append(dst, `,"completion_tokens":`...)
	dst = strconv.AppendInt(dst, u.Output, 10)
	dst = append(dst, `,"total_tokens":`...)
	dst = strconv.AppendInt(dst, u.Input+u.Output, 10)
	dst = append(dst, `,"prompt_tokens_details":{"cached_tokens":`...)
	dst = strconv.AppendInt(dst, u.CacheRead, 10)
	dst = append(dst, `,"cache_write_tokens":`...)
	dst = strconv.AppendInt(dst, u.CacheWrite, 10)
	dst = append(dst, `},"completion_tokens_details":{"reasoning_tokens":`...)
	dst = strconv.AppendInt(dst, u.Reasoning, 10)
	return append(dst, "}}"...)
}

// finishWord never gives a word that OpenAI's typed clients do not know.
func finishWord(f canon.FinishReason) string {
	switch f {
	case canon.FinishLength, canon.FinishToolCalls, canon.FinishContentFilter:
		return string(f)
	}
	return string(canon.FinishStop)
}

// AppendModels appends the list object of GET /models.
func (in inbound) AppendModels(dst []byte, models []canon.Model) []byte {
	dst = append(dst, `{"object":"list","data":[`...)
	for i, m := range models {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = in.AppendModel(dst, m)
	}
	return append(dst, "]}"...)
}

// AppendModel appends one model object.
func (inbound) AppendModel(dst []byte, m canon.Model) []byte {
	dst = append(dst, `{"id":`...)
	dst = jsonx.AppendString(dst, m.ID)
	dst = append(dst, `,"object":"model","created":`...)
	dst = strconv.AppendInt(dst, m.Created, 10)
	dst = append(dst, `,"owned_by":`...)
	dst = jsonx.AppendString(dst, m.Owner)
	return append(dst, '}')
}
