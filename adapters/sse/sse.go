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
	for len(chunk) > 0 && r.err == nil {
		if r.skipLF {
			r.skipLF = false
			if chunk[0] == '\n' {
				chunk = chunk[1:]
				continue
			}
		}
		end := lineEnd(chunk)
		if end < 0 {
			if r.grows(len(chunk)) {
				r.line = append(r.line, chunk...)
			}
			return
		}
		if !r.grows(end) {
			return
		}
		line := chunk[:end]
		if len(r.line) > 0 {
			r.line = append(r.line, line...)
			line = r.line
		}
		r.skipLF = chunk[end] == '\r'
		chunk = chunk[end+1:]
		r.take(line, emit)
		r.line = r.line[:0]
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
	if len(r.line)+len(r.data)+len(r.name)+len(r.id)+len(r.comment)+n <= limit {
		return true
	}
	r.err = ErrTooLarge
	r.line, r.data = nil, nil
	return false
}

// take reads one line without its end.
func (r *Reader) take(line []byte, emit func(ev Event)) {
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
		if r.data == nil {
			r.data = make([]byte, 0, 512) // never nil: an empty data line differs from none
		}
		if r.hasData {
			r.data = append(r.data, '\n')
		}
		r.data = append(r.data, value...)
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
		}
		if r.hasComment {
			ev.Comment = r.comment
		}
		emit(ev)
	}
	r.data, r.name, r.id, r.comment = r.data[:0], r.name[:0], r.id[:0], r.comment[:0]
	r.hasData, r.hasComment = false, false
}

// lineEnd is the index of the first CR or LF, or -1. One pass, whichever of the two a stream uses.
func lineEnd(b []byte) int {
	for i, c := range b {
		if c == '\n' || c == '\r' {
			return i
		}
	}
	return -1
}
