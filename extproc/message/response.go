package message

import (
	"slices"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// usualResponse is as many bytes as nearly all encoded decisions have.
const usualResponse = 1 << 10

// Marshal encodes a response and, where namespace is not "", dynamic metadata of that namespace: n texts, of which at gives the i-th. Empty
// texts are left out; of several with one key the last counts.
func Marshal(m *extprocv3.ProcessingResponse, namespace string, n int, at func(i int) (key, value string)) ([]byte, error) {
	b := make([]byte, 0, usualResponse)
	if out, ok := appendOnward(b, m); ok {
		b = out
	} else {
		var err error
		// A message that is appended to another of its type is merged with it.
		if b, err = (proto.MarshalOptions{}).MarshalAppend(b, m); err != nil {
			return nil, err
		}
	}
	if namespace != "" {
		b = appendTexts(b, namespace, n, at)
	}
	return b, nil
}

// appendTexts appends ProcessingResponse.dynamic_metadata.
func appendTexts(b []byte, namespace string, n int, at func(i int) (key, value string)) []byte {
	b, metadata := begin(b, 8) // Struct
	b, outer := begin(b, 1)    // an entry of its fields
	b = appendText(b, 1, namespace)
	b, value := begin(b, 2)  // Value
	b, inside := begin(b, 5) // Struct
	for i := range n {
		key, text := at(i)
		if text == "" {
			continue
		}
		b2, field := begin(b, 1)
		b2 = appendText(b2, 1, key)
		b2, of := begin(b2, 2)
		b2 = appendText(b2, 3, text)
		b = end(end(b2, of), field)
	}
	return end(end(end(end(b, inside), value), outer), metadata)
}

// appendOnward encodes what lets a request go on; ok is false for all that has something else in it. Fields that Envoy's messages get one
// day are Weir's to set, and TestMarshalKnowsEveryField tells when there are any.
func appendOnward(b []byte, m *extprocv3.ProcessingResponse) (_ []byte, ok bool) {
	//lint:ignore SA1019 deprecated or not, what has it is not for this encoder
	if m.DynamicMetadata != nil || len(m.TypedDynamicMetadata) > 0 || m.RequestDrain || m.RequestDrainRequests || m.RequestDrainResponses ||
		m.OverrideMessageTimeout != nil || m.ServerWindowUpdate != nil {
		return b, false
	}
	var number protowire.Number
	var common *extprocv3.CommonResponse
	switch r := m.Response.(type) {
	case *extprocv3.ProcessingResponse_RequestHeaders:
		if r == nil || r.RequestHeaders == nil {
			return b, false
		}
		number, common = 1, r.RequestHeaders.Response
	case *extprocv3.ProcessingResponse_RequestBody:
		if r == nil || r.RequestBody == nil {
			return b, false
		}
		number, common = 3, r.RequestBody.Response
	}
	if common == nil || common.Status != 0 || common.BodyMutation != nil || common.Trailers != nil {
		return b, false
	}
	b, response := begin(b, number) // HeadersResponse or BodyResponse
	b, inside := begin(b, 1)        // CommonResponse
	if h := common.HeaderMutation; h != nil {
		var mutation int
		b, mutation = begin(b, 2)
		for _, o := range h.SetHeaders {
			if b, ok = appendHeader(b, o); !ok {
				return b, false
			}
		}
		for _, name := range h.RemoveHeaders {
			b = appendText(b, 2, name)
		}
		b = end(b, mutation)
	}
	b = appendBool(b, 5, common.ClearRouteCache)
	b = end(end(b, inside), response)
	if mode := m.ModeOverride; mode != nil {
		b = appendMode(b, mode)
	}
	return b, true
}

// appendHeader encodes an entry of HeaderMutation.set_headers.
func appendHeader(b []byte, o *corev3.HeaderValueOption) (_ []byte, ok bool) {
	h := o.GetHeader()
	//lint:ignore SA1019 deprecated or not, what has it is not for this encoder
	if h == nil || h.Value != "" || o.Append != nil || o.KeepEmptyValue {
		return b, false
	}
	b, option := begin(b, 1)
	b, value := begin(b, 1)
	if h.Key != "" {
		b = appendText(b, 1, h.Key)
	}
	if len(h.RawValue) > 0 {
		b = protowire.AppendTag(b, 3, protowire.BytesType)
		b = protowire.AppendBytes(b, h.RawValue)
	}
	b = end(b, value)
	b = appendEnum(b, 3, int32(o.AppendAction))
	return end(b, option), true
}

// appendMode encodes ProcessingResponse.mode_override.
func appendMode(b []byte, m *filterv3.ProcessingMode) []byte {
	b, mode := begin(b, 9)
	b = appendEnum(b, 1, int32(m.RequestHeaderMode))
	b = appendEnum(b, 2, int32(m.ResponseHeaderMode))
	b = appendEnum(b, 3, int32(m.RequestBodyMode))
	b = appendEnum(b, 4, int32(m.ResponseBodyMode))
	b = appendEnum(b, 5, int32(m.RequestTrailerMode))
	b = appendEnum(b, 6, int32(m.ResponseTrailerMode))
	return end(b, mode)
}

func appendEnum(b []byte, number protowire.Number, v int32) []byte {
	if v == 0 {
		return b
	}
	b = protowire.AppendTag(b, number, protowire.VarintType)
	return protowire.AppendVarint(b, uint64(int64(v)))
}

func appendBool(b []byte, number protowire.Number, v bool) []byte {
	return appendEnum(b, number, int32(protowire.EncodeBool(v)))
}

// appendText encodes a string. What is not UTF-8 in it becomes "?": Envoy takes no message that has it.
func appendText(b []byte, number protowire.Number, s string) []byte {
	b = protowire.AppendTag(b, number, protowire.BytesType)
	b = protowire.AppendString(b, s)
	if !utf8.ValidString(s) {
		mend(b[len(b)-len(s):])
	}
	return b
}

// begin begins a message in a field, and end ends it: at is what begin gave.
func begin(b []byte, number protowire.Number) (_ []byte, at int) {
	b = append(protowire.AppendTag(b, number, protowire.BytesType), 0)
	return b, len(b)
}

func end(b []byte, at int) []byte {
	size := len(b) - at
	if size < 0x80 { // which has room
		b[at-1] = byte(size)
		return b
	}
	more := protowire.SizeVarint(uint64(size)) - 1
	b = slices.Grow(b, more)[:len(b)+more]
	copy(b[at+more:], b[at:at+size])
	protowire.AppendVarint(b[:at-1], uint64(size))
	return b
}
