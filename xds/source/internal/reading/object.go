// Package reading holds what every source of objects does with what it reads: decode objects, say what is wrong with them, read the
// values they point to, and wait until a burst of changes is over.
package reading

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

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
