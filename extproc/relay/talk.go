package relay

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/extproc/cache/replay"
	"github.com/weir-dev/weir/extproc/session"
	"github.com/weir-dev/weir/extproc/wire"
)

// talk is the turn of a request in its conversation: what is said is added to the request, and its answer is kept before the caller has the
// last of it, so that the next turn finds it.
type talk struct {
	turn *session.Turn
	head cache.Head
	// said is the answer as it came, from the first byte; lost says that there is more of it than is kept.
	said []byte
	lost bool
	over bool
}

// maxSaid is how much of an answer is remembered, in bytes.
const maxSaid = 16 << 20

// ends are what the last events of streams hold, of every dialect that callers speak. None of them can stand in a text: there, line feeds and
// quotation marks are escaped.
var ends = [][]byte{[]byte("\ndata: [DONE]"), []byte("\ndata:[DONE]"), []byte(`"message_stop"`)}

// longestEnd is how much of what came before a piece may belong to such an end.
const longestEnd = 16

// hasEnd says whether one of the ends is in what was said, as far as it came with what begins at from.
func hasEnd(said []byte, from int) bool {
	said = said[max(0, from-longestEnd):]
	for _, end := range ends {
		if bytes.Contains(said, end) {
			return true
		}
	}
	return false
}

// converse adds to the request what is kept of its conversation. It says whether the request goes on; else it has been refused.
func (x *exchange) converse(ctx context.Context) bool {
	p := x.Session.Policy
	call := session.Call{Dialect: x.Dialect, Body: x.body, Headers: x.r.Header, Caller: &asker{x.Server, x.Flight, x.chatAPI()}}
	if x.api != nil {
		at, kept := x.api.Address()
		if !kept {
			return true
		}
		call.Address, call.Request, call.OwnHistory = at, x.api.Chat(), true
	} else {
		name, cerr := p.Name(x.r.Header.Get)
		if cerr != nil {
			x.refuse(cerr)
			return false
		}
		if name == "" {
			return true
		}
		call.Address = p.Address(x.Identity.Tenant, x.Identity.ConsumerID, name)
	}
	turn, cerr := x.opts.Sessions.Begin(ctx, p, call)
	if turn != nil {
		x.talk, x.sticky = &talk{turn: turn}, turn.Sticky()
	}
	if cerr != nil {
		x.refuse(cerr)
		return false
	}
	if x.api == nil {
		x.body = turn.Body()
		return true
	}
	chat, cerr := turn.Request()
	if cerr == nil {
		x.body, x.dropped, cerr = x.api.Print(chat)
	}
	if cerr != nil {
		x.refuse(cerr)
		return false
	}
	return true
}

// sayState tells the caller how the conversation stood that a header of its request names. The Responses API has no such header: there the
// body names what is continued, and what cannot be is refused.
func (x *exchange) sayState() {
	if x.talk != nil && x.api == nil {
		x.w.Header().Set(wire.SessionStateHeader, x.talk.turn.State())
	}
}

// listens begins to listen to an answer.
func (x *exchange) listens(head cache.Head) {
	if t := x.talk; t != nil {
		t.head, t.said, t.lost = head, nil, head.Status/100 != 2
	}
}

// hears takes a piece of the answer before the caller gets it, and keeps the answer when that is its last. length is that of a whole answer
// where it is known, else negative.
func (x *exchange) hears(ctx context.Context, piece []byte, length int64) {
	t := x.talk
	if t == nil || t.lost || t.over {
		return
	}
	if len(t.said)+len(piece) > maxSaid {
		t.said, t.lost = nil, true
		x.opts.Log.Warn("an answer is too large to be kept in its conversation", "policy", x.Session.Name, "bytes", maxSaid)
		return
	}
	from := len(t.said)
	t.said = append(t.said, piece...)
	if t.head.Stream {
		if hasEnd(t.said, from) {
			x.keep(ctx)
		}
	} else if length >= 0 && int64(len(t.said)) >= length {
		x.keep(ctx)
	}
}

// keep keeps the answer, if it is whole. What only looks like the end of a stream is not.
func (x *exchange) keep(ctx context.Context) {
	t := x.talk
	if t == nil || t.lost || t.over {
		return
	}
	answer, cerr := x.player.Read(&t.head, t.said)
	if cerr != nil {
		return
	}
	t.over = true
	if err := t.turn.Commit(ctx, answer); err != nil {
		x.opts.Log.Warn("a turn of a conversation could not be kept", "policy", x.Session.Name, "error", err)
	}
	t.said = nil
}

// endTalk ends a turn that has no answer: there was none, or its caller has left before it was whole.
func (x *exchange) endTalk() {
	if t := x.talk; t != nil && !t.over {
		t.over = true
		event := session.EventFailed
		if x.r.Context().Err() != nil && x.opts.Now().Before(x.Expires) { // Envoy gives up a request that takes too long, too
			event = session.EventAborted
		}
		t.turn.Abort(x.ctx, event)
	}
}

// heard is an answer whose turn is kept as it comes. It is a replay.Source.
type heard struct {
	replay.Source
	x *exchange
}

// hearing has the turn of the request, if there is one, take what comes from a source.
func (x *exchange) hearing(from replay.Source) replay.Source {
	if x.talk == nil {
		return from
	}
	return &heard{from, x}
}

// Head implements replay.Source.
func (h *heard) Head(ctx context.Context) (cache.Head, error) {
	head, err := h.Source.Head(ctx)
	if err == nil {
		h.x.listens(head)
	}
	return head, err
}

// Read implements replay.Source.
func (h *heard) Read(ctx context.Context, p []byte) (int, error) {
	n, err := h.Source.Read(ctx, p)
	if n > 0 {
		h.x.hears(ctx, p[:n], -1)
	}
	if err != nil { // the end, perhaps: what is not whole is not kept
		h.x.keep(ctx)
	}
	return n, err
}

// asker asks models for what the policies of a conversation want. It is a session.Caller, and may outlive the request.
type asker struct {
	s    *Server
	f    *Flight
	path string
}

// askDialect is what questions are asked in: every backend can be asked in it.
const askDialect = "openai"

// maxAsked is how much of an answer to such a question is read, in bytes.
const maxAsked = 4 << 20

// chatAPI is the path of chats in askDialect, behind whatever the caller has before the paths of its own dialect.
func (x *exchange) chatAPI() string {
	return x.openaiAPI(chatPath)
}

// Call implements session.Caller.
func (a *asker) Call(ctx context.Context, ask session.Ask) (*canon.Response, error) {
	d, ok := a.s.opts.Dialects.Get(askDialect)
	if !ok || d.Out == nil {
		return nil, &canon.Error{Kind: canon.ErrInternal, Message: "There is no dialect to ask a model in."}
	}
	call, cerr := d.Out.BuildCall(ask.Request, canon.CallOptions{Model: ask.Request.Model})
	if cerr != nil {
		return nil, cerr
	}
	ctx, cancel := context.WithTimeout(ctx, a.f.Rule.Timeout)
	defer cancel()
	l, err := a.s.send(ctx, a.f, &order{
		purpose: string(ask.Purpose), path: a.path, header: http.Header{"Content-Type": {"application/json"}}, body: call.Body,
	})
	if err != nil {
		return nil, err
	}
	defer l.Body.Close()
	body, err := readAll(l.Body, maxAsked)
	if err != nil {
		return nil, err
	}
	if l.StatusCode/100 != 2 {
		return nil, d.Out.ParseError(l.StatusCode, l.Header.Get(wire.RetryAfter), body)
	}
	if !json.Valid(body) {
		return nil, &canon.Error{Kind: canon.ErrBadGateway, Message: "The answer is no JSON."}
	}
	answer, cerr := d.Out.ParseResponse(body)
	if cerr != nil {
		return nil, cerr
	}
	return answer, nil
}
