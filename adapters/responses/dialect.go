// Package responses is the face that OpenAI's Responses API shows to clients: their requests become canon, and canon becomes the
// response objects and the streams that OpenAI's SDKs read. It talks to no provider: behind it any backend serves, by translation.
//
// Source of the wire format: OpenAI's API reference and its published SDKs. One file per subject:
//
//	request, tools        the body of POST /v1/responses -> Request
//	items, content        its input -> []Item, and stored items back
//	compose               history and input -> a canon.Request
//	print_item            items as JSON, for listing and keeping
//	object                the response object
//	stream                a streamed answer, event by event
//	resources             the other bodies: lists, conversations, deletions
//
// The API has a memory, and this package has none: it reads what a request says about the past (State), and composes a request from
// the past that its caller kept. Nothing here does I/O or knows a clock; ids come in by canon.Reply.
package responses

import (
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/internal/fields"
	"github.com/weir-dev/weir/adapters/openai"
)

// Name is the word by which records tell this face from OpenAI's Chat Completions. It is no Backend.spec.dialect.
const Name = "responses"

// Dialect is the face for the answers to r. It has no Out: providers are spoken to in dialects of their own.
//
// Its ParseRequest reads a request without a past, and refuses what needs one. Its answers repeat what r said, as OpenAI's do; a nil r
// repeats nothing.
func Dialect(r *Request) *canon.Dialect {
	return &canon.Dialect{
		Name:      Name,
		Root:      "/v1",
		Endpoints: []canon.Endpoint{{Op: canon.OpResponses, Method: "POST", Path: "/responses"}},
		In:        In(r),
	}
}

// In is the inbound side of Dialect.
func In(r *Request) canon.Inbound {
	if r == nil {
		r = &Request{State: State{Store: true}}
	}
	return face{Inbound: openai.Dialect().In, request: r}
}

// face is OpenAI's inbound side (errors and lists of models are the same in both of its APIs) with requests and answers replaced.
type face struct {
	canon.Inbound
	request *Request
}

// ParseRequest implements canon.Inbound.
func (face) ParseRequest(body []byte) (*canon.Request, *canon.Error) {
	r, err := Parse(body)
	if err != nil {
		return nil, err
	}
	switch {
	case r.State.PreviousResponseID != "":
		return nil, fields.Sentence(fields.Cannot("previous_response_id", "needs a response that was kept, and none is kept on this route: send the whole conversation as input"))
	case r.State.Conversation != "":
		return nil, fields.Sentence(fields.Cannot("conversation", "needs a conversation that is kept, and none is kept on this route: send the whole conversation as input"))
	}
	return r.Compose(nil)
}

// AppendResponse appends the response object of a whole answer. Its ids are made of o.ID: a provider's own id means nothing to a
// caller who asks for the response later.
func (f face) AppendResponse(dst []byte, r *canon.Response, o canon.Reply) []byte {
	e := newEncoder(f.request, o)
	var events []byte
	r.Events(func(ev *canon.Event) { events = e.Append(events[:0], ev) })
	e.closeAll(events[:0])
	e.keep()
	return e.appendObject(dst, e.status(), true)
}

// NewStreamEncoder implements canon.Inbound.
func (f face) NewStreamEncoder(o canon.Reply) canon.StreamEncoder { return newEncoder(f.request, o) }
