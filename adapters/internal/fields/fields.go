// Package fields reads the fields of requests in OpenAI's dialects, Chat Completions and Responses, and says what is wrong with one in the
// words that both share.
package fields

import (
	"encoding/json"
	"fmt"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// Bad is the error of one field. Its message continues the field's name to a sentence ("must be a string"); the callers put their own names in
// front of the field with Under, and Sentence joins the two at the end. So a correct request never pays for a path.
func Bad(field, format string, args ...any) *canon.Error {
	return &canon.Error{Kind: canon.ErrInvalidRequest, Param: field, Message: fmt.Sprintf(format, args...)}
}

// Cannot is the error of a field that OpenAI itself may accept and canon cannot carry.
func Cannot(field, format string, args ...any) *canon.Error {
	e := Bad(field, format, args...)
	e.Code = canon.CodeNotTranslatable
	return e
}

// Under puts prefix in front of the error's field.
func Under(e *canon.Error, prefix string) *canon.Error {
	switch {
	case e.Param == "":
		e.Param = prefix
	case e.Param[0] == '[':
		e.Param = prefix + e.Param
	default:
		e.Param = prefix + "." + e.Param
	}
	return e
}

// At puts an array's name and index in front of the error's field.
func At(e *canon.Error, array string, i int) *canon.Error {
	return Under(e, fmt.Sprintf("%s[%d]", array, i))
}

// Sentence gives an error the form in which callers read it.
func Sentence(e *canon.Error) *canon.Error {
	if e.Param != "" {
		e.Message = e.Param + " " + e.Message
	}
	return e
}

// WrongKind is the error of a field that has another JSON type than it should.
func WrongKind(field, want string, v jsonx.Value) *canon.Error {
	if v.Kind() == jsonx.None {
		return Bad(field, "is required and must be %s", want)
	}
	return Bad(field, "must be %s, not %s", want, v.Kind())
}

// OptBool reads a boolean; nil where it is absent or null.
func OptBool(v jsonx.Value, field string) (*bool, *canon.Error) {
	if v.Missing() {
		return nil, nil
	}
	b, ok := v.Bool()
	if !ok {
		return nil, WrongKind(field, "a boolean", v)
	}
	return &b, nil
}

// OptInt reads a whole number; nil where it is absent or null.
func OptInt(v jsonx.Value, field string) (*int64, *canon.Error) {
	if v.Missing() {
		return nil, nil
	}
	n, ok := v.Int()
	if !ok {
		if v.Kind() == jsonx.Number {
			return nil, Bad(field, "must be a whole number of 64 bits")
		}
		return nil, WrongKind(field, "a whole number", v)
	}
	return &n, nil
}

// OptFloat reads a number from low to high; nil where it is absent or null.
func OptFloat(v jsonx.Value, field string, low, high float64) (*float64, *canon.Error) {
	if v.Missing() {
		return nil, nil
	}
	f, ok := v.Float()
	if !ok && v.Kind() != jsonx.Number {
		return nil, WrongKind(field, "a number", v)
	}
	if !ok || f < low || f > high {
		return nil, Bad(field, "must be between %v and %v", low, high)
	}
	return &f, nil
}

// OptString reads a string; "" where it is absent or null.
func OptString(v jsonx.Value, field string) (string, *canon.Error) {
	if v.Missing() {
		return "", nil
	}
	if v.Kind() != jsonx.String {
		return "", WrongKind(field, "a string", v)
	}
	return v.Share(), nil
}

// ReqString reads a string that must be there and hold something.
func ReqString(v jsonx.Value, field string) (string, *canon.Error) {
	if v.Kind() != jsonx.String {
		return "", WrongKind(field, "a string", v)
	}
	if len(v) == len(`""`) {
		return "", Bad(field, "must not be empty")
	}
	return v.Share(), nil
}

// Clip shortens what a caller sent for use in an error.
func Clip(s string) string { return clip(s, 40) }

// ClipID is Clip for IDs, of which Weir's own are shown whole.
func ClipID(s string) string { return clip(s, 128) }

func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}

// Schema reads the JSON Schema that an answer is asked in, and its name, of an object at path.
func Schema(v interface{ Get(name string) jsonx.Value }, path, want string) (*canon.Format, *canon.Error) {
	name, err := ReqString(v.Get("name"), path+".name")
	if err != nil {
		return nil, err
	}
	schema := v.Get("schema")
	if schema.Kind() != jsonx.Object {
		return nil, WrongKind(path+".schema", want, schema)
	}
	strict, err := OptBool(v.Get("strict"), path+".strict")
	if err != nil {
		return nil, err
	}
	return &canon.Format{Kind: canon.FormatSchema, Name: name, Schema: json.RawMessage(schema), Strict: strict}, nil
}
