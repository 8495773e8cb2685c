package compile

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/xds/source"
)

// limitPolicy compiles a LimitPolicy, when gateways, routes and consumers are known.
func (c *compiler) limitPolicy(o *v1alpha1.LimitPolicy) {
	ref := source.ObjectRef{Kind: "LimitPolicy", Namespace: o.Namespace, Name: o.Name}
	spec := &o.Spec
	if o.Annotations[source.ShutAnnotation] != "" {
		c.shut(ref, spec.TargetRefs, spec.Models)
		return
	}
	models, ok := c.policyModels(ref, spec.Models)
	sharing := c.sharing(ref, spec.Sharing)
	var limits []limit.Rule
	for i := range spec.Limits {
		r, sound := c.limit(ref, fmt.Sprintf("spec.limits[%d]", i), &spec.Limits[i])
		if !sound {
			ok = false
			continue
		}
		r.Name = o.Namespace + "/" + o.Name + "/" + string(spec.Limits[i].Name)
		r.Shadow = spec.Mode == v1alpha1.ModeShadow
		r.Per, r.Sharing, r.OnFailure = scope(spec.Per), sharing, onFailure(spec.Sharing.OnFailure)
		c.limiting.wait = max(c.limiting.wait, r.MaxWait)
		if r.Unit != limit.Requests {
			r.MaxWait = max(r.MaxWait, settling)
		}
		limits = append(limits, r)
	}
	if !ok {
		return
	}
	c.attach(ref, spec.TargetRefs, spec.Per, func(suffix string) *table.Policy {
		p := &table.Policy{Models: models}
		for i := range limits {
			r := limits[i]
			r.ID = "LimitPolicy/" + r.Name + suffix
			p.Limits = append(p.Limits, &r)
		}
		if b := spec.CircuitBreaker; b != nil {
			p.Breaker = &breaker.Rule{
				ID: "LimitPolicy/" + o.Namespace + "/" + o.Name + suffix, Name: o.Namespace + "/" + o.Name,
				ErrorPercent: int(b.ErrorPercent), MinRequests: int(b.MinRequests), Window: duration(b.Window),
				OpenFor: duration(b.OpenFor), HalfOpenRequests: int(b.HalfOpenRequests), WarmUp: duration(b.WarmUp),
				Shadow: spec.Mode == v1alpha1.ModeShadow,
			}
			p.BreakerPer = scope(spec.Per)
		}
		return p
	})
}

// shut refuses what a policy covers, of which nobody knows what it lets through.
func (c *compiler) shut(ref source.ObjectRef, targets []v1alpha1.PolicyTarget, narrowed []v1alpha1.ModelName) {
	p := &table.Policy{Shut: ref.Kind + " " + ref.Namespace + "/" + ref.Name}
	if len(narrowed) > 0 {
		p.Models, _ = identity.NewPatterns(names(narrowed)) // a pattern that is none narrows nothing
	}
	c.attach(ref, targets, v1alpha1.PerTenant, func(string) *table.Policy { return p })
}

// settling is how long the end of a request may take to be known here. What it has reserved is free only then, so
// that a request which comes right after it waits that long before it is refused.
const settling = 3 * AccessLogFlush

// limit compiles one limit, but for what its policy says.
func (c *compiler) limit(ref source.ObjectRef, field string, l *v1alpha1.Limit) (r limit.Rule, ok bool) {
	r = limit.Rule{
		Unit: unitOf(l.Unit), Algorithm: limit.SlidingWindow, Window: duration(l.Window), MaxWait: duration(l.MaxWait),
		AssumedOutput: l.AssumedOutputTokens,
	}
	if r.Limit, ok = c.amount(ref, field+".limit", l.Limit, l.Unit); !ok {
		return r, false
	}
	if l.Algorithm == v1alpha1.TokenBucket {
		r.Algorithm, r.Burst = limit.TokenBucket, r.Limit
		if l.Burst != nil {
			if r.Burst, ok = c.amount(ref, field+".burst", *l.Burst, l.Unit); !ok {
				return r, false
			}
		}
	}
	if l.Unit == v1alpha1.UnitCost && !c.anythingPriced() {
		c.warnf(ref, field+".unit", "no Backend has prices, so nothing costs anything and the limit is never reached")
	}
	return r, true
}

// amount reads a limit in its unit: a count, or nano-units of money.
func (c *compiler) amount(ref source.ObjectRef, field string, q resource.Quantity, u v1alpha1.LimitUnit) (int64, bool) {
	if q.Sign() <= 0 || q.Cmp(*resource.NewScaledQuantity(1, resource.Giga)) > 0 {
		c.errorf(ref, field, "%s is not above 0 and at most 1G", q.String())
		return 0, false
	}
	scale := resource.Scale(0)
	if u == v1alpha1.UnitCost {
		scale = resource.Nano
	}
	n := q.ScaledValue(scale) // rounds up
	back := resource.NewScaledQuantity(n, scale)
	if back.Cmp(q) != 0 {
		if u == v1alpha1.UnitCost {
			c.errorf(ref, field, "%s has more than 9 decimals", q.String())
		} else {
			c.errorf(ref, field, "%s is not a whole number, and %s are counted in whole ones", q.String(), u)
		}
		return 0, false
	}
	return n, true
}

func (c *compiler) budget(o *v1alpha1.Budget) {
	ref := source.ObjectRef{Kind: "Budget", Namespace: o.Namespace, Name: o.Name}
	spec := &o.Spec
	if o.Annotations[source.ShutAnnotation] != "" {
		c.shut(ref, spec.TargetRefs, spec.Models)
		return
	}
	models, ok := c.policyModels(ref, spec.Models)
	location, err := time.LoadLocation(spec.TimeZone)
	if spec.TimeZone == "Local" {
		c.errorf(ref, "spec.timeZone", "Local is the zone of whatever machine counts, and replicas may differ; use a name such as Europe/Berlin")
		ok = false
	} else if err != nil {
		c.errorf(ref, "spec.timeZone", "there is no time zone %q; use a name such as Europe/Berlin", spec.TimeZone)
		ok = false
	}
	amount, sound := c.amount(ref, "spec.amount", spec.Amount, v1alpha1.UnitCost)
	if !ok || !sound {
		return
	}
	if !c.anythingPriced() {
		c.warnf(ref, "", "no Backend has prices, so nothing costs anything and the budget is never spent")
	}
	rule := limit.Rule{
		Name: o.Namespace + "/" + o.Name, Unit: limit.Cost, Algorithm: limit.Calendar, Limit: amount,
		Period: period(spec.Period), Location: location,
		WarnAt: amount/100*int64(spec.WarnAtPercent) + amount%100*int64(spec.WarnAtPercent)/100,
		Per:    scope(spec.Per), WarnOnly: spec.Action == v1alpha1.BudgetWarn, CutStreams: spec.CutStreams,
		AssumedOutput: spec.AssumedOutputTokens, MaxWait: settling,
		Sharing: c.sharing(ref, spec.Sharing), OnFailure: onFailure(spec.Sharing.OnFailure),
	}
	c.attach(ref, spec.TargetRefs, spec.Per, func(suffix string) *table.Policy {
		r := rule
		r.ID = "Budget/" + r.Name + suffix
		return &table.Policy{Models: models, Limits: []*limit.Rule{&r}}
	})
}

// attach finds the targets of a policy. Where all that a target covers share a counter, each target has a policy of its
// own, named by suffix; else all share one, so that a request that two targets cover is counted once.
func (c *compiler) attach(ref source.ObjectRef, targets []v1alpha1.PolicyTarget, per v1alpha1.PolicyScope, make func(suffix string) *table.Policy) {
	var shared *table.Policy
	policy := func(t *v1alpha1.PolicyTarget) *table.Policy {
		if per != v1alpha1.PerTarget {
			if shared == nil {
				shared = make("")
			}
			return shared
		}
		suffix := "@" + string(t.Kind) + "/" + t.Name
		if t.SectionName != "" {
			suffix += "/" + string(t.SectionName)
		}
		return make(suffix)
	}
	seen := map[v1alpha1.PolicyTarget]bool{}
	for i := range targets {
		t := &targets[i]
		field := fmt.Sprintf("spec.targetRefs[%d]", i)
		if seen[*t] {
			c.errorf(ref, field, "the target %s %s is named twice", t.Kind, t.Name)
			continue
		}
		seen[*t] = true
		if t.Name == "*" && t.Kind != v1alpha1.TargetTenant {
			c.errorf(ref, field+".name", "only a Tenant may be \"*\"; to cover everything name the LLMGateway")
			continue
		}
		c.attachTo(ref, field, t, func() *table.Policy { return policy(t) })
	}
}

func (c *compiler) attachTo(ref source.ObjectRef, field string, t *v1alpha1.PolicyTarget, policy func() *table.Policy) {
	id := ref.Namespace + "/" + t.Name
	named := source.ObjectRef{Kind: string(t.Kind), Namespace: ref.Namespace, Name: t.Name}
	switch t.Kind {
	case v1alpha1.TargetGateway:
		if !c.known(named) {
			c.unresolvedf(ref, field+".name", source.ReasonRefNotFound, "there is no LLMGateway %s", id)
			return
		}
		c.attached(attachment{kind: t.Kind, id: id, policy: [1]*table.Policy{policy()}})
	case v1alpha1.TargetRoute:
		var rules []string
		for _, r := range c.rulesOf(named) {
			if t.SectionName == "" || r.section == string(t.SectionName) {
				rules = append(rules, r.rule)
			}
		}
		switch {
		case !c.known(named):
			c.unresolvedf(ref, field+".name", source.ReasonRefNotFound, "there is no Route %s", id)
			return
		case len(rules) == 0 && t.SectionName != "":
			c.unresolvedf(ref, field+".sectionName", source.ReasonRefNotFound, "the Route %s has no rule named %q", id, t.SectionName)
			return
		}
		c.attached(attachment{kind: t.Kind, rules: rules, section: t.SectionName != "", policy: [1]*table.Policy{policy()}})
	case v1alpha1.TargetTenant:
		// A tenant's own namespace may narrow itself; whoever runs the gateway may narrow anybody.
		if t.Name != ref.Namespace && !c.hasGateway(ref.Namespace) {
			c.errorf(ref, field+".name", "a policy in the namespace %s may only limit the tenant of that name; put it into the namespace of an LLMGateway", ref.Namespace)
			return
		}
		c.attached(attachment{kind: t.Kind, id: t.Name, policy: [1]*table.Policy{policy()}})
	case v1alpha1.TargetConsumer:
		if !c.known(named) {
			if !c.hasTokens() {
				c.unresolvedf(ref, field+".name", source.ReasonRefNotFound, "there is no Consumer %s", id)
				return
			}
			c.warnf(ref, field+".name", "there is no Consumer %s: the policy applies to callers whom a token of this namespace names so", id)
		}
		c.attached(attachment{kind: t.Kind, id: id, policy: [1]*table.Policy{policy()}})
	case v1alpha1.TargetAPIKey:
		if !c.known(named) {
			if !c.storedKeys() {
				c.unresolvedf(ref, field+".name", source.ReasonRefNotFound, "there is no APIKey %s", id)
				return
			}
			c.warnf(ref, field+".name", "there is no APIKey object %s: the policy applies to a key of that name in the key store", id)
		}
		credential := ref.Namespace + "/key:" + t.Name // Identity.CredentialID
		c.attached(attachment{kind: t.Kind, id: credential, policy: [1]*table.Policy{policy()}})
	}
}

func (c *compiler) hasGateway(namespace string) bool {
	c.asks(&c.gateways.cell)
	for _, g := range c.objs.Gateways {
		if g.Namespace == namespace {
			return true
		}
	}
	return false
}

// storedKeys says whether some gateway takes keys from a store.
func (c *compiler) storedKeys() bool {
	c.asks(&c.gateways.cell)
	for _, g := range c.objs.Gateways {
		if g.Spec.Authentication.KeyStore == v1alpha1.KeysRedis {
			return true
		}
	}
	return false
}

// hasTokens says whether callers may come with tokens.
func (c *compiler) hasTokens() bool {
	c.asks(&c.tokens.cell)
	return c.tokens.is
}

// anythingPriced says whether anything has a price.
func (c *compiler) anythingPriced() bool {
	c.asks(&c.priced.cell)
	return c.priced.is
}

func (c *compiler) policyModels(ref source.ObjectRef, list []v1alpha1.ModelName) (*identity.Patterns, bool) {
	if len(list) == 0 {
		return nil, true
	}
	p, err := identity.NewPatterns(names(list))
	if err != nil {
		c.errorf(ref, "spec.models", "%v", err)
		return nil, false
	}
	return p, true
}

// sharing is how a policy is shared, which needs something to share it in.
func (c *compiler) sharing(ref source.ObjectRef, s v1alpha1.Sharing) limit.Mode {
	if c.asks(&c.counting.cell); !c.counting.is {
		if s.Mode == v1alpha1.ShareExact {
			c.warnf(ref, "spec.sharing.mode", "no LLMGateway has sharedState, so each replica counts for itself")
		}
		return limit.Local
	}
	switch s.Mode {
	case v1alpha1.ShareExact:
		return limit.Exact
	case v1alpha1.ShareLocal:
		return limit.Local
	}
	return limit.Lease
}

func onFailure(m v1alpha1.FailureMode) limit.Failure {
	switch m {
	case v1alpha1.FailAllow:
		return limit.Allow
	case v1alpha1.FailDeny:
		return limit.Deny
	}
	return limit.LocalShare
}

func scope(s v1alpha1.PolicyScope) limit.Scope {
	switch s {
	case v1alpha1.PerTenant:
		return limit.PerTenant
	case v1alpha1.PerConsumer:
		return limit.PerConsumer
	case v1alpha1.PerCredential:
		return limit.PerCredential
	}
	return limit.PerTarget
}

func unitOf(u v1alpha1.LimitUnit) limit.Unit {
	switch u {
	case v1alpha1.UnitInputTokens:
		return limit.InputTokens
	case v1alpha1.UnitOutputTokens:
		return limit.OutputTokens
	case v1alpha1.UnitTotalTokens:
		return limit.TotalTokens
	case v1alpha1.UnitConcurrent:
		return limit.Concurrent
	case v1alpha1.UnitCost:
		return limit.Cost
	}
	return limit.Requests
}

func period(p v1alpha1.BudgetPeriod) limit.Period {
	switch p {
	case v1alpha1.PeriodDay:
		return limit.Day
	case v1alpha1.PeriodWeek:
		return limit.Week
	}
	return limit.Month
}
