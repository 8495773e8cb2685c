package extproc

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/message"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
)

// attempt answers the upstream-level call: it prepares the request for the backend that this attempt has got.
func (s *Server) attempt(stream exchangeStream, first *message.Request) error {
	if first.Kind != message.RequestHeaders {
		return fmt.Errorf("expected request headers, got %s", first.Kind)
	}
	if err := stream.send(s.prepare(first)); err != nil {
		return err
	}
	m, err := stream.receive()
	if err != nil {
		return nil // Envoy closes or resets a stream that it needs no more
	}
	return fmt.Errorf("nothing more was asked for, got %T", m.GetRequest())
}

// prepare makes the request that this attempt sends, and leaves with the exchange how its answer is read.
func (s *Server) prepare(m *message.Request) *response {
	requestID := ""
	for _, h := range m.Headers {
		if h.Name == "x-request-id" {
			requestID = strings.Clone(h.Value) // what reads the answer keeps it
		}
	}
	e := s.exchanges.get(message.Text(m.Decision, wire.KeyExchange))
	if e == nil {
		// Weir was restarted between the decision and this attempt, and what it kept is gone.
		return refusal(s.callerDialect(message.Text(m.Decision, wire.KeyDialect)), &canon.Error{Kind: canon.ErrOverloaded, RetryAfter: time.Second,
			Message: "The gateway was restarted while it handled this request; send it again."}, requestID, nil)
	}
	chain, backend := attributes(m)
	c := e.candidate(chain, backend)
	if c == nil {
		s.opts.Log.Error("an attempt reached a backend that its chain does not have", "chain", chain, "backend", backend)
		return refusal(e.dialect, &canon.Error{Kind: canon.ErrInternal,
			Message: "The gateway chose a backend that it cannot prepare the request for."}, requestID, nil)
	}
	b := c.Backend
	translated := b.Dialect.Name != e.dialect.Name

	resp, common := newOnward()
	model := c.UpstreamModel(e.model)
	call, err := e.call(c)
	if err != nil {
		e.open.Refuse()
		return refusal(e.dialect, err, requestID, nil)
	}
	body := call.Body
	set := append([]*corev3.HeaderValueOption{
		header(":path", b.BasePath+call.Path), header(":authority", b.Host), header("content-type", contentJSON), header(wire.PreparedHeader, "1"),
	}, pairs(call.Headers)...)
	if !translated {
		set = append(set, pairs(e.headers)...)
	}
	if b.LoadReports {
		set = append(set, header(wire.LoadFormat, wire.LoadFormatText))
	}
	if c, ok := canon.CredentialFor(b.Credentials, setValue(set, b.Dialect.Header)); ok {
		set = append(set, header(c.Name, c.Value))
	}
	common.HeaderMutation = &extprocv3.HeaderMutation{SetHeaders: set, RemoveHeaders: unwanted(m.Headers, set)}
	if body != nil {
		if translated || model != e.model {
			common.Status = extprocv3.CommonResponse_CONTINUE_AND_REPLACE
			common.BodyMutation = &extprocv3.BodyMutation{Mutation: &extprocv3.BodyMutation_Body{Body: body}}
		}
		// Set for a body that stays, too: the attempt before may have left its own length.
		resp.tell(wire.AttemptNamespace, facts{{wire.KeyContentLength, strconv.Itoa(len(body))}})
	}
	if !e.open.Attempt(b.ID, model) {
		// It has been given up, so that nobody would count what it uses.
		return refusal(e.dialect, &canon.Error{Kind: canon.ErrOverloaded, RetryAfter: time.Second,
			Message: "The gateway took too long to handle this request; send it again."}, requestID, nil)
	}
	s.opts.Metrics.Attempted(b.ID, translated)
	if translated {
		e.setAnswer(b.ID, newAnswer(e, b, call.Dropped, requestID))
	}
	return resp
}

// call is what a candidate is asked: the request in its dialect, or the caller's with the backend's name for the model.
func (e *exchange) call(c *table.Candidate) (canon.Call, *canon.Error) {
	b, model := c.Backend, c.UpstreamModel(e.model)
	switch {
	case b.Dialect.Name != e.dialect.Name:
		if e.unsaid != nil {
			return canon.Call{}, e.unsaid
		}
		call, err := b.Dialect.Out.BuildCall(e.request, canon.CallOptions{Model: model, DefaultMaxTokens: b.DefaultMaxTokens})
		if err != nil {
			return canon.Call{}, err
		}
		return *call, nil
	case model != e.model:
		body, err := b.Dialect.Out.SetModel(e.body, model)
		return canon.Call{Path: e.path, Body: body}, err
	}
	return canon.Call{Path: e.path, Body: e.body}, nil
}

func (s *Server) callerDialect(name string) *canon.Dialect {
	if d, ok := s.opts.Dialects.Get(name); ok && d.In != nil {
		return &d
	}
	return s.opts.Dialects.Classify("", "", func(string) string { return "" }).Dialect
}

// candidate finds what an attempt is for: the chain it walks and the backend it has got, and how often that
// backend has been tried.
func (e *exchange) candidate(chain, backend string) *table.Candidate {
	c := e.table.Chains.Get(chain)
	if c == nil {
		return nil
	}
	return c.Nth(backend, e.nth(backend))
}

// attributes reads the chain's name and the backend's ID. Envoy gives the endpoint's metadata as text, in a format whose spaces it
// does not promise.
func attributes(m *message.Request) (chain, backend string) {
	for _, a := range m.Attributes {
		switch {
		case a.Text == "":
		case a.Key == wire.ClusterAttribute:
			chain = a.Text
		case a.Key == wire.HostMetadataAttribute:
			backend = metadataText(a.Text, wire.KeyBackend)
		}
	}
	return chain, backend
}

// metadataText is the text of a field of metadata that is printed as text: `key: "NAME" value { string_value: "TEXT" }`; "" where there
// is none. Quotes in texts are escaped, so that what stands in one is no field.
func metadataText(text, name string) string {
	for quoted := strconv.Quote(name); ; {
		before, rest, found := strings.Cut(text, quoted)
		if !found {
			return ""
		}
		if strings.HasSuffix(strings.TrimRight(before, " \n"), "key:") {
			_, rest, _ = strings.Cut(rest, "string_value:")
			_, rest, _ = strings.Cut(rest, `"`)
			value, _, _ := strings.Cut(rest, `"`)
			return value
		}
		text = rest
	}
}

// setValue is what a header is set to; "" where it is not.
func setValue(set []*corev3.HeaderValueOption, name string) string {
	for _, o := range set {
		if o.GetHeader().GetKey() == name {
			return value(o.GetHeader())
		}
	}
	return ""
}

func pairs(list [][2]string) []*corev3.HeaderValueOption {
	out := make([]*corev3.HeaderValueOption, len(list))
	for i, h := range list {
		out[i] = header(h[0], h[1])
	}
	return out
}

// unwanted lists the headers that this attempt must not send on and does not set itself: the caller's credentials, those
// of a dialect, accept-encoding (a compressed answer can neither be translated nor counted), and whatever
// an attempt before this one has set of them.
func unwanted(headers []message.Header, set []*corev3.HeaderValueOption) []string {
	var out []string
	for _, h := range headers {
		name := h.Name
		if name != "accept-encoding" && !slices.Contains(wire.CallerHeaders, name) && !ofDialect(name) {
			continue
		}
		if !slices.ContainsFunc(set, func(o *corev3.HeaderValueOption) bool { return o.GetHeader().GetKey() == name }) {
			out = append(out, name)
		}
	}
	return out
}

// dialectPrefixes are of headers that mean something in one dialect only.
var dialectPrefixes = []string{"anthropic-", "openai-", "x-dashscope-", "x-goog-", "x-stainless-"}

func ofDialect(name string) bool {
	return slices.ContainsFunc(dialectPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// dialectHeaders are the caller's own headers of its dialect, for the attempts that speak it.
func dialectHeaders(r *request) (out [][2]string) {
	for _, h := range r.headers {
		name := h.Name
		if !ofDialect(name) || slices.Contains(wire.CallerHeaders, name) {
			continue
		}
		// Of several lines an attempt can set one, which means the same (RFC 9110 section 5.3).
		if i := slices.IndexFunc(out, func(o [2]string) bool { return o[0] == name }); i >= 0 {
			out[i][1] += "," + h.Value
			continue
		}
		out = append(out, [2]string{name, h.Value})
	}
	return out
}
