package spans

import (
	"context"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/weir-dev/weir/usage"
)

type nowhere struct{}

func (nowhere) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error { return nil }
func (nowhere) Shutdown(context.Context) error                             { return nil }

// BenchmarkFinished is what a request costs when it is over: without an exporter, unsampled, and sampled, with the batch processor that
// production has.
func BenchmarkFinished(b *testing.B) {
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(nowhere{}), sdktrace.WithIDGenerator(IDs{}), sdktrace.WithSampler(sdktrace.AlwaysSample()))
	b.Cleanup(func() { _ = provider.Shutdown(context.Background()) })
	off := New(Options{Sampler: NewSampler(Policy{})})
	on := New(Options{Tracer: provider.Tracer("weir"), Sampler: NewSampler(Policy{KeepFailed: true}), Dialects: dialects(b)})
	open := newRig(b, Policy{}).begin(nil)
	for _, c := range []struct {
		name    string
		e       *Exporter
		sampled bool
	}{{"off", off, true}, {"unsampled", on, false}, {"sampled", on, true}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			f := &usage.Finished{Record: record(func(r *usage.Record) { r.Trace = place(c.sampled) }), Open: open}
			open.Trace = place(c.sampled)
			for b.Loop() {
				c.e.Finished(f)
			}
		})
	}
}
