package fleet

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
)

func meta(namespace, name string, generation int64) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, Generation: generation, UID: types.UID("uid-" + namespace + name)}
}

func secretRef(name string) v1alpha1.SecretRef {
	return v1alpha1.SecretRef{Name: v1alpha1.ObjectName(name), Key: "value"}
}

func backend(namespace, name string, generation int64) *v1alpha1.Backend {
	return &v1alpha1.Backend{ObjectMeta: meta(namespace, name, generation), Spec: v1alpha1.BackendSpec{
		Dialect: "openai", Credential: &v1alpha1.BackendCredential{SecretRef: secretRef(name)},
	}}
}

func route(namespace, name string, generation int64, backends ...v1alpha1.RouteBackend) *v1alpha1.Route {
	return &v1alpha1.Route{ObjectMeta: meta(namespace, name, generation), Spec: v1alpha1.RouteSpec{Rules: []v1alpha1.RouteRule{{Backends: backends}}}}
}

func gateway(namespace, name string) *v1alpha1.LLMGateway {
	return &v1alpha1.LLMGateway{ObjectMeta: meta(namespace, name, 1)}
}

// world builds Objects. Objects are added as they are, and values under the name of a Secret.
func world(t testing.TB, objects []source.Object, values map[string]string) *source.Objects {
	t.Helper()
	out := source.NewObjects()
	for _, obj := range objects {
		if err := out.Add(obj); err != nil {
			t.Fatal(err)
		}
	}
	out.Sort()
	for key, value := range values {
		var namespace, name string
		if _, err := fmt.Sscanf(key, "%s %s", &namespace, &name); err != nil {
			t.Fatal(err)
		}
		out.Secrets[source.SecretKeyOf(namespace, secretRef(name))] = source.NewSecret(value)
	}
	return out
}

// requireEqual compares everything that a compile step could see.
func requireEqual(t testing.TB, got, want *source.Objects) {
	t.Helper()
	if got == nil {
		t.Fatal("nothing has arrived")
	}
	a, err := got.Hash()
	if err != nil {
		t.Fatal(err)
	}
	b, err := want.Hash()
	if err != nil {
		t.Fatal(err)
	}
	if a != b {
		t.Fatalf("the objects differ:\ngot  %s\nwant %s", describe(got), describe(want))
	}
	if got.Digest() != want.Digest() {
		t.Fatalf("the digests differ: %s and %s", got.Digest(), want.Digest())
	}
	for i, obj := range got.All() {
		other := want.All()[i]
		if !reflect.DeepEqual(obj.GetLabels(), other.GetLabels()) || obj.GetUID() != other.GetUID() || obj.GetGeneration() != other.GetGeneration() {
			t.Fatalf("%s: metadata differ", source.RefOf(obj))
		}
	}
}

func requireProblems(t testing.TB, got, want []source.Problem) {
	t.Helper()
	got, want = slices.Clone(got), slices.Clone(want)
	source.SortProblems(got)
	source.SortProblems(want)
	if !slices.Equal(got, want) {
		t.Fatalf("the problems differ:\ngot  %+v\nwant %+v", got, want)
	}
}

func describe(o *source.Objects) string {
	out := ""
	for _, obj := range o.All() {
		content, err := json.Marshal(obj)
		if err != nil {
			return err.Error()
		}
		out += "\n  " + source.RefOf(obj).String() + " " + string(content)
	}
	return fmt.Sprintf("%s\n  %d values, endpoints %v, labels %v", out, len(o.Secrets), o.Endpoints, o.Namespaces)
}
