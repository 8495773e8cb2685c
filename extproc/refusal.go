package extproc

import (
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/wire"
)

const contentJSON = "application/json"

// refusal is the answer to a request that goes no further, in the caller's dialect.
func refusal(d *canon.Dialect, e *canon.Error, requestID string, facts facts) *extprocv3.ProcessingResponse {
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
func immediate(status int, headers []*corev3.HeaderValueOption, body []byte, details string, d *canon.Dialect, facts facts) *extprocv3.ProcessingResponse {
	facts = append(facts, fact{wire.KeyImmediate, "true"}, fact{wire.KeyDialect, d.Name})
	return &extprocv3.ProcessingResponse{
		DynamicMetadata: facts.metadata(wire.DecisionNamespace),
		Response: &extprocv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: &extprocv3.ImmediateResponse{
			Status:  &typev3.HttpStatus{Code: typev3.StatusCode(status)},
			Headers: &extprocv3.HeaderMutation{SetHeaders: headers},
			Body:    body,
			Details: details,
		}},
	}
}

// facts become dynamic metadata. They never hold a secret: they end up in access logs.
type facts []fact

type fact struct{ key, value string }

func (f facts) metadata(namespace string) *structpb.Struct {
	fields := make(map[string]*structpb.Value, len(f))
	for _, x := range f {
		if x.value != "" {
			fields[x.key] = structpb.NewStringValue(x.value)
		}
	}
	return &structpb.Struct{Fields: map[string]*structpb.Value{
		namespace: structpb.NewStructValue(&structpb.Struct{Fields: fields}),
	}}
}

// headers are the facts that travel to Envoy under the names of response headers.
func (f facts) headers() []*corev3.HeaderValueOption {
	var out []*corev3.HeaderValueOption
	for _, x := range f {
		out = append(out, header(x.key, x.value))
	}
	return out
}

func header(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: name, RawValue: []byte(value)},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

// seconds rounds up: a client that comes back early is refused again.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}

// join is strings.Join that keeps what a header may carry.
func join(list []string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return '?'
		}
		return r
	}, strings.Join(list, ", "))
}
