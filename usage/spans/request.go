package spans

import (
	"context"
	"net"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/internal/trace"
	"github.com/weir-dev/weir/usage/ledger"
	"github.com/weir-dev/weir/usage/money"
)

// Attributes of the conventions, and Weir's own.
const (
	keyErrorType    = attribute.Key("error.type")
	keyMethod       = attribute.Key("http.request.method")
	keyHTTPRoute    = attribute.Key("http.route")
	keyStatus       = attribute.Key("http.response.status_code")
	keyRequestSize  = attribute.Key("http.request.body.size")
	keyResponseSize = attribute.Key("http.response.body.size")
	keyPath         = attribute.Key("url.path")
	keyScheme       = attribute.Key("url.scheme")
	keyUserAgent    = attribute.Key("user_agent.original")
	keyClient       = attribute.Key("client.address")
	keyPeer         = attribute.Key("network.peer.address")
	keyPeerPort     = attribute.Key("network.peer.port")
	keyServer       = attribute.Key("server.address")
	keyServerPort   = attribute.Key("server.port")

	keyEnvoyFlags   = attribute.Key("envoy.response_flags")
	keyEnvoyDetails = attribute.Key("envoy.response_code_details")

	keyRequestID  = attribute.Key("weir.request_id")
	keyTenant     = attribute.Key("weir.tenant")
	keyConsumer   = attribute.Key("weir.consumer")
	keyCredential = attribute.Key("weir.credential")
	keyRoute      = attribute.Key("weir.route")
	keyGateway    = attribute.Key("weir.gateway")
	keyDialect    = attribute.Key("weir.dialect")
	keyVersion    = attribute.Key("weir.config.version")
	keyWaited     = attribute.Key("weir.waited") // seconds
	keyNative     = attribute.Key("weir.native") // it was decided before it came
	keyRefusal    = attribute.Key("weir.refusal")
	keyRefused    = attribute.Key("weir.refusal.kind")
	keyPolicy     = attribute.Key("weir.policy")
	keyFailedOpen = attribute.Key("weir.failed_open")
	keyCache      = attribute.Key("weir.cache") // what came of the gateway's cache
	keyPurpose    = attribute.Key("weir.fill")  // what the gateway asked for by itself: the answer to a caller, or something else
	keyFlags      = attribute.Key("weir.flags") // ledger.Flags
	keyCost       = attribute.Key("weir.cost")
	keyCurrency   = attribute.Key("weir.currency")
)

// Events of the request. Their times are what they are for.
const (
	eventReceived      = "weir.request_received"    // the last byte of the request came
	eventAnswered      = "weir.answer_begun"        // the first byte of the answer went to the caller
	eventSent          = "weir.request_sent"        // the last byte of the request went to the backend
	eventFirstByte     = "weir.first_byte_received" // the first byte of the backend's answer came, which may be a header
	eventFirstToken    = "gen_ai.first_token"       // the first byte of the body of a stream came
	interrupted        = "interrupted"              // error.type of requests that were lost with Envoy
	incomplete         = "incomplete"               // error.type of answers that broke off
	interruptedInWords = "the request ended with Envoy"
)

// leastWait is what counts as waiting: asking whether there is room takes time, too.
const leastWait = time.Millisecond

// requestName is the method and the route, which has no part that callers make up.
func (b *building) requestName() string {
	if b.Record == nil {
		return "POST" // whatever can be interrupted is
	}
	name := b.Record.Method
	if name == "" {
		name = "HTTP" // what the conventions call it in names
	}
	if route := b.httpRoute(); route != "" {
		name += " " + route
	}
	return name
}

// method is http.request.method.
func method(m string) string {
	if m == "" {
		return "_OTHER"
	}
	return m
}

// httpRoute is the path that a dialect has for an operation, without what callers and configurations put before it: of those, everybody can
// make up as many as they like. It is "" for paths that are not served.
func (b *building) httpRoute() string {
	r := b.Record
	if r.Operation == "" {
		return ""
	}
	m := b.exporter.dialects.Classify(r.Method, r.Path, func(string) string { return "" })
	if m.Outcome != adapters.Found {
		return ""
	}
	route := strings.TrimSuffix(r.Path[len(m.Prefix):], "/")
	if m.Model != "" {
		route = route[:strings.LastIndexByte(route, '/')+1] + "{model}"
	}
	return route
}

// request fills the span of the request.
func (b *building) request(span oteltrace.Span) {
	r, e := b.Record, b.Entry
	if r != nil {
		b.text(keyMethod, method(r.Method))
		b.text(keyPath, r.Path)
		b.text(keyScheme, r.Scheme)
		b.text(keyHTTPRoute, b.httpRoute())
		b.count(keyStatus, int64(r.Status))
		b.count(keyRequestSize, int64(r.BytesIn))
		b.count(keyResponseSize, int64(r.BytesOut))
		b.text(keyUserAgent, r.UserAgent)
		b.address(r.Caller, keyPeer, keyPeerPort)
		if host, _, err := net.SplitHostPort(r.Caller); err == nil {
			b.text(keyClient, host)
		}
		b.text(keyEnvoyFlags, r.Flags)
		b.text(keyEnvoyDetails, r.Details)
		b.text(keyRequestID, r.RequestID)
		b.text(keyTenant, r.Tenant)
		b.mark(keyFailedOpen, r.FailedOpen)
		b.text(keyCache, r.Cache)
		if r.Fill != "" {
			b.text(keyPurpose, r.Fill)
		}
		b.event(span, eventReceived, r.Timing.Received)
		b.event(span, eventAnswered, r.FirstByte)
	} else {
		b.text(keyRequestID, b.Open.RequestID)
		b.text(keyTenant, b.Open.Tenant)
	}
	if e != nil && e.Cost > 0 && !b.Relayed() { // what a fill cost, its own span says
		b.attrs = append(b.attrs, keyCost.Float64(float64(e.Cost)/float64(money.Unit)))
		b.text(keyCurrency, e.Currency)
	}
	switch {
	case e != nil && e.Flags != ledger.Flags{}:
		b.attrs = append(b.attrs, keyFlags.StringSlice(e.Flags.Names()))
	case r != nil && r.Aborted: // nothing was entered
		b.attrs = append(b.attrs, keyFlags.StringSlice([]string{"aborted"}))
	}
	switch {
	case r == nil:
		b.wrong(span, interrupted, interruptedInWords)
	case r.Status >= 500:
		words := r.Refusal
		if words == "" {
			words = r.Details
		}
		b.wrong(span, strconv.Itoa(r.Status), words)
	case brokeOff(b.Finished):
		b.wrong(span, incomplete, "the answer broke off: "+r.Details)
	}
	span.SetAttributes(b.attrs...)
}

// address adds "host:port".
func (b *building) address(hostPort string, host, port attribute.Key) {
	h, p, err := net.SplitHostPort(hostPort)
	if err != nil {
		return
	}
	b.text(host, h)
	if n, err := strconv.Atoi(p); err == nil {
		b.count(port, int64(n))
	}
}

// decision makes the span of what Weir decided, where it did.
func (b *building) decision(ctx context.Context, n *next) {
	r, o := b.Record, b.Open
	var begun, ended time.Time
	switch {
	case o != nil && o.Native && r != nil: // it was made before the request came
		begun = r.Start.Add(r.Timing.Received)
		ended = begun
	case o != nil:
		begun, ended = o.Time.Add(b.skew), o.Begun().Add(b.skew)
	case r.Version == "" || r.FailedOpen:
		return // Envoy answered by itself, or went on without Weir
	default: // Envoy's view of it, which has the way there and back
		begun, ended = r.Start.Add(r.Timing.Received), r.Start.Add(max(r.FirstByte, r.Timing.Received))
	}
	span := b.start(ctx, n, trace.Decision, "decide", oteltrace.SpanKindInternal, begun)
	if span == nil {
		return
	}
	if o != nil {
		b.text(keyTenant, o.Tenant)
		b.text(keyConsumer, o.Consumer)
		b.text(keyCredential, o.Credential)
		b.text(keyGateway, o.Gateway)
		b.text(keyRoute, o.Route)
		b.text(keyDialect, o.Dialect)
		b.text(keyModel, o.Model)
		b.text(keyOperation, o.Operation)
		if o.Native {
			b.mark(keyNative, true)
		}
		if o.Waited >= leastWait {
			b.seconds(keyWaited, o.Waited)
		}
	} else {
		b.text(keyTenant, r.Tenant)
		b.text(keyConsumer, r.Consumer)
		b.text(keyCredential, r.Credential)
		b.text(keyRoute, r.Route)
		b.text(keyDialect, r.Dialect)
		b.text(keyModel, r.Model)
		b.text(keyOperation, r.Operation)
	}
	if r != nil {
		b.text(keyVersion, r.Version)
		b.refusal(span)
	}
	span.SetAttributes(b.attrs...)
	end(span, begun, ended)
}

// refusal says why Weir refused, where it did.
func (b *building) refusal(span oteltrace.Span) {
	r := b.Record
	if !r.Immediate || r.Status < 400 {
		return
	}
	kind := strings.TrimPrefix(r.Details, "weir_")
	b.text(keyRefused, kind)
	b.text(keyRefusal, r.Refusal)
	b.text(keyPolicy, r.Policy)
	if r.Status >= 500 {
		b.wrong(span, kind, r.Refusal)
	}
}
