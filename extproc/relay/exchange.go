package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/cache/replay"
	sessionresponses "github.com/weir-dev/weir/extproc/session/responses"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage"
)

// exchange is one request that the relay answers.
type exchange struct {
	*Server
	*Flight
	w     http.ResponseWriter
	r     *http.Request
	began time.Time

	op         canon.Operation // that a backend is asked for
	path       string          // where, with the query
	body       []byte          // that a backend is to get
	request    *canon.Request  // of body; nil until it is asked for, and where it cannot be read
	unreadable bool
	outcome    string // what came of the cache; "" where none covers the request
	begun      bool   // the head of the answer has gone to the caller
	broken     bool   // the answer broke off
	sticky     string
	talk       *talk // its turn in a conversation; nil where it has none

	// Of a request of the Responses API that is asked for as a chat: whom its answer is told to, the path by which its rule is found, and what the
	// chat does not say.
	api     *sessionresponses.Exchange
	told    *replay.To
	as      string
	dropped []string

	// Its own fill, and the head of that one's answer: of the goroutine that buys it.
	own     atomic.Pointer[Fill]
	landing atomic.Pointer[landed]
}

// serve answers the request.
func (x *exchange) serve(ctx context.Context) {
	body, err := readBody(x.r)
	if err != nil {
		x.broken = true // Envoy has given up
		return
	}
	x.body = body
	if x.Resource {
		x.resource(ctx)
		return
	}
	x.op, x.path = x.Endpoint.Op, x.r.URL.RequestURI()
	if x.op == canon.OpResponses && x.Session != nil && !x.respond(ctx) {
		return
	}
	if x.Session != nil && !x.converse(ctx) {
		return
	}
	if x.Cache != nil {
		x.cached(ctx)
		return
	}
	x.pass(ctx)
}

// end counts the request.
func (x *exchange) end() {
	x.endTalk()
	word := x.outcome
	if word == "" {
		word = "none"
	}
	x.metrics.requests.WithLabelValues(word).Inc()
	x.metrics.duration.WithLabelValues(word).Observe(x.opts.Now().Sub(x.began).Seconds())
}

// order is the fill that answers the request.
func (x *exchange) order() *order {
	return &order{cache: x.outcome, sticky: x.sticky, path: x.path, as: x.as, header: x.r.Header, host: x.r.Host, body: x.body}
}

// pass gives the caller what a backend answers, as it comes. A caller who leaves ends it.
func (x *exchange) pass(ctx context.Context) {
	l, err := x.send(ctx, x.Flight, x.order())
	if err != nil {
		x.fail(ctx, l.fill)
		return
	}
	defer l.Body.Close()
	x.landed(l)
	if x.told != nil {
		x.tell(ctx, l)
		return
	}
	x.listens(headOf(l, x.Dialect.Name, x.op))
	copyHeader(x.w.Header(), l.Header)
	x.head(l.StatusCode)
	x.broken = x.copy(ctx, l.Body, l.ContentLength) != nil
}

// landed notes which backend answers.
func (x *exchange) landed(l *landed) {
	if o, _ := l.fill.outcome(); o != nil && l.backend() != "" {
		x.Open.Serve(usage.Served{Cache: x.outcome, Fill: o, Backend: l.backend()})
	}
}

// head sends the head of an answer, with what the relay says.
func (x *exchange) head(status int) {
	h := x.w.Header()
	h["Date"] = nil // Envoy's business
	if x.outcome != "" {
		h.Set(wire.CacheHeader, x.outcome)
	}
	x.sayState()
	x.begun = true
	x.w.WriteHeader(status)
}

// refuse answers with an error of the relay's own.
func (x *exchange) refuse(e *canon.Error) {
	x.Open.Serve(refusedWith(x.outcome, e))
	x.deny(e)
}

// fail answers where a fill has got no answer. A caller who has left gets nothing.
func (x *exchange) fail(ctx context.Context, fill *Fill) {
	if x.r.Context().Err() != nil {
		x.broken = true
		return
	}
	e := failure(ctx)
	if o, refused := fill.outcome(); o == nil && refused == nil { // it did not come so far
		x.Open.Serve(refusedWith(x.outcome, e))
	}
	x.deny(e)
}

// deny writes an error, in place of whatever was to be written.
func (x *exchange) deny(e *canon.Error) {
	clear(x.w.Header())
	x.sayState()
	x.begun = true
	writeError(x.w, x.Dialect, e, x.RequestID)
}

// buffers are for copying answers.
var buffers = sync.Pool{New: func() any { b := make([]byte, copyBuffer); return &b }}

// copyBuffer is how much of an answer is copied at a time, in bytes.
const copyBuffer = 32 << 10

// copy gives the caller an answer, each piece when it comes. length is that of all of it, negative where it is not known.
func (x *exchange) copy(ctx context.Context, from io.Reader, length int64) error {
	flush := http.NewResponseController(x.w)
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for {
		n, err := from.Read(*buf)
		if n > 0 {
			x.hears(ctx, (*buf)[:n], length)
			if _, err := x.w.Write((*buf)[:n]); err != nil {
				return err
			}
			if n < len(*buf) { // nothing more has come
				if err := flush.Flush(); err != nil {
					return err
				}
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			x.keep(ctx)
			return nil
		case err != nil:
			return err
		}
	}
}

// readAll reads an answer that is no larger than most bytes.
func readAll(from io.Reader, most int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(from, most+1))
	if err == nil && int64(len(body)) > most {
		return nil, fmt.Errorf("the answer has more than %d bytes", most)
	}
	return body, err
}
