package responses

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
	face "github.com/weir-dev/weir/adapters/responses"
	"github.com/weir-dev/weir/extproc/session"
)

// Request is a request for something that is kept.
type Request struct {
	Tenant, Consumer string
	// Policies that may have kept it; the first one keeps what is new.
	Policies []*session.Policy
	Method   string
	Path     string // without query
	Query    url.Values
	Body     []byte
}

// IsResource reports whether a path, which may have any prefix, names something that is kept.
func IsResource(path string) bool {
	_, ok := segments(path)
	return ok
}

// segments are those of a path from responses or conversations on.
func segments(path string) ([]string, bool) {
	path = strings.TrimSuffix(path, "/")
	at := max(strings.LastIndex(path, "/v1/responses/"), strings.LastIndex(path, "/v1/conversations/"))
	if at < 0 && strings.HasSuffix(path, "/v1/conversations") {
		at = strings.LastIndex(path, "/v1/")
	}
	if at < 0 {
		return nil, false
	}
	list := strings.Split(path[at+len("/v1/"):], "/")
	for _, s := range list {
		if s == "" {
			return nil, false
		}
	}
	n := len(list)
	if list[0] == "responses" {
		// Two of these ask for no response that is kept: they are requests for a model.
		return list, (n == 2 && list[1] != "input_tokens" && list[1] != "compact") || n == 3 && (list[2] == "input_items" || list[2] == "cancel")
	}
	return list, n <= 2 || (n == 3 || n == 4) && list[2] == "items"
}

// Resource answers a request for which IsResource holds, with status 200, or with an error.
func (k *Keeper) Resource(ctx context.Context, r *Request) ([]byte, *canon.Error) {
	path, ok := segments(r.Path)
	if !ok {
		return nil, &canon.Error{Kind: canon.ErrNotFound, Message: "There is nothing at this path."}
	}
	q := &query{Keeper: k, Request: r, ctx: ctx}
	if path[0] == "responses" {
		return q.responses(path[1:])
	}
	return q.conversations(path[1:])
}

// query is a Request under way.
type query struct {
	*Keeper
	*Request
	ctx context.Context
}

// method picks what a method does, and refuses the others.
func (q *query) method(do map[string]func() ([]byte, *canon.Error)) ([]byte, *canon.Error) {
	if f := do[q.Method]; f != nil {
		return f()
	}
	return nil, &canon.Error{Kind: canon.ErrMethod, Message: "This path does not take the method " + q.Method + "."}
}

// open finds the log of a session, and the caller in whose place it is; nil where there is none.
func (q *query) open(id string) (*log, *Caller, *canon.Error) {
	for _, p := range q.Policies {
		c := &Caller{Tenant: q.Tenant, Consumer: q.Consumer, Policy: p}
		l, cerr := q.load(q.ctx, c, id)
		if cerr != nil {
			return nil, nil, cerr
		}
		if l != nil && (l.Conversation != nil || len(l.Turns) > 0) {
			return l, c, nil
		}
	}
	return nil, nil, nil
}

// change applies a change to the log of a session. missing is the error where there is nothing to change, which change tells by errGone; newest is a turn
// that is not to be forgotten for it.
func (q *query) change(c *Caller, id, newest string, missing *canon.Error, change func(*log) error) *canon.Error {
	_, err := q.sessions.Update(q.ctx, c.Policy, c.address(id), func(s *session.Session) error {
		l, err := readLog(s)
		if err != nil {
			return err
		}
		if err := change(l); err != nil {
			return err
		}
		return l.write(s, c.Policy, newest)
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errGone):
		return missing
	case errors.Is(err, errTooLarge), errors.Is(err, session.ErrTooLarge):
		return &canon.Error{Kind: canon.ErrTooLarge, Message: "The conversation would be larger than it may be."}
	}
	return unavailable(err)
}

func (q *query) responses(path []string) ([]byte, *canon.Error) {
	id := path[0]
	missing := face.ResponseNotFound(id)
	at, ok := responseOf(id)
	if !ok {
		return nil, missing
	}
	l, c, cerr := q.open(at.session)
	if cerr != nil {
		return nil, cerr
	}
	if l == nil {
		return nil, missing
	}
	t := l.response(at.turn)
	if t == nil {
		return nil, missing
	}
	switch {
	case len(path) == 1:
		return q.method(map[string]func() ([]byte, *canon.Error){
			http.MethodGet: func() ([]byte, *canon.Error) {
				if q.Query.Get("stream") == "true" {
					return nil, &canon.Error{Kind: canon.ErrInvalidRequest, Param: "stream", Message: "Only a response made in the background can be streamed again, and none is here."}
				}
				return face.WithOutput(nil, t.Object, t.Output), nil
			},
			http.MethodDelete: func() ([]byte, *canon.Error) {
				cerr := q.change(c, at.session, "", missing, func(l *log) error {
					if !l.forget(at.turn) {
						return errGone
					}
					return nil
				})
				return face.AppendDeleted(nil, id, "response"), cerr
			},
		})
	case path[1] == "cancel":
		return q.method(map[string]func() ([]byte, *canon.Error){http.MethodPost: func() ([]byte, *canon.Error) {
			return nil, &canon.Error{Kind: canon.ErrInvalidRequest, Message: "Cannot cancel a synchronous response."}
		}})
	}
	return q.method(map[string]func() ([]byte, *canon.Error){http.MethodGet: func() ([]byte, *canon.Error) { return q.list(face.SplitItems(t.Input)) }})
}

// list prints the page of items that is asked for.
func (q *query) list(items []json.RawMessage) ([]byte, *canon.Error) {
	page, cerr := face.ParsePage(q.Query.Get)
	if cerr != nil {
		return nil, cerr
	}
	return face.AppendList(nil, items, page)
}

func (q *query) conversations(path []string) ([]byte, *canon.Error) {
	if len(path) == 0 {
		return q.method(map[string]func() ([]byte, *canon.Error){http.MethodPost: q.create})
	}
	missing := face.ConversationNotFound(path[0])
	id, ok := conversationOf(path[0])
	if !ok {
		return nil, missing
	}
	l, c, cerr := q.open(id)
	if cerr != nil {
		return nil, cerr
	}
	if l == nil || l.Conversation == nil {
		return nil, missing
	}
	switch len(path) {
	case 1:
		return q.method(map[string]func() ([]byte, *canon.Error){
			http.MethodGet: func() ([]byte, *canon.Error) { return show(id, l.Conversation), nil },
			http.MethodPost: func() ([]byte, *canon.Error) {
				_, metadata, cerr := face.ParseConversation(q.Body)
				if cerr != nil {
					return nil, cerr
				}
				var now *conversation
				cerr = q.change(c, id, "", missing, func(l *log) error {
					if l.Conversation == nil {
						return errGone
					}
					l.Conversation.Metadata, now = metadata, l.Conversation
					return nil
				})
				if cerr != nil {
					return nil, cerr
				}
				return show(id, now), nil
			},
			http.MethodDelete: func() ([]byte, *canon.Error) {
				if _, err := q.sessions.Erase(q.ctx, c.address(id)); err != nil {
					return nil, unavailable(err)
				}
				return face.AppendDeleted(nil, path[0], "conversation.deleted"), nil
			},
		})
	case 2:
		return q.method(map[string]func() ([]byte, *canon.Error){
			http.MethodGet: func() ([]byte, *canon.Error) {
				var items []json.RawMessage
				for i := range l.Turns {
					items = append(items, l.Turns[i].items()...)
				}
				return q.list(items)
			},
			http.MethodPost: func() ([]byte, *canon.Error) { return q.add(c, id, missing) },
		})
	}
	return q.item(l, c, id, path[2], missing)
}

func show(id string, c *conversation) []byte {
	return face.AppendConversation(nil, &face.Conversation{ID: conversationPrefix + id, Created: c.Created, Metadata: c.Metadata})
}

// create begins a conversation.
func (q *query) create() ([]byte, *canon.Error) {
	items, metadata, cerr := face.ParseConversation(q.Body)
	if cerr != nil {
		return nil, cerr
	}
	if len(q.Policies) == 0 {
		return nil, &canon.Error{Kind: canon.ErrNotFound, Message: "No conversation can be kept: no SessionPolicy covers this request."}
	}
	c := &Caller{Tenant: q.Tenant, Consumer: q.Consumer, Policy: q.Policies[0]}
	id, err := newDigits(q.random, sessionDigits)
	if err != nil {
		return nil, internal(err)
	}
	first, cerr := q.added(id, items)
	if cerr != nil {
		return nil, cerr
	}
	begun := &conversation{Created: q.now().Unix(), Metadata: metadata}
	cerr = q.change(c, id, first.ID, face.ConversationNotFound(id), func(l *log) error {
		l.Conversation, l.Turns = begun, nil
		if len(items) > 0 {
			l.Turns = []turn{first}
		}
		return nil
	})
	if cerr != nil {
		return nil, cerr
	}
	return show(id, begun), nil
}

// added is a turn of items that a caller puts into a conversation.
func (q *query) added(id string, items []face.Item) (turn, *canon.Error) {
	digits, err := newDigits(q.random, turnDigits)
	if err != nil {
		return turn{}, internal(err)
	}
	return turn{ID: digits, Input: number(items, place{id, digits})}, nil
}

// add puts items into a conversation, and answers with the list of them.
func (q *query) add(c *Caller, id string, missing *canon.Error) ([]byte, *canon.Error) {
	items, cerr := face.ParseAdded(q.Body)
	if cerr != nil {
		return nil, cerr
	}
	t, cerr := q.added(id, items)
	if cerr != nil {
		return nil, cerr
	}
	cerr = q.change(c, id, t.ID, missing, func(l *log) error {
		if l.Conversation == nil {
			return errGone
		}
		if l.find(t.ID) == nil {
			l.Turns = append(l.Turns, t)
		}
		return nil
	})
	if cerr != nil {
		return nil, cerr
	}
	list := face.SplitItems(t.Input)
	return face.AppendList(nil, list, face.Page{Limit: len(list), Asc: true})
}

// item shows or takes away one item of a conversation.
func (q *query) item(l *log, c *Caller, conversation, id string, missing *canon.Error) ([]byte, *canon.Error) {
	none := face.ItemNotFound(id)
	owner, _ := face.Owner(id)
	at, ok := placeOf(owner)
	if !ok || at.session != conversation {
		return nil, none
	}
	t := l.find(at.turn)
	if t == nil {
		return nil, none
	}
	for _, item := range t.items() {
		if face.ItemID(item) != id {
			continue
		}
		return q.method(map[string]func() ([]byte, *canon.Error){
			http.MethodGet: func() ([]byte, *canon.Error) { return item, nil },
			http.MethodDelete: func() ([]byte, *canon.Error) {
				cerr := q.change(c, conversation, "", none, func(l *log) error {
					t := l.find(at.turn)
					if t == nil || !t.drop(id) {
						return errGone
					}
					return nil
				})
				if cerr != nil {
					return nil, cerr
				}
				if l.Conversation == nil {
					return nil, missing
				}
				return show(conversation, l.Conversation), nil
			},
		})
	}
	return nil, none
}
