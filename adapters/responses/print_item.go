package responses

import (
	"strconv"
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// prefixes of the ids of items, by kind.
var prefixes = [...]string{KindMessage: "msg_", KindCall: "fc_", KindOutput: "fco_", KindReasoning: "rs_", KindReference: "msg_"}

// appendOutputID appends the id of the n-th item of an answer, without quotes. owner is the answer's id without its prefix.
func appendOutputID(dst []byte, kind Kind, owner string, n int) []byte {
	dst = append(dst, prefixes[kind]...)
	dst = jsonx.AppendEscaped(dst, owner)
	dst = append(dst, '_')
	return strconv.AppendInt(dst, int64(n), 10)
}

// InputID is the id of the n-th item that a request adds to what is kept under owner, an answer's id without its prefix.
func InputID(kind Kind, owner string, n int) string {
	return prefixes[kind] + owner + "_i" + strconv.Itoa(n)
}

// Owner is the owner in an item's id; ok is false for ids that are not made here.
func Owner(id string) (owner string, ok bool) {
	first, last := -1, -1
	for i := range len(id) {
		if id[i] == '_' {
			if first < 0 {
				first = i
			}
			last = i
		}
	}
	if first < 0 || last <= first+1 || last == len(id)-1 {
		return "", false
	}
	return id[first+1 : last], true
}

// AppendItems appends items as an array, in the form in which OpenAI lists them and ParseItems reads them.
func AppendItems(dst []byte, items []Item) []byte {
	dst = append(dst, '[')
	for i := range items {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = AppendItem(dst, &items[i])
	}
	return append(dst, ']')
}

// AppendItem appends an item as JSON.
func AppendItem(dst []byte, item *Item) []byte {
	dst = append(dst, `{"id":`...)
	dst = jsonx.AppendString(dst, item.ID)
	switch item.Kind {
	case KindMessage:
		dst = append(dst, `,"type":"message","status":"completed","role":`...)
		dst = jsonx.AppendString(dst, string(item.Role))
		dst = append(dst, `,"content":`...)
		dst = appendContent(dst, item.Parts, item.Role)
	case KindCall:
		c := item.Parts[0].Call
		dst = append(dst, `,"type":"function_call","status":"completed","arguments":`...)
		dst = jsonx.AppendString(dst, c.Arguments)
		dst = appendCallName(dst, c.ID, function{item.Space, strings.TrimPrefix(c.Name, inSpace(item.Space, ""))})
	case KindOutput:
		result := item.Parts[0].Result
		dst = append(dst, `,"type":"function_call_output","status":"completed","call_id":`...)
		dst = jsonx.AppendString(dst, result.ID)
		dst = append(dst, `,"output":`...)
		if len(result.Parts) == 1 && result.Parts[0].Kind == canon.PartText && !result.Parts[0].CacheMark {
			dst = jsonx.AppendString(dst, result.Parts[0].Text)
		} else {
			dst = appendContent(dst, result.Parts, canon.RoleTool)
		}
	case KindReasoning:
		dst = append(dst, `,"type":"reasoning","summary":[`...)
		if len(item.Parts) > 0 {
			p := &item.Parts[0]
			dst = append(dst, `{"type":"summary_text","text":`...)
			dst = jsonx.AppendString(dst, p.Text)
			dst = append(dst, '}')
			if p.Signature != "" {
				dst = append(dst, `],"encrypted_content":"`...)
				dst = seal(dst, p.Text, p.Signature, p.Origin)
				return append(dst, `"}`...)
			}
		}
		dst = append(dst, ']')
	case KindReference:
		dst = append(dst, `,"type":"item_reference"`...)
	}
	return append(dst, '}')
}

// appendCallName appends the members that every form of a call ends with, from the comma before them.
func appendCallName(dst []byte, callID string, f function) []byte {
	dst = append(dst, `,"call_id":`...)
	dst = jsonx.AppendString(dst, callID)
	return appendName(dst, f)
}

func appendName(dst []byte, f function) []byte {
	dst = append(dst, `,"name":`...)
	dst = jsonx.AppendString(dst, f.name)
	if f.space != "" {
		dst = append(dst, `,"namespace":`...)
		dst = jsonx.AppendString(dst, f.space)
	}
	return dst
}

func appendContent(dst []byte, parts []canon.Part, role canon.Role) []byte {
	dst = append(dst, '[')
	for i := range parts {
		if i > 0 {
			dst = append(dst, ',')
		}
		p := &parts[i]
		switch {
		case p.Kind == canon.PartImage:
			dst = appendImage(dst, p.Image)
		case p.Kind == canon.PartRefusal:
			dst = appendTextPart(dst, partRefusal, jsonx.AppendEscaped(nil, p.Text))
			continue
		case role == canon.RoleAssistant:
			dst = appendTextPart(dst, partText, jsonx.AppendEscaped(nil, p.Text))
			continue
		default:
			dst = append(dst, `{"type":"input_text","text":`...)
			dst = jsonx.AppendString(dst, p.Text)
		}
		if p.CacheMark {
			dst = append(dst, `,"prompt_cache_breakpoint":{"mode":"explicit"}`...)
		}
		dst = append(dst, '}')
	}
	return append(dst, ']')
}

// appendImage appends an image without its closing brace.
func appendImage(dst []byte, img *canon.Image) []byte {
	dst = append(dst, `{"type":"input_image","image_url":`...)
	if img.URL != "" {
		dst = jsonx.AppendString(dst, img.URL)
	} else { // media type and base64 hold nothing that needs an escape
		dst = append(dst, `"data:`...)
		dst = append(dst, img.MediaType...)
		dst = append(dst, ";base64,"...)
		dst = append(dst, img.Data...)
		dst = append(dst, '"')
	}
	detail := img.Detail
	if detail == "" {
		detail = "auto"
	}
	dst = append(dst, `,"detail":`...)
	return jsonx.AppendString(dst, detail)
}

// partKind is the kind of a piece of an answer's text.
type partKind uint8

const (
	partNone partKind = iota
	partText
	partRefusal
	partReasoning // the model's own words
	partSummary   // reasoning, where the caller asked for a summary
)

// appendTextPart appends a piece of text, given as the inside of a JSON string.
func appendTextPart(dst []byte, kind partKind, escaped []byte) []byte {
	switch kind {
	case partRefusal:
		dst = append(dst, `{"type":"refusal","refusal":"`...)
	case partReasoning:
		dst = append(dst, `{"type":"reasoning_text","text":"`...)
	case partSummary:
		dst = append(dst, `{"type":"summary_text","text":"`...)
	default:
		dst = append(dst, `{"type":"output_text","annotations":[],"logprobs":[],"text":"`...)
	}
	dst = append(dst, escaped...)
	return append(dst, `"}`...)
}
