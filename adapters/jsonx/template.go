package jsonx

import (
	"bytes"
	"unicode/utf8"
)

// Template is a JSON text with one string in it that changes. Nearly every event of a stream is the one before it with another piece
// of text: reading it then takes two comparisons and a look at that piece. The zero value matches nothing.
type Template struct {
	head []byte // up to and with the quotation mark that opens the string
	tail []byte // from the quotation mark that closes it
}

// Learn makes it the template of text, which has passed Check, with v, a string that was cut from it, as what changes. It forgets
// everything where v is no such string.
func (t *Template) Learn(text []byte, v Value) {
	t.Forget()
	if at, ok := offset(text, v); ok && v.Kind() == String {
		t.head = append(t.head, text[:at+1]...)
		t.tail = append(t.tail, text[at+len(v)-1:]...)
	}
}

// Forget makes it match nothing.
func (t *Template) Forget() { t.head, t.tail = t.head[:0], t.tail[:0] }

// Match gives the string of a text that is what was learned but for this string, which is not empty. Such a text needs no Check.
func (t *Template) Match(text []byte) (Value, bool) {
	from, to := len(t.head)-1, len(text)-len(t.tail)+1
	if from < 0 || to-from <= len(`""`) || !bytes.HasPrefix(text, t.head) || !bytes.HasSuffix(text, t.tail) {
		return nil, false
	}
	v := Value(text[from:to:to])
	c := checker{b: v}
	if end, ok := c.str(0); !ok || end != len(v) || !utf8.Valid(v) {
		return nil, false
	}
	return v, true
}
