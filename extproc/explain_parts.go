package extproc

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/usage/money"
)

// An explanation shows so many matches of rules, and endpoints of a pool; of more the number.
const (
	shownRules     = 50
	shownEndpoints = 20
)

// rules judges the rules, where the request is one that rules are for.
func (e *explaining) rules() {
	id, r := e.d.dry.caller, e.request
	out := e.out
	if id == nil || out.Request.Model == "" || !id.MayUse(out.Request.Model) || out.Request.Operation == "" {
		return
	}
	if match := e.s.opts.Dialects.Classify(r.method, r.path, r.headerValue); checkPath(&match, r) != nil {
		return
	}
	asked := &table.Request{Gateway: e.gateway(), Method: r.method, Path: r.matched(), Query: r.query, Model: out.Request.Model, Labels: id.Labels, Header: r.header}
	all := e.t.Consider(asked)
	for i := range all {
		c := &all[i]
		if c.Chosen {
			out.Route = &ExplainedRoute{Name: c.Rule.Name, RequiredScopes: c.Rule.RequiredScopes, TimeoutSeconds: c.Rule.Timeout.Seconds()}
		}
	}
	shown := all
	if len(all) > shownRules { // those of other models say least
		shown = slices.DeleteFunc(slices.Clone(all), func(c table.Considered) bool { return c.Part == table.PartModel })
	}
	for i := range shown {
		if c := &shown[i]; len(out.Rules) < shownRules || c.Chosen {
			out.Rules = append(out.Rules, considered(c, asked))
		}
	}
	out.RulesMore = len(all) - len(out.Rules)
}

// gateway is the LLMGateway that the request comes in by; "" where nobody says.
func (e *explaining) gateway() string { return cmp.Or(e.t.Gateway, e.req.Gateway) }

// considered puts the judgement of a match into words.
func considered(c *table.Considered, r *table.Request) ExplainedRule {
	m := c.Match
	out := ExplainedRule{Route: c.Rule.Name, Match: matchText(m), Result: RuleNo}
	has := func(ok bool) string {
		if ok {
			return "another value"
		}
		return "none"
	}
	switch c.Part {
	case "":
		if out.Result, out.Why = RuleBehind, "it matches, and a more specific match comes first"; c.Chosen {
			out.Result, out.Why = RuleChosen, "the most specific that matches"
		}
	case table.PartGateway:
		out.Why = fmt.Sprintf("it is for other LLMGateways than this one: for %s, by their spec.allowedRoutes", strings.Join(m.Gateways, ", "))
	case table.PartMethod:
		out.Why = fmt.Sprintf("it is for %s, and the request is a %s", m.Method, r.Method)
	case table.PartPath:
		out.Why = fmt.Sprintf("its path does not match %s", r.Path)
	case table.PartModel:
		out.Why = fmt.Sprintf("it is for other models than %q", r.Model)
	case table.PartLabel:
		_, ok := r.Labels[c.Name]
		out.Why = fmt.Sprintf("it wants the consumer label %s, and the consumer has %s", c.Name, has(ok))
	case table.PartHeader:
		_, ok := r.Header(c.Name)
		out.Why = fmt.Sprintf("it wants the header %s, and the request has %s", c.Name, has(ok))
	case table.PartQuery:
		out.Why = fmt.Sprintf("it wants the query parameter %s, and the request has %s", c.Name, has(strings.Contains(r.Query, c.Name)))
	}
	return out
}

// matchText says what a match asks for.
func matchText(m *table.Match) string {
	var parts []string
	if m.Method != "" {
		parts = append(parts, m.Method)
	}
	switch {
	case m.PathExact:
		parts = append(parts, "path "+m.Path)
	case m.Path != "" && m.Path != "/":
		parts = append(parts, "paths below "+m.Path)
	}
	value := func(v *table.ValueMatch) string {
		if v.Regexp != nil {
			return v.Name + " like " + v.Regexp.String()
		}
		return v.Name + "=" + v.Value
	}
	if len(m.Models) > 0 {
		parts = append(parts, "model "+strings.Join(m.Models, ", "))
	}
	for i := range m.Headers {
		parts = append(parts, "header "+value(&m.Headers[i]))
	}
	for i := range m.Query {
		parts = append(parts, "query "+value(&m.Query[i]))
	}
	labels := make([]string, 0, len(m.Labels))
	for k, v := range m.Labels {
		labels = append(labels, "label "+k+"="+v)
	}
	slices.Sort(labels)
	if parts = append(parts, labels...); len(parts) == 0 {
		return "every request"
	}
	return strings.Join(parts, ", ")
}

// guards says how limits, budgets and circuit breakers stand for a request that has a rule.
func (e *explaining) guards(ctx context.Context, now time.Time) {
	a := e.d.dry.asked
	if a == nil {
		return
	}
	subject := a.subject()
	for _, p := range a.policies {
		if p.Breaker == nil {
			continue
		}
		st, refused, shadowed := e.s.opts.Breakers.Preview(p.Breaker, subjectOf(p.BreakerPer, &subject), now)
		b := ExplainedBreaker{
			Policy: p.Breaker.Name, Subject: st.Key, State: st.State.String(), Requests: st.Requests, Failures: st.Failures,
			Refuses: refused != nil, Shadow: shadowed,
		}
		if refused != nil {
			b.RetryAfterSeconds = refused.RetryAfter.Seconds()
		}
		e.out.Breakers = append(e.out.Breakers, b)
	}
	rules := e.s.limitRules(nil, a, a.policies)
	est := e.s.estimate(a, rules)
	for _, r := range rules {
		if r.Unit == limit.Cost && !est.HasMax {
			e.assumed = max(e.assumed, r.AssumedOutput)
		}
	}
	a.input = est.Input // where a breaker refuses, nothing has set it
	e.estimated(a, &est)
	if e.d.dry.limits == nil {
		p := e.s.opts.Limits.Preview(ctx, rules, subject, est)
		e.d.dry.limits = &p
	}
	for i := range e.d.dry.limits.Standings {
		e.out.Limits = append(e.out.Limits, standing(&e.d.dry.limits.Standings[i]))
	}
}

// estimated says what limits reckon with.
func (e *explaining) estimated(a *asked, est *limit.Estimate) {
	x := &ExplainedEstimate{InputTokens: est.Input, AssumedOutputTokens: e.assumed, Currency: e.t.Currency}
	if est.HasMax {
		x.OutputTokens = &est.Output
	}
	input, most, told := money.Nano(0), money.Nano(0), false
	for _, c := range a.variant.Candidates {
		if p := c.Price(a.model).At(a.now); p != nil {
			in, out := e.costs(p, est)
			input, most, told = max(input, in), max(most, out), true
		}
	}
	if told {
		x.InputCost = input.String()
		if e.bounded(est) {
			x.Cost = most.String()
		}
	}
	e.out.Estimate = x
}

// bounded says whether something is known of the output: the request asks for so much at most, or a budget assumes so much.
func (e *explaining) bounded(est *limit.Estimate) bool { return est.HasMax || e.assumed > 0 }

// costs is what the input of the request may cost, and what it may cost with its output, as budgets reckon: nobody knows yet what the
// provider has in its cache, nor what part of the output is reasoning.
func (e *explaining) costs(p *money.Price, est *limit.Estimate) (input, most money.Nano) {
	dearest := money.Price{Input: max(p.Input, p.CacheWrite), Output: max(p.Output, p.Reasoning), Request: p.Request}
	tokens := money.Tokens{Input: est.Input}
	input, _ = dearest.Cost(tokens)
	if tokens.Output = e.assumed; est.HasMax {
		tokens.Output = est.Output
	}
	most, _ = dearest.Cost(tokens)
	return input, most
}

func standing(s *limit.Standing) ExplainedLimit {
	r := s.Rule
	out := ExplainedLimit{
		ID: r.ID, Name: r.Name, Unit: r.Unit.String(), Subject: s.Subject, Limit: s.Limit, Remaining: s.Remaining, Needs: s.Need,
		Reserved: s.Reserved, Waiting: s.Waiting, ResetSeconds: s.Reset.Seconds(), Shadow: r.Shadow, WarnOnly: r.WarnOnly, Unknown: s.Unasked,
		Sharing: [...]string{limit.Local: "Local", limit.Lease: "Lease", limit.Exact: "Exact"}[s.Mode],
		Result:  [...]string{limit.Fits: LimitFits, limit.NoRoom: LimitFull, limit.NeverFits: LimitTooLarge, limit.CannotTell: LimitUnknown}[s.Answer],
	}
	switch {
	case r.Unit == limit.Concurrent:
	case r.Algorithm == limit.Calendar:
		out.Per = [...]string{limit.Day: "day", limit.Week: "week", limit.Month: "month"}[r.Period]
	default:
		out.Per = r.Window.String()
	}
	if s.Answer == limit.NoRoom || s.Answer == limit.CannotTell {
		out.RetryAfterSeconds = s.RetryAfter.Seconds()
	}
	if r.Unit == limit.Cost {
		text := func(n int64) string { return money.Nano(n).String() }
		out.Money = &ExplainedMoney{Limit: text(s.Limit), Remaining: text(s.Remaining), Needs: text(s.Need), Reserved: text(s.Reserved)}
	}
	return out
}

// candidates says of every backend of the rule whether it can serve the request, and how.
func (e *explaining) candidates(now time.Time) {
	a := e.d.dry.asked
	if a == nil {
		e.excluded()
		return
	}
	var weights [table.MaxCandidates]float64
	sum := e.s.weighAny(a.variant, &weights)
	var prompt *canon.Request
	if a.readsPrompt() {
		prompt, _ = a.dialect.In.ParseRequest(e.req.Body) // what is wrong with it is the outcome
	}
	est := e.s.estimate(a, nil)
	for _, c := range a.rule.Candidates {
		x := e.candidate(c, a.model, a.operation, a.dialect)
		i := slices.Index(a.variant.Candidates, c)
		if i >= 0 {
			if sum > 0 {
				x.Chance = weights[i] / sum
			}
			x.UpstreamModel = c.UpstreamModel(a.model)
			x.Translated = c.Backend.Dialect.Name != a.dialect.Name
			e.translation(c, &x)
			e.priced(c, a, &est, &x)
			if b := c.Backend; b.Pick != nil && e.out.Live {
				x.Pool = e.pool(a, c, prompt, now)
			}
		}
		e.out.Candidates = append(e.out.Candidates, x)
	}
	e.unusable(a.rule)
}

// unusable lists the backends that the rule goes on without.
func (e *explaining) unusable(rule *table.Rule) {
	for _, u := range rule.Unusable {
		e.out.Candidates = append(e.out.Candidates, ExplainedCandidate{
			Backend: u.Backend, Priority: u.Priority, Weight: u.Weight, Excluded: u.Why, Share: 1, Usable: true,
		})
	}
}

// excluded lists the backends of a rule none of whose can serve the request, or whose scopes the caller lacks.
func (e *explaining) excluded() {
	if e.out.Route == nil {
		return
	}
	r := e.request
	match := e.s.opts.Dialects.Classify(r.method, r.path, r.headerValue)
	asked := &table.Request{Gateway: e.gateway(), Method: r.method, Path: r.matched(), Query: r.query, Model: e.out.Request.Model, Labels: e.d.dry.caller.Labels, Header: r.header}
	if rule := e.t.Find(asked); rule != nil {
		for _, c := range rule.Candidates {
			e.out.Candidates = append(e.out.Candidates, e.candidate(c, e.out.Request.Model, match.Endpoint.Op, match.Dialect))
		}
		e.unusable(rule)
	}
}

func (e *explaining) candidate(c *table.Candidate, model string, op canon.Operation, d *canon.Dialect) ExplainedCandidate {
	x := ExplainedCandidate{Backend: c.Backend.ID, Priority: c.Priority, Weight: c.Weight, Dialect: c.Backend.Dialect.Name}
	x.Share, x.Usable = e.s.opts.Steering.Share(c.Backend.ID)
	one := table.Rule{Candidates: []*table.Candidate{c}}
	switch {
	case one.Capable(model, "") == 0:
		x.Excluded = fmt.Sprintf("it does not serve the model %q", model)
	case one.Capable(model, onlyOf(op, d)) == 0:
		x.Excluded = fmt.Sprintf("it does not speak the dialect %s, and %s requests are not translated", d.Name, op)
	}
	return x
}

// translation says what a translation loses.
func (e *explaining) translation(c *table.Candidate, x *ExplainedCandidate) {
	if e.d.exchange == nil || e.d.exchange.body == nil { // nothing is translated, or the body was refused before
		return
	}
	call, err := e.d.exchange.call(c)
	if err != nil {
		x.Error = err.Message
		return
	}
	x.Dropped = call.Dropped
}

func (e *explaining) priced(c *table.Candidate, a *asked, est *limit.Estimate, x *ExplainedCandidate) {
	p := c.Price(a.model).At(a.now)
	if p == nil {
		return
	}
	x.Price = &ExplainedPrice{Version: p.Version, Input: p.Input.String(), Output: p.Output.String()}
	if p.Request > 0 {
		x.Price.Request = p.Request.String()
	}
	input, most := e.costs(p, est)
	if x.InputCost = input.String(); e.bounded(est) {
		x.Cost = most.String()
	}
}

// pool says which endpoints would be picked.
func (e *explaining) pool(a *asked, c *table.Candidate, prompt *canon.Request, now time.Time) *ExplainedPool {
	p, refused, seen := e.s.opts.Picker.Preview(a.pickRequest(c.Backend, prompt), now)
	x := &ExplainedPool{Mode: seen.Mode.String(), Picked: []string{}, Waiting: seen.Waiting, MaxWait: seen.MaxWait.Seconds(), Endpoints: []ExplainedEndpoint{}}
	if refused != nil {
		x.Reason = string(refused.Reason)
	} else {
		x.Picked, x.Reason, x.CachedTokens = append(x.Picked, p.Endpoints...), p.Reason, p.Cached
	}
	for i := range seen.Endpoints {
		l := &seen.Endpoints[i]
		if len(x.Endpoints) == shownEndpoints {
			x.EndpointsMore = len(seen.Endpoints) - i
			break
		}
		x.Endpoints = append(x.Endpoints, ExplainedEndpoint{
			Endpoint: l.Key, Requests: l.Requests, Tokens: l.Tokens, CachedTokens: l.Cached, Score: l.Score, Speed: l.Speed, Factor: l.Factor,
			Breaker: l.Breaker.String(), Cannot: l.Why,
		})
	}
	return x
}

// lane says which lane the request would take.
func (e *explaining) lane() {
	a := e.d.dry.asked
	if !e.out.Outcome.Served || a == nil || e.d.open == nil {
		return
	}
	why := e.s.laneless(e.d, a, e.d.dry.keys)
	e.out.Lane = &ExplainedLane{Native: why == "", Why: why}
}
