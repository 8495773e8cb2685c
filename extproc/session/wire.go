package session

import (
	"errors"
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// What is kept is written in the wire format of protocol buffers (https://protobuf.dev/programming-guides/encoding), by hand: strings are
// read without copies, and a field that is not known is passed over, so that a version of Weir reads what a later one has added.

// errWire says that bytes are not in that format. What they hold is not shown.
var errWire = errors.New("it is not what a session looks like")

func appendString(b []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

// appendUint writes a number; it is none of those that are less than 0.
func appendUint[N int | int64 | uint64](b []byte, field protowire.Number, n N) []byte {
	if n <= 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), uint64(n))
}

func appendBool(b []byte, field protowire.Number, yes bool) []byte {
	if !yes {
		return b
	}
	return appendUint(b, field, 1)
}

// appendTime writes a time in nanoseconds since 1970; the zero time is left out.
func appendTime(b []byte, field protowire.Number, t time.Time) []byte {
	if t.IsZero() {
		return b
	}
	return protowire.AppendFixed64(protowire.AppendTag(b, field, protowire.Fixed64Type), uint64(t.UnixNano()))
}

// appendMessage writes what write appends as one field.
func appendMessage(b []byte, field protowire.Number, write func(b []byte) []byte) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	// Most are shorter than 128 bytes, whose length has one byte; others are moved.
	at := len(b)
	b = write(append(b, 0))
	n := len(b) - at - 1
	if n < 1<<7 {
		b[at] = byte(n)
		return b
	}
	more := protowire.SizeVarint(uint64(n)) - 1
	for range more {
		b = append(b, 0)
	}
	copy(b[at+1+more:], b[at+1:len(b)-more])
	protowire.AppendVarint(b[:at], uint64(n))
	return b
}

// value is what a field holds: text of strings and messages, n of numbers.
type value struct {
	text string
	n    uint64
}

func (v value) bool() bool { return v.n != 0 }

// int is a number that is not negative; too large ones are refused by who counts.
func (v value) int() int { return int(min(v.n, math.MaxInt32)) }

func (v value) int64() int64 { return int64(min(v.n, math.MaxInt64)) }

func (v value) time() time.Time { return time.Unix(0, int64(v.n)).UTC() }

// eachField gives the fields of a message in their order. It ends with the first error.
func eachField(text string, do func(field protowire.Number, v value) error) error {
	for len(text) > 0 {
		tag, n := varint(text)
		if n == 0 || tag>>3 == 0 || tag>>3 > uint64(protowire.MaxValidNumber) {
			return errWire
		}
		text = text[n:]
		var v value
		switch protowire.Type(tag & 7) {
		case protowire.VarintType:
			if v.n, n = varint(text); n == 0 {
				return errWire
			}
		case protowire.Fixed64Type:
			if n = 8; len(text) < n {
				return errWire
			}
			for i := range n {
				v.n |= uint64(text[i]) << (8 * i)
			}
		case protowire.Fixed32Type:
			if n = 4; len(text) < n {
				return errWire
			}
		case protowire.BytesType:
			size, head := varint(text)
			if head == 0 || size > uint64(len(text)-head) {
				return errWire
			}
			n = head + int(size)
			v.text = text[head:n]
		default:
			return errWire
		}
		text = text[n:]
		if err := do(protowire.Number(tag>>3), v); err != nil {
			return err
		}
	}
	return nil
}

// varint reads a number; n is how many bytes it has, 0 where there is none.
func varint(text string) (v uint64, n int) {
	for i := 0; i < len(text) && i < 10; i++ {
		c := text[i]
		if i == 9 && c > 1 {
			return 0, 0
		}
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			return v, i + 1
		}
	}
	return 0, 0
}
