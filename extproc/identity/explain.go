package identity

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
)

// Recognise answers as Authenticate does and counts nothing: neither a failed login nor a refusal. It is for explanations, whose
// requests nobody sends.
func (a *Authenticator) Recognise(ctx context.Context, h Headers, source netip.Addr, now time.Time) (*Identity, *canon.Error) {
	id, _, err := a.authenticate(ctx, &h, source, now)
	return id, err
}

// Named is the identity of a Consumer as far as no credential adds to it: without the lists, the scopes and the limit of a key.
func (a *Authenticator) Named(namespace, name string) (*Identity, bool) {
	c := a.consumers[objectID{namespace, name}]
	if c == nil {
		return nil, false
	}
	return &Identity{
		Consumer: c.Name, Namespace: c.Namespace, Tenant: c.Tenant, Labels: c.Labels, Models: c.models, Scopes: sortedSet(c.Scopes),
		ConsumerID: c.Namespace + "/" + c.Name,
	}, true
}

// List gives what the allow-list admits: names, sorted, and then patterns.
func (p *Patterns) List() []string {
	return append(slices.Sorted(maps.Keys(p.exact)), p.globs...)
}
