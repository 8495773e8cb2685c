package serve

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/stream/v3"
	"google.golang.org/protobuf/proto"

	"github.com/weir-dev/weir/internal/cow"
	"github.com/weir-dev/weir/xds/compile"
)

// TestUnionTouchesOnlyWhatChanges: everything else is the very message, and maps of which nothing changes are the very maps.
func TestUnionTouchesOnlyWhatChanges(t *testing.T) {
	v := version("v", content{clusters: []string{"a", "b"}, routes: []string{"r#1", "r#2", "s#1"}, shares: []uint32{1, 1}, door: "d"})
	u := mustAssemble(t, v)
	w := *v
	routes := v.Routes.Edit()
	routes.Set("r#3", route("r#3", []uint32{2}))
	w.Routes = routes.Map()
	next, err := u.with(&w, u.maxBody)
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string][]string{resourcev3.ScopedRouteType: {"r"}}; !maps.EqualFunc(next.touched, want, slices.Equal) {
		t.Errorf("touched: %v", next.touched)
	}
	for _, typeURL := range kinds {
		if (typeURL != resourcev3.ScopedRouteType) != u.hashes[typeURL].Is(next.hashes[typeURL]) {
			t.Errorf("%s: is it as it was?", typeURL)
		}
	}
	if was := u.resources[resourcev3.ScopedRouteType].Get("r"); !proto.Equal(was, compile.Scopes(v.Routes, v.MaxBody)["r"]) {
		t.Errorf("the old union has changed: %v", was)
	}
	if next.resources[resourcev3.ScopedRouteType].Get("s") != u.resources[resourcev3.ScopedRouteType].Get("s") {
		t.Error("s was made again")
	}
	back, err := next.without(map[string][]string{resourcev3.RouteType: {"r#3"}, resourcev3.ClusterType: {"b"}}, u.maxBody)
	if err != nil {
		t.Fatal(err)
	}
	if !equal(back.hashes[resourcev3.ScopedRouteType], u.hashes[resourcev3.ScopedRouteType]) || back.resources[resourcev3.ClusterType].Has("b") {
		t.Errorf("without what came there is %v", back.hashes)
	}
}

// equal says whether two maps have the same, whatever they were made of.
func equal[V comparable](a, b cow.Map[V]) bool {
	for range cow.Diff(a, b) {
		return false
	}
	return a.Len() == b.Len()
}

// TestUnionStepByStep: whatever versions come and go, Envoy has what each of those needs that are not over, as the newest of them
// has it, and in the end nothing else.
func TestUnionStepByStep(t *testing.T) {
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 3))
		some := func(names ...string) (out []string) {
			for _, n := range names {
				if rng.IntN(2) == 0 {
					out = append(out, n)
				}
			}
			return out
		}
		type past struct {
			*compile.Version
			until time.Time
		}
		now := time.Unix(0, 0)
		u, old := nothing(), leftovers{}
		var versions []past // that are not over; the last is served
		for step := range 25 {
			now = now.Add(time.Duration(rng.IntN(20)) * time.Second)
			horizon := time.Time{}
			v := version(fmt.Sprint(step), content{
				clusters: some("a", "b", "c"), pool: some(one1, two2, three3), routes: some("r#1", "r#2", "s#1", "s#2", "t#1"),
				shares: []uint32{rng.Uint32N(3) + 1, 1}, door: fmt.Sprint(step), secrets: map[string]string{"x": fmt.Sprint(rng.IntN(2))},
				retain: time.Duration(rng.IntN(60)) * time.Second,
			})
			v.MaxBody = rng.Uint32N(2)
			if n := len(versions); n > 0 { // maps of which nothing has changed are handed on, of the version before or of another
				p := versions[rng.IntN(n)]
				for _, share := range []func(){
					func() { v.Clusters = p.Clusters }, func() { v.Endpoints = p.Endpoints }, func() { v.Secrets = p.Secrets },
					func() { v.Listeners = p.Listeners }, func() { v.Routes = p.Routes },
				} {
					if rng.IntN(3) == 0 {
						share()
					}
				}
			}
			if n := len(versions); n > 0 {
				versions[n-1].until = now.Add(versions[n-1].Retain)
			}
			for _, p := range versions {
				if p.until.After(horizon) {
					horizon = p.until
				}
			}
			versions = append(versions, past{v, time.Time{}})
			next, err := u.with(v, max(u.maxBody, v.MaxBody))
			if err != nil {
				t.Fatal(err)
			}
			old.leave(u.newest, v, horizon)
			u = next
			if rng.IntN(2) == 0 {
				if u, err = u.without(old.due(now), u.maxBody); err != nil {
					t.Fatal(err)
				}
			}
			versions = slices.DeleteFunc(versions, func(p past) bool { return !p.until.IsZero() && now.After(p.until) })
			for i, p := range versions {
				want := mustAssemble(t, p.Version)
				for typeURL, names := range want.hashes {
					for name, version := range names.All() {
						newest := i == len(versions)-1 && typeURL != resourcev3.ScopedRouteType
						if got, there := u.hashes[typeURL].Lookup(name); typeURL != resourcev3.ListenerType && !there || newest && got != version {
							t.Fatalf("seed %d, step %d: of version %s Envoy has %s %s %q, want %q", seed, step, p.ID, typeURL, name, got, version)
						}
					}
				}
				for key := range p.Routes.Names() {
					if u.scopes.Get(compile.ScopeOf(key)).entries[key] == nil {
						t.Fatalf("seed %d, step %d: version %s misses the route %s", seed, step, p.ID, key)
					}
				}
			}
			for name, m := range compile.Scopes(u.routes, u.maxBody) {
				if !proto.Equal(u.resources[resourcev3.ScopedRouteType].Get(name), m) {
					t.Fatalf("seed %d, step %d: the scope %s is not made of its routes", seed, step, name)
				}
			}
		}
		last := versions[len(versions)-1].Version
		u, err := u.without(old.due(now.Add(time.Hour)), last.MaxBody)
		if err != nil {
			t.Fatal(err)
		}
		want := mustAssemble(t, last)
		for _, typeURL := range kinds {
			if !equal(u.hashes[typeURL], want.hashes[typeURL]) {
				t.Errorf("seed %d: at last Envoy has the %ss %q, want %q", seed, shortType(typeURL), slices.Sorted(u.hashes[typeURL].Names()), slices.Sorted(want.hashes[typeURL].Names()))
			}
		}
	}
}

// TestCacheAnswers: a client is sent what it does not have, once it is there; and nothing where it has everything.
func TestCacheAnswers(t *testing.T) {
	offered := func(serial uint64, v *compile.Version) *offer {
		s := mustCompose(t, mustAssemble(t, v), nil, nil, serial)
		return &offer{state: s.state, marked: s.hashes, labels: s.labels}
	}
	c := newCache()
	to := make(chan cachev3.DeltaResponse, 1)
	ask := func(typeURL, nonce string, names []string, has map[string]string) func() {
		t.Helper()
		stop, err := c.CreateDeltaWatch(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL, ResponseNonce: nonce}, stream.NewDeltaSubscription(names, nil, has, true), to)
		if err != nil {
			t.Fatal(err)
		}
		return stop
	}
	answered := func() string {
		t.Helper()
		select {
		case r := <-to:
			out, err := r.GetDeltaDiscoveryResponse()
			if err != nil {
				t.Fatal(err)
			}
			var changed []string
			for _, res := range out.GetResources() {
				changed = append(changed, res.GetName())
			}
			slices.Sort(changed)
			return fmt.Sprintf("%s %q -%q", out.GetSystemVersionInfo(), changed, out.GetRemovedResources())
		default:
			return "nothing"
		}
	}
	expect := func(want string) {
		t.Helper()
		if got := answered(); got != want {
			t.Errorf("answered %s, want %s", got, want)
		}
	}
	ask(resourcev3.ClusterType, "", nil, nil)
	expect("nothing")
	first := offered(1, version("v", content{clusters: []string{"a", "b"}, routes: []string{"r#1", "s#1"}, door: "d"}))
	c.set(first)
	expect(`1 ["a" "b"] -[]`)
	ask(resourcev3.SecretType, "", nil, nil)()
	expect(`1 [] -[]`) // it waits for an answer, though there are none
	has := maps.Collect(first.hashes[resourcev3.ScopedRouteType].All())
	stop := ask(resourcev3.ScopedRouteType, "1", nil, maps.Clone(has))
	expect("nothing")
	c.set(offered(2, version("v", content{clusters: []string{"a", "b", "c"}, routes: []string{"r#1", "s#1"}, door: "d"})))
	expect("nothing")
	stop()
	c.set(offered(3, version("v", content{routes: []string{"r#1", "t#1"}, door: "d"})))
	expect("nothing") // it has gone
	ask(resourcev3.ScopedRouteType, "1", nil, maps.Clone(has))
	expect(`3/3 ["t"] -["s"]`)
	ask(resourcev3.EndpointType, "1", []string{"a", "z"}, map[string]string{"a": first.hashes[resourcev3.EndpointType].Get("a")})
	expect(`3/3 [] -["a"]`)
	if _, err := c.CreateWatch(nil, nil, nil); err == nil {
		t.Error("it serves what is not delta xDS")
	}
	if _, err := c.Fetch(t.Context(), nil); err == nil {
		t.Error("it serves what is not delta xDS")
	}
}

// TestOneRuleOfACompiler: of what a Compiler makes after one rule has changed, only that rule is looked into.
func TestOneRuleOfACompiler(t *testing.T) {
	is := &rules{port: 80, backend: "127.0.0.1:1", of: map[string]rule{}}
	for i := range 50 {
		is.of[fmt.Sprint("r", i)] = rule{60, 1, 1}
	}
	objs, opts := is.load(t)
	c := compile.NewCompiler()
	v, problems := c.Compile(objs, opts)
	if v == nil {
		t.Fatal(problems)
	}
	u := mustAssemble(t, v)

	after := *objs
	after.Routes = slices.Clone(objs.Routes)
	changed := after.Routes[7].DeepCopy()
	weight := int32(9)
	changed.Spec.Rules[0].Backends[0].Weight = &weight
	after.Routes[7] = changed
	w, problems := c.Compile(&after, opts)
	if w == nil {
		t.Fatal(problems)
	}
	next, err := u.with(w, u.maxBody)
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string][]string{resourcev3.ScopedRouteType: {"default/" + changed.Name}}; !maps.EqualFunc(next.touched, want, slices.Equal) {
		t.Errorf("touched: %v, want %v", next.touched, want)
	}
}
