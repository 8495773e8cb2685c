package compile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/xds/source"
)

// keptUnit is what was made of a CachePolicy or a SessionPolicy.
type keptUnit[P any] struct {
	policyUnit
	ref     source.ObjectRef
	name    string
	created time.Time
	targets []v1alpha1.PolicyTarget
	models  []v1alpha1.ModelName // that narrow it
	kept    table.Kept[P]
	sound   bool
}

// keeper compiles the policies of one kind.
type keeper[P any, T source.Object] struct {
	units    []*keptUnit[P]
	keeping  table.Keeping[P]
	problems []source.Problem
	made     bool
	// models narrow a policy; nil for a kind that knows none.
	models func(T) []v1alpha1.ModelName
}

// compile compiles those policies that are not as they were.
func (k *keeper[P, T]) compile(c *compiler, m *moves, objects []T, targets func(T) []v1alpha1.PolicyTarget, one func(T) (table.Kept[P], bool)) {
	var changed bool
	k.units, changed = policyUnits(c, k.units, m, objects, func(o T) *keptUnit[P] {
		u := &keptUnit[P]{
			policyUnit: policyUnit{unit: unit{kind: ofPolicy}}, ref: source.RefOf(o), name: o.GetNamespace() + "/" + o.GetName(),
			created: o.GetCreationTimestamp().Time, targets: targets(o),
		}
		if k.models != nil {
			u.models = k.models(o)
		}
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
		k.collect(c)
		k.made = true
	}
	c.problems = append(c.problems, k.problems...)
}

// collect attaches every policy, the oldest first.
func (k *keeper[P, T]) collect(c *compiler) {
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
	k.problems = append(k.problems, overtaken(c, order)...)
}

// overtaken warns of policies that others with the same target come before: of two alike one applies, and whoever has written the younger one,
// narrower perhaps, does not see that it is not his.
func overtaken[P any](c *compiler, order []*keptUnit[P]) []source.Problem {
	var out []source.Problem
	at := map[target][]*keptUnit[P]{}
	for _, u := range order {
		if !u.sound {
			continue
		}
		for i, t := range u.targets {
			key := target{u.ref.Namespace, t}
			if t.Kind == v1alpha1.TargetTenant {
				key.namespace = "" // whoever names it
			}
			before := at[key]
			if slices.Contains(before, u) {
				continue // it is named twice
			}
			at[key] = append(before, u)
			for _, other := range before {
				taken, all := other.takes(u)
				why := "has the same target and comes first (the older of two, or of equal age the first by name)"
				field := fmt.Sprintf("spec.targetRefs[%d]", i)
				switch {
				case all:
					out = append(out, c.objs.Problem(u.ref, field, source.Warning,
						"%s %s, so this one never applies there: %s", other.ref, why, other.remedy(u)).Because(source.ReasonConflict))
				case len(taken) > 0:
					out = append(out, c.objs.Problem(u.ref, field, source.Warning,
						"%s %s, so this one does not apply there to %s: name each model in one of the two", other.ref, why, brief(taken)).Because(source.ReasonConflict))
				}
				if all {
					break
				}
			}
		}
	}
	return out
}

// target is what a policy is attached to. namespace is that of what it names.
type target struct {
	namespace string
	v1alpha1.PolicyTarget
}

// takes says which of the models of a younger policy are this one's, where both have one target, and whether all are. Of two patterns that are not
// the same it is not known.
func (u *keptUnit[P]) takes(younger *keptUnit[P]) (taken []string, all bool) {
	if len(u.models) == 0 {
		return nil, true
	}
	for _, m := range younger.models {
		if slices.Contains(u.models, m) || !strings.Contains(string(m), "*") && u.kept.Models.Match(string(m)) {
			taken = append(taken, string(m))
		}
	}
	return taken, len(taken) > 0 && len(taken) == len(younger.models)
}

// remedy says how a younger policy gets what it is for.
func (u *keptUnit[P]) remedy(younger *keptUnit[P]) string {
	if len(younger.models) == 0 {
		return "delete one of the two, or give this one a target that is more specific"
	}
	return "narrow spec.models of " + u.name + ", delete one of the two, or give this one a target that is more specific"
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
func (c *compiler) remember(caches, sessions *moves) {
	c.caching.models = func(o *v1alpha1.CachePolicy) []v1alpha1.ModelName { return o.Spec.Models }
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
