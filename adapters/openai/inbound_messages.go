package openai

import (
	"fmt"
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// readMessages reads the conversation.
func (q *request) readMessages(r *canon.Request) *canon.Error {
	if q.messages.Kind() != jsonx.Array {
		return wrongKind("messages", "an array", q.messages)
	}
	r.Messages = make([]canon.Message, 0, q.messages.Len())
	for i, v := range q.messages.Elements() {
		m, err := readMessage(v)
		if err != nil {
			return at(err, "messages", i)
		}
		r.Messages = append(r.Messages, m)
	}
	if len(r.Messages) == 0 {
		return bad("messages", "must not be empty")
	}
	return pairResults(r.Messages)
}

func readMessage(v jsonx.Value) (m canon.Message, err *canon.Error) {
	if v.Kind() != jsonx.Object {
		return m, wrongKind("", "an object", v)
	}
	role, err := reqString(v.Get("role"), "role")
	if err != nil {
		return m, err
	}
	m.Role = canon.Role(role)
	if m.Name, err = optString(v.Get("name"), "name"); err != nil {
		return m, err
	}
	switch m.Role {
	case canon.RoleSystem, canon.RoleDeveloper:
		m.Parts, err = readContent(v.Get("content"), readText)
	case canon.RoleUser:
		m.Parts, err = readContent(v.Get("content"), readUserPart)
	case canon.RoleAssistant:
		m.Parts, err = readAssistant(v)
	case canon.RoleTool:
		m.Parts, err = readToolResult(v)
	case "function":
		err = cannot("role", `is "function", the legacy form of "tool", and cannot be translated: use tool`)
	default:
		err = bad("role", "must be developer, system, user, assistant or tool, not %q", clip(role))
	}
	return m, err
}

// readContent reads a content that is a string or an array of parts.
func readContent(v jsonx.Value, readPart func(kind string, v jsonx.Value) (canon.Part, *canon.Error)) ([]canon.Part, *canon.Error) {
	switch v.Kind() {
	case jsonx.String:
		return []canon.Part{{Text: v.Str()}}, nil
	case jsonx.Array:
	default:
		return nil, wrongKind("content", "a string or an array of parts", v)
	}
	parts := make([]canon.Part, 0, v.Len())
	for i, e := range v.Elements() {
		if e.Kind() != jsonx.Object {
			return nil, at(wrongKind("", "an object", e), "content", i)
		}
		kind, err := reqString(e.Get("type"), "type")
		if err != nil {
			return nil, at(err, "content", i)
		}
		p, err := readPart(kind, e)
		if err != nil {
			return nil, at(err, "content", i)
		}
		p.CacheMark = marked(e)
		parts = append(parts, p)
	}
	if len(parts) == 0 {
		return nil, bad("content", "must not be an empty array")
	}
	return parts, nil
}

func readText(kind string, v jsonx.Value) (p canon.Part, err *canon.Error) {
	if kind != "text" {
		return p, bad("type", "is %q, but only text is allowed in a message of this role", clip(kind))
	}
	text := v.Get("text")
	if text.Kind() != jsonx.String {
		return p, wrongKind("text", "a string", text)
	}
	return canon.Part{Text: text.Str()}, nil
}

func readUserPart(kind string, v jsonx.Value) (p canon.Part, err *canon.Error) {
	switch kind {
	case "text":
		return readText(kind, v)
	case "image_url":
		img, err := readImage(v.Get("image_url"))
		if err != nil {
			return p, under(err, "image_url")
		}
		return canon.Part{Kind: canon.PartImage, Image: img}, nil
	case "input_audio", "file", "video_url", "audio_url", "video":
		return p, cannot("type", "is %q, which cannot be translated: only text and image_url can", kind)
	}
	return p, bad("type", "must be text or image_url, not %q", clip(kind))
}

func readAssistantPart(kind string, v jsonx.Value) (p canon.Part, err *canon.Error) {
	if kind != "refusal" {
		return readText(kind, v)
	}
	text := v.Get("refusal")
	if text.Kind() != jsonx.String {
		return p, wrongKind("refusal", "a string", text)
	}
	return canon.Part{Kind: canon.PartRefusal, Text: text.Str()}, nil
}

// readAssistant reads an answer of the past: reasoning, content, refusal, tool calls.
func readAssistant(v jsonx.Value) ([]canon.Part, *canon.Error) {
	if !v.Get("function_call").Missing() {
		return nil, cannot("function_call", "is the legacy form of tool_calls and cannot be translated: use tool_calls")
	}
	if !v.Get("audio").Missing() {
		return nil, cannot("audio", "cannot be translated: send the transcript as content")
	}
	var parts []canon.Part
	for _, field := range [...]string{"reasoning_content", "reasoning"} { // one thing, two spellings
		text, err := optString(v.Get(field), field)
		if err != nil {
			return nil, err
		}
		if text != "" {
			parts = append(parts, canon.Part{Kind: canon.PartReasoning, Text: text})
			break
		}
	}
	content := v.Get("content")
	calls := v.Get("tool_calls")
	if !calls.Missing() && calls.Kind() != jsonx.Array {
		return nil, wrongKind("tool_calls", "an array", calls)
	}
	// An empty text beside tool calls says nothing, and other dialects refuse it.
	if !content.Missing() && (len(content) > 2 || calls.Missing()) {
		p, err := readContent(content, readAssistantPart)
		if err != nil {
			return nil, err
		}
		parts = append(parts, p...)
	}
	refusal, err := optString(v.Get("refusal"), "refusal")
	if err != nil {
		return nil, err
	}
	if refusal != "" {
		parts = append(parts, canon.Part{Kind: canon.PartRefusal, Text: refusal})
	}
	for i, e := range calls.Elements() {
		call, err := readToolCall(e)
		if err != nil {
			return nil, at(err, "tool_calls", i)
		}
		parts = append(parts, canon.Part{Kind: canon.PartToolCall, Call: call})
	}
	if len(parts) == 0 {
		return nil, wrongKind("content", "a string or an array of parts where there are no tool_calls", content)
	}
	return parts, nil
}

func readToolCall(v jsonx.Value) (*canon.ToolCall, *canon.Error) {
	f, err := functionOf(v)
	if err != nil {
		return nil, err
	}
	c := &canon.ToolCall{}
	if c.ID, err = reqString(v.Get("id"), "id"); err != nil {
		return nil, err
	}
	if c.Name, err = reqString(f.Get("name"), "function.name"); err != nil {
		return nil, err
	}
	args := f.Get("arguments")
	if args.Kind() != jsonx.String {
		return nil, wrongKind("function.arguments", "a string", args)
	}
	if c.Arguments = strings.TrimSpace(args.Str()); c.Arguments == "" {
		c.Arguments = "{}"
	}
	if !isObject(c.Arguments) {
		// A model that max_tokens cut off leaves such; a backend of this dialect may take it back.
		return nil, cannot("function.arguments", "must be the text of a JSON object")
	}
	return c, nil
}

// isObject reports whether s is the JSON text of an object.
func isObject(s string) bool {
	return strings.HasPrefix(s, "{") && jsonx.Check([]byte(s)) == nil
}

// readToolResult reads a tool message. Images are taken although OpenAI itself allows text alone:
// some compatible servers take them, and other dialects can say them.
func readToolResult(v jsonx.Value) ([]canon.Part, *canon.Error) {
	id, err := reqString(v.Get("tool_call_id"), "tool_call_id")
	if err != nil {
		return nil, err
	}
	parts, err := readContent(v.Get("content"), readUserPart)
	if err != nil {
		return nil, err
	}
	mark := false
	for i := range parts {
		mark = mark || parts[i].CacheMark
		parts[i].CacheMark = false
	}
	name, err := optString(v.Get("name"), "name")
	if err != nil {
		return nil, err
	}
	return []canon.Part{{
		Kind:      canon.PartToolResult,
		Result:    &canon.ToolResult{ID: id, Name: name, Parts: parts},
		CacheMark: mark,
	}}, nil
}

// pairResults checks that each tool message answers a call of the assistant message before it, and
// that each call is answered before the conversation goes on: every provider wants that, and says
// so in its own words otherwise. It gives each result the name of its tool.
func pairResults(messages []canon.Message) *canon.Error {
	var open []*canon.ToolCall // unanswered calls of the last assistant message
	var from int               // that message
	unanswered := func() *canon.Error {
		if len(open) == 0 {
			return nil
		}
		return bad(fmt.Sprintf("messages[%d].tool_calls", from),
			"must be followed by a tool message for each call: none answers %q", clip(open[0].ID))
	}
	for i := range messages {
		m := &messages[i]
		if m.Role == canon.RoleTool {
			res := m.Parts[0].Result
			call := take(&open, res.ID)
			if call == nil {
				return bad(fmt.Sprintf("messages[%d].tool_call_id", i),
					"is %q, which no unanswered call of the assistant message before it has", clip(res.ID))
			}
			res.Name = call.Name
			continue
		}
		if err := unanswered(); err != nil {
			return err
		}
		from = i
		for k := range m.Parts {
			if c := m.Parts[k].Call; c != nil {
				open = append(open, c)
			}
		}
	}
	return unanswered()
}

// take removes the call with that id from open.
func take(open *[]*canon.ToolCall, id string) *canon.ToolCall {
	for i, c := range *open {
		if c.ID == id {
			*open = append((*open)[:i], (*open)[i+1:]...)
			return c
		}
	}
	return nil
}
