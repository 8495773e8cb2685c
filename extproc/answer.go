package extproc

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
)

// answer translates one attempt's answer. Server-sent events are translated as they come; everything else is held
// until it is whole, because a provider may report a failure under status 200, and the caller's status
// is only known then.
//
// It keeps nothing of the request: an answer may take minutes, and a prompt tens of MB.
type answer struct {
	tally
	in        canon.Inbound
	out       canon.Outbound
	reply     canon.Reply
	stream    bool // the caller asked for one
	dropped   []string
	requestID string

	status     int
	retryAfter string
	decoder    canon.StreamDecoder // nil unless the answer is a stream
	encoder    canon.StreamEncoder
	duplex     bool               // the stream can be cut
	over       bool               // it was
	emit       func(*canon.Event) // onEvent, made once
	buf        []byte             // what takes the place of a piece, until the next one
	next       nextPiece
}

func newAnswer(e *exchange, b *table.Backend, dropped []string, requestID string) *answer {
	return &answer{
		in: e.dialect.In, out: b.Dialect.Out, stream: e.stream, dropped: dropped, requestID: requestID,
		reply: canon.Reply{Model: e.model, ID: e.id, Created: e.created.Unix(), IncludeUsage: e.request.IncludeUsage},
	}
}

// onBody translates a piece of the answer. It returns nil when there is nothing to say: after a cut.
func (a *answer) onBody(b *extprocv3.HttpBody) *extprocv3.ProcessingResponse {
	if a.decoder != nil {
		return a.onChunk(b)
	}
	return a.onWhole(b.GetBody())
}

// onTrailers ends a stream that can be cut and whose provider ends it with trailers; those of other answers pass by. It
// returns nil when there is nothing to say.
func (a *answer) onTrailers() *extprocv3.ProcessingResponse {
	if a.closed && !a.over {
		return trailers()
	}
	return a.onChunk(&extprocv3.HttpBody{EndOfStream: true}) // the trailers themselves mean nothing to the caller
}

func (a *answer) onHeaders(h *extprocv3.HttpHeaders) *extprocv3.ProcessingResponse {
	contentType := ""
	headers := h.GetHeaders().GetHeaders()
	for _, kv := range headers {
		switch kv.GetKey() {
		case ":status":
			a.status, _ = strconv.Atoi(value(kv))
		case "content-type":
			contentType = value(kv)
		case "retry-after":
			a.retryAfter = value(kv)
		}
	}
	common := &extprocv3.CommonResponse{}
	resp := &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseHeaders{
		ResponseHeaders: &extprocv3.HeadersResponse{Response: common},
	}}
	common.HeaderMutation = &extprocv3.HeaderMutation{RemoveHeaders: foreign(headers)}
	if len(a.dropped) > 0 {
		common.HeaderMutation.SetHeaders = append(common.HeaderMutation.SetHeaders, header(wire.DroppedHeader, join(a.dropped)))
	}
	set := func(h ...*corev3.HeaderValueOption) {
		common.HeaderMutation.SetHeaders = append(common.HeaderMutation.SetHeaders, h...)
	}
	switch {
	case h.GetEndOfStream():
		// No body follows, so what the caller reads is made here.
		status, body, _ := a.whole(nil)
		set(header(":status", strconv.Itoa(status)), header("content-type", contentJSON), header("content-length", strconv.Itoa(len(body))))
		common.Status = extprocv3.CommonResponse_CONTINUE_AND_REPLACE
		common.BodyMutation = &extprocv3.BodyMutation{Mutation: &extprocv3.BodyMutation_Body{Body: body}}
	case a.stream && a.status/100 == 2 && strings.HasPrefix(contentType, "text/event-stream"):
		a.decoder = a.out.NewStreamDecoder()
		a.encoder = a.in.NewStreamEncoder(a.reply)
		a.emit = a.onEvent
		set(header("content-type", "text/event-stream; charset=utf-8"), header("cache-control", "no-cache"))
		if a.stop != nil {
			a.duplex, resp.ModeOverride = true, duplex()
		}
	default:
		resp.ModeOverride = &filterv3.ProcessingMode{
			ResponseHeaderMode: filterv3.ProcessingMode_SEND, ResponseBodyMode: filterv3.ProcessingMode_BUFFERED,
		}
	}
	return resp
}

// kept are headers of a provider's answer that mean the same to every caller, and those that Envoy has added.
var kept = map[string]bool{":status": true, "date": true, "retry-after": true, "retry-after-ms": true, "x-should-retry": true, "content-type": true,
	wire.RouteHeader: true, wire.BackendHeader: true}

// foreign lists the headers that belong to the provider's dialect or to the bytes that are replaced.
func foreign(headers []*corev3.HeaderValue) []string {
	out := make([]string, 0, len(headers))
	for _, kv := range headers {
		if name := kv.GetKey(); !kept[name] && !slices.Contains(wire.AnswerHeaders, name) {
			out = append(out, name)
		}
	}
	return out
}

// onChunk translates what has come of a stream.
func (a *answer) onChunk(b *extprocv3.HttpBody) *extprocv3.ProcessingResponse {
	if a.over {
		return nil
	}
	a.buf = a.buf[:0]
	if len(b.GetBody()) > 0 && !a.closed {
		a.decoder.Feed(b.GetBody(), a.emit)
	}
	// A provider may say its last event and keep the connection open, or end with trailers.
	if !a.closed && (b.GetEndOfStream() || a.decoder.Ended()) {
		a.closed = true
		a.decoder.End(a.emit)
		a.buf = a.encoder.End(a.buf)
	}
	a.deliver()
	if a.duplex {
		end := b.GetEndOfStream()
		if !end && a.due() {
			a.over, end = true, true
			a.buf = a.cut(a.buf, a.encoder, true)
		}
		return a.next.stream(a.buf, end)
	}
	return a.next.replace(a.buf)
}

// onEvent counts and prints one event.
func (a *answer) onEvent(ev *canon.Event) {
	a.see(ev)
	if ev.Kind == canon.EventError && a.account != nil {
		a.account.Fail()
	}
	a.buf = a.encoder.Append(a.buf, ev)
}

// onWhole translates an answer that is not a stream.
func (a *answer) onWhole(provider []byte) *extprocv3.ProcessingResponse {
	status, body, contentType := a.whole(provider)
	return bodyResponse(&extprocv3.CommonResponse{
		HeaderMutation: &extprocv3.HeaderMutation{SetHeaders: []*corev3.HeaderValueOption{
			header(":status", strconv.Itoa(status)), header("content-type", contentType), header("content-length", strconv.Itoa(len(body))),
		}},
		BodyMutation: &extprocv3.BodyMutation{Mutation: &extprocv3.BodyMutation_Body{Body: body}},
	})
}

// whole gives the caller's status, body and content type for a provider's.
func (a *answer) whole(provider []byte) (status int, body []byte, contentType string) {
	fail := func(err *canon.Error) (int, []byte, string) {
		if err.Kind == canon.ErrAuthentication {
			err.Message = canon.BackendCredential
		}
		return err.HTTPStatus(), a.in.AppendError(nil, err, a.requestID), contentJSON
	}
	if a.status/100 != 2 {
		return fail(a.out.ParseError(a.status, a.retryAfter, provider))
	}
	r, err := (*canon.Response)(nil), &canon.Error{Kind: canon.ErrBadGateway, Message: "The backend sent a stream that was not asked for."}
	if !isEventStream(provider) {
		r, err = a.out.ParseResponse(provider)
	}
	if err != nil {
		if err.Kind == canon.ErrBadGateway && a.account != nil {
			a.account.Fail() // something was generated, and may be billed
		}
		return fail(err)
	}
	a.seeWhole(r)
	if !a.stream {
		return 200, a.in.AppendResponse(nil, r, a.reply), contentJSON
	}
	// The caller asked for a stream and the provider gave a whole answer: a stream of one step.
	enc := a.in.NewStreamEncoder(a.reply)
	r.Events(func(ev *canon.Event) { body = enc.Append(body, ev) })
	return 200, enc.End(body), "text/event-stream; charset=utf-8"
}

func isEventStream(body []byte) bool {
	body = bytes.TrimLeft(body, " \r\n\t")
	return bytes.HasPrefix(body, []byte("data:")) || bytes.HasPrefix(body, []byte("event:"))
}

func bodyResponse(common *extprocv3.CommonResponse) *extprocv3.ProcessingResponse {
	return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseBody{
		ResponseBody: &extprocv3.BodyResponse{Response: common},
	}}
}
