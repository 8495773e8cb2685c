package openai

import (
	"fmt"
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/internal/fields"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// usualMessages is room for most conversations.
const usualMessages = 8

// readMessages reads the conversation.
func (q *request) readMessages(r *canon.Request) *canon.Error {
	if q.messages.Kind() != jsonx.Array {
		return fields.WrongKind("messages", "an array", q.messages)
	}
	r.Messages = make([]canon.Message, 0, usualMessages)
	for i, v := range q.messages.Elements() {
		m, err := readMessage(v)
		if err != nil {
			return fields.At(err, "messages", i)
		}
		r.Messages = append(r.Messages, m)
	}
	if len(r.Messages) == 0 {
		return fields.Bad("messages", "must not be empty")
	}
	return pairResults(r.Messages)
}

func readMessage(v jsonx.Value) (m canon.Message, err *canon.Error) {
	if v.Kind() != jsonx.Object {
		return m, fields.WrongKind("", "an object", v)
	}
	f := v.Fields()
	role, err := fields.ReqString(f.Get("role"), "role")
	if err != nil {
		return m, err
	}
	var known bool
	if m.Role, known = canon.RoleOf(role); !known {
		if role == "function" {
			return m, fields.Cannot("role", `is "function", the legacy form of "tool", and cannot be translated: use tool`)
		}
		return m, fields.Bad("role", "must be developer, system, user, assistant or tool, not %q", fields.Clip(role))
	}
	if m.Name, err = fields.OptString(f.Get("name"), "name"); err != nil {
		return m, err
	}
	switch m.Role {
	case canon.RoleSystem, canon.RoleDeveloper, canon.RoleUser:
		m.Parts, err = readContent(f.Get("content"), m.Role)
	case canon.RoleAssistant:
		m.Parts, err = readAssistant(&f)
	case canon.RoleTool:
		m.Parts, err = readToolResult(&f)
	}
	return m, err
}

// readContent reads a content that is a string or an array of parts.
func readContent(v jsonx.Value, role canon.Role) ([]canon.Part, *canon.Error) {
	switch v.Kind() {
	case jsonx.String:
		return []canon.Part{{Text: v.Share()}}, nil
	case jsonx.Array:
	default:
		return nil, fields.WrongKind("content", "a string or an array of parts", v)
	}
	parts := make([]canon.Part, 0, 1) // which is usual
	for i, e := range v.Elements() {
		if e.Kind() != jsonx.Object {
			return nil, fields.At(fields.WrongKind("", "an object", e), "content", i)
		}
		f := e.Fields()
		kind, err := fields.ReqString(f.Get("type"), "type")
		if err != nil {
			return nil, fields.At(err, "content", i)
		}
		p, err := readPart(role, kind, &f)
		if err != nil {
			return nil, fields.At(err, "content", i)
		}
		p.CacheMark = marked(&f)
		parts = append(parts, p)
	}
	if len(parts) == 0 {
		return nil, fields.Bad("content", "must not be an empty array")
	}
	return parts, nil
}

// readPart reads a part of a content, of those that a message of the role may have.
func readPart(role canon.Role, kind string, f *jsonx.Fields) (canon.Part, *canon.Error) {
	switch role {
	case canon.RoleUser, canon.RoleTool:
		return readUserPart(kind, f)
	case canon.RoleAssistant:
		return readAssistantPart(kind, f)
	}
	return readText(kind, f)
}

func readText(kind string, f *jsonx.Fields) (p canon.Part, err *canon.Error) {
	if kind != "text" {
		return p, fields.Bad("type", "is %q, but only text is allowed in a message of this role", fields.Clip(kind))
	}
	text := f.Get("text")
	if text.Kind() != jsonx.String {
		return p, fields.WrongKind("text", "a string", text)
	}
	return canon.Part{Text: text.Share()}, nil
}

func readUserPart(kind string, f *jsonx.Fields) (p canon.Part, err *canon.Error) {
	switch kind {
	case "text":
		return readText(kind, f)
	case "image_url":
		img, err := readImage(f.Get("image_url"))
		if err != nil {
			return p, fields.Under(err, "image_url")
		}
		return canon.Part{Kind: canon.PartImage, Image: img}, nil
	case "input_audio", "file", "video_url", "audio_url", "video":
		return p, fields.Cannot("type", "is %q, which cannot be translated: only text and image_url can", kind)
	}
	return p, fields.Bad("type", "must be text or image_url, not %q", fields.Clip(kind))
}

func readAssistantPart(kind string, f *jsonx.Fields) (p canon.Part, err *canon.Error) {
	if kind != "refusal" {
		return readText(kind, f)
	}
	text := f.Get("refusal")
	if text.Kind() != jsonx.String {
		return p, fields.WrongKind("refusal", "a string", text)
	}
	return canon.Part{Kind: canon.PartRefusal, Text: text.Share()}, nil
}

// readAssistant reads an answer of the past: reasoning, content, refusal, tool calls.
func readAssistant(f *jsonx.Fields) ([]canon.Part, *canon.Error) {
	if !f.Get("function_call").Missing() {
		return nil, fields.Cannot("function_call", "is the legacy form of tool_calls and cannot be translated: use tool_calls")
	}
	if !f.Get("audio").Missing() {
		return nil, fields.Cannot("audio", "cannot be translated: send the transcript as content")
	}
	var parts []canon.Part
	for _, field := range [...]string{"reasoning_content", "reasoning"} { // one thing, two spellings
		text, err := fields.OptString(f.Get(field), field)
		if err != nil {
			return nil, err
		}
		if text != "" {
			parts = append(parts, canon.Part{Kind: canon.PartReasoning, Text: text})
			break
		}
	}
	content := f.Get("content")
	calls := f.Get("tool_calls")
	if !calls.Missing() && calls.Kind() != jsonx.Array {
		return nil, fields.WrongKind("tool_calls", "an array", calls)
	}
	// An empty text beside tool calls says nothing, and other dialects refuse it.
	if !content.Missing() && (len(content) > 2 || calls.Missing()) {
		p, err := readContent(content, canon.RoleAssistant)
		if err != nil {
			return nil, err
		}
		parts = append(parts, p...)
	}
	refusal, err := fields.OptString(f.Get("refusal"), "refusal")
	if err != nil {
		return nil, err
	}
	if refusal != "" {
		parts = append(parts, canon.Part{Kind: canon.PartRefusal, Text: refusal})
	}
	for i, e := range calls.Elements() {
		call, err := readToolCall(e)
		if err != nil {
			return nil, fields.At(err, "tool_calls", i)
		}
		parts = append(parts, canon.Part{Kind: canon.PartToolCall, Call: call})
	}
	if len(parts) == 0 {
		return nil, fields.WrongKind("content", "a string or an array of parts where there are no tool_calls", content)
	}
	return parts, nil
}

func readToolCall(v jsonx.Value) (*canon.ToolCall, *canon.Error) {
	outer, f, err := functionOf(v)
	if err != nil {
		return nil, err
	}
	c := &canon.ToolCall{}
	if c.ID, err = fields.ReqString(outer.Get("id"), "id"); err != nil {
		return nil, err
	}
	if c.Name, err = fields.ReqString(f.Get("name"), "function.name"); err != nil {
		return nil, err
	}
	args := f.Get("arguments")
	if args.Kind() != jsonx.String {
		return nil, fields.WrongKind("function.arguments", "a string", args)
	}
	if c.Arguments = strings.TrimSpace(args.Share()); c.Arguments == "" {
		c.Arguments = "{}"
	}
	if !isObject(c.Arguments) {
		// A model that max_tokens cut off leaves such; a backend of this dialect may take it back.
		return nil, fields.Cannot("function.arguments", "must be the text of a JSON object")
	}
	return c, nil
}

// isObject reports whether s is the JSON text of an object.
func isObject(s string) bool {
	return strings.HasPrefix(s, "{") && jsonx.CheckString(s) == nil
}

// readToolResult reads a tool message. Images are taken although OpenAI itself allows text alone:
// some compatible servers take them, and other dialects can say them.
func readToolResult(f *jsonx.Fields) ([]canon.Part, *canon.Error) {
	id, err := fields.ReqString(f.Get("tool_call_id"), "tool_call_id")
	if err != nil {
		return nil, err
	}
	parts, err := readContent(f.Get("content"), canon.RoleTool)
	if err != nil {
		return nil, err
	}
	mark := false
	for i := range parts {
		mark = mark || parts[i].CacheMark
		parts[i].CacheMark = false
	}
	name, err := fields.OptString(f.Get("name"), "name")
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
		return fields.Bad(fmt.Sprintf("messages[%d].tool_calls", from),
			"must be followed by a tool message for each call: none answers %q", fields.Clip(open[0].ID))
	}
	for i := range messages {
		m := &messages[i]
		if m.Role == canon.RoleTool {
			res := m.Parts[0].Result
			call := take(&open, res.ID)
			if call == nil {
				return fields.Bad(fmt.Sprintf("messages[%d].tool_call_id", i),
					"is %q, which no unanswered call of the assistant message before it has", fields.Clip(res.ID))
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
