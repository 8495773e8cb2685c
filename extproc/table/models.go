package table

import (
	"slices"
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/identity"
)

// ModelsFor lists the models that a caller may ask a gateway for by name, AnyGateway for some gateway: those that rules name, and, for rules that
// do not, those that their backends name. Sorted, without duplicates.
func (t *Table) ModelsFor(id *identity.Identity, gateway string) []canon.Model {
	owners := map[string]string{}
	for _, e := range t.entries() {
		if !e.open(id) || !e.serves(gateway) {
			continue
		}
		add := func(model, owner string) {
			if _, listed := owners[model]; !listed && id.MayUse(model) {
				owners[model] = owner
			}
		}
		if e.exact {
			for _, m := range e.Models {
				if r := e.rule; r.Capable(m, "") != 0 {
					add(m, r.owner(m))
				}
			}
			continue
		}
		for _, c := range e.rule.Candidates {
			for m := range c.Backend.Models {
				if e.patterns == nil || e.patterns.Match(m) {
					add(m, e.rule.owner(m))
				}
			}
		}
	}
	out := make([]canon.Model, 0, len(owners))
	for m, owner := range owners {
		out = append(out, canon.Model{ID: m, Owner: owner, Created: t.Created})
	}
	slices.SortFunc(out, func(a, b canon.Model) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// open says whether a caller can reach the rule with some request.
func (e *Entry) open(id *identity.Identity) bool {
	for k, v := range e.Labels {
		if got, ok := id.Labels[k]; !ok || got != v {
			return false
		}
	}
	_, ok := id.HasScopes(e.rule.RequiredScopes)
	return ok
}

// owner names the first backend that serves the model.
func (r *Rule) owner(model string) string {
	for _, c := range r.Candidates {
		if c.serves(model) {
			return c.Backend.ID
		}
	}
	return ""
}
