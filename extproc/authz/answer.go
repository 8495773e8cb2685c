package authz

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/wire"
)

// The headers that an upstream is given. Values are as they are where they are visible ASCII and spaces; other bytes, and
// "%", are percent-encoded (RFC 3986 section 2.1).
const (
	HeaderConsumer   = prefix + "consumer"
	HeaderTenant     = prefix + "tenant"
	HeaderScopes     = prefix + "scopes" // between spaces; absent where there are none
	HeaderCredential = prefix + "credential"
	HeaderLabel      = prefix + "label-" // and the label's name
)

// maxLabels bounds what one caller's labels make of a request.
const maxLabels = 64

// credentialHeaders never reach the upstream of a request that was let in.
var credentialHeaders = [...]string{"authorization", "x-api-key", "api-key", "x-goog-api-key"}

// admitted lets a request in.
func admitted(r *request, id *identity.Identity) *authv3.CheckResponse {
	ok := &authv3.OkHttpResponse{}
	given := map[string]bool{}
	give := func(name, v string) {
		if v = encode(v); v != "" && !given[name] {
			given[name] = true
			ok.Headers = append(ok.Headers, header(name, v))
		}
	}
	give(HeaderConsumer, id.Consumer)
	give(HeaderTenant, id.Tenant)
	give(HeaderScopes, strings.Join(id.Scopes, " "))
	give(HeaderCredential, id.Credential)
	for i, name := range slices.Sorted(maps.Keys(id.Labels)) {
		if i == maxLabels {
			break
		}
		if h := labelHeader(name); h != "" {
			give(h, id.Labels[name])
		}
	}
	ok.HeadersToRemove = append(ok.HeadersToRemove, credentialHeaders[:]...)
	// Envoy removes after it has set: what is given must not be on the list.
	for _, name := range append([]string{HeaderScopes}, r.claims...) {
		if !given[name] && !slices.Contains(ok.HeadersToRemove, name) {
			ok.HeadersToRemove = append(ok.HeadersToRemove, name)
		}
	}
	return &authv3.CheckResponse{
		Status:          &status.Status{Code: int32(codes.OK)},
		HttpResponse:    &authv3.CheckResponse_OkResponse{OkResponse: ok},
		DynamicMetadata: facts(id),
	}
}

// facts are what the access log and other filters of the Envoy may know of the caller. Nothing in them is secret.
func facts(id *identity.Identity) *structpb.Struct {
	text := func(s string) *structpb.Value { return structpb.NewStringValue(strings.ToValidUTF8(s, "?")) }
	scopes := &structpb.ListValue{}
	for _, s := range id.Scopes {
		scopes.Values = append(scopes.Values, text(s))
	}
	labels := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for name, v := range id.Labels {
		labels.Fields[strings.ToValidUTF8(name, "?")] = text(v)
	}
	return &structpb.Struct{Fields: map[string]*structpb.Value{
		wire.KeyConsumer: text(id.Consumer), wire.KeyTenant: text(id.Tenant), wire.KeyCredential: text(id.Credential),
		"namespace": text(id.Namespace), "scopes": structpb.NewListValue(scopes), "labels": structpb.NewStructValue(labels),
	}}
}

// denied refuses a request, in the dialect of its path, or else in OpenAI's shape.
func denied(dialects *adapters.Set, r *request, e *canon.Error) *authv3.CheckResponse {
	code := e.HTTPStatus()
	headers := []*corev3.HeaderValueOption{header("content-type", "application/json")}
	if c := identity.Challenge(e); c != "" {
		headers = append(headers, header("www-authenticate", c))
	}
	if e.RetryAfter > 0 {
		headers = append(headers, header("retry-after", strconv.FormatInt(int64((e.RetryAfter+time.Second-1)/time.Second), 10)))
	}
	why := e.Code
	if why == "" {
		why = string(e.Kind)
	}
	body := dialects.Classify(r.method, r.path, r.header).Dialect.In.AppendError(nil, e, r.id)
	return &authv3.CheckResponse{
		Status: &status.Status{Code: int32(rpcCode(code))},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: typev3.StatusCode(code)}, Headers: headers, Body: strings.ToValidUTF8(string(body), "?"),
		}},
		DynamicMetadata: &structpb.Struct{Fields: map[string]*structpb.Value{"error": structpb.NewStringValue(strings.ToValidUTF8(why, "?"))}},
	}
}

// rpcCode is the gRPC status that goes with an HTTP status, for filters that look at it. Any but OK refuses.
func rpcCode(status int) codes.Code {
	switch status {
	case 401:
		return codes.Unauthenticated
	case 403:
		return codes.PermissionDenied
	case 429:
		return codes.ResourceExhausted
	case 503:
		return codes.Unavailable
	}
	return codes.Internal
}

// header replaces one that is there. append stays unset for Envoys that do not know append_action.
func header(name, v string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: name, Value: v},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

// encode keeps a value to what a header carries unharmed.
func encode(s string) string {
	const hex = "0123456789ABCDEF"
	plain := func(c byte) bool { return c >= ' ' && c < 0x7f && c != '%' }
	clean := true
	for i := range len(s) {
		clean = clean && plain(s[i])
	}
	if clean {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; plain(c) {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

// labelHeader names the header of a label: in lower case, with "-" for what a header's name cannot have. Of labels that
// become the same, the first in alphabetical order counts.
func labelHeader(label string) string {
	if label == "" || len(label) > 256 {
		return ""
	}
	return HeaderLabel + strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
			return c
		case c >= 'A' && c <= 'Z':
			return c + 'a' - 'A'
		}
		return '-'
	}, label)
}
