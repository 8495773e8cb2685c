package dashscope

import (
	"fmt"
	"strings"

	"github.com/weir-dev/weir/test/sim/internal/exchange"
	"github.com/weir-dev/weir/test/sim/internal/jsontree"
	"github.com/weir-dev/weir/test/sim/internal/shape"
)

// failure is a refusal before it takes its form on the wire.
type failure struct {
	status  int
	code    string
	message string
}

func invalid(format string, args ...any) *failure {
	return &failure{400, "InvalidParameter", fmt.Sprintf(format, args...)}
}

type errorObject struct {
	Code      string `json:"code"`
	Message   string `json:"message"`
	RequestID string `json:"request_id"`
}

// refuse puts the error into a plain body, also when a stream was asked for.
func refuse(r *exchange.Request, f *failure) *exchange.Reply {
	rep := exchange.JSON(f.status, errorObject{f.code, f.message, r.UUID()})
	rep.Summary.Error = f.message
	return rep
}

// Failure is the provider's own error of a status, for injected faults.
func (p Provider) Failure(r *exchange.Request, status int) *exchange.Reply {
	if !native(r.Path) {
		return compat().Failure(r, status)
	}
	rep := refuse(r, fault(status))
	rep.Header.Set("X-Request-Id", r.UUID())
	return rep
}

// OK is an error in the body of a 200.
func (p Provider) OK(r *exchange.Request) *exchange.Reply {
	rep := p.Failure(r, 500)
	if native(r.Path) {
		rep.Status = 200
	}
	return rep
}

// StreamFailure is the error event in the middle of a stream.
func (p Provider) StreamFailure(r *exchange.Request, after int) []byte {
	if !native(r.Path) {
		return compat().StreamFailure(r, after)
	}
	f := fault(500)
	return frame(after+1, "error", f.status, errorObject{f.code, f.message, r.UUID()})
}

func fault(status int) *failure {
	for _, f := range []failure{
		{400, "InvalidParameter", "The request is not valid."},
		{401, "InvalidApiKey", "Invalid API-key provided."},
		{403, "AccessDenied", "Access denied."},
		{404, "ModelNotFound", "Model not exist."},
		{429, "Throttling.RateQuota", "Requests rate limit exceeded, please try again later."},
		{503, "ServiceUnavailable", "The service is not available, please try again later."},
		{504, "GatewayTimeout", "The request timed out."},
	} {
		if f.status == status {
			return &f
		}
	}
	return &failure{status, "InternalError", "An internal error has occurred, please try again later or contact service support."}
}

// explain words a problem of shape as DashScope does.
func explain(p *shape.Problem) *failure {
	at := p.Dotted()
	switch p.What {
	case shape.Missing:
		if at == "model" {
			return invalid("Model not exist: the field 'model' is required.")
		}
		return invalid("Field required: %s", at)
	case shape.Unknown:
		return invalid("Required body invalid, please check the request body format: unexpected field '%s'; messages belong in 'input', everything else in 'parameters'", at)
	case shape.WrongType:
		if at == "" {
			return invalid("Required body invalid, please check the request body format.")
		}
		return invalid("Input should be a valid %s: %s", kinds(p.Type.Kinds), at)
	case shape.NotListed:
		return invalid("Input should be '%s': %s", strings.Join(p.Listed, "' or '"), at)
	case shape.TooLow, shape.TooHigh:
		return invalid("Range of %s should be %s", p.Name(), span(p.Type))
	case shape.TooShort, shape.TooFew:
		return invalid("'%s' must not be empty", at)
	case shape.TooLong, shape.TooMany:
		return invalid("'%s' is too long", at)
	}
	return invalid("'%s' does not match the pattern '%s'", at, p.Type.Pattern)
}

func span(t *shape.Type) string {
	low, high := "(-inf", "inf)"
	if t.Low != nil {
		low = fmt.Sprintf("[%v", *t.Low)
		if t.LowOpen {
			low = fmt.Sprintf("(%v", *t.Low)
		}
	}
	if t.High != nil {
		high = fmt.Sprintf("%v]", *t.High)
		if t.HighOpen {
			high = fmt.Sprintf("%v)", *t.High)
		}
	}
	return low + ", " + high
}

func kinds(k jsontree.Kind) string {
	var out []string
	for _, one := range []jsontree.Kind{jsontree.Str, jsontree.Int, jsontree.Num, jsontree.Bool, jsontree.Arr, jsontree.Obj} {
		if k&one != 0 {
			out = append(out, one.String())
		}
	}
	return strings.Join(out, " or ")
}
