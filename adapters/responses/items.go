package responses

import (
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/internal/fields"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// Kind is the kind of an Item.
type Kind uint8

// The kinds that can be carried.
const (
	KindMessage   Kind = iota // Role, Parts
	KindCall                  // one part: the call
	KindOutput                // one part: the result
	KindReasoning             // one part, or none where the reasoning is another's secret
	KindReference             // ID: an item that was kept
)

// Item is one piece of a conversation, as this API tells it: finer than a canon.Message.
type Item struct {
	Kind  Kind
	ID    string // "" where the caller gave none
	Role  canon.Role
	Parts []canon.Part
	Space string // of a call: the namespace of the function, whose name in Parts has it in front
}

// maxItems bounds the items of one request.
const maxItems = 10000

// ParseItems reads an array of items: what a caller adds to a conversation, or what AppendItems and the answers here have printed. The
// text must not change as long as the items are used.
func ParseItems(array []byte) ([]Item, *canon.Error) {
	if err := jsonx.Check(array); err != nil {
		return nil, whole("items", "", "items is not valid JSON: %s", err)
	}
	items, err := readItems(jsonx.Root(array), "items")
	if err != nil {
		return nil, fields.Sentence(err)
	}
	return items, nil
}

// readItems reads the array in a field.
func readItems(v jsonx.Value, field string) ([]Item, *canon.Error) {
	if v.Kind() != jsonx.Array {
		want := "an array of items"
		if field == "input" {
			want = "a string or an array of items"
		}
		return nil, fields.WrongKind(field, want, v)
	}
	items := make([]Item, 0, 8)
	for i, e := range v.Elements() {
		if i == maxItems {
			return nil, fields.Bad(field, "has more than %d items", maxItems)
		}
		item, err := readItem(e)
		if err != nil {
			return nil, fields.At(err, field, i)
		}
		items = append(items, item)
	}
	return items, nil
}

// readItem reads an item. A message may come without a type, as most people write it.
func readItem(v jsonx.Value) (item Item, err *canon.Error) {
	if v.Kind() != jsonx.Object {
		return item, fields.WrongKind("", "an object", v)
	}
	f := v.Fields()
	kind, err := fields.OptString(f.Get("type"), "type")
	if err != nil {
		return item, err
	}
	if item.ID, err = fields.OptString(f.Get("id"), "id"); err != nil {
		return item, err
	}
	if kind == "" {
		kind = "message"
		if f.Get("role").Missing() && item.ID != "" {
			kind = "item_reference"
		}
	}
	switch kind {
	case "message":
		err = readMessage(&item, &f)
	case "function_call":
		err = readCall(&item, &f)
	case "function_call_output":
		err = readOutput(&item, &f)
	case "reasoning":
		err = readReasoning(&item, &f)
	case "item_reference":
		item.Kind = KindReference
		_, err = fields.ReqString(f.Get("id"), "id")
	default:
		err = fields.Cannot("type", "is %q, which cannot be translated: items of the types message, function_call, function_call_output, reasoning and item_reference can", fields.Clip(kind))
	}
	return item, err
}

func readMessage(item *Item, f *jsonx.Fields) *canon.Error {
	role, err := fields.ReqString(f.Get("role"), "role")
	if err != nil {
		return err
	}
	known := false
	if item.Role, known = canon.RoleOf(role); !known || item.Role == canon.RoleTool {
		return fields.Bad("role", "must be user, assistant, system or developer, not %q", fields.Clip(role))
	}
	item.Kind = KindMessage
	item.Parts, err = readContent(f.Get("content"), "content", item.Role)
	return err
}

func readCall(item *Item, f *jsonx.Fields) (err *canon.Error) {
	c := &canon.ToolCall{}
	if c.ID, err = fields.ReqString(f.Get("call_id"), "call_id"); err != nil {
		return err
	}
	if c.Name, err = fields.ReqString(f.Get("name"), "name"); err != nil {
		return err
	}
	if item.Space, err = fields.OptString(f.Get("namespace"), "namespace"); err != nil {
		return err
	}
	c.Name = inSpace(item.Space, c.Name)
	args := f.Get("arguments")
	if args.Kind() != jsonx.String {
		return fields.WrongKind("arguments", "a string", args)
	}
	if c.Arguments = strings.TrimSpace(args.Share()); c.Arguments == "" {
		c.Arguments = "{}"
	}
	if c.Arguments[0] != '{' || jsonx.CheckString(c.Arguments) != nil {
		// A model that a limit cut off leaves such; OpenAI itself may take it back.
		return fields.Cannot("arguments", "must be the text of a JSON object")
	}
	item.Kind, item.Parts = KindCall, []canon.Part{{Kind: canon.PartToolCall, Call: c}}
	return nil
}

func readOutput(item *Item, f *jsonx.Fields) *canon.Error {
	id, err := fields.ReqString(f.Get("call_id"), "call_id")
	if err != nil {
		return err
	}
	result := &canon.ToolResult{ID: id}
	if result.Parts, err = readContent(f.Get("output"), "output", canon.RoleTool); err != nil {
		return err
	}
	item.Kind, item.Parts = KindOutput, []canon.Part{{Kind: canon.PartToolResult, Result: result}}
	return nil
}
