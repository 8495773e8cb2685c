package responses

import (
	"fmt"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// bad is the error of one field. Its message continues the field's name to a sentence ("must be a string"); the callers put their own
// names in front of the field with under, and sentence joins the two at the end. So a correct request never pays for a path.
func bad(field, format string, args ...any) *canon.Error {
	return &canon.Error{Kind: canon.ErrInvalidRequest, Param: field, Message: fmt.Sprintf(format, args...)}
}

// cannot is the error of a field that OpenAI itself may accept and canon cannot carry.
func cannot(field, format string, args ...any) *canon.Error {
	e := bad(field, format, args...)
	e.Code = canon.CodeNotTranslatable
	return e
}

// under puts prefix in front of the error's field.
func under(e *canon.Error, prefix string) *canon.Error {
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

// at puts an array's name and index in front of the error's field.
func at(e *canon.Error, array string, i int) *canon.Error {
	return under(e, fmt.Sprintf("%s[%d]", array, i))
}

// sentence gives an error the form in which callers read it.
func sentence(e *canon.Error) *canon.Error {
	if e.Param != "" {
		e.Message = e.Param + " " + e.Message
	}
	return e
}

// whole is the error of a request as a whole, in a sentence of its own.
func whole(param, code, format string, args ...any) *canon.Error {
	return &canon.Error{Kind: canon.ErrInvalidRequest, Param: param, Code: code, Message: fmt.Sprintf(format, args...)}
}

// wrongKind is the error of a field that has another JSON type than it should.
func wrongKind(field, want string, v jsonx.Value) *canon.Error {
	if v.Kind() == jsonx.None {
		return bad(field, "is required and must be %s", want)
	}
	return bad(field, "must be %s, not %s", want, v.Kind())
}

// The opt readers give nil or "" for a field that is absent or null.

func optBool(v jsonx.Value, field string) (*bool, *canon.Error) {
	if v.Missing() {
		return nil, nil
	}
	b, ok := v.Bool()
	if !ok {
		return nil, wrongKind(field, "a boolean", v)
	}
	return &b, nil
}

func optInt(v jsonx.Value, field string, low int64) (*int64, *canon.Error) {
	if v.Missing() {
		return nil, nil
	}
	n, ok := v.Int()
	if !ok {
		if v.Kind() == jsonx.Number {
			return nil, bad(field, "must be a whole number of 64 bits")
		}
		return nil, wrongKind(field, "a whole number", v)
	}
	if n < low {
		return nil, bad(field, "must be at least %d", low)
	}
	return &n, nil
}

func optFloat(v jsonx.Value, field string, low, high float64) (*float64, *canon.Error) {
	if v.Missing() {
		return nil, nil
	}
	f, ok := v.Float()
	if !ok && v.Kind() != jsonx.Number {
		return nil, wrongKind(field, "a number", v)
	}
	if !ok || f < low || f > high {
		return nil, bad(field, "must be between %v and %v", low, high)
	}
	return &f, nil
}

func optString(v jsonx.Value, field string) (string, *canon.Error) {
	if v.Missing() {
		return "", nil
	}
	if v.Kind() != jsonx.String {
		return "", wrongKind(field, "a string", v)
	}
	return v.Share(), nil
}

// reqString reads a string that must be there and hold something.
func reqString(v jsonx.Value, field string) (string, *canon.Error) {
	if v.Kind() != jsonx.String {
		return "", wrongKind(field, "a string", v)
	}
	if len(v) == len(`""`) {
		return "", bad(field, "must not be empty")
	}
	return v.Share(), nil
}

// oneOf reads a string that is one of a few words, "" where it is absent.
func oneOf(v jsonx.Value, field string, words ...string) (string, *canon.Error) {
	s, err := optString(v, field)
	if err != nil || v.Missing() {
		return "", err
	}
	for _, w := range words {
		if s == w {
			return s, nil
		}
	}
	return "", bad(field, "must be one of %q, not %q", words, clip(s))
}

// clip shortens what a caller sent for use in an error.
func clip(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}
