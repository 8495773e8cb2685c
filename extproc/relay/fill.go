package relay

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/internal/trace"
)

// landed is the answer to a fill: its head, while the body comes.
type landed struct {
	*http.Response
	fill *Fill
}

// backend that answered; "" where none did.
func (l *landed) backend() string { return l.Header.Get(wire.BackendHeader) }

// order is what a fill asks for.
type order struct {
	purpose string // "": the answer to the caller
	cache   string // what came of the cache
	sticky  string
	path    string // with the query
	as      string // the path by which the rule is found; "": path
	header  http.Header
	host    string
	body    []byte
	claim   func() bool // where others may read the answer
}

// innerHost is the authority of fills that have no other.
const innerHost = "weir"

// sendings is how often a fill is sent at the most, where its connection broke before anybody decided it: it is another fill then, and the
// first one is nobody's any more.
const sendings = 2

// send asks the inner listener on behalf of a flight. The body of what it returns must be closed. It fails where there is no answer: Envoy
// is not there, or ctx has ended.
func (s *Server) send(ctx context.Context, f *Flight, o *order) (*landed, error) {
	var fill *Fill
	var resp *http.Response
	var err error
	for range sendings {
		fill = &Fill{Flight: f, ID: NewID(), Purpose: o.purpose, Cache: o.cache, Sticky: o.sticky, As: o.as, Claim: o.claim}
		var r *http.Request
		r, err = http.NewRequestWithContext(ctx, http.MethodPost, "http://"+innerHost+o.path, bytes.NewReader(o.body))
		if err != nil {
			return &landed{fill: fill}, err
		}
		r.Header = fillHeader(o.header, f.Trace)
		r.Header.Set(wire.FlightHeader, fill.ID)
		if o.host != "" {
			r.Host = o.host
		}
		s.opts.Flights.PutFill(fill)
		resp, err = s.inner.RoundTrip(r)
		undecided := s.opts.Flights.TakeFill(fill.ID) != nil
		if err == nil || !undecided || ctx.Err() != nil {
			break
		}
	}
	switch {
	case fill.lost(ctx):
		s.metrics.fills.WithLabelValues(fill.Word(), "taken").Inc()
		if err == nil {
			resp.Body.Close()
		}
		return &landed{fill: fill}, cache.ErrTaken
	case err != nil:
		s.metrics.fills.WithLabelValues(fill.Word(), "failed").Inc()
		return &landed{fill: fill}, err
	}
	outcome := "ok"
	if resp.StatusCode >= 400 {
		outcome = "error"
	}
	if _, refused := fill.outcome(); refused != nil {
		outcome = "refused"
	}
	s.metrics.fills.WithLabelValues(fill.Word(), outcome).Inc()
	return &landed{Response: resp, fill: fill}, nil
}

// noFill are headers of the caller's request that its fill has not: of the connection, of its credentials (who calls, the fill says), and what
// is for the relay alone.
var noFill = []string{
	"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "content-length", "accept-encoding", "expect",
	wire.TraceHeader, wire.CacheControlHeader, wire.CacheTagsHeader, wire.PromptVersionHeader, wire.SessionHeader,
}

// fillHeader is the header of a fill: what the caller sent, as a part of the request's trace. A request without a credential is not read at any
// door, so that there is one.
func fillHeader(of http.Header, place trace.Place) http.Header {
	out := make(http.Header, len(of)+2)
	for name, values := range of {
		lower := strings.ToLower(name)
		if slices.Contains(noFill, lower) || slices.Contains(wire.CallerHeaders, lower) || strings.HasPrefix(lower, "x-envoy-") ||
			strings.HasPrefix(lower, "x-forwarded-") {
			continue
		}
		out[name] = values
	}
	out.Set("authorization", "Bearer fill")
	if place.Trace != "" {
		out.Set(wire.TraceHeader, place.Header()+string(trace.Request)+place.Flags())
	}
	return out
}

// failure is an error for a fill that got no answer.
func failure(ctx context.Context) *canon.Error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &canon.Error{Kind: canon.ErrTimeout, Message: "No answer came in time."}
	}
	return &canon.Error{Kind: canon.ErrOverloaded, RetryAfter: time.Second, Message: "The gateway could not ask a backend; try again shortly."}
}
