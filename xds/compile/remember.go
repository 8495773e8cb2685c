package compile

import (
	"cmp"
	"slices"
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/xds/source"
)

// keptUnit is what was made of a CachePolicy or a SessionPolicy.
type keptUnit[P any] struct {
	policyUnit
	name    string
	created time.Time
	kept    table.Kept[P]
	sound   bool
}

// keeper compiles the policies of one kind.
type keeper[P any, T source.Object] struct {
	units    []*keptUnit[P]
	keeping  table.Keeping[P]
	problems []source.Problem
	made     bool
}

// compile compiles those policies that are not as they were. from is where they stood.
func (k *keeper[P, T]) compile(c *compiler, from []int, objects []T, targets func(T) []v1alpha1.PolicyTarget, one func(T) (table.Kept[P], bool)) {
	var changed bool
	k.units, changed = policyUnits(c, k.units, from, objects, func(o T) *keptUnit[P] {
		u := &keptUnit[P]{policyUnit: policyUnit{unit: unit{kind: ofPolicy}}, name: o.GetNamespace() + "/" + o.GetName(), created: o.GetCreationTimestamp().Time}
		c.limiting = &u.policyUnit
		c.make(&u.unit, func() {
			if u.kept, u.sound = one(o); !u.sound {
				return
			}
			u.kept.Name = u.name
			covers := &table.Policy{} // stands for the policy: what counts is what it is attached to
			c.attach(source.RefOf(o), targets(o), v1alpha1.PerTenant, func(string) *table.Policy { return covers })
		})
		return u
	})
	if changed || !k.made {
		k.collect()
		k.made = true
	}
	c.problems = append(c.problems, k.problems...)
}

// collect attaches every policy, the oldest first.
func (k *keeper[P, T]) collect() {
	k.problems = nil
	for _, u := range k.units {
		k.problems = append(k.problems, u.problems...)
	}
	order := slices.Clone(k.units)
	slices.SortFunc(order, func(a, b *keptUnit[P]) int { return cmp.Or(a.created.Compare(b.created), cmp.Compare(a.name, b.name)) })
	p := table.Keeping[P]{
		Gateways: map[string][]table.Kept[P]{}, Routes: map[string][]table.Kept[P]{}, Rules: map[string][]table.Kept[P]{},
		Tenants: map[string][]table.Kept[P]{}, Consumers: map[string][]table.Kept[P]{}, Credentials: map[string][]table.Kept[P]{},
	}
	for _, u := range order {
		for i := range u.attached {
			keep(&p, &u.attached[i], u.kept)
		}
	}
	k.keeping = p
}

// keep attaches a policy to one of its targets.
func keep[P any](p *table.Keeping[P], a *attachment, kept table.Kept[P]) {
	switch a.kind {
	case v1alpha1.TargetGateway:
		p.Gateways[a.id] = append(p.Gateways[a.id], kept)
	case v1alpha1.TargetRoute:
		at := p.Routes
		if a.section {
			at = p.Rules
		}
		for _, r := range a.rules {
			at[r] = append(at[r], kept)
		}
	case v1alpha1.TargetTenant:
		if a.id == "*" {
			p.AllTenants = append(p.AllTenants, kept)
			return
		}
		p.Tenants[a.id] = append(p.Tenants[a.id], kept)
	case v1alpha1.TargetConsumer:
		p.Consumers[a.id] = append(p.Consumers[a.id], kept)
	case v1alpha1.TargetAPIKey:
		p.Credentials[a.id] = append(p.Credentials[a.id], kept)
	}
}

// remember compiles the CachePolicies and SessionPolicies that are not as they were, when gateways, routes and consumers are known.
func (c *compiler) remember(caches, sessions []int) {
	c.caching.compile(c, caches, c.objs.CachePolicies,
		func(o *v1alpha1.CachePolicy) []v1alpha1.PolicyTarget { return o.Spec.TargetRefs },
		func(o *v1alpha1.CachePolicy) (kept table.Kept[table.CachePolicy], ok bool) {
			models, ok1 := c.policyModels(source.RefOf(o), o.Spec.Models)
			policy, ok2 := c.cachePolicy(source.RefOf(o), o)
			return table.Kept[table.CachePolicy]{Models: models, Policy: policy}, ok1 && ok2
		})
	c.conversing.compile(c, sessions, c.objs.SessionPolicies,
		func(o *v1alpha1.SessionPolicy) []v1alpha1.PolicyTarget { return o.Spec.TargetRefs },
		func(o *v1alpha1.SessionPolicy) (kept table.Kept[table.SessionPolicy], ok bool) {
			policy, ok := c.sessionPolicy(o)
			return table.Kept[table.SessionPolicy]{Policy: policy}, ok
		})
	c.out.Table.Caches, c.out.Table.Sessions = c.caching.keeping, c.conversing.keeping
}
