package key

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strconv"

	"github.com/weir-dev/weir/adapters/jsonx"
)

// inlineObject is the largest object, in bytes of its canonical form, that stands there as it is. A larger one is replaced by its
// hash, so that sorting the members of nested objects copies no byte more than once: the work is linear in the body, however deep
// it is.
const inlineObject = 256

// Kinds of JSON values in their canonical form.
const (
	jsonNull byte = iota + 'a'
	jsonTrue
	jsonFalse
	jsonNumber    // digits without a point, power of ten
	jsonRawNumber // one whose power of ten is beyond any use, as it was written
	jsonString
	jsonArray
	jsonObject
	jsonHashed // a large object
	jsonEnd    // of an array or object
)

// canonical makes the canonical form of JSON texts: one byte string for each value, whatever the order of members, white space, escapes
// and the spelling of numbers; another for each other value. Members of one name keep their order among themselves. So do those of
// an object under the name "properties": a model writes the members of its answer, or of a call's arguments, in the order in which
// the schema lists them ("outputs will be produced in the same order as the ordering of keys in the schema", OpenAI's guide to
// structured outputs), and what it has written first decides what comes next.
type canonical struct {
	out     []byte
	members []member // of the objects that are open
	sorted  []byte

	// The beginnings of the three, which suffice for a usual schema.
	room struct {
		out, sorted [512]byte
		members     [16]member
	}
}

// member is a name and a value in out.
type member struct{ start, name, end int } // the name's text is out[start+4:name]

// of makes the form of v, a text that has passed jsonx.Check, without white space around it. It is valid until the next call.
func (c *canonical) of(v []byte) []byte {
	if c.out == nil {
		c.out, c.sorted, c.members = c.room.out[:0], c.room.sorted[:0], c.room.members[:0]
	}
	c.out, c.members = c.out[:0], c.members[:0]
	c.value(v, 0, false)
	return c.out
}

// value appends the value at b[i] and returns the index after it. The members of an object stay as they are listed where that is
// said.
func (c *canonical) value(b []byte, i int, listed bool) int {
	switch b[i] {
	case '{':
		return c.object(b, i, listed)
	case '[':
		c.out = append(c.out, jsonArray)
		for i = space(b, i+1); b[i] != ']'; {
			if i = space(b, c.value(b, i, false)); b[i] == ',' {
				i = space(b, i+1)
			}
		}
		c.out = append(c.out, jsonEnd)
		return i + 1
	case '"':
		c.out = append(c.out, jsonString)
		return c.text(b, i)
	case 't':
		c.out = append(c.out, jsonTrue)
		return i + len("true")
	case 'f':
		c.out = append(c.out, jsonFalse)
		return i + len("false")
	case 'n':
		c.out = append(c.out, jsonNull)
		return i + len("null")
	}
	end := i
	for end < len(b) && inNumber(b[end]) {
		end++
	}
	c.number(b[i:end])
	return end
}

func (c *canonical) object(b []byte, i int, listed bool) int {
	mark, first := len(c.out), len(c.members)
	ordered := true
	for i = space(b, i+1); b[i] != '}'; {
		m := member{start: len(c.out)}
		i = space(b, c.text(b, i))
		m.name = len(c.out)
		i = c.value(b, space(b, i+1), string(c.out[m.start+4:m.name]) == "properties") // after the colon
		m.end = len(c.out)
		if n := len(c.members); ordered && n > first && c.compare(c.members[n-1], m) > 0 {
			ordered = false
		}
		c.members = append(c.members, m)
		if i = space(b, i); b[i] == ',' {
			i = space(b, i+1)
		}
	}
	list := c.members[first:]
	if !ordered && !listed {
		slices.SortStableFunc(list, c.compare)
	}
	if len(c.out)-mark > inlineObject {
		h := sha256.New()
		for _, m := range list {
			_, _ = h.Write(c.out[m.start:m.end])
		}
		c.out = h.Sum(append(c.out[:mark], jsonHashed))
	} else {
		c.sorted = append(c.sorted[:0], jsonObject)
		for _, m := range list {
			c.sorted = append(c.sorted, c.out[m.start:m.end]...)
		}
		c.out = append(append(c.out[:mark], c.sorted...), jsonEnd)
	}
	c.members = c.members[:first]
	return i + 1
}

func (c *canonical) compare(a, b member) int {
	return bytes.Compare(c.out[a.start+4:a.name], c.out[b.start+4:b.name])
}

// text appends the length, in four bytes, and the decoded text of the string at b[i], and returns the index after it.
func (c *canonical) text(b []byte, i int) int {
	end := i + 1
	for {
		n := bytes.IndexByte(b[end:], '"')
		back := end + n
		for b[back-1] == '\\' {
			back--
		}
		end += n + 1
		// The quotation mark that opens the string stops the count of backslashes.
		if (end-1-back)%2 == 0 {
			break
		}
	}
	at := len(c.out)
	c.out = append(c.out, 0, 0, 0, 0)
	c.out = jsonx.Value(b[i:end]).AppendStr(c.out)
	binary.BigEndian.PutUint32(c.out[at:], uint32(len(c.out)-at-4))
	return end
}

// number appends a number as a whole number without zeros at its ends, and a power of ten: 1, 1.0, 10e-1 and 0.1E1 are one. No
// digit is lost, as it would be in a float64.
func (c *canonical) number(text []byte) {
	mantissa, exponent := text, int64(0)
	if e := bytes.IndexAny(text, "eE"); e >= 0 {
		n, err := strconv.ParseInt(string(text[e+1:]), 10, 48)
		if err != nil {
			c.out = append(c.out, jsonRawNumber)
			c.out = binary.AppendUvarint(c.out, uint64(len(text)))
			c.out = append(c.out, text...)
			return
		}
		mantissa, exponent = text[:e], n
	}
	mantissa, negative := bytes.CutPrefix(mantissa, []byte("-"))
	at := len(c.out)
	for _, d := range mantissa {
		switch {
		case d == '.':
		case d == '0' && len(c.out) == at: // no leading zeros
		default:
			c.out = append(c.out, d)
		}
	}
	if point := bytes.IndexByte(mantissa, '.'); point >= 0 {
		exponent -= int64(len(mantissa) - point - 1)
	}
	for len(c.out) > at && c.out[len(c.out)-1] == '0' {
		c.out = c.out[:len(c.out)-1]
		exponent++
	}
	digits := len(c.out) - at
	if digits == 0 { // 0, however it is written
		exponent, negative = 0, false
	}
	// Kind, sign, and how many digits there are stand behind the digits, and are moved in front of them: the length is known only now.
	c.out = append(c.out, jsonNumber)
	if negative {
		c.out = append(c.out, '-')
	} else {
		c.out = append(c.out, '+')
	}
	c.out = binary.AppendUvarint(c.out, uint64(digits))
	rotate(c.out[at:], digits)
	c.out = binary.AppendVarint(c.out, exponent)
}

func inNumber(b byte) bool {
	return b >= '0' && b <= '9' || b == '.' || b == '-' || b == '+' || b == 'e' || b == 'E'
}

// rotate moves the first n bytes of b to its end.
func rotate(b []byte, n int) {
	slices.Reverse(b[:n])
	slices.Reverse(b[n:])
	slices.Reverse(b)
}

func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}
