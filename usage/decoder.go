package usage

import (
	"bytes"
	"strconv"
	"time"

	"github.com/weir-dev/weir/internal/redact"
	"github.com/weir-dev/weir/internal/trace"
)

// decoder makes records of the encoded entries of one stream. It is not safe for concurrent use.
type decoder struct {
	// sampled decides for a trace that begins with a record; nil samples none.
	sampled func(traceID string) bool

	entry entry
	rec   Record
	texts *texts // that come again and again
	paths *texts // those that redact.Path leaves as they are
	own   ownTexts
	room  []byte // for a text in the making

	traceHeader, traceParent string // of rec
}

func newDecoder(sampled func(traceID string) bool) *decoder {
	if sampled == nil {
		sampled = func(string) bool { return false }
	}
	return &decoder{sampled: sampled, texts: newTexts(), paths: newTexts()}
}

// record reads the record of a request. It is good until the next call, and nothing that it points to changes then. ok is false for what
// is no record.
func (d *decoder) record(b []byte) (r *Record, ok bool) {
	if !d.entry.read(b) {
		return nil, false
	}
	return d.made(), true
}

// made is the record that the entry is, as record has it.
func (d *decoder) made() *Record {
	e, t := &d.entry, d.texts
	r := &d.rec
	*r = Record{
		Start:     e.moments[atStart].time(),
		Duration:  e.moments[untilLastByte].length(),
		FirstByte: e.moments[untilFirstByte].length(),
		Status:    int(uint32(e.status.value)),
		Details:   t.of(e.details),
		Aborted:   e.flagged(flagDownstreamEnded) || e.flagged(flagDownstreamReset) || bytes.HasPrefix(e.details, []byte("downstream_remote_disconnect")),
		Immediate: e.yes(factImmediate),
		Stream:    e.yes(factStream),
		Dialect:   t.of(e.facts[factDialect]),
		Operation: t.of(e.facts[factOperation]),
		Model:     t.of(e.facts[factModel]),
		Route:     t.of(e.facts[factRoute]),
		Backend:   t.of(e.backend),
		Consumer:  t.of(e.facts[factConsumer]), Tenant: t.of(e.facts[factTenant]), Credential: t.of(e.facts[factCredential]),
		Version: t.of(e.facts[factVersion]),
		BytesIn: e.bytesIn, BytesOut: e.bytesOut,
		Attempts: int(e.attempts),
		Endpoint: d.address(&e.upstream),
		Timing: Timing{
			Received: e.moments[untilReceived].length(), BackendSent: e.moments[untilBackendSent].length(), BackendSentLast: e.moments[untilBackendSentLast].length(),
			BackendFirst: e.moments[untilBackendFirst].length(), BackendLast: e.moments[untilBackendLast].length(),
		},
		Flags: d.flags(), Method: method(e.method), Path: d.path(),
		Endpoints: t.of(e.facts[factEndpoints]), Refusal: t.of(e.facts[factRefusal]), Policy: t.of(e.facts[factPolicy]),
		FailedOpen: e.yes(factOpen), Native: e.yes(factNative), Relayed: e.yes(factRelayed), Fill: t.of(e.facts[factFill]), Scheme: t.of(e.scheme), UserAgent: t.of(e.agent),
		Signals: d.signals(),
	}
	if !e.moments[untilLastByte].set {
		r.Duration = e.moments[untilEnd].length()
	}
	if r.Stream && r.Status > 0 && r.Status < 400 {
		r.FirstToken = microseconds(string(e.ttft))
	}
	if e.reported {
		u := e.usage
		r.Reported, r.ReportedComplete = &u, e.completed
	}
	d.own.add(&r.RequestID, e.requestID)
	d.own.add(&r.Exchange, e.facts[factExchange])
	d.own.add(&r.PeekID, e.peekID)
	d.own.add(&d.traceHeader, e.facts[factTrace])
	d.own.add(&d.traceParent, e.facts[factTraceParent])
	begin := len(d.own.bytes)
	d.own.bytes = e.caller.append(d.own.bytes)
	d.own.close(&r.Caller, begin)
	d.own.take()
	r.Trace = d.place()
	return r
}

// place is where the request is in a trace: as Weir decided, else in the caller's, else in one that begins here.
func (d *decoder) place() trace.Place {
	p := trace.Parse(d.traceHeader, d.texts.of(d.entry.facts[factTraceFlags]), d.traceParent)
	if p == (trace.Place{}) {
		p = trace.Of(sound(d.entry.traceparent))
	}
	if p == (trace.Place{}) {
		p = trace.Begin("", d.sampled)
	}
	return p
}

// path is the path of the request as it may be shown.
func (d *decoder) path() string {
	b := d.entry.originalPath
	if len(b) == 0 {
		b = d.entry.path
	}
	b, _, _ = bytes.Cut(b, []byte("?"))
	if s, ok := d.paths.find(b); ok {
		return s
	}
	s := redact.Path(sound(b))
	if s == string(b) {
		return d.paths.of(b)
	}
	return s
}

// address is "ip:port"; "" for none.
func (d *decoder) address(a *address) string {
	d.room = a.append(d.room[:0])
	return d.texts.of(d.room)
}

// flags writes Envoy's response flags as its text logs do: "UF,URX"; "" for none.
func (d *decoder) flags() string {
	d.room = appendFlagNames(d.room[:0], d.entry.flags)
	return d.texts.of(d.room)
}

// signals are those that are texts; nil where there are none of any kind.
func (d *decoder) signals() map[string]string {
	list := d.entry.signals
	if len(list) == 0 {
		return nil
	}
	out := make(map[string]string, len(list))
	for i := range list {
		key := d.texts.of(list[i].key)
		if list[i].text == nil {
			delete(out, key)
		} else {
			out[key] = sound(list[i].text)
		}
	}
	return out
}

// microseconds reads a number of them; 0 where there is none.
func microseconds(s string) time.Duration {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > int64(time.Hour/time.Microsecond)*24 {
		return 0
	}
	return time.Duration(n) * time.Microsecond
}

// failed is the attempt that the entry is. of is false where it cannot be told whose it is.
func (d *decoder) failed() (f Failed, of bool) {
	e, t := &d.entry, d.texts
	span, n, of := trace.AttemptOf(sound(e.traceparent))
	return Failed{
		Span: span, N: n, RequestID: sound(e.requestID), Backend: t.of(e.backend), Endpoint: d.address(&e.upstream),
		Start: e.moments[atStart].time(), Duration: e.moments[untilEnd].length(), Status: int(uint32(e.status.value)), Flags: d.flags(),
		Reason: t.of(e.noConnection),
	}, of
}
