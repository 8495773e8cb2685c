package source

// Between returns which objects are in one of two readings only, in the order of All. An object is its pointer; each reading has it once at most. What both
// begin and end with alike, kind by kind, costs a comparison of pointers, and nothing where a kind is shared.
func Between(before, after *Objects) (gone, fresh []Object) {
	if before == nil {
		before = &Objects{}
	}
	if after == nil {
		after = &Objects{}
	}
	b := between{}
	betweenOf(&b, before.APIKeys, after.APIKeys)
	betweenOf(&b, before.Backends, after.Backends)
	betweenOf(&b, before.Budgets, after.Budgets)
	betweenOf(&b, before.CachePolicies, after.CachePolicies)
	betweenOf(&b, before.Consumers, after.Consumers)
	betweenOf(&b, before.JWTIssuers, after.JWTIssuers)
	betweenOf(&b, before.Gateways, after.Gateways)
	betweenOf(&b, before.LimitPolicies, after.LimitPolicies)
	betweenOf(&b, before.LoadPolicies, after.LoadPolicies)
	betweenOf(&b, before.ReferenceGrants, after.ReferenceGrants)
	betweenOf(&b, before.Routes, after.Routes)
	betweenOf(&b, before.SessionPolicies, after.SessionPolicies)
	return b.gone, b.fresh
}

type between struct{ gone, fresh []Object }

func betweenOf[T interface {
	comparable
	Object
}](b *between, before, after []T) {
	if len(before) == len(after) && (len(before) == 0 || &before[0] == &after[0]) {
		return // the very list
	}
	for len(before) > 0 && len(after) > 0 && before[0] == after[0] {
		before, after = before[1:], after[1:]
	}
	for len(before) > 0 && len(after) > 0 && before[len(before)-1] == after[len(after)-1] {
		before, after = before[:len(before)-1], after[:len(after)-1]
	}
	gone, fresh := Difference(appendObjects(nil, before), appendObjects(nil, after))
	b.gone, b.fresh = append(b.gone, gone...), append(b.fresh, fresh...)
}
