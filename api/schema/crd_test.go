package schema

import (
	"context"
	"io/fs"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"sigs.k8s.io/yaml"

	crds "github.com/weir-dev/weir/deploy/crds"
)

// A real API server runs exactly this function before it accepts a CustomResourceDefinition: structural
// schema, defaults that fit their own schema, CEL rules that compile and stay within the cost budget.
func TestAPIServerAcceptsCRDs(t *testing.T) {
	files, err := fs.Glob(crds.FS, "*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no CRDs embedded: %v", err)
	}
	for _, f := range files {
		t.Run(f, func(t *testing.T) {
			raw, err := fs.ReadFile(crds.FS, f)
			if err != nil {
				t.Fatal(err)
			}
			for _, err := range apiServerErrors(t, raw) {
				t.Error(err)
			}
		})
	}
}

func apiServerErrors(t *testing.T, raw []byte) []string {
	t.Helper()
	var v1 apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(raw, &v1); err != nil {
		t.Fatal(err)
	}
	apiextensionsv1.SetDefaults_CustomResourceDefinition(&v1)
	apiextensionsv1.SetDefaults_CustomResourceDefinitionSpec(&v1.Spec)
	var crd apiextensions.CustomResourceDefinition
	if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(&v1, &crd, nil); err != nil {
		t.Fatal(err)
	}
	// The server's own strategy fills these in before it validates.
	for _, v := range crd.Spec.Versions {
		if v.Storage {
			crd.Status.StoredVersions = []string{v.Name}
		}
	}
	var out []string
	for _, e := range validation.ValidateCustomResourceDefinition(context.Background(), &crd) {
		out = append(out, e.Error())
	}
	return out
}
