package schema

import (
	"encoding/json"
	"fmt"
	"math"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxExactInt is the largest integer up to which a float64 holds every integer.
const maxExactInt = 1 << 53

// normalize copies v and gives every number the Go type that an API server's JSON decoder gives it: int64
// where the number is an integer, else float64. 80.0 is the integer 80 there, since YAML becomes JSON first.
func normalize(v any) (any, *field.Error) {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			n, err := normalize(e)
			if err != nil {
				return nil, err
			}
			out[k] = n
		}
		return out, nil
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			n, err := normalize(e)
			if err != nil {
				return nil, err
			}
			out[i] = n
		}
		return out, nil
	case nil, string, bool, int64:
		return v, nil
	case int:
		return int64(v), nil
	case int32:
		return int64(v), nil
	case uint64:
		if v <= math.MaxInt64 {
			return int64(v), nil
		}
		return float64(v), nil
	case float32:
		return normalize(float64(v))
	case float64:
		if v == math.Trunc(v) && math.Abs(v) <= maxExactInt {
			return int64(v), nil
		}
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, field.Invalid(nil, fmt.Sprint(v), "is not a number JSON can hold")
		}
		return v, nil
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return i, nil
		}
		f, err := v.Float64()
		if err != nil {
			return nil, field.Invalid(nil, v.String(), "is not a number")
		}
		return normalize(f)
	default:
		return nil, field.Invalid(nil, field.OmitValueType{}, fmt.Sprintf("a %T is not a JSON value", v))
	}
}

// jsonType names the type of a decoded value as a reader of YAML knows it.
func jsonType(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case int64, float64:
		return "a number"
	case string:
		return "a string"
	case []any:
		return "a list"
	default:
		return "an object"
	}
}
