package deploy

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	lua "github.com/yuin/gopher-lua"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/weir-dev/weir/deploy/crds"
)

// kinds are those of Weir's API, by their CustomResourceDefinitions.
func kinds(t *testing.T) []apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	files, err := crds.FS.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	out := make([]apiextensionsv1.CustomResourceDefinition, len(files))
	for i, f := range files {
		text, err := crds.FS.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal(text, &out[i]); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// TestHealth runs the check of every kind, as Argo CD does, on objects in each state.
func TestHealth(t *testing.T) {
	text, err := os.ReadFile(deployDir + "/argocd/argocd-cm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	o := parse(t, string(text))
	scripts, _, err := unstructured.NestedStringMap(o.Object, "data")
	if err != nil {
		t.Fatal(err)
	}
	if len(scripts) != len(kinds(t)) {
		t.Errorf("%d checks for %d kinds", len(scripts), len(kinds(t)))
	}
	cases := []struct{ name, object, status, message string }{
		{"new", `{metadata: {generation: 1}}`, "Progressing", "Weir has not seen it yet"},
		{"empty status", `{metadata: {generation: 1}, status: {}}`, "Progressing", "Weir has not seen it yet"},
		{"no condition", `{metadata: {generation: 1}, status: {conditions: []}}`, "Progressing", "Weir has not seen it yet"},
		{"changed", `{metadata: {generation: 3}, status: {observedGeneration: 2, conditions: [{type: Programmed, status: "True", message: 3 of 3 replicas}]}}`, "Progressing", "Weir has not seen its last change yet"},
		{"served", `{metadata: {generation: 2}, status: {observedGeneration: 2, conditions: [
			{type: Accepted, status: "True"}, {type: ResolvedRefs, status: "True"}, {type: Programmed, status: "True", message: 3 of 3 replicas}]}}`, "Healthy", "3 of 3 replicas"},
		{"served, without generations", `{metadata: {}, status: {conditions: [{type: Programmed, status: "True", message: 1 of 1 replicas}]}}`, "Healthy", "1 of 1 replicas"},
		{"on its way", `{metadata: {generation: 2}, status: {observedGeneration: 2, conditions: [
			{type: Accepted, status: "True"}, {type: Programmed, status: "False", reason: Pending, message: 1 of 3 replicas}]}}`, "Progressing", "1 of 3 replicas"},
		{"not known", `{metadata: {generation: 2}, status: {observedGeneration: 2, conditions: [{type: Programmed, status: Unknown, message: nobody reports}]}}`, "Progressing", "nobody reports"},
		{"accepted, not more", `{metadata: {generation: 1}, status: {observedGeneration: 1, conditions: [{type: Accepted, status: "True"}]}}`, "Progressing", "Weir has not seen it yet"},
		{"invalid", `{metadata: {generation: 1}, status: {observedGeneration: 1, conditions: [
			{type: Programmed, status: "False", reason: Invalid, message: see Accepted}, {type: Accepted, status: "False", reason: Invalid, message: "spec.url: no host"}]}}`, "Degraded", "Accepted, Invalid: spec.url: no host"},
		{"missing Secret, and the last one is served", `{metadata: {generation: 1}, status: {observedGeneration: 1, conditions: [
			{type: Accepted, status: "True"}, {type: ResolvedRefs, status: "False", reason: SecretUnavailable, message: "no Secret k"}, {type: Programmed, status: "True"}]}}`, "Degraded", "ResolvedRefs, SecretUnavailable: no Secret k"},
		{"Envoy refuses it", `{metadata: {generation: 1}, status: {observedGeneration: 1, conditions: [
			{type: Accepted, status: "True"}, {type: Programmed, status: "False", reason: Rejected, message: "no such cipher"}]}}`, "Degraded", "Programmed, Rejected: no such cipher"},
		{"condition of an older generation", `{metadata: {generation: 2}, status: {observedGeneration: 2, conditions: [
			{type: Accepted, status: "False", observedGeneration: 1, reason: Invalid, message: old}, {type: Programmed, status: "True", observedGeneration: 2, message: 2 of 2 replicas}]}}`, "Healthy", "2 of 2 replicas"},
		{"without words", `{metadata: {generation: 1}, status: {observedGeneration: 1, conditions: [{type: Accepted, status: "False"}]}}`, "Degraded", "Accepted, no reason: "},
		{"ends", `{metadata: {generation: 1, deletionTimestamp: "2027-01-01T00:00:00Z"}, status: {conditions: [{type: Programmed, status: "True"}]}}`, "Progressing", "it is being deleted"},
	}
	for _, crd := range kinds(t) {
		script, ok := scripts["resource.customizations.health."+crd.Spec.Group+"_"+crd.Spec.Names.Kind]
		if !ok {
			t.Errorf("%s has no check", crd.Spec.Names.Kind)
			continue
		}
		for _, c := range cases {
			t.Run(crd.Spec.Names.Kind+" "+c.name, func(t *testing.T) {
				var obj map[string]any
				if err := yaml.Unmarshal([]byte(strings.ReplaceAll(c.object, "\t", " ")), &obj); err != nil {
					t.Fatal(err)
				}
				status, message := health(t, script, obj)
				if status != c.status || message != c.message {
					t.Errorf("%s %q, want %s %q", status, message, c.status, c.message)
				}
			})
		}
	}
}

// health runs a check with the libraries that Argo CD gives one.
func health(t *testing.T, script string, obj map[string]any) (status, message string) {
	t.Helper()
	l := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer l.Close()
	for name, open := range map[string]lua.LGFunction{lua.LoadLibName: lua.OpenPackage, lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable} {
		if err := l.CallByParam(lua.P{Fn: l.NewFunction(open), Protect: true}, lua.LString(name)); err != nil {
			t.Fatal(err)
		}
	}
	l.SetGlobal("obj", luaValue(t, l, obj))
	if err := l.DoString(script); err != nil {
		t.Fatal(err)
	}
	result, ok := l.Get(-1).(*lua.LTable)
	if !ok {
		t.Fatalf("the check returns %v", l.Get(-1))
	}
	return result.RawGetString("status").String(), result.RawGetString("message").String()
}

// luaValue is what a JSON value is in Lua.
func luaValue(t *testing.T, l *lua.LState, v any) lua.LValue {
	t.Helper()
	switch v := v.(type) {
	case nil:
		return lua.LNil
	case bool:
		return lua.LBool(v)
	case string:
		return lua.LString(v)
	case float64:
		return lua.LNumber(v)
	case []any:
		out := l.NewTable()
		for _, e := range v {
			out.Append(luaValue(t, l, e))
		}
		return out
	case map[string]any:
		out := l.NewTable()
		for k, e := range v {
			out.RawSetString(k, luaValue(t, l, e))
		}
		return out
	}
	text, _ := json.Marshal(v)
	t.Fatalf("what is %s?", text)
	return nil
}
