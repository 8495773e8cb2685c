package extproc

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/relay"
	"github.com/weir-dev/weir/extproc/session"
	sessionresponses "github.com/weir-dev/weir/extproc/session/responses"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/internal/redact"
	"github.com/weir-dev/weir/usage"
)

// OpenAI's Responses API has a memory. Where a SessionPolicy covers its requests, Weir is that memory: the relay asks for a chat, and keeps
// what was said.

// asChat says whether the relay makes a chat of a request, so that any backend will do.
func (s *Server) asChat(of *decision, t *table.Table, op canon.Operation, gateway string, rule *table.Rule, id *identity.Identity, model string) bool {
	return op == canon.OpResponses && of.fill == nil && s.opts.Flights != nil && t.Sessions.Find(gateway, rule, id, model) != nil
}

// unless says what would have an operation translated.
func unless(op canon.Operation) string {
	if op == canon.OpResponses {
		return " unless a SessionPolicy covers them"
	}
	return ""
}

// matched is the path that rules are matched against: of a fill that asks for something else than its caller, the caller's.
func (d *decision) matched(r *request) string {
	if d.fill != nil && d.fill.As != "" {
		return d.fill.As
	}
	return r.matched()
}

// keeperTimeout is how long a request for something that is kept may take.
const keeperTimeout = 10 * time.Second

// forKeeper says whether a request is for a response or a conversation that Weir may have kept.
func (s *Server) forKeeper(of *decision, t *table.Table, match *adapters.Match, r *request) bool {
	return of.fill == nil && of.dry == nil && s.opts.Flights != nil && !t.Sessions.Empty() && match.Dialect.Header == "" && sessionresponses.IsResource(r.path)
}

// toKeeper sends such a request to the relay, where the limits let it pass. It has no rule and no model, so that those of the gateway and of who
// calls judge it, by what they say of requests.
func (s *Server) toKeeper(ctx context.Context, of *decision, a *asked, known facts) *response {
	grant, limits, cerr := s.admitKept(ctx, of, a)
	known = append(known, limits...)
	if cerr != nil {
		resp := refusal(a.dialect, of.refused(cerr), a.request.requestID, known)
		h := resp.GetImmediateResponse().GetHeaders()
		h.SetHeaders = append(h.SetHeaders, limits.headers()...)
		return resp
	}
	now := s.opts.Now()
	of.open = &usage.Open{
		ID: s.exchanges.newID(), PeekID: a.request.peek.id, RequestID: a.request.requestID, Trace: a.trace, Time: a.now, Gateway: a.gateway,
		Tenant: a.id.Tenant, Namespace: a.id.Namespace, Consumer: a.id.Consumer, Credential: a.id.Credential, Path: redact.Path(a.request.path),
		Dialect: a.dialect.Name, Grant: settled{grant}, Relayed: true, Resource: true, Waited: of.waited,
		Expires: now.Add(keeperTimeout + relayMargin + expiryMargin),
	}
	f := &relay.Flight{
		ID: relay.NewID(), Gateway: a.gateway, Identity: a.id, Dialect: a.dialect, RequestID: a.request.requestID, Trace: a.trace, Open: of.open,
		Resource: true, Keepers: keepersOf(&a.table.Sessions, a.gateway, a.id), Begun: now, Expires: now.Add(keeperTimeout),
	}
	of.flight, of.begun = f.ID, true
	s.opts.Desk.Begin(of.open)
	s.opts.Flights.Put(f)
	resp, common := newOnward()
	toTheRelay(common, f, keeperTimeout)
	resp.tell(wire.DecisionNamespace, append(known, fact{wire.KeyDialect, a.dialect.Name}, fact{wire.KeyExchange, of.open.ID}, fact{wire.KeyRelayed, "true"}))
	return resp
}

// admitKept asks the limits of requests, and of requests at once.
func (s *Server) admitKept(ctx context.Context, of *decision, a *asked) (*limit.Grant, facts, *canon.Error) {
	policies := a.table.Applying(a.fewPolicies[:0], a.gateway, a.rule, a.id, a.model)
	if cerr := shut(policies); cerr != nil {
		return nil, nil, cerr
	}
	began := s.opts.Now()
	grant, refused := s.opts.Limits.Admit(ctx, s.limitRules(a.fewRules[:0], a, policies), a.subject(), limit.Estimate{})
	if a.table.Waits {
		of.waited += s.opts.Now().Sub(began)
	}
	if refused != nil {
		return nil, limitFacts(refused.Headers), refusedBy(refused, a.now)
	}
	return grant, limitFacts(grant.Headers()), nil
}

// keepersOf are the policies that may have kept something for a caller, the most specific first. Which rule a response came by is not known
// any more, so that those of all rules may; what is kept is found by the caller's tenant, whichever of them it is.
func keepersOf(k *table.Keeping[table.SessionPolicy], gateway string, id *identity.Identity) []*session.Policy {
	var list []*session.Policy
	add := func(kept []table.Kept[table.SessionPolicy]) {
		for i := range kept {
			if p := kept[i].Policy; !slices.Contains(list, p) {
				list = append(list, p)
			}
		}
	}
	add(k.Credentials[id.CredentialID])
	add(k.Consumers[id.ConsumerID])
	add(k.Tenants[id.Tenant])
	add(k.AllTenants)
	from := len(list)
	for _, m := range [...]map[string][]table.Kept[table.SessionPolicy]{k.Rules, k.Routes} {
		for _, kept := range m {
			add(kept)
		}
	}
	slices.SortFunc(list[from:], func(a, b *session.Policy) int { return cmp.Compare(a.ID, b.ID) }) // maps have no order
	add(k.Gateways[gateway])
	return list
}
