package content

import (
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// Requests that canon has no form for, because they are not translated: of all of them the text is read and nothing is
// judged. Source: OpenAI's API reference of responses, completions and embeddings.

// readBody reads the body of such a request; nil where it holds no text that can be read.
func readBody(op canon.Operation, body []byte) []canon.Message {
	if jsonx.Check(body) != nil {
		return nil
	}
	root := jsonx.Root(body)
	switch op {
	case canon.OpResponses:
		var out []canon.Message
		if s := root.Get("instructions"); s.Kind() == jsonx.String {
			out = append(out, turn(canon.RoleSystem, canon.Part{Text: s.Str()}))
		}
		return append(out, readItems(root.Get("input"))...)
	case canon.OpCompletions:
		return readTexts(root.Get("prompt"))
	case canon.OpEmbeddings:
		return readTexts(root.Get("input"))
	}
	return nil
}

func turn(role canon.Role, p ...canon.Part) canon.Message {
	return canon.Message{Role: role, Parts: p}
}

// readTexts reads a text or a list of them. Lists of tokens are no text.
func readTexts(v jsonx.Value) (out []canon.Message) {
	if v.Kind() == jsonx.String {
		return []canon.Message{turn(canon.RoleUser, canon.Part{Text: v.Str()})}
	}
	for _, e := range v.Elements() {
		if e.Kind() == jsonx.String {
			out = append(out, turn(canon.RoleUser, canon.Part{Text: e.Str()}))
		}
	}
	return out
}

// readItems reads the input of a response: a text, or items.
func readItems(v jsonx.Value) (out []canon.Message) {
	if v.Kind() == jsonx.String {
		return readTexts(v)
	}
	for _, item := range v.Elements() {
		switch kind := item.Get("type").Str(); kind {
		case "", "message":
			role := canon.Role(item.Get("role").Str())
			switch role {
			case canon.RoleSystem, canon.RoleDeveloper, canon.RoleUser, canon.RoleAssistant:
				out = append(out, turn(role, readParts(item.Get("content"))...))
			}
		case "function_call", "custom_tool_call":
			out = append(out, turn(canon.RoleAssistant, callOf(item)))
		case "function_call_output", "custom_tool_call_output":
			out = append(out, turn(canon.RoleTool, canon.Part{Kind: canon.PartToolResult,
				Result: &canon.ToolResult{ID: item.Get("call_id").Str(), Parts: readParts(item.Get("output"))}}))
		case "reasoning":
			out = append(out, turn(canon.RoleAssistant, reasoningOf(item)...))
		}
	}
	return out
}

// callOf reads an item that calls a tool.
func callOf(item jsonx.Value) canon.Part {
	arguments := item.Get("arguments").Str()
	if arguments == "" {
		arguments = item.Get("input").Str()
	}
	return canon.Part{Kind: canon.PartToolCall, Call: &canon.ToolCall{
		ID: item.Get("call_id").Str(), Name: item.Get("name").Str(), Arguments: arguments,
	}}
}

// reasoningOf reads the readable parts of a reasoning item.
func reasoningOf(item jsonx.Value) (out []canon.Part) {
	for _, field := range [...]string{"summary", "content"} {
		for _, e := range item.Get(field).Elements() {
			if t := e.Get("text").Str(); t != "" {
				out = append(out, canon.Part{Kind: canon.PartReasoning, Text: t})
			}
		}
	}
	return out
}

// readParts reads a content: a text or an array of parts.
func readParts(v jsonx.Value) (out []canon.Part) {
	if v.Kind() == jsonx.String {
		return []canon.Part{{Text: v.Str()}}
	}
	for _, e := range v.Elements() {
		switch kind := e.Get("type").Str(); kind {
		case "input_text", "output_text", "text", "summary_text":
			out = append(out, canon.Part{Text: e.Get("text").Str()})
		case "refusal":
			out = append(out, canon.Part{Kind: canon.PartRefusal, Text: e.Get("refusal").Str()})
		case "input_image":
			out = append(out, mediaOf(e.Get("image_url").Str(), ""))
		case "input_file":
			out = append(out, mediaOf(e.Get("file_data").Str(), "application/octet-stream"))
		case "input_audio":
			out = append(out, mediaOf(e.Get("input_audio").Get("data").Str(), "audio/"+e.Get("input_audio").Get("format").Str()))
		}
	}
	return out
}

// mediaOf reads media that are given as a data URL, in base64, or by an address.
func mediaOf(s, mimeType string) canon.Part {
	i := &canon.Image{MediaType: mimeType}
	if rest, ok := strings.CutPrefix(s, "data:"); ok {
		head, data, _ := strings.Cut(rest, ",")
		i.MediaType, _, _ = strings.Cut(head, ";")
		i.Data = data
	} else if !strings.Contains(s, "://") {
		i.Data = s
	}
	return canon.Part{Kind: canon.PartImage, Image: i}
}
