package anthropic

import (
	"strconv"
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// readSystem makes the system prompt the first message.
func (p *parser) readSystem() *canon.Error {
	if p.system.Missing() || string(p.system) == `""` {
		return nil
	}
	parts, err := p.readContent(canon.RoleSystem, p.system)
	if err != nil {
		return within("system", err)
	}
	if len(parts) > 0 {
		p.req.Messages = append(p.req.Messages, canon.Message{Role: canon.RoleSystem, Parts: parts})
	}
	return nil
}

func (p *parser) readMessages() *canon.Error {
	switch p.messages.Kind() {
	case jsonx.None:
		return missing("messages")
	case jsonx.Array:
	default:
		return wrongKind("messages", "an array", p.messages)
	}
	count, empty := 0, false
	for i, v := range p.messages.Elements() {
		if empty {
			return within("messages", withinIndex(i-1, mustSay()))
		}
		if i == maxMessages {
			return invalid("messages", "at most %d messages are allowed", maxMessages)
		}
		var err *canon.Error
		if empty, err = p.readMessage(v); err != nil {
			return within("messages", withinIndex(i, err))
		}
		count++
	}
	if count == 0 {
		return invalid("messages", "at least one message is required")
	}
	return nil
}

// mustSay is the error of a message that says nothing.
func mustSay() *canon.Error {
	return invalid("content", "must not be empty; only a final assistant message may be")
}

// readMessage reads a message. Only the last one may be an empty one of the assistant's.
func (p *parser) readMessage(v jsonx.Value) (empty bool, err *canon.Error) {
	if v.Kind() != jsonx.Object {
		return false, wrongKind("", "an object", v)
	}
	f := v.Fields()
	word, err := text("role", f.Get("role"))
	if err != nil {
		return false, err
	}
	role, _ := canon.RoleOf(word)
	switch role {
	case canon.RoleUser, canon.RoleAssistant, canon.RoleSystem:
	default:
		return false, invalid("role", "must be user, assistant or system")
	}
	content := f.Get("content")
	if content == nil {
		return false, missing("content")
	}
	before := len(p.req.Messages)
	parts, err := p.readContent(role, content)
	if err != nil {
		return false, within("content", err)
	}
	if len(parts) > 0 {
		p.req.Messages = append(p.req.Messages, canon.Message{Role: role, Parts: parts})
	}
	empty = len(p.req.Messages) == before
	if empty && role != canon.RoleAssistant {
		return false, mustSay()
	}
	return empty, nil
}

// readContent reads a string or an array of blocks. Tool results become messages of their own, in
// front of what else their turn holds: that is the order in which they answer the calls.
func (p *parser) readContent(role canon.Role, v jsonx.Value) ([]canon.Part, *canon.Error) {
	switch v.Kind() {
	case jsonx.String:
		if s := v.Share(); s != "" {
			return []canon.Part{{Text: s}}, nil
		}
		return nil, nil
	case jsonx.Array:
	default:
		return nil, wrongKind("", "a string or an array of content blocks", v)
	}
	var parts []canon.Part
	for i, block := range v.Elements() {
		part, err := p.readBlock(role, block)
		if err != nil {
			return nil, withinIndex(i, err)
		}
		if part.Kind == canon.PartToolResult {
			p.req.Messages = append(p.req.Messages, canon.Message{Role: canon.RoleTool, Parts: []canon.Part{part}})
			continue
		}
		parts = append(parts, part)
	}
	return parts, nil
}

// roleToolResult stands for the inside of a tool_result in readBlock: which blocks are allowed
// depends on where they stand.
const roleToolResult = canon.RoleTool

func (p *parser) readBlock(role canon.Role, v jsonx.Value) (part canon.Part, err *canon.Error) {
	if v.Kind() != jsonx.Object {
		return part, wrongKind("", "an object", v)
	}
	f := v.Fields()
	kind, err := text("type", f.Get("type"))
	if err != nil {
		return part, err
	}
	if !blockAllowed(role, kind) {
		if role == roleToolResult {
			return part, invalid("type", "%q blocks cannot stand in a tool_result", kind)
		}
		return part, invalid("type", "%q blocks cannot stand in a message of role %s", kind, role)
	}
	switch kind {
	case "text":
		part.Text, err = text("text", f.Get("text"))
	case "image":
		part.Kind = canon.PartImage
		part.Image, err = readImage(f.Get("source"))
		if err != nil {
			err = within("source", err)
		}
	case "tool_use":
		part.Kind = canon.PartToolCall
		part.Call, err = readToolUse(&f)
	case "tool_result":
		part.Kind = canon.PartToolResult
		part.Result, part.CacheMark, err = p.readToolResult(&f)
	case "thinking":
		part.Kind = canon.PartReasoning
		err = readThinkingBlock(&f, &part)
	case "redacted_thinking":
		part.Kind, part.Origin = canon.PartReasoning, name
		part.Signature, err = text("data", f.Get("data"))
		part.Signature = redactedPrefix + part.Signature
	default:
		err = untranslatable("type", "the content block type "+strconv.Quote(kind))
	}
	if err != nil {
		return part, err
	}
	mark, err := cacheMark(f.Get("cache_control"))
	part.CacheMark = part.CacheMark || mark
	return part, err
}

// blockAllowed knows where each block may stand. Unknown ones may stand anywhere: they are refused
// as untranslatable, not as wrong.
func blockAllowed(role canon.Role, kind string) bool {
	switch kind {
	case "text":
		return true
	case "image":
		return role == canon.RoleUser || role == roleToolResult
	case "tool_result":
		return role == canon.RoleUser
	case "tool_use", "thinking", "redacted_thinking":
		return role == canon.RoleAssistant
	}
	return true
}

func readToolUse(f *jsonx.Fields) (*canon.ToolCall, *canon.Error) {
	call := &canon.ToolCall{}
	var err *canon.Error
	if call.ID, err = text("id", f.Get("id")); err != nil {
		return nil, err
	}
	if call.Name, err = text("name", f.Get("name")); err != nil {
		return nil, err
	}
	input := f.Get("input")
	if err := object("input", input); err != nil {
		return nil, err
	}
	call.Arguments = input.Text()
	return call, nil
}

func (p *parser) readToolResult(f *jsonx.Fields) (result *canon.ToolResult, mark bool, err *canon.Error) {
	result = &canon.ToolResult{}
	if result.ID, err = text("tool_use_id", f.Get("tool_use_id")); err != nil {
		return nil, false, err
	}
	isError, err := optionalBool("is_error", f.Get("is_error"))
	if err != nil {
		return nil, false, err
	}
	result.IsError = isError != nil && *isError
	content := f.Get("content")
	if content.Missing() {
		return result, false, nil
	}
	if result.Parts, err = p.readContent(roleToolResult, content); err != nil {
		return nil, false, within("content", err)
	}
	for i := range result.Parts {
		mark = mark || result.Parts[i].CacheMark
	}
	return result, mark, nil
}

// readThinkingBlock reads a thinking block. One without a signature was not made by Anthropic:
// other gateways write such blocks for other providers' reasoning. It has no Origin, so that it
// returns to none.
func readThinkingBlock(f *jsonx.Fields, part *canon.Part) *canon.Error {
	thinking, signature := f.Get("thinking"), f.Get("signature")
	if thinking.Kind() != jsonx.String {
		if thinking == nil {
			return missing("thinking")
		}
		return wrongKind("thinking", "a string", thinking)
	}
	if signature.Kind() != jsonx.String {
		if signature == nil {
			return missing("signature")
		}
		return wrongKind("signature", "a string", signature)
	}
	part.Text, part.Signature = thinking.Share(), signature.Share()
	if part.Signature != "" {
		part.Origin = name
	}
	return nil
}

func readImage(v jsonx.Value) (*canon.Image, *canon.Error) {
	if err := object("", v); err != nil {
		return nil, err
	}
	kind, err := text("type", v.Get("type"))
	if err != nil {
		return nil, err
	}
	img := &canon.Image{}
	switch kind {
	case "base64":
		if img.MediaType, err = text("media_type", v.Get("media_type")); err != nil {
			return nil, err
		}
		if !knownImageType(img.MediaType) {
			return nil, invalid("media_type", "must be one of %s", strings.Join(imageTypes[:], ", "))
		}
		if img.Data, err = text("data", v.Get("data")); err != nil {
			return nil, err
		}
		if !isBase64(img.Data) {
			return nil, invalid("data", "must be base64 (RFC 4648 section 4, padded, without line breaks)")
		}
	case "url":
		if img.URL, err = text("url", v.Get("url")); err != nil {
			return nil, err
		}
		if !isWebURL(img.URL) {
			return nil, invalid("url", "must be a URL that starts with https:// or http://")
		}
	case "file":
		return nil, untranslatable("type", "an image that was uploaded to Anthropic's Files API")
	default:
		return nil, invalid("type", "must be base64, url or file")
	}
	return img, nil
}

// isBase64 checks without decoding: images are megabytes, and only their envelope matters here.
func isBase64(s string) bool {
	body := strings.TrimRight(s, "=")
	if len(s)%4 != 0 || len(s)-len(body) > 2 {
		return false
	}
	for i := range len(body) {
		c := body[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '+' && c != '/' {
			return false
		}
	}
	return body != ""
}

// isWebURL accepts what can be handed on as an address. Weir itself never fetches it.
func isWebURL(s string) bool {
	rest, ok := strings.CutPrefix(s, "https://")
	if !ok {
		rest, ok = strings.CutPrefix(s, "http://")
	}
	return ok && rest != "" && strings.IndexFunc(rest, func(r rune) bool { return r <= ' ' || r == 0x7f }) < 0
}
