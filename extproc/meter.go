package extproc

import (
	"bytes"
	"strings"

	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/sse"
)

// meter counts a stream that is in the caller's dialect already, and can end it. Every byte passes as it is, until the
// stream is cut: then the last whole event that passed is followed by what ends an answer that was too long. Only
// requests with a budget that cuts streams have one; the bytes of all others do not come here.
//
// It reads what a chat stream says, of its first choice. A stream that it cannot read passes whole.
type meter struct {
	tally
	decoder canon.StreamDecoder
	encoder canon.StreamEncoder // has seen what the caller has seen
	follows follower            // the encoder, where it follows the provider's own events
	events  sse.Reader          // for follows

	in    canon.Inbound
	reply canon.Reply

	discard []byte // what the encoder prints, which the caller has in the provider's words
	tail    tail
	emit    func(*canon.Event) // onEvent, made once
	next    nextPiece
	usage   bool // the provider's events speak of usage
	over    bool // the caller has had the end
}

// usageKey is in the events of a provider that was asked for usage: in each with null, or in the first with the input.
const usageKey = `"usage":`

// tail is the last bytes that have passed: as many as a search for usageKey must look back.
type tail [len(usageKey) - 1]byte

// follower is the encoder of a dialect whose streams open and close blocks: before it can end a stream that it did not
// write, it must see what is open.
type follower interface {
	// Follow takes an event that the caller has got. It says whether the provider has told why it stopped: then there is
	// nothing left to cut.
	Follow(ev sse.Event) (finished bool)
}

// newMeter makes the meter of an answer. Of reply it uses what ends a stream; where the provider names the answer and its
// model, the end has these names.
func newMeter(d *canon.Dialect, reply canon.Reply, t tally) *meter {
	reply.IncludeUsage = true // cut decides whether there is any
	m := &meter{tally: t, in: d.In, reply: reply, decoder: d.Out.NewStreamDecoder(), encoder: d.In.NewStreamEncoder(reply)}
	m.follows, _ = m.encoder.(follower)
	m.emit = m.onEvent
	for i := range m.tail {
		m.tail[i] = '\n' // the beginning is between two events
	}
	return m
}

// onHeaders asks for the body of a stream. Anything else passes by.
func (m *meter) onHeaders(h *extprocv3.HttpHeaders) *extprocv3.ProcessingResponse {
	stream := false
	for _, kv := range h.GetHeaders().GetHeaders() {
		switch v := value(kv); kv.GetKey() {
		case ":status":
			m.over = m.over || !strings.HasPrefix(v, "2")
		case "content-type":
			stream = strings.HasPrefix(v, "text/event-stream")
		case "content-encoding": // cannot be read
			m.over = true
			m.content.Unreadable()
		}
	}
	if m.over = m.over || !stream || h.GetEndOfStream(); m.over {
		return untouched()
	}
	return &extprocv3.ProcessingResponse{
		Response: &extprocv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: &extprocv3.HeadersResponse{
			Response: &extprocv3.CommonResponse{
				// A stream that may be cut has no length yet.
				HeaderMutation: &extprocv3.HeaderMutation{RemoveHeaders: []string{"content-length"}},
			},
		}},
		ModeOverride: duplex(),
	}
}

// onBody passes a piece of the stream on. It returns nil when there is nothing to say.
func (m *meter) onBody(b *extprocv3.HttpBody) *extprocv3.ProcessingResponse {
	if m.over {
		return nil
	}
	piece := b.GetBody()
	m.read(piece)
	m.deliver()
	if b.GetEndOfStream() {
		m.end()
		return m.next.stream(piece, true)
	}
	if m.due() {
		if n := m.tail.lastEventEnd(piece); n >= 0 {
			return m.next.stream(m.cutAfter(piece[:n:n]), true)
		}
	}
	m.tail.move(piece)
	return m.next.stream(piece, false)
}

// onTrailers ends the stream of a provider that ends with trailers. It returns nil when there is nothing to say.
func (m *meter) onTrailers() *extprocv3.ProcessingResponse {
	if m.over {
		return nil
	}
	m.end()
	return trailers()
}

// read counts a piece.
func (m *meter) read(piece []byte) {
	m.usage = m.usage || m.tail.contains(usageKey, piece)
	if m.follows != nil {
		m.events.Feed(piece, func(ev sse.Event) {
			if m.follows.Follow(ev) {
				m.finished = true
			}
		})
	}
	if !m.decoder.Ended() {
		m.decoder.Feed(piece, m.emit)
	}
	if m.decoder.Ended() {
		m.endDecoder()
	}
}

func (m *meter) onEvent(ev *canon.Event) {
	m.see(ev)
	if m.follows != nil {
		return
	}
	if ev.Kind == canon.EventStart && ev.Model != "" {
		m.reply.Model = ev.Model
		m.encoder = m.in.NewStreamEncoder(m.reply)
	}
	m.discard = m.encoder.Append(m.discard[:0], ev)
}

func (m *meter) end() {
	m.over = true
	m.endDecoder()
}

// endDecoder lets the decoder say what is still due.
func (m *meter) endDecoder() {
	if !m.closed {
		m.closed = true
		m.decoder.End(m.emit)
	}
}

// cutAfter ends the stream after what has passed of it.
func (m *meter) cutAfter(passed []byte) []byte {
	m.over = true
	if n := len(passed); n > 0 && passed[n-1] == '\r' || n == 0 && m.tail[len(m.tail)-1] == '\r' {
		passed = append(passed, '\n') // the second half of a line's end, where lines end in two bytes
	}
	return m.cut(passed, m.encoder, m.usage)
}

// contains says whether key is in piece, or begins in the tail.
func (t *tail) contains(key string, piece []byte) bool {
	var seam [2 * len(t)]byte
	n := copy(seam[:], t[:])
	n += copy(seam[n:], piece)
	return bytes.Contains(seam[:n], []byte(key)) || bytes.Contains(piece, []byte(key))
}

// lastEventEnd finds the last blank line in piece, which follows the tail, and returns the position after it: 0 when it is the
// end of the tail, -1 when there is none.
func (t *tail) lastEventEnd(piece []byte) int {
	at := func(i int) byte {
		if i < 0 {
			return t[len(t)+i]
		}
		return piece[i]
	}
	for i := len(piece); i >= 0; i-- {
		last, before := at(i-1), at(i-2)
		switch {
		case last == '\n' && before == '\n', last == '\r' && (before == '\n' || before == '\r'):
			return i
		case last == '\n' && before == '\r':
			if third := at(i - 3); third == '\n' || third == '\r' {
				return i
			}
		}
	}
	return -1
}

// move makes it the tail of what ends with piece.
func (t *tail) move(piece []byte) {
	if len(piece) >= len(t) {
		copy(t[:], piece[len(piece)-len(t):])
		return
	}
	copy(t[:], t[len(piece):])
	copy(t[len(t)-len(piece):], piece)
}

// duplex asks for pieces of the answer that are not answered one by one. Only in this mode can Weir end an answer: Envoy
// then completes it towards the caller, and resets the request at the backend, which stops generating.
func duplex() *filterv3.ProcessingMode {
	return &filterv3.ProcessingMode{
		ResponseHeaderMode:  filterv3.ProcessingMode_SEND,
		ResponseBodyMode:    filterv3.ProcessingMode_FULL_DUPLEX_STREAMED,
		ResponseTrailerMode: filterv3.ProcessingMode_SEND, // Envoy wants it with this mode
	}
}

// trailers lets trailers pass.
func trailers() *extprocv3.ProcessingResponse {
	return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseTrailers{
		ResponseTrailers: &extprocv3.TrailersResponse{},
	}}
}
