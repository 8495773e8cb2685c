// Package replay gives an answer that was bought for one caller to another: kept or still coming, in the other's dialect, as a stream
// or as one JSON text.
//
// A caller of the same dialect who asks in the same mode gets the same bytes. Any other gets what a translation of the provider's
// answer would have been: it is read by the dialect's Out and printed by the caller's In. The identifier of the answer stays; the
// model is called what the caller called it. What canon cannot carry does not come through a translation, which is why requests
// that ask for such things have a key of their own for each dialect and mode (package key).
//
// OpenAI's streams have a last event with the usage only for callers who ask for it. Answers are to be bought with it; it is taken out for
// callers who did not ask.
package replay

import (
	"errors"
	"fmt"
	"strings"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/cache"
)

// To is whom an answer is told to.
type To struct {
	Dialect *canon.Dialect
	Stream  bool // the caller asked for one
	Reply   canon.Reply
	// RequestID is told in errors by dialects that have a place for it.
	RequestID string
}

// Answer is what a caller gets.
type Answer struct {
	Status int
	Header [][2]string // names in lower case
	Body   []byte      // not to be changed: it may be the entry's
}

// Player replays answers. It is safe for concurrent use.
type Player struct {
	dialects *adapters.Set
}

// New makes a Player of the dialects in which answers are kept.
func New(dialects *adapters.Set) *Player { return &Player{dialects} }

// ErrUnplayable is returned for an answer that cannot be told in the caller's dialect or mode: it is to be bought anew.
var ErrUnplayable = errors.New("the answer cannot be told in the caller's dialect")

// ErrUnreadable is returned for an answer that is not what it says it is: it is to be thrown away, and bought anew.
var ErrUnreadable = errors.New("the answer cannot be read")

// Plays tells whether answers with this head can be told to the caller.
func (p *Player) Plays(h *cache.Head, to *To) bool {
	if same(h, to) {
		return true
	}
	d, ok := p.dialects.Get(h.Dialect)
	return ok && d.Out != nil && h.Operation == canon.OpChat && to.Dialect.In != nil
}

// Whole tells an answer that is kept. The bytes of a stream are those of all its events. Where the answer does not tell when it was
// made, it was when it was stored, so that each time it is told it is the same.
func (p *Player) Whole(e *cache.Entry, to To) (Answer, error) {
	if !e.Stored.IsZero() {
		to.Reply.Created = e.Stored.Unix()
	}
	if same(&e.Head, &to) && !hides(&e.Head, &to, e.Body) {
		return Answer{e.Status, e.Header, e.Body}, nil
	}
	t, err := p.teller(&e.Head, to)
	if err != nil {
		return Answer{}, err
	}
	t.feed(e.Body)
	if err := t.end(); err != nil {
		return Answer{}, err
	}
	return Answer{t.status, t.header, t.out}, nil
}

// same tells whether the caller can have the bytes as they are. An error is a JSON text whatever was asked for.
func same(h *cache.Head, to *To) bool {
	return h.Dialect == to.Dialect.Name && (h.Stream == to.Stream || h.Status/100 != 2)
}

// Content types of what is printed here.
const (
	contentJSON   = "application/json"
	contentEvents = "text/event-stream; charset=utf-8"
)

// headersFor gives the headers of an answer that is printed anew: what else a provider's answer had does not belong to it.
func headersFor(h *cache.Head, contentType string) [][2]string {
	list := [][2]string{{"content-type", contentType}}
	if contentType == contentEvents {
		list = append(list, [2]string{"cache-control", "no-cache"})
	}
	if v := h.Get("retry-after"); v != "" {
		list = append(list, [2]string{"retry-after", v})
	}
	return list
}

// Read reads a whole answer to a chat, which is how it is known that it is complete before it is kept, and what it says. An answer with
// another status than 2xx, or with an error in it, or that broke off, is an error.
func (p *Player) Read(h *cache.Head, body []byte) (*canon.Response, *canon.Error) {
	d, ok := p.dialects.Get(h.Dialect)
	if !ok || d.Out == nil || h.Operation != canon.OpChat {
		return nil, &canon.Error{Kind: canon.ErrInternal, Message: fmt.Sprintf("An answer to %s in the dialect %q cannot be read.", h.Operation, h.Dialect)}
	}
	switch {
	case h.Status/100 != 2:
		return nil, d.Out.ParseError(h.Status, h.Get("retry-after"), body)
	case !h.Stream:
		return d.Out.ParseResponse(body)
	}
	var c collector
	dec := d.Out.NewStreamDecoder()
	dec.Feed(body, c.add)
	dec.End(c.add)
	return c.response()
}

// isEvents tells whether a content type is that of server-sent events.
func isEvents(contentType string) bool {
	kind, _, _ := strings.Cut(contentType, ";")
	return strings.EqualFold(strings.TrimSpace(kind), "text/event-stream")
}

// IsStream tells whether an answer with these headers, names in lower case, is a stream: what Head.Stream is to be.
func IsStream(status int, header [][2]string) bool {
	h := cache.Head{Header: header}
	return status/100 == 2 && isEvents(h.Get("content-type"))
}
