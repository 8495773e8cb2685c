package spans

import (
	"context"
	"encoding/binary"
	"math/rand/v2"

	"go.opentelemetry.io/otel/trace"
)

// IDs gives spans the IDs that Envoy has sent to backends, and callers and backends know. It is the IDGenerator of the SDK that makes the
// spans of an Exporter; for all others it makes random ones.
type IDs struct{}

// next holds the IDs of the span that is started next, in a context.
type next struct {
	trace trace.TraceID
	span  trace.SpanID
}

type nextKey struct{}

// NewIDs gives a span that begins a trace its IDs.
func (IDs) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	if n, ok := ctx.Value(nextKey{}).(*next); ok {
		return n.trace, n.span
	}
	var id trace.TraceID
	for !id.IsValid() {
		binary.NativeEndian.PutUint64(id[:8], rand.Uint64())
		binary.NativeEndian.PutUint64(id[8:], rand.Uint64())
	}
	return id, randomSpan()
}

// NewSpanID gives a span its ID.
func (IDs) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	if n, ok := ctx.Value(nextKey{}).(*next); ok {
		return n.span
	}
	return randomSpan()
}

func randomSpan() (id trace.SpanID) {
	for !id.IsValid() {
		binary.NativeEndian.PutUint64(id[:], rand.Uint64())
	}
	return id
}
