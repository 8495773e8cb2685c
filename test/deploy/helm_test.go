package deploy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// TestExamples lints and renders each set of values that the chart shows.
func TestExamples(t *testing.T) {
	jobs := []job{helm("")}
	for _, name := range examples {
		jobs = append(jobs, helm(example(t, name)))
	}
	for i, o := range render(t, jobs...) {
		t.Run(append([]string{"defaults"}, examples...)[i], func(t *testing.T) {
			for _, finding := range o.Lint {
				if !strings.HasPrefix(finding, "[INFO]") {
					t.Error(finding)
				}
			}
			objs := o.objects(t)
			if len(objs) < 20 {
				t.Errorf("only %q", objs.keys())
			}
			if !strings.HasPrefix(o.Notes, "Weir ") || strings.Contains(o.Notes, "<no value>") {
				t.Errorf("notes: %q", o.Notes)
			}
			if strings.Contains(o.text(), "<no value>") {
				t.Error("something was rendered from a value that does not exist")
			}
		})
	}
}

// TestSchema refuses values that are mistakes.
func TestSchema(t *testing.T) {
	cases := []struct{ name, values, want string }{
		{"unknown at the top", "replicas: 3", "additional properties 'replicas' not allowed"},
		{"unknown below", "gateway: {replica: 3}", "additional properties 'replica' not allowed"},
		{"unknown far below", "control: {tls: {certManager: {issuer: mine}}}", "additional properties 'issuer' not allowed"},
		{"mode", "mode: both", "value must be one of 'sidecar', 'fleet'"},
		{"tag latest", "image: {tag: latest}", "/image/tag"},
		{"Envoy's tag latest", "gateway: {envoy: {image: {tag: latest}}}", "/gateway/envoy/image/tag"},
		{"digest", "image: {digest: 'sha256:12'}", "/image/digest"},
		{"admin's port", "gateway: {ports: [{name: http, containerPort: 8081, servicePort: 80}]}", "/gateway/ports/0/containerPort"},
		{"no port", "gateway: {ports: []}", "minItems: got 0, want 1"},
		{"negative drain", "gateway: {drain: {delaySeconds: -1}}", "minimum: got -1, want 0"},
		{"Secrets without names", "rbac: {secrets: [{namespace: a}]}", "oneOf"},
		{"Secrets named and all", "rbac: {secrets: [{namespace: a, names: [b], allNames: true}]}", "oneOf"},
		{"Secrets of a namespace twice", "rbac: {secrets: [{namespace: a, names: [b]}, {namespace: a, names: [c]}]}", "rbac.secrets names the namespace a twice"},
		{"gateway without a namespace", "watch: {gateways: [gateway]}", "/watch/gateways/0"},
		{"namespace twice", "watch: {namespaces: [a, a]}", "items at 0 and 1 are equal"},
		{"size", "gateway: {persistence: {size: big}}", "/gateway/persistence/size"},
		{"text for a number", "gateway: {replicas: two}", "got string, want integer"},
		{"existing certificates without names", "{mode: fleet, control: {tls: {source: existing}}}", "Secret is missing: name the Secret with"},
		{"labels of the chart's own", "gateway: {podLabels: {app.kubernetes.io/component: control}}", "/gateway/podLabels"},
		{"a key for what is kept in a fleet", "{mode: fleet, gateway: {persistence: {cacheKeySecret: {name: k}}}}", "cacheKeySecret is for the mode sidecar"},
		{"argument", "gateway: {weir: {extraArgs: [file]}}", "/gateway/weir/extraArgs/0"},
		{"URL with a password", "admin: {externalURL: 'https://me:secret@example.com'}", "/admin/externalURL"},
	}
	var jobs []job
	for _, c := range cases {
		jobs = append(jobs, helm(c.values))
	}
	out := render(t, jobs...)
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			o := out[i]
			if !strings.Contains(o.Error, c.want) {
				t.Errorf("got %q, want %q in it", o.Error, c.want)
			}
		})
	}
}

// TestValues looks at what single values change.
func TestValues(t *testing.T) {
	cases := []struct {
		name, values string
		check        func(*testing.T, objects)
	}{
		{"sidecar has no control plane", "", func(t *testing.T, objs objects) {
			if objs.has("Deployment weir-system/weir-control") || len(objs.of("Certificate")) > 0 {
				t.Errorf("there is one: %q", objs.keys())
			}
			if got := args(t, objs, "Deployment weir-system/weir", "weir"); !slices.Contains(got, "--kubernetes") {
				t.Errorf("weir gets %q", got)
			}
		}},
		{"gateways of a fleet have no access to the API", "mode: fleet", func(t *testing.T, objs objects) {
			pod := podOf(t, objs.get(t, "Deployment weir-system/weir"))
			for _, v := range slice(t, pod, "volumes") {
				if _, ok := v["projected"]; ok {
					t.Errorf("a gateway has the volume %v", v["name"])
				}
			}
			for _, kind := range []string{"RoleBinding", "ClusterRoleBinding"} {
				for _, b := range objs.of(kind) {
					subjects, _, _ := unstructured.NestedSlice(b.Object, "subjects")
					for _, s := range subjects {
						if name := s.(map[string]any)["name"]; name != "weir-control" {
							t.Errorf("%s is for %v", key(b), name)
						}
					}
				}
			}
		}},
		{"no rules of RBAC", "rbac: {create: false}", func(t *testing.T, objs objects) {
			for _, kind := range []string{"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"} {
				if len(objs.of(kind)) > 0 {
					t.Errorf("there are %q", objs.of(kind).keys())
				}
			}
		}},
		{"namespaces take no cluster rights", "{watch: {namespaces: [a, b]}, rbac: {tenantRoles: false}}", func(t *testing.T, objs objects) {
			for _, want := range []string{"Role a/weir-watch", "Role b/weir-watch", "RoleBinding a/weir-watch", "RoleBinding b/weir-watch"} {
				objs.get(t, want)
			}
			if n := len(objs.of("ClusterRole")) + len(objs.of("ClusterRoleBinding")); n > 0 {
				t.Errorf("there are %d cluster-wide rules and bindings", n)
			}
		}},
		{"labels of all Namespaces", "rbac: {namespaceLabels: true}", func(t *testing.T, objs objects) {
			rules, _, _ := unstructured.NestedSlice(objs.get(t, "ClusterRole weir-system-weir-namespaces").Object, "rules")
			if rule := rules[0].(map[string]any); len(rules) != 1 || rule["resourceNames"] != nil || fmt.Sprint(rule["resources"]) != "[namespaces]" {
				t.Errorf("rules %v", rules)
			}
		}},
		{"labels of some Namespaces", "{watch: {namespaces: [a, b]}, rbac: {namespaceLabels: true, tenantRoles: false}}", func(t *testing.T, objs objects) {
			rules, _, _ := unstructured.NestedSlice(objs.get(t, "ClusterRole weir-system-weir-namespaces").Object, "rules")
			if rule := rules[0].(map[string]any); len(rules) != 1 || fmt.Sprint(rule["resourceNames"]) != "[a b]" {
				t.Errorf("rules %v", rules)
			}
			if n := len(objs.of("ClusterRole")) + len(objs.of("ClusterRoleBinding")); n != 2 {
				t.Errorf("there are %d cluster-wide rules and bindings", n)
			}
		}},
		{"all Secrets of a namespace", "rbac: {secrets: [{namespace: a, allNames: true}]}", func(t *testing.T, objs objects) {
			rules, _, _ := unstructured.NestedSlice(objs.get(t, "Role a/weir-secrets").Object, "rules")
			if _, ok := rules[0].(map[string]any)["resourceNames"]; ok || len(rules) != 1 {
				t.Errorf("rules %v", rules)
			}
		}},
		{"pools of inference servers", "rbac: {discovery: {inferencePools: true, pods: false}}", func(t *testing.T, objs objects) {
			got := resources(t, objs.get(t, "ClusterRole weir-system-weir-watch"))
			if !slices.Contains(got, "inferencepools") || slices.Contains(got, "pods") || !slices.Contains(got, "endpointslices") {
				t.Errorf("resources %q", got)
			}
		}},
		{"digests", "{image: {digest: '" + digest + "'}, gateway: {envoy: {image: {digest: '" + digest + "'}}}}", func(t *testing.T, objs objects) {
			for _, c := range containersOf(t, podOf(t, objs.get(t, "Deployment weir-system/weir"))) {
				if image, _ := c["image"].(string); !strings.HasSuffix(image, "@"+digest) {
					t.Errorf("%v has the image %v", c["name"], image)
				}
			}
		}},
		{"time to end", "gateway: {drain: {delaySeconds: 20, timeoutSeconds: 600}}", func(t *testing.T, objs objects) {
			pod := podOf(t, objs.get(t, "Deployment weir-system/weir"))
			if got := number(t, pod, "terminationGracePeriodSeconds"); got != 635 {
				t.Errorf("%d s", got)
			}
			got := args(t, objs, "Deployment weir-system/weir", "weir")
			if !slices.Contains(got, "--drain-delay=20s") || !slices.Contains(got, "--drain-timeout=600s") {
				t.Errorf("weir gets %q", got)
			}
		}},
		{"autoscaler sets the number", "gateway: {autoscaling: {enabled: true}}", func(t *testing.T, objs objects) {
			if _, found, _ := unstructured.NestedFieldNoCopy(objs.get(t, "Deployment weir-system/weir").Object, "spec", "replicas"); found {
				t.Error("the Deployment sets it too")
			}
			if kind, _, _ := unstructured.NestedString(objs.get(t, "HorizontalPodAutoscaler weir-system/weir").Object, "spec", "scaleTargetRef", "kind"); kind != "Deployment" {
				t.Errorf("it scales a %s", kind)
			}
		}},
		{"a volume for each replica", "gateway: {persistence: {enabled: true, storageClassName: fast}, autoscaling: {enabled: true}}", func(t *testing.T, objs objects) {
			set := objs.get(t, "StatefulSet weir-system/weir")
			claims, _, _ := unstructured.NestedSlice(set.Object, "spec", "volumeClaimTemplates")
			if class, _, _ := unstructured.NestedString(claims[0].(map[string]any), "spec", "storageClassName"); class != "fast" {
				t.Errorf("storage class %q", class)
			}
			service, _, _ := unstructured.NestedString(set.Object, "spec", "serviceName")
			objs.get(t, "Service weir-system/"+service)
			if kind, _, _ := unstructured.NestedString(objs.get(t, "HorizontalPodAutoscaler weir-system/weir").Object, "spec", "scaleTargetRef", "kind"); kind != "StatefulSet" {
				t.Errorf("a %s is scaled", kind)
			}
		}},
		{"a network policy that lets nobody at the admin port", "networkPolicy: {adminFrom: []}", func(t *testing.T, objs objects) {
			rules, _, _ := unstructured.NestedSlice(objs.get(t, "NetworkPolicy weir-system/weir").Object, "spec", "ingress")
			if len(rules) != 1 {
				t.Errorf("rules %v", rules)
			}
		}},
		{"a fleet that reaches little", "{mode: fleet, networkPolicy: {egress: {restrict: true, internet: false}}}", func(t *testing.T, objs objects) {
			for name, want := range map[string]int{"weir": 2, "weir-control": 3} { // DNS, the control plane, and for that the API
				p := objs.get(t, "NetworkPolicy weir-system/"+name)
				rules, _, _ := unstructured.NestedSlice(p.Object, "spec", "egress")
				types, _, _ := unstructured.NestedStringSlice(p.Object, "spec", "policyTypes")
				if len(rules) != want || !slices.Contains(types, "Egress") {
					t.Errorf("%s: %v %v", name, types, rules)
				}
			}
		}},
		{"certificates of others", "{mode: fleet, control: {tls: {source: existing, existing: {serverSecret: s, clientSecret: c}}}}", func(t *testing.T, objs objects) {
			if n := len(objs.of("Certificate")) + len(objs.of("Issuer")); n > 0 {
				t.Errorf("%d objects of cert-manager", n)
			}
			for name, want := range map[string]string{"weir": "c", "weir-control": "s"} {
				found := false
				for _, v := range slice(t, podOf(t, objs.get(t, "Deployment weir-system/"+name)), "volumes") {
					secret, _, _ := unstructured.NestedString(v, "secret", "secretName")
					found = found || secret == want
				}
				if !found {
					t.Errorf("%s does not mount the Secret %s", name, want)
				}
			}
		}},
		{"who may connect to the control plane", "{mode: fleet, control: {tls: {allow: ['*.apps.example.com']}}, networkPolicy: {controlFrom: [{namespaceSelector: {}}]}}", func(t *testing.T, objs objects) {
			got := args(t, objs, "Deployment weir-system/weir-control", "weir")
			if !slices.Contains(got, "--allow=weir-gateway.weir-system.svc") || !slices.Contains(got, "--allow=*.apps.example.com") {
				t.Errorf("the control plane gets %q", got)
			}
			names, _, _ := unstructured.NestedStringSlice(objs.get(t, "Certificate weir-system/weir-client").Object, "spec", "dnsNames")
			if !slices.Equal(names, []string{"weir-gateway.weir-system.svc"}) {
				t.Errorf("gateways are %q", names)
			}
			from := slice(t, slice(t, objs.get(t, "NetworkPolicy weir-system/weir-control").Object, "spec", "ingress")[0], "from")
			if len(from) != 3 { // gateways, its other replicas, and those
				t.Errorf("it is reached from %v", from)
			}
			if !slices.Contains(got, "--peers=weir-control-admin.weir-system.svc:18000") {
				t.Errorf("the control plane gets %q: its replicas share nothing", got)
			}
		}},
		{"an authority of others", "{mode: fleet, control: {tls: {certManager: {issuerRef: {name: corp, kind: ClusterIssuer}}}}}", func(t *testing.T, objs objects) {
			if len(objs.of("Issuer")) > 0 || len(objs.of("Certificate")) != 2 {
				t.Errorf("%q", objs.keys())
			}
			for _, c := range objs.of("Certificate") {
				if name, _, _ := unstructured.NestedString(c.Object, "spec", "issuerRef", "name"); name != "corp" {
					t.Errorf("%s is signed by %q", key(c), name)
				}
			}
		}},
		{"no definitions", "crds: {install: false}", func(t *testing.T, objs objects) {
			if len(objs.of("CustomResourceDefinition")) > 0 {
				t.Error("there are some")
			}
		}},
		{"definitions stay", "", func(t *testing.T, objs objects) {
			for _, crd := range objs.of("CustomResourceDefinition") {
				if crd.GetAnnotations()["helm.sh/resource-policy"] != "keep" {
					t.Errorf("%s would go with the release, and all objects with it", key(crd))
				}
			}
		}},
		{"another name", "fullnameOverride: llm", func(t *testing.T, objs objects) {
			objs.get(t, "Deployment weir-system/llm")
			objs.get(t, "ServiceAccount weir-system/llm")
		}},
	}
	var jobs []job
	for _, c := range cases {
		jobs = append(jobs, helm(c.values))
	}
	out := render(t, jobs...)
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.check(t, out[i].objects(t)) })
	}
}

const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
