package source

import (
	"cmp"
	"slices"
	"strings"
)

// With returns the same with some objects less and others more. All must be in the order of Sort, and stay so; what is gone is told by its pointer. Kinds
// of which nothing changes are shared with o, as are the maps.
func (o *Objects) With(gone, fresh []Object) *Objects {
	out := *o
	out.Gateways = with(o.Gateways, gone, fresh)
	out.Backends = with(o.Backends, gone, fresh)
	out.Routes = with(o.Routes, gone, fresh)
	out.Consumers = with(o.Consumers, gone, fresh)
	out.APIKeys = with(o.APIKeys, gone, fresh)
	out.JWTIssuers = with(o.JWTIssuers, gone, fresh)
	out.LimitPolicies = with(o.LimitPolicies, gone, fresh)
	out.Budgets = with(o.Budgets, gone, fresh)
	out.LoadPolicies = with(o.LoadPolicies, gone, fresh)
	out.CachePolicies = with(o.CachePolicies, gone, fresh)
	out.SessionPolicies = with(o.SessionPolicies, gone, fresh)
	out.ReferenceGrants = with(o.ReferenceGrants, gone, fresh)
	return &out
}

// few changes are cheaper to put in their places one by one than all objects are to sort.
const few = 64

func with[T Object](objects []T, gone, fresh []Object) []T {
	out, some := goneOf(objects, gone)
	many := len(fresh) > few
	for _, obj := range fresh {
		t, ok := obj.(T)
		if !ok {
			continue
		}
		if !some {
			out, some = slices.Clone(objects), true
		}
		if many {
			out = append(out, t)
			continue
		}
		i, _ := slices.BinarySearchFunc(out, t, compareNames)
		out = slices.Insert(out, i, t)
	}
	if some && many {
		sortObjects(out)
	}
	return out
}

// goneOf is a list without what is gone, and whether that is another list.
func goneOf[T Object](objects []T, gone []Object) (out []T, some bool) {
	are := map[Object]bool{}
	for _, obj := range gone {
		if _, ok := obj.(T); ok {
			are[obj] = true
		}
	}
	if len(are) == 0 {
		return objects, false
	}
	if len(are) <= few {
		out = slices.Clone(objects)
		for obj := range are {
			i, _ := slices.BinarySearchFunc(out, obj.(T), compareNames)
			for i < len(out) && Object(out[i]) != obj { // behind another of its name
				i++
			}
			if i < len(out) {
				out = slices.Delete(out, i, i+1)
			}
		}
		return out, true
	}
	out = make([]T, 0, len(objects))
	for _, obj := range objects {
		if !are[obj] {
			out = append(out, obj)
		}
	}
	return out, true
}

func compareNames[T Object](a, b T) int {
	return cmp.Or(strings.Compare(a.GetNamespace(), b.GetNamespace()), strings.Compare(a.GetName(), b.GetName()))
}
