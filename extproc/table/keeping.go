package table

import (
	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/session"
)

// Kept is a policy by which the relay keeps something of requests, as it is attached to one target.
type Kept[P any] struct {
	// Name of the policy, "namespace/name".
	Name string
	// Models narrows it to some of the caller's names; nil: every model.
	Models *identity.Patterns
	Policy P
}

// Keeping finds the one policy of a kind that applies to a request, by what policies are attached to. The policies of a target stand in the
// order of their age, the oldest first.
type Keeping[P any] struct {
	Gateways    map[string][]Kept[P] // by "namespace/name"
	Routes      map[string][]Kept[P] // by Rule.Name: attached to its whole Route
	Rules       map[string][]Kept[P] // by Rule.Name: attached to the rule by its name
	Tenants     map[string][]Kept[P]
	AllTenants  []Kept[P]
	Consumers   map[string][]Kept[P] // by Identity.ConsumerID
	Credentials map[string][]Kept[P] // by Identity.CredentialID
}

// Empty says whether there is no policy at all.
func (k *Keeping[P]) Empty() bool {
	return len(k.Gateways)+len(k.Routes)+len(k.Rules)+len(k.Tenants)+len(k.AllTenants)+len(k.Consumers)+len(k.Credentials) == 0
}

// Find returns the policy with the most specific target that covers a request: its credential, consumer, tenant, rule, Route, gateway. Of
// several with equal targets the oldest applies. nil where none does.
func (k *Keeping[P]) Find(gateway string, rule *Rule, id *identity.Identity, model string) *Kept[P] {
	if k.Empty() {
		return nil
	}
	for _, list := range [...][]Kept[P]{
		k.Credentials[id.CredentialID], k.Consumers[id.ConsumerID], k.Tenants[id.Tenant], k.AllTenants,
		k.Rules[rule.Name], k.Routes[rule.Name], k.Gateways[gateway],
	} {
		for i := range list {
			if p := &list[i]; p.Models == nil || p.Models.Match(model) {
				return p
			}
		}
	}
	return nil
}

// Each calls yield with every policy, once for each place that it is attached to.
func (k *Keeping[P]) Each(yield func(*Kept[P]) bool) {
	for _, m := range [...]map[string][]Kept[P]{k.Gateways, k.Routes, k.Rules, k.Tenants, k.Consumers, k.Credentials, {"": k.AllTenants}} {
		for _, list := range m {
			for i := range list {
				if !yield(&list[i]) {
					return
				}
			}
		}
	}
}

// CachePolicy and SessionPolicy are the policies of the relay.
type (
	CachePolicy   = *cache.Policy
	SessionPolicy = *session.Policy
)
