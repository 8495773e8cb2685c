package compile

import (
	_ "embed"
	"net/netip"
	"slices"
	"time"

	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	matchingv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/matching/v3"
	injectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/credential_injector/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	headermutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	codecv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/upstream_codec/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	genericv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/injected_credentials/generic/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/wire"
)

const httpOptionsKey = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

// What Lua does at the door: reads requests, and takes out of answers what only Weir asked for.
var (
	//go:embed json.lua
	jsonSource string
	//go:embed peek.lua
	peekSource string
	//go:embed hide.lua
	hideSource string
)

// Decisions answer in well under a millisecond; a body of tens of MB takes Weir longer to read. Envoy
// answers 504 when the time is over.
const decisionTimeout = 5 * time.Second

// maxWait is the longest time that a limit, or a pool, may let a request wait, by the API types.
const maxWait = time.Minute

// Connections to backends are kept this long without a request: longer than most pauses between
// requests, shorter than the minute after which many load balancers drop them silently.
const idleUpstream = 50 * time.Second

// privatePrefixes are headers between Weir and Envoy, and what Envoy adds about the caller.
var privatePrefixes = []string{"x-weir-", "x-envoy-", "x-forwarded-"}

// httpOptions are how a cluster speaks HTTP, with the filters that every attempt passes.
func httpOptions(p v1alpha1.BackendProtocol, secure bool, filters []*hcmv3.HttpFilter) *httpv3.HttpProtocolOptions {
	o := &httpv3.HttpProtocolOptions{
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{IdleTimeout: durationpb.New(idleUpstream)},
		HttpFilters:               filters,
	}
	http2 := &corev3.Http2ProtocolOptions{
		// Answers are small and many share a connection; Envoy's 256 MiB would let one of them fill memory.
		InitialStreamWindowSize:     wrapperspb.UInt32(1 << 20),
		InitialConnectionWindowSize: wrapperspb.UInt32(16 << 20),
	}
	switch {
	case p == v1alpha1.ProtocolHTTP2:
		o.UpstreamProtocolOptions = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: http2}}}
	case p == v1alpha1.ProtocolHTTP1 || !secure:
		o.UpstreamProtocolOptions = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: &corev3.Http1ProtocolOptions{}}}}
	default:
		o.UpstreamProtocolOptions = &httpv3.HttpProtocolOptions_AutoConfig{AutoConfig: &httpv3.HttpProtocolOptions_AutoHttpConfig{
			HttpProtocolOptions: &corev3.Http1ProtocolOptions{}, Http2ProtocolOptions: http2}}
	}
	return o
}

// directFilters prepare a request for a backend without asking Weir: off with the caller's credential,
// on with the backend's.
func directFilters(credentials []injected, versionHeader string, headers []string) []*hcmv3.HttpFilter {
	var more []*mutationv3.HeaderMutation
	if slices.Contains(headers, wire.LoadReport) {
		more = append(more, set(wire.LoadFormat, wire.LoadFormatText))
	}
	filters := append([]*hcmv3.HttpFilter{cleanFilter(more)}, signalFilters(headers)...)
	for i := range credentials {
		var skip *xdsmatcherv3.Matcher_MatcherList_Predicate
		if len(credentials) > 1 {
			skip = notChosen(credentials, i, versionHeader)
		}
		filters = append(filters, credentialFilter("weir.credential."+credentials[i].Name, &credentials[i], skip))
	}
	return append(filters, filter("weir.codec", &codecv3.UpstreamCodec{}))
}

// cleanFilter takes what no backend gets off a request, puts the trace context of the attempt on, and then does the mutations. It comes
// first: a connection may be refused at once, and the record of the attempt must tell whose it was. Off answers, which it sees last, it
// takes what only Weir says.
func cleanFilter(more []*mutationv3.HeaderMutation) *hcmv3.HttpFilter {
	mutations := make([]*mutationv3.HeaderMutation, 0, len(wire.CallerHeaders)+len(privatePrefixes)+len(more)+2)
	for _, h := range append([]string{"accept-encoding"}, wire.CallerHeaders...) {
		mutations = append(mutations, remove(h))
	}
	mutations = append(append(mutations, removePrefixes()...), traceContext())
	return filter("weir.clean", &headermutationv3.HeaderMutation{
		Mutations: &headermutationv3.Mutations{RequestMutations: append(mutations, more...), ResponseMutations: ownNames()},
	})
}

// credentialFilter adds a credential, unless the request is one to skip; nil skips none.
func credentialFilter(name string, credential *injected, skip *xdsmatcherv3.Matcher_MatcherList_Predicate) *hcmv3.HttpFilter {
	injector := &injectorv3.CredentialInjector{
		Overwrite: true,
		Credential: &corev3.TypedExtensionConfig{Name: "generic", TypedConfig: pack(&genericv3.Generic{
			Credential: &tlsv3.SdsSecretConfig{Name: credential.secret, SdsConfig: ads()},
			Header:     credential.Name,
		})},
	}
	if skip == nil {
		return filter(name, injector)
	}
	return filterUnless(name, injector, skip)
}

// filterUnless is a filter that requests which match do not pass.
func filterUnless(name string, config proto.Message, skip *xdsmatcherv3.Matcher_MatcherList_Predicate) *hcmv3.HttpFilter {
	return filter(name, &matchingv3.ExtensionWithMatcher{
		ExtensionConfig: &corev3.TypedExtensionConfig{Name: name, TypedConfig: pack(config)},
		XdsMatcher:      skipWhere(skip),
	})
}

// chainFilters ask Weir to prepare each attempt for the backend it has got. Answers do not pass here: Envoy 1.40 dies
// of an answer above its buffer limit that an upstream ext_proc holds; the door translates them.
func (c *compiler) chainFilters(members []member) []*hcmv3.HttpFilter {
	rescued := c.rescued(members)
	filters := []*hcmv3.HttpFilter{
		// First: a connection may be refused before Weir has prepared the attempt, and its record must tell whose it was.
		filter("weir.trace", &headermutationv3.HeaderMutation{Mutations: &headermutationv3.Mutations{
			RequestMutations: []*mutationv3.HeaderMutation{traceContext()},
		}}),
		filter("weir.attempt", &extprocv3.ExternalProcessor{
			GrpcService:       grpcService(c.opts.ExtProcCluster),
			MessageTimeout:    durationpb.New(decisionTimeout),
			RequestAttributes: []string{wire.ClusterAttribute, wire.HostMetadataAttribute},
			ProcessingMode:    headersOnly(),
			MutationRules: &mutationv3.HeaderMutationRules{
				AllowAllRouting: wrapperspb.Bool(true), AllowEnvoy: wrapperspb.Bool(true),
			},
			MetadataOptions: &extprocv3.MetadataOptions{
				ForwardingNamespaces: &extprocv3.MetadataOptions_MetadataNamespaces{Untyped: []string{wire.DecisionNamespace}},
				// A refusal marks itself as one that has its shape already.
				ReceivingNamespaces: &extprocv3.MetadataOptions_MetadataNamespaces{Untyped: []string{wire.AttemptNamespace, wire.DecisionNamespace}},
			},
			StatusOnError:    unavailable(),
			FailureModeAllow: len(rescued) > 0,
		}),
	}
	if len(rescued) > 0 {
		filters = append(filters, c.rescueFilters(rescued)...)
	}
	filters = append(filters,
		// A replaced body loses its content-length, and some servers want one.
		filter("weir.length", &headermutationv3.HeaderMutation{Mutations: &headermutationv3.Mutations{
			RequestMutations: append([]*mutationv3.HeaderMutation{
				set("content-length", dynamicMetadata(wire.AttemptNamespace, wire.KeyContentLength)),
			}, removePrefixes()...),
			ResponseMutations: ownNames(),
		}}))
	return append(append(filters, signalFilters(allSignals(members))...), filter("weir.codec", &codecv3.UpstreamCodec{}))
}

// doorFilters are what every request passes: the peek into its body, the decision, the route. Answers pass them in the
// other order: counted as the backend sent them, translated, and without the usage that only Weir asked for.
func (c *compiler) doorFilters(weir *corev3.GrpcService, script string, router *anypb.Any) []*hcmv3.HttpFilter {
	return c.filters(weir, script, router, c.opening.is)
}

// filters are those of a door. open says that it lets requests pass that Weir does not answer, where a pool wants that.
func (c *compiler) filters(weir *corev3.GrpcService, script string, router *anypb.Any, open bool) []*hcmv3.HttpFilter {
	decide := &extprocv3.ExternalProcessor{
		GrpcService:    weir,
		MessageTimeout: durationpb.New(c.decideWithin()),
		// A decision asks for the bodies it needs, in its answer to the headers.
		AllowModeOverride:  true,
		MutationRules:      &mutationv3.HeaderMutationRules{AllowEnvoy: wrapperspb.Bool(true)}, // for wire.RetriesHeader
		ResponseAttributes: []string{wire.CodeDetailsAttribute},
		ProcessingMode:     headersOnly(),
		MetadataOptions: &extprocv3.MetadataOptions{
			ForwardingNamespaces: &extprocv3.MetadataOptions_MetadataNamespaces{Untyped: []string{wire.PeekNamespace}},
			ReceivingNamespaces:  &extprocv3.MetadataOptions_MetadataNamespaces{Untyped: []string{wire.DecisionNamespace}},
		},
		StatusOnError: unavailable(),
	}
	var before, behind []*hcmv3.HttpFilter
	if open {
		decide.FailureModeAllow = true
		before, behind = c.openFilters()
	}
	filters := append([]*hcmv3.HttpFilter{filter("weir.peek", &luav3.Lua{DefaultSourceCode: inline(script)})}, before...)
	filters = append(append(filters, filter(decideFilter, decide)), behind...)
	return append(filters, filter(countFilter, tokenUsage()), answerFilter(),
		&hcmv3.HttpFilter{Name: "envoy.filters.http.router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: router}})
}

// headersOnly sends Weir the headers of a request and nothing else.
func headersOnly() *extprocv3.ProcessingMode {
	return &extprocv3.ProcessingMode{
		RequestHeaderMode:   extprocv3.ProcessingMode_SEND,
		ResponseHeaderMode:  extprocv3.ProcessingMode_SKIP,
		RequestBodyMode:     extprocv3.ProcessingMode_NONE,
		ResponseBodyMode:    extprocv3.ProcessingMode_NONE,
		RequestTrailerMode:  extprocv3.ProcessingMode_SKIP,
		ResponseTrailerMode: extprocv3.ProcessingMode_SKIP,
	}
}

func filter(name string, config proto.Message) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(config)}}
}

func grpcService(cluster string) *corev3.GrpcService {
	return &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
		EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: cluster},
	}}
}

// traceContext gives each attempt a span of its own in the request's trace: Envoy numbers it.
func traceContext() *mutationv3.HeaderMutation {
	return set(wire.TraceHeader, fact(wire.KeyTrace)+"%UPSTREAM_REQUEST_ATTEMPT_COUNT%"+fact(wire.KeyTraceFlags))
}

// fact is what a text holds in the place of a fact of the decision: one about this request, or about those of its lane. Of the two there is
// one at most, and nothing in the place of the other.
func fact(key string) string {
	return dynamicMetadata(wire.DecisionNamespace, key) + dynamicMetadata(wire.DecisionNamespace, wire.KeyAhead+":"+key)
}

// dynamicMetadata is what a text holds in the place of dynamic metadata.
func dynamicMetadata(namespace, key string) string {
	return "%DYNAMIC_METADATA(" + namespace + ":" + key + ")%"
}

func remove(header string) *mutationv3.HeaderMutation {
	return &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_Remove{Remove: header}}
}

func removePrefix(prefix string) *mutationv3.HeaderMutation {
	return &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_RemoveOnMatch_{
		RemoveOnMatch: &mutationv3.HeaderMutation_RemoveOnMatch{KeyMatcher: &matcherv3.StringMatcher{
			MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: prefix}, IgnoreCase: true,
		}},
	}}
}

// ownNames removes from a backend's answer what only Weir says: its own headers, and what is left of limits. A backend's
// limits are those of the gateway's account, which callers share, and its load is nobody's business but Weir's.
func ownNames() []*mutationv3.HeaderMutation {
	return []*mutationv3.HeaderMutation{
		removePrefix("x-weir-"), removePrefix("x-ratelimit-"), removePrefix("anthropic-ratelimit-"), removePrefix(wire.LoadReport),
	}
}

func removePrefixes() []*mutationv3.HeaderMutation {
	out := make([]*mutationv3.HeaderMutation, len(privatePrefixes))
	for i, p := range privatePrefixes {
		out[i] = removePrefix(p)
	}
	return out
}

func set(header, value string) *mutationv3.HeaderMutation {
	return &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_Append{Append: headerValue(header, value)}}
}

func headerValue(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: name, Value: value},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

func sanMatcher(name string) *tlsv3.SubjectAltNameMatcher {
	kind := tlsv3.SubjectAltNameMatcher_DNS
	if _, err := netip.ParseAddr(name); err == nil {
		kind = tlsv3.SubjectAltNameMatcher_IP_ADDRESS
	}
	return &tlsv3.SubjectAltNameMatcher{SanType: kind, Matcher: &matcherv3.StringMatcher{
		MatchPattern: &matcherv3.StringMatcher_Exact{Exact: name},
	}}
}

func unavailable() *typev3.HttpStatus {
	return &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable}
}
