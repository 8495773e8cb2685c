package relay

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/extproc/cache/replay"
	sessionresponses "github.com/weir-dev/weir/extproc/session/responses"
	"github.com/weir-dev/weir/extproc/wire"
)

// The paths of OpenAI's two APIs from the dialect's root on.
const (
	responsesPath = "/responses"
	chatPath      = "/chat/completions"
)

// respond makes a chat of a request of OpenAI's Responses API: from then on the exchange asks for the chat, and tells its answer as that API
// does. It says whether it could; else it has refused.
func (x *exchange) respond(ctx context.Context) bool {
	c := sessionresponses.Caller{Tenant: x.Identity.Tenant, Consumer: x.Identity.ConsumerID}
	if x.Session != nil {
		c.Policy = x.Session.Policy
	}
	api, cerr := x.opts.Responses.Begin(ctx, c, x.body)
	if cerr != nil {
		x.refuse(cerr)
		return false
	}
	body, dropped, cerr := api.Print(api.Chat())
	if cerr != nil {
		x.refuse(cerr)
		return false
	}
	path, query, _ := strings.Cut(x.r.URL.RequestURI(), "?")
	x.as = path
	path = strings.TrimSuffix(strings.TrimSuffix(path, "/"), responsesPath) + chatPath
	if query != "" {
		path += "?" + query
	}
	x.api, x.body, x.op, x.path, x.dropped = api, body, canon.OpChat, path, dropped
	x.told = &replay.To{Dialect: api.Dialect(), Stream: api.Stream(), Reply: api.Reply(), RequestID: x.RequestID}
	return true
}

// tell gives the caller the answer to a fill of its own in another shape than it comes in.
func (x *exchange) tell(ctx context.Context, l *landed) {
	head := headOf(l, x.Dialect.Name, x.op)
	err := x.player.Live(ctx, x.hearing(&answerBody{head, l.Body}), x.to(), &ownSink{x, l})
	var broken *replay.Broken
	switch {
	case err == nil, errors.As(err, &broken) && broken.Told:
	case x.begun:
		x.broken = true
	case errors.Is(err, replay.ErrUnplayable), errors.Is(err, replay.ErrUnreadable):
		x.refuse(&canon.Error{Kind: canon.ErrBadGateway, Message: "The backend's answer could not be read."})
	default:
		x.fail(ctx, l.fill)
	}
}

// answerBody is the answer to a fill as a replay.Source.
type answerBody struct {
	head cache.Head
	body io.Reader
}

// Head implements replay.Source.
func (a *answerBody) Head(context.Context) (cache.Head, error) { return a.head, nil }

// Read implements replay.Source.
func (a *answerBody) Read(_ context.Context, p []byte) (int, error) { return a.body.Read(p) }

// ownSink is the caller whose own fill is told. It is a replay.Sink.
type ownSink struct {
	x *exchange
	l *landed
}

// Begin implements replay.Sink.
func (s *ownSink) Begin(status int, header [][2]string) error {
	h := s.x.w.Header()
	copyHeader(h, s.l.Header)
	h.Del("content-length")
	for _, kv := range header {
		h.Set(kv[0], kv[1])
	}
	s.x.sayDropped(h)
	s.x.head(status)
	return nil
}

// Write implements replay.Sink.
func (s *ownSink) Write(p []byte) (int, error) {
	n, err := s.x.w.Write(p)
	if err != nil {
		return n, err
	}
	return n, http.NewResponseController(s.x.w).Flush()
}

// sayDropped names what was left out when the request became a chat, before what a translation left out.
func (x *exchange) sayDropped(h http.Header) {
	if len(x.dropped) == 0 {
		return
	}
	list := strings.Join(x.dropped, ", ")
	if more := h.Get(wire.DroppedHeader); more != "" {
		list += ", " + more
	}
	h.Set(wire.DroppedHeader, list)
}

// resource answers a request for something that the Responses API keeps. It has no entry in the ledger: nothing is bought for it.
func (x *exchange) resource(ctx context.Context) {
	x.begun = true
	out, cerr := x.opts.Responses.Resource(ctx, &sessionresponses.Request{
		Tenant: x.Identity.Tenant, Consumer: x.Identity.ConsumerID, Policies: x.Keepers,
		Method: x.r.Method, Path: x.r.URL.Path, Query: x.r.URL.Query(), Body: x.body,
	})
	if cerr != nil {
		writeError(x.w, x.Dialect, cerr, x.RequestID)
		return
	}
	h := x.w.Header()
	h["Date"] = nil // Envoy's business
	h.Set("content-type", "application/json")
	h.Set("content-length", strconv.Itoa(len(out)))
	x.w.WriteHeader(http.StatusOK)
	_, err := x.w.Write(out)
	x.broken = err != nil
}
