package dashscope

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// DashScope refuses a user's or a tool's message without text, which other providers take. Leaving
// it out would leave a call unanswered, or an answer as the last turn, so these stand in for it.
const (
	noOutput = "(no output)" // of a tool
	noText   = "(no text)"   // of the user
)

func isSystem(r canon.Role) bool { return r == canon.RoleSystem || r == canon.RoleDeveloper }

// messages prints input.messages: one system message in front, since Qwen's chat templates take
// none elsewhere, then the turns as they are.
func (b *builder) messages() {
	msgs := b.req.Messages
	sep := ""
	next := func() {
		b.Raw(sep)
		sep = ","
	}
	var system []canon.Part
	turns := 0
	for i := range msgs {
		if msgs[i].Name != "" {
			b.Drop("messages.name")
		}
		if !isSystem(msgs[i].Role) {
			if speaks(&msgs[i]) {
				turns++
			}
			continue
		}
		for _, p := range msgs[i].Parts {
			if p.Kind != canon.PartText {
				b.Fail(fmt.Sprintf("messages[%d].content", i), "messages[%d]: a system message can hold text only", i)
			}
			if p.Text != "" {
				system = append(system, p)
			}
		}
	}
	if len(msgs) == 0 || turns == 0 && len(system) == 0 {
		b.Fail("messages", "messages: at least one message with content is required")
	}
	if len(system) > 0 {
		next()
		if turns == 0 {
			// Instructions alone: they are what is asked.
			b.Raw(`{"role":"user","content":`)
		} else {
			b.Raw(`{"role":"system","content":`)
		}
		b.content(0, system)
		b.Raw(`}`)
	}
	var images []canon.Part // of tool results, which can hold text only
	for i := range msgs {
		m := &msgs[i]
		if isSystem(m.Role) || !speaks(m) {
			continue
		}
		if m.Role != canon.RoleTool && len(images) > 0 {
			next()
			b.toolImages(i, images)
			images = nil
		}
		switch m.Role {
		case canon.RoleTool:
			for j := range m.Parts {
				if m.Parts[j].Kind == canon.PartToolResult && m.Parts[j].Result != nil {
					next()
					images = b.result(m.Parts[j].Result, images)
				}
			}
		case canon.RoleAssistant:
			next()
			b.assistant(i, m.Parts)
		default:
			next()
			b.Raw(`{"role":"user","content":`)
			parts := m.Parts
			if !hasText(parts) && !hasImage(parts) {
				parts = []canon.Part{{Text: noText}}
			}
			b.content(i, parts)
			b.Raw(`}`)
		}
	}
	if len(images) > 0 {
		next()
		b.toolImages(len(msgs)-1, images)
	}
}

// speaks reports whether a message is said at all: a turn of the assistant's that holds neither text
// nor calls (an answer that was all reasoning, say) is not. Two turns of the user's in a row are
// taken.
func speaks(m *canon.Message) bool {
	return m.Role != canon.RoleAssistant || hasText(m.Parts) || slices.ContainsFunc(m.Parts, func(p canon.Part) bool {
		return p.Kind == canon.PartImage || p.Kind == canon.PartToolCall && p.Call != nil
	})
}

// toolImages hands the images of tool results on in a user message of their own.
func (b *builder) toolImages(i int, images []canon.Part) {
	b.Raw(`{"role":"user","content":`)
	b.content(i, append([]canon.Part{{Text: "The images that the tool returned:"}}, images...))
	b.Raw(`}`)
}

// content prints text and images: a string for the text service, an array of untyped parts for the
// multimodal one. Reasoning stays out: the API does not take it back.
func (b *builder) content(i int, parts []canon.Part) {
	if !b.multi {
		b.Str(joined(parts))
		return
	}
	sep := `[`
	for j := range parts {
		p := &parts[j]
		switch p.Kind {
		case canon.PartText, canon.PartRefusal:
			if p.Text == "" {
				continue
			}
			b.Raw(sep)
			b.Raw(`{"text":`)
			b.Str(p.Text)
		case canon.PartImage:
			b.Raw(sep)
			b.Raw(`{"image":`)
			b.image(i, p.Image)
		default:
			continue
		}
		if p.CacheMark {
			b.Raw(`,"cache_control":{"type":"ephemeral"}`)
		}
		b.Raw(`}`)
		sep = `,`
	}
	if sep == `[` {
		b.Raw(`[{"text":""}`) // beside calls; an array must not be empty
	}
	b.Raw(`]`)
}

// joined is the text of parts, one below the other.
func joined(parts []canon.Part) string {
	text, count := "", 0
	for i := range parts {
		if p := &parts[i]; isText(p) {
			text = p.Text
			count++
		}
	}
	if count < 2 {
		return text
	}
	var sb strings.Builder
	for i := range parts {
		if p := &parts[i]; isText(p) {
			if sb.Len() > 0 {
				sb.WriteByte('\n')
			}
			sb.WriteString(p.Text)
		}
	}
	return sb.String()
}

func isText(p *canon.Part) bool {
	return (p.Kind == canon.PartText || p.Kind == canon.PartRefusal) && p.Text != ""
}

func hasText(parts []canon.Part) bool {
	return slices.ContainsFunc(parts, func(p canon.Part) bool { return isText(&p) })
}

func (b *builder) image(i int, img *canon.Image) {
	switch {
	case img == nil || img.URL == "" && img.Data == "":
		b.Fail(fmt.Sprintf("messages[%d].content", i), "messages[%d]: an image without content", i)
	case img.URL != "":
		b.Str(img.URL)
	default:
		b.Raw(`"data:`)
		b.Text = jsonx.AppendEscaped(b.Text, img.MediaType)
		b.Raw(`;base64,`)
		b.Text = jsonx.AppendEscaped(b.Text, img.Data)
		b.Raw(`"`)
	}
	if img != nil && img.Detail != "" && img.Detail != "auto" {
		b.Drop("image_url.detail")
	}
}

func (b *builder) assistant(i int, parts []canon.Part) {
	b.Raw(`{"role":"assistant","content":`)
	b.content(i, parts)
	sep := `,"tool_calls":[`
	for j := range parts {
		p := &parts[j]
		if p.Kind == canon.PartImage {
			b.Fail(fmt.Sprintf("messages[%d].content", i), "messages[%d]: an assistant message can hold no image", i)
		}
		if p.Kind != canon.PartToolCall || p.Call == nil {
			continue
		}
		b.Raw(sep)
		sep = `,`
		b.Raw(`{"id":`)
		b.Str(p.Call.ID)
		b.Raw(`,"type":"function","function":{"name":`)
		b.Str(p.Call.Name)
		b.Raw(`,"arguments":`)
		b.arguments(p.Call.Arguments)
		b.Raw(`}}`)
	}
	if sep == `,` {
		b.Raw(`]`)
	}
	b.Raw(`}`)
}

// arguments prints a past call's arguments. Qwen's chat templates parse them, so that text which is
// no JSON (a model wrote it, it cannot be unwritten) is wrapped the way Alibaba's SDK does.
func (b *builder) arguments(text string) {
	switch {
	case strings.TrimSpace(text) == "":
		b.Raw(`"{}"`)
	case jsonx.CheckString(text) == nil:
		b.Str(text)
	default:
		b.Str(string(append(jsonx.AppendString([]byte(`{"_raw":`), text), '}')))
	}
}

// result prints a tool message and collects the images of it.
func (b *builder) result(r *canon.ToolResult, images []canon.Part) []canon.Part {
	text := joined(r.Parts)
	switch {
	case text != "":
	case hasImage(r.Parts):
		text = "(an image, in a message below)"
	default:
		text = noOutput
	}
	if r.IsError {
		text = "Error: " + text // there is no field for it
	}
	for i := range r.Parts {
		if r.Parts[i].Kind == canon.PartImage {
			images = append(images, r.Parts[i])
		}
	}
	b.Raw(`{"role":"tool","tool_call_id":`)
	b.Str(r.ID)
	if r.Name != "" {
		b.Raw(`,"name":`)
		b.Str(r.Name)
	}
	b.Raw(`,"content":`)
	b.content(0, []canon.Part{{Text: text}})
	b.Raw(`}`)
	return images
}
