package source

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-dev/weir/api/v1alpha1"
)

func generation(name string, n int64) *v1alpha1.Route {
	return &v1alpha1.Route{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name), Generation: n}}
}

// generations are so many Routes, in another order than that of their names.
func generations(n int) *Objects {
	o := NewObjects()
	for i := range n {
		o.Routes = append(o.Routes, generation(fmt.Sprintf("r-%05d", n-i), int64(i*i)))
	}
	return o
}

// Replicas of two versions must agree on digests.
func TestDigestStaysAsItIs(t *testing.T) {
	if got, want := generations(20).Digest(), "c2380be07ba9584a"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := NewObjects().Digest(), "66687aadf862bd77"; got != want {
		t.Errorf("nothing is %s, want %s", got, want)
	}
}

// Where the parts of a name end matters.
func TestDigestOfParts(t *testing.T) {
	a, b := generation("ab", 1), generation("a", 1)
	b.Namespace, b.UID = "ns1:b", a.UID
	one, other := NewObjects(), NewObjects()
	one.Routes, other.Routes = []*v1alpha1.Route{a}, []*v1alpha1.Route{b}
	if one.Digest() == other.Digest() {
		t.Error("two names have one digest")
	}
}

func TestDifference(t *testing.T) {
	a, b, c, d, changed := generation("a", 1), generation("b", 1), generation("c", 1), generation("d", 1), generation("b", 2)
	list := func(routes ...*v1alpha1.Route) (out []Object) { return appendObjects(out, routes) }
	for name, of := range map[string]struct{ before, after, gone, fresh []Object }{
		"nothing":   {},
		"the first": {nil, list(a, b), nil, list(a, b)},
		"the last":  {list(a, b), nil, list(a, b), nil},
		"the same":  {list(a, b), list(a, b), nil, nil},
		"one more":  {list(a, c), list(a, b, c), nil, list(b)},
		"one less":  {list(a, b, c), list(a, c), list(b), nil},
		"changed":   {list(a, b, c), list(a, changed, c), list(b), list(changed)},
		"both ends": {list(a, b, c), list(b, c, d), list(a), list(d)},
		"reordered": {list(a, b, c, d), list(d, c, b, a), nil, nil},
		"all":       {list(a, c, d), list(d, changed, a), list(c), list(changed)},
	} {
		t.Run(name, func(t *testing.T) {
			before, after := slices.Clone(of.before), slices.Clone(of.after)
			gone, fresh := Difference(of.before, of.after)
			if !slices.Equal(gone, of.gone) || !slices.Equal(fresh, of.fresh) {
				t.Errorf("gone %v, fresh %v", gone, fresh)
			}
			if !slices.Equal(before, of.before) || !slices.Equal(after, of.after) {
				t.Error("the lists are not as they were")
			}
		})
	}
}

// Whatever becomes of objects, a Follower says what Digest says, and what has changed.
func TestFollower(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var f Follower
	last := NewObjects()
	if s := f.Next(last); s.Digest != last.Digest() || len(s.Gone)+len(s.Fresh) != 0 {
		t.Fatalf("%+v of nothing", s)
	}
	for step := range 500 {
		next := NewObjects()
		var gone, fresh []Object
		for _, r := range last.Routes {
			switch rnd.IntN(10) {
			case 0:
				gone = append(gone, r)
			case 1:
				n := generation(r.Name, r.Generation+1)
				next.Routes = append(next.Routes, n)
				gone, fresh = append(gone, r), append(fresh, n)
			default:
				next.Routes = append(next.Routes, r)
			}
		}
		for range rnd.IntN(4) {
			n := generation(fmt.Sprint("r-", step, "-", len(fresh)), 1)
			next.Routes = append(next.Routes, n)
			fresh = append(fresh, n)
		}
		if step%7 != 0 {
			next.Sort()
		}
		s := f.Next(next)
		if s.Digest != next.Digest() {
			t.Fatalf("step %d: %s, want %s", step, s.Digest, next.Digest())
		}
		if !sameSet(s.Gone, gone) || !sameSet(s.Fresh, fresh) {
			t.Fatalf("step %d: gone %v, fresh %v", step, s.Gone, s.Fresh)
		}
		if again := f.Next(next); again.Digest != s.Digest || len(again.Gone)+len(again.Fresh) != 0 {
			t.Fatalf("step %d: %+v of the same", step, again)
		}
		last = next
	}
}

func sameSet(a, b []Object) bool {
	if len(a) != len(b) {
		return false
	}
	return !slices.ContainsFunc(a, func(o Object) bool { return !slices.Contains(b, o) })
}

// BenchmarkDigest is what naming ten thousand generations costs.
func BenchmarkDigest(b *testing.B) {
	o := generations(10_000)
	o.Sort()
	b.ReportAllocs()
	for b.Loop() {
		o.Digest()
	}
}

// BenchmarkFollower is what naming them costs when one has changed.
func BenchmarkFollower(b *testing.B) {
	o := generations(10_000)
	o.Sort()
	var f Follower
	f.Next(o)
	b.ReportAllocs()
	n := int64(0)
	for b.Loop() {
		n++
		next := NewObjects()
		next.Routes = slices.Clone(o.Routes)
		next.Routes[5000] = generation(next.Routes[5000].Name, n)
		f.Next(next)
	}
}
