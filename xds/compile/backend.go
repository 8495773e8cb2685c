package compile

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	dnscommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/common/dns/v3"
	dnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage/money"
	"github.com/weir-dev/weir/xds/source"
)

// backend is a compiled Backend: the table's side of it and the name of its cluster.
type backend struct {
	table.Backend
	cluster  string
	signals  []string   // headers of answers that tell its load
	injected []injected // its credential, as Envoy adds it
	idle     bool       // its servers are found in the cluster, and none is ready

	ref source.ObjectRef
	// several says that it has more than one server, or may have, whose addresses are IP addresses or names that a LoadPolicy steers.
	several bool
	// steeredBy is the LoadPolicy that steers it, "namespace/name"; "" where none does.
	steeredBy string
	failOpen  bool // it is asked without Weir
}

// address is one server of a backend.
type address struct {
	host   string
	port   uint32
	weight uint32
}

// backend compiles a Backend: its cluster, its endpoints, its credential.
func (c *compiler) backend(o *v1alpha1.Backend) {
	ref := source.ObjectRef{Kind: "Backend", Namespace: o.Namespace, Name: o.Name}
	spec := &o.Spec
	b := &backend{Backend: table.Backend{ID: o.Namespace + "/" + o.Name, DefaultMaxTokens: spec.DefaultMaxTokens}, ref: ref}
	c.backing.backend = b // even when something is wrong with it, so that routes do not complain as well

	dialect, ok := c.opts.Dialects.Get(spec.Dialect)
	if !ok || dialect.Out == nil {
		c.errorf(ref, "spec.dialect", "there is no dialect %q; known are %s", spec.Dialect, strings.Join(c.opts.Dialects.Names(), ", "))
		return
	}
	b.Dialect = &dialect
	if len(spec.Models) > 0 {
		b.Models = make(map[string]string, len(spec.Models))
		for _, m := range spec.Models {
			upstream := m.UpstreamName
			if upstream == "" {
				upstream = m.Name
			}
			b.Models[string(m.Name)] = string(upstream)
		}
	}
	if !c.prices(ref, b, spec) {
		return
	}

	addresses, secure, ok := c.addresses(ref, b, spec)
	if !ok {
		return
	}
	policy := c.policyOf[ref]
	b.signals = signals(policy, spec)
	cl := &clusterv3.Cluster{
		ConnectTimeout: durationpb.New(duration(spec.Connections.ConnectTimeout)),
		LbPolicy:       clusterv3.Cluster_LEAST_REQUEST,
		CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
			MaxConnections:     wrapperspb.UInt32(uint32(spec.Connections.MaxConnections)),
			MaxPendingRequests: wrapperspb.UInt32(uint32(spec.Connections.MaxPendingRequests)),
			MaxRequests:        wrapperspb.UInt32(uint32(spec.Connections.MaxRequests)),
			// Envoy's default of 3 would turn most fallbacks of a dead backend into 503.
			MaxRetries: wrapperspb.UInt32(uint32(spec.Connections.MaxRequests)),
		}}},
		CommonLbConfig: &clusterv3.Cluster_CommonLbConfig{
			// Changes of weight and health must land within a second; the default merges them for one.
			UpdateMergeWindow: durationpb.New(0),
		},
		Metadata: metadata(map[string]string{wire.KeyBackend: b.ID, wire.KeyBase: b.BasePath, "dialect": spec.Dialect}),
	}
	if secure {
		if cl.TransportSocket, ok = c.upstreamTLS(ref, o, b); !ok {
			return
		}
	}
	if b.injected, ok = c.credentials(ref, o, b); !ok {
		return
	}
	cl.TypedExtensionProtocolOptions = map[string]*anypb.Any{
		httpOptionsKey: pack(httpOptions(spec.Protocol, secure, directFilters(b.injected, dialect.Header, b.signals))),
	}

	addresses = c.unique(ref, addresses)
	byIP := true
	for _, a := range addresses {
		if _, err := netip.ParseAddr(a.host); err != nil {
			byIP = false
		}
	}
	if byIP {
		cl.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
		cl.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads()}
		if policy != nil {
			steerCluster(cl, &policy.Spec)
		}
	} else {
		cl.ClusterDiscoveryType = &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{
			Name: "envoy.cluster.dns",
			TypedConfig: pack(&dnsv3.DnsCluster{
				RespectDnsTtl: true,
				// Many networks resolve IPv6 addresses that they have no way to.
				DnsLookupFamily: dnscommonv3.DnsLookupFamily_V4_PREFERRED,
			}),
		}}
		cl.LoadAssignment = b.assignment(addresses)
	}
	content := [][]byte{deterministic(cl)}
	if byIP && spec.URL != "" {
		// A URL that moves may have another owner, with another key: what is decided for the old one, a late retry included,
		// must not reach the new one. A pool's endpoints have one owner, so they are replaced in place, over EDS.
		content = append(content, []byte(joinPort(addresses[0].host, addresses[0].port)))
	}
	b.cluster = fmt.Sprintf("backend/%s/%s", b.ID, short(content...))
	cl.Name = b.cluster
	// Without dots: Envoy takes what stands before the first one for the cluster's name, and the rest for that of a metric.
	cl.AltStatName = "backend/" + strings.ReplaceAll(b.ID, ".", "_")
	if byIP {
		cl.EdsClusterConfig.ServiceName = b.cluster
		putMessage(c, c.loads, b.cluster, b.assignment(addresses))
	} else {
		cl.LoadAssignment.ClusterName = b.cluster
	}
	putMessage(c, c.clusters, b.cluster, cl)
	if policy != nil {
		c.pool(ref, o, policy, b, addresses, byIP, secure)
	}
}

// addresses reads where the backend is, and fills in Host and BasePath.
func (c *compiler) addresses(ref source.ObjectRef, b *backend, spec *v1alpha1.BackendSpec) (list []address, secure, ok bool) {
	switch {
	case spec.Discovered():
		list, ok = c.discovered(ref, b, spec)
		return list, spec.TLS != nil, ok
	case spec.URL != "":
		var err error
		if list, secure, err = urlAddress(b, spec); err != nil {
			c.errorf(ref, "spec.url", "%v", err)
			return nil, false, false
		}
		return list, secure, true
	}
	ok = true
	for i, e := range spec.Endpoints {
		host := e.Address
		if ip, err := netip.ParseAddr(host); err == nil {
			host = ip.String() // as Envoy prints it, so that one server has one name
		} else if why := neverHost(host); why != "" {
			c.errorf(ref, fmt.Sprintf("spec.endpoints[%d].address", i), "%s", why)
			ok = false
		}
		list = append(list, address{host, uint32(e.Port), uint32(e.Weight)})
	}
	if !ok {
		return nil, false, false
	}
	b.BasePath = strings.TrimSuffix(spec.BasePath, "/")
	b.Host = joinPort(list[0].host, list[0].port)
	if spec.TLS != nil && spec.TLS.ServerName != "" {
		b.Host = spec.TLS.ServerName
	}
	return list, spec.TLS != nil, true
}

// urlAddress reads where the URL of a backend leads, and fills in Host and BasePath.
func urlAddress(b *backend, spec *v1alpha1.BackendSpec) (list []address, secure bool, err error) {
	u, err := url.Parse(spec.URL)
	if err != nil {
		return nil, false, fmt.Errorf("not a URL: %w", err)
	}
	secure = u.Scheme == "https"
	port := uint32(80)
	if secure {
		port = 443
	}
	b.Host = u.Host
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return nil, false, fmt.Errorf("port %q is not between 1 and 65535", p)
		}
		port = uint32(n)
	}
	b.BasePath = strings.TrimSuffix(u.EscapedPath(), "/")
	if spec.TLS != nil && !secure {
		return nil, false, fmt.Errorf("tls is set, but the URL begins with http://; write https://")
	}
	if why := neverHost(u.Hostname()); why != "" {
		return nil, false, errors.New(why)
	}
	return []address{{u.Hostname(), port, 1}}, secure, nil
}

// neverHost says why nothing can be reached by what stands in place of a host, or "". Resolvers would be asked for it again and again.
func neverHost(host string) string {
	if _, err := netip.ParseAddr(host); err == nil {
		return ""
	}
	switch {
	case strings.Trim(host, "0123456789.") == "":
		return fmt.Sprintf("%q is neither an IP address nor a name: an IPv4 address has four numbers from 0 to 255 without zeros in front, and a name has letters", host)
	case strings.Contains(host, ":"):
		return fmt.Sprintf("%q is neither an IP address nor a name; a port is written into port", host)
	}
	return ""
}

func joinPort(host string, port uint32) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return fmt.Sprintf("%s:%d", host, port)
}

// injected is a credential that Envoy adds to a request by itself.
type injected struct {
	canon.Credential
	secret string // name of the SDS secret that holds the value
}

// credentials resolves the backend's key: into the table for attempts that Weir prepares, and into
// SDS secrets (whose values no config dump shows) for direct routes.
func (c *compiler) credentials(ref source.ObjectRef, o *v1alpha1.Backend, b *backend) (out []injected, ok bool) {
	if o.Spec.Credential == nil {
		return nil, true
	}
	secret, found := c.secret(ref, "spec.credential.secretRef", o.Spec.Credential.SecretRef, "the key")
	if !found {
		return nil, false
	}
	key := secret.Reveal()
	if key == "" || strings.ContainsFunc(key, func(r rune) bool { return r < 0x21 || r > 0x7e }) {
		c.errorf(ref, "spec.credential.secretRef", "the key is empty, or has spaces or characters that a header cannot carry")
		return nil, false
	}
	b.Credentials = b.Dialect.Out.Credentials(key)
	for _, form := range b.Credentials {
		// The value is a part of the name, and through it of the cluster's: clusters of two versions share no secret, so a new
		// key reaches no old host, nor an old key a new one.
		name := "credential/" + b.ID + "/" + form.Name + "/" + short([]byte(form.Value))
		putMessage(c, c.sds, name, &tlsv3.Secret{
			Name: name,
			Type: &tlsv3.Secret_GenericSecret{GenericSecret: &tlsv3.GenericSecret{Secret: inline(form.Value)}},
		})
		out = append(out, injected{form, name})
	}
	return out, true
}

// upstreamTLS verifies the backend against the system's authorities, or the ones that are named.
func (c *compiler) upstreamTLS(ref source.ObjectRef, o *v1alpha1.Backend, b *backend) (*corev3.TransportSocket, bool) {
	var conf v1alpha1.BackendTLS
	if o.Spec.TLS != nil {
		conf = *o.Spec.TLS
	}
	name := conf.ServerName
	if name == "" {
		name = hostOnly(b.Host)
	}
	common := &tlsv3.CommonTlsContext{TlsParams: &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2}}
	if conf.InsecureSkipVerify {
		c.warnf(ref, "spec.tls.insecureSkipVerify", "any certificate is accepted from this backend; use it for tests only")
	} else {
		validation := &tlsv3.CertificateValidationContext{
			MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{sanMatcher(name)},
		}
		if conf.CARef != nil {
			ca, ok := c.secret(ref, "spec.tls.caRef", *conf.CARef, "the certificate authorities")
			if !ok {
				return nil, false
			}
			list, err := certificates(ca.Reveal())
			if err != nil {
				c.errorf(ref, "spec.tls.caRef", "%v; give the certificate authorities as PEM", err)
				return nil, false
			}
			validation.TrustedCa = inline(list)
		} else {
			if c.opts.SystemCAs == "" {
				c.errorf(ref, "spec.tls.caRef", "this system's certificate authorities were not found, so there is nothing to verify the backend with; install them (ca-certificates), set SSL_CERT_FILE, or give caRef")
				return nil, false
			}
			// Envoy reads system_root_certs for gRPC alone, and refuses to verify without a file.
			validation.TrustedCa = &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: c.opts.SystemCAs}}
		}
		common.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: validation}
	}
	up := &tlsv3.UpstreamTlsContext{CommonTlsContext: common}
	if _, err := netip.ParseAddr(name); err != nil {
		up.Sni = name
	}
	return &corev3.TransportSocket{
		Name:       "tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: pack(up)},
	}, true
}

// certificates reads all certificates of a text in PEM, and writes them anew: what is not one, Envoy would refuse, and with it everything
// that is sent to it.
func certificates(text string) (string, error) {
	var out strings.Builder
	n := 0
	for rest := []byte(text); ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if strings.Contains(string(rest), "-----BEGIN") {
				return "", fmt.Errorf("what follows certificate %d in it cannot be read", n)
			}
			break
		}
		if block.Type != "CERTIFICATE" {
			return "", fmt.Errorf("block %d in it is no certificate", n+1)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "", fmt.Errorf("certificate %d in it cannot be read", n+1)
		}
		out.Write(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
	}
	if n == 0 {
		return "", errors.New("there is no certificate in it")
	}
	return out.String(), nil
}

func hostOnly(authority string) string {
	u := url.URL{Host: authority}
	return u.Hostname()
}

func (b *backend) assignment(addresses []address) *endpointv3.ClusterLoadAssignment {
	// An attempt learns from its endpoint which backend it has got.
	values := map[string]string{wire.KeyBackend: b.ID}
	if slices.Contains(b.signals, wire.LoadReport) {
		values[wire.KeyReports] = wire.LoadFormatText
	}
	at := metadata(values)
	out := &endpointv3.ClusterLoadAssignment{ClusterName: b.cluster}
	if len(addresses) == 0 {
		return out
	}
	group := &endpointv3.LocalityLbEndpoints{}
	out.Endpoints = append(out.Endpoints, group)
	for _, a := range addresses {
		group.LbEndpoints = append(group.LbEndpoints, &endpointv3.LbEndpoint{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
				Hostname: b.Host, // the authority of attempts that Envoy prepares by itself
				Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
					Address: a.host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: a.port},
				}}},
			}},
			LoadBalancingWeight: wrapperspb.UInt32(max(a.weight, 1)),
			Metadata:            at,
		})
	}
	return out
}

func metadata(values map[string]string) *corev3.Metadata {
	fields := make(map[string]*structpb.Value, len(values))
	for k, v := range values {
		fields[k] = structpb.NewStringValue(v)
	}
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{wire.BackendNamespace: {Fields: fields}}}
}

func inline(value string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: value}}
}

func ads() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
}

// duration reads an optional duration; the schema has filled in defaults.
func duration(d *metav1.Duration) time.Duration {
	if d == nil {
		return 0
	}
	return d.Duration
}

// prices reads what a backend's models cost.
func (c *compiler) prices(ref source.ObjectRef, b *backend, spec *v1alpha1.BackendSpec) (ok bool) {
	ok = true
	read := func(field string, list []v1alpha1.Price) *money.Table {
		t, err := money.FromAPI(list)
		if err != nil {
			c.errorf(ref, field, "%v", err)
			ok = false
		}
		versions := map[string]int{}
		for i := range list {
			version := list[i].Version
			if first, twice := versions[version]; twice && version != "" {
				c.errorf(ref, fmt.Sprintf("%s[%d].version", field, i), "the price %d is named %q too, and ledger entries could not tell them apart", first, version)
				ok = false
			}
			versions[version] = i
		}
		return t
	}
	b.DefaultPrice = read("spec.prices", spec.Prices)
	for i := range spec.Models {
		if t := read(fmt.Sprintf("spec.models[%d].prices", i), spec.Models[i].Prices); t != nil {
			if b.Prices == nil {
				b.Prices = map[string]*money.Table{}
			}
			b.Prices[string(spec.Models[i].Name)] = t
		}
	}
	return ok
}
