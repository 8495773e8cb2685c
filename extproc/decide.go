package extproc

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/content"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/message"
	"github.com/weir-dev/weir/extproc/relay"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/internal/redact"
	"github.com/weir-dev/weir/internal/trace"
	"github.com/weir-dev/weir/usage"
)

// maxModelBytes is the longest model name, as in the API types.
const maxModelBytes = 256

// expiryMargin is added to a request's time before what is kept for it counts as left behind.
const expiryMargin = 30 * time.Second

// unusableRetry is when to ask again for what no backend can serve now. Servers start, and configurations are mended, in no less.
const unusableRetry = 10 * time.Second

// errStarting is for an Envoy that is served again before it has said what it has: it does what it does while nobody answers,
// 503 or what LoadPolicy.spec.failureMode says.
var errStarting = status.Error(codes.Unavailable, "the gateway is starting")

// decide answers the door's call: once for the headers in the common case; for the body, too, where a candidate
// needs it rewritten or the place depends on it; and for the answer, where it may need a translation.
func (s *Server) decide(stream exchangeStream, first *message.Request) error {
	start := s.opts.Now()
	if first.Kind != message.RequestHeaders {
		return fmt.Errorf("expected request headers, got %s", first.Kind)
	}
	if s.table.Load() == nil {
		return errStarting
	}
	d := &decision{server: s}
	defer d.leave() // however the stream ends, a panic included
	resp := s.onHeaders(stream.Context(), first, start, d)
	d.count(resp, s.opts.Now().Sub(start))
	if err := stream.send(resp); err != nil {
		return err // the caller has gone
	}
	d.sent()
	for {
		d.content.Work() // what nobody waits for
		m, err := stream.receive()
		if err != nil {
			return nil // Envoy closes or resets a stream that it needs no more
		}
		if !d.more {
			return fmt.Errorf("nothing more was asked for, got %T", m.GetRequest())
		}
		resp, err := d.next(stream.Context(), m)
		if err != nil {
			return err
		}
		if resp == nil {
			continue // an answer that was cut: what still comes of it changes nothing
		}
		if err := stream.send(resp); err != nil {
			return err
		}
		d.sent()
	}
}

// count tells the metrics of the decision: for a request that must be read to be placed, once it has been.
func (d *decision) count(resp *response, took time.Duration) {
	d.worked += took - d.waited
	d.waited = 0
	if d.unplaced == nil && !d.taken {
		d.server.opts.Metrics.Decided(int(resp.GetImmediateResponse().GetStatus().GetCode()), d.worked)
	}
}

// sent notes that Envoy has been told the way of a request, if it has. One that goes through a chain is confirmed by its first attempt,
// which knows the backend.
func (d *decision) sent() {
	if d.going || !d.begun || d.awaiting {
		return
	}
	d.going = true
	if d.exchange == nil {
		d.open.Confirm()
	}
}

// leave ends the stream of a request.
func (d *decision) leave() {
	d.over()
	d.content.Settle()
}

// over ends a request that Envoy has not gone on with; all others are ended by their record. A second call finds nothing.
func (d *decision) over() {
	switch {
	case d.going:
	case d.begun:
		if d.dry == nil && d.open.Abandon() {
			d.server.exchanges.drop(d.open.ID)
			if d.flight != "" {
				d.server.opts.Flights.Drop(d.flight)
			}
		}
	default:
		d.giveBack()
	}
}

// next answers what follows the headers of a request that goes through a chain.
func (d *decision) next(ctx context.Context, m *extprocv3.ProcessingRequest) (*response, error) {
	switch r := m.GetRequest().(type) {
	case *extprocv3.ProcessingRequest_RequestBody:
		if !d.awaiting {
			return nil, errors.New("a request's body came that was not asked for")
		}
		d.awaiting = false
		start, placed := d.server.opts.Now(), d.unplaced == nil
		resp := d.onBody(ctx, r.RequestBody.GetBody())
		if !placed {
			d.count(resp, d.server.opts.Now().Sub(start))
		}
		return resp, nil
	case *extprocv3.ProcessingRequest_ResponseHeaders:
		var translated *answer
		backend := ""
		for _, kv := range r.ResponseHeaders.GetHeaders().GetHeaders() {
			if kv.GetKey() == wire.BackendHeader {
				backend = value(kv)
			}
		}
		if d.exchange != nil {
			translated = d.exchange.answerOf(backend)
			d.server.exchanges.drop(d.exchange.id) // there will be no further attempt
			d.exchange = nil
		}
		t := tally{account: d.open, input: d.open.EstimatedInput}
		t.content = d.content
		if d.cut != nil {
			t.stop = func(used canon.Usage) bool { return d.cut(backend, used) }
		}
		switch {
		case !viaUpstream(m):
		case translated != nil:
			translated.tally = t
			d.answer = translated
		case d.cut != nil && isStream(r.ResponseHeaders):
			d.answer = newMeter(d.dialect, canon.Reply{Model: d.open.Model, ID: d.open.ID, Created: d.open.Time.Unix()}, t)
		case d.content.WantsOutput():
			d.answer = &tap{content: d.content}
		}
		if d.answer == nil {
			return plain(untouched()), nil
		}
		return plain(d.answer.onHeaders(r.ResponseHeaders)), nil
	case *extprocv3.ProcessingRequest_ResponseBody:
		if d.answer == nil {
			return nil, errors.New("an answer's body came that was not asked for")
		}
		return plain(d.answer.onBody(r.ResponseBody)), nil
	case *extprocv3.ProcessingRequest_ResponseTrailers:
		if d.answer == nil {
			return nil, errors.New("an answer's trailers came that were not asked for")
		}
		return plain(d.answer.onTrailers()), nil
	}
	return nil, fmt.Errorf("unexpected %T", m.GetRequest())
}

// isStream says whether an answer is a stream of events.
func isStream(h *extprocv3.HttpHeaders) bool {
	for _, kv := range h.GetHeaders().GetHeaders() {
		if kv.GetKey() == "content-type" {
			return strings.HasPrefix(value(kv), "text/event-stream")
		}
	}
	return false
}

// viaUpstream says whether a backend made the answer, and not Envoy itself.
func viaUpstream(m *extprocv3.ProcessingRequest) bool {
	for _, s := range m.GetAttributes() {
		if s.GetFields()[wire.CodeDetailsAttribute].GetStringValue() == wire.ViaUpstream {
			return true
		}
	}
	return false
}

// untouched lets an answer pass that is in the caller's dialect already.
func untouched() *extprocv3.ProcessingResponse {
	return &extprocv3.ProcessingResponse{
		Response: &extprocv3.ProcessingResponse_ResponseHeaders{
			ResponseHeaders: &extprocv3.HeadersResponse{Response: &extprocv3.CommonResponse{}},
		},
		ModeOverride: &filterv3.ProcessingMode{
			ResponseHeaderMode: filterv3.ProcessingMode_SEND, ResponseBodyMode: filterv3.ProcessingMode_NONE,
		},
	}
}

// decision is one request at the door.
type decision struct {
	server *Server
	claims             // until it is begun
	open   *usage.Open // what limits let in
	begun  bool        // the desk has it
	going  bool        // Envoy has been told all that it needs to go on
	// worked is how long Weir has worked on it so far, and waited how long it then waited for room, which is no work.
	worked, waited time.Duration

	// fill is what the relay asks for; nil for requests of callers. flight is that of a request which goes to the relay.
	fill   *relay.Fill
	flight string
	taken  bool // the fill's answer is bought by another

	request  *request
	dialect  *canon.Dialect
	exchange *exchange // nil when no attempt will ask, or none any more
	more     bool      // bodies or an answer were asked for
	awaiting bool      // the body has not come
	parse    bool      // the body must be understood, not only kept
	// cut ends a running stream, when a backend's answer has used so much that a budget is spent; nil where none could be overrun.
	cut    func(backend string, used canon.Usage) bool
	answer reader // reads the answer; nil until it has come, and where nobody needs to
	// content collects the text of the request for its spans; nil where nobody wants it.
	content *content.Capture
	// untranslated says that some candidate speaks the caller's dialect, and rename that one of these calls the model otherwise.
	untranslated, rename bool
	endpoint             *canon.Endpoint
	// unplaced is a request that was let in and waits for its body to be placed; nil once it has been.
	unplaced *asked
	// dry makes it a decision that is only explained; nil for every request that somebody has sent.
	dry *dry
}

// reader reads an answer that passes through Weir: an answer or a meter. onBody and onTrailers return nil when there is
// nothing to say.
type reader interface {
	onHeaders(*extprocv3.HttpHeaders) *extprocv3.ProcessingResponse
	onBody(*extprocv3.HttpBody) *extprocv3.ProcessingResponse
	onTrailers() *extprocv3.ProcessingResponse
}

// onHeaders is the decision.
func (s *Server) onHeaders(ctx context.Context, m *message.Request, now time.Time, of *decision) *response {
	r := readRequest(m)
	if void := cmp.Or(r.entered, r.peek.void); void != "" && of.dry == nil && s.opts.Lanes.Void(void) {
		s.opts.Desk.Void(void)
	}
	match := s.opts.Dialects.Classify(r.method, r.path, r.headerValue)
	d := match.Dialect
	known := make(facts, 0, usualFacts)
	refuse := func(e *canon.Error) *response {
		return refusal(d, of.refused(e), r.requestID, known)
	}
	var ok bool
	if of.fill, ok = s.fillOf(ctx, r); !ok {
		return refuse(errNoFill())
	}
	t := s.table.Load()
	if r.entered != "" {
		return refuse(&canon.Error{Kind: canon.ErrOverloaded, RetryAfter: time.Second,
			Message: "The gateway's configuration changed while the request was being sent; send it again."})
	}
	place := trace.Begin(r.traceparent, s.opts.Sampled)
	known = append(known, fact{wire.KeyVersion, t.Version},
		fact{wire.KeyTrace, place.Header()}, fact{wire.KeyTraceFlags, place.Flags()}, fact{wire.KeyTraceParent, place.Parent})

	if of.fill != nil {
		known = append(known, fact{wire.KeyFill, of.fill.Word()})
	}
	id, cerr := of.identify(ctx, t, r, now)
	if cerr != nil {
		return refuse(cerr)
	}
	known = append(known, fact{wire.KeyConsumer, id.Consumer}, fact{wire.KeyTenant, id.Tenant}, fact{wire.KeyCredential, id.Credential})

	if s.forKeeper(of, t, &match, r) {
		return s.toKeeper(ctx, of, &asked{table: t, gateway: t.GatewayOf(ctx), id: id, rule: &table.Rule{}, dialect: d, request: r, now: now, trace: place, part: outer}, known)
	}
	if cerr := checkPath(&match, r); cerr != nil {
		resp := refuse(cerr)
		if match.Outcome == adapters.WrongMethod {
			h := resp.GetImmediateResponse().GetHeaders()
			h.SetHeaders = append(h.SetHeaders, header("allow", strings.Join(match.Allow, ", ")))
		}
		return resp
	}
	op := match.Endpoint.Op
	known = append(known, fact{wire.KeyOperation, string(op)})
	if op == canon.OpModels || op == canon.OpModel {
		return s.models(of, t, id, t.GatewayOf(ctx), &match, r, known)
	}

	model, streaming, cerr := checkBody(r)
	if cerr != nil {
		return refuse(cerr)
	}
	known = append(known, fact{wire.KeyModel, model})
	own := of.fill == nil || of.fill.AsCaller() // else it is the policy's wish, and not the caller's
	if own && !id.MayUse(model) {
		return refuse(&canon.Error{Kind: canon.ErrPermission, Param: "model",
			Message: fmt.Sprintf("This credential may not use the model %q.", model)})
	}
	gateway, only := of.gateway(ctx, t), onlyOf(op, d)
	rule := t.Find(&table.Request{Gateway: gateway, Method: r.method, Path: of.matched(r), Query: r.query, Model: model, Labels: id.Labels, Header: r.header})
	if rule == nil {
		return refuse(&canon.Error{Kind: canon.ErrModelNotFound, Param: "model",
			Message: fmt.Sprintf("No route serves the model %q on %s.", model, redact.Path(r.path))})
	}
	known = append(known, fact{wire.KeyRoute, rule.Name}, fact{wire.KeyDialect, d.Name})
	if missing, ok := id.HasScopes(rule.RequiredScopes); own && !ok {
		return refuse(identity.InsufficientScope(missing, rule.RequiredScopes))
	}
	if s.asChat(of, t, op, gateway, rule, id, model) {
		only = ""
	}
	variant := rule.Variant(rule.Capable(model, only))
	if variant == nil {
		return refuse(noCandidate(rule, model, op, d))
	}
	if streaming {
		known = append(known, fact{wire.KeyStream, "true"})
	}
	a := &asked{
		table: t, gateway: gateway, id: id, rule: rule, variant: variant, dialect: d, operation: op,
		request: r, model: model, stream: streaming, now: now, trace: place,
	}
	var relayed remembered
	switch {
	case of.fill != nil:
		a.part, a.sticky, a.shared = inner, of.fill.Sticky, of.fill.Shared()
	case s.opts.Flights != nil || of.dry != nil: // what a configuration means is told without a relay, too
		a.remembered = a.remember()
		if relayed = a.remembered.wanted(a); of.dry == nil && relayed != (remembered{}) {
			a.part = outer
		}
	}
	limits, cerr := s.admit(ctx, a, of)
	if cerr != nil {
		resp := refuse(cerr)
		h := resp.GetImmediateResponse().GetHeaders()
		h.SetHeaders = append(h.SetHeaders, limits.headers()...)
		return resp
	}
	of.request, of.dialect, of.endpoint = r, d, match.Endpoint
	if a.part == outer {
		return s.toRelay(of, a, relayed, append(known, limits...))
	}
	if of.fill != nil {
		if !of.fill.Began(of.open) {
			return of.lost(refusal(d, errTaken(), r.requestID, known))
		}
	}
	s.capture(a, of)
	return s.proceed(ctx, of, a, append(known, limits...))
}

// gateway is the LLMGateway that the request came in by.
func (d *decision) gateway(ctx context.Context, t *table.Table) string {
	if d.fill != nil {
		return d.fill.Gateway
	}
	return t.GatewayOf(ctx)
}

// matched is the path that rules are matched against, as Classify has judged it: a trailing slash must not lead past a rule.
func (r *request) matched() string {
	if len(r.path) > 1 {
		return strings.TrimSuffix(r.path, "/")
	}
	return r.path
}

// onlyOf is the dialect that a backend must speak to serve an operation, "" for any: only chat can be translated.
func onlyOf(op canon.Operation, d *canon.Dialect) string {
	if op == canon.OpChat {
		return ""
	}
	return d.Name
}

// checkPath tells paths and methods that are not served.
func checkPath(match *adapters.Match, r *request) *canon.Error {
	if r.upgrade {
		return &canon.Error{Kind: canon.ErrUpgrade, Message: `Upgrades are not served here; use plain HTTP, with "stream": true for streaming.`}
	}
	if r.hosts {
		return &canon.Error{Kind: canon.ErrInvalidRequest, Message: "The request has more than one host header; send one."}
	}
	switch match.Outcome {
	case adapters.Unknown:
		return &canon.Error{Kind: canon.ErrNotFound, Message: fmt.Sprintf("Nothing is served at %s %s.", r.method, redact.Path(r.path))}
	case adapters.WrongMethod:
		return &canon.Error{Kind: canon.ErrMethod, Message: fmt.Sprintf("%s is not allowed at %s; use %s.", r.method, redact.Path(r.path), strings.Join(match.Allow, " or "))}
	}
	return nil
}

// peekErrors say what the peek filter's words mean.
var peekErrors = map[string]canon.Error{
	"empty":            {Message: "The request body is empty; send a JSON object."},
	"not_object":       {Message: "The request body is not a JSON object."},
	"syntax":           {Message: "The request body is not valid JSON."},
	"not_utf8":         {Message: "The request body is not valid UTF-8."},
	"trailing":         {Message: "The request body has text after its JSON object."},
	"duplicate_model":  {Param: "model", Message: `The request body has "model" more than once; which one counts cannot be told.`},
	"duplicate_stream": {Param: "stream", Message: `The request body has "stream" more than once; which one counts cannot be told.`},
	"escaped_key":      {Message: "The request body spells a top-level key with escapes; write it plainly."},
	"too_deep":         {Message: "The request body nests deeper than 10000 levels."},
	"key_not_ascii":    {Message: "The request body has a top-level key with characters outside ASCII."},
	"unreadable":       {Kind: canon.ErrInternal, Message: "The gateway could not read the request body; send it again."},
	"key_case":         {Message: `The request body has "model" or "stream" in another case; write it in lower case.`},
	"long_model":       {Param: "model", Message: fmt.Sprintf("The model name is longer than %d bytes.", maxModelBytes)},
	"long_stream":      {Param: "stream", Message: "stream must be true or false."},
}

// checkBody reads model and stream out of what the peek filter found.
func checkBody(r *request) (model string, streaming bool, _ *canon.Error) {
	invalid := func(param, message string) (string, bool, *canon.Error) {
		return "", false, &canon.Error{Kind: canon.ErrInvalidRequest, Param: param, Message: message}
	}
	if r.encoding != "" && !strings.EqualFold(r.encoding, "identity") {
		return "", false, &canon.Error{Kind: canon.ErrInvalidRequest, Status: 415,
			Message: fmt.Sprintf("A request body with content-encoding %q is not read here; send it plain.", shorten(r.encoding))}
	}
	if r.contentType != "" && !isJSON(r.contentType) {
		return "", false, &canon.Error{Kind: canon.ErrInvalidRequest, Status: 415,
			Message: fmt.Sprintf("A request body of content-type %q is not read here; send application/json.", shorten(r.contentType))}
	}
	if c := charset(r.contentType); c != "" && !strings.EqualFold(c, "utf-8") && !strings.EqualFold(c, "us-ascii") {
		return "", false, &canon.Error{Kind: canon.ErrInvalidRequest, Status: 415,
			Message: fmt.Sprintf("A request body in the character set %q is not read here; send UTF-8.", shorten(c))}
	}
	if r.peek.err != "" {
		e, ok := peekErrors[r.peek.err]
		if !ok {
			e.Message = "The request body cannot be read."
		}
		if e.Kind == "" {
			e.Kind = canon.ErrInvalidRequest
		}
		return "", false, &e
	}
	if !r.peek.read {
		return invalid("", "The request has no body; send a JSON object.")
	}
	switch r.peek.model {
	case "":
		return invalid("model", `The request body has no "model".`)
	case "null":
		return invalid("model", "model must be a string, not null.")
	}
	if r.peek.model[0] != '"' || json.Unmarshal([]byte(r.peek.model), &model) != nil {
		return invalid("model", "model must be a string.")
	}
	if model == "" || len(model) > maxModelBytes || !utf8.ValidString(model) || strings.ContainsFunc(model, unicode.IsControl) {
		return invalid("model", fmt.Sprintf("model must be 1 to %d bytes of printable text.", maxModelBytes))
	}
	switch r.peek.stream {
	case "true":
		streaming = true
	case "", "false", "null":
	default:
		return invalid("stream", "stream must be true or false.")
	}
	return model, streaming, nil
}

func isJSON(contentType string) bool {
	kind, _, _ := strings.Cut(contentType, ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	return kind == contentJSON || strings.HasSuffix(kind, "+json")
}

// charset is the parameter of a content type; "" where there is none.
func charset(contentType string) string {
	if !strings.Contains(contentType, ";") {
		return ""
	}
	_, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return ""
	}
	return params["charset"]
}

func shorten(s string) string {
	if len(s) > 32 {
		return s[:32] + "..."
	}
	return s
}

// noCandidate explains a rule that matches a request none of whose backends can serve it.
func noCandidate(rule *table.Rule, model string, op canon.Operation, d *canon.Dialect) *canon.Error {
	if len(rule.Unusable) > 0 { // one of them may be who serves it
		return &canon.Error{Kind: canon.ErrOverloaded, Code: codeUnavailable, RetryAfter: unusableRetry,
			Message: fmt.Sprintf("No backend of the rule %s can be used for the model %q.", rule.Name, model)}
	}
	if op != canon.OpChat && rule.Capable(model, "") != 0 {
		return &canon.Error{Kind: canon.ErrInvalidRequest, Param: "model",
			Message: fmt.Sprintf("The backends of the model %q do not speak the %s dialect, and %s requests are not translated%s.", model, d.Name, op, unless(op))}
	}
	return &canon.Error{Kind: canon.ErrModelNotFound, Param: "model", Message: fmt.Sprintf("No backend serves the model %q.", model)}
}

// proceed sends the request on: straight to a backend where nothing must be rewritten, else through a chain. Where its place depends
// on the prompt, that is decided when the body has come.
func (s *Server) proceed(ctx context.Context, d *decision, a *asked, known facts) *response {
	d.parse, d.untranslated, d.rename = needs(a.variant, d.dialect, a.model)
	known = append(known, fact{wire.KeyNeeds, d.needsWeir(a.variant)})
	resp, common := newOnward()
	if a.readsPrompt() {
		d.unplaced, d.more, d.awaiting = a, true, true
		resp.ModeOverride = d.withBody()
		resp.tell(wire.DecisionNamespace, known)
		return resp
	}
	keys, endpoints, cerr := s.place(ctx, d, a, nil)
	if cerr != nil {
		d.over()
		return refusal(d.dialect, d.refused(cerr), a.request.requestID, known)
	}
	common.ClearRouteCache, common.HeaderMutation = true, s.send(d, a, keys)
	known = append(known, fact{wire.KeyExchange, d.open.ID}, fact{wire.KeyEndpoints, endpoints})
	resp.tell(wire.DecisionNamespace, append(known, s.offerLane(d, a, keys)...))
	if !d.content.WantsInput() && (d.exchange == nil || !d.readsBody()) {
		d.askForStream(resp)
		return resp
	}
	d.more, d.awaiting = true, true
	resp.ModeOverride = d.withBody()
	return resp
}

// readsBody says whether attempts need the body.
func (d *decision) readsBody() bool { return d.parse || d.rename }

// withBody asks for the body, and for the answer where that may be needed.
func (d *decision) withBody() *filterv3.ProcessingMode {
	mode := &filterv3.ProcessingMode{RequestBodyMode: filterv3.ProcessingMode_BUFFERED, ResponseHeaderMode: filterv3.ProcessingMode_SKIP}
	d.withAnswer(mode)
	return mode
}

// withAnswer asks for the answer where that may be needed. Where its text is only captured, what is asked for of its body is said when
// its headers have come: Envoy takes content-length from an answer whose body it is to send here in pieces.
func (d *decision) withAnswer(mode *filterv3.ProcessingMode) {
	switch {
	case d.parse || d.cut != nil:
		mode.ResponseHeaderMode, mode.ResponseBodyMode = filterv3.ProcessingMode_SEND, filterv3.ProcessingMode_STREAMED
	case d.content.WantsOutput():
		mode.ResponseHeaderMode = filterv3.ProcessingMode_SEND
	}
}

// send puts a request that has its place on the desk, and says what tells Envoy the way. An exchange that waits for the body is kept
// once that is there.
func (s *Server) send(d *decision, a *asked, keys table.Keys) *extprocv3.HeaderMutation {
	now := s.opts.Now() // Envoy's time for it begins when it is on its way, after all that it has waited for
	d.open.Expires = now.Add(a.rule.Timeout + expiryMargin)
	d.open.Grant, d.open.Outcomes, d.open.Hold = d.grant, d.outcomes, d.hold
	if d.open.Unasked = keys.Direct != "" && !d.readsBody(); d.open.Unasked {
		d.open.Order, d.open.Likely = expect(a.variant, keys.Order)
	}
	if d.dry == nil {
		s.opts.Desk.Begin(d.open)
	} else {
		d.dry.order, d.dry.keys = keys.Order, keys
	}
	d.claims, d.begun = claims{}, true
	if d.open.Unasked {
		set := []*corev3.HeaderValueOption{header(wire.RuleHeader, keys.Direct), header(wire.PathHeader, d.endpoint.Path)}
		if len(a.variant.Candidates) > 1 {
			set = append(set, s.fewerRetries(keys.Order)...)
		}
		return &extprocv3.HeaderMutation{RemoveHeaders: a.unwanted(), SetHeaders: set}
	}
	path := d.endpoint.Path
	if a.request.query != "" {
		path += "?" + a.request.query
	}
	d.exchange = &exchange{
		id: d.open.ID, open: d.open, table: a.table, dialect: d.dialect, endpoint: d.endpoint, model: a.model, path: path,
		headers: dialectHeaders(a.request), stream: a.stream, created: now, expires: d.open.Expires,
	}
	if !d.readsBody() {
		d.keep()
	}
	set := append([]*corev3.HeaderValueOption{header(wire.RuleHeader, keys.Chain)}, s.fewerRetries(keys.Order)...)
	return &extprocv3.HeaderMutation{RemoveHeaders: a.unwanted(), SetHeaders: set}
}

// unwanted are the headers that no backend gets: those of a trace that the request does not continue, as the specification of W3C has it.
func (a *asked) unwanted() []string {
	if _, ok := a.request.header(wire.TraceStateHeader); ok && a.trace.Parent == "" {
		return []string{wire.TraceStateHeader}
	}
	return nil
}

// fewerRetries bounds the retries where some of them can reach nobody.
func (s *Server) fewerRetries(order []*table.Candidate) []*corev3.HeaderValueOption {
	if n, fewer := s.retries(order); fewer {
		return []*corev3.HeaderValueOption{header(wire.RetriesHeader, strconv.Itoa(n))}
	}
	return nil
}

// retries is how many retries can reach somebody, where that is fewer than there are. Envoy passes over a cluster whose endpoints are all
// isolated; but where none is left for a retry, the caller would get that for an answer, and not what a backend has said.
func (s *Server) retries(order []*table.Candidate) (n int, fewer bool) {
	for i, c := range order {
		if _, usable := s.opts.Steering.Share(c.Backend.ID); i == 0 || usable || !c.Backend.Named {
			n++
		}
	}
	return n - 1, n > 0 && n < len(order)
}

// askForStream asks for the answer of a request whose stream may be cut or whose text is captured, where nothing else is asked for.
func (d *decision) askForStream(resp *response) {
	if d.cut == nil && !d.content.WantsOutput() {
		return
	}
	d.more = true
	resp.ModeOverride = &filterv3.ProcessingMode{}
	d.withAnswer(resp.ModeOverride)
}

// needsWeir says whose answers must not reach the caller but through Weir, for an Envoy that goes on without it.
func (d *decision) needsWeir(v *table.Variant) string {
	if d.cut != nil {
		return "*" // pieces of the stream are here alone
	}
	out := ""
	for _, c := range v.Candidates {
		if d.parse && c.Backend.Dialect.Name != d.dialect.Name {
			out += " " + c.Backend.ID + " "
		}
	}
	return out
}

// needs says whether some candidate speaks another dialect, whether some speaks the caller's, and whether one of
// these calls the model by another name.
func needs(v *table.Variant, d *canon.Dialect, model string) (translate, same, rename bool) {
	for _, c := range v.Candidates {
		if c.Backend.Dialect.Name != d.Name {
			translate = true
			continue
		}
		same = true
		if c.UpstreamModel(model) != model {
			rename = true
		}
	}
	return translate, same, rename
}

// onBody keeps the body for the attempts, and places a request whose place depends on it. A body that cannot be understood goes no
// further, whoever would have been asked: which backend is chosen must not decide whether a request is valid.
func (d *decision) onBody(ctx context.Context, body []byte) *response {
	a := d.unplaced
	d.unplaced = nil
	var req *canon.Request
	var err *canon.Error
	if d.parse || a != nil {
		req, err = d.dialect.In.ParseRequest(body)
	}
	refuse := func(e *canon.Error) *response {
		d.over()
		return refusal(d.dialect, d.refused(e), d.request.requestID, facts{{wire.KeyModel, d.open.Model}})
	}
	// A sound request that only backends of its own dialect can serve: refused only if another is asked.
	if d.parse && err != nil && (err.Code != canon.CodeNotTranslatable || !d.untranslated) {
		return refuse(err)
	}
	common := &extprocv3.CommonResponse{}
	resp := plain(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestBody{RequestBody: &extprocv3.BodyResponse{Response: common}}})
	if a != nil {
		keys, endpoints, cerr := d.server.place(ctx, d, a, req)
		if cerr != nil {
			return refuse(cerr)
		}
		common.ClearRouteCache, common.HeaderMutation = true, d.server.send(d, a, keys)
		resp.tell(wire.DecisionNamespace, facts{{wire.KeyExchange, d.open.ID}, {wire.KeyEndpoints, endpoints}})
	}
	if d.exchange != nil && d.readsBody() {
		d.exchange.body = body
		if d.parse {
			d.exchange.request, d.exchange.unsaid = req, err
		}
		d.keep()
	}
	d.content.Request(body, req)
	return resp
}

// keep keeps the exchange for the attempts.
func (d *decision) keep() {
	if d.dry == nil {
		d.server.exchanges.put(d.exchange)
	}
}

// models answers a list of models, or one of them.
func (s *Server) models(of *decision, t *table.Table, id *identity.Identity, gateway string, match *adapters.Match, r *request, known facts) *response {
	list := t.ModelsFor(id, gateway)
	in := match.Dialect.In
	headers := []*corev3.HeaderValueOption{header("content-type", contentJSON)}
	if match.Endpoint.Op == canon.OpModels {
		return immediate(200, headers, in.AppendModels(nil, list), "weir_models", match.Dialect, known)
	}
	for _, m := range list {
		if m.ID == match.Model {
			return immediate(200, headers, in.AppendModel(nil, m), "weir_models", match.Dialect, known)
		}
	}
	return refusal(match.Dialect, of.refused(&canon.Error{Kind: canon.ErrModelNotFound, Param: "model",
		Message: fmt.Sprintf("The model %q does not exist, or this credential may not use it.", match.Model)}), r.requestID, known)
}
