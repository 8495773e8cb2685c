package schema

import (
	"context"
	"fmt"
	"sort"

	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apimachinery/pkg/api/operation"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// decodeMetadata reads metadata as an API server does and reports unknown and mistyped fields of it.
func decodeMetadata(obj map[string]any) (*metav1.ObjectMeta, field.ErrorList) {
	raw, found := obj["metadata"]
	if !found || raw == nil {
		return &metav1.ObjectMeta{}, nil
	}
	asMap, ok := raw.(map[string]any)
	if !ok {
		return &metav1.ObjectMeta{}, field.ErrorList{field.TypeInvalid(field.NewPath("metadata"), field.OmitValueType{}, "must be an object")}
	}
	options := objectmeta.ObjectMetaOptions{ReturnUnknownFieldPaths: true}
	meta, _, unknown, err := objectmeta.GetObjectMetaWithOptions(obj, options)
	if err != nil {
		// The library's error names Go types. Find the fields that do not decode, and go on with the rest so
		// that the remaining problems are found in the same run.
		errs := metadataTypeErrors(asMap)
		if len(errs) == 0 {
			errs = field.ErrorList{field.Invalid(field.NewPath("metadata"), field.OmitValueType{}, err.Error())}
		}
		options.DropMalformedFields = true
		if meta, _, unknown, err = objectmeta.GetObjectMetaWithOptions(obj, options); err != nil {
			return &metav1.ObjectMeta{}, errs
		}
		return meta, append(errs, unknownMetadata(unknown)...)
	}
	return meta, unknownMetadata(unknown)
}

func unknownMetadata(paths []string) field.ErrorList {
	var errs field.ErrorList
	for _, path := range paths {
		errs = append(errs, unknownField(path, metadataCandidates(path)))
	}
	return errs
}

// metadataCandidates are the fields of metadata that people write, for "did you mean".
func metadataCandidates(path string) []string {
	if _, parent := lastKey(path); parent != "metadata" {
		return nil
	}
	return []string{"name", "namespace", "labels", "annotations", "finalizers", "ownerReferences", "generateName"}
}

// metadataTypeErrors finds which fields, or entries of labels and annotations, have a wrong type.
func metadataTypeErrors(meta map[string]any) field.ErrorList {
	decodes := func(v map[string]any) bool {
		_, _, err := objectmeta.GetObjectMeta(map[string]any{"metadata": v}, false)
		return err == nil
	}
	var errs field.ErrorList
	path := field.NewPath("metadata")
	for _, k := range sortedKeys(meta) {
		if decodes(map[string]any{k: meta[k]}) {
			continue
		}
		entries, isMap := meta[k].(map[string]any)
		if !isMap {
			errs = append(errs, field.TypeInvalid(path.Child(k), field.OmitValueType{}, fmt.Sprintf("must not be %s", jsonType(meta[k]))))
			continue
		}
		for _, name := range sortedKeys(entries) {
			if !decodes(map[string]any{k: map[string]any{name: entries[name]}}) {
				errs = append(errs, field.TypeInvalid(path.Child(k).Key(name), field.OmitValueType{},
					fmt.Sprintf("must be a string, not %s: put the value in quotes", jsonType(entries[name]))))
			}
		}
	}
	return errs
}

// validateMetadata defaults the namespace, checks names, labels and annotations, and puts the decoded
// metadata back into obj, without fields that are unknown.
func validateMetadata(obj map[string]any, meta *metav1.ObjectMeta) field.ErrorList {
	if meta.Namespace == "" {
		meta.Namespace = metav1.NamespaceDefault
	}
	errs := apivalidation.ValidateObjectMetaDeclaratively(context.Background(), operation.Create, meta, nil, true,
		apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"), true)
	for _, e := range errs {
		if e.Field == "metadata.name" && e.Type == field.ErrorTypeRequired {
			e.Detail = ""
		}
	}
	if err := objectmeta.SetObjectMeta(obj, meta); err != nil {
		errs = append(errs, field.InternalError(field.NewPath("metadata"), err))
	}
	return errs
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
