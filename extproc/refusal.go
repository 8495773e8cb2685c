package extproc

import (
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/wire"
)

const contentJSON = "application/json"

// refusal is the answer to a request that goes no further, in the caller's dialect.
func refusal(d *canon.Dialect, e *canon.Error, requestID string, facts facts) *response {
	headers := []*corev3.HeaderValueOption{header("content-type", contentJSON)}
	if c := identity.Challenge(e); c != "" {
		headers = append(headers, header("www-authenticate", c))
	}
	if e.RetryAfter > 0 {
		headers = append(headers, header("retry-after", seconds(e.RetryAfter)))
	}
	if e.Code == codeTooLarge || e.Code == codeBudget {
		headers = append(headers, header("x-should-retry", "false")) // which both SDKs heed: the same answer would follow
	}
	facts = append(facts, fact{wire.KeyRefusal, recorded(e)}, fact{wire.KeyPolicy, e.Policy})
	return immediate(e.HTTPStatus(), headers, d.In.AppendError(nil, e, requestID), "weir_"+string(e.Kind), d, facts)
}

// recorded is why a request is refused, for its record. What is wrong with a body may quote the body, which records must not hold: of
// that they say the place.
func recorded(e *canon.Error) string {
	switch {
	case e.Kind != canon.ErrInvalidRequest:
		return e.Message
	case e.Param != "":
		return "The request is not valid: " + e.Param + "."
	}
	return "The request is not valid."
}

// immediate is an answer that Weir gives itself.
func immediate(status int, headers []*corev3.HeaderValueOption, body []byte, details string, d *canon.Dialect, facts facts) *response {
	facts = append(facts, fact{wire.KeyImmediate, "true"}, fact{wire.KeyDialect, d.Name})
	return &response{facts: facts, namespace: wire.DecisionNamespace, ProcessingResponse: &extprocv3.ProcessingResponse{
		Response: &extprocv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: &extprocv3.ImmediateResponse{
			Status:  &typev3.HttpStatus{Code: typev3.StatusCode(status)},
			Headers: &extprocv3.HeaderMutation{SetHeaders: headers},
			Body:    body,
			Details: details,
		}},
	}}
}

// facts become dynamic metadata. They never hold a secret: they end up in access logs.
type facts []fact

type fact struct{ key, value string }

// usualFacts is room for as many as a decision has.
const usualFacts = 32

// headers are the facts that travel to Envoy under the names of response headers.
func (f facts) headers() []*corev3.HeaderValueOption {
	var out []*corev3.HeaderValueOption
	for _, x := range f {
		out = append(out, header(x.key, x.value))
	}
	return out
}

// header sets a header of a request or an answer, in the place of what there is.
func header(name, value string) *corev3.HeaderValueOption {
	h := &struct {
		option corev3.HeaderValueOption
		header corev3.HeaderValue
	}{}
	h.header.Key, h.header.RawValue = name, []byte(value)
	h.option.Header, h.option.AppendAction = &h.header, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD
	return &h.option
}

// seconds rounds up: a client that comes back early is refused again.
func seconds(d time.Duration) string {
	return strconv.FormatInt(wholeSeconds(d), 10)
}

func wholeSeconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// join is strings.Join that keeps what a header may carry.
func join(list []string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return '?'
		}
		return r
	}, strings.Join(list, ", "))
}
