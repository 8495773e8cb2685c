package jsonx

import (
	"bytes"
	"fmt"
)

// SetString replaces the string that is the top-level member name by value and keeps every other
// byte of body as it was. The whole body is checked on the way, without being parsed into
// anything, so that what leaves is JSON.
//
// It refuses a body that is no object, one without the member, and one that has it twice: parsers
// differ in which of the two they read, so a check made on one could be passed with the other.
func SetString(body []byte, name, value string) ([]byte, error) {
	if err := Check(body); err != nil {
		return nil, fmt.Errorf("the body is not valid JSON: %w", err)
	}
	root := Root(body)
	if root.Kind() != Object {
		return nil, fmt.Errorf("the body must be a JSON object, not %s", root.Kind())
	}
	from, to := 0, 0
	var err error
	root.members(func(k []byte, start, end int) bool {
		switch {
		case string(k) != name:
		case to != 0:
			err = fmt.Errorf("the body has the member %q more than once", name)
		case root[start] != '"':
			err = fmt.Errorf("%s must be a string, not %s", name, root[start:end].Kind())
		default:
			from, to = start, end
		}
		return err == nil
	})
	if err != nil {
		return nil, err
	}
	if to == 0 {
		return nil, fmt.Errorf("%s is required", name)
	}
	lead := len(body) - len(bytes.TrimLeft(body, " \n\t\r"))
	out := make([]byte, 0, len(body)-(to-from)+len(value)+16)
	out = append(out, body[:lead+from]...)
	out = AppendString(out, value)
	return append(out, body[lead+to:]...), nil
}
