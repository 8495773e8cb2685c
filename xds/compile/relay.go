package compile

import (
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	headermutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	setmetadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_metadata/v3"
	codecv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/upstream_codec/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	earlyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/wire"
)

// Requests that a CachePolicy or a SessionPolicy covers go to the relay, a server of Weir's on a unix socket. What it does not have it asks
// for at the inner listener, another unix socket, where a request is decided as at every door, and goes to a backend. All three are there only
// where some policy is.

// relayed says whether anything goes to the relay.
func (c *compiler) relayed() bool {
	return c.opts.RelaySocket != "" && len(c.objs.CachePolicies)+len(c.objs.SessionPolicies) > 0
}

// relayUnit is what was made of the relay.
type relayUnit struct{ unit }

// compileRelay makes Envoy's side of the relay, where there is any.
func (c *compiler) compileRelay() {
	settle(c.Compiler, &c.relaying, c.relayed())
	if old := c.relayUnit; old == nil || !old.counts() {
		u := &relayUnit{}
		c.make(&u.unit, func() {
			for _, answer := range []*cell{&c.gateways.cell, &c.waits.cell, &c.relaying.cell} {
				c.asks(answer)
			}
			if c.relaying.is {
				putMessage(c, c.clusters, wire.RelayCluster, relayCluster(c.opts.RelaySocket))
				putMessage(c, c.entries, wire.RelayKey, relayRoute())
				putMessage(c, c.listeners, wire.InnerListener, c.innerListener())
			}
		})
		if old != nil {
			old.drop()
		}
		c.relayUnit = u
	}
	c.problems = append(c.problems, c.relayUnit.problems...)
}

// relayCluster is the relay as Envoy reaches it: HTTP/1.1 without TLS, over the socket. Each request has a connection to itself: on a shared one
// of HTTP/2, answers that their callers do not read would take up its window, and hold up all others. Nothing limits how many there are.
func relayCluster(socket string) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                 wire.RelayCluster,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		ConnectTimeout:       durationpb.New(relayConnect),
		LoadAssignment: &endpointv3.ClusterLoadAssignment{
			ClusterName: wire.RelayCluster,
			Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{
				HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: pipe(socket, 0)}},
			}}}},
		},
		CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
			MaxConnections: wrapperspb.UInt32(noLimit), MaxPendingRequests: wrapperspb.UInt32(noLimit),
			MaxRequests: wrapperspb.UInt32(noLimit), MaxRetries: wrapperspb.UInt32(noLimit),
		}}},
		TypedExtensionProtocolOptions: map[string]*anypb.Any{
			httpOptionsKey: pack(httpOptions(v1alpha1.ProtocolHTTP1, false, []*hcmv3.HttpFilter{
				// Its record, if it fails, must tell whose it was.
				filter("weir.trace", &headermutationv3.HeaderMutation{Mutations: &headermutationv3.Mutations{
					RequestMutations: []*mutationv3.HeaderMutation{traceContext()},
				}}),
				filter("weir.codec", &codecv3.UpstreamCodec{}),
			})),
		},
	}
}

// relayConnect is how long a connection to the relay may take: it succeeds or fails at once.
const relayConnect = AccessLogFlush * 100

// relayRoute leads to the relay. How long a request may take comes with it (wire.TimeoutHeader): it is that of its rule.
func relayRoute() *routev3.Route {
	return &routev3.Route{
		Name:  wire.RelayKey,
		Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: wire.RelayCluster},
			Timeout:          durationpb.New(0),
		}},
		// What a backend has used is counted where the backend is asked.
		TypedPerFilterConfig: map[string]*anypb.Any{countFilter: pack(&routev3.FilterConfig{Disabled: true})},
	}
}

// innerListener takes the relay's fills: a door like the others, but nobody else can reach it, it lets nobody in without Weir, and who calls is
// said by the fill.
func (c *compiler) innerListener() *listenerv3.Listener {
	maxBody, headerKiB := uint32(0), uint32(0)
	var stream, request time.Duration
	for _, g := range c.objs.Gateways {
		body, header := c.doorLimits(g)
		maxBody, headerKiB = max(maxBody, body), max(headerKiB, header)
		stream, request = max(stream, duration(g.Spec.Timeouts.StreamIdle)), max(request, duration(g.Spec.Timeouts.Request))
	}
	decide := grpcService(c.opts.ExtProcCluster)
	decide.InitialMetadata = []*corev3.HeaderValue{{Key: wire.InnerMetadata, Value: "true"}}
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix:     "inner",
		CodecType:      hcmv3.HttpConnectionManager_HTTP1, // a fill that is given up ends no other
		RouteSpecifier: scopedRoutes(),
		HttpFilters:    append([]*hcmv3.HttpFilter{undecidedFill()}, c.filters(decide, script(false, ""), pack(&routerv3.Router{SuppressEnvoyHeaders: true, UpstreamLog: c.attemptLog()}), false)...),
		EarlyHeaderMutationExtensions: []*corev3.TypedExtensionConfig{{
			Name: "weir.strip", TypedConfig: pack(&earlyv3.HeaderMutation{Mutations: stripped(wire.FlightHeader)}),
		}},
		PathWithEscapedSlashesAction: hcmv3.HttpConnectionManager_KEEP_UNCHANGED,
		UseRemoteAddress:             wrapperspb.Bool(true),
		SkipXffAppend:                true,
		ServerName:                   "weir",
		PreserveExternalRequestId:    true,
		AlwaysSetRequestIdInResponse: true,
		MaxRequestHeadersKb:          wrapperspb.UInt32(headerKiB),
		CommonHttpProtocolOptions:    &corev3.HttpProtocolOptions{IdleTimeout: durationpb.New(innerIdle)},
		StreamIdleTimeout:            durationpb.New(stream),
		RequestTimeout:               durationpb.New(request),
		DrainTimeout:                 durationpb.New(drainTimeout),
		LocalReplyConfig:             localReplies(c.opts.Dialects, maxBody, headerKiB),
		AccessLog:                    []*accesslogv3.AccessLog{c.recordLog()},
	}
	return &listenerv3.Listener{
		Name:    wire.InnerListener,
		Address: pipe(c.opts.InnerSocket, 0o600),
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{
			networkFilter("envoy.filters.network.http_connection_manager", pack(manager)),
		}}},
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(maxBody),
		IgnoreGlobalConnLimit:         true, // it is for callers, whose requests it has let in
	}
}

// undecidedFill says of each request that it is a fill, until a decision says which: the record of one that was given up before it was decided
// would be taken for a request of a caller's.
func undecidedFill() *hcmv3.HttpFilter {
	return filter("weir.fill", &setmetadatav3.Config{Metadata: []*setmetadatav3.Metadata{{
		MetadataNamespace: wire.DecisionNamespace,
		Value:             &structpb.Struct{Fields: map[string]*structpb.Value{wire.KeyFill: structpb.NewStringValue(wire.FillAnswer)}},
		AllowOverwrite:    true,
	}}})
}

// innerIdle is how long the inner listener keeps a connection without a request. The relay closes it before.
const innerIdle = 10 * time.Minute

func pipe(path string, mode uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path, Mode: mode}}}
}
