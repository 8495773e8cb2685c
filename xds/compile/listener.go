package compile

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	grpclogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	limitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/connection_limit/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	earlyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/type/metadata/v3"
	tracingv3 "github.com/envoyproxy/go-control-plane/envoy/type/tracing/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/xds/source"
)

const (
	// Records wait this long for company. What a request has reserved, and a place among the requests at once, comes free
	// with its record: a caller that asks again at once must not be refused for that.
	AccessLogFlush = 10 * time.Millisecond
	// accessLogBatch is how many bytes of them go together at most: each message wakes Weir up, and a busy worker writes more than Envoy's own
	// 16 KiB in that time.
	accessLogBatch = 64 << 10

	headersTimeout = 10 * time.Second // a client that sends a header a minute is no client
	drainTimeout   = 5 * time.Second  // between the two GOAWAYs of HTTP/2

	minRSABits = 2048 // of a certificate, as Envoy wants it

	// An HTTP/2 client may have this much on its way on a connection, or as much as one body may have, if that is more.
	downstreamConnectionWindow = 16 << 20
	downstreamMaxStreams       = 1000
	// leastWindow is the smallest window that Envoy takes. The largest, 2^31-1, is more than a body may have.
	leastWindow = 1<<16 - 1
)

// windows are those of HTTP/2 callers. The window of a stream is also what Envoy holds of its body, for the peek filter and translation: were it
// smaller than the largest body, larger ones would get 413 too soon.
func windows(maxBody uint32) (stream, connection *wrapperspb.UInt32Value) {
	return wrapperspb.UInt32(max(maxBody, leastWindow)), wrapperspb.UInt32(max(maxBody, downstreamConnectionWindow))
}

// listen compiles every LLMGateway into Envoy listeners.
func (c *compiler) listen(u *gatewayUnit) {
	if len(c.objs.Gateways) == 0 {
		c.errorf(source.ObjectRef{}, "", "there is no LLMGateway, so there is nothing to listen on")
		return
	}
	taken := map[string]source.ObjectRef{}
	for i, g := range c.objs.Gateways {
		ref := source.ObjectRef{Kind: "LLMGateway", Namespace: g.Namespace, Name: g.Name}
		maxBody, _ := c.doorLimits(g)
		u.maxBody = max(u.maxBody, maxBody)
		for j := range g.Spec.Listeners {
			l := &g.Spec.Listeners[j]
			field := fmt.Sprintf("spec.listeners[%d]", j)
			address, port := l.Address, uint32(l.Port)
			if i == 0 && j == 0 && c.opts.Listen != "" {
				var err error
				if address, port, err = splitListen(c.opts.Listen); err != nil {
					c.errorf(ref, field, "%v", err)
					continue
				}
			}
			at := net.JoinHostPort(address, strconv.Itoa(int(port)))
			if other, ok := taken[at]; ok {
				c.refusef(ref, field+".port", source.ReasonConflict, "%s already listens on %s", other, at)
				continue
			}
			taken[at] = ref
			if e := c.out.Authz; e != nil && uint32(e.Port) == port && overlap(e.Address, address) {
				c.errorf(ref, field+".port", "spec.authentication.external listens on port %d of %s already; give one of them another port", e.Port, e.Address)
				continue
			}
			name := ListenerName(g, l)
			if out, ok := c.listener(ref, field, name, g, l, maxBody); ok {
				out.Address = &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
					Address: address, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
				}}}
				putMessage(c, c.listeners, name, out)
			}
		}
	}
}

// ListenerName is what Envoy knows a listener by.
func ListenerName(g *v1alpha1.LLMGateway, l *v1alpha1.Listener) string {
	return fmt.Sprintf("gateway/%s/%s/%s", g.Namespace, g.Name, l.Name)
}

func splitListen(s string) (string, uint32, error) {
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, fmt.Errorf("the listen address %q is not host:port", s)
	}
	if host == "" {
		host = "0.0.0.0"
	}
	port, err := strconv.ParseUint(p, 10, 16)
	if err != nil || net.ParseIP(host) == nil {
		return "", 0, fmt.Errorf("the listen address %q is not an IP address and a port", s)
	}
	return host, uint32(port), nil
}

func (c *compiler) listener(ref source.ObjectRef, field, name string, g *v1alpha1.LLMGateway, l *v1alpha1.Listener, maxBody uint32) (*listenerv3.Listener, bool) {
	chain := &listenerv3.FilterChain{}
	if l.TLS != nil {
		socket, ok := c.downstreamTLS(ref, field, name, l.TLS)
		if !ok {
			return nil, false
		}
		chain.TransportSocket = socket
	}
	if n := g.Spec.Limits.MaxConnections; n > 0 {
		chain.Filters = append(chain.Filters, networkFilter("envoy.filters.network.connection_limit", pack(&limitv3.ConnectionLimit{
			StatPrefix: "weir", MaxConnections: wrapperspb.UInt64(uint64(n)),
		})))
	}
	chain.Filters = append(chain.Filters, networkFilter("envoy.filters.network.http_connection_manager", pack(c.connectionManager(g, maxBody))))
	return &listenerv3.Listener{
		Name:         name,
		FilterChains: []*listenerv3.FilterChain{chain},
		// The peek filter, and translation, hold a whole body; more than this is 413.
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(maxBody),
	}, true
}

// decideWithin is how long Envoy waits for a decision. It knows three times only, because a listener that changes closes its
// connections, and a limit that changes should not. A request waits for its limits first, and then for its pool.
func (c *compiler) decideWithin() time.Duration {
	within := decisionTimeout
	if c.limitWait > 0 {
		within += maxWait
	}
	if c.poolWait > 0 {
		within += maxWait
	}
	return within
}

// doorLimits are the largest body, in bytes, and the largest headers, in KiB, that a gateway takes.
func (c *compiler) doorLimits(g *v1alpha1.LLMGateway) (maxBody, headerKiB uint32) {
	maxBody, headerKiB = uint32(g.Spec.Limits.MaxRequestBytes.Value()), uint32(g.Spec.Limits.MaxHeaderKiB)
	if c.opts.MaxRequestBytes > 0 {
		maxBody = c.opts.MaxRequestBytes
	}
	if c.opts.MaxHeaderKiB > 0 {
		headerKiB = c.opts.MaxHeaderKiB
	}
	return maxBody, headerKiB
}

func networkFilter(name string, config *anypb.Any) *listenerv3.Filter {
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: config}}
}

func (c *compiler) connectionManager(g *v1alpha1.LLMGateway, maxBody uint32) *hcmv3.HttpConnectionManager {
	_, headerKiB := c.doorLimits(g)
	streamWindow, connectionWindow := windows(maxBody)
	decide := grpcService(c.opts.ExtProcCluster)
	if len(c.objs.Gateways) > 1 { // a decision that knows of one only need not be told
		decide.InitialMetadata = []*corev3.HeaderValue{{Key: wire.GatewayMetadata, Value: g.Namespace + "/" + g.Name}}
	}
	return &hcmv3.HttpConnectionManager{
		StatPrefix:     "ingress",
		RouteSpecifier: scopedRoutes(),
		HttpFilters:    c.doorFilters(decide, script(asksForUsage(g), c.laneFile(g)), pack(&routerv3.Router{SuppressEnvoyHeaders: true, UpstreamLog: c.attemptLog()})),

		// What clients send under our own names is gone before anything reads it.
		EarlyHeaderMutationExtensions: []*corev3.TypedExtensionConfig{{
			Name:        "weir.strip",
			TypedConfig: pack(&earlyv3.HeaderMutation{Mutations: stripped()}),
		}},
		NormalizePath:                wrapperspb.Bool(true),
		PathWithEscapedSlashesAction: hcmv3.HttpConnectionManager_KEEP_UNCHANGED,
		UseRemoteAddress:             wrapperspb.Bool(true),
		XffNumTrustedHops:            uint32(g.Spec.Authentication.TrustedHops),
		SkipXffAppend:                true,
		ServerName:                   "weir",
		PreserveExternalRequestId:    true,
		AlwaysSetRequestIdInResponse: true,

		MaxRequestHeadersKb: wrapperspb.UInt32(headerKiB),
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
			IdleTimeout: durationpb.New(duration(g.Spec.Timeouts.Idle)),
		},
		Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
			MaxConcurrentStreams:        wrapperspb.UInt32(downstreamMaxStreams),
			InitialStreamWindowSize:     streamWindow,
			InitialConnectionWindowSize: connectionWindow,
		},
		StreamIdleTimeout:     durationpb.New(duration(g.Spec.Timeouts.StreamIdle)),
		RequestTimeout:        durationpb.New(duration(g.Spec.Timeouts.Request)),
		RequestHeadersTimeout: durationpb.New(headersTimeout),
		DrainTimeout:          durationpb.New(drainTimeout),
		LocalReplyConfig:      localReplies(c.opts.Dialects, maxBody, headerKiB),

		AccessLog: []*accesslogv3.AccessLog{c.recordLog()},
	}
}

// stripped takes off a request what only Weir and Envoy say, and gives it the key of the undecided scope. Other headers that begin with x-weir-
// are for the relay, if for anybody; no backend gets them.
func stripped(kept ...string) []*mutationv3.HeaderMutation {
	out := []*mutationv3.HeaderMutation{removePrefix("x-envoy-"), undecidedKey()}
	for _, name := range wire.PrivateHeaders {
		if name != wire.RuleHeader && !slices.Contains(kept, name) { // which undecidedKey sets
			out = append(out, remove(name))
		}
	}
	return out
}

// recordLog sends Weir a record of what has ended. It must be the same in all places: each worker of Envoy has one stream for equal logs, and
// what is sent by another stream may be read before what was sent first.
func (c *compiler) recordLog() *accesslogv3.AccessLog {
	return &accesslogv3.AccessLog{
		Name: wire.AccessLog,
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: pack(&grpclogv3.HttpGrpcAccessLogConfig{
			CommonConfig: &grpclogv3.CommonGrpcAccessLogConfig{
				LogName:             wire.AccessLog,
				GrpcService:         grpcService(c.opts.ExtProcCluster),
				TransportApiVersion: corev3.ApiVersion_V3,
				BufferFlushInterval: durationpb.New(AccessLogFlush),
				BufferSizeBytes:     wrapperspb.UInt32(accessLogBatch),
				CustomTags:          []*tracingv3.CustomTag{backendTag(), firstTokenTag()},
			},
			AdditionalRequestHeadersToLog: []string{wire.TraceHeader},
		})},
	}
}

// attemptLog records the attempts that failed. A request's own record tells of the last attempt, so that those that went well cost
// nothing here. They go by the log of the requests, to be read before the record of theirs.
func (c *compiler) attemptLog() []*accesslogv3.AccessLog {
	log := c.recordLog()
	log.Name = "weir.attempt"
	log.Filter = &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_OrFilter{OrFilter: &accesslogv3.OrFilter{
		Filters: []*accesslogv3.AccessLogFilter{
			{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{}}},
			{FilterSpecifier: &accesslogv3.AccessLogFilter_StatusCodeFilter{StatusCodeFilter: &accesslogv3.StatusCodeFilter{
				Comparison: &accesslogv3.ComparisonFilter{Op: accesslogv3.ComparisonFilter_GE, Value: &corev3.RuntimeUInt32{
					DefaultValue: 400, RuntimeKey: "weir.failed_status",
				}},
			}}},
		},
	}}}
	return []*accesslogv3.AccessLog{log}
}

// backendTag names the backend of the endpoint that a record is of.
func backendTag() *tracingv3.CustomTag {
	return &tracingv3.CustomTag{
		Tag: wire.BackendTag,
		Type: &tracingv3.CustomTag_Metadata_{Metadata: &tracingv3.CustomTag_Metadata{
			Kind: &metadatav3.MetadataKind{Kind: &metadatav3.MetadataKind_Host_{Host: &metadatav3.MetadataKind_Host{}}},
			MetadataKey: &metadatav3.MetadataKey{Key: wire.BackendNamespace, Path: []*metadatav3.MetadataKey_PathSegment{{
				Segment: &metadatav3.MetadataKey_PathSegment_Key{Key: wire.KeyBackend},
			}}},
		}},
	}
}

// firstTokenTag measures until the body of an answer begins: inference servers send their headers when they take a request, not when they
// have something to say.
func firstTokenTag() *tracingv3.CustomTag {
	return &tracingv3.CustomTag{
		Tag: wire.FirstTokenTag, Type: &tracingv3.CustomTag_Value{Value: "%COMMON_DURATION(US_TX_BEG:US_RX_BODY_BEG:us)%"},
	}
}

// downstreamTLS terminates TLS with a certificate that travels as an SDS secret.
func (c *compiler) downstreamTLS(ref source.ObjectRef, field, listener string, conf *v1alpha1.ListenerTLS) (*corev3.TransportSocket, bool) {
	read := func(name string, r v1alpha1.SecretRef) (string, bool) {
		s, ok := c.secret(ref, field+".tls."+name, r, "it")
		return s.Reveal(), ok
	}
	certificate, ok1 := read("certificateRef", conf.CertificateRef)
	key, ok2 := read("privateKeyRef", conf.PrivateKeyRef)
	if !ok1 || !ok2 {
		return nil, false
	}
	if err := checkKeyPair(certificate, key); err != nil {
		c.errorf(ref, field+".tls", "%v", err)
		return nil, false
	}
	certificate, err := certificates(certificate)
	if err != nil {
		c.errorf(ref, field+".tls.certificateRef", "%v", err)
		return nil, false
	}
	name := "certificate/" + listener
	putMessage(c, c.sds, name, &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inline(certificate), PrivateKey: inline(key),
	}}})
	return &corev3.TransportSocket{Name: "tls", ConfigType: &corev3.TransportSocket_TypedConfig{
		TypedConfig: pack(&tlsv3.DownstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsParams:                      &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2},
			AlpnProtocols:                  []string{"h2", "http/1.1"},
			TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{{Name: name, SdsConfig: ads()}},
		}}),
	}}, true
}

// checkKeyPair says in a sentence what TLS stacks say in codes, and never quotes the key.
func checkKeyPair(certificate, key string) error {
	pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
	if err != nil {
		return fmt.Errorf("certificate and private key do not work together: %w", err)
	}
	const use = "use ECDSA with P-256, P-384 or P-521, Ed25519, or RSA of 2048 bits or more"
	switch k := pair.PrivateKey.(type) {
	case *rsa.PrivateKey:
		if k.N.BitLen() < minRSABits {
			return fmt.Errorf("the RSA key has %d bits, and Envoy takes no less than %d; %s", k.N.BitLen(), minRSABits, use)
		}
	case *ecdsa.PrivateKey:
		if c := k.Curve; c != elliptic.P256() && c != elliptic.P384() && c != elliptic.P521() {
			return fmt.Errorf("the ECDSA key is on the curve %s, which Envoy does not take; %s", c.Params().Name, use)
		}
	case ed25519.PrivateKey:
	default:
		return fmt.Errorf("Envoy does not take keys of this kind; %s", use)
	}
	return nil
}
