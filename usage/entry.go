package usage

import (
	"bytes"
	"strconv"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/wire"
)

// entry is what Weir reads of one envoy.data.accesslog.v3.HTTPAccessLogEntry. Its texts are those of the encoded message, which must stay
// as it is meanwhile, and may not be UTF-8. Messages of all requests pass here, and protobuf's own decoding of everything that is in one of
// them costs more than all that is done with it.
type entry struct {
	kind             int32              // an envoy.data.accesslog.v3.AccessLogType
	moments          [numMoments]moment // by the number of their field in AccessLogCommon
	upstream, caller address
	attempts         uint32
	flags            uint32 // bit n is the n-th field of ResponseFlags
	noConnection     []byte // upstream_transport_failure_reason
	backend, ttft    []byte // the custom tags

	facts     [numFacts][]byte // of the decision
	peekID    []byte
	signals   []signal // what the headers of answers say about load
	usage     canon.Usage
	reported  bool // there is a usage
	completed bool // nothing of it was lost

	method             int32
	scheme, agent      []byte
	path, originalPath []byte
	requestID          []byte
	bytesIn, bytesOut  uint64
	traceparent        []byte
	status             number
	details            []byte
}

// The moments of a request: all but the first are times since it began.
const (
	atStart              = 5
	untilReceived        = 6
	untilBackendSent     = 7
	untilBackendSentLast = 8
	untilBackendFirst    = 9
	untilBackendLast     = 10
	untilFirstByte       = 11
	untilLastByte        = 12
	untilEnd             = 23
	numMoments           = 24
)

// attemptEnded is the kind of the record of an attempt. Those of requests have another one.
const attemptEnded = int32(accesslogv3.AccessLogType_UpstreamEnd)

// signal is one text of LoadNamespace; nil for what is none.
type signal struct{ key, text []byte }

// read reads an entry in place of what was there before. It is false for what is no such message; what it does not need is passed over.
func (e *entry) read(b []byte) bool {
	*e = entry{signals: e.signals[:0]}
	ok := true
	f := read(b)
	for ok && f.next() {
		switch f.tag {
		case 1<<3 | sized:
			ok = e.common(f.bytes)
		case 3<<3 | sized:
			ok = e.request(f.bytes)
		case 4<<3 | sized:
			ok = e.response(f.bytes)
		}
	}
	return ok && !f.broken
}

// common reads an AccessLogCommon.
func (e *entry) common(b []byte) bool {
	ok := true
	f := read(b)
	for ok && f.next() {
		switch f.tag {
		case 2<<3 | sized:
			ok = e.caller.read(f.bytes)
		case 5<<3 | sized, 6<<3 | sized, 7<<3 | sized, 8<<3 | sized, 9<<3 | sized, 10<<3 | sized, 11<<3 | sized, 12<<3 | sized, 23<<3 | sized:
			ok = e.moments[f.tag>>3].read(f.bytes)
		case 13<<3 | sized:
			ok = e.upstream.read(f.bytes)
		case 16<<3 | sized:
			ok = e.responseFlags(f.bytes)
		case 17<<3 | sized:
			ok = e.metadata(f.bytes)
		case 18<<3 | sized:
			e.noConnection = f.bytes
		case 22<<3 | sized:
			var key, value []byte
			key, value, ok = textPair(f.bytes)
			switch string(key) {
			case wire.BackendTag:
				e.backend = value
			case wire.FirstTokenTag:
				e.ttft = value
			}
		case 24<<3 | varint:
			e.attempts = uint32(f.value)
		case 33<<3 | varint:
			e.kind = int32(f.value)
		}
	}
	return ok && !f.broken
}

// request reads an HTTPRequestProperties.
func (e *entry) request(b []byte) bool {
	ok := true
	f := read(b)
	for ok && f.next() {
		switch f.tag {
		case 1<<3 | varint:
			e.method = int32(f.value)
		case 2<<3 | sized:
			e.scheme = f.bytes
		case 5<<3 | sized:
			e.path = f.bytes
		case 6<<3 | sized:
			e.agent = f.bytes
		case 9<<3 | sized:
			e.requestID = f.bytes
		case 10<<3 | sized:
			e.originalPath = f.bytes
		case 12<<3 | varint:
			e.bytesIn = f.value
		case 13<<3 | sized:
			var key, value []byte
			if key, value, ok = textPair(f.bytes); string(key) == wire.TraceHeader {
				e.traceparent = value
			}
		}
	}
	return ok && !f.broken
}

// response reads an HTTPResponseProperties.
func (e *entry) response(b []byte) bool {
	ok := true
	f := read(b)
	for ok && f.next() {
		switch f.tag {
		case 1<<3 | sized:
			ok = e.status.read(f.bytes)
		case 3<<3 | varint:
			e.bytesOut = f.value
		case 6<<3 | sized:
			e.details = f.bytes
		}
	}
	return ok && !f.broken
}

// responseFlags reads a ResponseFlags, whose fields are bools but for one.
func (e *entry) responseFlags(b []byte) bool {
	f := read(b)
	for f.next() {
		n := f.tag >> 3
		switch {
		case n >= 32:
		case f.tag == flagUnauthorized<<3|sized:
			e.flags |= 1 << flagUnauthorized
		case n == flagUnauthorized:
		case f.tag&7 == varint:
			e.flags &^= 1 << n
			if f.value != 0 {
				e.flags |= 1 << n
			}
		}
	}
	return !f.broken
}

func (e *entry) flagged(n int) bool { return e.flags>>n&1 != 0 }

// address is an envoy.config.core.v3.Address, as far as it is a SocketAddress.
type address struct {
	host []byte
	port uint32
	set  bool
}

func (a *address) read(b []byte) bool {
	ok := true
	f := read(b)
	for ok && f.next() {
		switch f.tag {
		case 1<<3 | sized:
			a.set = true
			ok = a.socket(f.bytes)
		case 2<<3 | sized, 3<<3 | sized: // a pipe, or Envoy's own; the last one counts
			*a = address{}
		}
	}
	return ok && !f.broken
}

func (a *address) socket(b []byte) bool {
	f := read(b)
	for f.next() {
		switch f.tag {
		case 2<<3 | sized:
			a.host = f.bytes
		case 3<<3 | varint:
			a.port = uint32(f.value)
		case 4<<3 | sized: // a name instead of a port
			a.port = 0
		}
	}
	return !f.broken
}

// append appends "ip:port" as net.JoinHostPort has it; nothing for what is no such address.
func (a *address) append(b []byte) []byte {
	if !a.set {
		return b
	}
	if v6 := bytes.IndexByte(a.host, ':') >= 0; v6 {
		b = append(append(append(b, '['), a.host...), ']')
	} else {
		b = append(b, a.host...)
	}
	return strconv.AppendUint(append(b, ':'), uint64(a.port), 10)
}
