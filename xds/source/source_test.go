package source

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/weir-dev/weir/api/v1alpha1"
)

func meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "default", Name: name}
}

func TestProblemString(t *testing.T) {
	ref := ObjectRef{Kind: "Route", Namespace: "default", Name: "chat"}
	for _, tc := range []struct {
		p    Problem
		want string
	}{
		{Problem{Object: ref, Field: "spec.rules[0].backends[1].name", Message: "no such Backend", File: "routes.yaml", Line: 14},
			"routes.yaml:14: Route default/chat: spec.rules[0].backends[1].name: no such Backend"},
		{Problem{File: "a.yaml", Message: "too large"}, "a.yaml: too large"},
		{Problem{Object: ref, Message: "odd", Severity: Warning}, "Route default/chat: warning: odd"},
		{Problem{Object: ObjectRef{Kind: "Route"}, Message: "odd"}, "Route: odd"},
		{Problem{Object: ObjectRef{Kind: "Route", Name: "x"}, Message: "odd"}, "Route x: odd"},
	} {
		if got := tc.p.String(); got != tc.want {
			t.Errorf("got  %s\nwant %s", got, tc.want)
		}
	}
}

func TestSortProblems(t *testing.T) {
	sorted := []Problem{
		{File: "a", Line: 2}, {File: "a", Line: 10, Field: "x"}, {File: "a", Line: 10, Field: "y"},
		{File: "b", Line: 1, Object: ObjectRef{Kind: "A"}}, {File: "b", Line: 1, Object: ObjectRef{Kind: "B"}, Message: "m"},
		{File: "b", Line: 1, Object: ObjectRef{Kind: "B"}, Message: "n"},
	}
	mixed := slices.Clone(sorted)
	slices.Reverse(mixed)
	SortProblems(mixed)
	if !slices.Equal(mixed, sorted) {
		t.Errorf("got %v", mixed)
	}
	if HasErrors([]Problem{{Severity: Warning}}) || !HasErrors([]Problem{{Severity: Warning}, {}}) {
		t.Error("HasErrors does not tell errors from warnings")
	}
}

func TestObjectsProblem(t *testing.T) {
	o := NewObjects()
	ref := ObjectRef{Kind: "Route", Namespace: "default", Name: "chat"}
	o.Origins[ref] = NewOrigin("r.yaml", 3, func(path string) int { return map[string]int{"spec": 7}[path] })
	for field, want := range map[string]string{
		"spec":  "r.yaml:7: Route default/chat: spec: no 1",
		"other": "r.yaml:3: Route default/chat: other: no 1",
		"":      "r.yaml:3: Route default/chat: no 1",
	} {
		if got := o.Problem(ref, field, Error, "no %d", 1).String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if got := o.Problem(ObjectRef{Kind: "Backend", Name: "x"}, "f", Error, "m"); got.File != "" || got.Line != 0 {
		t.Errorf("an object without an origin is at %s:%d", got.File, got.Line)
	}
}

// Every kind of the API has a place: a new one cannot be forgotten here.
func TestEveryKindHasAPlace(t *testing.T) {
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
		obj, ok := NewObject(kind)
		if !ok {
			t.Errorf("NewObject does not know %s", kind)
			continue
		}
		o := NewObjects()
		if err := o.Add(obj); err != nil || o.Len() != 1 || len(o.All()) != 1 || RefOf(o.All()[0]).Kind != kind {
			t.Errorf("%s: %v, %d objects", kind, err, o.Len())
		}
		if spec := reflect.TypeOf(specOf(obj)); spec != reflect.TypeOf(obj).Elem().Field(2).Type {
			t.Errorf("the spec of %s is %v", kind, spec)
		}
	}
	if count < 6 {
		t.Errorf("only %d kinds found", count)
	}
	if _, ok := NewObject("Secret"); ok {
		t.Error("NewObject knows Secret")
	}
}

func TestReferences(t *testing.T) {
	ref := func(env string) v1alpha1.SecretRef { return v1alpha1.SecretRef{Env: env} }
	pointer := func(env string) *v1alpha1.SecretRef { r := ref(env); return &r }
	for _, tc := range []struct {
		obj  Object
		want []string
	}{
		{&v1alpha1.Backend{Spec: v1alpha1.BackendSpec{
			Credential: &v1alpha1.BackendCredential{SecretRef: ref("A")}, TLS: &v1alpha1.BackendTLS{CARef: pointer("B")}}},
			[]string{"spec.credential.secretRef A", "spec.tls.caRef B"}},
		{&v1alpha1.LLMGateway{Spec: v1alpha1.LLMGatewaySpec{Listeners: []v1alpha1.Listener{{}, {TLS: &v1alpha1.ListenerTLS{CertificateRef: ref("A"), PrivateKeyRef: ref("B")}}}}},
			[]string{"spec.listeners[1].tls.certificateRef A", "spec.listeners[1].tls.privateKeyRef B"}},
		{&v1alpha1.APIKey{Spec: v1alpha1.APIKeySpec{SecretRef: pointer("A")}}, []string{"spec.secretRef A"}},
		{&v1alpha1.JWTIssuer{Spec: v1alpha1.JWTIssuerSpec{Keys: v1alpha1.JWTKeys{SecretRef: pointer("A")}}}, []string{"spec.keys.secretRef A"}},
		{&v1alpha1.JWTIssuer{Spec: v1alpha1.JWTIssuerSpec{Keys: v1alpha1.JWTKeys{File: "f"}}}, []string{"spec.keys.file f"}},
		{&v1alpha1.Route{}, nil},
		{&v1alpha1.Consumer{}, nil},
	} {
		var got []string
		for _, r := range References(tc.obj) {
			if r.File != nil {
				got = append(got, r.Field+" "+*r.File)
				*r.File = "changed"
			} else {
				got = append(got, r.Field+" "+r.Ref.Env)
				r.Ref.Env = "CHANGED"
			}
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%T: got %q, want %q", tc.obj, got, tc.want)
		}
		for _, r := range References(tc.obj) {
			if r.File != nil && *r.File != "changed" || r.Ref != nil && r.Ref.Env != "CHANGED" {
				t.Errorf("%T: %s is a copy, not the reference inside the object", tc.obj, r.Field)
			}
		}
	}
}

func TestSecretKey(t *testing.T) {
	key := SecretKeyOf
	if key("a", v1alpha1.SecretRef{Name: "n", Key: "k"}) == key("b", v1alpha1.SecretRef{Name: "n", Key: "k"}) {
		t.Error("Secrets of two namespaces share a key")
	}
	if key("a", v1alpha1.SecretRef{Name: "n", Key: "k", Namespace: "b"}) != key("b", v1alpha1.SecretRef{Name: "n", Key: "k"}) {
		t.Error("the namespace of the reference does not count")
	}
	if ref, of, ok := key("a", v1alpha1.SecretRef{Name: "n", Key: "k", Namespace: "b"}).SecretOf(); !ok || of != "k" || ref != (ObjectRef{"Secret", "b", "n"}) {
		t.Errorf("it is of %v, %s, %v", ref, of, ok)
	}
	if _, _, ok := FileKeyOf("f").SecretOf(); ok {
		t.Error("a file is a Kubernetes Secret")
	}
	if key("a", v1alpha1.SecretRef{Name: "n", Key: "k"}) == key("a", v1alpha1.SecretRef{Name: "n", Key: "l"}) {
		t.Error("two keys of one Secret share a key")
	}
	// Files and variables are the process's, and a defaulted key does not concern them.
	if key("a", v1alpha1.SecretRef{Env: "E", Key: "value"}) != key("b", v1alpha1.SecretRef{Env: "E"}) {
		t.Error("one variable has two keys")
	}
	if key("a", v1alpha1.SecretRef{File: "f", Key: "value"}) != FileKeyOf("f") || FileKeyOf("f") == key("a", v1alpha1.SecretRef{Env: "f"}) {
		t.Error("file keys are wrong")
	}
	for k, want := range map[SecretKey]string{
		key("a", v1alpha1.SecretRef{Name: "n", Key: "k"}): "Secret a/n, key k", FileKeyOf("f"): "file f", key("", v1alpha1.SecretRef{Env: "E"}): "environment variable E",
	} {
		if k.String() != want {
			t.Errorf("got %s, want %s", k, want)
		}
	}
}

func TestSecretIsNeverPrinted(t *testing.T) {
	type hidden struct{ s Secret }
	s := NewSecret("hunter2")
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", s, "in", map[string]any{"a": s})
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", s, "in", hidden{s})
	asJSON, err := json.Marshal(map[string]any{"a": s, "b": &s, "c": []Secret{s}})
	if err != nil {
		t.Fatal(err)
	}
	asYAML, err := yaml.Marshal(map[string]any{"a": s})
	if err != nil {
		t.Fatal(err)
	}
	for _, printed := range []string{
		log.String(), string(asJSON), string(asYAML), s.String(), s.GoString(), fmt.Sprint(s), fmt.Errorf("bad: %w", fmt.Errorf("%v", s)).Error(),
		fmt.Sprintf("%v %+v %#v %s %q %x %X %d %T", s, s, s, s, s, s, s, s, s),
		fmt.Sprintf("%v %+v %#v", &s, []Secret{s}, map[SecretKey]Secret{{}: s}),
		fmt.Sprintf("%v %+v %#v", hidden{s}, hidden{s}, hidden{s}),
		fmt.Sprintf("%v %+v %#v", &Objects{Secrets: map[SecretKey]Secret{{}: s}}, Objects{Secrets: map[SecretKey]Secret{{}: s}}, []any{s}),
	} {
		for _, part := range []string{"hunter2", fmt.Sprintf("%x", "hunter2"), fmt.Sprintf("%X", "hunter2"), fmt.Sprintf("%v", []byte("hunter2"))} {
			if strings.Contains(printed, part) {
				t.Errorf("prints the secret: %s", printed)
			}
		}
	}
	if s.Reveal() != "hunter2" || (Secret{}).Reveal() != "" || !s.Equal(NewSecret("hunter2")) || s.Equal(Secret{}) {
		t.Error("the value is lost")
	}
}

func TestHash(t *testing.T) {
	build := func(change func(*Objects)) string {
		o := NewObjects()
		o.Routes = []*v1alpha1.Route{{ObjectMeta: meta("b")}, {ObjectMeta: meta("a")}}
		o.Backends = []*v1alpha1.Backend{{ObjectMeta: meta("a"), Spec: v1alpha1.BackendSpec{Dialect: "openai"}}}
		o.Secrets[FileKeyOf("f")] = NewSecret("one")
		o.Secrets[FileKeyOf("g")] = NewSecret("two")
		change(o)
		before := fmt.Sprint(o.Routes[0].Name)
		h, err := o.Hash()
		if err != nil || len(h) != 64 {
			t.Fatalf("%q, %v", h, err)
		}
		if fmt.Sprint(o.Routes[0].Name) != before {
			t.Error("Hash changed the order of the objects")
		}
		return h
	}
	base := build(func(*Objects) {})
	for name, change := range map[string]func(*Objects){
		"order":   func(o *Objects) { slices.Reverse(o.Routes) },
		"status":  func(o *Objects) { o.Routes[0].Status.ObservedGeneration = 3 },
		"version": func(o *Objects) { o.Routes[0].ResourceVersion = "3" },
		"origins": func(o *Objects) { o.Origins[ObjectRef{Kind: "Route"}] = NewOrigin("x", 1, nil) },
	} {
		if build(change) != base {
			t.Errorf("another %s changes the hash", name)
		}
	}
	seen := map[string]string{base: "nothing"}
	for name, change := range map[string]func(*Objects){
		"spec":         func(o *Objects) { o.Backends[0].Spec.Dialect = "anthropic" },
		"name":         func(o *Objects) { o.Backends[0].Name = "c" },
		"kind":         func(o *Objects) { o.Routes = o.Routes[:1] },
		"labels":       func(o *Objects) { o.Routes[0].Labels = map[string]string{"a": "b"} },
		"annotations":  func(o *Objects) { o.Routes[0].Annotations = map[string]string{"a": "b"} },
		"age":          func(o *Objects) { o.Routes[0].CreationTimestamp = metav1.NewTime(time.Unix(1, 0)) },
		"secret":       func(o *Objects) { o.Secrets[FileKeyOf("f")] = NewSecret("three") },
		"secret place": func(o *Objects) { o.Secrets[FileKeyOf("h")] = NewSecret("") },
		"grant":        func(o *Objects) { o.ReferenceGrants = []*v1alpha1.ReferenceGrant{{ObjectMeta: meta("a")}} },
		"no server":    func(o *Objects) { o.Endpoints[RefOf(o.Backends[0])] = nil },
		"a server": func(o *Objects) {
			o.Endpoints[RefOf(o.Backends[0])] = []v1alpha1.Endpoint{{Address: "10.0.0.1", Port: 80, Weight: 1}}
		},
		"a weight": func(o *Objects) {
			o.Endpoints[RefOf(o.Backends[0])] = []v1alpha1.Endpoint{{Address: "10.0.0.1", Port: 80, Weight: 2}}
		},
		"servers of another": func(o *Objects) {
			o.Endpoints[RefOf(o.Routes[0])] = []v1alpha1.Endpoint{{Address: "10.0.0.1", Port: 80, Weight: 1}}
		},
		"swapped": func(o *Objects) {
			o.Secrets[FileKeyOf("f")], o.Secrets[FileKeyOf("g")] = NewSecret("two"), NewSecret("one")
		},
	} {
		h := build(change)
		if other, double := seen[h]; double {
			t.Errorf("%s and %s have one hash", name, other)
		}
		seen[h] = name
	}
}

func TestSort(t *testing.T) {
	o := NewObjects()
	for _, n := range []string{"b/a", "a/b", "a/a"} {
		ns, name, _ := strings.Cut(n, "/")
		o.Consumers = append(o.Consumers, &v1alpha1.Consumer{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}})
	}
	o.Sort()
	var got []string
	for _, obj := range o.All() {
		got = append(got, RefOf(obj).String())
	}
	if want := []string{"Consumer a/a", "Consumer a/b", "Consumer b/a"}; !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}
