package responses

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
	face "github.com/weir-dev/weir/adapters/responses"
	"github.com/weir-dev/weir/extproc/session"
)

const (
	// keepTimeout bounds the write of an answer, for which its caller waits.
	keepTimeout = 3 * time.Second
	// maxReferenced is how many sessions the item references of one request may lie in.
	maxReferenced = 8
)

// Sessions is the part of a session.Manager that is used.
type Sessions interface {
	// Load gives a session, or nil where there is none.
	Load(ctx context.Context, p *session.Policy, at session.Address) (*session.Session, error)
	// Update applies a change to what is there; it may be applied several times.
	Update(ctx context.Context, p *session.Policy, at session.Address, change func(*session.Session) error) (*session.Session, error)
	// Erase erases a session for good.
	Erase(ctx context.Context, at session.Address) (bool, error)
}

// Keeper keeps responses and conversations. It is safe for concurrent use.
type Keeper struct {
	sessions Sessions
	now      func() time.Time
	random   io.Reader
	lost     func(error)
}

// New makes a Keeper. random is a source of unguessable bytes; lost is told why an answer could not be kept, without anything of it.
func New(sessions Sessions, now func() time.Time, random io.Reader, lost func(error)) *Keeper {
	return &Keeper{sessions: sessions, now: now, random: random, lost: lost}
}

// Caller is who asks, and what is kept for him.
type Caller struct {
	Tenant, Consumer string
	// Policy is the SessionPolicy of the request; nil keeps nothing.
	Policy *session.Policy
}

func (c *Caller) address(id string) session.Address {
	return c.Policy.Address(c.Tenant, c.Consumer, id)
}

// Exchange is one request of POST /v1/responses on its way. It is used by one goroutine at a time.
type Exchange struct {
	keeper  *Keeper
	ctx     context.Context
	caller  Caller
	request *face.Request
	place   place
	parent  string // turn
	created int64
	chat    *canon.Request
}

// Begin reads a request, whose body must not change as long as the Exchange is used, and finds the past that it means. Errors are in OpenAI's words where OpenAI has them.
func (k *Keeper) Begin(ctx context.Context, c Caller, body []byte) (*Exchange, *canon.Error) {
	r, cerr := face.Parse(body)
	if cerr != nil {
		return nil, cerr
	}
	x := &Exchange{keeper: k, ctx: ctx, caller: c, request: r, created: k.now().Unix()}
	var err error
	if x.place.turn, err = newDigits(k.random, turnDigits); err == nil {
		x.place.session, err = newDigits(k.random, sessionDigits)
	}
	if err != nil {
		return nil, internal(err)
	}
	if c.Policy == nil {
		r.State.Store = false
	}
	past, cerr := x.past()
	if cerr != nil {
		return nil, cerr
	}
	if r.Input, cerr = x.resolve(r.Input); cerr != nil {
		return nil, cerr
	}
	var tokens int64
	if c.Policy != nil {
		tokens = c.Policy.HistoryTokens
	}
	said, cerr := history(past, tokens, face.Check(r.Input) != nil)
	if cerr != nil {
		return nil, cerr
	}
	if x.chat, cerr = r.Compose(said); cerr != nil {
		return nil, cerr
	}
	if r.State.Store {
		r.Keep = x.keep
	}
	return x, nil
}

// past is the turns that the request continues. It moves the exchange into their session.
func (x *Exchange) past() ([]*turn, *canon.Error) {
	s := &x.request.State
	var missing *canon.Error
	var at place
	known := false
	switch {
	case s.Conversation != "":
		missing = face.ConversationNotFound(s.Conversation)
		at.session, known = conversationOf(s.Conversation)
	case s.PreviousResponseID != "":
		missing = face.PreviousNotFound(s.PreviousResponseID)
		at, known = responseOf(s.PreviousResponseID)
	default:
		return nil, nil
	}
	if x.caller.Policy == nil {
		missing.Message += " Nothing is kept for this request: no SessionPolicy covers it."
		return nil, missing
	}
	if !known {
		return nil, missing
	}
	l, cerr := x.keeper.load(x.ctx, &x.caller, at.session)
	if cerr != nil {
		return nil, cerr
	}
	if l == nil || s.Conversation != "" && l.Conversation == nil || s.Conversation == "" && l.response(at.turn) == nil {
		return nil, missing
	}
	x.place.session, x.parent = at.session, at.turn
	return l.path(at.turn), nil
}

// load gives the log of a session, or nil where there is none.
func (k *Keeper) load(ctx context.Context, c *Caller, id string) (*log, *canon.Error) {
	s, err := k.sessions.Load(ctx, c.Policy, c.address(id))
	if err != nil {
		return nil, unavailable(err)
	}
	if s == nil {
		return nil, nil
	}
	l, err := readLog(s)
	if err != nil {
		return nil, internal(err)
	}
	return l, nil
}

// resolve puts items that are kept in the place of references to them.
func (x *Exchange) resolve(items []face.Item) ([]face.Item, *canon.Error) {
	logs := map[string]*log{}
	for i := range items {
		if items[i].Kind != face.KindReference {
			continue
		}
		owner, _ := face.Owner(items[i].ID)
		at, ok := placeOf(owner)
		if !ok || x.caller.Policy == nil {
			continue // Compose refuses it
		}
		l, have := logs[at.session]
		if !have {
			if len(logs) == maxReferenced {
				return nil, &canon.Error{Kind: canon.ErrInvalidRequest, Param: "input", Message: "input refers to items of too many conversations: send the items themselves."}
			}
			var cerr *canon.Error
			if l, cerr = x.keeper.load(x.ctx, &x.caller, at.session); cerr != nil {
				return nil, cerr
			}
			logs[at.session] = l
		}
		if l == nil {
			continue
		}
		if t := l.find(at.turn); t != nil {
			for _, item := range t.items() {
				if face.ItemID(item) != items[i].ID {
					continue
				}
				found, cerr := parse(join([]json.RawMessage{item}))
				if cerr != nil {
					return nil, cerr
				}
				items[i] = found[0]
			}
		}
	}
	return items, nil
}

// Chat is the chat request that answers the exchange, with all of the past. It shares its memory with the body given to Begin.
func (x *Exchange) Chat() *canon.Request { return x.chat }

// Print prints Chat, or what somebody made of it, as the body of POST /v1/chat/completions in the dialect openai. dropped names the
// fields of the request that it does not say.
func (x *Exchange) Print(chat *canon.Request) (body []byte, dropped []string, err *canon.Error) {
	return x.request.PrintChat(chat)
}

// Model is the model that was asked for.
func (x *Exchange) Model() string { return x.request.Model() }

// Stream reports whether the answer is to be streamed.
func (x *Exchange) Stream() bool { return x.request.Stream() }

// Address is the session that the exchange belongs to; kept is false where nothing is kept of it.
func (x *Exchange) Address() (at session.Address, kept bool) {
	if x.caller.Policy == nil {
		return at, false
	}
	return x.caller.address(x.place.session), x.request.State.Store
}

// Reply is what the answer needs.
func (x *Exchange) Reply() canon.Reply {
	return canon.Reply{Model: x.request.Model(), ID: x.place.String(), Created: x.created, IncludeUsage: true}
}

// Dialect prints the answer: a whole one, a stream or an error. What it prints whole is kept before the caller has all of it.
func (x *Exchange) Dialect() *canon.Dialect { return face.Dialect(x.request) }

// keep writes the turn. It says whether it is there.
func (x *Exchange) keep(object []byte) bool {
	t := turn{ID: x.place.turn, Parent: x.parent, Output: face.Output(object), Object: face.WithoutOutput(object)}
	t.Input = number(x.request.Input, x.place)
	// A caller who leaves now has the answer: the next request may come by another connection.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.ctx), keepTimeout)
	defer cancel()
	_, err := x.keeper.sessions.Update(ctx, x.caller.Policy, x.caller.address(x.place.session), func(s *session.Session) error {
		l, err := readLog(s)
		if err != nil {
			return err
		}
		if l.find(t.ID) != nil {
			return nil // this very change was applied before
		}
		if x.request.State.Conversation != "" && l.Conversation == nil {
			return errGone
		}
		if x.parent != "" && l.Conversation == nil && len(l.Turns) == 0 {
			return errGone
		}
		l.Turns = append(l.Turns, t)
		return l.write(s, x.caller.Policy, t.ID)
	})
	if err != nil {
		x.keeper.lost(err)
	}
	return err == nil
}

// number prints items under ids of their turn.
func number(items []face.Item, at place) json.RawMessage {
	out := make([]face.Item, len(items))
	for i, item := range items {
		item.ID = face.InputID(item.Kind, at.String(), i)
		out[i] = item
	}
	return face.AppendItems(nil, out)
}

func internal(err error) *canon.Error {
	return &canon.Error{Kind: canon.ErrInternal, Message: "The conversation could not be read: " + err.Error() + "."}
}

// unavailable is the error of a store that cannot be reached. Answering without the past would be another answer.
func unavailable(err error) *canon.Error {
	return &canon.Error{Kind: canon.ErrOverloaded, RetryAfter: time.Second,
		Message: "The conversation cannot be read at the moment: try again. (" + strings.TrimSuffix(err.Error(), ".") + ")"}
}
