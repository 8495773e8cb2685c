package openai

import (
	"strconv"
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// ParseResponse reads a chat.completion object. Only the first choice is read: no call asks for more.
func (outbound) ParseResponse(body []byte) (*canon.Response, *canon.Error) {
	if err := jsonx.Check(body); err != nil {
		return nil, badGateway("the provider's answer is not valid JSON: " + err.Error())
	}
	root := jsonx.Root(body)
	if err := errorIn(root); err != nil {
		return nil, err
	}
	answer := root.Fields()
	r := &canon.Response{ID: answer.Get("id").Share(), Model: answer.Get("model").Share()}
	r.Created, _ = answer.Get("created").Int()
	if usage, ok := readUsage(answer.Get("usage")); ok {
		r.Usage = &usage
	}
	var choice jsonx.Fields
	for _, c := range answer.Get("choices").Elements() {
		choice = c.Fields()
		break
	}
	if choice.Get("message").Kind() != jsonx.Object {
		return nil, badGateway("the provider's answer has no choices[0].message")
	}
	message := choice.Get("message").Fields()
	if text := reasoningOf(&message); text != nil {
		r.Parts = append(r.Parts, canon.Part{Kind: canon.PartReasoning, Text: text.Share()})
	}
	if text := textOf(message.Get("content")); text != "" {
		r.Parts = append(r.Parts, canon.Part{Kind: canon.PartText, Text: text})
	}
	if text := message.Get("refusal").Share(); text != "" {
		r.Parts = append(r.Parts, canon.Part{Kind: canon.PartRefusal, Text: text})
	}
	calls := 0
	for _, v := range message.Get("tool_calls").Elements() {
		f := v.Get("function")
		c := &canon.ToolCall{ID: v.Get("id").Share(), Name: f.Get("name").Share(), Arguments: objectText(f.Get("arguments"))}
		if c.Name == "" {
			return nil, badGateway("the provider's answer has a tool call without a name")
		}
		if c.ID == "" {
			c.ID = callID(r.ID, calls)
		}
		calls++
		r.Parts = append(r.Parts, canon.Part{Kind: canon.PartToolCall, Call: c})
	}
	word := choice.Get("finish_reason").Share()
	finish, err := finishOf(word, calls > 0)
	if err != nil {
		return nil, err
	}
	r.Finish = finish
	return r, nil
}

func badGateway(message string) *canon.Error {
	return &canon.Error{Kind: canon.ErrBadGateway, Message: message}
}

// reasoningOf gives the string under either of the two names in use, or nil. Servers in transition
// send both with the same text.
func reasoningOf(message *jsonx.Fields) jsonx.Value {
	for _, field := range [...]string{"reasoning_content", "reasoning"} {
		if s := message.Get(field); s.Kind() == jsonx.String && len(s) > 2 {
			return s
		}
	}
	return nil
}

// textOf reads content: a string, or with some servers an array of text parts.
func textOf(v jsonx.Value) string {
	if v.Kind() != jsonx.Array {
		return v.Share()
	}
	var sb strings.Builder
	for _, p := range v.Elements() {
		sb.WriteString(p.Get("text").Share())
	}
	return sb.String()
}

// objectText gives a tool call's arguments as the text of an object, which canon promises: nothing
// becomes {}, and text that is no object (a model's slip, or arguments cut by the token limit) is
// wrapped as {"_raw":"..."}, so that it is neither lost nor taken for more than it is.
func objectText(v jsonx.Value) string {
	if v.Kind() == jsonx.Object { // not the standard, but unmistakable
		return v.Text()
	}
	s := strings.TrimSpace(v.Share())
	switch {
	case s == "":
		return "{}"
	case isObject(s):
		return s
	}
	return string(append(jsonx.AppendString([]byte(`{"_raw":`), s), '}'))
}

// callID makes an id for a tool call that came without one: unique as the answer's id is, in the
// alphabet that all dialects take.
func callID(answer string, n int) string {
	id := []byte("call_")
	for _, c := range []byte(answer) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
			id = append(id, c)
		}
		if len(id) == 48 { // 64 is the smallest limit among providers
			break
		}
	}
	return string(strconv.AppendInt(append(id, '_'), int64(n), 10))
}

// finishOf reads a finish_reason that is not empty. A call that the caller forced by name ends with
// "stop" at OpenAI and vLLM; other dialects' callers look for the tool calls first.
func finishOf(word string, calls bool) (canon.FinishReason, *canon.Error) {
	switch word {
	case "length", "max_tokens":
		return canon.FinishLength, nil
	case "content_filter":
		return canon.FinishContentFilter, nil
	case "tool_calls", "function_call":
		return canon.FinishToolCalls, nil
	case "abort", "error": // vLLM, SGLang and routers, when generation broke off
		return "", badGateway("the provider broke off the answer: finish_reason is " + word)
	case "insufficient_system_resource": // DeepSeek
		return "", &canon.Error{Kind: canon.ErrOverloaded, Message: "the provider broke off the answer: it is overloaded"}
	}
	if calls {
		return canon.FinishToolCalls, nil
	}
	return canon.FinishStop, nil
}

// readUsage reads a usage object; counted is false where there is none.
func readUsage(v jsonx.Value) (u canon.Usage, counted bool) {
	f := v.Fields()
	in, ok := f.Get("prompt_tokens").Int()
	out, ok2 := f.Get("completion_tokens").Int()
	if !ok && !ok2 {
		return u, false
	}
	u.Input, u.Output = max(in, 0), max(out, 0)
	details := f.Get("prompt_tokens_details")
	if n, ok := details.Get("cached_tokens").Int(); ok {
		u.CacheRead = max(n, 0)
	} else if n, ok := f.Get("prompt_cache_hit_tokens").Int(); ok { // DeepSeek
		u.CacheRead = max(n, 0)
	}
	if n, ok := details.Get("cache_write_tokens").Int(); ok {
		u.CacheWrite = max(n, 0)
	}
	if n, ok := f.Get("completion_tokens_details").Get("reasoning_tokens").Int(); ok {
		u.Reasoning = max(n, 0)
	}
	return u, true
}
