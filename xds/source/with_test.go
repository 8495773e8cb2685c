package source

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// With makes what adding all objects and sorting them makes, and leaves what it is made from as it was.
func TestWith(t *testing.T) {
	kinds := []string{"LLMGateway", "Backend", "Route", "Consumer", "APIKey", "JWTIssuer", "LimitPolicy", "Budget", "LoadPolicy", "CachePolicy", "SessionPolicy", "ReferenceGrant"}
	rnd := rand.New(rand.NewPCG(1, 2))
	have := map[ObjectRef]Object{}
	now := NewObjects()
	for range 300 {
		gone, fresh := map[ObjectRef]Object{}, map[ObjectRef]Object{}
		n := rnd.IntN(8)
		if rnd.IntN(20) == 0 {
			n = 400
		}
		for range n {
			obj, ok := NewObject(kinds[rnd.IntN(len(kinds))])
			if !ok {
				t.Fatal("no such kind")
			}
			obj.SetNamespace([]string{"a", "a-b", "b"}[rnd.IntN(3)])
			obj.SetName(fmt.Sprint("n", rnd.IntN(20)))
			ref := RefOf(obj)
			if was := have[ref]; was != nil {
				gone[ref] = was
			}
			if delete(fresh, ref); rnd.IntN(3) > 0 {
				fresh[ref] = obj
			}
		}
		for ref := range gone {
			delete(have, ref)
		}
		for ref, obj := range fresh {
			have[ref] = obj
		}
		before := now.All()
		next := now.With(listed(gone), listed(fresh))
		if !slices.Equal(now.All(), before) {
			t.Fatal("what was handed on has changed")
		}
		want := NewObjects()
		for _, obj := range have {
			if err := want.Add(obj); err != nil {
				t.Fatal(err)
			}
		}
		want.Sort()
		if !slices.Equal(next.All(), want.All()) {
			t.Fatalf("%d objects less and %d more are not right", len(gone), len(fresh))
		}
		if len(gone)+len(fresh) == 0 && !reflect.DeepEqual(next, now) {
			t.Fatal("something has changed")
		}
		now = next
	}
}

func listed(objects map[ObjectRef]Object) (out []Object) {
	for _, obj := range objects {
		out = append(out, obj)
	}
	return out
}

// What is gone is one object, and not all that have its name.
func TestWithoutATwin(t *testing.T) {
	one, _ := NewObject("Route")
	other, _ := NewObject("Route")
	for _, obj := range []metav1.Object{one, other} {
		obj.SetName("x")
	}
	o := NewObjects().With(nil, []Object{one, other})
	if left := o.With([]Object{one}, nil).All(); !slices.Equal(left, []Object{other}) {
		t.Errorf("%d are left", len(left))
	}
}
