package serve

import (
	"fmt"
	"maps"
	"math"
	"net"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/xds/compile"
)

// Overlay is what steering says of what is served: weights and health of endpoints, and how routes divide requests. It
// changes these in whatever versions are served, without being one. The zero value changes nothing.
//
// Nothing in it may be changed once it was given to Steer. What is said of a cluster again is cheapest as the same message:
// then it is not even looked at.
type Overlay struct {
	// Serial names the overlay to Options.Steered.
	Serial uint64
	// Endpoints by cluster. Weight and health of each endpoint are taken from here, where it is an endpoint of what is
	// served, and all else from there; a weight of 0, which Envoy does not have, makes it unhealthy. Where both have the
	// same addresses, localities, priorities and the policy are taken from here too. Clusters that are not served
	// are ignored.
	Endpoints map[string]*endpointv3.ClusterLoadAssignment
	// Weights by route key, one for each of the route's weighted clusters in their order. Their sum must not be 0 nor
	// exceed 32 bits: else the route keeps its own, as it does where their number is not the route's.
	// Keys that are not served are ignored.
	Weights map[string][]uint32
}

// served is what Envoy is to have: the union of versions, and what an overlay makes of it.
type served struct {
	union     *union
	steered   map[string]steered  // by cluster, of those that the overlay speaks of
	weights   map[string][]uint32 // by route, of those where they are not the route's own
	routes    bool                // the overlay speaks of some route
	bad       map[string]string   // by route, why the overlay's weights cannot be used
	resources [types.UnknownType]cachev3.Resources
	hashes    map[string]map[string]string // by type and name
}

// steered is an endpoint resource, and what it was made from.
type steered struct {
	from *endpointv3.ClusterLoadAssignment // the overlay's
	made *endpointv3.ClusterLoadAssignment
	hash string
}

// compose makes what is to be served of a union and an overlay, which may be nil. before is what was served until now, or
// nil: what has not changed since is not made again. Resources that are not as before, all of them where the union is
// another one, are labelled with the label.
func compose(u *union, o *Overlay, before *served, label label) (*served, error) {
	if o == nil {
		o = &Overlay{}
	}
	s := &served{union: u, steered: map[string]steered{}, weights: map[string][]uint32{}, bad: map[string]string{}}
	if before == nil || before.union != u {
		before = &served{union: u, resources: u.resources, hashes: u.hashes}
		for i := range before.resources {
			before.resources[i].Version = label.plain()
		}
		// What steering may have changed says so, in case Envoy refuses it.
		before.resources[types.Endpoint].Version = label.String()
		before.resources[types.Route].Version = label.String()
	}
	s.resources, s.hashes = before.resources, maps.Clone(before.hashes)
	if err := s.steer(o, before, label); err != nil {
		return nil, err
	}
	if err := s.reweigh(o, before, label); err != nil {
		return nil, err
	}
	return s, nil
}

// steer makes the endpoints.
func (s *served) steer(o *Overlay, before *served, label label) error {
	items, hashes := s.resources[types.Endpoint].Items, s.hashes[resourcev3.EndpointType]
	changed := false
	put := func(name string, made *endpointv3.ClusterLoadAssignment, hash string) {
		if hashes[name] == hash {
			return
		}
		if !changed { // Envoy's stream may be reading the old ones
			changed = true
			items, hashes = maps.Clone(items), maps.Clone(hashes)
		}
		items[name], hashes[name] = types.ResourceWithTTL{Resource: made}, hash
	}
	for name, from := range o.Endpoints {
		own := s.union.endpoints[name]
		if own == nil || from == nil {
			continue
		}
		is, ok := before.steered[name]
		if !ok || is.from != from {
			is = steered{from: from, made: merge(own, from)}
			var err error
			if is.hash, err = hash(is.made); err != nil {
				return fmt.Errorf("endpoints of %s: %w", name, err)
			}
		}
		s.steered[name] = is
		put(name, is.made, is.hash)
	}
	for name := range before.steered {
		if _, still := s.steered[name]; !still {
			put(name, s.union.endpoints[name], s.union.hashes[resourcev3.EndpointType][name])
		}
	}
	if changed {
		s.resources[types.Endpoint] = cachev3.Resources{Version: label.String(), Items: items}
		s.hashes[resourcev3.EndpointType] = hashes
	}
	return nil
}

// reweigh makes the routes.
func (s *served) reweigh(o *Overlay, before *served, label label) error {
	for key, weights := range o.Weights {
		r := s.union.routes[key]
		if r == nil {
			continue
		}
		own := r.GetRoute().GetWeightedClusters().GetClusters()
		if reason := unusable(weights, len(own)); reason != "" {
			s.bad[key] = reason
			continue
		}
		s.routes = true
		if !slices.EqualFunc(own, weights, func(c *routev3.WeightedCluster_ClusterWeight, w uint32) bool {
			return c.GetWeight().GetValue() == w
		}) {
			s.weights[key] = weights
		}
	}
	if maps.EqualFunc(s.weights, before.weights, slices.Equal) {
		return nil
	}
	own := s.union.routing()
	if own == nil {
		return nil
	}
	made, version := own, s.union.hashes[resourcev3.RouteType][compile.RouteConfigName]
	if len(s.weights) > 0 {
		made = s.routing(own)
		var err error
		if version, err = hash(made); err != nil {
			return fmt.Errorf("routes: %w", err)
		}
	}
	s.resources[types.Route] = cachev3.Resources{
		Version: label.String(),
		Items:   map[string]types.ResourceWithTTL{compile.RouteConfigName: {Resource: made}},
	}
	s.hashes[resourcev3.RouteType] = map[string]string{compile.RouteConfigName: version}
	return nil
}

// unusable says why weights cannot be those of a route with so many clusters; "" where they can.
func unusable(weights []uint32, clusters int) string {
	if len(weights) != clusters {
		return fmt.Sprintf("there are %d weights for %d backends", len(weights), clusters)
	}
	sum := uint64(0)
	for _, w := range weights {
		sum += uint64(w)
	}
	switch {
	case sum == 0:
		return "all weights are 0"
	case sum > math.MaxUint32:
		return fmt.Sprintf("the weights have the sum %d, and Envoy takes %d at most", sum, uint32(math.MaxUint32))
	}
	return ""
}

// routing is the route configuration with the routes that have other weights. The others are not packed again: they
// are taken from own as they are.
func (s *served) routing(own *routev3.RouteConfiguration) *routev3.RouteConfiguration {
	other := make(map[string]*routev3.Route, len(s.weights))
	for key, weights := range s.weights {
		r := proto.CloneOf(s.union.routes[key])
		for i, c := range r.GetRoute().GetWeightedClusters().GetClusters() {
			c.Weight = wrapperspb.UInt32(weights[i])
		}
		other[key] = r
	}
	made := compile.RouteConfiguration(other, s.union.maxBody)
	made.GetVirtualHosts()[0].GetMatcher().OnNoMatch = own.GetVirtualHosts()[0].GetMatcher().GetOnNoMatch()
	into := made.GetVirtualHosts()[0].GetMatcher().GetMatcherTree().GetExactMatchMap().GetMap()
	for key, entry := range own.GetVirtualHosts()[0].GetMatcher().GetMatcherTree().GetExactMatchMap().GetMap() {
		if _, changed := into[key]; !changed {
			into[key] = entry
		}
	}
	return made
}

// hash is the version of a resource, as the cache has it.
func hash(m proto.Message) (string, error) {
	b, err := cachev3.MarshalResource(m)
	if err != nil {
		return "", err
	}
	return cachev3.HashResource(b), nil
}

// merge gives the endpoints of a version the weights and the health that an overlay says. Of the version's message parts
// are used as they are.
func merge(own, say *endpointv3.ClusterLoadAssignment) *endpointv3.ClusterLoadAssignment {
	said := map[string]*endpointv3.LbEndpoint{}
	for _, group := range say.GetEndpoints() {
		for _, e := range group.GetLbEndpoints() {
			said[addressOf(e)] = e
		}
	}
	known := make(map[string]*endpointv3.LbEndpoint, len(said))
	same := true
	for _, group := range own.GetEndpoints() {
		for _, e := range group.GetLbEndpoints() {
			address := addressOf(e)
			known[address] = e
			same = same && said[address] != nil
		}
	}
	same = same && len(known) == len(said)

	out := &endpointv3.ClusterLoadAssignment{ClusterName: own.GetClusterName(), NamedEndpoints: own.GetNamedEndpoints(), Policy: own.GetPolicy()}
	arrangement := own
	if same {
		arrangement = say
		if say.GetPolicy() != nil {
			out.Policy = say.GetPolicy()
		}
	}
	for _, group := range arrangement.GetEndpoints() {
		g := &endpointv3.LocalityLbEndpoints{
			Locality: group.GetLocality(), Metadata: group.GetMetadata(), LoadBalancingWeight: group.GetLoadBalancingWeight(),
			Priority: group.GetPriority(), Proximity: group.GetProximity(), LbConfig: group.GetLbConfig(),
		}
		for _, e := range group.GetLbEndpoints() {
			address := addressOf(e)
			g.LbEndpoints = append(g.LbEndpoints, weighed(known[address], said[address]))
		}
		out.Endpoints = append(out.Endpoints, g)
	}
	return out
}

// weighed is an endpoint with the weight and the health that are said of it; say may be nil.
func weighed(own, say *endpointv3.LbEndpoint) *endpointv3.LbEndpoint {
	if say == nil {
		return own
	}
	out := &endpointv3.LbEndpoint{
		HostIdentifier: own.GetHostIdentifier(), Metadata: own.GetMetadata(),
		HealthStatus: say.GetHealthStatus(), LoadBalancingWeight: own.GetLoadBalancingWeight(),
	}
	switch w := say.GetLoadBalancingWeight(); {
	case w == nil:
	case w.GetValue() == 0:
		out.LoadBalancingWeight = wrapperspb.UInt32(1)
		out.HealthStatus = corev3.HealthStatus_UNHEALTHY
	default:
		out.LoadBalancingWeight = w
	}
	return out
}

// addressOf tells the endpoints of a cluster apart.
func addressOf(e *endpointv3.LbEndpoint) string {
	a := e.GetEndpoint().GetAddress()
	if s := a.GetSocketAddress(); s != nil {
		if name := s.GetNamedPort(); name != "" {
			return net.JoinHostPort(s.GetAddress(), name)
		}
		return wire.Address(s)
	}
	if p := a.GetPipe(); p != nil {
		return p.GetPath()
	}
	return e.GetEndpointName()
}
