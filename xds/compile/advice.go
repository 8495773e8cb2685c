package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/xds/source"
)

// advice warns of what is valid, and most likely not meant. It runs when everything is known and nothing is wrong.
func (c *compiler) advice() {
	c.adviseOnPrices()
	c.problems = append(c.problems, c.identityUnit.advice...)
	c.settleModels()
	if t := &c.ofPolicies; t.advised == 0 || t.advised+1 < c.run || !c.calm(ofAdvice) {
		t.advice = nil
		for i, o := range c.objs.LimitPolicies {
			t.advice = append(t.advice, c.adviseOnPolicy(c.limitUnits[i], source.RefOf(o), o.Spec.TargetRefs, o.Spec.Models)...)
		}
		for i, o := range c.objs.Budgets {
			t.advice = append(t.advice, c.adviseOnPolicy(c.budgetUnits[i], source.RefOf(o), o.Spec.TargetRefs, o.Spec.Models)...)
		}
	}
	c.ofPolicies.advised = c.run
	c.problems = append(c.problems, c.ofPolicies.advice...)
}

// adviseOnPolicy warns of a policy that covers nothing.
func (c *compiler) adviseOnPolicy(u *policyUnit, ref source.ObjectRef, targets []v1alpha1.PolicyTarget, list []v1alpha1.ModelName) []source.Problem {
	if u.advice == nil || !u.advice.counts() {
		advice := &unit{kind: ofAdvice}
		c.make(advice, func() { c.advise(ref, targets, list) })
		if u.advice != nil {
			u.advice.drop()
		}
		u.advice = advice
	}
	return u.advice.problems
}

func (c *compiler) advise(ref source.ObjectRef, targets []v1alpha1.PolicyTarget, list []v1alpha1.ModelName) {
	for i, t := range targets {
		if t.Kind != v1alpha1.TargetTenant || t.Name == "*" {
			continue
		}
		if tenants := c.tenants(); tenants != nil && !tenants[t.Name] {
			c.warnf(ref, fmt.Sprintf("spec.targetRefs[%d].name", i), "no Consumer belongs to the tenant %s, so this target covers nobody", t.Name)
		}
	}
	if len(list) == 0 {
		return
	}
	if c.asks(&c.models.cell); c.models.any {
		return
	}
	if p, err := identity.NewPatterns(names(list)); err == nil && !slices.ContainsFunc(c.models.list, p.Match) {
		c.warnf(ref, "spec.models", "no Backend lists a model that matches, so it applies to nothing")
	}
}

// adviseOnNetworks names the APIKeys whose networks are most likely meant to be others.
func (c *compiler) adviseOnNetworks() []source.Problem {
	var out []source.Problem
	for _, o := range c.objs.APIKeys {
		for i, s := range o.Spec.AllowedCIDRs {
			if p, err := netip.ParsePrefix(s); err == nil && p != p.Masked() {
				out = append(out, c.objs.Problem(source.RefOf(o), fmt.Sprintf("spec.allowedCIDRs[%d]", i), source.Warning,
					"%s is not the beginning of a network: write %s for the whole network, or %s for the one address",
					s, p.Masked(), netip.PrefixFrom(p.Addr(), p.Addr().BitLen())))
			}
		}
	}
	return out
}

// adviseOnPrices names the Backends whose requests cost nothing where money is limited. Where nothing has a price, the
// limits themselves have said so.
func (c *compiler) adviseOnPrices() {
	if !c.ofPolicies.cost || !c.priced.is {
		return
	}
	for _, b := range c.objs.Backends {
		if len(b.Spec.Prices) > 0 {
			continue
		}
		ref := source.ObjectRef{Kind: "Backend", Namespace: b.Namespace, Name: b.Name}
		var without []string
		for i := range b.Spec.Models {
			if len(b.Spec.Models[i].Prices) == 0 {
				without = append(without, string(b.Spec.Models[i].Name))
			}
		}
		switch {
		case len(without) == len(b.Spec.Models):
			c.warnf(ref, "", "it has no prices, so its requests cost nothing and are outside of every budget")
		case len(without) > 0:
			c.warnf(ref, "spec.models", "there is no price for %s, so requests for it cost nothing and are outside of every budget", brief(without))
		}
	}
}

// brief names the first of a list, and how many more there are.
func brief(list []string) string {
	const shown = 3
	if len(list) <= shown {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:shown], ", "), len(list)-shown)
}

// tenants are all that callers can belong to; nil where tokens or stored keys may bring others.
func (c *compiler) tenants() map[string]bool {
	if c.hasTokens() || c.storedKeys() {
		return nil
	}
	c.asks(&c.consumers.cell)
	if c.tenantNames == nil || c.tenantNames.made < c.consumers.changed {
		names := map[string]bool{}
		for _, o := range c.objs.Consumers {
			if o.Spec.Tenant != "" {
				names[o.Spec.Tenant] = true
			} else {
				names[o.Namespace] = true
			}
		}
		c.tenantNames = &tenantNames{c.run, names}
	}
	return c.tenantNames.names
}

// tenantNames are the tenants of the Consumers in one run.
type tenantNames struct {
	made  uint64
	names map[string]bool
}

// modelNames are all that callers can ask for. any: some Backend takes any, or a Route gives a model another name.
type modelNames struct {
	cell
	any  bool
	list []string
}

// settleModels finds out which models callers can ask for, where some policy wants to know.
func (c *compiler) settleModels() {
	m := &c.models
	if !c.ofPolicies.narrowed {
		return
	}
	open := slices.ContainsFunc(c.objs.Backends, func(b *v1alpha1.Backend) bool { return len(b.Spec.Models) == 0 }) ||
		c.ofRoutes.renames
	var list []string
	if !open {
		for _, b := range c.objs.Backends {
			for i := range b.Spec.Models {
				list = append(list, string(b.Spec.Models[i].Name))
			}
		}
	}
	if open != m.any || !slices.Equal(list, m.list) {
		m.any, m.list = open, list
		c.stir(&m.cell)
	}
}

// overlap says whether a server of Weir's own at one address takes a port from Envoy at another: the same address, or every
// address of its family. Weir at "::" takes IPv4 as well; Envoy there does not.
func overlap(own, envoy string) bool {
	a, errA := netip.ParseAddr(own)
	b, errB := netip.ParseAddr(envoy)
	if errA != nil || errB != nil {
		return own == envoy
	}
	if a.IsUnspecified() && a.Is6() || a == b {
		return true
	}
	return (a.IsUnspecified() || b.IsUnspecified()) && a.Is4() == b.Is4()
}
