package extproc

import (
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/lane"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage"
)

// offerLane gives what the door needs to let through further requests that are like this one, which has been sent on; nothing where
// each must be decided.
func (s *Server) offerLane(d *decision, a *asked, keys table.Keys) facts {
	if s.opts.Lanes == nil || !a.request.peek.lane || d.dry != nil || s.laneless(d, a, keys) != "" {
		return nil
	}
	until, ok := a.table.Auth.Lasting(a.request.credentials, a.id, a.now)
	if !ok {
		return nil
	}
	ticket, ok := s.opts.Lanes.Offer(a.laneKey(keys), func() lane.Maker {
		// Another version may have gone live meanwhile, or keys may have changed: whoever ends lanes then knows of this one from here on.
		if _, ok := a.table.Auth.Lasting(a.request.credentials, a.id, a.now); !ok || s.table.Load() != a.table {
			return nil
		}
		return s.newLane(d, a)
	}, until)
	if !ok {
		return nil
	}
	return facts{
		{wire.KeyLane, ticket}, {wire.KeyLaneRule, keys.Direct}, {wire.KeyLanePath, d.endpoint.Path}, {wire.KeyLaneVary, a.table.Vary},
		{wire.KeyLaneSample, strconv.FormatFloat(s.opts.SampleShare(), 'f', -1, 64)},
	}
}

// laneless says why requests like this one are not let in ahead of their coming, in words; "" where they are.
func (s *Server) laneless(d *decision, a *asked, keys table.Keys) string {
	switch {
	case a.part == inner:
		return "the relay asks for it"
	case a.relays() != "":
		return a.relays()
	case !a.table.Native[a.gateway]:
		return "LLMGateway.spec.nativeLane is Disabled"
	case d.parse:
		return "a backend of the rule speaks another dialect, so that Weir translates"
	case d.rename:
		return "a backend of the rule calls the model by another name, so that Weir rewrites the request"
	case a.readsPrompt():
		return "a pool keeps prompts together that begin alike, so that Weir reads them"
	case keys.Direct == "":
		return "its attempts are prepared by Weir"
	case d.open.Hold != nil:
		return "a LoadPolicy has Weir pick the endpoint of each request"
	case s.fewerRetries(keys.Order) != nil: // those in a lane are not told
		return "a backend of the rule has no endpoint that can be asked, so that Weir bounds the retries"
	case len(a.variant.First) > 0:
		return "Weir chooses the backend of each request by its load"
	case a.table.Captures[a.gateway] != nil && s.opts.Capturing():
		return "text of requests is captured for traces"
	case d.cut != nil:
		return "a budget that ends running streams has little left"
	case warned(d.open.Grant):
		return "a budget is nearly spent, which answers say"
	case a.request.peek.mediaCount > 0:
		return "it holds media, whose tokens are estimated one by one"
	}
	for _, r := range a.rules {
		if why, ok := s.opts.Limits.Aheadable(r); !ok {
			return "the limit " + r.Name + " " + why
		}
	}
	subject := a.subject()
	for _, p := range a.policies {
		if !s.closed(p, &subject, a.now) {
			return "the circuit breaker " + p.Breaker.Name + " is not closed"
		}
	}
	return ""
}

// closed says whether the circuit breaker of a policy lets everything pass. Where there is none, it does.
func (s *Server) closed(p *table.Policy, subject *limit.Subject, now time.Time) bool {
	return p.Breaker == nil || s.opts.Breakers.State(p.Breaker, subjectOf(p.BreakerPer, subject), now) == breaker.Closed
}

// laneKey tells lanes apart: by the state of the door that asks, and by all that the decision depends on. Equal requests of one caller
// that come with another credential, or by another path to the same operation, may share a lane: they are decided alike.
func (a *asked) laneKey(keys table.Keys) string {
	p := &a.request.peek
	door := p.id[:max(strings.LastIndexByte(p.id, '-'), 0)]
	var b strings.Builder
	b.Grow(256)
	for _, s := range [...]string{
		door, a.gateway, a.id.ConsumerID, a.id.CredentialID, a.id.Tenant, a.request.method, a.request.path, a.request.query, a.model, p.stream, p.n, p.maxTokens,
		p.maxCompletionTokens, p.maxOutputTokens, keys.Direct,
	} {
		b.WriteString(s)
		b.WriteByte(0)
	}
	b.WriteString(strconv.Itoa(bits.Len64(uint64(p.size))))
	for name := range strings.SplitSeq(a.table.Vary, ",") {
		v, ok := a.request.header(name)
		b.WriteByte(0)
		if ok {
			b.WriteByte('=')
			b.WriteString(v)
		}
	}
	return b.String()
}

// largestAlike is the size of the largest body that goes by the same lane as one of n bytes: lanes are by the number of bits of the size.
// All of them reserve what that one would.
func largestAlike(n int64) int64 { return int64(1)<<bits.Len64(uint64(n)) - 1 }

// warned says whether a grant carries warnings.
func warned(g usage.Grant) bool {
	own, ok := g.(settled)
	return ok && len(own.Warnings()) > 0
}

// laneMaker makes the requests of one lane, which are all alike. It is a lane.Maker.
type laneMaker struct {
	s        *Server
	like     *usage.Open // what they have in common
	rules    []*limit.Rule
	breakers []*table.Policy
	subject  limit.Subject
	est      limit.Estimate
	watched  bool // a stream that a budget might end, if little were left of it
	timeout  time.Duration
	kind     usage.Kind
	largest  int64        // body, in bytes
	last     *limit.Grant // the newest
	ahead    int64        // requests that have not come
}

func (s *Server) newLane(d *decision, a *asked) *laneMaker {
	m := &laneMaker{s: s, like: d.open, rules: slices.Clone(a.rules), subject: a.subject(), watched: a.cuttable(), timeout: a.rule.Timeout}
	for _, p := range a.policies {
		if p.Breaker != nil {
			m.breakers = append(m.breakers, p)
		}
	}
	m.kind, m.largest = a.kind(), largestAlike(a.request.peek.size)
	largest, r := *a, *a.request
	r.peek.size = m.largest
	largest.request = &r
	m.est = s.estimate(&largest, m.rules)
	m.est.Cuttable = false // a budget that has plenty reserves all that a stream may cost, and does not watch it
	return m
}

// Admit implements lane.Maker.
func (m *laneMaker) Admit() (lane.Claim, bool) {
	now := m.s.opts.Now()
	for _, p := range m.breakers {
		if !m.s.closed(p, &m.subject, now) {
			return lane.Claim{}, false
		}
	}
	g, ok := m.s.opts.Limits.Ahead(m.rules, m.subject, m.est)
	if !ok {
		return lane.Claim{}, false
	}
	if m.watched {
		if rule, left, ok := g.Cut(); ok && !plentyLeft(rule, left, longest(m.like, now)) {
			g.Cancel()
			return lane.Claim{}, false
		}
	}
	m.last = g
	m.ahead++
	return lane.Claim{Grant: settled{g}}, true
}

// Begin implements lane.Maker.
func (m *laneMaker) Begin(id string, c lane.Claim) {
	m.ahead--
	now := m.s.opts.Now()
	l := m.like
	o := &usage.Open{
		ID: id, Native: true, Time: now, Expires: now.Add(m.timeout + expiryMargin),
		Gateway: l.Gateway, Tenant: l.Tenant, Namespace: l.Namespace, Consumer: l.Consumer, Credential: l.Credential,
		Route: l.Route, Model: l.Model, Operation: l.Operation, Path: l.Path, Dialect: l.Dialect, Stream: l.Stream,
		Currency: l.Currency, Candidates: l.Candidates, Unasked: true, Order: l.Order, Likely: l.Likely, EstimatedInput: l.EstimatedInput,
		Grant: c.Grant,
	}
	if g, ok := c.Grant.(settled); ok {
		g.Came()
	}
	for _, p := range m.breakers {
		if pass, refused := m.s.opts.Breakers.Allow(p.Breaker, subjectOf(p.BreakerPer, &m.subject), now); refused == nil {
			o.Outcomes = append(o.Outcomes, pass)
		}
	}
	m.s.opts.Desk.Begin(o)
	o.Confirm()
}

// Cancel implements lane.Maker.
func (m *laneMaker) Cancel(c lane.Claim) {
	m.ahead--
	if c.Grant != nil {
		c.Grant.Cancel()
	}
}

// Limits implements lane.Maker.
func (m *laneMaker) Limits() lane.Limits {
	h := m.s.opts.Limits.Standing(m.rules, m.subject)
	out := lane.Limits{Requests: math.NaN(), Tokens: math.NaN()}
	if r := h.Requests; r.Rule != nil {
		out.Requests, out.RequestsReset = float64(r.Remaining-m.ahead), float64(wholeSeconds(r.Reset))
	}
	if r := h.Tokens; r.Rule != nil {
		each := m.last.Reserved(r.Rule)
		out.Tokens, out.TokensReset, out.Each = float64(r.Remaining-m.ahead*each), float64(wholeSeconds(r.Reset)), float64(each)
		if r.Rule.Unit != limit.OutputTokens {
			out.BytesPerToken = m.s.opts.Estimator.BytesPerToken(m.kind, m.largest)
		}
	}
	return out
}

// Watch is told how requests of lanes end: an answer that is bad ends the lane, so that the next request is decided again.
func (s *Server) Watch(f *usage.Finished) {
	if f.Open == nil || !f.Open.Native || f.Entry == nil {
		return
	}
	broken := f.Entry.Aborted && f.Record != nil && !f.Record.Aborted
	if f.Entry.Status >= 500 || broken || len(f.Failed) > 0 {
		s.opts.Lanes.Fail(f.Open.ID)
	}
}
