package jsonx

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"unicode/utf8"
)

// maxDepth bounds nesting. Real requests stay below 50, a deep tool schema included; unbounded
// nesting is how parsers are made to overflow their stack.
const maxDepth = 500

// SyntaxError tells where a text stops being JSON.
type SyntaxError struct {
	Offset int // bytes before the fault
	What   string
}

// Error makes *SyntaxError a Go error.
func (e *SyntaxError) Error() string { return fmt.Sprintf("%s at byte %d", e.What, e.Offset) }

// Check verifies that body is exactly one JSON value (RFC 8259) in valid UTF-8 with nothing but
// white space around it. The error is a *SyntaxError. What passed Check can be walked as a Value.
func Check(body []byte) error {
	if !utf8.Valid(body) {
		i := 0
		for i < len(body) {
			r, size := utf8.DecodeRune(body[i:])
			if r == utf8.RuneError && size == 1 {
				break
			}
			i += size
		}
		return &SyntaxError{i, "invalid UTF-8"}
	}
	c := checker{b: body}
	i, ok := c.value(c.space(0), 0)
	if !ok {
		err := c.err // a copy, so that the good case allocates nothing
		return &err
	}
	if i = c.space(i); i < len(body) {
		return &SyntaxError{i, "more data after the JSON value"}
	}
	return nil
}

// CheckString is Check for a text that is a string.
func CheckString(text string) error { return Check(bytesOf(text)) }

type checker struct {
	b   []byte
	err SyntaxError
}

func (c *checker) fail(i int, what string) (int, bool) {
	if i >= len(c.b) {
		what = "unexpected end of the JSON text"
	}
	c.err = SyntaxError{i, what}
	return i, false
}

func (c *checker) at(i int) byte {
	if i < len(c.b) {
		return c.b[i]
	}
	return 0 // no token starts with NUL
}

func (c *checker) space(i int) int {
	for i < len(c.b) && isSpace(c.b[i]) {
		i++
	}
	return i
}

// value checks the value at i, where white space is behind, and returns the index after it.
func (c *checker) value(i, depth int) (int, bool) {
	if depth > maxDepth {
		return c.fail(i, "too deeply nested")
	}
	switch b := c.at(i); {
	case b == '"':
		return c.str(i)
	case b == '{':
		return c.object(i, depth)
	case b == '[':
		return c.array(i, depth)
	case b == 't':
		return c.literal(i, "true")
	case b == 'f':
		return c.literal(i, "false")
	case b == 'n':
		return c.literal(i, "null")
	case b == '-' || isDigit(b):
		return c.number(i)
	}
	return c.fail(i, "a JSON value was expected")
}

func (c *checker) object(i, depth int) (int, bool) {
	i = c.space(i + 1)
	if c.at(i) == '}' {
		return i + 1, true
	}
	for {
		if c.at(i) != '"' {
			return c.fail(i, "a member name in double quotes was expected")
		}
		var ok bool
		if i, ok = c.str(i); !ok {
			return i, false
		}
		if i = c.space(i); c.at(i) != ':' {
			return c.fail(i, "':' was expected")
		}
		if i, ok = c.value(c.space(i+1), depth+1); !ok {
			return i, false
		}
		switch i = c.space(i); c.at(i) {
		case ',':
			i = c.space(i + 1)
		case '}':
			return i + 1, true
		default:
			return c.fail(i, "',' or '}' was expected")
		}
	}
}

func (c *checker) array(i, depth int) (int, bool) {
	i = c.space(i + 1)
	if c.at(i) == ']' {
		return i + 1, true
	}
	for {
		var ok bool
		if i, ok = c.value(i, depth+1); !ok {
			return i, false
		}
		switch i = c.space(i); c.at(i) {
		case ',':
			i = c.space(i + 1)
		case ']':
			return i + 1, true
		default:
			return c.fail(i, "',' or ']' was expected")
		}
	}
}

func (c *checker) str(i int) (int, bool) {
	for i++; i < len(c.b); i++ {
		i = skipPlain(c.b, i)
		switch b := c.at(i); {
		case b == '"':
			return i + 1, true
		case b < 0x20:
			return c.fail(i, "an unescaped control character in a string")
		case b == '\\':
			i++
			switch c.at(i) {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				for range 4 {
					if i++; !isHex(c.at(i)) {
						return c.fail(i, "four hex digits were expected after \\u")
					}
				}
			default:
				return c.fail(i, "an unknown escape in a string")
			}
		}
	}
	return c.fail(i, "")
}

// skipPlain returns the index of the first byte from i on that a string cannot hold as it is (a quotation mark, a backslash, a
// control character), or of one of the last seven bytes. It reads eight bytes at a time: a body of 30 MB, an image in base64 most
// often, three times as fast as byte by byte.
func skipPlain(b []byte, i int) int {
	for ; i+8 <= len(b); i += 8 {
		if at := special(binary.LittleEndian.Uint64(b[i:])); at < 8 {
			return i + at
		}
	}
	return i
}

// special is the place of the first of eight bytes that is a quotation mark, a backslash or a control character; 8 where none is.
// A subtraction borrows only from bytes behind a hit, so that the first hit is a true one.
func special(w uint64) int {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	quote := w ^ ones*'"'
	slash := w ^ ones*'\\'
	return bits.TrailingZeros64(((w-ones*0x20)&^w|(quote-ones)&^quote|(slash-ones)&^slash)&tops) / 8
}

func (c *checker) literal(i int, word string) (int, bool) {
	for k := range len(word) {
		if c.at(i+k) != word[k] {
			return c.fail(i+k, "'"+word+"' was expected")
		}
	}
	return i + len(word), true
}

func (c *checker) number(i int) (int, bool) {
	if c.at(i) == '-' {
		i++
	}
	if c.at(i) == '0' {
		i++
	} else if i = c.digits(i); i < 0 {
		return c.fail(-i, "a digit was expected")
	}
	if c.at(i) == '.' {
		if i = c.digits(i + 1); i < 0 {
			return c.fail(-i, "a digit was expected")
		}
	}
	if b := c.at(i); b == 'e' || b == 'E' {
		i++
		if b := c.at(i); b == '+' || b == '-' {
			i++
		}
		if i = c.digits(i); i < 0 {
			return c.fail(-i, "a digit was expected")
		}
	}
	return i, true
}

// digits passes one digit or more; it returns -i where there is none (i is never 0 here unless the
// first byte was already seen to be a digit).
func (c *checker) digits(i int) int {
	if !isDigit(c.at(i)) {
		return -i
	}
	for isDigit(c.at(i)) {
		i++
	}
	return i
}

func isSpace(b byte) bool { return b == ' ' || b == '\n' || b == '\t' || b == '\r' }

func isDigit(b byte) bool { return b >= '0' && b <= '9' }

func isHex(b byte) bool {
	return isDigit(b) || b >= 'a' && b <= 'f' || b >= 'A' && b <= 'F'
}
