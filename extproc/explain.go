package extproc

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/message"
	"github.com/weir-dev/weir/extproc/peekjson"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage"
)

// Explain says what would become of a request now, and why. It runs the decision itself, and takes, counts, leases and tells nothing.
// What Envoy refuses before it asks Weir (malformed HTTP, headers or bodies that are too large) is not known here. An error says that
// what is asked for is not there: the gateway or the Consumer that req names.
func (s *Server) Explain(ctx context.Context, req ExplainRequest) (*Explanation, error) {
	return s.explain(ctx, &req, true)
}

// ExplainTable explains by a compiled table without a server that runs: as if nothing had been used, and all backends were well.
func ExplainTable(ctx context.Context, t *table.Table, dialects *adapters.Set, now func() time.Time, req ExplainRequest) (*Explanation, error) {
	limits := limit.New(limit.Options{Now: now})
	defer limits.Close(ctx)
	s := New(Options{
		Dialects: dialects, Log: slog.New(slog.DiscardHandler), Now: now,
		Limits: limits, Breakers: breaker.New(breaker.Options{Now: now}), Estimator: usage.NewEstimator(),
	})
	s.Use(t)
	return s.explain(ctx, &req, false)
}

// explaining is one explanation that is being made.
type explaining struct {
	s       *Server
	t       *table.Table
	req     *ExplainRequest
	request *request
	d       *decision
	out     *Explanation
	assumed int64 // tokens of output that budgets reckon with, where the request does not say how much it wants
}

func (s *Server) explain(ctx context.Context, req *ExplainRequest, live bool) (*Explanation, error) {
	now := s.opts.Now()
	out := &Explanation{
		At: now, Live: live, Rules: []ExplainedRule{}, Limits: []ExplainedLimit{}, Breakers: []ExplainedBreaker{}, Candidates: []ExplainedCandidate{},
	}
	t := s.table.Load()
	if t == nil {
		out.refuse(&canon.Error{Kind: canon.ErrOverloaded, Message: "The gateway is starting: no configuration is live yet."})
		return out, nil
	}
	out.Version = t.Version
	if !live {
		out.Notes = append(out.Notes, "This is read from files. What has been used of limits and budgets, whether backends are well, keys that "+
			"are stored in Redis and keys that token issuers publish are not known here.")
	}
	if req.Method == "" {
		req.Method = "GET"
		if len(req.Body) > 0 {
			req.Method = "POST"
		}
	}
	e := &explaining{s: s, t: t, req: req, out: out, d: &decision{server: s, dry: &dry{}}}
	if err := e.name(); err != nil {
		return nil, err
	}
	if t.Gateway != "" && req.Gateway != "" && req.Gateway != t.Gateway {
		return nil, fmt.Errorf("there is no LLMGateway %s: the one that there is, is %s", req.Gateway, t.Gateway)
	}
	if req.Gateway != "" {
		ctx = metadata.NewIncomingContext(ctx, metadata.Pairs(wire.GatewayMetadata, req.Gateway))
	} else if t.Gateway == "" {
		out.Notes = append(out.Notes, "There are several LLMGateways and the request does not say which: limits of none of them are counted in, nor are Routes that only some of them take.")
	}
	asked := e.message()
	e.request = readRequest(asked)
	e.describe()
	resp := s.onHeaders(ctx, asked, now, e.d)
	if e.d.awaiting && resp.GetImmediateResponse() == nil {
		e.d.awaiting = false
		if r := e.d.onBody(ctx, req.Body); r != nil {
			resp = r
		}
	}
	e.caller()
	e.rules()
	e.guards(ctx, now)
	e.candidates(now)
	e.outcome(resp)
	e.relay()
	e.lane()
	return out, nil
}

// name takes the caller that is named instead of a credential.
func (e *explaining) name() error {
	req := e.req
	switch {
	case req.Consumer != "":
		namespace, name, ok := strings.Cut(req.Consumer, "/")
		if !ok || namespace == "" || name == "" {
			return fmt.Errorf("there is no consumer %q: write namespace/name", req.Consumer)
		}
		id, ok := e.t.Auth.Named(namespace, name)
		if !ok && req.Tenant == "" {
			return fmt.Errorf("there is no consumer %s; for one that only tokens name, say its tenant as well", req.Consumer)
		}
		if !ok {
			id = &identity.Identity{Consumer: name, Namespace: namespace, ConsumerID: req.Consumer}
		}
		id.Tenant = cmp.Or(req.Tenant, id.Tenant)
		e.d.dry.id = id
	case req.Tenant != "":
		e.d.dry.id = &identity.Identity{Tenant: req.Tenant}
	default:
		return nil
	}
	e.out.Notes = append(e.out.Notes, "The caller is named, so what a key or a token adds of its own (models, scopes, networks, a limit) is left out.")
	return nil
}

// bodiless are the methods whose bodies the peek filter does not wait for.
var bodiless = map[string]bool{"CONNECT": true, "GET": true, "HEAD": true, "DELETE": true, "OPTIONS": true}

// message is the request as Envoy would tell of it, the findings of its peek filter included.
func (e *explaining) message() *message.Request {
	req := e.req
	out := &message.Request{Kind: message.RequestHeaders, Headers: []message.Header{{Name: ":method", Value: req.Method}, {Name: ":path", Value: req.Path}}}
	if !slices.ContainsFunc(req.Headers, func(h [2]string) bool { return strings.EqualFold(h[0], "host") || h[0] == ":authority" }) {
		out.Headers = append(out.Headers, message.Header{Name: ":authority", Value: "gateway"})
	}
	credential := e.d.dry.id != nil
	for _, h := range req.Headers {
		name := strings.ToLower(h[0])
		if name == "host" {
			name = ":authority"
		}
		switch name {
		case "authorization", "x-api-key", "api-key", "x-goog-api-key":
			credential = true
		}
		out.Headers = append(out.Headers, message.Header{Name: name, Value: h[1]})
	}
	if credential && req.Source.IsValid() {
		out.Peek = append(out.Peek, message.Field{Key: wire.PeekSource, Text: netip.AddrPortFrom(req.Source, 1).String()})
	}
	if !credential || len(req.Body) == 0 || bodiless[req.Method] {
		return out
	}
	f := peekjson.Read(req.Body)
	for key, v := range map[string]string{
		wire.PeekError: f.Err, wire.PeekModel: f.Model, wire.PeekStream: f.Stream, wire.PeekN: f.N, wire.PeekMaxTokens: f.MaxTokens,
		wire.PeekMaxCompletionTokens: f.MaxCompletionTokens, wire.PeekMaxOutputTokens: f.MaxOutputTokens,
	} {
		out.Peek = append(out.Peek, message.Field{Key: key, Text: v})
	}
	for key, v := range map[string]int64{wire.PeekSize: int64(len(req.Body)), wire.PeekMedia: f.Media, wire.PeekMediaCount: f.MediaCount} {
		out.Peek = append(out.Peek, message.Field{Key: key, Number: float64(v)})
	}
	out.Peek = append(out.Peek, message.Field{Key: wire.PeekRead, Bool: true})
	return out
}

// describe says what was read of the request.
func (e *explaining) describe() {
	r := e.request
	out := &e.out.Request
	out.Method, out.Path, out.BodyBytes = r.method, r.path, int64(len(e.req.Body))
	out.MediaBytes, out.MediaParts = r.peek.media, r.peek.mediaCount
	match := e.s.opts.Dialects.Classify(r.method, r.path, r.headerValue)
	if match.Endpoint == nil {
		return
	}
	out.Dialect, out.Operation = match.Dialect.Name, string(match.Endpoint.Op)
	if model, stream, err := checkBody(r); err == nil {
		out.Model, out.Stream = model, stream
	}
}

func (e *explaining) caller() {
	id := e.d.dry.caller
	if id == nil {
		return
	}
	c := &ExplainedCaller{
		Consumer: id.Consumer, Namespace: id.Namespace, Tenant: id.Tenant, Credential: id.Credential, KeyPrefix: id.KeyPrefix,
		Labels: id.Labels, Scopes: id.Scopes,
	}
	for _, p := range id.Models {
		c.AllowedModels = append(c.AllowedModels, p.List())
	}
	e.out.Caller = c
}

// outcome reads what the decision has answered.
func (e *explaining) outcome(resp *response) {
	d, out := e.d, &e.out.Outcome
	if now := resp.GetImmediateResponse(); now != nil {
		out.immediate(resp, d.dry.err)
		if l := d.dry.limits; l != nil && l.Refusal != nil && l.MaxWait > 0 {
			out.WaitsSeconds = l.MaxWait.Seconds()
		}
		if out.WaitsSeconds == 0 && d.dry.err != nil && d.dry.err.Code == codeOverloaded {
			for i := range e.out.Candidates {
				if p := e.out.Candidates[i].Pool; p != nil {
					out.WaitsSeconds = max(out.WaitsSeconds, p.MaxWait)
				}
			}
		}
		return
	}
	first, then := e.asks()
	if err := e.cannot(first); err != nil { // the first attempt is answered so
		out.immediate(refusal(d.dialect, err, e.request.requestID, nil), err)
		return
	}
	out.Served, out.By = true, first.Backend.ID
	for _, c := range then {
		out.Then = append(out.Then, c.Backend.ID)
	}
	fields := resp.GetDynamicMetadata().GetFields()[wire.DecisionNamespace].GetStructValue().GetFields()
	if named := fields[wire.KeyEndpoints].GetStringValue(); named != "" {
		out.Endpoints = strings.Split(named, ",")
	}
}

// asks says whom the first attempt most likely asks, and whom the others when it fails.
func (e *explaining) asks() (first *table.Candidate, then []*table.Candidate) {
	if order := e.d.dry.order; len(order) > 0 {
		return order[0], order[1:]
	}
	v := e.d.dry.asked.variant
	var weights [table.MaxCandidates]float64
	e.s.weighAny(v, &weights)
	first = heaviest(v, &weights)
	if first == nil {
		first = v.Candidates[0]
	}
	for _, c := range v.Candidates {
		if c != first {
			then = append(then, c)
		}
	}
	slices.SortStableFunc(then, func(a, b *table.Candidate) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(b.Weight, a.Weight))
	})
	return first, then
}

// weighAny is weigh; where all ask to be left alone, as if none did.
func (s *Server) weighAny(v *table.Variant, weights *[table.MaxCandidates]float64) (sum float64) {
	if sum, _ = s.weigh(v, 0, false, weights); sum == 0 {
		sum, _ = s.weigh(v, 0, true, weights)
	}
	return sum
}

// cannot says why an attempt at a candidate would be answered by Weir; nil where it goes on.
func (e *explaining) cannot(c *table.Candidate) *canon.Error {
	if e.d.exchange == nil {
		return nil
	}
	_, err := e.d.exchange.call(c)
	return err
}

// immediate is an answer of Weir's own.
func (o *ExplainedOutcome) immediate(resp *response, err *canon.Error) {
	r := resp.GetImmediateResponse()
	o.Status, o.Body = int(r.GetStatus().GetCode()), string(r.GetBody())
	for _, h := range r.GetHeaders().GetSetHeaders() {
		if name := h.GetHeader().GetKey(); name != "content-type" {
			if o.Headers == nil {
				o.Headers = map[string]string{}
			}
			o.Headers[name] = value(h.GetHeader())
		}
	}
	if err == nil {
		o.Served, o.By = o.Status < 300, "weir"
		return
	}
	o.Kind, o.Code, o.Message = string(err.Kind), err.Code, err.Message
}

// refuse is an outcome that came before any decision.
func (x *Explanation) refuse(err *canon.Error) {
	x.Outcome = ExplainedOutcome{Status: err.HTTPStatus(), Kind: string(err.Kind), Code: err.Code, Message: err.Message}
}
