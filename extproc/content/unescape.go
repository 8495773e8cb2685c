package content

import (
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// unescape resolves the escapes of JSON wherever they stand, in text that may be cut anywhere or be no JSON at all. places has,
// for each byte of the result and for its end, where in s it comes from: the beginning of an escape for its first byte, and its
// end for what follows, so that a range of the result covers whole escapes.
func unescape(s string) (plain string, places []int) {
	out := make([]byte, 0, len(s))
	places = make([]int, 0, len(s)+1)
	add := func(from int, b ...byte) {
		for range b {
			places = append(places, from)
		}
		out = append(out, b...)
	}
	for i := 0; i < len(s); {
		if s[i] != '\\' || i+1 == len(s) {
			add(i, s[i])
			i++
			continue
		}
		if s[i+1] != 'u' {
			add(i, escapes(s[i+1]))
			i += 2
			continue
		}
		r, n := unicodeEscape(s[i:])
		if n == 0 {
			add(i, s[i])
			i++
			continue
		}
		var buf [utf8.UTFMax]byte
		add(i, buf[:utf8.EncodeRune(buf[:], r)]...)
		i += n
	}
	return string(out), append(places, len(s))
}

// escapes is what \c stands for.
func escapes(c byte) byte {
	switch c {
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	}
	return c
}

// unicodeEscape reads the \uXXXX, or the pair of them, that s begins with, and its length; 0 where it is none.
func unicodeEscape(s string) (r rune, n int) {
	const one = len(`\u0000`)
	code := func(s string) (rune, bool) {
		if len(s) < one || s[0] != '\\' || s[1] != 'u' {
			return 0, false
		}
		v, err := strconv.ParseUint(s[2:one], 16, 16)
		return rune(v), err == nil
	}
	r, ok := code(s)
	if !ok {
		return 0, 0
	}
	if utf16.IsSurrogate(r) {
		if low, ok := code(s[one:]); ok {
			if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
				return pair, 2 * one
			}
		}
		return utf8.RuneError, one
	}
	return r, one
}
