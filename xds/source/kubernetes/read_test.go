package kubernetes

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/weir-dev/weir/api/schema"
	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
)

func object(t testing.TB, document string) *unstructured.Unstructured {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(document))
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(raw); err != nil {
		t.Fatal(err)
	}
	return u
}

func newReader(t testing.TB) reader {
	t.Helper()
	v, err := schema.New()
	if err != nil {
		t.Fatal(err)
	}
	return reader{v}
}

const metadata = "{name: a, namespace: ns, uid: u-1, generation: 3, resourceVersion: '7', creationTimestamp: '2026-01-02T03:04:05Z', managedFields: [{manager: x}]," +
	" annotations: {kubectl.kubernetes.io/last-applied-configuration: '{}'}, finalizers: [x.y/z]}"

// The schema of the cluster may be another one than that of the binary.
func TestRead(t *testing.T) {
	r := newReader(t)
	for _, tc := range []struct {
		name, spec string
		valid      bool
		said       string
	}{
		{"valid", "{tenant: t}", true, ""},
		{"a newer field", "{tenant: t, plan: gold}", true,
			"Consumer ns/a: spec.plan: warning: this version of Weir does not know the field, and goes on without it: the cluster's CustomResourceDefinition is of another version [Unsupported]\n"},
		{"not valid any more", "{tenant: ''}", false,
			"Consumer ns/a: spec.tenant: invalid value: \"\": should "},
		{"of another type", "{tenant: 7, plan: gold}", false, "Consumer ns/a: spec.tenant: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rec := r.read(object(t, "{apiVersion: weir.dev/v1alpha1, kind: Consumer, metadata: "+metadata+", spec: "+tc.spec+", status: {observedGeneration: 3}}"), nil, false)
			if got := (snapshot{problems: rec.problems}).said(); !strings.Contains(got, tc.said) || (tc.said == "") != (got == "") {
				t.Errorf("problems are %swant %s", got, tc.said)
			}
			if rec.object == nil || source.HasErrors(rec.problems) == tc.valid || rec.ref != (source.ObjectRef{Kind: "Consumer", Namespace: "ns", Name: "a"}) {
				t.Fatalf("the object of %s is %v", rec.ref, rec.object)
			}
			if got := rec.object.(*v1alpha1.Consumer); got.UID != "u-1" || got.Generation != 3 {
				t.Errorf("the object is %+v", got)
			}
			if tc.valid {
				got := rec.object.(*v1alpha1.Consumer)
				if got.UID != "u-1" || got.Generation != 3 || got.CreationTimestamp.IsZero() || got.Annotations != nil || got.Finalizers != nil || got.ManagedFields != nil ||
					got.Status.ObservedGeneration != 0 || got.Spec.Tenant != "t" {
					t.Errorf("the object is %+v", got)
				}
			}
		})
	}
}

// Of an object that this Weir does not understand as much is read as it does: it has a status, its servers go on being found, and a policy says
// whom it limits.
func TestReadWhatCanBeRead(t *testing.T) {
	r := newReader(t)
	read := func(kind, spec string) *record {
		t.Helper()
		rec := r.read(object(t, "{apiVersion: weir.dev/v1alpha1, kind: "+kind+", metadata: "+metadata+", spec: "+spec+"}"), nil, false)
		if !source.HasErrors(rec.problems) {
			t.Fatalf("%s is valid", kind)
		}
		if rec.object == nil || rec.object.GetUID() != "u-1" || rec.problems[0].UID != "u-1" {
			t.Fatalf("%s: %v, %v", kind, rec.object, rec.problems)
		}
		return rec
	}
	const targets = "targetRefs: [{kind: Tenant, name: red}, {kind: Planet, name: mars}, {kind: 7}, {kind: APIKey, name: k}]"
	want := []v1alpha1.PolicyTarget{{Kind: v1alpha1.TargetTenant, Name: "red"}, {Kind: v1alpha1.TargetAPIKey, Name: "k"}}
	for _, limits := range []string{"[{name: a, unit: Images, limit: 1}, {name: b, unit: Requests, limit: 1, window: 1m}]", "[{name: 7}, {name: b}]", "[a, b]"} {
		limit := read("LimitPolicy", "{"+targets+", mode: Shadow, limits: "+limits+"}").object.(*v1alpha1.LimitPolicy)
		if !slices.Equal(limit.Spec.TargetRefs, want) || limit.Spec.Mode != v1alpha1.ModeShadow || len(limit.Spec.Limits) != 2 {
			t.Errorf("of %s is read: %+v", limits, limit.Spec)
		}
	}
	if budget := read("Budget", "{"+targets+", amount: {}, period: Decade, models: [m, 7]}").object.(*v1alpha1.Budget); !slices.Equal(budget.Spec.TargetRefs, want) || budget.Spec.Models != nil {
		t.Errorf("the Budget is %+v", budget.Spec)
	}
	backend := read("Backend", "{dialect: 7, service: {name: pool, port: 80}, credential: {secretRef: {name: s, key: k}}}")
	if _, discovered := backend.discovered(); !discovered || len(backend.references) != 1 {
		t.Errorf("the Backend is %+v", backend.object)
	}
	if rec := r.read(object(t, "{apiVersion: weir.dev/v1alpha1, kind: Budget, metadata: "+metadata+", spec: [a]}"), nil, false); rec.object == nil || !source.HasErrors(rec.problems) {
		t.Errorf("%v, %v", rec.object, rec.problems)
	}
}

// Whatever differs that matters makes another record, and nothing else does.
func TestReadAgain(t *testing.T) {
	r := newReader(t)
	document := func(uid, generation, metadata, rest string) *unstructured.Unstructured {
		return object(t, "{apiVersion: weir.dev/v1alpha1, kind: Consumer, metadata: {name: a, namespace: ns, uid: "+uid+", generation: "+generation+metadata+"}"+rest+"}")
	}
	first := r.read(document("u-1", "1", "", ", spec: {tenant: t}"), nil, false)
	if first.object == nil {
		t.Fatal(first.problems)
	}
	for _, tc := range []struct {
		uid, generation, metadata, rest string
		same                            bool
	}{
		{"u-1", "1", "", ", spec: {tenant: t}", true},
		{"u-1", "1", ", resourceVersion: '9', managedFields: [{manager: x}]", ", spec: {tenant: t}, status: {observedGeneration: 1}", true},
		{"u-1", "1", ", annotations: {kubectl.kubernetes.io/last-applied-configuration: '{}'}", ", spec: {tenant: t}", true},
		{"u-1", "1", "", ", spec: {tenant: u}", false},
		{"u-1", "1", ", labels: {a: b}", ", spec: {tenant: t}", false},
		{"u-1", "1", ", annotations: {a: b}", ", spec: {tenant: t}", false},
		{"u-2", "1", "", ", spec: {tenant: t}", false},
		{"u-1", "2", "", ", spec: {tenant: t}", false},
	} {
		got := r.read(document(tc.uid, tc.generation, tc.metadata, tc.rest), first, true)
		if (got == first) != tc.same || sameRecord(got, first) != tc.same || got.object == nil {
			t.Errorf("%+v: same is %v", tc, got == first)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, seed := range []string{
		`{"apiVersion":"weir.dev/v1alpha1","kind":"Consumer","metadata":{"name":"a","namespace":"ns"},"spec":{"tenant":"t"}}`,
		`{"apiVersion":"weir.dev/v1alpha1","kind":"Backend","metadata":{"name":"a","annotations":{"kubectl.kubernetes.io/last-applied-configuration":1}},"spec":{"service":{"name":"x","port":"http"}}}`,
		`{"apiVersion":"v1","kind":"Secret","metadata":7,"data":{"a":"Zm9v","b":"?","c":3}}`,
		`{"apiVersion":"v1","kind":"Service","spec":{"ports":[{"name":"http","port":80,"targetPort":"x"}],"ipFamilies":["IPv6"]}}`,
		`{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4","ports":[{}],"endpoints":[{"addresses":[]},{"addresses":["10.0.0.1"],"conditions":{"ready":null}}]}`,
		`{"apiVersion":"v1","kind":"Pod","metadata":{"deletionTimestamp":"2026-01-02T03:04:05Z"},"spec":{"containers":[{"ports":[{"name":"a","containerPort":1}]}]},"status":{"podIP":"::1","conditions":[{"type":"Ready","status":"True"}]}}`,
		`{"apiVersion":"x/v1","kind":"InferencePool","spec":{"selector":{"matchLabels":{"a":"b"}},"targetPorts":[{"number":80}]}}`,
		`{"apiVersion":"x/v1","kind":"InferencePool","spec":{"selector":{"a":1},"targetPorts":[7],"targetPortNumber":1e9}}`,
		`{"apiVersion":"x/v1","kind":"InferencePool","spec":[]}`,
	} {
		f.Add([]byte(seed))
	}
	r := newReader(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		u := &unstructured.Unstructured{}
		if u.UnmarshalJSON(raw) != nil {
			return
		}
		readSecret(u, nil, false)
		readService(u, serviceInfo{}, false)
		for _, s := range readSlice(u, sliceInfo{}, false).servers {
			if s.address == "" && s.ready && s.serving {
				t.Error("a server is ready and ends")
			}
		}
		readPod(u, podInfo{}, false)
		if p := readPool(u, poolInfo{}, false); p.port < 0 || p.port > 65535 {
			t.Errorf("port %d", p.port)
		}
		rec := r.read(u, nil, false)
		if rec.object == nil && !source.HasErrors(rec.problems) {
			t.Error("nothing was read, and nothing is wrong")
		}
		raw, err := json.Marshal(u)
		if err != nil {
			t.Fatal(err)
		}
		again := &unstructured.Unstructured{}
		if again.UnmarshalJSON(raw) == nil && r.read(again, rec, true) != rec {
			t.Error("the same object is another one")
		}
	})
}

func TestUsable(t *testing.T) {
	ready := func(id, address string) server { return server{id: id, address: address, port: 80, ready: true} }
	ends := func(id, address string) server { return server{id: id, address: address, port: 80, serving: true} }
	other := func(s server) server { s.otherFamily = true; return s }
	for _, tc := range []struct {
		name    string
		servers []server
		want    string
	}{
		{"none", nil, "[]"},
		{"sorted", []server{ready("", "b"), ready("", "a")}, "[a:80 b:80]"},
		{"doubles", []server{ready("", "a"), ready("", "a"), ready("x", "a")}, "[a:80]"},
		{"two ways to one", []server{other(ready("x", "::1")), ready("x", "a"), ready("y", "b")}, "[a:80 b:80]"},
		{"the other family alone", []server{other(ready("x", "::1")), ready("y", "b")}, "[::1:80 b:80]"},
		{"ending ones are not asked", []server{ends("x", "a"), ready("y", "b")}, "[b:80]"},
		{"unless there are no others", []server{ends("x", "a"), {address: "c", port: 80}}, "[a:80]"},
		{"no port, no address", []server{{address: "a", ready: true}, {port: 1, ready: true}}, "[]"},
	} {
		for range 4 { // the order does not matter
			rand.Shuffle(len(tc.servers), func(i, j int) { tc.servers[i], tc.servers[j] = tc.servers[j], tc.servers[i] })
			var got []string
			for _, e := range usable(tc.servers) {
				got = append(got, fmt.Sprintf("%s:%d", e.Address, e.Port))
				if e.Weight != 1 {
					t.Errorf("%s: weight %d", tc.name, e.Weight)
				}
			}
			if fmt.Sprint(got) != tc.want {
				t.Errorf("%s: got %v, want %s", tc.name, got, tc.want)
			}
		}
	}
}

// A collection is what a map would be, in order, whatever comes and goes.
func TestCollection(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	c, want := &collection{}, map[source.ObjectRef]*record{}
	for range 300 {
		before := slices.Clone(c.records)
		given := c.records
		changes := map[source.ObjectRef]*record{}
		for range random.IntN(2 * few) {
			ref := source.ObjectRef{Kind: "Route", Namespace: fmt.Sprint("n", random.IntN(3)), Name: fmt.Sprint("r", random.IntN(200))}
			changes[ref] = nil
			if delete(want, ref); random.IntN(3) > 0 {
				changes[ref] = &record{ref: ref}
				want[ref] = changes[ref]
			}
		}
		c.apply(changes)
		if !slices.Equal(given, before) {
			t.Fatal("what was handed on has changed")
		}
		sorted := slices.SortedFunc(maps.Values(want), func(a, b *record) int { return compareNames(a.ref, b.ref) })
		if !slices.Equal(c.records, sorted) {
			t.Fatalf("%d records, want %d", len(c.records), len(sorted))
		}
	}
}

// Every kind of the API is read.
func TestEveryKindIsRead(t *testing.T) {
	v, err := schema.New()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range v.Kinds() {
		obj, ok := source.NewObject(k.Kind)
		if !ok || !slices.ContainsFunc(kinds, func(x struct{ kind, resource string }) bool { return x.kind == k.Kind }) {
			t.Errorf("%s is not read", k.Kind)
			continue
		}
		var o source.Objects
		if setKind(&o, k.Kind, &collection{records: []*record{{object: obj}}}); o.Len() != 1 || o.All()[0] != obj {
			t.Errorf("%s has no place", k.Kind)
		}
	}
}
