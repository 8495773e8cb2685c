package fleet

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
)

// history makes up sets, each from the one before.
type history struct {
	t        *testing.T
	rnd      *rand.Rand
	objects  map[source.ObjectRef]source.Object
	values   map[string]string
	problems map[source.ObjectRef]source.Problem
	found    map[source.ObjectRef][]v1alpha1.Endpoint
	serial   int64
}

func (h *history) next() (*source.Objects, []source.Problem) {
	for range 1 + h.rnd.IntN(6) {
		h.serial++
		namespace := []string{"a", "a-b", "a.b", "c"}[h.rnd.IntN(4)]
		name := fmt.Sprintf("n%d", h.rnd.IntN(8))
		other := v1alpha1.RouteBackend{Name: v1alpha1.ObjectName(fmt.Sprintf("n%d", h.rnd.IntN(8))), Namespace: "c"}
		objects := []source.Object{
			backend(namespace, name, h.serial), route(namespace, name, h.serial, other), gateway(namespace, name),
			&v1alpha1.Consumer{ObjectMeta: meta(namespace, name, h.serial)},
			&v1alpha1.ReferenceGrant{ObjectMeta: meta(namespace, name, h.serial), Spec: v1alpha1.ReferenceGrantSpec{From: []v1alpha1.ReferenceGrantFrom{{Kind: "Route", Namespace: "a"}}}},
			&v1alpha1.LimitPolicy{ObjectMeta: meta(namespace, name, h.serial), Spec: v1alpha1.LimitPolicySpec{TargetRefs: []v1alpha1.PolicyTarget{{Kind: v1alpha1.TargetGateway, Name: name}}}},
			&v1alpha1.LoadPolicy{ObjectMeta: meta(namespace, name, h.serial), Spec: v1alpha1.LoadPolicySpec{TargetRefs: []v1alpha1.LoadPolicyTarget{{Kind: v1alpha1.LoadTargetBackend, Name: v1alpha1.ObjectName(name)}}}},
		}
		obj := objects[h.rnd.IntN(len(objects))]
		obj.SetLabels(map[string]string{"serial": fmt.Sprint(h.serial % 5)})
		ref := source.RefOf(obj)
		target := source.ObjectRef{Kind: "Backend", Namespace: namespace, Name: name}
		switch h.rnd.IntN(7) {
		case 0, 1:
			delete(h.objects, ref)
		case 2:
			h.values[namespace+" "+name] = fmt.Sprint("value", h.rnd.IntN(3))
		case 3:
			delete(h.values, namespace+" "+name)
			delete(h.found, target)
			delete(h.problems, ref)
		case 4:
			h.problems[ref] = source.Problem{Object: ref, Field: "spec", Message: fmt.Sprint(h.rnd.IntN(3)), Severity: source.Severity(h.rnd.IntN(2)), Reason: source.ReasonConflict}
		case 5:
			var list []v1alpha1.Endpoint
			for i := range h.rnd.IntN(3) {
				list = append(list, v1alpha1.Endpoint{Address: fmt.Sprintf("10.0.0.%d", i), Port: 1 + h.rnd.Int32N(3), Weight: 1})
			}
			h.found[target] = list
		default:
			h.objects[ref] = obj
		}
	}
	var all []source.Object
	for _, obj := range h.objects {
		if h.rnd.IntN(10) == 0 {
			obj = obj.DeepCopyObject().(source.Object) // the same under another pointer
		}
		all = append(all, obj)
	}
	objs := world(h.t, all, h.values)
	for ref, list := range h.found {
		objs.Endpoints[ref] = slices.Clone(list)
	}
	for ref, list := range h.found { // labels that change as endpoints do
		if len(list) > 0 {
			if objs.Namespaces == nil {
				objs.Namespaces = map[string]map[string]string{}
			}
			objs.Namespaces[ref.Namespace] = map[string]string{"tier": fmt.Sprint(len(h.found))}
		}
	}
	var problems []source.Problem
	for _, p := range h.problems {
		problems = append(problems, p)
	}
	return objs, problems
}

// within is what a scope has of a set, by the simplest way to find out: a server of its own that has nobody else.
func within(objs *source.Objects, problems []source.Problem, scope Scope) (*source.Objects, []source.Problem) {
	e := newEncoded()
	e.update(objs, problems, nil)
	var items []*item
	for _, r := range scope.normal().of(e) {
		items = append(items, decode(*r))
	}
	return assemble(items)
}

// TestRandomHistories lets servers, clients and Envoys come, go, refuse and fall silent, in any order: whenever everything stands still and a
// server is there, its clients have what it has.
func TestRandomHistories(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) { randomHistory(t, r, rand.New(rand.NewPCG(seed, 7))) })
		})
	}
}

func randomHistory(t *testing.T, r *rig, rnd *rand.Rand) {
	h := &history{
		t: t, rnd: rnd, objects: map[source.ObjectRef]source.Object{}, values: map[string]string{},
		problems: map[source.ObjectRef]source.Problem{}, found: map[source.ObjectRef][]v1alpha1.Endpoint{},
	}
	scopes := []Scope{{}, {Namespaces: []string{"a", "a.b"}}, {Gateways: []types.NamespacedName{{Namespace: "c", Name: "n1"}}}, {Namespaces: []string{"c"}, Gateways: []types.NamespacedName{{Namespace: "a", Name: "n2"}}}}
	addresses := []string{"control:1", "control:2"}
	servers := map[string]*control{}
	objs, problems := h.next()
	start := func(address string) {
		servers[address] = r.control(address, nil)
		servers[address].Set(objs, problems)
	}
	type member struct {
		*sidecar
		scope Scope
		cache string
	}
	var members []*member
	begin := func(m *member) {
		// Each goroutine has numbers of its own.
		jitter, says := rand.New(rand.NewPCG(rnd.Uint64(), 1)), rand.New(rand.NewPCG(rnd.Uint64(), 2))
		m.sidecar = r.sidecar(func(o *ClientOptions) {
			o.Addresses, o.Node.Scope, o.CacheFile, o.Random = addresses, m.scope, m.cache, func() float64 { return jitter.Float64() }
		}, func(*source.Objects) string { return []string{"", "", "", "refused", "silent"}[says.IntN(5)] })
	}
	for i, scope := range scopes {
		m := &member{scope: scope}
		if i%2 == 0 {
			m.cache = t.TempDir() + "/cache"
		}
		members = append(members, m)
	}
	start(addresses[0])
	for _, m := range members {
		begin(m)
	}
	for range 40 {
		switch rnd.IntN(10) {
		case 0:
			address := addresses[rnd.IntN(2)]
			if s := servers[address]; s != nil {
				s.stop()
				delete(servers, address)
			} else {
				start(address)
			}
		case 1:
			m := members[rnd.IntN(len(members))]
			m.stop()
			begin(m)
		case 2:
			time.Sleep(time.Duration(rnd.IntN(5000)) * time.Millisecond)
		default:
			objs, problems = h.next()
			for _, s := range servers {
				s.Set(objs, problems)
			}
		}
		settle()
		if rnd.IntN(4) != 0 {
			continue
		}
		if len(servers) == 0 {
			start(addresses[0])
		}
		time.Sleep(time.Minute) // reconnected, and tired of waiting for answers
		settle()
		for i, m := range members {
			got, gotProblems, _ := m.got()
			want, wantProblems := within(objs, problems, m.scope)
			if i == 0 {
				requireEqual(t, got, objs)
				requireProblems(t, gotProblems, problems)
			}
			requireEqual(t, got, want)
			requireProblems(t, gotProblems, wantProblems)
			m.Serving(got)
		}
		settle()
		serving := 0
		for _, s := range servers {
			report := s.Report()
			serving += report.Serving[objs.Digest()]
			for digest := range report.Serving {
				if digest != objs.Digest() {
					t.Errorf("a client is said to serve another digest: %+v", report)
				}
			}
		}
		if serving != len(members) {
			t.Errorf("%d of %d clients are said to serve the set", serving, len(members))
		}
	}
	for _, m := range members {
		m.stop()
	}
	for _, s := range servers {
		s.stop()
		if len(s.Report().Serving) != 0 || len(s.views) != 0 {
			t.Error("clients that are gone are remembered")
		}
	}
}
