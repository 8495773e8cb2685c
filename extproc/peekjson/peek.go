// Package peekjson reads of a JSON request body what the peek filter in Envoy reads (xds/compile/peek.lua and json.lua), with the same
// answers: for requests that Envoy never sees, because they are only to be explained. A test in xds/compile holds the two together;
// whoever changes one changes the other.
package peekjson

import (
	"strings"
	"unicode/utf8"
)

// The bounds are those of the filter.
const (
	maxDepth  = 10000
	maxValue  = 1024 // bytes of raw JSON of model and stream
	maxNumber = 32   // bytes of a number that is reported
)

// Found is what a body says. Where Err is not empty, the values are empty.
type Found struct {
	// Err is the filter's word for what is wrong; "" for nothing.
	Err string
	// Raw JSON of the members, "" where there is none.
	Model, Stream                                      string
	N, MaxTokens, MaxCompletionTokens, MaxOutputTokens string
	// Media is how many bytes look like media in base64, in MediaCount strings.
	Media, MediaCount int64
}

// Read reads a body.
func Read(body []byte) Found {
	if len(body) == 0 {
		return Found{Err: "empty"}
	}
	r := reader{s: string(body)}
	if err := r.object(); err != "" {
		return Found{Err: err}
	}
	return r.found
}

// reader walks through one body. Its methods return positions, and an error word that is "" where all is well.
type reader struct {
	s     string
	stack []int // where the nested values around one open
	found Found
}

const end = -1

// at is the byte at i, or end.
func (r *reader) at(i int) int {
	if i < 0 || i >= len(r.s) {
		return end
	}
	return int(r.s[i])
}

// object reads the outermost object.
func (r *reader) object() string {
	i, c := r.skipSpace(0)
	if c != '{' {
		return "not_object"
	}
	i, c = r.skipSpace(i + 1)
	for c != '}' {
		m, err := r.member(i, c)
		if err != "" {
			return err
		}
		if err := r.note(r.s[i+1:m.close], r.s[m.from:m.after]); err != "" {
			return err
		}
		i, c = m.next, m.c
	}
	if _, c = r.skipSpace(i + 1); c != end {
		return "trailing"
	}
	return ""
}

// note keeps a member of the outermost object if it is of interest.
func (r *reader) note(key, raw string) string {
	f := &r.found
	switch {
	case key == "model":
		return strict(&f.Model, key, raw)
	case key == "stream":
		return strict(&f.Stream, key, raw)
	case foldsTo(key, "model"), foldsTo(key, "stream"):
		return "key_case"
	case key == "n":
		f.N = number(raw)
	case key == "max_tokens":
		f.MaxTokens = number(raw)
	case key == "max_output_tokens":
		f.MaxOutputTokens = number(raw)
	case key == "max_completion_tokens":
		f.MaxCompletionTokens = number(raw)
	}
	return ""
}

// foldsTo compares by ASCII case alone.
func foldsTo(key, word string) bool { return len(key) == len(word) && strings.EqualFold(key, word) }

// strict keeps a value that may be there once.
func strict(to *string, key, raw string) string {
	switch {
	case *to != "":
		return "duplicate_" + key
	case len(raw) > maxValue:
		return "long_" + key
	case !utf8.ValidString(raw):
		return "not_utf8"
	}
	*to = raw
	return ""
}

// number is raw where it is a number that is reported: of several the last counts.
func number(raw string) string {
	if first := raw[0]; (first == '-' || first >= '0' && first <= '9') && len(raw) <= maxNumber {
		return raw
	}
	return ""
}

// member is where the parts of a member are.
type member struct {
	close       int // of the key
	from, after int // of the value
	next, c     int // the next key, or the end of the object, and the byte there
}

// member reads the one whose key opens at i with byte c.
func (r *reader) member(i, c int) (m member, err string) {
	if c != '"' {
		return m, "syntax"
	}
	if m.close, err = r.keyEnd(i); err != "" {
		return m, err
	}
	if m.from, c = r.skipSpace(m.close + 1); c != ':' {
		return m, "syntax"
	}
	m.from, c = r.skipSpace(m.from + 1)
	if m.after, err = r.skipValue(m.from, c); err != "" {
		return m, err
	}
	m.next, m.c = r.skipSpace(m.after)
	if m.c == ',' {
		if m.next, m.c = r.skipSpace(m.next + 1); m.c != '"' {
			return m, "syntax"
		}
	} else if m.c != '}' {
		return m, "syntax"
	}
	return m, ""
}

func (r *reader) keyEnd(i int) (int, string) {
	for {
		i++
		switch c := r.at(i); {
		case c < ' ': // the end as well
			return 0, "syntax"
		case c == '\\':
			return 0, "escaped_key"
		case c > 127:
			return 0, "key_not_ascii"
		case c == '"':
			return i, ""
		}
	}
}

func (r *reader) skipSpace(i int) (int, int) {
	for {
		switch c := r.at(i); c {
		case ' ', '\n', '\r', '\t':
			i++
		default:
			return i, c
		}
	}
}

// skipValue gives the position after the value that starts at i with byte c.
func (r *reader) skipValue(i, c int) (int, string) {
	after, ok := 0, false
	switch c {
	case '"':
		after, ok = r.stringEnd(i)
		after++
	case '{', '[':
		return r.skipNested(i, c)
	case 't':
		after, ok = r.literal(i, "true")
	case 'f':
		after, ok = r.literal(i, "false")
	case 'n':
		after, ok = r.literal(i, "null")
	default:
		after, ok = r.skipNumber(i, c)
	}
	if !ok {
		return 0, "syntax"
	}
	return after, ""
}

func (r *reader) literal(i int, word string) (int, bool) {
	return i + len(word), strings.HasPrefix(r.s[i:], word)
}

func (r *reader) skipNumber(i, c int) (int, bool) {
	if c == '-' {
		i++
		c = r.at(i)
	}
	ok := true
	if c == '0' {
		i++
	} else if i, ok = r.skipDigits(i); !ok {
		return 0, false
	}
	if r.at(i) == '.' {
		if i, ok = r.skipDigits(i + 1); !ok {
			return 0, false
		}
	}
	if c = r.at(i); c == 'e' || c == 'E' {
		if c = r.at(i + 1); c == '+' || c == '-' {
			i++
		}
		return r.skipDigits(i + 1)
	}
	return i, true
}

func (r *reader) skipDigits(i int) (int, bool) {
	start := i
	for c := r.at(i); c >= '0' && c <= '9'; c = r.at(i) {
		i++
	}
	return i, i > start
}

// stringEnd gives the position of the quote that closes the string opened at i. Escapes must be JSON's; other bytes may be any.
func (r *reader) stringEnd(i int) (int, bool) {
	for i++; ; {
		rest := strings.IndexAny(r.s[min(i, len(r.s)):], `"\`)
		if rest < 0 {
			return 0, false
		}
		if i += rest; r.s[i] == '"' {
			return i, true
		}
		switch c := r.at(i + 1); c {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			i += 2
		case 'u':
			for k := 2; k < 6; k++ {
				if !isHex(r.at(i + k)) {
					return 0, false
				}
			}
			i += 6
		default:
			return 0, false
		}
	}
}

func isHex(c int) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// between are the bytes that stand between the strings and brackets of a value.
const between = " \t\r\n,:0123456789.eE+-truefalsn"

// skipNested gives the position after the object or array that starts at i with byte c. What stands between strings and brackets is
// checked by its bytes, not as a grammar.
func (r *reader) skipNested(i, c int) (int, string) {
	r.stack = r.stack[:0]
	depth, awaited := 1, 0
	for ; ; i, c = i+1, r.at(i+1) {
		switch {
		case c == end:
			return 0, "syntax"
		case strings.IndexByte(between, byte(c)) >= 0:
		case c == '"':
			closed, ok := r.stringEnd(i)
			if !ok {
				return 0, "syntax"
			}
			if closed-i > longString {
				r.countMedia(i, closed)
			}
			i = closed
		case c == '{' || c == '[':
			if depth == maxDepth {
				return 0, "too_deep"
			}
			depth++
			r.stack = append(r.stack, i)
			awaited = c + 2 // of either bracket
		case c == awaited:
			if depth--; depth == 1 {
				return i + 1, ""
			}
			r.stack = r.stack[:len(r.stack)-1]
			awaited = int(r.s[r.stack[len(r.stack)-1]]) + 2
		default:
			return 0, "syntax"
		}
	}
}
