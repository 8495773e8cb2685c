package deploy

import (
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// TestKyverno has the policies that TestAdmission proves: the same matches, variables and validations, for the same namespaces.
func TestKyverno(t *testing.T) {
	out := render(t, job{Kustomization: deployDir + "/admission"}, job{Kustomization: deployDir + "/kyverno"})
	native, kyverno := out[0].objects(t), out[1].objects(t)
	policies := native.of("ValidatingAdmissionPolicy")
	if len(policies) != 4 || len(kyverno) != len(policies) {
		t.Fatalf("%q and %q", native.keys(), kyverno.keys())
	}
	for _, p := range policies {
		k := kyverno.get(t, "ValidatingPolicy "+p.GetName())
		binding := native.get(t, "ValidatingAdmissionPolicyBinding "+p.GetName())
		for _, path := range [][]string{{"spec", "failurePolicy"}, {"spec", "matchConstraints", "resourceRules"}, {"spec", "variables"}, {"spec", "matchConditions"}, {"spec", "validations"}} {
			want, found, _ := unstructured.NestedFieldNoCopy(p.Object, path...)
			if got, _, _ := unstructured.NestedFieldNoCopy(k.Object, path...); !found || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %s is %v, want %v", p.GetName(), strings.Join(path, "."), got, want)
			}
		}
		want, _, _ := unstructured.NestedFieldNoCopy(binding.Object, "spec", "matchResources", "namespaceSelector")
		if got, _, _ := unstructured.NestedFieldNoCopy(k.Object, "spec", "matchConstraints", "namespaceSelector"); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: namespaces %v, want %v", p.GetName(), got, want)
		}
		if name, _, _ := unstructured.NestedString(binding.Object, "spec", "policyName"); name != p.GetName() {
			t.Errorf("the binding of %s is of %s", p.GetName(), name)
		}
	}
}

// TestKinds are everywhere all that there are: in the rules of RBAC, in the list of definitions for kustomize.
func TestKinds(t *testing.T) {
	var plurals, files []string
	for _, crd := range kinds(t) {
		plurals = append(plurals, crd.Spec.Names.Plural)
		files = append(files, crd.Spec.Group+"_"+crd.Spec.Names.Plural+".yaml")
	}
	slices.Sort(plurals)
	objs := render(t, helm(""))[0].objects(t)
	view := resources(t, objs.get(t, "ClusterRole weir-system-weir-view"))
	if !slices.Equal(view, plurals) {
		t.Errorf("people see %q of %q", view, plurals)
	}
	watch := resources(t, objs.get(t, "ClusterRole weir-system-weir-watch"))
	for _, p := range plurals {
		if !slices.Contains(watch, p) || !slices.Contains(watch, p+"/status") {
			t.Errorf("Weir cannot watch %s and write their status", p)
		}
	}
	// What tenants do not write concerns all tenants of a gateway.
	write := append(resources(t, objs.get(t, "ClusterRole weir-system-weir-edit")), resources(t, objs.get(t, "ClusterRole weir-system-weir-admin"))...)
	for _, p := range plurals {
		if platform := slices.Contains([]string{"jwtissuers", "llmgateways", "loadpolicies"}, p); slices.Contains(write, p) == platform {
			t.Errorf("%s: who has a namespace writes them: %v", p, !platform)
		}
	}
	text, err := os.ReadFile(deployDir + "/crds/Kustomization")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !strings.Contains(string(text), "  - "+f+"\n") {
			t.Errorf("deploy/crds/Kustomization has no %s", f)
		}
	}
}

// TestArguments are flags that there are.
func TestArguments(t *testing.T) {
	known := map[string]string{}
	help := func(command string) string {
		if known[command] == "" {
			out, err := exec.Command("go", "run", "../../cmd/weir", command, "--help").CombinedOutput()
			if err != nil {
				t.Fatalf("weir %s --help: %v\n%s", command, err, out)
			}
			known[command] = string(out)
		}
		return known[command]
	}
	for name, objs := range everything(t) {
		for _, w := range append(objs.of("Deployment"), objs.of("StatefulSet")...) {
			for _, c := range containersOf(t, podOf(t, w)) {
				if image, _ := c["image"].(string); !strings.HasPrefix(image, "weir-dev/weir:") {
					continue
				}
				arguments, _, _ := unstructured.NestedStringSlice(c, "args")
				for _, a := range arguments[1:] {
					flag, _, _ := strings.Cut(a, "=")
					if !regexp.MustCompile(`(?m)^ +(-\w, +)?` + regexp.QuoteMeta(flag) + `\b`).MatchString(help(arguments[0])) {
						t.Errorf("%s: weir %s has no flag %s", name, arguments[0], flag)
					}
				}
			}
		}
	}
}

// TestAlerts are rules that Prometheus reads, and each is explained.
func TestAlerts(t *testing.T) {
	const file = deployDir + "/prometheus/weir-kubernetes-alerts.yaml"
	if out, err := exec.Command("promtool", "check", "rules", file).CombinedOutput(); err != nil {
		t.Fatalf("%v (make need-prometheus installs promtool)\n%s", err, out)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/install-kubernetes.md")
	if err != nil {
		t.Fatal(err)
	}
	alerts := regexp.MustCompile(`- alert: (\w+)`).FindAllSubmatch(text, -1)
	if len(alerts) == 0 {
		t.Fatal("no alert")
	}
	for _, a := range alerts {
		if !strings.Contains(string(page), "### "+string(a[1])+"\n") {
			t.Errorf("docs/install-kubernetes.md does not explain %s", a[1])
		}
		if !strings.Contains(string(text), "install-kubernetes.md#"+strings.ToLower(string(a[1]))) {
			t.Errorf("%s leads to no page", a[1])
		}
	}
}
