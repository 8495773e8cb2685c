package compile

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	leastrequestv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	overridehostv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/override_host/v3"
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/type/metadata/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage/money"
	"github.com/weir-dev/weir/xds/load/weigh"
	"github.com/weir-dev/weir/xds/source"
)

// Pool is a Backend whose load a LoadPolicy steers.
type Pool struct {
	// Backend is its ID, "namespace/name".
	Backend string
	// Policy is the LoadPolicy's ID, "namespace/name".
	Policy string
	// Cluster is what Envoy knows the pool by.
	Cluster string
	// EDS says that endpoints have weights and health of their own. Otherwise Envoy resolves names by itself, and the pool is
	// steered as a whole, by its share among the Backends of a rule.
	EDS bool
	// Endpoints in the order of the Backend, each once. What a name resolves to is not known here.
	Endpoints []PoolEndpoint
	// Weigh says how signals become weights.
	Weigh weigh.Policy
	// Pick says how an endpoint is picked for a request: that of table.Backend. Nil where several endpoints have names.
	Pick *pick.Policy
	// Breaker of the endpoints; nil where there is none. Its subjects are endpoint keys.
	Breaker *breaker.Rule
	// Tick is the longest time between two computations of weights.
	Tick time.Duration
	// PublishPercent is the change of a weight that is worth telling Envoy.
	PublishPercent int
	// Health and Metrics are the Backend's; nil where it has none.
	Health  *v1alpha1.HealthCheck
	Metrics []v1alpha1.MetricsSource
	// TLS is how the endpoints are trusted; nil where they are asked without TLS.
	TLS *tls.Config `json:"-"`
	// Host is the authority that the Backend is asked by.
	Host string
	// Prices of the Backend's models, each once; nil where nobody has told.
	Prices []*money.Table `json:"-"`
	// FailOpen says that Envoy sends requests on while Weir does not answer.
	FailOpen bool
}

// PoolEndpoint is one server of a Pool.
type PoolEndpoint struct {
	// Key is "ip:port" as Envoy prints it, or "name:port" in a pool without EDS.
	Key string
	// Host is an IP address without brackets, or a name.
	Host string
	Port uint32
	// Weight that the Backend gives it, at least 1.
	Weight uint32
}

// SteeredRoute is an entry of Routes whose weights may be replaced.
type SteeredRoute struct {
	// Members in the order of the route's weighted clusters.
	Members []SteeredMember
}

// SteeredMember is one Backend of a SteeredRoute.
type SteeredMember struct {
	// Backend is its ID. It need not have a Pool.
	Backend string
	// Weight and Priority as in the Route. The weight counts among members of one priority; those of the lowest number go first.
	Weight   uint32
	Priority int32
}

// loadPoliciesOfBackends finds out which LoadPolicy steers which Backend.
func (c *compiler) loadPoliciesOfBackends() {
	wide := map[string]*v1alpha1.LoadPolicy{} // by namespace
	for _, o := range c.objs.LoadPolicies {
		ref := source.ObjectRef{Kind: "LoadPolicy", Namespace: o.Namespace, Name: o.Name}
		c.checkLoadPolicy(ref, &o.Spec)
		seen := map[v1alpha1.LoadPolicyTarget]bool{}
		for i, t := range o.Spec.TargetRefs {
			field := fmt.Sprintf("spec.targetRefs[%d]", i)
			target := source.ObjectRef{Kind: string(t.Kind), Namespace: o.Namespace, Name: string(t.Name)}
			if seen[t] {
				c.errorf(ref, field, "the target %s %s is named twice", t.Kind, t.Name)
				continue
			}
			seen[t] = true
			if !c.known(target) {
				c.unresolvedf(ref, field+".name", source.ReasonRefNotFound, "there is no %s", target)
				continue
			}
			if t.Kind == v1alpha1.LoadTargetGateway {
				if other := wide[o.Namespace]; other != nil && other != o {
					c.refusef(ref, field, source.ReasonConflict, "LoadPolicy %s/%s steers all Backends of the namespace %s already; name Backends in one of the two", other.Namespace, other.Name, o.Namespace)
					continue
				}
				wide[o.Namespace] = o
				continue
			}
			if other := c.policyOf[target]; other != nil {
				c.refusef(ref, field, source.ReasonConflict, "LoadPolicy %s/%s steers this Backend already; name it in one of the two", other.Namespace, other.Name)
				continue
			}
			c.policyOf[target] = o
		}
	}
	left := map[string]bool{}
	for _, b := range c.objs.Backends {
		ref := source.ObjectRef{Kind: "Backend", Namespace: b.Namespace, Name: b.Name}
		if c.policyOf[ref] == nil && wide[b.Namespace] != nil {
			c.policyOf[ref], left[b.Namespace] = wide[b.Namespace], true
		}
		if c.policyOf[ref] != nil {
			continue
		}
		const why = "no LoadPolicy steers this Backend, so %s; make a LoadPolicy with a targetRef to it, or to the LLMGateway"
		if b.Spec.HealthCheck != nil {
			c.warnf(ref, "spec.healthCheck", why, "nobody checks")
		}
		if len(b.Spec.Metrics) > 0 {
			c.warnf(ref, "spec.metrics", why, "nobody reads them")
		}
	}
	for _, o := range c.objs.LoadPolicies {
		if wide[o.Namespace] != o || left[o.Namespace] {
			continue
		}
		for i, t := range o.Spec.TargetRefs {
			if t.Kind == v1alpha1.LoadTargetGateway {
				c.warnf(source.ObjectRef{Kind: "LoadPolicy", Namespace: o.Namespace, Name: o.Name}, fmt.Sprintf("spec.targetRefs[%d]", i),
					"every Backend of the namespace %s is named by a LoadPolicy, so this target covers none", o.Namespace)
				break
			}
		}
	}
}

// checkLoadPolicy finds what the schema cannot.
func (c *compiler) checkLoadPolicy(ref source.ObjectRef, spec *v1alpha1.LoadPolicySpec) {
	w := &spec.Weights
	if q := w.QueueDelay; q != nil && q.FactorPercent < 100 && q.Enter.Duration <= 0 {
		c.errorf(ref, "spec.weights.queueDelay.enter", "every queue is longer than %s; write how long requests may wait before the rule applies, or factorPercent: 100 to turn it off", q.Enter.Duration)
	}
	if s := spec.Picking.SessionAffinity; s != nil {
		name := strings.ToLower(s.Header)
		for _, p := range []string{"x-weir-", "x-envoy-"} {
			if strings.HasPrefix(name, p) {
				c.errorf(ref, "spec.picking.sessionAffinity.header", "%s headers are removed at the door, so no request would have a session", p)
			}
		}
	}
	if spec.Picking.Mode != v1alpha1.PickWeights {
		return
	}
	for _, part := range []struct {
		field string
		given bool
	}{
		{"spec.picking.prefixAffinity", spec.Picking.PrefixAffinity != nil},
		{"spec.picking.sessionAffinity", spec.Picking.SessionAffinity != nil},
		{"spec.admission", spec.Admission != nil},
	} {
		if part.given {
			c.warnf(ref, part.field, "it needs picking.mode LeastLoad; with Weights Envoy picks, and this does nothing")
		}
	}
}

// unique drops the endpoints of a Backend that are there twice: Envoy knows one server of an address.
func (c *compiler) unique(ref source.ObjectRef, addresses []address) []address {
	var out []address
	seen := map[string]int{}
	for i, a := range addresses {
		key := strings.ToLower(a.key()) // names have no case
		if first, twice := seen[key]; twice {
			c.errorf(ref, fmt.Sprintf("spec.endpoints[%d]", i), "%s is endpoint %d already; for a larger share give that one a weight", key, first)
			continue
		}
		seen[key] = i
		out = append(out, a)
	}
	return out
}

// key is the address as Envoy prints it.
func (a address) key() string {
	if ip, err := netip.ParseAddr(a.host); err == nil {
		return netip.AddrPortFrom(ip, uint16(a.port)).String()
	}
	return joinPort(a.host, a.port)
}

// pool makes the Pool of a Backend, and the table's part of it.
func (c *compiler) pool(ref source.ObjectRef, o *v1alpha1.Backend, policy *v1alpha1.LoadPolicy, b *backend, addresses []address, byIP, secure bool) {
	spec := &policy.Spec
	p := &Pool{
		Backend: b.ID, Policy: policy.Namespace + "/" + policy.Name, Cluster: b.cluster, EDS: byIP,
		Weigh: weigh.FromAPI(spec), Tick: duration(spec.Weights.Tick), PublishPercent: int(spec.Weights.PublishPercent),
		Health: o.Spec.HealthCheck, Metrics: o.Spec.Metrics, Host: b.Host, FailOpen: spec.FailureMode == v1alpha1.LoadFailOpen,
	}
	for _, m := range o.Spec.Models {
		if t := b.Prices[string(m.Name)]; t != nil {
			p.Prices = append(p.Prices, t)
		}
	}
	if b.DefaultPrice != nil {
		p.Prices = append(p.Prices, b.DefaultPrice)
	}
	picking := pick.FromAPI(b.ID, spec)
	p.Breaker = picking.Breaker
	b.Steered, b.Named, b.LoadReports = true, byIP, reportsLoad(&o.Spec)
	for _, a := range addresses {
		p.Endpoints = append(p.Endpoints, PoolEndpoint{Key: a.key(), Host: a.host, Port: a.port, Weight: max(a.weight, 1)})
		if !byIP {
			b.Endpoints = append(b.Endpoints, a.key())
		}
	}
	b.several = len(addresses) > 1 || o.Spec.Discovered()
	b.steeredBy, b.failOpen, c.backing.failOpen = p.Policy, p.FailOpen, p.FailOpen
	if !byIP {
		picking.Prefix, picking.Session = nil, nil // there is one, if any
	}
	if picking.Mode == pick.Weights {
		picking.Admission = nil // as checkLoadPolicy says
	}
	if byIP || len(addresses) == 1 {
		// A name alone is picked for its breaker, and for what it has in flight; Envoy asks whatever it resolves to.
		p.Pick, b.Pick = picking, picking
		c.backing.prompts = picking.Mode == pick.LeastLoad && picking.Prefix != nil
		if a := picking.Admission; a != nil && picking.Mode == pick.LeastLoad {
			c.backing.poolWait = a.MaxWait
		}
	}
	if !byIP && o.Spec.URL == "" {
		c.warnf(ref, "spec.endpoints", "%s is a name, which Envoy resolves by itself: LoadPolicy %s steers this Backend as a whole, by its share among the Backends of a rule, and its endpoints get no weights, no isolation and no picking of their own; write IP addresses for that",
			firstName(addresses), p.Policy)
	}
	if secure {
		p.TLS = c.poolTLS(o, b)
	}
	c.pools.put(c, b.ID, p, digestOf(b.ID, asJSON(p)))
}

func firstName(addresses []address) string {
	for _, a := range addresses {
		if _, err := netip.ParseAddr(a.host); err != nil {
			return a.host
		}
	}
	return ""
}

// poolTLS is upstreamTLS for Weir's own requests to endpoints. What is wrong with it has been said.
func (c *compiler) poolTLS(o *v1alpha1.Backend, b *backend) *tls.Config {
	var conf v1alpha1.BackendTLS
	if o.Spec.TLS != nil {
		conf = *o.Spec.TLS
	}
	out := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: conf.ServerName, InsecureSkipVerify: conf.InsecureSkipVerify}
	if out.ServerName == "" {
		out.ServerName = hostOnly(b.Host)
	}
	if conf.CARef != nil {
		out.RootCAs = x509.NewCertPool()
		out.RootCAs.AppendCertsFromPEM([]byte(c.objs.Secrets[source.SecretKeyOf(o.Namespace, *conf.CARef)].Reveal()))
	}
	return out
}

// steerCluster lets Weir name the endpoints of requests to a cluster. Where it names none, or none that is there, Envoy picks by
// weight and requests in flight, which is all that the mode Weights does.
// Warm-up is a matter of weights, so Envoy has no slow start of its own.
func steerCluster(cl *clusterv3.Cluster, spec *v1alpha1.LoadPolicySpec) {
	cl.LbPolicy = clusterv3.Cluster_LOAD_BALANCING_POLICY_CONFIG
	cl.LoadBalancingPolicy = balance("envoy.load_balancing_policies.override_host", &overridehostv3.OverrideHost{
		OverrideHostSources: []*overridehostv3.OverrideHost_OverrideHostSource{{Metadata: &metadatav3.MetadataKey{
			Key: wire.DecisionNamespace,
			Path: []*metadatav3.MetadataKey_PathSegment{{
				Segment: &metadatav3.MetadataKey_PathSegment_Key{Key: wire.KeyEndpoints},
			}},
		}}},
		FallbackPolicy: balance("envoy.load_balancing_policies.least_request", &leastrequestv3.LeastRequest{}),
	})
	if spec.FailureMode == v1alpha1.LoadFailOpen {
		cl.OutlierDetection = ejectUnreachable()
	}
	// Whom Weir lets in again when it doubts its health checks, it publishes as healthy. Envoy would let in those as well whose
	// circuit breaker is open.
	cl.CommonLbConfig.HealthyPanicThreshold = &typev3.Percent{Value: 0}
}

// ejectUnreachable makes Envoy leave endpoints alone for a while that it cannot connect to, or that let requests time out, for the time in
// which nobody tells it of their health. Answers do not count, whatever their status. While Weir answers this matters little: it
// names the endpoints, and Envoy asks those whatever it thinks of them. Health checks of Envoy's own would rather fight Weir's, because
// they and EDS must both be well for an endpoint to be used.
func ejectUnreachable() *clusterv3.OutlierDetection {
	return &clusterv3.OutlierDetection{
		SplitExternalLocalOriginErrors: true,
		ConsecutiveLocalOriginFailure:  wrapperspb.UInt32(5), EnforcingConsecutiveLocalOriginFailure: wrapperspb.UInt32(100),
		EnforcingConsecutive_5Xx: wrapperspb.UInt32(0), EnforcingSuccessRate: wrapperspb.UInt32(0), EnforcingLocalOriginSuccessRate: wrapperspb.UInt32(0),
		Interval: durationpb.New(time.Second), BaseEjectionTime: durationpb.New(2 * time.Second), MaxEjectionTime: durationpb.New(10 * time.Second),
		MaxEjectionPercent: wrapperspb.UInt32(50),
	}
}

func balance(name string, config proto.Message) *clusterv3.LoadBalancingPolicy {
	return &clusterv3.LoadBalancingPolicy{Policies: []*clusterv3.LoadBalancingPolicy_Policy{{
		TypedExtensionConfig: &corev3.TypedExtensionConfig{Name: name, TypedConfig: pack(config)},
	}}}
}
