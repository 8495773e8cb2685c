package session

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
)

// Messages are turns of a conversation as they are kept: JSON of a form of its own, which outlives changes of canon's.
type Messages []canon.Message

type keptMessage struct {
	Role  canon.Role `json:"role"`
	Name  string     `json:"name,omitempty"`
	Parts []keptPart `json:"parts"`
}

type keptPart struct {
	Type      string      `json:"type"`
	Text      string      `json:"text,omitempty"`
	Image     *keptImage  `json:"image,omitempty"`
	Call      *keptCall   `json:"call,omitempty"`
	Result    *keptResult `json:"result,omitempty"`
	Signature string      `json:"signature,omitempty"`
	Origin    string      `json:"origin,omitempty"`
}

type keptImage struct {
	URL       string `json:"url,omitempty"`
	MediaType string `json:"mediaType,omitempty"`
	Data      string `json:"data,omitempty"`
	Detail    string `json:"detail,omitempty"`
}

type keptCall struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

type keptResult struct {
	ID      string     `json:"id"`
	Name    string     `json:"name,omitempty"`
	Parts   []keptPart `json:"parts,omitempty"`
	IsError bool       `json:"isError,omitempty"`
}

func kindWord(k canon.PartKind) string {
	switch k {
	case canon.PartImage:
		return "image"
	case canon.PartToolCall:
		return "call"
	case canon.PartToolResult:
		return "result"
	case canon.PartReasoning:
		return "reasoning"
	case canon.PartRefusal:
		return "refusal"
	}
	return "text"
}

func kindOf(word string) (canon.PartKind, bool) {
	for _, k := range [...]canon.PartKind{canon.PartText, canon.PartImage, canon.PartToolCall, canon.PartToolResult, canon.PartReasoning, canon.PartRefusal} {
		if kindWord(k) == word {
			return k, true
		}
	}
	return 0, false
}

// MarshalJSON implements json.Marshaler. Marks of prompt caches are not kept: how many there may be is the request's business.
func (m Messages) MarshalJSON() ([]byte, error) {
	out := make([]keptMessage, len(m))
	for i := range m {
		out[i] = keptMessage{Role: m[i].Role, Name: m[i].Name, Parts: keep(m[i].Parts)}
	}
	return json.Marshal(out)
}

func keep(parts []canon.Part) []keptPart {
	out := make([]keptPart, len(parts))
	for i := range parts {
		p := &parts[i]
		out[i] = keptPart{Type: kindWord(p.Kind), Text: p.Text, Signature: p.Signature, Origin: p.Origin}
		if p.Image != nil {
			k := keptImage(*p.Image)
			out[i].Image = &k
		}
		if p.Call != nil {
			k := keptCall(*p.Call)
			out[i].Call = &k
		}
		if r := p.Result; r != nil {
			out[i].Result = &keptResult{ID: r.ID, Name: r.Name, Parts: keep(r.Parts), IsError: r.IsError}
		}
	}
	return out
}

// UnmarshalJSON implements json.Unmarshaler.
func (m *Messages) UnmarshalJSON(b []byte) error {
	var in []keptMessage
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	out := make(Messages, len(in))
	for i := range in {
		if _, ok := canon.RoleOf(string(in[i].Role)); !ok {
			return fmt.Errorf("message %d of a session has the role %q, which there is not", i, in[i].Role)
		}
		parts, err := unkeep(in[i].Parts, 0)
		if err != nil {
			return err
		}
		out[i] = canon.Message{Role: in[i].Role, Name: in[i].Name, Parts: parts}
	}
	*m = out
	return nil
}

func unkeep(in []keptPart, depth int) ([]canon.Part, error) {
	out := make([]canon.Part, len(in))
	for i := range in {
		k := &in[i]
		kind, ok := kindOf(k.Type)
		if !ok || (kind == canon.PartImage) != (k.Image != nil) || (kind == canon.PartToolCall) != (k.Call != nil) || (kind == canon.PartToolResult) != (k.Result != nil) || depth > 1 {
			return nil, fmt.Errorf("a part of a message of a session is of the type %q and does not hold what that has", k.Type)
		}
		out[i] = canon.Part{Kind: kind, Text: k.Text, Signature: k.Signature, Origin: k.Origin}
		if k.Image != nil {
			v := canon.Image(*k.Image)
			out[i].Image = &v
		}
		if k.Call != nil {
			v := canon.ToolCall(*k.Call)
			out[i].Call = &v
		}
		if r := k.Result; r != nil {
			parts, err := unkeep(r.Parts, depth+1)
			if err != nil {
				return nil, err
			}
			out[i].Result = &canon.ToolResult{ID: r.ID, Name: r.Name, Parts: parts, IsError: r.IsError}
		}
	}
	return out, nil
}

// maxText of what is said that rules and models look at, in bytes. The beginning is looked at.
const maxText = 64 << 10

// textOf is what messages of a role say, in lines.
func textOf(list []canon.Message, role canon.Role) string {
	var b strings.Builder
	for i := range list {
		if list[i].Role != role {
			continue
		}
		for j := range list[i].Parts {
			p := &list[i].Parts[j]
			if p.Text == "" || p.Kind != canon.PartText && p.Kind != canon.PartRefusal {
				continue
			}
			if b.Len() > 0 {
				b.WriteByte('\n')
			}
			b.WriteString(p.Text)
			if b.Len() >= maxText {
				return strings.ToValidUTF8(b.String()[:maxText], "")
			}
		}
	}
	return b.String()
}

// leadingResults are the IDs of the calls that the first messages answer.
func leadingResults(list []canon.Message) (ids []string) {
	for i := range list {
		if list[i].Role != canon.RoleTool {
			break
		}
		for j := range list[i].Parts {
			if r := list[i].Parts[j].Result; r != nil {
				ids = append(ids, r.ID)
			}
		}
	}
	return ids
}

// callsAny says whether the messages hold a call of one of the IDs.
func callsAny(list []canon.Message, ids []string) bool {
	for i := range list {
		for j := range list[i].Parts {
			if c := list[i].Parts[j].Call; c != nil {
				for _, id := range ids {
					if id == c.ID {
						return true
					}
				}
			}
		}
	}
	return false
}

// bytesPerToken is how text is counted where nobody has counted it: about what the tokenizers of today do with English.
const bytesPerToken = 4

// tokensOf estimates the tokens of messages.
func tokensOf(list []canon.Message) (n int64) {
	for i := range list {
		n += 4 + tokensOfParts(list[i].Parts)
	}
	return n
}

// imageTokens of an image, which depend on its size in pixels and on the model: a usual one.
const imageTokens = 800

func tokensOfParts(parts []canon.Part) (n int64) {
	for i := range parts {
		p := &parts[i]
		n += textTokens(p.Text)
		switch {
		case p.Image != nil:
			n += imageTokens
		case p.Call != nil:
			n += 8 + textTokens(p.Call.Name) + textTokens(p.Call.Arguments)
		case p.Result != nil:
			n += 8 + tokensOfParts(p.Result.Parts)
		}
	}
	return n
}

// textTokens counts letters beyond Latin, Greek and Cyrillic as one each.
func textTokens(s string) int64 {
	small, large := 0, 0
	for _, r := range s {
		if r < 0x800 {
			small++
		} else {
			large++
		}
	}
	return int64((small+bytesPerToken-1)/bytesPerToken + large)
}
