package accesslog

import (
	"strings"
	"time"

	"github.com/weir-dev/weir/internal/redact"
	"github.com/weir-dev/weir/internal/trace"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/usage/ledger"
	"github.com/weir-dev/weir/usage/money"
)

// schema is the version of the fields. Fields may be added; where one changes its meaning or goes, this rises.
const schema = 1

// The longest texts of callers, in bytes, and of all others.
const (
	maxRequestID = 128
	maxPath      = 512
	maxModel     = 256
	maxReason    = 512
	maxText      = 256
)

// timeFormat is RFC 3339 in UTC with microseconds.
const timeFormat = "2006-01-02T15:04:05.000000Z"

// refusalDetails stands before the kind in the details of answers that Weir gave itself.
const refusalDetails = "weir_"

// request is what the line says, of whichever of the three knows it. Fields of the record that another may know better have lower-case
// names here.
type request struct {
	*usage.Record
	backend            string
	attempts           int
	gateway, namespace string
	upstreamModel      string
	entry              *ledger.Entry // nil where nothing was entered
	began              time.Time
	failed             []usage.Failed
}

func read(f *usage.Finished) request {
	r := request{failed: f.Failed, entry: f.Entry, began: f.At}
	if f.Record != nil {
		r.Record, r.began = f.Record, f.Record.Start
	} else if o := f.Open; o != nil {
		r.Record = &usage.Record{
			RequestID: o.RequestID, Start: o.Time, Path: o.Path, Stream: o.Stream, Dialect: o.Dialect, Operation: o.Operation, Model: o.Model, Route: o.Route,
			Consumer: o.Consumer, Tenant: o.Tenant, Credential: o.Credential, Trace: o.Trace,
		}
		r.began = o.Time
	} else {
		r.Record = &usage.Record{}
	}
	r.backend, r.attempts = r.Backend, r.Attempts
	if o := f.Open; o != nil {
		r.gateway, r.namespace = o.Gateway, o.Namespace
	}
	if e := f.Entry; e != nil {
		r.upstreamModel = e.UpstreamModel
		if r.backend == "" {
			r.backend = e.Backend
		}
		r.attempts = max(r.attempts, e.Attempts)
	}
	return r
}

// refusal is the kind of the error that Weir answered with; "" where it did not.
func (r *request) refusal() string {
	if !r.Immediate || r.Status < 400 {
		return ""
	}
	kind, _ := strings.CutPrefix(r.Details, refusalDetails)
	return kind
}

// flags are those of the ledger, and where it has no entry what Envoy knows.
func (r *request) flags() ledger.Flags {
	if r.entry != nil {
		return r.entry.Flags
	}
	return ledger.Flags{Aborted: r.Aborted}
}

// appendJSON appends the line of a request.
func appendJSON(b []byte, f *usage.Finished) []byte {
	r := read(f)
	o := object{b: append(b, '{'), first: true}
	o.key("time")
	o.b = append(o.b, '"')
	o.b = r.began.UTC().AppendFormat(o.b, timeFormat)
	o.b = append(o.b, '"')
	o.text("type", "access", maxText)
	o.number("schema", schema)

	o.text("request_id", r.RequestID, maxRequestID)
	if r.Trace.Trace != "" {
		o.text("trace_id", r.Trace.Trace, maxText)
		o.text("span_id", r.Trace.ID(trace.Request), maxText)
		o.text("parent_span_id", r.Trace.Parent, maxText)
		o.bool("sampled", r.Trace.Sampled)
	}
	o.text("caller", r.Caller, maxText)
	o.text("method", r.Method, maxText)
	o.text("path", redact.Path(r.Path), maxPath)
	o.number("status", int64(r.Status))
	o.text("refusal", r.refusal(), maxText)
	o.text("policy", r.Policy, maxText)
	o.text("reason", r.Refusal, maxReason)
	if f.Record != nil {
		o.seconds("duration_seconds", r.Duration)
	}
	o.someSeconds("ttfb_seconds", r.FirstByte)
	o.someSeconds("ttft_seconds", r.FirstToken)

	o.text("gateway", r.gateway, maxText)
	o.text("tenant", r.Tenant, maxText)
	o.text("namespace", r.namespace, maxText)
	o.text("consumer", r.Consumer, maxText)
	o.text("credential", r.Credential, maxText)
	o.text("route", r.Route, maxText)
	o.text("backend", r.backend, maxText)
	o.text("endpoint", r.Endpoint, maxText)
	o.text("model", r.Model, maxModel)
	o.text("upstream_model", r.upstreamModel, maxModel)
	o.text("dialect", r.Dialect, maxText)
	o.text("operation", r.Operation, maxText)
	o.bool("stream", r.Stream)
	cache, purpose := r.Cache, ""
	if e := r.entry; e != nil {
		cache, purpose = e.Cache, e.Purpose
	}
	o.text("cache", cache, maxText)
	o.text("purpose", purpose, maxText)
	if r.Native {
		o.bool("native", true)
	}
	o.number("attempts", int64(r.attempts))
	o.failed(r.failed)
	o.usage(r.entry)
	o.names("flags", r.flags().Names())
	o.text("envoy_flags", r.Flags, maxText)
	o.text("envoy_details", r.Details, maxText)
	o.number("bytes_in", int64(min(r.BytesIn, 1<<62)))
	o.number("bytes_out", int64(min(r.BytesOut, 1<<62)))
	o.text("config_version", r.Version, maxText)
	return append(o.b, '}', '\n')
}

// failed appends the attempts that failed.
func (o *object) failed(list []usage.Failed) {
	if len(list) == 0 {
		return
	}
	o.key("failed_attempts")
	o.b = append(o.b, '[')
	for i := range list {
		f := &list[i]
		if i > 0 {
			o.b = append(o.b, ',')
		}
		in := object{b: append(o.b, '{'), first: true}
		in.number("attempt", int64(f.N))
		in.text("backend", f.Backend, maxText)
		in.text("endpoint", f.Endpoint, maxText)
		in.someNumber("status", int64(f.Status))
		in.seconds("duration_seconds", f.Duration)
		in.text("envoy_flags", f.Flags, maxText)
		in.text("reason", f.Reason, maxText)
		o.b = append(in.b, '}')
	}
	o.b = append(o.b, ']')
}

// usage appends what the ledger has of tokens and money.
func (o *object) usage(e *ledger.Entry) {
	if e == nil {
		return
	}
	o.key("tokens")
	in := object{b: append(o.b, '{'), first: true}
	in.number("input", e.Tokens.Input)
	in.number("cache_read", e.Tokens.CacheRead)
	in.number("cache_write", e.Tokens.CacheWrite)
	in.number("output", e.Tokens.Output)
	in.number("reasoning", e.Tokens.Reasoning)
	o.b = append(in.b, '}')
	if e.Unpriced {
		return // what it cost is not known
	}
	o.key("cost")
	o.b = append(money.Nano(e.Cost).Append(append(o.b, '"')), '"')
	o.text("currency", e.Currency, maxText)
	if e.SavedCost > 0 {
		o.key("saved_cost")
		o.b = append(money.Nano(e.SavedCost).Append(append(o.b, '"')), '"')
	}
}

func (o *object) names(name string, list []string) {
	if len(list) == 0 {
		return
	}
	o.key(name)
	o.b = append(o.b, '[')
	for i, s := range list {
		if i > 0 {
			o.b = append(o.b, ',')
		}
		o.b = append(o.b, '"')
		o.b = append(o.b, s...)
		o.b = append(o.b, '"')
	}
	o.b = append(o.b, ']')
}
