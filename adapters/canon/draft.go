package canon

import (
	"fmt"
	"slices"

	"github.com/weir-dev/weir/adapters/jsonx"
)

// Draft is a Call in the making: what BuildCall of every dialect needs to print a body, to say what it left out, and to remember
// what cannot be said. The zero value is ready.
type Draft struct {
	jsonx.Builder
	Dropped []string
	Err     *Error // the first problem
}

// NewDraft begins a call for r, with room for its body, so that a long prompt is copied once. What r's dialect has and canon has not
// is left out.
func NewDraft(r *Request) Draft {
	return Draft{Builder: jsonx.Builder{Text: make([]byte, 0, r.SizeHint())}, Dropped: slices.Clone(r.Extra)}
}

// Drop names a field that is left out, once.
func (d *Draft) Drop(field string) {
	if !slices.Contains(d.Dropped, field) {
		d.Dropped = append(d.Dropped, field)
	}
}

// Fail notes that the request cannot be said, if it is the first problem; what is printed after it does not matter.
func (d *Draft) Fail(param, format string, args ...any) {
	if d.Err == nil {
		d.Err = &Error{Kind: ErrInvalidRequest, Param: param, Message: fmt.Sprintf(format, args...)}
	}
}
