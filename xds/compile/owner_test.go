package compile

import (
	"fmt"
	"testing"

	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
)

// TestOwners: whatever has the name of an object in its name is that object's, as compiling names it.
func TestOwners(t *testing.T) {
	v := compileText(t, docCaller+backendDoc("a", "")+docRoute+docGateway)
	owned := func(typeURL, name, want string) {
		t.Helper()
		ref, ok := OwnerOf(typeURL, name)
		if !ok || ref.String() != want {
			t.Errorf("%s is of %s (%v), want %s", name, ref, ok, want)
		}
	}
	found := 0
	for name := range v.Listeners {
		owned(resourcev3.ListenerType, name, "LLMGateway default/main")
		owned(resourcev3.SecretType, "certificate/"+name, "LLMGateway default/main")
		found++
	}
	for name := range v.Clusters.Names() {
		if _, ok := OwnerOf(resourcev3.ClusterType, name); ok {
			owned(resourcev3.ClusterType, name, "Backend default/a")
			found++
		}
	}
	for name := range v.Secrets {
		owned(resourcev3.SecretType, name, "Backend default/a")
		found++
	}
	for _, rule := range v.Table.All() { // the only rule of its Route
		owned(resourcev3.ScopedRouteType, rule.Name, "Route "+rule.Name)
		owned(resourcev3.ScopedRouteType, rule.Name+"/2", "Route "+rule.Name)
		found++
	}
	if found < 3 {
		t.Errorf("only %d resources have an owner", found)
	}
	for _, name := range []string{UndecidedKey, "", "weir", "backend/a", "chain/0123456789abcdef", "direct/0123456789abcdef"} {
		if ref, ok := OwnerOf(resourcev3.ClusterType, name); ok {
			t.Errorf("%q is of %s", name, ref)
		}
	}
}

func TestBlamed(t *testing.T) {
	names := []string{"backend/a/b/0123456789abcdef", "backend/a/b/1123456789abcdef", "backend/a/bc/0123456789abcdef", "chain/0123"}
	for words, want := range map[string]string{
		"Error adding/updating cluster(s) backend/a/b/0123456789abcdef: odd": "[Backend a/b] [Backend a/b Backend a/bc]",
		"in backend/a/bc/0123456789abcdef. And more":                         "[Backend a/bc] [Backend a/b Backend a/bc]",
		"backend/a/b/0123456789abcdef, backend/a/bc/0123456789abcdef":        "[Backend a/b Backend a/bc] [Backend a/b Backend a/bc]",
		"backend/a/b/0123456789abcdef0, xbackend/a/bc/0123456789abcdef":      "[] [Backend a/b Backend a/bc]",
		"Proto constraint validation failed":                                 "[] [Backend a/b Backend a/bc]",
	} {
		named, sent := Blamed(resourcev3.ClusterType, names, words)
		if got := fmt.Sprint(named, " ", sent); got != want {
			t.Errorf("%q blames %s, want %s", words, got, want)
		}
	}
}
