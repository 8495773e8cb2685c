package responses

import (
	"encoding/base64"
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/internal/fields"
	"github.com/weir-dev/weir/adapters/jsonx"
	"github.com/weir-dev/weir/adapters/openai"
)

// readContent reads a content that is a string or an array of parts; that of RoleTool is a function's output.
func readContent(v jsonx.Value, field string, role canon.Role) ([]canon.Part, *canon.Error) {
	switch v.Kind() {
	case jsonx.String:
		return []canon.Part{{Text: v.Share()}}, nil
	case jsonx.Array:
	default:
		return nil, fields.WrongKind(field, "a string or an array of parts", v)
	}
	parts := make([]canon.Part, 0, 1) // which is usual
	for i, e := range v.Elements() {
		p, err := readPart(e, role)
		if err != nil {
			return nil, fields.At(err, field, i)
		}
		parts = append(parts, p)
	}
	if len(parts) == 0 && role != canon.RoleAssistant {
		return nil, fields.Bad(field, "must not be an empty array")
	}
	return parts, nil
}

func readPart(v jsonx.Value, role canon.Role) (p canon.Part, err *canon.Error) {
	if v.Kind() != jsonx.Object {
		return p, fields.WrongKind("", "an object", v)
	}
	f := v.Fields()
	kind, err := fields.ReqString(f.Get("type"), "type")
	if err != nil {
		return p, err
	}
	field := "text"
	switch kind {
	case "input_text", "output_text", "text":
	case "refusal":
		if role != canon.RoleAssistant {
			return p, fields.Bad("type", "is refusal, which only an assistant's message can have")
		}
		field, p.Kind = "refusal", canon.PartRefusal
	case "input_image":
		return readImage(&f, role)
	case "input_file", "input_audio", "computer_screenshot":
		return p, fields.Cannot("type", "is %q, which cannot be translated: input_text and input_image can", kind)
	default:
		return p, fields.Bad("type", "must be input_text, input_image, output_text or refusal, not %q", fields.Clip(kind))
	}
	text := f.Get(field)
	if text.Kind() != jsonx.String {
		return p, fields.WrongKind(field, "a string", text)
	}
	p.Text = text.Share()
	p.CacheMark = f.Get("prompt_cache_breakpoint").Kind() == jsonx.Object
	return p, nil
}

func readImage(f *jsonx.Fields, role canon.Role) (p canon.Part, err *canon.Error) {
	if role != canon.RoleUser && role != canon.RoleTool {
		return p, fields.Bad("type", "is input_image, which a message of the role %s cannot have", role)
	}
	if !f.Get("file_id").Missing() {
		return p, fields.Cannot("file_id", "means a file kept at OpenAI, which cannot be translated: send the image by image_url")
	}
	link, err := fields.ReqString(f.Get("image_url"), "image_url")
	if err != nil {
		return p, err
	}
	detail, err := fields.OptString(f.Get("detail"), "detail")
	if err != nil {
		return p, err
	}
	img, err := openai.ParseImage(link, detail)
	if err != nil {
		if err.Param == "url" {
			err.Param = "image_url"
		}
		return p, err
	}
	return canon.Part{Kind: canon.PartImage, Image: img, CacheMark: f.Get("prompt_cache_breakpoint").Kind() == jsonx.Object}, nil
}

// readReasoning reads reasoning that comes back. What another dialect signed is in encrypted_content, sealed by seal; what OpenAI
// encrypted nobody else can read, and is left out.
func readReasoning(item *Item, f *jsonx.Fields) *canon.Error {
	item.Kind = KindReasoning
	sealed, err := fields.OptString(f.Get("encrypted_content"), "encrypted_content")
	if err != nil {
		return err
	}
	if p, ok := unseal(sealed); ok {
		item.Parts = []canon.Part{p}
		return nil
	}
	var text strings.Builder
	for _, field := range [...]string{"summary", "content"} {
		v := f.Get(field)
		if v.Missing() {
			continue
		}
		if v.Kind() != jsonx.Array {
			return fields.WrongKind(field, "an array", v)
		}
		for i, e := range v.Elements() {
			t := e.Get("text")
			if t.Kind() != jsonx.String {
				return fields.At(fields.WrongKind("text", "a string", t), field, i)
			}
			text.WriteString(t.Share())
		}
	}
	if text.Len() > 0 {
		item.Parts = []canon.Part{{Kind: canon.PartReasoning, Text: text.String()}}
	}
	return nil
}

// sealPrefix marks reasoning that Weir packed.
const sealPrefix = "weir1."

// seal packs signed reasoning for a caller to keep, whole: callers return encrypted_content and may leave the rest of the item out. It
// hides nothing, and need not: the signature is its signer's, who checks it.
func seal(dst []byte, text, signature, origin string) []byte {
	inner := jsonx.AppendString([]byte(`{"o":`), origin)
	inner = jsonx.AppendString(append(inner, `,"s":`...), signature)
	inner = jsonx.AppendString(append(inner, `,"t":`...), text)
	inner = append(inner, '}')
	return base64.RawURLEncoding.AppendEncode(append(dst, sealPrefix...), inner)
}

func unseal(s string) (p canon.Part, ok bool) {
	packed, ok := strings.CutPrefix(s, sealPrefix)
	if !ok {
		return p, false
	}
	inner, err := base64.RawURLEncoding.DecodeString(packed)
	if err != nil || jsonx.Check(inner) != nil {
		return p, false
	}
	v := jsonx.Root(inner)
	p = canon.Part{Kind: canon.PartReasoning, Text: v.Get("t").Share(), Signature: v.Get("s").Share(), Origin: v.Get("o").Share()}
	return p, p.Signature != "" && p.Origin != ""
}
