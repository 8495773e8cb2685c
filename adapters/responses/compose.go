package responses

import (
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/internal/fields"
)

// Compose makes the chat request of the conversation: the instructions of this request, the past, and its own input. It shares its
// memory with all of them and with r.
func (r *Request) Compose(history []Item) (*canon.Request, *canon.Error) {
	c := r.chat
	var b composer
	if r.State.Instructions != "" {
		b.say(canon.RoleSystem, canon.Part{Text: r.State.Instructions})
	}
	for _, list := range [...][]Item{history, r.Input} {
		for i := range list {
			if err := b.add(&list[i]); err != nil {
				return nil, err
			}
		}
	}
	var err *canon.Error
	if c.Messages, err = b.messages(); err != nil {
		return nil, err
	}
	if len(c.Messages) == 0 || len(c.Messages) == 1 && r.State.Instructions != "" {
		return nil, whole("input", "", "input must hold something to answer: a text, an image or a function's output")
	}
	return &c, nil
}

// Check tells whether the items can follow each other, alone: each output has its call.
func Check(items []Item) *canon.Error {
	var b composer
	for i := range items {
		if err := b.add(&items[i]); err != nil {
			return err
		}
	}
	return nil
}

// composer puts items together as messages. One answer of a model is one message in every other API, and several items here; and
// there the results of its calls must stand right behind it, where here they may come later.
type composer struct {
	turns []turn
}

type turn struct {
	message canon.Message
	calls   []*canon.ToolCall
	results []canon.Message // in the order of calls; one without parts where none has come
	left    int             // calls without a result
}

func (b *composer) add(item *Item) *canon.Error {
	switch item.Kind {
	case KindMessage:
		if len(item.Parts) > 0 {
			b.say(item.Role, item.Parts...)
		}
	case KindReasoning, KindCall:
		if len(item.Parts) > 0 {
			b.say(canon.RoleAssistant, item.Parts...)
		}
	case KindOutput:
		return b.answer(item.Parts[0])
	case KindReference:
		err := whole("input", "", "Item with id '%s' not found. Items are not persisted when `store` is set to false. Try again with `store` set to true, or remove this item from your input.", fields.ClipID(item.ID))
		err.Kind = canon.ErrNotFound
		return err
	}
	return nil
}

// say appends to the message under way, if it is the assistant's and nothing has answered it, or begins one.
func (b *composer) say(role canon.Role, parts ...canon.Part) {
	var t *turn
	if n := len(b.turns); n > 0 && role == canon.RoleAssistant && b.turns[n-1].message.Role == role && b.turns[n-1].left == len(b.turns[n-1].calls) {
		t = &b.turns[n-1]
		t.message.Parts = append(t.message.Parts, parts...)
	} else {
		b.turns = append(b.turns, turn{message: canon.Message{Role: role, Parts: append([]canon.Part(nil), parts...)}})
		t = &b.turns[len(b.turns)-1]
	}
	for i := range parts {
		if c := parts[i].Call; c != nil {
			t.calls = append(t.calls, c)
			t.results = append(t.results, canon.Message{Role: canon.RoleTool})
			t.left++
		}
	}
}

// answer puts a result behind the last call of its id that has none.
func (b *composer) answer(p canon.Part) *canon.Error {
	for i := len(b.turns) - 1; i >= 0; i-- {
		t := &b.turns[i]
		for k, c := range t.calls {
			if c.ID == p.Result.ID && t.results[k].Parts == nil {
				result := *p.Result
				result.Name = c.Name
				p.Result = &result
				t.results[k].Parts = []canon.Part{p}
				t.left--
				return nil
			}
		}
	}
	return whole("input", "", "No tool call found for function call output with call_id %s.", fields.ClipID(p.Result.ID))
}

// messages is the conversation, in which every call has its result.
func (b *composer) messages() ([]canon.Message, *canon.Error) {
	n := 0
	for i := range b.turns {
		n += 1 + len(b.turns[i].calls)
	}
	list := make([]canon.Message, 0, n)
	for i := range b.turns {
		t := &b.turns[i]
		list = append(list, t.message)
		for k := range t.results {
			if t.results[k].Parts == nil {
				return nil, whole("input", "", "No tool output found for function call %s.", fields.ClipID(t.calls[k].ID))
			}
			list = append(list, t.results[k])
		}
	}
	return list, nil
}
