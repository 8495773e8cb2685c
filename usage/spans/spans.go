// Package spans makes a trace of each request that is over:
//
//	POST /v1/chat/completions   SERVER    Envoy's: from the caller's first byte to the last one of the answer
//	  decide                    INTERNAL  Weir's: who calls, whether they may, and which backend serves it
//	  chat gpt-4o               CLIENT    an attempt, as often as there were any; named by the model that the backend was asked for
//
// The spans are made from Envoy's record when the request has ended, so that requests wait for nothing. Names and attributes are those of
// the OpenTelemetry conventions for HTTP (1.41) and for generative AI (gen_ai.*, 1.41); what they have no name for begins with weir.
package spans

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/internal/trace"
	"github.com/weir-dev/weir/usage"
)

// Options are what an Exporter needs.
type Options struct {
	// Tracer makes the spans. Its SDK has IDs for its generator of IDs, and samples everything. Where it is nil, nothing is exported.
	Tracer oteltrace.Tracer
	// Sampler decides which traces are exported.
	Sampler *Sampler
	// Dialects know the paths that are served.
	Dialects *adapters.Set
}

// Exporter makes spans of requests that are over. It is safe for concurrent use.
type Exporter struct {
	tracer    oteltrace.Tracer
	sampler   *Sampler
	dialects  *adapters.Set
	providers atomic.Pointer[map[string]string]
	traces    sync.Pool // of *building
}

// New makes an Exporter.
func New(o Options) *Exporter {
	e := &Exporter{tracer: o.Tracer, sampler: o.Sampler, dialects: o.Dialects}
	e.traces.New = func() any { return &building{attrs: make([]attribute.KeyValue, 0, 32)} }
	return e
}

// Use takes gen_ai.provider.name of the backends, by their IDs, as usage.Provider has them. Nobody may change it any more.
func (e *Exporter) Use(providers map[string]string) { e.providers.Store(&providers) }

// provider is gen_ai.provider.name of a backend that speaks a dialect.
func (e *Exporter) provider(backend, dialect string) string {
	if m := e.providers.Load(); m != nil {
		if name := (*m)[backend]; name != "" {
			return name
		}
	}
	return usage.Provider(dialect, "")
}

// Finished makes the trace of a request, if it is to be exported. It is a usage.FinishedSink.
func (e *Exporter) Finished(f *usage.Finished) {
	if e.tracer == nil {
		return
	}
	var place trace.Place
	switch {
	case f.Open != nil && f.Open.Trace.Trace != "":
		place = f.Open.Trace
	case f.Record != nil:
		place = f.Record.Trace
	}
	if f.Open == nil && f.Record.Version == "" && place.Parent == "" && !place.Sampled && e.sampler.Sampled(place.Trace) {
		place.Sampled = true // Envoy answered before it asked Weir, and nobody else has decided
	}
	if !place.Sampled && !e.sampler.keeps(f) {
		return
	}
	b := e.traces.Get().(*building)
	defer e.traces.Put(b)
	b.make(e, f, place)
	clear(b.attrs[:cap(b.attrs)]) // they hold the texts of the request
	b.exporter, b.Finished = nil, nil
}

// building is one trace in the making.
type building struct {
	*usage.Finished
	exporter *Exporter
	place    trace.Place
	attrs    []attribute.KeyValue // of the span in the making
	attempts []usage.Attempt      // that Weir has prepared
	skew     time.Duration        // to be added to times of Weir's clock
}

// make makes the spans. A place that is none makes nothing.
func (b *building) make(e *Exporter, f *usage.Finished, place trace.Place) {
	b.exporter, b.Finished, b.place, b.attempts = e, f, place, nil
	if f.Open != nil {
		b.attempts = f.Open.Attempts()
	}
	n := &next{}
	var err error
	if n.trace, err = oteltrace.TraceIDFromHex(place.Trace); err != nil {
		return
	}
	ctx := context.WithValue(context.Background(), nextKey{}, n)
	root := ctx
	if place.Parent != "" {
		parent, err := oteltrace.SpanIDFromHex(place.Parent)
		if err != nil {
			return
		}
		root = oteltrace.ContextWithRemoteSpanContext(ctx, oteltrace.NewSpanContext(oteltrace.SpanContextConfig{
			TraceID: n.trace, SpanID: parent, TraceFlags: flags(place.Sampled), Remote: true,
		}))
	}
	begun, ended := b.times()
	b.skew = b.clocks(begun, ended)
	request := b.start(root, n, trace.Request, b.requestName(), oteltrace.SpanKindServer, begun)
	if request == nil {
		return
	}
	ctx = oteltrace.ContextWithSpanContext(ctx, request.SpanContext())
	b.request(request)
	b.decision(ctx, n)
	b.eachAttempt(ctx, n)
	request.End(oteltrace.WithTimestamp(ended))
}

func flags(sampled bool) oteltrace.TraceFlags { return oteltrace.TraceFlags(0).WithSampled(sampled) }

// start begins the span that has a digit; nil where its ID is none.
func (b *building) start(ctx context.Context, n *next, digit byte, name string, kind oteltrace.SpanKind, at time.Time) oteltrace.Span {
	var err error
	if n.span, err = oteltrace.SpanIDFromHex(b.place.ID(digit)); err != nil {
		return nil
	}
	b.attrs = b.attrs[:0]
	_, span := b.exporter.tracer.Start(ctx, name, oteltrace.WithSpanKind(kind), oteltrace.WithTimestamp(at))
	return span
}

// text adds an attribute that has something to say.
func (b *building) text(key attribute.Key, value string) {
	if value != "" {
		b.attrs = append(b.attrs, key.String(value))
	}
}

// count adds an attribute that counts something; 0 says that it is not known.
func (b *building) count(key attribute.Key, value int64) {
	if value > 0 {
		b.attrs = append(b.attrs, key.Int64(value))
	}
}

// seconds adds a time; 0 says that it is not known.
func (b *building) seconds(key attribute.Key, value time.Duration) {
	if value > 0 {
		b.attrs = append(b.attrs, key.Float64(value.Seconds()))
	}
}

// mark adds what is true.
func (b *building) mark(key attribute.Key, value bool) {
	if value {
		b.attrs = append(b.attrs, key.Bool(true))
	}
}

// wrong says what went wrong with a span.
func (b *building) wrong(span oteltrace.Span, kind, words string) {
	b.text(keyErrorType, kind)
	span.SetStatus(codes.Error, words)
}

// event adds an event at a time since the request began; 0 says that it did not come to pass.
func (b *building) event(span oteltrace.Span, name string, after time.Duration) {
	if after > 0 {
		span.AddEvent(name, oteltrace.WithTimestamp(b.Record.Start.Add(after)))
	}
}

// times are when the request began and ended.
func (b *building) times() (begun, ended time.Time) {
	if r := b.Record; r != nil {
		return r.Start, r.Start.Add(r.Duration)
	}
	return b.Open.Time, b.At
}

// clocks is what lies between Weir's clock and that of an Envoy on another machine: nothing, as far as one can see, while the decision lies
// within the request. Otherwise it began when Envoy had the request.
func (b *building) clocks(begun, ended time.Time) time.Duration {
	if b.Record == nil || b.Open == nil || b.Open.Native || !b.Open.Time.Before(begun) && !b.Open.Begun().After(ended) {
		return 0
	}
	return begun.Add(b.Record.Timing.Received).Sub(b.Open.Time)
}

// end ends a span, never before it began: clocks are set while requests run.
func end(span oteltrace.Span, begun, ended time.Time) {
	if ended.Before(begun) {
		ended = begun
	}
	span.End(oteltrace.WithTimestamp(ended))
}
