package fleet

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
)

// versionsOf are resources by name.
func versionsOf(t testing.TB, resources []*resource) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, r := range resources {
		if out[r.name] != "" {
			t.Errorf("%s is there twice", r.name)
		}
		out[r.name] = r.version
	}
	return out
}

// keepMaps gives a set the maps of the one before, where nothing in them has changed: a source hands them on.
func keepMaps(before, objs *source.Objects) {
	if maps.EqualFunc(before.Secrets, objs.Secrets, source.Secret.Equal) {
		objs.Secrets = before.Secrets
	}
	if maps.EqualFunc(before.Endpoints, objs.Endpoints, slices.Equal[[]v1alpha1.Endpoint]) {
		objs.Endpoints = before.Endpoints
	}
	if maps.EqualFunc(before.Namespaces, objs.Namespaces, maps.Equal[map[string]string, map[string]string]) {
		objs.Namespaces = before.Namespaces
	}
}

// difference is what has gone from one set of versions by name to the next, sorted, and what has come.
func difference(before, now map[string]string) (gone []string, fresh map[string]string) {
	fresh = map[string]string{}
	for name, version := range now {
		if before[name] != version {
			fresh[name] = version
		}
	}
	for name := range before {
		if now[name] == "" {
			gone = append(gone, name)
		}
	}
	slices.Sort(gone)
	return gone, fresh
}

// What is encoded step by step, and what clients of any scope are to have then, is what it would be if that set were the first.
func TestEncodedStepByStep(t *testing.T) {
	scopes := []Scope{{}, {Namespaces: []string{"a", "a.b"}}, {Namespaces: []string{"c"}, Gateways: gateways("a/n2")}}
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 11))
		h := &history{
			t: t, rnd: rnd, objects: map[source.ObjectRef]source.Object{}, values: map[string]string{},
			problems: map[source.ObjectRef]source.Problem{}, found: map[source.ObjectRef][]v1alpha1.Endpoint{},
		}
		e := newEncoded()
		views, wanted := make([]*view, len(scopes)), make([]map[string]string, len(scopes))
		for i, scope := range scopes {
			views[i] = newView(scope.normal())
		}
		before, had, hadTwins := source.NewObjects(), map[string]string{}, false
		for number := uint64(1); number <= 60; number++ {
			objs, problems := h.next()
			if rnd.IntN(8) == 0 && len(objs.Routes) > 0 { // one is there twice
				twin := objs.Routes[rnd.IntN(len(objs.Routes))].DeepCopy()
				twin.Labels = map[string]string{"twin": "yes"}
				objs.Routes = append(objs.Routes, twin)
				objs.Sort()
			}
			if rnd.IntN(4) == 0 {
				objs, problems = before, nil
			}
			keepMaps(before, objs)
			e.update(objs, problems, nil)
			whole := newEncoded()
			whole.update(objs, problems, nil)
			if e.digest != objs.Digest() {
				t.Fatalf("seed %d, set %d: the digest is %s, not %s", seed, number, e.digest, objs.Digest())
			}
			now, twins := versionsOf(t, e.all()), len(e.objects) != objs.Len()
			if !twins && !hadTwins {
				gone, fresh := difference(had, now)
				if got := versionsOf(t, e.fresh); !maps.Equal(got, fresh) || !slices.Equal(slices.Sorted(slices.Values(e.gone)), gone) {
					t.Fatalf("seed %d, set %d: %v have come and %v have gone, not %v and %v", seed, number, got, e.gone, fresh, gone)
				}
			}
			for i, v := range views {
				want := versionsOf(t, v.scope.of(whole))
				was, changes := v.current, number == 1 || !maps.Equal(want, wanted[i])
				if number == 1 {
					v.update(v.scope.of(e), number, e.digest)
				} else if changed := v.follow(e, number); changed != changes && !(changed && (twins || hadTwins)) {
					t.Fatalf("seed %d, set %d, scope %+v: a change is told: %v", seed, number, v.scope, changed)
				}
				if (v.current == was) == changes && v.current.number != number || v.current.digest != e.digest {
					t.Fatalf("seed %d, set %d, scope %+v: the view is at %+v", seed, number, v.scope, v.current)
				}
				wanted[i] = want
				if got := versionsOf(t, v.scope.of(e)); !maps.Equal(got, want) {
					t.Fatalf("seed %d, set %d, scope %+v: encoded are\n%v, not\n%v", seed, number, v.scope, got, want)
				}
				got := map[string]string{}
				for _, entry := range v.entries {
					if entry.res != nil {
						got[entry.name] = entry.res.version
					}
				}
				if !maps.Equal(got, want) {
					t.Fatalf("seed %d, set %d, scope %+v: clients get\n%v, not\n%v", seed, number, v.scope, got, want)
				}
			}
			before, had, hadTwins = objs, now, twins
		}
	}
}

// What a client has after one response upon another is what it would have if all had come in one.
func TestSetStepByStep(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 12))
		h := &history{
			t: t, rnd: rnd, objects: map[source.ObjectRef]source.Object{}, values: map[string]string{},
			problems: map[source.ObjectRef]source.Problem{}, found: map[source.ObjectRef][]v1alpha1.Endpoint{},
		}
		e := newEncoded()
		var s *set
		for number := range 60 {
			objs, problems := h.next()
			if rnd.IntN(30) == 0 {
				*h = history{t: t, rnd: rnd, objects: map[source.ObjectRef]source.Object{}, values: map[string]string{},
					problems: map[source.ObjectRef]source.Problem{}, found: map[source.ObjectRef][]v1alpha1.Endpoint{}}
				objs, problems = source.NewObjects(), nil
			}
			e.update(objs, problems, nil)
			r := &discoveryv3.DeltaDiscoveryResponse{RemovedResources: e.gone}
			for _, res := range e.fresh {
				r.Resources = append(r.Resources, res.message())
			}
			if rnd.IntN(5) == 0 { // of a newer Weir
				r.Resources = append(r.Resources, &discoveryv3.Resource{Name: "Shoe/a/b", Version: fmt.Sprint(number), Resource: &anypb.Any{Value: []byte("{}")}})
			} else if rnd.IntN(5) == 0 {
				r.RemovedResources = append(r.RemovedResources, "Shoe/a/b")
			}
			var before *source.Objects
			if s != nil {
				before = s.objs
				if content, err := before.Hash(); err != nil {
					t.Fatal(err)
				} else {
					defer func() {
						if after, err := before.Hash(); err != nil || after != content {
							t.Error("objects were changed that had been handed on")
						}
					}()
				}
			}
			s = s.with(r)
			requireEqual(t, s.objs, objs)
			whole, wrong := assemble(s.items)
			requireEqual(t, s.objs, whole)
			if !slices.Equal(s.objs.All(), whole.All()) || !maps.Equal(s.objs.Secrets, whole.Secrets) || (s.objs.Namespaces == nil) != (whole.Namespaces == nil) {
				t.Fatalf("seed %d, set %d: the objects are not\n%s", seed, number, describe(whole))
			}
			requireProblems(t, s.problems, wrong)
		}
	}
}
