package jsonx

import (
	"bytes"
	"iter"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// Kind is the type of a JSON value.
type Kind byte

// The kinds. None is the kind of an absent value.
const (
	None Kind = iota
	Null
	Bool
	Number
	String
	Array
	Object
)

// String names the kind the way an error message does.
func (k Kind) String() string {
	return [...]string{"nothing", "null", "a boolean", "a number", "a string", "an array", "an object"}[k]
}

// Value is the text of one JSON value that has passed Check, without white space around it; nil
// stands for an absent value. It shares its bytes with the text it was cut from. Walking reads
// each level again and builds nothing: a long string costs one search for its closing quote.
type Value []byte

// Root is the value of a text that has passed Check.
func Root(body []byte) Value { return Value(bytes.Trim(body, " \n\t\r")) }

// Kind tells the type by the first byte.
func (v Value) Kind() Kind {
	if len(v) == 0 {
		return None
	}
	switch v[0] {
	case 'n':
		return Null
	case 't', 'f':
		return Bool
	case '"':
		return String
	case '[':
		return Array
	case '{':
		return Object
	}
	return Number
}

// Missing reports an absent value or null: most fields treat the two alike.
func (v Value) Missing() bool { return len(v) == 0 || v[0] == 'n' }

// Members iterates over an object's members in their order; over nothing for other kinds. The name
// is decoded; it may share its bytes with v.
func (v Value) Members() iter.Seq2[[]byte, Value] {
	return func(yield func([]byte, Value) bool) {
		v.members(func(name []byte, start, end int) bool { return yield(name, v[start:end:end]) })
	}
}

// members is Members with each value given by its place in v.
func (v Value) members(yield func(name []byte, start, end int) bool) {
	if v.Kind() != Object {
		return
	}
	for i := skipSpace(v, 1); v[i] == '"'; {
		end := skipString(v, i)
		name := []byte(v[i+1 : end-1])
		if bytes.IndexByte(name, '\\') >= 0 {
			name = appendDecoded(nil, name)
		}
		i = skipSpace(v, skipSpace(v, end)+1)
		end = skipValue(v, i)
		if !yield(name, i, end) {
			return
		}
		if i = skipSpace(v, end); v[i] == ',' {
			i = skipSpace(v, i+1)
		}
	}
}

// Elements iterates over an array's elements; over nothing for other kinds.
func (v Value) Elements() iter.Seq2[int, Value] {
	return func(yield func(int, Value) bool) {
		if v.Kind() != Array {
			return
		}
		n := 0
		for i := skipSpace(v, 1); v[i] != ']'; n++ {
			end := skipValue(v, i)
			if !yield(n, v[i:end:end]) {
				return
			}
			if i = skipSpace(v, end); v[i] == ',' {
				i = skipSpace(v, i+1)
			}
		}
	}
}

// Get is the first member of that name, or nil.
func (v Value) Get(name string) Value {
	for k, m := range v.Members() {
		if string(k) == name {
			return m
		}
	}
	return nil
}

// Len counts the elements of an array.
func (v Value) Len() int {
	n := 0
	for range v.Elements() {
		n++
	}
	return n
}

// Str decodes a string; other kinds give "". Half a surrogate pair becomes U+FFFD. The string is a copy: Share and Lend make
// none where there is nothing to decode.
func (v Value) Str() string {
	if v.Kind() != String {
		return ""
	}
	in := v[1 : len(v)-1]
	if bytes.IndexByte(in, '\\') < 0 {
		return string(in)
	}
	return view(appendDecoded(make([]byte, 0, len(in)), in))
}

// AppendStr appends what Str returns.
func (v Value) AppendStr(dst []byte) []byte {
	if v.Kind() != String {
		return dst
	}
	return appendDecoded(dst, v[1:len(v)-1])
}

// Int reads a whole number. 1.0 and 1e3 are not taken: the providers refuse them too.
func (v Value) Int() (int64, bool) {
	if v.Kind() != Number {
		return 0, false
	}
	n, err := strconv.ParseInt(string(v), 10, 64)
	return n, err == nil
}

// Float reads a number; false also for one too large for a float64.
func (v Value) Float() (float64, bool) {
	if v.Kind() != Number {
		return 0, false
	}
	f, err := strconv.ParseFloat(string(v), 64)
	return f, err == nil
}

// Bool reads a boolean.
func (v Value) Bool() (value, ok bool) {
	if v.Kind() != Bool {
		return false, false
	}
	return v[0] == 't', true
}

func skipSpace(b []byte, i int) int {
	for isSpace(b[i]) {
		i++
	}
	return i
}

// skipString returns the index after the string that starts at i.
func skipString(b []byte, i int) int {
	for i++; ; {
		i += bytes.IndexByte(b[i:], '"')
		back := i
		for b[back-1] == '\\' {
			back--
		}
		i++
		// The quotation mark that opens the string stops the count of backslashes.
		if (i-1-back)%2 == 0 {
			return i
		}
	}
}

// skipValue returns the index after the value that starts at i.
func skipValue(b []byte, i int) int {
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		for depth := 0; ; {
			switch b[i] {
			case '"':
				i = skipString(b, i)
				continue
			case '{', '[':
				depth++
			case '}', ']':
				depth--
			}
			i++
			if depth == 0 {
				return i
			}
		}
	}
	for i < len(b) && b[i] != ',' && b[i] != '}' && b[i] != ']' && !isSpace(b[i]) {
		i++
	}
	return i
}

// appendDecoded appends the inside of a string with its escapes resolved.
func appendDecoded(dst, in []byte) []byte {
	for len(in) > 0 {
		slash := bytes.IndexByte(in, '\\')
		if slash < 0 {
			return append(dst, in...)
		}
		dst = append(dst, in[:slash]...)
		c := in[slash+1]
		in = in[slash+2:]
		switch c {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r := hex4(in)
			in = in[4:]
			if utf16.IsSurrogate(r) {
				var low rune
				if len(in) >= 6 && in[0] == '\\' && in[1] == 'u' {
					low = hex4(in[2:])
				}
				if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
					in = in[6:]
				}
			}
			dst = utf8.AppendRune(dst, r)
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

func hex4(b []byte) rune {
	n, _ := strconv.ParseUint(string(b[:4]), 16, 16) // Check has seen the digits
	return rune(n)
}
