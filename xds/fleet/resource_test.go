package fleet

import (
	"bytes"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
)

func gateways(names ...string) []types.NamespacedName {
	var out []types.NamespacedName
	for _, n := range names {
		namespace, name, _ := strings.Cut(n, "/")
		out = append(out, types.NamespacedName{Namespace: namespace, Name: name})
	}
	return out
}

// response is what a server sends to who has nothing.
func response(t testing.TB, objs *source.Objects, problems []source.Problem) *discoveryv3.DeltaDiscoveryResponse {
	t.Helper()
	e := newEncoded()
	e.update(objs, problems, nil)
	m := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: TypeURL, Nonce: "1"}
	for _, r := range e.all() {
		m.Resources = append(m.Resources, r.message())
	}
	return m
}

// Every kind of the API travels, with all that Hash and Digest look at.
func TestEveryKindTravels(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	count := 0
	for kind, typ := range scheme.KnownTypes(v1alpha1.GroupVersion) {
		if strings.HasSuffix(kind, "List") || typ.PkgPath() != reflect.TypeFor[v1alpha1.Route]().PkgPath() {
			continue
		}
		count++
		obj, ok := source.NewObject(kind)
		if !ok {
			t.Fatalf("no kind %s", kind)
		}
		obj.SetName("x.y")
		obj.SetNamespace("a-b")
		obj.SetUID("u")
		obj.SetGeneration(7)
		obj.SetLabels(map[string]string{"a": "b"})
		obj.SetAnnotations(map[string]string{"c": "<d>"})
		obj.SetCreationTimestamp(metav1.NewTime(time.Unix(1e9, 0)))
		want := world(t, []source.Object{obj}, nil)
		got := (*set)(nil).with(response(t, want, nil))
		requireEqual(t, got.objs, want)
		requireProblems(t, got.problems, nil)
	}
	if count < 10 {
		t.Errorf("only %d kinds were found", count)
	}
}

func TestValuesTravel(t *testing.T) {
	want := source.NewObjects()
	for key, value := range map[source.SecretKey]string{
		source.SecretKeyOf("a", v1alpha1.SecretRef{Name: "n", Key: "k"}):   "one",
		source.SecretKeyOf("a", v1alpha1.SecretRef{Name: "n", Key: "l"}):   "",
		source.SecretKeyOf("", v1alpha1.SecretRef{Env: "HOME"}):            "three",
		source.FileKeyOf("keys/x.pem"):                                     "\x00\xff not UTF-8",
		source.SecretKeyOf("a/b", v1alpha1.SecretRef{Name: "n", Key: "k"}): strings.Repeat("long", 1000),
	} {
		want.Secrets[key] = source.NewSecret(value)
	}
	sent := response(t, want, nil)
	requireEqual(t, (*set)(nil).with(sent).objs, want)
	plain, err := proto.Marshal(sent)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(plain, []byte("three")) || bytes.Contains(plain, []byte("longlong")) {
		t.Error("a value is not masked")
	}
	// The same value has the same version and another mask each time.
	again := response(t, want, nil)
	for _, a := range sent.Resources {
		i := slices.IndexFunc(again.Resources, func(b *discoveryv3.Resource) bool { return a.Name == b.Name })
		if i < 0 || again.Resources[i].Version != a.Version {
			t.Fatalf("%s has another version", a.Name)
		}
		if key := string(a.Resource.Value); strings.Contains(key, `"env"`) && bytes.Equal(again.Resources[i].Resource.Value, a.Resource.Value) {
			t.Error("a mask was used twice")
		}
	}
}

// A newer control plane may send what this version does not know.
func TestUnknownThings(t *testing.T) {
	object := func(name, body string) *discoveryv3.Resource {
		return &discoveryv3.Resource{Name: name, Version: "1", Resource: &anypb.Any{TypeUrl: TypeURL, Value: []byte(body)}}
	}
	for name, tc := range map[string]struct {
		resource *discoveryv3.Resource
		severity source.Severity
		object   source.ObjectRef
		text     string
		objects  int
	}{
		"field": {object("Consumer/a/x", `{"metadata":{"name":"x","namespace":"a"},"spec":{"shoeSize":44}}`), source.Warning,
			source.ObjectRef{Kind: "Consumer", Namespace: "a", Name: "x"}, "spec.shoeSize: warning: this version of Weir does not know the field", 1},
		"kind":      {object("Shoe/a/x", `{}`), source.Warning, source.ObjectRef{Kind: "Shoe", Namespace: "a", Name: "x"}, "the kind Shoe is unknown", 0},
		"form":      {object("Shoes", `{}`), source.Warning, source.ObjectRef{}, `nothing is known of resources such as "Shoes"`, 0},
		"body":      {object("Route/a/x", `{"spec":"hunter2"}`), source.Error, source.ObjectRef{Kind: "Route", Namespace: "a", Name: "x"}, "it is no Route", 0},
		"no JSON":   {object("Route/a/x", `hunter2`), source.Error, source.ObjectRef{Kind: "Route", Namespace: "a", Name: "x"}, "it is no Route", 0},
		"name":      {object("Route/a/x", `{"metadata":{"name":"y","namespace":"a"}}`), source.Error, source.ObjectRef{Kind: "Route", Namespace: "a", Name: "x"}, "has another name inside", 0},
		"escape":    {object("Route/%zz/x", `{}`), source.Warning, source.ObjectRef{}, "broken escape", 0},
		"two names": {object("Consumer/%61/x", `{"metadata":{"name":"x","namespace":"a"}}`), source.Warning, source.ObjectRef{}, "not in the form of names", 0},
		"value":     {object("Value/abc", `{"masked":"aHVudGVyMg=="}`), source.Warning, source.ObjectRef{}, "a value is not in the form of values", 0},
		"endpoints": {object("Endpoints/a/x", `"hunter2"`), source.Warning, source.ObjectRef{Kind: "Endpoints", Namespace: "a", Name: "x"}, "the endpoints of Backend a/x are none", 0},
		"labels":    {object("NamespaceLabels/a", `"hunter2"`), source.Warning, source.ObjectRef{}, "the labels of the namespace a are none", 0},
		"problems":  {object("Problems/Route/a/x", `[]`), source.Warning, source.ObjectRef{}, "not in the form of problems", 0},
		"severity":  {object("Problems/Route/a/x", `{"problems":[{"message":"m","severity":9}]}`), source.Warning, source.ObjectRef{}, "severity 9", 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := (*set)(nil).with(&discoveryv3.DeltaDiscoveryResponse{Resources: []*discoveryv3.Resource{tc.resource, object("Consumer/b/y", `{"metadata":{"name":"y","namespace":"b"}}`)}})
			if len(s.problems) != 1 || s.problems[0].Severity != tc.severity || s.problems[0].Object != tc.object || !strings.Contains(s.problems[0].String(), tc.text) {
				t.Errorf("the problems are %v", s.problems)
			}
			if s.objs.Len() != tc.objects+1 {
				t.Errorf("%d objects", s.objs.Len())
			}
			if strings.Contains(s.problems[0].String(), "hunter2") {
				t.Error("what could be a secret is in the message")
			}
		})
	}
}

func TestScope(t *testing.T) {
	permitted := v1alpha1.RouteBackend{Name: "shared", Namespace: "c"}
	limit := func(namespace, name, target string) *v1alpha1.LimitPolicy {
		return &v1alpha1.LimitPolicy{ObjectMeta: meta(namespace, name, 1), Spec: v1alpha1.LimitPolicySpec{TargetRefs: []v1alpha1.PolicyTarget{{Kind: v1alpha1.TargetGateway, Name: target}}}}
	}
	load := func(namespace, name, target string) *v1alpha1.LoadPolicy {
		return &v1alpha1.LoadPolicy{ObjectMeta: meta(namespace, name, 1), Spec: v1alpha1.LoadPolicySpec{TargetRefs: []v1alpha1.LoadPolicyTarget{{Kind: v1alpha1.LoadTargetBackend, Name: v1alpha1.ObjectName(target)}}}}
	}
	objs := world(t, []source.Object{
		gateway("a", "g1"), gateway("a", "g2"), gateway("b", "g3"),
		route("a", "r", 1, permitted, v1alpha1.RouteBackend{Name: "own"}, v1alpha1.RouteBackend{Name: "missing"}), route("b", "r", 1, v1alpha1.RouteBackend{Name: "own"}),
		backend("a", "own", 1), backend("b", "own", 1), backend("c", "shared", 1), backend("c", "private", 1),
		limit("a", "one", "g1"), limit("a", "two", "g2"), limit("b", "three", "g3"),
		load("c", "shared", "shared"), load("c", "private", "private"),
		&v1alpha1.ReferenceGrant{ObjectMeta: meta("c", "for-a", 1), Spec: v1alpha1.ReferenceGrantSpec{From: []v1alpha1.ReferenceGrantFrom{{Kind: "Route", Namespace: "a"}}}},
		&v1alpha1.ReferenceGrant{ObjectMeta: meta("c", "for-b", 1), Spec: v1alpha1.ReferenceGrantSpec{From: []v1alpha1.ReferenceGrantFrom{{Kind: "Route", Namespace: "b"}}}},
	}, map[string]string{"a own": "1", "b own": "2", "c shared": "3", "c private": "4"})
	for _, name := range []string{"shared", "private"} {
		objs.Endpoints[source.ObjectRef{Kind: "Backend", Namespace: "c", Name: name}] = []v1alpha1.Endpoint{{Address: "10.0.0.1", Port: 1}}
	}
	objs.Namespaces = map[string]map[string]string{"a": {"tier": "gold"}, "b": {}}
	problems := []source.Problem{
		{Object: source.ObjectRef{Kind: "Backend", Namespace: "c", Name: "shared"}, Message: "shared"},
		{Object: source.ObjectRef{Kind: "Backend", Namespace: "c", Name: "private"}, Message: "private"},
		{Object: source.ObjectRef{Kind: "Route", Namespace: "a", Name: "unreadable"}, Message: "unreadable"},
		{Message: "all"},
	}
	for name, tc := range map[string]struct {
		scope     Scope
		objects   []string
		values    []string
		endpoints int
		problems  []string
	}{
		"one namespace": {
			Scope{Namespaces: []string{"a"}},
			[]string{"Backend a/own", "Backend c/shared", "LLMGateway a/g1", "LLMGateway a/g2", "LimitPolicy a/one", "LimitPolicy a/two", "LoadPolicy c/shared", "ReferenceGrant c/for-a", "Route a/r"},
			[]string{"1", "3"}, 1, []string{"all", "shared", "unreadable"},
		},
		"one gateway of it": {
			Scope{Namespaces: []string{"a", "a"}, Gateways: gateways("a/g1")},
			[]string{"Backend a/own", "Backend c/shared", "LLMGateway a/g1", "LimitPolicy a/one", "LoadPolicy c/shared", "ReferenceGrant c/for-a", "Route a/r"},
			[]string{"1", "3"}, 1, []string{"all", "shared", "unreadable"},
		},
		"a gateway of elsewhere": {
			Scope{Namespaces: []string{"b"}, Gateways: gateways("a/g2")},
			[]string{"Backend b/own", "LLMGateway a/g2", "ReferenceGrant c/for-a", "ReferenceGrant c/for-b", "Route b/r"},
			[]string{"2"}, 0, []string{"all"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, gotProblems := within(objs, problems, tc.scope)
			var objects, values, messages []string
			for _, o := range got.All() {
				objects = append(objects, source.RefOf(o).String())
			}
			for _, s := range got.Secrets {
				values = append(values, s.Reveal())
			}
			for _, p := range gotProblems {
				messages = append(messages, p.Message)
			}
			slices.Sort(objects)
			slices.Sort(values)
			slices.Sort(messages)
			if namespace := tc.scope.Namespaces[0]; len(got.Namespaces) != 1 || !maps.Equal(got.Namespaces[namespace], objs.Namespaces[namespace]) {
				t.Errorf("got labels %v", got.Namespaces)
			}
			if !slices.Equal(objects, tc.objects) || !slices.Equal(values, tc.values) || len(got.Endpoints) != tc.endpoints || !slices.Equal(messages, tc.problems) {
				t.Errorf("got %q, values %q, endpoints %v, problems %q", objects, values, got.Endpoints, messages)
			}
		})
	}
	if all := (Scope{}).normal().of(func() *encoded { e := newEncoded(); e.update(objs, problems, nil); return e }()); len(all) != objs.Len()+4+2+2+4 {
		t.Errorf("%d resources without a scope", len(all))
	}
}

func FuzzResponse(f *testing.F) {
	objs := source.NewObjects()
	objs.Backends = []*v1alpha1.Backend{backend("a", "x", 1)}
	objs.Secrets[source.FileKeyOf("f")] = source.NewSecret("v")
	objs.Endpoints[source.ObjectRef{Kind: "Backend", Namespace: "a", Name: "x"}] = []v1alpha1.Endpoint{{Address: "10.0.0.1", Port: 1}}
	seed := response(f, objs, []source.Problem{{Message: "m"}})
	for _, r := range seed.Resources {
		f.Add(r.Name, r.Resource.Value, "Backend/a/x")
	}
	f.Add("Problems///", []byte(`{"problems":[{"severity":1}]}`), "Value/x")
	f.Add("Route/%2F/%", []byte(`null`), "")
	before := (*set)(nil).with(seed)
	f.Fuzz(func(t *testing.T, name string, body []byte, removed string) {
		m := &discoveryv3.DeltaDiscoveryResponse{RemovedResources: []string{removed}, Resources: []*discoveryv3.Resource{
			{Name: name, Version: "v", Resource: &anypb.Any{Value: body}},
		}}
		s := before.with(m)
		if _, err := s.objs.Hash(); err != nil {
			t.Fatal(err)
		}
		if !slices.IsSortedFunc(s.items, func(a, b *item) int { return strings.Compare(a.name, b.name) }) {
			t.Error("the items are not sorted")
		}
		if removed != name && s.versions()[removed] != "" {
			t.Errorf("%q was removed, and is there", removed)
		}
		if s.versions()[name] != "v" {
			t.Errorf("%q was sent, and is not there", name)
		}
		// What was put in is taken out again without a trace.
		back := s.with(&discoveryv3.DeltaDiscoveryResponse{RemovedResources: []string{name}, Resources: seed.Resources})
		if name != removed && !slices.ContainsFunc(seed.Resources, func(r *discoveryv3.Resource) bool { return r.Name == name }) {
			a, err := back.objs.Hash()
			if err != nil {
				t.Fatal(err)
			}
			if b, err := before.objs.Hash(); err != nil || a != b {
				t.Error("something has stayed")
			}
		}
	})
}

func FuzzCacheFile(f *testing.F) {
	ca := newAuthority(f)
	s := (*set)(nil).with(response(f, world(f, []source.Object{backend("a", "x", 1)}, nil), nil))
	whole, err := seal(s, Scope{}, ca.key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:headSize])
	f.Add([]byte(cacheMagic))
	f.Add(bytes.Repeat([]byte{0}, 200))
	f.Fuzz(func(t *testing.T, content []byte) {
		got, err := unseal(content, Scope{}, ca.key)
		if (err == nil) != bytes.Equal(content, whole) || (err == nil) != (got != nil) {
			t.Errorf("%d bytes: %v, %v", len(content), got, err)
		}
	})
}
