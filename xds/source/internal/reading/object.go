// Package reading holds what every source of objects does with what it reads: decode objects, say what is wrong with them, read the
// values they point to, and wait until a burst of changes is over.
package reading

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
)

// Decode makes a typed object of one that the schema has let pass.
func Decode(kind string, value map[string]any) (source.Object, error) {
	obj, ok := source.NewObject(kind)
	if !ok {
		return nil, fmt.Errorf("this version of Weir does not read kind %s", kind)
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(value, obj); err != nil {
		return nil, fmt.Errorf("does not fit the type: %w", err)
	}
	return obj, nil
}

// Readable makes a typed object of what fits the type in one that the schema has not let pass, field by field of its spec; nil where not even its
// metadata does. A LimitPolicy keeps as many limits as it has, and policies keep the targets of kinds that are known, so that it can be told
// whom they limit.
func Readable(kind string, value map[string]any) source.Object {
	whole, _ := value["spec"].(map[string]any)
	spec := make(map[string]any, len(whole))
	decode := func() source.Object {
		obj, err := Decode(kind, map[string]any{"apiVersion": value["apiVersion"], "kind": value["kind"], "metadata": value["metadata"], "spec": spec})
		if err != nil {
			return nil
		}
		return obj
	}
	for name, field := range whole {
		if spec[name] = field; decode() != nil {
			continue
		}
		list, _ := field.([]any)
		var fit []any
		for _, item := range list {
			if spec[name] = []any{item}; decode() != nil {
				fit = append(fit, item)
			}
		}
		if spec[name] = fit; fit == nil {
			delete(spec, name)
		}
	}
	obj := decode()
	switch o := obj.(type) {
	case *v1alpha1.LimitPolicy:
		o.Spec.TargetRefs, o.Spec.Models = known(o.Spec.TargetRefs), all(o.Spec.Models, whole["models"])
		limits, _ := whole["limits"].([]any)
		for len(o.Spec.Limits) < len(limits) {
			o.Spec.Limits = append(o.Spec.Limits, v1alpha1.Limit{})
		}
	case *v1alpha1.Budget:
		o.Spec.TargetRefs, o.Spec.Models = known(o.Spec.TargetRefs), all(o.Spec.Models, whole["models"])
	}
	return obj
}

// known are the targets of kinds that this Weir knows.
func known(targets []v1alpha1.PolicyTarget) []v1alpha1.PolicyTarget {
	return slices.DeleteFunc(targets, func(t v1alpha1.PolicyTarget) bool {
		switch t.Kind {
		case v1alpha1.TargetGateway, v1alpha1.TargetRoute, v1alpha1.TargetTenant, v1alpha1.TargetConsumer, v1alpha1.TargetAPIKey:
			return false
		}
		return true
	})
}

// all are the models that a policy is narrowed to; nil, which is any model, where some cannot be read.
func all(read []v1alpha1.ModelName, written any) []v1alpha1.ModelName {
	if list, _ := written.([]any); len(read) < len(list) {
		return nil
	}
	return read
}

// Path is the field that a validation error is about, as Problem.Field has it; "" where it is the whole object.
func Path(e *field.Error) string {
	if e.Field == "<nil>" {
		return ""
	}
	return e.Field
}

// Unknown says whether a validation error is about a field that the schema does not have.
func Unknown(e *field.Error) bool {
	return e.Type == field.ErrorTypeForbidden && strings.HasPrefix(e.Detail, "unknown field")
}

// Message says a validation error as a sentence.
func Message(e *field.Error) string {
	if e.Type == field.ErrorTypeRequired {
		if e.Detail != "" {
			return "required, but missing; " + e.Detail
		}
		return "required, but missing"
	}
	if Unknown(e) {
		return e.Detail
	}
	body := e.ErrorBody()
	return strings.ToLower(body[:1]) + body[1:]
}
