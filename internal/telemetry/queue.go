package telemetry

import (
	"context"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

const (
	// maxWaiting is how many bytes of spans may wait, whatever their number: with text of prompts in them, two thousand may be gigabytes.
	maxWaiting = 64 << 20
	// maxExport is how many bytes go in one export, unless one span has more. Collectors take no message above 4 MiB by gRPC, and refuse
	// all that is in it.
	maxExport = 2 << 20
)

// queue bounds the spans that wait for their export, and counts what becomes of them. The SDK's own processor drops what is too much as
// well, but tells nobody.
type queue struct {
	sdktrace.SpanProcessor
	exporter sdktrace.SpanExporter
	trouble  *trouble
	max      int64
	waiting  atomic.Int64 // those that are being exported included
	bytes    atomic.Int64 // of them

	exported, full, failed prometheus.Counter
}

func newQueue(e sdktrace.SpanExporter, max int, t *trouble, reg prometheus.Registerer) *queue {
	dropped := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_telemetry_dropped_spans_total",
		Help: "Spans that were not exported: queue_full, because too many or too large ones waited; export_failed, because nobody took them.",
	}, []string{"reason"})
	q := &queue{exporter: e, trouble: t, max: int64(max), full: dropped.WithLabelValues("queue_full"), failed: dropped.WithLabelValues("export_failed"),
		exported: prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_telemetry_exported_spans_total", Help: "Spans that were exported."}),
	}
	reg.MustRegister(dropped, q.exported)
	q.SpanProcessor = sdktrace.NewBatchSpanProcessor((*sending)(q), sdktrace.WithMaxQueueSize(max))
	return q
}

// OnEnd takes a span, or drops it.
func (q *queue) OnEnd(s sdktrace.ReadOnlySpan) {
	n := size(s)
	waiting, bytes := q.waiting.Add(1), q.bytes.Add(n)
	if waiting > q.max || bytes > maxWaiting {
		q.full.Inc()
		q.left(1, n)
		return
	}
	q.SpanProcessor.OnEnd(s)
}

// left gives back what spans took that wait no more.
func (q *queue) left(spans int, bytes int64) {
	q.waiting.Add(-int64(spans))
	q.bytes.Add(-bytes)
}

// size of a span, about, in bytes: in memory and on the wire. Only texts can be large.
func size(s sdktrace.ReadOnlySpan) int64 {
	const beside, each = 256, 48 // a span beside its attributes, and an attribute beside its text
	n := beside
	for _, kv := range s.Attributes() {
		n += each
		if kv.Value.Type() == attribute.STRING {
			n += len(kv.Value.AsString())
		}
	}
	return int64(n)
}

// sending is the queue's other end.
type sending queue

// ExportSpans sends a batch, in as many exports as its size asks for. It never fails for its caller, who could do nothing but say so
// somewhere.
func (q *sending) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	for len(spans) > 0 {
		n, bytes := 1, size(spans[0])
		for n < len(spans) {
			next := size(spans[n])
			if bytes+next > maxExport {
				break
			}
			n, bytes = n+1, bytes+next
		}
		err := q.exporter.ExportSpans(ctx, spans[:n])
		(*queue)(q).left(n, bytes)
		if err != nil {
			q.failed.Add(float64(n))
		} else {
			q.exported.Add(float64(n))
		}
		q.trouble.note(err)
		spans = spans[n:]
	}
	return nil
}

// Shutdown ends the exporter.
func (q *sending) Shutdown(ctx context.Context) error { return q.exporter.Shutdown(ctx) }
