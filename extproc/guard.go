package extproc

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/internal/redact"
	"github.com/weir-dev/weir/internal/trace"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/usage/money"
)

// The codes of refusals by limits.
const (
	codeLimited       = "rate_limit_exceeded"
	codeBudget        = "budget_exceeded"
	codeTooLarge      = "request_too_large_for_limit"
	codeStoreDown     = "limits_unavailable"
	codeBreakerOpen   = "circuit_open"
	codePolicyInvalid = "policy_invalid"
)

// tokensPerImage is about what providers count for a picture of a million pixels.
const tokensPerImage = 1500

// asked is a request that has found its rule, as the guard sees it.
type asked struct {
	table     *table.Table
	gateway   string // that it came in by, "namespace/name"
	id        *identity.Identity
	rule      *table.Rule
	variant   *table.Variant
	dialect   *canon.Dialect
	operation canon.Operation
	request   *request
	model     string
	stream    bool
	now       time.Time
	trace     trace.Place
	part      part
	// remembered are the policies of the relay that cover it.
	remembered remembered
	// sticky is what requests of one conversation have in common; "" for none that the relay knows.
	sticky string
	// shared says that others than the caller may read the answer.
	shared bool

	// Set by admit: the policies that apply, the limits that it must pass, and its estimated tokens.
	policies []*table.Policy
	rules    []*limit.Rule
	input    int64

	fewPolicies [8]*table.Policy // room for policies
	fewRules    [16]*limit.Rule  // room for rules
}

// admit asks everything that may refuse a request that has a rule, and takes what it reserves, which is d's from then on. It opens
// the request, and gives what its answer says of limits. A request that is refused holds nothing.
func (s *Server) admit(ctx context.Context, a *asked, d *decision) (facts, *canon.Error) {
	if d.dry != nil {
		d.dry.asked = a
	}
	a.policies = a.table.Applying(a.fewPolicies[:0], a.gateway, a.rule, a.id, a.model)
	subject := a.subject()

	if cerr := shut(a.policies); cerr != nil {
		d.giveBack()
		return nil, cerr
	}
	for _, p := range a.policies {
		if p.Breaker == nil || a.part == outer {
			continue
		}
		pass, refused := d.tryBreaker(s, p.Breaker, subjectOf(p.BreakerPer, &subject), a.now)
		if refused != nil {
			d.giveBack()
			return nil, &canon.Error{Kind: canon.ErrOverloaded, Code: codeBreakerOpen, RetryAfter: refused.RetryAfter, Policy: refused.Rule.Name,
				Message: fmt.Sprintf("Too many requests have failed lately, so the circuit breaker %q refuses more for now; try again in %s s.",
					refused.Rule.Name, seconds(refused.RetryAfter))}
		}
		d.outcomes = append(d.outcomes, pass)
	}

	a.rules = s.limitRules(a.fewRules[:0], a, a.policies)
	est := s.estimate(a, a.rules)
	var asking time.Time
	if a.table.Waits {
		asking = s.opts.Now()
	}
	grant, refused := d.reserve(ctx, s, a.rules, subject, est)
	if a.table.Waits {
		d.waited += s.opts.Now().Sub(asking)
	}
	if refused != nil {
		d.giveBack()
		if refused.Kind == limit.BudgetSpent && d.dry == nil {
			s.budgetEvent(refused.Rule, &subject, "a budget is spent", a.now)
		}
		return limitFacts(refused.Headers), refusedBy(refused, a.now)
	}
	d.grant = settled{grant}
	out := limitFacts(grant.Headers())
	if warnings := grant.Warnings(); len(warnings) > 0 {
		out = append(out, fact{wire.KeyBudgetWarning, budgetWarning(tightest(warnings))})
		if d.dry == nil {
			for i := range warnings {
				w := &warnings[i]
				s.budgetEvent(w.Rule, &subject, "a budget is nearly spent", a.now, "spent_percent", percent(w))
			}
		}
	}
	d.open = &usage.Open{
		ID: s.exchanges.newID(), PeekID: a.request.peek.id, RequestID: a.request.requestID, Trace: a.trace, Time: a.now,
		Gateway: a.gateway, Tenant: a.id.Tenant, Namespace: a.id.Namespace, Consumer: a.id.Consumer, Credential: a.id.Credential,
		Route: a.rule.Name, Model: a.model, Operation: string(a.operation), Path: redact.Path(a.request.path), Dialect: a.dialect.Name, Stream: a.stream,
		Currency: a.table.Currency, Candidates: make([]usage.Candidate, len(a.variant.Candidates)),
		EstimatedInput: est.Input, TextBytes: a.request.peek.textBytes(), MediaTokens: a.request.peek.mediaTokens(),
		Waited: d.waited,
	}
	a.input = est.Input
	for i, c := range a.variant.Candidates {
		d.open.Candidates[i] = usage.Candidate{
			Backend: c.Backend.ID, UpstreamModel: c.UpstreamModel(a.model), Prices: c.Price(a.model),
			Dialect: c.Backend.Dialect.Name, Translated: c.Backend.Dialect.Name != a.dialect.Name,
		}
	}
	switch f := d.fill; {
	case f != nil:
		d.open.Fill, d.open.Purpose, d.open.Cache = true, f.Purpose, f.Cache
	case a.part == outer:
		d.open.Relayed, d.open.Candidates = true, nil
	}
	if est.Cuttable && a.part != outer {
		d.cut = cutter(grant, &est, d.open, a.now)
	}
	return out, nil
}

// shut refuses what a policy covers that is not valid; nil where there is none.
func shut(policies []*table.Policy) *canon.Error {
	for _, p := range policies {
		if p.Shut != "" {
			return &canon.Error{Kind: canon.ErrOverloaded, Code: codePolicyInvalid, Policy: p.Shut,
				Message: fmt.Sprintf("%s covers this request and is not valid, so nobody knows what may pass; tell those who run the gateway.", p.Shut)}
		}
	}
	return nil
}

// subject is who asks, for limits.
func (a *asked) subject() limit.Subject {
	return limit.Subject{Tenant: a.id.Tenant, Consumer: a.id.ConsumerID, Credential: a.id.CredentialID}
}

// limitRules appends to dst the limits and budgets that the request must pass: that of its key, and those of policies.
func (s *Server) limitRules(dst []*limit.Rule, a *asked, policies []*table.Policy) []*limit.Rule {
	if a.id.RequestsPerMinute > 0 {
		dst = append(dst, s.keyRule(a.table, a.id))
	}
	for _, p := range policies {
		dst = append(dst, p.Limits...)
	}
	if a.part != whole {
		dst = slices.DeleteFunc(dst, func(r *limit.Rule) bool { return !a.part.judges(r) })
	}
	if a.operation == canon.OpCountTokens { // providers count for nothing
		dst = slices.DeleteFunc(dst, func(r *limit.Rule) bool { return r.Unit == limit.Cost })
	}
	return dst
}

// cuttable says whether a running answer can be ended: of streams of chat Weir can tell what they have cost so far, as
// long as they hold one answer. One that others may read, too, comes whole: a budget is its buyer's alone.
func (a *asked) cuttable() bool {
	if a.shared || !a.stream || a.operation != canon.OpChat {
		return false
	}
	n, ok := count(a.request.peek.n)
	return !ok || n <= 1
}

// A budget of which so much is left is not watched: a stream of watchedOutput tokens, which is as long as models
// write, fits watchedStreams times into it, and a twentieth of it is left.
const (
	watchedOutput  = 128_000
	watchedStreams = 16
	watchedShare   = 20
)

// cutter watches a stream for the budgets that it could overrun; nil where there are none. Those have reserved the
// input alone. A stream that is not watched reserves all that it may cost, like any other request.
func cutter(grant *limit.Grant, est *limit.Estimate, open *usage.Open, now time.Time) func(string, canon.Usage) bool {
	rule, left, ok := grant.Cut()
	if !ok {
		return nil
	}
	most := longest(open, now)
	plenty := func() bool { return plentyLeft(rule, left, most) }
	if plenty() {
		grant.Spend(est.Most(rule))
		// Others may have been let in at the same moment.
		if rule, left, ok = grant.Cut(); !ok || plenty() {
			return nil
		}
	}
	return func(backend string, used canon.Usage) bool {
		for i := range open.Candidates {
			if c := &open.Candidates[i]; c.Backend == backend {
				p := c.Prices.At(now)
				if p == nil {
					return false
				}
				cost, _ := p.Cost(money.Tokens(usage.TokensOf(&used)))
				return grant.Spend(int64(cost))
			}
		}
		return false
	}
}

// longest is what a stream of watchedOutput tokens costs at the dearest of a request's candidates, in nano-units.
func longest(open *usage.Open, now time.Time) (out money.Nano) {
	for i := range open.Candidates {
		if p := open.Candidates[i].Prices.At(now); p != nil {
			cost, _ := p.Cost(money.Tokens{Output: watchedOutput})
			out = max(out, cost)
		}
	}
	return out
}

// plentyLeft says whether so much of a budget is left that no stream need be watched.
func plentyLeft(rule *limit.Rule, left int64, longest money.Nano) bool {
	return left/watchedStreams > int64(longest) && left > rule.Limit/watchedShare
}

// settled makes a limit.Grant what the desk settles.
type settled struct{ *limit.Grant }

func (g settled) Settle(input, output, cost int64) {
	g.Grant.Settle(limit.Amounts{Input: input, Output: output, Cost: cost})
}

// keyRule is the limit that a key has of its own. All have one name, because names are labels of metrics.
func (s *Server) keyRule(t *table.Table, id *identity.Identity) *limit.Rule {
	if r, ok := s.keyRules.Load(id.KeyID); ok {
		if r := r.(*limit.Rule); r.Limit == id.RequestsPerMinute && r.Sharing == t.KeySharing {
			return r
		}
	}
	r := &limit.Rule{
		ID: "APIKey/" + id.KeyID, Name: limit.KeyRuleName, Unit: limit.Requests, Algorithm: limit.SlidingWindow,
		Limit: id.RequestsPerMinute, Window: time.Minute, Per: limit.PerCredential, Sharing: t.KeySharing,
	}
	s.keyRules.Store(id.KeyID, r)
	return r
}

// AdmitKey counts a request that somebody else serves under the limit that the caller's key has of its own.
func (s *Server) AdmitKey(ctx context.Context, id *identity.Identity) *canon.Error {
	t := s.table.Load()
	if t == nil || id.RequestsPerMinute == 0 {
		return nil
	}
	grant, refused := s.opts.Limits.Admit(ctx, []*limit.Rule{s.keyRule(t, id)},
		limit.Subject{Tenant: id.Tenant, Consumer: id.ConsumerID, Credential: id.CredentialID}, limit.Estimate{})
	if refused != nil {
		return refusedBy(refused, s.opts.Now())
	}
	grant.Settle(limit.Amounts{})
	return nil
}

// subjectOf is whose counter or breaker a request is judged by.
func subjectOf(per limit.Scope, s *limit.Subject) string {
	switch per {
	case limit.PerTenant:
		return s.Tenant
	case limit.PerConsumer:
		return s.Consumer
	case limit.PerCredential:
		return s.Credential
	}
	return ""
}

// estimate is what a request may use: its input by its size, its output by what it asks for, and its cost at the
// dearest backend that may serve it.
func (s *Server) estimate(a *asked, rules []*limit.Rule) limit.Estimate {
	p := &a.request.peek
	est := limit.Estimate{Input: s.opts.Estimator.Input(a.kind(), p.textBytes()) + p.mediaTokens()}
	est.Output, est.HasMax = p.maxOutput()
	est.Cuttable = a.cuttable()
	if a.operation == canon.OpEmbeddings || a.operation == canon.OpCountTokens {
		est.Output, est.HasMax = 0, true // they write nothing
	}
	costs := false
	for _, r := range rules {
		costs = costs || r.Unit == limit.Cost
	}
	if !costs {
		return est
	}
	for _, c := range a.variant.Candidates {
		price := c.Price(a.model).At(a.now)
		if price == nil {
			continue
		}
		// Nobody knows yet what the provider has in its cache, nor what part of the output is reasoning.
		dearest := money.Price{Input: max(price.Input, price.CacheWrite), Output: max(price.Output, price.Reasoning), Request: price.Request}
		tokens := money.Tokens{Input: est.Input}
		if est.HasMax {
			tokens.Output = est.Output
		}
		cost, _ := dearest.Cost(tokens)
		est.Cost = max(est.Cost, int64(cost))
		est.OutputPrice = max(est.OutputPrice, int64(dearest.Output))
	}
	return est
}

// kind is what estimates go by before a backend is chosen.
func (a *asked) kind() usage.Kind {
	return usage.Kind{Model: a.model, Dialect: a.dialect.Name, Operation: string(a.operation), Stream: a.stream}
}

// textBytes is the size of a body without what looks like media, and mediaTokens about what that is read as.
func (p *peek) textBytes() int64   { return max(0, p.size-p.media) }
func (p *peek) mediaTokens() int64 { return p.mediaCount * tokensPerImage }

// maxOutput is the largest output that a request asks for, in tokens, and whether it asks for one.
func (p *peek) maxOutput() (int64, bool) {
	most := int64(-1)
	for _, raw := range [...]string{p.maxTokens, p.maxCompletionTokens, p.maxOutputTokens} {
		if n, ok := count(raw); ok {
			most = max(most, n)
		}
	}
	if most < 0 {
		return 0, false
	}
	if n, ok := count(p.n); ok && n > 1 {
		most *= min(n, maxChoices)
	}
	return most, true
}

// maxChoices and maxAsked bound what a request can make Weir reserve; providers refuse far less.
const (
	maxChoices = 128
	maxAsked   = 1 << 30
)

// count reads a JSON number that counts something.
func count(raw string) (int64, bool) {
	if raw == "" {
		return 0, false
	}
	if n, err := strconv.ParseInt(raw, 10, 64); err == nil && n >= 0 {
		return min(n, maxAsked), true
	}
	var f float64 // 1e3, 100.0
	if json.Unmarshal([]byte(raw), &f) != nil || f < 0 {
		return 0, false
	}
	return int64(min(f, maxAsked)), true
}

// refusedBy is a refusal as an error for the caller.
func refusedBy(r *limit.Refusal, now time.Time) *canon.Error {
	e := &canon.Error{Kind: canon.ErrRateLimit, Code: codeLimited, RetryAfter: r.RetryAfter, Policy: r.Rule.Name}
	switch r.Kind {
	case limit.BudgetSpent:
		e.Kind, e.Status, e.Code = canon.ErrBilling, 429, codeBudget // what OpenAI answers when an account has no credit
	case limit.TooLarge:
		e.Code = codeTooLarge
	case limit.StoreDown:
		e.Kind, e.Code = canon.ErrOverloaded, codeStoreDown
	case limit.Limited, limit.QueueFull, limit.Canceled:
	}
	text := r.Error()
	e.Message = strings.ToUpper(text[:1]) + text[1:]
	switch {
	case r.RetryAfter > 2*time.Hour: // nobody counts so many seconds
		e.Message += "; try again after " + now.Add(r.RetryAfter).UTC().Format("2 January 2006, 15:04 UTC")
	case r.RetryAfter > 0:
		e.Message += "; try again in " + seconds(r.RetryAfter) + " s"
	}
	e.Message += "."
	return e
}

// tightest is the budget of which the largest part is spent; nil for none.
func tightest(list []limit.Warning) (out *limit.Warning) {
	for i := range list {
		w := &list[i]
		if out == nil || float64(w.Used)*float64(out.Limit) > float64(out.Used)*float64(w.Limit) {
			out = w
		}
	}
	return out
}

// budgetWarning is the value of the header that warns of a budget.
func budgetWarning(w *limit.Warning) string {
	return w.Rule.Name + "; spent=" + strconv.Itoa(percent(w)) + "%"
}

func percent(w *limit.Warning) int { return int(100 * float64(w.Used) / float64(w.Limit)) }

// budgetEvent logs what has become of a budget, once in each of its periods for each of its counters.
func (s *Server) budgetEvent(r *limit.Rule, subject *limit.Subject, event string, now time.Time, more ...any) {
	of := subjectOf(r.Per, subject)
	start, _ := r.PeriodAt(now)
	key := budgetEventKey{r.ID, of, event}
	if before, known := s.budgetEvents.Load(key); known && before == start.UnixNano() {
		return
	}
	if before, known := s.budgetEvents.Swap(key, start.UnixNano()); known && before == start.UnixNano() {
		return
	}
	s.opts.Log.Warn(event, append([]any{"budget", r.Name, "subject", of, "period_start", start}, more...)...)
}

// budgetEventKey tells events apart. There are as many as counters of budgets that are nearly spent: callers cannot make them up.
type budgetEventKey struct{ rule, subject, event string }

// limitFacts are the headers of limits, on their way to Envoy.
func limitFacts(h limit.Headers) facts {
	var out facts
	if r := h.Requests; r.Rule != nil {
		out = append(out, fact{wire.KeyLimitRequests, decimal(r.Limit)}, fact{wire.KeyRemainingRequests, decimal(max(r.Remaining, 0))}, fact{wire.KeyResetRequests, seconds(r.Reset)})
	}
	if r := h.Tokens; r.Rule != nil {
		out = append(out, fact{wire.KeyLimitTokens, decimal(r.Limit)}, fact{wire.KeyRemainingTokens, decimal(max(r.Remaining, 0))}, fact{wire.KeyResetTokens, seconds(r.Reset)})
	}
	return out
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

var _ usage.Outcome = breaker.Pass{}
