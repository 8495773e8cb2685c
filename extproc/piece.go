package extproc

import (
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
)

// nextPiece is the message that says what takes the place of a piece of an answer. An answer has one and fills it again for each
// piece: gRPC has encoded a message when Send returns. The zero value is ready.
type nextPiece struct {
	resp     *extprocv3.ProcessingResponse // nil before the first piece
	mutation extprocv3.BodyMutation
	replaced extprocv3.BodyMutation_Body
	streamed extprocv3.StreamedBodyResponse
	duplex   extprocv3.BodyMutation_StreamedResponse
}

// message is the message around the mutation.
func (p *nextPiece) message() *extprocv3.ProcessingResponse {
	if p.resp == nil {
		p.resp = bodyResponse(&extprocv3.CommonResponse{BodyMutation: &p.mutation})
		p.duplex.StreamedResponse = &p.streamed
	}
	return p.resp
}

// replace answers a piece that Envoy keeps until it is answered.
func (p *nextPiece) replace(body []byte) *extprocv3.ProcessingResponse {
	p.replaced.Body = body
	p.mutation.Mutation = &p.replaced
	return p.message()
}

// stream sends a piece in duplex mode.
func (p *nextPiece) stream(body []byte, end bool) *extprocv3.ProcessingResponse {
	p.streamed.Body, p.streamed.EndOfStream = body, end
	p.mutation.Mutation = &p.duplex
	return p.message()
}
