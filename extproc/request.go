package extproc

import (
	"net/netip"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/wire"
)

// request is what a decision reads of a request.
type request struct {
	method      string
	path        string // without the query
	query       string // raw, without "?"
	requestID   string
	traceparent string
	encoding    string // content-encoding
	contentType string
	hosts       bool // more than one, which RFC 9112 section 3.2 forbids
	upgrade     bool
	credentials identity.Headers
	source      netip.Addr // the zero value where it is not known
	headers     []*corev3.HeaderValue

	peek peek
}

// peek is what the peek filter read in the body.
type peek struct {
	read   bool
	model  string // raw JSON
	stream string // raw JSON
	err    string
	id     string // of the request, unique

	// Raw JSON numbers; "" where there are none.
	maxTokens, maxCompletionTokens, maxOutputTokens, n string

	size, media int64 // bytes of the body, and how many of them look like media in base64
	mediaCount  int64
}

func readRequest(m *extprocv3.ProcessingRequest) *request {
	h := m.GetRequestHeaders()
	r := &request{headers: h.GetHeaders().GetHeaders()}
	for _, kv := range r.headers {
		switch kv.GetKey() {
		case ":method":
			r.method = value(kv)
		case ":path":
			r.path, r.query, _ = strings.Cut(value(kv), "?")
		case "x-request-id":
			r.requestID = value(kv)
		case wire.TraceHeader:
			if r.traceparent != "" { // several lines are none
				r.traceparent += ","
			}
			r.traceparent += value(kv)
		case "content-encoding":
			r.encoding = value(kv)
		case "content-type":
			r.contentType = value(kv)
		case ":authority": // Envoy joins several lines
			r.hosts = strings.Contains(value(kv), ",")
		case "upgrade":
			r.upgrade = true
		case "authorization", "x-api-key", "api-key", "x-goog-api-key":
			r.credentials.Add(kv.GetKey(), value(kv))
		}
	}
	fields := m.GetMetadataContext().GetFilterMetadata()[wire.PeekNamespace].GetFields()
	text := func(key string) string { return fields[key].GetStringValue() }
	number := func(key string) int64 { return int64(fields[key].GetNumberValue()) }
	if at, err := netip.ParseAddrPort(text(wire.PeekSource)); err == nil {
		r.source = at.Addr().Unmap().WithZone("")
	}
	r.peek = peek{
		id:        text(wire.PeekID),
		maxTokens: text(wire.PeekMaxTokens), maxCompletionTokens: text(wire.PeekMaxCompletionTokens),
		maxOutputTokens: text(wire.PeekMaxOutputTokens), n: text(wire.PeekN),
		size: number(wire.PeekSize), media: number(wire.PeekMedia), mediaCount: number(wire.PeekMediaCount),
		read:   fields[wire.PeekRead].GetBoolValue(),
		model:  fields[wire.PeekModel].GetStringValue(),
		stream: fields[wire.PeekStream].GetStringValue(),
		err:    fields[wire.PeekError].GetStringValue(),
	}
	return r
}

// header returns a header by its name in lower case; several lines of it joined by ",".
func (r *request) header(name string) (string, bool) {
	found, ok := "", false
	for _, kv := range r.headers {
		if kv.GetKey() != name {
			continue
		}
		if ok {
			found += "," + value(kv)
			continue
		}
		found, ok = value(kv), true
	}
	return found, ok
}

func (r *request) headerValue(name string) string {
	v, _ := r.header(name)
	return v
}

// value reads a header that Envoy sends either as text or as bytes.
func value(kv *corev3.HeaderValue) string {
	if raw := kv.GetRawValue(); len(raw) > 0 {
		return string(raw)
	}
	return kv.GetValue()
}
