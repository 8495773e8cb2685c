package anthropic

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/weir-dev/weir/test/sim/internal/exchange"
	"github.com/weir-dev/weir/test/sim/internal/jsontree"
	"github.com/weir-dev/weir/test/sim/internal/shape"
)

// failure is a refusal before it takes its form on the wire.
type failure struct {
	status  int
	kind    string
	message string
}

func invalid(format string, args ...any) *failure {
	return &failure{400, "invalid_request_error", fmt.Sprintf(format, args...)}
}

type errorObject struct {
	Type  string `json:"type"`
	Error struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	} `json:"error"`
	RequestID string `json:"request_id"`
}

func (f *failure) body(r *exchange.Request) errorObject {
	e := errorObject{Type: "error", RequestID: requestID(r)}
	e.Error.Type, e.Error.Message = f.kind, f.message
	return e
}

func (p Provider) refuse(r *exchange.Request, f *failure) *exchange.Reply {
	rep := exchange.JSON(f.status, f.body(r))
	rep.Summary.Error = f.message
	return rep
}

// Failure is the provider's own error of a status, for injected faults.
func (p Provider) Failure(r *exchange.Request, status int) *exchange.Reply {
	f := &failure{status, "api_error", "Internal server error"}
	for _, known := range []failure{
		{400, "invalid_request_error", "The request is not valid."},
		{401, "authentication_error", "invalid x-api-key"},
		{402, "billing_error", "Your credit balance is too low."},
		{403, "permission_error", "Your API key does not have permission to use this resource."},
		{404, "not_found_error", "Not Found"},
		{409, "conflict_error", "The request conflicts with another one."},
		{413, "request_too_large", "Request exceeds the maximum size"},
		{429, "rate_limit_error", "This request would exceed your organization's rate limit. Please try again later."},
		{503, "overloaded_error", "Overloaded"},
		{504, "timeout_error", "The request timed out."},
		{529, "overloaded_error", "Overloaded"},
	} {
		if known.status == status {
			f = &known
		}
	}
	rep := p.refuse(r, f)
	rep.Header.Set("Request-Id", requestID(r))
	return rep
}

// StreamFailure is the error event that ends a stream early.
func (p Provider) StreamFailure(r *exchange.Request, _ int) []byte {
	return event("error", (&failure{529, "overloaded_error", "Overloaded"}).body(r))
}

// explain words a problem of shape as Anthropic does.
func explain(p *shape.Problem) *failure {
	at := p.Dotted()
	say := func(format string, args ...any) *failure {
		return invalid("%s: %s", at, fmt.Sprintf(format, args...))
	}
	limit := func(v *float64) string {
		if v == nil {
			return "the limit"
		}
		return strconv.FormatFloat(*v, 'f', -1, 64)
	}
	switch p.What {
	case shape.Missing:
		return say("Field required")
	case shape.Unknown:
		return say("Extra inputs are not permitted")
	case shape.WrongType:
		if at == "" {
			return invalid("Input should be a valid dictionary")
		}
		return say("Input should be a valid %s", kind(p.Type.Kinds))
	case shape.NotListed:
		if p.Type.Tag != "" {
			at = strings.TrimSuffix(at, "."+p.Type.Tag)
			if p.Type.Tag == "role" {
				return invalid("messages: Unexpected role %q. Allowed roles are %s", p.Node.Str(), quoted(p.Listed))
			}
			return say("Input tag '%s' found using '%s' does not match any of the expected tags: %s", p.Node.Str(), p.Type.Tag, quoted(p.Listed))
		}
		return say("Input should be %s", quoted(p.Listed))
	case shape.TooLow:
		return say("Input should be greater than or equal to %s", limit(p.Type.Low))
	case shape.TooHigh:
		return say("Input should be less than or equal to %s", limit(p.Type.High))
	case shape.TooShort:
		return say("String should have at least %d character", p.Type.MinLen)
	case shape.TooLong:
		return say("String should have at most %d characters", p.Type.MaxLen)
	case shape.TooFew:
		if at == "messages" {
			return say("at least one message is required")
		}
		return say("List should have at least %d item after validation, not %d", p.Type.MinItems, len(p.Node.Items))
	case shape.TooMany:
		return say("List should have at most %d items after validation", max(p.Type.MaxItems, p.Type.MaxMembers))
	}
	return say("String should match pattern '%s'", p.Type.Pattern)
}

// kind names the type that was expected, in the words of Anthropic's validator.
func kind(k jsontree.Kind) string {
	switch {
	case k&jsontree.Arr != 0 && k&jsontree.Str != 0:
		return "string or list"
	case k&jsontree.Arr != 0:
		return "list"
	case k&jsontree.Obj != 0:
		return "dictionary"
	case k&jsontree.Num != 0:
		return "number"
	case k&jsontree.Int != 0:
		return "integer"
	case k&jsontree.Bool != 0:
		return "boolean"
	}
	return "string"
}

func quoted(list []string) string {
	return "'" + strings.Join(list, "', '") + "'"
}
