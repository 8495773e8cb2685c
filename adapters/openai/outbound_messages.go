package openai

import (
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/internal/fields"
)

// messages prints the conversation.
//
// Tool messages carry text alone in this dialect, so the images of a tool's result follow in a user
// message of their own; it stands after the last tool message of the turn, because nothing may come
// between those.
func (b *builder) messages(messages []canon.Message) *canon.Error {
	var images []canon.Part // of the tool results of this turn
	first := true
	next := func() {
		if !first {
			b.Raw(",")
		}
		first = false
	}
	flush := func() {
		if len(images) == 0 {
			return
		}
		next()
		b.Raw(`{"role":"user","content":`)
		b.parts(images)
		b.Raw("}")
		images = nil
	}
	for i := range messages {
		m := &messages[i]
		if m.Role == canon.RoleTool {
			for k := range m.Parts {
				res := m.Parts[k].Result
				if res == nil {
					return fields.At(fields.Bad("", "has the role tool and a part that is no tool result"), "messages", i)
				}
				next()
				images = b.toolResult(res, images)
			}
			continue
		}
		flush()
		next()
		if err := b.message(m); err != nil {
			return fields.At(err, "messages", i)
		}
	}
	flush()
	return nil
}

// message prints a message of any role but tool.
func (b *builder) message(m *canon.Message) *canon.Error {
	b.Raw(`{"role":`)
	b.Str(string(m.Role))
	if m.Name != "" {
		b.Raw(`,"name":`)
		b.Str(m.Name)
	}
	var calls, said int
	var said0 *canon.Part
	for i := range m.Parts {
		p := &m.Parts[i]
		switch {
		case p.Kind == canon.PartReasoning:
			// The dialect has no way to return reasoning, and models do not want it back.
			b.Drop("messages[].reasoning")
			continue
		case p.Kind == canon.PartImage && m.Role != canon.RoleUser:
			return fields.Bad("content", "has an image in a message of the role %s: OpenAI takes images from the user alone", m.Role)
		case p.Kind == canon.PartToolResult,
			(p.Kind == canon.PartToolCall || p.Kind == canon.PartRefusal) && m.Role != canon.RoleAssistant:
			return fields.Bad("content", "has a part that a message of the role %s cannot have", m.Role)
		case p.Kind == canon.PartToolCall:
			calls++
			continue
		}
		if said0 == nil {
			said0 = p
		}
		said++
	}
	b.Raw(`,"content":`)
	switch {
	case said == 0 && calls > 0:
		b.Raw("null")
	case said == 0:
		b.Raw(`""`)
	case said == 1 && said0.Kind == canon.PartText: // the form that every server knows
		b.Str(said0.Text)
	default:
		b.parts(m.Parts)
	}
	if calls > 0 {
		b.toolCalls(m.Parts)
	}
	b.Raw("}")
	return nil
}

// parts prints texts, images and refusals as an array.
func (b *builder) parts(parts []canon.Part) {
	open := "["
	for i := range parts {
		p := &parts[i]
		switch p.Kind {
		case canon.PartText:
			b.Raw(open)
			b.Raw(`{"type":"text","text":`)
			b.Str(p.Text)
			b.Raw("}")
		case canon.PartRefusal:
			b.Raw(open)
			b.Raw(`{"type":"refusal","refusal":`)
			b.Str(p.Text)
			b.Raw("}")
		case canon.PartImage:
			b.Raw(open)
			b.image(p.Image)
		default:
			continue
		}
		open = ","
	}
	b.Raw("]")
}

func (b *builder) image(img *canon.Image) {
	b.Raw(`{"type":"image_url","image_url":{"url":`)
	if img.URL != "" {
		b.Str(img.URL)
	} else { // media type and base64 hold nothing that needs an escape
		b.Raw(`"data:`)
		b.Raw(img.MediaType)
		b.Raw(";base64,")
		b.Raw(img.Data)
		b.Raw(`"`)
	}
	if img.Detail != "" {
		b.Raw(`,"detail":`)
		b.Str(img.Detail)
	}
	b.Raw("}}")
}

func (b *builder) toolCalls(parts []canon.Part) {
	b.Raw(`,"tool_calls":`)
	open := "["
	for i := range parts {
		if parts[i].Kind != canon.PartToolCall {
			continue
		}
		b.Raw(open)
		open = ","
		b.Text = appendToolCall(b.Text, parts[i].Call)
	}
	b.Raw("]")
}

// toolResult prints a tool message and appends its images to those that wait. The dialect has no
// flag for a failed tool, so the text says it.
func (b *builder) toolResult(res *canon.ToolResult, images []canon.Part) []canon.Part {
	b.Raw(`{"role":"tool","tool_call_id":`)
	b.Str(res.ID)
	b.Raw(`,"content":`)
	var texts []canon.Part
	if res.IsError {
		texts = append(texts, canon.Part{Text: "Error: "})
	}
	pictures := 0
	for _, p := range res.Parts {
		switch p.Kind {
		case canon.PartText:
			texts = append(texts, p)
		case canon.PartImage:
			if pictures == 0 {
				images = append(images, canon.Part{Text: "Images in the result of tool call " + res.ID + ":"})
			}
			pictures++
			images = append(images, p)
		}
	}
	if pictures > 0 && len(res.Parts) == pictures {
		texts = append(texts, canon.Part{Text: "The result is the image in the next user message."})
	}
	switch {
	case len(texts) == 0:
		b.Raw(`""`)
	case len(texts) == 1 || res.IsError:
		b.Text = appendJoined(b.Text, texts, canon.PartText)
	default:
		b.parts(texts)
	}
	b.Raw("}")
	return images
}
