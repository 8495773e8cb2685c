package wire

import "google.golang.org/grpc/mem"

// Unmarshaler is a message that decodes itself, where the generated code would cost more than what is done with the message.
// The codec of Weir's gRPC server hands it the encoded message as it came, strings that are not UTF-8 included.
type Unmarshaler interface {
	// UnmarshalWire decodes a whole message in place of what was there before. data is the codec's: nothing may refer to it
	// after the call. What is malformed is an error, which ends the stream.
	UnmarshalWire(data mem.BufferSlice) error
}

// Marshaler is a message that encodes itself.
type Marshaler interface {
	// MarshalWire returns the encoded message. gRPC frees it when it is written.
	MarshalWire() (mem.BufferSlice, error)
}
