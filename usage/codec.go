package usage

import (
	"fmt"
	"unicode/utf8"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that this one stands before
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/weir-dev/weir/extproc/wire"
)

// Codec is gRPC's own for protobuf, but that it takes messages whose strings are not UTF-8: it reads a "?" for each byte
// at fault. Envoy copies some headers of clients into such strings as they came (x-request-id into access logs), and
// gRPC would end the stream over it, with the records of everybody else that were on their way. Messages that decode or
// encode themselves, as package wire has it, do so.
func Codec() encoding.CodecV2 { return lenient{encoding.GetCodecV2("proto")} }

type lenient struct{ encoding.CodecV2 }

// Unmarshal implements encoding.CodecV2. A sound message costs nothing more than gRPC's own codec does.
func (c lenient) Unmarshal(data mem.BufferSlice, v any) error {
	if m, ok := v.(wire.Unmarshaler); ok {
		return m.UnmarshalWire(data)
	}
	err := c.CodecV2.Unmarshal(data, v)
	m, ok := v.(proto.Message)
	if err == nil || !ok {
		return err
	}
	raw := data.Materialize()
	if !mend(raw, m.ProtoReflect().Descriptor(), maxDepth) {
		return err
	}
	if err := proto.Unmarshal(raw, m); err != nil {
		return fmt.Errorf("a message of Envoy cannot be read: %w", err)
	}
	return nil
}

// Marshal implements encoding.CodecV2.
func (c lenient) Marshal(v any) (mem.BufferSlice, error) {
	if m, ok := v.(wire.Marshaler); ok {
		return m.MarshalWire()
	}
	return c.CodecV2.Marshal(v)
}

// maxDepth of messages in each other; Envoy's have about ten.
const maxDepth = 100

// mend makes UTF-8 of every string of an encoded message, in place, because lengths do not change. It reports whether
// the message is sound otherwise.
func mend(b []byte, d protoreflect.MessageDescriptor, depth int) bool {
	if depth == 0 {
		return false
	}
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		n = protowire.ConsumeFieldValue(number, kind, b)
		if n < 0 {
			return false
		}
		if f := d.Fields().ByNumber(number); f != nil && kind == protowire.BytesType {
			content, _ := protowire.ConsumeBytes(b[:n])
			switch f.Kind() {
			case protoreflect.StringKind:
				mendString(content)
			case protoreflect.MessageKind:
				if !mend(content, f.Message(), depth-1) {
					return false
				}
			}
		}
		b = b[n:]
	}
	return true
}

func mendString(s []byte) {
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRune(s[i:])
		if r == utf8.RuneError && size == 1 {
			s[i] = '?'
		}
		i += size
	}
}
