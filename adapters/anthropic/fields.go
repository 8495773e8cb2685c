package anthropic

import (
	"fmt"
	"strconv"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// A problem in a request travels up from where it was found, and each level puts its own name in
// front, so that the good case pays nothing for paths. ParseRequest puts path and message together
// the way Anthropic does: "messages.0.content.1.text: must be a string, not a number".

// invalid is a problem with the field param, which is relative to the object at hand.
func invalid(param, format string, args ...any) *canon.Error {
	return &canon.Error{Kind: canon.ErrInvalidRequest, Param: param, Message: fmt.Sprintf(format, args...)}
}

// untranslatable is a problem that exists only because the request must be said in another dialect.
func untranslatable(param, what string) *canon.Error {
	err := invalid(param, "%s cannot be translated for a provider other than Anthropic; "+
		"use a model that an Anthropic backend serves, or leave it out", what)
	err.Code = canon.CodeNotTranslatable
	return err
}

func within(field string, err *canon.Error) *canon.Error {
	if err.Param != "" {
		field += "." + err.Param
	}
	err.Param = field
	return err
}

func withinIndex(i int, err *canon.Error) *canon.Error { return within(strconv.Itoa(i), err) }

// missing says that a field that must be there is not.
func missing(param string) *canon.Error { return invalid(param, "field required") }

// wrongKind says what a field should have been.
func wrongKind(param, want string, v jsonx.Value) *canon.Error {
	return invalid(param, "must be %s, not %s", want, v.Kind())
}

func object(param string, v jsonx.Value) *canon.Error {
	switch v.Kind() {
	case jsonx.Object:
		return nil
	case jsonx.None:
		return missing(param)
	}
	return wrongKind(param, "an object", v)
}

// text reads a string that must be there and must not be empty.
func text(param string, v jsonx.Value) (string, *canon.Error) {
	switch v.Kind() {
	case jsonx.None:
		return "", missing(param)
	case jsonx.String:
		if len(v) == 2 {
			return "", invalid(param, "must not be empty")
		}
		return v.Share(), nil
	}
	return "", wrongKind(param, "a string", v)
}

func optionalBool(param string, v jsonx.Value) (*bool, *canon.Error) {
	if v.Missing() {
		return nil, nil
	}
	b, ok := v.Bool()
	if !ok {
		return nil, wrongKind(param, "true or false", v)
	}
	return &b, nil
}

func optionalInt(param string, v jsonx.Value, least int64) (*int64, *canon.Error) {
	if v.Missing() {
		return nil, nil
	}
	n, ok := v.Int()
	if !ok {
		if v.Kind() == jsonx.Number {
			return nil, invalid(param, "must be a whole number of at most 19 digits")
		}
		return nil, wrongKind(param, "a whole number", v)
	}
	if n < least {
		return nil, invalid(param, "must be %d or more", least)
	}
	return &n, nil
}

// optionalUnit reads a number from 0 to 1.
func optionalUnit(param string, v jsonx.Value) (*float64, *canon.Error) {
	if v.Missing() {
		return nil, nil
	}
	f, ok := v.Float()
	if v.Kind() != jsonx.Number {
		return nil, wrongKind(param, "a number", v)
	}
	if !ok || f < 0 || f > 1 {
		return nil, invalid(param, "must be a number from 0 to 1")
	}
	return &f, nil
}

// cacheMark reads a block's cache_control. Its type and time to live are Anthropic's business: what
// other dialects can carry is that there is a boundary.
func cacheMark(v jsonx.Value) (bool, *canon.Error) {
	if v.Missing() {
		return false, nil
	}
	if err := object("cache_control", v); err != nil {
		return false, err
	}
	return true, nil
}
