package deploy

import (
	"context"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/weir-dev/weir/test/kubetest"
)

// installOthers makes the kinds of other projects that manifests use. Their fields are not checked: that is for those projects.
func installOthers(t *testing.T, ctx context.Context, c *kubetest.Cluster) {
	t.Helper()
	var docs []string
	for _, k := range []struct {
		group, version, kind string
		scope                apiextensionsv1.ResourceScope
	}{
		{"monitoring.coreos.com", "v1", "ServiceMonitor", apiextensionsv1.NamespaceScoped},
		{"monitoring.coreos.com", "v1", "PrometheusRule", apiextensionsv1.NamespaceScoped},
		{"cert-manager.io", "v1", "Certificate", apiextensionsv1.NamespaceScoped},
		{"cert-manager.io", "v1", "Issuer", apiextensionsv1.NamespaceScoped},
		{"argoproj.io", "v1alpha1", "Application", apiextensionsv1.NamespaceScoped},
		{"policies.kyverno.io", "v1", "ValidatingPolicy", apiextensionsv1.ClusterScoped},
	} {
		plural := strings.ToLower(k.kind) + "s"
		if base, ok := strings.CutSuffix(plural, "ys"); ok {
			plural = base + "ies"
		}
		keep := true
		crd := apiextensionsv1.CustomResourceDefinition{
			TypeMeta:   metav1.TypeMeta{APIVersion: "apiextensions.k8s.io/v1", Kind: "CustomResourceDefinition"},
			ObjectMeta: metav1.ObjectMeta{Name: plural + "." + k.group},
			Spec: apiextensionsv1.CustomResourceDefinitionSpec{
				Group: k.group, Scope: k.scope,
				Names: apiextensionsv1.CustomResourceDefinitionNames{Kind: k.kind, Plural: plural, Singular: strings.ToLower(k.kind), ListKind: k.kind + "List"},
				Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
					Name: k.version, Served: true, Storage: true,
					Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &keep}},
				}},
			},
		}
		text, err := yaml.Marshal(crd)
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, string(text))
	}
	if _, err := c.Apply(ctx, []byte(strings.Join(docs, "---\n")), kubetest.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
}
