package envoy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	overloadv3 "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	connectionsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	heapv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/fixed_heap/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The static clusters of the bootstrap. Everything else comes over xDS and refers to them by name.
const (
	// XDSCluster is where Envoy gets its configuration from (delta ADS).
	XDSCluster = "weir_xds"
	// ExtProcCluster is where Envoy asks for decisions (ext_proc) and sends access logs (ALS).
	ExtProcCluster = "weir_extproc"
)

// DefaultMaxConnections is the limit on downstream connections when none is given. Envoy's edge
// best practices use the same order of magnitude; a connection costs some 8 KB when idle,
// without TLS, and 60 KB while a request of it runs.
const DefaultMaxConnections = 50_000

// The HTTP/2 settings of the two clusters.
const (
	// grpcMaxStreams is how many streams Envoy opens on one connection before it makes a second one.
	// Every request in flight may hold an ext_proc stream, and each worker has its own connection.
	grpcMaxStreams = 100_000
	// grpcBuffer is how many bytes may wait on a stream or a connection to Weir before Envoy calls that too much.
	// When it does, Envoy 1.40 segfaults if one of the streams belongs to an ext_proc upstream filter: a few large
	// bodies that wait for a busy Weir are enough. So it never must. What bounds those bytes are the limits on
	// bodies and connections; this is a limit, not an allocation.
	grpcBuffer = 1 << 30
	// grpcMaxRequests lifts the circuit breaker, 1,024 by default, that would refuse ext_proc streams
	// under load. What limits load is the connection limit and Weir's own policies.
	grpcMaxRequests = 1_000_000
	// grpcMaxFrames is how many frames may wait to be sent. Each ext_proc stream ends with a reset, and Envoy takes more
	// than 1,000 of them that a busy Weir has not read yet for an attack: it would cut the connection, and with it every
	// request that waits for a decision.
	grpcMaxFrames = 10_000_000
)

// The heap fractions at which Envoy defends itself, those of its edge best practices, with
// connections refused last: a refused request still gets an answer.
const (
	heapShrink            = 0.90
	heapNoKeepAlive       = 0.92
	heapRefuseRequests    = 0.95
	heapRefuseConnections = 0.98
)

// BootstrapOptions are what differs between one Envoy and the next.
type BootstrapOptions struct {
	// NodeID and NodeCluster name this Envoy to the xDS server; empty is "weir".
	NodeID, NodeCluster string
	// AdminSocket is the path of the unix socket that Envoy makes for its admin interface, mode 0600.
	AdminSocket string
	// XDSSocket is the path of the unix socket that serves delta ADS.
	XDSSocket string
	// ExtProcSocket is the path of the unix socket that serves ext_proc and ALS; empty is XDSSocket.
	ExtProcSocket string
	// MaxConnections limits the downstream connections of all listeners together; further ones are
	// closed as they come. 0 is DefaultMaxConnections.
	MaxConnections uint32
	// MaxHeapBytes limits Envoy's heap: near it Envoy gives memory back to the system, closes idle
	// connections, answers 503, and at last stops accepting. 0 sets no limit.
	MaxHeapBytes uint64
	// Runtime holds further runtime keys, such as "overload.premature_reset_total_stream_count":
	// 100. Values are booleans, numbers, strings, and maps of them.
	Runtime map[string]any
}

func (o BootstrapOptions) check() error {
	for _, s := range []struct{ what, path string }{
		{"admin socket", o.AdminSocket}, {"xDS socket", o.XDSSocket}, {"ext_proc socket", o.ExtProcSocket},
	} {
		if s.path == "" {
			return fmt.Errorf("the Envoy bootstrap needs the path of the %s", s.what)
		}
		if err := checkSocketPath(s.path); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
	}
	return nil
}

// Bootstrap returns an Envoy bootstrap as indented JSON, the same bytes for the same options. It holds
// no secret: those travel over the xDS socket. Listeners and clusters come from delta ADS, and Envoy
// is not ready before it has both.
func Bootstrap(opts BootstrapOptions) ([]byte, error) {
	if opts.NodeID == "" {
		opts.NodeID = "weir"
	}
	if opts.NodeCluster == "" {
		opts.NodeCluster = "weir"
	}
	if opts.ExtProcSocket == "" {
		opts.ExtProcSocket = opts.XDSSocket
	}
	if opts.MaxConnections == 0 {
		opts.MaxConnections = DefaultMaxConnections
	}
	if err := opts.check(); err != nil {
		return nil, err
	}
	b, err := bootstrap(opts)
	if err != nil {
		return nil, err
	}
	if err := b.ValidateAll(); err != nil {
		return nil, fmt.Errorf("the Envoy bootstrap is not valid: %w", err)
	}
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("cannot write the Envoy bootstrap as JSON: %w", err)
	}
	// protojson varies its white space on purpose.
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "  "); err != nil {
		return nil, fmt.Errorf("cannot indent the Envoy bootstrap: %w", err)
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

func bootstrap(opts BootstrapOptions) (*bootstrapv3.Bootstrap, error) {
	xds, xdsErr := grpcCluster(XDSCluster, opts.XDSSocket)
	extproc, extprocErr := grpcCluster(ExtProcCluster, opts.ExtProcSocket)
	overload, overloadErr := overloadManager(opts)
	runtime, runtimeErr := layeredRuntime(opts.Runtime)
	if err := errors.Join(xdsErr, extprocErr, overloadErr, runtimeErr); err != nil {
		return nil, err
	}
	return &bootstrapv3.Bootstrap{
		Node: &corev3.Node{Id: opts.NodeID, Cluster: opts.NodeCluster},
		Admin: &bootstrapv3.Admin{
			// No access log: draining polls this interface, and its paths are not anybody's news.
			Address: &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: opts.AdminSocket, Mode: 0o600}}},
			// The one that must be able to look in when all connections are taken.
			IgnoreGlobalConnLimit: true,
		},
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{
			AdsConfig: deltaADS(),
			LdsConfig: fromADS(),
			CdsConfig: fromADS(),
		},
		ClusterManager:  &bootstrapv3.ClusterManager{LoadStatsConfig: loadStats()},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{xds, extproc}},
		LayeredRuntime:  runtime,
		OverloadManager: overload,
		StatsConfig:     statsConfig(),
	}, nil
}

// deltaADS describes the stream to the xDS server.
func deltaADS() *corev3.ApiConfigSource {
	return &corev3.ApiConfigSource{
		ApiType:                   corev3.ApiConfigSource_DELTA_GRPC,
		TransportApiVersion:       corev3.ApiVersion_V3,
		SetNodeOnFirstMessageOnly: true,
		GrpcServices: []*corev3.GrpcService{{
			TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
				ClusterName: XDSCluster,
				// Envoy's own back-off goes from 0.5 s to 30 s, for a control plane that thousands share. This one
				// is a process on the same machine, and a restart of it should be over in a second or two.
				RetryPolicy: &corev3.RetryPolicy{RetryBackOff: &corev3.BackoffStrategy{
					BaseInterval: durationpb.New(200 * time.Millisecond),
					MaxInterval:  durationpb.New(5 * time.Second),
				}},
			}},
		}},
	}
}

// loadStats describes the stream of load reports, to the same server. What is reported, and whether anything is, that server says.
func loadStats() *corev3.ApiConfigSource {
	return &corev3.ApiConfigSource{
		ApiType:             corev3.ApiConfigSource_GRPC,
		TransportApiVersion: corev3.ApiVersion_V3,
		GrpcServices: []*corev3.GrpcService{{
			TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: XDSCluster}},
		}},
	}
}

func fromADS() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		ResourceApiVersion:    corev3.ApiVersion_V3,
		// Zero is "wait for as long as it takes". After the default of 15 s Envoy would call itself ready
		// with no listener at all.
		InitialFetchTimeout: durationpb.New(0),
	}
}

// grpcCluster is one HTTP/2 endpoint behind a unix socket. There is no keep-alive ping: the kernel
// reports the death of a local peer at once.
func grpcCluster(name, socket string) (*clusterv3.Cluster, error) {
	protocol, err := anypb.New(&httpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
					Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
						MaxConcurrentStreams:        wrapperspb.UInt32(grpcMaxStreams),
						MaxOutboundFrames:           wrapperspb.UInt32(grpcMaxFrames),
						MaxOutboundControlFrames:    wrapperspb.UInt32(grpcMaxFrames),
						InitialStreamWindowSize:     wrapperspb.UInt32(grpcBuffer),
						InitialConnectionWindowSize: wrapperspb.UInt32(grpcBuffer),
					},
				},
			},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("cannot encode the protocol options of the cluster %s: %w", name, err)
	}
	limit := func(p corev3.RoutingPriority) *clusterv3.CircuitBreakers_Thresholds {
		return &clusterv3.CircuitBreakers_Thresholds{
			Priority:           p,
			MaxConnections:     wrapperspb.UInt32(grpcMaxRequests),
			MaxPendingRequests: wrapperspb.UInt32(grpcMaxRequests),
			MaxRequests:        wrapperspb.UInt32(grpcMaxRequests),
			MaxRetries:         wrapperspb.UInt32(grpcMaxRequests),
		}
	}
	return &clusterv3.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		// To a unix socket a connection succeeds or fails at once, unless the listener's backlog is full.
		ConnectTimeout:                durationpb.New(time.Second),
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(grpcBuffer),
		LoadAssignment: &endpointv3.ClusterLoadAssignment{
			ClusterName: name,
			Endpoints: []*endpointv3.LocalityLbEndpoints{{
				LbEndpoints: []*endpointv3.LbEndpoint{{
					HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
						Address: &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: socket}}},
					}},
				}},
			}},
		},
		CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{
			limit(corev3.RoutingPriority_DEFAULT), limit(corev3.RoutingPriority_HIGH),
		}},
		TypedExtensionProtocolOptions: map[string]*anypb.Any{
			"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocol,
		},
	}, nil
}

// overloadManager limits connections always, and the heap if asked to.
func overloadManager(opts BootstrapOptions) (*overloadv3.OverloadManager, error) {
	connections, err := resourceMonitor("envoy.resource_monitors.global_downstream_max_connections",
		&connectionsv3.DownstreamConnectionsConfig{MaxActiveDownstreamConnections: int64(opts.MaxConnections)})
	if err != nil {
		return nil, err
	}
	m := &overloadv3.OverloadManager{
		RefreshInterval:  durationpb.New(250 * time.Millisecond),
		ResourceMonitors: []*overloadv3.ResourceMonitor{connections},
	}
	if opts.MaxHeapBytes == 0 {
		return m, nil
	}
	const heapMonitor = "envoy.resource_monitors.fixed_heap"
	heap, err := resourceMonitor(heapMonitor, &heapv3.FixedHeapConfig{MaxHeapSizeBytes: opts.MaxHeapBytes})
	if err != nil {
		return nil, err
	}
	m.ResourceMonitors = append(m.ResourceMonitors, heap)
	for _, a := range []struct {
		action string
		at     float64
	}{
		{"envoy.overload_actions.shrink_heap", heapShrink},
		{"envoy.overload_actions.disable_http_keepalive", heapNoKeepAlive},
		{"envoy.overload_actions.stop_accepting_requests", heapRefuseRequests},
		{"envoy.overload_actions.stop_accepting_connections", heapRefuseConnections},
	} {
		m.Actions = append(m.Actions, &overloadv3.OverloadAction{
			Name: a.action,
			Triggers: []*overloadv3.Trigger{{
				Name:         heapMonitor,
				TriggerOneof: &overloadv3.Trigger_Threshold{Threshold: &overloadv3.ThresholdTrigger{Value: a.at}},
			}},
		})
	}
	return m, nil
}

func resourceMonitor(name string, config proto.Message) (*overloadv3.ResourceMonitor, error) {
	a, err := anypb.New(config)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the resource monitor %s: %w", name, err)
	}
	return &overloadv3.ResourceMonitor{Name: name, ConfigType: &overloadv3.ResourceMonitor_TypedConfig{TypedConfig: a}}, nil
}

// layeredRuntime has one static layer. There is no admin layer on top: a switch thrown by hand on one
// Envoy would be gone after its next restart.
func layeredRuntime(extra map[string]any) (*bootstrapv3.LayeredRuntime, error) {
	keys := map[string]any{
		// At most one new HTTP/2 request per connection and read event: what Envoy advises against floods of
		// streams that are opened and reset (CVE-2023-44487). The others wait for the next event loop turn.
		"http.max_requests_per_io_cycle": 1,
	}
	for k, v := range extra {
		keys[k] = v
	}
	layer, err := structpb.NewStruct(keys)
	if err != nil {
		return nil, fmt.Errorf("the runtime keys of the Envoy bootstrap must be booleans, numbers, strings or maps of them: %w", err)
	}
	return &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{{
		Name:           "weir",
		LayerSpecifier: &bootstrapv3.RuntimeLayer_StaticLayer{StaticLayer: layer},
	}}}, nil
}

// statsConfig leaves out the families that multiply with workers and TLS parameters and that
// nobody watches. Histogram buckets stay Envoy's own.
func statsConfig() *metricsv3.StatsConfig {
	return &metricsv3.StatsConfig{StatsMatcher: &metricsv3.StatsMatcher{StatsMatcher: &metricsv3.StatsMatcher_ExclusionList{
		ExclusionList: &matcherv3.ListStringMatcher{Patterns: []*matcherv3.StringMatcher{
			{MatchPattern: &matcherv3.StringMatcher_Contains{Contains: ".worker_"}},
			{MatchPattern: &matcherv3.StringMatcher_Contains{Contains: ".ssl.ciphers."}},
			{MatchPattern: &matcherv3.StringMatcher_Contains{Contains: ".ssl.curves."}},
			{MatchPattern: &matcherv3.StringMatcher_Contains{Contains: ".ssl.sigalgs."}},
		}},
	}}}
}
