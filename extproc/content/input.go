package content

import (
	"slices"
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
)

// budget is what may still be kept of a direction. What does not fit is counted.
type budget struct {
	bytes int   // that are shown
	parts int   // that are shown
	slack int   // bytes behind what is shown, once
	cut   int64 // bytes that were left out
}

func (r *Rule) budget() budget { return budget{bytes: r.MaxBytes, parts: maxParts, slack: r.slack()} }

// take keeps the beginning of s as far as it fits, and something behind it for the expressions. ok is false where nothing is to be
// shown of it.
func (b *budget) take(s string) (t text, ok bool) {
	n := min(len(s), b.bytes)
	if b.parts == 0 {
		n = 0
	}
	b.bytes -= n
	keep := n
	if n < len(s) {
		b.cut += int64(len(s) - n)
		keep = min(len(s), n+b.slack)
	}
	if n == 0 && s != "" || b.parts == 0 {
		return text{}, false
	}
	b.slack -= keep - n
	b.parts--
	return text{raw: strings.Clone(s[:keep]), limit: n}, true // s may be a piece of a body of many MB
}

// name keeps a name or an ID, which counts as text.
func (b *budget) name(s string) text {
	n := min(len(s), maxName, b.bytes)
	b.bytes -= n
	if n == 0 {
		return text{}
	}
	return text{raw: strings.Clone(s[:min(len(s), 2*maxName)]), limit: n}
}

// read keeps parts of a message.
func (b *budget) read(list []canon.Part) (out []part) {
	for i := range list {
		p := &list[i]
		switch p.Kind {
		case canon.PartText, canon.PartRefusal, canon.PartReasoning:
			kind := partText
			switch {
			case p.Kind == canon.PartRefusal:
				kind = partRefusal
			case p.Kind == canon.PartReasoning:
				kind = partReasoning
			}
			if kind == partReasoning && p.Text == "" {
				continue // encrypted
			}
			if t, ok := b.take(p.Text); ok {
				out = append(out, part{kind: kind, text: t})
			}
		case canon.PartImage:
			if b.parts > 0 && p.Image != nil {
				b.parts--
				out = append(out, media(p.Image))
			}
		case canon.PartToolCall:
			if p.Call == nil || b.bytes == 0 {
				continue
			}
			x := part{kind: partCall, id: b.name(p.Call.ID), name: b.name(p.Call.Name)}
			if t, ok := b.take(p.Call.Arguments); ok {
				x.text = t
				out = append(out, x)
			}
		case canon.PartToolResult:
			if p.Result == nil {
				continue
			}
			x := part{kind: partCallResponse, id: b.name(p.Result.ID)}
			if x.parts = b.read(p.Result.Parts); len(x.parts) > 0 {
				out = append(out, x)
			}
		}
	}
	return out
}

// media is what is said of media: never what they show, nor where they are, since a URL may hold a key.
func media(i *canon.Image) part {
	p := part{kind: partMedia, modality: "image"}
	if len(i.MediaType) <= maxName {
		p.mimeType = strings.Clone(i.MediaType)
	}
	switch kind, _, _ := strings.Cut(i.MediaType, "/"); kind {
	case "audio", "video":
		p.modality = kind
	case "application", "text":
		p.modality = "document" // as for what is no image in a request that other dialects can say
	}
	p.size = len(strings.TrimRight(i.Data, "=")) * 3 / 4 // base64
	return p
}

// input is what a request says.
type input struct {
	messages []message
	system   []part
	cut      int64 // bytes of text that were left out
}

// readMessages keeps what there is room for. The end of a conversation says more than its beginning, which the spans of the requests
// before have: the last message comes first. apart says that the dialect has its system instructions apart from the messages;
// they get what is left.
func (r *Rule) readMessages(list []canon.Message, apart bool) *input {
	b := r.budget()
	first := 0
	for apart && first < len(list) && list[first].Role == canon.RoleSystem {
		first++
	}
	out := &input{}
	for _, m := range slices.Backward(list[first:]) {
		if parts := b.read(m.Parts); len(parts) > 0 {
			out.messages = append(out.messages, message{role: string(m.Role), parts: parts})
		}
	}
	slices.Reverse(out.messages)
	for i := range list[:first] {
		out.system = append(out.system, b.read(list[i].Parts)...)
	}
	out.cut = b.cut
	return out
}

// bytes that it holds, about.
func (in *input) bytes() int64 {
	n := held(in.system)
	for i := range in.messages {
		n += held(in.messages[i].parts)
	}
	return n
}

func held(parts []part) (n int64) {
	const beside = 192 // a part beside its text
	for i := range parts {
		p := &parts[i]
		n += int64(beside+len(p.text.raw)+len(p.id.raw)+len(p.name.raw)) + held(p.parts)
	}
	return n
}
