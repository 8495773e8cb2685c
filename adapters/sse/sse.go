// Package sse splits a byte stream into server-sent events, by the WHATWG HTML standard's
// "event stream interpretation", for the stream decoders of all dialects.
//
// It differs from a browser in three things, all of them needed by a gateway: comments are handed
// on (DashScope writes the HTTP status in one, and keep-alives must keep flowing), the event id
// belongs to its event alone, and the size of an event is bounded.
package sse

import (
	"bytes"
	"errors"
)

// DefaultMax is the size of the largest event, in bytes, when Reader.Max is 0. A whole image comes
// in one event where a model answers with pictures.
const DefaultMax = 16 << 20

// ErrTooLarge is what Reader.Err returns after an event that is larger than Reader.Max.
var ErrTooLarge = errors.New("the provider sent a server-sent event that is larger than the limit")

// Event is one event. Its slices are valid only during the call that delivers them.
type Event struct {
	Name []byte // the event field; empty where absent, which means "message"
	// Data is the data lines joined with \n. It is nil when the block had no data line: such an
	// event is delivered only for its Comment.
	Data    []byte
	ID      []byte // the id field of this event, empty where absent
	Comment []byte // the last comment line before the event's end, without its colon; nil where absent
}

// Reader splits a stream. The zero value is ready; it is used by one goroutine. It keeps its
// buffers from event to event, so that a stream in full flow allocates nothing.
type Reader struct {
	// Max bounds the bytes of one event; 0 means DefaultMax.
	Max int

	line    []byte // the beginning of a line whose end has not come yet
	data    []byte
	whole   []byte // the event's only data line so far, as a piece of the chunk; data is empty then
	name    []byte
	id      []byte
	comment []byte

	hasData    bool
	hasComment bool
	skipLF     bool // the last byte was a CR: an LF now belongs to it
	started    bool // the place for a byte order mark is behind us
	err        error
}

var bom = []byte("\xef\xbb\xbf")

// Feed reads a chunk, cut anywhere, and calls emit for each event that ends in it. An event ends at
// a blank line; one without data and without comment is not delivered, as the standard has it.
// After an error Feed does nothing.
func (r *Reader) Feed(chunk []byte, emit func(ev Event)) {
	lines := lineEnds{lf: -1, cr: -1}
	for len(chunk) > 0 && r.err == nil {
		if r.skipLF {
			r.skipLF = false
			if chunk[0] == '\n' {
				chunk = chunk[1:]
				lines.pass(1)
				continue
			}
		}
		end := lines.next(chunk)
		if !r.grows(end) {
			return
		}
		if end == len(chunk) {
			r.line = append(r.line, chunk...)
			break
		}
		line, whole := chunk[:end], len(r.line) == 0
		if !whole {
			r.line = append(r.line, line...)
			line = r.line
		}
		r.skipLF = chunk[end] == '\r'
		chunk = chunk[end+1:]
		lines.pass(end + 1)
		r.take(line, whole, emit)
		r.line = r.line[:0]
	}
	r.keep()
}

// keep copies what the event has in the chunk.
func (r *Reader) keep() {
	if r.whole != nil {
		r.data = append(r.data[:0], r.whole...)
		r.whole = nil
	}
}

// Partial reports whether bytes of an event that never ended are held. The standard says that such
// an event is not delivered: after the last byte of a stream, Partial tells that it was cut short.
// A lone comment is no event.
func (r *Reader) Partial() bool {
	if len(r.line) > 0 && r.line[0] != ':' {
		return true
	}
	return r.hasData || len(r.name) > 0
}

// Err is the error that stopped the reader: ErrTooLarge, or nil.
func (r *Reader) Err() error { return r.err }

// grows checks that n more bytes of the present event are within the limit.
func (r *Reader) grows(n int) bool {
	limit := r.Max
	if limit <= 0 {
		limit = DefaultMax
	}
	if len(r.line)+len(r.whole)+len(r.data)+len(r.name)+len(r.id)+len(r.comment)+n <= limit {
		return true
	}
	r.err = ErrTooLarge
	r.line, r.whole, r.data = nil, nil, nil
	return false
}

// take reads one line without its end. whole says that it is a piece of the chunk, which stays as it is until Feed returns.
func (r *Reader) take(line []byte, whole bool, emit func(ev Event)) {
	if !r.started {
		r.started = true
		line = bytes.TrimPrefix(line, bom)
	}
	if len(line) == 0 {
		r.dispatch(emit)
		return
	}
	field, value := line, []byte(nil)
	if colon := bytes.IndexByte(line, ':'); colon >= 0 {
		field, value = line[:colon], line[colon+1:]
		if len(value) > 0 && value[0] == ' ' {
			value = value[1:]
		}
	}
	switch string(field) {
	case "data":
		switch {
		case !r.hasData && whole:
			r.whole = value[:len(value):len(value)]
		case !r.hasData:
			r.data = append(r.data, value...)
		default:
			r.keep()
			r.data = append(append(r.data, '\n'), value...)
		}
		r.hasData = true
	case "event":
		r.name = append(r.name[:0], value...)
	case "id":
		if bytes.IndexByte(value, 0) < 0 {
			r.id = append(r.id[:0], value...)
		}
	case "":
		if r.comment == nil {
			r.comment = make([]byte, 0, 64)
		}
		r.comment = append(r.comment[:0], value...)
		r.hasComment = true
	}
}

func (r *Reader) dispatch(emit func(ev Event)) {
	if r.hasData || r.hasComment {
		ev := Event{Name: r.name, ID: r.id}
		if r.hasData {
			ev.Data = r.data
			if r.whole != nil {
				ev.Data = r.whole
			}
			if ev.Data == nil {
				ev.Data = []byte{} // an empty data line differs from none
			}
		}
		if r.hasComment {
			ev.Comment = r.comment
		}
		emit(ev)
	}
	r.whole = nil
	r.data, r.name, r.id, r.comment = r.data[:0], r.name[:0], r.id[:0], r.comment[:0]
	r.hasData, r.hasComment = false, false
}

// lineEnds finds the ends of a chunk's lines, with one search for each of the two bytes that end lines, whichever a stream uses.
// The fields are the places of the next of each in what is left of the chunk; -1 where they must be searched for.
type lineEnds struct{ lf, cr int }

// next is the place of the first CR or LF of what is left of the chunk; its length where there is none.
func (l *lineEnds) next(rest []byte) int {
	if l.lf < 0 {
		l.lf = indexOr(rest, '\n')
	}
	if l.cr < 0 {
		l.cr = indexOr(rest, '\r')
	}
	return min(l.lf, l.cr)
}

// pass tells that n bytes of the chunk are done with.
func (l *lineEnds) pass(n int) {
	l.lf, l.cr = max(l.lf-n, -1), max(l.cr-n, -1)
}

func indexOr(b []byte, c byte) int {
	if i := bytes.IndexByte(b, c); i >= 0 {
		return i
	}
	return len(b)
}
