package spans

import (
	"context"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/internal/trace"
	"github.com/weir-dev/weir/usage"
)

const (
	keyOperation  = attribute.Key("gen_ai.operation.name")
	keyProvider   = attribute.Key("gen_ai.provider.name")
	keyModel      = attribute.Key("gen_ai.request.model")
	keyStream     = attribute.Key("gen_ai.request.stream")
	keyFirstChunk = attribute.Key("gen_ai.response.time_to_first_chunk") // seconds
	keyInput      = attribute.Key("gen_ai.usage.input_tokens")           // those of caches included
	keyOutput     = attribute.Key("gen_ai.usage.output_tokens")          // reasoning included
	keyCacheRead  = attribute.Key("gen_ai.usage.cache_read.input_tokens")
	keyCacheWrite = attribute.Key("gen_ai.usage.cache_creation.input_tokens")
	keyReasoning  = attribute.Key("gen_ai.usage.reasoning.output_tokens")
	keyMessages   = attribute.Key("gen_ai.input.messages")
	keyAnswer     = attribute.Key("gen_ai.output.messages")
	keySystem     = attribute.Key("gen_ai.system_instructions")
	keyResend     = attribute.Key("http.request.resend_count")

	keyBackend         = attribute.Key("weir.backend")
	keyEndpoint        = attribute.Key("weir.endpoint")
	keyTranslated      = attribute.Key("weir.translated")
	keyEstimatedInput  = attribute.Key("weir.estimated.input_tokens")
	keyEstimatedOutput = attribute.Key("weir.estimated.output_tokens")
	keyInputCut        = attribute.Key("weir.content.input_cut") // bytes
	keyOutputCut       = attribute.Key("weir.content.output_cut")
	keyInputMissing    = attribute.Key("weir.content.input_missing")
	keyOutputMissing   = attribute.Key("weir.content.output_missing")
)

// lastDigit is that of the last attempt, where there were more than have a digit of their own.
const lastDigit = 'f'

// attempt is one attempt, as far as it is known.
type attempt struct {
	n            int // 1 is the first
	backend      string
	endpoint     string
	begun, ended time.Time
	failed       *usage.Failed // nil where Envoy told of no failure
	last         bool          // of those that there were
}

// eachAttempt makes the spans of the attempts.
func (b *building) eachAttempt(ctx context.Context, n *next) {
	count := len(b.attempts)
	if b.Record != nil {
		count = b.Record.Attempts
	}
	for i := 1; i <= count; i++ {
		digit, ok := trace.Attempt(i)
		switch {
		case ok:
		case i == count:
			digit = lastDigit
		default:
			continue
		}
		if a, known := b.attempt(i, i == count); known {
			b.attemptSpan(ctx, n, digit, &a)
		}
	}
}

// attempt gathers what is known of an attempt. known is false for those that nobody told of, and those that Envoy counts though it found
// no endpoint to ask.
func (b *building) attempt(i int, last bool) (a attempt, known bool) {
	a = attempt{n: i, last: last}
	for j := range b.Failed {
		if b.Failed[j].N == i {
			a.failed = &b.Failed[j]
		}
	}
	_, end := b.times()
	r := b.Record
	switch {
	case a.failed != nil:
		f := a.failed
		a.backend, a.endpoint, a.begun, a.ended = f.Backend, f.Endpoint, f.Start, f.Start.Add(f.Duration)
		if last && a.ended.After(end) { // Envoy ends the attempt when it has ended the request
			a.ended = end
		}
		return a, true
	case last && r != nil && r.Timing.BackendSent > 0:
		a.backend, a.endpoint = r.Backend, r.Endpoint
		a.begun, a.ended = r.Start.Add(r.Timing.BackendSent), end
		if r.Timing.BackendLast > 0 {
			a.ended = r.Start.Add(r.Timing.BackendLast)
		}
		return a, true
	case i <= len(b.attempts) && b.eachPrepared():
		a.backend, a.begun, a.ended = b.attempts[i-1].Backend, b.attempts[i-1].At.Add(b.skew), end
		if i < len(b.attempts) {
			a.ended = b.attempts[i].At.Add(b.skew)
		}
		return a, true
	}
	return a, false
}

// eachPrepared says whether Weir has prepared every attempt: only then is the first of them the first. Where a connection is refused at
// once, Envoy may not have asked.
func (b *building) eachPrepared() bool {
	return b.Record == nil || len(b.attempts) == b.Record.Attempts
}

// attemptSpan makes the span of an attempt.
func (b *building) attemptSpan(ctx context.Context, n *next, digit byte, a *attempt) {
	operation, model, dialect, stream := b.asked(a)
	operation = usage.OperationName(operation)
	name := operation
	if model != "" {
		name += " " + model
	}
	span := b.start(ctx, n, digit, name, oteltrace.SpanKindClient, a.begun)
	if span == nil {
		return
	}
	b.text(keyOperation, operation)
	b.text(keyProvider, b.exporter.provider(a.backend, dialect))
	b.text(keyModel, model)
	b.mark(keyStream, stream)
	b.text(keyBackend, a.backend)
	b.text(keyEndpoint, a.endpoint)
	b.address(a.endpoint, keyServer, keyServerPort)
	b.count(keyResend, int64(a.n-1))
	if a.last {
		b.answer(span)
	}
	b.outcome(span, a)
	span.SetAttributes(b.attrs...)
	end(span, a.begun, a.ended)
}

// asked is what a backend was asked for: the operation, its own name for the model, its dialect, and whether for a stream.
func (b *building) asked(a *attempt) (operation, model, dialect string, stream bool) {
	o := b.Open
	if o == nil {
		r := b.Record
		return r.Operation, r.Model, r.Dialect, r.Stream
	}
	operation, model, dialect, stream = o.Operation, o.Model, o.Dialect, o.Stream
	for i := range o.Candidates {
		if c := &o.Candidates[i]; c.Backend == a.backend {
			model, dialect = c.UpstreamModel, c.Dialect
			break
		}
	}
	// A backend may be asked for one model after another.
	switch i := a.n - 1; {
	case b.eachPrepared() && i < len(b.attempts) && b.attempts[i].Backend == a.backend:
		model = b.attempts[i].UpstreamModel
	case a.last && b.Entry != nil && b.Entry.Backend == a.backend && b.Entry.UpstreamModel != "":
		model = b.Entry.UpstreamModel
	}
	return operation, model, dialect, stream
}

// answer adds what is known of the last attempt alone.
func (b *building) answer(span oteltrace.Span) {
	if r := b.Record; r != nil {
		b.event(span, eventSent, r.Timing.BackendSentLast)
		b.event(span, eventFirstByte, r.Timing.BackendFirst)
		if r.Stream && r.Status < 400 && r.FirstToken > 0 && r.Timing.BackendSent > 0 {
			b.seconds(keyFirstChunk, r.FirstToken)
			b.event(span, eventFirstToken, r.Timing.BackendSent+r.FirstToken)
		}
	}
	if e := b.Entry; e != nil {
		b.mark(keyTranslated, e.Translated)
		if e.Estimated {
			b.count(keyEstimatedInput, e.Tokens.InputTotal())
			b.count(keyEstimatedOutput, e.Tokens.OutputTotal())
		} else {
			b.count(keyInput, e.Tokens.InputTotal())
			b.count(keyOutput, e.Tokens.OutputTotal())
			b.count(keyCacheRead, e.Tokens.CacheRead)
			b.count(keyCacheWrite, e.Tokens.CacheWrite)
			b.count(keyReasoning, e.Tokens.Reasoning)
		}
	}
	if b.Open != nil {
		b.content(b.Open.Content())
	}
}

// content adds the text of the request, which there is only where somebody asks for it.
func (b *building) content(c usage.Content) {
	b.text(keyMessages, c.Input)
	b.text(keySystem, c.System)
	b.text(keyAnswer, c.Output)
	b.count(keyInputCut, c.InputCut)
	b.count(keyOutputCut, c.OutputCut)
	b.text(keyInputMissing, c.InputMissing)
	b.text(keyOutputMissing, c.OutputMissing)
}

// outcome says how an attempt ended.
func (b *building) outcome(span oteltrace.Span, a *attempt) {
	if f := a.failed; f != nil {
		b.count(keyStatus, int64(f.Status))
		b.text(keyEnvoyFlags, f.Flags)
		if canceled(f) {
			return
		}
		if a.last && f.Status < 400 && brokeOff(b.Finished) {
			b.wrong(span, incomplete, "the answer broke off: "+b.Record.Details)
			return
		}
		kind := usage.FailureReason(f)
		if f.Status >= 400 {
			kind = strconv.Itoa(f.Status)
		}
		b.wrong(span, kind, reason(f))
		return
	}
	r := b.Record
	switch {
	case !a.last:
		b.wrong(span, "_OTHER", "another attempt was made, and nobody told why")
	case r == nil:
		b.wrong(span, interrupted, interruptedInWords)
	case brokeOff(b.Finished):
		b.count(keyStatus, int64(r.Status))
		b.wrong(span, incomplete, "the answer broke off: "+r.Details)
	case r.Details != wire.ViaUpstream: // the status is not the backend's
		if !r.Aborted && r.Status >= 400 {
			b.wrong(span, "_OTHER", r.Details)
		}
	default:
		b.count(keyStatus, int64(r.Status))
		if r.Status >= 400 {
			b.wrong(span, strconv.Itoa(r.Status), "")
		}
	}
}

// reason says in words why an attempt failed. Envoy writes underscores for spaces.
func reason(f *usage.Failed) string {
	if f.Reason != "" {
		return strings.ReplaceAll(f.Reason, "_", " ")
	}
	if f.Status >= 400 {
		return ""
	}
	return "Envoy's response flags: " + f.Flags
}
