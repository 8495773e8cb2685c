package responses

import (
	"fmt"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/internal/fields"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// whole is the error of a request as a whole, in a sentence of its own.
func whole(param, code, format string, args ...any) *canon.Error {
	return &canon.Error{Kind: canon.ErrInvalidRequest, Param: param, Code: code, Message: fmt.Sprintf(format, args...)}
}

// optInt reads a whole number that is not below low; nil where it is absent or null.
func optInt(v jsonx.Value, field string, low int64) (*int64, *canon.Error) {
	n, err := fields.OptInt(v, field)
	if n != nil && *n < low {
		return nil, fields.Bad(field, "must be at least %d", low)
	}
	return n, err
}

// oneOf reads a string that is one of a few words, "" where it is absent.
func oneOf(v jsonx.Value, field string, words ...string) (string, *canon.Error) {
	s, err := fields.OptString(v, field)
	if err != nil || v.Missing() {
		return "", err
	}
	for _, w := range words {
		if s == w {
			return s, nil
		}
	}
	return "", fields.Bad(field, "must be one of %q, not %q", words, fields.Clip(s))
}
