package usage

import (
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/durationpb"
)

// fields goes through the fields of an encoded protobuf message: for f := read(b); f.next(); {}, and then f.broken. It allocates nothing.
//
// Fields are told apart by their tag, which is their number and how they are encoded: a field that is encoded in another way than its type
// wants is unknown, as it is for protobuf.
type fields struct {
	rest   []byte
	tag    uint64
	value  uint64 // of a varint
	bytes  []byte // of a message, a string, or bytes
	broken bool   // rest begins with what is no field
}

func read(b []byte) fields { return fields{rest: b} }

// The tag of the n-th field of a message is n<<3 and how it is encoded: a number or a bool, or anything with a length.
const (
	varint = uint64(protowire.VarintType)
	sized  = uint64(protowire.BytesType)
)

// next goes to the next field. It is false at the end of the message, and where it is broken.
func (f *fields) next() bool {
	b := f.rest
	if len(b) == 0 {
		return false
	}
	n := 1
	if f.tag = uint64(b[0]); f.tag >= 0x80 {
		f.tag, n = protowire.ConsumeVarint(b)
	}
	number := f.tag >> 3
	if n < 0 || number < uint64(protowire.MinValidNumber) || number > uint64(protowire.MaxValidNumber) {
		f.broken = true
		return false
	}
	b = b[n:]
	switch f.tag & 7 {
	case varint:
		if len(b) > 0 && b[0] < 0x80 {
			f.value, n = uint64(b[0]), 1
		} else {
			f.value, n = protowire.ConsumeVarint(b)
		}
	case sized:
		if len(b) > 0 && b[0] < 0x80 && int(b[0]) < len(b) {
			n = 1 + int(b[0])
			f.bytes = b[1:n]
		} else {
			f.bytes, n = protowire.ConsumeBytes(b)
		}
	default:
		n = protowire.ConsumeFieldValue(protowire.Number(number), protowire.Type(f.tag&7), b)
	}
	if n < 0 {
		f.broken = true
		return false
	}
	f.rest = b[n:]
	return true
}

// pair reads an entry of a map from strings to messages. A message that comes in several parts is what they are together.
func pair(b []byte) (key, value []byte, ok bool) {
	if key, value, ok = usualPair(b); ok {
		return key, value, true
	}
	parts := 0
	f := read(b)
	for f.next() {
		switch f.tag {
		case 1<<3 | sized:
			key = f.bytes
		case 2<<3 | sized:
			if parts++; parts == 1 {
				value = f.bytes
			} else {
				value = append(value[:len(value):len(value)], f.bytes...)
			}
		}
	}
	return key, value, !f.broken
}

// textPair reads an entry of a map from strings to strings, and a google.protobuf.Any: its type and its value.
func textPair(b []byte) (key, value []byte, ok bool) {
	if key, value, ok = usualPair(b); ok {
		return key, value, true
	}
	f := read(b)
	for f.next() {
		switch f.tag {
		case 1<<3 | sized:
			key = f.bytes
		case 2<<3 | sized:
			value = f.bytes
		}
	}
	return key, value, !f.broken
}

// usualPair reads an entry of a map as everybody encodes it, if it is short: the key, then the value, and nothing else.
func usualPair(b []byte) (key, value []byte, ok bool) {
	if len(b) < 4 || b[0] != byte(1<<3|sized) || b[1] >= 0x80 {
		return nil, nil, false
	}
	at := 2 + int(b[1])
	if at+2 > len(b) || b[at] != byte(2<<3|sized) || b[at+1] >= 0x80 || at+2+int(b[at+1]) != len(b) {
		return nil, nil, false
	}
	return b[2:at], b[at+2:], true
}

// number is a google.protobuf.UInt32Value, or a UInt64Value.
type number struct {
	value uint64
	set   bool
}

func (x *number) read(b []byte) bool {
	x.set = true
	f := read(b)
	for f.next() {
		if f.tag == 1<<3|varint {
			x.value = f.value
		}
	}
	return !f.broken
}

// moment is a google.protobuf.Timestamp, or a Duration.
type moment struct {
	seconds int64
	nanos   int32
	set     bool
}

func (x *moment) read(b []byte) bool {
	x.set = true
	f := read(b)
	for f.next() {
		switch f.tag {
		case 1<<3 | varint:
			x.seconds = int64(f.value)
		case 2<<3 | varint:
			x.nanos = int32(f.value)
		}
	}
	return !f.broken
}

func (x *moment) time() time.Time { return time.Unix(x.seconds, int64(x.nanos)).UTC() }

// length is 0 where there is none. What is longer than Go can say is as long as it can say.
func (x *moment) length() time.Duration {
	const most = 1 << 33 // seconds that fit, with nanos as large as they can be
	if x.seconds > -most && x.seconds < most {
		return time.Duration(x.seconds)*time.Second + time.Duration(x.nanos)
	}
	return (&durationpb.Duration{Seconds: x.seconds, Nanos: x.nanos}).AsDuration()
}

// structText reads a google.protobuf.Value. ok is false where it is broken; text is nil where it is no string.
func structText(b []byte) (text []byte, ok bool) {
	if len(b) >= 2 && b[0] == byte(3<<3|sized) && b[1] < 0x80 && 2+int(b[1]) == len(b) { // nearly always
		return b[2:], true
	}
	f := read(b)
	for f.next() {
		switch f.tag {
		case 3<<3 | sized:
			text = f.bytes
		case 1<<3 | varint, 2<<3 | uint64(protowire.Fixed64Type), 4<<3 | varint, 5<<3 | sized, 6<<3 | sized:
			text = nil // the last one counts
		}
	}
	return text, !f.broken
}

// structFields reads a google.protobuf.Value that is a google.protobuf.Struct: the struct as it is encoded, nil where it is none. ok is false
// where it is broken.
func structFields(b []byte) (fields []byte, ok bool) {
	f := read(b)
	for f.next() {
		switch f.tag {
		case 5<<3 | sized:
			if fields == nil {
				fields = f.bytes
			} else { // in several parts
				fields = append(fields[:len(fields):len(fields)], f.bytes...)
			}
		case 1<<3 | varint, 2<<3 | uint64(protowire.Fixed64Type), 3<<3 | sized, 4<<3 | varint, 6<<3 | sized:
			fields = nil // the last one counts
		}
	}
	return fields, !f.broken
}
