package responses

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
	face "github.com/weir-dev/weir/adapters/responses"
	"github.com/weir-dev/weir/extproc/session"
)

// log is what a session keeps for this API, in session.Session.Responses.
type log struct {
	// Conversation is there where the session is one.
	Conversation *conversation `json:"conversation,omitempty"`
	// Turns in the order in which they were completed.
	Turns []turn `json:"turns,omitempty"`
}

type conversation struct {
	Created  int64           `json:"created"` // Unix seconds
	Metadata json.RawMessage `json:"metadata,omitempty"`
}

// turn is one answer with what asked for it, or items that were put into a conversation.
type turn struct {
	ID string `json:"id"`
	// Parent is the turn that this one continues; "" where it continues none, or one that is forgotten.
	Parent string `json:"parent,omitempty"`
	// Input and Output are arrays of items.
	Input  json.RawMessage `json:"input,omitempty"`
	Output json.RawMessage `json:"output,omitempty"`
	// Object is the response object, without its output; nil where there is none, or it was deleted.
	Object json.RawMessage `json:"object,omitempty"`
}

var (
	// errGone says that what a turn continues was deleted while it was answered.
	errGone = errors.New("the conversation was deleted meanwhile")
	// errTooLarge says that one turn has more bytes than its policy lets a session have.
	errTooLarge = errors.New("the turn is larger than keep.bytes of the SessionPolicy")
)

func readLog(s *session.Session) (*log, error) {
	l := &log{}
	if s == nil || len(s.Responses) == 0 {
		return l, nil
	}
	if err := l.parse(s.Responses); err != nil {
		return nil, fmt.Errorf("what is kept of the responses of a session cannot be read: %w", err)
	}
	return l, nil
}

// parse reads what text writes. Turns share their bytes with it. A log is read with every request and is as long as its conversation: json.Unmarshal
// takes ten times as long.
func (l *log) parse(text []byte) error {
	if err := jsonx.Check(text); err != nil {
		return err
	}
	root := jsonx.Root(text)
	if root.Kind() != jsonx.Object {
		return fmt.Errorf("it is %s", root.Kind())
	}
	for name, v := range root.Members() {
		switch string(name) {
		case "conversation":
			if err := json.Unmarshal(v, &l.Conversation); err != nil {
				return err
			}
		case "turns":
			for _, e := range v.Elements() {
				var t turn
				for name, v := range e.Members() {
					switch string(name) {
					case "id":
						t.ID = v.Share()
					case "parent":
						t.Parent = v.Share()
					case "input":
						t.Input = json.RawMessage(slices.Clip(v))
					case "output":
						t.Output = json.RawMessage(slices.Clip(v))
					case "object":
						t.Object = json.RawMessage(slices.Clip(v))
					}
				}
				l.Turns = append(l.Turns, t)
			}
		}
	}
	return nil
}

// text is the log as JSON. What it holds is JSON already.
func (l *log) text() ([]byte, error) {
	var b jsonx.Builder
	b.Text = make([]byte, 0, l.size())
	b.Raw("{")
	if l.Conversation != nil {
		begun, err := json.Marshal(l.Conversation)
		if err != nil {
			return nil, fmt.Errorf("responses of a session: %w", err)
		}
		b.Raw(`"conversation":`)
		b.Bytes(begun)
	}
	for i := range l.Turns {
		t := &l.Turns[i]
		switch {
		case i > 0:
			b.Raw(",")
		case l.Conversation != nil:
			b.Raw(`,"turns":[`)
		default:
			b.Raw(`"turns":[`)
		}
		b.Raw(`{"id":`)
		b.Str(t.ID)
		if t.Parent != "" {
			b.Raw(`,"parent":`)
			b.Str(t.Parent)
		}
		for _, f := range [...]struct {
			name string
			text json.RawMessage
		}{{`,"input":`, t.Input}, {`,"output":`, t.Output}, {`,"object":`, t.Object}} {
			if len(f.text) > 0 {
				b.Raw(f.name)
				b.Bytes(f.text)
			}
		}
		b.Raw("}")
	}
	if len(l.Turns) > 0 {
		b.Raw("]")
	}
	b.Raw("}")
	return b.Text, nil
}

// size is about what text has, in bytes, and not less.
func (l *log) size() int {
	n := 256
	if l.Conversation != nil {
		n += len(l.Conversation.Metadata)
	}
	for i := range l.Turns {
		t := &l.Turns[i]
		n += 64 + len(t.ID) + len(t.Parent) + len(t.Input) + len(t.Output) + len(t.Object)
	}
	return n
}

// write puts the log into its session, as small as the policy has it. newest is a turn that must stay; "" where none must.
func (l *log) write(s *session.Session, p *session.Policy, newest string) error {
	if n := len(l.Turns) - p.KeepTurns; p.KeepTurns > 0 && n > 0 {
		l.Turns = slices.Delete(l.Turns, 0, n)
	}
	for {
		text, err := l.text()
		if err != nil {
			return err
		}
		if p.KeepBytes <= 0 || int64(len(text)) <= p.KeepBytes {
			s.Responses = text
			return nil
		}
		if len(l.Turns) == 0 || l.Turns[0].ID == newest {
			return errTooLarge
		}
		// Each round forgets about as much as is too much: the text is made again a few times at most.
		for over := int64(len(text)) - p.KeepBytes; over > 0 && len(l.Turns) > 0 && l.Turns[0].ID != newest; {
			t := &l.Turns[0]
			over -= int64(len(t.Input) + len(t.Output) + len(t.Object))
			l.Turns = slices.Delete(l.Turns, 0, 1)
		}
	}
}

// find is the turn of that id, or nil.
func (l *log) find(id string) *turn {
	for i := range l.Turns {
		if l.Turns[i].ID == id {
			return &l.Turns[i]
		}
	}
	return nil
}

// response is the turn of a response that is there, or nil.
func (l *log) response(id string) *turn {
	if t := l.find(id); t != nil && t.Object != nil {
		return t
	}
	return nil
}

// forget takes a response away: all of its turn, or in a conversation the response alone, whose items belong to the conversation.
func (l *log) forget(id string) bool {
	t := l.response(id)
	if t == nil {
		return false
	}
	if l.Conversation != nil {
		t.Object = nil
		return true
	}
	parent := t.Parent
	l.Turns = slices.DeleteFunc(l.Turns, func(t turn) bool { return t.ID == id })
	for i := range l.Turns {
		if l.Turns[i].Parent == id {
			l.Turns[i].Parent = parent
		}
	}
	return true
}

// path is the turns that led to one, the first first; nil where there is none of that id. In a conversation it is all turns.
func (l *log) path(id string) []*turn {
	var list []*turn
	if l.Conversation != nil {
		for i := range l.Turns {
			list = append(list, &l.Turns[i])
		}
		return list
	}
	for t := l.find(id); t != nil && len(list) <= len(l.Turns); t = l.find(t.Parent) {
		list = append(list, t)
	}
	slices.Reverse(list)
	return list
}

// history is what the turns said, the newest of them as far as tokens lets it; 0 is no bound. needed says that the input to come
// answers calls of the last turn, which then must be there. A turn is never parted from the calls that it answers.
func history(path []*turn, tokens int64, needed bool) ([]face.Item, *canon.Error) {
	turns := make([][]face.Item, len(path))
	from := len(path)
	var sum int64
	for i := len(path) - 1; i >= 0; i-- {
		t := path[i]
		sum += tokensOf(t)
		if tokens > 0 && sum > tokens && !needed {
			break
		}
		input, err := parse(t.Input)
		if err != nil {
			return nil, err
		}
		needed = face.Check(input) != nil
		turns[i] = append(input, answered(t.Output)...)
		if !needed {
			from = i
		}
	}
	return slices.Concat(turns[from:]...), nil
}

// parse reads items as they are kept.
func parse(array json.RawMessage) ([]face.Item, *canon.Error) {
	if len(array) == 0 {
		return nil, nil
	}
	items, err := face.ParseItems(array)
	if err != nil {
		return nil, &canon.Error{Kind: canon.ErrInternal, Message: "What was kept of this conversation cannot be read: begin a new one. " + err.Message}
	}
	return items, nil
}

// answered reads the items of an answer. What a limit cut off in the middle, a call without the end of its arguments, is not said again.
func answered(array json.RawMessage) []face.Item {
	var items []face.Item
	for _, one := range face.SplitItems(array) {
		if item, err := parse(join([]json.RawMessage{one})); err == nil {
			items = append(items, item...)
		}
	}
	return items
}

// tokensOf estimates the tokens of a turn: four bytes of its JSON are about one.
func tokensOf(t *turn) int64 { return int64(len(t.Input)+len(t.Output)) / 4 }

// items are the items of a turn as JSON, in their order.
func (t *turn) items() []json.RawMessage {
	return append(face.SplitItems(t.Input), face.SplitItems(t.Output)...)
}

// drop takes an item away.
func (t *turn) drop(id string) bool {
	for _, list := range [...]*json.RawMessage{&t.Input, &t.Output} {
		items := face.SplitItems(*list)
		n := len(items)
		items = slices.DeleteFunc(items, func(item json.RawMessage) bool { return face.ItemID(item) == id })
		if len(items) < n {
			*list = join(items)
			return true
		}
	}
	return false
}

// join is SplitItems undone.
func join(items []json.RawMessage) json.RawMessage {
	parts := make([][]byte, len(items))
	for i := range items {
		parts[i] = items[i]
	}
	return slices.Concat([]byte("["), bytes.Join(parts, []byte(",")), []byte("]"))
}
