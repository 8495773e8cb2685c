package extproc

import (
	"net/netip"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/message"
	"github.com/weir-dev/weir/extproc/wire"
)

// request is what a decision reads of a request.
type request struct {
	method      string
	path        string // without the query
	query       string // raw, without "?"
	requestID   string
	traceparent string
	flight      string // the fill that it is, at the inner listener
	entered     string // the exchange of a lane that it has entered, though Envoy asks
	encoding    string // content-encoding
	contentType string
	hosts       bool // more than one, which RFC 9112 section 3.2 forbids
	upgrade     bool
	credentials identity.Headers
	source      netip.Addr // the zero value where it is not known
	headers     []message.Header

	peek peek
}

// peek is what the peek filter read in the body.
type peek struct {
	read   bool
	model  string // raw JSON
	stream string // raw JSON
	err    string
	id     string // of the request, unique
	void   string // an exchange that the request was to have, and came too late for
	lane   bool   // the door can let requests in that were decided ahead of their coming

	// Raw JSON numbers; "" where there are none.
	maxTokens, maxCompletionTokens, maxOutputTokens, n string

	size, media int64 // bytes of the body, and how many of them look like media in base64
	mediaCount  int64
}

// readRequest reads the message that an exchange begins with.
func readRequest(m *message.Request) *request {
	r := &request{headers: m.Headers}
	for i := range m.Headers {
		h := &m.Headers[i]
		switch h.Name {
		case ":method":
			r.method = h.Value
		case ":path":
			r.path, r.query, _ = strings.Cut(h.Value, "?")
		case "x-request-id":
			r.requestID = h.Value
		case wire.TraceHeader:
			if r.traceparent != "" { // several lines are none
				r.traceparent += ","
			}
			r.traceparent += h.Value
		case wire.FlightHeader:
			r.flight = h.Value
		case wire.LaneHeader:
			r.entered = h.Value
		case "content-encoding":
			r.encoding = h.Value
		case "content-type":
			r.contentType = h.Value
		case ":authority": // Envoy joins several lines
			r.hosts = strings.Contains(h.Value, ",")
		case "upgrade":
			r.upgrade = true
		case "authorization", "x-api-key", "api-key", "x-goog-api-key":
			r.credentials.Add(h.Name, h.Value)
		}
	}
	for i := range m.Peek {
		r.found(&m.Peek[i])
	}
	// Records of the request are kept when it is over, and must not keep all that came with it.
	kept := r.requestID + r.peek.id + r.path
	r.requestID, kept = kept[:len(r.requestID)], kept[len(r.requestID):]
	r.peek.id, r.path = kept[:len(r.peek.id)], kept[len(r.peek.id):]
	return r
}

// found takes what the peek filter says.
func (r *request) found(f *message.Field) {
	p := &r.peek
	switch f.Key {
	case wire.PeekID:
		p.id = f.Text
	case wire.PeekVoid:
		p.void = f.Text
	case wire.PeekLane:
		p.lane = f.Bool
	case wire.PeekRead:
		p.read = f.Bool
	case wire.PeekModel:
		p.model = f.Text
	case wire.PeekStream:
		p.stream = f.Text
	case wire.PeekError:
		p.err = f.Text
	case wire.PeekMaxTokens:
		p.maxTokens = f.Text
	case wire.PeekMaxCompletionTokens:
		p.maxCompletionTokens = f.Text
	case wire.PeekMaxOutputTokens:
		p.maxOutputTokens = f.Text
	case wire.PeekN:
		p.n = f.Text
	case wire.PeekSize:
		p.size = int64(f.Number)
	case wire.PeekMedia:
		p.media = int64(f.Number)
	case wire.PeekMediaCount:
		p.mediaCount = int64(f.Number)
	case wire.PeekSource:
		r.source = netip.Addr{}
		if at, err := netip.ParseAddrPort(f.Text); err == nil {
			r.source = at.Addr().Unmap().WithZone("")
		}
	}
}

// header returns a header by its name in lower case; several lines of it joined by ",".
func (r *request) header(name string) (string, bool) {
	found, ok := "", false
	for i := range r.headers {
		h := &r.headers[i]
		if h.Name != name {
			continue
		}
		if ok {
			found += "," + h.Value
			continue
		}
		found, ok = h.Value, true
	}
	return found, ok
}

func (r *request) headerValue(name string) string {
	v, _ := r.header(name)
	return v
}

// value reads a header of a message that Envoy sends either as text or as bytes.
func value(kv *corev3.HeaderValue) string {
	if raw := kv.GetRawValue(); len(raw) > 0 {
		return string(raw)
	}
	return kv.GetValue()
}
