package schema

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

func newValidator(t testing.TB) *Validator {
	t.Helper()
	v, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func object(t testing.TB, doc string) map[string]any {
	t.Helper()
	var out map[string]any
	if err := yaml.Unmarshal([]byte(doc), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func backend(spec string) string {
	return "apiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: a}\nspec: " + spec
}

func TestKinds(t *testing.T) {
	var names []string
	for _, k := range newValidator(t).Kinds() {
		if k.APIVersion != "weir.dev/v1alpha1" {
			t.Errorf("%v has another API version", k)
		}
		names = append(names, k.Kind)
	}
	if got := strings.Join(names, " "); got != "APIKey Backend Budget CachePolicy Consumer JWTIssuer LLMGateway LimitPolicy LoadPolicy ReferenceGrant Route SessionPolicy" {
		t.Errorf("got %s", got)
	}
}

func TestNewRefusesBrokenDefinitions(t *testing.T) {
	for name, content := range map[string]string{
		"not YAML":      "a: [",
		"unknown field": "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nspecs: {}",
		"no schema":     "spec: {versions: [{name: v1, served: true, storage: true}]}",
	} {
		if _, err := newFromFS(fstest.MapFS{"a.yaml": {Data: []byte(content)}}); err == nil || !strings.Contains(err.Error(), "a.yaml") {
			t.Errorf("%s: got error %v", name, err)
		}
	}
	if _, err := newFromFS(fstest.MapFS{}); err == nil {
		t.Error("no definitions at all: no error")
	}
}

func TestValidate(t *testing.T) {
	v := newValidator(t)
	for _, tc := range []struct {
		name, doc string
		want      []string // the errors, each a part, in order
	}{
		{"valid", backend("{dialect: openai, url: 'https://x'}"), nil},
		{"null counts as absent", backend("{dialect: openai, url: 'https://x', endpoints: null, tls: null}"), nil},
		{"null takes the default", backend("{dialect: openai, url: 'https://x', connections: {maxRequests: null}}"), nil},
		{"rules and schema together", backend("{dialect: '!', url: x}"), []string{"spec.dialect: Invalid value: \"!\": write lower-case letters", "spec.url: Invalid value: url must be an absolute"}},
		{"rules wait for types", backend("{dialect: 1, url: x}"), []string{"spec.dialect: Invalid value: 1: write lower-case letters"}},
		{"integer as a float", backend("{dialect: openai, endpoints: [{address: a, port: 80.0}]}"), nil},
		{"fraction", backend("{dialect: openai, endpoints: [{address: a, port: 80.5}]}"), []string{"spec.endpoints[0].port: Invalid value: must be of type int"}},
		{"larger than int32", backend("{dialect: openai, url: 'https://x', connections: {maxRequests: 3000000000}}"), []string{"spec.connections.maxRequests: Invalid value: must be of type int"}},
		{"larger than int64", backend("{dialect: openai, url: 'https://x', defaultMaxTokens: 99999999999999999999}"), []string{"spec.defaultMaxTokens: Invalid value: "}},
		{"status is dropped", "apiVersion: weir.dev/v1alpha1\nkind: Consumer\nmetadata: {name: a}\nspec: {}\nstatus: {observedGeneration: x}", nil},
		{"unknown at the root", "apiVersion: weir.dev/v1alpha1\nkind: Consumer\nmetadata: {name: a}\nspecs: {}\nspec: {}", []string{`specs: Forbidden: unknown field; did you mean "spec"?`}},
		{"metadata is no object", "apiVersion: weir.dev/v1alpha1\nkind: Consumer\nmetadata: a\nspec: {}", []string{"metadata: Invalid value: must be an object", "metadata.name: Required value"}},
		{"name is no string", "apiVersion: weir.dev/v1alpha1\nkind: Consumer\nmetadata: {name: [a]}\nspec: {}", []string{"metadata.name: Invalid value: must not be a list"}},
		{"spec is a string", "apiVersion: weir.dev/v1alpha1\nkind: Consumer\nmetadata: {name: a}\nspec: x", []string{"spec: Invalid value: must be of type object"}},
		{"no kind", "{}", []string{"kind: Required value: known kinds: APIKey, Backend"}},
		{"kind is no string", "apiVersion: weir.dev/v1alpha1\nkind: 3", []string{"kind: Required value"}},
		{"kind of another group", "apiVersion: v1\nkind: Backend", []string{`apiVersion: Unsupported value: "v1": known: weir.dev/v1alpha1`}},
		{"misspelt kind", "apiVersion: weir.dev/v1alpha1\nkind: apikey", []string{`kind: Unsupported value: "apikey": did you mean "APIKey"?`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, errs := v.Validate(object(t, tc.doc))
			var all []string
			for _, e := range errs {
				all = append(all, e.Error())
			}
			rest := strings.Join(all, "\n")
			got := rest
			for _, w := range tc.want {
				_, after, ok := strings.Cut(rest, w)
				if !ok {
					t.Fatalf("no %q in order in:\n%s", w, got)
				}
				rest = after
			}
			if (len(errs) == 0) != (len(tc.want) == 0) {
				t.Errorf("got:\n%s", got)
			}
		})
	}
}

func TestValidateLeavesItsArgumentAlone(t *testing.T) {
	v := newValidator(t)
	in := object(t, backend("{dialect: openai, url: 'https://x', zebra: 1, tls: null}"))
	before := object(t, backend("{dialect: openai, url: 'https://x', zebra: 1, tls: null}"))
	out, errs := v.Validate(in)
	if !reflect.DeepEqual(in, before) {
		t.Errorf("the argument was changed to %v", in)
	}
	if len(errs) != 1 {
		t.Errorf("got %v", errs)
	}
	spec := out["spec"].(map[string]any)
	if spec["protocol"] != "Auto" || spec["zebra"] != nil {
		t.Errorf("not defaulted and pruned: %v", spec)
	}
	if connections := spec["connections"].(map[string]any); connections["maxRequests"] != int64(16384) {
		t.Errorf("default is %T %[1]v, want int64", connections["maxRequests"])
	}
	if meta := out["metadata"].(map[string]any); meta["namespace"] != "default" {
		t.Errorf("metadata is %v", meta)
	}
}

// A value in a field that may hold a secret by mistake is in no error.
func TestErrorsHoldNoSecrets(t *testing.T) {
	v := newValidator(t)
	for _, doc := range []string{
		backend("{dialect: openai, url: 'https://u:hunter2@x'}"),
		backend("{dialect: openai, url: 'https://x', credential: hunter2}"),
		backend("{dialect: openai, url: 'https://x', credential: {secretRef: hunter2}}"),
		backend("{dialect: openai, url: 'https://x', credential: {secretRef: {env: '-hunter2', file: hunter2, name: HUNTER2-hunter2}}}"),
		backend("{dialect: openai, url: 'https://x', credential: {secretRef: {value: hunter2}, apiKey: hunter2}}"),
		backend("{dialect: openai, url: 'https://x', tls: {caRef: [hunter2], ca: hunter2}}"),
		"apiVersion: weir.dev/v1alpha1\nkind: APIKey\nmetadata: {name: a}\nspec: {consumer: a, hash: hunter2}",
		"apiVersion: weir.dev/v1alpha1\nkind: APIKey\nmetadata: {name: a}\nspec: {consumer: a, secretRef: {env: -hunter2}}",
		"apiVersion: weir.dev/v1alpha1\nkind: LLMGateway\nmetadata: {name: a}\nspec: {listeners: [{name: a, port: 1, tls: {privateKeyRef: hunter2, certificateRef: {key: hunter2}}}]}",
	} {
		_, errs := v.Validate(object(t, doc))
		if len(errs) == 0 {
			t.Errorf("accepted: %s", doc)
		}
		for _, e := range errs {
			if strings.Contains(strings.ToLower(e.Error()), "hunter2") {
				t.Errorf("prints a secret: %v", e)
			}
		}
	}
}

func TestNormalize(t *testing.T) {
	for _, tc := range []struct{ in, want any }{
		{3, int64(3)}, {int32(3), int64(3)}, {uint64(3), int64(3)}, {uint64(math.MaxUint64), float64(math.MaxUint64)},
		{3.0, int64(3)}, {-3.0, int64(-3)}, {3.5, 3.5}, {float32(0.5), 0.5}, {1e300, 1e300},
		{json.Number("3"), int64(3)}, {json.Number("3.0"), int64(3)}, {json.Number("3.5"), 3.5},
		{nil, nil}, {"x", "x"}, {true, true},
		{[]any{1, map[string]any{"a": 2}}, []any{int64(1), map[string]any{"a": int64(2)}}},
	} {
		if got, err := normalize(tc.in); err != nil || !reflect.DeepEqual(got, tc.want) {
			t.Errorf("normalize(%T %[1]v) = %T %[2]v, %v; want %T %[4]v", tc.in, got, err, tc.want)
		}
	}
	for _, bad := range []any{math.NaN(), math.Inf(1), json.Number("x"), struct{}{}, map[string]any{"a": make(chan int)}, []any{math.NaN()}} {
		if got, err := normalize(bad); err == nil {
			t.Errorf("normalize(%T) = %v, want an error", bad, got)
		}
	}
}

func TestNearest(t *testing.T) {
	candidates := []string{"backends", "matches", "name", "requiredScopes", "retry", "timeouts", "url"}
	for name, want := range map[string]string{
		"backend": "backends", "Backends": "backends", "bakcends": "backends", "match": "matches", "requiredscopes": "requiredScopes",
		"nmae": "name", "timeout": "timeouts", "uri": "url", "zebra": "", "x": "", "": "", strings.Repeat("a", 100): "",
	} {
		if got := nearest(name, candidates); got != want {
			t.Errorf("nearest(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestValidateConcurrently(t *testing.T) {
	v := newValidator(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, errs := v.Validate(object(t, backend("{dialect: openai, url: 'https://x'}"))); len(errs) > 0 {
				t.Error(errs)
			}
			if _, errs := v.Validate(object(t, backend("{dialect: openai}"))); len(errs) != 1 || errs[0].Type != field.ErrorTypeInvalid {
				t.Error(errs)
			}
		})
	}
	wg.Wait()
}

// The test of the definitions can fail: the server's own function refuses rules that do not compile or cost
// too much, and defaults that do not fit.
func TestAPIServerRefusesBrokenRules(t *testing.T) {
	const crd = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.weir.dev}
spec:
  group: weir.dev
  names: {kind: Thing, listKind: ThingList, plural: things, singular: thing}
  scope: Namespaced
  versions:
  - name: v1alpha1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              list: {type: array, items: {type: string}}
              number: {type: integer, default: DEFAULT}
            x-kubernetes-validations:
            - rule: "RULE"
`
	for _, tc := range []struct{ rule, value, want string }{
		{"self.number > 0", "1", ""},
		{"self.nothing > 0", "1", "undefined field 'nothing'"},
		{"self.list.all(a, self.list.all(b, self.list.all(c, a + b != c)))", "1", "estimated rule cost exceeds budget"},
		{"self.number > 0", "x", "must be of type integer"},
	} {
		doc := strings.NewReplacer("RULE", tc.rule, "DEFAULT", tc.value).Replace(crd)
		got := strings.Join(apiServerErrors(t, []byte(doc)), "\n")
		if (tc.want == "") != (got == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s: got %q, want %q", tc.rule, got, tc.want)
		}
	}
}

// What a start of weir pays before it can judge its first object of every kind.
func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		v := newValidator(b)
		for _, k := range v.Kinds() {
			v.Validate(map[string]any{"apiVersion": k.APIVersion, "kind": k.Kind})
		}
	}
}

func FuzzValidate(f *testing.F) {
	v := newValidator(f)
	f.Add([]byte(`{"apiVersion":"weir.dev/v1alpha1","kind":"Backend","metadata":{"name":"a"},"spec":{"dialect":"x","url":"https://x"}}`))
	f.Add([]byte(`{"apiVersion":"weir.dev/v1alpha1","kind":"Route","metadata":{"labels":{"a":1}},"spec":{"rules":[{"a.b":1,"backends":[null,{"x]":2}]}]}}`))
	f.Add([]byte(`{"apiVersion":"weir.dev/v1alpha1","kind":"LLMGateway","metadata":null,"spec":{"limits":{"maxRequestBytes":1e400}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		decoder := json.NewDecoder(strings.NewReader(string(raw)))
		decoder.UseNumber()
		var in map[string]any
		if decoder.Decode(&in) != nil || in == nil {
			return
		}
		out, errs := v.Validate(in)
		if len(errs) > 0 {
			return
		}
		// What was accepted is accepted again, and its defaults do not change any more.
		again, errs := v.Validate(out)
		if len(errs) > 0 || !reflect.DeepEqual(out, again) {
			t.Errorf("%s: the second time %v, %v", raw, again, errs)
		}
	})
}
