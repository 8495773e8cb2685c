package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// prometheusRule wraps the alerts for the Prometheus Operator. Their YAML stays as it is written.
func prometheusRule(deploy fs.FS, out map[string][]byte) error {
	names, err := fs.Glob(deploy, "prometheus/*-alerts.yaml")
	if err != nil {
		return err
	}
	var b bytes.Buffer
	b.WriteString(`# Made by deploy/gen from deploy/prometheus.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: weir
  namespace: weir-system
spec:
  groups:
`)
	for _, name := range names {
		text, err := fs.ReadFile(deploy, name)
		if err != nil {
			return err
		}
		_, groups, ok := bytes.Cut(text, []byte("\ngroups:\n"))
		if !ok {
			return fmt.Errorf("%s has no line with groups: alone", name)
		}
		b.Write(indent(groups, "  "))
	}
	out["kustomize/overlays/production/additions/prometheusrule.yaml"] = b.Bytes()
	return nil
}

// argoCD writes the ConfigMap by which Argo CD judges the health of each kind. A key of it names one kind.
func argoCD(deploy fs.FS, out map[string][]byte) error {
	lua, err := fs.ReadFile(deploy, "argocd/health.lua")
	if err != nil {
		return err
	}
	names, err := fs.Glob(deploy, "crds/*.yaml")
	if err != nil {
		return err
	}
	var b bytes.Buffer
	b.WriteString(`# Made by deploy/gen from health.lua. Merge it into Argo CD's own ConfigMap:
#
#   kubectl patch configmap argocd-cm -n argocd --type merge --patch-file deploy/argocd/argocd-cm.yaml
apiVersion: v1
kind: ConfigMap
metadata:
  name: argocd-cm
  namespace: argocd
  labels:
    app.kubernetes.io/name: argocd-cm
    app.kubernetes.io/part-of: argocd
data:
`)
	for _, name := range names {
		text, err := fs.ReadFile(deploy, name)
		if err != nil {
			return err
		}
		var crd apiextensionsv1.CustomResourceDefinition
		if err := yaml.Unmarshal(text, &crd); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		fmt.Fprintf(&b, "  resource.customizations.health.%s_%s: |\n", crd.Spec.Group, crd.Spec.Names.Kind)
		b.Write(indent(lua, "    "))
	}
	out["argocd/argocd-cm.yaml"] = b.Bytes()
	return nil
}

// What a Kyverno policy has in place of the beginning of a ValidatingAdmissionPolicy, and in place of its binding.
const (
	admissionHead = "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy\n"
	kyvernoHead   = "apiVersion: policies.kyverno.io/v1\nkind: ValidatingPolicy\n"
	admissionSpec = "spec:\n  failurePolicy: Fail\n"
	kyvernoSpec   = "spec:\n  failurePolicy: Fail\n  validationActions: [Deny]\n  evaluation:\n    admission: {enabled: true}\n    background: {enabled: true}\n"
	variables     = "  variables:\n"
	selection     = "  matchResources:\n" // of a binding
)

// kyverno turns each ValidatingAdmissionPolicy and its binding into a Kyverno ValidatingPolicy, whose language is the same. It is done on the text, so
// that comments stay.
func kyverno(deploy fs.FS, out map[string][]byte) error {
	names, err := fs.Glob(deploy, "admission/*.yaml")
	if err != nil {
		return err
	}
	for _, name := range names {
		if path.Base(name) == "kustomization.yaml" {
			continue
		}
		text, err := fs.ReadFile(deploy, name)
		if err != nil {
			return err
		}
		policy, binding, ok := bytes.Cut(text, []byte("---\n"))
		if !ok {
			return fmt.Errorf("%s: want a policy and its binding, in this order", name)
		}
		for _, r := range []struct{ old, new string }{
			{admissionHead, "# Made by deploy/gen from deploy/admission.\n" + kyvernoHead}, {admissionSpec, kyvernoSpec},
		} {
			if bytes.Count(policy, []byte(r.old)) != 1 {
				return fmt.Errorf("%s: want this once:\n%s", name, r.old)
			}
			policy = bytes.Replace(policy, []byte(r.old), []byte(r.new), 1)
		}
		// What a binding selects namespaces by stands in the constraints of a Kyverno policy, which end where the variables begin.
		if _, selector, ok := bytes.Cut(binding, []byte(selection)); ok {
			policy = bytes.Replace(policy, []byte(variables), append(selector, variables...), 1)
		}
		out["kyverno/"+path.Base(name)] = policy
	}
	return nil
}
