package openai

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/weir-dev/weir/test/sim/internal/exchange"
	"github.com/weir-dev/weir/test/sim/internal/jsontree"
	"github.com/weir-dev/weir/test/sim/internal/shape"
)

const invalid = "invalid_request_error"

// failure is a refusal before it takes its form on the wire.
type failure struct {
	status  int
	kind    string
	code    string
	param   string
	message string
}

func bad(param, code, format string, args ...any) *failure {
	return &failure{status: 400, kind: invalid, code: code, param: param, message: fmt.Sprintf(format, args...)}
}

// body is {"error":{...}}: absent param and code are null, not missing.
func (f *failure) body() map[string]any {
	orNull := func(s string) any {
		if s == "" {
			return nil
		}
		return s
	}
	return map[string]any{"error": struct {
		Message string `json:"message"`
		Type    string `json:"type"`
		Param   any    `json:"param"`
		Code    any    `json:"code"`
	}{f.message, f.kind, orNull(f.param), orNull(f.code)}}
}

func (p Provider) refuse(r *exchange.Request, f *failure) *exchange.Reply {
	b := f.body()
	if p.Qwen {
		b["request_id"] = r.UUID()
	}
	rep := exchange.JSON(f.status, b)
	rep.Summary.Error = f.message
	if f.status == http.StatusUpgradeRequired {
		rep.Header.Set("Upgrade", "HTTP/1.1")
	}
	return rep
}

// Failure is the provider's own error of a status, for injected faults.
func (p Provider) Failure(r *exchange.Request, status int) *exchange.Reply {
	f := faults(status)
	rep := p.refuse(r, f)
	rep.Header.Set("X-Request-Id", r.ID("req_", 0, 32))
	return rep
}

// StreamFailure is the frame of an error in the middle of a stream, after a number of events.
func (p Provider) StreamFailure(r *exchange.Request, after int) []byte {
	f := faults(500)
	if strings.HasSuffix(r.Path, "/responses") {
		data := exchange.Encode(object{{"type", "error"}, {"sequence_number", after}, {"code", "server_error"}, {"message", f.message}, {"param", nil}})
		return append(append([]byte("event: error\ndata: "), data...), "\n\n"...)
	}
	return frame(f.body())
}

func faults(status int) *failure {
	f := &failure{status: status, kind: "server_error", message: "The server had an error while processing your request. Sorry about that!"}
	switch status {
	case 400:
		f.kind, f.message = invalid, "The request is not valid."
	case 401:
		f.kind, f.code, f.message = invalid, "invalid_api_key", "Incorrect API key provided."
	case 403:
		f.kind, f.message = "permission_error", "You do not have access to this resource."
	case 404:
		f.kind, f.code, f.message = invalid, "model_not_found", "The model does not exist or you do not have access to it."
	case 408, 504:
		f.kind, f.message = "timeout", "Request timed out."
	case 409:
		f.kind, f.message = "conflict_error", "The request conflicts with another one."
	case 413:
		f.kind, f.code, f.message = invalid, "request_too_large", "The request body is too large."
	case 422:
		f.kind, f.message = invalid, "The request cannot be processed."
	case 429:
		f.kind, f.code = "rate_limit_error", "rate_limit_exceeded"
		f.message = "Rate limit reached for requests. Please try again later."
	case 503:
		f.message = "The engine is currently overloaded, please try again later."
	}
	return f
}

// explain words a problem of shape as OpenAI does.
func explain(p *shape.Problem) *failure {
	at := p.Bracketed()
	switch p.What {
	case shape.Missing:
		if at == "model" {
			return bad("", "", "you must provide a model parameter")
		}
		return bad(at, "missing_required_parameter", "Missing required parameter: '%s'.", at)
	case shape.Unknown:
		if len(p.Path) == 1 {
			return bad("", "", "Unrecognized request argument supplied: %s", at)
		}
		return bad(at, "unknown_parameter", "Unknown parameter: '%s'.", at)
	case shape.WrongType:
		if at == "" {
			return bad("", "", "Invalid request body: expected an object, but got %s instead.", article(p.Node.Kind))
		}
		return bad(at, "invalid_type", "Invalid type for '%s': expected %s, but got %s instead.", at, kinds(p.Type), article(p.Node.Kind))
	case shape.NotListed:
		return bad(at, "invalid_value", "Invalid value: '%s'. Supported values are: %s.", p.Node.Str(), quoted(p.Listed))
	case shape.TooLow, shape.TooHigh:
		kind, side, sign, limit := "decimal", "below minimum", ">=", p.Type.Low
		if p.Type.Kinds&jsontree.Num == 0 {
			kind = "integer"
		}
		code := "_below_min_value"
		if p.What == shape.TooHigh {
			side, sign, limit, code = "above maximum", "<=", p.Type.High, "_above_max_value"
		}
		if limit == nil {
			return bad(at, "invalid_value", "Invalid '%s': the number is out of range.", at)
		}
		return bad(at, kind+code, "Invalid '%s': %s %s value. Expected a value %s %s, but got %s instead.",
			at, kind, side, sign, strconv.FormatFloat(*limit, 'f', -1, 64), p.Node.JSON())
	case shape.TooShort:
		return bad(at, "empty_string", "Invalid '%s': string too short. Expected a string with minimum length %d, but got a shorter string instead.", at, p.Type.MinLen)
	case shape.TooLong:
		return bad(at, "string_above_max_length", "Invalid '%s': string too long. Expected a string with maximum length %d, but got a longer string instead.", at, p.Type.MaxLen)
	case shape.TooFew:
		return bad(at, "empty_array", "Invalid '%s': empty array. Expected an array with minimum length %d, but got an empty array instead.", at, p.Type.MinItems)
	case shape.TooMany:
		return bad(at, "array_above_max_length", "Invalid '%s': array too long. Expected an array with maximum length %d, but got more instead.", at, max(p.Type.MaxItems, p.Type.MaxMembers))
	}
	return bad(at, "invalid_value", "Invalid '%s': string does not match pattern. Expected a string that matches the pattern '%s'.", at, p.Type.Pattern)
}

func article(k jsontree.Kind) string {
	switch k {
	case jsontree.Null:
		return "null"
	case jsontree.Num:
		return "a decimal"
	case jsontree.Int, jsontree.Arr, jsontree.Obj:
		return "an " + k.String()
	}
	return "a " + k.String()
}

func kinds(t *shape.Type) string {
	var out []string
	for _, k := range []jsontree.Kind{jsontree.Str, jsontree.Int, jsontree.Num, jsontree.Bool, jsontree.Arr, jsontree.Obj, jsontree.Null} {
		if t.Kinds&k != 0 {
			out = append(out, article(k))
		}
	}
	if len(out) > 1 {
		return "one of " + strings.Join(out[:len(out)-1], ", ") + " or " + out[len(out)-1]
	}
	return strings.Join(out, "")
}

func quoted(list []string) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = "'" + s + "'"
	}
	if len(out) > 1 {
		out[len(out)-1] = "and " + out[len(out)-1]
	}
	return strings.Join(out, ", ")
}
