package extproc

import (
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weir-dev/weir/extproc/message"
)

// response is what Weir answers Envoy. Its dynamic metadata is in facts and not in the message, so that no objects are made of it that
// are only taken apart again.
type response struct {
	*extprocv3.ProcessingResponse
	facts     facts
	namespace string // of facts; "" where none are sent
}

// plain is a response without facts; nil for nil.
func plain(m *extprocv3.ProcessingResponse) *response {
	if m == nil {
		return nil
	}
	return &response{ProcessingResponse: m}
}

// tell adds facts, in the place of those that were there.
func (r *response) tell(namespace string, f facts) { r.namespace, r.facts = namespace, f }

// GetDynamicMetadata is what Envoy reads in the response.
func (r *response) GetDynamicMetadata() *structpb.Struct {
	if r == nil || r.namespace == "" {
		return nil
	}
	fields := make(map[string]*structpb.Value, len(r.facts))
	for _, x := range r.facts {
		if x.value != "" {
			fields[x.key] = structpb.NewStringValue(x.value)
		}
	}
	return &structpb.Struct{Fields: map[string]*structpb.Value{r.namespace: structpb.NewStructValue(&structpb.Struct{Fields: fields})}}
}

// MarshalWire implements wire.Marshaler.
func (r *response) MarshalWire() (mem.BufferSlice, error) {
	b, err := message.Marshal(r.ProcessingResponse, r.namespace, len(r.facts), func(i int) (key, value string) { return r.facts[i].key, r.facts[i].value })
	if err != nil {
		return nil, err
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

// onward is a response that lets the headers of a request go on, with what may be in it: built in one piece, for each request has one.
type onward struct {
	response
	message extprocv3.ProcessingResponse
	kind    extprocv3.ProcessingResponse_RequestHeaders
	headers extprocv3.HeadersResponse
	common  extprocv3.CommonResponse
}

func newOnward() (*response, *extprocv3.CommonResponse) {
	o := &onward{}
	o.ProcessingResponse, o.message.Response, o.kind.RequestHeaders, o.headers.Response = &o.message, &o.kind, &o.headers, &o.common
	return &o.response, &o.common
}
