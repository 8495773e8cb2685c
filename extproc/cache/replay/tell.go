package replay

import (
	"bytes"
	"fmt"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/cache"
)

// eventTail is the longer of the two ways in which an event ends.
const eventTail = "\r\n\r\n"

// teller prints one answer for one caller, as its pieces come. It is used by one goroutine.
type teller struct {
	head cache.Head
	to   To
	from canon.Outbound // nil where bytes are not read

	// What the caller gets; the status and the headers are known once ready is true, which is at the end where the answer must be
	// whole for them.
	ready  bool
	status int
	header [][2]string
	out    []byte // printed and not yet taken

	gather  []byte // an answer that is read when it is whole
	hide    *hider // takes the usage out of the same bytes
	copies  bool   // the same bytes
	tail    []byte // their last, to know whether an event is under way
	decoder canon.StreamDecoder
	encoder canon.StreamEncoder // nil where the events are collected
	collect collector
	closed  bool // the decoder has ended
	emit    func(*canon.Event)
}

// teller makes the teller of answers with a head.
func (p *Player) teller(h *cache.Head, to To) (*teller, error) {
	t := &teller{head: *h, to: to}
	if same(h, &to) {
		t.copies = true
		t.begin(h.Status, h.Header)
		if hides(h, &to, nil) {
			t.hide = &hider{}
		}
		return t, nil
	}
	if !p.Plays(h, &to) {
		return nil, fmt.Errorf("%w: it is an answer to %s in the dialect %q", ErrUnplayable, h.Operation, h.Dialect)
	}
	d, _ := p.dialects.Get(h.Dialect)
	t.from = d.Out
	if !h.Stream || h.Status/100 != 2 {
		return t, nil
	}
	t.decoder = d.Out.NewStreamDecoder()
	t.emit = t.collect.add
	if to.Stream {
		t.encoder = to.Dialect.In.NewStreamEncoder(to.Reply)
		t.emit = t.print
		t.begin(200, headersFor(h, contentEvents))
	}
	return t, nil
}

func (t *teller) begin(status int, header [][2]string) {
	t.ready, t.status, t.header = true, status, header
}

func (t *teller) print(ev *canon.Event) { t.out = t.encoder.Append(t.out, ev) }

// feed reads a piece, cut anywhere.
func (t *teller) feed(piece []byte) {
	if t.copies {
		t.tail = append(t.tail, piece[max(0, len(piece)-len(eventTail)):]...)
		t.tail = append(t.tail[:0], t.tail[max(0, len(t.tail)-len(eventTail)):]...)
	}
	switch {
	case t.hide != nil:
		t.out = t.hide.feed(t.out, piece)
	case t.copies:
		t.out = append(t.out, piece...)
	case t.decoder == nil:
		t.gather = append(t.gather, piece...)
	case !t.closed:
		t.decoder.Feed(piece, t.emit)
		// A provider may say its last event and keep the stream open.
		if t.decoder.Ended() {
			t.close()
		}
	}
}

func (t *teller) close() {
	t.closed = true
	t.decoder.End(t.emit)
	if t.encoder != nil {
		t.out = t.encoder.End(t.out)
	}
}

// end tells that the answer is whole.
func (t *teller) end() error {
	switch {
	case t.hide != nil:
		t.out = t.hide.end(t.out)
	case t.copies:
	case t.decoder == nil:
		return t.whole()
	default:
		if !t.closed {
			t.close()
		}
		if t.encoder == nil {
			r, err := t.collect.response()
			return t.answer(r, err)
		}
	}
	return nil
}

// whole prints what was gathered.
func (t *teller) whole() error {
	if t.head.Status/100 != 2 {
		return t.fail(t.from.ParseError(t.head.Status, t.head.Get("retry-after"), t.gather))
	}
	r, err := t.from.ParseResponse(t.gather)
	return t.answer(r, err)
}

// answer prints a response, or the error that came in its place.
func (t *teller) answer(r *canon.Response, err *canon.Error) error {
	switch {
	case err != nil && err.Kind == canon.ErrBadGateway && t.head.Status/100 == 2:
		return fmt.Errorf("%w: %s", ErrUnreadable, err.Message)
	case err != nil:
		return t.fail(err)
	case !t.to.Stream:
		t.begin(200, headersFor(&t.head, contentJSON))
		t.out = t.to.Dialect.In.AppendResponse(t.out, r, t.to.Reply)
	default:
		t.begin(200, headersFor(&t.head, contentEvents))
		t.encoder = t.to.Dialect.In.NewStreamEncoder(t.to.Reply)
		r.Events(t.print)
		t.out = t.encoder.End(t.out)
	}
	return nil
}

// fail prints an error of a backend.
func (t *teller) fail(err *canon.Error) error {
	if err.Kind == canon.ErrAuthentication {
		err.Message = canon.BackendCredential
	}
	t.begin(err.HTTPStatus(), headersFor(&t.head, contentJSON))
	t.out = t.to.Dialect.In.AppendError(t.out, err, t.to.RequestID)
	return nil
}

// broke tells that no more will come of an answer that is not whole. What is due is printed; told says that the caller can read from it
// that the answer is not whole.
func (t *teller) broke(err *canon.Error) (told bool) {
	switch {
	case t.copies:
		if t.hide != nil {
			t.out = t.hide.end(t.out)
		}
		whole := len(t.tail) == 0 || bytes.HasSuffix(t.tail, []byte("\n\n")) || bytes.HasSuffix(t.tail, []byte(eventTail))
		if !whole || !t.head.Stream || t.status/100 != 2 {
			return false
		}
	case t.encoder == nil:
		return false
	}
	if t.closed {
		return true // the answer was whole before what carried it broke
	}
	if t.encoder == nil {
		t.encoder = t.to.Dialect.In.NewStreamEncoder(t.to.Reply)
	}
	t.closed = true
	t.out = t.encoder.Append(t.out, &canon.Event{Kind: canon.EventError, Err: err})
	return true
}
