package compile

import (
	"fmt"
	"slices"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/wire"
)

// DefaultDialect is the shape of errors whose caller's dialect cannot be told.
const DefaultDialect = "openai"

// details is Envoy's own word for what happened: letters and underscores, never an address or a value.
const details = "%RESPONSE_CODE_DETAILS%"

// localReply is an answer that Envoy makes by itself.
type localReply struct {
	status     int
	becomes    int // another status; 0: the same
	kind       canon.ErrorKind
	message    string
	retryAfter string                 // seconds
	onlyIf     *routev3.HeaderMatcher // a further condition on the request
	flag       string                 // a further condition: a response flag of Envoy's
}

func replies(maxBody, headerKiB uint32) []localReply {
	upgrade := &routev3.HeaderMatcher{Name: "upgrade", HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}}
	return []localReply{
		{status: 400, kind: canon.ErrInvalidRequest, message: "The request is not valid HTTP (" + details + ")."},
		{status: 403, becomes: 426, kind: canon.ErrUpgrade, onlyIf: upgrade,
			message: "WebSocket and other upgrades are not served here; use plain HTTP, with \"stream\": true for streaming."},
		{status: 403, kind: canon.ErrPermission, message: "The gateway refuses this request (" + details + ")."},
		// Its key is of a route that is no more. Requests that nothing serves are answered by Weir.
		{status: 404, becomes: 503, flag: "NR", kind: canon.ErrOverloaded, retryAfter: "1",
			message: "The gateway's decision on this request is out of date (" + details + "). Try again shortly."},
		{status: 404, kind: canon.ErrNotFound, message: "Nothing is served here (" + details + ")."},
		{status: 408, kind: canon.ErrTimeout, message: "The request did not arrive in time (" + details + "). Send it again."},
		{status: 413, kind: canon.ErrTooLarge, message: fmt.Sprintf("The request body is larger than the %d bytes that this gateway accepts.", maxBody)},
		{status: 431, kind: canon.ErrTooLarge, message: fmt.Sprintf("The request headers are larger than the %d KiB, or more than the 100, that this gateway accepts.", headerKiB)},
		{status: 426, kind: canon.ErrUpgrade, message: "This version of HTTP is not served here; use HTTP/1.1 or HTTP/2 (" + details + ")."},
		{status: 501, kind: canon.ErrInvalidRequest, message: "This transfer-encoding is not served here; use chunked, or a content-length (" + details + ")."},
		{status: 502, kind: canon.ErrBadGateway, message: "The backend's answer broke off or was not valid HTTP (" + details + ")."},
		{status: 503, kind: canon.ErrOverloaded, retryAfter: "1", message: "No backend could take this request (" + details + "). Try again shortly."},
		{status: 504, kind: canon.ErrTimeout, message: "No answer came in time (" + details + ")."},
		{status: 500, kind: canon.ErrInternal, message: "The gateway failed to handle this request (" + details + ")."},
	}
}

// localReplies gives the answers that Envoy makes by itself the shape that the caller's SDK reads. Once a
// request has been decided its dialect is in the metadata; before, the path tells.
func localReplies(dialects *adapters.Set, maxBody, headerKiB uint32) *hcmv3.LocalReplyConfig {
	out := &hcmv3.LocalReplyConfig{Mappers: []*hcmv3.ResponseMapper{
		// What Weir answers itself already has its shape.
		{Filter: decisionSays("true", wire.KeyImmediate)},
	}}
	var inbound []*canon.Dialect
	for _, name := range dialects.Names() {
		if d, _ := dialects.Get(name); d.In != nil {
			inbound = append(inbound, &d)
		}
	}
	add := func(d *canon.Dialect, when *accesslogv3.AccessLogFilter) {
		for _, r := range replies(maxBody, headerKiB) {
			filters := []*accesslogv3.AccessLogFilter{statusIs(r.status)}
			if r.onlyIf != nil {
				filters = append(filters, headerMatches(r.onlyIf))
			}
			if r.flag != "" {
				filters = append(filters, &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{
					ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{Flags: []string{r.flag}},
				}})
			}
			if when != nil {
				filters = append(filters, when)
			}
			out.Mappers = append(out.Mappers, mapper(d, r, allOf(filters)))
		}
	}
	for _, d := range inbound {
		add(d, oneOf(decisionSays(d.Name, wire.KeyDialect), decisionSays(d.Name, wire.KeyAhead, wire.KeyDialect)))
	}
	for _, d := range inbound {
		if d.Name == DefaultDialect {
			continue
		}
		for _, path := range ownPaths(d, inbound) {
			add(d, headerMatches(&routev3.HeaderMatcher{Name: ":path", HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{
				StringMatch: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Contains{Contains: path}},
			}}))
		}
	}
	if d, ok := dialects.Get(DefaultDialect); ok {
		add(&d, nil)
	}
	return out
}

// ownPaths are the paths that only this dialect has; of two where one contains the other, the shorter.
func ownPaths(d *canon.Dialect, all []*canon.Dialect) []string {
	taken := map[string]bool{}
	for _, o := range all {
		if o.Name != d.Name {
			for _, e := range o.Endpoints {
				taken[o.Root+e.Path] = true
			}
		}
	}
	var out []string
	for _, e := range d.Endpoints {
		path := d.Root + e.Path
		if e.Op != canon.OpChat || taken[path] || slices.Contains(out, path) {
			continue
		}
		out = append(out, path)
	}
	return out
}

func mapper(d *canon.Dialect, r localReply, when *accesslogv3.AccessLogFilter) *hcmv3.ResponseMapper {
	status := r.status
	m := &hcmv3.ResponseMapper{Filter: when}
	if r.becomes != 0 {
		status = r.becomes
		m.StatusCode = wrapperspb.UInt32(uint32(status))
	}
	if r.retryAfter != "" {
		m.HeadersToAdd = []*corev3.HeaderValueOption{headerValue("retry-after", r.retryAfter)}
	}
	body := d.In.AppendError(nil, &canon.Error{Status: status, Kind: r.kind, Message: r.message}, "%REQ(x-request-id)%")
	// Through a Struct, Envoy prints it as JSON and escapes what it fills in.
	shape := &structpb.Struct{}
	if err := protojson.Unmarshal(body, shape); err != nil {
		panic(fmt.Sprintf("compile: dialect %s prints an error that is no JSON object: %v", d.Name, err))
	}
	m.BodyFormatOverride = &corev3.SubstitutionFormatString{
		Format: &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: shape},
	}
	return m
}

func statusIs(status int) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_StatusCodeFilter{
		StatusCodeFilter: &accesslogv3.StatusCodeFilter{Comparison: &accesslogv3.ComparisonFilter{
			Op:    accesslogv3.ComparisonFilter_EQ,
			Value: &corev3.RuntimeUInt32{DefaultValue: uint32(status), RuntimeKey: fmt.Sprintf("weir.local_reply_%d", status)},
		}},
	}}
}

func headerMatches(m *routev3.HeaderMatcher) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_HeaderFilter{
		HeaderFilter: &accesslogv3.HeaderFilter{Header: m},
	}}
}

// decisionSays passes requests of whose decision this is a value, at that path.
func decisionSays(value string, path ...string) *accesslogv3.AccessLogFilter {
	segments := make([]*matcherv3.MetadataMatcher_PathSegment, len(path))
	for i, key := range path {
		segments[i] = &matcherv3.MetadataMatcher_PathSegment{Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: key}}
	}
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_MetadataFilter{
		MetadataFilter: &accesslogv3.MetadataFilter{
			Matcher: &matcherv3.MetadataMatcher{
				Filter: wire.DecisionNamespace,
				Path:   segments,
				Value: &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{
					StringMatch: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: value}},
				}},
			},
			MatchIfKeyNotFound: wrapperspb.Bool(false),
		},
	}}
}

func oneOf(filters ...*accesslogv3.AccessLogFilter) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_OrFilter{
		OrFilter: &accesslogv3.OrFilter{Filters: filters},
	}}
}

func allOf(filters []*accesslogv3.AccessLogFilter) *accesslogv3.AccessLogFilter {
	if len(filters) == 1 {
		return filters[0]
	}
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_AndFilter{
		AndFilter: &accesslogv3.AndFilter{Filters: filters},
	}}
}
