package extproc

import (
	"context"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/relay"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
)

// A request that a CachePolicy or a SessionPolicy covers is decided twice: at the door, which lets it go to the relay, and at the inner
// listener, where the relay asks on its behalf for what it does not have. Each judges by its part of what limits the request.

// part is which part of a request a decision is about.
type part uint8

const (
	whole part = iota // there is no other
	outer             // who calls, and may they: requests, and how many at once
	inner             // what a backend does for it: tokens, money, circuit breakers
)

// judges says whether a decision about the part counts by a rule.
func (p part) judges(r *limit.Rule) bool {
	switch p {
	case outer:
		return r.Unit == limit.Requests || r.Unit == limit.Concurrent
	case inner:
		return r.Unit != limit.Requests && r.Unit != limit.Concurrent
	}
	return true
}

// relayMargin is how much longer Envoy waits for the relay than a request may take: the relay then answers first.
const relayMargin = 2 * time.Second

// errNoFill is for a fill that nobody knows.
func errNoFill() *canon.Error {
	return &canon.Error{Kind: canon.ErrOverloaded, RetryAfter: time.Second, Message: "The gateway was restarted while it handled this request; send it again."}
}

// errTaken is for a fill whose answer another buys already. Nobody reads it.
func errTaken() *canon.Error {
	return &canon.Error{Kind: canon.ErrOverloaded, RetryAfter: time.Second, Message: "The answer is being bought by another request."}
}

// fillOf finds the fill that a request of the inner listener is. ok is false for one that is none: nobody but the relay connects there.
func (s *Server) fillOf(ctx context.Context, r *request) (f *relay.Fill, ok bool) {
	if r.flight == "" && len(metadata.ValueFromIncomingContext(ctx, wire.InnerMetadata)) == 0 {
		return nil, true
	}
	if s.opts.Flights == nil || len(metadata.ValueFromIncomingContext(ctx, wire.InnerMetadata)) == 0 {
		return nil, false
	}
	f = s.opts.Flights.TakeFill(r.flight)
	return f, f != nil
}

// lost makes a fill one that never was, because another buys its answer: nobody reads what it is told, and nothing counts it.
func (d *decision) lost(told *response) *response {
	d.taken = true
	if g, ok := d.grant.(settled); ok {
		g.Void()
	}
	d.giveBack()
	for i := range told.facts {
		if f := &told.facts[i]; f.key == wire.KeyFill {
			f.value = wire.FillTaken
		}
	}
	return told
}

// remembered are the policies of the relay that cover a request.
type remembered struct {
	cache   *table.Kept[table.CachePolicy]
	session *table.Kept[table.SessionPolicy]
}

// remember finds those policies. Nothing is kept of operations that say nothing of their own.
func (a *asked) remember() remembered {
	t := a.table
	if t.Caches.Empty() && t.Sessions.Empty() {
		return remembered{}
	}
	var m remembered
	switch a.operation {
	case canon.OpChat, canon.OpResponses:
		m.session = t.Sessions.Find(a.gateway, a.rule, a.id, a.model)
	}
	switch a.operation {
	case canon.OpChat, canon.OpEmbeddings, canon.OpCompletions, canon.OpResponses:
		m.cache = t.Caches.Find(a.gateway, a.rule, a.id, a.model)
	}
	return m
}

// covered says which policies cover the request, in words; "" for none.
func (m remembered) covered() string {
	switch {
	case m.cache != nil && m.session != nil:
		return "CachePolicy " + m.cache.Name + " and SessionPolicy " + m.session.Name
	case m.cache != nil:
		return "CachePolicy " + m.cache.Name
	case m.session != nil:
		return "SessionPolicy " + m.session.Name
	}
	return ""
}

// wanted are those policies that have something to do for this request: no cache for a caller that wants nothing of it, and no session for
// one that names none.
func (m remembered) wanted(a *asked) remembered {
	if m.cache != nil && relay.NoStore(a.request.headerValue(wire.CacheControlHeader)) {
		m.cache = nil
	}
	if m.session != nil && a.operation != canon.OpResponses && !relay.NamesSession(m.session, a.request.headerValue) {
		m.session = nil
	}
	return m
}

// relay says whether the request would go to the relay.
func (e *explaining) relay() {
	a := e.d.dry.asked
	if a == nil || a.remembered == (remembered{}) {
		return
	}
	m, wanted := a.remembered, a.remembered.wanted(a)
	out := &ExplainedRelay{Relayed: wanted != (remembered{})}
	if m.cache != nil {
		out.CachePolicy = m.cache.Name
	}
	if m.session != nil {
		out.SessionPolicy = m.session.Name
	}
	var why []string
	switch {
	case wanted.cache != nil:
		why = append(why, "the CachePolicy "+m.cache.Name+" covers it")
	case m.cache != nil:
		why = append(why, "the CachePolicy "+m.cache.Name+" covers it, but it says no-store")
	}
	switch {
	case wanted.session != nil:
		why = append(why, "the SessionPolicy "+m.session.Name+" covers it")
	case m.session != nil:
		why = append(why, "the SessionPolicy "+m.session.Name+" covers it, but it names no session")
	}
	out.Why = strings.Join(why, "; ")
	e.out.Relay = out
}

// toRelay sends a request that was let in to the relay.
func (s *Server) toRelay(d *decision, a *asked, m remembered, known facts) *response {
	resp, common := newOnward()
	now := s.opts.Now()
	d.open.Expires = now.Add(a.rule.Timeout + relayMargin + expiryMargin)
	d.open.Grant = d.grant
	f := &relay.Flight{
		ID: relay.NewID(), Gateway: a.gateway, Identity: a.id, Rule: a.rule, Dialect: a.dialect, Endpoint: d.endpoint, Model: a.model, Stream: a.stream,
		RequestID: a.request.requestID, Trace: a.trace, Open: d.open, Cache: m.cache, Session: m.session, Begun: now, Expires: now.Add(a.rule.Timeout),
	}
	d.flight = f.ID
	s.opts.Desk.Begin(d.open)
	s.opts.Flights.Put(f)
	d.claims, d.begun = claims{}, true
	toTheRelay(common, f, a.rule.Timeout)
	resp.tell(wire.DecisionNamespace, append(known, fact{wire.KeyExchange, d.open.ID}, fact{wire.KeyRelayed, "true"}))
	return resp
}

// toTheRelay tells Envoy the way of a flight, whose request may take so long.
func toTheRelay(common *extprocv3.CommonResponse, f *relay.Flight, within time.Duration) {
	common.ClearRouteCache = true
	common.HeaderMutation = &extprocv3.HeaderMutation{SetHeaders: []*corev3.HeaderValueOption{
		header(wire.RuleHeader, wire.RelayKey), header(wire.FlightHeader, f.ID),
		header(wire.TimeoutHeader, strconv.FormatInt((within+relayMargin).Milliseconds(), 10)),
	}}
}

// relays says why requests like this one go through the relay, in words; "" where they do not.
func (a *asked) relays() string {
	if by := a.remembered.covered(); by != "" {
		verb := " covers"
		if strings.Contains(by, " and ") {
			verb = " cover"
		}
		return by + verb + " it, so that Weir answers it, or asks on its behalf"
	}
	return ""
}
