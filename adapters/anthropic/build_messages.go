package anthropic

import (
	"fmt"
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// openingTurn is put before a conversation that begins with the assistant. Anthropic's
// documentation has the user speak first.
const openingTurn = "(The conversation begins with the assistant's message.)"

func isSystem(r canon.Role) bool { return r == canon.RoleSystem || r == canon.RoleDeveloper }

// planMessages looks at the conversation once before it is printed.
func (b *builder) planMessages() {
	msgs := b.req.Messages
	marks, turns, lastSystem := 0, 0, -1
	for i := range b.req.Tools {
		if b.req.Tools[i].CacheMark {
			marks++
		}
	}
	var final *canon.Message
	for i := range msgs {
		printed := false
		for j := range msgs[i].Parts {
			p := &msgs[i].Parts[j]
			if !b.printable(msgs[i].Role, p) {
				continue
			}
			printed = true
			if p.CacheMark && p.Kind != canon.PartReasoning {
				marks++
			}
		}
		switch {
		case !printed:
		case isSystem(msgs[i].Role):
			lastSystem = i
		default:
			turns++
			final = &msgs[i]
		}
		if msgs[i].Name != "" {
			b.Drop("messages.name")
		}
	}
	b.skipMarks = max(0, marks-maxCacheMarks)
	if turns == 0 {
		// A conversation of instructions alone: the last of them is what is asked.
		b.asUser = lastSystem
		if lastSystem < 0 {
			b.Fail("messages", "messages: there is no text, image or tool result in any message; at least one is required")
		}
	}
	if final != nil && final.Role == canon.RoleAssistant {
		for j := range final.Parts {
			if p := &final.Parts[j]; b.printable(final.Role, p) {
				b.trim = p
			}
		}
	}
}

// printable reports whether a part is said at all: Anthropic refuses blank text, and reasoning goes
// back only to who signed it.
func (b *builder) printable(role canon.Role, p *canon.Part) bool {
	switch p.Kind {
	case canon.PartText, canon.PartRefusal:
		return strings.TrimSpace(p.Text) != ""
	case canon.PartReasoning:
		return role == canon.RoleAssistant && ownSignature(p.Signature, p.Origin) != ""
	}
	return true
}

func (b *builder) anyPrintable(m *canon.Message) bool {
	for i := range m.Parts {
		if b.printable(m.Role, &m.Parts[i]) {
			return true
		}
	}
	return false
}

// system hoists every system and developer message, wherever it stands, to the one place that all
// models read; in order, one block for each text.
func (b *builder) system() {
	sep := `,"system":[`
	block := func(text string, mark bool) {
		b.Raw(sep)
		b.Raw(`{"type":"text","text":`)
		b.Str(text)
		b.mark(mark)
		b.Raw(`}`)
		sep = `,`
	}
	for i := range b.req.Messages {
		m := &b.req.Messages[i]
		if !isSystem(m.Role) || i == b.asUser {
			continue
		}
		for j := range m.Parts {
			p := &m.Parts[j]
			if p.Kind != canon.PartText {
				b.Fail(fmt.Sprintf("messages[%d].content", i), "messages[%d]: a system message can hold text only", i)
			} else if b.printable(m.Role, p) {
				block(p.Text, p.CacheMark)
			}
		}
	}
	if b.req.Format != nil && b.req.Format.Kind == canon.FormatJSON {
		block(jsonInstruction, false)
	}
	if sep == `,` {
		b.Raw(`]`)
	}
}

// messages prints the turns: successive messages of one side become one turn.
func (b *builder) messages() {
	msgs := b.req.Messages
	first := true
	for i := 0; i < len(msgs); {
		if !b.speaks(i) {
			i++
			continue
		}
		assistant := msgs[i].Role == canon.RoleAssistant
		end := i + 1 // after the last message of the turn
		for j := i + 1; j < len(msgs); j++ {
			if !b.speaks(j) {
				continue
			}
			if (msgs[j].Role == canon.RoleAssistant) != assistant {
				break
			}
			end = j + 1
		}
		if first && assistant {
			b.Raw(`{"role":"user","content":[{"type":"text","text":"` + openingTurn + `"}]},`)
		} else if !first {
			b.Raw(`,`)
		}
		first = false
		b.turn(assistant, i, end)
		i = end
	}
}

// speaks reports whether message i is part of a turn.
func (b *builder) speaks(i int) bool {
	m := &b.req.Messages[i]
	return (!isSystem(m.Role) || i == b.asUser) && b.anyPrintable(m)
}

// turn prints messages from..end as one. A user's turn has its tool results first: Anthropic wants
// them right behind the calls.
func (b *builder) turn(assistant bool, from, end int) {
	sep := `{"role":"user","content":[`
	if assistant {
		sep = `{"role":"assistant","content":[`
	}
	for _, results := range []bool{true, false} {
		for i := from; i < end; i++ {
			m := &b.req.Messages[i]
			if !b.speaks(i) {
				continue
			}
			for j := range m.Parts {
				p := &m.Parts[j]
				if (p.Kind == canon.PartToolResult) != results || !b.printable(m.Role, p) {
					continue
				}
				b.Raw(sep)
				sep = `,`
				b.part(i, assistant, p)
			}
		}
	}
	b.Raw(`]}`)
}

func (b *builder) part(i int, assistant bool, p *canon.Part) {
	switch p.Kind {
	case canon.PartText, canon.PartRefusal:
		text := p.Text
		if p == b.trim {
			text = strings.TrimRight(text, " \t\r\n") // refused at the end of what the model shall continue
		}
		b.Raw(`{"type":"text","text":`)
		b.Str(text)
	case canon.PartImage:
		if assistant {
			b.Fail(fmt.Sprintf("messages[%d].content", i), "messages[%d]: Anthropic takes images from the user only", i)
		}
		b.image(i, p.Image)
	case canon.PartReasoning:
		b.reasoning(p)
		return // takes no cache boundary
	case canon.PartToolCall:
		b.call(i, assistant, p.Call)
	case canon.PartToolResult:
		b.result(i, p.Result)
	}
	b.mark(p.CacheMark)
	b.Raw(`}`)
}

func (b *builder) image(i int, img *canon.Image) {
	if img == nil {
		b.Fail(fmt.Sprintf("messages[%d].content", i), "messages[%d]: an image without content", i)
		return
	}
	if img.Detail != "" && img.Detail != "auto" {
		b.Drop("image_url.detail")
	}
	if img.URL != "" {
		b.Raw(`{"type":"image","source":{"type":"url","url":`)
		b.Str(img.URL)
		b.Raw(`}`)
		return
	}
	mediaType := strings.ToLower(img.MediaType)
	if mediaType == "image/jpg" { // common, and no registered type
		mediaType = "image/jpeg"
	}
	if !knownImageType(mediaType) {
		b.Fail(fmt.Sprintf("messages[%d].content", i), "messages[%d]: Anthropic reads images of the types %s, not %q",
			i, strings.Join(imageTypes[:], ", "), img.MediaType)
	}
	b.Raw(`{"type":"image","source":{"type":"base64","media_type":`)
	b.Str(mediaType)
	b.Raw(`,"data":`)
	b.Str(img.Data)
	b.Raw(`}`)
}

func (b *builder) reasoning(p *canon.Part) {
	if data, ok := strings.CutPrefix(p.Signature, redactedPrefix); ok {
		b.Raw(`{"type":"redacted_thinking","data":`)
		b.Str(data)
		b.Raw(`}`)
		return
	}
	b.Raw(`{"type":"thinking","thinking":`)
	b.Str(p.Text)
	b.Raw(`,"signature":`)
	b.Str(p.Signature)
	b.Raw(`}`)
}

func (b *builder) call(i int, assistant bool, call *canon.ToolCall) {
	if call == nil || !assistant {
		b.Fail(fmt.Sprintf("messages[%d]", i), "messages[%d]: a tool call can stand in an assistant message only", i)
		return
	}
	b.Raw(`{"type":"tool_use","id":"`)
	b.Raw(b.ids.call(call.ID))
	b.Raw(`","name":`)
	b.Str(historyName(call.Name))
	b.Raw(`,"input":`)
	arguments := strings.TrimSpace(call.Arguments)
	if arguments == "" || arguments == "null" {
		b.Raw(`{}`)
		return
	}
	if err := jsonx.CheckString(arguments); err != nil || arguments[0] != '{' {
		why := "it is no JSON object"
		if err != nil {
			why = err.Error()
		}
		b.Fail(fmt.Sprintf("messages[%d].tool_calls", i),
			"messages[%d]: the arguments of the call to %q must be the text of a JSON object: %s", i, call.Name, why)
		return
	}
	b.Raw(arguments)
}

func (b *builder) result(i int, result *canon.ToolResult) {
	if result == nil {
		b.Fail(fmt.Sprintf("messages[%d]", i), "messages[%d]: a tool result without content", i)
		return
	}
	b.Raw(`{"type":"tool_result","tool_use_id":"`)
	b.Raw(b.ids.result(result.ID))
	b.Raw(`"`)
	sep := `,"content":[`
	for j := range result.Parts {
		p := &result.Parts[j]
		if !b.printable(canon.RoleTool, p) {
			continue
		}
		b.Raw(sep)
		sep = `,`
		if p.Kind == canon.PartImage {
			b.image(i, p.Image)
			b.Raw(`}`)
			continue
		}
		b.Raw(`{"type":"text","text":`)
		b.Str(p.Text)
		b.Raw(`}`)
	}
	if sep == `,` {
		b.Raw(`]`)
	}
	if result.IsError {
		b.Raw(`,"is_error":true`)
	}
}

// historyName makes the name in a past call acceptable. Models call tools that do not exist, and a
// conversation must survive it; a declared tool's name is valid and stays as it is.
func historyName(name string) string {
	if validName(name, maxToolName) {
		return name
	}
	out := []byte(name[:min(len(name), maxToolName)])
	for i, c := range out {
		if !nameByte(c) {
			out[i] = '_'
		}
	}
	if len(out) == 0 {
		return "_"
	}
	return string(out)
}
