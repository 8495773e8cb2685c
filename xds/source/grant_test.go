package source

import (
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-dev/weir/api/v1alpha1"
)

func grant(namespace string, spec v1alpha1.ReferenceGrantSpec) *v1alpha1.ReferenceGrant {
	g := &v1alpha1.ReferenceGrant{Spec: spec}
	g.Namespace, g.Name = namespace, "g"
	return g
}

// TestGrants has who may refer to what.
func TestGrants(t *testing.T) {
	o := NewObjects()
	o.ReferenceGrants = append(o.ReferenceGrants,
		grant("b", v1alpha1.ReferenceGrantSpec{
			From: []v1alpha1.ReferenceGrantFrom{{Kind: "Route", Namespace: "a"}, {Kind: "Backend", Namespace: "c"}},
			To:   []v1alpha1.ReferenceGrantTo{{Kind: "Backend", Name: "x"}, {Kind: "Secret"}},
		}),
		grant("b", v1alpha1.ReferenceGrantSpec{
			From: []v1alpha1.ReferenceGrantFrom{{Kind: "Route", Namespace: "a"}},
			To:   []v1alpha1.ReferenceGrantTo{{Kind: "Backend", Name: "y"}},
		}),
	)
	ref := func(kind, namespace, name string) ObjectRef { return ObjectRef{kind, namespace, name} }
	for _, c := range []struct {
		from, to ObjectRef
		want     bool
	}{
		{ref("Route", "a", "r"), ref("Backend", "a", "x"), true}, // nobody else is asked
		{ref("Route", "a", "r"), ref("Backend", "b", "x"), true},
		{ref("Route", "a", "r"), ref("Backend", "b", "y"), true},
		{ref("Route", "a", "r"), ref("Backend", "b", "z"), false},
		{ref("Route", "c", "r"), ref("Backend", "b", "x"), false},
		{ref("Route", "a", "r"), ref("Backend", "c", "x"), false},
		{ref("Backend", "c", "k"), ref("Secret", "b", "anything"), true},
		{ref("Backend", "a", "k"), ref("Secret", "b", "x"), false},
		// Each part of from meets only what its kind refers to.
		{ref("Route", "a", "r"), ref("Secret", "b", "x"), false},
		{ref("Backend", "c", "k"), ref("Backend", "b", "x"), false},
		{ref("LLMGateway", "c", "k"), ref("Secret", "b", "x"), false},
	} {
		if got := o.Grants().Permit(c.from, c.to); got != c.want {
			t.Errorf("%s to %s: %v", c.from, c.to, got)
		}
	}
	if (Grants{}).Permit(ref("Route", "a", "r"), ref("Backend", "b", "x")) {
		t.Error("no grants at all permit something")
	}
}

// TestDigest: it names generations, and nothing else.
func TestDigest(t *testing.T) {
	build := func(change func(*Objects)) string {
		o := NewObjects()
		for _, name := range []string{"b", "a"} {
			r := &v1alpha1.Route{ObjectMeta: meta(name)}
			r.UID, r.Generation = types.UID("uid-"+name), 3
			o.Routes = append(o.Routes, r)
		}
		o.Backends = append(o.Backends, &v1alpha1.Backend{ObjectMeta: meta("a")})
		change(o)
		return o.Digest()
	}
	base := build(func(*Objects) {})
	if len(base) != 16 {
		t.Errorf("%q", base)
	}
	for name, change := range map[string]func(*Objects){
		"order":   func(o *Objects) { o.Routes[0], o.Routes[1] = o.Routes[1], o.Routes[0] },
		"status":  func(o *Objects) { o.Routes[0].Status.ObservedGeneration, o.Routes[0].ResourceVersion = 3, "9" },
		"labels":  func(o *Objects) { o.Routes[0].Labels = map[string]string{"a": "b"} },
		"secrets": func(o *Objects) { o.Secrets[FileKeyOf("f")] = NewSecret("s") },
		"servers": func(o *Objects) {
			o.Endpoints[RefOf(o.Backends[0])] = []v1alpha1.Endpoint{{Address: "10.0.0.1", Port: 1}}
		},
		"sameness": func(*Objects) {},
	} {
		if build(change) != base {
			t.Errorf("other %s change the digest", name)
		}
	}
	seen := map[string]string{base: "nothing"}
	for name, change := range map[string]func(*Objects){
		"generation": func(o *Objects) { o.Routes[0].Generation++ },
		"uid":        func(o *Objects) { o.Routes[0].UID = "another" },
		"name":       func(o *Objects) { o.Routes[0].Name = "c" },
		"kind":       func(o *Objects) { o.Backends = nil },
		"grant": func(o *Objects) {
			o.ReferenceGrants = append(o.ReferenceGrants, grant("b", v1alpha1.ReferenceGrantSpec{}))
		},
	} {
		d := build(change)
		if other := seen[d]; other != "" {
			t.Errorf("%s and %s have one digest", name, other)
		}
		seen[d] = name
	}
}

// TestReasons: which of them say that ResolvedRefs is what is false.
func TestReasons(t *testing.T) {
	for reason, want := range map[Reason]bool{
		"": false, ReasonInvalid: false, ReasonConflict: false, ReasonUnsupported: false,
		ReasonRefNotFound: true, ReasonRefNotPermitted: true, ReasonSecretUnavailable: true,
	} {
		if reason.Reference() != want {
			t.Errorf("%q: %v", reason, !want)
		}
	}
	if p := (Problem{Message: "m"}).Because(ReasonConflict); p.Reason != ReasonConflict || p.String() != "m" {
		t.Errorf("got %+v", p)
	}
}
