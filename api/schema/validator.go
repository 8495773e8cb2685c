// Package schema validates Weir's API objects exactly as a Kubernetes API server would: the same
// CustomResourceDefinitions, through the same libraries, in the same order. A folder of files therefore
// accepts and refuses what a cluster accepts and refuses.
package schema

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	schemacel "k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"

	crds "github.com/weir-dev/weir/deploy/crds"
)

// Kind is one kind of object that the validator knows.
type Kind struct {
	APIVersion string // as documents write it: weir.dev/v1alpha1
	Kind       string // Backend
}

// Validator validates objects of every kind of Weir's API. It is safe for concurrent use.
type Validator struct {
	kinds map[Kind]*kindValidator
	names []Kind
}

// kindValidator validates one kind. Its rules are compiled when the first object of the kind comes by, so
// that a start pays only for the kinds it uses.
type kindValidator struct {
	compile func() (*compiled, error)
}

// compiled holds everything an API server prepares for one version of a CustomResourceDefinition.
type compiled struct {
	structural *structuralschema.Structural
	openapi    validation.SchemaValidator
	cel        *schemacel.Validator // nil without rules
	hasStatus  bool                 // the status subresource exists: a document cannot set status
}

// New reads the CustomResourceDefinitions that are embedded in the program.
func New() (*Validator, error) { return newFromFS(crds.FS) }

func newFromFS(fsys fs.FS) (*Validator, error) {
	files, err := fs.Glob(fsys, "*.yaml")
	if err != nil {
		return nil, fmt.Errorf("list CustomResourceDefinitions: %w", err)
	}
	v := &Validator{kinds: map[Kind]*kindValidator{}}
	for _, f := range files {
		raw, err := fs.ReadFile(fsys, f)
		if err != nil {
			return nil, fmt.Errorf("read CustomResourceDefinition %s: %w", f, err)
		}
		if err := v.add(raw); err != nil {
			return nil, fmt.Errorf("CustomResourceDefinition %s: %w", f, err)
		}
	}
	if len(v.kinds) == 0 {
		return nil, fmt.Errorf("no CustomResourceDefinitions found")
	}
	for k := range v.kinds {
		v.names = append(v.names, k)
	}
	slices.SortFunc(v.names, func(a, b Kind) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.APIVersion, b.APIVersion))
	})
	return v, nil
}

func (v *Validator) add(raw []byte) error {
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(raw, &crd); err != nil {
		return err
	}
	for _, version := range crd.Spec.Versions {
		if !version.Served {
			continue
		}
		if version.Schema == nil || version.Schema.OpenAPIV3Schema == nil {
			return fmt.Errorf("version %s has no schema", version.Name)
		}
		k := Kind{APIVersion: crd.Spec.Group + "/" + version.Name, Kind: crd.Spec.Names.Kind}
		v.kinds[k] = &kindValidator{compile: sync.OnceValues(func() (*compiled, error) { return compileVersion(&version) })}
	}
	return nil
}

func compileVersion(version *apiextensionsv1.CustomResourceDefinitionVersion) (*compiled, error) {
	var internal apiextensions.JSONSchemaProps
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(version.Schema.OpenAPIV3Schema, &internal, nil); err != nil {
		return nil, fmt.Errorf("convert schema: %w", err)
	}
	structural, err := structuralschema.NewStructural(&internal)
	if err != nil {
		return nil, fmt.Errorf("schema is not structural: %w", err)
	}
	openapi, _, err := validation.NewSchemaValidator(&internal)
	if err != nil {
		return nil, fmt.Errorf("build schema validator: %w", err)
	}
	return &compiled{
		structural: structural,
		openapi:    openapi,
		cel:        schemacel.NewValidator(structural, true, celconfig.PerCallLimit),
		hasStatus:  version.Subresources != nil && version.Subresources.Status != nil,
	}, nil
}

// Kinds lists the kinds that Validate knows, by name.
func (v *Validator) Kinds() []Kind { return slices.Clone(v.names) }

// Validate runs what an API server runs when an object is created: it finds unknown fields (an error here, as
// with kubectl), drops nulls, fills in defaults (the namespace too: "default"), and checks the metadata,
// the OpenAPI schema, list keys and sets, and the CEL rules.
//
// It returns a new object with the defaults filled in, whether or not there were errors; obj is not
// changed. As on an API server the status of obj is dropped. Errors come in the order of their fields and
// carry no value where the value might be a secret.
func (v *Validator) Validate(obj map[string]any) (map[string]any, field.ErrorList) {
	copied, err := normalize(obj)
	if err != nil {
		return nil, field.ErrorList{err}
	}
	out := copied.(map[string]any)

	apiVersion, _ := out["apiVersion"].(string)
	kind, _ := out["kind"].(string)
	kv, ok := v.kinds[Kind{APIVersion: apiVersion, Kind: kind}]
	if !ok {
		return out, field.ErrorList{v.unknownKind(apiVersion, kind)}
	}
	c, cerr := kv.compile()
	if cerr != nil {
		return out, field.ErrorList{field.InternalError(nil, fmt.Errorf("the schema of %s does not compile: %w", kind, cerr))}
	}
	errs := c.validate(out)
	return out, tidy(errs, c.structural, out)
}

// validate changes obj in place: see Validate.
func (c *compiled) validate(obj map[string]any) field.ErrorList {
	meta, errs := decodeMetadata(obj)

	options := structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}
	for _, path := range pruning.PruneWithOptions(obj, c.structural, true, options) {
		errs = append(errs, unknownField(path, structuralCandidates(c.structural, path)))
	}
	defaulting.PruneNonNullableNullsWithoutDefaults(obj, c.structural)
	if c.hasStatus {
		delete(obj, "status")
	}
	defaulting.Default(obj, c.structural)
	errs = append(errs, validateMetadata(obj, meta)...)

	errs = append(errs, validation.ValidateCustomResource(nil, obj, c.openapi)...)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, c.structural, obj)...)
	// Rules are written for objects that fit the schema; on others they only add noise.
	if c.cel != nil && !blocksRules(errs) {
		ruleErrs, _ := c.cel.Validate(context.Background(), nil, c.structural, obj, nil, celconfig.RuntimeCELCostBudget)
		errs = append(errs, ruleErrs...)
	}
	return errs
}

// blocksRules tells the errors after which an API server does not evaluate CEL rules.
func blocksRules(errs field.ErrorList) bool {
	return slices.ContainsFunc(errs, func(e *field.Error) bool {
		switch e.Type {
		case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
			return true
		}
		return false
	})
}
