package table

import (
	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/limit"
)

// Policy is what one LimitPolicy or Budget asks of the requests of one of its targets. Targets that share counters
// share the Policy.
type Policy struct {
	// Models narrows it to some of the caller's names; nil: every model.
	Models *identity.Patterns
	Limits []*limit.Rule
	// Shut names the policy where it is not valid, so that nothing it covers passes: "Budget team-a/month"; "" where it is.
	Shut string
	// Breaker is nil where there is none; BreakerPer says who shares one.
	Breaker    *breaker.Rule
	BreakerPer limit.Scope
}

// Policies finds what applies to a request, by what policies are attached to.
type Policies struct {
	Gateways    map[string][]*Policy // by "namespace/name"
	Rules       map[string][]*Policy // by Rule.Name: those of the rule and of its Route
	Tenants     map[string][]*Policy
	AllTenants  []*Policy
	Consumers   map[string][]*Policy // by Identity.ConsumerID
	Credentials map[string][]*Policy // by Identity.CredentialID
}

// Applying appends to dst the policies that a request must pass, each once.
func (t *Table) Applying(dst []*Policy, gateway string, rule *Rule, id *identity.Identity, model string) []*Policy {
	p := &t.Policies
	dst = applying(dst, p.Gateways[gateway], model)
	dst = applying(dst, p.Rules[rule.Name], model)
	dst = applying(dst, p.AllTenants, model)
	dst = applying(dst, p.Tenants[id.Tenant], model)
	dst = applying(dst, p.Consumers[id.ConsumerID], model)
	return applying(dst, p.Credentials[id.CredentialID], model)
}

func applying(dst, from []*Policy, model string) []*Policy {
next:
	for _, p := range from {
		if p.Models != nil && !p.Models.Match(model) {
			continue
		}
		for _, have := range dst { // a handful: looking is cheaper than a map
			if have == p {
				continue next
			}
		}
		dst = append(dst, p)
	}
	return dst
}

// EachPolicy calls yield with every policy, once for each place that it is attached to.
func (t *Table) EachPolicy(yield func(*Policy) bool) {
	each := func(list []*Policy) bool {
		for _, p := range list {
			if !yield(p) {
				return false
			}
		}
		return true
	}
	p := &t.Policies
	for _, m := range []map[string][]*Policy{p.Gateways, p.Rules, p.Tenants, p.Consumers, p.Credentials} {
		for _, list := range m {
			if !each(list) {
				return
			}
		}
	}
	each(p.AllTenants)
}

// EachRule calls yield with every rule, once for each of its matches.
func (t *Table) EachRule(yield func(*Rule) bool) {
	for _, e := range t.entries() {
		if !yield(e.rule) {
			return
		}
	}
}
