package accesslog

import (
	"strconv"
	"time"
	"unicode/utf8"
)

// object appends the fields of a JSON object. Fields that are not known are left out.
type object struct {
	b     []byte
	first bool
}

func (o *object) key(name string) {
	if !o.first {
		o.b = append(o.b, ',')
	}
	o.first = false
	o.b = append(o.b, '"')
	o.b = append(o.b, name...) // ours: nothing to escape
	o.b = append(o.b, '"', ':')
}

// text appends a text that others may have chosen, cut to most bytes.
func (o *object) text(name, value string, most int) {
	if value == "" {
		return
	}
	o.key(name)
	o.b = append(o.b, '"')
	o.b = appendEscaped(o.b, value, most, true)
	o.b = append(o.b, '"')
}

func (o *object) number(name string, n int64) {
	o.key(name)
	o.b = strconv.AppendInt(o.b, n, 10)
}

func (o *object) someNumber(name string, n int64) {
	if n != 0 {
		o.number(name, n)
	}
}

func (o *object) bool(name string, v bool) {
	o.key(name)
	o.b = strconv.AppendBool(o.b, v)
}

// seconds appends a duration, exact to the microsecond.
func (o *object) seconds(name string, d time.Duration) {
	o.key(name)
	o.b = appendSeconds(o.b, d)
}

func (o *object) someSeconds(name string, d time.Duration) {
	if d > 0 {
		o.seconds(name, d)
	}
}

// appendSeconds appends a decimal number of seconds.
func appendSeconds(b []byte, d time.Duration) []byte {
	us := max(0, d).Microseconds()
	b = strconv.AppendInt(b, us/1e6, 10)
	if us %= 1e6; us == 0 {
		return b
	}
	b = append(b, '.')
	for unit := int64(1e5); us > 0; unit /= 10 {
		b = append(b, byte('0'+us/unit))
		us %= unit
	}
	return b
}

const hexDigits = "0123456789abcdef"

// appendEscaped appends the inside of a JSON string, or of a text where nothing is quoted. What ends a line for some reader, or steers a
// terminal, is escaped; what is no UTF-8 becomes U+FFFD. A text of more than most bytes ends with "…".
func appendEscaped(b []byte, s string, most int, quoted bool) []byte {
	cut := len(s) > most
	if cut {
		for most > 0 && !utf8.RuneStart(s[most]) {
			most--
		}
		s = s[:most]
	}
	begin := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c < 0x7f && (!quoted || c != '"' && c != '\\') {
			i++
			continue
		}
		r, size := rune(c), 1
		if c >= utf8.RuneSelf {
			r, size = utf8.DecodeRuneInString(s[i:])
			if r > 0x9f && r != '\u2028' && r != '\u2029' && (r != utf8.RuneError || size > 1) {
				i += size
				continue
			}
		}
		b = append(b, s[begin:i]...)
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', c)
		default:
			b = append(b, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
		}
		i += size
		begin = i
	}
	b = append(b, s[begin:]...)
	if cut {
		b = append(b, "…"...)
	}
	return b
}
