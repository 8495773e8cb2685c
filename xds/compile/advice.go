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
	for _, o := range c.objs.APIKeys {
		ref := source.ObjectRef{Kind: "APIKey", Namespace: o.Namespace, Name: o.Name}
		for i, s := range o.Spec.AllowedCIDRs {
			if p, err := netip.ParsePrefix(s); err == nil && p != p.Masked() {
				c.warnf(ref, fmt.Sprintf("spec.allowedCIDRs[%d]", i), "%s is not the beginning of a network: write %s for the whole network, or %s for the one address",
					s, p.Masked(), netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
			}
		}
	}
	tenants, models := c.tenants(), c.models()
	advise := func(ref source.ObjectRef, targets []v1alpha1.PolicyTarget, list []v1alpha1.ModelName) {
		for i, t := range targets {
			if tenants != nil && t.Kind == v1alpha1.TargetTenant && t.Name != "*" && !tenants[t.Name] {
				c.warnf(ref, fmt.Sprintf("spec.targetRefs[%d].name", i), "no Consumer belongs to the tenant %s, so this target covers nobody", t.Name)
			}
		}
		if len(list) == 0 || models == nil {
			return
		}
		if p, err := identity.NewPatterns(names(list)); err == nil && !slices.ContainsFunc(models, p.Match) {
			c.warnf(ref, "spec.models", "no Backend lists a model that matches, so it applies to nothing")
		}
	}
	for _, o := range c.objs.LimitPolicies {
		advise(source.ObjectRef{Kind: "LimitPolicy", Namespace: o.Namespace, Name: o.Name}, o.Spec.TargetRefs, o.Spec.Models)
	}
	for _, o := range c.objs.Budgets {
		advise(source.ObjectRef{Kind: "Budget", Namespace: o.Namespace, Name: o.Name}, o.Spec.TargetRefs, o.Spec.Models)
	}
}

// adviseOnPrices names the Backends whose requests cost nothing where money is limited. Where nothing has a price, the
// limits themselves have said so.
func (c *compiler) adviseOnPrices() {
	money := len(c.objs.Budgets) > 0
	for _, o := range c.objs.LimitPolicies {
		money = money || slices.ContainsFunc(o.Spec.Limits, func(l v1alpha1.Limit) bool { return l.Unit == v1alpha1.UnitCost })
	}
	if !money || !c.priced() {
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
	if len(c.objs.JWTIssuers) > 0 || c.storedKeys() {
		return nil
	}
	out := map[string]bool{}
	for _, o := range c.objs.Consumers {
		if o.Spec.Tenant != "" {
			out[o.Spec.Tenant] = true
		} else {
			out[o.Namespace] = true
		}
	}
	return out
}

// models are all that callers can ask for; nil where some Backend takes any, or a Route gives a model another name.
func (c *compiler) models() []string {
	out := []string{}
	for _, b := range c.objs.Backends {
		if len(b.Spec.Models) == 0 {
			return nil
		}
		for i := range b.Spec.Models {
			out = append(out, string(b.Spec.Models[i].Name))
		}
	}
	for _, r := range c.objs.Routes {
		for i := range r.Spec.Rules {
			for j := range r.Spec.Rules[i].Backends {
				if r.Spec.Rules[i].Backends[j].Model != "" {
					return nil
				}
			}
		}
	}
	return out
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
