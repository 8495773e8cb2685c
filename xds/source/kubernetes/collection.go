package kubernetes

import (
	"cmp"
	"slices"
	"strings"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
)

// collection holds the records of a kind in the order of namespace and name. The slice is never changed, only replaced.
type collection struct {
	records []*record
}

func compareNames(a, b source.ObjectRef) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

func orderOf(r *record, ref source.ObjectRef) int { return compareNames(r.ref, ref) }

// has says whether there is an object, valid or not.
func (c *collection) has(ref source.ObjectRef) bool {
	_, found := slices.BinarySearchFunc(c.records, ref, orderOf)
	return found
}

// few changes are cheaper to put in their places one by one than all are to sort.
const few = 64

// apply puts changed records in, and takes out those that are nil.
func (c *collection) apply(changes map[source.ObjectRef]*record) {
	if len(changes) <= few {
		next := slices.Clone(c.records)
		for ref, rec := range changes {
			i, found := slices.BinarySearchFunc(next, ref, orderOf)
			switch {
			case found && rec != nil:
				next[i] = rec
			case found:
				next = slices.Delete(next, i, i+1)
			case rec != nil:
				next = slices.Insert(next, i, rec)
			}
		}
		c.records = next
		return
	}
	next := make([]*record, 0, len(c.records)+len(changes))
	for _, rec := range c.records {
		if _, changed := changes[rec.ref]; !changed {
			next = append(next, rec)
		}
	}
	for _, rec := range changes {
		if rec != nil {
			next = append(next, rec)
		}
	}
	slices.SortFunc(next, func(a, b *record) int { return compareNames(a.ref, b.ref) })
	c.records = next
}

// setKind replaces all objects of a kind by the valid ones of c.
func setKind(o *source.Objects, kind string, c *collection) {
	switch kind {
	case "APIKey":
		o.APIKeys = objectsOf[*v1alpha1.APIKey](c)
	case "Backend":
		o.Backends = objectsOf[*v1alpha1.Backend](c)
	case "Budget":
		o.Budgets = objectsOf[*v1alpha1.Budget](c)
	case "CachePolicy":
		o.CachePolicies = objectsOf[*v1alpha1.CachePolicy](c)
	case "Consumer":
		o.Consumers = objectsOf[*v1alpha1.Consumer](c)
	case "JWTIssuer":
		o.JWTIssuers = objectsOf[*v1alpha1.JWTIssuer](c)
	case "LLMGateway":
		o.Gateways = objectsOf[*v1alpha1.LLMGateway](c)
	case "LimitPolicy":
		o.LimitPolicies = objectsOf[*v1alpha1.LimitPolicy](c)
	case "LoadPolicy":
		o.LoadPolicies = objectsOf[*v1alpha1.LoadPolicy](c)
	case "ReferenceGrant":
		o.ReferenceGrants = objectsOf[*v1alpha1.ReferenceGrant](c)
	case "Route":
		o.Routes = objectsOf[*v1alpha1.Route](c)
	case "SessionPolicy":
		o.SessionPolicies = objectsOf[*v1alpha1.SessionPolicy](c)
	}
}

func objectsOf[T source.Object](c *collection) []T {
	out := make([]T, 0, len(c.records))
	for _, rec := range c.records {
		if obj, ok := rec.object.(T); ok {
			out = append(out, obj)
		}
	}
	return out
}
