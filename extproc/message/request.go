// Package message reads and writes the messages of an exchange with Envoy's external processing filter
// (envoy.service.ext_proc.v3) by hand, where there is one for each request: the generated code builds several hundred objects
// that nobody looks at. What it reads and writes is what the generated code would.
package message

import (
	"fmt"
	"math"
	"unicode/utf8"
	"unsafe"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/weir-dev/weir/extproc/wire"
)

// Kind is what a request holds: the number of its field in ProcessingRequest.request.
type Kind protowire.Number

// Kinds of requests.
const (
	None             Kind = 0
	RequestHeaders   Kind = 2
	ResponseHeaders  Kind = 3
	RequestBody      Kind = 4
	ResponseBody     Kind = 5
	RequestTrailers  Kind = 6
	ResponseTrailers Kind = 7
)

// String names the kind, for errors.
func (k Kind) String() string {
	switch k {
	case None:
		return "nothing"
	case RequestHeaders:
		return "request headers"
	case ResponseHeaders:
		return "response headers"
	case RequestBody:
		return "a request body"
	case ResponseBody:
		return "a response body"
	case RequestTrailers:
		return "request trailers"
	case ResponseTrailers:
		return "response trailers"
	}
	return fmt.Sprintf("field %d", int(k))
}

// Request is the first message of an exchange, as much as Weir reads of it. Its strings share one piece of memory: what outlives the
// request must be cloned.
type Request struct {
	Kind     Kind
	Headers  []Header // of a request, in their order; nil for other kinds
	Peek     []Field  // metadata of wire.PeekNamespace
	Decision []Field  // metadata of wire.DecisionNamespace
	// Attributes are those of all filters. Attributed tells that there are some, empty ones included.
	Attributes []Field
	Attributed bool
}

// Header is a line of a header.
type Header struct{ Name, Value string }

// Field is one of metadata or attributes. Of several with one key the last counts.
type Field struct {
	Key    string
	Text   string  // "" where it is no string
	Number float64 // 0 where it is no number
	Bool   bool    // false where it is no bool
}

// Text is the text of the field of this key; "" for none.
func Text(list []Field, key string) string {
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].Key == key {
			return list[i].Text
		}
	}
	return ""
}

// usualHeaders and usualFields are as many as most requests have.
const (
	usualHeaders = 24
	usualFields  = 12
)

// UnmarshalWire implements wire.Unmarshaler.
func (m *Request) UnmarshalWire(data mem.BufferSlice) error {
	b := make([]byte, data.Len())
	data.CopyTo(b)
	return m.Unmarshal(b)
}

// Unmarshal decodes a ProcessingRequest in place of what was there before. b is m's from then on, and may be changed: strings that are
// not UTF-8 get a "?" for each byte at fault. What Weir does not read is passed over, and need not be sound.
func (m *Request) Unmarshal(b []byte) error {
	*m = Request{}
	if err := eachField(b, m.field); err != nil {
		return fmt.Errorf("a message of Envoy cannot be read: %w", err)
	}
	return nil
}

// field reads a field of ProcessingRequest.
func (m *Request) field(number protowire.Number, kind protowire.Type, value []byte) error {
	if kind != protowire.BytesType {
		return nil
	}
	switch number {
	case 2, 3, 4, 5, 6, 7:
		if k := Kind(number); m.Kind != k {
			m.Kind, m.Headers = k, nil
		}
		if m.Kind == RequestHeaders {
			return m.headers(value)
		}
	case 8: // metadata_context
		return eachField(value, m.metadata)
	case 9: // attributes
		m.Attributed = true
		_, list, err := entry(value, nil)
		m.Attributes = append(m.Attributes, list...)
		return err
	}
	return nil
}

// headers reads HttpHeaders.
func (m *Request) headers(b []byte) error {
	return eachField(b, func(number protowire.Number, kind protowire.Type, value []byte) error {
		if number != 1 || kind != protowire.BytesType {
			return nil
		}
		if m.Headers == nil {
			m.Headers = make([]Header, 0, usualHeaders)
		}
		return eachField(value, m.header)
	})
}

// header reads a field of HeaderMap.
func (m *Request) header(number protowire.Number, kind protowire.Type, value []byte) error {
	if number != 1 || kind != protowire.BytesType {
		return nil
	}
	var name, text, raw []byte
	for len(value) > 0 {
		number, kind, content, n := consume(value)
		if n < 0 {
			return protowire.ParseError(n)
		}
		value = value[n:]
		if kind != protowire.BytesType {
			continue
		}
		switch number {
		case 1:
			name = mend(content)
		case 2:
			text = mend(content)
		case 3:
			raw = content
		}
	}
	if len(raw) == 0 { // Envoy sends a value as bytes or as text
		raw = text
	}
	m.Headers = append(m.Headers, Header{view(name), view(raw)})
	return nil
}

// metadata reads a field of Metadata.
func (m *Request) metadata(number protowire.Number, kind protowire.Type, value []byte) error {
	if number != 1 || kind != protowire.BytesType {
		return nil
	}
	namespace, list, err := entry(value, func(namespace string) bool {
		return namespace == wire.PeekNamespace || namespace == wire.DecisionNamespace
	})
	switch namespace { // of several entries of one namespace the last counts
	case wire.PeekNamespace:
		m.Peek = list
	case wire.DecisionNamespace:
		m.Decision = list
	}
	return err
}

// entry reads an entry of map<string, Struct>, if it is wanted; nil wants all.
func entry(b []byte, wanted func(key string) bool) (key string, list []Field, err error) {
	// The key comes first, but that is no rule.
	err = eachField(b, func(number protowire.Number, kind protowire.Type, value []byte) error {
		if number == 1 && kind == protowire.BytesType {
			key = view(mend(value))
		}
		return nil
	})
	if err != nil || wanted != nil && !wanted(key) {
		return key, nil, err
	}
	list = make([]Field, 0, usualFields)
	err = eachField(b, func(number protowire.Number, kind protowire.Type, value []byte) error {
		if number != 2 || kind != protowire.BytesType {
			return nil
		}
		return eachField(value, func(number protowire.Number, kind protowire.Type, value []byte) error { // of Struct
			if number != 1 || kind != protowire.BytesType {
				return nil
			}
			f, err := field(value)
			list = append(list, f)
			return err
		})
	})
	return key, list, err
}

// field reads an entry of Struct.fields.
func field(b []byte) (f Field, err error) {
	for len(b) > 0 {
		number, kind, content, n := consume(b)
		if n < 0 {
			return f, protowire.ParseError(n)
		}
		b = b[n:]
		if kind != protowire.BytesType {
			continue
		}
		switch number {
		case 1:
			f.Key = view(mend(content))
		case 2:
			if err := f.value(content); err != nil {
				return f, err
			}
		}
	}
	return f, nil
}

// value reads a Value, of whose fields the last counts.
func (f *Field) value(b []byte) error {
	for len(b) > 0 {
		number, kind, content, n := consume(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		next := Field{Key: f.Key}
		switch {
		case number == 1 && kind == protowire.VarintType: // null
		case number == 2 && kind == protowire.Fixed64Type:
			bits, n := protowire.ConsumeFixed64(content)
			if n < 0 {
				return protowire.ParseError(n)
			}
			next.Number = math.Float64frombits(bits)
		case number == 3 && kind == protowire.BytesType:
			next.Text = view(mend(content))
		case number == 4 && kind == protowire.VarintType:
			v, n := protowire.ConsumeVarint(content)
			if n < 0 {
				return protowire.ParseError(n)
			}
			next.Bool = protowire.DecodeBool(v)
		case (number == 5 || number == 6) && kind == protowire.BytesType: // struct, list
		default:
			continue // no field of a Value
		}
		*f = next
	}
	return nil
}

// eachField calls do with the fields of an encoded message.
func eachField(b []byte, do func(number protowire.Number, kind protowire.Type, value []byte) error) error {
	for len(b) > 0 {
		number, kind, value, n := consume(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := do(number, kind, value); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// consume reads a field, and its value: of bytes without the length, of others as encoded. n is negative for a protowire.ParseError.
func consume(b []byte) (number protowire.Number, kind protowire.Type, value []byte, n int) {
	// Nearly every field has a tag and a length of one byte each.
	if len(b) >= 2 && b[0] < 0x80 && b[0]&7 == byte(protowire.BytesType) && b[0] >= 8 && b[1] < 0x80 {
		end := 2 + int(b[1])
		if end <= len(b) {
			return protowire.Number(b[0] >> 3), protowire.BytesType, b[2:end:end], end
		}
	}
	number, kind, n = protowire.ConsumeTag(b)
	if n < 0 {
		return 0, 0, nil, n
	}
	if kind == protowire.BytesType {
		value, size := protowire.ConsumeBytes(b[n:])
		if size < 0 {
			return 0, 0, nil, size
		}
		return number, kind, value, n + size
	}
	size := protowire.ConsumeFieldValue(number, kind, b[n:])
	if size < 0 {
		return 0, 0, nil, size
	}
	return number, kind, b[n : n+size], n + size
}

// mend makes UTF-8 of a string, in place.
func mend(s []byte) []byte {
	if utf8.Valid(s) {
		return s
	}
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRune(s[i:])
		if r == utf8.RuneError && size == 1 {
			s[i] = '?'
		}
		i += size
	}
	return s
}

// view is b as a string, without a copy: nobody changes b any more.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
