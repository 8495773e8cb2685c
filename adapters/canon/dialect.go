package canon

import (
	"slices"
	"time"
)

// Operation is what a request path asks for.
type Operation string

// The operations. Only OpChat can be translated; the others pass between two ends of one dialect.
const (
	OpChat        Operation = "chat"
	OpModels      Operation = "models" // list, answered by Weir itself
	OpModel       Operation = "model"  // one model, answered by Weir itself
	OpResponses   Operation = "responses"
	OpEmbeddings  Operation = "embeddings"
	OpCompletions Operation = "completions"
	OpCountTokens Operation = "count_tokens"
)

// Endpoint is one path a dialect serves or calls.
type Endpoint struct {
	Op     Operation
	Method string
	// Path is relative to the base URL that the dialect's own SDK is configured with: for OpenAI
	// "/chat/completions" (its base ends in /v1), for Anthropic "/v1/messages". A last segment "{model}" stands
	// for one path segment.
	Path string
}

// Dialect is one provider's wire format. In or Out is nil where Weir does not speak that side.
type Dialect struct {
	Name string // "openai": the word in Backend.spec.dialect
	// Root is what stands before Endpoint.Path in a client's request path: "/v1" for OpenAI, ""
	// for Anthropic (whose SDK adds /v1 itself).
	Root      string
	Endpoints []Endpoint
	// Header is a request header that the clients of this dialect always send and those of others
	// never do. It decides where two dialects serve the same path; "" where there is none.
	Header string
	In     Inbound
	Out    Outbound
}

// Inbound is the face a dialect shows to clients. Implementations are stateless and safe for
// concurrent use.
type Inbound interface {
	// ParseRequest reads an OpChat body, which must not change as long as the Request is used. A failure is an ErrInvalidRequest
	// that names the field.
	ParseRequest(body []byte) (*Request, *Error)
	// AppendResponse appends the JSON body of a whole answer.
	AppendResponse(dst []byte, r *Response, o Reply) []byte
	// NewStreamEncoder makes the encoder of one streamed answer.
	NewStreamEncoder(o Reply) StreamEncoder
	// AppendError appends the JSON body of an error answer; the caller sets the status.
	AppendError(dst []byte, e *Error, requestID string) []byte
	// AppendModels appends the answer to OpModels.
	AppendModels(dst []byte, models []Model) []byte
	// AppendModel appends the answer to OpModel.
	AppendModel(dst []byte, m Model) []byte
}

// Reply is what an answer needs from its request and from Weir.
type Reply struct {
	Model        string // the name the caller asked for, repeated in every answer
	ID           string // unique, no prefix; used where the provider gave no id
	Created      int64  // Unix seconds
	IncludeUsage bool
}

// Model is one entry of a model list.
type Model struct {
	ID      string
	Owner   string
	Created int64 // Unix seconds
}

// StreamEncoder prints one streamed answer as the dialect's server-sent events. It is used by one
// goroutine, sees events in the order of EventKind's comment, and closes by itself what a dialect
// needs closed (open blocks, terminal events).
type StreamEncoder interface {
	// Append appends the bytes of ev to dst; it may append none.
	Append(dst []byte, ev *Event) []byte
	// End appends what ends a clean stream ("data: [DONE]"). After an EventError it appends nothing.
	End(dst []byte) []byte
}

// Call is a request in a provider's dialect.
type Call struct {
	Path    string      // relative to the backend's base URL, with query where needed
	Headers [][2]string // beside content-type: application/json, which is always set
	Body    []byte
	Dropped []string // caller's fields that this dialect cannot express
}

// CallOptions come from the backend's configuration.
type CallOptions struct {
	Model            string // the provider's name for the model
	DefaultMaxTokens int64  // for dialects that require one; 0 means the adapter's own default
}

// Credential is a header that shows a backend's key to it.
type Credential struct {
	Name  string // in lower case: "authorization"
	Value string // "Bearer " and the key
	// Versions are the values of Dialect.Header (Anthropic's API version) with which a request carries its key
	// so; nil: every other value, and none.
	Versions []string
}

// CredentialFor picks the one of a dialect's credentials that a request of this version carries.
func CredentialFor(list []Credential, version string) (Credential, bool) {
	for _, c := range list {
		if c.Versions == nil || slices.Contains(c.Versions, version) {
			return c, true
		}
	}
	return Credential{}, false
}

// Outbound is the side that talks to a provider. Implementations are stateless and safe for
// concurrent use.
type Outbound interface {
	// BuildCall prints r, which it must not change: a fallback prints it again in another dialect.
	// A failure is an ErrInvalidRequest: the request cannot be said in this dialect.
	BuildCall(r *Request, o CallOptions) (*Call, *Error)
	// ParseResponse reads a whole answer with a 2xx status. Some providers report failures under
	// 200: those come back as *Error. The body must not change as long as the Response is used.
	ParseResponse(body []byte) (*Response, *Error)
	// ParseError reads an answer with any other status. It always returns an error, whatever the
	// body is (HTML from a proxy, nothing at all).
	ParseError(status int, retryAfter string, body []byte) *Error
	// NewStreamDecoder makes the decoder of one streamed answer.
	NewStreamDecoder() StreamDecoder
	// Credentials gives the headers that can carry key; the last one has no Versions, and is the only one in
	// most dialects.
	Credentials(key string) []Credential
	// SetModel replaces the model name in a request body of this dialect and keeps every other
	// byte as it was. A failure is an ErrInvalidRequest.
	SetModel(body []byte, model string) ([]byte, *Error)
}

// StreamDecoder reads one streamed answer. It is used by one goroutine.
type StreamDecoder interface {
	// Feed reads a chunk, cut anywhere (inside a rune, inside a line), and calls emit for each
	// event in it. The event and its strings are valid only during the call.
	Feed(chunk []byte, emit func(*Event))
	// Ended is true once the provider has said its last event, or after an EventError: what may still
	// come changes nothing, and Feed ignores it. The caller then calls End, without waiting for the
	// connection: an HTTP/2 answer may end with trailers, or be held open. A decoder that cannot tell
	// (its provider left out the last event, which some do) stays false, and End decides.
	Ended() bool
	// End is called once, when the provider closed the stream or Ended has become true. It emits what
	// is still due, or an EventError (ErrBadGateway) if the stream had not come to its proper end.
	// After an EventError it emits nothing.
	End(emit func(*Event))
}

// ParseRetryAfter reads a Retry-After value in its seconds form; a date or rubbish gives 0.
func ParseRetryAfter(v string) time.Duration {
	var n int64
	if v == "" || len(v) > 9 {
		return 0
	}
	for _, c := range []byte(v) {
		if c < '0' || c > '9' {
			return 0
		}
		n = n*10 + int64(c-'0')
	}
	return time.Duration(n) * time.Second
}
