package source

import "github.com/weir-dev/weir/api/v1alpha1"

// Grants are the consents of all ReferenceGrants, laid out for lookups. The zero value permits no reference to another namespace. They are safe for
// concurrent use.
type Grants struct {
	named map[grantEdge]map[string]bool // by the names that may be referred to; "" is every one
}

// grantEdge is from whom to what a grant permits references.
type grantEdge struct {
	fromKind, fromNamespace, toKind, toNamespace string
}

// Grants lays out the consents of the ReferenceGrants.
func (o *Objects) Grants() Grants {
	g := Grants{named: map[grantEdge]map[string]bool{}}
	for _, grant := range o.ReferenceGrants {
		for _, from := range grant.Spec.From {
			for _, to := range grant.Spec.To {
				if !refers(from.Kind, to.Kind) {
					continue
				}
				edge := grantEdge{string(from.Kind), string(from.Namespace), string(to.Kind), grant.Namespace}
				if g.named[edge] == nil {
					g.named[edge] = map[string]bool{}
				}
				g.named[edge][string(to.Name)] = true
			}
		}
	}
	return g
}

// refers says whether objects of a kind have references to the other.
func refers(from v1alpha1.GrantFromKind, to v1alpha1.GrantToKind) bool {
	return (from == v1alpha1.GrantFromRoute) == (to == v1alpha1.GrantToBackend)
}

// Permit says whether from may refer to an object: one of its own namespace, or one that a ReferenceGrant there lets it refer to.
func (g Grants) Permit(from, to ObjectRef) bool {
	if from.Namespace == to.Namespace {
		return true
	}
	names := g.named[grantEdge{from.Kind, from.Namespace, to.Kind, to.Namespace}]
	return names[""] || names[to.Name]
}
