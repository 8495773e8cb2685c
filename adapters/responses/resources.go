package responses

import (
	"encoding/json"
	"strconv"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/internal/fields"
	"github.com/weir-dev/weir/adapters/jsonx"
)

const (
	// defaultPage and maxPage bound a list, as OpenAI's API does.
	defaultPage, maxPage = 20, 100
	// maxAdded is how many items a caller may add to a conversation at a time, as at OpenAI.
	maxAdded = 20
)

// Page says which part of a list is asked for.
type Page struct {
	After string // the id behind which it begins; "" for the beginning
	Limit int
	Asc   bool // oldest first; OpenAI's default is the other order
}

// ParsePage reads the query of a list; get gives a parameter, "" where absent.
func ParsePage(get func(name string) string) (Page, *canon.Error) {
	p := Page{After: get("after"), Limit: defaultPage}
	if s := get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > maxPage {
			return p, fields.Sentence(fields.Bad("limit", "must be a whole number between 1 and %d, not %q", maxPage, fields.Clip(s)))
		}
		p.Limit = n
	}
	switch s := get("order"); s {
	case "", "desc":
	case "asc":
		p.Asc = true
	default:
		return p, fields.Sentence(fields.Bad("order", "must be asc or desc, not %q", fields.Clip(s)))
	}
	return p, nil
}

// AppendList appends a page of items, which come as JSON, oldest first.
func AppendList(dst []byte, items []json.RawMessage, p Page) ([]byte, *canon.Error) {
	at := func(i int) json.RawMessage { // the i-th in the order asked for
		if p.Asc {
			return items[i]
		}
		return items[len(items)-1-i]
	}
	from := 0
	if p.After != "" {
		for from < len(items) && ItemID(at(from)) != p.After {
			from++
		}
		if from == len(items) {
			return dst, fields.Sentence(fields.Bad("after", "is %q, which is no item of this list", fields.ClipID(p.After)))
		}
		from++
	}
	to := min(from+p.Limit, len(items))
	dst = append(dst, `{"object":"list","data":[`...)
	for i := from; i < to; i++ {
		if i > from {
			dst = append(dst, ',')
		}
		dst = append(dst, at(i)...)
	}
	first, last := "", ""
	if from < to {
		first, last = ItemID(at(from)), ItemID(at(to-1))
	}
	dst = append(dst, `],"first_id":`...)
	dst = appendOrNull(dst, first)
	dst = append(dst, `,"last_id":`...)
	dst = appendOrNull(dst, last)
	dst = append(dst, `,"has_more":`...)
	dst = strconv.AppendBool(dst, to < len(items))
	return append(dst, '}'), nil
}

// ItemID is the id of an item, a response or a conversation printed here.
func ItemID(item []byte) string { return jsonx.Value(item).Get("id").Str() }

// SplitItems cuts an array of items that was printed here into its elements, which share its bytes.
func SplitItems(array []byte) []json.RawMessage {
	var list []json.RawMessage
	for _, v := range jsonx.Value(array).Elements() {
		list = append(list, json.RawMessage(v))
	}
	return list
}

// Output is the array of output items of a response object printed here. It shares the object's bytes.
func Output(object []byte) json.RawMessage {
	return json.RawMessage(jsonx.Value(object).Get("output"))
}

// WithoutOutput copies a response object printed here, with its output left empty: WithOutput puts it back.
func WithoutOutput(object []byte) json.RawMessage {
	return WithOutput(nil, object, json.RawMessage("[]"))
}

// WithOutput appends a response object printed here, with another output.
func WithOutput(dst, object, output []byte) []byte {
	v := jsonx.Value(object).Get("output")
	if at, ok := v.Offset(object); ok {
		dst = append(dst, object[:at]...)
		dst = append(dst, output...)
		return append(dst, object[at+len(v):]...)
	}
	return append(dst, object...)
}

// Conversation is a conversation object.
type Conversation struct {
	ID       string // with its prefix
	Created  int64  // Unix seconds
	Metadata json.RawMessage
}

// AppendConversation appends a conversation object.
func AppendConversation(dst []byte, c *Conversation) []byte {
	dst = append(dst, `{"id":`...)
	dst = jsonx.AppendString(dst, c.ID)
	dst = append(dst, `,"object":"conversation","created_at":`...)
	dst = strconv.AppendInt(dst, c.Created, 10)
	dst = append(dst, `,"metadata":`...)
	if len(c.Metadata) == 0 {
		dst = append(dst, "{}"...)
	} else {
		dst = append(dst, c.Metadata...)
	}
	return append(dst, '}')
}

// AppendDeleted appends what a deletion is answered with; object is "response" or "conversation.deleted".
func AppendDeleted(dst []byte, id, object string) []byte {
	dst = append(dst, `{"id":`...)
	dst = jsonx.AppendString(dst, id)
	dst = append(dst, `,"object":`...)
	dst = jsonx.AppendString(dst, object)
	return append(dst, `,"deleted":true}`...)
}

// ParseConversation reads the body of POST /v1/conversations and of /v1/conversations/{id}, which may be empty. Both results share
// the body's bytes; metadata is nil where it is not said.
func ParseConversation(body []byte) (items []Item, metadata json.RawMessage, err *canon.Error) {
	if len(body) == 0 {
		return nil, nil, nil
	}
	m, err := object(body)
	if err != nil {
		return nil, nil, err
	}
	if metadata, err = readMetadata(m.get("metadata")); err != nil {
		return nil, nil, fields.Sentence(err)
	}
	if v := m.get("items"); !v.Missing() {
		items, err = addedItems(v)
	}
	return items, metadata, err
}

// ParseAdded reads the body of POST /v1/conversations/{id}/items. The items share its bytes.
func ParseAdded(body []byte) ([]Item, *canon.Error) {
	m, err := object(body)
	if err != nil {
		return nil, err
	}
	return addedItems(m.get("items"))
}

func addedItems(v jsonx.Value) ([]Item, *canon.Error) {
	items, err := readItems(v, "items")
	if err == nil && len(items) > maxAdded {
		err = fields.Bad("items", "must have at most %d items at a time", maxAdded)
	}
	if err == nil {
		for i := range items {
			if items[i].Kind == KindReference {
				err = fields.At(fields.Bad("type", "is item_reference, which cannot be added to a conversation"), "items", i)
				break
			}
		}
	}
	if err != nil {
		return nil, fields.Sentence(err)
	}
	return items, nil
}

// The errors of what is not there, in OpenAI's words. That something is another tenant's is told no other way.

// ResponseNotFound is the error of a GET or DELETE.
func ResponseNotFound(id string) *canon.Error {
	return &canon.Error{Kind: canon.ErrNotFound, Message: "Response with id '" + fields.ClipID(id) + "' not found."}
}

// PreviousNotFound is the error of a request that goes on from a response.
func PreviousNotFound(id string) *canon.Error {
	return &canon.Error{Status: 400, Kind: canon.ErrInvalidRequest, Param: "previous_response_id", Code: "previous_response_not_found",
		Message: "Previous response with id '" + fields.ClipID(id) + "' not found."}
}

// ConversationNotFound is the error of every use of a conversation.
func ConversationNotFound(id string) *canon.Error {
	return &canon.Error{Kind: canon.ErrNotFound, Message: "Conversation with id '" + fields.ClipID(id) + "' not found."}
}

// ItemNotFound is the error of an item of a conversation.
func ItemNotFound(id string) *canon.Error {
	return &canon.Error{Kind: canon.ErrNotFound, Message: "Item with id '" + fields.ClipID(id) + "' not found."}
}
