package compile

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	compositev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/composite/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/xds/source"
)

// hostReselections is how often another endpoint is picked instead of one that has failed already.
const hostReselections = 5

// noLimit lifts Envoy's circuit breakers from composite clusters: the backends' own apply.
const noLimit = 1 << 30

// A fallback waits hardly at all: another provider is not the one that has just failed.
const (
	retryBase = 5 * time.Millisecond
	retryMax  = 50 * time.Millisecond
)

// providerHeaders are in providers' answers for the holder of the account, which the caller is not.
var providerHeaders = []string{"set-cookie", "openai-organization", "openai-project", "anthropic-organization-id", "x-envoy-upstream-service-time"}

// member is a candidate with the cluster it is reached by.
type member struct {
	*table.Candidate
	cluster  string
	signals  []string   // of its backend
	injected []injected // likewise
	several  bool       // likewise
	failOpen bool       // likewise

	steeredBy string // likewise
}

// compileRoute compiles a Route into the table's rules and Envoy's routes.
func (c *compiler) compileRoute(r *v1alpha1.Route) {
	u := c.routing
	ref := u.ref
	gateways, ok := c.takes(ref, r)
	if !ok {
		return
	}
	u.gateways = gateways
	order := 0
	seen := map[string]int{}
	for i := range r.Spec.Rules {
		spec := &r.Spec.Rules[i]
		field := fmt.Sprintf("spec.rules[%d]", i)
		name := RuleName(r, i)
		if j, dup := seen[name]; dup {
			c.errorf(ref, field+".name", "rules %d and %d have the same name", j, i)
			continue
		}
		seen[name] = i
		rule, members := c.rule(ref, field, name, spec)
		if rule == nil {
			continue
		}
		c.variants(rule, members, spec)
		c.openRule(ref, field, rule, members, spec)
		u.rules = append(u.rules, sectionRule{string(spec.Name), name})
		matches := spec.Matches
		if len(matches) == 0 {
			matches = []v1alpha1.RouteMatch{{}}
		}
		for j := range matches {
			m, ok := c.match(ref, fmt.Sprintf("%s.matches[%d]", field, j), &matches[j], rule)
			if !ok {
				continue
			}
			m.Gateways = gateways
			m.Created, m.RouteOrder, m.Order = r.CreationTimestamp.Time, r.Namespace+"/"+r.Name, order
			order++
			entries, err := table.Entries(rule, m)
			if err != nil {
				c.errorf(ref, fmt.Sprintf("%s.matches[%d].models", field, j), "%v", err)
			}
			u.entries = append(u.entries, entries...)
		}
		u.retain = max(u.retain, rule.Timeout)
	}
}

// RuleName is the name of a Route's i-th rule: what x-weir-route shows.
func RuleName(r *v1alpha1.Route, i int) string {
	name := r.Namespace + "/" + r.Name
	switch {
	case r.Spec.Rules[i].Name != "":
		return name + "/" + string(r.Spec.Rules[i].Name)
	case len(r.Spec.Rules) > 1:
		return name + "/" + strconv.Itoa(i)
	}
	return name
}

// rule resolves a rule's backends. It returns nil when one is missing, unless Options.Lenient lets the rule go on without it.
func (c *compiler) rule(ref source.ObjectRef, field, name string, spec *v1alpha1.RouteRule) (*table.Rule, []member) {
	rule := &table.Rule{Name: name, RequiredScopes: spec.RequiredScopes, Timeout: duration(spec.Timeouts.Request)}
	var members []member
	ok := true
	for i := range spec.Backends {
		rb := &spec.Backends[i]
		at := fmt.Sprintf("%s.backends[%d]", field, i)
		model := string(rb.Model)
		if strings.Contains(model, "*") {
			c.errorf(ref, at+".model", "a model asked of a backend is a name, not a pattern")
			ok = false
		}
		if strings.ContainsFunc(model, unicode.IsControl) {
			c.errorf(ref, at+".model", "the name of a model has no control characters, and this one has: remove line breaks, tabs and the like")
			ok = false
		}
		b, why := c.routeBackend(ref, at, rb)
		if why != "" && !c.opts.Lenient {
			ok = false
			continue
		}
		weight := uint32(1)
		if rb.Weight != nil {
			weight = uint32(*rb.Weight)
		}
		if weight == 0 {
			continue
		}
		if why == "" && b.idle {
			why = "none of its servers is ready"
		}
		if why != "" {
			to := backendRef(ref, rb)
			rule.Unusable = append(rule.Unusable, table.Unusable{Backend: to.Namespace + "/" + to.Name, Why: why, Weight: weight, Priority: rb.Priority})
			continue
		}
		cand := &table.Candidate{
			Backend: &b.Backend, Model: model, Weight: weight, Priority: rb.Priority, Bit: 1 << len(members),
		}
		members = append(members, member{cand, b.cluster, b.signals, b.injected, b.several, b.failOpen, b.steeredBy})
		rule.Candidates = append(rule.Candidates, cand)
	}
	if ok && len(members) == 0 && len(rule.Unusable) == 0 {
		c.errorf(ref, field+".backends", "every backend has weight 0, so nothing can serve the rule")
		ok = false
	}
	if !ok {
		return nil, nil
	}
	return rule, members
}

// match compiles one match of a rule.
func (c *compiler) match(ref source.ObjectRef, field string, spec *v1alpha1.RouteMatch, rule *table.Rule) (table.Match, bool) {
	m := table.Match{Method: spec.Method, Models: names(spec.Models), Labels: spec.ConsumerLabels}
	ok := true
	if spec.Path != nil {
		m.Path, m.PathExact = spec.Path.Value, spec.Path.Type == v1alpha1.PathExact
		if why := neverPath(m.Path); why != "" {
			c.errorf(ref, field+".path.value", "%s", why)
			ok = false
		}
	}
	values := func(list []v1alpha1.ValueMatch, kind string, fold bool) []table.ValueMatch {
		out := make([]table.ValueMatch, 0, len(list))
		for i, v := range list {
			vm := table.ValueMatch{Name: v.Name, Value: v.Value}
			if fold {
				vm.Name = strings.ToLower(v.Name)
				if strings.HasPrefix(vm.Name, "x-weir-") || strings.HasPrefix(vm.Name, "x-envoy-") {
					c.errorf(ref, fmt.Sprintf("%s.%s[%d].name", field, kind, i), "%s headers are removed at the door, so this match can never apply", vm.Name[:strings.Index(vm.Name[2:], "-")+3])
					ok = false
				}
			}
			if v.Type == v1alpha1.MatchRegularExpression {
				re, err := regexp.Compile(`\A(?:` + v.Value + `)\z`)
				if err != nil {
					c.errorf(ref, fmt.Sprintf("%s.%s[%d].value", field, kind, i), "not a regular expression: %v", err)
					ok = false
					continue
				}
				vm.Regexp = re
			}
			out = append(out, vm)
		}
		return out
	}
	m.Headers = values(spec.Headers, "headers", true)
	m.Query = values(spec.QueryParams, "queryParams", false)
	for i, name := range m.Models {
		if strings.Contains(name, "*") || rule.Capable(name, "") != 0 || len(rule.Unusable) > 0 {
			continue
		}
		c.unresolvedf(ref, fmt.Sprintf("%s.models[%d]", field, i), source.ReasonRefNotFound,
			"no backend of this rule serves the model %q; list it in a Backend, or give the backend of this rule a model", name)
		ok = ok && c.opts.Lenient // the match stays: its requests must not fall to a less specific rule
	}
	return m, ok
}

// variants makes the Envoy routes of a rule: for every set of its candidates that some request can have, one
// through composite clusters whose attempts ask Weir and, where Envoy can prepare them by itself, one that needs no further call.
func (c *compiler) variants(rule *table.Rule, members []member, spec *v1alpha1.RouteRule) {
	out := map[table.Mask]*table.Variant{}
	for _, mask := range slices.Sorted(slices.Values(rule.Masks(c.inboundDialects()))) {
		var in []member
		v := &table.Variant{}
		for _, m := range members {
			if mask&m.Bit != 0 {
				in = append(in, m)
				v.Candidates = append(v.Candidates, m.Candidate)
			}
		}
		attempts := int(spec.Retry.Attempts)
		if attempts == 0 {
			attempts = len(in)
			if attempts == 1 && in[0].several {
				attempts = 2 // a server of a steered pool that has just died fails no request
			}
		}
		keys := func(choice []member) (k table.Keys) {
			switch {
			case len(in) == 1 || attempts == 1:
				k.Direct = c.route(rule, spec, attempts, straight, choice, in, func(m member) string { return m.cluster })
			case alike(in):
				k.Direct = c.route(rule, spec, attempts, unasked, choice, in, func(m member) string {
					return c.directChain(order(m, in, attempts))
				})
			}
			k.Chain = c.route(rule, spec, attempts, asking, choice, in, func(m member) string {
				return c.chain(order(m, in, attempts))
			})
			return k
		}
		first := choices(in)
		all := keys(first)
		v.DirectKey, v.ChainKey = all.Direct, all.Chain
		if len(in) > 1 && len(first) == 1 {
			v.Order = candidates(order(first[0], in, attempts))
		}
		if slices.ContainsFunc(in, picked) {
			// Which backend a request goes to first is then Weir's choice, too: it knows what each could do now.
			v.First = make(map[*table.Candidate]table.Keys, len(in))
			for _, m := range in {
				k := keys([]member{m})
				k.Order = candidates(order(m, in, attempts))
				v.First[m.Candidate] = k
			}
		}
		out[mask] = v
	}
	rule.SetVariants(out)
}

func (c *compiler) inboundDialects() []string {
	var out []string
	for _, name := range c.opts.Dialects.Names() {
		if d, _ := c.opts.Dialects.Get(name); d.In != nil {
			out = append(out, name)
		}
	}
	return out
}

// picked says whether Weir picks the endpoints of a member.
func picked(m member) bool { return m.Backend.Pick != nil && m.Backend.Pick.Mode == pick.LeastLoad }

// steered says whether a LoadPolicy steers a member.
func steered(m member) bool { return m.Backend.Steered }

func lowestPriority(in []member) int32 {
	return slices.MinFunc(in, func(a, b member) int { return cmp.Compare(a.Priority, b.Priority) }).Priority
}

// choices are whom Envoy can choose from: the members of the lowest priority number, or all of them where one is steered, so
// that steering can move the load on to the next.
func choices(in []member) []member {
	if slices.ContainsFunc(in, steered) {
		return in
	}
	lowest := lowestPriority(in)
	return slices.DeleteFunc(slices.Clone(in), func(m member) bool { return m.Priority != lowest })
}

// order is who is asked when first is asked first: then the others by priority, then as written; from the start again
// until there are enough attempts.
func order(first member, in []member, attempts int) []member {
	rest := slices.DeleteFunc(slices.Clone(in), func(m member) bool { return m.Candidate == first.Candidate })
	slices.SortStableFunc(rest, func(a, b member) int { return int(a.Priority - b.Priority) })
	once := append([]member{first}, rest...)
	out := make([]member, attempts)
	for i := range out {
		out[i] = once[i%len(once)]
	}
	return out
}

func candidates(list []member) (out []*table.Candidate) {
	for _, m := range list {
		out = append(out, m.Candidate)
	}
	return out
}

// chain makes the composite cluster that tries members in this order, where each attempt asks Weir, and returns its name. Rules
// share chains.
func (c *compiler) chain(members []member) string {
	parts := make([][]byte, 0, 2*len(members))
	t := &table.Chain{}
	for _, m := range members {
		parts = append(parts, []byte(m.cluster), []byte(m.Model))
		// Not that of the rule, which is one of several that may share the chain.
		t.Candidates = append(t.Candidates, &table.Candidate{Backend: m.Backend, Model: m.Model})
	}
	name := "chain/" + short(parts...)
	if made, ok := c.chains.m.Lookup(name); ok {
		alike := func(a, b *table.Candidate) bool { return a.Backend.ID == b.Backend.ID && a.Model == b.Model }
		same := func(a, b *table.Candidate) bool { return a.Backend == b.Backend && a.Model == b.Model }
		switch {
		case !slices.EqualFunc(made.Candidates, t.Candidates, alike):
			c.errorf(source.ObjectRef{}, "", "two chains of backends have the name %s; change the order or the model of a backend in a rule that uses %s", name, t.Candidates[0].Backend.ID)
			fallthrough
		case slices.EqualFunc(made.Candidates, t.Candidates, same):
			c.chains.share(c, name)
			c.clusters.share(c, name)
			return name
		}
	}
	t.Name = name
	c.chains.put(c, name, t, digestOf(name))
	putMessage(c, c.clusters, name, composite(name, "chain", members, c.chainFilters(members)))
	return name
}

// composite makes the cluster that asks the cluster of one member after another: the n-th attempt asks the n-th. The filters of attempts
// are its own, those of the members' clusters do not run; how HTTP is spoken is theirs.
func composite(name, stat string, members []member, filters []*hcmv3.HttpFilter) *clusterv3.Cluster {
	config := &compositev3.ClusterConfig{}
	for _, m := range members {
		config.Clusters = append(config.Clusters, &compositev3.ClusterConfig_ClusterEntry{Name: m.cluster})
	}
	return &clusterv3.Cluster{
		Name:           name,
		AltStatName:    stat,
		ConnectTimeout: durationpb.New(5 * time.Second),
		LbPolicy:       clusterv3.Cluster_CLUSTER_PROVIDED,
		ClusterDiscoveryType: &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{
			Name: "envoy.clusters.composite", TypedConfig: pack(config),
		}},
		CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
			MaxConnections: wrapperspb.UInt32(noLimit), MaxPendingRequests: wrapperspb.UInt32(noLimit),
			MaxRequests: wrapperspb.UInt32(noLimit), MaxRetries: wrapperspb.UInt32(noLimit),
		}}},
		TypedExtensionProtocolOptions: map[string]*anypb.Any{
			httpOptionsKey: pack(httpOptions(v1alpha1.ProtocolHTTP1, false, filters)),
		},
	}
}

// how is how the attempts of a route reach their backends.
type how uint8

const (
	asking   how = iota // through a chain that asks Weir about each
	unasked             // through a chain that Envoy prepares them for by itself
	straight            // to the cluster of one backend
)

// route makes one Envoy route and returns its key. Envoy chooses one of choice; in are all whom that may lead to.
func (c *compiler) route(rule *table.Rule, spec *v1alpha1.RouteRule, attempts int, by how, choice, in []member, cluster func(member) string) string {
	r := newRoute(rule, spec, attempts, by, choice, in, cluster)
	if by != asking {
		c.passUnasked(r)
	}
	return c.keep(rule, r, choice)
}

func newRoute(rule *table.Rule, spec *v1alpha1.RouteRule, attempts int, by how, choice, in []member, cluster func(member) string) *routev3.Route {
	weighted := &routev3.WeightedCluster{}
	lowest := lowestPriority(choice)
	for _, m := range choice {
		w := &routev3.WeightedCluster_ClusterWeight{Name: cluster(m), Weight: wrapperspb.UInt32(m.Weight)}
		if m.Priority != lowest {
			w.Weight.Value = 0 // until steering says otherwise
		}
		if by == straight {
			w.HostRewriteSpecifier = &routev3.WeightedCluster_ClusterWeight_HostRewriteLiteral{HostRewriteLiteral: m.Backend.Host}
		}
		weighted.Clusters = append(weighted.Clusters, w)
	}
	action := &routev3.RouteAction{
		ClusterSpecifier: &routev3.RouteAction_WeightedClusters{WeightedClusters: weighted},
		Timeout:          durationpb.New(rule.Timeout),
		RetryPolicy:      retryPolicy(spec, attempts),
	}
	if by == straight && attempts > 1 {
		// In a pool, not the endpoint that has just failed. A chain names the backend of each attempt.
		action.RetryPolicy.RetryHostPredicate = []*routev3.RetryPolicy_RetryHostPredicate{{
			Name:       "envoy.retry_host_predicates.previous_hosts",
			ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: pack(&previoushostsv3.PreviousHostsPredicate{})},
		}}
		action.RetryPolicy.HostSelectionRetryMaxAttempts = hostReselections
	}
	if by == unasked {
		// That of the endpoint, of each attempt anew.
		action.HostRewriteSpecifier = &routev3.RouteAction_AutoHostRewrite{AutoHostRewrite: wrapperspb.Bool(true)}
	}
	if by != asking {
		action.PathRewrite = "%CLUSTER_METADATA(" + wire.BackendNamespace + ":" + wire.KeyBase + ")%%REQ(" + wire.PathHeader + ")%"
	}
	return &routev3.Route{
		Name:   rule.Name,
		Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_Route{Route: action},

		TypedPerFilterConfig: countAs(in),
	}
}

// keep makes a route one of the version's, and returns its key.
func (c *compiler) keep(rule *table.Rule, r *routev3.Route, choice []member) string {
	key := rule.Name + keySeparator + short(withoutWeights(r))
	if c.routing.kept[key] {
		return key // a Backend is there twice, with another weight: the first counts
	}
	c.routing.kept[key] = true
	putMessage(c, c.entries, key, r)
	if len(choice) > 1 && slices.ContainsFunc(choice, steered) {
		s := SteeredRoute{}
		for _, m := range choice {
			s.Members = append(s.Members, SteeredMember{m.Backend.ID, m.Weight, m.Priority})
		}
		c.steered.put(c, key, s, digestOf(key, asJSON(s)))
	}
	return key
}

// withoutWeights is a route as its key sees it: a changed weight is no other route. Nobody else has the route yet.
func withoutWeights(r *routev3.Route) []byte {
	clusters := r.GetRoute().GetWeightedClusters().GetClusters()
	weights := make([]*wrapperspb.UInt32Value, len(clusters))
	for i, w := range clusters {
		weights[i], w.Weight = w.Weight, nil
	}
	content := deterministic(r)
	for i, w := range clusters {
		w.Weight = weights[i]
	}
	return content
}

// retryPolicy says which failures lead to the next attempt.
func retryPolicy(spec *v1alpha1.RouteRule, attempts int) *routev3.RetryPolicy {
	p := &routev3.RetryPolicy{NumRetries: wrapperspb.UInt32(uint32(max(attempts-1, 0)))}
	if d := duration(spec.Timeouts.FirstByte); d > 0 {
		// Envoy ignores it once the answer has begun to reach the caller.
		p.PerTryTimeout = durationpb.New(d)
	}
	p.RetryBackOff = &routev3.RetryPolicy_RetryBackOff{
		BaseInterval: durationpb.New(retryBase), MaxInterval: durationpb.New(retryMax),
	}
	var on []string
	for _, cond := range spec.Retry.Conditions {
		switch cond {
		case v1alpha1.RetryConnectFailure:
			reset := "reset"
			if p.PerTryTimeout != nil && !slices.Contains(spec.Retry.Conditions, v1alpha1.RetryTimeout) {
				reset = "reset-before-request" // to Envoy, the end of an attempt's time is a reset too
			}
			on = append(on, "connect-failure", "refused-stream", reset)
		case v1alpha1.RetryServerError:
			for status := uint32(500); status < 600; status++ {
				p.RetriableStatusCodes = append(p.RetriableStatusCodes, status)
			}
		case v1alpha1.RetryRateLimited:
			p.RetriableStatusCodes = append(p.RetriableStatusCodes, 429)
		case v1alpha1.RetryUnauthorized:
			p.RetriableStatusCodes = append(p.RetriableStatusCodes, 401, 402, 403)
		case v1alpha1.RetryTimeout:
			// To Envoy the end of an attempt's time is a reset, and so is a refused connection.
			on = append(on, "connect-failure", "refused-stream", "reset")
		}
	}
	if len(p.RetriableStatusCodes) > 0 {
		on = append(on, "retriable-status-codes")
	}
	slices.Sort(on)
	p.RetryOn = strings.Join(slices.Compact(on), ",")
	return p
}
